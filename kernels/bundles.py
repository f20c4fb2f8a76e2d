"""Grouped convolution with vectors along filters: a *bundle* is as many of them as a vector has lanes.

The channels of its group are brought to a band, one vector of them for every cell. So neighbouring cells lie
a whole vector apart, which the instructions themselves can say: one register points to all cells of a tile,
and each step multiplies a vector of weights with one channel of each cell, broadcast from memory. There is no
second vector of filters that would use what is broadcast again, as `fastconv.kernels.panels` has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastconv.kernels.bands import empty_band, fill_band, turn_cells
from fastconv.kernels.jit import jit, part
from fastconv.kernels.lanes import Vector
from fastconv.kernels.vectors import VECTOR_BYTES, fma, pointer, splat, vector_load, vector_store

# Cells of the tiles: fourteen sums and a vector of weights fit 16 registers, too.
CELLS, FEWER_CELLS = 14, 7
# Steps of a tile that are written out.
STEPS = 4
# Taps and channels (at most as many as lanes) of a tile of sums, which has a vector for each pair.
SUM_TAPS, SUM_CHANNELS = 3, 8 if VECTOR_BYTES == 64 else 4


@intrinsic(prefer_literal=True)
def bundle_tile(
    typingctx, band, first, segments, packed, first_row, row_step, bias, first_bias, y, first_out, out_step,
    cells,
):  # fmt: skip
    """``y[cell, :] = bias + sum over segments s, i of packed[row(s) + i, :] * band[cell, offset(s) + i]``.

    Parameters
    ----------
    band : 1-D float array
        Cells lie a vector apart, from element ``first`` on.
    segments : int64 array (segments, 3)
        Where each begins in a cell and in the weights, and how many channels it has.
    packed : 1-D float array
        From ``first_row`` on, vectors; ``row_step`` elements from one channel to the next.
    bias, y : 1-D float array
        A vector from ``first_bias`` on; and for each cell from ``first_out`` on, ``out_step`` apart.
    cells : literal int
        Of the tile.
    """
    whole = types.int64
    sig = types.void(
        band, whole, segments, packed, whole, whole, bias, whole, y, whole, whole, cells
    )  # fmt: skip

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        band, first, segments, packed, first_row, row_step, bias, first_bias, y, first_out, out_step = (
            arguments[:-1]
        )
        kind = Vector(sig.args[0].dtype)
        vector, size, lanes, index = kind.llvm, kind.size, kind.lanes, ir.IntType(64)

        def number(value: int) -> Any:
            return ir.Constant(index, value)

        zero = ir.Constant(vector, [0.0] * lanes)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(cells.literal_value)]
        table = cgutils.create_struct_proxy(sig.args[2])(context, builder, value=segments)
        begin = pointer(context, builder, sig.args[0], band, first)
        weights = pointer(context, builder, sig.args[3], packed, first_row)
        with cgutils.for_range(builder, cgutils.unpack_tuple(builder, table.shape, 2)[0]) as loop:
            row = builder.gep(table.data, [builder.mul(loop.index, number(3))])
            offset, first_of, steps = (builder.load(builder.gep(row, [number(i)])) for i in range(3))
            at = cgutils.alloca_once_value(builder, builder.gep(begin, [offset]))
            weight = cgutils.alloca_once_value(builder, builder.gep(weights, [first_of]))

            def step(count: int, at: Any = at, weight: Any = weight) -> None:
                here, rows = builder.load(at), builder.load(weight)
                for i in range(count):
                    values = vector_load(builder, rows, vector, size, None)
                    rows = builder.gep(rows, [row_step])
                    for m, total in enumerate(sums):
                        place = builder.gep(here, [number(m * lanes + i)])
                        factor = splat(builder, builder.load(place), vector)
                        builder.store(fma(builder, vector, size, factor, values, builder.load(total)), total)
                builder.store(builder.gep(here, [number(count)]), at)
                builder.store(rows, weight)

            with cgutils.for_range(builder, builder.sdiv(steps, number(STEPS))):
                step(STEPS)
            with cgutils.for_range(builder, builder.srem(steps, number(STEPS))):
                step(1)
        added = vector_load(
            builder, pointer(context, builder, sig.args[6], bias, first_bias), vector, size, None
        )
        place = pointer(context, builder, sig.args[8], y, first_out)
        for total in sums:
            vector_store(builder, builder.fadd(added, builder.load(total)), place, vector, size, None)
            place = builder.gep(place, [out_step])
        return context.get_dummy_value()

    return sig, codegen


@intrinsic(prefer_literal=True)
def bundle_sums(
    typingctx, dy, first_dy, band, first, offsets, first_tap, line_step, lines, across, sums, first_sum,
    tap_step, taps,
):  # fmt: skip
    """``sums[tap, c, :] += sum over lines, cells of dy[cell, :] * band[cell + offset(tap), c]``.

    Parameters
    ----------
    dy : 1-D float array
        From ``first_dy`` on ``lines`` times ``across`` vectors.
    band : 1-D float array
        Cells lie a vector apart, lines ``line_step`` elements, from ``first`` on.
    offsets : 1-D int64 array
        Of each tap, read from ``first_tap`` on.
    lines, across : int
    sums : 1-D float array
        Added to: from ``first_sum`` on `SUM_CHANNELS` vectors for each tap, ``tap_step`` elements apart.
    taps : literal int
        Of the tile.
    """
    whole = types.int64
    sig = types.void(
        dy, whole, band, whole, offsets, whole, whole, whole, whole, sums, whole, whole, taps
    )  # fmt: skip

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        dy, first_dy, band, first, offsets, first_tap, line_step, lines, across, sums, first_sum, tap_step = (
            arguments[:-1]
        )
        kind = Vector(sig.args[0].dtype)
        vector, size, lanes, index = kind.llvm, kind.size, kind.lanes, ir.IntType(64)

        def number(value: int) -> Any:
            return ir.Constant(index, value)

        zero = ir.Constant(vector, [0.0] * lanes)
        totals = [
            [cgutils.alloca_once_value(builder, zero) for _ in range(min(SUM_CHANNELS, lanes))]
            for _ in range(taps.literal_value)
        ]
        gradient = cgutils.alloca_once_value(builder, pointer(context, builder, sig.args[0], dy, first_dy))
        begin = pointer(context, builder, sig.args[2], band, first)
        table = pointer(context, builder, sig.args[4], offsets, first_tap)
        rows = [
            builder.gep(begin, [builder.load(builder.gep(table, [number(t)]))]) for t in range(len(totals))
        ]
        with cgutils.for_range(builder, lines) as line:
            skipped = builder.mul(line.index, line_step)
            cells = [cgutils.alloca_once_value(builder, builder.gep(row, [skipped])) for row in rows]
            with cgutils.for_range(builder, across):
                here = builder.load(gradient)
                values = vector_load(builder, here, vector, size, None)
                builder.store(builder.gep(here, [number(lanes)]), gradient)
                for cell, row_totals in zip(cells, totals, strict=True):
                    at = builder.load(cell)
                    for c, total in enumerate(row_totals):
                        factor = splat(builder, builder.load(builder.gep(at, [number(c)])), vector)
                        builder.store(fma(builder, vector, size, factor, values, builder.load(total)), total)
                    builder.store(builder.gep(at, [number(lanes)]), cell)
        place = pointer(context, builder, sig.args[9], sums, first_sum)
        for row_totals in totals:
            for c, total in enumerate(row_totals):
                target = builder.gep(place, [number(c * lanes)])
                before = vector_load(builder, target, vector, size, None)
                added = builder.fadd(before, builder.load(total))
                vector_store(builder, added, target, vector, size, None)
            place = builder.gep(place, [tap_step])
        return context.get_dummy_value()

    return sig, codegen


@jit
def pack_bundles(w, first, stop, elements, packed):
    """The weights (filters, elements) of some bundles as vectors along filters (bundles, elements, lanes)."""
    lanes = VECTOR_BYTES // w.itemsize
    square = np.empty(lanes * lanes, w.dtype)
    for bundle in range(first, stop):
        begin = bundle * lanes * elements
        turn_cells(w, begin, elements, lanes, elements, packed[begin:], lanes, square)


@jit
def turn_groups(w, groups, rows, columns, turned):
    """Matrices (rows, columns) of all groups, transposed."""
    lanes = VECTOR_BYTES // w.itemsize
    square = np.empty(lanes * lanes, w.dtype)
    for group in range(groups):
        begin = group * rows * columns
        turn_cells(w, begin, columns, rows, columns, turned[begin:], rows, square)


@part
def fill_bundle(x, image, number, channel, channels, phases, top, band, rows, columns, square):
    """Some lines of channels, from ``channel`` on, as a band (phases, blocks, rows, columns, lanes).

    A block has a vector of channels, a phase the columns that lie a stride apart: ``phases`` (phases, 4) has
    the first column of each, how far they lie apart, how many there are, and where the band begins.
    """
    lanes = VECTOR_BYTES // x.itemsize
    blocks = (channels + lanes - 1) // lanes
    for phase in range(phases.shape[0]):
        column, apart = phases[phase, 0], phases[phase, 1]
        for block in range(blocks):
            begin = image[0] + (channel + block * lanes) * image[2] + column * image[3]
            seen = (
                begin, image[1], image[2], image[3] * apart, image[4], phases[phase, 2], image[6], image[7],
                image[8],
            )  # fmt: skip
            fill_band(
                x, seen, number, 0, min(lanes, channels - block * lanes), (top, phases[phase, 3]),
                band[(phase * blocks + block) * rows * columns * lanes :], rows, columns, lanes, square,
            )  # fmt: skip


@part
def convolve_line(
    band, first, segments, packed, first_row, row_step, bias, first_bias, y, first_out, out_step, across,
):  # fmt: skip
    """A line of one bundle, tile by tile; the last one may repeat cells of the one before."""
    lanes = VECTOR_BYTES // band.itemsize
    cell = 0
    while cell < across:
        left = across - cell
        if left >= CELLS or (left > FEWER_CELLS and across >= CELLS):
            cell = min(cell, across - CELLS)
            bundle_tile(
                band, first + cell * lanes, segments, packed, first_row, row_step, bias, first_bias, y,
                first_out + cell * out_step, out_step, CELLS,
            )  # fmt: skip
            cell += CELLS
        elif across >= FEWER_CELLS:
            cell = min(cell, across - FEWER_CELLS)
            bundle_tile(
                band, first + cell * lanes, segments, packed, first_row, row_step, bias, first_bias, y,
                first_out + cell * out_step, out_step, FEWER_CELLS,
            )  # fmt: skip
            cell += FEWER_CELLS
        else:
            bundle_tile(
                band, first + cell * lanes, segments, packed, first_row, row_step, bias, first_bias, y,
                first_out + cell * out_step, out_step, 1,
            )  # fmt: skip
            cell += 1


@jit
def convolve_bundles(
    x, image, packed, row_step, bias, y, output, bundles, group, lines, start, stride, span,
    phases, columns, segments, units, band, cells,
):  # fmt: skip
    """Convolve some units: some lines of one image, for one bundle.

    Parameters
    ----------
    x, y : 1-D float array
        Images and outputs.
    image, output : tuple of nine int
        As in `fastconv.kernels.direct.convolve_bands`, of all channels and all filters.
    packed : 1-D float array (bundles, elements, lanes)
        From `pack_bundles`; ``row_step`` elements from one channel to the next.
    bias : 1-D float array (filters,)
    bundles : int
        How many there are.
    group : tuple of two int
        Filters and channels of a group.
    lines : int
        Of a unit; the last of an image may have fewer.
    start, stride, span : int
        Along lines: which one the first tap reads, the stride, and lines from a cell's first tap to its last.
    phases : int64 array (phases, 4)
        As in `fill_bundle`.
    columns : int
        Of the band.
    segments : int64 array (segments, 3)
        As in `bundle_tile`.
    units : tuple of two int
        From and up to which; bundles follow each other fastest, then lines, then images.
    band, cells : 1-D float array
        Scratch: what a unit reads; and, where channels are first, what it writes.
    """
    lanes = VECTOR_BYTES // x.itemsize
    height, across = output[4], output[5]
    per_image = (height + lines - 1) // lines
    row, elements = columns * lanes, packed.size // bundles
    rows = (lines - 1) * stride + span
    square = np.empty(lanes * lanes, x.dtype)
    last = output[2] == 1
    for unit in range(units[0], units[1]):
        piece, bundle = divmod(unit, bundles)
        number, chunk = divmod(piece, per_image)
        first_line = chunk * lines
        some = min(lines, height - first_line)
        channel = bundle * lanes // group[0] * group[1]
        top = start + first_line * stride
        fill_bundle(x, image, number, channel, group[1], phases, top, band, rows, columns, square)
        place = output[0] + number * output[1] + first_line * output[6] + bundle * lanes * output[2]
        for line in range(some):
            if last:
                convolve_line(
                    band, line * stride * row, segments, packed, bundle * elements, row_step, bias,
                    bundle * lanes, y, place + line * output[6], output[3], across,
                )  # fmt: skip
            else:
                convolve_line(
                    band, line * stride * row, segments, packed, bundle * elements, row_step, bias,
                    bundle * lanes, cells, line * across * lanes, lanes, across,
                )  # fmt: skip
                empty_band(
                    cells, line * across, across, lanes, y, place + line * output[6], output[2], output[3],
                    lanes, square,
                )  # fmt: skip


@jit
def sum_bundles(
    dy, gradient, x, image, sums, group, lines, start, stride, span, phases, columns, offsets,
    images, bundles, band, gradients,
):  # fmt: skip
    """Add to the sums of some bundles what some images give: gradients times what the taps read.

    Parameters
    ----------
    dy, gradient, x, image, group, lines, start, stride, span, phases, columns
        As in `convolve_bundles`; ``gradient`` is that of the output ``dy``.
    sums : float array (bundles, taps, channels in whole tiles, lanes)
        Added to.
    offsets : int64 array (taps,)
        Where each tap of a cell lies in the first block of the band.
    images, bundles : tuple of two int
        From and up to which.
    band, gradients : 1-D float array
        Scratch: what some lines of a bundle read, and their gradients (lines, cells, lanes).
    """
    lanes = VECTOR_BYTES // x.itemsize
    height, across = gradient[4], gradient[5]
    row, rows = columns * lanes, (lines - 1) * stride + span
    square = np.empty(lanes * lanes, x.dtype)
    flat, taps, tap_step = sums.reshape(sums.size), sums.shape[1], sums.shape[2] * lanes
    whole = taps // SUM_TAPS * SUM_TAPS
    for bundle in range(bundles[0], bundles[1]):
        channel = bundle * lanes // group[0] * group[1]
        target = bundle * taps * tap_step
        seen = (gradient[0] + bundle * lanes * gradient[2], *gradient[1:])
        for number in range(images[0], images[1]):
            for first_line in range(0, height, lines):
                some = min(lines, height - first_line)
                top = start + first_line * stride
                fill_bundle(x, image, number, channel, group[1], phases, top, band, rows, columns, square)
                fill_band(dy, seen, number, 0, lanes, (first_line, 0), gradients, some, across, lanes, square)
                for c in range(0, group[1], min(SUM_CHANNELS, lanes)):
                    first = c // lanes * rows * row + c % lanes
                    place = target + c * lanes
                    for tap in range(0, whole, SUM_TAPS):
                        bundle_sums(
                            gradients, 0, band, first, offsets, tap, stride * row, some, across, flat,
                            place + tap * tap_step, tap_step, SUM_TAPS,
                        )  # fmt: skip
                    for tap in range(whole, taps):
                        bundle_sums(
                            gradients, 0, band, first, offsets, tap, stride * row, some, across, flat,
                            place + tap * tap_step, tap_step, 1,
                        )  # fmt: skip
