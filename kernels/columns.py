"""im2col and its adjoint: the column matrix and the scatter-add that undoes it.

The column matrix of an image has a row for every tap (c, t, r, s) of a kernel that covers all channels
and a column for every output cell p, counted in row-major order over (depth, height, width):

    columns[(c, t, r, s), p] = x[c, od*stride + t*dilation - padding, oh*... , ow*...]

with zeros where that cell is padding. Kernels make or read any rectangle of it, so that the whole
matrix never has to exist.
"""

from fastconv.kernels.jit import inner, jit


@inner
def tap_offset(row, kernel, padding, dilation):
    """A row of the column matrix as its channel and the (depth, height, width) shift of its tap, in cells."""
    channel, tap = divmod(row, kernel[0] * kernel[1] * kernel[2])
    tr, s = divmod(tap, kernel[2])
    t, r = divmod(tr, kernel[1])
    dd = t * dilation[0] - padding[0]
    dh = r * dilation[1] - padding[1]
    dw = s * dilation[2] - padding[2]
    return channel, dd, dh, dw


@inner
def inside_range(shift, extent, output, stride):
    """The range of output cells along one axis for which ``o*stride + shift`` lies in the image."""
    left = max(0, -(shift // stride))
    right = min(output, (extent - 1 - shift) // stride + 1)
    return left, max(left, right)


@jit
def im2col(
    x, columns, first_image, first_row, first_pixel, kernel, output, stride, padding, dilation
):  # fmt: skip
    """Fill ``columns`` with one rectangle of the column matrices of some images.

    Parameters
    ----------
    x : float array (N, C, D, H, W)
    columns : float array (rows, images, pixels)
        Written: its extents say how many images, rows and output cells are wanted.
    first_image, first_row, first_pixel : int
        The rectangle's corner; a row is (c * T*R*S + tap), a pixel a flat index of output cells.
    kernel, output, stride, padding, dilation : tuple of three int
        (depth, height, width) each, in cells; ``padding`` counts those before the image.
    """
    depth, height, width = x.shape[2:]
    rows, images, pixels = columns.shape
    first_line, first_ow = divmod(first_pixel, output[2])
    first_od, first_oh = divmod(first_line, output[1])
    for row in range(rows):
        channel, dd, dh, dw = tap_offset(first_row + row, kernel, padding, dilation)
        left, right = inside_range(dw, width, output[2], stride[2])
        for i in range(images):
            plane = x[first_image + i, channel]
            target = columns[row, i]
            od, oh, ow = first_od, first_oh, first_ow
            filled = 0
            while filled < pixels:  # one line of output cells after the other
                run = min(output[2] - ow, pixels - filled)
                d = od * stride[0] + dd
                h = oh * stride[1] + dh
                # max(0, ...) changes nothing: it tells LLVM that no index is negative, which lets it
                # copy by vectors (5.7 against 1.8 thousand million cells a second).
                begin = max(0, filled + min(run, max(0, left - ow)))
                end = filled + min(run, max(0, right - ow))
                if d < 0 or d >= depth or h < 0 or h >= height:
                    end = begin
                w = max(0, (ow + begin - filled) * stride[2] + dw)
                for p in range(filled, begin):
                    target[p] = 0
                if stride[2] == 1:
                    for p in range(end - begin):
                        target[begin + p] = plane[d, h, w + p]
                else:
                    for p in range(end - begin):
                        target[begin + p] = plane[d, h, w + p * stride[2]]
                for p in range(end, filled + run):
                    target[p] = 0
                filled += run
                ow = 0
                oh += 1
                if oh == output[1]:
                    oh = 0
                    od += 1


@jit
def col2im_add(
    columns, x, first_image, first_row, first_pixel, first_line, stop_line,
    kernel, output, stride, padding, dilation,
):  # fmt: skip
    """Add one rectangle of the column matrices of some images back to where its cells came from.

    The adjoint of `im2col`: ``x[cell] += columns[row, pixel]`` for every tap inside the image.
    Only the input lines ``first_line <= d*H + h < stop_line`` are touched: calls that own different
    images, channels or lines may run at once.

    Parameters
    ----------
    columns : float array (rows, images, pixels)
    x : float array (N, C, D, H, W)
        Added to.
    first_image, first_row, first_pixel : int
        The rectangle's corner, as in `im2col`.
    first_line, stop_line : int
        The input lines, counted as d*H + h, that this call may touch.
    kernel, output, stride, padding, dilation : tuple of three int
        As in `im2col`.
    """
    depth, height, width = x.shape[2:]
    rows, images, pixels = columns.shape
    origin, first_ow = divmod(first_pixel, output[2])
    first_od, first_oh = divmod(origin, output[1])
    for row in range(rows):
        channel, dd, dh, dw = tap_offset(first_row + row, kernel, padding, dilation)
        left, right = inside_range(dw, width, output[2], stride[2])
        for i in range(images):
            plane = x[first_image + i, channel]
            source = columns[row, i]
            od, oh, ow = first_od, first_oh, first_ow
            used = 0
            while used < pixels:
                run = min(output[2] - ow, pixels - used)
                d = od * stride[0] + dd
                h = oh * stride[1] + dh
                inside = d >= 0 and d < depth and h >= 0 and h < height
                if inside and first_line <= d * height + h < stop_line:
                    begin = max(0, used + min(run, max(0, left - ow)))
                    end = used + min(run, max(0, right - ow))
                    w = max(0, (ow + begin - used) * stride[2] + dw)
                    if stride[2] == 1:
                        for p in range(end - begin):
                            plane[d, h, w + p] += source[begin + p]
                    else:
                        for p in range(end - begin):
                            plane[d, h, w + p * stride[2]] += source[begin + p]
                used += run
                ow = 0
                oh += 1
                if oh == output[1]:
                    oh = 0
                    od += 1
