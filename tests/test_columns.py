"""im2col, col2im and the convolution as a sparse matrix."""

import math

import numpy as np
import pytest
from helpers import DISGUISES, FIRST, assert_equal, assert_fresh, function, integers
from hypothesis import given
from oracles import ref_col2im, ref_im2col
from scipy import sparse
from strategies import conv_problems, examples, spread

from fastconv import col2im, conv_matrix, im2col


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def column_arguments(p):
    return {
        "kernel_size": p.w.shape[2:],
        "dilation": p.dilation,
        "padding": p.padding,
        "stride": p.stride,
    }


def oracle_arguments(p):
    stride, pairs, dilation, _ = p.resolved
    return {"kernel": p.w.shape[2:], "dilation": dilation, "padding": pairs, "stride": stride}


@given(conv_problems())
def test_im2col_equals_the_loops(p):
    columns = im2col(p.dressed(p.x), **column_arguments(p))
    assert columns.dtype == p.x.dtype
    assert_fresh(columns)
    assert_equal(columns, ref_im2col(p.x, **oracle_arguments(p)))


@given(conv_problems())
def test_col2im_equals_the_loops(p):
    shape = ref_im2col(p.x, **oracle_arguments(p)).shape
    columns = integers(np.random.default_rng(5), shape, p.x.dtype)
    image = col2im(p.dressed(columns), p.x.shape[2:], **column_arguments(p))
    assert image.dtype == p.x.dtype
    assert_fresh(image)
    assert_equal(image, ref_col2im(columns, p.x.shape[2:], **oracle_arguments(p)))


@given(conv_problems())
@examples(20)
def test_the_two_are_adjoint(p):
    x = p.x.astype(np.float64)
    columns = im2col(x, **column_arguments(p))
    other = integers(np.random.default_rng(7), columns.shape)
    assert np.vdot(columns, other) == np.vdot(x, col2im(other, x.shape[2:], **column_arguments(p)))


def test_col2im_of_im2col_counts_the_windows():
    ones = np.ones((1, 1, 4, 5))
    counts = col2im(im2col(ones, (3, 2)), (4, 5), (3, 2))
    np.testing.assert_array_equal(counts[0, 0], np.outer([1, 2, 2, 1], [1, 2, 2, 2, 1]))


def test_a_case_by_hand():
    x = np.arange(6.0).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(im2col(x, (2, 2)), [[[0, 1], [1, 2], [3, 4], [4, 5]]])


def test_an_int_kernel_means_two_dimensions(rng):
    x = integers(rng, (2, 3, 5, 6))
    np.testing.assert_array_equal(im2col(x, 3), im2col(x, (3, 3)))
    columns = im2col(x, 3)
    np.testing.assert_array_equal(col2im(columns, (5, 6), 3), col2im(columns, (5, 6), (3, 3)))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_unbatched(ndim, rng):
    extents, kernel = (5, 4, 4)[:ndim], (2, 3, 2)[:ndim]
    x = integers(rng, (1, 3, *extents))
    columns = im2col(x, kernel, padding=1)
    np.testing.assert_array_equal(im2col(x[0], kernel, padding=1), columns[0])
    image = col2im(columns, extents, kernel, padding=1)
    np.testing.assert_array_equal(col2im(columns[0], extents, kernel, padding=1), image[0])


@pytest.mark.parametrize("disguise", DISGUISES)
def test_any_memory(disguise, rng):
    x = integers(rng, (2, 3, 6, 5), np.float32)
    np.testing.assert_array_equal(im2col(DISGUISES[disguise](x), 3), im2col(x, 3))
    columns = im2col(x, 3)
    np.testing.assert_array_equal(col2im(DISGUISES[disguise](columns), (6, 5), 3), col2im(columns, (6, 5), 3))


def test_one_matrix_product_is_the_convolution(rng):
    x, w = integers(rng, (2, 3, 6, 5)), integers(rng, (4, 3, 3, 2))
    y = w.reshape(4, -1) @ im2col(x, (3, 2), padding=1)
    np.testing.assert_array_equal(y.reshape(2, 4, 6, 6), function("conv{}", 2)(x, w, padding=1))


# --- the sparse matrix -----------------------------------------------------------------------------------


@given(conv_problems())
def test_conv_matrix_is_the_convolution(p):
    arguments = {k: v for k, v in p.arguments.items() if k != "layout"}
    x = np.ones((1, *p.x.shape[1:]))
    x[...] = integers(np.random.default_rng(3), x.shape)
    w = p.w.astype(np.float64)
    matrix = conv_matrix(p.dressed(w), x.shape, **arguments)
    y = function("conv{}", p.ndim)(x, w, **arguments, layout=FIRST[p.ndim])
    assert matrix.shape == (y.size, x.size)
    np.testing.assert_array_equal(matrix @ x.ravel(), y.ravel())
    dy = integers(np.random.default_rng(4), y.shape)
    dx = function("conv{}_backward_input", p.ndim)(dy, w, x.shape, **arguments)
    np.testing.assert_array_equal(matrix.T @ dy.ravel(), dx.ravel())


def test_three_by_three_on_four_by_four():
    w = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    matrix = conv_matrix(w, (1, 4, 4))
    assert isinstance(matrix, sparse.csr_array)
    assert matrix.shape == (4, 16)
    assert matrix.nnz == 36
    assert len(np.unique(matrix.data)) == 9
    row = [1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 0, 0, 0, 0]
    dense = [np.roll(row, shift) for shift in (0, 1, 4, 5)]
    np.testing.assert_array_equal(matrix.toarray(), dense)


def test_conv_matrix_takes_the_size_with_or_without_a_batch(rng):
    w = integers(rng, (2, 3, 3, 3))
    a, b = conv_matrix(w, (3, 5, 6)), conv_matrix(w, (8, 3, 5, 6))
    assert a.shape == b.shape == (2 * 3 * 4, 3 * 5 * 6)
    np.testing.assert_array_equal(a.toarray(), b.toarray())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conv_matrix_keeps_the_dtype(dtype, rng):
    assert conv_matrix(integers(rng, (2, 3, 3), dtype), (3, 7)).dtype == dtype


def test_conv_matrix_is_canonical(rng):
    matrix = conv_matrix(integers(rng, (2, 3, 3, 3), low=1), (3, 6, 6), padding=1, stride=2)
    assert matrix.has_sorted_indices
    assert matrix.has_canonical_format
    assert matrix.nnz <= 2 * 9 * math.prod(spread(3, 3))
