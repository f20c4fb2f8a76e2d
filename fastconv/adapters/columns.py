"""What the host libraries that compute by im2col share: column orders, zero padding, places of maxima.

All of them write a convolution as a product over a column matrix and a pooling as a reduction over one. They
differ in the order of its axes, which here is always (N, C, R, S, OH, OW), and they pad poolings with zeros.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fastconv.arguments import Array, Size
from fastconv.columns import col2im, im2col
from fastconv.pool import max_pool2d, max_pool2d_backward

Pair = tuple[int, int]


def as_float(values: object) -> Array:
    """A float array as it is, any other as float64, which is what these libraries compute in."""
    array = np.asarray(values)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def zero_padded(x: Array, padding: Pair) -> Array:
    """``x`` (N, C, H, W) with so many rows of zeros above and below and columns at both sides."""
    if padding == (0, 0):
        return x
    return np.pad(x, ((0, 0), (0, 0), *((pad, pad) for pad in padding)))


def output_extents(extents: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """How many windows there are along both axes."""
    height, width = (
        (n + 2 * pad - k) // step + 1
        for n, k, step, pad in zip(extents, kernel, stride, padding, strict=True)
    )
    return height, width


def columns_of(x: Array, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """The columns of ``x`` (N, C, H, W), of any dtype, as an array (N, C, R, S, OH, OW)."""
    if x.dtype.char in "efd":
        pixels = output_extents(x.shape[2:], kernel, stride, padding)
        return im2col(x, kernel, padding=padding, stride=stride).reshape(*x.shape[:2], *kernel, *pixels)
    windows = sliding_window_view(zero_padded(x, padding), kernel, (2, 3))[:, :, :: stride[0], :: stride[1]]
    return windows.transpose(0, 1, 4, 5, 2, 3).copy()


def image_of(columns: Array, extents: Pair, stride: Pair, padding: Pair) -> Array:
    """The adjoint of `columns_of`: (N, C, R, S, OH, OW) added up to (N, C, H, W)."""
    batch, channels, *kernel, height, width = columns.shape
    rows = columns.reshape(batch, channels * kernel[0] * kernel[1], height * width)
    return col2im(rows, extents, tuple(kernel), padding=padding, stride=stride)


def pixel_rows(columns: Array) -> Array:
    """Columns (N, C, R, S, OH, OW) as (N*OH*OW, C*R*S): a row for every window."""
    batch, channels, r, s, height, width = columns.shape
    rows = columns.transpose(0, 4, 5, 1, 2, 3)
    return rows.reshape(batch * height * width, channels * r * s)


def from_pixel_rows(rows: Array, input_size: Size, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """`pixel_rows` undone, for the columns of an input of this size."""
    batch, channels, *extents = input_size
    pixels = output_extents((extents[0], extents[1]), kernel, stride, padding)
    return rows.reshape(batch, *pixels, channels, *kernel).transpose(0, 3, 4, 5, 1, 2)


def _in_space(plane: Pair, along_images: int, images_last: bool) -> tuple[int, int, int]:
    return (*plane, along_images) if images_last else (along_images, *plane)


def _volume_steps(kernel: Pair, stride: Pair, padding: Pair, images_last: bool) -> dict[str, Size]:
    """The steps of a kernel that is one image deep, as `im2col` and `col2im` name them."""
    return {
        "kernel_size": _in_space(kernel, 1, images_last),
        "padding": _in_space(padding, 0, images_last),
        "stride": _in_space(stride, 1, images_last),
    }


def channel_rows(x: Array, kernel: Pair, stride: Pair, padding: Pair, images_last: bool) -> Array:
    """The columns of all images of ``x`` (N, C, H, W) in one matrix, a row for every tap.

    Its columns are those of a volume in which the images lie one behind the other, and a kernel that is one
    image deep. So the engine writes them in place: 1.2 ms with ``images_last`` and 0.8 without, where
    transposing `columns_of` takes 1.9 and 1.4 (float32, the layer of bench/hosts/layer.py, AVX-512 Xeon).

    Returns
    -------
    array (C*R*S, OH*OW*N) with ``images_last``, else (C*R*S, N*OH*OW)
    """
    if len(x) == 0:
        return np.empty((x.shape[1] * kernel[0] * kernel[1], 0), x.dtype)
    volume = x.transpose((1, 2, 3, 0) if images_last else (1, 0, 2, 3))
    return im2col(np.ascontiguousarray(volume), **_volume_steps(kernel, stride, padding, images_last))


def from_channel_rows(
    rows: Array, input_size: Size, kernel: Pair, stride: Pair, padding: Pair, images_last: bool
) -> Array:
    """The adjoint of `channel_rows`: its columns added up to an array of this size."""
    batch, _, height, width = input_size
    if batch == 0:
        return np.empty(input_size, rows.dtype)
    extents = _in_space((height, width), batch, images_last)
    volume = col2im(rows, extents, **_volume_steps(kernel, stride, padding, images_last))
    return np.ascontiguousarray(volume.transpose((3, 0, 1, 2) if images_last else (1, 0, 2, 3)))


def _first_cells(outputs: Pair, stride: Pair, width: int) -> Array:
    """Where the windows begin in planes of this width: ``h*W + w``, (OH, OW)."""
    rows, line = (np.arange(n) * step for n, step in zip(outputs, stride, strict=True))
    return rows[:, np.newaxis] * width + line


def _offsets(kernel: Pair, width: int) -> Array:
    """How far each tap ``r*S + s`` is from the first cell of its window."""
    return (np.arange(kernel[0])[:, np.newaxis] * width + np.arange(kernel[1])).ravel()


def max_windows(x: Array, kernel: Pair, stride: Pair, padding: Pair) -> tuple[Array, Array]:
    """The maximum of every window, zeros of the padding among them, and where it stands in the window.

    Returns
    -------
    maxima : array (N, C, OH, OW)
    taps : int64 array (N, C, OH, OW)
        ``r*S + s`` of the first maximum, or of the first NaN.
    """
    padded = zero_padded(x, padding)
    maxima, cells = max_pool2d(padded, kernel, stride, return_indices=True)
    width = padded.shape[3]
    offsets = _offsets(kernel, width)
    tap_at = np.zeros(offsets[-1] + 1, np.int64)
    tap_at[offsets] = np.arange(len(offsets))
    return maxima, tap_at[cells - _first_cells(cells.shape[2:], stride, width)]


def cells_of(taps: Array, width: int, kernel: Pair, stride: Pair) -> Array:
    """Where those taps lie in planes of this width: ``h*W + w``."""
    return _offsets(kernel, width)[taps] + _first_cells(taps.shape[2:], stride, width)


def scatter(grad: Array, taps: Array, input_size: Size, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """The gradient of the input of `max_windows`: each output's goes to the tap that was the maximum."""
    batch, channels, height, width = input_size
    top, left = padding
    padded = (batch, channels, height + 2 * top, width + 2 * left)
    dx = max_pool2d_backward(grad, cells_of(taps, padded[3], kernel, stride), padded)
    return dx[:, :, top : top + height, left : left + width]
