"""Pictures of arrays as SVG: grids of cells with numbers in them, side by side, with signs between."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple, SupportsFloat

# Sizes in pixels: height of a cell, width of a digit, least width of a cell, space between things.
CELL, DIGIT, GAP, TITLE = 24, 6.6, 14, 18
# The widest row of blocks before the next one begins below.
WIDEST = 1120


class Theme(NamedTuple):
    """Colours: fill of each kind of cell and fill where it is lit, text, and lines."""

    cells: Mapping[str, tuple[str, str]]
    ink: str
    faint: str
    line: str
    paper: str
    lit: str  # text of lit cells
    mark: str  # frame of the cell that is pointed at


LIGHT = Theme(
    {
        "x": ("#dce8f5", "#3b78b5"),
        "w": ("#fde6cf", "#c25e06"),
        "y": ("#dcf0d9", "#32803a"),
        "col": ("#e9f1f8", "#3b78b5"),
    },
    ink="#1c2733",
    faint="#66727f",
    line="#ffffff",
    paper="#ffffff",
    lit="#ffffff",
    mark="#111111",
)
DARK = Theme(
    {
        "x": ("#22384f", "#6fb1f2"),
        "w": ("#4f3418", "#ffab57"),
        "y": ("#1f4225", "#7fd486"),
        "col": ("#1f2f40", "#6fb1f2"),
    },
    ink="#e6edf3",
    faint="#8b98a5",
    line="#10161d",
    paper="#10161d",
    lit="#0b0f14",
    mark="#ffffff",
)


class Cell(NamedTuple):
    """A number; what it is ("x", "w", "y", "col", "pad" or "zero"), and the key by which it is pointed at."""

    text: str
    kind: str
    key: str = ""


class Grid(NamedTuple):
    """A plane or a matrix, and the words above it."""

    label: str
    rows: Sequence[Sequence[Cell]]


class Block(NamedTuple):
    """An array: its title, and its planes in rows."""

    title: str
    grids: Sequence[Sequence[Grid]]


class Sign(NamedTuple):
    """What stands between two blocks."""

    text: str


Things = Sequence[Block | Sign]


def number(value: SupportsFloat) -> str:
    """A number in few characters: whole ones as they are, others with three digits."""
    real = float(value)
    if not math.isfinite(real):
        text = "nan" if math.isnan(real) else "∞" if real > 0 else "-∞"
    elif real == round(real) and abs(real) < 1e5:
        text = str(round(real))
    else:
        text = f"{real:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def style(theme: Theme) -> str:
    """The rules that colour cells."""
    rules = [
        f"text{{font:12px ui-sans-serif,system-ui,'DejaVu Sans',sans-serif;fill:{theme.ink}}}",
        f".cell text{{text-anchor:middle}}.cell rect{{stroke:{theme.line};stroke-width:1}}",
        f".title{{font-weight:600}}.label{{fill:{theme.faint};font-size:11px}}",
        ".sign{font-size:20px;text-anchor:middle}",
        f".pad rect,.zero rect{{fill:none;stroke:{theme.faint};stroke-dasharray:2 2;stroke-width:.7}}",
        f".pad text,.zero text{{fill:{theme.faint}}}",
    ]
    for kind, (fill, strong) in theme.cells.items():
        rules.append(f".{kind} rect{{fill:{fill}}}.{kind}.lit rect{{fill:{strong}}}")
    rules += [
        f".cell.lit text{{fill:{theme.lit};font-weight:600}}",
        f".pad.lit rect{{stroke:{theme.mark};stroke-dasharray:none;stroke-width:1.4}}",
        f".pad.lit text{{fill:{theme.ink}}}.cell.on rect{{stroke:{theme.mark};stroke-width:2.5}}",
        f".cell.tie rect{{stroke:{theme.mark};stroke-width:1.6;stroke-dasharray:4 2}}",
    ]
    return "".join(rules)


def _width(grid: Grid) -> float:
    longest = max((len(cell.text) for row in grid.rows for cell in row), default=1)
    return max(CELL, longest * DIGIT + 9)


def _grid(grid: Grid, x: float, y: float, lit: frozenset[str], on: str) -> tuple[str, float, float]:
    """The SVG of a grid, its width and its height."""
    wide = _width(grid)
    columns = max(map(len, grid.rows), default=0)
    parts = []
    top = 0.0
    if grid.label:
        parts.append(f'<text class="label" x="0" y="10">{escape(grid.label)}</text>')
        top = 15
    for r, row in enumerate(grid.rows):
        for c, cell in enumerate(row):
            classes = f"cell {cell.kind}"
            if cell.key and cell.key in lit:
                classes += " lit"
            if cell.key and cell.key == on:
                classes += " on"
            key = f' data-k="{cell.key}"' if cell.key else ""
            place = f"translate({c * wide:g},{top + r * CELL:g})"
            parts.append(
                f'<g class="{classes}"{key} transform="{place}"><rect width="{wide:g}" height="{CELL}"/>'
                f'<text x="{wide / 2:g}" y="16">{escape(cell.text)}</text></g>'
            )
    extent = columns * wide, top + len(grid.rows) * CELL
    name = escape(grid.label or "matrix", quote=True)
    group = f'<g class="grid" tabindex="0" aria-label="{name}" transform="translate({x:g},{y:g})">'
    return f"{group}{''.join(parts)}</g>", extent[0] + 0.0, extent[1]


def _block(block: Block, x: float, y: float, lit: frozenset[str], on: str) -> tuple[str, float, float]:
    parts = [f'<text class="title" x="{x:g}" y="{y + 12:g}">{escape(block.title)}</text>']
    top, widest = y + TITLE + 4, len(block.title) * 7.0
    for row in block.grids:
        left, highest = x, 0.0
        for grid in row:
            drawn, width, height = _grid(grid, left, top, lit, on)
            parts.append(drawn)
            left += max(width, len(grid.label) * 6.2) + GAP
            highest = max(highest, height)
        top += highest + GAP
        widest = max(widest, left - x - GAP)
    return "".join(parts), widest, top - y - GAP


def svg(things: Things, about: str, lit: Iterable[str] = (), on: str = "", theme: Theme | None = None) -> str:
    """A picture.

    Parameters
    ----------
    things : sequence of Block and Sign
        From left to right.
    about : str
        What it shows, for those who can't see it.
    lit : iterable of str
        The keys of cells that are lit.
    on : str
        The key of the cell that is pointed at.
    theme : Theme, optional
        Colours, for a picture by itself; without them they are those of the page around it.
    """
    keys = frozenset(lit)
    x = y = highest = 0.0
    widest = 0.0
    parts: list[str] = []
    sign = ""
    for thing in things:
        if isinstance(thing, Sign):
            sign = thing.text
            continue
        room = 30.0 if sign else 0.0
        drawn, width, height = _block(thing, x + room, y, keys, on)
        if x + room + width > WIDEST and x > 0:
            x, y, highest = 0.0, y + highest + 2 * GAP, 0.0
            drawn, width, height = _block(thing, x + room, y, keys, on)
        if sign:
            at = f'x="{x + room / 2 - 4:g}" y="{y + TITLE + 36:g}"'
            parts.append(f'<text class="sign" {at}>{escape(sign)}</text>')
            sign = ""
        parts.append(drawn)
        x += room + width + GAP
        widest, highest = max(widest, x), max(highest, height)
    size = f"{widest - GAP + 4:g}", f"{y + highest + 4:g}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
        f'viewBox="-2 0 {size[0]} {size[1]}" role="group" aria-label="{escape(about, quote=True)}">'
    )
    inner = (
        ""
        if theme is None
        else f"<style>{style(theme)}</style>"
        + (f'<rect x="-2" width="100%" height="100%" fill="{theme.paper}"/>')
    )
    return f"{head}{inner}{''.join(parts)}</svg>"
