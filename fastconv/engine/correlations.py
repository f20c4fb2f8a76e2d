"""An algorithm whose passes are correlations that compute all groups of a layer in one loop."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, Protocol

from fastconv.arguments import Array
from fastconv.engine.decompose import BackwardPhases, ForwardPhase, ThreePhases
from fastconv.geometry import Geometry

Three = tuple[int, int, int]


class Sizes(NamedTuple):
    """Of a correlation: a forward pass, or a backward-input pass as what it is over the gradient.

    ``phases`` are those of the output along each axis, ``extent`` and ``stride`` its own. Channels and
    filters are those of a group.
    """

    phases: ThreePhases
    extent: Three
    stride: Three
    batch: int
    groups: int
    channels: int
    filters: int
    kernel: Three


def forward_sizes(g: Geometry) -> Sizes:
    """Of the forward pass."""
    phases = ForwardPhase(g, 0), ForwardPhase(g, 1), ForwardPhase(g, 2)
    channels, filters = g.channels // g.groups, g.filters // g.groups
    return Sizes(phases, g.output, (1, 1, 1), g.batch, g.groups, channels, filters, g.kernel)


def backward_sizes(g: Geometry) -> Sizes:
    """Of the backward-input pass, whose stride is one of what is written."""
    phases = BackwardPhases(g, 0), BackwardPhases(g, 1), BackwardPhases(g, 2)
    channels, filters = g.channels // g.groups, g.filters // g.groups
    return Sizes(phases, g.input, g.stride, g.batch, g.groups, filters, channels, g.kernel)


class Correlation(Protocol):
    """One correlation over all groups."""

    @property
    def scratch_bytes(self) -> int:
        """What a thread needs."""

    def run(self, source: Array, weights: Array, bias: Array | None, out: Array) -> None:
        """Write all of ``out``; ``weights`` is (groups, filters, channels, taps of the kernel)."""

    def sum(self, dy: Array, source: Array, dw: Array) -> None:
        """Write ``dw`` (K, C/G, kernel): the weight's gradient of a forward correlation."""


class Correlations:
    """Three passes as correlations, which `_correlation` makes."""

    def __init__(self, geometry: Geometry) -> None:
        g = self.geometry = geometry
        self.group_filters, self.group_channels = g.filters // g.groups, g.channels // g.groups

    def _correlation(self, back: bool) -> Correlation:
        raise NotImplementedError

    @cached_property
    def forward_correlation(self) -> Correlation:
        """That of the forward and backward-weight passes."""
        return self._correlation(back=False)

    @cached_property
    def backward_correlation(self) -> Correlation:
        """That of the backward-input pass."""
        return self._correlation(back=True)

    def _weights(self, w: Array) -> Array:
        """(G, K/G, C/G, taps): a view, or a copy where the weights are not contiguous."""
        return w.reshape(self.geometry.groups, self.group_filters, self.group_channels, -1)

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """One correlation."""
        self.forward_correlation.run(x, self._weights(w), bias, y)
        return True

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """A correlation for each phase of the stride, with filters and channels exchanged."""
        self.backward_correlation.run(dy, self._weights(w).transpose(0, 2, 1, 3), None, dx)
        return True

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Sums along pixels, in parts that are added in order."""
        self.forward_correlation.sum(dy, x, dw)
        return True
