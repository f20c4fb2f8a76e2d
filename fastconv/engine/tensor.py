"""Arrays as kernels take them."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import numpy as np

from fastconv.arguments import Array, Size
from fastconv.buffers import aligned, contiguous, new_result
from fastconv.engine.partition import ceil_div
from fastconv.geometry import read_only
from fastconv.kernels.pack import reorder
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import get_num_threads, run_ranges

# Elements that a job turns.
TURNED = 2**18
# Bytes up to which the C library keeps the memory of copies by itself.
SMALL = 2**17
# Bytes from which on squares are transposed, the share of their cells that has to be there, and how far
# apart cells are up to which loops are as fast.
LEAST_TURNED, LEAST_FILLED, LEAST_STEP = 2**18, 0.3, 32
# Bytes of a cache line and of one way of L1, and the ways that what a loop reads may fill.
LINE, WAY, WAYS = 64, 4096, 2

Three = tuple[int, int, int]
Four = tuple[int, int, int, int]
# Where the first image's first channel begins; the next image, channel and cell; height and width; the next
# line; the depth; the next plane along it.
Image = tuple[int, int, int, int, int, int, int, int, int]


@dataclass(slots=True)
class Images:
    """An array (N, C, D, H, W) as the kernels see it: flat, and the steps through it.

    ``apart`` says that only every so many planes, lines and columns are seen.
    """

    flat: Array
    array: Array
    plane: int
    cell: int
    apart: Three

    @staticmethod
    def of(array: Array, channels_last: bool, apart: Three = (1, 1, 1)) -> Images:
        """An array that is contiguous in its layout."""
        channels, cells = array.shape[1], array.shape[2] * array.shape[3] * array.shape[4]
        ordered = array.transpose(0, 2, 3, 4, 1) if channels_last else array
        plane, cell = (1, channels) if channels_last else (cells, 1)
        return Images(ordered.reshape(-1), array, plane, cell, apart)

    def steps(self, first_channel: int) -> Image:
        """The steps and extents of what is seen of an array, from a channel on."""
        return self.phase(first_channel, (0, 0, 0), self.apart)

    def phase(self, first_channel: int, first: Three, stride: Three) -> Image:
        """As `steps`, of the cells that begin at ``first`` and lie ``stride`` apart."""
        _, channels, depth, height, width = self.array.shape
        cell, line, sheet = self.cell, width * self.cell, height * width * self.cell
        begin = first_channel * self.plane + first[0] * sheet + first[1] * line + first[2] * cell
        return (
            begin, channels * depth * height * width, self.plane, cell * stride[2],
            -(-(height - first[1]) // stride[1]), -(-(width - first[2]) // stride[2]), line * stride[1],
            -(-(depth - first[0]) // stride[0]), sheet * stride[0],
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
    if source.nbytes >= LEAST_TURNED:
        axes = _common_axes(target, source)
        along = next((axis for axis in axes[:-1] if axis[1] == 1), None)
        if along is not None and _squares_pay(along[0], axes[-1][0], abs(axes[-1][1]), source.itemsize):
            _turn(target, source, axes, along)
            return
        if get_num_threads() > 1:
            run_ranges(len(source), source.size, lambda first, stop: _copy(target, source, first, stop))
            return
    target[...] = source


def _turn(target: Array, source: Array, axes: list[Three], along: Three) -> None:
    """Copy in squares between the axis that is contiguous in the source and the last one."""
    lanes = VECTOR_BYTES // source.itemsize
    axes.remove(along)
    # The first axis moves fastest: the one along which the source is nearest.
    outer = sorted(axes[:-1], key=lambda axis: abs(axis[1]))
    across = axes[-1]
    pieces = [along[0], across[0]]
    longer = int(across[0] > along[0])
    pieces[longer] = ceil_div(ceil_div(TURNED, pieces[1 - longer]), lanes) * lanes
    none = [(1, 0, 0)] * (3 - len(outer))
    steps = np.array(
        [*((*axis, 1) for axis in (*outer, *none)), (*along, pieces[0]), (*across, pieces[1])], np.int64
    )
    flat, first, _ = memory(read_only(source))
    result = (target if target.flags.c_contiguous else target.transpose(0, 2, 3, 4, 1)).reshape(-1)

    def turn(begin: int, end: int) -> None:
        reorder(flat, first, result, steps, begin, end, aligned(lanes * lanes, source.dtype))

    run_ranges(prod(ceil_div(int(n), int(step)) for n, _, _, step in steps), source.size, turn)


def _squares_pay(along: int, across: int, step: int, itemsize: int) -> bool:
    """Whether squares are faster than loops over ``across`` elements of the source, ``step`` apart.

    Loops over neighbouring cache lines are not slow, since the CPU asks for the next ones by itself.
    """
    lanes, step = VECTOR_BYTES // itemsize, step * itemsize
    kept = WAYS * LINE * min(WAY // LINE, WAY // gcd(step, WAY))
    whole = ceil_div(along, lanes) * ceil_div(across, lanes) * lanes**2
    return step > LEAST_STEP and across * min(step, LINE) > kept and along * across >= LEAST_FILLED * whole


def _copy(target: Array, source: Array, first: int, stop: int) -> None:
    target[first:stop] = source[first:stop]


def _common_axes(target: Array, source: Array) -> list[Three]:
    """Extents, and steps in elements in the source and in the target, the target's innermost axis last.

    Neighbours that are one behind the other in both are one axis. Empty where steps are no whole elements.
    """
    size = source.itemsize
    merged: list[Three] = []
    if any(step % size for step in source.strides):
        return []
    steps = zip(source.shape, source.strides, target.strides, strict=True)
    axes = [(extent, step // size, written // size) for extent, step, written in steps if extent > 1]
    for extent, step, written in sorted(axes, key=lambda axis: -axis[2]):
        if merged:
            before, outer_step, outer_written = merged[-1]
            if (outer_step, outer_written) == (step * extent, written * extent):
                merged[-1] = (before * extent, step, written)
                continue
        merged.append((extent, step, written))
    return merged


def add_parts(parts: Array, out: Array | None = None) -> Array:
    """The sum of partial results, in their order; infinities of both signs meet without a warning."""
    with np.errstate(all="ignore"):
        return np.add.reduce(parts, axis=0, out=out)


def finite(array: Array) -> bool:
    """Whether all cells are finite (or, seldom, False where only their sum is not)."""
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


def pixels_first(array: Array) -> tuple[Array, int, Size]:
    """The memory of images, and their strides along (N, D, H, W), the channels contiguous."""
    flat, first, strides = memory(array.transpose(0, 2, 3, 4, 1))
    return flat, first, strides[:4]
