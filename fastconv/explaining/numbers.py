"""A layer with numbers in its arrays: those of the user, or whole numbers small enough to follow."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from fastconv import plan, pool
from fastconv.arguments import Array, must_be_said
from fastconv.geometry import Geometry
from fastconv.plan import ConvPlan

# Layers of more multiply-adds, or with arrays of more cells, are not filled with numbers of our own.
MOST_MULTIPLICATIONS, MOST_CELLS = 2**36, 2**27


class Numbers(NamedTuple):
    """A convolution, and the arrays of its passes with axes (batch, channels, depth, height, width)."""

    geometry: Geometry
    x: Array
    w: Array
    y: Array
    dy: Array
    dx: Array
    dw: Array


class PoolNumbers(NamedTuple):
    """A max-pooling of one image, and its arrays with axes (channels, depth, height, width)."""

    ndim: int  # the spatial dimensions it was given with
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    x: Array
    y: Array
    indices: Array  # flat within a plane of x
    dy: Array
    dx: Array
    dx_ties: Array


def small(size: tuple[int, ...], low: int, high: int, seed: int, dtype: DTypeLike = np.float64) -> Array:
    """Whole numbers in [low, high], the same for every call."""
    return np.random.default_rng(seed).integers(low, high + 1, size).astype(dtype)


def check_size(name: str, cells: int, multiplications: int) -> None:
    """Refuse layers that can't be filled with numbers in a second or two.

    Raises
    ------
    ValueError
        Saying how large the layer is.
    """
    if multiplications > MOST_MULTIPLICATIONS or cells > MOST_CELLS:
        most = "of at most 2**36 multiply-adds and 2**27 cells an array, to be filled with numbers"
        must_be_said(ValueError, name, most, f"{multiplications} and {cells}: pass smaller extents")


def numbers_of(
    made: ConvPlan, x: Array | None = None, w: Array | None = None, dy: Array | None = None
) -> Numbers:
    """All arrays of a plan's passes; those that are not given are filled with small whole numbers."""
    g = made._geometry
    cells = max(map(prod, (g.input_size, g.weight_size, g.output_size)))
    check_size("layer", cells, g.multiplications)
    x = small(g.input_size, 0, 4, 0, g.dtype) if x is None else x
    w = small(g.weight_size, -2, 2, 1, g.dtype) if w is None else w
    dy = small(g.output_size, -2, 3, 2, g.dtype) if dy is None else dy
    found = x, w, made(x, w), dy, made.backward_input(dy, w), made.backward_weight(dy, x)
    return Numbers(g, *(_channels_first(array, g.channels_last) for array in found))


def _channels_first(array: Array, channels_last: bool) -> Array:
    """With axes (batch, channels, depth, height, width)."""
    first = np.moveaxis(array, -1, 1) if channels_last else array
    return first.reshape(*first.shape[:2], *(1,) * (5 - first.ndim), *first.shape[2:])


def plan_of_sizes(
    input_size: tuple[int, ...], weight_size: tuple[int, ...], layout: str, dtype: object, **steps: object
) -> ConvPlan:
    """The plan of a convolution in as many dimensions as its input has."""
    make = {3: plan.plan_conv1d, 4: plan.plan_conv2d, 5: plan.plan_conv3d}[len(input_size)]
    return make(input_size, weight_size, dtype=dtype, layout=layout, **steps)  # type: ignore[arg-type,operator]


def pool_numbers(
    x: Array, kernel: tuple[int, ...], stride: object, padding: object, dilation: object, dy: Array | None
) -> PoolNumbers:
    """All arrays of a max-pooling and its two gradients, of the first image."""
    n = len(kernel)
    named = {name: getattr(pool, f"max_pool{n}d{name}") for name in ("", "_backward", "_backward_ties")}
    x = x[:1]
    y, indices = named[""](x, kernel, stride, padding, dilation, return_indices=True)
    dy = small(y.shape, 1, 9, 2, y.dtype) if dy is None else dy[:1]
    dx = named["_backward"](dy, indices, x.shape)
    ties = named["_backward_ties"](dy, x, kernel, stride, padding, dilation)
    steps = [
        tuple(int(k) for k in np.broadcast_to(np.asarray(step), n))
        for step in (kernel if stride is None else stride, padding, dilation)
    ]
    fill = (1,) * (3 - n)
    arrays = [
        array[0].reshape(array.shape[1], *fill, *array.shape[2:]) for array in (x, y, indices, dy, dx, ties)
    ]
    return PoolNumbers(
        n, (*fill, *kernel), (*fill, *steps[0]), (*(0,) * (3 - n), *steps[1]), (*fill, *steps[2]), *arrays
    )
