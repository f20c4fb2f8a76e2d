"""
Edge detection: Sobel and Laplace filters
=========================================

The classical edge detectors are convolutions with fixed filters of 3 × 3 numbers. One call of
:func:`fastconv.conv2d` applies all of them to a photograph.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import fastconv

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})

photo = load_sample_image("china.jpg")[20:120, 150:250]
grey = photo.mean(axis=2).astype("float32") / 255

# %%
# Three filters become one weight of shape ``(3, 1, 3, 3)``: three filters, one input channel, 3 × 3 cells.

sobel_x = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
sobel_y = sobel_x.T
laplace = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
weight = np.stack([sobel_x, sobel_y, laplace])[:, np.newaxis].astype("float32")
print("weight", weight.shape)

# %%
# Zeros around the image would look like an edge, so the image is continued by its own outermost cells, and
# the convolution adds no padding.

image = np.pad(grey, 1, mode="edge")[np.newaxis, np.newaxis]
edges = fastconv.conv2d(image, weight)
print("image", image.shape)
print("edges", edges.shape)

# %%
# The two Sobel filters measure how the brightness changes to the right and downwards. Together they are a
# gradient, whose length is large at edges of every direction. The Laplace filter answers on either side of
# an edge, with opposite signs; it answers to the grain of the photograph too.

across, down, second = edges[0]
length = np.hypot(across, down)

fig, axes = plt.subplots(2, 2, figsize=(6.4, 6.8), layout="constrained")
axes[0, 0].imshow(grey, cmap="gray")
axes[0, 0].set_title("photograph")
axes[0, 1].imshow(across, cmap="RdBu_r", vmin=-1.5, vmax=1.5)
axes[0, 1].set_title("Sobel: across")
axes[1, 0].imshow(length, cmap="gray_r", vmin=0, vmax=2.5)
axes[1, 0].set_title("Sobel: length of gradient")
axes[1, 1].imshow(second, cmap="RdBu_r", vmin=-0.8, vmax=0.8)
axes[1, 1].set_title("Laplace: second derivative")
for ax in axes.flat:
    ax.axis("off")
plt.show()

# %%
# .. seealso::
#
#    :func:`fastconv.conv2d`; :doc:`/tutorial/plot_1_first_convolution` for padding and shapes, step by
#    step.
