"""
3. Check gradients by central differences
=========================================

The second lesson trusted the backward pass. This one checks it, with a method that works for every layer
you may write yourself: change one number a little, look at how much the loss changes, and compare that with
the gradient. We also see where the method itself fails, so that you can tell a wrong gradient from a wrong
check.
"""

# %%
# Central differences
# -------------------
# The gradient of a loss by a number says how fast the loss changes with it. So we can measure it: we
# compute the loss with the number a little larger, and a little smaller, and divide the difference by the
# distance. This is called a central difference. The function below takes one for every number of an array, in
# place. It costs two forward passes a number, which is why nobody trains a network in this way; but it is so
# simple that it can hardly be wrong.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastconv
from fastconv import nn

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})


def numerical_gradient(loss, array, step):
    """The gradient of ``loss()`` by each number of ``array``, by central differences."""
    gradient = np.zeros(array.shape)
    for place in np.ndindex(array.shape):
        value = array[place]
        array[place] = value + step
        above = loss()
        array[place] = value - step
        below = loss()
        array[place] = value
        gradient[place] = (above - below) / (2 * step)
    return gradient


def relative_error(one, other):
    """The largest difference, as a share of the largest number."""
    return np.abs(one - other).max() / np.abs(other).max()


# %%
# One convolution
# ---------------
# We take a small layer with a stride, padding and two groups (each half of the filters then sees only half of
# the channels). All arrays are float64, NumPy's
# default. As the loss we take ``sum(y * error)`` with a fixed random array ``error``, because its gradient
# by ``y`` is ``error`` itself: that is what we pass to the backward pass.

rng = np.random.default_rng(0)
x = rng.standard_normal((2, 4, 7, 7))
w = rng.standard_normal((6, 2, 3, 3))
b = rng.standard_normal(6)
arguments = {"stride": 2, "padding": 1, "groups": 2}

y = fastconv.conv2d(x, w, b, **arguments)
error = rng.standard_normal(y.shape)
grads = fastconv.conv2d_backward(error, x, w, **arguments)
print("y    ", y.shape)
print("error", error.shape)


def loss_of_layer():
    return np.sum(fastconv.conv2d(x, w, b, **arguments) * error)


for name, array, gradient in zip(["input", "weight", "bias"], [x, w, b], grads, strict=True):
    measured = numerical_gradient(loss_of_layer, array, step=1e-4)
    print(f"{name:6} {gradient.shape!s:14} relative error {relative_error(gradient, measured):.1e}")

# %%
# The errors lie below 1e-9, so all three gradients are right. If one were wrong, the error would be near 1.
# This is what happens if someone forgets that the filters must be rotated by 180 degrees in the backward
# pass. We hand over filters that are rotated already, and the rotation of the backward pass undoes that:

measured = numerical_gradient(loss_of_layer, x, step=1e-4)
forgotten = fastconv.conv2d_backward_input(error, w[:, :, ::-1, ::-1], x.shape, **arguments)
print(f"filters not rotated: relative error {relative_error(forgotten, measured):.1e}")

# %%
# A whole network
# ---------------
# For a network we need no new idea. It helps that :meth:`flat_parameters
# <fastconv.nn.Layer.flat_parameters>` gives all the weights as one vector, and that ``flat_gradients``
# gives their gradients in the same order: then one loop checks the whole network. The tanh between the
# layers and the average pooling are smooth functions, and we shall see in a moment why this matters.

images = load_digits().images[:8, np.newaxis] / 16
targets = load_digits().target[:8]


def smooth_network(dtype):
    rng = np.random.default_rng(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, dtype=dtype, rng=rng),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 10, dtype=dtype, rng=rng),
    )


def check(net, images, step):
    """The gradients by backward and by central differences."""
    loss, weights = nn.CrossEntropyLoss(), net.flat_parameters()
    loss.forward(net.forward(images), targets)
    net.backward(loss.backward())
    gradient = net.flat_gradients().copy()
    return gradient, numerical_gradient(lambda: loss.forward(net.forward(images), targets), weights, step)


gradient, measured = check(smooth_network("float64"), images, step=1e-5)
print("images  ", images.shape)
print("gradient", gradient.shape)
print(f"relative error {relative_error(gradient, measured):.1e}")

# %%
# How large a step?
# -----------------
# Two errors pull in opposite directions. With a large step, the loss is no longer a straight line between
# the two points, and the error grows with the square of the step. With a small step, the two losses agree
# in nearly all their digits, and their difference consists mostly of rounding. We try many steps, in float64
# and in float32.

steps = 10.0 ** np.arange(-9, 0.5, 0.5)
errors = {}
for dtype in ["float64", "float32"]:
    net = smooth_network(dtype)
    net_errors = []
    for step in steps:
        # The exact gradient is that of float64; the differences are taken in float32.
        measured = check(net, images.astype(dtype), step)[1]
        net_errors.append(relative_error(measured, gradient))
    errors[dtype] = np.array(net_errors)
    best = errors[dtype].argmin()
    print(f"{dtype}: least error {errors[dtype][best]:.1e}, with a step of {steps[best]:.0e}")

# %%
# In float64, every step over a wide range will do. In float32 the best step is much larger and its error is
# many times as large; and at the steps that are good in float64, the error of float32 is larger still. So
# *check in float64*, even if you train in float32.
#
# What goes wrong at kinks
# ------------------------
# ReLU has a kink at zero: its slope is 0 on one side and 1 on the other. Max-pooling has kinks too,
# wherever two cells of a window are equally large. If a kink lies between the two points, the central
# difference mixes both slopes, and the check reports an error though the gradient is right. We repeat the
# measurement with a network of this kind.


def network_with_kinks(dtype):
    rng = np.random.default_rng(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, dtype=dtype, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 10, dtype=dtype, rng=rng),
    )


net = network_with_kinks("float64")
errors["kinks"] = np.array([relative_error(*check(net, images, step)[::-1]) for step in steps])

fig, ax = plt.subplots(figsize=(6.4, 5.2), layout="constrained")
ax.loglog(steps, errors["float32"], "s-", color="#d1495b", label="float32, smooth")
ax.loglog(steps, errors["kinks"], "^-", color="#e08a1e", label="float64, ReLU and max-pool")
ax.loglog(steps, errors["float64"], "o-", color="#1f5a94", label="float64, smooth")
ax.set(xlabel="step", ylabel="relative error")
ax.grid(color="#dddddd")
ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.32), frameon=False)
plt.show()

# %%
# Both curves of float64 fall as the step gets smaller, until rounding takes over. The curve of the network
# with kinks is far higher at large steps, and falls when the step no longer reaches over any kink. This is
# how to tell the two apart: *an error that vanishes with a smaller step was a kink, and an error that stays
# is a wrong gradient.*
#
# Seen from close by
# ------------------
# We move a single weight of this network and draw the slope of the loss, measured with a tiny step. Between
# two kinks it hardly changes, and at every kink it jumps. A central difference whose two points lie on
# different pieces gives a mean of their slopes, which is the gradient of neither.

loss, weights = nn.CrossEntropyLoss(), net.flat_parameters()
number = 4  # one of the 410 weights


def slope(position, step):
    values = []
    for place in (position + step, position - step):
        weights[number] = place
        values.append(loss.forward(net.forward(images), targets))
    return (values[0] - values[1]) / (2 * step)


start = weights[number]
changes = np.linspace(-0.4, 0.4, 801)
slopes = [slope(start + change, step=1e-6) for change in changes]
weights[number] = start

fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
ax.plot(changes, slopes, ".", markersize=4, color="#1f5a94")
ax.set(xlabel="change of one weight", ylabel="slope of the loss")
ax.grid(color="#dddddd")
plt.show()

# %%
# Ties are kinks that no step avoids
# ----------------------------------
# Where the cells of a pooling window are exactly equal, we stand on a kink. fastconv gives the whole
# gradient to the first of them, as PyTorch does. The central difference gives each cell a half, because
# only one of its two points raises the maximum. Both are defensible, and they differ for every step. Images
# with large even areas have many such ties, so check with random numbers.

flat = np.ones((1, 1, 2, 2))
pooled, indices = fastconv.max_pool2d(flat, 2, return_indices=True)
print(fastconv.max_pool2d_backward(np.ones_like(pooled), indices, flat.shape)[0, 0])
print(numerical_gradient(lambda: fastconv.max_pool2d(flat, 2).sum(), flat, step=1e-5)[0, 0].round(3))

# %%
# A check that can be trusted
# ---------------------------
# - Take float64 and a step near 1e-5.
# - Take random inputs, of odd and unequal sizes, and small ones: a check costs two forward passes a number.
# - Compare with the largest number of the gradient, and expect errors below 1e-6.
# - If a check fails, make the step ten times smaller. If the error vanishes, it was a kink.
#
# This was the last lesson. The :doc:`questions </questions/index>` explain each gradient for itself, and the
# :doc:`gallery </gallery/index>` has more examples, each of them short.
#
# .. seealso::
#
#    :func:`fastconv.conv2d_backward`, :func:`fastconv.max_pool2d_backward`, :class:`fastconv.nn.Layer`;
#    :doc:`/gallery/plot_custom_layer`, where a layer written by hand is checked in this way, and
#    :doc:`/gallery/plot_max_pool_gradient`.
