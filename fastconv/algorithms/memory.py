"""Arrays as kernels take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.arguments import Array
from fastconv.kernels.bands import turn_cells
from fastconv.kernels.vectors import VECTOR_BYTES

# Weights that are worth the 10 us that it takes to see how they lie.
LARGE_WEIGHTS = 2**15

# Where the first image's first channel begins; the next image, channel and cell; extents; the next line.
Image = tuple[int, int, int, int, int, int, int]


def aligned(elements: int, dtype: np.dtype[Any]) -> Array:
    """Memory that begins with a vector: a load that splits a cache line takes twice as long."""
    memory = np.empty(elements + VECTOR_BYTES // dtype.itemsize, dtype)
    first = -(memory.ctypes.data // dtype.itemsize) % (VECTOR_BYTES // dtype.itemsize)
    return memory[first : first + elements]


@dataclass(frozen=True)
class Images:
    """An array (N, C, 1, H, W) as the kernels see it: flat, and the steps through it."""

    flat: Array
    array: Array
    plane: int
    cell: int

    @staticmethod
    def of(array: Array, channels_last: bool) -> Images | None:
        """None where the array is not contiguous in its layout."""
        channels, cells = array.shape[1], array.shape[2] * array.shape[3] * array.shape[4]
        ordered = array.transpose(0, 2, 3, 4, 1) if channels_last else array
        if not ordered.flags.c_contiguous:
            return None
        plane, cell = (1, channels) if channels_last else (cells, 1)
        return Images(ordered.reshape(-1), array, plane, cell)

    def steps(self, first_channel: int) -> Image:
        """Where a channel begins; the next image, channel and cell; the extents; the next line."""
        _, channels, _, height, width = self.array.shape
        image = channels * height * width
        return (
            first_channel * self.plane, image, self.plane, self.cell, height, width, width * self.cell,
        )  # fmt: skip

    def phase(self, first_channel: int, first: tuple[int, int], stride: tuple[int, int]) -> Image:
        """As `steps`, of the cells that begin at ``first`` and lie ``stride`` apart."""
        begin, image, plane, cell, height, width, line = self.steps(first_channel)
        return (
            begin + first[0] * line + first[1] * cell, image, plane, cell * stride[1],
            -(-(height - first[0]) // stride[0]), -(-(width - first[1]) // stride[1]), line * stride[0],
        )  # fmt: skip


def filters_outermost(weight: Array) -> Array:
    """Weights in memory filter by filter: a copy where they lie the other way round (TensorFlow's HWIO).

    Algorithms copy or pack one filter after the other, which then would use one element of each cache line:
    9 MB take NumPy 15.8 ms, and 1.4 ms in squares (3x3, 512 -> 512, float32, AVX-512 Xeon).

    Parameters
    ----------
    weight : float32 or float64 array (filters, ...)
    """
    if weight.size < LARGE_WEIGHTS or weight.strides[0] != weight.itemsize:
        return weight
    order = sorted(range(1, weight.ndim), key=lambda axis: -weight.strides[axis])
    memory = weight.transpose(*order, 0)
    if not memory.flags.c_contiguous:
        return weight
    filters, cells = len(weight), weight.size // len(weight)
    turned = np.empty((filters, *memory.shape[:-1]), weight.dtype)
    lanes = VECTOR_BYTES // weight.itemsize
    square = aligned(lanes * lanes, weight.dtype)
    turn_cells(memory.reshape(-1), 0, filters, cells, filters, turned.reshape(-1), cells, square)
    return turned.transpose(np.argsort([0, *order]))


def finite(array: Array) -> bool:
    """Whether all cells are finite (or, seldom, False where only their sum is not)."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum()))
