"""Grouped convolution with vectors along filters, a *channel block* at a time: as many as a vector has lanes.

What the groups of a channel block read is packed to a band, one vector of channels for every pixel. So
neighbouring pixels lie a whole vector apart, which the instructions themselves can say: one register points
to all pixels of a tile. Each step loads vectors of weights and multiplies them with one channel of each
pixel, spread over the lanes by the load itself. Three taps that read pixels beside each other, a *triple*,
share what is spread: 210 GF/s, and 170 one by one (groups of 16, float32, AVX-512 Xeon).

A channel block may have 2 or 4 smaller groups. Then the first channels of all groups lie together in a
pixel, then the second ones, so that one load of 2 or 4 floats gives each lane the channel that its filter
reads; the lanes of weights and sums follow each other in the same way, until sums are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastconv.kernels import vectors
from fastconv.kernels.images import Image, address, every, from_channel
from fastconv.kernels.jit import inner, jit, part
from fastconv.kernels.pack import Window, clear, pack_band, transpose, unpack_band
from fastconv.kernels.records import fields
from fastconv.kernels.simd import Vector, load, prefetch, store
from fastconv.kernels.vectors import (
    VECTOR_BYTES,
    fma,
    pointer,
    rolled,
    splat,
    vector_load,
    vector_store,
)

# Pixels of the tiles: fourteen sums and a vector of weights fit 16 registers, too.
TILE_PIXELS, FEWER_PIXELS = 14, 7
# Pixels of the scratch, which are unpacked together: rows of 14 fill few vectors (357 and 899 ns for a plane
# of 16 channels, float32, AVX-512 Xeon).
UNPACKED = 256
# Taps and channels (at most as many as lanes) of a tile of sums, which has a vector for each pair.
SUM_TAPS, SUM_CHANNELS = 3, 8 if VECTOR_BYTES == 64 else 4


class Layer(NamedTuple):
    """What is the same for all units; a unit is some rows of one image for some channel blocks."""

    blocks: int  # all channel blocks
    unit_blocks: int  # those of a unit; the last one may have fewer
    filters: int  # of a group
    channels: int  # of a group
    groups: int  # of a channel block: 1, or as many as its groups are narrower than a vector
    rows: int  # of the output in a unit; the last one of an image may have fewer
    start: int  # the row that the first tap of the first row reads
    stride: int  # along rows
    span: int  # rows from the first tap to the last, both included
    columns: int  # of the band
    channel_stride: int  # elements from one channel to the next in packed weights


class Taps(NamedTuple):
    """Which columns a band has, and where in it taps read and in packed weights theirs begin."""

    # int64 array (phases, 4): columns that lie a stride apart are a phase. The first one, how far they lie
    # apart, how many the image has, and the column of the phase where the band begins.
    phases: Any
    # int64 array (triples, 5): where the first tap begins in a pixel, how many channels there are, and where
    # each tap begins in the weights.
    triples: Any
    # int64 array (singles, 3): other taps: where each begins in a pixel and in the weights, and how many
    # channels it has.
    singles: Any


class SummedTaps(NamedTuple):
    """As `Taps`, for sums."""

    phases: Any
    offsets: Any  # int64 array (taps,): where each tap of a pixel lies in the first vector of the band
    triples: int  # the first taps are so many triples


class Job(NamedTuple):
    """The images and channel blocks that a call sums."""

    first_image: int
    stop_image: int
    first_block: int
    stop_block: int


class Scratch(NamedTuple):
    """Memory of a thread, 1-D float arrays."""

    band: Any  # what a unit reads
    pixels: Any  # what it writes, where channels are first; of sums the gradients of a unit
    square: Any  # lanes by lanes


class Strided(NamedTuple):
    """Vectors of an array from element ``first`` on, ``stride`` elements apart.

    Such records have no arrays: where one becomes part of a tuple, Numba counts it with atomic instructions.
    """

    first: int
    stride: int


class Filters(NamedTuple):
    """A channel block's weights and biases in arrays of all."""

    weights: int  # element of the first weight
    stride: int  # elements from one channel's weights to the next one's
    bias: int  # element of the first bias


def _number(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _spread(builder: Any, place: Any, kind: Vector, groups: int) -> Any:
    """One channel of each group, which lie beside each other, again and again over the lanes."""
    if groups == 1:
        return splat(builder, builder.load(place), kind.llvm)
    few = vector_load(builder, place, ir.VectorType(kind.llvm.element, groups), kind.size, None)
    order = [lane % groups for lane in range(kind.lanes)]
    return builder.shuffle_vector(few, ir.Constant(few.type, ir.Undefined), _order(order))


def _order(lanes: list[int]) -> Any:
    """Which lanes a shuffle takes."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)


def groups_in(lanes: int) -> list[int]:
    """How many groups there may be in a vector of so many lanes."""
    return [groups for groups in (1, 2, 4) if groups == 1 or lanes // groups > 1]


def _each(builder: Any, value: Any, choices: list[int]) -> Iterator[int]:
    """Each choice; what is made meanwhile runs where a number is the same."""
    for choice in choices:
        with builder.if_then(builder.icmp_signed("==", value, _number(choice))):
            yield choice


@intrinsic
def together(typingctx, vector, groups):
    """The lanes of a vector of channels in the order of a band: the first of each group, then the second."""

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        value, wanted = arguments
        vector, _ = sig.args
        lanes, result = vector.lanes, value
        for count in groups_in(lanes)[1:]:
            order = [lane % count * (lanes // count) + lane // count for lane in range(lanes)]
            is_wanted = builder.icmp_signed("==", wanted, ir.Constant(wanted.type, count))
            result = builder.select(is_wanted, builder.shuffle_vector(value, value, _order(order)), result)
        return result

    return vector(vector, types.int64), codegen


@intrinsic
def block_tile(typingctx, band, first, taps, weights, bias, filters, groups, pixels, y, target):
    """``y[pixel, :] = bias + sum over taps t, channels i of weights[t, i, :] * band[pixel, offset(t) + i]``.

    With several groups, lane l of a product has channel i of the group that filter l belongs to.

    Parameters
    ----------
    band : 1-D float array
        Pixels lie a vector apart, from element ``first`` on.
    taps : Taps
    weights, bias : 1-D float array
    filters : Filters
        Those of the channel block.
    groups : int
        Of the channel block.
    pixels : int
        Of the tile: `TILE_PIXELS`, `FEWER_PIXELS` or 1.
    y : 1-D float array
    target : Strided
        Where ``y`` is written: a vector for each pixel.
    """
    whole = types.int64
    sig = types.void(band, whole, taps, weights, bias, filters, whole, whole, y, target)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        *_, wanted_groups, wanted_pixels, _, _ = arguments
        kind = Vector(sig.args[0].dtype)
        for pixels in _each(builder, wanted_pixels, [TILE_PIXELS, FEWER_PIXELS, 1]):
            for groups in _each(builder, wanted_groups, groups_in(kind.lanes)):
                _tile(context, builder, sig, arguments, kind, pixels, groups)
        return context.get_dummy_value()

    return sig, codegen


def _tile(
    context: Any, builder: Any, sig: Any, arguments: Any, kind: Vector, pixels: int, groups: int
) -> None:
    """The code of a tile of so many pixels for so many groups."""
    band_kind, _, taps_kind, weights_kind, bias_kind, filters_kind, _, _, y_kind, target_kind = sig.args
    band, first, taps, weights, bias, filters, _, _, y, target = arguments
    filters = fields(context, builder, filters_kind, filters)
    target = fields(context, builder, target_kind, target)
    vector, size, lanes = kind.llvm, kind.size, kind.lanes
    zero = ir.Constant(vector, [0.0] * lanes)
    sums = [cgutils.alloca_once_value(builder, zero) for _ in range(pixels)]
    begin = pointer(context, builder, band_kind, band, first)
    weights = pointer(context, builder, weights_kind, weights, filters.weights)

    def add(total: Any, factor: Any, values: Any) -> None:
        builder.store(fma(builder, vector, size, factor, values, builder.load(total)), total)

    def table(field: int, columns: int) -> Any:
        """Row by row."""
        array = builder.extract_value(taps, field)
        proxy = cgutils.create_struct_proxy(taps_kind.types[field])(context, builder, value=array)
        rows, _ = cgutils.unpack_tuple(builder, proxy.shape, 2)
        with cgutils.for_range(builder, rows) as loop:
            row = builder.gep(proxy.data, [builder.mul(loop.index, _number(columns))])
            yield [builder.load(builder.gep(row, [_number(i)])) for i in range(columns)]

    outputs = [pointer(context, builder, y_kind, y, target.first)]
    for _ in sums[1:]:
        outputs.append(builder.gep(outputs[-1], [target.stride]))
    for place in outputs:
        # 140 and 129 GF/s (512x28 in groups of 16, forward, float32, AVX-512 Xeon); to be read, 3 % less.
        vectors.prefetch(builder, place, write=True)
    for offset, steps, *firsts in table(Taps._fields.index("triples"), 5):
        at = cgutils.alloca_once_value(builder, builder.gep(begin, [offset]))
        places = [cgutils.alloca_once_value(builder, builder.gep(weights, [place])) for place in firsts]
        with rolled(builder, steps):
            here = builder.load(at)
            values = []
            for place in places:
                values.append(vector_load(builder, builder.load(place), vector, size, None))
                builder.store(builder.gep(builder.load(place), [filters.stride]), place)
            for m in range(len(sums) + len(values) - 1):
                factor = _spread(builder, builder.gep(here, [_number(m * lanes)]), kind, groups)
                for tap, value in enumerate(values):
                    if 0 <= m - tap < len(sums):
                        add(sums[m - tap], factor, value)
            builder.store(builder.gep(here, [_number(groups)]), at)
    for offset, first_of, steps in table(Taps._fields.index("singles"), 3):
        at = cgutils.alloca_once_value(builder, builder.gep(begin, [offset]))
        weight = cgutils.alloca_once_value(builder, builder.gep(weights, [first_of]))
        with rolled(builder, steps):
            here, row = builder.load(at), builder.load(weight)
            value = vector_load(builder, row, vector, size, None)
            for m, total in enumerate(sums):
                add(total, _spread(builder, builder.gep(here, [_number(m * lanes)]), kind, groups), value)
            builder.store(builder.gep(here, [_number(groups)]), at)
            builder.store(builder.gep(row, [filters.stride]), weight)
    added = vector_load(builder, pointer(context, builder, bias_kind, bias, filters.bias), vector, size, None)
    of_group = lanes // groups
    apart = _order([lane % of_group * groups + lane // of_group for lane in range(lanes)])
    for total, place in zip(sums, outputs, strict=True):
        value = builder.load(total)
        if groups > 1:
            value = builder.shuffle_vector(value, value, apart)
        vector_store(builder, builder.fadd(added, value), place, vector, size, None)


@intrinsic
def block_sums(typingctx, dy, first_dy, band, source, rows, across, groups, taps, sums, target):
    """``sums[tap, c, :] += sum over rows, pixels of dy[pixel, :] * band[pixel + tap, c]``.

    Parameters
    ----------
    dy : 1-D float array
        From ``first_dy`` on ``rows`` times ``across`` vectors.
    band : 1-D float array
    source : Strided
        The first pixel that the first tap reads; the stride is that of rows.
    rows, across : int
        At least as many pixels as taps, less one.
    groups : int
        Of the channel block.
    taps : int
        Of the tile, which read pixels beside each other: `SUM_TAPS` or 1.
    sums : 1-D float array
    target : Strided
        Where ``sums`` are added to: vectors of channels for each tap; the stride is that of taps.
    """
    whole = types.int64
    sig = types.void(dy, whole, band, source, whole, whole, whole, whole, sums, target)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        *_, wanted_groups, wanted_taps, _, _ = arguments
        kind = Vector(sig.args[0].dtype)
        for taps in _each(builder, wanted_taps, [SUM_TAPS, 1]):
            for groups in _each(builder, wanted_groups, groups_in(kind.lanes)):
                _sums(context, builder, sig, arguments, kind, taps, groups)
        return context.get_dummy_value()

    return sig, codegen


def _sums(context: Any, builder: Any, sig: Any, arguments: Any, kind: Vector, taps: int, groups: int) -> None:
    """The code of sums of so many taps for so many groups."""
    dy_kind, _, band_kind, source_kind, _, _, _, _, sums_kind, target_kind = sig.args
    dy, first_dy, band, source, rows, across, _, _, sums, target = arguments
    source = fields(context, builder, source_kind, source)
    target = fields(context, builder, target_kind, target)
    vector, size, lanes = kind.llvm, kind.size, kind.lanes
    zero = ir.Constant(vector, [0.0] * lanes)
    channels = range(min(SUM_CHANNELS, lanes // groups))
    totals = [[cgutils.alloca_once_value(builder, zero) for _ in channels] for _ in range(taps)]
    gradient = cgutils.alloca_once_value(builder, pointer(context, builder, dy_kind, dy, first_dy))
    begin = pointer(context, builder, band_kind, band, source.first)
    with rolled(builder, rows) as row:
        pixel = cgutils.alloca_once_value(
            builder, builder.gep(begin, [builder.mul(row.index, source.stride)])
        )

        def step(met: range, pixel: Any = pixel) -> None:
            """A pixel of the band meets the gradients of all pixels whose taps read it."""
            here, at = builder.load(gradient), builder.load(pixel)
            places = [builder.gep(here, [_number(-t * lanes)]) for t in met]
            values = [vector_load(builder, place, vector, size, None) for place in places]
            for c in channels:
                factor = _spread(builder, builder.gep(at, [_number(c * groups)]), kind, groups)
                for t, value in zip(met, values, strict=True):
                    total = totals[t][c]
                    builder.store(fma(builder, vector, size, factor, value, builder.load(total)), total)
            builder.store(builder.gep(here, [_number(lanes)]), gradient)
            builder.store(builder.gep(at, [_number(lanes)]), pixel)

        for t in range(taps - 1):
            step(range(t + 1))
        with rolled(builder, builder.sub(across, _number(taps - 1))):
            step(range(taps))
        for t in range(taps - 1):
            step(range(t + 1, taps))
        builder.store(builder.gep(builder.load(gradient), [_number(-(taps - 1) * lanes)]), gradient)
    place = pointer(context, builder, sums_kind, sums, target.first)
    for tap_totals in totals:
        for c, total in enumerate(tap_totals):
            here = builder.gep(place, [_number(c * lanes)])
            before = vector_load(builder, here, vector, size, None)
            added = builder.fadd(before, builder.load(total))
            vector_store(builder, added, here, vector, size, None)
        place = builder.gep(place, [target.stride])


@jit
def pack_weights(w, blocks, elements, packed):
    """The weights (filters, elements) as vectors along filters (channel blocks, elements, lanes)."""
    lanes = VECTOR_BYTES // w.itemsize
    square = np.empty(lanes * lanes, w.dtype)
    for block in range(blocks):
        begin = block * lanes * elements
        transpose(w, begin, elements, lanes, elements, packed[begin:], lanes, square)


@jit
def transpose_groups(w, groups, rows, columns, transposed):
    """Matrices (rows, columns) of all groups, transposed."""
    lanes = VECTOR_BYTES // w.itemsize
    square = np.empty(lanes * lanes, w.dtype)
    for group in range(groups):
        begin = group * rows * columns
        transpose(w, begin, columns, rows, columns, transposed[begin:], rows, square)


@inner
def pack_blocks(x, image, number, window, blocks, size, band, groups):
    """As `pack_band`, of vectors of channels that are last: those of several groups are put `together`.

    Each of the vectors of a pixel, which belong to ``blocks`` channel blocks, goes to a band of its own,
    ``size`` elements apart.
    """
    lanes = VECTOR_BYTES // x.itemsize
    rows, columns = window.rows, window.columns
    top, bottom = min(rows, max(0, -window.row)), min(rows, image.height - window.row)
    left, right = min(columns, max(0, -window.column)), min(columns, image.width - window.column)
    for r in range(rows):
        row = r * columns * lanes
        empty = r < top or r >= bottom or left >= right
        for block in range(blocks):
            if empty:
                clear(band, block * size + row, columns * lanes)
            else:
                clear(band, block * size + row, left * lanes)
                clear(band, block * size + row + right * lanes, (columns - right) * lanes)
        if empty:
            continue
        for k in range(left, right):
            source = address(image, number, 0, 0, window.row + r, window.column + k)
            target = row + k * lanes
            for block in range(blocks):
                taken = load(x, source + block * lanes)
                store(band, target + block * size, together(taken, groups))


@part
def pack_unit(x, image, number, row, channel, blocks, layer, phases, scratch):
    """What a unit reads, from row ``row`` and channel ``channel`` on, as a band.

    Its axes are phases, vectors of channels, rows, columns, lanes. Where channels are last there may be
    several ``blocks``, a vector each, whose bands lie one behind the other.
    """
    lanes = VECTOR_BYTES // x.itemsize
    channels, groups = layer.channels * layer.groups, layer.groups
    rows, size = (layer.rows - 1) * layer.stride + layer.span, scratch.band.size // layer.unit_blocks
    channel_vectors = (channels + lanes - 1) // lanes
    for phase in range(phases.shape[0]):
        for vector in range(channel_vectors):
            seen = every(
                from_channel(image, channel + vector * lanes), phases[phase, 0], phases[phase, 1],
                phases[phase, 2],
            )  # fmt: skip
            band = scratch.band[(phase * channel_vectors + vector) * rows * layer.columns * lanes :]
            window = Window(row, phases[phase, 3], rows, layer.columns)
            if groups > 1 or (image.channel_stride == 1 and channels - vector * lanes >= lanes):
                pack_blocks(x, seen, number, window, blocks, size, band, groups)
            else:
                some = min(lanes, channels - vector * lanes)
                pack_band(x, seen, number, 0, some, window, band, lanes, scratch.square)


@inner
def tile_pixels(left, across):
    """Pixels of the next tile of a row of ``across`` pixels, of which so many are left.

    A tile may have more pixels than are left, if the row has as many: then it repeats some.
    """
    if left >= TILE_PIXELS or (left > FEWER_PIXELS and across >= TILE_PIXELS):
        return TILE_PIXELS
    return FEWER_PIXELS if across >= FEWER_PIXELS else 1


@part
def convolve_row(band, first, taps, weights, bias, filters, groups, across, y, target):
    """A row of one channel block, tile by tile; the last one may repeat pixels of the one before."""
    lanes = VECTOR_BYTES // band.itemsize
    pixel = 0
    while pixel < across:
        pixels = tile_pixels(across - pixel, across)
        pixel = min(pixel, across - pixels)
        here = Strided(target.first + pixel * target.stride, target.stride)
        block_tile(band, first + pixel * lanes, taps, weights, bias, filters, groups, pixels, y, here)
        pixel += pixels


@inner
def prefetch_planes(x, image, first, planes, begin, stop, write):
    """Prefetch elements of some planes from ``begin`` until ``stop`` is met or the plane ends.

    Returns the next one to prefetch. A stride may lie far beyond the plane that it is one of, ``stop`` too.

    Of the rows that are read next, or written, a part before each tile: 125 and 139 GF/s (512x14 in groups
    of 16, channels first, float32, AVX-512 Xeon), together with rows that are unpacked at once.
    """
    lanes = VECTOR_BYTES // x.itemsize
    plane = image.channel_stride
    while begin < min(stop, plane):
        for c in range(planes):
            if write:
                prefetch(x, first + c * plane + begin, 1)
            else:
                prefetch(x, first + c * plane + begin, 0)
        begin += lanes
    return begin


@inner
def unpack_rows(pixels, rows, y, place, output, square):
    """Copy some rows of one channel block to where they belong; those one behind the other together."""
    lanes = VECTOR_BYTES // y.itemsize
    across = output.width
    joined = rows if output.row_stride == across * output.pixel_stride else 1
    for row in range(0, rows, joined):
        unpack_band(
            pixels, row * across, joined * across, lanes, y, place + row * output.row_stride, output, lanes,
            square,
        )  # fmt: skip


@jit
def convolve_units(x, image, weights, bias, y, output, layer, taps, units, scratch):
    """Convolve some units.

    Parameters
    ----------
    x, y : 1-D float array
        The memory of images, and of the output, which is written.
    image, output : Image as a plain tuple
        Where they lie in it, of all channels and all filters.
    weights : 1-D float array (channel blocks, elements, lanes)
        From `pack_weights`.
    bias : 1-D float array (filters,)
    layer : Layer as a plain tuple
    taps : Taps as a plain tuple
    units : tuple of two int
        From and up to which; channel blocks follow each other fastest, then rows, then images.
    scratch : Scratch as a plain tuple
    """
    image, output, layer = Image(*image), Image(*output), Layer(*layer)
    taps, scratch = Taps(*taps), Scratch(*scratch)
    first_unit, stop_unit = units
    lanes = VECTOR_BYTES // x.itemsize
    height, across, groups = output.height, output.width, layer.groups
    per_image = (height + layer.rows - 1) // layer.rows
    per_row = (layer.blocks + layer.unit_blocks - 1) // layer.unit_blocks
    band_row, elements = layer.columns * lanes, weights.size // layer.blocks
    size = scratch.band.size // layer.unit_blocks
    last = groups > 1 or output.channel_stride == 1
    at_once = max(1, UNPACKED // max(1, across))
    for unit in range(first_unit, stop_unit):
        piece, some_blocks = divmod(unit, per_row)
        number, chunk = divmod(piece, per_image)
        first_row, first_block = chunk * layer.rows, some_blocks * layer.unit_blocks
        rows = min(layer.rows, height - first_row)
        blocks = min(layer.unit_blocks, layer.blocks - first_block)
        channel = first_block * lanes // layer.filters * layer.channels
        top = layer.start + first_row * layer.stride
        pack_unit(x, image, number, top, channel, blocks, layer, taps.phases, scratch)
        # The same rows of the channels behind these.
        next_read = address(image, number, channel + layer.channels, 0, top, 0)
        for block in range(first_block, first_block + blocks):
            filters = Filters(block * elements, layer.channel_stride, block * lanes)
            place = address(output, number, block * lanes, 0, first_row, 0)
            first = (block - first_block) * size
            unpacked = read = written = 0
            for row in range(rows):
                if last:
                    target = Strided(place + row * output.row_stride, output.pixel_stride)
                else:
                    target = Strided((row - unpacked) * across * lanes, lanes)
                    stop = (row + 1) * layer.stride * image.row_stride
                    read = prefetch_planes(x, image, next_read, layer.channels, read, stop, False)
                    stop = (row + 1) * output.row_stride
                    written = prefetch_planes(y, output, place, lanes, written, stop, True)
                convolve_row(
                    scratch.band, first + row * layer.stride * band_row, taps, weights, bias, filters, groups,
                    across, y if last else scratch.pixels, target,
                )  # fmt: skip
                if not last and row + 1 == min(rows, unpacked + at_once):
                    where = place + unpacked * output.row_stride
                    unpack_rows(scratch.pixels, row + 1 - unpacked, y, where, output, scratch.square)
                    unpacked = row + 1


@jit
def sum_blocks(dy, gradient, x, image, sums, layer, taps, job, scratch):
    """Add to the sums of some channel blocks what some images give: gradients times what the taps read.

    Parameters
    ----------
    dy, x : 1-D float array
        The memory of the output's gradient, and of images.
    gradient, image : Image as a plain tuple
        Where they lie in it, of all filters and all channels.
    sums : float array (channel blocks, taps, channels in whole tiles, lanes)
        Added to.
    layer : Layer as a plain tuple
    taps : SummedTaps as a plain tuple
    job : Job as a plain tuple
    scratch : Scratch as a plain tuple
    """
    gradient, image, layer = Image(*gradient), Image(*image), Layer(*layer)
    taps, job, scratch = SummedTaps(*taps), Job(*job), Scratch(*scratch)
    lanes = VECTOR_BYTES // x.itemsize
    height, across, groups = gradient.height, gradient.width, layer.groups
    band_row, band_rows = layer.columns * lanes, (layer.rows - 1) * layer.stride + layer.span
    flat, tap_count, tap_stride = sums.reshape(sums.size), sums.shape[1], sums.shape[2] * lanes
    whole, channel_step = taps.triples * SUM_TAPS, min(SUM_CHANNELS, lanes)
    parts = max(1, taps.triples * (layer.channels // channel_step))
    size, gradient_size = scratch.band.size // layer.unit_blocks, scratch.pixels.size // layer.unit_blocks
    for first_block in range(job.first_block, job.stop_block, layer.unit_blocks):
        blocks = min(layer.unit_blocks, job.stop_block - first_block)
        channel = first_block * lanes // layer.filters * layer.channels
        seen = from_channel(gradient, first_block * lanes)
        for number in range(job.first_image, job.stop_image):
            for first_row in range(0, height, layer.rows):
                rows = min(layer.rows, height - first_row)
                top = layer.start + first_row * layer.stride
                pack_unit(x, image, number, top, channel, blocks, layer, taps.phases, scratch)
                window = Window(first_row, 0, rows, across)
                if groups > 1 or gradient.channel_stride == 1:
                    pack_blocks(dy, seen, number, window, blocks, gradient_size, scratch.pixels, groups)
                else:
                    pack_band(dy, seen, number, 0, lanes, window, scratch.pixels, lanes, scratch.square)
                # The same rows of the next image, a part of them before each tile.
                next_x = address(image, number + 1, channel, 0, max(0, top), 0)
                next_dy = address(seen, number + 1, 0, 0, first_row, 0)
                read, read_dy = 0, 0
                part = 0 if gradient.channel_stride == 1 else (rows + parts - 1) // parts
                for block in range(blocks):
                    target = (first_block + block) * tap_count * tap_stride
                    for c in range(0, layer.channels, channel_step):
                        first = block * size + c // lanes * band_rows * band_row + c % lanes
                        place = target + c * lanes
                        tap = 0
                        while tap < tap_count:
                            tile_taps = SUM_TAPS if tap < whole else 1
                            if tap < whole:
                                stop = read + part * layer.stride * image.row_stride
                                read = prefetch_planes(x, image, next_x, layer.channels, read, stop, False)
                                stop = read_dy + part * seen.row_stride
                                read_dy = prefetch_planes(dy, seen, next_dy, lanes, read_dy, stop, False)
                            block_sums(
                                scratch.pixels, block * gradient_size,
                                scratch.band, Strided(first + taps.offsets[tap], layer.stride * band_row),
                                rows, across, groups, tile_taps, flat,
                                Strided(place + tap * tap_stride, tap_stride),
                            )  # fmt: skip
                            tap += tile_taps
