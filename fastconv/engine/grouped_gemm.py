"""Groups whose filters fill vectors, in both layouts, and halves and quarters of vectors, channels last.

A channel block is as many filters as a vector has lanes: of one group, or of two or four groups with as many
channels as filters. A unit is some rows of one image for some channel blocks: what it reads is packed to a
band for each channel block, one vector of channels for each pixel (`fastconv.kernels.grouped_gemm`).

    forward          vectors along filters, one channel of a pixel at a time
    backward-input   the same for each phase of the stride, with filters and channels exchanged
    backward-weight  vectors along filters for each channel and tap, summed along the rows of the output

Units, and parts of the sums, follow from the shape alone.

With the channels last the pixels of one channel block lie far apart in memory, where no prefetcher follows,
so bands of neighbouring channel blocks are packed at once, which makes backward-weight nearly twice as fast.
With the channels first, what the next unit reads is prefetched while the tiles run.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import aligned, contiguous, zeros
from fastconv.engine.decompose import Axis, PhaseGrid, forward_axis, triples
from fastconv.engine.partition import Grid, Tables, ceil_div, jobs_now, pieces, wanted_jobs
from fastconv.engine.problem import Counts, Problem
from fastconv.engine.tensor import Images, Three, add_parts, finite
from fastconv.geometry import Geometry
from fastconv.kernels import grouped_gemm as kernels
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

if TYPE_CHECKING:
    from fastconv.engine.algorithm import Pass

# Channels of a group at the most: one sum runs over all taps of all of them.
MOST_CHANNELS = 64
# The band of a unit, and that of a row at the most.
BAND_BYTES, MOST_BAND_BYTES = 2**18, 6 * 2**20
# Channel blocks of a unit at the most, while it has several rows.
MOST_BLOCKS = 16
# Phases of a stride that a plan keeps.
MOST_KEPT_PHASES = 9
# Pixels that one sum of backward-weight runs over.
SUM_PIXELS = 512


class BlockCorrelation:
    """One correlation of channel blocks: ``out[k, o] = sum of w[k, c, tap] * x[c, o*stride + shift]``.

    Parameters
    ----------
    geometry : Geometry
    height, width : Axis
    channels, filters : int
        Of a group.
    tap_stride, channel_stride : int
        In the weights of a filter, from one tap and one channel to the next.
    most_pixels : int
        Of the output that a unit has, but for a single row.
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
        tap_stride: int,
        channel_stride: int,
        most_pixels: int,
        jobs: int,
    ) -> None:
        g = geometry
        self.dtype, self.batch = g.compute_dtype, g.batch
        self.lanes = VECTOR_BYTES // self.dtype.itemsize
        self.height, self.width = height, width
        self.blocks = g.groups * filters // self.lanes
        self.channels = channels
        # Groups that a vector of filters belongs to.
        self.groups = max(1, self.lanes // filters)
        self.channel_vectors = ceil_div(channels, self.lanes)
        self.start, self.stride, self.span = height.lowest, height.stride, height.span
        # Columns that lie a stride apart are one phase of the band, beside each other: every so many taps.
        self.phases = width.phases
        self.columns = (
            width.output + (width.count - 1) // self.phases * self.phases * width.apart // width.stride
        )
        self.rows = max(1, min(height.output, most_pixels // max(1, width.output)))
        # Where channels are last, channel blocks of one vector of them lie beside each other in memory.
        whole = g.channels_last and filters <= self.lanes and channels * self.groups == self.lanes
        self.unit_blocks = self.blocks if whole else 1
        while max(self.unit_blocks, self.rows) > 1 and (
            self.band_elements * self.dtype.itemsize > BAND_BYTES or self.units < jobs
        ):
            if self.unit_blocks > MOST_BLOCKS or self.rows == 1:
                self.unit_blocks = ceil_div(self.unit_blocks, 2)
            else:
                self.rows = ceil_div(self.rows, 2)
        self.rows = ceil_div(height.output, ceil_div(height.output, self.rows))
        # As kernels take it.
        self.layer = (
            self.blocks, self.unit_blocks, filters, channels, self.groups, self.rows, self.start,
            self.stride, self.span, self.columns, channel_stride * self.lanes,
        )  # fmt: skip
        self.tap_stride, self.channel_stride, self.kernel_width = tap_stride, channel_stride, g.kernel[2]
        self.taps = height.count * width.count

    def _width_phases(self) -> tuple[Array, Array, Array]:
        """The phases of the band, which of them each tap along the width reads, and how far on.

        A phase: its first column in the image, the stride, how many columns there are, and which is first.
        """
        width = self.width
        whole, rest = divmod(width.shifts, width.stride)
        found, which = np.unique(rest, return_inverse=True)
        begins = np.full(len(found), whole[-1])
        np.minimum.at(begins, which, whole)
        phases = np.empty((len(found), 4), np.int64)
        phases[:, 0], phases[:, 1], phases[:, 3] = found, width.stride, begins
        phases[:, 2] = np.maximum(0, -((found - width.source) // width.stride))
        return phases, which, whole - begins[which]

    def _found(self) -> tuple[Array, Array, Array, int]:
        """The phases of the band; taps and where they begin in a pixel, triples first; how many these are."""
        height, width = self.height, self.width
        phases, which, further = self._width_phases()
        block = self.band_rows * self.columns * self.lanes
        offsets = np.add.outer(
            np.arange(height.count) * (height.apart * self.columns * self.lanes),
            which * (self.channel_vectors * block) + further * self.lanes,
        ).reshape(-1)
        taps = np.add.outer(height.taps * self.kernel_width, width.taps).reshape(-1)
        order, threes = triples(offsets, self.lanes)
        return phases, taps[order], offsets[order], len(threes) // 3

    @Tables
    def tables(self) -> tuple[Array, Array, Array]:
        """The phases of the band, triples of taps, and other taps, as `convolve_units` takes them."""
        phases, taps, offsets, threes = self._found()
        firsts = np.arange(0, self.channels, self.lanes)
        steps = np.minimum(self.lanes, self.channels - firsts)
        vectors = np.arange(len(firsts)) * (self.band_rows * self.columns * self.lanes)
        weights = np.add.outer(taps * self.tap_stride, firsts * self.channel_stride) * self.lanes
        triples_ = np.empty((threes, len(firsts), 5), np.int64)
        triples_[..., 0] = np.add.outer(offsets[: 3 * threes : 3], vectors)
        triples_[..., 1] = steps
        for i in range(3):
            triples_[..., 2 + i] = weights[i : 3 * threes : 3]
        segments = np.empty((len(taps) - 3 * threes, len(firsts), 3), np.int64)
        segments[..., 0] = np.add.outer(offsets[3 * threes :], vectors)
        segments[..., 1], segments[..., 2] = weights[3 * threes :], steps
        return phases, triples_.reshape(-1, 5), segments.reshape(-1, 3)

    @Tables
    def summed(self) -> tuple[Array, Array, Array, int]:
        """The phases of the band, taps and their offsets, triples first, and how many these are.

        A single pixel of a row has no neighbours whose gradients backward-weight could share.
        """
        phases, taps, offsets, threes = self._found()
        if self.width.output == 1:
            order = np.argsort(offsets)
            taps, offsets, threes = taps[order], offsets[order], 0
        return phases, taps, offsets, threes

    @property
    def units(self) -> int:
        """How many there are."""
        per_image = ceil_div(self.height.output, self.rows) * ceil_div(self.blocks, self.unit_blocks)
        return self.batch * per_image

    @property
    def band_rows(self) -> int:
        """Rows of the band."""
        return (self.rows - 1) * self.stride + self.span

    @property
    def band_elements(self) -> int:
        """Of a unit."""
        # Neighbouring bands do not begin in the same set of a cache: 137 and 124 GF/s (as above, 512x14).
        vectors = self.phases * self.channel_vectors * self.band_rows * self.columns | 1
        return self.unit_blocks * vectors * self.lanes

    @property
    def pixel_elements(self) -> int:
        """Elements of the output that a unit has."""
        return self.unit_blocks * (self.rows * self.width.output | 1) * self.lanes

    @property
    def scratch_bytes(self) -> int:
        """What a thread needs."""
        return (self.band_elements + self.pixel_elements) * self.dtype.itemsize

    def _scratch(self, pixel_elements: int) -> tuple[Array, Array, Array]:
        """Of a thread: a band, pixels, and a square of lanes by lanes."""
        band, pixels = aligned(self.band_elements, self.dtype), aligned(pixel_elements, self.dtype)
        return band, pixels, aligned(self.lanes * self.lanes, self.dtype)

    def run(self, x: Images, packed: Array, bias: Array, y: Images, first: Three, stride: Three) -> None:
        """Write the pixels of ``y`` from ``first`` on in strides."""
        work = packed.size * self.height.output * self.width.output * self.batch
        jobs = Grid((self.units, ceil_div(self.units, jobs_now(work))))
        image, output = x.strides(0), y.phase(0, first, stride)
        layer, taps = self.layer, self.tables

        def start_worker() -> Job:
            scratch = self._scratch(self.pixel_elements // self.unit_blocks)

            def job(i: int) -> None:
                (some,) = jobs[i]
                for units in pieces(some, work // len(jobs)):
                    kernels.convolve_units(
                        x.flat, image, packed, bias, y.flat, output, layer, taps, units, scratch
                    )

            return job

        run_jobs(len(jobs), start_worker)

    def sum(self, dy: Images, x: Images, batch: int) -> Array:
        """The weights' gradient as (channel blocks, groups of one, filters of a group, taps, channels)."""
        together = self.groups
        tile = min(kernels.SUM_CHANNELS, self.lanes // together)
        shape = self.blocks, self.taps, ceil_div(self.channels, tile) * tile, self.lanes
        work = self.blocks * self.taps * self.channels * self.lanes * batch
        work *= self.height.output * self.width.output
        wanted = wanted_jobs(work)
        # Parts of the images cost sums of their own, and few channel blocks read little of a pixel.
        pixels = batch * self.height.output * self.width.output
        most_parts = max(1, min(batch, pixels // SUM_PIXELS))
        units = ceil_div(self.blocks, ceil_div(MOST_BLOCKS, 2))
        owners = max(ceil_div(wanted, most_parts), min(wanted, units))
        block_step = ceil_div(self.blocks, owners)
        image_step = ceil_div(batch, min(batch, ceil_div(wanted, ceil_div(self.blocks, block_step))))
        jobs = Grid((batch, image_step), (self.blocks, block_step))
        parts = jobs.counts[0]
        partial = zeros((parts, *shape), self.dtype)
        gradient, image = dy.strides(0), x.strides(0)
        phases, taps, offsets, threes = self.summed
        layer, table = self.layer, (phases, offsets, threes)

        def start_worker() -> Job:
            scratch = self._scratch(self.pixel_elements)

            def job(i: int) -> None:
                (first, stop), blocks = jobs[i]
                for images in pieces((first, stop), work // len(jobs)):
                    kernels.sum_blocks(
                        dy.flat, gradient, x.flat, image, partial[first // image_step], layer, table,
                        (*images, *blocks), scratch,
                    )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)
        total = partial[0] if parts == 1 else add_parts(partial)
        if (np.diff(taps) < 0).any() or self.channels < shape[2]:
            total = total[:, np.argsort(taps), : self.channels]
        # From (channel blocks, taps, channels, filters of a group, groups)
        elements = self.taps * self.channels
        transposed = aligned(self.blocks * self.lanes * elements, self.dtype)
        kernels.transpose_groups(total.reshape(-1), self.blocks, elements, self.lanes, transposed)
        natural = transposed.reshape(self.blocks, -1, together, self.taps, self.channels)
        return natural.transpose(0, 2, 1, 3, 4)


def _why_no_blocks(geometry: Geometry, filters: int, channels: int) -> str | None:
    """Why groups of so many filters and channels are no channel blocks."""
    g, lanes = geometry, VECTOR_BYTES // geometry.compute_dtype.itemsize
    parts = [lanes // groups for groups in kernels.groups_in(lanes)[1:]]
    if g.channels_last and filters == channels in parts and g.filters % lanes == 0:
        return None
    if filters % lanes:
        return f"{filters} of a group are no whole vectors of {lanes}"
    return f"a sum of more than {MOST_CHANNELS} channels is too long" if channels > MOST_CHANNELS else None


class GroupedGemm:
    """Groups in channel blocks: as many filters as a vector has lanes."""

    name = label = "grouped_gemm"

    def __init__(self, geometry: Geometry) -> None:
        g = self.geometry = geometry
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups
        c, taps = self.group_channels, g.kernel[1] * g.kernel[2]
        self.jobs = wanted_jobs(g.batch * g.pixels * g.filters * c * taps)
        self._made: dict[Three, BlockCorrelation] = {}

    @cached_property
    def forward_correlation(self) -> BlockCorrelation:
        """The forward pass."""
        return self._forward(self.geometry.pixels, self.jobs)

    @cached_property
    def sum_correlation(self) -> BlockCorrelation:
        """The backward-weight pass."""
        return self._forward(SUM_PIXELS, 1)

    def _forward(self, most: int, jobs: int) -> BlockCorrelation:
        g, c = self.geometry, self.group_channels
        # Weights keep the layout of the images.
        tap_stride, channel_stride = (c, 1) if g.channels_last else (1, g.kernel[1] * g.kernel[2])
        axes = forward_axis(g, 1), forward_axis(g, 2)
        return BlockCorrelation(g, *axes, c, self.group_filters, tap_stride, channel_stride, most, jobs)

    @cached_property
    def phases(self) -> PhaseGrid:
        """Those of the stride, for the backward-input pass."""
        return PhaseGrid(self.geometry)

    def _phase(self, first: Three) -> BlockCorrelation:
        """What makes the pixels of a phase of the stride, by its first pixel."""
        made = self._made.get(first)
        if made is None:
            g = self.geometry
            _, height, width = self.phases.axes(first)
            made = BlockCorrelation(
                g, height, width, self.group_filters, self.group_channels, 1, g.kernel[1] * g.kernel[2],
                g.pixels, self.jobs,
            )  # fmt: skip
            made.alike = len(self.phases)
            if made.alike <= MOST_KEPT_PHASES:
                self._made[first] = made
        return made

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """What is no plane, groups that do not fill vectors, and rows that need too large a band."""
        g = geometry
        if not g.one_plane:
            return "there is a depth"
        if min(g.batch, g.channels, g.filters, g.pixels) == 0:
            return "there is nothing to compute"
        filters, channels = g.filters // g.groups, g.channels // g.groups
        if which == "backward_input":
            filters, channels = channels, filters
        reason = _why_no_blocks(g, filters, channels)
        if reason is None and _largest_band(g) > MOST_BAND_BYTES:
            return f"one row of output needs {_largest_band(g)} bytes of scratch, more than {MOST_BAND_BYTES}"
        return reason

    @staticmethod
    def counts(p: Problem) -> Counts:
        """A channel block's vector times the channels and taps of every pixel; bands of such pixels."""
        blocks = p.groups * p.filters / p.lanes
        units = p.batch * blocks * p.reached
        fma = p.work / p.filters / p.groups * blocks
        apart = p.strided or p.geometry.kernel[1] < 3
        lines = p.seen_lines * p.reached
        return Counts(
            "grouped_gemm",
            {
                "call": 1,
                "units": units,
                "fma": fma,
                "singles": fma if apart else 0,
                "tiles": p.cells / p.groups * blocks,
                "runs": p.cells / p.groups * blocks * p.taps / p.reached,
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
        g, correlations = self.geometry, []
        if _serves(g, self.group_filters, self.group_channels):
            correlations += [self.forward_correlation, self.sum_correlation]
        if _serves(g, self.group_channels, self.group_filters):
            correlations += [self._phase(first) for first in self.phases.kinds]
        return max([correlation.scratch_bytes for correlation in correlations], default=0)

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """One correlation."""
        image, output, g = self._images(x), self._images(y), self.geometry
        added = np.zeros(g.filters, y.dtype) if bias is None else np.ascontiguousarray(bias)
        packed = self._pack(self._flat(w), self.forward_correlation)
        self.forward_correlation.run(image, packed, added, output, (0, 0, 0), (1, 1, 1))
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
            packed = self._packed_transposed(w, made) if packed is None else packed
            made.run(gradient, packed, none, result, first, g.stride)
        return True

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Sums along rows."""
        g = self.geometry
        sums = self.sum_correlation.sum(self._images(dy), self._images(x), g.batch)
        dw[...] = sums.reshape(g.filters, -1, self.group_channels).transpose(0, 2, 1).reshape(dw.shape)
        return True

    @staticmethod
    def _pack(w: Array, correlation: BlockCorrelation) -> Array:
        packed = aligned(w.size, w.dtype)
        elements, groups = w.size // (correlation.blocks * correlation.lanes), correlation.groups
        if groups > 1:
            apart = w.reshape(correlation.blocks, groups, -1, elements).transpose(0, 2, 1, 3)
            w = contiguous(apart).reshape(-1)
        kernels.pack_weights(w, correlation.blocks, elements, packed)
        return packed

    def _images(self, array: Array) -> Images:
        return Images.of(array, self.geometry.channels_last)

    def _flat(self, w: Array) -> Array:
        """The weights as they lie in memory, a copy where they have gaps."""
        ordered = w.transpose(0, 2, 3, 4, 1) if self.geometry.channels_last else w
        return contiguous(ordered).reshape(-1)

    def _packed_transposed(self, w: Array, correlation: BlockCorrelation) -> Array:
        """Weights (K, C/G, 1, R, S) with filters and channels exchanged, packed."""
        g, k, c = self.geometry, self.group_filters, self.group_channels
        taps, lanes, together = g.kernel[1] * g.kernel[2], correlation.lanes, correlation.groups
        if not g.channels_last:
            by_group = w.reshape(g.groups, k, c, taps).transpose(0, 2, 1, 3)
            return self._pack(contiguous(by_group).reshape(-1), correlation)
        flat, packed = self._flat(w), aligned(w.size, w.dtype)
        if together > 1:
            # (channel blocks, elements and channels, groups) from (channel blocks, groups, both)
            elements = w.size // (correlation.blocks * together)
            kernels.transpose_groups(flat, correlation.blocks, together, elements, packed)
        else:
            # (groups, vectors, elements, lanes) from (groups, elements, vectors, lanes)
            by_vector = flat.reshape(g.groups, k * taps, c // lanes, lanes).transpose(0, 2, 1, 3)
            packed.reshape(by_vector.shape)[...] = by_vector
        return packed


def _serves(geometry: Geometry, filters: int, channels: int) -> bool:
    return _why_no_blocks(geometry, filters, channels) is None


def _largest_band(geometry: Geometry) -> int:
    """Bytes of the band for one row of output of any pass, by arithmetic alone."""
    g = geometry
    reach = [d * (k - 1) + 1 for d, k in zip(g.dilation, g.kernel, strict=True)]
    width = max(g.input[2], g.output[2] * g.stride[2]) + 2 * reach[2]
    return MOST_CHANNELS * reach[1] * width * g.compute_dtype.itemsize
