"""Winograd's minimal filtering for 3x3 kernels at stride 1: 16 multiplications where the others make 36.

The columns of patches, transformed to 16 points, meet the filters at the same points in 16 matrix products
(`fastconv.kernels.winograd`). The vectors run along channels and filters, so both layouts are served, and
planes of any size.

    forward          patches of the image and the filters
    backward-input   patches of the output's gradient and the filters rotated by 180 degrees, with filters and
                     channels exchanged
    backward-weight  patches of both, summed over the batch

A dilation makes the image as many lattices as it has cells, each a convolution without dilation.

A job owns chunks of patches and some of the filters; jobs follow from the shape alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.algorithms.im2col import Im2col
from fastconv.algorithms.jobs import JOB_MULTIPLICATIONS, JOBS, PARTS_BYTES, Range, blocks, ceil_div
from fastconv.algorithms.memory import Images, aligned
from fastconv.algorithms.virtual import Virtual
from fastconv.arguments import Array
from fastconv.geometry import Geometry
from fastconv.kernels import winograd as kernels
from fastconv.kernels.panels import PANEL, ROWS
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

if TYPE_CHECKING:
    from fastconv.algorithms import Pass

# Patches of a chunk: enough rows for a panel of filters to be worth its way from L2, and that the points of
# 64 channels and filters stay there (128 against 28, 84 and 160: 263, 184, 264 and 251 GF/s on 64x56).
PATCHES = 128
# The points of a chunk's patches and their products.
POINT_BYTES = 6 * 2**20
# The sums of one job of backward-weight, unless those of a single panel need more.
SUMS_BYTES = 9 * 2**20
# Filters of one job at the least, where filters are parted: each part transforms the patches again.
PART_PANELS = 4

Two = tuple[int, int]


def point_step(elements: int, itemsize: int) -> int:
    """As in the kernels: from one point to the next, an odd number of cache lines."""
    line = 64 // itemsize
    return (ceil_div(elements, line) | 1) * line


class Patches:
    """How the patches of one output are cut into chunks and jobs.

    Parameters
    ----------
    batch, height, width : int
        Of the output.
    groups, channels, filters : int
        Channels and filters are those of a group.
    dtype : numpy.dtype
    """

    def __init__(
        self,
        batch: int,
        height: int,
        width: int,
        groups: int,
        channels: int,
        filters: int,
        dtype: np.dtype[Any],
    ) -> None:
        self.batch, self.groups, self.channels, self.filters, self.dtype = (
            batch, groups, channels, filters, dtype,
        )  # fmt: skip
        self.down, self.across, self.width = ceil_div(height, 2), ceil_div(width, 2), width
        self.lanes = VECTOR_BYTES // dtype.itemsize
        self.panel = PANEL * self.lanes
        self.panels = ceil_div(filters, self.panel)
        self.pitch = ceil_div(channels, self.lanes) * self.lanes
        work = batch * groups * channels * filters * self.down * self.across * kernels.POINTS
        self.wanted = max(1, min(JOBS, work // JOB_MULTIPLICATIONS))
        # Filters are parted where the points of enough patches would have no room, or jobs would be too few.
        self.part = self.panels
        while self.part > PART_PANELS and self._fitting() < min(PATCHES, batch * self.down * self.across):
            self.part = ceil_div(self.part, 2)
        self.lines, self.images = self._chunk()
        self.chunks = ceil_div(batch, self.images) * ceil_div(self.down, self.lines)
        while (
            self.part > PART_PANELS
            and self.chunks * self.groups * ceil_div(self.panels, self.part) < self.wanted
        ):
            self.part = ceil_div(self.part, 2)

    def _fitting(self) -> int:
        """Patches whose points and products have room."""
        per_patch = kernels.POINTS * (self.pitch + self.part * self.panel) * self.dtype.itemsize
        return POINT_BYTES // per_patch

    def _chunk(self) -> tuple[int, int]:
        """Lines of patches and images of a chunk, in chunks of equal size."""
        most = min(self._fitting(), PATCHES)
        plane = self.down * self.across
        if plane <= most:
            images = min(self.batch, most // plane)
            return self.down, ceil_div(self.batch, ceil_div(self.batch, images))
        lines = max(1, most // self.across)
        return ceil_div(self.down, ceil_div(self.down, lines)), 1

    @property
    def patches(self) -> int:
        """Of a whole chunk."""
        return self.lines * self.images * self.across

    def points(self, pitch: int) -> int:
        """Elements of the points of a chunk's patches."""
        return kernels.POINTS * point_step(ceil_div(self.patches, ROWS) * ROWS * pitch, self.dtype.itemsize)

    def weights(self, rows: int) -> int:
        """Elements of transformed filters."""
        return kernels.POINTS * point_step(self.panels * rows * self.panel, self.dtype.itemsize)

    @property
    def band(self) -> int:
        """Elements of the lines that a chunk reads."""
        return self.images * (2 * self.lines + 2) * (2 * self.across + 2) * self.pitch

    @property
    def part_pitch(self) -> int:
        """Filters of a part, in whole vectors."""
        return min(self.part * self.panel, ceil_div(self.filters, self.lanes) * self.lanes)

    @property
    def cells(self) -> int:
        """Elements of the lines that one image of a chunk writes."""
        return 2 * self.lines * self.width * self.part_pitch

    @property
    def scratch_bytes(self) -> int:
        """What a thread needs in a pass with an output; transformed filters are not counted."""
        elements = self.band + self.points(self.pitch) + self.points(self.part_pitch) + self.cells
        return elements * self.dtype.itemsize

    def jobs(self) -> list[tuple[int, Range, Range]]:
        """(group, chunks, panels of filters)."""
        parts = self.groups * ceil_div(self.panels, self.part)
        step = ceil_div(self.chunks, ceil_div(self.wanted, parts))
        return [
            (group, chunks, panels)
            for group in range(self.groups)
            for panels in blocks(self.panels, self.part)
            for chunks in blocks(self.chunks, step)
        ]


@dataclass(frozen=True)
class Phase:
    """One sub-lattice of an output, and the one of the image that its taps read."""

    target: Two  # its first cell in the output
    source: Two  # the first cell of the image's lattice
    start: Two  # the cell of that lattice which the first output's first tap reads; may lie outside
    patches: Patches


class Winograd:
    """Minimal filtering F(2x2, 3x3) for 3x3 kernels at stride 1."""

    name = "winograd"

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        self.geometry = g
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups
        c, k = self.group_channels, self.group_filters
        first, last = (
            (-g.padding[1], -g.padding[2]),
            (g.padding[1] - 2 * g.dilation[1], g.padding[2] - 2 * g.dilation[2]),
        )
        self.forward_phases = self._phases((g.output[1], g.output[2]), first, c, k)
        self.input_phases = self._phases((g.input[1], g.input[2]), last, k, c)
        self.weight_sums = [WeightSums(phase.patches) for phase in self.forward_phases]

    def _phases(self, extent: Two, shift: Two, channels: int, filters: int) -> list[Phase]:
        """The sub-lattices that a dilation makes of an output whose first tap reads at ``shift``."""
        g = self.geometry
        dilation = (g.dilation[1], g.dilation[2])
        phases = []
        for row, column in itertools.product(
            *(range(min(d, n)) for d, n in zip(dilation, extent, strict=True))
        ):
            height, width = ceil_div(extent[0] - row, dilation[0]), ceil_div(extent[1] - column, dilation[1])
            (y, from_row), (x, from_column) = (
                divmod(cell + s, d) for cell, s, d in zip((row, column), shift, dilation, strict=True)
            )
            patches = Patches(g.batch, height, width, g.groups, channels, filters, np.dtype(g.compute_dtype))
            phases.append(Phase((row, column), (from_row, from_column), (y, x), patches))
        return phases

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """All but planes of 3x3 taps at stride 1."""
        g = geometry
        if g.kernel != (1, 3, 3) or not g.one_plane:
            return "the kernel is not 3x3 in one plane"
        if g.stride != (1, 1, 1):
            return "the stride is not 1"
        if min(g.batch, g.channels, g.filters, g.pixels) == 0:
            return "there is nothing to compute"
        width = max(g.input[2], g.output[2])
        line = width // 2 * kernels.POINTS * (g.channels + g.filters) // g.groups * g.compute_dtype.itemsize
        if line > POINT_BYTES:
            return f"one line of patches needs {line} bytes of scratch, more than {POINT_BYTES}"
        return None

    @staticmethod
    def why_slow(geometry: Geometry, which: Pass) -> str | None:
        """Where others are faster: GF/s of this and of those, float32, AVX-512 Xeon.

        Few channels or filters leave vectors empty: 76 and 134 (16x32), 159 and 163 (32x32); with the
        channels last 86 and 75 (16x28). With the channels first the cells of a dilation's lattices are read
        and written one by one: 137 and 157 (64x56, dilation 2), 148 and 175 (256x28, dilation 4), but 206
        and 171 (256x28, dilation 2).
        """
        g = geometry
        least = min(g.channels, g.filters) // g.groups
        lanes = VECTOR_BYTES // g.compute_dtype.itemsize
        if least < (lanes if g.channels_last else 2 * lanes):
            return "few channels or filters leave vectors empty"
        lattices = prod(g.dilation)
        if lattices > 1 and not g.channels_last and (lattices > 4 or least < 128):
            return "the cells of the dilation's lattices are read and written one by one"
        return None

    @property
    def scratch_bytes(self) -> int:
        """What a chunk needs, or the other algorithms do; transformed filters are not counted."""
        return max(
            *(self._other(which).scratch_bytes for which in ("forward", "backward_input", "backward_weight")),
            *(phase.patches.scratch_bytes for phase in (*self.forward_phases, *self.input_phases)),
            *(sums.scratch_bytes for sums in self.weight_sums),
        )

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> None:
        """Patches of the image."""
        if not self._convolve(self.forward_phases, x, w, False, bias, y):
            self._other("forward").forward(x, w, bias, y)

    def backward_input(self, dy: Array, w: Array, dx: Array) -> None:
        """Patches of the gradient: dx[i] = sum of dy[i + padding - t] * w[t], from the last tap on."""
        if not self._convolve(self.input_phases, dy, w, True, None, dx):
            self._other("backward_input").backward_input(dy, w, dx)

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> None:
        """Sums of products of patches."""
        g = self.geometry
        shape = (g.groups, self.group_filters, self.group_channels * 9)
        gradient, image = Images.of(dy, g.channels_last), Images.of(x, g.channels_last)
        if gradient is not None and image is not None:
            result = dw.reshape(shape) if dw.flags.c_contiguous else np.empty(shape, dw.dtype)
            dilation = (g.dilation[1], g.dilation[2])
            for i, (phase, sums) in enumerate(zip(self.forward_phases, self.weight_sums, strict=True)):
                part = np.empty_like(result) if i else result
                sums.run(gradient, image, part, phase, dilation)
                if i:
                    result += part
            with np.errstate(all="ignore"):
                finite = np.isfinite(result.sum())
            if finite:
                if not dw.flags.c_contiguous:
                    dw[...] = result.reshape(dw.shape)
                return
        self._other("backward_weight").backward_weight(dy, x, dw)

    def _other(self, which: Pass) -> Virtual | Im2col:
        """What computes where arrays have gaps, or results are not finite: a patch spreads what spoils it."""
        g = self.geometry
        return Im2col(g) if Virtual.why_not(g, which) else Virtual(g)

    def _convolve(
        self, phases: list[Phase], x: Array, w: Array, rotated: bool, bias: Array | None, y: Array
    ) -> bool:
        """Write all of ``y``; returns whether that could be done, and all of it is finite."""
        g, p = self.geometry, phases[0].patches
        source, target = Images.of(x, g.channels_last), Images.of(y, g.channels_last)
        if source is None or target is None:
            return False
        weights = self._transform(p, np.ascontiguousarray(w).reshape(-1), rotated)
        added = np.zeros((g.groups, p.panels * p.panel), y.dtype)
        if bias is not None:
            added[:, : p.filters] = bias.reshape(g.groups, p.filters)
        return all(self._convolve_phase(phase, source, weights, added, target) for phase in phases)

    def _convolve_phase(
        self, phase: Phase, source: Images, weights: list[Array], bias: Array, target: Images
    ) -> bool:
        """Write one phase of the output; returns whether it is finite."""
        p, dilation = phase.patches, (self.geometry.dilation[1], self.geometry.dilation[2])
        jobs = p.jobs()
        finite = [True] * len(jobs)

        def start_worker() -> Job:
            sizes = (p.band, p.points(p.pitch), p.points(p.part_pitch), p.cells)
            band, points, products, cells = (aligned(size, p.dtype) for size in sizes)

            def job(i: int) -> None:
                group, chunks, panels = jobs[i]
                finite[i] = kernels.convolve_patches(
                    source.flat, source.phase(group * p.channels, phase.source, dilation), weights[group],
                    bias[group], target.flat, target.phase(group * p.filters, phase.target, dilation),
                    p.batch, p.channels, (*panels, p.filters), phase.start, chunks, p.lines, p.images, band,
                    points, products, cells,
                )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)
        return all(finite)

    def _transform(self, p: Patches, w: Array, rotated: bool) -> list[Array]:
        """The filters of every group at the points."""
        vectors = ceil_div(p.filters, p.lanes)
        weights = [aligned(p.weights(p.channels), p.dtype) for _ in range(p.groups)]
        # Filters are the lanes and channels the rows; both are exchanged for the rotated ones.
        lane_step, row_step = (9, 9 * p.filters) if rotated else (9 * p.channels, 9)
        step = max(1, ceil_div(vectors, max(1, min(p.wanted // p.groups, vectors // 2))))
        jobs = [(group, some) for group in range(p.groups) for some in blocks(vectors, step)]

        def start_worker() -> Job:
            taps = aligned((9 * p.lanes + p.lanes) * p.lanes, p.dtype)

            def job(i: int) -> None:
                group, some = jobs[i]
                first = group * p.channels * p.filters * 9
                kernels.transform_filters(
                    w, first, lane_step, row_step, p.channels, (*some, p.filters), rotated, p.panels,
                    weights[group], taps,
                )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)
        return weights


class WeightSums:
    """Backward-weight over the patches of a forward pass, in parts that are added in order."""

    def __init__(self, patches: Patches) -> None:
        p = self.patches = patches
        sums = kernels.POINTS * p.channels * p.filters * p.dtype.itemsize
        wanted = max(1, p.wanted // p.groups)
        parts = min(wanted, p.chunks, max(1, 2 * PARTS_BYTES // sums))
        self.parts = list(blocks(p.chunks, ceil_div(p.chunks, parts)))
        most = max(1, SUMS_BYTES // (kernels.POINTS * p.channels * p.panel * p.dtype.itemsize))
        step = max(min(p.panels, PART_PANELS), ceil_div(p.panels, ceil_div(wanted, parts)))
        step = min(step, most) * p.panel
        self.filters = min(p.filters, step)
        self.jobs = [
            (part, group, some)
            for part in range(len(self.parts))
            for group in range(p.groups)
            for some in blocks(p.filters, step)
        ]

    def _filter_points(self) -> int:
        """Elements of the points of a chunk's gradients."""
        p = self.patches
        panels = ceil_div(self.filters, p.panel)
        return kernels.POINTS * point_step(panels * p.patches * p.panel, p.dtype.itemsize)

    def _sums(self) -> int:
        p = self.patches
        rows = ceil_div(p.channels, ROWS) * ROWS
        panels = ceil_div(self.filters, p.panel)
        return kernels.POINTS * point_step(panels * rows * p.panel, p.dtype.itemsize)

    def _band(self) -> int:
        p = self.patches
        pitch = max(p.pitch, ceil_div(self.filters, p.lanes) * p.lanes)
        return p.images * (2 * p.lines + 2) * (2 * p.across + 2) * pitch

    @property
    def scratch_bytes(self) -> int:
        """Points and lines of a chunk, their sums, and all partial gradients."""
        p = self.patches
        partial = len(self.parts) * p.groups * p.filters * p.channels * 9 if len(self.parts) > 1 else 0
        points = self._band() + p.points(p.pitch) + self._filter_points()
        return (points + self._sums() + partial) * p.dtype.itemsize

    def run(self, dy: Images, x: Images, result: Array, phase: Phase, dilation: Two) -> None:
        """Write ``result`` (groups, filters, channels * 9): what one phase of the output gives."""
        p = self.patches
        several = len(self.parts) > 1
        partial = np.empty((len(self.parts), *result.shape), x.flat.dtype) if several else result[np.newaxis]

        def start_worker() -> Job:
            sizes = (self._band(), p.points(p.pitch), self._filter_points(), self._sums())
            band, points, gradients, sums = (aligned(size, p.dtype) for size in sizes)
            taps, square = aligned(10 * p.lanes * p.lanes, p.dtype), aligned(p.lanes * p.lanes, p.dtype)

            def job(i: int) -> None:
                part, group, (first, stop) = self.jobs[i]
                sums[...] = 0
                kernels.sum_patches(
                    dy.flat, dy.phase(group * p.filters, phase.target, dilation), x.flat,
                    x.phase(group * p.channels, phase.source, dilation), sums, p.batch, p.channels,
                    (first, stop - first), phase.start, self.parts[part], p.lines, p.images, band, points,
                    gradients,
                )  # fmt: skip
                kernels.finish_filters(
                    sums, p.channels, stop - first, ceil_div(stop - first, p.panel),
                    partial[part, group, first:stop].reshape(-1), 0, taps, square,
                )  # fmt: skip

            return job

        run_jobs(len(self.jobs), start_worker)
        if several:
            np.add.reduce(partial, axis=0, out=result)
