"""Columns of few channels, channels last, added up to images: what pixels read, not what columns write."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastconv.kernels.jit import inner, jit, part
from fastconv.kernels.simd import load, spread, store_some
from fastconv.kernels.vectors import VECTOR_BYTES


class Pair(NamedTuple):
    """A number for each axis of a plane."""

    height: int
    width: int


class Layer(NamedTuple):
    """The sizes of a layer in the plane."""

    output: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair


@part
def named_layer(layer):
    """A Layer from nested plain tuples."""
    output, kernel, stride, padding, dilation = layer
    return Layer(Pair(*output), Pair(*kernel), Pair(*stride), Pair(*padding), Pair(*dilation))


@inner
def list_taps(row, column, layer, first_row, pitch, channels, offsets):
    """Where the columns hold what one pixel of the input gets; returns how many there are.

    ``offsets``, int64 (taps,), is written.
    """
    output, kernel, stride, padding, dilation = layer
    found = 0
    for r in range(kernel.height):
        h = row + padding.height - r * dilation.height
        if h < 0 or h % stride.height != 0 or h // stride.height >= output.height:
            continue
        for s in range(kernel.width):
            w = column + padding.width - s * dilation.width
            if w < 0 or w % stride.width != 0 or w // stride.width >= output.width:
                continue
            pixel = (h // stride.height - first_row) * output.width + w // stride.width
            offsets[found] = pixel * pitch + (r * kernel.width + s) * channels
            found += 1
    return found


@jit
def gather_rows(columns, first_row, pitch, x, first_x, channels, rows, width, layer):
    """``x[pixel] = sum of columns[output pixel, tap]`` over the output pixels whose taps reach it.

    Parameters
    ----------
    columns : 1-D float array (pixels of the output, pitch)
        From the output's row ``first_row`` on, (taps, channels) of each pixel; a vector more than that.
    pitch : int
    x : 1-D float array (rows, width, channels)
        Of one image, from ``first_x`` on. Written.
    rows : tuple of two int
        From and up to which row of the input.
    width : int
        Of the input.
    layer : Layer
    """
    layer = named_layer(layer)
    output, kernel, stride, padding, dilation = layer
    begin, end = rows
    lanes = VECTOR_BYTES // x.itemsize
    offsets = np.empty(kernel.height * kernel.width, np.int64)
    # The pixels that all taps of their phase reach.
    left = dilation.width * (kernel.width - 1) - padding.width
    right = (output.width - 1) * stride.width - padding.width + 1
    for h in range(begin, end):
        for phase in range(min(stride.width, width)):
            count, origin, inside = 0, 0, False
            for w in range(phase, width, stride.width):
                if not (inside and w < right):
                    inside = left <= w < right
                    count = list_taps(h, w, layer, first_row, pitch, channels, offsets)
                    origin = w
                shift = (w - origin) // stride.width * pitch
                place = first_x + ((h - begin) * width + w) * channels
                for c in range(0, channels, lanes):
                    total = spread(x.dtype.type(0))
                    for n in range(count):
                        total = total + load(columns, offsets[n] + shift + c)
                    store_some(x, place + c, total, channels - c)
