"""
Upsampling by transposed convolution, and checkerboard artefacts
================================================================

A transposed convolution with stride 2 makes an image twice as large. Every input cell lays the filter,
times its own value, onto the output, and overlaps add up. If the filter's size is not divisible by the
stride, some output cells are covered more often than others, which shows as a checkerboard.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import fastconv

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})

# %%
# The image to enlarge is a part of a photograph at an eighth of its size, with 37 × 37 cells.

photo = load_sample_image("flower.jpg")[74:370, 158:454].mean(axis=2) / 255
small = fastconv.avg_pool2d(photo[np.newaxis, np.newaxis], 8)
print("small", small.shape)

# %%
# We try three filters. The weight of a transposed convolution has its input channels first, ``(channels,
# filters, height, width)``; here both are one.
#
# - 2 × 2 ones repeat every cell four times.
# - 3 × 3 cells overlap by one cell, which gives the checkerboard; they are divided by 9/4, the mean number
#   of times that an output cell is covered.
# - 4 × 4 cells with the weights 1, 3, 3, 1 (bilinear interpolation) overlap evenly.

line = np.array([1, 3, 3, 1]) / 4
filters = {
    "2 x 2, ones": (np.ones((2, 2)), 0),
    "3 x 3, ones": (np.ones((3, 3)) * 4 / 9, 1),
    "4 x 4, bilinear": (np.outer(line, line), 1),
}
enlarged = {}
for name, (weight, padding) in filters.items():
    weight = weight[np.newaxis, np.newaxis]
    # One more row and column where the size would be odd.
    output_padding = 1 if weight.shape[-1] == 3 else 0
    enlarged[name] = fastconv.conv_transpose2d(small, weight, None, 2, padding, output_padding)
    print(f"{name:16} weight {weight.shape}, output {enlarged[name].shape}")

# %%
# An image of ones and a filter of ones show how often each output cell is covered:

for extent in (2, 3, 4):
    ones = fastconv.conv_transpose2d(np.ones((1, 1, 5, 5)), np.ones((1, 1, extent, extent)), stride=2)
    print(f"{extent} x {extent}, from the fourth cell on")
    print(ones[0, 0, 4:8, 4:8].astype(int))

fig, axes = plt.subplots(2, 2, figsize=(6.4, 6.8), layout="constrained")
pictures = {"the small image": small, **enlarged}
for ax, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
    ax.imshow(picture[0, 0], cmap="gray", vmin=small.min(), vmax=small.max())
    ax.set_title(name)
    ax.axis("off")
plt.show()

# %%
# A network can learn weights that even out the overlaps, but it must learn that. It is easier to begin with
# a filter whose size is a multiple of the stride.
#
# .. seealso::
#
#    :func:`fastconv.conv_transpose2d`, :class:`fastconv.nn.ConvTranspose2d`, :func:`fastconv.avg_pool2d`.
