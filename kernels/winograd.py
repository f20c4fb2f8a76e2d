"""Convolution with 3x3 taps at stride 1 by Winograd's minimal filtering F(2x2, 3x3).

Two outputs of three taps take four multiplications instead of six; in two dimensions a *patch* of 2x2 outputs
takes 16 instead of 36. An image is cut into patches of 4x4 cells that overlap by two; each patch d, filter g
and gradient e is transformed to its values at 16 *points*, and at every point the transforms multiply as in a
1x1 convolution: one matrix product over patches, channels and filters.

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

from fastconv.kernels.bands import empty_band, fill_band
from fastconv.kernels.jit import jit
from fastconv.kernels.lanes import load, multiply_add, spread, store, store_some, transpose_square
from fastconv.kernels.panels import PANEL, ROWS, multiply_panels, multiply_rows, place_rows, whole_tiles
from fastconv.kernels.vectors import VECTOR_BYTES

POINTS = 16
# Channels that one sum runs over before it is added to the others.
SUM = 128


@jit
def point_step(elements, itemsize):
    """From one point's elements to the next one's: an odd number of cache lines.

    Sixteen streams at a power of two from each other fall into one set of the caches: for 512x7 -> 512 the
    transform of the filters took 4.8 ms with it and 3.4 ms so (AVX-512 Xeon).
    """
    line = 64 // itemsize
    return ((elements + line - 1) // line | 1) * line


@jit
def image_points(d):
    """B^T of four cells."""
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


@jit
def filter_points(g0, g1, g2, half):
    """G of three taps."""
    outer = (g0 + g2) * half
    inner = g1 * half
    return g0, outer + inner, outer - inner, g2


@jit
def gradient_points(e0, e1, zero):
    """A of two cells."""
    return e0, e0 + e1, e0 - e1, zero - e1


@jit
def output_cells(m):
    """A^T of four points."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


@jit
def filter_taps(m0, m1, m2, m3, half):
    """G^T of four points."""
    outer = (m1 + m2) * half
    return m0 + outer, (m1 - m2) * half, outer + m3


@jit
def load_four(x, first, step):
    """Four vectors at equal distances."""
    return (
        load(x, first),
        load(x, first + step),
        load(x, first + 2 * step),
        load(x, first + 3 * step),
    )


@jit
def store_four(out, first, step, four):
    """Four vectors to equal distances."""
    store(out, first, four[0])
    store(out, first + step, four[1])
    store(out, first + 2 * step, four[2])
    store(out, first + 3 * step, four[3])


@jit
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


@jit
def transform_gradient(band, row, lines, across, pitch, points, patch, patches):
    """A e A^T of every patch of some lines of patches, as panels that a product can stream.

    Parameters
    ----------
    band : 1-D float array (rows, 2*across, pitch)
    row, lines, across, pitch : int
    points : 1-D float array (16, panels, patches, `PANEL` vectors)
        Written from patch ``patch`` on.
    patch, patches : int
    """
    lanes = VECTOR_BYTES // band.itemsize
    width = PANEL * lanes
    step = point_step((pitch + width - 1) // width * patches * width, band.itemsize)
    line = 2 * across * pitch
    zero = spread(band.dtype.type(0))
    for i in range(lines):
        for j in range(across):
            first = (row + 2 * i) * line + 2 * j * pitch
            for c in range(0, pitch, lanes):
                p = first + c
                a0, a1, a2, a3 = gradient_points(load(band, p), load(band, p + line), zero)
                p += pitch
                b0, b1, b2, b3 = gradient_points(load(band, p), load(band, p + line), zero)
                q = ((c // width) * patches + patch + i * across + j) * width + c % width
                store_four(points, q, step, gradient_points(a0, b0, zero))
                store_four(points, q + 4 * step, step, gradient_points(a1, b1, zero))
                store_four(points, q + 8 * step, step, gradient_points(a2, b2, zero))
                store_four(points, q + 12 * step, step, gradient_points(a3, b3, zero))


@jit
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


@jit
def load_taps(taps, first, lanes, rotated):
    """The nine vectors of one row of transposed filters, in order or from the last to the first."""
    step = -lanes if rotated else lanes
    p = first + 8 * lanes if rotated else first
    return (
        (load(taps, p), load(taps, p + step), load(taps, p + 2 * step)),
        (load(taps, p + 3 * step), load(taps, p + 4 * step), load(taps, p + 5 * step)),
        (load(taps, p + 6 * step), load(taps, p + 7 * step), load(taps, p + 8 * step)),
    )


@jit
def transform_filters(w, first, lane_step, row_step, rows, vectors, rotated, panels, weights, taps):
    """G g G^T of filters, as panels that a product can stream.

    Vectors run along filters and rows are channels; for backward-input it is the other way round, and the
    filters are rotated by 180 degrees.

    Parameters
    ----------
    w : 1-D float array
        Filters of 3x3 taps, the nine taps one behind the other.
    first : int
        Where the first row's first filter begins.
    lane_step, row_step : int
        In ``w`` from one lane and from one row to the next.
    rows : int
    vectors : tuple of three int
        From and up to which vector of lanes, and how many lanes there are in all.
    rotated : bool
    panels : int
        ``vectors`` of all lanes in panels of `PANEL`.
    weights : 1-D float array (16, panels, rows, `PANEL` vectors)
        Written; what it holds behind the last lane is not used.
    taps : 1-D float array
        Scratch of (9 lanes + 1) * lanes vectors' lanes.
    """
    lanes = VECTOR_BYTES // w.itemsize
    half = spread(w.dtype.type(0.5))
    width = PANEL * lanes
    step = point_step(panels * rows * width, w.itemsize)
    # Rows whose taps lie one behind the other are transposed several at a time.
    some = lanes if row_step == 9 else 1
    for vector in range(vectors[0], vectors[1]):
        there = min(lanes, vectors[2] - vector * lanes)
        for row in range(0, rows, some):
            source = first + vector * lanes * lane_step + row * row_step
            count = min(some, rows - row)
            for q in range(0, 9 * count, lanes):
                transpose_square(w, source + q, lane_step, there, min(lanes, 9 * count - q), taps, q * lanes)
            for r in range(count):
                g, h, k = load_taps(taps, 9 * r * lanes, lanes, rotated)
                a0, a1, a2, a3 = filter_points(g[0], h[0], k[0], half)
                b0, b1, b2, b3 = filter_points(g[1], h[1], k[1], half)
                c0, c1, c2, c3 = filter_points(g[2], h[2], k[2], half)
                p = (vector // PANEL * rows + row + r) * width + vector % PANEL * lanes
                store_four(weights, p, step, filter_points(a0, b0, c0, half))
                store_four(weights, p + 4 * step, step, filter_points(a1, b1, c1, half))
                store_four(weights, p + 8 * step, step, filter_points(a2, b2, c2, half))
                store_four(weights, p + 12 * step, step, filter_points(a3, b3, c3, half))


@jit
def finish_filters(sums, channels, filters, panels, dw, first, taps, square):
    """G^T Z G of summed points: the gradient of the filters.

    Parameters
    ----------
    sums : 1-D float array (16, panels, channels in whole tiles, `PANEL` vectors along filters)
    channels, filters, panels : int
    dw : 1-D float array (filters, channels, 9)
        Written, from ``first`` on.
    first : int
    taps : 1-D float array
        As in `transform_filters`.
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    lanes = VECTOR_BYTES // dw.itemsize
    half = spread(dw.dtype.type(0.5))
    width = PANEL * lanes
    tall = whole_tiles(channels) * width
    step = point_step(panels * tall, dw.itemsize)
    for filter_ in range(0, filters, lanes):
        there = min(lanes, filters - filter_)
        for channel in range(0, channels, lanes):
            count = min(lanes, channels - channel)
            for c in range(count):
                p = filter_ // width * tall + (channel + c) * width + filter_ % width
                a = load_four(sums, p, step)
                b = load_four(sums, p + 4 * step, step)
                d = load_four(sums, p + 8 * step, step)
                e = load_four(sums, p + 12 * step, step)
                g = filter_taps(a[0], b[0], d[0], e[0], half)
                h = filter_taps(a[1], b[1], d[1], e[1], half)
                k = filter_taps(a[2], b[2], d[2], e[2], half)
                m = filter_taps(a[3], b[3], d[3], e[3], half)
                for r in range(3):
                    q = (9 * c + 3 * r) * lanes
                    left, middle, right = filter_taps(g[r], h[r], k[r], m[r], half)
                    store(taps, q, left)
                    store(taps, q + lanes, middle)
                    store(taps, q + 2 * lanes, right)
            for q in range(0, 9 * count, lanes):
                some = min(lanes, 9 * count - q)
                transpose_square(taps, q * lanes, lanes, some, lanes, square, 0)
                for f in range(there):
                    target = first + ((filter_ + f) * channels + channel) * 9 + q
                    store_some(dw, target, load(square, f * lanes), some)


@jit
def chunk_of(k, batch, down, lines, images):
    """What the k-th chunk of patches is: first image, images, first line of patches, lines."""
    in_image = (down + lines - 1) // lines
    image = k // in_image * images
    line = k % in_image * lines
    return image, min(images, batch - image), line, min(lines, down - line)


@jit
def convolve_patches(
    x, image, weights, bias, y, output, batch, channels, filters, start, chunks, lines, images, band, points,
    products, cells,
):  # fmt: skip
    """Convolve some chunks of patches of one group.

    Parameters
    ----------
    x, y : 1-D float array
        Images and outputs.
    image, output : tuple of seven int
        Where the first image's first channel of this group begins, then from one image, channel and cell to
        the next, then height and width, and from one line to the next. The step of channels is 1 where they
        are last.
    weights : 1-D float array
        From `transform_filters`.
    bias : 1-D float array
        Zero or more for each filter, in whole vectors.
    batch, channels : int
    filters : tuple of three int
        From and up to which panel, and how many filters in all.
    start : tuple of two int
        Line and column of the image where the first patch begins.
    chunks : tuple of two int
        From and up to which chunk.
    lines, images : int
        So many lines of patches of so many images are a chunk: either is 1, or all lines.
    band, points, products, cells : 1-D float array
        Scratch: a chunk's image, its points, their products and the output.

    Returns
    -------
    bool
        Whether all results are finite. One cell that is not spoils its whole patch, where it should have
        spoilt the outputs that reach it.
    """
    lanes = VECTOR_BYTES // x.itemsize
    width = PANEL * lanes
    pitch = (channels + lanes - 1) // lanes * lanes
    panels = (filters[2] + width - 1) // width
    first_filter = filters[0] * width
    some = min(filters[2], filters[1] * width) - first_filter
    out_pitch = (some + lanes - 1) // lanes * lanes
    down, across = (output[4] + 1) // 2, (output[5] + 1) // 2
    most = whole_tiles(lines * images * across)
    a_rows, c_rows, no_rows = np.empty(most, np.int64), np.empty(most, np.int64), np.zeros(most, np.int64)
    place_rows(c_rows, most, out_pitch)
    a_run, b_run = np.zeros(1, np.int64), np.zeros(1, np.int64)
    zeros = np.zeros(width, x.dtype)
    square = np.empty(lanes * lanes, x.dtype)
    broken = np.zeros(lanes, x.dtype)
    added = bias[first_filter:]
    weights_step = point_step(panels * channels * width, x.itemsize)
    for k in range(chunks[0], chunks[1]):
        first_image, count, first_line, high = chunk_of(k, batch, down, lines, images)
        patches = count * high * across
        step = point_step(patches * pitch, x.itemsize)
        out_step = point_step(whole_tiles(patches) * out_pitch, x.itemsize)
        place_rows(a_rows, patches, pitch)
        for n in range(count):
            row = n * (2 * high + 2)
            fill_band(
                x, image, first_image + n, channels,
                (start[0] + 2 * first_line, start[1]), band, row, 2 * high + 2, 2 * across + 2, pitch, square,
            )  # fmt: skip
            transform_image(band, row, high, across, pitch, points, n * high * across, step)
        for point in range(POINTS):
            # (patches, some filters) = (patches, channels) @ (channels, some filters)
            here = points[point * step :]
            for panel in range(filters[0], filters[1]):
                b = point * weights_step + panel * channels * width
                c = point * out_step + (panel - filters[0]) * width
                left = (out_pitch - (panel - filters[0]) * width) // lanes
                for first in range(0, channels, SUM):
                    some_channels = min(SUM, channels - first)
                    a_run[0], b_run[0] = first, first * width
                    begun, begun_rows = zeros, no_rows
                    if first > 0:
                        begun, begun_rows = products[c:], c_rows
                    for t in range(0, patches, ROWS):
                        ahead = b + ((first + some_channels) * width + t // ROWS * lanes * some_channels)
                        multiply_panels(
                            here, a_rows, t, a_run, weights, b, b_run, 1, some_channels, weights, ahead,
                            lanes, begun, begun_rows, products, c, c_rows, min(PANEL, left), ROWS,
                        )  # fmt: skip
        for n in range(count):
            rows = min(2 * high, output[4] - 2 * first_line)
            transform_output(
                products, n * high * across, out_step, added, high, across, out_pitch, cells, 0,
                rows, output[5], broken,
            )  # fmt: skip
            place = (
                output[0] + (first_image + n) * output[1] + first_filter * output[2]
                + 2 * first_line * output[6]
            )  # fmt: skip
            # Lines that lie one behind the other leave together.
            together = rows if output[6] == output[5] * output[3] else 1
            for line in range(0, rows, together):
                empty_band(
                    cells, line * output[5], together * output[5], out_pitch, y, place + line * output[6],
                    output[2], output[3], some, square,
                )  # fmt: skip
    return not np.any(broken)


@jit
def sum_patches(
    dy, gradient, x, image, sums, batch, channels, filters, start, chunks, lines, images, band, points,
    gradient_points_,
):  # fmt: skip
    """Add to the points of a group's filter gradients what some chunks of patches give.

    Parameters
    ----------
    dy, gradient, x, image, batch, channels, start, chunks, lines, images, band, points
        As in `convolve_patches`; ``gradient`` is that of the output ``dy``.
    sums : 1-D float array (16, panels, channels in whole tiles, `PANEL` vectors along filters)
        Added to.
    filters : tuple of two int
        The first one, and how many.
    gradient_points_ : 1-D float array
        Scratch, as ``points``.
    """
    lanes = VECTOR_BYTES // x.itemsize
    width = PANEL * lanes
    pitch = (channels + lanes - 1) // lanes * lanes
    gradient_pitch = (filters[1] + lanes - 1) // lanes * lanes
    panels = (filters[1] + width - 1) // width
    down, across = (gradient[4] + 1) // 2, (gradient[5] + 1) // 2
    most = whole_tiles(channels)
    a_rows, c_rows = np.empty(most, np.int64), np.empty(most, np.int64)
    place_rows(a_rows, channels, 1)
    place_rows(c_rows, most, width)
    sums_step = point_step(panels * most * width, x.itemsize)
    run = np.zeros(1, np.int64)
    square = np.empty(lanes * lanes, x.dtype)
    for k in range(chunks[0], chunks[1]):
        first_image, count, first_line, high = chunk_of(k, batch, down, lines, images)
        patches = count * high * across
        step = point_step(patches * pitch, x.itemsize)
        gradient_step = point_step(panels * patches * width, x.itemsize)
        for n in range(count):
            row = n * (2 * high + 2)
            fill_band(
                x, image, first_image + n, channels,
                (start[0] + 2 * first_line, start[1]), band, row, 2 * high + 2, 2 * across + 2, pitch, square,
            )  # fmt: skip
            transform_image(band, row, high, across, pitch, points, n * high * across, step)
        for n in range(count):
            row = n * 2 * high
            fill_band(
                dy, (gradient[0] + filters[0] * gradient[2], *gradient[1:]), first_image + n, filters[1],
                (2 * first_line, 0), band, row, 2 * high, 2 * across, gradient_pitch, square,
            )  # fmt: skip
            transform_gradient(
                band, row, high, across, gradient_pitch, gradient_points_, n * high * across, patches
            )
        for point in range(POINTS):
            # (channels, filters) += (channels, patches) @ (patches, filters)
            here = points[point * step :]
            for panel in range(panels):
                b = point * gradient_step + panel * patches * width
                c = point * sums_step + panel * most * width
                left = (gradient_pitch - panel * width) // lanes
                for r in range(0, channels, ROWS):
                    multiply_rows(
                        here, a_rows, r, run, pitch, gradient_points_, b, run, 1, patches, points, 0, 0,
                        sums[c:], c_rows, sums, c, c_rows, min(PANEL, left), ROWS,
                    )  # fmt: skip
