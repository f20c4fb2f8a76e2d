"""Pooling, unpooling and adaptive pooling, forward and backward, against plain loops."""

import numpy as np
import pytest
from helpers import (
    DISGUISES,
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
from hypothesis import strategies as st
from oracles import (
    central_difference,
    ref_adaptive_avg_pool,
    ref_adaptive_avg_pool_backward,
    ref_adaptive_max_pool,
    ref_avg_pool,
    ref_avg_pool_backward,
    ref_max_pool,
    ref_max_pool_backward,
    ref_max_pool_backward_ties,
    ref_max_unpool,
    ref_max_unpool_backward,
)
from strategies import examples, pool_problems

import fastconv
from fastconv import pool_passes

FLOATS = (np.float16, np.float32, np.float64)
INTS = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64)
TOLERANCE = {np.dtype(np.float16): 2e-3, np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-13}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def close(got, expected):
    """Equal to rounding: a mean divides."""
    assert got.shape == expected.shape
    tolerance = TOLERANCE[got.dtype]
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=tolerance, atol=tolerance)


def max_arguments(p):
    return {
        "stride": p.stride,
        "padding": p.padding,
        "dilation": p.dilation,
        "ceil_mode": p.ceil_mode,
        "layout": p.layout,
    }


# --- max -------------------------------------------------------------------------------------------------


@given(pool_problems(dtypes=FLOATS + INTS))
@examples(80)
def test_max_equals_the_loops(p):
    x = p.dressed(to_layout(p.x, p.layout))
    kept = x.copy()
    pool = function("max_pool{}", p.ndim)
    values, indices = pool(x, p.kernel_size, **max_arguments(p), return_indices=True)
    expected, places = ref_max_pool(p.x, *p.resolved, p.ceil_mode)
    assert values.dtype == p.x.dtype
    assert indices.dtype == np.int64
    assert_fresh(values)
    assert_fresh(indices)
    assert_equal(from_layout(values, p.layout), expected)
    assert_equal(from_layout(indices, p.layout), places)
    np.testing.assert_array_equal(pool(x, p.kernel_size, **max_arguments(p)), values)
    np.testing.assert_array_equal(x, kept)


@given(pool_problems(), st.sampled_from([np.nan, -np.inf, np.inf]), st.floats(0, 1))
@examples(60)
def test_max_of_special_values(p, special, share):
    x = p.x.copy()
    x[np.random.default_rng(p.seed).random(x.shape) < share] = special
    values, indices = function("max_pool{}", p.ndim)(
        to_layout(x, p.layout), p.kernel_size, **max_arguments(p), return_indices=True
    )
    expected, places = ref_max_pool(x, *p.resolved, p.ceil_mode)
    assert_equal(from_layout(values, p.layout), expected)
    assert_equal(from_layout(indices, p.layout), places)


@given(pool_problems())
def test_max_backward_equals_the_loops(p):
    _, indices = ref_max_pool(p.x, *p.resolved, p.ceil_mode)
    dy = integers(np.random.default_rng(p.seed), indices.shape, p.x.dtype)
    dx = function("max_pool{}_backward", p.ndim)(
        p.dressed(to_layout(dy, p.layout)),
        p.dressed(to_layout(indices, p.layout)),
        layout_shape(p.x.shape, p.layout),
        layout=p.layout,
    )
    assert dx.dtype == p.x.dtype
    assert_fresh(dx)
    assert_equal(from_layout(dx, p.layout), ref_max_pool_backward(dy, indices, p.x.shape[2:]))


@given(pool_problems(dtypes=FLOATS + INTS), st.sampled_from(FLOATS))
@examples(80)
def test_max_backward_to_ties_equals_the_loops(p, dtype):
    """The gradient's dtype is its own, whatever was pooled."""
    _, indices = ref_max_pool(p.x, *p.resolved, p.ceil_mode)
    dy = integers(np.random.default_rng(p.seed), indices.shape, dtype)
    x, grad = p.dressed(to_layout(p.x, p.layout)), p.dressed(to_layout(dy, p.layout))
    kept = x.copy(), grad.copy()
    dx = function("max_pool{}_backward_ties", p.ndim)(grad, x, p.kernel_size, **max_arguments(p))
    assert dx.dtype == dtype
    assert_fresh(dx)
    assert_equal(from_layout(dx, p.layout), ref_max_pool_backward_ties(dy, p.x, *p.resolved))
    for array, before in zip((x, grad), kept, strict=True):
        np.testing.assert_array_equal(array, before)


@given(pool_problems(), st.sampled_from([np.nan, -np.inf, np.inf]), st.floats(0, 1))
@examples(60)
def test_max_backward_to_special_values(p, special, share):
    x = p.x.copy()
    x[np.random.default_rng(p.seed).random(x.shape) < share] = special
    _, indices = ref_max_pool(x, *p.resolved, p.ceil_mode)
    dy = integers(np.random.default_rng(p.seed), indices.shape, x.dtype)
    dx = function("max_pool{}_backward_ties", p.ndim)(
        to_layout(dy, p.layout), to_layout(x, p.layout), p.kernel_size, **max_arguments(p)
    )
    assert_equal(from_layout(dx, p.layout), ref_max_pool_backward_ties(dy, x, *p.resolved))


def test_every_tie_gets_the_whole_gradient():
    """Digits on a constant background: numbers of programs that route by ``x == x.max()``."""
    x = np.zeros((1, 2, 4, 6), np.float32)
    x[0, 0, 1, 1] = 1
    x[0, 1, :, 3] = 2
    dy = np.arange(1, 13, dtype=np.float32).reshape(1, 2, 2, 3)
    blocks = x.reshape(1, 2, 2, 2, 3, 2)
    expected = ((blocks == blocks.max((3, 5), keepdims=True)) * dy[:, :, :, None, :, None]).reshape(x.shape)
    np.testing.assert_array_equal(fastconv.max_pool2d_backward_ties(dy, x, 2), expected)
    turned = (np.moveaxis(array, 1, -1) for array in (dy, x))
    dx = fastconv.max_pool2d_backward_ties(*turned, 2, layout="NHWC")
    np.testing.assert_array_equal(np.moveaxis(dx, -1, 1), expected)


def test_without_ties_both_gradients_are_the_same(rng):
    x = rng.permutation(np.arange(2.0 * 3 * 9 * 8)).reshape(2, 3, 9, 8)
    y, indices = fastconv.max_pool2d(x, 3, 2, 1, return_indices=True)
    dx = fastconv.max_pool2d_backward_ties(y, x, 3, 2, 1)
    np.testing.assert_array_equal(dx, fastconv.max_pool2d_backward(y, indices, x.shape))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_zeros_are_equal_and_padding_gets_nothing(dtype):
    x = np.array([[[-0.0, 0.0, -5.0, -5.0]]]).astype(dtype)
    dx = fastconv.max_pool1d_backward_ties(np.array([[[1.0, 2.0, 4.0]]]), x, 2, padding=1)
    np.testing.assert_array_equal(dx, [[[1, 2, 0, 4]]])


def test_first_of_equals_wins():
    values, indices = fastconv.max_pool2d(np.zeros((1, 1, 4, 4)), 2, return_indices=True)
    np.testing.assert_array_equal(indices[0, 0], [[0, 2], [8, 10]])
    np.testing.assert_array_equal(values, np.zeros((1, 1, 2, 2)))


def test_negative_zero_does_not_beat_zero():
    x = np.array([[[-0.0, 0.0, 0.0, -0.0]]])
    _, indices = fastconv.max_pool1d(x, 2, return_indices=True)
    np.testing.assert_array_equal(indices, [[[0, 2]]])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_first_nan_is_the_maximum(dtype, layout):
    x = np.zeros((1, 40, 4, 4), dtype)  # channels enough for a vector
    x[0, :, 1, 0] = np.nan
    x[0, :, 1, 1] = np.nan
    x[0, :, 0, 1] = np.inf
    values, indices = fastconv.max_pool2d(to_layout(x, layout), 2, return_indices=True, layout=layout)
    assert np.isnan(from_layout(values, layout)[0, :, 0, 0]).all()
    assert (from_layout(indices, layout)[0, :, 0, 0] == 4).all()
    assert np.isnan(from_layout(values, layout)).sum() == 40


def test_minus_infinity_beats_padding():
    x = np.full((1, 1, 3, 3), -np.inf)
    values, indices = fastconv.max_pool2d(x, 3, stride=1, padding=1, return_indices=True)
    assert np.isneginf(values).all()
    np.testing.assert_array_equal(indices[0, 0], [[0, 0, 1], [0, 0, 1], [3, 3, 4]])


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32])
def test_padding_never_wins(dtype):
    x = np.full((1, 1, 4, 4), -100, dtype)
    assert (fastconv.max_pool2d(x, 3, stride=1, padding=1) == -100).all()
    low = np.iinfo(dtype).min if np.dtype(dtype).kind == "i" else np.finfo(dtype).min
    values, indices = fastconv.max_pool2d(np.full_like(x, low), 2, padding=1, return_indices=True)
    assert (values == low).all()
    np.testing.assert_array_equal(indices[0, 0], [[0, 1, 3], [4, 5, 7], [12, 13, 15]])


@pytest.mark.parametrize("dtype", INTS)
def test_integers_keep_their_whole_range(dtype):
    info = np.iinfo(dtype)
    x = np.array([[[info.max - 1, info.max, info.min, info.min + 1]]], dtype)
    y = fastconv.max_pool1d(x, 2)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, np.array([[[info.max, info.min + 1]]], dtype))


@pytest.mark.parametrize(
    ("extent", "kernel", "stride", "padding", "cells"),
    [(5, 2, 2, 0, 3), (5, 3, 3, 1, 2), (4, 2, 3, 0, 2), (1, 2, 2, 1, 1), (3, 1, 2, 0, 2), (6, 3, 4, 1, 2)],
)
def test_ceil_mode_windows_start_inside(extent, kernel, stride, padding, cells):
    x = np.arange(float(extent))[None, None]
    y = fastconv.max_pool1d(x, kernel, stride, padding, ceil_mode=True)
    assert y.shape == (1, 1, cells)
    assert np.isfinite(y).all()


def test_overlapping_windows_add_up():
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 1] = 1
    _, indices = fastconv.max_pool2d(x, 2, stride=1, return_indices=True)
    dx = fastconv.max_pool2d_backward(np.array([[[[1.0, 10.0], [100.0, 1000.0]]]]), indices, x.shape)
    expected = np.zeros((1, 1, 3, 3))
    expected[0, 0, 1, 1] = 1111
    np.testing.assert_array_equal(dx, expected)


def test_max_out(rng):
    x = integers(rng, (2, 3, 6, 6), np.float32)
    out = np.zeros((2, 3, 3, 6), np.float32)[..., ::2]
    assert fastconv.max_pool2d(x, 2, out=out) is out
    np.testing.assert_array_equal(out, fastconv.max_pool2d(x, 2))
    values, _ = fastconv.max_pool2d(x, 2, return_indices=True, out=out)
    assert values is out
    with pytest.raises(ValueError, match=r"^out must be .*, got "):
        fastconv.max_pool2d(x, 2, out=np.zeros((2, 3, 3, 4), np.float32))
    with pytest.raises(TypeError, match=r"^out must be .*, got "):
        fastconv.max_pool2d(x, 2, out=np.zeros((2, 3, 3, 3)))


def test_max_out_over_the_input(rng):
    x = integers(rng, (2, 3, 6, 6))
    expected = fastconv.max_pool2d(x, 3, 1, 1)
    fastconv.max_pool2d(x, 3, 1, 1, out=x)
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("index", [-2, 16, 2**40, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_indices_outside_the_plane_raise(index, layout):
    dy = to_layout(np.ones((2, 3, 2, 2)), layout)
    indices = np.zeros((2, 3, 2, 2), np.int64)
    indices[1, 2, 1, 0] = index
    indices = to_layout(indices, layout)
    size = layout_shape((2, 3, 4, 4), layout)
    with pytest.raises(ValueError, match=r"^indices must be .*, got "):
        fastconv.max_pool2d_backward(dy, indices, size, layout=layout)
    if layout == "NCHW":
        with pytest.raises(ValueError, match=r"^indices must be .*, got "):
            fastconv.max_unpool2d(dy, indices, 2)
        with pytest.raises(ValueError, match=r"^indices must be .*, got "):
            fastconv.max_unpool2d_backward(np.ones((2, 3, 4, 4)), indices)
        with pytest.raises(ValueError, match=r"^indices must be .*, got "):
            fastconv.adaptive_max_pool2d_backward(dy, indices, size)


# --- unpool ----------------------------------------------------------------------------------------------


@given(pool_problems(dilated=False))
def test_unpool_equals_the_loops(p):
    kernel, stride, pairs, dilation = p.resolved
    padding = tuple(before for before, _ in pairs)  # unpooling takes numbers only
    symmetric = tuple((before, before) for before in padding)
    _, indices = ref_max_pool(p.x, kernel, stride, symmetric, dilation, p.ceil_mode)
    values = integers(np.random.default_rng(p.seed), indices.shape, p.x.dtype)
    extents = p.x.shape[2:]
    arguments = {"stride": p.stride, "padding": padding, "output_size": extents}
    y = function("max_unpool{}", p.ndim)(p.dressed(values), p.dressed(indices), p.kernel_size, **arguments)
    assert y.dtype == p.x.dtype
    assert_fresh(y)
    assert_equal(y, ref_max_unpool(values, indices, extents))
    dy = integers(np.random.default_rng(p.seed + 1), y.shape, p.x.dtype)
    dx = function("max_unpool{}_backward", p.ndim)(p.dressed(dy), p.dressed(indices))
    assert_equal(dx, ref_max_unpool_backward(dy, indices))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_unpool_puts_back_what_pooling_took(ndim, rng):
    extents = (6, 4, 8)[:ndim]
    x = rng.permutation(np.arange(1.0, 1 + 2 * 3 * np.prod(extents))).reshape(2, 3, *extents)
    values, indices = function("max_pool{}", ndim)(x, 2, return_indices=True)
    y = function("max_unpool{}", ndim)(values, indices, 2)
    assert y.shape == x.shape
    np.testing.assert_array_equal(y[y != 0], x[y != 0])
    assert np.count_nonzero(y) == values.size
    np.testing.assert_array_equal(function("max_pool{}", ndim)(y, 2), values)


def test_of_several_values_with_one_index_the_last_stays():
    y = fastconv.max_unpool1d(np.array([[[1.0, 2.0, 3.0]]]), np.array([[[1, 4, 1]]]), 2)
    np.testing.assert_array_equal(y, [[[0, 3, 0, 0, 2, 0]]])


def test_unpool_default_size():
    y = fastconv.max_unpool2d(np.ones((1, 1, 3, 4)), np.zeros((1, 1, 3, 4), np.int64), 3, 2, 1)
    assert y.shape == (1, 1, 5, 7)


# --- average ---------------------------------------------------------------------------------------------

divisors = st.one_of(st.none(), st.integers(1, 5))


@given(pool_problems(dilated=False), st.booleans(), divisors)
@examples(60)
def test_avg_equals_the_loops(p, count_include_pad, divisor):
    kernel, stride, pairs, _ = p.resolved
    arguments = {"count_include_pad": count_include_pad, "divisor_override": divisor}
    common = {"stride": p.stride, "padding": p.padding, "ceil_mode": p.ceil_mode, "layout": p.layout}
    x = p.dressed(to_layout(p.x, p.layout))
    y = function("avg_pool{}", p.ndim)(x, p.kernel_size, **common, **arguments)
    assert y.dtype == p.x.dtype
    assert_fresh(y)
    expected = ref_avg_pool(p.x, kernel, stride, pairs, p.ceil_mode, **arguments)
    close(from_layout(y, p.layout), expected)
    dy = integers(np.random.default_rng(p.seed), expected.shape, p.x.dtype)
    dx = function("avg_pool{}_backward", p.ndim)(
        p.dressed(to_layout(dy, p.layout)), x.shape, p.kernel_size, **common, **arguments
    )
    assert dx.dtype == p.x.dtype
    assert_fresh(dx)
    close(
        from_layout(dx, p.layout),
        ref_avg_pool_backward(dy.astype(np.float64), p.x.shape[2:], kernel, stride, pairs, **arguments),
    )


def test_avg_by_hand():
    x = np.array([[[2.0, 4.0, 6.0]]])
    np.testing.assert_array_equal(fastconv.avg_pool1d(x, 2, 1, 1), [[[1, 3, 5, 3]]])
    np.testing.assert_array_equal(fastconv.avg_pool1d(x, 2, 1, 1, count_include_pad=False), [[[2, 3, 5, 6]]])
    np.testing.assert_array_equal(fastconv.avg_pool1d(x, 2, 2, ceil_mode=True), [[[3, 6]]])
    np.testing.assert_array_equal(fastconv.avg_pool1d(x, 2, 1, divisor_override=1), [[[6, 10]]])


def test_float16_means_are_summed_in_float32():
    x = np.full((1, 1, 64, 64), 100, np.float16)  # the sum, 409600, is beyond float16
    assert fastconv.avg_pool2d(x, 64)[0, 0, 0, 0] == 100
    assert fastconv.adaptive_avg_pool2d(x, 1)[0, 0, 0, 0] == 100


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_long_means_keep_their_digits(layout):
    """A float32 running sum of a million equal numbers loses three of seven digits."""
    x = to_layout(np.full((1, 2, 1000, 1000), 0.1, np.float32), layout)
    np.testing.assert_allclose(fastconv.avg_pool2d(x, 1000, layout=layout), 0.1, rtol=1e-4)
    np.testing.assert_allclose(fastconv.adaptive_avg_pool2d(x, 1, layout=layout), 0.1, rtol=1e-4)


# --- adaptive --------------------------------------------------------------------------------------------

adaptive_outputs = st.lists(st.integers(1, 7), min_size=3, max_size=3)


@given(pool_problems(dilated=False), adaptive_outputs)
def test_adaptive_avg_equals_the_loops(p, outputs):
    outputs = tuple(outputs[: p.ndim])
    x = to_layout(p.x, p.layout)
    y = function("adaptive_avg_pool{}", p.ndim)(p.dressed(x), outputs, layout=p.layout)
    assert y.dtype == p.x.dtype
    assert_fresh(y)
    close(from_layout(y, p.layout), ref_adaptive_avg_pool(p.x, outputs))
    dy = integers(np.random.default_rng(p.seed), y.shape, p.x.dtype)
    dx = function("adaptive_avg_pool{}_backward", p.ndim)(p.dressed(dy), x.shape, layout=p.layout)
    assert dx.dtype == p.x.dtype
    expected = ref_adaptive_avg_pool_backward(from_layout(dy, p.layout), p.x.shape[2:])
    close(from_layout(dx, p.layout), expected)


@given(pool_problems(dilated=False, dtypes=(*FLOATS, np.int32, np.uint8)), adaptive_outputs)
def test_adaptive_max_equals_the_loops(p, outputs):
    outputs = tuple(outputs[: p.ndim])
    x = to_layout(p.x, p.layout)
    pool = function("adaptive_max_pool{}", p.ndim)
    values, indices = pool(p.dressed(x), outputs, return_indices=True, layout=p.layout)
    expected, places = ref_adaptive_max_pool(p.x, outputs)
    assert values.dtype == p.x.dtype
    assert_fresh(values)
    assert_equal(from_layout(values, p.layout), expected)
    assert_equal(from_layout(indices, p.layout), places)
    np.testing.assert_array_equal(pool(x, outputs, layout=p.layout), values)
    if p.x.dtype.kind == "f":
        dy = integers(np.random.default_rng(p.seed), values.shape, p.x.dtype)
        dx = function("adaptive_max_pool{}_backward", p.ndim)(dy, indices, x.shape, layout=p.layout)
        back = ref_max_pool_backward(from_layout(dy, p.layout), places, p.x.shape[2:])
        assert_equal(from_layout(dx, p.layout), back)


def test_adaptive_of_one_int_is_every_axis(rng):
    x = integers(rng, (2, 3, 6, 7))
    np.testing.assert_array_equal(fastconv.adaptive_avg_pool2d(x, 2), fastconv.adaptive_avg_pool2d(x, (2, 2)))
    np.testing.assert_array_equal(fastconv.adaptive_max_pool2d(x, 2), fastconv.adaptive_max_pool2d(x, (2, 2)))


def test_adaptive_max_propagates_nan():
    x = np.zeros((1, 1, 4, 4))
    x[0, 0, 1, 2:] = np.nan
    values, indices = fastconv.adaptive_max_pool2d(x, 2, return_indices=True)
    np.testing.assert_array_equal(np.isnan(values[0, 0]), [[False, True], [False, False]])
    assert indices[0, 0, 0, 1] == 6


# --- derivatives, batches --------------------------------------------------------------------------------


def pool_pairs(ndim, layout, x):
    """Each pooling as (forward, backward of an output gradient), in the given layout where it has one."""
    window = {"kernel_size": 3, "stride": 2, "padding": 1, "layout": layout}
    _, indices = function("max_pool{}", ndim)(x, **window, return_indices=True)
    pairs = {
        "max": (
            lambda v: function("max_pool{}", ndim)(v, **window),
            lambda d: function("max_pool{}_backward", ndim)(d, indices, x.shape, layout=layout),
        ),
        "avg": (
            lambda v: function("avg_pool{}", ndim)(v, **window, ceil_mode=True, count_include_pad=False),
            lambda d: function("avg_pool{}_backward", ndim)(
                d, x.shape, **window, ceil_mode=True, count_include_pad=False
            ),
        ),
    }
    if not layout.endswith("C"):
        _, places = function("adaptive_max_pool{}", ndim)(x, 3, return_indices=True)
        pairs["adaptive avg"] = (
            lambda v: function("adaptive_avg_pool{}", ndim)(v, 3),
            lambda d: function("adaptive_avg_pool{}_backward", ndim)(d, x.shape),
        )
        pairs["adaptive max"] = (
            lambda v: function("adaptive_max_pool{}", ndim)(v, 3),
            lambda d: function("adaptive_max_pool{}_backward", ndim)(d, places, x.shape),
        )
    return pairs


@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
def test_gradients_are_derivatives(ndim, layout, rng):
    shape = layout_shape((2, 2, *(5, 4, 4)[:ndim]), layout)
    x = rng.permutation(np.arange(float(np.prod(shape)))).reshape(shape)  # no ties near any step
    for name, (forward, backward) in pool_pairs(ndim, layout, x).items():
        dy = rng.standard_normal(forward(x).shape)
        numeric = central_difference(lambda v, f=forward, d=dy: float(np.sum(f(v) * d)), x, 1e-3)
        np.testing.assert_allclose(backward(dy), numeric, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
def test_unbatched(ndim, layout, rng):
    x = to_layout(integers(rng, (1, 3, *(6, 5, 4)[:ndim])), layout)
    window = {"kernel_size": 2, "stride": 1, "layout": layout}
    batched = function("max_pool{}", ndim)(x, **window, return_indices=True)
    single = function("max_pool{}", ndim)(x[0], **window, return_indices=True)
    for a, b in zip(batched, single, strict=True):
        np.testing.assert_array_equal(b, a[0])
    dx = function("max_pool{}_backward", ndim)(single[0], single[1], x[0].shape, layout=layout)
    np.testing.assert_array_equal(
        dx, function("max_pool{}_backward", ndim)(*batched, x.shape, layout=layout)[0]
    )
    dx = function("max_pool{}_backward_ties", ndim)(single[0], x[0], **window)
    np.testing.assert_array_equal(dx, function("max_pool{}_backward_ties", ndim)(batched[0], x, **window)[0])
    y = function("avg_pool{}", ndim)(x, **window)
    np.testing.assert_array_equal(function("avg_pool{}", ndim)(x[0], **window), y[0])
    dx = function("avg_pool{}_backward", ndim)(y[0], x[0].shape, **window)
    np.testing.assert_array_equal(dx, function("avg_pool{}_backward", ndim)(y, x.shape, **window)[0])


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_adaptive_and_unpool_unbatched(ndim, rng):
    x = integers(rng, (1, 3, *(6, 4, 4)[:ndim]))
    for name in ("adaptive_avg_pool{}", "adaptive_max_pool{}"):
        np.testing.assert_array_equal(function(name, ndim)(x[0], 2), function(name, ndim)(x, 2)[0])
    values, indices = function("max_pool{}", ndim)(x, 2, return_indices=True)
    np.testing.assert_array_equal(
        function("max_unpool{}", ndim)(values[0], indices[0], 2),
        function("max_unpool{}", ndim)(values, indices, 2)[0],
    )


@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
def test_zero_length_batch(ndim, layout):
    x = np.zeros(layout_shape((0, 2, *(4,) * ndim), layout), np.float32)
    values, indices = function("max_pool{}", ndim)(x, 2, return_indices=True, layout=layout)
    assert values.shape == indices.shape == layout_shape((0, 2, *(2,) * ndim), layout)
    back = function("max_pool{}_backward", ndim)(values, indices, x.shape, layout=layout)
    assert back.shape == x.shape
    assert function("max_pool{}_backward_ties", ndim)(values, x, 2, layout=layout).shape == x.shape
    assert function("avg_pool{}", ndim)(x, 2, layout=layout).shape == values.shape
    back = function("avg_pool{}_backward", ndim)(values, x.shape, 2, layout=layout)
    assert back.shape == x.shape


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_any_memory(disguise, layout, rng):
    x = to_layout(integers(rng, (2, 40, 9, 8), np.float32), layout)
    dress = DISGUISES[disguise]
    for name, arguments in (("max_pool2d", {"return_indices": True}), ("avg_pool2d", {})):
        pool = getattr(fastconv, name)
        got = pool(dress(x), 3, 2, 1, **arguments, layout=layout)
        np.testing.assert_array_equal(got, pool(x, 3, 2, 1, **arguments, layout=layout))


VIEWS = {
    "crop": lambda a: np.pad(a, [(0, 0)] * (a.ndim - 2) + [(2, 3)] * 2)[..., 2:-3, 2:-3],
    "flipped": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "every second of the last axis": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "every second channel or line": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "Fortran order": np.asfortranarray,
    "the other layout's memory": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1),
    "this layout's, turned": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 1)), 1, -1),
    "images last": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, -1)), -1, 0),
    "one channel broadcast": lambda a: np.broadcast_to(a[:, :1], a.shape),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_views_give_what_their_copies_give(dtype, ndim, layout, view, rng, monkeypatch):
    """In several portions, in either order of the axes."""
    monkeypatch.setattr(pool_passes, "COPIED_BYTES", 2**17)
    monkeypatch.setattr(pool_passes, "IMAGE_BYTES", 2**18)
    shape = layout_shape((5, 24, *((4000,), (70, 60), (18, 15, 16))[ndim - 1]), layout)
    x = VIEWS[view](integers(rng, shape, dtype))
    window = {"kernel_size": 3, "stride": 2, "padding": 1, "layout": layout}
    y, i = function("max_pool{}", ndim)(np.ascontiguousarray(x), **window, return_indices=True)
    dy, where = VIEWS[view](integers(rng, y.shape, dtype)), VIEWS[view](i)
    calls = {
        "max": lambda x, dy, i: function("max_pool{}", ndim)(x, **window),
        "indices": lambda x, dy, i: function("max_pool{}", ndim)(x, **window, return_indices=True)[1],
        "max, backward": lambda x, dy, i: function("max_pool{}_backward", ndim)(
            dy, i, x.shape, layout=layout
        ),
        "ties": lambda x, dy, i: function("max_pool{}_backward_ties", ndim)(dy, x, **window),
        "avg": lambda x, dy, i: function("avg_pool{}", ndim)(x, **window, count_include_pad=False),
        "avg, backward": lambda x, dy, i: function("avg_pool{}_backward", ndim)(
            dy, x.shape, **window, count_include_pad=False
        ),
        "adaptive avg": lambda x, dy, i: function("adaptive_avg_pool{}", ndim)(x, 1, layout=layout),
        "adaptive max": lambda x, dy, i: function("adaptive_max_pool{}", ndim)(x, 4, layout=layout),
    }
    copies = [np.ascontiguousarray(array) for array in (x, dy, where)]
    for name, call in calls.items():
        got, expected = call(x, dy, where), call(*copies)
        assert_fresh(got)
        assert got.dtype == expected.dtype
        # A mean may be summed in another order.
        tolerance = TOLERANCE[got.dtype] if "avg" in name else 0
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=name)
    for array, copy in zip((x, dy, where), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("channels", [1, 3])
def test_few_channels_that_are_last_are_as_if_they_were_first(channels, rng):
    x = integers(rng, (2, channels, 160, 150), np.float32)
    y, i = fastconv.max_pool2d(to_layout(x, "NHWC"), 3, 2, 1, return_indices=True, layout="NHWC")
    expected, places = fastconv.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert_equal(from_layout(y, "NHWC"), expected)
    assert_equal(from_layout(i, "NHWC"), places)
    means = fastconv.avg_pool2d(to_layout(x, "NHWC"), 2, layout="NHWC")
    assert_equal(from_layout(means, "NHWC"), fastconv.avg_pool2d(x, 2))
    dx = fastconv.avg_pool2d_backward(means, (2, 160, 150, channels), 2, layout="NHWC")
    assert_equal(
        from_layout(dx, "NHWC"), fastconv.avg_pool2d_backward(from_layout(means, "NHWC"), x.shape, 2)
    )


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kernel", [40, 10**9])
def test_windows_far_larger_than_the_input(kernel, layout, rng):
    """Nothing is as large, or takes as long, as the windows: all of them hold the whole plane."""
    x = integers(rng, (2, 3, 6, 5))
    window = {"kernel_size": kernel, "stride": 1, "padding": kernel // 2, "layout": layout}
    y, i = fastconv.max_pool2d(to_layout(x, layout), **window, return_indices=True)
    planes = x.reshape(2, 3, -1)
    outputs = (2, 3, 7, 6)
    assert_equal(from_layout(y, layout), np.broadcast_to(planes.max(-1)[..., None, None], outputs))
    assert_equal(from_layout(i, layout), np.broadcast_to(planes.argmax(-1)[..., None, None], outputs))
    means = fastconv.avg_pool2d(to_layout(x, layout), **window, count_include_pad=False)
    close(from_layout(means, layout), np.broadcast_to(planes.mean(-1)[..., None, None], outputs))
    dx = fastconv.max_pool2d_backward_ties(np.ones_like(y), to_layout(x, layout), **window)
    assert_equal(from_layout(dx, layout), 42 * (x == planes.max(-1)[..., None, None]))
    dx = fastconv.avg_pool2d_backward(np.ones_like(y), to_layout(x, layout).shape, **window)
    close(dx, np.full(dx.shape, 42 / kernel**2))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_large_planes_and_threads(layout, rng):
    x = rng.standard_normal((4, 70, 64, 62), np.float32)
    expected = np.max(x.reshape(4, 70, 32, 2, 31, 2), axis=(3, 5))
    means = np.mean(x.reshape(4, 70, 32, 2, 31, 2), axis=(3, 5), dtype=np.float64)
    results = []
    for threads in (1, 2, 3):
        with fastconv.num_threads(threads):
            y, i = fastconv.max_pool2d(to_layout(x, layout), 2, return_indices=True, layout=layout)
            a = fastconv.avg_pool2d(to_layout(x, layout), 2, layout=layout)
            overlapping = fastconv.max_pool2d(
                to_layout(x, layout), 3, 2, 1, return_indices=True, layout=layout
            )
            d = fastconv.max_pool2d_backward(*overlapping, to_layout(x, layout).shape, layout=layout)
            results.append((y, i, a, d))
    y, i, a, _ = results[0]
    np.testing.assert_array_equal(from_layout(y, layout), expected)
    planes = x.reshape(4, 70, -1)
    picked = np.take_along_axis(planes, from_layout(i, layout).reshape(4, 70, -1), axis=2)
    np.testing.assert_array_equal(picked.reshape(expected.shape), expected)
    close(from_layout(a, layout), means)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("padding", [2, (1, 2), ((0, 2), (0, 0))])
@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_padding_beyond_half_the_kernel_raises(name, padding):
    with pytest.raises(ValueError, match=r"^padding(\[\d\])?(\[\d\])? must be .*half.*, got "):
        getattr(fastconv, name)(np.zeros((1, 1, 8, 8)), 3, padding=padding)


def test_windows_without_an_input_cell():
    """Padding and dilation can leave a window empty: -inf, index -1, and nothing comes back through it."""
    x = np.ones((1, 1, 1))
    y, i = fastconv.max_pool1d(x, 2, 1, 1, dilation=2, return_indices=True)
    assert np.isneginf(y).all()
    np.testing.assert_array_equal(i, [[[-1]]])
    np.testing.assert_array_equal(fastconv.max_pool1d_backward(y, i, x.shape), np.zeros(x.shape))
    dx = fastconv.max_pool1d_backward_ties(np.ones_like(y), x, 2, 1, 1, dilation=2)
    np.testing.assert_array_equal(dx, np.zeros(x.shape))
    with pytest.raises(ValueError, match=r"^input must be of a float dtype where a window is all padding"):
        fastconv.max_pool1d_backward_ties(np.ones_like(y), x.astype(int), 2, 1, 1, dilation=2)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_mean_of_whole_planes_is_not_that_of_wide_windows(layout):
    x = integers(np.random.default_rng(0), layout_shape((2, 3, 90, 70), layout), np.float64)
    means = fastconv.avg_pool2d(x, (90, 70), layout=layout)
    np.testing.assert_allclose(means, fastconv.adaptive_avg_pool2d(x, 1, layout=layout))
    first = x if layout == "NCHW" else x.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(means.reshape(2, 3), first.mean((2, 3)))
