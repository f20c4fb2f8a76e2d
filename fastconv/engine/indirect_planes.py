"""Small groups, down to depthwise: the planes of one group after the other, with nothing done twice a plane.

The columns are never made: the row (c, t, r, s) of the column matrix is the image shifted by a constant, so a
table of offsets replaces it. A group has few filters over few planes: here all planes of a
job are convolved inside one call of a kernel, `fastconv.kernels.indirect_planes`, from tables that it makes
once.

    forward          each group's planes are copied into a padded grid, in the phases of the stride, and read
                     from there
    backward-input   the same over the output's gradient, with one set of taps for each phase of the stride;
                     the phases are brought together plane by plane
    backward-weight  vectors of sums along the pixels of all images, whose lanes are added at the end

A job owns groups, images and lines of what it writes; jobs follow from the shape alone.
"""

from __future__ import annotations

from math import lcm, prod
from typing import TYPE_CHECKING

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import contiguous, new_result
from fastconv.engine.correlations import Correlation, Correlations, Sizes, backward_sizes, forward_sizes
from fastconv.engine.decompose import triples
from fastconv.engine.partition import (
    KEPT_BYTES,
    TABLE_BYTES,
    Grid,
    Latest,
    Range,
    Tables,
    ceil_div,
    owned_jobs,
    wanted_jobs,
)
from fastconv.engine.problem import L1_BYTES, Counts, Problem
from fastconv.engine.tensor import add_parts, finite, memory
from fastconv.geometry import Geometry, read_only
from fastconv.kernels import indirect_planes as kernels
from fastconv.kernels.plane_tiles import FEW_TAPS, RUN, TILE_TAPS, TILE_VECTORS
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

if TYPE_CHECKING:
    from fastconv.engine.algorithm import Pass

# A grid stays in L2 between the copy that fills it and the taps that read it.
GRID_BYTES = 2**18
# Phases that are made apart, of one image, at the most: with many filters they outgrow their grid.
MADE_BYTES = 2**22
# Small images share a grid, as long as it stays in L1 and has at most this many segments.
SMALL_GRID_BYTES = 2**14
MOST_ROWS = 64
# Sums of a job, whole vectors each, at the most.
SUMS_BYTES = 2**20
# Images that one sum runs over; the sums of more are added up.
SUMMED_IMAGES = 256

# A single line of output may need a larger grid, up to this.
MOST_GRID_BYTES = 6 * 2**20

Three = tuple[int, int, int]


class PlaneCorrelation:
    """One correlation for each phase of the output, over planes of a source with the same grid.

    Parameters
    ----------
    sizes : Sizes
    itemsize : int
        Bytes of an element.
    """

    def __init__(self, sizes: Sizes, itemsize: int) -> None:
        phases, extent, stride, batch, groups, channels, filters, kernel = sizes
        self.batch, self.groups, self.channels, self.filters = batch, groups, channels, filters
        self.phases, self.kernel = phases, kernel
        # A stride beyond the output is one of its extent: so one along a single cell is none.
        d, h, w = (min(s, n) for s, n in zip(stride, extent, strict=True))
        self.out_stride, self.out_extent = (d, h, w), extent
        d, h, w = (some.count for some in phases)
        self.axis_phases = (d, h, w)
        # Without any along one, all of the output is zero.
        self.empty = d * h * w == 0
        self.whole = all([some.whole for some in phases])
        self._latest: Latest[Grid] = Latest()
        if self.empty:
            return
        self.source: Three = (phases[0].source, phases[1].source, phases[2].source)
        self.stride: Three = (phases[0].step, phases[1].step, phases[2].step)
        self.start: Three = (phases[0].lowest, phases[1].lowest, phases[2].lowest)
        # Cells of the first phase along each axis, which has the most.
        d, h, w = (ceil_div(extent[a], stride[a]) for a in range(3))
        self.extent: Three = (d, h, w)
        self.itemsize, self.lanes = itemsize, VECTOR_BYTES // itemsize
        # Narrow lines are put into half vectors, 7x7 planes, float32, AVX-512 Xeon: 25 against 21 GF/s
        # forward depthwise and 62 against 47 with groups of 4; backward-weight depthwise 22 against 17.
        narrow = self.lanes >= 4 and self.extent[2] <= self.lanes // 2
        self.part = self.lanes // 2 if narrow else self.lanes
        # Blocks are cut along the first axis of several pixels, into slices.
        self.axis = next((a for a in range(3) if self.extent[a] > 1), 2)
        # How many phases the grid has.
        self.split = prod([some.split for some in phases])
        # Runs of lines, unless they would mostly lie beyond the last one.
        lines = self.extent[1]
        self.run_rows = RUN if filters == 1 and ceil_div(lines, RUN) * RUN * 3 <= lines * 4 else 1
        self.block = self._block()
        self.pixels = self.grid_pixels(self.block[1])
        self.rows = channels * prod(kernel)
        self.work = self.batch * self.groups * self.filters * self.rows * prod(self.extent)
        self.wanted = wanted_jobs(self.work)

    def grid_pixels(self, lines: int) -> Three:
        """Extents of one phase of the grid for a block of so many lines."""
        d, h, w = (
            ceil_div(
                self.phases[a].furthest(lines if a == self.axis else self.extent[a]) - self.start[a] + 1,
                self.stride[a],
            )
            for a in range(3)
        )
        return d, h, w

    def grid_bytes(self, lines: int) -> int:
        """Of one image, for a block of so many lines."""
        return self.channels * self.split * prod(self.grid_pixels(lines)) * self.itemsize

    def made_bytes(self, lines: int) -> int:
        """Of the phases that are made apart, if there are several: of one image, of so many lines."""
        if self.out_stride == (1, 1, 1):
            return 0
        return self.filters * self._vectors(lines) * VECTOR_BYTES

    def _vectors(self, lines: int) -> int:
        """How many vectors all phases of one plane fill, in a block of so many lines."""
        depth, height, width = (lines if a == self.axis else self.extent[a] for a in range(3))
        return prod(self.axis_phases) * depth * height * ceil_div(width, self.lanes)

    def _block(self) -> Range:
        """Images and lines of a grid: lines in blocks of equal size, several images where they are small."""
        lines = block = self.extent[self.axis]
        while block > 1 and (self.grid_bytes(block) > GRID_BYTES or self.made_bytes(block) > MADE_BYTES):
            block = ceil_div(block, 2)
        block = ceil_div(lines, ceil_div(lines, block))
        if block < lines:
            return 1, block
        # As many images as leave the fewest vectors of their last tile empty.
        lines_run = ceil_div(self.extent[1], self.run_rows) * self.run_rows
        rows = self.extent[0] * lines_run * ceil_div(self.extent[2], self.part)
        tile = TILE_VECTORS[min(4, self.filters) if self.filters != 3 else 2] * self.lanes // self.part
        fitting = min(
            SMALL_GRID_BYTES // self.grid_bytes(lines), MADE_BYTES // max(1, self.made_bytes(lines))
        )
        most = max(1, min(self.batch, MOST_ROWS // rows, fitting))
        return min(range(1, most + 1), key=lambda n: (ceil_div(n * rows, tile) / n, -n)), block

    def _places(self) -> tuple[Array, Array, Array, Array]:
        """The phases of the grid; for each row (channel, tap) its place there, weight and output phase."""
        grid: list[Array] = []
        offsets = rows = which = order = np.zeros(1, np.int64)
        for a, some in enumerate(self.phases):
            tap, phase, shift = some.taps
            place, rest, found = shift - self.start[a], np.zeros_like(tap), np.zeros(1, np.int64)
            if some.step > 1:
                place, rest = divmod(place, some.step)
                found, rest = np.unique(rest, return_inverse=True)
            grid.append(found)
            offsets = np.add.outer(offsets * self.pixels[a], place).reshape(-1)
            rows = np.add.outer(rows * self.kernel[a], tap).reshape(-1)
            order = np.add.outer(order * len(found), rest).reshape(-1)
            which = np.add.outer(which * self.axis_phases[a], phase).reshape(-1)
        offsets += order * prod(self.pixels)
        channels, (d, h, w) = np.arange(self.channels), grid
        phases = np.empty((len(d), len(h), len(w), 3), np.int64)
        phases[..., 0], phases[..., 1], phases[..., 2] = d[:, np.newaxis, np.newaxis], h[:, np.newaxis], w
        return (
            phases.reshape(-1, 3),
            np.add.outer(channels * (self.split * prod(self.pixels)), offsets).reshape(-1),
            np.add.outer(channels * prod(self.kernel), rows).reshape(-1),
            np.broadcast_to(which, (self.channels, len(which))).reshape(-1),
        )

    @Tables
    def tables(self) -> tuple[Array, Array, Array, Array]:
        """Phases of the grid; where each row of each phase of the output begins, its weight; these phases."""
        grid, offsets, rows, which = self._places()
        count = prod(self.axis_phases)
        order, threes = triples(offsets, self.pixels[2], which if count > 1 else None)
        taps, triple_taps = np.full(1, len(order)), np.full(1, len(threes))
        if count > 1:
            taps, triple_taps = (np.bincount(some, minlength=count) for some in (which, which[threes]))
        phases = np.empty((*self.axis_phases, 9), np.int64)
        for a, some in enumerate(self.phases):
            firsts = np.array(some.firsts).reshape([-1 if b == a else 1 for b in range(3)])
            phases[..., a], phases[..., 3 + a] = firsts, some.cells(firsts)
        table = phases.reshape(-1, 9)
        table[:, 6], table[:, 7], table[:, 8] = np.cumsum(taps) - taps, triple_taps // 3, taps
        return grid, offsets[order], rows[order], table

    @Tables
    def natural(self) -> tuple[Array, Array]:
        """Phases of the grid; where the columns of the weight's gradient are read, in their own order."""
        grid, offsets, _, _ = self._places()
        return grid, offsets

    def _jobs(self, wanted: int) -> Grid:
        """Groups, images, lines."""
        group_step = ceil_div(self.groups, wanted)
        wanted = ceil_div(wanted, ceil_div(self.groups, group_step))
        image_step = max(1, ceil_div(ceil_div(self.batch, wanted), self.block[0]) * self.block[0])
        wanted = ceil_div(wanted, max(1, ceil_div(self.batch, image_step)))
        lines = self.extent[self.axis]
        line_step = ceil_div(ceil_div(lines, wanted), self.block[1]) * self.block[1]
        return Grid((self.groups, group_step), (self.batch, image_step), (lines, line_step))

    def _grid(self, phases: Array) -> tuple[Three, Three, Three, Array]:
        """Where the grid of the first block lies in an image."""
        return self.start, self.stride, self.pixels, phases

    @property
    def scratch_bytes(self) -> int:
        """The grid and the phases made apart; tables and packed weights are not counted."""
        if self.empty:
            return 0
        images, lines = self.block
        return images * (self.grid_bytes(lines) + self.made_bytes(lines))

    def run(self, source: Array, weights: Array, bias: Array | None, out: Array) -> None:
        """Write all of ``out``; ``weights`` is (groups, filters, channels, taps of the kernel)."""
        if self.empty:
            out[...] = 0
            return
        if not self.whole:
            out[...] = 0
        grid_phases, offsets, rows, out_phases = self.tables
        # (groups, rows, filters): a tile reads the weights of its filters side by side
        rows = weights.reshape(self.groups, self.filters, -1)[:, :, rows]
        packed = contiguous(rows.transpose(0, 2, 1))
        added = (
            np.zeros(self.groups * self.filters, out.dtype) if bias is None else np.ascontiguousarray(bias)
        )
        packed, added = read_only(packed), read_only(added)
        # Plain tuples of the fields of the kernel's records.
        planes, target = (*memory(read_only(source)), self.source), (*memory(out), self.out_extent)
        grid, phases = self._grid(grid_phases), (self.out_stride, self.axis_phases, out_phases)
        block = (*self.block, self.axis, self.part, self.run_rows)
        jobs = self._latest.of(self._jobs, owned_jobs(self.work))

        def start_worker() -> Job:
            def job(i: int) -> None:
                kernels.correlate_planes(
                    planes, grid, self.channels, packed, offsets, added, target, phases, jobs[i], block
                )

            return job

        run_jobs(len(jobs), start_worker)

    def sum(self, dy: Array, source: Array, dw: Array) -> None:
        """Write ``dw`` (K, C/G, kernel): the weight's gradient of a forward correlation."""
        result = dw.reshape(self.groups, self.filters, -1)
        grid_phases, natural = self.natural
        grid = self._grid(grid_phases)
        planes, gradients = (*memory(read_only(source)), self.source), (*memory(read_only(dy)), self.extent)
        # Not half vectors where filters share what is loaded: 36 against 28 GF/s with groups of 4 (as above).
        block = (*self.block, self.axis, self.part if self.filters == 1 else self.lanes, 1)
        multiple = _tap_multiple(self.filters)
        offsets = np.resize(natural, ceil_div(len(natural), multiple) * multiple)
        row_bytes = len(offsets) * VECTOR_BYTES
        filter_step = max(4, SUMS_BYTES // row_bytes // 4 * 4)
        wanted = self.wanted
        group_step = min(
            ceil_div(self.groups, wanted), max(1, SUMS_BYTES // (row_bytes * min(self.filters, filter_step)))
        )
        owners = ceil_div(self.groups, group_step) * ceil_div(self.filters, filter_step)
        image_step = min(SUMMED_IMAGES, ceil_div(self.batch, max(1, wanted // owners)))
        jobs = Grid((self.batch, image_step), (self.groups, group_step), (self.filters, filter_step))
        parts = jobs.counts[0]
        partial = new_result((parts, *result.shape), dy.dtype) if parts > 1 else result[np.newaxis]

        def start_worker() -> Job:
            def job(i: int) -> None:
                part = i * parts // len(jobs)  # the images' ranges are the slowest
                kernels.sum_planes(
                    planes, grid, self.channels, offsets, gradients, partial[part], jobs[i], block
                )

            return job

        run_jobs(len(jobs), start_worker)
        if parts > 1:
            add_parts(partial, result)
        if not np.may_share_memory(result, dw):
            dw[...] = result.reshape(dw.shape)


def _tap_multiple(filters: int) -> int:
    """What the tiles of so many filters divide."""
    multiple = TILE_TAPS[4] if filters >= 4 else 1
    if filters % 4 >= 2:
        multiple = lcm(multiple, TILE_TAPS[2])
    return lcm(multiple, FEW_TAPS) if filters % 2 else multiple


class IndirectPlanes(Correlations):
    """Small groups, and any: vectors along the pixels of one plane after the other."""

    name, label = "indirect", "indirect/planes"

    def _correlation(self, back: bool) -> Correlation:
        g = self.geometry
        return PlaneCorrelation(backward_sizes(g) if back else forward_sizes(g), g.compute_dtype.itemsize)

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """Channels last, and lines that need too large a grid."""
        g = geometry
        if g.channels_last:
            return "vectors run along pixels, which are not contiguous with the channels last"
        flat = max(*g.input[:2], *g.output[:2]) == 1  # a single line is cut into bands
        largest = 0 if flat else _largest_grid(g, which)
        if largest > MOST_GRID_BYTES:
            return f"one line of output needs {largest} bytes of scratch, more than {MOST_GRID_BYTES}"
        return None

    @staticmethod
    def counts(p: Problem) -> Counts:
        """Vectors of pixels times filters (``fma``), times blocks of 4, 2 or 1 of these (``loads``).

        Planes are copied to a grid line by line (``copies`` of a vector), which may have no room in L1 or in
        what a block may have; the phases of backward-input are joined cell by cell.
        """
        g, images = p.geometry, p.batch * p.groups
        part = p.lanes // 2 if p.lanes >= 4 and p.extent[2] <= p.lanes // 2 else p.lanes
        row = ceil_div(p.extent[2], part) * part / p.lanes
        segments = images * p.lines * row
        fours, rest = divmod(p.filters, 4)
        blocks_, elements = fours + rest // 2 + rest % 2, p.channels * p.taps
        forward, sums = p.which != "backward_input", p.which == "backward_weight"
        stride = g.stride if forward else (1, 1, 1)
        phases = prod(map(min, stride, g.kernel))
        reach = [
            ceil_div((k - 1) * d + 1, s) - 1 for s, k, d in zip(stride, g.kernel, g.dilation, strict=True)
        ]
        depth, height, width = (n + more for n, more in zip(p.extent, reach, strict=True))
        grid = p.channels * phases * depth * height * width * p.itemsize
        axis = 0 if p.extent[0] > 1 else 1
        lines, again = p.extent[axis], 1.0
        if grid > GRID_BYTES and lines > 1:
            # Blocks of lines, which read some lines again; their last tiles are not full.
            room = int(GRID_BYTES * (lines + reach[axis]) / grid) - reach[axis]
            count = ceil_div(lines, max(1, room))
            block = ceil_div(lines, count)
            again = count * (block + reach[axis]) / (lines + reach[axis])
            if not sums:
                tile = TILE_VECTORS[4 if fours else 1]
                rows = int(block * p.lines / lines * row)
                segments = images * count * ceil_div(max(1, rows), tile) * tile
        loads = segments * blocks_ * elements
        copies = images * p.channels * phases * depth * height * again * ceil_div(width, p.lanes)
        counted = {
            "call": 1,
            "units": images,
            "fma": segments * p.filters * elements,
            "loads": loads,
            "loads_l2": loads if grid > L1_BYTES else 0,
            "loads_far": loads if grid * again > 2 * GRID_BYTES else 0,
            "halves": segments * p.filters * elements if part < p.lanes else 0,
            "grid": images * grid * again,
            "copies": copies if stride[2] == 1 else 0,
            "copies_apart": copies if stride[2] > 1 else 0,
            "apart": images * grid * again / p.itemsize if stride[2] > 1 else 0,
            "tables": p.reached if elements * TABLE_BYTES > KEPT_BYTES else 0,
            "table_rows": elements if elements * TABLE_BYTES > KEPT_BYTES else 0,
            "weights": p.weight_bytes,
            "weights_far": p.weights_far,
            "source_far": p.source_far,
            "target_far": p.target_far,
        }
        if sums:
            return Counts(
                "indirect/planes",
                counted
                | {
                    "tiles": images
                    * ceil_div(elements, TILE_TAPS[1])
                    * blocks_
                    * max(1, segments / images / 256),
                    "parts": p.weight_bytes
                    * min(p.batch, max(1, p.jobs // p.groups, p.batch / SUMMED_IMAGES)),
                    "sums": p.weight_bytes * p.lanes,
                },
            )
        return Counts(
            "indirect/planes",
            counted
            | {
                "tiles": segments * blocks_ * p.reached / TILE_VECTORS[1],
                "stores": segments * p.filters * p.reached,
                "weight_steps": loads / TILE_VECTORS[1]
                if p.filters * elements * p.itemsize > L1_BYTES
                else 0,
                "weight_rows": p.groups * elements * p.reached,
                "joined": p.target_bytes / p.itemsize if not forward and p.strided else 0,
                "phase_units": images * p.reached if p.reached > 1 else 0,
            },
        )

    @property
    def scratch_bytes(self) -> int:
        """The largest grid, phases of a gradient and sums of a job."""
        forward, back = self.forward_correlation.scratch_bytes, self.backward_correlation.scratch_bytes
        return max(forward + SUMS_BYTES, back)

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """As `Correlations.backward_input`; padding is multiplied."""
        return finite(w) and super().backward_input(dy, w, dx)


def _largest_grid(geometry: Geometry, which: Pass) -> int:
    """Bytes of the grid for one line of output of a pass, by arithmetic alone."""
    g = geometry
    # The grid of one line spans the kernel along the banded axis, and the whole of those behind it.
    source = g.input if which == "forward" else g.output
    axis = 0 if max(g.output[0], g.input[0]) > 1 else 1
    cells = 1
    for a in range(3):
        reach = g.dilation[a] * (g.kernel[a] - 1) + 1
        span = reach if a == axis else max(source[a], g.output[a], g.input[a]) + 2 * reach
        cells *= span + g.stride[a]
    channels = (g.channels if which == "forward" else g.filters) // g.groups
    return channels * cells * g.compute_dtype.itemsize
