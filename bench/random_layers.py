"""Layers drawn at random, and the suites' own, as lines of text: what `calibrate` times.

A line has the layout, dtype, sizes of the input and the weight, strides, padding before, dilations, groups
and the suite, then for each pass the microseconds of every algorithm that serves it:

    NCHW float32 8x64x56x56 64x64x3x3 1x1 1x1 1x1 1 - | indirect/lines 911 gemm/filters 840.2 | ... | ...
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from fastconv.arguments import float_dtype
from fastconv.bench.cases import load_suite
from fastconv.engine.algorithm import PASSES, Algorithm, Pass
from fastconv.geometry import LAYOUTS, Geometry, conv_geometry

SUITES = ("resnet50", "vgg16", "alexnet", "seeds", "irregular", "mobilenet_v1_depthwise")
# Suites that are timed in doubles, too.
DOUBLES = ("resnet50", "seeds")
# Multiply-adds of a layer that is drawn, and bytes of each of its arrays.
LEAST, MOST, MOST_BYTES = 2e4, 4e8, 2**26

# Share of layers of very many tiny images.
TINY = 0.08

Size = tuple[int, ...]
Times = dict[Pass, dict[str, float]]


def label(kind: type[Algorithm]) -> str:
    """An algorithm in one word: ``indirect/lines``, or ``indirect/lines,reordered``."""
    return kind.label.replace(" ", "")


@dataclass(frozen=True)
class Layer:
    """A layer, and the microseconds of its passes by algorithm."""

    layout: str
    dtype: str
    input: Size
    weight: Size
    stride: Size
    padding: Size
    dilation: Size
    groups: int
    suite: str = "-"
    times: Times = field(default_factory=dict, compare=False)

    @property
    def geometry(self) -> Geometry:
        """Its sizes, checked."""
        return conv_geometry(
            len(self.stride),
            self.input,
            self.weight,
            self.stride,
            tuple((before, before) for before in self.padding),
            self.dilation,
            self.groups,
            float_dtype("dtype", self.dtype),
            self.layout[1] != "C",
        )

    def __str__(self) -> str:
        sizes = self.input, self.weight, self.stride, self.padding, self.dilation
        words = [
            self.layout,
            self.dtype,
            *("x".join(map(str, n)) for n in sizes),
            str(self.groups),
            self.suite,
        ]
        times = (
            " ".join(f"{name} {taken:.3g}" for name, taken in self.times.get(which, {}).items())
            for which in PASSES
        )
        return " | ".join((" ".join(words), *times))


def read(line: str) -> Layer:
    """The layer of a line."""
    words, *passes = line.split("|")
    layout, dtype, *sizes, groups, suite = words.split()
    times: Times = {}
    for which, some in zip(PASSES, passes, strict=False):
        names = some.split()
        times[which] = {name: float(taken) for name, taken in zip(names[::2], names[1::2], strict=True)}
    one, two, three, four, five = (tuple(map(int, size.split("x"))) for size in sizes)
    return Layer(layout, dtype, one, two, three, four, five, int(groups), suite, times)


def log_uniform(rng: random.Random, least: float, most: float) -> int:
    """A whole number whose logarithm is uniform."""
    return round(math.exp(rng.uniform(math.log(least), math.log(most))))


def some_channels(rng: random.Random, groups: int) -> int:
    """Channels of all groups; of a group mostly a multiple of 8 where they are many."""
    each = log_uniform(rng, 1, min(512, max(1, 1024 // groups)))
    if each > 8 and rng.random() < 0.7:
        each = round(each / 8) * 8
    return each * groups


def some_taps(rng: random.Random, ndim: int) -> list[int]:
    """Extents of a kernel, 1 to 63."""
    if rng.random() < 0.2:
        return [1] * ndim
    if ndim == 1:
        return [rng.choice((2, 3, 3, 3, 5, 7, 9, 15, 31, 63))]
    if ndim == 3:
        return list(rng.choice(((3, 3, 3), (3, 3, 3), (2, 2, 2), (3, 1, 1), (1, 3, 3), (5, 5, 5), (4, 4, 4))))
    if rng.random() < 0.15:
        return [rng.choice((1, 2, 3, 5, 7, 9)), rng.choice((1, 2, 3, 5, 7, 9, 21))]
    return [rng.choice((2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 7, 7, 11, 15, 31))] * 2


def any_layer(rng: random.Random) -> tuple[list[int], list[int], int, int, int, int, int, int]:
    """Kernel, extents, dilation, stride, batch, channels, filters and groups of all kinds of layers."""
    ndim = rng.choice((1, 2, 2, 2, 3))
    kernel = some_taps(rng, ndim)
    extent = [log_uniform(rng, *((16, 20000), (3, 224), (3, 48))[ndim - 1])] * ndim
    if rng.random() < 0.2:
        extent = [max(1, round(n * rng.uniform(0.3, 1))) for n in extent]
    dilation = rng.choice((1, 1, 1, 1, 1, 2, 2, 3, 4)) if max(kernel) > 1 else 1
    stride = rng.choice((1, 1, 1, 1, 2, 2, 2, 3, 4))
    batch = rng.choice((1, 1, 1, 2, 4, 8, 8, 16, 32, 64, 256, 4096))
    if rng.random() < TINY:
        batch, extent = rng.choice((256, 1024, 4096)), [rng.randint(1, 6)] * ndim
        kernel = [min(n, m) for n, m in zip(kernel, extent, strict=True)]
    kind = rng.random()
    if kind < 0.2:  # depthwise
        groups = log_uniform(rng, 2, 1024)
        return kernel, extent, dilation, stride, batch, groups, groups * rng.choice((1, 1, 1, 1, 2)), groups
    groups = rng.choice((2, 3, 4, 8, 16, 32, 64)) if kind < 0.42 else 1
    channels, filters = some_channels(rng, groups), some_channels(rng, groups)
    return kernel, extent, dilation, stride, batch, channels, filters, groups


def of_a_network(rng: random.Random) -> tuple[list[int], list[int], int, int, int, int, int, int]:
    """As `any_layer`, of layers as networks have them: many channels on small planes."""
    size = rng.choice((1, 3, 3, 3, 3, 5, 7))
    extent = rng.choice((7, 8, 14, 16, 28, 32, 56, 64, 112))
    channels, filters = (rng.choice((3, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024)) for _ in range(2))
    dilation = rng.choice((1, 1, 1, 1, 2)) if size > 1 else 1
    stride, batch, groups = rng.choice((1, 1, 1, 2)), rng.choice((1, 1, 2, 4, 8, 16, 32)), 1
    if size > 1 and rng.random() < 0.25:  # depthwise
        dilation, filters, groups = 1, channels, channels
    return [size] * 2, [extent] * 2, dilation, stride, batch, channels, filters, groups


def drawn(rng: random.Random) -> Layer:
    """A layer of either kind."""
    while True:
        kinds = of_a_network if rng.random() < 0.3 else any_layer
        kernel, extent, dilation, stride, batch, channels, filters, groups = kinds(rng)
        padding = [dilation * (n // 2) if rng.random() < 0.9 else 0 for n in kernel]
        last, dtype = rng.random() < 0.5, rng.choice(("float32", "float32", "float64"))
        if any(n + 2 * p <= dilation * (k - 1) for n, p, k in zip(extent, padding, kernel, strict=True)):
            continue
        ndim = len(kernel)
        layer = Layer(
            LAYOUTS[ndim][last],
            dtype,
            (batch, *extent, channels) if last else (batch, channels, *extent),
            (filters, *kernel, channels // groups) if last else (filters, channels // groups, *kernel),
            (stride,) * ndim,
            tuple(padding),
            (dilation,) * ndim,
            groups,
        )
        g = layer.geometry
        most = max(map(math.prod, (g.input_size, g.output_size, g.weight_size))) * g.dtype.itemsize
        if LEAST < g.multiplications < MOST and most < MOST_BYTES:
            return layer


def of_suites() -> Iterator[Layer]:
    """The layers of the suites, in both layouts."""
    for suite, layout, dtype in itertools.product(SUITES, LAYOUTS[2], ("float32", "float64")):
        if dtype == "float64" and suite not in DOUBLES:
            continue
        for case in load_suite(suite):
            first = (case.n, case.c, case.h, case.w), (case.k, case.c // case.groups, case.r, case.s)
            sizes = first if layout == "NCHW" else tuple((a, c, d, b) for a, b, c, d in first)
            steps = ((n,) * 2 for n in (case.stride, case.pad, case.dilation))
            yield Layer(layout, dtype, *sizes, *steps, case.groups, suite)
