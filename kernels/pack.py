"""Bands: some lines of images with their channels last and their padding around them, and back again.

A band is what the algorithms read whose vectors run along channels or filters. Images that have their
channels first are transposed on the way in and out, a square of one vector's lanes at a time.
"""

from fastconv.kernels.images import Chunk, address
from fastconv.kernels.jit import inner, jit
from fastconv.kernels.simd import load, load_some, spread, store, store_some, transpose_square
from fastconv.kernels.vectors import VECTOR_BYTES


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
    """The k-th chunk."""
    images, planes, lines, cells = chunk
    k, piece = divmod(k, (width + cells - 1) // cells)
    in_plane = (height + lines - 1) // lines
    in_image = (depth + planes - 1) // planes * in_plane
    image, plane, line = k // in_image * images, k % in_image // in_plane * planes, k % in_plane * lines
    cell = piece * cells
    return Chunk(
        image, min(images, batch - image), plane, min(planes, depth - plane), line, min(lines, height - line),
        cell, min(cells, width - cell),
    )  # fmt: skip


@inner
def fill_band(x, image, number, depth, channels, start, band, rows, columns, pitch, square):
    """Copy lines of one plane to a band with its channels last and zeros where the plane ends.

    Parameters
    ----------
    x : 1-D float array
    image : Image
    number, depth : int
        Which image, and which plane of it.
    channels : int
    start : tuple of two int
        The plane's line and column where the band begins; may lie outside.
    band : 1-D float array (rows, columns, pitch)
        Written; what lies behind the last channel is of no meaning.
    rows, columns, pitch : int
        ``pitch`` is ``channels`` or a little more, to have whole vectors.
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    lanes = VECTOR_BYTES // x.itemsize
    first = address(image, number, 0, depth, 0, 0)
    plane, cell = image.channel_stride, image.pixel_stride
    height, width, step = image.height, image.width, image.row_stride
    top, bottom = min(rows, max(0, -start[0])), min(rows, height - start[0])
    left, right = min(columns, max(0, -start[1])), min(columns, width - start[1])
    whole = channels // lanes * lanes
    for r in range(rows):
        line = r * columns * pitch
        if r < top or r >= bottom or left >= right:
            clear(band, line, columns * pitch)
            continue
        clear(band, line, left * pitch)
        clear(band, line + right * pitch, (columns - right) * pitch)
        if plane != 1:
            continue
        source = first + (start[0] + r) * step + (start[1] + left) * cell
        target = line + left * pitch
        if cell == channels == pitch:
            copy(x, source, band, target, (right - left) * channels)
            continue
        for k in range(right - left):
            for c in range(0, whole, lanes):
                store(band, target + k * pitch + c, load(x, source + k * cell + c))
            for c in range(whole, channels):
                band[max(0, target + k * pitch + c)] = x[max(0, source + k * cell + c)]
            for c in range(channels, pitch):
                band[max(0, target + k * pitch + c)] = 0
    if plane == 1:
        return
    # A vector of channels at a time: sixteen streams through memory, which the prefetchers can follow.
    # Of cells that lie apart, a square takes as many as it reaches; lines one behind the other are one: 272
    # and 210 ns for a plane of 7x7 (16 channels, float32, AVX-512 Xeon).
    at_once, there = max(1, lanes // cell), right - left
    joined = max(1, bottom - top) if cell == 1 and step == there else 1
    for c in range(0, channels, lanes):
        for r in range(top, bottom, joined):
            source = first + c * plane + (start[0] + r) * step + (start[1] + left) * cell
            target, column = (r * columns + left) * pitch + c, 0
            for k in range(0, joined * there, at_once):
                some = min(at_once, joined * there - k)
                reach = (some - 1) * cell + 1
                transpose_square(x, source + k * cell, plane, min(lanes, channels - c), reach, square, 0)
                for j in range(some):
                    taken = load(square, j * cell * lanes)
                    if pitch - c >= lanes:
                        store(band, target, taken)
                    else:
                        store_some(band, target, taken, pitch - c)
                    target, column = target + pitch, column + 1
                    if column == there:
                        target, column = target + (columns - there) * pitch, 0


@inner
def empty_band(band, row, cells, pitch, y, place, plane, cell, channels, square):
    """Copy ``cells`` cells of a band, from cell ``row`` on, to an image: `fill_band` turned round.

    ``place`` is where the first of them belongs in ``y``, ``cell`` how far they lie from each other there.
    """
    lanes = VECTOR_BYTES // y.itemsize
    first = row * pitch
    if plane == 1:
        for k in range(cells):
            for c in range(0, channels, lanes):
                store_some(y, place + k * cell + c, load(band, first + k * pitch + c), channels - c)
        return
    for c in range(0, channels, lanes):
        for k in range(0, cells, lanes):
            some = min(lanes, cells - k)
            transpose_square(band, first + k * pitch + c, pitch, some, lanes, square, 0)
            for i in range(min(lanes, channels - c)):
                target = place + (c + i) * plane + k * cell
                if cell == 1:
                    store_some(y, target, load(square, i * lanes), some)
                else:
                    for j in range(some):
                        y[max(0, target + j * cell)] = square[i * lanes + j]


@jit
def turn_cells(x, first, cell, cells, channels, turned, row, square):
    """``turned[c*row + k] = x[first + k*cell + c]``: channels that are last, put first."""
    lanes = VECTOR_BYTES // x.itemsize
    for c in range(0, channels, lanes):
        there = min(lanes, channels - c)
        for k in range(0, cells, lanes):
            some = min(lanes, cells - k)
            transpose_square(x, first + k * cell + c, cell, some, there, square, 0)
            for i in range(there):
                store_some(turned, (c + i) * row + k, load(square, i * lanes), some)


@jit
def turn_planes(x, first, y, steps, first_piece, stop_piece, square):
    """Copy an array to one that is contiguous along another axis.

    Parameters
    ----------
    x : 1-D float array
        The source's memory; ``first`` is where its first element lies.
    y : 1-D float array
        Written.
    steps : int64 array (5, 4)
        Axes of both arrays: extent, steps in the source and in the target, and how many cells a piece has.
        Pieces follow each other along the first axis, then along the second. The last axis but one is
        contiguous in the source, the last one in the target.
    first_piece, stop_piece : int
        From and up to which piece, of those that the axes are cut into.
    square : 1-D float array
        Scratch of lanes by lanes.
    """
    cells, channels = steps[4, 0], steps[3, 0]
    some, there = min(cells, steps[4, 3]), min(channels, steps[3, 3])
    for piece in range(first_piece, stop_piece):
        source, target, rest = first, 0, piece
        cell, channel = 0, 0
        for axis in range(5):
            extent, step = steps[axis, 0], steps[axis, 3]
            if extent > step:  # divisions take as long as a small square
                count = (extent + step - 1) // step
                before = rest // count
                place = (rest - before * count) * step
                rest = before
                source, target = source + place * steps[axis, 1], target + place * steps[axis, 2]
                if axis == 3:
                    channel = place
                elif axis == 4:
                    cell = place
        turn_cells(
            x, source, steps[4, 1], min(some, cells - cell), min(there, channels - channel), y[target:],
            steps[3, 2], square,
        )  # fmt: skip
