"""The same numbers as PyTorch, where it is installed."""

import itertools

import numpy as np
import pytest
from helpers import LAYOUTS, from_layout, function, integers, to_layout

import fastconv

torch = pytest.importorskip("torch")
F = torch.nn.functional
pytestmark = pytest.mark.parity

EXTENTS = {1: (17,), 2: (9, 8), 3: (6, 7, 5)}
STEPS = list(itertools.product((1, 2), (0, 1), (1, 2), (1, 2)))  # stride, padding, dilation, groups
DTYPES = (np.float32, np.float64)
TOLERANCE = {np.float32: {"rtol": 1e-5, "atol": 1e-5}, np.float64: {"rtol": 1e-12, "atol": 1e-12}}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def tensor(array, grad=False):
    return torch.from_numpy(np.ascontiguousarray(array)).requires_grad_(grad)


def gradients(y, dy, *inputs):
    return [g.numpy() for g in torch.autograd.grad(y, inputs, tensor(dy))]


def compare(got, expected, dtype, layout="NCHW"):
    assert got.dtype == dtype
    np.testing.assert_allclose(from_layout(got, layout), expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), STEPS)
def test_conv(ndim, layout, stride, padding, dilation, groups, dtype, rng):
    x = rng.standard_normal((2, 4, *EXTENTS[ndim])).astype(dtype)
    w = rng.standard_normal((6, 4 // groups, *(3, 2, 2)[:ndim])).astype(dtype)
    b = rng.standard_normal(6).astype(dtype)
    tx, tw, tb = (tensor(a, True) for a in (x, w, b))
    ty = getattr(F, f"conv{ndim}d")(tx, tw, tb, stride, padding, dilation, groups)
    dy = rng.standard_normal(ty.shape).astype(dtype)
    steps = (stride, padding, dilation, groups)
    lx, lw, ldy = (to_layout(a, layout) for a in (x, w, dy))
    compare(function("conv{}", ndim)(lx, lw, b, *steps, layout=layout), ty.detach().numpy(), dtype, layout)
    grads = function("conv{}_backward", ndim)(ldy, lx, lw, *steps, layout=layout)
    dx, dw, db = gradients(ty, dy, tx, tw, tb)
    compare(grads.input, dx, dtype, layout)
    compare(grads.weight, dw, dtype, layout)
    np.testing.assert_allclose(grads.bias, db, rtol=1e-4, atol=1e-4)  # sums of a thousand


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_named_padding(padding, kernel, rng):
    x, w = rng.standard_normal((2, 3, 8, 7)), rng.standard_normal((4, 3, kernel, kernel))
    expected = F.conv2d(tensor(x), tensor(w), padding=padding).numpy()
    compare(fastconv.conv2d(x, w, padding=padding), expected, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), STEPS)
def test_conv_transpose(ndim, layout, stride, padding, dilation, groups, dtype, rng):
    x = rng.standard_normal((2, 4, *(5, 4, 3)[:ndim])).astype(dtype)
    w = rng.standard_normal((4, 6 // groups, *(3, 2, 2)[:ndim])).astype(dtype)
    b = rng.standard_normal(6).astype(dtype)
    steps = (stride, padding, max(stride, dilation) - 1, groups, dilation)
    tx, tw, tb = (tensor(a, True) for a in (x, w, b))
    ty = getattr(F, f"conv_transpose{ndim}d")(tx, tw, tb, *steps)
    dy = rng.standard_normal(ty.shape).astype(dtype)
    lx, lw, ldy = (to_layout(a, layout) for a in (x, w, dy))
    y = function("conv_transpose{}", ndim)(lx, lw, b, *steps, layout=layout)
    compare(y, ty.detach().numpy(), dtype, layout)
    grads = function("conv_transpose{}_backward", ndim)(ldy, lx, lw, *steps, layout=layout)
    dx, dw, db = gradients(ty, dy, tx, tw, tb)
    compare(grads.input, dx, dtype, layout)
    compare(grads.weight, dw, dtype, layout)
    np.testing.assert_allclose(grads.bias, db, rtol=1e-4, atol=1e-4)  # sums of a thousand


WINDOWS = [
    (kernel, stride, padding, ceil_mode)
    for kernel, stride in ((2, 2), (3, 2), (3, 1), (2, 3))
    for padding in (0, 1)
    for ceil_mode in (False, True)
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil_mode"), WINDOWS)
@pytest.mark.parametrize("dilation", [1, 2])
def test_max_pool(ndim, layout, kernel, stride, padding, ceil_mode, dilation, dtype, rng):
    x = integers(rng, (2, 3, *EXTENTS[ndim]), dtype)  # full of ties
    x[0, 0, 1] = -np.inf
    x.reshape(-1)[::41] = np.nan
    window = (kernel, stride, padding, dilation, ceil_mode)
    tx = tensor(x, True)
    ty, ti = getattr(F, f"max_pool{ndim}d")(tx, *window, return_indices=True)
    lx = to_layout(x, layout)
    y, i = function("max_pool{}", ndim)(lx, *window, return_indices=True, layout=layout)
    np.testing.assert_array_equal(from_layout(y, layout), ty.detach().numpy())
    expected = ti.numpy().copy()
    several = np.isnan(ty.detach().numpy())  # of several NaN PyTorch reports the last, fastconv the first
    np.testing.assert_array_equal(from_layout(i, layout)[~several], expected[~several])
    dy = integers(rng, ty.shape, dtype)
    dx = function("max_pool{}_backward", ndim)(
        to_layout(dy, layout), to_layout(expected, layout), lx.shape, layout=layout
    )
    np.testing.assert_array_equal(from_layout(dx, layout), gradients(ty, dy, tx)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil_mode"), WINDOWS)
@pytest.mark.parametrize(("include", "divisor"), [(True, None), (False, None), (True, 3)])
def test_avg_pool(ndim, layout, kernel, stride, padding, ceil_mode, include, divisor, dtype, rng):
    if ndim == 1 and divisor is not None:
        pytest.skip("PyTorch's avg_pool1d has no divisor")
    x = rng.standard_normal((2, 3, *EXTENTS[ndim])).astype(dtype)
    window = (kernel, stride, padding, ceil_mode, include) + (() if ndim == 1 else (divisor,))
    tx = tensor(x, True)
    ty = getattr(F, f"avg_pool{ndim}d")(tx, *window)
    lx = to_layout(x, layout)
    compare(function("avg_pool{}", ndim)(lx, *window, layout=layout), ty.detach().numpy(), dtype, layout)
    dy = rng.standard_normal(ty.shape).astype(dtype)
    dx = function("avg_pool{}_backward", ndim)(to_layout(dy, layout), lx.shape, *window, layout=layout)
    compare(dx, gradients(ty, dy, tx)[0], dtype, layout)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("output", [1, 2, 3, 5, 9])
def test_adaptive(ndim, output, dtype, rng):
    x = rng.standard_normal((2, 3, *EXTENTS[ndim])).astype(dtype)
    tx = tensor(x, True)
    ty = getattr(F, f"adaptive_avg_pool{ndim}d")(tx, output)
    compare(function("adaptive_avg_pool{}", ndim)(x, output), ty.detach().numpy(), dtype)
    dy = rng.standard_normal(ty.shape).astype(dtype)
    dx = function("adaptive_avg_pool{}_backward", ndim)(dy, x.shape)
    compare(dx, gradients(ty, dy, tx)[0], dtype)
    ty, ti = getattr(F, f"adaptive_max_pool{ndim}d")(tx, output, return_indices=True)
    y, i = function("adaptive_max_pool{}", ndim)(x, output, return_indices=True)
    np.testing.assert_array_equal(y, ty.detach().numpy())
    np.testing.assert_array_equal(i, ti.numpy())
    dx = function("adaptive_max_pool{}_backward", ndim)(dy, i, x.shape)
    compare(dx, gradients(ty, dy, tx)[0], dtype)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (2, 3, 0)])
def test_max_unpool(ndim, kernel, stride, padding, rng):
    x = rng.standard_normal((2, 3, *EXTENTS[ndim]))
    values, indices = getattr(F, f"max_pool{ndim}d")(tensor(x), kernel, stride, padding, return_indices=True)
    values.requires_grad_()
    ty = getattr(F, f"max_unpool{ndim}d")(values, indices, kernel, stride, padding, EXTENTS[ndim])
    v, i = values.detach().numpy(), indices.numpy()
    unpool = function("max_unpool{}", ndim)
    if stride >= kernel:  # with overlaps several values share an index, and PyTorch's order is its own
        np.testing.assert_array_equal(
            unpool(v, i, kernel, stride, padding, EXTENTS[ndim]), ty.detach().numpy()
        )
    dy = rng.standard_normal(ty.shape)
    dx = function("max_unpool{}_backward", ndim)(dy, i)
    np.testing.assert_array_equal(dx, gradients(ty, dy, values)[0])


@pytest.mark.parametrize(("stride", "padding", "dilation"), list(itertools.product((1, 2), (0, 1), (1, 2))))
def test_unfold_and_fold(stride, padding, dilation, rng):
    x = integers(rng, (2, 3, 9, 8))
    steps = ((3, 2), dilation, padding, stride)
    columns = F.unfold(tensor(x), *steps).numpy()
    np.testing.assert_array_equal(fastconv.im2col(x, *steps), columns)
    np.testing.assert_array_equal(
        fastconv.col2im(columns, (9, 8), *steps), F.fold(tensor(columns), (9, 8), *steps).numpy()
    )


def test_half(rng):
    x, w = integers(rng, (2, 4, 9, 8), np.float16), integers(rng, (6, 4, 3, 3), np.float16)
    expected = F.conv2d(tensor(x).float(), tensor(w).float()).half().numpy()
    np.testing.assert_array_equal(fastconv.conv2d(x, w), expected)
