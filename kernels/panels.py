"""The register tile of a matrix product whose rows lie anywhere, and products made of such tiles.

A tile is up to `ROWS` rows by up to `PANEL` vectors. Every step broadcasts one element of each row and
multiplies it with a panel of vectors. Where the steps of a row lie is said by a table of *runs*: in a run the
row goes on by ``a_step`` elements and the panel by ``b_step``. One micro-kernel is so a plain product (one
run), a convolution with the channels last (a run over the channels for each tap) and its backward-weight (a
run over the pixels of each line).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastconv.kernels.jit import jit
from fastconv.kernels.lanes import Vector
from fastconv.kernels.vectors import (
    VECTOR_BITS,
    fma,
    masks_before,
    pointer,
    splat,
    vector_load,
    vector_store,
)

# 24 accumulators in 32 registers, or 12 in 16.
ROWS = 6
PANEL = 4 if VECTOR_BITS == 512 else 2


@intrinsic(prefer_literal=True)
def panel_tile(
    typingctx, a, a_rows, first_row, a_runs, a_step, b, first_b, b_runs, b_step, runs, steps, ahead,
    start, start_rows, c, first_c, c_rows, rows, vectors, lanes,
):  # fmt: skip
    """``c[m, v] = start[m, v] + sum over r, k of a[m, a_runs[r] + k*a_step] * b[b_runs[r] + k*b_step, v]``.

    The sum begins at zero and ``start`` is added last, so that a long sum made of several calls is a sum of
    short sums, and keeps more digits.

    Parameters
    ----------
    a, b, start, c : 1-D float array
    a_rows, start_rows, c_rows : 1-D int64 array
        Where each row begins in ``a``, ``start`` and ``c`` (``c`` from ``first_c`` on); read from
        ``first_row`` on (``start_rows`` too).
    a_runs, b_runs : 1-D int64 array
        Where each run begins, counted from the row's beginning and from ``first_b``.
    runs, steps : int
        How many runs, of how many steps each: at least one.
    ahead : int
        Element of ``b`` whose vector the first step asks the cache for; every further step asks for the next.
    rows, vectors : literal int
        The tile's sizes.
    lanes : int
        0, or how many lanes of the last vector there are: of the others nothing is read or written.
    """
    rows_, vectors_ = rows.literal_value, vectors.literal_value
    masked = not (isinstance(lanes, types.IntegerLiteral) and lanes.literal_value == 0)
    whole = types.int64
    sig = types.void(
        a, a_rows, whole, a_runs, whole, b, whole, b_runs, whole, whole, whole, whole,
        start, start_rows, c, whole, c_rows, rows, vectors, lanes if not masked else whole,
    )  # fmt: skip
    return sig, _panel_tile_code(rows_, vectors_, masked)


def prefetch(builder: Any, place: Any) -> None:
    """Ask for the cache line of an address, to be in L2 when it is needed; any address may be asked for."""
    integer = ir.IntType(32)
    address = builder.bitcast(place, ir.IntType(8).as_pointer())
    signature = ir.FunctionType(ir.VoidType(), [address.type, integer, integer, integer])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    builder.call(function, [address, *(ir.Constant(integer, value) for value in (0, 2, 1))])


def _panel_tile_code(rows: int, vectors: int, masked: bool) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        (
            a, a_rows, first_row, a_runs, a_step, b, first_b, b_runs, b_step, runs, steps, ahead,
            start, start_rows, c, first_c, c_rows, _, _, lanes_left,
        ) = arguments  # fmt: skip
        kind = Vector(sig.args[0].dtype)
        vector, size, lanes, index = kind.llvm, kind.size, kind.lanes, ir.IntType(64)

        def number(value: int) -> Any:
            return ir.Constant(index, value)

        def place(which: int, array: Any, first: Any) -> Any:
            return pointer(context, builder, sig.args[which], array, first)

        def entry(which: int, table: Any, i: Any) -> Any:
            return builder.load(place(which, table, i))

        mask = masks_before(builder, lanes_left, lanes, 1)[0] if masked else None

        def columns(first: Any) -> list[Any]:
            """The vectors of a row of the panel, of ``start`` or of ``c``: where, and their masks."""
            return [
                (builder.gep(first, [number(v * lanes)]), mask if v == vectors - 1 else None)
                for v in range(vectors)
            ]

        def read(first: Any) -> list[Any]:
            return [vector_load(builder, where, vector, size, some) for where, some in columns(first)]

        numbers = [builder.add(first_row, number(m)) for m in range(rows)]
        row = [place(0, a, entry(1, a_rows, m)) for m in numbers]
        panel = place(5, b, first_b)
        wanted = place(5, b, ahead)

        zero = ir.Constant(vector, [0.0] * lanes)
        before = builder.block
        outer = builder.append_basic_block("run")
        inner = builder.append_basic_block("step")
        ended = builder.append_basic_block("run_end")
        after = builder.append_basic_block("store")
        builder.branch(outer)

        builder.position_at_end(outer)
        r = builder.phi(index)
        r.add_incoming(number(0), before)
        asked_first = builder.phi(wanted.type)
        asked_first.add_incoming(wanted, before)
        so_far = [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
        a_first, b_first = entry(3, a_runs, r), entry(7, b_runs, r)
        builder.branch(inner)

        builder.position_at_end(inner)
        left, at, panel_at = builder.phi(index), builder.phi(index), builder.phi(index)
        left.add_incoming(steps, outer)
        at.add_incoming(a_first, outer)
        panel_at.add_incoming(b_first, outer)
        sums = [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
        asked = builder.phi(wanted.type)
        asked.add_incoming(asked_first, outer)
        prefetch(builder, asked)
        asked_next = builder.gep(asked, [number(lanes)])
        asked.add_incoming(asked_next, inner)
        values = read(builder.gep(panel, [panel_at]))
        products = []
        for m in range(rows):
            factor = splat(builder, builder.load(builder.gep(row[m], [at])), vector)
            products.append(
                [fma(builder, vector, size, factor, values[v], sums[m][v]) for v in range(vectors)]
            )
        following = builder.sub(left, number(1))
        left.add_incoming(following, inner)
        at.add_incoming(builder.add(at, a_step), inner)
        panel_at.add_incoming(builder.add(panel_at, b_step), inner)
        builder.cbranch(builder.icmp_signed(">", following, number(0)), inner, ended)

        builder.position_at_end(ended)
        following_run = builder.add(r, number(1))
        r.add_incoming(following_run, ended)
        asked_first.add_incoming(asked_next, ended)
        for m in range(rows):
            for v in range(vectors):
                so_far[m][v].add_incoming(zero, before)
                so_far[m][v].add_incoming(products[m][v], ended)
                sums[m][v].add_incoming(so_far[m][v], outer)
                sums[m][v].add_incoming(products[m][v], inner)
        builder.cbranch(builder.icmp_signed("<", following_run, runs), outer, after)

        builder.position_at_end(after)
        output = place(14, c, first_c)
        for m in range(rows):
            added = read(place(12, start, entry(13, start_rows, numbers[m])))
            first = builder.gep(output, [entry(16, c_rows, numbers[m])])
            for v, (where, some) in enumerate(columns(first)):
                total = builder.fadd(added[v], products[m][v])
                vector_store(builder, total, where, vector, size, some)
        return context.get_dummy_value()

    return codegen


@jit
def multiply_rows(
    a, a_rows, first_row, a_runs, a_step, b, first_b, b_runs, b_step, runs, steps, ahead, start, start_rows,
    c, first_c, c_rows, vectors,
):  # fmt: skip
    """`panel_tile` of `ROWS` rows by 1 to `PANEL` whole vectors."""
    if vectors == PANEL:
        panel_tile(
            a, a_rows, first_row, a_runs, a_step, b, first_b, b_runs, b_step, runs, steps, ahead, start,
            start_rows, c, first_c, c_rows, ROWS, PANEL, 0,
        )  # fmt: skip
    elif vectors == 3:
        panel_tile(
            a, a_rows, first_row, a_runs, a_step, b, first_b, b_runs, b_step, runs, steps, ahead, start,
            start_rows, c, first_c, c_rows, ROWS, 3, 0,
        )  # fmt: skip
    elif vectors == 2:
        panel_tile(
            a, a_rows, first_row, a_runs, a_step, b, first_b, b_runs, b_step, runs, steps, ahead, start,
            start_rows, c, first_c, c_rows, ROWS, 2, 0,
        )  # fmt: skip
    else:
        panel_tile(
            a, a_rows, first_row, a_runs, a_step, b, first_b, b_runs, b_step, runs, steps, ahead, start,
            start_rows, c, first_c, c_rows, ROWS, 1, 0,
        )  # fmt: skip
