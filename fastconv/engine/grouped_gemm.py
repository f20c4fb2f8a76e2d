"""Groups whose filters fill vectors, in both layouts, and halves and quarters of vectors, channels last.

A bundle is as many filters as a vector has lanes: of one group, or of two or four groups with as many
channels as filters. A unit is some lines of one image for some bundles: what it reads is brought to a band
for each bundle, one vector of channels for each cell (`fastconv.kernels.grouped_gemm`).

    forward          vectors along filters, one channel of a cell at a time
    backward-input   the same for each phase of the stride, with filters and channels exchanged
    backward-weight  vectors along filters for each channel and tap, summed along the lines of the output

Units, and parts of the sums, follow from the shape alone.

With the channels last the cells of one bundle lie far apart in memory, where no prefetcher follows, so bands
of neighbouring bundles are filled at once: 116 and 105 GF/s (256x28 in groups of 8), 72 and 58 (128x56 in
groups of 4), backward-weight 67 and 37 (3x3 taps, float32, AVX-512 Xeon). Asking for what the next unit reads
while the tiles run gains nothing more (109 and 110). With the channels first it does (`ask_planes`).

Tried and dropped: tiles of two stretches of 7 cells, of one line or of two, for lines of 7 (float32, AVX-512
Xeon): 95 and 96 GF/s (512x7 in groups of 16), since 7 cells wait for nothing, and 150 and 143 (512x28), since
more is spread and counted.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import aligned, contiguous, zeros
from fastconv.engine.decompose import Axis, PhaseGrid, forward_axis
from fastconv.engine.indirect_planes import triples
from fastconv.engine.partition import Grid, Tables, ceil_div, jobs_now, pieces, wanted_jobs
from fastconv.engine.problem import Counts, Problem
from fastconv.engine.tensor import Images, Three, add_parts, finite
from fastconv.geometry import Geometry
from fastconv.kernels import grouped_gemm as kernels
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

if TYPE_CHECKING:
    from fastconv.engine.algorithm import Pass

# Channels of a bundle at the most: one sum runs over all taps of all of them.
MOST_CHANNELS = 64
# The band of a unit, and that of a line at the most.
BAND_BYTES, MOST_BAND_BYTES = 2**18, 6 * 2**20
# Bundles of a unit at the most, while it has several lines.
WIDE = 16
# Phases of a stride that a plan keeps.
MOST_KEPT_PHASES = 9
# Cells that one sum of backward-weight runs over.
SUM_CELLS = 512


class Sweep:
    """One correlation of bundles: ``out[k, o] = sum of w[k, c, tap] * x[c, o*stride + shift]``.

    Parameters
    ----------
    geometry : Geometry
    height, width : Axis
    channels, filters : int
        Of a group.
    tap_step, channel_step : int
        In the weights of a filter, from one tap and one channel to the next.
    most_cells : int
        Of the output that a unit has, but for a single line.
    jobs : int
        So many units at the least, where there can be.
    """

    alike = 1  # phases

    def __init__(
        self,
        geometry: Geometry,
        height: Axis,
        width: Axis,
        channels: int,
        filters: int,
        tap_step: int,
        channel_step: int,
        most_cells: int,
        jobs: int,
    ) -> None:
        g = geometry
        self.dtype, self.batch = g.compute_dtype, g.batch
        self.lanes = VECTOR_BYTES // self.dtype.itemsize
        self.axes, self.group = (height, width), (filters, channels)
        self.bundles = g.groups * filters // self.lanes
        self.channels = channels
        # Groups that a vector of filters belongs to.
        self.bundled = max(1, self.lanes // filters)
        self.blocks = ceil_div(channels, self.lanes)
        self.row_step = channel_step * self.lanes
        self.start, self.stride, self.span = height.lowest, height.stride, height.span
        # Columns that lie a stride apart are one phase of the band, beside each other: every so many taps.
        self.phases = width.phases
        self.columns = (
            width.output + (width.count - 1) // self.phases * self.phases * width.apart // width.stride
        )
        self.lines = max(1, min(height.output, most_cells // max(1, width.output)))
        # Where channels are last, bundles of one vector of them lie beside each other in memory.
        whole = g.channels_last and filters <= self.lanes and channels * self.bundled == self.lanes
        self.wide = self.bundles if whole else 1
        while max(self.wide, self.lines) > 1 and (
            self.band_elements * self.dtype.itemsize > BAND_BYTES or self.units < jobs
        ):
            if self.wide > WIDE or self.lines == 1:
                self.wide = ceil_div(self.wide, 2)
            else:
                self.lines = ceil_div(self.lines, 2)
        self.lines = ceil_div(height.output, ceil_div(height.output, self.lines))
        self.tap_step, self.channel_step, self.kernel_width = tap_step, channel_step, g.kernel[2]
        self.taps = height.count * width.count

    def _width_phases(self) -> tuple[Array, Array, Array]:
        """The phases of the band, which of them each tap along the width reads, and how far on.

        A phase: its first column in the image, the stride, how many columns there are, and which is first.
        """
        width = self.axes[1]
        whole, rest = divmod(width.shifts, width.stride)
        found, which = np.unique(rest, return_inverse=True)
        begins = np.full(len(found), whole[-1])
        np.minimum.at(begins, which, whole)
        phases = np.empty((len(found), 4), np.int64)
        phases[:, 0], phases[:, 1], phases[:, 3] = found, width.stride, begins
        phases[:, 2] = np.maximum(0, -((found - width.source) // width.stride))
        return phases, which, whole - begins[which]

    def _found(self) -> tuple[Array, Array, Array, int]:
        """The phases of the band; taps and where they begin in a cell, triples first; how many these are."""
        height, width = self.axes
        phases, which, further = self._width_phases()
        block = self.rows * self.columns * self.lanes
        offsets = np.add.outer(
            np.arange(height.count) * (height.apart * self.columns * self.lanes),
            which * (self.blocks * block) + further * self.lanes,
        ).reshape(-1)
        taps = np.add.outer(height.taps * self.kernel_width, width.taps).reshape(-1)
        order, threes = triples(offsets, self.lanes)
        return phases, taps[order], offsets[order], len(threes) // 3

    @Tables
    def tables(self) -> tuple[Array, Array, Array]:
        """The phases of the band, triples of taps, and other taps, as `convolve_bundles` takes them."""
        phases, taps, offsets, threes = self._found()
        firsts = np.arange(0, self.channels, self.lanes)
        steps = np.minimum(self.lanes, self.channels - firsts)
        cells = np.arange(len(firsts)) * (self.rows * self.columns * self.lanes)
        weights = np.add.outer(taps * self.tap_step, firsts * self.channel_step) * self.lanes
        triples_ = np.empty((threes, len(firsts), 5), np.int64)
        triples_[..., 0] = np.add.outer(offsets[: 3 * threes : 3], cells)
        triples_[..., 1] = steps
        for i in range(3):
            triples_[..., 2 + i] = weights[i : 3 * threes : 3]
        segments = np.empty((len(taps) - 3 * threes, len(firsts), 3), np.int64)
        segments[..., 0] = np.add.outer(offsets[3 * threes :], cells)
        segments[..., 1], segments[..., 2] = weights[3 * threes :], steps
        return phases, triples_.reshape(-1, 5), segments.reshape(-1, 3)

    @Tables
    def summed(self) -> tuple[Array, Array, Array, int]:
        """The phases of the band, taps and their offsets, triples first, and how many these are.

        A single cell of a line has no neighbours whose gradients backward-weight could share.
        """
        phases, taps, offsets, threes = self._found()
        if self.axes[1].output == 1:
            order = np.argsort(offsets)
            taps, offsets, threes = taps[order], offsets[order], 0
        return phases, taps, offsets, threes

    @property
    def units(self) -> int:
        """How many there are."""
        lines = self.axes[0].output
        return self.batch * ceil_div(lines, self.lines) * ceil_div(self.bundles, self.wide)

    @property
    def rows(self) -> int:
        """Lines of the band."""
        return (self.lines - 1) * self.stride + self.span

    @property
    def band_elements(self) -> int:
        """Of a unit."""
        # Neighbouring bands do not begin in the same set of a cache: 137 and 124 GF/s (as above, 512x14).
        return self.wide * (self.phases * self.blocks * self.rows * self.columns | 1) * self.lanes

    @property
    def cells(self) -> int:
        """Elements of the output that a unit has."""
        return self.wide * (self.lines * self.axes[1].output | 1) * self.lanes

    @property
    def scratch_bytes(self) -> int:
        """What a thread needs."""
        return (self.band_elements + self.cells) * self.dtype.itemsize

    def run(self, x: Images, packed: Array, bias: Array, y: Images, first: Three, stride: Three) -> None:
        """Write the cells of ``y`` from ``first`` on in strides."""
        work = packed.size * self.axes[0].output * self.axes[1].output * self.batch
        jobs = Grid((self.units, ceil_div(self.units, jobs_now(work))))
        image, output = x.strides(0), y.phase(0, first, stride)
        phases, triples_, segments = self.tables

        def start_worker() -> Job:
            band = aligned(self.band_elements, self.dtype)
            cells = aligned(self.cells // self.wide, self.dtype)
            square = aligned(self.lanes * self.lanes, self.dtype)

            def job(i: int) -> None:
                for units in pieces(jobs[i][0], work // len(jobs)):
                    kernels.convolve_bundles(
                        x.flat, image, packed, self.row_step, bias, y.flat, output, self.bundles,
                        self.wide, self.group, self.lines, self.start, self.stride, self.span,
                        phases, self.columns, triples_, segments, self.bundled, units, band,
                        cells, square,
                    )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)

    def sum(self, dy: Images, x: Images, batch: int) -> Array:
        """The weights' gradient as (bundles, groups of a bundle, filters of a group, taps, channels)."""
        together = self.bundled
        tile = min(kernels.SUM_CHANNELS, self.lanes // together)
        shape = self.bundles, self.taps, ceil_div(self.channels, tile) * tile, self.lanes
        work = self.bundles * self.taps * self.channels * self.lanes * batch
        work *= self.axes[0].output * self.axes[1].output
        wanted = wanted_jobs(work)
        # Parts of the images cost sums of their own, and few bundles read little of a cell.
        cells = batch * self.axes[0].output * self.axes[1].output
        most_parts = max(1, min(batch, cells // SUM_CELLS))
        owners = max(ceil_div(wanted, most_parts), min(wanted, ceil_div(self.bundles, ceil_div(WIDE, 2))))
        bundle_step = ceil_div(self.bundles, owners)
        image_step = ceil_div(batch, min(batch, ceil_div(wanted, ceil_div(self.bundles, bundle_step))))
        jobs = Grid((batch, image_step), (self.bundles, bundle_step))
        parts = jobs.counts[0]
        partial = zeros((parts, *shape), self.dtype)
        gradient, image = dy.strides(0), x.strides(0)
        phases, taps, offsets, threes = self.summed

        def start_worker() -> Job:
            band, cells = aligned(self.band_elements, self.dtype), aligned(self.cells, self.dtype)
            square = aligned(self.lanes * self.lanes, self.dtype)

            def job(i: int) -> None:
                some, bundles = jobs[i]
                for images in pieces(some, work // len(jobs)):
                    kernels.sum_bundles(
                        dy.flat, gradient, x.flat, image, partial[some[0] // image_step], self.wide,
                        self.group, self.lines, self.start, self.stride, self.span, phases, self.columns,
                        offsets, threes, self.bundled, images, bundles, band, cells, square,
                    )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)
        total = partial[0] if parts == 1 else add_parts(partial)
        if (np.diff(taps) < 0).any() or self.channels < shape[2]:
            total = total[:, np.argsort(taps), : self.channels]
        # From (bundles, taps, channels, filters of a group, groups)
        elements = self.taps * self.channels
        turned = aligned(self.bundles * self.lanes * elements, self.dtype)
        kernels.turn_groups(total.reshape(-1), self.bundles, elements, self.lanes, turned)
        natural = turned.reshape(self.bundles, -1, together, self.taps, self.channels)
        return natural.transpose(0, 2, 1, 3, 4)


def _why_unbundled(geometry: Geometry, filters: int, channels: int) -> str | None:
    """Why groups of so many filters and channels are no bundles."""
    g, lanes = geometry, VECTOR_BYTES // geometry.compute_dtype.itemsize
    parts = [lanes // groups for groups in kernels.groups_in(lanes)[1:]]
    if g.channels_last and filters == channels in parts and g.filters % lanes == 0:
        return None
    if filters % lanes:
        return f"{filters} of a group are no whole vectors of {lanes}"
    return f"a sum of more than {MOST_CHANNELS} channels is too long" if channels > MOST_CHANNELS else None


class GroupedGemm:
    """Groups in bundles of as many filters as a vector has lanes."""

    name = label = "grouped_gemm"

    def __init__(self, geometry: Geometry) -> None:
        g = self.geometry = geometry
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups
        c, taps = self.group_channels, g.kernel[1] * g.kernel[2]
        self.jobs = wanted_jobs(g.batch * g.pixels * g.filters * c * taps)
        self._made: dict[Three, Sweep] = {}

    @cached_property
    def forward_sweep(self) -> Sweep:
        """The forward pass."""
        return self._forward(self.geometry.pixels, self.jobs)

    @cached_property
    def sum_sweep(self) -> Sweep:
        """The backward-weight pass."""
        return self._forward(SUM_CELLS, 1)

    def _forward(self, most: int, jobs: int) -> Sweep:
        g, c = self.geometry, self.group_channels
        # Weights keep the layout of the images.
        tap_step, channel_step = (c, 1) if g.channels_last else (1, g.kernel[1] * g.kernel[2])
        axes = forward_axis(g, 1), forward_axis(g, 2)
        return Sweep(g, *axes, c, self.group_filters, tap_step, channel_step, most, jobs)

    @cached_property
    def phases(self) -> PhaseGrid:
        """Those of the stride, for the backward-input pass."""
        return PhaseGrid(self.geometry)

    def _phase(self, first: Three) -> Sweep:
        """What makes the cells of a phase of the stride, by its first cell."""
        made = self._made.get(first)
        if made is None:
            g = self.geometry
            _, height, width = self.phases.axes(first)
            made = Sweep(
                g, height, width, self.group_filters, self.group_channels, 1, g.kernel[1] * g.kernel[2],
                g.pixels, self.jobs,
            )  # fmt: skip
            made.alike = len(self.phases)
            if made.alike <= MOST_KEPT_PHASES:
                self._made[first] = made
        return made

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """What is no plane, groups that do not fill vectors, and lines that need too large a band."""
        g = geometry
        if not g.one_plane:
            return "there is a depth"
        if min(g.batch, g.channels, g.filters, g.pixels) == 0:
            return "there is nothing to compute"
        filters, channels = g.filters // g.groups, g.channels // g.groups
        if which == "backward_input":
            filters, channels = channels, filters
        reason = _why_unbundled(g, filters, channels)
        if reason is None and _largest_band(g) > MOST_BAND_BYTES:
            return (
                f"one line of output needs {_largest_band(g)} bytes of scratch, more than {MOST_BAND_BYTES}"
            )
        return reason

    @staticmethod
    def counts(p: Problem) -> Counts:
        """A bundle's vector times the channels and taps of every cell; bands of such cells."""
        bundles = p.groups * p.filters / p.lanes
        units = p.batch * bundles * p.reached
        fma = p.work / p.filters / p.groups * bundles
        apart = p.strided or p.geometry.kernel[1] < 3
        lines = p.seen_lines * p.reached
        return Counts(
            "grouped_gemm",
            {
                "call": 1,
                "units": units,
                "fma": fma,
                "singles": fma if apart else 0,
                "tiles": p.cells / p.groups * bundles,
                "runs": p.cells / p.groups * bundles * p.taps / p.reached,
                "band_last" if p.last else "band_first": p.seen * p.channels * p.itemsize * p.reached,
                "band_lines": lines if p.last else lines * p.channels,
                "out_last" if p.last else "out_first": p.target_bytes,
                "out_lines": units * p.lines,
                "weights": p.weight_bytes,
                "parts": p.weight_bytes * min(p.batch, p.jobs) if p.which == "backward_weight" else 0,
                "weights_far": p.weights_far,
                "source_far": p.source_far,
                "target_far": p.target_far,
            },
        )

    @property
    def scratch_bytes(self) -> int:
        """The largest band of a unit and what it writes."""
        g, sweeps = self.geometry, []
        if _serves(g, self.group_filters, self.group_channels):
            sweeps += [self.forward_sweep, self.sum_sweep]
        if _serves(g, self.group_channels, self.group_filters):
            sweeps += [self._phase(first) for first in self.phases.kinds]
        return max([sweep.scratch_bytes for sweep in sweeps], default=0)

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """One correlation."""
        image, output, g = self._images(x), self._images(y), self.geometry
        added = np.zeros(g.filters, y.dtype) if bias is None else np.ascontiguousarray(bias)
        packed = self._pack(self._flat(w), self.forward_sweep)
        self.forward_sweep.run(image, packed, added, output, (0, 0, 0), (1, 1, 1))
        return True

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """A correlation for each phase of the stride, with channels and filters exchanged."""
        gradient, result, g = self._images(dy), self._images(dx), self.geometry
        if self.phases.padded and not finite(w):
            return False  # padding is multiplied here
        if not self.phases.whole:
            dx[...] = 0
        packed = None
        none = np.zeros(g.channels, dx.dtype)
        for first in self.phases:
            made = self._phase(first)
            packed = self._packed_turned(w, made) if packed is None else packed
            made.run(gradient, packed, none, result, first, g.stride)
        return True

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Sums along lines."""
        gradient, image, sweep, g = self._images(dy), self._images(x), self.sum_sweep, self.geometry
        sums = sweep.sum(gradient, image, g.batch)
        dw[...] = sums.reshape(g.filters, -1, self.group_channels).transpose(0, 2, 1).reshape(dw.shape)
        return True

    @staticmethod
    def _pack(w: Array, sweep: Sweep) -> Array:
        packed = aligned(w.size, w.dtype)
        elements, groups = w.size // (sweep.bundles * sweep.lanes), sweep.bundled
        if groups > 1:
            apart = w.reshape(sweep.bundles, groups, -1, elements).transpose(0, 2, 1, 3)
            w = contiguous(apart).reshape(-1)
        kernels.pack_bundles(w, 0, sweep.bundles, elements, packed)
        return packed

    def _images(self, array: Array) -> Images:
        return Images.of(array, self.geometry.channels_last)

    def _flat(self, w: Array) -> Array:
        """The weights as they lie in memory, a copy where they have gaps."""
        ordered = w.transpose(0, 2, 3, 4, 1) if self.geometry.channels_last else w
        return contiguous(ordered).reshape(-1)

    def _packed_turned(self, w: Array, sweep: Sweep) -> Array:
        """Weights (K, C/G, 1, R, S) with filters and channels exchanged, packed."""
        g, k, c = self.geometry, self.group_filters, self.group_channels
        taps, lanes, together = g.kernel[1] * g.kernel[2], sweep.lanes, sweep.bundled
        if not g.channels_last:
            by_group = w.reshape(g.groups, k, c, taps).transpose(0, 2, 1, 3)
            return self._pack(contiguous(by_group).reshape(-1), sweep)
        flat, packed = self._flat(w), aligned(w.size, w.dtype)
        if together > 1:
            # (bundles, elements and channels, groups) from (bundles, groups, elements and channels)
            kernels.turn_groups(flat, sweep.bundles, together, w.size // (sweep.bundles * together), packed)
        else:
            # (groups, vectors, elements, lanes) from (groups, elements, vectors, lanes)
            by_vector = flat.reshape(g.groups, k * taps, c // lanes, lanes).transpose(0, 2, 1, 3)
            packed.reshape(by_vector.shape)[...] = by_vector
        return packed


def _serves(geometry: Geometry, filters: int, channels: int) -> bool:
    return _why_unbundled(geometry, filters, channels) is None


def _largest_band(geometry: Geometry) -> int:
    """Bytes of the band for one line of output of any pass, by arithmetic alone."""
    g = geometry
    reach = [d * (k - 1) + 1 for d, k in zip(g.dilation, g.kernel, strict=True)]
    width = max(g.input[2], g.output[2] * g.stride[2]) + 2 * reach[2]
    return MOST_CHANNELS * reach[1] * width * g.compute_dtype.itemsize
