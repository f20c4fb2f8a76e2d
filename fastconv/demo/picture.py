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
from fastconv.demo.training import History, Race

_SHOWN_DIGITS = (0, 2, 3, 5, 8)  # classes, one image of each
_MOST_FILTERS = 8
_MOST_MAPS = 10
_INK = "#1f2937"
_CURVE_COLOURS = ("#f59e0b", "#1d4ed8")


def draw(
    path: Path, recipe: Recipe, network: nn.Sequential, data: Images, histories: list[History], race: Race
) -> None:
    """Write the picture.

    Parameters
    ----------
    path : Path
        Its ending says the format.
    recipe, network, data
        What was trained, and on what.
    histories : list of History
        One a curve; the last one is the network's.
    race : Race
        For the title.

    Raises
    ------
    DemoError
        Where the file can't be written.
    """
    # A Figure of its own, without pyplot: no window system is looked for, no global state is left.
    figure = Figure(figsize=(12, 9), facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(recipe, network, data, race), x=0.05, ha="left", fontsize=13, color=_INK)
    grid = figure.add_gridspec(
        2, 1, height_ratios=(1, 1.6), hspace=0.26, left=0.05, right=0.97, top=0.875, bottom=0.04
    )
    top = grid[0].subgridspec(1, 3, width_ratios=(1, 1, 1.1), wspace=0.25)
    _draw_losses(figure.add_subplot(top[0]), histories)
    _draw_accuracies(figure.add_subplot(top[1]), histories)
    _draw_filters(figure, top[2], _convolutions(network)[0].weight)
    _draw_maps(figure, grid[1], network, data)
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise DemoError(f"{path}: {_reason(error)}") from None


def _title(recipe: Recipe, network: nn.Sequential, data: Images, race: Race) -> str:
    numbers = sum(array.size for array in network.state().values())
    return (
        f"{recipe.name}: {recipe.about}\n{numbers} parameters, {data.name}. "
        f"A training step takes {race.fastconv:.2f} ms, in plain NumPy {race.plain:.2f} ms."
    )


def _convolutions(network: nn.Sequential) -> list[nn.Conv2d]:
    return [layer for layer in network if isinstance(layer, nn.Conv2d)]


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


def _draw_filters(figure: Figure, place: Any, weight: Array) -> None:
    """Each filter of the first convolution, red where it asks for ink and blue where for none."""
    count = min(len(weight), _MOST_FILTERS)
    columns = count if count <= 4 else (count + 1) // 2
    rows = -(-count // columns)
    bars = place.subgridspec(2, 1, height_ratios=(20, 1), hspace=0.12)
    grid = bars[0].subgridspec(rows, columns, wspace=0.1, hspace=0.1)
    most = float(np.abs(weight[:count]).max()) or 1.0
    for i in range(count):
        axes = _bare(figure.add_subplot(grid[i // columns, i % columns]))
        axes.set_anchor("S")
        image = axes.imshow(weight[i, 0], cmap="RdBu_r", vmin=-most, vmax=most)
        if i == 0:
            axes.set_title("Filters of the first convolution", loc="left", fontsize=11, color=_INK)
    bar = figure.colorbar(image, cax=figure.add_subplot(bars[1]), orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)


def _draw_maps(figure: Figure, place: Any, network: nn.Sequential, data: Images) -> None:
    """A row a digit: the image, the maps after each convolution's activation, what the network says."""
    images = np.stack([data.test_images[np.argmax(data.test_labels == digit)] for digit in _SHOWN_DIGITS])
    stages, scores = _stages(network, images)
    shown = [images] + [stage[:, :_MOST_MAPS] for stage in stages]
    titles = ["image"] + [f"maps {i}: {stage.shape[2]}x{stage.shape[3]}" for i, stage in enumerate(stages, 1)]
    # A narrow empty column after each stage sets the stages apart; what few maps leave over stays empty.
    widths = [width for stage in shown for width in [1.0] * stage.shape[1] + [0.35]] + [2.0]
    widths.append(max(13 - sum(widths), 0.01))
    grid = place.subgridspec(len(images), len(widths), width_ratios=widths, wspace=0.06, hspace=0.06)
    column = 0
    for title, stage in zip(titles, shown, strict=True):
        for i in range(stage.shape[1]):
            places = [grid[row, column + i] for row in range(len(images))]
            _draw_map(
                figure, places, stage[:, i], "gray_r" if stage is images else "magma", "" if i else title
            )
        column += stage.shape[1] + 1
    for row, digit in enumerate(_SHOWN_DIGITS):
        _draw_scores(figure.add_subplot(grid[row, column]), scores[row], digit, row)


def _draw_map(figure: Figure, places: list[Any], maps: Array, colours: str, title: str) -> None:
    """One map for all digits, down a column, on one scale of its own: weak maps are seen too."""
    most = float(maps.max())
    for place, one in zip(places, maps, strict=True):
        axes = _bare(figure.add_subplot(place))
        axes.imshow(one, cmap=colours, vmin=0, vmax=most if most > 0 else 1)
        if title and place is places[0]:
            axes.set_title(title, loc="left", fontsize=10, color=_INK)


def _draw_scores(axes: Any, scores: Array, digit: int, row: int) -> None:
    best = int(scores.argmax())
    colours = ["#cbd5e1"] * len(scores)
    colours[best] = "#16a34a" if best == digit else "#dc2626"
    axes.bar(range(len(scores)), scores, color=colours)
    axes.set(ylim=(0, 1.05), yticks=[], xticks=[])
    axes.set_box_aspect(0.5)  # as high as the maps, in a column twice as wide
    for spine in axes.spines.values():
        spine.set_visible(False)
    if row == len(_SHOWN_DIGITS) - 1:
        axes.set_xticks(range(len(scores)))
        axes.tick_params(axis="x", length=0, labelsize=7)
    if row == 0:
        axes.set_title("output by class", loc="left", fontsize=10, color=_INK)


def _bare(axes: Any) -> Any:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_edgecolor("#cbd5e1")
    return axes


def _stages(network: nn.Sequential, images: Array) -> tuple[list[Array], Array]:
    """The output after each convolution's activation, and the network's output as probabilities."""
    network.eval()
    stages, x, after_convolution = [], images, False
    for layer in network:
        x = layer.forward(x)
        if after_convolution:
            stages.append(x)
        after_convolution = isinstance(layer, nn.Conv2d)
    network.train()
    return stages, x if isinstance(layer, nn.Sigmoid) else _softmax(x)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: Array = powers / powers.sum(1, keepdims=True)
    return probabilities
