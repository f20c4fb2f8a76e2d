"""Every public function with arguments of any kind, several of them wrong at once.

Each call starts as a valid one (`calls.py`), of which any number of arguments is replaced (`anything.py`). It
must raise a ValueError or TypeError that names an argument, or return what the plain loops say; MemoryError
only where what it was asked for is large. Whatever it does: no warning, no write to an input or outside
``out``, no large allocation before an error (memory is limited here), no crash, no hang.
"""

import inspect
import math
from functools import partial

import numpy as np
import pytest
from anything import outputs, with_some_replaced
from attempts import assert_untouched, contents
from calls import CALLS, EXPECTED, PLANS, Reading
from helpers import function
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import SEARCH

import fastconv

# Bytes of a result above which MemoryError is an answer.
LARGE = 2**25
# Pairs of an output cell and a tap, above which the plain loops are left out.
LONG = 2**13
# What plans take by keyword, as their wrappers hand it on.
STEPS = ("stride", "padding", "dilation", "groups", "dtype", "layout", "algorithm")


def test_every_function_is_called():
    functions = {name for name in fastconv.__all__ if inspect.isfunction(getattr(fastconv, name))}
    called = {name.split(",")[0].format(f"{n}d") for name in CALLS for n in (1, 2, 3)}
    threads = {"get_num_threads", "num_threads", "set_num_threads"}
    # `explain` takes sizes, a plan or arrays, and has its wrong ones in test_explain.py.
    assert functions - called == {*threads, "explain", "load_tuning", "save_tuning", "show_config"}


def checked(attempts, run, arguments, named, expected, valid):
    """Call, and compare what comes with what may come; only a result may, of a valid call."""
    before, out = contents(arguments), arguments.get("out")
    # The arguments as they are before the call, which may share memory with `out`.
    kept = dict(arguments)
    if out is not None:
        kept = {n: v.copy() if isinstance(v, np.ndarray) else v for n, v in arguments.items()}
    result = attempts(run, arguments, named, lambda: is_large(expected(kept)))
    if result is None:
        assert not valid
        assert_untouched(before)
        return
    results = list(result) if isinstance(result, tuple) else [result]
    if out is not None:
        assert results[0] is out
        results[0] = out.copy()
        out[...] = kept["out"]  # whatever else has changed in its memory shows now
        assert_untouched(before)
    arrays = [array for array in arguments.values() if isinstance(array, np.ndarray)]
    for found in results:
        assert not any(isinstance(found, np.ndarray) and np.may_share_memory(found, a) for a in arrays)
    assert_right(results, expected(kept))


def is_large(expected):
    """Whether a call is for more than memory holds, and not rather wrong."""
    return expected.fits and any(
        shape is not None and math.prod(shape) * 8 > LARGE for shape in expected.shapes
    )


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
    named = [parameter for parameter in inspect.signature(call).parameters if parameter != "steps"]
    return call, [*named, *(STEPS if name in PLANS else ())]


@pytest.mark.parametrize("name", CALLS)
def test_arguments_of_any_kind(name, attempts):
    @given(st.data())
    @settings(max_examples=100 * SEARCH, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
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
        as_it_was = drawn.keys() == arguments.keys() and all(drawn[n] is arguments[n] for n in drawn)
        checked(attempts, run, drawn, named, expected, as_it_was and "out" not in drawn)

    every()
