"""Groups of whole vectors: every tile, edge and phase of both layouts against the plain loops."""

import contextlib

import numpy as np
import pytest
from helpers import assert_equal, from_layout, integers, layout_shape, negative, to_layout
from hypothesis import given
from hypothesis import strategies as st
from oracles import output_extents, ref_conv, ref_conv_backward_input, ref_conv_backward_weight
from strategies import examples

import fastconv
from fastconv import plan
from fastconv.algorithms import bundles, jobs
from fastconv.kernels.vectors import VECTOR_BYTES


@contextlib.contextmanager
def small_units():
    """As many jobs, units and sums as there can be; plans made inside are not kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "JOB_MULTIPLICATIONS", 1)
        patch.setattr(bundles, "BAND_BYTES", 1)
        patch.setattr(bundles, "SUM_CELLS", 1)
        plan._cached_conv_plan.cache_clear()
        try:
            yield
        finally:
            plan._cached_conv_plan.cache_clear()


@st.composite
def bundled(draw):
    """(x, w, bias, dy, stride, padding, dilation, groups), channels first; a group's filters fill vectors."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    groups, filters = draw(st.integers(1, 3)), lanes * draw(st.sampled_from([1, 1, 2]))
    channels = draw(st.sampled_from([filters, filters, 1, 3, lanes, lanes + 3, 2 * lanes]))
    kernel = tuple(draw(st.sampled_from([1, 2, 3, 3, 5])) for _ in range(2))
    stride, dilation = (tuple(draw(st.integers(1, most)) for _ in range(2)) for most in (3, 2))
    padding = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(2))
    extents = []
    for k, d, pair, most in zip(kernel, dilation, padding, (5, 32), strict=True):
        least = max(1, d * (k - 1) + 1 - sum(pair))
        extents.append(draw(st.integers(least, least + most)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch = draw(st.integers(1, 3))
    x = integers(rng, (batch, groups * channels, *extents), dtype)
    w = integers(rng, (groups * filters, channels, *kernel), dtype)
    dy_extents = output_extents(extents, kernel, stride, padding, dilation)
    dy = integers(rng, (batch, groups * filters, *dy_extents), dtype)
    return x, w, integers(rng, groups * filters, dtype), dy, stride, padding, dilation, groups


def check(problem, layout, view=lambda array: array):
    """All passes that the algorithm serves in a layout equal the loops."""
    x, w, bias, dy, *steps = problem
    arrays = [view(to_layout(array, layout)) for array in (x, w, dy)]
    sizes = [layout_shape(array.shape, layout) for array in (x, w)]
    made = fastconv.plan_conv2d(*sizes, *steps, dtype=x.dtype, layout=layout, algorithm="bundles")
    expected = ref_conv(x, w, *steps) + bias.reshape(-1, 1, 1)
    assert_equal(from_layout(made(arrays[0], arrays[1], bias), layout), expected)
    dw = made.backward_weight(arrays[2], arrays[0])
    assert_equal(from_layout(dw, layout), ref_conv_backward_weight(dy, x, w.shape[2:], *steps))
    whole = w.shape[1] % (VECTOR_BYTES // x.itemsize) == 0
    assert ("backward_input" in made.algorithms) == whole
    if whole:
        dx = made.backward_input(arrays[2], arrays[1])
        assert_equal(from_layout(dx, layout), ref_conv_backward_input(dy, w, x.shape[2:], *steps))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_bundles_equal_the_loops(layout):
    @given(bundled())
    @examples(60)
    def every(problem):
        check(problem, layout)

    every()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_split_gives_the_same(layout):
    """Units of a line, jobs of a unit, and views that run backwards, which other algorithms serve."""

    @given(bundled(), st.booleans())
    @examples(30)
    def every(problem, backwards):
        with small_units():
            check(problem, layout, negative if backwards else lambda array: array)

    every()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_infinity_and_nan_travel_as_in_loops(layout):
    lanes = VECTOR_BYTES // 4
    rng = np.random.default_rng(1)
    x = integers(rng, (1, 2 * lanes, 5, 17), np.float32)
    w = integers(rng, (2 * lanes, lanes, 3, 3), np.float32)
    x[0, 1, 2, 3], x[0, lanes, 0, 16] = np.nan, np.inf
    steps = (1, 1), ((1, 1), (1, 1)), (1, 1), 2
    with np.errstate(invalid="ignore"):
        expected = ref_conv(x, w, *steps)
        # Gradients are finite: where others meet the padding, it is multiplied.
        dy = integers(rng, expected.shape, np.float32)
        weights = ref_conv_backward_weight(dy, x, (3, 3), *steps)
    arrays = [to_layout(array, layout) for array in (x, w, dy)]
    sizes = [array.shape for array in arrays[:2]]
    made = fastconv.plan_conv2d(*sizes, *steps, dtype="float32", layout=layout, algorithm="bundles")
    assert_equal(from_layout(made(*arrays[:2]), layout), expected)
    assert_equal(from_layout(made.backward_weight(arrays[2], arrays[0]), layout), weights)


def test_what_fills_no_vector_is_refused():
    lanes = VECTOR_BYTES // 4
    x, w = (1, 2 * lanes + 2, 5, 5), (2 * lanes + 2, lanes + 1, 3, 3)
    made = fastconv.plan_conv2d(x, w, groups=2, dtype="float32", algorithm="bundles")
    assert made.algorithms == {}
    with pytest.raises(ValueError, match="no whole vectors"):
        made(np.zeros(x, np.float32), np.zeros(w, np.float32))


def test_auto_takes_them_where_a_group_is_a_vector():
    lanes = VECTOR_BYTES // 4
    size, weight = (1, 20, 20, 4 * lanes), (4 * lanes, 3, 3, lanes)
    made = fastconv.plan_conv2d(size, weight, padding=1, groups=4, dtype="float32", layout="NHWC")
    assert set(made.algorithms.values()) == {"bundles"}
