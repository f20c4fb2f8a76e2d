"""DeZero's convolution and pooling on fastconv.

::

    import fastconv.adapters.dezero
    fastconv.adapters.dezero.install()

before or after ``import dezero``, which fails on NumPy 1.24 and later unless fastconv.adapters.dezero comes
first: DeZero 0.0.13 uses ``numpy.int``. NumPy has that name while this module imports DeZero, and from
`install` to `uninstall` (for the datasets that use it at run time).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import numpy as np

from fastconv.adapters.columns import (
    cells_of,
    columns_of,
    from_pixel_rows,
    image_of,
    max_windows,
    pixel_rows,
    scatter,
    zero_padded,
)
from fastconv.adapters.installation import (
    Installation,
    Replacement,
    Swap,
    counterpart,
    host_module,
)
from fastconv.arguments import Array, Size
from fastconv.conv import conv2d, conv2d_backward_weight, conv_transpose2d
from fastconv.pool import avg_pool2d, avg_pool2d_backward, max_unpool2d_backward


def _numpy_int() -> list[Replacement]:
    return [] if hasattr(np, "int") else [(np, "int", int)]


with Installation(_numpy_int).installed():
    host = host_module("dezero.functions_conv")
    core = host_module("dezero.core")

Pair = tuple[int, int]

_HOST_IM2COL: Any = vars(host).get("im2col_array")
_HOST_COL2IM: Any = vars(host).get("col2im_array")


def _serves(*arrays: object) -> bool:
    """Whether these are what fastconv computes with: not CuPy's arrays, nor integers."""
    return all(
        array is None or (isinstance(array, np.ndarray) and array.dtype.char in "efd") for array in arrays
    )


def im2col_array(img: Array, kernel_size: Any, stride: Any, pad: Any, to_matrix: bool = True) -> Array:
    """The columns of ``img`` (N, C, H, W): (N*OH*OW, C*KH*KW), or (N, C, KH, KW, OH, OW) as they are."""
    if not isinstance(img, np.ndarray):
        return _HOST_IM2COL(img, kernel_size, stride, pad, to_matrix)
    columns = columns_of(img, host.pair(kernel_size), host.pair(stride), host.pair(pad))
    return pixel_rows(columns) if to_matrix else columns


def col2im_array(
    col: Array, img_shape: Size, kernel_size: Any, stride: Any, pad: Any, to_matrix: bool = True
) -> Array:
    """The adjoint of `im2col_array`."""
    if not _serves(col):
        return _HOST_COL2IM(col, img_shape, kernel_size, stride, pad, to_matrix)
    steps, padding = host.pair(stride), host.pair(pad)
    if to_matrix:
        col = from_pixel_rows(col, img_shape, host.pair(kernel_size), steps, padding)
    return image_of(col, (img_shape[2], img_shape[3]), steps, padding)


# The methods of DeZero's functions, with its names of their arguments. Each computes with arrays alone: the
# derivatives of any order stay DeZero's composition of these functions.


def _convolve(self: Any, x: Array, W: Array, b: Array | None) -> Array:
    return conv2d(x, W, b, self.stride, self.pad)


def _convolve_transposed(self: Any, x: Array, W: Array, b: Array | None) -> Array:
    output_padding = 0, 0
    if self.outsize is not None:
        smallest = map(host.get_deconv_outsize, x.shape[2:], W.shape[2:], self.stride, self.pad)
        output_padding = tuple(n - least for n, least in zip(host.pair(self.outsize), smallest, strict=True))
    return conv_transpose2d(x, W, b, self.stride, self.pad, output_padding)


def _differentiate_by_weight(self: Any, x: Array, gy: Array) -> Array:
    weight_size = gy.shape[1], x.shape[1], *self.kernel_size
    return conv2d_backward_weight(gy, x, weight_size, self.stride, self.pad)


def _windows(pooling: Any) -> tuple[Pair, Pair, Pair]:
    return host.pair(pooling.kernel_size), host.pair(pooling.stride), host.pair(pooling.pad)


def _pool(self: Any, x: Array) -> Array:
    y, self.indexes = max_windows(x, *_windows(self))
    return y


def _pool_grad(self: Any, gy: Array) -> Array:
    return scatter(gy.astype(self.dtype, copy=False), self.indexes, self.input_shape, *_windows(self))


def _pool_with_indexes(self: Any, x: Array) -> Array:
    kernel, stride, padding = _windows(self)
    padded = zero_padded(x, padding)
    return max_unpool2d_backward(padded, cells_of(self.indexes, padded.shape[3], kernel, stride))


def _average(self: Any, x: Array) -> Array:
    self.input_shape = x.shape
    kernel, stride, padding = _windows(self)
    return avg_pool2d(zero_padded(x, padding), kernel, stride)


def _average_backward(self: Any, gy: Any) -> Any:
    return AveragePoolingGrad(self)(gy)


class AveragePoolingGrad(host.Function):  # type: ignore[name-defined, misc]
    """The gradient of the input of an ``AveragePooling``; its own is an average pooling again."""

    def __init__(self, pooling: Any) -> None:
        self.windows = _windows(pooling)
        self.input_shape = pooling.input_shape

    def forward(self, gy: Array) -> Array:
        """Each window's gradient, spread evenly over its cells."""
        kernel, stride, (top, left) = self.windows
        *leading, height, width = self.input_shape
        padded = (*leading, height + 2 * top, width + 2 * left)
        gx = avg_pool2d_backward(gy, padded, kernel, stride)
        return gx[:, :, top : top + height, left : left + width]

    def backward(self, ggx: Any) -> Any:
        """The average of the gradient's gradient."""
        return host.average_pooling(ggx, *self.windows)


_METHODS: dict[tuple[str, str], Callable[..., Any]] = {
    ("Conv2d", "forward"): _convolve,
    ("Deconv2d", "forward"): _convolve_transposed,
    ("Conv2DGradW", "forward"): _differentiate_by_weight,
    ("Pooling", "forward"): _pool,
    ("Pooling2DGrad", "forward"): _pool_grad,
    ("Pooling2DWithIndexes", "forward"): _pool_with_indexes,
    ("AveragePooling", "forward"): _average,
    ("AveragePooling", "backward"): _average_backward,
}


def _where_served(ours: Callable[..., Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Our method for the arrays that fastconv computes with, DeZero's own for others."""

    @wraps(theirs)
    def method(self: Any, *inputs: Any) -> Any:
        arrays = [x.data if isinstance(x, core.Variable) else x for x in inputs]
        return (ours if _serves(*arrays) else theirs)(self, *inputs)

    return method


def _replacements() -> Iterator[Replacement]:
    """The methods of DeZero's classes, which are the same wherever they were imported to."""
    yield from _numpy_int()
    for (class_name, method), ours in _METHODS.items():
        owner = counterpart(host, class_name, None)
        yield owner, method, _where_served(ours, counterpart(owner, method, ours))


def _swaps() -> list[Swap]:
    return [(counterpart(host, ours.__name__, ours), ours) for ours in (im2col_array, col2im_array)]


_installation = Installation(_replacements, _swaps)
install = _installation.install
uninstall = _installation.uninstall
installed = _installation.installed
