"""The networks of five questions about convolution that people asked, as the questions describe them.

Each function takes a namespace of layers, so that one description builds the network from `fastconv.nn`
and from `fastconv.demo.plain`; with equal seeds the two start from equal weights. What a question leaves
open is decided here and said in the docstring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from fastconv.nn import CrossEntropyLoss, MSELoss, Sequential

Build: TypeAlias = Callable[..., Sequential]
Seed: TypeAlias = np.random.Generator | int | None


def s000(layers: ModuleType, rng: Seed = None, dtype: DTypeLike = "float32") -> Sequential:
    """Two convolutions and two fully connected layers, 96-80-10 (first document).

    Input (10, 1, 28, 28); 3 filters 1x5x5 give 24x24, pooled to 12x12; 6 filters 3x5x5 give 8x8, pooled to
    4x4; 96 to 80 to 10, softmax. The softmax is part of the loss. The document names no other activation:
    a ReLU follows each convolution and the first fully connected layer.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> from fastconv.demo.networks import s000
    >>> s000(nn, rng=0)(np.zeros((10, 1, 28, 28), np.float32)).shape
    (10, 10)
    """
    rng = np.random.default_rng(rng)
    return Sequential(
        layers.Conv2d(1, 3, 5, dtype=dtype, rng=rng),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(3, 6, 5, dtype=dtype, rng=rng),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(96, 80, dtype=dtype, rng=rng),
        layers.ReLU(),
        layers.Linear(80, 10, dtype=dtype, rng=rng),
    )


def s001(layers: ModuleType, rng: Seed = None, dtype: DTypeLike = "float32") -> Sequential:
    """One layer, channels last: (5, 5, 3) images, 16 filters 3x3x3, output (3, 3, 16) (second document).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> from fastconv.demo.networks import s001
    >>> s001(nn, rng=0)(np.zeros((1, 5, 5, 3), np.float32)).shape
    (1, 3, 3, 16)
    """
    rng = np.random.default_rng(rng)
    return Sequential(layers.Conv2d(3, 16, 3, layout="NHWC", dtype=dtype, rng=rng))


def s002(layers: ModuleType, rng: Seed = None, dtype: DTypeLike = "float32") -> Sequential:
    """One convolution and one fully connected layer, sigmoids (third document).

    Input 28x28; 3 feature maps with a 5x5 kernel and one bias each, sigmoid, 24x24; max-pooling 2x2, 12x12;
    432 to 10, sigmoid. The error is the squared difference to the one-hot target.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> from fastconv.demo.networks import s002
    >>> s002(nn, rng=0)(np.zeros((1, 1, 28, 28), np.float32)).shape
    (1, 10)
    """
    rng = np.random.default_rng(rng)
    return Sequential(
        layers.Conv2d(1, 3, 5, dtype=dtype, rng=rng),
        layers.Sigmoid(),
        layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(432, 10, dtype=dtype, rng=rng),
        layers.Sigmoid(),
    )


def s003(layers: ModuleType, rng: Seed = None, dtype: DTypeLike = "float32") -> Sequential:
    """Two 3x3 convolutions and two fully connected layers, 49-49-10 (fourth document).

    28x28 stays 28x28, pooled to 14x14; that stays, pooled to 7x7; 49 to 49 to 10. The document asks how the
    filters learn, after 94 % without learning: the demo trains it with frozen filters and with learning ones.
    The number of filters is not said: 49 inputs of the first fully connected layer mean one filter in the
    second convolution; the first has 8. A ReLU follows the first fully connected layer; softmax in the loss.
    All 49 numbers pass through that one filter and its ReLU: from negative weights it would answer nothing
    to any image, and never learn. So its weights start as the absolute values of what the others start from.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> from fastconv.demo.networks import s003
    >>> s003(nn, rng=0)(np.zeros((1, 1, 28, 28), np.float32)).shape
    (1, 10)
    """
    rng = np.random.default_rng(rng)
    first = layers.Conv2d(1, 8, 3, padding=1, dtype=dtype, rng=rng)
    second = layers.Conv2d(8, 1, 3, padding=1, dtype=dtype, rng=rng)
    np.abs(second.weight, out=second.weight)
    return Sequential(
        first,
        layers.ReLU(),
        layers.MaxPool2d(2),
        second,
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(49, 49, dtype=dtype, rng=rng),
        layers.ReLU(),
        layers.Linear(49, 10, dtype=dtype, rng=rng),
    )


def s004(layers: ModuleType, rng: Seed = None, dtype: DTypeLike = "float32") -> Sequential:
    """Two convolutions, 3 filters 1x3x3 and 10 filters 3x4x4 (fifth document).

    28x28 to 26x26, ReLU, pooled to 13x13; to 10x10, ReLU, pooled to 5x5. The document ends there: one
    linear layer takes the 250 numbers to 10 classes, softmax in the loss.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> from fastconv.demo.networks import s004
    >>> s004(nn, rng=0)(np.zeros((1, 1, 28, 28), np.float32)).shape
    (1, 10)
    """
    rng = np.random.default_rng(rng)
    return Sequential(
        layers.Conv2d(1, 3, 3, dtype=dtype, rng=rng),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(3, 10, 4, dtype=dtype, rng=rng),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(250, 10, dtype=dtype, rng=rng),
    )


@dataclass(frozen=True)
class Recipe:
    """How the demo trains one network.

    Attributes
    ----------
    name, about : str
        The document's number and the network in a few words.
    build : callable
        The function above.
    loss : type
        `CrossEntropyLoss`, which takes class numbers, or `MSELoss`, which takes one-hot rows.
    learning_rate : float
        Of Adam at the beginning; it falls to zero.
    images : int
        How many images training sees, unless the user says how many epochs: larger data, fewer epochs.
    frozen_twin : bool
        Whether to train the network with frozen filters too.
    """

    name: str
    about: str
    build: Build
    loss: type[CrossEntropyLoss] | type[MSELoss]
    learning_rate: float
    images: int
    frozen_twin: bool = False


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "s000",
            "3 filters 5x5, max-pool, 6 filters 3x5x5, max-pool, 96-80-10, softmax",
            s000,
            CrossEntropyLoss,
            0.002,
            36_000,
        ),
        Recipe(
            "s002",
            "3 filters 5x5, sigmoid, max-pool, 432-10, sigmoid, squared error",
            s002,
            MSELoss,
            0.007,
            57_000,
        ),
        Recipe(
            "s003",
            "8 filters 3x3, max-pool, 1 filter 8x3x3, max-pool, 49-49-10, softmax",
            s003,
            CrossEntropyLoss,
            0.003,
            50_000,
            frozen_twin=True,
        ),
        Recipe(
            "s004",
            "3 filters 3x3, max-pool, 10 filters 3x4x4, max-pool, 250-10, softmax",
            s004,
            CrossEntropyLoss,
            0.003,
            36_000,
        ),
    )
}
