"""
Dilated convolution and receptive fields
========================================

A dilated filter leaves gaps between the cells that it looks at, so a small filter reaches far. The
receptive field of an output cell is the part of the image that it depends on, and the backward pass can
draw it: we send back a gradient of 1 from a single cell, and see where it arrives.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastconv

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})

# %%
# Three layers of 3 × 3 filters follow one another. All their weights are 1, so that the number that arrives
# at a cell counts the ways from it to the output. In the first network there are no gaps. In the second,
# every layer doubles the dilation. In the third, all three layers have the same large dilation, and in the
# fourth they have a stride of 2 instead.

networks = {
    "dilation 1, 1, 1": [{"dilation": 1}] * 3,
    "dilation 1, 2, 4": [{"dilation": 1}, {"dilation": 2}, {"dilation": 4}],
    "dilation 4, 4, 4": [{"dilation": 4}] * 3,
    "stride 2, 2, 2": [{"stride": 2}] * 3,
}
weight = np.ones((1, 1, 3, 3))


def ways(layers, size=31):
    """How many ways lead from each cell of an image to the middle cell of the output."""
    sizes = [(1, 1, size, size)]
    for steps in layers:
        sizes.append(fastconv.plan_conv2d(sizes[-1], weight.shape, **steps).output_size)
    gradient = np.zeros(sizes[-1])
    gradient[0, 0, sizes[-1][2] // 2, sizes[-1][3] // 2] = 1
    for input_size, steps in zip(sizes[-2::-1], reversed(layers), strict=True):
        gradient = fastconv.conv2d_backward_input(gradient, weight, input_size, **steps)
    return sizes, gradient[0, 0]


# %%
# With each layer of filters of R rows, the receptive field grows by ``dilation * (R - 1)`` rows. If the
# layers before it have strides, this number is multiplied by all of them. In the pictures, the darker a
# cell is, the more ways lead from it to the output; a white cell has none.

fig, axes = plt.subplots(2, 2, figsize=(6.4, 7.2), layout="constrained")
for ax, (name, layers) in zip(axes.flat, networks.items(), strict=True):
    sizes, counts = ways(layers)
    rows = np.flatnonzero(counts.any(axis=1))
    extent = rows[-1] - rows[0] + 1

    by_formula, stride = 1, 1
    for steps in layers:
        by_formula += steps.get("dilation", 1) * 2 * stride
        stride *= steps.get("stride", 1)
    rows_of_layers = " -> ".join(str(size[2]) for size in sizes)
    print(f"{name}: {rows_of_layers} rows, field {extent}, by the formula {by_formula}")

    ax.imshow(np.where(counts > 0, counts, np.nan), cmap="viridis_r", vmin=0)
    ax.set(xticks=[], yticks=[], title=f"{name}:\nfield {extent} x {extent}")
plt.show()

# %%
# All four networks have 27 weights. Doubling the dilation reaches every cell of a field of 15 × 15. The
# same large dilation in every layer reaches further, but misses most of the cells on the way. This is
# called gridding, and it is why dilations usually grow from layer to layer. In every field, the rim counts
# less than the cells near the middle.
#
# .. seealso::
#
#    :func:`fastconv.conv2d`, :func:`fastconv.conv2d_backward_input`, :func:`fastconv.plan_conv2d`.
