"""Pictures of results: how many times as fast each implementation is, layer by layer; and the roofline.

A colour means the same implementation in both.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from fastconv.bench.cases import PASSES, BenchError
from fastconv.bench.implementations import OURS
from fastconv.bench.report import ours
from fastconv.bench.runner import Result

_NAMES = {
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "jax": "JAX",
    "numpy": "plain NumPy",
    "scipy": "SciPy",
}
_COLOURS = {
    "fastconv": "#2563eb",
    "torch": "#ea580c",
    "onnxruntime": "#111827",
    "openvino": "#9333ea",
    "jax": "#16a34a",
    "numpy": "#ca8a04",
    "scipy": "#db2777",
}
# For the algorithms by name, the plan and the kernel.
_FURTHER_COLOURS = (
    "#0891b2", "#be123c", "#65a30d", "#7c3aed", "#78716c", "#f472b6", "#92400e",
    "#5eead4", "#fca5a5", "#bef264", "#c4b5fd", "#d6d3d1", "#fde047",
)  # fmt: skip
_MARKS = {"forward": "o", "backward_input": "s", "backward_weight": "^"}
_PASS_WORDS = {"forward": "forward", "backward_input": "backward-input", "backward_weight": "backward-weight"}
_INK, _PALE = "#1f2937", "#e5e7eb"
# In inches.
_ROW, _FOOT, _LINE = 0.27, 0.65, 0.2
_LEGEND_ROW, _LEGEND_COLUMN = 0.22, 1.75


def draw(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Draw how many times as fast as one peer everybody is, a panel a pass and a row a layer.

    Parameters
    ----------
    path : Path
        Its ending says the format.
    results : sequence of Result
        The convolution passes among them are drawn.
    about : dict
        What they were measured on, from `Bench.about`.

    Raises
    ------
    BenchError
        If there are none, or the file can't be written.
    """
    rows = _passes(results)
    names = _implementations(rows)
    base = _base(rows, names)
    operations = list(dict.fromkeys(row.case.operation for row in rows))
    layers = list(dict.fromkeys(row.case.layer for row in rows))
    width = 3.4 + 5.0 * len(operations)
    handles = [_handle(name, names, base) for name in names]
    columns = min(len(handles), int(width / _LEGEND_COLUMN))
    said = _measured_on(rows, about, width)
    under = 0.75 + _LINE * (len(said) - 1)
    head = under + 0.9 + _LEGEND_ROW * ((len(handles) - 1) // columns)
    height = head + _FOOT + _ROW * len(layers)
    figure = _figure(width, height)
    panels = figure.subplots(1, len(operations), sharex=True, sharey=True, squeeze=False)[0]
    figure.subplots_adjust(
        left=3.2 / width, right=1 - 0.15 / width, top=1 - head / height, bottom=_FOOT / height, wspace=0.05
    )
    for axes, operation in zip(panels, operations, strict=True):
        _draw_panel(axes, [row for row in rows if row.case.operation == operation], layers, names, base)
    low, high = panels[0].get_xlim()
    low = low if len(names) == 1 else min(low, 0.9)
    panels[0].set_xlim(low, high * (high / low) ** 0.1)  # room for the numbers
    _scale(panels[0], "x")
    panels[0].set_yticks(range(len(layers)), [layer.words for layer in layers], fontsize=9)
    panels[0].set_ylim(len(layers) - 0.4, -0.6)
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.05 / width, 1 - under / height),
        ncols=columns,
        frameon=False,
    )
    _head(figure, _title(names, base), said)
    _save(figure, path)


def draw_roofline(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Draw the rates of the convolution passes among ``results`` under what the machine could do.

    Parameters and errors are those of `draw`.
    """
    rows = _passes(results)
    names = _implementations(rows)
    figure = _figure(11.0, 7.0)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.07, right=0.73, top=0.86, bottom=0.15)
    peak, gbytes = median(row.peak_gflops for row in rows), about["memory_gbytes"]
    points = {
        (name, operation): [
            (_intensity(row), row.gflops(name))
            for row in rows
            if row.case.operation == operation and name in row.timings
        ]
        for name in names
        for operation in _MARKS
    }
    intensities, rates = zip(*(point for found in points.values() for point in found), strict=True)
    axes.set(xscale="log", yscale="log", xlim=(min(intensities) / 1.3, max(intensities) * 1.3))
    axes.set_ylim(min(rates) / 1.3, max(*rates, peak) * 1.3)
    axes.axhline(peak, color=_INK, lw=1.5)
    axes.axline((1, gbytes), (10, 10 * gbytes), color=_INK, lw=1.5, ls="--")
    for name in reversed(names):  # ours, the first, on top
        for operation, mark in _MARKS.items():
            if points[name, operation]:
                xs, ys = zip(*points[name, operation], strict=True)
                axes.plot(xs, ys, mark, ms=6, mew=0, color=_colour(name, names), alpha=0.85)
    _scale(axes, "x")
    _scale(axes, "y")
    axes.grid(color=_PALE, lw=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("operations for each byte that is read or written at least once")
    axes.set_ylabel("GF/s: 1e9 operations of a plain convolution a second")
    axes.annotate(
        f"peak of multiply-adds:\n{peak:.0f} GF/s",
        (1, peak),
        (6, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=9,
        color=_INK,
    )
    line = Line2D([], [], color=_INK, lw=1.5, ls="--", label=f"peak of the memory: {gbytes:.0f} GB/s")
    colours = [Patch(color=_colour(name, names), label=_NAMES.get(name, name)) for name in names]
    marks = [
        Line2D([], [], color=_INK, ls="", marker=mark, label=_PASS_WORDS[operation])
        for operation, mark in _MARKS.items()
        if any(row.case.operation == operation for row in rows)
    ]
    axes.legend(
        handles=[line, *colours, *marks],
        loc="lower left",
        bbox_to_anchor=(1, -0.02),
        frameon=False,
        fontsize=9,
    )
    title = "Roofline: how near the layers come to what the machine could do"
    _head(figure, title, _measured_on(rows, about, figure.get_figwidth()))
    if max(rates) > peak:
        figure.text(
            0.07,
            0.025,
            "Points above the peak are no error: minimal filtering (Winograd) needs fewer multiplications\n"
            "than the plain convolution whose operations are counted here.",
            color=_INK,
            fontsize=9,
        )
    _save(figure, path)


def _passes(results: Sequence[Result]) -> list[Result]:
    rows = [row for row in results if row.case.operation in PASSES and row.timings]
    if not rows:
        raise BenchError("nothing to draw: the picture shows passes of convolution layers")
    return rows


def _implementations(rows: Sequence[Result]) -> list[str]:
    """Everybody who took part; ours come first."""
    names = dict.fromkeys(name for row in rows for name in row.timings)
    return sorted(names, key=lambda name: name not in OURS)


def _base(rows: Sequence[Result], names: Sequence[str]) -> str:
    """Whom the others are compared with: the peer in most rows; where there is none, the first of ours."""
    peers = [name for name in names if name not in OURS]
    counts = {name: sum(name in row.timings for row in rows) for name in peers}
    return max(counts, key=lambda name: counts[name]) if counts else names[0]


def _title(names: Sequence[str], base: str) -> str:
    if len(names) == 1:
        return f"Milliseconds of {_NAMES.get(base, base)}"
    return f"How many times as fast as {_NAMES.get(base, base)}"


def _draw_panel(
    axes: Axes, rows: Sequence[Result], layers: Sequence[Any], names: Sequence[str], base: str
) -> None:
    """One pass: a bar and a number for the first of ours, marks for the others, a line at 1."""
    alone = len(names) == 1
    means: dict[str, list[float]] = {}
    for row in rows:
        y = layers.index(row.case.layer)
        if base not in row.timings:
            continue
        values = {
            name: 1e3 * timing.median if alone else row.timings[base].median / timing.median
            for name, timing in row.timings.items()
            if alone or name != base
        }
        for name, value in values.items():
            means.setdefault(name, []).append(value)
            colour = _colour(name, names)
            if name == ours(row) and not alone:
                axes.barh(y, value - 1, left=1, height=0.62, color=colour, alpha=0.85, zorder=2)
            else:
                axes.plot(value, y, _mark(name), ms=5.5, color=colour, mec="white", mew=0.5, zorder=3)
        first = ours(row)
        if first in values:  # right of all that is drawn
            place = (max(values.values() if alone else (1, *values.values())), y)
            axes.annotate(
                f"{values[first]:.3g}" if alone else f"{values[first]:.2f}",
                place,
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=_colour(first, names),
            )
    axes.set_xscale("log")
    if not alone:
        axes.axvline(1, color=_colour(base, names), lw=2, zorder=2.5)
    axes.set_title(_PASS_WORDS[rows[0].case.operation], loc="left", fontsize=12, color=_INK, pad=22)
    said = ", ".join(
        f"{_NAMES.get(name, name)} {geometric_mean(found):{'.3g' if alone else '.2f'}}"
        for name, found in means.items()
        if name in _COLOURS
    )
    axes.annotate(
        textwrap.shorten(f"geometric mean: {said}", 72, placeholder=" ...")
        if said
        else f"{_NAMES.get(base, base)} was not timed here",
        (0, 1),
        (0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color=_INK,
    )
    axes.set_xlabel("milliseconds" if alone else f"times as fast as {_NAMES.get(base, base)}, logarithmic")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=_PALE, lw=0.8)
    axes.set_axisbelow(True)


def _colour(name: str, names: Sequence[str]) -> str:
    further = [other for other in names if other not in _COLOURS]
    return _COLOURS.get(name) or _FURTHER_COLOURS[further.index(name) % len(_FURTHER_COLOURS)]


def _mark(name: str) -> str:
    return "o" if name in _COLOURS else "D"


def _handle(name: str, names: Sequence[str], base: str) -> Any:
    label, colour = _NAMES.get(name, name), _colour(name, names)
    if name == base and len(names) > 1:
        return Line2D([], [], lw=2, color=colour, label=f"{label} (the line at 1)")
    if name == names[0] and len(names) > 1:
        return Patch(color=colour, alpha=0.85, label=f"{label} (bars)")
    return Line2D([], [], ls="", marker=_mark(name), ms=5.5, color=colour, label=label)


def _scale(axes: Axes, which: str) -> None:
    """Numbers that are read at once, few enough to stand side by side."""
    axis, (low, high) = getattr(axes, f"{which}axis"), getattr(axes, f"get_{which}lim")()
    for steps in ((1, 1.2, 1.5, 2, 3, 5, 7), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
        ticks = [step * 10.0**power for power in range(-9, 9) for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 9:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, position: f"{value:g}")


def _intensity(row: Result) -> float:
    """Operations a byte that has to move at least once."""
    layer = row.case.layer
    return layer.flops / (layer.cells * np.dtype(row.case.dtype).itemsize)


def _figure(width: float, height: float) -> Figure:
    # Without pyplot: no window system is looked for, no global state is left.
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _measured_on(rows: Sequence[Result], about: dict[str, Any], width: float) -> list[str]:
    """The machine, threads, dtype, layout and peers, in lines that fit a figure of so many inches."""
    case, threads, took_part = rows[0].case, about["threads"], _implementations(rows)
    versions = {name: about["versions"][name] for name in took_part if name in about["versions"]}
    parts = [
        about["cpu"],
        "1 thread" if threads == 1 else f"{threads} threads",
        case.dtype,
        f"{case.layout} (channels {'first' if case.layout == 'NCHW' else 'last'})",
        *(f"{_NAMES.get(name, name)} {version}" for name, version in versions.items()),
    ]
    return textwrap.wrap(", ".join(parts), int(13 * width))


def _head(figure: Figure, title: str, said: Sequence[str]) -> None:
    width, height = figure.get_size_inches()
    figure.text(0.15 / width, 1 - 0.35 / height, title, fontsize=14, color=_INK)
    figure.text(
        0.15 / width, 1 - 0.46 / height, "\n".join(said), fontsize=10, color=_INK, va="top", linespacing=1.4
    )


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: {error}") from None
