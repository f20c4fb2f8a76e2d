"""The functions of CS231n's code against plain loops; a program in the course's style with and without."""

import importlib
import math
import sys

import numpy as np
import pytest
from course_problems import layers, ref_zero_padded_pool
from helpers import assert_equal
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    output_extents,
    ref_bias_gradient,
    ref_col2im,
    ref_conv,
    ref_conv_backward_input,
    ref_conv_backward_weight,
    ref_im2col,
)
from strategies import examples

from fastconv.adapters import HostError, cs231n, im2col_cython

# A package laid out and imported as the course's is: functions by star imports, columns from a compiled
# module that may be missing, a network and its training elsewhere. The loops are slow and plain.
PACKAGE = {
    "__init__.py": "",
    "layers.py": """
import numpy as np

def affine_forward(x, w, b):
    return x.reshape(len(x), -1) @ w + b, (x, w)

def affine_backward(dout, cache):
    x, w = cache
    return (dout @ w.T).reshape(x.shape), x.reshape(len(x), -1).T @ dout, dout.sum(0)

def places(shape, height, width, stride):
    return [(i, j, slice(i * stride, i * stride + height), slice(j * stride, j * stride + width))
            for i in range((shape[2] - height) // stride + 1)
            for j in range((shape[3] - width) // stride + 1)]

def conv_forward_naive(x, w, b, conv_param):
    stride, pad = conv_param["stride"], conv_param["pad"]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    found = places(padded.shape, *w.shape[2:], stride)
    out = np.zeros((len(x), len(w), 1 + found[-1][0], 1 + found[-1][1]))
    for i, j, rows, columns in found:
        out[:, :, i, j] = np.tensordot(padded[:, :, rows, columns], w, ((1, 2, 3), (1, 2, 3))) + b
    return out, (x, w, b, conv_param)

def conv_backward_naive(dout, cache):
    x, w, b, conv_param = cache
    stride, pad = conv_param["stride"], conv_param["pad"]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    dpadded, dw = np.zeros(padded.shape), np.zeros(w.shape)
    for i, j, rows, columns in places(padded.shape, *w.shape[2:], stride):
        dpadded[:, :, rows, columns] += np.tensordot(dout[:, :, i, j], w, 1)
        dw += np.tensordot(dout[:, :, i, j].T, padded[:, :, rows, columns], 1)
    return dpadded[:, :, pad:pad + x.shape[2], pad:pad + x.shape[3]], dw, dout.sum((0, 2, 3))

def max_pool_forward_naive(x, pool_param):
    found = places(x.shape, pool_param["pool_height"], pool_param["pool_width"], pool_param["stride"])
    out = np.zeros((*x.shape[:2], 1 + found[-1][0], 1 + found[-1][1]))
    for i, j, rows, columns in found:
        out[:, :, i, j] = x[:, :, rows, columns].max((2, 3))
    return out, (x, pool_param)

def max_pool_backward_naive(dout, cache):
    x, pool_param = cache
    dx = np.zeros(x.shape)
    height, width, stride = (pool_param[key] for key in ("pool_height", "pool_width", "stride"))
    for i, j, rows, columns in places(x.shape, height, width, stride):
        for n, c in np.ndindex(*x.shape[:2]):
            r, s = divmod(x[n, c, rows, columns].argmax(), width)
            dx[n, c, i * stride + r, j * stride + s] += dout[n, c, i, j]
    return dx
""",
    "fast_layers.py": """
try:
    from cs231n.im2col_cython import col2im_6d_cython, col2im_cython, im2col_cython
    COMPILED = True
except ImportError:
    COMPILED = False
from .layers import conv_forward_naive, conv_backward_naive
from .layers import max_pool_forward_naive, max_pool_backward_naive

def conv_forward_strides(x, w, b, conv_param):
    return conv_forward_naive(x, w, b, conv_param)

def conv_backward_strides(dout, cache):
    return conv_backward_naive(dout, cache)

conv_forward_fast = conv_forward_strides
conv_backward_fast = conv_backward_strides

def max_pool_forward_fast(x, pool_param):
    return max_pool_forward_naive(x, pool_param)

def max_pool_backward_fast(dout, cache):
    return max_pool_backward_naive(dout, cache)
""",
    "layer_utils.py": """
from cs231n.layers import *
from cs231n.fast_layers import *

def conv_pool_forward(x, w, b, conv_param, pool_param):
    a, conv_cache = conv_forward_fast(x, w, b, conv_param)
    out, pool_cache = max_pool_forward_fast(a, pool_param)
    return out, (conv_cache, pool_cache)

def conv_pool_backward(dout, cache):
    conv_cache, pool_cache = cache
    return conv_backward_fast(max_pool_backward_fast(dout, pool_cache), conv_cache)
""",
    "classifiers/__init__.py": "",
    "classifiers/cnn.py": """
from ..layers import *
from ..fast_layers import *
from ..layer_utils import *

def train(steps):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 3, 9, 9)), rng.standard_normal((6, 5))
    w1, b1 = rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    w2, b2 = rng.standard_normal((4 * 4 * 4, 5)), rng.standard_normal(5)
    losses = []
    for _ in range(steps):
        conv_param, pool_param = {"stride": 1, "pad": 1}, {"pool_height": 3, "pool_width": 3, "stride": 2}
        hidden, cache1 = conv_pool_forward(x, w1, b1, conv_param, pool_param)
        out, cache2 = affine_forward(hidden, w2, b2)
        losses.append(((out - y) ** 2).sum())
        dhidden, dw2, db2 = affine_backward(2 * (out - y), cache2)
        dx, dw1, db1 = conv_pool_backward(dhidden, cache1)
        for parameter, gradient in ((w1, dw1), (b1, db1), (w2, dw2), (b2, db2)):
            parameter -= 1e-4 * gradient
    return losses, w1, dx
""",
}


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Lets the package be imported, from a folder of its own; forgets it afterwards."""
    for name, text in PACKAGE.items():
        path = tmp_path / "cs231n" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "cs231n"
    cs231n.uninstall()
    for name in [name for name in sys.modules if name.split(".")[0] == "cs231n"]:
        del sys.modules[name]


def state():
    """All names in the course's modules, and the modules."""
    modules = {name: module for name, module in sys.modules.items() if "cs231n" in name or "im2col" in name}
    return modules, {name: dict(vars(module)) for name, module in modules.items()}


@pytest.mark.parametrize("when", ["first", "after"])
def test_a_program_gives_the_same_numbers(course, when):
    if when == "first":
        cs231n.install()
    program = importlib.import_module("cs231n.classifiers.cnn")
    if when == "after":
        expected = program.train(4)
        cs231n.install()
    assert program.conv_forward_fast.__module__ == "fastconv.adapters.cs231n"
    got = program.train(4)
    cs231n.uninstall()
    assert program.conv_forward_fast.__module__ == "cs231n.fast_layers"
    if when == "first":
        expected = program.train(4)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_nothing_has_to_be_compiled(course):
    cs231n.install()
    assert importlib.import_module("cs231n.fast_layers").COMPILED
    assert importlib.import_module("cs231n").im2col_cython is im2col_cython
    assert importlib.import_module("im2col_cython") is im2col_cython


def test_uninstall_leaves_no_trace(course):
    importlib.import_module("cs231n.classifiers.cnn")
    before = state()
    with cs231n.installed():
        made = state()
        assert made != before
        cs231n.install()
        assert state() == made
    assert state() == before
    cs231n.uninstall()
    assert state() == before


def test_a_function_of_another_kind_is_refused(course):
    text = PACKAGE["layers.py"].replace("def conv_forward_naive(x, w, b,", "def conv_forward_naive(x, w,")
    (course / "layers.py").write_text(text, encoding="utf-8")
    with pytest.raises(HostError, match=r"cs231n.layers.conv_forward_naive takes \(x, w, conv_param\)"):
        cs231n.install()
    assert "im2col_cython" not in sys.modules


def test_an_assignment_without_convolutions_is_refused(course):
    for name in ("layers.py", "fast_layers.py"):
        (course / name).unlink()
    with pytest.raises(HostError, match="second assignment"):
        cs231n.install()


def test_a_folder_without_the_course_is_named():
    with pytest.raises(ImportError, match="cs231n is not there; put the folder that holds cs231n on"):
        cs231n.install()
    assert "im2col_cython" not in sys.modules


CONVOLUTIONS = ("naive", "fast", "im2col", "strides")
# The axes of six-axis columns (N, C, HH, WW, OH, OW) in the order of `x_cols`.
COLUMN_ORDERS = {"im2col": (1, 2, 3, 4, 5, 0), "strides": (1, 2, 3, 0, 4, 5), "fast": (1, 2, 3, 0, 4, 5)}


def six_axes(layer):
    stride, padding, dilation, _ = layer.oracle
    outputs = output_extents(layer.x.shape[2:], layer.kernel, stride, padding, dilation)
    columns = ref_im2col(layer.x, layer.kernel, dilation, padding, stride)
    return columns.reshape(*layer.x.shape[:2], *layer.kernel, *outputs)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@given(layers())
@examples(20)
def test_convolution(name, layer):
    forward, backward = (getattr(cs231n, f"conv_{way}_{name}") for way in ("forward", "backward"))
    param = {"stride": layer.stride, "pad": layer.pad}
    out, cache = forward(layer.x, layer.w, layer.b, param)
    assert_equal(out, ref_conv(layer.x, layer.w, *layer.oracle) + layer.b.reshape(-1, 1, 1))
    dx, dw, db = backward(layer.dout, cache)
    assert_equal(dx, ref_conv_backward_input(layer.dout, layer.w, layer.x.shape[2:], *layer.oracle))
    assert_equal(dw, ref_conv_backward_weight(layer.dout, layer.x, layer.kernel, *layer.oracle))
    assert_equal(db, ref_bias_gradient(layer.dout))
    assert out.dtype == dx.dtype == dw.dtype == db.dtype == layer.x.dtype
    x, w, b, conv_param, *x_cols = cache
    assert x is cache[0] is layer.x
    assert w is cache[1] is layer.w
    assert b is cache[2] is layer.b
    assert conv_param is cache[3] is param
    assert isinstance(cache, tuple)
    assert len(cache) == 4 + len(x_cols) == (4 if name == "naive" else 5)
    if x_cols:
        expected = six_axes(layer).transpose(COLUMN_ORDERS[name]).reshape(layer.w[0].size, out[:, 0].size)
        assert x_cols[0] is cache[4] is cache[-1] is cache[3:][1]
        assert_equal(x_cols[0], expected)
        assert x_cols[0].dtype == layer.x.dtype


@given(layers())
@examples(30)
def test_columns(layer):
    columns = six_axes(layer)
    in_course_order = columns.transpose(1, 2, 3, 4, 5, 0).reshape(layer.w[0].size, layer.dout[:, 0].size)
    steps = *layer.kernel, layer.pad, layer.stride
    assert_equal(im2col_cython.im2col_cython(layer.x, *steps), in_course_order)
    assert_equal(cs231n.im2col_indices(layer.x, *steps), in_course_order)
    stride, padding, dilation, _ = layer.oracle
    rows = columns.reshape(len(layer.x), layer.w[0].size, math.prod(layer.dout.shape[2:]))
    expected = ref_col2im(rows, layer.x.shape[2:], layer.kernel, dilation, padding, stride)
    assert_equal(im2col_cython.col2im_cython(in_course_order, *layer.x.shape, *steps), expected)
    assert_equal(cs231n.col2im_indices(in_course_order, layer.x.shape, *steps), expected)
    six = np.ascontiguousarray(columns.transpose(1, 2, 3, 0, 4, 5))
    assert_equal(im2col_cython.col2im_6d_cython(six, *layer.x.shape, *steps), expected)


def pool_param(layer):
    return {"pool_height": layer.kernel[0], "pool_width": layer.kernel[1], "stride": layer.stride}


@pytest.mark.parametrize("name", ["naive", "im2col", "fast"])
@given(layers(pads=(0,), pool=True))
@examples(20)
def test_max_pooling(name, layer):
    forward, backward = (getattr(cs231n, f"max_pool_{way}_{name}") for way in ("forward", "backward"))
    stride = (layer.stride,) * 2
    maxima, taps, dx = ref_zero_padded_pool(layer.x, layer.kernel, stride, (0, 0), layer.dout)
    out, cache = forward(layer.x, pool_param(layer))
    assert_equal(out, maxima)
    if name == "fast":
        method, cache_of_method = cache
        if method == "reshape":
            assert_equal(backward(layer.dout, cache), ref_even_backward(layer.x, layer.kernel, layer.dout))
            return
        assert method == "im2col"
    assert_equal(backward(layer.dout, cache), dx)
    if name != "naive":
        x, x_cols, x_cols_argmax, param = cache_of_method if name == "fast" else cache
        assert x is layer.x
        assert param == pool_param(layer)
        assert_equal(x_cols_argmax, taps.transpose(2, 3, 0, 1).ravel())
        assert_equal(x_cols[x_cols_argmax, np.arange(out.size)], out.transpose(2, 3, 0, 1).ravel())


def ref_even_backward(x, kernel, dout):
    """The gradient of windows side by side, shared evenly by all cells that are the maximum."""
    dx = np.zeros(x.shape, x.dtype)
    for n, c, i, j in np.ndindex(*dout.shape):
        at = n, c, slice(i * kernel[0], (i + 1) * kernel[0]), slice(j * kernel[1], (j + 1) * kernel[1])
        takes = x[at] == x[at].max()
        dx[at] = takes * (dout[n, c, i, j] / x.dtype.type(takes.sum()))
    return dx


@given(st.integers(0, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.booleans())
@examples(20)
def test_square_pooling_shares_among_equals(batch, high, wide, side, single):
    rng = np.random.default_rng(batch)
    dtype = np.float32 if single else np.float64
    x = rng.integers(0, 3, (batch, 2, high * side, wide * side)).astype(dtype)
    param = {"pool_height": side, "pool_width": side, "stride": side}
    for suffix in ("fast", "reshape"):
        out, cache = getattr(cs231n, f"max_pool_forward_{suffix}")(x, param)
        dout = rng.integers(-3, 3, out.shape).astype(dtype)
        dx = getattr(cs231n, f"max_pool_backward_{suffix}")(dout, cache)
        assert_equal(dx, ref_even_backward(x, (side, side), dout))
        _, x_reshaped, kept = cache[1] if suffix == "fast" else cache
        assert kept is out
        assert_equal(x_reshaped, x.reshape(batch, 2, high, side, wide, side))


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value) encountered:RuntimeWarning")
def test_nan_stays_in_its_window():
    x, dout = np.arange(16.0).reshape(1, 1, 4, 4), np.ones((1, 1, 2, 2))
    x[0, 0, 0, 1] = np.nan
    param = {"pool_height": 2, "pool_width": 2, "stride": 2}
    expected = np.zeros((1, 1, 4, 4))
    expected[..., 1::2, 1::2] = 1
    expected[..., :2, :2] = np.nan  # of a maximum that equals no cell, an even share for none
    out, cache = cs231n.max_pool_forward_fast(x, param)
    assert_equal(out, np.array([[[[np.nan, 7], [13, 15]]]]))
    assert_equal(cs231n.max_pool_backward_fast(dout, cache), expected)
    expected[..., :2, :2] = [[0, 1], [0, 0]]  # the first NaN is the maximum
    out, cache = cs231n.max_pool_forward_im2col(x, param)
    assert_equal(cs231n.max_pool_backward_im2col(dout, cache), expected)


def test_pooling_refuses_what_it_cannot_do():
    x = np.ones((1, 1, 4, 4))
    with pytest.raises(AssertionError, match="Invalid pool params"):
        cs231n.max_pool_forward_reshape(x, {"pool_height": 2, "pool_width": 1, "stride": 2})
    with pytest.raises(ValueError, match='Unrecognized method "other"'):
        cs231n.max_pool_backward_fast(x, ("other", ()))


def test_whole_numbers_are_computed_with_as_float64():
    x, w, b = np.arange(16).reshape(1, 1, 4, 4), np.ones((1, 1, 2, 2), int), np.zeros(1, int)
    out, _ = cs231n.conv_forward_fast(x, w, b, {"stride": 2, "pad": 0})
    assert_equal(out, np.array([[[[10.0, 18.0], [42.0, 50.0]]]]))
    assert out.dtype == np.float64
