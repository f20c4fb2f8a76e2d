"""Arithmetic at its edges, in every algorithm: what is not finite, signs of zero, denormals, long sums."""

import ctypes
import dataclasses
import functools
import platform
import sys

import numpy as np
import pytest
from helpers import from_layout, to_layout
from hypothesis import given
from hypothesis import strategies as st
from oracles import ref_conv, ref_conv_backward_input, ref_conv_backward_weight
from strategies import ConvProblem, conv_problems, examples, wide_problems
from test_algorithms import NAMES, SERVED, plan_of, run

import fastconv
from fastconv import buffers

STRANGE = (np.inf, -np.inf, np.nan)


def padded(p):
    """The image with its padding as cells, zeros that are multiplied, and the steps that go with it."""
    stride, pairs, dilation, groups = p.resolved
    nothing = tuple((0, 0) for _ in pairs)
    return np.pad(p.x, ((0, 0), (0, 0), *pairs)), pairs, (stride, nothing, dilation, groups)


def reference(p, which):
    """One pass by plain loops over the padded image."""
    x, pairs, steps = padded(p)
    dx = one_pass(p, which, x, steps)
    if which != "backward_input":
        return dx
    inside = tuple(slice(before, n - after) for (before, after), n in zip(pairs, dx.shape[2:], strict=True))
    return dx[(slice(None), slice(None), *inside)]


def one_pass(p, which, x, steps):
    with np.errstate(invalid="ignore", over="ignore"):
        if which == "forward":
            return ref_conv(x, p.w, *steps)
        if which == "backward_weight":
            return ref_conv_backward_weight(p.dy, x, p.w.shape[2:], *steps)
        return ref_conv_backward_input(p.dy, p.w, x.shape[2:], *steps)


def computed(p, plan, which):
    arrays = [p.dressed(to_layout(a, p.layout)) for a in (p.x, p.w, p.dy)]
    return from_layout(run(plan, which, *arrays), p.layout)


def sprinkled(p, rng, share):
    """The problem with some of its cells not finite."""

    def spoil(array):
        spoiled = array.copy()
        chosen = rng.random(array.shape) < share
        spoiled[chosen] = rng.choice(STRANGE, int(chosen.sum()))
        return spoiled

    return dataclasses.replace(p, x=spoil(p.x), w=spoil(p.w), dy=spoil(p.dy))


def check_sprinkled(name, p, seed, share):
    p = sprinkled(p, np.random.default_rng(seed), share)
    plan = plan_of(p, name)
    for which in plan.algorithms:
        # Whole numbers: what is finite is exact. What is not may or may not meet the zeros of the padding.
        got, expected = computed(p, plan, which), reference(p, which).astype(p.x.dtype)
        unpadded = one_pass(p, which, p.x, p.resolved).astype(p.x.dtype)
        same = (got == unpadded) | (np.isnan(got) & np.isnan(unpadded))
        np.testing.assert_array_equal(got[~same], expected[~same])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_travels_as_in_the_loops(name):
    @given(conv_problems(), st.integers(0, 2**32 - 1), st.sampled_from((0.02, 0.2)))
    @examples(60)
    def small(p, seed, share):
        check_sprinkled(name, p, seed, share)

    @given(wide_problems(**SERVED.get(name, {})), st.integers(0, 2**32 - 1))
    @examples(15)
    def wide(p, seed):
        check_sprinkled(name, p, seed, 0.001)

    small()
    wide()


def problem(name, layout, x, w):
    """A convolution that the algorithm serves, at stride 1, of planes that keep their size."""
    kernel = SERVED.get(name, {}).get("kernels", ((3, 3),))[0]
    w = np.broadcast_to(w[..., np.newaxis, np.newaxis], (*w.shape, *kernel)).copy()
    dy = np.ones((x.shape[0], w.shape[0], *x.shape[2:]), x.dtype)
    return ConvProblem(2, layout, x, w, None, dy, 1, tuple(k // 2 for k in kernel), 1, 1, "copy")


LAYOUTS = pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@FLOATS
@LAYOUTS
@pytest.mark.parametrize("name", NAMES)
def test_denormals_are_not_flushed(name, layout, dtype):
    """Sums of 16 times the smallest number there is are exact, halved and quartered (winograd) too."""
    tiny = 16 * np.finfo(dtype).smallest_subnormal
    rng = np.random.default_rng(0)
    x, dy = (rng.integers(-8, 9, (2, channels, 6, 7)).astype(dtype) for channels in (3, 4))
    p = problem(name, layout, x, np.ones((4, 3), dtype))
    p.w[...] = rng.integers(-8, 9, p.w.shape)
    p.dy = dy
    plan = plan_of(p, name)
    for which in plan.algorithms:
        # The smallest numbers are in what is convolved, then in the filters.
        for shrunk in ("x", "dy") if which == "backward_weight" else ("x", "w", "dy"):
            one = dataclasses.replace(p, **{shrunk: getattr(p, shrunk) * tiny})
            got, expected = computed(one, plan, which), reference(p, which)
            if (
                shrunk
                in {"forward": "xw", "backward_input": ("dy", "w"), "backward_weight": ("x", "dy")}[which]
            ):
                assert 0 < np.abs(got).max() < np.finfo(dtype).smallest_normal
                expected = expected * np.float64(tiny)
            np.testing.assert_array_equal(got, expected.astype(dtype))


@FLOATS
@LAYOUTS
@pytest.mark.parametrize("signs", [(-0.0, 1.0), (0.0, -1.0), (-0.0, -1.0)])
@pytest.mark.parametrize("name", NAMES)
def test_a_sum_of_zeros_of_any_sign_is_zero(name, signs, layout, dtype):
    """Loops that begin with 0 and add -0 end with 0; so does every algorithm."""
    zero, one = signs
    p = problem(name, layout, np.full((2, 16, 9, 9), zero, dtype), np.full((32, 16), one, dtype))
    p.dy[...] = zero
    plan = plan_of(p, name)
    for which in plan.algorithms:
        got = computed(p, plan, which)
        assert not got.any()
        assert not np.signbit(got).any(), which


@pytest.fixture
def denormal_memory(monkeypatch):
    """Scratch and results that begin with denormal numbers, as memory may."""

    def filled(make):
        def made(*arguments):
            array = make(*arguments)
            array.reshape(-1).view(f"u{array.itemsize}")[...] = 77777
            return array

        return made

    for name in ("aligned", "new_result"):
        original = getattr(buffers, name)
        for module in list(sys.modules.values()):
            if module.__name__.startswith("fastconv.") and getattr(module, name, None) is original:
                monkeypatch.setattr(module, name, filled(original))


def denormals_met(call):
    """Whether a call has computed with a denormal number: the processor's sticky flag, in this thread."""
    libm = ctypes.CDLL("libm.so.6")
    environment = (ctypes.c_uint32 * 8)()  # the C library's fenv_t, MXCSR last
    libm.fegetenv(environment)
    environment[7] &= ~0x3F
    libm.fesetenv(environment)
    call()
    libm.fegetenv(environment)
    return bool(environment[7] & 2)


@FLOATS
@LAYOUTS
@pytest.mark.parametrize("name", [*NAMES, "auto"])
@pytest.mark.skipif(
    (sys.platform, platform.machine(), platform.libc_ver()[0]) != ("linux", "x86_64", "glibc"),
    reason="reads the flags of x86 processors",
)
def test_nothing_that_memory_held_before_is_multiplied(denormal_memory, name, layout, dtype):
    """Not even in lanes that are thrown away: a denormal number there takes a hundred times as long."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.uniform(1, 2, shape).astype(dtype)

    own = problem(name, layout, normal(2, 32, 5, 7), normal(40, 32))
    strided = ConvProblem(2, layout, normal(3, 3, 9, 8), normal(20, 3, 3, 3), None, None, 2, 0, 1, 1, "copy")
    grouped = ConvProblem(2, layout, normal(1, 32, 7, 9), normal(32, 8, 3, 3), None, None, 1, 1, 1, 4, "copy")
    one = ConvProblem(2, layout, normal(3, 40, 7, 7), normal(72, 40, 1, 1), None, None, 1, 0, 1, 1, "copy")
    assert denormals_met(lambda: normal(1) * np.finfo(dtype).smallest_subnormal)
    with fastconv.num_threads(1):
        for p in (own, strided, grouped, one):
            try:
                plan = plan_of(p, name)
            except ValueError:
                continue
            p = dataclasses.replace(p, dy=normal(*from_layout(np.empty(plan.output_size), layout).shape))
            for which in plan.algorithms:
                call = functools.partial(computed, p, plan, which)
                call()  # compiles, which may meet some
                assert not denormals_met(call), which


# Long sums: channels of a forward pass, filters of backward-input, pixels of backward-weight.
LONG = {
    "channels": ((1, 4096, 9, 9), (32, 4096), ("forward",)),
    "filters": ((1, 32, 9, 9), (4096, 32), ("backward_input",)),
    "pixels": ((2, 8, 400, 410), (16, 8), ("backward_weight",)),
}
# What adds all taps of a cell up in one chain; "auto" takes it where channels are few.
IN_ONE_CHAIN = ("indirect/planes", "depthwise")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", LONG)
@pytest.mark.parametrize("name", [*NAMES, "auto"])
def test_the_error_of_long_sums_is_bounded(name, case, layout):
    """In float32, of numbers between 0 and 1, which only add up: within 2e-6 of the sum in float64.

    One running sum of n terms is off by up to n/2 * 6e-8 of itself, typically some sqrt(n) * 3e-8: 6e-6 over
    the 37,000 terms here and 1.7e-5 over the 330,000; sums in pieces stay near rounding.
    """
    x_shape, w_shape, passes = LONG[case]
    rng = np.random.default_rng(0)
    p = problem(name, layout, rng.random(x_shape, np.float32), np.empty(w_shape, np.float32))
    p.w, p.dy = rng.random(p.w.shape, np.float32), rng.random(p.dy.shape, np.float32)
    wide = dataclasses.replace(p, **{name: getattr(p, name).astype(np.float64) for name in ("x", "w", "dy")})
    plan, exact = plan_of(p, name), plan_of(wide, "im2col")
    bound = 2e-5 if name in IN_ONE_CHAIN and "backward_weight" not in passes else 2e-6
    for which in set(passes) & set(plan.algorithms):
        np.testing.assert_allclose(computed(p, plan, which), computed(wide, exact, which), rtol=bound)
