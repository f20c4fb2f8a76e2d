"""Arrays as kernels take them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from fastconv.arguments import Array
from fastconv.kernels.vectors import VECTOR_BYTES

# Results that are worth the 2 us that it takes to align them.
LARGE_BYTES = 2**16

# Where the first image's first channel begins; the next image, channel and cell; extents; the next line.
Image = tuple[int, int, int, int, int, int, int]


def aligned(elements: int, dtype: np.dtype[Any]) -> Array:
    """Memory that begins with a vector: a load that splits a cache line takes twice as long."""
    memory = np.empty(elements + VECTOR_BYTES // dtype.itemsize, dtype)
    first = -(memory.ctypes.data // dtype.itemsize) % (VECTOR_BYTES // dtype.itemsize)
    return memory[first : first + elements]


def new_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Memory for a result; where it is large, it begins with a vector.

    NumPy's large arrays begin 16 bytes behind one, and each store splits a cache line: a 1x1 layer takes 12.8
    ms then, and 8.3 ms aligned (64x56 -> 256, batch 8, float32, AVX-512 Xeon).
    """
    elements = prod(shape)
    if elements * dtype.itemsize < LARGE_BYTES:
        return np.empty(shape, dtype)
    return aligned(elements, dtype).reshape(shape)


@dataclass(frozen=True)
class Images:
    """An array (N, C, 1, H, W) as the kernels see it: flat, and the steps through it.

    ``apart`` says that only every so many lines and columns are seen.
    """

    flat: Array
    array: Array
    plane: int
    cell: int
    apart: tuple[int, int]

    @staticmethod
    def of(array: Array, channels_last: bool, apart: tuple[int, int] = (1, 1)) -> Images | None:
        """None where the array is not contiguous in its layout."""
        channels, cells = array.shape[1], array.shape[2] * array.shape[3] * array.shape[4]
        ordered = array.transpose(0, 2, 3, 4, 1) if channels_last else array
        if not ordered.flags.c_contiguous:
            return None
        plane, cell = (1, channels) if channels_last else (cells, 1)
        return Images(ordered.reshape(-1), array, plane, cell, apart)

    def steps(self, first_channel: int) -> Image:
        """Where a channel begins; the next image, channel and cell; the extents; the next line."""
        return self.phase(first_channel, (0, 0), self.apart)

    def phase(self, first_channel: int, first: tuple[int, int], stride: tuple[int, int]) -> Image:
        """As `steps`, of the cells that begin at ``first`` and lie ``stride`` apart."""
        _, channels, _, height, width = self.array.shape
        line = width * self.cell
        return (
            first_channel * self.plane + first[0] * line + first[1] * self.cell, channels * height * width,
            self.plane, self.cell * stride[1], -(-(height - first[0]) // stride[0]),
            -(-(width - first[1]) // stride[1]), line * stride[0],
        )  # fmt: skip


def finite(array: Array) -> bool:
    """Whether all cells are finite (or, seldom, False where only their sum is not)."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum()))
