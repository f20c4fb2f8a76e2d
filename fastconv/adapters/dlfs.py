"""The convolution and pooling of the book "Deep Learning from Scratch" (Koki Saito), on fastconv.

In a program that can import the book's package ``common``, before or after it does::

    import fastconv.adapters.dlfs
    fastconv.adapters.dlfs.install()

The functions and the layers can also be used without the book's code.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from fastconv.adapters.columns import (
    as_float,
    columns_of,
    from_pixel_rows,
    image_of,
    max_windows,
    pixel_rows,
    scatter,
)
from fastconv.adapters.installation import Installation, Replacement, Swap, counterpart, host_module
from fastconv.arguments import Array, Size
from fastconv.conv import conv2d, conv2d_backward


def im2col(input_data: Array, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> Array:
    """A row for every window of every image, with the cells of its channels one after the other.

    Parameters
    ----------
    input_data : array (N, C, H, W)
    filter_h, filter_w, stride, pad : int

    Returns
    -------
    array (N*OH*OW, C*FH*FW)
        Of the dtype of ``input_data``, where the book's own is always float64.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.adapters.dlfs import im2col
    >>> im2col(np.arange(9).reshape(1, 1, 3, 3), 2, 2)
    array([[0, 1, 3, 4],
           [1, 2, 4, 5],
           [3, 4, 6, 7],
           [4, 5, 7, 8]])
    """
    return pixel_rows(columns_of(input_data, (filter_h, filter_w), (stride, stride), (pad, pad)))


def col2im(
    col: Array, input_shape: Size, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0
) -> Array:
    """The adjoint of `im2col`: its rows added up to an array of ``input_shape`` (N, C, H, W)."""
    kernel, steps, padding = (filter_h, filter_w), (stride, stride), (pad, pad)
    columns = from_pixel_rows(as_float(col), input_shape, kernel, steps, padding)
    return image_of(columns, (input_shape[2], input_shape[3]), steps, padding)


class Convolution:
    """The book's convolution layer.

    Parameters
    ----------
    W : array (FN, C, FH, FW)
    b : array (FN,)
    stride, pad : int

    Attributes
    ----------
    x : array
        The input of the last ``forward``.
    col : array (N*OH*OW, C*FH*FW)
        Its columns, which are made when they are first read: ``backward`` does without.
    col_W : array (C*FH*FW, FN)
        The filters as a matrix.
    dW, db : array
        The gradients, after ``backward``.
    """

    def __init__(self, W: Array, b: Array, stride: int = 1, pad: int = 0) -> None:
        self.W = W
        self.b = b
        self.stride = stride
        self.pad = pad
        self.x: Array | None = None
        self.col_W: Array | None = None
        self.dW: Array | None = None
        self.db: Array | None = None

    @cached_property
    def col(self) -> Array | None:
        """The columns of ``x``."""
        _, _, height, width = self.W.shape
        return None if self.x is None else im2col(self.x, height, width, self.stride, self.pad)

    def forward(self, x: Array) -> Array:
        """The layer's output (N, FN, OH, OW)."""
        self.x, self.col_W = x, self.W.reshape(self.W.shape[0], -1).T
        vars(self).pop("col", None)  # those of the last input
        return conv2d(as_float(x), as_float(self.W), as_float(self.b), self.stride, self.pad)

    def backward(self, dout: Array) -> Array:
        """The gradient of the input; keeps those of the filters and the biases."""
        dx, self.dW, self.db = conv2d_backward(
            as_float(dout), as_float(self.x), as_float(self.W), self.stride, self.pad
        )
        return dx  # type: ignore[return-value]


class Pooling:
    """The book's max-pooling layer; cells of the padding count as zeros.

    Parameters
    ----------
    pool_h, pool_w, stride, pad : int

    Attributes
    ----------
    x : array
        The input of the last ``forward``.
    arg_max : int64 array (N*OH*OW*C,)
        Where the first maximum of each window stands in it, row by row.
    """

    def __init__(self, pool_h: int, pool_w: int, stride: int = 2, pad: int = 0) -> None:
        self.pool_h = pool_h
        self.pool_w = pool_w
        self.stride = stride
        self.pad = pad
        self.x: Array | None = None
        self.arg_max: Array | None = None

    def forward(self, x: Array) -> Array:
        """The layer's output (N, C, OH, OW)."""
        self.x = x
        kernel, stride, pad = (self.pool_h, self.pool_w), (self.stride,) * 2, (self.pad,) * 2
        out, taps = max_windows(as_float(x), kernel, stride, pad)
        self.arg_max = taps.transpose(0, 2, 3, 1).ravel()
        return out

    def backward(self, dout: Array) -> Array:
        """The gradient of the input; that of a window goes to its first maximum."""
        batch, channels, height, width = dout.shape
        kernel, stride, pad = (self.pool_h, self.pool_w), (self.stride,) * 2, (self.pad,) * 2
        taps = self.arg_max.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)  # type: ignore
        return scatter(as_float(dout), taps, self.x.shape, kernel, stride, pad)  # type: ignore


def _replacements() -> Iterator[Replacement]:
    """The methods of the book's classes, so that layers made before and after are the same."""
    layers = host_module("common.layers", published=False)
    for ours in (Convolution, Pooling):
        counterpart(layers, ours.__name__, ours)
        host = getattr(layers, ours.__name__)
        for name in ("forward", "backward"):
            counterpart(host, name, getattr(ours, name))
            yield host, name, vars(ours)[name]
    yield layers.Convolution, "col", vars(Convolution)["col"]


def _swaps() -> list[Swap]:
    util = host_module("common.util", published=False)
    return [(counterpart(util, ours.__name__, ours), ours) for ours in (im2col, col2im)]


_installation = Installation(_replacements, _swaps)
install = _installation.install
uninstall = _installation.uninstall
installed = _installation.installed
