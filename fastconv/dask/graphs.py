"""Arrays of Dask whose chunks are each one call, on what the call reads of other arrays' chunks.

A call gets the pieces of chunks that it needs as nested lists, one level an axis. A piece that is a whole
chunk is that chunk itself; a part of one is cut where the chunk lies, so that a worker sends a border and
not a chunk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, product
from operator import itemgetter
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from fastconv.arguments import Array
from fastconv.dask.axes import Range, ranges

Chunks = tuple[tuple[int, ...], ...]
Layer = dict[Any, Any]


def joined(pieces: Any, axis: int = 0) -> Array:
    """The array that nested lists of pieces are."""
    if not isinstance(pieces, list):
        return np.asarray(pieces)
    parts = [joined(piece, axis + 1) for piece in pieces]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)


def _cut(chunk: Array, place: tuple[slice, ...]) -> Array:
    """A part of a chunk, as an array of its own: a view would keep the whole chunk alive."""
    return chunk[place].copy()


@lru_cache(2**14)
def _parts(chunks: tuple[int, ...], first: int, stop: int) -> list[tuple[int, int, int, bool]]:
    """Chunks of an axis that a range lies in: number, from and up to which cell, and whether that is all."""
    bounds = list(accumulate(chunks, initial=0))
    found = []
    if stop <= first:
        # An empty part of a chunk that is there.
        return [(min(bisect_right(bounds, first) - 1, len(chunks) - 1), 0, 0, False)]
    for k in range(bisect_right(bounds, first) - 1, len(chunks)):
        begin, end = bounds[k], bounds[k + 1]
        if begin >= stop:
            break
        if end > first:
            a, b = max(first, begin) - begin, min(stop, end) - begin
            found.append((k, a, b, (a, b) == (0, end - begin)))
    return found


def pieces(layer: Layer, array: Any, where: Sequence[Range]) -> Any:
    """Nested lists of keys, of an array's part in a range an axis; what has to be cut is added to a layer."""
    name = array.name
    along = [_parts(chunks, *one) for chunks, one in zip(array.chunks, where, strict=True)]

    def nested(axis: int, chosen: tuple[tuple[int, int, int, bool], ...]) -> Any:
        if axis < len(along):
            return [nested(axis + 1, (*chosen, part)) for part in along[axis]]
        key = (name, *(part[0] for part in chosen))
        if all(part[3] for part in chosen):
            return key
        cut = (f"cut-{name}", *(number for part in chosen for number in part[:3]))
        if cut not in layer:
            layer[cut] = (_cut, key, tuple(slice(part[1], part[2]) for part in chosen))
        return cut

    return nested(0, ())


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
    layer: Layer = {}
    for numbers, where in blocks(chunks):
        key = (name, *numbers)
        layer[key] = task(layer, where)
    graph = HighLevelGraph.from_collections(name, layer, dependencies=list(sources))
    return da.Array(graph, name, chunks, meta=np.empty((0,) * len(chunks), dtype))


def item_of(array: Any, k: int, dtype: np.dtype[Any]) -> Any:
    """The k-th of what each of an array's tasks gives."""
    name = f"{array.name}-{k}"
    layer: Layer = {
        (name, *numbers): (itemgetter(k), (array.name, *numbers)) for numbers in np.ndindex(*array.numblocks)
    }
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[array])
    return da.Array(graph, name, array.chunks, meta=np.empty((0,) * array.ndim, dtype))


def summed(
    prefix: str, parts: Sequence[Any], layer: Layer, name: str, add: Callable[[list[Array]], Array]
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
    layer: Layer, name: str, shape: Sequence[int], dtype: np.dtype[Any], sources: Sequence[Any]
) -> Any:
    """An array of one chunk, which a layer has under its name."""
    graph = HighLevelGraph.from_collections(name, layer, dependencies=list(sources))
    return da.Array(graph, name, tuple((n,) for n in shape), meta=np.empty((0,) * len(shape), dtype))
