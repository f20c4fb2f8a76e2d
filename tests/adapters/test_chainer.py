"""Chainer on fastconv against Chainer itself: its functions, their first two derivatives, its own columns."""

import importlib

import numpy as np
import pytest
from hosts import host
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import examples

chainer = host("chainer", through="fastconv.adapters.chainer")
adapter = importlib.import_module("fastconv.adapters.chainer")
conv = importlib.import_module("chainer.utils.conv")
connection = importlib.import_module("chainer.functions.connection")
array_im2col = importlib.import_module("chainer.functions.array.im2col")

from fastconv.adapters import HostError  # noqa: E402

F = chainer.functions
CLASSES = (
    connection.convolution_2d.Convolution2DFunction,
    connection.convolution_2d.Convolution2DGradW,
    connection.deconvolution_2d.Deconvolution2DFunction,
)


def both(compute):
    """What Chainer computes alone, and on fastconv: equal in shape and dtype, and in value up to rounding."""
    expected = compute()
    with adapter.installed():
        got = compute()
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        tolerance = 2e-4 if ours.dtype == np.float32 else 1e-10
        scale = max(1, np.abs(theirs[np.isfinite(theirs)]).max(initial=0))
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


def derivatives(function, *arrays):
    """The output, its derivatives by all inputs, and those of the first's sum of squares."""
    inputs = [chainer.Variable(array) for array in arrays]
    y = function(*inputs)
    first = chainer.grad([F.sum(y * y)], inputs, enable_double_backprop=True)
    second = chainer.grad([F.sum(first[0] * first[0]) + F.sum(first[1] * first[1])], inputs[:2])
    return [y.array, *(gradient.array for gradient in (*first, *second))]


@st.composite
def problems(draw):
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pair), draw(pair), draw(pair)
    pad = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    groups, cover_all = draw(st.integers(1, 2)), draw(st.booleans())
    axes = zip(kernel, dilation, pad, strict=True)
    extents = [max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 5)) for k, d, p in axes]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    x = rng.standard_normal((draw(st.integers(1, 2)), 2 * groups, *extents)).astype(dtype)
    return rng, x, kernel, stride, pad, dilation, groups, cover_all


@given(problems())
@examples(40)
def test_convolution(problem):
    rng, x, kernel, stride, pad, dilation, groups, cover_all = problem
    w, b = (rng.standard_normal(shape).astype(x.dtype) for shape in ((2 * groups, 2, *kernel), 2 * groups))
    steps = {"stride": stride, "pad": pad, "cover_all": cover_all, "dilate": dilation, "groups": groups}
    both(lambda: derivatives(lambda *inputs: F.convolution_2d(*inputs, **steps), x, w, b))


@given(problems())
@examples(40)
def test_transposed_convolution(problem):
    rng, x, kernel, stride, pad, dilation, groups, _ = problem
    axes = zip(x.shape[2:], kernel, stride, pad, dilation, strict=True)
    assume(min(conv.get_deconv_outsize(n, k, s, p, d=d) for n, k, s, p, d in axes) > 0)
    w, b = (rng.standard_normal(shape).astype(x.dtype) for shape in ((2 * groups, 3, *kernel), 3 * groups))
    steps = {"stride": stride, "pad": pad, "dilate": dilation, "groups": groups}
    both(lambda: derivatives(lambda *inputs: F.deconvolution_2d(*inputs, **steps), x, w, b))


@given(problems(), st.sampled_from((None, np.float16, np.int64)), st.sampled_from((0, 2, -np.inf)))
@examples(60)
def test_columns(problem, dtype, pval):
    _, x, kernel, stride, pad, dilation, _, cover_all = problem
    x = np.round(4 * x).astype(dtype or x.dtype)
    assume(pval > -np.inf or x.dtype.kind == "f")
    columns = conv.im2col_cpu(x, *kernel, *stride, *pad, 0, cover_all, *dilation)
    both(lambda: [conv.im2col_cpu(x, *kernel, *stride, *pad, pval, cover_all, *dilation)])
    both(lambda: [conv.im2col_cpu(x, *kernel, *stride, *pad, pval, False, *dilation, 1, 1)])
    both(lambda: [conv.col2im_cpu(columns, *stride, *pad, *x.shape[2:], *dilation)])


def state():
    owners = (conv, array_im2col, *CLASSES)
    return [dict(vars(owner)) for owner in owners]


def test_uninstall_leaves_no_trace():
    before = state()
    with adapter.installed():
        made = state()
        assert array_im2col.im2col_cpu.__module__ == "fastconv.adapters.chainer"
        adapter.install()
        assert state() == made
    assert state() == before
    adapter.uninstall()
    assert state() == before


def test_another_chainer_is_refused(monkeypatch):
    monkeypatch.setattr(conv, "col2im_cpu", lambda col, sy: None)
    before = state()
    with pytest.raises(HostError, match=r"chainer.utils.conv.col2im_cpu takes \(col, sy\), and fastconv's"):
        adapter.install()
    assert state() == before
