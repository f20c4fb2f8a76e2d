"""The bare kernels: any rectangle of columns, any range of lines or planes, from Python and compiled code.

Also run with `NUMBA_DISABLE_JIT=1`, where the same loops are plain Python and a coverage report sees them.
"""

import math

import numba
import numpy as np
import oracles
import pytest
from helpers import integers
from hypothesis import given
from hypothesis import strategies as st

from fastconv import kernels
from fastconv.kernels import ordered
from fastconv.windows import adaptive_windows, fixed_windows

STEPS = {
    "plain": dict(kernel=(1, 2, 3), stride=(1, 1, 1), padding=(0, 0, 0), dilation=(1, 1, 1)),
    "padded": dict(kernel=(1, 3, 3), stride=(1, 1, 1), padding=(0, 1, 2), dilation=(1, 1, 1)),
    "strided": dict(kernel=(2, 2, 2), stride=(2, 1, 3), padding=(1, 1, 1), dilation=(1, 1, 1)),
    "dilated": dict(kernel=(2, 3, 2), stride=(1, 2, 1), padding=(1, 2, 3), dilation=(1, 2, 3)),
    "one tap": dict(kernel=(1, 1, 1), stride=(1, 1, 1), padding=(0, 0, 0), dilation=(1, 1, 1)),
}
EXTENTS = (3, 5, 6)


def case(name):
    """An image batch, its whole column matrix (N, rows, pixels), and the kernels' last five arguments."""
    steps = STEPS[name]
    pairs = [(pad, pad) for pad in steps["padding"]]
    x = integers(np.random.default_rng(0), (2, 2, *EXTENTS), np.float32)
    outputs = oracles.output_extents(EXTENTS, steps["kernel"], steps["stride"], pairs, steps["dilation"])
    columns = oracles.ref_im2col(x, steps["kernel"], steps["dilation"], pairs, steps["stride"])
    arguments = (steps["kernel"], tuple(outputs), steps["stride"], steps["padding"], steps["dilation"])
    return x, columns.reshape(2, -1, math.prod(outputs)), arguments


def ranges(draw, extent):
    """A range (start, stop) of at least one of ``extent``."""
    start = draw(st.integers(0, extent - 1))
    return start, draw(st.integers(start + 1, extent))


@given(st.sampled_from(sorted(STEPS)), st.data())
def test_any_rectangle_of_columns(name, data):
    x, columns, arguments = case(name)
    images, rows, pixels = (ranges(data.draw, extent) for extent in columns.shape)
    got = np.full([stop - start for start, stop in (rows, images, pixels)], np.nan, np.float32)
    kernels.im2col(x, got, images[0], rows[0], pixels[0], *arguments)
    expected = columns[slice(*images), slice(*rows), slice(*pixels)].transpose(1, 0, 2)
    np.testing.assert_array_equal(got, expected)


@given(st.sampled_from(sorted(STEPS)), st.data())
def test_adding_back_any_rectangle_within_a_band_of_lines(name, data):
    """Every cell gets what the rectangle's columns took from it, but only in the band."""
    x, columns, arguments = case(name)
    images, rows, pixels = (ranges(data.draw, extent) for extent in columns.shape)
    band = ranges(data.draw, EXTENTS[0] * EXTENTS[1])
    masked = np.zeros_like(columns)
    box = (slice(*images), slice(*rows), slice(*pixels))
    masked[box] = columns[box]
    kernel, _, stride, padding, dilation = arguments
    pairs = [(pad, pad) for pad in padding]
    whole = oracles.ref_col2im(masked, EXTENTS, kernel, dilation, pairs, stride)
    expected = np.ones_like(x).reshape(2, 2, -1, EXTENTS[2])
    expected[:, :, slice(*band)] += whole.reshape(expected.shape)[:, :, slice(*band)]
    got = np.ones_like(x)
    source = np.ascontiguousarray(columns[box].transpose(1, 0, 2))
    kernels.col2im_add(source, got, images[0], rows[0], pixels[0], *band, *arguments)
    np.testing.assert_array_equal(got, expected.reshape(got.shape))


@pytest.mark.parametrize("name", sorted(STEPS))
def test_the_whole_matrix_there_and_back(name):
    x, columns, arguments = case(name)
    got = np.full((columns.shape[1], 2, columns.shape[2]), np.nan, np.float32)
    kernels.im2col(x, got, 0, 0, 0, *arguments)
    np.testing.assert_array_equal(got, columns.transpose(1, 0, 2))
    back = np.zeros_like(x)
    kernels.col2im_add(got, back, 0, 0, 0, 0, EXTENTS[0] * EXTENTS[1], *arguments)
    kernel, _, stride, padding, dilation = arguments
    pairs = [(pad, pad) for pad in padding]
    np.testing.assert_array_equal(back, oracles.ref_col2im(columns, EXTENTS, kernel, dilation, pairs, stride))


@pytest.mark.parametrize("with_indices", [True, False])
@pytest.mark.parametrize("dilation", [1, 2])
def test_max_pool_in_two_ranges_of_lines(with_indices, dilation):
    x = integers(np.random.default_rng(1), (2, 2, *EXTENTS), np.float64)
    pairs = ((0, 0), (1, 1), (1, 1))
    steps = dict(kernel=(2, 2, 3), stride=(1, 2, 2), dilation=(1, dilation, 1))
    expected, where = oracles.ref_max_pool(x, steps["kernel"], steps["stride"], pairs, steps["dilation"])
    windows = fixed_windows(EXTENTS, steps["kernel"], steps["stride"], pairs, steps["dilation"], False)
    tables = [axis.table for axis in windows.axes]
    got = np.full(expected.shape, -np.inf)
    indices = np.full(expected.shape if with_indices else (0,) * 5, -7)
    lines = math.prod(expected.shape[:4])
    for first, stop in ((lines // 3, lines), (0, lines // 3)):
        kernels.max_pool(x, got, indices, first, stop, *tables, steps["dilation"])
    np.testing.assert_array_equal(got, expected)
    if with_indices:
        np.testing.assert_array_equal(indices, where)
        dx = np.zeros_like(x)
        outside = [kernels.max_pool_backward(expected, indices, dx, *planes) for planes in ((1, 4), (0, 1))]
        assert outside == [0, 0]
        np.testing.assert_array_equal(dx, oracles.ref_max_pool_backward(expected, where, EXTENTS))


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("dtype", [np.float64, np.int16])
def test_gradient_of_all_ties_in_two_ranges_of_planes(dtype, dilation):
    x = integers(np.random.default_rng(1), (2, 2, *EXTENTS), dtype)
    pairs = ((0, 0), (1, 1), (1, 1))
    steps = dict(kernel=(2, 2, 3), stride=(1, 2, 2), padding=pairs, dilation=(1, dilation, 1))
    windows = fixed_windows(EXTENTS, **steps, ceil_mode=False)
    tables = [axis.table for axis in windows.axes]
    dy = integers(np.random.default_rng(2), (2, 2, *windows.output))
    got = np.full(x.shape, np.nan)
    for first, stop in ((1, 4), (0, 1)):
        kernels.max_pool_backward_ties(dy, x, got, first, stop, *tables, steps["dilation"])
    np.testing.assert_array_equal(got, oracles.ref_max_pool_backward_ties(dy, x, **steps))


def test_ties_of_nan_are_the_cells_that_are_nan():
    x = np.array([3.0, np.nan, 0.0, np.nan]).reshape(1, 1, 1, 2, 2)
    whole, got = np.array([[0, 2]]), np.empty(x.shape)
    kernels.max_pool_backward_ties(
        np.ones((1, 1, 1, 1, 1)), x, got, 0, 1, np.array([[0, 1]]), whole, whole, (1, 1, 1)
    )
    np.testing.assert_array_equal(got.ravel(), [0, 1, 0, 1])


def test_indices_outside_the_plane_are_counted_and_write_nothing():
    values = np.ones((1, 1, 1, 1, 4))
    indices = np.array([0, -1, 6, 2**62]).reshape(values.shape)
    target = np.zeros((1, 1, 1, 2, 3))
    assert kernels.max_pool_backward(values, indices, target, 0, 1) == 2
    assert kernels.max_unpool(values, indices, target, 0, 1) == 2
    assert target.sum() == 1


def test_average_and_its_gradient_over_adaptive_windows():
    x = integers(np.random.default_rng(2), (2, 2, *EXTENTS), np.float64)
    windows = adaptive_windows(EXTENTS, (2, 3, 4))
    tables = [axis.table for axis in windows.axes]
    counts = [axis.valid.astype(np.float64) for axis in windows.axes]
    got = np.empty((2, 2, 2, 3, 4))
    for first, stop in ((10, 24), (0, 10)):
        kernels.avg_pool(x, got, first, stop, *tables, *counts)
    np.testing.assert_allclose(got, oracles.ref_adaptive_avg_pool(x, (2, 3, 4)), rtol=1e-14)
    dx = np.empty_like(x)
    for first, stop in ((7, 60), (0, 7)):
        kernels.avg_pool_backward(got, dx, first, stop, *[axis.covers for axis in windows.axes], *counts)
    expected = oracles.ref_adaptive_avg_pool_backward(got, EXTENTS)
    np.testing.assert_allclose(dx, expected, rtol=1e-14, atol=1e-14)


@numba.njit
def compiled_caller(x, columns, kernel, output):
    one = (1, 1, 1)
    kernels.im2col(x, columns, 0, 0, 0, kernel, output, one, (0, 0, 0), one)
    return columns.sum()


def test_kernels_are_called_from_compiled_code():
    x = np.ones((1, 1, 1, 4, 4))
    assert compiled_caller(x, np.empty((4, 1, 9)), (1, 2, 2), (1, 3, 3)) == 36


@pytest.mark.parametrize("taps", [1, 3, 4, 9])
@pytest.mark.parametrize("width", [1, 5, 1030])
def test_sums_in_the_order_of_the_weights(taps, width):
    rng = np.random.default_rng(0)
    image, weights = rng.standard_normal(3 * width + 50), rng.standard_normal(taps)
    lines, offsets = np.array([0, width]), rng.integers(0, 50, taps)
    sums = np.full((2, width), np.nan)
    ordered.correlate_lines(image, lines, offsets, weights, sums)
    for i in range(2):
        for x in range(width):
            total = 0.0
            for offset, weight in zip(offsets, weights, strict=True):
                total += image[lines[i] + x + offset] * weight
            assert sums[i, x] == total
