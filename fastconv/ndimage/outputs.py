"""From sums to the array that is handed back: SciPy's casts."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv.arguments import Array, direct_output
from fastconv.ndimage.arguments import Problem

# So many sums are cast at a time, which lie in the cache.
CELLS = 1 << 16


def direct(problem: Problem, x: Array) -> Array | None:
    """The output, where sums of the dtype of ``x`` may be written to it at once."""
    fits = direct_output(problem.output, x.dtype, problem.input)
    return problem.output if fits else None


def stored(sums: Array, problem: Problem) -> Array | None:
    """The sums in the dtype and the array of the result; None where a sum is beyond what C casts."""
    out = problem.output
    if problem.dtype.kind != "f" and not _castable(sums, problem.dtype):
        return None
    if out is None:
        if sums.dtype == problem.dtype:
            return sums if sums.flags.c_contiguous else np.ascontiguousarray(sums)
        out = np.empty(sums.shape, problem.dtype)
    if out is sums:
        return out
    if problem.dtype.kind == "f":
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            out[...] = sums
        return out
    # C leaves open what a negative float is as an unsigned number; by way of a signed one it wraps, as
    # SciPy's does.
    signed = np.int32 if sums.dtype == np.float32 else np.int64
    rows = max(1, CELLS // max(1, sums[0].size))
    with np.errstate(invalid="ignore"):
        for first in range(0, len(sums), rows):
            piece = slice(first, first + rows)
            out[piece] = sums[piece].astype(signed).astype(problem.dtype)
    return out


def _castable(sums: Array, dtype: np.dtype[Any]) -> bool:
    """Whether C says what the sums are as integers, or all machines agree: as a wider one, cut down."""
    if sums.dtype == np.float32:  # they are below 2**24
        return True
    limit = 2.0**31 if dtype.itemsize < 4 or dtype == np.int32 else 2.0**63
    with np.errstate(invalid="ignore"):
        return bool(sums.max() < limit and sums.min() > -limit)
