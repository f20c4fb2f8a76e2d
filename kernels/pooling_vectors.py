"""Pooling a vector of windows at a time: the fast twins of the loops in `pooling`.

They take flat, contiguous arrays of float32 or float64 and do what `pooling`'s kernels of the same names do,
whose windows they read from the same tables. Channels first, the lanes of a vector are neighbouring windows
of a line, which along the width lie at one distance (``line`` holds start, stride, taps and dilation);
channels last, they are channels.
"""

import numpy as np

from fastconv.kernels.jit import jit
from fastconv.kernels.lanes import (
    ALONG_CHANNELS,
    CHANNELS,
    GATHER,
    LINE,
    UNIT,
    max_lanes,
    mean_lanes,
    sum_cells,
)
from fastconv.kernels.vectors import VECTOR_BYTES


@jit
def taps_between(start, stop, step):
    """How many cells ``start, start + step, ... < stop`` there are."""
    if step == 1:
        return max(0, stop - start)
    return max(0, (stop - start + step - 1) // step)


@jit
def whole_vector(w, line, lanes, width):
    """Whether a vector of windows along the width, the first from cell ``w`` on, needs no mask to read."""
    _, stride, taps, dilation = line
    return stride < GATHER and w >= 0 and w + (taps - 1) * dilation + lanes * stride <= width


@jit
def max_pool_lines(
    x, out, indices, first_line, stop_line, extent, output, depth_windows, height_windows, steps, line
):  # fmt: skip
    """`pooling.max_pool` of contiguous planes (N, C, D, H, W).

    Parameters
    ----------
    x, out : 1-D float array
    indices : 1-D int64 array, as long as ``out`` or empty
    first_line, stop_line : int
        Output lines, counted as ((n*C + c)*OD + od)*OH + oh.
    extent, output : tuple of three int
        (D, H, W) and (OD, OH, OW).
    depth_windows, height_windows : int64 array (output extent, 2)
    steps : tuple of two int
        Dilation along depth and height.
    line : tuple of four int
        Start of the first window along the width, stride, taps and dilation.
    """
    lanes = VECTOR_BYTES // x.itemsize
    start, stride, width_taps, dilation = line
    cells = extent[0] * extent[1] * extent[2]
    cell_steps = (steps[0] * extent[1] * extent[2], steps[1] * extent[2], dilation)
    planes, oh = divmod(first_line, output[1])
    plane, od = divmod(planes, output[0])
    for row in range(first_line, stop_line):
        d, h = depth_windows[od, 0], height_windows[oh, 0]
        taps = (
            taps_between(d, depth_windows[od, 1], steps[0]),
            taps_between(h, height_windows[oh, 1], steps[1]),
            width_taps,
        )
        cell = (d * extent[1] + h) * extent[2]
        for ow in range(0, output[2], lanes):
            w = start + ow * stride
            left = output[2] - ow
            whole = left >= lanes and taps[0] * taps[1] > 0 and whole_vector(w, line, lanes, extent[2])
            max_lanes(
                x, plane * cells, 1, cell + w, taps, cell_steps, w, dilation, extent[2], stride,
                out, indices, row * output[2] + ow, left, min(stride, GATHER), 0 if whole else 1, LINE,
            )  # fmt: skip
        oh += 1
        if oh == output[1]:
            oh = 0
            od += 1
            if od == output[0]:
                od = 0
                plane += 1


@jit
def max_pool_pixels(
    x, out, indices, first_pixel, stop_pixel, channels, extent, output, depth_windows, height_windows,
    width_windows, steps,
):  # fmt: skip
    """`pooling.max_pool` of contiguous images (N, D, H, W, C).

    Parameters
    ----------
    x, out, indices
        As in `max_pool_lines`.
    first_pixel, stop_pixel : int
        Output pixels, counted as ((n*OD + od)*OH + oh)*OW + ow.
    channels : int
    extent, output : tuple of three int
        (D, H, W) and (OD, OH, OW).
    depth_windows, height_windows, width_windows : int64 array (output extent, 2)
    steps : tuple of three int
        Dilation along each axis.
    """
    lanes = VECTOR_BYTES // x.itemsize
    cell_steps = (steps[0] * extent[1] * extent[2], steps[1] * extent[2], steps[2])
    for pixel in range(first_pixel, stop_pixel):
        lines, ow = divmod(pixel, output[2])
        planes, oh = divmod(lines, output[1])
        n, od = divmod(planes, output[0])
        d, h, w = depth_windows[od, 0], height_windows[oh, 0], width_windows[ow, 0]
        taps = (
            taps_between(d, depth_windows[od, 1], steps[0]),
            taps_between(h, height_windows[oh, 1], steps[1]),
            taps_between(w, width_windows[ow, 1], steps[2]),
        )
        cell = (d * extent[1] + h) * extent[2] + w
        image = n * extent[0] * extent[1] * extent[2] * channels
        for c in range(0, channels, lanes):
            left = channels - c
            whole = left >= lanes and taps[0] * taps[1] * taps[2] > 0
            max_lanes(
                x, image + c, channels, cell, taps, cell_steps, c, 0, channels, 0,
                out, indices, pixel * channels + c, left, CHANNELS, 0 if whole else 1, ALONG_CHANNELS,
            )  # fmt: skip


@jit
def max_pool_backward_planes(grad_output, indices, grad_input, first_plane, stop_plane, windows, cells):
    """`pooling.max_pool_backward` of contiguous planes, into an array that need not be zero.

    A plane is zeroed just before it is added to, while it is in a near cache: writing all zeros first costs
    another trip to memory.

    Parameters
    ----------
    grad_output : 1-D float array
    indices : 1-D int64 array
    grad_input : 1-D float array
        Written.
    first_plane, stop_plane : int
    windows, cells : int
        Extents of a plane of ``grad_output`` and of ``grad_input``.

    Returns
    -------
    int
        How many indices were outside the plane (nothing is written for those).
    """
    outside = 0
    for plane in range(first_plane, stop_plane):
        target = grad_input[plane * cells : (plane + 1) * cells]
        for i in range(cells):
            target[i] = 0
        first = plane * windows
        for i in range(first, first + windows):
            index = indices[i]
            if np.uint64(index) < np.uint64(cells):  # no negative one either
                target[max(0, index)] += grad_output[i]
            elif index != -1:
                outside += 1
    return outside


@jit
def max_pool_backward_pixels(
    grad_output, indices, grad_input, first_block, stop_block, block, channels, windows, cells
):  # fmt: skip
    """`pooling.max_pool_backward` of contiguous images (N, D, H, W, C), into an array that need not be zero.

    Parameters
    ----------
    grad_output, indices, grad_input
        As in `max_pool_backward_planes`.
    first_block, stop_block : int
        Blocks of ``block`` channels of an image, counted as n*blocks + i.
    block, channels : int
    windows, cells : int
        Pixels of an image of ``grad_output`` and of ``grad_input``.

    Returns
    -------
    int
        How many indices were outside the plane (nothing is written for those).
    """
    outside = 0
    blocks = (channels + block - 1) // block
    for i in range(first_block, stop_block):
        n, first = divmod(i, blocks)
        first *= block
        stop = min(channels, first + block)
        image = grad_input[n * cells * channels : (n + 1) * cells * channels]
        for cell in range(cells):
            for c in range(first, stop):
                image[max(0, cell * channels + c)] = 0
        for window in range(n * windows, (n + 1) * windows):
            for c in range(first, stop):
                index = indices[max(0, window * channels + c)]
                if np.uint64(index) < np.uint64(cells):
                    image[max(0, index * channels + c)] += grad_output[max(0, window * channels + c)]
                elif index != -1:
                    outside += 1
    return outside


@jit
def avg_pool_lines(
    x, out, first_line, stop_line, extent, output, depth_windows, height_windows,
    depth_factors, height_factors, width_factors, line,
):  # fmt: skip
    """`pooling.avg_pool` of contiguous planes (N, C, D, H, W), by factors instead of counts.

    Parameters
    ----------
    x, out, first_line, stop_line, extent, output, depth_windows, height_windows, line
        As in `max_pool_lines`.
    depth_factors, height_factors, width_factors : float64 array (output extent,)
        The sum of window (od, oh, ow) is multiplied by its three factors.
    """
    lanes = VECTOR_BYTES // x.itemsize
    start, stride, width_taps, dilation = line
    cells = extent[0] * extent[1] * extent[2]
    cell_steps = (extent[1] * extent[2], extent[2], dilation)
    planes, oh = divmod(first_line, output[1])
    plane, od = divmod(planes, output[0])
    for row in range(first_line, stop_line):
        d, h = depth_windows[od, 0], height_windows[oh, 0]
        taps = (max(0, depth_windows[od, 1] - d), max(0, height_windows[oh, 1] - h), width_taps)
        cell = (d * extent[1] + h) * extent[2]
        factor = depth_factors[od] * height_factors[oh]
        for ow in range(0, output[2], lanes):
            w = start + ow * stride
            left = output[2] - ow
            whole = left >= lanes and whole_vector(w, line, lanes, extent[2])
            mean_lanes(
                x, plane * cells, 1, cell + w, taps, cell_steps, w, dilation, extent[2], stride,
                factor, width_factors, ow, out, row * output[2] + ow, left, min(stride, GATHER),
                0 if whole else 1, LINE,
            )  # fmt: skip
        oh += 1
        if oh == output[1]:
            oh = 0
            od += 1
            if od == output[0]:
                od = 0
                plane += 1


@jit
def avg_pool_pixels(
    x, out, first_pixel, stop_pixel, channels, extent, output, depth_windows, height_windows, width_windows,
    depth_factors, height_factors, width_factors,
):  # fmt: skip
    """`pooling.avg_pool` of contiguous images (N, D, H, W, C), by factors instead of counts.

    Parameters
    ----------
    x, out, first_pixel, stop_pixel, channels, extent, output, depth_windows, height_windows, width_windows
        As in `max_pool_pixels`.
    depth_factors, height_factors, width_factors
        As in `avg_pool_lines`.
    """
    lanes = VECTOR_BYTES // x.itemsize
    cell_steps = (extent[1] * extent[2], extent[2], 1)
    for pixel in range(first_pixel, stop_pixel):
        lines, ow = divmod(pixel, output[2])
        planes, oh = divmod(lines, output[1])
        n, od = divmod(planes, output[0])
        d, h, w = depth_windows[od, 0], height_windows[oh, 0], width_windows[ow, 0]
        taps = (
            max(0, depth_windows[od, 1] - d),
            max(0, height_windows[oh, 1] - h),
            max(0, width_windows[ow, 1] - w),
        )
        cell = (d * extent[1] + h) * extent[2] + w
        image = n * extent[0] * extent[1] * extent[2] * channels
        factor = depth_factors[od] * height_factors[oh] * width_factors[ow]
        for c in range(0, channels, lanes):
            left = channels - c
            mean_lanes(
                x, image + c, channels, cell, taps, cell_steps, c, 0, channels, 0,
                factor, width_factors, 0, out, pixel * channels + c, left, CHANNELS,
                0 if left >= lanes else 1, ALONG_CHANNELS,
            )  # fmt: skip


@jit
def avg_pool_backward_pixels(
    grad_output, grad_input, first_pixel, stop_pixel, channels, extent, output,
    depth_covers, height_covers, width_covers, share,
):  # fmt: skip
    """`pooling.avg_pool_backward` of contiguous images (N, D, H, W, C), where every count is ``1 / share``.

    The windows that cover a cell of ``grad_input`` are a window of ``grad_output``: see `avg_pool_pixels`.

    Parameters
    ----------
    grad_output, grad_input : 1-D float array
    first_pixel, stop_pixel : int
        Pixels of ``grad_input``, counted as ((n*D + d)*H + h)*W + w.
    channels : int
    extent, output : tuple of three int
        (D, H, W) of ``grad_input`` and (OD, OH, OW) of ``grad_output``.
    depth_covers, height_covers, width_covers : int64 array (extent, 2)
    share : float
        Factor of every gradient.
    """
    avg_pool_pixels(
        grad_output, grad_input, first_pixel, stop_pixel, channels, output, extent,
        depth_covers, height_covers, width_covers,
        np.full(extent[0], share), np.ones(extent[1]), np.ones(extent[2]),
    )  # fmt: skip


@jit
def avg_pool_backward_lines(
    grad_output, grad_input, first_line, stop_line, extent, output, depth_covers, height_covers,
    share, line,
):  # fmt: skip
    """`pooling.avg_pool_backward` of contiguous planes, where every count is ``1 / share``.

    The windows that cover a cell are a window of ``grad_output``. Cells a stride apart lie under neighbouring
    windows: the cells of each remainder of the stride, a *phase*, are sums at a stride of 1.

    Parameters
    ----------
    grad_output, grad_input : 1-D float array
    first_line, stop_line : int
        Lines of ``grad_input``, counted as ((n*C + c)*D + d)*H + h.
    extent, output : tuple of three int
        (D, H, W) of ``grad_input`` and (OD, OH, OW) of ``grad_output``.
    depth_covers, height_covers : int64 array (extent, 2)
    share : float
        Factor of every gradient.
    line
        As in `max_pool_lines`; the dilation is 1.
    """
    start, stride, kernel, _ = line
    if stride == 1:
        avg_pool_lines(
            grad_output, grad_input, first_line, stop_line, output, extent, depth_covers, height_covers,
            np.full(extent[0], share), np.ones(extent[1]), np.ones(extent[2]),
            (-start - kernel + 1, 1, kernel, 1),
        )  # fmt: skip
        return
    lanes = VECTOR_BYTES // grad_input.itemsize
    cells = output[0] * output[1] * output[2]
    cell_steps = (output[1] * output[2], output[2], 1)
    phase_cells = (extent[2] + stride - 1) // stride
    phases = np.empty((stride, phase_cells), grad_input.dtype)
    flat = phases.reshape(phases.size)
    ones = np.ones(phase_cells)
    planes, h = divmod(first_line, extent[1])
    plane, d = divmod(planes, extent[0])
    for row in range(first_line, stop_line):
        od, oh = depth_covers[d, 0], height_covers[h, 0]
        for a in range(stride):
            last, tap = divmod(a - start, stride)  # the last window over cell a, and its tap there
            width_taps = max(0, kernel - tap + stride - 1) // stride
            taps = (max(0, depth_covers[d, 1] - od), max(0, height_covers[h, 1] - oh), width_taps)
            for j in range(0, phase_cells, lanes):
                ow = last - width_taps + 1 + j
                left = phase_cells - j
                whole = left >= lanes and ow >= 0 and ow + width_taps - 1 + lanes <= output[2]
                mean_lanes(
                    grad_output, plane * cells, 1, (od * output[1] + oh) * output[2] + ow, taps, cell_steps,
                    ow, 1, output[2], 1, share, ones, j, flat, a * phase_cells + j, left, UNIT,
                    0 if whole else 1, LINE,
                )  # fmt: skip
        interleave(phases, grad_input[row * extent[2] : (row + 1) * extent[2]])
        h += 1
        if h == extent[1]:
            h = 0
            d += 1
            if d == extent[0]:
                d = 0
                plane += 1


@jit
def interleave(phases, line):
    """``line[j*stride + a] = phases[a, j]``"""
    stride = phases.shape[0]
    if stride == 2:
        pairs = len(line) // 2
        for j in range(pairs):
            line[2 * j] = phases[0, j]
            line[2 * j + 1] = phases[1, j]
        if len(line) > 2 * pairs:
            line[2 * pairs] = phases[0, pairs]
        return
    for a in range(stride):
        for j in range((len(line) - a + stride - 1) // stride):
            line[max(0, j * stride + a)] = phases[a, j]


@jit
def mean_planes(x, out, first_plane, stop_plane, cells, factor):
    """The sum of each plane's ``cells``, in float64, times ``factor``.

    Parameters
    ----------
    x : 1-D float array
        Contiguous planes.
    out : 1-D float array
        Written, one number a plane.
    first_plane, stop_plane, cells : int
    factor : float
    """
    for plane in range(first_plane, stop_plane):
        out[plane] = sum_cells(x, plane * cells, cells) * factor


@jit
def fill_planes(values, out, first_plane, stop_plane, cells, factor):
    """Every cell of a plane becomes the plane's value times ``factor``: the gradient of `mean_planes`."""
    for plane in range(first_plane, stop_plane):
        value = out.dtype.type(values[plane] * factor)
        for i in range(plane * cells, (plane + 1) * cells):
            out[max(0, i)] = value
