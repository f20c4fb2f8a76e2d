"""Convolution with 3, 5 or 7 taps at stride 1 in the plane by Winograd's minimal filtering F(2x2, 3x3).

Two outputs of three taps take four multiplications instead of six; in two dimensions a *patch* of 2x2 outputs
takes 16 instead of 36. An image is cut into patches of 4x4 cells that overlap by two; each patch d, filter g
and gradient e is transformed to its values at 16 *points*, and at every point the transforms multiply as in a
1x1 convolution: one matrix product over patches, channels and filters. Taps along a depth are further runs of
the same sum, over the points of further planes; and of 5 or 7 taps in the plane the fourth and fifth, and the
sixth and seventh, are kernels of their own, whose first tap is zero, over the points of the next patches: 5x5
taps take 64 multiplications instead of 100, 7x7 taps 144 instead of 196. Where the kernel has one line, a
patch is two outputs of a line and has four points.

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

from fastconv.kernels.images import Image, address, from_channel
from fastconv.kernels.jit import inner, jit, part
from fastconv.kernels.pack import Window, chunk_of, clear, pack_band, unpack_band
from fastconv.kernels.tile import (
    ROWS,
    Panel,
    Prefetch,
    Rows,
    Runs,
    multiply_rows,
    multiply_strided_rows,
    place_rows,
    whole_tiles,
)
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.kernels.winograd_transforms import (
    point_step,
    points_of,
    transform_gradient,
    transform_image,
    transform_output,
)

# Channels that one sum runs over before it is added to the others, and channels of several depths.
SUM = 128
DEPTH_SUM = 256


@part
def transform_chunk(
    x, image, images, channels, start, planes, lines, across, tall, pitch, band, points, step, square
):  # fmt: skip
    """The points of the patches (planes, images, lines, across) that a chunk reads, zero outside the image.

    Parameters
    ----------
    x, image, channels, pitch, square
        As in `fastconv.kernels.pack.pack_band`.
    images : tuple of two int
        The first one, and how many.
    start : tuple of three int
        Plane, line and column of the image where the first patch begins.
    planes, lines, across : int
    band : 1-D float array
        Scratch: the lines of one plane.
    tall, points, step
        As in `transform_image`.
    """
    patches = lines * across
    for d in range(planes):
        first = d * images[1] * patches
        if start[0] + d < 0 or start[0] + d >= image.depth:
            for point in range(points_of(tall)):
                clear(points, point * step + first * pitch, images[1] * patches * pitch)
            continue
        for n in range(images[1]):
            window = Window(start[1], start[2], tall * lines + 2 * (tall - 1), 2 * across + 2)
            pack_band(x, image, images[0] + n, start[0] + d, channels, window, band, pitch, square)
            transform_image(band, 0, lines, across, pitch, tall, points, first + n * patches, step)


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
    x, image, weights, bias, y, output, batch, channels, filters, start, stride, tall, places, beyond, reach,
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
    tall : int
        Lines of a patch: 2, or 1 where the kernel has one line.
    places : int64 array (kernels, 3)
        The plane, line and column of patches that each kernel of 3x3 (or 3) taps reads, from the first one's
        on.
    beyond : tuple of two int
        Lines and columns of patches that are read beyond those that are written.
    reach : int64 array (depth of the output, 2)
        From and up to which kernel those of each plane lie in the image.
    chunks : tuple of two int
        From and up to which chunk.
    chunk : tuple of four int
        So many images, planes, lines of patches and patches of a line are a chunk: all planes, lines and
        patches where there are several images, and so on.
    band, points, products, cells : 1-D float array
        Scratch: lines of a plane, a chunk's points, their products and the output.

    Returns
    -------
    bool
        Whether all results are finite. One cell that is not spoils its whole patch, where it should have
        spoilt the outputs that reach it.
    """
    image, output = Image(*image), Image(*output)
    lanes = VECTOR_BYTES // x.itemsize
    width = filters[3]
    pitch = (channels + lanes - 1) // lanes * lanes
    first_filter = filters[0] * width
    some = min(filters[2], filters[1] * width) - first_filter
    out_pitch = (some + lanes - 1) // lanes * lanes
    most = whole_tiles(chunk[0] * chunk[1] * chunk[2] * chunk[3])
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
        first_image, images, first_plane, planes, first_line, lines, first_patch, across = chunk_of(
            k, batch, output.depth, (output.height + tall - 1) // tall, (output.width + 1) // 2, chunk
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
        begin = start[0] + first_plane * stride, start[1] + tall * first_line, start[2] + 2 * first_patch
        transform_chunk(
            x, image, (first_image, images), channels, begin, read, read_lines, read_across, tall, pitch,
            band, points, step, square,
        )  # fmt: skip
        for point in range(points_of(tall)):
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
                            for t in range(stretches[i, 0], stretches[i, 1], ROWS):
                                multiply_rows(
                                    Rows(here, a_rows, 0), t, ROWS,
                                    Runs(a_runs, b_runs, lowest, runs, some_channels),
                                    Panel(weights, b, vectors), Rows(begun, begun_rows, 0),
                                    Rows(products, c_rows, c),
                                    Prefetch(weights, ahead + t // ROWS * lanes * steps, lanes),
                                )  # fmt: skip
        rows = min(tall * lines, output.height - tall * first_line)
        columns = min(2 * across, output.width - 2 * first_patch)
        # Lines that lie one behind the other leave together.
        together = rows if output.row_stride == columns * output.pixel_stride else 1
        for i in range(planes * images):
            transform_output(
                products, i * lines * across, out_step, added, lines, across, out_pitch, tall, cells, 0, rows,
                columns, broken,
            )  # fmt: skip
            first = address(
                output, first_image + i % images, first_filter, first_plane + i // images, tall * first_line,
                2 * first_patch,
            )  # fmt: skip
            for line in range(0, rows, together):
                unpack_band(
                    cells, line * columns, together * columns, out_pitch, y, first + line * output.row_stride,
                    output, some, square,
                )  # fmt: skip
    return not np.any(broken)


@jit
def sum_patches(
    dy, gradient, x, image, sums, batch, channels, filters, start, stride, tall, places, beyond, reach,
    chunks, chunk, band, points, gradient_points,
):  # fmt: skip
    """Add to the points of a group's filter gradients what some chunks of patches give.

    Parameters
    ----------
    dy, gradient, x, image, batch, channels, start, stride, tall, places, beyond, chunks, chunk, band, points
        As in `convolve_patches`; ``gradient`` is that of the output ``dy``.
    sums : 1-D float array (points, kernels, panels, channels in whole tiles, filters of a panel)
        Added to.
    filters : tuple of three int
        The first one, how many, and how many of a panel.
    reach : int64 array (kernels, 2)
        From and up to which plane of the output each kernel lies in the image.
    gradient_points : 1-D float array
        Scratch, as ``points``.
    """
    gradient = Image(*gradient)
    lanes = VECTOR_BYTES // x.itemsize
    width = filters[2]
    pitch = (channels + lanes - 1) // lanes * lanes
    gradient_pitch = (filters[1] + lanes - 1) // lanes * lanes
    panels = (filters[1] + width - 1) // width
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
    image, some_filters = Image(*image), from_channel(gradient, filters[0])
    for k in range(chunks[0], chunks[1]):
        first_image, images, first_plane, planes, first_line, lines, first_patch, across = chunk_of(
            k, batch, gradient.depth, (gradient.height + tall - 1) // tall, (gradient.width + 1) // 2, chunk
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
        begin = start[0] + first_plane * stride, start[1] + tall * first_line, start[2] + 2 * first_patch
        transform_chunk(
            x, image, (first_image, images), channels, begin, read, read_lines, read_across, tall, pitch,
            band, points, step, square,
        )  # fmt: skip
        for i in range(planes * images):
            pack_band(
                dy, some_filters, first_image + i % images, first_plane + i // images, filters[1],
                Window(tall * first_line, 2 * first_patch, tall * lines, 2 * across), band, gradient_pitch,
                square,
            )  # fmt: skip
            transform_gradient(
                band, 0, lines, across, gradient_pitch, tall, width, gradient_points, i * lines * across,
                patches,
            )  # fmt: skip
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
            for point in range(points_of(tall) if runs > 0 else 0):
                # (channels, filters) += (channels, patches) @ (patches, filters)
                here = points[point * step :]
                for panel in range(panels):
                    b = point * gradient_step + panel * patches * width
                    c = point * sums_step + (tap * panels + panel) * most * width
                    vectors = min(width, gradient_pitch - panel * width) // lanes
                    for r in range(0, channels, ROWS):
                        multiply_strided_rows(
                            Rows(here, a_rows, 0), pitch, r, ROWS, Runs(a_runs, b_runs, 0, runs, steps),
                            Panel(gradient_points, b, vectors), Rows(sums, c_rows, c),
                            Rows(sums, c_rows, c), Prefetch(points, 0, 0),
                        )  # fmt: skip
