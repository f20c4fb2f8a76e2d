"""Draw the pictures of docs/explanation, beside this file: ``python docs/explanation/draw.py``.

It needs matplotlib. The numbers in the cells are computed by fastconv itself. The bars of ``estimates.svg``
are those of the machine that the script runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import fastconv
from fastconv.engine.estimates import estimate
from fastconv.engine.problem import Problem
from fastconv.engine.select import candidates, choose

FOLDER = Path(__file__).parent
INPUT, WEIGHT, OUTPUT, COLUMNS = "#4C78A8", "#F58518", "#54A24B", "#9ECAE9"
# Lighter ones, for cells with text in them; one colour for each of several windows.
PALE_INPUT, PALE_WEIGHT, PALE_OUTPUT, PLAIN, GREY = "#CFDDEC", "#FBD3A5", "#C3E2BF", "#F2F2F2", "#777777"
WINDOWS = ["#9ECAE9", "#FBB273", "#A5D79F", "#D4B9DA"]
SIZE = 12

plt.rcParams.update({"svg.hashsalt": "fastconv", "font.size": SIZE, "font.family": "DejaVu Sans"})


def canvas(width: float, height: float, inches: float = 8) -> Axes:
    """Axes without ticks, ``width`` by ``height`` units, y upwards."""
    figure = plt.figure(figsize=(inches, inches * height / width))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    return axes


def save(name: str) -> None:
    """The current figure, as it would be drawn again tomorrow."""
    plt.savefig(FOLDER / f"{name}.svg", facecolor="white", metadata={"Date": None})
    plt.close()


def cell(
    axes: Axes, x: float, y: float, text: object = "", colour: str = PLAIN, dashed: bool = False, **font: Any
) -> None:
    """One unit square, its lower left corner at (x, y)."""
    square = Rectangle(
        (x, y), 1, 1, facecolor="white" if dashed else colour, edgecolor=GREY if dashed else "#333333",
        linewidth=0.8, linestyle=(0, (3, 2)) if dashed else "solid",
    )  # fmt: skip
    axes.add_patch(square)
    put(axes, x + 0.5, y + 0.5, text, **font)


def put(axes: Axes, x: float, y: float, text: object, **font: Any) -> None:
    """Text, centred unless told otherwise."""
    axes.text(x, y, str(text), **{"ha": "center", "va": "center", **font})


def grid(
    axes: Axes,
    x: float,
    top: float,
    texts: Any,
    colour: Callable[[int, int], str] | str = PLAIN,
    dashed: Callable[[int, int], bool] = lambda row, column: False,
    **font: Any,
) -> None:
    """A matrix of cells whose upper left corner is (x, top)."""
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            tint = colour if isinstance(colour, str) else colour(row, column)
            cell(axes, x + column, top - row - 1, text, tint, dashed(row, column), **font)


def frame(
    axes: Axes, x: float, top: float, columns: float, rows: float, colour: str, width: float = 3
) -> None:
    """A thick frame around some cells."""
    axes.add_patch(
        Rectangle((x, top - rows), columns, rows, fill=False, edgecolor=colour, linewidth=width, zorder=3)
    )


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0) -> None:
    """An arrow from one place to another."""
    line = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=15, color="#333333", linewidth=1.3,
        connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0, zorder=4,
    )  # fmt: skip
    axes.add_patch(line)


def box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """A rounded box."""
    patch = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.15", facecolor=colour,
        edgecolor="#333333", linewidth=0.9,
    )  # fmt: skip
    axes.add_patch(patch)


def views() -> None:
    """The index: one layer, seen four ways."""
    axes = canvas(31.5, 18.4, 8)
    titles = [
        ("a window that slides", 0.7, 16.2),
        ("a product over columns", 15, 16.2),
        ("gradients that go back", 0.7, 6.7),
        ("patches that share work", 15, 6.7),
    ]
    for title, x, top in titles:
        put(axes, x, top + 1.1, title, ha="left", fontsize=14, fontweight="bold")

    def window(r: int, c: int) -> str:
        return INPUT if 1 <= r < 4 and 1 <= c < 4 else PALE_INPUT

    def made(r: int, c: int) -> str:
        return OUTPUT if (r, c) == (1, 1) else PALE_OUTPUT

    blank = [[""] * 6] * 6
    # The window, and the cell of the output that it makes.
    grid(axes, 0.7, 16.2, blank, window)
    grid(axes, 8.2, 15.2, [[""] * 4] * 4, made)
    arrow(axes, (4.7, 13.7), (9.2, 13.7))
    # The product.
    grid(axes, 15, 14.2, [[""] * 4] * 2, lambda r, c: OUTPUT if (r, c) == (0, 2) else PALE_OUTPUT)
    put(axes, 19.6, 13.2, "=", fontsize=18)
    grid(axes, 20.2, 14.2, [[""] * 5] * 2, lambda r, c: WEIGHT if r == 0 else PALE_WEIGHT)
    put(axes, 26.0, 13.2, "@", fontsize=15)
    grid(axes, 26.8, 15.7, [[""] * 4] * 5, lambda r, c: INPUT if c == 2 else PALE_INPUT)
    # The way back.
    grid(axes, 0.7, 6.7, blank, window)
    grid(axes, 8.2, 5.7, [[""] * 4] * 4, made)
    for end in (5.2, 4.2, 3.2):
        arrow(axes, (9.2, 4.2), (4.3, end))
    # Two patches of Winograd's, which overlap.
    grid(axes, 15, 6.7, blank, PALE_INPUT)
    frame(axes, 15, 6.7, 4, 4, WEIGHT)
    frame(axes, 17, 6.7, 4, 4, INPUT)
    grid(axes, 24, 5.7, [[""] * 4] * 4, PALE_OUTPUT)
    frame(axes, 24, 5.7, 2, 2, WEIGHT)
    frame(axes, 26, 5.7, 2, 2, INPUT)
    arrow(axes, (21.3, 4.7), (23.7, 4.7))
    save("views")


def columns() -> None:
    """im2col of a 4x4 image with a 3x3 kernel, with its numbers, and the product."""
    image = np.arange(16.0).reshape(1, 1, 4, 4)
    kernel = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    made = fastconv.im2col(image, 3)[0].astype(int)
    product = kernel.reshape(1, 9) @ made
    axes = canvas(23.8, 14.0)
    put(axes, 2.5, 13.2, "image X", fontweight="bold")
    grid(axes, 0.5, 12.5, image[0, 0].astype(int))
    frame(axes, 0.56, 12.44, 3, 3, WINDOWS[0], 4.5)
    frame(axes, 1.56, 11.44, 2.94, 2.94, WINDOWS[1], 4.5)
    put(axes, 0.5, 7.8, "two of its four windows,\none column each", ha="left", fontsize=11, color="#444444")
    arrow(axes, (5.2, 10.5), (16.7, 10.5))
    put(axes, 10.9, 11.0, "im2col", family="monospace", fontsize=13)
    put(axes, 19.2, 13.2, "columns col(X)", fontweight="bold")
    tint = {0: WINDOWS[0], 3: WINDOWS[1]}
    grid(axes, 17.2, 12.5, made, lambda r, c: tint.get(c, PLAIN))
    for i in range(9):
        put(axes, 21.5, 12.0 - i, f"tap {i // 3},{i % 3}", ha="left", fontsize=10, color="#444444")
    put(axes, 11.7, 8.2, "filter W, as one row", fontweight="bold")
    grid(axes, 7.2, 7.5, kernel.reshape(1, 9), PALE_WEIGHT)
    put(axes, 16.7, 7.0, "@", fontsize=15)
    put(axes, 16.7, 1.5, "output Y = W @ col(X)", fontweight="bold", ha="right")
    grid(axes, 17.2, 2.0, product, lambda r, c: tint.get(c, PALE_OUTPUT))
    arrow(axes, (19.2, 3.3), (19.2, 2.2))
    put(axes, 16.7, 0.5, f"{product[0, 0]} = 1 + 4 + 5 + 6 + 9", ha="right", fontsize=11, color="#444444")
    save("columns")


def steps() -> None:
    """What stride, padding, dilation and groups do to the columns of a line of six cells."""
    axes = canvas(26, 11.4)

    def panel(x: float, top: float, title: str, places: Any) -> None:
        put(axes, x, top + 0.7, title, ha="left", fontweight="bold", fontsize=11.5)
        there = np.vectorize(lambda place: "0" if not 0 <= place < 6 else "abcdef"[place])(places)
        grid(
            axes, x, top, there, lambda r, c: WINDOWS[0] if c == 0 else (WINDOWS[1] if c == 1 else PLAIN),
            lambda r, c: not 0 <= places[r, c] < 6,
        )  # fmt: skip

    taps, cells = np.arange(3)[:, np.newaxis], np.arange
    put(axes, 0.7, 10.5, "line of the image", ha="left", fontweight="bold", fontsize=11.5)
    grid(axes, 0.7, 9.8, ["abcdef"], PALE_INPUT)
    note = "3 taps a filter; every\ncolumn is one output"
    put(axes, 0.7, 7.7, note, ha="left", fontsize=11, color="#444444")
    panel(9, 9.8, "plain", taps + cells(4))
    panel(14.8, 9.8, "stride 2", taps + 2 * cells(2))
    panel(19, 9.8, "padding 1", taps + cells(6) - 1)
    panel(0.7, 4.4, "dilation 2", 2 * taps + cells(2))
    panel(5.9, 4.4, "stride 2, padding 1", taps + 2 * cells(3) - 1)
    x, top = 14.8, 4.4
    put(axes, x, top + 0.7, "2 groups: channels apart", ha="left", fontweight="bold", fontsize=11.5)
    for group, letters in enumerate(("abcdef", "uvwxyz")):
        here = x + group * 5.6
        rows = [letters[tap : tap + 4] for tap in range(3)]
        grid(axes, here, top, rows, WINDOWS[0 if group == 0 else 3])
        put(axes, here + 2, top - 3.6, f"channels of group {group + 1}", fontsize=10.5, color="#444444")
    save("steps")


def shifted() -> None:
    """The rows of the column matrix, where they lie in the image: indirect GEMM."""
    axes = canvas(21.5, 11)
    put(axes, 0.4, 10.3, "the 4x4 image as it lies in memory", ha="left", fontweight="bold")
    grid(axes, 0.4, 9.8, [range(16)], lambda r, c: PALE_INPUT if c // 4 % 2 == 0 else "#E7EEF6")
    for place in (4, 8, 12):
        axes.plot([0.4 + place] * 2, [8.65, 9.95], color=INPUT, linewidth=2.5)
    title = "rows of the column matrix, each of them a stretch of the image"
    put(axes, 0.4, 8.1, title, ha="left", fontweight="bold")
    for i, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 2)]):
        top, first = 7.5 - 1.25 * i, 4 * row + column
        for k in range(6):
            used = k % 4 < 2
            cell(
                axes, 0.4 + first + k, top - 1, first + k, COLUMNS if used else "white", not used,
                color="black" if used else "#BBBBBB",
            )  # fmt: skip
        put(axes, 16.9, top - 0.5, f"tap {row},{column}: from {first} on", ha="left", fontsize=11)
    save("shifted")


def rotation() -> None:
    """Which outputs read one cell of the input, and through which weight: the filter, rotated."""
    axes = canvas(24, 11.6)
    letters = np.array(list("abcdefghi")).reshape(3, 3)
    put(axes, 3, 11.0, "input X", fontweight="bold")
    grid(axes, 0.5, 10.4, [[""] * 5] * 5, lambda r, c: INPUT if (r, c) == (2, 2) else PALE_INPUT)
    put(axes, 12, 10.1, "filter W", fontweight="bold")
    grid(axes, 10.5, 9.4, letters, PALE_WEIGHT, fontsize=14)
    put(axes, 21, 10.1, "error dY", fontweight="bold")
    grid(axes, 19.5, 9.4, letters[::-1, ::-1], PALE_OUTPUT, fontsize=14)
    arrow(axes, (19.6, 8.9), (3.6, 8.2), 0.26)
    arrow(axes, (21.6, 6.3), (3.4, 7.3), -0.26)
    formula = (
        "dX at the blue cell  =  i·dY[0,0] + h·dY[0,1] + g·dY[0,2]\n"
        "                                 + f·dY[1,0] + e·dY[1,1] + d·dY[1,2]\n"
        "                                 + c·dY[2,0] + b·dY[2,1] + a·dY[2,2]"
    )
    put(axes, 0.5, 2.2, formula, ha="left", fontsize=12.5)
    note = "Output 0,0 reads the blue\ncell through its last\nweight, i; output 2,2\nthrough its first, a."
    put(axes, 17, 2.2, note, ha="left", fontsize=11.5, color="#444444")
    save("rotation")


def zeros() -> None:
    """Backward-input at stride 1 and 2, with numbers: padding dashed, zeros between errors."""
    axes = canvas(23, 20, 8)
    w = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    for stride, size, top in ((1, 4, 18.4), (2, 5, 8.4)):
        error = np.array([[1.0, 2], [3, 4]])
        spread = np.zeros((stride + 1, stride + 1), int)
        spread[::stride, ::stride] = error
        padded = np.pad(spread, 2)
        rows = len(padded)
        result = fastconv.conv2d_backward_input(
            error[None, None], w[None, None], (1, 1, size, size), stride=stride
        )[0, 0].astype(int)
        put(axes, 0.5, top + 0.8, f"stride {stride}", ha="left", fontweight="bold", fontsize=14)

        def outside(r: int, c: int, rows: int = rows) -> bool:
            return not (2 <= r < rows - 2 and 2 <= c < rows - 2)

        def tint(r: int, c: int, stride: int = stride) -> str:
            return PALE_OUTPUT if (r - 2) % stride == 0 and (c - 2) % stride == 0 else PLAIN

        middle = top - rows / 2
        grid(axes, 0.5, top, padded, tint, outside)
        frame(axes, 1.5, top - 1, 3, 3, WEIGHT, 3.5)
        put(axes, 0.5 + rows / 2, top - rows - 0.7, "error dY, padded", fontsize=11.5)
        put(axes, 8.9, middle, "⋆", fontsize=22)
        grid(axes, 10.3, middle + 1.5, w[::-1, ::-1].astype(int), PALE_WEIGHT)
        put(axes, 11.8, middle - 2.2, "W, rotated", fontsize=11.5)
        put(axes, 14.7, middle, "=", fontsize=20)
        grid(axes, 16.2, middle + size / 2, result, PALE_INPUT)
        frame(axes, 17.2, middle + size / 2 - 1, 1, 1, WEIGHT, 3.5)
        put(axes, 16.2 + size / 2, middle - size / 2 - 0.7, "gradient dX", fontsize=11.5)
    save("zeros")


def call() -> None:
    """What happens in a call, once and every time."""
    axes = canvas(16, 12.6, 7.2)
    put(axes, 0.3, 12.15, "once for every kind of call, kept in a cache", ha="left", fontweight="bold")
    first = [
        ("arguments", "types, axes and\nsizes, with errors\nthat name them"),
        ("geometry", "three spatial axes,\nchannels second,\nwhatever came"),
        ("plan", "an algorithm for\neach pass, by\nestimates"),
    ]
    for i, (name, text) in enumerate(first):
        x = 0.3 + 5.35 * i
        box(axes, x, 8.2, 4.6, 3.3, PALE_INPUT)
        put(axes, x + 2.3, 10.9, name, fontweight="bold", fontsize=13)
        put(axes, x + 2.3, 9.5, text, fontsize=11)
        if i:
            arrow(axes, (x - 0.7, 9.8), (x - 0.05, 9.8))
    put(axes, 0.3, 7.35, "at every call", ha="left", fontweight="bold")
    second = [
        ("jobs", "parts that own\nwhat they write,\ncut by the sizes"),
        ("packing", "operands in the\norder in which the\ntile reads them"),
        ("register tile", "6 rows by 4 vectors\nof sums, a product\nfor each step"),
    ]
    for i, (name, text) in enumerate(second):
        x = 0.3 + 5.35 * i
        box(axes, x, 3.4, 4.6, 3.3, PALE_WEIGHT)
        put(axes, x + 2.3, 6.1, name, fontweight="bold", fontsize=13)
        put(axes, x + 2.3, 4.7, text, fontsize=11)
        if i:
            arrow(axes, (x - 0.7, 5.0), (x - 0.05, 5.0))
    arrow(axes, (13.3, 8.15), (4.3, 6.8))
    box(axes, 0.3, 0.5, 15.3, 2.0, PALE_OUTPUT)
    put(axes, 7.95, 1.9, "result", fontweight="bold", fontsize=13)
    put(axes, 7.95, 1.1, "the same bits, whichever thread took which job", fontsize=11)
    arrow(axes, (13.3, 3.35), (13.3, 2.55))
    save("call")


def tile() -> None:
    """The register tile, its two packed sides, and the caches that they come from."""
    axes = canvas(25.5, 21.3, 7.4)

    def part(x: float, y: float, width: float, height: float, colour: str) -> None:
        axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="white", linewidth=1.5))

    put(axes, 13.7, 20.6, "a panel of packed filters, 4 vectors wide", fontweight="bold")
    for tap in range(5):
        for v in range(4):
            part(8.5 + 2.6 * v, 19.0 - tap, 2.6, 1, WEIGHT if tap == 3 else PALE_WEIGHT)
    put(axes, 19.3, 16.5, "one step: load\n4 vectors …", ha="left", fontsize=11.5)
    put(axes, 0.5, 12.9, "6 cells of the\noutput, their taps\nread in place", fontweight="bold", ha="left")
    for m in range(6):
        y = 10.2 - 1.05 * m
        for tap in range(5):
            part(1.0 + tap, y, 1, 1.05, INPUT if tap == 3 else PALE_INPUT)
        arrow(axes, (6.2, y + 0.5), (8.3, y + 0.5))
        for v in range(4):
            part(8.5 + 2.6 * v, y, 2.6, 1.05, OUTPUT)
    for v in range(4):
        arrow(axes, (9.8 + 2.6 * v, 14.8), (9.8 + 2.6 * v, 11.4))
    sums, ground = "24 vectors of sums\nin 24 registers", {"facecolor": OUTPUT, "edgecolor": OUTPUT}
    put(axes, 13.7, 8.1, sums, bbox=ground, fontweight="bold", fontsize=13.5, color="white")
    step = "… and 6 numbers,\neach spread over\na vector: 24\nmultiply-adds"
    put(axes, 19.3, 8.1, step, ha="left", fontsize=11.5)
    lines = [
        ("registers", "sums, until the last step"),
        ("L1", "the stretch of a panel and the rows of one tile"),
        ("L2", "the panels, and the chunk of images that meets them"),
        ("memory", "images, filters and results"),
    ]
    for i, (name, text) in enumerate(lines):
        put(axes, 1.0, 3.7 - 0.95 * i, name, ha="left", fontweight="bold")
        put(axes, 5.6, 3.7 - 0.95 * i, text, ha="left")
    save("tile")


LAYERS = [
    ("3x3, 64 to 64 channels, 56x56", ((8, 64, 56, 56), (64, 64, 3, 3)), {"padding": 1}),
    ("5x5, 3 to 6 channels, 12x12", ((10, 3, 12, 12), (6, 3, 5, 5)), {}),
    ("3x3 depthwise, 128 channels, 56x56", ((8, 128, 56, 56), (128, 1, 3, 3)), {"padding": 1, "groups": 128}),
]


def estimates() -> None:
    """What the forward passes of three layers would take in each algorithm, as the plan sees it."""
    figure, every = plt.subplots(3, 1, figsize=(7, 8.2), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)
    for axes, (title, sizes, options) in zip(every, LAYERS, strict=True):
        geometry = fastconv.plan_conv2d(*sizes, **options)._geometry
        problem = Problem(geometry, "forward")
        kinds = [kind for kind in candidates(geometry, "forward") if kind.label == kind.name]
        taken = sorted(((estimate(kind, problem) / 1e6, kind) for kind in kinds), key=lambda pair: -pair[0])
        chosen = choose(geometry, "forward")
        axes.barh(
            [kind.name for _, kind in taken],
            [value for value, _ in taken],
            color=[OUTPUT if kind is chosen else COLUMNS for _, kind in taken],
        )
        for i, (value, _) in enumerate(taken):
            text = f" {value:.1f} ms" if value >= 1 else f" {value * 1000:.0f} µs"
            axes.text(value, i, text, va="center", fontsize=11)
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.15)
    every[-1].set_xlabel("estimated milliseconds of the forward pass, float32, one thread")
    save("estimates")


def patches() -> None:
    """Winograd's minimal filtering of a layer, from patches to products at 16 points and back."""
    axes = canvas(27, 20.8, 7.8)
    violet = "#B279A2"
    put(axes, 0.5, 20.1, "1. cut: 4x4 patches, 2 apart", ha="left", fontweight="bold")
    grid(axes, 0.5, 19.2, [[""] * 8] * 6, PALE_INPUT)
    frame(axes, 0.58, 19.12, 3.92, 3.92, WEIGHT)
    frame(axes, 2.5, 19.04, 4, 4, INPUT)
    frame(axes, 4.5, 19.12, 3.92, 3.92, violet)
    put(axes, 13.4, 20.1, "2. transform: 16 points", ha="left", fontweight="bold")
    points = [[4 * r + c for c in range(4)] for r in range(4)]
    grid(axes, 13.4, 19.2, points, "#FDE5CC", fontsize=10)
    frame(axes, 13.4, 19.2, 4, 4, WEIGHT)
    grid(axes, 21.4, 19.2, points, PALE_WEIGHT, fontsize=10)
    put(axes, 15.4, 14.1, "Bᵀ d B\nof each patch d", fontsize=12)
    put(axes, 23.4, 14.1, "G g Gᵀ\nof each filter g", fontsize=12)
    arrow(axes, (8.9, 17.2), (13.1, 17.2))
    title = "3. multiply: at every point one matrix product over the channels"
    put(axes, 0.5, 11.9, title, ha="left", fontweight="bold")
    for i in range(3):
        x, y = 1.7 - 0.6 * i, 7.9 - 0.5 * i
        for left, width, height, colour, text in (
            (x, 5.4, 3, "#D9EBD6", "patches x\nfilters"),
            (x + 8.6, 5.0, 3, "#FDE5CC", "patches x\nchannels"),
            (x + 17.0, 5.4, 2.4, PALE_WEIGHT, "channels\nx filters"),
        ):
            axes.add_patch(
                Rectangle((left, y), width, height, facecolor=colour, edgecolor="#333333", linewidth=0.9)
            )
            if i == 2:
                put(axes, left + width / 2, y + height / 2, text)
    put(axes, 8.2, 8.6, "=", fontsize=18)
    put(axes, 16.5, 8.6, "@", fontsize=15)
    put(axes, 24.3, 8.6, "16 times", ha="left", fontsize=11)
    put(axes, 0.5, 5.3, "4. transform back: 2x2 outputs a patch", ha="left", fontweight="bold")
    grid(axes, 0.5, 4.5, points, "#D9EBD6", fontsize=10)
    arrow(axes, (5, 2.5), (9.7, 2.5))
    put(axes, 7.3, 3.2, "Aᵀ m A", fontsize=12)
    grid(axes, 10.2, 4.5, [[""] * 6] * 4, PALE_OUTPUT)
    for i, colour in enumerate((WEIGHT, INPUT, violet)):
        frame(axes, 10.2 + 2 * i, 4.5, 2, 2, colour)
    save("patches")


def main() -> None:
    """All pictures."""
    for draw in (views, columns, steps, shifted, rotation, zeros, call, tile, estimates, patches):
        draw()


if __name__ == "__main__":
    main()
