"""What the message of a wrong argument says: what came, in a few words, and what would serve instead.

Nothing here is called unless a message is to be written.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from math import prod
from typing import Any

import numpy as np

# Messages are one line, shorter than this.
LONGEST_MESSAGE = 300
# What came is shown by so many characters at most.
LONGEST_SHOWN = 100
# Longer text is no misspelled name.
LONGEST_NAME = 40

# What holds the shape that an argument asks for.
_SHAPE_OF = {
    "input_size": "input",
    "weight_size": "weight",
    "kernel_size": "weight",
    "output_size": "output",
}


class _Short(reprlib.Repr):
    """A repr that looks at a few items only, and at none of an array."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxother = 3, LONGEST_SHOWN
        self.maxtuple = self.maxlist = 8

    def repr_instance(self, x: Any, level: int) -> str:
        shape = shape_of(x)
        if shape is not None:
            return described(x, shape)
        if isinstance(x, (bytes, bytearray, memoryview)):
            return f"{type(x).__name__} of length {len(x)}"
        return super().repr_instance(x, level)

    def repr_set(self, x: Any, level: int) -> str:
        # The items of these would be sorted, all of them.
        return f"a {type(x).__name__} of length {len(x)}"

    repr_frozenset = repr_dict = repr_set


_SHORT = _Short()


def shape_of(value: object) -> tuple[int, ...] | None:
    """The shape of an array of any library; None of what has none, and of NumPy's scalars."""
    if isinstance(value, np.generic):
        return None
    try:
        shape = value.shape  # type: ignore[attr-defined]
        return tuple(map(int, shape)) if isinstance(shape, tuple) else None
    except Exception:  # whatever an object's own attributes raise: it is no array to us
        return None


def described(value: object, shape: tuple[int, ...]) -> str:
    """An array in words, without its values."""
    kind = "an array" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    return f"{kind} of shape {shape_text(shape)} and dtype {getattr(value, 'dtype', 'unknown')}"


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape, or how many dimensions it has where those are very many."""
    return f"{shape}" if len(shape) <= 8 else f"of {len(shape)} dimensions"


def shown(value: object) -> str:
    """What came: arrays by shape and dtype, the rest by a short repr in one line."""
    try:
        text = " ".join(_SHORT.repr(value).split())
    except ValueError:  # Python refuses to print integers of thousands of digits
        return f"a {type(value).__name__} too long to print"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def its_shape(name: str, value: object, extents: int | None = None) -> str:
    """The end of a message where an array came instead of its shape, or of its last ``extents`` ones."""
    shape = shape_of(value)
    if not shape or name not in _SHAPE_OF:
        return ""
    part = "" if extents is None or len(shape) == extents else f"[{len(shape) - extents}:]"
    return f"; pass {_SHAPE_OF[name]}.shape{part}" if extents is None or len(shape) >= extents else ""


def nearest(value: object, choices: Sequence[str]) -> str:
    """The end of a message where one of the choices was misspelled."""
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        return ""
    by_letters = {choice.lower(): choice for choice in choices}
    found = get_close_matches(value.lower(), by_letters, 1)
    return f"; did you mean {by_letters[found[0]]!r}?" if found else ""


def of_no_numbers(value: object, array: np.ndarray[Any, Any]) -> str:
    """What came where it has become an array of this dtype, which is none of numbers."""
    if isinstance(value, (str, bytes, os.PathLike)):
        return f"{shown(value)}; a file is to be read before, for instance by np.load"
    if array.ndim == 0 and array.dtype == object:
        return shown(value)
    return f"dtype {array.dtype}"


def tensor(name: str, value: object) -> str:
    """The end of a message where NumPy could not read a tensor of PyTorch as it is."""
    steps = ".detach()" if _is_true(value, "requires_grad") else ""
    steps += ".cpu()" if _is_true(value, "is_cuda") else ""
    return f"; pass {name}{steps}" if steps else ""


def _is_true(value: object, attribute: str) -> bool:
    try:
        return getattr(value, attribute, None) is True
    except Exception:  # whatever an object's own attributes raise
        return False


def conversion(name: str, value: object, dtype: np.dtype[Any]) -> str:
    """The end of a message where an array of this dtype came instead of floats: how to make some of it."""
    if dtype.kind == "c":
        return "; pass its real and imaginary parts one after the other"
    if dtype.kind not in "iubf":
        return ""
    wanted = "float64" if dtype.kind == "f" else np.result_type(dtype, np.float32).name
    if isinstance(value, np.ndarray):
        return f"; convert it with {name}.astype('{wanted}')"
    return f"; convert it with np.asarray({name}, '{wanted}')"


def reshaped(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """The end of a message where an array has another shape: what brings it to the one that is wanted."""
    if len(wanted) == 1 and len(shape) > 1 and prod(shape) == wanted[0] and name != "out":
        return f"; pass {name}.ravel()"
    if shape == (1, *wanted):
        return f"; pass {name}[0]"
    if wanted == (1, *shape):
        return f"; pass {name}[None]"
    if len(shape) == len(wanted) > 2:
        ndim = len(wanted) - 2
        for axes in (*orders(ndim, False, False), *orders(ndim, True, False)):
            if tuple(shape[axis] for axis in axes) == wanted:
                return f"; pass {name}.transpose{axes}"
    return ""


# Orders of axes, the usual ones first: A are filters or the batch, B channels, X the spatial ones. In a
# transposed convolution's weight, A are channels and B filters.
_WEIGHT_ORDERS = ("XBA", "AXB", "ABX", "BAX", "BXA", "XAB")
_IMAGE_ORDERS = ("AXB", "ABX", "XBA", "BXA", "BAX")


def orders(ndim: int, channels_last: bool, of_images: bool) -> Iterator[tuple[int, ...]]:
    """The axes with which weights or images of other orders are transposed into that of the layout."""
    for order in _IMAGE_ORDERS if of_images else _WEIGHT_ORDERS:
        place, at = {}, 0
        for letter in order:
            place[letter] = range(at, at + (ndim if letter == "X" else 1))
            at = place[letter].stop
        yield tuple(axis for letter in ("AXB" if channels_last else "ABX") for axis in place[letter])


def is_channels_last(layout: object) -> bool:
    """Whether this is the name of such a layout."""
    return isinstance(layout, str) and layout.endswith("C")
