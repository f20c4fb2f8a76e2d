"""The axes of a correlation: which cells of its source each cell of its output reads.

Taps lie the same distance apart, so nothing here is listed tap by tap, and a stride has as many phases as
there are taps at the most: an axis is a few numbers, whatever the arguments.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from math import gcd, prod

import numpy as np

from fastconv.arguments import Array
from fastconv.engine.partition import ceil_div
from fastconv.geometry import Geometry

Three = tuple[int, int, int]
# First cells of phases that are kept at the most, and phases of which not each is looked at.
MOST_PHASES, MOST_LISTED = 64, 4


class Axis:
    """One axis of a correlation: output cell o reads the source at ``o*stride + shift`` for every tap.

    Parameters
    ----------
    source, output : int
        Extents of what is read and of what is written.
    stride : int
    lowest : int
        The smallest shift: where the grid begins.
    apart : int
        From one shift to the next larger one.
    count : int
        Of the taps, at least 1.
    first_tap, tap_step : int
        Which tap of the kernel has the smallest shift, and how many further on that of the next larger one
        is; negative where shifts fall.
    """

    __slots__ = ("apart", "count", "first_tap", "lowest", "output", "source", "stride", "tap_step")

    def __init__(
        self,
        source: int,
        output: int,
        stride: int,
        lowest: int,
        apart: int,
        count: int,
        first_tap: int,
        tap_step: int,
    ) -> None:
        self.source, self.output, self.stride = source, output, stride
        self.lowest, self.apart, self.count = lowest, apart, count
        self.first_tap, self.tap_step = first_tap, tap_step

    @property
    def span(self) -> int:
        """Cells of the source from the first to the last that an output cell reads, both included."""
        return (self.count - 1) * self.apart + 1

    @property
    def highest(self) -> int:
        """The largest shift."""
        return self.lowest + (self.count - 1) * self.apart

    @property
    def shifts(self) -> Array:
        """The shifts in rising order."""
        return np.arange(self.count) * self.apart + self.lowest

    @property
    def taps(self) -> Array:
        """The taps of the kernel in the order of their shifts."""
        return np.arange(self.count) * self.tap_step + self.first_tap

    @property
    def unpadded(self) -> bool:
        """Whether no tap reads padding."""
        return self.lowest >= 0 and (self.output - 1) * self.stride + self.highest < self.source

    @property
    def unmoved(self) -> bool:
        """Whether every cell reads the one it is, and no other."""
        return self.source == self.output and self.stride == 1 and self.count == 1 and self.lowest == 0

    @property
    def grid(self) -> int:
        """Cells of one phase of the stride that all of the output needs."""
        return ceil_div((self.output - 1) * self.stride + self.span, self.stride)

    def inside(self, shift: Array) -> tuple[Array, Array]:
        """From and up to which output cell the taps of some shifts read the source, and not its padding."""
        first = np.maximum(0, -(shift // self.stride))
        stop = np.minimum(self.output, -((shift - self.source) // self.stride))
        return first, np.maximum(first, stop)

    def reach(self) -> Array:
        """From and up to which tap, in the order of their shifts, each output cell reads the source."""
        reach = np.zeros((self.output, 2), np.int64)
        reach[:, 1] = self.count
        if not self.unpadded:
            lowest = np.arange(self.output) * self.stride + self.lowest
            reach[:, 0] = np.maximum(0, -(lowest // self.apart))
            reach[:, 1] = np.maximum(
                reach[:, 0], np.minimum(self.count, -((lowest - self.source) // self.apart))
            )
        return reach

    @property
    def blind(self) -> bool:
        """Whether all taps of some output cell read padding."""
        reach = self.reach()
        return bool((reach[:, 0] == reach[:, 1]).any())

    @property
    def phases(self) -> int:
        """How many phases of the stride some tap reads."""
        return min(self.count, self.stride // gcd(self.apart, self.stride))

    @property
    def phase_of_taps(self) -> tuple[Array, Array, Array]:
        """The phases of the stride that some tap reads; for each tap, in the kernel's order, which and where.

        The latter is in whole strides from the lowest shift.
        """
        distance = np.arange(self.count) * self.apart
        if self.tap_step < 0:
            distance = distance[::-1]
        if self.stride == 1:
            return np.zeros(1, np.int64), np.zeros(self.count, np.int64), distance
        phases, which = np.unique(distance % self.stride, return_inverse=True)
        return phases, which, distance // self.stride


def forward_axis(g: Geometry, a: int) -> Axis:
    """What the forward pass reads along an axis."""
    return Axis(g.input[a], g.output[a], g.stride[a], -g.padding[a], g.dilation[a], g.kernel[a], 0, 1)


class ForwardPhase:
    """What the forward pass reads along an axis, as the only phase of an output without a stride."""

    all, count, firsts, whole = 1, 1, (0,), True

    def __init__(self, g: Geometry, a: int) -> None:
        self._axis = axis = forward_axis(g, a)
        self.source, self.step, self.lowest = axis.source, axis.stride, axis.lowest
        # How many phases of the source some tap reads.
        self.split = axis.phases

    def cells(self, firsts: Array) -> Array:
        """How many cells each phase of the output has, by its first."""
        return firsts + self._axis.output

    def furthest(self, count: int) -> int:
        """The furthest cell of the source that the first ``count`` cells of the output read."""
        return (min(count, self._axis.output) - 1) * self.step + self._axis.highest

    @property
    def taps(self) -> tuple[Array, Array, Array]:
        """The taps that reach a phase, the number of which, and their shifts."""
        axis = self._axis
        return axis.taps, np.zeros(axis.count, np.int64), axis.shifts


class BackwardPhases:
    """Along an axis, the phases of the stride that some tap reaches, and the correlation of each.

    Input cell i is met by output cell o through tap t where i = o*stride + t*dilation - padding: with
    i + padding = j*stride + remainder, the taps with (t*dilation - remainder) divisible by the stride read
    the gradient at j - (t*dilation - remainder) / stride. They follow each other, ``stride / q`` taps and
    ``dilation / q`` cells apart, where q is the common divisor of both. A phase that no tap reaches is zero.
    """

    step = split = 1

    def __init__(self, g: Geometry, a: int) -> None:
        self.source = g.output[a]
        self.input, self.kernel = g.input[a], g.kernel[a]
        self.stride, self.dilation, self.padding = g.stride[a], g.dilation[a], g.padding[a]
        divisor = gcd(self.stride, self.dilation)
        self.tap_step, self.apart = self.stride // divisor, self.dilation // divisor
        # Phases that have cells, and first taps, of which each has a phase of its own.
        self.all, self.most = min(self.stride, self.input), min(self.kernel, self.tap_step)

    @property
    def count(self) -> int:
        """How many phases some tap reaches."""
        return self.most if self.input >= self.stride else len(self.firsts)

    @property
    def firsts(self) -> list[int]:
        """The first input cell of each phase that a tap reaches, in rising order."""
        found = self._kept
        return self._found() if found is None else found

    @cached_property
    def _kept(self) -> list[int] | None:
        return self._found() if self.most <= MOST_PHASES else None

    def _found(self) -> list[int]:
        if self.stride == 1:
            return [0]
        firsts = np.sort((np.arange(self.most) * self.dilation - self.padding) % self.stride)
        found: list[int] = firsts[firsts < self.input].tolist()
        return found

    @property
    def taps(self) -> tuple[Array, Array, Array]:
        """The taps that reach a phase, the number of which, and their shifts."""
        taps = np.arange(self.kernel)
        if self.stride == 1:
            return taps, np.zeros(self.kernel, np.int64), self.padding - taps * self.dilation
        cells = (taps * self.dilation - self.padding) % self.stride
        if self.input < self.stride:
            taps, cells = taps[cells < self.input], cells[cells < self.input]
        which = np.searchsorted(self.firsts, cells)
        return taps, which, (cells + self.padding - taps * self.dilation) // self.stride

    def cells(self, firsts: Array) -> Array:
        """How many input cells each phase has, by its first."""
        return -((firsts - self.input) // self.stride)

    @property
    def lowest(self) -> int:
        """The smallest shift of any phase, or a smaller number where some phases have no cells."""
        return ceil_div(self.padding - (self.kernel - 1) * self.dilation, self.stride)

    def furthest(self, count: int) -> int:
        """The furthest cell that the first ``count`` cells of any phase read; as `lowest`, or a larger."""
        highest = (self.all - 1 + self.padding) // self.stride
        return min(count - 1 + highest, (self.input - 1 + self.padding) // self.stride)

    def axis(self, first: int) -> Axis:
        """The correlation that makes the cells of a phase, by its first cell."""
        cell, remainder = divmod(first + self.padding, self.stride)
        # The first tap that reaches it.
        steps = remainder // (self.stride // self.tap_step)
        tap = steps * pow(self.apart, -1, self.tap_step) % self.tap_step if self.tap_step > 1 else 0
        count = (self.kernel - 1 - tap) // self.tap_step + 1
        highest = cell - (tap * self.dilation - remainder) // self.stride
        cells = ceil_div(self.input - first, self.stride)
        return Axis(
            self.source, cells, 1, highest - (count - 1) * self.apart, self.apart, count,
            tap + (count - 1) * self.tap_step, -self.tap_step,
        )  # fmt: skip

    @property
    def whole(self) -> bool:
        """Whether taps reach all phases, and so all cells."""
        return self.count == self.all

    @property
    def unpadded(self) -> bool:
        """Whether no tap of any phase reads padding."""
        return all([self.axis(first).unpadded for first in self.kinds])

    @property
    def kinds(self) -> list[int]:
        """The first cells of some phases, one of each kind: of so many cells, taps, and with padding or not.

        Phases of one kind need the same scratch.
        """
        if self.count <= MOST_LISTED:
            return self.firsts
        _, which, shifts = self.taps
        firsts = np.array(self.firsts)
        cells, taps = self.cells(firsts), np.bincount(which)
        read = np.zeros(len(firsts), np.int64)
        np.maximum.at(read, which, (shifts < 0) | (shifts + cells[which] > self.source))
        _, some = np.unique(np.stack((cells, taps, read)), axis=1, return_index=True)
        kinds: list[int] = firsts[some].tolist()
        return kinds


Phases = ForwardPhase | BackwardPhases
ThreePhases = tuple[Phases, Phases, Phases]


class PhaseGrid:
    """All combinations of the phases along three axes, by their first cells: the last axis' fastest."""

    def __init__(self, g: Geometry) -> None:
        d, h, w = self.along = BackwardPhases(g, 0), BackwardPhases(g, 1), BackwardPhases(g, 2)
        # Those that have cells, whether taps reach them or not.
        self.all = d.all * h.all * w.all

    def __len__(self) -> int:
        return prod([phases.count for phases in self.along])

    def __iter__(self) -> Iterator[Three]:
        d, h, w = self.along
        return itertools.product(d.firsts, h.firsts, w.firsts)

    def axes(self, first: Three) -> tuple[Axis, Axis, Axis]:
        """The correlation that makes the cells of a phase."""
        d, h, w = (phases.axis(cell) for phases, cell in zip(self.along, first, strict=True))
        return d, h, w

    @property
    def kinds(self) -> Iterator[Three]:
        """First cells of phases, one of each kind; see `BackwardPhases.kinds`."""
        d, h, w = self.along
        return itertools.product(d.kinds, h.kinds, w.kinds)

    @cached_property
    def whole(self) -> bool:
        """Whether taps reach all phases, and so all cells."""
        return all([phases.whole for phases in self.along])

    @cached_property
    def padded(self) -> bool:
        """Whether some tap of some phase reads padding."""
        return len(self) > 0 and not all([phases.unpadded for phases in self.along])


def triples(offsets: Array, step: int, parts: Array | None = None) -> tuple[Array, Array]:
    """Taps parted in triples, each tap a step further than the one before, and others.

    Parameters
    ----------
    offsets : int64 array (taps,)
        All different in a part.
    step : int
    parts : int64 array (taps,), optional
        From 0 on: the part that each tap belongs to.

    Returns
    -------
    order, threes : int64 arrays
        The taps part by part, triples first, both in the order of their offsets; and all taps of triples.
    """
    numbers = np.arange(len(offsets))
    # Taps that follow each other in steps, as far as they do.
    rows, columns = divmod(offsets, step)
    if parts is not None:
        columns += parts * step
    by_run = np.lexsort((rows, columns))
    begins = np.ones(len(offsets), np.bool_)
    begins[1:] = (np.diff(rows[by_run]) != 1) | (np.diff(columns[by_run]) != 0)
    begun = np.flatnonzero(begins)
    lengths = np.diff(begun, append=len(offsets))
    place = numbers - np.repeat(begun, lengths)
    alone = place >= np.repeat(lengths // 3 * 3, lengths)
    turn = np.where(alone, 0, place % 3)
    keys = turn, offsets[by_run[numbers - turn]], alone
    order = np.lexsort(keys if parts is None else (*keys, parts[by_run]))
    return by_run[order], by_run[~alone]
