"""Bare Numba loops on preallocated buffers: no checks, no allocation, the GIL released.

Every kernel takes a range of its work (rows, lines or planes), so that ranges can run on any threads
in any order without a race; none starts threads of its own. They can be called from Python and
from a user's own ``@njit`` code. Arrays have axes (batch, channels, depth, height, width), whatever
their strides. Arguments are *not* checked: a wrong size reads or writes outside the buffers.

>>> import numpy as np
>>> from fastconv import kernels
>>> image = np.arange(9.0).reshape(1, 1, 1, 3, 3)
>>> columns = np.empty((4, 1, 4))  # 2x2 taps, one image, 2x2 output cells
>>> kernels.im2col(image, columns, 0, 0, 0, (1, 2, 2), (1, 2, 2), (1, 1, 1), (0, 0, 0), (1, 1, 1))
>>> columns[:, 0, 0]  # what the first output cell sums over
array([0., 1., 3., 4.])
"""

from fastconv.kernels.columns import col2im_add, im2col
from fastconv.kernels.pooling import (
    avg_pool,
    avg_pool_backward,
    max_pool,
    max_pool_backward,
    max_pool_backward_ties,
    max_unpool,
)

__all__ = [
    "avg_pool",
    "avg_pool_backward",
    "col2im_add",
    "im2col",
    "max_pool",
    "max_pool_backward",
    "max_pool_backward_ties",
    "max_unpool",
]


def __dir__() -> list[str]:
    """The public names alone."""
    return sorted(__all__)
