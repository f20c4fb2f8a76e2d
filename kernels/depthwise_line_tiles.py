"""Micro-kernels for depthwise layers of 3x3 taps with the channels last: one vector of channels along a line.

A *strip* is two lines of the output in one vector of channels. It is made in *steps* along the width: each
reads a column of the source (with a stride, one for each cell that it advances), multiplies every vector read
with all taps that it meets, and finishes a column of the output. The taps stay in registers, and so do the
columns that are begun: no vector is read twice for the same two lines.

`relations` says which cells meet in which tap. In backward-input with a stride the sides are exchanged: a
step reads one column and finishes as many as the stride.

Two lines are best with 16 registers and with 32: of 2, 3, 4 and 5 lines, 452, 468, 503 and 499 us
(8x28x28x256 float32 in C, AVX-512 Xeon, where a copy of the image takes 430 us).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastconv.kernels.plane_tiles import _number, _size, _vector_type
from fastconv.kernels.vectors import fma, pointer, prefetch, vector_load, vector_store

# Taps along each axis, and lines of the output in a strip.
TAPS, LINES = 3, 2

Meetings = list[tuple[int, int, int]]


def relations(stride: int, back: int, lines: int = LINES) -> tuple[Meetings, Meetings, int]:
    """What meets in a strip: (line read, line made, tap), the same of columns, and how many are begun.

    Lines are counted from the strip's first ones, columns from the first that a step reads and finishes.
    """
    if back:
        later = -(-TAPS // stride) - 1
        rows = [(t, i, i + stride * (later - t)) for t in range(later + 1) for i in range(stride)]
        columns, begun = [(0, s, s) for s in range(TAPS)], TAPS
    else:
        rows = [(stride * i + r, i, r) for i in range(lines) for r in range(TAPS)]
        begun = -(-TAPS // stride)
        columns = [(a, j, a + stride * (begun - 1 - j)) for a in range(stride) for j in range(begun)]
    return [m for m in rows if m[2] < TAPS], [m for m in columns if m[2] < TAPS], begun


class _Cells:
    """Cells of an array by line and column, from a place on: (first element, line step, pixel step)."""

    def __init__(self, context: Any, builder: Any, array_type: Any, array: Any, place: Any, lines: int):
        first, line, self.pixel = (builder.extract_value(place, i) for i in range(3))
        self.builder, self.vector = builder, _vector_type(array_type)
        begin = pointer(context, builder, array_type, array, first)
        self.lines = [builder.gep(begin, [builder.mul(_number(t), line)]) for t in range(lines)]

    def _address(self, line: int, column: Any) -> Any:
        return self.builder.gep(self.lines[line], [self.builder.mul(column, self.pixel)])

    def load(self, line: int, column: Any) -> Any:
        """The vector of a cell."""
        return vector_load(self.builder, self._address(line, column), self.vector, _size(self.vector), None)

    def store(self, value: Any, line: int, column: Any) -> None:
        """Write the vector of a cell."""
        address = self._address(line, column)
        vector_store(self.builder, value, address, self.vector, _size(self.vector), None)


class _Ahead:
    """Vectors of an array that the cache is asked for, one behind the other."""

    def __init__(self, context: Any, builder: Any, array_type: Any, array: Any, first: Any, write: bool):
        self.builder, self.write = builder, write
        self.lanes = _number(_vector_type(array_type).count)
        self.place = cgutils.alloca_once_value(builder, pointer(context, builder, array_type, array, first))

    def ask(self, vectors: int) -> None:
        """For the next ones: those to be read into L2, those to be written into L1."""
        for _ in range(vectors):
            here = self.builder.load(self.place)
            prefetch(self.builder, here, self.write)
            self.builder.store(self.builder.gep(here, [self.lanes]), self.place)


def _within(builder: Any, value: Any, range_: Any) -> Any:
    """Whether a number lies in a range."""
    begin, end = (builder.extract_value(range_, i) for i in range(2))
    return builder.and_(builder.icmp_signed("<=", begin, value), builder.icmp_signed("<", value, end))


def _when(builder: Any, edge: bool, value: Any, range_: Any) -> Any:
    """A block of code that runs, at an edge, only where a number lies in a range."""
    return builder.if_then(_within(builder, value, range_) if edge else ir.Constant(ir.IntType(1), 1))


def _sections(builder: Any, steps: Any, inside: Any) -> list[tuple[Any, Any, bool]]:
    """(from, up to which step, whether columns may be missing)."""
    low, high = (builder.extract_value(inside, i) for i in range(2))
    return [(_number(0), low, True), (low, high, False), (high, steps, True)]


def _taps(builder: Any, first: Any, step: Any, vector: Any) -> list[Any]:
    """Where the vector of each tap is, line by line."""
    return [builder.gep(first, [builder.mul(_number(n), step)]) for n in range(TAPS * TAPS)]


@intrinsic(prefer_literal=True)
def correlate_strip(
    typingctx, x, x_place, x_lines, x_columns, weights, weight, bias, first_bias, out, out_place, out_lines,
    out_columns, steps, inside, ahead, stride, back,
):  # fmt: skip
    """Write one strip.

    Parameters
    ----------
    x : 1-D float array
    x_place : tuple of three int
        The element of the first line and column that a strip reads, which need not exist, and from one line
        and pixel to the next.
    x_lines, x_columns : tuple of two int
        From and up to which of them exist: no others are read, nor multiplied.
    weights : 1-D float array
    weight : tuple of two int
        The first tap's element, and from one tap to the next.
    bias : 1-D float array
        Read from ``first_bias`` on.
    out, out_place, out_lines, out_columns
        As for ``x``. Written.
    steps : int
    inside : tuple of two int
        From and up to which step all columns that are read and finished exist.
    ahead : tuple of two int
        Elements of ``x`` and ``out`` from which on the cache is asked for what the next strips need.
    stride, back : literal int
        See `relations`.
    """
    whole, two, three = types.int64, types.UniTuple(types.int64, 2), types.UniTuple(types.int64, 3)
    sig = types.void(
        x, three, two, two, weights, two, bias, whole, out, three, two, two, whole, two, two, stride, back
    )
    return sig, _correlate_strip_code(stride.literal_value, back.literal_value)


def _correlate_strip_code(stride: int, back: int) -> Any:
    rows, columns, begun = relations(stride, back)
    read, finished = (1, stride) if back else (stride, 1)
    lines_read = 1 + max(t for t, _, _ in rows)
    # Lines of the source from one strip to the next.
    new_lines = LINES // stride if back else LINES * stride

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        (
            x, x_place, x_lines, x_columns, weights, weight, bias, first_bias, out, out_place, out_lines,
            out_columns, steps, inside, ahead,
        ) = arguments[:15]  # fmt: skip
        kinds, vector = sig.args, _vector_type(sig.args[0])
        size = _size(vector)
        source = _Cells(context, builder, kinds[0], x, x_place, lines_read)
        target = _Cells(context, builder, kinds[8], out, out_place, LINES)
        x_ahead, out_ahead = (builder.extract_value(ahead, i) for i in range(2))
        asked = [
            (_Ahead(context, builder, kinds[0], x, x_ahead, False), read * new_lines),
            (_Ahead(context, builder, kinds[8], out, out_ahead, True), finished * LINES),
        ]
        exists = [_within(builder, _number(t), x_lines) for t in range(lines_read)]
        wanted = [_within(builder, _number(i), out_lines) for i in range(LINES)]
        first_weight = pointer(context, builder, kinds[4], weights, builder.extract_value(weight, 0))
        taps = [
            vector_load(builder, place, vector, size, None)
            for place in _taps(builder, first_weight, builder.extract_value(weight, 1), vector)
        ]
        start = pointer(context, builder, kinds[6], bias, first_bias)
        start = vector_load(builder, start, vector, size, None)
        # Variables of the stack, which LLVM keeps in registers.
        sums = [[cgutils.alloca_once_value(builder, start) for _ in range(begun)] for _ in range(LINES)]

        def multiply(t: int, a: int, value: Any) -> None:
            """What the cell in line t and column a of a step gives."""
            for i, r in ((i, r) for line, i, r in rows if line == t):
                for j, s in ((j, s) for column, j, s in columns if column == a):
                    total = fma(builder, vector, size, value, taps[r * TAPS + s], builder.load(sums[i][j]))
                    builder.store(total, sums[i][j])

        def step(m: Any, edge: bool) -> None:
            for t in range(lines_read):
                with builder.if_then(exists[t]):
                    for a in range(read):
                        column = builder.add(builder.mul(m, _number(read)), _number(a))
                        with _when(builder, edge, column, x_columns):
                            multiply(t, a, source.load(t, column))
            for some, vectors in asked:
                some.ask(vectors)
            for b in range(finished):
                column = builder.add(builder.mul(m, _number(finished)), _number(b))
                with _when(builder, edge, column, out_columns):
                    for i in range(LINES):
                        with builder.if_then(wanted[i]):
                            target.store(builder.load(sums[i][b]), i, column)
            for row in sums:
                for j in range(begun):
                    following = builder.load(row[j + finished]) if j + finished < begun else start
                    builder.store(following, row[j])

        for first, stop, edge in _sections(builder, steps, inside):
            with cgutils.for_range(builder, stop, start=first) as loop:
                step(loop.index, edge)
        return context.get_dummy_value()

    return codegen


@intrinsic(prefer_literal=True)
def sum_strip(
    typingctx, x, x_place, x_lines, x_columns, dy, dy_place, dy_columns, sums, first_sum, steps, inside,
    ahead, stride, lines,
):  # fmt: skip
    """Add what one strip gives to the gradients of its taps, all lanes apart.

    The other parameters are those of `correlate_strip`.

    Parameters
    ----------
    dy, dy_place, dy_columns
        The output's gradient, of which all lines exist.
    sums : 1-D float array
        A vector for each tap, from ``first_sum`` on. Added to.
    inside : tuple of two int
        From and up to which step all columns that are begun exist as well.
    ahead : tuple of two int
        Of ``x`` and ``dy``.
    lines : literal int
        Of the gradient.
    """
    whole, two, three = types.int64, types.UniTuple(types.int64, 2), types.UniTuple(types.int64, 3)
    sig = types.void(x, three, two, two, dy, three, two, sums, whole, whole, two, two, stride, lines)
    return sig, _sum_strip_code(stride.literal_value, lines.literal_value)


def _sum_strip_code(stride: int, lines: int) -> Any:
    rows, columns, begun = relations(stride, 0, lines)
    lines_read = 1 + max(t for t, _, _ in rows)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        x, x_place, x_lines, x_columns, dy, dy_place, dy_columns = arguments[:7]
        sums, first_sum, steps, inside, ahead = arguments[7:12]
        kinds, vector = sig.args, _vector_type(sig.args[0])
        size = _size(vector)
        source = _Cells(context, builder, kinds[0], x, x_place, lines_read)
        gradient = _Cells(context, builder, kinds[4], dy, dy_place, lines)
        asked = [
            (_Ahead(context, builder, kind, array, builder.extract_value(ahead, n), False), vectors)
            for n, (kind, array, vectors) in enumerate(
                ((kinds[0], x, stride * stride * lines), (kinds[4], dy, lines))
            )
        ]
        exists = [_within(builder, _number(t), x_lines) for t in range(lines_read)]
        zero = ir.Constant(vector, [0.0] * vector.count)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(TAPS * TAPS)]
        # The columns of the gradient that a step meets.
        held = [[cgutils.alloca_once_value(builder, zero) for _ in range(begun)] for _ in range(lines)]

        def multiply(t: int, a: int, m: Any, value: Any, edge: bool) -> None:
            """What the cell in line t and column a of a step gives."""
            for j, s in ((j, s) for column, j, s in columns if column == a):
                with _when(builder, edge, builder.add(m, _number(j)), dy_columns):
                    for i, r in ((i, r) for line, i, r in rows if line == t):
                        before = builder.load(totals[r * TAPS + s])
                        total = fma(builder, vector, size, value, builder.load(held[i][j]), before)
                        builder.store(total, totals[r * TAPS + s])

        def step(m: Any, edge: bool) -> None:
            for row in held:
                for j in range(begun - 1):
                    builder.store(builder.load(row[j + 1]), row[j])
            newest = builder.add(m, _number(begun - 1))
            with _when(builder, edge, newest, dy_columns):
                for i in range(lines):
                    builder.store(gradient.load(i, newest), held[i][begun - 1])
            for t in range(lines_read):
                with builder.if_then(exists[t]):
                    for a in range(stride):
                        column = builder.add(builder.mul(m, _number(stride)), _number(a))
                        with _when(builder, edge, column, x_columns):
                            multiply(t, a, m, source.load(t, column), edge)
            for some, vectors in asked:
                some.ask(vectors)

        for first, stop, edge in _sections(builder, steps, inside):
            with cgutils.for_range(builder, stop, start=first) as loop:
                step(loop.index, edge)
        memory = pointer(context, builder, kinds[7], sums, first_sum)
        for total, place in zip(totals, _taps(builder, memory, _number(vector.count), vector), strict=True):
            before = vector_load(builder, place, vector, size, None)
            vector_store(builder, builder.fadd(before, builder.load(total)), place, vector, size, None)
        return context.get_dummy_value()

    return codegen
