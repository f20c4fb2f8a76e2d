"""Convolution without columns, with vectors along filters: every row of a product is a cell of the output.

A cell reads its taps where they lie in a band (`fastconv.kernels.bands`), channels last: the taps of one line
of the kernel are one run of elements, so that the tile of `fastconv.kernels.panels` walks run by run through
the image. Strides and dilations only change where rows and runs begin. For backward-weight rows are filters,
vectors run along channels, and the runs go along lines of the output.
"""

import numpy as np

from fastconv.kernels.bands import empty_band, fill_band, turn_cells
from fastconv.kernels.jit import jit, part
from fastconv.kernels.lanes import load, load_some, store, store_some, transpose_square
from fastconv.kernels.panels import PANEL, ROWS, multiply_panels, place_rows
from fastconv.kernels.vectors import VECTOR_BYTES


@jit
def pack_panels(w, lane_step, vectors, sources, rows, taps, packed, square):
    """Weights as panels that a product can stream: vectors along filters (or channels, for backward-input).

    Parameters
    ----------
    w : 1-D float array
    lane_step : int
        In ``w`` from one lane to the next.
    vectors : tuple of three int
        From and up to which vector of lanes, and how many lanes there are in all.
    sources : int64 array (blocks, 2)
        Elements of the first lane that lie one behind the other, at most as many as a vector has lanes: the
        first one, and how many.
    rows : int64 array (elements of all blocks,)
        In which row of its panel each belongs; -1: nowhere.
    taps : int
        Rows of a panel.
    packed : 1-D float array (panels, taps, `PANEL` vectors)
        Written; what it holds behind the last lane is of no meaning.
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    lanes = VECTOR_BYTES // w.itemsize
    width = PANEL * lanes
    for vector in range(vectors[0], vectors[1]):
        there = min(lanes, vectors[2] - vector * lanes)
        first = vector * lanes * lane_step
        target = vector // PANEL * taps * width + vector % PANEL * lanes
        element = 0
        for block in range(sources.shape[0]):
            source, count = first + sources[block, 0], sources[block, 1]
            if lane_step == 1 and there == lanes:
                if rows[element] >= 0:
                    store(packed, target + rows[element] * width, load(w, source))
                element += 1
                continue
            transpose_square(w, source, lane_step, there, count, square, 0)
            for i in range(count):
                if rows[element] >= 0:
                    store(packed, target + rows[element] * width, load(square, i * lanes))
                element += 1


@part
def sweep(
    band, cell_rows, a_runs, b_runs, groups, packed, panels, taps, filters_left, cells, bias, out, first_out,
    out_rows, no_rows,
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
    packed : 1-D float array (panels, taps, `PANEL` vectors)
    panels : tuple of two int
        From and up to which one.
    taps : int
        Rows of a panel.
    filters_left : int
        Filters from the first panel on, in whole vectors.
    cells : int
        How many.
    bias : 1-D float array
        One element a filter.
    out, first_out, out_rows : 1-D float array, int, int64 array
        Where each cell's first filter is written.
    no_rows : int64 array
        Zeros.
    """
    lanes = VECTOR_BYTES // band.itemsize
    width = PANEL * lanes
    for panel in range(panels[0], panels[1]):
        b = panel * taps * width
        column = (panel - panels[0]) * width
        vectors = min(PANEL, (filters_left - column) // lanes)
        for g in range(groups.shape[0]):
            first, runs, steps = groups[g, 0], groups[g, 1], groups[g, 2]
            a_some, b_some = a_runs[first:], b_runs[first:]
            # The first sum begins with the bias, the others with what is there.
            begun, begun_rows = bias[panel * width :], no_rows
            if g > 0:
                begun, begun_rows = out[first_out + column :], out_rows
            for t in range(0, cells, ROWS):
                # The rows of the next sum's panel, while the first tiles run.
                ahead = b + b_some[0] + runs * steps * (PANEL + t // ROWS) * lanes
                multiply_panels(
                    band, cell_rows, t, a_some, packed, b, b_some, runs, steps, packed, ahead, lanes, begun,
                    begun_rows, out, first_out + column, out_rows, vectors, cells - t,
                )  # fmt: skip


@jit
def place_cells(rows, images, lines, across, image_step, line_step, cell_step):
    """Where each cell of some lines of some images begins."""
    i = 0
    for n in range(images):
        for h in range(lines):
            for w in range(across):
                rows[i] = n * image_step + h * line_step + w * cell_step
                i += 1


@jit
def convolve_bands(
    x, image, packed, bias, y, output, batch, channels, filters, taps, start, stride, span, chunks, lines,
    images, pitch, a_runs, b_runs, groups, own, band, cells,
):  # fmt: skip
    """Convolve some chunks of lines of one group.

    Parameters
    ----------
    x, y : 1-D float array
        Images and outputs.
    image, output : tuple of seven int
        Where the first image's first channel of this group begins, then from one image, channel and cell to
        the next, then height and width, and from one line to the next. The step of channels is 1 where they
        are last.
    packed : 1-D float array
        From `pack_panels`.
    bias : 1-D float array
        Zero or more for each filter, in whole panels.
    batch, channels : int
    filters : tuple of three int
        From and up to which panel, and how many filters in all.
    taps : int
        Rows of a panel.
    start : tuple of two int
        Line and column of the image that the first cell's first tap reads.
    stride : tuple of two int
    span : tuple of two int
        Lines and columns of the image from a cell's first tap to its last.
    chunks : tuple of two int
        From and up to which chunk.
    lines, images : int
        So many lines of so many images are a chunk: either is 1, or all lines.
    pitch : int
        Elements of a cell of the band.
    a_runs, b_runs, groups
        As in `sweep`.
    own : bool
        Whether images are their own band: channels last, and no tap reads padding.
    band, cells : 1-D float array
        Scratch: what a chunk reads and writes; one vector more than the band.

    Filters that fill whole vectors of an output with the channels last are written in place.
    """
    lanes = VECTOR_BYTES // x.itemsize
    width = PANEL * lanes
    height, across = output[4], output[5]
    first_filter = filters[0] * width
    some = min(filters[2], filters[1] * width) - first_filter
    out_pitch = (some + lanes - 1) // lanes * lanes
    in_place = output[2] == 1 and some == out_pitch
    most = lines * images * across
    cell_rows, out_rows, no_rows = (
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.zeros(most, np.int64),
    )
    if not in_place:
        place_rows(out_rows, most, out_pitch)
    square = np.empty(lanes * lanes, x.dtype)
    in_image = (height + lines - 1) // lines
    columns = image[5] if own else (across - 1) * stride[1] + span[1]
    for k in range(chunks[0], chunks[1]):
        first_image, first_line = k // in_image * images, k % in_image * lines
        count, high = min(images, batch - first_image), min(lines, height - first_line)
        rows = (high - 1) * stride[0] + span[0]
        begin = start[0] + first_line * stride[0]
        total = count * high * across
        image_step = image[1] if own else rows * columns * pitch
        place_cells(
            cell_rows, count, high, across, image_step, stride[0] * columns * pitch,
            stride[1] * pitch,
        )  # fmt: skip
        source = band
        if own:
            source = x[image[0] + first_image * image[1] + (begin * columns + start[1]) * pitch :]
        else:
            for n in range(count):
                fill_band(
                    x, image, first_image + n, channels, (begin, start[1]), band, n * rows, rows, columns,
                    pitch, square,
                )  # fmt: skip
        first_out = (
            output[0] + first_image * output[1] + first_filter * output[2] + first_line * output[6]
        )  # fmt: skip
        target, first_cell = cells, 0
        if in_place:
            place_cells(out_rows, count, high, across, output[1], output[6], output[3])
            target, first_cell = y, first_out
        sweep(
            source, cell_rows, a_runs, b_runs, groups, packed, (filters[0], filters[1]), taps, out_pitch,
            total, bias, target, first_cell, out_rows, no_rows,
        )  # fmt: skip
        if in_place:
            continue
        # Lines that lie one behind the other leave together.
        lines_at_once = high if output[6] == across * output[3] else 1
        for n in range(count):
            for h in range(0, high, lines_at_once):
                empty_band(
                    cells, (n * high + h) * across, lines_at_once * across, out_pitch, y,
                    first_out + n * output[1] + h * output[6], output[2], output[3], some, square,
                )  # fmt: skip


@jit
def pack_cells(band, cell_rows, cells, pieces, first, stop, column, beyond, panel):
    """Some pieces of every cell, from element ``column`` on, as a panel that a product can stream.

    ``beyond`` says that a vector may be read where a piece is shorter: the next piece overwrites the rest.
    """
    lanes = VECTOR_BYTES // band.itemsize
    width = PANEL * lanes
    for k in range(cells):
        row, target = cell_rows[max(0, k)], k * width - column
        for i in range(first, stop):
            offset, count, place = pieces[max(0, i), 0], pieces[max(0, i), 1], pieces[max(0, i), 2]
            if count == lanes or (beyond and place + lanes <= column + width):
                store(panel, target + place, load(band, row + offset))
            else:
                store_some(panel, target + place, load_some(band, row + offset, count), count)


@jit
def sum_bands(
    dy, gradient, x, image, sums, batch, channels, filters, start, stride, span, chunks, lines, images, pitch,
    elements, pieces, own, band, panel, turned,
):  # fmt: skip
    """Add to the sums of one group what some chunks of lines give: gradients times what the taps read.

    Parameters
    ----------
    dy, gradient, x, image, batch, channels, start, stride, span, chunks, lines, images, pitch, own, band
        As in `convolve_bands`; ``gradient`` is that of the output ``dy``.
    sums : float array (filters, elements)
        Added to, rows in whole vectors.
    filters : tuple of two int
        The first one, and how many.
    elements : int
        What a cell's taps read.
    pieces : int64 array (pieces, 3)
        At most a vector of elements that lie one behind the other in a band and in a panel: where the first
        one lies from a cell's first tap on, how many they are, and which element the first one is. What
        ``sums`` holds beyond a row's elements is of no meaning.
    panel : 1-D float array
        Scratch (cells of a chunk, `PANEL` vectors).
    turned : 1-D float array
        Scratch (filters, cells of a chunk), where the channels of ``dy`` are last.
    """
    lanes = VECTOR_BYTES // x.itemsize
    width = PANEL * lanes
    height, across = gradient[4], gradient[5]
    flat, row = sums.reshape(sums.size), sums.shape[1]
    most = lines * images * across
    a_rows, c_rows, cell_rows = (
        np.empty(filters[1], np.int64), np.empty(filters[1], np.int64), np.empty(most, np.int64),
    )  # fmt: skip
    last = gradient[2] == 1
    place_rows(a_rows, filters[1], most if last else gradient[2])
    place_rows(c_rows, filters[1], row)
    a_runs, b_runs = np.zeros(images, np.int64), np.zeros(images, np.int64)
    square = np.empty(lanes * lanes, x.dtype)
    in_image = (height + lines - 1) // lines
    columns = image[5] if own else (across - 1) * stride[1] + span[1]
    # One tap reads each cell once: panels are filled straight from the image (98 GF/s with a band between,
    # 120 without: 64x56 -> 64, float32, AVX-512 Xeon).
    straight = not own and span == (1, 1) and stride == (1, 1)
    for k in range(chunks[0], chunks[1]):
        first_image, first_line = k // in_image * images, k % in_image * lines
        count, high = min(images, batch - first_image), min(lines, height - first_line)
        rows = (high - 1) * stride[0] + span[0]
        begin = start[0] + first_line * stride[0]
        image_step = image[1] if own else rows * columns * pitch
        cells = high * across
        source = band
        if own:
            source = x[image[0] + first_image * image[1] + (begin * columns + start[1]) * pitch :]
        elif not straight:
            for n in range(count):
                fill_band(
                    x, image, first_image + n, channels, (begin, start[1]), band, n * rows, rows, columns,
                    pitch, square,
                )  # fmt: skip
        place_cells(
            cell_rows, count, high, across, image_step, stride[0] * columns * pitch, stride[1] * pitch
        )
        # Rows of gradients, one cell behind the other within an image.
        gradients, runs = dy, count
        for n in range(count):
            first = gradient[0] + filters[0] * gradient[2] + (first_image + n) * gradient[1]
            first += first_line * gradient[6]
            a_runs[n], b_runs[n] = first, n * cells * width
            if last:
                turn_cells(dy, first, gradient[3], cells, filters[1], turned[n * cells :], most, square)
                a_runs[n] = n * cells
        if last:
            gradients = turned
        piece = 0
        for column in range(0, elements, width):
            vectors = min(PANEL, (elements - column + lanes - 1) // lanes)
            if straight:
                some_channels = (image[0] + column * image[2], *image[1:])
                for n in range(count):
                    fill_band(
                        x, some_channels, first_image + n, min(width, channels - column), (begin, start[1]),
                        panel, n * rows, rows, columns, width, square,
                    )  # fmt: skip
            else:
                first = piece
                while piece < pieces.shape[0] and pieces[piece, 2] < column + width:
                    piece += 1
                pack_cells(source, cell_rows, count * cells, pieces, first, piece, column, not own, panel)
            for f in range(0, filters[1], ROWS):
                # (filters, elements) += (filters, cells) @ (cells, elements)
                multiply_panels(
                    gradients, a_rows, f, a_runs, panel, 0, b_runs, runs, cells, panel, 0, 0, flat[column:],
                    c_rows, flat, column, c_rows, vectors, filters[1] - f,
                )  # fmt: skip


@jit
def turn_filters(sums, filters, row, taps, channels, dw, square):
    """Taps with their channels last, of every filter, to channels with their taps last.

    Parameters
    ----------
    sums : 1-D float array (filters, row)
    filters, row, taps, channels : int
    dw : 1-D float array (filters, channels, taps)
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    for f in range(filters):
        turn_cells(sums, f * row, channels, taps, channels, dw[f * channels * taps :], taps, square)
