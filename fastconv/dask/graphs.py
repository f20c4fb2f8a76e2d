"""Arrays of Dask whose chunks are each one call, on what the call reads of other arrays' chunks.

A call gets the pieces of chunks that it needs as nested lists, one level an axis. A piece that is a whole
chunk is that chunk itself; a part of one is cut where the chunk lies.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise, product
from operator import getitem, itemgetter
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from fastconv.arguments import Array
from fastconv.buffers import new_result
from fastconv.dask.axes import Range, ranges

Chunks = tuple[tuple[int, ...], ...]


def joined(pieces: Any, dtype: np.dtype[Any] | None = None) -> Array:
    """The array that nested lists of pieces are: one that is all there is, or a copy of all of them."""
    first, depth = pieces, 0
    while isinstance(first, list):
        first, depth = first[0], depth + 1
    dtype = first.dtype if dtype is None else dtype
    bounds = [[0, *accumulate(piece.shape[axis] for piece in _along(pieces, axis))] for axis in range(depth)]
    if all(len(each) == 2 for each in bounds):
        return np.asarray(first).astype(dtype, copy=False)
    whole = new_result(tuple(each[-1] for each in bounds), dtype)

    def fill(some: Any, place: tuple[slice, ...]) -> None:
        if not isinstance(some, list):
            whole[place] = some
            return
        for each, one in zip(some, pairwise(bounds[len(place)]), strict=True):
            fill(each, (*place, slice(*one)))

    fill(pieces, ())
    return whole


def _along(pieces: Any, axis: int) -> Iterator[Any]:
    """The first pieces of nested lists along an axis."""
    for _ in range(axis):
        pieces = pieces[0]
    for piece in pieces:
        while isinstance(piece, list):
            piece = piece[0]
        yield piece


def _cut(chunk: Array, places: Sequence[tuple[Range, ...]]) -> list[Array]:
    """Parts of a chunk, as arrays of their own: a view would keep the whole chunk alive."""
    return [chunk[tuple(slice(*one) for one in place)].copy() for place in places]


class Part(NamedTuple):
    """The part of a chunk, along an axis, that lies in a range."""

    chunk: int
    first: int
    stop: int
    whole: bool


class Layer(dict[Any, Any]):
    """Tasks by their keys, and what they read of other arrays' chunks.

    All that is cut out of one chunk is one task, whose parts go to those that read them: a worker sends
    borders and not chunks, and a chunk costs two tasks whatever the number of its neighbours.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bounds: dict[str, list[list[int]]] = {}
        self._along: dict[tuple[str, int, Range], list[Part]] = {}
        self._cuts: dict[Any, dict[tuple[Range, ...], int]] = {}

    def along(self, array: Any, axis: int, where: Range) -> list[Part]:
        """The parts of an array's chunks that lie in a range of an axis."""
        found = self._along.get((array.name, axis, where))
        if found is None:
            if array.name not in self._bounds:
                self._bounds[array.name] = [list(accumulate(chunks, initial=0)) for chunks in array.chunks]
            found = self._along[array.name, axis, where] = _parts(self._bounds[array.name][axis], *where)
        return found

    def cut(self, array: Any, parts: Sequence[Part]) -> Any:
        """What stands for a part of a chunk in a task's arguments."""
        key = (array.name, *(part.chunk for part in parts))
        if all(part.whole for part in parts):
            return key
        places = self._cuts.setdefault(key, {})
        number = places.setdefault(tuple((part.first, part.stop) for part in parts), len(places))
        return (getitem, (f"cut-{array.name}", *key[1:]), number)

    def finish(self) -> None:
        """Add the tasks that cut."""
        for (name, *numbers), places in self._cuts.items():
            key = (f"cut-{name}", *numbers)
            self[key] = (_cut, (name, *numbers), list(places))


def _parts(bounds: Sequence[int], first: int, stop: int) -> list[Part]:
    """The parts of chunks between bounds that lie in a range."""
    last = len(bounds) - 2
    if stop <= first:
        # An empty part of a chunk that is there.
        return [Part(min(bisect_right(bounds, first) - 1, last), 0, 0, False)]
    found = []
    for k in range(bisect_right(bounds, first) - 1, last + 1):
        begin, end = bounds[k], bounds[k + 1]
        if begin >= stop:
            break
        if end > first:
            a, b = max(first, begin) - begin, min(stop, end) - begin
            found.append(Part(k, a, b, (a, b) == (0, end - begin)))
    return found


def pieces(layer: Layer, array: Any, where: Sequence[Range]) -> Any:
    """Nested lists of keys, of an array's part in a range an axis; what has to be cut is added to a layer."""
    along = [layer.along(array, axis, one) for axis, one in enumerate(where)]

    def nested(chosen: tuple[Part, ...]) -> Any:
        if len(chosen) < len(along):
            return [nested((*chosen, part)) for part in along[len(chosen)]]
        return layer.cut(array, chosen)

    return nested(())


def blocks(chunks: Chunks) -> Iterator[tuple[tuple[int, ...], tuple[Range, ...]]]:
    """The number of every chunk, and its ranges."""
    along = [list(enumerate(ranges(each))) for each in chunks]
    for chosen in product(*along):
        yield tuple(k for k, _ in chosen), tuple(one for _, one in chosen)


def array_of(
    prefix: str,
    chunks: Chunks,
    dtype: np.dtype[Any],
    task: Callable[[Layer, tuple[Range, ...]], Any],
    sources: Sequence[Any],
    *token: object,
) -> Any:
    """An array whose every chunk is a task.

    Parameters
    ----------
    prefix : str
        Of its name.
    chunks : tuple of tuple of int
    dtype : numpy.dtype
    task : callable
        Makes the task of a chunk, given the layer that `pieces` adds to and the chunk's ranges.
    sources : sequence of dask.array.Array
        What tasks read.
    *token
        What else the numbers depend on.
    """
    name = f"fastconv-{prefix}-{tokenize(prefix, chunks, str(dtype), [one.name for one in sources], *token)}"
    layer = Layer()
    for numbers, where in blocks(chunks):
        key = (name, *numbers)
        layer[key] = task(layer, where)
    layer.finish()
    graph = HighLevelGraph.from_collections(name, layer, dependencies=list(sources))
    return da.Array(graph, name, chunks, meta=np.empty((0,) * len(chunks), dtype))


def item_of(array: Any, k: int, dtype: np.dtype[Any]) -> Any:
    """The k-th of what each of an array's tasks gives."""
    name = f"{array.name}-{k}"
    layer = {
        (name, *numbers): (itemgetter(k), (array.name, *numbers)) for numbers in np.ndindex(*array.numblocks)
    }
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[array])
    return da.Array(graph, name, array.chunks, meta=np.empty((0,) * array.ndim, dtype))


def summed(
    prefix: str, parts: Sequence[Any], layer: dict[Any, Any], name: str, add: Callable[[list[Array]], Array]
) -> Any:
    """The key of the sum of parts, as a tree of a fixed shape: sums of eight, and sums of these."""
    level = list(parts)
    depth = 0
    while len(level) > 1:
        following = []
        for k in range(0, len(level), 8):
            key = (f"{prefix}-{name}", depth, k // 8)
            layer[key] = (add, level[k : k + 8])
            following.append(key)
        level, depth = following, depth + 1
    return level[0]


def finished(
    layer: dict[Any, Any], name: str, shape: Sequence[int], dtype: np.dtype[Any], sources: Sequence[Any]
) -> Any:
    """An array of one chunk, which a layer has under its name."""
    graph = HighLevelGraph.from_collections(name, layer, dependencies=list(sources))
    return da.Array(graph, name, tuple((n,) for n in shape), meta=np.empty((0,) * len(shape), dtype))
