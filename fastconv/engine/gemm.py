"""Convolution without columns, with vectors along filters.

Every cell of the output reads its taps where they lie.

What the taps read is a band, some lines of some planes and images with the channels last and padding around
them (`fastconv.kernels.pack`); images with the channels last whose lines need no padding are their own band.
Every cell of the output is a row of a product whose other side is the packed weights, so planes need not be
large, and strides and dilations only change where rows begin (`fastconv.kernels.gemm`). Taps that read
padding along the depth are passed over: of 3x3x3 taps on 4 planes a sixth.

    forward          cells of the output and vectors along filters
    backward-input   for each phase of the stride, cells of the input and vectors along channels, over the
                     taps that reach the phase
    backward-weight  filters and vectors along channels, summed along the lines of the output

A job owns chunks of lines and some of the filters; jobs follow from the shape alone.
"""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import aligned, contiguous
from fastconv.engine.decompose import Axis, PhaseGrid, forward_axis
from fastconv.engine.gemm_filters import FEW_CELLS, PART_PANELS, SUM, Axes, Sweep
from fastconv.engine.gemm_weights import FEW_CHANNELS, MANY_TAPS, WeightSums
from fastconv.engine.im2col_narrow import FEW
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

# Cells of a chunk: enough for the weights to be worth their way from memory.
CELLS = 384
# Cells of a chunk at the least, where there are small planes of several images.
FEWEST_CELLS = 48
# Weights that one job packs at the least, in a few microseconds.
PACKED_ELEMENTS = 2**16
# Weights that are packed at a time where each panel meets one chunk only, to stay in L2: forward over one
# image of 512x7 -> 2048 in 1.03 ms when all are packed first, in 0.88 with 512 KiB at a time and in 0.82 with
# these. Not so weights whose lanes lie side by side, which are copied in whole rows: 0.98 ms and 1.08
# (backward-input).
FRESH_BYTES = 2**18
# Weights for each pixel of the batch, up to which gradients of exchanged operands are worth turning back: 70
# and 118 GF/s (one image of 512x7 -> 2048, channels last), 78 and 113 (2048x7 -> 512, first), 141 and 154 (8
# images), but 143 and 133 (two of 256x14 -> 1024).
TURNED_WEIGHTS = 1024
# Phases of a stride that a plan keeps.
MOST_KEPT_PHASES = 9
# What a chunk of one line may read.
MOST_BAND_BYTES = 6 * 2**20


class Cut(NamedTuple):
    """How a correlation is shared."""

    jobs: Grid  # groups, panels of filters, chunks
    packers: Grid  # groups, vectors of filters of the weights that are packed
    # Elements of the band and of a chunk's cells.
    band: int
    cells: int


class Correlation:
    """Forward over one `Sweep`, or one phase of backward-input."""

    alike = 1  # phases

    def __init__(self, sweep: Sweep, steps: tuple[int, int, int]) -> None:
        """``steps`` are those of the weights along filters, channels and taps of a group."""
        s = self.sweep = sweep
        self.lane_step, self.channel_step, self.tap_step = steps
        self.chunk = s.chunk(FEW_CELLS if s.channels < FEW else CELLS)
        if s.taps.count == 1 and not s.own:
            # Rather more chunks than parts of the filters, which fill the band again: 119 and 145 GF/s (512x4
            # -> 512, batch 64), 96 and 121 (1024x14 -> 512 in strides of 2).
            fewest = max(ceil_div(s.batch, s.wanted), ceil_div(FEWEST_CELLS, s.cells))
            self.chunk = min(self.chunk[0], fewest), *self.chunk[1:]
        self.chunk_count, self.windows = s.chunks(self.chunk), s.windows(self.chunk)
        # Panels that meet one chunk only are packed just before, so many at a time.
        self.fresh = self.chunk_count == 1 and s.depth == 1 and self.lane_step != 1
        panel_bytes = s.taps.elements * s.panel * s.dtype.itemsize
        self.room = min(s.panels, max(1, FRESH_BYTES // panel_bytes))
        self.in_place = s.last and s.filters % s.lanes == 0
        self._cuts: Latest[Cut] = Latest()

    @Tables
    def tables(self) -> tuple[Array, ...]:
        """What the taps read of a band, and how the weights are packed.

        See `Taps.runs`, `Taps.reach` and `Taps.packing`.
        """
        s = self.sweep
        a_runs, b_runs, sums = s.taps.runs(*s.steps(self.chunk))
        packing = s.taps.packing(self.tap_step, self.channel_step, self.lane_step != 1)
        return a_runs, b_runs, sums, s.taps.reach(len(sums)), *packing

    def cut(self, wanted: int) -> Cut:
        """The work and the weights in so many jobs, or as many as there can be."""
        s, part = self.sweep, self.sweep.panels
        # Cells that wait for their place in the image are scratch, however many jobs there are.
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
            0 if s.own else s.band_bytes(self.chunk) // s.dtype.itemsize,
            0 if self.in_place else prod(self.chunk) * pitch,
        )

    @property
    def scratch_bytes(self) -> int:
        """What a thread needs; packed weights are not counted."""
        cut = self.cut(self.sweep.wanted)
        return (cut.band + cut.cells) * self.sweep.dtype.itemsize

    def run(
        self, x: Images, w: Array, group_step: int, bias: Array, y: Images, first: Three, stride: Three
    ) -> None:
        """Write the cells of ``y`` from ``first`` on in strides.

        ``w`` is flat, with ``group_step`` from one group to the next; ``bias`` is (groups, filters in whole
        panels).
        """
        s, t = self.sweep, self.sweep.taps
        cut = self._cuts.of(self.cut, jobs_now(s.work))
        a_runs, b_runs, sums, reach, *packing = self.tables
        taps = a_runs, b_runs, sums, reach
        weights = [(w, g * group_step, self.lane_step, *packing, t.elements) for g in range(s.groups)]
        packed = [] if self.fresh else self._pack(weights, cut.packers)
        fresh = self.room if self.fresh else 0

        def start_worker() -> Job:
            band, cells = aligned(cut.band, s.dtype), aligned(cut.cells, s.dtype)
            panels = aligned(fresh * t.elements * s.panel, s.dtype)

            def job(i: int) -> None:
                (group, _), (begin, end), chunks = cut.jobs[i]
                kernels.convolve_bands(
                    x.flat, x.steps(group * s.channels), self.windows, weights[group],
                    panels if self.fresh else packed[group], taps, (begin, end, s.filters, s.panel, fresh),
                    bias[group], y.flat, y.phase(group * s.filters, first, stride), chunks, (band, cells),
                )  # fmt: skip

            return job

        run_jobs(len(cut.jobs), start_worker)

    def _pack(self, weights: list[Any], jobs: Grid) -> list[Array]:
        """The weights of every group as panels."""
        s = self.sweep
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
    """Bands, with vectors along filters."""

    name, label = "gemm", "gemm/filters"

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        self.geometry = g
        self.dtype = g.compute_dtype
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups
        taps = self.taps = prod(g.kernel)
        # From one filter, channel and tap to the next: the weights keep the layout of the images.
        c = self.group_channels
        self.steps = (taps * c, 1, c) if g.channels_last else (taps * c, taps, 1)

    @cached_property
    def axes(self) -> Axes:
        """What the forward pass reads."""
        g = self.geometry
        return forward_axis(g, 0), forward_axis(g, 1), forward_axis(g, 2)

    @cached_property
    def apart(self) -> Three:
        """Cells of the image from one that is seen to the next.

        One tap reads cells that lie apart: they are taken for an image of their own, without a stride, so
        that no others are read: forward 93 and 116 GF/s, backward-weight 97 and 131 (512x28 -> 256, 1x1 in
        strides of 2).
        """
        g = self.geometry
        seen = self.taps == 1 and not g.channels_last and all([axis.unpadded for axis in self.axes])
        return g.stride if seen else (1, 1, 1)

    @cached_property
    def sweep(self) -> Sweep:
        """That of the forward pass."""
        return self._sweep(self._seen, self.group_channels, self.group_filters)

    @property
    def _seen(self) -> Axes:
        """The axes of the image that is seen."""
        if self.apart == (1, 1, 1):
            return self.axes
        d, h, w = (Axis(axis.output, axis.output, 1, axis.lowest, 1, 1, 0, 1) for axis in self.axes)
        return d, h, w

    @cached_property
    def correlation(self) -> Correlation:
        """The forward pass."""
        return Correlation(self.sweep, self.steps)

    @cached_property
    def weight_sums(self) -> WeightSums:
        """The backward-weight pass."""
        g, c = self.geometry, self.group_channels
        # What is broadcast is turned where channels are last, what is in panels where they are first.
        narrower = c < self.group_filters if g.channels_last else c > self.group_filters
        pays = g.batch * g.pixels * TURNED_WEIGHTS >= c * self.group_filters
        here = self.taps == 1 and self.sweep.unmoved and self.apart == (1, 1, 1)
        swapped = here and narrower and pays
        return WeightSums(self._sweep(self._seen, self.group_filters, c) if swapped else self.sweep, swapped)

    @cached_property
    def phases(self) -> PhaseGrid:
        """Those of the stride, for the backward-input pass."""
        return PhaseGrid(self.geometry)

    @property
    def turns(self) -> bool:
        """Whether the backward-input pass turns the weights to have their channels last.

        Several phases each pack some taps: of weights with the channels last they are vectors. 65 and 86 GF/s
        on 128x8x14 -> 256 with 3x3x3 taps and stride 2, float32, AVX-512 Xeon.
        """
        return self.phases.all > 1 and self.taps > 1 and not self.geometry.channels_last

    def _phase(self, first: Three) -> Correlation:
        """The correlation that makes the cells of a phase of the stride, by its first cell."""
        made = self._made.get(first)
        if made is None:
            filter_step, channel_step, tap_step = self.steps
            if self.turns:
                channel_step, tap_step = 1, self.group_channels
            sweep = self._sweep(self.phases.axes(first), self.group_filters, self.group_channels)
            made = Correlation(sweep, (channel_step, filter_step, tap_step))
            made.alike = len(self.phases)
            if made.alike <= MOST_KEPT_PHASES:
                self._made[first] = made
        return made

    @cached_property
    def _made(self) -> dict[Three, Correlation]:
        return {}

    def _sweep(self, axes: Axes, channels: int, filters: int) -> Sweep:
        g = self.geometry
        return Sweep(axes, g.batch, g.groups, channels, filters, g.kernel, self.dtype, g.channels_last)

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """All but lines that need more scratch than there may be."""
        g = geometry
        if min(g.batch, g.channels, g.filters, g.pixels) == 0:
            return "there is nothing to compute"
        largest = _largest_band(g)
        if largest > MOST_BAND_BYTES:
            return f"one line of output needs {largest} bytes of scratch, more than {MOST_BAND_BYTES}"
        return None

    @staticmethod
    def counts(p: Problem) -> Counts:
        """Tiles of `ROWS` cells by a panel of filters; bands and weights that are packed.

        A step multiplies one element of a tile's cells, each broadcast, with the vectors of a panel: ``fma``
        and ``broadcasts``. ``runs`` are the loops of a tile over elements that lie behind each other.
        ``band`` and ``out`` are bytes that are brought to a band and to the output, ``spread`` the cells of
        groups between those of others; ``lines`` those of the bands, ``rows`` where each channel has its own.
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
                "chunks": p.groups * p.reached * max(p.cells / (p.groups * p.reached * CELLS), 1),
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
        """Bands, cells and sums; packed weights are not counted."""
        back = max([self._phase(first).scratch_bytes for first in self.phases.kinds], default=0)
        return max(self.weight_sums.scratch_bytes, self.correlation.scratch_bytes, back)

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """One correlation."""
        image, output = self._images(x, self.apart), self._images(y)
        if self.sweep.cut and not finite(w):
            return False  # padding along the depth is not multiplied here
        g, s = self.geometry, self.sweep
        added = np.zeros((g.groups, s.panels * s.panel), y.dtype)
        if bias is not None:
            added[:, : s.filters] = bias.reshape(g.groups, s.filters)
        made = self.correlation
        made.run(image, self._flat(w), self._group_step, added, output, (0, 0, 0), (1, 1, 1))
        return True

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """A correlation for each phase of the stride."""
        gradient, result = self._images(dy), self._images(dx)
        if self.phases.padded and not finite(w):
            return False  # padding is multiplied here
        g, weights = self.geometry, self._turned(w) if self.turns else self._flat(w)
        if not self.phases.whole:
            dx[...] = 0
        for first in self.phases:
            made = self._phase(first)
            none = np.zeros((g.groups, made.sweep.panels * made.sweep.panel), dx.dtype)
            made.run(gradient, weights, self._group_step, none, result, first, g.stride)
        return True

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Sums along lines."""
        gradient, image = self._images(dy), self._images(x, self.apart)
        if self.sweep.cut and self.axes[0].blind and not finite(dy):
            return False
        result = self._ordered(dw).reshape(-1)
        operands = (image, gradient) if self.weight_sums.swapped else (gradient, image)
        self.weight_sums.run(*operands, result)
        # As in the forward pass: gradients that are not finite belong to taps that were passed over, too.
        return not self.sweep.cut or finite(result)

    @property
    def _group_step(self) -> int:
        return self.group_filters * self.steps[0]

    def _images(self, array: Array, apart: Three = (1, 1, 1)) -> Images:
        return Images.of(array, self.geometry.channels_last, apart)

    def _ordered(self, w: Array) -> Array:
        """Weights (K, C/G, T, R, S) with their axes in the order of the layout."""
        return w.transpose(0, 2, 3, 4, 1) if self.geometry.channels_last else w

    def _turned(self, w: Array) -> Array:
        """The weights (K, C/G, T, R, S) with their channels last."""
        flat = self._flat(w)
        channels, lanes = self.group_channels, VECTOR_BYTES // flat.itemsize
        taps, turned = flat.size // (len(w) * channels), aligned(flat.size, flat.dtype)
        square = aligned(lanes * lanes, self.dtype)
        kernels.transpose_filters(flat, len(w), channels * taps, 1, 0, channels, taps, turned, square)
        return turned

    def _flat(self, w: Array) -> Array:
        """The weights as they lie in memory, a copy where they have gaps."""
        return contiguous(self._ordered(w)).reshape(-1)


def _largest_band(geometry: Geometry) -> int:
    """Bytes of the smallest band of any pass, by arithmetic alone."""
    g = geometry
    reach = [d * (k - 1) + 1 for d, k in zip(g.dilation, g.kernel, strict=True)]
    width = max(g.input[2], g.output[2] * g.stride[2])
    # A piece of a line, as `Sweep.chunk` cuts it.
    width = min(width, max(FEW_CELLS, reach[2]) * g.stride[2]) + 2 * reach[2]
    return max(g.channels, g.filters) // g.groups * reach[0] * reach[1] * width * g.compute_dtype.itemsize
