"""Any layer explained: its three passes as products, with the numbers in their cells, on one page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from math import prod
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastconv.annotations import Extents, Layout1d, Layout2d, Layout3d, Padding
from fastconv.arguments import Array, extents, must_be, must_be_named, must_be_said
from fastconv.explaining.drawing import LIGHT, svg
from fastconv.explaining.numbers import check_size, numbers_of, plan_of_sizes, pool_numbers, small
from fastconv.explaining.pages import conv_page, pool_page
from fastconv.explaining.panels import Pictures, PoolPictures, drawn
from fastconv.explaining.sizes import POOLING, SPELLING, read_sizes
from fastconv.explaining.terms import lit, pool_window, window_of
from fastconv.geometry import layout_is_channels_last
from fastconv.plan import ConvPlan

Layout = Layout1d | Layout2d | Layout3d
# Height of the frame in which notebooks show a page, in pixels.
FRAME = 780
SHAPES = "of shape (N, C, W), (N, C, H, W) or (N, C, D, H, W)"


class Explanation:
    """A layer's page and pictures, made by `explain`; notebooks show the page.

    Attributes
    ----------
    title : str
        What the layer is.
    panels : mapping
        Name of a panel to its picture, SVG as text.

    Examples
    --------
    >>> import fastconv
    >>> page = fastconv.explain("1x1x5x5-1k3x3")
    >>> page
    <Explanation of 1x1x5x5-1k3x3: forward, forward_product, backward_input, ...>
    >>> page.panels["forward"][:4]
    '<svg'
    """

    def __init__(self, pictures: Pictures | PoolPictures, title: str, name: str) -> None:
        self.title, self._name, self._pictures = title, name, pictures
        self._panels = pictures.panels()

    def __repr__(self) -> str:
        return f"<Explanation of {self._name}: {', '.join(self._panels)}>"

    @property
    def panels(self) -> MappingProxyType[str, str]:
        """Name of a panel to its picture, SVG as text."""
        return MappingProxyType({name: self.panel(name) for name in self._panels})

    @property
    def html(self) -> str:
        """The whole page, as text."""
        make = conv_page if isinstance(self._pictures, Pictures) else pool_page
        return make(self._pictures, self.title)  # type: ignore[arg-type,operator]

    def panel(self, name: str, cell: tuple[str, int] | None = None) -> str:
        """One picture as SVG.

        Parameters
        ----------
        name : str
            Of `panels`.
        cell : tuple of str and int, optional
            A cell that is pointed at: "o" (output), "i" (padded input) or "w" (filters), and its number among
            the cells that are drawn, row by row.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If there is no such panel or cell.
        """
        if name not in self._panels:
            must_be_named(ValueError, "name", f"one of {', '.join(self._panels)}", name, list(self._panels))
        keys: set[str] = set()
        on = ""
        if cell is not None:
            keys, on = self._lit(cell), f"{cell[0]}{cell[1]}"
        things, about = self._panels[name]
        return svg(things, about, keys, on, LIGHT)

    def _lit(self, cell: tuple[str, int]) -> set[str]:
        conv = isinstance(self._pictures, Pictures)
        terms: Array = (
            self._pictures.some.terms if isinstance(self._pictures, Pictures) else self._pictures.terms
        )
        letters = "oiw" if conv else "oi"
        if not (isinstance(cell, tuple) and len(cell) == 2 and cell[0] in tuple(letters)):
            must_be(ValueError, "cell", f"a letter of {', '.join(letters)} and a number", cell)
        found = lit(terms, cell[0], int(cell[1]))
        if not len(found):
            must_be(ValueError, "cell", "one that is drawn and has part in a sum", cell)
        return {f"{letter}{count}" for row in found for letter, count in zip(letters, row, strict=False)}

    def save(self, path: str | PathLike[str]) -> None:
        """Write the page: one HTML file that needs nothing else.

        Parameters
        ----------
        path : str or path-like
        """
        Path(path).write_text(self.html, encoding="utf-8")

    def save_panel(self, name: str, path: str | PathLike[str], cell: tuple[str, int] | None = None) -> None:
        """Write one picture as an SVG file.

        Parameters
        ----------
        name : str
            Of `panels`.
        path : str or path-like
        cell : tuple of str and int, optional
            As in `panel`.

        Raises
        ------
        ValueError
            If there is no such panel or cell.
        """
        Path(path).write_text(self.panel(name, cell), encoding="utf-8")

    def _repr_html_(self) -> str:
        """A frame with the page, for notebooks: the page's styles and keys are its own."""
        page = html.escape(self.html, quote=True)
        return (
            f'<iframe srcdoc="{page}" title="{html.escape(self.title, quote=True)}" '
            f'style="width:100%;height:{FRAME}px;border:0"></iframe>'
        )


def explain(
    layer: str | ConvPlan | ArrayLike,
    weight: ArrayLike | None = None,
    stride: Extents | None = None,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    input: ArrayLike | None = None,
    grad_output: ArrayLike | None = None,
    max_pool: Extents | None = None,
    layout: Layout | None = None,
) -> Explanation:
    """Explain a layer: its three passes as products, with the numbers in their cells.

    Parameters
    ----------
    layer : str, ConvPlan or array_like
        Sizes in one word, as `fastconv bench` takes them (``"1x1x5x5-1k3x3"``: an image of one channel and
        5x5 cells, one filter of 3x3; then maybe ``s``, ``p``, ``d`` and ``g`` with stride, padding, dilation
        and groups; 1 to 3 dimensions; ``"1x1x6x6-max2x2s2"`` is a max-pooling). Or a plan; or the input
        itself, of shape (N, C, H, W) or in another layout, with ``weight`` or ``max_pool``.
    weight : array_like, optional
        The filters, (K, C/G, R, S). With sizes or a plan: the numbers in them.
    stride, padding, dilation, groups
        As in `conv2d` (or `max_pool2d`), where ``layer`` is an array; sizes and plans have their own.
    input, grad_output : array_like, optional
        The numbers in the input (with sizes or a plan) and in the gradient of the output. What is not given
        is filled with small whole numbers, the same every time.
    max_pool : int or tuple of int, optional
        The windows of a max-pooling of the input.
    layout : str, optional
        "NCHW" (the default), "NHWC", or those of 1 and 3 dimensions.

    Returns
    -------
    Explanation
        ``save("page.html")`` writes a page that needs no network; notebooks show it.

    Raises
    ------
    ValueError, TypeError
        If the sizes are written otherwise, arrays do not fit each other, or the layer is larger than 2**36
        multiply-adds or 2**27 cells an array.

    Notes
    -----
    Of large layers the first cells are drawn, and the page says so. Numbers are those of the whole layer.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> page = fastconv.explain("1x1x5x5-1k3x3")
    >>> page.save("layer.html")  # doctest: +SKIP
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> fastconv.explain(x, max_pool=2)
    <Explanation of 1x1x4x4-max2x2: forward, backward, ties>
    """
    if isinstance(layer, str):
        return _of_sizes(layer, weight, input, grad_output, layout)
    if isinstance(layer, ConvPlan):
        return _of_plan(layer, _words(layer), weight, input, grad_output)
    x = _array("layer", layer)
    if input is not None:
        must_be_said(ValueError, "input", "left out where layer is the input itself", "both")
    if max_pool is not None:
        if not 3 <= x.ndim <= 5:
            must_be(ValueError, "layer", SHAPES, layer)
        kernel = extents("max_pool", max_pool, x.ndim - 2, 1)
        size = f"{'x'.join(map(str, x.shape))}-max{'x'.join(map(str, kernel))}"
        return _of_pool(x, kernel, stride, padding, dilation, grad_output, layout, size)
    if weight is None:
        must_be_said(
            TypeError,
            "layer",
            f"written {SPELLING}; or a plan; or an array with weight or max_pool",
            "an array alone",
        )
    w = _array("weight", weight)
    if not 3 <= x.ndim <= 5 or w.ndim != x.ndim:
        must_be_said(
            ValueError, "layer", f"{SHAPES}, and weight with as many axes",
            f"shapes {x.shape} and {w.shape}",
        )  # fmt: skip
    plan = plan_of_sizes(
        x.shape, w.shape, _layout(layout, x.ndim), np.result_type(x, w, np.float32),
        stride=1 if stride is None else stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    return _of_plan(plan, _words(plan), w, x, grad_output)


def _array(name: str, value: ArrayLike) -> Array:
    try:
        found = np.asarray(value)
    except Exception:
        must_be(TypeError, name, "an array", value)
    if found.dtype.kind not in "fiub":
        must_be_said(TypeError, name, "an array of real numbers", f"dtype {found.dtype}")
    return found


def _layout(layout: str | None, ndim: int) -> str:
    if layout is not None:
        return layout
    return {3: "NCW", 4: "NCHW", 5: "NCDHW"}[ndim]


def _of_sizes(
    text: str, weight: ArrayLike | None, input: ArrayLike | None, dy: ArrayLike | None, layout: str | None
) -> Explanation:
    written = read_sizes(text)
    last = layout_is_channels_last(_layout(layout, len(written.input_size)), len(written.input_size) - 2)

    def arranged(size: tuple[int, ...]) -> tuple[int, ...]:
        return (size[0], *size[2:], size[1]) if last else size

    if written.filters is None:
        check_size("layer", prod(written.input_size), prod(written.input_size) * prod(written.kernel))
        # Few different numbers, so that there are ties.
        shape = arranged(written.input_size)
        x = small(shape, 0, 7, 0) if input is None else _array("input", input)
        if x.shape != shape:
            must_be_said(ValueError, "input", f"of shape {shape}", f"shape {x.shape}")
        return _of_pool(
            x, written.kernel, written.stride, written.padding, written.dilation, dy, layout, text
        )
    if written.groups < 1 or written.input_size[1] % written.groups:
        expected = f"of channels divisible by the groups, {written.groups}"
        must_be_said(ValueError, "layer", expected, f"{written.input_size[1]} channels")
    weight_size = (written.filters, written.input_size[1] // written.groups, *written.kernel)
    plan = plan_of_sizes(
        arranged(written.input_size), arranged(weight_size), _layout(layout, len(weight_size)), "float64",
        stride=1 if written.stride is None else written.stride, padding=written.padding,
        dilation=written.dilation, groups=written.groups,
    )  # fmt: skip
    return _of_plan(plan, text, weight, input, dy)


def _of_plan(
    plan: ConvPlan, name: str, weight: ArrayLike | None, input: ArrayLike | None, dy: ArrayLike | None
) -> Explanation:
    if plan._geometry.is_empty:
        must_be_said(ValueError, "layer", "with cells in all of its arrays", f"output {plan.output_size}")
    sizes = ("input", input, plan.input_size), ("weight", weight, plan.weight_size), (
        "grad_output", dy, plan.output_size,
    )  # fmt: skip
    arrays = []
    for argument, value, size in sizes:
        array = None if value is None else _array(argument, value).astype(plan.dtype)
        if array is not None and array.shape != size:
            must_be_said(ValueError, argument, f"of shape {size}", f"shape {array.shape}")
        arrays.append(array)
    numbers = numbers_of(plan, *arrays)
    pictures = Pictures(drawn(numbers, window_of(numbers.geometry)))
    return Explanation(pictures, f"The three passes of a convolution: {name}", name)


def _of_pool(
    x: Array,
    kernel: Sequence[int],
    stride: Any,
    padding: Any,
    dilation: Any,
    dy: ArrayLike | None,
    layout: str | None,
    name: str,
) -> Explanation:
    if layout_is_channels_last(_layout(layout, x.ndim), x.ndim - 2):
        x = np.moveaxis(x, -1, 1)
        dy = None if dy is None else np.moveaxis(_array("grad_output", dy), -1, 1)
    if 0 in x.shape:
        must_be_said(ValueError, "layer", "with cells in all of its arrays", f"shape {x.shape}")
    floating = x if x.dtype.kind == "f" else x.astype(np.float64)
    gradient = None if dy is None else _array("grad_output", dy).astype(floating.dtype)
    numbers = pool_numbers(floating, tuple(kernel), stride, padding, dilation, gradient)
    pictures = PoolPictures(numbers, pool_window(numbers))
    return Explanation(pictures, f"Max-pooling and where its gradient goes: {name}", name)


def _words(plan: ConvPlan) -> str:
    """The sizes of a plan in one word."""
    g = plan._geometry
    n = g.ndim

    def steps(letter: str, values: Sequence[int], usual: int) -> str:
        several = set(values)
        if several == {usual}:
            return ""
        return letter + (str(values[0]) if len(several) == 1 else "x".join(map(str, values)))

    size = "x".join(map(str, (g.batch, g.channels, *g.input[-n:])))
    kernel = "x".join(map(str, g.kernel[-n:]))
    return (
        f"{size}-{g.filters}k{kernel}{steps('s', g.stride[-n:], 1)}{steps('p', g.padding[-n:], 0)}"
        f"{steps('d', g.dilation[-n:], 1)}{f'g{g.groups}' if g.groups > 1 else ''}"
    )


__all__ = ["POOLING", "SPELLING", "Explanation", "explain"]
