"""Grouped convolution with vectors along filters: a *bundle* is as many of them as a vector has lanes.

What its groups read is brought to a band, one vector of channels for every cell. So neighbouring cells lie a
whole vector apart, which the instructions themselves can say: one register points to all cells of a tile.
Each step loads vectors of weights and multiplies them with one channel of each cell, spread over the lanes by
the load itself. Three taps that read cells beside each other share what is spread: 210 GF/s, and 170 one by
one (groups of 16, float32, AVX-512 Xeon).

A bundle may have 2 or 4 smaller groups. Then the first channels of all groups lie together in a cell, then
the second ones, so that one load of 2 or 4 floats gives each lane the channel that its filter reads; the
lanes of weights and sums follow each other in the same way, until sums are stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastconv.kernels import vectors
from fastconv.kernels.images import Image, address, every, from_channel
from fastconv.kernels.jit import inner, jit, part
from fastconv.kernels.pack import Window, clear, pack_band, transpose, unpack_band
from fastconv.kernels.simd import Vector, load, prefetch, store
from fastconv.kernels.vectors import (
    VECTOR_BYTES,
    fma,
    pointer,
    rolled,
    splat,
    vector_load,
    vector_store,
)

# Cells of the tiles: fourteen sums and a vector of weights fit 16 registers, too.
CELLS, FEWER_CELLS = 14, 7
# Cells of the scratch, which leave together: lines of 14 fill few vectors (357 and 899 ns for a plane of 16
# channels, float32, AVX-512 Xeon).
LEAVING = 256
# Taps and channels (at most as many as lanes) of a tile of sums, which has a vector for each pair.
SUM_TAPS, SUM_CHANNELS = 3, 8 if VECTOR_BYTES == 64 else 4


def _spread(builder: Any, place: Any, kind: Vector, groups: int) -> Any:
    """One channel of each group, which lie beside each other, again and again over the lanes."""
    if groups == 1:
        return splat(builder, builder.load(place), kind.llvm)
    few = vector_load(builder, place, ir.VectorType(kind.llvm.element, groups), kind.size, None)
    order = [lane % groups for lane in range(kind.lanes)]
    return builder.shuffle_vector(few, ir.Constant(few.type, ir.Undefined), _order(order))


def _order(lanes: list[int]) -> Any:
    """Which lanes a shuffle takes."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)


def groups_in(lanes: int) -> list[int]:
    """How many groups there may be in a vector of so many lanes."""
    return [groups for groups in (1, 2, 4) if groups == 1 or lanes // groups > 1]


@intrinsic
def together(typingctx, vector, groups):
    """The lanes of a vector of channels in the order of cells: the first of each group, then the second."""

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        value, wanted = arguments
        lanes, result = sig.args[0].lanes, value
        for count in groups_in(lanes)[1:]:
            order = [lane % count * (lanes // count) + lane // count for lane in range(lanes)]
            is_wanted = builder.icmp_signed("==", wanted, ir.Constant(wanted.type, count))
            result = builder.select(is_wanted, builder.shuffle_vector(value, value, _order(order)), result)
        return result

    return vector(vector, types.int64), codegen


@intrinsic(prefer_literal=True)
def bundle_tile(
    typingctx, band, first, triples, segments, packed, first_row, row_step, bias, first_bias, groups, y,
    first_out, out_step, cells,
):  # fmt: skip
    """``y[cell, :] = bias + sum over segments s, i of packed[row(s) + i, :] * band[cell, offset(s) + i]``.

    With several groups, lane l of a product has channel i of the group that filter l belongs to.

    Parameters
    ----------
    band : 1-D float array
        Cells lie a vector apart, from element ``first`` on.
    triples : int64 array (triples, 5)
        Three taps that read cells beside each other: where the first one begins in a cell, how many channels
        they have, and where each begins in the weights.
    segments : int64 array (segments, 3)
        Other taps: where each begins in a cell and in the weights, and how many channels it has.
    packed : 1-D float array
        From ``first_row`` on, vectors; ``row_step`` elements from one channel to the next.
    bias, y : 1-D float array
        A vector from ``first_bias`` on; and for each cell from ``first_out`` on, ``out_step`` apart.
    groups : int
        That a vector of filters belongs to.
    cells : literal int
        Of the tile.
    """
    whole = types.int64
    sig = types.void(
        band, whole, triples, segments, packed, whole, whole, bias, whole, whole, y, whole, whole, cells
    )  # fmt: skip

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        for groups in groups_in(Vector(sig.args[0].dtype).lanes):
            with builder.if_then(
                builder.icmp_signed("==", arguments[9], ir.Constant(ir.IntType(64), groups))
            ):
                _tile(context, builder, sig, arguments, cells.literal_value, groups)
        return context.get_dummy_value()

    return sig, codegen


def _tile(context: Any, builder: Any, sig: Any, arguments: Any, cells: int, groups: int) -> None:
    """The code of a tile for so many groups."""
    (
        band, first, triples, segments, packed, first_row, row_step, bias, first_bias, _, y, first_out,
        out_step, _,
    ) = arguments  # fmt: skip
    kind = Vector(sig.args[0].dtype)
    vector, size, lanes, index = kind.llvm, kind.size, kind.lanes, ir.IntType(64)

    def number(value: int) -> Any:
        return ir.Constant(index, value)

    zero = ir.Constant(vector, [0.0] * lanes)
    sums = [cgutils.alloca_once_value(builder, zero) for _ in range(cells)]
    begin = pointer(context, builder, sig.args[0], band, first)
    weights = pointer(context, builder, sig.args[4], packed, first_row)

    def add(total: Any, factor: Any, values: Any) -> None:
        builder.store(fma(builder, vector, size, factor, values, builder.load(total)), total)

    def table(which: int, array: Any, columns: int) -> Any:
        """Row by row."""
        proxy = cgutils.create_struct_proxy(sig.args[which])(context, builder, value=array)
        with cgutils.for_range(builder, cgutils.unpack_tuple(builder, proxy.shape, 2)[0]) as loop:
            row = builder.gep(proxy.data, [builder.mul(loop.index, number(columns))])
            yield [builder.load(builder.gep(row, [number(i)])) for i in range(columns)]

    outputs = [pointer(context, builder, sig.args[10], y, first_out)]
    for _ in sums[1:]:
        outputs.append(builder.gep(outputs[-1], [out_step]))
    for place in outputs:
        # 140 and 129 GF/s (512x28 in groups of 16, forward, float32, AVX-512 Xeon); to be read, 3 % less.
        vectors.prefetch(builder, place, write=True)
    for offset, steps, *firsts in table(2, triples, 5):
        at = cgutils.alloca_once_value(builder, builder.gep(begin, [offset]))
        places = [cgutils.alloca_once_value(builder, builder.gep(weights, [place])) for place in firsts]
        with rolled(builder, steps):
            here = builder.load(at)
            values = []
            for place in places:
                values.append(vector_load(builder, builder.load(place), vector, size, None))
                builder.store(builder.gep(builder.load(place), [row_step]), place)
            for m in range(len(sums) + len(values) - 1):
                factor = _spread(builder, builder.gep(here, [number(m * lanes)]), kind, groups)
                for tap, value in enumerate(values):
                    if 0 <= m - tap < len(sums):
                        add(sums[m - tap], factor, value)
            builder.store(builder.gep(here, [number(groups)]), at)
    for offset, first_of, steps in table(3, segments, 3):
        at = cgutils.alloca_once_value(builder, builder.gep(begin, [offset]))
        weight = cgutils.alloca_once_value(builder, builder.gep(weights, [first_of]))
        with rolled(builder, steps):
            here, row = builder.load(at), builder.load(weight)
            value = vector_load(builder, row, vector, size, None)
            for m, total in enumerate(sums):
                add(total, _spread(builder, builder.gep(here, [number(m * lanes)]), kind, groups), value)
            builder.store(builder.gep(here, [number(groups)]), at)
            builder.store(builder.gep(row, [row_step]), weight)
    added = vector_load(builder, pointer(context, builder, sig.args[7], bias, first_bias), vector, size, None)
    filters = lanes // groups
    apart = _order([lane % filters * groups + lane // filters for lane in range(lanes)])
    for total, place in zip(sums, outputs, strict=True):
        value = builder.load(total)
        if groups > 1:
            value = builder.shuffle_vector(value, value, apart)
        vector_store(builder, builder.fadd(added, value), place, vector, size, None)


@intrinsic(prefer_literal=True)
def bundle_sums(
    typingctx, dy, first_dy, band, first, offset, line_step, lines, across, sums, first_sum,
    tap_step, groups, taps,
):  # fmt: skip
    """``sums[tap, c, :] += sum over lines, cells of dy[cell, :] * band[cell + offset + tap, c]``.

    Parameters
    ----------
    dy : 1-D float array
        From ``first_dy`` on ``lines`` times ``across`` vectors.
    band : 1-D float array
        Cells lie a vector apart, lines ``line_step`` elements, from ``first`` on.
    offset : int
        Of the first tap.
    lines, across : int
        At least as many cells as taps, less one.
    sums : 1-D float array
        Added to: from ``first_sum`` on vectors of channels for each tap, ``tap_step`` elements apart.
    groups : int
        That a vector of filters belongs to.
    taps : literal int
        Of the tile, which read cells beside each other.
    """
    whole = types.int64
    sig = types.void(
        dy, whole, band, whole, whole, whole, whole, whole, sums, whole, whole, whole, taps
    )  # fmt: skip

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        for groups in groups_in(Vector(sig.args[0].dtype).lanes):
            with builder.if_then(
                builder.icmp_signed("==", arguments[11], ir.Constant(ir.IntType(64), groups))
            ):
                _sums(context, builder, sig, arguments, taps.literal_value, groups)
        return context.get_dummy_value()

    return sig, codegen


def _sums(context: Any, builder: Any, sig: Any, arguments: Any, taps: int, groups: int) -> None:
    """The code of sums for so many groups."""
    dy, first_dy, band, first, offset, line_step, lines, across, sums, first_sum, tap_step = arguments[:-2]
    kind = Vector(sig.args[0].dtype)
    vector, size, lanes, index = kind.llvm, kind.size, kind.lanes, ir.IntType(64)

    def number(value: int) -> Any:
        return ir.Constant(index, value)

    zero = ir.Constant(vector, [0.0] * lanes)
    totals = [
        [cgutils.alloca_once_value(builder, zero) for _ in range(min(SUM_CHANNELS, lanes // groups))]
        for _ in range(taps)
    ]
    gradient = cgutils.alloca_once_value(builder, pointer(context, builder, sig.args[0], dy, first_dy))
    begin = builder.gep(pointer(context, builder, sig.args[2], band, first), [offset])
    with rolled(builder, lines) as line:
        cell = cgutils.alloca_once_value(builder, builder.gep(begin, [builder.mul(line.index, line_step)]))

        def step(met: range, cell: Any = cell) -> None:
            """A cell of the band meets the gradients of all cells whose taps read it."""
            here, at = builder.load(gradient), builder.load(cell)
            values = [
                vector_load(builder, builder.gep(here, [number(-t * lanes)]), vector, size, None) for t in met
            ]
            for c in range(len(totals[0])):
                factor = _spread(builder, builder.gep(at, [number(c * groups)]), kind, groups)
                for t, value in zip(met, values, strict=True):
                    total = totals[t][c]
                    builder.store(fma(builder, vector, size, factor, value, builder.load(total)), total)
            builder.store(builder.gep(here, [number(lanes)]), gradient)
            builder.store(builder.gep(at, [number(lanes)]), cell)

        for t in range(taps - 1):
            step(range(t + 1))
        with rolled(builder, builder.sub(across, number(taps - 1))):
            step(range(taps))
        for t in range(taps - 1):
            step(range(t + 1, taps))
        builder.store(builder.gep(builder.load(gradient), [number(-(taps - 1) * lanes)]), gradient)
    place = pointer(context, builder, sig.args[8], sums, first_sum)
    for row_totals in totals:
        for c, total in enumerate(row_totals):
            target = builder.gep(place, [number(c * lanes)])
            before = vector_load(builder, target, vector, size, None)
            added = builder.fadd(before, builder.load(total))
            vector_store(builder, added, target, vector, size, None)
        place = builder.gep(place, [tap_step])


@jit
def pack_bundles(w, first, stop, elements, packed):
    """The weights (filters, elements) of some bundles as vectors along filters (bundles, elements, lanes)."""
    lanes = VECTOR_BYTES // w.itemsize
    square = np.empty(lanes * lanes, w.dtype)
    for bundle in range(first, stop):
        begin = bundle * lanes * elements
        transpose(w, begin, elements, lanes, elements, packed[begin:], lanes, square)


@jit
def turn_groups(w, groups, rows, columns, turned):
    """Matrices (rows, columns) of all groups, transposed."""
    lanes = VECTOR_BYTES // w.itemsize
    square = np.empty(lanes * lanes, w.dtype)
    for group in range(groups):
        begin = group * rows * columns
        transpose(w, begin, columns, rows, columns, turned[begin:], rows, square)


@inner
def fill_cells(x, image, number, start, bundles, size, band, rows, columns, groups):
    """As `pack_band`, of vectors of channels that are last: those of several groups are put `together`.

    Each of ``bundles`` vectors of a cell goes to a band of its own, ``size`` elements apart.
    """
    lanes = VECTOR_BYTES // x.itemsize
    first, cell = image.start + number * image.image_stride, image.pixel_stride
    height, width, step = image.height, image.width, image.row_stride
    top, bottom = min(rows, max(0, -start[0])), min(rows, height - start[0])
    left, right = min(columns, max(0, -start[1])), min(columns, width - start[1])
    for r in range(rows):
        line = r * columns * lanes
        empty = r < top or r >= bottom or left >= right
        for bundle in range(bundles):
            if empty:
                clear(band, bundle * size + line, columns * lanes)
            else:
                clear(band, bundle * size + line, left * lanes)
                clear(band, bundle * size + line + right * lanes, (columns - right) * lanes)
        if empty:
            continue
        for k in range(left, right):
            source = first + (start[0] + r) * step + (start[1] + k) * cell
            target = line + k * lanes
            for bundle in range(bundles):
                taken = load(x, source + bundle * lanes)
                store(band, target + bundle * size, together(taken, groups))


@part
def fill_bundle(
    x, image, number, channel, channels, bundles, size, phases, top, band, rows, columns, groups, square
):
    """Some lines of channels, from ``channel`` on, as a band (phases, blocks, rows, columns, lanes).

    Where channels are last there may be several ``bundles``, a vector each: their bands lie ``size`` elements
    apart. A block has a vector of channels, a phase the columns that lie a stride apart: ``phases``
    (phases, 4) has the first column of each, how far they lie apart, how many there are, and where the band
    begins.
    """
    lanes = VECTOR_BYTES // x.itemsize
    blocks = (channels + lanes - 1) // lanes
    for phase in range(phases.shape[0]):
        apart = phases[phase, 1]
        for block in range(blocks):
            block_image = from_channel(image, channel + block * lanes)
            seen = every(block_image, phases[phase, 0], apart, phases[phase, 2])
            place = band[(phase * blocks + block) * rows * columns * lanes :]
            corner = (top, phases[phase, 3])
            if groups > 1 or (image.channel_stride == 1 and channels - block * lanes >= lanes):
                fill_cells(x, seen, number, corner, bundles, size, place, rows, columns, groups)
            else:
                pack_band(
                    x, seen, number, 0, min(lanes, channels - block * lanes),
                    Window(top, phases[phase, 3], rows, columns), place, lanes, square,
                )  # fmt: skip


@part
def convolve_line(
    band, first, triples, segments, packed, first_row, row_step, bias, first_bias, groups, y, first_out,
    out_step, across,
):  # fmt: skip
    """A line of one bundle, tile by tile; the last one may repeat cells of the one before."""
    lanes = VECTOR_BYTES // band.itemsize
    cell = 0
    while cell < across:
        left = across - cell
        if left >= CELLS or (left > FEWER_CELLS and across >= CELLS):
            cell = min(cell, across - CELLS)
            bundle_tile(
                band, first + cell * lanes, triples, segments, packed, first_row, row_step, bias, first_bias,
                groups, y, first_out + cell * out_step, out_step, CELLS,
            )  # fmt: skip
            cell += CELLS
        elif across >= FEWER_CELLS:
            cell = min(cell, across - FEWER_CELLS)
            bundle_tile(
                band, first + cell * lanes, triples, segments, packed, first_row, row_step, bias, first_bias,
                groups, y, first_out + cell * out_step, out_step, FEWER_CELLS,
            )  # fmt: skip
            cell += FEWER_CELLS
        else:
            bundle_tile(
                band, first + cell * lanes, triples, segments, packed, first_row, row_step, bias, first_bias,
                groups, y, first_out + cell * out_step, out_step, 1,
            )  # fmt: skip
            cell += 1


@inner
def ask_planes(x, first, plane, planes, begin, stop, write):
    """Ask for elements of some planes, from ``begin`` until ``stop`` is met or the plane ends.

    Returns the next one to ask for. A stride may lie far beyond the plane that it is one of, ``stop`` too.

    Of the lines that are read next, or written, a part before each tile: 125 and 139 GF/s (512x14 in groups
    of 16, channels first, float32, AVX-512 Xeon), together with lines that leave at once.
    """
    lanes = VECTOR_BYTES // x.itemsize
    while begin < min(stop, plane):
        for c in range(planes):
            if write:
                prefetch(x, first + c * plane + begin, 1)
            else:
                prefetch(x, first + c * plane + begin, 0)
        begin += lanes
    return begin


@inner
def leave_lines(cells, lines, across, y, place, output, square):
    """Copy some lines of one bundle to where they belong; those that lie one behind the other together."""
    lanes = VECTOR_BYTES // y.itemsize
    joined = lines if output.row_stride == across * output.pixel_stride else 1
    for line in range(0, lines, joined):
        unpack_band(
            cells, line * across, joined * across, lanes, y, place + line * output.row_stride, output, lanes,
            square,
        )  # fmt: skip


@jit
def convolve_bundles(
    x, image, packed, row_step, bias, y, output, bundles, wide, group, lines, start, stride, span,
    phases, columns, triples, segments, groups, units, band, cells, square,
):  # fmt: skip
    """Convolve some units: some lines of one image, for some bundles.

    Parameters
    ----------
    x, y : 1-D float array
        Images and outputs.
    image, output : tuple of nine int
        As in `fastconv.kernels.gemm.convolve_bands`, of all channels and all filters.
    packed : 1-D float array (bundles, elements, lanes)
        From `pack_bundles`; ``row_step`` elements from one channel to the next.
    bias : 1-D float array (filters,)
    bundles, wide : int
        How many there are, and how many of them a unit has at the most.
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
    triples, segments, groups
        As in `bundle_tile`.
    units : tuple of two int
        From and up to which; bundles follow each other fastest, then lines, then images.
    band, cells, square : 1-D float array
        Scratch: what a unit reads; where channels are first, some lines of what it writes; lanes by lanes.
    """
    image, output = Image(*image), Image(*output)
    lanes = VECTOR_BYTES // x.itemsize
    height, across = output.height, output.width
    per_image, per_line = (height + lines - 1) // lines, (bundles + wide - 1) // wide
    row, elements = columns * lanes, packed.size // bundles
    rows, size = (lines - 1) * stride + span, band.size // wide
    last = groups > 1 or output.channel_stride == 1
    at_once = max(1, LEAVING // max(1, across))
    for unit in range(units[0], units[1]):
        piece, block = divmod(unit, per_line)
        number, chunk = divmod(piece, per_image)
        first_line, first_bundle = chunk * lines, block * wide
        some = min(lines, height - first_line)
        channel = first_bundle * lanes // group[0] * group[1]
        top = start + first_line * stride
        there = min(wide, bundles - first_bundle)
        fill_bundle(
            x, image, number, channel, group[1] * groups, there, size, phases, top, band, rows, columns,
            groups, square,
        )  # fmt: skip
        # The same lines of the channels behind these.
        ahead = address(image, number, channel + group[1], 0, top, 0)
        for bundle in range(first_bundle, first_bundle + there):
            place = address(output, number, bundle * lanes, 0, first_line, 0)
            first = (bundle - first_bundle) * size
            begun = asked = met = 0
            for line in range(some):
                target = place + line * output.row_stride if last else (line - begun) * across * lanes
                if not last:
                    asked = ask_planes(
                        x,
                        ahead,
                        image.channel_stride,
                        group[1],
                        asked,
                        (line + 1) * stride * image.row_stride,
                        False,
                    )
                    met = ask_planes(
                        y, place, output.channel_stride, lanes, met, (line + 1) * output.row_stride, True
                    )
                convolve_line(
                    band, first + line * stride * row, triples, segments, packed, bundle * elements, row_step,
                    bias, bundle * lanes, groups, y if last else cells, target,
                    output.pixel_stride if last else lanes, across,
                )  # fmt: skip
                if not last and line + 1 == min(some, begun + at_once):
                    leave_lines(
                        cells, line + 1 - begun, across, y, place + begun * output.row_stride, output, square
                    )
                    begun = line + 1


@jit
def sum_bundles(
    dy, gradient, x, image, sums, wide, group, lines, start, stride, span, phases, columns, offsets, triples,
    groups, images, bundles, band, gradients, square,
):  # fmt: skip
    """Add to the sums of some bundles what some images give: gradients times what the taps read.

    Parameters
    ----------
    dy, gradient, x, image, wide, group, lines, start, stride, span, phases, columns
        As in `convolve_bundles`; ``gradient`` is that of the output ``dy``.
    sums : float array (bundles, taps, channels in whole tiles, lanes)
        Added to.
    offsets : int64 array (taps,)
        Where each tap of a cell lies in the first block of the band.
    triples : int
        So many times `SUM_TAPS` of them, the first ones, read cells beside each other.
    groups
        As in `bundle_tile`.
    images, bundles : tuple of two int
        From and up to which.
    band, gradients, square : 1-D float array
        Scratch: what some lines of ``wide`` bundles read, and their gradients (lines, cells, lanes); lanes by
        lanes.
    """
    gradient, image = Image(*gradient), Image(*image)
    lanes = VECTOR_BYTES // x.itemsize
    height, across = gradient.height, gradient.width
    row, rows = columns * lanes, (lines - 1) * stride + span
    flat, taps, tap_step = sums.reshape(sums.size), sums.shape[1], sums.shape[2] * lanes
    whole, channels = triples * SUM_TAPS, group[1] * groups
    parts = max(1, triples * (group[1] // min(SUM_CHANNELS, lanes)))
    size, gradient_size = band.size // wide, gradients.size // wide
    for first_bundle in range(bundles[0], bundles[1], wide):
        there = min(wide, bundles[1] - first_bundle)
        channel = first_bundle * lanes // group[0] * group[1]
        seen = from_channel(gradient, first_bundle * lanes)
        for number in range(images[0], images[1]):
            for first_line in range(0, height, lines):
                some = min(lines, height - first_line)
                top = start + first_line * stride
                fill_bundle(
                    x, image, number, channel, channels, there, size, phases, top, band, rows, columns,
                    groups, square,
                )  # fmt: skip
                if groups > 1 or gradient.channel_stride == 1:
                    fill_cells(
                        dy, seen, number, (first_line, 0), there, gradient_size, gradients, some, across,
                        groups,
                    )  # fmt: skip
                else:
                    pack_band(
                        dy, seen, number, 0, lanes, Window(first_line, 0, some, across), gradients, lanes,
                        square,
                    )  # fmt: skip
                # The same lines of the next image, a part of them before each tile.
                ahead = address(image, number + 1, channel, 0, max(0, top), 0)
                ahead_dy = address(seen, number + 1, 0, 0, first_line, 0)
                met, met_dy, part = 0, 0, 0 if gradient.channel_stride == 1 else (some + parts - 1) // parts
                for bundle in range(there):
                    target = (first_bundle + bundle) * taps * tap_step
                    for c in range(0, group[1], min(SUM_CHANNELS, lanes)):
                        first = bundle * size + c // lanes * rows * row + c % lanes
                        place = target + c * lanes
                        for tap in range(0, whole, SUM_TAPS):
                            met = ask_planes(
                                x,
                                ahead,
                                image.channel_stride,
                                group[1],
                                met,
                                met + part * stride * image.row_stride,
                                False,
                            )
                            met_dy = ask_planes(
                                dy,
                                ahead_dy,
                                seen.channel_stride,
                                lanes,
                                met_dy,
                                met_dy + part * seen.row_stride,
                                False,
                            )
                            bundle_sums(
                                gradients, bundle * gradient_size, band, first, offsets[tap], stride * row,
                                some, across, flat, place + tap * tap_step, tap_step, groups, SUM_TAPS,
                            )  # fmt: skip
                        for tap in range(whole, taps):
                            bundle_sums(
                                gradients, bundle * gradient_size, band, first, offsets[tap], stride * row,
                                some, across, flat, place + tap * tap_step, tap_step, groups, 1,
                            )  # fmt: skip
