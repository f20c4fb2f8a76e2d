"""Implicit GEMM: convolution without columns, with vectors along filters.

What the taps read is a band, some rows of some planes and images with the channels last and padding around
them (`fastconv.kernels.pack`); images with the channels last whose rows need no padding are their own band.
Every pixel of the output is a row of a product whose other side is the packed weights, and reads its taps
where they lie in the band (`fastconv.kernels.gemm`). So planes need not be large, and strides and dilations
only change where rows begin. Taps that read padding along the depth are passed over.

    forward          pixels of the output and vectors along filters
    backward-input   for each phase of the stride, pixels of the input and vectors along channels, over the
                     taps that reach the phase
    backward-weight  filters and vectors along channels, summed along the rows of the output

A job owns chunks of pixels and some of the filters; jobs follow from the shape alone.
"""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import aligned, contiguous
from fastconv.engine.decompose import Axis, PhaseGrid, forward_axis
from fastconv.engine.gemm_filters import NARROW, NARROW_PIXELS, PART_PANELS, SUM, Axes, Blocking
from fastconv.engine.gemm_weights import FEW_CHANNELS, MANY_TAPS, WeightGradient
from fastconv.engine.partition import KEPT_BYTES, TABLE_BYTES, Grid, Latest, Tables, ceil_div, jobs_now
from fastconv.engine.problem import Counts, Problem
from fastconv.engine.tensor import Images, Three, finite
from fastconv.geometry import Geometry
from fastconv.kernels import gemm as kernels
from fastconv.kernels.tile import PANEL, ROWS
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

if TYPE_CHECKING:
    from fastconv.engine.algorithm import Pass

# Pixels of a chunk: enough for the weights to be worth their way from memory.
CHUNK_PIXELS = 384
# Pixels of a chunk at the least, where there are small planes of several images.
FEWEST_PIXELS = 48
# Weights that one job packs at the least, in a few microseconds.
PACKED_ELEMENTS = 2**16
# Weights that are packed at a time where each panel meets one chunk only, to stay in L2: forward over one
# image of 512x7 -> 2048 in 1.03 ms when all are packed first and in 0.82 with these. Not so weights whose
# lanes lie side by side, which are copied in whole rows.
FRESH_BYTES = 2**18
# Weights for each pixel of the batch, up to which gradients of exchanged operands are worth transposing back:
# 70 and 118 GF/s (one image of 512x7 -> 2048, channels last), but 143 and 133 (two of 256x14 -> 1024).
TRANSPOSED_WEIGHTS = 1024
# Phases of a stride that a plan keeps.
MOST_KEPT_PHASES = 9
# What a chunk of one row may read.
MOST_BAND_BYTES = 6 * 2**20


class Cut(NamedTuple):
    """How a pass is shared."""

    jobs: Grid  # groups, panels of filters, chunks
    packers: Grid  # groups, vectors of filters of the weights that are packed
    # Elements of the band and of a chunk's pixels.
    band: int
    pixels: int


class ImplicitGemm:
    """The forward pass, or one phase of backward-input."""

    alike = 1  # phases

    def __init__(self, blocking: Blocking, strides: Three) -> None:
        """``strides`` are those of the weights along filters, channels and taps of a group."""
        s = self.blocking = blocking
        self.lane_stride, self.channel_stride, self.tap_stride = strides
        self.chunk = s.chunk(NARROW_PIXELS if s.channels < NARROW else CHUNK_PIXELS)
        if s.taps.count == 1 and not s.in_place:
            # Rather more chunks than parts of the filters, which fill the band again: 119 and 145 GF/s (512x4
            # -> 512, batch 64).
            fewest = max(ceil_div(s.batch, s.wanted), ceil_div(FEWEST_PIXELS, s.pixels))
            images, planes, rows, columns = self.chunk
            self.chunk = min(images, fewest), planes, rows, columns
        self.chunk_count, self.windows = s.chunks(self.chunk), s.windows(self.chunk, s.channels, s.pitch)
        # Panels that meet one chunk only are packed just before, so many at a time.
        self.fresh = self.chunk_count == 1 and s.depth == 1 and self.lane_stride != 1
        panel_bytes = s.taps.elements * s.panel * s.dtype.itemsize
        self.room = min(s.panels, max(1, FRESH_BYTES // panel_bytes))
        self.in_place = s.last and s.filters % s.lanes == 0
        self._cuts: Latest[Cut] = Latest()

    @Tables
    def tables(self) -> tuple[Array, ...]:
        """What the taps read of a band, and how the weights are packed.

        See `Taps.runs`, `Taps.reach` and `Taps.packing`.
        """
        s = self.blocking
        a_runs, b_runs, sums = s.taps.runs(*s.strides(self.chunk))
        packing = s.taps.packing(self.tap_stride, self.channel_stride, self.lane_stride != 1)
        return a_runs, b_runs, sums, s.taps.reach(len(sums)), *packing

    def cut(self, wanted: int) -> Cut:
        """The work and the weights in so many jobs, or as many as there can be."""
        s, part = self.blocking, self.blocking.panels
        # Pixels that wait for their place in the image are scratch, however many jobs there are.
        least = wanted if self.in_place else s.wanted
        while part > PART_PANELS and self.chunk_count * s.groups * ceil_div(s.panels, part) < least:
            part = ceil_div(part, 2)
        step = ceil_div(self.chunk_count * s.groups * ceil_div(s.panels, part), wanted)
        elements = s.panels * s.taps.elements * s.panel * s.groups
        vectors = ceil_div(s.filters, s.lanes)
        packers = ceil_div(min(wanted, max(1, elements // PACKED_ELEMENTS)), s.groups)
        pitch = min(part * s.panel, vectors * s.lanes)
        return Cut(
            Grid((s.groups, 1), (s.panels, part), (self.chunk_count, step)),
            Grid((s.groups, 1), (vectors, ceil_div(vectors, packers))),
            0 if s.in_place else s.band_bytes(self.chunk) // s.dtype.itemsize,
            0 if self.in_place else prod(self.chunk) * pitch,
        )

    @property
    def scratch_bytes(self) -> int:
        """What a thread needs; packed weights are not counted."""
        cut = self.cut(self.blocking.wanted)
        return (cut.band + cut.pixels) * self.blocking.dtype.itemsize

    def run(
        self, x: Images, w: Array, group_stride: int, bias: Array, y: Images, first: Three, stride: Three
    ) -> None:
        """Write the pixels of ``y`` from ``first`` on in strides.

        ``w`` is flat, with ``group_stride`` from one group to the next; ``bias`` is (groups, filters in whole
        panels).
        """
        s, elements = self.blocking, self.blocking.taps.elements
        cut = self._cuts.of(self.cut, jobs_now(s.work))
        a_runs, b_runs, sums, reach, *packing = self.tables
        taps = a_runs, b_runs, sums, reach
        weights = [(w, g * group_stride, self.lane_stride, *packing, elements) for g in range(s.groups)]
        packed = [] if self.fresh else self._pack(weights, cut.packers)
        fresh = self.room if self.fresh else 0

        def start_worker() -> Job:
            scratch = aligned(cut.band, s.dtype), aligned(cut.pixels, s.dtype)
            panels = aligned(fresh * elements * s.panel, s.dtype)

            def job(i: int) -> None:
                (group, _), (begin, end), chunks = cut.jobs[i]
                kernels.convolve_bands(
                    x.flat, x.strides(group * s.channels), self.windows, weights[group],
                    panels if self.fresh else packed[group], taps, (begin, end, s.filters, s.panel, fresh),
                    bias[group], y.flat, y.phase(group * s.filters, first, stride), chunks, scratch,
                )  # fmt: skip

            return job

        run_jobs(len(cut.jobs), start_worker)

    def _pack(self, weights: list[Any], jobs: Grid) -> list[Array]:
        """The weights of every group as panels."""
        s = self.blocking
        size = s.panels * s.taps.elements * s.panel
        packed = [aligned(size, s.dtype) for _ in range(s.groups)]

        def start_worker() -> Job:
            square = aligned(s.lanes * s.lanes, s.dtype)

            def job(i: int) -> None:
                (group, _), (begin, end) = jobs[i]
                vectors = begin, end, s.filters, s.panel // s.lanes
                kernels.pack_panels(weights[group], vectors, packed[group], square)

            return job

        run_jobs(len(jobs), start_worker)
        return packed


class Gemm:
    """Implicit GEMM over bands, with vectors along filters."""

    name, label = "gemm", "gemm/filters"

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        self.geometry = g
        self.dtype = g.compute_dtype
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups
        taps = self.taps = prod(g.kernel)
        # From one filter, channel and tap to the next: the weights keep the layout of the images.
        c = self.group_channels
        self.strides = (taps * c, 1, c) if g.channels_last else (taps * c, taps, 1)

    @cached_property
    def axes(self) -> Axes:
        """What the forward pass reads."""
        g = self.geometry
        return forward_axis(g, 0), forward_axis(g, 1), forward_axis(g, 2)

    @cached_property
    def apart(self) -> Three:
        """Pixels of the image from one that is seen to the next.

        One tap reads pixels that lie apart: they are taken for an image of their own, without a stride, so
        that no others are read: forward 93 and 116 GF/s, backward-weight 97 and 131 (512x28 -> 256, 1x1 in
        strides of 2).
        """
        g = self.geometry
        seen = self.taps == 1 and not g.channels_last and all([axis.unpadded for axis in self.axes])
        return g.stride if seen else (1, 1, 1)

    @cached_property
    def blocking(self) -> Blocking:
        """That of the forward pass."""
        return self._blocking(self._seen, self.group_channels, self.group_filters)

    @property
    def _seen(self) -> Axes:
        """The axes of the image that is seen."""
        if self.apart == (1, 1, 1):
            return self.axes
        d, h, w = (Axis(axis.output, axis.output, 1, axis.lowest, 1, 1, 0, 1) for axis in self.axes)
        return d, h, w

    @cached_property
    def forward_pass(self) -> ImplicitGemm:
        """The forward pass."""
        return ImplicitGemm(self.blocking, self.strides)

    @cached_property
    def weight_gradient(self) -> WeightGradient:
        """The backward-weight pass."""
        g, c = self.geometry, self.group_channels
        # What is broadcast is transposed where channels are last, what is in panels where they are first.
        narrower = c < self.group_filters if g.channels_last else c > self.group_filters
        pays = g.batch * g.pixels * TRANSPOSED_WEIGHTS >= c * self.group_filters
        here = self.taps == 1 and self.blocking.unmoved and self.apart == (1, 1, 1)
        if here and narrower and pays:
            return WeightGradient(self._blocking(self._seen, self.group_filters, c), True)
        return WeightGradient(self.blocking, False)

    @cached_property
    def phases(self) -> PhaseGrid:
        """Those of the stride, for the backward-input pass."""
        return PhaseGrid(self.geometry)

    @property
    def transposes(self) -> bool:
        """Whether the backward-input pass transposes the weights to have their channels last.

        Several phases each pack some taps: of weights with the channels last they are vectors.
        """
        return self.phases.all > 1 and self.taps > 1 and not self.geometry.channels_last

    def _phase(self, first: Three) -> ImplicitGemm:
        """What makes the pixels of a phase of the stride, by its first pixel."""
        made = self._made.get(first)
        if made is None:
            filter_stride, channel_stride, tap_stride = self.strides
            if self.transposes:
                channel_stride, tap_stride = 1, self.group_channels
            blocking = self._blocking(self.phases.axes(first), self.group_filters, self.group_channels)
            made = ImplicitGemm(blocking, (channel_stride, filter_stride, tap_stride))
            made.alike = len(self.phases)
            if made.alike <= MOST_KEPT_PHASES:
                self._made[first] = made
        return made

    @cached_property
    def _made(self) -> dict[Three, ImplicitGemm]:
        return {}

    def _blocking(self, axes: Axes, channels: int, filters: int) -> Blocking:
        g = self.geometry
        return Blocking(axes, g.batch, g.groups, channels, filters, g.kernel, self.dtype, g.channels_last)

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """All but rows that need more scratch than there may be."""
        g = geometry
        if min(g.batch, g.channels, g.filters, g.pixels) == 0:
            return "there is nothing to compute"
        largest = _largest_band(g)
        if largest > MOST_BAND_BYTES:
            return f"one line of output needs {largest} bytes of scratch, more than {MOST_BAND_BYTES}"
        return None

    @staticmethod
    def counts(p: Problem) -> Counts:
        """Tiles of `ROWS` pixels by a panel of filters; bands and weights that are packed.

        A step multiplies one element of a tile's pixels, each broadcast, with the vectors of a panel: ``fma``
        and ``broadcasts``. ``runs`` are the loops of a tile over elements that lie behind each other.
        ``band`` and ``out`` are bytes that are brought to a band and to the output, ``spread`` the pixels of
        groups between those of others, ``lines`` the rows of the bands.
        """
        if p.which == "backward_weight":
            return Gemm._counts_of_sums(p)
        g, panels = p.geometry, ceil_div(p.vectors, PANEL)
        cells, taps = p.cells, p.taps / p.reached
        joined = p.reached == 1 and g.dilation[2] == 1 and g.kernel[2] * p.channels <= SUM
        runs = max(taps / g.kernel[2] if joined else taps, taps * p.channels / SUM)
        own = p.last and p.groups == 1 and p.which == "forward" and not p.padded
        in_place = p.last and p.filters % p.lanes == 0
        seen, lines = (0, 0) if own else (p.seen * p.reached, p.seen_lines * p.reached)
        apart = p.last and p.groups > 1
        written = p.target_bytes * p.reached // p.phases
        # Tables that a plan has no room for are made by every call.
        many = p.reached > MOST_KEPT_PHASES or p.channels * taps * TABLE_BYTES > KEPT_BYTES
        return Counts(
            "gemm/filters",
            {
                "call": 1,
                "calls": p.groups * p.reached,
                "images": p.batch * p.groups * p.reached,
                "fma": p.work / p.filters * p.vectors,
                "broadcasts": p.work / p.filters * panels,
                "tiles": cells / ROWS * panels,
                "runs": cells / ROWS * panels * runs,
                "band_last" if p.last else "band_first": seen * p.channels * p.itemsize,
                "band_lines": lines if p.last else lines * p.channels,
                "band_spread": seen if apart else 0,
                "out_last" if p.last else "out_first": 0 if in_place else written,
                "out_lines": 0 if in_place else p.batch * p.groups * p.reached * p.lines * p.vectors,
                "out_spread": cells if apart and not in_place else 0,
                "weights": p.groups * p.vectors * p.lanes * p.channels * p.taps * p.itemsize,
                "zeroed": p.target_bytes if p.reached < p.phases else 0,
                "tables": p.reached if many else 0,
                "table_rows": p.channels * p.taps if many else 0,
                "chunks": p.groups * p.reached * max(p.cells / (p.groups * p.reached * CHUNK_PIXELS), 1),
                "source_far": p.source_far,
                "target_far": p.target_far,
                "weights_far": p.weights_far,
            },
        )

    @staticmethod
    def _counts_of_sums(p: Problem) -> Counts:
        """Tiles of `ROWS` filters by a panel of elements, whose columns are packed; or both exchanged.

        The latter, ``few``, where the vectors lie along filters (`fastconv.kernels.gemm.sum_few`).
        """
        g, elements = p.geometry, p.channels * p.taps
        pays = p.last or p.taps > 9 or (p.taps > 1 and p.filters <= PANEL * p.lanes)
        few = pays and (p.channels <= FEW_CHANNELS or (not p.last and p.taps >= MANY_TAPS))
        reach = (g.output[0] - 1) * g.stride[0] + (g.kernel[0] - 1) * g.dilation[0] - g.padding[0]
        few = few and g.padding[0] == 0 and reach < g.input[0]
        lines = p.seen_lines
        apart = p.last and p.groups > 1
        counted = {
            "call": 1,
            "calls": p.groups * p.jobs,
            "images": p.batch * p.groups,
            "band_last" if p.last else "band_first": p.seen * p.channels * p.itemsize,
            "band_lines": lines if p.last else lines * p.channels,
            "band_spread": p.seen if apart else 0,
            "weights": p.weight_bytes,
            "parts": p.weight_bytes * p.jobs,
            "table_rows": elements if elements * TABLE_BYTES > KEPT_BYTES else 0,
            "source_far": p.source_far,
            "target_far": p.target_far,
            "weights_far": p.weights_far,
        }
        if few:
            panels, rows = ceil_div(p.vectors, PANEL), ceil_div(elements, ROWS)
            return Counts(
                "gemm/filters_few",
                counted
                | {
                    "fma": p.work / p.filters * p.vectors,
                    "broadcasts": p.work / p.filters * panels,
                    "tiles": p.batch * p.groups * p.lines * rows * panels,
                    "gradients": p.target_bytes,
                    "gradient_lines": p.batch * p.groups * p.lines * p.vectors,
                    "gradients_spread": p.cells if apart else 0,
                },
            )
        vectors = ceil_div(elements, p.lanes)
        joined = g.dilation[2] == 1 and g.kernel[2] * p.channels <= SUM
        return Counts(
            "gemm/filters",
            counted
            | {
                "fma": p.work / elements * vectors,
                "broadcasts": p.work / elements * ceil_div(vectors, PANEL),
                "tiles": p.cells / 256 * ceil_div(vectors, PANEL) * ceil_div(p.filters, ROWS),
                "columns": p.cells * elements * p.itemsize,
                "pieces": p.cells * (p.taps / g.kernel[2] if joined else p.taps),
                "turned": p.target_bytes if p.last else 0,
                "turned_spread": p.cells if apart else 0,
                "weights_first": 0 if p.last else p.weight_bytes,
            },
        )

    @property
    def scratch_bytes(self) -> int:
        """Bands, pixels and sums; packed weights are not counted."""
        back = max([self._phase(first).scratch_bytes for first in self.phases.kinds], default=0)
        return max(self.weight_gradient.scratch_bytes, self.forward_pass.scratch_bytes, back)

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """One product."""
        image, output = self._images(x, self.apart), self._images(y)
        if self.blocking.cut and not finite(w):
            return False  # padding along the depth is not multiplied here
        g, s = self.geometry, self.blocking
        added = np.zeros((g.groups, s.panels * s.panel), y.dtype)
        if bias is not None:
            added[:, : s.filters] = bias.reshape(g.groups, s.filters)
        weights = self._flat(w)
        self.forward_pass.run(image, weights, self._group_stride, added, output, (0, 0, 0), (1, 1, 1))
        return True

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """A product for each phase of the stride."""
        gradient, result = self._images(dy), self._images(dx)
        if self.phases.padded and not finite(w):
            return False  # padding is multiplied here
        g, weights = self.geometry, self._transposed(w) if self.transposes else self._flat(w)
        if not self.phases.whole:
            dx[...] = 0
        for first in self.phases:
            made = self._phase(first)
            none = np.zeros((g.groups, made.blocking.panels * made.blocking.panel), dx.dtype)
            made.run(gradient, weights, self._group_stride, none, result, first, g.stride)
        return True

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Sums along rows."""
        gradient, image = self._images(dy), self._images(x, self.apart)
        if self.blocking.cut and self.axes[0].blind and not finite(dy):
            return False
        result = self._ordered(dw).reshape(-1)
        operands = (image, gradient) if self.weight_gradient.swapped else (gradient, image)
        self.weight_gradient.run(*operands, result)
        # As in the forward pass: gradients that are not finite belong to taps that were passed over, too.
        return not self.blocking.cut or finite(result)

    @property
    def _group_stride(self) -> int:
        filter_stride, _, _ = self.strides
        return self.group_filters * filter_stride

    def _images(self, array: Array, apart: Three = (1, 1, 1)) -> Images:
        return Images.of(array, self.geometry.channels_last, apart)

    def _ordered(self, w: Array) -> Array:
        """Weights (K, C/G, T, R, S) with their axes in the order of the layout."""
        return w.transpose(0, 2, 3, 4, 1) if self.geometry.channels_last else w

    def _transposed(self, w: Array) -> Array:
        """The weights (K, C/G, T, R, S) with their channels last."""
        flat = self._flat(w)
        channels, lanes = self.group_channels, VECTOR_BYTES // flat.itemsize
        taps, result = flat.size // (len(w) * channels), aligned(flat.size, flat.dtype)
        square = aligned(lanes * lanes, self.dtype)
        kernels.transpose_filters(flat, len(w), channels * taps, 1, 0, channels, taps, result, square)
        return result

    def _flat(self, w: Array) -> Array:
        """The weights as they lie in memory, a copy where they have gaps."""
        return contiguous(self._ordered(w)).reshape(-1)


def _largest_band(geometry: Geometry) -> int:
    """Bytes of the smallest band of any pass, by arithmetic alone."""
    g = geometry
    reach = [d * (k - 1) + 1 for d, k in zip(g.dilation, g.kernel, strict=True)]
    width = max(g.input[2], g.output[2] * g.stride[2])
    # A piece of a row, as `Blocking.chunk` cuts it.
    width = min(width, max(NARROW_PIXELS, reach[2]) * g.stride[2]) + 2 * reach[2]
    return max(g.channels, g.filters) // g.groups * reach[0] * reach[1] * width * g.compute_dtype.itemsize
