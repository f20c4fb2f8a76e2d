"""A convolutional network trained with HIPS autograd alone: the program of docs/adapters/autograd.md.

It knows nothing of fastconv: `autograd_convolve.py` and the tests put that in place of its `convolve`.
"""

import autograd.numpy as np
from autograd import value_and_grad
from autograd.scipy.signal import convolve

SIZES = {
    "filters1": (6, 1, 5, 5),
    "filters2": (16, 6, 5, 5),
    "dense1": (16 * 4 * 4, 120),
    "dense2": (120, 84),
    "dense3": (84, 10),
}


def conv(images, filters):
    """(N, K, H - 4, W - 4) from (N, C, H, W) and (K, C, 5, 5)."""
    return convolve(images, filters, axes=([2, 3], [2, 3]), dot_axes=([1], [1]), mode="valid")


def max_pool(images):
    """The maxima of windows of 2x2."""
    n, c, h, w = images.shape
    return np.max(np.max(images.reshape(n, c, h // 2, 2, w // 2, 2), axis=5), axis=3)


def scores(parameters, images):
    """(N, 10) from images (N, 1, 28, 28)."""
    x = max_pool(np.tanh(conv(images, parameters["filters1"])))
    x = max_pool(np.tanh(conv(x, parameters["filters2"])))
    x = np.tanh(x.reshape(len(images), -1) @ parameters["dense1"])
    x = np.tanh(x @ parameters["dense2"])
    return x @ parameters["dense3"]


def loss(parameters, images, labels):
    """The mean of the labels' negative logarithms of probability."""
    s = scores(parameters, images)
    s = s - np.max(s, axis=1, keepdims=True)
    logs = s - np.log(np.sum(np.exp(s), axis=1, keepdims=True))
    return -np.mean(logs[np.arange(len(labels)), labels])


def beginning(seed=0):
    """Parameters as they are before training."""
    rng = np.random.RandomState(seed)
    summed = {name: size[1:] if name.startswith("filters") else size[:1] for name, size in SIZES.items()}
    return {name: rng.randn(*size) / np.sqrt(np.prod(summed[name])) for name, size in SIZES.items()}


def batches(count, size, seed=1):
    """Noisy images of ten random patterns, and which pattern each is."""
    rng = np.random.RandomState(seed)
    patterns = rng.rand(10, 1, 28, 28) - 0.5
    for _ in range(count):
        labels = rng.randint(0, 10, size)
        yield patterns[labels] + 0.3 * rng.randn(size, 1, 28, 28), labels


def train(steps=20, size=64, rate=0.1):
    """The loss before each step."""
    parameters, losses = beginning(), []
    for images, labels in batches(steps, size):
        value, gradients = value_and_grad(loss)(parameters, images, labels)
        parameters = {name: parameters[name] - rate * gradients[name] for name in parameters}
        losses.append(value)
    return losses


if __name__ == "__main__":
    print(*(f"{value:.6f}" for value in train()), sep="\n")
