"""Lines: a whole pass over small images in one kernel call.

The columns are never made: the row (c, t, r, s) of the column matrix is the image shifted by a constant, so a
table of offsets replaces it, which is made once for a plan. What is left of a call is one kernel
(`fastconv.kernels.lines`) that packs the weights, reads the images along the lines of the output and writes
the output from its registers: 3 us for a layer of 3x3 cells, where Python between the
parts takes 12, and 21 against 38 us for 10x1x28x28 -> 3, 5x5 (float32, forward, AVX-512 Xeon).
"""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from fastconv.algorithms.axes import Axis, BackwardPhases, Three, forward_axis
from fastconv.algorithms.jobs import JOBS, PARTS_BYTES, Grid, Tables, ceil_div, wanted_jobs
from fastconv.algorithms.memory import add_parts
from fastconv.arguments import Array
from fastconv.buffers import new_result
from fastconv.geometry import Geometry
from fastconv.kernels import lines as kernels
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import run_jobs

if TYPE_CHECKING:
    from fastconv.algorithms import Pass

# The largest image with its padding, the largest weights (which every job packs), and the longest table of
# segments (24 bytes each).
MOST_IMAGE_BYTES = 2 * 2**20
# Arrays of so many bytes are copied where their memory is in another order.
COPIED_BYTES = 2**21
MOST_WEIGHT_BYTES = 4 * 2**20
MOST_SEGMENTS = 1024
# Multiply-adds from which on a pass in several kernel calls is worth its time.
LARGE = 2**21
# Below so many images of long lines others are faster, from so many pixels on sooner; with the channels last
# from so many elements on.
FEW_IMAGES, LONG_LINE, LONG = 4, 2**12, 2**14
# Images that backward-weight sums at a time, with their gradients: about what L1 holds.
SUM_BYTES = 48 * 2**10


def _block(filters: int) -> int:
    """Filters of a tile: blocks as equal as can be."""
    return ceil_div(filters, ceil_div(filters, kernels.MOST_FILTERS))


def _long(geometry: Geometry, sums: bool) -> bool:
    """Whether images of one line have more than stays near: see `Lines.why_slow`."""
    g = geometry
    least, lanes = min(g.channels, g.filters) // g.groups, VECTOR_BYTES // g.compute_dtype.itemsize
    if g.channels_last:
        return least >= 32 and g.batch * g.pixels * least >= LONG
    few = g.batch < FEW_IMAGES
    if sums:
        return least >= (2 if prod(g.kernel) >= 9 or (few and g.pixels >= LONG_LINE) else 3) * lanes
    if few:
        return least >= (64 if g.pixels < LONG_LINE else 32)
    return least >= 96


class Correlation:
    """Filters over a source: ``out[k, o] = sum of w[k, c, tap] * source[c, o*stride + shift[tap]]``.

    Parameters
    ----------
    axes : three Axis
    batch, groups, channels, filters : int
        Channels and filters are those of a group.
    itemsize : int
    """

    def __init__(
        self,
        axes: tuple[Axis, Axis, Axis],
        batch: int,
        groups: int,
        channels: int,
        filters: int,
        itemsize: int,
    ) -> None:
        self.axes = axes
        self.batch, self.groups, self.channels, self.filters = batch, groups, channels, filters
        d, h, w = axes
        self.stride: Three = (d.stride, h.stride, w.stride)
        self.extent: Three = (d.output, h.output, w.output)
        self.start: Three = (d.lowest, h.lowest, w.lowest)
        self.taps = d.count * h.count * w.count
        self.itemsize, self.lanes = itemsize, VECTOR_BYTES // itemsize
        # Extents of one phase of the grid, and how many phases some tap reads.
        self.grid: Three = (d.grid, h.grid, w.grid)
        self.phases = prod([axis.phases for axis in axes])
        # Without padding and stride the image itself is the source.
        sources = (d.source, h.source, w.source)
        self.direct = self.grid == sources and self.stride == (1, 1, 1) and self.start == (0, 0, 0)
        # Cells of one image's source, and segments of its output.
        self.cells = prod(self.grid) * channels * (groups if self.direct else self.phases)
        self.segments = d.output * h.output * ceil_div(w.output, self.lanes)

    def table(self, strides: dict[int, int], several: int, block: int, step: int, jobs: Grid) -> Array:
        """All numbers of a pass that takes several images at a time, in tiles of a block and a step."""
        phases, offsets = self._offsets()
        numbers = {
            kernels.GROUPS: self.groups,
            kernels.DIRECT: self._reach() if self.direct else 0,
            kernels.SEVERAL: several,
            kernels.BLOCK: block,
            kernels.STEP: step,
        }
        box = (self.grid, self.start, self.stride)
        return kernels.pass_table(numbers | strides, box, jobs.axes, offsets, phases)

    def _reach(self) -> int:
        """Cells of an image up to the end of the last vector that is read, where it is its own source."""
        last = [(axis.output - 1) + axis.span - 1 for axis in self.axes[:2]]
        column = (self.extent[2] - 1) // self.lanes * self.lanes + self.axes[2].span - 1
        depth, height, width = self.grid
        return (((self.channels - 1) * depth + last[0]) * height + last[1]) * width + column + self.lanes

    def _offsets(self) -> tuple[Array, Array]:
        """The phases that some tap reads, and where in a grid of them each tap of the kernel begins."""
        depth, height, width = self.grid
        (ds, d, di), (hs, h, hi), (ws, w, wi) = (axis.phase_of_taps for axis in self.axes)
        phases = np.empty((len(ds), len(hs), len(ws), 3), np.int64)
        phases[..., 0], phases[..., 1], phases[..., 2] = ds[:, np.newaxis, np.newaxis], hs[:, np.newaxis], ws
        plane = depth * height * width
        offsets = np.add.outer(
            d * (len(hs) * len(ws) * plane) + di * (height * width),
            np.add.outer(h * (len(ws) * plane) + hi * width, w * plane + wi),
        )
        return phases.reshape(-1, 3), offsets.reshape(-1)


class _Pass:
    """One correlation of all images: the arguments of `convolve_lines` that do not depend on the data."""

    def __init__(self, c: Correlation, filter_stride: int, channel_stride: int) -> None:
        self.correlation, self.strides = (
            c,
            {kernels.FILTER_STRIDE: filter_stride, kernels.CHANNEL_STRIDE: channel_stride},
        )
        self.block = _block(c.filters)
        self.step = kernels.SEGMENTS_OF[self.block]
        # At least eight tiles at a time: the last one is seldom full.
        self.several = max(1, min(c.batch, ceil_div(8 * self.step, c.segments)))
        rows = c.channels * c.taps
        self.scratch = self.several * c.cells + c.groups * (c.filters + self.block) * rows
        self.ranges = _jobs(c, self.block, self.several, _wanted(c))
        self.jobs = len(self.ranges)
        self.no_bias = np.empty(0, np.float32 if c.itemsize == 4 else np.float64)

    @Tables
    def tables(self) -> tuple[Array]:
        """All that the kernel knows before it sees data."""
        table = self.correlation.table(self.strides, self.several, self.block, self.step, self.ranges)
        return (table,)

    def run(self, x: Array, w: Array, bias: Array | None, out: Array) -> bool:
        """Write all of ``out``; returns whether the weights are finite."""
        added, (table,) = self.no_bias if bias is None else bias, self.tables
        if self.jobs == 1:
            return kernels.convolve_lines(x, w, added, out, table, 0)
        finite = []

        def job(i: int) -> None:
            finite.append(kernels.convolve_lines(x, w, added, out, table, i))

        run_jobs(self.jobs, lambda: job)
        return all(finite)


def _wanted(c: Correlation) -> int:
    """Into how many jobs the work is cut where that is possible."""
    work = c.batch * c.groups * c.filters * c.channels * c.taps * prod(c.extent)
    return wanted_jobs(work)


def _jobs(c: Correlation, block: int, several: int, wanted: int) -> Grid:
    """Images, groups, filters of each: groups, and then filters, are parted where images are too few."""
    image_step = ceil_div(max(1, ceil_div(c.batch, wanted)), several) * several
    wanted = ceil_div(wanted, max(1, ceil_div(c.batch, image_step)))
    group_step = ceil_div(c.groups, wanted)
    wanted = ceil_div(wanted, ceil_div(c.groups, group_step))
    filter_step = ceil_div(ceil_div(c.filters, wanted), block) * block
    return Grid((c.batch, image_step), (c.groups, group_step), (c.filters, filter_step))


class _WeightPass:
    """The gradient of the weights: the arguments of `sum_lines` that do not depend on the data."""

    def __init__(self, c: Correlation) -> None:
        self.correlation = c
        self.shape = (c.groups, c.filters, c.channels * c.taps)
        self.block = _block(c.filters)
        self.step = kernels.TAPS_OF[self.block]
        near = c.cells // c.groups + c.segments * self.block * c.lanes
        self.several = max(1, min(c.batch, SUM_BYTES // (near * c.itemsize)))
        room = PARTS_BYTES // (prod(self.shape) * c.itemsize)
        self.ranges = _jobs(c, self.block, self.several, min(_wanted(c), max(JOBS, room)))
        # Parts of the sum, each with a gradient of its own, while these are small.
        self.parts = self.ranges.counts[0]
        if self.parts * prod(self.shape) * c.itemsize > PARTS_BYTES:
            self.parts = 1
            self.ranges = Grid((c.batch, c.batch), *self.ranges.axes[1:])
        self.jobs = len(self.ranges)
        partial = self.parts * prod(self.shape) if self.parts > 1 else 0
        self.scratch = partial + self.several * (near + c.cells)

    @Tables
    def tables(self) -> tuple[Array]:
        """All that the kernel knows before it sees data."""
        return (self.correlation.table({}, self.several, self.block, self.step, self.ranges),)

    def run(self, dy: Array, x: Array, dw: Array) -> bool:
        """Write all of ``dw``; returns False where that is not possible, since something is not finite."""
        result, (table,) = dw.reshape(self.shape), self.tables
        if self.jobs == 1:
            return kernels.sum_lines(dy, x, result, table, 0)
        partial = new_result((self.parts, *self.shape), dw.dtype) if self.parts > 1 else result[np.newaxis]
        finite = []
        each = self.jobs // self.parts

        def job(i: int) -> None:
            finite.append(kernels.sum_lines(dy, x, partial[i // each], table, i))

        run_jobs(self.jobs, lambda: job)
        if self.parts > 1:
            add_parts(partial, result)
        return all(finite)


class Lines:
    """Vectors along the lines of the output, one kernel call a job, for small images."""

    name = "lines"

    def __init__(self, geometry: Geometry) -> None:
        g = self.geometry = geometry
        self.group_channels, self.group_filters = g.channels // g.groups, g.filters // g.groups

    @cached_property
    def forward_pass(self) -> _Pass:
        """The forward pass."""
        taps = prod(self.geometry.kernel)
        return _Pass(self.forward_correlation, self.group_channels * taps, taps)

    @cached_property
    def input_pass(self) -> _Pass:
        """The backward-input pass: at stride 1 there is one phase, which every tap reaches."""
        g, taps = self.geometry, prod(self.geometry.kernel)
        d, h, w = (BackwardPhases(g, a).axis(0) for a in range(3))
        correlation = self._correlation((d, h, w), self.group_filters, self.group_channels)
        return _Pass(correlation, taps, self.group_channels * taps)

    @cached_property
    def weight_pass(self) -> _WeightPass:
        """The backward-weight pass."""
        return _WeightPass(self.forward_correlation)

    @cached_property
    def forward_correlation(self) -> Correlation:
        """What the forward pass reads and writes."""
        g = self.geometry
        axes = forward_axis(g, 0), forward_axis(g, 1), forward_axis(g, 2)
        return self._correlation(axes, self.group_channels, self.group_filters)

    def _correlation(self, axes: tuple[Axis, Axis, Axis], channels: int, filters: int) -> Correlation:
        g = self.geometry
        return Correlation(axes, g.batch, g.groups, channels, filters, g.compute_dtype.itemsize)

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """Channels last, large images, and backward-input with a stride."""
        g = geometry
        if g.channels_last and _bytes(g) > COPIED_BYTES:
            return "vectors run along pixels, which are not contiguous with the channels last"
        if which == "backward_input" and g.stride != (1, 1, 1):
            return "backward-input with a stride is several correlations"
        segments = _segments(g, which)
        if segments > MOST_SEGMENTS:
            return f"an image's output has {segments} segments, more than {MOST_SEGMENTS}"
        size = _image_bytes(g, which)
        if size > MOST_IMAGE_BYTES:
            return f"an image with its padding has {size} bytes, more than {MOST_IMAGE_BYTES}"
        size = g.filters * g.taps * g.compute_dtype.itemsize
        if size > MOST_WEIGHT_BYTES:
            return f"the weights have {size} bytes, more than {MOST_WEIGHT_BYTES}"
        return None

    @staticmethod
    def why_slow(geometry: Geometry, which: Pass) -> str | None:
        """Where tiles that run across the lines are faster: GF/s of this and of those, float32, AVX-512 Xeon.

        Many channels, whose weights leave the near cache: forward 153 and 176 (128x28), 143 and 161 (256x14),
        but 169 and 168 (64x28), 150 and 130 (32x28). Lines that fill few lanes: 72 and 97 (64x7), but 58 and
        42 (16x7). A stride, for which whole images are split: 83 and 107 (64x28), but 117 and 99 (3x64).
        Vectors along filters: 153 and 171 (48x27, 5x5), 146 and 157 (64x56, dilated), 71 and 99 (16x56,
        stride 2), 40 and 47 (8x56 -> 12, stride 2), but 143 and 99 (16x28, 5x5), 67 and 44 (3x64, stride 2),
        31 and 15 (8x28 -> 16, stride 2, one image); backward-weight 115 and 145 (32x28
        -> 64, 5x5), with the channels last 35 and 67 (1x28 -> 32, 5x5), 89 and 110 (3x32 -> 32, 7x7). One
        tap: 88 and 78 (16x56), but 68 and 31 (8x32). With a depth: 32 and 75 (16x8x28, stride 2), 74 and 95
        (32x8x28 -> 64, 3x1x1 taps), 150 and 167 (16x8x28 -> 32, 5x5x5), but 142 and 104 (12x8x28 -> 16,
        3x3x3); with the channels last, which are copied, 46 and 95 (3x8x28 -> 64).

        A line of an image without a height is long, and all of it waits in the cache: 108 and 145 (96x4096, 3
        taps), 104 and 135 (two images of 64x4096), 70 and 101 (one of 32x16000), but 143 and 138 (8 of
        64x2048), 139 and 125 (48x2048);
        backward-weight 110 and 134 (64x2048), 107 and 125 (48x2048), 124 and 133 (32x1024, 9 taps), but 95
        and 91 (the same, 3 taps); with the channels last 77 and 151 (64x512), 55 and 64 (one
        image of 32x512).
        """
        g = geometry
        channels = (g.filters if which == "backward_input" else g.channels) // g.groups
        if channels >= 128:
            return "many channels are better read in chunks of pixels"
        if channels >= 16 and prod(g.kernel) == 1:
            return "a kernel of one tap is a plain matrix product"
        least = min(g.channels, g.filters) // g.groups
        lanes = VECTOR_BYTES // g.compute_dtype.itemsize
        wide = prod(g.kernel) > 9 or max(g.dilation) > 1
        if g.one_plane:
            sums = which == "backward_weight"
            if g.input[1] == 1 and _long(g, sums):
                return "long lines of many channels are better read in chunks of pixels"
            many = least >= (32 if sums and min(g.kernel[1:]) > 1 else 48) and wide
            if g.channels_last and sums:
                many = many or (g.filters // g.groups >= 32 and g.multiplications >= LARGE)
        else:
            filters = g.filters // g.groups
            summed = which == "backward_weight" or (which == "forward" and prod(g.kernel) > 27)
            many = least >= 32 or (least >= 16 and filters >= 32 and summed)
            many = many or (g.channels_last and least >= lanes and prod(g.kernel) <= 9)
            if g.channels_last and which != "backward_input":
                many = many or filters >= (32 if which == "forward" else 64)
        some = 8 if g.one_plane and g.multiplications >= LARGE else 16
        if many or (least >= some and max(g.stride) > 1):
            return "many taps or strides are better read with vectors along filters"
        columns = g.input[2] if which == "backward_input" else g.output[2]
        if channels >= 64 and (4 * columns < 3 * lanes * ceil_div(columns, lanes) or max(g.stride) > 1):
            return "the lines of the output fill too few lanes, or are apart in the image"
        return None

    @property
    def scratch_bytes(self) -> int:
        """The sources of some images, packed gradients, and packed weights."""
        g = self.geometry
        scratch = [0]
        if self.why_not(g, "forward") is None:
            scratch += [self.forward_pass.scratch, self.weight_pass.scratch]
        if self.why_not(g, "backward_input") is None:
            scratch.append(self.input_pass.scratch)
        return g.compute_dtype.itemsize * max(scratch)

    # Arrays of any other kind (read-only, or with the channels last) would each be compiled for: they are
    # copied.

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """One correlation."""
        out = _writable(y)
        self.forward_pass.run(_plain(x), _plain(w), bias, out)
        if out is not y:
            y[...] = out
        return True

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """One correlation of the output's gradient, with the filters rotated."""
        out = _writable(dx)
        if not self.input_pass.run(_plain(dy), _plain(w), None, out):
            return False  # padding is multiplied here
        if out is not dx:
            dx[...] = out
        return True

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Sums along the lines, in parts that are added in order."""
        out = _writable(dw)
        if not self.weight_pass.run(_plain(dy), _plain(x), out):
            return False
        if out is not dw:
            dw[...] = out
        return True


def _plain(array: Array) -> Array:
    """The array, or a copy that is contiguous and could be written."""
    return array if array.flags.carray else array.copy("C")


def _writable(result: Array) -> Array:
    """The result, or a contiguous array in its place."""
    return result if result.flags.carray else new_result(result.shape, result.dtype)


def _bytes(geometry: Geometry) -> int:
    """Bytes of the images and of the output."""
    g = geometry
    cells = g.channels * prod(g.input) + g.filters * prod(g.output)
    return g.batch * cells * g.compute_dtype.itemsize


def _segments(geometry: Geometry, which: Pass) -> int:
    """Segments of the output of one image."""
    g = geometry
    depth, lines, columns = g.input if which == "backward_input" else g.output
    return depth * lines * ceil_div(columns, VECTOR_BYTES // g.compute_dtype.itemsize)


def _image_bytes(geometry: Geometry, which: Pass) -> int:
    """Bytes of one image with its padding, by arithmetic alone."""
    g = geometry
    cells = g.filters if which == "backward_input" else g.channels
    for a in range(3):
        reach = g.dilation[a] * (g.kernel[a] - 1)
        if which == "backward_input":
            cells *= g.input[a] + reach
        else:
            cells *= ceil_div((g.output[a] - 1) * g.stride[a] + reach + 1, g.stride[a]) * g.stride[a]
    return cells * g.compute_dtype.itemsize
