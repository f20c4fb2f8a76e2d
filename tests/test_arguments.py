"""Wrong arguments: each raises ValueError or TypeError with a message that names it; nothing crashes."""

import contextlib
import itertools

import numpy as np
import pytest
from helpers import function
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import SEARCH

import fastconv

HUGE = 10**18


class Odd:
    """An object that is no array and no number."""


def zeros(*shape, dtype=np.float64):
    return np.zeros(shape, dtype)


X, W, B, DY = zeros(2, 4, 8, 8), zeros(6, 2, 3, 3), zeros(6), zeros(2, 6, 6, 6)  # groups = 2
T = zeros(4, 3, 3, 3)  # a transposed convolution's weight, groups = 2
TDY = zeros(2, 6, 10, 10)
POOLED, INDICES = zeros(2, 4, 4, 4), zeros(2, 4, 4, 4, dtype=np.int64)

# A call that works, as (function, arguments by name). Each case below replaces some of them.
GOOD = {
    "conv2d": {"input": X, "weight": W, "groups": 2},
    "conv2d_backward": {"grad_output": DY, "input": X, "weight": W, "groups": 2},
    "conv2d_backward_input": {"grad_output": DY, "weight": W, "input_size": X.shape, "groups": 2},
    "conv2d_backward_weight": {"grad_output": DY, "input": X, "weight_size": W.shape, "groups": 2},
    "conv_transpose2d": {"input": X, "weight": T, "groups": 2},
    "conv_transpose2d_backward": {"grad_output": TDY, "input": X, "weight": T, "groups": 2},
    "plan_conv2d": {"input_size": X.shape, "weight_size": W.shape, "groups": 2},
    "conv_matrix": {"weight": W, "input_size": X.shape, "groups": 2},
    "im2col": {"input": X, "kernel_size": 3},
    "col2im": {"columns": zeros(2, 36, 36), "output_size": (8, 8), "kernel_size": 3},
    "max_pool2d": {"input": X, "kernel_size": 2},
    "max_pool2d_backward": {"grad_output": POOLED, "indices": INDICES, "input_size": X.shape},
    "max_pool2d_backward_ties": {"grad_output": POOLED, "input": X, "kernel_size": 2},
    "max_unpool2d": {"input": POOLED, "indices": INDICES, "kernel_size": 2},
    "max_unpool2d_backward": {"grad_output": X, "indices": INDICES},
    "avg_pool2d": {"input": X, "kernel_size": 2},
    "avg_pool2d_backward": {"grad_output": POOLED, "input_size": X.shape, "kernel_size": 2},
    "adaptive_avg_pool2d": {"input": X, "output_size": 4},
    "adaptive_avg_pool2d_backward": {"grad_output": POOLED, "input_size": X.shape},
    "adaptive_max_pool2d": {"input": X, "output_size": 4},
    "adaptive_max_pool2d_backward": {"grad_output": POOLED, "indices": INDICES, "input_size": X.shape},
}
# What equals a good argument but is not one.
SAME_BUT_WRONG = [True, 1.0, np.True_, (1, True), (1.0, 1), ((1, 1), (1, 1.0))]
CONVS = [name for name in GOOD if name.startswith(("conv2d", "conv_transpose2d"))]
STEPPED = [*CONVS, "plan_conv2d", "conv_matrix"]
WINDOWED = [
    "im2col",
    "col2im",
    "max_pool2d",
    "max_pool2d_backward_ties",
    "max_unpool2d",
    "avg_pool2d",
    "avg_pool2d_backward",
]
LAID_OUT = [
    *CONVS,
    "plan_conv2d",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool2d_backward_ties",
    "avg_pool2d",
    "avg_pool2d_backward",
]
ARRAYS = ("input", "weight", "grad_output", "columns")


def with_argument(names, argument, cases):
    """The same wrong values of one argument for several functions."""
    return [
        pytest.param(name, {argument: value}, kind, argument, id=f"{name}-{argument}-{i}")
        for name in names
        for i, (value, kind) in enumerate(cases)
    ]


def float_cases():
    """Arrays that no function but max-pooling takes, for every array argument of every function."""
    wrong = [np.int64, np.bool_, np.complex64, np.complex128, np.longdouble, object, "U3"]
    table = []
    for name, arguments in GOOD.items():
        for argument in ARRAYS:
            if argument not in arguments:
                continue
            for dtype in wrong:
                whole_taken = name in CONVS  # beside floats
                integer_taken = whole_taken or name in ("max_pool2d", "adaptive_max_pool2d", "max_unpool2d")
                integer_taken = integer_taken or (name, argument) == ("max_pool2d_backward_ties", "input")
                if (dtype is np.int64 and integer_taken) or (dtype is np.bool_ and whole_taken):
                    continue
                value = np.zeros(arguments[argument].shape, dtype)
                table.append((name, {argument: value}, TypeError, argument))
            masked = np.ma.MaskedArray(arguments[argument])
            table.append((name, {argument: masked}, TypeError, argument))
            table.append((name, {argument: Odd()}, TypeError, argument))
            table.append((name, {argument: None}, TypeError, argument))
            table.append((name, {argument: "image"}, TypeError, argument))
            table.append((name, {argument: np.zeros(3)}, ValueError, argument))
            table.append((name, {argument: np.zeros((1,) * 7)}, ValueError, argument))
            table.append((name, {argument: np.float64(1)}, ValueError, argument))
    return [pytest.param(*case, id=f"{case[0]}-{case[3]}-array-{i}") for i, case in enumerate(table)]


COUNTS = [
    (0, ValueError),
    (-1, ValueError),
    (1.5, TypeError),
    (2.0, TypeError),
    (True, TypeError),
    (np.True_, TypeError),
    (float("nan"), TypeError),
    (float("inf"), TypeError),
    (None, TypeError),
    ("2", TypeError),
    (1j, TypeError),
    (Odd(), TypeError),
    ((1, 2, 3, 4), ValueError),
    ((1,), ValueError),
    ((), ValueError),
    ((1, 0), ValueError),
    ((1, 2.5), TypeError),
    ((1, True), TypeError),
    ((1, (2,)), TypeError),
    ([[1, 1], [1, 1]], TypeError),
    ({1, 2}, TypeError),
]
HUGE_COUNTS = [(HUGE, ValueError), (-HUGE, ValueError), (2**64, ValueError), ((1, HUGE), ValueError)]
GROUPS = [
    (0, ValueError),
    (-2, ValueError),
    (2.0, TypeError),
    (True, TypeError),
    (None, TypeError),
    ((2, 2), TypeError),
    ("2", TypeError),
    (HUGE, ValueError),
]
PADDINGS = [
    (-1, ValueError),
    (1.0, TypeError),
    (True, TypeError),
    (None, TypeError),
    ("samee", ValueError),
    ("reflect", ValueError),
    ("", ValueError),
    ((1, -1), ValueError),
    ((1, 2, 3), ValueError),
    (((1, 1),), ValueError),
    (((1, 1, 1), (1, 1, 1)), ValueError),
    (((1, -1), (0, 0)), ValueError),
    (((1, 0.5), (0, 0)), TypeError),
    ((1, (1, 1)), ValueError),
    (((1, 1), "same"), ValueError),
    ((1, 1, 1, -1), ValueError),
    ((1, 1, 1, 1.0), TypeError),
    ((1, 1, True, 1), TypeError),
    ((1, 1, 1, (1, 1)), ValueError),
    (((1, 1),) * 4, ValueError),
    ((1,) * 5, ValueError),
    ((1,) * 6, ValueError),
    (float("nan"), TypeError),
    (HUGE, ValueError),
    (2**63, ValueError),
    (((HUGE, HUGE), (HUGE, HUGE)), ValueError),
    (2**31 - 2, ValueError),
    (Odd(), TypeError),
]
LAYOUT_NAMES = [
    ("nchw", ValueError),
    ("NWC", ValueError),
    ("NCDHW", ValueError),
    ("CHWN", ValueError),
    ("", ValueError),
    (None, TypeError),
    (1, TypeError),
    (["NCHW"], TypeError),
]
ALGORITHMS = [("fft", ValueError), ("", ValueError), ("AUTO", ValueError), (None, TypeError), (3, TypeError)]
NEEDS = [
    (("inputs",), ValueError),
    (("input", "nothing"), ValueError),
    ((1,), (TypeError, ValueError)),
    (None, TypeError),
    (1, TypeError),
]
SIZES = [
    (8, TypeError),
    (None, TypeError),
    ("2488", TypeError),
    ((8, 8), ValueError),
    ((2, 4, 8, 8, 8), ValueError),
    ((2, 4, 8, 8.0), TypeError),
    ((2, 4, 8, True), TypeError),
    ((2, 4, 8, -8), ValueError),
    ((2, 4, 0, 8), ValueError),
    ((2, 4, HUGE, 8), ValueError),
    ((HUGE, HUGE, HUGE, HUGE), ValueError),
    ((2**31, 4, 2**31, 2**31), ValueError),
    ((2, 4, 8, None), TypeError),
]
BIASES = [
    (zeros(5), ValueError),
    (zeros(1), ValueError),
    (zeros(6, 1), ValueError),
    (zeros(1, 6, 1, 1), ValueError),
    (np.float64(0), ValueError),
    (zeros(6, dtype=np.complex128), TypeError),
    (np.ma.MaskedArray(zeros(6)), TypeError),
    ("bias", TypeError),
]
FLAGS = [(1, TypeError), (None, TypeError), ("yes", TypeError), (0.0, TypeError)]

# Wrong together rather than alone: (function, replaced arguments, exception, the argument blamed).
MISFITS = [
    ("conv2d", {"groups": 3}, ValueError, "input|weight|groups"),
    ("conv2d", {"groups": 1}, ValueError, "weight|input"),
    ("conv2d", {"groups": 4}, ValueError, "weight|input|groups"),
    ("conv2d", {"weight": zeros(5, 2, 3, 3)}, ValueError, "weight|groups"),
    ("conv2d", {"weight": zeros(6, 3, 3, 3)}, ValueError, "weight|input"),
    ("conv2d", {"weight": zeros(6, 2, 10, 3)}, ValueError, "input|weight"),
    ("conv2d", {"weight": zeros(6, 2, 0, 3)}, ValueError, "weight"),
    ("conv2d", {"input": zeros(2, 4, 0, 8)}, ValueError, "input"),
    ("conv2d", {"input": zeros(2, 0, 8, 8)}, ValueError, "input|weight"),
    ("conv2d", {"input": zeros(2, 4, 1, 8)}, ValueError, "input|weight"),
    ("conv2d", {"dilation": 5}, ValueError, "input|weight|dilation"),
    ("conv2d", {"dilation": 2**31 - 2}, ValueError, "input|weight|dilation"),
    ("conv2d", {"weight": zeros(6, 2, 3)}, ValueError, "weight"),
    ("conv2d", {"layout": "NHWC"}, ValueError, "input|weight"),
    ("conv2d_backward", {"grad_output": zeros(2, 6, 6, 7)}, ValueError, "grad_output"),
    ("conv2d_backward", {"grad_output": zeros(1, 6, 6, 6)}, ValueError, "grad_output"),
    ("conv2d_backward", {"grad_output": zeros(6, 6, 6)}, ValueError, "grad_output"),
    ("conv2d_backward", {"stride": 2}, ValueError, "grad_output"),
    ("conv2d_backward_input", {"grad_output": zeros(2, 6, 6, 7)}, ValueError, "grad_output"),
    ("conv2d_backward_input", {"input_size": (2, 4, 9, 8)}, ValueError, "grad_output"),
    ("conv2d_backward_input", {"input_size": (4, 8, 8)}, ValueError, "grad_output"),
    ("conv2d_backward_input", {"input_size": (3, 4, 8, 8)}, ValueError, "grad_output"),
    ("conv2d_backward_weight", {"weight_size": (6, 2, 4, 3)}, ValueError, "grad_output"),
    ("conv2d_backward_weight", {"weight_size": (6, 3, 3, 3)}, ValueError, "weight_size|input"),
    ("conv2d_backward_weight", {"grad_output": zeros(2, 8, 6, 6)}, ValueError, "grad_output"),
    ("conv_transpose2d", {"groups": 3}, ValueError, "input|weight|groups"),
    ("conv_transpose2d", {"weight": zeros(3, 3, 3, 3)}, ValueError, "weight"),
    ("conv_transpose2d", {"output_padding": 1}, ValueError, "output_padding"),
    ("conv_transpose2d", {"output_padding": -1}, ValueError, "output_padding"),
    ("conv_transpose2d", {"output_padding": True}, TypeError, "output_padding"),
    ("conv_transpose2d", {"output_padding": (0, 0, 0)}, ValueError, "output_padding"),
    ("conv_transpose2d", {"output_padding": 1, "stride": 2, "padding": "same"}, ValueError, "output_padding"),
    ("conv_transpose2d", {"padding": 6}, ValueError, "padding|input"),
    ("conv_transpose2d", {"stride": 2**31 - 2}, ValueError, "input|stride|the output"),
    ("conv_transpose2d_backward", {"grad_output": zeros(2, 6, 9, 10)}, ValueError, "grad_output"),
    ("plan_conv2d", {"dtype": "int64"}, TypeError, "dtype"),
    ("plan_conv2d", {"dtype": "nonsense"}, TypeError, "dtype"),
    ("plan_conv2d", {"dtype": None}, TypeError, "dtype"),
    ("plan_conv2d", {"dtype": np.complex64}, TypeError, "dtype"),
    ("plan_conv2d", {"padding": 2**31 - 2, "dtype": "float32"}, ValueError, "padding|the output"),
    ("plan_conv2d", {"input_size": (4, 8, 8)}, ValueError, "input_size"),
    ("conv_matrix", {"input_size": (4, 1, 8)}, ValueError, "input|input_size|weight"),
    ("im2col", {"kernel_size": 10}, ValueError, "input|kernel_size"),
    ("col2im", {"columns": zeros(2, 36, 35)}, ValueError, "columns"),
    ("col2im", {"columns": zeros(2, 35, 36)}, ValueError, "columns"),
    ("col2im", {"output_size": (1, 1)}, ValueError, "output_size|input|kernel_size"),
    ("col2im", {"output_size": (HUGE, HUGE)}, ValueError, "output_size|columns"),
    ("max_pool2d", {"kernel_size": 10, "stride": 1}, ValueError, "input|kernel_size"),
    ("max_pool2d", {"padding": 2}, ValueError, "padding"),
    ("max_pool2d_backward", {"indices": zeros(2, 4, 4, 3, dtype=int)}, ValueError, "indices|grad_output"),
    ("max_pool2d_backward", {"indices": zeros(2, 4, 4, 4)}, TypeError, "indices"),
    ("max_pool2d_backward", {"indices": INDICES + 64}, ValueError, "indices"),
    ("max_pool2d_backward", {"input_size": (2, 5, 8, 8)}, ValueError, "grad_output|input_size|indices"),
    ("max_pool2d_backward_ties", {"grad_output": zeros(2, 4, 4, 3)}, ValueError, "grad_output"),
    ("max_pool2d_backward_ties", {"input": zeros(2, 4, 8, 8, dtype=bool)}, TypeError, "input"),
    ("max_pool2d_backward_ties", {"padding": 2}, ValueError, "padding"),
    ("max_pool2d_backward", {"input_size": (4, 8, 8)}, ValueError, "grad_output|input_size|indices"),
    ("max_unpool2d", {"output_size": (2, 2, 2, 2, 2)}, ValueError, "output_size"),
    ("max_unpool2d", {"output_size": (8.0, 8)}, TypeError, "output_size"),
    ("max_unpool2d", {"output_size": (HUGE, HUGE)}, ValueError, "output_size|the output"),
    ("max_unpool2d", {"indices": zeros(2, 4, 4, 5, dtype=int)}, ValueError, "indices|input"),
    ("max_unpool2d_backward", {"indices": zeros(2, 5, 4, 4, dtype=int)}, ValueError, "indices|grad_output"),
    ("avg_pool2d", {"kernel_size": 10, "stride": 1}, ValueError, "input|kernel_size"),
    ("avg_pool2d", {"divisor_override": 0}, ValueError, "divisor_override"),
    ("avg_pool2d", {"divisor_override": True}, TypeError, "divisor_override"),
    ("avg_pool2d", {"divisor_override": "2"}, TypeError, "divisor_override"),
    ("avg_pool2d_backward", {"grad_output": zeros(2, 4, 4, 5)}, ValueError, "grad_output"),
    ("avg_pool2d_backward", {"input_size": (2, 4, 9, 10)}, ValueError, "grad_output"),
    ("adaptive_avg_pool2d", {"output_size": -1}, ValueError, "output_size"),
    ("adaptive_avg_pool2d", {"output_size": (2, 2, 2)}, ValueError, "output_size"),
    ("adaptive_avg_pool2d", {"output_size": 2.0}, TypeError, "output_size"),
    ("adaptive_avg_pool2d", {"output_size": HUGE}, ValueError, "output_size|the output"),
    ("adaptive_avg_pool2d", {"output_size": 2**31 - 2}, ValueError, "output_size|the output"),
    ("adaptive_avg_pool2d", {"input": zeros(2, 4, 0, 8)}, ValueError, "input"),
    ("adaptive_avg_pool2d_backward", {"input_size": (2, 5, 8, 8)}, ValueError, "grad_output|input_size"),
    ("adaptive_max_pool2d", {"output_size": -1}, ValueError, "output_size"),
    ("adaptive_max_pool2d", {"input": zeros(2, 4, 0, 8)}, ValueError, "input"),
    ("adaptive_max_pool2d_backward", {"indices": INDICES + 64}, ValueError, "indices"),
]
BACKWARDS = ["conv2d_backward", "conv_transpose2d_backward"]
TABLE = [
    *float_cases(),
    *with_argument(STEPPED, "stride", COUNTS + HUGE_COUNTS[1:]),
    *with_argument(STEPPED, "dilation", COUNTS + HUGE_COUNTS),
    *with_argument(STEPPED, "groups", GROUPS),
    *with_argument([*STEPPED, *WINDOWED[:4], "avg_pool2d", "avg_pool2d_backward"], "padding", PADDINGS),
    *with_argument(WINDOWED, "kernel_size", COUNTS + HUGE_COUNTS),
    *with_argument(WINDOWED, "stride", COUNTS[:8] + COUNTS[9:]),
    *with_argument(WINDOWED[:4], "dilation", COUNTS),
    *with_argument(LAID_OUT, "layout", LAYOUT_NAMES),
    *with_argument([*CONVS, "plan_conv2d"], "algorithm", ALGORITHMS),
    *with_argument(BACKWARDS, "needs", NEEDS),
    *with_argument(
        ["conv2d_backward_input", "avg_pool2d_backward", "max_pool2d_backward", "conv_matrix"],
        "input_size",
        SIZES,
    ),
    *with_argument(["conv2d_backward_weight", "plan_conv2d"], "weight_size", SIZES),
    *with_argument(["conv2d", "conv_transpose2d"], "bias", BIASES),
    *with_argument(["max_pool2d", "max_pool2d_backward_ties", "avg_pool2d"], "ceil_mode", FLAGS),
    *with_argument(["max_pool2d", "adaptive_max_pool2d"], "return_indices", FLAGS),
    *with_argument(["avg_pool2d", "avg_pool2d_backward"], "count_include_pad", FLAGS),
    *[pytest.param(*case, id=f"{case[0]}-misfit-{i}") for i, case in enumerate(MISFITS)],
]
# Beside the argument itself, an error of a size may blame what follows from it.
ALSO = {
    "padding": "|the output|input|output",
    "kernel_size": "|input|output_size|the output|padding",
    "dilation": "|input|weight",
    "input_size": "|grad_output|weight|input|the output|indices",
    "weight_size": "|grad_output|weight|the output|input",
    "groups": "|input|weight|input_size|weight_size",
    "stride": "|the output|input",
}


@pytest.mark.parametrize("name", GOOD)
def test_the_good_call_is_good(name):
    getattr(fastconv, name)(**GOOD[name])


@pytest.mark.parametrize(("name", "replaced", "kind", "blamed"), TABLE)
def test_wrong_argument(name, replaced, kind, blamed):
    blamed += ALSO.get(blamed, "")
    with pytest.raises(kind, match=rf"(?s)^({blamed})(\[\d\])*( \S+)? must be .+, got .+"):
        getattr(fastconv, name)(**{**GOOD[name], **replaced})


@pytest.mark.parametrize("name", [name for name in GOOD if "2d" in name])
def test_a_call_in_another_dimension(name):
    """1-D functions refuse 2-D arrays; 3-D ones too, but for poolings, which see an unbatched volume."""
    for ndim in (1, 3) if "conv" in name else (1,):
        with pytest.raises((ValueError, TypeError), match=r"^\w+ must be .+, got "):
            function(name.replace("2d", "{}"), ndim)(**GOOD[name])


@pytest.mark.parametrize(
    ("n", "kind"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)]
)
def test_wrong_number_of_threads(n, kind):
    before = fastconv.get_num_threads()
    for call in (fastconv.set_num_threads, lambda n: fastconv.num_threads(n).__enter__()):
        with pytest.raises(kind, match=r"^n\w* must be .+, got .+"):
            call(n)
    assert fastconv.get_num_threads() == before


SMALL = zeros(1, 1, 4)
TOO_LARGE = {
    "avg_pool backward": lambda n: fastconv.avg_pool1d_backward(SMALL, (1, 1, n), 2),
    "avg_pool backward, channels": lambda n: fastconv.avg_pool1d_backward(SMALL, (1, n, 8), 2),
    "adaptive_avg_pool backward": lambda n: fastconv.adaptive_avg_pool1d_backward(SMALL, (1, n, 8)),
    "max_pool backward": lambda n: fastconv.max_pool1d_backward(SMALL, SMALL.astype(int), (n, 1, 8)),
    "max_unpool": lambda n: fastconv.max_unpool1d(SMALL, SMALL.astype(int), 2, output_size=(n,)),
    "conv backward input": lambda n: fastconv.conv1d_backward_input(SMALL, zeros(1, 1, 3), (1, 1, n)),
    "conv backward weight": lambda n: fastconv.conv1d_backward_weight(SMALL, zeros(1, 1, 6), (1, n, 3)),
    "col2im": lambda n: fastconv.col2im(SMALL, (n,), (1,)),
}


@pytest.mark.parametrize("extent", [10**12, 10**15, 10**18])
@pytest.mark.parametrize("call", list(TOO_LARGE.values()), ids=list(TOO_LARGE))
def test_sizes_that_do_not_fit_each_other_allocate_nothing(call, extent):
    """A size that no memory holds is first compared with the arrays that are there."""
    with pytest.raises(ValueError, match=r"^\w+ must be .+, got "):
        call(extent)


def test_an_empty_batch_of_endless_images():
    """Of no bytes, but NumPy multiplies the other extents."""
    none, step = zeros(0, 4, 5, 5), 2**31 - 1
    with pytest.raises(ValueError, match=r"^input_size must be of at most"):
        fastconv.conv2d_backward_input(none, zeros(4, 4, 1, 1), (0, 4, 5 * step, 5 * step), step)
    with pytest.raises(ValueError, match=r"^output_size must be of at most"):
        fastconv.max_unpool2d(none, none.astype(int), step)


@pytest.mark.parametrize("argument", ["stride", "algorithm", "layout", "padding"])
def test_a_number_too_long_to_print(argument):
    with pytest.raises((ValueError, TypeError), match=rf"^{argument} must be"):
        fastconv.conv2d(X, W, groups=2, **{argument: 10**5000})


def test_names_without_end():
    with pytest.raises(ValueError, match=r"^needs must be"):
        fastconv.conv2d_backward(DY, X, W, groups=2, needs=itertools.repeat("nothing"))


def test_an_algorithm_that_serves_no_pass_of_a_plan():
    """The plan can still be looked at; its passes say why."""
    plan = fastconv.plan_conv2d(X.shape, W.shape, groups=2, stride=2, dtype="float64", algorithm="winograd")
    assert (plan.algorithms, plan.scratch_bytes) == ({}, 0)
    assert plan.describe()
    with pytest.raises(ValueError, match=r"^algorithm must be able to"):
        plan(X, W)


def test_whole_numbers_of_any_kind_are_taken():
    expected = fastconv.conv2d(X, W, None, 2, 1, 1, 2)
    for kind in (np.int8, np.int64, np.uint64, np.array):
        got = fastconv.conv2d(X, W, None, kind(2), kind(1), kind(1), kind(2))
        np.testing.assert_array_equal(got, expected)
    got = fastconv.conv2d(X, W, None, [2, 2], np.array([1, 1]), np.array([1, 1]), 2)
    np.testing.assert_array_equal(got, expected)


# --- anything at all -------------------------------------------------------------------------------------

small_arrays = st.builds(
    lambda shape, dtype: np.ones(shape, dtype),
    st.lists(st.integers(0, 4), max_size=6),
    st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.bool_, np.complex64, object, "S2"]),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.integers(max_value=-4),
    st.integers(min_value=2**62),  # what lies between is valid and merely large
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["same", "valid", "full", "NCHW", "NHWC", "NWC", "auto", "im2col", "input", "weight"]),
    st.just(Odd()),
    st.binary(max_size=3),
)
anything = st.one_of(
    scalars, st.lists(scalars, max_size=5), st.lists(st.integers(0, 9), max_size=5).map(tuple), small_arrays
)
FUZZED = sorted(
    name
    for name in fastconv.__all__
    if name.startswith(("conv", "max", "avg", "adaptive", "im2col", "col2im", "plan"))
)


@pytest.mark.parametrize("name", GOOD)
@given(data=st.data())
@settings(max_examples=40 * SEARCH, suppress_health_check=list(HealthCheck))
def test_one_argument_of_anything(name, data):
    """A good call with one argument replaced works or raises what it should."""
    argument = data.draw(st.sampled_from(sorted({*GOOD[name], *EXTRA.get(name, ("stride", "padding"))})))
    value = data.draw(anything)
    call(getattr(fastconv, name), **{**GOOD[name], argument: value})


EXTRA = {
    **{
        name: ("stride", "padding", "dilation", "groups", "layout", "algorithm", "bias", "out")[
            : 8 if name in ("conv2d", "conv_transpose2d") else 6
        ]
        for name in CONVS
    },
    "plan_conv2d": ("stride", "padding", "dilation", "groups", "layout", "algorithm", "dtype"),
    "max_pool2d": ("stride", "padding", "dilation", "ceil_mode", "return_indices", "layout", "out"),
    "avg_pool2d": ("stride", "padding", "ceil_mode", "count_include_pad", "divisor_override", "layout"),
    "max_unpool2d": ("stride", "padding", "output_size"),
    "max_pool2d_backward": ("layout",),
    "max_pool2d_backward_ties": ("stride", "padding", "dilation", "ceil_mode", "layout"),
    "max_unpool2d_backward": ("indices",),
    "adaptive_avg_pool2d": ("output_size",),
    "adaptive_avg_pool2d_backward": ("input_size",),
    "adaptive_max_pool2d": ("return_indices",),
    "adaptive_max_pool2d_backward": ("input_size",),
}


def call(f, *arguments, **named):
    """Only ValueError and TypeError may come."""
    with contextlib.suppress(ValueError, TypeError):
        f(*arguments, **named)


@pytest.mark.parametrize("name", FUZZED)
@given(arguments=st.lists(anything, min_size=1, max_size=7))
@settings(max_examples=15 * SEARCH, suppress_health_check=list(HealthCheck))
def test_arguments_of_anything(name, arguments):
    call(getattr(fastconv, name), *arguments)


@pytest.mark.parametrize("argument", ["stride", "padding", "dilation", "groups"])
@pytest.mark.parametrize("value", SAME_BUT_WRONG, ids=repr)
def test_what_equals_a_cached_argument_is_still_wrong(argument, value):
    """1, 1.0 and True are one key to a dictionary."""
    x, w = zeros(1, 1, 4, 4), zeros(1, 1, 2, 2)
    good = {"groups": (1,), "padding": (1, (1, 1), ((1, 1), (1, 1)))}.get(argument, (1, (1, 1)))
    for taken in good:
        fastconv.conv2d(x, w, **{argument: taken})
    with pytest.raises((TypeError, ValueError), match=f"^{argument} must be "):
        fastconv.conv2d(x, w, **{argument: value})
