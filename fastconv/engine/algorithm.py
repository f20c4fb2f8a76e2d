"""What an algorithm is: three passes over arrays, whom it serves, and what it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

from fastconv.arguments import Array
from fastconv.geometry import Geometry

if TYPE_CHECKING:
    from fastconv.engine.problem import Counts, Problem

Pass: TypeAlias = Literal["forward", "backward_input", "backward_weight"]
PASSES: tuple[Pass, ...] = get_args(Pass)


class Passes(Protocol):
    """Three passes over arrays in normal form (three spatial axes, channels second) and compute dtype.

    Made for one geometry; keeps nothing between calls, so that threads may share it.

    A pass returns whether its result holds. An algorithm that multiplies padding, or passes it over where a
    plain loop multiplies it, can't tell what an infinity or a NaN times zero has spoilt: it returns False,
    and the plan has `Im2col` compute the pass instead.
    """

    @property
    def scratch_bytes(self) -> int:
        """The most scratch a thread allocates in any pass."""

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """Write the whole of ``y``."""

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """Write the whole of ``dx``."""

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Write the whole of ``dw``."""


class Algorithm(Passes, Protocol):
    """One way to compute the passes over arrays that are contiguous in the geometry's layout."""

    name: str  # by which a caller asks for it; several variants have one name
    label: str  # the name, the variant behind a slash, and whether it computes in the other layout

    def __init__(self, geometry: Geometry) -> None: ...

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """The reason it can't serve this pass of this geometry; None where it can."""

    @staticmethod
    def counts(p: Problem) -> Counts:
        """How often a pass does what takes time."""
