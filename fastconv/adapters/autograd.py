"""HIPS autograd on fastconv: convolution and pooling that autograd differentiates, to any order, both ways.

In place of ``autograd.scipy.signal.convolve``, change the one line that names it:

>>> from fastconv.adapters.autograd import convolve

or leave the program as it is, and put it there before the program asks for it:

>>> import fastconv.adapters.autograd
>>> with fastconv.adapters.autograd.installed():
...     from autograd.scipy.signal import convolve

The other functions are fastconv's own, with its argument names (all but ``out``), for code that autograd
differentiates. Gradients come by `fastconv`'s backward passes, and theirs by the same passes again:
a convolution is linear in its input and in its weight, pooling in its input once the maxima are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

import fastconv
from fastconv.adapters.installation import Installation, Replacement, host_module, require_parameters
from fastconv.annotations import AlgorithmName, Layout1d, Layout2d, Layout3d
from fastconv.arguments import Array, Size, flag
from fastconv.dimensions import CHANNELS_FIRST, Dimensions, Layout

if TYPE_CHECKING:
    from fastconv.dimensions import __class__  # noqa: F401

__all__ = [
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolve",
    "install",
    "installed",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "uninstall",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

extend = host_module("autograd.extend")
signal = host_module("autograd.scipy.signal")
_host_convolve = signal.convolve


def _primitive(function: _Function) -> _Function:
    """autograd's `primitive`, which keeps the type."""
    return extend.primitive(function)


# --- linear and bilinear maps, and their derivatives of any order ----------------------------------------


class _Linear(NamedTuple):
    """A linear map of plain arrays, and its adjoint."""

    forward: Callable[[Array], Array]
    adjoint: Callable[[Array], Array]


@_primitive
def _mapped(x: Any, linear: _Linear) -> Any:
    return linear.forward(x)


@_primitive
def _mapped_back(y: Any, linear: _Linear) -> Any:
    return linear.adjoint(y)


extend.defvjp(_mapped, lambda ans, x, linear: lambda dy: _mapped_back(dy, linear))
extend.defvjp(_mapped_back, lambda ans, y, linear: lambda dx: _mapped(dx, linear))
extend.def_linear(_mapped)
extend.def_linear(_mapped_back)


class _Bilinear(NamedTuple):
    """The three passes of a convolution on plain arrays, each linear in both of its arrays.

    With ``<dy, forward(x, w)> = <x, backward_input(dy, w)> = <w, backward_weight(dy, x)>``, the gradients of
    each are the other two.
    """

    forward: Callable[..., Array]  # (x, w, bias) -> y
    backward_input: Callable[[Array, Array], Array]  # (dy, w) -> dx
    backward_weight: Callable[[Array, Array], Array]  # (dy, x) -> dw
    backward_bias: Callable[[Array], Array] | None = None
    bias_size: Size = ()  # with which a bias broadcasts against the output


@_primitive
def _forward(x: Any, w: Any, b: Any, passes: _Bilinear) -> Any:
    return passes.forward(x, w, b)


@_primitive
def _backward_input(dy: Any, w: Any, passes: _Bilinear) -> Any:
    return passes.backward_input(dy, w)


@_primitive
def _backward_weight(dy: Any, x: Any, passes: _Bilinear) -> Any:
    return passes.backward_weight(dy, x)


@_primitive
def _backward_bias(dy: Any, passes: _Bilinear) -> Any:
    assert passes.backward_bias is not None
    return passes.backward_bias(dy)


@_primitive
def _forward_bias(b: Any, output_size: Size, passes: _Bilinear) -> Any:
    return np.broadcast_to(np.reshape(b, passes.bias_size), output_size)


extend.defvjp(
    _forward,
    lambda y, x, w, b, passes: lambda dy: _backward_input(dy, w, passes),
    lambda y, x, w, b, passes: lambda dy: _backward_weight(dy, x, passes),
    lambda y, x, w, b, passes: lambda dy: _backward_bias(dy, passes),
)
extend.defvjp(
    _backward_input,
    lambda dx, dy, w, passes: lambda x: _forward(x, w, None, passes),
    lambda dx, dy, w, passes: lambda x: _backward_weight(dy, x, passes),
)
extend.defvjp(
    _backward_weight,
    lambda dw, dy, x, passes: lambda w: _forward(x, w, None, passes),
    lambda dw, dy, x, passes: lambda w: _backward_input(dy, w, passes),
)
extend.defvjp(_backward_bias, lambda db, dy, passes: lambda b: _forward_bias(b, np.shape(dy), passes))
extend.defvjp(_forward_bias, lambda y, b, size, passes: lambda dy: _backward_bias(dy, passes))

extend.defjvp(
    _forward,
    lambda dx, y, x, w, b, passes: _forward(dx, w, None, passes),
    lambda dw, y, x, w, b, passes: _forward(x, dw, None, passes),
    lambda db, y, x, w, b, passes: _forward_bias(db, np.shape(y), passes),
)
for _linear_in_all in (_backward_input, _backward_weight, _backward_bias, _forward_bias):
    extend.def_linear(_linear_in_all)


# --- convolution -----------------------------------------------------------------------------------------


def _channels_last(layout: str) -> bool:
    return layout.endswith("C")


def _unread(size: Size, like: Array) -> Array:
    """Stands for an array whose sizes a pass needs, and whose cells it does not."""
    return np.broadcast_to(np.zeros((), np.asarray(like).dtype), size)


def _convolution(name: str, ndim: int, input: Any, weight: Any, bias: Any, **arguments: Any) -> Any:
    """The function of `fastconv` of this name for so many dimensions, differentiable."""
    forward, backward = getattr(fastconv, f"{name}{ndim}d"), getattr(fastconv, f"{name}{ndim}d_backward")
    input_size, weight_size = np.shape(input), np.shape(weight)

    def backward_input(dy: Array, w: Array) -> Array:
        return backward(dy, _unread(input_size, dy), w, needs=("input",), **arguments).input

    def backward_weight(dy: Array, x: Array) -> Array:
        return backward(dy, x, _unread(weight_size, dy), needs=("weight",), **arguments).weight

    def backward_bias(dy: Array) -> Array:
        x, w = _unread(input_size, dy), _unread(weight_size, dy)
        return backward(dy, x, w, needs=("bias",), **arguments).bias

    bias_size = (-1,) if _channels_last(arguments["layout"]) else (-1, *[1] * ndim)
    passes = _Bilinear(
        partial(forward, **arguments), backward_input, backward_weight, backward_bias, bias_size
    )
    return _forward(input, weight, bias, passes)


# --- pooling ---------------------------------------------------------------------------------------------


# Not followed by autograd, which hands over its input as a plain array.
_maxima_and_indices = {
    ndim: extend.notrace_primitive(partial(getattr(fastconv, f"max_pool{ndim}d"), return_indices=True))
    for ndim in (1, 2, 3)
}


@_primitive
def _maxima(x: Any, maxima: Array, at_maxima: _Linear) -> Any:
    """The cells of ``x`` that are known to be the maxima."""
    return maxima


extend.defvjp(_maxima, lambda y, x, maxima, at_maxima: lambda dy: _mapped_back(dy, at_maxima))
extend.defjvp(_maxima, lambda dx, y, x, maxima, at_maxima: _mapped(dx, at_maxima))


def _max_pooling(ndim: int, input: Any, return_indices: bool, **windows: Any) -> Any:
    if not isinstance(input, extend.Box):
        return getattr(fastconv, f"max_pool{ndim}d")(input, return_indices=return_indices, **windows)
    flag("return_indices", return_indices)
    maxima, indices = _maxima_and_indices[ndim](input, **windows)
    output = _maxima(input, maxima, _at_indices(ndim, indices, np.shape(input), windows["layout"]))
    return (output, indices) if return_indices else output


def _at_indices(ndim: int, indices: Array, input_size: Size, layout: str) -> _Linear:
    """From an input to its cells at the indices; back, the cells add up where they came from."""
    scatter = getattr(fastconv, f"max_pool{ndim}d_backward")
    gather = getattr(fastconv, f"max_unpool{ndim}d_backward")
    channel = -ndim - 1

    def forward(x: Array) -> Array:
        if not _channels_last(layout):
            return gather(x, indices)
        cells = gather(np.moveaxis(x, -1, channel), np.moveaxis(indices, -1, channel))
        return np.moveaxis(cells, channel, -1)

    return _Linear(forward, partial(scatter, indices=indices, input_size=input_size, layout=layout))


def _avg_pooling(ndim: int, input: Any, **windows: Any) -> Any:
    forward = partial(getattr(fastconv, f"avg_pool{ndim}d"), **windows)
    adjoint = partial(getattr(fastconv, f"avg_pool{ndim}d_backward"), input_size=np.shape(input), **windows)
    return _mapped(input, _Linear(forward, adjoint))


# --- the functions -------------------------------------------------------------------------------------


class Differentiable(Dimensions[Layout]):
    """The functions for images; those for each number of dimensions are made of them below."""

    @staticmethod
    def conv_nd(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *,
        layout: Layout = CHANNELS_FIRST,
        algorithm: AlgorithmName = "auto",
    ) -> Any:
        """`fastconv.conv2d` for autograd: cross-correlation, differentiable in input, weight and bias.

        Parameters
        ----------
        input, weight, bias, stride, padding, dilation, groups, layout, algorithm
            As in `fastconv.conv2d`; the first three may be what autograd differentiates by.

        Returns
        -------
        array
            As `fastconv.conv2d`.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import autograd.numpy as np
        >>> from autograd import grad
        >>> from fastconv.adapters import autograd as fast

        >>> image, edge = np.arange(16.0).reshape(1, 1, 4, 4), np.array([[[[-1.0, 1.0]]]])
        >>> grad(lambda weight: np.sum(fast.conv2d(image, weight) ** 2) / 2)(edge)
        array([[[[84., 96.]]]])

        >>> signal, edge = np.array([[[1.0, 2.0, 4.0]]]), np.array([[[-1.0, 1.0]]])
        >>> grad(lambda weight: np.sum(fast.conv1d(signal, weight) ** 2) / 2)(edge)
        array([[[ 5., 10.]]])

        >>> volume, weight = np.ones((1, 1, 3, 3, 3)), np.ones((1, 1, 2, 2, 2))
        >>> grad(lambda weight: np.sum(fast.conv3d(volume, weight)))(weight).ravel()
        array([8., 8., 8., 8., 8., 8., 8., 8.])
        """
        steps = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        return _convolution(
            "conv", __class__.ndim, input, weight, bias, **steps, layout=layout, algorithm=algorithm
        )

    @staticmethod
    def conv_transpose_nd(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
        *,
        layout: Layout = CHANNELS_FIRST,
        algorithm: AlgorithmName = "auto",
    ) -> Any:
        """`fastconv.conv_transpose2d` for autograd, differentiable in input, weight and bias.

        Parameters
        ----------
        input, weight, bias, stride, padding, output_padding, groups, dilation, layout, algorithm
            As in `fastconv.conv_transpose2d`; the first three may be what autograd differentiates by.

        Returns
        -------
        array
            As `fastconv.conv_transpose2d`.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import autograd.numpy as np
        >>> from autograd import grad
        >>> from fastconv.adapters import autograd as fast

        >>> image, weight = np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2))
        >>> grad(lambda image: np.sum(fast.conv_transpose2d(image, weight, stride=2)))(image)[0, 0]
        array([[4., 4.],
               [4., 4.]])

        >>> signal, weight = np.ones((1, 1, 2)), np.ones((1, 1, 2))
        >>> grad(lambda signal: np.sum(fast.conv_transpose1d(signal, weight, stride=2)))(signal)
        array([[[2., 2.]]])

        >>> volume, weight = np.ones((1, 1, 1, 1, 2)), np.ones((1, 1, 2, 2, 2))
        >>> grad(lambda volume: np.sum(fast.conv_transpose3d(volume, weight, stride=2)))(volume)
        array([[[[[8., 8.]]]]])
        """
        steps = dict(
            stride=stride, padding=padding, output_padding=output_padding, groups=groups, dilation=dilation
        )
        return _convolution(
            "conv_transpose", __class__.ndim, input, weight, bias, **steps, layout=layout, algorithm=algorithm
        )

    @staticmethod
    def max_pool_nd(
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
        *,
        layout: Layout = CHANNELS_FIRST,
    ) -> Any:
        """`fastconv.max_pool2d` for autograd.

        A gradient goes to the first maximum of each window, as in `fastconv.max_pool2d_backward` (autograd's
        own ``max`` shares it out among equals).

        Parameters
        ----------
        input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, layout
            As in `fastconv.max_pool2d`; the input may be what autograd differentiates by.

        Returns
        -------
        output : array
            As `fastconv.max_pool2d`.
        indices : int64 array, only with ``return_indices``
            Constants to autograd.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import autograd.numpy as np
        >>> from autograd import grad
        >>> from fastconv.adapters import autograd as fast

        >>> image = np.array([[[4.0, 1.0, 2.0], [3.0, 0.0, 5.0]]])
        >>> grad(lambda image: np.sum(fast.max_pool2d(image, 2)))(image)
        array([[[1., 0., 0.],
                [0., 0., 0.]]])

        >>> grad(lambda signal: np.sum(fast.max_pool1d(signal, 2)))(np.array([[4.0, 1.0, 2.0]]))
        array([[1., 0., 0.]])

        >>> volume = np.arange(8.0).reshape(1, 2, 2, 2)
        >>> grad(lambda volume: np.sum(fast.max_pool3d(volume, 2)))(volume).ravel()
        array([0., 0., 0., 0., 0., 0., 0., 1.])
        """
        windows = dict(
            kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
        )
        return _max_pooling(__class__.ndim, input, return_indices, **windows, layout=layout)

    @staticmethod
    def avg_pool_nd(
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        layout: Layout = CHANNELS_FIRST,
    ) -> Any:
        """`fastconv.avg_pool2d` for autograd.

        Parameters
        ----------
        input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, layout
            As in `fastconv.avg_pool2d`; the input may be what autograd differentiates by.

        Returns
        -------
        array
            As `fastconv.avg_pool2d`.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import autograd.numpy as np
        >>> from autograd import grad
        >>> from fastconv.adapters import autograd as fast

        >>> grad(lambda image: np.sum(fast.avg_pool2d(image, 2)))(np.ones((1, 2, 3)))
        array([[[0.25, 0.25, 0.  ],
                [0.25, 0.25, 0.  ]]])

        >>> grad(lambda signal: np.sum(fast.avg_pool1d(signal, 2)))(np.ones((1, 3)))
        array([[0.5, 0.5, 0. ]])

        >>> grad(lambda volume: np.sum(fast.avg_pool3d(volume, (1, 1, 2))))(np.ones((1, 1, 1, 3)))
        array([[[[0.5, 0.5, 0. ]]]])
        """
        windows = dict(
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            divisor_override=divisor_override,
        )
        return _avg_pooling(__class__.ndim, input, **windows, layout=layout)


class _1d(Differentiable[Layout1d], ndim=1): ...


class _2d(Differentiable[Layout2d], ndim=2): ...


class _3d(Differentiable[Layout3d], ndim=3): ...


conv1d = _1d.conv_nd
conv2d = _2d.conv_nd
conv3d = _3d.conv_nd
conv_transpose1d = _1d.conv_transpose_nd
conv_transpose2d = _2d.conv_transpose_nd
conv_transpose3d = _3d.conv_transpose_nd
max_pool1d = _1d.max_pool_nd
max_pool2d = _2d.max_pool_nd
max_pool3d = _3d.max_pool_nd
avg_pool1d = _1d.avg_pool_nd
avg_pool2d = _2d.avg_pool_nd
avg_pool3d = _3d.avg_pool_nd


# --- autograd.scipy.signal.convolve ----------------------------------------------------------------------


CACHED_CONVOLUTIONS = 256

# What a convolution of n cells with m gives.
_CONVOLVED: dict[str, Callable[[int, int], int]] = {
    "full": lambda n, m: n + m - 1,
    "valid": lambda n, m: abs(n - m) + 1,
    "same": lambda n, m: n,
}


@dataclass(frozen=True)
class _Axes:
    """Which axes of an array of the host's are the engine's first one, its second one, and space."""

    shape: Size
    first: Size
    second: Size
    spatial: Size

    def extents(self, axes: Size) -> Size:
        return tuple(self.shape[axis] for axis in axes)

    @cached_property
    def order(self) -> Size:
        return self.first + self.second + self.spatial

    @cached_property
    def engine_size(self) -> Size:
        return (prod(self.extents(self.first)), prod(self.extents(self.second)), *self.extents(self.spatial))

    @cached_property
    def _back(self) -> tuple[Size, Size]:
        """The host's extents in the engine's order, and where its axes stand in that."""
        return self.extents(self.order), tuple(np.argsort(self.order).tolist())

    def to_engine(self, array: Array) -> Array:
        """``(first, second, *spatial)``; a view where first and second are one axis each."""
        return array.transpose(self.order).reshape(self.engine_size)

    def to_host(self, array: Array) -> Array:
        """The inverse."""
        extents, order = self._back
        return array.reshape(extents).transpose(order)


def _operand(shape: Size, convolved: Size, summed: Size) -> _Axes:
    """The axes of an operand: those kept (images or filters), those summed over (channels), space."""
    kept = tuple(axis for axis in range(len(shape)) if axis not in convolved + summed)
    return _Axes(shape, kept, summed, convolved)


def _is_served(a: _Axes, b: _Axes, mode: str, dtype: np.dtype[Any]) -> bool:
    """Whether the engine can do it. What it can't, mistakes too, is the host's."""
    if any(sorted(x.order) != list(range(len(x.shape))) or 0 in x.shape for x in (a, b)):
        return False
    pairs = list(zip(a.extents(a.spatial), b.extents(b.spatial), strict=False))
    return (
        mode in _CONVOLVED
        and dtype.char in "efd"
        and 1 <= len(a.spatial) == len(b.spatial) <= 3
        and a.extents(a.second) == b.extents(b.second)
        and (mode != "valid" or all(n >= m for n, m in pairs) or all(n <= m for n, m in pairs))
    )


# A call of a few cells takes 12 us with the cache and 38 without (the host's own 15 to 22; AVX-512 Xeon).
@lru_cache(CACHED_CONVOLUTIONS)
def _convolve_passes(
    shapes: tuple[Size, Size],
    convolved: tuple[Size, Size],
    summed: tuple[Size, Size],
    mode: str,
    dtype: np.dtype[Any],
) -> _Bilinear | None:
    """The host's convolve as a convolution of images with filters; None where that is left to the host."""
    a, b = (_operand(*parts) for parts in zip(shapes, convolved, summed, strict=True))
    if not _is_served(a, b, mode, dtype):
        return None
    space = tuple(map(_CONVOLVED[mode], a.extents(a.spatial), b.extents(b.spatial)))
    shape = (*a.extents(a.first), *b.extents(b.first), *space)
    axes = tuple(range(len(shape)))
    split, spatial = len(a.first), len(a.first) + len(b.first)
    y = _Axes(shape, axes[:split], axes[split:spatial], axes[spatial:])
    if mode == "same":  # the middle of the full convolution, of A's extents
        padding = tuple((m // 2, (m - 1) // 2) for m in b.extents(b.spatial))
        return _image_passes(a, b, y, padding, dtype)
    if prod(a.extents(a.spatial)) >= prod(b.extents(b.spatial)):
        return _image_passes(a, b, y, mode, dtype)
    # The larger operand has the images: here it is B.
    forward, by_b, by_a, *_ = _image_passes(b, a, replace(y, first=y.second, second=y.first), mode, dtype)
    return _Bilinear(lambda A, B, bias: forward(B, A, bias), by_a, by_b)


def _image_passes(images: _Axes, filters: _Axes, y: _Axes, padding: Any, dtype: np.dtype[Any]) -> _Bilinear:
    """The convolution of an array that has the images with one that has the filters."""
    conv, backward_input, backward_weight = (
        partial(getattr(fastconv, f"conv{len(y.spatial)}d{suffix}"), padding=padding)
        for suffix in ("", "_backward_input", "_backward_weight")
    )
    # True convolution is cross-correlation with the kernel turned by 180 degrees.
    turned = (slice(None), slice(None), *[slice(None, None, -1)] * len(y.spatial))

    def image_array(x: Array) -> Array:
        return images.to_engine(np.asarray(x, dtype))

    def filter_array(w: Array) -> Array:
        return filters.to_engine(np.asarray(w, dtype))[turned]

    def forward(x: Array, w: Array, bias: None) -> Array:
        return y.to_host(conv(image_array(x), filter_array(w)))

    def by_image(dy: Array, w: Array) -> Array:
        return images.to_host(backward_input(y.to_engine(dy), filter_array(w), images.engine_size))

    def by_filter(dy: Array, x: Array) -> Array:
        dw = backward_weight(y.to_engine(dy), image_array(x), filters.engine_size)
        return filters.to_host(dw[turned])

    return _Bilinear(forward, by_image, by_filter)


def convolve(
    A: Any,
    B: Any,
    axes: Any = None,
    dot_axes: Any = ((), ()),
    mode: str = "full",
) -> Any:
    """``autograd.scipy.signal.convolve`` by fastconv: true convolution, the kernel turned by 180 degrees.

    Up to three convolved axes of floats run here; everything else (more axes, none, complex numbers,
    integers alone) is handed to the host's own function, and so are arguments that it refuses.

    Parameters
    ----------
    A, B : array
        Either may be the larger one, and either may be what autograd differentiates by.
    axes : pair of sequences of int, optional
        The axes of A and of B to convolve along; all of them where not given.
    dot_axes : pair of sequences of int
        The axes of A and of B to sum over, as `numpy.tensordot` does.
    mode : {"full", "valid", "same"}
        "same" gives the middle of "full", of A's extents (the host has it from 1.9 on).

    Returns
    -------
    array
        Its axes are the other ones of A, the other ones of B, then the convolved ones.

    Examples
    --------
    >>> import autograd.numpy as np
    >>> from autograd import grad
    >>> from fastconv.adapters.autograd import convolve
    >>> images, filters = np.ones((10, 3, 12, 12)), np.ones((3, 6, 5, 5))
    >>> convolve(images, filters, axes=([2, 3], [2, 3]), dot_axes=([1], [0]), mode="valid").shape
    (10, 6, 8, 8)
    >>> grad(lambda kernel: np.sum(convolve(np.arange(4.0), kernel, mode="valid")))(np.ones(2))
    array([6., 3.])
    """
    convolved = (range(A.ndim), range(A.ndim)) if axes is None else axes
    passes = _convolve_passes(
        (A.shape, B.shape),
        (tuple(convolved[0]), tuple(convolved[1])),
        (tuple(dot_axes[0]), tuple(dot_axes[1])),
        mode,
        np.result_type(A.dtype, B.dtype),
    )
    if passes is None:
        return _host_convolve(A, B, axes, dot_axes, mode)
    return _forward(A, B, None, passes)


def _replacements() -> list[Replacement]:
    plain = getattr(signal.convolve, "fun", signal.convolve)  # what autograd's primitive wraps
    require_parameters(plain, "autograd.scipy.signal.convolve", ["A", "B", "axes", "dot_axes", "mode"])
    return [(signal, "convolve", convolve)]


_installation = Installation(_replacements)
install = _installation.install
uninstall = _installation.uninstall
installed = _installation.installed
