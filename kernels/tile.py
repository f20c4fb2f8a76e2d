"""The register tile of a matrix product whose rows lie anywhere: a batch-reduce GEMM.

    c[m, v] = start[m, v] + sum over runs r, steps k of a[m, r, k] * b[r, k, v]

A tile is up to `ROWS` rows m by up to `PANEL` vectors v. Every step broadcasts one element of each row and
multiplies it with the vectors of a panel. A *run* is a product of its own, of elements one behind the other
in a row and steps one behind the other in a panel; the runs of a tile are added up in its registers. So one
micro-kernel is a plain product (one run), a convolution with the channels last (a run over the channels for
each tap) and its backward-weight (a run over the pixels of each row of an image).
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastconv.kernels.jit import inner, part
from fastconv.kernels.simd import Vector
from fastconv.kernels.vectors import (
    VECTOR_BITS,
    fma,
    pointer,
    prefetch,
    rolled,
    splat,
    vector_load,
    vector_store,
)

# 24 accumulators in 32 registers, or 12 in 16.
ROWS = 6
PANEL = 4 if VECTOR_BITS == 512 else 2
# Steps that tiles of all rows, whose elements lie one behind the other, write out: 215 GF/s, and 193 with one
# (256 steps, float32, AVX-512 Xeon). Fewer rows gain nothing by it.
STEPS = 8


class Rows(NamedTuple):
    """Rows of numbers: row m begins at element ``first + starts[m]`` of ``array``."""

    array: Any  # 1-D float array
    starts: Any  # 1-D int64 array
    first: int


class Runs(NamedTuple):
    """The products that a tile adds up: ``number`` runs of ``steps`` each.

    Two tables, 1-D int64 arrays that are read from entry ``first`` on, say where runs begin: ``a_starts`` in
    a row, in elements from its beginning, and ``b_starts`` in a panel, in steps from its beginning.
    """

    a_starts: Any
    b_starts: Any
    first: int
    number: int
    steps: int


class Panel(NamedTuple):
    """Steps of ``vectors`` vectors each (1 to `PANEL`), packed one behind the other from ``first`` on."""

    array: Any  # 1-D float array
    first: int
    vectors: int


class Prefetch(NamedTuple):
    """What is prefetched while a tile runs: the cache line of an element at each step.

    ``first`` is the first element, and ``step`` the elements from one to the next.
    """

    array: Any  # 1-D float array
    first: int
    step: int


@intrinsic
def multiply_rows(typingctx, a, row, rows, runs, b, start, c, prefetched):
    """Add products of some rows with a panel to ``start`` and store them in ``c``.

    The sum begins at zero and ``start`` is added last, so that a long sum made of several calls is a sum of
    short sums, and keeps more digits.

    Parameters
    ----------
    a, start, c : Rows
        Read from ``row`` on; a row of ``start`` and ``c`` has the vectors of the panel.
    row, rows : int
        Up to `ROWS` rows are multiplied, which are one tile or, if there are fewer, tiles of two and of one.
    runs : Runs
    b : Panel
        The number of its vectors is one of the tile: as a variable it costs 4 % of 12 passes.
    prefetched : Prefetch
    """
    whole = types.int64
    sig = types.void(a, whole, whole, runs, b, start, c, prefetched)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        _Operands(context, builder, sig.args, arguments, None).multiply(*arguments[1:3])
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def multiply_strided_rows(typingctx, a, stride, row, rows, runs, b, start, c, prefetched):
    """As `multiply_rows`, but the elements of a run lie ``stride`` apart in a row of ``a``."""
    whole = types.int64
    sig = types.void(a, whole, whole, whole, runs, b, start, c, prefetched)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        a_type, _, *other_types = sig.args
        array, stride, *others = arguments
        operands = _Operands(context, builder, (a_type, *other_types), (array, *others), stride)
        operands.multiply(*others[:2])
        return context.get_dummy_value()

    return sig, codegen


def _number(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


class _Operands:
    """The operands of `multiply_rows` as code that is being made sees them, and the code of its tiles."""

    def __init__(self, context: Any, builder: Any, kinds: Any, arguments: Any, stride: Any) -> None:
        def fields(which: int) -> list[tuple[Any, Any]]:
            """Types and values of a named tuple."""
            values = cgutils.unpack_tuple(builder, arguments[which], len(kinds[which].types))
            return list(zip(kinds[which].types, values, strict=True))

        def whole(field: tuple[Any, Any]) -> Any:
            kind, value = field
            return context.cast(builder, value, kind, types.int64)

        def place(field: tuple[Any, Any], first: Any) -> Any:
            return pointer(context, builder, *field, first)

        self.builder, self.stride = builder, stride
        self.kind = Vector(kinds[0].types[0].dtype)
        a, a_rows, a_first = fields(0)
        a_runs, b_runs, first_run, count, steps = fields(3)
        b, b_first, vectors = fields(4)
        start, start_rows, start_first = fields(5)
        c, c_rows, c_first = fields(6)
        prefetched, prefetch_first, prefetch_step = fields(7)
        self.a, self.a_rows = place(a, whole(a_first)), place(a_rows, _number(0))
        self.a_runs, self.b_runs = place(a_runs, whole(first_run)), place(b_runs, whole(first_run))
        self.count, self.steps = whole(count), whole(steps)
        self.b, self.vectors = place(b, whole(b_first)), whole(vectors)
        self.start, self.start_rows = place(start, whole(start_first)), place(start_rows, _number(0))
        self.c, self.c_rows = place(c, whole(c_first)), place(c_rows, _number(0))
        self.prefetched, self.prefetch_step = place(prefetched, whole(prefetch_first)), whole(prefetch_step)

    def multiply(self, row: Any, rows: Any) -> None:
        """The tiles that cover some rows."""
        builder = self.builder
        with builder.if_else(builder.icmp_signed(">=", rows, _number(ROWS))) as (enough, fewer):
            with enough:
                self.tiles(row, ROWS)
            with fewer:
                with rolled(builder, builder.sdiv(rows, _number(2))) as loop:
                    self.tiles(builder.add(row, builder.mul(loop.index, _number(2))), 2)
                with builder.if_then(builder.trunc(rows, ir.IntType(1))):
                    self.tiles(builder.sub(builder.add(row, rows), _number(1)), 1)

    def tiles(self, row: Any, rows: int) -> None:
        """A tile of so many rows, for each number of vectors; the panel's is chosen when it runs."""
        for vectors in range(1, PANEL + 1):
            is_wanted = self.builder.icmp_signed("==", self.vectors, _number(vectors))
            with self.builder.if_then(is_wanted):
                self.tile(row, rows, vectors)

    def tile(self, first_row: Any, rows: int, vectors: int) -> None:
        """A tile of one size."""
        builder, kind = self.builder, self.kind
        vector, size, lanes = kind.llvm, kind.size, kind.lanes

        def entry(table: Any, i: Any) -> Any:
            return builder.load(builder.gep(table, [i]))

        def columns(first: Any) -> list[Any]:
            return [builder.gep(first, [_number(v * lanes)]) for v in range(vectors)]

        zero = ir.Constant(vector, [0.0] * lanes)
        # Variables of the stack, which LLVM keeps in registers.
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(rows)]
        numbers = [builder.add(first_row, _number(m)) for m in range(rows)]
        row = [builder.gep(self.a, [entry(self.a_rows, m)]) for m in numbers]
        prefetched = cgutils.alloca_once_value(builder, self.prefetched)
        at = cgutils.alloca_once_value(builder, _number(0))
        panel = cgutils.alloca_once_value(builder, self.b)
        stride = _number(1) if self.stride is None else self.stride

        def step(count: int) -> None:
            """Some steps at a time: fewer instructions that only count."""
            here, columns_here = builder.load(at), builder.load(panel)
            for _ in range(count):
                # For the next panel: 5 to 8 % on 512x7 with 3x3 taps (float32, AVX-512 Xeon).
                line = builder.load(prefetched)
                builder.store(builder.gep(line, [self.prefetch_step]), prefetched)
                prefetch(builder, line)
                values = [vector_load(builder, at_, vector, size, None) for at_ in columns(columns_here)]
                for m in range(rows):
                    factor = splat(builder, builder.load(builder.gep(row[m], [here])), vector)
                    for v in range(vectors):
                        total = fma(builder, vector, size, factor, values[v], builder.load(sums[m][v]))
                        builder.store(total, sums[m][v])
                here = builder.add(here, stride)
                columns_here = builder.gep(columns_here, [_number(vectors * lanes)])
            builder.store(here, at)
            builder.store(columns_here, panel)

        written = [columns(builder.gep(self.c, [entry(self.c_rows, m)])) for m in numbers]
        for where in itertools.chain(*written):
            # 12 to 25 % on 64x56 -> 64 and 256 with 1x1 taps; 23 % less if prefetched to be written.
            prefetch(builder, where)
        at_once = STEPS if self.stride is None and rows == ROWS else 1
        with cgutils.for_range(builder, self.count) as loop:
            builder.store(entry(self.a_runs, loop.index), at)
            begin = builder.mul(entry(self.b_runs, loop.index), _number(vectors * lanes))
            builder.store(builder.gep(self.b, [begin]), panel)
            if at_once > 1:
                with rolled(builder, builder.sdiv(self.steps, _number(at_once))):
                    step(at_once)
            left = builder.srem(self.steps, _number(at_once)) if at_once > 1 else self.steps
            with rolled(builder, left):
                step(1)

        for m in range(rows):
            begun = columns(builder.gep(self.start, [entry(self.start_rows, numbers[m])]))
            for v in range(vectors):
                first_part = vector_load(builder, begun[v], vector, size, None)
                total = builder.fadd(first_part, builder.load(sums[m][v]))
                vector_store(builder, total, written[m][v], vector, size, None)


def panel_width(filters: int, lanes: int) -> int:
    """Filters of a panel: as few panels as can be, of as equal width as can be."""
    vectors = -(-filters // lanes)
    panels = -(-vectors // PANEL)
    return -(-vectors // panels) * lanes


@part
def find_vector(vector, vectors, panel, steps, lanes):
    """Where a vector of ``vectors`` begins in panels of ``steps``, and from one step to the next.

    All panels have ``panel`` vectors, but the last may have fewer.
    """
    first = vector // panel * panel
    width = min(panel, vectors - first)
    return (first * steps + vector - first) * lanes, width * lanes


@inner
def whole_tiles(rows):
    """So many rows have the tiles that cover ``rows``."""
    return (rows + ROWS - 1) // ROWS * ROWS


@inner
def place_rows(rows, count, step):
    """Where each of ``count`` rows begins; further ones repeat the last."""
    for i in range(rows.size):
        rows[i] = min(i, count - 1) * step
