"""Checks of arrays of Dask as arguments, and functions of one to three dimensions from one description."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np

from fastconv.arguments import Size, must_be, must_be_said
from fastconv.geometry import LAYOUTS

Lazy = Any  # a dask.array.Array


def lazy_array(name: str, value: object, ndim: int) -> Lazy:
    """An array of Dask with known chunks."""
    if not isinstance(value, da.Array):
        must_be(TypeError, name, "an array of Dask (fastconv itself takes those of NumPy)", value)
    if value.ndim not in (ndim + 1, ndim + 2):
        must_be_said(
            ValueError, name, f"of {ndim + 2} axes, or {ndim + 1} without a batch", f"shape {value.shape}"
        )
    if any(math.isnan(n) for chunks in value.chunks for n in chunks):
        came = f"chunks {value.chunks}: pass {name}.compute_chunk_sizes()"
        must_be_said(ValueError, name, "of chunks whose sizes are known", came)
    return value


def whole_channels(name: str, array: Lazy, channels_last: bool) -> Lazy:
    """An array whose channels are in one chunk."""
    axis = array.ndim - 1 if channels_last else 1
    if len(array.chunks[axis]) > 1:
        came = f"{len(array.chunks[axis])} chunks: pass {name}.rechunk({{{axis}: -1}})"
        must_be_said(ValueError, name, "of one chunk along its channels", came)
    return array


def batched(array: Lazy, ndim: int) -> Lazy:
    """With a batch of one where there is none."""
    return array if array.ndim == ndim + 2 else array[np.newaxis]


def constant(name: str, value: object) -> Lazy:
    """Filters or a bias as an array of Dask of one chunk."""
    array = value if isinstance(value, da.Array) else da.from_array(np.asarray(value), chunks=-1)
    if any(math.isnan(n) for n in array.shape):
        must_be_said(
            ValueError, name, "of a known shape", f"{array.shape}: pass {name}.compute_chunk_sizes()"
        )
    return array.rechunk(dict.fromkeys(range(array.ndim), -1)) if array.npartitions > 1 else array


def key_of(array: Lazy | None) -> Any:
    """The key of an array of one chunk."""
    return None if array is None else (array.name, *(0,) * array.ndim)


def common_dtype(names: Sequence[str], *arrays: Any) -> np.dtype[Any]:
    """The common dtype by NumPy's rules."""
    found = np.result_type(*(array.dtype for array in arrays))
    if found.kind != "f" or found.itemsize > 8:
        came = " and ".join(f"{name} of {array.dtype}" for name, array in zip(names, arrays, strict=False))
        must_be_said(
            TypeError, names[0], "of float16, float32 or float64, or one of the others has to be", came
        )
    return found


def of_size(name: str, array: Lazy, expected: Size, layout_of: str) -> None:
    """Refuse an array of another shape."""
    if array.shape != expected:
        must_be_said(ValueError, name, f"of shape {expected}, as {layout_of} says", f"shape {array.shape}")


def of_dimensions(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """``name1d``, ``name2d`` and ``name3d`` of a function ``name_nd(ndim, ..., *, layout=None)``.

    Its docstring says ``{name}`` and ``{n}`` for a function's name and its dimensions. The layout that is
    None is the one with the channels first.
    """
    made = []
    for ndim in (1, 2, 3):
        name = function.__name__.strip("_").replace("_nd", f"{ndim}d")

        def one(*arguments: Any, _ndim: int = ndim, **named: Any) -> Any:
            if named.get("layout") is None:
                named["layout"] = LAYOUTS[_ndim][False]
            return function(_ndim, *arguments, **named)

        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1:]
        parameters = [
            p.replace(default=LAYOUTS[ndim][False]) if p.name == "layout" else p for p in parameters
        ]
        one.__name__ = one.__qualname__ = name
        one.__module__ = "fastconv.dask"
        one.__doc__ = (function.__doc__ or "").replace("{name}", name).replace("{n}", str(ndim))
        one.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        made.append(one)
    return made
