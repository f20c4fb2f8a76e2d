"""Transposed convolution: forward and gradients against plain loops, exactly, on whole-number data."""

import itertools

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
from numpy.lib.stride_tricks import as_strided
from oracles import central_difference, ref_conv_transpose, ref_conv_transpose_backward
from strategies import examples, transpose_problems

import fastconv


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# --- against the oracles ---------------------------------------------------------------------------------


@given(transpose_problems())
@examples(60)
def test_forward_equals_the_loops(p):
    x, w = (p.dressed(to_layout(a, p.layout)) for a in (p.x, p.w))
    bias = None if p.bias is None else p.dressed(p.bias)
    kept = x.copy(), w.copy()
    y = function("conv_transpose{}", p.ndim)(x, w, bias, **p.arguments)
    expected = ref_conv_transpose(p.x, p.w, *p.resolved)
    if bias is not None:
        expected += p.bias.astype(np.float64).reshape(-1, *[1] * p.ndim)
    assert y.dtype == p.x.dtype
    assert_fresh(y)
    assert_equal(from_layout(y, p.layout), expected)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(w, kept[1])


@given(transpose_problems())
@examples(60)
def test_backward_equals_the_loops(p):
    dy, x, w = (p.dressed(to_layout(a, p.layout)) for a in (p.dy, p.x, p.w))
    grads = function("conv_transpose{}_backward", p.ndim)(dy, x, w, **p.arguments)
    dx, dw, db = ref_conv_transpose_backward(p.dy, p.x, p.w, *p.resolved)
    assert_equal(from_layout(grads.input, p.layout), dx)
    assert_equal(from_layout(grads.weight, p.layout), dw)
    assert_equal(grads.bias, db)
    for grad in grads:
        assert grad.dtype == p.x.dtype
        assert_fresh(grad)


def test_a_case_by_hand():
    x = np.array([[[1.0, 2.0]]])
    w = np.array([[[1.0, 10.0, 100.0]]])
    np.testing.assert_array_equal(fastconv.conv_transpose1d(x, w, stride=2), [[[1, 10, 102, 20, 200]]])
    np.testing.assert_array_equal(
        fastconv.conv_transpose1d(x, w, stride=2, padding=1, output_padding=1), [[[10, 102, 20, 200]]]
    )


@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
def test_gradients_are_derivatives(ndim, layout, rng):
    x = rng.standard_normal(layout_shape((2, 4, *(3, 2, 2)[:ndim]), layout))
    w = rng.standard_normal(layout_shape((4, 1, *(3, 2, 2)[:ndim]), layout))
    b = rng.standard_normal(2)
    arguments = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "layout": layout}
    conv = function("conv_transpose{}", ndim)
    dy = rng.standard_normal(conv(x, w, b, **arguments).shape)
    grads = function("conv_transpose{}_backward", ndim)(dy, x, w, **arguments)

    def loss(x, w, b):
        return float(np.sum(conv(x, w, b, **arguments) * dy))

    close = {"rtol": 1e-6, "atol": 1e-7}
    np.testing.assert_allclose(grads.input, central_difference(lambda v: loss(v, w, b), x), **close)
    np.testing.assert_allclose(grads.weight, central_difference(lambda v: loss(x, v, b), w), **close)
    np.testing.assert_allclose(grads.bias, central_difference(lambda v: loss(x, w, v), b), **close)


# --- as the adjoint of conv ------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_is_the_adjoint_of_the_same_convolution(ndim, stride, kernel, rng):
    small = (3, 2, 2)[:ndim]
    large = tuple(e * stride for e in small)
    w = integers(rng, (4, 3, *(kernel,) * ndim))  # conv: 3 channels to 4 filters
    x, image = integers(rng, (2, 4, *small)), integers(rng, (2, 3, *large))
    y = function("conv_transpose{}", ndim)(x, w, stride=stride, padding="same")
    assert y.shape == image.shape
    z = function("conv{}", ndim)(image, w, stride=stride, padding="same")
    assert z.shape == x.shape
    assert np.vdot(y, image) == np.vdot(z, x)


@pytest.mark.parametrize("padding", ["valid", 0, 2, "full", ((2, 1), (0, 3))])
def test_equals_backward_input_of_conv(padding, rng):
    w, image = integers(rng, (4, 3, 3, 4)), np.zeros((2, 3, 9, 8))
    z = fastconv.conv2d(image, w, padding=padding)
    x = integers(rng, z.shape)
    y = fastconv.conv_transpose2d(x, w, padding=padding)
    np.testing.assert_array_equal(y, fastconv.conv2d_backward_input(x, w, image.shape, padding=padding))


@pytest.mark.parametrize("extra", [0, 1, 2, 3])
def test_output_padding_beyond_the_stride(extra, rng):
    x, w = integers(rng, (2, 2, 4, 3)), integers(rng, (2, 3, 3, 2))
    y = fastconv.conv_transpose2d(x, w, stride=2, output_padding=extra, dilation=4)
    expected = ref_conv_transpose(x, w, (2, 2), ((0, 0),) * 2, (extra,) * 2, (4, 4), 1)
    assert y.shape[2:] == (15 + extra, 9 + extra)
    np.testing.assert_array_equal(y, expected)
    dy = integers(rng, y.shape)
    grads = fastconv.conv_transpose2d_backward(dy, x, w, stride=2, output_padding=extra, dilation=4)
    dx, dw, db = ref_conv_transpose_backward(dy, x, w, (2, 2), ((0, 0),) * 2, (extra,) * 2, (4, 4), 1)
    np.testing.assert_array_equal(grads.input, dx)
    np.testing.assert_array_equal(grads.weight, dw)
    np.testing.assert_array_equal(grads.bias, db)


# --- the same manners as conv ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "needs", [s for n in range(4) for s in itertools.combinations(("input", "weight", "bias"), n)]
)
def test_backward_makes_only_what_is_needed(needs, rng):
    x, w, dy = integers(rng, (2, 3, 4, 4)), integers(rng, (3, 5, 3, 3)), integers(rng, (2, 5, 6, 6))
    everything = fastconv.conv_transpose2d_backward(dy, x, w)
    grads = fastconv.conv_transpose2d_backward(dy, x, w, needs=needs)
    for name in ("input", "weight", "bias"):
        got = getattr(grads, name)
        if name in needs:
            np.testing.assert_array_equal(got, getattr(everything, name))
        else:
            assert got is None


@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
def test_unbatched(ndim, layout, rng):
    x = to_layout(integers(rng, (1, 3, *(4, 3, 2)[:ndim])), layout)
    w = to_layout(integers(rng, (3, 2, *(3, 2, 2)[:ndim])), layout)
    arguments = {"stride": 2, "layout": layout}
    y = function("conv_transpose{}", ndim)(x, w, **arguments)
    np.testing.assert_array_equal(function("conv_transpose{}", ndim)(x[0], w, **arguments), y[0])
    dy = integers(rng, y.shape)
    grads = function("conv_transpose{}_backward", ndim)(dy, x, w, **arguments)
    single = function("conv_transpose{}_backward", ndim)(dy[0], x[0], w, **arguments)
    np.testing.assert_array_equal(single.input, grads.input[0])
    np.testing.assert_array_equal(single.weight, grads.weight)
    np.testing.assert_array_equal(single.bias, grads.bias)


@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
def test_zero_length_batch(ndim, layout):
    x = np.zeros(layout_shape((0, 2, *(4,) * ndim), layout), np.float32)
    w = np.ones(layout_shape((2, 3, *(2,) * ndim), layout), np.float32)
    y = function("conv_transpose{}", ndim)(x, w, np.ones(3, np.float32), layout=layout)
    assert y.shape == layout_shape((0, 3, *(5,) * ndim), layout)
    grads = function("conv_transpose{}_backward", ndim)(y, x, w, layout=layout)
    assert grads.input.shape == x.shape
    np.testing.assert_array_equal(grads.weight, np.zeros_like(w))
    np.testing.assert_array_equal(grads.bias, np.zeros(3))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_channels_last_is_channels_first_transposed(ndim, rng):
    x, w = integers(rng, (2, 4, *(4, 3, 2)[:ndim])), integers(rng, (4, 3, *(3, 2, 2)[:ndim]))
    arguments = {"stride": 2, "padding": 1, "groups": 2}
    first = function("conv_transpose{}", ndim)(x, w, **arguments, layout=FIRST[ndim])
    last = function("conv_transpose{}", ndim)(
        to_layout(x, LAST[ndim]), to_layout(w, LAST[ndim]), **arguments, layout=LAST[ndim]
    )
    np.testing.assert_array_equal(from_layout(last, LAST[ndim]), first)


@pytest.mark.parametrize("disguise", ["copy", "strided", "negative", "transposed", "misaligned"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_out_is_filled_and_returned(disguise, dtype, rng):
    x, w = integers(rng, (2, 3, 4, 4), dtype), integers(rng, (3, 5, 3, 3), dtype)
    bias = integers(rng, 5, dtype)
    out = DISGUISES[disguise](np.full((2, 5, 9, 9), 7, dtype))
    assert fastconv.conv_transpose2d(x, w, bias, stride=2, out=out) is out
    np.testing.assert_array_equal(out, fastconv.conv_transpose2d(x, w, bias, stride=2))


def test_wrong_out_raises(rng):
    x, w = integers(rng, (2, 3, 4, 4)), integers(rng, (3, 5, 3, 3))
    locked = np.zeros((2, 5, 6, 6))
    locked.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out must be .*, got "):
        fastconv.conv_transpose2d(x, w, out=np.zeros((2, 5, 6, 7)))
    with pytest.raises(TypeError, match=r"^out must be .*, got "):
        fastconv.conv_transpose2d(x, w, out=np.zeros((2, 5, 6, 6), np.float32))
    with pytest.raises(ValueError, match=r"^out must be .*, got "):
        fastconv.conv_transpose2d(x, w, out=locked)
    with pytest.raises(ValueError, match=r"^out must be .*, got "):
        fastconv.conv_transpose2d(x, w, out=as_strided(np.zeros(1000), (2, 5, 6, 6), (0, 288, 48, 8)))


def test_out_may_overlap_the_input(rng):
    x, w, bias = integers(rng, (2, 4, 6, 6)), integers(rng, (4, 4, 3, 3)), integers(rng, 4)
    expected = fastconv.conv_transpose2d(x, w, bias, padding=1)
    assert fastconv.conv_transpose2d(x, w, bias, padding=1, out=x) is x
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("bias_dtype", [np.float16, np.float32, np.float64])
def test_mixed_dtypes_promote(bias_dtype, rng):
    x, w = integers(rng, (1, 2, 5, 5), np.float32), integers(rng, (2, 3, 3, 3), np.float16)
    y = fastconv.conv_transpose2d(x, w, integers(rng, 3, bias_dtype))
    assert y.dtype == np.result_type(np.float32, bias_dtype)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_bitwise_the_same_for_any_number_of_threads(layout, rng):
    x = to_layout(rng.standard_normal((3, 24, 20, 21), np.float32), layout)
    w = to_layout(rng.standard_normal((24, 16, 4, 4), np.float32), layout)
    results = []
    for threads in (1, 2, 3):
        with fastconv.num_threads(threads):
            y = fastconv.conv_transpose2d(x, w, stride=2, padding=1, layout=layout)
            grads = fastconv.conv_transpose2d_backward(y, x, w, stride=2, padding=1, layout=layout)
            results.append((y, *grads))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


def test_large_planes_against_a_scatter(rng):
    x, w = integers(rng, (2, 20, 60, 50), np.float32), integers(rng, (20, 6, 4, 4), np.float32)
    y = fastconv.conv_transpose2d(x, w, stride=2)
    expected = np.zeros((2, 6, 122, 102), np.float32)
    for r, s in itertools.product(range(4), range(4)):
        part = np.tensordot(x, w[:, :, r, s], (1, 0)).transpose(0, 3, 1, 2)
        expected[:, :, r : r + 119 : 2, s : s + 99 : 2] += part
    np.testing.assert_array_equal(y, expected)
