"""Convolution and transposed convolution as layers, with a weight and a bias of their own."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from fastconv.annotations import Extents, Layout1d, Layout2d, Layout3d, Padding
from fastconv.arguments import Array, Size, extents, must_be, one_of, whole_number
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
from fastconv.dimensions import described
from fastconv.nn.checks import no_forward
from fastconv.nn.layer import Weighted

_Layout = TypeVar("_Layout", bound=str)


def _grouped(name: str, value: object, groups: int) -> int:
    channels = whole_number(name, value, 1)
    if channels % groups:
        must_be(ValueError, name, f"divisible by groups, {groups}", channels)
    return channels


class _ConvBase(Weighted):
    """What `Conv1d`, `Conv2d`, `Conv3d` and `ConvTranspose2d` share: the calls and who needs what."""

    _layouts: tuple[str, str]

    # The functions of fastconv.conv, as static methods.
    _convolve: Callable[..., Array]
    _differentiate: Callable[..., Any]

    def _set_up(
        self, in_channels: object, out_channels: object, kernel_size: object, groups: object, layout: object
    ) -> tuple[int, int, int]:
        """Channels, filters and groups as checked numbers; keeps them, the kernel's size and the layout."""
        self.kernel_size = extents("kernel_size", kernel_size, len(self._layouts[0]) - 2, 1)
        self.layout = one_of("layout", layout, self._layouts)
        self.groups = whole_number("groups", groups, 1)
        self.in_channels = _grouped("in_channels", in_channels, self.groups)
        self.out_channels = _grouped("out_channels", out_channels, self.groups)
        return self.in_channels, self.out_channels, self.groups

    @property
    def _arguments(self) -> tuple[Any, ...]:
        """What the functions take after the arrays."""
        raise NotImplementedError

    def _argument(self, name: str, default: Any) -> Any:
        if name == "kernel_size" and len(set(self.kernel_size)) == 1:
            return self.kernel_size[0]
        if name == "layout" and self.layout == self._layouts[0]:
            return default
        return super()._argument(name, default)

    def _products(self, input_size: Size, output_size: Size) -> int:
        return prod(output_size) // self.out_channels * self.weight.size

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
            no_forward()
        needs: tuple[str, ...] = ("input",) if needs_input else ()
        if not self._frozen:
            needs += ("weight",) if self.bias is None else ("weight", "bias")
        if not needs:
            return None
        grad_input, grad_weight, grad_bias = self._differentiate(
            grad, self._input, self.weight, *self._arguments, layout=self.layout, needs=needs
        )
        if not self._frozen:
            self.grad_weight, self.grad_bias = grad_weight, grad_bias
        return grad_input


class _Conv(_ConvBase, Generic[_Layout]):
    """What `Conv1d`, `Conv2d` and `Conv3d` share: the arguments."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Extents,
        stride: Extents = 1,
        padding: Padding = 0,
        dilation: Extents = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
        layout: _Layout | None = None,
    ) -> None:
        super().__init__()
        name = self._layouts[0] if layout is None else layout
        channels, filters, groups = self._set_up(in_channels, out_channels, kernel_size, groups, name)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self._initialise(self._weight_shape(filters, channels // groups), filters, bias, dtype, rng)

    @property
    def _arguments(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups


class Conv2d(_Conv[Layout2d]):
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


class Conv1d(_Conv[Layout1d]):
    """Convolution of signals: `Conv2d` with input (N, C, W) and weight (K, C/G, S)."""

    _layouts = ("NCW", "NWC")
    _convolve = staticmethod(conv1d)
    _differentiate = staticmethod(conv1d_backward)


class Conv3d(_Conv[Layout3d]):
    """Convolution of volumes: `Conv2d` with input (N, C, D, H, W) and weight (K, C/G, T, R, S)."""

    _layouts = ("NCDHW", "NDHWC")
    _convolve = staticmethod(conv3d)
    _differentiate = staticmethod(conv3d_backward)


# In full: that of images in the words of signals and of volumes.
Conv1d.__doc__, Conv3d.__doc__ = (described(Conv2d.__doc__, ndim) for ndim in (1, 3))


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
        kernel_size: Extents,
        stride: Extents = 1,
        padding: Padding = 0,
        output_padding: Extents = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Extents = 1,
        *,
        dtype: DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
        layout: Layout2d = "NCHW",
    ) -> None:
        super().__init__()
        channels, filters, groups = self._set_up(in_channels, out_channels, kernel_size, groups, layout)
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.dilation = dilation
        self._initialise(self._weight_shape(channels, filters // groups), filters, bias, dtype, rng)

    @property
    def _arguments(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.output_padding, self.groups, self.dilation

    def _products(self, input_size: Size, output_size: Size) -> int:
        return prod(input_size) // self.in_channels * self.weight.size
