"""Checks of single arguments: whole numbers, extents, names, arrays, `out`.

Every message has one form, so that a reader finds the argument first:
``<argument> must be <what was expected>, got <what came>``.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fastconv import advice

Array: TypeAlias = NDArray[Any]
Size: TypeAlias = tuple[int, ...]
Pairs: TypeAlias = tuple[tuple[int, int], ...]

# Strides, paddings, dilations and output paddings stay below this, so that no index computed from
# them can leave an int64.
LARGEST_STEP = 2**31 - 1

NAMED_PADDINGS = ("valid", "same", "full")
# Numbers that an argument may have, generously; a longer array is not one of them.
MOST_NUMBERS = 10

# What convolution takes, in the machine's own byte order.
_FLOATS = frozenset(np.dtype(char) for char in "efd")
FLOATS = "a float16, float32 or float64 array"
INTEGERS = np.typecodes["AllInteger"]


def must_be(kind: type[Exception], name: str, expected: str, value: object) -> NoReturn:
    """Raise ``kind`` with the message that every wrong argument gets."""
    must_be_said(kind, name, expected, advice.shown(value))


def must_be_said(kind: type[Exception], name: str, expected: str, what_came: str) -> NoReturn:
    """As `must_be`, with what came already put into words."""
    message = f"{name} must be {expected}, got {what_came}"
    if len(message) >= advice.LONGEST_MESSAGE:
        message = f"{message[: advice.LONGEST_MESSAGE - 4]}..."
    raise kind(message)


def must_be_named(
    kind: type[Exception], name: str, expected: str, value: object, choices: Sequence[str]
) -> NoReturn:
    """As `must_be`, where one of the choices was expected: says which of them is the nearest."""
    must_be_said(kind, name, expected, advice.shown(value) + advice.nearest(value, choices))


def whole_number(name: str, value: object, least: int, most: int = LARGEST_STEP) -> int:
    """``value`` as an int in [least, most]; floats and bools are not whole numbers here."""
    if type(value) is int and least <= value <= most:
        return value
    expected = f"a whole number of at least {least}"
    if type(value) is not int:
        if isinstance(value, (bool, np.bool_)):
            must_be(TypeError, name, expected, value)
        try:
            value = operator.index(value)  # type: ignore[arg-type]
        except Exception:  # whatever an object's own __index__ raises: it is not a number to us
            must_be(TypeError, name, expected, value)
    if value < least:
        must_be(ValueError, name, expected, value)
    if value > most:
        must_be(ValueError, name, f"at most {most}", value)
    return value


def number(name: str, value: object, least: float, below: float = float("inf")) -> float:
    """``value`` as a float in [least, below)."""
    expected = f"a number of at least {least:g}" + (f" and below {below:g}" if below < float("inf") else "")
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        must_be(TypeError, name, expected, value)
    try:
        found = float(value)
    except OverflowError:  # an integer of hundreds of digits
        must_be(ValueError, name, expected, value)
    if not least <= found < below:
        must_be(ValueError, name, expected, value)
    return found


def file_path(name: str, value: object) -> Path:
    """``value`` as the path of a file, which is there or not."""
    if not isinstance(value, (str, os.PathLike)):
        must_be(TypeError, name, "the path of a file", value)
    try:
        return Path(value)
    except Exception:  # whatever an object's own __fspath__ raises or returns: it is no path to us
        must_be(TypeError, name, "the path of a file", value)


def _is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _listed(value: object, ndim: int = 1) -> object:
    """A short array of whole numbers as a list, so that arrays of sizes are taken like tuples."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return value.tolist() if value.ndim <= ndim and value.size <= MOST_NUMBERS else value
    return value


def _one_number(name: str, value: object, least: int, expected: str, extents: int | None = None) -> int:
    """``value`` as a whole number; an array in its place is told from a number, by its shape alone."""
    if advice.shape_of(value):
        must_be_said(TypeError, name, expected, advice.shown(value) + advice.its_shape(name, value, extents))
    return whole_number(name, value, least)


def extents(name: str, value: object, ndim: int, least: int) -> Size:
    """One whole number for every spatial dimension; a single number stands for all of them."""
    if type(value) is int:
        return (whole_number(name, value, least),) * ndim
    items = _listed(value)
    expected = f"a whole number or {ndim} of them"
    if not _is_sequence(items):
        return (_one_number(name, value, least, expected, ndim),) * ndim
    if len(items) != ndim:
        must_be(ValueError, name, expected, value)
    return tuple(whole_number(name, v, least) for v in items)


def padding_pairs(value: object, ndim: int) -> str | Pairs:
    """A named padding as its name, anything else as ``ndim`` pairs ``(before, after)``."""
    if isinstance(value, str):
        name = value.lower()
        if name not in NAMED_PADDINGS:
            expected = f"a number, pairs or one of {', '.join(NAMED_PADDINGS)}"
            must_be_named(ValueError, "padding", expected, value, NAMED_PADDINGS)
        return name
    items = _listed(value, 2)
    if not _is_sequence(items):
        return tuple((pad, pad) for pad in extents("padding", value, ndim, 0))
    if len(items) not in (ndim, 2 * ndim):
        numbers = "1 or 2 numbers" if ndim == 1 else f"{ndim} or {2 * ndim} of them"
        must_be(ValueError, "padding", f"a number, {numbers} or {ndim} pairs (before, after)", value)
    sides: list[Any] = [_listed(side) for side in items]
    if any(_is_sequence(side) for side in sides):
        if len(sides) != ndim or not all(_is_sequence(side) and len(side) == 2 for side in sides):
            must_be(ValueError, "padding", f"{ndim} pairs (before, after)", value)
        sides = [pad for side in sides for pad in side]
    pads = [whole_number("padding", pad, 0) for pad in sides]
    before, after = (pads, pads) if len(pads) == ndim else (pads[::2], pads[1::2])
    return tuple(zip(before, after, strict=True))


def size(name: str, value: object, lengths: Sequence[int]) -> Size:
    """A whole array's shape, of one of the given numbers of dimensions; only a batch may be empty."""
    if type(value) is tuple and len(value) in lengths:  # an array's own shape, nearly always
        return tuple([whole_number(name, v, 0, sys.maxsize) for v in value])
    items = _listed(value)
    expected = f"a sequence of {' or '.join(map(str, lengths))} whole numbers"
    if not _is_sequence(items):
        must_be_said(TypeError, name, expected, advice.shown(value) + advice.its_shape(name, value))
    if len(items) not in lengths:
        must_be(ValueError, name, expected, value)
    return tuple(whole_number(name, v, 0, sys.maxsize) for v in items)


def addressable(name: str, shape: Size, itemsize: int) -> None:
    """Refuse, by arithmetic, an array that no address space holds; NumPy also refuses it for a batch of 0."""
    if prod([n or 1 for n in shape]) * itemsize > sys.maxsize:
        must_be_said(ValueError, name, f"of at most {sys.maxsize} bytes", f"shape {shape}")


def one_of(name: str, value: object, choices: Sequence[str]) -> str:
    """``value`` where it is one of the names, else an error that lists them."""
    if not isinstance(value, str) or value not in choices:
        kind = ValueError if isinstance(value, str) else TypeError
        must_be_named(kind, name, f"one of {', '.join(map(repr, choices))}", value, choices)
    return value


def flag(name: str, value: object) -> bool:
    """``value`` where it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        must_be(TypeError, name, "True or False", value)
    return bool(value)


def _as_array(name: str, value: object, expected: str) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        must_be_said(TypeError, name, expected, "a masked array; fill it first, with .filled()")
    try:
        return np.asarray(value)
    except Exception:  # whatever an object's own conversion raises: it is not an array to us
        must_be_said(TypeError, name, expected, advice.shown(value) + advice.tensor(name, value))


def _in_native_form(array: Array) -> Array:
    # Numba compiles unaligned and byte-swapped arrays apart or not at all: these two are copied.
    if array.flags.aligned and array.dtype.isnative:
        return array
    return array.astype(array.dtype.newbyteorder("="))


def float_array(name: str, value: object) -> Array:
    """``value`` as a float16, float32 or float64 array in native form; copied only if it is not."""
    if type(value) is np.ndarray and value.dtype in _FLOATS and value.flags.aligned:
        return value
    return _in_native_form(_numbers(name, value, FLOATS, "efd"))


def operand(name: str, value: object) -> Array:
    """As `float_array`, but integers and booleans stay what they are: `promoted` has the last word."""
    if type(value) is np.ndarray and value.dtype in _FLOATS and value.flags.aligned:
        return value
    return _in_native_form(_numbers(name, value, FLOATS, f"efd?{INTEGERS}"))


def promoted(names: Sequence[str], *arrays: Array) -> tuple[Array, ...]:
    """Operands in their common dtype, by NumPy's rules; one of them has to be of floats."""
    dtype = arrays[0].dtype
    for array in arrays:
        if array.dtype != dtype:
            break
    else:
        if dtype.kind == "f":
            return arrays
    dtype = np.result_type(*[array.dtype for array in arrays])
    if dtype.kind != "f":
        others = " and ".join(names[1 : len(arrays)])
        came = f"dtype {arrays[0].dtype}, and with {others} {dtype} by NumPy's rules"
        came += advice.conversion(names[0], None, dtype)
        must_be_said(TypeError, names[0], f"{FLOATS}, or one of the others has to be", came)
    return tuple([array.astype(dtype, copy=False) for array in arrays])


def _numbers(name: str, value: object, expected: str, chars: str) -> Array:
    """``value`` as an array, refused if its dtype is none of these."""
    array = value if type(value) is np.ndarray else _as_array(name, value, expected)
    if array.dtype.char not in chars:
        hint = advice.conversion(name, value, array.dtype) if expected == FLOATS else ""
        must_be_said(TypeError, name, expected, advice.of_no_numbers(value, array) + hint)
    return array


def number_array(name: str, value: object) -> Array:
    """As `float_array`, and integers too (for max-pooling)."""
    return _in_native_form(_numbers(name, value, f"an integer or {FLOATS[2:]}", f"efd{INTEGERS}"))


def index_array(name: str, value: object) -> Array:
    """``value`` as an int64 array; other integer dtypes are widened."""
    expected = "an int64 array"
    array = value if type(value) is np.ndarray else _as_array(name, value, expected)
    if array.dtype.kind not in "iu" or array.dtype == np.uint64:
        must_be_said(TypeError, name, expected, f"dtype {array.dtype}")
    return _in_native_form(array).astype(np.int64, copy=False)


def float_dtype(name: str, value: object) -> np.dtype[Any]:
    """``value`` as one of the three dtypes that convolution takes."""
    expected = "float16, float32 or float64"
    try:
        dtype = np.dtype(value)  # type: ignore[call-overload]
    except Exception:  # NumPy raises TypeError, ValueError and SyntaxError for wrong dtypes
        must_be(TypeError, name, expected, value)
    if value is None or dtype.char not in "efd":
        must_be(TypeError, name, expected, value)
    return dtype.newbyteorder("=")  # type: ignore[no-any-return]


def rank(name: str, array: Array, ndims: Sequence[int], axes: str) -> None:
    """Refuse an array whose number of dimensions is not one of ``ndims``."""
    if array.ndim not in ndims:
        wanted = " or ".join(map(str, ndims))
        must_be_said(ValueError, name, f"{wanted}-dimensional {axes}", f"shape {array.shape}")


def images(name: str, array: Array, ndim: int, layout: object = None) -> None:
    """Refuse an array that is neither a batch of images of ``ndim`` dimensions nor one image."""
    if array.ndim - ndim not in (1, 2):
        came = f"shape {array.shape}"
        if array.ndim == ndim:
            came += f"; pass {name}[{'..., None' if advice.is_channels_last(layout) else 'None'}]"
        expected = f"{ndim + 2} or {ndim + 1}-dimensional (batched or not)"
        must_be_said(ValueError, name, expected, came)


def bias_array(value: object) -> Array:
    """``value`` as an operand; a stride in its place is told from a bias."""
    if type(value) is not np.ndarray:
        several = isinstance(value, (tuple, list)) and 1 <= len(value) <= 3
        numbers: Sequence[Any] = value if several else [value]  # type: ignore[assignment]
        if all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in numbers):
            stride = tuple(map(int, numbers)) if several else int(numbers[0])
            hint = f"stride is the 4th argument: write stride={advice.shown(stride)}"
            must_be_said(TypeError, "bias", "an array or None", f"{advice.shown(value)}; {hint}")
    return operand("bias", value)


def shaped(name: str, array: Array, shape: Size) -> None:
    """Refuse an array of another shape."""
    if array.shape != shape:
        came = f"shape {array.shape}{advice.reshaped(name, array.shape, shape)}"
        must_be_said(ValueError, name, f"of shape {shape}", came)


def _overlaps_itself(array: Array) -> bool:
    """Whether two elements may share memory (a sufficient test: nested strides never do)."""
    reach = array.itemsize
    for stride, extent in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True)):
        if extent > 1:
            if stride < reach:
                return True
            reach += stride * (extent - 1)
    return False


def output_array(out: object, shape: Size, dtype: np.dtype[Any]) -> Array | None:
    """``out`` where results may be written to it, None where a new array is wanted."""
    if out is None:
        return None
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        must_be(TypeError, "out", "a NumPy array or None", out)
    shaped("out", out, shape)
    if out.dtype != dtype:
        must_be_said(TypeError, "out", f"of dtype {dtype}", f"dtype {out.dtype}")
    if not out.flags.writeable:
        must_be_said(ValueError, "out", "writeable", "a read-only array")
    if out.size and _overlaps_itself(out):
        must_be_said(
            ValueError, "out", "free of overlap with itself", f"strides {out.strides} for shape {out.shape}"
        )
    return out


def direct_output(out: Array | None, dtype: np.dtype[Any], *sources: Array | None) -> bool:
    """Whether an algorithm that computes in ``dtype`` may write straight into ``out``."""
    return (
        out is not None
        and out.dtype == dtype
        and out.dtype.isnative
        and out.flags.c_contiguous
        and out.flags.aligned
        and not any(source is not None and np.may_share_memory(out, source) for source in sources)
    )


def delivered(result: Array, out: Array | None, dtype: np.dtype[Any]) -> Array:
    """``result`` as the caller asked for it: in ``out`` if that was given, and in ``dtype``."""
    if out is result:
        return result
    if out is None and result.dtype == dtype:
        return result
    with np.errstate(
        over="ignore", under="ignore"
    ):  # a float32 sum beyond float16 is infinite, as in any loop
        if out is None:
            return result.astype(dtype)
        out[...] = result
        return out
