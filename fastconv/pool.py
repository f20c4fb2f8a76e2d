"""Pooling and unpooling, forward and backward.

Each function is written once, for images; those for signals (N, C, W) and volumes (N, C, D, H, W) are made of
it at the end.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from fastconv import kernels
from fastconv.annotations import (
    Extents,
    Layout1d,
    Layout2d,
    Layout3d,
    Outputs,
    Padding,
    Shape,
)
from fastconv.arguments import (
    Array,
    Size,
    addressable,
    delivered,
    direct_output,
    extents,
    flag,
    float_array,
    images,
    index_array,
    must_be,
    must_be_said,
    number_array,
    output_array,
    padding_pairs,
    rank,
    shaped,
    size,
    whole_number,
)
from fastconv.buffers import new_result, zeros
from fastconv.dimensions import CHANNELS_FIRST, Dimensions, Layout
from fastconv.geometry import LAYOUTS, layout_is_channels_last, read_only
from fastconv.pool_passes import (
    Planes,
    Pooling,
    avg_backward,
    avg_forward,
    compute_dtype,
    max_backward,
    max_backward_ties,
    max_forward,
)
from fastconv.threads import run_ranges
from fastconv.windows import adaptive_windows, fixed_windows

if TYPE_CHECKING:
    from fastconv.dimensions import __class__  # noqa: F401

CACHED_POOLINGS = 256
# Poolings of larger images are made anew, so that tables in the caches are small: longest axis, cells.
CACHED_EXTENT = 2**12
CACHED_CELLS = 2**21


def _planes(ndim: int, name: str, array: Array, layout: object) -> Planes:
    images(name, array, ndim, layout)
    return _layout(ndim, name, array.shape, layout)


def _layout(ndim: int, name: str, shape: Size, layout: object) -> Planes:
    return Planes(len(shape) == ndim + 2, layout_is_channels_last(layout, ndim))


# Arguments that compare equal only to ones of the same meaning: the cache tells types apart, but not
# those inside a tuple, where a True or a 2.0 would pass for an int that was checked before.
_PLAIN = frozenset((int, bool, str, type(None)))
_INTS = frozenset((int,))


def _is_plain(value: object) -> bool:
    if type(value) is tuple:
        return _INTS.issuperset(map(type, value)) or all(map(_is_plain, value))
    return type(value) is int


def _is_small(shape: Size) -> bool:
    return max(shape) <= CACHED_EXTENT and prod(shape[1:]) <= CACHED_CELLS


def _pooling(ndim: int, name: str, shape: Size, dtype: np.dtype[Any], *arguments: object) -> Pooling:
    """The sizes of a pooling with fixed windows, checked; made anew only for arguments not seen lately."""
    plain = _PLAIN.issuperset(map(type, arguments)) or all(
        type(value) in _PLAIN or _is_plain(value) for value in arguments
    )
    make = _cached_pooling if plain and _is_small(shape) else _cached_pooling.__wrapped__
    return make(ndim, name, shape, dtype, *arguments)


@lru_cache(CACHED_POOLINGS, typed=True)
def _cached_pooling(
    ndim: int,
    name: str,
    shape: Size,
    dtype: np.dtype[Any],
    layout: object,
    kernel_size: object,
    stride: object,
    padding: object,
    dilation: object,
    ceil_mode: object,
    count_include_pad: object = True,
    divisor_override: object = None,
) -> Pooling:
    planes = _layout(ndim, name, shape, layout)
    leading, extent = planes.leading_and_extent(shape)
    kernel = extents("kernel_size", kernel_size, ndim, 1)
    windows = fixed_windows(
        extent,
        kernel,
        kernel if stride is None else extents("stride", stride, ndim, 1),
        padding_pairs(padding, ndim),
        extents("dilation", dilation, ndim, 1),
        flag("ceil_mode", ceil_mode),
        name,
    )
    padded = flag("count_include_pad", count_include_pad)
    divisor = None if divisor_override is None else whole_number("divisor_override", divisor_override, 1)
    output_size = planes.size(leading, windows.output)
    addressable("the output", output_size, 8)
    return Pooling(planes, windows, compute_dtype(dtype), leading, shape, output_size, padded, divisor)


def _input_planes(ndim: int, input_size: Any, layout: object) -> tuple[Planes, Size]:
    """The layout and the shape of an input that is not there, checked."""
    plain = type(layout) is str and _is_plain(input_size)
    return (_cached_planes if plain else _cached_planes.__wrapped__)(ndim, input_size, layout)


@lru_cache(CACHED_POOLINGS, typed=True)
def _cached_planes(ndim: int, input_size: object, layout: object) -> tuple[Planes, Size]:
    shape = size("input_size", input_size, (ndim + 2, ndim + 1))
    planes = _layout(ndim, "input_size", shape, layout)
    addressable("input_size", shape, 8)
    return planes, shape


def _adaptive_pooling(name: str, planes: Planes, shape: Size, dtype: np.dtype[Any], output: Size) -> Pooling:
    """The sizes of a pooling from an input of this shape to these extents."""
    make = _cached_adaptive if _is_small(shape) and _is_small(output) else _cached_adaptive.__wrapped__
    return make(name, planes.batched, planes.channels_last, shape, dtype, output)


@lru_cache(CACHED_POOLINGS)
def _cached_adaptive(
    name: str, batched: bool, channels_last: bool, shape: Size, dtype: np.dtype[Any], output: Size
) -> Pooling:
    planes = Planes(batched, channels_last)
    leading, extent = planes.leading_and_extent(shape)
    if 0 in extent and 0 not in output:
        must_be_said(ValueError, name, "of at least 1 in every spatial extent", f"shape {shape}")
    output_size = planes.size(leading, output)
    addressable("the output", output_size, 8)
    windows = adaptive_windows(extent, output)
    return Pooling(planes, windows, compute_dtype(dtype), leading, shape, output_size, padded=False)


def _max(x: Array, pooling: Pooling, return_indices: object, out: object) -> Array | tuple[Array, Array]:
    wanted = flag("return_indices", return_indices)
    shape = pooling.output_size
    target = output_array(out, shape, x.dtype)
    direct = target is not None and direct_output(target, x.dtype, x)
    result = target if target is not None and direct else new_result(shape, x.dtype)
    _has_maxima(x, pooling)
    indices = new_result(shape if wanted else (0,) * len(shape), np.dtype(np.int64))
    max_forward(x, result, indices, pooling)
    result = delivered(result, target, x.dtype)
    return (result, indices) if wanted else result


def _has_maxima(x: Array, pooling: Pooling) -> None:
    """Refuse integers where a window is empty: they have no -inf."""
    if pooling.some_empty and x.dtype.kind != "f" and 0 not in pooling.output_size:
        must_be(ValueError, "input", "of a float dtype where a window is all padding", x)


def _adaptive_output(ndim: int, planes: Planes, shape: Size, output_size: object) -> Size:
    """The extents wanted; None keeps the input's."""
    extent = planes.leading_and_extent(shape)[1]
    if isinstance(output_size, (tuple, list)) and len(output_size) == ndim:
        output_size = [n if wanted is None else wanted for n, wanted in zip(extent, output_size, strict=True)]
    elif output_size is None:
        output_size = extent
    output = extents("output_size", output_size, ndim, 0)
    addressable("output_size", output, 16)
    return output


def _max_pool_backward(
    ndim: int, grad_output: object, indices: object, input_size: object, layout: object
) -> Array:
    dy, index = float_array("grad_output", grad_output), index_array("indices", indices)
    planes, shape = _input_planes(ndim, input_size, layout)
    rank("grad_output", dy, (len(shape),), "(as many as input_size has)")
    shaped("indices", index, dy.shape)
    leading = planes.leading_and_extent(shape)[0]
    shaped("grad_output", dy, planes.size(leading, planes.leading_and_extent(dy.shape)[1]))
    dx, outside = max_backward(dy, index, planes, shape)
    _all_inside(outside, planes, shape)
    return dx


def _all_inside(outside: int, planes: Planes, shape: Size) -> None:
    if outside:
        cells = prod(planes.leading_and_extent(shape)[1])
        expected = f"from 0 to {cells - 1}" if cells else "-1 in planes without cells"
        must_be_said(ValueError, "indices", expected, f"{outside} outside that")


def _unpooled(extent: Size, kernel: Size, stride: Size, padding: Size, output_size: object) -> Size:
    """The extents to unpool to: the smallest that pool to ``extent``, or those asked for if they do too."""
    ndim = len(extent)
    smallest = tuple(
        (n - 1) * s - 2 * p + k for n, s, p, k in zip(extent, stride, padding, kernel, strict=True)
    )
    if output_size is None:
        if min(smallest) < 0:
            must_be_said(ValueError, "padding", "small enough to leave an output", f"{padding}")
        return smallest
    whole = size("output_size", output_size, (ndim, ndim + 1, ndim + 2))
    wanted = whole[len(whole) - ndim :]
    if not all(max(0, n - s + 1) <= w < n + s for n, s, w in zip(smallest, stride, wanted, strict=True)):
        must_be_said(
            ValueError, "output_size", f"less than a stride {stride} away from {smallest}", f"{wanted}"
        )
    return wanted


def _avg(x: Array, pooling: Pooling) -> Array:
    out = new_result(pooling.output_size, x.dtype)
    avg_forward(x, out, pooling)
    return out


def _avg_backward(dy: Array, pooling: Pooling) -> Array:
    shaped("grad_output", dy, pooling.output_size)
    dx = new_result(pooling.input_size, dy.dtype)
    avg_backward(dy, dx, pooling)
    return dx


class Pools(Dimensions[Layout]):
    """The functions for images; those for each number of dimensions are made of them below."""

    @overload
    @staticmethod
    def max_pool_nd(
        input: ArrayLike, kernel_size: Extents, stride: Extents | None = ..., padding: Padding = ...,
        dilation: Extents = ..., ceil_mode: bool = ..., return_indices: Literal[False] = ...,
        *, layout: Layout = ..., out: Array | None = ...,
    ) -> Array: ...  # fmt: skip

    @overload
    @staticmethod
    def max_pool_nd(
        input: ArrayLike, kernel_size: Extents, stride: Extents | None = ..., padding: Padding = ...,
        dilation: Extents = ..., ceil_mode: bool = ...,
        *, return_indices: Literal[True], layout: Layout = ..., out: Array | None = ...,
    ) -> tuple[Array, Array]: ...  # fmt: skip

    @overload
    @staticmethod
    def max_pool_nd(
        input: ArrayLike, kernel_size: Extents, stride: Extents | None, padding: Padding,
        dilation: Extents, ceil_mode: bool, return_indices: Literal[True],
        *, layout: Layout = ..., out: Array | None = ...,
    ) -> tuple[Array, Array]: ...  # fmt: skip

    @overload
    @staticmethod
    def max_pool_nd(
        input: ArrayLike, kernel_size: Extents, stride: Extents | None = ..., padding: Padding = ...,
        dilation: Extents = ..., ceil_mode: bool = ..., return_indices: bool = ...,
        *, layout: Layout = ..., out: Array | None = ...,
    ) -> Array | tuple[Array, Array]: ...  # fmt: skip

    @staticmethod
    def max_pool_nd(
        input: ArrayLike,
        kernel_size: Extents,
        stride: Extents | None = None,
        padding: Padding = 0,
        dilation: Extents = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
        *,
        layout: Layout = CHANNELS_FIRST,
        out: Array | None = None,
    ) -> Array | tuple[Array, Array]:
        """The maximum of every window.

        Parameters
        ----------
        input : array (N, C, H, W) or (C, H, W)
            float16, float32, float64 or any integer dtype.
        kernel_size : int or tuple of int
            Extents of a window, in cells.
        stride : int or tuple of int, optional
            Distance between windows; the kernel size where not given.
        padding : int, tuple of int, tuple of pairs (before, after), "valid" or "same"
            Cells around the input that never are the maximum; at most half the kernel.
        dilation : int or tuple of int
            Distance between the cells of a window.
        ceil_mode : bool
            Also take a last window that overhangs, if it starts inside the input or the padding before it.
        return_indices : bool
            Also return where each maximum stood.
        layout : {"NCHW", "NHWC"}
        out : array, optional
            Where to put the maxima.

        Returns
        -------
        output : array (N, C, OH, OW)
            The first NaN of a window is its maximum. A window that is all padding (which takes a dilation)
            gives -inf.
        indices : int64 array (N, C, OH, OW), only with ``return_indices``
            Flat in the unpadded plane, ``h*W + w``: of the first maximum in row-major order; -1 for a
            window that is all padding. Programs that give the gradient to every cell equal to the maximum
            have `max_pool2d_backward_ties`.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv

        >>> image = np.array([[1.0, 2.0, 5.0, 0.0], [4.0, 3.0, 0.0, 0.0]]).reshape(1, 1, 2, 4)
        >>> values, indices = fastconv.max_pool2d(image, 2, return_indices=True)
        >>> values[0, 0], indices[0, 0]
        (array([[4., 5.]]), array([[4, 2]]))

        >>> fastconv.max_pool1d(np.array([[[1.0, 2.0, 5.0, 0.0]]]), 2, return_indices=True)
        (array([[[2., 5.]]]), array([[[1, 2]]]))

        >>> volume = np.arange(8.0).reshape(1, 1, 2, 2, 2)
        >>> fastconv.max_pool3d(volume, 2, return_indices=True)
        (array([[[[[7.]]]]]), array([[[[[7]]]]]))
        """
        ndim = __class__.ndim
        x = number_array("input", input)
        images("input", x, ndim, layout)
        windows = (kernel_size, stride, padding, dilation, ceil_mode)
        pooling = _pooling(ndim, "input", x.shape, x.dtype, layout, *windows)
        return _max(x, pooling, return_indices, out)

    @staticmethod
    def max_pool_nd_backward(
        grad_output: ArrayLike,
        indices: ArrayLike,
        input_size: Shape,
        *,
        layout: Layout = CHANNELS_FIRST,
    ) -> Array:
        """The gradient of `max_pool2d`: each output's gradient goes to the cell its maximum came from.

        Of equal maxima that is the first in row-major order; `max_pool2d_backward_ties` serves all of them.

        Parameters
        ----------
        grad_output : float array (N, C, OH, OW) or (C, OH, OW)
        indices : int64 array of the same shape
            From `max_pool2d` with ``return_indices=True``.
        input_size : tuple of int
            The whole shape of the input.
        layout : {"NCHW", "NHWC"}

        Returns
        -------
        array of shape ``input_size``
            Gradients of windows that share a maximum add up.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong or an index lies outside the input's plane; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv

        >>> gradient, indices = np.array([[[[10.0, 20.0]]]]), np.array([[[[4, 2]]]])
        >>> fastconv.max_pool2d_backward(gradient, indices, (1, 1, 2, 4))[0, 0]
        array([[ 0.,  0., 20.,  0.],
               [10.,  0.,  0.,  0.]])

        >>> gradient, indices = np.array([[[10.0, 20.0]]]), np.array([[[1, 2]]])
        >>> fastconv.max_pool1d_backward(gradient, indices, (1, 1, 4))
        array([[[ 0., 10., 20.,  0.]]])

        >>> gradient, indices = np.array([[[[[10.0]]]]]), np.array([[[[[5]]]]])
        >>> fastconv.max_pool3d_backward(gradient, indices, (1, 1, 2, 2, 2)).ravel()
        array([ 0.,  0.,  0.,  0.,  0., 10.,  0.,  0.])
        """
        return _max_pool_backward(__class__.ndim, grad_output, indices, input_size, layout)

    @staticmethod
    def max_pool_nd_backward_ties(
        grad_output: ArrayLike,
        input: ArrayLike,
        kernel_size: Extents,
        stride: Extents | None = None,
        padding: Padding = 0,
        dilation: Extents = 1,
        ceil_mode: bool = False,
        *,
        layout: Layout = CHANNELS_FIRST,
    ) -> Array:
        """The gradient of `max_pool2d`, the whole of it to every cell that equals its window's maximum.

        `max_pool2d_backward` gives it to the first such cell alone, as frameworks do. This is for numbers
        that were made the other way, by ``x == x.max()``: a constant background has many such ties.

        Parameters
        ----------
        grad_output : float array (N, C, OH, OW) or (C, OH, OW)
        input : array (N, C, H, W) or (C, H, W)
            What was pooled: float16, float32, float64 or any integer dtype.
        kernel_size, stride, padding, dilation, ceil_mode, layout
            As they were given to `max_pool2d`.

        Returns
        -------
        array of the shape of ``input`` and the dtype of ``grad_output``
            Gradients of windows that share a cell add up. The maximum of a window with a NaN is NaN, and the
            cells equal to it are those that are NaN; padding never is the maximum.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv

        >>> image = np.array([[7.0, 7.0, 0.0, 0.0], [1.0, 7.0, 0.0, 3.0]]).reshape(1, 1, 2, 4)
        >>> gradient = np.array([[[[10.0, 20.0]]]])
        >>> fastconv.max_pool2d_backward_ties(gradient, image, 2)[0, 0]
        array([[10., 10.,  0.,  0.],
               [ 0., 10.,  0., 20.]])

        >>> signal, gradient = np.array([[[7.0, 7.0, 1.0]]]), np.array([[[10.0]]])
        >>> fastconv.max_pool1d_backward_ties(gradient, signal, 3)
        array([[[10., 10.,  0.]]])

        >>> volume = np.array([7.0, 7.0, 0.0, 0.0, 1.0, 7.0, 0.0, 3.0]).reshape(1, 1, 2, 2, 2)
        >>> fastconv.max_pool3d_backward_ties(np.array([[[[[10.0]]]]]), volume, 2).ravel()
        array([10., 10.,  0.,  0.,  0., 10.,  0.,  0.])
        """
        ndim = __class__.ndim
        dy, x = float_array("grad_output", grad_output), number_array("input", input)
        rank("input", x, (ndim + 2, ndim + 1), "(batched or not)")
        windows = (kernel_size, stride, padding, dilation, ceil_mode)
        pooling = _pooling(ndim, "input", x.shape, x.dtype, layout, *windows)
        shaped("grad_output", dy, pooling.output_size)
        _has_maxima(x, pooling)
        dx = new_result(x.shape, dy.dtype)
        max_backward_ties(dy, x, dx, pooling)
        return dx

    @staticmethod
    def max_unpool_nd(
        input: ArrayLike,
        indices: ArrayLike,
        kernel_size: Extents,
        stride: Extents | None = None,
        padding: Padding = 0,
        output_size: Shape | None = None,
    ) -> Array:
        """Put values back where the maxima of `max_pool2d` stood, with zeros around them.

        Parameters
        ----------
        input : array (N, C, H, W) or (C, H, W)
        indices : int64 array of the same shape
            From `max_pool2d` with ``return_indices=True``; the last of equal indices stays.
        kernel_size, stride, padding
            Of the pooling that is undone (numbers only).
        output_size : tuple of int, optional
            The extents of the result (or its whole shape), where several pool to ``input``'s.

        Returns
        -------
        array (N, C, OH, OW)
            ``OW = (W - 1)*stride - 2*padding + kernel_size``, and so along every axis, unless
            ``output_size`` says otherwise.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong or an index lies outside the result; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv

        >>> fastconv.max_unpool2d(np.array([[[[4.0, 5.0]]]]), np.array([[[[4, 2]]]]), 2)[0, 0]
        array([[0., 0., 5., 0.],
               [4., 0., 0., 0.]])

        >>> fastconv.max_unpool1d(np.array([[[4.0, 5.0]]]), np.array([[[1, 2]]]), 2)
        array([[[0., 4., 5., 0.]]])

        >>> fastconv.max_unpool3d(np.array([[[[[4.0]]]]]), np.array([[[[[5]]]]]), 2).ravel()
        array([0., 0., 0., 0., 0., 4., 0., 0.])
        """
        ndim = __class__.ndim
        x, index = number_array("input", input), index_array("indices", indices)
        planes = _planes(ndim, "input", x, LAYOUTS[ndim][0])
        shaped("indices", index, x.shape)
        leading, extent = planes.leading_and_extent(x.shape)
        kernel = extents("kernel_size", kernel_size, ndim, 1)
        steps = kernel if stride is None else extents("stride", stride, ndim, 1)
        pads = extents("padding", padding, ndim, 0)
        shape = planes.size(leading, _unpooled(extent, kernel, steps, pads, output_size))
        addressable("output_size", shape, 8)
        dtype = compute_dtype(x.dtype)
        out = zeros(shape, dtype)
        source, where = read_only(planes.normal(x.astype(dtype, copy=False))), read_only(planes.normal(index))
        target = planes.normal(out)

        def run(first: int, stop: int) -> int:
            return kernels.max_unpool(source, where, target, first, stop)

        _all_inside(run_ranges(prod(leading), x.size, run), planes, shape)
        return delivered(out, None, x.dtype)

    @staticmethod
    def max_unpool_nd_backward(
        grad_output: ArrayLike,
        indices: ArrayLike,
    ) -> Array:
        """The gradient of `max_unpool2d`: the gradients at the cells that were filled.

        Parameters
        ----------
        grad_output : float array (N, C, OH, OW) or (C, OH, OW)
        indices : int64 array (N, C, H, W) or (C, H, W)
            As they were given to `max_unpool2d`, no index twice in a plane.

        Returns
        -------
        array of the shape of ``indices``

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong or an index lies outside ``grad_output``'s plane.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv

        >>> fastconv.max_unpool2d_backward(np.arange(8.0).reshape(1, 1, 2, 4), np.array([[[[4, 2]]]]))
        array([[[[4., 2.]]]])

        >>> fastconv.max_unpool1d_backward(np.arange(4.0).reshape(1, 1, 4), np.array([[[1, 2]]]))
        array([[[1., 2.]]])

        >>> volume = np.arange(8.0).reshape(1, 1, 2, 2, 2)
        >>> fastconv.max_unpool3d_backward(volume, np.array([[[[[5]]]]]))
        array([[[[[5.]]]]])
        """
        ndim = __class__.ndim
        dy, index = float_array("grad_output", grad_output), index_array("indices", indices)
        planes = _planes(ndim, "grad_output", dy, LAYOUTS[ndim][0])
        rank("indices", index, (dy.ndim,), "(as many as grad_output has)")
        leading, extent = planes.leading_and_extent(dy.shape)
        shaped("indices", index, planes.size(leading, planes.leading_and_extent(index.shape)[1]))
        cells = prod(extent)
        outside = int(((index < -1) | (index >= cells)).sum())
        _all_inside(outside, planes, dy.shape)
        if not cells:  # indices are -1 or there are none
            return np.zeros(index.shape, dy.dtype)
        flat = index.reshape(*leading, prod(planes.leading_and_extent(index.shape)[1]))
        taken = np.take_along_axis(dy.reshape(*leading, cells), np.maximum(flat, 0), axis=2)
        return np.where(flat < 0, dy.dtype.type(0), taken).reshape(index.shape)

    @staticmethod
    def avg_pool_nd(
        input: ArrayLike,
        kernel_size: Extents,
        stride: Extents | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        layout: Layout = CHANNELS_FIRST,
    ) -> Array:
        """The average of every window.

        Parameters
        ----------
        input : float array (N, C, H, W) or (C, H, W)
        kernel_size, stride, padding, ceil_mode, layout
            As in `max_pool2d`; padding counts as zeros.
        count_include_pad : bool
            Whether cells of the padding count in the divisor.
        divisor_override : int, optional
            What to divide every sum by instead.

        Returns
        -------
        array (N, C, OH, OW)

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv

        >>> fastconv.avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
        array([[ 2.5,  4.5],
               [10.5, 12.5]])

        >>> fastconv.avg_pool1d(np.arange(4.0).reshape(1, 1, 4), 2)
        array([[[0.5, 2.5]]])

        >>> fastconv.avg_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), 2)
        array([[[[[3.5]]]]])
        """
        ndim = __class__.ndim
        x = float_array("input", input)
        images("input", x, ndim, layout)
        windows = (kernel_size, stride, padding, 1, ceil_mode)
        divided = (count_include_pad, divisor_override)
        return _avg(x, _pooling(ndim, "input", x.shape, x.dtype, layout, *windows, *divided))

    @staticmethod
    def avg_pool_nd_backward(
        grad_output: ArrayLike,
        input_size: Shape,
        kernel_size: Extents,
        stride: Extents | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        layout: Layout = CHANNELS_FIRST,
    ) -> Array:
        """The gradient of `avg_pool2d`.

        Parameters
        ----------
        grad_output : float array (N, C, OH, OW) or (C, OH, OW)
        input_size : tuple of int
            The whole shape of the input.
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, layout
            As they were given to `avg_pool2d`.

        Returns
        -------
        array of shape ``input_size``

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv

        >>> fastconv.avg_pool2d_backward(np.array([[[[4.0, 8.0]]]]), (1, 1, 2, 4), 2)[0, 0]
        array([[1., 1., 2., 2.],
               [1., 1., 2., 2.]])

        >>> fastconv.avg_pool1d_backward(np.array([[[4.0, 8.0]]]), (1, 1, 4), 2)
        array([[[2., 2., 4., 4.]]])

        >>> fastconv.avg_pool3d_backward(np.array([[[[[8.0]]]]]), (1, 1, 2, 2, 2), 2).ravel()
        array([1., 1., 1., 1., 1., 1., 1., 1.])
        """
        ndim = __class__.ndim
        dy = float_array("grad_output", grad_output)
        _, shape = _input_planes(ndim, input_size, layout)
        windows = (kernel_size, stride, padding, 1, ceil_mode)
        divided = (count_include_pad, divisor_override)
        return _avg_backward(dy, _pooling(ndim, "input_size", shape, dy.dtype, layout, *windows, *divided))

    @staticmethod
    def adaptive_avg_pool_nd(
        input: ArrayLike,
        output_size: Outputs,
        *,
        layout: Layout = CHANNELS_FIRST,
    ) -> Array:
        """The averages of windows that share the input out to an output of a given size.

        Parameters
        ----------
        input : float array (N, C, H, W) or (C, H, W)
        output_size : int or tuple of (int or None)
            The output's extents; None keeps the input's.
        layout : {"NCHW", "NHWC"}

        Returns
        -------
        array (N, C, OH, OW)
            Along an axis, window ``o`` begins at cell ``floor(o*W/OW)`` and ends before
            ``ceil((o + 1)*W/OW)``, as in PyTorch.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv

        >>> fastconv.adaptive_avg_pool2d(np.arange(12.0).reshape(1, 1, 3, 4), 1)
        array([[[[5.5]]]])

        >>> fastconv.adaptive_avg_pool1d(np.arange(4.0).reshape(1, 1, 4), 2)
        array([[[0.5, 2.5]]])

        >>> fastconv.adaptive_avg_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), 1)
        array([[[[[3.5]]]]])
        """
        ndim = __class__.ndim
        x = float_array("input", input)
        planes = _planes(ndim, "input", x, layout)
        output = _adaptive_output(ndim, planes, x.shape, output_size)
        return _avg(x, _adaptive_pooling("input", planes, x.shape, x.dtype, output))

    @staticmethod
    def adaptive_avg_pool_nd_backward(
        grad_output: ArrayLike,
        input_size: Shape,
        *,
        layout: Layout = CHANNELS_FIRST,
    ) -> Array:
        """The gradient of `adaptive_avg_pool2d`.

        Parameters
        ----------
        grad_output : float array (N, C, OH, OW) or (C, OH, OW)
        input_size : tuple of int
            The whole shape of the input.
        layout : {"NCHW", "NHWC"}

        Returns
        -------
        array of shape ``input_size``

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv

        >>> fastconv.adaptive_avg_pool2d_backward(np.array([[[[6.0]]]]), (1, 1, 2, 3))[0, 0]
        array([[1., 1., 1.],
               [1., 1., 1.]])

        >>> fastconv.adaptive_avg_pool1d_backward(np.array([[[4.0, 8.0]]]), (1, 1, 4))
        array([[[2., 2., 4., 4.]]])

        >>> fastconv.adaptive_avg_pool3d_backward(np.array([[[[[8.0]]]]]), (1, 1, 2, 2, 2)).ravel()
        array([1., 1., 1., 1., 1., 1., 1., 1.])
        """
        dy = float_array("grad_output", grad_output)
        planes, shape = _input_planes(__class__.ndim, input_size, layout)
        rank("grad_output", dy, (len(shape),), "(as many as input_size has)")
        output = planes.leading_and_extent(dy.shape)[1]
        return _avg_backward(dy, _adaptive_pooling("input_size", planes, shape, dy.dtype, output))

    @overload
    @staticmethod
    def adaptive_max_pool_nd(
        input: ArrayLike, output_size: Outputs, return_indices: Literal[False] = ...,
        *, layout: Layout = ...,
    ) -> Array: ...  # fmt: skip

    @overload
    @staticmethod
    def adaptive_max_pool_nd(
        input: ArrayLike, output_size: Outputs, return_indices: Literal[True],
        *, layout: Layout = ...,
    ) -> tuple[Array, Array]: ...  # fmt: skip

    @overload
    @staticmethod
    def adaptive_max_pool_nd(
        input: ArrayLike, output_size: Outputs, return_indices: bool = ...,
        *, layout: Layout = ...,
    ) -> Array | tuple[Array, Array]: ...  # fmt: skip

    @staticmethod
    def adaptive_max_pool_nd(
        input: ArrayLike,
        output_size: Outputs,
        return_indices: bool = False,
        *,
        layout: Layout = CHANNELS_FIRST,
    ) -> Array | tuple[Array, Array]:
        """The maxima of windows that share the input out to an output of a given size.

        Parameters
        ----------
        input : array (N, C, H, W) or (C, H, W)
            float16, float32, float64 or any integer dtype.
        output_size : int or tuple of (int or None)
            As in `adaptive_avg_pool2d`.
        return_indices : bool
            Also return where each maximum stood, as `max_pool2d` does.
        layout : {"NCHW", "NHWC"}

        Returns
        -------
        output : array (N, C, OH, OW)
        indices : int64 array (N, C, OH, OW), only with ``return_indices``

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv

        >>> fastconv.adaptive_max_pool2d(np.arange(12.0).reshape(1, 1, 3, 4), (1, 2))
        array([[[[ 9., 11.]]]])

        >>> fastconv.adaptive_max_pool1d(np.arange(4.0).reshape(1, 1, 4), 2)
        array([[[1., 3.]]])

        >>> fastconv.adaptive_max_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), 1)
        array([[[[[7.]]]]])
        """
        ndim = __class__.ndim
        x = number_array("input", input)
        planes = _planes(ndim, "input", x, layout)
        output = _adaptive_output(ndim, planes, x.shape, output_size)
        pooling = _adaptive_pooling("input", planes, x.shape, x.dtype, output)
        return _max(x, pooling, return_indices, None)

    @staticmethod
    def adaptive_max_pool_nd_backward(
        grad_output: ArrayLike,
        indices: ArrayLike,
        input_size: Shape,
        *,
        layout: Layout = CHANNELS_FIRST,
    ) -> Array:
        """The gradient of `adaptive_max_pool2d`.

        Parameters
        ----------
        grad_output : float array (N, C, OH, OW) or (C, OH, OW)
        indices : int64 array of the same shape
            From `adaptive_max_pool2d` with ``return_indices=True``.
        input_size : tuple of int
            The whole shape of the input.
        layout : {"NCHW", "NHWC"}

        Returns
        -------
        array of shape ``input_size``

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong or an index lies outside the input's plane; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv

        >>> gradient, indices = np.array([[[[1.0, 2.0]]]]), np.array([[[[1, 3]]]])
        >>> fastconv.adaptive_max_pool2d_backward(gradient, indices, (1, 1, 1, 4))[0, 0]
        array([[0., 1., 0., 2.]])

        >>> gradient, indices = np.array([[[1.0, 2.0]]]), np.array([[[1, 3]]])
        >>> fastconv.adaptive_max_pool1d_backward(gradient, indices, (1, 1, 4))
        array([[[0., 1., 0., 2.]]])

        >>> gradient, indices = np.array([[[[[1.0, 2.0]]]]]), np.array([[[[[1, 3]]]]])
        >>> fastconv.adaptive_max_pool3d_backward(gradient, indices, (1, 1, 1, 1, 4))
        array([[[[[0., 1., 0., 2.]]]]])
        """
        return _max_pool_backward(__class__.ndim, grad_output, indices, input_size, layout)


class _1d(Pools[Layout1d], ndim=1): ...


class _2d(Pools[Layout2d], ndim=2): ...


class _3d(Pools[Layout3d], ndim=3): ...


max_pool1d = _1d.max_pool_nd
max_pool2d = _2d.max_pool_nd
max_pool3d = _3d.max_pool_nd
max_pool1d_backward = _1d.max_pool_nd_backward
max_pool2d_backward = _2d.max_pool_nd_backward
max_pool3d_backward = _3d.max_pool_nd_backward
max_pool1d_backward_ties = _1d.max_pool_nd_backward_ties
max_pool2d_backward_ties = _2d.max_pool_nd_backward_ties
max_pool3d_backward_ties = _3d.max_pool_nd_backward_ties
max_unpool1d = _1d.max_unpool_nd
max_unpool2d = _2d.max_unpool_nd
max_unpool3d = _3d.max_unpool_nd
max_unpool1d_backward = _1d.max_unpool_nd_backward
max_unpool2d_backward = _2d.max_unpool_nd_backward
max_unpool3d_backward = _3d.max_unpool_nd_backward
avg_pool1d = _1d.avg_pool_nd
avg_pool2d = _2d.avg_pool_nd
avg_pool3d = _3d.avg_pool_nd
avg_pool1d_backward = _1d.avg_pool_nd_backward
avg_pool2d_backward = _2d.avg_pool_nd_backward
avg_pool3d_backward = _3d.avg_pool_nd_backward
adaptive_avg_pool1d = _1d.adaptive_avg_pool_nd
adaptive_avg_pool2d = _2d.adaptive_avg_pool_nd
adaptive_avg_pool3d = _3d.adaptive_avg_pool_nd
adaptive_avg_pool1d_backward = _1d.adaptive_avg_pool_nd_backward
adaptive_avg_pool2d_backward = _2d.adaptive_avg_pool_nd_backward
adaptive_avg_pool3d_backward = _3d.adaptive_avg_pool_nd_backward
adaptive_max_pool1d = _1d.adaptive_max_pool_nd
adaptive_max_pool2d = _2d.adaptive_max_pool_nd
adaptive_max_pool3d = _3d.adaptive_max_pool_nd
adaptive_max_pool1d_backward = _1d.adaptive_max_pool_nd_backward
adaptive_max_pool2d_backward = _2d.adaptive_max_pool_nd_backward
adaptive_max_pool3d_backward = _3d.adaptive_max_pool_nd_backward
