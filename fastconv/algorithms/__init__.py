"""The ways to compute a convolution, in the order in which ``algorithm="auto"`` prefers them."""

from __future__ import annotations

from functools import partial
from typing import Literal, Protocol, TypeAlias, get_args

from fastconv.algorithms.bundles import Bundles
from fastconv.algorithms.copies import copied_bytes, reordered
from fastconv.algorithms.costs import cheaper
from fastconv.algorithms.direct import Direct
from fastconv.algorithms.empty import Empty
from fastconv.algorithms.grouped import Grouped
from fastconv.algorithms.im2col import Im2col
from fastconv.algorithms.lattice import Lattice
from fastconv.algorithms.lines import Lines
from fastconv.algorithms.pointwise import Pointwise
from fastconv.algorithms.winograd import Winograd
from fastconv.arguments import Array, must_be_named, must_be_said
from fastconv.geometry import Geometry
from fastconv.kernels.vectors import IN_HALVES

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

    name: str
    label: str  # the name, and whether the algorithm computes in the other layout than the geometry's

    def __init__(self, geometry: Geometry) -> None: ...

    @staticmethod
    def why_not(geometry: Geometry, which: Pass) -> str | None:
        """The reason it can't serve this pass of this geometry; None where it can."""

    @staticmethod
    def why_slow(geometry: Geometry, which: Pass) -> str | None:
        """The reason why "auto" passes it over although it could serve: a later one was measured faster."""


# Bundles serve one vector of channels, which minimal filtering does where additions cost little
# (see `Winograd.why_slow`).
ALGORITHMS: tuple[type[Algorithm], ...] = (
    *((Winograd, Bundles) if IN_HALVES else (Bundles, Winograd)),
    Lattice,
    Grouped,
    Lines,
    Pointwise,
    Direct,
    Im2col,
)

# Images with their channels last are turned for `Lines` up to so many bytes.
MOST_TURNED_BYTES = 2**21

# Names that there were, and what serves such layers now.
GONE = {"virtual": "lines"}


def named(wanted: str) -> type[Algorithm] | None:
    """The algorithm of a name, None for "auto".

    Raises
    ------
    TypeError, ValueError
        If there is none of that name.
    """
    if wanted == "auto":
        return None
    for algorithm in ALGORITHMS:
        if algorithm.name == wanted:
            return algorithm
    if wanted in GONE:
        came = f"{wanted!r}, which is no more: pass 'auto', or {GONE[wanted]!r}"
        must_be_said(ValueError, "algorithm", "the name of an algorithm", came)
    names = ["auto", *(algorithm.name for algorithm in ALGORITHMS)]
    kind = ValueError if isinstance(wanted, str) else TypeError
    must_be_named(kind, "algorithm", f"one of {', '.join(map(repr, names))}", wanted, names)


def candidates(geometry: Geometry, which: Pass) -> list[type[Algorithm]]:
    """All algorithms that can serve a pass, then those that can in the other layout."""
    known = (*ALGORITHMS, *map(reordered, ALGORITHMS))
    return [algorithm for algorithm in known if algorithm.why_not(geometry, which) is None]


def choose(geometry: Geometry, which: Pass, wanted: type[Algorithm] | None = None) -> type[Algorithm] | str:
    """The algorithm that serves one pass; or the one that is wanted, or the reason why it can't.

    Where there is nothing to multiply, that is `Empty` in any case.
    """
    if geometry.is_empty:
        return Empty
    if wanted is not None:
        usual = _usual(geometry, wanted) or wanted
        return usual.why_not(geometry, which) or usual
    known = [algorithm for algorithm in map(partial(_usual, geometry), ALGORITHMS) if algorithm is not None]
    by_rule = next(
        algorithm
        for algorithm in known
        if algorithm.why_not(geometry, which) is None and algorithm.why_slow(geometry, which) is None
    )
    return cheaper(by_rule, known, geometry, which)


def _usual(geometry: Geometry, algorithm: type[Algorithm]) -> type[Algorithm] | None:
    """An algorithm as the rules take it: `Lines` of small images with their channels last reordered."""
    if algorithm is not Lines or not geometry.channels_last:
        return algorithm
    return reordered(Lines) if copied_bytes(geometry) <= MOST_TURNED_BYTES else None
