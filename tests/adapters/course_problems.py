"""Convolutions and poolings with one stride and one padding, as the course codes have them."""

from dataclasses import dataclass

import numpy as np
from helpers import integers
from hypothesis import strategies as st
from oracles import ref_max_pool, ref_scatter_add


@dataclass
class Layer:
    """Arrays of small whole numbers for one layer, whose windows need not tile the image."""

    x: np.ndarray
    w: np.ndarray
    b: np.ndarray
    dout: np.ndarray
    stride: int
    pad: int

    @property
    def kernel(self):
        return self.w.shape[2:]

    @property
    def oracle(self):
        """Stride, padding, dilation and groups as the oracles take them."""
        return (self.stride,) * 2, ((self.pad,) * 2,) * 2, (1, 1), 1


@st.composite
def layers(draw, pads=(0, 1, 2), batches=(0, 1, 3), pool=False):
    """With `pool`, the gradient has as many channels as the input."""
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(2))
    stride, pad = draw(st.integers(1, 3)), draw(st.sampled_from(pads))
    extents = tuple(max(1, k - 2 * pad) + draw(st.integers(0, 5)) for k in kernel)
    outputs = tuple((n + 2 * pad - k) // stride + 1 for n, k in zip(extents, kernel, strict=True))
    batch, channels, filters = (
        draw(st.sampled_from(batches)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    )
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Layer(
        x=integers(rng, (batch, channels, *extents), dtype),
        w=integers(rng, (filters, channels, *kernel), dtype),
        b=integers(rng, (filters,), dtype),
        dout=integers(rng, (batch, channels if pool else filters, *outputs), dtype),
        stride=stride,
        pad=pad,
    )


def ref_zero_padded_pool(x, kernel, stride, pad, dout):
    """Maxima, the tap each stands at, and the input's gradient, with padding that counts as zeros."""
    (top, left), (height, width) = pad, x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    maxima, cells = ref_max_pool(padded, kernel, stride, ((0, 0), (0, 0)), (1, 1))
    taps = np.zeros_like(cells)
    for at in np.ndindex(*cells.shape):
        row, column = divmod(cells[at], padded.shape[3])
        taps[at] = (row - at[2] * stride[0]) * kernel[1] + column - at[3] * stride[1]
    dx = ref_scatter_add(dout, cells, padded.shape[2:])
    return maxima, taps, dx[:, :, top : top + height, left : left + width]
