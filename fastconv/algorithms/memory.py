"""Arrays as kernels take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from fastconv.algorithms.jobs import Grid, ceil_div
from fastconv.arguments import Array, Size
from fastconv.buffers import aligned, contiguous, new_result
from fastconv.kernels.bands import turn_cells
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

# Elements that a job turns.
TURNED = 2**18
# Weights that are worth the 10 us that it takes to see how they lie.
LARGE_WEIGHTS = 2**15

Three = tuple[int, int, int]
Four = tuple[int, int, int, int]
# Where the first image's first channel begins; the next image, channel and cell; height and width; the next
# line; the depth; the next plane along it.
Image = tuple[int, int, int, int, int, int, int, int, int]


@dataclass(slots=True)
class Images:
    """An array (N, C, D, H, W) as the kernels see it: flat, and the steps through it.

    ``apart`` says that only every so many planes, lines and columns are seen.
    """

    flat: Array
    array: Array
    plane: int
    cell: int
    apart: Three

    @staticmethod
    def of(array: Array, channels_last: bool, apart: Three = (1, 1, 1)) -> Images:
        """An array that is contiguous in its layout."""
        channels, cells = array.shape[1], array.shape[2] * array.shape[3] * array.shape[4]
        ordered = array.transpose(0, 2, 3, 4, 1) if channels_last else array
        plane, cell = (1, channels) if channels_last else (cells, 1)
        return Images(ordered.reshape(-1), array, plane, cell, apart)

    def steps(self, first_channel: int) -> Image:
        """The steps and extents of what is seen of an array, from a channel on."""
        return self.phase(first_channel, (0, 0, 0), self.apart)

    def phase(self, first_channel: int, first: Three, stride: Three) -> Image:
        """As `steps`, of the cells that begin at ``first`` and lie ``stride`` apart."""
        _, channels, depth, height, width = self.array.shape
        cell, line, sheet = self.cell, width * self.cell, height * width * self.cell
        begin = first_channel * self.plane + first[0] * sheet + first[1] * line + first[2] * cell
        return (
            begin, channels * depth * height * width, self.plane, cell * stride[2],
            -(-(height - first[1]) // stride[1]), -(-(width - first[2]) // stride[2]), line * stride[1],
            -(-(depth - first[0]) // stride[0]), sheet * stride[0],
        )  # fmt: skip


def turned(array: Array, filled: bool = True) -> Images:
    """An array (N, C, D, H, W), contiguous, in new memory with its channels last."""
    batch, channels = array.shape[:2]
    memory = new_result((batch, *array.shape[2:], channels), array.dtype)
    if filled:
        flat, target, pixels = array.reshape(-1), memory.reshape(-1), prod(array.shape[2:])

        def turn(image: int, first: int, stop: int, square: Array) -> None:
            source, place = image * channels * pixels + first, (image * pixels + first) * channels
            turn_cells(flat, source, pixels, channels, stop - first, target[place:], channels, square)

        _run_pixels(batch, pixels, channels, array.dtype, turn)
    return Images(memory.reshape(-1), memory.transpose(0, 4, 1, 2, 3), 1, channels, (1, 1, 1))


def turn_back(images: Images, array: Array) -> None:
    """What `turned` made to where it belongs."""
    batch, channels = array.shape[:2]
    target, pixels = array.reshape(-1), prod(array.shape[2:])

    def turn(image: int, first: int, stop: int, square: Array) -> None:
        source, place = (image * pixels + first) * channels, image * channels * pixels + first
        turn_cells(images.flat, source, channels, stop - first, channels, target[place:], pixels, square)

    _run_pixels(batch, pixels, channels, array.dtype, turn)


def _run_pixels(
    batch: int,
    pixels: int,
    channels: int,
    dtype: np.dtype[Any],
    turn: Callable[[int, int, int, Array], None],
) -> None:
    """Call ``turn`` for blocks of pixels of every image."""
    jobs = Grid((batch, 1), (pixels, ceil_div(TURNED, channels)))

    def start_worker() -> Job:
        lanes = VECTOR_BYTES // dtype.itemsize
        square = aligned(lanes * lanes, dtype)

        def job(i: int) -> None:
            (image, _), (first, stop) = jobs[i]
            turn(image, first, stop, square)

        return job

    run_jobs(len(jobs), start_worker)


def add_parts(parts: Array, out: Array | None = None) -> Array:
    """The sum of partial results, in their order; infinities of both signs meet without a warning."""
    with np.errstate(all="ignore"):
        return np.add.reduce(parts, axis=0, out=out)


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
    turned = new_result((filters, *memory.shape[:-1]), weight.dtype)
    lanes = VECTOR_BYTES // weight.itemsize
    square = aligned(lanes * lanes, weight.dtype)
    turn_cells(memory.reshape(-1), 0, filters, cells, filters, turned.reshape(-1), cells, square)
    return turned.transpose(np.argsort([0, *order]))


def finite(array: Array) -> bool:
    """Whether all cells are finite (or, seldom, False where only their sum is not)."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum()))


def memory(array: Array) -> tuple[Array, int, Size]:
    """The memory of an array in one dimension, its first element there, and its strides in elements.

    Nothing is copied unless the strides are no whole elements.
    """
    size = array.itemsize
    if array.flags.c_contiguous or array.size == 0:
        return array.reshape(-1), 0, tuple(stride // size for stride in array.strides)
    if any(stride % size for stride in array.strides):
        return memory(contiguous(array))
    strides = tuple(stride // size for stride in array.strides)
    reach = [(n - 1) * stride for n, stride in zip(array.shape, strides, strict=True)]
    first = -sum(r for r in reach if r < 0)
    lowest = array[tuple(slice(-1, None) if r < 0 else slice(0, None) for r in reach)]
    length = 1 + sum(map(abs, reach))
    return np.lib.stride_tricks.as_strided(lowest, (length,), (size,)), first, strides


def pixels_first(array: Array) -> tuple[Array, int, Size]:
    """The memory of images, and their strides along (N, D, H, W), the channels contiguous."""
    flat, first, strides = memory(array.transpose(0, 2, 3, 4, 1))
    return flat, first, strides[:4]
