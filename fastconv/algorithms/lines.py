"""Lines: a whole pass over small images in one kernel call.

The columns are never made: the row (c, t, r, s) of the column matrix is the image shifted by a constant, so a
table of offsets replaces it, which is made once for a plan. What is left of a call is one kernel
(`fastconv.kernels.lines`) that packs the weights, reads the images along the lines of the output and writes
the output from its registers: 3 us for a layer of 3x3 cells, where Python between the
parts takes 12, and 21 against 38 us for 10x1x28x28 -> 3, 5x5 (float32, forward, AVX-512 Xeon).
"""

from __future__ import annotations

import itertools
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from fastconv.algorithms.axes import Axis, Three, backward_axes, forward_axis
from fastconv.algorithms.jobs import JOBS, PARTS_BYTES, Range, blocks, ceil_div, wanted_jobs
from fastconv.algorithms.memory import add_parts
from fastconv.algorithms.problem import L1_BYTES, L2_BYTES, Counts, Problem
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
# Read-only arrays of fewer bytes are copied: a view of them takes 2 us.
LARGE_BYTES = 2**16
MOST_WEIGHT_BYTES = 4 * 2**20
MOST_SEGMENTS = 1024
# Images that backward-weight sums at a time, with their gradients: about what L1 holds.
SUM_BYTES = 48 * 2**10

# From and up to which image, group, and filter of each group.
Part = tuple[Range, Range, Range]


def _block(filters: int) -> int:
    """Filters of a tile: blocks as equal as can be."""
    return ceil_div(filters, ceil_div(filters, kernels.MOST_FILTERS))


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
        self.stride: Three = (axes[0].stride, axes[1].stride, axes[2].stride)
        self.extent: Three = (axes[0].output, axes[1].output, axes[2].output)
        self.taps = prod(len(axis.shifts) for axis in axes)
        self.itemsize = itemsize
        # Extents of one phase of the grid.
        self.grid: Three = (axes[0].grid, axes[1].grid, axes[2].grid)
        deltas = [axis.deltas for axis in axes]
        # The phases that some tap reads.
        self.phases = np.array(
            list(itertools.product(*(sorted({rest for _, rest in delta}) for delta in deltas))), np.int64
        )

    def offsets_in(self, phases: int) -> Array:
        """Where each row (channel, tap) of the columns begins in a grid of so many phases."""
        depth, height, width = self.grid
        order = {tuple(phase): n for n, phase in enumerate(self.phases.tolist())}
        rows = [
            ((order[d[1], h[1], w[1]] * depth + d[0]) * height + h[0]) * width + w[0]
            for d, h, w in itertools.product(*(axis.deltas for axis in self.axes))
        ]
        channel = np.arange(self.channels)[:, np.newaxis] * (phases * depth * height * width)
        return (channel + np.array(rows)).ravel()


class _Tables:
    """What the kernels read instead of axes: offsets of the taps, segments of the lines, the grid's box."""

    def __init__(self, c: Correlation) -> None:
        grid = c.grid
        sources = (c.axes[0].source, c.axes[1].source, c.axes[2].source)
        # Without padding and stride the image itself is the source.
        direct = grid == sources and c.stride == (1, 1, 1) and not any(axis.lowest for axis in c.axes)
        self.offsets = c.offsets_in(1 if direct else len(c.phases))
        self.box = np.array([grid, [axis.lowest for axis in c.axes], c.stride], np.int64)
        self.groups, self.phases = c.groups, c.phases
        self.lanes = VECTOR_BYTES // c.itemsize
        self.image = self._segments(c.extent, grid)
        # Cells of one image's source, and of its output.
        self.cells = prod(grid) * c.channels * (c.groups if direct else len(c.phases))
        self.outputs = prod(c.extent) * c.groups * c.filters
        reach = int(self.image[:, 0].max() + self.offsets.max()) + self.lanes
        self.direct = reach if direct else 0

    def _segments(self, extent: Three, grid: Three) -> Array:
        """Rows (where in a plane of the source, where in a plane of the output, lanes) of one image."""
        _, height, width = grid
        depth, lines, columns = extent
        d, h, w = np.ix_(np.arange(depth), np.arange(lines), np.arange(0, columns, self.lanes))
        rows = np.broadcast_arrays(
            (d * height + h) * width + w, (d * lines + h) * columns + w, np.minimum(self.lanes, columns - w)
        )
        return np.stack(rows, axis=-1).reshape(-1, 3).astype(np.int64)

    def segments(self, images: int) -> Array:
        """The rows of several images."""
        distances = np.array([self.cells, self.outputs, 0])
        return np.concatenate([self.image + n * distances for n in range(images)])

    def of_pass(
        self, strides: dict[int, int], several: int, block: int, step: int, jobs: list[Part]
    ) -> Array:
        """All numbers of a pass that takes several images at a time, in tiles of a block and a step."""
        numbers = {
            kernels.GROUPS: self.groups,
            kernels.DIRECT: self.direct,
            kernels.SEVERAL: several,
            kernels.BLOCK: block,
            kernels.STEP: step,
        }
        segments = self.segments(several)
        return kernels.pass_table(numbers | strides, self.box, self.offsets, self.phases, segments, jobs)


class _Pass:
    """One correlation of all images: the arguments of `convolve_lines` that do not depend on the data."""

    def __init__(self, c: Correlation, filter_stride: int, channel_stride: int) -> None:
        tables = _Tables(c)
        block = _block(c.filters)
        step = kernels.SEGMENTS_OF[block]
        # At least eight tiles at a time: the last one is seldom full.
        several = max(1, min(c.batch, ceil_div(8 * step, len(tables.image))))
        self.scratch = several * tables.cells + c.groups * (c.filters + block) * len(tables.offsets)
        jobs = _jobs(c, block, several, _wanted(c))
        self.jobs = len(jobs)
        strides = {kernels.FILTER_STRIDE: filter_stride, kernels.CHANNEL_STRIDE: channel_stride}
        self.table = tables.of_pass(strides, several, block, step, jobs)
        self.no_bias = np.empty(0, np.float32 if c.itemsize == 4 else np.float64)

    def run(self, x: Array, w: Array, bias: Array | None, out: Array) -> bool:
        """Write all of ``out``; returns whether the weights are finite."""
        added = self.no_bias if bias is None else bias
        if self.jobs == 1:
            return kernels.convolve_lines(x, w, added, out, self.table, 0)
        finite = []

        def job(i: int) -> None:
            finite.append(kernels.convolve_lines(x, w, added, out, self.table, i))

        run_jobs(self.jobs, lambda: job)
        return all(finite)


def _wanted(c: Correlation) -> int:
    """Into how many jobs the work is cut where that is possible."""
    work = c.batch * c.groups * c.filters * c.channels * c.taps * prod(c.extent)
    return wanted_jobs(work)


def _jobs(c: Correlation, block: int, several: int, wanted: int) -> list[Part]:
    """(images, groups, filters of each): groups, and then filters, are parted where images are too few."""
    image_step = ceil_div(max(1, ceil_div(c.batch, wanted)), several) * several
    wanted = ceil_div(wanted, max(1, ceil_div(c.batch, image_step)))
    group_step = ceil_div(c.groups, wanted)
    wanted = ceil_div(wanted, ceil_div(c.groups, group_step))
    filter_step = ceil_div(ceil_div(c.filters, wanted), block) * block
    return [
        (images, groups, filters)
        for images in blocks(c.batch, image_step)
        for groups in blocks(c.groups, group_step)
        for filters in blocks(c.filters, filter_step)
    ]


class _WeightPass:
    """The gradient of the weights: the arguments of `sum_lines` that do not depend on the data."""

    def __init__(self, c: Correlation) -> None:
        tables = _Tables(c)
        taps = len(tables.offsets)
        self.shape = (c.groups, c.filters, taps)
        block = _block(c.filters)
        step = kernels.TAPS_OF[block]
        tables.offsets = np.append(tables.offsets, np.zeros(-taps % step, np.int64))
        near = tables.cells // c.groups + len(tables.image) * block * tables.lanes
        several = max(1, min(c.batch, SUM_BYTES // (near * c.itemsize)))
        room = PARTS_BYTES // (prod(self.shape) * c.itemsize)
        jobs = _jobs(c, block, several, min(_wanted(c), max(JOBS, room)))
        # Parts of the sum, each with a gradient of its own, while these are small.
        self.parts = len({images for images, _, _ in jobs})
        if self.parts * prod(self.shape) * c.itemsize > PARTS_BYTES:
            self.parts = 1
            jobs = [((0, c.batch), groups, filters) for images, groups, filters in jobs if images[0] == 0]
        self.jobs = len(jobs)
        self.table = tables.of_pass({}, several, block, step, jobs)
        partial = self.parts * prod(self.shape) if self.parts > 1 else 0
        self.scratch = partial + several * (near + tables.cells)

    def run(self, dy: Array, x: Array, dw: Array) -> bool:
        """Write all of ``dw``; returns False where that is not possible, since something is not finite."""
        result = dw.reshape(self.shape)
        if self.jobs == 1:
            return kernels.sum_lines(dy, x, result, self.table, 0)
        if self.jobs == 0:
            dw[...] = 0
            return True
        partial = new_result((self.parts, *self.shape), dw.dtype) if self.parts > 1 else result[np.newaxis]
        finite = []
        each = self.jobs // self.parts

        def job(i: int) -> None:
            finite.append(kernels.sum_lines(dy, x, partial[i // each], self.table, i))

        run_jobs(self.jobs, lambda: job)
        if self.parts > 1:
            add_parts(partial, result)
        return all(finite)


class Lines:
    """Vectors along the lines of the output, one kernel call a job, for small images."""

    name = label = "lines"

    # Made for the passes that it serves.
    forward_pass: _Pass
    input_pass: _Pass
    weight_pass: _WeightPass

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        self.geometry = g
        channels, filters, taps = g.channels // g.groups, g.filters // g.groups, prod(g.kernel)
        if self.why_not(g, "forward") is None:
            axes = forward_axis(g, 0), forward_axis(g, 1), forward_axis(g, 2)
            correlation = self._correlation(axes, channels, filters)
            self.forward_pass = _Pass(correlation, channels * taps, taps)
            self.weight_pass = _WeightPass(correlation)
        if self.why_not(g, "backward_input") is None:
            # At stride 1 there is one phase, which every tap reaches.
            d, h, w = [axis for a in range(3) for _, axis in backward_axes(g, a) if axis is not None]
            self.input_pass = _Pass(self._correlation((d, h, w), filters, channels), taps, channels * taps)

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
            "lines",
            {
                "call": 1,
                "units": images,
                "jobs": p.jobs - 1,
                "fma": segments * p.filters * elements,
                "loads": loads,
                "loads_l2": loads if cells * p.itemsize > L1_BYTES else 0,
                "loads_far": loads if cells * p.itemsize > 0.7 * L2_BYTES else 0,
                "tiles": (
                    images * blocks_ * ceil_div(elements, kernels.TAPS_OF[block])
                    if sums
                    else segments * blocks_ / kernels.SEGMENTS_OF[block]
                ),
                "broadcasts": 0 if sums else loads / kernels.SEGMENTS_OF[block],
                "stores": segments * p.filters,
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
        made = (getattr(self, name, None) for name in ("forward_pass", "input_pass", "weight_pass"))
        return self.geometry.compute_dtype.itemsize * max(a.scratch for a in made if a is not None)

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
