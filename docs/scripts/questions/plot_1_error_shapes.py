"""
How can a 10x6x8x8 error and 6x3x5x5 filters give a 10x3x12x12 error?
=====================================================================

Somebody trains a network with two convolutional layers, and backpropagation has reached the output of the
second one: an error of 10x6x8x8. The textbook says to rotate the filters, which are 6x3x5x5, by 180 degrees
and to take the full convolution of the error with them. The result has to be 10x3x12x12, but the channels
do not seem to fit: should the filters be reshaped to 3x6x5x5?

**Rotate the filters by 180 degrees and exchange their first two axes (a transpose, not a reshape), and the
full convolution of the 10x6x8x8 error with these 3x6x5x5 filters is the 10x3x12x12 error.**
"""

# %%
# The shapes
# ----------
#
# There are 10 images in the batch. After the first pooling each has 3 channels of 12x12 cells. The second
# layer has 6 filters of 3x5x5, and its output has 12 - 5 + 1 = 8 rows and columns. The *error* of a layer is
# the gradient of the loss by the layer's output, dY in other books, and so it has the output's shape.

import matplotlib.pyplot as plt
import numpy as np

import fastconv

rng = np.random.default_rng(0)
pooled = rng.standard_normal((10, 3, 12, 12))  # batch, channels, height, width
filters = rng.standard_normal((6, 3, 5, 5))  # filters, channels, height, width

output = fastconv.conv2d(pooled, filters)
error = rng.standard_normal(output.shape)  # stands for what came back so far
print("output and its error:", output.shape)

# %%
# By hand
# -------
#
# The rule behind all recipes is the chain rule, and it needs no rotation. A *tap* is one place of a filter,
# so that a 5x5 filter has 25 of them in each channel. In the forward pass, tap ``[r, s]`` of filter ``k``
# carried the input cell ``[c, i + r, j + s]`` to the output cell ``[k, i, j]``. In the backward pass, the
# same tap carries the error of that output cell back to that input cell. An input cell adds up all that
# reaches it.

below = np.zeros(pooled.shape)
for r in range(5):
    for s in range(5):
        # (10, 3, 8, 8) = (10, 6, 8, 8) times (6, 3), summed over the 6 filters
        shares = np.einsum("nkij,kc->ncij", error, filters[:, :, r, s])
        below[:, :, r : r + 8, s : s + 8] += shares
print("error below the layer:", below.shape)

# %%
# The sum runs over the filters, ``k``, and what is left of the filters' axes is the channels, ``c``. This
# is why the first two axes have to change places in any recipe that writes this as a convolution: the 6
# filters become the channels that are summed over, and the 3 channels become the filters.
#
# With fastconv
# -------------
#
# ``conv2d_backward_input`` takes the error and the filters as they are.

answer = fastconv.conv2d_backward_input(error, filters, pooled.shape)
print("equal to the loops:", np.allclose(answer, below))

# %%
# The recipe
# ----------
#
# The same as a full convolution: seen from the input cell ``[h, w]``, the error comes from ``[h - r, w -
# s]``. The index of the error falls where the index of the filter rises, and the rotation turns this
# around. "Full" means that the error is padded with 4 zeros on all sides, so that every position is taken
# where it touches the filters: 8 + 5 - 1 = 12 of them.
#
# The asker nests two calls of ``np.rot90``, each a turn of 90 degrees in the last two axes. One call with the
# number 2 is the same: ``np.rot90(filters, 2, axes=(2, 3))``.

rotated = np.rot90(filters, 2, axes=(2, 3))  # or filters[:, :, ::-1, ::-1]
exchanged = rotated.transpose(1, 0, 2, 3)
print("filters for the way back:", exchanged.shape)

by_recipe = fastconv.conv2d(error, exchanged, padding="full")
print("shape:", by_recipe.shape)
print("equal to the loops:", np.allclose(by_recipe, below))

# %%
# Why not reshape?
# ----------------
#
# Filters whose first two axes are not exchanged do not fit the error, and the message says what to do:

try:
    fastconv.conv2d(error, rotated, padding="full")
except ValueError as message:
    print(message)

# %%
# A reshape to 3x6x5x5 has the right shape and gives a result of the right shape, and that makes it a
# dangerous mistake: the numbers are wrong, and no error message says so.

reshaped = rotated.reshape(3, 6, 5, 5)
wrong = fastconv.conv2d(error, reshaped, padding="full")
print("shape:", wrong.shape)
print("equal to the loops:", np.allclose(wrong, below))

# %%
# There are 18 kernels of 5x5, one for each pair of a filter and a channel. A reshape leaves them in the
# order in which they lie in memory and only draws the borders of the rows elsewhere. A transpose moves each
# of them to its new place. In the picture the colours are those of the six filters; only in the upper table
# does every row belong to one channel and every column to one filter.

names = np.array([[f"filter {k}\nchannel {c}" for c in range(3)] for k in range(6)])
owners = np.repeat(np.arange(6)[:, None], 3, axis=1)
figure, panels = plt.subplots(2, 1, figsize=(7, 5.6), layout="constrained")
tables = (
    ("transpose(1, 0, 2, 3): every kernel where it belongs", names.T, owners.T),
    ("reshape(3, 6, 5, 5): the old order, cut elsewhere", names.reshape(3, 6), owners.reshape(3, 6)),
)
for axes, (title, texts, colours) in zip(panels, tables, strict=True):
    axes.imshow(colours, cmap="Pastel1", vmin=-0.5, vmax=8.5, aspect="auto")
    for (row, column), text in np.ndenumerate(texts):
        axes.text(column, row, text, ha="center", va="center", fontsize=9)
    axes.set_title(title)
    axes.set_xticks(range(6))
    axes.set_yticks(range(3))
    axes.set_xlabel("is multiplied by error channel")
    axes.set_ylabel("adds to\nresult channel")
    axes.tick_params(length=0)
plt.show()

# %%
# See it cell by cell
# -------------------
#
# Here is a smaller layer of the same kind: one image with 2 channels of 4x4, and 3 filters of 2x2x2. Point
# at a cell of the input's gradient, and all cells light up that it is summed from.

fastconv.explain("1x2x4x4-3k2x2")

# %%
# What to read next
# -----------------
#
# - :doc:`plot_2_image_gradient` has the same pass for images whose channels are last, and as one matrix.
# - :doc:`plot_3_kernel_and_bias` has the other gradient, that of the filters themselves.
# - :doc:`/howto/your-own-network` puts these calls into a network that exists already.
# - :doc:`/reference/convolution` has every argument of ``conv2d_backward_input`` and the other passes.
