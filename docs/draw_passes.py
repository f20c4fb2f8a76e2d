"""Draw docs/passes.png: the three passes of a convolution as matrix products over columns.

Run: python docs/draw_passes.py (needs matplotlib). The example is the first seed layer that has more than
one channel: input 10x3x12x12, 6 filters 3x5x5, output 10x6x8x8.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

INPUT, WEIGHT, OUTPUT, COLUMNS = "#4C78A8", "#F58518", "#54A24B", "#9ECAE9"
# Heights and widths in drawing units for the three extents: filters, taps, pixels.
FILTERS, TAPS, PIXELS = 0.75, 1.5, 2.3


def matrix(axes: Axes, x: float, middle: float, height: float, width: float, colour: str, text: str) -> float:
    """A labelled rectangle; returns where the next thing goes."""
    axes.add_patch(Rectangle((x, middle - height / 2), width, height, facecolor=colour, edgecolor="black"))
    axes.text(x + width / 2, middle, text, ha="center", va="center", fontsize=9.5)
    return x + width + 0.18


def sign(axes: Axes, x: float, middle: float, text: str) -> float:
    """An operator between two rectangles."""
    axes.text(x + 0.1, middle, text, ha="center", va="center", fontsize=15)
    return x + 0.38


def heading(axes: Axes, middle: float, name: str, formula: str, shapes: str) -> None:
    """The words left of a row."""
    axes.text(0, middle + 0.33, name, fontsize=12.5, fontweight="bold", va="center")
    axes.text(0, middle, formula, fontsize=11, va="center", family="monospace")
    axes.text(0, middle - 0.33, shapes, fontsize=9, va="center", color="#444444")


def forward(axes: Axes, middle: float) -> None:
    """``Y = W @ col(X)``."""
    heading(axes, middle, "forward", "Y = W @ col(X)", "6 x 64  =  6 x 75  @  75 x 64")
    x = matrix(axes, 3.6, middle, FILTERS, PIXELS, OUTPUT, "Y\nfilters x pixels")
    x = sign(axes, x, middle, "=")
    x = matrix(axes, x, middle, FILTERS, TAPS, WEIGHT, "W\nfilters x taps")
    x = sign(axes, x, middle, "@")
    matrix(axes, x, middle, TAPS, PIXELS, COLUMNS, "col(X)\ntaps x pixels")


def backward_weight(axes: Axes, middle: float) -> None:
    """``dW = dY @ col(X)^T``."""
    heading(axes, middle, "backward-weight", "dW = dY @ col(X)ᵀ", "6 x 75  =  6 x 640  @  640 x 75")
    x = matrix(axes, 3.6, middle, FILTERS, TAPS, WEIGHT, "dW\nfilters x taps")
    x = sign(axes, x, middle, "=")
    x = matrix(axes, x, middle, FILTERS, PIXELS, OUTPUT, "dY\nfilters x pixels\nof all images")
    x = sign(axes, x, middle, "@")
    matrix(axes, x, middle, PIXELS, TAPS, COLUMNS, "col(X)ᵀ\nall pixels\nx taps")


def backward_input(axes: Axes, middle: float) -> None:
    """``dX = col2im(W^T @ dY)``."""
    heading(axes, middle, "backward-input", "dX = col2im(Wᵀ @ dY)", "75 x 64  =  75 x 6  @  6 x 64")
    x = matrix(axes, 3.6, middle, TAPS, PIXELS, COLUMNS, "col(dX)\ntaps x pixels")
    x = sign(axes, x, middle, "=")
    x = matrix(axes, x, middle, TAPS, FILTERS, WEIGHT, "Wᵀ\ntaps x\nfilters")
    x = sign(axes, x, middle, "@")
    x = matrix(axes, x, middle, FILTERS, PIXELS, OUTPUT, "dY\nfilters x pixels")
    axes.text(
        x + 0.1,
        middle,
        "col2im adds every\ncolumn back to the\ncells it came from",
        va="center",
        fontsize=9.5,
    )


def image_to_column(axes: Axes, bottom: float) -> None:
    """A patch of an image becoming a column."""
    cell = 1.6 / 12
    for row in range(12):
        for column in range(12):
            inside = 1 <= row < 6 and 2 <= column < 7
            colour = INPUT if inside else "#E8EEF4"
            corner = (3.6 + column * cell, bottom + (11 - row) * cell)
            axes.add_patch(Rectangle(corner, cell, cell, facecolor=colour, edgecolor="white", linewidth=0.6))
    axes.add_patch(
        FancyArrowPatch(
            (5.35, bottom + 0.85), (6.45, bottom + 0.85), arrowstyle="-|>", mutation_scale=16, color="black"
        )
    )
    for column in range(14):
        colour = INPUT if column == 4 else COLUMNS
        corner = (6.6 + column * 0.165, bottom)
        axes.add_patch(Rectangle(corner, 0.165, 1.6, facecolor=colour, edgecolor="white", linewidth=0.6))
    axes.text(
        9.1,
        bottom + 0.8,
        "every place of the kernel\nis one column: what one\noutput cell sums over",
        va="center",
        fontsize=9.5,
    )
    heading(
        axes, bottom + 0.8, "im2col", "col(X)", "75 taps (3 channels x 5 x 5),\n64 pixels (8 x 8) an image"
    )


def main() -> None:
    """Write the picture."""
    figure, axes = plt.subplots(figsize=(11, 8.3), dpi=110)
    image_to_column(axes, 8.1)
    forward(axes, 6.7)
    backward_weight(axes, 4.3)
    backward_input(axes, 1.85)
    axes.set_xlim(-0.1, 11.2)
    axes.set_ylim(0.9, 9.9)
    axes.set_aspect("equal")
    axes.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(Path(__file__).with_name("passes.png"))


if __name__ == "__main__":
    main()
