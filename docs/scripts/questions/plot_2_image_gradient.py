"""
How do I compute dL/dX of a convolutional layer with 16 filters and 3 channels?
===============================================================================

Most explanations of a convolution's backward pass have one filter and one channel. Here the image is 5x5x3,
with its channels last, there are 16 filters of 3x3x3, and the gradient of the loss by the 3x3x16 output is
known. The gradient by the filters is found, but how does one get the gradient by the image, which must be
5x5x3 again?

**Every output cell hands its gradient, times its filter, back to the window that it was computed from;
dL/dX is the sum of these shares over all 9 positions and all 16 filters.**
"""

# %%
# The shapes
# ----------
#
# The image has its channels last and there is no batch. fastconv takes it as it is with ``layout="NHWC"``;
# filters are then 16x3x3x3 with the channels last, too.

import matplotlib.pyplot as plt
import numpy as np

import fastconv

rng = np.random.default_rng(0)
x = rng.standard_normal((5, 5, 3))  # height, width, channels
filters = rng.standard_normal((16, 3, 3, 3))  # filters, height, width, channels

h = fastconv.conv2d(x, filters, layout="NHWC")
grad_h = rng.standard_normal(h.shape)  # dL/dh, from the layer above
print("output and its gradient:", h.shape)

# %%
# By hand
# -------
#
# The forward pass says ``h[i, j, k] = sum(x[i:i+3, j:j+3] * filters[k])``. So a change of ``x`` inside that
# window changes ``h[i, j, k]`` by the filter's number there, and the loss by ``grad_h[i, j, k]`` times it.
# The loop keeps the 16 filters apart, to show what each of them contributes.

by_filter = np.zeros((16, 5, 5, 3))
for k in range(16):
    for i in range(3):
        for j in range(3):
            by_filter[k, i : i + 3, j : j + 3] += grad_h[i, j, k] * filters[k]
grad_x = by_filter.sum(axis=0)
print("one gradient for each filter:", by_filter.shape)
print("their sum, dL/dX:", grad_x.shape)

# %%
# This sum is what the asker found, too: dL/dX of each of the 16 channels of the output, all added up. The
# sum is there because the image enters all 16 of them, and the gradient of something that is used several
# times is the sum over its uses.
#
# With fastconv
# -------------

answer = fastconv.conv2d_backward_input(grad_h, filters, x.shape, layout="NHWC")
print("dL/dX equal to the loops:", np.allclose(answer, grad_x))

# %%
# The gradient by the filters comes from the same two arrays, and ``conv2d_backward`` gives all gradients at
# once.

# (3, 3, channels, 3, 3): for each output cell what it sees
windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))
grad_filters = np.einsum("ijk,ijcrs->krsc", grad_h, windows)

grads = fastconv.conv2d_backward(grad_h, x, filters, layout="NHWC")
print("dL/dX:", grads.input.shape, np.allclose(grads.input, grad_x))
print("dL/dw:", grads.weight.shape, np.allclose(grads.weight, grad_filters))
print("dL/db:", grads.bias.shape, np.allclose(grads.bias, grad_h.sum(axis=(0, 1))))

# %%
# The picture has the first of the three channels: at the left the share of each filter, at the right their
# sum.

figure = plt.figure(figsize=(8, 4.2), layout="constrained")
left, right = figure.subfigures(1, 2)
left.suptitle("the 16 shares, channel 0")
right.suptitle("their sum: dL/dX, channel 0")
limit = np.abs(grad_x[..., 0]).max()
for share, axes in zip(by_filter[..., 0], left.subplots(4, 4).flat, strict=True):
    axes.imshow(share, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_axis_off()
axes = right.subplots()
image = axes.imshow(grad_x[..., 0], cmap="RdBu_r", vmin=-limit, vmax=limit)
axes.set(xlabel="column", ylabel="row", xticks=range(5), yticks=range(5))
right.colorbar(image, ax=axes, shrink=0.7)
plt.show()

# %%
# The convolution as one matrix
# -----------------------------
#
# The answer that the question got says something else that is worth seeing: a convolution is a dense layer
# whose matrix has few different numbers. A 3x3 kernel takes a 4x4 image to a 2x2 output, so as a dense
# layer it is a matrix of 4x16. ``conv_matrix`` builds it. Of its 64 cells 28 are zero, and the other 36
# hold the 9 numbers of the kernel.

kernel = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
small = rng.standard_normal((1, 4, 4))  # channels first here, no batch
matrix = fastconv.conv_matrix(kernel, small.shape)
print("matrix:", matrix.shape)
print("cells in use:", matrix.nnz)
print("different numbers:", len(np.unique(matrix.data)))

small_output = fastconv.conv2d(small, kernel)
print("forward:", np.allclose(matrix @ small.ravel(), small_output.ravel()))

# %%
# Its gradient is that of every dense layer: the transposed matrix times the gradient above.

grad_output = rng.standard_normal(small_output.shape)
grad_small = fastconv.conv2d_backward_input(grad_output, kernel, small.shape)
print("backward:", np.allclose(matrix.T @ grad_output.ravel(), grad_small.ravel()))

# %%
# Each row of the matrix belongs to one output cell, and has the kernel where that cell looks at the image.
# Read downwards, each column belongs to one image cell: it lists which numbers of the kernel the cell
# meets. A row is what the forward pass sums over, a column is what the backward pass sums over. In the
# picture ``k12`` stands for ``kernel[0, 0, 1, 2]``.

dense = matrix.toarray()
figure, axes = plt.subplots(figsize=(8, 2.7), layout="constrained")
axes.imshow(np.ma.masked_equal(dense, 0), cmap="Pastel1", vmin=0.5, vmax=9.5)
for (row, column), number in np.ndenumerate(dense):
    if number:
        r, s = divmod(int(number) - 1, 3)
        axes.text(column, row, f"k{r}{s}", ha="center", va="center", fontsize=9)
axes.set_xticks(range(16), [f"{i},{j}" for i in range(4) for j in range(4)], fontsize=8)
axes.set_yticks(range(4), [f"{i},{j}" for i in range(2) for j in range(2)], fontsize=8)
axes.set_xticks(np.arange(17) - 0.5, minor=True)
axes.set_yticks(np.arange(5) - 0.5, minor=True)
axes.grid(which="minor", color="0.85")
axes.tick_params(which="both", length=0)
axes.set(xlabel="image cell (row, column)", ylabel="output cell")
plt.show()

# %%
# See it cell by cell
# -------------------
#
# This is the same layer, a 4x4 image and a 3x3 kernel, forward and backward.

fastconv.explain("1x1x4x4-1k3x3")

# %%
# What to read next
# -----------------
#
# - :doc:`plot_1_error_shapes` writes the same pass as a full convolution with rotated filters.
# - :doc:`plot_5_matrix_notation` has another matrix, that of the columns, which stays small for large
#   images.
# - :doc:`/howto/your-own-network` has the other orders of axes that filters and images come in.
