"""A machine vector as a value in Numba code: load it, compute with it, store it.

``load(x, i)`` reads as many elements as a vector of the CPU has lanes, from element ``i`` on; ``+``, ``-``
and ``*`` work lane by lane; ``store(x, i, v)`` writes them. Neither address need be aligned, nothing is
checked. A loop over vectors written so is compiled as it stands, where a scalar loop would have to be
vectorised by LLVM, which gives up on sixteen streams that may overlap.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from fastconv.kernels import vectors
from fastconv.kernels.vectors import (
    VECTOR_BYTES,
    fma,
    masks_before,
    pointer,
    splat,
    vector_load,
    vector_store,
)


class Vector(types.Type):  # type: ignore[misc]
    """As many floats as the CPU's vectors hold."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return int(self.dtype.bitwidth // 8)

    @property
    def lanes(self) -> int:
        """Elements."""
        return VECTOR_BYTES // self.size

    @property
    def llvm(self) -> Any:
        """The vector as LLVM knows it."""
        return ir.VectorType(ir.FloatType() if self.size == 4 else ir.DoubleType(), self.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.llvm)


@intrinsic
def load(typingctx, x, first):
    """The vector of elements ``first``, ``first + 1`` ... of a one-dimensional contiguous array."""

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        place = pointer(context, builder, sig.args[0], *arguments)
        return vector_load(builder, place, sig.return_type.llvm, sig.return_type.size, None)

    return Vector(x.dtype)(x, types.int64), codegen


@intrinsic
def load_some(typingctx, x, first, count):
    """As `load`, but at most the first ``count`` lanes: the others read nothing and are zero."""

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        kind = sig.return_type
        place = pointer(context, builder, sig.args[0], *arguments[:2])
        (mask,) = masks_before(builder, arguments[2], kind.lanes, 1)
        return vector_load(builder, place, kind.llvm, kind.size, mask)

    return Vector(x.dtype)(x, types.int64, types.int64), codegen


@intrinsic
def store(typingctx, x, first, vector):
    """Write a vector to elements ``first``, ``first + 1`` ... of a one-dimensional contiguous array."""

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        place = pointer(context, builder, sig.args[0], *arguments[:2])
        written = builder.store(arguments[2], builder.bitcast(place, sig.args[2].llvm.as_pointer()))
        written.align = sig.args[2].size
        return context.get_dummy_value()

    return types.void(x, types.int64, vector), codegen


@intrinsic
def store_some(typingctx, x, first, vector, count):
    """As `store`, but at most the first ``count`` lanes."""

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        kind = sig.args[2]
        place = pointer(context, builder, sig.args[0], *arguments[:2])
        (mask,) = masks_before(builder, arguments[3], kind.lanes, 1)
        vector_store(builder, arguments[2], place, kind.llvm, kind.size, mask)
        return context.get_dummy_value()

    return types.void(x, types.int64, vector, types.int64), codegen


@intrinsic(prefer_literal=True)
def prefetch(typingctx, x, i, write):
    """Ask for the cache line of ``x[i]``, which is read soon, or written (``write``: literal 0 or 1)."""

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        place = pointer(context, builder, sig.args[0], *arguments[:2])
        vectors.prefetch(builder, place, bool(write.literal_value))
        return context.get_dummy_value()

    return types.void(x, types.int64, write), codegen


@intrinsic
def spread(typingctx, value):
    """The vector with ``value`` in every lane."""

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return splat(builder, arguments[0], sig.return_type.llvm)

    return Vector(value)(value), codegen


@intrinsic
def multiply_add(typingctx, a, b, c):
    """``a * b + c``, fused where the CPU can."""

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return fma(builder, sig.args[0].llvm, sig.args[0].size, *arguments)

    return a(a, a, a), codegen


class _LaneByLane(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
            return signature(args[0], *args)
        return None


def _define(operation: Any, name: str) -> None:
    infer_global(operation)(type(f"_Vector_{name}", (_LaneByLane,), {}))

    @lower_builtin(operation, Vector, Vector)  # type: ignore[untyped-decorator]
    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return getattr(builder, name)(*arguments)


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")


@intrinsic
def transpose_square(typingctx, x, first, stride, rows, columns, square, place):
    """A square of as many rows i and columns j as a vector has lanes, turned over its diagonal.

    ``square[place + j*lanes + i] = x[first + i*stride + j]``

    Parameters
    ----------
    x : 1-D float array
    first, stride : int
    rows, columns : int
        How many of them there are, at least one and at most as many as lanes: no others are read. What is
        missing repeats the last row and is zero beyond the last column.
    square : 1-D float array
        Written: lanes by lanes, from element ``place`` on. 0.07 ns an element (float32, AVX-512 Xeon).
    """

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        x, first, stride, count, columns, square, beginning = arguments
        kind = Vector(sig.args[0].dtype)
        index = ir.IntType(64)
        begin = pointer(context, builder, sig.args[0], x, first)
        (mask,) = masks_before(builder, columns, kind.lanes, 1)
        last = builder.sub(count, ir.Constant(index, 1))
        rows = []
        for lane in range(kind.lanes):
            i = ir.Constant(index, lane)
            there = builder.select(builder.icmp_signed("<", i, last), i, last)
            place = builder.gep(begin, [builder.mul(there, stride)])
            rows.append(vector_load(builder, place, kind.llvm, kind.size, mask))
        target = pointer(context, builder, sig.args[5], square, beginning)
        for j, row in enumerate(_transposed(builder, rows)):
            place = builder.gep(target, [ir.Constant(index, j * kind.lanes)])
            vector_store(builder, row, place, kind.llvm, kind.size, None)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(x, whole, whole, whole, whole, square, whole), codegen


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """A square of vectors transposed: interleaving row i with row i + half, log2(lanes) times over."""
    lanes = len(rows)
    integer = ir.VectorType(ir.IntType(32), lanes)
    half = lanes // 2
    low = ir.Constant(integer, [i // 2 + (i % 2) * lanes for i in range(lanes)])
    high = ir.Constant(integer, [half + i // 2 + (i % 2) * lanes for i in range(lanes)])
    for _ in range(lanes.bit_length() - 1):
        pairs = [(rows[i], rows[i + half]) for i in range(half)]
        rows = [builder.shuffle_vector(a, b, order) for a, b in pairs for order in (low, high)]
    return rows
