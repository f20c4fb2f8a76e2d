"""
Max-pooling: where its gradient goes
====================================

Max-pooling passes the largest cell of every window on, so the gradient of a window goes back to that one
cell, and all the others get zero. ``return_indices=True`` keeps where the maxima were. Where windows
overlap, a cell may be the maximum of several of them, and their gradients add up.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastconv

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})

# %%
# Windows of 3 × 3 cells at stride 2 overlap by one row and one column. The image has 7 × 7 cells of small
# whole numbers, no two of them equal.

rng = np.random.default_rng(8)
x = rng.permutation(49).reshape(1, 1, 7, 7).astype(float)
y, indices = fastconv.max_pool2d(x, 3, stride=2, return_indices=True)
print("x      ", x.shape)
print("y      ", y.shape)
print("indices", indices.shape)
print(indices[0, 0])

# %%
# An index counts the cells of the image row by row. With seven columns, index 9 is row 1, column 2. Index 20
# is there twice, because one cell is the maximum of two windows. The backward pass needs nothing but these
# indices and the size of the image.

error = np.arange(1.0, 10).reshape(y.shape)
gradient = fastconv.max_pool2d_backward(error, indices, x.shape)
print("error   ", error.shape)
print("gradient", gradient.shape)
print("sums are equal:", error.sum() == gradient.sum())

# %%
# The upper pictures are the forward pass, with the maxima framed. The lower ones are the backward pass, where
# every number of the error goes to the cell that was the maximum of its window. The cell of the 48 gets 3 + 6
# = 9 from its two windows.


def draw(ax, numbers, colours, title, framed=()):
    """Numbers in cells; ``framed`` are flat indices."""
    ax.imshow(numbers, cmap=colours, vmin=0, vmax=1.6 * numbers.max())
    for (row, column), number in np.ndenumerate(numbers):
        ax.text(column, row, f"{number:.0f}", ha="center", va="center")
    for index in framed:
        row, column = divmod(index, numbers.shape[1])
        ax.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=3))
    ax.set(xticks=[], yticks=[], title=title)


maxima = np.unique(indices)
fig, axes = plt.subplots(2, 2, figsize=(6.4, 8.4), layout="constrained", width_ratios=[7, 4])
draw(axes[0, 0], x[0, 0], "Blues", "x", maxima)
draw(axes[0, 1], y[0, 0], "Blues", "y: the maxima")
draw(axes[1, 0], gradient[0, 0], "Oranges", "gradient of x", maxima)
draw(axes[1, 1], error[0, 0], "Oranges", "error: gradient of y")
plt.show()

# %%
# The same layer can be explored: point at a cell, and see where its number comes from and where it goes.

fastconv.explain(x, max_pool=3, stride=2, grad_output=error)

# %%
# Equal maxima
# ------------
# If a window has several cells that equal its maximum, the first of them gets the gradient.
# :func:`fastconv.max_pool2d_backward_ties` gives it to every one of them instead, as a backward pass
# written with ``x == x.max()`` does.

x = np.array([[1.0, 5.0], [5.0, 2.0]])[np.newaxis, np.newaxis]
y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
print(fastconv.max_pool2d_backward(np.ones_like(y), indices, x.shape)[0, 0])
print(fastconv.max_pool2d_backward_ties(np.ones_like(y), x, 2)[0, 0])

# %%
# .. seealso::
#
#    :func:`fastconv.max_pool2d`, :func:`fastconv.max_pool2d_backward`, :func:`fastconv.max_unpool2d`;
#    :doc:`/tutorial/plot_3_check_gradients` for what ties do to a gradient check.
