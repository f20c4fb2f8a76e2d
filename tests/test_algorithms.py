"""Every algorithm by name: all that it serves equals the plain loops, the rest is an error that says why."""

import numpy as np
import pytest
from helpers import assert_equal, from_layout, function, layout_shape, to_layout
from hypothesis import given
from hypothesis import strategies as st
from oracles import ref_conv, ref_conv_backward_input, ref_conv_backward_weight
from strategies import conv_problems, examples

import fastconv
from fastconv.algorithms import ALGORITHMS
from fastconv.kernels import vectors

NAMES = [algorithm.name for algorithm in ALGORITHMS]
PASSES = ("forward", "backward_input", "backward_weight")


def plan_of(p, name):
    sizes = [layout_shape(a.shape, p.layout) for a in (p.x, p.w)]
    return function("plan_conv{}", p.ndim)(*sizes, **p.arguments, dtype=p.x.dtype, algorithm=name)


def run(plan, which, x, w, dy, bias=None):
    """One pass of a plan."""
    if which == "forward":
        return plan(x, w, bias)
    return plan.backward_input(dy, w) if which == "backward_input" else plan.backward_weight(dy, x)


def check(plan, p, bias=None):
    """All that a plan serves against the loops; an error for what it does not."""
    arrays = [p.dressed(to_layout(a, p.layout)) for a in (p.x, p.w, p.dy)]
    for which in PASSES:
        if which not in plan.algorithms:
            with pytest.raises(ValueError, match=r"^algorithm must be able to compute the .* pass, got "):
                run(plan, which, *arrays)
            continue
        expected = {
            "forward": lambda: ref_conv(p.x, p.w, *p.resolved),
            "backward_input": lambda: ref_conv_backward_input(p.dy, p.w, p.x.shape[2:], *p.resolved),
            "backward_weight": lambda: ref_conv_backward_weight(p.dy, p.x, p.w.shape[2:], *p.resolved),
        }[which]()
        if which == "forward" and bias is not None:
            expected += bias.astype(np.float64).reshape(-1, *[1] * p.ndim)
        assert_equal(from_layout(run(plan, which, *arrays, bias), p.layout), expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_equals_the_loops(name):
    @given(conv_problems())
    @examples(150)
    def every(p):
        check(plan_of(p, name), p, p.bias)

    every()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_edge_of_the_tiles(name, dtype):
    """Filters and pixels from one to beyond two full tiles, one tap and several."""
    lanes = vectors.VECTOR_BYTES // np.dtype(dtype).itemsize
    widths = st.integers(1, 2 * vectors.VECTORS * lanes + 3)

    @given(
        widths, st.integers(1, 2 * vectors.FILTERS + 3), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1)
    )
    @examples(120)
    def every(width, filters, kernel, seed):
        rng = np.random.default_rng(seed)
        x = rng.integers(-3, 4, (2, 2, 1, width)).astype(dtype)
        w = rng.integers(-3, 4, (filters, 2, 1, kernel)).astype(dtype)
        pad = kernel // 2
        plan = fastconv.plan_conv2d(x.shape, w.shape, 1, ((0, 0), (pad, pad)), dtype=dtype, algorithm=name)
        steps = ((1, 1), ((0, 0), (pad, pad)), (1, 1), 1)
        assert_equal(plan(x, w), ref_conv(x, w, *steps))
        dy = rng.integers(-3, 4, plan.output_size).astype(dtype)
        assert_equal(plan.backward_input(dy, w), ref_conv_backward_input(dy, w, (1, width), *steps))
        if "backward_weight" in plan.algorithms:
            assert_equal(plan.backward_weight(dy, x), ref_conv_backward_weight(dy, x, (1, kernel), *steps))

    every()


@pytest.mark.parametrize("name", NAMES)
def test_several_bands_and_parted_filters(name):
    """One image whose grid has no room for all lines, and one with few pixels and many filters."""
    rng = np.random.default_rng(0)
    for size, filters, stride in (
        ((1, 24, 130, 120), 9, 1),
        ((1, 24, 130, 120), 9, 2),
        ((1, 256, 9, 9), 136, 1),
    ):
        x = rng.integers(-2, 3, size).astype(np.float32)
        w = rng.integers(-2, 3, (filters, size[1], 3, 3)).astype(np.float32)
        plan = fastconv.plan_conv2d(x.shape, w.shape, stride, 1, algorithm=name)
        reference = fastconv.plan_conv2d(x.shape, w.shape, stride, 1, algorithm="im2col")
        dy = rng.integers(-2, 3, plan.output_size).astype(np.float32)
        results = []
        for threads in (1, 2, 3):
            with fastconv.num_threads(threads):
                if "forward" in plan.algorithms:
                    results.append((plan(x, w), reference(x, w)))
                if "backward_input" in plan.algorithms:
                    results.append((plan.backward_input(dy, w), reference.backward_input(dy, w)))
        for got, expected in results:
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_spreads_as_in_the_loops(name, value):
    """A cell at the end of a line, and a weight, that must not leak beyond the sums they belong to."""
    rng = np.random.default_rng(0)
    x, w = rng.random((2, 3, 9, 8)), rng.random((4, 3, 3, 3))
    dy = rng.random((2, 4, 7, 6))
    broken_x, broken_w = x.copy(), w.copy()
    broken_x[1, 2, 4, 7] = value  # only taps at the right edge meet it
    broken_w[1, 2, 0, 0] = value
    plan = fastconv.plan_conv2d(x.shape, w.shape, dtype="float64", algorithm=name)
    steps = ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    with np.errstate(invalid="ignore"):  # NumPy's matmul in the oracles warns of infinities
        y = ref_conv(broken_x, w, *steps)
        dx = ref_conv_backward_input(dy, broken_w, (9, 8), *steps)
        dw = ref_conv_backward_weight(dy, broken_x, (3, 3), *steps)
    assert 0 < np.isfinite(dw).sum() < dw.size
    np.testing.assert_allclose(plan(broken_x, w), y)
    np.testing.assert_allclose(plan.backward_input(dy, broken_w), dx)
    np.testing.assert_allclose(plan.backward_weight(dy, broken_x), dw)


def test_what_virtual_columns_do_not_serve_says_why():
    last = fastconv.plan_conv2d((1, 8, 8, 4), (4, 3, 3, 4), layout="NHWC", algorithm="virtual")
    assert last.algorithms == {}
    x, w = np.zeros((1, 8, 8, 4), np.float32), np.zeros((4, 3, 3, 4), np.float32)
    with pytest.raises(ValueError, match="not contiguous with the channels last"):
        last(x, w)
    long = fastconv.plan_conv1d((1, 64, 10**6), (64, 64, 9), algorithm="virtual")
    assert "forward" not in long.algorithms
    assert fastconv.plan_conv1d((1, 64, 10**6), (64, 64, 9)).algorithms["forward"] == "im2col"


def test_auto_takes_the_fast_one_where_it_is_faster():
    assert (
        fastconv.plan_conv2d((8, 256, 14, 14), (64, 256, 3, 3), padding=1).algorithms["forward"] == "virtual"
    )
    assert set(fastconv.plan_conv2d((8, 3, 32, 32), (8, 3, 3, 3)).algorithms.values()) == {"lines"}
    assert fastconv.plan_conv2d((8, 64, 56, 56), (64, 64, 1, 1)).algorithms["forward"] == "im2col"
