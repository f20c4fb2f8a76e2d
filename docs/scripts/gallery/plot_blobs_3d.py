"""
Detect blobs in a 3-D volume
============================

A volume of 64 × 64 × 64 cells holds a dozen bright blobs and much noise. One three-dimensional convolution
with the Laplacian of a Gaussian answers most strongly at the middle of a blob, and a max-pooling picks the
local maxima.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastconv

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})
rng = np.random.default_rng(3)

# %%
# The blobs are Gaussians whose standard deviation is 2.5 cells. They stand at random places that are not too
# close to one another.

size, width = 64, 2.5
centres = []
while len(centres) < 12:
    centre = rng.integers(8, size - 8, 3)
    if all(np.linalg.norm(centre - other) > 12 for other in centres):
        centres.append(centre)
centres = np.array(centres)

axes_of_cells = np.indices((size, size, size))
volume = 0.5 * rng.standard_normal((size, size, size))
for centre in centres:
    squares = ((axes_of_cells - centre[:, None, None, None]) ** 2).sum(axis=0)
    volume += np.exp(-squares / (2 * width**2))

x = volume[np.newaxis, np.newaxis].astype("float32")
print("x", x.shape)

# %%
# The filter is a Laplacian of a Gaussian of the same width, with its sign turned so that bright blobs give
# positive numbers. Its mean is subtracted, so that an even brightness gives zero.

reach = 8
squares = (np.indices((2 * reach + 1,) * 3) - reach) ** 2
squares = squares.sum(axis=0)
blob = (3 - squares / width**2) * np.exp(-squares / (2 * width**2))
blob -= blob.mean()
w = (blob / np.linalg.norm(blob))[np.newaxis, np.newaxis].astype("float32")
response = fastconv.conv3d(x, w, padding="same")
print("w       ", w.shape)
print("response", response.shape)

# %%
# A cell is a local maximum if it equals the largest cell of its surroundings, which a max-pooling with
# stride 1 gives. The maxima that stand out of the noise are the blobs.

largest = fastconv.max_pool3d(response, 9, stride=1, padding=4)
noise = np.median(np.abs(response)) / 0.6745  # a standard deviation that the blobs do not disturb
found = np.argwhere((response == largest)[0, 0] & (response[0, 0] > 6 * noise))
distances = np.linalg.norm(found[:, None] - centres[None], axis=2)
print(f"{len(centres)} blobs, {len(found)} found")
print(f"largest distance from a blob to the nearest that was found: {distances.min(axis=0).max():.1f} cells")

# %%
# Both pictures are seen from above, as the maximum over the depth. In the volume the eye finds few of the
# blobs, and in the response of the filter all of them. Two blobs that touch in the picture lie at different
# depths.

fig, axes = plt.subplots(2, 1, figsize=(5.6, 10.6), layout="constrained")
axes[0].imshow(volume.max(axis=0), cmap="magma")
axes[0].set_title("volume")
axes[1].imshow(response[0, 0].max(axis=0), cmap="magma")
axes[1].plot(centres[:, 2], centres[:, 1], "k+", markersize=12, markeredgewidth=2, label="true")
ring = {"fillstyle": "none", "markersize": 22, "markeredgewidth": 2}
axes[1].plot(found[:, 2], found[:, 1], "o", color="#17becf", label="found", **ring)
axes[1].set_title("response of the filter")
axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False)
for ax in axes:
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# .. seealso::
#
#    :func:`fastconv.conv3d`, :func:`fastconv.max_pool3d`; :doc:`/gallery/plot_signal_1d` for the same idea
#    in one dimension.
