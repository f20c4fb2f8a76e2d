"""Keras's NumPy backend as it is, on JAX, beside the same on fastconv: `python bench/hosts/keras.py`.

In an environment with keras and jax.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from side_by_side import Case, compare, hold_threads

if hold_threads() == 1:
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import fastconv.adapters.keras as adapter

with adapter.installed():
    import jax
    import keras
import numpy as np
from keras import ops

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    """Random data."""
    return RNG.standard_normal(shape, dtype=np.float32)


def case(label: str, call: Callable[[], object]) -> Case:
    """One line of the table: the same call with the host as it is, and with fastconv in it."""
    return Case(label, call, call)


def functions() -> list[Case]:
    """Calls of keras.ops, channels last, eight images."""
    x, wide, deep = floats(8, 56, 56, 64), floats(8, 28, 28, 256), floats(2, 16, 28, 28, 32)
    square, point, depthwise = floats(3, 3, 64, 64), floats(1, 1, 256, 512), floats(3, 3, 64, 1)
    grouped, cube, first = floats(3, 3, 8, 256), floats(3, 3, 3, 32, 32), np.moveaxis(x, -1, 1).copy()
    columns = ops.unfold(first, 3)
    return [
        case("conv 3x3, 64x56 -> 64", lambda: ops.conv(x, square, padding="same")),
        case("conv 3x3, stride 2", lambda: ops.conv(x, square, strides=2, padding="same")),
        case("conv 3x3, dilation 2", lambda: ops.conv(x, square, padding="same", dilation_rate=2)),
        case("conv 1x1, 256x28 -> 512", lambda: ops.conv(wide, point)),
        case("conv 3x3, 32 groups of 8", lambda: ops.conv(wide, grouped, padding="same")),
        case("conv 3x3x3, 32x16x28x28 -> 32", lambda: ops.conv(deep, cube, padding="same")),
        case("depthwise 3x3, 64x56", lambda: ops.depthwise_conv(x, depthwise, padding="same")),
        case("transposed 3x3, stride 2", lambda: ops.conv_transpose(x, square, 2, padding="same")),
        case("max pool 3x3, stride 2", lambda: ops.max_pool(x, 3, 2, padding="same")),
        case("average pool 2x2", lambda: ops.average_pool(x, 2, 2)),
        case("adaptive average pool to 7x7", lambda: ops.adaptive_average_pool(x, 7)),
        case("unfold 3x3", lambda: ops.unfold(first, 3)),
        case("fold 3x3", lambda: ops.fold(columns, 56, 3)),
    ]


def models() -> list[Case]:
    """Forward passes of whole networks with random weights."""
    cases = []
    for name in ("MobileNetV2", "ResNet50"):
        model = getattr(keras.applications, name)(weights=None)
        for batch in (1, 8):
            x = floats(batch, 224, 224, 3)
            call = lambda model=model, x=x: model(x, training=False)  # noqa: E731
            cases.append(case(f"{name}, {batch} of 224x224", call))
    return cases


title = f"keras {keras.__version__}, before: jax {jax.__version__}, after: fastconv; float32"
compare(title, functions(), installed=adapter.installed)
compare(title, models(), rounds=3, installed=adapter.installed)
