"""Sizes of pooling: where every window starts and stops along each axis.

Fixed windows (kernel, stride, padding, dilation) and adaptive ones become the same tables, which are
all that the kernels know of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastconv.arguments import Array, Pairs, Size, must_be_said
from fastconv.geometry import effective, resolved_padding


@dataclass(frozen=True, eq=False)
class Axis:
    """The windows along one axis: cells ``start, start + step, ... < stop`` of the unpadded input.

    How many there are is arithmetic; the tables are made when they are first needed, after the sizes
    have been compared with the arrays that are there.
    """

    extent: int  # of the input
    output: int  # windows
    step: int

    @cached_property
    def table(self) -> Array:
        """int64 (output, 2): start and stop of every window."""
        raise NotImplementedError

    @property
    def padded(self) -> Array:
        """int64 (output,): cells of the window, those in the padding included."""
        return self.valid

    @property
    def valid(self) -> Array:
        """int64 (output,): cells of the window inside the input, for a step of 1."""
        return np.asarray(self.table[:, 1] - self.table[:, 0])

    @property
    def some_empty(self) -> bool:
        """Whether some window has no cell of the input (a dilated one may step over all of it)."""
        return bool((self.table[:, 0] >= self.table[:, 1]).any())

    @cached_property
    def covers(self) -> Array:
        """The inverse table, int64 (extent, 2): the windows ``first <= o < stop`` that hold each cell.

        Starts and stops never decrease, so these are one range (for a step of 1).
        """
        cells = np.arange(self.extent)
        first = np.searchsorted(self.table[:, 1], cells, side="right")
        stop = np.searchsorted(self.table[:, 0], cells, side="right")
        return np.stack([first, stop], axis=1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class FixedAxis(Axis):
    """Windows of one size: ``reach`` cells from the first tap to the last, ``stride`` cells apart."""

    taps: int
    reach: int
    stride: int
    before: int
    after: int

    @cached_property
    def _start(self) -> Array:
        return np.asarray(np.arange(self.output, dtype=np.int64) * self.stride - self.before)

    @cached_property
    def table(self) -> Array:
        """int64 (output, 2): start and stop of every window."""
        # The first tap that is not in the padding.
        first = self._start + np.maximum(0, -(self._start // self.step)) * self.step
        return np.stack([first, np.minimum(self._start + self.reach, self.extent)], axis=1)

    @property
    def some_empty(self) -> bool:
        """Whether some window has no cell of the input; without dilation only where there is none."""
        return self.extent == 0 or (self.step > 1 and super().some_empty)

    @cached_property
    def clipped(self) -> tuple[int, int]:
        """Where the first window starts, and its taps, without what is padding in every window."""
        if self.step > 1:
            return -self.before, self.taps
        before = min(self.before, (self.output - 1) * self.stride)
        return -before, min(self.taps - self.before, self.extent) + before

    @property
    def padded(self) -> Array:
        """int64 (output,): cells of the window, those in the padding included."""
        return np.asarray(np.minimum(self._start + self.reach, self.extent + self.after) - self._start)


@dataclass(frozen=True, eq=False)
class AdaptiveAxis(Axis):
    """Windows that share the input out evenly: from floor(o*n/O) to ceil((o + 1)*n/O), as in PyTorch."""

    @cached_property
    def table(self) -> Array:
        """int64 (output, 2): start and stop of every window."""
        o = np.arange(self.output, dtype=np.int64)
        return np.stack([o * self.extent // self.output, -((o + 1) * -self.extent // self.output)], axis=1)


_SINGLE = AdaptiveAxis(1, 1, 1)  # an axis that is not there


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of a pooling along depth, height and width."""

    axes: tuple[Axis, Axis, Axis]
    output: Size  # as many extents as the array has spatial dimensions


def _three_axes(axes: Sequence[Axis]) -> Windows:
    padded = (_SINGLE,) * (3 - len(axes)) + tuple(axes)
    return Windows((padded[0], padded[1], padded[2]), tuple(axis.output for axis in axes))


def _fixed_axis(
    n: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int, ceil_mode: bool
) -> FixedAxis | None:
    """Windows of a fixed size, none of them where one does not quite fit; None where there is far less room.

    ``ceil_mode`` adds a last window that would overhang, if it starts inside the input or the padding
    before it (PyTorch's rule).
    """
    before, after = padding
    reach = effective(kernel, dilation)
    room = n + before + after - reach + (stride - 1 if ceil_mode else 0)
    output = room // stride + 1
    if ceil_mode and (output - 1) * stride >= n + before:
        output -= 1
    if output < 0:
        return None
    return FixedAxis(n, output, dilation, kernel, reach, stride, before, after)


def fixed_windows(
    extent: Size,
    kernel: Size,
    stride: Size,
    padding: str | Pairs,
    dilation: Size,
    ceil_mode: bool,
    name: str = "input",
) -> Windows:
    """The windows of max-pooling or average-pooling on an input of these extents, which errors call ``name``.

    Raises
    ------
    ValueError
        If the padding is more than half the kernel, or a window does not fit.
    """
    pairs = resolved_padding(padding, extent, kernel, stride, dilation)
    for pair, k in zip(pairs, kernel, strict=True):
        if not isinstance(padding, str) and max(pair) > k // 2:
            must_be_said(ValueError, "padding", f"at most half the kernel {kernel}", f"{padding!r}")
    axes = []
    for n, k, s, pair, d in zip(extent, kernel, stride, pairs, dilation, strict=True):
        axis = _fixed_axis(n, k, s, pair, d, ceil_mode)
        if axis is None:
            expected = f"at least as large as the dilated kernel {tuple(map(effective, kernel, dilation))}"
            must_be_said(ValueError, name, expected, f"extents {extent} with padding {pairs}")
        axes.append(axis)
    return _three_axes(axes)


def adaptive_windows(extent: Size, output: Size) -> Windows:
    """The windows of adaptive pooling from the one extents to the other."""
    return _three_axes([AdaptiveAxis(n, wanted, 1) for n, wanted in zip(extent, output, strict=True)])
