"""Every public function with arguments of any kind, several of them wrong at once.

Each call starts as a valid one (`calls.py`), of which any number of arguments is replaced (`anything.py`). It
must raise a ValueError or TypeError that names an argument, or return what the plain loops say; MemoryError
only where what it was asked for is large. Whatever it does: no warning, no write to an input or outside
``out``, no large allocation before an error (memory is limited here), no crash, no hang.
"""

import contextlib
import faulthandler
import inspect
import math
import os
import re
import warnings
from functools import partial

import numpy as np
import pytest
from anything import anything, outputs, with_some_replaced
from calls import CALLS, EXPECTED, PLANS, Reading
from helpers import function
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import SEARCH

import fastconv

# The most address space that a call may ask for, and results above which MemoryError is an answer.
ROOM = 2**30
LARGE = 2**25
# Pairs of an output cell and a tap, above which the plain loops are left out.
LONG = 2**13
# Seconds for one call; the first compiles.
DEADLINE = 120

ARRAYS = ("input", "weight", "bias", "grad_output", "columns", "indices")
# What plans take by keyword, as their wrappers hand it on.
STEPS = {True: ("stride", "padding", "dilation", "groups", "dtype", "layout", "algorithm"), False: ()}
# What an error may speak of that is no argument but follows from several.
FOLLOWING = ("the output", "the columns", "the matrix")
PYTHON_S_OWN = re.compile(r"got an unexpected keyword argument|missing \d+ required|takes .* positional")


@pytest.fixture(autouse=True)
def limits(capfd):
    """A limit of memory for the process, and one of time for each call."""
    with capfd.disabled():
        stderr = os.dup(2)
    with limited_memory():
        yield stderr
    os.close(stderr)


@contextlib.contextmanager
def limited_memory(room=ROOM):
    """Let the process have so much more address space than it has now (on Linux)."""
    try:
        import resource

        with open("/proc/self/statm") as counts:
            now = int(counts.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def deadline(stderr):
    """End the process, with a traceback, where a call hangs."""
    faulthandler.dump_traceback_later(DEADLINE, exit=True, file=stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def root(array):
    """The array whose memory a view looks at."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def contents(arguments):
    """Copies of all memory that the arguments look at."""
    values = [value for value in arguments.values() if isinstance(value, np.ndarray)]
    return [(root(value), root(value).tobytes()) for value in values]


def assert_untouched(before, arguments):
    for array, bytes_before in before:
        assert array.tobytes() == bytes_before, "an input was written to"


def assert_message(error, named):
    """It begins with the name of an argument."""
    text = str(error)
    if isinstance(error, TypeError) and PYTHON_S_OWN.search(text):
        return
    assert re.match(
        rf"(?s)({'|'.join(map(re.escape, (*named, *FOLLOWING)))})(\[.*?\])* must be .+, got .+", text
    ), text


def checked(run, arguments, named, expected, stderr, valid=False):
    """Call, and compare what comes with what may come; only a result may, of a valid call."""
    before = contents(arguments)
    out = arguments.get("out")
    # The arguments as they are before the call, which may share memory with `out`.
    kept = {name: frozen(value) if out is not None else value for name, value in arguments.items()}
    result = None
    with warnings.catch_warnings(record=True) as caught, deadline(stderr):
        warnings.simplefilter("always")
        try:
            result = run(**arguments)
        except (ValueError, TypeError) as error:
            assert_message(error, named)
        except MemoryError:
            assert large(expected(kept)), "out of memory"
    assert not caught, [str(warning.message) for warning in caught]
    if result is None:
        assert not valid
        assert_untouched(before, arguments)
        return
    results = list(result) if isinstance(result, tuple) else [result]
    if out is not None:
        assert results[0] is out
        results[0] = out.copy()
        out[...] = kept["out"]  # whatever else has changed in its memory shows now
    assert_untouched(before, arguments)
    for array in results:
        for name in ARRAYS:
            if isinstance(arguments.get(name), np.ndarray) and isinstance(array, np.ndarray):
                assert not np.may_share_memory(array, arguments[name]), f"the result is a view of {name}"
    assert_right(results, expected(kept))


def frozen(value):
    return value.copy() if isinstance(value, np.ndarray) else value


def large(expected):
    return any(shape is not None and math.prod(shape) * 8 > LARGE for shape in expected.shapes)


def assert_right(results, expected):
    """Shapes, dtypes and, unless the loops would take long, values."""
    assert len(results) == len(expected.shapes)
    values = expected.values() if expected.work <= LONG else [None] * len(results)
    for got, shape, dtype, value in zip(results, expected.shapes, expected.dtypes, values, strict=True):
        if shape is None:
            assert got is None
            continue
        assert got.shape == tuple(shape)
        assert got.dtype == dtype
        if value is not None:
            got = got.toarray() if hasattr(got, "toarray") else got
            tolerance = {"e": 2e-3, "f": 1e-5, "d": 1e-12}.get(dtype.char, 0)
            np.testing.assert_allclose(got, value.astype(dtype), rtol=tolerance, atol=tolerance * 10)


def runner(name, ndim):
    """The function that a call is made with, and the names of its arguments."""
    call = partial(PLANS[name], ndim) if name in PLANS else function(name, ndim)
    return call, [
        *[name for name in inspect.signature(call).parameters if name != "steps"],
        *STEPS[name in PLANS],
    ]


@pytest.mark.parametrize("name", CALLS)
def test_arguments_of_any_kind(name, limits):
    @given(st.data())
    @settings(max_examples=60 * SEARCH, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
    def every(data):
        ndim, arguments = data.draw(CALLS[name])
        run, named = runner(name, ndim)

        def expected(arguments):
            return EXPECTED[name](Reading(ndim, arguments))

        if "out" in named and data.draw(st.booleans()):
            good = expected(arguments)
            arguments = data.draw(outputs(arguments, good.shapes[0], good.dtypes[0]))
        others = [other for other in named if other not in arguments]
        drawn = data.draw(with_some_replaced(arguments, others))
        kept = drawn.keys() == arguments.keys() and all(drawn[n] is arguments[n] for n in drawn)
        checked(run, drawn, named, expected, limits, kept and "out" not in drawn)

    every()
