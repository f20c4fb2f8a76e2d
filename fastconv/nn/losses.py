"""What training makes small: a number for a batch, and its gradient."""

from __future__ import annotations

import numpy as np

from fastconv.arguments import Array, must_be, must_be_said
from fastconv.nn.checks import no_forward


class CrossEntropyLoss:
    """Softmax and the mean cross-entropy of its probabilities, from logits.

    Raises
    ------
    ValueError, TypeError
        Where ``logits`` are not (N, K) or ``targets`` not N integers in [0, K).

    Notes
    -----
    ``loss = mean(log(sum_j exp(z_j)) - z_t)``, with the largest logit of a row taken off first so that no
    exponential overflows; its gradient is ``(softmax(z) - onehot(t)) / N``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> loss = nn.CrossEntropyLoss()
    >>> round(loss.forward(np.zeros((1, 4)), np.array([2])), 4)  # log(4)
    1.3863
    >>> loss.backward()
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """

    def __init__(self) -> None:
        # Of the last forward pass: the probabilities, and where in them the right classes are.
        self._kept: tuple[Array, tuple[Array, Array]] | None = None

    def forward(self, logits: Array, targets: Array) -> float:
        """The mean loss of a batch.

        Parameters
        ----------
        logits : array of shape (N, K)
            Scores before the softmax.
        targets : integer array of shape (N,)
            The right class of each row.

        Returns
        -------
        float
        """
        self._check(logits, targets)
        shifted = logits - np.maximum.reduce(logits, 1, keepdims=True)
        at = np.arange(len(logits)), targets
        right = shifted[at]
        np.exp(shifted, out=shifted)
        total = np.add.reduce(shifted, 1)
        shifted /= total[:, None]
        self._kept = shifted, at
        return float(np.add.reduce(np.log(total) - right)) / len(logits)

    @staticmethod
    def _check(logits: Array, targets: Array) -> None:
        if logits.ndim != 2 or not logits.size:
            must_be_said(ValueError, "logits", "of shape (N, K), not empty", f"shape {logits.shape}")
        count, classes = logits.shape
        if not isinstance(targets, np.ndarray) or targets.dtype.kind not in "iu":
            must_be(TypeError, "targets", "an integer array", targets)
        if targets.shape != (count,):
            must_be_said(ValueError, "targets", f"of shape ({count},)", f"shape {targets.shape}")
        if np.minimum.reduce(targets) < 0 or np.maximum.reduce(targets) >= classes:
            came = f"numbers from {targets.min()} to {targets.max()}"
            must_be_said(ValueError, "targets", f"at least 0 and below {classes}", came)

    def backward(self) -> Array:
        """The gradient of the logits, of shape (N, K)."""
        if self._kept is None:
            no_forward()
        probabilities, at = self._kept
        grad = probabilities.copy()
        grad[at] -= 1
        grad /= len(grad)
        return grad


class MSELoss:
    """The mean squared difference, over all elements as in PyTorch.

    Raises
    ------
    ValueError
        Where the two shapes differ or are empty.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> loss = nn.MSELoss()
    >>> loss.forward(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    2.0
    >>> loss.backward()
    array([0., 2.])
    """

    def __init__(self) -> None:
        self._difference: Array | None = None

    def forward(self, output: Array, targets: Array) -> float:
        """The mean of ``(output - targets)**2``; two arrays of the same shape."""
        if output.shape != targets.shape or not output.size:
            must_be_said(ValueError, "targets", f"of output's shape {output.shape}", f"shape {targets.shape}")
        self._difference = difference = output - targets
        return float(np.vdot(difference, difference)) / difference.size

    def backward(self) -> Array:
        """The gradient of ``output``."""
        if self._difference is None:
            no_forward()
        return self._difference * (2 / self._difference.size)
