"""Convolution without columns, with vectors along filters: every row of a product is a cell of the output.

A cell reads its taps where they lie in a band (`fastconv.kernels.pack`), channels last: the taps of one line
of the kernel are one run of elements, so that the tile of `fastconv.kernels.tile` walks run by run through
the image. Strides and dilations only change where rows and runs begin. For backward-weight rows are filters,
vectors run along channels, and the runs go along lines of the output.
"""

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

# Rows of weights that are asked for before they are copied: each lies in other pages, where the processor
# does not read ahead by itself (512 x 2048 weights in 290 us instead of 930, float32, AVX-512 Xeon).
ROWS_AHEAD = 4


@inner
def pack_vectors(w, lane_step, vectors, sources, rows, taps, packed, square):
    """As `pack_panels`, which see."""
    lanes = VECTOR_BYTES // w.itemsize
    all_vectors = (vectors[2] + lanes - 1) // lanes
    if lane_step == 1:
        for row in range(sources.shape[0]):
            ahead = sources[min(row + ROWS_AHEAD, sources.shape[0] - 1), 0]
            for vector in range(vectors[0], vectors[1]):
                target, width = find_vector(vector, all_vectors, vectors[3], taps, lanes)
                first = vector * lanes
                prefetch(w, ahead + first, 0)
                store(
                    packed,
                    target + rows[row] * width,
                    load_some(w, sources[row, 0] + first, vectors[2] - first),
                )
        return
    # Lanes that lie close together are packed block by block, for all vectors: 1.0 ms instead of 1.4 for 512
    # filters of 512x3x3, for the way back. Others vector by vector: 0.36 ms instead of 0.74 (2048 x 512).
    together = vectors[1] - vectors[0] if lane_step <= lanes else 1
    for begin in range(vectors[0], vectors[1], together):
        element = 0
        for block in range(sources.shape[0]):
            count = sources[block, 1]
            for vector in range(begin, begin + together):
                first = vector * lanes
                there = min(lanes, vectors[2] - first)
                target, width = find_vector(vector, all_vectors, vectors[3], taps, lanes)
                transpose_square(w, first * lane_step + sources[block, 0], lane_step, there, count, square, 0)
                for i in range(count):
                    store(packed, target + rows[element + i] * width, load(square, i * lanes))
            element += count


@jit
def pack_panels(w, lane_step, vectors, sources, rows, taps, packed, square):
    """Weights as panels that a product can stream: vectors along filters (or channels, for backward-input).

    Parameters
    ----------
    w : 1-D float array
    lane_step : int
        In ``w`` from one lane to the next.
    vectors : tuple of four int
        From and up to which vector of lanes, how many lanes there are in all, and how many vectors a panel
        has; the last may have fewer.
    sources : int64 array (blocks, 2)
        Elements of the first lane that lie one behind the other, at most as many as a vector has lanes: the
        first one, and how many.
    rows : int64 array (elements of all blocks,)
        In which row of its panel each belongs.
    taps : int
        Rows of a panel.
    packed : 1-D float array (panels, taps, vectors of the panel)
        Written; what it holds behind the last lane is of no meaning.
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    pack_vectors(w, lane_step, vectors, sources, rows, taps, packed, square)


@part
def sweep(
    band, cell_rows, a_runs, b_runs, groups, packed, panels, taps, filters, cells, bias, out, out_rows,
    no_rows,
):  # fmt: skip
    """Some cells of the output, for some panels of filters.

    Parameters
    ----------
    band : 1-D float array
    cell_rows : int64 array
        Where in the band each cell's first tap lies.
    a_runs, b_runs : int64 array
        Where each run of taps begins, counted from there, and in a panel.
    groups : int64 array (groups, 3)
        What one sum covers: the first run, how many, and their steps.
    packed : 1-D float array
        From `pack_panels`.
    panels : tuple of five int
        From and up to which one, the elements of a row of all but the last, and which panel ``packed`` and
        ``out`` begin with.
    taps : int
        Rows of a panel.
    filters : int
        How many in all.
    cells : int
        How many.
    bias : 1-D float array
        One element a filter.
    out, out_rows : 1-D float array, int64 array
        Where each cell's first filter is written.
    no_rows : int64 array
        Zeros.
    """
    lanes = VECTOR_BYTES // band.itemsize
    width = panels[2]
    for panel in range(panels[0], panels[1]):
        b, column = (panel - panels[3]) * taps * width, (panel - panels[4]) * width
        vectors = (min(width, filters - panel * width) + lanes - 1) // lanes
        for g in range(groups.shape[0]):
            first, runs, steps = groups[g, 0], groups[g, 1], groups[g, 2]
            # The first sum begins with the bias, the others with what is there.
            begun, begun_rows = bias[panel * width :], no_rows
            if g > 0:
                begun, begun_rows = out[column:], out_rows
            for t in range(0, cells, ROWS):
                # The rows of the next sum's panel, while the first tiles run.
                ahead = b + ((b_runs[first] + runs * steps) * vectors + runs * steps * (t // ROWS)) * lanes
                multiply_rows(
                    Rows(band, cell_rows, 0), t, cells - t, Runs(a_runs, b_runs, first, runs, steps),
                    Panel(packed, b, vectors), Rows(begun, begun_rows, 0), Rows(out, out_rows, column),
                    Prefetch(packed, ahead, lanes),
                )  # fmt: skip


@inner
def place_cells(rows, first, counts, steps):
    """Where each cell of some planes of some images begins.

    ``counts`` are planes along the depth, images, lines and cells of a line, ``steps`` from each to the next.
    """
    planes, images, lines, across = counts
    i = 0
    for d in range(planes):
        for n in range(images):
            for h in range(lines):
                begin = first + d * steps[0] + n * steps[1] + h * steps[2]
                for w in range(across):
                    rows[i] = begin + w * steps[3]
                    i += 1


@part
def fill_chunk(x, image, images, channels, start, span, band, rows, columns, pitch, square):
    """Fill a band (images, planes, rows, columns, pitch): the lines of the image that a chunk reads.

    Parameters
    ----------
    x, image, channels, band, columns, pitch, square
        As in `fastconv.kernels.pack.pack_band`.
    images : tuple of two int
        The first one, and how many.
    start : tuple of three int
        Plane, line and column of the image where the band begins. Planes that lie outside are left as they
        are: their taps are passed over.
    span : tuple of two int
        Planes and lines that are read; there is room for ``rows``.
    rows : int
    """
    for n in range(images[1]):
        for d in range(max(0, -start[0]), min(span[0], image.depth - start[0])):
            pack_band(
                x, image, images[0] + n, start[0] + d, channels, Window(start[1], start[2], span[1], columns),
                band[(n * span[0] + d) * rows * columns * pitch :], pitch, square,
            )  # fmt: skip


@part
def read_chunk(x, image, piece, channels, start, stride, span, chunk, pitch, own, band, cell_rows, square):
    """Bring what a chunk reads to the band, unless images are their own; place the first tap of each cell.

    ``piece`` is the chunk, as `fastconv.kernels.pack.chunk_of` says it; the others as in `convolve_bands`.
    """
    first_image, images, first_plane, planes, first_line, lines, first_cell, across = piece
    begin = (
        start[0] + first_plane * stride[0], start[1] + first_line * stride[1],
        start[2] + first_cell * stride[2],
    )  # fmt: skip
    if own:
        first = address(image, first_image, 0, begin[0], begin[1], begin[2])
        steps = (
            stride[0] * image.plane_stride, image.image_stride, stride[1] * image.row_stride,
            stride[2] * image.pixel_stride,
        )  # fmt: skip
    else:
        first = 0
        rows, columns = (chunk[2] - 1) * stride[1] + span[1], (chunk[3] - 1) * stride[2] + span[2]
        read = (planes - 1) * stride[0] + span[0], (lines - 1) * stride[1] + span[1]
        fill_chunk(x, image, (first_image, images), channels, begin, read, band, rows, columns, pitch, square)
        line = columns * pitch
        steps = stride[0] * rows * line, read[0] * rows * line, stride[1] * line, stride[2] * pitch
    place_cells(cell_rows, first, (planes, images, lines, across), steps)


@jit
def convolve_bands(
    x, image, packed, weights, bias, y, output, batch, channels, filters, taps, start, stride, span, chunks,
    chunk, pitch, a_runs, b_runs, groups, reach, own, band, cells,
):  # fmt: skip
    """Convolve some chunks of lines of one group.

    Parameters
    ----------
    x, y : 1-D float array
        Images and outputs.
    image, output : tuple of nine int
        Where the first image's first channel of this group begins, then from one image, channel and cell to
        the next, then height and width, from one line to the next, the depth, and from one plane of it to the
        next. The step of channels is 1 where they are last.
    packed : 1-D float array
        From `pack_panels`, or room for some panels.
    weights : tuple of 1-D float array, int, two int64 arrays and bool
        The first four arguments of `pack_panels` but for the vectors, and whether panels are packed here,
        as many at a time as have room: for the cells of one chunk that sum the same taps.
    bias : 1-D float array
        Zero or more for each filter, in whole panels.
    batch, channels : int
    filters : tuple of four int
        From and up to which panel, how many filters in all, and how many of a panel.
    taps : int
        Rows of a panel.
    start : tuple of three int
        Plane, line and column of the image that the first cell's first tap reads.
    stride : tuple of three int
    span : tuple of three int
        Planes, lines and columns of the image from a cell's first tap to its last.
    chunks : tuple of two int
        From and up to which chunk.
    chunk : tuple of four int
        So many images, planes, lines and cells of a line are a chunk: all planes where there are several
        images, all lines where there are several planes, and whole lines where there are several.
    pitch : int
        Elements of a cell of the band.
    a_runs, b_runs, groups
        As in `sweep`.
    reach : int64 array (depth, 2)
        From and up to which of the groups each plane of the output sums: those whose taps lie in the image.
    own : bool
        Whether images are their own band: channels last, and no tap reads padding.
    band, cells : 1-D float array
        Scratch: what a chunk reads and writes; one vector more than the band.

    Filters that fill whole vectors of an output with the channels last are written in place.
    """
    image, output = Image(*image), Image(*output)
    lanes = VECTOR_BYTES // x.itemsize
    width = filters[3]
    height, depth = output.height, output.depth
    first_filter = filters[0] * width
    some = min(filters[2], filters[1] * width) - first_filter
    out_pitch = (some + lanes - 1) // lanes * lanes
    in_place = output.channel_stride == 1 and some == out_pitch
    most = chunk[0] * chunk[1] * chunk[2] * chunk[3]
    cell_rows, out_rows, no_rows = (
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.zeros(most, np.int64),
    )
    if not in_place:
        place_rows(out_rows, most, out_pitch)
    square = np.empty(lanes * lanes, x.dtype)
    source = x if own else band
    w, lane_step, sources, rows, fresh = weights
    room = max(1, packed.size // (taps * width)) if fresh else filters[1] - filters[0]
    for k in range(chunks[0], chunks[1]):
        piece = chunk_of(k, batch, depth, height, output.width, chunk)
        first_image, images, first_plane, planes, first_line, lines, first_cell, across = piece
        read_chunk(x, image, piece, channels, start, stride, span, chunk, pitch, own, band, cell_rows, square)
        first_out = address(output, first_image, first_filter, first_plane, first_line, first_cell)
        target = cells
        if in_place:
            steps = output.plane_stride, output.image_stride, output.row_stride, output.pixel_stride
            place_cells(out_rows, first_out, (planes, images, lines, across), steps)
            target = y
        in_plane, plane = images * lines * across, 0
        while plane < planes:
            # Planes that sum the same taps together.
            first, stop = reach[first_plane + plane, 0], reach[first_plane + plane, 1]
            cell, alike = plane * in_plane, 1
            while (
                plane + alike < planes
                and reach[first_plane + plane + alike, 0] == first
                and reach[first_plane + plane + alike, 1] == stop
            ):
                alike += 1
            for panel in range(filters[0], filters[1], room):
                last, packed_from = min(filters[1], panel + room), 0
                if fresh:
                    # Not in the loop of the tiles: 3 to 6 % of 1024x14 -> 256 with the channels last.
                    packed_from, left = panel, filters[2] - panel * width
                    count = (min(left, (last - panel) * width) + lanes - 1) // lanes
                    pack_vectors(
                        w[panel * width * lane_step :], lane_step, (0, count, left, width // lanes), sources,
                        rows, taps, packed, square,
                    )  # fmt: skip
                sweep(
                    source, cell_rows[cell:], a_runs, b_runs, groups[first:stop], packed,
                    (panel, last, width, packed_from, filters[0]), taps, filters[2], alike * in_plane, bias,
                    target, out_rows[cell:], no_rows,
                )  # fmt: skip
            plane += alike
        if in_place:
            continue
        # Lines that lie one behind the other leave together.
        lines_at_once = lines if output.row_stride == across * output.pixel_stride else 1
        for d in range(planes):
            for n in range(images):
                for h in range(0, lines, lines_at_once):
                    unpack_band(
                        cells, ((d * images + n) * lines + h) * across, lines_at_once * across, out_pitch, y,
                        first_out + n * output.image_stride + d * output.plane_stride + h * output.row_stride,
                        output, some, square,
                    )  # fmt: skip


@inner
def pack_cells(band, cell_rows, cells, pieces, first, stop, panel, width):
    """Some pieces of what the taps of every cell read, as a panel that a product can stream.

    A piece is where its elements begin, counted from a cell's first tap, where in a row of the panel they
    belong, and how many they are. Lanes behind the last one are zero: a denormal would be slow.
    """
    lanes = VECTOR_BYTES // band.itemsize
    last = pieces[stop - 1, 1] + pieces[stop - 1, 2]
    if last % lanes > 0:
        zero = spread(band.dtype.type(0))
        for k in range(cells):
            store(panel, k * width + last // lanes * lanes, zero)
    for piece in range(first, stop):
        begin, place, elements = pieces[piece, 0], pieces[piece, 1], pieces[piece, 2]
        whole = elements // lanes * lanes
        for v in range(0, whole, lanes):
            for k in range(cells):
                store(panel, k * width + place + v, load(band, cell_rows[k] + begin + v))
        left = elements - whole
        if left > 0:
            for k in range(cells):
                tail = load_some(band, cell_rows[k] + begin + whole, left)
                store_some(panel, k * width + place + whole, tail, left)


@jit
def sum_bands(
    dy, gradient, x, image, sums, batch, channels, filters, start, stride, span, chunks, chunk, pitch,
    pieces, panels, own, band, panel, turned,
):  # fmt: skip
    """Add to the sums of one group what some chunks of lines give: gradients times what the taps read.

    Parameters
    ----------
    dy, gradient, x, image, batch, channels, start, stride, span, chunks, chunk, pitch, own, band
        As in `convolve_bands`; ``gradient`` is that of the output ``dy``.
    sums : float array (filters, elements)
        Added to, rows in whole vectors.
    filters : tuple of two int
        The first one, and how many.
    pieces : int64 array (pieces, 3)
        As in `pack_cells`.
    panels : int64 array (panels, 6)
        From and up to which piece each has; where its sums begin, and how many vectors they are; from and up
        to which plane of the output its taps read the image. What ``sums`` holds behind the last element of
        a panel is of no meaning.
    panel : 1-D float array
        Scratch (cells of a chunk, `PANEL` vectors).
    turned : 1-D float array
        Scratch (filters, cells of a chunk), where the channels of ``dy`` are last.
    """
    gradient, image = Image(*gradient), Image(*image)
    lanes = VECTOR_BYTES // x.itemsize
    height, depth = gradient.height, gradient.depth
    flat, row = sums.reshape(sums.size), sums.shape[1]
    runs = chunk[0] * chunk[1]
    most = runs * chunk[2] * chunk[3]
    a_rows, c_rows, cell_rows = (
        np.empty(filters[1], np.int64), np.empty(filters[1], np.int64), np.empty(most, np.int64),
    )  # fmt: skip
    last = gradient.channel_stride == 1
    place_rows(a_rows, filters[1], most if last else gradient.channel_stride)
    place_rows(c_rows, filters[1], row)
    a_runs, b_runs = np.zeros(runs, np.int64), np.zeros(runs, np.int64)
    square = np.empty(lanes * lanes, x.dtype)
    source = x if own else band
    # One tap reads each cell once: panels are filled straight from the image (98 GF/s with a band between,
    # 120 without: 64x56 -> 64, float32, AVX-512 Xeon).
    straight = not own and span == (1, 1, 1) and stride == (1, 1, 1)
    for k in range(chunks[0], chunks[1]):
        piece = chunk_of(k, batch, depth, height, gradient.width, chunk)
        first_image, images, first_plane, planes, first_line, lines, first_cell, across = piece
        if not straight:
            read_chunk(
                x, image, piece, channels, start, stride, span, chunk, pitch, own, band, cell_rows, square
            )
        cells = lines * across
        # Rows of gradients, one cell behind the other within a plane.
        gradients = dy
        for d in range(planes):
            for n in range(images):
                first = address(
                    gradient, first_image + n, filters[0], first_plane + d, first_line, first_cell
                )  # fmt: skip
                run = d * images + n
                a_runs[run], b_runs[run] = first, run * cells
                if last:
                    transpose(
                        dy,
                        first,
                        gradient.pixel_stride,
                        cells,
                        filters[1],
                        turned[run * cells :],
                        most,
                        square,
                    )
                    a_runs[run] = run * cells
        if last:
            gradients = turned
        for p in range(panels.shape[0]):
            c, vectors = panels[p, 2], panels[p, 3]
            width = vectors * lanes
            lowest = max(0, panels[p, 4] - first_plane)
            some = max(0, min(planes, panels[p, 5] - first_plane) - lowest) * images
            if some == 0:
                continue
            begun = lowest * images
            if straight:
                some_channels = from_channel(image, c)
                first = start[0] + first_plane + lowest
                for i in range(some):
                    pack_band(
                        x, some_channels, first_image + i % images, first + i // images,
                        min(width, channels - c),
                        Window(start[1] + first_line, start[2] + first_cell, lines, across),
                        panel[i * cells * width :], width, square,
                    )  # fmt: skip
            else:
                here = cell_rows[lowest * images * cells :]
                pack_cells(source, here, some * cells, pieces, panels[p, 0], panels[p, 1], panel, width)
            for f in range(0, filters[1], ROWS):
                # (filters, elements) += (filters, cells) @ (cells, elements)
                multiply_rows(
                    Rows(gradients, a_rows, 0), f, filters[1] - f,
                    Runs(a_runs[begun:], b_runs, 0, some, cells), Panel(panel, 0, vectors),
                    Rows(flat, c_rows, c), Rows(flat, c_rows, c), Prefetch(panel, 0, 0),
                )  # fmt: skip


@inner
def pack_filters(dy, cell_rows, cells, filters, panel, width):
    """The first ``filters`` of every cell, at most ``width``, as a panel that a product can stream."""
    lanes = VECTOR_BYTES // dy.itemsize
    for k in range(cells):
        for v in range(0, filters, lanes):
            place = cell_rows[k] + v
            some = load(dy, place) if v + lanes <= filters else load_some(dy, place, filters - v)
            store(panel, k * width + v, some)


@inner
def fill_channels(x, image, images, channels, start, span, band, rows, columns, pitch):
    """As `fill_chunk`, of images and a band that have their channels first.

    In each of its channels, ``pitch`` elements, are the lines (images, planes, rows, columns).
    """
    top, bottom = max(0, -start[1]), min(span[1], image.height - start[1])
    left, right = max(0, -start[2]), min(columns, image.width - start[2])
    clear(band, 0, channels * pitch)
    for n in range(images[1]):
        for d in range(max(0, -start[0]), min(span[0], image.depth - start[0])):
            begin = image.start + (images[0] + n) * image.image_stride + (start[0] + d) * image.plane_stride
            begin += start[1] * image.row_stride + (start[2] + left) * image.pixel_stride
            plane = (n * span[0] + d) * rows * columns + left
            for r in range(top, bottom if left < right else top):
                source, target = begin + r * image.row_stride, plane + r * columns
                for c in range(channels):
                    copy(x, source + c * image.channel_stride, band, target + c * pitch, right - left)


@jit
def sum_few(
    dy, gradient, x, image, sums, batch, channels, filters, start, stride, span, chunks, chunk, pitch,
    elements, at_once, own, band, panel,
):  # fmt: skip
    """As `sum_bands`, with vectors along filters; no tap is passed over.

    Rows of the product are the elements of a filter, which go along the cells of the band: what the taps read
    is not transposed, and the band has its channels first where the images have (136 and 151 GF/s, 3x227 ->
    96, 11x11, stride 4; 136 and 147, 3x224 -> 64, 7x7, stride 2). Turning images that have them last to
    such a band gave less: 167 and 159 (3x224), 170 and 167 (64x28, 5x5).

    Parameters
    ----------
    sums : float array (elements, filters in whole vectors)
        Added to.
    filters : tuple of three int
        The first one, how many, and how many of a panel.
    elements : int64 array
        Where each element of a filter lies in the band, from a cell's first tap on.
    pitch : int
        Elements of a cell of the band, or of a channel where ``x`` has its channels first.
    at_once : int
        Lines of a chunk that are summed at a time.
    panel : 1-D float array
        Scratch (cells of so many lines, filters of a panel).

    The other parameters are those of `sum_bands`.
    """
    gradient, image = Image(*gradient), Image(*image)
    lanes = VECTOR_BYTES // x.itemsize
    height, depth = gradient.height, gradient.depth
    flat = sums.reshape(sums.size)
    most = chunk[0] * chunk[1] * chunk[2]
    c_rows, cell_rows = np.empty(elements.size, np.int64), np.empty(most * chunk[3], np.int64)
    place_rows(c_rows, elements.size, sums.shape[1])
    a_runs, b_runs = np.empty(most, np.int64), np.empty(most, np.int64)
    square = np.empty(lanes * lanes, x.dtype)
    # Images of one cell have their channels first and last.
    source, last = x if own else band, image.channel_stride == 1
    a_step = stride[2] * pitch if last else stride[2]
    rows, columns = (chunk[2] - 1) * stride[1] + span[1], (chunk[3] - 1) * stride[2] + span[2]
    for k in range(chunks[0], chunks[1]):
        some_lines = chunk_of(k, batch, depth, height, gradient.width, chunk)
        first_image, images, first_plane, planes, first_line, lines, first_cell, across = some_lines
        # Cells of a line that one sum runs over.
        piece = (across - 1) // ((across + SUM - 1) // SUM) + 1
        place_rows(b_runs, most, across)
        runs = planes * images * lines
        if not last:
            begin = (
                start[0] + first_plane * stride[0], start[1] + first_line * stride[1],
                start[2] + first_cell * stride[2],
            )  # fmt: skip
            read = (planes - 1) * stride[0] + span[0], (lines - 1) * stride[1] + span[1]
            fill_channels(x, image, (first_image, images), channels, begin, read, band, rows, columns, pitch)
            steps = stride[0] * rows * columns, read[0] * rows * columns, stride[1] * columns, 0
            place_cells(a_runs, 0, (planes, images, lines, 1), steps)
        else:
            read_chunk(
                x, image, some_lines, channels, start, stride, span, chunk, pitch, own, band, cell_rows,
                square,
            )  # fmt: skip
            for i in range(runs):
                a_runs[i] = cell_rows[i * across]
        first = address(gradient, first_image, filters[0], first_plane, first_line, first_cell)
        steps = gradient.plane_stride, gradient.image_stride, gradient.row_stride, gradient.pixel_stride
        place_cells(cell_rows, 0, (planes, images, lines, across), steps)
        for run in range(0, runs, at_once):
            some_runs = min(at_once, runs - run)
            next_dy = first + min(runs, run + at_once) * gradient.row_stride
            next_x = a_runs[run] + some_runs * across * pitch
            dy_lines = some_runs * across * filters[1] // lanes
            all_lines = dy_lines + (some_runs * across * pitch // lanes if own else 0)
            asked = 0
            for column in range(0, filters[1], filters[2]):
                some = min(filters[2], filters[1] - column)
                vectors = (some + lanes - 1) // lanes
                width = vectors * lanes
                if gradient.channel_stride == 1:
                    here = cell_rows[run * across :]
                    pack_filters(dy[first + column :], here, some_runs * across, some, panel, width)
                else:
                    seen = from_channel(gradient, filters[0] + column)
                    for i in range(some_runs):
                        plane, line = divmod(run + i, lines)
                        pack_band(
                            dy, seen, first_image + plane % images, first_plane + plane // images, some,
                            Window(first_line + line, first_cell, 1, across), panel[i * across * width :],
                            width, square,
                        )  # fmt: skip
                for cell in range(0, across, piece):
                    part_of_line = min(piece, across - cell)
                    for t in range(0, elements.size, ROWS):
                        # Meanwhile what the next lines read is asked for: their gradients, and x in place
                        # (1x1 taps, channels last: 256x56 -> 64 112 and 133 GF/s, 64x56 -> 256 108 and 143).
                        wanted, ahead, step = dy, 0, 0
                        if asked < dy_lines:
                            ahead, step = next_dy + asked * lanes, lanes
                        elif asked < all_lines:
                            wanted, ahead, step = x, next_x + (asked - dy_lines) * lanes, lanes
                        asked += some_runs * part_of_line
                        # (elements, filters) += (elements, cells) @ (cells, filters)
                        multiply_strided_rows(
                            Rows(source, elements, cell * a_step), a_step, t, elements.size - t,
                            Runs(a_runs[run:], b_runs, 0, some_runs, part_of_line),
                            Panel(panel, cell * width, vectors), Rows(flat, c_rows, column),
                            Rows(flat, c_rows, column), Prefetch(wanted, ahead, step),
                        )  # fmt: skip


@jit
def turn_filters(sums, filters, row, depths, depth, taps, channels, dw, square):
    """Taps with their channels last, of every filter, to channels with their taps last.

    Parameters
    ----------
    sums : 1-D float array (filters, row)
    filters, row : int
    depths, depth : int
        In how many parts taps lie, and from one to the next in a row.
    taps : int
        Of a part.
    channels : int
    dw : 1-D float array (filters, channels, depths, taps)
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    for f in range(filters):
        for i in range(depths):
            transpose(
                sums, f * row + i * depth, channels, taps, channels,
                dw[(f * channels * depths + i) * taps :], depths * taps, square,
            )  # fmt: skip
