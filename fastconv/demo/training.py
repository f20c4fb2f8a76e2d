"""Training, accuracy, and a race against the plain NumPy twin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np

from fastconv import nn
from fastconv.arguments import Array
from fastconv.demo import plain
from fastconv.demo.data import CLASSES, DemoError, Images, _reason
from fastconv.demo.networks import Recipe
from fastconv.progress import Progress

_TEST_BATCH = 360


@dataclass
class History:
    """What training went through: the loss of every step, the test accuracy after every epoch."""

    label: str
    steps_per_epoch: int
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Race:
    """Milliseconds of the fastest training step, with fastconv and with plain NumPy."""

    fastconv: float
    plain: float

    @property
    def ratio(self) -> float:
        """How many times as fast fastconv is."""
        return self.plain / self.fastconv


@dataclass(frozen=True)
class Passes:
    """One image's way through a network and back: arrays, each with the gradient of the loss by it.

    Attributes
    ----------
    image : pair of arrays of shape (1, 28, 28)
    filters : pair of arrays of shape (K, 1, R, S)
        Of the first convolution.
    maps : list of pairs of arrays of shape (K, OH, OW)
        What each convolution gives, before its activation.
    output : pair of arrays of shape (10,)
    """

    image: tuple[Array, Array]
    filters: tuple[Array, Array]
    maps: list[tuple[Array, Array]]
    output: tuple[Array, Array]


class Trainer:
    """A network with its loss and its optimiser.

    Parameters
    ----------
    recipe : Recipe
        The network and how to train it.
    layers : module
        `fastconv.nn` or `fastconv.demo.plain`.
    seed : int
        Of the initial weights; equal seeds give equal weights whatever the layers.
    freeze_filters : bool
        Whether the convolutions keep their initial weights.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> from fastconv.demo.networks import RECIPES
    >>> from fastconv.demo.training import Trainer
    >>> trainer = Trainer(RECIPES["s004"], nn, seed=0)
    >>> images = np.random.default_rng(0).random((10, 1, 28, 28), dtype=np.float32)
    >>> losses = [trainer.step(images, np.arange(10)) for _ in range(5)]
    >>> losses[4] < losses[0]
    True
    """

    def __init__(self, recipe: Recipe, layers: ModuleType, seed: int, freeze_filters: bool = False) -> None:
        self.network = recipe.build(layers, seed)
        for layer in self.network:
            layer.frozen = freeze_filters and isinstance(layer, nn.Conv2d)
        self.loss = recipe.loss()
        self.optimiser = nn.Adam(self.network, recipe.learning_rate)
        self.parallel: nn.DataParallel | None = None  # where steps are computed by several workers

    def step(self, images: Array, labels: Array) -> float:
        """Train on one batch; returns its loss before the step."""
        if self.parallel is not None:
            loss = self.parallel.step(self.loss, images, self._targets(labels))
            self.optimiser.step()
            return loss
        loss = self.loss.forward(self.network.forward(images), self._targets(labels))
        # Nothing lies below the images: their gradient is not computed.
        self.network.backward(self.loss.backward(), needs_input=False)
        self.optimiser.step()
        return loss

    def passes(self, image: Array, label: int) -> Passes:
        """Send one image, (1, 28, 28), through the network, and its error back; nothing is trained."""
        x = image[None]
        maps: list[Array] = []
        errors: list[Array] = []
        for layer in self.network:
            x = layer.forward(x)
            if isinstance(layer, nn.Conv2d):
                maps.append(x[0].copy())
        self.loss.forward(x, self._targets(np.array([label])))
        error = output_error = self.loss.backward()
        for layer in reversed(self.network.layers):
            if isinstance(layer, nn.Conv2d):
                errors.insert(0, error[0].copy())
            error = layer.backward(error)  # type: ignore[assignment]  # None only where it is not needed
        first = convolutions(self.network)[0]
        return Passes(
            image=(image, error[0]),
            filters=(first.weight.copy(), first.grad_weight.copy()),  # type: ignore[union-attr]
            maps=[*zip(maps, errors, strict=True)],
            output=(x[0], output_error[0]),
        )

    def _targets(self, labels: Array) -> Array:
        """What the loss compares the output with."""
        if isinstance(self.loss, nn.CrossEntropyLoss):
            return labels
        return np.eye(CLASSES, dtype=np.float32)[labels]


def convolutions(network: nn.Sequential) -> list[nn.Conv2d]:
    """The convolutions of a network, in order."""
    return [layer for layer in network if isinstance(layer, nn.Conv2d)]


def accuracy(network: nn.Layer, images: Array, labels: Array) -> float:
    """The share of ``images`` whose largest output is at their label."""
    network.eval()
    right = 0
    for start in range(0, len(images), _TEST_BATCH):
        part = slice(start, start + _TEST_BATCH)
        right += int(np.count_nonzero(network.forward(images[part]).argmax(1) == labels[part]))
    network.train()
    return right / len(images)


def _batches(count: int, batch: int, rng: np.random.Generator) -> Iterator[Array]:
    order = rng.permutation(count)
    for start in range(0, count, batch):
        yield order[start : start + batch]


def train(trainer: Trainer, data: Images, *, epochs: int, batch: int, seed: int, label: str) -> History:
    """Train for ``epochs`` over shuffled batches, and measure the test accuracy after each.

    The learning rate falls linearly to zero, so that the last epochs settle what the first ones found.
    """
    rng, count = np.random.default_rng(seed), len(data.train_images)
    history = History(label, -(-count // batch))
    total, rate = epochs * history.steps_per_epoch, trainer.optimiser.learning_rate
    start = perf_counter()
    with Progress(label, total) as progress:
        for _ in range(epochs):
            for rows in _batches(count, batch, rng):
                trainer.optimiser.learning_rate = rate * (1 - len(history.losses) / total)
                history.losses.append(trainer.step(data.train_images[rows], data.train_labels[rows]))
                progress.advance()
            reached = accuracy(trainer.network, data.test_images, data.test_labels)
            history.accuracies.append(reached)
            note = f"loss {history.losses[-1]:.3f}, test accuracy {reached:.1%}"
            progress.under_way(note)
            progress.tell(note)
    history.seconds = perf_counter() - start
    return history


def step_times(
    recipe: Recipe, data: Images, client: Any, *, batch: int, seed: int, rounds: int = 20
) -> tuple[float, float]:
    """Milliseconds of a training step, here and on the workers of a Dask client: medians of turns."""
    alone, parted = (Trainer(recipe, nn, seed) for _ in range(2))
    parted.parallel = nn.DataParallel(parted.network, client)
    rng, times = np.random.default_rng(seed), ([], [])  # type: tuple[Any, tuple[list[float], list[float]]]
    for _ in range(rounds):
        rows = rng.choice(len(data.train_images), batch, replace=False)
        for trainer, taken in zip((alone, parted), times, strict=True):
            start = perf_counter()
            trainer.step(data.train_images[rows], data.train_labels[rows])
            taken.append(1e3 * (perf_counter() - start))
    return float(np.median(times[0])), float(np.median(times[1]))


def race(
    recipe: Recipe, data: Images, *, batch: int, seed: int, rounds: int = 200, seconds: float = 2.0
) -> Race:
    """Time training steps of the network and of its plain NumPy twin.

    The two start from equal weights, see equal batches and take turns, a step each: ``rounds`` times, or
    until ``seconds`` have passed (five times at least). The fastest step of each counts: whatever else the
    machine does only makes steps longer, and of many short turns some meet nothing of it.
    """
    runners = [Trainer(recipe, layers, seed).step for layers in (nn, plain)]
    rng = np.random.default_rng(seed)
    times: list[list[float]] = [[], []]
    while len(times[1]) <= rounds and (len(times[1]) <= 5 or sum(map(sum, times)) < seconds):
        rows = rng.choice(len(data.train_images), batch, replace=False)
        images, labels = data.train_images[rows], data.train_labels[rows]
        for runner, measured in zip(runners, times, strict=True):
            start = perf_counter()
            runner(images, labels)
            measured.append(perf_counter() - start)
    # The first turn compiles and warms the caches.
    return Race(*(1000 * min(measured[1:]) for measured in times))


def stages(network: nn.Sequential, images: Array) -> tuple[list[Array], Array]:
    """The feature maps of each convolution, after its activation, and the network's output."""
    network.eval()
    maps, x, after_convolution = [], images, False
    for layer in network:
        x = layer.forward(x)
        if after_convolution:
            maps.append(x)
        after_convolution = isinstance(layer, nn.Conv2d)
    network.train()
    return maps, x


def dead_filters(network: nn.Sequential, *images: Array) -> list[Array]:
    """Of each convolution, which filters give the same number everywhere in all images: True for those.

    Behind a ReLU that number is zero, and no gradient passes: such a filter no longer learns.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> from fastconv.demo.training import dead_filters
    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.ReLU())
    >>> network[0].weight[1] = -1
    >>> dead_filters(network, np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32))
    [array([False,  True])]
    """
    parts = [
        some[start : start + _TEST_BATCH] for some in images for start in range(0, len(some), _TEST_BATCH)
    ]
    ranges = [
        [(one.min((0, 2, 3)), one.max((0, 2, 3))) for one in stages(network, part)[0]] for part in parts
    ]
    by_convolution = (zip(*found, strict=True) for found in zip(*ranges, strict=True))
    return [np.min(lows, 0) == np.max(highs, 0) for lows, highs in by_convolution]


def save(path: Path, name: str, network: nn.Layer) -> None:
    """Write a network's arrays, and which network it is, to an NPZ file.

    Raises
    ------
    DemoError
        Where the file can't be written.
    """
    try:
        with path.open("wb") as file:
            arrays: dict[str, Any] = {"net": np.array(name), **network.state()}
            np.savez(file, **arrays)
    except OSError as error:
        raise DemoError(f"{path}: {_reason(error)}") from None


def restore(path: Path, name: str, network: nn.Layer) -> None:
    """Read what `save` wrote into ``network``.

    Raises
    ------
    DemoError
        Where the file can't be read, is something else, or holds another network.
    """
    try:
        with path.open("rb") as file:
            state = _saved_state(file.read(), name)
        network.load_state(state)
    except OSError as error:
        raise DemoError(f"{path}: {_reason(error)}") from None
    except (ValueError, TypeError) as error:
        raise DemoError(f"{path}: not a network saved by fastconv demo --net {name}: {error}") from None


def _saved_state(content: bytes, name: str) -> dict[str, Array]:
    from io import BytesIO

    try:
        with np.load(BytesIO(content), allow_pickle=False) as archive:
            state = {key: archive[key] for key in archive}
    except Exception as error:  # a damaged archive makes zipfile, zlib and NumPy raise all sorts of errors
        raise ValueError(_reason(error)) from None
    saved = str(state.pop("net", "another file"))
    if saved != name:
        raise ValueError(f"it holds {saved}")
    if not all(array.dtype.kind == "f" and np.isfinite(array).all() for array in state.values()):
        raise ValueError("its arrays must be finite floats")
    return state
