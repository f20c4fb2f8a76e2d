"""The three passes of a layer, over arrays that lie in any way and hold any numbers.

An algorithm computes over arrays that are contiguous in the layout, and may have to give up where something
is infinite or NaN (`fastconv.engine.algorithm.Passes`). What else a caller may bring is served here, and
nowhere else: views are copied, or computed in the layout in which they lie, and a pass that an algorithm gave
up is computed again from explicit columns.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastconv.arguments import Array, must_be_said
from fastconv.engine.algorithm import PASSES, Algorithm, Pass, Passes
from fastconv.engine.im2col import Im2col
from fastconv.engine.layouts import Copies, in_one, moved_bytes, reordered, together
from fastconv.engine.select import better_there, choose, named
from fastconv.geometry import Geometry


class Dispatch:
    """The algorithms of a layer's passes, made when they are first called.

    Parameters
    ----------
    geometry : Geometry
    name : str
        Of the algorithm that a caller wants, or "auto".
    tuned : dict
        Pass to what "auto" takes where it can, instead of choosing.

    Raises
    ------
    TypeError, ValueError
        If there is no algorithm of that name.
    """

    __slots__ = ("geometry", "made", "made_for_views", "name", "tuned", "wanted")

    def __init__(self, geometry: Geometry, name: str, tuned: Mapping[Pass, type[Algorithm]]) -> None:
        self.geometry, self.name, self.tuned, self.wanted = geometry, name, tuned, named(name)
        self.made: dict[Pass, Algorithm] = {}
        self.made_for_views: dict[tuple[Pass, int, int], Passes | None] = {}

    def kind(self, which: Pass) -> type[Algorithm] | str:
        """The algorithm of a pass, not made yet, or why the one asked for can't serve it."""
        if self.wanted is None and which in self.tuned:
            return self.tuned[which]
        return choose(self.geometry, which, self.wanted)

    def kinds(self) -> dict[Pass, type[Algorithm]]:
        """The passes that can be computed, and by what."""
        kinds = {which: self.kind(which) for which in PASSES}
        return {which: kind for which, kind in kinds.items() if not isinstance(kind, str)}

    def algorithm(self, which: Pass) -> Algorithm:
        """The algorithm of a pass; an error that says why the one asked for can't serve it."""
        found = self.made.get(which)
        if found is not None:
            return found
        kind = self.kind(which)
        if isinstance(kind, str):
            expected = f"able to compute the {which.replace('_', '-')} pass"
            must_be_said(ValueError, "algorithm", expected, f"{self.name!r}: {kind}")
        # Passes share what they have in common. Threads that come at the same time make the same twice.
        alike = (made for made in self.made.copy().values() if type(made) is kind)
        return self.made.setdefault(which, next(alike, None) or kind(self.geometry))

    @property
    def scratch_bytes(self) -> int:
        """The most scratch one thread allocates in any pass."""
        kinds = self.kinds()
        if self.geometry.is_empty or not kinds:
            return 0
        made = [self.algorithm(which) for which in kinds]
        return max(algorithm.scratch_bytes for algorithm in (*made, Im2col(self.geometry)))

    # Arrays (N, C, D, H, W), the weights and what is written contiguous in the layout. ``dense`` says whether
    # what is read is, too.

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array, dense: bool) -> None:
        """Write all of ``y``."""
        run: Passes
        if dense:
            run = self.algorithm("forward")
        else:
            run, (x,) = self._for_views("forward", (x,), (y,))
        if not run.forward(x, w, bias, y):
            self._by_columns().forward(x, w, bias, y)

    def backward_input(self, dy: Array, w: Array, dx: Array, dense: bool) -> None:
        """Write all of ``dx``."""
        run: Passes
        if dense:
            run = self.algorithm("backward_input")
        else:
            run, (dy,) = self._for_views("backward_input", (dy,), (dx,))
        if not run.backward_input(dy, w, dx):
            self._by_columns().backward_input(dy, w, dx)

    def backward_weight(self, dy: Array, x: Array, dw: Array, dense: bool) -> None:
        """Write all of ``dw``."""
        run: Passes
        if dense:
            run = self.algorithm("backward_weight")
        else:
            run, (dy, x) = self._for_views("backward_weight", (dy, x), ())
        if not run.backward_weight(dy, x, dw):
            self._by_columns().backward_weight(dy, x, dw)

    def _by_columns(self) -> Passes:
        """What computes a pass that an algorithm gave up."""
        return Copies(self.geometry, Im2col, self.geometry.channels_last)

    def _for_views(
        self, which: Pass, sources: tuple[Array, ...], results: tuple[Array, ...]
    ) -> tuple[Passes, tuple[Array, ...]]:
        """What computes a pass over images that are not contiguous in the layout, and what it reads."""
        last = self.geometry.channels_last
        key = which, *moved_bytes(last, sources, results)
        if key not in self.made_for_views:
            self.made_for_views[key] = self._over_copies(*key)
        found = self.made_for_views[key]
        return (self.algorithm(which), together(sources, last)) if found is None else (found, sources)

    def _over_copies(self, which: Pass, here: int, there: int) -> Passes | None:
        """What copies the images of a pass by itself; None where all of them are copied before it.

        It computes in the other layout where that is estimated to take less: so many bytes are copied here
        and there.
        """
        g, own = self.geometry, self.algorithm(which)
        if g.is_empty or isinstance(own, Copies):
            return own
        if better_there(g, which, here, there):
            twin = choose(g.twin, which, self.wanted)
            if not isinstance(twin, str) and not issubclass(twin, Copies):
                return reordered(twin)(g)
        return None if in_one(g) else Copies(g, type(own), g.channels_last, own)
