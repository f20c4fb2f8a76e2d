"""Depthwise convolution of 3x3 taps with the channels last, strip by strip (tiles: `depthwise_line_tiles`).

The walk goes along memory: two lines of the output, in all their channels, then the next two. What the next
two need is asked for meanwhile, one behind the other, which the CPU's own prefetchers follow.
"""

import numpy as np

from fastconv.kernels.depthwise_line_tiles import LINES, TAPS, correlate_strip, sum_strip
from fastconv.kernels.jit import inner, jit
from fastconv.kernels.simd import load, store
from fastconv.kernels.vectors import VECTOR_BYTES


@inner
def strip_columns(first, stop, x_width, pad, stride, back, all_begun):
    """The steps that make some columns of the output; ``all_begun`` as for the sums.

    Returns
    -------
    tuple of nine int
        The first column that is read and that is written; from and up to which of them there are any,
        counted from those; how many steps; from and up to which step all columns exist.
    """
    read, finished = (1, stride) if back else (stride, 1)
    begun = TAPS if back else (TAPS + stride - 1) // stride
    # Backward-input counts columns of the padded input, others from the first that no tap reaches.
    shift = pad if back else begun - 1
    warm = (begun - 1) // finished
    begin = (first + shift) // finished - warm
    steps = (stop + shift + finished - 1) // finished - begin
    x_first = begin * read - (0 if back else pad)
    out_first = begin * finished - shift
    from_x, to_x = -x_first, x_width - x_first
    from_out, to_out = first - out_first, stop - out_first
    last = begun if all_begun else finished
    low = max((from_x + read - 1) // read, (from_out + finished - 1) // finished)
    high = min(to_x // read, (to_out - last) // finished + 1)
    low = min(max(low, 0), steps)
    return x_first, out_first, from_x, to_x, from_out, to_out, steps, low, max(low, min(high, steps))


@inner
def channel_blocks(channels, lanes, lead):
    """How many vectors hold all channels, where the second begins with channel ``lead``."""
    return 1 + max(0, (channels - lead + lanes - 1) // lanes)


@inner
def first_channel(v, channels, lanes, lead):
    """Of a vector: the first and the last one overlap their neighbours."""
    return min(max(0, lead + (v - 1) * lanes), channels - lanes)


@jit
def correlate_strips(
    x, first_x, x_steps, x_extent, weights, bias, out, out_steps, out_extent, pad, stride, back, columns,
    lead, images, pairs,
):  # fmt: skip
    """Convolve some pairs of lines of some images.

    Parameters
    ----------
    x : 1-D float array
        The memory of the images, whose first element is ``x[first_x]`` and whose channels are contiguous.
    x_steps : tuple of three int
        Elements from one image, line and pixel to the next.
    x_extent : tuple of two int
    weights : 1-D float array (taps, channels)
    bias : 1-D float array (channels,)
        At least a vector.
    out, out_steps, out_extent
        As for ``x``; the first element is ``out[0]``. Written.
    pad : tuple of two int
        Cells before the input.
    stride : int
        1 or 2.
    back : bool
        Whether ``x`` is the output's gradient, and ``out`` the input's, with a stride of 2.
    columns : int
        So many columns of the output are made for all channels before the next ones.
    lead : int
        The channel where the second vector begins, at most ``lanes``.
    images, pairs : tuple of two int
        From and up to which one; backward-input counts pairs in the padded input.
    """
    lanes = VECTOR_BYTES // x.itemsize
    channels = bias.size
    blocks = channel_blocks(channels, lanes, lead)
    lines_read = 2 if back else (LINES - 1) * stride + TAPS
    new_lines, vectors = (1, 1) if back else (LINES * stride, LINES * stride * stride)
    for image in range(images[0], images[1]):
        for pair in range(pairs[0], pairs[1]):
            x_line = pair - 1 if back else pair * new_lines - pad[0]
            out_line = LINES * pair - pad[0] if back else LINES * pair
            x_lines = (-x_line, x_extent[0] - x_line)
            out_lines = (-out_line, out_extent[0] - out_line)
            x_begin = first_x + image * x_steps[0] + x_line * x_steps[1]
            out_begin = image * out_steps[0] + out_line * out_steps[1]
            for first in range(0, out_extent[1], columns):
                x_first, out_first, from_x, to_x, from_out, to_out, steps, low, high = strip_columns(
                    first, min(first + columns, out_extent[1]), x_extent[1], pad[1], stride,
                    back, False,
                )  # fmt: skip
                x_here, out_here = x_begin + x_first * x_steps[2], out_begin + out_first * out_steps[2]
                x_next = x_begin + lines_read * x_steps[1] + max(0, x_first) * x_steps[2]
                out_next = out_begin + LINES * out_steps[1] + max(0, out_first) * out_steps[2]
                for v in range(blocks):
                    c = first_channel(v, channels, lanes, lead)
                    x_place = (x_here + c, x_steps[1], x_steps[2])
                    out_place = (out_here + c, out_steps[1], out_steps[2])
                    ahead = (x_next + c * steps * vectors, out_next + c * steps * LINES * (2 if back else 1))
                    if back:
                        correlate_strip(
                            x, x_place, x_lines, (from_x, to_x), weights, (c, channels), bias, c, out,
                            out_place, out_lines, (from_out, to_out), steps, (low, high), ahead, 2, 1,
                        )  # fmt: skip
                    elif stride == 2:
                        correlate_strip(
                            x, x_place, x_lines, (from_x, to_x), weights, (c, channels), bias, c, out,
                            out_place, out_lines, (from_out, to_out), steps, (low, high), ahead, 2, 0,
                        )  # fmt: skip
                    else:
                        correlate_strip(
                            x, x_place, x_lines, (from_x, to_x), weights, (c, channels), bias, c, out,
                            out_place, out_lines, (from_out, to_out), steps, (low, high), ahead, 1, 0,
                        )  # fmt: skip


@jit
def sum_strips(
    x, first_x, x_steps, x_extent, dy, first_dy, dy_steps, dy_extent, pad, stride, columns, lead, images,
    pairs, result,
):  # fmt: skip
    """The weight's gradient, summed over some pairs of lines of some images.

    Parameters
    ----------
    dy, first_dy, dy_steps, dy_extent
        As for ``x``.
    result : 1-D float array (taps, channels)
        Written.

    The other parameters are those of `correlate_strips`.
    """
    lanes = VECTOR_BYTES // x.itemsize
    channels = result.size // (TAPS * TAPS)
    row = TAPS * TAPS * lanes
    blocks = channel_blocks(channels, lanes, lead)
    sums = np.zeros(blocks * row, x.dtype)
    lines_read = (LINES - 1) * stride + TAPS
    for image in range(images[0], images[1]):
        for pair in range(pairs[0], pairs[1]):
            dy_line = LINES * pair
            x_line = dy_line * stride - pad[0]
            x_lines = (-x_line, x_extent[0] - x_line)
            x_begin = first_x + image * x_steps[0] + x_line * x_steps[1]
            dy_begin = first_dy + image * dy_steps[0] + dy_line * dy_steps[1]
            for first in range(0, dy_extent[1], columns):
                x_first, dy_first, from_x, to_x, from_dy, to_dy, steps, low, high = strip_columns(
                    first, min(first + columns, dy_extent[1]), x_extent[1], pad[1], stride,
                    False, True,
                )  # fmt: skip
                x_here, dy_here = x_begin + x_first * x_steps[2], dy_begin + dy_first * dy_steps[2]
                x_next = x_begin + lines_read * x_steps[1] + max(0, x_first) * x_steps[2]
                dy_next = dy_begin + LINES * dy_steps[1] + max(0, dy_first) * dy_steps[2]
                for v in range(blocks):
                    c = first_channel(v, channels, lanes, lead)
                    x_place = (x_here + c, x_steps[1], x_steps[2])
                    dy_place = (dy_here + c, dy_steps[1], dy_steps[2])
                    ahead = (x_next + c * steps * LINES * stride * stride, dy_next + c * steps * LINES)
                    place = v * row
                    if dy_line + 1 == dy_extent[0]:
                        if stride == 2:
                            sum_strip(
                                x, x_place, x_lines, (from_x, to_x), dy, dy_place, (from_dy, to_dy), sums,
                                place, steps, (low, high), ahead, 2, 1,
                            )  # fmt: skip
                        else:
                            sum_strip(
                                x, x_place, x_lines, (from_x, to_x), dy, dy_place, (from_dy, to_dy), sums,
                                place, steps, (low, high), ahead, 1, 1,
                            )  # fmt: skip
                    elif stride == 2:
                        sum_strip(
                            x, x_place, x_lines, (from_x, to_x), dy, dy_place, (from_dy, to_dy), sums,
                            place, steps, (low, high), ahead, 2, 2,
                        )  # fmt: skip
                    else:
                        sum_strip(
                            x, x_place, x_lines, (from_x, to_x), dy, dy_place, (from_dy, to_dy), sums,
                            place, steps, (low, high), ahead, 1, 2,
                        )  # fmt: skip
    for v in range(blocks):
        c = first_channel(v, channels, lanes, lead)
        for tap in range(TAPS * TAPS):
            store(result, tap * channels + c, load(sums, v * row + tap * lanes))
