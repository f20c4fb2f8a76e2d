"""
Classify handwritten digits with a convolutional network
========================================================

A network of two convolutions is trained on the digits of scikit-learn, with NumPy arrays and no framework.
Its confusion matrix shows which digits it takes for which others, and the misread digits show why.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split

from fastconv import nn

plt.rcParams.update({"font.size": 14, "axes.titlesize": 14})

digits = load_digits()
images = (digits.images / 16).astype("float32")[:, np.newaxis]
train_x, test_x, train_t, test_t = train_test_split(images, digits.target, test_size=0.5, random_state=0)
print("train_x", train_x.shape)
print("test_x ", test_x.shape)

# %%
# This is the network, with its shapes for a batch of 32 images:

rng = np.random.default_rng(0)
net = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding="same", rng=rng),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding="same", rng=rng),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Dropout(0.2, rng=rng),
    nn.Linear(32 * 2 * 2, 10, rng=rng),
)
print(net.summary((32, 1, 8, 8)))

# %%
# Each training step goes forward and backward, and lets the optimiser move the weights.

loss, optimiser = nn.CrossEntropyLoss(), nn.Adam(net, learning_rate=0.005)
for _ in range(20):
    order = rng.permutation(len(train_x))
    for first in range(0, len(order), 32):
        batch = order[first : first + 32]
        loss.forward(net.forward(train_x[batch]), train_t[batch])
        net.backward(loss.backward(), needs_input=False)
        optimiser.step()

net.eval()  # no dropout from here on
scores = net.forward(test_x)
answers = scores.argmax(axis=1)
print(f"test accuracy: {np.mean(answers == test_t):.1%} of {len(test_t)} digits")

# %%
# A row of the confusion matrix belongs to a digit as it was meant, and a column to a digit as it was read.
# Right answers stand on the diagonal.

matrix = confusion_matrix(test_t, answers)
fig, ax = plt.subplots(figsize=(6.4, 6.2), layout="constrained")
ax.imshow(np.sqrt(matrix), cmap="Blues")
for (meant, read), count in np.ndenumerate(matrix):
    if count:
        colour = "white" if count > 40 else "black"
        ax.text(read, meant, str(count), ha="center", va="center", color=colour)
ax.set(xticks=range(10), yticks=range(10), xlabel="read as", ylabel="meant as")
plt.show()

# %%
# These are ten of the misread digits, with what they were meant as and what they were read as:

wrong = np.flatnonzero(answers != test_t)[:10]
fig, axes = plt.subplots(2, 5, figsize=(6.4, 3.4), layout="constrained")
for ax in axes.flat:
    ax.axis("off")
for ax, i in zip(axes.flat, wrong, strict=False):
    ax.imshow(test_x[i, 0], cmap="gray_r")
    ax.set_title(f"{test_t[i]} as {answers[i]}")
plt.show()

# %%
# .. seealso::
#
#    :class:`fastconv.nn.Sequential`, :class:`fastconv.nn.Conv2d`, :class:`fastconv.nn.CrossEntropyLoss`;
#    :doc:`/tutorial/plot_2_train_a_network` explains each of these steps.
