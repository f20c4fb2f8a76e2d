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
from fastconv.engine.depthwise_lines import LineCorrelation
from fastconv.engine.partition import Grid, Latest, Tables, ceil_div, owned_jobs, wanted_jobs
from fastconv.engine.problem import L1_BYTES, Counts, Problem
from fastconv.engine.tensor import add_parts, pixels_first
from fastconv.geometry import Geometry, read_only
from fastconv.kernels import depthwise as kernels
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

# (channels, filters) of a group that there are tiles for.
GROUPS = ((1, 1), (2, 2), (4, 4), (8, 8), (1, 2), (2, 1))
# Pixels that share a table, and those that one sum runs over before it is added to the others.
TABLE_PIXELS = 1024
# Taps of all lines that share one, at the most: each may have taps of its own.
TABLE_TAPS = 2**18
CHUNK = 16
# So many sums, at the most, are added up one after the other.
CHUNKS = 2**10

Three = tuple[int, int, int]


def tile_for(channels: int, filters: int, itemsize: int) -> bool:
    """Whether there is a tile for groups of so many."""
    return (channels, filters) in GROUPS and VECTOR_BYTES // itemsize % filters == 0


def axis_tables(phases: Phases) -> tuple[Array, Array]:
    """The runs of cells of one axis that the same taps reach, and the taps of each.

    Taps of a run follow each other in the order of their shifts, so runs share them.
    """
    taps, which, shifts = phases.taps
    firsts = np.array(phases.firsts)
    cells = phases.cells(firsts)
    order = np.lexsort((shifts, which))
    taps, which, shifts = taps[order], which[order], shifts[order]
    # From and up to which cell of its phase each tap meets the source.
    begin = np.maximum(0, -(shifts // phases.step))
    end = np.maximum(begin, np.minimum(cells[which], -((shifts - phases.source) // phases.step)))
    # A run ends where a tap begins or ends. Cells are counted through all phases.
    apart = int(max(cells.max(), begin.max())) + 1
    begin, end, origin = begin + which * apart, end + which * apart, np.arange(len(firsts)) * apart
    marks = np.unique(np.concatenate((origin, begin, end)))
    phase, marks = divmod(marks, apart)
    marks, phase = marks[marks < cells[phase]], phase[marks < cells[phase]]
    runs = np.empty((len(marks), 5), np.int64)
    runs[:, 0], runs[:-1, 1], runs[:, 2] = marks, marks[1:], firsts[phase]
    last = np.append(phase[1:] != phase[:-1], True)
    runs[last, 1] = cells[phase[last]]
    # Taps of larger shifts begin and end sooner: those that have begun are the last of their phase.
    stop = np.searchsorted(which, phase, "right")
    here = marks + phase * apart
    begun = np.searchsorted(np.sort(begin), here, "right") - np.searchsorted(which, phase)
    ended = np.searchsorted(np.sort(end), here, "right") - np.searchsorted(which, phase)
    runs[:, 3], runs[:, 4] = stop - begun, np.maximum(0, begun - ended)
    return runs, np.stack((taps, shifts), axis=1)


class PixelCorrelation:
    """One correlation over all pixels.

    Parameters
    ----------
    sizes : Sizes
    """

    def __init__(self, sizes: Sizes) -> None:
        phases, extent, stride, batch, groups, channels, filters, kernel = sizes
        self.batch, self.groups, self.group, self.kernel = batch, groups, (channels, filters), kernel
        # A stride beyond the output is one of its extent: so one along a single cell is none.
        d, h, w = (min(s, n) for s, n in zip(stride, extent, strict=True))
        self.out_stride = stride = (d, h, w)
        self.phases = phases
        # Cells of the source from one cell of a phase to the next.
        self.stride: Three = (phases[0].step, phases[1].step, phases[2].step)
        self.whole = all([some.whole for some in phases])
        self._latest: Latest[Grid] = Latest()
        # Without phases along an axis all of the output is zero.
        self.empty = not all([some.count for some in phases])
        self.lines_of = [ceil_div(extent[a], stride[a]) for a in range(3)]
        self.axis = next((a for a in range(3) if self.lines_of[a] > 1), 2)
        self.lines = self.lines_of[self.axis]
        work = batch * groups * channels * filters * prod(extent) * prod(kernel) // prod(stride)
        self.work = work // 2
        self.wanted = wanted_jobs(self.work)
        line_pixels = prod(extent) // extent[self.axis] * stride[self.axis]
        lines = max(1, min(self.lines, TABLE_PIXELS // line_pixels, TABLE_TAPS // prod(kernel)))
        images = 1
        if lines == self.lines:
            images = min(ceil_div(batch, self.wanted), max(1, TABLE_PIXELS // (lines * line_pixels)))
        self.block = (max(1, images), lines, max(1, images) * lines * line_pixels)

    @Tables
    def tables(self) -> tuple[Array, ...]:
        """For each axis the runs of cells that the same taps reach, and then for each the taps."""
        (d, d_taps), (h, h_taps), (w, w_taps) = (axis_tables(some) for some in self.phases)
        return d, h, w, d_taps, h_taps, w_taps

    def _jobs(self, wanted: int) -> Grid:
        """Lines, images."""
        line_step = ceil_div(ceil_div(self.lines, self.block[1]), wanted) * self.block[1]
        wanted = ceil_div(wanted, ceil_div(self.lines, line_step))
        image_step = max(1, ceil_div(ceil_div(self.batch, self.block[0]), wanted) * self.block[0])
        return Grid((self.lines, line_step), (self.batch, image_step))

    @cached_property
    def sum_jobs(self) -> Grid:
        """Those of a sum over all pixels, which do not follow from the number of threads."""
        chunks = ceil_div(self.batch * prod(self.lines_of), CHUNK)
        return self._jobs(max(self.wanted, ceil_div(chunks, CHUNKS)))

    def run(self, source: Array, weights: Array, bias: Array | None, out: Array) -> None:
        """Write all of ``out``; ``weights`` is (groups, filters, channels, taps)."""
        filters = self.groups * self.group[1]
        if not self.whole:
            out[...] = 0
        if self.empty:
            return
        # (taps, channels, filters of all groups): a vector is loaded from along the filters
        packed = weights.transpose(3, 2, 0, 1).reshape(-1, self.group[0], filters)
        packed = read_only(contiguous(packed))
        added = read_only(np.zeros(filters, out.dtype) if bias is None else np.ascontiguousarray(bias))
        x, first, steps = pixels_first(read_only(source))
        y, _, out_steps = pixels_first(out)
        jobs, tables = self._latest.of(self._jobs, owned_jobs(self.work)), self.tables

        def start_worker() -> Job:
            def job(i: int) -> None:
                lines, images = jobs[i]
                kernels.correlate_lasts(
                    x, first, steps, self.stride, tables[:3], tables[3:], self.kernel, packed, added, y,
                    out_steps, self.out_stride, self.axis, self.group, images, lines, self.block,
                )  # fmt: skip

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
        x, first, steps = pixels_first(read_only(source))
        gradient, first_gradient, gradient_steps = pixels_first(read_only(dy))
        jobs, tables = self.sum_jobs, self.tables
        shape = (prod(self.kernel) + 1, self.group[0], self.groups * self.group[1])
        partial = zeros((max(1, len(jobs)), *shape), x.dtype)

        def start_worker() -> Job:
            def job(i: int) -> None:
                lines, images = jobs[i]
                kernels.sum_lasts(
                    x, first, steps, self.stride, tables[:3], tables[3:], self.kernel, gradient,
                    first_gradient, gradient_steps, self.axis, self.group, images, lines, self.block, CHUNK,
                    partial[i],
                )  # fmt: skip

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
        if LineCorrelation.serves(g):
            return LineCorrelation(g, back)
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
        return (LineCorrelation if LineCorrelation.serves(p.geometry) else PixelCorrelation).counts(p)

    @property
    def scratch_bytes(self) -> int:
        """What the larger of both needs."""
        return max(self.forward_correlation.scratch_bytes, self.backward_correlation.scratch_bytes)
