"""Convolution and pooling over arrays of Dask: larger than memory, on one machine or many; lazily.

    import dask.array as da
    from fastconv import dask as fd

    x = da.from_zarr("images.zarr")        # chunked along batch and space, the channels in one chunk
    y = fd.conv2d(x, weight, padding=1)    # nothing is computed yet
    y.to_zarr("maps.zarr")

Every chunk of a result is one call of the function of the same name in `fastconv`, on the cells that its
windows read. Zeros are added only where the array ends, so the result equals the in-memory one: to the bit
for whole numbers, else to rounding. Chunks of a result begin where those of the input do, in strides, so
that a chain of layers needs no rechunking. Calls take one thread each, as Dask runs one on each of its own.

Needs the extra ``dask``. Filters and biases may be arrays of NumPy or of Dask.
"""

from __future__ import annotations

try:
    import dask.array  # noqa: F401
except ImportError as error:
    raise ImportError('fastconv.dask needs Dask: pip install "dask[array]"') from error

from fastconv.dask import convolution, pooling
from fastconv.dask.arguments import of_dimensions
from fastconv.dask.images import register

conv1d, conv2d, conv3d = of_dimensions(convolution.conv_nd)
conv1d_backward_input, conv2d_backward_input, conv3d_backward_input = of_dimensions(
    convolution.conv_nd_backward_input
)
conv1d_backward_weight, conv2d_backward_weight, conv3d_backward_weight = of_dimensions(
    convolution.conv_nd_backward_weight
)
conv_transpose1d, conv_transpose2d, conv_transpose3d = of_dimensions(convolution.conv_transpose_nd)
conv_transpose1d_backward_input, conv_transpose2d_backward_input, conv_transpose3d_backward_input = (
    of_dimensions(convolution.conv_transpose_nd_backward_input)
)
conv_transpose1d_backward_weight, conv_transpose2d_backward_weight, conv_transpose3d_backward_weight = (
    of_dimensions(convolution.conv_transpose_nd_backward_weight)
)
max_pool1d, max_pool2d, max_pool3d = of_dimensions(pooling.max_pool_nd)
max_pool1d_backward, max_pool2d_backward, max_pool3d_backward = of_dimensions(pooling.max_pool_nd_backward)
avg_pool1d, avg_pool2d, avg_pool3d = of_dimensions(pooling.avg_pool_nd)
avg_pool1d_backward, avg_pool2d_backward, avg_pool3d_backward = of_dimensions(pooling.avg_pool_nd_backward)
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = of_dimensions(pooling.adaptive_avg_pool_nd)
adaptive_avg_pool1d_backward, adaptive_avg_pool2d_backward, adaptive_avg_pool3d_backward = of_dimensions(
    pooling.adaptive_avg_pool_nd_backward
)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = of_dimensions(pooling.adaptive_max_pool_nd)
adaptive_max_pool1d_backward, adaptive_max_pool2d_backward, adaptive_max_pool3d_backward = of_dimensions(
    pooling.adaptive_max_pool_nd_backward
)

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool1d_backward",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool3d",
    "adaptive_avg_pool3d_backward",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_backward",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "conv1d",
    "conv1d_backward_input",
    "conv1d_backward_weight",
    "conv2d",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "conv3d",
    "conv3d_backward_input",
    "conv3d_backward_weight",
    "conv_transpose1d",
    "conv_transpose1d_backward_input",
    "conv_transpose1d_backward_weight",
    "conv_transpose2d",
    "conv_transpose2d_backward_input",
    "conv_transpose2d_backward_weight",
    "conv_transpose3d",
    "conv_transpose3d_backward_input",
    "conv_transpose3d_backward_weight",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool3d",
    "max_pool3d_backward",
    "register",
]
