"""The ways to compute a convolution, in the order in which ``algorithm="auto"`` prefers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias, get_args

from fastconv.algorithms.im2col import Im2col
from fastconv.arguments import Array, must_be, must_be_said
from fastconv.geometry import Geometry

Pass: TypeAlias = Literal["forward", "backward_input", "backward_weight"]
PASSES: tuple[Pass, ...] = get_args(Pass)


class Algorithm(Protocol):
    """Three passes over arrays in normal form (three spatial axes, channels second) and compute dtype.

    Made for one geometry; keeps nothing between calls, so that threads may share it.
    """

    name: str

    def __init__(self, geometry: Geometry) -> None: ...

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """The reason it can't serve this pass of this geometry; None where it can."""

    @property
    def scratch_bytes(self) -> int:
        """The most scratch a thread allocates in any pass."""

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> None:
        """Write the whole of ``y``."""

    def backward_input(self, dy: Array, w: Array, dx: Array) -> None:
        """Write the whole of ``dx``."""

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> None:
        """Write the whole of ``dw``."""


ALGORITHMS: tuple[type[Algorithm], ...] = (Im2col,)


def choose(geometry: Geometry, which: Pass, wanted: str) -> type[Algorithm]:
    """The first algorithm that serves one pass, or the one wanted by name.

    Raises
    ------
    ValueError
        If there is none of that name, or if it can't serve this geometry: the message says why.
    """
    names: Sequence[str] = ["auto", *(algorithm.name for algorithm in ALGORITHMS)]
    if wanted not in names:
        kind = ValueError if isinstance(wanted, str) else TypeError
        must_be(kind, "algorithm", f"one of {', '.join(map(repr, names))}", wanted)
    for algorithm in ALGORITHMS:
        reason = algorithm.why_not(geometry, which)
        if wanted == "auto" and reason is None:
            return algorithm
        if wanted == algorithm.name:
            if reason is not None:
                must_be_said(ValueError, "algorithm", "able to serve the call", f"{wanted!r}: {reason}")
            return algorithm
    raise AssertionError("the explicit column matrix serves every geometry")
