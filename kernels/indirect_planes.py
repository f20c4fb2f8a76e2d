"""Convolution of small groups, down to one channel and one filter a group (depthwise), channels first.

A *grid* is a padded copy of the planes that one group reads, split into the phases of the stride, in L1 or
L2. Each tap reads it at a constant distance (as in `indirect_lines`), but here nothing is done once a plane
that can be done once a call: tables made at the beginning say which lines are copied into the grid and
where each vector of the output reads and writes; the padding is cleared once. What remains a plane of 7 x 7
is seven vectors of copying and four of output.

Arrays are one-dimensional views of the callers' memory, with strides in elements.
"""

import numpy as np

from fastconv.kernels.jit import inner, jit
from fastconv.kernels.plane_tiles import (
    COLUMNS,
    FEW_TAPS,
    LANES,
    RUN,
    SOURCE,
    TARGET,
    TILE_TAPS,
    TILE_VECTORS,
    add_lanes,
    copy_segments,
    correlate_segments,
    interleave_segments,
    split_segments,
    sum_segments,
)
from fastconv.kernels.vectors import VECTOR_BYTES

# Tile sizes as globals of their own: literals to Numba.
VECTORS_1, VECTORS_2, VECTORS_4 = TILE_VECTORS[1], TILE_VECTORS[2], TILE_VECTORS[4]
# So many vectors are added up, then their sums: short sums keep their digits.
SUMMED_VECTORS = 256
TAPS_1, TAPS_2, TAPS_4 = TILE_TAPS[1], TILE_TAPS[2], TILE_TAPS[4]
# Columns of the table of output phases: first output cell, cells along each axis, first tap,
# triples of taps, and taps.
FIRST, CELLS, FIRST_TAP, TRIPLES, TAPS = 0, 3, 6, 7, 8


@inner
def put(table, row, source, target, lanes):
    """Write one row of a table."""
    table[row, SOURCE] = source
    table[row, TARGET] = target
    table[row, LANES] = lanes


@inner
def first_lanes(count):
    """The first lanes, as bits."""
    return (1 << max(0, count)) - 1


@inner
def inside(first, stride, extent, cells):
    """From and up to which cell ``first + i*stride`` lies in the image, for ``i < cells``."""
    return (
        min(cells, max(0, -(first // stride))),
        max(0, min(cells, (extent - 1 - first) // stride + 1)),
    )


@inner
def list_copies(extent, strides, start, stride, phases, cells, lanes, table):
    """The lines of a grid that lie in the image, with what is copied into them.

    Parameters
    ----------
    extent : tuple of three int
        Of the image.
    strides : tuple of three int
        Of the image's axes, in elements.
    start : tuple of three int
        Where the grid begins in the image; negative in the padding.
    stride : tuple of three int
        Cells of the image from one cell of a phase to the next.
    phases : int64 array (phases, 3)
        Where each phase begins, from ``start``: all combinations along the axes, the last one's fastest.
    cells : tuple of three int
        Extents of one phase of the grid.
    lanes : int
        Of a vector.
    table : int64 array (rows, COLUMNS)
        Written, with sources from the image's first element and targets from the grid's: segments for
        `copy_segments` where consecutive cells are wanted, pairs for `split_segments` where every second
        one is; else whole lines, with their cells in the place of the lanes.

    Returns
    -------
    int
        How many rows.
    """
    pairs = strides[2] == 1 and stride[2] == 2
    columns = 2 if pairs and len(phases) > 1 and phases[1, 2] != phases[0, 2] else 1
    found = 0
    for n in range(0, len(phases), columns):
        first_w = start[2] + phases[n, 2]
        left, right = inside(first_w, stride[2], extent[2], cells[2])
        for i in range(cells[0]):
            d = start[0] + i * stride[0] + phases[n, 0]
            for j in range(cells[1]):
                h = start[1] + j * stride[1] + phases[n, 1]
                if d < 0 or d >= extent[0] or h < 0 or h >= extent[1]:
                    continue
                line = d * strides[0] + h * strides[1]
                target = ((n * cells[0] + i) * cells[1] + j) * cells[2]
                other = target + cells[0] * cells[1] * cells[2]
                if pairs:
                    found = list_pairs(
                        first_w, columns, extent[2], cells[2], line, target, other, lanes, table, found
                    )
                elif left < right:
                    source, place, count = (
                        line + (first_w + left * stride[2]) * strides[2],
                        target + left,
                        right - left,
                    )
                    if strides[2] * stride[2] == 1:
                        for k in range(0, count, lanes):
                            put(table, found, source + k, place + k, first_lanes(min(lanes, count - k)))
                            found += 1
                    else:
                        put(table, found, source, place, count)
                        found += 1
    return found


@inner
def list_pairs(first, phases, extent, cells, line, target, other, lanes, table, found):
    """The rows of one line for `split_segments`, with one or both phases of a stride of 2 wanted.

    The cells of the first phase are ``first + 2*i``, those of the other one cell further.
    """
    left, right = inside(first, 2, extent, cells)
    other_left, other_right = inside(first + 1, 2, extent, cells) if phases == 2 else (cells, cells)
    begin, other_begin = first + 2 * left, first + 1 + 2 * other_left
    evens, odds, even_place, odd_place = (
        right - left,
        other_right - other_left,
        target + left,
        other + other_left,
    )
    if phases == 2 and other_begin < begin:
        begin, evens, odds, even_place, odd_place = other_begin, odds, evens, odd_place, even_place
    for k in range(0, evens, lanes):
        even, odd = min(lanes, evens - k), max(0, min(lanes, odds - k))
        put(table, found, line + begin + 2 * k, even_place + k, first_lanes(even))
        put(table, found + 1, first_lanes(max(2 * even - 1, 2 * odd)), odd_place + k, first_lanes(odd))
        found += 2
    return found


@inner
def list_segments(images, extent, source_steps, target_steps, part, parts, run, spare, table):
    """The lines of the output, cut into segments of at most ``part`` lanes.

    Parameters
    ----------
    images : int
    extent : tuple of three int
        Cells of the output along each axis.
    source_steps, target_steps : tuple of three int
        Elements from one image, plane and line to the next, of the grid and of what is written.
    part, parts : int
        Lanes of a part of a vector, and how many of them it has.
    run : int
        So many consecutive vectors read lines that follow each other; those beyond the last line
        have no lanes.
    spare : int
        At least so many rows without lanes are put behind them, so that the last tile finds some.
    table : int64 array (rows, COLUMNS)
        Written.

    Returns
    -------
    int
        How many rows, without the spare ones.
    """
    found, last = 0, 0
    for n in range(images):
        for d in range(extent[0]):
            for h in range(0, extent[1], run):
                for w in range(0, extent[2], part):
                    # Runs side by side: each takes one part of their vectors.
                    first = found // parts * parts * run + found % parts
                    for j in range(run):
                        source = n * source_steps[0] + d * source_steps[1] + (h + j) * source_steps[2] + w
                        target = n * target_steps[0] + d * target_steps[1] + (h + j) * target_steps[2] + w
                        lanes = first_lanes(min(part, extent[2] - w)) if h + j < extent[1] else 0
                        put(table, first + j * parts, source, target if lanes else 0, lanes)
                    last = first + (run - 1) * parts + 1
                    found += 1
    # The other parts of the last run, and the spare rows.
    for p in range(found % parts, parts if found % parts > 0 else 0):
        first = found // parts * parts * run + p
        for j in range(run):
            put(table, first + j * parts, 0, 0, 0)
            last = max(last, first + j * parts + 1)
    for row in range(last, last + spare):
        put(table, row, 0, 0, 0)
    return last


@inner
def copy_lines(source, first_source, source_step, target, first_target, target_step, table, rows):
    """Copy whole lines, from one cell to the next so many elements."""
    for row in range(rows):
        a, b = first_source + table[row, SOURCE], first_target + table[row, TARGET]
        for k in range(table[row, LANES]):
            target[max(0, b + k * target_step)] = source[max(0, a + k * source_step)]


@inner
def fill_grid(x, first, x_strides, stride, images, channels, table, rows, grid, plane_cells):
    """Copy the planes of one group of some images into the grid (images, channels, cells of a plane)."""
    for n in range(images):
        for c in range(channels):
            plane, place = first + n * x_strides[0] + c * x_strides[1], (n * channels + c) * plane_cells
            if x_strides[4] * stride == 1:
                copy_segments(x, plane, grid, place, table, rows)
            elif x_strides[4] == 1 and stride == 2:
                split_segments(x, plane, grid, place, table, rows)
            else:
                copy_lines(x, plane, x_strides[4] * stride, grid, place, 1, table, rows)


@inner
def correlate_rows(
    weights, first_weight, grid, line, offsets, first_tap, triples, taps, segments, rows, parts, run, bias,
    first_filter, filters, out, first_out, filter_step,
):  # fmt: skip
    """All filters of a group over the ``rows`` of a table of segments, in tiles of 4, 2 and 1 filters."""
    k = 0
    while k < filters:
        left, weight, added = filters - k, first_weight + k, first_filter + k
        place = first_out + k * filter_step
        if left >= 4:
            tiles = (rows - 1) // (VECTORS_4 * parts) + 1
            if parts == 1:
                correlate_segments(
                    weights, weight, filters, grid, line, offsets, first_tap, triples, taps, segments, tiles,
                    bias, added, out, place, filter_step, 4, VECTORS_4, 1, 1,
                )  # fmt: skip
            else:
                correlate_segments(
                    weights, weight, filters, grid, line, offsets, first_tap, triples, taps, segments, tiles,
                    bias, added, out, place, filter_step, 4, VECTORS_4, 2, 1,
                )  # fmt: skip
            k += 4
        elif left >= 2:
            tiles = (rows - 1) // (VECTORS_2 * parts) + 1
            if parts == 1:
                correlate_segments(
                    weights, weight, filters, grid, line, offsets, first_tap, triples, taps, segments, tiles,
                    bias, added, out, place, filter_step, 2, VECTORS_2, 1, 1,
                )  # fmt: skip
            else:
                correlate_segments(
                    weights, weight, filters, grid, line, offsets, first_tap, triples, taps, segments, tiles,
                    bias, added, out, place, filter_step, 2, VECTORS_2, 2, 1,
                )  # fmt: skip
            k += 2
        else:
            tiles = (rows - 1) // (VECTORS_1 * parts) + 1
            if run > 1 and parts == 1:
                correlate_segments(
                    weights, weight, filters, grid, line, offsets, first_tap, triples, taps, segments, tiles,
                    bias, added, out, place, filter_step, 1, VECTORS_1, 1, RUN,
                )  # fmt: skip
            elif run > 1:
                correlate_segments(
                    weights, weight, filters, grid, line, offsets, first_tap, triples, taps, segments, tiles,
                    bias, added, out, place, filter_step, 1, VECTORS_1, 2, RUN,
                )  # fmt: skip
            elif parts == 1:
                correlate_segments(
                    weights, weight, filters, grid, line, offsets, first_tap, triples, taps, segments, tiles,
                    bias, added, out, place, filter_step, 1, VECTORS_1, 1, 1,
                )  # fmt: skip
            else:
                correlate_segments(
                    weights, weight, filters, grid, line, offsets, first_tap, triples, taps, segments, tiles,
                    bias, added, out, place, filter_step, 1, VECTORS_1, 2, 1,
                )  # fmt: skip
            k += 1


@inner
def list_lines(phases, extents, axis_phases, phase_step, line_steps, out_strides, stride, lanes, table):
    """How the phases of one plane of output come together: cell i of phase f becomes ``f + i*stride``.

    Parameters
    ----------
    phases : int64 array (phases, 9)
        As in `correlate_planes`.
    extents : int64 array (phases, 3)
        Cells of each phase.
    axis_phases : tuple of three int
        How many phases there are along each axis.
    phase_step : int
        Elements from one phase to the next.
    line_steps : tuple of two int
        Elements from one plane and line of a phase to the next.
    out_strides : tuple of two int
        Elements from one plane and line of the output to the next.
    stride : tuple of three int
    lanes : int
        Of a vector.
    table : int64 array (rows, COLUMNS)
        Written: segments for `copy_segments` where the last axis has no stride, for `interleave_segments`
        where it has two phases; else whole lines of one phase each.

    Returns
    -------
    int
        How many rows.
    """
    found = 0
    interleaved = axis_phases[2] == 2 and stride[2] == 2
    for f in range(0, len(phases), 2 if interleaved else 1):
        count = extents[f, 2] + (extents[f + 1, 2] if interleaved else 0)
        for d in range(extents[f, 0]):
            for h in range(extents[f, 1]):
                source = f * phase_step + d * line_steps[0] + h * line_steps[1]
                plane, line = phases[f, FIRST] + d * stride[0], phases[f, FIRST + 1] + h * stride[1]
                target = plane * out_strides[0] + line * out_strides[1] + phases[f, FIRST + 2]
                if not interleaved and stride[2] > 1:
                    put(table, found, source, target, count)
                    found += 1
                    continue
                for k in range(0, count, lanes):
                    place = source + (k // 2 if interleaved else k)
                    put(table, found, place, target + k, first_lanes(min(lanes, count - k)))
                    found += 1
    return found


@inner
def join_phases(made, place, axis_phases, phase_step, stride, out, first_out, table, rows):
    """Bring the phases of one plane of output together."""
    if axis_phases == 2 and stride == 2:
        interleave_segments(made, place, phase_step, out, first_out, table, rows)
    elif stride == 1:
        copy_segments(made, place, out, first_out, table, rows)
    else:
        copy_lines(made, place, 1, out, first_out, stride, table, rows)


@inner
def clip_phases(phases, axis, lines, extents):
    """The cells of each phase that lie in a range of lines along an axis."""
    for f in range(len(phases)):
        for a in range(3):
            extents[f, a] = phases[f, CELLS + a]
        extents[f, axis] = max(0, min(phases[f, CELLS + axis], lines[1]) - lines[0])


@inner
def moved(corner, axis, cells):
    """A corner moved along an axis."""
    return (
        corner[0] + (cells if axis == 0 else 0),
        corner[1] + (cells if axis == 1 else 0),
        corner[2] + (cells if axis == 2 else 0),
    )


@jit
def correlate_planes(
    x, first_x, x_strides, x_extent, channels, start, stride, grid_phases, cells, offsets, weights, bias, out,
    out_strides, out_stride, out_phases, axis_phases, axis, groups, images, lines, block, part, run,
):  # fmt: skip
    """Convolve planes by way of grids, for some groups, images and lines.

    Parameters
    ----------
    x : 1-D float array
        The memory of the images, whose first element is ``x[first_x]``.
    x_strides : tuple of five int
        In elements: (N, C, D, H, W).
    x_extent : tuple of three int
    channels : int
        Of a group.
    start, stride : tuple of three int
        As in `list_copies`, ``start`` that of the very first line.
    grid_phases : int64 array (phases, 3)
    cells : tuple of three int
        Extents of one phase of the grid of a block of lines.
    offsets : 1-D int64 array
        Where in the grid each row (output phase, channel, tap) of the virtual columns begins.
    weights : float array (groups, rows, filters)
    bias : float array (K,)
    out : 1-D float array
        The memory of the output, whose last axis is contiguous. Written.
    out_strides : tuple of five int
        In elements: (N, K, D, H, W).
    out_stride : tuple of three int
        Cells of the output from one cell of an output phase to the next.
    out_phases : int64 array (phases, 9)
        Columns `FIRST` (three), `CELLS` (three), `FIRST_TAP`, `TRIPLES` and `TAPS`. The first one has as many
        cells as any.
    axis_phases : tuple of three int
        How many of them there are along each axis; their product is their number.
    axis : int
        The axis along which lines are counted.
    groups, images, lines : tuple of two int
        From and up to which group, image, and line of a phase.
    block : tuple of two int
        How many images and lines have room in a grid.
    part : int
        Lanes of a segment: those of a vector, or half of them.
    run : int
        `RUN` where groups have one filter and tiles are made of runs of lines, else 1.
    """
    lanes = VECTOR_BYTES // x.itemsize
    parts = lanes // part
    filters = weights.shape[2]
    flat_weights = weights.reshape(weights.size)
    plane_cells = len(grid_phases) * cells[0] * cells[1] * cells[2]
    beyond = (run - 1) * cells[2] + 2 * lanes  # what the last run and vector read
    grid = np.empty(block[0] * channels * plane_cells + beyond, x.dtype)
    copies = np.empty(
        (2 * len(grid_phases) * cells[0] * cells[1] * ((cells[2] - 1) // lanes + 1), COLUMNS), np.int64
    )
    # Phases whose cells lie apart in the output are made for themselves: (images, filters, phases, depth,
    # height, width rounded up to vectors).
    phases, apart = len(out_phases), out_stride[0] * out_stride[1] * out_stride[2] > 1
    extents = np.empty((phases, 3), np.int64)
    clip_phases(out_phases, axis, (0, block[1]), extents)
    pitch = ((extents[0, 2] - 1) // lanes + 1) * lanes
    made_lines = extents[0, 0] * extents[0, 1]
    phase_step = made_lines * pitch
    image_step = filters * phases * phase_step
    made = np.zeros(block[0] * image_step if apart else 0, x.dtype)
    joins = np.empty((phases * made_lines * (pitch // lanes) + 1, COLUMNS), np.int64)
    spare = 2 * VECTORS_1  # more than a tile of any number of filters has
    run_lines = extents[0, 0] * ((extents[0, 1] - 1) // run + 1) * run
    most_rows = block[0] * run_lines * (pitch // part) + run * parts
    segments = np.empty((phases, most_rows + spare, COLUMNS), np.int64)
    rows = np.empty(phases, np.int64)
    listed, copied, joined = (-1, -1), 0, 0
    for image in range(images[0], images[1], block[0]):
        some = min(block[0], images[1] - image)
        for line in range(lines[0], lines[1], block[1]):
            if listed != (some, line):
                listed = (some, line)
                grid[:] = 0
                corner = moved(start, axis, line * stride[axis])
                copied = list_copies(
                    x_extent, x_strides[2:5], corner, stride, grid_phases, cells, lanes, copies
                )  # fmt: skip
                clip_phases(out_phases, axis, (line, min(line + block[1], lines[1])), extents)
                grid_steps = (channels * plane_cells, cells[1] * cells[2], cells[2])
                steps = (out_strides[0], out_strides[2], out_strides[3])
                line_steps = (extents[0, 1] * pitch, pitch)
                if apart:
                    steps = (image_step, line_steps[0], line_steps[1])
                    joined = list_lines(
                        out_phases, extents, axis_phases, phase_step, line_steps, out_strides[2:4],
                        out_stride, lanes, joins,
                    )  # fmt: skip
                for f in range(phases):
                    extent = (extents[f, 0], extents[f, 1], extents[f, 2])
                    rows[f] = list_segments(
                        some, extent, grid_steps, steps, part, parts, run, spare, segments[f]
                    )
            first_out = image * out_strides[0] + line * out_stride[axis] * out_strides[2 + axis]
            for group in range(groups[0], groups[1]):
                first = first_x + image * x_strides[0] + group * channels * x_strides[1]
                fill_grid(x, first, x_strides, stride[2], some, channels, copies, copied, grid, plane_cells)
                first_filter = group * filters
                group_out = first_out + first_filter * out_strides[1]
                for f in range(phases):
                    first_tap, taps = out_phases[f, FIRST_TAP], out_phases[f, TAPS]
                    if rows[f] == 0:
                        continue
                    target, place, filter_step = out, group_out, out_strides[1]
                    if apart:
                        target, place, filter_step = made, f * phase_step, phases * phase_step
                    correlate_rows(
                        flat_weights, (group * weights.shape[1] + first_tap) * filters, grid, cells[2],
                        offsets, first_tap, out_phases[f, TRIPLES], taps, segments[f], rows[f], parts, run,
                        bias, first_filter, filters, target, place, filter_step,
                    )  # fmt: skip
                if apart:
                    for n in range(some):
                        for k in range(filters):
                            join_phases(
                                made, n * image_step + k * phases * phase_step, axis_phases[2], phase_step,
                                out_stride[2], out, group_out + n * out_strides[0] + k * out_strides[1],
                                joins, joined,
                            )  # fmt: skip


@inner
def sum_rows(dy, first_dy, filter_step, grid, offsets, segments, vectors, parts, sums, filters, taps):
    """The sums of all filters and taps of a group over the segments of a table.

    ``sums`` is one-dimensional, (filters, taps, lanes); ``taps`` is a multiple of those of each tile that so
    many filters take.
    """
    lanes = VECTOR_BYTES // grid.itemsize
    sum_step = taps * lanes
    for row in range(0, vectors, SUMMED_VECTORS):
        count, first_row = min(SUMMED_VECTORS, vectors - row), row * parts
        k = 0
        while k < filters:
            left, place, first_sum = filters - k, first_dy + k * filter_step, k * sum_step
            if left >= 4:
                for t in range(0, taps, TAPS_4):
                    if parts == 1:
                        sum_segments(
                            dy, place, filter_step, grid, offsets, t, segments, first_row, count, sums,
                            first_sum + t * lanes, sum_step, 4, TAPS_4, 1,
                        )  # fmt: skip
                    else:
                        sum_segments(
                            dy, place, filter_step, grid, offsets, t, segments, first_row, count, sums,
                            first_sum + t * lanes, sum_step, 4, TAPS_4, 2,
                        )  # fmt: skip
                k += 4
            elif left >= 2:
                for t in range(0, taps, TAPS_2):
                    if parts == 1:
                        sum_segments(
                            dy, place, filter_step, grid, offsets, t, segments, first_row, count, sums,
                            first_sum + t * lanes, sum_step, 2, TAPS_2, 1,
                        )  # fmt: skip
                    else:
                        sum_segments(
                            dy, place, filter_step, grid, offsets, t, segments, first_row, count, sums,
                            first_sum + t * lanes, sum_step, 2, TAPS_2, 2,
                        )  # fmt: skip
                k += 2
            else:
                t = 0
                while t < taps:
                    if taps - t >= TAPS_1:
                        if parts == 1:
                            sum_segments(
                                dy, place, filter_step, grid, offsets, t, segments, first_row, count, sums,
                                first_sum + t * lanes, sum_step, 1, TAPS_1, 1,
                            )  # fmt: skip
                        else:
                            sum_segments(
                                dy, place, filter_step, grid, offsets, t, segments, first_row, count, sums,
                                first_sum + t * lanes, sum_step, 1, TAPS_1, 2,
                            )  # fmt: skip
                        t += TAPS_1
                    else:
                        if parts == 1:
                            sum_segments(
                                dy, place, filter_step, grid, offsets, t, segments, first_row, count, sums,
                                first_sum + t * lanes, sum_step, 1, FEW_TAPS, 1,
                            )  # fmt: skip
                        else:
                            sum_segments(
                                dy, place, filter_step, grid, offsets, t, segments, first_row, count, sums,
                                first_sum + t * lanes, sum_step, 1, FEW_TAPS, 2,
                            )  # fmt: skip
                        t += FEW_TAPS
                k += 1


@jit
def sum_planes(
    x, first_x, x_strides, x_extent, channels, start, stride, grid_phases, cells, offsets, dy, first_dy,
    dy_strides, dy_extent, axis, result, groups, filters, images, block, part,
):  # fmt: skip
    """The weight's gradient of some groups and filters, summed over some images.

    Parameters
    ----------
    x, first_x, x_strides, x_extent, channels, start, stride, grid_phases, cells, axis, block, part
        As in `correlate_planes`.
    offsets : 1-D int64 array
        Where in the grid each row (channel, tap) of the virtual columns begins; filled up to a multiple of
        a tile's taps.
    dy : 1-D float array
        The memory of the output's gradient, whose last axis is contiguous and first element ``dy[first_dy]``.
    dy_strides : tuple of five int
    dy_extent : tuple of three int
    result : float array (groups, filters of a group, channels * taps)
        Written for these groups and filters.
    groups, filters, images : tuple of two int
        From and up to which group, filter of a group, and image.
    """
    lanes = VECTOR_BYTES // x.itemsize
    parts = lanes // part
    some_filters, taps = filters[1] - filters[0], len(offsets)
    plane_cells = len(grid_phases) * cells[0] * cells[1] * cells[2]
    grid = np.empty(block[0] * channels * plane_cells + 2 * lanes, x.dtype)
    copies = np.empty(
        (2 * len(grid_phases) * cells[0] * cells[1] * ((cells[2] - 1) // lanes + 1), COLUMNS), np.int64
    )
    sums = np.zeros((groups[1] - groups[0], some_filters * taps * lanes), x.dtype)
    block_lines, width = 1, dy_extent[2]
    for a in range(2):
        block_lines *= min(block[1], dy_extent[a]) if a == axis else dy_extent[a]
    segments = np.empty((block[0] * block_lines * ((width - 1) // part + 1) + parts, COLUMNS), np.int64)
    listed, copied, vectors = (-1, -1), 0, 0
    for image in range(images[0], images[1], block[0]):
        some = min(block[0], images[1] - image)
        for line in range(0, dy_extent[axis], block[1]):
            stop = min(line + block[1], dy_extent[axis])
            if listed != (some, line):
                listed = (some, line)
                grid[:] = 0
                corner = moved(start, axis, line * stride[axis])
                copied = list_copies(
                    x_extent, x_strides[2:5], corner, stride, grid_phases, cells, lanes, copies
                )
                extent = (
                    stop - line if axis == 0 else dy_extent[0],
                    stop - line if axis == 1 else dy_extent[1],
                    stop - line if axis == 2 else dy_extent[2],
                )
                grid_steps = (channels * plane_cells, cells[1] * cells[2], cells[2])
                steps = (dy_strides[0], dy_strides[2], dy_strides[3])
                rows = list_segments(some, extent, grid_steps, steps, part, parts, 1, 0, segments)
                vectors = (rows - 1) // parts + 1
            first_gradient = first_dy + image * dy_strides[0] + line * dy_strides[2 + axis]
            for group in range(groups[0], groups[1]):
                first = first_x + image * x_strides[0] + group * channels * x_strides[1]
                fill_grid(x, first, x_strides, stride[2], some, channels, copies, copied, grid, plane_cells)
                first_filter = group * result.shape[1] + filters[0]
                sum_rows(
                    dy, first_gradient + first_filter * dy_strides[1], dy_strides[1], grid, offsets,
                    segments, vectors, parts, sums[group - groups[0]], some_filters, taps,
                )  # fmt: skip
    for group in range(groups[0], groups[1]):
        for k in range(some_filters):
            for q in range(result.shape[2]):
                place = (k * taps + q) * lanes
                result[group, filters[0] + k, q] = add_lanes(sums[group - groups[0]], place)
