"""Pooling windows a vector at a time, as LLVM vector code emitted through Numba.

Every lane of a vector reduces a window of its own. Lanes are neighbours along the width (a line of outputs,
channels first) or along the channels (one pixel, channels last). They read the same tap at the same time,
``spread`` apart in memory. What lies beside the input is masked, so that nothing is padded or copied and a
line shorter than a vector costs one step.

Cells count through one plane of the input, ``(d*H + h)*W + w``; positions count along the lanes' axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastconv.kernels.vectors import VECTOR_BYTES, lane_sum, pointer, splat, vector_load, vector_store

# How far apart lanes read.
CHANNELS = 0  # one element: the lanes are channels
UNIT = 1  # one element: the lanes are a line, as below
PAIRS = 2  # two: every other element of two loads
GATHER = 3  # any distance

_BOOL, _INT32, _INT64, _DOUBLE = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.DoubleType()
_UNTAKEN = -(2**31)  # where no cell has been the maximum yet


class _Lanes:
    """What the codegen of one vector of windows needs: types, masks, loads and stores."""

    def __init__(self, builder: Any, dtype: Any, spread: int, masked: bool, lane_stride: Any) -> None:
        self.builder = builder
        self.size = dtype.bitwidth // 8
        self.count = VECTOR_BYTES // self.size
        self.element = ir.FloatType() if self.size == 4 else _DOUBLE
        self.vector = ir.VectorType(self.element, self.count)
        self.spread, self.masked = spread, masked
        # A stride that is known lets LLVM fold the offsets.
        stride = ir.Constant(_INT32, spread) if spread < GATHER else builder.trunc(lane_stride, _INT32)
        # How many cells of a line each lane is from the first.
        self.offsets = builder.mul(
            self.numbers(self.count), splat(builder, stride, self.integers(self.count))
        )

    def integers(self, count: int) -> Any:
        return ir.VectorType(_INT32, count)

    def numbers(self, count: int) -> Any:
        return ir.Constant(self.integers(count), list(range(count)))

    def splat(self, value: Any, count: int) -> Any:
        """An int64 in every lane, as an int32: planes that vectors work on have fewer than 2**31 cells."""
        return splat(self.builder, self.builder.trunc(value, _INT32), self.integers(count))

    def inside(self, offsets: Any, position: Any, limit: Any) -> Any:
        """Which lanes have ``0 <= position + offset < limit``, by one comparison without signs."""
        count = offsets.type.count
        positions = self.builder.add(offsets, self.splat(position, count))
        return self.builder.icmp_unsigned("<", positions, self.splat(limit, count))

    def valid(self, position: Any, limit: Any) -> Any:
        """Which lanes' cells exist (None: all of them)."""
        if not self.masked:
            return None
        offsets = self.numbers(self.count) if self.spread == CHANNELS else self.offsets
        return self.inside(offsets, position, limit)

    def load(self, address: Any, position: Any, limit: Any, valid: Any) -> Any:
        """One cell a lane; zero where it does not exist."""
        builder, count = self.builder, self.count
        if self.spread < PAIRS:
            return vector_load(builder, address, self.vector, self.size, valid)
        if self.spread == GATHER:
            return self._gather(address, valid)
        double = ir.VectorType(self.element, 2 * count)
        mask = self.inside(self.numbers(2 * count), position, limit) if self.masked else None
        cells = vector_load(builder, address, double, self.size, mask)
        even = ir.Constant(self.integers(count), list(range(0, 2 * count, 2)))
        return builder.shuffle_vector(cells, ir.Constant(double, ir.Undefined), even)

    def _places(self, address: Any, valid: Any) -> list[Any]:
        """Every lane's own address, and what else a gather or a scatter is told: the alignment, the mask."""
        builder, count = self.builder, self.count
        distances = builder.sext(self.offsets, ir.VectorType(_INT64, count))
        pointers = builder.gep(address, [distances], source_etype=self.element)
        pointers.type = ir.VectorType(pointers.type, count)  # which llvmlite does not conclude
        mask = valid or ir.Constant(ir.VectorType(_BOOL, count), [1] * count)
        return [pointers, ir.Constant(_INT32, self.size), mask]

    def _gather(self, address: Any, valid: Any) -> Any:
        return self._call(
            "gather",
            self.vector,
            [*self._places(address, valid), ir.Constant(self.vector, [0.0] * self.count)],
        )

    def scatter(self, values: Any, address: Any, valid: Any) -> None:
        """Store one cell a lane, where it exists."""
        self._call("scatter", ir.VoidType(), [values, *self._places(address, valid)])

    def _call(self, name: str, result: Any, arguments: list[Any]) -> Any:
        signature = ir.FunctionType(result, [argument.type for argument in arguments])
        name = f"llvm.masked.{name}.v{self.count}f{8 * self.size}.v{self.count}p0"
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, signature, name), arguments
        )

    def stored(self, count: Any) -> Any:
        """The first ``count`` lanes (None: all of them)."""
        if not self.masked:
            return None
        return self.builder.icmp_signed("<", self.numbers(self.count), self.splat(count, self.count))

    def wide(self, values: Any) -> Any:
        """As doubles."""
        doubles = ir.VectorType(_DOUBLE, self.count)
        return self.builder.fpext(values, doubles) if self.size == 4 else values

    def narrow(self, values: Any) -> Any:
        """Doubles as elements."""
        return self.builder.fptrunc(values, self.vector) if self.size == 4 else values

    def store(self, values: Any, address: Any, count: Any) -> None:
        """Store all lanes, or with masks the first ``count``."""
        builder, vector = self.builder, values.type
        size = 8 if isinstance(vector.element, (ir.IntType, ir.DoubleType)) else 4
        address = builder.bitcast(address, vector.as_pointer())
        if not self.masked:
            builder.store(values, address).align = size
            return
        mask = builder.icmp_signed("<", self.numbers(vector.count), self.splat(count, vector.count))
        kind = "i" if isinstance(vector.element, ir.IntType) else "f"
        name = f"llvm.masked.store.v{vector.count}{kind}{8 * size}.p0"
        signature = ir.FunctionType(ir.VoidType(), [vector, address.type, _INT32, mask.type])
        function = cgutils.get_or_insert_function(builder.module, signature, name)
        builder.call(function, [values, address, ir.Constant(_INT32, size), mask])


@contextmanager
def _each_tap(builder: Any, taps: list[Any], steps: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Loops over the taps: how many cells each is from the first, and which one it is along the width."""
    with (
        cgutils.for_range(builder, taps[0]) as d,
        cgutils.for_range(builder, taps[1]) as h,
        cgutils.for_range(builder, taps[2]) as w,
    ):
        line = builder.add(builder.mul(d.index, steps[0]), builder.mul(h.index, steps[1]))
        yield builder.add(line, builder.mul(w.index, steps[2])), w.index


def _each_way(builder: Any, spread: Any, masked: Any) -> Iterator[bool]:
    """With masks and, but for `GATHER`, without: what is emitted for a way runs where ``masked`` says so."""
    ways = (True,) if spread.literal_value == GATHER else (True, False)
    for way in ways:
        with builder.if_then(builder.icmp_signed("==", masked, ir.Constant(_INT64, int(way)))):
            yield way


def _values(builder: Any, values: Any) -> list[Any]:
    """What a tuple holds."""
    return [builder.extract_value(values, axis) for axis in range(values.type.count)]


@intrinsic(prefer_literal=True)
def max_lanes(
    typingctx, x, origin, scale, cell, taps, steps, position, position_step, limit, lane_stride,
    out, indices, place, count, spread, masked,
):  # fmt: skip
    """The maximum of one window a lane, and where it stood.

    The first maximum in row-major order wins; the first NaN is the maximum. Without a cell the maximum is
    -inf and the index -1.

    Parameters
    ----------
    x : 1-D float array
        The first lane's tap (d, h, w) is ``x[origin + scale*(cell + (d, h, w).steps)]``.
    origin, scale, cell : int
    taps, steps : tuple of three int
        How many taps along each axis, and how many cells apart.
    position, position_step, limit : int
        The first lane's position at the first tap, what a tap along the width adds to it, and how many
        positions exist.
    lane_stride : int
        How many cells apart the lanes' windows are (1 for `UNIT`, 2 for `PAIRS`; not read for `CHANNELS`).
    out : 1-D float array
        Written from ``place`` on.
    indices : 1-D int64 array, or of size 0
        Written like ``out``: cells.
    place, count : int
        How many lanes are stored; only with ``masked``, else all of them.
    spread : literal int
        `CHANNELS`, `UNIT`, `PAIRS` or `GATHER`.
    masked : int
        0 where every lane has a cell at every tap and is stored (`PAIRS` reads one cell more), else 1.
        `GATHER` is always masked.
    """
    whole, three = types.int64, types.UniTuple(types.int64, 3)
    signature = types.void(
        x, whole, whole, whole, three, three, whole, whole, whole, whole, out, indices, whole, whole,
        spread, whole,
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for way in _each_way(builder, spread, arguments[15]):
            lanes = _Lanes(builder, signature.args[0].dtype, spread.literal_value, way, arguments[9])
            _max_code(context, lanes, signature, arguments)
        return context.get_dummy_value()

    return signature, codegen


def _max_code(context: Any, lanes: _Lanes, signature: Any, arguments: Any) -> None:
    x, origin, scale, cell, taps, steps, position, position_step, limit, _ = arguments[:10]
    out, indices, place, count = arguments[10:14]
    x_type, (out_type, indices_type) = signature.args[0], signature.args[10:12]
    builder, masked = lanes.builder, lanes.masked
    integers = lanes.integers(lanes.count)
    untaken = ir.Constant(integers, [_UNTAKEN] * lanes.count)
    best = cgutils.alloca_once(builder, lanes.vector)
    where = cgutils.alloca_once(builder, integers)
    builder.store(ir.Constant(lanes.vector, [float("-inf")] * lanes.count), best)
    builder.store(untaken if masked else lanes.splat(cell, lanes.count), where)
    with _each_tap(builder, _values(builder, taps), _values(builder, steps)) as (offset, w):
        tap = builder.add(cell, offset)
        here = builder.add(position, builder.mul(w, position_step))
        address = pointer(context, builder, x_type, x, builder.add(origin, builder.mul(scale, tap)))
        valid = lanes.valid(here, limit)
        value = lanes.load(address, here, limit, valid)
        so_far, place_so_far = builder.load(best), builder.load(where)
        # Larger, or a NaN (true where not value <= so_far), unless a NaN stands there already.
        take = builder.fcmp_unordered(">", value, so_far)
        if masked:
            take = builder.or_(take, builder.icmp_signed("==", place_so_far, untaken))
            take = builder.and_(take, valid)
        take = builder.and_(take, builder.fcmp_ordered("ord", so_far, so_far))
        builder.store(builder.select(take, value, so_far), best)
        builder.store(builder.select(take, lanes.splat(tap, lanes.count), place_so_far), where)
    lanes.store(builder.load(best), pointer(context, builder, out_type, out, place), count)
    found = builder.load(where)
    index = found if lanes.spread == CHANNELS else builder.add(found, lanes.offsets)
    if masked:
        nowhere = ir.Constant(integers, [-1] * lanes.count)
        index = builder.select(builder.icmp_signed("==", found, untaken), nowhere, index)
    size = cgutils.create_struct_proxy(indices_type)(context, builder, value=indices).nitems
    with builder.if_then(builder.icmp_signed(">", size, ir.Constant(_INT64, 0))):
        wide = builder.sext(index, ir.VectorType(_INT64, lanes.count))
        lanes.store(wide, pointer(context, builder, indices_type, indices, place), count)


@intrinsic(prefer_literal=True)
def tie_lanes(
    typingctx, x, out, cell, position, limit, lane_stride, maxima, first_maximum, grad, place, count, both,
    spread, masked,
):  # fmt: skip
    """Add each lane's gradient to the cell at one tap of its window, if that is the maximum; NaN equals NaN.

    Parameters
    ----------
    x, out : 1-D float array
        The first lane's cell is ``x[cell]``; ``out`` is added to where ``x`` is read.
    cell : int
    position, limit, lane_stride
        As in `max_lanes`, at this tap.
    maxima, grad : 1-D float array
        Every lane's, from ``first_maximum`` and from ``place`` on.
    first_maximum, place : int
    count : int
        So many lanes there are; only with ``masked``, else all of them.
    both : int
        Not 0 to take the next cell too, for the tap that follows; only with `PAIRS`.
    spread, masked
        As in `max_lanes`.
    """
    whole = types.int64
    signature = types.void(
        x, out, whole, whole, whole, whole, maxima, whole, grad, whole, whole, whole, spread, whole
    )

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for way in _each_way(builder, spread, arguments[13]):
            lanes = _Lanes(builder, signature.args[0].dtype, spread.literal_value, way, arguments[5])
            _tie_code(context, lanes, signature, arguments)
        return context.get_dummy_value()

    return signature, codegen


def _tie_code(context: Any, lanes: _Lanes, signature: Any, arguments: Any) -> None:
    _, _, cell, position, limit, _, _, first_maximum, _, place, count, both, _, _ = arguments
    builder, kinds = lanes.builder, signature.args
    source, target, maxima, grad = (
        pointer(context, builder, kinds[i], arguments[i], first)
        for i, first in ((0, cell), (1, cell), (6, first_maximum), (8, place))
    )
    best = vector_load(builder, maxima, lanes.vector, lanes.size, None)
    share = vector_load(builder, grad, lanes.vector, lanes.size, lanes.stored(count))
    valid = lanes.valid(position, limit)
    if lanes.spread == PAIRS:  # two cells a lane, of which the second may not be of this tap
        two = 2 * lanes.count
        order = ir.Constant(lanes.integers(two), [i // 2 for i in range(two)])
        best, share = builder.shuffle_vector(best, best, order), builder.shuffle_vector(share, share, order)
        valid = lanes.inside(lanes.numbers(two), position, limit) if lanes.masked else None
        mask = splat(
            builder, builder.icmp_signed("!=", both, ir.Constant(_INT64, 0)), ir.VectorType(_BOOL, two)
        )
        mask = builder.or_(mask, ir.Constant(mask.type, [1, 0] * lanes.count))
        share = builder.select(mask, share, ir.Constant(share.type, [0.0] * two))

    def load(address: Any) -> Any:
        if lanes.spread == GATHER:
            return lanes.load(address, position, limit, valid)
        return vector_load(builder, address, best.type, lanes.size, valid)

    value, so_far = load(source), load(target)
    both_nan = builder.fcmp_unordered("uno", best, best)
    both_nan = builder.and_(both_nan, builder.fcmp_unordered("uno", value, value))
    equal = builder.or_(builder.fcmp_ordered("==", value, best), both_nan)
    total = builder.select(equal, builder.fadd(so_far, share), so_far)
    if lanes.spread == GATHER:
        lanes.scatter(total, target, valid)
    else:
        vector_store(builder, total, target, best.type, lanes.size, valid)


@intrinsic(prefer_literal=True)
def mean_lanes(
    typingctx, x, origin, scale, cell, taps, steps, position, position_step, limit, lane_stride,
    factor, factors, first_factor, out, place, count, spread, masked,
):  # fmt: skip
    """The sum of one window a lane, in float64, times the lane's factor.

    Parameters
    ----------
    x, origin, scale, cell, taps, steps, position, position_step, limit, lane_stride
        As in `max_lanes`.
    factor : float
    factors : 1-D float64 array
        Lane i of a line multiplies by ``factor * factors[first_factor + i]``, channels all by ``factor``.
    first_factor : int
    out : 1-D float array
        Written from ``place`` on.
    place, count, spread, masked
        As in `max_lanes`.
    """
    whole, three = types.int64, types.UniTuple(types.int64, 3)
    signature = types.void(
        x, whole, whole, whole, three, three, whole, whole, whole, whole, types.float64, factors, whole,
        out, whole, whole, spread, whole,
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for way in _each_way(builder, spread, arguments[17]):
            lanes = _Lanes(builder, signature.args[0].dtype, spread.literal_value, way, arguments[9])
            _mean_code(context, lanes, signature, arguments)
        return context.get_dummy_value()

    return signature, codegen


def _mean_code(context: Any, lanes: _Lanes, signature: Any, arguments: Any) -> None:
    x, origin, scale, cell, taps, steps, position, position_step, limit, _ = arguments[:10]
    factor, factors, first_factor, out, place, count = arguments[10:16]
    x_type, factors_type, out_type = (signature.args[i] for i in (0, 11, 13))
    builder = lanes.builder
    total = _window_sums(
        context, lanes, x_type, x, builder.add(origin, builder.mul(scale, cell)), scale,
        _values(builder, taps), _values(builder, steps), position, position_step, limit,
    )  # fmt: skip
    share = splat(builder, factor, total.type)
    if lanes.spread != CHANNELS:
        address = pointer(context, builder, factors_type, factors, first_factor)
        share = builder.fmul(share, vector_load(builder, address, total.type, 8, lanes.stored(count)))
    lanes.store(
        lanes.narrow(builder.fmul(total, share)), pointer(context, builder, out_type, out, place), count
    )


def _window_sums(
    context: Any, lanes: _Lanes, x_type: Any, x: Any, first: Any, scale: Any, taps: list[Any],
    steps: list[Any], position: Any, position_step: Any, limit: Any,
) -> Any:  # fmt: skip
    """The sums of one window a lane, as doubles; the first lane's first tap is ``x[first]``."""
    builder = lanes.builder
    doubles = ir.VectorType(_DOUBLE, lanes.count)
    total = cgutils.alloca_once(builder, doubles)
    builder.store(ir.Constant(doubles, [0.0] * lanes.count), total)
    with _each_tap(builder, taps, steps) as (offset, w):
        here = builder.add(position, builder.mul(w, position_step))
        address = pointer(context, builder, x_type, x, builder.add(first, builder.mul(scale, offset)))
        value = lanes.wide(lanes.load(address, here, limit, lanes.valid(here, limit)))
        builder.store(builder.fadd(builder.load(total), value), total)
    return builder.load(total)


@intrinsic
def pair_lanes(
    typingctx, x, origin, taps, steps, position, firsts, width_taps, limit, factor,
    out, place, count, lines, line_stride, masked,
):  # fmt: skip
    """Sums of two windows a lane, times ``factor``, side by side: cells of a line under windows two apart.

    Parameters
    ----------
    x : 1-D float array
        Lane i's taps along the width begin at ``x[origin + first + i]``, position ``position + first + i``.
    origin, position, limit : int
        Only positions from 0 to ``limit - 1`` exist.
    taps, steps : tuple of two int
        Along depth and height: how many, and how many elements apart.
    firsts, width_taps : tuple of two int
        Of the first and of the second window.
    factor : float
    out : 1-D float array
        Written: from ``place`` on, on each of ``lines`` lines.
    place, count, lines, line_stride : int
        ``count`` cells are stored; only with ``masked``, else two vectors.
    masked : int
        0 where all that is read exists and all is stored.
    """
    whole, two = types.int64, types.UniTuple(types.int64, 2)
    signature = types.void(
        x, whole, two, two, whole, two, two, whole, types.float64, out, whole, whole, whole, whole, whole
    )

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        is_masked = builder.icmp_signed("!=", arguments[14], ir.Constant(_INT64, 0))
        with builder.if_else(is_masked) as (some, all_of_them):
            with some:
                _pair_code(context, _Lanes(builder, x.dtype, UNIT, True, None), signature, arguments)
            with all_of_them:
                _pair_code(context, _Lanes(builder, x.dtype, UNIT, False, None), signature, arguments)
        return context.get_dummy_value()

    return signature, codegen


def _pair_code(context: Any, lanes: _Lanes, signature: Any, arguments: Any) -> None:
    x, origin, taps, steps, position, firsts, width_taps, limit, factor = arguments[:9]
    out, place, count, lines, line_stride = arguments[9:14]
    x_type, out_type = signature.args[0], signature.args[9]
    builder, one = lanes.builder, ir.Constant(_INT64, 1)
    means = []
    for first, along in zip(_values(builder, firsts), _values(builder, width_taps), strict=True):
        total = _window_sums(
            context, lanes, x_type, x, builder.add(origin, first), one,
            [*_values(builder, taps), along], [*_values(builder, steps), one],
            builder.add(position, first), one, limit,
        )  # fmt: skip
        means.append(lanes.narrow(builder.fmul(total, splat(builder, factor, total.type))))
    alternating = [i // 2 + i % 2 * lanes.count for i in range(2 * lanes.count)]
    both = builder.shuffle_vector(*means, ir.Constant(lanes.integers(2 * lanes.count), alternating))
    with cgutils.for_range(builder, lines) as loop:
        start = builder.add(place, builder.mul(loop.index, line_stride))
        lanes.store(both, pointer(context, builder, out_type, out, start), count)


@intrinsic
def route_lanes(typingctx, grad, indices, place, cell, width, out, first, count, masked):
    """Write a vector of windows of 2x2 cells that lie side by side: each one's gradient where it came from.

    Parameters
    ----------
    grad : 1-D float array
    indices : 1-D int64 array
        Which cell of the plane each gradient goes to.
    place : int
        The first window, in both.
    cell, width : int
        The first cell of the first window, and how many cells a line of the plane has.
    out : 1-D float array
        Written: two lines of two cells a window.
    first : int
        Where that first cell is in it.
    count : int
        So many windows; only with ``masked``, else a vector.
    masked : int

    Returns
    -------
    int
        0 if a gradient goes elsewhere, and nothing is written.
    """
    whole = types.int64
    signature = types.int64(grad, indices, whole, whole, whole, out, whole, whole, whole)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        routed = cgutils.alloca_once_value(builder, ir.Constant(_INT64, 0))
        is_masked = builder.icmp_signed("!=", arguments[8], ir.Constant(_INT64, 0))
        with builder.if_else(is_masked) as (some, all_of_them):
            with some:
                _route_code(
                    context, _Lanes(builder, grad.dtype, PAIRS, True, None), signature, arguments, routed
                )
            with all_of_them:
                _route_code(
                    context, _Lanes(builder, grad.dtype, PAIRS, False, None), signature, arguments, routed
                )
        return builder.load(routed)

    return signature, codegen


def _route_code(context: Any, lanes: _Lanes, signature: Any, arguments: Any, routed: Any) -> None:
    grad, indices, place, cell, width, out, first, count = arguments[:8]
    builder, n, kinds = lanes.builder, lanes.count, signature.args
    stored = lanes.stored(count)
    wholes, doubles = ir.VectorType(_INT64, n), ir.VectorType(_DOUBLE, n)
    # As doubles, for which there are masked loads.
    index = vector_load(builder, pointer(context, builder, kinds[1], indices, place), doubles, 8, stored)
    own = builder.add(splat(builder, cell, wholes), ir.Constant(wholes, list(range(0, 2 * n, 2))))
    distance = builder.sub(builder.bitcast(index, wholes), own)
    one = ir.Constant(_INT64, 1)
    cells = (ir.Constant(_INT64, 0), one, width, builder.add(width, one))
    here = [builder.icmp_signed("==", distance, splat(builder, c, wholes)) for c in cells]
    found = builder.or_(builder.or_(here[0], here[1]), builder.or_(here[2], here[3]))
    if stored is not None:
        found = builder.or_(found, builder.not_(stored))
    bits = ir.IntType(n)
    with builder.if_then(builder.icmp_unsigned("==", builder.bitcast(found, bits), ir.Constant(bits, -1))):
        zero = ir.Constant(lanes.vector, [0.0] * n)
        address = pointer(context, builder, kinds[0], grad, place)
        # A sum from zero on has no negative zeros.
        value = builder.fadd(vector_load(builder, address, lanes.vector, lanes.size, stored), zero)
        parts = [builder.select(mask, value, zero) for mask in here]
        order = ir.Constant(lanes.integers(2 * n), [i // 2 + i % 2 * n for i in range(2 * n)])
        for line in range(2):
            both = builder.shuffle_vector(parts[2 * line], parts[2 * line + 1], order)
            start = builder.add(first, width) if line else first
            two = ir.Constant(_INT64, 2)
            lanes.store(both, pointer(context, builder, kinds[5], out, start), builder.mul(two, count))
        builder.store(one, routed)


@intrinsic
def sum_cells(typingctx, x, first, count):
    """``sum of x[first : first + count]`` in float64, lanes first; at least one cell.

    Parameters
    ----------
    x : 1-D float array
    first, count : int
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, first, count = arguments
        lanes = _Lanes(builder, signature.args[0].dtype, UNIT, True, None)
        doubles = ir.VectorType(_DOUBLE, lanes.count)
        total = cgutils.alloca_once(builder, doubles)
        builder.store(ir.Constant(doubles, [0.0] * lanes.count), total)

        def add(done: Any, mask: Any) -> None:
            address = pointer(context, builder, signature.args[0], x, builder.add(first, done))
            value = vector_load(builder, address, lanes.vector, lanes.size, mask)
            builder.store(builder.fadd(builder.load(total), lanes.wide(value)), total)

        step = ir.Constant(_INT64, lanes.count)
        vectors = builder.sdiv(count, step)
        with cgutils.for_range(builder, vectors) as loop:
            add(builder.mul(loop.index, step), None)
        done = builder.mul(vectors, step)
        add(done, lanes.stored(builder.sub(count, done)))
        return lane_sum(builder, builder.load(total), lanes.count)

    return types.float64(x, types.int64, types.int64), codegen
