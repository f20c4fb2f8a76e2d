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

# Gradients go along an axis for so many of the cells beside each other, and about so many in all, at a time.
ROUTED_CELLS, ROUTED_RUNS = 64, 2**13


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
            # All windows of a line at once, if they lie side by side, and are divided by a line of counts.
            together = some_c == channels and (channels == 1 or not summing)
            for i in range(1 if together else some_w):
                first = (line * some_w + i) * some_c
                target = (row * output[2] + w + i) * channels + c
                some = some_w * channels if together else some_c
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


@jit
def max_pool_backward_ties_wide(
    grad_output, x, grad_input, first_tile, stop_tile, channels, extent, output, tile, lead, strides, taps,
    steps, nothing, values, shares,
):  # fmt: skip
    """`pooling.max_pool_backward_ties` of arrays as `max_pool_wide` takes.

    A cell equals its window's maximum if it equals the maximum of its line in the window, and that equals the
    maximum of its plane, and that the window's. So gradients go from axis to axis, and along each from
    runs, one for every binary digit of the window's extent, to those of their halves that equal them.

    Parameters
    ----------
    grad_output : 1-D float array
    x : 1-D array
    grad_input : 1-D float array of the dtype of ``grad_output``
        Written.
    first_tile, stop_tile : int
        Tiles of ``grad_input``, counted along images, depth, height, width, channels.
    channels, extent, output, lead, strides, taps, steps, nothing
        As in `max_pool_wide`.
    tile : tuple of four int
        Cells along each axis, and channels of a tile.
    values, shares : 1-D array of the dtype of ``x`` and of ``grad_output``
        Scratch: see `fastconv.wide_windows.WideTies`.
    """
    no_places = np.empty(0, np.int32)
    blocks = (
        (extent[0] + tile[0] - 1) // tile[0], (extent[1] + tile[1] - 1) // tile[1],
        (extent[2] + tile[2] - 1) // tile[2], (channels + tile[3] - 1) // tile[3],
    )  # fmt: skip
    for unit in range(first_tile, stop_tile):
        rest, c = divmod(unit, blocks[3])
        rest, w = divmod(rest, blocks[2])
        rest, h = divmod(rest, blocks[1])
        n, d = divmod(rest, blocks[0])
        d, h, w, c = d * tile[0], h * tile[1], w * tile[2], c * tile[3]
        some_c = min(tile[3], channels - c)
        stop_d, stop_h, stop_w = (
            min(extent[0], d + tile[0]),
            min(extent[1], h + tile[1]),
            min(extent[2], w + tile[2]),
        )
        od, windows_d = windows_over(d, stop_d, lead[0], strides[0], taps[0], steps[0], output[0])
        oh, windows_h = windows_over(h, stop_h, lead[1], strides[1], taps[1], steps[1], output[1])
        ow, windows_w = windows_over(w, stop_w, lead[2], strides[2], taps[2], steps[2], output[2])
        some = windows_d * windows_h * windows_w > 0
        box_d = (windows_d - 1) * strides[0] + (taps[0] - 1) * steps[0] + 1
        box_h = (windows_h - 1) * strides[1] + (taps[1] - 1) * steps[1] + 1
        box_w = (windows_w - 1) * strides[2] + (taps[2] - 1) * steps[2] + 1
        start = (od * strides[0] - lead[0], oh * strides[1] - lead[1], ow * strides[2] - lead[2])
        if some:
            sizes = (
                box_d * box_h * box_w * some_c, box_d * box_h * windows_w * some_c,
                box_d * windows_h * windows_w * some_c, windows_d * windows_h * windows_w * some_c,
            )  # fmt: skip
            first, second, third = sizes[0], sizes[0] + sizes[1], sizes[0] + sizes[1] + sizes[2]
            most, fourth = max(sizes[0], sizes[1], sizes[2]), third + sizes[3]
            cells, lines, planes, maxima = (
                values[:first],
                values[first:second],
                values[second:third],
                values[third:fourth],
            )
            one, two = values[fourth : fourth + most], values[fourth + most : fourth + 2 * most]
            runs = values[fourth + 2 * most :]
            for line in range(box_d * box_h):
                z, y = divmod(line, box_h)
                fill_line(
                    x, n, start[0] + z, start[1] + y, start[2], c, some_c, channels, extent, (1, 1, 1),
                    nothing[0], cells, no_places, line * box_w * some_c, box_w,
                )  # fmt: skip
            copy_cells(cells, 0, one, 0, sizes[0])
            join_axis(
                one, no_places, two, no_places, lines, no_places, 0, box_d * box_h, box_w, some_c, windows_w,
                strides[2], taps[2], steps[2], False,
            )  # fmt: skip
            copy_cells(lines, 0, one, 0, sizes[1])
            join_axis(
                one, no_places, two, no_places, planes, no_places, 0, box_d, box_h, windows_w * some_c,
                windows_h, strides[1], taps[1], steps[1], False,
            )  # fmt: skip
            copy_cells(planes, 0, one, 0, sizes[2])
            join_axis(
                one, no_places, two, no_places, maxima, no_places, 0, 1, box_d,
                windows_h * windows_w * some_c, windows_d, strides[0], taps[0], steps[0], False,
            )  # fmt: skip
            for line in range(windows_d * windows_h):
                z, y = divmod(line, windows_h)
                row = ((n * output[0] + od + z) * output[1] + oh + y) * output[2] + ow
                if some_c == channels:
                    copy_cells(
                        grad_output,
                        row * channels,
                        shares,
                        third + line * windows_w * some_c,
                        windows_w * some_c,
                    )
                else:
                    for k in range(windows_w):
                        copy_cells(
                            grad_output, (row + k) * channels + c, shares,
                            third + (line * windows_w + k) * some_c, some_c,
                        )  # fmt: skip
            spare = shares[fourth:]
            route_axis(
                planes, maxima, shares[third:fourth], shares[second:third], 1, box_d,
                windows_h * windows_w * some_c, windows_d, strides[0], taps[0], steps[0], runs, spare,
            )  # fmt: skip
            route_axis(
                lines, planes, shares[second:third], shares[first:second], box_d, box_h, windows_w * some_c,
                windows_h, strides[1], taps[1], steps[1], runs, spare,
            )  # fmt: skip
            route_axis(
                cells, lines, shares[first:second], shares[:first], box_d * box_h, box_w, some_c, windows_w,
                strides[2], taps[2], steps[2], runs, spare,
            )  # fmt: skip
        # Which cells of the line lie in the box.
        left, right = max(w, start[2]), min(stop_w, start[2] + box_w)
        for z in range(d, stop_d):
            for y in range(h, stop_h):
                there = some and 0 <= z - start[0] < box_d and 0 <= y - start[1] < box_h and left < right
                row = ((n * extent[0] + z) * extent[1] + y) * extent[2]
                source = (((z - start[0]) * box_h + y - start[1]) * box_w + left - start[2]) * some_c
                if some_c == channels:
                    if there:
                        set_all(grad_input, (row + w) * channels, (row + left) * channels, 0)
                        copy_cells(
                            shares, source, grad_input, (row + left) * channels, (right - left) * channels
                        )
                        set_all(grad_input, (row + right) * channels, (row + stop_w) * channels, 0)
                    else:
                        set_all(grad_input, (row + w) * channels, (row + stop_w) * channels, 0)
                    continue
                for k in range(w, stop_w):
                    target = (row + k) * channels + c
                    if there and left <= k < right:
                        copy_cells(shares, source + (k - left) * some_c, grad_input, target, some_c)
                    else:
                        set_all(grad_input, target, target + some_c, 0)


@inner
def windows_over(first, stop, lead, stride, taps, step, output):
    """The first window that reaches one of some cells along an axis, and how many do (none: 0)."""
    reach = (taps - 1) * step + 1
    window = max(0, -((reach - 1 - lead - first) // stride))
    return window, max(0, min(output, (stop - 1 + lead) // stride + 1) - window)


@inner
def route_axis(
    values, maxima, gradients, out, outer, extent, cells, windows, stride, taps, step, runs, spare
):  # fmt: skip
    """Gradients of windows along one axis (outer, windows, cells) to all that is equal in ``values``.

    ``out`` is written like ``values`` (outer, extent, cells). Runs of every size are kept in ``runs``.
    """
    block = min(cells, ROUTED_CELLS)
    rows = max(1, ROUTED_RUNS // (extent * block)) if block == cells else 1
    no_places = np.empty(0, np.int32)
    for i in range(0, outer, rows):
        some = min(rows, outer - i)
        for c in range(0, cells, block):
            b = min(block, cells - c)
            total = some * extent * b
            if b == cells:
                copy_cells(values, i * extent * cells, runs, 0, total)
            else:
                for e in range(extent):
                    copy_cells(values, (i * extent + e) * cells + c, runs, e * b, b)
            level, size = 0, 1
            while 2 * size <= taps:
                below = runs[level * total : (level + 1) * total]
                shift = size * step * b
                join(
                    below, no_places, shift, runs[(level + 1) * total : (level + 2) * total], no_places,
                    total - shift, False,
                )  # fmt: skip
                level, size = level + 1, 2 * size
            share, lower = spare[:total], spare[total : 2 * total]
            set_all(share, 0, total, 0)
            while True:
                run = runs[level * total : (level + 1) * total]
                if taps & size:
                    for r in range(some):
                        source = (r * extent + (taps & (size - 1)) * step) * b
                        target = (i + r) * windows * cells + c
                        if stride == 1 and b == cells:
                            give(run, share, source, 1, maxima, gradients, target, windows * b)
                        elif cells == 1:
                            give(run, share, source, stride, maxima, gradients, target, windows)
                        else:
                            for o in range(windows):
                                give(
                                    run,
                                    share,
                                    source + o * stride * b,
                                    1,
                                    maxima,
                                    gradients,
                                    target + o * cells,
                                    b,
                                )
                if level == 0:
                    break
                level, size = level - 1, size // 2
                halve(runs[level * total : (level + 1) * total], run, share, lower, size * step * b)
                share, lower = lower, share
            if b == cells:
                copy_cells(share, 0, out, i * extent * cells, total)
            else:
                for e in range(extent):
                    copy_cells(share, e * b, out, (i * extent + e) * cells + c, b)


@inner
def is_same(a, b):
    """Whether both are equal or NaN."""
    return (a == b) | ((a != a) & (b != b))


@inner
def give(run, share, source, step, maxima, gradients, target, count):
    """Add gradients to the shares of runs that equal their window's maximum."""
    best, given = maxima[target : target + count], gradients[target : target + count]
    here, taken = (
        run[source : source + (count - 1) * step + 1],
        share[source : source + (count - 1) * step + 1],
    )
    if step == 1:
        for k in range(count):
            taken[k] = taken[k] + given[k] if is_same(here[k], best[k]) else taken[k]
    else:
        for k in range(count):
            at = max(0, k * step)
            if is_same(here[at], best[k]):
                taken[at] += given[k]


@inner
def halve(below, run, share, lower, shift):
    """The shares of runs to those of their halves that equal them, which lie ``shift`` apart."""
    count = len(run) - shift
    near, far, whole, given = below[:count], below[shift:], run[:count], share[:count]
    first, second = lower[:count], lower[shift:]
    for k in range(count):
        first[k] = given[k] if is_same(near[k], whole[k]) else 0
    set_all(lower, count, len(lower), 0)
    for k in range(count):
        second[k] = second[k] + given[k] if is_same(far[k], whole[k]) else second[k]
