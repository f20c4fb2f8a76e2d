"""Which algorithm computes a pass: the one that is estimated to take least, or that a caller names.

An algorithm may have several variants, which serve different layers or the same in different ways; a name
stands for all of them, and the name with a variant behind a slash (``"gemm/pixels"``) for one.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastconv.arguments import must_be_named, must_be_said
from fastconv.engine.algorithm import Algorithm, Pass
from fastconv.engine.decimated import Decimated
from fastconv.engine.empty import Empty
from fastconv.engine.estimates import COSTS, least, nanoseconds
from fastconv.engine.layouts import reordered, turning
from fastconv.engine.problem import Problem
from fastconv.engine.registry import UNDECIMATED
from fastconv.geometry import Geometry

ALGORITHMS: tuple[type[Algorithm], ...] = (Decimated, *UNDECIMATED)

# Names that there were, and what serves such layers now.
GONE = {
    "virtual": "indirect",
    "direct": "gemm",
    "pointwise": "gemm",
    "lines": "indirect",
    "grouped": "depthwise' or 'indirect",
    "bundles": "grouped_gemm",
    "lattice": "decimated",
}


def named(wanted: str) -> tuple[type[Algorithm], ...] | None:
    """The variants of an algorithm, or the one that is meant; None for "auto".

    Raises
    ------
    TypeError, ValueError
        If there is none of that name.
    """
    if wanted == "auto":
        return None
    found = tuple(kind for kind in ALGORITHMS if wanted in (kind.name, kind.label))
    if found:
        return found
    if wanted in GONE:
        came = f"{wanted!r}, which is no more: pass 'auto', or '{GONE[wanted]}'"
        must_be_said(ValueError, "algorithm", "the name of an algorithm", came)
    names = ["auto", *dict.fromkeys(kind.name for kind in ALGORITHMS)]
    kind = ValueError if isinstance(wanted, str) else TypeError
    must_be_named(kind, "algorithm", f"one of {', '.join(map(repr, names))}", wanted, names)


def serving(
    geometry: Geometry, which: Pass, kinds: Sequence[type[Algorithm]] = ALGORITHMS
) -> list[type[Algorithm]]:
    """The algorithms that can serve a pass in the layout of its arrays."""
    return [kind for kind in kinds if kind.why_not(geometry, which) is None]


def candidates(
    geometry: Geometry, which: Pass, kinds: Sequence[type[Algorithm]] = ALGORITHMS
) -> list[type[Algorithm]]:
    """The algorithms that can serve a pass, then those that can in the other layout."""
    return [*serving(geometry, which, kinds), *serving(geometry, which, list(map(reordered, kinds)))]


def choose(
    geometry: Geometry, which: Pass, wanted: Sequence[type[Algorithm]] | None = None
) -> type[Algorithm] | str:
    """The algorithm that serves one pass, of those that are wanted; or the reasons why none of these can.

    Where there is nothing to multiply, that is `Empty` in any case. One that is wanted computes in the other
    layout where it doesn't serve that of the arrays.
    """
    if geometry.is_empty:
        return Empty
    problem = Problem(geometry, which)
    if wanted is not None:
        kinds = serving(geometry, which, wanted) or candidates(geometry, which, wanted)
        if not kinds:
            return "; ".join(dict.fromkeys(str(kind.why_not(geometry, which)) for kind in wanted))
        return kinds[0] if len(kinds) == 1 else least(kinds, problem)[1]
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
