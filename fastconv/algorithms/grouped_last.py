"""Small groups with the channels last: nothing is copied, vectors lie along filters.

The engine behind `fastconv.algorithms.grouped` for that layout; its kernels are
`fastconv.kernels.grouped_last`. A pass is one correlation: of the input with the filters, or of the output's
gradient with filters and channels exchanged and a set of taps for each phase of the stride.
"""

from __future__ import annotations

import itertools
from math import prod

import numpy as np

from fastconv.algorithms.axes import Axis
from fastconv.algorithms.jobs import Range, blocks, ceil_div, owned_jobs, wanted_jobs
from fastconv.algorithms.memory import add_parts, pixels_first
from fastconv.algorithms.problem import Counts, Problem
from fastconv.arguments import Array
from fastconv.buffers import contiguous, zeros
from fastconv.geometry import read_only
from fastconv.kernels import grouped_last as kernels
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

# (channels, filters) of a group that there are tiles for.
GROUPS = ((1, 1), (2, 2), (4, 4), (8, 8), (1, 2), (2, 1))
# Pixels that share a table, and those that one sum runs over before it is added to the others.
TABLE_PIXELS = 1024
CHUNK = 16
# So many sums, at the most, are added up one after the other.
CHUNKS = 2**10

Three = tuple[int, int, int]
Phases = list[tuple[int, Axis | None]]


def tile_for(channels: int, filters: int, itemsize: int) -> bool:
    """Whether there is a tile for groups of so many."""
    return (channels, filters) in GROUPS and VECTOR_BYTES // itemsize % filters == 0


def axis_tables(phases: Phases, extent: int, out_stride: int) -> tuple[Array, Array]:
    """The runs of cells of one axis that the same taps reach, and the taps of each."""
    runs: list[tuple[int, ...]] = []
    taps: list[tuple[int, int]] = []
    for first, axis in phases:
        cells = ceil_div(extent - first, out_stride)
        if axis is None:
            runs.append((0, cells, first, 0, 0))
            continue
        # From and up to which cell each tap meets the source.
        reach = [
            (max(0, ceil_div(-shift, axis.stride)), min(cells, (axis.source - 1 - shift) // axis.stride + 1))
            for shift in axis.shifts
        ]
        marks = sorted({0, cells} | {mark for ends in reach for mark in ends if 0 < mark < cells})
        for begin, end in itertools.pairwise(marks):
            met = sorted(
                (shift, tap)
                for tap, shift, (low, high) in zip(axis.taps, axis.shifts, reach, strict=True)
                if low <= begin and end <= high
            )
            runs.append((begin, end, first, len(taps), len(met)))
            taps += [(tap, shift) for shift, tap in met]
    return np.array(runs, np.int64), np.array(taps or [(0, 0)], np.int64)


class Pixels:
    """One correlation over all pixels.

    Parameters
    ----------
    phases : list of three
        For each axis the phases of the output: first cell, and what makes its cells.
    extent, stride : tuple of three int
        Of the output.
    batch, groups, channels, filters : int
        Channels and filters are those of a group.
    kernel : tuple of three int
    """

    def __init__(
        self,
        phases: list[Phases],
        extent: Three,
        stride: Three,
        batch: int,
        groups: int,
        channels: int,
        filters: int,
        kernel: Three,
    ) -> None:
        self.batch, self.groups, self.group, self.kernel = batch, groups, (channels, filters), kernel
        self.out_stride = stride
        strides = [{axis.stride for _, axis in some if axis is not None} or {1} for some in phases]
        self.stride = tuple(min(some) for some in strides)
        tables = [axis_tables(phases[a], extent[a], stride[a]) for a in range(3)]
        self.runs = (tables[0][0], tables[1][0], tables[2][0])
        self.taps = (tables[0][1], tables[1][1], tables[2][1])
        self.lines_of = [ceil_div(extent[a], stride[a]) for a in range(3)]
        self.axis = next((a for a in range(3) if self.lines_of[a] > 1), 2)
        self.lines = self.lines_of[self.axis]
        work = batch * groups * channels * filters * prod(extent) * prod(kernel) // prod(stride)
        self.work = work // 2
        self.wanted = wanted_jobs(self.work)
        line_pixels = prod(extent) // extent[self.axis] * stride[self.axis]
        lines = max(1, min(self.lines, TABLE_PIXELS // line_pixels))
        images = 1
        if lines == self.lines:
            images = min(ceil_div(batch, self.wanted), max(1, TABLE_PIXELS // (lines * line_pixels)))
        self.block = (max(1, images), lines, max(1, images) * lines * line_pixels)
        self.jobs = self._jobs(self.wanted)
        chunks = ceil_div(batch * prod(self.lines_of), CHUNK)
        self.sum_jobs = self._jobs(max(self.wanted, ceil_div(chunks, CHUNKS)))

    def _jobs(self, wanted: int) -> list[tuple[Range, Range]]:
        """(images, lines)."""
        line_step = ceil_div(ceil_div(self.lines, self.block[1]), wanted) * self.block[1]
        wanted = ceil_div(wanted, ceil_div(self.lines, line_step))
        image_step = max(1, ceil_div(ceil_div(self.batch, self.block[0]), wanted) * self.block[0])
        return [
            (images, lines)
            for lines in blocks(self.lines, line_step)
            for images in blocks(self.batch, image_step)
        ]

    def run(self, source: Array, weights: Array, bias: Array | None, out: Array) -> None:
        """Write all of ``out``; ``weights`` is (groups, filters, channels, taps)."""
        filters = self.groups * self.group[1]
        # (taps, channels, filters of all groups): a vector is loaded from along the filters
        packed = weights.transpose(3, 2, 0, 1).reshape(-1, self.group[0], filters)
        packed = read_only(contiguous(packed))
        added = read_only(np.zeros(filters, out.dtype) if bias is None else np.ascontiguousarray(bias))
        x, first, steps = pixels_first(read_only(source))
        y, _, out_steps = pixels_first(out)
        wanted = owned_jobs(self.work)
        jobs = self.jobs if wanted == self.wanted else self._jobs(wanted)

        def start_worker() -> Job:
            def job(i: int) -> None:
                kernels.correlate_lasts(
                    x, first, steps, self.stride, self.runs, self.taps, self.kernel, packed,
                    added, y, out_steps, self.out_stride, self.axis, self.group, *jobs[i],
                    self.block,
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
            "grouped_last",
            {
                "call": 1,
                "lines": p.batch * p.lines * p.reached,
                "fma": fma,
                "fma_strided": fma if p.strided else 0,
                "masked": fma / vectors if p.groups * p.filters % p.lanes else 0,
                "tiles": pixels * vectors,
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
        jobs = self.sum_jobs
        shape = (prod(self.kernel) + 1, self.group[0], self.groups * self.group[1])
        partial = zeros((max(1, len(jobs)), *shape), x.dtype)

        def start_worker() -> Job:
            def job(i: int) -> None:
                kernels.sum_lasts(
                    x, first, steps, self.stride, self.runs, self.taps, self.kernel, gradient,
                    first_gradient, gradient_steps, self.axis, self.group, *jobs[i],
                    self.block, CHUNK, partial[i],
                )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)
        total = partial[0] if len(partial) == 1 else add_parts(partial)
        # (K, C/G, taps) from (taps, C/G, K), without the row of scratch
        dw[...] = total[:-1].transpose(2, 1, 0).reshape(dw.shape)
