"""The ways to compute a convolution, and which of them ``algorithm="auto"`` takes: `choose`."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias, get_args

from fastconv.algorithms.bundles import Bundles
from fastconv.algorithms.copies import reordered, turning
from fastconv.algorithms.direct import Direct
from fastconv.algorithms.empty import Empty
from fastconv.algorithms.estimates import COSTS, least, nanoseconds
from fastconv.algorithms.grouped import Grouped
from fastconv.algorithms.im2col import Im2col
from fastconv.algorithms.lattice import Lattice
from fastconv.algorithms.lines import Lines
from fastconv.algorithms.pointwise import Pointwise
from fastconv.algorithms.problem import Counts, Problem
from fastconv.algorithms.winograd import Winograd
from fastconv.arguments import Array, must_be_named, must_be_said
from fastconv.geometry import Geometry

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
    def counts(p: Problem) -> Counts:
        """How often a pass does what takes time."""


ALGORITHMS: tuple[type[Algorithm], ...] = (
    Winograd,
    Bundles,
    Lattice,
    Grouped,
    Lines,
    Pointwise,
    Direct,
    Im2col,
)

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


def serving(geometry: Geometry, which: Pass) -> list[type[Algorithm]]:
    """All algorithms that can serve a pass in the layout of its arrays."""
    return [algorithm for algorithm in ALGORITHMS if algorithm.why_not(geometry, which) is None]


def candidates(geometry: Geometry, which: Pass) -> list[type[Algorithm]]:
    """All algorithms that can serve a pass, then those that can in the other layout."""
    others = (kind for kind in map(reordered, ALGORITHMS) if kind.why_not(geometry, which) is None)
    return [*serving(geometry, which), *others]


def choose(geometry: Geometry, which: Pass, wanted: type[Algorithm] | None = None) -> type[Algorithm] | str:
    """The algorithm that serves one pass; or the one that is wanted, or the reason why it can't.

    Where there is nothing to multiply, that is `Empty` in any case. One that is wanted computes in the other
    layout where it doesn't serve that of the arrays.
    """
    if geometry.is_empty:
        return Empty
    if wanted is not None:
        why = wanted.why_not(geometry, which)
        other = wanted if why is None else reordered(wanted)
        return other if other.why_not(geometry, which) is None else why or wanted
    problem = Problem(geometry, which)
    taken, kind = least(serving(geometry, which), problem)
    turned = nanoseconds(*turning(problem), which, COSTS)
    if turned < taken:
        twin = geometry.twin
        there, other = least(serving(twin, which), Problem(twin, which))
        if turned + there < taken and reordered(other).why_not(geometry, which) is None:
            return reordered(other)
    return kind


def better_there(geometry: Geometry, which: Pass, here: int, there: int) -> bool:
    """Whether views are better computed in the other layout, by estimates.

    Parameters
    ----------
    geometry : Geometry
    which : str
        The pass.
    here, there : int
        Bytes that are copied for either layout.
    """
    if there >= here or geometry.is_empty:
        return False
    each = COSTS["reordered"][which].get("turned", 0)
    taken = [
        least(serving(one, which), Problem(one, which))[0] + each * copied
        for one, copied in ((geometry, here), (geometry.twin, there))
    ]
    return taken[1] < taken[0]
