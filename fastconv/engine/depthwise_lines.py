"""Depthwise layers of 3x3 taps with the channels last, at strides of 1 and 2.

Part of `fastconv.engine.depthwise`; its kernels are `fastconv.kernels.depthwise_lines`. Such a layer does
nine multiplications for each number that it reads or writes, and time goes by in memory: every pass walks
once along its arrays.

Microseconds of whole calls, float32, batch 8, AVX-512 Xeon: with tables of pixels (`Pixels`) and now, medians
of four processes of each, in turn, on a busy machine. Memory gives a core 30 GB/s there, read and written
together: the first column is what the same bytes take when nothing else runs, which leaves little to gain.

                            memory       forward   backward-input   backward-weight
    112x112x32                 860    1520, 1310       1938, 1412        2518, 1310
    112x112x64, stride 2      1070    2203, 1659       2678, 2022        2843, 1831
    56x56x128                  860    2373, 1192       2300, 1390        3374, 1354
    56x56x128, stride 2        540      765, 694        1194, 775          898, 726
    28x28x256                  430      801, 599         889, 640          903, 622
    28x28x256, stride 2        270      377, 371         530, 419          456, 367
    14x14x512                  215      403, 336         401, 334          489, 325
    14x14x512, stride 2        135      214, 237         256, 243          255, 220
    7x7x1024                   107      228, 218         240, 211          309, 209

Tried in C, forward over 28x28x256, which a copy takes 430 us for: asking for input and output ahead 452 us,
for the input alone 487, for neither 537; strips of three to five lines 468 to 503. In another run, 465 with
aligned arrays, 524 where loads split cache lines, 582 where stores do (see `new_result`). Stores past the
caches were tried on copies only: as fast for 13 and 6 MB, a quarter faster for 1.6 MB.

Where arrays begin matters more on an AMD EPYC 9004. All of them 16 bytes into a page, as NumPy's large ones
are, before and with results that begin in a page and in a cache line where their sources do
(`fastconv.buffers.new_result`) and vectors that do so from `LED_VECTORS` on:

                             forward    backward-input   backward-weight
    56x56x128             2096, 1868        1968, 1759        1887, 1359
    28x28x256               840, 433          795, 434          594, 446
    28x28x256, stride 2     257, 207          257, 265          272, 214
    14x14x512               280, 220          279, 222          412, 289
    14x14x512, stride 2     187, 133          181, 182          236, 147
    7x7x1024                269, 189          268, 189          376, 214
"""

from __future__ import annotations

from math import prod

import numpy as np

from fastconv.arguments import Array, Size
from fastconv.buffers import contiguous, zeros
from fastconv.engine.partition import Grid, Latest, ceil_div, owned_jobs, wanted_jobs
from fastconv.engine.problem import Counts, Problem
from fastconv.engine.tensor import add_parts, pixels_first
from fastconv.geometry import Geometry, read_only
from fastconv.kernels import depthwise_lines as kernels
from fastconv.kernels.depthwise_line_tiles import LINES, TAPS
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

# What the strips of some columns read and write, in all channels: it stays in L2 until the next lines.
COLUMN_BYTES, LEAST_COLUMNS = 2**20, 32
# Columns that one sum runs over before it is added to the others, and so many sums at the most.
SUM_COLUMNS = 128
SUMS = 2**10

# Channels, in vectors, that are worth one more vector to have the others begin with cache lines.
LED_VECTORS = 8

Two = tuple[int, int]


class LineCorrelation:
    """One pass over pairs of lines.

    Parameters
    ----------
    geometry : Geometry
    back : bool
        Whether the pass is backward-input.
    """

    def __init__(self, geometry: Geometry, back: bool) -> None:
        g = geometry
        source, target = (g.output, g.input) if back else (g.input, g.output)
        self.source: Two = (source[1], source[2])
        self.target: Two = (target[1], target[2])
        self.pad: Two = (g.padding[1], g.padding[2])
        self.batch, self.channels, self.stride = g.batch, g.channels, g.stride[1]
        self.turned = back and self.stride == 1
        if self.turned:  # a forward pass with the taps turned round
            self.pad = (TAPS - 1 - self.pad[0], TAPS - 1 - self.pad[1])
        self.back = back and not self.turned
        self.pairs = ceil_div(self.target[0] + (self.pad[0] if self.back else 0), LINES)
        # Cells that are read and written for a column of the output, now and next.
        cells = 2 * LINES * (2 if self.back else 1 + self.stride**2)
        size = self.channels * g.compute_dtype.itemsize
        self.columns = max(LEAST_COLUMNS, COLUMN_BYTES // (cells * size) // 2 * 2)
        work = self.batch * self.channels * prod(self.target) * TAPS**2
        self.work = work // 2
        self.wanted = wanted_jobs(self.work)
        self._latest: Latest[Grid] = Latest()
        self.sum_columns = min(self.columns, SUM_COLUMNS)

    @staticmethod
    def serves(geometry: Geometry) -> bool:
        """Whether there are strips for all passes of a layer with the channels last."""
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

    def _lead(self, array: Array, first: int, steps: Size) -> int:
        """The channel where the second vector begins, so that it and others begin with cache lines."""
        lanes = VECTOR_BYTES // array.itemsize
        if self.channels < LED_VECTORS * lanes or any(step % lanes for step in steps):
            return lanes
        return -(array.ctypes.data // array.itemsize + first) % lanes or lanes

    def run(self, source: Array, weights: Array, bias: Array | None, out: Array) -> None:
        """Write all of ``out``; ``weights`` is (channels, 1, 1, taps)."""
        # (taps, channels)
        packed = weights.reshape(self.channels, -1).T
        packed = contiguous(packed[::-1] if self.turned else packed).reshape(-1)
        added = np.zeros(self.channels, out.dtype) if bias is None else np.ascontiguousarray(bias)
        packed, added = read_only(packed), read_only(added)
        x, first, steps = pixels_first(read_only(source))
        y, _, out_steps = pixels_first(out)
        x_steps, y_steps = (steps[0], *steps[2:]), (out_steps[0], *out_steps[2:])
        lead = self._lead(y, 0, y_steps)
        jobs = self._latest.of(self._jobs, owned_jobs(self.work))

        def start_worker() -> Job:
            def job(i: int) -> None:
                kernels.correlate_strips(
                    x, first, x_steps, self.source, packed, added, y, y_steps, self.target, self.pad,
                    self.stride, self.back, self.columns, lead, *jobs[i],
                )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)

    def sum(self, dy: Array, source: Array, dw: Array) -> None:
        """Write ``dw`` (C, 1, kernel): the weight's gradient of a forward pass."""
        x, first, steps = pixels_first(read_only(source))
        gradient, first_gradient, gradient_steps = pixels_first(read_only(dy))
        x_steps, dy_steps = (steps[0], *steps[2:]), (gradient_steps[0], *gradient_steps[2:])
        lead = self._lead(x, first, x_steps)
        sums = self.batch * self.pairs * ceil_div(self.target[1], self.sum_columns)
        jobs = self._jobs(max(self.wanted, ceil_div(sums, SUMS)))
        partial = zeros((max(1, len(jobs)), TAPS**2 * self.channels), x.dtype)

        def start_worker() -> Job:
            def job(i: int) -> None:
                kernels.sum_strips(
                    x, first, x_steps, self.source, gradient, first_gradient, dy_steps, self.target, self.pad,
                    self.stride, self.sum_columns, lead, *jobs[i], partial[i],
                )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)
        total = partial[0] if len(partial) == 1 else add_parts(partial)
        # (C, taps) from (taps, C)
        dw[...] = total.reshape(-1, self.channels).T.reshape(dw.shape)
