"""What is drawn of a layer: its arrays, the three products and the full convolution, panel by panel."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from fastconv.arguments import Array
from fastconv.explaining.drawing import Block, Cell, Grid, Sign, Things, number
from fastconv.explaining.numbers import Numbers, PoolNumbers
from fastconv.explaining.terms import Window, drawn_values, inside, pool_terms, terms_of
from fastconv.explaining.terms import first as first_cells
from fastconv.geometry import Geometry

# Rows and columns of a column matrix that are drawn at most.
ROWS, COLUMNS = 18, 16


class Panel(NamedTuple):
    """A picture: what stands in it, and what it shows in words."""

    things: Things
    about: str


class Drawn(NamedTuple):
    """Everything that pictures of a convolution are made of.

    Attributes
    ----------
    numbers : Numbers
    window : Window
    terms : ndarray, shape (multiplications, 3)
        Rows of numbers of an output cell, an input cell and a weight.
    values : dict
        Name of an array to the numbers in its drawn cells, flat.
    """

    numbers: Numbers
    window: Window
    terms: Array
    values: dict[str, Array]


def drawn(numbers: Numbers, window: Window) -> Drawn:
    """What is drawn of a layer."""
    return Drawn(numbers, window, terms_of(numbers.geometry, window), drawn_values(numbers, window))


def _planes(
    extents: tuple[int, ...], numbered: Array, cells: Array, word: str, first: int = 0
) -> list[list[Grid]]:
    """A row of planes for each channel, along the depth."""
    rows = []
    for channel, volume in zip(numbered, cells, strict=True):
        names = [
            f"{word} {channel}" + (f", depth {d + first}" if extents[0] > 1 else "")
            for d in range(extents[0])
        ]
        rows.append([Grid(name, plane) for name, plane in zip(names, volume, strict=True)])
    return rows


def _cells(values: Array, kind: str, letter: str) -> Array:
    """An array of cells whose keys are running numbers."""
    found = np.empty(values.size, object)
    for k, value in enumerate(values.ravel()):
        found[k] = Cell(number(value), kind, f"{letter}{k}")
    return found.reshape(values.shape)


class Pictures:
    """The panels of a convolution.

    Parameters
    ----------
    some : Drawn
    """

    def __init__(self, some: Drawn) -> None:
        self.g: Geometry = some.numbers.geometry
        self.some, self.window = some, some.window
        w = some.window
        self.filters = np.array(
            [k * (self.g.filters // self.g.groups) + f for k in range(w.groups) for f in range(w.filters)]
        )
        self.channels = np.array(
            [k * (self.g.channels // self.g.groups) + c for k in range(w.groups) for c in range(w.channels)]
        )
        self.of_group = prod(w.taps) * w.channels
        self.rows = min(ROWS, self.of_group)
        self.pixels = prod(w.outputs)
        self.columns = min(COLUMNS, self.pixels)

    # Arrays

    def input_cells(self, name: str) -> Array:
        """Cells of ``x`` or ``dx`` as (channels, depth, height, width), those of the padding dashed."""
        w = self.window
        values = self.some.values[name].reshape(-1, *w.cells)
        cells = _cells(values, "x", "i")
        for place in zip(*np.nonzero(~np.broadcast_to(inside(self.g, w), values.shape)), strict=True):
            key = cells[place].key
            cells[place] = Cell("0", "pad", key) if name == "x" else Cell("", "pad")
        return cells

    def input_block(self, name: str, title: str) -> Block:
        """``x`` with its padding, or ``dx``."""
        cells = self.input_cells(name)
        return Block(title, _planes(self.window.cells, self.channels, cells, "channel", -self.g.padding[0]))

    def output_block(self, name: str, title: str) -> Block:
        """``y`` or ``dy``."""
        cells = _cells(self.some.values[name].reshape(-1, *self.window.outputs), "y", "o")
        return Block(title, _planes(self.window.outputs, self.filters, cells, "filter"))

    def weight_cells(self, name: str) -> Array:
        """Cells of ``w`` or ``dw`` as (filters, channels of the group, depth, height, width)."""
        w = self.window
        return _cells(self.some.values[name].reshape(-1, w.channels, *w.taps), "w", "w")

    def weight_block(self, name: str, title: str, rotated: bool = False, exchanged: bool = False) -> Block:
        """Filters below each other and their channels side by side, or the other way round."""
        cells = self.weight_cells(name)
        if rotated:
            cells = cells[:, :, ::-1, ::-1, ::-1]
        w = self.window
        many = w.groups > 1
        grids: list[list[Grid]] = []
        for f, of_filter in zip(self.filters, cells, strict=True):
            row = []
            for c, volume in enumerate(of_filter):
                channel = self.channels[(len(grids) // w.filters) * w.channels + c]
                for d, plane in enumerate(volume):
                    deep = f", depth {d}" if w.taps[0] > 1 else ""
                    row.append(Grid(f"filter {f}, channel {channel}{deep}", plane))
            grids.append(row)
        if exchanged:
            grids = self._exchanged(grids)
        return Block(title + (", by groups" if many and exchanged else ""), grids)

    def _exchanged(self, grids: list[list[Grid]]) -> list[list[Grid]]:
        """Channels below each other and filters side by side, within each group."""
        w, found = self.window, []
        for group in range(w.groups):
            of_group = grids[group * w.filters : (group + 1) * w.filters]
            for c in range(w.channels):
                part = slice(c * w.taps[0], (c + 1) * w.taps[0])
                found.append([grid for row in of_group for grid in row[part]])
        return found

    # Matrices of the first group

    def weight_matrix(self, name: str, transposed: bool = False) -> Grid:
        """(filters, taps), a row a filter."""
        w = self.window
        cells = self.weight_cells(name).reshape(-1, self.of_group)[: w.filters, : self.rows]
        return Grid("", (cells.T if transposed else cells).tolist())

    def output_matrix(self, name: str) -> Grid:
        """(filters, pixels)."""
        cells = _cells(self.some.values[name].reshape(-1, self.pixels), "y", "o")
        return Grid("", cells[: self.window.filters, : self.columns].tolist())

    def column_values(self) -> tuple[Array, Array]:
        """The drawn column matrix, and the one that backward-input adds back: (taps, pixels)."""
        g, w, n = self.g, self.window, self.some.numbers
        terms = self.some.terms
        first = terms[(terms[:, 2] < self.of_group) & (terms[:, 0] < self.pixels)]
        columns = np.zeros((self.of_group, self.pixels), self.some.values["x"].dtype)
        columns[first[:, 2], first[:, 0]] = self.some.values["x"][first[:, 1]]
        of_group = g.filters // g.groups
        some = (slice(of_group), slice(w.channels), *first_cells(w.taps)[1:])
        weights = n.w[some].reshape(of_group, -1)
        errors = n.dy[0, :of_group][first_cells(w.outputs)].reshape(of_group, -1)
        with np.errstate(all="ignore"):  # infinities and NaN travel without a warning
            return columns, weights.T @ errors

    def column_matrix(self, transposed: bool = False, gradient: bool = False) -> Grid:
        """``col(X)``, or ``col(dX)`` before its columns are added back."""
        values = self.column_values()[gradient]
        cells = np.empty((self.rows, self.columns), object)
        pad = self._column_is_padding()
        for q, p in np.ndindex(*cells.shape):
            kind = "pad" if pad[q, p] else "col"
            cells[q, p] = Cell(number(values[q, p]), kind, f"c{q}_{p}")
        return Grid("", (cells.T if transposed else cells).tolist())

    def _column_is_padding(self) -> Array:
        terms = self.some.terms
        first = terms[(terms[:, 2] < self.of_group) & (terms[:, 0] < self.pixels)]
        here = inside(self.g, self.window).ravel()
        found = np.zeros((self.of_group, self.pixels), bool)
        found[first[:, 2], first[:, 0]] = ~here[first[:, 1] % here.size]
        return found

    def part(self, rows: bool = True, columns: bool = True) -> str:
        """Said of a matrix of which only the beginning is drawn."""
        g = self.g
        cut = (rows and self.rows < g.taps) or (columns and self.columns < g.pixels)
        return " (the first ones)" if cut else ""

    # Panels

    @property
    def full(self) -> bool:
        """Whether backward-input is drawn as a full convolution: where all taps are drawn."""
        return self.window.taps == self.g.kernel

    def panels(self) -> dict[str, Panel]:
        """All of them, by name."""
        wider = any(c > n for c, n in zip(self.window.cells, self.g.input, strict=True))
        padded = "X, padded" if wider or any(self.g.padding) else "X"
        found = {
            "forward": Panel(
                (
                    self.input_block("x", padded), Sign("✱"), self.weight_block("w", "W"), Sign("="),
                    self.output_block("y", "Y"),
                ),
                "The input, the filters and the output of the convolution.",
            ),
            "forward_product": Panel(
                (
                    Block(f"Y{self.part(False)}", [[self.output_matrix("y")]]), Sign("="),
                    Block(f"W{self.part(columns=False)}", [[self.weight_matrix("w")]]), Sign("@"),
                    Block(f"col(X){self.part()}", [[self.column_matrix()]]),
                ),
                "The output as the product of the filters, a row each, and the column matrix.",
            ),
            "backward_input": Panel(
                (
                    self.output_block("dy", "dY"), self.weight_block("w", "W"), Sign("→"),
                    self.input_block("dx", "dX"),
                ),
                "The gradient of the output, the filters, and the gradient of the input.",
            ),
            "backward_input_product": Panel(
                (
                    Block(f"col(dX){self.part()}", [[self.column_matrix(gradient=True)]]), Sign("="),
                    Block(f"Wᵀ{self.part(columns=False)}", [[self.weight_matrix("w", True)]]), Sign("@"),
                    Block(f"dY{self.part(False)}", [[self.output_matrix("dy")]]),
                ),
                "The columns of the gradient of the input as a product; col2im adds them back.",
            ),
        }  # fmt: skip
        if self.full:
            found["rotation"] = Panel(
                (
                    self.weight_block("w", "W"), Sign("→"),
                    self.weight_block("w", "rotated by 180 degrees", True), Sign("→"),
                    self.weight_block("w", "filters and channels exchanged", True, True),
                ),
                "The filters, rotated, and then with filters and channels exchanged.",
            )  # fmt: skip
            found["full_convolution"] = Panel(
                (
                    Block(self._errors_title(), self._errors()), Sign("✱"),
                    self.weight_block("w", "rotated and exchanged W", True, True), Sign("="),
                    self._whole_input(),
                ),
                "The gradient of the input as a full convolution of the gradient of the output.",
            )  # fmt: skip
        found["backward_weight"] = Panel(
            (
                self.input_block("x", padded), self.output_block("dy", "dY"), Sign("→"),
                self.weight_block("dw", "dW"),
            ),
            "The input, the gradient of the output, and the gradient of the filters.",
        )  # fmt: skip
        found["backward_weight_product"] = Panel(
            (
                Block(f"dW{self.part(columns=False)}", [[self.weight_matrix("dw")]]), Sign("="),
                Block(f"dY{self.part(False)}", [[self.output_matrix("dy")]]), Sign("@"),
                Block(f"col(X)ᵀ{self.part()}", [[self.column_matrix(True)]]),
            ),
            "The gradient of the filters as a product of errors and the transposed column matrix.",
        )  # fmt: skip
        return found

    def _errors_title(self) -> str:
        strided = any(s > 1 and o > 1 for s, o in zip(self.g.stride, self.g.output, strict=True))
        return "dY, zeros between and around" if strided else "dY, zeros around"

    def _whole_input(self) -> Block:
        """``dx`` without its padding."""
        g = self.g
        cells = self.input_cells("dx")[first_cells(g.input, g.padding)]
        return Block("dX", _planes(cells.shape[1:], self.channels, cells, "channel"))

    def _errors(self) -> list[list[Grid]]:
        """``dy`` as the full convolution reads it: zeros between errors (strides) and around."""
        g, w = self.g, self.window
        drawn_ = [max(0, min(n, c - p)) for n, c, p in zip(g.input, w.cells, g.padding, strict=True)]
        values = self.some.values["dy"].reshape(-1, *w.outputs)
        extents = [n + (k - 1) * d for n, k, d in zip(drawn_, g.kernel, g.dilation, strict=True)]
        found = []
        for f, volume in enumerate(values):
            cells = np.empty(extents, object)
            for place in np.ndindex(*extents):
                cells[place] = self._error(f, volume, place)
            name = f"filter {self.filters[f]}"
            found.append(
                [
                    Grid(name + (f", slice {d}" if extents[0] > 1 else ""), plane)
                    for d, plane in enumerate(cells)
                ]
            )
        return found

    def _error(self, f: int, volume: Array, place: tuple[int, ...]) -> Cell:
        g, w = self.g, self.window
        at, between = [], False
        steps = zip(place, g.kernel, g.dilation, g.padding, g.stride, g.output, strict=True)
        for j, k, d, p, s, o in steps:
            cell, left = divmod(j - (k - 1) * d + p, s)
            if not 0 <= cell < o or (left and cell == o - 1):
                return Cell("0", "pad")
            between = between or left > 0
            at.append(cell)
        if between:
            return Cell("0", "zero")
        if any(cell >= o for cell, o in zip(at, w.outputs, strict=True)):
            return Cell("…", "zero")
        (a, b, c), (_, height, width) = at, w.outputs
        key = f * self.pixels + (a * height + b) * width + c
        return Cell(number(volume[a, b, c]), "y", f"o{key}")


class PoolPictures:
    """The panels of a max-pooling, and the rows of `pool_terms`."""

    def __init__(self, numbers: PoolNumbers, window: Window) -> None:
        self.numbers, self.window = numbers, window
        self.terms = pool_terms(numbers, window)
        self.channels = np.arange(window.channels)
        n, w = numbers, window
        self.values = {
            name: array[: w.channels][first_cells(w.outputs)] for name, array in (("y", n.y), ("dy", n.dy))
        }
        for name, array in (("x", n.x), ("dx", n.dx), ("dx_ties", n.dx_ties)):
            self.values[name] = self._padded(array)
        self.inside = self._padded(np.ones_like(n.x, bool))

    def _padded(self, array: Array) -> Array:
        w, n = self.window, self.numbers
        found = np.zeros((w.channels, *w.cells), array.dtype)
        extents = [max(0, min(c - p, k)) for c, p, k in zip(w.cells, n.padding, array.shape[1:], strict=True)]
        found[first_cells(extents, n.padding)] = array[: w.channels][first_cells(extents)]
        return found

    def _input(self, name: str, title: str) -> Block:
        cells = _cells(self.values[name], "x", "i")
        for place in zip(*np.nonzero(~self.inside), strict=True):
            cells[place] = Cell("\N{MINUS SIGN}∞", "pad") if name == "x" else Cell("", "pad")
        return Block(
            title, _planes(self.window.cells, self.channels, cells, "channel", -self.numbers.padding[0])
        )

    def _output(self, name: str, title: str) -> Block:
        return Block(
            title, _planes(self.window.outputs, self.channels, _cells(self.values[name], "y", "o"), "channel")
        )

    def panels(self) -> dict[str, Panel]:
        """All of them, by name."""
        padded = "X, padded" if any(self.numbers.padding) else "X"
        return {
            "forward": Panel(
                (self._input("x", padded), Sign("→"), self._output("y", "Y")),
                "The input and the maxima of its windows.",
            ),
            "backward": Panel(
                (self._output("dy", "dY"), Sign("→"), self._input("dx", "dX")),
                "The gradient of the output, routed to the first maximum of each window.",
            ),
            "ties": Panel(
                (self._output("dy", "dY"), Sign("→"), self._input("dx_ties", "dX, to all ties")),
                "The gradient of the output, routed to every cell that equals its window's maximum.",
            ),
        }
