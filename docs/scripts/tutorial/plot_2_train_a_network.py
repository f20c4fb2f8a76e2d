"""
2. Train a convolutional network on handwritten digits
======================================================

In the first lesson we wrote the filters ourselves. In this one a network learns them: we build it from the
layers of :mod:`fastconv.nn`, train it on small pictures of handwritten digits, and look at what it has
learned. On the way we see what the backward pass returns, because this is where most questions about
convolutions begin.
"""

# %%
# The data
# --------
# scikit-learn brings 1797 handwritten digits of 8 × 8 cells. We give them a channel axis, scale the numbers
# to lie between 0 and 1, and keep 360 of the digits for the test.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastconv
from fastconv import nn

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})

digits = load_digits()
images = (digits.images / 16).astype("float32")[:, np.newaxis]
train_x, test_x, train_t, test_t = train_test_split(images, digits.target, test_size=360, random_state=0)
print("train_x", train_x.shape, train_x.dtype)
print("train_t", train_t.shape, train_t.dtype)
print("test_x ", test_x.shape)

fig, axes = plt.subplots(2, 5, figsize=(6.4, 3), layout="constrained")
for ax, image, target in zip(axes.flat, train_x, train_t, strict=False):
    ax.imshow(image[0], cmap="gray_r")
    ax.set_title(str(target))
    ax.axis("off")
plt.show()

# %%
# The network
# -----------
# A network is a list of layers. Ours has five kinds:
#
# - ``Conv2d`` convolves with filters of its own, and ``padding="same"`` keeps the size of the images;
# - ``ReLU`` replaces every negative number by zero;
# - ``MaxPool2d(2)`` keeps only the largest number of each 2 × 2 cells, which halves height and width;
# - ``Flatten`` writes the numbers of each image in one row;
# - ``Linear`` multiplies this row by a matrix. It gives ten numbers, one for each digit, and the largest of
#   them is the answer.
#
# All initial weights are drawn at random from one seeded generator, so that every run begins with the same
# network.

rng = np.random.default_rng(0)
net = nn.Sequential(
    nn.Conv2d(1, 8, 5, padding="same", rng=rng),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(8, 16, 3, padding="same", rng=rng),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(16 * 2 * 2, 10, rng=rng),
)
print(net.summary((32, 1, 8, 8)))

# %%
# Forward
# -------
# An input goes through the layers in order. We follow the shapes of a batch of 32 images.

x, t = train_x[:32], train_t[:32]
value = x
print(f"{'input':12}", value.shape)
for layer in net:
    value = layer.forward(value)
    print(f"{type(layer).__name__:12}", value.shape)

# %%
# A loss measures how wrong the ten numbers are. The cross-entropy turns them into probabilities, and is the
# negative logarithm of the probability of the right digit. A network that knows nothing gives every digit
# the probability 1/10, which is a loss of log 10, and ours starts close to that.

loss = nn.CrossEntropyLoss()
print(f"loss before training: {loss.forward(net.forward(x), t):.3f}")
print(f"log 10:               {np.log(10):.3f}")

# %%
# Backward: what it returns
# -------------------------
# To train is to ask of every weight: would the loss rise or fall if it were a little larger? The answers
# are the gradients, and the backward pass computes all of them at once, from the loss back to the image.
# Every layer is given the gradient of its output and returns the gradient of its input. So the shapes are
# those of the forward pass, in reverse order:

grad = loss.backward()
print(f"{'loss':12}", grad.shape)
for layer in reversed(net.layers):
    grad = layer.backward(grad)
    print(f"{type(layer).__name__:12}", grad.shape)

# %%
# A layer with weights keeps their gradients as well. **A gradient always has the shape of the array that it
# is the gradient of.** Whenever you wonder what a backward pass should return, this rule gives you the
# shape:

for parameter, gradient in zip(net.parameters(), net.gradients(), strict=True):
    print(f"parameter {parameter.shape!s:15} gradient {gradient.shape}")

# %%
# Behind ``backward`` of the second convolution stands a function, :func:`fastconv.conv2d_backward`, that
# can be called without any layer. It takes the gradient of the output (often called the error), the input
# and the weight, and returns three gradients. The input here is 32 images of 8 channels, and the output has
# 16 channels, one for each filter. The gradient of the input has 8 channels again.

second = net[3]
feature_maps = net[2].forward(net[1].forward(net[0].forward(x)))
error = np.ones((32, 16, 4, 4), dtype="float32")
grads = fastconv.conv2d_backward(error, feature_maps, second.weight, padding="same")
print("error       ", error.shape)
print("weight      ", second.weight.shape)
print("grads.input ", grads.input.shape)
print("grads.weight", grads.weight.shape)
print("grads.bias  ", grads.bias.shape)

# %%
# Where does each of these numbers come from? Here is a small layer with 2 channels and 2 filters. Scroll down
# to one of the two passes backward, and point at a cell of a gradient: all that it is summed from lights up.

fastconv.explain("1x2x4x4-2k3x3")

# %%
# A max-pooling sends each gradient back to the cell that was the largest of its window, and zeros to all
# others. This is the first digit of the test, on its way through a max-pooling and back:

fastconv.explain(test_x[:1] * 16, max_pool=2)

# %%
# Training
# --------
# A training step takes a batch, goes forward and backward, and lets an optimiser move every weight a little
# way against its gradient. Nobody needs the gradient of the images here, and ``needs_input=False`` saves
# its computation. The weight decay pulls all weights a little towards zero, so that none stays large
# without a reason. We train for 20 epochs. In an epoch the network sees every training image once, in a new
# order.

optimiser = nn.Adam(net, learning_rate=0.01, weight_decay=1e-3)
losses = []
for _ in range(20):
    order = rng.permutation(len(train_x))
    for first in range(0, len(order), 32):
        batch = order[first : first + 32]
        losses.append(loss.forward(net.forward(train_x[batch]), train_t[batch]))
        net.backward(loss.backward(), needs_input=False)
        optimiser.step()

answers = net.forward(test_x).argmax(axis=1)
print(f"{len(losses)} steps, mean loss of the last epoch {np.mean(losses[-45:]):.4f}")
print(f"test accuracy: {np.mean(answers == test_t):.1%} of {len(test_t)} digits")

# %%
# The loss of single batches goes up and down, because some batches are harder than others. Its mean over an
# epoch shows how the training goes on.

means = np.reshape(losses, (20, -1)).mean(axis=1)
fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
ax.semilogy(losses, color="#9ecae9", label="each batch")
ax.semilogy(np.arange(1, 21) * len(losses) / 20, means, "o-", color="#1f5a94", label="mean over an epoch")
ax.axhline(np.log(10), color="#888888", linestyle="--", label="knows nothing: log 10")
ax.set(xlabel="training step", ylabel="loss", ylim=(3e-5, 5))
ax.legend(frameon=False, loc="lower left")
plt.show()

# %%
# What it has learned
# -------------------
# These are the eight filters of the first layer, and below each of them its map, which is what the filter
# and the ReLU make of one digit. Red weights are positive and blue ones negative; a map is dark where its
# filter answers strongly. The filters are hard to read by themselves, and the maps are easier: each filter
# answers at other parts of the digit. Nobody told the filters what to look for.

filters = net[0].weight
digit = test_x[:1]
maps = net[1].forward(net[0].forward(digit))
print("filters", filters.shape)
print("digit  ", digit.shape)
print("maps   ", maps.shape)

rows = [
    ["digit", *(f"{kind} {i}" for i in range(first, first + 4))]
    for first in (0, 4)
    for kind in ("filter", "map")
]
rows[1][0] = rows[2][0] = rows[3][0] = "."
fig, axes = plt.subplot_mosaic(rows, figsize=(6.4, 6.2), layout="constrained")
axes["digit"].imshow(digit[0, 0], cmap="gray_r")
for i in range(8):
    most = np.abs(filters[i]).max()
    axes[f"filter {i}"].imshow(filters[i, 0], cmap="RdBu_r", vmin=-most, vmax=most)
    axes[f"map {i}"].imshow(maps[0, i], cmap="gray_r", vmin=0, vmax=maps.max())
for name, ax in axes.items():
    ax.set(xticks=[], yticks=[], title=name)
plt.show()

# %%
# How do we know that the gradients were right? A network with a slightly wrong gradient often learns too,
# only worse. The next lesson, :doc:`/tutorial/plot_3_check_gradients`, shows how to find out.
#
# .. seealso::
#
#    :func:`fastconv.conv2d_backward`, :class:`fastconv.nn.Sequential`, :class:`fastconv.nn.Adam`;
#    :doc:`/gallery/plot_digit_classifier` for the digits that such a network misreads, and
#    :doc:`/gallery/plot_saliency` for the gradient of the image.
