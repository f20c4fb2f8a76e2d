"""The axes of a correlation: which cells of its source each cell of its output reads."""

from __future__ import annotations

from dataclasses import dataclass

from fastconv.algorithms.jobs import ceil_div
from fastconv.geometry import Geometry

Three = tuple[int, int, int]


@dataclass(frozen=True)
class Axis:
    """One axis of a correlation: output cell o reads the source at ``o*stride + shift`` for every tap."""

    source: int  # extent of what is read
    output: int  # extent of what is written
    stride: int
    shifts: tuple[int, ...]  # one for each tap along this axis
    taps: tuple[int, ...]  # which taps of the kernel these are

    @property
    def lowest(self) -> int:
        """The smallest shift: where the grid begins."""
        return min(self.shifts)

    @property
    def unpadded(self) -> bool:
        """Whether no tap reads padding."""
        return self.lowest >= 0 and (self.output - 1) * self.stride + max(self.shifts) < self.source

    def inside(self, shift: int) -> tuple[int, int]:
        """From and up to which output cell a tap reads the source, and not its padding."""
        first = max(0, ceil_div(-shift, self.stride))
        return first, max(first, min(self.output, ceil_div(self.source - shift, self.stride)))

    @property
    def grid(self) -> int:
        """Cells of one phase of the stride that all of the output needs."""
        reach = (self.output - 1) * self.stride + max(self.shifts) - self.lowest + 1
        return ceil_div(reach, self.stride)

    @property
    def deltas(self) -> list[tuple[int, int]]:
        """For each tap its distance from the lowest: whole strides, and the phase that is left."""
        lowest = self.lowest
        return [divmod(shift - lowest, self.stride) for shift in self.shifts]


def forward_axis(g: Geometry, a: int) -> Axis:
    """What the forward pass reads along an axis."""
    taps = tuple(range(g.kernel[a]))
    shifts = tuple(tap * g.dilation[a] - g.padding[a] for tap in taps)
    return Axis(g.input[a], g.output[a], g.stride[a], shifts, taps)


def backward_axes(g: Geometry, a: int) -> list[tuple[int, Axis | None]]:
    """For each phase of the stride: its first input cell, and the correlation that makes its cells.

    Input cell i is met by output cell o through tap t where i = o*stride + t*dilation - padding: with
    i + padding = j*stride + remainder, the taps with (t*dilation - remainder) divisible by the stride read
    the gradient at j - (t*dilation - remainder) / stride. A phase that no tap reaches is zero (None).
    """
    phases: list[tuple[int, Axis | None]] = []
    stride = g.stride[a]
    for first in range(min(stride, g.input[a])):
        cell, remainder = divmod(first + g.padding[a], stride)
        taps = tuple(t for t in range(g.kernel[a]) if (t * g.dilation[a] - remainder) % stride == 0)
        shifts = tuple(cell - (t * g.dilation[a] - remainder) // stride for t in taps)
        cells = ceil_div(g.input[a] - first, stride)
        phases.append((first, Axis(g.output[a], cells, 1, shifts, taps) if taps else None))
    return phases
