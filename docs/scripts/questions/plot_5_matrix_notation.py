"""
How do I write the weight gradient of a convolutional layer in matrix notation?
===============================================================================

A network has a convolution with 3 filters of 1x3x3, ReLU and 2x2 max-pooling, then a convolution with 10
filters of 3x4x4, ReLU and max-pooling again. How the gradient passes the pooling and the ReLU is clear. But
how does one get the gradient of the filters' weights, and is there a way to write it with matrices?

**Write the cells that each output cell sums over as a column, so that the convolution is Y = W @ col(X):
then the gradient of the weights is dW = dY @ col(X)ᵀ, and that of the input is dX = col2im(Wᵀ @ dY).**
"""

# %%
# The shapes
# ----------
#
# In the notation of the question, the image is 1x28x28. The first convolution makes 3x26x26 of it, and the
# pooling 3x13x13; the second makes 10x10x10, and its pooling 10x5x5. These are its matrices:
#
# ============  =============  ===========================  =============================
# layer         W              col(X)                       Y
# ============  =============  ===========================  =============================
# 3 @ 1x3x3     3 x 9          9 x 676 (676 is 26 · 26)     3 x 676
# 10 @ 3x4x4    10 x 48        48 x 100 (48 is 3 · 4 · 4)   10 x 100
# ============  =============  ===========================  =============================

import matplotlib.pyplot as plt
import numpy as np

import fastconv
from fastconv.demo.data import digits

rng = np.random.default_rng(0)
image = digits().train_images[0].astype("float64")  # (1, 28, 28)
slope = np.array([[-0.5, 0, 0.5]] * 3)
mean = np.full((3, 3), 1 / 9)
filters1 = np.stack([slope, slope.T, mean])[:, None]  # (3, 1, 3, 3): two edges and a mean
filters1 += rng.normal(0, 0.05, filters1.shape)
filters2 = rng.normal(0, 0.2, (10, 3, 4, 4))


# %%
# By hand
# -------
#
# Row ``(c, r, s)`` of the columns is the channel ``c``, shifted by ``r`` rows and ``s`` columns. ``col2im``
# goes the other way: each row is added back to where it came from, and cells that several windows share add
# up.


def im2col(x, size):
    """The columns of (C, H, W): an array (C*size*size, OH*OW)."""
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    rows = [x[:, r : r + height, s : s + width] for r, s in np.ndindex(size, size)]
    return np.stack(rows, axis=1).reshape(-1, height * width)


def col2im(columns, shape, size):
    """The columns added back into an array of the given shape (C, H, W)."""
    height, width = shape[1] - size + 1, shape[2] - size + 1
    x, rows = np.zeros(shape), columns.reshape(shape[0], size, size, height, width)
    for r, s in np.ndindex(size, size):
        x[:, r : r + height, s : s + width] += rows[:, r, s]
    return x


# %%
# ReLU and pooling are the part that the asker knows. As code, the gradient of the ReLU is a mask. The
# pooling also gives a mask: the first cell in each block of 2x2 that is the maximum has a 1.


def pool(x):
    """The maxima of blocks of 2x2, and the mask of where they stood; all extents must be even."""
    c, h, w = x.shape
    blocks = x.reshape(c, h // 2, 2, w // 2, 2).swapaxes(2, 3).reshape(c, h // 2, w // 2, 4)
    chosen = np.arange(4) == blocks.argmax(axis=-1)[..., None]
    mask = chosen.reshape(c, h // 2, w // 2, 2, 2).swapaxes(2, 3).reshape(c, h, w)
    return blocks.max(axis=-1), mask


def unpool(gradient, mask):
    """Each number of the gradient in the cell that its maximum came from."""
    return gradient.repeat(2, axis=1).repeat(2, axis=2) * mask


# %%
# The forward pass is then two matrix products:

w1, w2 = filters1.reshape(3, 9), filters2.reshape(10, 48)
columns1 = im2col(image, 3)  # (9, 676)
y1 = (w1 @ columns1).reshape(3, 26, 26)
p1, mask1 = pool(np.maximum(y1, 0))  # (3, 13, 13)
columns2 = im2col(p1, 4)  # (48, 100)
y2 = (w2 @ columns2).reshape(10, 10, 10)
p2, mask2 = pool(np.maximum(y2, 0))  # (10, 5, 5)

# %%
# The backward pass begins with the gradient of what the network ends with. The question stops at the second
# pooling; a random gradient stands here for all that comes after it. Each layer takes two steps: back
# through pooling and ReLU to dY, and then dW.

grad_p2 = rng.standard_normal(p2.shape)

dy2 = unpool(grad_p2, mask2) * (y2 > 0)  # (10, 10, 10)
dw2 = dy2.reshape(10, 100) @ columns2.T  # (10, 48) = (10, 100) @ (100, 48)
dcolumns2 = w2.T @ dy2.reshape(10, 100)  # (48, 100) = (48, 10) @ (10, 100)
grad_p1 = col2im(dcolumns2, p1.shape, 4)  # (3, 13, 13)

dy1 = unpool(grad_p1, mask1) * (y1 > 0)  # (3, 26, 26)
dw1 = dy1.reshape(3, 676) @ columns1.T  # (3, 9) = (3, 676) @ (676, 9)
print("dW of the 3 filters:", dw1.reshape(filters1.shape).shape)
print("dW of the 10 filters:", dw2.reshape(filters2.shape).shape)

# %%
# Why this product is right can be read from the forward pass. ``Y = W @ col(X)`` says that ``W[k, t]`` is
# multiplied by ``col(X)[t, p]`` for every pixel ``p``. So its gradient is the sum over the pixels of
# ``dY[k, p] * col(X)[t, p]``, and that sum is the matrix product. It is equation for equation the fully
# connected layer, with pixels in the place of images.
#
# A numerical check of one weight of the first layer, whose gradient went through all of this:


def loss():
    p, _ = pool(np.maximum((w1 @ columns1).reshape(3, 26, 26), 0))
    q, _ = pool(np.maximum((w2 @ im2col(p, 4)).reshape(10, 10, 10), 0))
    return np.sum(q * grad_p2)  # its gradient by q is grad_p2


step = 1e-6
w1[1, 4] += step
ahead = loss()
w1[1, 4] -= 2 * step
behind = loss()
w1[1, 4] += step
print("difference quotient:", np.isclose((ahead - behind) / (2 * step), dw1[1, 4]))

# %%
# With fastconv
# -------------
#
# The same network forward and backward. ``conv2d_backward`` computes these products, but it never holds the
# whole matrix of columns, which for a 3x3 kernel is nine times as large as its image.

r1 = np.maximum(fastconv.conv2d(image, filters1), 0)
q1, indices1 = fastconv.max_pool2d(r1, 2, return_indices=True)
r2 = np.maximum(fastconv.conv2d(q1, filters2), 0)
q2, indices2 = fastconv.max_pool2d(r2, 2, return_indices=True)
print("forward:", np.allclose(q2, p2))

error2 = fastconv.max_pool2d_backward(grad_p2, indices2, r2.shape) * (r2 > 0)
layer2 = fastconv.conv2d_backward(error2, q1, filters2)
error1 = fastconv.max_pool2d_backward(layer2.input, indices1, r1.shape) * (r1 > 0)
layer1 = fastconv.conv2d_backward(error1, image, filters1, needs=("weight",))
print("dW of the 3 filters:", np.allclose(layer1.weight, dw1.reshape(3, 1, 3, 3)))
print("dW of the 10 filters:", np.allclose(layer2.weight, dw2.reshape(10, 3, 4, 4)))

# %%
# Where you want the matrices themselves, ``fastconv.im2col`` and ``fastconv.col2im`` have them, for a batch
# or for one image. For a batch, the products of all images are added up.

print("col(X):", np.array_equal(fastconv.im2col(p1, 4), columns2))
# fastconv.col2im takes (H, W), where the one by hand takes (C, H, W)
print("col2im:", np.allclose(fastconv.col2im(dcolumns2, (13, 13), 4), grad_p1))

# %%
# The picture is the product of the second layer, drawn to scale: one row of dY for each of the 10 filters,
# one column of col(X)ᵀ for each of their 48 weights. The 100 pixels in between are summed over. Most of dY
# is white, because pooling and ReLU let through at most one cell of four.

parts = (
    ("dW, 10 x 48", dw2, "weights", "filters"),
    ("dY, 10 x 100", dy2.reshape(10, 100), "pixels", "filters"),
    ("col(X)ᵀ, 100 x 48", columns2.T, "weights", "pixels"),
)
widths = [array.shape[1] for _, array, _, _ in parts]
figure, panels = plt.subplots(1, 3, figsize=(8, 4.4), width_ratios=widths)
figure.subplots_adjust(left=0.06, right=0.99, bottom=0.05, top=0.95, wspace=0.3)
for axes, (title, array, across, down) in zip(panels, parts, strict=True):
    limit = np.abs(array).max()
    axes.imshow(array, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set(title=title, xlabel=across, ylabel=down, xticks=[], yticks=[])
for left, right, sign in zip(panels, panels[1:], "=@", strict=False):
    middle = (left.get_position().x1 + right.get_position().x0) / 2
    figure.text(middle - 0.012, 0.5, sign, fontsize=18, ha="center", va="center")
plt.show()

# %%
# See it cell by cell
# -------------------
#
# The first page is a smaller layer of the same kind, 2 filters on a 5x5 image: its weight gradient is shown
# as the product of dY and the columns, too.

fastconv.explain("1x1x5x5-2k3x3")

# %%
# The second shows how max-pooling sends a gradient back.

fastconv.explain(rng.integers(0, 10, (1, 1, 6, 6)).astype("float64"), max_pool=2)

# %%
# What to read next
# -----------------
#
# - :doc:`plot_3_kernel_and_bias` has the same gradient as a correlation, without matrices.
# - :doc:`plot_2_image_gradient` has a third way to write it: the convolution itself as one sparse matrix.
# - :doc:`/howto/your-own-network` says what replaces cached columns, and gradients where several cells equal
#   the maximum.
