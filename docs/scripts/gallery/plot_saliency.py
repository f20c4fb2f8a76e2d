"""
Saliency maps and fooled networks: the gradient of the input image
==================================================================

The backward pass of a network ends at its input. It says of every cell of the image how the score of a digit
would change if this cell were darker. Drawn as a picture, this gradient shows where the network looks. After
a few small steps along such a gradient, the network reads another digit.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from fastconv import nn

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})

# %%
# We train a small network on all digits but the last 300, which we keep for the test.

digits = load_digits()
images = (digits.images / 16).astype("float32")[:, np.newaxis]
train_x, train_t, test_x, test_t = images[:-300], digits.target[:-300], images[-300:], digits.target[-300:]

rng = np.random.default_rng(0)
net = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding="same", rng=rng),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(16 * 4 * 4, 10, rng=rng),
)
loss, optimiser = nn.CrossEntropyLoss(), nn.Adam(net, learning_rate=0.005)
for _ in range(20):
    order = rng.permutation(len(train_x))
    for first in range(0, len(order), 32):
        batch = order[first : first + 32]
        loss.forward(net.forward(train_x[batch]), train_t[batch])
        net.backward(loss.backward(), needs_input=False)
        optimiser.step()
print(f"test accuracy: {np.mean(net.forward(test_x).argmax(axis=1) == test_t):.1%}")

# %%
# The gradient of a score by the image
# ------------------------------------
# We want the gradient of one of the ten scores, so the gradient that we send back is 1 for this score and 0
# for the others. ``net.backward`` returns the gradient of the images, in their shape. A batch does this for
# four digits at once.

x = test_x[[np.flatnonzero(test_t == digit)[2] for digit in (0, 3, 4, 6)]]
scores = net.forward(x)
answers = scores.argmax(axis=1)
error = np.zeros_like(scores)
error[np.arange(len(x)), answers] = 1
saliency = net.backward(error)
print("x       ", x.shape)
print("error   ", error.shape)
print("saliency", saliency.shape)
print("read as ", answers)

# %%
# Fooling the network
# -------------------
# The loss of a wrong answer falls if we change the image against the gradient of that loss. As the wrong
# answer we take the second best. All cells move by the same small amount, in the direction of their
# gradient's sign, until the network changes its mind.

wrong = np.argsort(scores, axis=1)[:, -2]
fooled = x.copy()
for _ in range(100):
    undecided = net.forward(fooled).argmax(axis=1) != wrong
    if not undecided.any():
        break
    loss.forward(net.forward(fooled), wrong)
    gradient = net.backward(loss.backward())
    fooled[undecided] -= 0.02 * np.sign(gradient[undecided])
    fooled = fooled.clip(0, 1)

now = net.forward(fooled).argmax(axis=1)
print("read as now   ", now)
print("largest change", np.abs(fooled - x).max(axis=(1, 2, 3)).round(2))

# %%
# Where the saliency is red, a darker cell would raise the score of the digit; where it is blue, a darker cell
# would lower it.

fig, axes = plt.subplots(3, 4, figsize=(6.4, 5.6), layout="constrained")
for i, (above, middle, below) in enumerate(axes.T):
    above.imshow(x[i, 0], cmap="gray_r", vmin=0, vmax=1)
    above.set_title(f"read as {answers[i]}")
    most = np.abs(saliency[i]).max()
    middle.imshow(saliency[i, 0], cmap="RdBu_r", vmin=-most, vmax=most)
    below.imshow(fooled[i, 0], cmap="gray_r", vmin=0, vmax=1)
    below.set_title(f"read as {now[i]}")
for ax, name in zip(axes[:, 0], ["digit", "saliency", "fooled"], strict=True):
    ax.set_ylabel(name)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# .. seealso::
#
#    :func:`fastconv.conv2d_backward_input`, which is the step of a convolution in this pass;
#    :class:`fastconv.nn.Sequential`; :doc:`/tutorial/plot_2_train_a_network`.
