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
from numba.core import cgutils

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


# Taps that one sum runs over before it is added to the others. Over 64 channels of 9 taps the largest error
# is 3.4 times PyTorch's with one sum and 1.5 times with three; from 64 filters of 3x3 taps to 3 channels 2.6
# and 1.4 times.
SUM = 256


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
