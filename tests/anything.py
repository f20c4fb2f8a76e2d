"""Values of every kind for arguments: numbers, names, sequences, arrays, and what equals a good value."""

import datetime
import decimal
import fractions
import math

import numpy as np
from calls import LAYOUT_NAMES
from helpers import DISGUISES
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided


class Odd:
    """An object that is no array and no number."""


class Liar:
    """An object that claims to be a number, a sequence and an array, and fails at all of them."""

    def __index__(self):
        raise RuntimeError("no index")

    def __len__(self):
        raise RuntimeError("no length")

    def __array__(self, *arguments, **named):
        raise RuntimeError("no array")

    def __iter__(self):
        raise RuntimeError("no items")

    def __repr__(self):
        raise RuntimeError("no repr")


# Where 32 and 64 bits end, and products of two or three of them; what lies below is valid and merely large.
HUGE = [2**31 - 1, 2**31, 2**32, 2**33 + 1, 10**18, 2**62, 2**63 - 1, 2**63, 2**64, 10**4000]
NAMES = [
    "same",
    "valid",
    "full",
    *LAYOUT_NAMES,
    "auto",
    "im2col",
    "winograd",
    "fft",
    "input",
    "weight",
    "f4",
    "",
]
NUMPY_SCALARS = [np.int8, np.uint8, np.int32, np.uint64, np.int64, np.float16, np.float64, np.bool_, np.str_]

THINGS = [
    ..., NotImplemented, int, float, np.float32, object, np.dtype("f4"), np.dtype(">f4"), slice(3), len,
    frozenset({1}), datetime.date(2000, 1, 1), decimal.Decimal(2), fractions.Fraction(2), range(3),
]  # fmt: skip


@st.composite
def evenly(draw, *strategies):
    """One of the strategies, each as often; `st.one_of` would draw from all branches inside them alike."""
    return draw(strategies[draw(st.integers(0, len(strategies) - 1))])


numbers = evenly(
    st.integers(-3, 9),
    st.sampled_from([*HUGE, *(-n for n in HUGE)]),
    st.builds(lambda kind, n: kind(n), st.sampled_from(NUMPY_SCALARS), st.integers(0, 5)),
    st.builds(lambda n: np.array(n), st.integers(-2, 5)),
)
oddities = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from(NAMES),
    st.sampled_from(THINGS),
    st.builds(Odd),
    st.builds(Liar),
    st.builds(lambda n: iter(range(n)), st.integers(0, 4)),
    st.builds(lambda: {1: 2}),
)
scalars = evenly(numbers, numbers, oddities)
sequences = evenly(
    st.lists(numbers, max_size=6).map(tuple),
    st.lists(st.integers(0, 4), min_size=1, max_size=5).map(np.array),
    st.lists(evenly(scalars, scalars, st.lists(scalars, max_size=3)), max_size=5),
    st.lists(st.tuples(numbers, numbers), max_size=4).map(tuple),
)

DTYPES = [
    "f4", "f8", "f2", ">f4", ">f8", "i1", "u1", "i8", "u8", ">i8", "?", "c8", "c16", "g", "O", "U3", "S2",
    "M8[s]", "m8[s]", [("a", "f4"), ("b", "i4")], "V3",
]  # fmt: skip


def filled(shape, dtype, step=1):
    """Small whole numbers in any dtype that has them, zeros in another."""
    values = np.asarray(np.arange(math.prod(shape)).reshape(shape) * step % 5)
    values -= 0 if np.dtype(dtype).kind == "u" else 2
    try:
        return values.astype(dtype)
    except (TypeError, ValueError):
        return np.zeros(shape, dtype)


def broadcast(array):
    """The first cell of every line, again and again: a stride of zero."""
    own = array.copy("C")
    return as_strided(own, own.shape, (*own.strides[:-1], 0)) if array.ndim else array


def masked(array):
    return np.ma.MaskedArray(array)


def matrix(array):
    return array.view(np.matrix) if array.ndim == 2 else array


def recarray(array):
    return array.view(np.recarray)


def listed(array):
    return array.tolist()


class Subclass(np.ndarray):
    """A subclass that says so wherever it travels to."""


def subclass(array):
    return array.view(Subclass)


def dressed(memory, array):
    """The array in other memory, or as it is where its dtype can't be seen so."""
    try:
        return memory(array)
    except (TypeError, ValueError):
        return array


MEMORIES = [*DISGUISES.values(), broadcast, masked, matrix, recarray, listed, subclass]
shapes = st.lists(st.integers(0, 4), max_size=7).filter(lambda shape: math.prod(shape) <= 2**10).map(tuple)
arrays = st.builds(
    lambda shape, dtype, memory: dressed(memory, filled(shape, dtype)),
    shapes,
    st.sampled_from(DTYPES),
    st.sampled_from(MEMORIES),
)
anything = evenly(scalars, sequences, arrays)


# --- what is near a good value ----------------------------------------------------------------------------

RESHAPED = [
    lambda a: a[..., :0],
    lambda a: a[..., :1],
    lambda a: a[:0],
    lambda a: a[1:],
    lambda a: a[..., np.newaxis],
    lambda a: a[np.newaxis],
    lambda a: a[0],
    lambda a: np.swapaxes(a, 0, -1),
    lambda a: np.repeat(a, 2, axis=0),
    lambda a: np.repeat(a, 2, axis=-1),
]


@st.composite
def altered_arrays(draw, array):
    """The array with another shape, dtype or memory."""
    what = draw(st.sampled_from(["shape", "dtype", "memory", "memory", "values"]))
    if what == "shape" and array.ndim and array.shape[0]:
        array = draw(st.sampled_from(RESHAPED))(array)
    if what == "dtype":
        array = filled(array.shape, draw(st.sampled_from(DTYPES)), 7)
    if what == "values" and array.dtype.kind in "iuf":
        array = array + array.dtype.type(draw(st.integers(-9, 9)))
    if what != "memory" and draw(st.booleans()):
        return array
    return dressed(draw(st.sampled_from(MEMORIES)), array)


NUMBERS_OF_ANY_KIND = [
    np.int8,
    np.int64,
    np.uint8,
    np.uint64,
    np.array,
    float,
    np.float64,
    str,
    lambda n: [n],
    bool,
]


@st.composite
def altered_numbers(draw, number):
    """The same number, or nearly, as another type."""
    return draw(st.sampled_from(NUMBERS_OF_ANY_KIND))(number + draw(st.sampled_from([0, 0, 1, -1])) & 127)


@st.composite
def altered_sequences(draw, values):
    """The sequence longer, shorter, of another type, or with one other item."""
    values = list(values)
    if values and draw(st.booleans()):
        at = draw(st.integers(0, len(values) - 1))
        values[at] = draw(evenly(scalars, altered(values[at]), st.sampled_from(HUGE)))
    if draw(st.integers(0, 3)) == 0:
        values = draw(st.sampled_from([values[1:], [*values, 1], [values], values * 2, []]))
    kinds = [list, tuple, tuple, tuple, iter, set_or_tuple]
    if all(type(value) is int and abs(value) < 2**63 for value in values):
        kinds += [
            np.array,
            lambda v: np.array(v, np.uint8) if v and 0 <= min(v) <= max(v) < 256 else tuple(v),
        ]
    return draw(st.sampled_from(kinds))(values)


def set_or_tuple(values):
    try:
        return set(values)
    except Exception:
        return tuple(values)


def altered(value):
    """What is near a good value; anything where nothing is."""
    if isinstance(value, np.ndarray):
        return altered_arrays(value)
    if type(value) is int:
        return altered_numbers(value)
    if isinstance(value, (tuple, list)):
        return altered_sequences(value)
    return anything


@st.composite
def with_some_replaced(draw, arguments, others=()):
    """The arguments as they are, or with one or a few replaced by anything, or by something near.

    ``others`` are those that the call could also have.
    """
    operands = [name for name in arguments if isinstance(arguments[name], np.ndarray)]
    names = [*operands, *sorted({*arguments, *others} - {*operands})]
    count = draw(st.sampled_from([0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 5]))
    arguments = dict(arguments)
    chosen = evenly(st.sampled_from(operands or names), st.sampled_from(names), st.sampled_from(names))
    for name in sorted({draw(chosen) for _ in range(count)}):
        near = altered(arguments[name]) if name in arguments else anything
        arguments[name] = draw(evenly(near, near, near, anything))
    return arguments


# --- where results are put --------------------------------------------------------------------------------


OUTPUTS = ["new", "dressed", "zero strides", "overlapping", "overlapping", "input", "altered"]


@st.composite
def outputs(draw, arguments, shape, dtype):
    """An ``out`` of this shape for a call, and the call's arguments, which may share memory with it."""
    good = np.zeros(shape, dtype)
    kind = draw(st.sampled_from(OUTPUTS))
    if kind == "zero strides":
        good = broadcast(good)
    if kind == "dressed":
        good = draw(st.sampled_from([*DISGUISES.values(), matrix, subclass, masked]))(good)
    if kind == "altered":
        good = draw(altered_arrays(good))
    operands = [name for name in arguments if isinstance(arguments[name], np.ndarray)]
    if kind == "input" and operands:
        good = arguments[draw(st.sampled_from(operands))]
    if kind == "overlapping" and operands:
        name = draw(st.sampled_from(operands))
        shared, good = overlapping(arguments[name], good, draw(st.integers(1, 8)) / 9)
        arguments = arguments | {name: shared}
    return arguments | {"out": good}


def overlapping(array, out, where):
    """Both arrays in one piece of memory, of which they share a part."""
    if array.dtype.hasobject or not array.dtype.isnative:
        return array, out
    room = max(1, array.itemsize, out.itemsize)
    length = -(-out.nbytes // room) * room
    memory = np.zeros(2 * length + array.nbytes + room, np.uint8)
    shared = memory[length : length + array.nbytes].view(array.dtype).reshape(array.shape)
    shared[...] = array
    first = int(where * (length + array.nbytes)) // room * room
    return shared, memory[first : first + out.nbytes].view(out.dtype).reshape(out.shape)
