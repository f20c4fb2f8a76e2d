"""Small groups with the channels last: nothing is copied, vectors lie along filters.

The engine behind `fastconv.engine.indirect_planes` for that layout; its kernels are
`fastconv.kernels.depthwise`. A pass is one correlation: of the input with the filters, or of the output's
gradient with filters and channels exchanged and a set of taps for each phase of the stride.
"""

from __future__ import annotations

from functools import cached_property
from math import prod

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import contiguous, zeros
from fastconv.engine.algorithm import Pass
from fastconv.engine.correlations import Correlation, Correlations, Sizes, backward_sizes, forward_sizes
from fastconv.engine.decompose import Phases
from fastconv.engine.depthwise_lines import RowCorrelation
from fastconv.engine.partition import Grid, Latest, Tables, ceil_div, owned_jobs, wanted_jobs
from fastconv.engine.problem import L1_BYTES, Counts, Problem
from fastconv.engine.tensor import add_parts, pixels_first
from fastconv.geometry import Geometry, read_only
from fastconv.kernels import depthwise as kernels
from fastconv.kernels.depthwise_tiles import GROUPS
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

# Pixels that share a table.
TABLE_PIXELS = 1024
# Taps of all slices that share a table, at the most: each slice may have taps of its own.
TABLE_TAPS = 2**18
# Pixels that one sum runs over before it is added to the others.
CHUNK = 16
# So many sums, at the most, are added up one after the other.
CHUNKS = 2**10


def tile_for(channels: int, filters: int, itemsize: int) -> bool:
    """Whether there is a tile for groups of so many."""
    return (channels, filters) in GROUPS and VECTOR_BYTES // itemsize % filters == 0


def axis_tables(phases: Phases) -> tuple[Array, Array]:
    """The intervals of one axis that the same taps reach, and the taps, as in `fastconv.kernels.depthwise`.

    Taps of an interval follow each other in the order of their shifts, so intervals share them.
    """
    taps, which, shifts = phases.taps
    firsts = np.array(phases.firsts)
    pixels = phases.cells(firsts)
    order = np.lexsort((shifts, which))
    taps, which, shifts = taps[order], which[order], shifts[order]
    # From and up to which pixel of its phase each tap meets the source.
    begin = np.maximum(0, -(shifts // phases.step))
    end = np.maximum(begin, np.minimum(pixels[which], -((shifts - phases.source) // phases.step)))
    # An interval ends where a tap begins or ends. Pixels are counted through all phases.
    apart = int(max(pixels.max(), begin.max())) + 1
    begin, end, origin = begin + which * apart, end + which * apart, np.arange(len(firsts)) * apart
    marks = np.unique(np.concatenate((origin, begin, end)))
    phase, marks = divmod(marks, apart)
    marks, phase = marks[marks < pixels[phase]], phase[marks < pixels[phase]]
    intervals = np.empty((len(marks), kernels.INTERVAL_COLUMNS), np.int64)
    intervals[:, kernels.BEGIN], intervals[:, kernels.FIRST] = marks, firsts[phase]
    last = np.append(phase[1:] != phase[:-1], True)
    intervals[:, kernels.END] = np.where(last, pixels[phase], np.append(marks[1:], 0))
    # Taps of larger shifts begin and end sooner: those that have begun are the last of their phase.
    stop = np.searchsorted(which, phase, "right")
    here = marks + phase * apart
    begun = np.searchsorted(np.sort(begin), here, "right") - np.searchsorted(which, phase)
    ended = np.searchsorted(np.sort(end), here, "right") - np.searchsorted(which, phase)
    intervals[:, kernels.FIRST_TAP] = stop - begun
    intervals[:, kernels.TAPS] = np.maximum(0, begun - ended)
    return intervals, np.stack((taps, shifts), axis=1)


class PixelCorrelation:
    """One correlation over all pixels.

    Parameters
    ----------
    sizes : Sizes
    """

    def __init__(self, sizes: Sizes) -> None:
        phases, extent, stride, batch, groups, channels, filters, kernel = sizes
        self.batch, self.filters = batch, groups * filters
        self.phases = phases
        self.whole = all([some.whole for some in phases])
        # Without phases along an axis all of the output is zero.
        self.empty = not all([some.count for some in phases])
        # A stride beyond the output is one of its extent: so one along a single pixel is none.
        d, h, w = (min(s, n) for s, n in zip(stride, extent, strict=True))
        self.slices_of = [ceil_div(n, s) for n, s in zip(extent, (d, h, w), strict=True)]
        axis = next((a for a in range(3) if self.slices_of[a] > 1), 2)
        self.slices = self.slices_of[axis]
        # Pixels of the source from one pixel of a phase to the next.
        source_stride = tuple([some.step for some in phases])
        self.layer = kernel, source_stride, (d, h, w), channels, filters, axis
        self.weights_shape = prod(kernel), channels, self.filters
        work = batch * groups * channels * filters * prod(extent) * prod(kernel) // prod((d, h, w))
        self.work = work // 2
        self.wanted = wanted_jobs(self.work)
        self._latest: Latest[Grid] = Latest()
        slice_pixels = prod(extent) // extent[axis] * (d, h, w)[axis]
        slices = max(1, min(self.slices, TABLE_PIXELS // slice_pixels, TABLE_TAPS // prod(kernel)))
        images = 1
        if slices == self.slices:
            most = TABLE_PIXELS // (slices * slice_pixels)
            images = max(1, min(ceil_div(batch, self.wanted), max(1, most)))
        # How many share tables, and the pixels that these have.
        self.table_images, self.table_slices = images, slices
        self.table_pixels = images * slices * slice_pixels

    @Tables
    def tables(self) -> tuple[Array, ...]:
        """For each axis the intervals that the same taps reach, and the taps."""
        (d, d_taps), (h, h_taps), (w, w_taps) = (axis_tables(some) for some in self.phases)
        return d, d_taps, h, h_taps, w, w_taps

    def _axes(self) -> tuple[tuple[Array, Array], ...]:
        """The tables, axis by axis."""
        d, d_taps, h, h_taps, w, w_taps = self.tables
        return (d, d_taps), (h, h_taps), (w, w_taps)

    def _jobs(self, wanted: int) -> Grid:
        """Images, slices."""
        blocks = ceil_div(self.slices, self.table_slices)
        slice_step = ceil_div(blocks, wanted) * self.table_slices
        wanted = ceil_div(wanted, ceil_div(self.slices, slice_step))
        image_step = max(1, ceil_div(ceil_div(self.batch, self.table_images), wanted) * self.table_images)
        return Grid((self.slices, slice_step), (self.batch, image_step))

    def _job(self, jobs: Grid, i: int) -> tuple[int, ...]:
        """A job as kernels take it."""
        slices, images = jobs[i]
        return (*images, *slices, self.table_images, self.table_slices, self.table_pixels)

    @cached_property
    def sum_jobs(self) -> Grid:
        """Those of a sum over all pixels, which do not follow from the number of threads."""
        chunks = ceil_div(self.batch * prod(self.slices_of), CHUNK)
        return self._jobs(max(self.wanted, ceil_div(chunks, CHUNKS)))

    def run(self, source: Array, weights: Array, bias: Array | None, out: Array) -> None:
        """Write all of ``out``; ``weights`` is (groups, filters, channels, taps)."""
        if not self.whole:
            out[...] = 0
        if self.empty:
            return
        # (taps, channels, filters of all groups): a vector is loaded from along the filters
        packed = weights.transpose(3, 2, 0, 1).reshape(self.weights_shape)
        packed = read_only(contiguous(packed))
        added = read_only(np.zeros(self.filters, out.dtype) if bias is None else np.ascontiguousarray(bias))
        x, image = pixels_first(read_only(source))
        y, output = pixels_first(out)
        jobs, axes = self._latest.of(self._jobs, owned_jobs(self.work)), self._axes()

        def start_worker() -> Job:
            def job(i: int) -> None:
                kernels.correlate_pixels(
                    x, image, axes, self.layer, packed, added, y, output, self._job(jobs, i)
                )

            return job

        run_jobs(len(jobs), start_worker)

    @staticmethod
    def counts(p: Problem) -> Counts:
        """Vectors of filters times taps at every pixel; those that are not full are masked."""
        vectors, pixels = ceil_div(p.groups * p.filters, p.lanes), p.cells / p.groups
        fma = p.work / p.groups / p.filters * vectors
        sums = p.which == "backward_weight"
        return Counts(
            "depthwise/pixels",
            {
                "call": 1,
                "lines": p.batch * p.lines * p.reached,
                "fma": fma,
                "fma_strided": fma if p.strided else 0,
                "masked": fma / vectors if p.groups * p.filters % p.lanes else 0,
                "tiles": pixels * vectors,
                "weights_l2": fma if p.weight_bytes > L1_BYTES else 0,
                "pixels": pixels,
                "sums": p.batch * p.lines * p.extent[2] / CHUNK * p.taps * vectors if sums else 0,
                "weights": p.weight_bytes,
                "parts": p.weight_bytes * p.jobs if sums else 0,
                "source": p.source_bytes,
                "target": p.target_bytes,
                "source_far": p.source_far,
                "target_far": p.target_far,
            },
        )

    @property
    def scratch_bytes(self) -> int:
        """None but tables and packed weights."""
        return 0

    def sum(self, dy: Array, source: Array, dw: Array) -> None:
        """Write ``dw`` (K, C/G, kernel): the weight's gradient of a forward correlation."""
        x, image = pixels_first(read_only(source))
        flat_dy, gradient = pixels_first(read_only(dy))
        jobs, axes = self.sum_jobs, self._axes()
        taps, channels, filters = self.weights_shape
        partial = zeros((max(1, len(jobs)), taps + 1, channels, filters), x.dtype)

        def start_worker() -> Job:
            def job(i: int) -> None:
                kernels.sum_pixels(
                    x, image, axes, self.layer, flat_dy, gradient, self._job(jobs, i), CHUNK, partial[i]
                )

            return job

        run_jobs(len(jobs), start_worker)
        total = partial[0] if len(partial) == 1 else add_parts(partial)
        # (K, C/G, taps) from (taps, C/G, K), without the row of scratch
        dw[...] = total[:-1].transpose(2, 1, 0).reshape(dw.shape)


class Depthwise(Correlations):
    """Depthwise layers and small groups with the channels last: vectors along the filters of all groups."""

    name = label = "depthwise"

    def _correlation(self, back: bool) -> Correlation:
        g = self.geometry
        if RowCorrelation.serves(g):
            return RowCorrelation(g, back)
        return PixelCorrelation(backward_sizes(g) if back else forward_sizes(g))

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """Channels first, and groups that there is no tile for."""
        g = geometry
        if not g.channels_last:
            return "vectors run along filters, which are not contiguous with the channels first"
        channels, filters = g.channels // g.groups, g.filters // g.groups
        if which == "backward_input":
            channels, filters = filters, channels
        if tile_for(channels, filters, g.compute_dtype.itemsize):
            return None
        return f"there is no tile for groups of {channels} channels and {filters} filters"

    @staticmethod
    def counts(p: Problem) -> Counts:
        """Those of the loops that serve the layer."""
        return (RowCorrelation if RowCorrelation.serves(p.geometry) else PixelCorrelation).counts(p)

    @property
    def scratch_bytes(self) -> int:
        """What the larger of both needs."""
        return max(self.forward_correlation.scratch_bytes, self.backward_correlation.scratch_bytes)
