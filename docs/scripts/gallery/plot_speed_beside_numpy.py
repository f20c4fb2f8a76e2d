"""
Speed of convolution in NumPy: im2col and einsum beside fastconv
================================================================

Two ways to write a convolution in NumPy are widely known: windows by ``sliding_window_view`` with
``einsum``, and columns by hand (im2col) with a matrix product. This page computes three layers with both of
them and with :func:`fastconv.conv2d`, checks that the results agree, and prints the times of the machine on
which it was built.
"""

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import fastconv

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})

# %%
# Three ways to the same numbers
# ------------------------------
# Two of the functions are written here. Like :func:`fastconv.conv2d` by default, they convolve without
# padding and with stride 1.


def einsum(x, w):
    """Windows that are only views, and one sum over products; ``optimize`` lets NumPy call BLAS."""
    windows = sliding_window_view(x, w.shape[2:], axis=(2, 3))  # (N, C, OH, OW, R, S)
    return np.einsum("nchwrs,kcrs->nkhw", windows, w, optimize=True)


def im2col_by_hand(x, w):
    """A copy of all windows as one matrix, and one matrix product."""
    k, c, r, s = w.shape
    windows = sliding_window_view(x, (r, s), axis=(2, 3))
    n, _, height, width = windows.shape[:4]
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * height * width, c * r * s)
    product = columns @ w.reshape(k, c * r * s).T  # (N*OH*OW, K)
    return product.reshape(n, height, width, k).transpose(0, 3, 1, 2)


functions = {
    "sliding_window_view + einsum": einsum,
    "im2col by hand + matmul": im2col_by_hand,
    "fastconv.conv2d": fastconv.conv2d,
}

# %%
# Three layers
# ------------
# The first is as small as those of a first network for digits, the second has few channels and large
# images, and the third is of the kind of which large networks have many. The turns of the three functions
# are interleaved, and the median of the times is taken.

layers = {
    "small": ((10, 3, 12, 12), (6, 3, 5, 5)),
    "large images": ((4, 3, 128, 128), (16, 3, 5, 5)),
    "many channels": ((4, 64, 28, 28), (64, 64, 3, 3)),
}
rng = np.random.default_rng(0)
times = {name: [] for name in functions}
for layer, (input_size, weight_size) in layers.items():
    x = rng.standard_normal(input_size, dtype="float32")
    w = rng.standard_normal(weight_size, dtype="float32")
    results = [function(x, w) for function in functions.values()]  # the first call may compile
    same = all(np.allclose(result, results[-1], atol=1e-3) for result in results)
    print(f"{layer}: {input_size} with {weight_size} gives {results[-1].shape}, all the same: {same}")

    spent = {name: [] for name in functions}
    for _ in range(30):
        for name, function in functions.items():
            start = perf_counter()
            function(x, w)
            spent[name].append(perf_counter() - start)
    for name in functions:
        times[name].append(1000 * np.median(spent[name]))
        print(f"    {name:30} {times[name][-1]:8.3f} ms")

# %%
# The picture has the times as multiples of fastconv's. To see them for your own machine, download the script
# and run it.

print(f"threads: {fastconv.get_num_threads()}")
fig, ax = plt.subplots(figsize=(6.4, 5), layout="constrained")
ours = np.array(times["fastconv.conv2d"])
colours = ["#9aa5b1", "#5b8cc0", "#f58518"]
for i, (name, colour) in enumerate(zip(functions, colours, strict=True)):
    ratios = np.array(times[name]) / ours
    bars = ax.bar(np.arange(3) + (i - 1) * 0.27, ratios, width=0.25, color=colour, label=name)
    ax.bar_label(bars, [f"{ratio:.1f}" for ratio in ratios], padding=2)
ax.set_xticks(range(3), layers)
ax.set_ylabel("time, as a multiple of fastconv's")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.34), frameon=False)
plt.show()

# %%
# .. seealso::
#
#    :func:`fastconv.conv2d`, :func:`fastconv.plan_conv2d`, :func:`fastconv.set_num_threads`;
#    :doc:`/performance` for the layers of large networks, forward and backward.
