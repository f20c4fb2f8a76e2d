"""Steps that change a network's parameters by their gradients."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from operator import is_

import numpy as np

from fastconv.arguments import Array, must_be, number
from fastconv.kernels import training as kernels
from fastconv.nn.configured import Configured
from fastconv.nn.layer import Layer, owners_of


class _Optimiser(Configured):
    """Changes the parameters one after the other, each by one kernel, and keeps their running averages.

    Freezing or unfreezing a layer changes what there is to train: the running averages then start afresh.
    They stay where the same parameters are only held by other arrays, as after `Layer.flat_parameters`.
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
        self._hold(parameters)
        self._owners = owners_of(self.network, parameters)
        self.steps = 0
        self._averages = [[np.zeros_like(flat) for _ in range(self._averages_wanted)] for flat in self._flat]

    def _hold(self, parameters: list[Array]) -> None:
        self._parameters = parameters
        # What a kernel writes to: a view of the parameter, or a copy where that can't be.
        self._flat = [_float_vector(parameter) for parameter in parameters]
        self._in_place = [np.may_share_memory(*pair) for pair in zip(self._flat, parameters, strict=True)]

    def step(self) -> None:
        """Change the network's parameters, in place, by the gradients of its last backward pass."""
        parameters, gradients = self.network.parameters(), self.network.gradients()
        if len(parameters) != len(self._parameters) or not all(map(is_, parameters, self._parameters)):
            same = self._owners is not None and self._owners == owners_of(self.network, parameters)
            if same and [a.shape for a in parameters] == [a.shape for a in self._parameters]:
                self._hold(parameters)
            else:
                self._prepare(parameters)
        if not parameters:
            return
        self.steps += 1
        change = self._change()
        for parameter, flat, in_place, gradient, averages in zip(
            parameters, self._flat, self._in_place, gradients, self._averages, strict=True
        ):
            if in_place:
                change(flat, _float_vector(gradient), *averages)
            else:
                flat[...] = parameter.reshape(-1)
                change(flat, _float_vector(gradient), *averages)
                parameter[...] = flat.reshape(parameter.shape)

    def _change(self) -> Callable[..., None]:
        """What changes a parameter in place, given its gradient and its running averages, all flat."""
        raise NotImplementedError


def _float_vector(array: Array) -> Array:
    """A 1-D view of an array that kernels take; else a copy, in float32 of a float16."""
    if array.flags.carray and array.dtype != np.float16:
        return array.reshape(-1)
    return array.astype(np.float32 if array.dtype == np.float16 else array.dtype).reshape(-1)


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

    def _change(self) -> Callable[..., None]:
        decay, momentum, rate = self.weight_decay, self.momentum, self.learning_rate
        nothing = np.empty(0, np.float32)

        def change(parameter: Array, gradient: Array, velocity: Array = nothing) -> None:
            kernels.sgd_step(parameter, gradient, velocity, decay, momentum, rate)

        return change


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

    def _change(self) -> Callable[..., None]:
        decay, (keep_mean, keep_square) = self.weight_decay, self.betas
        root = sqrt(1 - keep_square**self.steps)
        rate, eps = self.learning_rate * root / (1 - keep_mean**self.steps), self.eps * root

        def change(parameter: Array, gradient: Array, mean: Array, square: Array) -> None:
            kernels.adam_step(parameter, gradient, mean, square, decay, keep_mean, keep_square, rate, eps)

        return change
