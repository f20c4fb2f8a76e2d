"""What the pixels of a correlation read of a band, and how its output is cut into chunks.

Of `fastconv.engine.gemm`: all pixels of a correlation read the same taps, from where they lie on.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastconv.arguments import Array
from fastconv.engine.decompose import Axis
from fastconv.engine.partition import ceil_div, wanted_jobs
from fastconv.engine.tensor import Four, Three
from fastconv.kernels.tile import panel_width
from fastconv.kernels.vectors import VECTOR_BYTES

# What a chunk reads.
BAND_BYTES = 2**20
# Elements that one sum runs over before it is added to the others.
SUM = 256
# Fewer channels than these have a small band, and a chunk so many pixels: fewer rows are copied twice (132
# GF/s, and 120 with 384, 3x224 -> 64, 3x3 taps, channels last, float32, AVX-512 Xeon).
NARROW, NARROW_PIXELS = 8, 896
# Panels of filters of one job at the least, where filters are parted: each part fills the band again.
PART_PANELS = 2

Axes = tuple[Axis, Axis, Axis]


class Taps:
    """What the pixels of one correlation read: ``out[k, o] = sum of w[k, c, tap] * x[c, o*stride + shift]``.

    Taps are counted in the order in which they lie in a band, by plane, row and column.

    Parameters
    ----------
    axes : three Axis
    channels : int
        Of a group.
    kernel : tuple of three int
        Extents of the whole kernel, of which the axes have the taps.
    lanes : int
    """

    def __init__(self, axes: Axes, channels: int, kernel: Three, lanes: int) -> None:
        d, h, w = self.axes = axes
        self.channels, self.kernel, self.lanes = channels, kernel, lanes
        self.start: Three = (d.lowest, h.lowest, w.lowest)
        self.stride: Three = (d.stride, h.stride, w.stride)
        self.span: Three = (d.span, h.span, w.span)
        self.count = d.count * h.count * w.count
        # Neighbours along the width are one run of elements.
        self.joined = w.span == w.count and w.count * channels <= SUM
        self.elements = self.count * channels

    def places(self, plane: int, row: int, pixel: int) -> Array:
        """Where each tap (plane, row, column) begins in a band, whose strides the arguments are."""
        d, h, w = self.axes
        return (
            (np.arange(d.count) * (d.apart * plane))[:, np.newaxis, np.newaxis]
            + (np.arange(h.count) * (h.apart * row))[:, np.newaxis]
            + np.arange(w.count) * (w.apart * pixel)
        )

    def segments(self, plane: int, row: int, pixel: int) -> tuple[Array, int]:
        """Where elements that lie one behind the other begin, for each depth, and how many they are.

        The arguments are the strides of a band.
        """
        places = self.places(plane, row, pixel)
        if self.joined:
            return places[..., 0], places.shape[2] * self.channels
        return places.reshape(len(places), -1), self.channels

    def runs(self, plane: int, row: int, pixel: int) -> tuple[Array, Array, Array]:
        """Runs in a band, and in steps of a panel; which of them, of how many steps, make up one sum.

        No sum has taps of two depths, which have as many sums each. Behind them all is one of nothing.
        """
        segments, length = self.segments(plane, row, pixel)
        depths, each = segments.shape
        steps = np.arange(0, length, SUM)
        a_runs = (segments[..., np.newaxis] + steps).reshape(-1)
        b_runs = np.add.outer(np.arange(0, segments.size * length, length), steps).reshape(-1)
        if len(steps) > 1:  # each run is a sum of its own
            sums = np.zeros((len(a_runs) + 1, 3), np.int64)
            sums[:-1, 0], sums[:-1, 1] = np.arange(len(a_runs)), 1
            sums[:-1].reshape(-1, len(steps), 3)[..., 2] = np.minimum(SUM, length - steps)
        else:
            begins = np.arange(0, each, SUM // length)
            sums = np.zeros((depths * len(begins) + 1, 3), np.int64)
            by_depth = sums[:-1].reshape(depths, len(begins), 3)
            by_depth[..., 0] = np.add.outer(np.arange(depths) * each, begins)
            by_depth[..., 1], by_depth[..., 2] = np.minimum(SUM // length, each - begins), length
        return a_runs, b_runs, sums

    def reach(self, sums: int) -> Array:
        """From and up to which of so many sums each plane of the output reads the image (see `runs`)."""
        depth = self.axes[0]
        reach = depth.reach() * ((sums - 1) // depth.count)
        reach[reach[:, 0] == reach[:, 1]] = sums - 1, sums
        return reach

    def packing(self, tap_step: int, channel_step: int, joined: bool) -> tuple[Array, Array]:
        """Which elements of a filter lie one behind the other, and the rows of a panel that they belong to.

        The first two arguments are the strides of a filter; ``joined`` says whether such elements are taken
        together.
        """
        by_channel = tap_step < channel_step
        # Taps in rising order of their numbers, by their places here.
        turn = tuple([slice(None, None, -1 if axis.tap_step < 0 else 1) for axis in self.axes])
        counts = [axis.count for axis in self.axes]
        order = np.arange(0, self.elements, self.channels).reshape(counts)[turn].reshape(-1)
        channels = np.arange(self.channels)
        rows = np.add.outer(*((channels, order) if by_channel else (order, channels)))
        if joined and (tap_step, channel_step) in ((1, self.count), (self.channels, 1)):
            # One stretch in all, of which at most as many are taken as a vector has lanes.
            whole = np.empty((ceil_div(self.elements, self.lanes), 2), np.int64)
            whole[:, 0], whole[:, 1] = np.arange(0, self.elements, self.lanes), self.lanes
            whole[-1, 1] = self.elements - whole[-1, 0]
            return whole, rows.reshape(-1)
        _, height, width = self.kernel
        d, h, w = (axis.taps for axis in self.axes)
        taps = np.add.outer(d * (height * width), np.add.outer(h * width, w))[turn].reshape(-1) * tap_step
        places = channels * channel_step
        if joined:  # for each channel, up to where a tap is left out
            after_gap = np.flatnonzero(np.diff(taps, prepend=-2) != 1)
            place = np.arange(self.count) - np.repeat(after_gap, np.diff(after_gap, append=self.count))
            parts = np.flatnonzero(place % self.lanes == 0)
            sources = np.empty((self.channels, len(parts), 2), np.int64)
            sources[..., 0] = np.add.outer(places, taps[parts])
            sources[..., 1] = np.diff(parts, append=self.count)
            return sources.reshape(-1, 2), rows.reshape(-1)
        sources = np.ones((*rows.shape, 2), np.int64)
        sources[..., 0] = np.add.outer(places, taps) if by_channel else np.add.outer(taps, places)
        return sources.reshape(-1, 2), rows.reshape(-1)


class Blocking:
    """How one correlation is cut into chunks, each of some pixels of the output, and what these read.

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
        self, axes: Axes, batch: int, groups: int, channels: int, filters: int, kernel: Three,
        dtype: np.dtype[Any], last: bool,
    ) -> None:  # fmt: skip
        self.axes, self.batch, self.groups = axes, batch, groups
        self.channels, self.filters = channels, filters
        self.dtype, self.last = dtype, last
        self.lanes = VECTOR_BYTES // dtype.itemsize
        self.panel = panel_width(filters, self.lanes)
        self.panels = ceil_div(filters, self.panel)
        self.depth, self.height, self.width = (axis.output for axis in axes)
        self.taps = Taps(axes, channels, kernel, self.lanes)
        # Every pixel reads the one it is.
        self.unmoved = axes[0].unmoved and axes[1].unmoved and axes[2].unmoved
        # Images that are their own band: no row or column of padding, and pixels of one group only.
        self.in_place = last and groups == 1 and axes[1].unpadded and axes[2].unpadded
        self.pitch = channels
        self.pixels = self.depth * self.height * self.width
        self.work = batch * groups * filters * self.taps.elements * self.pixels
        self.wanted = wanted_jobs(self.work)
        # Whether taps are passed over, since they lie in the padding of the depth.
        self.cut = not axes[0].unpadded

    def chunk(self, pixels: int) -> Four:
        """Images, planes, rows and columns of a chunk of about so many pixels, in chunks of equal size."""
        plane = self.height * self.width
        if plane > pixels:
            rows, columns = max(1, pixels // self.width), self.width
            while rows > 1 and self.band_bytes((1, 1, rows, columns)) > BAND_BYTES:
                rows = ceil_div(rows, 2)
            if rows == 1:
                # What two pieces of a row both read is copied twice.
                _, _, width = self.taps.span
                columns = ceil_div(columns, ceil_div(columns, max(pixels, width - 1)))
            return 1, 1, ceil_div(self.height, ceil_div(self.height, rows)), columns
        # As many as have room: each further plane of the output is as much as the second.
        first, second = (self.band_bytes((1, n, self.height, self.width)) for n in (1, 2))
        room = 1 + max(0, BAND_BYTES - first) // (second - first)
        planes, images = min(self.depth, pixels // plane, room), 1
        if planes == self.depth:
            room = BAND_BYTES // self.band_bytes((1, planes, self.height, self.width))
            images = max(1, min(self.batch, pixels // (planes * plane), room))
        return (
            ceil_div(self.batch, ceil_div(self.batch, images)),
            ceil_div(self.depth, ceil_div(self.depth, planes)),
            self.height,
            self.width,
        )

    def windows(self, chunk: Four, channels: int, pitch: int) -> tuple[Any, ...]:
        """What the kernels call ``Windows``, of so many channels of a group."""
        t = self.taps
        return self.batch, channels, t.start, t.stride, t.span, chunk, pitch, self.in_place

    def read(self, chunk: Four) -> Three:
        """Planes, rows and columns that a chunk reads of one image."""
        _, *extents = chunk
        sizes = zip(extents, self.taps.stride, self.taps.span, strict=True)
        planes, rows, columns = [(extent - 1) * stride + span for extent, stride, span in sizes]
        return planes, rows, columns

    def strides(self, chunk: Four) -> Three:
        """Of the band of a chunk, or of an image that is its own band: to the next plane, row and pixel."""
        if self.in_place:
            _, rows, columns = (axis.source for axis in self.axes)
        else:
            _, rows, columns = self.read(chunk)
        return rows * columns * self.pitch, columns * self.pitch, self.pitch

    def band_bytes(self, chunk: Four) -> int:
        """What a chunk reads, and a vector more."""
        images, *_ = chunk
        return (images * prod(self.read(chunk)) * self.pitch + self.lanes) * self.dtype.itemsize

    def chunks(self, chunk: Four) -> int:
        """How many chunks there are."""
        extents = self.batch, self.depth, self.height, self.width
        return prod(ceil_div(n, step) for n, step in zip(extents, chunk, strict=True))
