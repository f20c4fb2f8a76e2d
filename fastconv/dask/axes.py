"""One spatial axis of a convolution or a pooling, and which cells of it belong to which chunk."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from fastconv.engine.partition import ceil_div
from fastconv.geometry import Geometry, effective

Range = tuple[int, int]


class Axis(NamedTuple):
    """Windows along an axis: ``output`` of them, of ``taps`` cells, ``stride`` cells apart.

    The first one begins ``before`` cells before the input, whose extent is ``extent``.
    """

    extent: int
    output: int
    taps: int
    stride: int
    before: int
    dilation: int

    @property
    def reach(self) -> int:
        """Cells from the first tap of a window to the last, both included."""
        return effective(self.taps, self.dilation)

    def read(self, first: int, stop: int) -> Range:
        """The cells that some windows read; they may begin before the input and end behind it."""
        return first * self.stride - self.before, (stop - 1) * self.stride - self.before + self.reach

    def reaching(self, first: int, stop: int) -> Range:
        """The windows that read some of the cells, none where the second number is not the larger one."""
        some = ceil_div(first + self.before - self.reach + 1, self.stride)
        return max(0, some), min(self.output, (stop - 1 + self.before) // self.stride + 1)

    def inside(self, first: int, stop: int) -> Range:
        """A range without what lies before or behind the input."""
        return max(0, min(first, self.extent)), max(0, min(stop, self.extent))

    def outputs(self, chunks: Sequence[int]) -> tuple[int, ...]:
        """Chunks of the output: each begins where one of the input does, in strides."""
        starts = (
            min(self.output, ceil_div(start, self.stride)) for start in accumulate(chunks[:-1], initial=0)
        )
        return _between([*starts, self.output])

    def inputs(self, chunks: Sequence[int]) -> tuple[int, ...]:
        """The inverse: chunks of the input for those of the output."""
        starts = (min(self.extent, start * self.stride) for start in accumulate(chunks[:-1], initial=0))
        return _between([*starts, self.extent])


def _between(bounds: Sequence[int]) -> tuple[int, ...]:
    """The extents between bounds, without empty ones unless there is nothing else."""
    found = tuple(b - a for a, b in pairwise(sorted(bounds)) if b > a)
    return found or (0,)


def ranges(chunks: Sequence[int]) -> list[Range]:
    """Where each chunk begins and ends."""
    return list(pairwise(accumulate(chunks, initial=0)))


def axes_of(g: Geometry) -> list[Axis]:
    """The spatial axes of a convolution."""
    n = g.ndim
    every = zip(
        g.input[-n:],
        g.output[-n:],
        g.kernel[-n:],
        g.stride[-n:],
        g.padding[-n:],
        g.dilation[-n:],
        strict=True,
    )
    return [Axis(*one) for one in every]
