"""Lines: a whole pass over small images in one kernel call.

The columns are never made: the row (c, t, r, s) of the column matrix is the image shifted by a constant, so
a table of offsets replaces it. What is left of a call is one kernel (`fastconv.kernels.indirect_lines`)
that packs the weights, reads the images along the rows of the output and writes the output from its
registers: of a layer that takes microseconds, Python between these parts would take the most.
"""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import new_result
from fastconv.engine.decompose import Axis, BackwardPhases, Three, forward_axis
from fastconv.engine.partition import JOBS, PARTS_BYTES, Grid, Tables, ceil_div, wanted_jobs
from fastconv.engine.problem import L1_BYTES, L2_BYTES, Counts, Problem
from fastconv.engine.tensor import add_parts
from fastconv.geometry import Geometry
from fastconv.kernels import indirect_lines as kernels
from fastconv.kernels.plane_tiles import BLOCK_TAPS, BLOCK_VECTORS, MOST_FILTERS
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import run_jobs

if TYPE_CHECKING:
    from fastconv.engine.algorithm import Pass

# The largest image with its padding, the largest weights (which every job packs), and the longest table of
# segments (24 bytes each), which every job makes.
MOST_IMAGE_BYTES = 2 * 2**20
# Read-only arrays of fewer bytes are copied: a view of them takes 2 us.
LARGE_BYTES = 2**16
MOST_WEIGHT_BYTES = 4 * 2**20
MOST_SEGMENTS = 1024
# Images that backward-weight sums at a time, with their gradients: about what L1 holds.
SUM_BYTES = 48 * 2**10


def _block(filters: int) -> int:
    """Filters of a tile: blocks as equal as can be."""
    return ceil_div(filters, ceil_div(filters, MOST_FILTERS))


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

    def table(self, strides: tuple[int, int], several: int, block: int, block_taps: int, jobs: Grid) -> Array:
        """What a pass knows that takes several images at a time, in tiles of a block."""
        phases, offsets = self._offsets()
        reach = self._reach() if self.direct else 0
        images, groups, filters = jobs.axes
        layer = kernels.Layer(
            self.groups, *strides, reach, several, block, block_taps, self.grid, self.start, self.stride,
            images, groups, filters,
        )  # fmt: skip
        return kernels.layer_table(layer, offsets, phases)

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
        self.correlation, self.strides = c, (filter_stride, channel_stride)
        self.block = _block(c.filters)
        # At least eight tiles at a time: the last one is seldom full.
        self.several = max(1, min(c.batch, ceil_div(8 * BLOCK_VECTORS[self.block], c.segments)))
        rows = c.channels * c.taps
        self.scratch = self.several * c.cells + c.groups * (c.filters + self.block) * rows
        self.ranges = _jobs(c, self.block, self.several, _wanted(c))
        self.jobs = len(self.ranges)
        self.no_bias = np.empty(0, np.float32 if c.itemsize == 4 else np.float64)

    @Tables
    def tables(self) -> tuple[Array]:
        """All that the kernel knows before it sees data."""
        table = self.correlation.table(self.strides, self.several, self.block, 1, self.ranges)
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
        self.taps = BLOCK_TAPS[self.block]
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
        return (self.correlation.table((0, 0), self.several, self.block, self.taps, self.ranges),)

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


class IndirectLines:
    """Vectors along the lines of the output, one kernel call a job, for small images."""

    name, label = "indirect", "indirect/lines"

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
        if g.channels_last:
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
    def counts(p: Problem) -> Counts:
        """Vectors of pixels times filters (``fma``), times blocks of these (``loads``), and what is copied.

        Loads are from L2, or from beyond it, where an image with its padding has no room nearer. Images are
        copied line by line unless there is neither padding nor stride; every job packs the weights.
        """
        g, images = p.geometry, p.batch * p.groups
        block = _block(p.filters)
        blocks_, elements = ceil_div(p.filters, block), p.channels * p.taps
        segments = images * p.lines * ceil_div(p.extent[2], p.lanes)
        loads = segments * blocks_ * elements
        span = [e * d + 1 - d for e, d in zip(g.kernel, g.dilation, strict=True)]
        forward = p.which != "backward_input"
        grid = [(n - 1) * (s if forward else 1) + e for n, s, e in zip(p.extent, g.stride, span, strict=True)]
        cells, sums = p.channels * prod(grid), p.which == "backward_weight"
        copied = p.padded or p.strided or tuple(grid) != p.source
        phases = prod(map(min, g.stride, g.kernel)) if forward else 1
        lines = phases * ceil_div(grid[0], g.stride[0]) * ceil_div(grid[1], g.stride[1]) if copied else 0
        return Counts(
            "indirect/lines",
            {
                "call": 1,
                "units": images,
                "jobs": p.jobs - 1,
                "fma": segments * p.filters * elements,
                "loads": loads,
                "loads_l2": loads if cells * p.itemsize > L1_BYTES else 0,
                "loads_far": loads if cells * p.itemsize > 0.7 * L2_BYTES else 0,
                "tiles": (
                    images * blocks_ * ceil_div(elements, BLOCK_TAPS[block])
                    if sums
                    else segments * blocks_ / BLOCK_VECTORS[block]
                ),
                "broadcasts": 0 if sums else loads / BLOCK_VECTORS[block],
                "stores": segments * p.filters,
                "read": 0 if copied else images * cells * p.itemsize * blocks_,
                "read_l2": 0 if copied or cells * p.itemsize < L1_BYTES else images * cells * p.itemsize,
                "fill": images * cells * p.itemsize if copied and phases == 1 else 0,
                "fill_lines": images * p.channels * lines,
                "fill_apart": images * cells if phases > 1 else 0,
                "weights": p.weight_bytes * (1 if sums else p.jobs),
                "parts": p.weight_bytes * p.jobs if sums else 0,
                "layout": p.source_bytes + p.target_bytes if p.last else 0,
                "source_far": p.source_far,
                "target_far": p.target_far,
                "weights_far": p.weights_far,
            },
        )

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

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """One correlation."""
        self.forward_pass.run(_plain(x), _plain(w), bias, y)
        return True

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """One correlation of the output's gradient, with the filters rotated; padding is multiplied."""
        return self.input_pass.run(_plain(dy), _plain(w), None, dx)

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Sums along the lines, in parts that are added in order."""
        return self.weight_pass.run(_plain(dy), _plain(x), dw)


class _Memory:
    """The memory of an array, as if it could be written."""

    def __init__(self, array: Array) -> None:
        self.array = array
        described = array.__array_interface__
        described["data"] = (described["data"][0], False)
        self.__array_interface__ = described


def _plain(array: Array) -> Array:
    """The array as one that could be written, which it never is: kernels are compiled for no others."""
    if array.flags.writeable:
        return array
    return array.copy() if array.nbytes < LARGE_BYTES else np.asarray(_Memory(array))


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
