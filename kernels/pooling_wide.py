"""Pooling through wide windows, in a time that hardly grows with them.

Along one axis after the other, width, height, depth: maxima (or sums) of 1, 2, 4 ... cells side by side are
made of two halves each, all of them at once, until a window is a few such *runs*. The maximum of a window is
that of two runs, which may overlap; its sum is that of one run for every binary digit of its extent. Nothing
is subtracted: infinities and NaN stay in their windows, and whole numbers stay exact.

A *tile* is what is computed at a time, of neighbouring windows. Its *box* are the cells under them, those in
the padding included, which hold what changes nothing. Gradients of means are sums of gradients that lie
``spread`` cells apart, with such cells in between.
"""

import numpy as np

from fastconv.kernels.jit import inner, jit


@jit
def max_pool_wide(
    x, out, indices, first_tile, stop_tile, channels, extent, output, tile, lead, spread, strides, taps,
    steps, nothing, values, places,
):  # fmt: skip
    """`pooling.max_pool` of contiguous arrays (N, D, H, W, C), or of N*C images of one channel each.

    Parameters
    ----------
    x : 1-D array
    out : 1-D array of the same dtype
        Written.
    indices : 1-D int64 array, as long as ``out`` or empty
        Written.
    first_tile, stop_tile : int
        Tiles, counted along images, depth, height, width, channels.
    channels : int
    extent, output : tuple of three int
        (D, H, W) and (OD, OH, OW).
    tile : tuple of five int
        Images, windows along each axis, and channels of a tile.
    lead, spread : tuple of three int
        Cell c stands at ``lead + c*spread`` along each axis, where the first window starts at 0.
    strides, taps, steps : tuple of three int
        Distance between windows, cells of one, and their distance.
    nothing : array of one number
        Not larger than any: what cells that do not exist hold.
    values : array (3, elements) of the same dtype
        Scratch, for the box of a tile after its first axis, and for that of one of its lines.
    places : int32 array, as large as ``values``, or (3, 0) without indices
    """
    counts = np.ones(1)
    pool_wide(
        x, out, indices, first_tile, stop_tile, channels, extent, output, tile, lead, spread, strides, taps,
        steps, (counts, counts, counts), nothing[0], False, values, places,
    )  # fmt: skip


@jit
def avg_pool_wide(
    x, out, first_tile, stop_tile, channels, extent, output, tile, lead, spread, strides, taps, steps,
    depth_counts, height_counts, width_counts, values,
):  # fmt: skip
    """`pooling.avg_pool` of arrays as `max_pool_wide` takes; of cells spread out, its gradient.

    Parameters
    ----------
    x, out : 1-D float array
    first_tile, stop_tile, channels, extent, output, tile, lead, spread, strides, taps, steps
        As in `max_pool_wide`.
    depth_counts, height_counts, width_counts : float64 array (output extent,)
        A sum is divided by the product of its window's counts.
    values : float64 array (3, elements)
        As in `max_pool_wide`.
    """
    pool_wide(
        x, out, np.empty(0, np.int64), first_tile, stop_tile, channels, extent, output, tile, lead, spread,
        strides, taps, steps, (depth_counts, height_counts, width_counts), 0, True, values,
        np.empty((3, 0), np.int32),
    )  # fmt: skip


@inner
def pool_wide(
    x, out, indices, first_tile, stop_tile, channels, extent, output, tile, lead, spread, strides, taps,
    steps, counts, nothing, summing, values, places,
):  # fmt: skip
    """`max_pool_wide` or `avg_pool_wide`."""
    images = len(out) // (channels * output[0] * output[1] * output[2])
    blocks_c = (channels + tile[4] - 1) // tile[4]
    blocks_w = (output[2] + tile[3] - 1) // tile[3]
    blocks_h = (output[1] + tile[2] - 1) // tile[2]
    blocks_d = (output[0] + tile[1] - 1) // tile[1]
    a, b, joined = values[0], values[1], values[2]
    a_places, b_places, joined_places = places[0], places[1], places[2]
    for unit in range(first_tile, stop_tile):
        rest, c = divmod(unit, blocks_c)
        rest, w = divmod(rest, blocks_w)
        rest, h = divmod(rest, blocks_h)
        n, d = divmod(rest, blocks_d)
        n, d, h, w, c = n * tile[0], d * tile[1], h * tile[2], w * tile[3], c * tile[4]
        some_n, some_c = min(tile[0], images - n), min(tile[4], channels - c)
        some_d, some_h, some_w = (
            min(tile[1], output[0] - d),
            min(tile[2], output[1] - h),
            min(tile[3], output[2] - w),
        )
        box_d = (some_d - 1) * strides[0] + (taps[0] - 1) * steps[0] + 1
        box_h = (some_h - 1) * strides[1] + (taps[1] - 1) * steps[1] + 1
        box_w = (some_w - 1) * strides[2] + (taps[2] - 1) * steps[2] + 1
        start = (d * strides[0] - lead[0], h * strides[1] - lead[1], w * strides[2] - lead[2])
        lines = some_n * box_d * box_h
        at_once = max(1, min(lines, values.shape[1] // (box_w * some_c)))
        for line in range(0, lines, at_once):
            some = min(at_once, lines - line)
            for i in range(some):
                image_d, y = divmod(line + i, box_h)
                image, z = divmod(image_d, box_d)
                fill_line(
                    x, n + image, start[0] + z, start[1] + y, start[2], c, some_c, channels, extent, spread,
                    nothing, a, a_places, i * box_w * some_c, box_w,
                )  # fmt: skip
            join_axis(
                a, a_places, b, b_places, joined, joined_places, line * some_w * some_c, some, box_w, some_c,
                some_w, strides[2], taps[2], steps[2], summing,
            )  # fmt: skip
        if taps[1] > 1 or strides[1] > 1:
            join_axis(
                joined, joined_places, a, a_places, b, b_places, 0, some_n * box_d, box_h, some_w * some_c,
                some_h, strides[1], taps[1], steps[1], summing,
            )  # fmt: skip
            b, joined = joined, b
            b_places, joined_places = joined_places, b_places
        if taps[0] > 1 or strides[0] > 1:
            join_axis(
                joined, joined_places, a, a_places, b, b_places, 0, some_n, box_d, some_h * some_w * some_c,
                some_d, strides[0], taps[0], steps[0], summing,
            )  # fmt: skip
            b, joined = joined, b
            b_places, joined_places = joined_places, b_places
        for line in range(some_n * some_d * some_h):
            image_d, y = divmod(line, some_h)
            image, z = divmod(image_d, some_d)
            row = ((n + image) * output[0] + d + z) * output[1] + h + y
            count = counts[0][d + z] * counts[1][h + y] if summing else 1.0
            for i in range(1 if channels == 1 else some_w):
                first = (line * some_w + i) * some_c
                target = (row * output[2] + w + i) * channels + c
                some = some_w if channels == 1 else some_c
                taken, written = joined[first : first + some], out[target : target + some]
                if not summing:
                    for k in range(some):
                        written[k] = taken[k]
                elif channels == 1:
                    along = counts[2][w : w + some]
                    for k in range(some):
                        written[k] = taken[k] / (count * along[k])
                else:
                    divisor = count * counts[2][w + i]
                    for k in range(some):
                        written[k] = taken[k] / divisor
                if len(indices) > 0:
                    found, index = joined_places[first : first + some], indices[target : target + some]
                    for k in range(some):
                        index[k] = found[k]


@inner
def fill_line(
    x, image, d, h, w, c, some, channels, extent, spread, nothing, values, places, first, width
):  # fmt: skip
    """A line of a box, which begins at (d, h, w) counted as cells are, ``spread`` to each."""
    there = (
        d >= 0 and h >= 0 and d % spread[0] == 0 and h % spread[1] == 0
        and d // spread[0] < extent[0] and h // spread[1] < extent[1]
    )  # fmt: skip
    # Which cells of the line exist, and where the first of them stands.
    left = max(0, -(-w // spread[2]))
    right = min(extent[2], (w + width - 1) // spread[2] + 1) if there else left
    place, count = left * spread[2] - w, max(0, right - left)
    if count == 0 or spread[2] > 1:
        place = 0 if count == 0 else place
        set_all(values, first, first + width * some, nothing)
    else:
        set_all(values, first, first + place * some, nothing)
        set_all(values, first + (place + count) * some, first + width * some, nothing)
    cell = (d // spread[0] * extent[1] + h // spread[1]) * extent[2] + left
    source = (image * extent[0] * extent[1] * extent[2] + cell) * channels + c
    target = first + place * some
    if spread[2] == 1 and some == channels:
        copy_cells(x, source, values, target, count * some)
    else:
        for k in range(count):
            copy_cells(x, source + k * channels, values, target + k * spread[2] * some, some)
    if len(places) > 0:
        set_all(places, first, target, -1)
        set_all(places, target + count * some, first + width * some, -1)
        if some == 1:
            known = places[target : target + count]
            for k in range(count):
                known[k] = cell + k
        else:
            for k in range(count):
                set_all(places, target + k * some, target + (k + 1) * some, cell + k)


@inner
def set_all(array, first, stop, value):
    """``array[first:stop] = value``."""
    cells = array[first:stop]
    for k in range(len(cells)):
        cells[k] = value


@inner
def copy_cells(x, source, out, target, count):
    """``out[target : target + count] = x[source : source + count]``."""
    taken, cells = x[source : source + count], out[target : target + count]
    for k in range(count):
        cells[k] = taken[k]


@inner
def join_axis(
    values, places, spare, spare_places, out, out_places, first, outer, extent, cells, windows, stride, taps,
    step, summing,
):  # fmt: skip
    """Windows along one axis: of ``values`` (outer, extent, cells), in ``out`` from ``first`` on.

    ``values`` and ``spare`` are overwritten.
    """
    size, fresh = 1, True
    total = outer * extent * cells
    while True:
        last = 2 * size > taps
        if summing:
            if taps & size:
                offset = (taps & (size - 1)) * step
                take_runs(
                    values, places, out, out_places, first, outer, extent, cells, windows, stride, offset,
                    fresh, summing,
                )  # fmt: skip
                fresh = False
        elif last:
            take_runs(
                values,
                places,
                out,
                out_places,
                first,
                outer,
                extent,
                cells,
                windows,
                stride,
                0,
                True,
                summing,
            )
            if size < taps:
                offset = (taps - size) * step
                take_runs(
                    values, places, out, out_places, first, outer, extent, cells, windows, stride, offset,
                    False, summing,
                )  # fmt: skip
        if last:
            return
        shift = size * step * cells
        join(values, places, shift, spare, spare_places, total - shift, summing)
        values, spare = spare, values
        places, spare_places = spare_places, places
        size *= 2


@inner
def take_runs(
    values, places, out, out_places, first, outer, extent, cells, windows, stride, offset, fresh, summing
):  # fmt: skip
    """Join every window's run that begins ``offset`` after it with what ``out`` holds, or put it there."""
    for i in range(outer):
        source, target = (i * extent + offset) * cells, first + i * windows * cells
        if stride == 1:
            add_run(values, places, source, 1, out, out_places, target, windows * cells, fresh, summing)
        elif cells == 1:
            add_run(values, places, source, stride, out, out_places, target, windows, fresh, summing)
        else:
            for k in range(windows):
                add_run(
                    values, places, source + k * stride * cells, 1, out, out_places, target + k * cells,
                    cells, fresh, summing,
                )  # fmt: skip


@inner
def larger(a, b):
    """Whether the maximum of a and then b is b: the first of equals wins, and the first NaN."""
    return (a == a) & (not b <= a)


@inner
def add_run(values, places, source, step, out, out_places, target, count, fresh, summing):
    """Join ``out[target + k]`` with ``values[source + k*step]``, or replace it."""
    so_far, taken = out[target : target + count], values[source : source + (count - 1) * step + 1]
    if fresh:
        if step == 1:
            for k in range(count):
                so_far[k] = taken[k]
        else:
            for k in range(count):
                so_far[k] = taken[max(0, k * step)]
    elif summing:
        if step == 1:
            for k in range(count):
                so_far[k] += taken[k]
        else:
            for k in range(count):
                so_far[k] += taken[max(0, k * step)]
    if len(places) == 0:
        if not (fresh or summing):
            if step == 1:
                for k in range(count):
                    so_far[k] = taken[k] if larger(so_far[k], taken[k]) else so_far[k]
            else:
                for k in range(count):
                    value = taken[max(0, k * step)]
                    so_far[k] = value if larger(so_far[k], value) else so_far[k]
        return
    where, found = out_places[target : target + count], places[source : source + (count - 1) * step + 1]
    if fresh:
        for k in range(count):
            where[k] = found[max(0, k * step)]
    elif step == 1:
        for k in range(count):
            take = (where[k] < 0) | larger(so_far[k], taken[k])
            so_far[k] = taken[k] if take else so_far[k]
            where[k] = found[k] if take else where[k]
    else:
        for k in range(count):
            value, place = taken[max(0, k * step)], found[max(0, k * step)]
            take = (where[k] < 0) | larger(so_far[k], value)
            so_far[k] = value if take else so_far[k]
            where[k] = place if take else where[k]


@inner
def join(values, places, shift, out, out_places, count, summing):
    """``out[k]`` joins ``values[k]`` and ``values[shift + k]``."""
    near, far, joined = values[:count], values[shift : shift + count], out[:count]
    if summing:
        for k in range(count):
            joined[k] = near[k] + far[k]
        return
    if len(places) == 0:
        for k in range(count):
            joined[k] = far[k] if larger(near[k], far[k]) else near[k]
        return
    here, there, where = places[:count], places[shift : shift + count], out_places[:count]
    for k in range(count):
        take = (here[k] < 0) | larger(near[k], far[k])
        joined[k] = far[k] if take else near[k]
        where[k] = there[k] if take else here[k]
