"""What the cells of a correlation read of a band, and how its output is cut into chunks.

Of `fastconv.algorithms.direct`: a *sweep* goes over the lines of some images, whose cells all read the same
*taps*.
"""

from __future__ import annotations

import itertools
from math import prod
from typing import Any

import numpy as np

from fastconv.algorithms.axes import Axis
from fastconv.algorithms.jobs import blocks, ceil_div, wanted_jobs
from fastconv.algorithms.memory import Four, Three
from fastconv.arguments import Array
from fastconv.kernels.panels import PANEL
from fastconv.kernels.vectors import VECTOR_BYTES

# What a chunk reads.
BAND_BYTES = 2**20
# Elements that one sum runs over before it is added to the others.
SUM = 256
# Cells of a chunk of `FEW` channels, whose band is small: fewer lines are copied twice (132 GF/s, and 120
# with 384, 3x224 -> 64, 3x3 taps, channels last, float32, AVX-512 Xeon).
FEW_CELLS = 896
# Panels of filters of one job at the least, where filters are parted: each part fills the band again.
PART_PANELS = 2

Axes = tuple[Axis, Axis, Axis]


def panel_width(filters: int, lanes: int) -> int:
    """Filters of a panel: as few panels as can be, of as equal width as can be.

    96 filters as 64 and 32, and as 48 and 48, channels last, forward, float32, AVX-512 Xeon: 186 and 195 GF/s
    (96x27, 7x7 taps), 235 and 244 (96x28, 5x5, Winograd). Tried there and dropped, within what repeats differ
    by: tiles of 9 and 8 rows by 3 vectors instead of 6 (all 194 to 206 GF/s from L1), `SUM` from 100 to 400,
    other chunks, no prefetch of weights, or one of the output to L1.
    """
    vectors = ceil_div(filters, lanes)
    return ceil_div(vectors, ceil_div(vectors, PANEL)) * lanes


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
        """Runs in a band, and in steps of a panel; how many of them, of how many steps, make up one sum.

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
                b_runs.append(done + first)
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
        self.panel = panel_width(filters, self.lanes)
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
        self.cells = self.depth * self.height * self.width
        self.work = batch * groups * filters * self.taps.elements * self.cells
        self.wanted = wanted_jobs(self.work)
        reached = [self.taps.planes(depth) for depth in self.taps.depths]
        # Whether taps are passed over, and whether in some plane all of them are.
        self.cut = any(planes != (0, self.depth) for planes in reached)
        self.blind = len({d for planes in reached for d in range(*planes)}) < self.depth

    def chunk(self, cells: int) -> Four:
        """Images, planes, lines and cells of a line of a chunk of about so many, in chunks of equal size."""
        plane = self.height * self.width
        if plane > cells:
            lines, across = max(1, cells // self.width), self.width
            while lines > 1 and self.band_bytes((1, 1, lines, across)) > BAND_BYTES:
                lines = ceil_div(lines, 2)
            if lines == 1:
                # What two pieces of a line both read is copied twice.
                across = ceil_div(across, ceil_div(across, max(cells, self.taps.span[2] - 1)))
            return 1, 1, ceil_div(self.height, ceil_div(self.height, lines)), across
        planes = min(self.depth, cells // plane)
        while planes > 1 and self.band_bytes((1, planes, self.height, self.width)) > BAND_BYTES:
            planes -= 1
        images = 1
        if planes == self.depth:
            room = BAND_BYTES // self.band_bytes((1, planes, self.height, self.width))
            images = max(1, min(self.batch, cells // (planes * plane), room))
        return (
            ceil_div(self.batch, ceil_div(self.batch, images)),
            ceil_div(self.depth, ceil_div(self.depth, planes)),
            self.height,
            self.width,
        )

    def steps(self, chunk: Four) -> Three:
        """Elements of the band of a chunk, or of the image that is its own: to the next plane, line, cell."""
        if self.own:
            line = self.axes[2].source * self.pitch
            return self.axes[1].source * line, line, self.pitch
        line = self._columns(chunk) * self.pitch
        return ((chunk[2] - 1) * self.taps.stride[1] + self.taps.span[1]) * line, line, self.pitch

    def _columns(self, chunk: Four) -> int:
        """Of the band of a chunk."""
        return (chunk[3] - 1) * self.taps.stride[2] + self.taps.span[2]

    def band_bytes(self, chunk: Four) -> int:
        """What a chunk reads, and a vector more."""
        images, planes, lines, _ = chunk
        rows = (lines - 1) * self.taps.stride[1] + self.taps.span[1]
        rows *= images * ((planes - 1) * self.taps.stride[0] + self.taps.span[0])
        return (rows * self._columns(chunk) * self.pitch + self.lanes) * self.dtype.itemsize

    def chunks(self, chunk: Four) -> int:
        """How many chunks there are."""
        extent = self.batch, self.depth, self.height, self.width
        return prod(ceil_div(n, step) for n, step in zip(extent, chunk, strict=True))
