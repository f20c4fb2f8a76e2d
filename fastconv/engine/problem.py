"""A pass as one correlation, in numbers: what the estimates of all algorithms count with.

Forward, and backward-weight over the same cells:

    Y[k, o] = sum over c, t of W[k, c, t] * X[c, o*stride + t*dilation - padding]

Backward-input is the same kind of sum over the gradient of the output, for each phase of the stride: the
cells of dX whose position leaves the same remainder, which read the same taps.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from fastconv.engine.machine import this_machine
from fastconv.engine.partition import ceil_div, wanted_jobs
from fastconv.geometry import Geometry
from fastconv.kernels.vectors import VECTOR_BYTES

if TYPE_CHECKING:
    from fastconv.engine.algorithm import Algorithm, Pass

L1_BYTES, L2_BYTES = this_machine().l1_bytes, this_machine().l2_bytes

Three = tuple[int, int, int]


class Counts(NamedTuple):
    """What a pass does by an algorithm."""

    row: str  # of the machine's nanoseconds: the algorithm, or the way in which it serves the pass
    terms: Mapping[str, float]
    # For an algorithm that has another one compute something: those to choose from, and what they compute.
    inner: tuple[list[type[Algorithm]], Geometry] | None = None


class Problem:
    """The sizes of a pass.

    Attributes
    ----------
    geometry : Geometry
    which : str
        The pass.
    batch, groups : int
    channels, filters : int
        Of a group: those that a pass sums over, and those that it writes (backward-input sums over filters).
    taps : int
        Of the kernel in the plane and along the depth.
    source, target, extent : tuple of three int
        Extents of what is read, and of what is written; and of one phase of that.
    lines : int
        Of one phase of one image: its extents along depth and height multiplied.
    phases, reached : int
        Phases of the stride, and how many of them any tap reaches: 1 but in backward-input.
    cells : int
        Of all phases that are reached, of all images and groups.
    seen, seen_lines : int
        Cells, and lines of them, that the taps of one phase read, padding included: of all images and groups.
    work : int
        Multiply-adds of a pass whose phases are all of equal size.
    source_bytes, target_bytes, weight_bytes : int
    source_far, target_far, weights_far : int
        How many of these bytes L2 has no room for.
    itemsize, lanes : int
        Bytes of an element, and elements of a vector.
    vectors : int
        Of the filters of a group.
    last, strided, padded : bool
        Whether the channels are last, and whether there are strides and padding.
    jobs : int
        Into how many jobs the work is best cut.
    """

    __slots__ = (
        "batch", "cells", "channels", "extent", "filters", "geometry", "groups", "itemsize", "jobs", "lanes",
        "last", "lines", "padded", "phases", "reached", "seen", "seen_lines", "source", "source_bytes",
        "source_far", "strided", "taps", "target", "target_bytes", "target_far", "vectors", "weight_bytes",
        "weights_far", "which", "work",
    )  # fmt: skip

    def __init__(self, geometry: Geometry, which: Pass) -> None:
        g = self.geometry = geometry
        self.which, self.last = which, g.channels_last
        self.batch, self.groups, self.taps = g.batch, g.groups, prod(g.kernel)
        self.itemsize = itemsize = g.compute_dtype.itemsize
        self.lanes = VECTOR_BYTES // itemsize
        self.channels, self.filters = g.channels // g.groups, g.filters // g.groups
        self.source, self.target = g.input, g.output
        self.extent, self.phases, self.reached = g.output, 1, 1
        self.strided = g.stride != (1, 1, 1)
        self.padded = g.padding != (0, 0, 0)
        if which == "backward_input":
            self.channels, self.filters = self.filters, self.channels
            self.source, self.target = g.output, g.input
            self.extent = g.input
            if self.strided:
                (d, h, w), (x, y, z) = g.input, g.stride
                self.extent = ceil_div(d, x), ceil_div(h, y), ceil_div(w, z)
                self.phases = min(x, d) * min(y, h) * min(z, w)
                self.reached = prod(map(min, g.stride, g.kernel, g.input))
        units = g.batch * g.groups
        self.lines = self.extent[0] * self.extent[1]
        cells = self.lines * self.extent[2]
        self.cells = units * cells * self.reached
        forward = which != "backward_input"
        d, h, w = (
            (n - 1) * (s if forward else 1) + (k - 1) * t // (1 if forward else s) + 1
            for n, s, k, t in zip(self.extent, g.stride, g.kernel, g.dilation, strict=True)
        )
        self.seen_lines, self.seen = units * d * h, units * d * h * w
        self.work = units * cells * self.channels * self.filters * self.taps
        self.vectors = ceil_div(self.filters, self.lanes)
        self.source_bytes = units * self.channels * prod(self.source) * itemsize
        if self.strided and which != "backward_input":
            # Planes and lines that no tap reads.
            for stride, kernel in zip(g.stride[:2], g.kernel[:2], strict=True):
                if stride > kernel:
                    self.source_bytes = self.source_bytes * kernel // stride
        self.target_bytes = units * self.filters * prod(self.target) * itemsize
        self.weight_bytes = g.groups * self.channels * self.filters * self.taps * itemsize
        self.source_far = max(0, self.source_bytes - L2_BYTES)
        self.target_far = max(0, self.target_bytes - L2_BYTES)
        self.weights_far = max(0, self.weight_bytes - L2_BYTES)
        self.jobs = wanted_jobs(g.multiplications)
