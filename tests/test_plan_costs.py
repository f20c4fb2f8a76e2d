"""Plans cost nothing: whatever the arguments, they are made without large tables and hold none."""

import gc
import sys
import tracemalloc

import numpy as np
import pytest
from helpers import FIRST, LAST, from_layout, function, integers, layout_shape, to_layout
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import fastconv
from fastconv.engine import partition
from fastconv.engine.algorithm import PASSES
from fastconv.engine.select import ALGORITHMS
from fastconv.geometry import conv_geometry
from fastconv.plan import ConvPlan

KIB = 2**10
NAMES = ["auto", *(algorithm.label for algorithm in ALGORITHMS)]


def held(plan):
    """Bytes of all that the passes of a plan hold: arrays, and Python's own objects."""
    found, seen, bytes_ = [plan._passes.made], set(), 0
    while found:
        value = found.pop()
        if id(value) in seen or isinstance(value, (type, np.dtype)) or callable(value) or value is None:
            continue
        seen.add(id(value))
        bytes_ += sys.getsizeof(value)
        if isinstance(value, np.ndarray):
            bytes_ += value.nbytes if value.base is not None else 0
        elif isinstance(value, dict):
            found += [*value, *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            found += value
        elif type(value).__module__.startswith("fastconv"):
            names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
            found += [getattr(value, "__dict__", {}), *(getattr(value, name) for name in names)]
    return bytes_


@st.composite
def legal_sizes(draw):
    """Arguments of a layer that need not have room in any memory, and an algorithm's name."""
    ndim = draw(st.sampled_from([1, 1, 2, 2, 3]))
    longest = {1: 16_000, 2: 300, 3: 40}[ndim]

    def each(least, most):
        return tuple(
            draw(st.one_of(st.integers(least, min(4, most)), st.integers(least, most))) for _ in range(ndim)
        )

    kernel, stride, dilation = each(1, longest), each(1, 2**31 - 1), each(1, 2**20)
    padding = each(0, 2**20)
    if draw(st.booleans()):  # more algorithms serve these
        kernel, stride = (
            (draw(st.sampled_from([1, 3, 5])),) * ndim,
            (draw(st.sampled_from([1, 1, 2])),) * ndim,
        )
        dilation = (draw(st.sampled_from([1, 1, 2, 32, 512])),) * ndim
    groups = draw(st.sampled_from([1, 1, 1, 2, 32, 4096]))
    channels, filters = (draw(st.sampled_from([1, 1, 2, 3, 8, 16, 64])) for _ in range(2))
    batch = draw(st.sampled_from([1, 2, 33_000, 10**6]))
    last = draw(st.booleans())
    extents = []
    for k, s, d, p in zip(kernel, stride, dilation, padding, strict=True):
        least = max(1, d * (k - 1) + 1 - 2 * p)
        outputs = draw(st.sampled_from([1, 1, 2, 5, 40, 300]))
        most = 2**50 if ndim == 1 else 2**24 if ndim == 2 else 2**15
        extents.append(max(least, min(most, least + (outputs - 1) * s)))
    sizes = (batch, groups * channels, *extents), (groups * filters, channels, *kernel)
    layout = (LAST if last else FIRST)[ndim]
    sizes = tuple(layout_shape(size, layout) for size in sizes)
    steps = stride, tuple((p, p) for p in padding), dilation, groups
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return ndim, sizes, steps, np.dtype(dtype), last, draw(st.sampled_from(NAMES))


@given(legal_sizes())
@examples(300)
def test_a_plan_of_any_size_is_small(problem):
    """Every pass is made, and all that says how much scratch it needs; nothing is as large as the layer.

    Some numbers are held for each tap while scratch is counted, never a table of pixels, lines or images.
    """
    ndim, sizes, steps, dtype, last, name = problem
    try:
        geometry = conv_geometry(ndim, *sizes, *steps, dtype, last)
    except ValueError:  # more than there are addresses for
        return
    plan = ConvPlan(geometry, name)
    served = plan.algorithms
    gc.collect()
    tracemalloc.start()
    try:
        for which in PASSES:
            if which in served:
                plan._passes.algorithm(which)
        made = tracemalloc.get_traced_memory()[1]
        assert plan.scratch_bytes >= 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made <= 256 * KIB
    assert peak <= 256 * KIB + 150 * sum(geometry.kernel)
    assert held(plan) <= 64 * KIB


def by_taps(x, w, dy, stride, padding, dilation, groups):
    """The three passes by one sum for each tap, channels first."""
    spatial = range(x.ndim - 2)
    padded = np.pad(x, [(0, 0), (0, 0), *((padding[a], padding[a]) for a in spatial)])
    y, dx, dw = np.zeros(dy.shape), np.zeros(padded.shape), np.zeros(w.shape)

    def grouped(array):
        return array.reshape(len(array), groups, -1, *array.shape[2:])

    weights = w.reshape(groups, -1, *w.shape[1:])
    for tap in np.ndindex(w.shape[2:]):
        cells = tuple(
            slice(
                tap[a] * dilation[a], tap[a] * dilation[a] + (dy.shape[2 + a] - 1) * stride[a] + 1, stride[a]
            )
            for a in spatial
        )
        seen, one = grouped(padded[(..., *cells)]), weights[(..., *tap)]
        y += np.einsum("gkc,ngc...->ngk...", one, seen).reshape(y.shape)
        dx[(..., *cells)] += np.einsum("gkc,ngk...->ngc...", one, grouped(dy)).reshape(
            len(x), x.shape[1], *dy.shape[2:]
        )
        product = np.einsum("ngkp,ngcp->gkc", *(a.reshape(*a.shape[:3], -1) for a in (grouped(dy), seen)))
        dw[(..., *tap)] = product.reshape(dw.shape[:2])
    inside = tuple(slice(padding[a], padding[a] + x.shape[2 + a]) for a in spatial)
    return {"forward": y, "backward_input": dx[(..., *inside)], "backward_weight": dw}


# (input, weight), stride, padding, dilation, groups: little work, and large numbers.
HARD = {
    "stride": (((1, 2, 2003, 2003), (3, 2, 3, 3)), (1000, 1000), (1, 1), (1, 1), 1),
    "far stride": (((2, 16, 3, 3), (16, 16, 3, 3)), (2**31 - 1, 2), (2, 2), (1, 1), 1),
    "far stride, depthwise": (
        ((8, 16, 4, 5), (16, 1, 3, 3)),
        (2**31 - 1, 2**31 - 1),
        (0, 0),
        (1, 1),
        16,
    ),
    "far stride, in groups": (
        ((2, 64, 4, 5), (64, 16, 3, 3)),
        (2**31 - 1, 2**31 - 1),
        (1, 1),
        (1, 1),
        4,
    ),
    "far stride, few channels": (((2, 3, 9), (16, 3, 3)), (2**31 - 1,), (0,), (1,), 1),
    "stride and dilation": (((2, 8, 900, 7), (16, 8, 3, 3)), (256, 1), (0, 1), (384, 2), 1),
    "taps": (((1, 2, 16_050), (3, 2, 16_000)), (1,), (0,), (1,), 1),
    "taps of padding": (((1, 1, 900), (1, 1, 3000)), (1,), (1500,), (1,), 1),
    "depthwise taps": (((1, 16, 700), (16, 1, 1500)), (3,), (800,), (1,), 16),
    "taps and stride": (((1, 2, 40_000), (2, 2, 1600)), (1500,), (7,), (1,), 1),
    "images": (((33_000, 1, 2, 2), (2, 1, 2, 2)), (1, 1), (1, 1), (1, 1), 1),
    "images in groups": (((33_000, 4, 2, 2), (4, 1, 2, 2)), (2, 2), (0, 0), (1, 1), 4),
    "dilation": (((1, 16, 40, 1100), (16, 16, 3, 3)), (1, 1), (16, 512), (16, 512), 1),
    "dilated depth": (((1, 16, 70, 4, 4), (16, 16, 3, 3, 3)), (4, 1, 1), (32, 1, 1), (32, 1, 1), 1),
    "depth": (((1, 8, 300, 3, 3), (8, 8, 100, 3, 3)), (50, 1, 1), (60, 1, 1), (1, 1, 1), 1),
    "groups": (((1, 4096, 3, 3), (4096, 1, 3, 3)), (1, 1), (1, 1), (1, 1), 4096),
}


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("case", HARD)
def test_what_is_hard_to_list_is_right(case, last):
    """By every algorithm, first and again; what the plan holds then is small, too."""
    (x_size, w_size), *steps = HARD[case]
    ndim = len(x_size) - 2
    layout = (LAST if last else FIRST)[ndim]
    rng = np.random.default_rng(0)
    x, w = integers(rng, x_size, np.float32), integers(rng, w_size, np.float32)
    geometry = conv_geometry(
        ndim, x_size, w_size, steps[0], tuple((p, p) for p in steps[1]), *steps[2:], x.dtype, False
    )
    dy = integers(rng, geometry.output_size, np.float32)
    expected = by_taps(x, w, dy, *steps)
    sizes = [layout_shape(size, layout) for size in (x_size, w_size)]
    laid_x, laid_w, laid_dy = (to_layout(array, layout) for array in (x, w, dy))
    for name in NAMES:
        plan = function("plan_conv{}", ndim)(*sizes, *steps, layout=layout, algorithm=name)
        calls = {
            "forward": lambda plan=plan: plan(laid_x, laid_w),
            "backward_input": lambda plan=plan: plan.backward_input(laid_dy, laid_w),
            "backward_weight": lambda plan=plan: plan.backward_weight(laid_dy, laid_x),
        }
        for which in plan.algorithms:
            for _ in range(2):
                result = from_layout(calls[which](), layout)
                np.testing.assert_array_equal(result, expected[which].astype(np.float32), f"{name} {which}")
        assert held(plan) <= 64 * KIB, name


def test_plans_of_ordinary_layers_keep_their_tables(monkeypatch):
    """They are made once: from the second call on no pass asks for any."""
    x, w = np.ones((2, 8, 12, 13), np.float32), np.ones((16, 8, 3, 3), np.float32)
    asked = []
    get = partition.Tables.__get__

    def counted(tables, owner, kind):
        asked.append(tables.name)
        return get(tables, owner, kind)

    monkeypatch.setattr(partition.Tables, "__get__", counted)
    for name in ("gemm/filters", "indirect/lines", "winograd", "indirect/planes"):
        plan = fastconv.plan_conv2d(x.shape, w.shape, padding=1, algorithm=name)
        for first in (True, False):
            asked.clear()
            y = plan(x, w)
            plan.backward_input(y, w)
            plan.backward_weight(y, x)
            assert bool(asked) is first, name
