"""Pooling loops over windows that a table describes.

Along each spatial axis a window is the cells ``start, start + step, ... < stop`` of the unpadded input
(an int64 table of shape (output extent, 2) holds start and stop): fixed windows, clipped at padding,
and adaptive windows are the same to a kernel. Arrays have axes (batch, channels, depth, height, width).
"""

import numpy as np

from fastconv.kernels.jit import jit


@jit
def max_pool(
    x, out, indices, first_line, stop_line, depth_windows, height_windows, width_windows, steps
):  # fmt: skip
    """Maximum of every window and where it stood, for a range of output lines.

    The first maximum in row-major order wins; the first NaN is the maximum. A window without a cell
    (all padding) gives the value that ``out`` held before and index -1.

    Parameters
    ----------
    x : array (N, C, D, H, W)
    out : array (N, C, OD, OH, OW) of the same dtype
        Written where the window has a cell.
    indices : int64 array (N, C, OD, OH, OW), or of size 0 where indices are not wanted
        Written: the flat index (d*H + h)*W + w within the input plane.
    first_line, stop_line : int
        Output lines, counted as ((n*C + c)*OD + od)*OH + oh.
    depth_windows, height_windows, width_windows : int64 array (output extent, 2)
    steps : tuple of three int
        Dilation along each axis, in cells.
    """
    _, _, out_depth, out_height, out_width = out.shape
    channels = out.shape[1]
    height, width = x.shape[3:]
    for line in range(first_line, stop_line):
        ncd, oh = divmod(line, out_height)
        nc, od = divmod(ncd, out_depth)
        n, c = divmod(nc, channels)
        plane = x[n, c]
        start_d, stop_d = depth_windows[od, 0], depth_windows[od, 1]
        start_h, stop_h = height_windows[oh, 0], height_windows[oh, 1]
        for ow in range(out_width):
            start_w, stop_w = width_windows[ow, 0], width_windows[ow, 1]
            best_index = -1
            best = out[n, c, od, oh, ow]
            if start_d < stop_d and start_h < stop_h and start_w < stop_w:
                best = plane[start_d, start_h, start_w]
                best_index = (start_d * height + start_h) * width + start_w
                for d in range(start_d, stop_d, steps[0]):
                    for h in range(start_h, stop_h, steps[1]):
                        for w in range(start_w, stop_w, steps[2]):
                            value = plane[d, h, w]
                            # Larger, or the first NaN (no comparison with a NaN is true). Two selects
                            # without a branch, which random data would mispredict.
                            take = (best == best) & (not value <= best)
                            best = value if take else best
                            best_index = (d * height + h) * width + w if take else best_index
                out[n, c, od, oh, ow] = best
            if indices.size > 0:
                indices[n, c, od, oh, ow] = best_index


@jit
def max_pool_backward(grad_output, indices, grad_input, first_plane, stop_plane):
    """Route every output gradient to the input cell its maximum came from, for a range of planes.

    Windows that overlap may name one cell several times: the gradients add up, in row-major order of
    the output. An index of -1 (a window without a cell) is skipped.

    Parameters
    ----------
    grad_output : float array (N, C, OD, OH, OW)
    indices : int64 array (N, C, OD, OH, OW)
        Flat within one plane of ``grad_input``.
    grad_input : float array (N, C, D, H, W)
        Added to.
    first_plane, stop_plane : int
        Planes, counted as n*C + c; different planes never touch the same cell.

    Returns
    -------
    int
        How many indices were outside the plane (nothing is written for those).
    """
    channels, out_depth, out_height, out_width = grad_output.shape[1:]
    depth, height, width = grad_input.shape[2:]
    outside = 0
    for plane in range(first_plane, stop_plane):
        n, c = divmod(plane, channels)
        target = grad_input[n, c]
        for od in range(out_depth):
            for oh in range(out_height):
                for ow in range(out_width):
                    index = indices[n, c, od, oh, ow]
                    if 0 <= index < depth * height * width:
                        dh, w = divmod(index, width)
                        d, h = divmod(dh, height)
                        target[d, h, w] += grad_output[n, c, od, oh, ow]
                    elif index != -1:
                        outside += 1
    return outside


@jit
def max_pool_backward_ties(
    grad_output, x, grad_input, first_plane, stop_plane, depth_windows, height_windows, width_windows, steps
):
    """Route every output gradient, whole, to all cells that equal their window's maximum, for some planes.

    In a window with a NaN, these are the cells that are NaN. Gradients of windows that overlap add up, in
    row-major order of the output.

    Parameters
    ----------
    grad_output : float array (N, C, OD, OH, OW)
    x : array (N, C, D, H, W)
        What was pooled.
    grad_input : float array (N, C, D, H, W)
        Written.
    first_plane, stop_plane : int
        Planes, counted as n*C + c; different planes never touch the same cell.
    depth_windows, height_windows, width_windows, steps
        As in `max_pool`.
    """
    channels, out_depth, out_height, out_width = grad_output.shape[1:]
    for plane in range(first_plane, stop_plane):
        n, c = divmod(plane, channels)
        source, target = x[n, c], grad_input[n, c]
        target[...] = 0
        for od in range(out_depth):
            depths = range(depth_windows[od, 0], depth_windows[od, 1], steps[0])
            for oh in range(out_height):
                heights = range(height_windows[oh, 0], height_windows[oh, 1], steps[1])
                for ow in range(out_width):
                    widths = range(width_windows[ow, 0], width_windows[ow, 1], steps[2])
                    if len(depths) == 0 or len(heights) == 0 or len(widths) == 0:
                        continue
                    best = source[depths.start, heights.start, widths.start]
                    for d in depths:
                        for h in heights:
                            for w in widths:
                                value = source[d, h, w]
                                best = value if (best == best) & (not value <= best) else best
                    gradient = grad_output[n, c, od, oh, ow]
                    for d in depths:
                        for h in heights:
                            for w in widths:
                                value = source[d, h, w]
                                if value == best or (value != value and best != best):
                                    target[d, h, w] += gradient


@jit
def max_unpool(x, indices, out, first_plane, stop_plane):
    """Put every value where its index says, for a range of planes; the last of equal indices stays.

    Parameters
    ----------
    x : array (N, C, D, H, W)
    indices : int64 array (N, C, D, H, W)
        Flat within one plane of ``out``; -1 is skipped.
    out : array (N, C, OD, OH, OW)
        Written at the indices only.
    first_plane, stop_plane : int
        Planes, counted as n*C + c.

    Returns
    -------
    int
        How many indices were outside the plane (nothing is written for those).
    """
    channels, depth, height, width = x.shape[1:]
    out_depth, out_height, out_width = out.shape[2:]
    outside = 0
    for plane in range(first_plane, stop_plane):
        n, c = divmod(plane, channels)
        target = out[n, c]
        for d in range(depth):
            for h in range(height):
                for w in range(width):
                    index = indices[n, c, d, h, w]
                    if 0 <= index < out_depth * out_height * out_width:
                        dh, ow = divmod(index, out_width)
                        od, oh = divmod(dh, out_height)
                        target[od, oh, ow] = x[n, c, d, h, w]
                    elif index != -1:
                        outside += 1
    return outside


@jit
def avg_pool(
    x, out, first_line, stop_line, depth_windows, height_windows, width_windows,
    depth_counts, height_counts, width_counts,
):  # fmt: skip
    """Sum of every window, in float64, divided by its count, for a range of output lines.

    Parameters
    ----------
    x : float array (N, C, D, H, W)
    out : float array (N, C, OD, OH, OW)
        Written.
    first_line, stop_line : int
        Output lines, counted as ((n*C + c)*OD + od)*OH + oh.
    depth_windows, height_windows, width_windows : int64 array (output extent, 2)
        Start and stop of the windows (their step is 1).
    depth_counts, height_counts, width_counts : float64 array (output extent,)
        The divisor of window (od, oh, ow) is the product of its three counts.
    """
    _, channels, out_depth, out_height, out_width = out.shape
    for line in range(first_line, stop_line):
        ncd, oh = divmod(line, out_height)
        nc, od = divmod(ncd, out_depth)
        n, c = divmod(nc, channels)
        plane = x[n, c]
        for ow in range(out_width):
            total = np.float64(0.0)
            for d in range(depth_windows[od, 0], depth_windows[od, 1]):
                for h in range(height_windows[oh, 0], height_windows[oh, 1]):
                    for w in range(width_windows[ow, 0], width_windows[ow, 1]):
                        total += plane[d, h, w]
            out[n, c, od, oh, ow] = total / (depth_counts[od] * height_counts[oh] * width_counts[ow])


@jit
def avg_pool_backward(
    grad_output, grad_input, first_line, stop_line, depth_covers, height_covers, width_covers,
    depth_counts, height_counts, width_counts,
):  # fmt: skip
    """Gather, for a range of input lines, the shares of the windows that cover each cell.

    Parameters
    ----------
    grad_output : float array (N, C, OD, OH, OW)
    grad_input : float array (N, C, D, H, W)
        Written.
    first_line, stop_line : int
        Input lines, counted as ((n*C + c)*D + d)*H + h.
    depth_covers, height_covers, width_covers : int64 array (input extent, 2)
        The windows ``start <= o < stop`` that hold the cell along each axis.
    depth_counts, height_counts, width_counts : float64 array (output extent,)
        As in `avg_pool`.
    """
    _, channels, depth, height, width = grad_input.shape
    for line in range(first_line, stop_line):
        ncd, h = divmod(line, height)
        nc, d = divmod(ncd, depth)
        n, c = divmod(nc, channels)
        plane = grad_output[n, c]
        for w in range(width):
            total = np.float64(0.0)
            for od in range(depth_covers[d, 0], depth_covers[d, 1]):
                for oh in range(height_covers[h, 0], height_covers[h, 1]):
                    for ow in range(width_covers[w, 0], width_covers[w, 1]):
                        count = depth_counts[od] * height_counts[oh] * width_counts[ow]
                        total += plane[od, oh, ow] / count
            grad_input[n, c, d, h, w] = total
