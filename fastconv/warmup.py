"""Compile every kernel ahead, for the dtypes and layouts that calls use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from fastconv import nn
from fastconv.algorithms import ALGORITHMS
from fastconv.columns import col2im, im2col
from fastconv.conv import conv2d, conv2d_backward
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.plan import plan_conv2d
from fastconv.pool import (
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_unpool2d,
)

Step = tuple[str, Callable[[], None]]


def _convolution(dtype: str, layout: str, groups: int) -> None:
    for kernel in (1, 2, 3):
        x, w, dy = (
            np.ones(shape, dtype)
            for shape in ((1, 2, 4, 4), (2, 2 // groups, kernel, kernel), (1, 2, 5 - kernel, 5 - kernel))
        )
        if layout == "NHWC":
            x, w, dy = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, w, dy))
        conv2d_backward(dy, x, w, groups=groups, layout=layout)
        for algorithm in ALGORITHMS:
            plan = plan_conv2d(
                x.shape, w.shape, groups=groups, dtype=dtype, layout=layout, algorithm=algorithm.name
            )
            calls = {
                "forward": partial(plan, x, w),
                "backward_input": partial(plan.backward_input, dy, w),
                "backward_weight": partial(plan.backward_weight, dy, x),
            }
            for which in plan.algorithms:
                calls[which]()


def _depthwise(dtype: str) -> None:
    """Layers with a vector of channels, at both strides."""
    channels = VECTOR_BYTES // np.dtype(dtype).itemsize
    w = np.ones((channels, 3, 3, 1), dtype)
    for stride in (1, 2):
        x, dy = np.ones((1, 5, 5, channels), dtype), np.ones((1, 4 - stride, 4 - stride, channels), dtype)
        conv2d(x, w, stride=stride, groups=channels, layout="NHWC")
        conv2d_backward(dy, x, w, stride=stride, groups=channels, layout="NHWC")


def _bundles(dtype: str) -> None:
    """Groups of a vector of channels, in both layouts."""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    for layout, size, weight in (
        ("NCHW", (1, 2 * lanes, 3, 3), (2 * lanes, lanes, 3, 3)),
        ("NHWC", (1, 3, 3, 2 * lanes), (2 * lanes, 3, 3, lanes)),
    ):
        x, w = np.ones(size, dtype), np.ones(weight, dtype)
        plan = plan_conv2d(size, weight, padding=1, groups=2, dtype=dtype, layout=layout, algorithm="bundles")
        plan.backward_weight(plan(x, w), x)
        plan.backward_input(x, w)


def _training(dtype: str) -> None:
    network = nn.Sequential(
        nn.Linear(2, 2, dtype=dtype), nn.ReLU(), nn.Linear(2, 2, dtype=dtype), nn.Sigmoid()
    )
    x, loss = np.ones((1, 2), dtype), nn.CrossEntropyLoss()
    loss.forward(network.forward(x), np.zeros(1, np.int64))
    network.backward(loss.backward())
    nn.Adam(network).step()
    nn.SGD(network, momentum=0.5).step()


def _columns(dtype: str) -> None:
    col2im(im2col(np.ones((1, 1, 3, 3), dtype), 2), (3, 3), 2)


def _pooling(dtype: str, layout: str) -> None:
    # Lines shorter than a vector, longer ones, and windows of a whole plane have kernels of their own.
    for width, kernel, stride in ((4, 2, 2), (80, 2, 2), (80, 3, 1), (4, 4, 4)):
        x = np.ones((1, 2, 4, width), dtype)
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if layout == "NHWC" else x
        y, indices = max_pool2d(x, kernel, stride, return_indices=True, layout=layout)
        max_pool2d_backward(y, indices, x.shape, layout=layout)
        avg_pool2d(x, kernel, stride, layout=layout)
        avg_pool2d_backward(y, x.shape, kernel, stride, layout=layout)
    if layout == "NCHW":
        max_unpool2d(y, indices, 4)


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
        made.append((f"depthwise {dtype} NHWC", partial(_depthwise, dtype)))
        made.append((f"bundles {dtype}", partial(_bundles, dtype)))
        made.append((f"columns {dtype}", partial(_columns, dtype)))
        made.append((f"training {dtype}", partial(_training, dtype)))
    return made
