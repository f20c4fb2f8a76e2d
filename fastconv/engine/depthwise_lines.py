"""Depthwise layers of 3x3 taps with the channels last, at strides of 1 and 2.

Part of `fastconv.engine.depthwise`; its kernels are `fastconv.kernels.depthwise_lines`. Such a layer does
nine multiplications for each number that it reads or writes, and time goes by in memory: every pass walks
once along its arrays.
"""

from __future__ import annotations

from math import prod

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import contiguous, zeros
from fastconv.engine.partition import Grid, Latest, ceil_div, owned_jobs, wanted_jobs
from fastconv.engine.problem import Counts, Problem
from fastconv.engine.tensor import Image, add_parts, pixels_first
from fastconv.geometry import Geometry, read_only
from fastconv.kernels import depthwise_lines as kernels
from fastconv.kernels.depthwise_line_tiles import ROWS, TAPS
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

# What row pairs read and write of some columns, in all channels: it stays in L2 until the next row pair.
COLUMN_BYTES, LEAST_COLUMNS = 2**20, 32
# Columns that one sum runs over before it is added to the others, and so many sums at the most.
SUM_COLUMNS = 128
SUMS = 2**10

# Channels, in vectors, that are worth one more vector to have the others begin with cache lines.
LED_VECTORS = 8


class RowCorrelation:
    """One pass over row pairs: two rows of the output at once.

    Parameters
    ----------
    geometry : Geometry
    back : bool
        Whether the pass is backward-input.
    """

    def __init__(self, geometry: Geometry, back: bool) -> None:
        g = geometry
        target = g.input if back else g.output
        _, self.rows, self.width = target
        _, top, left = g.padding
        _, _, self.stride = g.stride
        self.batch, self.channels = g.batch, g.channels
        # At a stride of 1 backward-input is a forward pass with the taps rotated by 180 degrees.
        self.rotated = back and self.stride == 1
        self.top, self.left = (TAPS - 1 - top, TAPS - 1 - left) if self.rotated else (top, left)
        self.back = back and not self.rotated
        self.pairs = ceil_div(self.rows + (self.top if self.back else 0), ROWS)
        # Pixels that are read and written for a column of the output, now and next.
        pixels = 2 * ROWS * (2 if self.back else 1 + self.stride**2)
        size = self.channels * g.compute_dtype.itemsize
        self.columns = max(LEAST_COLUMNS, COLUMN_BYTES // (pixels * size) // 2 * 2)
        work = self.batch * self.channels * prod(target) * TAPS**2
        self.work = work // 2
        self.wanted = wanted_jobs(self.work)
        self._latest: Latest[Grid] = Latest()
        self.sum_columns = min(self.columns, SUM_COLUMNS)

    @staticmethod
    def serves(geometry: Geometry) -> bool:
        """Whether there are tiles for all passes of a layer with the channels last."""
        g = geometry
        return (
            g.one_plane
            and g.channels == g.filters == g.groups >= VECTOR_BYTES // g.compute_dtype.itemsize
            and g.kernel == (1, TAPS, TAPS)
            and g.stride in ((1, 1, 1), (1, 2, 2))
            and g.dilation[1:] == (1, 1)
        )

    def _jobs(self, wanted: int) -> Grid:
        """Images, pairs."""
        image_step = max(1, self.batch // wanted)
        wanted = ceil_div(wanted, max(1, ceil_div(self.batch, image_step)))
        return Grid((self.batch, image_step), (self.pairs, ceil_div(self.pairs, wanted)))

    @staticmethod
    def counts(p: Problem) -> Counts:
        """Bytes that are read and written, and the vectors of channels at every pixel."""
        vectors = p.batch * p.target[1] * p.target[2] * ceil_div(p.groups, p.lanes)
        return Counts(
            "depthwise/lines",
            {
                "call": 1,
                "lines": p.batch * p.target[1],
                "vectors": vectors,
                "strided": vectors if p.strided else 0,
                "source": p.source_bytes,
                "target": p.target_bytes,
                "parts": p.weight_bytes * p.jobs if p.which == "backward_weight" else 0,
                "source_far": p.source_far,
                "target_far": p.target_far,
            },
        )

    @property
    def scratch_bytes(self) -> int:
        """None but packed weights."""
        return 0

    def _layer(self, columns: int, lead: int) -> tuple[int, ...]:
        """As kernels take it."""
        return self.top, self.left, self.stride, self.back, columns, lead

    def _lead(self, array: Array, image: Image) -> int:
        """The channel where the second vector begins, so that it and others begin with cache lines."""
        lanes = VECTOR_BYTES // array.itemsize
        first, image_stride, _, pixel_stride, _, _, row_stride, _, _ = image
        strides = image_stride, row_stride, pixel_stride
        if self.channels < LED_VECTORS * lanes or any(stride % lanes for stride in strides):
            return lanes
        return -(array.ctypes.data // array.itemsize + first) % lanes or lanes

    def run(self, source: Array, weights: Array, bias: Array | None, out: Array) -> None:
        """Write all of ``out``; ``weights`` is (channels, 1, 1, taps)."""
        # (taps, channels)
        packed = weights.reshape(self.channels, -1).T
        packed = contiguous(packed[::-1] if self.rotated else packed).reshape(-1)
        added = np.zeros(self.channels, out.dtype) if bias is None else np.ascontiguousarray(bias)
        packed, added = read_only(packed), read_only(added)
        x, image = pixels_first(read_only(source))
        y, output = pixels_first(out)
        layer = self._layer(self.columns, self._lead(y, output))
        jobs = self._latest.of(self._jobs, owned_jobs(self.work))

        def start_worker() -> Job:
            def job(i: int) -> None:
                images, pairs = jobs[i]
                kernels.correlate_row_pairs(x, image, packed, added, y, output, layer, (*images, *pairs))

            return job

        run_jobs(len(jobs), start_worker)

    def sum(self, dy: Array, source: Array, dw: Array) -> None:
        """Write ``dw`` (C, 1, kernel): the weight's gradient of a forward pass."""
        x, image = pixels_first(read_only(source))
        flat_dy, gradient = pixels_first(read_only(dy))
        layer = self._layer(self.sum_columns, self._lead(x, image))
        sums = self.batch * self.pairs * ceil_div(self.width, self.sum_columns)
        jobs = self._jobs(max(self.wanted, ceil_div(sums, SUMS)))
        partial = zeros((max(1, len(jobs)), TAPS**2 * self.channels), x.dtype)

        def start_worker() -> Job:
            def job(i: int) -> None:
                images, pairs = jobs[i]
                kernels.sum_row_pairs(x, image, flat_dy, gradient, layer, (*images, *pairs), partial[i])

            return job

        run_jobs(len(jobs), start_worker)
        total = partial[0] if len(partial) == 1 else add_parts(partial)
        # (C, taps) from (taps, C)
        dw[...] = total.reshape(-1, self.channels).T.reshape(dw.shape)
