"""1x1 convolution with the channels first: products of weights and packed pixels, vectors along pixels.

    forward          weights (filters, channels) and pixels (channels, pixels)
    backward-input   transposed weights and the pixels of the output's gradient; a stride leaves pixels zero

Both are `fastconv.kernels.gemm_pixels`. Pixels are counted through the batch, so planes may be small; those
of a depth make one, unless a stride parts their rows. A job owns pixels and some of the filters; jobs
follow from the shape alone.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import aligned, contiguous, new_result
from fastconv.engine.partition import Grid, Latest, ceil_div, jobs_now, share, wanted_jobs
from fastconv.engine.problem import Counts, Problem
from fastconv.engine.tensor import Three
from fastconv.geometry import Geometry
from fastconv.kernels import gemm_pixels as kernels
from fastconv.kernels.pack import transpose
from fastconv.kernels.tile import PANEL, ROWS
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, get_num_threads, run_jobs

if TYPE_CHECKING:
    from fastconv.engine.algorithm import Pass

# Panels of pixels that are packed at a time, while the next are prefetched (134 GF/s without on 1024x14 ->
# 256, 153 with): 2 to 8 panels are within 5 %, 16 are 10 % slower.
CHUNK_PANELS = 2
# An input that comes from memory is packed so many panels at a time, in longer runs, and each channel is
# prefetched when the one so much before it is packed: 256x56 -> 64 at 125 and 134 GF/s, 128x56 -> 128 at 131
# and 145 (8 images). Not so 256x40 -> 128, 152 and 146, nor 256x56 -> 32.
FAR_BYTES, FAR_PANELS, FAR_CHANNELS, FAR_FILTERS = 16 * 2**20, 4, 2, 64
# Channels that one sum runs over: the panels of a chunk stay in L2.
STEPS = 256
# Weights that one job transposes at the least, in 20 us.
TRANSPOSED_ELEMENTS = 2**16
# Filters of one job at the least, where filters are parted: each part packs the pixels again.
PART_FILTERS = 96
# From image to image, channel to channel, row to row and pixel to pixel; whether pixels lie apart; how many
# an image and a row have.
Pixels = tuple[int, int, int, int, bool, int, int]


class Cut(NamedTuple):
    """How a pass is shared."""

    chunk: int  # pixels that are packed together
    part: int  # filters of a job
    jobs: Grid  # groups, filters, and which share of the panels


class GemmPixels:
    """Kernels of one tap, for arrays with the channels first."""

    name, label = "gemm", "gemm/pixels"

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        self.geometry = g
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups
        self.strided = g.stride != (1, 1, 1)
        self.panel = PANEL * (VECTOR_BYTES // np.dtype(g.compute_dtype).itemsize)
        self.wanted = wanted_jobs(g.multiplications)
        self._cuts: Latest[Cut] = Latest()

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """All but the forward and backward-input passes of kernels of one tap without padding."""
        g = geometry
        if which == "backward_weight":
            return "it has no sums over pixels"
        if g.channels_last:
            return "vectors run along pixels, which are not contiguous with the channels last"
        if prod(g.kernel) != 1:
            return "the kernel has more than one tap"
        # A stride along a height of 1 leaves out no row, but planes would lie that far apart.
        one = g.input[:2] == g.output[:2] and g.stride[1] == 1
        if not (g.input[0] == g.output[0] == 1 or one):
            return "the lines of more than one plane are apart"
        reached = all((o - 1) * s < i for o, s, i in zip(g.output, g.stride, g.input, strict=True))
        if g.padding != (0, 0, 0) or not reached:
            return "there is padding"
        if min(g.batch, g.channels, g.filters, g.pixels) == 0:
            return "there is nothing to compute"
        return None

    @staticmethod
    def counts(p: Problem) -> Counts:
        """Vectors of pixels times filters, and the pixels that are packed and written, channel by channel."""
        panel = PANEL * p.lanes
        pixels = ceil_div(p.batch * p.lines * p.extent[2], panel) * PANEL
        each = p.lines * p.extent[2]
        images, runs = p.batch * p.groups, ceil_div(each, panel)
        forward = p.which == "forward"
        return Counts(
            "gemm/pixels",
            {
                "call": 1,
                "calls": p.groups * p.jobs,
                "units": images,
                "fma": p.groups * pixels * p.filters * p.channels,
                "loads": p.groups * pixels * ceil_div(p.filters, ROWS) * p.channels,
                "packed": images * p.channels * each * p.itemsize,
                "packed_rows": images * p.channels * runs,
                "out": images * p.filters * each * p.itemsize,
                "out_rows": images * p.filters * runs,
                "apart": images * (p.channels if forward else p.filters) * each if p.strided else 0,
                "lines": images * (p.channels if forward else p.filters) * p.lines if p.strided else 0,
                "zeroed": p.target_bytes if p.strided and not forward else 0,
                "weights": p.weight_bytes,
                "weights_far": p.weights_far,
                "source_far": p.source_far,
                "target_far": p.target_far,
            },
        )

    @property
    def scratch_bytes(self) -> int:
        """Packed pixels and results of a chunk."""
        widest = max(self.group_filters, self.group_channels)
        elements = FAR_PANELS * self.panel * (min(STEPS, widest) + widest)
        return elements * self.geometry.compute_dtype.itemsize

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """All filters of a group at every pixel."""
        matrices = contiguous(w).reshape(self.geometry.groups, self.group_filters, self.group_channels)
        self._run(x, self._pixels(x, self.geometry.stride), matrices, bias, y, self._pixels(y))
        return True

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """All channels of a group at every pixel of the gradient."""
        if self.strided:
            dx[...] = 0
        target = self._pixels(dx, self.geometry.stride)
        self._run(dy, self._pixels(dy), self._transposed(w), None, dx, target)
        return True

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Not served: see `why_not`."""
        raise NotImplementedError(self.why_not(self.geometry, "backward_weight"))

    def _transposed(self, w: Array) -> Array:
        """Weights (K, C/G, 1, 1, 1) as (groups, channels, filters): some channels a job."""
        groups, filters, channels = self.geometry.groups, self.group_filters, self.group_channels
        flat = contiguous(w).reshape(groups, filters * channels)
        matrices = new_result((groups, channels * filters), w.dtype)
        wanted = ceil_div(max(1, min(get_num_threads(), w.size // TRANSPOSED_ELEMENTS)), groups)
        lanes = self.panel // PANEL
        step = ceil_div(ceil_div(channels, wanted), lanes) * lanes
        jobs = Grid((groups, 1), (channels, step))

        def start_worker() -> Job:
            square = aligned(lanes * lanes, w.dtype)

            def job(i: int) -> None:
                (group, _), (first, stop) = jobs[i]
                target = matrices[group, first * filters :]
                transpose(flat[group], first, channels, filters, stop - first, target, filters, square)

            return job

        run_jobs(len(jobs), start_worker)
        return matrices.reshape(groups, channels, filters)

    def _pixels(self, array: Array, stride: Three = (1, 1, 1)) -> Pixels:
        """What the kernels call ``Pixels``, of all but the first one: those that lie a stride apart."""
        g = self.geometry
        _, channels, depth, height, width = array.shape
        plane = depth * height * width
        strides = channels * plane, plane, stride[1] * width, stride[2]
        return *strides, stride != (1, 1, 1), g.pixels, g.output[2]

    def _cut(self, filters: int, far: bool, wanted: int) -> Cut:
        """The pixels of a group in chunks, and the work in so many jobs."""
        g = self.geometry
        panels = ceil_div(g.batch * g.pixels, self.panel)
        chunk = min(FAR_PANELS if far else CHUNK_PANELS, panels) * self.panel
        chunks, part, most = ceil_div(g.batch * g.pixels, chunk), filters, max(self.wanted, wanted)
        while part > PART_FILTERS and chunks * g.groups * ceil_div(filters, part) < most:
            part = ceil_div(part, 2)
        shares = min(panels, ceil_div(wanted, g.groups * ceil_div(filters, part)))
        return Cut(chunk, part, Grid((g.groups, 1), (filters, part), (shares, 1)))

    def _run(
        self, x: Array, source: Pixels, matrices: Array, bias: Array | None, y: Array, target: Pixels
    ) -> None:
        """Write the pixels ``target`` of ``y``, of which ``source`` are those of ``x`` (see `_pixels`)."""
        g, dtype = self.geometry, y.dtype
        _, filters, channels = matrices.shape
        _, plane, _, _, spread, _, _ = source
        _, out_plane, *_ = target
        far = x.nbytes > FAR_BYTES and filters >= FAR_FILTERS and not spread
        steps, ahead = min(STEPS, channels), FAR_CHANNELS if far else 0
        chunk, part, jobs = self._cuts.of(self._cut, filters, far, jobs_now(g.multiplications))
        pixels = g.batch * g.pixels
        panels, shares = ceil_div(pixels, self.panel), jobs.counts[2]
        added = np.zeros(self.panel, dtype)
        if bias is not None:
            added = np.repeat(bias, self.panel)
        flat_x, flat_w, flat_y = x.reshape(-1), matrices.reshape(-1), y.reshape(-1)

        def start_worker() -> Job:
            scratch = aligned(chunk * steps, dtype), aligned(chunk * part, dtype)

            def job(i: int) -> None:
                (group, _), (first, stop), (which, _) = jobs[i]
                begin, end = share(panels, shares, which)
                span = begin * self.panel, min(pixels, end * self.panel)
                rows = added if bias is None else added[group * filters * self.panel :]
                kernels.convolve_pixels(
                    flat_x, (group * channels * plane, *source), flat_w[group * filters * channels :], rows,
                    flat_y, (group * filters * out_plane, *target),
                    (channels, first, stop, *span, chunk, steps, ahead), scratch,
                )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)
