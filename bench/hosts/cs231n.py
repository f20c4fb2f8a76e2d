"""CS231n's code beside the same calls on fastconv: ``python bench/hosts/cs231n.py FOLDER``.

FOLDER holds the second assignment's package ``cs231n``. Its fast functions go backward only where its Cython
module was built (the copy timed for the page took Cython 0.29 and ``language_level=2``).
"""

from __future__ import annotations

import sys

from side_by_side import Case, compare, hold_threads

if __name__ == "__main__":
    hold_threads()
    sys.path.insert(0, sys.argv[1])

import numpy as np
from layer import DOUT, DPOOLED, RNG, B, W, X

from fastconv.adapters import cs231n

CONV, POOL = {"stride": 1, "pad": 1}, {"pool_height": 2, "pool_width": 2, "stride": 2}
OVERLAPPING = {"pool_height": 3, "pool_width": 3, "stride": 1}


def cases() -> list[Case]:
    """The course's functions by their names at the time of the call: its own, or ours where installed."""
    from cs231n import fast_layers, im2col
    from cs231n.classifiers.cnn import ThreeLayerConvNet

    def forward() -> object:
        return fast_layers.conv_forward_fast(X, W, B, CONV)

    def both_ways() -> object:
        return fast_layers.conv_backward_fast(DOUT, forward()[1])

    def pool() -> object:
        return fast_layers.max_pool_backward_fast(DPOOLED, fast_layers.max_pool_forward_fast(X, POOL)[1])

    def overlapping() -> object:
        out, cache = fast_layers.max_pool_forward_fast(X, OVERLAPPING)
        return fast_layers.max_pool_backward_fast(out, cache)

    def columns() -> object:
        return im2col.im2col_indices(X, 3, 3, 1, 1)

    network = ThreeLayerConvNet(num_filters=32, filter_size=7, hidden_dim=100, dtype=np.float32)
    images, labels = RNG.standard_normal((50, 3, 32, 32), np.float32), RNG.integers(0, 10, 50)

    def step() -> object:
        return network.loss(images, labels)

    labelled = {
        "conv_forward_fast": forward,
        "conv_forward_fast, conv_backward_fast": both_ways,
        "max_pool_*_fast, 2x2, both ways": pool,
        "max_pool_*_fast, 3x3 stride 1, both ways": overlapping,
        "im2col_indices": columns,
        "ThreeLayerConvNet, 50 images: loss and gradients": step,
    }
    return [Case(label, call, call) for label, call in labelled.items()]


if __name__ == "__main__":
    compare("CS231n's code", cases(), installed=cs231n.installed)
