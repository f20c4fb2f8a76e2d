"""
How does the error get from a fully connected layer to the filters, and what does training them bring?
======================================================================================================

A network has two convolutional layers with 3x3 filters, each followed by ReLU and pooling, and then two
fully connected layers: 28x28 becomes 14x14, 7x7, 49, 49 and 10 numbers. Only the fully connected layers are
trained, the filters stay as they were drawn at random, and the accuracy is good already. How does the error
get from the 49x49 layer to a 3x3 filter, and is it worth the trouble?

**The error goes back through the same steps in reverse order, through each convolution as a full
convolution with the rotated filters, and each filter's gradient is the correlation of its layer's input
with the error that arrived there; trained filters make the network better and, above all, quicker to
learn.**
"""

# %%
# The network
# -----------
#
# The question does not say how many filters there are. The 49 inputs of the first fully connected layer
# mean that the second convolution has one filter; the first has 8 here. The one filter begins with positive
# weights, because all that the network knows of the image passes through its ReLU.

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np

import fastconv
from fastconv import nn
from fastconv.demo.data import digits


def build(seed):
    rng = np.random.default_rng(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 1, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(49, 49, rng=rng),
        nn.ReLU(),
        nn.Linear(49, 10, rng=rng),
    )
    second = network[3].weight
    np.abs(second, out=second)
    return network


# %%
# The way back, shape by shape
# ----------------------------
#
# The images are the digits of scikit-learn, scaled to 28x28. Ten of them go forward through the network,
# and their error goes back through it.

data = digits()
images, labels = data.train_images[:10], data.train_labels[:10]

network, loss = build(seed=0), nn.CrossEntropyLoss()
inputs = [images]  # what each layer gets
for layer in network:
    inputs.append(layer.forward(inputs[-1]))
loss.forward(inputs[-1], labels)

errors = [loss.backward()]  # what each layer hands down, from the last to the first
for layer in reversed(network.layers):
    errors.append(layer.backward(errors[-1]))
    print(f"{type(layer).__name__:10} error {errors[-2].shape!s:16} -> {errors[-1].shape}")

# %%
# Read from the top, the error of the 49 numbers becomes one of 7x7 by ``Flatten``, which only gives the
# numbers their rows and columns back. The pooling sends each of them to the cell that was the maximum, the
# ReLU stops it where the cell was not positive, and then the error stands at the output of the convolution:
# 14x14.
#
# By hand
# -------
#
# There the convolution does two things, and both are what a fully connected layer does, too. For its filter
# it multiplies its input by the error: each of the 9 taps meets the input shifted by one cell. For the
# layer below it multiplies the error by the filter, and adds up where the windows overlap.

below = inputs[3]  # (10, 8, 14, 14), what the second convolution got
weight = network[3].weight  # (1, 8, 3, 3)
error = errors[6]  # (10, 1, 14, 14), what came back to it

padded = np.pad(below, ((0, 0), (0, 0), (1, 1), (1, 1)))
grad_weight, grad_padded = np.zeros_like(weight), np.zeros_like(padded)
for r in range(3):
    for s in range(3):
        seen = padded[:, :, r : r + 14, s : s + 14]
        grad_weight[:, :, r, s] = np.einsum("nkij,ncij->kc", error, seen)
        shares = np.einsum("nkij,kc->ncij", error, weight[:, :, r, s])
        grad_padded[:, :, r : r + 14, s : s + 14] += shares
grad_below = grad_padded[:, :, 1:15, 1:15]  # without the cells of the padding

# %%
# With fastconv
# -------------


def equal(a, b):
    return np.allclose(a, b, rtol=1e-4, atol=1e-7)  # these are float32


grads = fastconv.conv2d_backward(error, below, weight, padding=1)
print("filter:", grads.weight.shape, equal(grads.weight, grad_weight))
print("error below:", grads.input.shape, equal(grads.input, grad_below))
print("as in the network:", equal(network[3].grad_weight, grads.weight))

# %%
# The error below is a full convolution, as in :doc:`plot_1_error_shapes`. With padding 1 on the way
# forward, one cell of the border that a full convolution has falls away on each side, and what is left of
# it is padding 1 again.

rotated = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)  # (8, 1, 3, 3)
by_recipe = fastconv.conv2d(error, rotated, padding=1)
print("by the recipe:", equal(by_recipe, grad_below))

# %%
# The first convolution repeats this with the error that it gets. Nothing lies below it but the image, whose
# gradient nobody needs, so training leaves that out with ``needs_input=False``.
#
# What trained filters bring
# --------------------------
#
# Both networks begin with the same weights and see the same images in the same order. In one of them the
# two convolutions are frozen. Weights that are drawn at random can be lucky, so there are five pairs of
# networks.


def train(seed, frozen, epochs=20, batch=20, rate=0.005):
    """The network, and its test accuracy after each epoch."""
    network, loss = build(seed), nn.CrossEntropyLoss()
    rng = np.random.default_rng(seed)
    for layer in network:
        layer.frozen = frozen and isinstance(layer, nn.Conv2d)
    optimiser, accuracies, count = nn.Adam(network), [], len(data.train_images)
    for epoch in range(epochs):
        optimiser.learning_rate = rate * (1 - epoch / epochs)
        order = rng.permutation(count)
        for start in range(0, count, batch):
            rows = order[start : start + batch]
            output = network.forward(data.train_images[rows])
            loss.forward(output, data.train_labels[rows])
            network.backward(loss.backward(), needs_input=False)
            optimiser.step()
        answers = network.forward(data.test_images).argmax(axis=1)
        accuracies.append(np.mean(answers == data.test_labels))
    return network, accuracies


start = perf_counter()
runs = {
    "frozen": [train(seed, frozen=True) for seed in range(5)],
    "trained": [train(seed, frozen=False) for seed in range(5)],
}
print(f"ten networks in {perf_counter() - start:.1f} s")

print("test accuracy   pair 0  pair 1  pair 2  pair 3  pair 4    mean")
for name, pairs in runs.items():
    last = [accuracies[-1] for _, accuracies in pairs]
    line = "  ".join(f"{share:6.1%}" for share in [*last, np.mean(last)])
    print(f"{name + ' filters':15} {line}")

# %%
# The fully connected layers do get far with filters that never learned, as the asker saw: even a random
# filter leaves a blurred picture of the digit for them. With trained filters every pair ends higher, and
# what the frozen network needs all its epochs for is reached within the first few.
#
# The learning rate and the number of epochs were chosen while looking at these same test images. Read the
# figures as a comparison of the two networks, not as what such a network can reach.

colours = {"frozen": "#4C78A8", "trained": "#F58518"}
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for name, pairs in runs.items():
    curves = np.array([accuracies for _, accuracies in pairs])
    epochs = np.arange(1, curves.shape[1] + 1)
    axes.plot(epochs, 100 * curves.T, color=colours[name], linewidth=0.8, alpha=0.5)
    mean, label = 100 * curves.mean(0), f"{name} filters"
    axes.plot(epochs, mean, color=colours[name], linewidth=2.5, label=label)
axes.set(xlabel="epoch", ylabel="test accuracy, %")
axes.set(xticks=range(0, 21, 5), ylim=(0, 100))
axes.legend(loc="lower right", title="five pairs, and their mean")
axes.grid(color="0.9")
plt.show()

# %%
# These are the 8 filters of the first convolution of the first pair, before and after training. Red is
# positive, blue is negative.

figure, panels = plt.subplots(2, 8, figsize=(8, 2.4), layout="constrained")
(network, _), *_ = runs["trained"]
rows = {"before": build(seed=0)[0].weight, "after": network[0].weight}
limit = max(np.abs(filters).max() for filters in rows.values())
for line, (name, filters) in zip(panels, rows.items(), strict=True):
    for axes, one in zip(line, filters[:, 0], strict=True):
        axes.imshow(one, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set(xticks=[], yticks=[])
    line[0].set_ylabel(name)
plt.show()

# %%
# See it cell by cell
# -------------------
#
# A smaller layer of the same kind has 2 channels of 4x4, one filter of 3x3 and padding 1. Point at a cell
# of the filter's gradient, and then at one of the input's.

fastconv.explain("1x2x4x4-1k3x3p1")

# %%
# What to read next
# -----------------
#
# - :doc:`plot_3_kernel_and_bias` writes the deltas of a network out one by one, with its equations.
# - :doc:`plot_1_error_shapes` explains the rotation and the exchange of the filters' axes.
# - ``fastconv demo --net s003`` trains this network from the command line and draws what it learned.
