"""Tables of segments: where vectors along pixels read and write; and padded grids, which such tables fill.

A *segment* is the part of a row of an image that one vector holds, or half of one. Its entry in a table says
where it begins in what is read and in what is written, and which of its lanes count, so loops over a table
know no axes. A *grid* is a padded copy of some planes, split into the phases of the stride, in which each tap
lies at a constant distance from a segment. Tables are made once a call and serve all its planes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastconv.kernels.jit import inner, part
from fastconv.kernels.plane_tiles import LANES, SOURCE, TARGET, copy_segments, split_segments


class Grid(NamedTuple):
    """A padded copy of a plane of three axes, in pixels."""

    start: Any  # three int: where it begins in the image; negative in the padding
    stride: Any  # three int: of the image, from one pixel of a phase to the next
    extent: Any  # three int: of one phase
    phases: Any  # int64 array (phases, 3): their first pixels, from `start` on; the last axis' fastest


@part
def grid_pixels(grid):
    """Pixels of all phases of one plane."""
    return len(grid.phases) * grid.extent[0] * grid.extent[1] * grid.extent[2]


@part
def most_copies(grid, lanes):
    """At most so many entries has the table of `list_copies`."""
    rows = len(grid.phases) * grid.extent[0] * grid.extent[1]
    return 2 * rows * ((grid.extent[2] - 1) // lanes + 1)


@inner
def put(table, entry, source, target, lanes):
    """Write one entry of a table."""
    table[entry, SOURCE] = source
    table[entry, TARGET] = target
    table[entry, LANES] = lanes


@inner
def first_lanes(count):
    """The first lanes, as bits."""
    return (1 << max(0, count)) - 1


@inner
def inside(first, stride, extent, pixels):
    """From and up to which pixel ``first + i*stride`` lies in the image, for ``i < pixels``."""
    return (
        min(pixels, max(0, -(first // stride))),
        max(0, min(pixels, (extent - 1 - first) // stride + 1)),
    )


@inner
def list_copies(extent, strides, grid, lanes, table):
    """The rows of a grid that lie in the image, with what is copied into them.

    Parameters
    ----------
    extent, strides : tuple of three int
        Of the image, and of its axes in elements.
    grid : Grid
    lanes : int
        Of a vector.
    table : int64 array (entries, COLUMNS)
        Written, with sources from the image's first element and targets from the grid's: segments for
        `copy_segments` where consecutive pixels are wanted, pairs for `split_segments` where every second
        one is; else whole rows, with their pixels in the place of the lanes.

    Returns
    -------
    int
        How many entries.
    """
    start, stride, (depth, height, width), phases = grid
    pairs = strides[2] == 1 and stride[2] == 2
    columns = 2 if pairs and len(phases) > 1 and phases[1, 2] != phases[0, 2] else 1
    found = 0
    for n in range(0, len(phases), columns):
        first_w = start[2] + phases[n, 2]
        left, right = inside(first_w, stride[2], extent[2], width)
        for i in range(depth):
            d = start[0] + i * stride[0] + phases[n, 0]
            for j in range(height):
                h = start[1] + j * stride[1] + phases[n, 1]
                if d < 0 or d >= extent[0] or h < 0 or h >= extent[1]:
                    continue
                row = d * strides[0] + h * strides[1]
                target = ((n * depth + i) * height + j) * width
                if pairs:
                    other = target + depth * height * width
                    found = list_pairs(
                        first_w, columns, extent[2], width, row, target, other, lanes, table, found
                    )
                elif left < right:
                    source, place, count = (
                        row + (first_w + left * stride[2]) * strides[2],
                        target + left,
                        right - left,
                    )
                    if strides[2] * stride[2] == 1:
                        for k in range(0, count, lanes):
                            put(table, found, source + k, place + k, first_lanes(min(lanes, count - k)))
                            found += 1
                    else:
                        put(table, found, source, place, count)
                        found += 1
    return found


@inner
def list_pairs(first, phases, extent, pixels, row, target, other, lanes, table, found):
    """The entries of one row for `split_segments`, with one or both phases of a stride of 2 wanted.

    The pixels of the first phase are ``first + 2*i``, those of the other one pixel further.
    """
    left, right = inside(first, 2, extent, pixels)
    other_left, other_right = inside(first + 1, 2, extent, pixels) if phases == 2 else (pixels, pixels)
    begin, other_begin = first + 2 * left, first + 1 + 2 * other_left
    evens, odds, even_place, odd_place = (
        right - left,
        other_right - other_left,
        target + left,
        other + other_left,
    )
    if phases == 2 and other_begin < begin:
        begin, evens, odds, even_place, odd_place = other_begin, odds, evens, odd_place, even_place
    for k in range(0, evens, lanes):
        even, odd = min(lanes, evens - k), max(0, min(lanes, odds - k))
        put(table, found, row + begin + 2 * k, even_place + k, first_lanes(even))
        put(table, found + 1, first_lanes(max(2 * even - 1, 2 * odd)), odd_place + k, first_lanes(odd))
        found += 2
    return found


@inner
def copy_rows(source, first_source, source_stride, target, first_target, target_stride, table, entries):
    """Copy whole rows, whose pixels lie so many elements apart."""
    for entry in range(entries):
        a, b = first_source + table[entry, SOURCE], first_target + table[entry, TARGET]
        for k in range(table[entry, LANES]):
            target[max(0, b + k * target_stride)] = source[max(0, a + k * source_stride)]


@inner
def fill_grid(x, first, strides, stride, shape, table, entries, grid):
    """Copy planes into the grid, as a table of `list_copies` says.

    Parameters
    ----------
    x : 1-D float array
        The first plane begins at ``x[first]``.
    strides : tuple of three int
        Of images, channels and pixels, in elements.
    stride : int
        Of the last axis, in pixels.
    shape : tuple of three int
        Of the grid: images, channels, pixels of a plane.
    table : int64 array (entries, COLUMNS)
    grid : 1-D float array
        Written; what lies in the padding is left as it is.
    """
    images, channels, pixels = shape
    for n in range(images):
        for c in range(channels):
            plane, place = first + n * strides[0] + c * strides[1], (n * channels + c) * pixels
            if strides[2] * stride == 1:
                copy_segments(x, plane, grid, place, table, entries)
            elif strides[2] == 1 and stride == 2:
                split_segments(x, plane, grid, place, table, entries)
            else:
                copy_rows(x, plane, strides[2] * stride, grid, place, 1, table, entries)


@inner
def list_segments(images, extent, source_strides, target_strides, part, parts, run, spare, table):
    """The rows of the output, cut into segments of at most ``part`` lanes.

    Parameters
    ----------
    images : int
    extent : tuple of three int
        Pixels of the output along each axis.
    source_strides, target_strides : tuple of three int
        Elements from one image, plane and row to the next, of what is read and of what is written.
    part, parts : int
        Lanes of a part of a vector, and how many of them it has.
    run : int
        So many consecutive vectors read rows that follow each other; those beyond the last row have no lanes.
    spare : int
        At least so many entries without lanes are put behind them, so that the last tile finds some.
    table : int64 array (entries, COLUMNS)
        Written.

    Returns
    -------
    int
        How many entries, without the spare ones.
    """
    # Runs side by side: each takes one part of their vectors.
    begin, beside, last = 0, 0, 0
    for n in range(images):
        for d in range(extent[0]):
            for h in range(0, extent[1], run):
                source_row = n * source_strides[0] + d * source_strides[1] + h * source_strides[2]
                target_row = n * target_strides[0] + d * target_strides[1] + h * target_strides[2]
                for w in range(0, extent[2], part):
                    for j in range(run):
                        entry = begin + beside + j * parts
                        if h + j < extent[1]:
                            target = target_row + j * target_strides[2] + w
                            lanes = first_lanes(min(part, extent[2] - w))
                        else:
                            target, lanes = 0, 0
                        put(table, entry, source_row + j * source_strides[2] + w, target, lanes)
                    last = begin + beside + (run - 1) * parts + 1
                    beside += 1
                    if beside == parts:
                        begin, beside = begin + parts * run, 0
    # The other parts of the last run, and the spare entries.
    for p in range(beside, parts if beside > 0 else 0):
        for j in range(run):
            put(table, begin + p + j * parts, 0, 0, 0)
            last = max(last, begin + p + j * parts + 1)
    for entry in range(last, last + spare):
        put(table, entry, 0, 0, 0)
    return last
