"""Pooling a vector of windows at a time: the fast twins of the loops in `pooling`.

They take flat, contiguous arrays of float32 or float64 and do what `pooling`'s kernels of the same names do.
Channels first, the lanes of a vector are neighbouring windows of a line, which along the width lie at one
distance (``line`` holds start, stride, taps and dilation); channels last, they are channels. Planes that are
small beside a vector are averaged by a list of pairs, a cell and a window each.

Maxima and indices of 3x3 windows at stride 2, float32 (8, 64, 56, 56), one core of an AVX-512 Xeon: 0.9 ms
(the loops 9.6); their gradient 0.42 ms (the loops 2.0), of which reading and writing memory alone take 0.4.
"""

import numpy as np
from numba import literally

from fastconv.kernels.jit import by_value, inner, jit
from fastconv.kernels.pooling_lanes import (
    CHANNELS,
    GATHER,
    PAIRS,
    UNIT,
    max_lanes,
    mean_lanes,
    pair_lanes,
    route_lanes,
    sum_cells,
    tie_lanes,
)
from fastconv.kernels.simd import prefetch
from fastconv.kernels.vectors import VECTOR_BYTES

ONES = np.ones(VECTOR_BYTES // 4)  # factors of a vector that has none
# Planes of so many bytes are zeroed at a time, and stay in the nearest cache until they are added to.
ZEROED_BYTES = 2**14
# Maxima that are taken before gradients go to their ties: so many of neighbouring lines.
TIED_WINDOWS = 2**11


@inner
def taps_between(start, stop, step):
    """How many cells ``start, start + step, ... < stop`` there are."""
    if step == 1:
        return max(0, stop - start)
    return max(0, (stop - start + step - 1) // step)


@inner
def whole_vector(w, line, lanes, width):
    """Whether a vector of windows along the width, the first from cell ``w`` on, needs no mask to read."""
    _, stride, taps, dilation = line
    return stride < GATHER and w >= 0 and w + (taps - 1) * dilation + lanes * stride <= width


@jit
def max_pool_lines(x, out, indices, first_line, stop_line, rows, extents, steps, line):
    """`pooling.max_pool` of contiguous planes (N, C, D, H, W).

    Parameters
    ----------
    x, out : 1-D float array
    indices : 1-D int64 array, as long as ``out`` or empty
    first_line, stop_line : int
        Output lines, counted as ((n*C + c)*OD + od)*OH + oh.
    rows : int64 array (OD*OH, 3)
        For every line of an output plane: the first cell under its windows but for the width, and how many
        taps they have along depth and height.
    extents : tuple of three int
        Cells of a plane of ``x``, W and OW.
    steps : tuple of two int
        Cells between taps along depth and height.
    line : tuple of four int
        Along the width: where the first window starts, stride, taps and dilation.
    """
    if line[1] == 1:
        max_spread_lines(x, out, indices, first_line, stop_line, rows, extents, steps, line, UNIT)
    elif line[1] == 2:
        max_spread_lines(x, out, indices, first_line, stop_line, rows, extents, steps, line, PAIRS)
    else:
        max_spread_lines(x, out, indices, first_line, stop_line, rows, extents, steps, line, GATHER)


@by_value
def max_spread_lines(x, out, indices, first_line, stop_line, rows, extents, steps, line, spread):
    """`max_pool_lines` for lanes of one spread, a literal: 220 us instead of 256 where lines are short."""
    literally(spread)
    lanes = VECTOR_BYTES // x.itemsize
    cells, width, windows = extents
    start, stride, taps, dilation = line
    plane, r = divmod(first_line, len(rows))
    for i in range(first_line, stop_line):
        origin, cell, some = plane * cells, rows[r, 0], rows[r, 1] * rows[r, 2] > 0
        for ow in range(0, windows, lanes):
            w = start + ow * stride
            whole = some and windows - ow >= lanes and whole_vector(w, line, lanes, width)
            max_lanes(
                x, origin, 1, cell + w, (rows[r, 1], rows[r, 2], taps), (steps[0], steps[1], dilation),
                w, dilation, width, stride, out, indices, i * windows + ow, windows - ow,
                spread, 0 if whole else 1,
            )  # fmt: skip
        r += 1
        if r == len(rows):
            r = 0
            plane += 1


@jit
def max_pool_pixels(
    x, out, indices, first_pixel, stop_pixel, channels, extent, output, depth_windows, height_windows,
    width_windows, steps,
):  # fmt: skip
    """`pooling.max_pool` of contiguous images (N, D, H, W, C).

    Parameters
    ----------
    x, out, indices
        As in `max_pool_lines`.
    first_pixel, stop_pixel : int
        Output pixels, counted as ((n*OD + od)*OH + oh)*OW + ow.
    channels : int
    extent, output : tuple of three int
        (D, H, W) and (OD, OH, OW).
    depth_windows, height_windows, width_windows : int64 array (output extent, 2)
    steps : tuple of three int
        Dilation along each axis.
    """
    lanes = VECTOR_BYTES // x.itemsize
    cell_steps = (steps[0] * extent[1] * extent[2], steps[1] * extent[2], steps[2])
    for pixel in range(first_pixel, stop_pixel):
        lines, ow = divmod(pixel, output[2])
        planes, oh = divmod(lines, output[1])
        n, od = divmod(planes, output[0])
        d, h, w = depth_windows[od, 0], height_windows[oh, 0], width_windows[ow, 0]
        taps = (
            taps_between(d, depth_windows[od, 1], steps[0]),
            taps_between(h, height_windows[oh, 1], steps[1]),
            taps_between(w, width_windows[ow, 1], steps[2]),
        )
        cell = (d * extent[1] + h) * extent[2] + w
        image = n * extent[0] * extent[1] * extent[2] * channels
        for c in range(0, channels, lanes):
            left = channels - c
            whole = left >= lanes and taps[0] * taps[1] * taps[2] > 0
            max_lanes(
                x, image + c, channels, cell, taps, cell_steps, c, 0, channels, 0,
                out, indices, pixel * channels + c, left, CHANNELS, 0 if whole else 1,
            )  # fmt: skip


@inner
def route_plane(grad_output, indices, grad_input, plane, windows, extents):
    """Write the gradient of one plane, each cell once, where each window's lies among its own 2x2 cells.

    Returns
    -------
    bool
        Whether they all do; if not, some cells are unset.
    """
    line, height, width = extents
    lanes, origin = VECTOR_BYTES // grad_output.itemsize, plane * height * width
    for h in range(windows // line):
        place, cell = plane * windows + h * line, 2 * h * width
        for w in range(0, line, lanes):
            count, first = line - w, cell + 2 * w
            if not route_lanes(
                grad_output, indices, place + w, first, width, grad_input, origin + first, count,
                0 if count >= lanes else 1,
            ):  # fmt: skip
                return False
        if 2 * line < width:
            grad_input[origin + cell + width - 1] = 0
            grad_input[origin + cell + 2 * width - 1] = 0
    for cell in range(origin + windows // line * 2 * width, origin + height * width):
        grad_input[cell] = 0
    return True


@jit
def max_pool_backward_planes(
    grad_output, indices, grad_input, first_plane, stop_plane, windows, cells, extents
):  # fmt: skip
    """`pooling.max_pool_backward` of contiguous planes, into an array that need not be zero.

    Windows of 2x2 cells side by side write each cell once, as far as there are such planes: beside sums 1.4
    times as fast for (8, 64, 56, 56), 1.5 for (8, 64, 112, 112), 1.1 with lines of 12 windows and 0.93 of 7
    (AMD EPYC 9004, in C).

    Other planes are zeroed just before they are added to, some at a time, so that they are in a near cache:
    all zeros first would be another trip to memory.

    Parameters
    ----------
    grad_output : 1-D float array
    indices : 1-D int64 array
    grad_input : 1-D float array
        Written.
    first_plane, stop_plane : int
    windows, cells : int
        Of a plane of ``grad_output`` and of ``grad_input``.
    extents : tuple of three int
        Windows of a line, and height and width of ``grad_input``, where windows may be such; else zeros.

    Returns
    -------
    int
        How many indices were outside the plane (nothing is written for those).
    """
    if extents[0] > 0:
        while first_plane < stop_plane and route_plane(
            grad_output, indices, grad_input, first_plane, windows, extents
        ):
            first_plane += 1
    outside = 0
    together = max(1, ZEROED_BYTES // (cells * grad_input.itemsize))
    ahead = 4 * max(1, cells // windows)
    inside = np.uint64(cells)  # a negative index is a large one without its sign
    for first in range(first_plane, stop_plane, together):
        stop = min(stop_plane, first + together)
        grad_input[first * cells : stop * cells] = 0
        following = stop * cells
        for plane in range(first, stop):
            origin, i, last = plane * cells, plane * windows, (plane + 1) * windows
            while i + 4 <= last:
                j = max(0, i)
                a, b, c, d = indices[j], indices[j + 1], indices[j + 2], indices[j + 3]
                # One branch for four is a tenth faster.
                if not (
                    (np.uint64(a) < inside)
                    & (np.uint64(b) < inside)
                    & (np.uint64(c) < inside)
                    & (np.uint64(d) < inside)
                ):
                    break
                # What is zeroed next: 390 us against 467 for (8, 64, 56, 56) under 3x3 windows, AVX-512 Xeon.
                prefetch(grad_input, min(following, len(grad_input) - 1), 1)
                following += ahead
                grad_input[max(0, origin + a)] += grad_output[j]
                grad_input[max(0, origin + b)] += grad_output[j + 1]
                grad_input[max(0, origin + c)] += grad_output[j + 2]
                grad_input[max(0, origin + d)] += grad_output[j + 3]
                i += 4
            for k in range(i, last):
                index = indices[max(0, k)]
                if np.uint64(index) < inside:
                    grad_input[max(0, origin + index)] += grad_output[max(0, k)]
                elif index != -1:
                    outside += 1
    return outside


@jit
def max_pool_backward_pixels(
    grad_output, indices, grad_input, first_block, stop_block, block, channels, windows, cells
):  # fmt: skip
    """`pooling.max_pool_backward` of contiguous images (N, D, H, W, C), into an array that need not be zero.

    Parameters
    ----------
    grad_output, indices, grad_input
        As in `max_pool_backward_planes`.
    first_block, stop_block : int
        Blocks of ``block`` channels of an image, counted as n*blocks + i.
    block, channels : int
    windows, cells : int
        Pixels of an image of ``grad_output`` and of ``grad_input``.

    Returns
    -------
    int
        How many indices were outside the plane (nothing is written for those).
    """
    outside = 0
    blocks = (channels + block - 1) // block
    for i in range(first_block, stop_block):
        n, first = divmod(i, blocks)
        first *= block
        stop = min(channels, first + block)
        image = grad_input[n * cells * channels : (n + 1) * cells * channels]
        for cell in range(cells):
            image[cell * channels + first : cell * channels + stop] = 0
        for window in range(n * windows, (n + 1) * windows):
            origin = window * channels
            for c in range(first, stop):
                index = indices[max(0, origin + c)]
                if np.uint64(index) < np.uint64(cells):  # a negative index is a large one without its sign
                    image[max(0, index * channels + c)] += grad_output[max(0, origin + c)]
                elif index != -1:
                    outside += 1
    return outside


@jit
def max_pool_backward_ties_planes(
    grad_output, x, grad_input, first_plane, stop_plane, rows, extents, steps, line
):  # fmt: skip
    """`pooling.max_pool_backward_ties` of contiguous planes; the order of a cell's sum is another.

    Parameters
    ----------
    grad_output, x, grad_input : 1-D float array, all of one dtype
        ``grad_input`` is written.
    first_plane, stop_plane : int
    rows, extents, steps, line
        As in `max_pool_lines`.
    """
    if line[1] == 1:
        tie_spread_planes(
            grad_output, x, grad_input, first_plane, stop_plane, rows, extents, steps, line, UNIT
        )
    elif line[1] == 2:
        tie_spread_planes(
            grad_output, x, grad_input, first_plane, stop_plane, rows, extents, steps, line, PAIRS
        )
    else:
        tie_spread_planes(
            grad_output, x, grad_input, first_plane, stop_plane, rows, extents, steps, line, GATHER
        )


@by_value
def tie_spread_planes(
    grad_output, x, grad_input, first_plane, stop_plane, rows, extents, steps, line, spread
):  # fmt: skip
    """`max_pool_backward_ties_planes` for lanes of one spread, a literal.

    Of some windows at a time all maxima are taken first, and then tap after tap is compared with them: in
    between lie so many windows that no sum waits for the one before.
    """
    literally(spread)
    lanes = VECTOR_BYTES // x.itemsize
    cells, width, windows = extents
    start, stride, taps, dilation = line
    piece = min(TIED_WINDOWS, (windows + lanes - 1) // lanes * lanes)  # of a line
    group = max(1, TIED_WINDOWS // piece)  # lines
    maxima, no_indices = np.empty(group * piece, x.dtype), np.empty(0, np.int64)
    together = 2 if spread == PAIRS and dilation == 1 else 1  # neighbouring taps of a line
    rounds, one_tap = (taps + together - 1) // together, (0, stride, 1, 1)
    for plane in range(first_plane, stop_plane):
        origin, place = plane * cells, plane * len(rows) * windows
        grad_input[origin : origin + cells] = 0
        for first_row in range(0, len(rows), group):
            stop_row = min(len(rows), first_row + group)
            for first in range(0, windows, piece):
                stop = min(windows, first + piece)
                most_d = most_h = 0
                for r in range(first_row, stop_row):
                    most_d, most_h = max(most_d, rows[r, 1]), max(most_h, rows[r, 2])
                    held, some = (r - first_row) * piece - first, rows[r, 1] * rows[r, 2] > 0
                    for ow in range(first, stop, lanes):
                        w = start + ow * stride
                        whole = some and stop - ow >= lanes and whole_vector(w, line, lanes, width)
                        max_lanes(
                            x, origin, 1, rows[r, 0] + w, (rows[r, 1], rows[r, 2], taps),
                            (steps[0], steps[1], dilation), w, dilation, width, stride,
                            maxima, no_indices, held + ow, stop - ow, spread, 0 if whole else 1,
                        )  # fmt: skip
                for tap in range(most_d * most_h * rounds):
                    dh, t = divmod(tap, rounds)
                    d, h = divmod(dh, most_h)
                    t *= together
                    both = 1 if together == 2 and t + 1 < taps else 0
                    for r in range(first_row, stop_row):
                        if d >= rows[r, 1] or h >= rows[r, 2]:
                            continue
                        cell = origin + rows[r, 0] + d * steps[0] + h * steps[1]
                        held = (r - first_row) * piece - first
                        for ow in range(first, stop, lanes):
                            w = start + ow * stride + t * dilation
                            whole = stop - ow >= lanes and whole_vector(w, one_tap, lanes, width)
                            tie_lanes(
                                x, grad_input, cell + w, w, width, stride, maxima, held + ow, grad_output,
                                place + r * windows + ow, stop - ow, both, spread, 0 if whole else 1,
                            )  # fmt: skip


@jit
def max_pool_backward_ties_pixels(
    grad_output, x, grad_input, first_block, stop_block, block, channels, extent, output, depth_windows,
    height_windows, width_windows, steps,
):  # fmt: skip
    """`pooling.max_pool_backward_ties` of contiguous images (N, D, H, W, C).

    Parameters
    ----------
    grad_output, x, grad_input
        As in `max_pool_backward_ties_planes`.
    first_block, stop_block : int
        Blocks of ``block`` channels of an image, counted as n*blocks + i.
    block : int
    channels, extent, output, depth_windows, height_windows, width_windows, steps
        As in `max_pool_pixels`.
    """
    lanes = VECTOR_BYTES // x.itemsize
    maxima, no_indices = np.empty(lanes, x.dtype), np.empty(0, np.int64)
    cells = extent[0] * extent[1] * extent[2]
    windows = output[0] * output[1] * output[2]
    cell_steps = (steps[0] * extent[1] * extent[2], steps[1] * extent[2], steps[2])
    blocks = (channels + block - 1) // block
    for i in range(first_block, stop_block):
        n, first = divmod(i, blocks)
        first *= block
        stop = min(channels, first + block)
        for cell in range(n * cells, (n + 1) * cells):
            grad_input[cell * channels + first : cell * channels + stop] = 0
        for window in range(windows):
            lines, ow = divmod(window, output[2])
            od, oh = divmod(lines, output[1])
            d, h, w = depth_windows[od, 0], height_windows[oh, 0], width_windows[ow, 0]
            taps = (
                taps_between(d, depth_windows[od, 1], steps[0]),
                taps_between(h, height_windows[oh, 1], steps[1]),
                taps_between(w, width_windows[ow, 1], steps[2]),
            )
            cell = (d * extent[1] + h) * extent[2] + w
            place, image = (n * windows + window) * channels, n * cells * channels
            for c in range(first, stop, lanes):
                left = stop - c
                whole = left >= lanes and taps[0] * taps[1] * taps[2] > 0
                max_lanes(
                    x, image + c, channels, cell, taps, cell_steps, c, 0, stop, 0,
                    maxima, no_indices, 0, left, CHANNELS, 0 if whole else 1,
                )  # fmt: skip
                for d in range(taps[0]):
                    for h in range(taps[1]):
                        for w in range(taps[2]):
                            tap = cell + d * cell_steps[0] + h * cell_steps[1] + w * cell_steps[2]
                            tie_lanes(
                                x, grad_input, image + tap * channels + c, c, stop, 0, maxima, 0,
                                grad_output, place + c, left, 0, CHANNELS, 0 if whole else 1,
                            )  # fmt: skip


@jit
def avg_pool_lines(x, out, first_line, stop_line, rows, row_factors, factors, extents, steps, line):
    """`pooling.avg_pool` of contiguous planes (N, C, D, H, W), by factors instead of counts.

    Parameters
    ----------
    x, out, first_line, stop_line, rows, extents, steps, line
        As in `max_pool_lines`.
    row_factors : float64 array (OD*OH,)
    factors : float64 array (OW,)
        The sum of a window is multiplied by its row's factor and its own.
    """
    if line[1] == 1:
        avg_spread_lines(
            x, out, first_line, stop_line, rows, row_factors, factors, extents, steps, line, UNIT
        )
    elif line[1] == 2:
        avg_spread_lines(
            x, out, first_line, stop_line, rows, row_factors, factors, extents, steps, line, PAIRS
        )
    else:
        avg_spread_lines(
            x, out, first_line, stop_line, rows, row_factors, factors, extents, steps, line, GATHER
        )


@by_value
def avg_spread_lines(x, out, first_line, stop_line, rows, row_factors, factors, extents, steps, line, spread):
    """`avg_pool_lines` for lanes of one spread, a literal."""
    literally(spread)
    lanes = VECTOR_BYTES // x.itemsize
    cells, width, windows = extents
    start, stride, taps, dilation = line
    plane, r = divmod(first_line, len(rows))
    for i in range(first_line, stop_line):
        origin, cell = plane * cells, rows[r, 0]
        for ow in range(0, windows, lanes):
            w = start + ow * stride
            whole = windows - ow >= lanes and whole_vector(w, line, lanes, width)
            mean_lanes(
                x, origin, 1, cell + w, (rows[r, 1], rows[r, 2], taps), (steps[0], steps[1], dilation),
                w, dilation, width, stride, row_factors[r], factors, ow, out, i * windows + ow, windows - ow,
                spread, 0 if whole else 1,
            )  # fmt: skip
        r += 1
        if r == len(rows):
            r = 0
            plane += 1


@jit
def avg_pool_pixels(
    x, out, first_pixel, stop_pixel, channels, extent, output, depth_windows, height_windows, width_windows,
    depth_factors, height_factors, width_factors,
):  # fmt: skip
    """`pooling.avg_pool` of contiguous images (N, D, H, W, C), by factors instead of counts.

    Parameters
    ----------
    x, out, first_pixel, stop_pixel, channels, extent, output, depth_windows, height_windows, width_windows
        As in `max_pool_pixels`.
    depth_factors, height_factors, width_factors
        As in `avg_pool_lines`.
    """
    lanes = VECTOR_BYTES // x.itemsize
    cell_steps = (extent[1] * extent[2], extent[2], 1)
    for pixel in range(first_pixel, stop_pixel):
        lines, ow = divmod(pixel, output[2])
        planes, oh = divmod(lines, output[1])
        n, od = divmod(planes, output[0])
        d, h, w = depth_windows[od, 0], height_windows[oh, 0], width_windows[ow, 0]
        taps = (
            max(0, depth_windows[od, 1] - d),
            max(0, height_windows[oh, 1] - h),
            max(0, width_windows[ow, 1] - w),
        )
        cell = (d * extent[1] + h) * extent[2] + w
        image = n * extent[0] * extent[1] * extent[2] * channels
        factor = depth_factors[od] * height_factors[oh] * width_factors[ow]
        for c in range(0, channels, lanes):
            left = channels - c
            mean_lanes(
                x, image + c, channels, cell, taps, cell_steps, c, 0, channels, 0,
                factor, width_factors, 0, out, pixel * channels + c, left, CHANNELS,
                0 if left >= lanes else 1,
            )  # fmt: skip


@jit
def avg_pool_backward_pixels(
    grad_output, grad_input, first_pixel, stop_pixel, channels, extent, output,
    depth_covers, height_covers, width_covers, share,
):  # fmt: skip
    """`pooling.avg_pool_backward` of contiguous images (N, D, H, W, C), where every count is ``1 / share``.

    The windows that cover a cell of ``grad_input`` are a window of ``grad_output``: see `avg_pool_pixels`.

    Parameters
    ----------
    grad_output, grad_input : 1-D float array
    first_pixel, stop_pixel : int
        Pixels of ``grad_input``, counted as ((n*D + d)*H + h)*W + w.
    channels : int
    extent, output : tuple of three int
        (D, H, W) of ``grad_input`` and (OD, OH, OW) of ``grad_output``.
    depth_covers, height_covers, width_covers : int64 array (extent, 2)
    share : float
        Factor of every gradient.
    """
    avg_pool_pixels(
        grad_output, grad_input, first_pixel, stop_pixel, channels, output, extent,
        depth_covers, height_covers, width_covers,
        np.full(extent[0], share), np.ones(extent[1]), np.ones(extent[2]),
    )  # fmt: skip


@jit
def avg_pool_backward_lines(
    grad_output, grad_input, first_line, stop_line, rows, extents, steps, line, share
):  # fmt: skip
    """`pooling.avg_pool_backward` of contiguous planes, where every count is ``1 / share``.

    The windows that cover a cell are a window of ``grad_output``. Cells a stride apart lie under neighbouring
    windows: the cells of each remainder of the stride, a *phase*, are sums at a stride of 1.

    Parameters
    ----------
    grad_output, grad_input : 1-D float array
    first_line, stop_line : int
        Lines of ``grad_input``, counted as ((n*C + c)*D + d)*H + h.
    rows : int64 array (D*H, 4)
        For every line of a plane: the first of ``grad_output``'s cells that cover it but for the width, how
        many do along depth and height, and how many lines from this one on have the same.
    extents : tuple of three int
        Cells of a plane of ``grad_output``, OW and W.
    steps : tuple of two int
        Cells of ``grad_output`` between steps along depth and height.
    line
        As in `max_pool_lines`; the dilation is 1.
    share : float
        Factor of every gradient.
    """
    lanes = VECTOR_BYTES // grad_input.itemsize
    cells, windows, width = extents
    stride = line[1]
    scratch = np.empty(lanes, grad_input.dtype)
    plane, r = divmod(first_line, len(rows))
    i = first_line
    while i < stop_line:
        lines = min(rows[r, 3], stop_line - i)
        for j in range(0, (width + stride - 1) // stride, lanes):
            origin, place = plane * cells + rows[r, 0] + j, i * width + j * stride
            if stride == 2:
                spread_pairs(
                    grad_output, origin, (rows[r, 1], rows[r, 2]), steps, j, windows, line, share,
                    grad_input, place, width - 2 * j, lines, width,
                )  # fmt: skip
                continue
            for a in range(min(stride, width - j * stride)):
                first, taps = phase(a, line)
                mean_lanes(
                    grad_output, origin + first, 1, 0, (rows[r, 1], rows[r, 2], taps),
                    (steps[0], steps[1], 1), j + first, 1, windows, 1, share, ONES, 0, scratch, 0, lanes,
                    UNIT, 1,
                )  # fmt: skip
                stored = min(lanes, (width - j * stride - a + stride - 1) // stride)
                for start in range(place + a, place + a + lines * width, width):
                    for k in range(stored):
                        grad_input[max(0, start + k * stride)] = scratch[k]
        i += lines
        r += lines
        if r == len(rows):
            r = 0
            plane += 1


@inner
def phase(remainder, line):
    """The first window over cell ``remainder``, in which others follow a stride apart, and how many are."""
    start, stride, taps, _ = line
    last, tap = divmod(remainder - start, stride)
    count = max(0, taps - tap + stride - 1) // stride
    return last - count + 1, count


@inner
def spread_pairs(
    grad_output, origin, taps, steps, j, windows, line, share, grad_input, place, left, lines, line_stride
):  # fmt: skip
    """`pair_lanes` for the cells 2*j, 2*j + 1 ... of a line."""
    even, even_taps = phase(0, line)
    odd, odd_taps = phase(1, line)
    lanes = VECTOR_BYTES // grad_input.itemsize
    whole = (
        left >= 2 * lanes
        and j + min(even, odd) >= 0
        and j + max(even + even_taps, odd + odd_taps) - 1 + lanes <= windows
    )
    pair_lanes(
        grad_output, origin, taps, steps, j, (even, odd), (even_taps, odd_taps), windows, share,
        grad_input, place, left, lines, line_stride, 0 if whole else 1,
    )  # fmt: skip


@jit
def avg_pool_pairs(x, out, first_plane, stop_plane, sources, targets, factors, cells):
    """`pooling.avg_pool` or `pooling.avg_pool_backward` of contiguous planes, by a list of pairs.

    For planes whose lines are much shorter than a vector, and for windows that a line does not describe.

    Parameters
    ----------
    x : 1-D float array
        Planes of ``cells``.
    out : 1-D float array
        Written: planes as long as ``factors``.
    first_plane, stop_plane : int
    sources, targets : int32 array
        In this order, cell ``sources[k]`` of a plane is added to cell ``targets[k]`` of the output plane, in
        float64.
    factors : float64 array
        What the sums are multiplied by.
    cells : int
    """
    windows = len(factors)
    sums = np.empty(windows)
    for plane in range(first_plane, stop_plane):
        sums[:] = 0
        origin = plane * cells
        for k in range(len(sources)):
            sums[max(0, targets[k])] += x[max(0, origin + sources[k])]
        means = out[plane * windows : (plane + 1) * windows]  # a slice, or LLVM does not vectorise
        for i in range(windows):
            means[i] = sums[i] * factors[i]


@jit
def mean_planes(x, out, first_plane, stop_plane, cells, factor):
    """The sum of each plane's ``cells``, in float64, times ``factor``.

    Parameters
    ----------
    x : 1-D float array
        Contiguous planes.
    out : 1-D float array
        Written, one number a plane.
    first_plane, stop_plane, cells : int
    factor : float
    """
    for plane in range(first_plane, stop_plane):
        out[plane] = sum_cells(x, plane * cells, cells) * factor


@jit
def fill_planes(values, out, first_plane, stop_plane, cells, factor):
    """Every cell of a plane becomes the plane's value times ``factor``: the gradient of `mean_planes`."""
    for plane in range(first_plane, stop_plane):
        out[plane * cells : (plane + 1) * cells] = values[plane] * factor
