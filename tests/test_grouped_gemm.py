"""Groups of whole vectors and parts of them: every tile, edge and phase against the plain loops."""

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
from fastconv.engine import grouped_gemm, partition
from fastconv.kernels.vectors import VECTOR_BYTES


@contextlib.contextmanager
def small_units():
    """As many partition, units and sums as there can be; plans made inside are not kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "JOB_MULTIPLICATIONS", 1)
        patch.setattr(grouped_gemm, "BAND_BYTES", 1)
        patch.setattr(grouped_gemm, "SUM_PIXELS", 1)
        patch.setattr(grouped_gemm, "MOST_BLOCKS", 2)
        plan._cached_conv_plan.cache_clear()
        try:
            yield
        finally:
            plan._cached_conv_plan.cache_clear()


@st.composite
def whole_groups(draw, lanes):
    """(groups, filters, channels) whose filters fill vectors."""
    filters = lanes * draw(st.sampled_from([1, 1, 2]))
    channels = draw(st.sampled_from([filters, filters, 1, 3, lanes, lanes + 3, 2 * lanes]))
    return draw(st.integers(1, 3)), filters, channels


@st.composite
def parts_of_vectors(draw, lanes):
    """(groups, filters, channels) of which a vector has two or four."""
    filters = draw(st.sampled_from([lanes // n for n in (2, 4) if lanes // n > 1] or [lanes]))
    return draw(st.integers(1, 5)) * (lanes // filters), filters, filters


@st.composite
def block_problems(draw, sizes=whole_groups):
    """(x, w, bias, dy, stride, padding, dilation, groups), channels first."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    groups, filters, channels = draw(sizes(VECTOR_BYTES // np.dtype(dtype).itemsize))
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
    made = fastconv.plan_conv2d(*sizes, *steps, dtype=x.dtype, layout=layout, algorithm="grouped_gemm")
    expected = ref_conv(x, w, *steps) + bias.reshape(-1, 1, 1)
    assert_equal(from_layout(made(arrays[0], arrays[1], bias), layout), expected)
    dw = made.backward_weight(arrays[2], arrays[0])
    assert_equal(from_layout(dw, layout), ref_conv_backward_weight(dy, x, w.shape[2:], *steps))
    square = len(w) == w.shape[1] * steps[3]
    served = w.shape[1] % (VECTOR_BYTES // x.itemsize) == 0 or square
    assert ("backward_input" in made.algorithms) == served
    if served:
        dx = made.backward_input(arrays[2], arrays[1])
        assert_equal(from_layout(dx, layout), ref_conv_backward_input(dy, w, x.shape[2:], *steps))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_channel_blocks_equal_the_loops(layout):
    @given(block_problems())
    @examples(60)
    def every(problem):
        check(problem, layout)

    every()


def test_several_groups_of_a_vector_equal_the_loops():
    @given(block_problems(parts_of_vectors))
    @examples(60)
    def every(problem):
        check(problem, "NHWC")

    every()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_width(dtype, count):
    """Whole and repeated tiles, and rows too short for three taps to share what they read."""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    if count > 1 and lanes // count < 2:
        pytest.skip("a vector has too few lanes")
    rng, filters = np.random.default_rng(1), lanes // count
    for width in range(1, 31):
        x = integers(rng, (1, lanes, 2, width), dtype)
        w = integers(rng, (lanes, filters, 2, 3), dtype)
        dy = integers(rng, (1, lanes, 3, width), dtype)
        bias = integers(rng, lanes, dtype)
        check((x, w, bias, dy, (1, 1), ((1, 1), (1, 1)), (1, 1), count), "NHWC")


def test_every_split_of_several_groups_gives_the_same():
    @given(block_problems(parts_of_vectors), st.booleans())
    @examples(30)
    def every(problem, backwards):
        with small_units():
            check(problem, "NHWC", negative if backwards else lambda array: array)

    every()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_split_gives_the_same(layout):
    """Units of a row, jobs of a unit, and views that run backwards, which other algorithms serve."""

    @given(block_problems(), st.booleans())
    @examples(30)
    def every(problem, backwards):
        with small_units():
            check(problem, layout, negative if backwards else lambda array: array)

    every()


@pytest.mark.parametrize(("layout", "count"), [("NCHW", 1), ("NHWC", 1), ("NHWC", 2)])
def test_infinity_and_nan_travel_as_in_loops(layout, count):
    lanes = VECTOR_BYTES // 4
    rng = np.random.default_rng(1)
    x = integers(rng, (1, 2 * lanes, 5, 17), np.float32)
    w = integers(rng, (2 * lanes, lanes // count, 3, 3), np.float32)
    x[0, 1, 2, 3], x[0, lanes, 0, 16], x[0, 2, 4, 0] = np.nan, np.inf, np.nan
    steps = (1, 1), ((1, 1), (1, 1)), (1, 1), 2 * count
    with np.errstate(invalid="ignore"):
        expected = ref_conv(x, w, *steps)
        # Gradients are finite: where others meet the padding, it is multiplied.
        dy = integers(rng, expected.shape, np.float32)
        weights = ref_conv_backward_weight(dy, x, (3, 3), *steps)
    arrays = [to_layout(array, layout) for array in (x, w, dy)]
    sizes = [array.shape for array in arrays[:2]]
    made = fastconv.plan_conv2d(*sizes, *steps, dtype="float32", layout=layout, algorithm="grouped_gemm")
    assert_equal(from_layout(made(*arrays[:2]), layout), expected)
    assert_equal(from_layout(made.backward_weight(arrays[2], arrays[0]), layout), weights)


def test_what_fills_no_vector_is_refused():
    lanes = VECTOR_BYTES // 4
    x, w = (1, 2 * lanes + 2, 5, 5), (2 * lanes + 2, lanes + 1, 3, 3)
    made = fastconv.plan_conv2d(x, w, groups=2, dtype="float32", algorithm="grouped_gemm")
    assert made.algorithms == {}
    with pytest.raises(ValueError, match="no whole vectors"):
        made(np.zeros(x, np.float32), np.zeros(w, np.float32))


def test_groups_that_leave_a_vector_unfilled_are_refused():
    lanes = VECTOR_BYTES // 4
    x, w = (1, 5, 5, 3 * lanes // 2), (3 * lanes // 2, 3, 3, lanes // 2)
    made = fastconv.plan_conv2d(x, w, groups=3, dtype="float32", layout="NHWC", algorithm="grouped_gemm")
    assert made.algorithms == {}


def test_a_kernel_that_meets_nothing_but_padding():
    """A plan of the one pass that is served, and that pass has no sums."""
    lanes = VECTOR_BYTES // 4
    x, w = (1, 2 * lanes, 2, 2), (2, lanes, 1, 1)
    made = fastconv.plan_conv2d(x, w, 3, 1, groups=2, dtype="float32", algorithm="grouped_gemm")
    assert list(made.algorithms) == ["backward_input"]
    assert made.scratch_bytes > 0
    gradient = np.ones(made.output_size, np.float32)
    assert_equal(made.backward_input(gradient, np.ones(w, np.float32)), np.zeros(x))


@pytest.mark.parametrize("nbytes", [16, 32, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_groups_of_one_filter_are_refused(monkeypatch, dtype, nbytes):
    """Short vectors have four or two lanes, but a channel block has no tiles for as many groups."""
    made = fastconv.plan_conv2d((1, 5, 5, 16), (16, 3, 3, 1), groups=16, dtype=dtype, layout="NHWC")
    monkeypatch.setattr(grouped_gemm, "VECTOR_BYTES", nbytes)
    assert "no whole vectors" in grouped_gemm.GroupedGemm.why_not(made._geometry, "forward")
