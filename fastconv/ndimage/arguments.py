"""Arguments of SciPy's filters, brought to one form.

What isn't understood here is left to SciPy, and so are its errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastconv.arguments import Array, Size
from fastconv.ndimage.borders import MODES

NUMBERS = "bBhHiIlLqQfd"
# SciPy passes over weights that are no larger than this, and NaN among them.
SMALLEST = np.finfo(np.float64).eps


class Problem(NamedTuple):
    """A correlation: ``weights`` begin ``before`` cells before the cell that is computed."""

    input: Array
    weights: Array
    before: Size
    after: Size
    mode: str
    cval: float
    output: Array | None
    dtype: np.dtype[Any]


def understood(
    flipped: bool,
    input: object,
    weights: object,
    output: object,
    mode: object,
    cval: object,
    origin: object,
    axes: object,
) -> Problem | None:
    """The correlation that the arguments of `scipy.ndimage.correlate` mean, or of its ``convolve``.

    None where an argument is wrong, or one that isn't computed here.
    """
    x, w = _array(input, f"?{NUMBERS}"), _array(weights, f"?eg{NUMBERS}")
    found = _result(output, x)
    if x is None or w is None or found is None or not x.size or not w.size:
        return None
    number = _number(cval)
    if not isinstance(mode, str) or mode not in MODES or number is None:
        return None
    along = _axes(axes, x.ndim)
    if along is None or w.ndim != len(along):
        return None
    shifts = _origins(origin, len(along))
    if shifts is None:
        return None
    # SciPy gives the kernel's extents to the axes in rising order. The origins are in the order of `axes`,
    # but in rising order, too, where all axes are named.
    rising = sorted(along)
    extents, moved = [1] * x.ndim, [0] * x.ndim
    for axis, extent in zip(rising, w.shape, strict=True):
        extents[axis] = extent
    for axis, shift in zip(along if len(along) < x.ndim else rising, shifts, strict=True):
        moved[axis] = shift
    w = w.astype(np.float64, copy=False).reshape(extents)
    if flipped:
        w = np.flip(w)
        moved = [-shift - (extent % 2 == 0) for shift, extent in zip(moved, extents, strict=True)]
    before = tuple(extent // 2 + shift for shift, extent in zip(moved, extents, strict=True))
    after = tuple(extent - 1 - b for b, extent in zip(before, extents, strict=True))
    if min(before) < 0 or min(after) < 0:
        return None
    w = np.where(np.abs(w) > SMALLEST, w, 0.0)
    if not np.isfinite(w).all() or (MODES[mode] == "constant" and not np.isfinite(number)):
        return None
    target, dtype = found
    return Problem(x, w, before, after, MODES[mode], number, target, dtype)


def _array(value: object, chars: str) -> Array | None:
    """An ordinary array of numbers."""
    if isinstance(value, (list, tuple, int, float, np.generic)):
        try:
            value = np.asarray(value)
        except Exception:  # of uneven lengths, or of anything
            return None
    if not isinstance(value, np.ndarray) or isinstance(value, (np.ma.MaskedArray, np.matrix)):
        return None
    return np.asarray(value) if value.ndim and value.dtype.char in chars else None


def _result(output: object, x: Array | None) -> tuple[Array | None, np.dtype[Any]] | None:
    """Where the result goes, if that is said, and its dtype."""
    target = None
    if x is None:
        return None
    if isinstance(output, np.ndarray) and not isinstance(output, (np.ma.MaskedArray, np.matrix)):
        target, dtype = np.asarray(output), output.dtype
        if target.shape != x.shape or not target.flags.writeable:
            return None
    elif output is None:
        dtype = x.dtype.newbyteorder("=")
    elif isinstance(output, (type, np.dtype, str)):
        try:
            dtype = np.dtype(output)
        except Exception:  # NumPy raises TypeError, ValueError and SyntaxError for wrong dtypes
            return None
    else:
        return None
    return (target, dtype) if dtype.char in NUMBERS else None


def _number(value: object) -> float | None:
    """A real number."""
    if not isinstance(value, (int, float, np.integer, np.floating, np.bool_)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _origins(origin: object, count: int) -> Sequence[int] | None:
    """A whole number for each axis that is filtered."""
    if isinstance(origin, (int, np.integer)):
        return [int(origin)] * count
    if not isinstance(origin, (tuple, list, np.ndarray)) or len(origin) != count:
        return None
    return [int(one) for one in origin] if all(isinstance(one, (int, np.integer)) for one in origin) else None


def _axes(axes: object, ndim: int) -> Sequence[int] | None:
    """The axes that are filtered, none of them twice."""
    if axes is None:
        return range(ndim)
    given = axes if isinstance(axes, (tuple, list)) else (axes,)
    if not all(isinstance(one, (int, np.integer)) and -ndim <= one < ndim for one in given):
        return None
    found = [int(one) % ndim for one in given]
    return found if len(set(found)) == len(found) else None
