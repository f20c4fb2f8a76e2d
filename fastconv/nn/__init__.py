"""A little network: layers with a forward and a backward pass, losses and optimisers.

Enough to train a real network with NumPy arrays and no framework, and not a framework: there is no
graph and no tape. A layer keeps what its own backward pass needs, and `Sequential` calls the layers in
order and then in reverse. Every layer has

- ``forward(x)`` (``layer(x)`` is the same),
- ``backward(grad, needs_input=True)``: stores the gradients of the layer's parameters and returns the
  gradient of its input, or None where ``needs_input`` is False,
- ``parameters()`` and ``gradients()``: two lists of arrays in the same order,
- ``train()`` and ``eval()``, which matter to `Dropout` and `BatchNorm2d`,
- ``frozen``: a frozen layer computes no parameter gradients, and its parameters are left out of training,
- ``summary(input_size)``: a table of output shapes, parameters and multiply-adds,
- ``flat_parameters()`` and ``flat_gradients()``: all of them as one vector each.

The repr of layers, losses and optimisers is the call that makes one like it, but for its weights; an
optimiser's has the network's inside.

Examples
--------
Three steps of a small network; the loss falls:

>>> import numpy as np
>>> from fastconv import nn
>>> rng = np.random.default_rng(0)
>>> net = nn.Sequential(
...     nn.Conv2d(1, 3, 5, rng=rng), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(432, 10, rng=rng)
... )
>>> loss, optimiser = nn.CrossEntropyLoss(), nn.Adam(net, learning_rate=0.01)
>>> images = rng.random((8, 1, 28, 28), dtype=np.float32)
>>> targets = np.arange(8)
>>> losses = []
>>> for _ in range(3):
...     losses.append(loss.forward(net.forward(images), targets))
...     net.backward(loss.backward(), needs_input=False)
...     optimiser.step()
>>> losses[0] > losses[1] > losses[2]
True
>>> optimiser
Adam(
    Sequential(Conv2d(1, 3, 5), ReLU(), MaxPool2d(2), Flatten(), Linear(432, 10)),
    learning_rate=0.01,
)
"""

from fastconv.nn.activations import ReLU, Sigmoid, Tanh
from fastconv.nn.convolution import Conv1d, Conv2d, Conv3d, ConvTranspose2d
from fastconv.nn.dense import Flatten, Linear
from fastconv.nn.layer import Layer
from fastconv.nn.losses import CrossEntropyLoss, MSELoss
from fastconv.nn.optimisers import SGD, Adam
from fastconv.nn.parallel import DataParallel
from fastconv.nn.pooling import AvgPool2d, MaxPool2d
from fastconv.nn.regularisation import BatchNorm2d, Dropout
from fastconv.nn.sequential import Sequential

__all__ = [
    "SGD",
    "Adam",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "DataParallel",
    "Dropout",
    "Flatten",
    "Layer",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
]


def __dir__() -> list[str]:
    """The public names alone."""
    return sorted(__all__)
