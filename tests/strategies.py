"""Hypothesis strategies that draw whole, valid problems of small size with whole-number data."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from helpers import DISGUISES, FIRST, LAST, integers
from hypothesis import settings
from hypothesis import strategies as st
from oracles import output_extents, resolve_padding, transpose_geometry

# How many times the usual number of examples to draw.
SEARCH = int(os.environ.get("FASTCONV_SEARCH", "1"))

DTYPES = (np.float32, np.float64, np.float16)


def examples(count):
    """`hypothesis.settings` for so many examples, more in a search."""
    return settings(max_examples=count * SEARCH)


@dataclass
class ConvProblem:
    """One convolution: arrays channels-first, arguments as the caller writes them."""

    ndim: int
    layout: str
    x: np.ndarray
    w: np.ndarray
    bias: np.ndarray | None
    dy: np.ndarray
    stride: Any
    padding: Any
    dilation: Any
    groups: int
    disguise: str

    @property
    def arguments(self):
        """The keyword arguments of the public call."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "layout": self.layout,
        }

    @property
    def resolved(self):
        """`(stride, pairs, dilation, groups)` as the oracles take them."""
        kernel = self.w.shape[2:]
        stride, dilation = spread(self.stride, self.ndim), spread(self.dilation, self.ndim)
        pairs = resolve_padding(self.padding, self.x.shape[2:], kernel, stride, dilation)
        return stride, pairs, dilation, self.groups

    def dressed(self, array):
        """The array in this problem's memory layout."""
        return DISGUISES[self.disguise](array)


def spread(value, ndim):
    """An int for every axis."""
    return (value,) * ndim if isinstance(value, int) else tuple(value)


def per_axis(draw, ndim, low, high):
    """An int, or one int an axis."""
    number = st.integers(low, high)
    return draw(st.one_of(number, st.tuples(*[number] * ndim)))


def draw_padding(draw, ndim, high=2, names=("valid", "same", "full")):
    """Every accepted form of a padding."""
    number = st.integers(0, high)
    forms = [number, *(st.tuples(*[number] * count) for count in (ndim, 2 * ndim))]
    forms.append(st.tuples(*[st.tuples(number, number)] * ndim))
    return draw(st.one_of(*forms, *([st.sampled_from(names)] if names else [])))


def draw_extents(draw, kernel, padding, dilation):
    """Input extents with which every output has at least one cell."""
    room = 3 if len(kernel) == 3 else 6
    least = [1] * len(kernel)
    if padding not in ("same", "full"):
        pairs = resolve_padding(padding, least, kernel, (1,) * len(kernel), dilation)
        least = [max(1, d * (k - 1) + 1 - sum(p)) for k, d, p in zip(kernel, dilation, pairs, strict=True)]
    return tuple(draw(st.integers(e, e + room)) for e in least)


def draw_common(draw):
    """What convolution and its transpose share."""
    ndim = draw(st.sampled_from((1, 2, 2, 3)))
    kernel = tuple(draw(st.integers(1, 2 if ndim == 3 else 4)) for _ in range(ndim))
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    return {
        "ndim": ndim,
        "kernel": kernel,
        "groups": groups,
        "stride": per_axis(draw, ndim, 1, 3),
        "dilation": per_axis(draw, ndim, 1, 3),
        "channels": groups * draw(st.integers(1, 3)),
        "filters": groups * draw(st.integers(1, 3)),
        "batch": draw(st.integers(0, 3)),
        "layout": draw(st.sampled_from((FIRST[ndim], LAST[ndim]))),
        "dtype": draw(st.sampled_from(DTYPES)),
        "rng": np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        "disguise": draw(st.sampled_from(sorted(DISGUISES))),
        "biased": draw(st.booleans()),
    }


@st.composite
def conv_problems(draw):
    """A convolution in one to three dimensions."""
    p = draw_common(draw)
    padding = draw_padding(draw, p["ndim"])
    stride, dilation = spread(p["stride"], p["ndim"]), spread(p["dilation"], p["ndim"])
    extents = draw_extents(draw, p["kernel"], padding, dilation)
    pairs = resolve_padding(padding, extents, p["kernel"], stride, dilation)
    outputs = output_extents(extents, p["kernel"], stride, pairs, dilation)
    rng, dtype = p["rng"], p["dtype"]
    return ConvProblem(
        ndim=p["ndim"],
        layout=p["layout"],
        x=integers(rng, (p["batch"], p["channels"], *extents), dtype),
        w=integers(rng, (p["filters"], p["channels"] // p["groups"], *p["kernel"]), dtype),
        bias=integers(rng, p["filters"], dtype) if p["biased"] else None,
        dy=integers(rng, (p["batch"], p["filters"], *outputs), dtype),
        stride=p["stride"],
        padding=padding,
        dilation=p["dilation"],
        groups=p["groups"],
        disguise=p["disguise"],
    )


@st.composite
def wide_problems(
    draw,
    kernels=((1, 1), (3, 3), (1, 3), (2, 5)),
    steps=((1, 1), (1, 1), (2, 2), (1, 3)),
    dilations=((1, 1), (1, 1), (2, 2), (1, 3)),
    rooms=(12, 40),
    widest=70,
):
    """A convolution whose channels, filters and pixels reach beyond the tiles of the kernels."""
    groups = draw(st.sampled_from((1, 1, 1, 2)))
    kernel = draw(st.sampled_from(kernels))
    stride, dilation = draw(st.sampled_from(steps)), draw(st.sampled_from(dilations))
    ndim = len(kernel)
    padding = draw_padding(draw, ndim, high=3)
    pairs = resolve_padding(padding, (1,) * ndim, kernel, stride, dilation)
    least = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if padding not in ("same", "full"):
        least = [max(1, e - sum(p)) for e, p in zip(least, pairs, strict=True)]
    extents = tuple(e + draw(st.integers(0, room)) for e, room in zip(least, rooms, strict=True))
    pairs = resolve_padding(padding, extents, kernel, stride, dilation)
    outputs = output_extents(extents, kernel, stride, pairs, dilation)
    batch, channels, filters = (draw(st.integers(1, most)) for most in (3, widest, widest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(DTYPES[:2]))
    return ConvProblem(
        ndim=ndim,
        layout=draw(st.sampled_from((FIRST[ndim], LAST[ndim]))),
        x=integers(rng, (batch, groups * channels, *extents), dtype),
        w=integers(rng, (groups * filters, channels, *kernel), dtype),
        bias=integers(rng, groups * filters, dtype) if draw(st.booleans()) else None,
        dy=integers(rng, (batch, groups * filters, *outputs), dtype),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        disguise=draw(st.sampled_from(sorted(DISGUISES))),
    )


@dataclass
class TransposeProblem(ConvProblem):
    """One transposed convolution; `w` is `(C, K/G, *kernel)`."""

    output_padding: Any = 0

    @property
    def arguments(self):
        return {**super().arguments, "output_padding": self.output_padding}

    @property
    def resolved(self):
        """`(stride, padding as given, output_padding, dilation, groups)` as the oracles take them."""
        stride, dilation, extra = (
            spread(v, self.ndim) for v in (self.stride, self.dilation, self.output_padding)
        )
        return stride, self.padding, extra, dilation, self.groups


def draw_output_padding(draw, p, padding):
    """Extra output cells: fewer than the stride or the dilation, none beside "same"."""
    if padding == "same":
        return 0
    stride, dilation = spread(p["stride"], p["ndim"]), spread(p["dilation"], p["ndim"])
    return tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))


@st.composite
def transpose_problems(draw):
    """A transposed convolution in one to three dimensions."""
    p = draw_common(draw)
    padding = draw_padding(draw, p["ndim"])
    extra = draw_output_padding(draw, p, padding)
    stride, dilation = spread(p["stride"], p["ndim"]), spread(p["dilation"], p["ndim"])
    room = 2 if p["ndim"] == 3 else 4
    extents = tuple(draw(st.integers(1, room)) for _ in range(p["ndim"]))
    while True:  # widen until every output has a cell
        _, outputs = transpose_geometry(
            extents, p["kernel"], stride, padding, spread(extra, p["ndim"]), dilation
        )
        if min(outputs) >= 1:
            break
        extents = tuple(e + (o < 1) for e, o in zip(extents, outputs, strict=True))
    rng, dtype = p["rng"], p["dtype"]
    return TransposeProblem(
        ndim=p["ndim"],
        layout=p["layout"],
        x=integers(rng, (p["batch"], p["channels"], *extents), dtype),
        w=integers(rng, (p["channels"], p["filters"] // p["groups"], *p["kernel"]), dtype),
        bias=integers(rng, p["filters"], dtype) if p["biased"] else None,
        dy=integers(rng, (p["batch"], p["filters"], *outputs), dtype),
        stride=p["stride"],
        padding=padding,
        dilation=p["dilation"],
        groups=p["groups"],
        disguise=p["disguise"],
        output_padding=extra,
    )


@dataclass
class PoolProblem:
    """One pooling; `pairs`, `kernel`, `stride` and `dilation` are resolved beside the arguments as given."""

    ndim: int
    layout: str
    x: np.ndarray
    kernel_size: Any
    stride: Any
    padding: Any
    dilation: Any
    ceil_mode: bool
    disguise: str
    seed: int

    @property
    def resolved(self):
        """`(kernel, stride, pairs, dilation)` as the oracles take them."""
        kernel = spread(self.kernel_size, self.ndim)
        stride = kernel if self.stride is None else spread(self.stride, self.ndim)
        dilation = spread(self.dilation, self.ndim)
        pairs = resolve_padding(self.padding, self.x.shape[2:], kernel, stride, dilation)
        return kernel, stride, pairs, dilation

    def dressed(self, array):
        return DISGUISES[self.disguise](array)


def draw_pool_padding(draw, kernel):
    """Pairs of at most half the kernel, also in a row, one int of at most half the smallest, or a name."""
    pairs = st.tuples(*[st.tuples(st.integers(0, k // 2), st.integers(0, k // 2)) for k in kernel])
    row = pairs.map(lambda pairs: sum(pairs, ()))
    ints = st.tuples(*[st.integers(0, k // 2) for k in kernel])
    one, names = st.integers(0, min(kernel) // 2), st.sampled_from(("same", "valid"))
    return draw(st.one_of(one, ints, pairs, row, names))


@st.composite
def pool_problems(draw, dilated=True, dtypes=DTYPES):
    """A pooling in one to three dimensions in which every window holds an input cell."""
    ndim = draw(st.sampled_from((1, 2, 2, 3)))
    kernel_size = per_axis(draw, ndim, 1, 3)
    kernel = spread(kernel_size, ndim)
    dilation = per_axis(draw, ndim, 1, 2) if dilated else 1
    padding = draw_pool_padding(draw, kernel)
    if padding == "same" and dilated:
        dilation = 1  # a dilated "same" can need more than half the kernel
    spans = [d * (k - 1) + 1 for d, k in zip(spread(dilation, ndim), kernel, strict=True)]
    extents = tuple(draw(st.integers(s, s + (2 if ndim == 3 else 5))) for s in spans)
    seed = draw(st.integers(0, 2**32 - 1))
    dtype = draw(st.sampled_from(dtypes))
    low = 0 if np.dtype(dtype).kind == "u" else -3
    shape = (draw(st.integers(0, 2)), draw(st.integers(1, 3)), *extents)
    return PoolProblem(
        ndim=ndim,
        layout=draw(st.sampled_from((FIRST[ndim], LAST[ndim]))),
        x=integers(np.random.default_rng(seed), shape, dtype, low=low),
        kernel_size=kernel_size,
        stride=draw(st.one_of(st.none(), st.just(per_axis(draw, ndim, 1, 3)))),
        padding=padding,
        dilation=dilation,
        ceil_mode=draw(st.booleans()),
        disguise=draw(st.sampled_from(sorted(DISGUISES))),
        seed=seed,
    )
