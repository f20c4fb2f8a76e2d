"""Which types come out of fastconv's functions, for type checkers alone; see `typing_examples`.

An unused ``type: ignore`` is an error to mypy: those here say what must not pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastconv
from fastconv import nn


def arrays(x: NDArray[np.float32], w: NDArray[np.float32], asked: bool, names: tuple[str, ...]) -> None:
    y: NDArray[Any] = fastconv.conv2d(x, w, padding="same", layout="NHWC", algorithm="im2col")
    fastconv.conv2d(x.tolist(), w, stride=(1, np.int64(2)), padding=[(0, 1), (1, 0)], dilation=[1, 1])
    fastconv.conv2d(x, w, layout="HWC")  # type: ignore[arg-type]
    fastconv.conv2d(x, w, algorithm="fastest")  # type: ignore[arg-type]
    fastconv.conv1d(x, w, layout="NHWC")  # type: ignore[arg-type]
    volumes: NDArray[Any] = fastconv.conv3d(x, weight=w, layout="NDHWC")
    fastconv.conv3d(x, w, layout="NCHW")  # type: ignore[arg-type]
    fastconv.conv3d(x, weights=w)  # type: ignore[call-arg]
    fastconv.avg_pool1d(x, 2, layout="NCDHW")  # type: ignore[arg-type]
    fastconv.plan_conv1d(x.shape, w.shape, layout="NCHW")  # type: ignore[arg-type]
    fastconv.conv2d(x, w, stride="1")  # type: ignore[arg-type]
    z: NDArray[Any] = fastconv.plan_conv2d(x.shape, w.shape, dtype=np.float32)(x, w)
    tuned: fastconv.ConvPlan = fastconv.plan_conv2d(x.shape, w.shape).tune(0)
    fastconv.save_tuning(Path("tuning.json"))
    fastconv.load_tuning("tuning.json")
    print(y.shape, z.shape, volumes.shape, tuned.algorithms["forward"].upper())


def gradients(dy: NDArray[np.float32], x: NDArray[np.float32], w: NDArray[np.float32]) -> None:
    every = fastconv.conv2d_backward(dy, x, w)
    dx, dw, db = every
    print(dx.shape, dw.shape, db.shape, every.input.shape, every.weight.shape, every.bias.shape)
    parameters = fastconv.conv_transpose3d_backward(dy, x, w, needs=("weight", "bias"))
    print(parameters.weight.shape, parameters.bias.shape)
    print(parameters.input.shape)  # type: ignore[attr-defined]
    print(fastconv.conv1d_backward(dy, x, w, needs=("input",)).input.shape)
    print(fastconv.conv1d_backward(dy, x, w, needs=("weight",))[1].shape)
    some: fastconv.ConvGrads = fastconv.conv2d_backward(dy, x, w, needs=["input"])
    print(some.input.shape)  # type: ignore[union-attr]
    if some.input is not None:
        print(some.input.shape)
    some = every  # what certainly is there may stand where something may be
    fastconv.conv2d_backward(dy, x, w, needs=("inputs",))  # type: ignore[arg-type]


def maxima(x: NDArray[np.uint8], asked: bool) -> None:
    y = fastconv.max_pool2d(x, 2)
    values, indices = fastconv.max_pool2d(x, (2, 2), return_indices=True)
    other, places = fastconv.max_pool1d(x, 2, None, 0, 1, False, True)
    print(y.shape, values.shape, indices.shape, other.shape, places.shape)
    either = fastconv.max_pool3d(x, 2, return_indices=asked)
    print(either.shape)  # type: ignore[union-attr]
    if isinstance(either, tuple):
        print(either[1].shape)
    fastconv.max_pool2d(x, 2, layout="NCW")  # type: ignore[call-overload]
    adaptive = fastconv.adaptive_max_pool2d(x, (None, 3))
    most, at = fastconv.adaptive_max_pool3d(x, 2, True)
    print(adaptive.shape, most.shape, at.shape)
    dx: NDArray[Any] = fastconv.max_pool2d_backward_ties(y, x, 2)
    print(dx.shape)


def networks() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, (3, 3), padding=((1, 0), (0, 1)), layout="NHWC"), nn.MaxPool2d(2))
    nn.Conv1d(1, 1, 3, layout="NWC")
    nn.Conv1d(1, 1, 3, layout="NHWC")  # type: ignore[arg-type]
    y: NDArray[Any] = net(np.zeros((1, 8, 8, 1), np.float32))
    print(y.shape, len(net), fastconv.ALGORITHMS[0].upper())
