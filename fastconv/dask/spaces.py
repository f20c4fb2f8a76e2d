"""Batch, channels and space of arrays in chunks: what tasks of convolution and of pooling share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastconv.dask.arguments import Lazy
from fastconv.dask.axes import Axis, Range


class Space:
    """The spatial axes of an operation, in a layout.

    Parameters
    ----------
    axes : list of Axis
    last : bool
        Whether the channels are last.
    """

    def __init__(self, axes: list[Axis], last: bool) -> None:
        self.axes, self.last = axes, last

    def arranged(self, batch: Any, channels: Any, spatial: Sequence[Any]) -> tuple[Any, ...]:
        """Something an axis, in the order of the layout."""
        return (batch, *spatial, channels) if self.last else (batch, channels, *spatial)

    def spatial(self, parts: Sequence[Any]) -> Sequence[Any]:
        """The inverse: what belongs to spatial axes."""
        return parts[1:-1] if self.last else parts[2:]

    def batch_and_space(self, array: Lazy) -> tuple[tuple[int, ...], Sequence[tuple[int, ...]]]:
        """An array's chunks along these axes."""
        return array.chunks[0], self.spatial(array.chunks)

    def read(self, where: Sequence[Range]) -> tuple[list[Range], tuple[tuple[int, int], ...]]:
        """What windows read of the input along each axis, and how many zeros belong around it."""
        read, padding = [], []
        for axis, (a, b) in zip(self.axes, where, strict=True):
            if b <= a:
                # One cell less than a window, which gives no cell.
                read.append((0, 0))
                padding.append((0, axis.reach - 1))
                continue
            first, stop = axis.read(a, b)
            begin, end = axis.inside(first, stop)
            read.append((begin, max(begin, end)))
            # Windows that lie in the padding alone read nothing of the input.
            before = min(max(0, -first), stop - first)
            padding.append((before, stop - first - before - (read[-1][1] - begin)))
        return read, tuple(padding)

    def reaching(self, where: Sequence[Range]) -> tuple[list[Range], list[Range]] | None:
        """Which windows read some of a chunk's cells, and where the chunk lies among all that they read.

        None where no window does.
        """
        windows, place = [], []
        for axis, (first, stop) in zip(self.axes, where, strict=True):
            a, b = axis.reaching(first, stop)
            if b <= a:
                return None
            begin = axis.read(a, b)[0]
            windows.append((a, b))
            place.append((first - begin, stop - begin))
        return windows, place
