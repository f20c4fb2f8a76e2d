"""The two layers that matter, `Conv2d` and `MaxPool2d`, in plain NumPy as people write them.

No function of fastconv computes here: windows come from ``sliding_window_view``, products from ``@``, and
the backward pass is the im2col matrix transposed. The other layers are those of `fastconv.nn`, which are
plain NumPy already, so that this module is a drop-in for it when a network is built.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike

from fastconv import nn
from fastconv.annotations import Layout2d
from fastconv.arguments import Array
from fastconv.nn import Flatten, Linear, ReLU, Sequential, Sigmoid

__all__ = ["Conv2d", "Flatten", "Linear", "MaxPool2d", "ReLU", "Sequential", "Sigmoid"]


class Conv2d(nn.Conv2d):
    """Convolution over an explicit column matrix.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding : int
        Square kernels, equal strides and equal padding on all sides.
    dtype, rng, layout
        As in `fastconv.nn.Conv2d`, whose weights, initial values and bookkeeping this class inherits.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> from fastconv.demo import plain
    >>> x = np.random.default_rng(0).random((2, 3, 8, 8))
    >>> np.allclose(plain.Conv2d(3, 4, 3, dtype="float64", rng=0)(x),
    ...             nn.Conv2d(3, 4, 3, dtype="float64", rng=0)(x))
    True
    """

    stride: int
    padding: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        dtype: DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
        layout: Layout2d = "NCHW",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dtype=dtype, rng=rng, layout=layout
        )
        self._columns: Array | None = None

    def _to_nchw(self, array: Array) -> Array:
        return array if self.layout == "NCHW" else array.transpose(0, 3, 1, 2)

    def _from_nchw(self, array: Array) -> Array:
        return array if self.layout == "NCHW" else array.transpose(0, 2, 3, 1)

    def forward(self, x: Array) -> Array:
        """Multiply the columns of ``x`` by the filters."""
        x, weight, pad = self._to_nchw(x), self._to_nchw(self.weight), self.padding
        if pad:
            x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = sliding_window_view(x, self.kernel_size, axis=(2, 3))[:, :, :: self.stride, :: self.stride]
        n, c, oh, ow, r, s = windows.shape
        # (N*OH*OW, C*R*S)
        self._columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * oh * ow, c * r * s)
        # (N*OH*OW, K) = (N*OH*OW, C*R*S) @ (C*R*S, K)
        output = self._columns @ weight.reshape(len(weight), -1).T
        if self.bias is not None:
            output += self.bias
        self._padded_size = x.shape
        return self._from_nchw(output.reshape(n, oh, ow, -1).transpose(0, 3, 1, 2))

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """Multiply by the transposed matrices; the columns' gradients add up where windows overlap."""
        if self._columns is None:
            return super().backward(grad, needs_input)  # says that forward comes first
        grad, weight = self._to_nchw(grad), self._to_nchw(self.weight)
        n, k, oh, ow = grad.shape
        rows = grad.transpose(0, 2, 3, 1).reshape(n * oh * ow, k)
        if not self.frozen:
            # (K, C*R*S) = (K, N*OH*OW) @ (N*OH*OW, C*R*S)
            self.grad_weight = self._from_nchw((rows.T @ self._columns).reshape(weight.shape))
            if self.bias is not None:
                self.grad_bias = rows.sum(0)
        if not needs_input:
            return None
        # (N*OH*OW, C*R*S) = (N*OH*OW, K) @ (K, C*R*S)
        columns = (rows @ weight.reshape(k, -1)).reshape(n, oh, ow, *weight.shape[1:])
        return self._from_nchw(self._fold(columns.transpose(0, 3, 4, 5, 1, 2)))

    def _fold(self, columns: Array) -> Array:
        """Columns (N, C, R, S, OH, OW) added up into images (N, C, H, W)."""
        (_, _, height, width), step, pad = self._padded_size, self.stride, self.padding
        images = np.zeros(self._padded_size, columns.dtype)
        oh, ow = columns.shape[4:]
        for r in range(columns.shape[2]):
            for s in range(columns.shape[3]):
                images[:, :, r : r + step * oh : step, s : s + step * ow : step] += columns[:, :, r, s]
        return images[:, :, pad : height - pad, pad : width - pad]


class MaxPool2d(nn.Layer):
    """The maximum of square windows that do not overlap.

    Parameters
    ----------
    kernel_size : int
        The window's edge, and the stride. Rows and columns that fill no window are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.demo import plain
    >>> plain.MaxPool2d(2)(np.array([[[[1.0, 2.0], [3.0, 0.0]]]]))
    array([[[[3.]]]])
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self._argmax: Array | None = None

    def forward(self, x: Array) -> Array:
        """The maxima of ``x``, (N, C, H, W)."""
        n, c, height, width = x.shape
        size = self.kernel_size
        oh, ow = height // size, width // size
        blocks = x[:, :, : oh * size, : ow * size].reshape(n, c, oh, size, ow, size)
        windows = blocks.transpose(0, 1, 2, 4, 3, 5).reshape(n, c, oh, ow, size * size)
        self._argmax = windows.argmax(-1)[..., None]
        self._input_size = x.shape
        return np.take_along_axis(windows, self._argmax, -1)[..., 0]

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """Put each gradient where the maximum was, zero elsewhere."""
        if self._argmax is None:
            raise ValueError("backward must be called after forward, got no forward pass")
        if not needs_input:
            return None
        size, (n, c, oh, ow) = self.kernel_size, grad.shape
        windows = np.zeros((n, c, oh, ow, size * size), grad.dtype)
        np.put_along_axis(windows, self._argmax, grad[..., None], -1)
        blocks = windows.reshape(n, c, oh, ow, size, size).transpose(0, 1, 2, 4, 3, 5)
        images = np.zeros(self._input_size, grad.dtype)
        images[:, :, : oh * size, : ow * size] = blocks.reshape(n, c, oh * size, ow * size)
        return images
