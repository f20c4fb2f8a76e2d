"""Elementwise functions between the layers that have weights."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from fastconv.arguments import Array
from fastconv.nn.checks import no_forward
from fastconv.nn.layer import Layer


class _Activation(Layer):
    """An elementwise function whose derivative follows from its output."""

    def __init__(self) -> None:
        super().__init__()
        self._output: Array | None = None

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input (None without ``needs_input``)."""
        if self._output is None:
            no_forward()
        return self._times_slope(grad, self._output) if needs_input else None

    def _times_slope(self, grad: Array, output: Array) -> Array:
        raise NotImplementedError


class ReLU(_Activation):
    """``max(x, 0)``; its slope at 0 is 0, as in PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.ReLU()
    >>> layer(np.array([-1.0, 0.0, 2.0])), layer.backward(np.ones(3))
    (array([0., 0., 2.]), array([0., 0., 1.]))
    """

    def forward(self, x: Array) -> Array:
        """``max(x, 0)``."""
        self._output = output = np.maximum(x, 0)
        return output

    def _times_slope(self, grad: Array, output: Array) -> Array:
        return grad * (output > 0)


class Sigmoid(_Activation):
    """``1 / (1 + exp(-x))``, without overflow for any x.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.Sigmoid()
    >>> layer(np.array([-1e4, 0.0, 1e4])), layer.backward(np.ones(3))
    (array([0. , 0.5, 1. ]), array([0.  , 0.25, 0.  ]))
    """

    def forward(self, x: Array) -> Array:
        """The logistic function of ``x``."""
        output: Array = expit(x)
        self._output = output
        return output

    def _times_slope(self, grad: Array, output: Array) -> Array:
        slope: Array = 1 - output
        slope *= output
        slope *= grad
        return slope


class Tanh(_Activation):
    """The hyperbolic tangent.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.Tanh()
    >>> layer(np.array([0.0, 1e4])), layer.backward(np.ones(2))
    (array([0., 1.]), array([1., 0.]))
    """

    def forward(self, x: Array) -> Array:
        """The hyperbolic tangent of ``x``."""
        self._output = output = np.tanh(x)
        return output

    def _times_slope(self, grad: Array, output: Array) -> Array:
        slope: Array = output * output
        np.subtract(1, slope, out=slope)
        slope *= grad
        return slope
