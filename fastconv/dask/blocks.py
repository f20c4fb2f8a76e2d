"""What a worker computes of a chunk: one call of fastconv, on one thread, as Dask runs a task a thread."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastconv import conv, pool
from fastconv.arguments import Array
from fastconv.dask.axes import Axis, Range
from fastconv.dask.graphs import joined
from fastconv.threads import num_threads

Pairs = tuple[tuple[int, int], ...]


class Settings(NamedTuple):
    """What every chunk of a convolution shares."""

    ndim: int
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    layout: str
    algorithm: str
    dtype: str

    def size(self, batch: int, channels: int, extents: Sequence[int]) -> tuple[int, ...]:
        """A shape in the layout."""
        last = self.layout.endswith("C")
        return (batch, *extents, channels) if last else (batch, channels, *extents)

    def call(self, name: str, *arguments: Any, padding: Any) -> Array:
        """A function of `fastconv.conv`, on one thread."""
        function = getattr(conv, name.format(f"{self.ndim}d"))
        steps = {"stride": self.stride, "padding": padding, "dilation": self.dilation, "groups": self.groups}
        with num_threads(1):
            return np.asarray(function(*arguments, **steps, layout=self.layout, algorithm=self.algorithm))


def forward(pieces: Any, weight: Array, bias: Array | None, padding: Pairs, settings: Settings) -> Array:
    """A chunk of the output, which may have no cells."""
    return settings.call(
        "conv{}", joined(pieces).astype(settings.dtype, copy=False), weight, bias, padding=padding
    )


def backward_input(
    pieces: Any,
    weight: Array,
    bias: Array | None,
    size: tuple[int, ...],
    where: Sequence[Range],
    settings: Settings,
) -> Array:
    """A chunk of the input's gradient.

    Parameters
    ----------
    pieces
        Of the output's gradient: what reaches the chunk; None where nothing does.
    weight : array
    bias : array, optional
        Added to it, of a transposed convolution.
    size : tuple of int
        The chunk's shape.
    where : sequence of pairs
        Where the chunk begins and ends among the cells that those windows read.
    settings : Settings
    """
    result = np.zeros(size, settings.dtype)
    if pieces is not None:
        dy = joined(pieces).astype(settings.dtype, copy=False)
        last = settings.layout.endswith("C")
        cells = dy.shape[1:-1] if last else dy.shape[2:]
        kernel = weight.shape[1:-1] if last else weight.shape[2:]
        channels = size[-1] if last else size[1]
        steps = zip(cells, kernel, settings.stride, settings.dilation, strict=True)
        extents = [(o - 1) * s + (k - 1) * d + 1 for o, k, s, d in steps]
        read = settings.size(dy.shape[0], channels, extents)
        dx = settings.call("conv{}_backward_input", dy, weight, read, padding=0)
        here, there = [], []
        for (first, stop), n in zip(where, extents, strict=True):
            a, b = max(0, first), min(n, stop)
            there.append(slice(a, b))
            here.append(slice(a - first, b - first))
        place = (slice(None), *here, slice(None)) if last else (slice(None), slice(None), *here)
        source = (slice(None), *there, slice(None)) if last else (slice(None), slice(None), *there)
        result[place] = dx[source]
    if bias is not None:
        result += bias if settings.layout.endswith("C") else bias.reshape(-1, *(1,) * settings.ndim)
    return result


def backward_weight(dy: Any, x: Any, size: tuple[int, ...], padding: Pairs, settings: Settings) -> Array:
    """What a chunk of the output's gradient adds to that of the filters."""
    # Sums of float16 arrays are of float32, as in memory, until the last one.
    dtype = wide(np.dtype(settings.dtype))
    arrays = (joined(pieces).astype(dtype, copy=False) for pieces in (dy, x))
    return settings.call("conv{}_backward_weight", *arrays, size, padding=padding)


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What sums of a dtype are of: float16 is computed in float32."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def add(parts: Sequence[Any]) -> Array:
    """The sum, in order."""
    total = np.array(parts[0])
    for part in parts[1:]:
        total += part
    return total


# Pooling


class Pooled(NamedTuple):
    """What every chunk of a pooling shares."""

    axes: tuple[Axis, ...]
    layout: str

    @property
    def spatial(self) -> tuple[int, ...]:
        """The numbers of the spatial axes of an array."""
        n = len(self.axes)
        return tuple(range(1, n + 1)) if self.layout.endswith("C") else tuple(range(2, n + 2))

    def call(self, name: str, *arguments: Any, **named: Any) -> Any:
        """A function of `fastconv.pool`, on one thread."""
        function = getattr(pool, name.format(f"{len(self.axes)}d"))
        with num_threads(1):
            return function(*arguments, **named, layout=self.layout)

    def windows(self) -> dict[str, tuple[int, ...]]:
        """Kernel and stride."""
        return {
            "kernel_size": tuple(axis.taps for axis in self.axes),
            "stride": tuple(axis.stride for axis in self.axes),
        }

    def dilation(self) -> tuple[int, ...]:
        """Of all axes."""
        return tuple(axis.dilation for axis in self.axes)

    def along(self, values: Sequence[Array]) -> list[Array]:
        """One array an axis, each along its own axis of an image."""
        last = self.layout.endswith("C")
        found = []
        for k, each in enumerate(values):
            shape = [1] * (len(values) + 2)
            shape[k + (1 if last else 2)] = -1
            found.append(each.reshape(shape))
        return found


def _padded(x: Array, padding: Pairs, fill: Any, pooled: Pooled) -> Array:
    if not any(map(any, padding)):
        return x
    pairs = [(0, 0)] * x.ndim
    for axis, pair in zip(pooled.spatial, padding, strict=True):
        pairs[axis] = pair
    return np.pad(x, pairs, constant_values=fill)


def max_pool(pieces: Any, where: Sequence[Range], padding: Pairs, indices: bool, pooled: Pooled) -> Any:
    """A chunk of the maxima, and of their indices in the whole plane where these are wanted."""
    x = joined(pieces)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = _padded(x, padding, lowest, pooled)
    found = pooled.call(
        "max_pool{}", padded, **pooled.windows(), dilation=pooled.dilation(), return_indices=indices
    )
    if not indices:
        return found
    values, local = found
    extents = [padded.shape[axis] for axis in pooled.spatial]
    # A window whose cells are all the lowest number there is takes its first cell, which must be the input's.
    firsts, ends, places, outside = [], [], [], np.zeros(local.shape, bool)
    rest = local
    for extent in reversed(extents):
        places.append(rest % extent)
        rest = rest // extent
    places.reverse()
    for axis, (first, stop), place in zip(pooled.axes, where, places, strict=True):
        begin = axis.read(first, stop)[0]
        place += begin
        outside |= (place < 0) | (place >= axis.extent)
        starts = np.arange(first, stop) * axis.stride - axis.before
        firsts.append(starts + np.maximum(0, -(starts // axis.dilation)) * axis.dilation)
        ends.append(np.minimum(starts + axis.reach, axis.extent))
    flat, first_flat = np.zeros(local.shape, np.int64), np.zeros((1,) * local.ndim, np.int64)
    for axis, place, starts in zip(pooled.axes, places, pooled.along(firsts), strict=True):
        flat = flat * axis.extent + place
        first_flat = first_flat * axis.extent + starts
    # One whose taps all lie outside has no cell at all.
    empty = np.zeros((1,) * local.ndim, bool)
    for starts, stops in zip(pooled.along(firsts), pooled.along(ends), strict=True):
        empty = empty | (starts >= stops)
    return values, np.where(empty, -1, np.where(outside, first_flat, flat))


def max_pool_backward(
    dy: Any, indices: Any, size: tuple[int, ...], where: Sequence[Range], dtype: str, pooled: Pooled
) -> Array:
    """A chunk of the gradient: what maxima of windows that reach it hand back."""
    if dy is None:
        return np.zeros(size, dtype)
    errors, winners = joined(dy), joined(indices).astype(np.int64, copy=False)
    rest, local, inside = winners, np.zeros(winners.shape, np.int64), np.ones(winners.shape, bool)
    factor = 1
    for axis, (first, stop) in zip(reversed(pooled.axes), reversed(where), strict=True):
        place = rest % axis.extent
        rest = rest // axis.extent
        inside &= (first <= place) & (place < stop)
        local += (place - first) * factor
        factor *= stop - first
    # After all axes nothing is left of an index in the plane, and -1 of that of a window without cells.
    if np.any((rest > 0) | (winners < -1)):
        raise ValueError("indices must be of cells of the input, or -1, got others")
    inside &= winners >= 0
    return np.asarray(
        pooled.call(
            "max_pool{}_backward",
            np.where(inside, errors, 0).astype(dtype, copy=False),
            np.where(inside, local, 0),
            size,
        )
    )


def plane_maximum(pieces: Any, where: Sequence[Range], pooled: Pooled) -> Array:
    """The maximum of a chunk's part of each plane and its index in the whole plane, as an array of pairs."""
    x = joined(pieces)
    values, local = pooled.call("adaptive_max_pool{}", x, 1, return_indices=True)
    places = np.unravel_index(local, [x.shape[axis] for axis in pooled.spatial])
    index = np.zeros(local.shape, np.int64)
    for axis, (first, _), place in zip(pooled.axes, where, places, strict=True):
        index = index * axis.extent + first + place
    pairs = np.empty(values.shape, np.dtype([("value", values.dtype), ("index", np.int64)], align=True))
    pairs["value"], pairs["index"] = values, index
    return pairs


def as_it_is(pairs: Array, axis: Any, keepdims: bool) -> Array:
    """What `plane_maximum` made of a chunk."""
    return pairs


def first_maximum(pairs: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """Of pairs along some axes the one with the largest value: the first of several, and the first NaN."""
    leading = pairs.ndim - len(axis)
    moved = np.moveaxis(pairs, axis, range(leading, pairs.ndim))
    flat = moved.reshape(*moved.shape[:leading], prod(moved.shape[leading:]))
    values = flat["value"]
    among = values == values.max(-1, keepdims=True)
    if values.dtype.kind == "f":
        among |= np.isnan(values)  # where there is one, the maximum is a NaN, which equals nothing
    chosen = np.where(among, flat["index"], np.iinfo(np.int64).max).argmin(-1)
    best = np.take_along_axis(flat, chosen[..., np.newaxis], -1)[..., 0]
    return np.expand_dims(best, axis)


def counts(pooled: Pooled, where: Sequence[Range], padded: Sequence[int] | None) -> Array:
    """Cells of each window of a chunk; those of the padding count where ``padded`` says how many follow."""
    along = []
    for k, (axis, (first, stop)) in enumerate(zip(pooled.axes, where, strict=True)):
        starts = np.arange(first, stop) * axis.stride - axis.before
        if padded is None:
            along.append(np.minimum(starts + axis.taps, axis.extent) - np.maximum(starts, 0))
        else:
            along.append(np.minimum(starts + axis.taps, axis.extent + padded[k]) - starts)
    return np.asarray(prod(pooled.along(along)))


def avg_pool(
    pieces: Any,
    where: Sequence[Range],
    padding: Pairs,
    padded: Sequence[int] | None,
    divisor: int | None,
    pooled: Pooled,
) -> Array:
    """A chunk of the means."""
    array = joined(pieces)
    x = _padded(array.astype(wide(array.dtype), copy=False), padding, 0, pooled)
    sums = pooled.call("avg_pool{}", x, **pooled.windows(), divisor_override=1)
    by: Any = divisor if divisor is not None else counts(pooled, where, padded)
    return np.asarray((sums / by).astype(array.dtype, copy=False))


def avg_pool_backward(
    dy: Any,
    windows: Sequence[Range],
    size: tuple[int, ...],
    where: Sequence[Range],
    padded: Sequence[int] | None,
    divisor: int | None,
    dtype: str,
    pooled: Pooled,
) -> Array:
    """A chunk of the gradient: each error by the cells of its window, to all of them."""
    result = np.zeros(size, dtype)
    if dy is None:
        return result
    by: Any = divisor if divisor is not None else counts(pooled, windows, padded)
    errors = (joined(dy) / by).astype(wide(np.dtype(dtype)), copy=False)
    extents = [
        (b - a - 1) * axis.stride + axis.taps for axis, (a, b) in zip(pooled.axes, windows, strict=True)
    ]
    read = list(errors.shape)
    for axis, extent in zip(pooled.spatial, extents, strict=True):
        read[axis] = extent
    dx = pooled.call("avg_pool{}_backward", errors, tuple(read), **pooled.windows(), divisor_override=1)
    here, there = [slice(None)] * dx.ndim, [slice(None)] * dx.ndim
    for axis, (first, stop), n in zip(pooled.spatial, where, extents, strict=True):
        a, b = max(0, first), min(n, stop)
        there[axis], here[axis] = slice(a, b), slice(a - first, b - first)
    result[tuple(here)] = dx[tuple(there)]
    return result
