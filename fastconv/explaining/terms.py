"""A convolution as a list of multiplications: a cell of the input and a weight, for a cell of the output.

All three passes sum the same list, grouped by another of its columns:

    Y[o]  += X[i] * W[w]        dX[i] += dY[o] * W[w]        dW[w] += dY[o] * X[i]

A list is made of the cells that are drawn: all of a small layer, the first ones of a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from fastconv.arguments import Array
from fastconv.explaining.numbers import Numbers, PoolNumbers
from fastconv.geometry import Geometry, effective

Three = tuple[int, int, int]

# What is drawn at most: cells of the output and of the padded input along an axis, and taps; of the depth,
# where there is one, and of a plane that is one line.
OUTPUTS, CELLS, TAPS = 10, 16, 11
DEPTH = 3
LINE = 24
# Channels and filters of one group, and of each of several; groups.
CHANNELS, GROUPED, GROUPS = 3, 2, 2
# Multiplications that a page holds at most.
MOST = 40_000


class Window(NamedTuple):
    """What is drawn of a layer: from the first cell of each axis on.

    Attributes
    ----------
    groups, channels, filters : int
        Groups, and channels and filters of each.
    taps, outputs, cells : tuple of three int
        Extents (depth, height, width) of the kernel, of the output and of the padded input.
    whole : bool
        Whether that is all of the layer.
    """

    groups: int
    channels: int
    filters: int
    taps: Three
    outputs: Three
    cells: Three
    whole: bool


def reach(
    outputs: Sequence[int], taps: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Three:
    """Cells of the padded input that so many cells of the output read along each axis."""
    depth, height, width = (
        (o - 1) * s + effective(k, d) for o, k, s, d in zip(outputs, taps, stride, dilation, strict=True)
    )
    return depth, height, width


def _limits(one_line: bool) -> tuple[Three, Three, Three]:
    """The most outputs, cells and taps along (depth, height, width)."""
    if one_line:
        return (DEPTH, 1, LINE), (DEPTH, 1, LINE), (DEPTH, 1, LINE // 2)
    return (DEPTH, OUTPUTS, OUTPUTS), (DEPTH + 2, CELLS, CELLS), (DEPTH, TAPS, TAPS)


def _fitting(
    output: Three, kernel: Three, stride: Three, dilation: Three, most: tuple[Three, Three, Three]
) -> tuple[Three, Three]:
    """Outputs and taps of which no more are drawn than there is room for."""
    outputs, taps = [], []
    for o, k, s, d, o_most, c_most, k_most in zip(output, kernel, stride, dilation, *most, strict=True):
        tap = max(1, min(k, k_most, (c_most - 1) // d + 1))
        taps.append(tap)
        outputs.append(max(1, min(o, o_most, (c_most - effective(tap, d)) // s + 1)))
    return (outputs[0], outputs[1], outputs[2]), (taps[0], taps[1], taps[2])


def window_of(g: Geometry) -> Window:
    """What is drawn of a convolution."""
    groups = min(g.groups, GROUPS)
    most = CHANNELS if groups == 1 else GROUPED
    channels, filters = (min(n // g.groups, most) for n in (g.channels, g.filters))
    if g.channels == g.filters == g.groups:
        groups = min(g.groups, CHANNELS)
    limits = _limits(g.input[1] == g.kernel[1] == g.output[1] == 1)
    outputs, taps = _fitting(g.output, g.kernel, g.stride, g.dilation, limits)
    while groups * channels * filters * prod(taps) * prod(outputs) > MOST:
        outputs = (outputs[0], max(1, outputs[1] - 1), max(1, outputs[2] - 1))
        if outputs[1:] == (1, 1):
            filters = max(1, filters - 1)
    cells = reach(outputs, taps, g.stride, g.dilation)
    if outputs == g.output:
        # What lies beyond the last window is drawn where there is room, though no window reads it.
        ends = tuple(p + n for p, n in zip(g.padding, g.input, strict=True))
        roomy = tuple(max(a, min(b, most)) for a, b, most in zip(cells, ends, limits[1], strict=True))
        cells = (roomy[0], roomy[1], roomy[2])
    whole = (
        (groups, groups * channels, groups * filters) == (g.groups, g.channels, g.filters)
        and (taps, outputs) == (g.kernel, g.output)
        and all(c >= p + n for c, p, n in zip(cells, g.padding, g.input, strict=True))
        and g.batch == 1
    )
    return Window(groups, channels, filters, taps, outputs, cells, whole)


def terms_of(g: Geometry, window: Window) -> Array:
    """The multiplications among what is drawn: rows (output cell, input cell, weight), all by number.

    Numbers count (filter, depth, height, width), (channel, depth, height, width) of the padded input, and
    (filter, channel of the group, kernel), of what is drawn.
    """
    some = window
    axes = [np.arange(n) for n in (some.groups, some.filters, some.channels, *some.taps, *some.outputs)]
    group, filter_, channel, *rest = np.meshgrid(*axes, indexing="ij", sparse=True)
    taps, outputs = rest[:3], rest[3:]
    o = (group * some.filters + filter_) * prod(some.outputs) + _flat(outputs, some.outputs)
    places = [a * s + t * d for a, s, t, d in zip(outputs, g.stride, taps, g.dilation, strict=True)]
    i = (group * some.channels + channel) * prod(some.cells) + _flat(places, some.cells)
    w = ((group * some.filters + filter_) * some.channels + channel) * prod(some.taps) + _flat(
        taps, some.taps
    )
    return np.stack([part.ravel() for part in np.broadcast_arrays(o, i, w)], axis=1)


def _flat(places: Sequence[Array], extents: Three) -> Array:
    d, h, w = places
    return (d * extents[1] + h) * extents[2] + w


def first(extents: Sequence[int], begin: Sequence[int] = (0, 0, 0)) -> tuple[slice, ...]:
    """The index of so many cells of (channels, depth, height, width), from a place on, of all channels."""
    return (slice(None), *(slice(b, b + n) for b, n in zip(begin, extents, strict=True)))


def drawn_values(numbers: Numbers, window: Window) -> dict[str, Array]:
    """The numbers of the cells that are drawn, flat: ``x``, ``w``, ``y``, ``dy``, ``dx``, ``dw``."""
    g, some = numbers.geometry, window

    def channels(array: Array, each: int, drawn: int) -> Array:
        grouped = array[0].reshape(g.groups, each, *array.shape[2:])
        return grouped[: some.groups, :drawn].reshape(-1, *array.shape[2:])

    def padded(array: Array) -> Array:
        inside = channels(array, g.channels // g.groups, some.channels)
        found = np.zeros((inside.shape[0], *some.cells), inside.dtype)
        extents = [
            max(0, min(c - p, n)) for c, p, n in zip(some.cells, g.padding, inside.shape[1:], strict=True)
        ]
        place = first(extents, g.padding)
        found[place] = inside[first(extents)]
        return found

    def outputs(array: Array) -> Array:
        inside = channels(array, g.filters // g.groups, some.filters)
        return inside[first(some.outputs)]

    def weights(array: Array) -> Array:
        grouped = array.reshape(g.groups, -1, *array.shape[1:])
        inside = grouped[: some.groups, : some.filters, : some.channels]
        depth, height, width = some.taps
        return inside[..., :depth, :height, :width]

    found = {
        "x": padded(numbers.x), "w": weights(numbers.w), "y": outputs(numbers.y),
        "dy": outputs(numbers.dy), "dx": padded(numbers.dx), "dw": weights(numbers.dw),
    }  # fmt: skip
    return {name: array.ravel() for name, array in found.items()}


def inside(g: Geometry, window: Window) -> Array:
    """Whether each cell of a drawn plane of the padded input is a cell of the input."""
    axes = [
        (p <= np.arange(c)) & (np.arange(c) < p + n)
        for c, p, n in zip(window.cells, g.padding, g.input, strict=True)
    ]
    depth, height, width = axes
    return depth[:, None, None] & height[:, None] & width


def pool_window(numbers: PoolNumbers) -> Window:
    """What is drawn of a max-pooling."""
    extents, output = numbers.x.shape[1:], numbers.y.shape[1:]
    limits = _limits(extents[1] == numbers.kernel[1] == output[1] == 1)
    kernel = numbers.kernel[0], numbers.kernel[1], numbers.kernel[2]
    stride = numbers.stride[0], numbers.stride[1], numbers.stride[2]
    dilation = numbers.dilation[0], numbers.dilation[1], numbers.dilation[2]
    outputs, taps = _fitting((output[0], output[1], output[2]), kernel, stride, dilation, limits)
    cells = reach(outputs, taps, stride, dilation)
    channels = min(numbers.x.shape[0], CHANNELS)
    whole = (outputs, taps) == (output, kernel) and channels == numbers.x.shape[0]
    return Window(1, channels, channels, taps, outputs, cells, whole)


def pool_terms(numbers: PoolNumbers, window: Window) -> Array:
    """Rows (output cell, input cell, what it is): 2 the window's first maximum, 1 equal to it, 0 less."""
    some, channels = window, window.channels
    axes = [np.arange(n) for n in (channels, *some.taps, *some.outputs)]
    channel, *rest = np.meshgrid(*axes, indexing="ij", sparse=True)
    taps, outputs = rest[:3], rest[3:]
    places = [
        a * s + t * d for a, s, t, d in zip(outputs, numbers.stride, taps, numbers.dilation, strict=True)
    ]
    of_x = [place - p for place, p in zip(places, numbers.padding, strict=True)]
    shape = numbers.x.shape[1:]
    there = (of_x[0] >= 0) & (of_x[1] >= 0) & (of_x[2] >= 0)
    for place, n in zip(of_x, shape, strict=True):
        there = there & (place < n)
    clipped = [np.clip(place, 0, n - 1) for place, n in zip(of_x, shape, strict=True)]
    d, h, w = clipped
    values = numbers.x[channel, d, h, w]
    flat = _flat(clipped, (shape[0], shape[1], shape[2]))
    a, b, c = outputs
    best, winner = numbers.y[channel, a, b, c], numbers.indices[channel, a, b, c]
    # A NaN is the maximum, and equal to itself here.
    equal = (
        (values == best) | (np.isnan(values) & np.isnan(best)) if values.dtype.kind == "f" else values == best
    )
    kind = np.where(there & (flat == winner), 2, np.where(there & equal, 1, 0))
    o = channel * prod(some.outputs) + _flat(outputs, some.outputs)
    i = channel * prod(some.cells) + _flat(places, some.cells)
    rows = [part.ravel() for part in np.broadcast_arrays(o, i, kind, there)]
    return np.stack(rows[:3], axis=1)[rows[3]]


def lit(terms: Array, kind: str, number: int) -> Array:
    """The multiplications that a cell has part in: ``kind`` is "o", "i" or "w"."""
    return terms[terms[:, "oiw".index(kind)] == number]
