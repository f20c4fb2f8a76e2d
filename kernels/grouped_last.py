"""Convolution of small groups with the channels last: nothing is copied, vectors lie along filters.

Pixels of the output that the same taps reach, at the same distances, form a *class*: the inside of an image
is one, each kind of border another, and each phase of a stride in backward-input has its own. Classes are
products of *runs* of cells along each axis. The pixels of a class go through a micro-kernel a tile at a time,
with the list of taps of the class, so that padding is never read nor multiplied.
"""

import numpy as np

from fastconv.kernels.group_tiles import COLUMNS, RUN, SOURCE, TARGET
from fastconv.kernels.jit import jit
from fastconv.kernels.pixel_tiles import (
    PIXEL_TAPS,
    SHIFT,
    TILE_PIXELS,
    WEIGHT,
    correlate_pixels,
    sum_pixels,
)
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


@jit
def count_triples(axis_taps, run, step):
    """How many triples the taps of a run along the last axis make: each tap ``step`` further."""
    first, count = run[FIRST_TAP], run[TAPS]
    for k in range(first + 1, first + count):
        if axis_taps[k, TAP_SHIFT] != axis_taps[k - 1, TAP_SHIFT] + step:
            return 0
    return count // 3


@jit
def list_taps(runs, axis_taps, kernel, x_steps, step, weight_step, multiple, spare_weight, taps, first):
    """The taps of a class, with rows for `correlate_pixels`; returns how many triples and taps.

    Parameters
    ----------
    runs : tuple of three int64 arrays (RUN_COLUMNS,)
        The class' run along each axis.
    axis_taps : tuple of three int64 arrays (taps, 2)
    kernel : tuple of three int
    x_steps : tuple of three int
        Elements from one cell of the source to the next along each axis.
    step : int
        Cells from one pixel of a run to the next.
    weight_step : int
        Elements from one tap's weights to the next one's.
    multiple : int
        Repeated up to a multiple of so many, with ``spare_weight`` for their weights.
    taps : int64 array (rows, 2)
        Written from the row ``first`` on, triples first.
    """
    inner = 3 * count_triples(axis_taps[2], runs[2], step)
    found = 0
    for part in range(2):
        from_k, to_k = (0, inner) if part == 0 else (inner, runs[2][TAPS])
        for i in range(runs[0][TAPS]):
            d = axis_taps[0][runs[0][FIRST_TAP] + i]
            for j in range(runs[1][TAPS]):
                h = axis_taps[1][runs[1][FIRST_TAP] + j]
                for k in range(from_k, to_k):
                    w = axis_taps[2][runs[2][FIRST_TAP] + k]
                    tap = (d[TAP] * kernel[1] + h[TAP]) * kernel[2] + w[TAP]
                    shift = d[TAP_SHIFT] * x_steps[0] + h[TAP_SHIFT] * x_steps[1] + w[TAP_SHIFT] * x_steps[2]
                    taps[first + found, SHIFT] = shift
                    taps[first + found, WEIGHT] = tap * weight_step
                    found += 1
    while found % multiple > 0:
        taps[first + found, SHIFT] = taps[first, SHIFT]
        taps[first + found, WEIGHT] = spare_weight
        found += 1
    return runs[0][TAPS] * runs[1][TAPS] * (inner // 3), found


@jit
def list_pixels(
    runs, axis, lines, images, x_steps, stride, out_steps, out_stride, length, few, multiple, table, first
):  # fmt: skip
    """The pixels of a class that lie in a range of lines along an axis; returns how many rows.

    Parameters
    ----------
    runs
        As in `list_taps`.
    axis : int
    lines : tuple of two int
        In cells of a phase.
    images : int
    x_steps, out_steps : tuple of four int
        Elements from one image, plane, line and pixel to the next, of the source and of the output.
    stride, out_stride : tuple of three int
        Cells of the source, and of the output, from one cell of a phase to the next.
    length : int
        A row is put for so many consecutive pixels of a line.
    few : bool
        Only what is left of the lines when they are cut into runs of `RUN`; else only whole rows.
    multiple : int
        The last row is repeated up to a multiple of so many.
    table : int64 array (rows, COLUMNS)
        Written from the row ``first`` on.
    """
    from_d, to_d = clipped(runs[0], axis == 0, lines)
    from_h, to_h = clipped(runs[1], axis == 1, lines)
    from_w, to_w = clipped(runs[2], axis == 2, lines)
    if few:
        from_w += max(0, to_w - from_w) // RUN * RUN
    found = 0
    for n in range(images):
        for d in range(from_d, to_d):
            out_d = n * out_steps[0] + (runs[0][FIRST] + d * out_stride[0]) * out_steps[1]
            x_d = n * x_steps[0] + d * stride[0] * x_steps[1]
            for h in range(from_h, to_h):
                out_h = out_d + (runs[1][FIRST] + h * out_stride[1]) * out_steps[2]
                x_h = x_d + h * stride[1] * x_steps[2]
                for w in range(from_w, to_w - length + 1, length):
                    table[first + found, SOURCE] = x_h + w * stride[2] * x_steps[3]
                    table[first + found, TARGET] = out_h + (runs[2][FIRST] + w * out_stride[2]) * out_steps[3]
                    found += 1
    while found % multiple > 0:
        table[first + found, SOURCE] = table[first + found - 1, SOURCE]
        table[first + found, TARGET] = table[first + found - 1, TARGET]
        found += 1
    return found


@jit
def clipped(run, here, lines):
    """From and up to which cell of a run, in the range of lines where that is along its axis."""
    if here:
        return max(run[BEGIN], lines[0]), min(run[END], lines[1])
    return run[BEGIN], run[END]


@jit
def list_classes(
    axis_runs, axis_taps, kernel, axis, lines, images, x_steps, stride, out_steps, out_stride, weight_step,
    tile_pixels, tile_taps, spare_weight, pixels, taps, classes,
):  # fmt: skip
    """All classes with a pixel in a range of lines; returns how many.

    The tables ``pixels``, in whole tiles, and ``taps``, in multiples of ``tile_taps``, are written; ``classes``,
    int64 (classes, 6), says which rows of them belong to each. Runs stand first where tiles have several
    pixels and the class has triples of taps.
    """
    found, row, tap = 0, 0, 0
    for d in range(len(axis_runs[0])):
        for h in range(len(axis_runs[1])):
            for w in range(len(axis_runs[2])):
                runs = (axis_runs[0][d], axis_runs[1][h], axis_runs[2][w])
                triples, count = list_taps(
                    runs, axis_taps, kernel, x_steps[1:4], stride[2], weight_step, tile_taps, spare_weight,
                    taps, tap,
                )  # fmt: skip
                long_rows, few = 0, tile_pixels > 1 and triples > 0
                if few:
                    long_rows = list_pixels(
                        runs, axis, lines, images, x_steps, stride, out_steps, out_stride, RUN, False,
                        tile_pixels // RUN, pixels, row,
                    )  # fmt: skip
                rows = long_rows + list_pixels(
                    runs, axis, lines, images, x_steps, stride, out_steps, out_stride, 1, few, tile_pixels,
                    pixels, row + long_rows,
                )  # fmt: skip
                if rows > 0:
                    classes[found, CLASS_ROW] = row
                    classes[found, CLASS_RUNS] = long_rows
                    classes[found, CLASS_ROWS] = rows
                    classes[found, CLASS_TAP] = tap
                    classes[found, CLASS_TRIPLES] = triples
                    classes[found, CLASS_TAPS] = count
                    found, row, tap = found + 1, row + rows, tap + count
    return found


@jit
def correlate_class(
    weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels, first_row, rows,
    bias, out, first_out, out_step, first_filter, count, group, run, masked,
):  # fmt: skip
    """`correlate_pixels` for groups of (channels, filters) that there is a tile for."""
    tiles = rows * run // TILE_PIXELS
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
        if run > 1 and not masked:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 2, 2, RUN, 0,
            )  # fmt: skip
        elif run > 1:
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
        if run > 1 and not masked:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 4, 4, RUN, 0,
            )  # fmt: skip
        elif run > 1:
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
        if run > 1 and not masked:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 8, 8, RUN, 0,
            )  # fmt: skip
        elif run > 1:
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
        if run > 1 and not masked:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 1, 2, RUN, 0,
            )  # fmt: skip
        elif run > 1:
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
        if run > 1 and not masked:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 2, 1, RUN, 0,
            )  # fmt: skip
        elif run > 1:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 2, 1, RUN, 1,
            )  # fmt: skip
        else:
            correlate_pixels(
                weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
                first_row, tiles, bias, out, first_out, out_step, first_filter, count, 2, 1, 1, 1,
            )  # fmt: skip


@jit
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
    x, first_x, x_steps, stride, axis_runs, axis_taps, kernel, weights, bias, out, out_steps, out_stride, axis,
    group, images, lines, block,
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
    whole = filters // lanes * lanes
    x_step, out_step = stride[2] * x_steps[3], out_stride[2] * out_steps[3]
    count_classes = len(axis_runs[0]) * len(axis_runs[1]) * len(axis_runs[2])
    pixels = np.empty((block[2] + 2 * count_classes * TILE_PIXELS, COLUMNS), np.int64)
    taps = np.empty(((count_classes + 1) * kernel[0] * kernel[1] * kernel[2], 2), np.int64)
    classes = np.empty((count_classes, 6), np.int64)
    for line in range(lines[0], lines[1], block[1]):
        listed, found = 0, 0
        for image in range(images[0], images[1], block[0]):
            some = min(block[0], images[1] - image)
            if listed != some:
                listed = some
                found = list_classes(
                    axis_runs, axis_taps, kernel, axis, (line, min(line + block[1], lines[1])), some, x_steps,
                    stride, out_steps, out_stride, weight_step, TILE_PIXELS, 1, 0, pixels, taps, classes,
                )  # fmt: skip
            first, first_out = first_x + image * x_steps[0], image * out_steps[0]
            for c in range(found):
                row, runs, rows = classes[c, CLASS_ROW], classes[c, CLASS_RUNS], classes[c, CLASS_ROWS]
                tap, triples, tap_count = classes[c, CLASS_TAP], classes[c, CLASS_TRIPLES], classes[c, CLASS_TAPS]
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


@jit
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
    count_classes = len(axis_runs[0]) * len(axis_runs[1]) * len(axis_runs[2])
    pixels = np.empty((block[2], COLUMNS), np.int64)
    taps = np.empty(((count_classes + 1) * (kernel[0] * kernel[1] * kernel[2] + tile), 2), np.int64)
    classes = np.empty((count_classes, 6), np.int64)
    for line in range(lines[0], lines[1], block[1]):
        listed, found = 0, 0
        for image in range(images[0], images[1], block[0]):
            some = min(block[0], images[1] - image)
            if listed != some:
                listed = some
                found = list_classes(
                    axis_runs, axis_taps, kernel, axis, (line, min(line + block[1], lines[1])), some, x_steps,
                    stride, dy_steps, (1, 1, 1), weight_step, 1, tile, len(sums) - weight_step, pixels, taps,
                    classes,
                )  # fmt: skip
            first, gradient = first_x + image * x_steps[0], first_dy + image * dy_steps[0]
            for c in range(found):
                stop = classes[c, CLASS_ROW] + classes[c, CLASS_ROWS]
                for row in range(classes[c, CLASS_ROW], stop, chunk):
                    rows = min(chunk, stop - row)
                    for t in range(0, classes[c, CLASS_TAPS], tile):
                        tap = classes[c, CLASS_TAP] + t
                        sum_class(
                            dy, gradient, x, first, taps, tap, pixels, row, rows, sums, filters, filters, group
                        )
