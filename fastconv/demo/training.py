"""Training, accuracy, and a race against the plain NumPy twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
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
    """Median milliseconds of one training step, with fastconv and with plain NumPy."""

    fastconv: float
    plain: float

    @property
    def ratio(self) -> float:
        """How many times as fast fastconv is."""
        return self.plain / self.fastconv


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

    def step(self, images: Array, labels: Array) -> float:
        """Train on one batch; returns its loss before the step."""
        targets = labels if isinstance(self.loss, nn.CrossEntropyLoss) else _one_hot(labels)
        loss = self.loss.forward(self.network.forward(images), targets)
        # Nothing lies below the images: their gradient is not computed.
        self.network.backward(self.loss.backward(), needs_input=False)
        self.optimiser.step()
        return loss


def _one_hot(labels: Array) -> Array:
    return np.eye(CLASSES, dtype=np.float32)[labels]


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


def race(recipe: Recipe, data: Images, *, batch: int, seed: int, rounds: int = 15, steps: int = 8) -> Race:
    """Time training steps of the network and of its plain NumPy twin.

    The two start from equal weights and see equal batches. Their rounds alternate, so that whatever else
    the machine does meets both, and the medians of the rounds are compared.
    """
    runners = [Trainer(recipe, layers, seed).step for layers in (nn, plain)]
    rng = np.random.default_rng(seed)
    rows = [rng.choice(len(data.train_images), batch, replace=False) for _ in range(steps)]
    batches = [(data.train_images[row], data.train_labels[row]) for row in rows]
    times: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for runner, measured in zip(runners, times, strict=True):
            elapsed = _time(runner, batches)
            if turn:  # the first turn compiles and warms the caches
                measured.append(elapsed)
    return Race(median(times[0]), median(times[1]))


def _time(step: Callable[[Array, Array], float], batches: list[tuple[Array, Array]]) -> float:
    start = perf_counter()
    for images, labels in batches:
        step(images, labels)
    return 1000 * (perf_counter() - start) / len(batches)


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
