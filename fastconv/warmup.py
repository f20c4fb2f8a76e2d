"""Compile every kernel ahead, for the dtypes and layouts that calls use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from fastconv.columns import col2im, im2col
from fastconv.conv import conv2d_backward
from fastconv.pool import (
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_unpool2d,
)

Step = tuple[str, Callable[[], None]]


def _convolution(dtype: str, layout: str, groups: int) -> None:
    x, dy = np.ones((1, 2, 3, 3), dtype), np.ones((1, 2, 2, 2), dtype)
    w = np.ones((2, 2 // groups, 2, 2), dtype)
    if layout == "NHWC":
        x, w, dy = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, w, dy))
    conv2d_backward(dy, x, w, groups=groups, layout=layout)


def _columns(dtype: str) -> None:
    col2im(im2col(np.ones((1, 1, 3, 3), dtype), 2), (3, 3), 2)


def _pooling(dtype: str, layout: str) -> None:
    x, dy = np.ones((1, 2, 4, 4), dtype), np.ones((1, 2, 2, 2), dtype)
    if layout == "NHWC":
        x, dy = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, dy))
    _, indices = max_pool2d(x, 2, return_indices=True, layout=layout)
    max_pool2d_backward(dy, indices, x.shape, layout=layout)
    avg_pool2d(x, 2, layout=layout)
    avg_pool2d_backward(dy, x.shape, 2, layout=layout)
    if layout == "NCHW":
        max_unpool2d(dy, indices, 2)


def steps() -> list[Step]:
    """What there is to compile: a name and a call that does it, for each step.

    Each step runs the public functions once on a few numbers, so that what is compiled is what calls
    use. float16 is computed in float32.
    """
    made: list[Step] = []
    for dtype in ("float32", "float64"):
        for layout in ("NCHW", "NHWC"):
            made.append((f"convolution {dtype} {layout}", partial(_convolution, dtype, layout, 1)))
            made.append((f"small groups {dtype} {layout}", partial(_convolution, dtype, layout, 2)))
            made.append((f"pooling {dtype} {layout}", partial(_pooling, dtype, layout)))
        made.append((f"columns {dtype}", partial(_columns, dtype)))
    return made
