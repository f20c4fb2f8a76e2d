"""The pooling kernels that work a vector at a time, against plain loops: lines and channels of every length
around a vector's, every stride, both ways to sum, any range of units, and memory that ends where data do."""

import contextlib
import ctypes
import mmap
import sys

import numpy as np
import pytest
from helpers import FIRST, LAST, assert_equal, from_layout, function, integers, layout_shape, to_layout
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    output_extents,
    ref_adaptive_avg_pool,
    ref_adaptive_avg_pool_backward,
    ref_avg_pool,
    ref_avg_pool_backward,
    ref_max_pool,
    ref_max_pool_backward,
    ref_max_pool_backward_ties,
)
from strategies import examples

import fastconv
from fastconv import kernels, pool, pool_passes
from fastconv.kernels import pooling_vectors as vectors
from fastconv.kernels.vectors import VECTOR_BYTES

DTYPES = (np.float32, np.float64)
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-13}


def close(got, expected):
    tolerance = TOLERANCE[got.dtype]
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@st.composite
def wide_problems(draw, dilations=2):
    """Input, layout and windows; the axis that vectors run along is up to some vectors long."""
    ndim = draw(st.sampled_from((1, 2, 2, 3)))
    dtype = draw(st.sampled_from(DTYPES))
    layout = draw(st.sampled_from((FIRST[ndim], FIRST[ndim], LAST[ndim])))
    kernel = (*(draw(st.integers(1, 3)) for _ in range(ndim - 1)), draw(st.integers(1, 5)))
    stride = (*(draw(st.integers(1, 3)) for _ in range(ndim - 1)), draw(st.integers(1, 4)))
    padding = tuple((draw(st.integers(0, k // 2)), draw(st.integers(0, k // 2))) for k in kernel)
    dilation = tuple(draw(st.integers(1, dilations)) for _ in range(ndim))
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    extents = [draw(st.integers(s, s + 2)) for s in spans]
    longest = 3 * VECTOR_BYTES // np.dtype(dtype).itemsize + 3
    channels = draw(st.integers(1, 2))
    if layout in FIRST.values():
        extents[-1] = draw(st.integers(spans[-1], spans[-1] + stride[-1] * longest))
    else:
        channels = draw(st.integers(1, longest))
    x = integers(np.random.default_rng(draw(st.integers(0, 99))), (2, channels, *extents), dtype)
    windows = {"stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}
    return x, layout, kernel, dilation, windows


@contextlib.contextmanager
def sums_by(pairs_a_vector):
    """Sums by lists of pairs (many), by vectors (0) or as it is; no sizes from before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_passes, "VECTOR_PAIRS", pairs_a_vector)
        pool._cached_pooling.cache_clear()
        try:
            yield
        finally:
            pool._cached_pooling.cache_clear()


@given(wide_problems(), st.sampled_from([0.0, np.nan, -np.inf, np.inf]), st.floats(0, 1))
@examples(120)
def test_max_and_its_gradient(problem, special, share):
    x, layout, kernel, dilation, windows = problem
    x[np.random.default_rng(0).random(x.shape) < share] = special
    y, i = function("max_pool{}", x.ndim - 2)(
        to_layout(x, layout), kernel, **windows, dilation=dilation, return_indices=True, layout=layout
    )
    expected, places = ref_max_pool(x, kernel, dilation=dilation, **windows)
    seen = places >= 0  # a dilated window may step over all of the input
    assert_equal(from_layout(i, layout), places)
    assert_equal(from_layout(y, layout), np.where(seen, expected, -np.inf))
    dy = integers(np.random.default_rng(1), y.shape, y.dtype)
    dx = function("max_pool{}_backward", x.ndim - 2)(dy, i, layout_shape(x.shape, layout), layout=layout)
    routed = np.where(seen, from_layout(dy, layout), 0)
    assert_equal(from_layout(dx, layout), ref_max_pool_backward(routed, np.maximum(places, 0), x.shape[2:]))


@given(wide_problems(), st.sampled_from([0.0, np.nan, np.inf]), st.floats(0, 1))
@examples(120)
def test_gradient_of_all_ties(problem, special, share):
    x, layout, kernel, dilation, windows = problem
    x[np.random.default_rng(0).random(x.shape) < share] = special
    outputs = output_extents(x.shape[2:], kernel, dilation=dilation, **windows)
    dy = integers(np.random.default_rng(1), (*x.shape[:2], *outputs), x.dtype)
    dx = function("max_pool{}_backward_ties", x.ndim - 2)(
        to_layout(dy, layout), to_layout(x, layout), kernel, **windows, dilation=dilation, layout=layout
    )
    del windows["ceil_mode"]
    expected = ref_max_pool_backward_ties(dy, x, kernel, dilation=dilation, **windows)
    assert_equal(from_layout(dx, layout), expected)


@pytest.mark.parametrize("extents", [(2, 3 * vectors.TIED_WINDOWS + 5), (vectors.TIED_WINDOWS // 6, 9)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_ties_of_more_windows_than_are_taken_at_a_time(stride, extents):
    x = integers(np.random.default_rng(0), (1, 2, *extents), np.float32)
    dy = integers(np.random.default_rng(1), fastconv.max_pool2d(x, 3, stride, 1).shape, np.float32)
    dx = fastconv.max_pool2d_backward_ties(dy, x, 3, stride, 1)
    pairs = [(1, 1)] * 2
    assert_equal(dx, ref_max_pool_backward_ties(dy, x, (3, 3), (stride,) * 2, pairs, (1, 1)))


@given(
    wide_problems(dilations=1),
    st.booleans(),
    st.sampled_from([None, None, 3]),
    st.sampled_from([0, pool_passes.VECTOR_PAIRS, 2**16]),
)
@examples(120)
def test_mean_and_its_gradient(problem, include, divisor, pairs):
    x, layout, kernel, _, windows = problem
    divided = {"count_include_pad": include, "divisor_override": divisor}
    with sums_by(pairs):
        y = function("avg_pool{}", x.ndim - 2)(
            to_layout(x, layout), kernel, **windows, **divided, layout=layout
        )
        dy = integers(np.random.default_rng(1), y.shape, y.dtype)
        dx = function("avg_pool{}_backward", x.ndim - 2)(
            dy, layout_shape(x.shape, layout), kernel, **windows, **divided, layout=layout
        )
    close(from_layout(y, layout), ref_avg_pool(x, kernel, **windows, **divided))
    del windows["ceil_mode"]
    expected = ref_avg_pool_backward(
        from_layout(dy, layout).astype(np.float64), x.shape[2:], kernel, **windows, **divided
    )
    close(from_layout(dx, layout), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("output", [(1, 1), (3, 4), (7, 5)])
def test_adaptive_means_of_planes(output, layout, dtype):
    x = integers(np.random.default_rng(0), (2, 3, 7, 50), dtype)
    y = fastconv.adaptive_avg_pool2d(to_layout(x, layout), output, layout=layout)
    close(from_layout(y, layout), ref_adaptive_avg_pool(x, output))
    dx = fastconv.adaptive_avg_pool2d_backward(y, layout_shape(x.shape, layout), layout=layout)
    close(from_layout(dx, layout), ref_adaptive_avg_pool_backward(from_layout(y, layout), (7, 50)))


def test_infinity_and_nan_stay_in_their_windows():
    x = np.zeros((1, 1, 1, 80), np.float32)
    x[0, 0, 0, [3, 40]] = np.nan, np.inf
    y = fastconv.avg_pool2d(x, (1, 3), 1, (0, 1))[0, 0, 0]
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(y)), [2, 3, 4])
    np.testing.assert_array_equal(np.flatnonzero(np.isinf(y)), [39, 40, 41])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("windows", [1, 3, 4, 9])
def test_indices_of_any_order(windows, layout):
    """Several gradients for one cell, none for others, -1, and what is outside: in fours and apart."""
    rng = np.random.default_rng(windows)
    dy = integers(rng, (2, 3, 1, windows))
    i = rng.integers(-1, 6, dy.shape)
    expected = ref_max_pool_backward(np.where(i < 0, 0, dy), np.maximum(i, 0), (2, 3))
    dx = fastconv.max_pool2d_backward(
        to_layout(dy, layout), to_layout(i, layout), layout_shape((2, 3, 2, 3), layout), layout=layout
    )
    np.testing.assert_array_equal(from_layout(dx, layout), expected)
    i[1, 2, 0, windows // 2] = 6
    i[0, 0, 0, 0] = -(2**62)
    with pytest.raises(ValueError, match=r"^indices must be from 0 to 5, got 2 outside that"):
        fastconv.max_pool2d_backward(
            to_layout(dy, layout), to_layout(i, layout), layout_shape((2, 3, 2, 3), layout), layout=layout
        )


# Where an index may go instead of its window: a huge one looks right to whoever reads half of it.
MOVES = {
    "nowhere": lambda index, width: -1,
    "first": lambda index, width: 0,
    "left": lambda index, width: max(0, index - 1),
    "right": lambda index, width: index + 1,
    "down": lambda index, width: index + width,
    "far": lambda index, width: index + 2**32,
    "lowest": lambda index, width: -(2**62),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("height", [4, 5])
def test_windows_of_two_by_two_cells(height, dtype):
    """Each cell is written once as long as every gradient stays in its window; then gradients are added."""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize

    @given(
        st.integers(2 * lanes, 6 * lanes + 1),
        st.none() | st.tuples(st.integers(0, 99), st.sampled_from(list(MOVES))),
    )
    @examples(50)
    def every(width, moved):
        rng = np.random.default_rng(width)
        x = integers(rng, (2, 2, height, width), dtype)
        y, i = fastconv.max_pool2d(x, 2, return_indices=True)
        dy = integers(rng, y.shape, dtype)
        dy[dy == 0] = -0.0  # of which a sum makes 0.0
        outside = False
        if moved is not None:
            flat, place = i.reshape(-1), moved[0] * (i.size - 1) // 99
            flat[place] = MOVES[moved[1]](int(flat[place]), width)
            outside = not -1 <= flat[place] < height * width
        routed, places = np.where(i < 0, 0, dy), np.where(i < 0, 0, i)
        if outside:
            with pytest.raises(ValueError, match=r"^indices must be from 0 to \d+, got 1 outside that"):
                fastconv.max_pool2d_backward(dy, i, x.shape)
            return
        dx = fastconv.max_pool2d_backward(dy, i, x.shape)
        np.testing.assert_array_equal(dx, ref_max_pool_backward(routed, places, x.shape[2:]))
        assert not np.signbit(dx[dx == 0]).any()

    every()


# --- the kernels themselves ------------------------------------------------------------------------------


def before_a_wall(array):
    """The array, flat, in memory that ends with it: what reads or writes beyond does not live on."""
    pages = -(-array.nbytes // mmap.PAGESIZE) + 1
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
    last = ctypes.addressof(ctypes.c_char.from_buffer(memory, (pages - 1) * mmap.PAGESIZE))
    assert ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(last), mmap.PAGESIZE, 0) == 0
    count = (pages - 1) * mmap.PAGESIZE // array.itemsize
    flat = np.frombuffer(memory, array.dtype, count)[count - array.size :]
    flat[...] = array.ravel()
    return flat


def all_steps(layout, dtype, kernel, stride, width):
    """Every step of a pooling with its inputs and its outputs."""
    shape = to_layout(np.empty((2, 3, 5, width)), layout).shape
    sizes = pool._pooling(2, "input", shape, np.dtype(dtype), layout, kernel, stride, kernel // 2, 1, False)
    x = integers(np.random.default_rng(0), sizes.input_size, dtype)
    y, i = np.zeros(sizes.output_size, dtype), np.zeros(sizes.output_size, np.int64)
    yield sizes.argmax_step, (x,), (y, i)
    y, i = fastconv.max_pool2d(x, kernel, stride, kernel // 2, return_indices=True, layout=layout)
    yield sizes.avg_step, (x,), (y,)
    yield sizes.avg_backward_step, (y,), (x,)
    yield sizes.ties_step, (y, x), (np.zeros_like(x),)


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages of memory by a Linux call")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("pairs", [0, 2**16])
def test_no_kernel_leaves_its_buffers_and_ranges_make_the_whole(layout, dtype, pairs):
    with sums_by(pairs):
        for kernel, stride, width in [
            (2, 2, 64),
            (3, 2, 33),
            (3, 1, 35),
            (2, 3, 66),
            (1, 2, 16),
            (3, 1, 3),
            (25, 1, 40),
        ]:
            for step, inputs, outputs in all_steps(layout, dtype, kernel, stride, width):
                inputs = [before_a_wall(array) for array in inputs]
                for array in inputs:
                    array.flags.writeable = False
                whole = [before_a_wall(array) for array in outputs]
                sizes = *step.sizes, *(step.scratch([*inputs, *whole]) if step.scratch else ())
                step.kernel(*inputs, *whole, 0, step.units, *sizes)
                parts = [before_a_wall(array) for array in outputs]
                for first, stop in ((step.units // 3, step.units), (0, step.units // 3)):
                    step.kernel(*inputs, *parts, first, stop, *sizes)
                for one, two in zip(whole, parts, strict=True):
                    assert one.tobytes() == two.tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages of memory by a Linux call")
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_maxima_stay_in_their_buffers(dtype):
    x = integers(np.random.default_rng(0), (2, 70, 6, 7), dtype)
    y, i = fastconv.max_pool2d(x, 3, 2, 1, return_indices=True)
    arrays = [before_a_wall(array) for array in (y, i, x)]
    assert vectors.max_pool_backward_planes(*arrays, 3, 140, 12, 42, (0, 0, 0)) == 0
    assert vectors.max_pool_backward_planes(*arrays, 0, 3, 12, 42, (0, 0, 0)) == 0
    expected = np.zeros(x.shape, dtype)
    five = (y[:, :, None], i[:, :, None], expected[:, :, None])
    assert kernels.max_pool_backward(*five, 0, 140) == 0
    np.testing.assert_array_equal(arrays[2].reshape(x.shape), expected)
    wide = integers(np.random.default_rng(0), (2, 3, 5, 4 * VECTOR_BYTES // x.itemsize + 7), dtype)
    z, i_wide = fastconv.max_pool2d(wide, 2, return_indices=True)
    arrays, (lines, windows), cells = (
        [before_a_wall(a) for a in (z, i_wide, wide)],
        z.shape[2:],
        wide[0, 0].size,
    )
    for first, stop in ((4, 6), (0, 4)):
        sizes = (first, stop, lines * windows, cells, (windows, *wide.shape[2:]))
        assert vectors.max_pool_backward_planes(*arrays, *sizes) == 0
    expected_wide = ref_max_pool_backward(z, i_wide, wide.shape[2:])
    np.testing.assert_array_equal(arrays[2].reshape(wide.shape), expected_wide)
    last = [before_a_wall(to_layout(array, "NHWC")) for array in (y, i, x)]
    assert vectors.max_pool_backward_pixels(*last, 0, 6, 30, 70, 12, 42) == 0
    np.testing.assert_array_equal(last[2].reshape(2, 6, 7, 70), to_layout(expected, "NHWC"))
