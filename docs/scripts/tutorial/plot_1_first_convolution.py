"""
1. Convolve an image: filters, padding, stride and channels
===========================================================

In this lesson we slide a small filter over a photograph, see which shapes go in and come out, and learn
what padding and stride do to the size of the result. At the end we meet the column matrix, which turns all
of this into one matrix product. You need to know NumPy arrays, and nothing about neural networks.
"""

# %%
# An image is an array
# --------------------
# We take a photograph that comes with scikit-learn. It is an array of three axes: height, width and colour.
# For the first steps a grey image is enough, so we average the three colours and scale the numbers to lie
# between 0 and 1.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import fastconv

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})

photo = load_sample_image("china.jpg")
grey = photo.mean(axis=2).astype("float32") / 255

print("photo", photo.shape, photo.dtype)
print("grey ", grey.shape, grey.dtype)

# %%
# A filter is a small array
# -------------------------
# This filter has three rows and three columns. Its numbers are positive on the right and negative on the
# left.

filter_ = np.array(
    [
        [-1, 0, 1],
        [-2, 0, 2],
        [-1, 0, 1],
    ],
    dtype="float32",
)

# %%
# To convolve is to lay the filter over a part of the image of the same size, to multiply the two cell by
# cell, and to add up the nine products. That gives one number, which belongs to this place. Here it is for
# the place whose first cell is in row 100 and column 200:

part = grey[100:103, 200:203]
by_hand = np.sum(part * filter_)
print(f"{by_hand:.4f}")

# %%
# :func:`fastconv.conv2d` does the same at every place of the image. It works on many images of many
# channels at once, so its arrays have four axes: ``(batch, channels, height, width)`` for the images and
# ``(filters, channels, height, width)`` for the filters. We have one image of one channel, and one filter.

x = grey[np.newaxis, np.newaxis]
w = filter_[np.newaxis, np.newaxis]
y = fastconv.conv2d(x, w)

print("x", x.shape)
print("w", w.shape)
print("y", y.shape)
print("the same number as by hand:", np.isclose(y[0, 0, 100, 200], by_hand))

# %%
# Where the image is brighter on the right than on the left, the result is positive; where it is darker,
# negative; and where the image is even, it is zero. The filter has found the upright edges of the building.

fig, axes = plt.subplots(2, 1, figsize=(6.4, 9.1), layout="constrained")
axes[0].imshow(grey, cmap="gray")
axes[0].set_title("x: the grey image")
axes[1].imshow(y[0, 0], cmap="RdBu_r", vmin=-1.5, vmax=1.5)
axes[1].set_title("y: brighter to the right (red), darker (blue)")
for ax in axes:
    ax.axis("off")
plt.show()

# %%
# The filter is applied as it is written. Mathematicians flip it first, and call what we did a
# *cross-correlation*; all frameworks for neural networks leave it unflipped and say "convolution", and so
# does fastconv.
#
# How large the output is
# -----------------------
# The result has two rows and two columns fewer than the image, because a filter of three cells that starts
# in the first row can move down by only 427 − 3 = 424 rows before it meets the lower edge. With its
# starting place, that makes 425 rows. Two arguments change this:
#
# - ``padding`` surrounds the image with so many rows and columns of zeros;
# - ``stride`` is the number of cells by which the filter moves on.
#
# For an image of H rows and a filter of R rows, the output has ``(H + 2 * padding - R) // stride + 1``
# rows. Its columns are counted in the same way.

for padding, stride in [(0, 1), (1, 1), (0, 2), (1, 2)]:
    y = fastconv.conv2d(x, w, padding=padding, stride=stride)
    rows = (427 + 2 * padding - 3) // stride + 1
    columns = (640 + 2 * padding - 3) // stride + 1
    print(f"padding {padding}, stride {stride}: {y.shape}, by the formula {(rows, columns)}")

# %%
# Here are the same four cases for an image of 7 × 7 cells. The padding is drawn dotted. Every green dot is
# the middle of a place where the filter stops, and so every dot is one cell of the output. The first two
# places are outlined.

fig, axes = plt.subplots(2, 2, figsize=(6.4, 7), layout="constrained")
for ax, (padding, stride) in zip(axes.flat, [(0, 1), (1, 1), (0, 2), (1, 2)], strict=True):
    for row in range(-padding, 7 + padding):
        for column in range(-padding, 7 + padding):
            inside = 0 <= row < 7 and 0 <= column < 7
            style = {"facecolor": "#9ecae9"} if inside else {"facecolor": "white", "linestyle": ":"}
            ax.add_patch(plt.Rectangle((column, row), 1, 1, edgecolor="#555555", **style))
    size = (7 + 2 * padding - 3) // stride + 1
    middles = np.arange(size) * stride - padding + 1.5
    ax.scatter(*np.meshgrid(middles, middles), s=50, color="#2f7d32", zorder=3)
    for place, colour in [(1, "#f5a04a"), (0, "#d1495b")]:
        corner = (place * stride - padding, -padding)
        ax.add_patch(plt.Rectangle(corner, 3, 3, fill=False, edgecolor=colour, linewidth=3))
    ax.set(xlim=(-1.2, 8.2), ylim=(8.2, -1.2), aspect="equal")
    ax.set_title(f"padding {padding}, stride {stride}:\noutput {size} x {size}")
    ax.axis("off")
plt.show()

# %%
# Instead of counting zeros, you can say what you want: ``padding="same"`` keeps the size of the image (at
# stride 1), ``padding="full"`` takes every place where filter and image meet in at least one cell, and
# ``"valid"`` is another word for 0.

for padding in ["valid", "same", "full"]:
    print(f"{padding:5}", fastconv.conv2d(x, w, padding=padding).shape)

# %%
# Channels: every filter looks at all of them
# -------------------------------------------
# A colour image has three channels. They come second in the shape, so we move the last axis of the
# photograph to the front. A filter then has a 3 × 3 array for each channel, and the products of all three
# channels are added up to one number. An output channel therefore belongs to a *filter*, and no longer to a
# colour.
#
# Here are three filters: upright edges, level edges, and one that compares the red light with the blue.

x = photo.transpose(2, 0, 1)[np.newaxis].astype("float32") / 255

w = np.zeros((3, 3, 3, 3), dtype="float32")
w[0, :] = filter_ / 3  # the same for each of the three channels, so that their mean counts
w[1, :] = filter_.T / 3
w[2, 0] = 1 / 9  # the mean of the red channel ...
w[2, 2] = -1 / 9  # ... minus the mean of the blue one
b = np.zeros(3, dtype="float32")  # the bias: one number for each filter, added to its whole output

y = fastconv.conv2d(x, w, b, padding="same")
print("x", x.shape)
print("w", w.shape)
print("b", b.shape)
print("y", y.shape)

# %%
# A batch: many images in one call
# --------------------------------
# The first axis counts images. They do not influence one another: the photograph has the same result beside
# the flower as alone.

flower = load_sample_image("flower.jpg")
x = np.stack([photo, flower]).transpose(0, 3, 1, 2).astype("float32") / 255
alone = y
y = fastconv.conv2d(x, w, b, padding="same")
print("x", x.shape)
print("y", y.shape)
print("the same as alone:", np.allclose(y[:1], alone, atol=1e-6))

fig, axes = plt.subplots(4, 2, figsize=(6.4, 9.2), layout="constrained")
axes[0, 0].set_title("image 0")
axes[0, 1].set_title("image 1")
names = ["x", "y: upright edges", "y: level edges", "y: red against blue"]
for image in range(2):
    axes[0, image].imshow(x[image].transpose(1, 2, 0))
    for filter_number in range(3):
        most = np.abs(y[:, filter_number]).max() * 0.4
        axes[filter_number + 1, image].imshow(y[image, filter_number], cmap="RdBu_r", vmin=-most, vmax=most)
for row, name in zip(axes, names, strict=True):
    row[0].set_ylabel(name)
    for ax in row:
        ax.set(xticks=[], yticks=[])
plt.show()

# %%
# What happens inside: columns
# ----------------------------
# Let us write down, for a tiny image, the nine cells under the filter as a column, and do so for every
# place where the filter stops. This matrix is what :func:`fastconv.im2col` gives ("image to columns"). The
# image has 4 × 4 cells and the filter stops at 2 × 2 places, so there are four columns of nine cells.

tiny = np.arange(16.0).reshape(1, 1, 4, 4)
columns = fastconv.im2col(tiny, kernel_size=3)
print(tiny[0, 0])
print("columns", columns.shape)
print(columns[0])

# %%
# If the filter is written as a row of nine numbers, its product with this matrix is the convolution at all
# places at once. This is how convolutions become matrix products. All four results are 8 here, because this
# image gets brighter by the same amount from each column to the next.

row = filter_.reshape(1, 9)
product = row @ columns[0]
print("row    ", row.shape)
print("product", product.shape, product)
print("conv2d ", fastconv.conv2d(tiny, filter_[np.newaxis, np.newaxis]).reshape(1, 4))

# %%
# Point at a number
# -----------------
# :func:`fastconv.explain` draws a small layer with all its numbers. Point at a cell of the output Y, and the
# cells light up that it is the sum of: once as a filter that slides, and below as the matrix product. The
# passes further down go backward, and the next lesson comes to them.

fastconv.explain(tiny, filter_[np.newaxis, np.newaxis])

# %%
# In the next lesson, :doc:`/tutorial/plot_2_train_a_network`, nobody writes the filters: they are learned.
#
# .. seealso::
#
#    :func:`fastconv.conv2d`, :func:`fastconv.im2col`, :func:`fastconv.explain`;
#    :doc:`/gallery/plot_edge_detection` for more filters on photographs, and
#    :doc:`/gallery/plot_dilation` for filters with gaps.
