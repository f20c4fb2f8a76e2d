"""Records that kernels share: where an image lies in memory, and which part of the output a chunk is.

Python passes them as plain tuples, and the kernel names them in its first line, ``image = Image(*image)``:
Numba's dispatcher takes 0.2 us to recognise a tuple and 0.7 a named one, and inside compiled code the name
costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from fastconv.kernels.jit import part


class Image(NamedTuple):
    """Where the numbers of images lie in one-dimensional memory; strides are in elements.

    The channel stride is 1 where channels are last.
    """

    start: int  # the first image's first channel
    image_stride: int
    channel_stride: int
    pixel_stride: int
    height: int
    width: int
    row_stride: int
    depth: int
    plane_stride: int


class Chunk(NamedTuple):
    """Consecutive images, planes, rows and columns of an output: the first of each, and how many."""

    image: int
    images: int
    plane: int
    planes: int
    row: int
    rows: int
    column: int
    columns: int


@part
def from_channel(image, channel):
    """The same images from a channel on."""
    return Image(
        image.start + channel * image.channel_stride, image.image_stride, image.channel_stride,
        image.pixel_stride, image.height, image.width, image.row_stride, image.depth, image.plane_stride,
    )  # fmt: skip


@part
def every(image, column, apart, count):
    """The same images, of which only ``count`` columns are seen: every so many, from one on."""
    return Image(
        image.start + column * image.pixel_stride, image.image_stride, image.channel_stride,
        image.pixel_stride * apart, image.height, count, image.row_stride, image.depth, image.plane_stride,
    )  # fmt: skip


@part
def address(image, number, channel, plane, row, column):
    """Where a pixel of a channel lies."""
    return (
        image.start + number * image.image_stride + channel * image.channel_stride
        + plane * image.plane_stride + row * image.row_stride + column * image.pixel_stride
    )  # fmt: skip
