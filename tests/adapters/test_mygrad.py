"""MyGrad, which locks the memory of every result while a graph is alive, with its layers on fastconv."""

import numpy as np
import pytest

mygrad = pytest.importorskip("mygrad")

import mygrad_layers  # noqa: E402
from mygrad.nnet.layers import conv_nd, max_pool  # noqa: E402


@pytest.fixture
def replaced():
    mygrad_layers.install()
    yield
    mygrad_layers.uninstall()


def train(images, weight, steps=3):
    """Losses and gradients of a few steps of a convolution, a max-pooling and a square."""
    x, w = mygrad.tensor(images), mygrad.tensor(weight)
    said = []
    for _ in range(steps):
        loss = (max_pool(conv_nd(x, w, stride=1, padding=1), (2, 2), 2) ** 2).sum()
        loss.backward()
        said.append((float(loss), x.grad.copy(), w.grad.copy()))
        w.data[...] -= np.float32(0.25) * np.sign(w.grad)
        x.null_grad(), w.null_grad()
    return said


@pytest.mark.parametrize("images", [1, 8])  # results of 50 KiB, and above 1 MiB
def test_training_gives_mygrad_s_own_numbers(images, request):
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (images, 3, 32, 32)).astype(np.float32)
    w = rng.integers(-3, 4, (48, 3, 3, 3)).astype(np.float32)
    expected = train(x, w)
    request.getfixturevalue("replaced")
    for (loss, dx, dw), (own_loss, own_dx, own_dw) in zip(train(x, w), expected, strict=True):
        assert loss == pytest.approx(own_loss, rel=1e-5)
        assert np.allclose(dx, own_dx, rtol=1e-4, atol=1e-2)
        assert np.allclose(dw, own_dw, rtol=1e-4, atol=1e-2)


def test_results_are_writeable_when_the_graph_is_gone(replaced):
    x = mygrad.tensor(np.ones((8, 16, 64, 64), np.float32))
    y = conv_nd(x, np.ones((16, 16, 3, 3), np.float32), stride=1, padding=1)
    assert y.data.nbytes > 2**20
    assert not y.data.flags.writeable
    y.sum().backward()
    y.data[...] = 0
