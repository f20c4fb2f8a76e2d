"""Filters at the points of Winograd's minimal filtering (`fastconv.kernels.winograd`), there and back.

    transform_filters         G g G^T, in panels that a product can stream
    finish_filters            G^T Z G, the gradient of the filters

and the same of filters that have their channels last.
"""

from fastconv.kernels.jit import inner, jit
from fastconv.kernels.lanes import load, load_some, prefetch, spread, store, store_some, transpose_square
from fastconv.kernels.panels import find_vector, whole_tiles
from fastconv.kernels.points import load_four, point_step, store_four, taps_of
from fastconv.kernels.vectors import VECTOR_BYTES


@inner
def filter_points(g0, g1, g2, half):
    """G of three taps."""
    outer = (g0 + g2) * half
    inner = g1 * half
    return g0, outer + inner, outer - inner, g2


@inner
def filter_taps(m0, m1, m2, m3, half):
    """G^T of four points."""
    outer = (m1 + m2) * half
    return m0 + outer, (m1 - m2) * half, outer + m3


@inner
def load_three(taps, first, step):
    """Three vectors at equal distances."""
    return load(taps, first), load(taps, first + step), load(taps, first + 2 * step)


@inner
def transform_filter(taps, first, tap_step, tall, rotated, half, weights, p, step):
    """G g G^T of the vectors of one filter's taps, from ``first`` on, to its points, from ``p`` on.

    ``tall`` is as in `taps_of`; ``rotated`` says that taps are taken from the last to the first.
    """
    if rotated:
        first, tap_step = first + (taps_of(tall) - 1) * tap_step, -tap_step
    if tall == 1:
        g = load_three(taps, first, tap_step)
        store_four(weights, p, step, filter_points(g[0], g[1], g[2], half))
        return
    g = load_three(taps, first, tap_step)
    h = load_three(taps, first + 3 * tap_step, tap_step)
    k = load_three(taps, first + 6 * tap_step, tap_step)
    a0, a1, a2, a3 = filter_points(g[0], h[0], k[0], half)
    b0, b1, b2, b3 = filter_points(g[1], h[1], k[1], half)
    c0, c1, c2, c3 = filter_points(g[2], h[2], k[2], half)
    store_four(weights, p, step, filter_points(a0, b0, c0, half))
    store_four(weights, p + 4 * step, step, filter_points(a1, b1, c1, half))
    store_four(weights, p + 8 * step, step, filter_points(a2, b2, c2, half))
    store_four(weights, p + 12 * step, step, filter_points(a3, b3, c3, half))


@jit
def transform_filters(
    w, first, lane_step, row_step, rows, depths, vectors, tall, rotated, panel, weights, taps
):  # fmt: skip
    """G g G^T of filters, as panels that a product can stream.

    Vectors run along filters and rows are channels; for backward-input it is the other way round, and the
    filters are rotated by 180 degrees.

    Parameters
    ----------
    w : 1-D float array
        Filters, the taps of all depths one behind the other.
    first : int
        Where the first row's first filter begins.
    lane_step, row_step : int
        In ``w`` from one lane and from one row to the next.
    rows : int
    depths : int64 array (taps along the depth,)
        For each where it stands in a panel; -1: nowhere.
    vectors : tuple of three int
        From and up to which vector of lanes, and how many lanes there are in all.
    tall : int
        2 where a kernel has 3x3 taps, 1 where it has three along the width.
    rotated : bool
        In the plane.
    panel : int
        Vectors of a panel; the last may have fewer.
    weights : 1-D float array (points, panels, depths, rows, vectors of the panel)
        Written; what it holds behind the last lane is not used.
    taps : 1-D float array
        Scratch of (9 lanes + 1) * lanes vectors' lanes.
    """
    lanes = VECTOR_BYTES // w.itemsize
    half = spread(w.dtype.type(0.5))
    all_vectors = (vectors[2] + lanes - 1) // lanes
    deep, each = depths.size, taps_of(tall)
    height = rows
    for depth in depths:
        height = max(height, (depth + 1) * rows)
    step = point_step(all_vectors * height * lanes, w.itemsize)
    # Rows whose taps lie one behind the other are transposed several at a time.
    some = rows if row_step == each * deep else 1
    for vector in range(vectors[0], vectors[1]):
        there = min(lanes, vectors[2] - vector * lanes)
        place, width = find_vector(vector, all_vectors, panel, height, lanes)
        for row in range(0, rows, some):
            for unit in range(0, some * deep, lanes):
                source = first + vector * lanes * lane_step + row * row_step + each * unit
                count = min(lanes, some * deep - unit)
                for q in range(0, each * count, lanes):
                    left = min(lanes, each * count - q)
                    transpose_square(w, source + q, lane_step, there, left, taps, q * lanes)
                for r in range(count):
                    depth = depths[(unit + r) % deep]
                    if depth < 0:
                        continue
                    p = place + (depth * rows + row + (unit + r) // deep) * width
                    transform_filter(taps, each * r * lanes, lanes, tall, rotated, half, weights, p, step)


@jit
def transform_last_filters(
    w, first, lane_step, row_step, tap_step, rows, depths, vectors, tall, rotated, panel, weights, taps
):  # fmt: skip
    """As `transform_filters`, of filters that have their channels last, and the taps ``tap_step`` apart.

    One of ``lane_step`` and ``row_step`` is 1. ``taps`` is scratch of 9 lanes vectors.
    """
    lanes = VECTOR_BYTES // w.itemsize
    half = spread(w.dtype.type(0.5))
    all_vectors = (vectors[2] + lanes - 1) // lanes
    height, each = rows, taps_of(tall)
    for depth in depths:
        height = max(height, (depth + 1) * rows)
    step = point_step(all_vectors * height * lanes, w.itemsize)
    for vector in range(vectors[0], vectors[1]):
        there = min(lanes, vectors[2] - vector * lanes)
        place, width = find_vector(vector, all_vectors, panel, height, lanes)
        for row in range(0, rows, lanes):
            some = min(lanes, rows - row)
            for d in range(depths.size):
                if depths[d] < 0:
                    continue
                # Of each tap a square of rows.
                for tap in range(each):
                    source = first + vector * lanes * lane_step + row * row_step
                    source += (each * d + tap) * tap_step
                    target = tap * lanes * lanes
                    if row_step == 1:
                        transpose_square(w, source, lane_step, there, some, taps, target)
                    else:
                        for r in range(some):
                            store(taps, target + r * lanes, load_some(w, source + r * row_step, there))
                for r in range(some):
                    p = place + (depths[d] * rows + row + r) * width
                    transform_filter(taps, r * lanes, lanes * lanes, tall, rotated, half, weights, p, step)


@inner
def finish_filter(sums, p, step, tall, half, taps, first, tap_step):
    """G^T Z G of one row's sums, at the points from ``p`` on, to the vectors of its taps."""
    if tall == 1:
        m = load_four(sums, p, step)
        left, middle, right = filter_taps(m[0], m[1], m[2], m[3], half)
        store(taps, first, left)
        store(taps, first + tap_step, middle)
        store(taps, first + 2 * tap_step, right)
        return
    a = load_four(sums, p, step)
    b = load_four(sums, p + 4 * step, step)
    d = load_four(sums, p + 8 * step, step)
    e = load_four(sums, p + 12 * step, step)
    g = filter_taps(a[0], b[0], d[0], e[0], half)
    h = filter_taps(a[1], b[1], d[1], e[1], half)
    k = filter_taps(a[2], b[2], d[2], e[2], half)
    m = filter_taps(a[3], b[3], d[3], e[3], half)
    for r in range(3):
        q = first + 3 * r * tap_step
        left, middle, right = filter_taps(g[r], h[r], k[r], m[r], half)
        store(taps, q, left)
        store(taps, q + tap_step, middle)
        store(taps, q + 2 * tap_step, right)


@jit
def finish_filters(sums, channels, filters, width, deep, tall, dw, taps, square):
    """G^T Z G of summed points: the gradient of the filters.

    Parameters
    ----------
    sums : 1-D float array (points, deep, panels, channels in whole tiles, width)
    channels, filters, width, deep, tall : int
        ``width`` are the filters of a panel, ``deep`` taps along the depth; ``tall`` is as in
        `transform_filters`.
    dw : 1-D float array (filters, channels, deep, taps)
        Written.
    taps : 1-D float array
        Scratch of (taps * the larger of lanes and ``deep`` + lanes) vectors.
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    lanes = VECTOR_BYTES // dw.itemsize
    half = spread(dw.dtype.type(0.5))
    panels = (filters + width - 1) // width
    panel, each = whole_tiles(channels) * width, taps_of(tall)
    step = point_step(deep * panels * panel, dw.itemsize)
    for filter_ in range(0, filters, lanes):
        there = min(lanes, filters - filter_)
        # Channels whose taps of all depths fill about a vector of units.
        few = max(1, lanes // deep)
        for channel in range(0, channels, few):
            units = min(few, channels - channel) * deep
            for unit in range(units):
                c, depth = channel + unit // deep, unit % deep
                p = (depth * panels + filter_ // width) * panel + c * width + filter_ % width
                finish_filter(sums, p, step, tall, half, taps, each * unit * lanes, lanes)
            for q in range(0, each * units, lanes):
                some = min(lanes, each * units - q)
                transpose_square(taps, q * lanes, lanes, some, lanes, square, 0)
                for f in range(there):
                    target = ((filter_ + f) * channels + channel) * deep * each + q
                    store_some(dw, target, load(square, f * lanes), some)


@jit
def finish_last_filters(sums, channels, filters, width, deep, tall, dw, taps, square):
    """As `finish_filters`, to ``dw`` (filters, deep, taps, channels)."""
    lanes = VECTOR_BYTES // dw.itemsize
    half = spread(dw.dtype.type(0.5))
    panels = (filters + width - 1) // width
    panel, each = whole_tiles(channels) * width, taps_of(tall)
    step = point_step(deep * panels * panel, dw.itemsize)
    for filter_ in range(0, filters, lanes):
        there = min(lanes, filters - filter_)
        for channel in range(0, channels, lanes):
            some = min(lanes, channels - channel)
            for depth in range(deep):
                for c in range(some):
                    p = (depth * panels + filter_ // width) * panel + (channel + c) * width + filter_ % width
                    finish_filter(sums, p, step, tall, half, taps, c * lanes, lanes * lanes)
                    # The lines that these channels are written to meanwhile.
                    if c < there:
                        for tap in range(each):
                            target = (((filter_ + c) * deep + depth) * each + tap) * channels + channel
                            prefetch(dw, target, 1)
                for tap in range(each):
                    transpose_square(taps, tap * lanes * lanes, lanes, some, lanes, square, 0)
                    for f in range(there):
                        target = (((filter_ + f) * deep + depth) * each + tap) * channels + channel
                        store_some(dw, target, load(square, f * lanes), some)
