"""Groups whose filters fill vectors, in both layouts, and halves and quarters of vectors, channels last.

A bundle is as many filters as a vector has lanes: of one group, or of two or four groups with as many
channels as filters. A unit is some lines of one image for some bundles: what it reads is brought to a band
for each bundle, one vector of channels for each cell (`fastconv.kernels.bundles`).

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

from typing import TYPE_CHECKING

import numpy as np

from fastconv.algorithms.axes import Axis, backward_axes, forward_axis
from fastconv.algorithms.grouped import triples
from fastconv.algorithms.jobs import blocks, ceil_div, jobs_now, pieces, wanted_jobs
from fastconv.algorithms.memory import Images, Three, add_parts, finite
from fastconv.algorithms.problem import Counts, Problem
from fastconv.arguments import Array
from fastconv.buffers import aligned, contiguous, zeros
from fastconv.geometry import Geometry
from fastconv.kernels import bundles as kernels
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

if TYPE_CHECKING:
    from fastconv.algorithms import Pass

# Channels of a bundle at the most: one sum runs over all taps of all of them.
MOST_CHANNELS = 64
# The band of a unit, and that of a line at the most.
BAND_BYTES, MOST_BAND_BYTES = 2**18, 6 * 2**20
# Bundles of a unit at the most, while it has several lines.
WIDE = 16
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
        self.start, self.stride = height.lowest, height.stride
        self.span = max(height.shifts) - height.lowest + 1
        # Columns that lie a stride apart are one phase of the band, beside each other.
        found = sorted({shift % width.stride for shift in width.shifts})
        begins = {ph: min(s // width.stride for s in width.shifts if s % width.stride == ph) for ph in found}
        reach = max(shift // width.stride - begins[shift % width.stride] for shift in width.shifts)
        self.columns = width.output + reach
        self.phases = np.array(
            [
                (ph, width.stride, max(0, ceil_div(width.source - ph, width.stride)), begins[ph])
                for ph in found
            ]
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
        block = self.rows * self.columns * self.lanes
        places = [
            (
                t * g.kernel[2] + s,
                (found.index(x % width.stride) * self.blocks * block)
                + ((y - self.start) * self.columns + x // width.stride - begins[x % width.stride])
                * self.lanes,
            )
            for y, t in zip(height.shifts, height.taps, strict=True)
            for x, s in zip(width.shifts, width.taps, strict=True)
        ]
        threes, others = triples([(offset, tap) for tap, offset in places], self.lanes)
        # A single cell of a line has no neighbours whose gradients backward-weight could share.
        summed = threes if width.output > 1 else []
        ordered = summed + sorted({(offset, tap) for tap, offset in places} - set(summed))
        self.summed_triples = len(summed) // 3
        self.taps = [tap for _, tap in ordered]
        self.offsets = np.array([offset for offset, _ in ordered])
        channel_blocks = list(blocks(channels, self.lanes))

        def cell(offset: int, first: int) -> int:
            return offset + first // self.lanes * block + first % self.lanes

        def weight(tap: int, first: int) -> int:
            return (tap * tap_step + first * channel_step) * self.lanes

        self.triples = np.array(
            [
                (cell(offset, first), stop - first, *(weight(tap, first) for _, tap in threes[n : n + 3]))
                for n, (offset, _) in list(enumerate(threes))[::3]
                for first, stop in channel_blocks
            ],
            np.int64,
        ).reshape(-1, 5)
        self.segments = np.array(
            [
                (cell(offset, first), weight(tap, first), stop - first)
                for offset, tap in others
                for first, stop in channel_blocks
            ],
            np.int64,
        ).reshape(-1, 3)

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
        return self.wide * (len(self.phases) * self.blocks * self.rows * self.columns | 1) * self.lanes

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
        jobs = list(blocks(self.units, ceil_div(self.units, jobs_now(work))))
        image, output = x.steps(0), y.phase(0, first, stride)

        def start_worker() -> Job:
            band = aligned(self.band_elements, self.dtype)
            cells = aligned(self.cells // self.wide, self.dtype)
            square = aligned(self.lanes * self.lanes, self.dtype)

            def job(i: int) -> None:
                for units in pieces(jobs[i], work // len(jobs)):
                    kernels.convolve_bundles(
                        x.flat, image, packed, self.row_step, bias, y.flat, output, self.bundles,
                        self.wide, self.group, self.lines, self.start, self.stride, self.span,
                        self.phases, self.columns, self.triples, self.segments, self.bundled, units, band,
                        cells, square,
                    )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)

    def sum(self, dy: Images, x: Images, batch: int) -> Array:
        """The weights' gradient as (bundles, groups of a bundle, filters of a group, taps, channels)."""
        together = self.bundled
        tile = min(kernels.SUM_CHANNELS, self.lanes // together)
        shape = self.bundles, len(self.taps), ceil_div(self.channels, tile) * tile, self.lanes
        work = self.bundles * len(self.taps) * self.channels * self.lanes * batch
        work *= self.axes[0].output * self.axes[1].output
        wanted = wanted_jobs(work)
        # Parts of the images cost sums of their own, and few bundles read little of a cell.
        cells = batch * self.axes[0].output * self.axes[1].output
        most_parts = max(1, min(batch, cells // SUM_CELLS))
        owners = max(ceil_div(wanted, most_parts), min(wanted, ceil_div(self.bundles, ceil_div(WIDE, 2))))
        some = list(blocks(self.bundles, ceil_div(self.bundles, owners)))
        parts = list(blocks(batch, ceil_div(batch, min(batch, ceil_div(wanted, len(some))))))
        partial = zeros((len(parts), *shape), self.dtype)
        gradient, image = dy.steps(0), x.steps(0)

        def start_worker() -> Job:
            band, cells = aligned(self.band_elements, self.dtype), aligned(self.cells, self.dtype)
            square = aligned(self.lanes * self.lanes, self.dtype)

            def job(i: int) -> None:
                part, bundles = divmod(i, len(some))
                for images in pieces(parts[part], work // (len(some) * len(parts))):
                    kernels.sum_bundles(
                        dy.flat, gradient, x.flat, image, partial[part], self.wide, self.group,
                        self.lines, self.start, self.stride, self.span, self.phases, self.columns,
                        self.offsets, self.summed_triples, self.bundled, images, some[bundles], band, cells,
                        square,
                    )  # fmt: skip

            return job

        run_jobs(len(some) * len(parts), start_worker)
        total = partial[0] if len(parts) == 1 else add_parts(partial)
        if self.taps != sorted(self.taps) or self.channels < shape[2]:
            total = total[:, np.argsort(self.taps), : self.channels]
        # From (bundles, taps, channels, filters of a group, groups)
        elements = len(self.taps) * self.channels
        turned = aligned(self.bundles * self.lanes * elements, self.dtype)
        kernels.turn_groups(total.reshape(-1), self.bundles, elements, self.lanes, turned)
        natural = turned.reshape(self.bundles, -1, together, len(self.taps), self.channels)
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


class Bundles:
    """Groups in bundles of as many filters as a vector has lanes."""

    name = "bundles"

    def __init__(self, geometry: Geometry) -> None:
        g = self.geometry = geometry
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups
        c, k, taps = self.group_channels, self.group_filters, g.kernel[1] * g.kernel[2]
        # Weights keep the layout of the images.
        tap_step, channel_step = (c, 1) if g.channels_last else (1, taps)
        axes = forward_axis(g, 1), forward_axis(g, 2)
        most, jobs = g.pixels, wanted_jobs(g.batch * g.pixels * g.filters * c * taps)
        self.forward_sweep = (
            Sweep(g, *axes, c, k, tap_step, channel_step, most, jobs) if _serves(g, k, c) else None
        )
        self.sum_sweep = (
            Sweep(g, *axes, c, k, tap_step, channel_step, SUM_CELLS, 1) if _serves(g, k, c) else None
        )
        # The first cell of each phase of the stride, and what makes its cells: None where they are zero.
        self.phases: list[tuple[Three, Sweep | None]] = []
        if _serves(g, c, k):
            for row, height in backward_axes(g, 1):
                for column, width in backward_axes(g, 2):
                    made = None
                    if height is not None and width is not None:
                        made = Sweep(g, height, width, k, c, 1, taps, most, jobs)
                    self.phases.append(((0, row, column), made))
        self.padded = any(
            not axis.unpadded for _, sweep in self.phases if sweep is not None for axis in sweep.axes
        )

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
        lines = p.batch * p.groups * p.reached * p.source[1]
        return Counts(
            "bundles",
            {
                "call": 1,
                "units": units,
                "fma": fma,
                "singles": fma if apart else 0,
                "tiles": p.cells / p.groups * bundles,
                "runs": p.cells / p.groups * bundles * p.taps / p.reached,
                "band_last" if p.last else "band_first": p.source_bytes * p.reached,
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
        sweeps = [self.forward_sweep, self.sum_sweep, *(sweep for _, sweep in self.phases)]
        own = [sweep.scratch_bytes for sweep in sweeps if sweep is not None]
        return max(own, default=0)

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """One correlation."""
        image, output, g = self._images(x), self._images(y), self.geometry
        assert self.forward_sweep is not None
        added = np.zeros(g.filters, y.dtype) if bias is None else np.ascontiguousarray(bias)
        packed = self._pack(self._flat(w), self.forward_sweep)
        self.forward_sweep.run(image, packed, added, output, (0, 0, 0), (1, 1, 1))
        return True

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """A correlation for each phase of the stride, with channels and filters exchanged."""
        gradient, result, g = self._images(dy), self._images(dx), self.geometry
        if self.padded and not finite(w):
            return False  # padding is multiplied here
        if any(made is None for _, made in self.phases):
            dx[...] = 0
        packed = None
        none = np.zeros(g.channels, dx.dtype)
        for first, made in self.phases:
            if made is not None:
                packed = self._packed_turned(w, made) if packed is None else packed
                made.run(gradient, packed, none, result, first, g.stride)
        return True

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Sums along lines."""
        gradient, image, sweep, g = self._images(dy), self._images(x), self.sum_sweep, self.geometry
        assert sweep is not None
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
