"""
Smooth a signal and find a pulse in noise (1-D convolution)
===========================================================

Two everyday uses of a one-dimensional convolution: a Gaussian filter takes the noise off a signal, and a
matched filter finds a known pulse that the eye does not see. A matched filter is the pulse itself, laid
over the signal at every place.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastconv

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})
rng = np.random.default_rng(0)

# %%
# Smoothing
# ---------
# :func:`fastconv.conv1d` takes signals of shape ``(batch, channels, width)``. The Gaussian filter sums to
# one, so an even signal stays as it is. Near the ends it would reach beyond the signal, so we first continue
# the signal by its outermost values, 40 on either side. Then the result is as long as the signal was.

time = np.linspace(0, 1, 1000)
clean = np.sin(2 * np.pi * 2 * time) + (time > 0.6)
noisy = clean + 0.4 * rng.standard_normal(time.size)

gauss = np.exp(-0.5 * (np.arange(-40, 41) / 12) ** 2)
gauss /= gauss.sum()

signal = np.pad(noisy, 40, mode="edge")[np.newaxis, np.newaxis]
smooth = fastconv.conv1d(signal, gauss[np.newaxis, np.newaxis])[0, 0]
print("signal", signal.shape)
print("filter", gauss[np.newaxis, np.newaxis].shape)
print("smooth", smooth.shape)

# %%
# A matched filter
# ----------------
# A pulse whose pitch rises is sent, and comes back three times, weaker than the noise. Convolution in
# fastconv does not flip the filter, so laying the pulse over the signal needs no reversal.

t = np.linspace(0, 1, 400)
pulse = np.sin(2 * np.pi * (5 * t + 25 * t**2)) * np.hanning(400)
places = [700, 1800, 3100]
received = rng.standard_normal(4000)
for place in places:
    received[place : place + 400] += 0.7 * pulse

x = received[np.newaxis, np.newaxis]
match = fastconv.conv1d(x, pulse[np.newaxis, np.newaxis])[0, 0]
print("received", x.shape)
print("match   ", match.shape)

# %%
# The three highest peaks stand where the pulses begin. A peak must be the largest value within 100 cells on
# either side, which a max-pooling with stride 1 finds.

highest = fastconv.max_pool1d(match[np.newaxis, np.newaxis], 201, stride=1, padding=100)[0, 0]
peaks = np.flatnonzero(match == highest)
found = np.sort(peaks[np.argsort(match[peaks])[-3:]])
print("sent ", places)
print("found", found.tolist())

fig, axes = plt.subplots(3, 1, figsize=(6.4, 8), layout="constrained")
axes[0].plot(time, noisy, color="#bbbbbb", linewidth=0.8, label="noisy")
axes[0].plot(time, smooth, color="#1f5a94", linewidth=2.5, label="smoothed")
axes[0].plot(time, clean, color="black", linewidth=1, linestyle="--", label="true")
axes[0].set(xlabel="time", title="Gaussian filter", ylim=(-2.5, 4.4))
axes[0].legend(frameon=False, ncols=3, loc="upper center")
axes[1].plot(received, color="#888888", linewidth=0.6)
axes[1].set(title="received: noise, and three pulses in it", xlim=(0, 4000))
axes[2].plot(match, color="#1f5a94", linewidth=0.8)
axes[2].plot(found, match[found], "o", color="#d1495b", markersize=9, label="found")
axes[2].plot(places, [-40] * 3, "^", color="black", markersize=9, label="sent")
axes[2].set(xlabel="cell", title="matched filter", xlim=(0, 4000), ylim=(-55, 105))
axes[2].legend(frameon=False, ncols=2, loc="upper center")
plt.show()

# %%
# .. seealso::
#
#    :func:`fastconv.conv1d`, :func:`fastconv.max_pool1d`; :doc:`/gallery/plot_blobs_3d` for the same idea
#    in a volume.
