"""A picture of results: the roofline, and ours against the best peer, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from fastconv.bench.cases import PASSES, BenchError
from fastconv.bench.implementations import OURS
from fastconv.bench.report import ratio
from fastconv.bench.runner import Result

_COLOURS = ("#D1495B", "#30638E", "#EDAE49", "#00798C", "#8D6A9F", "#7A7A7A", "#5B8E7D", "#BC4B51")
_MARKS = {"forward": "o", "backward_input": "s", "backward_weight": "^"}


def draw(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Draw how many times as fast ours is, layer by layer, in the convolution passes among ``results``.

    Raises
    ------
    BenchError
        If there are none, or the file can't be written.
    """
    rows = _passes(results)
    layers = len({row.case.layer.name for row in rows})
    _save(path, rows, about, 2.0 + 0.3 * layers, lambda axes: _ratios(axes, rows))


def draw_roofline(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Draw the rates of the convolution passes among ``results`` beside what the machine could do.

    Raises
    ------
    BenchError
        If there are none, or the file can't be written.
    """
    rows = _passes(results)
    _save(path, rows, about, 6.0, lambda axes: _roofline(axes, rows, about["memory_gbytes"]))


def _passes(results: Sequence[Result]) -> list[Result]:
    rows = [row for row in results if row.case.operation in PASSES and row.timings]
    if not rows:
        raise BenchError("nothing to draw: the picture shows passes of convolution layers")
    return rows


def _save(
    path: Path, rows: Sequence[Result], about: dict[str, Any], height: float, fill: Callable[[Axes], None]
) -> None:
    figure, axes = plt.subplots(figsize=(9.0, max(6.0, height)))
    fill(axes)
    case = rows[0].case
    figure.suptitle(
        f"{case.dtype}, {case.layout}, {about['threads']} thread(s), {about['cpu']}", x=0.01, ha="left"
    )
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: {error}") from None
    finally:
        plt.close(figure)


def _intensity(row: Result) -> float:
    """Operations a byte that has to move at least once."""
    layer = row.case.layer
    return layer.flops / (layer.cells * np.dtype(row.case.dtype).itemsize)


def _roofline(axes: Axes, rows: Sequence[Result], gbytes: float) -> None:
    """Every layer of every implementation, under what the machine could do."""
    names = list(dict.fromkeys(name for row in rows for name in row.timings))
    peak = median(row.peak_gflops for row in rows)
    intensities = [_intensity(row) for row in rows]
    low, high = min(intensities) / 1.6, max(max(intensities), 2 * peak / gbytes) * 1.6
    x = np.geomspace(low, high, 200)
    axes.plot(x, np.minimum(peak, gbytes * x), color="black", linewidth=1.4)
    axes.text(high, peak * 1.05, f"FMA {peak:.0f} GF/s", ha="right", fontsize=9)
    slope_x = low * 1.15
    axes.text(slope_x, gbytes * slope_x * 1.12, f"memory {gbytes:.0f} GB/s", fontsize=9)
    for name, colour in zip(names, _COLOURS * (1 + len(names) // len(_COLOURS)), strict=False):
        for operation, mark in _MARKS.items():
            points = [
                (_intensity(row), row.gflops(name))
                for row in rows
                if row.case.operation == operation and name in row.timings
            ]
            if points:
                xs, ys = zip(*points, strict=True)
                axes.scatter(
                    xs,
                    ys,
                    marker=mark,
                    s=34 if name in OURS else 22,
                    color=colour,
                    alpha=0.9 if name in OURS else 0.55,
                    linewidths=0,
                )
        axes.scatter([], [], color=colour, label=name)
    for operation, mark in _MARKS.items():
        if any(row.case.operation == operation for row in rows):
            axes.scatter([], [], color="black", marker=mark, label=operation)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(top=peak * 1.5)
    axes.set_xlabel("arithmetic intensity, operations a byte")
    axes.set_ylabel("GF/s")
    axes.set_title("Roofline", loc="left")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.25, which="both")


def _ratios(axes: Axes, rows: Sequence[Result]) -> None:
    """How many times as fast as the best peer, a row of marks for each layer."""
    layers = list(dict.fromkeys(row.case.layer.name for row in rows))
    for shift, (operation, mark) in enumerate(_MARKS.items()):
        points = [
            (found.value, layers.index(found.layer) + 0.18 * (shift - 1))
            for row in rows
            if row.case.operation == operation and (found := ratio(row)) is not None
        ]
        if points:
            colour = _COLOURS[shift]
            xs, ys = zip(*points, strict=True)
            axes.scatter(xs, ys, marker=mark, color=colour, s=30, label=operation)
    axes.axvline(1, color="black", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_yticks(range(len(layers)), layers, fontsize=8)
    axes.invert_yaxis()
    low, high = axes.get_xlim()
    low, high = min(low, 0.5), max(high, 2.0)
    axes.set_xlim(low, high)
    ticks = [tick for tick in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("times as fast as the fastest peer (right of 1: faster)")
    axes.set_title("fastconv against the best peer of each layer", loc="left")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    axes.grid(alpha=0.25, axis="x")
    axes.grid(alpha=0.12, axis="y")
