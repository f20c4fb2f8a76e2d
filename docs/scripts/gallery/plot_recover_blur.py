"""
Recover an unknown blur kernel by gradient descent
==================================================

Given a sharp photograph and a blurred one, which filter was it? We begin with a filter of zeros and let
gradient descent find it. The gradient by the filter is :func:`fastconv.conv2d_backward_weight`, the same
pass that trains every convolutional network.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import fastconv

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})
rng = np.random.default_rng(0)

# %%
# The unknown filter is the trace of a hand that moved during the exposure. The blurred photograph also gets
# a little noise, as a real one would have.

size = 15
angle = np.linspace(0, 1.6 * np.pi, 400)
trace = 7 + np.stack([5.5 * np.sin(angle), 2 + (angle - 3) * 1.6 * np.cos(0.8 * angle)])
hidden = np.histogram2d(*trace, bins=np.arange(size + 1) - 0.5)[0]
hidden /= hidden.sum()

photo = load_sample_image("china.jpg").mean(axis=2) / 255
sharp = photo[np.newaxis, np.newaxis].astype("float32")
blurred = fastconv.conv2d(sharp, hidden[np.newaxis, np.newaxis].astype("float32"))
blurred += 0.002 * rng.standard_normal(blurred.shape, dtype="float32")
print("sharp  ", sharp.shape)
print("hidden ", hidden.shape)
print("blurred", blurred.shape)

# %%
# Neighbouring cells of a photograph are nearly equal, which makes gradient descent slow. Differences of
# neighbours are not, and a convolution of the differences is the difference of the convolution. So we fit
# the filter to the images after a Laplace filter, which changes nothing in the question.

laplace = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype="float32")[np.newaxis, np.newaxis]
x = fastconv.conv2d(sharp, laplace)
target = fastconv.conv2d(blurred, laplace)

# %%
# We use gradient descent with momentum on the loss ``0.5 * sum((conv2d(x, w) - target) ** 2)``. The gradient
# of this loss by the output is the difference itself.

w = np.zeros((1, 1, size, size), dtype="float32")
velocity = np.zeros_like(w)
rate = 0.3 / np.sum(x**2)
losses, snapshots = [], {}
for step in range(201):
    difference = fastconv.conv2d(x, w) - target
    losses.append(0.5 * np.sum(difference**2))
    if step in (5, 30, 200):
        snapshots[f"after {step} steps"] = w[0, 0].copy()
    gradient = fastconv.conv2d_backward_weight(difference, x, w.shape)
    velocity = 0.9 * velocity - rate * gradient
    w += velocity

error = np.linalg.norm(w[0, 0] - hidden) / np.linalg.norm(hidden)
print("gradient", gradient.shape)
print(f"loss {losses[0]:.1f} -> {losses[-1]:.2f}")
print(f"relative error of the filter: {error:.1%}")

# %%
# The filter appears within a few dozen steps.

fig, axes = plt.subplots(2, 2, figsize=(6.4, 6.8), layout="constrained")
for ax, (name, kernel) in zip(axes.flat, {**snapshots, "hidden": hidden}.items(), strict=True):
    ax.imshow(kernel, cmap="magma", vmin=0, vmax=hidden.max())
    ax.set(xticks=[], yticks=[], title=name)
plt.show()

# %%
# Here is the photograph that the filter was found from, and the loss on the way. The loss ends well above
# zero, because of the noise.

fig, axes = plt.subplots(2, 1, figsize=(6.4, 7.6), layout="constrained", height_ratios=[4, 3])
axes[0].imshow(blurred[0, 0], cmap="gray")
axes[0].set_title("the blurred photograph")
axes[0].axis("off")
axes[1].semilogy(losses, color="#1f5a94", linewidth=2)
axes[1].set(xlabel="step", ylabel="loss")
axes[1].grid(color="#dddddd")
plt.show()

# %%
# .. seealso::
#
#    :func:`fastconv.conv2d_backward_weight`, :func:`fastconv.conv2d`;
#    :doc:`/tutorial/plot_2_train_a_network`, where many filters are found at once.
