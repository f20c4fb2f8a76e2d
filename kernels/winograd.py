"""Convolution with 3, 5 or 7 taps at stride 1 in the plane by Winograd's minimal filtering F(2x2, 3x3).

Two outputs of three taps take four multiplications instead of six; in two dimensions a *patch* of 2x2 outputs
takes 16 instead of 36. An image is cut into patches of 4x4 cells that overlap by two; each patch d, filter g
and gradient e is transformed to its values at 16 *points*, and at every point the transforms multiply as in a
1x1 convolution: one matrix product over patches, channels and filters. Taps along a depth are further runs of
the same sum, over the points of further planes; and of 5 or 7 taps in the plane the fourth and fifth, and the
sixth and seventh, are kernels of their own, whose first tap is zero, over the points of the next patches: 5x5
taps take 64 multiplications instead of 100, 7x7 taps 144 instead of 196.

    forward           y = A^T [ (G g G^T) * (B^T d B) ] A
    backward-weight   dg = G^T [ (A e A^T) * (B^T d B) ] G

         | 1  0 -1  0 |        | 1    0    0  |        | 1  0 |
    B^T =| 0  1  1  0 |    G = | 1/2  1/2 1/2 |    A = | 1  1 |
         | 0 -1  1  0 |        | 1/2 -1/2 1/2 |        | 1 -1 |
         | 0  1  0 -1 |        | 0    0    1  |        | 0 -1 |

(A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks", arXiv:1509.09308, section 4.1.)
All coefficients are 0, 1 and 1/2, so float32 keeps its digits; larger patches save more and lose some.

Everything runs with vectors along channels or filters: patches are rows of the products, so no plane is too
small and no lane is wasted but behind the last channel. Images with the channels first are transposed on the
way into a *band*, the padded lines that a chunk of patches reads, and results on the way out.
"""

import numpy as np

from fastconv.kernels.bands import chunk_of, clear, empty_band, fill_band
from fastconv.kernels.jit import inner, jit, part
from fastconv.kernels.lanes import (
    load,
    load_some,
    multiply_add,
    prefetch,
    spread,
    store,
    store_some,
    transpose_square,
)
from fastconv.kernels.panels import ROWS, find_vector, multiply_panels, multiply_rows, place_rows, whole_tiles
from fastconv.kernels.vectors import VECTOR_BYTES

POINTS = 16
# Channels that one sum runs over before it is added to the others, and channels of several depths.
SUM = 128
DEPTH_SUM = 256


@inner
def point_step(elements, itemsize):
    """From one point's elements to the next one's: an odd number of cache lines.

    Sixteen streams at a power of two from each other fall into one set of the caches: for 512x7 -> 512 the
    transform of the filters took 4.8 ms with it and 3.4 ms so (AVX-512 Xeon).
    """
    line = 64 // itemsize
    return ((elements + line - 1) // line | 1) * line


@inner
def image_points(d):
    """B^T of four cells."""
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


@inner
def filter_points(g0, g1, g2, half):
    """G of three taps."""
    outer = (g0 + g2) * half
    inner = g1 * half
    return g0, outer + inner, outer - inner, g2


@inner
def gradient_points(e0, e1, zero):
    """A of two cells."""
    return e0, e0 + e1, e0 - e1, zero - e1


@inner
def output_cells(m):
    """A^T of four points."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


@inner
def filter_taps(m0, m1, m2, m3, half):
    """G^T of four points."""
    outer = (m1 + m2) * half
    return m0 + outer, (m1 - m2) * half, outer + m3


@inner
def load_four(x, first, step):
    """Four vectors at equal distances."""
    return (
        load(x, first),
        load(x, first + step),
        load(x, first + 2 * step),
        load(x, first + 3 * step),
    )


@inner
def store_four(out, first, step, four):
    """Four vectors to equal distances."""
    store(out, first, four[0])
    store(out, first + step, four[1])
    store(out, first + 2 * step, four[2])
    store(out, first + 3 * step, four[3])


@inner
def transform_image(band, row, lines, across, pitch, points, patch, step):
    """B^T d B of every patch of some lines of patches, for all channels.

    Parameters
    ----------
    band : 1-D float array (rows, 2*across + 2, pitch)
        Read from ``row`` on.
    row, lines, across, pitch : int
        So many lines of patches, with so many patches each.
    points : 1-D float array (16, patches, pitch)
        Written from patch ``patch`` on.
    patch, step : int
        ``step`` is from one point to the next: patches * pitch.
    """
    lanes = VECTOR_BYTES // band.itemsize
    line = (2 * across + 2) * pitch
    for i in range(lines):
        for j in range(across):
            first = (row + 2 * i) * line + 2 * j * pitch
            target = (patch + i * across + j) * pitch
            for c in range(0, pitch, lanes):
                p = first + c
                a0, a1, a2, a3 = image_points(load_four(band, p, line))
                p += pitch
                b0, b1, b2, b3 = image_points(load_four(band, p, line))
                p += pitch
                c0, c1, c2, c3 = image_points(load_four(band, p, line))
                p += pitch
                d0, d1, d2, d3 = image_points(load_four(band, p, line))
                q = target + c
                store_four(points, q, step, image_points((a0, b0, c0, d0)))
                store_four(points, q + 4 * step, step, image_points((a1, b1, c1, d1)))
                store_four(points, q + 8 * step, step, image_points((a2, b2, c2, d2)))
                store_four(points, q + 12 * step, step, image_points((a3, b3, c3, d3)))


@inner
def transform_gradient(band, row, lines, across, pitch, width, points, patch, patches):
    """A e A^T of every patch of some lines of patches, as panels that a product can stream.

    Parameters
    ----------
    band : 1-D float array (rows, 2*across, pitch)
    row, lines, across, pitch : int
    width : int
        Of a panel; the last may be narrower.
    points : 1-D float array (16, panels, patches, width)
        Written from patch ``patch`` on.
    patch, patches : int
    """
    lanes = VECTOR_BYTES // band.itemsize
    step = point_step(pitch * patches, band.itemsize)
    line = 2 * across * pitch
    zero = spread(band.dtype.type(0))
    for i in range(lines):
        for j in range(across):
            first = (row + 2 * i) * line + 2 * j * pitch
            for panel in range(0, pitch, width):
                some = min(width, pitch - panel)
                target = panel * patches + (patch + i * across + j) * some
                for c in range(0, some, lanes):
                    p = first + panel + c
                    a0, a1, a2, a3 = gradient_points(load(band, p), load(band, p + line), zero)
                    p += pitch
                    b0, b1, b2, b3 = gradient_points(load(band, p), load(band, p + line), zero)
                    q = target + c
                    store_four(points, q, step, gradient_points(a0, b0, zero))
                    store_four(points, q + 4 * step, step, gradient_points(a1, b1, zero))
                    store_four(points, q + 8 * step, step, gradient_points(a2, b2, zero))
                    store_four(points, q + 12 * step, step, gradient_points(a3, b3, zero))


@inner
def transform_output(points, patch, step, bias, lines, across, pitch, band, row, rows, columns, broken):
    """A^T m A of every patch, plus bias: patches that reach beyond ``rows`` and ``columns`` are cut.

    Parameters
    ----------
    points : 1-D float array (16, patches, pitch)
        Read from patch ``patch`` on; ``step`` is from one point to the next.
    bias : 1-D float array (pitch,)
    lines, across, pitch : int
    band : 1-D float array (rows, columns, pitch)
        Written from ``row`` on.
    row, rows, columns : int
    broken : 1-D float array
        One vector: becomes NaN where a result is not finite.
    """
    lanes = VECTOR_BYTES // band.itemsize
    zero = spread(band.dtype.type(0))
    found = load(broken, 0)
    for i in range(lines):
        below = 2 * i + 1 < rows
        for j in range(across):
            beside = 2 * j + 1 < columns
            first = (patch + i * across + j) * pitch
            target = ((row + 2 * i) * columns + 2 * j) * pitch
            for c in range(0, pitch, lanes):
                p = first + c
                a0, a1 = output_cells(load_four(points, p, step))
                p += 4 * step
                b0, b1 = output_cells(load_four(points, p, step))
                p += 4 * step
                c0, c1 = output_cells(load_four(points, p, step))
                p += 4 * step
                d0, d1 = output_cells(load_four(points, p, step))
                added = load(bias, c)
                # a0 to d0: the left cells, still points along the height.
                top, bottom = output_cells((a0, b0, c0, d0))
                found = multiply_add(top + bottom, zero, found)
                q = target + c
                store(band, q, top + added)
                if below:
                    store(band, q + columns * pitch, bottom + added)
                if beside:
                    top, bottom = output_cells((a1, b1, c1, d1))
                    found = multiply_add(top + bottom, zero, found)
                    store(band, q + pitch, top + added)
                    if below:
                        store(band, q + (columns + 1) * pitch, bottom + added)
    store(broken, 0, found)


@inner
def load_taps(taps, first, step, rotated):
    """The nine vectors of one row of transposed filters, in order or from the last to the first."""
    p = first + 8 * step if rotated else first
    step = -step if rotated else step
    return (
        (load(taps, p), load(taps, p + step), load(taps, p + 2 * step)),
        (load(taps, p + 3 * step), load(taps, p + 4 * step), load(taps, p + 5 * step)),
        (load(taps, p + 6 * step), load(taps, p + 7 * step), load(taps, p + 8 * step)),
    )


@inner
def store_filter(g, h, k, half, weights, p, step):
    """G g G^T of one row's nine taps, three vectors each, to the 16 points from ``p`` on."""
    a0, a1, a2, a3 = filter_points(g[0], h[0], k[0], half)
    b0, b1, b2, b3 = filter_points(g[1], h[1], k[1], half)
    c0, c1, c2, c3 = filter_points(g[2], h[2], k[2], half)
    store_four(weights, p, step, filter_points(a0, b0, c0, half))
    store_four(weights, p + 4 * step, step, filter_points(a1, b1, c1, half))
    store_four(weights, p + 8 * step, step, filter_points(a2, b2, c2, half))
    store_four(weights, p + 12 * step, step, filter_points(a3, b3, c3, half))


@jit
def transform_filters(w, first, lane_step, row_step, rows, depths, vectors, rotated, panel, weights, taps):
    """G g G^T of filters, as panels that a product can stream.

    Vectors run along filters and rows are channels; for backward-input it is the other way round, and the
    filters are rotated by 180 degrees.

    Parameters
    ----------
    w : 1-D float array
        Filters of 3x3 taps, the nine taps of all depths one behind the other.
    first : int
        Where the first row's first filter begins.
    lane_step, row_step : int
        In ``w`` from one lane and from one row to the next.
    rows : int
    depths : int64 array (taps along the depth,)
        For each where it stands in a panel; -1: nowhere.
    vectors : tuple of three int
        From and up to which vector of lanes, and how many lanes there are in all.
    rotated : bool
        In the plane.
    panel : int
        Vectors of a panel; the last may have fewer.
    weights : 1-D float array (16, panels, depths, rows, vectors of the panel)
        Written; what it holds behind the last lane is not used.
    taps : 1-D float array
        Scratch of (9 lanes + 1) * lanes vectors' lanes.
    """
    lanes = VECTOR_BYTES // w.itemsize
    half = spread(w.dtype.type(0.5))
    all_vectors = (vectors[2] + lanes - 1) // lanes
    deep = depths.size
    height = rows
    for depth in depths:
        height = max(height, (depth + 1) * rows)
    step = point_step(all_vectors * height * lanes, w.itemsize)
    # Rows whose taps lie one behind the other are transposed several at a time.
    some = rows if row_step == 9 * deep else 1
    for vector in range(vectors[0], vectors[1]):
        there = min(lanes, vectors[2] - vector * lanes)
        place, width = find_vector(vector, all_vectors, panel, height, lanes)
        for row in range(0, rows, some):
            for unit in range(0, some * deep, lanes):
                source = first + vector * lanes * lane_step + row * row_step + 9 * unit
                count = min(lanes, some * deep - unit)
                for q in range(0, 9 * count, lanes):
                    left = min(lanes, 9 * count - q)
                    transpose_square(w, source + q, lane_step, there, left, taps, q * lanes)
                for r in range(count):
                    depth = depths[(unit + r) % deep]
                    if depth < 0:
                        continue
                    g, h, k = load_taps(taps, 9 * r * lanes, lanes, rotated)
                    p = depth * rows + row + (unit + r) // deep
                    store_filter(g, h, k, half, weights, place + p * width, step)


@jit
def transform_last_filters(
    w, first, lane_step, row_step, tap_step, rows, depths, vectors, rotated, panel, weights, taps
):  # fmt: skip
    """As `transform_filters`, of filters that have their channels last, and the taps ``tap_step`` apart.

    One of ``lane_step`` and ``row_step`` is 1. ``taps`` is scratch of 9 lanes vectors.
    """
    lanes = VECTOR_BYTES // w.itemsize
    half = spread(w.dtype.type(0.5))
    all_vectors = (vectors[2] + lanes - 1) // lanes
    height = rows
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
                for tap in range(9):
                    source = first + vector * lanes * lane_step + row * row_step + (9 * d + tap) * tap_step
                    target = tap * lanes * lanes
                    if row_step == 1:
                        transpose_square(w, source, lane_step, there, some, taps, target)
                    else:
                        for r in range(some):
                            store(taps, target + r * lanes, load_some(w, source + r * row_step, there))
                for r in range(some):
                    g, h, k = load_taps(taps, r * lanes, lanes * lanes, rotated)
                    p = depths[d] * rows + row + r
                    store_filter(g, h, k, half, weights, place + p * width, step)


@inner
def finish_filter(sums, p, step, half, taps, first, tap_step):
    """G^T Z G of one row's sums, at the 16 points from ``p`` on, to nine vectors from ``first`` on."""
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
def finish_filters(sums, channels, filters, width, deep, dw, taps, square):
    """G^T Z G of summed points: the gradient of the filters.

    Parameters
    ----------
    sums : 1-D float array (16, deep, panels, channels in whole tiles, width)
    channels, filters, width, deep : int
        ``width`` are the filters of a panel, ``deep`` taps along the depth.
    dw : 1-D float array (filters, channels, deep, 9)
        Written.
    taps : 1-D float array
        Scratch of (9 * the larger of lanes and ``deep`` + lanes) vectors.
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    lanes = VECTOR_BYTES // dw.itemsize
    half = spread(dw.dtype.type(0.5))
    panels = (filters + width - 1) // width
    tall = whole_tiles(channels) * width
    step = point_step(deep * panels * tall, dw.itemsize)
    for filter_ in range(0, filters, lanes):
        there = min(lanes, filters - filter_)
        # Channels whose taps of all depths fill about a vector of units.
        few = max(1, lanes // deep)
        for channel in range(0, channels, few):
            units = min(few, channels - channel) * deep
            for unit in range(units):
                c, depth = channel + unit // deep, unit % deep
                p = (depth * panels + filter_ // width) * tall + c * width + filter_ % width
                finish_filter(sums, p, step, half, taps, 9 * unit * lanes, lanes)
            for q in range(0, 9 * units, lanes):
                some = min(lanes, 9 * units - q)
                transpose_square(taps, q * lanes, lanes, some, lanes, square, 0)
                for f in range(there):
                    target = ((filter_ + f) * channels + channel) * deep * 9 + q
                    store_some(dw, target, load(square, f * lanes), some)


@jit
def finish_last_filters(sums, channels, filters, width, deep, dw, taps, square):
    """As `finish_filters`, to ``dw`` (filters, deep, 9, channels)."""
    lanes = VECTOR_BYTES // dw.itemsize
    half = spread(dw.dtype.type(0.5))
    panels = (filters + width - 1) // width
    tall = whole_tiles(channels) * width
    step = point_step(deep * panels * tall, dw.itemsize)
    for filter_ in range(0, filters, lanes):
        there = min(lanes, filters - filter_)
        for channel in range(0, channels, lanes):
            some = min(lanes, channels - channel)
            for depth in range(deep):
                for c in range(some):
                    p = (depth * panels + filter_ // width) * tall + (channel + c) * width + filter_ % width
                    finish_filter(sums, p, step, half, taps, c * lanes, lanes * lanes)
                    # The lines that these channels are written to meanwhile.
                    if c < there:
                        for tap in range(9):
                            target = (((filter_ + c) * deep + depth) * 9 + tap) * channels + channel
                            prefetch(dw, target, 1)
                for tap in range(9):
                    transpose_square(taps, tap * lanes * lanes, lanes, some, lanes, square, 0)
                    for f in range(there):
                        target = (((filter_ + f) * deep + depth) * 9 + tap) * channels + channel
                        store_some(dw, target, load(square, f * lanes), some)


@part
def transform_chunk(
    x, image, images, channels, start, planes, lines, across, pitch, band, points, step, square
):  # fmt: skip
    """The points of the patches (planes, images, lines, across) that a chunk reads, zero outside the image.

    Parameters
    ----------
    x, image, channels, pitch, square
        As in `fastconv.kernels.bands.fill_band`.
    images : tuple of two int
        The first one, and how many.
    start : tuple of three int
        Plane, line and column of the image where the first patch begins.
    planes, lines, across : int
    band : 1-D float array
        Scratch: the lines of one plane.
    points, step
        As in `transform_image`.
    """
    patches = lines * across
    for d in range(planes):
        first = d * images[1] * patches
        if start[0] + d < 0 or start[0] + d >= image[7]:
            for point in range(POINTS):
                clear(points, point * step + first * pitch, images[1] * patches * pitch)
            continue
        for n in range(images[1]):
            fill_band(
                x, image, images[0] + n, start[0] + d, channels, (start[1], start[2]), band, 2 * lines + 2,
                2 * across + 2, pitch, square,
            )  # fmt: skip
            transform_image(band, 0, lines, across, pitch, points, first + n * patches, step)


@inner
def stretches_of_tiles(reach, plane, in_plane, patches, stretches):
    """Tiles of patches one behind the other whose taps along the depth lie in the image.

    Writes for each stretch from and up to which patch and tap it goes; returns how many there are.
    ``plane`` is the first patch's, and ``in_plane`` how many patches a plane has.
    """
    count = 0
    for t in range(0, patches, ROWS):
        stop = min(patches, t + ROWS)
        lowest, highest = reach[plane + t // in_plane, 0], reach[plane + t // in_plane, 1]
        for d in range(t // in_plane + 1, (stop - 1) // in_plane + 1):
            lowest, highest = min(lowest, reach[plane + d, 0]), max(highest, reach[plane + d, 1])
        if count == 0 or stretches[count - 1, 2] != lowest or stretches[count - 1, 3] != highest:
            stretches[count, 0], stretches[count, 2], stretches[count, 3] = t, lowest, highest
            count += 1
        stretches[count - 1, 1] = stop
    return count


@jit
def convolve_patches(
    x, image, weights, bias, y, output, batch, channels, filters, start, stride, places, beyond, reach,
    chunks, chunk, band, points, products, cells,
):  # fmt: skip
    """Convolve some chunks of patches of one group.

    Parameters
    ----------
    x, y : 1-D float array
        Images and outputs.
    image, output : tuple of nine int
        Where the first image's first channel of this group begins, then from one image, channel and cell to
        the next, then height and width, from one line to the next, the depth, and from one plane of it to the
        next. The step of channels is 1 where they are last.
    weights : 1-D float array
        From `transform_filters`.
    bias : 1-D float array
        Zero or more for each filter, in whole vectors.
    batch, channels : int
    filters : tuple of four int
        From and up to which panel, how many filters in all, and how many of a panel.
    start : tuple of three int
        Plane, line and column of the image where the first patch begins.
    stride : int
        Along the depth.
    places : int64 array (kernels, 3)
        The plane, line and column of patches that each kernel of 3x3 taps reads, from the first one's on.
    beyond : tuple of two int
        Lines and columns of patches that are read beyond those that are written.
    reach : int64 array (depth of the output, 2)
        From and up to which kernel those of each plane lie in the image.
    chunks : tuple of two int
        From and up to which chunk.
    chunk : tuple of three int
        So many images, planes and lines of patches are a chunk: all planes and lines where there are several
        images.
    band, points, products, cells : 1-D float array
        Scratch: lines of a plane, a chunk's points, their products and the output.

    Returns
    -------
    bool
        Whether all results are finite. One cell that is not spoils its whole patch, where it should have
        spoilt the outputs that reach it.
    """
    lanes = VECTOR_BYTES // x.itemsize
    width = filters[3]
    pitch = (channels + lanes - 1) // lanes * lanes
    first_filter = filters[0] * width
    some = min(filters[2], filters[1] * width) - first_filter
    out_pitch = (some + lanes - 1) // lanes * lanes
    down, across = (output[4] + 1) // 2, (output[5] + 1) // 2
    most = whole_tiles(chunk[0] * chunk[1] * chunk[2] * across)
    a_rows, c_rows, no_rows = np.empty(most, np.int64), np.empty(most, np.int64), np.zeros(most, np.int64)
    place_rows(c_rows, most, out_pitch)
    deep = places.shape[0]
    a_runs, b_runs = np.empty(deep, np.int64), np.empty(deep, np.int64)
    stretches = np.empty((most // ROWS, 4), np.int64)
    zeros = np.zeros(width, x.dtype)
    square = np.empty(lanes * lanes, x.dtype)
    broken = np.zeros(lanes, x.dtype)
    added = bias[first_filter:]
    all_filters = (filters[2] + lanes - 1) // lanes * lanes
    weights_step = point_step(all_filters * deep * channels, x.itemsize)
    at_once = max(1, DEPTH_SUM // channels)
    for k in range(chunks[0], chunks[1]):
        first_image, images, first_plane, planes, first_line, lines = chunk_of(
            k, batch, output[7], down, chunk
        )
        in_plane = images * lines * across
        patches = planes * in_plane
        read, read_lines, read_across = (
            (planes - 1) * stride + places[deep - 1, 0] + 1, lines + beyond[0], across + beyond[1]
        )  # fmt: skip
        step = point_step(read * images * read_lines * read_across * pitch, x.itemsize)
        out_step = point_step(whole_tiles(patches) * out_pitch, x.itemsize)
        for i in range(most):
            plane, patch = divmod(min(i, patches - 1), in_plane)
            number, patch = divmod(patch, lines * across)
            line, column = divmod(patch, across)
            a_rows[i] = (
                ((plane * stride * images + number) * read_lines + line) * read_across + column
            ) * pitch
        several = stretches_of_tiles(reach, first_plane, in_plane, patches, stretches)
        begin = start[0] + first_plane * stride, start[1] + 2 * first_line, start[2]
        transform_chunk(
            x, image, (first_image, images), channels, begin, read, read_lines, read_across, pitch, band,
            points, step, square,
        )  # fmt: skip
        for point in range(POINTS):
            # (patches, some filters) = (patches, depths x channels) @ (depths x channels, some filters)
            here = points[point * step :]
            for panel in range(filters[0], filters[1]):
                b = point * weights_step + panel * deep * channels * width
                c = point * out_step + (panel - filters[0]) * width
                vectors = min(width, out_pitch - (panel - filters[0]) * width) // lanes
                for first in range(0, channels, SUM):
                    some_channels = min(SUM, channels - first)
                    for tap in range(deep):
                        a_runs[tap] = places[tap, 0] * images * read_lines + places[tap, 1]
                        a_runs[tap] = (a_runs[tap] * read_across + places[tap, 2]) * pitch + first
                        b_runs[tap] = tap * channels + first
                    for tap in range(0, deep, at_once):
                        stop = min(deep, tap + at_once)
                        begun, begun_rows = zeros, no_rows
                        if first > 0 or tap > 0:
                            begun, begun_rows = products[c:], c_rows
                        steps = (stop - tap) * some_channels
                        ahead = b + (b_runs[tap] + steps) * vectors * lanes
                        for i in range(several):
                            lowest = max(tap, stretches[i, 2])
                            runs = max(0, min(stop, stretches[i, 3]) - lowest)
                            a_some, b_some = a_runs[lowest:], b_runs[lowest:]
                            for t in range(stretches[i, 0], stretches[i, 1], ROWS):
                                multiply_panels(
                                    here, a_rows, t, a_some, weights, b, b_some, runs, some_channels, weights,
                                    ahead + t // ROWS * lanes * steps, lanes, begun, begun_rows, products, c,
                                    c_rows, vectors, ROWS,
                                )  # fmt: skip
        rows = min(2 * lines, output[4] - 2 * first_line)
        # Lines that lie one behind the other leave together.
        together = rows if output[6] == output[5] * output[3] else 1
        for i in range(planes * images):
            transform_output(
                products, i * lines * across, out_step, added, lines, across, out_pitch, cells, 0, rows,
                output[5], broken,
            )  # fmt: skip
            place = output[0] + (first_image + i % images) * output[1] + first_filter * output[2]
            place += (first_plane + i // images) * output[8] + 2 * first_line * output[6]
            for line in range(0, rows, together):
                empty_band(
                    cells, line * output[5], together * output[5], out_pitch, y, place + line * output[6],
                    output[2], output[3], some, square,
                )  # fmt: skip
    return not np.any(broken)


@jit
def sum_patches(
    dy, gradient, x, image, sums, batch, channels, filters, start, stride, places, beyond, reach, chunks,
    chunk, band, points, gradient_points_,
):  # fmt: skip
    """Add to the points of a group's filter gradients what some chunks of patches give.

    Parameters
    ----------
    dy, gradient, x, image, batch, channels, start, stride, places, beyond, chunks, chunk, band, points
        As in `convolve_patches`; ``gradient`` is that of the output ``dy``.
    sums : 1-D float array (16, kernels, panels, channels in whole tiles, filters of a panel)
        Added to.
    filters : tuple of three int
        The first one, how many, and how many of a panel.
    reach : int64 array (kernels, 2)
        From and up to which plane of the output each kernel lies in the image.
    gradient_points_ : 1-D float array
        Scratch, as ``points``.
    """
    lanes = VECTOR_BYTES // x.itemsize
    width = filters[2]
    pitch = (channels + lanes - 1) // lanes * lanes
    gradient_pitch = (filters[1] + lanes - 1) // lanes * lanes
    panels = (filters[1] + width - 1) // width
    down, across = (gradient[4] + 1) // 2, (gradient[5] + 1) // 2
    most, deep = whole_tiles(channels), places.shape[0]
    a_rows, c_rows = np.empty(most, np.int64), np.empty(most, np.int64)
    place_rows(a_rows, channels, 1)
    place_rows(c_rows, most, width)
    sums_step = point_step(deep * panels * most * width, x.itemsize)
    # A run goes through whole planes of patches, or through a line of them where others are read beyond.
    by_line = beyond[0] + beyond[1] > 0
    most_runs = chunk[0] * chunk[1] * chunk[2] if by_line else chunk[1]
    a_runs, b_runs = np.empty(most_runs, np.int64), np.empty(most_runs, np.int64)
    square = np.empty(lanes * lanes, x.dtype)
    some_filters = (gradient[0] + filters[0] * gradient[2], *gradient[1:])
    for k in range(chunks[0], chunks[1]):
        first_image, images, first_plane, planes, first_line, lines = chunk_of(
            k, batch, gradient[7], down, chunk
        )
        in_plane = images * lines * across
        patches = planes * in_plane
        read, read_lines, read_across = (
            (planes - 1) * stride + places[deep - 1, 0] + 1, lines + beyond[0], across + beyond[1]
        )  # fmt: skip
        read_plane = images * read_lines * read_across
        step = point_step(read * read_plane * pitch, x.itemsize)
        steps, in_run = (across, images * lines) if by_line else (in_plane, 1)
        gradient_step = point_step(gradient_pitch * patches, x.itemsize)
        begin = start[0] + first_plane * stride, start[1] + 2 * first_line, start[2]
        transform_chunk(
            x, image, (first_image, images), channels, begin, read, read_lines, read_across, pitch, band,
            points, step, square,
        )  # fmt: skip
        for i in range(planes * images):
            fill_band(
                dy, some_filters, first_image + i % images, first_plane + i // images, filters[1],
                (2 * first_line, 0), band, 2 * lines, 2 * across, gradient_pitch, square,
            )  # fmt: skip
            transform_gradient(
                band, 0, lines, across, gradient_pitch, width, gradient_points_, i * lines * across, patches
            )
        for tap in range(deep):
            lowest = max(0, reach[tap, 0] - first_plane)
            runs = max(0, min(planes, reach[tap, 1] - first_plane) - lowest) * in_run
            shift = (places[tap, 1] * read_across + places[tap, 2]) * pitch
            for i in range(runs):
                plane, line = divmod(i, in_run)
                number, line = divmod(line, lines)
                begin_of_run = ((lowest + plane) * stride + places[tap, 0]) * read_plane
                begin_of_run += (number * read_lines + line) * read_across
                a_runs[i] = begin_of_run * pitch + shift
                b_runs[i] = (lowest * in_run + i) * steps
            for point in range(POINTS if runs > 0 else 0):
                # (channels, filters) += (channels, patches) @ (patches, filters)
                here = points[point * step :]
                for panel in range(panels):
                    b = point * gradient_step + panel * patches * width
                    c = point * sums_step + (tap * panels + panel) * most * width
                    vectors = min(width, gradient_pitch - panel * width) // lanes
                    for r in range(0, channels, ROWS):
                        multiply_rows(
                            here, a_rows, r, a_runs, pitch, gradient_points_, b, b_runs, runs, steps,
                            points, 0, 0, sums[c:], c_rows, sums, c, c_rows, vectors, ROWS,
                        )  # fmt: skip
