"""
Write a custom layer with fastconv.kernels: median pooling
==========================================================

fastconv has no median pooling, and needs none: the bare Numba loops of :mod:`fastconv.kernels` can be
called from compiled functions of your own. Here ``im2col`` gathers the cells of every window, we choose the
median, and ``col2im_add`` takes the gradient back. The result is a layer that removes salt-and-pepper
noise.
"""

import matplotlib.pyplot as plt
import numpy as np
from numba import njit
from sklearn.datasets import load_sample_image

import fastconv
from fastconv import kernels, nn

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})

# %%
# Two compiled loops
# ------------------
# Kernels take arrays with the axes (batch, channels, depth, height, width), and sizes as (depth, height,
# width). They check nothing and allocate nothing. ``columns`` has a row for every cell of a window and a
# column for every window; one channel of one image is gathered at a time, so that it stays small. The last
# three arguments are the stride, the padding and the dilation.

one, none = (1, 1, 1), (0, 0, 0)


@njit
def median_forward(x, columns, size, output, y, chosen):
    """Write the median of every window to ``y``, and which of its cells that was to ``chosen``."""
    taps, _, windows = columns.shape
    for image in range(x.shape[0]):
        for channel in range(x.shape[1]):
            kernels.im2col(x, columns, image, channel * taps, 0, size, output, one, none, one)
            for i in range(windows):
                cell = np.argsort(columns[:, 0, i])[taps // 2]
                chosen[image, channel, i] = cell
                y[image, channel, i] = columns[cell, 0, i]


@njit
def median_backward(grad, columns, size, output, chosen, grad_x):
    """Add the gradient of every window to the cell that was its median."""
    taps, _, windows = columns.shape
    lines = grad_x.shape[2] * grad_x.shape[3]
    for image in range(grad_x.shape[0]):
        for channel in range(grad_x.shape[1]):
            columns[:] = 0
            for i in range(windows):
                columns[chosen[image, channel, i], 0, i] = grad[image, channel, i]
            first = channel * taps
            kernels.col2im_add(columns, grad_x, image, first, 0, 0, lines, size, output, one, none, one)


# %%
# The layer
# ---------
# A layer derives from :class:`fastconv.nn.Layer` and has two methods. Ours keeps what its backward pass
# needs, and can stand in a :class:`fastconv.nn.Sequential` like any other.


class MedianPool2d(nn.Layer):
    """The median of each window of ``size`` by ``size`` cells, at stride 1."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        """The medians of ``x``."""
        n, c, height, width = x.shape
        rows, columns = height - self.size + 1, width - self.size + 1
        self.sizes = (1, self.size, self.size), (1, rows, columns)
        self.columns = np.empty((self.size**2, 1, rows * columns), x.dtype)
        self.chosen = np.empty((n, c, rows * columns), np.int64)
        self.input_size = (n, c, 1, height, width)
        y = np.empty((n, c, rows * columns), x.dtype)
        median_forward(x.reshape(self.input_size), self.columns, *self.sizes, y, self.chosen)
        return y.reshape(n, c, rows, columns)

    def backward(self, grad, needs_input=True):
        """The gradient of the last input."""
        if not needs_input:
            return None
        grad_x = np.zeros(self.input_size, grad.dtype)
        flat = grad.reshape(self.chosen.shape)
        median_backward(flat, self.columns, *self.sizes, self.chosen, grad_x)
        n, c, _, height, width = self.input_size
        return grad_x.reshape(n, c, height, width)


# %%
# Is the gradient right?
# ----------------------
# We compare it with central differences, in float64 and for a loss whose gradient by the output is
# ``error``.

rng = np.random.default_rng(0)
layer = MedianPool2d(3)
x = rng.standard_normal((2, 3, 6, 7))
y = layer(x)
error = rng.standard_normal(y.shape)
gradient = layer.backward(error)

measured = np.zeros_like(x)
for place in np.ndindex(x.shape):
    for sign in (1, -1):
        moved = x.copy()
        moved[place] += sign * 1e-6
        measured[place] += sign * np.sum(layer(moved) * error) / 2e-6
print("x", x.shape)
print("y", y.shape)
print(f"largest difference: {np.abs(gradient - measured).max():.1e}")

# %%
# What it is good for
# -------------------
# A tenth of the cells of a photograph are set to black or white. The mean of each window spreads this
# noise, and the median removes nearly all of it. Its remaining error is about that of the median of the clean
# photograph, which loses fine detail.

photo = load_sample_image("china.jpg")[20:340, 50:370].mean(axis=2) / 255
noisy = photo.copy()
noisy[rng.random(photo.shape) < 0.05] = 0
noisy[rng.random(photo.shape) < 0.05] = 1

x = noisy[np.newaxis, np.newaxis]
mean = fastconv.avg_pool2d(x, 3, stride=1)
median = MedianPool2d(3)(x)
print("median", median.shape)
clean_median = MedianPool2d(3)(photo[np.newaxis, np.newaxis])
results = {
    "noisy": x[..., 1:-1, 1:-1],
    "mean": mean,
    "median": median,
    "median of the clean photograph": clean_median,
}
for name, picture in results.items():
    print(f"{name:30} error {np.abs(picture - photo[1:-1, 1:-1]).mean():.3f}")

fig, axes = plt.subplots(2, 2, figsize=(6.4, 6.8), layout="constrained")
pictures = {"photograph": photo, "noisy": noisy, "mean, 3 x 3": mean[0, 0], "median, 3 x 3": median[0, 0]}
for ax, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.set_title(name)
    ax.axis("off")
plt.show()

# %%
# .. seealso::
#
#    :mod:`fastconv.kernels`, :func:`fastconv.im2col`, :func:`fastconv.col2im`, :class:`fastconv.nn.Layer`;
#    :doc:`/tutorial/plot_3_check_gradients` for what can go wrong in such a check.
