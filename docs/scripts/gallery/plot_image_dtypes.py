"""
Convolve uint8 images and float16 arrays
========================================

Photographs are arrays of unsigned bytes with the channels last. :func:`fastconv.conv2d` takes them as they
are, and computes in the precision of the filters. This page also shows what float16 and float32 cost in
digits.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import fastconv

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})

# %%
# Bytes, channels last
# --------------------
# With ``layout="NHWC"`` the photograph needs no transposition, and no conversion. Integers promote by
# NumPy's rules: bytes with float32 filters are computed in float32. The filter sharpens each channel by
# itself (``groups=3``); in this layout its shape is ``(filters, height, width, channels)``.

photo = load_sample_image("china.jpg")
sharpen = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], dtype="float32")
w = np.tile(sharpen[np.newaxis, :, :, np.newaxis], (3, 1, 1, 1))
y = fastconv.conv2d(photo, w, padding=1, groups=3, layout="NHWC")
print("photo", photo.shape, photo.dtype)
print("w    ", w.shape, w.dtype)
print("y    ", y.shape, y.dtype, f"from {y.min():.0f} to {y.max():.0f}")

# %%
# The result is a float array that may lie outside 0 to 255. To make an image of it again, clip and round:

sharp = y.clip(0, 255).round().astype("uint8")
print("sharp", sharp.shape, sharp.dtype)

fig, axes = plt.subplots(1, 2, figsize=(6.4, 4), layout="constrained")
for ax, picture, name in zip(axes, [photo, sharp], ["photograph", "sharpened"], strict=True):
    ax.imshow(picture[60:280, 100:280])
    ax.set_title(name)
    ax.axis("off")
plt.show()

# %%
# How many digits?
# ----------------
# We compute the same layer in float16 and in float32, and compare both with float64. Arrays of float16 take
# half the memory. fastconv computes them in float32 and rounds the result, so that long sums do not lose
# digits on the way.

rng = np.random.default_rng(0)
x = rng.standard_normal((4, 64, 28, 28))
w = rng.standard_normal((64, 64, 3, 3)) / 24
exact = fastconv.conv2d(x, w)
errors = {}
for dtype in ("float16", "float32"):
    y = fastconv.conv2d(x.astype(dtype), w.astype(dtype))
    errors[dtype] = np.abs(y - exact).ravel()
    print(f"{dtype}: result {y.dtype}, {y.nbytes:,} bytes, median error {np.median(errors[dtype]):.1e}")

fig, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
for (dtype, error), colour in zip(errors.items(), ["#f58518", "#4c78a8"], strict=True):
    ax.hist(error[error > 0], bins=np.logspace(-10, -1, 91), color=colour, label=dtype)
ax.set(xscale="log", xlabel="error of an output cell", ylabel="number of cells", yticks=[])
ax.legend(frameon=False, loc="upper left")
ax.spines[["top", "left", "right"]].set_visible(False)
plt.show()

# %%
# .. seealso::
#
#    :func:`fastconv.conv2d`; :doc:`/tutorial/plot_3_check_gradients` for when float64 is needed.
