"""
A convolution as one sparse matrix, and its transpose as the gradient
=====================================================================

A convolution is linear, so it is the product with a matrix, if images are written as vectors.
:func:`fastconv.conv_matrix` gives this matrix. Its pattern shows what stride, padding, channels and groups
mean, and its transpose *is* the backward pass.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastconv

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})
rng = np.random.default_rng(0)

# %%
# The matrix has a row for every output cell and a column for every input cell. In a row stand the weights
# of the filter, at the cells that it covers; everything else is zero.

x = rng.standard_normal((1, 2, 8, 8))
w = rng.standard_normal((3, 2, 3, 3))
matrix = fastconv.conv_matrix(w, x.shape, padding=1, stride=2)
y = fastconv.conv2d(x, w, padding=1, stride=2)
print("matrix", matrix.shape, type(matrix).__name__, f"{matrix.nnz} of {np.prod(matrix.shape)} not zero")
print("forward is M @ x:     ", np.allclose(matrix @ x.ravel(), y.ravel()))

# %%
# The gradient of the input is the product with the transpose. There is nothing else to the backward pass:
# the rotated filters and the full padding of the textbooks are what this transpose looks like when it is
# written as a convolution.

error = rng.standard_normal(y.shape)
gradient = fastconv.conv2d_backward_input(error, w, x.shape, padding=1, stride=2)
print("backward is M.T @ error:", np.allclose(matrix.T @ error.ravel(), gradient.ravel()))

# %%
# These are five patterns for images of 8 × 8 cells and a filter of 3 × 3. Each colour is one of the nine
# weights of the filter, which stands in the first picture. The same nine weights come back in row after row,
# and this is what "shared weights" means. With padding, the rows at the border lack some of them.

numbers = np.arange(1.0, 10).reshape(3, 3)


def pattern(channels=1, **steps):
    """The matrix with the number of the weight, from 1 to 9, where the weight would stand."""
    weight = np.tile(numbers, (channels, 1, 1, 1))
    return fastconv.conv_matrix(weight, (1, channels, 8, 8), groups=channels, **steps).toarray()


pictures = {
    "the filter": numbers,
    "padding 1": pattern(padding=1),
    "stride 1": pattern(),
    "2 channels in 2 groups": pattern(2),
    "stride 2, padding 1": pattern(padding=1, stride=2),
    "dilation 2": pattern(dilation=2),
}
fig, axes = plt.subplots(3, 2, figsize=(6.4, 7.8), layout="constrained", height_ratios=[64, 36, 16])
for ax, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
    print(f"{name:22} {picture.shape}")
    ax.imshow(np.ma.masked_equal(picture, 0), cmap="turbo", vmin=1, vmax=9, interpolation="nearest")
    ax.set(xticks=[], yticks=[], title=f"{name}:\n{picture.shape[0]} x {picture.shape[1]}")
for (row, column), number in np.ndenumerate(numbers):
    colour = "white" if number in (1, 2, 8, 9) else "black"
    axes[0, 0].text(column, row, f"{number:.0f}", ha="center", va="center", color=colour)
plt.show()

# %%
# .. seealso::
#
#    :func:`fastconv.conv_matrix`, :func:`fastconv.conv2d_backward_input`, :func:`fastconv.im2col`;
#    :doc:`/questions/plot_5_matrix_notation` for the gradients as matrix products.
