"""The column matrix itself: im2col, its adjoint col2im, and the convolution as one sparse matrix."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike

from fastconv import kernels
from fastconv.annotations import Extents, Padding, Shape
from fastconv.arguments import (
    Array,
    Size,
    addressable,
    delivered,
    extents,
    float_array,
    images,
    must_be_said,
    rank,
    shaped,
    size,
)
from fastconv.buffers import new_result, zeros
from fastconv.geometry import Geometry, canonical_steps, conv_geometry, normal_form, read_only
from fastconv.threads import run_ranges


def _spatial_dimensions(kernel_size: object) -> int:
    """How many spatial dimensions a kernel size speaks of: a number stands for two equal extents."""
    if not isinstance(kernel_size, (tuple, list, np.ndarray)):
        return 2
    if isinstance(kernel_size, np.ndarray) and kernel_size.ndim != 1:
        return 2 if kernel_size.ndim == 0 else min(max(kernel_size.ndim - 2, 1), 3)  # refused as a weight
    if not 1 <= len(kernel_size) <= 3:
        must_be_said(
            ValueError, "kernel_size", "a whole number or 1 to 3 of them", f"{len(kernel_size)} of them"
        )
    return len(kernel_size)


def _one_filter_geometry(
    input_size: Size, kernel: Size, dilation: object, padding: object, stride: object, name: str, dtype: Any
) -> Geometry:
    """The geometry of a convolution with one filter over all channels: its columns are the ones wanted."""
    ndim = len(kernel)
    stride, padding, dilation, groups = canonical_steps(stride, padding, dilation, 1, ndim)
    geometry = conv_geometry(
        ndim,
        input_size,
        (1, input_size[1], *kernel),
        stride,
        padding,
        dilation,
        groups,
        dtype,
        False,
        (name, "kernel_size"),
    )
    addressable("the columns", (geometry.batch, geometry.taps, geometry.pixels), 8)
    return geometry


def _run_rows(g: Geometry, run: Callable[[int, int, int], None]) -> None:
    """Run ``run(image, first row, stop row)`` over all planes, if any; a plane's rows are never parted."""
    if g.is_empty:
        return
    taps = prod(g.kernel)

    def planes(first: int, stop: int) -> None:
        for image in range(first // g.channels, (stop - 1) // g.channels + 1):
            origin = image * g.channels
            run(image, taps * (max(first, origin) - origin), taps * (min(stop, origin + g.channels) - origin))

    run_ranges(g.batch * g.channels, g.batch * g.taps * g.pixels, planes)


def im2col(
    input: ArrayLike, kernel_size: Extents, dilation: Extents = 1, padding: Padding = 0, stride: Extents = 1
) -> Array:
    """The column matrix of every image: what each output cell of a convolution sums over.

    Parameters
    ----------
    input : float array (N, C, H, W) or (C, H, W)
        (N, C, W) or (N, C, D, H, W) with one or three kernel extents.
    kernel_size : int or tuple of int
        The kernel's extents. A tuple's length is the number of spatial dimensions; a number means two.
    dilation, padding, stride
        As in `conv2d`; the order is that of ``torch.nn.functional.unfold``.

    Returns
    -------
    array (N, C*R*S, OH*OW)
        Row ``(c*R + r)*S + s``, column ``oh*OW + ow``.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong; the message names it.

    Examples
    --------
    A convolution is a matrix product over columns:

    >>> import numpy as np
    >>> import fastconv
    >>> x, w = np.arange(16.0).reshape(1, 1, 4, 4), np.ones((1, 1, 3, 3))
    >>> columns = fastconv.im2col(x, 3)
    >>> columns.shape
    (1, 9, 4)
    >>> np.array_equal(w.reshape(1, 9) @ columns[0], fastconv.conv2d(x, w).reshape(1, 4))
    True
    """
    x = float_array("input", input)
    ndim = _spatial_dimensions(kernel_size)
    images("input", x, ndim)
    batched = x.ndim == ndim + 2
    x = x if batched else x[np.newaxis]
    kernel = extents("kernel_size", kernel_size, ndim, 1)
    g = _one_filter_geometry(x.shape, kernel, dilation, padding, stride, "input", x.dtype)
    # float16 is only moved, not computed with: its bits travel as integers, which Numba can move.
    moved = np.dtype(np.uint16) if x.dtype == np.float16 else x.dtype
    columns = new_result((g.batch, g.taps, g.pixels), moved)
    if g.is_empty:
        columns[...] = 0  # of padding, or there are none
    source = read_only(normal_form(x.view(moved) if x.dtype == np.float16 else x, False))

    def run(image: int, first: int, stop: int) -> None:
        rows = columns[image, first:stop, np.newaxis]  # (rows, images, pixels)
        kernels.im2col(
            source, rows, image, first, 0, g.kernel, g.output, g.stride, g.padding, g.dilation
        )  # fmt: skip

    _run_rows(g, run)
    columns = columns.view(x.dtype)
    return columns if batched else columns[0]


def col2im(
    columns: ArrayLike,
    output_size: Extents,
    kernel_size: Extents,
    dilation: Extents = 1,
    padding: Padding = 0,
    stride: Extents = 1,
) -> Array:
    """The adjoint of `im2col`: every cell of the columns added back to where it came from.

    Parameters
    ----------
    columns : float array (N, C*R*S, OH*OW) or (C*R*S, OH*OW)
    output_size : int or tuple of int
        The image's spatial extents (H, W).
    kernel_size, dilation, padding, stride
        As they were given to `im2col`.

    Returns
    -------
    array (N, C, H, W) or (C, H, W)
        Cells that several windows share hold the sum of their columns.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong; the message names it.

    Examples
    --------
    The columns of ones, added back, count how many windows cover each cell:

    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.col2im(fastconv.im2col(np.ones((1, 1, 4, 4)), 3), (4, 4), 3)[0, 0]
    array([[1., 2., 2., 1.],
           [2., 4., 4., 2.],
           [2., 4., 4., 2.],
           [1., 2., 2., 1.]])
    """
    values = float_array("columns", columns)
    rank("columns", values, (3, 2), "(batched or not)")
    batched = values.ndim == 3
    values = values if batched else values[np.newaxis]
    ndim = _spatial_dimensions(kernel_size)
    kernel = extents("kernel_size", kernel_size, ndim, 1)
    extent = extents("output_size", output_size, ndim, 0)
    batch, rows, _ = values.shape
    taps = prod(kernel)
    if rows % taps:
        must_be_said(ValueError, "columns", f"of rows divisible by the kernel's {taps} cells", f"{rows} rows")
    image_size = (batch, rows // taps, *extent)
    g = _one_filter_geometry(image_size, kernel, dilation, padding, stride, "output_size", values.dtype)
    shaped("columns", values, (batch, g.taps, g.pixels))
    image = zeros(image_size, g.compute_dtype)
    source = read_only(values.astype(g.compute_dtype, copy=False))
    target = normal_form(image, False)

    def run(n: int, first: int, stop: int) -> None:
        rows = source[n, first:stop, np.newaxis]  # (rows, images, pixels)
        kernels.col2im_add(
            rows, target, n, first, 0, 0, g.input[0] * g.input[1],
            g.kernel, g.output, g.stride, g.padding, g.dilation,
        )  # fmt: skip

    _run_rows(g, run)
    image = delivered(image, None, values.dtype)
    return image if batched else image[0]


def conv_matrix(
    weight: ArrayLike,
    input_size: Shape,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
) -> scipy.sparse.csr_array:
    """A convolution of one image as one sparse matrix M: ``output.ravel() == M @ input.ravel()``.

    A convolution is a dense layer whose matrix is mostly zero and shares its few weights; so its
    gradient is that of a dense layer, ``grad_input.ravel() == M.T @ grad_output.ravel()``.

    Parameters
    ----------
    weight : float array (K, C/G, R, S)
        (K, C/G, S) or (K, C/G, T, R, S) in one or three dimensions.
    input_size : tuple of int
        (C, H, W), or (N, C, H, W): the matrix is that of one image.
    stride, padding, dilation, groups
        As in `conv2d`.

    Returns
    -------
    scipy.sparse.csr_array (K*OH*OW, C*H*W)
        Of the weight's dtype (float32 for float16, which sparse matrices do not have), every weight
        stored once for each output cell it meets inside the image, zeros included.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong; the message names it.

    Examples
    --------
    A 3x3 kernel on a 4x4 image: 4 outputs of 16 inputs, and only 9 different weights.

    >>> import numpy as np
    >>> import fastconv
    >>> matrix = fastconv.conv_matrix(np.arange(1.0, 10.0).reshape(1, 1, 3, 3), (1, 4, 4))
    >>> matrix.shape, matrix.nnz, len(np.unique(matrix.data))
    ((4, 16), 36, 9)
    """
    w = float_array("weight", weight)
    rank("weight", w, (3, 4, 5), "(filters, channels and 1 to 3 kernel extents)")
    ndim = w.ndim - 2
    shape = size("input_size", input_size, (ndim + 1, ndim + 2))
    image = shape[len(shape) - ndim - 1 :]
    steps = canonical_steps(stride, padding, dilation, groups, ndim)
    names = ("input_size", "weight")
    g = conv_geometry(ndim, (1, *image), w.shape, *steps, w.dtype, False, names)
    entries = g.filters * g.taps * g.pixels
    addressable("the matrix", (entries,), 16)
    # Where each (tap, pixel) of an image's columns comes from: im2col of the cells' own numbers. Numbers
    # from 1, so that 0 is padding; float64 counts exactly to 2**53.
    cells = np.arange(1.0, prod(image) + 1).reshape(1, *image)
    source = im2col(cells, g.kernel[3 - ndim :], dilation, padding, stride)[0].astype(np.int64)
    source = source.reshape(g.groups, 1, g.taps, g.pixels)
    value_shape = (g.groups, g.filters // g.groups, g.taps, g.pixels)
    inside = np.broadcast_to(source > 0, value_shape)
    rows = np.arange(g.filters * g.pixels).reshape(*value_shape[:2], 1, g.pixels)
    rows = np.broadcast_to(rows, value_shape)[inside]
    columns = np.broadcast_to(source - 1, value_shape)[inside]
    values = np.broadcast_to(w.reshape(*value_shape[:3], 1), value_shape)[inside]
    matrix = scipy.sparse.coo_array(
        (values.astype(g.compute_dtype, copy=False), (rows, columns)),
        shape=(g.filters * g.pixels, prod(image)),
    )
    return matrix.tocsr()
