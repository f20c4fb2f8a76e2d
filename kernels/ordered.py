"""Sums of products in a fixed order, one weight after the other: the order of `scipy.ndimage`."""

from fastconv.kernels.jit import jit

# So many sums are in the first cache until they are done.
STRIP = 1024


@jit
def correlate_lines(image, lines, offsets, weights, sums):
    """``sums[i, x] = image[lines[i] + x + offsets[0]] * weights[0] + ...``, added from left to right.

    Parameters
    ----------
    image : array (cells,) of float64
    lines : array (lines,) of int64
        Where in the image the first cell of each line of sums stands.
    offsets : array (taps,) of int64
        How many cells behind that each weight reads.
    weights : array (taps,) of float64
    sums : array (lines, width) of float64
        What is written.
    """
    taps = weights.size
    # Four weights at a time, so that a sum is loaded and stored less often.
    fours = taps - taps % 4
    for i in range(lines.size):
        for first in range(0, sums.shape[1], STRIP):
            line = sums[i, first : first + STRIP]
            width = line.size
            start = lines[i] + first
            line[:] = 0.0
            for t in range(0, fours, 4):
                a = image[start + offsets[t] : start + offsets[t] + width]
                b = image[start + offsets[t + 1] : start + offsets[t + 1] + width]
                c = image[start + offsets[t + 2] : start + offsets[t + 2] + width]
                d = image[start + offsets[t + 3] : start + offsets[t + 3] + width]
                p, q, r, s = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
                for x in range(width):
                    line[x] = (((line[x] + a[x] * p) + b[x] * q) + c[x] * r) + d[x] * s
            for t in range(fours, taps):
                a = image[start + offsets[t] : start + offsets[t] + width]
                p = weights[t]
                for x in range(width):
                    line[x] += a[x] * p
