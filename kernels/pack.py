"""Bands: some rows of images with their channels last and their padding around them, and back again.

A band is what the algorithms read whose vectors run along channels or filters. Images that have their
channels first are transposed on the way in and out, a square of one vector's lanes at a time.

An index written ``max(0, i)`` is never negative; so Numba is told, which would otherwise count it from the
array's end.
"""

from __future__ import annotations

from typing import NamedTuple

from fastconv.kernels.images import Chunk, address
from fastconv.kernels.jit import inner, jit
from fastconv.kernels.simd import load, load_some, spread, store, store_some, transpose_square
from fastconv.kernels.vectors import VECTOR_BYTES


class Window(NamedTuple):
    """A part of a plane: its first row and column, which may lie outside the plane, and its extents."""

    row: int
    column: int
    rows: int
    columns: int


@inner
def clear(x, first, count):
    """Zeros in ``count`` elements."""
    lanes = VECTOR_BYTES // x.itemsize
    zero = spread(x.dtype.type(0))
    whole = count // lanes * lanes
    for i in range(first, first + whole, lanes):
        store(x, i, zero)
    if whole < count:
        store_some(x, first + whole, zero, count - whole)


@inner
def copy(x, first, y, target, count):
    """``count`` elements of ``x`` from ``first`` on to ``y`` from ``target`` on."""
    lanes = VECTOR_BYTES // x.itemsize
    whole = count // lanes * lanes
    for i in range(0, whole, lanes):
        store(y, target + i, load(x, first + i))
    if whole < count:
        store_some(y, target + whole, load_some(x, first + whole, count - whole), count - whole)


@inner
def chunk_of(k, batch, depth, height, width, chunk):
    """The k-th chunk of at most so many ``(images, planes, rows, columns)``."""
    images, planes, rows, columns = chunk
    k, piece = divmod(k, (width + columns - 1) // columns)
    in_plane = (height + rows - 1) // rows
    in_image = (depth + planes - 1) // planes * in_plane
    image, plane, row = k // in_image * images, k % in_image // in_plane * planes, k % in_plane * rows
    column = piece * columns
    return Chunk(
        image, min(images, batch - image), plane, min(planes, depth - plane), row, min(rows, height - row),
        column, min(columns, width - column),
    )  # fmt: skip


@inner
def pack_band(x, image, number, plane, channels, window, band, pitch, square):
    """Copy a window of one plane to a band with its channels last and zeros where the plane ends.

    Parameters
    ----------
    x : 1-D float array
    image : Image
    number, plane : int
        Which image, and which plane of it.
    channels : int
    window : Window
    band : 1-D float array (rows, columns, pitch)
        Written; what lies behind the last channel is of no meaning.
    pitch : int
        ``channels`` or a little more, to have whole vectors.
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    lanes = VECTOR_BYTES // x.itemsize
    rows, columns = window.rows, window.columns
    channel_stride, pixel_stride, row_stride = image.channel_stride, image.pixel_stride, image.row_stride
    # The window's rows and columns inside the plane.
    top, bottom = min(rows, max(0, -window.row)), min(rows, image.height - window.row)
    left, right = min(columns, max(0, -window.column)), min(columns, image.width - window.column)
    first = address(image, number, 0, plane, window.row, window.column + left)
    whole = channels // lanes * lanes
    for r in range(rows):
        row = r * columns * pitch
        if r < top or r >= bottom or left >= right:
            clear(band, row, columns * pitch)
            continue
        clear(band, row, left * pitch)
        clear(band, row + right * pitch, (columns - right) * pitch)
        if channel_stride != 1:
            continue
        source, target = first + r * row_stride, row + left * pitch
        if pixel_stride == channels == pitch:
            copy(x, source, band, target, (right - left) * channels)
            continue
        for k in range(right - left):
            for c in range(0, whole, lanes):
                store(band, target + k * pitch + c, load(x, source + k * pixel_stride + c))
            for c in range(whole, channels):
                band[max(0, target + k * pitch + c)] = x[max(0, source + k * pixel_stride + c)]
            for c in range(channels, pitch):
                band[max(0, target + k * pitch + c)] = 0
    if channel_stride == 1:
        return
    # A vector of channels at a time: sixteen streams through memory, which the prefetchers can follow.
    # Of pixels that lie apart, a square takes as many as it reaches. Rows one behind the other are one, since
    # rows of 7 pixels fill few lanes.
    at_once, there = max(1, lanes // pixel_stride), right - left
    joined = max(1, bottom - top) if pixel_stride == 1 and row_stride == there else 1
    for c in range(0, channels, lanes):
        for r in range(top, bottom, joined):
            source = first + c * channel_stride + r * row_stride
            target, column = (r * columns + left) * pitch + c, 0
            for k in range(0, joined * there, at_once):
                some = min(at_once, joined * there - k)
                reach = (some - 1) * pixel_stride + 1
                transpose_square(
                    x, source + k * pixel_stride, channel_stride, min(lanes, channels - c), reach, square, 0
                )
                for j in range(some):
                    taken = load(square, j * pixel_stride * lanes)
                    if pitch - c >= lanes:
                        store(band, target, taken)
                    else:
                        store_some(band, target, taken, pitch - c)
                    target, column = target + pitch, column + 1
                    if column == there:
                        target, column = target + (columns - there) * pitch, 0


@inner
def unpack_band(band, first, pixels, pitch, y, place, output, channels, square):
    """Copy ``pixels`` pixels of a band, from pixel ``first`` on, to a row of an image: `pack_band` reversed.

    ``place`` is where the first of them belongs in ``y``; the strides are those of the Image ``output``.
    """
    lanes = VECTOR_BYTES // y.itemsize
    channel_stride, pixel_stride = output.channel_stride, output.pixel_stride
    begin = first * pitch
    if channel_stride == 1:
        for k in range(pixels):
            for c in range(0, channels, lanes):
                taken = load(band, begin + k * pitch + c)
                store_some(y, place + k * pixel_stride + c, taken, channels - c)
        return
    for c in range(0, channels, lanes):
        for k in range(0, pixels, lanes):
            some = min(lanes, pixels - k)
            transpose_square(band, begin + k * pitch + c, pitch, some, lanes, square, 0)
            for i in range(min(lanes, channels - c)):
                target = place + (c + i) * channel_stride + k * pixel_stride
                if pixel_stride == 1:
                    store_some(y, target, load(square, i * lanes), some)
                else:
                    for j in range(some):
                        y[max(0, target + j * pixel_stride)] = square[i * lanes + j]


@jit
def transpose(x, first, stride, rows, columns, y, y_stride, square):
    """``y[c*y_stride + r] = x[first + r*stride + c]`` for so many rows r and columns c of a matrix in ``x``.

    ``square`` is scratch of lanes by lanes.
    """
    lanes = VECTOR_BYTES // x.itemsize
    for c in range(0, columns, lanes):
        there = min(lanes, columns - c)
        for r in range(0, rows, lanes):
            some = min(lanes, rows - r)
            transpose_square(x, first + r * stride + c, stride, some, there, square, 0)
            for i in range(there):
                store_some(y, (c + i) * y_stride + r, load(square, i * lanes), some)


@jit
def reorder(x, first, y, axes, first_piece, stop_piece, square):
    """Copy an array to one that is contiguous along another axis.

    Parameters
    ----------
    x : 1-D float array
        The source's memory; ``first`` is where its first element lies.
    y : 1-D float array
        Written.
    axes : int64 array (5, 4)
        Axes of both arrays: extent, stride in the source, stride in the target, extent of a piece. Pieces
        follow each other along the first axis, then along the second. The last axis but one is contiguous in
        the source, the last one in the target.
    first_piece, stop_piece : int
        From and up to which piece, of those that the axes are cut into.
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    rows, columns = axes[4, 0], axes[3, 0]
    for piece in range(first_piece, stop_piece):
        source, target, rest = first, 0, piece
        row, column = 0, 0
        for axis in range(5):
            extent, step = axes[axis, 0], axes[axis, 3]
            if extent > step:  # divisions take as long as a small square
                count = (extent + step - 1) // step
                before = rest // count
                place = (rest - before * count) * step
                rest = before
                source, target = source + place * axes[axis, 1], target + place * axes[axis, 2]
                if axis == 3:
                    column = place
                elif axis == 4:
                    row = place
        transpose(
            x, source, axes[4, 1], min(axes[4, 3], rows - row), min(axes[3, 3], columns - column), y[target:],
            axes[3, 2], square,
        )  # fmt: skip
