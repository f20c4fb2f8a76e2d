"""Groups whose filters fill vectors, in both layouts, on planes.

A bundle is as many filters of a group as a vector has lanes. A unit is some lines of one image for a bundle:
what it reads is brought to a band, one vector of channels for each cell (`fastconv.kernels.bundles`).

    forward          vectors along filters, one channel of a cell at a time
    backward-input   the same for each phase of the stride, with filters and channels exchanged
    backward-weight  vectors along filters for each channel and tap, summed along the lines of the output

Units, and parts of the sums, follow from the shape alone.

Tried on 512x14 in groups of 16 (3x3 taps, float32, AVX-512 Xeon) and left out: asking for what the next unit
reads while the tiles run (105 and 103 GF/s; with a band that is not filled 139), and vectors that hold
several groups under masks of their lanes (groups of 8 at 38 GF/s, where `Grouped` has 60).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastconv.algorithms.im2col import Im2col
from fastconv.algorithms.jobs import blocks, ceil_div, pieces, wanted_jobs
from fastconv.algorithms.memory import Images, Three, add_parts, finite
from fastconv.algorithms.virtual import Axis, backward_axes, forward_axis
from fastconv.arguments import Array
from fastconv.buffers import aligned
from fastconv.geometry import Geometry
from fastconv.kernels import bundles as kernels
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

if TYPE_CHECKING:
    from fastconv.algorithms import Pass

# Channels of a bundle at the most: one sum runs over all taps of all of them.
MOST_CHANNELS = 64
# The band of a unit, and that of a line at the most.
BAND_BYTES, MOST_BAND_BYTES = 2**18, 6 * 2**20
# Pixels of a plane that leave vectors along them half empty.
SMALL_PLANE = 100
# Cells that one sum of backward-weight runs over.
SUM_CELLS = 512


class Sweep:
    """One correlation of bundles: ``out[k, o] = sum of w[k, c, tap] * x[c, o*stride + shift]``.

    Parameters
    ----------
    geometry : Geometry
    height, width : Axis
    channels, filters : int
        Of a group.
    tap_step, channel_step : int
        In the weights of a filter, from one tap and one channel to the next.
    most_cells : int
        Of the output that a unit has, but for a single line.
    """

    def __init__(
        self,
        geometry: Geometry,
        height: Axis,
        width: Axis,
        channels: int,
        filters: int,
        tap_step: int,
        channel_step: int,
        most_cells: int,
    ) -> None:
        g = geometry
        self.dtype = g.compute_dtype
        self.lanes = VECTOR_BYTES // self.dtype.itemsize
        self.axes, self.group = (height, width), (filters, channels)
        self.bundles = g.groups * filters // self.lanes
        self.channels = channels
        self.blocks = ceil_div(channels, self.lanes)
        self.row_step = channel_step * self.lanes
        self.start, self.stride = height.lowest, height.stride
        self.span = max(height.shifts) - height.lowest + 1
        # Columns that lie a stride apart are one phase of the band, beside each other.
        found = sorted({shift % width.stride for shift in width.shifts})
        begins = {ph: min(s // width.stride for s in width.shifts if s % width.stride == ph) for ph in found}
        reach = max(shift // width.stride - begins[shift % width.stride] for shift in width.shifts)
        self.columns = width.output + reach
        self.phases = np.array(
            [
                (ph, width.stride, max(0, ceil_div(width.source - ph, width.stride)), begins[ph])
                for ph in found
            ]
        )
        self.lines = max(1, min(height.output, most_cells // max(1, width.output)))
        while self.lines > 1 and self.band_elements * self.dtype.itemsize > BAND_BYTES:
            self.lines = ceil_div(self.lines, 2)
        self.lines = ceil_div(height.output, ceil_div(height.output, self.lines))
        self.units = g.batch * ceil_div(height.output, self.lines) * self.bundles
        block = self.rows * self.columns * self.lanes
        places = [
            (
                t * g.kernel[2] + s,
                (found.index(x % width.stride) * self.blocks * block)
                + ((y - self.start) * self.columns + x // width.stride - begins[x % width.stride])
                * self.lanes,
            )
            for y, t in zip(height.shifts, height.taps, strict=True)
            for x, s in zip(width.shifts, width.taps, strict=True)
        ]
        self.taps = [tap for tap, _ in places]
        self.offsets = np.array([offset for _, offset in places])
        self.segments = np.array(
            [
                (
                    offset + first // self.lanes * block + first % self.lanes,
                    (tap * tap_step + first * channel_step) * self.lanes,
                    stop - first,
                )
                for tap, offset in places
                for first, stop in blocks(channels, self.lanes)
            ]
        )

    @property
    def rows(self) -> int:
        """Lines of the band."""
        return (self.lines - 1) * self.stride + self.span

    @property
    def band_elements(self) -> int:
        """Of a unit."""
        return len(self.phases) * self.blocks * self.rows * self.columns * self.lanes

    @property
    def cells(self) -> int:
        """Elements that a unit writes."""
        return self.lines * self.axes[1].output * self.lanes

    @property
    def scratch_bytes(self) -> int:
        """What a thread needs."""
        return (self.band_elements + self.cells) * self.dtype.itemsize

    def run(self, x: Images, packed: Array, bias: Array, y: Images, first: Three, stride: Three) -> None:
        """Write the cells of ``y`` from ``first`` on in strides."""
        work = packed.size * self.axes[0].output * self.axes[1].output * self.units // max(1, self.bundles)
        jobs = list(blocks(self.units, ceil_div(self.units, wanted_jobs(work))))

        def start_worker() -> Job:
            band, cells = aligned(self.band_elements, self.dtype), aligned(self.cells, self.dtype)

            def job(i: int) -> None:
                for units in pieces(jobs[i], work // len(jobs)):
                    kernels.convolve_bundles(
                        x.flat, x.steps(0), packed, self.row_step, bias, y.flat, y.phase(0, first, stride),
                        self.bundles, self.group, self.lines, self.start, self.stride, self.span,
                        self.phases, self.columns, self.segments, units, band, cells,
                    )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)

    def sum(self, dy: Images, x: Images, batch: int) -> Array:
        """The weights' gradient as (bundles, taps, channels in whole tiles, lanes)."""
        tile = min(kernels.SUM_CHANNELS, self.lanes)
        shape = self.bundles, len(self.taps), ceil_div(self.channels, tile) * tile, self.lanes
        work = self.bundles * len(self.taps) * self.channels * self.lanes * batch
        work *= self.axes[0].output * self.axes[1].output
        wanted = wanted_jobs(work)
        some = list(blocks(self.bundles, ceil_div(self.bundles, wanted)))
        parts = list(blocks(batch, ceil_div(batch, min(batch, ceil_div(wanted, len(some))))))
        partial = np.zeros((len(parts), *shape), self.dtype)

        def start_worker() -> Job:
            band, cells = aligned(self.band_elements, self.dtype), aligned(self.cells, self.dtype)

            def job(i: int) -> None:
                part, bundles = divmod(i, len(some))
                for images in pieces(parts[part], work // (len(some) * len(parts))):
                    kernels.sum_bundles(
                        dy.flat, dy.steps(0), x.flat, x.steps(0), partial[part], self.group, self.lines,
                        self.start, self.stride, self.span, self.phases, self.columns,
                        self.offsets, images, some[bundles], band, cells,
                    )  # fmt: skip

            return job

        run_jobs(len(some) * len(parts), start_worker)
        return partial[0] if len(parts) == 1 else add_parts(partial)


def _why_unbundled(filters: int, channels: int, lanes: int) -> str | None:
    """Why groups of so many filters and channels are no bundles."""
    if filters % lanes:
        return f"{filters} of a group are no whole vectors of {lanes}"
    return f"a sum of more than {MOST_CHANNELS} channels is too long" if channels > MOST_CHANNELS else None


class Bundles:
    """Groups in bundles of as many filters as a vector has lanes."""

    name = "bundles"

    def __init__(self, geometry: Geometry) -> None:
        g = self.geometry = geometry
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups
        c, k, taps = self.group_channels, self.group_filters, g.kernel[1] * g.kernel[2]
        # Weights keep the layout of the images.
        tap_step, channel_step = (c, 1) if g.channels_last else (1, taps)
        axes = forward_axis(g, 1), forward_axis(g, 2)
        most = g.pixels
        self.forward_sweep = Sweep(g, *axes, c, k, tap_step, channel_step, most) if _serves(g, k, c) else None
        self.sum_sweep = (
            Sweep(g, *axes, c, k, tap_step, channel_step, SUM_CELLS) if _serves(g, k, c) else None
        )
        # The first cell of each phase of the stride, and what makes its cells: None where they are zero.
        self.phases: list[tuple[Three, Sweep | None]] = []
        if _serves(g, c, k):
            for row, height in backward_axes(g, 1):
                for column, width in backward_axes(g, 2):
                    made = None
                    if height is not None and width is not None:
                        made = Sweep(g, height, width, k, c, 1, taps, most)
                    self.phases.append(((0, row, column), made))
        self.padded = any(
            not axis.unpadded for _, sweep in self.phases if sweep is not None for axis in sweep.axes
        )

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """What is no plane, groups that do not fill vectors, and lines that need too large a band."""
        g = geometry
        if not g.one_plane:
            return "there is a depth"
        if min(g.batch, g.channels, g.filters, g.pixels) == 0:
            return "there is nothing to compute"
        filters, channels = g.filters // g.groups, g.channels // g.groups
        if which == "backward_input":
            filters, channels = channels, filters
        reason = _why_unbundled(filters, channels, VECTOR_BYTES // g.compute_dtype.itemsize)
        if reason is None and _largest_band(g) > MOST_BAND_BYTES:
            return (
                f"one line of output needs {_largest_band(g)} bytes of scratch, more than {MOST_BAND_BYTES}"
            )
        return reason

    @staticmethod
    def why_slow(geometry: Geometry, which: Pass) -> str | None:
        """Where others are faster: GF/s of this and of those, 3x3 taps, float32, AVX-512 Xeon.

        Groups of more than one vector share what is broadcast: 117 and 146 (32x14), but 16x14 105 and 75.
        The channels first: 100 and 120 (16x28), but 80 and 43 (16x7), and backward-weight 110 and 98
        (16x28); with a stride of 2, backward-input 35 and 60. One tap: 44 and 54 (32x14). Doubles, of which a
        vector has 8: 45 and 49 (8x14), but backward-weight 43 and 39.
        """
        g = geometry
        lanes = VECTOR_BYTES // g.compute_dtype.itemsize
        if g.groups == 1 or max(g.channels, g.filters) >= 2 * lanes * g.groups:
            return "several vectors of filters share what is broadcast"
        if g.kernel[1] * g.kernel[2] == 1:
            return "one tap does not pay for the band"
        sums, small = which == "backward_weight", g.pixels < SMALL_PLANE
        if g.compute_dtype.itemsize == 8:
            return None if sums and max(g.stride) == 1 else "few filters fill a vector"
        if g.channels_last or sums or (small and max(g.stride) == 1):
            return None
        return "vectors along pixels need no transposition"

    @property
    def scratch_bytes(self) -> int:
        """The largest band of a unit and what it writes, or what the other algorithm needs."""
        sweeps = [self.forward_sweep, self.sum_sweep, *(sweep for _, sweep in self.phases)]
        own = (sweep.scratch_bytes for sweep in sweeps if sweep is not None)
        return max(Im2col(self.geometry).scratch_bytes, *own)

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> None:
        """One correlation."""
        image, output, g = self._images(x), self._images(y), self.geometry
        if image is None or output is None or self.forward_sweep is None:
            Im2col(g).forward(x, w, bias, y)
            return
        added = np.zeros(g.filters, y.dtype) if bias is None else np.ascontiguousarray(bias)
        packed = self._pack(self._flat(w), self.forward_sweep)
        self.forward_sweep.run(image, packed, added, output, (0, 0, 0), (1, 1, 1))

    def backward_input(self, dy: Array, w: Array, dx: Array) -> None:
        """A correlation for each phase of the stride, with channels and filters exchanged."""
        gradient, result, g = self._images(dy), self._images(dx), self.geometry
        if gradient is None or result is None or (self.padded and not finite(w)):
            # Padding is multiplied here, and zero times infinity is not zero.
            Im2col(g).backward_input(dy, w, dx)
            return
        if any(made is None for _, made in self.phases):
            dx[...] = 0
        packed, turned = None, self._turned(w)
        none = np.zeros(g.channels, dx.dtype)
        for first, made in self.phases:
            if made is not None:
                packed = self._pack(turned, made) if packed is None else packed
                made.run(gradient, packed, none, result, first, g.stride)

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> None:
        """Sums along lines."""
        gradient, image, sweep, g = self._images(dy), self._images(x), self.sum_sweep, self.geometry
        if gradient is None or image is None or sweep is None:
            Im2col(g).backward_weight(dy, x, dw)
            return
        # (K, C/G, taps) from (bundles, taps, channels, lanes)
        sums = sweep.sum(gradient, image, g.batch)[:, :, : sweep.channels].transpose(0, 3, 2, 1)
        dw[...] = sums.reshape(dw.shape)

    @staticmethod
    def _pack(w: Array, sweep: Sweep) -> Array:
        packed = aligned(w.size, w.dtype)
        elements = w.size // (sweep.bundles * sweep.lanes)
        kernels.pack_bundles(w, 0, sweep.bundles, elements, packed)
        return packed

    def _images(self, array: Array) -> Images | None:
        return Images.of(array, self.geometry.channels_last)

    def _flat(self, w: Array) -> Array:
        """The weights as they lie in memory, a copy where they have gaps."""
        ordered = w.transpose(0, 2, 3, 4, 1) if self.geometry.channels_last else w
        return np.ascontiguousarray(ordered).reshape(-1)

    def _turned(self, w: Array) -> Array:
        """Weights (K, C/G, 1, R, S) as (C, K/G, taps), flat."""
        g, k, c = self.geometry, self.group_filters, self.group_channels
        taps = g.kernel[1] * g.kernel[2]
        if not g.channels_last:
            by_group = w.reshape(g.groups, k, c, taps).transpose(0, 2, 1, 3)
            return np.ascontiguousarray(by_group).reshape(-1)
        flat = self._flat(w)
        turned = np.empty_like(flat)
        kernels.turn_groups(flat, g.groups, k * taps, c, turned)
        return turned


def _serves(geometry: Geometry, filters: int, channels: int) -> bool:
    return _why_unbundled(filters, channels, VECTOR_BYTES // geometry.compute_dtype.itemsize) is None


def _largest_band(geometry: Geometry) -> int:
    """Bytes of the band for one line of output of any pass, by arithmetic alone."""
    g = geometry
    reach = [d * (k - 1) + 1 for d, k in zip(g.dilation, g.kernel, strict=True)]
    width = max(g.input[2], g.output[2] * g.stride[2]) + 2 * reach[2]
    return MOST_CHANNELS * reach[1] * width * g.compute_dtype.itemsize
