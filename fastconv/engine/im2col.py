"""The explicit column matrix and BLAS: three passes, three matrix products.

With Q = C/G * T*R*S taps, P = OD*OH*OW output pixels and the column matrix col(X) of shape (Q, P) for
every image and group:

    forward           Y  = W @ col(X)            (K/G, P) = (K/G, Q) @ (Q, P)
    backward-weight   dW = dY @ col(X)^T         (K/G, Q) = (K/G, N*P) @ (N*P, Q)
    backward-input    dX = col2im(W^T @ dY)      (Q, P) = (Q, K/G) @ (K/G, P), then added back

Columns exist in blocks only, small enough to stay in a core's cache between the loop that writes them
and the product that reads them: some images, some groups, a part of the taps, a part of the pixels.
A block has axes (groups * taps, images, pixels), so that the same block is one long sum over images
and pixels for backward-weight, and for the other two passes one matrix an image, or one for all images
where these have few pixels.

A pass is cut into jobs that own what they write: no two of them touch the same pixel. Block sizes and
jobs follow from the shape alone, so results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastconv import blas
from fastconv.arguments import Array
from fastconv.buffers import aligned, new_result
from fastconv.engine.im2col_narrow import Narrow
from fastconv.engine.partition import (
    FEW_PIXELS,
    JOB_MULTIPLICATIONS,
    JOBS,
    PARTS_BYTES,
    Grid,
    Range,
    blocks,
    ceil_div,
)
from fastconv.engine.problem import Counts, Problem
from fastconv.engine.tensor import add_parts, contiguous_in
from fastconv.geometry import Geometry, effective, read_only
from fastconv.kernels import col2im_add, im2col
from fastconv.threads import Job, checkpoint, run_jobs

if TYPE_CHECKING:
    from fastconv.engine.algorithm import Pass

# Size of one block of columns: 4 MiB are no faster on a core with 2 MiB of L2, and a smaller block is less
# scratch.
TARGET_BYTES = 2 * 2**20
# The longest sum left to one product: BLAS adds up a small result one term after the other, and a
# float32 running sum of a million terms loses three of seven digits.
SUM_LENGTH = 2**12


@dataclass(frozen=True)
class Block:
    """The extents of one product at the most; filters and taps are those of a group."""

    images: int
    groups: int
    filters: int
    taps: int
    pixels: int

    @property
    def columns(self) -> int:
        """Elements of the columns."""
        return self.images * self.groups * self.taps * self.pixels

    @property
    def outputs(self) -> int:
        """Elements of the output that belong to the columns."""
        return self.images * self.groups * self.filters * self.pixels

    @property
    def weights(self) -> int:
        """Elements of the weights that meet the columns."""
        return self.groups * self.filters * self.taps


class Piece(NamedTuple):
    """A part of an array (images, groups, rows of a group, pixels): from and up to which of each.

    The rows of columns are taps, and those of outputs are filters.
    """

    images: Range
    groups: Range
    rows: Range
    pixels: Range

    @property
    def slices(self) -> tuple[slice, ...]:
        """What takes the part out of the array."""
        return tuple([slice(*some) for some in self])

    @property
    def first(self) -> tuple[int, ...]:
        """Its first image, group, row and pixel."""
        return tuple([first for first, _ in self])

    @property
    def shape(self) -> tuple[int, ...]:
        """How many groups, rows, images and pixels: the axes of columns."""
        images, groups, rows, pixels = [stop - first for first, stop in self]
        return groups, rows, images, pixels


@dataclass(frozen=True)
class InputJobs:
    """What one backward-input job owns: channels of a group, and a band of the input along an axis."""

    channels: int
    axis: int  # of (depth, height, width)
    band: int


class Im2col:
    """The explicit column matrix, for every geometry."""

    name = label = "im2col"

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        self.geometry = g
        self.batch = max(1, g.batch)
        self.group_filters = g.filters // g.groups
        self.group_channels = g.channels // g.groups
        self.kernel_taps = prod(g.kernel)
        self.steps = (g.kernel, g.output, g.stride, g.padding, g.dilation)
        # The column matrix of a 1x1 kernel that visits every pixel is the image itself.
        self.pointwise = (
            self.kernel_taps == 1 and g.stride == (1, 1, 1) and g.padding == (0, 0, 0) and g.input == g.output
        )
        self.jobs = max(1, min(JOBS, g.multiplications // JOB_MULTIPLICATIONS))
        self.target = TARGET_BYTES // g.compute_dtype.itemsize
        columns = self.batch * g.groups * g.taps * g.pixels
        # A block of the columns that one job has, or of the target where that is less.
        self.budget = min(self.target, ceil_div(columns, self.jobs))
        # All filters of a group, unless one pixel's output of so many were a block by itself.
        self.block_filters = min(self.group_filters, self.target)

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """None: the explicit column matrix serves every geometry."""
        return None

    @staticmethod
    def counts(p: Problem) -> Counts:
        """Products of BLAS, their operands, and the columns that are written row by row.

        A product (m, k) @ (k, n) takes ``gemm`` steps of 4 rows by a vector; ``thin`` are the elements of one
        that has a side of 1, which is no matrix product to BLAS, and ``outer`` those where the sum has one
        term, which NumPy multiplies itself.
        """
        if p.which == "backward_input" and Narrow.serves(p.geometry):
            return Narrow.counts(p)
        g, images = p.geometry, p.batch * p.groups
        plain = p.taps == 1 and not p.strided and not p.padded and p.source == p.target
        target, taps = TARGET_BYTES // p.itemsize, p.channels * p.taps
        pixels, side, sums = prod(g.output), p.filters, p.which == "backward_weight"
        if p.which == "backward_input":
            taps, side = p.filters * p.taps, p.channels
        columns = images * taps * pixels
        lines = images * taps * g.output[0] * g.output[1]
        if sums:
            length = max(1, min(p.batch * pixels, target // max(taps, side), SUM_LENGTH))
            some = min(p.batch, length // min(pixels, length))
            joined = some > 1
            made = not plain or joined
            products = p.groups * ceil_div(p.batch, some) * ceil_div(pixels, min(pixels, length))
            calls, m, n, k = products, side, taps, min(p.batch * pixels, length)
        else:
            budget = min(target, ceil_div(columns, p.jobs))
            calls = ceil_div(columns, budget)
            made = not plain
            each = max(taps, side) * pixels
            some = max(1, ceil_div(each, budget))
            together = min(p.batch, budget // (each * p.groups)) if made and pixels < FEW_PIXELS else 1
            joined = together > 1 and together * p.groups * side * pixels <= target
            products = p.groups * ceil_div(p.batch, together) if joined else images * some
            pixels = pixels * together if joined else ceil_div(pixels, some)
            m, n, k = (side, pixels, taps) if p.which == "forward" else (taps, pixels, side)
        gathered = images * side * prod(g.output) if joined else 0
        thin = min(m, n) == 1
        steps = products * ceil_div(m, 4) * 4 * ceil_div(n, p.lanes) * k
        return Counts(
            "im2col",
            {
                "call": 1,
                "calls": calls,
                "products": products,
                "gemm": 0 if thin or k == 1 else steps,
                "gemm_a": products * m * k,
                "gemm_b": products * k * n,
                "gemm_c": products * m * n,
                "thin": products * m * n * k if thin and k > 1 else 0,
                "thin_products": products if thin else 0,
                "products_last": products if p.last and p.groups > 1 else 0,
                "outer": products * m * n if k == 1 else 0,
                "columns": columns * p.itemsize if made else 0,
                "column_lines": lines if made else 0,
                "column_images": images if made else 0,
                "columns_apart": columns if made and (p.strided or p.last) else 0,
                "gathered": gathered,
                "gathered_last": gathered if p.last else 0,
                "out_last": p.target_bytes if p.last else 0,
                "parts": p.weight_bytes * p.jobs if sums else 0,
                "weights_far": p.weights_far,
                "source_far": p.source_far,
                "target_far": p.target_far,
            },
        )

    @property
    def scratch_bytes(self) -> int:
        """The most that a thread allocates in any pass: columns, gathered gradients, partial products.

        At most three blocks and the partial sums of ``dW``: under 32 MiB. Copies of the weights (where
        they are not contiguous) and float32 copies of float16 arrays are not counted.
        """
        g, forward = self.geometry, self.forward_block
        (weight, parts), (back, _) = self.weight_block, self.input_block
        elements = max(
            forward.columns + (forward.outputs if forward.taps < g.taps or self.joined(forward) else 0),
            weight.columns + weight.outputs + weight.weights,
            back.columns + back.outputs,
            0 if self.narrow is None else self.narrow.scratch_bytes // g.compute_dtype.itemsize,
        )
        partial_sums = parts * g.filters * g.taps if parts > 1 else 0
        return (elements + partial_sums) * g.compute_dtype.itemsize

    # Block sizes

    @cached_property
    def forward_block(self) -> Block:
        """All taps of as many pixels as fit, then as many groups, then as many images."""
        g = self.geometry
        taps = min(g.taps, self.target)
        width = taps if taps == g.taps else max(taps, self.block_filters)
        pixels = min(g.pixels, max(1, self.budget // width))
        return self._widened(taps, pixels, width)

    def _widened(self, taps: int, pixels: int, width: int) -> Block:
        """More groups, then more images, where a whole image's columns of one group leave room."""
        g = self.geometry
        if (taps, pixels) != (g.taps, g.pixels):
            return Block(1, 1, self.block_filters, taps, pixels)
        groups = min(g.groups, max(1, self.budget // (width * pixels)))
        images = 1
        if groups == g.groups:
            images = min(self.batch, max(1, self.budget // (width * pixels * groups)))
        return Block(images, groups, self.block_filters, taps, pixels)

    @cached_property
    def weight_block(self) -> tuple[Block, int]:
        """The rows that one job owns and one product sums, and the parts that the whole sum is cut into.

        Parts of the sum give BLAS wide products, but each needs a whole ``dW`` of its own: where that
        is too much, jobs own fewer rows instead.
        """
        g = self.geometry
        split = ceil_div(self.jobs, g.groups)
        whole_weight = g.filters * g.taps * g.compute_dtype.itemsize
        parts = split if split * whole_weight <= PARTS_BYTES else 1
        taps = g.taps if parts == split else ceil_div(g.taps, split)
        filters = self.block_filters
        taps = max(1, min(taps, self.target // filters))
        width = max(taps, filters)
        every_pixel = self.batch * g.pixels
        length = max(1, min(ceil_div(every_pixel, parts), self.target // width, SUM_LENGTH))
        pixels = min(g.pixels, length)
        images = min(self.batch, length // pixels)
        groups = 1
        if taps == g.taps and images * pixels == every_pixel:
            fitting = max(1, self.target // max(width * every_pixel, filters * taps))
            groups = min(g.groups, fitting, ceil_div(g.groups, self.jobs))
        return Block(images, groups, filters, taps, pixels), parts

    @cached_property
    def input_block(self) -> tuple[Block, InputJobs]:
        """Columns of one product, and the channels and rows that one job owns."""
        g = self.geometry
        channels = ceil_div(self.group_channels, ceil_div(self.jobs, self.batch * g.groups))
        taps = min(channels * self.kernel_taps, self.target)
        width = max(taps, self.block_filters)
        pixels = min(g.pixels, max(1, self.budget // width))
        block = self._widened(taps, pixels, width)
        owners = (
            ceil_div(self.batch, block.images)
            * ceil_div(g.groups, block.groups)
            * ceil_div(self.group_channels, channels)
        )
        # Neighbouring bands both compute the columns of the output rows that reach into both: only
        # planes much taller than the kernel are cut, and only where there are too few other jobs.
        axis = 0 if max(g.input[0], g.output[0]) > 1 else 1
        tallest = g.input[axis] // (4 * effective(g.kernel[axis], g.dilation[axis]))
        bands = max(1, min(self.jobs // owners, tallest))
        return block, InputJobs(channels, axis, ceil_div(g.input[axis], bands))

    @cached_property
    def narrow(self) -> Narrow | None:
        """What serves the backward-input pass to few channels."""
        return Narrow(self.geometry) if Narrow.serves(self.geometry) else None

    def joined(self, block: Block) -> bool:
        """Whether one product serves all images of a block; else each image has its own."""
        few = self.geometry.pixels < FEW_PIXELS and block.outputs <= self.target
        return few and block.images > 1 and not self.pointwise

    # What the passes share

    def _columns(self, x: Array, scratch: Array, piece: Piece) -> Array:
        """Columns (images, groups, taps, pixels) of a block, in rows or columns that BLAS can read."""
        if self.pointwise and _contiguous(x):
            return self._matrices(x)[piece.slices]
        return self._fill_columns(x, scratch, piece).transpose(2, 0, 1, 3)

    def _fill_columns(self, x: Array, scratch: Array, piece: Piece) -> Array:
        """Columns (groups, taps, images, pixels) of a block, written to ``scratch``."""
        columns = _rows(scratch, piece)
        image, group, tap, pixel = piece.first
        im2col(x, columns, image, group * self.geometry.taps + tap, pixel, *self.steps)
        return columns.reshape(piece.shape)

    def _gradients(self, dy: Array, scratch: Array, piece: Piece) -> Array:
        """``dy`` of a block as (images, groups, filters, pixels), in rows or columns that BLAS can read.

        A view where ``dy`` is contiguous in either layout; else gathered in ``scratch``: the columns
        of a kernel with one tap are the array itself.
        """
        if _contiguous(dy):
            return self._matrices(dy)[piece.slices]
        return self._gather(dy, scratch, piece).transpose(2, 0, 1, 3)

    def _matrices(self, array: Array) -> Array:
        """A contiguous array as (N, G, channels of a group, pixels): a view."""
        groups = self.geometry.groups
        return array.reshape(array.shape[0], groups, array.shape[1] // groups, prod(array.shape[2:]))

    def _gather(self, dy: Array, scratch: Array, piece: Piece) -> Array:
        """``dy`` of a block, copied to axes (groups, filters, images, pixels)."""
        one, none = (1, 1, 1), (0, 0, 0)
        rows = _rows(scratch, piece)
        image, group, kernel, pixel = piece.first
        first_row = group * self.group_filters + kernel
        im2col(dy, rows, image, first_row, pixel, one, self.geometry.output, one, none, one)
        return rows.reshape(piece.shape)

    def _empty(self, elements: int) -> Array:
        return aligned(elements, self.geometry.compute_dtype)

    def _weight_matrices(self, w: Array) -> Array:
        """The weights as (G, K/G, Q): a view, or a copy where they are not contiguous."""
        return w.reshape(self.geometry.groups, self.group_filters, self.geometry.taps)

    # Passes

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """Jobs own images, groups and pixels of ``y``."""
        g, block = self.geometry, self.forward_block
        x = read_only(x)
        w = self._weight_matrices(w)
        y = self._matrices(y)
        if bias is not None:
            bias = bias.reshape(g.groups, self.group_filters, 1)
        jobs = Grid((g.batch, block.images), (g.groups, block.groups), (g.pixels, block.pixels))

        def start_worker() -> Job:
            scratch = self._empty(block.columns)
            products = self._empty(block.outputs if self.joined(block) else 0)

            def job(i: int) -> None:
                images, groups, pixels = jobs[i]
                target = y[slice(*images), slice(*groups), :, slice(*pixels)]
                if self.joined(block):
                    piece = Piece(images, groups, (0, g.taps), pixels)
                    columns = _joined(self._fill_columns(x, scratch, piece))
                    # (groups, K/G, images*pixels) = (groups, K/G, taps) @ (groups, taps, images*pixels)
                    product = products[: target.size].reshape(columns.shape[0], -1, columns.shape[2])
                    np.matmul(w, columns, out=product)
                    if bias is not None:
                        product += bias
                    apart = product.reshape(*product.shape[:2], -1, g.pixels)
                    target[...] = apart.transpose(2, 0, 1, 3)
                    return
                for taps in blocks(g.taps, block.taps):
                    columns = self._columns(x, scratch, Piece(images, groups, taps, pixels))
                    weights = w[slice(*groups), :, slice(*taps)]
                    # (images, groups, K/G, pixels) = (groups, K/G, taps) @ (images, groups, taps, pixels)
                    if taps[0] == 0:
                        np.matmul(weights, columns, out=target)
                        continue
                    for some in blocks(self.group_filters, block.filters):
                        target[:, :, slice(*some)] += np.matmul(weights[:, slice(*some)], columns)
                if bias is not None:
                    target += bias[slice(*groups)]

            return job

        _run(len(jobs), start_worker)
        return True

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Jobs own groups, taps and a part of the sum over images and pixels; parts are added in order."""
        g, (block, wanted) = self.geometry, self.weight_block
        x, dy = read_only(x), read_only(dy)
        sums = Grid((g.batch, block.images), (g.pixels, block.pixels))
        step = ceil_div(len(sums), wanted)
        parts = ceil_div(len(sums), step)
        # Channels-last weights can't be seen as (G, K/G, Q): they are made so and copied.
        result = dw.reshape(g.groups, self.group_filters, g.taps)
        partial = result[np.newaxis] if parts == 1 else new_result((parts, *result.shape), dw.dtype)
        jobs = Grid(
            (g.groups, block.groups), (self.group_filters, block.filters), (g.taps, block.taps), (parts, 1)
        )

        def start_worker() -> Job:
            scratch, gathered = self._empty(block.columns), self._empty(block.outputs)
            products = self._empty(block.weights)

            def job(i: int) -> None:
                groups, filters, taps, (part, _) = jobs[i]
                target = partial[part, slice(*groups), slice(*filters), slice(*taps)]
                product = products[: target.size].reshape(target.shape)
                for j in range(part * step, min(len(sums), (part + 1) * step)):
                    checkpoint()
                    images, pixels = sums[j]
                    gradients, columns = self._summands(
                        (dy, gathered, Piece(images, groups, filters, pixels)),
                        (x, scratch, Piece(images, groups, taps, pixels)),
                    )
                    # (groups, filters, taps) = (groups, filters, sum) @ (groups, sum, taps), sum over
                    # images and pixels
                    if j == part * step:
                        np.matmul(gradients, columns, out=target)
                    else:
                        np.matmul(gradients, columns, out=product)
                        target += product

            return job

        _run(len(jobs), start_worker)
        if parts > 1:
            add_parts(partial, result)
        if not np.may_share_memory(result, dw):
            dw[...] = result.reshape(dw.shape)
        return True

    def _summands(
        self, outputs: tuple[Array, Array, Piece], inputs: tuple[Array, Array, Piece]
    ) -> tuple[Array, Array]:
        """``dY`` (groups, filters, images*pixels), ``col(X)^T`` (groups, images*pixels, taps) of a block.

        Each argument is an array, scratch, and the part of it or of its columns.
        """
        _, _, images, _ = inputs[-1].shape
        if images == 1:  # no need to bring pixels of several images together
            gradients, columns = self._gradients(*outputs)[0], self._columns(*inputs)[0]
        else:
            gradients, columns = _joined(self._gather(*outputs)), _joined(self._fill_columns(*inputs))
        return gradients, columns.transpose(0, 2, 1)

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """Jobs own images, channels and bands of rows of ``dx``."""
        g, (block, own) = self.geometry, self.input_block
        if self.narrow is not None and contiguous_in(dy, True) and contiguous_in(dx, True):
            self.narrow.run(dy, w, dx)
            return True
        dy = read_only(dy)
        w = self._weight_matrices(w).transpose(0, 2, 1)  # (G, Q, K/G)
        jobs = Grid(
            (g.batch, block.images), (g.groups, block.groups), (self.group_channels, own.channels),
            (g.input[own.axis], own.band),
        )  # fmt: skip

        def start_worker() -> Job:
            scratch, gathered = self._empty(block.columns), self._empty(block.outputs)

            def job(i: int) -> None:
                images, groups, channels, band = jobs[i]
                self._clear(dx, images, groups, channels, band)
                first_pixel, stop_pixel = self._pixels_that_reach(band)
                first_tap, stop_tap = channels[0] * self.kernel_taps, channels[1] * self.kernel_taps
                for pixels in blocks(stop_pixel, block.pixels, first_pixel):
                    for filters in blocks(self.group_filters, block.filters):
                        fetch = self._gather if self.joined(block) else self._gradients
                        gradients = fetch(dy, gathered, Piece(images, groups, filters, pixels))
                        weights = w[slice(*groups), :, slice(*filters)]
                        for taps in blocks(stop_tap, block.taps, first_tap):
                            piece = Piece(images, groups, taps, pixels)
                            self._add_back(scratch, weights[:, slice(*taps)], gradients, dx, piece, band)

            return job

        _run(len(jobs), start_worker)
        return True

    def _clear(self, dx: Array, images: Range, groups: Range, channels: Range, band: Range) -> None:
        first = groups[0] * self.group_channels + channels[0]
        stop = (groups[1] - 1) * self.group_channels + channels[1]
        d, h = (slice(*band), slice(None)) if self.input_block[1].axis == 0 else (slice(None), slice(*band))
        dx[slice(*images), slice(first, stop), d, h] = 0

    def _pixels_that_reach(self, band: Range) -> Range:
        """The output pixels, a flat range, with a tap in the band of the input."""
        g, axis = self.geometry, self.input_block[1].axis
        reach = effective(g.kernel[axis], g.dilation[axis])
        first = max(0, ceil_div(band[0] + g.padding[axis] - reach + 1, g.stride[axis]))
        stop = min(g.output[axis], (band[1] - 1 + g.padding[axis]) // g.stride[axis] + 1)
        pixels = prod(g.output[axis + 1 :])
        return first * pixels, max(first, stop) * pixels

    def _add_back(
        self, scratch: Array, weights: Array, gradients: Array, dx: Array, piece: Piece, band: Range
    ) -> None:
        """``dx += col2im(W^T @ dY)`` for a block."""
        g = self.geometry
        if self.pointwise and self.block_filters == self.group_filters and _contiguous(dx):
            np.matmul(weights, gradients, out=self._matrices(dx)[piece.slices])
            return
        rows = _rows(scratch, piece)
        columns = rows.reshape(piece.shape)
        if self.joined(self.input_block[0]):
            # (groups, taps, images*pixels) = (groups, taps, filters) @ (groups, filters, images*pixels)
            np.matmul(weights, _joined(gradients), out=_joined(columns))
        else:
            # (images, groups, taps, pixels) = (groups, taps, filters) @ (images, groups, filters, pixels)
            np.matmul(weights, gradients, out=columns.transpose(2, 0, 1, 3))
        image, group, tap, pixel = piece.first
        first, stop = band
        if self.input_block[1].axis == 0:
            first, stop = first * g.input[1], stop * g.input[1]
        col2im_add(read_only(rows), dx, image, group * g.taps + tap, pixel, first, stop, *self.steps)


def _rows(scratch: Array, piece: Piece) -> Array:
    """Room for columns (groups * rows, images, pixels)."""
    groups, rows, images, pixels = piece.shape
    return scratch[: groups * rows * images * pixels].reshape(groups * rows, images, pixels)


def _joined(array: Array) -> Array:
    """A contiguous (groups, rows, images, pixels) as (groups, rows, images*pixels)."""
    return array.reshape(*array.shape[:2], -1)


def _contiguous(array: Array) -> bool:
    """Whether an array in normal form is contiguous with its channels second or last."""
    return contiguous_in(array, False) or contiguous_in(array, True)


def _run(count: int, start_worker: Callable[[], Job]) -> None:
    """Run the jobs, each on one BLAS thread; infinities and NaN travel without a warning."""

    def start_quiet_worker() -> Job:
        job = start_worker()

        def quiet_job(i: int) -> None:
            with np.errstate(all="ignore"):
                job(i)

        return quiet_job

    with blas.one_thread():
        run_jobs(count, start_quiet_worker)
