"""The demo from options to report: train, test, race, draw, save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastconv
from fastconv import nn
from fastconv.demo import data as demo_data
from fastconv.demo.data import DemoError, Images
from fastconv.demo.networks import RECIPES, Recipe
from fastconv.demo.picture import draw
from fastconv.demo.training import (
    History,
    Trainer,
    accuracy,
    dead_filters,
    race,
    restore,
    save,
    step_times,
    train,
)
from fastconv.outputs import check_file, check_picture


@dataclass(frozen=True)
class Options:
    """What the user asked for; None means the recipe's own choice."""

    net: str = "s000"
    data: str | None = None
    epochs: int | None = None
    batch: int = 10
    seed: int = 0
    threads: int | None = None
    workers: int | None = None
    picture: Path | None = None
    save: Path | None = None
    load: Path | None = None


def run(options: Options) -> None:
    """Do what ``options`` say and report it line by line.

    Raises
    ------
    DemoError, OutputError
        For whatever the user can put right; nothing has been trained yet where that could be known.
    """
    recipe = RECIPES[options.net]
    picture = options.picture or Path(f"fastconv-demo-{recipe.name}.png")
    check_picture(picture)
    check_file(options.save)
    with nullcontext() if options.threads is None else _held_to(options.threads):
        _run(recipe, options, picture)


@contextmanager
def _held_to(threads: int) -> Iterator[None]:
    """Hold fastconv, and the BLAS that NumPy calls, to the same number of threads."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

    with ExitStack() as stack:
        try:
            stack.enter_context(fastconv.num_threads(threads))
        except ValueError as error:
            raise DemoError(f"argument --threads: {error}") from None
        stack.enter_context(threadpool_limits(threads, user_api="blas"))
        yield


def _run(recipe: Recipe, options: Options, picture: Path) -> None:
    images = demo_data.load(options.data)
    _check_batch(options.batch, images)
    print(f"network: {recipe.name}, {recipe.about}")
    counts = f"{len(images.train_images)} for training, {len(images.test_images)} for testing"
    print(f"images: {images.name}, {counts}")
    with nullcontext() if options.workers is None else _cluster(options.workers) as client:
        runs = _train_all(recipe, images, options, client)
        if client is not None:
            alone, parted = step_times(recipe, images, client, batch=options.batch, seed=options.seed)
            print(
                f"a training step of {options.batch} images: {parted:.2f} ms on {options.workers} workers, "
                f"{alone:.2f} ms in one process"
            )
    for trainer, history in runs:
        _say_result(trainer, history, images)
    trainer, histories = runs[-1][0], [history for _, history in runs]
    dead = dead_filters(trainer.network, images.train_images, images.test_images)
    for place, filters in enumerate(dead, 1):
        for number in np.flatnonzero(filters) + 1:
            print(f"dead: filter {number} of convolution {place}, 0 for every image: it learns no more")
    if options.save is not None:
        save(options.save, recipe.name, trainer.network)
        print(f"saved: {options.save}")
    # On one thread: where other programs have the cores, BLAS's threads wait for each other without end.
    with _held_to(1):
        timed = race(recipe, images, batch=options.batch, seed=options.seed)
    print(
        f"a training step of {options.batch} images, one thread each: fastconv {timed.fastconv:.3f} ms, "
        f"plain NumPy {timed.plain:.3f} ms; ratio {timed.ratio:.2f}"
    )
    draw(picture, recipe, trainer, images, histories, timed, dead)
    print(f"picture: {picture}")


def _check_batch(batch: int, images: Images) -> None:
    most = len(images.train_images)
    if batch > most:
        raise DemoError(f"argument --batch: must be at most the {most} images there are, got {batch}")


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """The client of so many workers on this machine, of a thread each."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise DemoError('argument --workers: needs Dask: pip install "dask[distributed]"') from None
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _train_all(
    recipe: Recipe, images: Images, options: Options, client: Any = None
) -> list[tuple[Trainer, History]]:
    """Train the network, after its twin with frozen filters where the recipe has one.

    A network from a file is trained on only where the user says for how many epochs.
    """
    epochs = options.epochs
    if epochs is None:
        epochs = 0 if options.load else max(1, round(recipe.images / len(images.train_images)))
    variants = {"trained": False}
    if not epochs:
        variants = {"loaded": False}
    elif recipe.frozen_twin:
        variants = {"frozen filters": True, "trained filters": False}
    runs = []
    for label, freeze in variants.items():
        trainer = Trainer(recipe, nn, options.seed, freeze)
        if options.load is not None:
            restore(options.load, recipe.name, trainer.network)
        if client is not None:
            trainer.parallel = nn.DataParallel(trainer.network, client)
        history = train(trainer, images, epochs=epochs, batch=options.batch, seed=options.seed, label=label)
        runs.append((trainer, history))
    return runs


def _say_result(trainer: Trainer, history: History, images: Images) -> None:
    reached = accuracy(trainer.network, images.test_images, images.test_labels)
    how = f"{len(history.accuracies)} epochs in {history.seconds:.1f} s" if history.losses else "not trained"
    print(f"{history.label}: {how}, test accuracy {reached:.1%}")
