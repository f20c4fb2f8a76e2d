"""DeZero on fastconv against DeZero itself: its functions, their first two derivatives, a network."""

import importlib

import numpy as np
import pytest
from hosts import host
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

# DeZero's release can't be imported on NumPy 1.24 and later without the adapter.
host("dezero", through="fastconv.adapters.dezero")
adapter = importlib.import_module("fastconv.adapters.dezero")

import dezero  # noqa: E402
import dezero.functions as F  # noqa: E402
import dezero.functions_conv as host_module  # noqa: E402
import dezero.layers as L  # noqa: E402
from dezero import Variable  # noqa: E402
from dezero.functions_conv import col2im_array, im2col_array  # noqa: E402

from fastconv.adapters import HostError  # noqa: E402

CLASSES = ("Conv2d", "Deconv2d", "Conv2DGradW", "Pooling", "Pooling2DGrad", "Pooling2DWithIndexes")


def both(compute, dtype=None):
    """What DeZero computes alone, and on fastconv: equal in shape and dtype, and in value up to rounding.

    With `dtype`, that is what ours must have, and DeZero's need not.
    """
    expected = [theirs.astype(dtype or theirs.dtype, copy=False) for theirs in compute()]
    with adapter.installed():
        got = compute()
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        tolerance = 2e-4 if ours.dtype == np.float32 else 1e-10
        scale = max(1, np.abs(theirs).max(initial=0))
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


def derivatives(function, *arrays):
    """The output, its derivatives by all inputs, and those of the first's sum of cubes."""
    inputs = [Variable(array) for array in arrays]

    def by_inputs(scalar):
        for x in inputs:
            x.cleargrad()
        scalar.backward(create_graph=True)
        return [x.grad for x in inputs if x.grad is not None]

    y = function(*inputs)
    first = by_inputs(F.sum(y * y * y))
    second = by_inputs(F.sum(first[0] * first[0] * first[0]))
    return [y.data, *(gradient.data for gradient in (*first, *second))]


@st.composite
def problems(draw, square=False):
    """Input, kernel, stride and padding; numbers and pairs."""

    def pair(low, high):
        number = st.integers(low, high)
        return draw(st.one_of(number, st.tuples(number, number)))

    kernel = draw(st.integers(1, 4)) if square else pair(1, 4)
    stride, pad = pair(1, 3), pair(0, 2)
    both_extents = zip(host_module.pair(kernel), host_module.pair(pad), strict=True)
    extents = [max(1, k - 2 * p) + draw(st.integers(0, 5)) for k, p in both_extents]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *extents)
    return rng, rng.standard_normal(shape).astype(dtype), kernel, stride, pad


@given(problems(), st.booleans())
@examples(40)
def test_convolution(problem, biased):
    rng, x, kernel, stride, pad = problem
    w = rng.standard_normal((3, x.shape[1], *host_module.pair(kernel))).astype(x.dtype)
    arrays = [x, w, *([rng.standard_normal(3).astype(x.dtype)] if biased else [])]
    both(lambda: derivatives(lambda *inputs: F.conv2d(*inputs, stride=stride, pad=pad), *arrays))
    both(lambda: [F.conv2d_simple(*arrays, stride=stride, pad=pad).data])


@given(problems(), st.booleans(), st.booleans())
@examples(40)
def test_transposed_convolution(problem, biased, sized):
    rng, image, kernel, stride, pad = problem
    axes = list(zip(image.shape[2:], *map(host_module.pair, (kernel, stride, pad)), strict=True))
    outputs = [host_module.get_conv_outsize(*axis) for axis in axes]
    smallest = [host_module.get_deconv_outsize(n, *axis[1:]) for n, axis in zip(outputs, axes, strict=True)]
    outsize = image.shape[2:] if sized or min(smallest) < 1 else None
    x = rng.standard_normal((2, 3, *outputs)).astype(image.dtype)
    w = rng.standard_normal((3, image.shape[1], *host_module.pair(kernel))).astype(x.dtype)
    arrays = [x, w, *([rng.standard_normal(image.shape[1]).astype(x.dtype)] if biased else [])]
    both(
        lambda: derivatives(
            lambda *inputs: F.deconv2d(*inputs, stride=stride, pad=pad, outsize=outsize), *arrays
        )
    )


@given(problems())
@examples(40)
def test_pooling(problem):
    _, x, kernel, stride, pad = problem

    def indexes():
        y = F.pooling(Variable(x), kernel, stride, pad)
        return [y.creator.indexes, F.pooling_simple(x, kernel, stride, pad).data]

    both(lambda: derivatives(lambda x: F.pooling(x, kernel, stride, pad), x))
    both(indexes)


@given(problems(square=True))
@examples(40)
def test_average_pooling(problem):
    _, x, kernel, stride, pad = problem
    # DeZero's own gradient is float64 whatever the input is.
    both(lambda: derivatives(lambda x: F.average_pooling(x, kernel, stride, pad), x), dtype=x.dtype)


@given(problems(), st.booleans(), st.sampled_from((None, np.float16, np.int64)))
@examples(40)
def test_columns(problem, to_matrix, dtype):
    _, x, *steps = problem
    x = np.round(x * 4).astype(dtype or x.dtype)
    columns = im2col_array(x, *steps, to_matrix)
    both(lambda: [im2col_array(x, *steps, to_matrix)])
    both(lambda: [col2im_array(columns, x.shape, *steps, to_matrix)])
    if dtype is None:
        both(lambda: derivatives(lambda x: F.im2col(x, *steps, to_matrix), x))


def test_what_fastconv_does_not_compute_with_is_dezeros():
    x, w = np.arange(32).reshape(1, 2, 4, 4), np.arange(16).reshape(2, 2, 2, 2)
    both(lambda: [F.conv2d(x, w, stride=2).data, F.pooling(x, 2, 2).data, F.average_pooling(x, 2).data])
    z = x + 1j
    both(lambda: [F.conv2d(z, w).data])


def test_an_empty_batch():
    x, w = np.ones((0, 2, 5, 5), np.float32), np.ones((3, 2, 3, 3), np.float32)
    both(lambda: [F.conv2d(x, w, pad=1).data, F.average_pooling(x, 3, 2, 1).data])


def test_a_network_trains_the_same():
    class Network(dezero.Model):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = L.Conv2d(4, 3, pad=1), L.Conv2d(5, (2, 3), stride=2, nobias=True)
            self.back, self.out = L.Deconv2d(2, 3, stride=2), L.Linear(4)

        def forward(self, x):
            y = F.pooling(F.relu(self.conv1(x)), 3, 2, 1)
            y = F.average_pooling(self.back(self.conv2(y)), 2, 2)
            return self.out(F.flatten(F.relu(y)))

    def train():
        np.random.seed(0)  # noqa: NPY002 - DeZero's layers draw their weights from it
        x = np.random.default_rng(0).standard_normal((12, 3, 12, 12)).astype(np.float32)
        t = np.arange(12) % 4
        network = Network()
        optimiser = dezero.optimizers.Adam().setup(network)
        losses = []
        for _ in range(5):
            loss = F.softmax_cross_entropy(network(x), t)
            network.cleargrads()
            loss.backward()
            optimiser.update()
            losses.append(loss.data)
        return [np.array(losses), *(p.data for p in network.params())]

    both(train)


def state():
    modules = (np, host_module, F, L, dezero.models)
    owners = (*modules, *(getattr(host_module, name) for name in (*CLASSES, "AveragePooling")))
    return [dict(vars(owner)) for owner in owners], im2col_array, col2im_array


def test_uninstall_leaves_no_trace():
    before = state()
    with adapter.installed():
        made = state()
        assert im2col_array.__module__ == "fastconv.adapters.dezero"
        adapter.install()
        assert state() == made
        dezero.datasets.Spiral()  # uses numpy.int
    assert state() == before
    adapter.uninstall()
    assert state() == before


def test_another_dezero_is_refused(monkeypatch):
    monkeypatch.setattr(host_module, "col2im_array", lambda col, shape: None)
    before = state()
    with pytest.raises(HostError, match=r"functions_conv.col2im_array takes \(col, shape\), and fastconv's"):
        adapter.install()
    assert state() == before
    monkeypatch.undo()
    monkeypatch.delattr(host_module, "Pooling2DWithIndexes")
    with pytest.raises(HostError, match=r"functions_conv.Pooling2DWithIndexes is not there"):
        adapter.install()
