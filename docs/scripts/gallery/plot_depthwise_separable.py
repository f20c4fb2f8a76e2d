"""
Depthwise separable convolution: parameters and time
====================================================

A depthwise convolution gives every channel a filter of its own: ``groups`` equals the number of channels.
A convolution of 1 × 1 cells after it mixes the channels. The two together are called depthwise separable, and
need far fewer numbers than a standard convolution of the same size. MobileNets are built of them.
"""

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import fastconv

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})

# %%
# One filter for each channel
# ---------------------------
# Here the red channel of a photograph is blurred across, the green one is left alone, and the blue one is
# blurred downwards. The weight has the shape ``(3, 1, 61, 61)``: three filters, and each of them sees one
# channel.

photo = load_sample_image("flower.jpg")
x = photo.transpose(2, 0, 1)[np.newaxis].astype("float32") / 255

w = np.zeros((3, 1, 61, 61), dtype="float32")
w[0, 0, 30, :] = 1 / 61
w[1, 0, 30, 30] = 1
w[2, 0, :, 30] = 1 / 61
y = fastconv.conv2d(x, w, padding="same", groups=3)
print("x", x.shape)
print("w", w.shape)
print("y", y.shape)

fig, axes = plt.subplots(2, 1, figsize=(6.4, 9), layout="constrained")
axes[0].imshow(photo)
axes[0].set_title("photograph")
axes[1].imshow(y[0].transpose(1, 2, 0).clip(0, 1))
axes[1].set_title("red blurred across, blue downwards")
for ax in axes:
    ax.axis("off")
plt.show()

# %%
# Beside a standard convolution
# -----------------------------
# A standard layer with 128 channels and 128 filters of 3 × 3 cells stands beside its separable counterpart,
# which is a depthwise convolution of 3 × 3 cells and then one of 1 × 1 cells. The times are those of the
# machine on which this page was built.

rng = np.random.default_rng(0)
x = rng.standard_normal((4, 128, 28, 28), dtype="float32")
standard = rng.standard_normal((128, 128, 3, 3), dtype="float32")
depthwise = rng.standard_normal((128, 1, 3, 3), dtype="float32")
pointwise = rng.standard_normal((128, 128, 1, 1), dtype="float32")


def standard_layer():
    return fastconv.conv2d(x, standard, padding=1)


def separable_layer():
    between = fastconv.conv2d(x, depthwise, padding=1, groups=128)
    return fastconv.conv2d(between, pointwise)


def milliseconds(call):
    """The median of 20 calls, after one that may compile."""
    call()
    times = []
    for _ in range(20):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return 1000 * np.median(times)


print("standard ", standard_layer().shape)
print("separable", separable_layer().shape)

parameters = [standard.size, depthwise.size + pointwise.size]
times = [milliseconds(standard_layer), milliseconds(separable_layer)]
print(f"threads: {fastconv.get_num_threads()}")
print(f"parameters: {parameters[0]:,} and {parameters[1]:,}, ratio {parameters[0] / parameters[1]:.1f}")
print(f"time: {times[0]:.2f} ms and {times[1]:.2f} ms, ratio {times[0] / times[1]:.1f}")

fig, axes = plt.subplots(1, 2, figsize=(6.4, 4), layout="constrained")
for ax, numbers, title, form in zip(
    axes, [parameters, times], ["parameters", "milliseconds"], ["{:,.0f}", "{:.2f}"], strict=True
):
    bars = ax.bar(["standard", "separable"], numbers, color=["#4c78a8", "#f58518"], width=0.6)
    ax.bar_label(bars, [form.format(number) for number in numbers], padding=2)
    ax.set_title(title)
    ax.set_yticks([])
    ax.margins(y=0.12)
    ax.spines[["top", "left", "right"]].set_visible(False)
plt.show()

# %%
# The time usually falls by less than the number of parameters, because a depthwise convolution does little
# arithmetic for every number that it reads and writes.
#
# .. seealso::
#
#    :func:`fastconv.conv2d`, :class:`fastconv.nn.Conv2d`, which takes ``groups`` too.
