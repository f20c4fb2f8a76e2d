"""A stand-in for the Cython module of the CS231n course's code, which takes a compiler to build.

`fastconv.adapters.cs231n` puts it where the course's code imports it. A copy of that code under another name
needs one line before its own imports::

    sys.modules["my_network.im2col_cython"] = fastconv.adapters.im2col_cython
"""

from __future__ import annotations

from fastconv.adapters.columns import as_float, columns_of, image_of, output_extents
from fastconv.arguments import Array


def im2col_cython(x: Array, field_height: int, field_width: int, padding: int, stride: int) -> Array:
    """Columns as the course keeps them: the images lie side by side for every pixel.

    Parameters
    ----------
    x : array (N, C, H, W)
    field_height, field_width, padding, stride : int

    Returns
    -------
    array (C*FH*FW, OH*OW*N)
        Row ``(c*FH + r)*FW + s``, column ``(oh*OW + ow)*N + n``, also where FH and FW differ (the original
        overwrites rows there).
    """
    columns = columns_of(as_float(x), (field_height, field_width), (stride, stride), (padding, padding))
    images, _, _, _, height, width = columns.shape
    rows = x.shape[1] * field_height * field_width
    return columns.transpose(1, 2, 3, 4, 5, 0).reshape(rows, height * width * images)


def col2im_cython(
    cols: Array,
    N: int,
    C: int,
    H: int,
    W: int,
    field_height: int,
    field_width: int,
    padding: int,
    stride: int,
) -> Array:
    """The adjoint of `im2col_cython`: its columns added up to an array (N, C, H, W)."""
    kernel = field_height, field_width
    pixels = output_extents((H, W), kernel, (stride, stride), (padding, padding))
    columns = as_float(cols).reshape(C, *kernel, *pixels, N).transpose(5, 0, 1, 2, 3, 4)
    return image_of(columns, (H, W), (stride, stride), (padding, padding))


def col2im_6d_cython(
    cols: Array, N: int, C: int, H: int, W: int, HH: int, WW: int, pad: int, stride: int
) -> Array:
    """As `col2im_cython`, of columns (C, HH, WW, N, OH, OW)."""
    columns = as_float(cols).transpose(3, 0, 1, 2, 4, 5)
    return image_of(columns, (H, W), (stride, stride), (pad, pad))
