"""The convolution and pooling functions of the CS231n course's code, on fastconv.

In a folder that holds the course's package ``cs231n``, before or after its imports::

    import fastconv.adapters.cs231n
    fastconv.adapters.cs231n.install()

Nothing has to be compiled then: `fastconv.adapters.im2col_cython` stands where the course's Cython module
would be. The functions can also be called without the course's code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from fastconv.adapters import im2col_cython
from fastconv.adapters.columns import as_float, channel_rows, max_windows, scatter
from fastconv.adapters.installation import (
    HostError,
    Installation,
    Replacement,
    Swap,
    counterpart,
    host_module,
)
from fastconv.arguments import Array
from fastconv.conv import conv2d, conv2d_backward
from fastconv.pool import max_pool2d

Param = dict[str, int]


class _Later:
    """An item of a cache that is made when it is first read."""

    def __init__(self, make: Callable[[], Array]) -> None:
        self._make = make
        self._made: Array | None = None

    def read(self) -> Array:
        if self._made is None:
            self._made = self._make()
        return self._made


def _read(item: object) -> object:
    return item.read() if isinstance(item, _Later) else item


class _Cache(tuple[Any, ...]):
    """A cache of the course's code: a tuple that can hold `_Later`, and shows what it stands for.

    The backward functions here need no columns. Writing them takes several times as long as the
    convolution, so they are written only for a reader: by ``cache[4]`` or by unpacking.
    """

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return tuple(map(_read, found)) if isinstance(index, slice) else _read(found)

    def __iter__(self) -> Iterator[Any]:
        return map(_read, super().__iter__())


# Convolution


def conv_forward_naive(x: Array, w: Array, b: Array, conv_param: Param) -> tuple[Array, Any]:
    """The convolution of ``x`` (N, C, H, W) with filters ``w`` (F, C, HH, WW), and the cache of its backward.

    Parameters
    ----------
    x, w : array
    b : array (F,)
    conv_param : dict
        ``"stride"`` and ``"pad"``.

    Returns
    -------
    out : array (N, F, OH, OW)
        Of the arrays' own dtype, C-contiguous.
    cache : tuple (x, w, b, conv_param)

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.adapters.cs231n import conv_backward_naive, conv_forward_naive
    >>> x, w, b = np.ones((2, 3, 5, 5)), np.ones((4, 3, 3, 3)), np.zeros(4)
    >>> out, cache = conv_forward_naive(x, w, b, {"stride": 2, "pad": 1})
    >>> out.shape, float(out[0, 0, 1, 1])
    ((2, 4, 3, 3), 27.0)
    >>> dx, dw, db = conv_backward_naive(np.ones_like(out), cache)
    """
    out = conv2d(as_float(x), as_float(w), as_float(b), conv_param["stride"], conv_param["pad"])
    return out, (x, w, b, conv_param)


def conv_forward_im2col(x: Array, w: Array, b: Array, conv_param: Param) -> tuple[Array, Any]:
    """As `conv_forward_naive`; the cache has a fifth item ``x_cols`` (C*HH*WW, OH*OW*N)."""
    out, cache = conv_forward_naive(x, w, b, conv_param)

    def x_cols() -> Array:
        _, _, height, width = w.shape
        return im2col_cython.im2col_cython(x, height, width, conv_param["pad"], conv_param["stride"])

    return out, _Cache((*cache, _Later(x_cols)))


def conv_forward_strides(x: Array, w: Array, b: Array, conv_param: Param) -> tuple[Array, Any]:
    """As `conv_forward_naive`; the cache has a fifth item ``x_cols`` (C*HH*WW, N*OH*OW)."""
    out, cache = conv_forward_naive(x, w, b, conv_param)

    def x_cols() -> Array:
        stride, pad = (conv_param["stride"],) * 2, (conv_param["pad"],) * 2
        return channel_rows(as_float(x), w.shape[2:], stride, pad, images_last=False)

    return out, _Cache((*cache, _Later(x_cols)))


def conv_backward_naive(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """The gradients of ``x``, ``w`` and ``b`` from that of ``out``, with the cache of any forward here."""
    x, w, _, conv_param = cache[:4]
    gradients = conv2d_backward(
        as_float(dout), as_float(x), as_float(w), conv_param["stride"], conv_param["pad"]
    )
    return gradients.input, gradients.weight, gradients.bias  # type: ignore[return-value]


def conv_backward_im2col(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """As `conv_backward_naive`."""
    return conv_backward_naive(dout, cache)


def conv_backward_strides(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """As `conv_backward_naive`."""
    return conv_backward_naive(dout, cache)


conv_forward_fast = conv_forward_strides
conv_backward_fast = conv_backward_strides


# Max-pooling


def _windows(pool_param: Param) -> tuple[tuple[int, int], tuple[int, int]]:
    return (pool_param["pool_height"], pool_param["pool_width"]), (pool_param["stride"],) * 2


def max_pool_forward_naive(x: Array, pool_param: Param) -> tuple[Array, Any]:
    """The maximum of every window of ``x`` (N, C, H, W), and the cache of its backward.

    Parameters
    ----------
    x : array
    pool_param : dict
        ``"pool_height"``, ``"pool_width"`` and ``"stride"``.

    Returns
    -------
    out : array (N, C, OH, OW)
    cache : tuple (x, pool_param)
    """
    return max_pool2d(x, *_windows(pool_param)), (x, pool_param)


def max_pool_backward_naive(dout: Array, cache: Any) -> Array:
    """The gradient of ``x``; that of a window goes to its first maximum in row-major order."""
    x, pool_param = cache
    kernel, stride = _windows(pool_param)
    _, taps = max_windows(x, kernel, stride, (0, 0))
    return scatter(as_float(dout), taps, x.shape, kernel, stride, (0, 0))


def max_pool_forward_im2col(x: Array, pool_param: Param) -> tuple[Array, Any]:
    """As `max_pool_forward_naive`, with the cache ``(x, x_cols, x_cols_argmax, pool_param)``.

    ``x_cols`` is (PH*PW, OH*OW*N*C), and ``x_cols_argmax`` the row of each column's maximum.
    """
    out, _ = max_pool_forward_naive(x, pool_param)

    def x_cols() -> Array:
        planes = x.reshape(-1, 1, *x.shape[2:])
        kernel, stride = _windows(pool_param)
        return im2col_cython.im2col_cython(planes, *kernel, 0, stride[0])

    def x_cols_argmax() -> Array:
        taps = max_windows(x, *_windows(pool_param), (0, 0))[1]
        return taps.transpose(2, 3, 0, 1).reshape(-1)

    return out, _Cache((x, _Later(x_cols), _Later(x_cols_argmax), pool_param))


def max_pool_backward_im2col(dout: Array, cache: Any) -> Array:
    """As `max_pool_backward_naive`."""
    return max_pool_backward_naive(dout, (cache[0], cache[3]))


def max_pool_forward_reshape(x: Array, pool_param: Param) -> tuple[Array, Any]:
    """As `max_pool_forward_naive`, for square windows side by side; the cache is ``(x, x_reshaped, out)``.

    ``x_reshaped`` is ``x`` as (N, C, OH, PH, OW, PW).
    """
    (height, width), (stride, _) = _windows(pool_param)
    assert height == width == stride, "Invalid pool params"
    out, _ = max_pool_forward_naive(x, pool_param)
    batch, channels, lines, row = x.shape
    x_reshaped = x.reshape(batch, channels, lines // height, height, row // width, width)
    return out, (x, x_reshaped, out)


def max_pool_backward_reshape(dout: Array, cache: Any) -> Array:
    """The gradient of ``x``; that of a window is shared evenly by all its cells that are the maximum."""
    x, x_reshaped, out = cache
    height, width = x_reshaped.shape[3], x_reshaped.shape[5]
    # The r-th row and s-th cell of all windows at once, (N, C, OH, OW).
    taps = [(..., slice(r, None, height), slice(s, None, width)) for r in range(height) for s in range(width)]
    is_maximum = [x[tap] == out for tap in taps]
    sharers = np.sum(is_maximum, axis=0, dtype=x.dtype)
    dx = np.empty_like(x, order="C")
    share, rest = dout / sharers, 0 / sharers  # a NaN, which equals nothing, leaves NaN to its whole window
    for tap, takes in zip(taps, is_maximum, strict=True):
        dx[tap] = np.where(takes, share, rest)
    return dx


def max_pool_forward_fast(x: Array, pool_param: Param) -> tuple[Array, Any]:
    """As `max_pool_forward_naive`; the cache says which of the two others made it, and holds its cache."""
    (height, width), (stride, _) = _windows(pool_param)
    if height == width == stride and x.shape[2] % height == 0 and x.shape[3] % width == 0:
        out, cache = max_pool_forward_reshape(x, pool_param)
        return out, ("reshape", cache)
    out, cache = max_pool_forward_im2col(x, pool_param)
    return out, ("im2col", cache)


def max_pool_backward_fast(dout: Array, cache: Any) -> Array:
    """The backward function of the method that the cache says."""
    method, real_cache = cache
    if method == "reshape":
        return max_pool_backward_reshape(dout, real_cache)
    if method == "im2col":
        return max_pool_backward_im2col(dout, real_cache)
    raise ValueError(f'Unrecognized method "{method}"')


# The course's own columns in plain NumPy


def im2col_indices(x: Array, field_height: int, field_width: int, padding: int = 1, stride: int = 1) -> Array:
    """As `fastconv.adapters.im2col_cython.im2col_cython`."""
    return im2col_cython.im2col_cython(x, field_height, field_width, padding, stride)


def col2im_indices(
    cols: Array,
    x_shape: tuple[int, int, int, int],
    field_height: int = 3,
    field_width: int = 3,
    padding: int = 1,
    stride: int = 1,
) -> Array:
    """As `fastconv.adapters.im2col_cython.col2im_cython`."""
    return im2col_cython.col2im_cython(cols, *x_shape, field_height, field_width, padding, stride)


# Installation

# Where the course's code defines them; a copy need not have all.
_DEFINED = {
    "layers": (
        "conv_forward_naive", "conv_backward_naive", "max_pool_forward_naive", "max_pool_backward_naive",
    ),
    "fast_layers": (
        "conv_forward_fast", "conv_forward_im2col", "conv_forward_strides",
        "conv_backward_fast", "conv_backward_im2col", "conv_backward_strides",
        "max_pool_forward_fast", "max_pool_forward_im2col", "max_pool_forward_reshape",
        "max_pool_backward_fast", "max_pool_backward_im2col", "max_pool_backward_reshape",
    ),
    "im2col": ("im2col_indices", "col2im_indices"),
}  # fmt: skip


def _replacements() -> Iterator[Replacement]:
    """The Cython module under both names it is imported by: that of the package, and that of its folder."""
    yield sys.modules, "cs231n.im2col_cython", im2col_cython
    yield sys.modules, "im2col_cython", im2col_cython
    yield host_module("cs231n", published=False), "im2col_cython", im2col_cython


def _swaps() -> list[Swap]:
    found = []
    for part, names in _DEFINED.items():
        if find_spec(f"cs231n.{part}") is not None:
            module = host_module(f"cs231n.{part}", published=False)
            ours = {name: globals()[name] for name in names if hasattr(module, name)}
            found += [(counterpart(module, name, function), function) for name, function in ours.items()]
    if not found:
        raise HostError("cs231n has no convolution and no pooling: is it the course's second assignment?")
    return found


_installation = Installation(_replacements, _swaps)
install = _installation.install
uninstall = _installation.uninstall
installed = _installation.installed
