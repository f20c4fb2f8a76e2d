"""Convolution of planes without columns, with vectors along filters.

Every cell of the output reads its taps where they lie.

What the taps read is a band, some lines of some images with the channels last and padding around them
(`fastconv.kernels.bands`); images with the channels last that need no padding are their own band. Every cell
of the output is a row of a product whose other side is the packed weights, so planes need not be large, and
strides and dilations only change where rows begin (`fastconv.kernels.direct`).

    forward          cells of the output and vectors along filters
    backward-input   for each phase of the stride, cells of the input and vectors along channels, over the
                     taps that reach the phase
    backward-weight  filters and vectors along channels, summed along the lines of the output

A job owns chunks of lines and some of the filters; jobs follow from the shape alone.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.algorithms.im2col import Im2col
from fastconv.algorithms.jobs import JOB_MULTIPLICATIONS, JOBS, PARTS_BYTES, blocks, ceil_div
from fastconv.algorithms.memory import Images, aligned, finite, new_array
from fastconv.algorithms.virtual import Axis, backward_axes, forward_axis
from fastconv.arguments import Array
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
# Channels that are not worth a vector.
FEW = 8
# What a chunk reads.
BAND_BYTES = 2**20
MOST_BAND_BYTES = 6 * 2**20
# Cells that one part of backward-weight sums at the least: each part writes all weights once more (107 GF/s
# with parts of 196 cells and 165 with one part, 1024x14 -> 256, float32).
PART_CELLS = 1024
# The sums of a job of backward-weight.
SUMS_BYTES = 4 * 2**20
# Elements that one sum runs over before it is added to the others.
SUM = 256
# Panels of filters of one job at the least, where filters are parted: each part fills the band again.
PART_PANELS = 2

Two = tuple[int, int]


class Taps:
    """What the cells of one correlation read: ``out[k, o] = sum of w[k, c, tap] * x[c, o*stride + shift]``.

    Parameters
    ----------
    axes : two Axis
        Along height and width.
    channels : int
        Of a group.
    kernel : tuple of two int
        Extents of the whole kernel, of which the axes name the taps.
    lanes : int
    """

    def __init__(self, axes: tuple[Axis, Axis], channels: int, kernel: Two, lanes: int) -> None:
        self.axes, self.channels, self.lanes = axes, channels, lanes
        # Along each axis (shift, tap), in the order in which they lie in a band.
        rows, columns = (sorted(zip(axis.shifts, axis.taps, strict=True)) for axis in axes)
        self.start: Two = (axes[0].lowest, axes[1].lowest)
        self.stride: Two = (axes[0].stride, axes[1].stride)
        self.span: Two = (rows[-1][0] - self.start[0] + 1, columns[-1][0] - self.start[1] + 1)
        self.taps = [r * kernel[1] + s for (_, r), (_, s) in itertools.product(rows, columns)]
        self.places = [
            (y - self.start[0], x - self.start[1]) for (y, _), (x, _) in itertools.product(rows, columns)
        ]
        self.across = len(columns)
        # Neighbours along the width are one run of elements.
        self.joined = self.span[1] == len(columns) and len(columns) * channels <= SUM
        self.elements = len(self.taps) * channels

    def segments(self, columns: int, pitch: int) -> list[tuple[int, int]]:
        """Where elements that lie one behind the other begin, and how many they are."""
        step, length = (self.across, self.across * self.channels) if self.joined else (1, self.channels)
        return [((y * columns + x) * pitch, length) for y, x in self.places[::step]]

    def runs(self, columns: int, pitch: int) -> tuple[Array, Array, Array]:
        """Runs in a band and in a panel, and how many of them, of how many steps, make up one sum."""
        a_runs: list[int] = []
        b_runs: list[int] = []
        groups: list[tuple[int, int, int]] = []
        done = 0
        for begin, length in self.segments(columns, pitch):
            for first, stop in blocks(length, SUM):
                if groups and groups[-1][2] == stop - first and (groups[-1][1] + 1) * (stop - first) <= SUM:
                    groups[-1] = (groups[-1][0], groups[-1][1] + 1, stop - first)
                else:
                    groups.append((len(a_runs), 1, stop - first))
                a_runs.append(begin + first)
                b_runs.append((done + first) * PANEL * self.lanes)
            done += length
        return np.array(a_runs), np.array(b_runs), np.array(groups)

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
    """One correlation of planes: how it is cut into chunks and jobs.

    Parameters
    ----------
    axes : two Axis
    batch, groups, channels, filters : int
        Channels and filters are those of a group.
    kernel : tuple of two int
    dtype : numpy.dtype
    last : bool
        Whether channels are last.
    """

    def __init__(
        self,
        axes: tuple[Axis, Axis],
        batch: int,
        groups: int,
        channels: int,
        filters: int,
        kernel: Two,
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
        self.height, self.width = axes[0].output, axes[1].output
        self.taps = Taps(axes, channels, kernel, self.lanes)
        inside = all(axis.inside for axis in axes)
        # Every cell reads the one it is.
        self.unmoved = all(
            axis.source == axis.output and axis.stride == 1 and axis.shifts == (0,) for axis in axes
        )
        # Images that are their own band: no padding, and cells of one group only.
        self.own = last and inside and groups == 1
        self.pitch = channels
        self.columns = (
            axes[1].source if self.own else (self.width - 1) * self.taps.stride[1] + self.taps.span[1]
        )
        self.a_runs, self.b_runs, self.sums = self.taps.runs(self.columns, self.pitch)
        work = batch * groups * filters * self.taps.elements * self.height * self.width
        self.wanted = max(1, min(JOBS, work // JOB_MULTIPLICATIONS))

    def chunk(self, cells: int) -> Two:
        """Lines and images of a chunk of about so many cells, in chunks of equal size."""
        plane = self.height * self.width
        if plane <= cells:
            images = max(1, min(self.batch, cells // plane, BAND_BYTES // self.band_bytes(self.height, 1)))
            return self.height, ceil_div(self.batch, ceil_div(self.batch, images))
        lines = max(1, cells // self.width)
        while lines > 1 and self.band_bytes(lines, 1) > BAND_BYTES:
            lines = ceil_div(lines, 2)
        return ceil_div(self.height, ceil_div(self.height, lines)), 1

    def band_bytes(self, lines: int, images: int) -> int:
        """What a chunk reads, and a vector more."""
        rows = (lines - 1) * self.taps.stride[0] + self.taps.span[0]
        return (images * rows * self.columns * self.pitch + self.lanes) * self.dtype.itemsize

    def chunks(self, lines: int, images: int) -> int:
        """How many chunks there are."""
        return ceil_div(self.batch, images) * ceil_div(self.height, lines)


class Correlation:
    """Forward over one `Sweep`, or one phase of backward-input."""

    def __init__(self, sweep: Sweep, steps: tuple[int, int, int]) -> None:
        """``steps`` are those of the weights along filters, channels and taps of a group."""
        s = self.sweep = sweep
        self.lane_step, self.channel_step, self.tap_step = steps
        self.sources, self.rows = s.taps.packing(self.tap_step, self.channel_step, self.lane_step != 1)
        self.lines, self.images = s.chunk(CELLS)
        if len(s.taps.taps) == 1 and not s.own:
            # Rather more chunks than parts of the filters, which fill the band again: 119 and 145 GF/s (512x4
            # -> 512, batch 64), 96 and 121 (1024x14 -> 512 in strides of 2).
            fewest = max(ceil_div(s.batch, s.wanted), ceil_div(FEWEST_CELLS, s.height * s.width))
            self.images = min(self.images, fewest)
        self.chunk_count = s.chunks(self.lines, self.images)
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
        band = 0 if s.own else s.band_bytes(self.lines, self.images) // s.dtype.itemsize
        return band, 0 if in_place else self.lines * self.images * s.width * pitch

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

    def run(self, x: Images, packed: list[Array], bias: Array, y: Images, first: Two, stride: Two) -> None:
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
                    t.elements, t.start, t.stride, t.span, chunks, self.lines, self.images, s.pitch, s.a_runs,
                    s.b_runs, s.sums, s.own, band, cells,
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
        self.lines, self.images = s.chunk(SUM_CELLS)
        chunks = s.chunks(self.lines, self.images)
        # Panels hold the elements of all taps without gaps: 113 GF/s, and 81 with whole vectors for each line
        # of taps (3x224, 7x7 in strides of 2, float32, AVX-512 Xeon).
        self.pieces, self.row = self._pieces()
        self.weights = s.groups * s.filters * s.taps.elements
        # Rows that lie as the weights do are summed in place where they are whole vectors: 112 GF/s with a
        # copy and 154 without (512x7 -> 2048, 1x1), 38 and 132 of one image.
        self.in_order = not swapped and (s.last or len(s.taps.taps) == 1)
        self.in_place = self.in_order and self.row == s.taps.elements
        wanted = ceil_div(s.wanted, s.groups)
        several = wanted * self.weights * s.dtype.itemsize <= 2 * PARTS_BYTES
        worthwhile = s.batch * s.height * s.width // PART_CELLS
        parts = max(1, min(wanted, chunks, worthwhile)) if several else 1
        self.parts = list(blocks(chunks, ceil_div(chunks, parts)))
        # Filters of a job: not too few to fill a band for, nor more than there is room for sums.
        step = max(4 * PART_PANELS * s.panel, ceil_div(s.filters, ceil_div(wanted, parts)))
        self.step = min(s.filters, step, max(ROWS, SUMS_BYTES // (self.row * s.dtype.itemsize)))
        self.jobs = [
            (part, group, some)
            for part in range(len(self.parts))
            for group in range(s.groups)
            for some in blocks(s.filters, self.step)
        ]

    def _pieces(self) -> tuple[Array, int]:
        """Where the elements of a cell lie in a band, in vectors or parts of one; and a row of sums."""
        s = self.sweep
        panel, done = s.panel, 0
        pieces: list[tuple[int, int, int]] = []
        for begin, length in s.taps.segments(s.columns, s.pitch):
            stop = done + length
            bounds = [done, *range(ceil_div(done + 1, panel) * panel, stop, panel), stop]
            for first, last in itertools.pairwise(bounds):
                pieces += [(begin + i - done, j - i, i) for i, j in blocks(last, s.lanes, first)]
            done = stop
        return np.array(pieces), ceil_div(done, s.lanes) * s.lanes

    @property
    def scratch_bytes(self) -> int:
        """What a thread needs, and partial sums of all weights."""
        partial = len(self.parts) * self.weights if len(self.parts) > 1 else 0
        return (sum(self._sizes()) + partial) * self.sweep.dtype.itemsize

    def _sizes(self) -> tuple[int, int, int, int]:
        """Elements of a chunk's band, panel and gradients, and of sums."""
        s = self.sweep
        cells = self.lines * self.images * s.width
        band = 0 if s.own else s.band_bytes(self.lines, self.images) // s.dtype.itemsize
        # Planes of one cell have their channels first and last.
        last = s.last or s.height * s.width == 1
        sums = 0 if self.in_place else self.step * self.row
        return band, cells * s.panel, self.step * cells if last else 0, sums

    def run(self, dy: Images, x: Images, dw: Array) -> None:
        """Write the weights' gradient, flat, in the order of the layout."""
        s, t = self.sweep, self.sweep.taps
        several = len(self.parts) > 1
        partial = new_array((len(self.parts), self.weights), s.dtype) if several else dw[np.newaxis]

        def start_worker() -> Job:
            band, panel, turned, sums = (aligned(size, s.dtype) for size in self._sizes())
            panel[...] = 0  # lanes that no element fills are multiplied too, and denormals are slow

            def job(i: int) -> None:
                part, group, (first, stop) = self.jobs[i]
                rows = group * s.filters + first
                whole, begin = (partial[part], rows) if self.in_place else (sums, 0)
                some = whole.reshape(-1, self.row)[begin : begin + stop - first]
                some[...] = 0
                kernels.sum_bands(
                    dy.flat, dy.steps(group * s.filters), x.flat, x.steps(group * s.channels), some, s.batch,
                    s.channels, (first, stop - first), t.start, t.stride, t.span, self.parts[part],
                    self.lines, self.images, s.pitch, t.elements, self.pieces, s.own, band, panel, turned,
                )  # fmt: skip
                if not self.in_place:
                    self._write(some, partial[part], group, first)

            return job

        run_jobs(len(self.jobs), start_worker)
        if several:
            np.add.reduce(partial, axis=0, out=dw)

    def _write(self, sums: Array, dw: Array, group: int, first: int) -> None:
        """Sums of some filters to where they belong: there taps are last, or channels."""
        s = self.sweep
        channels, elements = s.channels, s.taps.elements
        square = aligned(s.lanes * s.lanes, s.dtype)
        place = dw[(group * s.filters + first) * elements :]
        if self.swapped:
            target = dw[group * s.filters * channels + first :]
            turn_cells(sums.reshape(-1), 0, self.row, len(sums), channels, target, s.filters, square)
        elif self.in_order:
            place[: len(sums) * elements].reshape(len(sums), elements)[...] = sums[:, :elements]
        else:
            kernels.turn_filters(
                sums.reshape(-1), len(sums), self.row, len(s.taps.taps), channels, place, square
            )


class Direct:
    """Planes, with vectors along filters."""

    name = "direct"

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        self.geometry = g
        self.dtype = np.dtype(g.compute_dtype)
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups
        self.kernel: Two = (g.kernel[1], g.kernel[2])
        taps = self.kernel[0] * self.kernel[1]
        # From one filter, channel and tap to the next: the weights keep the layout of the images.
        c = self.group_channels
        self.steps = (taps * c, 1, c) if g.channels_last else (taps * c, taps, 1)
        axes = (forward_axis(g, 1), forward_axis(g, 2))
        # One tap reads cells that lie apart: they are taken for an image of their own, without a stride, so
        # that no others are read: forward 93 and 116 GF/s, backward-weight 97 and 131 (512x28 -> 256, 1x1 in
        # strides of 2).
        self.apart: Two = (1, 1)
        if self.kernel == (1, 1) and not g.channels_last and all(axis.inside for axis in axes):
            self.apart = (g.stride[1], g.stride[2])
            axes = (
                replace(axes[0], source=g.output[1], stride=1),
                replace(axes[1], source=g.output[2], stride=1),
            )
        self.sweep = self._sweep(axes, c, self.group_filters)
        self.forward_correlation = Correlation(self.sweep, self.steps)
        # What is broadcast is turned where channels are last, what is in panels where they are first.
        narrower = c < self.group_filters if g.channels_last else c > self.group_filters
        self.swapped = self.kernel == (1, 1) and self.sweep.unmoved and self.apart == (1, 1) and narrower
        weight_sweep = self._sweep(axes, self.group_filters, c) if self.swapped else self.sweep
        self.weight_sums = WeightSums(weight_sweep, self.swapped)
        filter_step, channel_step, tap_step = self.steps
        # The first cell of each phase of the stride, and what makes its cells: None where they are zero.
        self.phases: list[tuple[Two, Correlation | None]] = []
        for (row, height), (column, width) in itertools.product(backward_axes(g, 1), backward_axes(g, 2)):
            made = None
            if height is not None and width is not None:
                sweep = self._sweep((height, width), self.group_filters, c)
                made = Correlation(sweep, (channel_step, filter_step, tap_step))
            self.phases.append(((row, column), made))
        made_axes = [axis for _, made in self.phases if made is not None for axis in made.sweep.axes]
        self.padded = not all(axis.inside for axis in made_axes)

    def _sweep(self, axes: tuple[Axis, Axis], channels: int, filters: int) -> Sweep:
        g = self.geometry
        return Sweep(axes, g.batch, g.groups, channels, filters, self.kernel, self.dtype, g.channels_last)

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """All but single planes."""
        g = geometry
        if not g.one_plane:
            return "there is more than one plane"
        if min(g.batch, g.channels, g.filters, g.pixels) == 0:
            return "there is nothing to compute"
        largest = _largest_band(g)
        if largest > MOST_BAND_BYTES:
            return f"one line of output needs {largest} bytes of scratch, more than {MOST_BAND_BYTES}"
        return None

    @staticmethod
    def why_slow(geometry: Geometry, which: Pass) -> str | None:
        """Where a stride leads back to few channels, 21 GF/s and 72 of BLAS (3x224, stride 2)."""
        g = geometry
        if which == "backward_input" and max(g.stride) > 1 and g.channels // g.groups < FEW:
            return "few channels leave vectors empty"
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
        if image is None or output is None:
            Im2col(self.geometry).forward(x, w, bias, y)
            return
        g, s = self.geometry, self.sweep
        added = np.zeros((g.groups, s.panels * s.panel), y.dtype)
        if bias is not None:
            added[:, : s.filters] = bias.reshape(g.groups, s.filters)
        made = self.forward_correlation
        made.run(image, made.pack(self._flat(w), self._group_step), added, output, (0, 0), (1, 1))

    def backward_input(self, dy: Array, w: Array, dx: Array) -> None:
        """A correlation for each phase of the stride."""
        gradient, result = self._images(dy), self._images(dx)
        if gradient is None or result is None or (self.padded and not finite(w)):
            # Padding is multiplied here, and zero times infinity is not zero.
            Im2col(self.geometry).backward_input(dy, w, dx)
            return
        g, weights = self.geometry, self._flat(w)
        if any(made is None for _, made in self.phases):
            dx[...] = 0
        for first, made in self.phases:
            if made is not None:
                s = made.sweep
                none = np.zeros((g.groups, s.panels * s.panel), dx.dtype)
                packed = made.pack(weights, self._group_step)
                made.run(gradient, packed, none, result, first, (g.stride[1], g.stride[2]))

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> None:
        """Sums along lines."""
        gradient, image = self._images(dy), self._images(x, self.apart)
        if gradient is None or image is None:
            Im2col(self.geometry).backward_weight(dy, x, dw)
            return
        ordered = self._ordered(dw)
        result = ordered if ordered.flags.c_contiguous else np.empty(ordered.shape, dw.dtype)
        operands = (image, gradient) if self.swapped else (gradient, image)
        self.weight_sums.run(*operands, result.reshape(-1))
        if result is not ordered:
            ordered[...] = result

    @property
    def _group_step(self) -> int:
        return self.group_filters * self.steps[0]

    def _images(self, array: Array, apart: Two = (1, 1)) -> Images | None:
        return Images.of(array, self.geometry.channels_last, apart)

    def _ordered(self, w: Array) -> Array:
        """Weights (K, C/G, 1, R, S) with their axes in the order of the layout."""
        return w.transpose(0, 2, 3, 4, 1) if self.geometry.channels_last else w

    def _flat(self, w: Array) -> Array:
        """The weights as they lie in memory, a copy where they have gaps."""
        return np.ascontiguousarray(self._ordered(w)).reshape(-1)


def _largest_band(geometry: Geometry) -> int:
    """Bytes of the band for one line of output of any pass, by arithmetic alone."""
    g = geometry
    reach = [d * (k - 1) + 1 for d, k in zip(g.dilation[1:], g.kernel[1:], strict=True)]
    width = max(g.input[2], g.output[2] * g.stride[2]) + 2 * reach[1]
    return max(g.channels, g.filters) // g.groups * reach[0] * width * g.compute_dtype.itemsize
