"""Loops of the little network that NumPy would do in several passes over its arrays."""

import numpy as np

from fastconv.kernels.jit import jit


@jit
def relu_backward(output, grad):
    """Leave ``grad`` where ``output`` is positive, zero it elsewhere; 1-D arrays."""
    zero = grad.dtype.type(0)
    for i in range(output.size):
        slope = grad[i]
        grad[i] = slope if output[i] > 0 else zero


@jit
def sigmoid_of_exponentials(x, exponentials):
    """Replace ``exp(-abs(x))`` by ``1 / (1 + exp(-x))``, without overflow for any x; 1-D arrays."""
    one = x.dtype.type(1)
    for i in range(x.size):
        exponential = exponentials[i]
        exponentials[i] = (one if x[i] >= 0 else exponential) / (one + exponential)


@jit
def cross_entropy(logits, targets, grad):
    """The sum over rows of ``log(sum_j exp(z_j)) - z_t``, or None where a target is no class.

    Parameters
    ----------
    logits : float array (N, K)
    targets : int64 array (N,)
    grad : float array (N, K)
        Written: ``(softmax(z) - onehot(t)) / N``.
    """
    rows, classes = logits.shape
    loss = 0.0
    for n in range(rows):
        target = targets[n]
        if target < 0 or target >= classes:
            return None
        largest = logits[n, 0]
        for j in range(1, classes):
            largest = max(largest, logits[n, j])
        total = 0.0
        for j in range(classes):
            grad[n, j] = np.exp(logits[n, j] - largest)
            total += grad[n, j]
        loss += np.log(total) - (logits[n, target] - largest)
        for j in range(classes):
            grad[n, j] /= total * rows
        grad[n, target] -= 1 / rows
    return loss


@jit
def adam_step(parameter, gradient, mean, square, decay, keep_mean, keep_square, rate, eps):
    """One step of Adam, in place; 1-D arrays.

    ``rate`` and ``eps`` hold the corrections of the two running means.
    """
    kind = parameter.dtype.type
    decay, keep_mean, keep_square, rate, eps = (
        kind(decay), kind(keep_mean), kind(keep_square), kind(rate), kind(eps)
    )  # fmt: skip
    one = kind(1)
    for i in range(parameter.size):
        slope = gradient[i] + decay * parameter[i]
        mean[i] += (one - keep_mean) * (slope - mean[i])
        square[i] += (one - keep_square) * (slope * slope - square[i])
        parameter[i] -= rate * mean[i] / (np.sqrt(square[i]) + eps)


@jit
def sgd_step(parameter, gradient, velocity, decay, momentum, rate):
    """One step of gradient descent, in place; 1-D arrays, ``velocity`` of size 0 without momentum."""
    kind = parameter.dtype.type
    decay, momentum, rate = kind(decay), kind(momentum), kind(rate)
    for i in range(parameter.size):
        slope = gradient[i] + decay * parameter[i]
        if velocity.size > 0:
            velocity[i] = momentum * velocity[i] + slope
            slope = velocity[i]
        parameter[i] -= rate * slope
