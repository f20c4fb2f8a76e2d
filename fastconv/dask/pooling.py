"""Pooling over chunks, and its gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np

from fastconv import pool
from fastconv.arguments import Size, extents, flag, must_be, size
from fastconv.dask import blocks
from fastconv.dask.arguments import Lazy, batched, common_dtype, lazy_array, of_size
from fastconv.dask.axes import Axis, Range
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
    computed = dtype if dtype.kind == "f" else np.dtype(np.float64)
    return Pooling(pool._pooling(ndim, name, shape, computed, layout, *arguments), layout)


def max_pool_nd(
    ndim: int, input: Lazy, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False, *, layout: Any = None,
) -> Any:  # fmt: skip
    """The largest of each window, chunk by chunk, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    input : dask.array.Array
        Chunked in any way.
    kernel_size, stride, padding, dilation, ceil_mode, return_indices, layout
        As in `fastconv.{name}`. Indices are those of the whole plane.

    Returns
    -------
    dask.array.Array, or two
    """
    lazy = lazy_array("input", input, ndim)
    x = batched(lazy, ndim)
    w = _windows(ndim, "input", x.shape, x.dtype, layout, kernel_size, stride, padding, dilation, ceil_mode)
    wanted = flag("return_indices", return_indices)
    batch, space = w.batch_and_space(x)
    outputs = [axis.outputs(chunks) for axis, chunks in zip(w.axes, space, strict=True)]
    chunks = w.arranged(batch, w.channels(x), outputs)

    def task(layer: Layer, where: tuple[Range, ...]) -> Any:
        read, around = w.read(w.spatial(where))
        some = pieces(layer, x, w.arranged(where[0], w.channel_range(where), read))
        return (blocks.max_pool, some, tuple(w.spatial(where)), around, wanted, w.pooled)

    if not wanted:
        y = array_of(f"max-pool{ndim}d", chunks, x.dtype, task, [x], w.token())
        return y if x is lazy else y[0]
    both = array_of(f"max-pool{ndim}d-both", chunks, x.dtype, task, [x], w.token())
    found = item_of(both, 0, x.dtype), item_of(both, 1, np.dtype(np.int64))
    return found if x is lazy else (found[0][0], found[1][0])


def max_pool_nd_backward(
    ndim: int, grad_output: Lazy, indices: Lazy, input_size: Any, kernel_size: Any, stride: Any = None,
    padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False, *, layout: Any = None,
) -> Lazy:  # fmt: skip
    """The gradient of max-pooling, chunk by chunk: each error to the maximum of its window.

    Unlike `fastconv.{name}` it is told the windows, which say what reaches a chunk.

    Parameters
    ----------
    grad_output, indices : dask.array.Array
        Chunked alike.
    input_size : tuple of int
    kernel_size, stride, padding, dilation, ceil_mode, layout
        As in `max_pool{n}d`.

    Returns
    -------
    dask.array.Array
    """
    dy, winners = lazy_array("grad_output", grad_output, ndim), lazy_array("indices", indices, ndim)
    shape = size("input_size", input_size, (ndim + 2,))
    w = _windows(
        ndim, "input_size", shape, dy.dtype, layout, kernel_size, stride, padding, dilation, ceil_mode
    )
    of_size("grad_output", dy, w.made.output_size, "input_size")
    of_size("indices", winners, dy.shape, "grad_output")
    winners = winners.rechunk(dy.chunks)
    batch, space = w.batch_and_space(dy)
    inputs = [axis.inputs(chunks) for axis, chunks in zip(w.axes, space, strict=True)]

    def task(layer: Layer, where: tuple[Range, ...]) -> Any:
        found = w.reaching(w.spatial(where))
        extent = tuple(b - a for a, b in where)
        some: list[Any] = [None, None]
        if found is not None:
            read = w.arranged(where[0], w.channel_range(where), found[0])
            some = [pieces(layer, array, read) for array in (dy, winners)]
        return (blocks.max_pool_backward, *some, extent, tuple(w.spatial(where)), str(dy.dtype), w.pooled)

    chunks = w.arranged(batch, w.channels(dy), inputs)
    return array_of(f"max-pool{ndim}d-backward", chunks, dy.dtype, task, [dy, winners], w.token())


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
    """
    lazy = lazy_array("input", input, ndim)
    x = batched(lazy, ndim)
    dtype = common_dtype(("input",), x)
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
    y = array_of(f"avg-pool{ndim}d", chunks, dtype, task, [x], w.token(), divided)
    return y if x is lazy else y[0]


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
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, layout
        As in `fastconv.{name}`.

    Returns
    -------
    dask.array.Array
    """
    dy = lazy_array("grad_output", grad_output, ndim)
    dtype = common_dtype(("grad_output",), dy)
    shape = size("input_size", input_size, (ndim + 2,))
    windows = kernel_size, stride, padding, 1, ceil_mode, count_include_pad, divisor_override
    w = _windows(ndim, "input_size", shape, dtype, layout, *windows)
    of_size("grad_output", dy, w.made.output_size, "input_size")
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
    return array_of(f"avg-pool{ndim}d-backward", chunks, dtype, task, [dy], w.token(), divided)


def _to_one(ndim: int, name: str, output_size: Any) -> None:
    if any(n != 1 for n in extents("output_size", output_size, ndim, 1)):
        must_be(
            ValueError,
            "output_size",
            f"1, the mean or maximum of a plane ({name} has no others)",
            output_size,
        )


def adaptive_avg_pool_nd(ndim: int, input: Lazy, output_size: Any, *, layout: Any = None) -> Lazy:
    """The mean of each plane, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    input : dask.array.Array
        Chunked in any way, of floats.
    output_size : int or tuple of int
        1: others would need windows of several sizes.
    layout : str

    Returns
    -------
    dask.array.Array
    """
    last = layout_is_channels_last(layout, ndim)
    x = lazy_array("input", input, ndim)
    dtype = common_dtype(("input",), x)
    _to_one(ndim, "adaptive_avg_pool", output_size)
    axes = tuple(range(x.ndim - ndim - 1, x.ndim - 1) if last else range(x.ndim - ndim, x.ndim))
    return x.mean(axis=axes, keepdims=True, dtype=np.float64).astype(dtype)


def adaptive_avg_pool_nd_backward(
    ndim: int, grad_output: Lazy, input_size: Any, *, layout: Any = None
) -> Lazy:
    """The gradient of the mean of each plane, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    grad_output : dask.array.Array
        Of one cell a plane.
    input_size : tuple of int
    layout : str

    Returns
    -------
    dask.array.Array
    """
    last = layout_is_channels_last(layout, ndim)
    dy = lazy_array("grad_output", grad_output, ndim)
    dtype = common_dtype(("grad_output",), dy)
    shape = size("input_size", input_size, (ndim + 2,))
    spatial = shape[1:-1] if last else shape[2:]
    single = (shape[0], *(1,) * ndim, shape[-1]) if last else (*shape[:2], *(1,) * ndim)
    of_size("grad_output", dy, single, "input_size")
    mean = (dy.astype(np.float64) / math.prod(spatial)).astype(dtype)
    # Batch and channels as they are; a plane in chunks of Dask's usual size.
    chunks = list(dy.chunks)
    for axis in range(1, 1 + ndim) if last else range(2, 2 + ndim):
        chunks[axis] = "auto"
    cut = da.core.normalize_chunks(tuple(chunks), shape, dtype=dtype)
    return da.broadcast_to(mean, shape, chunks=cut)
