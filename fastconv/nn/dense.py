"""The fully connected layer, and the one that makes vectors of images for it."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import DTypeLike

from fastconv.arguments import Array, Size, float_array, must_be_said, whole_number
from fastconv.nn.checks import batch, gradient, no_forward
from fastconv.nn.layer import Layer, Weighted


class Linear(Weighted):
    """A fully connected layer, ``x @ weight.T + bias``.

    Parameters
    ----------
    in_features, out_features : int
        Lengths of the last axis of the input and of the output.
    bias : bool
        Whether to add one number an output.
    dtype : dtype
        Of the weight and the bias.
    rng : numpy.random.Generator, int or None
        Where the initial weights come from: a generator, a seed, or the system's entropy.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument, and for an input whose last axis is not ``in_features`` long.

    Notes
    -----
    Input (..., in_features), weight (out_features, in_features), output (..., out_features).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Linear(432, 10, rng=0)(np.zeros((5, 432), np.float32)).shape
    (5, 10)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__()
        self.in_features = inner = whole_number("in_features", in_features, 1)
        self.out_features = outer = whole_number("out_features", out_features, 1)
        self._initialise((outer, inner), outer, bias, dtype, rng)

    def _products(self, input_size: Size, output_size: Size) -> int:
        return prod(input_size[:-1]) * self.weight.size

    def forward(self, x: Array) -> Array:
        """The layer's output for the batch ``x``."""
        x = float_array("x", x)
        if x.shape[-1:] != self.weight.shape[1:]:
            must_be_said(ValueError, "x", f"of shape (..., {self.weight.shape[1]})", f"shape {x.shape}")
        self._input = x
        output: Array = x @ self.weight.T
        if self.bias is not None:
            output += self.bias
        return output

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input (None without ``needs_input``); keeps those of the parameters."""
        x = self._input
        if x is None:
            no_forward()
        grad = gradient(grad, (*x.shape[:-1], self.weight.shape[0]))
        if not self._frozen:
            flat = grad if grad.ndim == 2 else grad.reshape(-1, self.weight.shape[0])
            x = x if x.ndim == 2 else x.reshape(-1, self.weight.shape[1])
            self.grad_weight = flat.T @ x
            if self.bias is not None:
                self.grad_bias = np.add.reduce(flat, 0)
        return grad @ self.weight if needs_input else None


class Flatten(Layer):
    """All axes but the first made one: (N, C, H, W) to (N, C*H*W).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Flatten()(np.zeros((10, 6, 4, 4))).shape
    (10, 96)
    """

    _kept_for_backward = ("_input_size",)

    def __init__(self) -> None:
        super().__init__()
        self._input_size: Size | None = None

    def forward(self, x: Array) -> Array:
        """``x`` with two axes; a view where that is possible."""
        x = batch(x)
        self._input_size = shape = x.shape
        return x.reshape(shape[0], prod(shape[1:]))

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """``grad`` in the shape of the last input (None without ``needs_input``)."""
        if self._input_size is None:
            no_forward()
        if not needs_input:
            return None
        shape = self._input_size
        return gradient(grad, (shape[0], prod(shape[1:]))).reshape(shape)
