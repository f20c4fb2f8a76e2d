"""Training steps over several processes: the batch is parted, and gradients are summed as a tree."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fastconv.arguments import Array, must_be, must_be_said, whole_number
from fastconv.nn.layer import Layer, Weighted, layers_in, owners_of
from fastconv.nn.regularisation import BatchNorm2d, Dropout
from fastconv.threads import num_threads

# Sums of so many parts, and sums of these.
TOGETHER = 4
# A worker's networks, by what they were sent as: one a thread, since a network keeps what backward needs.
_local = threading.local()


class DataParallel:
    """A network whose training steps are computed by the workers of a Dask client.

    Every step parts the batch among the workers. Each computes the loss and the gradients of its part, and
    the parts are added up as a tree of a fixed shape: the step is that of one process to rounding, and the
    same from run to run. The network here keeps the parameters, so any optimiser steps it.

    Parameters
    ----------
    net : Layer
        Of parameters in one dtype. Layers that depend on the whole batch or on chance (`BatchNorm2d`,
        `Dropout`) are refused.
    client : distributed.Client
    parts : int, optional
        Into how many parts a batch is cut: as many as there are workers now, where it is not given. The
        numbers depend on it, not on how many workers there are.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, or a layer can't be trained in parts.

    See Also
    --------
    Layer.flat_gradients : One vector, which a program of MPI can sum over its processes; the page "Train on
        several machines with MPI" of the how-to guides has one.

    Notes
    -----
    What a worker needs travels with its task (the parameters once a step for all), so that a worker that dies
    costs the recomputation of its share on another one, and nothing else. What earlier passes kept for
    `backward`, in the network and in the loss, does not travel. Layers and losses of your own that keep
    something large can leave it out in a ``__getstate__``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> def train(client: object, images: np.ndarray, digits: np.ndarray) -> list[float]:
    ...     net = nn.Sequential(nn.Conv2d(1, 3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(1728, 10))
    ...     parallel, loss, optimiser = nn.DataParallel(net, client), nn.CrossEntropyLoss(), nn.Adam(net)
    ...     losses = []
    ...     for _ in range(10):
    ...         losses.append(parallel.step(loss, images, digits))
    ...         optimiser.step()
    ...     return losses
    """

    def __init__(self, net: Layer, client: Any, *, parts: int | None = None) -> None:
        if not isinstance(net, Layer):
            must_be(TypeError, "net", "a Layer", net)
        if not all(hasattr(client, name) for name in ("submit", "scheduler_info", "gather")):
            must_be(TypeError, "client", "a dask.distributed.Client", client)
        for layer in layers_in(net):
            if isinstance(layer, (BatchNorm2d, Dropout)):
                must_be_said(
                    ValueError, "net", "of layers whose result for an image depends on that image alone",
                    f"a {type(layer).__name__}",
                )  # fmt: skip
        for layer, _ in owners_of(net, net.parameters()) or ():
            if not isinstance(layer, Weighted):
                must_be_said(
                    TypeError,
                    "net",
                    "of parameters that fastconv.nn's own layers hold",
                    f"one of a {type(layer).__name__}",
                )
        self.net, self.client = net, client
        workers = max(1, len(client.scheduler_info()["workers"]))
        self.parts = workers if parts is None else whole_number("parts", parts, 1)
        # The network's layers; its numbers travel anew for every step.
        self._known = client.submit(_as_it_is, pickle.dumps(net), pure=False)

    def step(self, loss: Any, x: Array, targets: Array) -> float:
        """Compute a batch's loss, and the gradients that `optimiser.step()` uses.

        Parameters
        ----------
        loss : object
            One of `fastconv.nn`'s losses: a mean over the images of the batch.
        x, targets : array
            Images and what they should give, with the batch first.

        Returns
        -------
        float
            The mean loss of the whole batch. The gradients are where the network keeps them, in
            ``net.gradients()`` and ``net.flat_gradients()``.

        Raises
        ------
        ValueError
            If there are no images, or not as many targets.
        """
        x, targets = np.asarray(x), np.asarray(targets)
        count = len(x)
        if count != len(targets):
            must_be_said(ValueError, "targets", f"as many as the {count} images", f"{len(targets)}")
        if not count:
            must_be_said(ValueError, "x", "of at least one image", "none")
        parts = min(self.parts, count)
        submit = self.client.submit
        # All of it: what is frozen now may have been trained by earlier steps.
        state = submit(
            _as_it_is, {name: array.copy() for name, array in self.net.state().items()}, pure=False
        )
        frozen = _frozen(self.net)
        bounds = [count * k // parts for k in range(parts + 1)]
        level = [
            submit(
                _share,
                self._known,
                state,
                loss,
                x[a:b],
                targets[a:b],
                (b - a) / count,
                frozen,
                pure=False,
            )
            for a, b in pairwise(bounds)
        ]
        while len(level) > 1:
            level = [
                submit(_sum, level[k : k + TOGETHER], pure=False) for k in range(0, len(level), TOGETHER)
            ]
        value, gradient = level[0].result()
        self._receive(gradient)
        return float(value)

    def _receive(self, gradient: Array) -> None:
        """Put a vector of gradients where the layers keep theirs."""
        parameters, first = self.net.parameters(), 0
        owners = owners_of(self.net, parameters)
        assert owners is not None  # a worker had refused others
        for (layer, name), value in zip(owners, parameters, strict=True):
            setattr(layer, f"grad_{name}", gradient[first : first + value.size].reshape(value.shape))
            first += value.size


def _frozen(net: Layer) -> list[bool]:
    return [layer.frozen for layer in layers_in(net)]


# What workers run


def _as_it_is(value: Any) -> Any:
    return value


def _network(known: bytes) -> Layer:
    """The network of this thread, made when it is first met."""
    key = hashlib.sha256(known).digest()
    if getattr(_local, "key", None) != key:
        _local.key, _local.network = key, pickle.loads(known)
    network: Layer = _local.network
    return network


def _share(
    known: bytes,
    state: dict[str, Array],
    loss: Any,
    x: Array,
    targets: Array,
    weight: float,
    frozen: list[bool],
) -> tuple[float, Array]:
    """A part's share of the loss and of the gradients, on one thread: a worker runs one task a thread."""
    network = _network(known)
    if _frozen(network) != frozen:
        for layer, still in zip(layers_in(network), frozen, strict=True):
            layer.frozen = still
    network.load_state(state)
    with num_threads(1):
        value = loss.forward(network.forward(x), targets)
        network.backward(loss.backward(), needs_input=False)
    return value * weight, network.flat_gradients() * network.flat_gradients().dtype.type(weight)


def _sum(shares: Sequence[tuple[float, Array]]) -> tuple[float, Array]:
    value, gradient = shares[0][0], shares[0][1].copy()
    for other, more in shares[1:]:
        value += other
        gradient += more
    return value, gradient
