"""What lies beyond the border of an array, and which cells of a result read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastconv.arguments import Array, Size

Range = tuple[int, int]

# The name of each border by SciPy's names for it, in filters.
MODES = {
    "reflect": "reflect",
    "grid-mirror": "reflect",
    "mirror": "mirror",
    "nearest": "nearest",
    "constant": "constant",
    "grid-constant": "constant",
    "wrap": "wrap",
    "grid-wrap": "wrap",
}


def cells(first: int, stop: int, extent: int, mode: str) -> Array:
    """Which cell of an axis stands at each place from ``first`` to ``stop``, beyond the border too."""
    places = np.arange(first, stop)
    if mode == "nearest":
        return places.clip(0, extent - 1)
    if mode == "wrap":
        return places % extent
    if mode == "reflect":
        places %= 2 * extent
        return np.minimum(places, 2 * extent - 1 - places)
    period = max(1, 2 * extent - 2)  # mirror: the outermost cell stands there once
    places %= period
    return np.minimum(places, period - places)


def read(x: Array, ranges: Sequence[Range], mode: str, cval: float, dtype: DTypeLike | None = None) -> Array:
    """The cells of a box that may reach beyond the border, in a dtype; a view where nothing changes."""
    dtype = x.dtype if dtype is None else dtype
    inside = tuple(
        slice(min(max(a, 0), n), min(max(b, 0), n)) for (a, b), n in zip(ranges, x.shape, strict=True)
    )
    beyond = [k for k, (a, b) in enumerate(ranges) if a < 0 or b > x.shape[k]]
    if not beyond:
        return x[inside].astype(dtype, copy=False)
    box_shape = [b - a for a, b in ranges]
    if mode == "constant":
        box = np.full(box_shape, cval, dtype)
        box[_places(ranges, inside)] = x[inside]
        return box
    # Of the axis along which a box is thin, all cells are looked up; of others only those beyond the border.
    whole = [k for k in beyond if ranges[k][0] <= 0 and ranges[k][1] >= x.shape[k]]
    thin = [k for k in beyond if k not in whole]
    found = x[tuple(slice(None) if k in thin else one for k, one in enumerate(inside))]
    for k in thin:
        found = found.take(cells(*ranges[k], x.shape[k], mode), axis=k)
    if not whole:
        return found.astype(dtype, copy=False)
    box = np.empty(box_shape, dtype)
    places: list[Any] = list(_places(ranges, inside))
    for k in thin:
        places[k] = slice(None)
    box[tuple(places)] = found
    for k in whole:
        (first, stop), n = ranges[k], x.shape[k]
        for a, b in ((first, 0), (n, stop)):
            if b > a:
                places[k] = slice(a - first, b - first)
                source = places.copy()
                source[k] = cells(a, b, n, mode) - first
                box[tuple(places)] = box[tuple(source)]
        places[k] = slice(None)
    return box


def _places(ranges: Sequence[Range], inside: Sequence[slice]) -> tuple[slice, ...]:
    """Where cells of an array stand in a box."""
    return tuple(slice(one.start - a, one.stop - a) for one, (a, _) in zip(inside, ranges, strict=True))


def frame(shape: Size, before: Size, after: Size) -> Iterator[tuple[int, tuple[Range, ...]]]:
    """Boxes of the cells that read beyond the border, each with the axis along which it is thin.

    They do not overlap, and leave the cells that read none.
    """
    done: list[Range] = []
    for k, (n, b, a) in enumerate(zip(shape, before, after, strict=True)):
        rest = [(0, extent) for extent in shape[k + 1 :]]
        for first, stop in ((0, b), (n - a, n)):
            if stop > first:
                yield k, (*done, (first, stop), *rest)
        done.append((b, n - a))
