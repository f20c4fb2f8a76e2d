"""Steps that change a network's parameters by their gradients."""

from __future__ import annotations

from math import sqrt
from operator import is_

import numpy as np

from fastconv.arguments import Array, must_be
from fastconv.nn.checks import number
from fastconv.nn.layer import Layer


class _Optimiser:
    """Gathers all gradients into one flat array, so that a step is few NumPy calls for any network.

    Freezing or unfreezing a layer changes what there is to train: the running averages then start afresh.
    """

    def __init__(self, network: Layer, learning_rate: float, weight_decay: float, averages: int) -> None:
        if not isinstance(network, Layer):
            must_be(TypeError, "network", "a Layer", network)
        self.network = network
        self.learning_rate = number("learning_rate", learning_rate, 0)
        self.weight_decay = number("weight_decay", weight_decay, 0)
        self._averages_wanted = averages
        self._prepare(network.parameters())

    def _prepare(self, parameters: list[Array]) -> None:
        self._parameters = parameters
        self.steps = 0
        total = sum(array.size for array in parameters)
        dtype = np.result_type(*parameters) if parameters else np.dtype(np.float32)
        self._gradient, self._scratch = np.empty(total, dtype), np.empty(total, dtype)
        self._averages = [np.zeros(total, dtype) for _ in range(self._averages_wanted)]
        self._shares = []  # of the scratch array, one view a parameter
        offset = 0
        for array in parameters:
            self._shares.append(self._scratch[offset : offset + array.size].reshape(array.shape))
            offset += array.size

    def step(self) -> None:
        """Change the network's parameters, in place, by the gradients of its last backward pass."""
        parameters, gradients = self.network.parameters(), self.network.gradients()
        if len(parameters) != len(self._parameters) or not all(map(is_, parameters, self._parameters)):
            self._prepare(parameters)
        if not parameters:
            return
        self.steps += 1
        np.concatenate([gradient.ravel() for gradient in gradients], out=self._gradient)
        if self.weight_decay:
            np.concatenate([parameter.ravel() for parameter in parameters], out=self._scratch)
            self._scratch *= self.weight_decay
            self._gradient += self._scratch
        self._change()
        for parameter, share in zip(parameters, self._shares, strict=True):
            parameter -= share

    def _change(self) -> None:
        """Leave in the scratch array what is to be taken off the parameters."""
        raise NotImplementedError


class SGD(_Optimiser):
    """Stochastic gradient descent, with momentum.

    Parameters
    ----------
    network : Layer
        Whose parameters to train.
    learning_rate : float
    momentum : float
        ``velocity = momentum * velocity + gradient``; 0 <= momentum < 1.
    weight_decay : float
        Adds ``weight_decay * parameter`` to the gradient.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.Linear(1, 1, bias=False, rng=0)
    >>> layer.weight[...] = 1
    >>> optimiser = nn.SGD(layer, learning_rate=0.5)
    >>> _ = layer(np.ones((1, 1), np.float32)), layer.backward(np.ones((1, 1), np.float32))
    >>> optimiser.step()
    >>> layer.weight
    array([[0.5]], dtype=float32)
    """

    def __init__(
        self,
        network: Layer,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        self.momentum = number("momentum", momentum, 0, 1)
        super().__init__(network, learning_rate, weight_decay, averages=1 if self.momentum else 0)

    def _change(self) -> None:
        direction = self._gradient
        if self.momentum:
            direction = self._averages[0]
            direction *= self.momentum
            direction += self._gradient
        np.multiply(direction, self.learning_rate, out=self._scratch)


class Adam(_Optimiser):
    """Adam: steps by the gradient's running mean over the root of its running mean square.

    Parameters
    ----------
    network : Layer
        Whose parameters to train.
    learning_rate : float
    betas : pair of float
        How much of the two running means is kept at a step.
    eps : float
        Added to the root.
    weight_decay : float
        Adds ``weight_decay * parameter`` to the gradient.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument.

    Notes
    -----
    Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, in the order of operations given at the end of its
    section 2: the two bias corrections are folded into the learning rate and eps.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.Linear(1, 1, bias=False, rng=0)
    >>> layer.weight[...] = 1
    >>> optimiser = nn.Adam(layer, learning_rate=0.25)
    >>> _ = layer(np.ones((1, 1), np.float32)), layer.backward(np.ones((1, 1), np.float32))
    >>> optimiser.step()
    >>> layer.weight.round(4)
    array([[0.75]], dtype=float32)
    """

    def __init__(
        self,
        network: Layer,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            must_be(TypeError, "betas", "a pair of numbers", betas)
        self.betas = (number("betas[0]", betas[0], 0, 1), number("betas[1]", betas[1], 0, 1))
        self.eps = number("eps", eps, 0)
        super().__init__(network, learning_rate, weight_decay, averages=2)

    def _change(self) -> None:
        (mean, square), gradient, scratch = self._averages, self._gradient, self._scratch
        keep_mean, keep_square = self.betas
        # mean += (1 - beta1) * (gradient - mean), and the same for the squares
        np.subtract(gradient, mean, out=scratch)
        scratch *= 1 - keep_mean
        mean += scratch
        gradient *= gradient
        gradient -= square
        gradient *= 1 - keep_square
        square += gradient
        root = sqrt(1 - keep_square**self.steps)
        np.sqrt(square, out=scratch)
        scratch += self.eps * root
        np.divide(mean, scratch, out=scratch)
        scratch *= self.learning_rate * root / (1 - keep_mean**self.steps)
