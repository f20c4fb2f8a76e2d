"""What the message of a wrong argument says: what came, in a few words, and what would serve instead.

Nothing here is called unless a message is to be written.
"""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np

# Messages are one line, shorter than this.
LONGEST_MESSAGE = 300
# What came is shown by so many characters at most.
LONGEST_SHOWN = 100

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
