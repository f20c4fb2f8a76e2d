"""Micro-kernels for small groups: register tiles whose vectors lie anywhere in memory.

The tiles of `fastconv.kernels.vectors` hold consecutive pixels. The planes of a small group are too narrow
for that, so here each vector of a tile has a row of its own in a table of *segments*: where it reads, where
it writes (or where its gradients are) and which of its lanes there are.

A narrow segment has two parts of half a vector each, with a row of the table each, so that lines of up to
half a vector (7 pixels of float32 on AVX-512) still fill the lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def _number(value: int) -> Any:
    return ir.Constant(INDEX, value)


def _vector_type(array_type: Any, lanes: int = 0) -> Any:
    """A vector of the array's elements: a whole one, or one of so many lanes."""
    size = array_type.dtype.bitwidth // 8
    return ir.VectorType(ir.FloatType() if size == 4 else ir.DoubleType(), lanes or VECTOR_BYTES // size)


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


@intrinsic(prefer_literal=True)
def correlate_segments(
    typingctx, weights, first_weight, weight_step, x, line, offsets, first_tap, triples, taps, segments,
    tiles, bias, first_filter, out, first_out, filter_step, filters, vectors, parts, run,
):  # fmt: skip
    """``out[target + m*step + p] = bias[m] + sum over q of weights[q, m] * x[source + offsets[q] + p]``.

    Parameters
    ----------
    weights : 1-D float array
        From ``first_weight``, a row of ``filters`` weights every ``weight_step`` elements.
    x : 1-D float array
        Whole vectors are read from it, also beyond what a segment counts.
    line : int
        Elements from one line of ``x`` to the next.
    offsets : 1-D int64 array
        In elements, one for each tap, from ``first_tap`` on.
    triples, taps : int
        The first taps come in so many triples, each tap a line further than the one before; all taps.
    segments : 1-D int64 array
        The table: (source, target, lanes) for each part of each vector.
    tiles : int
        How many tiles of ``vectors`` the table has.
    bias : 1-D float array
        From ``first_filter`` on.
    out : 1-D float array
        Written: what the segments count, from ``first_out`` on and every ``filter_step`` elements.
    filters, vectors, parts : literal int
        The tile's sizes, and how many parts a vector has.
    run : literal int
        So many vectors, one below the other, read lines that follow each other: what a triple of taps reads
        for 4 of them are 6 lines instead of 12 (depthwise, float32, AVX-512 Xeon: 80 against 61 GF/s for
        7x7 taps at 56x56, 43 against 35 for 3x3 at 28x28).
    """
    sizes = [argument.literal_value for argument in (filters, vectors, parts, run)]
    whole = types.int64
    signature = types.void(
        weights, whole, whole, x, whole, offsets, whole, whole, whole, segments, whole, bias, whole, out,
        whole, whole, filters, vectors, parts, run,
    )  # fmt: skip
    return signature, _correlate_segments_code(*sizes)


def _correlate_segments_code(filters: int, vectors: int, parts: int, run: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        weights, first_weight, weight_step, x, line, offsets, first_tap, triples, taps = arguments[:9]
        segments, tiles, bias, first_filter, out, first_out, filter_step = arguments[9:16]
        types_ = signature.args
        vector = _vector_type(types_[3])
        lanes, size = vector.count, _size(vector)
        part = _vector_type(types_[3], lanes // parts)
        weight = pointer(context, builder, types_[0], weights, first_weight)
        image = pointer(context, builder, types_[3], x, _number(0))
        shifts = pointer(context, builder, types_[5], offsets, first_tap)
        table = pointer(context, builder, types_[9], segments, _number(0))
        added = pointer(context, builder, types_[11], bias, first_filter)
        target = pointer(context, builder, types_[13], out, first_out)
        starts = []
        for m in range(filters):
            starts += [splat(builder, builder.load(builder.gep(added, [_number(m)])), vector)] * vectors

        def tile(i: Any, _: list[Any]) -> list[Any]:
            """One register tile: all its taps, then its stores."""
            rows = range(vectors * parts)
            here = builder.gep(table, [builder.mul(i, _number(COLUMNS * len(rows)))])
            # The parts of the first vector of each run.
            sources = [
                [builder.gep(image, [_entry(builder, here, first * parts + p, SOURCE)]) for p in range(parts)]
                for first in range(0, vectors, run)
            ]

            def products(first: Any, count: int, sums: list[Any]) -> list[Any]:
                """Those of ``count`` taps, each a line further, from the tap ``first`` on."""
                shift = builder.load(builder.gep(shifts, [first]))
                lines = [builder.add(shift, builder.mul(line, _number(n))) for n in range(run + count - 1)]
                pixels = [
                    [
                        _joined(
                            builder,
                            [vector_load(builder, builder.gep(s, [n]), part, size, None) for s in source],
                        )
                        for n in lines
                    ]
                    for source in sources
                ]
                for t in range(count):
                    tap = builder.add(first, _number(t))
                    row = builder.gep(weight, [builder.mul(tap, weight_step)])
                    made = []
                    for m in range(filters):
                        factor = splat(builder, builder.load(builder.gep(row, [_number(m)])), vector)
                        made += [
                            fma(
                                builder, vector, size, factor, pixels[v // run][v % run + t],
                                sums[m * vectors + v],
                            )
                            for v in range(vectors)
                        ]  # fmt: skip
                    sums = made
                return sums

            def triple(i: Any, sums: list[Any]) -> list[Any]:
                return products(builder.mul(i, _number(3)), 3, sums)

            def single(i: Any, sums: list[Any]) -> list[Any]:
                return products(builder.add(done, i), 1, sums)

            done, sums = _number(0), starts
            if run > 1:
                sums = _loop(builder, triples, sums, triple)
                done = builder.mul(triples, _number(3))
            sums = _loop(builder, builder.sub(taps, done), sums, single)
            masks = [_mask(builder, _entry(builder, here, row, LANES), part.count) for row in rows]
            for m in range(filters):
                first = builder.gep(target, [builder.mul(_number(m), filter_step)])
                for v in range(vectors):
                    for p, piece in enumerate(_parted(builder, sums[m * vectors + v], parts)):
                        row = v * parts + p
                        place = builder.gep(first, [_entry(builder, here, row, TARGET)])
                        _vector_store(builder, piece, place, masks[row])
            return []

        _loop(builder, tiles, [], tile)
        return context.get_dummy_value()

    return codegen


@intrinsic(prefer_literal=True)
def sum_segments(
    typingctx, dy, first_dy, filter_step, x, offsets, first_tap, segments, first_row, vectors, sums,
    first_sum, sum_step, filters, taps, parts,
):  # fmt: skip
    """``sums[m, t, lane] += sum over segments of dy[target + m*step + p] * x[source + offsets[t] + p]``.

    The lanes of the sums are those of the vectors: `add_lanes` adds them up.

    Parameters
    ----------
    dy, x : 1-D float array
        Whole vectors are read from ``x``, but only what a segment counts from ``dy``.
    offsets : 1-D int64 array
        One for each tap, from ``first_tap`` on.
    segments : 1-D int64 array
        As in `correlate_segments`; ``vectors`` of them.
    sums : 1-D float array
        Added to: from ``first_sum`` on, ``taps`` whole vectors every ``sum_step`` elements.
    filters, taps, parts : literal int
        The tile's sizes, and how many parts a vector has.
    """
    sizes = [argument.literal_value for argument in (filters, taps, parts)]
    whole = types.int64
    signature = types.void(
        dy, whole, whole, x, offsets, whole, segments, whole, whole, sums, whole, whole, filters, taps, parts,
    )  # fmt: skip
    return signature, _sum_segments_code(*sizes)


def _sum_segments_code(filters: int, taps: int, parts: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        dy, first_dy, filter_step, x, offsets, first_tap = arguments[:6]
        segments, first_row, vectors, sums, first_sum, sum_step = arguments[6:12]
        types_ = signature.args
        vector = _vector_type(types_[3])
        lanes, size = vector.count, _size(vector)
        part = _vector_type(types_[3], lanes // parts)
        gradient = pointer(context, builder, types_[0], dy, first_dy)
        gradients = [builder.gep(gradient, [builder.mul(_number(m), filter_step)]) for m in range(filters)]
        image = pointer(context, builder, types_[3], x, _number(0))
        shifts = pointer(context, builder, types_[4], offsets, first_tap)
        images = [builder.gep(image, [builder.load(builder.gep(shifts, [_number(t)]))]) for t in range(taps)]
        table = pointer(context, builder, types_[6], segments, builder.mul(first_row, _number(COLUMNS)))
        zero = ir.Constant(vector, [0.0] * lanes)

        def step(i: Any, totals: list[Any]) -> list[Any]:
            """All products of one vector of pixels."""
            here = builder.gep(table, [builder.mul(i, _number(COLUMNS * parts))])
            masks = [_mask(builder, _entry(builder, here, p, LANES), part.count) for p in range(parts)]

            def loaded(place: Any, column: int, masked: bool) -> Any:
                """The parts of a vector, from their own places."""
                return _joined(
                    builder,
                    [
                        vector_load(
                            builder,
                            builder.gep(place, [_entry(builder, here, p, column)]),
                            part,
                            size,
                            masks[p] if masked else None,
                        )
                        for p in range(parts)
                    ],
                )

            rows = [loaded(place, TARGET, True) for place in gradients]
            inside = _joined(builder, masks)
            # What lies beyond a segment may be infinite, and zero times infinity is not zero.
            columns = [builder.select(inside, loaded(place, SOURCE, False), zero) for place in images]
            return [
                fma(builder, vector, size, rows[m], columns[t], totals[m * taps + t])
                for m in range(filters)
                for t in range(taps)
            ]

        totals = _loop(builder, vectors, [zero] * (filters * taps), step)
        memory = pointer(context, builder, types_[9], sums, first_sum)
        for m in range(filters):
            for t in range(taps):
                start = builder.add(builder.mul(_number(m), sum_step), _number(t * lanes))
                place = builder.gep(memory, [start])
                before = vector_load(builder, place, vector, size, None)
                _vector_store(builder, builder.fadd(before, totals[m * taps + t]), place, None)
        return context.get_dummy_value()

    return codegen


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
