"""1x1 convolution with the channels first: a plain product of weights and pixels, vectors along pixels.

    y[k, p] = sum over c of w[k, c] * x[c, p]

Pixels are counted through the whole batch, so that small planes fill vectors too. Some pixels of some
channels are packed into panels and meet all filters; a panel inside one image is written in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastconv.kernels.jit import inner, jit
from fastconv.kernels.simd import load, load_some, prefetch, spread, store, store_some
from fastconv.kernels.tile import PANEL, ROWS, Panel, Prefetch, Rows, Runs, multiply_rows
from fastconv.kernels.vectors import VECTOR_BYTES


class Pixels(NamedTuple):
    """Where the pixels of a group lie in one-dimensional memory; strides are in elements."""

    first: int  # the group's first channel of the first image
    image_stride: int
    channel_stride: int
    row_stride: int
    pixel_stride: int
    spread: bool  # whether there are other pixels, or rows, between them
    plane: int  # pixels of an image
    columns: int  # pixels of a row


class Product(NamedTuple):
    """How the product of a group is cut."""

    channels: int
    first_filter: int
    stop_filter: int
    first_pixel: int  # counted through the batch
    stop_pixel: int
    chunk: int  # pixels that are packed at a time, in whole panels
    steps: int  # channels that one sum runs over
    ahead: int  # as in `pack_whole_panels`; with 0 `pack_pixels` packs


class Scratch(NamedTuple):
    """Packed pixels (panels of a chunk, steps, `PANEL` vectors), and results (filters, `PANEL` vectors)."""

    packed: Any
    results: Any


@inner
def run_of(pixels, pixel, left):
    """Where a pixel lies in a channel, and how many of the next ``left`` lie one behind the other."""
    image, rest = divmod(pixel, pixels.plane)
    row, column = divmod(rest, pixels.columns)
    place = pixels.first + image * pixels.image_stride
    place += row * pixels.row_stride + column * pixels.pixel_stride
    return place, min(left, pixels.columns - column if pixels.spread else pixels.plane - rest)


@inner
def width_of_panel(left, lanes):
    """Pixels of a panel, in whole vectors: the last one has no more than are ``left``."""
    return min(PANEL, (left + lanes - 1) // lanes) * lanes


@inner
def pack_pixels(x, source, first_pixel, stop_pixel, first_channel, channels, packed):
    """Some channels of some pixels as panels (panel, channels, `PANEL` vectors, or fewer in the last).

    Parameters
    ----------
    x : 1-D float array
    source : Pixels
    first_pixel, stop_pixel : int
        From and up to which pixel, counted through the batch.
    first_channel, channels : int
    packed : 1-D float array
        Written; the last vector's lanes behind the last pixel are zero.
    """
    lanes = VECTOR_BYTES // x.itemsize
    width = PANEL * lanes
    done = 0
    total = stop_pixel - first_pixel
    while done < total:
        panel, column = divmod(done, width)
        left = min(total - done, width - column)
        begin, count = run_of(source, first_pixel + done, left)
        begin += first_channel * source.channel_stride
        target, step = panel * channels * width + column, width_of_panel(total - panel * width, lanes)
        for c in range(channels):
            read, written = begin + c * source.channel_stride, target + c * step
            if source.spread:
                for i in range(count):
                    packed[max(0, written + i)] = x[max(0, read + i * source.pixel_stride)]
            elif count == width:
                for i in range(0, width, lanes):
                    store(packed, written + i, load(x, read + i))
            else:
                for i in range(0, count, lanes):
                    some = count - i
                    store_some(packed, written + i, load_some(x, read + i, some), some)
        done += count
    # What memory held before may be denormal numbers, which are multiplied a hundred times as slowly.
    empty = -total % lanes
    panel, column = divmod(total, width)
    target, step = panel * channels * width + column, width_of_panel(total - panel * width, lanes)
    for c in range(channels if empty > 0 else 0):
        store_some(packed, target + c * step, spread(packed.dtype.type(0)), empty)


@inner
def pack_whole_panels(x, source, first_pixel, stop_pixel, first_channel, channels, ahead, packed):
    """As `pack_pixels`, of pixels that are not spread: all panels of an image at once, channel by channel.

    The row of a channel is prefetched when the one ``ahead`` channels before it is copied.
    """
    lanes = VECTOR_BYTES // x.itemsize
    width = PANEL * lanes
    done = 0
    total = stop_pixel - first_pixel
    while done < total:
        begin, count = run_of(source, first_pixel + done, total - done)
        begin += first_channel * source.channel_stride
        target = done * channels
        whole = count // width * width
        if whole == 0:
            some = min(total - done, width)
            pixel = first_pixel + done
            pack_pixels(x, source, pixel, pixel + some, first_channel, channels, packed[target:])
            done += some
            continue
        for c in range(channels):
            read, written = begin + c * source.channel_stride, target + c * width
            for i in range(0, whole, width):
                for j in range(i, i + width, lanes):
                    prefetch(x, min(x.size - 1, read + ahead * source.channel_stride + j), 0)
                    store(packed, written + i * channels + j - i, load(x, read + j))
        done += whole


@inner
def unpack_pixels(results, first_result, filters, y, target, first_channel, first_pixel, stop_pixel):
    """Copy one panel of results (filters, `PANEL` vectors) to where its pixels belong."""
    lanes = VECTOR_BYTES // y.itemsize
    width = PANEL * lanes
    done = 0
    total = stop_pixel - first_pixel
    while done < total:
        begin, count = run_of(target, first_pixel + done, total - done)
        begin += first_channel * target.channel_stride
        for k in range(filters):
            written, read = begin + k * target.channel_stride, first_result + k * width + done
            if target.spread:
                for i in range(count):
                    y[max(0, written + i * target.pixel_stride)] = results[max(0, read + i)]
            else:
                for i in range(0, count, lanes):
                    some = count - i
                    store_some(y, written + i, load_some(results, read + i, some), some)
        done += count


@jit
def convolve_pixels(x, source, w, bias, y, target, product, scratch):
    """Convolve some pixels of one group, for some of its filters.

    Parameters
    ----------
    x, y : 1-D float array
    source, target : Pixels
    w : 1-D float array (filters, channels)
    bias : 1-D float array
        `PANEL` vectors for each filter, or only once where it is zero.
    product : Product
        With nothing prefetched as pixels are packed, what is packed next is prefetched while tiles run.
    scratch : Scratch
    """
    source, target, product, scratch = Pixels(*source), Pixels(*target), Product(*product), Scratch(*scratch)
    packed, channels, chunk, ahead = scratch.packed, product.channels, product.chunk, product.ahead
    first_filter, count = product.first_filter, product.stop_filter - product.first_filter
    lanes = VECTOR_BYTES // x.itemsize
    width = PANEL * lanes
    a_rows, y_rows, result_rows, bias_rows = (
        np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64),
        np.zeros(count, np.int64),
    )  # fmt: skip
    for k in range(count):
        a_rows[k], y_rows[k] = (first_filter + k) * channels, k * target.channel_stride
        result_rows[k] = k * width
        if bias.size > width:
            bias_rows[k] = (first_filter + k) * width
    a_run, b_run = np.zeros(1, np.int64), np.zeros(1, np.int64)
    a = Rows(w, a_rows, 0)
    # Results of panels that are not written in place wait here for their sums.
    waiting = scratch.results.size // (chunk // width)
    for first in range(product.first_pixel, product.stop_pixel, chunk):
        stop = min(product.stop_pixel, first + chunk)
        for channel in range(0, channels, product.steps):
            some = min(product.steps, channels - channel)
            if ahead > 0:
                pack_whole_panels(x, source, first, stop, channel, some, ahead, packed)
            else:
                pack_pixels(x, source, first, stop, channel, some, packed)
            a_run[0] = channel
            runs = Runs(a_run, b_run, 0, 1, some)
            # What is packed next: further channels, or further pixels.
            next_pixel, next_channel = (first, channel + some) if channel + some < channels else (stop, 0)
            place, _ = run_of(source, next_pixel, 1)
            upcoming, fetched = min(x.size - 1, place + next_channel * source.channel_stride), 0
            for panel in range((stop - first + width - 1) // width):
                pixel = first + panel * width
                inside = not target.spread and pixel + width <= stop
                inside = inside and pixel % target.plane + width <= target.plane
                b = Panel(packed, panel * some * width, width_of_panel(stop - pixel, lanes) // lanes)
                # (filters, pixels) += (filters, channels) @ (channels, pixels)
                c = Rows(scratch.results, result_rows, panel * waiting)
                if inside:
                    place, _ = run_of(target, pixel, 1)
                    c = Rows(y, y_rows, place + first_filter * target.channel_stride)
                # The first sum begins with the bias, the others with what is there.
                start = c if channel > 0 else Rows(bias, bias_rows, 0)
                for row in range(0, count, ROWS):
                    # Line after line of what is packed next, one of each channel, while the tiles run.
                    line, step = upcoming, 0
                    if ahead == 0 and fetched < chunk:
                        line = min(x.size - 1, upcoming + fetched * source.pixel_stride)
                        step = source.channel_stride
                        fetched += 64 // x.itemsize
                    multiply_rows(a, row, count - row, runs, b, start, c, Prefetch(x, line, step))
                if not inside and channel + some == channels:
                    unpack_pixels(
                        scratch.results, panel * waiting, count, y, target, first_filter, pixel,
                        min(stop, pixel + width),
                    )  # fmt: skip
