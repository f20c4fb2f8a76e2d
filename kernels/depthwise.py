"""Convolution of small groups with the channels last: nothing is copied, vectors lie along filters.

Pixels of the output that the same taps reach, at the same distances, form a *class*: the inside of an image
is one, each kind of border another, and each phase of a stride in backward-input has its own. Classes are
products of *runs* of cells along each axis. The pixels of a class go through a micro-kernel a tile at a time,
with the list of taps of the class, so that padding is never read nor multiplied.
"""

import numpy as np

from fastconv.kernels.depthwise_tiles import (
    FEW_PIXELS,
    PIXEL_TAPS,
    SHIFT,
    TILE_PIXELS,
    WEIGHT,
    correlate_pixels,
    sum_pixels,
)
from fastconv.kernels.jit import inner, jit
from fastconv.kernels.plane_tiles import COLUMNS, RUN, SOURCE, TARGET
from fastconv.kernels.vectors import VECTOR_BYTES

PIXEL_TAPS_1, PIXEL_TAPS_2, PIXEL_TAPS_4, PIXEL_TAPS_8 = (PIXEL_TAPS[n] for n in (1, 2, 4, 8))
# Columns of a table of runs: from and up to which cell of its phase, first cell of the phase in the output,
# and the run's taps in the axis' table of taps.
BEGIN, END, FIRST, FIRST_TAP, TAPS = 0, 1, 2, 3, 4
RUN_COLUMNS = 5
# Columns of an axis' table of taps: which tap of the kernel, and its shift from the first cell it reads.
TAP, TAP_SHIFT = 0, 1
# Columns of a table of classes: rows of the table of pixels and of the table of taps,
# and how many of the former are runs, and of the latter triples.
CLASS_ROW, CLASS_RUNS, CLASS_ROWS, CLASS_TAP, CLASS_TRIPLES, CLASS_TAPS = 0, 1, 2, 3, 4, 5


@inner
def count_triples(axis_taps, first, count, step):
    """How many triples consecutive taps of an axis make: each tap ``step`` cells further."""
    for k in range(first + 1, first + count):
        if axis_taps[k, TAP_SHIFT] != axis_taps[k - 1, TAP_SHIFT] + step:
            return 0
    return count // 3


@inner
def list_taps(
    d_taps, h_taps, w_taps, from_d, to_d, from_h, to_h, from_w, to_w, kernel, x_steps, weight_step, taps,
    first,
):  # fmt: skip
    """The taps of a box of the axes' tables of taps, with rows for `correlate_pixels`; returns the next row.

    Parameters
    ----------
    d_taps, h_taps, w_taps : int64 array (taps, 2)
        Columns `TAP` and `TAP_SHIFT`.
    kernel : tuple of three int
    x_steps : tuple of three int
        Elements from one cell of the source to the next along each axis.
    weight_step : int
        Elements from one tap's weights to the next one's.
    taps : int64 array (rows, 2)
        Written from the row ``first`` on.
    """
    row = first
    for d in range(from_d, to_d):
        for h in range(from_h, to_h):
            line = (d_taps[d, TAP] * kernel[1] + h_taps[h, TAP]) * kernel[2]
            shift = d_taps[d, TAP_SHIFT] * x_steps[0] + h_taps[h, TAP_SHIFT] * x_steps[1]
            for w in range(from_w, to_w):
                taps[row, SHIFT] = shift + w_taps[w, TAP_SHIFT] * x_steps[2]
                taps[row, WEIGHT] = (line + w_taps[w, TAP]) * weight_step
                row += 1
    return row


@inner
def list_pixels(sources, targets, counts, source_steps, target_steps, multiple, table, first):
    """A box of pixels, from one to the next so many elements; returns the next row.

    Parameters
    ----------
    sources, targets : int
        Where the first pixel reads and writes.
    counts : tuple of four int
        Images, planes, lines and pixels.
    source_steps, target_steps : tuple of four int
    multiple : int
        The last row is repeated up to a multiple of so many.
    table : int64 array (rows, COLUMNS)
        Written from the row ``first`` on.
    """
    row = first
    for n in range(counts[0]):
        for d in range(counts[1]):
            for h in range(counts[2]):
                source = sources + n * source_steps[0] + d * source_steps[1] + h * source_steps[2]
                target = targets + n * target_steps[0] + d * target_steps[1] + h * target_steps[2]
                for w in range(counts[3]):
                    table[row, SOURCE] = source + w * source_steps[3]
                    table[row, TARGET] = target + w * target_steps[3]
                    row += 1
    while (row - first) % multiple > 0:
        table[row, SOURCE] = table[row - 1, SOURCE]
        table[row, TARGET] = table[row - 1, TARGET]
        row += 1
    return row


@inner
def clipped(runs, n, here, lines):
    """From and up to which cell the run ``n`` goes, in the range of lines where that is along its axis."""
    if here:
        return max(runs[n, BEGIN], lines[0]), min(runs[n, END], lines[1])
    return runs[n, BEGIN], runs[n, END]


@inner
def count_classes(axis_runs, axis, lines):
    """How many classes have a pixel in a range of lines, and how many taps all of them have."""
    classes, taps = 1, 1
    for a in range(3):
        runs = axis_runs[0] if a == 0 else axis_runs[1] if a == 1 else axis_runs[2]
        some, some_taps = 0, 0
        for n in range(len(runs)):
            begin, end = clipped(runs, n, a == axis, lines)
            if begin < end:
                some, some_taps = some + 1, some_taps + runs[n, TAPS]
        classes, taps = classes * some, taps * some_taps
    return classes, taps


@inner
def most_classes(axis_runs, axis, lines, block):
    """The most of both, as `count_classes` says them, that a block of lines has."""
    most, most_taps = 0, 0
    for line in range(lines[0], lines[1], block):
        classes, taps = count_classes(axis_runs, axis, (line, min(line + block, lines[1])))
        most, most_taps = max(most, classes), max(most_taps, taps)
    return most, most_taps


@inner
def list_classes(
    axis_runs, axis_taps, kernel, axis, lines, images, x_steps, stride, out_steps, out_stride, weight_step,
    tiles, tile_taps, spare_weight, pixels, taps, classes,
):  # fmt: skip
    """All classes with a pixel in a range of lines along an axis; returns how many.

    The tables ``pixels`` and ``taps``, the latter in multiples of ``tile_taps`` with ``spare_weight`` for
    those repeated, are written; ``classes``, int64 (classes, 6), says which rows of them belong to each. With
    ``tiles``, runs of pixels stand first where the class has triples of taps, and both come in whole tiles.
    """
    d_runs, h_runs, w_runs = axis_runs
    d_taps, h_taps, w_taps = axis_taps
    found, row, tap = 0, 0, 0
    source_steps = (x_steps[0], stride[0] * x_steps[1], stride[1] * x_steps[2], stride[2] * x_steps[3])
    target_steps = (
        out_steps[0], out_stride[0] * out_steps[1], out_stride[1] * out_steps[2], out_stride[2] * out_steps[3]
    )  # fmt: skip
    long_source_steps = (source_steps[0], source_steps[1], source_steps[2], RUN * source_steps[3])
    long_target_steps = (target_steps[0], target_steps[1], target_steps[2], RUN * target_steps[3])
    for d in range(len(d_runs)):
        from_d, to_d = clipped(d_runs, d, axis == 0, lines)
        for h in range(len(h_runs)):
            from_h, to_h = clipped(h_runs, h, axis == 1, lines)
            for w in range(len(w_runs)):
                from_w, to_w = clipped(w_runs, w, axis == 2, lines)
                depth, height, width = to_d - from_d, to_h - from_h, to_w - from_w
                if depth <= 0 or height <= 0 or width <= 0:
                    continue
                d_tap, h_tap, w_tap = d_runs[d, FIRST_TAP], h_runs[h, FIRST_TAP], w_runs[w, FIRST_TAP]
                to_d_tap, to_h_tap = d_tap + d_runs[d, TAPS], h_tap + h_runs[h, TAPS]
                in_line = count_triples(w_taps, w_tap, w_runs[w, TAPS], stride[2])
                middle = w_tap + 3 * in_line
                next_tap = list_taps(
                    d_taps, h_taps, w_taps, d_tap, to_d_tap, h_tap, to_h_tap, w_tap, middle, kernel,
                    x_steps[1:4], weight_step, taps, tap,
                )  # fmt: skip
                triples = (next_tap - tap) // 3
                next_tap = list_taps(
                    d_taps, h_taps, w_taps, d_tap, to_d_tap, h_tap, to_h_tap, middle, w_tap + w_runs[w, TAPS],
                    kernel, x_steps[1:4], weight_step, taps, next_tap,
                )  # fmt: skip
                while (next_tap - tap) % tile_taps > 0:
                    taps[next_tap, SHIFT] = taps[tap, SHIFT]
                    taps[next_tap, WEIGHT] = spare_weight
                    next_tap += 1
                source = from_d * source_steps[1] + from_h * source_steps[2] + from_w * source_steps[3]
                target = (
                    d_runs[d, FIRST] * out_steps[1] + h_runs[h, FIRST] * out_steps[2]
                    + w_runs[w, FIRST] * out_steps[3]
                    + from_d * target_steps[1] + from_h * target_steps[2] + from_w * target_steps[3]
                )  # fmt: skip
                long = width // RUN if tiles and triples > 0 else 0
                next_row = list_pixels(
                    source, target, (images, depth, height, long), long_source_steps, long_target_steps,
                    TILE_PIXELS // RUN, pixels, row,
                )  # fmt: skip
                classes[found, CLASS_ROW] = row
                classes[found, CLASS_RUNS] = next_row - row
                next_row = list_pixels(
                    source + long * long_source_steps[3], target + long * long_target_steps[3],
                    (images, depth, height, width - long * RUN), source_steps, target_steps,
                    FEW_PIXELS if tiles else 1, pixels, next_row,
                )  # fmt: skip
                classes[found, CLASS_ROWS] = next_row - row
                classes[found, CLASS_TAP] = tap
                classes[found, CLASS_TRIPLES] = triples
                classes[found, CLASS_TAPS] = next_tap - tap
                found, row, tap = found + 1, next_row, next_tap
    return found


@inner
def correlate_class(
    weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels, first_row, rows,
    bias, out, first_out, out_step, first_filter, count, group, run, masked,
):  # fmt: skip
    """`correlate_pixels` for groups of (channels, filters) with a tile; without masks only (1, 1)."""
    tiles = rows * run // (TILE_PIXELS if run > 1 else FEW_PIXELS)
    if group == (1, 1):
        if run > 1 and not masked:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 1, 1, RUN, 0,
            )  # fmt: skip
        elif run > 1:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 1, 1, RUN, 1,
            )  # fmt: skip
        else:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 1, 1, 1, 1,
            )  # fmt: skip
    elif group == (2, 2):
        if run > 1:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 2, 2, RUN, 1,
            )  # fmt: skip
        else:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 2, 2, 1, 1,
            )  # fmt: skip
    elif group == (4, 4):
        if run > 1:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 4, 4, RUN, 1,
            )  # fmt: skip
        else:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 4, 4, 1, 1,
            )  # fmt: skip
    elif group == (8, 8):
        if run > 1:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 8, 8, RUN, 1,
            )  # fmt: skip
        else:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 8, 8, 1, 1,
            )  # fmt: skip
    elif group == (1, 2):
        if run > 1:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 1, 2, RUN, 1,
            )  # fmt: skip
        else:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 1, 2, 1, 1,
            )  # fmt: skip
    elif group == (2, 1):
        if run > 1:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 2, 1, RUN, 1,
            )  # fmt: skip
        else:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 2, 1, 1, 1,
            )  # fmt: skip


@inner
def sum_class(
    dy, first_dy, x, first_x, taps, first_tap, pixels, first_row, rows, sums, sum_step, count, group
):  # fmt: skip
    """`sum_pixels` for groups of (channels, filters) that there is a tile for."""
    if group == (1, 1):
        sum_pixels(
            dy, first_dy, x, first_x, taps, first_tap, pixels, first_row, rows, sums, sum_step, count, 1, 1
        )
    elif group == (2, 2):
        sum_pixels(
            dy, first_dy, x, first_x, taps, first_tap, pixels, first_row, rows, sums, sum_step, count, 2, 2
        )
    elif group == (4, 4):
        sum_pixels(
            dy, first_dy, x, first_x, taps, first_tap, pixels, first_row, rows, sums, sum_step, count, 4, 4
        )
    elif group == (8, 8):
        sum_pixels(
            dy, first_dy, x, first_x, taps, first_tap, pixels, first_row, rows, sums, sum_step, count, 8, 8
        )
    elif group == (1, 2):
        sum_pixels(
            dy, first_dy, x, first_x, taps, first_tap, pixels, first_row, rows, sums, sum_step, count, 1, 2
        )
    elif group == (2, 1):
        sum_pixels(
            dy, first_dy, x, first_x, taps, first_tap, pixels, first_row, rows, sums, sum_step, count, 2, 1
        )


@jit
def correlate_lasts(
    x, first_x, x_steps, stride, axis_runs, axis_taps, kernel, weights, bias, out, out_steps, out_stride,
    axis, group, images, lines, block,
):  # fmt: skip
    """Convolve some lines of some images.

    Parameters
    ----------
    x : 1-D float array
        The memory of the images, whose first element is ``x[first_x]`` and whose channels are contiguous.
    x_steps : tuple of four int
        Elements from one image, plane, line and pixel to the next.
    stride : tuple of three int
        Cells of the source from one cell of an output phase to the next.
    axis_runs : tuple of three int64 arrays (runs, RUN_COLUMNS)
        Along each axis the cells that the same taps reach.
    axis_taps : tuple of three int64 arrays (taps, 2)
    kernel : tuple of three int
    weights : float array (taps, channels of a group, K)
    bias : float array (K,)
    out : 1-D float array
        The memory of the output, whose filters are contiguous. Written.
    out_steps : tuple of four int
    out_stride : tuple of three int
        Cells of the output from one cell of a phase to the next.
    axis : int
        The axis along which lines are counted.
    group : tuple of two int
        Channels and filters of a group.
    images, lines : tuple of two int
        From and up to which image, and line of a phase.
    block : tuple of three int
        How many images and lines share a table, and the most pixels that they have, with those repeated.
    """
    lanes = VECTOR_BYTES // x.itemsize
    filters = weights.shape[2]
    weight_step = weights.shape[1] * filters
    flat_weights = weights.reshape(weights.size)
    # Depthwise, whole vectors go without masks; groups have only masked tiles, which is less to compile.
    whole = filters // lanes * lanes if group == (1, 1) else 0
    x_step, out_step = stride[2] * x_steps[3], out_stride[2] * out_steps[3]
    most, most_taps = most_classes(axis_runs, axis, lines, block[1])
    pixels = np.empty((block[2] + 2 * most * TILE_PIXELS, COLUMNS), np.int64)
    # A tap more may be read than there are.
    taps = np.empty((most_taps + kernel[0] * kernel[1] * kernel[2], 2), np.int64)
    classes = np.empty((most, 6), np.int64)
    for line in range(lines[0], lines[1], block[1]):
        listed, found = 0, 0
        for image in range(images[0], images[1], block[0]):
            some = min(block[0], images[1] - image)
            if listed != some:
                listed = some
                found = list_classes(
                    axis_runs, axis_taps, kernel, axis, (line, min(line + block[1], lines[1])), some, x_steps,
                    stride, out_steps, out_stride, weight_step, True, 1, 0, pixels, taps, classes,
                )  # fmt: skip
            first, first_out = first_x + image * x_steps[0], image * out_steps[0]
            for c in range(found):
                row, runs, rows = classes[c, CLASS_ROW], classes[c, CLASS_RUNS], classes[c, CLASS_ROWS]
                tap, triples, tap_count = (
                    classes[c, CLASS_TAP],
                    classes[c, CLASS_TRIPLES],
                    classes[c, CLASS_TAPS],
                )
                if runs > 0 and whole > 0:
                    correlate_class(
                        flat_weights, filters, x, first, x_step, taps, tap, triples, tap_count, pixels, row,
                        runs, bias, out, first_out, out_step, 0, whole, group, RUN, False,
                    )  # fmt: skip
                if runs > 0 and whole < filters:
                    correlate_class(
                        flat_weights, filters, x, first + whole // group[1] * group[0], x_step, taps, tap,
                        triples, tap_count, pixels, row, runs, bias, out, first_out, out_step, whole,
                        filters - whole, group, RUN, True,
                    )  # fmt: skip
                if rows > runs:
                    correlate_class(
                        flat_weights, filters, x, first, x_step, taps, tap, triples, tap_count, pixels,
                        row + runs, rows - runs, bias, out, first_out, out_step, 0, filters, group, 1, True,
                    )  # fmt: skip


@inner
def pixel_taps(channels):
    """Taps of a tile of sums."""
    if channels == 1:
        return PIXEL_TAPS_1
    if channels == 2:
        return PIXEL_TAPS_2
    return PIXEL_TAPS_4 if channels == 4 else PIXEL_TAPS_8


@jit
def sum_lasts(
    x, first_x, x_steps, stride, axis_runs, axis_taps, kernel, dy, first_dy, dy_steps, axis, group, images,
    lines, block, chunk, result,
):  # fmt: skip
    """The weight's gradient, summed over some lines of some images.

    Parameters
    ----------
    x, first_x, x_steps, stride, axis_runs, axis_taps, kernel, axis, group, images, lines, block
        As in `correlate_lasts`.
    dy : 1-D float array
        The memory of the output's gradient, whose first element is ``dy[first_dy]`` and whose filters are
        contiguous.
    dy_steps : tuple of four int
    chunk : int
        So many pixels are summed for all filters before the next ones.
    result : float array (taps + 1, channels of a group, K)
        Written; the last row is scratch.
    """
    filters = result.shape[2]
    weight_step = result.shape[1] * filters
    sums = result.reshape(result.size)
    sums[:] = 0
    tile = pixel_taps(group[0])
    most, most_taps = most_classes(axis_runs, axis, lines, block[1])
    pixels = np.empty((block[2], COLUMNS), np.int64)
    taps = np.empty((most_taps + (most + 1) * tile, 2), np.int64)
    classes = np.empty((most, 6), np.int64)
    for line in range(lines[0], lines[1], block[1]):
        listed, found = 0, 0
        for image in range(images[0], images[1], block[0]):
            some = min(block[0], images[1] - image)
            if listed != some:
                listed = some
                found = list_classes(
                    axis_runs, axis_taps, kernel, axis, (line, min(line + block[1], lines[1])), some, x_steps,
                    stride, dy_steps, (1, 1, 1), weight_step, False, tile, len(sums) - weight_step, pixels,
                    taps, classes,
                )  # fmt: skip
            first, gradient = first_x + image * x_steps[0], first_dy + image * dy_steps[0]
            for c in range(found):
                stop = classes[c, CLASS_ROW] + classes[c, CLASS_ROWS]
                for row in range(classes[c, CLASS_ROW], stop, chunk):
                    rows = min(chunk, stop - row)
                    for t in range(0, classes[c, CLASS_TAPS], tile):
                        tap = classes[c, CLASS_TAP] + t
                        sum_class(
                            dy,
                            gradient,
                            x,
                            first,
                            taps,
                            tap,
                            pixels,
                            row,
                            rows,
                            sums,
                            filters,
                            filters,
                            group,
                        )
