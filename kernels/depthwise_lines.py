"""Depthwise convolution of 3x3 taps with the channels last, by row pairs (`depthwise_line_tiles`).

The walk goes along memory: two rows of the output, in all their channels, then the next two. What the next
two need is prefetched meanwhile, one behind the other, which the CPU's own prefetchers follow.
"""

from typing import NamedTuple

import numpy as np

from fastconv.kernels.depthwise_line_tiles import (
    ROWS,
    TAPS,
    Range,
    Side,
    Steps,
    row_pair_sums,
    row_pair_tile,
)
from fastconv.kernels.images import Image
from fastconv.kernels.jit import inner, jit, part
from fastconv.kernels.simd import load, store
from fastconv.kernels.vectors import VECTOR_BYTES


class Layer(NamedTuple):
    """What is the same for all row pairs."""

    top: int  # rows of padding
    left: int  # columns of padding
    stride: int  # 1 or 2
    back: bool  # whether the output's gradient is read and the input's written, with a stride of 2
    columns: int  # of the output that are made for all channels before the next ones
    lead: int  # the channel where the second vector begins, at most the lanes of one


class Job(NamedTuple):
    """The row pairs of images that a call computes; backward-input counts them in the padded input."""

    first_image: int
    stop_image: int
    first_pair: int
    stop_pair: int


class Columns(NamedTuple):
    """The steps that make some columns of the output.

    ``x_first`` and ``out_first`` are the first columns that are read and written, which need not exist; the
    ranges of those that do are counted from these.
    """

    x_first: int
    out_first: int
    x: Range
    out: Range
    steps: Steps


@inner
def columns_from(first, stop, x_width, layer, all_begun):
    """Columns ``first`` up to ``stop`` of the output; ``all_begun`` as sums need them: see `Steps`."""
    back, stride = layer.back, layer.stride
    read, finished = (1, stride) if back else (stride, 1)
    begun = TAPS if back else (TAPS + stride - 1) // stride
    # Backward-input counts columns of the padded input, others from the first that no tap reaches.
    shift = layer.left if back else begun - 1
    warm = (begun - 1) // finished
    begin = (first + shift) // finished - warm
    steps = (stop + shift + finished - 1) // finished - begin
    x_first = begin * read - (0 if back else layer.left)
    out_first = begin * finished - shift
    x, out = Range(-x_first, x_width - x_first), Range(first - out_first, stop - out_first)
    last = begun if all_begun else finished
    low = max((x.begin + read - 1) // read, (out.begin + finished - 1) // finished)
    high = min(x.end // read, (out.end - last) // finished + 1)
    low = min(max(low, 0), steps)
    return Columns(x_first, out_first, x, out, Steps(steps, low, max(low, min(high, steps))))


@inner
def count_vectors(channels, lanes, lead):
    """How many vectors hold all channels, where the second begins with channel ``lead``."""
    return 1 + max(0, (channels - lead + lanes - 1) // lanes)


@inner
def first_channel(v, channels, lanes, lead):
    """Of a vector: the first and the last one overlap their neighbours."""
    return min(max(0, lead + (v - 1) * lanes), channels - lanes)


@part
def side(image, begin, row, first_column, columns, prefetched):
    """Of an array, what a row pair has whose first row, row ``row`` of an image, begins at ``begin``."""
    return Side(
        begin + first_column * image.pixel_stride, image.row_stride, image.pixel_stride,
        Range(-row, image.height - row), columns, prefetched,
    )  # fmt: skip


@part
def from_channel(some, channel, prefetched):
    """The same pixels in the vector from a channel on, ``prefetched`` elements further prefetched."""
    return Side(
        some.first + channel, some.row_stride, some.pixel_stride, some.rows, some.columns,
        some.prefetched + prefetched,
    )  # fmt: skip


@jit
def correlate_row_pairs(x, image, weights, bias, out, output, layer, job):
    """Convolve some row pairs of some images.

    Parameters
    ----------
    x, out : 1-D float array
        The memory of images, and of the output, which is written.
    image, output : Image as a plain tuple
        Where they lie in it; channels are contiguous.
    weights : 1-D float array (taps, channels)
    bias : 1-D float array (channels,)
        At least a vector.
    layer : Layer as a plain tuple
    job : Job as a plain tuple
    """
    image, output, layer, job = Image(*image), Image(*output), Layer(*layer), Job(*job)
    stride, back = layer.stride, layer.back
    lanes = VECTOR_BYTES // x.itemsize
    channels = bias.size
    vectors = count_vectors(channels, lanes, layer.lead)
    rows_read = 2 if back else (ROWS - 1) * stride + TAPS
    # Rows, and pixels of a step, that a row pair reads and its predecessor did not.
    new_rows, new_pixels = (1, 1) if back else (ROWS * stride, ROWS * stride * stride)
    for number in range(job.first_image, job.stop_image):
        for pair in range(job.first_pair, job.stop_pair):
            x_row = pair - 1 if back else pair * new_rows - layer.top
            out_row = ROWS * pair - layer.top if back else ROWS * pair
            x_begin = image.start + number * image.image_stride + x_row * image.row_stride
            out_begin = output.start + number * output.image_stride + out_row * output.row_stride
            for first in range(0, output.width, layer.columns):
                stop = min(first + layer.columns, output.width)
                some = columns_from(first, stop, image.width, layer, False)
                x_next = x_begin + rows_read * image.row_stride + max(0, some.x_first) * image.pixel_stride
                out_next = out_begin + ROWS * output.row_stride + max(0, some.out_first) * output.pixel_stride
                source = side(image, x_begin, x_row, some.x_first, some.x, x_next)
                target = side(output, out_begin, out_row, some.out_first, some.out, out_next)
                for v in range(vectors):
                    c = first_channel(v, channels, lanes, layer.lead)
                    x_ahead = c * some.steps.number * new_pixels
                    out_ahead = c * some.steps.number * ROWS * (2 if back else 1)
                    row_pair_tile(
                        x, from_channel(source, c, x_ahead), weights, bias, c, channels, some.steps, stride,
                        back, out, from_channel(target, c, out_ahead),
                    )  # fmt: skip


@jit
def sum_row_pairs(x, image, dy, gradient, layer, job, result):
    """The weight's gradient, summed over some row pairs of some images.

    Parameters
    ----------
    x, image, layer, job
        As in `correlate_row_pairs`.
    dy : 1-D float array
    gradient : Image as a plain tuple
        The output's gradient, whose channels are contiguous.
    result : 1-D float array (taps, channels)
        Written.
    """
    image, gradient, layer, job = Image(*image), Image(*gradient), Layer(*layer), Job(*job)
    stride = layer.stride
    lanes = VECTOR_BYTES // x.itemsize
    channels = result.size // (TAPS * TAPS)
    vector_sums = TAPS * TAPS * lanes
    vectors = count_vectors(channels, lanes, layer.lead)
    sums = np.zeros(vectors * vector_sums, x.dtype)
    rows_read = (ROWS - 1) * stride + TAPS
    for number in range(job.first_image, job.stop_image):
        for pair in range(job.first_pair, job.stop_pair):
            dy_row = ROWS * pair
            rows = min(ROWS, gradient.height - dy_row)
            x_row = dy_row * stride - layer.top
            x_begin = image.start + number * image.image_stride + x_row * image.row_stride
            dy_begin = gradient.start + number * gradient.image_stride + dy_row * gradient.row_stride
            for first in range(0, gradient.width, layer.columns):
                stop = min(first + layer.columns, gradient.width)
                some = columns_from(first, stop, image.width, layer, True)
                x_next = x_begin + rows_read * image.row_stride + max(0, some.x_first) * image.pixel_stride
                dy_next = (
                    dy_begin + ROWS * gradient.row_stride + max(0, some.out_first) * gradient.pixel_stride
                )
                source = side(image, x_begin, x_row, some.x_first, some.x, x_next)
                other = side(gradient, dy_begin, dy_row, some.out_first, some.out, dy_next)
                for v in range(vectors):
                    c = first_channel(v, channels, lanes, layer.lead)
                    ahead = c * some.steps.number * ROWS
                    row_pair_sums(
                        x, from_channel(source, c, ahead * stride * stride), dy,
                        from_channel(other, c, ahead), some.steps, stride, rows, sums, v * vector_sums,
                    )  # fmt: skip
    for v in range(vectors):
        c = first_channel(v, channels, lanes, layer.lead)
        for tap in range(TAPS * TAPS):
            store(result, tap * channels + c, load(sums, v * vector_sums + tap * lanes))
