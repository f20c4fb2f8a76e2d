"""The demo's picture: how training went, what the filters became, what they make of a few digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastconv import nn
from fastconv.arguments import Array
from fastconv.demo.data import DemoError, Images, _reason
from fastconv.demo.networks import Recipe
from fastconv.demo.training import History, Race, Trainer, stages

_SHOWN_DIGITS = (0, 2, 3, 5, 8)  # classes, one image of each
_MOST_MAPS = 10
_HEADING = 2.6  # maps, as long as the words above them
_INK = "#1f2937"
_CURVE_COLOURS = ("#f59e0b", "#1d4ed8")


def draw(
    path: Path,
    recipe: Recipe,
    trainer: Trainer,
    data: Images,
    histories: list[History],
    race: Race,
    dead: list[Array],
) -> None:
    """Write the picture.

    Parameters
    ----------
    path : Path
        Its ending says the format.
    recipe, trainer, data
        What was trained, and on what.
    histories : list of History
        One a curve; the last one is the network's.
    race : Race
        How long a step takes.
    dead : list of array
        Of each convolution, which filters are dead.

    Raises
    ------
    DemoError
        Where the file can't be written.
    """
    # A Figure of its own, without pyplot: no window system is looked for, no global state is left.
    figure = Figure(figsize=(12, 12.3), facecolor="white")
    FigureCanvasAgg(figure)
    network = trainer.network
    figure.suptitle(_title(recipe, network, data), x=0.05, y=0.985, ha="left", fontsize=13, color=_INK)
    grid = figure.add_gridspec(
        3, 1, height_ratios=(1, 1.9, 0.62), hspace=0.43, left=0.05, right=0.97, top=0.905, bottom=0.045
    )
    top = grid[0].subgridspec(1, 3, width_ratios=(1, 1, 1), wspace=0.25)
    _draw_losses(figure.add_subplot(top[0]), histories)
    _draw_accuracies(figure.add_subplot(top[1]), histories)
    _draw_race(figure.add_subplot(top[2]), race)
    _draw_maps(figure, grid[1], network, data, dead)
    _draw_passes(figure, grid[2], trainer, data, dead)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise DemoError(f"{path}: {_reason(error)}") from None


def _title(recipe: Recipe, network: nn.Sequential, data: Images) -> str:
    numbers = sum(array.size for array in network.state().values())
    return f"{recipe.name}: {recipe.about}\n{numbers} parameters, {data.name}"


def _colours(histories: list[History]) -> list[str]:
    """A colour a curve; the strongest is the network's own, which comes last."""
    return list(_CURVE_COLOURS[-len(histories) :])


def _draw_losses(axes: Any, histories: list[History]) -> None:
    for history, colour in zip(histories, _colours(histories), strict=True):
        epochs = (1 + np.arange(len(history.losses))) / history.steps_per_epoch
        axes.plot(epochs, _smoothed(history), color=colour, lw=1.4, label=history.label)
    axes.set(xlabel="epoch", ylim=(0, None))
    if len(histories) > 1:
        axes.legend(fontsize=9, frameon=False)
    _dress(axes, "Training loss", histories)


def _draw_accuracies(axes: Any, histories: list[History]) -> None:
    for history, colour in zip(histories, _colours(histories), strict=True):
        ends, reached = 1 + np.arange(len(history.accuracies)), 100 * np.array(history.accuracies)
        axes.plot(ends, reached, "o-", ms=3, lw=1.4, color=colour)
        if len(reached):
            _label_last(axes, ends[-1], reached[-1], colour)
    axes.set(xlabel="epoch", ylim=(_floor(histories), 101))
    _dress(axes, "Test accuracy, %", histories)


def _dress(axes: Any, title: str, histories: list[History]) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb", lw=0.7)
    axes.set_axisbelow(True)
    if not any(history.losses for history in histories):
        axes.text(0.5, 0.5, "loaded, not trained", ha="center", transform=axes.transAxes, color=_INK)


def _label_last(axes: Any, x: float, y: float, colour: str) -> None:
    axes.annotate(f"{y:.1f}", (x, y), (6, -4), textcoords="offset points", color=colour, fontsize=10)
    axes.set_xlim(right=x + 0.12 * max(x, 1))


def _floor(histories: list[History]) -> float:
    lowest = min((min(h.accuracies) for h in histories if h.accuracies), default=0.0)
    return max(0.0, 10 * np.floor(10 * lowest) - 10)


def _smoothed(history: History) -> Array:
    """Means over the last half epoch, shorter at the beginning."""
    total = np.concatenate([[0.0], np.cumsum(history.losses)])
    ends = np.arange(1, total.size)
    starts = np.maximum(ends - max(1, history.steps_per_epoch // 2), 0)
    means: Array = (total[ends] - total[starts]) / (ends - starts)
    return means


def _draw_race(axes: Any, race: Race) -> None:
    """Two bars: milliseconds of a training step."""
    names, times = ("fastconv", "plain NumPy"), (race.fastconv, race.plain)
    axes.barh((0, 1), times, 0.5, color=(_CURVE_COLOURS[-1], "#9ca3af"))
    for y, (name, milliseconds) in enumerate(zip(names, times, strict=True)):
        axes.text(0, y - 0.32, f"{name}: {milliseconds:.2f} ms", fontsize=10, color=_INK)
    axes.set(yticks=[], ylim=(1.6, -0.6), xlabel="milliseconds, one thread each")
    axes.spines[["top", "right", "left"]].set_visible(False)
    title = f"A training step: {race.ratio:.1f} times as fast"
    axes.set_title(title, loc="left", fontsize=11, color=_INK)


def _draw_maps(figure: Figure, place: Any, network: nn.Sequential, data: Images, dead: list[Array]) -> None:
    """A row a digit: the image, the maps after each convolution's activation, what the network says."""
    images = np.stack([data.test_images[np.argmax(data.test_labels == digit)] for digit in _SHOWN_DIGITS])
    maps, output = stages(network, images)
    columns = _Columns(figure, place, [1, *(one.shape[1] for one in maps)], len(images))
    columns.head(0, "image")
    for row, image in enumerate(images):
        columns.show(0, 0, row, image[0], "gray_r", 0, 1)
    for stage, one in enumerate(maps, 1):
        columns.head(stage, f"maps {stage}: {one.shape[2]}x{one.shape[3]}")
        for i in range(columns.counts[stage]):
            # One scale for all digits, its own for each map: weak maps are seen too.
            high = float(one[:, i].max()) or 1.0
            for row in range(len(images)):
                if dead[stage - 1][i]:
                    columns.say_dead(stage, i, row)
                else:
                    columns.show(stage, i, row, one[row, i], "magma", 0, high)
    for row, (digit, scores) in enumerate(zip(_SHOWN_DIGITS, _scores(network, output), strict=True)):
        _draw_scores(columns.last(row), scores, digit, row == len(images) - 1)
    columns.head(-1, "output by class")
    if any(filters.any() for filters in dead):
        columns.foot(
            "dead: 0 for every image of training and test; no gradient passes, and the filter learns no more"
        )


def _draw_passes(figure: Figure, place: Any, trainer: Trainer, data: Images, dead: list[Array]) -> None:
    """One image's arrays, and below each the gradient of the loss by it."""
    _, output = stages(trainer.network, data.test_images)
    scores = _scores(trainer.network, output)
    worst = int(scores[np.arange(len(scores)), data.test_labels].argmin())
    label, said = int(data.test_labels[worst]), int(scores[worst].argmax())
    passes = trainer.passes(data.test_images[worst], label)
    pairs = [passes.image, tuple(one[:, 0] for one in passes.filters), *passes.maps]
    columns = _Columns(figure, place, [len(pair[0]) for pair in pairs], 2)
    sizes = [f"{pair[0].shape[1]}x{pair[0].shape[2]}" for pair in pairs]
    titles = ["image", f"filters 1: {sizes[1]}"]
    titles += [f"conv {i}: {size}" for i, size in enumerate(sizes[2:], 1)]
    for stage, (title, pair) in enumerate(zip(titles, pairs, strict=True)):
        columns.head(stage, title)
        for row, arrays in enumerate(pair):
            most = float(np.abs(arrays).max()) or 1.0
            for i in range(columns.counts[stage]):
                if row and stage and dead[max(stage - 2, 0)][i]:
                    columns.say_dead(stage, i, row)
                elif stage or row:
                    columns.show(stage, i, row, arrays[i], "RdBu_r", -most, most)
                else:
                    columns.show(stage, i, row, arrays[i], "gray_r", 0, 1)
    columns.head(-1, "output by class")
    _draw_scores(columns.last(0), scores[worst], label, False)
    _draw_errors(columns.last(1), passes.output[1])
    verdict = f"taken for {said}" if said != label else "and taken for it"
    columns.title(
        f"Forward and backward, for the test image that the network is least sure of: {label}, {verdict}"
    )
    columns.foot(
        "Second row: the gradient of the loss by each number above it. "
        "Red: more of it, more loss; blue: more of it, less loss."
    )


class _Columns:
    """Groups of small pictures side by side, in rows; the last group is a chart of the classes."""

    def __init__(self, figure: Figure, place: Any, counts: list[int], rows: int) -> None:
        self.counts = [min(count, _MOST_MAPS) for count in counts]
        # A narrow empty column after each group sets the groups apart, a wider one leaves its heading room.
        gaps = [0.35, *(max(0.35, _HEADING - count) for count in self.counts[1:])]
        groups = zip(self.counts, gaps, strict=True)
        widths = [width for count, gap in groups for width in [1.0] * count + [gap]] + [2.0]
        widths.append(max(13 - sum(widths), 0.01))  # what few maps leave over stays empty
        self._figure, self._rows = figure, rows
        self._starts = np.cumsum([0, *(count + 1 for count in self.counts)])
        self._grid = place.subgridspec(rows, len(widths), width_ratios=widths, wspace=0.06, hspace=0.06)
        self._axes: dict[tuple[int, int], Any] = {}

    def _at(self, column: int, row: int) -> Any:
        if (column, row) not in self._axes:
            self._axes[column, row] = _bare(self._figure.add_subplot(self._grid[row, column]))
        return self._axes[column, row]

    def last(self, row: int) -> Any:
        """The place of a chart."""
        return self._at(self._starts[-1], row)

    def show(self, group: int, i: int, row: int, array: Array, colours: str, low: float, high: float) -> None:
        """One picture of a group."""
        self._at(self._starts[group] + i, row).imshow(array, cmap=colours, vmin=low, vmax=high)

    def say_dead(self, group: int, i: int, row: int) -> None:
        """Instead of a picture."""
        axes = self._at(self._starts[group] + i, row)
        axes.set(facecolor="#f3f4f6", box_aspect=1)
        axes.text(
            0.5, 0.5, "dead", ha="center", va="center", transform=axes.transAxes, color="#b91c1c", fontsize=9
        )

    def head(self, group: int, text: str) -> None:
        """Over a group."""
        self._at(self._starts[group], 0).set_title(text, loc="left", fontsize=10, color=_INK)

    def title(self, text: str) -> None:
        """Over all groups."""
        self._words(0, (0, 1), (0, 26), text, 11)

    def foot(self, text: str) -> None:
        """Under all groups."""
        self._words(self._rows - 1, (0, 0), (0, -22), text, 9)

    def _words(self, row: int, corner: tuple[int, int], shift: tuple[int, int], text: str, size: int) -> None:
        self._at(0, row).annotate(
            text,
            corner,
            shift,
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=size,
            color=_INK,
        )


def _draw_scores(axes: Any, scores: Array, digit: int, with_classes: bool) -> None:
    best = int(scores.argmax())
    colours = ["#cbd5e1"] * len(scores)
    colours[best] = "#16a34a" if best == digit else "#dc2626"
    axes.bar(range(len(scores)), scores, color=colours)
    axes.set(ylim=(0, 1.05))
    _dress_classes(axes, len(scores), with_classes)


def _draw_errors(axes: Any, errors: Array) -> None:
    """The gradient by each output, upwards and downwards."""
    axes.bar(range(len(errors)), errors, color=["#b2182b" if error > 0 else "#2166ac" for error in errors])
    axes.axhline(0, color="#cbd5e1", lw=0.7)
    _dress_classes(axes, len(errors), True)


def _dress_classes(axes: Any, count: int, with_classes: bool) -> None:
    axes.set_box_aspect(0.5)  # as high as the maps, in a column twice as wide
    for spine in axes.spines.values():
        spine.set_visible(False)
    if with_classes:
        axes.set_xticks(range(count))
        axes.tick_params(axis="x", length=0, labelsize=7)


def _bare(axes: Any) -> Any:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_edgecolor("#cbd5e1")
    return axes


def _scores(network: nn.Sequential, output: Array) -> Array:
    """The network's output as a number from 0 to 1 a class."""
    return output if isinstance(network[-1], nn.Sigmoid) else _softmax(output)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: Array = powers / powers.sum(1, keepdims=True)
    return probabilities
