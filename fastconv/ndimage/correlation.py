"""A correlation as calls of fastconv's convolution: the interior in one, the cells at the border in a few.

The interior is read where it lies. Only the cells near the border are copied, with what stands beyond it.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastconv import conv
from fastconv.arguments import Array, Size
from fastconv.kernels.ordered import correlate_lines
from fastconv.ndimage.arguments import Problem
from fastconv.ndimage.borders import Range, frame, read
from fastconv.ndimage.outputs import direct

# Smaller images are copied as a whole, with their border: a call costs as much as so many cells.
FEWEST_CELLS = 1 << 15
# With up to so many weights, an image's zeros outside are made by the convolution faster than by boxes.
FEW_WEIGHTS = 25
# Where sums have an order: 100,000 lines of 4 cells and 3x3 weights take 1.2 times as long as SciPy.
SHORTEST_LINE = 16
# So many sums in their order are computed at a time: half a megabyte.
BLOCK = 1 << 16
# Weights of up to so many binary places after the point are looked at, for sums that have no rounding.
PLACES = 10
# Sums of whole numbers up to these have none, with some room for algorithms that add before they multiply.
WHOLE = {np.float32: 2.0**22, np.float64: 2.0**50}


def correlated(problem: Problem) -> Array | None:
    """The sums, in float32 or float64; in the problem's output where they can stand there.

    None where SciPy takes no longer.
    """
    dtype = _precision(problem)
    w = problem.weights
    x = problem.input
    folded = max(0, x.ndim - 3)
    if dtype is None or prod(w.shape[:folded]) > 1:
        return in_order(problem)
    x = x.astype(dtype, copy=False)
    w = w.astype(dtype, copy=False)
    if folded:
        result = _folded(x, w, folded, problem)
    else:
        out = direct(problem, x)
        result = np.empty(x.shape, x.dtype) if out is None else out
        _fill(result[np.newaxis], x[np.newaxis], w, problem.before, problem.after, problem.mode, problem.cval)
    # SciPy passes over zeros among the weights, where infinity times zero would be NaN.
    if problem.input.dtype.kind == "f" and not w.all() and np.isnan(_largest(result)):
        return in_order(problem)
    return result


def _largest(array: Array) -> Any:
    """The largest element, or NaN."""
    with np.errstate(invalid="ignore"):
        return array.max()


def _precision(problem: Problem) -> type[Any] | None:
    """The dtype in which the convolution may sum; None where SciPy's own order is asked for."""
    x, dtype = problem.input, problem.dtype
    if x.dtype.kind != "f":
        exact = _exact(problem)
        if exact is not None:
            return exact
    if dtype.kind != "f":
        return None
    if x.dtype.char == dtype.char == "f":
        return np.float32 if np.abs(problem.weights).max() < 1e30 else None
    return np.float64


def _exact(problem: Problem) -> type[Any] | None:
    """The smaller dtype in which no sum of integers and these weights is rounded."""
    x, w = problem.input, problem.weights
    for places in range(PLACES + 1):
        scaled = w * 2.0**places
        if (scaled == np.rint(scaled)).all():
            break
    else:
        return None
    if x.dtype.kind == "b":
        most = 1
    elif x.dtype.itemsize < 8:
        most = max(-int(np.iinfo(x.dtype).min), int(np.iinfo(x.dtype).max))
    else:
        most = max(-int(x.min()), int(x.max()))
    if problem.mode == "constant":
        if problem.cval != int(problem.cval):
            return None
        most = max(most, abs(int(problem.cval)))
    total = most * float(np.abs(scaled).sum())
    return next((dtype for dtype, limit in WHOLE.items() if total < limit), None)


def _folded(x: Array, w: Array, first: int, problem: Problem) -> Array:
    """The axes before ``first``, along which nothing is summed, as a batch."""
    images = x.reshape(-1, *x.shape[first:])
    sums = np.empty(images.shape, x.dtype)
    kernel = w.reshape(w.shape[first:])
    _fill(sums, images, kernel, problem.before[first:], problem.after[first:], problem.mode, problem.cval)
    return sums.reshape(x.shape)


def _convolved(x: Array, w: Array, padding: Any = 0, out: Array | None = None) -> Array:
    """``sums[n]`` of each image ``x[n]`` with the kernel."""
    function = (conv.conv1d, conv.conv2d, conv.conv3d)[w.ndim - 1]
    into = None if out is None else out[:, np.newaxis]
    return function(x[:, np.newaxis], w[np.newaxis, np.newaxis], padding=padding, out=into)[:, 0]


def _box(ranges: tuple[Range, ...]) -> tuple[slice, ...]:
    return (slice(None), *(slice(a, b) for a, b in ranges))


def _fill(out: Array, x: Array, w: Array, before: Size, after: Size, mode: str, cval: float) -> None:
    """``out[n]`` from ``x[n]``, images of as many axes as the kernel has."""
    batch, shape = x.shape[0], x.shape[1:]
    boxes = list(frame(shape, before, after))
    size = prod(shape)
    inner = prod([max(0, n - b - a) for n, b, a in zip(shape, before, after, strict=True)])
    zeros = mode == "constant" and not cval
    few = w.size <= FEW_WEIGHTS
    if zeros and few:
        _convolved(x, w, tuple(zip(before, after, strict=True)), out)
        return
    if size * batch < FEWEST_CELLS or 2 * inner < size:
        whole = tuple((-b, n + a) for n, b, a in zip(shape, before, after, strict=True))
        _convolved(read(x, ((0, batch), *whole), mode, cval), w, 0, out)
        return
    if few:  # what is written at the border is written anew below
        _convolved(x, w, tuple(zip(before, after, strict=True)), out)
    else:
        interior = tuple((b, n - a) for n, b, a in zip(shape, before, after, strict=True))
        _convolved(x, w, 0, out[_box(interior)])
    for thin, ranges in boxes:
        reads = [(a - b, s + e) for (a, s), b, e in zip(ranges, before, after, strict=True)]
        cells = read(x, ((0, batch), *reads), mode, cval)
        # The thin axis first, so that lines are long.
        along = np.moveaxis(cells, thin + 1, 1)
        sums = _convolved(np.ascontiguousarray(along), np.moveaxis(w, thin, 0))
        out[_box(ranges)] = np.moveaxis(sums, 1, thin + 1)


def in_order(problem: Problem) -> Array | None:
    """The sums in float64 in the order in which SciPy adds them, without weights of zero: to the bit.

    None where lines are so short that SciPy takes no longer.
    """
    x, w = problem.input, problem.weights
    # Behind the last axis that is summed along, lines of several cells are one line.
    last = max((k for k, extent in enumerate(w.shape) if extent > 1), default=x.ndim - 1)
    width = prod(x.shape[last:])
    if width < SHORTEST_LINE:
        return None
    sums = np.empty(x.shape)
    taps, places = w[w != 0], np.argwhere(w)
    # Some rows at a time, whose cells stay in the cache while they are summed.
    rows = max(1, BLOCK // sums[0].size) if x.ndim > 1 else len(x)
    for first in range(0, len(x), rows):
        block = sums[first : first + rows]
        ranges = [(-b, n + a) for n, b, a in zip(block.shape, problem.before, problem.after, strict=True)]
        ranges[0] = (first + ranges[0][0], first + ranges[0][1])
        image = np.ascontiguousarray(read(x, ranges, problem.mode, problem.cval, np.float64))
        steps = np.array([stride // image.itemsize for stride in image.strides], np.int64)
        lines = np.zeros(1, np.int64)
        for n, step in zip(block.shape[:last], steps[:last], strict=True):
            lines = (lines[:, np.newaxis] + step * np.arange(n)).ravel()
        correlate_lines(image.ravel(), lines, places @ steps, taps, block.reshape(lines.size, -1))
    return sums
