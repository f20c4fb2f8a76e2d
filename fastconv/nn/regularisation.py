"""The layers that do something else in training than in use: dropout and batch normalisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastconv.annotations import Layout2d
from fastconv.arguments import (
    Array,
    Size,
    float_array,
    float_dtype,
    must_be_said,
    number,
    one_of,
    whole_number,
)
from fastconv.nn.checks import batch, generator, gradient, no_forward
from fastconv.nn.layer import Layer, Weighted


class Dropout(Layer):
    """Each number zeroed with probability ``p`` in training, the others divided by ``1 - p``.

    Parameters
    ----------
    p : float
        0 <= p < 1.
    rng : numpy.random.Generator, int or None
        A generator, a seed, or the system's entropy.

    Raises
    ------
    ValueError, TypeError
        For a wrong ``p`` or ``rng``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.Dropout(0.5, rng=0)
    >>> layer(np.ones(6))
    array([2., 2., 2., 0., 0., 0.])
    >>> layer.eval()(np.ones(6))
    array([1., 1., 1., 1., 1., 1.])
    """

    _kept_for_backward = ("_mask", "_size")

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | int | None = None) -> None:
        super().__init__()
        self.p = number("p", p, 0, 1)
        self._rng = generator(rng)
        self._mask: Array | None = None
        self._size: Size | None = None  # of the last input

    def forward(self, x: Array) -> Array:
        """``x`` with holes in training, ``x`` itself otherwise."""
        x = batch(x)
        self._size = x.shape
        if not self.training or self.p == 0:
            self._mask = None
            return x
        keep = self._rng.random(x.shape, np.float32) >= self.p
        self._mask = keep * x.dtype.type(1 / (1 - self.p))
        return x * self._mask

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """``grad`` with the same holes (None without ``needs_input``)."""
        if not needs_input:
            return None
        if self._size is None:
            no_forward()
        grad = gradient(grad, self._size)
        return grad if self._mask is None else grad * self._mask


class BatchNorm2d(Weighted):
    """Each channel normalised to mean 0 and variance 1 over the batch, then scaled and shifted.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    eps : float
        Added to the variance.
    momentum : float
        Weight of the newest batch in the running averages.
    dtype : dtype
        Of the parameters and the running averages.
    layout : {"NCHW", "NHWC"}
        Where the channels are.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument, for an input of another number of channels, and in training for a batch with
        one number a channel, whose variance says nothing.

    Notes
    -----
    Ioffe and Szegedy 2015, arXiv:1502.03167; as in PyTorch the running variance is the unbiased one.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.BatchNorm2d(1, dtype="float64")
    >>> layer(np.array([1.0, 3.0]).reshape(2, 1, 1, 1)).round(3).ravel()
    array([-1.,  1.])
    >>> layer.running_mean, layer.running_var
    (array([0.2]), array([1.1]))
    """

    bias: Array
    _kept_for_backward = ("_kept",)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        dtype: DTypeLike = "float32",
        layout: Layout2d = "NCHW",
    ) -> None:
        super().__init__()
        self.num_features = channels = whole_number("num_features", num_features, 1)
        kind = float_dtype("dtype", dtype)
        self.eps, self.momentum = number("eps", eps, 0), number("momentum", momentum, 0, 1)
        self.layout = one_of("layout", layout, ("NCHW", "NHWC"))
        self.weight, self.bias = np.ones(channels, kind), np.zeros(channels, kind)
        self.running_mean, self.running_var = np.zeros(channels, kind), np.ones(channels, kind)
        self._channel_axis = 1 if layout == "NCHW" else 3
        self._others = (0, 2, 3) if layout == "NCHW" else (0, 1, 2)
        self._column = (channels, 1, 1) if layout == "NCHW" else (channels,)
        # Of the last forward pass: its input normalised, weight / standard deviation, and whether both are
        # by the batch's own averages.
        self._kept: tuple[Array, Array, bool] | None = None

    def state(self) -> dict[str, Array]:
        """Weight, bias and the running averages."""
        return super().state() | {"running_mean": self.running_mean, "running_var": self.running_var}

    def forward(self, x: Array) -> Array:
        """``x`` normalised: by its own averages in training, by the running ones otherwise."""
        x = float_array("x", x)
        if x.ndim != 4 or x.shape[self._channel_axis] != self.weight.size:
            expected = f"a 4-dimensional {self.layout} array of {self.weight.size} channels"
            must_be_said(ValueError, "x", expected, f"shape {x.shape}")
        with np.errstate(all="ignore"):  # infinities and NaN travel without a warning
            if self.training:
                mean, var = self._averages(x)
            else:
                mean, var = self.running_mean, self.running_var
            inverse = 1 / np.sqrt(var + self.eps)
            normal = (x - mean.reshape(self._column)) * inverse.reshape(self._column)
            self._kept = normal, (self.weight * inverse).reshape(self._column), self.training
            output: Array = normal * self.weight.reshape(self._column)
            output += self.bias.reshape(self._column)
        return output

    def _averages(self, x: Array) -> tuple[Array, Array]:
        """Mean and variance of each channel of the batch; takes them into the running ones."""
        count = x.size // self.weight.size
        if count < 2:
            expected = "of more than one number a channel in training"
            must_be_said(ValueError, "x", expected, f"shape {x.shape}")
        mean, var = x.mean(self._others), x.var(self._others)
        self.running_mean += self.momentum * (mean - self.running_mean)
        self.running_var += self.momentum * (var * (count / (count - 1)) - self.running_var)
        return mean, var

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input (None without ``needs_input``); keeps those of the parameters."""
        if self._kept is None:
            no_forward()
        normal, scale, by_batch = self._kept
        grad = gradient(grad, normal.shape)
        grad_weight, grad_bias = (grad * normal).sum(self._others), grad.sum(self._others)
        if not self._frozen:
            self.grad_weight, self.grad_bias = grad_weight, grad_bias
        if not needs_input:
            return None
        if not by_batch:
            return grad * scale
        # The batch's mean and variance depend on x too: their share of the gradient is taken off.
        count = grad.size // self.weight.size
        along = normal * (grad_weight / count).reshape(self._column)
        return (grad - (grad_bias / count).reshape(self._column) - along) * scale
