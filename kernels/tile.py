"""The register tile of a matrix product whose rows lie anywhere, and products made of such tiles.

A tile is up to `ROWS` rows by up to `PANEL` vectors. Every step broadcasts one element of each row and
multiplies it with a panel of vectors. Where the steps of a row lie is said by a table of *runs*: in a run the
row goes on by ``a_step`` elements and the panel by ``b_step``. One micro-kernel is so a plain product (one
run), a convolution with the channels last (a run over the channels for each tap) and its backward-weight (a
run over the pixels of each line).
"""

from __future__ import annotations

import itertools
from typing import Any

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

# 24 accumulators in 32 registers, or 12 in 16. The same instructions in assembler reach 84 to 89 % of the FMA
# peak on panels of 16 KiB and more and 92 to 95 on 8 KiB; 94 without the broadcasts, 99 without the vectors;
# and twenty more that do nothing cost nothing. What is missing waits for the cache (AVX-512 Xeon).
ROWS = 6
PANEL = 4 if VECTOR_BITS == 512 else 2
# Steps of packed panels that are written out in tiles of all rows: 215 GF/s, and 193 with one (256 steps,
# float32, AVX-512 Xeon). Fewer rows gain nothing by it.
STEPS = 8


@intrinsic(prefer_literal=True)
def panel_tile(
    typingctx, a, a_rows, first_row, a_runs, a_step, b, first_b, b_runs, runs, steps, wanted, ahead,
    ahead_step, start, start_rows, c, first_c, c_rows, rows, vectors,
):  # fmt: skip
    """``c[m, v] = start[m, v] + sum over r, k of a[m, a_runs[r] + k*a_step] * b[b_runs[r] + k, v]``.

    The sum begins at zero and ``start`` is added last, so that a long sum made of several calls is a sum of
    short sums, and keeps more digits.

    Parameters
    ----------
    a, b, start, c : 1-D float array
    a_rows, start_rows, c_rows : 1-D int64 array
        Where each row begins in ``a``, ``start`` and ``c`` (``c`` from ``first_c`` on); read from
        ``first_row`` on (``start_rows`` too).
    a_runs, b_runs : 1-D int64 array
        Where each run begins: elements from the row's beginning, steps from ``first_b``.
    a_step : int
        Literal 0: the steps of rows lie one behind the other. Those of ``b`` always do: it is a panel of so
        many ``vectors`` (a number of the tile: as a variable, 4 % of 12 passes).
    runs, steps : int
        How many runs, of how many steps each.
    wanted : 1-D float array
        What the cache is asked for while the tile runs: one element a step, with the line it lies in.
    ahead, ahead_step : int
        The first one, and from one to the next.
    rows : literal int
        Of the tile.
    vectors : int
        Of the tile, 1 to `PANEL`.
    """
    whole = types.int64
    packed = isinstance(a_step, types.IntegerLiteral)
    sig = types.void(
        a, a_rows, whole, a_runs, a_step if packed else whole, b, whole, b_runs, whole, whole, wanted,
        whole, whole, start, start_rows, c, whole, c_rows, rows, whole,
    )  # fmt: skip

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        for width in range(1, PANEL + 1):
            with builder.if_then(
                builder.icmp_signed("==", arguments[-1], ir.Constant(ir.IntType(64), width))
            ):
                _panel_tile(context, builder, sig, arguments, rows.literal_value, width, packed)
        return context.get_dummy_value()

    return sig, codegen


def _panel_tile(
    context: Any, builder: Any, sig: Any, arguments: Any, rows: int, vectors: int, packed: bool
) -> None:
    """The code of a tile of one size."""
    (
        a, a_rows, first_row, a_runs, a_step, b, first_b, b_runs, runs, steps, wanted, ahead,
        ahead_step, start, start_rows, c, first_c, c_rows, _, _,
    ) = arguments  # fmt: skip
    kind = Vector(sig.args[0].dtype)
    vector, size, lanes, index = kind.llvm, kind.size, kind.lanes, ir.IntType(64)

    def number(value: int) -> Any:
        return ir.Constant(index, value)

    def place(which: int, array: Any, first: Any) -> Any:
        return pointer(context, builder, sig.args[which], array, first)

    def entry(which: int, table: Any, i: Any) -> Any:
        return builder.load(place(which, table, i))

    def columns(first: Any) -> list[Any]:
        return [builder.gep(first, [number(v * lanes)]) for v in range(vectors)]

    def advance(variable: Any, elements: Any) -> Any:
        """The pointer or number in a variable, which then goes on."""
        value = builder.load(variable)
        is_pointer = isinstance(value.type, ir.PointerType)
        builder.store(
            builder.gep(value, [elements]) if is_pointer else builder.add(value, elements), variable
        )
        return value

    zero = ir.Constant(vector, [0.0] * lanes)
    # Variables of the stack, which LLVM keeps in registers.
    sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(rows)]
    numbers = [builder.add(first_row, number(m)) for m in range(rows)]
    row = [place(0, a, entry(1, a_rows, m)) for m in numbers]
    asked = cgutils.alloca_once_value(builder, place(10, wanted, ahead))
    at = cgutils.alloca_once_value(builder, number(0))
    panel = cgutils.alloca_once_value(builder, place(5, b, first_b))
    a_next = number(1) if packed else a_step

    def step(count: int) -> None:
        """Some steps at a time: fewer instructions that only count."""
        here, columns_here = builder.load(at), builder.load(panel)
        for _ in range(count):
            # For the next panel: 5 to 8 % on 512x7 with 3x3 taps (float32, AVX-512 Xeon).
            prefetch(builder, advance(asked, ahead_step))
            values = [vector_load(builder, at_, vector, size, None) for at_ in columns(columns_here)]
            for m in range(rows):
                factor = splat(builder, builder.load(builder.gep(row[m], [here])), vector)
                for v in range(vectors):
                    total = fma(builder, vector, size, factor, values[v], builder.load(sums[m][v]))
                    builder.store(total, sums[m][v])
            here = builder.add(here, a_next)
            columns_here = builder.gep(columns_here, [number(vectors * lanes)])
        builder.store(here, at)
        builder.store(columns_here, panel)

    output = place(15, c, first_c)
    written = [columns(builder.gep(output, [entry(17, c_rows, m)])) for m in numbers]
    for where in itertools.chain(*written):
        # 12 to 25 % on 64x56 -> 64 and 256 with 1x1 taps; 23 % less if asked for to be written.
        prefetch(builder, where)
    at_once = STEPS if packed and rows == ROWS else 1
    with cgutils.for_range(builder, runs) as loop:
        builder.store(entry(3, a_runs, loop.index), at)
        first = builder.add(first_b, builder.mul(entry(7, b_runs, loop.index), number(vectors * lanes)))
        builder.store(place(5, b, first), panel)
        if at_once > 1:
            with rolled(builder, builder.sdiv(steps, number(at_once))):
                step(at_once)
        with rolled(builder, builder.srem(steps, number(at_once)) if at_once > 1 else steps):
            step(1)

    for m in range(rows):
        begun = columns(place(13, start, entry(14, start_rows, numbers[m])))
        for v in range(vectors):
            first_part = vector_load(builder, begun[v], vector, size, None)
            total = builder.fadd(first_part, builder.load(sums[m][v]))
            vector_store(builder, total, written[m][v], vector, size, None)


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


@part
def multiply_rows(
    a, a_rows, first_row, a_runs, a_step, b, first_b, b_runs, runs, steps, wanted, ahead, ahead_step, start,
    start_rows, c, first_c, c_rows, vectors, rows,
):  # fmt: skip
    """`panel_tile` of 1 to `ROWS` rows; fewer run two by two."""
    if rows >= ROWS:
        panel_tile(
            a, a_rows, first_row, a_runs, a_step, b, first_b, b_runs, runs, steps, wanted, ahead,
            ahead_step, start, start_rows, c, first_c, c_rows, ROWS, vectors,
        )  # fmt: skip
        return
    row = first_row
    while rows >= 2:
        panel_tile(
            a, a_rows, row, a_runs, a_step, b, first_b, b_runs, runs, steps, wanted, ahead,
            ahead_step, start, start_rows, c, first_c, c_rows, 2, vectors,
        )  # fmt: skip
        row += 2
        rows -= 2
    if rows > 0:
        panel_tile(
            a, a_rows, row, a_runs, a_step, b, first_b, b_runs, runs, steps, wanted, ahead,
            ahead_step, start, start_rows, c, first_c, c_rows, 1, vectors,
        )  # fmt: skip


@part
def multiply_panels(
    a, a_rows, first_row, a_runs, b, first_b, b_runs, runs, steps, wanted, ahead, ahead_step, start,
    start_rows, c, first_c, c_rows, vectors, rows,
):  # fmt: skip
    """As `multiply_rows`, where the steps of rows lie one behind the other."""
    if rows >= ROWS:
        panel_tile(
            a, a_rows, first_row, a_runs, 0, b, first_b, b_runs, runs, steps, wanted, ahead,
            ahead_step, start, start_rows, c, first_c, c_rows, ROWS, vectors,
        )  # fmt: skip
        return
    row = first_row
    while rows >= 2:
        panel_tile(
            a, a_rows, row, a_runs, 0, b, first_b, b_runs, runs, steps, wanted, ahead,
            ahead_step, start, start_rows, c, first_c, c_rows, 2, vectors,
        )  # fmt: skip
        row += 2
        rows -= 2
    if rows > 0:
        panel_tile(
            a, a_rows, row, a_runs, 0, b, first_b, b_runs, runs, steps, wanted, ahead,
            ahead_step, start, start_rows, c, first_c, c_rows, 1, vectors,
        )  # fmt: skip
