"""The points of patches: the transforms of Winograd's minimal filtering (`fastconv.kernels.winograd`).

In one dimension they are short sums of four cells or points; in two they are done along the lines and then
across them. Vectors run along channels or filters.
"""

from fastconv.kernels.jit import inner
from fastconv.kernels.simd import load, multiply_add, spread, store
from fastconv.kernels.vectors import VECTOR_BYTES


@inner
def points_of(tall):
    """How many points a patch of so many lines has."""
    return 4 if tall == 1 else 16


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
def gradient_points(e0, e1, zero):
    """A of two cells."""
    return e0, e0 + e1, e0 - e1, zero - e1


@inner
def output_cells(m):
    """A^T of four points."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


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
def transform_image(band, row, lines, across, pitch, tall, points, patch, step):
    """B^T d B of every patch of some lines of patches, for all channels.

    Parameters
    ----------
    band : 1-D float array (rows, 2*across + 2, pitch)
        Read from ``row`` on.
    row, lines, across, pitch : int
        So many lines of patches, with so many patches each.
    tall : int
        Lines of a patch: 2, or 1 where only cells of a line are filtered together.
    points : 1-D float array (points, patches, pitch)
        Written from patch ``patch`` on.
    patch, step : int
        ``step`` is from one point to the next: patches * pitch.
    """
    lanes = VECTOR_BYTES // band.itemsize
    line = (2 * across + 2) * pitch
    for i in range(lines):
        for j in range(across):
            first = (row + tall * i) * line + 2 * j * pitch
            target = (patch + i * across + j) * pitch
            for c in range(0, pitch, lanes):
                p = first + c
                if tall == 1:
                    store_four(points, target + c, step, image_points(load_four(band, p, pitch)))
                    continue
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
def transform_gradient(band, row, lines, across, pitch, tall, width, points, patch, patches):
    """A e A^T of every patch of some lines of patches, as panels that a product can stream.

    Parameters
    ----------
    band : 1-D float array (rows, 2*across, pitch)
    row, lines, across, pitch, tall : int
        As in `transform_image`.
    width : int
        Of a panel; the last may be narrower.
    points : 1-D float array (points, panels, patches, width)
        Written from patch ``patch`` on.
    patch, patches : int
    """
    lanes = VECTOR_BYTES // band.itemsize
    step = point_step(pitch * patches, band.itemsize)
    line = 2 * across * pitch
    zero = spread(band.dtype.type(0))
    for i in range(lines):
        for j in range(across):
            first = (row + tall * i) * line + 2 * j * pitch
            for panel in range(0, pitch, width):
                some = min(width, pitch - panel)
                target = panel * patches + (patch + i * across + j) * some
                for c in range(0, some, lanes):
                    p, q = first + panel + c, target + c
                    if tall == 1:
                        cells = gradient_points(load(band, p), load(band, p + pitch), zero)
                        store_four(points, q, step, cells)
                        continue
                    a0, a1, a2, a3 = gradient_points(load(band, p), load(band, p + line), zero)
                    p += pitch
                    b0, b1, b2, b3 = gradient_points(load(band, p), load(band, p + line), zero)
                    store_four(points, q, step, gradient_points(a0, b0, zero))
                    store_four(points, q + 4 * step, step, gradient_points(a1, b1, zero))
                    store_four(points, q + 8 * step, step, gradient_points(a2, b2, zero))
                    store_four(points, q + 12 * step, step, gradient_points(a3, b3, zero))


@inner
def transform_output(
    points, patch, step, bias, lines, across, pitch, tall, band, row, rows, columns, broken
):  # fmt: skip
    """A^T m A of every patch, plus bias: patches that reach beyond ``rows`` and ``columns`` are cut.

    Parameters
    ----------
    points : 1-D float array (points, patches, pitch)
        Read from patch ``patch`` on; ``step`` is from one point to the next.
    bias : 1-D float array (pitch,)
    lines, across, pitch, tall : int
        As in `transform_image`.
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
            target = ((row + tall * i) * columns + 2 * j) * pitch
            for c in range(0, pitch, lanes):
                p, q = first + c, target + c
                added = load(bias, c)
                if tall == 1:
                    left, right = output_cells(load_four(points, p, step))
                    found = multiply_add(left + right, zero, found)
                    store(band, q, left + added)
                    if beside:
                        store(band, q + pitch, right + added)
                    continue
                a0, a1 = output_cells(load_four(points, p, step))
                p += 4 * step
                b0, b1 = output_cells(load_four(points, p, step))
                p += 4 * step
                c0, c1 = output_cells(load_four(points, p, step))
                p += 4 * step
                d0, d1 = output_cells(load_four(points, p, step))
                # a0 to d0: the left cells, still points along the height.
                top, bottom = output_cells((a0, b0, c0, d0))
                found = multiply_add(top + bottom, zero, found)
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
