"""Pooling over chunks, and its gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np

from fastconv import pool
from fastconv.arguments import (
    Size,
    flag,
    float_array,
    index_array,
    must_be,
    must_be_said,
    number_array,
    rank,
)
from fastconv.dask import blocks
from fastconv.dask.arguments import Lazy, batched, lazy_array, of_size
from fastconv.dask.axes import Axis, Range, ranges
from fastconv.dask.blocks import Pooled
from fastconv.dask.graphs import Layer, array_of, item_of, pieces
from fastconv.dask.spaces import Space
from fastconv.geometry import layout_is_channels_last
from fastconv.windows import FixedAxis


class Pooling(Space):
    """A pooling over chunks: its axes and what its tasks share."""

    def __init__(self, made: Any, layout: str) -> None:
        fixed = [axis for axis in made.windows.axes if isinstance(axis, FixedAxis)]
        axes = [Axis(a.extent, a.output, a.taps, a.stride, a.before, a.step) for a in fixed]
        self.after = [a.after for a in fixed]
        super().__init__(axes, layout.endswith("C"))
        self.pooled = Pooled(tuple(axes), layout)
        self.made = made

    def channels(self, array: Lazy) -> tuple[int, ...]:
        """Chunks along the channels: pooling leaves them as they are."""
        found: tuple[int, ...] = array.chunks[-1 if self.last else 1]
        return found

    def channel_range(self, where: Sequence[Range]) -> Range:
        """That of a chunk."""
        return where[-1] if self.last else where[1]

    def token(self) -> tuple[object, ...]:
        """What results depend on."""
        return (self.axes, self.after, self.last)


def _windows(ndim: int, name: str, shape: Size, dtype: Any, layout: Any, *arguments: Any) -> Pooling:
    layout_is_channels_last(layout, ndim)
    return Pooling(pool._pooling(ndim, name, shape, dtype, layout, *arguments), layout)


def _batched_size(ndim: int, dy: Lazy, input_size: Any, layout: Any) -> Size:
    """The input's whole shape, with a batch of one where neither it nor its output's gradient has one."""
    shape = pool._input_planes(ndim, input_size, layout)[1]
    rank("grad_output", dy, (len(shape),), "(as many as input_size has)")
    return shape if len(shape) == ndim + 2 else (1, *shape)


def _as_given(array: Lazy, given: Lazy) -> Lazy:
    """Without the batch of one where what was given has none."""
    return array if array.ndim == given.ndim else array[0]


def max_pool_nd(
    ndim: int, input: Lazy, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False, *, layout: Any = None,
) -> Any:  # fmt: skip
    """The largest of each window, chunk by chunk, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    input : dask.array.Array
        Chunked in any way, of any dtype that `fastconv.{name}` takes.
    kernel_size, stride, padding, dilation, ceil_mode, return_indices, layout
        As in `fastconv.{name}`. Indices are those of the whole plane.

    Returns
    -------
    dask.array.Array, or two
        Of the input's dtype, and of int64.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, before anything is computed.
    """
    lazy = lazy_array("input", input, ndim)
    dtype = number_array("input", lazy._meta).dtype
    x = batched(lazy, ndim)
    w = _windows(ndim, "input", x.shape, dtype, layout, kernel_size, stride, padding, dilation, ceil_mode)
    wanted = flag("return_indices", return_indices)
    if w.made.some_empty and dtype.kind != "f" and 0 not in w.made.output_size:
        must_be_said(ValueError, "input", "of a float dtype where a window is all padding", f"dtype {dtype}")
    batch, space = w.batch_and_space(x)
    outputs = [axis.outputs(chunks) for axis, chunks in zip(w.axes, space, strict=True)]
    chunks = w.arranged(batch, w.channels(x), outputs)

    def task(layer: Layer, where: tuple[Range, ...]) -> Any:
        read, around = w.read(w.spatial(where))
        some = pieces(layer, x, w.arranged(where[0], w.channel_range(where), read))
        return (blocks.max_pool, some, tuple(w.spatial(where)), around, wanted, w.pooled)

    if not wanted:
        return _as_given(array_of(f"max-pool{ndim}d", chunks, dtype, task, [x], w.token()), lazy)
    both = array_of(f"max-pool{ndim}d-both", chunks, dtype, task, [x], w.token())
    values, indices = item_of(both, 0, dtype), item_of(both, 1, np.dtype(np.int64))
    return _as_given(values, lazy), _as_given(indices, lazy)


def max_pool_nd_backward(
    ndim: int, grad_output: Lazy, indices: Lazy, input_size: Any, kernel_size: Any, stride: Any = None,
    padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False, *, layout: Any = None,
) -> Lazy:  # fmt: skip
    """The gradient of max-pooling, chunk by chunk: each error to the maximum of its window.

    Unlike `fastconv.{name}` it is told the windows, which say what reaches a chunk.

    Parameters
    ----------
    grad_output : dask.array.Array
        Chunked in any way, of floats.
    indices : dask.array.Array
        Of the same shape, of integers, from `max_pool{n}d` with ``return_indices=True``.
    input_size : tuple of int
        The whole shape of the input.
    kernel_size, stride, padding, dilation, ceil_mode, layout
        As in `max_pool{n}d`.

    Returns
    -------
    dask.array.Array of shape ``input_size``
        Of the dtype of ``grad_output``.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, before anything is computed; if an index is of no cell, when it is met.
    """
    lazy, dtype, winners = _errors_and_winners(ndim, grad_output, indices)
    shape = _batched_size(ndim, lazy, input_size, layout)
    windows = kernel_size, stride, padding, dilation, ceil_mode
    w = _windows(ndim, "input_size", shape, dtype, layout, *windows)
    of_size("grad_output", lazy, w.made.output_size[-lazy.ndim :], "input_size")
    dy, winners = batched(lazy, ndim), batched(winners, ndim)
    batch, space = w.batch_and_space(dy)
    inputs = [axis.inputs(chunks) for axis, chunks in zip(w.axes, space, strict=True)]

    def task(layer: Layer, where: tuple[Range, ...]) -> Any:
        found = w.reaching(w.spatial(where))
        extent = tuple(b - a for a, b in where)
        some: list[Any] = [None, None]
        if found is not None:
            read = w.arranged(where[0], w.channel_range(where), found[0])
            some = [pieces(layer, array, read) for array in (dy, winners)]
        return (blocks.max_pool_backward, *some, extent, tuple(w.spatial(where)), str(dtype), w.pooled)

    chunks = w.arranged(batch, w.channels(dy), inputs)
    name = f"max-pool{ndim}d-backward"
    return _as_given(array_of(name, chunks, dtype, task, [dy, winners], w.token()), lazy)


def _errors_and_winners(ndim: int, grad_output: Lazy, indices: Lazy) -> tuple[Lazy, np.dtype[Any], Lazy]:
    """Checked arrays of one shape in the same chunks, and the dtype of the first."""
    dy, winners = lazy_array("grad_output", grad_output, ndim), lazy_array("indices", indices, ndim)
    dtype = float_array("grad_output", dy._meta).dtype
    index_array("indices", winners._meta)
    of_size("indices", winners, dy.shape, "grad_output")
    return dy, dtype, winners.rechunk(dy.chunks)


def _divided(w: Pooling) -> tuple[Any, Any]:
    """What sums are divided by: whether padding counts, as cells behind the input; or a number."""
    made = w.made
    return (tuple(w.after) if made.padded else None), made.divisor


def avg_pool_nd(
    ndim: int, input: Lazy, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: Any = None, *, layout: Any = None,
) -> Lazy:  # fmt: skip
    """The mean of each window, chunk by chunk, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    input : dask.array.Array
        Chunked in any way, of floats.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, layout
        As in `fastconv.{name}`.

    Returns
    -------
    dask.array.Array
        Of the input's dtype.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, before anything is computed.
    """
    lazy = lazy_array("input", input, ndim)
    dtype = float_array("input", lazy._meta).dtype
    x = batched(lazy, ndim)
    windows = kernel_size, stride, padding, 1, ceil_mode, count_include_pad, divisor_override
    w = _windows(ndim, "input", x.shape, dtype, layout, *windows)
    divided = _divided(w)
    batch, space = w.batch_and_space(x)
    outputs = [axis.outputs(chunks) for axis, chunks in zip(w.axes, space, strict=True)]

    def task(layer: Layer, where: tuple[Range, ...]) -> Any:
        read, around = w.read(w.spatial(where))
        some = pieces(layer, x, w.arranged(where[0], w.channel_range(where), read))
        return (blocks.avg_pool, some, tuple(w.spatial(where)), around, *divided, w.pooled)

    chunks = w.arranged(batch, w.channels(x), outputs)
    return _as_given(array_of(f"avg-pool{ndim}d", chunks, dtype, task, [x], w.token(), divided), lazy)


def avg_pool_nd_backward(
    ndim: int, grad_output: Lazy, input_size: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: Any = None, *,
    layout: Any = None,
) -> Lazy:  # fmt: skip
    """The gradient of average-pooling, chunk by chunk, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    grad_output : dask.array.Array
        Chunked in any way, of floats.
    input_size : tuple of int
        The whole shape of the input.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, layout
        As in `fastconv.{name}`.

    Returns
    -------
    dask.array.Array of shape ``input_size``
        Of the dtype of ``grad_output``.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, before anything is computed.
    """
    lazy = lazy_array("grad_output", grad_output, ndim)
    dtype = float_array("grad_output", lazy._meta).dtype
    shape = _batched_size(ndim, lazy, input_size, layout)
    windows = kernel_size, stride, padding, 1, ceil_mode, count_include_pad, divisor_override
    w = _windows(ndim, "input_size", shape, dtype, layout, *windows)
    of_size("grad_output", lazy, w.made.output_size[-lazy.ndim :], "input_size")
    dy = batched(lazy, ndim)
    divided = _divided(w)
    batch, space = w.batch_and_space(dy)
    inputs = [axis.inputs(chunks) for axis, chunks in zip(w.axes, space, strict=True)]

    def task(layer: Layer, where: tuple[Range, ...]) -> Any:
        found = w.reaching(w.spatial(where))
        extent = tuple(b - a for a, b in where)
        some, windows, place = None, list[Range](), list[Range]()
        if found is not None:
            windows, place = found
            some = pieces(layer, dy, w.arranged(where[0], w.channel_range(where), windows))
        shared = *divided, str(dtype), w.pooled
        return (blocks.avg_pool_backward, some, tuple(windows), extent, tuple(place), *shared)

    chunks = w.arranged(batch, w.channels(dy), inputs)
    name = f"avg-pool{ndim}d-backward"
    return _as_given(array_of(name, chunks, dtype, task, [dy], w.token(), divided), lazy)


# Whole planes


def _to_one(ndim: int, name: str, lazy: Lazy, dtype: np.dtype[Any], output_size: Any, layout: Any) -> None:
    """Refuse output sizes but one cell, and planes without cells."""
    planes = pool._layout(ndim, "input", lazy.shape, layout)
    output = pool._adaptive_output(ndim, planes, lazy.shape, output_size)
    if any(n != 1 for n in output):
        must_be(
            ValueError,
            "output_size",
            f"1, the mean or maximum of a plane ({name} has no others)",
            output_size,
        )
    pool._adaptive_pooling("input", planes, lazy.shape, dtype, output)


def _from_one(ndim: int, lazy: Lazy, dtype: np.dtype[Any], input_size: Any, layout: Any) -> Size:
    """The input's shape with a batch, where a gradient is of one cell a plane."""
    shape = _batched_size(ndim, lazy, input_size, layout)
    planes = pool._layout(ndim, "input_size", shape, layout)
    made = pool._adaptive_pooling("input_size", planes, shape, dtype, (1,) * ndim)
    of_size("grad_output", lazy, made.output_size[-lazy.ndim :], "input_size")
    return shape


def _whole_plane_chunks(dy: Lazy, shape: Size, dtype: np.dtype[Any], last: bool) -> Any:
    """Batch and channels as they are; a plane in chunks of Dask's usual size."""
    chunks = list(dy.chunks)
    for axis in range(1, len(shape) - 1) if last else range(2, len(shape)):
        chunks[axis] = "auto" if 0 not in shape else shape[axis]
    return da.core.normalize_chunks(tuple(chunks), shape, dtype=dtype)


class Plane(Space):
    """One window, which is the whole plane."""

    def __init__(self, shape: Size, layout: str) -> None:
        last = layout.endswith("C")
        extents = shape[1:-1] if last else shape[2:]
        super().__init__([Axis(n, 1, n, n, 0, 1) for n in extents], last)
        self.pooled = Pooled(tuple(self.axes), layout)


def adaptive_avg_pool_nd(ndim: int, input: Lazy, output_size: Any, *, layout: Any = None) -> Lazy:
    """The mean of each plane, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    input : dask.array.Array
        Chunked in any way, of floats.
    output_size : int or tuple of (int or None)
        1: others would need windows of several sizes.
    layout : str

    Returns
    -------
    dask.array.Array
        Of one cell a plane, of the input's dtype.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, before anything is computed.
    """
    last = layout_is_channels_last(layout, ndim)
    x = lazy_array("input", input, ndim)
    dtype = float_array("input", x._meta).dtype
    _to_one(ndim, f"adaptive_avg_pool{ndim}d", x, dtype, output_size, layout)
    axes = tuple(range(x.ndim - ndim - 1, x.ndim - 1) if last else range(x.ndim - ndim, x.ndim))
    return x.mean(axis=axes, keepdims=True, dtype=np.float64).astype(dtype)


def adaptive_avg_pool_nd_backward(
    ndim: int, grad_output: Lazy, input_size: Any, *, layout: Any = None
) -> Lazy:
    """The gradient of the mean of each plane, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    grad_output : dask.array.Array
        Of one cell a plane, of floats.
    input_size : tuple of int
        The whole shape of the input.
    layout : str

    Returns
    -------
    dask.array.Array of shape ``input_size``
        Of the dtype of ``grad_output``. Batch and channels are chunked as there.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, before anything is computed.
    """
    last = layout_is_channels_last(layout, ndim)
    lazy = lazy_array("grad_output", grad_output, ndim)
    dtype = float_array("grad_output", lazy._meta).dtype
    shape = _from_one(ndim, lazy, dtype, input_size, layout)
    dy = batched(lazy, ndim)
    mean = (dy.astype(np.float64) / math.prod(shape[1:-1] if last else shape[2:])).astype(dtype)
    cut = _whole_plane_chunks(dy, shape, dtype, last)
    return _as_given(da.broadcast_to(mean, shape, chunks=cut), lazy)


def adaptive_max_pool_nd(
    ndim: int, input: Lazy, output_size: Any, return_indices: bool = False, *, layout: Any = None
) -> Any:
    """The maximum of each plane, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    input : dask.array.Array
        Chunked in any way, of any dtype that `fastconv.{name}` takes.
    output_size : int or tuple of (int or None)
        1: others would need windows of several sizes.
    return_indices : bool
        Also return where in its plane each maximum stood: the first of several in row-major order, and
        the first NaN where there is one.
    layout : str

    Returns
    -------
    dask.array.Array, or two
        Of one cell a plane; of the input's dtype, and of int64.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, before anything is computed.
    """
    last = layout_is_channels_last(layout, ndim)
    lazy = lazy_array("input", input, ndim)
    dtype = number_array("input", lazy._meta).dtype
    _to_one(ndim, f"adaptive_max_pool{ndim}d", lazy, dtype, output_size, layout)
    wanted = flag("return_indices", return_indices)
    x = batched(lazy, ndim)
    axes = tuple(range(1, ndim + 1) if last else range(2, ndim + 2))
    # A chunk without cells has no maximum.
    x = x.rechunk({axis: tuple(n for n in x.chunks[axis] if n) for axis in axes})
    w = Plane(x.shape, layout)
    pair = np.dtype([("value", dtype), ("index", np.int64)], align=True)

    def task(layer: Layer, where: tuple[Range, ...]) -> Any:
        # One cell a chunk: the numbers of the chunk along the plane's axes.
        place = [bounds[k] for bounds, (k, _) in zip(along, w.spatial(where), strict=True)]
        some = pieces(layer, x, w.arranged(where[0], where[-1] if last else where[1], place))
        return (blocks.plane_maximum, some, tuple(place), w.pooled)

    batch, space = w.batch_and_space(x)
    along = [ranges(chunks) for chunks in space]
    chunks = w.arranged(batch, x.chunks[-1 if last else 1], [(1,) * len(each) for each in space])
    parts = array_of(f"adaptive-max-pool{ndim}d", chunks, pair, task, [x], w.axes, last)
    found = da.reduction(
        parts,
        chunk=blocks.as_it_is,
        combine=blocks.first_maximum,
        aggregate=blocks.first_maximum,
        axis=axes,
        keepdims=True,
        dtype=pair,
        meta=parts._meta,
    )
    values, indices = (_as_given(found[name], lazy) for name in ("value", "index"))
    return (values, indices) if wanted else values


def adaptive_max_pool_nd_backward(
    ndim: int, grad_output: Lazy, indices: Lazy, input_size: Any, *, layout: Any = None
) -> Lazy:
    """The gradient of the maximum of each plane, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    grad_output : dask.array.Array
        Of one cell a plane, of floats.
    indices : dask.array.Array
        Of the same shape, of integers, from `adaptive_max_pool{n}d` with ``return_indices=True``.
    input_size : tuple of int
        The whole shape of the input.
    layout : str

    Returns
    -------
    dask.array.Array of shape ``input_size``
        Of the dtype of ``grad_output``. Batch and channels are chunked as there.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, before anything is computed; if an index is of no cell, when it is met.
    """
    last = layout_is_channels_last(layout, ndim)
    lazy, dtype, winners = _errors_and_winners(ndim, grad_output, indices)
    shape = _from_one(ndim, lazy, dtype, input_size, layout)
    dy, winners = batched(lazy, ndim), batched(winners, ndim)
    w = Plane(shape, layout)

    def task(layer: Layer, where: tuple[Range, ...]) -> Any:
        read = w.arranged(where[0], where[-1] if last else where[1], [(0, 1)] * ndim)
        some = [pieces(layer, array, read) for array in (dy, winners)]
        extent = tuple(b - a for a, b in where)
        return (blocks.max_pool_backward, *some, extent, tuple(w.spatial(where)), str(dtype), w.pooled)

    chunks = _whole_plane_chunks(dy, shape, dtype, last)
    name = f"adaptive-max-pool{ndim}d-backward"
    return _as_given(array_of(name, chunks, dtype, task, [dy, winners], w.axes, last), lazy)
