"""What training makes small: a number for a batch, and its gradient."""

from __future__ import annotations

import numpy as np

from fastconv import advice
from fastconv.arguments import Array, float_array, must_be_said, shaped
from fastconv.kernels import training as kernels
from fastconv.nn.checks import no_forward
from fastconv.nn.configured import Configured


class CrossEntropyLoss(Configured):
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

    _kept_for_backward = ("_grad",)

    def __init__(self) -> None:
        self._grad: Array | None = None

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
        logits = float_array("logits", logits)
        self._check(logits, targets)
        compute = np.float64 if logits.dtype == np.float64 else np.float32
        grad = np.empty(logits.shape, compute)
        total = kernels.cross_entropy(_plain(logits, compute), _plain(targets, np.int64), grad)
        if total is None:
            came = f"numbers from {targets.min()} to {targets.max()}"
            must_be_said(ValueError, "targets", f"at least 0 and below {logits.shape[1]}", came)
        self._grad = grad.astype(logits.dtype, copy=False)
        return total / len(logits)

    @staticmethod
    def _check(logits: Array, targets: Array) -> None:
        if logits.ndim != 2 or not logits.size:
            must_be_said(ValueError, "logits", "of shape (N, K), not empty", f"shape {logits.shape}")
        masked = isinstance(targets, np.ma.MaskedArray)
        one_hot = isinstance(targets, np.ndarray) and targets.shape == logits.shape
        hint = "; pass targets.argmax(1)" if one_hot else ""
        if not isinstance(targets, np.ndarray) or masked or targets.dtype.kind not in "iu":
            must_be_said(TypeError, "targets", "an integer array", advice.shown(targets) + hint)
        if targets.shape != logits.shape[:1]:
            must_be_said(ValueError, "targets", f"of shape ({len(logits)},)", f"shape {targets.shape}{hint}")

    def backward(self) -> Array:
        """The gradient of the logits, of shape (N, K)."""
        if self._grad is None:
            no_forward()
        return self._grad.copy()


def _plain(array: Array, dtype: type) -> Array:
    """The array itself, or a copy that the kernel need not be compiled for apart."""
    return array if array.flags.carray and array.dtype == dtype else np.array(array, dtype, order="C")


class MSELoss(Configured):
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

    _kept_for_backward = ("_difference",)

    def __init__(self) -> None:
        self._difference: Array | None = None

    def forward(self, output: Array, targets: Array) -> float:
        """The mean of ``(output - targets)**2``; two arrays of the same shape."""
        output, targets = float_array("output", output), float_array("targets", targets)
        shaped("targets", targets, output.shape)
        if not output.size:
            must_be_said(ValueError, "output", "not empty", f"shape {output.shape}")
        with np.errstate(all="ignore"):  # infinities and NaN travel without a warning
            self._difference = difference = output - targets
        return float(np.vdot(difference, difference)) / difference.size

    def backward(self) -> Array:
        """The gradient of ``output``."""
        if self._difference is None:
            no_forward()
        return self._difference * (2 / self._difference.size)
