"""Micro-kernels for small groups with the channels last: vectors lie along the filters of a few pixels.

A vector of filters reads the channels of its groups: the same number of channels where a group has as many
channels as filters, else more or fewer. A group of several channels multiplies each of them with a vector of
weights of its own, for which the channel is spread over the lanes of its group's filters by a shuffle.

The pixels of a tile share their taps, and stand in a table (`fastconv.kernels.plane_tiles`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastconv.kernels.plane_tiles import (
    COLUMNS,
    RUN,
    SOURCE,
    TARGET,
    _entry,
    _loop,
    _mask,
    _number,
    _pick,
    _size,
    _vector_store,
    _vector_type,
)
from fastconv.kernels.records import fields
from fastconv.kernels.vectors import VECTOR_BITS, fma, pointer, vector_load

# (channels, filters) of a group that there are tiles for.
GROUPS = ((1, 1), (2, 2), (4, 4), (8, 8), (1, 2), (2, 1))
# Columns of a table of taps: elements from a pixel's source to what the tap reads, and its first weight.
SHIFT, WEIGHT = 0, 1
# Pixels of a tile of runs, and of a tile of single pixels: fewer, because a corner of an image is one pixel.
TILE_PIXELS, FEW_PIXELS = 8, 4
# Taps of a tile of sums by the channels of a group.
PIXEL_TAPS = {1: 9, 2: 5, 4: 3, 8: 2} if VECTOR_BITS == 512 else {1: 9, 2: 4, 4: 2, 8: 1}


class Memory(NamedTuple):
    """Images with their channels last: what the table of pixels says is counted from element ``first``."""

    array: Any  # 1-D float array
    first: int
    stride: int  # from one pixel of a run to the next


class Taps(NamedTuple):
    """``number`` taps that some pixels share; the first ones come in ``triples``.

    Each tap of a triple reads what lies one pixel further than what the tap before it reads.
    """

    table: Any  # int64 array (rows, 2): SHIFT, WEIGHT
    first: int  # row
    triples: int
    number: int


class Pixels(NamedTuple):
    """``number`` rows of a table from row ``first`` on: pixels, or runs of `RUN` pixels in a row."""

    table: Any  # int64 array (rows, COLUMNS): SOURCE, TARGET
    first: int
    number: int


class Filters(NamedTuple):
    """``number`` filters, from filter ``first`` on, of those of all groups."""

    weights: Any  # 1-D float array: of each tap and channel of a group, a row of all filters
    bias: Any  # 1-D float array
    row: int  # elements of a row of weights
    first: int
    number: int


class Group(NamedTuple):
    """Channels and filters of a group, one of `GROUPS`."""

    channels: int
    filters: int


def _spread(builder: Any, channels: Any, group: tuple[int, int], channel: int, lanes: int) -> Any:
    """One channel of each group, in the lanes of all filters of the group."""
    of_group, filters = group
    if group == (1, 1):
        return channels
    return _pick(builder, channels, [lane // filters * of_group + channel for lane in range(lanes)])


def _filter_masks(builder: Any, left: Any, lanes: int, group: tuple[int, int]) -> tuple[Any, Any]:
    """The masks of the filters that are left and of their channels, in one vector."""
    channels, filters = group
    most = _number(lanes)
    count = builder.select(builder.icmp_signed("<", left, most), left, most)

    def below(count: Any, wide: int) -> Any:
        bits = builder.sub(builder.shl(_number(1), count), _number(1))
        return _mask(builder, bits, wide)

    channel_count = builder.sdiv(builder.mul(count, _number(channels)), _number(filters))
    return below(count, lanes), below(channel_count, lanes * channels // filters)


def _over_filters(
    builder: Any, count: Any, lanes: int, group: tuple[int, int], masked: bool, step: Any
) -> None:
    """``step(first filter, first channel, their masks)`` for each vector of ``number`` filters."""
    channels, filters = group
    vectors = builder.sdiv(builder.add(count, _number(lanes - 1 if masked else 0)), _number(lanes))

    def vector(v: Any, _: list[Any]) -> list[Any]:
        first = builder.mul(v, _number(lanes))
        masks = _filter_masks(builder, builder.sub(count, first), lanes, group) if masked else (None, None)
        step(first, builder.mul(v, _number(lanes * channels // filters)), *masks)
        return []

    _loop(builder, vectors, [], vector)


def _each_group(context: Any, builder: Any, kind: Any, value: Any, lanes: int) -> Iterator[tuple[int, int]]:
    """Each group that vectors of so many lanes serve; what is made meanwhile runs for that group alone."""
    here = fields(context, builder, kind, value)
    for channels, filters in GROUPS:
        if lanes % filters == 0:
            same_channels = builder.icmp_signed("==", here.channels, _number(channels))
            same_filters = builder.icmp_signed("==", here.filters, _number(filters))
            with builder.if_then(builder.and_(same_channels, same_filters)):
                yield channels, filters


@intrinsic
def pixel_tiles(typingctx, x, taps, pixels, filters, group, runs, masked, out):
    """``out[target + k] = bias[k] + sum of weights[weight + c*row + k] * x[source + shift + c']``.

    The sum is over taps and the channels c of a group; ``c'`` is that channel of the group of the filter k.

    Parameters
    ----------
    x, out : Memory
        From the first channel, and the first filter, of all on. ``out`` is written.
    taps : Taps
    pixels : Pixels
        Whole tiles: a multiple of `FEW_PIXELS` pixels, or runs of a multiple of `TILE_PIXELS`.
    filters : Filters
        Where the last vector is not masked, whole vectors of them.
    group : Group
    runs : int
        Whether the table has runs: what a triple of taps reads for 4 pixels are 6 vectors instead of 12
        (float32, AVX-512 Xeon: depthwise 57 against 39 GF/s for 7x7 taps at 56x56).
    masked : int
        Whether the last vector may have fewer filters. Only depthwise layers have tiles without masks, and
        only for runs, which is less to compile.
    """
    whole = types.int64
    sig = types.void(x, taps, pixels, filters, group, whole, whole, out)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        x, taps, pixels, filters, _, runs, masked, out = (
            value if kind == whole else fields(context, builder, kind, value)
            for kind, value in zip(sig.args, arguments, strict=True)
        )
        vector = _vector_type(sig.args[0].types[0])
        in_runs, is_masked = (builder.icmp_signed("!=", flag, _number(0)) for flag in (runs, masked))
        for group in _each_group(context, builder, sig.args[4], arguments[4], vector.count):
            tile = _PixelTile(builder, vector, group, x, taps, pixels, filters, out)
            with builder.if_else(in_runs) as (some, single):
                with some:
                    if group == (1, 1):
                        with builder.if_else(is_masked) as (last, every):
                            with last:
                                tile.make(RUN, masked=True)
                            with every:
                                tile.make(RUN, masked=False)
                    else:
                        tile.make(RUN, masked=True)
                with single:
                    tile.make(1, masked=True)
        return context.get_dummy_value()

    return sig, codegen


class _PixelTile:
    """The code of `pixel_tiles` for one kind of group."""

    def __init__(
        self, builder: Any, vector: Any, group: tuple[int, int], x: Any, taps: Any, pixels: Any, filters: Any,
        out: Any,
    ) -> None:  # fmt: skip
        channels, of_group = group
        self.builder, self.vector, self.group = builder, vector, group
        self.taps, self.pixels, self.filters, self.x, self.out = taps, pixels, filters, x, out
        self.source = ir.VectorType(vector.element, vector.count * channels // of_group)
        first_channel = builder.mul(builder.sdiv(filters.first, _number(of_group)), _number(channels))
        self.image = builder.gep(x.array, [builder.add(x.first, first_channel)])
        self.weights = builder.gep(filters.weights, [filters.first])
        self.bias = builder.gep(filters.bias, [filters.first])
        self.target = builder.gep(out.array, [builder.add(out.first, filters.first)])
        self.tap_rows = builder.gep(taps.table, [builder.mul(taps.first, _number(2))])
        self.pixel_rows = builder.gep(pixels.table, [builder.mul(pixels.first, _number(COLUMNS))])

    def make(self, run: int, masked: bool) -> None:
        """Tiles of runs of so many pixels."""
        builder, vector, channels = self.builder, self.vector, self.group[0]
        source, lanes, size = self.source, vector.count, _size(vector)
        tile_pixels = TILE_PIXELS if run > 1 else FEW_PIXELS
        runs = range(tile_pixels // run)

        def tile(i: Any, _: list[Any]) -> list[Any]:
            here = builder.gep(self.pixel_rows, [builder.mul(i, _number(COLUMNS * len(runs)))])
            sources = [builder.gep(self.image, [_entry(builder, here, row, SOURCE)]) for row in runs]

            def vectors(first: Any, channel: Any, filter_mask: Any, channel_mask: Any) -> None:
                """One vector of filters of all pixels: all their taps, then the stores."""
                row_weights = builder.gep(self.weights, [first])

                def products(first_tap: Any, taps: int, sums: list[Any]) -> list[Any]:
                    """Those of so many taps, each a pixel further, from ``first_tap`` on."""
                    tap = builder.gep(self.tap_rows, [builder.mul(first_tap, _number(2))])
                    shift = builder.add(builder.load(builder.gep(tap, [_number(SHIFT)])), channel)
                    shifts = [
                        builder.add(shift, builder.mul(self.x.stride, _number(n)))
                        for n in range(run + taps - 1)
                    ]
                    values = [
                        [
                            vector_load(builder, builder.gep(s, [n]), source, size, channel_mask)
                            for n in shifts
                        ]
                        for s in sources
                    ]
                    rows = [
                        builder.gep(row_weights, [builder.load(builder.gep(tap, [_number(2 * t + WEIGHT)]))])
                        for t in range(taps)
                    ]
                    for c in range(channels):
                        spread = [
                            [_spread(builder, value, self.group, c, lanes) for value in some]
                            for some in values
                        ]
                        for t in range(taps):
                            place = builder.gep(rows[t], [builder.mul(_number(c), self.filters.row)])
                            factor = vector_load(builder, place, vector, size, filter_mask)
                            sums = [
                                fma(builder, vector, size, factor, spread[p // run][p % run + t], total)
                                for p, total in enumerate(sums)
                            ]
                    return sums

                start = vector_load(builder, builder.gep(self.bias, [first]), vector, size, filter_mask)
                sums, done = [start] * tile_pixels, _number(0)
                if run > 1:
                    sums = _loop(
                        builder, self.taps.triples, sums,
                        lambda i, s: products(builder.mul(i, _number(3)), 3, s),
                    )  # fmt: skip
                    done = builder.mul(self.taps.triples, _number(3))
                left = builder.sub(self.taps.number, done)
                sums = _loop(builder, left, sums, lambda i, s: products(builder.add(done, i), 1, s))
                for p, total in enumerate(sums):
                    further = builder.add(first, builder.mul(self.out.stride, _number(p % run)))
                    start = builder.add(_entry(builder, here, p // run, TARGET), further)
                    _vector_store(builder, total, builder.gep(self.target, [start]), filter_mask)

            _over_filters(builder, self.filters.number, lanes, self.group, masked, vectors)
            return []

        _loop(builder, builder.sdiv(self.pixels.number, _number(len(runs))), [], tile)


@intrinsic
def pixel_sums(typingctx, dy, x, taps, pixels, filters, group, sums):
    """``sums[weight + c*filters + k] += sum over pixels of dy[target + k] * x[source + shift + c']``.

    As in `pixel_tiles`, ``c'`` is the channel c of the group of the filter k.

    Parameters
    ----------
    dy, x : Memory
        From the first filter, and the first channel, of all on.
    taps : Taps
        As many as `PIXEL_TAPS` says, whatever their count.
    pixels : Pixels
    filters : int
        Of all groups.
    group : Group
    sums : 1-D float array
        Added to.
    """
    sig = types.void(dy, x, taps, pixels, types.int64, group, sums)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        dy, x, taps, pixels = (
            fields(context, builder, kind, value)
            for kind, value in zip(sig.args[:4], arguments[:4], strict=True)
        )
        filters, group_of, sums = arguments[4:]
        memory = pointer(context, builder, sig.args[6], sums, _number(0))
        vector = _vector_type(sig.args[6])
        for group in _each_group(context, builder, sig.args[5], group_of, vector.count):
            _pixel_sums(builder, vector, group, dy, x, taps, pixels, filters, memory)
        return context.get_dummy_value()

    return sig, codegen


def _pixel_sums(
    builder: Any, vector: Any, group: tuple[int, int], dy: Any, x: Any, taps: Any, pixels: Any, filters: Any,
    memory: Any,
) -> None:  # fmt: skip
    """The code of `pixel_sums` for one kind of group."""
    channels, of_group = group
    lanes, size, tile_taps = vector.count, _size(vector), range(PIXEL_TAPS[channels])
    source = ir.VectorType(vector.element, lanes * channels // of_group)
    gradient = builder.gep(dy.array, [dy.first])
    image = builder.gep(x.array, [x.first])
    tap = builder.gep(taps.table, [builder.mul(taps.first, _number(2))])
    table = builder.gep(pixels.table, [builder.mul(pixels.first, _number(COLUMNS))])
    shifts = [builder.load(builder.gep(tap, [_number(2 * t + SHIFT)])) for t in tile_taps]
    places = [builder.load(builder.gep(tap, [_number(2 * t + WEIGHT)])) for t in tile_taps]
    zero = ir.Constant(vector, [0.0] * lanes)

    def vectors(first: Any, channel: Any, filter_mask: Any, channel_mask: Any) -> None:
        """One vector of filters: the sums over all pixels."""
        images = [builder.gep(image, [builder.add(shift, channel)]) for shift in shifts]
        gradients = builder.gep(gradient, [first])

        def step(i: Any, totals: list[Any]) -> list[Any]:
            """All products of one pixel."""
            here = builder.gep(table, [builder.mul(i, _number(COLUMNS))])
            place = builder.gep(gradients, [_entry(builder, here, 0, TARGET)])
            row = vector_load(builder, place, vector, size, filter_mask)
            pixel = _entry(builder, here, 0, SOURCE)
            made = []
            for t in tile_taps:
                values = vector_load(builder, builder.gep(images[t], [pixel]), source, size, channel_mask)
                made += [
                    fma(
                        builder, vector, size, row, _spread(builder, values, group, c, lanes),
                        totals[t * channels + c],
                    )
                    for c in range(channels)
                ]  # fmt: skip
            return made

        totals = _loop(builder, pixels.number, [zero] * (len(tile_taps) * channels), step)
        for t in tile_taps:
            for c in range(channels):
                start = builder.add(builder.add(places[t], builder.mul(_number(c), filters)), first)
                place = builder.gep(memory, [start])
                before = vector_load(builder, place, vector, size, filter_mask)
                after = builder.fadd(before, totals[t * channels + c])
                _vector_store(builder, after, place, filter_mask)

    _over_filters(builder, filters, lanes, group, True, vectors)
