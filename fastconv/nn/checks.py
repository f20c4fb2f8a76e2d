"""Checks that only the network needs: of generators, of gradients, of the order of the passes."""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from fastconv.arguments import Array, Size, float_array, must_be, must_be_said, shaped


def no_forward() -> NoReturn:
    """Refuse a backward pass that no forward pass came before."""
    must_be_said(ValueError, "backward", "called after forward", "no forward pass")


def batch(value: object) -> Array:
    """The input of a layer that works on each element."""
    x = float_array("x", value)
    if x.ndim == 0:
        must_be_said(ValueError, "x", "an array with a batch axis", "shape ()")
    return x


def gradient(value: object, shape: Size) -> Array:
    """The gradient of a layer's last output, which was of this shape."""
    grad = float_array("grad", value)
    shaped("grad", grad, shape)
    return grad


def flat_views(first: Array, *others: Array) -> tuple[Array, ...] | None:
    """One-dimensional views for a kernel; None of arrays that it would have to be compiled for apart."""
    if first.dtype.char not in "fd" or not first.flags.carray:
        return None
    for array in others:
        if array.dtype != first.dtype or array.shape != first.shape or not array.flags.carray:
            return None
    return tuple([array.reshape(-1) for array in (first, *others)])


def generator(rng: object) -> np.random.Generator:
    """The generator that was given; one seeded by the number, or by the system for None."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None:
        return np.random.default_rng()
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool) and rng >= 0:
        return np.random.default_rng(int(rng))
    must_be(TypeError, "rng", "a numpy.random.Generator, a seed of at least 0 or None", rng)
