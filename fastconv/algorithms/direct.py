"""Convolution without columns, with vectors along filters.

Every cell of the output reads its taps where they lie.

What the taps read is a band, some lines of some planes and images with the channels last and padding around
them (`fastconv.kernels.bands`); images with the channels last whose lines need no padding are their own band.
Every cell of the output is a row of a product whose other side is the packed weights, so planes need not be
large, and strides and dilations only change where rows begin (`fastconv.kernels.direct`). Taps that read
padding along the depth are passed over: of 3x3x3 taps on 4 planes a sixth.

    forward          cells of the output and vectors along filters
    backward-input   for each phase of the stride, cells of the input and vectors along channels, over the
                     taps that reach the phase
    backward-weight  filters and vectors along channels, summed along the lines of the output

A job owns chunks of lines and some of the filters; jobs follow from the shape alone.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.algorithms.im2col import Im2col
from fastconv.algorithms.jobs import JOBS, PARTS_BYTES, blocks, ceil_div, pieces, wanted_jobs
from fastconv.algorithms.memory import Images, Three, add_parts, finite
from fastconv.algorithms.narrow import FEW, Narrow
from fastconv.algorithms.virtual import Axis, backward_axes, forward_axis
from fastconv.arguments import Array
from fastconv.buffers import aligned, new_result
from fastconv.geometry import Geometry
from fastconv.kernels import direct as kernels
from fastconv.kernels.bands import turn_cells
from fastconv.kernels.panels import PANEL, ROWS
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

if TYPE_CHECKING:
    from fastconv.algorithms import Pass

# Cells of a chunk: enough for the weights to be worth their way from memory.
CELLS = 384
# Cells of a chunk at the least, where there are small planes of several images.
FEWEST_CELLS = 48
# Cells that backward-weight sums at a time (128 and 512 are up to 5 % slower in the mean of six layers).
SUM_CELLS = 256
# Cells of a chunk of `FEW` channels, whose band is small: fewer lines are copied twice (132 GF/s, and 120
# with `CELLS`, 3x224 -> 64, 3x3 taps, channels last, float32, AVX-512 Xeon).
FEW_CELLS = 896
# Backward-input to images with a depth: gradients that are few beside so many filters times channels.
FEW_PIXELS, MANY_WEIGHTS = 128, 2**17
# What a chunk reads.
BAND_BYTES = 2**20
MOST_BAND_BYTES = 6 * 2**20
# Cells that one part of backward-weight sums at the least: each part writes all weights once more (107 GF/s
# with parts of 196 cells and 165 with one part, 1024x14 -> 256, float32).
PART_CELLS = 1024
# The sums of a job of backward-weight.
SUMS_BYTES = 4 * 2**20
# Channels of one tap up to which backward-weight reads them cell by cell: 97 and 113 GF/s (64x56 -> 64), 111
# and 135 (256x56 -> 64), but 148 and 139 (512x28 -> 128), whose cells share few sets of the cache.
FEW_ROWS = 256
# The same for more taps: 146 and 162 GF/s (64x28, 5x5), but 175 and 149 (256x13 -> 384, 3x3). With the
# channels first gradients are turned as they are packed: 97 and 128 (3x224, 7x7, stride 2), but 117 and 82
# (64x56, 1x1).
FEW_CHANNELS = 64
# Cells that these sum at a time: gradients stay in L1 (149 GF/s with 256 and 162 with 128, 64x28, 5x5; 153
# and 171, 3x227 -> 96, 11x11, stride 4).
FEW_SUM_CELLS = 128
# Elements that one sum runs over before it is added to the others.
SUM = 256
# Panels of filters of one job at the least, where filters are parted: each part fills the band again.
PART_PANELS = 2

Axes = tuple[Axis, Axis, Axis]


class Taps:
    """What the cells of one correlation read: ``out[k, o] = sum of w[k, c, tap] * x[c, o*stride + shift]``.

    Parameters
    ----------
    axes : three Axis
    channels : int
        Of a group.
    kernel : tuple of three int
        Extents of the whole kernel, of which the axes name the taps.
    lanes : int
    """

    def __init__(self, axes: Axes, channels: int, kernel: Three, lanes: int) -> None:
        self.axes, self.channels, self.lanes = axes, channels, lanes
        # Along each axis (shift, tap), in the order in which they lie in a band.
        planes, rows, columns = (sorted(zip(axis.shifts, axis.taps, strict=True)) for axis in axes)
        self.start: Three = (axes[0].lowest, axes[1].lowest, axes[2].lowest)
        self.stride: Three = (axes[0].stride, axes[1].stride, axes[2].stride)
        d, h, w = self.start
        self.span: Three = (planes[-1][0] - d + 1, rows[-1][0] - h + 1, columns[-1][0] - w + 1)
        products = list(itertools.product(planes, rows, columns))
        self.taps = [(t * kernel[1] + r) * kernel[2] + s for (_, t), (_, r), (_, s) in products]
        self.places = [
            (z - self.start[0], y - self.start[1], x - self.start[2]) for (z, _), (y, _), (x, _) in products
        ]
        self.depths = [z - self.start[0] for z, _ in planes]
        self.across = len(columns)
        # Neighbours along the width are one run of elements.
        self.joined = self.span[2] == len(columns) and len(columns) * channels <= SUM
        self.elements = len(self.taps) * channels

    def segments(self, plane: int, line: int, cell: int) -> list[tuple[int, int, int]]:
        """Where elements that lie one behind the other begin, how many they are, and in which depth.

        The arguments are the steps of a band.
        """
        step, length = (self.across, self.across * self.channels) if self.joined else (1, self.channels)
        return [(z * plane + y * line + x * cell, length, z) for z, y, x in self.places[::step]]

    def runs(self, plane: int, line: int, cell: int) -> tuple[Array, Array, Array, dict[int, int]]:
        """Runs in a band and in a panel; how many of them, of how many steps, make up one sum.

        No sum has taps of two depths; the last result is where the sums of a depth begin. Behind them all
        is one of nothing.
        """
        a_runs: list[int] = []
        b_runs: list[int] = []
        groups: list[tuple[int, int, int]] = []
        firsts: dict[int, int] = {}
        done = 0
        for begin, length, depth in self.segments(plane, line, cell):
            first_of_depth = firsts.setdefault(depth, len(groups)) == len(groups)
            for first, stop in blocks(length, SUM):
                steps = stop - first
                joins = not first_of_depth and groups[-1][2] == steps and (groups[-1][1] + 1) * steps <= SUM
                if joins:
                    groups[-1] = (groups[-1][0], groups[-1][1] + 1, steps)
                else:
                    groups.append((len(a_runs), 1, steps))
                a_runs.append(begin + first)
                b_runs.append((done + first) * PANEL * self.lanes)
                first_of_depth = False
            done += length
        return np.array(a_runs), np.array(b_runs), np.array([*groups, (0, 0, 0)]), firsts

    def planes(self, depth: int) -> tuple[int, int]:
        """From and up to which plane of the output the taps of a depth read the image."""
        return self.axes[0].inside(self.start[0] + depth)

    def reach(self, firsts: dict[int, int], groups: int) -> Array:
        """From and up to which sum each plane of the output has taps in the image (see `runs`)."""
        stops = [*(firsts[depth] for depth in self.depths[1:]), groups - 1]
        reach = np.full((self.axes[0].output, 2), (groups - 1, groups))
        for depth in reversed(self.depths):
            reach[slice(*self.planes(depth)), 0] = firsts[depth]
        for depth, stop in zip(self.depths, stops, strict=True):
            reach[slice(*self.planes(depth)), 1] = stop
        return reach

    def packing(self, tap_step: int, channel_step: int, joined: bool) -> tuple[Array, Array]:
        """Which elements of a filter lie one behind the other, and the rows of a panel that they belong to.

        ``joined`` says whether the steps make all elements of a filter one stretch of memory.
        """
        row = {
            tap * tap_step + c * channel_step: i * self.channels + c
            for i, tap in enumerate(self.taps)
            for c in range(self.channels)
        }
        places = sorted(row)
        sources: list[tuple[int, int]] = []
        for place in places:
            follows = bool(sources) and sum(sources[-1]) == place
            if joined and follows and sources[-1][1] < self.lanes:
                sources[-1] = (sources[-1][0], sources[-1][1] + 1)
            else:
                sources.append((place, 1))
        return np.array(sources), np.array([row[place] for place in places])


class Sweep:
    """One correlation: how it is cut into chunks and jobs.

    Parameters
    ----------
    axes : three Axis
    batch, groups, channels, filters : int
        Channels and filters are those of a group.
    kernel : tuple of three int
    dtype : numpy.dtype
    last : bool
        Whether channels are last.
    """

    def __init__(
        self,
        axes: Axes,
        batch: int,
        groups: int,
        channels: int,
        filters: int,
        kernel: Three,
        dtype: np.dtype[Any],
        last: bool,
    ) -> None:
        self.axes, self.batch, self.groups, self.channels, self.filters = (
            axes,
            batch,
            groups,
            channels,
            filters,
        )
        self.dtype, self.last = dtype, last
        self.lanes = VECTOR_BYTES // dtype.itemsize
        self.panel = PANEL * self.lanes
        self.panels = ceil_div(filters, self.panel)
        self.depth, self.height, self.width = (axis.output for axis in axes)
        self.taps = Taps(axes, channels, kernel, self.lanes)
        inside = all(axis.unpadded for axis in axes[1:])
        # Every cell reads the one it is.
        self.unmoved = all(
            axis.source == axis.output and axis.stride == 1 and axis.shifts == (0,) for axis in axes
        )
        # Images that are their own band: no line or column of padding, and cells of one group only.
        self.own = last and inside and groups == 1
        self.pitch = channels
        self.columns = (
            axes[2].source if self.own else (self.width - 1) * self.taps.stride[2] + self.taps.span[2]
        )
        self.cells = self.depth * self.height * self.width
        work = batch * groups * filters * self.taps.elements * self.cells
        self.wanted = wanted_jobs(work)
        reached = [self.taps.planes(depth) for depth in self.taps.depths]
        # Whether taps are passed over, and whether in some plane all of them are.
        self.cut = any(planes != (0, self.depth) for planes in reached)
        self.blind = len({d for planes in reached for d in range(*planes)}) < self.depth

    def chunk(self, cells: int) -> Three:
        """Images, planes and lines of a chunk of about so many cells, in chunks of equal size."""
        plane = self.height * self.width
        if plane > cells:
            lines = max(1, cells // self.width)
            while lines > 1 and self.band_bytes((1, 1, lines)) > BAND_BYTES:
                lines = ceil_div(lines, 2)
            return 1, 1, ceil_div(self.height, ceil_div(self.height, lines))
        planes = min(self.depth, cells // plane)
        while planes > 1 and self.band_bytes((1, planes, self.height)) > BAND_BYTES:
            planes -= 1
        images = 1
        if planes == self.depth:
            room = BAND_BYTES // self.band_bytes((1, planes, self.height))
            images = max(1, min(self.batch, cells // (planes * plane), room))
        return (
            ceil_div(self.batch, ceil_div(self.batch, images)),
            ceil_div(self.depth, ceil_div(self.depth, planes)),
            self.height,
        )

    def steps(self, chunk: Three) -> Three:
        """Elements of the band of a chunk, or of the image that is its own: to the next plane, line, cell."""
        line = self.columns * self.pitch
        if self.own:
            return self.axes[1].source * line, line, self.pitch
        return ((chunk[2] - 1) * self.taps.stride[1] + self.taps.span[1]) * line, line, self.pitch

    def band_bytes(self, chunk: Three) -> int:
        """What a chunk reads, and a vector more."""
        images, planes, lines = chunk
        rows = (lines - 1) * self.taps.stride[1] + self.taps.span[1]
        rows *= images * ((planes - 1) * self.taps.stride[0] + self.taps.span[0])
        return (rows * self.columns * self.pitch + self.lanes) * self.dtype.itemsize

    def chunks(self, chunk: Three) -> int:
        """How many chunks there are."""
        images, planes, lines = chunk
        return ceil_div(self.batch, images) * ceil_div(self.depth, planes) * ceil_div(self.height, lines)


class Correlation:
    """Forward over one `Sweep`, or one phase of backward-input."""

    def __init__(self, sweep: Sweep, steps: tuple[int, int, int]) -> None:
        """``steps`` are those of the weights along filters, channels and taps of a group."""
        s = self.sweep = sweep
        self.lane_step, self.channel_step, self.tap_step = steps
        self.sources, self.rows = s.taps.packing(self.tap_step, self.channel_step, self.lane_step != 1)
        self.chunk = s.chunk(FEW_CELLS if s.channels < FEW else CELLS)
        if len(s.taps.taps) == 1 and not s.own:
            # Rather more chunks than parts of the filters, which fill the band again: 119 and 145 GF/s (512x4
            # -> 512, batch 64), 96 and 121 (1024x14 -> 512 in strides of 2).
            fewest = max(ceil_div(s.batch, s.wanted), ceil_div(FEWEST_CELLS, s.cells))
            self.chunk = min(self.chunk[0], fewest), *self.chunk[1:]
        self.chunk_count = s.chunks(self.chunk)
        self.a_runs, self.b_runs, self.sums, firsts = s.taps.runs(*s.steps(self.chunk))
        self.reach = s.taps.reach(firsts, len(self.sums))
        self.part = s.panels
        while (
            self.part > PART_PANELS and self.chunk_count * s.groups * ceil_div(s.panels, self.part) < s.wanted
        ):
            self.part = ceil_div(self.part, 2)
        step = max(1, self._owners() // s.wanted)
        self.jobs = [
            (group, chunks, panels)
            for group in range(s.groups)
            for panels in blocks(s.panels, self.part)
            for chunks in blocks(self.chunk_count, step)
        ]

    def _owners(self) -> int:
        """Jobs of one chunk each."""
        return self.chunk_count * self.sweep.groups * ceil_div(self.sweep.panels, self.part)

    def _sizes(self) -> tuple[int, int]:
        """Elements of the band and of a chunk's cells."""
        s = self.sweep
        pitch = min(self.part * s.panel, ceil_div(s.filters, s.lanes) * s.lanes)
        in_place = s.last and s.filters % s.lanes == 0
        band = 0 if s.own else s.band_bytes(self.chunk) // s.dtype.itemsize
        return band, 0 if in_place else prod(self.chunk) * s.width * pitch

    @property
    def scratch_bytes(self) -> int:
        """What a thread needs; packed weights are not counted."""
        return sum(self._sizes()) * self.sweep.dtype.itemsize

    def pack(self, w: Array, group_step: int) -> list[Array]:
        """The weights of every group as panels; ``w`` is flat."""
        s = self.sweep
        size = s.panels * s.taps.elements * s.panel
        packed = [aligned(size, s.dtype) for _ in range(s.groups)]
        vectors = ceil_div(s.filters, s.lanes)
        jobs = [
            (group, some)
            for group in range(s.groups)
            for some in blocks(vectors, max(1, ceil_div(vectors, ceil_div(s.wanted, s.groups))))
        ]

        def start_worker() -> Job:
            square = aligned(s.lanes * s.lanes, s.dtype)

            def job(i: int) -> None:
                group, some = jobs[i]
                kernels.pack_panels(
                    w[group * group_step :], self.lane_step, (*some, s.filters), self.sources, self.rows,
                    s.taps.elements, packed[group], square,
                )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)
        return packed

    def run(
        self, x: Images, packed: list[Array], bias: Array, y: Images, first: Three, stride: Three
    ) -> None:
        """Write the cells of ``y`` from ``first`` on in strides.

        ``bias`` is (groups, filters in whole panels).
        """
        s, t = self.sweep, self.sweep.taps

        def start_worker() -> Job:
            band, cells = (aligned(size, s.dtype) for size in self._sizes())

            def job(i: int) -> None:
                group, chunks, panels = self.jobs[i]
                kernels.convolve_bands(
                    x.flat, x.steps(group * s.channels), packed[group], bias[group], y.flat,
                    y.phase(group * s.filters, first, stride), s.batch, s.channels, (*panels, s.filters),
                    t.elements, t.start, t.stride, t.span, chunks, self.chunk, s.pitch, self.a_runs,
                    self.b_runs, self.sums, self.reach, s.own, band, cells,
                )  # fmt: skip

            return job

        run_jobs(len(self.jobs), start_worker)


class WeightSums:
    """Backward-weight over the sweep of a forward pass, in parts that are added in order.

    ``swapped`` says that the operands are exchanged, and so filters and channels: of a plain product the
    narrower side is best the one that is transposed.
    """

    def __init__(self, sweep: Sweep, swapped: bool) -> None:
        s = self.sweep = sweep
        self.swapped = swapped
        # Few channels, or one tap that reads the cell it is: vectors along filters, and nothing is
        # transposed (`fastconv.kernels.direct.sum_few`).
        few = s.channels <= FEW_CHANNELS and not swapped and (s.last or len(s.taps.taps) > 1)
        one = s.unmoved and s.own and s.channels <= FEW_ROWS
        self.few = s.groups == 1 and not s.cut and (few or one)
        self.chunk = s.chunk(FEW_CELLS if self.few and s.channels < FEW else SUM_CELLS)
        chunks = s.chunks(self.chunk)
        # Taps of a depth that is passed over in some planes are summed for themselves.
        self.depths = len(s.taps.depths) if s.cut else 1
        self.depth = ceil_div(s.taps.elements // self.depths, s.lanes) * s.lanes
        self.row = self.depths * self.depth
        self.pieces, self.panels = self._panels()
        if self.few:
            at_once = max(1, (FEW_SUM_CELLS if few else SUM_CELLS) // s.width)
            self.at_once = min(prod(self.chunk), at_once)
            places = np.array(s.taps.places) @ s.steps(self.chunk)
            by_tap = np.add.outer(places, np.arange(s.channels))
            self.elements = (by_tap if s.last else by_tap.T).reshape(-1)
        # Rows that lie as the weights do are summed in place where they are whole vectors: 112 GF/s with a
        # copy and 154 without (512x7 -> 2048, 1x1), 38 and 132 of one image.
        in_order = not (swapped or self.few) and (s.last or len(s.taps.taps) == 1)
        self.in_place = in_order and self.row == s.taps.elements
        self.weights = s.groups * s.filters * s.taps.elements
        wanted = ceil_div(min(JOBS, s.wanted), s.groups)
        several = wanted * self.weights * s.dtype.itemsize <= 2 * PARTS_BYTES
        worthwhile = s.batch * s.cells // PART_CELLS
        parts = max(1, min(wanted, chunks, worthwhile)) if several else 1
        self.parts = list(blocks(chunks, ceil_div(chunks, parts)))
        # Filters of a job: not too few to fill a band for, nor more than there is room for sums.
        step = max(4 * PART_PANELS * s.panel, ceil_div(s.filters, ceil_div(wanted, parts)))
        self.step = min(s.filters, step, max(ROWS, SUMS_BYTES // (self.row * s.dtype.itemsize)))
        if self.few:
            self.step = ceil_div(step, s.panel) * s.panel
            self.row = min(self.step, ceil_div(s.filters, s.lanes) * s.lanes)
        self.jobs = [
            (part, group, some)
            for part in range(len(self.parts))
            for group in range(s.groups)
            for some in blocks(s.filters, self.step)
        ]
        self.job_work = self.weights * s.batch * s.cells // len(self.jobs)

    def _panels(self) -> tuple[Array, Array]:
        """The pieces and the panels that `sum_bands` reads: every panel is full but the last of a depth.

        Panels that ended with each segment gave 51 GF/s on 3x16x56 -> 64 with 3x3x3 taps, whose segments have
        9 elements, where these give 80 (float32, AVX-512 Xeon).
        """
        s = self.sweep
        segments = s.taps.segments(*s.steps(self.chunk))
        each = len(segments) // self.depths
        pieces: list[tuple[int, int, int]] = []
        panels: list[tuple[int, int, int, int, int, int]] = []
        for i in range(self.depths):
            some = segments[i * each : (i + 1) * each]
            planes = s.taps.planes(some[0][2]) if s.cut else (0, s.depth)
            elements = sum(length for _, length, _ in some)
            bounds = [0, *itertools.accumulate(length for _, length, _ in some)]
            for first, stop in blocks(elements, s.panel):
                before = len(pieces)
                for (begin, _, _), low, high in zip(some, bounds[:-1], bounds[1:], strict=True):
                    start, end = max(low, first), min(high, stop)
                    if start < end:
                        pieces.append((begin + start - low, start - first, end - start))
                vectors = ceil_div(stop - first, s.lanes)
                panels.append((before, len(pieces), i * self.depth + first, vectors, *planes))
        return np.array(pieces), np.array(panels)

    @property
    def scratch_bytes(self) -> int:
        """What a thread needs, and partial sums of all weights."""
        partial = len(self.parts) * self.weights if len(self.parts) > 1 else 0
        return (sum(self._sizes()) + partial) * self.sweep.dtype.itemsize

    def _sizes(self) -> tuple[int, int, int, int]:
        """Elements of a chunk's band, panel and gradients, and of sums."""
        s = self.sweep
        cells = prod(self.chunk) * s.width
        band = 0 if s.own else s.band_bytes(self.chunk) // s.dtype.itemsize
        # Images of one cell have their channels first and last.
        last = s.last or s.cells == 1
        if self.few:
            return band, self.at_once * s.width * s.panel, 0, s.taps.elements * self.row
        sums = 0 if self.in_place else self.step * self.row
        return band, cells * s.panel, self.step * cells if last else 0, sums

    def run(self, dy: Images, x: Images, dw: Array) -> None:
        """Write the weights' gradient, flat, in the order of the layout."""
        s, t = self.sweep, self.sweep.taps
        several = len(self.parts) > 1
        partial = new_result((len(self.parts), self.weights), s.dtype) if several else dw[np.newaxis]

        def start_worker() -> Job:
            band, panel, turned, sums = (aligned(size, s.dtype) for size in self._sizes())
            panel[...] = 0  # lanes that no element fills are multiplied too, and denormals are slow

            def job(i: int) -> None:
                part, group, (first, stop) = self.jobs[i]
                if self.few:
                    elements = sums.reshape(-1, self.row)
                    elements[...] = 0
                    for chunks in pieces(self.parts[part], self.job_work):
                        kernels.sum_few(
                            dy.flat, dy.steps(0), x.flat, x.steps(0), elements, s.batch, s.channels,
                            (first, stop - first), t.start, t.stride, t.span, chunks, self.chunk, s.pitch,
                            self.elements, self.at_once, s.own, band, panel,
                        )  # fmt: skip
                    self._write_few(elements, partial[part], first, stop)
                    return
                begin = group * s.filters + first if self.in_place else 0
                rows = (partial[part] if self.in_place else sums).reshape(-1, self.row)
                some = rows[begin : begin + stop - first]
                some[...] = 0
                for chunks in pieces(self.parts[part], self.job_work):
                    kernels.sum_bands(
                        dy.flat, dy.steps(group * s.filters), x.flat, x.steps(group * s.channels), some,
                        s.batch, s.channels, (first, stop - first), t.start, t.stride, t.span, chunks,
                        self.chunk, s.pitch, self.pieces, self.panels, s.own, band, panel, turned,
                    )  # fmt: skip
                if not self.in_place:
                    self._write(some, partial[part], group, first)

            return job

        run_jobs(len(self.jobs), start_worker)
        if several:
            add_parts(partial, dw)

    def _write_few(self, sums: Array, dw: Array, first: int, stop: int) -> None:
        """Sums (elements, some filters) to where they belong: (filters, elements), unless swapped."""
        s = self.sweep
        if self.swapped:
            dw.reshape(len(sums), s.filters)[:, first:stop] = sums[:, : stop - first]
            return
        square = aligned(s.lanes * s.lanes, s.dtype)
        target = dw[first * len(sums) :]
        turn_cells(sums.reshape(-1), 0, self.row, len(sums), stop - first, target, len(sums), square)

    def _write(self, sums: Array, dw: Array, group: int, first: int) -> None:
        """Sums of some filters to where they belong: there taps are last, or channels."""
        s = self.sweep
        square = aligned(s.lanes * s.lanes, s.dtype)
        if self.swapped:
            target = dw[group * s.filters * s.channels + first :]
            turn_cells(sums.reshape(-1), 0, self.row, len(sums), s.channels, target, s.filters, square)
            return
        elements = s.taps.elements // self.depths
        begin = (group * s.filters + first) * s.taps.elements
        place = dw[begin : begin + len(sums) * s.taps.elements]
        if s.last:
            by_depth = sums.reshape(len(sums), self.depths, self.depth)
            place.reshape(len(sums), self.depths, elements)[...] = by_depth[..., :elements]
        else:
            kernels.turn_filters(
                sums.reshape(-1), len(sums), self.row, self.depths, self.depth, elements // s.channels,
                s.channels, place, square,
            )  # fmt: skip


class Direct:
    """Bands, with vectors along filters."""

    name = "direct"

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        self.geometry = g
        self.dtype = np.dtype(g.compute_dtype)
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups
        taps = prod(g.kernel)
        # From one filter, channel and tap to the next: the weights keep the layout of the images.
        c = self.group_channels
        self.steps = (taps * c, 1, c) if g.channels_last else (taps * c, taps, 1)
        axes = (forward_axis(g, 0), forward_axis(g, 1), forward_axis(g, 2))
        # One tap reads cells that lie apart: they are taken for an image of their own, without a stride, so
        # that no others are read: forward 93 and 116 GF/s, backward-weight 97 and 131 (512x28 -> 256, 1x1 in
        # strides of 2).
        self.apart: Three = (1, 1, 1)
        if taps == 1 and not g.channels_last and all(axis.unpadded for axis in axes):
            self.apart = g.stride
            d, h, w = (replace(axis, source=axis.output, stride=1) for axis in axes)
            axes = (d, h, w)
        self.sweep = self._sweep(axes, c, self.group_filters)
        self.forward_correlation = Correlation(self.sweep, self.steps)
        # What is broadcast is turned where channels are last, what is in panels where they are first.
        narrower = c < self.group_filters if g.channels_last else c > self.group_filters
        self.swapped = taps == 1 and self.sweep.unmoved and self.apart == (1, 1, 1) and narrower
        weight_sweep = self._sweep(axes, self.group_filters, c) if self.swapped else self.sweep
        self.weight_sums = WeightSums(weight_sweep, self.swapped)
        filter_step, channel_step, tap_step = self.steps
        axes_back = list(itertools.product(*(backward_axes(g, a) for a in range(3))))
        # Several phases each pack some taps: of weights with the channels last they are vectors. 65 and 86
        # GF/s on 128x8x14 -> 256 with 3x3x3 taps and stride 2, float32, AVX-512 Xeon.
        self.turns = len(axes_back) > 1 and taps > 1 and not g.channels_last
        if self.turns:
            channel_step, tap_step = 1, c
        # The first cell of each phase of the stride, and what makes its cells: None where they are zero.
        self.phases: list[tuple[Three, Correlation | None]] = []
        for (plane, depth), (row, height), (column, width) in axes_back:
            made = None
            if depth is not None and height is not None and width is not None:
                sweep = self._sweep((depth, height, width), self.group_filters, c)
                made = Correlation(sweep, (channel_step, filter_step, tap_step))
            self.phases.append(((plane, row, column), made))
        made_axes = [axis for _, made in self.phases if made is not None for axis in made.sweep.axes]
        self.padded = not all(axis.unpadded for axis in made_axes)

    def _sweep(self, axes: Axes, channels: int, filters: int) -> Sweep:
        g = self.geometry
        return Sweep(axes, g.batch, g.groups, channels, filters, g.kernel, self.dtype, g.channels_last)

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """All but lines that need more scratch than there may be."""
        g = geometry
        if min(g.batch, g.channels, g.filters, g.pixels) == 0:
            return "there is nothing to compute"
        largest = _largest_band(g)
        if largest > MOST_BAND_BYTES:
            return f"one line of output needs {largest} bytes of scratch, more than {MOST_BAND_BYTES}"
        return None

    @staticmethod
    def why_slow(geometry: Geometry, which: Pass) -> str | None:
        """Ways back to few channels that BLAS is faster at, float32, AVX-512 Xeon, GF/s of this and of that.

        With a stride, 21 and 72 (3x224, 7x7 taps); with the channels last, 18 and 49 (3x224, 3x3 taps); with
        a depth 20 and 33 (3x16x56 -> 64). One channel of a depth makes runs too short: 16 and 26,
        backward-weight 8 and 19 (1x8x56 -> 8, channels last). Where gradients are few, packing large weights
        is most of the work: 72 and 84 (512x2x7, channels first), but 112 and 84 with batch 2, and 100 and 92
        (256x2x7).
        """
        g = geometry
        few = FEW if Narrow.serves(g) or max(g.stride) > 1 else 1 if g.one_plane else FEW // 2
        if which == "backward_input" and g.channels // g.groups < few:
            return "few channels leave vectors empty"
        weights = g.filters * g.channels // g.groups
        first = which == "backward_input" and not g.one_plane and not g.channels_last
        if first and g.batch * g.pixels < FEW_PIXELS and weights >= MANY_WEIGHTS:
            return "the weights of few gradients are packed for one product"
        if not g.one_plane and g.channels == g.groups and g.filters // g.groups <= 32:
            return "one channel makes short runs"
        return None

    @property
    def scratch_bytes(self) -> int:
        """Bands, cells and sums, or what the other algorithms need; packed weights are not counted."""
        g = self.geometry
        made = [self.forward_correlation, *(made for _, made in self.phases if made is not None)]
        return max(
            Im2col(g).scratch_bytes,
            self.weight_sums.scratch_bytes,
            *(correlation.scratch_bytes for correlation in made),
        )

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> None:
        """One correlation."""
        image, output = self._images(x, self.apart), self._images(y)
        if image is None or output is None or (self.sweep.cut and not finite(w)):
            # Padding along the depth is not multiplied here, and zero times infinity is not zero.
            Im2col(self.geometry).forward(x, w, bias, y)
            return
        g, s = self.geometry, self.sweep
        added = np.zeros((g.groups, s.panels * s.panel), y.dtype)
        if bias is not None:
            added[:, : s.filters] = bias.reshape(g.groups, s.filters)
        made = self.forward_correlation
        made.run(image, made.pack(self._flat(w), self._group_step), added, output, (0, 0, 0), (1, 1, 1))

    def backward_input(self, dy: Array, w: Array, dx: Array) -> None:
        """A correlation for each phase of the stride."""
        gradient, result = self._images(dy), self._images(dx)
        if gradient is None or result is None or (self.padded and not finite(w)):
            # Padding is multiplied here, and zero times infinity is not zero.
            Im2col(self.geometry).backward_input(dy, w, dx)
            return
        g, weights = self.geometry, self._turned(w) if self.turns else self._flat(w)
        if any(made is None for _, made in self.phases):
            dx[...] = 0
        for first, made in self.phases:
            if made is not None:
                s = made.sweep
                none = np.zeros((g.groups, s.panels * s.panel), dx.dtype)
                packed = made.pack(weights, self._group_step)
                made.run(gradient, packed, none, result, first, g.stride)

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> None:
        """Sums along lines."""
        gradient, image = self._images(dy), self._images(x, self.apart)
        if gradient is None or image is None or (self.sweep.blind and not finite(dy)):
            Im2col(self.geometry).backward_weight(dy, x, dw)
            return
        ordered = self._ordered(dw)
        result = ordered if ordered.flags.c_contiguous else np.empty(ordered.shape, dw.dtype)
        operands = (image, gradient) if self.swapped else (gradient, image)
        self.weight_sums.run(*operands, result.reshape(-1))
        if self.sweep.cut and not finite(result):
            # As in the forward pass: gradients that are not finite belong to taps that were passed over, too.
            Im2col(self.geometry).backward_weight(dy, x, dw)
        elif result is not ordered:
            ordered[...] = result

    @property
    def _group_step(self) -> int:
        return self.group_filters * self.steps[0]

    def _images(self, array: Array, apart: Three = (1, 1, 1)) -> Images | None:
        return Images.of(array, self.geometry.channels_last, apart)

    def _ordered(self, w: Array) -> Array:
        """Weights (K, C/G, T, R, S) with their axes in the order of the layout."""
        return w.transpose(0, 2, 3, 4, 1) if self.geometry.channels_last else w

    def _turned(self, w: Array) -> Array:
        """The weights (K, C/G, T, R, S) with their channels last."""
        flat = self._flat(w)
        channels, lanes = self.group_channels, self.sweep.lanes
        taps, turned = flat.size // (len(w) * channels), np.empty_like(flat)
        square = aligned(lanes * lanes, self.dtype)
        kernels.turn_filters(flat, len(w), channels * taps, 1, 0, channels, taps, turned, square)
        return turned

    def _flat(self, w: Array) -> Array:
        """The weights as they lie in memory, a copy where they have gaps."""
        return np.ascontiguousarray(self._ordered(w)).reshape(-1)


def _largest_band(geometry: Geometry) -> int:
    """Bytes of the band for one line of output of any pass, by arithmetic alone."""
    g = geometry
    reach = [d * (k - 1) + 1 for d, k in zip(g.dilation, g.kernel, strict=True)]
    width = max(g.input[2], g.output[2] * g.stride[2]) + 2 * reach[2]
    return max(g.channels, g.filters) // g.groups * reach[0] * reach[1] * width * g.compute_dtype.itemsize
