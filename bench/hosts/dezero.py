"""DeZero beside the same calls on fastconv: ``python bench/hosts/dezero.py``."""

from __future__ import annotations

from side_by_side import Case, compare, hold_threads

if __name__ == "__main__":
    hold_threads()

import numpy as np
from layer import DOUT, DPOOLED, RNG, B, W, X

import fastconv.adapters.dezero as adapter  # before dezero, which needs it on NumPy 1.24 and later

# isort: split
import dezero.functions as F
from dezero import Variable
from dezero.functions_conv import im2col_array
from dezero.layers import Conv2d, Linear
from dezero.models import VGG16, Model


class Network(Model):
    """Two convolutions with pooling, and two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv2d(32, 3, pad=1), Conv2d(64, 3, pad=1)
        self.hidden, self.out = Linear(100), Linear(10)

    def forward(self, x: object) -> object:
        """The scores of images (N, 3, 32, 32)."""
        x = F.pooling(F.relu(self.conv1(x)), 2, 2)
        x = F.pooling(F.relu(self.conv2(x)), 2, 2)
        return self.out(F.relu(self.hidden(F.flatten(x))))


def cases() -> list[Case]:
    """DeZero's functions: its own methods, or ours where installed."""
    x, w, b = map(Variable, (X, W, B))

    def backward(y: Variable, gradient: np.ndarray) -> None:
        for variable in (x, w, b):
            variable.cleargrad()
        y.grad = Variable(gradient)
        y.backward()

    network, vgg = Network(), VGG16()
    images, labels = RNG.standard_normal((50, 3, 32, 32), np.float32), RNG.integers(0, 10, 50)
    image = RNG.standard_normal((1, 3, 224, 224), np.float32)

    def step() -> None:
        loss = F.softmax_cross_entropy(network(images), labels)
        network.cleargrads()
        loss.backward()

    calls = {
        "conv2d, forward": lambda: F.conv2d(x, w, b, 1, 1),
        "conv2d, forward and backward": lambda: backward(F.conv2d(x, w, b, 1, 1), DOUT),
        "deconv2d, forward": lambda: F.deconv2d(DOUT, W, None, 1, 1),
        "pooling 2x2, forward and backward": lambda: backward(F.pooling(x, 2, 2), DPOOLED),
        "average_pooling 2x2, forward and backward": lambda: backward(F.average_pooling(x, 2, 2), DPOOLED),
        "im2col_array": lambda: im2col_array(X, 3, 1, 1),
        "two convolutions, 50 images: loss and gradients": step,
        "VGG16, one image, forward": lambda: vgg(image),
    }
    return [Case(label, call, call) for label, call in calls.items()]


if __name__ == "__main__":
    compare("DeZero 0.0.13", cases(), installed=adapter.installed)
