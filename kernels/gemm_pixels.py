"""1x1 convolution with the channels first: a plain product of weights and pixels, vectors along pixels.

    y[k, p] = sum over c of w[k, c] * x[c, p]

Pixels are counted through the whole batch, so that small planes fill vectors too. Some pixels of some
channels are packed into panels and meet all filters; a panel inside one image is written in place.
"""

import numpy as np

from fastconv.kernels.jit import inner, jit
from fastconv.kernels.simd import load, load_some, prefetch, spread, store, store_some
from fastconv.kernels.tile import PANEL, ROWS, Panel, Prefetch, Rows, Runs, multiply_rows
from fastconv.kernels.vectors import VECTOR_BYTES


@inner
def piece_of(pixel, left, plane, across, whole):
    """Image, line and column of a pixel, and how many of the next ``left`` lie one behind the other."""
    image, cell = divmod(pixel, plane)
    line, column = divmod(cell, across)
    return image, line, column, min(left, plane - cell if whole else across - column)


@inner
def panel_width(left, lanes):
    """Pixels of a panel, in whole vectors: the last one has no more than are ``left``."""
    return min(PANEL, (left + lanes - 1) // lanes) * lanes


@inner
def pack_pixels(x, source, stride, pixels, plane, across, first_channel, channels, packed):
    """Some channels of some pixels as panels (panel, channels, `PANEL` vectors, or fewer in the last).

    Parameters
    ----------
    x : 1-D float array
    source : tuple of five int
        Where the group's first channel begins; from image to image, channel to channel and line to line; and
        from one pixel to the next.
    stride : bool
        Whether pixels or lines of ``x`` are left out.
    pixels : tuple of two int
        From and up to which pixel, counted through the batch.
    plane, across : int
        Pixels of an image and of a line.
    first_channel, channels : int
    packed : 1-D float array
        Written; the last vector's lanes behind the last pixel are zero.
    """
    lanes = VECTOR_BYTES // x.itemsize
    width = PANEL * lanes
    done = 0
    total = pixels[1] - pixels[0]
    while done < total:
        panel, column = divmod(done, width)
        left = min(total - done, width - column)
        image, line, cell, count = piece_of(pixels[0] + done, left, plane, across, not stride)
        begin = (
            source[0] + image * source[1] + first_channel * source[2] + line * source[3] + cell * source[4]
        )
        target, step = panel * channels * width + column, panel_width(total - panel * width, lanes)
        for c in range(channels):
            read, written = begin + c * source[2], target + c * step
            if stride:
                for i in range(count):
                    packed[max(0, written + i)] = x[max(0, read + i * source[4])]
            elif count == width:
                for i in range(0, width, lanes):
                    store(packed, written + i, load(x, read + i))
            else:
                for i in range(0, count, lanes):
                    some = count - i
                    store_some(packed, written + i, load_some(x, read + i, some), some)
        done += count
    # What memory held before may be denormal numbers, which are multiplied a hundred times as slowly: 119 and
    # 4 GF/s on one image of 512x7 -> 2048.
    empty = -total % lanes
    panel, column = divmod(total, width)
    target, step = panel * channels * width + column, panel_width(total - panel * width, lanes)
    for c in range(channels if empty > 0 else 0):
        store_some(packed, target + c * step, spread(packed.dtype.type(0)), empty)


@inner
def pack_runs(x, source, pixels, plane, first_channel, channels, ahead, packed):
    """As `pack_pixels` without a stride, all panels of an image at once, a channel at a time.

    The line of a channel is asked for when the one ``ahead`` channels before it is copied.
    """
    lanes = VECTOR_BYTES // x.itemsize
    width = PANEL * lanes
    done = 0
    total = pixels[1] - pixels[0]
    while done < total:
        image, cell = divmod(pixels[0] + done, plane)
        target = done * channels
        run = min(total - done, plane - cell) // width * width
        if run == 0:
            some = min(total - done, width)
            pack_pixels(
                x, source, False, (pixels[0] + done, pixels[0] + done + some), plane, plane, first_channel,
                channels, packed[target:],
            )  # fmt: skip
            done += some
            continue
        begin = source[0] + image * source[1] + first_channel * source[2] + cell
        for c in range(channels):
            read, written = begin + c * source[2], target + c * width
            for i in range(0, run, width):
                for j in range(i, i + width, lanes):
                    prefetch(x, min(x.size - 1, read + ahead * source[2] + j), 0)
                    store(packed, written + i * channels + j - i, load(x, read + j))
        done += run


@inner
def leave_pixels(cells, filters, y, target, stride, pixels, plane, across):
    """Copy one panel of results (filters, `PANEL` vectors) to where its pixels belong."""
    lanes = VECTOR_BYTES // y.itemsize
    width = PANEL * lanes
    done = 0
    total = pixels[1] - pixels[0]
    while done < total:
        image, line, cell, count = piece_of(pixels[0] + done, total - done, plane, across, not stride)
        begin = target[0] + image * target[1] + line * target[3] + cell * target[4]
        for k in range(filters):
            written, read = begin + k * target[2], k * width + done
            if stride:
                for i in range(count):
                    y[max(0, written + i * target[4])] = cells[max(0, read + i)]
            else:
                for i in range(0, count, lanes):
                    some = count - i
                    store_some(y, written + i, load_some(cells, read + i, some), some)
        done += count


@jit
def convolve_pixels(
    x, source, sparse, w, bias, y, target, spread_out, plane, across, channels, filters, pixels, chunk, steps,
    ahead, packed, cells,
):  # fmt: skip
    """Convolve some pixels of one group, for some of its filters.

    Parameters
    ----------
    x, y : 1-D float array
    source, target : tuple of five int
        As in `pack_pixels`.
    sparse, spread_out : bool
        Whether pixels or lines of ``x``, and of ``y``, are left out.
    w : 1-D float array (filters, channels)
    bias : 1-D float array
        `PANEL` vectors for each filter, or only once where it is zero.
    plane, across, channels : int
    filters : tuple of two int
    pixels : tuple of two int
        From and up to which pixel, counted through the batch.
    chunk : int
        So many pixels, in whole panels, are packed at a time.
    steps : int
        So many channels, which one sum runs over.
    ahead : int
        As in `pack_runs`. With 0 `pack_pixels` packs, and what is packed next is asked for while tiles run.
    packed, cells : 1-D float array
        Scratch: (panels of a chunk, steps, `PANEL` vectors) and (filters, `PANEL` vectors).
    """
    lanes = VECTOR_BYTES // x.itemsize
    width = PANEL * lanes
    count = filters[1] - filters[0]
    a_rows, y_rows, cell_rows, bias_rows = (
        np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64),
        np.zeros(count, np.int64),
    )  # fmt: skip
    for k in range(count):
        a_rows[k], y_rows[k], cell_rows[k] = (filters[0] + k) * channels, k * target[2], k * width
        if bias.size > width:
            bias_rows[k] = (filters[0] + k) * width
    a_run, b_run = np.zeros(1, np.int64), np.zeros(1, np.int64)
    # Results of panels that are not written in place wait here for their sums.
    waiting = cells.size // (chunk // width)
    begin = target[0] + filters[0] * target[2]
    for first in range(pixels[0], pixels[1], chunk):
        stop = min(pixels[1], first + chunk)
        for channel in range(0, channels, steps):
            some = min(steps, channels - channel)
            if ahead > 0:
                pack_runs(x, source, (first, stop), plane, channel, some, ahead, packed)
            else:
                pack_pixels(x, source, sparse, (first, stop), plane, across, channel, some, packed)
            a_run[0] = channel
            following, asked = (first, 0) if channel + some < channels else (stop, 0)
            image, line, column, _ = piece_of(following, 1, plane, across, not sparse)
            next_channel = channel + some if following == first else 0
            upcoming = source[0] + image * source[1] + next_channel * source[2]
            upcoming = min(x.size - 1, upcoming + line * source[3] + column * source[4])
            for panel in range((stop - first + width - 1) // width):
                pixel = first + panel * width
                image, cell = divmod(pixel, plane)
                inside = not spread_out and cell + width <= plane and pixel + width <= stop
                b = panel * some * width
                vectors = panel_width(stop - pixel, lanes) // lanes
                # (filters, pixels) += (filters, channels) @ (channels, pixels)
                out, first_out, out_rows = cells, panel * waiting, cell_rows
                if inside:
                    out, first_out, out_rows = y, begin + image * target[1] + cell, y_rows
                # The first sum begins with the bias, the others with what is there.
                begun, begun_rows = bias, bias_rows
                if channel > 0:
                    begun, begun_rows = out[first_out:], out_rows
                for row in range(0, count, ROWS):
                    # Line after line of what is packed next, one of each channel, while the tiles run.
                    wanted, wanted_step = upcoming, 0
                    if ahead == 0 and asked < chunk:
                        wanted, wanted_step = min(x.size - 1, upcoming + asked * source[4]), source[2]
                        asked += 64 // x.itemsize
                    multiply_rows(
                        Rows(w, a_rows, 0), row, count - row, Runs(a_run, b_run, 0, 1, some),
                        Panel(packed, b, vectors), Rows(begun, begun_rows, 0),
                        Rows(out, out_rows, first_out), Prefetch(x, wanted, wanted_step),
                    )  # fmt: skip
                if not inside and channel + some == channels:
                    leave_pixels(
                        cells[panel * waiting :], count, y, (begin, *target[1:]), spread_out,
                        (pixel, min(stop, pixel + width)), plane, across,
                    )  # fmt: skip
