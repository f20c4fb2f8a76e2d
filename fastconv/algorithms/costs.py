"""What a pass takes in each algorithm, estimated from its sizes.

The rules of `why_slow` were found layer by layer, with others measured beside them; a layer that is like none
of those may be many times slower than it has to be, so `cheaper` looks at an estimate of each algorithm, and
takes another one where that is much less. An estimate is a sum of a few terms, each a count times the
nanoseconds that one takes: steps of vectors with their empty lanes, bytes that are copied, and so on. Its
error is 20 to 40 % (the root of the mean square of its logarithm), of `Im2col`, which is BLAS's, up to 48 %.

The nanoseconds are those of ``bench/costs.py``, which draws layers at random, times every algorithm and fits
the terms: 4400 dense layers of 1, 2 and 3 dimensions, 1000 that mostly have groups, and the suites' own;
float32 and float64, both layouts, one core of an AMD EPYC 9004 with vectors of 512 bits. Beside the fastest
algorithm of each, in the geometric mean, `auto` takes (in brackets the share of passes within 10 %, and the
hundredth that is worst):

    layers                  by the rules alone    with the estimates
    drawn, float32          1.18 (67 %, 4.1)      1.05 (85 %, 2.0)
    drawn, float64          1.13 (71 %, 3.3)      1.05 (86 %, 1.8)
    drawn, mostly groups    1.20 (65 %, 4.4)      1.07 (83 %, 2.5)
    of the suites           1.01 (95 %, 1.3)      1.01 (97 %, 1.2)

The same table with vectors of 256 bits, for which it was not fitted: 1.19 and 1.10. Without the rules, by the
estimates alone, it takes 1.04 instead of 1.05.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING

from fastconv.algorithms.jobs import ceil_div
from fastconv.geometry import Geometry
from fastconv.kernels.vectors import IN_HALVES, VECTOR_BITS, VECTOR_BYTES

if TYPE_CHECKING:
    from fastconv.algorithms import Algorithm, Pass

# How many times as long as another an algorithm that the rules choose may be estimated to take: where the
# table was fitted, and elsewhere; the second is that of groups.
MARGIN, GROUP_MARGIN = (1.15, 1.15) if IN_HALVES else (1.3, 2.0)
# Multiply-adds of the largest layer that was timed; what is larger is left to the rules.
MEASURED = 2**34
# By how much the estimates of `Im2col`, the least certain, are raised.
CAUTION = 1.3
# Estimates of `Bundles` are too high for the groups that they were made for: 512x7 in 32 groups would be left
# to what takes groups one by one and twice the time; with the channels last, where they have kernels for
# narrow groups, 64x46 in 8 groups to `Lines`, at 44 instead of 67 GF/s. So these are not asked.
GROUP_BY_GROUP = ("direct", "winograd")
# Of a vector's multiply-add beside one of 512 bits in halves: tiles of an AVX-512 Xeon run at 1.75 times the
# speed, since they don't reach as much of its peak; AVX2 and SSE multiply twice a cycle, of full width.
STEP = 1.0 if IN_HALVES else 0.57 if VECTOR_BITS == 512 else 0.5

# Algorithm and pass: nanoseconds of each term.
COSTS: dict[str, dict[str, dict[str, float]]] = {
    "bundles": {
        "forward": {
            "call": 30200, "along_plane": 0.11, "result": 0.17, "strided": 0.21, "along_lines": 0.18,
            "weights": 0.15, "units": 410,
        },
        "backward_input": {
            "call": 42200, "along_plane": 0.13, "result": 0.15, "along_lines": 0.17, "weights": 0.34,
            "units": 370, "strided": 0.091,
        },
        "backward_weight": {
            "call": 36500, "along_channels": 0.18, "result": 0.18, "along_plane": 0.14, "strided": 0.17,
            "weights": 0.22, "last": 0.04,
        },
    },
    "direct": {
        "forward": {
            "call": 23600, "along_filters": 0.3, "lines": 61.5, "first": 0.084, "spread": 6.06,
            "last": 0.021, "taps": 0.31,
        },
        "backward_input": {
            "call": 39500, "along_filters": 0.31, "lines": 32.8, "first": 0.083, "spread": 3.44,
            "result": 0.032, "taps": 0.45,
        },
        "backward_weight": {
            "call": 31800, "along_filters": 0.32, "lines": 89, "spread": 7.84, "first": 0.037,
            "result": 0.041, "weights": 0.1,
        },
    },
    "grouped": {
        "forward": {"call": 11800, "along_lines": 0.36, "source": 0.039, "weights": 0.5, "first": 0.019},
        "backward_input": {
            "call": 18400, "along_lines": 0.37, "first": 0.023, "weights": 0.69, "apart": 0.23,
            "source": 0.038,
        },
        "backward_weight": {
            "call": 16000, "along_lines": 0.38, "source": 0.058, "thin": 0.054, "weights": 0.54,
            "taps": 0.12,
        },
    },
    "grouped_last": {
        "forward": {"call": 22000, "along_groups": 0.47, "strided": 1.46, "lines": 3.44},
        "backward_input": {"call": 13200, "along_groups": 0.41, "strided": 2.39, "source": 0.056},
        "backward_weight": {"call": 26500, "along_groups": 0.69, "apart": 1.14},
    },
    "im2col": {
        "forward": {
            "call": 23300, "along_filters": 0.002, "once": 7.04, "last": 0.033, "along_plane": 0.37,
            "apart": 0.37, "weights": 0.2,
        },
        "backward_input": {
            "call": 40300, "along_channels": 0.033, "thin": 0.56, "apart": 0.87, "weights": 0.31,
            "exact": 0.36, "columns": 0.061,
        },
        "backward_weight": {
            "call": 46700, "along_filters": 0.1, "thin": 0.4, "along_lines": 0.32, "once": 4.78,
            "last": 0.047, "apart": 0.36,
        },
    },
    "lines": {
        "forward": {
            "call": 5200, "along_lines": 0.34, "last": 0.15, "apart": 0.63, "first": 0.026, "weights": 0.27,
            "units": 116,
        },
        "backward_input": {
            "call": 5080, "along_lines": 0.32, "last": 0.15, "first": 0.029, "weights": 0.27, "units": 74.9,
            "along_filters": 0.011,
        },
        "backward_weight": {
            "call": 3350, "along_lines": 0.39, "last": 0.14, "apart": 0.65, "first": 0.021, "weights": 0.53,
            "units": 116,
        },
    },
    "pointwise": {
        "forward": {
            "call": 10000, "first": 0.035, "apart": 0.25, "along_plane": 0.28, "units": 305,
            "columns": 0.017,
        },
        "backward_input": {
            "call": 18300, "first": 0.041, "along_plane": 0.29, "units": 225, "apart": 0.28, "taps": 0.63,
        },
    },
    "winograd": {
        "forward": {
            "call": 70900, "along_filters": 0.14, "taps": 1.66, "result": 0.21, "source": 0.18,
            "spread": 13.7, "weights": 0.28,
        },
        "backward_input": {
            "call": 66600, "along_filters": 0.15, "taps": 1.52, "result": 0.2, "source": 0.2,
            "spread": 14.5, "weights": 0.28,
        },
        "backward_weight": {
            "call": 71800, "along_filters": 0.15, "taps": 1.69, "result": 0.2, "source": 0.17,
            "spread": 13.6, "weights": 0.34,
        },
    },
}  # fmt: skip


def terms(geometry: Geometry, which: Pass) -> dict[str, float]:
    """How often a pass does what the estimates count.

    Parameters
    ----------
    geometry : Geometry
    which : str
        The pass.

    Returns
    -------
    dict of str to float
        ``call``: 1. ``along_lines``, ``along_plane``, ``along_filters``, ``along_channels``,
        ``along_groups``: multiply-adds of vectors that run along these, the last of which is not full
        (filters of a group are what a pass writes the planes of, channels what it reads; groups are all of
        its filters); ``exact``: of vectors that are all full; ``strided``: those of a layer with a stride;
        ``once``: vectors of pixels that are read for all filters together; ``thin``: elements that a matrix
        product reads of its longer sides. ``source``, ``result``, ``weights``, ``columns``: bytes;
        ``first``, ``last``: bytes of the first two with the channels first, and last. ``units``: groups of
        an image and of a phase of the stride; ``lines`` of these; ``taps``: of each pixel. ``apart``:
        elements that are read, or written, with a stride; ``spread``: cells of one group's channels among
        those of others.
    """
    g = geometry
    itemsize = g.compute_dtype.itemsize
    lanes = VECTOR_BYTES // itemsize
    taps, strides = prod(g.kernel), prod(g.stride)
    inputs, outputs = g.batch * g.channels * prod(g.input), g.batch * g.filters * g.pixels
    filters, channels, source, result = g.filters // g.groups, g.channels // g.groups, inputs, outputs
    exact = outputs * channels * taps
    sides = filters, channels * taps
    phases, products, extent = 1, float(exact), g.output
    if which == "backward_input":
        filters, channels, source, result = channels, filters, result, source
        depth, height, width = map(ceil_div, g.input, g.stride)
        phases, products, extent = strides, inputs * channels * taps / strides, (depth, height, width)
    steps = STEP * products

    def rounded(count: int) -> float:
        return ceil_div(count, lanes) / count

    copied = (source + result) * itemsize
    units = g.batch * g.groups * phases
    return {
        "call": 1,
        "along_lines": steps * rounded(extent[2]),
        "along_plane": steps * rounded(prod(extent)),
        "along_filters": steps * rounded(filters),
        "along_channels": steps * rounded(channels),
        "along_groups": steps * rounded(filters * g.groups),
        "exact": STEP * exact / lanes,
        "thin": STEP * exact / min(sides),
        "once": steps * rounded(extent[2]) / filters,
        "strided": steps / lanes if strides > 1 else 0,
        "source": source * itemsize,
        "result": result * itemsize,
        "weights": g.filters * sides[1] * itemsize,
        "columns": g.batch * g.pixels * g.channels * taps * itemsize,
        "first": 0 if g.channels_last else copied,
        "last": copied if g.channels_last else 0,
        "units": units,
        "lines": units * extent[0] * extent[1],
        "taps": units * prod(extent) * taps,
        "apart": inputs if strides > 1 else 0,
        "spread": units * (prod(g.input) + g.pixels) if g.channels_last and g.groups > 1 else 0,
    }


def costs_of(geometry: Geometry, name: str) -> str:
    """The row of the table of an algorithm: `Grouped` has other kernels with the channels last."""
    return "grouped_last" if name == "grouped" and geometry.channels_last else name


def estimates(geometry: Geometry, which: Pass) -> dict[str, float]:
    """Nanoseconds that a pass takes, for each row of the table.

    There are none for depthwise layers, which were not drawn, and for layers larger than any that was timed.
    """
    g = geometry
    if g.groups == g.channels == g.filters > 1 or not 0 < g.multiplications < MEASURED:
        return {}
    counted = terms(geometry, which)
    found = {
        name: sum(each * counted[term] for term, each in passes[which].items())
        for name, passes in COSTS.items()
        if which in passes
    }
    found["im2col"] *= CAUTION
    return found


def cheaper(
    chosen: type[Algorithm], others: Iterable[type[Algorithm]], geometry: Geometry, which: Pass
) -> type[Algorithm]:
    """An algorithm estimated to take much less than the one that the rules have chosen, or that one."""
    found = estimates(geometry, which)
    own = costs_of(geometry, chosen.name)
    bundled = chosen.name == "bundles" and geometry.groups > 1
    if own not in found or (bundled and geometry.channels_last):
        return chosen
    least = found[own] / (GROUP_MARGIN if geometry.groups > 1 else MARGIN)
    estimated = {
        algorithm: found[row]
        for algorithm in others
        if (row := costs_of(geometry, algorithm.name)) in found and not (bundled and row in GROUP_BY_GROUP)
    }
    faster = sorted((a for a in estimated if estimated[a] < least), key=estimated.__getitem__)
    return next((a for a in faster if a.why_not(geometry, which) is None), chosen)
