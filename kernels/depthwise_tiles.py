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


class Arrays(NamedTuple):
    """What the tiles of a pass share.

    Made once, outside the loops: where an array becomes part of a tuple, Numba counts it with atomic
    instructions, which take as long as a tile of few pixels.
    """

    x: Any  # 1-D float array, whose channels are contiguous
    out: Any  # 1-D float array, whose filters are contiguous; in backward-weight its gradient
    weights: Any  # 1-D float array: of each tap and channel of a group, a row of all filters
    taps: Any  # int64 array (rows, 2): SHIFT, WEIGHT
    pixels: Any  # int64 array (rows, COLUMNS): SOURCE, TARGET
    filters: int  # of all groups


class Place(NamedTuple):
    """Where in the arrays of a pass those tiles begin that share taps.

    What the table of pixels says is counted from ``x`` and ``out``. The first taps come in ``triples``: each
    tap of a triple reads what lies one pixel further than what the tap before it reads.
    """

    x: int
    out: int
    tap: int  # row of the table of taps
    triples: int
    taps: int  # all of them
    pixel: int  # row of the table of pixels
    pixels: int  # rows: pixels, or runs of `RUN` pixels in a row


class Strides(NamedTuple):
    """Elements from one pixel of a run to the next."""

    x: int
    out: int


class Range(NamedTuple):
    """From and up to which position."""

    begin: int
    end: int


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
def pixel_tiles(typingctx, arrays, bias, place, strides, filters, group, runs, masked):
    """``out[target + k] = bias[k] + sum of weights[weight + c*K + k] * x[source + shift + c']``.

    The sum is over taps and the channels c of a group; ``c'`` is that channel of the group of the filter k.

    Parameters
    ----------
    arrays : Arrays
        Of which ``out`` is written.
    bias : 1-D float array
    place : Place
        Whole tiles: a multiple of `FEW_PIXELS` pixels, or runs of a multiple of `TILE_PIXELS`.
    strides : Strides
    filters : Range
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
    sig = types.void(arrays, bias, place, strides, filters, group, whole, whole)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        arrays_kind, bias_kind, place_kind, strides_kind, filters_kind, group_kind, _, _ = sig.args
        arrays, bias, place, strides, filters, group_here, runs, masked = arguments
        arrays = fields(context, builder, arrays_kind, arrays)
        place = fields(context, builder, place_kind, place)
        strides = fields(context, builder, strides_kind, strides)
        filters = fields(context, builder, filters_kind, filters)
        vector = _vector_type(bias_kind)
        added = pointer(context, builder, bias_kind, bias, filters.begin)
        in_runs, is_masked = (builder.icmp_signed("!=", flag, _number(0)) for flag in (runs, masked))
        for group in _each_group(context, builder, group_kind, group_here, vector.count):
            tile = _PixelTile(builder, vector, group, arrays, added, place, strides, filters)
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
        self, builder: Any, vector: Any, group: tuple[int, int], arrays: Any, bias: Any, place: Any,
        strides: Any, filters: Any,
    ) -> None:  # fmt: skip
        channels, of_group = group
        self.builder, self.vector, self.group, self.bias = builder, vector, group, bias
        self.place, self.strides, self.row = place, strides, arrays.filters
        self.source = ir.VectorType(vector.element, vector.count * channels // of_group)
        first_channel = builder.mul(builder.sdiv(filters.begin, _number(of_group)), _number(channels))
        self.image = builder.gep(arrays.x, [builder.add(place.x, first_channel)])
        self.weights = builder.gep(arrays.weights, [filters.begin])
        self.target = builder.gep(arrays.out, [builder.add(place.out, filters.begin)])
        self.filters = builder.sub(filters.end, filters.begin)
        self.tap_rows = builder.gep(arrays.taps, [builder.mul(place.tap, _number(2))])
        self.pixel_rows = builder.gep(arrays.pixels, [builder.mul(place.pixel, _number(COLUMNS))])

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
                        builder.add(shift, builder.mul(self.strides.x, _number(n)))
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
                            place = builder.gep(rows[t], [builder.mul(_number(c), self.row)])
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
                        builder, self.place.triples, sums,
                        lambda i, s: products(builder.mul(i, _number(3)), 3, s),
                    )  # fmt: skip
                    done = builder.mul(self.place.triples, _number(3))
                left = builder.sub(self.place.taps, done)
                sums = _loop(builder, left, sums, lambda i, s: products(builder.add(done, i), 1, s))
                for p, total in enumerate(sums):
                    further = builder.add(first, builder.mul(self.strides.out, _number(p % run)))
                    start = builder.add(_entry(builder, here, p // run, TARGET), further)
                    _vector_store(builder, total, builder.gep(self.target, [start]), filter_mask)

            _over_filters(builder, self.filters, lanes, self.group, masked, vectors)
            return []

        _loop(builder, builder.sdiv(self.place.pixels, _number(len(runs))), [], tile)


@intrinsic
def pixel_sums(typingctx, arrays, place, group):
    """``weights[weight + c*K + k] += sum over pixels of out[target + k] * x[source + shift + c']``.

    As in `pixel_tiles`, ``c'`` is the channel c of the group of the filter k.

    Parameters
    ----------
    arrays : Arrays
        Whose weights are added to.
    place : Place
        As many taps as `PIXEL_TAPS` says, whatever their number.
    group : Group
    """
    sig = types.void(arrays, place, group)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        arrays_kind, place_kind, group_kind = sig.args
        arrays, place, group_here = arguments
        vector = _vector_type(arrays_kind.types[Arrays._fields.index("x")])
        arrays = fields(context, builder, arrays_kind, arrays)
        place = fields(context, builder, place_kind, place)
        for group in _each_group(context, builder, group_kind, group_here, vector.count):
            _pixel_sums(builder, vector, group, arrays, place)
        return context.get_dummy_value()

    return sig, codegen


def _pixel_sums(builder: Any, vector: Any, group: tuple[int, int], arrays: Any, place: Any) -> None:
    """The code of `pixel_sums` for one kind of group."""
    channels, of_group = group
    lanes, size, tile_taps = vector.count, _size(vector), range(PIXEL_TAPS[channels])
    source = ir.VectorType(vector.element, lanes * channels // of_group)
    gradient = builder.gep(arrays.out, [place.out])
    image = builder.gep(arrays.x, [place.x])
    tap = builder.gep(arrays.taps, [builder.mul(place.tap, _number(2))])
    table = builder.gep(arrays.pixels, [builder.mul(place.pixel, _number(COLUMNS))])
    shifts = [builder.load(builder.gep(tap, [_number(2 * t + SHIFT)])) for t in tile_taps]
    weights = [builder.load(builder.gep(tap, [_number(2 * t + WEIGHT)])) for t in tile_taps]
    zero = ir.Constant(vector, [0.0] * lanes)

    def vectors(first: Any, channel: Any, filter_mask: Any, channel_mask: Any) -> None:
        """One vector of filters: the sums over all pixels."""
        images = [builder.gep(image, [builder.add(shift, channel)]) for shift in shifts]
        gradients = builder.gep(gradient, [first])

        def step(i: Any, totals: list[Any]) -> list[Any]:
            """All products of one pixel."""
            here = builder.gep(table, [builder.mul(i, _number(COLUMNS))])
            address = builder.gep(gradients, [_entry(builder, here, 0, TARGET)])
            row = vector_load(builder, address, vector, size, filter_mask)
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

        totals = _loop(builder, place.pixels, [zero] * (len(tile_taps) * channels), step)
        for t in tile_taps:
            for c in range(channels):
                row = builder.add(weights[t], builder.mul(_number(c), arrays.filters))
                address = builder.gep(arrays.weights, [builder.add(row, first)])
                before = vector_load(builder, address, vector, size, filter_mask)
                after = builder.fadd(before, totals[t * channels + c])
                _vector_store(builder, after, address, filter_mask)

    _over_filters(builder, arrays.filters, lanes, group, True, vectors)
