"""Lines: tables for several images, the ends of buffers, jobs, and what the kernels leave to others."""

import ctypes
import mmap
import sys

import numpy as np
import pytest
from helpers import integers
from hypothesis import given
from hypothesis import strategies as st
from oracles import ref_conv, ref_conv_backward_input, ref_conv_backward_weight
from strategies import examples

import fastconv

NO_STEPS = ((1, 1), ((0, 0), (0, 0)), (1, 1))


def plan_of(x, w, padding=0, groups=1):
    return fastconv.plan_conv2d(
        x.shape, w.shape, padding=padding, groups=groups, dtype=x.dtype, algorithm="indirect/lines"
    )


@given(
    st.integers(1, 40), st.integers(1, 2), st.integers(1, 9), st.integers(1, 19), st.integers(0, 2**32 - 1)
)
@examples(60)
def test_images_that_share_tiles(batch, channels, filters, width, seed):
    """Any number of images in a table made for several of them, the last table not full."""
    rng = np.random.default_rng(seed)
    x = integers(rng, (batch, channels, 4, width + 1), np.float32)
    w = integers(rng, (filters, channels, 2, 2), np.float32)
    for padding in (0, 1):
        plan = plan_of(x, w, padding)
        steps = ((1, 1), ((padding, padding),) * 2, (1, 1), 1)
        dy = integers(rng, plan.output_size, np.float32)
        np.testing.assert_array_equal(plan(x, w), ref_conv(x, w, *steps))
        np.testing.assert_array_equal(
            plan.backward_input(dy, w), ref_conv_backward_input(dy, w, x.shape[2:], *steps)
        )
        np.testing.assert_array_equal(
            plan.backward_weight(dy, x), ref_conv_backward_weight(dy, x, (2, 2), *steps)
        )


@pytest.mark.parametrize(
    ("size", "filters", "groups"),
    [((40, 4, 30, 31), 6, 1), ((2, 32, 40, 41), 64, 8), ((1, 16, 40, 41), 33, 1)],
)
def test_jobs_of_images_groups_and_filters(size, filters, groups):
    rng = np.random.default_rng(0)
    x, w = integers(rng, size, np.float32), integers(rng, (filters, size[1] // groups, 3, 3), np.float32)
    plan = plan_of(x, w, 1, groups)
    reference = fastconv.plan_conv2d(x.shape, w.shape, 1, 1, 1, groups, algorithm="im2col")
    dy = integers(rng, plan.output_size, np.float32)
    made = plan._passes.algorithm("forward")
    assert min(part.jobs for part in (made.forward_pass, made.weight_pass, made.input_pass)) > 1
    for threads in (1, 3):
        with fastconv.num_threads(threads):
            np.testing.assert_array_equal(plan(x, w), reference(x, w))
            np.testing.assert_array_equal(plan.backward_input(dy, w), reference.backward_input(dy, w))
            np.testing.assert_array_equal(plan.backward_weight(dy, x), reference.backward_weight(dy, x))


def test_the_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    x, w = rng.random((40, 4, 30, 31), np.float32), rng.random((6, 4, 3, 3), np.float32)
    plan = plan_of(x, w)
    dy = rng.random(plan.output_size, np.float32)
    results = []
    for threads in (1, 2, 3, 8):
        with fastconv.num_threads(threads):
            arrays = plan(x, w), plan.backward_input(dy, w), plan.backward_weight(dy, x)
            results.append([array.tobytes() for array in arrays])
    assert all(result == results[0] for result in results)


def before_a_closed_page(array):
    """A copy that ends where memory does: what reads beyond it ends the process."""
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(page), 0) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("width", [3, 9, 16, 17, 35])
def test_nothing_beyond_the_arrays_is_touched(width, padding):
    rng = np.random.default_rng(0)
    shapes = (3, 2, 5, width), (7, 2, 3, 2)
    x, w = (before_a_closed_page(integers(rng, shape, np.float32)) for shape in shapes)
    plan, reference = (
        plan_of(x, w, padding),
        fastconv.plan_conv2d(*shapes, padding=padding, algorithm="im2col"),
    )
    y, dx, dw = (before_a_closed_page(np.zeros(size, np.float32)) for size in (plan.output_size, *shapes))
    np.testing.assert_array_equal(plan(x, w, None, y), reference(x, w))
    np.testing.assert_array_equal(plan.backward_input(y, w, dx), reference.backward_input(y, w))
    np.testing.assert_array_equal(plan.backward_weight(y, x, dw), reference.backward_weight(y, x))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_value_that_is_not_finite_stays_in_its_sums(value):
    """In the lanes behind a line lie cells of the next one, which must not leak."""
    rng = np.random.default_rng(0)
    x, w = rng.random((2, 2, 6, 21)), rng.random((3, 2, 3, 3))
    plan = plan_of(x, w)
    dy = rng.random(plan.output_size)
    x[0, 1, 0, 0] = value  # read by the first tap of one cell
    with np.errstate(invalid="ignore"):
        y = ref_conv(x, w, *NO_STEPS, 1)
        dw = ref_conv_backward_weight(dy, x, (3, 3), *NO_STEPS, 1)
    assert np.isfinite(dw).sum() == dw.size - 3
    np.testing.assert_allclose(plan(x, w), y)
    np.testing.assert_allclose(plan.backward_weight(dy, x), dw)


def test_arrays_of_any_kind():
    """Read-only, strided and reversed arrays take another path to the same numbers."""
    rng = np.random.default_rng(0)
    x, w = integers(rng, (3, 2, 9, 10), np.float32), integers(rng, (4, 2, 3, 3), np.float32)
    plan = plan_of(x, w)
    y = plan(x, w)
    frozen = x.copy()
    frozen.flags.writeable = False
    for same in (frozen, np.ascontiguousarray(x[..., ::-1])[..., ::-1], np.asfortranarray(x)):
        np.testing.assert_array_equal(plan(same, w), y)
        np.testing.assert_array_equal(plan.backward_weight(y, same), plan.backward_weight(y, x))
