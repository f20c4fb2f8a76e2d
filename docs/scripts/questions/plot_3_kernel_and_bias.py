"""
How do I update the kernels and the bias of a convolutional layer from its error delta?
=======================================================================================

A network takes a 28x28 image to 3 feature maps with 5x5 kernels, through a sigmoid and 2x2 max-pooling to
432 numbers, and on to 10 outputs; its error is the squared difference. The deltas of all layers are found,
down to the one of the feature maps, which is 3x24x24. But the kernels are 5x5 and the image is 28x28: how
does this delta update the kernels, and the bias, of which there is one number a map?

**The gradient of a kernel is the correlation of the layer's input with its map's delta, a 28x28 image with
a 24x24 delta, which leaves 5x5 cells; the gradient of the bias is the sum of all cells of the delta.**
"""

# %%
# The shapes
# ----------
#
# One digit is enough. These are the digits of scikit-learn, scaled to 28x28.

import matplotlib.pyplot as plt
import numpy as np

import fastconv
from fastconv import nn
from fastconv.demo.data import digits

rng = np.random.default_rng(0)
data = digits()
image = data.train_images[0, 0].astype("float64")  # (28, 28)
target = np.eye(10)[data.train_labels[0]]  # 10 numbers, one of them 1

kernels, biases = rng.normal(0, 0.2, (3, 5, 5)), np.zeros(3)
weight, bias = rng.normal(0, 0.05, (10, 432)), np.zeros(10)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# %%
# Forward by hand
# ---------------
#
# Each tap of a kernel adds a shifted copy of the image to its map. The pooling keeps the largest cell of
# each block of 2x2.

z_maps = np.zeros((3, 24, 24))
for k, m, n in np.ndindex(3, 5, 5):
    z_maps[k] += kernels[k, m, n] * image[m : m + 24, n : n + 24]
a_maps = sigmoid(z_maps + biases[:, None, None])

blocks = a_maps.reshape(3, 12, 2, 12, 2).transpose(0, 1, 3, 2, 4).reshape(3, 12, 12, 4)
a_pool = blocks.max(axis=-1)  # (3, 12, 12)
a_out = sigmoid(weight @ a_pool.ravel() + bias)  # (10,)

# %%
# Backward by hand, delta by delta
# --------------------------------
#
# The three equations that the asker starts from are these, with σ′(z) = a (1 - a) for the sigmoid:
#
# 1. δᴸ = (aᴸ - y) ⊙ σ′(zᴸ)
# 2. δˡ = ((wˡ⁺¹)ᵀ δˡ⁺¹) ⊙ σ′(zˡ)
# 3. ∂C/∂wˡⱼₖ = aˡ⁻¹ₖ δˡⱼ
#
# Equation 1 is the delta of the output. Equation 3 gives the gradient of the fully connected layer from it.

delta_out = (a_out - target) * a_out * (1 - a_out)  # (1): (10,)
grad_weight = np.outer(delta_out, a_pool.ravel())  # (3): (10, 432)
grad_bias = delta_out

# %%
# The pooling layer has no weights and no activation of its own, so of equation 2 only the product is left.
# Its 432 numbers are 3x12x12 again. Each goes back to the cell that was the maximum of its block, and the
# other three cells get zero; then σ′ of the maps makes it the delta of the convolution.

delta_pool = (weight.T @ delta_out).reshape(3, 12, 12)  # (2), without σ′
spread = np.zeros((3, 12, 12, 4))
np.put_along_axis(spread, blocks.argmax(-1)[..., None], delta_pool[..., None], axis=-1)
upsampled = spread.reshape(3, 12, 12, 2, 2).transpose(0, 1, 3, 2, 4).reshape(3, 24, 24)
delta_maps = upsampled * a_maps * (1 - a_maps)  # (2): (3, 24, 24)

# %%
# Now the question. Equation 3 holds for a kernel, too, but a number of the kernel is used 24 x 24 times,
# once for each cell of its map. So its gradient is the sum of equation 3 over all these uses: the input
# cell that the tap saw, times the delta of the map's cell. The bias is added to every cell of the map, so
# its input is always 1.

grad_kernels = np.zeros((3, 5, 5))
for k, m, n in np.ndindex(3, 5, 5):
    seen = image[m : m + 24, n : n + 24]
    grad_kernels[k, m, n] = np.sum(seen * delta_maps[k])  # (3), summed
grad_biases = delta_maps.sum(axis=(1, 2))
print("gradient of the kernels:", grad_kernels.shape)
print("gradient of the biases:", grad_biases.shape)

# %%
# The update is then the same as everywhere: ``kernels -= rate * grad_kernels`` and ``biases -= rate *
# grad_biases``. Over a batch of images both gradients are summed over the images, too, and
# ``conv2d_backward`` does that.
#
# With fastconv
# -------------
#
# The image gets a batch of one and a channel. ``conv2d_backward`` gives all that belongs to the
# convolution.

x, w = image[None, None], kernels[:, None]  # (1, 1, 28, 28) and (3, 1, 5, 5)
grads = fastconv.conv2d_backward(delta_maps[None], x, w, needs=("weight", "bias"))
print("kernels:", grads.weight.shape, np.allclose(grads.weight[:, 0], grad_kernels))
print("biases:", grads.bias.shape, np.allclose(grads.bias, grad_biases))

# %%
# The loop above *is* a convolution: the image as the input, the delta of each map as a kernel of 24x24. It
# slides over 28 - 24 + 1 = 5 rows and columns, and that is why the gradient has the shape of the kernel.

as_convolution = fastconv.conv2d(x, delta_maps[:, None])  # (1, 3, 5, 5)
print("as a convolution:", np.allclose(as_convolution[0], grad_kernels))

# %%
# The whole network, with the layers of ``fastconv.nn``, has the same deltas. Its ``MSELoss`` is a mean over
# the 10 outputs of the squared difference, where the equations have half of the sum, so its gradient is
# taken 5 times.

network = nn.Sequential(
    nn.Conv2d(1, 3, 5, dtype="float64"),
    nn.Sigmoid(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(432, 10, dtype="float64"),
    nn.Sigmoid(),
)
values = (w, biases, weight, bias)
for parameter, value in zip(network.parameters(), values, strict=True):
    parameter[...] = value
loss = nn.MSELoss()
loss.forward(network.forward(x), target[None])
network.backward(5 * loss.backward(), needs_input=False)

by_hand = (grad_kernels[:, None], grad_biases, grad_weight, grad_bias)
for ours, theirs in zip(network.gradients(), by_hand, strict=True):
    print(f"{ours.shape!s:14}", np.allclose(ours, theirs))

# %%
# In the picture, three cells of four in a delta are zero, because the pooling did not pass them on. The
# gradient of a kernel shows what the image had where its map was asked to change.

figure, panels = plt.subplots(2, 4, figsize=(8, 4.4), layout="constrained")
panels[0, 0].imshow(image, cmap="gray_r")
panels[0, 0].set_title("the image, 28x28", fontsize=10)
panels[1, 0].set_axis_off()
for k in range(3):
    for axes, array, title in (
        (panels[0, k + 1], delta_maps[k], f"delta of map {k}, 24x24"),
        (panels[1, k + 1], grad_kernels[k], f"gradient of kernel {k}, 5x5"),
    ):
        limit = np.abs(array).max()
        axes.imshow(array, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(title, fontsize=10)
for axes in panels.flat:
    axes.set(xticks=[], yticks=[])
plt.show()

# %%
# See it cell by cell
# -------------------
#
# A smaller layer of the same kind has a 6x6 image and 2 kernels of 3x3. Point at a cell of the weight's
# gradient to see the image cells and delta cells that it is summed from.

fastconv.explain("1x1x6x6-2k3x3")

# %%
# What to read next
# -----------------
#
# - :doc:`plot_5_matrix_notation` writes the same gradient as one matrix product.
# - :doc:`plot_1_error_shapes` takes the error one layer further down.
# - :doc:`plot_4_frozen_filters` shows what the update of the filters is worth.
