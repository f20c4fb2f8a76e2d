"""Virtual columns: the matrix products of the explicit algorithm, with columns that are never made.

The row (c, t, r, s) of the column matrix is the image shifted by a constant, so a table of offsets replaces
it (`fastconv.kernels.virtual`). What remains to be copied is the image itself, once, with its padding around
it and split into the phases of the stride; for a kernel of one tap at stride 1 not even that.

    forward          one correlation of the image with the filters
    backward-input   one correlation of the output's gradient for each phase of the stride, with the taps that
                     reach it, rotated, and filters and channels exchanged
    backward-weight  for each filter and row of the columns one sum along the pixels of both grids

Vectors run along pixels, so the images must have their channels first. A job owns images, groups, lines and
filters of what it writes; jobs follow from the shape alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.algorithms.im2col import Im2col
from fastconv.algorithms.jobs import JOBS, PARTS_BYTES, Range, blocks, ceil_div, wanted_jobs
from fastconv.algorithms.memory import add_parts, finite
from fastconv.arguments import Array, Size
from fastconv.buffers import aligned, contiguous, new_result
from fastconv.geometry import Geometry, read_only
from fastconv.kernels import virtual as kernels
from fastconv.kernels.vectors import FILTERS, SUM_FILTERS, VECTOR_BYTES, VECTORS
from fastconv.threads import Job, checkpoint, run_jobs

if TYPE_CHECKING:
    from fastconv.algorithms import Pass

# A grid of this size stays in a core's L2 between the copy that fills it and the filters that read it.
GRID_BYTES = 2**20
# What one chunk of pixels reads of all channels, before the next chunk's turn.
CHUNK_BYTES = 192 * 2**10
# Pixels that backward-weight sums for all filters and taps at a time: six rows of them stay in L1.
SUM_CHUNK = 1024
# A single line of output may need a larger one; beyond this the explicit algorithm takes over.
MOST_GRID_BYTES = 6 * 2**20

Three = tuple[int, int, int]
# The memory of weights, and the elements from one group, filter and channel to the next.
Weights = tuple[Array, Three]


@dataclass(frozen=True)
class Axis:
    """One axis of a correlation: output cell o reads the source at ``o*stride + shift`` for every tap."""

    source: int  # extent of what is read
    output: int  # extent of what is written
    stride: int
    shifts: tuple[int, ...]  # one for each tap along this axis
    taps: tuple[int, ...]  # which taps of the kernel these are

    @property
    def lowest(self) -> int:
        """The smallest shift: where the grid begins."""
        return min(self.shifts)

    @property
    def unpadded(self) -> bool:
        """Whether no tap reads padding."""
        return self.lowest >= 0 and (self.output - 1) * self.stride + max(self.shifts) < self.source

    def inside(self, shift: int) -> tuple[int, int]:
        """From and up to which output cell a tap reads the source, and not its padding."""
        first = max(0, ceil_div(-shift, self.stride))
        return first, max(first, min(self.output, ceil_div(self.source - shift, self.stride)))

    def grid(self, output: int) -> int:
        """Cells of one phase that ``output`` cells need."""
        reach = (output - 1) * self.stride + max(self.shifts) - self.lowest + 1
        return ceil_div(reach, self.stride)


class Correlation:
    """Filters over a source: ``out[k, o] = sum of w[k, c, tap] * source[c, o*stride + shift[tap]]``.

    Parameters
    ----------
    axes : three Axis
    groups, channels, filters : int
        Channels and filters are those of a group.
    batch : int
    kernel : tuple of three int
        Extents of the whole kernel, of which the axes name the taps.
    itemsize : int
    """

    def __init__(
        self,
        axes: tuple[Axis, Axis, Axis],
        batch: int,
        groups: int,
        channels: int,
        filters: int,
        kernel: Three,
        itemsize: int,
    ) -> None:
        self.axes = axes
        self.batch, self.groups, self.channels, self.filters = batch, groups, channels, filters
        self.stride: Three = (axes[0].stride, axes[1].stride, axes[2].stride)
        self.extent: Three = (axes[0].output, axes[1].output, axes[2].output)
        products = list(itertools.product(*(axis.taps for axis in axes)))
        self.taps = np.array([(t * kernel[1] + r) * kernel[2] + s for t, r, s in products], np.int64)
        self.plain = all(
            axis.source == axis.output and axis.stride == 1 and axis.shifts == (0,) for axis in axes
        )
        # Bands of lines along depth, or along height where the depth is 1.
        self.axis = 0 if axes[0].output > 1 else 1
        self.itemsize = itemsize
        self.phases = self._phases()
        self.band = self._band()
        self.grid_shape = (channels, len(self.phases), *self.grid_of(self.band))
        self.plain_offsets = np.arange(channels) * prod(self.extent)
        self.offsets = self.offsets_in(self.grid_shape)
        self.jobs = self._jobs()
        tile = VECTORS * VECTOR_BYTES // itemsize
        self.chunk = max(1, CHUNK_BYTES // (channels * itemsize * tile)) * tile

    def grid_of(self, band: int) -> Three:
        """Extents of one phase of the grid for a band of so many lines."""
        extent = [band if i == self.axis else axis.output for i, axis in enumerate(self.axes)]
        d, h, w = (axis.grid(n) for axis, n in zip(self.axes, extent, strict=True))
        return d, h, w

    def _band(self) -> int:
        """As many lines as a grid has room for, in bands of equal size."""
        lines = self.axes[self.axis].output
        per_cell = self.channels * len(self.phases) * self.itemsize
        band = lines
        while band > 1 and prod(self.grid_of(band)) * per_cell > GRID_BYTES:
            band = ceil_div(band, 2)
        return ceil_div(lines, ceil_div(lines, band))

    @property
    def grid_bytes(self) -> int:
        """Scratch of one job."""
        return 0 if self.plain else prod(self.grid_shape) * self.itemsize

    def _deltas(self) -> list[tuple[Three, Three]]:
        """For each tap its distance from the grid's beginning: whole strides, and the phase that is left."""
        found = []
        for shift in itertools.product(*(axis.shifts for axis in self.axes)):
            d, h, w = (divmod(s - axis.lowest, axis.stride) for s, axis in zip(shift, self.axes, strict=True))
            found.append(((d[0], h[0], w[0]), (d[1], h[1], w[1])))
        return found

    def _phases(self) -> Array:
        """The phases that some tap reads, int64 (phases, 3)."""
        return np.array(sorted({phase for _, phase in self._deltas()}), np.int64)

    def offsets_in(self, grid_shape: Size) -> Array:
        """Where in a grid of this shape each row (channel, tap) of the virtual columns begins."""
        _, phases, depth, height, width = grid_shape
        order = {tuple(phase): n for n, phase in enumerate(self.phases.tolist())}
        rows = [((order[phase] * depth + d) * height + h) * width + w for (d, h, w), phase in self._deltas()]
        channel = np.arange(self.channels)[:, np.newaxis] * (phases * depth * height * width)
        return (channel + np.array(rows)).ravel()

    def band_of(self, band: Range) -> tuple[Three, Three, Three]:
        """Extents and corner of a band of output lines, and where the grid for it begins in the source."""
        extent, corner = list(self.extent), [0, 0, 0]
        extent[self.axis], corner[self.axis] = band[1] - band[0], band[0]
        start = [corner[a] * axis.stride + axis.lowest for a, axis in enumerate(self.axes)]
        return (
            (extent[0], extent[1], extent[2]),
            (corner[0], corner[1], corner[2]),
            (start[0], start[1], start[2]),
        )

    def _jobs(self) -> list[tuple[Range, Range, Range]]:
        """(units, band, filters): a unit is one group of one image."""
        units = self.batch * self.groups
        work = units * self.filters * len(self.offsets) * prod(self.extent)
        wanted = wanted_jobs(work)
        bands = list(blocks(self.axes[self.axis].output, self.band))
        if self.plain:
            bands = [(0, self.axes[self.axis].output)]
        unit_step = max(1, units * len(bands) // wanted)
        owners = max(1, ceil_div(units, unit_step) * len(bands))
        # Filters are parted only where there are too few images, groups and bands.
        filter_step = ceil_div(ceil_div(self.filters, ceil_div(wanted, owners)), FILTERS) * FILTERS
        return [
            (unit, band, filters)
            for unit in blocks(units, unit_step)
            for band in bands
            for filters in blocks(self.filters, filter_step)
        ]

    def run(self, source: Array, weights: Weights, bias: Array, out: Array) -> None:
        """Write all of ``out`` (a view of its cells, any strides)."""
        packed = new_result(
            (self.groups, ceil_div(self.filters, FILTERS), len(self.offsets), FILTERS), out.dtype
        )
        kernels.pack_weights(*weights, self.filters, self.channels, self.taps, packed)
        source = read_only(source)
        if self.plain and source.flags.c_contiguous:
            self._run_plain(source, packed, bias, out)
        else:
            self._run_grids(source, packed, bias, out)

    def _run_plain(self, source: Array, packed: Array, bias: Array, out: Array) -> None:
        flat, extent = source.reshape(-1), self.extent
        if out.flags.c_contiguous:  # one long line: no pixel ends one
            extent = (1, 1, prod(extent))
            out = out.reshape(*out.shape[:2], *extent)

        def start_worker() -> Job:
            def job(i: int) -> None:
                units, _, filters = self.jobs[i]
                kernels.convolve_images(
                    flat, packed, bias, out, self.plain_offsets, extent, units, filters, self.chunk
                )

            return job

        run_jobs(len(self.jobs), start_worker)

    def _run_grids(self, source: Array, packed: Array, bias: Array, out: Array) -> None:
        def start_worker() -> Job:
            grid = new_result(self.grid_shape, out.dtype)

            def job(i: int) -> None:
                units, band, filters = self.jobs[i]
                for first, stop in blocks(band[1], self.band, band[0]):
                    extent, corner, start = self.band_of((first, stop))
                    kernels.convolve_grids(
                        source, packed, bias, out, grid, self.phases, self.offsets, start, self.stride,
                        corner, extent, units, filters, self.chunk,
                    )  # fmt: skip

            return job

        run_jobs(len(self.jobs), start_worker)


class WeightSums:
    """Backward-weight over the grids of a forward correlation: ``dW[k, q] = sum of dY[k, p] * col(X)[q, p]``.

    The gradient of the output gets a grid with the lines of the image's, zero where those end, so that both
    are read cell by cell. Small images are summed several at a time, one behind the other.
    """

    def __init__(self, correlation: Correlation) -> None:
        c = self.correlation = correlation
        self.lanes = VECTOR_BYTES // c.itemsize
        self.band = self._band()
        self.images = self._images()
        depth, height, width = c.grid_of(self.band)
        self.grid_shape = (c.channels, len(c.phases), depth * self.images, height, width)
        self.offsets = c.offsets_in(self.grid_shape)
        # Images and bands in the order in which they are added.
        self.units = [
            (images, band)
            for images in blocks(c.batch, self.images)
            for band in blocks(c.extent[c.axis], self.band)
        ]
        work = c.batch * c.groups * c.filters * len(c.offsets) * prod(c.extent)
        wanted = min(JOBS, wanted_jobs(work))
        weight_bytes = c.groups * c.filters * len(c.offsets) * c.itemsize
        # Parts of the sum, each with a gradient of its own, while these are small; else parts of the result.
        parts = max(1, min(wanted, len(self.units))) if wanted * weight_bytes <= PARTS_BYTES else 1
        self.parts = list(blocks(len(self.units), max(1, ceil_div(len(self.units), parts))))
        group_step = max(1, ceil_div(c.groups * parts, wanted))
        owners = parts * ceil_div(c.groups, group_step)
        filters = ceil_div(ceil_div(c.filters, ceil_div(wanted, owners)), SUM_FILTERS) * SUM_FILTERS
        self.filter_step = min(c.filters, filters, self._most_filters())
        self.jobs = [
            (part, groups, some)
            for part in range(len(self.parts))
            for groups in blocks(c.groups, group_step)
            for some in blocks(c.filters, self.filter_step)
        ]

    def _gradient_cells(self, band: int) -> int:
        """Cells of one filter and one image in the gradient's grid."""
        c = self.correlation
        _, height, width = c.grid_of(band)
        return (band if c.axis == 0 else c.extent[0]) * height * width

    def _cells(self, band: int) -> int:
        """Cells of both grids for one image and up to 64 filters."""
        c = self.correlation
        image = c.channels * len(c.phases) * prod(c.grid_of(band))
        return image + min(c.filters, 64) * self._gradient_cells(band)

    def _band(self) -> int:
        """As many lines as leave room for both grids, in bands of equal size."""
        c = self.correlation
        lines = band = c.extent[c.axis]
        while band > 1 and self._cells(band) * c.itemsize > GRID_BYTES:
            band = ceil_div(band, 2)
        return ceil_div(lines, ceil_div(lines, band))

    def _images(self) -> int:
        """How many images are summed at a time: several only where they are whole and flat."""
        c = self.correlation
        flat = c.extent[0] == 1 and c.grid_of(self.band)[0] == 1 and c.axis == 1
        if not flat or self.band < c.extent[1]:
            return 1
        return max(1, min(c.batch, GRID_BYTES // (self._cells(self.band) * c.itemsize)))

    def _row(self) -> int:
        """Cells from one filter's gradients to the next one's: whole vectors."""
        return ceil_div(self._gradient_cells(self.band) * self.images, self.lanes) * self.lanes

    def _most_filters(self) -> int:
        """Filters whose gradients fit beside the image's grid."""
        fitting = GRID_BYTES // (self._row() * self.correlation.itemsize)
        return max(SUM_FILTERS, fitting // SUM_FILTERS * SUM_FILTERS)

    @property
    def scratch_bytes(self) -> int:
        """Both grids, and the partial sums."""
        c = self.correlation
        grids = prod(self.grid_shape) + self.filter_step * self._row() + self.lanes
        partial = len(self.parts) * c.groups * c.filters * len(c.offsets) if len(self.parts) > 1 else 0
        return (grids + partial) * c.itemsize

    def _gradient_grid(self, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """The gradient's grid (filters, 1, depth, height, width) and its memory, aligned to vectors."""
        height, width = self.grid_shape[3:]
        row = self._row()
        flat = aligned(self.filter_step * row, dtype)
        depth = self._gradient_cells(self.band) * self.images // (height * width)
        rows = flat.reshape(self.filter_step, row)[:, : depth * height * width]
        return rows.reshape(self.filter_step, 1, depth, height, width), flat

    def run(self, dy: Array, x: Array, result: Array) -> None:
        """Write ``result`` (groups, filters, taps)."""
        c = self.correlation
        if not self.units:
            result[...] = 0
            return
        dy, x, row = read_only(dy), read_only(x), self._row()
        several = len(self.parts) > 1
        partial = new_result((len(self.parts), *result.shape), x.dtype) if several else result[np.newaxis]

        def start_worker() -> Job:
            x_grid = new_result(self.grid_shape, x.dtype)
            dy_grid, dy_flat = self._gradient_grid(x.dtype)

            def job(i: int) -> None:
                part, groups, filters = self.jobs[i]
                for group in range(*groups):
                    sums = partial[part, group, slice(*filters)]
                    sums[...] = 0
                    for images, band in self.units[slice(*self.parts[part])]:
                        checkpoint()
                        extent, corner, start = c.band_of(band)
                        kernels.sum_grids(
                            dy, x, sums, dy_grid, dy_flat, row, x_grid, c.phases, self.offsets, start,
                            c.stride, corner, extent, images, group, filters, SUM_CHUNK,
                        )  # fmt: skip

            return job

        run_jobs(len(self.jobs), start_worker)
        if several:
            add_parts(partial, result)


def forward_axis(g: Geometry, a: int) -> Axis:
    """What the forward pass reads along an axis."""
    taps = tuple(range(g.kernel[a]))
    shifts = tuple(tap * g.dilation[a] - g.padding[a] for tap in taps)
    return Axis(g.input[a], g.output[a], g.stride[a], shifts, taps)


def backward_axes(g: Geometry, a: int) -> list[tuple[int, Axis | None]]:
    """For each phase of the stride: its first input cell, and the correlation that makes its cells.

    Input cell i is met by output cell o through tap t where i = o*stride + t*dilation - padding: with
    i + padding = j*stride + remainder, the taps with (t*dilation - remainder) divisible by the stride read
    the gradient at j - (t*dilation - remainder) / stride. A phase that no tap reaches is zero (None).
    """
    phases: list[tuple[int, Axis | None]] = []
    stride = g.stride[a]
    for first in range(min(stride, g.input[a])):
        cell, remainder = divmod(first + g.padding[a], stride)
        taps = tuple(t for t in range(g.kernel[a]) if (t * g.dilation[a] - remainder) % stride == 0)
        shifts = tuple(cell - (t * g.dilation[a] - remainder) // stride for t in taps)
        cells = ceil_div(g.input[a] - first, stride)
        phases.append((first, Axis(g.output[a], cells, 1, shifts, taps) if taps else None))
    return phases


def is_stem(geometry: Geometry, which: Pass) -> bool:
    """Whether the taps of few channels are so many, and so far apart, that vectors along filters are faster.

    GF/s of `Virtual`, of `Lines` and of those, float32, AVX-512 Xeon. Strides of 4 (3x227, 11x11): forward
    129, 122 and 135, backward-weight 89, 89 and 120. Of 2 (3x224, 7x7): forward of one image 86, 91 and 122,
    but 127, 148 and 105 of eight; backward-weight 78, 104 and 113. One channel: `Lines` 97 and 60.
    """
    g = geometry
    filters, channels, stride = g.filters // g.groups, g.channels // g.groups, max(g.stride)
    if not g.one_plane or stride == 1 or prod(g.kernel) < 49 or filters < 32 or channels < 2:
        return False
    return which == "backward_weight" or (which == "forward" and (stride > 2 or g.batch == 1))


class Virtual:
    """Virtual columns on vector micro-kernels, for arrays with the channels first."""

    name = "virtual"

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        self.geometry = g
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups
        self.forward_correlation = self._correlation(
            (forward_axis(g, 0), forward_axis(g, 1), forward_axis(g, 2)),
            self.group_channels,
            self.group_filters,
        )
        self.weight_sums = WeightSums(self.forward_correlation)
        # Phase to what makes it: the first cell along each axis, and None where it is zero.
        self.phases: list[tuple[Three, Correlation | None]] = []
        for d, h, w in itertools.product(*(backward_axes(g, a) for a in range(3))):
            first = (d[0], h[0], w[0])
            if d[1] is None or h[1] is None or w[1] is None:
                self.phases.append((first, None))
            else:
                made = self._correlation((d[1], h[1], w[1]), self.group_filters, self.group_channels)
                self.phases.append((first, made))

    def _correlation(self, axes: tuple[Axis, Axis, Axis], channels: int, filters: int) -> Correlation:
        g = self.geometry
        return Correlation(axes, g.batch, g.groups, channels, filters, g.kernel, g.compute_dtype.itemsize)

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """Channels last, backward-weight, and lines of output that need more scratch than there may be."""
        if geometry.channels_last:
            return "vectors run along pixels, which are not contiguous with the channels last"
        largest = _largest_grid(geometry, which)
        if largest > MOST_GRID_BYTES:
            return f"one line of output needs {largest} bytes of scratch, more than {MOST_GRID_BYTES}"
        return None

    @staticmethod
    def why_slow(geometry: Geometry, which: Pass) -> str | None:
        """Where others are faster, float32 on AVX-512, GF/s of this and of those.

        Vectors along filters: 120 and 150 forward (128x28, stride 2), 70 and 109 (16x56 -> 32, stride 2), 59
        and 78 (8x56 -> 32, stride 2), 30 and 52 backward-weight (3x224).
        With a depth: 125 and 161 forward (64x8x28), 32 and 75 (16x8x28 -> 32, stride 2), 77 and 85 (3x16x56
        -> 64), and of these 95 and 134, 35 and 71, 65 and 80 backward-weight.
        BLAS on explicit columns:
        Kernels of one tap: 114 and 141 forward, 57 and 102 backward-input (64x56 -> 256). Backward-input
        with a stride to few channels, where each phase is a small correlation: 40 and 90 (3x227, 11x11 s4).
        Backward-weight of many channels: 84 and 101 (256x14), 59 and 116 (512x7), 87 and 118 (256x28
        dilated), but 107 and 97 (128x28), 104 and 83 (64x56). Backward-input to a few channels of a depth: 36
        and 55 (3x8x56 -> 64), but 57 and 45 (4x8x28 -> 64).
        """
        g = geometry
        many = g.channels // g.groups
        filters = g.filters // g.groups
        if is_stem(g, which):
            return "many taps of few channels are better read with vectors along filters"
        if g.one_plane:
            along_filters = filters >= 32 and (which == "backward_weight" or many >= 32)
            along_filters = along_filters or (max(g.stride) > 1 and many >= 8 and which != "backward_input")
        else:
            strided = which == "forward" and (max(g.stride) > 1 or prod(g.kernel) > 27)
            wide = which != "backward_input" and filters >= 64 and many * g.kernel[2] >= 9
            some = min(filters, 2 * many) >= 32 and (which == "backward_weight" or strided)
            along_filters = min(filters, many) >= 32 or wide or some
        if along_filters:
            return "vectors along filters are faster where there are many"
        if which == "backward_input" and not g.one_plane and 16 * many < filters:
            return "few channels leave tiles empty"
        if which == "backward_weight" and (many >= 256 or (many >= 64 and g.pixels < 400)):
            return "BLAS sums the products of many channels faster"
        if prod(g.kernel) == 1:
            return "a kernel of one tap is a plain matrix product, which BLAS does faster"
        channels = g.channels // g.groups
        if which == "backward_input" and max(g.stride) > 1 and channels < FILTERS < g.filters // g.groups:
            return "each phase of the stride would be a small correlation"
        return None

    @property
    def scratch_bytes(self) -> int:
        """The largest grid of a pass that is served; packed weights are not counted."""
        grids: dict[Pass, list[int]] = {
            "forward": [self.forward_correlation.grid_bytes],
            "backward_input": [made.grid_bytes for _, made in self.phases if made is not None],
            "backward_weight": [self.weight_sums.scratch_bytes],
        }
        served = [grids[which] for which in grids if self.why_not(self.geometry, which) is None]
        return max(Im2col(self.geometry).scratch_bytes, *itertools.chain(*served))

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> None:
        """One correlation."""
        added = read_only(np.empty(0, y.dtype) if bias is None else bias)
        self.forward_correlation.run(x, self._weights(w), added, y)

    def backward_input(self, dy: Array, w: Array, dx: Array) -> None:
        """A correlation for each phase of the stride."""
        if not finite(w):  # padding is multiplied here, and zero times infinity is not zero
            Im2col(self.geometry).backward_input(dy, w, dx)
            return
        memory, (group, filter_, channel) = self._weights(w)
        weights = memory, (group, channel, filter_)
        none, s = read_only(np.empty(0, dx.dtype)), self.geometry.stride
        if any(correlation is None for _, correlation in self.phases):
            dx[...] = 0
        for first, correlation in self.phases:
            if correlation is not None:
                cells = dx[:, :, first[0] :: s[0], first[1] :: s[1], first[2] :: s[2]]
                correlation.run(dy, weights, none, cells)

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> None:
        """Sums along pixels, in parts that are added in order."""
        result = dw.reshape(self.geometry.groups, self.group_filters, -1)
        self.weight_sums.run(dy, x, result)
        if not finite(result):  # cells between the lines are multiplied with zero, which infinities survive
            Im2col(self.geometry).backward_weight(dy, x, dw)
            return
        if not np.may_share_memory(result, dw):
            dw[...] = result.reshape(dw.shape)

    def _weights(self, w: Array) -> Weights:
        taps = prod(self.geometry.kernel)
        step = self.group_channels * taps
        return read_only(contiguous(w).reshape(-1)), (self.group_filters * step, step, taps)


def _largest_grid(geometry: Geometry, which: Pass) -> int:
    """Bytes of the grid for one line of output of a pass, by arithmetic alone."""
    g = geometry
    # The grid of one line spans the kernel along the banded axis, and the whole of those behind it.
    source = g.input if which == "forward" else g.output
    axis = 0 if max(g.output[0], g.input[0]) > 1 else 1
    cells = 1
    for a in range(3):
        reach = g.dilation[a] * (g.kernel[a] - 1) + 1
        span = reach if a == axis else max(source[a], g.output[a], g.input[a]) + 2 * reach
        cells *= span + g.stride[a]
    channels = (g.channels if which == "forward" else g.filters) // g.groups
    return channels * cells * g.compute_dtype.itemsize
