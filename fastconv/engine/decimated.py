"""Strides and dilations with a common divisor: all taps of all cells read one lattice of the input.

With stride s, dilation d and padding p, tap t of cell o reads along an axis at ``o*s + t*d - p``. Where q
divides s and d, these places lie q apart, on the lattice that begins at ``-p mod q``, and the convolution is
that of the lattice with stride s/q and dilation d/q. The gradient of the cells between is zero.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd, prod

import numpy as np

from fastconv.arguments import Array
from fastconv.buffers import new_result
from fastconv.engine.algorithm import PASSES, Algorithm, Pass
from fastconv.engine.estimates import least
from fastconv.engine.partition import ceil_div
from fastconv.engine.problem import L2_BYTES, Counts, Problem
from fastconv.engine.registry import UNDECIMATED
from fastconv.engine.tensor import Three
from fastconv.geometry import Geometry

# The lattice's copy at the most.
MOST_BYTES = 3 * 2**22


class Decimated:
    """The convolution of a lattice of the input, by the algorithm that is best for it."""

    name = label = "decimated"

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.first, self.apart, self.reduced = _reduced(geometry)
        self.inner: dict[str, Algorithm] = {}

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """What has no common divisor, and kernels that no cell of the lattice meets."""
        if max(_divisors(geometry)) == 1:
            return "stride and dilation have no common divisor"
        _, _, reduced = _reduced(geometry)
        if min(*reduced.input, geometry.batch, geometry.channels, geometry.filters, geometry.pixels) < 1:
            return "there is nothing to compute"
        if _bytes(reduced) > MOST_BYTES:
            return f"the lattice has {_bytes(reduced)} bytes, more than {MOST_BYTES}"
        return None

    @staticmethod
    def counts(p: Problem) -> Counts:
        """The lattice's copy, and what the convolution of it takes."""
        _, _, reduced = _reduced(p.geometry)
        bytes_ = _bytes(reduced)
        inner = _serving(reduced, p.which), reduced
        return Counts(
            "decimated",
            {
                "call": 1,
                "cells": bytes_ / p.itemsize,
                "runs": bytes_ / p.itemsize / (p.geometry.channels if p.last else reduced.input[2]),
                "zeroed": p.target_bytes if p.which == "backward_input" else 0,
                "far": max(0, bytes_ - L2_BYTES),
            },
            inner,
        )

    def _algorithm(self, which: Pass) -> Algorithm:
        if which not in self.inner:
            _, kind = least(_serving(self.reduced, which), Problem(self.reduced, which))
            self.inner[which] = kind(self.reduced)
        return self.inner[which]

    @property
    def scratch_bytes(self) -> int:
        """The lattice, and what the other algorithm needs."""
        inner = max(self._algorithm(which).scratch_bytes for which in PASSES)
        return _bytes(self.reduced) + inner

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """The same output."""
        return self._algorithm("forward").forward(self._copied(x), w, bias, y)

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """The gradient of the lattice, and zero between."""
        inner = self._empty(dx.dtype)
        if not self._algorithm("backward_input").backward_input(dy, w, inner):
            return False
        dx[...] = 0
        self._seen(dx)[...] = inner
        return True

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """The same sums."""
        return self._algorithm("backward_weight").backward_weight(dy, self._copied(x), dw)

    def _seen(self, x: Array) -> Array:
        """The lattice of an input (N, C, D, H, W), a view."""
        depth, height, width = (
            slice(first, first + count * apart, apart)
            for first, count, apart in zip(self.first, self.reduced.input, self.apart, strict=True)
        )
        return x[:, :, depth, height, width]

    def _empty(self, dtype: np.dtype[np.floating]) -> Array:
        """Memory of a lattice (N, C, D, H, W), with its channels where the input has them."""
        g = self.reduced
        if g.channels_last:
            return new_result((g.batch, *g.input, g.channels), dtype).transpose(0, 4, 1, 2, 3)
        return new_result((g.batch, g.channels, *g.input), dtype)

    def _copied(self, x: Array) -> Array:
        copy = self._empty(x.dtype)
        copy[...] = self._seen(x)
        return copy


def _serving(geometry: Geometry, which: Pass) -> list[type[Algorithm]]:
    """The algorithms that can convolve what is left."""
    return [kind for kind in UNDECIMATED if kind.why_not(geometry, which) is None]


def _divisors(geometry: Geometry) -> Three:
    """The common divisor of stride and dilation along each axis; 1 where there is one tap."""
    g = geometry
    depth, height, width = (
        gcd(s, d) if taps > 1 else 1 for s, d, taps in zip(g.stride, g.dilation, g.kernel, strict=True)
    )
    return depth, height, width


def _reduced(geometry: Geometry) -> tuple[Three, Three, Geometry]:
    """The lattice's first cell, how far its cells lie apart, and the convolution of it."""
    g, apart = geometry, _divisors(geometry)
    axes = []
    for extent, s, d, p, q in zip(g.input, g.stride, g.dilation, g.padding, apart, strict=True):
        begin = -p % q
        axes.append((begin, ceil_div(extent - begin, q), s // q, d // q, (p + begin) // q))
    first, cells, stride, dilation, padding = zip(*axes, strict=True)
    return first, apart, replace(g, input=cells, stride=stride, dilation=dilation, padding=padding)


def _bytes(geometry: Geometry) -> int:
    g = geometry
    return g.batch * g.channels * prod(g.input) * g.compute_dtype.itemsize
