"""The passes of pooling over arrays that have been checked: which kernel runs, over which ranges.

Contiguous float32 and float64 go to the kernels that work a vector of windows at a time; integers, strided
views and the adaptive windows of a plane go to plain loops, which read any array through any windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from fastconv import kernels
from fastconv.arguments import Array, Size
from fastconv.geometry import channels_first_size, layout_size, normal_form, read_only
from fastconv.kernels import pooling_vectors as vectors
from fastconv.threads import run_ranges
from fastconv.windows import FixedAxis, Windows

# Vectors hold the indices of a plane in 32 bits.
VECTOR_CELLS = 2**31 - 1
# So many channels of an image are one job of max-pooling's gradient, channels last.
CHANNEL_BLOCK = 64


class Planes:
    """How the arrays of one call are laid out: batched or not, channels second or last."""

    def __init__(self, batched: bool, channels_last: bool) -> None:
        self.batched = batched
        self.channels_last = channels_last

    def normal(self, array: Array) -> Array:
        """A view with axes (batch, channels, depth, height, width)."""
        return normal_form(array if self.batched else array[np.newaxis], self.channels_last)

    def leading_and_extent(self, shape: Size) -> tuple[Size, Size]:
        """(batch, channels) and the spatial extents of an array of this shape."""
        full = channels_first_size(shape if self.batched else (1, *shape), self.channels_last)
        return full[:2], full[2:]

    def size(self, leading: Size, extent: Size) -> Size:
        """The shape of an array in the call's layout."""
        shape = layout_size((*leading, *extent), self.channels_last)
        return shape if self.batched else shape[1:]


@dataclass(frozen=True, eq=False)
class Pooling:
    """All that a pass knows before its data: the layout, the sizes, the windows, what sums are divided by."""

    planes: Planes
    windows: Windows
    leading: Size  # (N, C)
    input_size: Size
    output_size: Size
    padded: bool = True  # whether cells in the padding count
    divisor: int | None = None  # instead of any count

    @cached_property
    def extent(self) -> Size:
        """(D, H, W)."""
        return tuple(axis.extent for axis in self.windows.axes)

    @cached_property
    def output(self) -> Size:
        """(OD, OH, OW)."""
        return tuple(axis.output for axis in self.windows.axes)

    @cached_property
    def visited(self) -> int:
        """Cells that a pass visits, as `run_ranges` counts them."""
        return prod(self.input_size) + 4 * prod(self.output_size)

    @cached_property
    def tables(self) -> tuple[Array, ...]:
        """Start and stop of the windows along each axis."""
        return tuple(axis.table for axis in self.windows.axes)

    @cached_property
    def covers(self) -> tuple[Array, ...]:
        """The windows over each cell along each axis."""
        return tuple(axis.covers for axis in self.windows.axes)

    @cached_property
    def steps(self) -> Size:
        """Dilation along each axis."""
        return tuple(axis.step for axis in self.windows.axes)

    @cached_property
    def some_empty(self) -> bool:
        """Whether some window has no cell."""
        return any(axis.some_empty for axis in self.windows.axes)

    @cached_property
    def counts(self) -> tuple[Array, ...]:
        """What sums are divided by, as one float64 factor an axis."""
        axes = self.windows.axes
        if self.divisor is None:
            return tuple((axis.padded if self.padded else axis.valid).astype(np.float64) for axis in axes)
        return tuple(
            np.full(axis.output, float(count)) for axis, count in zip(axes, (self.divisor, 1, 1), strict=True)
        )

    @cached_property
    def count(self) -> float | None:
        """What every sum is divided by, if that is one number."""
        same = all((counts == counts[0]).all() for counts in self.counts)
        return prod(float(counts[0]) for counts in self.counts) if same else None

    @cached_property
    def factors(self) -> tuple[Array, ...]:
        """One over `counts`."""
        return tuple(1 / counts for counts in self.counts)

    @cached_property
    def line(self) -> Size | None:
        """Start, stride, taps and dilation of the windows along the width, if they are one size."""
        width = self.windows.axes[2]
        if not isinstance(width, FixedAxis):
            return None
        return -width.before, width.stride, width.taps, width.step

    @cached_property
    def lines(self) -> tuple[Any, ...]:
        """What kernels know of the lines of an output plane: rows, extents, steps, line."""
        depth, height, width = self.extent
        step_d, step_h, _ = self.steps
        rows = _rows(self.tables[:2], (step_d, step_h), (height, width))
        return (
            rows,
            (depth * height * width, width, self.output[2]),
            (step_d * height * width, step_h * width),
            self.line,
        )

    @cached_property
    def covered_lines(self) -> tuple[Any, ...]:
        """What kernels know of the lines of a plane under windows: rows, extents, steps."""
        depth, height, windows = self.output
        rows = _rows(self.covers[:2], (1, 1), (height, windows))
        # From how many lines before the next one that differs each is.
        changes = np.append(np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1)) + 1, len(rows))
        lines = np.arange(len(rows))
        same = changes[np.searchsorted(changes, lines, side="right")] - lines
        extents = (depth * height * windows, windows, self.extent[2])
        return np.column_stack([rows, same]), extents, (height * windows, windows)

    @cached_property
    def is_global(self) -> bool:
        """Whether there is one window, and it is the plane."""
        return all(axis.table.tolist() == [[0, axis.extent]] for axis in self.windows.axes)

    def suits_vectors(self, array: Array) -> bool:
        """Whether the vector kernels read arrays like this one."""
        return array.flags.c_contiguous and array.dtype.char in "fd" and prod(self.extent) <= VECTOR_CELLS


def _rows(tables: tuple[Array, ...], steps: tuple[int, int], extent: tuple[int, int]) -> Array:
    """int64 (lines, 3): where the windows of each line of a plane begin, and their taps along depth, height.

    ``extent`` is (H, W) of the planes that the windows are in.
    """
    (depth, height), (lines, cells) = tables, extent
    first = (depth[:, 0, None] * lines + height[:, 0]) * cells
    taps_d, taps_h = (
        np.maximum(0, -((table[:, 0] - table[:, 1]) // step))
        for table, step in zip(tables, steps, strict=True)
    )
    rows = np.broadcast_arrays(first, taps_d[:, None], taps_h)
    return np.ascontiguousarray(np.stack(rows, axis=-1).reshape(-1, 3))


def _flat(array: Array) -> Array:
    """A contiguous input as a kernel takes it: one-dimensional, and not to be written."""
    view = array.reshape(-1)
    view.flags.writeable = False
    return view


def _run(
    kernel: Callable[..., Any], units: int, visited: int, arrays: tuple[Array, ...], sizes: tuple[Any, ...]
) -> int:
    """A kernel over ranges of its units, which it takes between its arrays and its sizes."""
    return run_ranges(units, visited, lambda first, stop: kernel(*arrays, first, stop, *sizes))


def max_forward(x: Array, result: Array, indices: Array, pooling: Pooling) -> None:
    """Write the maxima and, unless ``indices`` is empty, where they stand."""
    (batch, channels), extent, output = pooling.leading, pooling.extent, pooling.output
    lines, visited = batch * channels * output[0] * output[1], pooling.visited
    suited, line = pooling.suits_vectors(x), pooling.line
    if not suited or not (pooling.planes.channels_last or line):
        if pooling.some_empty:
            result[...] = -np.inf
        normal = pooling.planes.normal
        arrays = read_only(normal(x)), normal(result), normal(indices)
        _run(kernels.max_pool, lines, visited, arrays, (*pooling.tables, pooling.steps))
        return
    arrays = _flat(x), result.reshape(-1), indices.reshape(-1)
    if pooling.planes.channels_last:
        sizes = channels, extent, output, *pooling.tables, pooling.steps
        _run(vectors.max_pool_pixels, batch * prod(output), visited, arrays, sizes)
    else:
        _run(vectors.max_pool_lines, lines, visited, arrays, pooling.lines)


def max_backward(dy: Array, indices: Array, planes: Planes, shape: Size) -> tuple[Array, int]:
    """The gradient of an input of this shape, and how many indices lay outside its planes."""
    (batch, channels), extent = planes.leading_and_extent(shape)
    visited = prod(shape) + 4 * dy.size
    if dy.dtype.char not in "fd" or not (dy.flags.c_contiguous and indices.flags.c_contiguous):
        dx = np.zeros(shape, dy.dtype)
        arrays = read_only(planes.normal(dy)), read_only(planes.normal(indices)), planes.normal(dx)
        return dx, _run(kernels.max_pool_backward, batch * channels, visited, arrays, ())
    dx = np.empty(shape, dy.dtype)
    arrays = _flat(dy), _flat(indices), dx.reshape(-1)
    windows, cells = prod(planes.leading_and_extent(dy.shape)[1]), prod(extent)
    if planes.channels_last:
        blocks = batch * -(-channels // CHANNEL_BLOCK)
        sizes = CHANNEL_BLOCK, channels, windows, cells
        return dx, _run(vectors.max_pool_backward_pixels, blocks, visited, arrays, sizes)
    sizes = windows, cells
    return dx, _run(vectors.max_pool_backward_planes, batch * channels, visited, arrays, sizes)


def avg_forward(x: Array, out: Array, pooling: Pooling) -> None:
    """Write the means."""
    (batch, channels), extent, output = pooling.leading, pooling.extent, pooling.output
    lines, visited = batch * channels * output[0] * output[1], pooling.visited
    suited, line, tables = pooling.suits_vectors(x), pooling.line, pooling.tables
    arrays = (_flat(x), out.reshape(-1)) if suited else ()
    if suited and pooling.planes.channels_last:
        sizes = channels, extent, output, *tables, *pooling.factors
        _run(vectors.avg_pool_pixels, batch * prod(output), visited, arrays, sizes)
    elif suited and pooling.is_global and pooling.count:
        sizes = prod(extent), 1 / pooling.count
        _run(vectors.mean_planes, batch * channels, visited, arrays, sizes)
    elif suited and line:
        depth, height, width = pooling.factors
        rows, *sizes = pooling.lines
        factors = np.outer(depth, height).ravel(), width
        _run(vectors.avg_pool_lines, lines, visited, arrays, (rows, *factors, *sizes))
    else:
        arrays = read_only(pooling.planes.normal(x)), pooling.planes.normal(out)
        _run(kernels.avg_pool, lines, visited, arrays, (*tables, *pooling.counts))


def avg_backward(dy: Array, dx: Array, pooling: Pooling) -> None:
    """Write the gradient of the input: a sum over the windows that cover each cell."""
    (batch, channels), extent, output = pooling.leading, pooling.extent, pooling.output
    lines, visited = batch * channels * extent[0] * extent[1], pooling.visited
    line, covers = pooling.line, pooling.covers
    channels_last, one_window = pooling.planes.channels_last, pooling.is_global
    if not pooling.suits_vectors(dy) or not (channels_last or one_window or line):
        arrays = read_only(pooling.planes.normal(dy)), pooling.planes.normal(dx)
        _run(kernels.avg_pool_backward, lines, visited, arrays, (*covers, *pooling.counts))
        return
    share = 1 / pooling.count if pooling.count else 1.0
    if not pooling.count:
        dy = _divided(dy, pooling)
    arrays = _flat(dy), dx.reshape(-1)
    if channels_last:
        sizes = channels, extent, output, *covers, share
        _run(vectors.avg_pool_backward_pixels, batch * prod(extent), visited, arrays, sizes)
    elif one_window:
        sizes = prod(extent), share
        _run(vectors.fill_planes, batch * channels, visited, arrays, sizes)
    elif line[1] == 1:  # sums at a stride of 1
        rows, *sizes = pooling.covered_lines
        factors = np.full(len(rows), share), np.ones(extent[2])
        start = line[0] + line[2] - 1
        _run(
            vectors.avg_pool_lines, lines, visited, arrays, (rows, *factors, *sizes, (-start, 1, line[2], 1))
        )
    else:
        sizes = *pooling.covered_lines, line, share
        _run(vectors.avg_pool_backward_lines, lines, visited, arrays, sizes)


def _divided(dy: Array, pooling: Pooling) -> Array:
    """Every gradient by the count of its window."""
    depth, height, width = pooling.counts
    counts = (depth[:, None, None] * height[:, None] * width).astype(dy.dtype)
    output = pooling.output[3 - len(pooling.windows.output) :]
    return np.asarray(dy / counts.reshape((*output, 1) if pooling.planes.channels_last else output))
