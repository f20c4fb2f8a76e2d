"""Plain-loop references for every operation, in NumPy alone and in float64.

Nothing here calls fastconv. Arrays are channels-first, `(N, C, *extents)`, with one, two or three spatial
dimensions; strides, dilations and kernels are tuples with one entry an axis and `padding` is a tuple of
`(before, after)` pairs. One relation carries all of them: output cell `o` reads, through tap `r`, the input
position `o * stride + r * dilation - before`, and positions outside the input read zero.
"""

import itertools
import math

import numpy as np

ALL = slice(None)

# --- sizes -----------------------------------------------------------------------------------------------


def per_axis(value, ndim):
    """An int for every axis, or the tuple itself."""
    return (int(value),) * ndim if isinstance(value, int | np.integer) else tuple(value)


def same_pair(extent, kernel, stride, dilation):
    """Padding with which the output is ceil(extent / stride); the odd extra cell is at the end."""
    output = -(-extent // stride)
    total = max((output - 1) * stride + dilation * (kernel - 1) + 1 - extent, 0)
    return total // 2, total - total // 2


def resolve_padding(padding, extents, kernel, stride, dilation):
    """Per-axis `(before, after)` pairs from any accepted form of a convolution's `padding`."""
    ndim = len(kernel)
    if padding == "valid":
        return ((0, 0),) * ndim
    if padding == "full":
        return tuple((d * (k - 1),) * 2 for d, k in zip(dilation, kernel, strict=True))
    if padding == "same":
        return tuple(itertools.starmap(same_pair, zip(extents, kernel, stride, dilation, strict=True)))
    if not isinstance(padding, int) and len(padding) == 2 * ndim:
        return tuple(zip(padding[::2], padding[1::2], strict=True))
    return tuple(per_axis(pad, 2) for pad in per_axis(padding, ndim))


def output_extents(extents, kernel, stride, padding, dilation, ceil_mode=False):
    """How many cells a convolution or pooling makes along each axis.

    With `ceil_mode` (PyTorch) the last window must start inside the input or the padding before it.
    """
    result = []
    for extent, k, s, (before, after), d in zip(extents, kernel, stride, padding, dilation, strict=True):
        room = extent + before + after - d * (k - 1) - 1
        cells = room // s + 1
        if ceil_mode:
            cells = -(-room // s) + 1
            if (cells - 1) * s >= extent + before:
                cells -= 1
        result.append(cells)
    return tuple(result)


def transpose_geometry(extents, kernel, stride, padding, output_padding, dilation):
    """Padding pairs and output extents of a transposed convolution."""
    if padding == "same":  # the adjoint of the "same" convolution of extent * stride cells
        outputs = tuple(e * s for e, s in zip(extents, stride, strict=True))
        return resolve_padding("same", outputs, kernel, stride, dilation), outputs
    pairs = resolve_padding(padding, extents, kernel, stride, dilation)
    outputs = tuple(
        (e - 1) * s - before - after + d * (k - 1) + 1 + extra
        for e, k, s, (before, after), d, extra in zip(
            extents, kernel, stride, pairs, dilation, output_padding, strict=True
        )
    )
    return pairs, outputs


# --- the relation between cells, taps and positions ------------------------------------------------------


def reads(extents, kernel, stride, padding, dilation, outputs):
    """Yield every `(cell, tap, position)` whose position lies inside the input, taps in row-major order."""
    for cell in np.ndindex(*outputs):
        for tap in np.ndindex(*kernel):
            position = tuple(
                o * s + r * d - before
                for o, r, s, d, (before, _) in zip(cell, tap, stride, dilation, padding, strict=True)
            )
            if all(0 <= p < extent for p, extent in zip(position, extents, strict=True)):
                yield cell, tap, position


def group_slices(channels, filters, groups):
    """For each group the slice of its channels and the slice of its filters."""
    c, k = channels // groups, filters // groups
    return [(slice(g * c, (g + 1) * c), slice(g * k, (g + 1) * k)) for g in range(groups)]


# --- convolution -----------------------------------------------------------------------------------------


def ref_conv(x, w, stride, padding, dilation, groups, outputs=None):
    """`y[n, k, cell] = sum over c, tap of w[k, c, tap] * x[n, c, position]`, group by group."""
    kernel, extents = w.shape[2:], x.shape[2:]
    outputs = outputs or output_extents(extents, kernel, stride, padding, dilation)
    x, w = x.astype(np.float64), w.astype(np.float64)
    y = np.zeros((x.shape[0], w.shape[0], *outputs))
    for cell, tap, position in reads(extents, kernel, stride, padding, dilation, outputs):
        for cs, ks in group_slices(x.shape[1], w.shape[0], groups):
            y[(ALL, ks, *cell)] += x[(ALL, cs, *position)] @ w[(ks, ALL, *tap)].T
    return y


def ref_conv_backward_input(dy, w, extents, stride, padding, dilation, groups):
    """The adjoint of `ref_conv` in x: every read becomes an addition at the position it read."""
    dy, w = dy.astype(np.float64), w.astype(np.float64)
    channels = w.shape[1] * groups
    dx = np.zeros((dy.shape[0], channels, *extents))
    for cell, tap, position in reads(extents, w.shape[2:], stride, padding, dilation, dy.shape[2:]):
        for cs, ks in group_slices(channels, w.shape[0], groups):
            dx[(ALL, cs, *position)] += dy[(ALL, ks, *cell)] @ w[(ks, ALL, *tap)]
    return dx


def ref_conv_backward_weight(dy, x, kernel, stride, padding, dilation, groups):
    """The adjoint of `ref_conv` in w."""
    dy, x = dy.astype(np.float64), x.astype(np.float64)
    dw = np.zeros((dy.shape[1], x.shape[1] // groups, *kernel))
    for cell, tap, position in reads(x.shape[2:], kernel, stride, padding, dilation, dy.shape[2:]):
        for cs, ks in group_slices(x.shape[1], dy.shape[1], groups):
            dw[(ks, ALL, *tap)] += dy[(ALL, ks, *cell)].T @ x[(ALL, cs, *position)]
    return dw


def ref_bias_gradient(dy):
    """The sum of the output gradient over everything but the channel."""
    return dy.astype(np.float64).sum(axis=(0, *range(2, dy.ndim)))


def ref_conv_transpose(x, w, stride, padding, output_padding, dilation, groups):
    """Every input cell adds its multiple of the weights `(C, K/G, *kernel)` to the output."""
    kernel = w.shape[2:]
    pairs, outputs = transpose_geometry(x.shape[2:], kernel, stride, padding, output_padding, dilation)
    return ref_conv_backward_input(x, w, outputs, stride, pairs, dilation, groups)


def ref_conv_transpose_backward(dy, x, w, stride, padding, output_padding, dilation, groups):
    """Gradients of `ref_conv_transpose` in x, w and the bias."""
    kernel = w.shape[2:]
    pairs, _ = transpose_geometry(x.shape[2:], kernel, stride, padding, output_padding, dilation)
    dx = ref_conv(dy, w, stride, pairs, dilation, groups, outputs=x.shape[2:])
    dw = ref_conv_backward_weight(x, dy, kernel, stride, pairs, dilation, groups)
    return dx, dw, ref_bias_gradient(dy)


# --- columns ---------------------------------------------------------------------------------------------


def ref_im2col(x, kernel, dilation, padding, stride):
    """`columns[n, (c, tap), cell] = x[n, c, position]`, zero outside."""
    outputs = output_extents(x.shape[2:], kernel, stride, padding, dilation)
    columns = np.zeros((*x.shape[:2], *kernel, *outputs), x.dtype)
    for cell, tap, position in reads(x.shape[2:], kernel, stride, padding, dilation, outputs):
        columns[(ALL, ALL, *tap, *cell)] = x[(ALL, ALL, *position)]
    return columns.reshape(x.shape[0], x.shape[1] * math.prod(kernel), math.prod(outputs))


def ref_col2im(columns, extents, kernel, dilation, padding, stride):
    """The adjoint of `ref_im2col`: overlapping cells add up."""
    outputs = output_extents(extents, kernel, stride, padding, dilation)
    batch, channels = columns.shape[0], columns.shape[1] // math.prod(kernel)
    columns = columns.astype(np.float64).reshape(batch, channels, *kernel, *outputs)
    x = np.zeros((batch, channels, *extents))
    for cell, tap, position in reads(extents, kernel, stride, padding, dilation, outputs):
        x[(ALL, ALL, *position)] += columns[(ALL, ALL, *tap, *cell)]
    return x


# --- pooling ---------------------------------------------------------------------------------------------


def flat_index(position, extents):
    """Row-major index of a position in one plane."""
    return int(np.ravel_multi_index(position, extents))


def beats(value, best):
    """Whether a later value replaces the best so far: a first NaN does, an equal value does not."""
    if best != best:
        return False
    return value != value or value > best


def ref_max_pool(x, kernel, stride, padding, dilation, ceil_mode=False):
    """Maximum of each window and its flat index in the plane; every window must hold an input cell."""
    extents = x.shape[2:]
    outputs = output_extents(extents, kernel, stride, padding, dilation, ceil_mode)
    values = np.zeros((*x.shape[:2], *outputs), x.dtype)
    indices = np.full(values.shape, -1, np.int64)
    for cell, _, position in reads(extents, kernel, stride, padding, dilation, outputs):
        for n, c in np.ndindex(*x.shape[:2]):
            at = (n, c, *cell)
            if indices[at] < 0 or beats(x[(n, c, *position)], values[at]):
                values[at] = x[(n, c, *position)]
                indices[at] = flat_index(position, extents)
    return values, indices


def ref_scatter_add(dy, indices, extents):
    """Backward of max-pooling: each gradient is added at its index in the plane."""
    dx = np.zeros((*dy.shape[:2], math.prod(extents)))
    for n, c, *cell in np.ndindex(*dy.shape):
        dx[n, c, indices[(n, c, *cell)]] += dy[(n, c, *cell)]
    return dx.reshape(*dy.shape[:2], *extents)


def ref_max_pool_backward(dy, indices, extents):
    """Scatter-add through the argmax."""
    return ref_scatter_add(dy, indices, extents)


def ref_max_pool_backward_ties(dy, x, kernel, stride, padding, dilation):
    """Every gradient, whole, to all cells that equal their window's maximum (NaN equals NaN)."""
    extents, outputs = x.shape[2:], dy.shape[2:]
    best = {}
    for cell, _, position in reads(extents, kernel, stride, padding, dilation, outputs):
        best[cell] = np.maximum(best.get(cell, x[(ALL, ALL, *position)]), x[(ALL, ALL, *position)])
    dx = np.zeros(x.shape)
    for cell, _, position in reads(extents, kernel, stride, padding, dilation, outputs):
        value, most = x[(ALL, ALL, *position)], best[cell]
        equal = (value == most) | ((value != value) & (most != most))
        dx[(ALL, ALL, *position)] += np.where(equal, dy[(ALL, ALL, *cell)], 0)
    return dx


def ref_max_unpool(x, indices, extents):
    """Each value is put at its index in the plane; of several with one index the last stays."""
    y = np.zeros((*x.shape[:2], math.prod(extents)), x.dtype)
    for n, c, *cell in np.ndindex(*x.shape):
        y[n, c, indices[(n, c, *cell)]] = x[(n, c, *cell)]
    return y.reshape(*x.shape[:2], *extents)


def ref_max_unpool_backward(dy, indices):
    """The gradient is read where the value was put."""
    planes = dy.reshape(*dy.shape[:2], math.prod(dy.shape[2:]))
    dx = np.zeros(indices.shape, dy.dtype)
    for n, c, *cell in np.ndindex(*indices.shape):
        dx[(n, c, *cell)] = planes[n, c, indices[(n, c, *cell)]]
    return dx


def window_divisors(extents, kernel, stride, padding, outputs, count_include_pad, divisor_override):
    """What each window's sum is divided by. A window that `ceil_mode` let out of the padding is cut there."""
    divisors = np.ones(outputs)
    for cell in np.ndindex(*outputs):
        for o, extent, k, s, (before, after) in zip(cell, extents, kernel, stride, padding, strict=True):
            first, last = o * s - before, min(o * s - before + k, extent + after)
            if not count_include_pad:
                first, last = max(first, 0), min(last, extent)
            divisors[cell] *= last - first
        if divisor_override is not None:
            divisors[cell] = divisor_override
    return divisors


def ref_avg_pool(x, kernel, stride, padding, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """Mean of each window."""
    extents, dilation = x.shape[2:], (1,) * len(kernel)
    outputs = output_extents(extents, kernel, stride, padding, dilation, ceil_mode)
    y = np.zeros((*x.shape[:2], *outputs))
    for cell, _, position in reads(extents, kernel, stride, padding, dilation, outputs):
        y[(ALL, ALL, *cell)] += x[(ALL, ALL, *position)]
    return y / window_divisors(extents, kernel, stride, padding, outputs, count_include_pad, divisor_override)


def ref_avg_pool_backward(
    dy, extents, kernel, stride, padding, count_include_pad=True, divisor_override=None
):
    """Each gradient is spread evenly over the window that made it."""
    outputs, dilation = dy.shape[2:], (1,) * len(kernel)
    shares = dy / window_divisors(
        extents, kernel, stride, padding, outputs, count_include_pad, divisor_override
    )
    dx = np.zeros((*dy.shape[:2], *extents))
    for cell, _, position in reads(extents, kernel, stride, padding, dilation, outputs):
        dx[(ALL, ALL, *position)] += shares[(ALL, ALL, *cell)]
    return dx


def adaptive_windows(extents, outputs):
    """Yield each output cell and the slices of its window, floor(i*in/out) to ceil((i+1)*in/out)."""
    for cell in np.ndindex(*outputs):
        yield (
            cell,
            tuple(
                slice(i * e // o, -(-(i + 1) * e // o))
                for i, e, o in zip(cell, extents, outputs, strict=True)
            ),
        )


def ref_adaptive_avg_pool(x, outputs):
    """Mean of each adaptive window."""
    y = np.zeros((*x.shape[:2], *outputs))
    for cell, window in adaptive_windows(x.shape[2:], outputs):
        for n, c in np.ndindex(*x.shape[:2]):
            y[(n, c, *cell)] = x[(n, c, *window)].astype(np.float64).mean()
    return y


def ref_adaptive_avg_pool_backward(dy, extents):
    """Each gradient is spread evenly over its adaptive window."""
    dx = np.zeros((*dy.shape[:2], *extents))
    for cell, window in adaptive_windows(extents, dy.shape[2:]):
        for n, c in np.ndindex(*dy.shape[:2]):
            dx[(n, c, *window)] += dy[(n, c, *cell)] / dx[(n, c, *window)].size
    return dx


def ref_adaptive_max_pool(x, outputs):
    """Maximum of each adaptive window and its flat index in the plane."""
    extents = x.shape[2:]
    values = np.zeros((*x.shape[:2], *outputs), x.dtype)
    indices = np.full(values.shape, -1, np.int64)
    for cell, window in adaptive_windows(extents, outputs):
        for n, c in np.ndindex(*x.shape[:2]):
            for position in itertools.product(*(range(s.start, s.stop) for s in window)):
                at = (n, c, *cell)
                if indices[at] < 0 or beats(x[(n, c, *position)], values[at]):
                    values[at] = x[(n, c, *position)]
                    indices[at] = flat_index(position, extents)
    return values, indices


# --- derivatives -----------------------------------------------------------------------------------------


def central_difference(f, x, step=1e-5):
    """Gradient of the scalar function `f` at the float64 array `x`, by central differences."""
    gradient = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[at] += step
        behind[at] -= step
        gradient[at] = (f(ahead) - f(behind)) / (2 * step)
    return gradient
