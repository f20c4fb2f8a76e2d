"""Chainer's two-dimensional convolutions and columns on fastconv.

::

    import fastconv.adapters.chainer
    fastconv.adapters.chainer.install()

Chainer 7.8.1, its last version, needs a NumPy before 2.0, and a setuptools before 81 to be built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import numpy as np

from fastconv.adapters.installation import (
    Installation,
    Replacement,
    Swap,
    counterpart,
    host_module,
)
from fastconv.arguments import Array, Pairs, Size
from fastconv.columns import col2im, im2col
from fastconv.conv import conv2d, conv2d_backward_input, conv2d_backward_weight

try:
    host = host_module("chainer.utils.conv", published=False)
    connection = host_module("chainer.functions.connection", published=False)
except AttributeError as error:  # it uses names that NumPy 2 has no more
    raise ImportError(f"fastconv.adapters: chainer fails on NumPy {np.__version__}: {error}") from error

_HOST_IM2COL: Any = vars(host).get("im2col_cpu")
_HOST_COL2IM: Any = vars(host).get("col2im_cpu")


def _reach(kernel: Size, outputs: Size, stride: Size, dilation: Size) -> Size:
    """How many cells so many windows span along each axis."""
    axes = zip(kernel, outputs, stride, dilation, strict=True)
    return tuple((out - 1) * s + d * (k - 1) + 1 for k, out, s, d in axes)


def _padding(extents: Size, reach: Size, pad: Size) -> Pairs:
    """``pad`` cells before, and behind as many as the windows reach: with ``cover_all`` more than ``pad``."""
    return tuple((p, max(0, cells - n - p)) for n, cells, p in zip(extents, reach, pad, strict=True))


def im2col_cpu(
    img: Array,
    kh: int,
    kw: int,
    sy: int,
    sx: int,
    ph: int,
    pw: int,
    pval: float = 0,
    cover_all: bool = False,
    dy: int = 1,
    dx: int = 1,
    out_h: int | None = None,
    out_w: int | None = None,
) -> Array:
    """The columns of ``img`` (N, C, H, W), padded with ``pval``: an array (N, C, KH, KW, OH, OW)."""
    if img.dtype.char not in "efd":
        return _HOST_IM2COL(img, kh, kw, sy, sx, ph, pw, pval, cover_all, dy, dx, out_h, out_w)
    if out_h is None:
        out_h = host.get_conv_outsize(img.shape[2], kh, sy, ph, cover_all, dy)
    if out_w is None:
        out_w = host.get_conv_outsize(img.shape[3], kw, sx, pw, cover_all, dx)
    reach = _reach((kh, kw), (out_h, out_w), (sy, sx), (dy, dx))
    padding = _padding(img.shape[2:], reach, (ph, pw))
    padded = np.pad(img, ((0, 0), (0, 0), *padding), constant_values=pval)[:, :, : reach[0], : reach[1]]
    columns = im2col(padded, (kh, kw), dilation=(dy, dx), stride=(sy, sx))
    return columns.reshape(*img.shape[:2], kh, kw, out_h, out_w)


def col2im_cpu(
    col: Array, sy: int, sx: int, ph: int, pw: int, h: int, w: int, dy: int = 1, dx: int = 1
) -> Array:
    """The adjoint of `im2col_cpu`: columns (N, C, KH, KW, OH, OW) added up to an array (N, C, h, w)."""
    if col.dtype.char not in "efd":
        return _HOST_COL2IM(col, sy, sx, ph, pw, h, w, dy, dx)
    batch, channels, kh, kw, out_h, out_w = col.shape
    padding = _padding((h, w), _reach((kh, kw), (out_h, out_w), (sy, sx), (dy, dx)), (ph, pw))
    rows = col.reshape(batch, channels * kh * kw, out_h * out_w)
    return col2im(rows, (h, w), (kh, kw), dilation=(dy, dx), padding=padding, stride=(sy, sx))


# The methods of Chainer's functions, with its names of their arguments.


def _steps(function: Any, extents: Size, kernel: Size, outputs: Size) -> dict[str, Any]:
    stride, dilation = (function.sy, function.sx), (function.dy, function.dx)
    padding = _padding(extents, _reach(kernel, outputs, stride, dilation), (function.ph, function.pw))
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": function.groups}


def _convolve(self: Any, x: Array, W: Array, b: Array | None) -> tuple[Array]:
    outputs = self._get_out_size(x.shape, W.shape)
    y = conv2d(x, W, b, **_steps(self, x.shape[2:], W.shape[2:], outputs))
    return (y.astype(x.dtype, copy=False),)


def _convolve_transposed(self: Any, x: Array, W: Array, b: Array | None) -> tuple[Array]:
    size = len(x), W.shape[1] * self.groups, self.outh, self.outw
    y = conv2d_backward_input(x, W, size, **_steps(self, size[2:], W.shape[2:], x.shape[2:]))
    if b is not None:
        y += b.reshape(-1, 1, 1)
    return (y.astype(x.dtype, copy=False),)


def _differentiate_by_weight(self: Any, x: Array, gy: Array) -> tuple[Array]:
    size = gy.shape[1], x.shape[1] // self.groups, self.kh, self.kw
    gW = conv2d_backward_weight(gy, x, size, **_steps(self, x.shape[2:], size[2:], gy.shape[2:]))
    return (gW.astype(self.W_dtype, copy=False),)


_FUNCTIONS: dict[tuple[str, str], Callable[..., tuple[Array]]] = {
    ("convolution_2d", "Convolution2DFunction"): _convolve,
    ("convolution_2d", "Convolution2DGradW"): _differentiate_by_weight,
    ("deconvolution_2d", "Deconvolution2DFunction"): _convolve_transposed,
}


def _where_served(ours: Callable[..., Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Our method for NumPy's floats, Chainer's own for other arrays and where it uses iDeep."""

    @wraps(theirs)
    def method(self: Any, *arrays: Any) -> Any:
        served = not self._use_ideep and all(
            array is None or (isinstance(array, np.ndarray) and array.dtype.char in "efd") for array in arrays
        )
        return (ours if served else theirs)(self, *arrays)

    return method


def _replacements() -> Iterator[Replacement]:
    for (module_name, class_name), ours in _FUNCTIONS.items():
        owner = counterpart(vars(connection)[module_name], class_name, None)
        for name in ("_forward_cpu_core", "_forward_grouped_convolution"):
            yield owner, name, _where_served(ours, counterpart(owner, name, ours))


def _swaps() -> list[Swap]:
    return [(counterpart(host, ours.__name__, ours), ours) for ours in (im2col_cpu, col2im_cpu)]


_installation = Installation(_replacements, _swaps)
install = _installation.install
uninstall = _installation.uninstall
installed = _installation.installed
