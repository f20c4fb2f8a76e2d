"""Backward-weight of `fastconv.engine.gemm`: sums along the lines of the output."""

from __future__ import annotations

from math import prod

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import aligned, new_result
from fastconv.engine.gemm_filters import FEW_CELLS, PART_PANELS, Sweep
from fastconv.engine.im2col_narrow import FEW
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
from fastconv.engine.tensor import Images, Three, add_parts
from fastconv.kernels import gemm as kernels
from fastconv.kernels.pack import transpose
from fastconv.kernels.tile import PANEL, ROWS
from fastconv.threads import Job, get_num_threads, run_jobs

# Cells that backward-weight sums at a time (128 and 512 are up to 5 % slower in the mean of six layers).
SUM_CELLS = 256
# Cells that one part of backward-weight sums at the least: each part writes all weights once more (107 GF/s
# with parts of 196 cells and 165 with one part, 1024x14 -> 256, float32).
PART_CELLS = 1024
# The sums of a job of backward-weight.
SUMS_BYTES = 4 * 2**20
# Channels of one tap up to which backward-weight reads them cell by cell: 97 and 113 GF/s (64x56 -> 64), 111
# and 135 (256x56 -> 64), but 148 and 139 (512x28 -> 128), whose cells share few sets of the cache.
FEW_ROWS = 256
# The same for more taps: 146 and 162 GF/s (64x28, 5x5), but 175 and 149 (256x13 -> 384, 3x3). With the
# channels first gradients are turned as they are packed: 97 and 128 (3x224, 7x7, stride 2), but 117 and 82
# (64x56, 1x1) and, once for each panel of filters, 150 and 131 (64x56 -> 128, 3x3, stride 2).
FEW_CHANNELS = 64
# So many taps read packed gradients that any number of channels is taken so, with the channels first: 157
# and 169 GF/s (96x27, 7x7), 159 and 163 (256x14), 170 and 170 (128x14); last, 173 and 169 (96x27).
MANY_TAPS = 49
# Cells that these sum at a time: gradients stay in L1 (149 GF/s with 256 and 162 with 128, 64x28, 5x5; 153
# and 171, 3x227 -> 96, 11x11, stride 4).
FEW_SUM_CELLS = 128
# The sums of some channels of images that have them first: they stay in L2.
FEW_SUMS_BYTES = 2**19


class WeightSums:
    """Backward-weight over the sweep of a forward pass, in parts that are added in order.

    ``swapped`` says that the operands are exchanged, and so filters and channels: of a plain product the
    narrower side is best the one that is transposed.
    """

    def __init__(self, sweep: Sweep, swapped: bool) -> None:
        s = self.sweep = sweep
        self.swapped = swapped
        # Few channels, or one tap that reads the cell it is: vectors along filters, and nothing is
        # transposed (`fastconv.kernels.gemm.sum_few`).
        taps = s.taps.count
        pays = s.last or taps > 9 or (taps > 1 and s.filters <= s.panel)
        many_taps = not s.last and taps >= MANY_TAPS
        few = (s.channels <= FEW_CHANNELS or many_taps) and not swapped and pays
        one = s.unmoved and s.own and s.channels <= FEW_ROWS
        self.few = not s.cut and (few or one)
        # Bands with the channels first; images of one cell have them first and last.
        self.first = not s.last and prod(axis.source for axis in s.axes) > 1
        self.chunk = s.chunk(FEW_CELLS if self.few and s.channels < FEW else SUM_CELLS)
        chunks = s.chunks(self.chunk)
        # Taps of a depth that is passed over in some planes are summed for themselves.
        self.depths = s.axes[0].count if s.cut else 1
        self.depth = ceil_div(s.taps.elements // self.depths, s.lanes) * s.lanes
        self.row = self.depths * self.depth
        if self.few:
            cells = FEW_SUM_CELLS if few else SUM_CELLS
            if s.channels > FEW_CHANNELS and not one:
                # As many as have room in L1: 180 and 190 GF/s (96x27, 7x7: two panels of 48 filters).
                cells = min(SUM_CELLS, cells * PANEL * s.lanes // s.panel)
            lines = prod(self.chunk[:3])
            self.at_once = ceil_div(lines, ceil_div(lines, max(1, cells // self.chunk[3])))
            self.pitch = s.pitch if not self.first else self.chunk[0] * prod(self._read)
        # Rows that lie as the weights do are summed in place where they are whole vectors: 112 GF/s with a
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
        wanted = ceil_div(min(JOBS, s.wanted), apart)
        several = wanted * self.weights * s.dtype.itemsize <= PARTS_BYTES
        worthwhile = s.batch * s.cells // PART_CELLS
        self.chunks, self.parts = chunks, even_parts(min(wanted, chunks, worthwhile)) if several else 1
        # Filters of a job: not too few to fill a band for, nor more than there is room for sums.
        step = max(4 * PART_PANELS * s.panel, ceil_div(s.filters, ceil_div(wanted, self.parts)))
        self.step = min(s.filters, step, max(ROWS, SUMS_BYTES // (self.row * s.dtype.itemsize)))
        if self.few:
            self.step = ceil_div(step, s.panel) * s.panel
            self.row = min(self.step, ceil_div(s.filters, s.lanes) * s.lanes)
        self.wanted = wanted

    @property
    def _read(self) -> Three:
        """Planes, lines and columns of the band of one image, where it has its channels first."""
        (depth, height, width), (d, h, w) = self.sweep.taps.span, self.sweep.taps.stride
        _, planes, lines, across = self.chunk
        return (planes - 1) * d + depth, (lines - 1) * h + height, (across - 1) * w + width

    def _elements(self, channels: int) -> Array:
        """Where each element of some channels lies in the band, in the order of the layout."""
        s, (_, rows, columns) = self.sweep, self._read
        steps = (rows * columns, columns, 1) if self.first else s.steps(self.chunk)
        by_tap = np.add.outer(
            s.taps.places(*steps).reshape(-1), np.arange(channels) * (self.pitch if self.first else 1)
        )
        return (by_tap if s.last else by_tap.T).reshape(-1)

    @Tables
    def elements(self) -> tuple[Array, Array]:
        """Those of as many channels as a job has, and of those that are left for the last."""
        left = self.sweep.channels % self.channels
        most = self._elements(self.channels)
        return most, self._elements(left) if left else most

    def _jobs(self) -> Grid:
        """Parts, groups, channels, filters. Threads share the filters: what is summed stays the same.

        1024x14 -> 256 with 1x1 taps has one part, and took as long with two threads as with one.
        """
        s = self.sweep
        shares = ceil_div(min(self.wanted, get_num_threads()), self.parts)
        step = min(self.step, ceil_div(ceil_div(s.filters, shares), s.panel) * s.panel)
        return Grid((self.parts, 1), (s.groups, 1), (s.channels, self.channels), (s.filters, step))

    @Tables
    def panels(self) -> tuple[Array, Array]:
        """The pieces and the panels that `sum_bands` reads: every panel is full but the last of a depth.

        Panels that ended with each segment gave 51 GF/s on 3x16x56 -> 64 with 3x3x3 taps, whose segments have
        9 elements, where these give 80 (float32, AVX-512 Xeon).
        """
        s = self.sweep
        segments, length = s.taps.segments(*s.steps(self.chunk))
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
        return (sum(self._sizes()) + partial) * self.sweep.dtype.itemsize

    def _sizes(self) -> tuple[int, int, int, int]:
        """Elements of a chunk's band, panel and gradients, and of sums."""
        s = self.sweep
        cells = prod(self.chunk)
        band = 0 if s.own else s.band_bytes(self.chunk) // s.dtype.itemsize
        # Images of one cell have their channels first and last.
        last = s.last or s.cells == 1
        if self.few:
            if self.first:
                band = self.channels * self.pitch
            sums = s.taps.count * self.channels * self.row
            return band, self.at_once * self.chunk[3] * s.panel, 0, sums
        sums = 0 if self.in_place else self.step * self.row
        return band, cells * PANEL * s.lanes, self.step * cells if last else 0, sums

    def run(self, dy: Images, x: Images, dw: Array) -> None:
        """Write the weights' gradient, flat, in the order of the layout."""
        s, t = self.sweep, self.sweep.taps
        several, jobs = self.parts > 1, self._jobs()
        job_work = self.weights * s.batch * s.cells // len(jobs)
        partial = new_result((self.parts, self.weights), s.dtype) if several else dw[np.newaxis]
        elements, panels = self.elements if self.few else (), () if self.few else self.panels

        def start_worker() -> Job:
            band, panel, turned, sums = (aligned(size, s.dtype) for size in self._sizes())
            scratch = band, panel, turned
            panel[...] = 0  # lanes that no element fills are multiplied too, and denormals are slow

            def job(i: int) -> None:
                (part, _), (group, _), channels, (first, stop) = jobs[i]
                every = share(self.chunks, self.parts, part)
                if self.few:
                    own = elements[channels[1] - channels[0] < self.channels]
                    some = sums[: len(own) * self.row].reshape(-1, self.row)
                    some[...] = 0
                    windows = (
                        s.batch, channels[1] - channels[0], t.start, t.stride, t.span, self.chunk, self.pitch,
                        s.own,
                    )  # fmt: skip
                    for chunks in pieces(every, job_work):
                        kernels.sum_few(
                            dy.flat, dy.steps(group * s.filters), x.flat,
                            x.steps(group * s.channels + channels[0]), windows, some,
                            (first, stop - first, s.panel), chunks, own, self.at_once, scratch,
                        )  # fmt: skip
                    self._write_few(some, partial[part], group, channels[0], (first, stop))
                    return
                begin = group * s.filters + first if self.in_place else 0
                rows = (partial[part] if self.in_place else sums).reshape(-1, self.row)
                some = rows[begin : begin + stop - first]
                some[...] = 0
                for chunks in pieces(every, job_work):
                    kernels.sum_bands(
                        dy.flat, dy.steps(group * s.filters), x.flat, x.steps(group * s.channels),
                        s.windows(self.chunk), some, (first, stop - first), chunks, *panels, scratch,
                    )  # fmt: skip
                if not self.in_place:
                    self._write(some, partial[part], group, first)

            return job

        run_jobs(len(jobs), start_worker)
        if several:
            add_parts(partial, dw)

    def _write_few(self, sums: Array, dw: Array, group: int, channel: int, filters: Range) -> None:
        """Sums (elements, some filters) to where they belong: (filters, elements), unless swapped."""
        s, (first, stop) = self.sweep, filters
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
        s = self.sweep
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
