"""A stand-in for the Cython module of the CS231n course's code, which takes a compiler to build.

`fastconv.adapters.cs231n` puts it where the course's code imports it. A copy of that code under another name
needs one line before its own imports::

    sys.modules["my_network.im2col_cython"] = fastconv.adapters.im2col_cython
"""

from __future__ import annotations

import math

from fastconv.adapters.columns import as_float, channel_rows, from_channel_rows
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
    kernel, steps, pads = (field_height, field_width), (stride, stride), (padding, padding)
    return channel_rows(as_float(x), kernel, steps, pads, images_last=True)


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
    kernel, steps, pads = (field_height, field_width), (stride, stride), (padding, padding)
    return from_channel_rows(as_float(cols), (N, C, H, W), kernel, steps, pads, images_last=True)


def col2im_6d_cython(
    cols: Array, N: int, C: int, H: int, W: int, HH: int, WW: int, pad: int, stride: int
) -> Array:
    """As `col2im_cython`, of columns (C, HH, WW, N, OH, OW)."""
    rows = as_float(cols).reshape(C * HH * WW, math.prod(cols.shape[3:]))
    return from_channel_rows(rows, (N, C, H, W), (HH, WW), (stride,) * 2, (pad,) * 2, images_last=False)
