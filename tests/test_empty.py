"""Extents of zero: sums of nothing are zero, results without cells are empty arrays, as in plain loops."""

import math

import numpy as np
import oracles
import pytest
from helpers import FIRST, LAST, assert_equal, function, integers, layout_shape, to_layout
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import (
    DTYPES,
    ConvProblem,
    TransposeProblem,
    draw_output_padding,
    draw_padding,
    draw_pool_padding,
    examples,
    spread,
)

import fastconv

ALGORITHMS = st.sampled_from(["auto", "im2col", "winograd", "gemm"])


# --- problems in which something is zero -----------------------------------------------------------------


def draw_extents(draw, kernel, stride, padding, dilation):
    """Input extents with no cell along one axis, or with windows that just do not fit there."""
    zero = draw(st.integers(0, len(kernel) - 1))
    extents = []
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        reach = d * (k - 1) + 1
        pads = oracles.resolve_padding(padding, (reach,) * len(kernel), kernel, stride, dilation)[axis]
        # Named paddings follow the extent; the drawn one is then checked by the caller.
        fits = max(reach - sum(pads), 0)
        if axis == zero:
            extents.append(draw(st.sampled_from([0, max(fits - draw(st.integers(1, s)), 0)])))
        else:
            extents.append(fits + draw(st.integers(0, 2)))
    return tuple(extents)


def draw_steps(draw):
    ndim = draw(st.sampled_from((1, 2, 2, 3)))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(ndim))
    stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(ndim)) for _ in range(2))
    groups = draw(st.sampled_from((1, 1, 2)))
    channels, filters = (groups * draw(st.sampled_from((1, 1, 2, 0))) for _ in range(2))
    common = {
        "ndim": ndim,
        "layout": draw(st.sampled_from((FIRST[ndim], LAST[ndim]))),
        "stride": stride,
        "padding": draw_padding(draw, ndim, high=3),
        "dilation": dilation,
        "groups": groups,
        "disguise": draw(st.sampled_from(["strided", "negative", "transposed"])),
    }
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return kernel, channels, filters, draw(st.integers(1, 2)), draw(st.sampled_from(DTYPES)), rng, common


@st.composite
def empty_problems(draw):
    """A convolution with an extent of zero, among its cells, its channels or its filters."""
    kernel, channels, filters, batch, dtype, rng, common = draw_steps(draw)
    stride, dilation, padding, groups = (common[n] for n in ("stride", "dilation", "padding", "groups"))
    extents = draw_extents(draw, kernel, stride, padding, dilation)
    pairs = oracles.resolve_padding(padding, extents, kernel, stride, dilation)
    outputs = oracles.output_extents(extents, kernel, stride, pairs, dilation)
    assume(min(outputs) >= 0)
    assume(0 in (channels, filters, *extents, *outputs))
    return ConvProblem(
        x=integers(rng, (batch, channels, *extents), dtype),
        w=integers(rng, (filters, channels // groups, *kernel), dtype),
        bias=draw(st.sampled_from([None, integers(rng, filters, dtype)])),
        dy=integers(rng, (batch, filters, *outputs), dtype),
        **common,
    )


@st.composite
def empty_transposes(draw):
    """A transposed convolution with an extent of zero."""
    kernel, channels, filters, batch, dtype, rng, common = draw_steps(draw)
    ndim, padding, groups = common["ndim"], common["padding"], common["groups"]
    extra = spread(draw_output_padding(draw, common, padding), ndim)
    steps = common["stride"], padding, extra, common["dilation"]
    extents = tuple(draw(st.integers(0, 2)) for _ in range(ndim))
    _, outputs = oracles.transpose_geometry(extents, kernel, *steps)
    assume(min(outputs) >= 0)
    assume(0 in (channels, filters, *extents, *outputs))
    return TransposeProblem(
        x=integers(rng, (batch, channels, *extents), dtype),
        w=integers(rng, (channels, filters // groups, *kernel), dtype),
        bias=draw(st.sampled_from([None, integers(rng, filters, dtype)])),
        dy=integers(rng, (batch, filters, *outputs), dtype),
        output_padding=extra,
        **common,
    )


def laid(p, array):
    return p.dressed(to_layout(array, p.layout)) if array.size else to_layout(array, p.layout)


def with_bias(y, bias):
    return y if bias is None else y + bias.astype(np.float64).reshape(-1, *[1] * (y.ndim - 2))


def assert_laid(got, p, expected, dtype):
    assert got.dtype == dtype
    assert_equal(got, to_layout(expected, p.layout))


# --- convolution -----------------------------------------------------------------------------------------


@given(empty_problems(), ALGORITHMS)
@examples(200)
def test_convolution(p, algorithm):
    """All passes, by function and by plan."""
    x, w, dy = (laid(p, array) for array in (p.x, p.w, p.dy))
    extents, kernel, dtype = p.x.shape[2:], p.w.shape[2:], p.x.dtype
    named = {**p.arguments, "algorithm": algorithm}
    y = with_bias(oracles.ref_conv(p.x, p.w, *p.resolved), p.bias)
    dx = oracles.ref_conv_backward_input(p.dy, p.w, extents, *p.resolved)
    dw = oracles.ref_conv_backward_weight(p.dy, p.x, kernel, *p.resolved)
    assert_laid(function("conv{}", p.ndim)(x, w, p.bias, **named), p, y, dtype)
    got = function("conv{}_backward", p.ndim)(dy, x, w, **named)
    assert_laid(got.input, p, dx, dtype)
    assert_laid(got.weight, p, dw, dtype)
    assert_equal(got.bias, oracles.ref_bias_gradient(p.dy))
    assert_laid(function("conv{}_backward_input", p.ndim)(dy, w, x.shape, **named), p, dx, dtype)
    assert_laid(function("conv{}_backward_weight", p.ndim)(dy, x, w.shape, **named), p, dw, dtype)

    plan = function("plan_conv{}", p.ndim)(x.shape, w.shape, dtype=dtype, **named)
    assert plan.output_size == layout_shape(y.shape, p.layout)
    assert (set(plan.algorithms.values()), plan.scratch_bytes) == ({"empty"}, 0)
    assert plan.describe()
    out = np.full(plan.output_size, 99, dtype)
    assert plan(x, w, p.bias, out) is out
    assert_laid(out, p, y, dtype)
    assert_laid(plan.backward_input(dy, w), p, dx, dtype)
    assert_laid(plan.backward_weight(dy, x), p, dw, dtype)


@given(empty_transposes(), ALGORITHMS)
@examples(200)
def test_transposed_convolution(p, algorithm):
    x, w, dy = (laid(p, array) for array in (p.x, p.w, p.dy))
    named = {**p.arguments, "algorithm": algorithm}
    y = with_bias(oracles.ref_conv_transpose(p.x, p.w, *p.resolved), p.bias)
    assert_laid(function("conv_transpose{}", p.ndim)(x, w, p.bias, **named), p, y, p.x.dtype)
    got = function("conv_transpose{}_backward", p.ndim)(dy, x, w, **named)
    dx, dw, db = oracles.ref_conv_transpose_backward(p.dy, p.x, p.w, *p.resolved)
    assert_laid(got.input, p, dx, p.x.dtype)
    assert_laid(got.weight, p, dw, p.x.dtype)
    assert_equal(got.bias, db)


@given(empty_problems())
@examples(100)
def test_columns(p):
    stride, pairs, dilation, _ = p.resolved
    kernel, extents = p.w.shape[2:], p.x.shape[2:]
    steps = kernel, dilation, pairs, stride
    columns = oracles.ref_im2col(p.x, *steps)
    assert_equal(fastconv.im2col(p.x, *steps), columns)
    columns = integers(np.random.default_rng(0), columns.shape, p.x.dtype)
    assert_equal(fastconv.col2im(columns, extents, *steps), oracles.ref_col2im(columns, extents, *steps))


@given(empty_problems())
@examples(50)
def test_matrix(p):
    matrix = fastconv.conv_matrix(p.w, p.x.shape, *p.resolved)
    y = oracles.ref_conv(p.x, p.w, *p.resolved)
    assert matrix.shape == (y[0].size, p.x[0].size)
    assert_equal(matrix @ p.x[0].ravel().astype(matrix.dtype), y[0].ravel())


def test_one_cell_more_than_that_is_too_large():
    """floor((8 - reach) / stride) + 1 is 0 for a reach of 9, and -1 for 10; of 8 + stride and one more."""
    x = np.ones((1, 1, 8))
    for stride in (1, 3):
        assert fastconv.conv1d(x, np.ones((1, 1, 8 + stride)), None, stride).shape == (1, 1, 0)
        assert fastconv.max_pool1d(x, 8 + stride, stride).shape == (1, 1, 0)
        for call in (
            lambda k, stride=stride: fastconv.conv1d(x, np.ones((1, 1, k)), None, stride),
            lambda k, stride=stride: fastconv.max_pool1d(x, k, stride),
            lambda k, stride=stride: fastconv.im2col(x, (k,), 1, 0, stride),
        ):
            with pytest.raises(ValueError, match=r"^input must be at least as large as the dilated kernel"):
                call(9 + stride)


def test_a_kernel_has_taps():
    for layout, shape in (("NCHW", (1, 1, 0, 3)), ("NHWC", (1, 3, 0, 1))):
        with pytest.raises(ValueError, match=r"^weight must be of at least 1 in every extent of the kernel"):
            fastconv.conv2d(np.ones((1, 1, 4, 1)), np.ones(shape), layout=layout)


# --- pooling ---------------------------------------------------------------------------------------------


@st.composite
def empty_poolings(draw, dilated):
    """An input (N, C, *extents), `(kernel, stride, padding, dilation)` and whether the last may overhang."""
    ndim = draw(st.sampled_from((1, 2, 2, 3)))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(ndim))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(ndim))
    dilation = tuple(draw(st.integers(1, 2)) if dilated else 1 for _ in range(ndim))
    padding = draw_pool_padding(draw, kernel)
    extents = draw_extents(draw, kernel, stride, padding, dilation)
    ceil_mode = draw(st.booleans())
    pairs = oracles.resolve_padding(padding, extents, kernel, stride, dilation)
    outputs = oracles.output_extents(extents, kernel, stride, pairs, dilation, ceil_mode)
    channels = draw(st.sampled_from((1, 2, 0)))
    assume(min(outputs) >= 0)
    assume(0 in (channels, *extents, *outputs))
    shape = (draw(st.integers(1, 2)), channels, *extents)
    x = integers(np.random.default_rng(0), shape, draw(st.sampled_from(DTYPES)))
    return x, (kernel, stride, padding, dilation), pairs, ceil_mode, draw(st.booleans())


@given(empty_poolings(dilated=True))
@examples(150)
def test_max_pooling(problem):
    """A window of nothing but padding gives -inf and the index -1."""
    x, (kernel, stride, padding, dilation), pairs, ceil_mode, last = problem
    ndim = x.ndim - 2
    layout = (LAST if last else FIRST)[ndim]
    image = to_layout(x, layout)
    expected, at = oracles.ref_max_pool(x, kernel, stride, pairs, dilation, ceil_mode)
    expected = np.where(at < 0, -np.inf, expected)
    steps = kernel, stride, padding, dilation, ceil_mode
    pool, pool_backward = function("max_pool{}", ndim), function("max_pool{}_backward", ndim)
    values, indices = pool(image, *steps, return_indices=True, layout=layout)
    assert values.dtype == x.dtype
    assert_equal(values, to_layout(expected, layout))
    assert_equal(indices, to_layout(at, layout))
    assert_equal(pool(image, *steps, layout=layout), values)
    dx = pool_backward(np.ones_like(values), indices, image.shape, layout=layout)
    inside = oracles.ref_max_pool_backward((at >= 0) * 1.0, np.maximum(at, 0), x.shape[2:]) if x.size else x
    assert_equal(dx, to_layout(inside, layout))
    whole = image.astype(np.int16)
    if (at < 0).any():
        with pytest.raises(ValueError, match=r"^input must be of a float dtype"):
            pool(whole, *steps, layout=layout)
    else:
        assert_equal(pool(whole, *steps, layout=layout), values)


@given(empty_poolings(dilated=False), st.booleans(), st.sampled_from([None, 3]))
@examples(150)
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # in the oracle
def test_average_pooling(problem, count_include_pad, divisor):
    """The mean of padding is 0; where it does not count, the mean of nothing is NaN."""
    x, (kernel, stride, padding, _), pairs, ceil_mode, last = problem
    ndim = x.ndim - 2
    layout = (LAST if last else FIRST)[ndim]
    counted = count_include_pad, divisor
    expected = oracles.ref_avg_pool(x, kernel, stride, pairs, ceil_mode, *counted)
    steps = kernel, stride, padding, ceil_mode, *counted
    image = to_layout(x, layout)
    got = function("avg_pool{}", ndim)(image, *steps, layout=layout)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, to_layout(expected, layout))
    dx = function("avg_pool{}_backward", ndim)(np.ones_like(got), image.shape, *steps, layout=layout)
    assert_equal(dx, np.zeros(image.shape))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("shape", "output"),
    [((2, 3, 5, 4), (0, 2)), ((2, 3, 5, 4), 0), ((2, 3, 0, 4), (None, 2)), ((2, 0, 5, 4), (3, 2))],
)
def test_adaptive_pooling(shape, output, layout):
    x = to_layout(np.ones(shape), layout)
    extents = (output, output) if output == 0 else tuple(0 if n is None else n for n in output)
    wanted = layout_shape((*shape[:2], *extents), layout)
    assert fastconv.adaptive_avg_pool2d(x, output, layout=layout).shape == wanted
    values, indices = fastconv.adaptive_max_pool2d(x, output, True, layout=layout)
    assert values.shape == indices.shape == wanted
    for dx in (
        fastconv.adaptive_avg_pool2d_backward(values, x.shape, layout=layout),
        fastconv.adaptive_max_pool2d_backward(values, indices, x.shape, layout=layout),
    ):
        assert_equal(dx, np.zeros(x.shape))


def test_adaptive_windows_without_cells():
    """No padding fills them: their mean and their maximum are nothing at all."""
    for call in (fastconv.adaptive_avg_pool2d, fastconv.adaptive_max_pool2d):
        with pytest.raises(ValueError, match=r"^input must be of at least 1 in every spatial extent"):
            call(np.ones((1, 1, 0, 4)), 2)
    with pytest.raises(ValueError, match=r"^input_size must be of at least 1 in every spatial extent"):
        fastconv.adaptive_avg_pool2d_backward(np.ones((1, 1, 2, 2)), (1, 1, 0, 4))


def test_unpooling():
    x, indices = np.ones((2, 3, 0, 2)), np.zeros((2, 3, 0, 2), np.int64)
    y = fastconv.max_unpool2d(x, indices, 2)
    assert y.shape == (2, 3, 0, 4)
    assert fastconv.max_unpool2d_backward(y, indices).shape == x.shape
    y = fastconv.max_unpool2d(x, indices, (3, 2), (2, 2))
    assert_equal(y, np.zeros((2, 3, 1, 4)))
    # Windows that had no cell: nothing comes of them, whatever the indices of others may be.
    nowhere = np.full((1, 1, 1, 1), -1)
    assert fastconv.max_unpool2d(np.ones((1, 1, 1, 1)), nowhere, 2, 2, 1, (0, 0)).shape == (1, 1, 0, 0)
    assert_equal(fastconv.max_unpool2d_backward(np.ones((1, 1, 0, 0)), nowhere), np.zeros((1, 1, 1, 1)))
    for call in (
        lambda: fastconv.max_unpool2d(np.ones((1, 1, 1, 1)), nowhere + 1, 2, 2, 1, (0, 0)),
        lambda: fastconv.max_unpool2d_backward(np.ones((1, 1, 0, 0)), nowhere + 1),
        lambda: fastconv.max_pool2d_backward(np.ones((1, 1, 1, 1)), nowhere + 1, (1, 1, 0, 0)),
    ):
        with pytest.raises(ValueError, match=r"^indices must be -1 in planes without cells, got 1 outside"):
            call()


def test_unbatched():
    x, w = np.ones((2, 0, 5)), np.ones((3, 2, 3, 3))
    y = fastconv.conv2d(x, w, np.arange(3.0), padding=2)
    assert_equal(y, np.arange(3.0)[:, None, None] * np.ones((3, 2, 7)))
    assert fastconv.max_pool2d(x, (1, 2)).shape == (2, 0, 2)
    assert fastconv.im2col(x, 3, padding=2).shape == (2 * 9, 2 * 7)
    assert math.prod(fastconv.conv2d_backward_input(y, w, x.shape, padding=2).shape) == 0
