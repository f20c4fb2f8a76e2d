"""Chainer beside the same calls on fastconv: ``python bench/hosts/chainer.py``."""

from __future__ import annotations

from side_by_side import Case, compare, hold_threads

if __name__ == "__main__":
    hold_threads()

import chainer
import chainer.functions as F
from chainer.utils import conv
from layer import DOUT, B, W, X

import fastconv.adapters.chainer as adapter


def cases() -> list[Case]:
    """Chainer's functions: its own methods, or ours where installed."""
    x, w, b, dout = map(chainer.Variable, (X, W, B, DOUT))
    columns = conv.im2col_cpu(X, 3, 3, 1, 1, 1, 1)
    calls = {
        "convolution_2d, forward": lambda: F.convolution_2d(x, w, b, 1, 1),
        "convolution_2d, forward and backward": lambda: chainer.grad(
            [F.convolution_2d(x, w, b, 1, 1)], [x, w, b], [dout]
        ),
        "deconvolution_2d, forward": lambda: F.deconvolution_2d(dout, w, None, 1, 1),
        "im2col_cpu": lambda: conv.im2col_cpu(X, 3, 3, 1, 1, 1, 1),
        "col2im_cpu": lambda: conv.col2im_cpu(columns, 1, 1, 1, 1, 32, 32),
    }
    return [Case(label, call, call) for label, call in calls.items()]


if __name__ == "__main__":
    compare(f"Chainer {chainer.__version__}", cases(), installed=adapter.installed)
