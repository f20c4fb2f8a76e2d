"""Micro-kernels for depthwise layers of 3x3 taps with the channels last: one vector of channels along rows.

A tile is two rows of the output, a *row pair*, in one vector of channels. It is made in *steps* along the
width: each reads a column of the source (with a stride, one for each pixel that it advances), multiplies
every vector read with all taps that it meets, and finishes a column of the output. The taps stay in
registers, and so do the columns that are begun: no vector is read twice for the same two rows.

`relations` says which pixels meet in which tap. In backward-input with a stride the sides are exchanged: a
step reads one column and finishes as many as the stride.

Two rows are best with 16 registers and with 32: of 2, 3, 4 and 5 rows, 452, 468, 503 and 499 us
(8x28x28x256 float32 in C, AVX-512 Xeon, where a copy of the image takes 430 us).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastconv.kernels.plane_tiles import _number, _size, _vector_type
from fastconv.kernels.records import fields
from fastconv.kernels.vectors import fma, pointer, prefetch, vector_load, vector_store

# Taps along each axis, and rows of the output in a row pair.
TAPS, ROWS = 3, 2

Meetings = list[tuple[int, int, int]]


class Range(NamedTuple):
    """From and up to which position."""

    begin: int
    end: int


class Side(NamedTuple):
    """The pixels of an array that a tile reads or writes, in one vector of channels."""

    first: int  # element of the first row and column of the tile, which need not exist
    row_stride: int
    pixel_stride: int
    rows: Range  # that exist, counted from the tile's first: no others are read, multiplied or written
    columns: Range  # the same
    prefetched: int  # element from which on the cache lines that the next tiles need are prefetched


class Steps(NamedTuple):
    """How many steps there are; in those from ``low`` up to ``high`` all columns exist.

    Columns that are read and those that are finished or, in backward-weight, begun.
    """

    number: int
    low: int
    high: int


def relations(stride: int, back: int, rows: int = ROWS) -> tuple[Meetings, Meetings, int]:
    """What meets in a tile: (row read, row made, tap), the same of columns, and how many are begun.

    Rows are counted from the tile's first ones, columns from the first that a step reads and finishes.
    """
    if back:
        later = -(-TAPS // stride) - 1
        lines = [(t, i, i + stride * (later - t)) for t in range(later + 1) for i in range(stride)]
        columns, begun = [(0, s, s) for s in range(TAPS)], TAPS
    else:
        lines = [(stride * i + r, i, r) for i in range(rows) for r in range(TAPS)]
        begun = -(-TAPS // stride)
        columns = [(a, j, a + stride * (begun - 1 - j)) for a in range(stride) for j in range(begun)]
    return [m for m in lines if m[2] < TAPS], [m for m in columns if m[2] < TAPS], begun


class _Pixels:
    """The pixels of a side as code that is being made sees them; ``written`` where they are."""

    def __init__(self, builder: Any, vector: Any, array: Any, side: Any, rows: int, written: bool) -> None:
        self.builder, self.vector, self.written = builder, vector, written
        self.pixel, self.columns = side.pixel_stride, side.columns
        begin = builder.gep(array, [side.first])
        self.rows = [builder.gep(begin, [builder.mul(_number(t), side.row_stride)]) for t in range(rows)]
        self.exists = [_within(builder, _number(t), side.rows) for t in range(rows)]
        self.next = cgutils.alloca_once_value(builder, builder.gep(array, [side.prefetched]))

    def _address(self, row: int, column: Any) -> Any:
        return self.builder.gep(self.rows[row], [self.builder.mul(column, self.pixel)])

    def load(self, row: int, column: Any) -> Any:
        """The vector of a pixel."""
        return vector_load(self.builder, self._address(row, column), self.vector, _size(self.vector), None)

    def store(self, value: Any, row: int, column: Any) -> None:
        """Write the vector of a pixel."""
        address = self._address(row, column)
        vector_store(self.builder, value, address, self.vector, _size(self.vector), None)

    def where_exists(self, edge: bool, column: Any) -> Any:
        """A block of code that runs, at an edge, only where a column exists."""
        exists = _within(self.builder, column, self.columns) if edge else ir.Constant(ir.IntType(1), 1)
        return self.builder.if_then(exists)

    def prefetch(self, vectors: int) -> None:
        """The next vectors, one behind the other: those to be read into L2, those to be written into L1."""
        for _ in range(vectors):
            here = self.builder.load(self.next)
            prefetch(self.builder, here, self.written)
            self.builder.store(self.builder.gep(here, [_number(self.vector.count)]), self.next)


def _within(builder: Any, value: Any, positions: Any) -> Any:
    """Whether a number lies in a range."""
    after = builder.icmp_signed("<=", positions.begin, value)
    return builder.and_(after, builder.icmp_signed("<", value, positions.end))


def _every_step(builder: Any, steps: Any, step: Any) -> None:
    """``step(number, whether columns may be missing)`` for all steps."""
    low, high = steps.low, steps.high
    for first, stop, edge in [(_number(0), low, True), (low, high, False), (high, steps.number, True)]:
        with cgutils.for_range(builder, stop, start=first) as loop:
            step(loop.index, edge)


def _taps(builder: Any, first: Any, stride: Any) -> list[Any]:
    """Where the vector of each tap is, row by row."""
    return [builder.gep(first, [builder.mul(_number(n), stride)]) for n in range(TAPS * TAPS)]


@intrinsic
def row_pair_tile(typingctx, x, source, weights, bias, channel, channels, steps, stride, back, out, target):
    """Write one row pair.

    Parameters
    ----------
    x, out : 1-D float array
        ``out`` is written.
    source, target : Side
        Of ``x`` and of ``out``.
    weights : 1-D float array (taps, channels)
    bias : 1-D float array (channels,)
    channel, channels : int
        The first of the tile, and how many there are.
    steps : Steps
    stride : int
        1, or 2.
    back : int
        Whether a step finishes as many columns as the stride, which is 2: see `relations`.
    """
    whole = types.int64
    sig = types.void(x, source, weights, bias, whole, whole, steps, whole, whole, out, target)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        *_, wanted_stride, wanted_back, _, _ = arguments
        is_back = builder.icmp_signed("!=", wanted_back, _number(0))
        is_strided = builder.icmp_signed("==", wanted_stride, _number(2))
        with builder.if_else(is_back) as (backward, forward):
            with backward:
                _row_pair_tile(context, builder, sig, arguments, 2, 1)
            with forward, builder.if_else(is_strided) as (strided, dense):
                with strided:
                    _row_pair_tile(context, builder, sig, arguments, 2, 0)
                with dense:
                    _row_pair_tile(context, builder, sig, arguments, 1, 0)
        return context.get_dummy_value()

    return sig, codegen


def _row_pair_tile(context: Any, builder: Any, sig: Any, arguments: Any, stride: int, back: int) -> None:
    """The code of `row_pair_tile` for one stride and direction."""
    rows, columns, begun = relations(stride, back)
    read, finished = (1, stride) if back else (stride, 1)
    rows_read = 1 + max(t for t, _, _ in rows)
    # Rows of the source from one row pair to the next.
    new_rows = ROWS // stride if back else ROWS * stride
    x_kind, source_kind, weights_kind, bias_kind, _, _, steps_kind, _, _, out_kind, target_kind = sig.args
    x, source, weights, bias, channel, channels, steps, _, _, out, target = arguments
    vector = _vector_type(weights_kind)
    size = _size(vector)
    x, out = (
        pointer(context, builder, kind, array, _number(0)) for kind, array in ((x_kind, x), (out_kind, out))
    )
    source, target = (
        fields(context, builder, source_kind, source),
        fields(context, builder, target_kind, target),
    )
    source = _Pixels(builder, vector, x, source, rows_read, written=False)
    target = _Pixels(builder, vector, out, target, ROWS, written=True)
    first_weight = pointer(context, builder, weights_kind, weights, channel)
    places = _taps(builder, first_weight, channels)
    taps = [vector_load(builder, place, vector, size, None) for place in places]
    start = vector_load(builder, pointer(context, builder, bias_kind, bias, channel), vector, size, None)
    # Variables of the stack, which LLVM keeps in registers.
    sums = [[cgutils.alloca_once_value(builder, start) for _ in range(begun)] for _ in range(ROWS)]

    def multiply(t: int, a: int, value: Any) -> None:
        """What the pixel in row t and column a of a step gives."""
        for i, r in ((i, r) for row, i, r in rows if row == t):
            for j, s in ((j, s) for column, j, s in columns if column == a):
                total = fma(builder, vector, size, value, taps[r * TAPS + s], builder.load(sums[i][j]))
                builder.store(total, sums[i][j])

    def step(m: Any, edge: bool) -> None:
        for t in range(rows_read):
            with builder.if_then(source.exists[t]):
                for a in range(read):
                    column = builder.add(builder.mul(m, _number(read)), _number(a))
                    with source.where_exists(edge, column):
                        multiply(t, a, source.load(t, column))
        source.prefetch(read * new_rows)
        target.prefetch(finished * ROWS)
        for b in range(finished):
            column = builder.add(builder.mul(m, _number(finished)), _number(b))
            with target.where_exists(edge, column):
                for i in range(ROWS):
                    with builder.if_then(target.exists[i]):
                        target.store(builder.load(sums[i][b]), i, column)
        for row in sums:
            for j in range(begun):
                following = builder.load(row[j + finished]) if j + finished < begun else start
                builder.store(following, row[j])

    _every_step(builder, fields(context, builder, steps_kind, steps), step)


@intrinsic
def row_pair_sums(typingctx, x, source, dy, gradient, steps, stride, rows, sums, first_sum):
    """Add what one row pair gives to the gradients of its taps, all lanes apart.

    Parameters
    ----------
    x, dy : 1-D float array
        ``dy`` is the output's gradient, of which all rows exist.
    source, gradient : Side
        Of ``x`` and of ``dy``.
    steps : Steps
    stride : int
        1, or 2.
    rows : int
        Of the gradient: 2, or 1.
    sums : 1-D float array
        A vector for each tap, from ``first_sum`` on. Added to.
    """
    whole = types.int64
    sig = types.void(x, source, dy, gradient, steps, whole, whole, sums, whole)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        *_, wanted_stride, wanted_rows, _, _ = arguments
        for stride in (1, 2):
            for rows in range(1, ROWS + 1):
                same_stride = builder.icmp_signed("==", wanted_stride, _number(stride))
                same_rows = builder.icmp_signed("==", wanted_rows, _number(rows))
                with builder.if_then(builder.and_(same_stride, same_rows)):
                    _row_pair_sums(context, builder, sig, arguments, stride, rows)
        return context.get_dummy_value()

    return sig, codegen


def _row_pair_sums(context: Any, builder: Any, sig: Any, arguments: Any, stride: int, rows_made: int) -> None:
    """The code of `row_pair_sums` for one stride and number of rows."""
    rows, columns, begun = relations(stride, 0, rows_made)
    rows_read = 1 + max(t for t, _, _ in rows)
    x_kind, source_kind, dy_kind, gradient_kind, steps_kind, _, _, sums_kind, _ = sig.args
    x, source, dy, gradient, steps, _, _, sums, first_sum = arguments
    vector = _vector_type(sums_kind)
    size = _size(vector)
    x, dy = (
        pointer(context, builder, x_kind, x, _number(0)),
        pointer(context, builder, dy_kind, dy, _number(0)),
    )
    source = fields(context, builder, source_kind, source)
    gradient = fields(context, builder, gradient_kind, gradient)
    source = _Pixels(builder, vector, x, source, rows_read, written=False)
    gradient = _Pixels(builder, vector, dy, gradient, rows_made, written=False)
    zero = ir.Constant(vector, [0.0] * vector.count)
    totals = [cgutils.alloca_once_value(builder, zero) for _ in range(TAPS * TAPS)]
    # The columns of the gradient that a step meets.
    held = [[cgutils.alloca_once_value(builder, zero) for _ in range(begun)] for _ in range(rows_made)]

    def multiply(t: int, a: int, m: Any, value: Any, edge: bool) -> None:
        """What the pixel in row t and column a of a step gives."""
        for j, s in ((j, s) for column, j, s in columns if column == a):
            with gradient.where_exists(edge, builder.add(m, _number(j))):
                for i, r in ((i, r) for row, i, r in rows if row == t):
                    before = builder.load(totals[r * TAPS + s])
                    total = fma(builder, vector, size, value, builder.load(held[i][j]), before)
                    builder.store(total, totals[r * TAPS + s])

    def step(m: Any, edge: bool) -> None:
        for row in held:
            for j in range(begun - 1):
                builder.store(builder.load(row[j + 1]), row[j])
        newest = builder.add(m, _number(begun - 1))
        with gradient.where_exists(edge, newest):
            for i in range(rows_made):
                builder.store(gradient.load(i, newest), held[i][begun - 1])
        for t in range(rows_read):
            with builder.if_then(source.exists[t]):
                for a in range(stride):
                    column = builder.add(builder.mul(m, _number(stride)), _number(a))
                    with source.where_exists(edge, column):
                        multiply(t, a, m, source.load(t, column), edge)
        source.prefetch(stride * stride * rows_made)
        gradient.prefetch(rows_made)

    _every_step(builder, fields(context, builder, steps_kind, steps), step)
    memory = pointer(context, builder, sums_kind, sums, first_sum)
    for total, place in zip(totals, _taps(builder, memory, _number(vector.count)), strict=True):
        before = vector_load(builder, place, vector, size, None)
        vector_store(builder, builder.fadd(before, builder.load(total)), place, vector, size, None)
