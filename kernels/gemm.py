"""Convolution without columns, with vectors along filters: every row of a product is a pixel of the output.

A pixel reads its taps where they lie in a band (`fastconv.kernels.pack`), channels last: the taps of one row
of the kernel are one run of elements, so that the tile of `fastconv.kernels.tile` walks run by run through
the image. Strides and dilations only change where rows and runs begin. For backward-weight rows are filters,
vectors run along channels, and the runs go along rows of the output.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastconv.kernels.images import Image, address, from_channel
from fastconv.kernels.jit import inner, jit, part
from fastconv.kernels.pack import Window, chunk_of, clear, copy, pack_band, transpose, unpack_band
from fastconv.kernels.simd import load, load_some, prefetch, spread, store, store_some, transpose_square
from fastconv.kernels.tile import (
    ROWS,
    Panel,
    Prefetch,
    Rows,
    Runs,
    find_vector,
    multiply_rows,
    multiply_strided_rows,
    place_rows,
)
from fastconv.kernels.vectors import SUM, VECTOR_BYTES

# Rows of weights that are prefetched before they are copied: each lies in other pages, where the processor
# does not read ahead by itself (512 x 2048 weights in 290 us instead of 930, float32, AVX-512 Xeon).
ROWS_AHEAD = 4


class Weights(NamedTuple):
    """The weights of a group, and where each of their elements belongs in a panel.

    The elements of a lane's filter (or channel, for backward-input) are listed in blocks of some that lie one
    behind the other, at most as many as a vector has lanes.
    """

    array: Any  # 1-D float array
    first: int  # the first lane's first element
    lane_stride: int
    sources: Any  # int64 array (blocks, 2): where a block lies in the first lane, and its elements
    rows: Any  # int64 array (elements,): the row of a panel of each element
    elements: int  # of a lane, which are the rows of a panel


class Vectors(NamedTuple):
    """Which vectors of lanes are packed."""

    first: int
    stop: int
    lanes: int  # how many lanes there are in all
    panel: int  # vectors of a panel; the last one may have fewer


class Filters(NamedTuple):
    """Which panels of filters are computed."""

    first: int
    stop: int
    number: int  # filters in all
    width: int  # filters of a panel
    fresh: int  # panels that are packed at a time for one chunk; 0 where all of them are packed already


class PerAxis(NamedTuple):
    """A number for each axis."""

    depth: int
    height: int
    width: int


class Extents(NamedTuple):
    """Of a whole chunk; those at the ends may be smaller."""

    images: int
    planes: int
    rows: int
    columns: int


class Windows(NamedTuple):
    """Which windows of the images pixels of the output read, and how chunks of them are read."""

    batch: int
    channels: int
    start: PerAxis  # where the first window begins; may lie in the padding
    stride: PerAxis
    span: PerAxis  # planes, rows and columns from a window's first tap to its last
    chunk: Extents  # all planes where there are several images, all rows where several planes, and so on
    pitch: int  # elements of a pixel of the band, or of a channel of a band that has its channels first
    in_place: bool  # whether images are their own band: channels last, and no tap reads padding


class Taps(NamedTuple):
    """What the taps of a window are in a band and in a panel; all are int64 arrays."""

    a_runs: Any  # where each run of taps begins, from the window's first tap on
    b_runs: Any  # and in a panel
    sums: Any  # (sums, 3): what one sum covers, as first run, runs, and steps of each
    reach: Any  # (depth, 2): from and up to which sum the taps of a plane of the output lie in the image


class Scratch(NamedTuple):
    """What a chunk reads, a vector longer, and what it writes."""

    band: Any
    pixels: Any


class SumScratch(NamedTuple):
    """What a chunk reads, what is packed of it, and transposed gradients (filters, pixels)."""

    band: Any
    panel: Any
    gradients: Any


class Block(NamedTuple):
    """The part of the images that a chunk reads: where it begins, and its extents."""

    plane: int
    row: int
    column: int
    planes: int
    rows: int
    room: int  # rows of each plane of the band, which are those of a whole chunk
    columns: int


class Strides(NamedTuple):
    """From one pixel to the next along each axis."""

    plane: int
    image: int
    row: int
    column: int


@inner
def pack_vectors(weights, vectors, packed, square):
    """As `pack_panels`, which see."""
    w, first_lane, lane_stride, sources, rows, elements = weights
    lanes = VECTOR_BYTES // w.itemsize
    all_vectors = (vectors.lanes + lanes - 1) // lanes
    if lane_stride == 1:
        for row in range(sources.shape[0]):
            ahead = first_lane + sources[min(row + ROWS_AHEAD, sources.shape[0] - 1), 0]
            source = first_lane + sources[row, 0]
            for vector in range(vectors.first, vectors.stop):
                target, width = find_vector(vector, all_vectors, vectors.panel, elements, lanes)
                lane = vector * lanes
                prefetch(w, ahead + lane, 0)
                store(packed, target + rows[row] * width, load_some(w, source + lane, vectors.lanes - lane))
        return
    # Lanes that lie close together are packed block by block, for all vectors: 1.0 ms instead of 1.4 for 512
    # filters of 512x3x3, for the way back. Others vector by vector: 0.36 ms instead of 0.74 (2048 x 512).
    together = vectors.stop - vectors.first if lane_stride <= lanes else 1
    for begin in range(vectors.first, vectors.stop, together):
        element = 0
        for block in range(sources.shape[0]):
            source, count = first_lane + sources[block, 0], sources[block, 1]
            for vector in range(begin, begin + together):
                lane = vector * lanes
                there = min(lanes, vectors.lanes - lane)
                target, width = find_vector(vector, all_vectors, vectors.panel, elements, lanes)
                transpose_square(w, source + lane * lane_stride, lane_stride, there, count, square, 0)
                for i in range(count):
                    store(packed, target + rows[element + i] * width, load(square, i * lanes))
            element += count


@jit
def pack_panels(weights, vectors, packed, square):
    """Weights as panels that a product can stream: vectors along filters (or channels, for backward-input).

    Parameters
    ----------
    weights : Weights
    vectors : Vectors
    packed : 1-D float array (panels, elements, vectors of the panel)
        Written; what it holds behind the last lane is of no meaning.
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    pack_vectors(Weights(*weights), Vectors(*vectors), packed, square)


@part
def named_windows(windows):
    """Windows from nested plain tuples."""
    batch, channels, start, stride, span, chunk, pitch, in_place = windows
    return Windows(
        batch, channels, PerAxis(*start), PerAxis(*stride), PerAxis(*span), Extents(*chunk), pitch, in_place
    )


@part
def from_lane(weights, lane):
    """The same weights from a lane on."""
    return Weights(
        weights.array, weights.first + lane * weights.lane_stride, weights.lane_stride, weights.sources,
        weights.rows, weights.elements,
    )  # fmt: skip


@part
def pixels_of(chunk):
    """How many pixels a chunk has at the most."""
    return chunk.images * chunk.planes * chunk.rows * chunk.columns


@part
def block_of(windows, piece):
    """What a chunk reads."""
    start, stride, span = windows.start, windows.stride, windows.span
    return Block(
        start.depth + piece.plane * stride.depth,
        start.height + piece.row * stride.height,
        start.width + piece.column * stride.width,
        (piece.planes - 1) * stride.depth + span.depth,
        (piece.rows - 1) * stride.height + span.height,
        (windows.chunk.rows - 1) * stride.height + span.height,
        (windows.chunk.columns - 1) * stride.width + span.width,
    )


@part
def strides_of(image):
    """Those of the pixels of an image."""
    return Strides(image.plane_stride, image.image_stride, image.row_stride, image.pixel_stride)


@inner
def place_pixels(starts, first, piece, columns, strides):
    """Where each pixel of a chunk begins, plane by plane, of each row the first ``columns``."""
    i = 0
    for d in range(piece.planes):
        for n in range(piece.images):
            for h in range(piece.rows):
                begin = first + d * strides.plane + n * strides.image + h * strides.row
                for w in range(columns):
                    starts[i] = begin + w * strides.column
                    i += 1


@part
def read_chunk(x, image, piece, windows, band, starts, square):
    """Bring what a chunk reads to the band, unless images are their own; place the first tap of each pixel.

    The band is (images, planes, rows, columns, pitch). Planes that lie outside the image are left as they
    are: their taps are passed over.
    """
    block, stride, pitch = block_of(windows, piece), windows.stride, windows.pitch
    if windows.in_place:
        first = address(image, piece.image, 0, block.plane, block.row, block.column)
        strides = Strides(
            stride.depth * image.plane_stride, image.image_stride, stride.height * image.row_stride,
            stride.width * image.pixel_stride,
        )  # fmt: skip
    else:
        first = 0
        row = block.columns * pitch
        plane = block.room * row
        window = Window(block.row, block.column, block.rows, block.columns)
        for n in range(piece.images):
            for d in range(max(0, -block.plane), min(block.planes, image.depth - block.plane)):
                pack_band(
                    x, image, piece.image + n, block.plane + d, windows.channels, window,
                    band[(n * block.planes + d) * plane :], pitch, square,
                )  # fmt: skip
        strides = Strides(
            stride.depth * plane, block.planes * plane, stride.height * row, stride.width * pitch
        )
    place_pixels(starts, first, piece, piece.columns, strides)


@part
def multiply_taps(
    pixels, first, stop, taps, first_sum, stop_sum, filters, packed, elements, bias, out, out_panel
):
    """Some pixels of the output, for some panels of filters.

    Parameters
    ----------
    pixels : Rows
        Where the first tap of each pixel lies.
    first, stop : int
        From and up to which of them.
    taps : Taps
    first_sum, stop_sum : int
        From and up to which of the sums of ``taps``.
    filters : Filters
    packed : 1-D float array
        From `pack_panels`: where panels are fresh, from the first of these filters on.
    elements : int
        Rows of a panel.
    bias, out : Rows
        The bias of all filters; and each pixel's filters from panel ``out_panel`` on.
    """
    lanes = VECTOR_BYTES // packed.itemsize
    width = filters.width
    packed_panel = filters.first if filters.fresh > 0 else 0
    for panel in range(filters.first, filters.stop):
        b, column = (panel - packed_panel) * elements * width, (panel - out_panel) * width
        vectors = (min(width, filters.number - panel * width) + lanes - 1) // lanes
        c = Rows(out.array, out.starts, out.first + column)
        for g in range(first_sum, stop_sum):
            first_run, runs, steps = taps.sums[g, 0], taps.sums[g, 1], taps.sums[g, 2]
            # The first sum begins with the bias, the others with what is there.
            start = c if g > first_sum else Rows(bias.array, bias.starts, panel * width)
            # The rows of the next sum's panel, while the first tiles run.
            ahead = b + (taps.b_runs[first_run] + runs * steps) * vectors * lanes
            for t in range(first, stop, ROWS):
                multiply_rows(
                    pixels, t, stop - t, Runs(taps.a_runs, taps.b_runs, first_run, runs, steps),
                    Panel(packed, b, vectors), start, c, Prefetch(packed, ahead, lanes),
                )  # fmt: skip
                ahead += runs * steps * lanes


@jit
def convolve_bands(
    x, image, windows, weights, packed, taps, filters, bias, y, output, chunks, scratch
):  # fmt: skip
    """Convolve some chunks of the pixels of one group.

    Parameters
    ----------
    x, y : 1-D float array
        Images and outputs.
    image, output : Image
        Of this group's channels and filters.
    windows : Windows
    weights : Weights
    packed : 1-D float array
        From `pack_panels`; or room for as many panels as are fresh, which meet one chunk only.
    taps : Taps
    filters : Filters
    bias : 1-D float array
        Zero or more for each filter, in whole panels.
    chunks : tuple of two int
        From and up to which chunk.
    scratch : Scratch

    Filters that fill whole vectors of an output with the channels last are written in place.
    """
    image, output, windows, weights = Image(*image), Image(*output), named_windows(windows), Weights(*weights)
    taps, filters, scratch = Taps(*taps), Filters(*filters), Scratch(*scratch)
    first_chunk, stop_chunk = chunks
    lanes = VECTOR_BYTES // x.itemsize
    width, reach = filters.width, taps.reach
    first_filter = filters.first * width
    some = min(filters.number, filters.stop * width) - first_filter
    out_pitch = (some + lanes - 1) // lanes * lanes
    in_place = output.channel_stride == 1 and some == out_pitch
    most = pixels_of(windows.chunk)
    starts, out_starts, bias_starts = (
        np.empty(most, np.int64), np.empty(most, np.int64), np.zeros(most, np.int64)
    )  # fmt: skip
    if not in_place:
        place_rows(out_starts, most, out_pitch)
    square = np.empty(lanes * lanes, x.dtype)
    pixels = Rows(x if windows.in_place else scratch.band, starts, 0)
    out = Rows(y if in_place else scratch.pixels, out_starts, 0)
    for k in range(first_chunk, stop_chunk):
        piece = chunk_of(k, windows.batch, output.depth, output.height, output.width, windows.chunk)
        read_chunk(x, image, piece, windows, scratch.band, starts, square)
        first_out = address(output, piece.image, first_filter, piece.plane, piece.row, piece.column)
        if in_place:
            place_pixels(out_starts, first_out, piece, piece.columns, strides_of(output))
        in_plane, plane = piece.images * piece.rows * piece.columns, 0
        while plane < piece.planes:
            # Planes that sum the same taps together.
            here = piece.plane + plane
            first_sum, stop_sum = reach[here, 0], reach[here, 1]
            alike = 1
            while (
                plane + alike < piece.planes
                and reach[here + alike, 0] == first_sum
                and reach[here + alike, 1] == stop_sum
            ):
                alike += 1
            at_once = filters.fresh if filters.fresh > 0 else filters.stop - filters.first
            for panel in range(filters.first, filters.stop, at_once):
                stop_panel = min(filters.stop, panel + at_once)
                if filters.fresh > 0:
                    # Not in the loop of the tiles: 3 to 6 % of 1024x14 -> 256 with the channels last.
                    left = filters.number - panel * width
                    count = (min(left, (stop_panel - panel) * width) + lanes - 1) // lanes
                    vectors = Vectors(0, count, left, width // lanes)
                    pack_vectors(from_lane(weights, panel * width), vectors, packed, square)
                multiply_taps(
                    pixels, plane * in_plane, (plane + alike) * in_plane, taps, first_sum, stop_sum,
                    Filters(panel, stop_panel, filters.number, width, filters.fresh), packed,
                    weights.elements, Rows(bias, bias_starts, 0), out, filters.first,
                )  # fmt: skip
            plane += alike
        if in_place:
            continue
        # Rows that lie one behind the other leave together.
        joined = piece.rows if output.row_stride == piece.columns * output.pixel_stride else 1
        for d in range(piece.planes):
            for n in range(piece.images):
                for h in range(0, piece.rows, joined):
                    unpack_band(
                        scratch.pixels, ((d * piece.images + n) * piece.rows + h) * piece.columns,
                        joined * piece.columns, out_pitch, y,
                        first_out + n * output.image_stride + d * output.plane_stride + h * output.row_stride,
                        output, some, square,
                    )  # fmt: skip


@inner
def pack_elements(band, starts, pixels, pieces, first, stop, panel, width):
    """Some pieces of what the taps of every pixel read, as a panel that a product can stream.

    ``pieces``, int64 (pieces, 3), has where the elements of each begin, counted from a pixel's first tap,
    where in a row of the panel they belong, and how many they are. Lanes behind the last one are zero: a
    denormal would be slow.
    """
    lanes = VECTOR_BYTES // band.itemsize
    last = pieces[stop - 1, 1] + pieces[stop - 1, 2]
    if last % lanes > 0:
        zero = spread(band.dtype.type(0))
        for k in range(pixels):
            store(panel, k * width + last // lanes * lanes, zero)
    for piece in range(first, stop):
        begin, place, elements = pieces[piece, 0], pieces[piece, 1], pieces[piece, 2]
        whole = elements // lanes * lanes
        for v in range(0, whole, lanes):
            for k in range(pixels):
                store(panel, k * width + place + v, load(band, starts[k] + begin + v))
        left = elements - whole
        if left > 0:
            for k in range(pixels):
                tail = load_some(band, starts[k] + begin + whole, left)
                store_some(panel, k * width + place + whole, tail, left)


@jit
def sum_bands(dy, gradient, x, image, windows, sums, filters, chunks, pieces, panels, scratch):
    """Add to the sums of one group what some chunks give: gradients times what the taps read.

    Parameters
    ----------
    dy, x : 1-D float array
        Gradients of outputs, and images.
    gradient, image : Image
    windows : Windows
    sums : float array (filters, elements)
        Added to, rows in whole vectors.
    filters : tuple of two int
        The first one, and how many.
    chunks : tuple of two int
        From and up to which chunk.
    pieces : int64 array (pieces, 3)
        As in `pack_elements`.
    panels : int64 array (panels, 6)
        From and up to which piece each has; where its sums begin, and how many vectors they are; from and up
        to which plane of the output its taps read the image. What ``sums`` holds behind the last element of
        a panel is of no meaning.
    scratch : SumScratch
        The panel is (pixels of a chunk, `PANEL` vectors).
    """
    gradient, image, windows = Image(*gradient), Image(*image), named_windows(windows)
    scratch = SumScratch(*scratch)
    first_filter, some_filters = filters
    first_chunk, stop_chunk = chunks
    lanes = VECTOR_BYTES // x.itemsize
    start, stride, span, panel = windows.start, windows.stride, windows.span, scratch.panel
    flat = sums.reshape(sums.size)
    most_runs, most = windows.chunk.images * windows.chunk.planes, pixels_of(windows.chunk)
    a_rows, c_rows, starts = (
        np.empty(some_filters, np.int64), np.empty(some_filters, np.int64), np.empty(most, np.int64),
    )  # fmt: skip
    last = gradient.channel_stride == 1
    place_rows(a_rows, some_filters, most if last else gradient.channel_stride)
    place_rows(c_rows, some_filters, sums.shape[1])
    a_runs, b_runs = np.zeros(most_runs, np.int64), np.zeros(most_runs, np.int64)
    square = np.empty(lanes * lanes, x.dtype)
    source = x if windows.in_place else scratch.band
    gradients = Rows(scratch.gradients if last else dy, a_rows, 0)
    # One tap reads each pixel once: panels are filled straight from the image (98 GF/s with a band between,
    # 120 without: 64x56 -> 64, float32, AVX-512 Xeon).
    straight = not windows.in_place and span == PerAxis(1, 1, 1) and stride == PerAxis(1, 1, 1)
    for k in range(first_chunk, stop_chunk):
        piece = chunk_of(k, windows.batch, gradient.depth, gradient.height, gradient.width, windows.chunk)
        if not straight:
            read_chunk(x, image, piece, windows, scratch.band, starts, square)
        images, pixels = piece.images, piece.rows * piece.columns
        # Rows of gradients, one pixel behind the other within a plane.
        for d in range(piece.planes):
            for n in range(images):
                first = address(
                    gradient, piece.image + n, first_filter, piece.plane + d, piece.row, piece.column
                )
                run = d * images + n
                a_runs[run], b_runs[run] = first, run * pixels
                if last:
                    transpose(
                        dy, first, gradient.pixel_stride, pixels, some_filters,
                        scratch.gradients[run * pixels :], most, square,
                    )  # fmt: skip
                    a_runs[run] = run * pixels
        for p in range(panels.shape[0]):
            first_piece, stop_piece, column, vectors = (
                panels[p, 0], panels[p, 1], panels[p, 2], panels[p, 3]
            )  # fmt: skip
            width = vectors * lanes
            lowest = max(0, panels[p, 4] - piece.plane)
            runs = max(0, min(piece.planes, panels[p, 5] - piece.plane) - lowest) * images
            if runs == 0:
                continue
            first_run = lowest * images
            if straight:
                some_channels = from_channel(image, column)
                plane = start.depth + piece.plane + lowest
                window = Window(
                    start.height + piece.row, start.width + piece.column, piece.rows, piece.columns
                )
                for i in range(runs):
                    pack_band(
                        x, some_channels, piece.image + i % images, plane + i // images,
                        min(width, windows.channels - column), window, panel[i * pixels * width :], width,
                        square,
                    )  # fmt: skip
            else:
                here = starts[first_run * pixels :]
                pack_elements(
                    source, here, runs * pixels, pieces, first_piece, stop_piece, panel, width
                )  # fmt: skip
            c = Rows(flat, c_rows, column)
            for f in range(0, some_filters, ROWS):
                # (filters, elements) += (filters, pixels) @ (pixels, elements)
                multiply_rows(
                    gradients, f, some_filters - f, Runs(a_runs[first_run:], b_runs, 0, runs, pixels),
                    Panel(panel, 0, vectors), c, c, Prefetch(panel, 0, 0),
                )  # fmt: skip


@inner
def pack_filters(dy, starts, pixels, filters, panel, width):
    """The first ``filters`` of every pixel, at most ``width``, as a panel that a product can stream."""
    lanes = VECTOR_BYTES // dy.itemsize
    for k in range(pixels):
        for v in range(0, filters, lanes):
            place = starts[k] + v
            some = load(dy, place) if v + lanes <= filters else load_some(dy, place, filters - v)
            store(panel, k * width + v, some)


@inner
def pack_channels(x, image, piece, windows, block, band):
    """What a chunk reads of images that have their channels first, as a band that has them first, too.

    In each of its channels, ``pitch`` elements, are the rows (images, planes, rows, columns).
    """
    top, bottom = max(0, -block.row), min(block.rows, image.height - block.row)
    left, right = max(0, -block.column), min(block.columns, image.width - block.column)
    clear(band, 0, windows.channels * windows.pitch)
    for n in range(piece.images):
        for d in range(max(0, -block.plane), min(block.planes, image.depth - block.plane)):
            begin = address(image, piece.image + n, 0, block.plane + d, block.row, block.column + left)
            plane = (n * block.planes + d) * block.room * block.columns + left
            for r in range(top, bottom if left < right else top):
                source, target = begin + r * image.row_stride, plane + r * block.columns
                for c in range(windows.channels):
                    copy(x, source + c * image.channel_stride, band, target + c * windows.pitch, right - left)


@jit
def sum_few(dy, gradient, x, image, windows, sums, filters, chunks, elements, at_once, scratch):
    """As `sum_bands`, with vectors along filters; no tap is passed over.

    Rows of the product are the elements of a filter, which go along the pixels of the band: what the taps
    read is not transposed, and the band has its channels first where the images have. Transposing images that
    have them last to such a band is slower.

    Parameters
    ----------
    sums : float array (elements, filters in whole vectors)
        Added to.
    filters : tuple of three int
        The first one, how many, and how many of a panel.
    elements : int64 array
        Where each element of a filter lies in the band, from a pixel's first tap on.
    at_once : int
        Rows of a chunk that are summed at a time.
    scratch : SumScratch
        The panel is (pixels of so many rows, filters of a panel).

    The other parameters are those of `sum_bands`.
    """
    gradient, image, windows = Image(*gradient), Image(*image), named_windows(windows)
    scratch = SumScratch(*scratch)
    first_filter, some_filters, panel_width = filters
    first_chunk, stop_chunk = chunks
    lanes = VECTOR_BYTES // x.itemsize
    stride, pitch, panel = windows.stride, windows.pitch, scratch.panel
    flat = sums.reshape(sums.size)
    most = windows.chunk.images * windows.chunk.planes * windows.chunk.rows
    c_rows, starts = np.empty(elements.size, np.int64), np.empty(most * windows.chunk.columns, np.int64)
    place_rows(c_rows, elements.size, sums.shape[1])
    a_runs, b_runs = np.empty(most, np.int64), np.empty(most, np.int64)
    square = np.empty(lanes * lanes, x.dtype)
    # Images of one pixel have their channels first and last.
    source, last = x if windows.in_place else scratch.band, image.channel_stride == 1
    a_stride = stride.width * pitch if last else stride.width
    for k in range(first_chunk, stop_chunk):
        piece = chunk_of(k, windows.batch, gradient.depth, gradient.height, gradient.width, windows.chunk)
        images, rows, columns = piece.images, piece.rows, piece.columns
        # Pixels of a row that one sum runs over.
        longest = (columns - 1) // ((columns + SUM - 1) // SUM) + 1
        place_rows(b_runs, most, columns)
        runs = piece.planes * images * rows
        if not last:
            block = block_of(windows, piece)
            pack_channels(x, image, piece, windows, block, scratch.band)
            plane = block.room * block.columns
            strides = Strides(stride.depth * plane, block.planes * plane, stride.height * block.columns, 0)
            place_pixels(a_runs, 0, piece, 1, strides)
        else:
            read_chunk(x, image, piece, windows, scratch.band, starts, square)
            for i in range(runs):
                a_runs[i] = starts[i * columns]
        first = address(gradient, piece.image, first_filter, piece.plane, piece.row, piece.column)
        place_pixels(starts, 0, piece, columns, strides_of(gradient))
        for run in range(0, runs, at_once):
            some_runs = min(at_once, runs - run)
            pixels = some_runs * columns
            # Meanwhile what the next rows read is prefetched: their gradients, and x in place (1x1 taps,
            # channels last: 256x56 -> 64 112 and 133 GF/s, 64x56 -> 256 108 and 143).
            next_dy = first + min(runs, run + at_once) * gradient.row_stride
            next_x = a_runs[run] + pixels * pitch
            lines_of_dy = pixels * some_filters // lanes
            lines = lines_of_dy + (pixels * pitch // lanes if windows.in_place else 0)
            line = 0
            for column in range(0, some_filters, panel_width):
                some = min(panel_width, some_filters - column)
                vectors = (some + lanes - 1) // lanes
                width = vectors * lanes
                if gradient.channel_stride == 1:
                    pack_filters(dy[first + column :], starts[run * columns :], pixels, some, panel, width)
                else:
                    seen = from_channel(gradient, first_filter + column)
                    for i in range(some_runs):
                        plane, row = divmod(run + i, rows)
                        pack_band(
                            dy, seen, piece.image + plane % images, piece.plane + plane // images, some,
                            Window(piece.row + row, piece.column, 1, columns), panel[i * columns * width :],
                            width, square,
                        )  # fmt: skip
                c = Rows(flat, c_rows, column)
                for pixel in range(0, columns, longest):
                    steps = min(longest, columns - pixel)
                    a = Rows(source, elements, pixel * a_stride)
                    for t in range(0, elements.size, ROWS):
                        wanted, ahead, step = dy, 0, 0
                        if line < lines_of_dy:
                            ahead, step = next_dy + line * lanes, lanes
                        elif line < lines:
                            wanted, ahead, step = x, next_x + (line - lines_of_dy) * lanes, lanes
                        line += some_runs * steps
                        # (elements, filters) += (elements, pixels) @ (pixels, filters)
                        multiply_strided_rows(
                            a, a_stride, t, elements.size - t,
                            Runs(a_runs[run:], b_runs, 0, some_runs, steps),
                            Panel(panel, pixel * width, vectors), c, c, Prefetch(wanted, ahead, step),
                        )  # fmt: skip


@jit
def transpose_filters(x, filters, row, depths, depth, taps, channels, y, square):
    """Taps with their channels last, of every filter, to channels with their taps last.

    Parameters
    ----------
    x : 1-D float array (filters, row)
    filters, row : int
    depths, depth : int
        In how many parts taps lie, and from one to the next in a row.
    taps : int
        Of a part.
    channels : int
    y : 1-D float array (filters, channels, depths, taps)
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    for f in range(filters):
        for i in range(depths):
            transpose(
                x, f * row + i * depth, channels, taps, channels,
                y[(f * channels * depths + i) * taps :], depths * taps, square,
            )  # fmt: skip
