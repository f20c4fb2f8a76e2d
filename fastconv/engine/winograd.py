"""Winograd's minimal filtering for kernels at stride 1: 16 multiplications where the others make 36.

Along lines alone, of 1x3 taps and those of 1-D arrays, it is 4 instead of 6.

The columns of patches, transformed to 16 points, meet the filters at the same points in 16 matrix products
(`fastconv.kernels.winograd`). The vectors run along channels and filters, so both layouts are served, and
planes of any size.

    forward          patches of the image and the filters
    backward-input   patches of the output's gradient and the filters rotated by 180 degrees, with filters and
                     channels exchanged
    backward-weight  patches of both, summed over the batch

5 or 7 taps are two or three kernels of three, the further ones two taps on and with a first tap of zero, so
that they read the points of the patches beyond: 64 multiplications instead of 100 for 5x5 taps, 144 instead
of 196 for 7x7. They too are further runs of the products' sums.

A dilation makes the planes as many lattices as it has cells, each a convolution without dilation. Along the
depth kernels, strides and dilations are any: each tap there is one more run of the products' sums.

A job owns chunks of patches and some of the filters; jobs follow from the shape alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from copy import copy
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import aligned, contiguous, new_result
from fastconv.engine.decompose import Axis, BackwardPhases, forward_axis
from fastconv.engine.partition import (
    JOBS,
    PARTS_BYTES,
    Grid,
    Range,
    Tables,
    ceil_div,
    even_parts,
    jobs_now,
    pieces,
    share,
    wanted_jobs,
)
from fastconv.engine.problem import L2_BYTES, Counts, Problem
from fastconv.engine.tensor import Four, Images, Three, add_parts, assign, dense, finite, scratch_in
from fastconv.geometry import Geometry
from fastconv.kernels import winograd as kernels
from fastconv.kernels import winograd_filters as transforms
from fastconv.kernels.tile import PANEL, ROWS, panel_width
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, get_num_threads, run_jobs

if TYPE_CHECKING:
    from fastconv.engine.algorithm import Pass

# Patches of a chunk: enough rows for a panel of filters to be worth its way from L2, and that the points of
# 64 channels and filters stay there (128 against 28, 84 and 160: 263, 184, 264 and 251 GF/s on 64x56).
PATCHES = 128
# The points of a chunk's patches and their products; and of backward-weight the sums of one job with the
# points of its gradients, unless those of a single panel need more. Twice as much of the latter is 5 to 10 %
# faster with 512 channels (7x7, 14x14), not elsewhere. A job that would need more than the last of these sums
# smaller chunks: doubles of 512x14 at 101 GF/s and at 108, and at 90 where it sums fewer filters instead.
POINT_BYTES = 4 * 2**20
SUMS_BYTES = 45 * 2**17
MOST_JOB_BYTES = 2**23
# Images of both sides that are turned, at the most.
MOST_TURNED_BYTES = 2**24
# Lattices of a dilation at the most: each is a pass of its own.
MOST_LATTICES = 1024
# Phases of a stride along the depth that a plan keeps.
MOST_KEPT_PHASES = 4
# Filters of one job at the least, where filters are parted: each part transforms the patches again.
PART_PANELS = 4
# Patches of one part of backward-weight at the least: each part has sums of its own to clear, to bring back
# from their points and to add, which is as much as 90 patches take. 256x14 at 168 GF/s in four parts and 262
# in one, 64x28 with 5x5 taps at 138 in eight and 187 in two.
PART_PATCHES = 768

Two = tuple[int, int]


def point_step(elements: int, itemsize: int) -> int:
    """As in the kernels: from one point to the next, an odd number of cache lines."""
    line = 64 // itemsize
    return (ceil_div(elements, line) | 1) * line


class Patches:
    """How the patches of one output are cut into chunks and jobs.

    Parameters
    ----------
    axis : Axis
        Along the depth.
    batch, height, width : int
        Of the output.
    groups, channels, filters : int
        Channels and filters are those of a group.
    dtype : numpy.dtype
    kernels_ : tuple of two int
        Along the height and width, how many kernels of three taps the taps are.
    tall : int
        Lines of a patch: 2, or 1 where the kernel has one line.
    """

    def __init__(
        self,
        axis: Axis,
        batch: int,
        height: int,
        width: int,
        groups: int,
        channels: int,
        filters: int,
        dtype: np.dtype[Any],
        kernels_: Two,
        tall: int,
    ) -> None:
        self.axis, self.batch, self.groups, self.channels, self.filters, self.dtype = (
            axis, batch, groups, channels, filters, dtype,
        )  # fmt: skip
        self.kernels, self.beyond = kernels_, (kernels_[0] - 1, kernels_[1] - 1)
        self.tall = tall
        # Points of a patch.
        self.each = 16 if tall == 2 else 4
        self.depth, self.deep = axis.output, axis.count * prod(kernels_)
        self.down, self.across, self.width = ceil_div(height, tall), ceil_div(width, 2), width
        self.lanes = VECTOR_BYTES // dtype.itemsize
        self.panel = panel_width(filters, self.lanes)
        self.panels = ceil_div(filters, self.panel)
        self.pitch = ceil_div(channels, self.lanes) * self.lanes
        total = batch * self.depth * self.down * self.across
        self.work = groups * channels * filters * total * self.deep * self.each
        self.wanted = wanted_jobs(self.work)
        # Filters are parted where the points of enough patches would have no room, or jobs would be too few.
        self.part = self.panels
        while self.part > PART_PANELS and self._most(self._chunk()[1]) < min(PATCHES, total):
            self.part = ceil_div(self.part, 2)
        self.chunk = self._chunk()
        while (
            self.part > PART_PANELS
            and self.chunks * self.groups * ceil_div(self.panels, self.part) < self.wanted
        ):
            self.part = ceil_div(self.part, 2)

    @property
    def chunks(self) -> int:
        """How many there are."""
        extent = self.batch, self.depth, self.down, self.across
        return prod(ceil_div(n, step) for n, step in zip(extent, self.chunk, strict=True))

    def halved(self) -> Patches:
        """The same in smaller chunks, as long as they are more than a tile."""
        made, (images, planes, lines, across) = copy(self), self.chunk
        if images > 1:
            made.chunk = ceil_div(images, 2), planes, lines, across
        elif planes > 1:
            made.chunk = 1, ceil_div(planes, 2), lines, across
        elif lines > 1:
            made.chunk = 1, 1, ceil_div(lines, 2), across
        else:
            made.chunk = 1, 1, 1, ceil_div(across, 2)
        return made

    def read(self, planes: int) -> int:
        """Planes of the image that so many of the output read."""
        return (planes - 1) * self.axis.stride + self.axis.span

    def _most(self, planes: int) -> int:
        """Patches of a chunk of so many planes whose points and products have room."""
        beyond = (1 + self.beyond[1] / self.across) * self.read(planes) / planes
        per_patch = self.pitch * beyond + self.part * self.panel
        most = int(POINT_BYTES / (self.each * per_patch * self.dtype.itemsize))
        return max(1, min(PATCHES, most))

    def _chunk(self) -> Four:
        """Images, planes, lines of patches and patches of a line of a chunk, in chunks of equal size."""

        def lines(planes: int) -> int:
            return max(1, min(self.down, self._most(planes) // (planes * self.across)))

        def cost(planes: int) -> float:
            """Of the transforms, which copy two lines more than they make."""
            return self.read(planes) * (2 * lines(planes) + 1) / (planes * lines(planes))

        fitting = []
        if 2 * self.across <= PATCHES:  # no chunk has more
            most = min(self.depth, PATCHES // self.across)
            fitting = [n for n in range(2, most + 1) if n * self.across <= self._most(n)]
        planes = min([1, *fitting], key=cost)
        images = 1
        if (planes, lines(planes)) == (self.depth, self.down):
            images = max(1, min(self.batch, self._most(planes) // (planes * self.down * self.across)))
        wanted = (images, planes, lines(planes), min(self.across, self._most(planes)))
        extent = self.batch, self.depth, self.down, self.across
        image, plane, line, patch = (
            ceil_div(n, ceil_div(n, step)) for n, step in zip(extent, wanted, strict=True)
        )
        return image, plane, line, patch

    @Tables
    def table(self) -> tuple[Array, Array, Array]:
        """Which patches each kernel reads; the kernels that each plane of the output reads, and the reverse.

        The latter two are from and up to which one. Kernels go by their shifts along the depth.
        """
        each = prod(self.kernels)
        places = np.empty((self.axis.count, each, 3), np.int64)
        places[..., 0] = (np.arange(self.axis.count) * self.axis.apart)[:, np.newaxis]
        places[..., 1], places[..., 2] = divmod(np.arange(each), self.kernels[1])
        reach = self.axis.reach() * each
        reach[reach[:, 0] == reach[:, 1]] = 0
        inside = np.empty((self.axis.count, each, 2), np.int64)
        first, stop = self.axis.inside(self.axis.shifts)
        inside[..., 0], inside[..., 1] = first[:, np.newaxis], stop[:, np.newaxis]
        return places.reshape(-1, 3), reach, inside.reshape(-1, 2)

    @property
    def patches(self) -> int:
        """Of a whole chunk."""
        return prod(self.chunk)

    def points(self, patches: int, pitch: int) -> int:
        """Elements of the points of so many patches."""
        return self.each * point_step(ceil_div(patches, ROWS) * ROWS * pitch, self.dtype.itemsize)

    @property
    def image_points(self) -> int:
        """Elements of the points of the patches that a chunk reads."""
        images, planes, lines, across = self.chunk
        read = (lines + self.beyond[0]) * (across + self.beyond[1])
        return self.points(self.read(planes) * images * read, self.pitch)

    @property
    def products(self) -> int:
        """Elements of the products of a chunk's points."""
        return self.points(self.patches, self.part_pitch)

    @property
    def weights(self) -> int:
        """Elements of transformed filters."""
        lanes = ceil_div(self.filters, self.lanes) * self.lanes
        return self.each * point_step(lanes * self.deep * self.channels, self.dtype.itemsize)

    def band(self, pitch: int) -> int:
        """Elements of the lines of one plane that a chunk reads."""
        lines, across = self.chunk[2] + self.beyond[0], self.chunk[3] + self.beyond[1]
        return (self.tall * lines + 2 * (self.tall - 1)) * (2 * across + 2) * pitch

    @property
    def part_pitch(self) -> int:
        """Filters of a part, in whole vectors."""
        return min(self.part * self.panel, ceil_div(self.filters, self.lanes) * self.lanes)

    @property
    def cells(self) -> int:
        """Elements of the lines that one plane of a chunk writes."""
        return self.tall * self.chunk[2] * min(self.width, 2 * self.chunk[3]) * self.part_pitch

    @property
    def scratch_bytes(self) -> int:
        """What a thread needs in a pass with an output; transformed filters are not counted."""
        elements = self.band(self.pitch) + self.image_points + self.products + self.cells
        return elements * self.dtype.itemsize

    def jobs(self) -> Grid:
        """Groups, panels of filters, chunks."""
        parts = self.groups * ceil_div(self.panels, self.part)
        step = ceil_div(self.chunks, ceil_div(jobs_now(self.work), parts))
        return Grid((self.groups, 1), (self.panels, self.part), (self.chunks, step))


class Phase(NamedTuple):
    """One sub-lattice of an output, and the one of the image that its taps read."""

    target: Three  # its first cell in the output
    step: Three  # and from one to the next
    source: Three  # the first cell of the image's lattice
    start: Three  # the cell of that lattice which the first output's first tap reads; may lie outside
    patches: Patches


class Lattices:
    """The sub-lattices that a dilation makes of an output: all that there are have one of four sizes.

    Parameters
    ----------
    geometry : Geometry
    axis : Axis
        Along the depth.
    first, stride : int
        Where the output begins along the depth, and how it goes on.
    extent, shift : tuple of two int
        Of its planes, and where its first tap reads.
    channels, filters : int
        Of a group.
    rotated : bool
        Whether the filters are, in the plane.
    """

    def __init__(
        self, geometry: Geometry, axis: Axis, first: int, stride: int, extent: Two, shift: Two, channels: int,
        filters: int, rotated: bool,
    ) -> None:  # fmt: skip
        self.geometry, self.axis, self.first, self.stride = geometry, axis, first, stride
        self.extent, self.shift, self.channels, self.filters = extent, shift, channels, filters
        self.rotated, self.dilation = rotated, _dilation(geometry)
        # How many there are along the height and the width.
        self.counts = min(self.dilation[0], extent[0]), min(self.dilation[1], extent[1])
        self._made: dict[Two, Patches] = {}

    @property
    def patches(self) -> Patches:
        """Those of the first lattice, which has as many cells as any."""
        (height, width), (d, e) = self.extent, self.dilation
        return self._sized((ceil_div(height, d), ceil_div(width, e)))

    @property
    def kinds(self) -> list[tuple[Patches, int]]:
        """Those of each size, and how many lattices have it."""
        sizes: list[list[Two]] = []  # along each axis, and how many have each
        for extent, apart, count in zip(self.extent, self.dilation, self.counts, strict=True):
            longer = (extent - 1) % apart + 1  # the first lattices have a cell more than the others
            cells = ceil_div(extent, apart)
            sizes.append(
                [(cells, min(longer, count)), *([(cells - 1, count - longer)] if longer < count else [])]
            )
        return [
            (self._sized((height, width)), down * across)
            for (height, down), (width, across) in itertools.product(*sizes)
        ]

    def _sized(self, size: Two) -> Patches:
        if size not in self._made:
            g = self.geometry
            self._made[size] = Patches(
                self.axis, g.batch, *size, g.groups, self.channels, self.filters, g.compute_dtype,
                _kernels(g), _tall(g),
            )  # fmt: skip
        return self._made[size]

    def __iter__(self) -> Iterator[Phase]:
        (height, width), (d, e) = self.extent, self.dilation
        for row, column in itertools.product(*map(range, self.counts)):
            (y, from_row), (x, from_column) = (
                divmod(row + self.shift[0], d),
                divmod(column + self.shift[1], e),
            )
            yield Phase(
                target=(self.first, row, column),
                step=(self.stride, d, e),
                source=(0, from_row, from_column),
                start=(self.axis.lowest, y, x),
                patches=self._sized((ceil_div(height - row, d), ceil_div(width - column, e))),
            )

    @Tables
    def table(self) -> tuple[Array]:
        """Which of a filter's elements are the taps of each kernel (kernels, 9 or 3); -1: none.

        The further kernels of 5 or 7 taps read two on, and their first tap belongs to the one before.
        """
        _, rows, columns = self.geometry.kernel
        plane = np.arange(rows * columns).reshape(rows, columns)
        if self.rotated:
            plane = plane[::-1, ::-1]
        down, across = _kernels(self.geometry)
        kernels_ = np.full((down, across, min(rows, 3), 3), -1)
        for row, column in itertools.product(range(down), range(across)):
            top, left = int(row > 0), int(column > 0)
            kernels_[row, column, top:, left:] = plane[
                2 * row + top : 2 * row + 3, 2 * column + left : 2 * column + 3
            ]
        flat = kernels_.reshape(down * across, -1)
        deep = flat + (self.axis.taps * plane.size)[:, np.newaxis, np.newaxis]
        return (np.where(flat < 0, flat, deep).reshape(-1, flat.shape[1]),)


class Winograd:
    """Minimal filtering F(2x2, 3x3) for kernels of 3, 5 or 7 taps each way at stride 1 in the plane."""

    name = label = "winograd"

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        self.geometry = g
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups
        # The cells of a dilation's lattices lie apart: with the channels last, their channels do not.
        self.turns = _turned_bytes(g) > 0

    @cached_property
    def forward_lattices(self) -> Lattices:
        """Those of the forward pass."""
        g = self.geometry
        return Lattices(
            g, forward_axis(g, 0), 0, 1, g.output[1:], (-g.padding[1], -g.padding[2]), self.group_channels,
            self.group_filters, rotated=False,
        )  # fmt: skip

    @cached_property
    def depth(self) -> BackwardPhases:
        """The planes of the image, by the taps along the depth that reach them."""
        return BackwardPhases(self.geometry, 0)

    def _input_lattices(self, first: int) -> Lattices:
        """Those of the backward-input pass, of the planes from the first on."""
        made = self._made.get(first)
        if made is None:
            g = self.geometry
            d, e = _dilation(g)
            shift = g.padding[1] - (g.kernel[1] - 1) * d, g.padding[2] - (g.kernel[2] - 1) * e
            made = Lattices(
                g, self.depth.axis(first), first, g.stride[0], g.input[1:], shift, self.group_filters,
                self.group_channels, rotated=True,
            )  # fmt: skip
            if len(self.depth.firsts) <= MOST_KEPT_PHASES:
                self._made[first] = made
        return made

    @cached_property
    def _made(self) -> dict[int, Lattices]:
        return {}

    @cached_property
    def weight_sums(self) -> WeightSums:
        """The backward-weight pass."""
        return WeightSums(self.forward_lattices, self._lattice, self.geometry.channels_last)

    @property
    def _lattice(self) -> Three:
        """From one cell of a lattice to the next."""
        return 1, *_dilation(self.geometry)

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """All but 3, 5 or 7 taps each way, or along the width alone, at stride 1; along a depth only 3x3."""
        g = geometry
        served = g.kernel[1] in (1, 3, 5, 7) and g.kernel[2] in (3, 5, 7)
        if g.kernel[1:] != (3, 3) and not (g.one_plane and served):
            return "the kernel is not 3x3 in the plane, nor of 1, 5 or 7 taps where there is no depth"
        if g.stride[1:] != (1, 1):
            return "the stride is not 1 in the plane"
        if prod(g.dilation[1:]) > MOST_LATTICES:
            return f"the dilation makes more than {MOST_LATTICES} lattices"
        if min(g.batch, g.channels, g.filters, g.pixels) == 0:
            return "there is nothing to compute"
        planes = 1 + g.dilation[0] * (g.kernel[0] - 1) + g.kernel[1] // 2 - 1
        tile = ROWS * 16 * (planes * g.channels + g.filters) // g.groups * g.compute_dtype.itemsize
        if tile > POINT_BYTES:
            return f"{ROWS} patches need {tile} bytes of scratch, more than {POINT_BYTES}"
        return None

    @staticmethod
    def counts(p: Problem) -> Counts:
        """Products at the points of all patches, and the transforms: of patches, of filters, of results."""
        g = p.geometry
        tall, each = (1, 4) if g.kernel[1] == 1 else (2, 16)
        down, across = _dilation(g)
        lattices = down * across
        lines, columns = ceil_div(p.target[1], down * tall) * tall, ceil_div(p.target[2], across * 2) * 2
        planes = p.groups * p.batch * p.extent[0] * lattices
        patches = planes * (lines // tall) * (columns // 2)
        # The further kernels of 5 or 7 taps read patches beyond.
        seen = planes * (lines // tall + max(0, g.kernel[1] // 2 - 1)) * (columns // 2 + g.kernel[2] // 2 - 1)
        deep = g.kernel[0] * max(1, g.kernel[1] // 2) * (g.kernel[2] // 2)
        read = ceil_div(p.channels, p.lanes)
        sums = p.which == "backward_weight"
        rows, vectors = (ceil_div(p.filters, ROWS) * ROWS, read) if sums else (p.channels, p.vectors)
        filters = p.groups * deep * rows * vectors
        parts = max(1, min(p.jobs, patches / p.groups / PART_PATCHES)) if sums else 1
        # What has no room in L2 is read again for every lattice and chunk.
        far = max(0, filters * each * p.lanes * p.itemsize - L2_BYTES)
        return Counts(
            "winograd",
            {
                "call": 1,
                "calls": p.groups * lattices * p.jobs,
                "lattices": p.groups * lattices,
                "images": p.batch * p.groups * lattices * p.extent[0],
                "fma": patches * each * deep * rows * vectors,
                "broadcasts": patches * each * deep * rows * ceil_div(vectors, PANEL),
                "source_points": seen * read,
                "target_points": patches * p.vectors,
                "filters": filters * each * parts,
                "filters_far": far * max(lattices, patches / p.groups / PATCHES),
                "weights": p.weight_bytes,
                "band_last" if p.last else "band_first": p.source_bytes,
                "band_lines": p.batch * p.groups * p.source[0] * p.source[1] * (1 if p.last else p.channels),
                "out_last" if p.last else "out_first": p.target_bytes,
                "turned": p.source_bytes + p.target_bytes if lattices > 1 and not p.last else 0,
                "source_far": p.source_far,
                "target_far": p.target_far,
            },
        )

    @property
    def scratch_bytes(self) -> int:
        """What a chunk needs; transformed filters are not counted."""
        every = [self.forward_lattices, *(self._input_lattices(first) for first in self.depth.kinds)]
        passes = [patches.scratch_bytes for lattices in every for patches, _ in lattices.kinds]
        return _turned_bytes(self.geometry) + max(*passes, self.weight_sums.scratch_bytes)

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """Patches of the image."""
        return self._convolve([self.forward_lattices], x, w, bias, y, True)

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """Patches of the gradient: dx[i] = sum of dy[i + padding - t] * w[t], from the last tap on."""
        every = [self._input_lattices(first) for first in self.depth.firsts]
        return self._convolve(every, dy, w, None, dx, self.depth.whole)

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Sums of products of patches."""
        g, axis = self.geometry, self.forward_lattices.axis
        if not axis.unpadded and axis.blind and not finite(dy):
            return False
        result = self._ordered(dw).reshape(g.groups, self.group_filters, -1)
        self.weight_sums.run(self._images(dy), self._images(x), result)
        return finite(result)

    def _ordered(self, w: Array) -> Array:
        """Weights (K, C/G, T, R, S) with their axes in the order of the layout."""
        return w.transpose(0, 2, 3, 4, 1) if self.geometry.channels_last else w

    def _images(self, array: Array, written: bool = False) -> Images:
        if not self.turns:
            return Images.of(array, self.geometry.channels_last)
        last = scratch_in(array.shape, array.dtype, True) if written else dense(array, True)
        return Images.of(last, True)

    def _convolve(
        self, every: list[Lattices], x: Array, w: Array, bias: Array | None, y: Array, whole: bool
    ) -> bool:
        """Write all of ``y``; returns whether that could be done, and all of it is finite.

        Unless the lattices are the ``whole`` of it, what lies between is zero.
        """
        g = self.geometry
        source, target = self._images(x), self._images(y, written=True)
        if not whole:
            target.array[...] = 0
        # Padding along the depth is not multiplied, and zero times infinity is not zero.
        if any(not lattices.axis.unpadded for lattices in every) and not finite(w):
            return False
        flat = contiguous(self._ordered(w)).reshape(-1)
        for lattices in every:
            p = lattices.patches
            weights = self._transform(p, lattices.table[0], flat, lattices.rotated)
            added = np.zeros((g.groups, p.panels * p.panel), y.dtype)
            if bias is not None:
                added[:, : p.filters] = bias.reshape(g.groups, p.filters)
            if not all(self._convolve_phase(phase, source, weights, added, target) for phase in lattices):
                return False
        if self.turns:
            assign(y, target.array)
        return True

    def _convolve_phase(
        self, phase: Phase, source: Images, weights: list[Array], bias: Array, target: Images
    ) -> bool:
        """Write one phase of the output; returns whether it is finite."""
        p = phase.patches
        jobs, (places, reach, _) = p.jobs(), p.table
        broken: list[int] = []

        def start_worker() -> Job:
            sizes = (p.band(p.pitch), p.image_points, p.products, p.cells)
            band, points, products, cells = (aligned(size, p.dtype) for size in sizes)

            def job(i: int) -> None:
                (group, _), panels, chunks = jobs[i]
                is_finite = kernels.convolve_patches(
                    source.flat, source.phase(group * p.channels, phase.source, self._lattice),
                    weights[group], bias[group], target.flat,
                    target.phase(group * p.filters, phase.target, phase.step), p.batch, p.channels,
                    (*panels, p.filters, p.panel), phase.start, p.axis.stride, p.tall, places, p.beyond,
                    reach, chunks, p.chunk, band, points, products, cells,
                )  # fmt: skip
                if not is_finite:
                    broken.append(i)

            return job

        run_jobs(len(jobs), start_worker)
        return not broken

    def _transform(self, p: Patches, table: Array, w: Array, rotated: bool) -> list[Array]:
        """The filters of every group at the points, the taps along the depth in the order of their shifts."""
        last, elements = self.geometry.channels_last, prod(self.geometry.kernel)
        vectors = ceil_div(p.filters, p.lanes)
        weights = [aligned(p.weights, p.dtype) for _ in range(p.groups)]
        # Filters are the lanes and channels the rows; both are exchanged for the rotated ones.
        lane = elements * (p.filters if rotated else p.channels)
        row = 1 if last else elements
        lane_step, row_step = (row, lane) if rotated else (lane, row)
        wanted = jobs_now(p.work) // p.groups
        step = max(1, ceil_div(vectors, max(1, min(wanted, vectors // 2))))
        jobs = Grid((p.groups, 1), (vectors, step))

        def start_worker() -> Job:
            taps = aligned(_scratch_of_taps(p, elements), p.dtype)

            def job(i: int) -> None:
                (group, _), some = jobs[i]
                first = group * p.channels * p.filters * elements
                filters = (
                    p.channels,
                    elements,
                    table,
                    (*some, p.filters),
                    p.panel // p.lanes,
                    weights[group],
                    taps,
                )
                if last:
                    element_step = p.filters if rotated else p.channels
                    transforms.transform_last_filters(w, first, lane_step, row_step, element_step, *filters)
                else:
                    transforms.transform_filters(w, first, lane_step, row_step, *filters)

            return job

        run_jobs(len(jobs), start_worker)
        return weights


def _scratch_of_taps(patches: Patches, elements: int) -> int:
    """What the transforms of filters need that have so many elements, in elements of an array."""
    return (max(elements, 10) * patches.lanes + 1) * patches.lanes


def _tall(geometry: Geometry) -> int:
    """Lines of a patch."""
    return 1 if geometry.kernel[1] == 1 else 2


def _kernels(geometry: Geometry) -> Two:
    """Along the height and width, how many kernels of three taps the taps are."""
    return max(1, geometry.kernel[1] // 2), geometry.kernel[2] // 2


def _dilation(geometry: Geometry) -> Two:
    """In the plane; one line of taps has none."""
    g = geometry
    return g.dilation[1] if g.kernel[1] > 1 else 1, g.dilation[2]


def _turned_bytes(geometry: Geometry) -> int:
    """Bytes of both images where they are turned to have their channels last: none where that is too much."""
    g = geometry
    if g.channels_last or max(_dilation(g)) == 1:
        return 0
    cells = g.batch * (g.channels * prod(g.input) + g.filters * prod(g.output))
    bytes_ = cells * g.compute_dtype.itemsize
    return bytes_ if bytes_ <= MOST_TURNED_BYTES else 0


class WeightSums:
    """Backward-weight over the lattices of a forward pass, in parts that are added in order.

    With ``last`` the gradient is written with its channels last.
    """

    def __init__(self, lattices: Lattices, lattice: Three, last: bool) -> None:
        self.lattices, self.lattice, self.last = lattices, lattice, last
        # The first lattice has as many cells as any; its groups, channels and filters are those of all.
        p = self.patches = lattices.patches
        self.elements = prod(lattices.geometry.kernel)
        # Panels whose sums, and whose gradients at their points, have room: the filters of a job at the most.
        rows = p.deep * p.channels + max(kind.patches for kind, _ in lattices.kinds)
        most = max(1, SUMS_BYTES // (p.each * rows * p.panel * p.dtype.itemsize))
        self.most = ceil_div(p.panels, ceil_div(p.panels, most))
        self.filters = min(p.filters, self.most * p.panel)
        # Of each size the patches, in smaller chunks where those of a job would need too much.
        self.kinds = {kind: kind for kind, _ in lattices.kinds}
        while sum(self._sizes()) * p.dtype.itemsize > MOST_JOB_BYTES and self.kinds[p].patches > ROWS:
            self.kinds = {kind: halved.halved() for kind, halved in self.kinds.items()}
        self.weights = p.groups * p.filters * p.channels * self.elements
        wanted, self.chunks, cells = 0, 0, 0
        for kind, count in lattices.kinds:
            wanted += count * kind.wanted
            self.chunks += count * self.kinds[kind].chunks
            cells += count * kind.batch * kind.depth * kind.down * kind.across
        self.wanted = max(1, min(JOBS, wanted) // p.groups)
        room = PARTS_BYTES // (self.weights * p.dtype.itemsize)
        # Parts of the chunks of all lattices, one behind the other.
        self.parts = even_parts(min(self.wanted, self.chunks, room, cells // PART_PATCHES))
        self.work = self.weights * cells * 2 * p.tall

    def _jobs(self) -> Grid:
        """Parts, groups, filters. Threads share the filters of a part: what is summed stays the same."""
        p = self.patches
        step = ceil_div(p.panels, ceil_div(min(self.wanted, get_num_threads()), self.parts))
        return Grid((self.parts, 1), (p.groups, 1), (p.filters, min(step, self.most) * p.panel))

    def _chunks_of(self, part: int) -> Iterator[tuple[Phase, Four, Range]]:
        """The lattices of a part, into which chunks they are cut, and from and up to which are the part's."""
        (first, stop), begin = share(self.chunks, self.parts, part), 0
        for phase in self.lattices:
            patches = self.kinds[phase.patches]
            end = begin + patches.chunks
            if max(first, begin) < min(stop, end):
                yield phase, patches.chunk, (max(first, begin) - begin, min(stop, end) - begin)
            begin = end

    def _sizes(self) -> tuple[int, int, int, int]:
        """Elements of a band, of the points of a chunk of images and of one of gradients, and of sums."""
        panels = ceil_div(self.filters, self.patches.panel)
        pitch = ceil_div(self.filters, self.patches.lanes) * self.patches.lanes
        bands, images, gradients = [], [], []
        for p in self.kinds.values():
            bands.append(p.band(max(p.pitch, pitch)))
            images.append(p.image_points)
            gradients.append(p.each * point_step(pitch * p.patches, p.dtype.itemsize))
        p = self.patches
        rows = ceil_div(p.channels, ROWS) * ROWS
        sums = p.each * point_step(panels * p.deep * rows * p.panel, p.dtype.itemsize)
        return max(bands), max(images), max(gradients), sums

    @property
    def scratch_bytes(self) -> int:
        """Points and lines of a chunk, their sums, and all partial gradients."""
        partial = self.parts * self.weights if self.parts > 1 else 0
        return (sum(self._sizes()) + partial) * self.patches.dtype.itemsize

    def run(self, dy: Images, x: Images, result: Array) -> None:
        """Write ``result`` (groups, filters, channels * elements)."""
        p, (table,) = self.patches, self.lattices.table
        several, jobs = self.parts > 1, self._jobs()
        places, _, reach = p.table
        partial = result[np.newaxis]
        if several:
            partial = new_result((self.parts, *result.shape), x.flat.dtype)
        finish = transforms.finish_last_filters if self.last else transforms.finish_filters

        def start_worker() -> Job:
            band, points, gradients, sums = (aligned(size, p.dtype) for size in self._sizes())
            taps = aligned(_scratch_of_taps(p, self.elements), p.dtype)
            square = aligned(p.lanes * p.lanes, p.dtype)

            def job(i: int) -> None:
                (part, _), (group, _), (first, stop) = jobs[i]
                sums[...] = 0
                for phase, chunk, chunks in self._chunks_of(part):
                    for some in pieces(chunks, self.work // len(jobs)):
                        kernels.sum_patches(
                            dy.flat, dy.phase(group * p.filters, phase.target, phase.step), x.flat,
                            x.phase(group * p.channels, phase.source, self.lattice), sums, p.batch,
                            p.channels, (first, stop - first, p.panel), phase.start, p.axis.stride, p.tall,
                            places, p.beyond, reach, some, chunk, band, points, gradients,
                        )  # fmt: skip
                finish(
                    sums, p.channels, stop - first, p.panel, self.elements, table,
                    partial[part, group, first:stop].reshape(-1), taps, square,
                )  # fmt: skip

            return job

        run_jobs(len(jobs), start_worker)
        if several:
            add_parts(partial, result)
