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
from typing import Any, NamedTuple, TypeVar

import numpy as np

import fastconv
from fastconv.adapters.installation import Installation, Replacement, host_module, require_parameters
from fastconv.arguments import Array, Size, flag

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
    """``fastconv.<name>``, differentiable."""
    forward, backward = getattr(fastconv, name), getattr(fastconv, f"{name}_backward")
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


def conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    algorithm: str = "auto",
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
    >>> from fastconv.adapters.autograd import conv2d
    >>> image, edge = np.arange(16.0).reshape(1, 1, 4, 4), np.array([[[[-1.0, 1.0]]]])
    >>> grad(lambda weight: np.sum(conv2d(image, weight) ** 2) / 2)(edge)
    array([[[[84., 96.]]]])
    """
    return _convolution(
        "conv2d",
        2,
        input,
        weight,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        layout=layout,
        algorithm=algorithm,
    )


def conv1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    layout: str = "NCW",
    algorithm: str = "auto",
) -> Any:
    """`conv2d` in one spatial dimension: input (N, C, W), weight (K, C/G, S)."""
    return _convolution(
        "conv1d",
        1,
        input,
        weight,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        layout=layout,
        algorithm=algorithm,
    )


def conv3d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    layout: str = "NCDHW",
    algorithm: str = "auto",
) -> Any:
    """`conv2d` in three spatial dimensions: input (N, C, D, H, W), weight (K, C/G, T, R, S)."""
    return _convolution(
        "conv3d",
        3,
        input,
        weight,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        layout=layout,
        algorithm=algorithm,
    )


def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    layout: str = "NCHW",
    algorithm: str = "auto",
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
    >>> from fastconv.adapters.autograd import conv_transpose2d
    >>> image, weight = np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2))
    >>> grad(lambda image: np.sum(conv_transpose2d(image, weight, stride=2)))(image)[0, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    return _convolution(
        "conv_transpose2d",
        2,
        input,
        weight,
        bias,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
        layout=layout,
        algorithm=algorithm,
    )


def conv_transpose1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    layout: str = "NCW",
    algorithm: str = "auto",
) -> Any:
    """`conv_transpose2d` in one spatial dimension: input (N, C, W), weight (C, K/G, S)."""
    return _convolution(
        "conv_transpose1d",
        1,
        input,
        weight,
        bias,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
        layout=layout,
        algorithm=algorithm,
    )


def conv_transpose3d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    layout: str = "NCDHW",
    algorithm: str = "auto",
) -> Any:
    """`conv_transpose2d` in three spatial dimensions: input (N, C, D, H, W), weight (C, K/G, T, R, S)."""
    return _convolution(
        "conv_transpose3d",
        3,
        input,
        weight,
        bias,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
        layout=layout,
        algorithm=algorithm,
    )


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


def max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str = "NCHW",
) -> Any:
    """`fastconv.max_pool2d` for autograd.

    A gradient goes to the first maximum of each window, as in `fastconv.max_pool2d_backward` (autograd's own
    ``max`` shares it out among equals).

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
    >>> from fastconv.adapters.autograd import max_pool2d
    >>> grad(lambda image: np.sum(max_pool2d(image, 2)))(np.array([[[4.0, 1.0, 2.0], [3.0, 0.0, 5.0]]]))
    array([[[1., 0., 0.],
            [0., 0., 0.]]])
    """
    return _max_pooling(
        2,
        input,
        return_indices,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        layout=layout,
    )


def max_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str = "NCW",
) -> Any:
    """`max_pool2d` in one spatial dimension: arrays (N, C, W)."""
    return _max_pooling(
        1,
        input,
        return_indices,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        layout=layout,
    )


def max_pool3d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str = "NCDHW",
) -> Any:
    """`max_pool2d` in three spatial dimensions: arrays (N, C, D, H, W)."""
    return _max_pooling(
        3,
        input,
        return_indices,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        layout=layout,
    )


def _avg_pooling(ndim: int, input: Any, **windows: Any) -> Any:
    forward = partial(getattr(fastconv, f"avg_pool{ndim}d"), **windows)
    adjoint = partial(getattr(fastconv, f"avg_pool{ndim}d_backward"), input_size=np.shape(input), **windows)
    return _mapped(input, _Linear(forward, adjoint))


def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    layout: str = "NCHW",
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
    >>> from fastconv.adapters.autograd import avg_pool2d
    >>> grad(lambda image: np.sum(avg_pool2d(image, 2)))(np.ones((1, 2, 3)))
    array([[[0.25, 0.25, 0.  ],
            [0.25, 0.25, 0.  ]]])
    """
    return _avg_pooling(
        2,
        input,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
        layout=layout,
    )


def avg_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    layout: str = "NCW",
) -> Any:
    """`avg_pool2d` in one spatial dimension: arrays (N, C, W)."""
    return _avg_pooling(
        1,
        input,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
        layout=layout,
    )


def avg_pool3d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    layout: str = "NCDHW",
) -> Any:
    """`avg_pool2d` in three spatial dimensions: arrays (N, C, D, H, W)."""
    return _avg_pooling(
        3,
        input,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
        layout=layout,
    )


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
