"""The page of a layer: its panels with words around them, and the script that lights cells, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from math import prod
from string import Template
from typing import Any, NamedTuple

import numpy as np

from fastconv.arguments import Array
from fastconv.explaining.drawing import DARK, LIGHT, number, style, svg
from fastconv.explaining.panels import Panel, Pictures, PoolPictures
from fastconv.explaining.terms import inside
from fastconv.geometry import Geometry

HINT = (
    '<p class="hint">Point at a cell, or move to it with Tab and the arrow keys: the cells that its sum is '
    "made of "
    "light up, and the sum is written out below the heading. A click or Enter holds a cell, another one or "
    "Escape "
    "lets it go.</p>"
)
# What sums call the arrays.
NAMES = {"x": "X", "w": "W", "y": "Y", "dx": "dX", "dw": "dW", "dy": "dY", "dx_ties": "dX"}


class Section(NamedTuple):
    """A part of a page: a pass.

    Attributes
    ----------
    name, title : str
    words : sequence of str
        Paragraphs, as HTML.
    panels : mapping
        Name of a panel to its caption.
    behaviour : mapping
        What the script needs.
    """

    name: str
    title: str
    words: Sequence[str]
    panels: Mapping[str, str]
    behaviour: Mapping[str, Any]


def shape(*extents: int) -> str:
    """A matrix's shape, as NumPy writes it."""
    return f"({', '.join(map(str, extents))})"


def labels(
    g: Geometry, planes: Array, extents: Sequence[int], first: Sequence[int], image: bool = True
) -> list[str]:
    """The indices of drawn cells in the user's arrays: of (planes, *extents), by running number."""
    some = g.ndim
    found = []
    for plane in planes:
        for place in np.ndindex(*extents):
            at = [n + k for n, k in zip(place, first, strict=True)][3 - some :]
            parts = [*at, int(plane)] if g.channels_last else [int(plane), *at]
            found.append(", ".join(map(str, [0, *parts] if image else parts)))
    return found


def _numbers(values: Array) -> list[float | int | None]:
    """As JSON has them."""
    found = []
    for value in values.ravel().tolist():
        finite = not isinstance(value, float) or np.isfinite(value)
        whole = finite and value == int(value) and abs(value) < 2**53
        found.append(int(value) if whole else float(f"{value:.7g}") if finite else None)
    return found


def _page(
    title: str, head: str, sections: Sequence[Section], panels: Mapping[str, Panel], data: dict[str, Any]
) -> str:
    folder = files("fastconv.explaining") / "page"
    css, script, page = (
        (folder / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js", "html")
    )
    light, dark = style(LIGHT), style(DARK)
    data = {**data, "style": light, "sections": {section.name: section.behaviour for section in sections}}
    written = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return Template(page).substitute(
        title=escape(title),
        css=f"{css}{light}@media (prefers-color-scheme: dark){{{dark}}}@media print{{{light}}}",
        head=head,
        links="".join(f'<a href="#{section.name}">{section.title}</a>' for section in sections),
        sections="\n".join(_section(section, panels) for section in sections),
        data=written,
        script=script,
    )


def _section(section: Section, panels: Mapping[str, Panel]) -> str:
    figures = "".join(
        f'<figure data-panel="{name}"><figcaption><span>{caption}</span>'
        f'<button type="button" data-save="{name}">Save as SVG</button></figcaption>'
        f'<div class="view">{svg(*panels[name])}</div></figure>'
        for name, caption in section.panels.items()
        if name in panels
    )
    words = "".join(f"<p>{text}</p>" for text in section.words)
    return (
        f'<section data-section="{section.name}" id="{section.name}"><h2>{section.title}</h2>{words}'
        f'<p class="sum" aria-live="polite"></p>{figures}</section>'
    )


# Convolution


def _formula(g: Geometry) -> list[str]:
    """How the output's extents follow, in numbers."""
    found = []
    for axis, name in list(enumerate("DHW"))[3 - g.ndim :]:
        n, p, k, s, d, o = (
            some[axis] for some in (g.input, g.padding, g.kernel, g.stride, g.dilation, g.output)
        )
        # The padding before is known; what was added after it may be more than the last window reads.
        after = max((o - 1) * s + d * (k - 1) + 1 - n - p, 0)
        window = f"{k}" if d == 1 else f"({d}·({k} \N{MINUS SIGN} 1) + 1)"
        added = f" + {p} + {after}" if p or after else ""
        steps = f" / {s}" if s > 1 else ""
        found.append(
            f"{name}: ⌊({n}{added} \N{MINUS SIGN} {window}){steps}⌋ + 1 = {o}"
            if s > 1
            else f"{name}: {n}{added} \N{MINUS SIGN} {window} + 1 = {o}"
        )
    return found


def _what_steps_do(g: Geometry) -> list[str]:
    """A sentence for everything that makes this layer other than the plainest one."""
    stride, dilation = g.stride[-g.ndim :], g.dilation[-g.ndim :]
    found = []
    if g.ndim == 1:
        found.append("One dimension: planes of a single line; everything else is the same.")
    if g.ndim == 3:
        found.append("Three dimensions: every channel is a stack of planes, and a window has a depth, too.")
    if any(g.padding):
        found.append("Padding: the dashed cells around the input are zeros, which belong to no array.")
    if max(stride) > 1:
        found.append(
            f"Stride {_steps(stride)}: the window moves {_steps(stride)} cells at a time. For dX, zeros "
            f"stand between neighbouring errors: {_steps([n - 1 for n in stride])}."
        )
    if max(dilation) > 1:
        found.append(
            f"Dilation {_steps(dilation)}: the taps of a filter are so many cells apart; "
            "what lies between them is not read."
        )
    if g.groups > 1:
        depthwise = g.channels == g.groups
        found.append(
            f"{g.groups} groups: each filter sees only the {g.channels // g.groups} channels of its own "
            f"group, and each "
            f"group is a product by itself{' (a depthwise layer)' if depthwise else ''}."
        )
    if g.channels > g.groups:
        found.append(
            "Several channels: a filter has a plane of weights for each, and their sums are added up."
        )
    if g.channels_last:
        found.append(
            "Channels last: the picture draws each channel as a plane; the indices are those of the arrays."
        )
    return found


def _steps(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def _cut(pictures: Pictures) -> str:
    """Said where not all of the layer is drawn."""
    if pictures.window.whole:
        return ""
    g, w = pictures.g, pictures.window
    parts = [
        f"{drawn_} of {all_} {name}"
        for drawn_, all_, name in (
            (1, g.batch, "images"),
            (w.groups * w.channels, g.channels, "channels"),
            (w.groups * w.filters, g.filters, "filters"),
            (prod(w.outputs), g.pixels, "output cells a filter"),
            (prod(w.taps), prod(g.kernel), "taps a channel"),
        )
        if drawn_ < all_
    ]
    what = f" ({', '.join(parts)})" if parts else ""
    return (
        f"<p><strong>The layer is larger than what is drawn</strong>: the first cells of every array{what}. "
        "Their numbers are those of the whole layer; what cells add that are not drawn is named in the "
        "sums.</p>"
    )


def conv_head(pictures: Pictures) -> str:
    """The first lines of a convolution's page: what the arrays are, and how large."""
    g = pictures.g
    rows = "".join(
        f"<tr><td>{name}</td><td>{letter}</td><td><code>{size}</code></td></tr>"
        for name, letter, size in (
            ("input, and its gradient", "X, dX", g.input_size),
            ("filters, and their gradient", "W, dW", g.weight_size),
            ("output, and its gradient (the error)", "Y, dY", g.output_size),
        )
    )
    about = "".join(f"<li>{text}</li>" for text in _what_steps_do(g))
    return (
        f"<table>{rows}</table><p>Cells of the output along each axis: "
        f"{'; '.join(f'<code>{line}</code>' for line in _formula(g))}.</p>"
        f"{f'<ul>{about}</ul>' if about else ''}{_cut(pictures)}{HINT}"
    )


def conv_page(pictures: Pictures, title: str) -> str:
    """The page of a convolution."""
    g, w, some = pictures.g, pictures.window, pictures.some
    each, taps, pixels = g.filters // g.groups, g.taps, g.pixels
    every = " of every image" if g.batch > 1 else ""
    if g.groups > 1:
        every += f"{' and' if every else ''} of each of {g.groups} groups; the first is drawn"
    bias = [number(v) for v in some.numbers.dy.sum((0, 2, 3, 4))[:4]]
    more = ", …" if g.filters > 4 else ""

    def behaviour(
        target: str, result: str, factors: str, names: dict[str, str], start: int
    ) -> dict[str, Any]:
        values = {letter: _numbers(some.values[name]) for letter, name in names.items()}
        return {
            "of": "all", "target": target, "result": result, "factors": list(factors),
            "names": {letter: NAMES[name] for letter, name in names.items()}, "values": values,
            "start": f"{target}{start}",
        }  # fmt: skip

    # All that is drawn may be padding.
    inner = np.argwhere(inside(g, w)) if inside(g, w).any() else np.zeros((1, 3), int)
    # In the middle, and in the matrices where these are cut.
    first = min(_flat(w.outputs, [n // 2 for n in w.outputs]), pictures.columns * 3 // 4)
    cell = _flat(w.cells, [int(n) for n in (inner.min(0) + inner.max(0) + 1) // 2])
    tap = min(_flat(w.taps, [n // 2 for n in w.taps]), pictures.rows - 1)
    sections = [
        Section(
            "forward",
            "Forward: Y = W @ col(X)",
            [
                "Every cell of Y is a sum over one window of the input: each cell times the weight of the "
                "filter at "
                "that place. The filter is not flipped, as in every framework.",
                f"Write each window as a column and each filter as a row, and all the sums are one matrix "
                f"product{every}: "
                f"<code>{shape(each, taps)} @ {shape(taps, pixels)} = {shape(each, pixels)}</code>.",
            ],
            {"forward": "The sliding window", "forward_product": "The same as a matrix product"},
            behaviour("o", "Y", "iw", {"o": "y", "i": "x", "w": "w"}, first),
        ),
        Section(
            "backward_input",
            "Backward to the input: dX = col2im(Wᵀ @ dY)",
            [
                "Where a cell of the input counted in several sums, it gets the error of each of them, "
                "times the weight "
                "by which it counted there. Point at a cell of dX to see every error that reaches it.",
                f"As a product{every}: <code>{shape(taps, each)} @ {shape(each, pixels)} = "
                f"{shape(taps, pixels)}</code>. "
                "Each column is what one error sends to the cells of its window; col2im adds the columns "
                "to where "
                "they came from.",
                "The same sums are a full convolution of the errors, one whose window stands wherever it "
                "touches "
                f"them: the filters are rotated by 180 degrees, and filters and channels change "
                f"places{_becomes(g)}.",
            ],
            {
                "backward_input": "Every error goes back along the weights",
                "backward_input_product": "The same as a matrix product, before col2im",
                "rotation": "The filters, rotated and exchanged",
                "full_convolution": "The gradient of the input as a full convolution",
            },
            behaviour("i", "dX", "ow", {"o": "dy", "i": "dx", "w": "w"}, cell),
        ),
        Section(
            "backward_weight",
            "Backward to the filters: dW = dY @ col(X)ᵀ",
            [
                "A weight counted once in every cell of its filter's output. Its gradient is the sum of "
                "all these errors, "
                "each times the cell of the input that the weight met there.",
                f"As a product, summed over all images{every.replace(' of every image', '')}: "
                f"<code>{shape(each, g.batch * pixels)} @ {shape(g.batch * pixels, taps)} = "
                f"{shape(each, taps)}</code>.",
                f"The gradient of a filter's bias is the sum of its errors: <code>dB = "
                f"[{', '.join(map(str, bias))}{more}]</code>.",
            ],
            {
                "backward_weight": "Every weight meets each window once",
                "backward_weight_product": "The same as a matrix product",
            },
            behaviour("w", "dW", "oi", {"o": "dy", "i": "x", "w": "dw"}, tap),
        ),
    ]
    here = np.broadcast_to(inside(g, w), (w.groups * w.channels, *w.cells)).ravel()
    data = {
        "terms": {"all": some.terms.tolist()},
        "whole": w.whole,
        "taps": pictures.of_group, "pixels": pictures.pixels,
        "firstWeights": w.filters * pictures.of_group, "firstOutputs": w.filters * pictures.pixels,
        "labels": {
            "o": labels(g, pictures.filters, w.outputs, (0, 0, 0)),
            "i": [
                label if there else f"{label}: padding"
                for label, there in zip(
                    labels(g, pictures.channels, w.cells, [-p for p in g.padding]), here, strict=True
                )
            ],
            "w": weight_labels(pictures),
        },
    }  # fmt: skip
    return _page(title, conv_head(pictures), sections, pictures.panels(), data)


def _flat(extents: Sequence[int], place: Sequence[int]) -> int:
    """The running number of a cell."""
    return int(np.ravel_multi_index(tuple(place), tuple(extents)))


def _becomes(g: Geometry) -> str:
    """How the shape of the filters changes, where it does."""
    planes = g.channels // g.groups, g.filters // g.groups
    kernel = g.kernel[-g.ndim :]
    size = (planes[0], *kernel, planes[1]) if g.channels_last else (*planes, *kernel)
    if size == g.weight_size:
        return ""
    each = " in each group" if g.groups > 1 else ""
    return f", so that <code>{g.weight_size}</code> becomes <code>{size}</code>{each}"


def weight_labels(pictures: Pictures) -> list[str]:
    """The indices of drawn weights in the user's array."""
    w = pictures.window
    found = []
    for f in pictures.filters:
        for label in labels(pictures.g, np.arange(w.channels), w.taps, (0, 0, 0), image=False):
            found.append(f"{f}, {label}")
    return found


# Max-pooling


def pool_page(pictures: PoolPictures, title: str) -> str:
    """The page of a max-pooling."""
    n, w = pictures.numbers, pictures.window
    terms = pictures.terms

    def places(extents: Sequence[int], first: Sequence[int]) -> list[str]:
        return [
            ", ".join(
                str(k) for k in (0, c, *[a + b for a, b in zip(place, first, strict=True)][3 - n.ndim :])
            )
            for c in range(w.channels)
            for place in np.ndindex(*extents)
        ]

    def behaviour(target: str, of: str, names: dict[str, str], factors: str, **more: Any) -> dict[str, Any]:
        values = {letter: _numbers(pictures.values[name]) for letter, name in names.items()}
        # A cell with as much to see as there is: a window with ties, or a cell that many errors reach.
        column = 0 if target == "o" else 1
        seen = terms[terms[:, 2] == (1 if target == "o" else 2), column]
        start = int(np.bincount(seen).argmax()) if seen.size else 0
        return {
            "of": of, "target": target, "result": "Y" if target == "o" else "dX", "factors": list(factors),
            "names": {letter: NAMES[name] for letter, name in names.items()}, "values": values, "pool": True,
            "start": f"{target}{start}", **more,
        }  # fmt: skip

    sections = [
        Section(
            "forward",
            "Forward: the largest of each window",
            [
                "Every cell of Y is the largest of one window of the input. Cells that equal it are marked "
                "by a dashed "
                "frame where they are not the first of the window, row by row."
            ],
            {"forward": "The windows and their maxima"},
            behaviour("o", "all", {"o": "y", "i": "x"}, "i", join="max"),
        ),
        Section(
            "backward",
            "Backward: each error goes to the first maximum",
            [
                "The maximum is the only cell that the output depends on, so it gets the whole error, and "
                "the others get "
                "nothing. Where windows overlap, a cell may be the maximum of several and gets the sum of "
                "their errors. "
                "Of equal cells the first one is the maximum, as in PyTorch."
            ],
            {"backward": "Errors, routed by the indices of the maxima"},
            behaviour("i", "first", {"o": "dy", "i": "dx"}, "o"),
        ),
        Section(
            "ties",
            "Backward to all ties",
            [
                "Many programs in NumPy write the mask as <code>x == x.max()</code>; then every cell that "
                "equals its window's maximum gets the whole error. "
                f"<code>max_pool{n.ndim}d_backward_ties</code> does that."
            ],
            {"ties": "Errors, to every cell that equals a maximum"},
            behaviour("i", "ties", {"o": "dy", "i": "dx_ties"}, "o"),
        ),
    ]
    data = {
        "terms": {
            "all": terms.tolist(),
            "first": terms[terms[:, 2] == 2].tolist(),
            "ties": [[o, i, 2] for o, i, kind in terms.tolist() if kind],
        },
        "whole": w.whole,
        "taps": 1, "pixels": 1, "firstWeights": 0, "firstOutputs": 0,
        "labels": {
            "o": places(w.outputs, (0, 0, 0)),
            "i": places(w.cells, [-p for p in n.padding]),
        },
    }  # fmt: skip
    cut = "" if w.whole else "<p><strong>Only the first channels and cells are drawn.</strong></p>"
    return _page(title, cut + HINT, sections, pictures.panels(), data)
