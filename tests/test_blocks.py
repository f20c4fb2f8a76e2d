"""The explicit algorithm with blocks of a few cells: every split of images, groups, filters, taps, pixels,
channels, bands and sums, on small problems that the plain loops can check exactly."""

import contextlib

import numpy as np
import pytest
from helpers import assert_equal, from_layout, function, layout_shape, to_layout
from hypothesis import given
from hypothesis import strategies as st
from oracles import ref_conv, ref_conv_backward_input, ref_conv_backward_weight
from strategies import conv_problems, examples

import fastconv
from fastconv import plan
from fastconv.engine import im2col


@contextlib.contextmanager
def tiny_blocks(dtype, cells, parts, sum_length):
    """Blocks of a few cells and as many jobs as there can be; plans made inside are not kept."""
    tiny = {
        "TARGET_BYTES": max(4, dtype.itemsize) * cells,
        "JOB_MULTIPLICATIONS": 1,
        "SUM_LENGTH": sum_length,
        "PARTS_BYTES": parts,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tiny.items():
            patch.setattr(im2col, name, value)
        plan._cached_conv_plan.cache_clear()
        try:
            yield
        finally:
            plan._cached_conv_plan.cache_clear()


# Cells of a block, bytes that partial sums may have, cells of a sum.
splits = st.tuples(
    st.sampled_from([1, 1, 2, 3, 5, 9, 17, 40]), st.sampled_from([0, 2**20]), st.sampled_from([3, 2**12])
)


@given(conv_problems(), splits)
@examples(300)
def test_every_split_gives_the_same(p, split):
    x, w, dy = (p.dressed(to_layout(a, p.layout)) for a in (p.x, p.w, p.dy))
    arguments = {**p.arguments, "algorithm": "im2col"}
    with tiny_blocks(p.x.dtype, *split):
        y = function("conv{}", p.ndim)(x, w, **arguments)
        dx = function("conv{}_backward_input", p.ndim)(
            dy, w, layout_shape(p.x.shape, p.layout), **p.arguments
        )
        dw = function("conv{}_backward_weight", p.ndim)(
            dy, x, layout_shape(p.w.shape, p.layout), **p.arguments
        )
    assert_equal(from_layout(y, p.layout), ref_conv(p.x, p.w, *p.resolved))
    assert_equal(from_layout(dx, p.layout), ref_conv_backward_input(p.dy, p.w, p.x.shape[2:], *p.resolved))
    assert_equal(from_layout(dw, p.layout), ref_conv_backward_weight(p.dy, p.x, p.w.shape[2:], *p.resolved))


def test_a_tall_plane_of_one_channel_is_cut_into_bands():
    """One image with one channel: only bands of lines give several threads something to do."""
    made = fastconv.plan_conv2d((1, 1, 400, 300), (16, 1, 3, 3), padding=1, algorithm="im2col")
    algorithm = made._passes.algorithm("backward_input")
    assert algorithm.input_block[1].band < 400
    rng = np.random.default_rng(0)
    dy = rng.integers(-3, 4, made.output_size).astype(np.float32)
    w = rng.integers(-3, 4, made.weight_size).astype(np.float32)
    expected = np.zeros((402, 302), np.float32)
    for k, r, s in np.ndindex(16, 3, 3):
        expected[r : r + 400, s : s + 300] += w[k, 0, r, s] * dy[0, k]
    np.testing.assert_array_equal(made.backward_input(dy, w)[0, 0], expected[1:-1, 1:-1])
