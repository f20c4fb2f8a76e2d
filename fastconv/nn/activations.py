"""Elementwise functions between the layers that have weights."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from fastconv.arguments import Array
from fastconv.kernels import training as kernels
from fastconv.nn.checks import batch, flat_views, gradient, no_forward
from fastconv.nn.layer import Layer


class _Activation(Layer):
    """An elementwise function whose derivative follows from its output."""

    _kept_for_backward = ("_output",)

    def __init__(self) -> None:
        super().__init__()
        self._output: Array | None = None

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input (None without ``needs_input``)."""
        if self._output is None:
            no_forward()
        if not needs_input:
            return None
        return self._times_slope(gradient(grad, self._output.shape), self._output)

    def backward_in_place(self, grad: Array) -> Array:
        """As `backward`, and may write to ``grad``."""
        if self._output is None:
            no_forward()
        out = grad if grad.flags.writeable and grad.shape == self._output.shape else None
        return self._times_slope(grad, self._output, out)

    def _times_slope(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        """``grad`` times the slope where the function has the value ``output``, in ``out`` if it is given."""
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
        self._output = output = np.maximum(batch(x), 0)
        return output

    def forward_in_place(self, x: Array) -> Array:
        """As `forward`, written to ``x``."""
        self._output = np.maximum(x, 0, out=x)
        return x

    def _times_slope(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        result = grad.copy() if out is None else out
        views = flat_views(output, result)
        if views is None:
            result *= output > 0
        else:
            kernels.relu_backward(*views)
        return result


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
        x = batch(x)
        output: Array = np.abs(x)
        views = flat_views(x, output)
        if views is None:
            output = expit(x)
        else:
            # NumPy's exponential is a vector loop, SciPy's function is not: 40 against 147 us for 32x3x24x24
            # (float32, AVX-512 Xeon).
            np.negative(output, out=output)
            np.exp(output, out=output)
            kernels.sigmoid_of_exponentials(*views)
        self._output = output
        return output

    def _times_slope(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        slope: Array = 1 - output
        slope *= output
        return np.multiply(slope, grad, out=slope if out is None else out)


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
        self._output = output = np.tanh(batch(x))
        return output

    def _times_slope(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        slope: Array = output * output
        np.subtract(1, slope, out=slope)
        return np.multiply(slope, grad, out=slope if out is None else out)
