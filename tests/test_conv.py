"""Convolution: all three passes against plain loops, exactly, on whole-number data."""

import itertools
import sys

import numpy as np
import pytest
from helpers import (
    DISGUISES,
    FIRST,
    LAST,
    LAYOUTS,
    assert_equal,
    assert_fresh,
    from_layout,
    function,
    integers,
    layout_shape,
    to_layout,
)
from hypothesis import given
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from oracles import (
    central_difference,
    ref_bias_gradient,
    ref_conv,
    ref_conv_backward_input,
    ref_conv_backward_weight,
)
from scipy import signal
from strategies import conv_problems, examples

import fastconv
from fastconv.kernels.bias import sum_channels

PASSES = ("forward", "backward_input", "backward_weight")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def adjoint(a, b):
    """The inner product in float64."""
    return float(np.sum(a.astype(np.float64) * b.astype(np.float64)))


# --- against the oracles ---------------------------------------------------------------------------------


@given(conv_problems())
@examples(60)
def test_forward_equals_the_loops(p):
    x, w = (p.dressed(to_layout(a, p.layout)) for a in (p.x, p.w))
    bias = None if p.bias is None else p.dressed(p.bias)
    kept = x.copy(), w.copy()
    y = function("conv{}", p.ndim)(x, w, bias, **p.arguments)
    expected = ref_conv(p.x, p.w, *p.resolved)
    if bias is not None:
        expected += p.bias.astype(np.float64).reshape(-1, *[1] * p.ndim)
    assert y.dtype == p.x.dtype
    assert_fresh(y)
    assert_equal(from_layout(y, p.layout), expected)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(w, kept[1])


@given(conv_problems())
@examples(60)
def test_backward_input_equals_the_loops(p):
    dy, w = (p.dressed(to_layout(a, p.layout)) for a in (p.dy, p.w))
    size = layout_shape(p.x.shape, p.layout)
    dx = function("conv{}_backward_input", p.ndim)(dy, w, size, **p.arguments)
    assert dx.dtype == p.x.dtype
    assert_fresh(dx)
    expected = ref_conv_backward_input(p.dy, p.w, p.x.shape[2:], *p.resolved)
    assert_equal(from_layout(dx, p.layout), expected)


@given(conv_problems())
@examples(60)
def test_backward_weight_equals_the_loops(p):
    dy, x = (p.dressed(to_layout(a, p.layout)) for a in (p.dy, p.x))
    size = layout_shape(p.w.shape, p.layout)
    dw = function("conv{}_backward_weight", p.ndim)(dy, x, size, **p.arguments)
    assert dw.dtype == p.x.dtype
    assert_fresh(dw)
    expected = ref_conv_backward_weight(p.dy, p.x, p.w.shape[2:], *p.resolved)
    assert_equal(from_layout(dw, p.layout), expected)


@given(conv_problems())
@examples(20)
def test_backward_is_the_three_gradients(p):
    dy, x, w = (to_layout(a, p.layout) for a in (p.dy, p.x, p.w))
    grads = function("conv{}_backward", p.ndim)(dy, x, w, **p.arguments)
    assert_equal(
        from_layout(grads.input, p.layout), ref_conv_backward_input(p.dy, p.w, p.x.shape[2:], *p.resolved)
    )
    assert_equal(
        from_layout(grads.weight, p.layout), ref_conv_backward_weight(p.dy, p.x, p.w.shape[2:], *p.resolved)
    )
    assert_equal(grads.bias, ref_bias_gradient(p.dy))


@given(conv_problems())
@examples(20)
def test_the_passes_are_adjoint(p):
    x, w, dy = (to_layout(a.astype(np.float64), p.layout) for a in (p.x, p.w, p.dy))
    y = function("conv{}", p.ndim)(x, w, **p.arguments)
    dx = function("conv{}_backward_input", p.ndim)(dy, w, x.shape, **p.arguments)
    dw = function("conv{}_backward_weight", p.ndim)(dy, x, w.shape, **p.arguments)
    assert adjoint(y, dy) == adjoint(x, dx) == adjoint(w, dw)


@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
def test_gradients_are_derivatives(ndim, layout, rng):
    x = rng.standard_normal(layout_shape((2, 4, *(5, 4, 3)[:ndim]), layout))
    w = rng.standard_normal(layout_shape((2, 2, *(3, 2, 2)[:ndim]), layout))
    b = rng.standard_normal(2)
    arguments = {"stride": 2, "padding": 1, "dilation": 1, "groups": 2, "layout": layout}
    conv = function("conv{}", ndim)
    dy = rng.standard_normal(conv(x, w, b, **arguments).shape)
    grads = function("conv{}_backward", ndim)(dy, x, w, **arguments)

    def loss(x, w, b):
        return float(np.sum(conv(x, w, b, **arguments) * dy))

    close = {"rtol": 1e-6, "atol": 1e-7}
    np.testing.assert_allclose(grads.input, central_difference(lambda v: loss(v, w, b), x), **close)
    np.testing.assert_allclose(grads.weight, central_difference(lambda v: loss(x, v, b), w), **close)
    np.testing.assert_allclose(grads.bias, central_difference(lambda v: loss(x, w, v), b), **close)


def test_a_case_by_hand():
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    w = np.array([[[[1.0, 0.0], [0.0, -2.0]]]])
    expected = x[:, :, :3, :3] - 2 * x[:, :, 1:, 1:]
    np.testing.assert_array_equal(fastconv.conv2d(x, w), expected)


# --- what may be asked of the backward -------------------------------------------------------------------


@pytest.mark.parametrize(
    "needs", [s for n in range(4) for s in itertools.combinations(("input", "weight", "bias"), n)]
)
def test_backward_makes_only_what_is_needed(needs, rng):
    x, w, dy = integers(rng, (2, 3, 5, 5)), integers(rng, (4, 3, 3, 3)), integers(rng, (2, 4, 3, 3))
    everything = fastconv.conv2d_backward(dy, x, w)
    grads = fastconv.conv2d_backward(dy, x, w, needs=needs)
    assert grads._fields == ("input", "weight", "bias")
    for name in grads._fields:
        got = getattr(grads, name)
        if name in needs:
            np.testing.assert_array_equal(got, getattr(everything, name))
        else:
            assert got is None


@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
def test_unbatched(ndim, layout, rng):
    x = to_layout(integers(rng, (1, 3, *(6, 5, 4)[:ndim])), layout)
    w = to_layout(integers(rng, (4, 3, *(3, 2, 2)[:ndim])), layout)
    arguments = {"padding": 1, "layout": layout}
    y = function("conv{}", ndim)(x, w, **arguments)
    np.testing.assert_array_equal(function("conv{}", ndim)(x[0], w, **arguments), y[0])
    dy = integers(rng, y.shape)
    grads = function("conv{}_backward", ndim)(dy, x, w, **arguments)
    single = function("conv{}_backward", ndim)(dy[0], x[0], w, **arguments)
    np.testing.assert_array_equal(single.input, grads.input[0])
    np.testing.assert_array_equal(single.weight, grads.weight)
    np.testing.assert_array_equal(single.bias, grads.bias)
    dx = function("conv{}_backward_input", ndim)(dy[0], w, x[0].shape, **arguments)
    np.testing.assert_array_equal(dx, grads.input[0])


@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
def test_zero_length_batch(ndim, layout):
    x = np.zeros(layout_shape((0, 2, *(4,) * ndim), layout), np.float32)
    w = np.ones(layout_shape((3, 2, *(2,) * ndim), layout), np.float32)
    y = function("conv{}", ndim)(x, w, np.ones(3, np.float32), layout=layout)
    assert y.shape == layout_shape((0, 3, *(3,) * ndim), layout)
    grads = function("conv{}_backward", ndim)(y, x, w, layout=layout)
    assert grads.input.shape == x.shape
    np.testing.assert_array_equal(grads.weight, np.zeros_like(w))
    np.testing.assert_array_equal(grads.bias, np.zeros(3))


# --- memory of the inputs --------------------------------------------------------------------------------


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_any_memory(disguise, dtype, layout, rng):
    x, w, dy = (
        to_layout(integers(rng, s, dtype), layout) for s in ((2, 4, 9, 8), (6, 4, 3, 3), (2, 6, 7, 6))
    )
    b = integers(rng, 6, dtype)
    dress = DISGUISES[disguise]
    xd, wd, dyd, bd = dress(x), dress(w), dress(dy), dress(b)
    np.testing.assert_array_equal(
        fastconv.conv2d(xd, wd, bd, layout=layout), fastconv.conv2d(x, w, b, layout=layout)
    )
    got, plain = (fastconv.conv2d_backward(*a, layout=layout) for a in ((dyd, xd, wd), (dy, x, w)))
    for one, other in zip(got, plain, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.dtype(dtype)
    for dressed, original in ((xd, x), (wd, w), (dyd, dy), (bd, b)):
        np.testing.assert_array_equal(dressed, original)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_broadcast_inputs(layout, rng):
    x = np.broadcast_to(to_layout(integers(rng, (1, 1, 6, 6)), layout), layout_shape((3, 4, 6, 6), layout))
    w = np.broadcast_to(to_layout(integers(rng, (1, 1, 3, 1)), layout), layout_shape((2, 4, 3, 3), layout))
    dy = np.broadcast_to(np.float64(2), layout_shape((3, 2, 4, 4), layout))
    xc, wc, dyc = x.copy(), w.copy(), dy.copy()
    np.testing.assert_array_equal(
        fastconv.conv2d(x, w, layout=layout), fastconv.conv2d(xc, wc, layout=layout)
    )
    got = fastconv.conv2d_backward(dy, x, w, layout=layout)
    plain = fastconv.conv2d_backward(dyc, xc, wc, layout=layout)
    for one, other in zip(got, plain, strict=True):
        np.testing.assert_array_equal(one, other)


def test_hwio_weight_is_a_transpose(rng):
    hwio = integers(rng, (3, 2, 4, 5))  # (R, S, C, K)
    x = integers(rng, (2, 7, 6, 4))
    y = fastconv.conv2d(x, hwio.transpose(3, 0, 1, 2), layout="NHWC")
    kcrs = np.ascontiguousarray(hwio.transpose(3, 2, 0, 1))
    expected = fastconv.conv2d(np.ascontiguousarray(x.transpose(0, 3, 1, 2)), kcrs)
    np.testing.assert_array_equal(y.transpose(0, 3, 1, 2), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("filters", "channels", "kernel"), [(37, 101, (3, 3)), (65, 513, (1, 1)), (64, 37, (5, 3))]
)
def test_large_weights_that_lie_the_other_way_round(filters, channels, kernel, layout, dtype, rng):
    """Filters last in memory, the other axes in two orders: bitwise what contiguous weights give."""
    w = to_layout(rng.standard_normal((filters, channels, *kernel)).astype(dtype), layout)
    x = to_layout(rng.standard_normal((1, channels, 6, 7)).astype(dtype), layout)
    dy = fastconv.conv2d(x, w, layout=layout)
    dx = fastconv.conv2d_backward_input(dy, w, x.shape, layout=layout)
    for order in ((1, 2, 3, 0), (2, 3, 1, 0), (3, 2, 1, 0)):
        turned = np.ascontiguousarray(w.transpose(order)).transpose(np.argsort(order))
        assert turned.strides[0] == turned.itemsize
        np.testing.assert_array_equal(fastconv.conv2d(x, turned, layout=layout), dy)
        np.testing.assert_array_equal(fastconv.conv2d_backward_input(dy, turned, x.shape, layout=layout), dx)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_channels_last_is_channels_first_transposed(ndim, rng):
    x, w = integers(rng, (2, 4, *(6, 5, 4)[:ndim])), integers(rng, (6, 2, *(3, 2, 2)[:ndim]))
    arguments = {"stride": 2, "padding": "same", "groups": 2}
    first = function("conv{}", ndim)(x, w, **arguments, layout=FIRST[ndim])
    last = function("conv{}", ndim)(
        to_layout(x, LAST[ndim]), to_layout(w, LAST[ndim]), **arguments, layout=LAST[ndim]
    )
    np.testing.assert_array_equal(from_layout(last, LAST[ndim]), first)


PADDED = {
    "conv{}": lambda n, x, w, p: function("conv{}", n)(x, w, None, 2, p),
    "conv_transpose{}": lambda n, x, w, p: function("conv_transpose{}", n)(x, w, None, 2, p),
    "im2col": lambda n, x, w, p: fastconv.im2col(x, w.shape[2:], 1, p),
    "max_pool{}": lambda n, x, w, p: function("max_pool{}", n)(x, 5, 2, p),
    "avg_pool{}": lambda n, x, w, p: function("avg_pool{}", n)(x, 5, 2, p),
}


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("name", PADDED)
def test_padding_as_pairs_in_a_row_and_names_in_capitals(name, ndim, rng):
    x, w = integers(rng, (1, 2, *(9, 8, 7)[:ndim])), integers(rng, (2, 2, *(3, 2, 3)[:ndim]))
    pairs = ((1, 2), (2, 0), (0, 1))[:ndim]
    for pads in ((1, 2, 2, 0, 0, 1)[: 2 * ndim], [1, 2, 2, 0, 0, 1][: 2 * ndim], np.array(pairs).ravel()):
        expected = PADDED[name](ndim, x, w, pairs)
        np.testing.assert_array_equal(PADDED[name](ndim, x, w, pads), expected)
    for capitals in ("SAME", "Valid", "fuLL"):
        expected = PADDED[name](ndim, x, w, capitals.lower())
        np.testing.assert_array_equal(PADDED[name](ndim, x, w, capitals), expected)


def test_lists_are_arrays():
    np.testing.assert_array_equal(fastconv.conv1d([[[1.0, 2.0, 3.0]]], [[[1.0, 1.0]]]), [[[3.0, 5.0]]])


# --- dtypes ----------------------------------------------------------------------------------------------

FLOATS = (np.float16, np.float32, np.float64)


@pytest.mark.parametrize(("a", "b", "c"), list(itertools.product(FLOATS, repeat=3)))
def test_mixed_dtypes_promote(a, b, c, rng):
    x, w, bias = integers(rng, (1, 2, 5, 5), a), integers(rng, (3, 2, 3, 3), b), integers(rng, 3, c)
    y = fastconv.conv2d(x, w, bias)
    assert y.dtype == np.result_type(a, b, c)
    assert_equal(
        y, ref_conv(x, w, (1, 1), ((0, 0),) * 2, (1, 1), 1) + bias.astype(np.float64).reshape(-1, 1, 1)
    )
    dy = integers(rng, y.shape, c)
    assert fastconv.conv2d_backward_input(dy, w, x.shape).dtype == np.result_type(b, c)
    assert fastconv.conv2d_backward_weight(dy, x, w.shape).dtype == np.result_type(a, c)


WHOLE = (np.bool_, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.uint64, ">i2")
# Every function of several operands: its arguments by name, those of a call of one group.
IMAGE, FILTERS, OUTPUT = (2, 3, 6, 5), (4, 3, 3, 2), (2, 4, 4, 4)
OPERANDS = {
    "conv2d": {"input": IMAGE, "weight": FILTERS, "bias": (4,)},
    "conv2d_backward": {"grad_output": OUTPUT, "input": IMAGE, "weight": FILTERS},
    "conv2d_backward_input": {"grad_output": OUTPUT, "weight": FILTERS},
    "conv2d_backward_weight": {"grad_output": OUTPUT, "input": IMAGE},
    "conv_transpose2d": {"input": OUTPUT, "weight": FILTERS, "bias": (3,)},
    "conv_transpose2d_backward": {"grad_output": IMAGE, "input": OUTPUT, "weight": FILTERS},
}
SIZES = {"conv2d_backward_input": {"input_size": IMAGE}, "conv2d_backward_weight": {"weight_size": FILTERS}}


@pytest.mark.parametrize("name", OPERANDS)
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("whole", WHOLE)
def test_whole_numbers_promote_with_floats(name, kind, whole, rng):
    """By NumPy's rules, in every place: the same bits as with arrays that were converted before."""
    for floats in OPERANDS[name]:
        arrays = {
            n: integers(rng, shape, kind if n == floats else whole, low=0)
            for n, shape in OPERANDS[name].items()
        }
        kept = {n: array.copy() for n, array in arrays.items()}
        dtype = np.result_type(*[array.dtype for array in arrays.values()])
        got = getattr(fastconv, name)(**arrays, **SIZES.get(name, {}))
        converted = {n: array.astype(dtype) for n, array in arrays.items()}
        expected = getattr(fastconv, name)(**converted, **SIZES.get(name, {}))
        for one, other in zip(
            *([r] if isinstance(r, np.ndarray) else r for r in (got, expected)), strict=True
        ):
            assert one.dtype == other.dtype == dtype
            np.testing.assert_array_equal(one, other)
        for n, array in arrays.items():
            np.testing.assert_array_equal(array, kept[n])


def test_bytes_in_any_memory_with_float_filters(rng):
    x, w = integers(rng, IMAGE, np.uint8, low=0, high=255), integers(rng, FILTERS, np.float32)
    expected = ref_conv(x, w, (1, 1), ((0, 0),) * 2, (1, 1), 1)
    for disguise in DISGUISES.values():
        out = np.empty(OUTPUT, np.float32)
        assert fastconv.conv2d(disguise(x), w, out=out) is out
        assert_equal(out, expected)


@pytest.mark.parametrize(
    ("whole", "wanted"), [(np.uint8, "float32"), (bool, "float32"), (np.int64, "float64")]
)
@pytest.mark.parametrize("name", OPERANDS)
def test_whole_numbers_alone_are_refused(name, whole, wanted):
    arrays = {n: np.ones(shape, whole) for n, shape in OPERANDS[name].items()}
    first = next(iter(arrays))
    by_the_rules = rf"{np.dtype(whole)} by NumPy's rules; convert it with np.asarray\({first}, '{wanted}'\)"
    with pytest.raises(
        TypeError, match=rf"^{first} must be .*, got dtype {np.dtype(whole)}, .* {by_the_rules}$"
    ):
        getattr(fastconv, name)(**arrays, **SIZES.get(name, {}))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: fastconv.im2col(x, 3),
        lambda x: fastconv.col2im(x, 2, 1),
        lambda x: fastconv.avg_pool1d(x, 2),
        lambda x: fastconv.conv_matrix(x, (1, 2)),
    ],
)
def test_a_single_array_of_whole_numbers_is_refused(call):
    with pytest.raises(TypeError, match=r"convert it with \w+\.astype\('float32'\)$"):
        call(np.ones((1, 1, 4), np.int16))


def test_a_plan_takes_its_own_dtype_only():
    x, w = np.ones((1, 1, 4)), np.ones((1, 1, 4), np.uint8)
    plan = fastconv.plan_conv1d(x.shape, w.shape, dtype="float64")
    with pytest.raises(TypeError, match=r"plan's dtype float64, got dtype uint8; .*\(weight, 'float64'\)$"):
        plan(x, w)


def test_float16_accumulates_in_float32():
    x = np.full((1, 1, 1, 4096), 1, np.float16)
    w = np.full((1, 1, 1, 4096), 1, np.float16)
    assert fastconv.conv2d(x, w)[0, 0, 0, 0] == 4096  # a float16 sum of ones stops at 2048


def test_float16_overflows_to_infinity_without_a_warning():
    x = np.full((1, 1, 2, 2), 60000, np.float16)
    y = fastconv.conv2d(x, np.full((1, 1, 2, 2), 1, np.float16))
    assert np.isposinf(y).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_non_finite_values_stay_where_they_are_read(value, layout):
    x = np.zeros((1, 1, 8, 8), np.float32)
    x[0, 0, 4, 4] = value
    w = np.ones((1, 1, 3, 3), np.float32)
    y = fastconv.conv2d(to_layout(x, layout), to_layout(w, layout), padding=1, layout=layout)
    touched = ~np.isfinite(from_layout(y, layout)[0, 0])
    expected = np.zeros((8, 8), bool)
    expected[3:6, 3:6] = True
    np.testing.assert_array_equal(touched, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.inf, np.nan, "largest"])
def test_no_pass_warns_of_what_the_data_hold(dtype, value):
    """Infinities of both signs meet, and sums overflow; the suite makes warnings errors."""
    largest = np.finfo(dtype).max if value == "largest" else value
    x = np.full((2, 2, 4, 4), largest, dtype)
    x[:, 1] *= -1 if value != "largest" else 1
    w, b = np.full((2, 2, 3, 3), 2, dtype), np.full(2, -largest, dtype)
    y = fastconv.conv2d(x, w, b)
    assert not np.isfinite(y).any()
    dy = np.full(y.shape, largest, dtype)
    dy[1] *= -1 if value != "largest" else 1
    for grad in fastconv.conv2d_backward(dy, x, w):
        assert not np.isfinite(grad).all()
    fastconv.conv_transpose2d(dy, w, b)
    fastconv.conv_transpose2d_backward(x, dy, w)


@pytest.mark.parametrize("shape", [(2, 3, 700, 700), (300_000, 2, 2, 2)])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_long_sums_keep_their_digits(shape, layout):
    """A float32 running sum of a million equal numbers loses three of seven digits; blocked ones do not.

    The worst of these four is 1.8e-5 for the weight and rounding for the bias; running sums give 1e-3.
    """
    dy = to_layout(np.full(shape, 0.1, np.float32), layout)
    x = to_layout(np.ones((shape[0], 1, *shape[2:]), np.float32), layout)
    w = to_layout(np.ones((shape[1], 1, 1, 1), np.float32), layout)
    grads = fastconv.conv2d_backward(dy, x, w, layout=layout, needs=("weight", "bias"))
    expected = np.float64(np.float32(0.1)) * dy.size / shape[1]
    np.testing.assert_allclose(grads.bias, expected, rtol=1e-6)
    np.testing.assert_allclose(grads.weight.ravel(), expected, rtol=5e-5)


# --- out -------------------------------------------------------------------------------------------------


def out_cases(dtype=np.float64):
    """The three calls that take `out=`, each as a function of out, with the shape it writes."""
    rng = np.random.default_rng(1)
    x, w, dy = (
        integers(rng, (2, 3, 6, 6), dtype),
        integers(rng, (4, 3, 3, 3), dtype),
        integers(rng, (2, 4, 4, 4), dtype),
    )
    return {
        "forward": (lambda out: fastconv.conv2d(x, w, out=out), dy.shape),
        "backward_input": (lambda out: fastconv.conv2d_backward_input(dy, w, x.shape, out=out), x.shape),
        "backward_weight": (lambda out: fastconv.conv2d_backward_weight(dy, x, w.shape, out=out), w.shape),
    }


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("disguise", ["copy", "strided", "negative", "transposed", "misaligned"])
def test_out_is_filled_and_returned(which, dtype, disguise):
    call, shape = out_cases(dtype)[which]
    out = DISGUISES[disguise](np.full(shape, 77, dtype))
    assert call(out) is out
    np.testing.assert_array_equal(out, call(None))


def test_strided_out_leaves_its_neighbours(rng):
    wide = np.full((2, 4, 4, 9), 5.0)
    x, w = integers(rng, (2, 3, 6, 6)), integers(rng, (4, 3, 3, 3))
    fastconv.conv2d(x, w, out=wide[..., 1:8:2])
    np.testing.assert_array_equal(wide[..., 1:8:2], fastconv.conv2d(x, w))
    assert (wide[..., ::2] == 5).all()


@pytest.mark.parametrize("which", PASSES)
def test_wrong_out_raises(which):
    call, shape = out_cases()[which]
    locked = np.zeros(shape)
    locked.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out must be .*, got "):
        call(np.zeros((*shape[:-1], shape[-1] + 1)))
    with pytest.raises(TypeError, match=r"^out must be .*float64.*, got .*float32"):
        call(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"^out must be writeable, got "):
        call(locked)
    with pytest.raises(TypeError, match=r"^out must be .*, got "):
        call([[1.0]])
    with pytest.raises(ValueError, match=r"^out must be .*overlap.*, got "):
        call(as_strided(np.zeros(1000), shape, (0, *np.zeros(shape).strides[1:])))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_out_may_overlap_an_input(layout, kernel, rng):
    x = to_layout(integers(rng, (2, 4, 6, 6)), layout)
    w = to_layout(integers(rng, (4, 4, kernel, kernel)), layout)
    arguments = {"padding": "same", "layout": layout}
    expected = fastconv.conv2d(x, w, **arguments)
    gradient = fastconv.conv2d_backward_input(x, w, x.shape, **arguments)
    there = x.copy()
    assert fastconv.conv2d(there, w, **arguments, out=there) is there
    np.testing.assert_array_equal(there, expected)
    back = x.copy()
    fastconv.conv2d_backward_input(back, w, x.shape, **arguments, out=back)
    np.testing.assert_array_equal(back, gradient)


def test_out_may_be_shifted_over_an_input(rng):
    memory = integers(rng, 400)
    x, out = memory[:128].reshape(2, 4, 4, 4), memory[40:168].reshape(2, 4, 4, 4)
    w = integers(rng, (4, 4, 3, 3))
    expected = fastconv.conv2d(x.copy(), w, padding=1)
    fastconv.conv2d(x, w, padding=1, out=out)
    np.testing.assert_array_equal(out, expected)


def test_out_may_be_the_weight(rng):
    x, w, dy = integers(rng, (2, 3, 6, 6)), integers(rng, (4, 3, 3, 3)), integers(rng, (2, 4, 4, 4))
    grads = fastconv.conv2d_backward(dy, x, w)
    there = w.copy()
    fastconv.conv2d_backward_weight(dy, x, w.shape, out=there)
    np.testing.assert_array_equal(there, grads.weight)
    memory = integers(rng, x.size + w.size)
    w2 = memory[: w.size].reshape(w.shape)
    expected = fastconv.conv2d_backward_input(dy, w2.copy(), x.shape)
    out = memory[10 : 10 + x.size].reshape(x.shape)
    fastconv.conv2d_backward_input(dy, w2, x.shape, out=out)
    np.testing.assert_array_equal(out, expected)


def test_results_never_share_memory_with_inputs(rng):
    x, w = integers(rng, (1, 1, 4, 4)), np.ones((1, 1, 1, 1))
    assert not np.may_share_memory(fastconv.conv2d(x, w), x)
    assert not np.may_share_memory(fastconv.conv2d_backward_input(x, w, x.shape), x)


# --- larger than one block -------------------------------------------------------------------------------


def windows_conv(x, w):
    """Convolution with stride 1 and no padding through NumPy's sliding windows, channels first."""
    ndim = w.ndim - 2
    view = sliding_window_view(x, w.shape[2:], axis=tuple(range(2, x.ndim)))
    axes = ((1, *range(x.ndim, x.ndim + ndim)), tuple(range(1, w.ndim)))
    return np.moveaxis(np.tensordot(view, w, axes), -1, 1)


LARGE = {
    "over pixels": ((1, 16, 160, 150), (8, 16, 3, 3)),
    "over images": ((300, 8, 9, 9), (8, 8, 3, 3)),
    "over taps": ((2, 300, 12, 12), (4, 300, 5, 5)),
    "over filters": ((1, 8, 20, 20), (700, 8, 3, 3)),
    "one tall column": ((1, 40, 40, 40), (3, 40, 40, 40)),
    "gemm/pixels": ((2, 300, 40, 40), (70, 300, 1, 1)),
    "one channel": ((1, 1, 300, 200), (16, 1, 5, 5)),
    "one row": ((1, 2, 1, 120_000), (3, 2, 1, 5)),
}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", LARGE)
def test_large(case, layout, rng):
    x_shape, w_shape = LARGE[case]
    x, w = integers(rng, x_shape, np.float32, -2, 2), integers(rng, w_shape, np.float32, -2, 2)
    y = windows_conv(x, w)
    got = fastconv.conv2d(to_layout(x, layout), to_layout(w, layout), layout=layout)
    np.testing.assert_array_equal(from_layout(got, layout), y)
    dy = integers(rng, y.shape, np.float32, -1, 1)
    grads = fastconv.conv2d_backward(*(to_layout(a, layout) for a in (dy, x, w)), layout=layout)
    # dw correlates x with dy; dx is the full convolution of dy with the turned weights
    dw = windows_conv(x.swapaxes(0, 1), dy.swapaxes(0, 1)).swapaxes(0, 1)
    np.testing.assert_array_equal(from_layout(grads.weight, layout), dw)
    pads = ((0, 0), (0, 0), *((k - 1, k - 1) for k in w.shape[2:]))
    dx = windows_conv(np.pad(dy, pads), w[:, :, ::-1, ::-1].swapaxes(0, 1))
    np.testing.assert_array_equal(from_layout(grads.input, layout), dx)
    np.testing.assert_array_equal(grads.bias, dy.sum((0, 2, 3)))


def scatter_backward_input(dy, w, extents, stride, padding, dilation):
    """The input gradient, tap by tap in whole slices, channels first and one stride for every axis."""
    kernel, outputs = w.shape[2:], dy.shape[2:]
    padded = np.zeros((dy.shape[0], w.shape[1], *(e + 2 * padding for e in extents)))
    for tap in np.ndindex(*kernel):
        cells = tuple(
            slice(t * dilation, t * dilation + (o - 1) * stride + 1, stride)
            for t, o in zip(tap, outputs, strict=True)
        )
        part = np.tensordot(dy, w[(slice(None), slice(None), *tap)], (1, 0))
        padded[(slice(None), slice(None), *cells)] += np.moveaxis(part, -1, 1)
    inside = tuple(slice(padding, padding + e) for e in extents)
    return padded[(slice(None), slice(None), *inside)]


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 3, 1), (1, 4, 3), (3, 1, 2)])
@pytest.mark.parametrize(
    ("x_shape", "kernel"),
    [((1, 1, 261, 120), (5, 4)), ((1, 3, 70, 33, 30), (3, 3, 2)), ((1, 2, 1, 90, 70), (1, 5, 5))],
)
def test_backward_input_of_a_tall_image(x_shape, kernel, stride, padding, dilation, rng):
    """Few images and channels: the jobs own bands of lines, into which several output lines reach."""
    w = integers(rng, (32, x_shape[1], *kernel))
    arguments = {"stride": stride, "padding": padding, "dilation": dilation}
    ndim = len(kernel)
    size = function("plan_conv{}", ndim)(x_shape, w.shape, **arguments).output_size
    dy = integers(rng, size)
    dx = function("conv{}_backward_input", ndim)(dy, w, x_shape, **arguments)
    expected = scatter_backward_input(dy, w, x_shape[2:], stride, padding, dilation)
    np.testing.assert_array_equal(dx, expected)


@pytest.mark.parametrize("layout", ["NCW", "NWC"])
def test_a_very_long_row(layout, rng):
    x, w = integers(rng, (1, 1, 1_000_003)), integers(rng, (1, 1, 31))
    y = fastconv.conv1d(to_layout(x, layout), to_layout(w, layout), padding="full", layout=layout)
    np.testing.assert_array_equal(from_layout(y, layout)[0, 0], np.convolve(x[0, 0], w[0, 0, ::-1]))
    dx = fastconv.conv1d_backward_input(
        y, to_layout(w, layout), to_layout(x, layout).shape, padding="full", layout=layout
    )
    expected = np.convolve(from_layout(y, layout)[0, 0], w[0, 0], "valid")
    np.testing.assert_array_equal(from_layout(dx, layout)[0, 0], expected)


def test_a_strided_dilated_long_row(rng):
    x, w = integers(rng, (2, 3, 200_001), np.float32), integers(rng, (4, 3, 7), np.float32)
    y = fastconv.conv1d(x, w, stride=3, padding=((2, 5),), dilation=4)
    spread = np.zeros((4, 3, 25), np.float32)
    spread[:, :, ::4] = w
    full = windows_conv(np.pad(x, ((0, 0), (0, 0), (2, 5))), spread)
    np.testing.assert_array_equal(y, full[:, :, ::3])


def test_scipy_agrees_in_three_dimensions(rng):
    x, w = integers(rng, (17, 18, 19)), integers(rng, (4, 5, 3))
    y = fastconv.conv3d(x[None, None], w[None, None])[0, 0]
    np.testing.assert_array_equal(y, signal.correlate(x, w, "valid", method="direct"))


def test_scipy_agrees_on_a_filter_as_large_as_the_image(rng):
    x, w = integers(rng, (64, 300, 40), np.float64), integers(rng, (64, 300, 40), np.float64)
    y = fastconv.conv2d(x, w[None])
    assert y.shape == (1, 1, 1)
    assert y[0, 0, 0] == np.vdot(x, w)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("groups", [32, 64])
def test_many_groups_on_a_large_plane(layout, groups, rng):
    x, w = integers(rng, (2, 64, 50, 50), np.float32), integers(rng, (128, 64 // groups, 3, 3), np.float32)
    y = fastconv.conv2d(to_layout(x, layout), to_layout(w, layout), padding=1, groups=groups, layout=layout)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    c, k = 64 // groups, 128 // groups
    expected = [windows_conv(padded[:, g * c : (g + 1) * c], w[g * k : (g + 1) * k]) for g in range(groups)]
    np.testing.assert_array_equal(from_layout(y, layout), np.concatenate(expected, axis=1))


# --- repeatability ---------------------------------------------------------------------------------------

REPEATED = [
    ((3, 16, 40, 41), (24, 16, 3, 3), {"padding": 1}),
    ((2, 32, 33, 31), (32, 1, 5, 5), {"padding": 2, "groups": 32, "stride": 2}),
    ((1, 8, 150, 150), (16, 8, 3, 3), {"dilation": 2}),
    ((5, 64, 20, 20), (48, 64, 1, 1), {}),
]


def forget_plans():
    """Empty the plan cache: a plan made for another number of threads would hide that it matters."""
    for value in vars(sys.modules["fastconv.plan"]).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("x_shape", "w_shape", "arguments"), REPEATED)
def test_bitwise_the_same_for_any_number_of_threads(x_shape, w_shape, arguments, dtype, layout, rng):
    x = to_layout(rng.standard_normal(x_shape).astype(dtype), layout)
    w = to_layout(rng.standard_normal(w_shape).astype(dtype), layout)
    results = []
    for threads in (1, 2, 3, 1):
        forget_plans()
        with fastconv.num_threads(threads):
            y = fastconv.conv2d(x, w, **arguments, layout=layout)
            results.append((y, *fastconv.conv2d_backward(y, x, w, **arguments, layout=layout)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


# --- algorithms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_im2col_algorithm_agrees(layout, rng):
    x, w = (to_layout(integers(rng, s), layout) for s in ((2, 4, 9, 8), (6, 2, 3, 2)))
    arguments = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "groups": 2, "layout": layout}
    y = fastconv.conv2d(x, w, **arguments)
    np.testing.assert_array_equal(fastconv.conv2d(x, w, **arguments, algorithm="im2col"), y)
    chosen = fastconv.conv2d_backward(y, x, w, **arguments)
    explicit = fastconv.conv2d_backward(y, x, w, **arguments, algorithm="im2col")
    for a, b in zip(chosen, explicit, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cells", [1, 31, 32, 33, 100])
def test_the_kernel_of_a_bias(cells, dtype):
    """Whole vectors, the cells behind them, and no image at all."""
    dy = integers(np.random.default_rng(3), (3, 4, cells), dtype)
    for images in (3, 0):
        sums = np.full(4, np.nan, dtype)
        sum_channels(dy[:images], sums)
        np.testing.assert_array_equal(sums, dy[:images].sum(axis=(0, 2)))


def test_the_gradient_of_a_bias_keeps_its_digits():
    """Four million cells, of which a float32 running sum loses three digits."""
    dy = np.full((4, 1, 1024, 1024), 0.1, np.float32)
    x, w = np.zeros((4, 1, 1024, 1024), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    for gradient in (dy, dy[:, :, ::-1]):
        got = fastconv.conv2d_backward(gradient, x, w, needs=("bias",)).bias
        np.testing.assert_allclose(got, [dy.size * np.float64(np.float32(0.1))], 1e-7)
