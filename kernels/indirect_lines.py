"""Whole passes over small images in one call, with vectors that run along the lines of the output.

A *segment* is the part of an output line that one vector holds. A table says of each where it begins in the
source and in the output and how many of its lanes count, so the loops below know no axes. The source is the
image itself where there is neither padding nor stride, else a grid, a padded copy of its. The same
call packs the weights, and the products go to the output straight from the registers.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastconv.kernels.jit import inner, jit
from fastconv.kernels.vectors import (
    SUM,
    VECTOR_BITS,
    VECTOR_BYTES,
    fma,
    pointer,
    splat,
    vector_load,
    vector_store,
)

# A tile of so many filters has so many segments, or taps of a sum: accumulators fill the registers (32 with
# AVX-512, 16 without) that a step's loads leave.
if VECTOR_BITS == 512:
    MOST_FILTERS = 8
    SEGMENTS_OF = {1: 8, 2: 8, 3: 6, 4: 6, 5: 5, 6: 4, 7: 3, 8: 3}
    TAPS_OF = {1: 9, 2: 9, 3: 5, 4: 5, 5: 4, 6: 4, 7: 3, 8: 3}
else:
    MOST_FILTERS = 4
    SEGMENTS_OF = {1: 6, 2: 4, 3: 3, 4: 2, 5: 1, 6: 1, 7: 1, 8: 1}
    TAPS_OF = {1: 6, 2: 4, 3: 3, 4: 2, 5: 1, 6: 1, 7: 1, 8: 1}


# What a pass knows before it sees data is one array of int64 numbers: Numba looks at each argument of a call,
# 0.05 us for a number and 0.2 us for an array or a tuple. First come these numbers; then three rows, the box:
# extents of one phase of the grid, where it begins in the image, and the stride; then for images, groups and
# filters of each, where they stop and how many a job has.
GROUPS, FILTER_STRIDE, CHANNEL_STRIDE, DIRECT, SEVERAL, BLOCK, STEP, OFFSETS, PHASES = range(9)
BOX, JOBS, HEAD = 9, 18, 24


def pass_table(numbers: dict[int, int], box: Any, jobs: Any, offsets: Any, phases: Any) -> Any:
    """The numbers of a pass, for `convolve_lines` and `sum_lines`.

    Parameters
    ----------
    numbers : dict
        ``GROUPS``; ``FILTER_STRIDE`` and ``CHANNEL_STRIDE`` as in `pack_blocks`; ``DIRECT``, 0 where the
        sources are grids, else the cells from an image's first one to behind the last one that whole vectors
        read; ``SEVERAL`` images at a time; ``BLOCK`` filters and ``STEP`` segments, or taps, of a tile.
    box : three rows of three int
    jobs : (stop, step) of images, groups, and filters of each group
    offsets : int64 array (taps,)
        Of the first channel, in cells of the source.
    phases : int64 array (phases, 3)

    Returns
    -------
    int64 array
    """
    head = np.zeros(HEAD + len(offsets) + 3 * len(phases), np.int64)
    for place, number in (numbers | {OFFSETS: len(offsets), PHASES: len(phases)}).items():
        head[place] = number
    head[BOX:JOBS], head[JOBS:HEAD] = np.ravel(box), np.ravel(jobs)
    head[HEAD : HEAD + len(offsets)], head[HEAD + len(offsets) :] = offsets, np.ravel(phases)
    return head


def _float_vector(array_type: Any) -> tuple[Any, int]:
    """The vector of an array's elements, and the bytes of one."""
    size = array_type.dtype.bitwidth // 8
    return ir.VectorType(ir.FloatType() if size == 4 else ir.DoubleType(), VECTOR_BYTES // size), size


def _number(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _lanes_before(builder: Any, count: Any, lanes: int) -> Any:
    """Which lanes lie before ``count``: 32-bit integers compare in one vector."""
    integer = ir.IntType(32)
    limit = splat(builder, builder.trunc(count, integer), ir.VectorType(integer, lanes))
    return builder.icmp_signed("<", ir.Constant(limit.type, list(range(lanes))), limit)


def _lane_sums(builder: Any, vectors: list[Any]) -> Any:
    """A vector whose lane i is the sum of all lanes of ``vectors[i]``.

    A step puts two vectors into one and halves what is left of each, so that 24 sums of 16 lanes take 69
    instructions instead of 192: 5 to 8 % of a backward-weight pass over small images.
    """
    lanes = vectors[0].type.count
    integers = ir.VectorType(ir.IntType(32), lanes)
    width = lanes  # of what is left of one vector
    while width > 1:
        width //= 2
        low = [start + i for start in range(0, 2 * lanes, 2 * width) for i in range(width)]
        high = [lane + width for lane in low]
        vectors = vectors + vectors[-1:] if len(vectors) % 2 else vectors
        vectors = [
            builder.fadd(
                builder.shuffle_vector(a, b, ir.Constant(integers, low)),
                builder.shuffle_vector(a, b, ir.Constant(integers, high)),
            )
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


@intrinsic(prefer_literal=True)
def multiply_segments(
    typingctx, weights, first_weight, x, first_x, offsets, first_tap, taps, segments, first_segment, bias,
    first_bias, out, first_out, plane, some, filters,
):  # fmt: skip
    """Some filters over some segments: ``out[m, s] = bias[m] + sum over q of weights[q, m] * x[q, s]``.

    The sum over further taps than the first begins with zero and is added to what ``out`` holds.

    Parameters
    ----------
    weights : 1-D float array
        Packed: from ``first_weight``, a row of ``filters`` weights for each tap.
    x : 1-D float array
        Read in whole vectors from ``first_x + offsets[q] + segments[s, 0]``.
    offsets : 1-D int64 array
        One for each tap.
    first_tap, taps : int
        From which one on, and how many.
    segments : 1-D int64 array
        Rows (where in the source, where in the output, lanes), of which `SEGMENTS_OF` are taken.
    bias : 1-D float array
        From ``first_bias``, one for each filter.
    out : 1-D float array
        Filter m, segment s is written from ``first_out + m*plane + segments[s, 1]``.
    some : int
        So many of the filters are written.
    filters : literal int
    """
    whole = types.int64
    signature = types.void(
        weights, whole, x, whole, offsets, whole, whole, segments, whole, bias, whole, out, whole, whole,
        whole, filters,
    )  # fmt: skip
    return signature, _multiply_segments_code(filters.literal_value, SEGMENTS_OF[filters.literal_value])


def _multiply_segments_code(filters: int, count: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def address(n: int, start: Any) -> Any:
            return pointer(context, builder, signature.args[n], arguments[n], start)

        first_weight, first_x, first_tap, taps, first_segment, first_bias, first_out, plane, some = (
            arguments[n] for n in (1, 3, 5, 6, 8, 10, 12, 13, 14)
        )
        adding = builder.icmp_signed(">", first_tap, _number(0))
        vector, size = _float_vector(signature.args[2])
        weight, pixel, table = address(0, first_weight), address(2, first_x), address(4, first_tap)
        rows = address(7, builder.mul(first_segment, _number(3)))
        added, target = address(9, first_bias), address(11, first_out)

        def entry(s: int, column: int) -> Any:
            return builder.load(builder.gep(rows, [_number(3 * s + column)]))

        sources = [builder.gep(pixel, [entry(s, 0)]) for s in range(count)]
        zero = ir.Constant(vector.element, 0.0)
        first_parts = [builder.load(builder.gep(added, [_number(m)])) for m in range(filters)]
        begin = [splat(builder, builder.select(adding, zero, part), vector) for part in first_parts]
        before, loop = builder.block, builder.append_basic_block("taps")
        builder.branch(loop)
        builder.position_at_end(loop)
        q = builder.phi(ir.IntType(64))
        sums = [[builder.phi(vector) for _ in range(count)] for _ in range(filters)]
        offset = builder.load(builder.gep(table, [q]))
        loaded = [
            vector_load(builder, builder.gep(source, [offset]), vector, size, None) for source in sources
        ]
        row = builder.gep(weight, [builder.mul(q, _number(filters))])
        products = []
        for m in range(filters):
            factor = splat(builder, builder.load(builder.gep(row, [_number(m)])), vector)
            products.append([fma(builder, vector, size, factor, loaded[s], sums[m][s]) for s in range(count)])
        following = builder.add(q, _number(1))
        q.add_incoming(_number(0), before)
        q.add_incoming(following, loop)
        for m in range(filters):
            for s in range(count):
                sums[m][s].add_incoming(begin[m], before)
                sums[m][s].add_incoming(products[m][s], loop)
        store = builder.append_basic_block("store")
        builder.cbranch(builder.icmp_signed("<", following, taps), loop, store)

        builder.position_at_end(store)
        masks = [_lanes_before(builder, entry(s, 2), vector.count) for s in range(count)]
        targets = [builder.gep(target, [entry(s, 1)]) for s in range(count)]
        places = [
            [builder.gep(to, [builder.mul(plane, _number(m))]) for to in targets] for m in range(filters)
        ]
        results = [[cgutils.alloca_once_value(builder, product) for product in row] for row in products]
        # By a jump: to read nothing, lane by lane, waits for what was just stored there.
        with builder.if_then(adding, likely=False):
            for m, s in itertools.product(range(filters), range(count)):
                # Filters that there are not would lie behind the output, or in another one.
                is_one = builder.icmp_signed("<", _number(m), some)
                place = builder.select(is_one, places[m][s], places[0][s])
                there = vector_load(builder, place, vector, size, masks[s])
                builder.store(builder.fadd(there, products[m][s]), results[m][s])
        done = builder.append_basic_block("done")
        for m in range(filters):
            for s in range(count):
                vector_store(builder, builder.load(results[m][s]), places[m][s], vector, size, masks[s])
            if m + 1 < filters:
                more = builder.append_basic_block("filter")
                builder.cbranch(builder.icmp_signed(">", some, _number(m + 1)), more, done)
                builder.position_at_end(more)
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return codegen


@intrinsic(prefer_literal=True)
def pack_segments(typingctx, dy, first_dy, plane, segments, count, some, packed, filters):
    """Gradients of some filters, segment by segment in whole vectors, zero in lanes that do not count.

    Parameters
    ----------
    dy : 1-D float array
        Filter m, segment s begins at ``first_dy + m*plane + segments[s, 1]``.
    segments : 1-D int64 array
        Rows (where in the source, where in the output, lanes), of which ``count`` are taken.
    some : int
        So many of the filters exist; the others repeat the last of them.
    packed : 1-D float array
        Written: for each segment ``filters`` vectors.
    filters : literal int
    """
    whole = types.int64
    signature = types.void(dy, whole, whole, segments, whole, whole, packed, filters)
    return signature, _pack_segments_code(filters.literal_value)


def _pack_segments_code(filters: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def address(n: int, start: Any) -> Any:
            return pointer(context, builder, signature.args[n], arguments[n], start)

        vector, size = _float_vector(signature.args[0])
        gradient, rows, output = address(0, arguments[1]), address(3, _number(0)), address(6, _number(0))
        plane, count, some = arguments[2], arguments[4], arguments[5]
        last = builder.sub(some, _number(1))
        gradients = []
        for m in range(filters):
            there = builder.icmp_signed("<", _number(m), some)
            gradients.append(
                builder.gep(gradient, [builder.mul(builder.select(there, _number(m), last), plane)])
            )
        before, loop = builder.block, builder.append_basic_block("segments")
        done = builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        s = builder.phi(ir.IntType(64))
        row = builder.gep(rows, [builder.mul(s, _number(3))])
        start = builder.load(builder.gep(row, [_number(1)]))
        mask = _lanes_before(builder, builder.load(builder.gep(row, [_number(2)])), vector.count)
        target = builder.gep(output, [builder.mul(s, _number(filters * vector.count))])
        for m in range(filters):
            value = vector_load(builder, builder.gep(gradients[m], [start]), vector, size, mask)
            place = builder.gep(target, [_number(m * vector.count)])
            builder.store(value, builder.bitcast(place, vector.as_pointer())).align = size
        following = builder.add(s, _number(1))
        s.add_incoming(_number(0), before)
        s.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return codegen


@intrinsic(prefer_literal=True)
def sum_segments(typingctx, packed, x, first_x, offsets, first_tap, segments, count, tile, filters):
    """Sums of products along segments, for some filters and taps.

    ``tile[m, t] = sum over segments s and lanes of packed[s, m] * x[s, t]``; the lanes of a sum are added up
    at the end, in a fixed order. Cells of ``x`` in lanes that do not count are multiplied with zero: masked
    loads cost 20 against 16 cycles a step of 8 x 3 (float32, AVX-512 Xeon).

    Parameters
    ----------
    packed : 1-D float array
        From `pack_segments`.
    x : 1-D float array
        Read in whole vectors from ``first_x + offsets[first_tap + t] + segments[s, 0]``.
    offsets : 1-D int64 array
    segments : 1-D int64 array
        Rows (where in the source, where in the output, lanes), of which ``count``, at least 1, are taken.
    tile : 1-D float array
        Written: ``filters`` rows of `TAPS_OF` sums, up to a whole vector.
    filters : literal int
    """
    whole = types.int64
    signature = types.void(packed, x, whole, offsets, whole, segments, whole, tile, filters)
    return signature, _sum_segments_code(filters.literal_value, TAPS_OF[filters.literal_value])


def _sum_segments_code(filters: int, taps: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def address(n: int, start: Any) -> Any:
            return pointer(context, builder, signature.args[n], arguments[n], start)

        vector, size = _float_vector(signature.args[1])
        gradient, image, table = address(0, _number(0)), address(1, arguments[2]), address(3, arguments[4])
        rows, output, count = address(5, _number(0)), address(7, _number(0)), arguments[6]
        pixels = [builder.gep(image, [builder.load(builder.gep(table, [_number(t)]))]) for t in range(taps)]

        before, loop = builder.block, builder.append_basic_block("segments")
        done = builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        s = builder.phi(ir.IntType(64))
        sums = [[builder.phi(vector) for _ in range(taps)] for _ in range(filters)]
        start = builder.load(builder.gep(rows, [builder.mul(s, _number(3))]))
        columns = [vector_load(builder, builder.gep(a, [start]), vector, size, None) for a in pixels]
        source = builder.gep(gradient, [builder.mul(s, _number(filters * vector.count))])
        added = []
        for m in range(filters):
            row = vector_load(builder, builder.gep(source, [_number(m * vector.count)]), vector, size, None)
            added.append([fma(builder, vector, size, row, columns[t], sums[m][t]) for t in range(taps)])
        following = builder.add(s, _number(1))
        s.add_incoming(_number(0), before)
        s.add_incoming(following, loop)
        zero = ir.Constant(vector, [0.0] * vector.count)
        for m in range(filters):
            for t in range(taps):
                sums[m][t].add_incoming(zero, before)
                sums[m][t].add_incoming(added[m][t], loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
        builder.position_at_end(done)
        totals = [total for row in added for total in row]
        for first in range(0, len(totals), vector.count):
            sums_of = _lane_sums(builder, totals[first : first + vector.count])
            place = builder.gep(output, [_number(first)])
            builder.store(sums_of, builder.bitcast(place, vector.as_pointer())).align = size
        return context.get_dummy_value()

    return codegen


@inner
def multiply_some(
    block, weights, first_weight, x, first_x, offsets, first_tap, taps, segments, first, bias, first_bias,
    out, first_out, plane, some,
):  # fmt: skip
    """`multiply_segments` for ``block`` filters."""
    if block == 8:
        multiply_segments(
            weights, first_weight, x, first_x, offsets, first_tap, taps, segments, first, bias, first_bias,
            out, first_out, plane, some, 8,
        )  # fmt: skip
    elif block == 7:
        multiply_segments(
            weights, first_weight, x, first_x, offsets, first_tap, taps, segments, first, bias, first_bias,
            out, first_out, plane, some, 7,
        )  # fmt: skip
    elif block == 6:
        multiply_segments(
            weights, first_weight, x, first_x, offsets, first_tap, taps, segments, first, bias, first_bias,
            out, first_out, plane, some, 6,
        )  # fmt: skip
    elif block == 5:
        multiply_segments(
            weights, first_weight, x, first_x, offsets, first_tap, taps, segments, first, bias, first_bias,
            out, first_out, plane, some, 5,
        )  # fmt: skip
    elif block == 4:
        multiply_segments(
            weights, first_weight, x, first_x, offsets, first_tap, taps, segments, first, bias, first_bias,
            out, first_out, plane, some, 4,
        )  # fmt: skip
    elif block == 3:
        multiply_segments(
            weights, first_weight, x, first_x, offsets, first_tap, taps, segments, first, bias, first_bias,
            out, first_out, plane, some, 3,
        )  # fmt: skip
    elif block == 2:
        multiply_segments(
            weights, first_weight, x, first_x, offsets, first_tap, taps, segments, first, bias, first_bias,
            out, first_out, plane, some, 2,
        )  # fmt: skip
    else:
        multiply_segments(
            weights, first_weight, x, first_x, offsets, first_tap, taps, segments, first, bias, first_bias,
            out, first_out, plane, some, 1,
        )  # fmt: skip


@inner
def pack_some(block, dy, first_dy, plane, segments, count, some, packed):
    """`pack_segments` for ``block`` filters."""
    if block == 8:
        pack_segments(dy, first_dy, plane, segments, count, some, packed, 8)
    elif block == 7:
        pack_segments(dy, first_dy, plane, segments, count, some, packed, 7)
    elif block == 6:
        pack_segments(dy, first_dy, plane, segments, count, some, packed, 6)
    elif block == 5:
        pack_segments(dy, first_dy, plane, segments, count, some, packed, 5)
    elif block == 4:
        pack_segments(dy, first_dy, plane, segments, count, some, packed, 4)
    elif block == 3:
        pack_segments(dy, first_dy, plane, segments, count, some, packed, 3)
    elif block == 2:
        pack_segments(dy, first_dy, plane, segments, count, some, packed, 2)
    else:
        pack_segments(dy, first_dy, plane, segments, count, some, packed, 1)


@inner
def sum_some(block, packed, x, first_x, offsets, first_tap, segments, count, tile):
    """`sum_segments` for ``block`` filters."""
    if block == 8:
        sum_segments(packed, x, first_x, offsets, first_tap, segments, count, tile, 8)
    elif block == 7:
        sum_segments(packed, x, first_x, offsets, first_tap, segments, count, tile, 7)
    elif block == 6:
        sum_segments(packed, x, first_x, offsets, first_tap, segments, count, tile, 6)
    elif block == 5:
        sum_segments(packed, x, first_x, offsets, first_tap, segments, count, tile, 5)
    elif block == 4:
        sum_segments(packed, x, first_x, offsets, first_tap, segments, count, tile, 4)
    elif block == 3:
        sum_segments(packed, x, first_x, offsets, first_tap, segments, count, tile, 3)
    elif block == 2:
        sum_segments(packed, x, first_x, offsets, first_tap, segments, count, tile, 2)
    else:
        sum_segments(packed, x, first_x, offsets, first_tap, segments, count, tile, 1)


@inner
def parts_of(table):
    """Views of a `pass_table`: the box, offsets and phases."""
    phases = HEAD + table[OFFSETS]
    return table[BOX:JOBS].reshape(3, 3), table[HEAD:phases], table[phases:].reshape(table[PHASES], 3)


@inner
def job_of(table, job):
    """From and up to which image, group, and filter of each group."""
    group_jobs = (table[JOBS + 2] - 1) // table[JOBS + 3] + 1
    filter_jobs = (table[JOBS + 4] - 1) // table[JOBS + 5] + 1
    job, k = divmod(job, filter_jobs)
    n, g = divmod(job, group_jobs)
    n, g, k = n * table[JOBS + 1], g * table[JOBS + 3], k * table[JOBS + 5]
    return (
        (n, min(n + table[JOBS + 1], table[JOBS])),
        (g, min(g + table[JOBS + 3], table[JOBS + 2])),
        (k, min(k + table[JOBS + 5], table[JOBS + 4])),
    )


@inner
def list_offsets(first, channels, cells, padded):
    """Where the taps of all channels begin, ``cells`` from one channel to the next; zeros behind them."""
    offsets = np.zeros((channels * first.size + padded - 1) // padded * padded, np.int64)
    for c in range(channels):
        for t in range(first.size):
            offsets[c * first.size + t] = c * cells + first[t]
    return offsets


@inner
def list_segments(images, extent, box, cells, outputs, lanes):
    """Rows (where in the source, where in the output of one filter, lanes) of the lines of some images.

    ``cells`` and ``outputs`` are the steps from one image to the next.
    """
    depth, lines, columns = extent
    segments = np.empty(3 * images * depth * lines * ((columns - 1) // lanes + 1), np.int64)
    i = 0
    for n in range(images):
        for d in range(depth):
            for h in range(lines):
                for w in range(0, columns, lanes):
                    segments[i] = n * cells + (d * box[0, 1] + h) * box[0, 2] + w
                    segments[i + 1] = n * outputs + (d * lines + h) * columns + w
                    segments[i + 2] = min(lanes, columns - w)
                    i += 3
    return segments


@inner
def all_finite(array):
    """Whether every cell of a 1-D array is finite."""
    broken = False
    for i in range(array.size):
        broken |= array[i] - array[i] != 0
    return not broken


@inner
def fill_grid(x, image, first_channel, corner, stride, phases, grid):
    """Copy a padded part of an image, split into the phases of the stride that some tap reads.

    ``grid[c, n, i, j, k] = x[image, first_channel + c, corner + (i, j, k)*stride + phases[n]]``, zero outside
    the image.

    Parameters
    ----------
    x : float array (N, C, D, H, W)
    image, first_channel : int
    corner : tuple of three int
        Where the grid begins in the image; negative in the padding.
    stride : tuple of three int
    phases : int64 array (phases, 3)
    grid : float array (channels, phases, depth, height, width)
        Written.
    """
    depth, height, width = x.shape[2:]
    lines, columns = grid.shape[3:]
    for c in range(grid.shape[0]):
        plane = x[image, first_channel + c]
        for n in range(grid.shape[1]):
            phase = grid[c, n]
            first_w = corner[2] + phases[n, 2]
            # The columns of the grid that lie in the image: left <= k < right.
            left = min(columns, max(0, -(first_w // stride[2])))
            right = max(left, min(columns, (width - 1 - first_w) // stride[2] + 1))
            w = max(0, first_w + left * stride[2])
            for i in range(grid.shape[2]):
                d = corner[0] + i * stride[0] + phases[n, 0]
                for j in range(lines):
                    h = corner[1] + j * stride[1] + phases[n, 1]
                    if d < 0 or d >= depth or h < 0 or h >= height:
                        for k in range(columns):
                            phase[i, j, k] = 0
                        continue
                    for k in range(left):
                        phase[i, j, k] = 0
                    if stride[2] == 1:
                        for k in range(right - left):
                            phase[i, j, left + k] = plane[d, h, w + k]
                    else:
                        for k in range(right - left):
                            phase[i, j, left + k] = plane[d, h, w + k * stride[2]]
                    for k in range(right, columns):
                        phase[i, j, k] = 0


@inner
def fill_image(x, image, first_channel, box, phases, grid):
    """Copy some channels of an image to a grid that is zero where its padding lies.

    Parameters
    ----------
    x : float array (N, C, D, H, W)
    image, first_channel : int
    box : int64 array (3, 3)
        Extents of one phase of the grid, where it begins in the image, and the stride.
    phases : int64 array (phases, 3)
    grid : float array (channels, phases, depth, height, width), C-contiguous
        Written; cells of the padding only where there is a stride.
    """
    if box[2, 0] != 1 or box[2, 1] != 1 or box[2, 2] != 1:
        corner, stride = (box[1, 0], box[1, 1], box[1, 2]), (box[2, 0], box[2, 1], box[2, 2])
        fill_grid(x, image, first_channel, corner, stride, phases, grid)
        return
    d, h, w = max(0, -box[1, 0]), max(0, -box[1, 1]), max(0, -box[1, 2])
    from_d, from_h, from_w = max(0, box[1, 0]), max(0, box[1, 1]), max(0, box[1, 2])
    planes = min(box[0, 0] - d, x.shape[2] - from_d)
    lines = min(box[0, 1] - h, x.shape[3] - from_h)
    columns = min(box[0, 2] - w, x.shape[4] - from_w)
    for c in range(grid.shape[0]):
        for i in range(planes):
            for j in range(lines):
                source = x[image, first_channel + c, from_d + i, from_h + j]
                target = grid[c, 0, d + i, h + j]
                for k in range(columns):
                    target[w + k] = source[from_w + k]


@inner
def pack_blocks(w, filter_stride, channel_stride, channels, taps, filters, packed):
    """Weights in rows of a block's filters, one row a tap, with zeros for filters that are not there.

    Parameters
    ----------
    w : 1-D float array
        The weights of all groups.
    filter_stride, channel_stride : int
        Cells from one filter of a group to the next, and from one channel to the next.
    channels, taps : int
        Of a group, of the kernel.
    filters : tuple of two int
        From and up to which filter of each group.
    packed : float array (groups, blocks, channels * taps, filters of a block)
        Written.
    """
    groups, blocks, _, block = packed.shape
    for g in range(groups):
        first = g * (w.size // groups)
        for b in range(blocks):
            rows = packed[g, b]
            for m in range(block):
                k = filters[0] + b * block + m
                place = first + k * filter_stride
                for c in range(channels):
                    for t in range(taps):
                        cell = max(0, place + c * channel_stride + t)
                        rows[c * taps + t, m] = w[cell] if k < filters[1] else 0


@inner
def take_images(x, flat, first_image, count, group, channels, direct, box, phases, memory):
    """Where the source of some images begins, in ``flat`` or, if that is -1, at the start of ``memory``.

    Whole vectors are read: the lanes behind the last segment, which do not count, must be there. Images are
    read where they are if that is so, else copied; with padding or a stride they become grids.
    """
    image_cells = x.shape[1] * x.shape[2] * x.shape[3] * x.shape[4]
    first_channel = group * channels
    if direct:
        first = first_image * image_cells + first_channel * (image_cells // x.shape[1])
        behind = first + (count - 1) * image_cells + direct
        if behind <= flat.size:
            return first
        for i in range(flat.size - first):
            memory[i] = flat[max(0, first + i)]
        return -1
    depth, height, width = box[0, 0], box[0, 1], box[0, 2]
    cells = channels * len(phases) * depth * height * width
    for n in range(count):
        grid = memory[n * cells : (n + 1) * cells].reshape(channels, len(phases), depth, height, width)
        fill_image(x, first_image + n, first_channel, box, phases, grid)
    return -1


@jit
def convolve_lines(x, w, bias, out, table, job):
    """Convolve some images, groups and filters of each; returns whether all weights are finite.

    Parameters
    ----------
    x : float array (N, C, D, H, W), C-contiguous
    w : float array, C-contiguous
        The weights of all groups.
    bias : float array (K,), or of size 0
    out : float array (N, K, OD, OH, OW), C-contiguous
    table : int64 array
        From `pass_table`. So many images as it names share tiles, so that few tiles are not full.
    job : int
        Which of the table's.
    """
    box, first_offsets, phases = parts_of(table)
    images, some_groups, filters = job_of(table, job)
    groups, several, block, step, direct = (
        table[GROUPS], table[SEVERAL], table[BLOCK], table[STEP], table[DIRECT]
    )  # fmt: skip
    weights, flat, target = w.reshape(w.size), x.reshape(x.size), out.reshape(out.size)
    channels, group_filters = x.shape[1] // groups, out.shape[1] // groups
    lanes = VECTOR_BYTES // x.itemsize
    plane = out.shape[2] * out.shape[3] * out.shape[4]
    channel_cells = (1 if direct else len(phases)) * box[0, 0] * box[0, 1] * box[0, 2]
    cells = x.size // x.shape[0] if direct else channels * channel_cells
    offsets = list_offsets(first_offsets, channels, channel_cells, 1)
    segments = list_segments(several, out.shape[2:], box, cells, out.shape[1] * plane, lanes)
    count = filters[1] - filters[0]
    blocks = -(-count // block)
    packed = np.empty((groups, blocks, len(offsets), block), w.dtype)
    strides = table[FILTER_STRIDE], table[CHANNEL_STRIDE]
    pack_blocks(weights, strides[0], strides[1], channels, len(offsets) // channels, filters, packed)
    rows = packed.reshape(packed.size)
    added = np.zeros(blocks * block, w.dtype)
    memory = np.zeros(several * cells + lanes, x.dtype)
    tail = np.zeros(3 * step, np.int64)
    for first_image in range(images[0], images[1], several):
        taken = min(several, images[1] - first_image)
        present = segments.size // (3 * several) * taken
        whole = present // step * step
        for i in range(3 * step):  # rows without lanes fill the last tile
            tail[i] = segments[3 * whole + i] if 3 * whole + i < 3 * present else 0
        for group in range(some_groups[0], some_groups[1]):
            start = take_images(x, flat, first_image, taken, group, channels, direct, box, phases, memory)
            source, start = (memory, 0) if start < 0 else (flat, start)
            first_filter = group * group_filters + filters[0]
            if bias.size > 0:
                for k in range(count):
                    added[k] = bias[first_filter + k]
            for b in range(blocks):
                row, k = (group * blocks + b) * len(offsets) * block, b * block
                cell = (first_image * out.shape[1] + first_filter + k) * plane
                for tap in range(0, len(offsets), SUM):
                    taps = min(SUM, len(offsets) - tap)
                    first = row + tap * block
                    for s in range(0, whole, step):
                        multiply_some(
                            block, rows, first, source, start, offsets, tap, taps, segments, s, added, k,
                            target, cell, plane, count - k,
                        )  # fmt: skip
                    if whole < present:
                        multiply_some(
                            block, rows, first, source, start, offsets, tap, taps, tail, 0, added, k, target,
                            cell, plane, count - k,
                        )  # fmt: skip
    return all_finite(weights)


@jit
def sum_lines(dy, x, sums, table, job):
    """The gradient of some filters of some groups, from some images; returns whether all of it is finite.

    Where it is not, zeros have met cells that are not finite: it is then to be computed in another way.

    Parameters
    ----------
    dy : float array (N, K, OD, OH, OW), C-contiguous
    x : float array (N, C, D, H, W), C-contiguous
    sums : float array (groups, filters, taps), C-contiguous
        Written: for the groups and filters that are asked for.
    table : int64 array
        From `pass_table`. So many images as it names are summed at a time: they and their gradients stay in a
        near cache.
    job : int
        Which of the table's.
    """
    box, first_offsets, phases = parts_of(table)
    images, some_groups, filters = job_of(table, job)
    groups, several, block, step, direct = (
        table[GROUPS], table[SEVERAL], table[BLOCK], table[STEP], table[DIRECT]
    )  # fmt: skip
    flat, gradient = x.reshape(x.size), dy.reshape(dy.size)
    channels, group_filters = x.shape[1] // groups, dy.shape[1] // groups
    plane = dy.shape[2] * dy.shape[3] * dy.shape[4]
    lanes = VECTOR_BYTES // x.itemsize
    channel_cells = (1 if direct else len(phases)) * box[0, 0] * box[0, 1] * box[0, 2]
    cells = x.size // x.shape[0] if direct else channels * channel_cells
    offsets = list_offsets(first_offsets, channels, channel_cells, step)
    segments = list_segments(several, dy.shape[2:], box, cells, dy.shape[1] * plane, lanes)
    memory = np.zeros(several * cells + lanes, x.dtype)
    tile = np.empty(block * step + lanes, x.dtype)
    # Aligned to vectors: loads that split a cache line run at half the speed.
    packed = np.empty((segments.size // 3 * block + 1) * lanes, x.dtype)
    packed = packed[-(packed.ctypes.data // x.itemsize) % lanes :]
    sums[some_groups[0] : some_groups[1], filters[0] : filters[1]] = 0
    finite = True
    for first_image in range(images[0], images[1], several):
        taken = min(several, images[1] - first_image)
        present = segments.size // (3 * several) * taken
        for group in range(some_groups[0], some_groups[1]):
            start = take_images(x, flat, first_image, taken, group, channels, direct, box, phases, memory)
            source, start = (memory, 0) if start < 0 else (flat, start)
            for k in range(filters[0], filters[1], block):
                some = min(block, filters[1] - k)
                cell = (first_image * dy.shape[1] + group * group_filters + k) * plane
                pack_some(block, gradient, cell, plane, segments, present, some, packed)
                for q in range(0, len(offsets), step):
                    sum_some(block, packed, source, start, offsets, q, segments, present, tile)
                    for m in range(some):
                        for t in range(min(step, sums.shape[2] - q)):
                            sums[group, k + m, q + t] += tile[m * step + t]
    for group in range(some_groups[0], some_groups[1]):
        for k in range(filters[0], filters[1]):
            finite &= all_finite(sums[group, k])
    return finite
