"""Layers as they are written in one word: ``8x64x56x56-64k3x3s1p1d1g1``, of one to three dimensions."""

from __future__ import annotations

import re
from typing import NamedTuple

from fastconv.arguments import must_be

_SIZES = r"(?P<input>\d+(?:x\d+){2,4})"
_LAYER = re.compile(
    _SIZES + r"-(?P<filters>\d+)k(?P<kernel>\d+(?:x\d+){0,2})"
    r"(?:s(?P<stride>\d+))?(?:p(?P<padding>\d+))?(?:d(?P<dilation>\d+))?(?:g(?P<groups>\d+))?"
)
_MAX_POOL = re.compile(
    _SIZES
    + r"-max(?P<kernel>\d+(?:x\d+){0,2})(?:s(?P<stride>\d+))?(?:p(?P<padding>\d+))?(?:d(?P<dilation>\d+))?"
)
SPELLING = "NxCxHxW-KkRxS, then maybe sSTRIDE pPADDING dDILATION gGROUPS, as in 1x1x5x5-1k3x3"
POOLING = "NxCxHxW-maxRxS for max-pooling, as in 1x1x6x6-max2x2s2"


class Written(NamedTuple):
    """The sizes of a layer, channels first; max-pooling has no filters, and its stride may be None."""

    input_size: tuple[int, ...]
    filters: int | None
    kernel: tuple[int, ...]
    stride: int | None
    padding: int
    dilation: int
    groups: int


def read_sizes(text: str) -> Written:
    """The layer that is written so.

    Raises
    ------
    ValueError
        If it is written otherwise.
    """
    match = _LAYER.fullmatch(text) or _MAX_POOL.fullmatch(text)
    found = match.groupdict() if match else {}
    sizes, kernel = (
        tuple(int(n) for n in found[name].split("x")) if found else () for name in ("input", "kernel")
    )
    if not found or len(kernel) != len(sizes) - 2:
        must_be(ValueError, "layer", f"written {SPELLING}; or {POOLING}", text)
    filters, stride = found.get("filters"), found["stride"]
    return Written(
        sizes,
        int(filters) if filters else None,
        kernel,
        int(stride) if stride else None,
        int(found["padding"] or 0),
        int(found["dilation"] or 1),
        int(found.get("groups") or 1),
    )
