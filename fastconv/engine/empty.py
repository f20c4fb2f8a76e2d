"""Layers with nothing to multiply: no images, channels or filters, or no cells in the input or in the output.

Sums of nothing are zero, whatever the algorithm, so that no other meets an extent of zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastconv.arguments import Array
from fastconv.engine.problem import Counts, Problem
from fastconv.geometry import Geometry

if TYPE_CHECKING:
    from fastconv.engine.algorithm import Pass


class Empty:
    """Zeros, and the bias."""

    name = label = "empty"
    scratch_bytes = 0

    def __init__(self, geometry: Geometry) -> None:
        pass

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """There is something to multiply."""
        return None if geometry.is_empty else "the layer has cells, channels and filters"

    @staticmethod
    def counts(p: Problem) -> Counts:
        """Nothing."""
        return Counts("empty", {})

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """The bias in every cell."""
        y[...] = 0 if bias is None else bias.reshape(-1, 1, 1, 1)
        return True

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """Zeros."""
        dx[...] = 0
        return True

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Zeros."""
        dw[...] = 0
        return True
