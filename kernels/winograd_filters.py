"""Filters at the points of Winograd's minimal filtering (`fastconv.kernels.winograd`), there and back.

    transform_filters         G g G^T, in panels that a product can stream
    finish_filters            G^T Z G, the gradient of the filters

and the same of filters that have their channels last. A filter of one channel has some *elements*, of which a
table says which are the taps of each kernel: 9, or 3 where it has one line. Some of them there may not be.
"""

from fastconv.kernels.jit import inner, jit
from fastconv.kernels.simd import load, load_some, prefetch, spread, store, store_some, transpose_square
from fastconv.kernels.tile import find_vector, whole_tiles
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.kernels.winograd_transforms import load_four, point_step, store_four


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
def place_of(table, kernel, tap, first, step, none):
    """Where a kernel's tap lies, of elements from ``first`` on; ``none`` is for those that there are not."""
    element = table[kernel, tap]
    return first + element * step if element >= 0 else none


@inner
def load_three(taps, table, kernel, tap, first, step, none):
    """The vectors of three taps."""
    return (
        load(taps, place_of(table, kernel, tap, first, step, none)),
        load(taps, place_of(table, kernel, tap + 1, first, step, none)),
        load(taps, place_of(table, kernel, tap + 2, first, step, none)),
    )


@inner
def store_three(three, taps, table, kernel, tap, first, step, none):
    """As `load_three`, the other way."""
    store(taps, place_of(table, kernel, tap, first, step, none), three[0])
    store(taps, place_of(table, kernel, tap + 1, first, step, none), three[1])
    store(taps, place_of(table, kernel, tap + 2, first, step, none), three[2])


@inner
def transform_rows(taps, table, rows, row_step, step, none, weights, place, width, height, points, half):
    """G g G^T of some rows of filters, for each of their kernels.

    Parameters
    ----------
    taps : 1-D float array
        Vectors of elements: of each row they begin ``row_step`` apart, and are ``step`` from each other; at
        ``none`` is one of zeros.
    table : int64 array (kernels, taps)
    rows : int
    weights : 1-D float array
        Written from ``place`` on: rows ``width`` apart, kernels ``height`` rows, and points ``points``.
    half : vector
    """
    for kernel in range(table.shape[0]):
        for r in range(rows):
            first, p = r * row_step, place + (kernel * height + r) * width
            g = load_three(taps, table, kernel, 0, first, step, none)
            if table.shape[1] == 3:
                store_four(weights, p, points, filter_points(g[0], g[1], g[2], half))
                continue
            h = load_three(taps, table, kernel, 3, first, step, none)
            k = load_three(taps, table, kernel, 6, first, step, none)
            a0, a1, a2, a3 = filter_points(g[0], h[0], k[0], half)
            b0, b1, b2, b3 = filter_points(g[1], h[1], k[1], half)
            c0, c1, c2, c3 = filter_points(g[2], h[2], k[2], half)
            store_four(weights, p, points, filter_points(a0, b0, c0, half))
            store_four(weights, p + 4 * points, points, filter_points(a1, b1, c1, half))
            store_four(weights, p + 8 * points, points, filter_points(a2, b2, c2, half))
            store_four(weights, p + 12 * points, points, filter_points(a3, b3, c3, half))


@jit
def transform_filters(w, first, lane_step, row_step, rows, elements, table, vectors, panel, weights, taps):
    """G g G^T of filters, as panels that a product can stream.

    Vectors run along filters and rows are channels; for backward-input it is the other way round.

    Parameters
    ----------
    w : 1-D float array
        Filters, the elements of a channel one behind the other.
    first : int
        Where the first row's first filter begins.
    lane_step, row_step : int
        In ``w`` from one lane and from one row to the next.
    rows, elements : int
        ``elements`` has a filter of one channel.
    table : int64 array (kernels, taps)
        Which element each tap is; -1: none. For backward-input they are those of the rotated filter.
    vectors : tuple of three int
        From and up to which vector of lanes, and how many lanes there are in all.
    panel : int
        Vectors of a panel; the last may have fewer.
    weights : 1-D float array (points, panels, kernels, rows, vectors of the panel)
        Written; what it holds behind the last lane is not used.
    taps : 1-D float array
        Scratch: a square for each element, ten at the least, and one vector more.
    """
    lanes = VECTOR_BYTES // w.itemsize
    half = spread(w.dtype.type(0.5))
    all_vectors = (vectors[2] + lanes - 1) // lanes
    height = table.shape[0] * rows
    step = point_step(all_vectors * height * lanes, w.itemsize)
    # Rows whose elements lie one behind the other are transposed several at a time.
    most = rows_at_once(elements, lanes) if row_step == elements else 1
    none = (most * elements + lanes) * lanes
    store(taps, none, spread(w.dtype.type(0)))
    for vector in range(vectors[0], vectors[1]):
        there = min(lanes, vectors[2] - vector * lanes)
        place, width = find_vector(vector, all_vectors, panel, height, lanes)
        for row in range(0, rows, most):
            some = min(most, rows - row)
            source = first + vector * lanes * lane_step + row * row_step
            for q in range(0, some * elements, lanes):
                left = min(lanes, some * elements - q)
                transpose_square(w, source + q, lane_step, there, left, taps, q * lanes)
            transform_rows(
                taps, table, some, elements * lanes, lanes, none, weights, place + row * width, width, rows,
                step, half,
            )  # fmt: skip


@jit
def transform_last_filters(
    w, first, lane_step, row_step, element_step, rows, elements, table, vectors, panel, weights, taps
):  # fmt: skip
    """As `transform_filters`, of filters that have their channels last, and elements ``element_step`` apart.

    One of ``lane_step`` and ``row_step`` is 1.
    """
    lanes = VECTOR_BYTES // w.itemsize
    half = spread(w.dtype.type(0.5))
    all_vectors = (vectors[2] + lanes - 1) // lanes
    height = table.shape[0] * rows
    step = point_step(all_vectors * height * lanes, w.itemsize)
    none = elements * lanes * lanes
    store(taps, none, spread(w.dtype.type(0)))
    for vector in range(vectors[0], vectors[1]):
        there = min(lanes, vectors[2] - vector * lanes)
        place, width = find_vector(vector, all_vectors, panel, height, lanes)
        for row in range(0, rows, lanes):
            some = min(lanes, rows - row)
            for element in range(elements):
                source = first + vector * lanes * lane_step + row * row_step + element * element_step
                target = element * lanes * lanes
                if row_step == 1:
                    transpose_square(w, source, lane_step, there, some, taps, target)
                else:
                    for r in range(some):
                        store(taps, target + r * lanes, load_some(w, source + r * row_step, there))
            transform_rows(
                taps, table, some, lanes, lanes * lanes, none, weights, place + row * width, width, rows,
                step, half,
            )  # fmt: skip


@inner
def rows_at_once(elements, lanes):
    """Rows of filters whose elements are transposed together: they stay in L1."""
    return max(1, 9 * lanes // elements)


@inner
def finish_row(sums, p, points, step, first, element_step, none, table, taps, half):
    """G^T Z G of one row's sums of every kernel, to the vectors of its elements.

    Parameters
    ----------
    sums : 1-D float array
        Read from ``p`` on: kernels ``step`` apart, and ``points`` from one point to the next.
    taps : 1-D float array
        Vectors of elements, from ``first`` on ``element_step`` apart; at ``none`` others.
    table : int64 array (kernels, taps)
    half : vector
    """
    for kernel in range(table.shape[0]):
        q = p + kernel * step
        a = load_four(sums, q, points)
        if table.shape[1] == 3:
            three = filter_taps(a[0], a[1], a[2], a[3], half)
            store_three(three, taps, table, kernel, 0, first, element_step, none)
            continue
        b = load_four(sums, q + 4 * points, points)
        d = load_four(sums, q + 8 * points, points)
        e = load_four(sums, q + 12 * points, points)
        g = filter_taps(a[0], b[0], d[0], e[0], half)
        h = filter_taps(a[1], b[1], d[1], e[1], half)
        k = filter_taps(a[2], b[2], d[2], e[2], half)
        m = filter_taps(a[3], b[3], d[3], e[3], half)
        for r in range(3):
            three = filter_taps(g[r], h[r], k[r], m[r], half)
            store_three(three, taps, table, kernel, 3 * r, first, element_step, none)


@jit
def finish_filters(sums, channels, filters, width, elements, table, dw, taps, square):
    """G^T Z G of summed points: the gradient of the filters.

    Parameters
    ----------
    sums : 1-D float array (points, kernels, panels, channels in whole tiles, width)
    channels, filters, width, elements : int
        ``width`` are the filters of a panel.
    table : int64 array (kernels, taps)
        As in `transform_filters`.
    dw : 1-D float array (filters, channels, elements)
        Written.
    taps : 1-D float array
        Scratch as in `transform_filters`.
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    lanes = VECTOR_BYTES // dw.itemsize
    half = spread(dw.dtype.type(0.5))
    panels = (filters + width - 1) // width
    panel = whole_tiles(channels) * width
    step = point_step(table.shape[0] * panels * panel, dw.itemsize)
    most = rows_at_once(elements, lanes)
    none = (most * elements + lanes) * lanes
    for filter_ in range(0, filters, lanes):
        there = min(lanes, filters - filter_)
        for channel in range(0, channels, most):
            some = min(most, channels - channel)
            for c in range(some):
                p = filter_ // width * panel + (channel + c) * width + filter_ % width
                finish_row(
                    sums, p, step, panels * panel, c * elements * lanes, lanes, none, table, taps, half
                )
            for q in range(0, some * elements, lanes):
                left = min(lanes, some * elements - q)
                transpose_square(taps, q * lanes, lanes, left, lanes, square, 0)
                for f in range(there):
                    target = ((filter_ + f) * channels + channel) * elements + q
                    store_some(dw, target, load(square, f * lanes), left)


@jit
def finish_last_filters(sums, channels, filters, width, elements, table, dw, taps, square):
    """As `finish_filters`, to ``dw`` (filters, elements, channels)."""
    lanes = VECTOR_BYTES // dw.itemsize
    half = spread(dw.dtype.type(0.5))
    panels = (filters + width - 1) // width
    panel = whole_tiles(channels) * width
    step = point_step(table.shape[0] * panels * panel, dw.itemsize)
    for filter_ in range(0, filters, lanes):
        there = min(lanes, filters - filter_)
        for channel in range(0, channels, lanes):
            some = min(lanes, channels - channel)
            for c in range(some):
                p = filter_ // width * panel + (channel + c) * width + filter_ % width
                finish_row(
                    sums, p, step, panels * panel, c * lanes, lanes * lanes, elements * lanes * lanes, table,
                    taps, half,
                )  # fmt: skip
                # The lines that these channels are written to meanwhile.
                if c < there:
                    for element in range(elements):
                        prefetch(dw, ((filter_ + c) * elements + element) * channels + channel, 1)
            for element in range(elements):
                transpose_square(taps, element * lanes * lanes, lanes, some, lanes, square, 0)
                for f in range(there):
                    target = ((filter_ + f) * elements + element) * channels + channel
                    store_some(dw, target, load(square, f * lanes), some)
