"""Convolution of small groups with the channels last: nothing is copied, vectors lie along filters.

Pixels of the output that the same taps reach form an *edge class*: the inside of an image is one, each edge
and each corner another, and each phase of a stride in backward-input has its own. An edge class is a box,
the product of one *interval* of positions along each axis. Its pixels go through a micro-kernel a tile at a
time, with the list of its own taps, so that padding is never read nor multiplied.

Work is cut along one axis, that of planes, rows or pixels, into *slices* of one position each. The edge
classes of some slices share tables of pixels and of taps.
"""

from typing import Any, NamedTuple

import numpy as np

from fastconv.kernels.depthwise_tiles import (
    FEW_PIXELS,
    PIXEL_TAPS,
    SHIFT,
    TILE_PIXELS,
    WEIGHT,
    Arrays,
    Group,
    Place,
    Range,
    Strides,
    pixel_sums,
    pixel_tiles,
)
from fastconv.kernels.images import Image, address
from fastconv.kernels.jit import inner, jit, part
from fastconv.kernels.plane_tiles import COLUMNS, RUN, SOURCE, TARGET
from fastconv.kernels.vectors import VECTOR_BYTES

PIXEL_TAPS_1, PIXEL_TAPS_2, PIXEL_TAPS_4, PIXEL_TAPS_8 = (PIXEL_TAPS[n] for n in (1, 2, 4, 8))
# Columns of a table of intervals: from and up to which pixel of its phase, first pixel of the phase in the
# output, and the interval's taps in the axis' table of taps.
BEGIN, END, FIRST, FIRST_TAP, TAPS = 0, 1, 2, 3, 4
INTERVAL_COLUMNS = 5
# Columns of an axis' table of taps: which tap of the kernel, and its shift from the first pixel it reads.
TAP, TAP_SHIFT = 0, 1
# Columns of a table of edge classes: the fields of `EdgeClass`.
CLASS_COLUMNS = 6


class PerAxis(NamedTuple):
    """One thing for each axis: depth, height, width."""

    d: Any
    h: Any
    w: Any


class Axis(NamedTuple):
    """Where along an axis the same taps reach, and the taps."""

    intervals: Any  # int64 array (intervals, INTERVAL_COLUMNS)
    taps: Any  # int64 array (taps, 2): TAP, TAP_SHIFT


class Layer(NamedTuple):
    """What is the same for all pixels."""

    kernel: PerAxis  # taps
    stride: PerAxis  # pixels of the source from one pixel of an output phase to the next
    out_stride: PerAxis  # pixels of the output from one pixel of a phase to the next
    channels: int  # of a group
    filters: int  # of a group
    axis: int  # along which slices are counted


class Job(NamedTuple):
    """The slices of images that a call computes, and how many of them share tables."""

    first_image: int
    stop_image: int
    first_slice: int
    stop_slice: int
    images: int
    slices: int
    pixels: int  # the most that they have, with those repeated


class EdgeClass(NamedTuple):
    """Which rows of the tables of pixels and of taps belong to an edge class.

    ``number`` rows of pixels from row ``first`` on, of which the first ``runs`` are runs of pixels; ``taps``
    taps from row ``first_tap`` on, of which the first come in ``triples``.
    """

    first: int
    runs: int
    number: int
    first_tap: int
    triples: int
    taps: int


class Tables(NamedTuple):
    """The tables of some slices, int64 arrays."""

    pixels: Any  # (rows, COLUMNS): SOURCE, TARGET
    taps: Any  # (rows, 2): SHIFT, WEIGHT
    classes: Any  # (classes, CLASS_COLUMNS)


@part
def named_axes(axes):
    """The names of what Python passes as plain tuples."""
    d, h, w = axes
    return PerAxis(Axis(*d), Axis(*h), Axis(*w))


@part
def named_layer(layer):
    """The names of what Python passes as plain tuples."""
    kernel, stride, out_stride, channels, filters, axis = layer
    return Layer(PerAxis(*kernel), PerAxis(*stride), PerAxis(*out_stride), channels, filters, axis)


@part
def edge_class(classes, c):
    """A row of the table."""
    return EdgeClass(classes[c, 0], classes[c, 1], classes[c, 2], classes[c, 3], classes[c, 4], classes[c, 5])


@inner
def write_class(here, classes, c):
    """Make it a row of the table."""
    for column, value in enumerate(here):
        classes[c, column] = value


@inner
def box(image, first, stride, extent):
    """Of the same images the pixels from ``first`` on, ``stride`` apart, so many along each axis."""
    return Image(
        address(image, 0, 0, first.d, first.h, first.w), image.image_stride, image.channel_stride,
        image.pixel_stride * stride.w, extent.h, extent.w, image.row_stride * stride.h, extent.d,
        image.plane_stride * stride.d,
    )  # fmt: skip


@inner
def count_triples(axis_taps, first, count, stride):
    """How many triples consecutive taps of an axis make: each tap ``stride`` pixels further."""
    for k in range(first + 1, first + count):
        if axis_taps[k, TAP_SHIFT] != axis_taps[k - 1, TAP_SHIFT] + stride:
            return 0
    return count // 3


@inner
def list_taps(axes, box_taps, kernel, image, weight_stride, taps, first):
    """The taps of a box, with rows for `pixel_tiles`; returns the next row.

    Parameters
    ----------
    axes : PerAxis of Axis
    box_taps : PerAxis of Range
        Rows of the axes' tables of taps.
    kernel : PerAxis
    image : Image
        That the taps read.
    weight_stride : int
        Elements from one tap's weights to the next one's.
    taps : int64 array (rows, 2)
        Written from the row ``first`` on.
    """
    d_taps, h_taps, w_taps = axes.d.taps, axes.h.taps, axes.w.taps
    row = first
    for d in range(box_taps.d.begin, box_taps.d.end):
        for h in range(box_taps.h.begin, box_taps.h.end):
            before = (d_taps[d, TAP] * kernel.h + h_taps[h, TAP]) * kernel.w
            shift = d_taps[d, TAP_SHIFT] * image.plane_stride + h_taps[h, TAP_SHIFT] * image.row_stride
            for w in range(box_taps.w.begin, box_taps.w.end):
                taps[row, SHIFT] = shift + w_taps[w, TAP_SHIFT] * image.pixel_stride
                taps[row, WEIGHT] = (before + w_taps[w, TAP]) * weight_stride
                row += 1
    return row


@inner
def list_pixels(source, target, images, multiple, table, first):
    """The pixels of two boxes of some images, in pairs; returns the next row.

    Parameters
    ----------
    source, target : Image
        What pixels read and write; the extents are those of ``target``.
    images : int
    multiple : int
        The last row is repeated up to a multiple of so many.
    table : int64 array (rows, COLUMNS)
        Written from the row ``first`` on.
    """
    row = first
    for n in range(images):
        for d in range(target.depth):
            for h in range(target.height):
                read, written = address(source, n, 0, d, h, 0), address(target, n, 0, d, h, 0)
                for w in range(target.width):
                    table[row, SOURCE] = read + w * source.pixel_stride
                    table[row, TARGET] = written + w * target.pixel_stride
                    row += 1
    while (row - first) % multiple > 0:
        table[row, SOURCE] = table[row - 1, SOURCE]
        table[row, TARGET] = table[row - 1, TARGET]
        row += 1
    return row


@inner
def clipped(intervals, n, slices, here):
    """The interval ``n``, in the range of slices where slices are counted along its axis."""
    begin, end = intervals[n, BEGIN], intervals[n, END]
    return Range(max(begin, slices.begin), min(end, slices.end)) if here else Range(begin, end)


@inner
def count_intervals(axis, slices, here):
    """How many intervals of an axis have a pixel in a range of slices, and how many taps all of them have."""
    some, taps = 0, 0
    for n in range(len(axis.intervals)):
        interval = clipped(axis.intervals, n, slices, here)
        if interval.begin < interval.end:
            some, taps = some + 1, taps + axis.intervals[n, TAPS]
    return some, taps


@inner
def most_classes(axes, axis, job):
    """The most edge classes that slices with a shared table have, and the most taps of all of these."""
    most, most_taps = 0, 0
    for first in range(job.first_slice, job.stop_slice, job.slices):
        slices = Range(first, min(first + job.slices, job.stop_slice))
        d, d_taps = count_intervals(axes.d, slices, axis == 0)
        h, h_taps = count_intervals(axes.h, slices, axis == 1)
        w, w_taps = count_intervals(axes.w, slices, axis == 2)
        most, most_taps = max(most, d * h * w), max(most_taps, d_taps * h_taps * w_taps)
    return most, most_taps


@inner
def list_classes(axes, layer, image, output, slices, images, weight_stride, runs, tap_multiple, tables):
    """All edge classes with a pixel in a range of slices; returns how many.

    Parameters
    ----------
    axes : PerAxis of Axis
    layer : Layer
    image, output : Image
        What is read, and what is written or, in backward-weight, its gradient.
    slices : Range
    images : int
    weight_stride : int
        Elements from one tap's weights to the next one's.
    runs : bool
        Whether runs of pixels stand first where an edge class has triples of taps. Then pixels and runs come
        in whole tiles.
    tap_multiple : int
        The taps of a class come in multiples of so many. Those repeated have the weights that lie behind
        those of all taps.
    tables : Tables
        Written.
    """
    found, row, tap = 0, 0, 0
    kernel, stride, out_stride = layer.kernel, layer.stride, layer.out_stride
    # Pixels of the image from one run to the next.
    run_stride = PerAxis(stride.d, stride.h, RUN * stride.w)
    out_run_stride = PerAxis(out_stride.d, out_stride.h, RUN * out_stride.w)
    spare_weight = kernel.d * kernel.h * kernel.w * weight_stride
    for i in range(len(axes.d.intervals)):
        d = clipped(axes.d.intervals, i, slices, layer.axis == 0)
        d_tap = axes.d.intervals[i, FIRST_TAP]
        d_taps = Range(d_tap, d_tap + axes.d.intervals[i, TAPS])
        for j in range(len(axes.h.intervals)):
            h = clipped(axes.h.intervals, j, slices, layer.axis == 1)
            h_tap = axes.h.intervals[j, FIRST_TAP]
            h_taps = Range(h_tap, h_tap + axes.h.intervals[j, TAPS])
            for k in range(len(axes.w.intervals)):
                w = clipped(axes.w.intervals, k, slices, layer.axis == 2)
                depth, height, width = d.end - d.begin, h.end - h.begin, w.end - w.begin
                if depth <= 0 or height <= 0 or width <= 0:
                    continue
                w_tap, w_count = axes.w.intervals[k, FIRST_TAP], axes.w.intervals[k, TAPS]
                middle = w_tap + 3 * count_triples(axes.w.taps, w_tap, w_count, stride.w)
                next_tap = list_taps(
                    axes, PerAxis(d_taps, h_taps, Range(w_tap, middle)), kernel, image, weight_stride,
                    tables.taps, tap,
                )  # fmt: skip
                triples = (next_tap - tap) // 3
                next_tap = list_taps(
                    axes, PerAxis(d_taps, h_taps, Range(middle, w_tap + w_count)), kernel, image,
                    weight_stride, tables.taps, next_tap,
                )  # fmt: skip
                while (next_tap - tap) % tap_multiple > 0:
                    tables.taps[next_tap, SHIFT] = tables.taps[tap, SHIFT]
                    tables.taps[next_tap, WEIGHT] = spare_weight
                    next_tap += 1
                first = PerAxis(d.begin * stride.d, h.begin * stride.h, w.begin * stride.w)
                out_first = PerAxis(
                    axes.d.intervals[i, FIRST] + d.begin * out_stride.d,
                    axes.h.intervals[j, FIRST] + h.begin * out_stride.h,
                    axes.w.intervals[k, FIRST] + w.begin * out_stride.w,
                )
                long = width // RUN if runs and triples > 0 else 0
                extent = PerAxis(depth, height, long)
                next_row = list_pixels(
                    box(image, first, run_stride, extent), box(output, out_first, out_run_stride, extent),
                    images, TILE_PIXELS // RUN, tables.pixels, row,
                )  # fmt: skip
                run_rows = next_row - row
                extent = PerAxis(depth, height, width - long * RUN)
                first = PerAxis(first.d, first.h, first.w + long * run_stride.w)
                out_first = PerAxis(out_first.d, out_first.h, out_first.w + long * out_run_stride.w)
                next_row = list_pixels(
                    box(image, first, stride, extent), box(output, out_first, out_stride, extent),
                    images, FEW_PIXELS if runs else 1, tables.pixels, next_row,
                )  # fmt: skip
                here = EdgeClass(row, run_rows, next_row - row, tap, triples, next_tap - tap)
                write_class(here, tables.classes, found)
                found, row, tap = found + 1, next_row, next_tap
    return found


@inner
def correlate_class(arrays, bias, place, strides, filters, group, runs, masked):
    """`pixel_tiles`, compiled once for all that call it."""
    pixel_tiles(arrays, bias, place, strides, filters, group, runs, masked)


@jit
def correlate_pixels(x, image, axes, layer, weights, bias, out, output, job):
    """Convolve some slices of some images.

    Parameters
    ----------
    x, out : 1-D float array
        The memory of images, and of the output, which is written.
    image, output : Image as a plain tuple
        Where they lie in it; channels and filters are contiguous.
    axes : three of Axis as plain tuples
    layer : Layer as a plain tuple
    weights : float array (taps, channels of a group, K)
    bias : float array (K,)
    job : Job as a plain tuple
    """
    image, output, job = Image(*image), Image(*output), Job(*job)
    axes, layer = named_axes(axes), named_layer(layer)
    lanes = VECTOR_BYTES // x.itemsize
    filters = weights.shape[2]
    weight_stride = weights.shape[1] * filters
    group = Group(layer.channels, layer.filters)
    # Depthwise, whole vectors go without masks; groups have only masked tiles, which is less to compile.
    whole = filters // lanes * lanes if layer.channels == 1 and layer.filters == 1 else 0
    every, full, rest = Range(0, filters), Range(0, whole), Range(whole, filters)
    strides = Strides(layer.stride.w * image.pixel_stride, layer.out_stride.w * output.pixel_stride)
    most, most_taps = most_classes(axes, layer.axis, job)
    # A tap more may be read than there are.
    tables = Tables(
        np.empty((job.pixels + 2 * most * TILE_PIXELS, COLUMNS), np.int64),
        np.empty((most_taps + layer.kernel.d * layer.kernel.h * layer.kernel.w, 2), np.int64),
        np.empty((most, CLASS_COLUMNS), np.int64),
    )
    arrays = Arrays(x, out, weights.reshape(weights.size), tables.taps, tables.pixels, filters)
    for first in range(job.first_slice, job.stop_slice, job.slices):
        slices = Range(first, min(first + job.slices, job.stop_slice))
        listed, found = 0, 0
        for number in range(job.first_image, job.stop_image, job.images):
            images = min(job.images, job.stop_image - number)
            if listed != images:
                listed = images
                found = list_classes(
                    axes, layer, image, output, slices, images, weight_stride, True, 1, tables
                )
            first_x, first_out = number * image.image_stride, number * output.image_stride
            for c in range(found):
                here = edge_class(tables.classes, c)
                runs = Place(
                    first_x, first_out, here.first_tap, here.triples, here.taps, here.first, here.runs
                )
                single = Place(
                    first_x, first_out, here.first_tap, here.triples, here.taps, here.first + here.runs,
                    here.number - here.runs,
                )  # fmt: skip
                if runs.pixels > 0 and whole > 0:
                    correlate_class(arrays, bias, runs, strides, full, group, 1, 0)
                if runs.pixels > 0 and whole < filters:
                    correlate_class(arrays, bias, runs, strides, rest, group, 1, 1)
                if single.pixels > 0:
                    correlate_class(arrays, bias, single, strides, every, group, 0, 1)


@inner
def pixel_taps(channels):
    """Taps of a tile of sums."""
    if channels == 1:
        return PIXEL_TAPS_1
    if channels == 2:
        return PIXEL_TAPS_2
    return PIXEL_TAPS_4 if channels == 4 else PIXEL_TAPS_8


@inner
def sum_class(arrays, place, group):
    """`pixel_sums`, which is compiled faster by itself."""
    pixel_sums(arrays, place, group)


@jit
def sum_pixels(x, image, axes, layer, dy, gradient, job, chunk, result):
    """The weight's gradient, summed over some slices of some images.

    Parameters
    ----------
    x, image, axes, layer, job
        As in `correlate_pixels`.
    dy : 1-D float array
    gradient : Image as a plain tuple
        The output's gradient, whose filters are contiguous.
    chunk : int
        So many pixels are summed for all filters before the next ones.
    result : float array (taps + 1, channels of a group, K)
        Written; the last row is scratch.
    """
    image, gradient, job = Image(*image), Image(*gradient), Job(*job)
    axes, layer = named_axes(axes), named_layer(layer)
    filters = result.shape[2]
    weight_stride = result.shape[1] * filters
    group = Group(layer.channels, layer.filters)
    sums = result.reshape(result.size)
    sums[:] = 0
    tile = pixel_taps(layer.channels)
    most, most_taps = most_classes(axes, layer.axis, job)
    tables = Tables(
        np.empty((job.pixels, COLUMNS), np.int64),
        np.empty((most_taps + (most + 1) * tile, 2), np.int64),
        np.empty((most, CLASS_COLUMNS), np.int64),
    )
    arrays = Arrays(x, dy, sums, tables.taps, tables.pixels, filters)
    for first in range(job.first_slice, job.stop_slice, job.slices):
        slices = Range(first, min(first + job.slices, job.stop_slice))
        listed, found = 0, 0
        for number in range(job.first_image, job.stop_image, job.images):
            images = min(job.images, job.stop_image - number)
            if listed != images:
                listed = images
                found = list_classes(
                    axes, layer, image, gradient, slices, images, weight_stride, False, tile, tables
                )
            first_x, first_dy = number * image.image_stride, number * gradient.image_stride
            for c in range(found):
                here = edge_class(tables.classes, c)
                stop = here.first + here.number
                for row in range(here.first, stop, chunk):
                    pixels = min(chunk, stop - row)
                    for tap in range(here.first_tap, here.first_tap + here.taps, tile):
                        sum_class(arrays, Place(first_x, first_dy, tap, 0, tile, row, pixels), group)
