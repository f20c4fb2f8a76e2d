"""Convolution over columns that do not exist: an offset table reads them straight from the image.

The column matrix's row (c, t, r, s) is the channel's plane shifted by a constant. On a *grid*, a padded copy
of some lines of an image, pixels of the output are counted along the grid's own lines, and the row q of the
columns is the grid from ``offsets[q]`` on. The cells at the end of each grid line belong to no output; they
are computed and left out.

A stride splits the grid into phases, one for each remainder of the position, so that every tap reads one
phase cell by cell.
"""

import numpy as np

from fastconv.kernels.jit import inner, jit
from fastconv.kernels.vectors import (
    FILTERS,
    SUM,
    SUM_FILTERS,
    SUM_TAPS,
    VECTOR_BYTES,
    VECTORS,
    multiply_tile,
    sum_tile,
)

# Narrower tiles for what is left of the filters of a group.
HALF, QUARTER = max(1, FILTERS // 2), max(1, FILTERS // 4)


@jit
def pack_weights(weights, steps, filters, channels, taps, packed):
    """Weights in the order in which a micro-kernel streams them, with zeros in rows that are not there.

    Parameters
    ----------
    weights : 1-D float array
        The memory of weights (groups, filters, channels, taps of the kernel).
    steps : tuple of three int
        Elements from one group, filter and channel to the next; taps lie one behind the other.
    filters, channels : int
        Of a group.
    taps : int64 array
        Which taps of the kernel, in which order.
    packed : float array (groups, blocks of `FILTERS` filters, channels * len(taps), FILTERS), C-contiguous
        Written.
    """
    for g in range(packed.shape[0]):
        for block in range(packed.shape[1]):
            rows = packed[g, block]
            for m in range(FILTERS):
                k = block * FILTERS + m
                if k >= filters:
                    for q in range(rows.shape[0]):
                        rows[q, m] = 0
                    continue
                for c in range(channels):
                    begin = g * steps[0] + k * steps[1] + c * steps[2]
                    for t in range(len(taps)):
                        rows[c * len(taps) + t, m] = weights[max(0, begin + taps[t])]


@inner
def fill_grid(x, image, first_channel, corner, stride, phases, grid):
    """Copy a padded part of an image, split into the phases of the stride that some tap reads.

    ``grid[c, n, i, j, k] = x[image, first_channel + c, corner + (i, j, k)*stride + phases[n]]``, zero outside
    the image.

    Parameters
    ----------
    x : float array (N, C, D, H, W)
    image, first_channel : int
    corner : tuple of three int
        Where the grid begins in the image; negative in the padding.
    stride : tuple of three int
    phases : int64 array (phases, 3)
    grid : float array (channels, phases, depth, height, width)
        Written.
    """
    depth, height, width = x.shape[2:]
    lines, columns = grid.shape[3:]
    for c in range(grid.shape[0]):
        plane = x[image, first_channel + c]
        for n in range(grid.shape[1]):
            phase = grid[c, n]
            first_w = corner[2] + phases[n, 2]
            # The columns of the grid that lie in the image: left <= k < right.
            left = min(columns, max(0, -(first_w // stride[2])))
            right = max(left, min(columns, (width - 1 - first_w) // stride[2] + 1))
            w = max(0, first_w + left * stride[2])
            for i in range(grid.shape[2]):
                d = corner[0] + i * stride[0] + phases[n, 0]
                for j in range(lines):
                    h = corner[1] + j * stride[1] + phases[n, 1]
                    if d < 0 or d >= depth or h < 0 or h >= height:
                        for k in range(columns):
                            phase[i, j, k] = 0
                        continue
                    for k in range(left):
                        phase[i, j, k] = 0
                    if stride[2] == 1:
                        for k in range(right - left):
                            phase[i, j, left + k] = plane[d, h, w + k]
                    else:
                        for k in range(right - left):
                            phase[i, j, left + k] = plane[d, h, w + k * stride[2]]
                    for k in range(right, columns):
                        phase[i, j, k] = 0


@inner
def compute_tile(weights, first_weight, x, first_cell, offsets, first_tap, taps, left, filters, tile):
    """The widest tile that is not wider than ``left`` pixels and ``filters`` filters; returns its pixels."""
    vector = VECTOR_BYTES // x.itemsize
    if left >= VECTORS * vector:
        if filters > HALF:
            multiply_tile(
                weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
                FILTERS, VECTORS, 0,
            )  # fmt: skip
        elif filters > QUARTER:
            multiply_tile(
                weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
                HALF, VECTORS, 0,
            )  # fmt: skip
        elif filters > 1:
            multiply_tile(
                weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
                QUARTER, VECTORS, 0,
            )  # fmt: skip
        else:
            multiply_tile(
                weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
                1, VECTORS, 0,
            )  # fmt: skip
        return VECTORS * vector
    if left > 2 * vector:
        if filters > HALF:
            multiply_tile(
                weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
                FILTERS, 3, 1,
            )  # fmt: skip
        elif filters > QUARTER:
            multiply_tile(
                weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
                HALF, 3, 1,
            )  # fmt: skip
        elif filters > 1:
            multiply_tile(
                weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
                QUARTER, 3, 1,
            )  # fmt: skip
        else:
            multiply_tile(
                weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
                1, 3, 1,
            )  # fmt: skip
        return 3 * vector
    if left > vector:
        if filters > HALF:
            multiply_tile(
                weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
                FILTERS, 2, 1,
            )  # fmt: skip
        elif filters > QUARTER:
            multiply_tile(
                weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
                HALF, 2, 1,
            )  # fmt: skip
        elif filters > 1:
            multiply_tile(
                weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
                QUARTER, 2, 1,
            )  # fmt: skip
        else:
            multiply_tile(
                weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
                1, 2, 1,
            )  # fmt: skip
        return 2 * vector
    if filters > HALF:
        multiply_tile(
            weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
            FILTERS, 1, 1,
        )  # fmt: skip
    elif filters > QUARTER:
        multiply_tile(
            weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
            HALF, 1, 1,
        )  # fmt: skip
    elif filters > 1:
        multiply_tile(
            weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
            QUARTER, 1, 1,
        )  # fmt: skip
    else:
        multiply_tile(
            weights, first_weight, x, first_cell, offsets, first_tap, taps, left, tile,
            1, 1, 1,
        )  # fmt: skip
    return vector


@inner
def store_tile(
    tile, width, first, count, lines, columns, bias, out, image, first_filter, filters, extent, corner
):
    """Copy a tile's pixels that belong to the output, ``count`` of the grid from ``first`` on, to ``out``."""
    line, w = divmod(first, columns)
    d, h = divmod(line, lines)
    done = 0
    while done < count:
        run = min(columns - w, count - done)
        inside = min(run, extent[2] - w)
        if h < extent[1] and inside > 0:
            od, oh, ow = corner[0] + d, corner[1] + h, max(0, corner[2] + w)
            for m in range(filters):
                added = bias[first_filter + m] if bias.size > 0 else bias.dtype.type(0)
                place = max(0, m * width + done)
                for i in range(inside):
                    out[image, first_filter + m, od, oh, ow + i] = tile[place + i] + added
        done += run
        w = 0
        h += 1
        if h == lines:
            h = 0
            d += 1


@inner
def correlate(
    x, first_cell, offsets, lines, columns, packed, bias, out, image, first_filter, filters, extent, corner,
    chunk, tile,
):  # fmt: skip
    """Filters over a grid: ``out = sum over q of weights[q] * x[first_cell + offsets[q] + p]``, plus bias.

    Parameters
    ----------
    x : 1-D float array
        The grid, or images that are their own grid.
    first_cell : int
        Where in ``x`` the grid begins.
    offsets : int64 array
        Where each row of the virtual columns begins, from there.
    lines, columns : int
        Extents of the grid along height and width: p counts (d*lines + h)*columns + w.
    packed : float array (blocks, taps, FILTERS)
        From `pack_weights`, beginning with the block of ``first_filter``.
    bias : float array (K,), or of size 0
    out : float array (N, K, OD, OH, OW)
        Written, from ``corner`` on.
    image, first_filter, filters : int
        Which image and filters of ``out``.
    extent : tuple of three int
        How many output cells along each axis this call makes.
    corner : tuple of three int
        Where in ``out`` they begin.
    chunk : int
        So many pixels meet all filters before the next ones do: what they read should stay in a near cache.
    tile : 1-D float array
        Scratch, `FILTERS` rows of `VECTORS` vectors.
    """
    weights = packed.reshape(packed.size)
    cells = ((extent[0] - 1) * lines + extent[1] - 1) * columns + extent[2]
    for first_pixel in range(0, cells, chunk):
        stop = min(cells, first_pixel + chunk)
        for first in range(0, filters, FILTERS):
            some = min(FILTERS, filters - first)
            first_weight = first * len(offsets)
            p = first_pixel
            while p < stop:
                left = stop - p
                width = 0
                for tap in range(0, len(offsets), SUM):
                    width = compute_tile(
                        weights, first_weight + tap * FILTERS, x, first_cell + p, offsets, tap,
                        min(SUM, len(offsets) - tap), left, some, tile,
                    )  # fmt: skip
                count = min(width, left)
                store_tile(
                    tile, width, p, count, lines, columns, bias, out, image, first_filter + first, some,
                    extent, corner,
                )  # fmt: skip
                p += count


@jit
def convolve_grids(
    x, packed, bias, out, grid, phases, offsets, start, stride, corner, extent, units, filters, chunk
):  # fmt: skip
    """Convolve a band of lines of some (image, group) units by way of a padded copy of each.

    Parameters
    ----------
    x : float array (N, C, D, H, W)
    packed : float array (groups, blocks, taps, FILTERS)
    bias : float array (K,), or of size 0
    out : float array (N, K, OD, OH, OW)
        Written from ``corner`` on, ``extent`` cells along each axis.
    grid : float array (channels of a group, phases, depth, height, width), C-contiguous
        Scratch.
    phases : int64 array (phases, 3)
    offsets : int64 array (taps,)
        In cells of the grid.
    start : tuple of three int
        Where the grid begins in the image.
    stride, corner, extent : tuple of three int
    units : tuple of two int
        From and up to which unit, counted as image * groups + group.
    filters : tuple of two int
        From (a multiple of FILTERS) and up to which filter of a group.
    chunk : int
        As in `correlate`.
    """
    groups = packed.shape[0]
    group_channels = grid.shape[0]
    group_filters = out.shape[1] // groups
    flat = grid.reshape(grid.size)
    tile = np.empty(FILTERS * VECTORS * (VECTOR_BYTES // grid.itemsize), grid.dtype)
    for unit in range(units[0], units[1]):
        image, group = divmod(unit, groups)
        fill_grid(x, image, group * group_channels, start, stride, phases, grid)
        correlate(
            flat, 0, offsets, grid.shape[3], grid.shape[4], packed[group, filters[0] // FILTERS :], bias, out,
            image, group * group_filters + filters[0], filters[1] - filters[0], extent, corner, chunk, tile,
        )  # fmt: skip


@jit
def convolve_images(x, packed, bias, out, offsets, extent, units, filters, chunk):
    """As `convolve_grids` for kernels of one tap at stride 1: every image is its own grid.

    Parameters
    ----------
    x : 1-D float array
        Images (N, C, *extent), contiguous.
    packed, bias, units, filters, chunk
        As in `convolve_grids`.
    out : float array (N, K, *extent)
    offsets : int64 array (channels of a group,)
    extent : tuple of three int
    """
    groups = packed.shape[0]
    tile = np.empty(FILTERS * VECTORS * (VECTOR_BYTES // x.itemsize), x.dtype)
    image_cells = len(offsets) * extent[0] * extent[1] * extent[2]
    group_filters = out.shape[1] // groups
    for unit in range(units[0], units[1]):
        image, group = divmod(unit, groups)
        correlate(
            x, unit * image_cells, offsets, extent[1], extent[2], packed[group, filters[0] // FILTERS :],
            bias, out, image, group * group_filters + filters[0], filters[1] - filters[0], extent, (0, 0, 0),
            chunk, tile,
        )  # fmt: skip


@inner
def sum_some(dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile, filters, taps):
    """The sums of at most `SUM_FILTERS` filters and `SUM_TAPS` taps; returns how many taps it took."""
    if taps >= SUM_TAPS:
        if filters == SUM_FILTERS:
            sum_tile(
                dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile, SUM_FILTERS, SUM_TAPS
            )
        elif filters == 4:
            sum_tile(dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile, 4, SUM_TAPS)
        elif filters == 3:
            sum_tile(dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile, 3, SUM_TAPS)
        elif filters == 2:
            sum_tile(dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile, 2, SUM_TAPS)
        else:
            sum_tile(dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile, 1, SUM_TAPS)
        return SUM_TAPS
    if filters == SUM_FILTERS:
        sum_tile(dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile, SUM_FILTERS, 1)
    elif filters == 4:
        sum_tile(dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile, 4, 1)
    elif filters == 3:
        sum_tile(dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile, 3, 1)
    elif filters == 2:
        sum_tile(dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile, 2, 1)
    else:
        sum_tile(dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile, 1, 1)
    return 1


@inner
def sum_pixels(dy, dy_stride, x, offsets, cells, sums, chunk):
    """``sums[k, q] += sum over p < cells of dy[k*dy_stride + p] * x[offsets[q] + p]``.

    Parameters
    ----------
    dy : 1-D float array
        Aligned to vectors, and ``dy_stride`` a multiple of them: 168 against 105 GF/s on AVX-512.
    x : 1-D float array
        The grid of the images.
    offsets : int64 array (taps,)
    cells : int
    sums : float array (filters, taps)
        Added to.
    chunk : int
        So many pixels, a multiple of a vector, are summed for all filters and taps before the next ones.
    """
    filters, taps = sums.shape
    tile = np.empty(SUM_FILTERS * SUM_TAPS, x.dtype)
    for first in range(0, cells, chunk):
        pixels = min(chunk, cells - first)
        k = 0
        while k < filters:
            some = filters - k
            # Widths that there is a tile for.
            some = SUM_FILTERS if some >= SUM_FILTERS else min(some, 4)
            q = 0
            while q < taps:
                tile[:] = 0
                done = sum_some(
                    dy, k * dy_stride + first, dy_stride, x, first, offsets, q, pixels, tile, some, taps - q
                )  # fmt: skip
                for m in range(some):
                    for t in range(done):
                        sums[k + m, q + t] += tile[m * done + t]
                q += done
            k += some


@jit
def sum_grids(
    dy, x, sums, dy_grid, dy_flat, dy_stride, x_grid, phases, offsets, start, stride, corner, extent, images,
    group, filters, chunk,
):  # fmt: skip
    """Add to the weight's gradient what a band of lines of one group of some images gives.

    Several images lie one behind the other along the depth of the grids, whose own depth is then 1.

    Parameters
    ----------
    dy : float array (N, K, OD, OH, OW)
    x : float array (N, C, D, H, W)
    sums : float array (filters, taps)
        Added to: for the filters ``filters[0]`` up to ``filters[1]`` of the group.
    dy_grid : float array (filters, 1, depth, height, width)
        Scratch, with the height and width of ``x_grid``: cells that end a line are zero in it.
    dy_flat, dy_stride : 1-D float array, int
        The memory of ``dy_grid``, and the distance of its filters there.
    x_grid : float array (channels of a group, phases, depth, height, width), C-contiguous
        Scratch.
    phases, offsets, start, stride, corner, extent
        As in `convolve_grids`; ``corner`` and ``extent`` are those of the gradient ``dy``.
    images : tuple of two int
        From and up to which image.
    group : int
    filters : tuple of two int
    chunk : int
        As in `sum_pixels`.
    """
    groups = x.shape[1] // x_grid.shape[0]
    first_filter = group * (dy.shape[1] // groups) + filters[0]
    lines, columns = x_grid.shape[3:]
    one, no_phase = (1, 1, 1), np.zeros((1, 3), np.int64)
    count = images[1] - images[0]
    depth = x_grid.shape[2] if count == 1 else 1
    some = dy_grid[: filters[1] - filters[0]]
    for n in range(count):
        image_grid = x_grid[:, :, n * depth : (n + 1) * depth]
        fill_grid(x, images[0] + n, group * x_grid.shape[0], start, stride, phases, image_grid)
        gradient_grid = some[:, :, n * extent[0] : (n + 1) * extent[0]]
        fill_grid(dy, images[0] + n, first_filter, corner, one, no_phase, gradient_grid)
    cells = ((count * extent[0] - 1) * lines + extent[1] - 1) * columns + extent[2]
    sum_pixels(dy_flat, dy_stride, x_grid.reshape(x_grid.size), offsets, cells, sums, chunk)
