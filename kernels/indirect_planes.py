"""Convolution of small groups, down to one channel and one filter a group (depthwise), channels first.

A grid (`fastconv.kernels.segments`) holds the planes that one group reads, in L1 or L2. Nothing is done once
a plane that can be done once a call: tables made at the beginning say which rows are copied into the grid and
where each vector of the output reads and writes; the padding is cleared once. What remains a plane of 7 x 7
is seven vectors of copying and four of output.

Planes are cut into blocks along the first axis on which the output has more than one pixel: of *slices*,
which are planes, rows or pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastconv.kernels.jit import inner, jit, part
from fastconv.kernels.plane_tiles import (
    COLUMNS,
    TILE_VECTORS,
    Elements,
    Filters,
    Segments,
    Taps,
    Weights,
    add_lanes,
    copy_segments,
    correlate_segments,
    interleave_segments,
    sum_segments,
)
from fastconv.kernels.segments import (
    Grid,
    copy_rows,
    fill_grid,
    first_lanes,
    grid_pixels,
    list_copies,
    list_segments,
    most_copies,
    put,
)
from fastconv.kernels.vectors import VECTOR_BYTES

# More entries than a tile of any number of filters has.
SPARE = 2 * max(TILE_VECTORS.values())
# So many vectors are added up, then their sums: short sums keep their digits.
SUMMED_VECTORS = 256
# Columns of the table of output phases: first output pixel, pixels along each axis, first tap,
# triples of taps, and taps.
FIRST, EXTENT, FIRST_TAP, TRIPLES, TAPS = 0, 3, 6, 7, 8


class Planes(NamedTuple):
    """An array (N, C, D, H, W) in one-dimensional memory; strides are in elements."""

    array: Any
    first: int
    strides: Any  # five int
    extent: Any  # three int


class Phases(NamedTuple):
    """The phases of the output: each is convolved for itself."""

    stride: Any  # three int: pixels of the output from one pixel of a phase to the next
    number: Any  # three int: phases along each axis; their product is the number of all
    # Int64 array (phases, 9): `FIRST` (three), `EXTENT` (three), `FIRST_TAP`, `TRIPLES` and `TAPS`. The first
    # phase has as many pixels as any.
    table: Any


class Job(NamedTuple):
    """From and up to which group, image and slice of a phase."""

    groups: Any
    images: Any
    slices: Any


class SumJob(NamedTuple):
    """From and up to which image, group and filter of a group."""

    images: Any
    groups: Any
    filters: Any


class Block(NamedTuple):
    """How many images and slices have room in a grid, and how the rows of the output become vectors."""

    images: int
    slices: int
    axis: int  # along which slices lie
    part: int  # lanes of a segment: those of a vector, or half of them
    run: int  # `RUN` where groups have one filter and tiles are made of runs of rows, else 1


@part
def from_slice(grid, axis, first):
    """The grid of the slices from one on."""
    d, h, w = grid.start
    d, h, w = (
        d + (first * grid.stride[0] if axis == 0 else 0),
        h + (first * grid.stride[1] if axis == 1 else 0),
        w + (first * grid.stride[2] if axis == 2 else 0),
    )
    return Grid((d, h, w), grid.stride, grid.extent, grid.phases)


@inner
def list_joins(phases, extents, phase_stride, strides, out_strides, lanes, table):
    """How the phases of one plane of output come together: pixel i of phase f becomes ``f + i*stride``.

    Parameters
    ----------
    phases : Phases
    extents : int64 array (phases, 3)
        Pixels of each phase.
    phase_stride : int
        Elements from one phase to the next.
    strides, out_strides : tuple of two int
        Elements from one plane and row to the next, of a phase and of the output.
    lanes : int
        Of a vector.
    table : int64 array (entries, COLUMNS)
        Written: segments for `copy_segments` where the last axis has no stride, for `interleave_segments`
        where it has two phases; else whole rows of one phase each.

    Returns
    -------
    int
        How many entries.
    """
    found, stride, firsts = 0, phases.stride, phases.table
    interleaved = phases.number[2] == 2 and stride[2] == 2
    for f in range(0, len(firsts), 2 if interleaved else 1):
        count = extents[f, 2] + (extents[f + 1, 2] if interleaved else 0)
        for d in range(extents[f, 0]):
            for h in range(extents[f, 1]):
                source = f * phase_stride + d * strides[0] + h * strides[1]
                plane, row = firsts[f, FIRST] + d * stride[0], firsts[f, FIRST + 1] + h * stride[1]
                target = plane * out_strides[0] + row * out_strides[1] + firsts[f, FIRST + 2]
                if not interleaved and stride[2] > 1:
                    put(table, found, source, target, count)
                    found += 1
                    continue
                for k in range(0, count, lanes):
                    place = source + (k // 2 if interleaved else k)
                    put(table, found, place, target + k, first_lanes(min(lanes, count - k)))
                    found += 1
    return found


@inner
def join_phases(made, place, phases, phase_stride, out, first_out, table, entries):
    """Bring the phases of one plane of output together."""
    stride = phases.stride[2]
    if phases.number[2] == 2 and stride == 2:
        interleave_segments(made, place, phase_stride, out, first_out, table, entries)
    elif stride == 1:
        copy_segments(made, place, out, first_out, table, entries)
    else:
        copy_rows(made, place, 1, out, first_out, stride, table, entries)


@inner
def clip_phases(phases, axis, slices, extents):
    """The pixels of each phase that lie in a range of slices along an axis."""
    for f in range(len(phases)):
        for a in range(3):
            extents[f, a] = phases[f, EXTENT + a]
        extents[f, axis] = max(0, min(phases[f, EXTENT + axis], slices[1]) - slices[0])


@jit
def correlate_planes(x, grid, channels, weights, offsets, bias, out, phases, job, block):
    """Convolve planes by way of grids, for some groups, images and slices.

    Parameters
    ----------
    x : Planes
    grid : Grid
        Of a block of slices, the very first.
    channels : int
        Of a group.
    weights : float array (groups, columns, filters)
        Packed: the columns (output phase, channel, tap) are those of all phases.
    offsets : 1-D int64 array
        Where in the grid each of these begins.
    bias : float array (K,)
    out : Planes
        Written; the last axis is contiguous.
    phases : Phases
    job : Job
    block : Block
    """
    x, out, job, block = Planes(*x), Planes(*out), Job(*job), Block(*block)
    grid, phases = Grid(*grid), Phases(*phases)
    lanes = VECTOR_BYTES // x.array.itemsize
    parts, run, axis = lanes // block.part, block.run, block.axis
    filters, table = weights.shape[2], phases.table
    flat_weights = weights.reshape(weights.size)
    pixels = grid_pixels(grid)
    plane_stride, row_stride = grid.extent[1] * grid.extent[2], grid.extent[2]
    beyond = (run - 1) * row_stride + 2 * lanes  # what the last run and vector read
    memory = np.empty(block.images * channels * pixels + beyond, x.array.dtype)
    copies = np.empty((most_copies(grid, lanes), COLUMNS), np.int64)
    # Phases whose pixels lie apart in the output are made for themselves: (images, filters, phases, depth,
    # height, width rounded up to vectors).
    apart = phases.stride[0] * phases.stride[1] * phases.stride[2] > 1
    extents = np.empty((len(table), 3), np.int64)
    clip_phases(table, axis, (0, block.slices), extents)
    pitch = ((extents[0, 2] - 1) // lanes + 1) * lanes
    made_rows = extents[0, 0] * extents[0, 1]
    phase_stride = made_rows * pitch
    filter_stride = len(table) * phase_stride
    image_stride = filters * filter_stride
    made = np.zeros(block.images * image_stride if apart else 0, x.array.dtype)
    joins = np.empty((len(table) * made_rows * (pitch // lanes) + 1, COLUMNS), np.int64)
    run_rows = extents[0, 0] * ((extents[0, 1] - 1) // run + 1) * run
    most = block.images * run_rows * (pitch // block.part) + run * parts
    segments = np.empty((len(table), most + SPARE, COLUMNS), np.int64)
    entries = np.empty(len(table), np.int64)
    listed, copied, joined = (-1, -1), 0, 0
    for image in range(job.images[0], job.images[1], block.images):
        some = min(block.images, job.images[1] - image)
        for first_slice in range(job.slices[0], job.slices[1], block.slices):
            if listed != (some, first_slice):
                listed = (some, first_slice)
                memory[:] = 0
                here = from_slice(grid, axis, first_slice)
                copied = list_copies(x.extent, x.strides[2:5], here, lanes, copies)
                stop = min(first_slice + block.slices, job.slices[1])
                clip_phases(table, axis, (first_slice, stop), extents)
                sources = (channels * pixels, plane_stride, row_stride)
                targets = (out.strides[0], out.strides[2], out.strides[3])
                if apart:
                    strides = (extents[0, 1] * pitch, pitch)
                    targets = (image_stride, strides[0], strides[1])
                    joined = list_joins(
                        phases, extents, phase_stride, strides, out.strides[2:4], lanes, joins
                    )
                for f in range(len(table)):
                    extent = (extents[f, 0], extents[f, 1], extents[f, 2])
                    entries[f] = list_segments(
                        some, extent, sources, targets, block.part, parts, run, SPARE, segments[f]
                    )
            first_pixel = first_slice * phases.stride[axis] * out.strides[2 + axis]
            first_out = out.first + image * out.strides[0] + first_pixel
            for group in range(job.groups[0], job.groups[1]):
                first = x.first + image * x.strides[0] + group * channels * x.strides[1]
                fill_grid(
                    x.array, first, (x.strides[0], x.strides[1], x.strides[4]), grid.stride[2],
                    (some, channels, pixels), copies, copied, memory,
                )  # fmt: skip
                group_out = first_out + group * filters * out.strides[1]
                for f in range(len(table)):
                    if entries[f] == 0:
                        continue
                    first_tap = table[f, FIRST_TAP]
                    target = Filters(out.array, group_out, out.strides[1])
                    if apart:
                        target = Filters(made, f * phase_stride, filter_stride)
                    correlate_segments(
                        Weights(flat_weights, (group * weights.shape[1] + first_tap) * filters, filters),
                        Elements(memory, 0),
                        Taps(offsets, first_tap, table[f, TAPS], table[f, TRIPLES], row_stride),
                        Segments(segments[f], entries[f]),
                        Elements(bias, group * filters),
                        target,
                        filters,
                        parts,
                        run,
                    )
                if apart:
                    for n in range(some):
                        for k in range(filters):
                            join_phases(
                                made, n * image_stride + k * filter_stride, phases, phase_stride, out.array,
                                group_out + n * out.strides[0] + k * out.strides[1], joins, joined,
                            )  # fmt: skip


@jit
def sum_planes(x, grid, channels, offsets, dy, result, job, block):
    """The weight's gradient of some groups and filters, summed over some images.

    Parameters
    ----------
    x, grid, channels, block
        As in `correlate_planes`.
    offsets : 1-D int64 array
        Where in the grid each row (channel, tap) of the virtual columns begins; filled up to a multiple of
        a tile's taps.
    dy : Planes
        The output's gradient; the last axis is contiguous.
    result : float array (groups, filters of a group, channels * taps)
        Written for these groups and filters.
    job : SumJob
    """
    x, dy, job, block, grid = Planes(*x), Planes(*dy), SumJob(*job), Block(*block), Grid(*grid)
    lanes = VECTOR_BYTES // x.array.itemsize
    parts, axis = lanes // block.part, block.axis
    filters, taps = job.filters[1] - job.filters[0], len(offsets)
    pixels = grid_pixels(grid)
    memory = np.empty(block.images * channels * pixels + 2 * lanes, x.array.dtype)
    copies = np.empty((most_copies(grid, lanes), COLUMNS), np.int64)
    sums = np.zeros((job.groups[1] - job.groups[0], filters * taps * lanes), x.array.dtype)
    rows, width = 1, dy.extent[2]
    for a in range(2):
        rows *= min(block.slices, dy.extent[a]) if a == axis else dy.extent[a]
    segments = np.empty((block.images * rows * ((width - 1) // block.part + 1) + parts, COLUMNS), np.int64)
    listed, copied, entries = (-1, -1), 0, 0
    for image in range(job.images[0], job.images[1], block.images):
        some = min(block.images, job.images[1] - image)
        for first_slice in range(0, dy.extent[axis], block.slices):
            count = min(block.slices, dy.extent[axis] - first_slice)
            if listed != (some, first_slice):
                listed = (some, first_slice)
                memory[:] = 0
                here = from_slice(grid, axis, first_slice)
                copied = list_copies(x.extent, x.strides[2:5], here, lanes, copies)
                extent = (
                    count if axis == 0 else dy.extent[0],
                    count if axis == 1 else dy.extent[1],
                    count if axis == 2 else dy.extent[2],
                )
                sources = (channels * pixels, grid.extent[1] * grid.extent[2], grid.extent[2])
                targets = (dy.strides[0], dy.strides[2], dy.strides[3])
                entries = list_segments(some, extent, sources, targets, block.part, parts, 1, 0, segments)
            first_gradient = dy.first + image * dy.strides[0] + first_slice * dy.strides[2 + axis]
            for group in range(job.groups[0], job.groups[1]):
                first = x.first + image * x.strides[0] + group * channels * x.strides[1]
                fill_grid(
                    x.array, first, (x.strides[0], x.strides[1], x.strides[4]), grid.stride[2],
                    (some, channels, pixels), copies, copied, memory,
                )  # fmt: skip
                first_filter = group * result.shape[1] + job.filters[0]
                for entry in range(0, entries, SUMMED_VECTORS * parts):
                    sum_segments(
                        Filters(dy.array, first_gradient + first_filter * dy.strides[1], dy.strides[1]),
                        Elements(memory, 0),
                        Taps(offsets, 0, taps, 0, 0),
                        Segments(segments[entry:], min(SUMMED_VECTORS * parts, entries - entry)),
                        Filters(sums[group - job.groups[0]], 0, taps * lanes),
                        filters,
                        parts,
                    )
    for group in range(job.groups[0], job.groups[1]):
        for k in range(filters):
            for q in range(result.shape[2]):
                place = (k * taps + q) * lanes
                result[group, job.filters[0] + k, q] = add_lanes(sums[group - job.groups[0]], place)
