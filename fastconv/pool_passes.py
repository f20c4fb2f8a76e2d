"""The passes of pooling over arrays that have been checked: which kernel runs, over which ranges.

Float32 and float64 go to kernels that work a vector of windows at a time, or add up a list of pairs; integers
go to plain loops. All of them see contiguous arrays, channels first or last: `run` copies what is not, some
planes at a time, and computes in the order of axes in which there is least to copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from operator import attrgetter
from typing import Any

import numpy as np

from fastconv import kernels
from fastconv.arguments import Array, Size
from fastconv.buffers import aligned, new_result
from fastconv.geometry import channels_first_size, layout_size, normal_form, read_only
from fastconv.kernels import pooling_vectors as vectors
from fastconv.kernels.pooling_wide import avg_pool_wide, max_pool_backward_ties_wide, max_pool_wide
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs, run_ranges
from fastconv.wide_windows import MOST_PADDING, WideAxis, WideTies, WideWindows
from fastconv.windows import FixedAxis, Windows

# Vectors hold positions and indices of a plane in 32 bits.
VECTOR_CELLS = 2**30
# Planes of more lines than this (each is some 30 bytes of a table) are not cut into lines shorter than 32.
MOST_LINES = 2**16
# So many channels of an image are one job of max-pooling's gradient, channels last.
CHANNEL_BLOCK = 64
# Planes up to here are written once by the gradient of their maxima; larger ones are zeroed, which the CPU
# does without reading them, and added to: of batches that come from memory, (8, 64, 128, 128) and smaller
# ones 1.3 to 1.5 times as fast, (4, 64, 144, 144) and larger ones 0.8 to 0.9 (AMD EPYC 9004).
ROUTED_BYTES = 2**16
# Lists of pairs are not longer than this (each is 8 bytes).
MOST_PAIRS = 2**16
# Adding so many pairs of a cell and a window takes as long as a vector of windows, on an AVX-512 Xeon.
VECTOR_PAIRS = 32
# Nanoseconds that a tap of a vector of windows takes, by the stride: 1, 2 and more (channels last, always the
# first); that a cell of the boxes of wide windows takes, and how many more a line of them (AMD EPYC, Zen 5).
TAP_COST = {
    "max": (3.0, 3.7, 7.0),
    "argmax": (3.0, 3.7, 7.0),
    "mean": (0.75, 1.4, 4.8),
    "gradient": (0.75, 0.75, 0.75),
    "ties": (6.0, 7.5, 50.0),
}
CELL_COST = {"max": 1.0, "argmax": 3.6, "mean": 2.2, "gradient": 2.2, "ties": 4.5}
LINE_COST = 150.0
# Fewer channels than half a vector are computed channels first, from so many cells on: means of 3x3 cells of
# (4, 256, 256, 3) in 1.4 ms instead of 4.7 (float32, one core of an AMD EPYC, Zen 5).
TURNED_CELLS = 2**16
CACHED_ROUTINGS = 256
# Planes are copied so many bytes at a time, at least one; images with their channels last are copied whole up
# to here, and larger ones some channels at a time. Means of 2x2 cells of a crop of (8, 64, 60, 62) take
# 1.04 times as long as a copy and the call, 1.13 with half a megabyte (float32, AMD EPYC, Zen 5).
COPIED_BYTES, IMAGE_BYTES = 2**21, 2**23


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What pooling runs in: float16 in float32, which holds every float16."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


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


@dataclass(frozen=True)
class Step:
    """What is left to do once there are contiguous arrays: a kernel, how much of it, its other arguments."""

    kernel: Callable[..., Any]
    units: int  # that the kernel takes ranges of
    visited: int  # cells, as `run_ranges` counts them
    sizes: tuple[Any, ...] = ()
    normal: Callable[[Array], Array] | None = None  # views that the kernel takes; None for flat ones
    fill: float | None = None  # what the first target holds before
    # Made for every range of the kernel's arrays; its last arguments.
    scratch: Callable[[Sequence[Array]], tuple[Array, ...]] | None = None

    def bound(self, sources: Sequence[Array], targets: Sequence[Array]) -> Callable[[int, int], int]:
        """Kernels take their arrays, then a range, then their sizes."""
        kernel, sizes, scratch = self.kernel, self.sizes, self.scratch
        if self.normal is None:
            arrays = [_flat(array) for array in sources] + [array.reshape(-1) for array in targets]
        else:
            views = [self.normal(array) for array in (*sources, *targets)]
            arrays = [read_only(view) for view in views[: len(sources)]] + views[len(sources) :]
        if self.fill is not None:
            targets[0][...] = self.fill
        if scratch is None:
            return lambda first, stop: kernel(*arrays, first, stop, *sizes)
        return lambda first, stop: kernel(*arrays, first, stop, *sizes, *scratch(arrays))

    def run(self, sources: Sequence[Array], targets: Sequence[Array]) -> int:
        """The sum of what the kernel returns."""
        return run_ranges(self.units, self.visited, self.bound(sources, targets))


def _flat(array: Array) -> Array:
    """A contiguous input as most kernels take it: one-dimensional, and not to be written."""
    view = array.reshape(-1)
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class Pooling:
    """All that a pass knows before its data: the layout, the sizes, the windows, what sums are divided by."""

    planes: Planes
    windows: Windows
    dtype: np.dtype[Any]  # that is computed in
    leading: Size  # (N, C)
    input_size: Size
    output_size: Size
    padded: bool = True  # whether cells in the padding count
    divisor: int | None = None  # instead of any count

    @cached_property
    def is_empty(self) -> bool:
        """Whether no window has a cell, or there are no windows."""
        return 0 in self.input_size or 0 in self.output_size

    @cached_property
    def channels_last(self) -> bool:
        """Whether kernels find the channels last in memory; one channel is neither, one cell is both."""
        one_cell = prod(self.extent) == prod(self.output) == 1
        return self.leading[1] > 1 and (self.planes.channels_last or one_cell)

    @cached_property
    def prefers_planes(self) -> bool:
        """Whether the channels come first in kernels wherever they are, as they are few beside a vector."""
        few = self.leading[1] * self.dtype.itemsize < VECTOR_BYTES // 2
        return few and self.for_vectors and prod(self.input_size) >= TURNED_CELLS

    @cached_property
    def _parts(self) -> dict[tuple[Size, bool], Pooling]:
        return {}

    def part(self, leading: Size, channels_last: bool) -> Pooling:
        """The same windows over so many images and channels (N, C), in arrays of five axes."""
        key = leading, channels_last
        if key not in self._parts:
            planes = Planes(True, channels_last)
            sizes = planes.size(leading, self.extent), planes.size(leading, self.output)
            made = replace(self, planes=planes, leading=leading, input_size=sizes[0], output_size=sizes[1])
            self._parts[key] = made
        return self._parts[key]

    @property
    def for_vectors(self) -> bool:
        """Whether the vector kernels serve."""
        return self.dtype.char in "fd" and prod(self.extent) <= VECTOR_CELLS

    @cached_property
    def extent(self) -> Size:
        """(D, H, W)."""
        return tuple(axis.extent for axis in self.windows.axes)

    @cached_property
    def output(self) -> Size:
        """(OD, OH, OW)."""
        return tuple(axis.output for axis in self.windows.axes)

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

    @property
    def share(self) -> float:
        """The factor of every gradient, which has been divided by its count where those are not the same."""
        return 1 / self.count if self.count else 1.0

    @cached_property
    def line(self) -> Size | None:
        """Start, stride, taps and dilation of the windows along the width, if lines are to be computed.

        Not where windows differ in size, nor where a table of very many short lines would outgrow the data.
        """
        width, (extent, output) = self.windows.axes[2], (self.extent, self.output)
        lines = max(prod(extent[:2]), prod(output[:2]))
        if not isinstance(width, FixedAxis) or (lines > MOST_LINES and min(extent[2], output[2]) < 32):
            return None
        start, taps = width.clipped
        return None if taps > MOST_PADDING * extent[2] else (start, width.stride, taps, width.step)

    @cached_property
    def lines(self) -> tuple[Any, ...]:
        """What kernels know of the lines of an output plane: rows, extents, steps."""
        depth, height, width = self.extent
        step_d, step_h, _ = self.steps
        rows = _rows(
            self.windows.axes[0].table, self.windows.axes[1].table, (step_d, step_h), (height, width)
        )
        return (
            rows,
            (depth * height * width, width, self.output[2]),
            (step_d * height * width, step_h * width),
        )

    @cached_property
    def covered_lines(self) -> tuple[Any, ...]:
        """What kernels know of the lines of a plane under windows: rows, extents, steps."""
        depth, height, windows = self.output
        rows = _rows(self.windows.axes[0].covers, self.windows.axes[1].covers, (1, 1), (height, windows))
        # From how many lines before the next one that differs each is.
        changes = np.append(np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1)) + 1, len(rows))
        lines = np.arange(len(rows))
        same = changes[np.searchsorted(changes, lines, side="right")] - lines
        extents = (depth * height * windows, windows, self.extent[2])
        return np.column_stack([rows, same]), extents, (height * windows, windows)

    @cached_property
    def pairs(self) -> int:
        """How many pairs there are of a window and a cell that it holds, in a plane."""
        return prod(int((table[:, 1] - table[:, 0]).sum()) for table in self.tables)

    @cached_property
    def paired(self) -> tuple[Array, Array]:
        """The cell and the window of every pair, int32, counted in their planes.

        All windows' first taps come first, then all second ones, so that no sum waits for the one before.
        """
        cells: Any = 0
        windows: Any = 0
        there: Any = True
        for axis, table in enumerate(self.tables):
            shape = [1] * 6  # taps along each axis, then windows
            shape[axis], shape[3 + axis] = -1, len(table)
            tap = np.arange((table[:, 1] - table[:, 0]).max())[:, None] + table[:, 0]
            cells = cells * self.extent[axis] + tap.reshape(shape)
            windows = windows * self.output[axis] + np.arange(len(table)).reshape(shape[3:])
            there = there & (tap < table[:, 1]).reshape(shape)
        cells, windows = np.broadcast_arrays(cells, windows)
        return cells[there].astype(np.int32), windows[there].astype(np.int32)

    @property
    def has_few_pairs(self) -> bool:
        """Whether pairs can be listed."""
        return max(prod(self.extent), prod(self.output)) <= MOST_PAIRS and self.pairs <= MOST_PAIRS

    def prefers_pairs(self, lines: int, width: int) -> bool:
        """Whether a list of pairs is faster than so many lines of vectors a plane."""
        lanes = VECTOR_BYTES // self.dtype.itemsize
        return self.pairs <= min(MOST_PAIRS, VECTOR_PAIRS * lines * -(-width // lanes))

    @cached_property
    def is_global(self) -> bool:
        """Whether there is one window, and it is the plane."""
        return prod(self.output) == 1 and self.pairs == prod(self.extent)

    def _step(self, kernel: Callable[..., Any], units: int, *sizes: Any) -> Step:
        return Step(kernel, units, prod(self.input_size) + 4 * prod(self.output_size), sizes)

    def _loops(self, kernel: Callable[..., Any], lines: int, *sizes: Any) -> Step:
        """A plain loop over so many lines a plane, or over planes."""
        return replace(self._step(kernel, prod(self.leading) * lines, *sizes), normal=self.planes.normal)

    def _wide(self, backward: bool = False) -> WideWindows | None:
        """The windows, or those of the gradient of the mean, for the kernels of wide ones."""
        axes = []
        for axis in self.windows.axes:
            if isinstance(axis, FixedAxis):
                start, taps = axis.clipped
                if backward:
                    lead = taps - 1 + start
                    axes.append(WideAxis(axis.output, axis.extent, lead, axis.stride, 1, taps, 1))
                else:
                    axes.append(WideAxis(axis.extent, axis.output, -start, 1, axis.stride, taps, axis.step))
            elif axis.extent == axis.output == 1:
                axes.append(WideAxis(1, 1, 0, 1, 1, 1, 1))
            else:
                return None
        (batch, channels), last = self.leading, self.channels_last
        images = batch if last else batch * channels
        return WideWindows(images, channels if last else 1, (axes[0], axes[1], axes[2]))

    def _wide_step(self, direct: Step, kind: str) -> Step:
        """Wide windows axis by axis, where that is faster than ``direct``."""
        backward = kind == "gradient"
        if direct.kernel is vectors.mean_planes:  # which reads memory as fast as it comes
            return direct
        wide = self._wide(backward) if self.dtype.itemsize * prod(self.extent) < 2**31 else None
        if wide is None or not self._is_faster(wide, wide.cells, kind):
            return direct
        elements, visited = wide.elements, max(direct.visited, 2 * wide.cells)
        if kind in ("max", "argmax"):

            def scratch(arrays: Sequence[Array]) -> tuple[Array, ...]:
                places = elements if arrays[-1].size else 0
                values = aligned(3 * elements, self.dtype).reshape(3, elements)
                return values, aligned(3 * places, np.dtype(np.int32)).reshape(3, places)

            return Step(max_pool_wide, wide.tiles, visited, (*wide.sizes, self._lowest), scratch=scratch)

        def sums(arrays: Sequence[Array]) -> tuple[Array, ...]:
            return (aligned(3 * elements, np.dtype(np.float64)).reshape(3, elements),)

        counts = self.counts
        if backward:
            divisor = self.count or 1.0
            counts = tuple(np.full(n, c) for n, c in zip(self.extent, (divisor, 1.0, 1.0), strict=True))
        return Step(avg_pool_wide, wide.tiles, visited, (*wide.sizes, *counts), scratch=sums)

    @property
    def _lowest(self) -> Array:
        """A number that no other is below, as an array."""
        return np.array([-np.inf if self.dtype.kind == "f" else np.iinfo(self.dtype).min], self.dtype)

    def _is_faster(self, wide: WideWindows, cells: int, kind: str) -> bool:
        """Whether boxes of so many cells in all (none: 0) take less than every tap of every window."""
        backward, last = kind == "gradient", self.channels_last
        lanes = VECTOR_BYTES // self.dtype.itemsize if self.for_vectors else 1
        taps = [
            -(-axis.taps // axis.spread) if backward else min(axis.taps, axis.extent) for axis in wide.axes
        ]
        *lines, width = self.extent if backward else self.output
        batch, channels = self.leading
        per_line = width * -(-channels // lanes) if last else channels * -(-width // lanes)
        cost = TAP_COST[kind][0 if last or lanes == 1 else min(wide.axes[2].stride, 3) - 1]
        wide_cost = CELL_COST[kind] * cells + LINE_COST * wide.lines
        return cells > 0 and wide_cost < cost * batch * prod(lines) * per_line * prod(taps)

    @cached_property
    def max_step(self) -> Step:
        """The maxima."""
        return self._wide_step(self._direct_max, "max")

    @cached_property
    def argmax_step(self) -> Step:
        """The maxima and where they stand."""
        return self._wide_step(self._direct_max, "argmax")

    @property
    def _direct_max(self) -> Step:
        (batch, channels), extent, output = self.leading, self.extent, self.output
        if self.for_vectors and self.channels_last:
            sizes = channels, extent, output, *self.tables, self.steps
            return self._step(vectors.max_pool_pixels, batch * prod(output), *sizes)
        if self.for_vectors and self.line:
            lines = batch * channels * prod(output[:2])
            return self._step(vectors.max_pool_lines, lines, *self.lines, self.line)
        loops = self._loops(kernels.max_pool, prod(output[:2]), *self.tables, self.steps)
        return replace(loops, fill=-np.inf) if self.some_empty else loops

    @cached_property
    def ties_step(self) -> Step:
        """The gradients of the maxima, to all that are equal; floats are of one dtype."""
        wide = self._wide()
        if wide is None:
            return self._direct_ties
        ties = WideTies(wide)
        if not self._is_faster(wide, ties.cells, "ties"):
            return self._direct_ties

        def scratch(arrays: Sequence[Array]) -> tuple[Array, ...]:
            dy, x, _ = arrays
            return aligned(ties.elements[0], x.dtype), aligned(ties.elements[1], dy.dtype)

        visited = max(prod(self.input_size), 4 * ties.cells)
        return Step(
            max_pool_backward_ties_wide, ties.tiles, visited, (*ties.sizes, self._lowest), scratch=scratch
        )

    @property
    def _direct_ties(self) -> Step:
        (batch, channels), extent, output = self.leading, self.extent, self.output
        if self.for_vectors and self.channels_last:
            sizes = CHANNEL_BLOCK, channels, extent, output, *self.tables, self.steps
            blocks = batch * -(-channels // CHANNEL_BLOCK)
            return self._step(vectors.max_pool_backward_ties_pixels, blocks, *sizes)
        if self.for_vectors and self.line:
            sizes = *self.lines, self.line
            return self._step(vectors.max_pool_backward_ties_planes, batch * channels, *sizes)
        return self._loops(kernels.max_pool_backward_ties, 1, *self.tables, self.steps)

    @property
    def _avg_loops(self) -> Step:
        return self._loops(kernels.avg_pool, prod(self.output[:2]), *self.tables, *self.counts)

    @cached_property
    def avg_step(self) -> Step:
        """The means."""
        return self._wide_step(self._direct_avg, "mean")

    @property
    def _direct_avg(self) -> Step:
        (batch, channels), extent, output = self.leading, self.extent, self.output
        depth, height, width = self.factors
        lines = prod(output[:2])
        if not self.for_vectors:
            return self._avg_loops
        if self.channels_last:
            sizes = channels, extent, output, *self.tables, depth, height, width
            return self._step(vectors.avg_pool_pixels, batch * prod(output), *sizes)
        if self.is_global:
            factor = depth[0] * height[0] * width[0]
            return self._step(vectors.mean_planes, batch * channels, prod(extent), factor)
        if self.has_few_pairs and (not self.line or self.prefers_pairs(lines, output[2])):
            factors = (depth[:, None, None] * height[:, None] * width).ravel()
            sizes = *self.paired, factors, prod(extent)
            return self._step(vectors.avg_pool_pairs, batch * channels, *sizes)
        if self.line:
            rows, extents, steps = self.lines
            sizes = rows, np.outer(depth, height).ravel(), width, extents, steps, self.line
            return self._step(vectors.avg_pool_lines, batch * channels * lines, *sizes)
        return self._avg_loops

    @property
    def _avg_backward_loops(self) -> Step:
        counts = self.counts if self.count else tuple(map(np.ones_like, self.counts))
        return self._loops(kernels.avg_pool_backward, prod(self.extent[:2]), *self.covers, *counts)

    @cached_property
    def avg_backward_step(self) -> Step:
        """The gradients of the means, which have been divided by counts that are not the same."""
        return self._wide_step(self._direct_avg_backward, "gradient")

    @property
    def _direct_avg_backward(self) -> Step:
        (batch, channels), extent, output = self.leading, self.extent, self.output
        share, cells, line = self.share, prod(extent), self.line
        if not self.for_vectors:
            return self._avg_backward_loops
        if self.channels_last:
            sizes = channels, extent, output, *self.covers, share
            return self._step(vectors.avg_pool_backward_pixels, batch * cells, *sizes)
        if self.is_global:
            return self._step(vectors.fill_planes, batch * channels, cells, share)
        if self.has_few_pairs and (not line or self.prefers_pairs(*self._gradient_vectors(line[1]))):
            cells_of, windows_of = self.paired
            sizes = windows_of, cells_of, np.full(cells, share), prod(output)
            return self._step(vectors.avg_pool_pairs, batch * channels, *sizes)
        lines = batch * channels * prod(extent[:2])
        if line and line[1] == 1:  # sums of gradients, at a stride of 1
            rows, extents, steps = self.covered_lines
            gradients = 1 - line[0] - line[2], 1, line[2], 1
            sizes = rows, np.full(len(rows), share), np.ones(extent[2]), extents, steps, gradients
            return self._step(vectors.avg_pool_lines, lines, *sizes)
        if line:
            return self._step(vectors.avg_pool_backward_lines, lines, *self.covered_lines, line, share)
        return self._avg_backward_loops

    def _gradient_vectors(self, stride: int) -> tuple[int, int]:
        """Lines of a plane that the gradient of the mean computes, and the vectors' lanes that one takes."""
        rows = self.covered_lines[0]
        if stride == 1:
            return len(rows), self.extent[2]
        return int(np.count_nonzero(rows[:, 3] == 1)), -(-self.extent[2] // 2)


def _rows(depth: Array, height: Array, steps: tuple[int, int], extent: tuple[int, int]) -> Array:
    """int64 (lines, 3): where the windows of each line of a plane begin, and their taps along depth, height.

    ``extent`` is (H, W) of the planes that the windows are in.
    """
    lines, cells = extent
    first = (depth[:, 0, None] * lines + height[:, 0]) * cells
    taps_d, taps_h = (
        np.maximum(0, -((table[:, 0] - table[:, 1]) // step))
        for table, step in zip((depth, height), steps, strict=True)
    )
    rows = np.broadcast_arrays(first, taps_d[:, None], taps_h)
    return np.ascontiguousarray(np.stack(rows, axis=-1).reshape(-1, 3))


@dataclass(frozen=True, eq=False)
class Routing:
    """What the gradient of max-pooling knows before its data: which planes there are."""

    planes: Planes
    leading: Size  # (N, C)
    extent: Size
    output: Size
    itemsize: int

    @property
    def channels_last(self) -> bool:
        """As of a `Pooling`."""
        return self.planes.channels_last and self.leading[1] > 1

    @property
    def prefers_planes(self) -> bool:
        """As of a `Pooling`."""
        return False

    def part(self, leading: Size, channels_last: bool) -> Routing:
        """The same for so many images and channels (N, C)."""
        return replace(self, planes=Planes(True, channels_last), leading=leading)

    @cached_property
    def step(self) -> Step:
        """The gradients, from each maximum's to where that came from."""
        (batch, channels), cells, windows = self.leading, prod(self.extent), prod(self.output)
        visited = batch * channels * (cells + 4 * windows)
        if self.channels_last:
            blocks = batch * -(-channels // CHANNEL_BLOCK)
            sizes = CHANNEL_BLOCK, channels, windows, cells
            return Step(vectors.max_pool_backward_pixels, blocks, visited, sizes)
        halved = _halved(self.output, self.extent, self.itemsize)
        return Step(vectors.max_pool_backward_planes, batch * channels, visited, (windows, cells, halved))


@lru_cache(CACHED_ROUTINGS)
def _routing(
    batched: bool, channels_last: bool, leading: Size, extent: Size, output: Size, itemsize: int
) -> Routing:
    return Routing(Planes(batched, channels_last), leading, extent, output, itemsize)


def _halved(windows: Size, extent: Size, itemsize: int) -> tuple[int, int, int]:
    """Windows of a line, and its plane's height and width, where windows may be 2x2 cells side by side.

    Zeros where they can't, or where lines are shorter than a vector or planes larger than `ROUTED_BYTES`.
    """
    side_by_side = len(extent) == 2 and windows == (extent[0] // 2, extent[1] // 2)
    if side_by_side and windows[1] * itemsize >= VECTOR_BYTES and prod(extent) * itemsize <= ROUTED_BYTES:
        return windows[1], extent[0], extent[1]
    return 0, 0, 0


def _is_ready(view: Array, dtype: np.dtype[Any], channels_last: bool) -> bool:
    """Whether kernels take an array (N, C, D, H, W) as it lies, or there is nothing to take."""
    ordered = view.transpose(0, 2, 3, 4, 1) if channels_last else view
    return not view.size or (view.dtype == dtype and ordered.flags.c_contiguous)


def _portion(leading: Size, copied: int, channels_last: bool) -> Size:
    """How many images, and how many of their channels, are computed at a time, by the bytes copied of all."""
    batch, channels = leading
    image = copied // batch
    if image <= (IMAGE_BYTES if channels_last else COPIED_BYTES):
        return COPIED_BYTES // max(1, image) or 1, channels
    most = COPIED_BYTES * channels // image
    return 1, min(channels, max(VECTOR_BYTES // 4 if channels_last else 1, most))


def run(
    work: Pooling | Routing,
    step_of: Callable[[Any], Step],
    dtypes: Sequence[np.dtype[Any]],
    sources: Sequence[Array],
    targets: Sequence[Array],
) -> int:
    """Compute all targets, which are contiguous, from all sources; kernels see such arrays of ``dtypes``.

    An array that is not such is copied, some planes at a time: a source before they are computed, a target
    after. The channels are last or not, as there is less to copy.
    """
    planes = work.prefers_planes
    if targets[0].dtype == dtypes[len(sources)] and not (planes and work.channels_last):
        for source, dtype in zip(sources, dtypes, strict=False):
            if not source.flags.c_contiguous or source.dtype != dtype:
                break
        else:
            return step_of(work).run(sources, targets)
    own = work.planes.channels_last
    views = [work.planes.normal(array) for array in (*sources, *targets)]

    def copied_bytes(channels_last: bool) -> int:
        pairs = zip(views, dtypes, strict=True)
        return sum(view.nbytes for view, dtype in pairs if not _is_ready(view, dtype, channels_last))

    last = False if planes else min((own, not own), key=copied_bytes)
    images, some = _portion(work.leading, copied_bytes(last), last)
    order = (0, 2, 3, 4, 1) if last else (0, 1, 2, 3, 4)
    portions = [
        [view[n : n + images, c : c + some].transpose(order) for view in views]
        for n in range(0, work.leading[0], images)
        for c in range(0, work.leading[1], some)
    ]
    needed = [
        not view.flags.c_contiguous or view.dtype != dtype
        for view, dtype in zip(portions[0], dtypes, strict=True)
    ]
    returned, count = [0] * len(portions), len(sources)

    def start_worker() -> Job:
        scratch = [
            aligned(view.size, dtype) if copy else None
            for view, dtype, copy in zip(portions[0], dtypes, needed, strict=True)
        ]

        def job(i: int) -> None:
            there = portions[i]
            step = step_of(work.part((len(there[0]), there[0].shape[-1 if last else 1]), last))
            seen = [
                part if memory is None else memory[: part.size].reshape(part.shape)
                for part, memory in zip(there, scratch, strict=True)
            ]
            for k in range(count):
                if needed[k]:
                    _copy(seen[k], there[k])
            if len(portions) == 1:
                returned[i] = step.run(seen[:count], seen[count:])
            else:
                returned[i] = step.bound(seen[:count], seen[count:])(0, step.units) or 0
            for k in range(count, len(there)):
                if needed[k]:
                    _copy(there[k], seen[k])

        return job

    run_jobs(len(portions), start_worker)
    return sum(returned)


def _copy(target: Array, source: Array) -> None:
    if target.dtype == source.dtype:
        target[...] = source
        return
    # A float32 that is beyond float16 becomes infinite, as in any loop.
    with np.errstate(over="ignore", under="ignore"):
        target[...] = source


_MAX, _ARGMAX, _TIES = map(attrgetter, ("max_step", "argmax_step", "ties_step"))
_AVG, _AVG_BACKWARD, _ROUTED = map(attrgetter, ("avg_step", "avg_backward_step", "step"))


def max_forward(x: Array, result: Array, indices: Array, pooling: Pooling) -> None:
    """Write the maxima and, unless ``indices`` is empty, where they stand."""
    if pooling.is_empty:
        if result.size:  # windows of nothing but padding
            result[...] = -np.inf
            indices[...] = -1
        return
    dtypes = pooling.dtype, pooling.dtype, indices.dtype
    step_of = _ARGMAX if indices.size else _MAX
    run(pooling, step_of, dtypes, (x,), (result, indices))


def max_backward(dy: Array, indices: Array, planes: Planes, shape: Size) -> tuple[Array, int]:
    """The gradient of an input of this shape, and how many indices lay outside its planes."""
    if dy.size == 0 or 0 in shape:
        return np.zeros(shape, dy.dtype), int(np.count_nonzero(indices != -1))
    leading, extent = planes.leading_and_extent(shape)
    dtype, dx = compute_dtype(dy.dtype), new_result(shape, dy.dtype)
    output = planes.leading_and_extent(dy.shape)[1]
    routing = _routing(planes.batched, planes.channels_last, leading, extent, output, dtype.itemsize)
    dtypes = dtype, indices.dtype, dtype
    return dx, run(routing, _ROUTED, dtypes, (dy, indices), (dx,))


def max_backward_ties(dy: Array, x: Array, dx: Array, pooling: Pooling) -> None:
    """Write the gradient of the input: to every cell that equals its window's maximum."""
    if pooling.is_empty:
        dx[...] = 0
        return
    gradients, values = compute_dtype(dy.dtype), pooling.dtype
    if values.kind == "f":
        gradients = values = np.result_type(gradients, values)
    run(pooling, _TIES, (gradients, values, gradients), (dy, x), (dx,))


def avg_forward(x: Array, out: Array, pooling: Pooling) -> None:
    """Write the means."""
    if pooling.is_empty:
        with np.errstate(invalid="ignore"):  # where the padding does not count, the mean of nothing is a NaN
            out[...] = _divided(np.zeros_like(out), pooling)
        return
    run(pooling, _AVG, (pooling.dtype,) * 2, (x,), (out,))


def avg_backward(dy: Array, dx: Array, pooling: Pooling) -> None:
    """Write the gradient of the input: a sum over the windows that cover each cell."""
    if pooling.is_empty:
        dx[...] = 0
        return
    divided = dy if pooling.count else _divided(dy, pooling)
    run(pooling, _AVG_BACKWARD, (pooling.dtype,) * 2, (divided,), (dx,))


def _divided(dy: Array, pooling: Pooling) -> Array:
    """Every gradient by the count of its window."""
    depth, height, width = pooling.counts
    counts = (depth[:, None, None] * height[:, None] * width).astype(pooling.dtype)
    output = pooling.windows.output
    shape = (*output, 1) if pooling.planes.channels_last else output
    return np.asarray(np.divide(dy, counts.reshape(shape), dtype=pooling.dtype))
