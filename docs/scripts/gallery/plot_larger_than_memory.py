"""
Filter an image that is larger than memory, from disk to disk
=============================================================

Some images do not fit into memory: scans of slides, mosaics of satellites, volumes of a microscope. Dask
cuts them into chunks, and :mod:`fastconv.dask` convolves one chunk after the other. Here a file is blurred,
and the result goes into another file. (The image is of 100 MB, so that the page builds quickly; nothing
depends on its size.)
"""

# %%
# A file as an array
# ------------------
#
# ``open_memmap`` makes a file of NumPy's own format and reads of it what is asked for. Any storage that Dask
# reads does as well, such as Zarr or HDF5.

import tempfile
from pathlib import Path

import dask
import dask.array as da
import matplotlib.pyplot as plt
import numpy as np

import fastconv
from fastconv import dask as fd

folder = Path(tempfile.mkdtemp())
size = (1, 1, 5000, 5000)
image = np.lib.format.open_memmap(folder / "image.npy", "w+", np.float32, size)
rows, columns = np.ogrid[:5000, :5000]
for start in range(0, 5000, 500):
    part = slice(start, start + 500)
    rings = np.hypot(rows[part] - 2500, columns - 2500)
    image[0, 0, part] = (np.sin(rings**2 / 12000) > 0.9) * (rings < 2400)
print(f"{image.nbytes / 1e6:.0f} MB on the disk")

# %%
# A blur, chunk by chunk
# ----------------------
#
# The chunks are of 1000x1000 pixels, 4 MB each. Nothing is computed when the layer is called; ``store`` then
# reads, computes and writes chunk after chunk.

distance = np.hypot(*np.mgrid[-7:8, -7:8])
kernel = np.exp(-((distance / 5) ** 2) / 2)
weight = (kernel / kernel.sum()).astype(np.float32)[None, None]

lazy = da.from_array(image, chunks=(1, 1, 1000, 1000))
blurred = fd.conv2d(lazy, weight, padding="same")
print("chunks:", blurred.numblocks, "tasks:", len(blurred.__dask_graph__()))

result = np.lib.format.open_memmap(folder / "blurred.npy", "w+", np.float32, size)
with dask.config.set(scheduler="threads"):
    da.store(blurred, result)
print("written:", result.shape)

# %%
# A chunk's windows reach over its edges, and there they need pixels of its neighbours. Only these borders are
# cut from the neighbours and handed over. There is no seam: around the corner of four chunks, the result
# equals the one that is computed in memory.

around = image[:, :, 900:1100, 900:1100]
inner = fastconv.conv2d(np.array(around), weight)  # without padding: 7 pixels less on each side
print("no seam:", np.allclose(inner, result[:, :, 907:1093, 907:1093], atol=1e-5))

figure, panels = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
for axes, pixels, title in zip(panels, (image, result), ("the file", "blurred"), strict=True):
    axes.imshow(pixels[0, 0, ::5, ::5], cmap="gray", vmin=0, vmax=1, extent=(0, 5000, 5000, 0))
    for edge in range(1000, 5000, 1000):
        axes.axhline(edge, color="#F58518", linewidth=0.8)
        axes.axvline(edge, color="#F58518", linewidth=0.8)
    axes.set_title(title, fontsize=15)
    axes.set(xticks=[], yticks=[])
plt.show()

# %%
# The graph of a small layer
# --------------------------
#
# This is what Dask gets for a signal in three chunks and a kernel of three taps: a task for each chunk of the
# result, which reads a chunk of the input and one sample of each neighbour; and a task for each chunk of the
# input, which cuts these samples.

signal = da.from_array(np.zeros((1, 1, 30), np.float32), chunks=(1, 1, 10))
layer = fd.conv1d(signal, np.ones((1, 1, 3), np.float32), padding=1)
graph = dict(layer.__dask_graph__())
cuts = [(key[-1], graph[key][-1]) for key in graph if str(key[0]).startswith("cut-")]
borders = [(chunk, first) for chunk, places in cuts for *_, (first, _stop) in places]
print(len(borders), "borders,", layer.npartitions, "calls")

figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
boxes = {"alpha": 1.0, "boxstyle": "round,pad=0.4", "edgecolor": "none"}
middle = {"ha": "center", "va": "center", "fontsize": 13}
for chunk in range(3):
    axes.text(chunk, 2, f"x[{chunk}]", bbox={**boxes, "facecolor": "#CFDDEC"}, **middle)
    axes.text(chunk, 0, f"conv1d\ny[{chunk}]", bbox={**boxes, "facecolor": "#C3E2BF"}, **middle)
    axes.annotate("", (chunk, 0.35), (chunk, 1.75), arrowprops={"arrowstyle": "->", "color": "0.3"})
for chunk, first in borders:
    to = chunk - 1 if first == 0 else chunk + 1
    place = chunk + 0.3 * (to - chunk)
    axes.text(
        place,
        1.15,
        f"x[{chunk}][{first}]",
        bbox={**boxes, "facecolor": "#F2F2F2"},
        **{**middle, "fontsize": 11},
    )
    axes.annotate("", (place, 1.35), (chunk, 1.78), arrowprops={"arrowstyle": "->", "color": "0.6"})
    axes.annotate("", (to, 0.35), (place, 0.95), arrowprops={"arrowstyle": "->", "color": "0.6"})
axes.set(xlim=(-0.5, 2.5), ylim=(-0.5, 2.5))
axes.axis("off")
plt.show()

# %%
# See also: :doc:`/howto/larger-than-memory`, with gradients, pooling and training on several workers;
# :func:`fastconv.dask.conv2d`.
