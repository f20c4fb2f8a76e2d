"""A little network: layers with a forward and a backward pass, losses and optimisers.

Enough to train a real network with NumPy arrays and no framework, and not a framework: there is no
graph and no tape. A layer keeps what its own backward pass needs, and `Sequential` calls the layers in
order and then in reverse. Every layer has

- ``forward(x)`` (``layer(x)`` is the same),
- ``backward(grad, needs_input=True)``: stores the gradients of the layer's parameters and returns the
  gradient of its input, or None where ``needs_input`` is False,
- ``parameters()`` and ``gradients()``: two lists of arrays in the same order,
- ``train()`` and ``eval()``, which matter to `Dropout` and `BatchNorm2d`,
- ``frozen``: a frozen layer computes no parameter gradients, and its parameters are left out of training.

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
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod, sqrt
from operator import is_
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import DTypeLike
from scipy.special import expit

from fastconv.arguments import (
    Array,
    Size,
    extents,
    flag,
    float_dtype,
    must_be,
    must_be_said,
    one_of,
    whole_number,
)
from fastconv.conv import (
    conv1d,
    conv1d_backward,
    conv2d,
    conv2d_backward,
    conv3d,
    conv3d_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
)
from fastconv.pool import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward

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

_LayerType = TypeVar("_LayerType", bound="Layer")
_SequentialType = TypeVar("_SequentialType", bound="Sequential")


# --- what layers share --------------------------------------------------------------------------------


def _no_forward() -> NoReturn:
    must_be_said(ValueError, "backward", "called after forward", "no forward pass")


def _no_backward() -> NoReturn:
    must_be_said(ValueError, "gradients", "asked for after backward", "no backward pass")


def _generator(rng: object) -> np.random.Generator:
    """The generator that was given; one seeded by the number, or by the system for None."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None:
        return np.random.default_rng()
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool) and rng >= 0:
        return np.random.default_rng(int(rng))
    must_be(TypeError, "rng", "a numpy.random.Generator, a seed of at least 0 or None", rng)


def _number(name: str, value: object, least: float, below: float = float("inf")) -> float:
    """``value`` as a float in [least, below)."""
    expected = f"a number of at least {least:g}" + (f" and below {below:g}" if below < float("inf") else "")
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        must_be(TypeError, name, expected, value)
    if not least <= value < below:
        must_be(ValueError, name, expected, value)
    return float(value)


def _uniform(rng: np.random.Generator, bound: float, shape: Size, dtype: np.dtype[Any]) -> Array:
    return rng.uniform(-bound, bound, shape).astype(dtype)


class Layer:
    """What every layer is: a forward pass, a backward pass, parameters and their gradients.

    A layer of your own derives from this class and defines `forward` and `backward`; one with parameters
    defines `parameters`, `gradients` and `state` as well.

    Attributes
    ----------
    training : bool
        True while the network is trained, False while it is used; see `train` and `eval`.
    frozen : bool
        True to leave the layer's parameters as they are: `parameters` and `gradients` are then empty, and
        `backward` computes no parameter gradients.

    Examples
    --------
    >>> from fastconv import nn
    >>> class Double(nn.Layer):
    ...     def forward(self, x):
    ...         return 2 * x
    ...
    ...     def backward(self, grad, needs_input=True):
    ...         return 2 * grad if needs_input else None
    >>> Double().forward(3.0), Double().backward(1.0)
    (6.0, 2.0)
    """

    def __init__(self) -> None:
        self.training = True
        self._frozen = False

    @property
    def frozen(self) -> bool:
        """Whether the layer's parameters are left as they are."""
        return self._frozen

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self._frozen = flag("frozen", value)

    def forward(self, x: Array) -> Array:
        """The layer's output for the batch ``x``."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input, from the gradient ``grad`` of the last output."""
        raise NotImplementedError(f"{type(self).__name__} defines no backward")

    def __call__(self, x: Array) -> Array:
        """Do the same as `forward`."""
        return self.forward(x)

    def parameters(self) -> list[Array]:
        """The arrays that training changes, in place."""
        return []

    def gradients(self) -> list[Array]:
        """The gradients of `parameters`, in the same order, as the last backward pass left them."""
        return []

    def state(self) -> dict[str, Array]:
        """Every array that makes the layer what it is, frozen or not, by name; for saving."""
        return {}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Copy arrays named as in `state` into the layer.

        Raises
        ------
        ValueError
            Where a name is missing or unknown, or a shape is another; nothing is copied then.
        TypeError
            Where an array's dtype can't be cast to the layer's.
        """
        own = self.state()
        if set(state) != set(own):
            must_be(ValueError, "state", f"arrays named {sorted(own)}", sorted(state))
        for name, array in own.items():
            _check_loaded(name, array, state[name])
        for name, array in own.items():
            array[...] = state[name]

    def train(self: _LayerType, mode: bool = True) -> _LayerType:
        """Switch to training (or, with False, to use) and return the layer."""
        self.training = flag("mode", mode)
        return self

    def eval(self: _LayerType) -> _LayerType:
        """Switch to use: no dropout, and batch normalisation by the running averages."""
        return self.train(False)


def _check_loaded(name: str, own: Array, loaded: Array) -> None:
    if not isinstance(loaded, np.ndarray):
        must_be(TypeError, f"state[{name!r}]", "a NumPy array", loaded)
    if loaded.shape != own.shape:
        must_be_said(ValueError, f"state[{name!r}]", f"of shape {own.shape}", f"shape {loaded.shape}")
    if not np.can_cast(loaded.dtype, own.dtype, "same_kind"):
        must_be_said(TypeError, f"state[{name!r}]", f"of dtype {own.dtype}", f"dtype {loaded.dtype}")


class _Weighted(Layer):
    """A layer with a weight and, maybe, a bias."""

    weight: Array
    bias: Array | None

    def __init__(self) -> None:
        super().__init__()
        self.grad_weight: Array | None = None
        self.grad_bias: Array | None = None
        self._input: Array | None = None

    def _initialise(
        self, shape: Size, fan_in: int, filters: int, bias: bool, dtype: DTypeLike, rng: object
    ) -> None:
        """Draw weight and bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

        This is PyTorch's ``reset_parameters`` (torch/nn/modules/conv.py and linear.py): Kaiming-uniform
        with a = sqrt(5), so the bound is sqrt(6 / ((1 + a**2) * fan_in)) = 1/sqrt(fan_in). Kaiming:
        He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852, section 2.2.
        """
        generator, kind = _generator(rng), float_dtype("dtype", dtype)
        bound = 1 / sqrt(fan_in)
        self.weight = _uniform(generator, bound, shape, kind)
        self.bias = _uniform(generator, bound, (filters,), kind) if flag("bias", bias) else None

    def parameters(self) -> list[Array]:
        if self._frozen:
            return []
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def gradients(self) -> list[Array]:
        if self._frozen:
            return []
        if self.grad_weight is None:
            _no_backward()
        return [self.grad_weight] if self.grad_bias is None else [self.grad_weight, self.grad_bias]

    def state(self) -> dict[str, Array]:
        return {"weight": self.weight} if self.bias is None else {"weight": self.weight, "bias": self.bias}


# --- convolution --------------------------------------------------------------------------------------


class _ConvBase(_Weighted):
    """What `Conv1d`, `Conv2d`, `Conv3d` and `ConvTranspose2d` share: the calls and who needs what."""

    _layouts: tuple[str, str]
    _arguments: tuple[Any, ...]

    # The functions of fastconv.conv, as static methods.
    _convolve: Callable[..., Array]
    _differentiate: Callable[..., Any]

    def _set_up(self, kernel_size: object, groups: object, layout: object) -> tuple[Size, int]:
        self.kernel_size = extents("kernel_size", kernel_size, len(self._layouts[0]) - 2, 1)
        self.layout = one_of("layout", layout, self._layouts)
        return self.kernel_size, whole_number("groups", groups, 1)

    def _weight_shape(self, outer: int, inner: int) -> Size:
        if self.layout == self._layouts[1]:
            return (outer, *self.kernel_size, inner)
        return (outer, inner, *self.kernel_size)

    def forward(self, x: Array) -> Array:
        """The layer's output for the batch ``x``."""
        self._input = x
        return self._convolve(x, self.weight, self.bias, *self._arguments, layout=self.layout)

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input (None without ``needs_input``); keeps those of the parameters."""
        if self._input is None:
            _no_forward()
        needs: tuple[str, ...] = ("input",) if needs_input else ()
        if not self._frozen:
            needs += ("weight",) if self.bias is None else ("weight", "bias")
        elif not needs_input:
            return None
        grad_input, grad_weight, grad_bias = self._differentiate(
            grad, self._input, self.weight, *self._arguments, layout=self.layout, needs=needs
        )
        if not self._frozen:
            self.grad_weight, self.grad_bias = grad_weight, grad_bias
        return grad_input  # type: ignore[no-any-return]


def _grouped(name: str, value: object, groups: int) -> int:
    channels = whole_number(name, value, 1)
    if channels % groups:
        must_be(ValueError, name, f"divisible by groups, {groups}", channels)
    return channels


class _Conv(_ConvBase):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Any = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
        layout: str | None = None,
    ) -> None:
        super().__init__()
        kernel, groups = self._set_up(kernel_size, groups, self._layouts[0] if layout is None else layout)
        inner = _grouped("in_channels", in_channels, groups) // groups
        filters = _grouped("out_channels", out_channels, groups)
        self._arguments = (stride, padding, dilation, groups)
        self._initialise(self._weight_shape(filters, inner), inner * prod(kernel), filters, bias, dtype, rng)


class Conv1d(_Conv):
    """Convolution of signals, `fastconv.conv1d` with a weight and a bias of its own.

    Parameters
    ----------
    in_channels, out_channels : int
        C and K; both divisible by ``groups``.
    kernel_size, stride, padding, dilation, groups
        As `fastconv.conv1d` takes them.
    bias : bool
        Whether to add one number a filter.
    dtype : dtype
        Of the weight and the bias.
    rng : numpy.random.Generator, int or None
        Where the initial weights come from: a generator, a seed, or the system's entropy.
    layout : {"NCW", "NWC"}
        "NCW" where it is not given.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument; strides and the like are checked by the first forward pass.

    Notes
    -----
    Input (N, C, W), weight (K, C/G, S), output (N, K, OW). Initial weights as in PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Conv1d(2, 4, 3, rng=0)(np.zeros((1, 2, 10), np.float32)).shape
    (1, 4, 8)
    """

    _layouts = ("NCW", "NWC")
    _convolve = staticmethod(conv1d)
    _differentiate = staticmethod(conv1d_backward)


class Conv2d(_Conv):
    """Convolution of images, `fastconv.conv2d` with a weight and a bias of its own.

    Parameters
    ----------
    in_channels, out_channels : int
        C and K; both divisible by ``groups``.
    kernel_size, stride, padding, dilation, groups
        As `fastconv.conv2d` takes them.
    bias : bool
        Whether to add one number a filter.
    dtype : dtype
        Of the weight and the bias.
    rng : numpy.random.Generator, int or None
        Where the initial weights come from: a generator, a seed, or the system's entropy.
    layout : {"NCHW", "NHWC"}
        "NCHW" where it is not given.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument; strides and the like are checked by the first forward pass.

    Notes
    -----
    Input (N, C, H, W), weight (K, C/G, R, S), output (N, K, OH, OW). Initial weights as in PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.Conv2d(1, 3, 5, rng=0)
    >>> layer(np.zeros((10, 1, 28, 28), np.float32)).shape
    (10, 3, 24, 24)
    >>> [array.shape for array in layer.parameters()]
    [(3, 1, 5, 5), (3,)]
    """

    _layouts = ("NCHW", "NHWC")
    _convolve = staticmethod(conv2d)
    _differentiate = staticmethod(conv2d_backward)


class Conv3d(_Conv):
    """Convolution of volumes, `fastconv.conv3d` with a weight and a bias of its own.

    Parameters
    ----------
    in_channels, out_channels : int
        C and K; both divisible by ``groups``.
    kernel_size, stride, padding, dilation, groups
        As `fastconv.conv3d` takes them.
    bias : bool
        Whether to add one number a filter.
    dtype : dtype
        Of the weight and the bias.
    rng : numpy.random.Generator, int or None
        Where the initial weights come from: a generator, a seed, or the system's entropy.
    layout : {"NCDHW", "NDHWC"}
        "NCDHW" where it is not given.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument; strides and the like are checked by the first forward pass.

    Notes
    -----
    Input (N, C, D, H, W), weight (K, C/G, T, R, S), output (N, K, OD, OH, OW). Initial weights as in
    PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Conv3d(1, 2, 3, padding=1, rng=0)(np.zeros((1, 1, 4, 5, 6), np.float32)).shape
    (1, 2, 4, 5, 6)
    """

    _layouts = ("NCDHW", "NDHWC")
    _convolve = staticmethod(conv3d)
    _differentiate = staticmethod(conv3d_backward)


class ConvTranspose2d(_ConvBase):
    """Transposed convolution of images, `fastconv.conv_transpose2d` with a weight of its own.

    Parameters
    ----------
    in_channels, out_channels : int
        C and K; both divisible by ``groups``.
    kernel_size, stride, padding, output_padding, groups, dilation
        As `fastconv.conv_transpose2d` takes them.
    bias : bool
        Whether to add one number an output channel.
    dtype : dtype
        Of the weight and the bias.
    rng : numpy.random.Generator, int or None
        Where the initial weights come from: a generator, a seed, or the system's entropy.
    layout : {"NCHW", "NHWC"}
        Layout of the input, the weight and the output.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument; strides and the like are checked by the first forward pass.

    Notes
    -----
    Input (N, C, H, W), weight (C, K/G, R, S), output (N, K, OH, OW). Initial weights as in PyTorch, whose
    fan-in here is K/G * R * S (torch/nn/init.py, ``_calculate_fan_in_and_fan_out``, takes the weight's
    second axis).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.ConvTranspose2d(3, 1, 2, stride=2, rng=0)(np.zeros((1, 3, 12, 12), np.float32)).shape
    (1, 1, 24, 24)
    """

    _layouts = ("NCHW", "NHWC")
    _convolve = staticmethod(conv_transpose2d)
    _differentiate = staticmethod(conv_transpose2d_backward)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Any = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        *,
        dtype: DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
        layout: str = "NCHW",
    ) -> None:
        super().__init__()
        kernel, groups = self._set_up(kernel_size, groups, layout)
        channels = _grouped("in_channels", in_channels, groups)
        filters = _grouped("out_channels", out_channels, groups)
        inner = filters // groups
        self._arguments = (stride, padding, output_padding, groups, dilation)
        self._initialise(self._weight_shape(channels, inner), inner * prod(kernel), filters, bias, dtype, rng)


# --- pooling ------------------------------------------------------------------------------------------


class MaxPool2d(Layer):
    """The maximum of each window, `fastconv.max_pool2d`.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode, layout
        As `fastconv.max_pool2d` takes them; they are checked by the first forward pass.

    Notes
    -----
    Input (N, C, H, W), output (N, C, OH, OW). The gradient goes to the first maximum of each window.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.MaxPool2d(2)
    >>> layer(np.array([[[[1.0, 2.0], [3.0, 0.0]]]]))
    array([[[[3.]]]])
    >>> layer.backward(np.ones((1, 1, 1, 1)))
    array([[[[0., 0.],
             [1., 0.]]]])
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: Any = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        *,
        layout: str = "NCHW",
    ) -> None:
        super().__init__()
        self._arguments: tuple[Any, Any, Any, Any, bool] = (kernel_size, stride, padding, dilation, ceil_mode)
        self.layout = layout
        self._indices: Array | None = None
        self._input_size: Size = ()

    def forward(self, x: Array) -> Array:
        """The maxima of ``x``."""
        output, self._indices = max_pool2d(x, *self._arguments, return_indices=True, layout=self.layout)
        self._input_size = x.shape
        return output

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input (None without ``needs_input``)."""
        if self._indices is None:
            _no_forward()
        if not needs_input:
            return None
        return max_pool2d_backward(grad, self._indices, self._input_size, layout=self.layout)


class AvgPool2d(Layer):
    """The mean of each window, `fastconv.avg_pool2d`.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, layout
        As `fastconv.avg_pool2d` takes them; they are checked by the first forward pass.

    Notes
    -----
    Input (N, C, H, W), output (N, C, OH, OW).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.AvgPool2d(2)(np.array([[[[1.0, 2.0], [3.0, 0.0]]]]))
    array([[[[1.5]]]])
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        layout: str = "NCHW",
    ) -> None:
        super().__init__()
        self._arguments: tuple[Any, ...] = (
            kernel_size,
            stride,
            padding,
            ceil_mode,
            count_include_pad,
            divisor_override,
        )
        self.layout = layout
        self._input_size: Size | None = None

    def forward(self, x: Array) -> Array:
        """The means of ``x``."""
        output = avg_pool2d(x, *self._arguments, layout=self.layout)
        self._input_size = x.shape
        return output

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input (None without ``needs_input``)."""
        if self._input_size is None:
            _no_forward()
        if not needs_input:
            return None
        return avg_pool2d_backward(grad, self._input_size, *self._arguments, layout=self.layout)


# --- fully connected, activations and the rest --------------------------------------------------------


class Linear(_Weighted):
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
        inner = whole_number("in_features", in_features, 1)
        outer = whole_number("out_features", out_features, 1)
        self._initialise((outer, inner), inner, outer, bias, dtype, rng)

    def forward(self, x: Array) -> Array:
        """The layer's output for the batch ``x``."""
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
            _no_forward()
        if not self._frozen:
            flat = grad if grad.ndim == 2 else grad.reshape(-1, self.weight.shape[0])
            x = x if x.ndim == 2 else x.reshape(-1, self.weight.shape[1])
            self.grad_weight = flat.T @ x
            if self.bias is not None:
                self.grad_bias = np.add.reduce(flat, 0)
        return grad @ self.weight if needs_input else None


class _Activation(Layer):
    """An elementwise function whose derivative follows from its output."""

    def __init__(self) -> None:
        super().__init__()
        self._output: Array | None = None

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input (None without ``needs_input``)."""
        if self._output is None:
            _no_forward()
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
        slope: Array = grad * (output > 0)
        return slope


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


class Flatten(Layer):
    """All axes but the first made one: (N, C, H, W) to (N, C*H*W).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Flatten()(np.zeros((10, 6, 4, 4))).shape
    (10, 96)
    """

    def __init__(self) -> None:
        super().__init__()
        self._input_size: Size | None = None

    def forward(self, x: Array) -> Array:
        """``x`` with two axes; a view where that is possible."""
        self._input_size = shape = x.shape
        return x.reshape(shape[0], prod(shape[1:]))

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """``grad`` in the shape of the last input (None without ``needs_input``)."""
        if self._input_size is None:
            _no_forward()
        return grad.reshape(self._input_size) if needs_input else None


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

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | int | None = None) -> None:
        super().__init__()
        self.p = _number("p", p, 0, 1)
        self._rng = _generator(rng)
        self._mask: Array | None = None

    def forward(self, x: Array) -> Array:
        """``x`` with holes in training, ``x`` itself otherwise."""
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
        return grad if self._mask is None else grad * self._mask


class BatchNorm2d(_Weighted):
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

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        dtype: DTypeLike = "float32",
        layout: str = "NCHW",
    ) -> None:
        super().__init__()
        channels, kind = whole_number("num_features", num_features, 1), float_dtype("dtype", dtype)
        self.eps, self.momentum = _number("eps", eps, 0), _number("momentum", momentum, 0, 1)
        self.layout = one_of("layout", layout, ("NCHW", "NHWC"))
        self.weight, self.bias = np.ones(channels, kind), np.zeros(channels, kind)
        self.running_mean, self.running_var = np.zeros(channels, kind), np.ones(channels, kind)
        self._channel_axis = 1 if layout == "NCHW" else 3
        self._others = (0, 2, 3) if layout == "NCHW" else (0, 1, 2)
        self._column = (channels, 1, 1) if layout == "NCHW" else (channels,)
        self._scale: Array | None = None  # weight / standard deviation, as the last forward pass used it
        self._by_batch = True

    def state(self) -> dict[str, Array]:
        """Weight, bias and the running averages."""
        return super().state() | {"running_mean": self.running_mean, "running_var": self.running_var}

    def forward(self, x: Array) -> Array:
        """``x`` normalised: by its own averages in training, by the running ones otherwise."""
        if x.ndim != 4 or x.shape[self._channel_axis] != self.weight.size:
            expected = f"a 4-dimensional {self.layout} array of {self.weight.size} channels"
            must_be_said(ValueError, "x", expected, f"shape {x.shape}")
        self._by_batch = self.training
        if self.training:
            mean, var = self._averages(x)
        else:
            mean, var = self.running_mean, self.running_var
        inverse = 1 / np.sqrt(var + self.eps)
        self._input = (x - mean.reshape(self._column)) * inverse.reshape(self._column)
        self._scale = (self.weight * inverse).reshape(self._column)
        output: Array = self._input * self.weight.reshape(self._column)
        if self.bias is not None:
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
        normal, scale = self._input, self._scale
        if normal is None or scale is None:
            _no_forward()
        grad_weight, grad_bias = (grad * normal).sum(self._others), grad.sum(self._others)
        if not self._frozen:
            self.grad_weight, self.grad_bias = grad_weight, grad_bias
        if not needs_input:
            return None
        if not self._by_batch:
            by_running: Array = grad * scale
            return by_running
        # The batch's mean and variance depend on x too: their share of the gradient is taken off.
        count = grad.size // self.weight.size
        along = normal * (grad_weight / count).reshape(self._column)
        by_batch: Array = (grad - (grad_bias / count).reshape(self._column) - along) * scale
        return by_batch


class Sequential(Layer):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer
        In the order in which an input passes them; a Sequential may be one of them.

    Attributes
    ----------
    layers : tuple of Layer
        The same.

    Raises
    ------
    TypeError
        For an argument that is not a layer.

    Notes
    -----
    ``backward(grad, needs_input=False)`` is what training wants: it goes back only as far as there are
    parameters to train, so that the first layer's input gradient (and all that lies below the first
    trainable layer) is not computed.

    Examples
    --------
    >>> from fastconv import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(1728, 10))
    >>> len(net.parameters())
    4
    >>> net.layers[0].frozen = True
    >>> [array.shape for array in net.parameters()]
    [(10, 1728), (10,)]
    """

    def __init__(self, *layers: Layer) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                must_be(TypeError, f"layers[{i}]", "a Layer", layer)
        super().__init__()
        self.layers = layers

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]

    @property
    def frozen(self) -> bool:
        """Whether every layer is frozen; setting it sets every layer."""
        return all(layer.frozen for layer in self.layers)

    @frozen.setter
    def frozen(self, value: bool) -> None:
        for layer in self.layers:
            layer.frozen = value

    def forward(self, x: Array) -> Array:
        """The last layer's output for the batch ``x``."""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input (None without ``needs_input``); keeps those of the parameters."""
        lowest = 0 if needs_input else self._lowest_trainable()
        for layer in self.layers[:lowest:-1]:
            # Only the lowest layer may return None, and the loop ends above it.
            grad = layer.backward(grad)  # type: ignore[assignment]
        if lowest < len(self.layers):
            return self.layers[lowest].backward(grad, needs_input)
        return grad if needs_input else None

    def _lowest_trainable(self) -> int:
        for i, layer in enumerate(self.layers):
            if layer.parameters():
                return i
        return len(self.layers)

    def parameters(self) -> list[Array]:
        """The parameters of all layers that are not frozen."""
        return [array for layer in self.layers for array in layer.parameters()]

    def gradients(self) -> list[Array]:
        """The gradients of `parameters`, in the same order."""
        return [array for layer in self.layers for array in layer.gradients()]

    def state(self) -> dict[str, Array]:
        """Every layer's arrays, as "0.weight", "0.bias", ..."""
        return {
            f"{i}.{name}": array
            for i, layer in enumerate(self.layers)
            for name, array in layer.state().items()
        }

    def train(self: _SequentialType, mode: bool = True) -> _SequentialType:
        """Switch every layer to training (or, with False, to use) and return the network."""
        self.training = flag("mode", mode)
        for layer in self.layers:
            layer.train(mode)
        return self


# --- losses -------------------------------------------------------------------------------------------


class CrossEntropyLoss:
    """Softmax and the mean cross-entropy of its probabilities, from logits.

    Raises
    ------
    ValueError, TypeError
        Where ``logits`` are not (N, K) or ``targets`` not N integers in [0, K).

    Notes
    -----
    ``loss = mean(log(sum_j exp(z_j)) - z_t)``, with the largest logit of a row taken off first so that no
    exponential overflows; its gradient is ``(softmax(z) - onehot(t)) / N``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> loss = nn.CrossEntropyLoss()
    >>> round(loss.forward(np.zeros((1, 4)), np.array([2])), 4)  # log(4)
    1.3863
    >>> loss.backward()
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """

    def __init__(self) -> None:
        self._probabilities: Array | None = None
        self._targets: Array = np.zeros(0, np.int64)
        self._rows: Array = np.arange(0)

    def forward(self, logits: Array, targets: Array) -> float:
        """The mean loss of a batch.

        Parameters
        ----------
        logits : array of shape (N, K)
            Scores before the softmax.
        targets : integer array of shape (N,)
            The right class of each row.

        Returns
        -------
        float
        """
        self._check(logits, targets)
        shifted = logits - np.maximum.reduce(logits, 1, keepdims=True)
        right = shifted[self._rows, targets]
        np.exp(shifted, out=shifted)
        total = np.add.reduce(shifted, 1)
        shifted /= total[:, None]
        self._probabilities, self._targets = shifted, targets
        return float(np.add.reduce(np.log(total) - right)) / len(logits)

    def _check(self, logits: Array, targets: Array) -> None:
        if logits.ndim != 2 or not logits.size:
            must_be_said(ValueError, "logits", "of shape (N, K), not empty", f"shape {logits.shape}")
        count, classes = logits.shape
        if not isinstance(targets, np.ndarray) or targets.dtype.kind not in "iu":
            must_be(TypeError, "targets", "an integer array", targets)
        if targets.shape != (count,):
            must_be_said(ValueError, "targets", f"of shape ({count},)", f"shape {targets.shape}")
        if np.minimum.reduce(targets) < 0 or np.maximum.reduce(targets) >= classes:
            came = f"numbers from {targets.min()} to {targets.max()}"
            must_be_said(ValueError, "targets", f"at least 0 and below {classes}", came)
        if self._rows.size != count:
            self._rows = np.arange(count)

    def backward(self) -> Array:
        """The gradient of the logits, of shape (N, K)."""
        if self._probabilities is None:
            _no_forward()
        grad = self._probabilities.copy()
        grad[self._rows, self._targets] -= 1
        grad /= len(grad)
        return grad


class MSELoss:
    """The mean squared difference, over all elements as in PyTorch.

    Raises
    ------
    ValueError
        Where the two shapes differ or are empty.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> loss = nn.MSELoss()
    >>> loss.forward(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    2.0
    >>> loss.backward()
    array([0., 2.])
    """

    def __init__(self) -> None:
        self._difference: Array | None = None

    def forward(self, output: Array, targets: Array) -> float:
        """The mean of ``(output - targets)**2``; two arrays of the same shape."""
        if output.shape != targets.shape or not output.size:
            must_be_said(ValueError, "targets", f"of output's shape {output.shape}", f"shape {targets.shape}")
        self._difference = difference = output - targets
        return float(np.vdot(difference, difference)) / difference.size

    def backward(self) -> Array:
        """The gradient of ``output``."""
        if self._difference is None:
            _no_forward()
        grad: Array = self._difference * (2 / self._difference.size)
        return grad


# --- optimisers ---------------------------------------------------------------------------------------


class _Optimiser:
    """Gathers all gradients into one flat array, so that a step is few NumPy calls for any network.

    Freezing or unfreezing a layer changes what there is to train: the running averages then start afresh.
    """

    _averages_wanted = 0

    def __init__(self, network: Layer, learning_rate: float, weight_decay: float) -> None:
        if not isinstance(network, Layer):
            must_be(TypeError, "network", "a Layer", network)
        self.network = network
        self.learning_rate = _number("learning_rate", learning_rate, 0)
        self.weight_decay = _number("weight_decay", weight_decay, 0)
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
        same = len(parameters) == len(self._parameters) and all(map(is_, parameters, self._parameters))
        if not same:
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
        self.momentum = _number("momentum", momentum, 0, 1)
        self._averages_wanted = 1 if self.momentum else 0
        super().__init__(network, learning_rate, weight_decay)

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

    _averages_wanted = 2

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
        self.betas = (_number("betas[0]", betas[0], 0, 1), _number("betas[1]", betas[1], 0, 1))
        self.eps = _number("eps", eps, 0)
        super().__init__(network, learning_rate, weight_decay)

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
