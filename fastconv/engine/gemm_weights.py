"""Backward-weight of `fastconv.engine.gemm`: sums along the rows of the output."""

from __future__ import annotations

from math import prod

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import aligned, new_result
from fastconv.engine.gemm_filters import NARROW, NARROW_PIXELS, PART_PANELS, Blocking
from fastconv.engine.partition import (
    JOBS,
    PARTS_BYTES,
    Grid,
    Range,
    Tables,
    ceil_div,
    even_parts,
    pieces,
    share,
)
from fastconv.engine.tensor import Images, add_parts
from fastconv.kernels import gemm as kernels
from fastconv.kernels.pack import transpose
from fastconv.kernels.tile import PANEL, ROWS
from fastconv.threads import Job, get_num_threads, run_jobs

# Pixels that are summed at a time (128 and 512 are up to 5 % slower in the mean of six layers).
SUM_PIXELS = 256
# Pixels that one part of a sum has at the least: each part writes all weights once more (107 GF/s with parts
# of 196 pixels and 165 with one part, 1024x14 -> 256, float32).
PART_PIXELS = 1024
# The sums of a job.
SUMS_BYTES = 4 * 2**20
# Channels up to which vectors lie along filters: of one tap, channels last (97 and 113 GF/s, 64x56 -> 64, but
# 148 and 139, 512x28 -> 128, whose pixels share few sets of the cache); of several taps (146 and 162, 64x28,
# 5x5, but 175 and 149, 256x13 -> 384, 3x3). With the channels first gradients are transposed as they are
# packed: 97 and 128 (3x224, 7x7, stride 2), but 117 and 82 (64x56, 1x1) and, once for each panel of filters,
# 150 and 131 (64x56 -> 128, 3x3, stride 2).
ONE_TAP_CHANNELS, FEW_CHANNELS = 256, 64
# With the channels first, so many taps read packed gradients that any number of channels is taken so: 157 and
# 169 GF/s (96x27, 7x7), 159 and 163 (256x14), 170 and 170 (128x14); last, 173 and 169 (96x27).
MANY_TAPS = 49
# Pixels that these sum at a time: gradients stay in L1 (149 GF/s with 256 and 162 with 128, 64x28, 5x5; 153
# and 171, 3x227 -> 96, 11x11, stride 4).
FEW_SUM_PIXELS = 128
# The sums of some channels of images that have them first: they stay in L2.
FEW_SUMS_BYTES = 2**19


class WeightGradient:
    """The sums of a forward pass's backward-weight, in parts that are added in order.

    ``swapped`` says that the operands are exchanged, and so filters and channels: of a plain product the
    narrower side is best the one that is transposed.
    """

    def __init__(self, blocking: Blocking, swapped: bool) -> None:
        s = self.blocking = blocking
        self.swapped = swapped
        # Few channels, or one tap that reads the pixel it is: vectors along filters, and nothing is
        # transposed (`fastconv.kernels.gemm.sum_few`).
        taps = s.taps.count
        pays = s.last or taps > 9 or (taps > 1 and s.filters <= s.panel)
        many_taps = not s.last and taps >= MANY_TAPS
        few = (s.channels <= FEW_CHANNELS or many_taps) and not swapped and pays
        one = s.unmoved and s.in_place and s.channels <= ONE_TAP_CHANNELS
        self.few = not s.cut and (few or one)
        # Bands with the channels first; images of one pixel have them first and last.
        self.first = not s.last and prod(axis.source for axis in s.axes) > 1
        self.chunk = s.chunk(NARROW_PIXELS if self.few and s.channels < NARROW else SUM_PIXELS)
        # Taps of a depth that is passed over in some planes are summed for themselves.
        self.depths = s.axes[0].count if s.cut else 1
        self.depth = ceil_div(s.taps.elements // self.depths, s.lanes) * s.lanes
        self.row = self.depths * self.depth
        self.pitch = s.pitch
        if self.few:
            pixels = FEW_SUM_PIXELS if few else SUM_PIXELS
            if s.channels > FEW_CHANNELS and not one:
                # As many as have room in L1: 180 and 190 GF/s (96x27, 7x7: two panels of 48 filters).
                pixels = min(SUM_PIXELS, pixels * PANEL * s.lanes // s.panel)
            images, planes, rows, columns = self.chunk
            rows *= images * planes
            self.at_once = ceil_div(rows, ceil_div(rows, max(1, pixels // columns)))
            if self.first:
                self.pitch = images * prod(s.read(self.chunk))
        # Sums that lie as the weights do are added up in place where they are whole vectors: 112 GF/s with a
        # copy and 154 without (512x7 -> 2048, 1x1), 38 and 132 of one image.
        in_order = not (swapped or self.few) and (s.last or taps == 1)
        self.in_place = in_order and self.row == s.taps.elements
        self.weights = s.groups * s.filters * s.taps.elements
        # Channels of a job.
        self.channels = s.channels
        if self.few and self.first:
            fitting = FEW_SUMS_BYTES // (taps * ceil_div(s.filters, s.lanes) * s.lanes * s.dtype.itemsize)
            self.channels = ceil_div(s.channels, ceil_div(s.channels, max(ROWS, fitting)))
        apart = s.groups * ceil_div(s.channels, self.channels)
        self.wanted = ceil_div(min(JOBS, s.wanted), apart)
        several = self.wanted * self.weights * s.dtype.itemsize <= PARTS_BYTES
        worthwhile = s.batch * s.pixels // PART_PIXELS
        self.chunks, self.parts = s.chunks(self.chunk), 1
        if several:
            self.parts = even_parts(min(self.wanted, self.chunks, worthwhile))
        # Filters of a job: not too few to fill a band for, nor more than there is room for sums.
        step = max(4 * PART_PANELS * s.panel, ceil_div(s.filters, ceil_div(self.wanted, self.parts)))
        self.step = min(s.filters, step, max(ROWS, SUMS_BYTES // (self.row * s.dtype.itemsize)))
        if self.few:
            self.step = ceil_div(step, s.panel) * s.panel
            self.row = min(self.step, ceil_div(s.filters, s.lanes) * s.lanes)

    def _elements(self, channels: int) -> Array:
        """Where each element of some channels lies in the band, in the order of the layout."""
        s = self.blocking
        if self.first:
            _, rows, columns = s.read(self.chunk)
            strides, channel_stride = (rows * columns, columns, 1), self.pitch
        else:
            strides, channel_stride = s.strides(self.chunk), 1
        by_tap = np.add.outer(s.taps.places(*strides).reshape(-1), np.arange(channels) * channel_stride)
        return (by_tap if s.last else by_tap.T).reshape(-1)

    @Tables
    def elements(self) -> tuple[Array, Array]:
        """Those of as many channels as a job has, and of those that are left for the last."""
        left = self.blocking.channels % self.channels
        most = self._elements(self.channels)
        return most, self._elements(left) if left else most

    def _jobs(self) -> Grid:
        """Parts, groups, channels, filters. Threads share the filters: what is summed stays the same.

        Without that a sum of one part would take as long with two threads as with one.
        """
        s = self.blocking
        shares = ceil_div(min(self.wanted, get_num_threads()), self.parts)
        step = min(self.step, ceil_div(ceil_div(s.filters, shares), s.panel) * s.panel)
        return Grid((self.parts, 1), (s.groups, 1), (s.channels, self.channels), (s.filters, step))

    @Tables
    def panels(self) -> tuple[Array, Array]:
        """The pieces and the panels that `sum_bands` reads: every panel is full but the last of a depth.

        Panels that ended with each segment would leave most lanes empty where segments are short: 51 GF/s on
        3x16x56 -> 64 with 3x3x3 taps, whose segments have 9 elements, and 80 so (float32, AVX-512 Xeon).
        """
        s = self.blocking
        segments, length = s.taps.segments(*s.strides(self.chunk))
        segments = segments.reshape(self.depths, -1)
        elements, width = segments.shape[1] * length, PANEL * s.lanes
        # Pieces end with segments and with panels.
        begins = np.arange(0, elements, width)
        starts = np.union1d(np.arange(0, elements, length), begins)
        pieces = np.empty((self.depths, len(starts), 3), np.int64)
        pieces[..., 0] = segments[:, starts // length] + starts % length
        pieces[..., 1], pieces[..., 2] = starts % width, np.diff(starts, append=elements)
        before, depths = np.searchsorted(starts, begins), np.arange(self.depths)[:, np.newaxis]
        panels = np.empty((self.depths, len(begins), 6), np.int64)
        panels[..., 0] = before + depths * len(starts)
        panels[..., 1] = np.append(before[1:], len(starts)) + depths * len(starts)
        panels[..., 2] = begins + depths * self.depth
        panels[..., 3] = -(-np.minimum(width, elements - begins) // s.lanes)
        panels[..., 4], panels[..., 5] = 0, s.depth
        if s.cut:
            first, stop = s.axes[0].inside(s.axes[0].shifts)
            panels[..., 4], panels[..., 5] = first[:, np.newaxis], stop[:, np.newaxis]
        return pieces.reshape(-1, 3), panels.reshape(-1, 6)

    @property
    def scratch_bytes(self) -> int:
        """What a thread needs, and partial sums of all weights."""
        partial = self.parts * self.weights if self.parts > 1 else 0
        return (sum(self._sizes()) + partial) * self.blocking.dtype.itemsize

    def _sizes(self) -> tuple[int, int, int, int]:
        """Elements of a chunk's band, panel and gradients, and of sums."""
        s = self.blocking
        band = 0 if s.in_place else s.band_bytes(self.chunk) // s.dtype.itemsize
        if self.few:
            if self.first:
                band = self.channels * self.pitch
            *_, columns = self.chunk
            return band, self.at_once * columns * s.panel, 0, s.taps.count * self.channels * self.row
        pixels = prod(self.chunk)
        # Outputs of one pixel have their channels first and last.
        last = s.last or s.pixels == 1
        sums = 0 if self.in_place else self.step * self.row
        return band, pixels * PANEL * s.lanes, self.step * pixels if last else 0, sums

    def run(self, dy: Images, x: Images, dw: Array) -> None:
        """Write the weights' gradient, flat, in the order of the layout."""
        s, jobs = self.blocking, self._jobs()
        several = self.parts > 1
        job_work = self.weights * s.batch * s.pixels // len(jobs)
        partial = new_result((self.parts, self.weights), s.dtype) if several else dw[np.newaxis]
        elements, panels = self.elements if self.few else (), () if self.few else self.panels

        def start_worker() -> Job:
            band, panel, gradients, sums = (aligned(size, s.dtype) for size in self._sizes())
            scratch = band, panel, gradients
            panel[...] = 0  # lanes that no element fills are multiplied too, and denormals are slow

            def job(i: int) -> None:
                (part, _), (group, _), (channel, stop_channel), (first, stop) = jobs[i]
                every, channels = share(self.chunks, self.parts, part), stop_channel - channel
                gradient, image = dy.strides(group * s.filters), x.strides(group * s.channels + channel)
                windows = s.windows(self.chunk, channels, self.pitch)
                if self.few:
                    own = elements[channels < self.channels]
                    some = sums[: len(own) * self.row].reshape(-1, self.row)
                    some[...] = 0
                    for chunks in pieces(every, job_work):
                        kernels.sum_few(
                            dy.flat, gradient, x.flat, image, windows, some, (first, stop - first, s.panel),
                            chunks, own, self.at_once, scratch,
                        )  # fmt: skip
                    self._write_few(some, partial[part], group, channel, (first, stop))
                    return
                begin = group * s.filters + first if self.in_place else 0
                rows = (partial[part] if self.in_place else sums).reshape(-1, self.row)
                some = rows[begin : begin + stop - first]
                some[...] = 0
                for chunks in pieces(every, job_work):
                    kernels.sum_bands(
                        dy.flat, gradient, x.flat, image, windows, some, (first, stop - first), chunks,
                        *panels, scratch,
                    )  # fmt: skip
                if not self.in_place:
                    self._write(some, partial[part], group, first)

            return job

        run_jobs(len(jobs), start_worker)
        if several:
            add_parts(partial, dw)

    def _write_few(self, sums: Array, dw: Array, group: int, channel: int, filters: Range) -> None:
        """Sums (elements, some filters) to where they belong: (filters, elements), unless swapped."""
        s, (first, stop) = self.blocking, filters
        if self.swapped:
            dw.reshape(len(sums), s.filters)[:, first:stop] = sums[:, : stop - first]
            return
        square = aligned(s.lanes * s.lanes, s.dtype)
        taps, elements = s.taps.count, s.taps.elements
        flat, place = sums.reshape(-1), (group * s.filters + first) * elements
        target = dw[place + channel * taps :]
        transpose(flat, 0, self.row, len(sums), stop - first, target, elements, square)

    def _write(self, sums: Array, dw: Array, group: int, first: int) -> None:
        """Sums of some filters to where they belong: there taps are last, or channels."""
        s = self.blocking
        square = aligned(s.lanes * s.lanes, s.dtype)
        if self.swapped:
            target = dw[group * s.filters * s.channels + first :]
            transpose(sums.reshape(-1), 0, self.row, len(sums), s.channels, target, s.filters, square)
            return
        elements = s.taps.elements // self.depths
        begin = (group * s.filters + first) * s.taps.elements
        place = dw[begin : begin + len(sums) * s.taps.elements]
        if s.last:
            by_depth = sums.reshape(len(sums), self.depths, self.depth)
            place.reshape(len(sums), self.depths, elements)[...] = by_depth[..., :elements]
        else:
            kernels.transpose_filters(
                sums.reshape(-1), len(sums), self.row, self.depths, self.depth, elements // s.channels,
                s.channels, place, square,
            )  # fmt: skip
