"""Pooling through wide windows, axis by axis, against plain loops, in tiles of any size."""

import contextlib

import numpy as np
import pytest
from helpers import FIRST, LAST, assert_equal, from_layout, function, integers, layout_shape, to_layout
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    output_extents,
    ref_avg_pool,
    ref_avg_pool_backward,
    ref_max_pool,
    ref_max_pool_backward_ties,
)
from strategies import examples

from fastconv import pool, pool_passes, wide_windows

FLOATS = (np.float16, np.float32, np.float64)
TOLERANCE = {np.dtype(np.float16): 2e-3, np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-13}


@contextlib.contextmanager
def always_wide(cells):
    """Whatever can be is computed axis by axis, in tiles of so many cells; no sizes from before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_passes, "CELL_COST", dict.fromkeys(pool_passes.CELL_COST, 0.0))
        patch.setattr(pool_passes, "LINE_COST", 0.0)
        patch.setattr(wide_windows, "NEAR_CELLS", cells)
        patch.setattr(wide_windows, "MOST_CELLS", cells)
        pool._cached_pooling.cache_clear()
        try:
            yield
        finally:
            pool._cached_pooling.cache_clear()


@st.composite
def problems(draw, dtypes=FLOATS, dilations=2):
    """Input, layout and windows of up to 11 cells along an axis."""
    ndim = draw(st.sampled_from((1, 2, 2, 3)))
    dtype = draw(st.sampled_from(dtypes))
    layout = draw(st.sampled_from((FIRST[ndim], LAST[ndim])))
    kernel = tuple(draw(st.integers(1, 11 if ndim < 3 else 5)) for _ in range(ndim))
    stride = tuple(draw(st.integers(1, 4)) for _ in range(ndim))
    padding = tuple((draw(st.integers(0, k // 2)), draw(st.integers(0, k // 2))) for k in kernel)
    dilation = tuple(draw(st.integers(1, dilations)) for _ in range(ndim))
    spans = [d * (k - 1) + 1 - sum(p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    extents = [draw(st.integers(max(1, span), max(1, span) + 12)) for span in spans]
    shape = draw(st.integers(1, 2)), draw(st.integers(1, 3)), *extents
    low = 0 if np.dtype(dtype).kind == "u" else -3
    x = integers(np.random.default_rng(draw(st.integers(0, 99))), shape, dtype, low=low)
    return (
        x,
        layout,
        kernel,
        dilation,
        {"stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())},
    )


tiles = st.sampled_from([1, 40, 300, 2**16])


@given(problems(), tiles, st.sampled_from([0.0, np.nan, -np.inf, np.inf]), st.floats(0, 1))
@examples(100)
def test_maxima(problem, cells, special, share):
    x, layout, kernel, dilation, windows = problem
    x[np.random.default_rng(0).random(x.shape) < share] = special
    pooling, arguments = (
        function("max_pool{}", x.ndim - 2),
        {**windows, "dilation": dilation, "layout": layout},
    )
    with always_wide(cells):
        y, i = pooling(to_layout(x, layout), kernel, **arguments, return_indices=True)
        alone = pooling(to_layout(x, layout), kernel, **arguments)
    expected, places = ref_max_pool(x, kernel, dilation=dilation, **windows)
    assert_equal(from_layout(i, layout), places)
    assert_equal(from_layout(y, layout), np.where(places >= 0, expected, -np.inf))
    assert_equal(alone, y)


@given(problems((np.uint8, np.int16, np.int64), 1), tiles)
@examples(40)
def test_maxima_of_integers(problem, cells):
    x, layout, kernel, _, windows = problem
    with always_wide(cells):
        y, i = function("max_pool{}", x.ndim - 2)(
            to_layout(x, layout), kernel, **windows, layout=layout, return_indices=True
        )
    expected, places = ref_max_pool(x, kernel, dilation=(1,) * (x.ndim - 2), **windows)
    assert_equal(from_layout(y, layout), expected)
    assert_equal(from_layout(i, layout), places)


@given(problems(dilations=1), st.booleans(), st.sampled_from([None, None, 3]), tiles)
@examples(100)
def test_means_and_their_gradients(problem, include, divisor, cells):
    x, layout, kernel, _, windows = problem
    divided = {"count_include_pad": include, "divisor_override": divisor}
    with always_wide(cells):
        y = function("avg_pool{}", x.ndim - 2)(
            to_layout(x, layout), kernel, **windows, **divided, layout=layout
        )
        dy = integers(np.random.default_rng(1), y.shape, y.dtype)
        dx = function("avg_pool{}_backward", x.ndim - 2)(
            dy, layout_shape(x.shape, layout), kernel, **windows, **divided, layout=layout
        )
    tolerance = TOLERANCE[x.dtype]
    expected = ref_avg_pool(x, kernel, **windows, **divided)
    np.testing.assert_allclose(from_layout(y, layout), expected, rtol=tolerance, atol=tolerance)
    del windows["ceil_mode"]
    expected = ref_avg_pool_backward(
        from_layout(dy, layout).astype(np.float64), x.shape[2:], kernel, **windows, **divided
    )
    np.testing.assert_allclose(from_layout(dx, layout), expected, rtol=tolerance, atol=2 * tolerance)


@given(
    problems((*FLOATS, np.uint8, np.int32)), tiles, st.sampled_from([0.0, np.nan, np.inf]), st.floats(0, 1)
)
@examples(100)
def test_gradients_of_all_ties(problem, cells, special, share):
    x, layout, kernel, dilation, windows = problem
    if x.dtype.kind == "f":
        x[np.random.default_rng(0).random(x.shape) < share] = special
    else:
        dilation = (1,) * len(dilation)
    outputs = output_extents(x.shape[2:], kernel, dilation=dilation, **windows)
    dy = integers(np.random.default_rng(1), (*x.shape[:2], *outputs), np.float32)
    with always_wide(cells):
        dx = function("max_pool{}_backward_ties", x.ndim - 2)(
            to_layout(dy, layout), to_layout(x, layout), kernel, **windows, dilation=dilation, layout=layout
        )
    del windows["ceil_mode"]
    expected = ref_max_pool_backward_ties(dy, x, kernel, dilation=dilation, **windows)
    assert_equal(from_layout(dx, layout), expected)
