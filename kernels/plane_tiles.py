"""Micro-kernels of indirect convolution: register tiles of some filters by vectors that lie anywhere.

Each vector of a tile has an entry of its own in a table of *segments*: where it reads, where it writes (or
where its gradients are) and which of its lanes there are. What taps read lies at constant distances from
there, in a table of offsets. A narrow vector has two parts with an entry each, so that rows of up to half a
vector (7 pixels of float32 on AVX-512) still fill the lanes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastconv.kernels.vectors import (
    VECTOR_BITS,
    VECTOR_BYTES,
    fma,
    lane_sum,
    pointer,
    rolled,
    splat,
    vector_load,
)

INDEX = ir.IntType(64)
# Columns of a table of segments: first elements read and written, and the lanes that are there as bits. A
# mask of bits needs no comparison.
SOURCE, TARGET, LANES = 0, 1, 2
COLUMNS = 3
# Vectors of a tile by the number of its filters: 24 accumulators in 32 registers, or 12 in 16; eight
# addresses are as many as there are registers for.
TILE_VECTORS = {1: 8, 2: 8, 4: 6} if VECTOR_BITS == 512 else {1: 8, 2: 4, 4: 3}
# Vectors of a run, see `correlate_segments`.
RUN = 4
# Taps of a tile of sums along pixels, by the number of its filters.
TILE_TAPS = {1: 9, 2: 9, 4: 6} if VECTOR_BITS == 512 else {1: 9, 2: 5, 4: 2}
# Of one filter, what is left of the taps goes in tiles of so many.
FEW_TAPS = 3
# The filters of a block at the most, and the vectors, or the taps of a sum, of its tiles.
if VECTOR_BITS == 512:
    MOST_FILTERS = 8
    BLOCK_VECTORS = {1: 8, 2: 8, 3: 6, 4: 6, 5: 5, 6: 4, 7: 3, 8: 3}
    BLOCK_TAPS = {1: 9, 2: 9, 3: 5, 4: 5, 5: 4, 6: 4, 7: 3, 8: 3}
else:
    MOST_FILTERS = 4
    BLOCK_VECTORS = {1: 6, 2: 4, 3: 3, 4: 2}
    BLOCK_TAPS = {1: 6, 2: 4, 3: 3, 4: 2}


def _number(value: int) -> Any:
    return ir.Constant(INDEX, value)


def _vector_type(array_type: Any, lanes: int = 0) -> Any:
    """A vector of the array's elements: a whole one, or one of so many lanes."""
    size = array_type.dtype.bitwidth // 8
    return ir.VectorType(ir.FloatType() if size == 4 else ir.DoubleType(), lanes or VECTOR_BYTES // size)


def _part(vector: Any, parts: int) -> Any:
    """A vector of which so many make a whole one."""
    return ir.VectorType(vector.element, vector.count // parts)


def _size(vector: Any) -> int:
    """Bytes of one lane."""
    return 4 if isinstance(vector.element, ir.FloatType) else 8


def _mask(builder: Any, bits: Any, lanes: int) -> Any:
    """The mask of the lanes whose bits are set in an integer, the first lane's lowest."""
    return builder.bitcast(builder.trunc(bits, ir.IntType(lanes)), ir.VectorType(ir.IntType(1), lanes))


def _vector_store(builder: Any, value: Any, pointer: Any, mask: Any) -> None:
    """A store that need not be aligned; with a mask, lanes that are off write nothing."""
    vector, size = value.type, _size(value.type)
    address = builder.bitcast(pointer, vector.as_pointer())
    if mask is None:
        store = builder.store(value, address)
        store.align = size
        return
    name = f"llvm.masked.store.v{vector.count}f{size * 8}.p0"
    signature = ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), ir.IntType(32), mask.type])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    builder.call(function, [value, address, ir.Constant(ir.IntType(32), size), mask])


def _shuffle(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    lanes = ir.VectorType(ir.IntType(32), len(order))
    return builder.shuffle_vector(a, b, ir.Constant(lanes, order))


def _pick(builder: Any, value: Any, order: list[int]) -> Any:
    """The lanes of one vector in another order or number."""
    return _shuffle(builder, value, ir.Constant(value.type, ir.Undefined), order)


def _joined(builder: Any, parts: list[Any]) -> Any:
    """One or two vectors, or masks, as one."""
    if len(parts) == 1:
        return parts[0]
    return _shuffle(builder, parts[0], parts[1], list(range(2 * parts[0].type.count)))


def _parted(builder: Any, value: Any, parts: int) -> list[Any]:
    """The inverse of `_joined`."""
    if parts == 1:
        return [value]
    half = value.type.count // 2
    return [_pick(builder, value, list(range(p * half, (p + 1) * half))) for p in range(parts)]


def _entry(builder: Any, table: Any, row: int, column: int) -> Any:
    """An entry of a table of segments whose rows are counted from the address ``table``."""
    return builder.load(builder.gep(table, [_number(COLUMNS * row + column)]))


def _loop(
    builder: Any, count: Any, starts: list[Any], step: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """``for i in range(count): values = step(i, values)``; the last values."""
    before = builder.block
    loop = builder.append_basic_block("loop")
    after = builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed("<", _number(0), count), loop, after)
    builder.position_at_end(loop)
    i = builder.phi(INDEX)
    values = [builder.phi(start.type) for start in starts]
    made = step(i, values)
    end = builder.block
    following = builder.add(i, _number(1))
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    i.add_incoming(_number(0), before)
    i.add_incoming(following, end)
    builder.position_at_end(after)
    last = [builder.phi(start.type) for start in starts]
    for value, result, start, new in zip(values, last, starts, made, strict=True):
        value.add_incoming(start, before)
        value.add_incoming(new, end)
        result.add_incoming(start, before)
        result.add_incoming(new, end)
    return last


class Elements(NamedTuple):
    """An array from element ``first`` on."""

    array: Any  # 1-D float array
    first: int


class Filters(NamedTuple):
    """Numbers of some filters: those of filter m begin at element ``first + m*stride``."""

    array: Any  # 1-D float array
    first: int
    stride: int


class Weights(NamedTuple):
    """Packed weights: from element ``first`` on a row of filters for each tap, ``stride`` elements apart."""

    array: Any  # 1-D float array
    first: int
    stride: int


class Taps(NamedTuple):
    """The taps of a sum: ``number`` entries of a table of offsets, in elements, from entry ``first`` on.

    The first ones come in ``triples``, each tap of which reads a row further, ``row_stride`` elements, than
    the one before.
    """

    offsets: Any  # 1-D int64 array
    first: int
    number: int
    triples: int
    row_stride: int


class Segments(NamedTuple):
    """The first ``number`` entries of a table; the last tile may read entries behind them, too."""

    table: Any  # int64 array (entries, COLUMNS)
    number: int


def _record(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """A named tuple as code sees it: of each array the address of its first element, and 64-bit integers."""
    fields = zip(kind.types, cgutils.unpack_tuple(builder, value, len(kind.types)), strict=True)
    return kind.instance_class(
        *[
            pointer(context, builder, field, content, _number(0))
            if isinstance(field, types.Array)
            else context.cast(builder, content, field, types.int64)
            for field, content in fields
        ]
    )


@intrinsic
def correlate_segments(typingctx, weights, x, taps, segments, bias, out, filters, parts, run):
    """``out[target + m*stride + p] = bias[m] + sum over q of weights[q, m] * x[source + offsets[q] + p]``.

    Parameters
    ----------
    weights : Weights
    x : Elements
        Whole vectors are read from it, also beyond what a segment counts.
    taps : Taps
    segments : Segments
        An entry (source, target, lanes) for each part of each vector.
    bias : Elements
        One number for each filter.
    out : Filters
        Written: what the segments count.
    filters : int
        They go in tiles of 4, 2 and 1.
    parts : int
        How many a vector has, 1 or 2.
    run : int
        `RUN` where so many vectors, one below the other, read rows that follow each other, else 1. What a
        triple of taps reads for 4 vectors are 6 rows instead of 12, which takes a third off depthwise layers
        of large planes. Only tiles of one filter gain by it.
    """
    whole = types.int64
    signature = types.void(weights, x, taps, segments, bias, out, whole, whole, whole)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        filters, parts, run = arguments[6:]
        operands = _Operands(context, builder, signature.args, arguments)

        def tiles(first: Any, count: int) -> None:
            """Tiles of so many filters, of one or two parts, of runs or not."""
            runs = (1, RUN) if count == 1 else (1,)
            for wanted_parts, wanted_run in itertools.product((1, 2), runs):
                chosen = builder.icmp_signed("==", parts, _number(wanted_parts))
                if len(runs) > 1:
                    chosen = builder.and_(chosen, builder.icmp_signed("==", run, _number(wanted_run)))
                with builder.if_then(chosen):
                    operands.correlate(first, count, TILE_VECTORS[count], wanted_parts, wanted_run)

        with rolled(builder, builder.sdiv(filters, _number(4))) as loop:
            tiles(builder.mul(loop.index, _number(4)), 4)
        for count in (2, 1):
            with builder.if_then(_has_bit(builder, filters, count)):
                tiles(builder.and_(filters, _number(-2 * count)), count)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def correlate_block(typingctx, weights, x, taps, segments, bias, out, filters, more):
    """As `correlate_segments`, for up to `MOST_FILTERS` filters, all in one tile, and undivided vectors.

    Parameters
    ----------
    more : bool
        Whether these are further taps of a sum: it begins with zero, and is added to what ``out`` holds.
    """
    whole = types.int64
    signature = types.void(weights, x, taps, segments, bias, out, whole, types.boolean)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        filters, more = arguments[6:]
        operands = _Operands(context, builder, signature.args, arguments)
        for count in range(1, MOST_FILTERS + 1):
            with builder.if_then(builder.icmp_signed("==", filters, _number(count))):
                operands.correlate(_number(0), count, BLOCK_VECTORS[count], more=more)
        return context.get_dummy_value()

    return signature, codegen


class _Operands:
    """The operands of `correlate_segments`, as code that is being made sees them, and its tiles."""

    def __init__(self, context: Any, builder: Any, kinds: Any, arguments: Any) -> None:
        self.builder = builder
        self.vector = _vector_type(kinds[1].types[0])
        weights, x, self.taps, self.segments, bias, out = (
            _record(context, builder, kind, value)
            for kind, value in zip(kinds[:6], arguments[:6], strict=True)
        )
        self.weights, self.weight_stride = builder.gep(weights.array, [weights.first]), weights.stride
        self.x, self.bias = builder.gep(x.array, [x.first]), builder.gep(bias.array, [bias.first])
        self.offsets = builder.gep(self.taps.offsets, [self.taps.first])
        self.out, self.filter_stride = builder.gep(out.array, [out.first]), out.stride

    def correlate(
        self, first: Any, filters: int, vectors: int, parts: int = 1, run: int = 1, more: Any = None
    ) -> None:
        """All segments, for some filters from one on: in tiles of so many vectors, of parts and runs."""
        builder, vector = self.builder, self.vector
        weights, zero = builder.gep(self.weights, [first]), ir.Constant(vector.element, 0.0)
        targets = [
            builder.gep(self.out, [builder.mul(builder.add(first, _number(m)), self.filter_stride)])
            for m in range(filters)
        ]
        entries = range(vectors * parts)

        def tile(i: Any, _: list[Any]) -> list[Any]:
            """One register tile: all its taps, then its stores."""
            here = builder.gep(self.segments.table, [builder.mul(i, _number(COLUMNS * len(entries)))])
            # The parts of the first vector of each run.
            sources = [
                [builder.gep(self.x, [_entry(builder, here, v * parts + p, SOURCE)]) for p in range(parts)]
                for v in range(0, vectors, run)
            ]
            # Loaded here: registers that hold them while tiles follow each other are missing in the sums.
            starts = [self._entry(self.bias, builder.add(first, _number(m))) for m in range(filters)]
            if more is not None:
                starts = [builder.select(more, zero, start) for start in starts]
            sums = [start for start in starts for start in [splat(builder, start, vector)] * vectors]
            results = self._sums(weights, sources, sums, filters, vectors, run)
            part = _part(vector, parts)
            masks = [_mask(builder, _entry(builder, here, e, LANES), part.count) for e in entries]
            pieces = [piece for result in results for piece in _parted(builder, result, parts)]
            places = [
                builder.gep(target, [_entry(builder, here, e, TARGET)]) for target in targets for e in entries
            ]
            if more is not None:
                pieces = self._added(more, pieces, places, masks * filters)
            for piece, place, mask in zip(pieces, places, masks * filters, strict=True):
                _vector_store(builder, piece, place, mask)
            return []

        number, most = self.segments.number, _number(len(entries))
        tiles = builder.sdiv(builder.add(number, _number(len(entries) - 1)), most)
        _loop(builder, tiles, [], tile)

    def _entry(self, table: Any, i: Any) -> Any:
        return self.builder.load(self.builder.gep(table, [i]))

    def _added(self, more: Any, pieces: list[Any], places: list[Any], masks: list[Any]) -> list[Any]:
        """Pieces of sums, added to what is stored where there are more of them.

        By a jump: to read nothing, lane by lane, waits for what was just stored there.
        """
        builder = self.builder
        results = [cgutils.alloca_once_value(builder, piece) for piece in pieces]
        with builder.if_then(more, likely=False):
            for piece, place, mask, result in zip(pieces, places, masks, results, strict=True):
                there = vector_load(builder, place, piece.type, _size(piece.type), mask)
                builder.store(builder.fadd(there, piece), result)
        return [builder.load(result) for result in results]

    def _sums(
        self, weights: Any, sources: list[list[Any]], sums: list[Any], filters: int, vectors: int, run: int
    ) -> list[Any]:
        """``sums[m*vectors + v]``, of filter m and vector v, with the products of all taps added."""
        builder, vector, size = self.builder, self.vector, _size(self.vector)
        part = _part(vector, len(sources[0]))

        def products(first: Any, count: int, sums: list[Any]) -> list[Any]:
            """Those of ``count`` taps, each a row further, from the tap ``first`` on."""
            offset = self._entry(self.offsets, first)
            rows = [offset]
            rows += [
                builder.add(offset, builder.mul(self.taps.row_stride, _number(n)))
                for n in range(1, run + count - 1)
            ]
            pixels = [
                [
                    _joined(
                        builder,
                        [vector_load(builder, builder.gep(s, [row]), part, size, None) for s in source],
                    )
                    for row in rows
                ]
                for source in sources
            ]
            for t in range(count):
                tap = builder.add(first, _number(t))
                row = builder.gep(weights, [builder.mul(tap, self.weight_stride)])
                made = []
                for m in range(filters):
                    factor = splat(builder, self._entry(row, _number(m)), vector)
                    made += [
                        fma(
                            builder,
                            vector,
                            size,
                            factor,
                            pixels[v // run][v % run + t],
                            sums[m * vectors + v],
                        )
                        for v in range(vectors)
                    ]
                sums = made
            return sums

        done = _number(0)
        if run > 1:
            done = builder.mul(self.taps.triples, _number(3))
            sums = _loop(
                builder, self.taps.triples, sums, lambda i, s: products(builder.mul(i, _number(3)), 3, s)
            )
        left = builder.sub(self.taps.number, done)
        return _loop(builder, left, sums, lambda i, s: products(builder.add(done, i), 1, s))


@intrinsic
def sum_segments(typingctx, dy, x, taps, segments, sums, filters, parts):
    """``sums[m, t, lane] += sum over segments of dy[target + m*stride + p] * x[source + offsets[t] + p]``.

    The lanes of the sums are those of the vectors: `add_lanes` adds them up.

    Parameters
    ----------
    dy : Filters
        Only what a segment counts is read from it.
    x : Elements
        Whole vectors are read from it.
    taps : Taps
        As many as tiles of so many filters divide.
    segments : Segments
        All parts of some vectors.
    sums : Filters
        Added to: a whole vector for each tap.
    filters, parts : int
        As in `correlate_segments`.
    """
    whole = types.int64
    signature = types.void(dy, x, taps, segments, sums, whole, whole)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        filters, parts = arguments[5:]
        operands = _SumOperands(context, builder, signature.args, arguments)
        taps = operands.taps.number

        def tiles(first_filter: Any, count: int, first_tap: Any, taps: Any, tile_taps: int) -> None:
            """Tiles of so many filters and taps, of one or two parts."""
            with rolled(builder, builder.sdiv(taps, _number(tile_taps))) as loop:
                tap = builder.add(first_tap, builder.mul(loop.index, _number(tile_taps)))
                for wanted in (1, 2):
                    with builder.if_then(builder.icmp_signed("==", parts, _number(wanted))):
                        operands.add(first_filter, count, tap, tile_taps, wanted)

        with rolled(builder, builder.sdiv(filters, _number(4))) as loop:
            tiles(builder.mul(loop.index, _number(4)), 4, _number(0), taps, TILE_TAPS[4])
        with builder.if_then(_has_bit(builder, filters, 2)):
            tiles(builder.and_(filters, _number(-4)), 2, _number(0), taps, TILE_TAPS[2])
        with builder.if_then(_has_bit(builder, filters, 1)):
            last, left = builder.and_(filters, _number(-2)), builder.srem(taps, _number(TILE_TAPS[1]))
            tiles(last, 1, _number(0), taps, TILE_TAPS[1])
            tiles(last, 1, builder.sub(taps, left), left, FEW_TAPS)
        return context.get_dummy_value()

    return signature, codegen


def _has_bit(builder: Any, number: Any, bit: int) -> Any:
    return builder.icmp_signed("!=", builder.and_(number, _number(bit)), _number(0))


class _SumOperands:
    """The operands of `sum_segments`, as code that is being made sees them, and its tiles."""

    def __init__(self, context: Any, builder: Any, kinds: Any, arguments: Any) -> None:
        self.builder = builder
        self.vector = _vector_type(kinds[1].types[0])
        dy, x, self.taps, self.segments, sums = (
            _record(context, builder, kind, value)
            for kind, value in zip(kinds[:5], arguments[:5], strict=True)
        )
        self.dy, self.dy_stride = builder.gep(dy.array, [dy.first]), dy.stride
        self.sums, self.sum_stride = builder.gep(sums.array, [sums.first]), sums.stride
        self.x, self.offsets = (
            builder.gep(x.array, [x.first]),
            builder.gep(self.taps.offsets, [self.taps.first]),
        )

    def add(self, first_filter: Any, filters: int, first_tap: Any, taps: int, parts: int) -> None:
        """Add the sums of some filters and taps to those that there are."""
        builder, vector, size = self.builder, self.vector, _size(self.vector)
        part, zero = _part(vector, parts), ir.Constant(vector, [0.0] * vector.count)
        numbers = [builder.add(first_filter, _number(m)) for m in range(filters)]
        gradients = [builder.gep(self.dy, [builder.mul(m, self.dy_stride)]) for m in numbers]
        images = _shifted(builder, self.x, builder.gep(self.offsets, [first_tap]), taps)

        def loaded(i: Any) -> tuple[list[Any], list[Any]]:
            """One vector of pixels, of gradients and of images."""
            here = builder.gep(self.segments.table, [builder.mul(i, _number(COLUMNS * parts))])
            masks = [_mask(builder, _entry(builder, here, p, LANES), part.count) for p in range(parts)]

            def load(first: Any, column: int, masks: list[Any]) -> Any:
                """The parts of a vector, from their own places."""
                places = [builder.gep(first, [_entry(builder, here, p, column)]) for p in range(parts)]
                pairs = zip(places, masks, strict=True)
                return _joined(builder, [vector_load(builder, place, part, size, m) for place, m in pairs])

            rows = [load(gradient, TARGET, masks) for gradient in gradients]
            inside = _joined(builder, masks)
            # What lies beyond a segment may be infinite, and zero times infinity is not zero.
            columns = [builder.select(inside, load(image, SOURCE, [None] * parts), zero) for image in images]
            return rows, columns

        vectors = builder.sdiv(self.segments.number, _number(parts))
        totals = _outer_sums(builder, vector, vectors, filters, taps, loaded)
        for m, number in enumerate(numbers):
            for t in range(taps):
                tap = builder.mul(builder.add(first_tap, _number(t)), _number(vector.count))
                place = builder.gep(self.sums, [builder.add(builder.mul(number, self.sum_stride), tap)])
                before = vector_load(builder, place, vector, size, None)
                _vector_store(builder, builder.fadd(before, totals[m * taps + t]), place, None)


def _shifted(builder: Any, x: Any, offsets: Any, taps: int) -> list[Any]:
    """The addresses at which some taps begin."""
    return [builder.gep(x, [builder.load(builder.gep(offsets, [_number(t)]))]) for t in range(taps)]


def _outer_sums(
    builder: Any, vector: Any, count: Any, filters: int, taps: int, loaded: Callable[[Any], Any]
) -> list[Any]:
    """Sums of so many vectors' products, each of the filters' vectors with each of the taps'.

    ``loaded(i)`` gives the vectors; the sum of filter m and tap t is the entry ``m*taps + t``.
    """

    def step(i: Any, totals: list[Any]) -> list[Any]:
        rows, columns = loaded(i)
        return [
            fma(builder, vector, _size(vector), rows[m], columns[t], totals[m * taps + t])
            for m in range(filters)
            for t in range(taps)
        ]

    zero = ir.Constant(vector, [0.0] * vector.count)
    return _loop(builder, count, [zero] * (filters * taps), step)


@intrinsic
def sum_block(typingctx, packed, x, offsets, first_tap, segments, tile, filters):
    """The sums of up to `MOST_FILTERS` filters and `BLOCK_TAPS` taps over packed gradients, with added lanes.

    ``tile[m, t] = sum over segments s and lanes of packed[s, m] * x[s, t]``; the lanes of a sum are added up
    at the end, in a fixed order. Pixels of ``x`` in lanes that do not count are multiplied with zero: masked
    loads take as long as a fourth of the products.

    Parameters
    ----------
    packed : 1-D float array
        From `pack_block`.
    x : Elements
        Whole vectors are read from it.
    offsets : 1-D int64 array
        Of the taps, from ``first_tap`` on.
    segments : Segments
        At least one.
    tile : 1-D float array
        Written: ``filters`` rows of `BLOCK_TAPS` sums, up to a whole vector.
    filters : int
    """
    whole = types.int64
    signature = types.void(packed, x, offsets, whole, segments, tile, whole)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        vector = _vector_type(kinds[0])
        lanes, size = vector.count, _size(vector)
        x, segments = (_record(context, builder, kinds[n], arguments[n]) for n in (1, 4))
        packed = pointer(context, builder, kinds[0], arguments[0], _number(0))
        offsets = pointer(context, builder, kinds[2], arguments[2], arguments[3])
        tile = pointer(context, builder, kinds[5], arguments[5], _number(0))
        image = builder.gep(x.array, [x.first])

        def sums(filters: int, taps: int) -> None:
            """The sums of a tile of one size."""
            images = _shifted(builder, image, offsets, taps)

            def load(places: list[Any]) -> list[Any]:
                return [vector_load(builder, place, vector, size, None) for place in places]

            def loaded(i: Any) -> tuple[list[Any], list[Any]]:
                here = builder.gep(segments.table, [builder.mul(i, _number(COLUMNS))])
                source = _entry(builder, here, 0, SOURCE)
                row = builder.gep(packed, [builder.mul(i, _number(filters * lanes))])
                rows = [builder.gep(row, [_number(m * lanes)]) for m in range(filters)]
                columns = [builder.gep(place, [source]) for place in images]
                return load(rows), load(columns)

            totals = _outer_sums(builder, vector, segments.number, filters, taps, loaded)
            for first in range(0, len(totals), lanes):
                added = _lane_sums(builder, totals[first : first + lanes])
                _vector_store(builder, added, builder.gep(tile, [_number(first)]), None)

        for count in range(1, MOST_FILTERS + 1):
            with builder.if_then(builder.icmp_signed("==", arguments[6], _number(count))):
                sums(count, BLOCK_TAPS[count])
        return context.get_dummy_value()

    return signature, codegen


def _lane_sums(builder: Any, vectors: list[Any]) -> Any:
    """A vector whose lane i is the sum of all lanes of ``vectors[i]``.

    A step puts two vectors into one and halves what is left of each, so that 24 sums of 16 lanes take 69
    instructions instead of 192: 5 to 8 % of a backward-weight pass over small images.
    """
    lanes = vectors[0].type.count
    width = lanes  # of what is left of one vector
    while width > 1:
        width //= 2
        low = [start + i for start in range(0, 2 * lanes, 2 * width) for i in range(width)]
        high = [lane + width for lane in low]
        vectors = vectors + vectors[-1:] if len(vectors) % 2 else vectors
        vectors = [
            builder.fadd(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


@intrinsic
def pack_block(typingctx, dy, segments, some, packed, filters):
    """Gradients of some filters, segment by segment in whole vectors, zero in lanes that do not count.

    Parameters
    ----------
    dy : Filters
    segments : Segments
        At least one: their targets are where gradients are.
    some : int
        So many of the filters exist; the others repeat the last of them.
    packed : 1-D float array
        Written: for each segment ``filters`` vectors.
    filters : int
        Up to `MOST_FILTERS`.
    """
    whole = types.int64
    signature = types.void(dy, segments, whole, packed, whole)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        dy, segments = (_record(context, builder, kinds[n], arguments[n]) for n in (0, 1))
        vector = _vector_type(kinds[3])
        lanes = vector.count
        first, last = builder.gep(dy.array, [dy.first]), builder.sub(arguments[2], _number(1))
        packed = pointer(context, builder, kinds[3], arguments[3], _number(0))

        def pack(filters: int) -> None:
            """A block of so many filters."""
            gradients = []
            for m in range(filters):
                there = builder.icmp_signed("<", _number(m), last)
                number = builder.select(there, _number(m), last)
                gradients.append(builder.gep(first, [builder.mul(number, dy.stride)]))

            def segment(i: Any, _: list[Any]) -> list[Any]:
                here = builder.gep(segments.table, [builder.mul(i, _number(COLUMNS))])
                start = _entry(builder, here, 0, TARGET)
                mask = _mask(builder, _entry(builder, here, 0, LANES), lanes)
                row = builder.gep(packed, [builder.mul(i, _number(filters * lanes))])
                for m, gradient in enumerate(gradients):
                    place = builder.gep(gradient, [start])
                    value = vector_load(builder, place, vector, _size(vector), mask)
                    _vector_store(builder, value, builder.gep(row, [_number(m * lanes)]), None)
                return []

            _loop(builder, segments.number, [], segment)

        for count in range(1, MOST_FILTERS + 1):
            with builder.if_then(builder.icmp_signed("==", arguments[4], _number(count))):
                pack(count)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_lanes(typingctx, sums, first):
    """The lanes of the vector at ``sums[first]`` added up, halves onto halves."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = _vector_type(signature.args[0])
        place = pointer(context, builder, signature.args[0], *arguments)
        value = vector_load(builder, place, vector, _size(vector), None)
        return lane_sum(builder, value, vector.count)

    return sums.dtype(sums, types.int64), codegen


@intrinsic
def copy_segments(typingctx, source, first_source, target, first_target, segments, rows):
    """``target[TARGET + p] = source[SOURCE + p]`` for the lanes p of each row of a table.

    Parameters
    ----------
    source, target : 1-D float array
        Nothing else is read or written.
    first_source, first_target : int
        Where the table's entries count from.
    segments : int64 array (rows, COLUMNS)
    rows : int
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source_, first_source_, target_, first_target_, segments_, rows_ = arguments
        vector = _vector_type(signature.args[0])
        start = pointer(context, builder, signature.args[0], source_, first_source_)
        end = pointer(context, builder, signature.args[2], target_, first_target_)
        table = pointer(context, builder, signature.args[4], segments_, _number(0))

        def row(i: Any, _: list[Any]) -> list[Any]:
            here = builder.gep(table, [builder.mul(i, _number(COLUMNS))])
            mask = _mask(builder, _entry(builder, here, 0, LANES), vector.count)
            address = builder.gep(start, [_entry(builder, here, 0, SOURCE)])
            value = vector_load(builder, address, vector, _size(vector), mask)
            _vector_store(builder, value, builder.gep(end, [_entry(builder, here, 0, TARGET)]), mask)
            return []

        _loop(builder, rows_, [], row)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(source, whole, target, whole, segments, whole), codegen


@intrinsic
def split_segments(typingctx, source, first_source, target, first_target, segments, rows):
    """As `copy_segments` for pairs of rows: the first takes the even cells from its source on, the second the
    odd ones. The second has in the place of its source, as bits, which cells of two vectors may be read.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source_, first_source_, target_, first_target_, segments_, rows_ = arguments
        vector = _vector_type(signature.args[0])
        lanes, size = vector.count, _size(vector)
        start = pointer(context, builder, signature.args[0], source_, first_source_)
        end = pointer(context, builder, signature.args[2], target_, first_target_)
        table = pointer(context, builder, signature.args[4], segments_, _number(0))

        def pair(i: Any, _: list[Any]) -> list[Any]:
            here = builder.gep(table, [builder.mul(i, _number(2 * COLUMNS))])
            cells = _entry(builder, here, 1, SOURCE)
            low, high = (_mask(builder, c, lanes) for c in (cells, builder.lshr(cells, _number(lanes))))
            address = builder.gep(start, [_entry(builder, here, 0, SOURCE)])
            a = vector_load(builder, address, vector, size, low)
            b = vector_load(builder, builder.gep(address, [_number(lanes)]), vector, size, high)
            for row in range(2):
                value = _shuffle(builder, a, b, list(range(row, 2 * lanes, 2)))
                place = builder.gep(end, [_entry(builder, here, row, TARGET)])
                _vector_store(builder, value, place, _mask(builder, _entry(builder, here, row, LANES), lanes))
            return []

        _loop(builder, builder.sdiv(rows_, _number(2)), [], pair)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(source, whole, target, whole, segments, whole), codegen


@intrinsic
def interleave_segments(typingctx, source, first_source, distance, target, first_target, segments, rows):
    """The inverse of `split_segments`: the cells of two phases, so many elements apart, in turn.

    Each row of the table takes half a vector from each: from its source on, and ``distance`` further.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source_, first_source_, distance_, target_, first_target_, segments_, rows_ = arguments
        vector = _vector_type(signature.args[0])
        half = _vector_type(signature.args[0], vector.count // 2)
        start = pointer(context, builder, signature.args[0], source_, first_source_)
        end = pointer(context, builder, signature.args[3], target_, first_target_)
        table = pointer(context, builder, signature.args[5], segments_, _number(0))
        turns = [p // 2 + p % 2 * half.count for p in range(vector.count)]

        def row(i: Any, _: list[Any]) -> list[Any]:
            here = builder.gep(table, [builder.mul(i, _number(COLUMNS))])
            even = builder.gep(start, [_entry(builder, here, 0, SOURCE)])
            a = vector_load(builder, even, half, _size(vector), None)
            b = vector_load(builder, builder.gep(even, [distance_]), half, _size(vector), None)
            place = builder.gep(end, [_entry(builder, here, 0, TARGET)])
            mask = _mask(builder, _entry(builder, here, 0, LANES), vector.count)
            _vector_store(builder, _shuffle(builder, a, b, turns), place, mask)
            return []

        _loop(builder, rows_, [], row)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(source, whole, whole, target, whole, segments, whole), codegen
