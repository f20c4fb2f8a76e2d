"""The book's code beside the same calls on fastconv: ``python bench/hosts/dlfs.py FOLDER``.

The book is "Deep Learning from Scratch"; FOLDER holds the book's code: ``common``, ``ch07`` and ``ch08``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from side_by_side import Case, compare, hold_threads

if __name__ == "__main__":
    hold_threads()
    sys.path[:0] = [str(Path(sys.argv[1]) / name) for name in (".", "ch07", "ch08")]

import numpy as np
from layer import DOUT, DPOOLED, RNG, B, W, X

from fastconv.adapters import dlfs


def cases() -> list[Case]:
    """The book's functions and layers: its own methods, or ours where installed."""
    from common import util
    from common.layers import Convolution, Pooling
    from deep_convnet import DeepConvNet
    from simple_convnet import SimpleConvNet

    convolution, pooling = Convolution(W, B, 1, 1), Pooling(2, 2)

    def forward() -> object:
        return convolution.forward(X)

    def both_ways() -> object:
        forward()
        return convolution.backward(DOUT)

    def pool() -> object:
        pooling.forward(X)
        return pooling.backward(DPOOLED)

    def columns() -> object:
        return util.im2col(X, 3, 3, 1, 1)

    images, labels = RNG.random((50, 1, 28, 28), np.float32), RNG.integers(0, 10, 50)
    networks = [SimpleConvNet(), DeepConvNet()]
    labelled = {
        "Convolution, forward": forward,
        "Convolution, forward and backward": both_ways,
        "Pooling 2x2, forward and backward": pool,
        "im2col": columns,
        "SimpleConvNet, 50 images: gradient": lambda: networks[0].gradient(images, labels),
        "DeepConvNet, 50 images: gradient": lambda: networks[1].gradient(images, labels),
    }
    return [Case(label, call, call) for label, call in labelled.items()]


if __name__ == "__main__":
    compare("Deep Learning from Scratch", cases(), installed=dlfs.installed)
