"""Columns of few channels, channels last, added up to images: what cells read, not what columns write."""

import numpy as np

from fastconv.kernels.jit import inner, jit
from fastconv.kernels.simd import load, spread, store_some
from fastconv.kernels.vectors import VECTOR_BYTES


@inner
def list_taps(h, w, output, first_line, kernel, stride, padding, dilation, pitch, channels, offsets):
    """Where the columns hold what one cell of the input gets; returns how many there are.

    ``offsets``, int64 (taps,), is written.
    """
    found = 0
    for r in range(kernel[0]):
        line = h + padding[0] - r * dilation[0]
        if line < 0 or line % stride[0] != 0 or line // stride[0] >= output[0]:
            continue
        for s in range(kernel[1]):
            column = w + padding[1] - s * dilation[1]
            if column < 0 or column % stride[1] != 0 or column // stride[1] >= output[1]:
                continue
            cell = (line // stride[0] - first_line) * output[1] + column // stride[1]
            offsets[found] = cell * pitch + (r * kernel[1] + s) * channels
            found += 1
    return found


@jit
def gather_lines(
    columns, first_line, pitch, x, first_x, channels, lines, width, output, kernel, stride, padding, dilation
):  # fmt: skip
    """``x[cell] = sum of columns[output cell, tap]`` over the output cells whose taps reach it.

    Parameters
    ----------
    columns : 1-D float array (cells of the output, pitch)
        From the output's line ``first_line`` on, in each row (taps, channels); a vector more than that.
    pitch : int
    x : 1-D float array (lines, width, channels)
        Of one image, from ``first_x`` on. Written.
    lines : tuple of two int
        From and up to which line of the input.
    width : int
        Of the input.
    output, kernel, stride, padding, dilation : tuple of two int
    """
    lanes = VECTOR_BYTES // x.itemsize
    offsets = np.empty(kernel[0] * kernel[1], np.int64)
    # The cells that all taps of their phase reach.
    left = dilation[1] * (kernel[1] - 1) - padding[1]
    right = (output[1] - 1) * stride[1] - padding[1] + 1
    for h in range(lines[0], lines[1]):
        for phase in range(min(stride[1], width)):
            count, origin, inside = 0, 0, False
            for w in range(phase, width, stride[1]):
                if not (inside and w < right):
                    inside = left <= w < right
                    count = list_taps(
                        h, w, output, first_line, kernel, stride, padding, dilation, pitch, channels, offsets
                    )
                    origin = w
                shift = (w - origin) // stride[1] * pitch
                place = first_x + ((h - lines[0]) * width + w) * channels
                for c in range(0, channels, lanes):
                    total = spread(x.dtype.type(0))
                    for n in range(count):
                        total = total + load(columns, offsets[n] + shift + c)
                    store_some(x, place + c, total, channels - c)
