"""Micro-kernels: the register tile of a matrix product, as LLVM vector code emitted through Numba.

A tile is ``filters`` rows by ``vectors`` vectors of pixels. Every step broadcasts one weight a filter and
multiplies it with pixels that are loaded unaligned from where a table of offsets says: the row q of a column
matrix that does not exist is the image shifted by ``offsets[q]``. The accumulators are phi nodes of one loop,
so that LLVM keeps them in registers.

The sizes follow the vectors of the CPU that Numba compiles for. Measured in registers on AVX-512 (32
registers of 16 float32): 8 x 3 reaches the FMA peak, 14 x 2 and 6 x 4 within 3 %, 16 x 1 and 28 x 1 a
quarter less.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# Vector bits by the LLVM name of the feature that has them, widest first.
_WIDTHS = (("avx512f", 512), ("avx2", 256), ("avx", 256), ("neon", 128), ("sse2", 128))


def vector_bits() -> int:
    """Bits of the widest vectors that kernels are compiled for (Numba's own settings respected)."""
    features = numba.config.CPU_FEATURES
    if features is None and numba.config.CPU_NAME == "generic":
        features = ""  # as Numba itself takes it: the baseline of the architecture
    if features is None:
        present = {name for name, there in llvm.get_host_cpu_features().items() if there}
    else:
        present = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    return next((bits for name, bits in _WIDTHS if name in present), 128)


VECTOR_BITS = vector_bits()
VECTOR_BYTES = VECTOR_BITS // 8
# Whether the processor multiplies the two halves of a vector one after the other, as AMD's Zen 4 does. Its
# additions have units of their own, so that transforms, which are additions, cost little beside products.
IN_HALVES = VECTOR_BITS == 512 and (numba.config.CPU_NAME or llvm.get_host_cpu_name()) == "znver4"
# Filters and vectors of pixels of a full tile: 24 accumulators in 32 registers, or 12 in 16.
FILTERS = 8 if VECTOR_BITS == 512 else 4
VECTORS = 3


def pointer(context: Any, builder: Any, array_type: Any, array: Any, start: Any) -> Any:
    """The address of element ``start`` of a one-dimensional contiguous array."""
    data = cgutils.create_struct_proxy(array_type)(context, builder, value=array).data
    return builder.gep(data, [start])


def vector_load(builder: Any, place: Any, vector: Any, size: int, mask: Any) -> Any:
    """A load that need not be aligned; with a mask, lanes that are off read nothing and give zero."""
    address = builder.bitcast(place, vector.as_pointer())
    if mask is None:
        load = builder.load(address)
        load.align = size
        return load
    count, bits = vector.count, size * 8
    name = f"llvm.masked.load.v{count}f{bits}.p0"
    signature = ir.FunctionType(vector, [vector.as_pointer(), ir.IntType(32), mask.type, vector])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    zero = ir.Constant(vector, [0.0] * count)
    return builder.call(function, [address, ir.Constant(ir.IntType(32), size), mask, zero])


def vector_store(builder: Any, value: Any, place: Any, vector: Any, size: int, mask: Any) -> None:
    """A store that need not be aligned; with a mask, lanes that are off write nothing."""
    address = builder.bitcast(place, vector.as_pointer())
    if mask is None:
        builder.store(value, address).align = size
        return
    name = f"llvm.masked.store.v{vector.count}f{size * 8}.p0"
    kinds = [vector, vector.as_pointer(), ir.IntType(32), mask.type]
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
    builder.call(function, [value, address, ir.Constant(ir.IntType(32), size), mask])


def prefetch(builder: Any, place: Any, write: bool = False) -> None:
    """Ask for a cache line, in L2 to be read or in L1 to be written; any address may be asked for."""
    integer = ir.IntType(32)
    address = builder.bitcast(place, ir.IntType(8).as_pointer())
    signature = ir.FunctionType(ir.VoidType(), [address.type, integer, integer, integer])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    how = (1, 3, 1) if write else (0, 2, 1)
    builder.call(function, [address, *(ir.Constant(integer, value) for value in how)])


def masks_before(builder: Any, pixels: Any, lanes: int, vectors: int) -> list[Any]:
    """For each vector which of its lanes lie before ``pixels``."""
    integer = ir.VectorType(ir.IntType(64), lanes)
    limit = splat(builder, pixels, integer)
    return [
        builder.icmp_signed("<", ir.Constant(integer, list(range(v * lanes, (v + 1) * lanes))), limit)
        for v in range(vectors)
    ]


def splat(builder: Any, value: Any, vector: Any) -> Any:
    """A scalar in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, undefined, zeros)


def fma(builder: Any, vector: Any, size: int, a: Any, b: Any, c: Any) -> Any:
    """``a*b + c``, fused where the CPU can; elsewhere two roundings instead of a library call a lane."""
    name = f"llvm.fmuladd.v{vector.count}f{size * 8}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
    return builder.call(function, [a, b, c])


@contextlib.contextmanager
def rolled(builder: Any, count: Any) -> Iterator[Any]:
    """A loop of ``count`` steps that LLVM leaves as it is: what is worth writing out is written out here.

    LLVM writes short loops out as often as they may run, 7 times those of what 8 leave over.
    """
    with cgutils.for_range(builder, count) as loop:
        yield loop
        latch = builder.block
    disable = builder.module.add_metadata(["llvm.loop.unroll.disable"])
    name = ir.MDValue(builder.module, (disable,), name=str(len(builder.module.metadata)))
    name.operands = (name, disable)  # a loop's name is a node that begins with itself
    latch.terminator.set_metadata("llvm.loop", name)


@intrinsic(prefer_literal=True)
def multiply_tile(
    typingctx, weights, first_weight, x, first_pixel, offsets, first_tap, taps, pixels, tile, filters,
    vectors, masked,
):  # fmt: skip
    """``tile[m, p] = sum over q of weights[q, m] * x[first_pixel + offsets[q] + p]``.

    The sum over further taps than the first is added to what ``tile`` holds.

    Parameters
    ----------
    weights : 1-D float array
        Packed: from ``first_weight``, ``taps`` rows of `FILTERS` weights, of which the first ones are used.
    x : 1-D float array
    offsets : 1-D int64 array
        In elements, one for each tap.
    first_tap, taps : int
        From which one on, and how many.
    pixels : int
        How many pixels are read; only with ``masked``, else ``vectors`` whole vectors.
    tile : 1-D float array
        Written: ``filters`` rows of ``vectors`` whole vectors.
    filters, vectors, masked : literal int
        The tile's sizes, and 1 where loads are masked.
    """
    sizes = [argument.literal_value for argument in (filters, vectors, masked)]
    signature = types.void(
        weights, types.int64, x, types.int64, offsets, types.int64, types.int64, types.int64, tile,
        filters, vectors, masked,
    )  # fmt: skip
    return signature, _multiply_tile_code(*sizes)


def _multiply_tile_code(filters: int, vectors: int, masked: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        weights, first_weight, x, first_pixel, offsets, first_tap, taps, pixels, tile = arguments[:9]
        weights_type, x_type, offsets_type, tile_type = (signature.args[i] for i in (0, 2, 4, 8))
        size = x_type.dtype.bitwidth // 8
        lanes = VECTOR_BITS // (8 * size)
        element = ir.FloatType() if size == 4 else ir.DoubleType()
        vector, index = ir.VectorType(element, lanes), ir.IntType(64)
        weight = pointer(context, builder, weights_type, weights, first_weight)
        pixel = pointer(context, builder, x_type, x, first_pixel)
        table = pointer(context, builder, offsets_type, offsets, first_tap)
        output = pointer(context, builder, tile_type, tile, ir.Constant(index, 0))
        masks = masks_before(builder, pixels, lanes, vectors) if masked else [None] * vectors

        before = builder.block
        loop = builder.append_basic_block("taps")
        after = builder.append_basic_block("store")
        builder.branch(loop)
        builder.position_at_end(loop)
        q = builder.phi(index)
        q.add_incoming(ir.Constant(index, 0), before)
        zero = ir.Constant(vector, [0.0] * lanes)
        sums = [[builder.phi(vector) for _ in range(vectors)] for _ in range(filters)]
        shifted = builder.gep(pixel, [builder.load(builder.gep(table, [q]))])
        loaded = [
            vector_load(
                builder, builder.gep(shifted, [ir.Constant(index, v * lanes)]), vector, size, masks[v]
            )
            for v in range(vectors)
        ]
        row = builder.gep(weight, [builder.mul(q, ir.Constant(index, FILTERS))])
        products = []
        for m in range(filters):
            factor = splat(builder, builder.load(builder.gep(row, [ir.Constant(index, m)])), vector)
            products.append(
                [fma(builder, vector, size, factor, loaded[v], sums[m][v]) for v in range(vectors)]
            )
        following = builder.add(q, ir.Constant(index, 1))
        for m in range(filters):
            for v in range(vectors):
                sums[m][v].add_incoming(zero, before)
                sums[m][v].add_incoming(products[m][v], loop)
        q.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, taps), loop, after)

        builder.position_at_end(after)
        totals = [total for row in products for total in row]
        places = [builder.gep(output, [ir.Constant(index, i * lanes)]) for i in range(filters * vectors)]
        results = [cgutils.alloca_once_value(builder, total) for total in totals]
        with builder.if_then(builder.icmp_signed(">", first_tap, ir.Constant(index, 0)), likely=False):
            for total, place, result in zip(totals, places, results, strict=True):
                there = vector_load(builder, place, vector, size, None)
                builder.store(builder.fadd(there, total), result)
        for place, result in zip(places, results, strict=True):
            vector_store(builder, builder.load(result), place, vector, size, None)
        return context.get_dummy_value()

    return codegen


# Filters and taps of a full tile of a sum along pixels: a step loads their vectors and multiplies all pairs.
SUM_FILTERS = 6 if VECTOR_BITS == 512 else 3
SUM_TAPS = 4
# Taps that one sum runs over before it is added to the others. Over 64 channels of 9 taps the largest error
# is 3.4 times PyTorch's with one sum and 1.5 times with three; from 64 filters of 3x3 taps to 3 channels 2.6
# and 1.4 times.
SUM = 256


@intrinsic(prefer_literal=True)
def sum_tile(typingctx, dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile, filters, taps):
    """Sums of products along pixels.

    ``tile[m, t] += sum over p < pixels of dy[first_dy + m*dy_stride + p] * x[first_x + offset + p]`` with the
    offset ``offsets[first_tap + t]``. Vectors run along the pixels; the lanes of a sum are added up at the
    end, in a fixed order.

    Parameters
    ----------
    dy, x : 1-D float array
    offsets : 1-D int64 array
        In elements, one for each tap.
    pixels : int
        At least 1. The last vector is masked.
    tile : 1-D float array
        Added to: ``filters`` rows of ``taps`` sums.
    filters, taps : literal int
        The tile's sizes.
    """
    sizes = [argument.literal_value for argument in (filters, taps)]
    whole = types.int64
    signature = types.void(
        dy, whole, whole, x, whole, offsets, whole, whole, tile, filters, taps
    )  # fmt: skip
    return signature, _sum_tile_code(*sizes)


def _sum_tile_code(filters: int, taps: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        dy, first_dy, dy_stride, x, first_x, offsets, first_tap, pixels, tile = arguments[:9]
        dy_type, x_type, offsets_type, tile_type = (signature.args[i] for i in (0, 3, 5, 8))
        size = x_type.dtype.bitwidth // 8
        lanes = VECTOR_BYTES // size
        element = ir.FloatType() if size == 4 else ir.DoubleType()
        vector, index = ir.VectorType(element, lanes), ir.IntType(64)

        def number(value: int) -> Any:
            return ir.Constant(index, value)

        output = pointer(context, builder, tile_type, tile, number(0))
        gradient = pointer(context, builder, dy_type, dy, first_dy)
        gradients = [builder.gep(gradient, [builder.mul(number(m), dy_stride)]) for m in range(filters)]
        table = pointer(context, builder, offsets_type, offsets, first_tap)
        image = pointer(context, builder, x_type, x, first_x)
        images = [builder.gep(image, [builder.load(builder.gep(table, [number(t)]))]) for t in range(taps)]

        def step(p: Any, sums: list[list[Any]], mask: Any) -> list[list[Any]]:
            """All products of one vector of pixels."""
            rows = [vector_load(builder, builder.gep(a, [p]), vector, size, mask) for a in gradients]
            columns = [vector_load(builder, builder.gep(a, [p]), vector, size, mask) for a in images]
            return [
                [fma(builder, vector, size, rows[m], columns[t], sums[m][t]) for t in range(taps)]
                for m in range(filters)
            ]

        zero = ir.Constant(vector, [0.0] * lanes)
        # Whole vectors in a loop; the last one, whole or not, after it, masked.
        whole = builder.mul(builder.sdiv(builder.sub(pixels, number(1)), number(lanes)), number(lanes))
        before = builder.block
        loop, last = builder.append_basic_block("pixels"), builder.append_basic_block("last")
        builder.cbranch(builder.icmp_signed(">", whole, number(0)), loop, last)
        builder.position_at_end(loop)
        p = builder.phi(index)
        sums = [[builder.phi(vector) for _ in range(taps)] for _ in range(filters)]
        added = step(p, sums, None)
        following = builder.add(p, number(lanes))
        builder.cbranch(builder.icmp_signed("<", following, whole), loop, last)
        p.add_incoming(number(0), before)
        p.add_incoming(following, loop)
        for m in range(filters):
            for t in range(taps):
                sums[m][t].add_incoming(zero, before)
                sums[m][t].add_incoming(added[m][t], loop)

        builder.position_at_end(last)
        so_far = [[builder.phi(vector) for _ in range(taps)] for _ in range(filters)]
        for m in range(filters):
            for t in range(taps):
                so_far[m][t].add_incoming(zero, before)
                so_far[m][t].add_incoming(added[m][t], loop)
        (mask,) = masks_before(builder, builder.sub(pixels, whole), lanes, 1)
        total = step(whole, so_far, mask)
        for m in range(filters):
            for t in range(taps):
                place = builder.gep(output, [number(m * taps + t)])
                added = lane_sum(builder, total[m][t], lanes)
                builder.store(builder.fadd(builder.load(place), added), place)
        return context.get_dummy_value()

    return codegen


def lane_sum(builder: Any, value: Any, lanes: int) -> Any:
    """The lanes of a vector added up, halves onto halves."""
    undefined = ir.Constant(value.type, ir.Undefined)
    integer = ir.IntType(32)
    while lanes > 1:
        lanes //= 2
        order = [lanes + i if i < lanes else 0 for i in range(value.type.count)]
        mask = ir.Constant(ir.VectorType(integer, value.type.count), order)
        value = builder.fadd(value, builder.shuffle_vector(value, undefined, mask))
    return builder.extract_element(value, ir.Constant(integer, 0))
