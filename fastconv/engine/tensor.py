"""Arrays as kernels take them."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np

from fastconv.arguments import Array, Size
from fastconv.buffers import aligned, contiguous, new_result
from fastconv.engine.partition import ceil_div
from fastconv.geometry import read_only
from fastconv.kernels.pack import reorder
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import get_num_threads, run_ranges

# Elements that a job transposes.
TRANSPOSED = 2**18
# Bytes up to which the C library keeps the memory of copies by itself.
SMALL = 2**17
# Bytes from which on squares are transposed, the share of their elements that has to be there, and how many
# bytes apart elements are up to which loops are as fast.
LEAST_TRANSPOSED, LEAST_FILLED, LEAST_STRIDE = 2**18, 0.3, 32
# Bytes of a cache line and of one way of L1, and the ways that what a loop reads may fill.
LINE, WAY, WAYS = 64, 4096, 2

Three = tuple[int, int, int]
Four = tuple[int, int, int, int]
# The fields of `fastconv.kernels.images.Image`.
Image = tuple[int, int, int, int, int, int, int, int, int]


@dataclass(slots=True)
class Images:
    """An array (N, C, D, H, W) as the kernels see it: flat, and the strides through it.

    ``apart`` says that only every so many planes, rows and columns are seen.
    """

    flat: Array
    array: Array
    channel_stride: int
    pixel_stride: int
    apart: Three

    @staticmethod
    def of(array: Array, channels_last: bool, apart: Three = (1, 1, 1)) -> Images:
        """An array that is contiguous in its layout."""
        _, channels, depth, height, width = array.shape
        ordered = array.transpose(0, 2, 3, 4, 1) if channels_last else array
        channel_stride, pixel_stride = (1, channels) if channels_last else (depth * height * width, 1)
        return Images(ordered.reshape(-1), array, channel_stride, pixel_stride, apart)

    def strides(self, first_channel: int) -> Image:
        """The strides and extents of what is seen of an array, from a channel on."""
        return self.phase(first_channel, (0, 0, 0), self.apart)

    def phase(self, first_channel: int, first: Three, stride: Three) -> Image:
        """As `strides`, of the pixels that begin at ``first`` and lie ``stride`` apart."""
        _, channels, depth, height, width = self.array.shape
        plane, row, column = first
        by_plane, by_row, by_column = stride
        pixel_stride = self.pixel_stride
        row_stride = width * pixel_stride
        plane_stride = height * row_stride
        begin = first_channel * self.channel_stride
        begin += plane * plane_stride + row * row_stride + column * pixel_stride
        return (
            begin, channels * depth * height * width, self.channel_stride, pixel_stride * by_column,
            -(-(height - row) // by_row), -(-(width - column) // by_column), row_stride * by_row,
            -(-(depth - plane) // by_plane), plane_stride * by_plane,
        )  # fmt: skip


def contiguous_in(array: Array, channels_last: bool) -> bool:
    """Whether an array (N, C, D, H, W) is contiguous in a layout."""
    return (array.transpose(0, 2, 3, 4, 1) if channels_last else array).flags.c_contiguous


def scratch_in(shape: Size, dtype: np.dtype[Any], channels_last: bool) -> Array:
    """New memory for an array (N, C, D, H, W), contiguous in a layout."""
    if not channels_last:
        return new_result(shape, dtype)
    return new_result((shape[0], *shape[2:], shape[1]), dtype).transpose(0, 4, 1, 2, 3)


def dense(array: Array, channels_last: bool) -> Array:
    """An array (N, C, D, H, W) contiguous in a layout: itself, or a copy."""
    ordered = array.transpose(0, 2, 3, 4, 1) if channels_last else array
    if ordered.flags.c_contiguous:
        return array
    if array.nbytes < SMALL:
        small = ordered.copy()
        return small.transpose(0, 4, 1, 2, 3) if channels_last else small
    copy = scratch_in(array.shape, array.dtype, channels_last)
    assign(copy, array)
    return copy


def assign(target: Array, source: Array) -> None:
    """``target[...] = source`` for arrays (N, C, D, H, W) of one dtype, the target contiguous in a layout.

    Where they are contiguous along different axes, NumPy copies element by element, at 0.3 ns each as long as
    L1 keeps the cache lines that it reads along the target, else at 1 to 5 ns: then squares of one vector's
    lanes are transposed, at 0.1 to 0.4 ns an element (float32, AVX-512 Zen 5).
    """
    if source.nbytes >= LEAST_TRANSPOSED:
        axes = _common_axes(target, source)
        along = next((axis for axis in axes[:-1] if axis.stride == 1), None)
        if along is not None and _squares_pay(along, axes[-1], source.itemsize):
            _transpose(target, source, axes, along)
            return
        if get_num_threads() > 1:
            run_ranges(len(source), source.size, lambda first, stop: _copy(target, source, first, stop))
            return
    target[...] = source


class _Axis(NamedTuple):
    """An axis that two arrays have in common: strides are in elements."""

    extent: int
    stride: int  # of the source
    written: int  # of the target


def _transpose(target: Array, source: Array, axes: list[_Axis], along: _Axis) -> None:
    """Copy in squares between the axis that is contiguous in the source and the last one."""
    lanes = VECTOR_BYTES // source.itemsize
    axes.remove(along)
    # The first axis moves fastest: the one along which the source is nearest.
    outer = sorted(axes[:-1], key=lambda axis: abs(axis.stride))
    across = axes[-1]
    # Of the longer side of a piece as much as fills it.
    length, width = along.extent, across.extent
    if width > length:
        width = ceil_div(ceil_div(TRANSPOSED, length), lanes) * lanes
    else:
        length = ceil_div(ceil_div(TRANSPOSED, width), lanes) * lanes
    outer += [_Axis(1, 0, 0)] * (3 - len(outer))
    table = np.array([*((*axis, 1) for axis in outer), (*along, length), (*across, width)], np.int64)
    flat, first, _ = memory(read_only(source))
    result = (target if target.flags.c_contiguous else target.transpose(0, 2, 3, 4, 1)).reshape(-1)

    def transpose(begin: int, end: int) -> None:
        reorder(flat, first, result, table, begin, end, aligned(lanes * lanes, source.dtype))

    run_ranges(prod(ceil_div(int(n), int(piece)) for n, _, _, piece in table), source.size, transpose)


def _squares_pay(along: _Axis, across: _Axis, itemsize: int) -> bool:
    """Whether squares are faster than loops over the elements ``across`` of the source.

    Loops over neighbouring cache lines are not slow, since the CPU prefetches the next ones by itself.
    """
    lanes, stride = VECTOR_BYTES // itemsize, abs(across.stride) * itemsize
    kept = WAYS * LINE * min(WAY // LINE, WAY // gcd(stride, WAY))
    filled = along.extent * across.extent
    whole = ceil_div(along.extent, lanes) * ceil_div(across.extent, lanes) * lanes**2
    far = stride > LEAST_STRIDE and across.extent * min(stride, LINE) > kept
    return far and filled >= LEAST_FILLED * whole


def _copy(target: Array, source: Array, first: int, stop: int) -> None:
    target[first:stop] = source[first:stop]


def _common_axes(target: Array, source: Array) -> list[_Axis]:
    """Axes of both arrays, the target's innermost last.

    Neighbours that are one behind the other in both are one axis. Empty where strides are no whole elements.
    """
    size = source.itemsize
    merged: list[_Axis] = []
    if any(stride % size for stride in source.strides):
        return []
    strides = zip(source.shape, source.strides, target.strides, strict=True)
    axes = [_Axis(extent, read // size, written // size) for extent, read, written in strides if extent > 1]
    for axis in sorted(axes, key=lambda axis: -axis.written):
        if merged:
            outer = merged[-1]
            if (outer.stride, outer.written) == (axis.stride * axis.extent, axis.written * axis.extent):
                merged[-1] = _Axis(outer.extent * axis.extent, axis.stride, axis.written)
                continue
        merged.append(axis)
    return merged


def add_parts(parts: Array, out: Array | None = None) -> Array:
    """The sum of partial results, in their order; infinities of both signs meet without a warning."""
    with np.errstate(all="ignore"):
        return np.add.reduce(parts, axis=0, out=out)


def finite(array: Array) -> bool:
    """Whether all elements are finite (or, seldom, False where only their sum is not)."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum()))


def memory(array: Array) -> tuple[Array, int, Size]:
    """The memory of an array in one dimension, its first element there, and its strides in elements.

    Nothing is copied unless the strides are no whole elements.
    """
    size = array.itemsize
    if array.flags.c_contiguous or array.size == 0:
        return array.reshape(-1), 0, tuple(stride // size for stride in array.strides)
    if any(stride % size for stride in array.strides):
        return memory(contiguous(array))
    strides = tuple(stride // size for stride in array.strides)
    reach = [(n - 1) * stride for n, stride in zip(array.shape, strides, strict=True)]
    first = -sum(r for r in reach if r < 0)
    lowest = array[tuple(slice(-1, None) if r < 0 else slice(0, None) for r in reach)]
    length = 1 + sum(map(abs, reach))
    return np.lib.stride_tricks.as_strided(lowest, (length,), (size,)), first, strides


def pixels_first(array: Array) -> tuple[Array, Image]:
    """The memory of images (N, C, D, H, W) whose channels are contiguous, and where they lie in it."""
    flat, first, strides = memory(array.transpose(0, 2, 3, 4, 1))
    image, plane, row, pixel, channel = strides
    _, _, depth, height, width = array.shape
    return flat, (first, image, channel, pixel, height, width, row, depth, plane)
