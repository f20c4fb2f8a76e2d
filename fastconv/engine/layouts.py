"""Copies: an algorithm that runs over images that lie in memory in another way than the layout says.

Views (crops, flips, every second cell) are copied, and images with their channels last may be computed as
images with their channels first or the other way round: what an algorithm reads is turned, and what it writes
is turned back. Of large batches some images are copied at a time, so that scratch stays bounded. What already
lies right, images of one channel in either layout for instance, is not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from fastconv.arguments import Array
from fastconv.engine.partition import blocks, ceil_div
from fastconv.engine.problem import L2_BYTES, Counts, Problem
from fastconv.engine.tensor import assign, contiguous_in, dense, scratch_in
from fastconv.geometry import Geometry

if TYPE_CHECKING:
    from fastconv.engine.algorithm import Algorithm, Pass

# Bytes of the images of both sides that are copied at a time: of views, and where an algorithm is chosen that
# computes in the other layout, which has to leave room for what it needs itself.
MOST_COPIED_BYTES, MOST_TURNED_BYTES = 2**24, 3 * 2**20


class Copies:
    """An algorithm of a layout, over images that lie in any way.

    Parameters
    ----------
    geometry : Geometry
        Of the arrays.
    kind : type of Algorithm
    channels_last : bool
        The layout in which it computes.
    whole : Algorithm, optional
        One that was made for all images of that layout.
    most_bytes : int, optional
        Of images that are copied at a time.
    """

    def __init__(
        self,
        geometry: Geometry,
        kind: type[Algorithm],
        channels_last: bool,
        whole: Algorithm | None = None,
        most_bytes: int = MOST_COPIED_BYTES,
    ) -> None:
        self.geometry, self.kind, self.last = geometry, kind, channels_last
        self.some = _images_at_once(geometry, most_bytes)
        # The algorithm itself by the images that it computes at once, made when they are first met.
        self._made = {} if whole is None else {geometry.batch: whole}

    @property
    def scratch_bytes(self) -> int:
        """The algorithm's, and the copies that all threads share."""
        g = self.geometry
        copied = 0 if _lie_alike(g) else self.some * _image_bytes(g)
        return self._algorithm(self.some if copied else g.batch).scratch_bytes + copied

    def forward(self, x: Array, w: Array, bias: Array | None, y: Array) -> bool:
        """Images of ``x`` to images of ``y``."""
        w = dense(w, self.last)
        return self._each(x, y, lambda made, source, target: made.forward(source, w, bias, target))

    def backward_input(self, dy: Array, w: Array, dx: Array) -> bool:
        """Images of ``dy`` to images of ``dx``."""
        w = dense(w, self.last)
        return self._each(dy, dx, lambda made, source, target: made.backward_input(source, w, target))

    def backward_weight(self, dy: Array, x: Array, dw: Array) -> bool:
        """Parts of the sum over images, added in order."""
        last = self.last
        result = dw if contiguous_in(dw, last) else scratch_in(dw.shape, dw.dtype, last)
        if not self._sum(dy, x, result):
            return False
        if result is not dw:
            assign(dw, result)
        return True

    def _each(self, x: Array, y: Array, run: Callable[[Algorithm, Array, Array], bool]) -> bool:
        """Write the images of ``y``, which is contiguous in the geometry's layout."""
        if not self._in_parts(x, y):
            return self._turn(x, y, run)
        return all(self._turn(x[some], y[some], run) for some in self._parts())

    def _turn(self, x: Array, y: Array, run: Callable[[Algorithm, Array, Array], bool]) -> bool:
        """The same for images that are computed at once."""
        source = dense(x, self.last)
        target = y if contiguous_in(y, self.last) else scratch_in(y.shape, y.dtype, self.last)
        if not run(self._algorithm(len(x)), source, target):
            return False
        if target is not y:
            assign(y, target)
        return True

    def _sum(self, dy: Array, x: Array, dw: Array) -> bool:
        """Write the gradient ``dw``, which is contiguous in the layout that is computed in."""
        if not self._in_parts(dy, x):
            gradient, image = together((dy, x), self.last)
            return self._algorithm(len(x)).backward_weight(gradient, image, dw)
        for some in self._parts():
            part = scratch_in(dw.shape, dw.dtype, self.last) if some.start else dw
            if not self._sum(dy[some], x[some], part):
                return False
            if some.start:
                with np.errstate(all="ignore"):  # infinities and NaN travel without a warning
                    dw += part
        return True

    def _in_parts(self, *arrays: Array) -> bool:
        """Whether images are more than are computed at once: all of them may be where nothing is copied."""
        return len(arrays[0]) > self.some and not all(contiguous_in(array, self.last) for array in arrays)

    def _parts(self) -> Iterator[slice]:
        """Images that are computed at once."""
        return (slice(*some) for some in blocks(self.geometry.batch, self.some))

    def _algorithm(self, images: int) -> Algorithm:
        found = self._made.get(images)
        if found is None:
            found = self.kind(replace(self.geometry, batch=images, channels_last=self.last))
            self._made[images] = found
        return found


@lru_cache(32)  # as many as there are algorithms, and more
def reordered(kind: type[Algorithm]) -> type[Algorithm]:
    """An algorithm that computes in the other layout than the geometry's.

    Parameters
    ----------
    kind : type of Algorithm
        Any but one that this function has made.

    Returns
    -------
    type of Algorithm
        Of the same name. It takes images that lie in any way: those contiguous in the other layout are not
        copied.
    """

    class Reordered(Copies):
        name = kind.name
        label = f"{kind.label}, reordered"

        def __init__(self, geometry: Geometry) -> None:
            super().__init__(geometry, kind, not geometry.channels_last, most_bytes=MOST_TURNED_BYTES)

        @staticmethod
        def why_not(geometry: Geometry, which: Pass) -> str | None:
            """Images that are too large, and what the algorithm does not serve in the other layout."""
            g, some = geometry, _images_at_once(geometry, MOST_TURNED_BYTES)
            if _image_bytes(g) > MOST_TURNED_BYTES and not _lie_alike(g):
                return f"an image and its output have {_image_bytes(g)} bytes, too many to be copied"
            twin = g.twin
            sizes = {g.batch, some, g.batch % some or some}
            whys = (kind.why_not(replace(twin, batch=images), which) for images in sizes)
            return next((why for why in whys if why is not None), None)

        @staticmethod
        def counts(p: Problem) -> Counts:
            """Those of the copies, and of the algorithm in the other layout."""
            return Counts(*turning(p), ([kind], p.geometry.twin))

    return Reordered


def turning(p: Problem) -> tuple[str, dict[str, float]]:
    """The row of what it takes to compute in the other layout, and the counts: bytes that are turned."""
    one = p.channels * p.groups == 1 or prod(p.source) == 1
    other = p.filters * p.groups == 1 or prod(p.target) == 1
    turned = (0 if one else p.source_bytes) + (0 if other else p.target_bytes)
    parts = ceil_div(p.batch, _images_at_once(p.geometry, MOST_TURNED_BYTES))
    return "reordered", {
        "call": 1,
        "turned": turned,
        "far": max(0, turned - L2_BYTES),
        "parts": parts,
        "weights": p.weight_bytes,
        "weights_again": (parts - 1) * p.weight_bytes,
    }


def moved_bytes(
    channels_last: bool, sources: tuple[Array, ...], results: tuple[Array, ...]
) -> tuple[int, int]:
    """Bytes that are copied where images are computed in their own layout, and in the other one.

    Parameters
    ----------
    channels_last : bool
        Of the arrays' own layout.
    sources : tuple of arrays (N, C, D, H, W)
        As they lie.
    results : tuple of arrays (N, C, D, H, W)
        Contiguous in their own layout, if they are images.
    """
    here = sum(array.nbytes for array in sources if not contiguous_in(array, channels_last))
    there = sum(array.nbytes for array in (*sources, *results) if not contiguous_in(array, not channels_last))
    return here, there


def in_one(geometry: Geometry) -> bool:
    """Whether all images of both sides may be copied at once."""
    return _images_at_once(geometry, MOST_COPIED_BYTES) >= geometry.batch


def together(arrays: tuple[Array, ...], channels_last: bool) -> tuple[Array, ...]:
    """The arrays contiguous in a layout, copied where they are not: only once what came twice."""
    if len(arrays) == 2 and _same(*arrays):
        return (dense(arrays[0], channels_last),) * 2
    return tuple([dense(array, channels_last) for array in arrays])


def _images_at_once(geometry: Geometry, most_bytes: int) -> int:
    """Images that are copied at a time, in parts as equal as can be: by shape alone."""
    g = geometry
    most = max(1, most_bytes // max(1, _image_bytes(g)))
    return ceil_div(g.batch, ceil_div(g.batch, most)) if g.batch else 1


def _image_bytes(geometry: Geometry) -> int:
    """Bytes of one image of both sides."""
    g = geometry
    cells = g.channels * prod(g.input) + g.filters * prod(g.output)
    return cells * g.compute_dtype.itemsize


def _lie_alike(geometry: Geometry) -> bool:
    """Whether images of both sides lie in memory alike in both layouts."""
    g = geometry
    return all(
        channels == 1 or prod(extent) == 1
        for channels, extent in ((g.channels, g.input), (g.filters, g.output))
    )


def _same(one: Array, other: Array) -> bool:
    """Whether two arrays are the same view of the same memory."""
    return (
        one.shape == other.shape
        and one.strides == other.strides
        and one.__array_interface__["data"] == other.__array_interface__["data"]
    )
