"""Whole passes over small images in one call, with vectors that run along the rows of the output.

The source of a segment (`fastconv.kernels.segments`) is the image itself where there is neither padding nor
stride, else a grid. The same call packs the weights, and the products go to the output straight from the
registers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastconv.kernels.jit import inner, jit
from fastconv.kernels.plane_tiles import (
    BLOCK_VECTORS,
    COLUMNS,
    Elements,
    Filters,
    Segments,
    Taps,
    Weights,
    correlate_block,
    pack_block,
    sum_block,
)
from fastconv.kernels.segments import (
    Grid,
    fill_grid,
    grid_pixels,
    list_copies,
    list_segments,
    most_copies,
)
from fastconv.kernels.vectors import SUM, VECTOR_BYTES

# More entries without lanes than a tile of any number of filters has.
SPARE = max(BLOCK_VECTORS.values())


class Layer(NamedTuple):
    """What a pass knows before it sees data.

    Python passes it as one array, see `layer_table`: Numba's dispatcher looks at each argument of a call, 0.2
    us for an array or a tuple, and calls of small layers take a few.
    """

    groups: int
    filter_stride: int  # of the weights, as `pack_blocks` takes them
    channel_stride: int
    # 0 where the sources are grids, else the elements from an image's first one to behind the last that whole
    # vectors read.
    reach: int
    several: int  # images that share tiles, so that few tiles are not full, or are summed at a time
    block: int  # filters of a tile
    block_taps: int  # and taps, where it is one of sums
    extent: Any  # three int, as those that follow: of one phase of the grid
    start: Any  # where the grid begins in the image
    stride: Any
    images: Any  # where they stop, and how many a job has; so groups, and filters of each group
    some_groups: Any
    filters: Any


def layer_table(layer: Layer, offsets: Any, phases: Any) -> Any:
    """A layer as one array, with its numbers of taps and phases, for `convolve_lines` and `sum_lines`.

    Parameters
    ----------
    layer : Layer
    offsets : int64 array (taps,)
        Of the first channel, in elements of the source.
    phases : int64 array (phases, 3)

    Returns
    -------
    int64 array
    """
    fields = [*layer, len(offsets), len(phases), offsets, phases]
    return np.concatenate([np.ravel(np.asarray(field, np.int64)) for field in fields])


@inner
def read_table(table):
    """The layer, offsets and phases of a `layer_table`."""
    layer = Layer(
        table[0], table[1], table[2], table[3], table[4], table[5], table[6],
        (table[7], table[8], table[9]), (table[10], table[11], table[12]), (table[13], table[14], table[15]),
        (table[16], table[17]), (table[18], table[19]), (table[20], table[21]),
    )  # fmt: skip
    taps, phases = table[22], table[23]
    return layer, table[24 : 24 + taps], table[24 + taps :].reshape(phases, 3)


@inner
def job_of(layer, job):
    """From and up to which image, group, and filter of each group."""
    (images, images_each), (groups, groups_each), (filters, filters_each) = (
        layer.images, layer.some_groups, layer.filters
    )  # fmt: skip
    job, k = divmod(job, (filters - 1) // filters_each + 1)
    n, g = divmod(job, (groups - 1) // groups_each + 1)
    n, g, k = n * images_each, g * groups_each, k * filters_each
    return (
        (n, min(n + images_each, images)),
        (g, min(g + groups_each, groups)),
        (k, min(k + filters_each, filters)),
    )


@inner
def list_offsets(first, channels, channel_stride, multiple):
    """Where the taps of all channels begin; filled up with zeros to a multiple."""
    offsets = np.zeros((channels * first.size + multiple - 1) // multiple * multiple, np.int64)
    for c in range(channels):
        for t in range(first.size):
            offsets[c * first.size + t] = c * channel_stride + first[t]
    return offsets


@inner
def all_finite(array):
    """Whether every element of a 1-D array is finite."""
    broken = False
    for i in range(array.size):
        broken |= array[i] - array[i] != 0
    return not broken


@inner
def pack_blocks(w, filter_stride, channel_stride, channels, taps, filters, packed):
    """Weights in rows of a block's filters, one row a tap, with zeros for filters that are not there.

    Parameters
    ----------
    w : 1-D float array
        The weights of all groups.
    filter_stride, channel_stride : int
        Elements from one filter of a group to the next, and from one channel to the next.
    channels, taps : int
        Of a group, of the kernel.
    filters : tuple of two int
        From and up to which filter of each group.
    packed : float array (groups, blocks, channels * taps, filters of a block)
        Written.
    """
    groups, blocks, _, block = packed.shape
    for g in range(groups):
        first = g * (w.size // groups)
        for b in range(blocks):
            rows = packed[g, b]
            for m in range(block):
                k = filters[0] + b * block + m
                place = first + k * filter_stride
                for c in range(channels):
                    for t in range(taps):
                        weight = max(0, place + c * channel_stride + t)
                        rows[c * taps + t, m] = w[weight] if k < filters[1] else 0


class Source(NamedTuple):
    """How segments read the images of a group: where they are, or in memory for copies of some of them."""

    image_stride: int  # of the images, in elements
    channel_stride: int
    channels: int  # of a group
    pixels: int  # of all phases of a grid
    reach: int  # as in `Layer`
    stride: int  # of the last axis
    copies: int  # entries of the table that copies them
    entries: int  # of the table of segments, before those


@inner
def prepare_source(x, layer, phases, out):
    """The source of a pass, memory for copies, and memory for tables: of segments, then of copies.

    They are one array: small layers take a microsecond, in which each array and each reference to one counts.
    """
    lanes = VECTOR_BYTES // x.itemsize
    channels, plane = x.shape[1] // layer.groups, x.shape[2] * x.shape[3] * x.shape[4]
    grid = Grid(layer.start, layer.stride, layer.extent, phases)
    pixels = grid_pixels(grid)
    entries = layer.several * out.shape[2] * out.shape[3] * ((out.shape[4] - 1) // lanes + 1) + SPARE
    image_stride = x.shape[1] * plane if layer.reach else channels * pixels
    memory = np.zeros(layer.several * image_stride + lanes, x.dtype)
    tables = np.empty((entries + (0 if layer.reach else most_copies(grid, lanes)), COLUMNS), np.int64)
    copies = 0
    if layer.reach == 0:
        strides = (x.shape[3] * x.shape[4], x.shape[4], 1)
        copies = list_copies(x.shape[2:], strides, grid, lanes, tables[entries:])
    source = Source(
        x.shape[1] * plane, plane, channels, pixels, layer.reach, layer.stride[2], copies, entries
    )
    return source, memory, tables


@inner
def take_images(flat, memory, tables, source, first_image, images, group):
    """Where the source of some images of a group begins, in ``flat`` or, if that is -1, in ``memory``.

    Whole vectors are read: the lanes behind the last segment, which do not count, must be there. Images are
    read where they are if that is so, else copied; with padding or a stride they become grids.
    """
    first = first_image * source.image_stride + group * source.channels * source.channel_stride
    if source.reach:
        if first + (images - 1) * source.image_stride + source.reach <= flat.size:
            return first
        for i in range(flat.size - first):
            memory[i] = flat[max(0, first + i)]
    else:
        fill_grid(
            flat, first, (source.image_stride, source.channel_stride, 1), source.stride,
            (images, source.channels, source.pixels), tables[source.entries :], source.copies, memory,
        )  # fmt: skip
    return -1


@inner
def list_rows(images, source, layer, out, table):
    """A table of the segments of some images; returns how many."""
    depth, height, width = out.shape[2:]
    # Of a grid, or of the image itself.
    image_stride = source.image_stride if source.reach else source.channels * source.pixels
    sources = (image_stride, layer.extent[1] * layer.extent[2], layer.extent[2])
    targets = (out.shape[1] * depth * height * width, height * width, width)
    lanes = VECTOR_BYTES // out.itemsize
    return list_segments(images, (depth, height, width), sources, targets, lanes, 1, 1, SPARE, table)


@jit
def convolve_lines(x, w, bias, out, table, job):
    """Convolve some images, groups and filters of each; returns whether all weights are finite.

    Parameters
    ----------
    x : float array (N, C, D, H, W), C-contiguous
    w : float array, C-contiguous
        The weights of all groups.
    bias : float array (K,), or of size 0
    out : float array (N, K, OD, OH, OW), C-contiguous
    table : int64 array
        From `layer_table`.
    job : int
        Which of the layer's.
    """
    layer, first_offsets, phases = read_table(table)
    images, groups, filters = job_of(layer, job)
    block, count = layer.block, filters[1] - filters[0]
    source, memory, tables = prepare_source(x, layer, phases, out)
    channel_stride = source.channel_stride if source.reach else source.pixels
    channels, group_filters = x.shape[1] // layer.groups, out.shape[1] // layer.groups
    offsets = list_offsets(first_offsets, channels, channel_stride, 1)
    flat, flat_weights, target = x.reshape(x.size), w.reshape(w.size), out.reshape(out.size)
    plane = out.shape[2] * out.shape[3] * out.shape[4]
    blocks = -(-count // block)
    packed = np.empty((layer.groups, blocks, len(offsets), block), w.dtype)
    pack_blocks(
        flat_weights, layer.filter_stride, layer.channel_stride, channels, first_offsets.size, filters, packed
    )
    weights = packed.reshape(packed.size)
    added = np.zeros(blocks * block, w.dtype)
    listed, entries = -1, 0
    for first_image in range(images[0], images[1], layer.several):
        some = min(layer.several, images[1] - first_image)
        if some != listed:
            listed, entries = some, list_rows(some, source, layer, out, tables)
        for group in range(groups[0], groups[1]):
            start = take_images(flat, memory, tables, source, first_image, some, group)
            pixels = Elements(memory, 0) if start < 0 else Elements(flat, start)
            first_filter = group * group_filters + filters[0]
            if bias.size > 0:
                for k in range(count):
                    added[k] = bias[first_filter + k]
            for b in range(blocks):
                first_weight, k = (group * blocks + b) * len(offsets) * block, b * block
                first_out = (first_image * out.shape[1] + first_filter + k) * plane
                for tap in range(0, len(offsets), SUM):
                    correlate_block(
                        Weights(weights, first_weight + tap * block, block),
                        pixels,
                        Taps(offsets, tap, min(SUM, len(offsets) - tap), 0, 0),
                        Segments(tables, entries),
                        Elements(added, k),
                        Filters(target, first_out, plane),
                        min(block, count - k),
                        tap > 0,
                    )
    return all_finite(flat_weights)


@jit
def sum_lines(dy, x, sums, table, job):
    """The gradient of some filters of some groups, from some images; returns whether all of it is finite.

    Where it is not, zeros have met pixels that are not finite: it is then to be computed in another way.

    Parameters
    ----------
    dy : float array (N, K, OD, OH, OW), C-contiguous
    x : float array (N, C, D, H, W), C-contiguous
    sums : float array (groups, filters, taps), C-contiguous
        Written: for the groups and filters that are asked for.
    table : int64 array
        From `layer_table`. The images that are summed at a time stay in a near cache, with their gradients.
    job : int
        Which of the layer's.
    """
    layer, first_offsets, phases = read_table(table)
    images, groups, filters = job_of(layer, job)
    block, block_taps = layer.block, layer.block_taps
    source, memory, tables = prepare_source(x, layer, phases, dy)
    channel_stride = source.channel_stride if source.reach else source.pixels
    channels, group_filters = x.shape[1] // layer.groups, dy.shape[1] // layer.groups
    offsets = list_offsets(first_offsets, channels, channel_stride, block_taps)
    flat, gradient = x.reshape(x.size), dy.reshape(dy.size)
    plane = dy.shape[2] * dy.shape[3] * dy.shape[4]
    lanes = VECTOR_BYTES // x.itemsize
    tile = np.empty(block * block_taps + lanes, x.dtype)
    # Aligned to vectors: loads that split a cache line run at half the speed.
    packed = np.empty((source.entries * block + 1) * lanes, x.dtype)
    packed = packed[-(packed.ctypes.data // x.itemsize) % lanes :]
    sums[groups[0] : groups[1], filters[0] : filters[1]] = 0
    listed, entries, finite = -1, 0, True
    for first_image in range(images[0], images[1], layer.several):
        some_images = min(layer.several, images[1] - first_image)
        if some_images != listed:
            listed, entries = some_images, list_rows(some_images, source, layer, dy, tables)
        rows = Segments(tables, entries)
        for group in range(groups[0], groups[1]):
            start = take_images(flat, memory, tables, source, first_image, some_images, group)
            pixels = Elements(memory, 0) if start < 0 else Elements(flat, start)
            for k in range(filters[0], filters[1], block):
                some = min(block, filters[1] - k)
                first = (first_image * dy.shape[1] + group * group_filters + k) * plane
                pack_block(Filters(gradient, first, plane), rows, some, packed, block)
                for q in range(0, len(offsets), block_taps):
                    sum_block(packed, pixels, offsets, q, rows, tile, block)
                    for m in range(some):
                        for t in range(min(block_taps, sums.shape[2] - q)):
                            sums[group, k + m, q + t] += tile[m * block_taps + t]
    for group in range(groups[0], groups[1]):
        for k in range(filters[0], filters[1]):
            finite &= all_finite(sums[group, k])
    return finite
