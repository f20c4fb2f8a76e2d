"""Micro-kernels for small groups with the channels last: vectors lie along the filters of a few pixels.

A vector of filters reads the channels of its groups: the same number of channels where a group has as many
channels as filters, else more or fewer. A group of several channels multiplies each of them with a vector of
weights of its own, for which the channel is spread over the lanes of its group's filters by a shuffle.

The pixels of a tile have rows in a table of segments (`fastconv.kernels.plane_tiles`) and share their taps.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastconv.kernels.plane_tiles import (
    COLUMNS,
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
from fastconv.kernels.vectors import VECTOR_BITS, fma, pointer, vector_load

# Columns of a table of taps: elements from a pixel's source to what the tap reads, and its first weight.
SHIFT, WEIGHT = 0, 1
# Pixels of a tile of runs, and of a tile of single pixels: fewer, because a corner of an image is one pixel.
TILE_PIXELS, FEW_PIXELS = 8, 4
# Taps of a tile of sums by the channels of a group.
PIXEL_TAPS = {1: 9, 2: 5, 4: 3, 8: 2} if VECTOR_BITS == 512 else {1: 9, 2: 4, 4: 2, 8: 1}


def _spread(builder: Any, channels: Any, group: tuple[int, int], channel: int, lanes: int) -> Any:
    """One channel of each group, in the lanes of all filters of the group."""
    if group == (1, 1):
        return channels
    return _pick(builder, channels, [lane // group[1] * group[0] + channel for lane in range(lanes)])


def _filter_masks(builder: Any, left: Any, lanes: int, group: tuple[int, int]) -> tuple[Any, Any]:
    """The masks of the filters that are left and of their channels, in one vector."""
    most = _number(lanes)
    count = builder.select(builder.icmp_signed("<", left, most), left, most)

    def below(count: Any, wide: int) -> Any:
        bits = builder.sub(builder.shl(_number(1), count), _number(1))
        return _mask(builder, bits, wide)

    channels = builder.sdiv(builder.mul(count, _number(group[0])), _number(group[1]))
    return below(count, lanes), below(channels, lanes * group[0] // group[1])


def _over_filters(
    builder: Any, count: Any, lanes: int, group: tuple[int, int], masked: int, step: Any
) -> None:
    """``step(first filter, first channel, their masks)`` for each vector of ``count`` filters."""
    vectors = builder.sdiv(builder.add(count, _number(lanes - 1 if masked else 0)), _number(lanes))

    def vector(v: Any, _: list[Any]) -> list[Any]:
        first = builder.mul(v, _number(lanes))
        masks = _filter_masks(builder, builder.sub(count, first), lanes, group) if masked else (None, None)
        step(first, builder.mul(v, _number(lanes * group[0] // group[1])), *masks)
        return []

    _loop(builder, vectors, [], vector)


@intrinsic(prefer_literal=True)
def correlate_pixels(
    typingctx, weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count, pixels,
    first_row, tiles, bias, out, first_out, out_step, first_filter, count, channels, filters, run, masked,
):  # fmt: skip
    """``out[target + k] = bias[k] + sum of weights[weight + c*step + k] * x[source + shift + c']``.

    The sum is over taps and the channels c of a group; ``c'`` is that channel of the group of the filter k.

    Parameters
    ----------
    weights : 1-D float array
        Of each tap and channel of a group a row of all filters, ``weight_step`` elements long.
    x : 1-D float array
        From ``first_x``, the first channel of the first filter's group at the image's first pixel.
    x_step, out_step : int
        Elements from one pixel of a run to the next.
    taps : int64 array (rows, 2)
        (`SHIFT`, `WEIGHT`) of ``tap_count`` taps, from the row ``first_tap`` on.
    triples, tap_count : int
        The first taps come in so many triples, each tap ``x_step`` further than the one before; all taps.
    pixels : int64 array (rows, COLUMNS)
        (`SOURCE`, `TARGET`) of the runs of ``tiles`` tiles, from the row ``first_row`` on.
    bias : 1-D float array
    out : 1-D float array
        From ``first_out``, the first filter of all at the image's first pixel. Written.
    first_filter, count : int
        From which filter on, and how many; without a mask, whole vectors of them.
    channels, filters : literal int
        Of a group.
    run : literal int
        So many pixels follow each other: what a triple of taps reads for 4 of them are 6 vectors instead
        of 12 (float32, AVX-512 Xeon: depthwise 57 against 39 GF/s for 7x7 taps at 56x56 and 40 against 33
        for 3x3 at 28x28, groups of 4 at 28x28 82 against 61).
    masked : literal int
        1 where the last vector may have fewer filters.
    """
    sizes = [argument.literal_value for argument in (channels, filters, run, masked)]
    whole = types.int64
    signature = types.void(
        weights, whole, x, whole, whole, taps, whole, whole, whole, pixels, whole, whole, bias, out, whole,
        whole, whole, whole, channels, filters, run, masked,
    )  # fmt: skip
    return signature, _correlate_pixels_code(*sizes)


def _correlate_pixels_code(channels: int, filters: int, run: int, masked: int) -> Any:
    group = channels, filters

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        weights, weight_step, x, first_x, x_step, taps, first_tap, triples, tap_count = arguments[:9]
        pixels, first_row, tiles, bias, out, first_out, out_step, first_filter, count = arguments[9:18]
        types_ = signature.args
        vector = _vector_type(types_[2])
        lanes, size = vector.count, _size(vector)
        if lanes % filters:  # too short a vector for such groups: never called
            return context.get_dummy_value()
        source = _vector_type(types_[2], lanes * channels // filters)
        weight = pointer(context, builder, types_[0], weights, first_filter)
        image = pointer(context, builder, types_[2], x, first_x)
        tap_table = pointer(context, builder, types_[5], taps, builder.mul(first_tap, _number(2)))
        table = pointer(context, builder, types_[9], pixels, builder.mul(first_row, _number(COLUMNS)))
        added = pointer(context, builder, types_[12], bias, first_filter)
        target = pointer(context, builder, types_[13], out, builder.add(first_out, first_filter))
        tile_pixels = TILE_PIXELS if run > 1 else FEW_PIXELS
        runs = range(tile_pixels // run)

        def tile(i: Any, _: list[Any]) -> list[Any]:
            here = builder.gep(table, [builder.mul(i, _number(COLUMNS * len(runs)))])
            sources = [builder.gep(image, [_entry(builder, here, row, SOURCE)]) for row in runs]

            def vectors(first: Any, channel: Any, filter_mask: Any, channel_mask: Any) -> None:
                """One vector of filters of all pixels: all their taps, then the stores."""
                row_weights = builder.gep(weight, [first])

                def products(first_tap: Any, taps: int, sums: list[Any]) -> list[Any]:
                    """Those of so many taps, each a pixel further, from ``first_tap`` on."""
                    tap = builder.gep(tap_table, [builder.mul(first_tap, _number(2))])
                    shift = builder.add(builder.load(builder.gep(tap, [_number(SHIFT)])), channel)
                    shifts = [
                        builder.add(shift, builder.mul(x_step, _number(n))) for n in range(run + taps - 1)
                    ]
                    cells = [
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
                        spread = [[_spread(builder, x, group, c, lanes) for x in some] for some in cells]
                        for t in range(taps):
                            place = builder.gep(rows[t], [builder.mul(_number(c), weight_step)])
                            factor = vector_load(builder, place, vector, size, filter_mask)
                            sums = [
                                fma(builder, vector, size, factor, spread[p // run][p % run + t], total)
                                for p, total in enumerate(sums)
                            ]
                    return sums

                start = vector_load(builder, builder.gep(added, [first]), vector, size, filter_mask)
                sums, done = [start] * tile_pixels, _number(0)
                if run > 1:
                    sums = _loop(
                        builder, triples, sums, lambda i, s: products(builder.mul(i, _number(3)), 3, s)
                    )
                    done = builder.mul(triples, _number(3))
                left = builder.sub(tap_count, done)
                sums = _loop(builder, left, sums, lambda i, s: products(builder.add(done, i), 1, s))
                for p, total in enumerate(sums):
                    further = builder.add(first, builder.mul(out_step, _number(p % run)))
                    start = builder.add(_entry(builder, here, p // run, TARGET), further)
                    _vector_store(builder, total, builder.gep(target, [start]), filter_mask)

            _over_filters(builder, count, lanes, group, masked, vectors)
            return []

        _loop(builder, tiles, [], tile)
        return context.get_dummy_value()

    return codegen


@intrinsic(prefer_literal=True)
def sum_pixels(
    typingctx, dy, first_dy, x, first_x, taps, first_tap, pixels, first_row, rows, sums, sum_step,
    count, channels, filters,
):  # fmt: skip
    """``sums[weight + c*step + k] += sum over pixels of dy[target + k] * x[source + shift + c']``.

    For as many taps as `PIXEL_TAPS` says; the other parameters are those of `correlate_pixels`.

    Parameters
    ----------
    dy : 1-D float array
        From ``first_dy``, the first filter of all at the image's first pixel.
    pixels : int64 array (rows, COLUMNS)
        (`SOURCE`, `TARGET`) of ``rows`` pixels, from the row ``first_row`` on.
    sums : 1-D float array
        Added to.
    count : int
        How many filters.
    """
    sizes = [argument.literal_value for argument in (channels, filters)]
    whole = types.int64
    signature = types.void(
        dy, whole, x, whole, taps, whole, pixels, whole, whole, sums, whole, whole, channels, filters
    )
    return signature, _sum_pixels_code(*sizes)


def _sum_pixels_code(channels: int, filters: int) -> Any:
    group, taps_ = (channels, filters), range(PIXEL_TAPS[channels])

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        dy, first_dy, x, first_x, taps, first_tap, pixels, first_row, rows = arguments[:9]
        sums, sum_step, count = arguments[9:12]
        types_ = signature.args
        vector = _vector_type(types_[2])
        lanes, size = vector.count, _size(vector)
        if lanes % filters:  # too short a vector for such groups: never called
            return context.get_dummy_value()
        source = _vector_type(types_[2], lanes * channels // filters)
        gradient = pointer(context, builder, types_[0], dy, first_dy)
        image = pointer(context, builder, types_[2], x, first_x)
        tap = pointer(context, builder, types_[4], taps, builder.mul(first_tap, _number(2)))
        table = pointer(context, builder, types_[6], pixels, builder.mul(first_row, _number(COLUMNS)))
        memory = pointer(context, builder, types_[9], sums, _number(0))
        shifts = [builder.load(builder.gep(tap, [_number(2 * t + SHIFT)])) for t in taps_]
        places = [builder.load(builder.gep(tap, [_number(2 * t + WEIGHT)])) for t in taps_]
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
                for t in taps_:
                    cells = vector_load(builder, builder.gep(images[t], [pixel]), source, size, channel_mask)
                    made += [
                        fma(
                            builder, vector, size, row, _spread(builder, cells, group, c, lanes),
                            totals[t * channels + c],
                        )
                        for c in range(channels)
                    ]  # fmt: skip
                return made

            totals = _loop(builder, rows, [zero] * (len(taps_) * channels), step)
            for t in taps_:
                for c in range(channels):
                    start = builder.add(builder.add(places[t], builder.mul(_number(c), sum_step)), first)
                    place = builder.gep(memory, [start])
                    before = vector_load(builder, place, vector, size, filter_mask)
                    after = builder.fadd(before, totals[t * channels + c])
                    _vector_store(builder, after, place, filter_mask)

        _over_filters(builder, count, lanes, group, 1, vectors)
        return context.get_dummy_value()

    return codegen
