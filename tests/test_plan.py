"""Plans: the same results as the functions, introspection, immutability, bounds."""

import contextlib
import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import LAYOUTS, function, integers, layout_shape, strided, to_layout
from hypothesis import given
from strategies import conv_problems, examples

import fastconv
from fastconv.bench.cases import load_suite, suite_names
from fastconv.kernels.vectors import VECTOR_BYTES

MIB = 2**20
PASSES = {"forward", "backward_input", "backward_weight"}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def plan():
    return fastconv.plan_conv2d((2, 4, 9, 8), (6, 2, 3, 2), (2, 1), 1, 1, 2, dtype="float64")


@given(conv_problems())
@examples(30)
def test_a_plan_equals_the_functions(p):
    x, w, dy = (to_layout(a, p.layout) for a in (p.x, p.w, p.dy))
    plan = function("plan_conv{}", p.ndim)(x.shape, w.shape, **p.arguments, dtype=x.dtype)
    assert plan.output_size == dy.shape
    y = plan(p.dressed(x), p.dressed(w), p.bias)
    expected = function("conv{}", p.ndim)(x, w, p.bias, **p.arguments)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)
    grads = function("conv{}_backward", p.ndim)(dy, x, w, **p.arguments)
    np.testing.assert_array_equal(plan.backward_input(p.dressed(dy), w), grads.input)
    np.testing.assert_array_equal(plan.backward_weight(p.dressed(dy), x), grads.weight)


def test_out(plan, rng):
    x, w, dy = integers(rng, (2, 4, 9, 8)), integers(rng, (6, 2, 3, 2)), integers(rng, plan.output_size)
    out = np.zeros(plan.output_size)
    assert plan(x, w, None, out) is out
    np.testing.assert_array_equal(out, plan(x, w))
    out = np.zeros(x.shape)
    assert plan.backward_input(dy, w, out=out) is out
    np.testing.assert_array_equal(out, plan.backward_input(dy, w))
    out = np.zeros(w.shape)
    assert plan.backward_weight(dy, x, out=out) is out
    np.testing.assert_array_equal(out, plan.backward_weight(dy, x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_results_begin_with_a_vector(dtype):
    plan = fastconv.plan_conv2d((2, 8, 60, 60), (8, 8, 1, 1), dtype=dtype)
    x, w, dy = (np.ones(size, dtype) for size in (plan.input_size, plan.weight_size, plan.output_size))
    for result in (plan(x, w), plan.backward_input(dy, w)):
        assert result.ctypes.data % VECTOR_BYTES == 0
        assert result.flags.c_contiguous
        assert result.flags.writeable


@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
def test_what_a_plan_says(ndim, layout):
    plan = function("plan_conv{}", ndim)(
        layout_shape((2, 4, *(9,) * ndim), layout),
        layout_shape((6, 2, *(3,) * ndim), layout),
        groups=2,
        layout=layout,
    )
    assert plan.output_size == layout_shape((2, 6, *(7,) * ndim), layout)
    assert set(plan.algorithms) == PASSES
    assert all(isinstance(name, str) for name in plan.algorithms.values())
    assert 0 <= plan.scratch_bytes <= 32 * MIB
    assert plan.flops == 2 * 2 * 6 * 7**ndim * 2 * 3**ndim
    text = plan.describe()
    for word in (*map(str, plan.output_size), *plan.algorithms.values()):
        assert word in text
    assert isinstance(repr(plan), str)


def test_the_named_algorithm_is_used(rng):
    plan = fastconv.plan_conv2d((1, 2, 5, 5), (3, 2, 3, 3), algorithm="im2col", dtype="float64")
    assert set(plan.algorithms.values()) == {"im2col"}
    x, w = integers(rng, (1, 2, 5, 5)), integers(rng, (3, 2, 3, 3))
    np.testing.assert_array_equal(plan(x, w), fastconv.conv2d(x, w))


@pytest.mark.parametrize(
    "name", ["output_size", "algorithms", "scratch_bytes", "flops", "input_size", "something_new"]
)
def test_a_plan_is_immutable(plan, name):
    with pytest.raises((AttributeError, TypeError)):
        setattr(plan, name, 1)


def test_its_dictionary_is_not_the_plan(plan):
    before = dict(plan.algorithms)
    with contextlib.suppress(TypeError):
        plan.algorithms["forward"] = "nonsense"
    assert dict(plan.algorithms) == before


HUGE = {
    "full image": ((1, 64, 512, 512), (64, 64, 512, 512), {}),
    "full image with padding": ((1, 64, 512, 512), (64, 64, 512, 512), {"padding": "full"}),
    "many channels": ((1, 8192, 64, 64), (8192, 8192, 3, 3), {"padding": 1}),
    "many channels, few pixels": ((8, 4096, 8, 8), (4096, 4096, 3, 3), {"padding": 1}),
    "many images": ((100_000, 3, 32, 32), (64, 3, 3, 3), {"padding": 1}),
    "large image": ((1, 3, 20_000, 20_000), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    "large dilation": ((1, 64, 2000, 2000), (64, 64, 3, 3), {"dilation": 512, "padding": 512}),
    "large stride": ((8, 64, 2000, 2000), (64, 64, 16, 16), {"stride": 16}),
    "large padding": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": 10_000}),
    "depthwise": ((32, 2048, 128, 128), (2048, 1, 7, 7), {"groups": 2048, "padding": 3}),
    "many groups": ((1, 2000, 23, 23), (400_000, 2, 23, 23), {"groups": 1000}),
    "wide filter": ((1, 512, 1, 100_000), (512, 512, 1, 100), {}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", HUGE)
def test_scratch_is_bounded(case, layout, dtype):
    x_size, w_size, arguments = HUGE[case]
    plan = fastconv.plan_conv2d(
        layout_shape(x_size, layout), layout_shape(w_size, layout), **arguments, layout=layout, dtype=dtype
    )
    assert plan.scratch_bytes <= 32 * MIB, plan.describe()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("suite", suite_names())
def test_scratch_of_usual_layers(suite, layout, dtype):
    """8 MiB, 9 of doubles, 11 with narrower vectors; planes that are dilated may also be copied."""
    for layer in load_suite(suite):
        plan = fastconv.plan_conv2d(
            layout_shape((layer.n, layer.c, layer.h, layer.w), layout),
            layout_shape((layer.k, layer.c // layer.groups, layer.r, layer.s), layout),
            layer.stride,
            layer.pad,
            layer.dilation,
            layer.groups,
            dtype=dtype,
            layout=layout,
        )
        most = (8 if dtype == "float32" else 9) * MIB if VECTOR_BYTES == 64 else 11 * MIB
        most += 16 * MIB if layer.dilation > 1 else 0
        assert plan.scratch_bytes <= most, plan.describe()


@pytest.mark.parametrize("layout", ["NCW", "NWC"])
@pytest.mark.parametrize("kernel", [1, 3, 1000])
def test_scratch_of_a_long_row_is_bounded(layout, kernel):
    plan = fastconv.plan_conv1d(
        layout_shape((1, 64, 10**7), layout), layout_shape((64, 64, kernel), layout), layout=layout
    )
    assert plan.scratch_bytes <= 32 * MIB, plan.describe()


@pytest.mark.parametrize("layout", ["NCDHW", "NDHWC"])
def test_scratch_of_a_volume_is_bounded(layout):
    plan = fastconv.plan_conv3d(
        layout_shape((2, 64, 200, 200, 200), layout),
        layout_shape((64, 64, 5, 5, 5), layout),
        padding=2,
        layout=layout,
    )
    assert plan.scratch_bytes <= 32 * MIB, plan.describe()


def allocated(call):
    """The most bytes that NumPy held at once during a call beyond those held before it."""
    call()  # compiles
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


MEASURED = {
    "3x3": ((4, 32, 120, 130), (32, 32, 3, 3), {"padding": 1}),
    "strided": ((4, 32, 120, 130), (32, 32, 5, 5), {"stride": 3, "padding": 2}),
    "depthwise": ((4, 64, 120, 130), (64, 1, 3, 3), {"groups": 64}),
    "gemm/pixels": ((8, 64, 60, 70), (64, 64, 1, 1), {}),
}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", MEASURED)
@pytest.mark.parametrize("wide", [False, True])
def test_nothing_is_allocated_beyond_the_scratch(case, layout, wide):
    """Neither the whole column matrix nor a copy of an input, read with strides or without."""
    x_size, w_size, arguments = MEASURED[case]
    plan = fastconv.plan_conv2d(
        layout_shape(x_size, layout), layout_shape(w_size, layout), **arguments, layout=layout
    )
    x, dx = np.ones(plan.input_size, np.float32), np.zeros(plan.input_size, np.float32)
    w, dw = np.ones(plan.weight_size, np.float32), np.zeros(plan.weight_size, np.float32)
    y, dy = np.zeros(plan.output_size, np.float32), np.ones(plan.output_size, np.float32)
    if wide:
        x, dy = strided(x), strided(dy)
    threads = 2
    limit = threads * plan.scratch_bytes + 8 * w.nbytes + MIB // 4
    with fastconv.num_threads(threads):
        assert allocated(lambda: plan(x, w, None, y)) <= limit
        assert allocated(lambda: plan.backward_input(dy, w, dx)) <= limit
        assert allocated(lambda: plan.backward_weight(dy, x, dw)) <= limit


# --- wrong arrays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "shape"),
    [("input", (2, 4, 9, 9)), ("input", (4, 9, 8)), ("weight", (6, 2, 2, 3)), ("bias", (5,))],
)
def test_wrong_shapes_raise(plan, argument, shape):
    arrays = {"input": np.zeros((2, 4, 9, 8)), "weight": np.zeros((6, 2, 3, 2)), "bias": np.zeros(6)}
    arrays[argument] = np.zeros(shape)
    with pytest.raises(ValueError, match=rf"^{argument} must be .*, got "):
        plan(**arrays)


def test_wrong_gradients_raise(plan):
    x, w, dy = np.zeros((2, 4, 9, 8)), np.zeros((6, 2, 3, 2)), np.zeros(plan.output_size)
    with pytest.raises(ValueError, match=r"^grad_output must be .*, got "):
        plan.backward_input(dy[..., 1:], w)
    with pytest.raises(ValueError, match=r"^weight must be .*, got "):
        plan.backward_input(dy, w[1:])
    with pytest.raises(ValueError, match=r"^grad_output must be .*, got "):
        plan.backward_weight(dy[..., 1:], x)
    with pytest.raises(ValueError, match=r"^input must be .*, got "):
        plan.backward_weight(dy, x[..., 1:])
    with pytest.raises(TypeError, match=r"^input must be .*, got "):
        plan(x.astype(np.int64), w)


@pytest.mark.parametrize("argument", ["input", "weight", "bias"])
def test_a_dtype_the_plan_was_not_made_for(plan, argument):
    arrays = {"input": np.zeros((2, 4, 9, 8)), "weight": np.zeros((6, 2, 3, 2)), "bias": np.zeros(6)}
    arrays[argument] = arrays[argument].astype(np.float32)
    with pytest.raises(TypeError, match=rf"^{argument} must be .*float64, got .*float32"):
        plan(**arrays)


# --- cache, threads --------------------------------------------------------------------------------------


def test_the_cache_is_bounded():
    """More geometries than any sensible bound; whatever the cache is, it says its size."""
    from fastconv import plan as plan_module

    x = np.zeros((1, 1, 1, 3000), np.float32)
    w = np.ones((1, 1, 1, 1), np.float32)
    for width in range(1, 3000):
        fastconv.conv2d(x[..., :width], w)
    sizes = [f.cache_info() for f in vars(plan_module).values() if hasattr(f, "cache_info")]
    assert sizes
    for info in sizes:
        assert info.maxsize is not None
        assert info.currsize <= info.maxsize <= 4096


def test_a_plan_is_shared_between_threads(rng):
    plan = fastconv.plan_conv2d((3, 8, 30, 31), (16, 8, 3, 3), padding=1)
    w = integers(rng, (16, 8, 3, 3), np.float32)
    inputs = [integers(rng, (3, 8, 30, 31), np.float32) for _ in range(16)]
    expected = [plan(x, w) for x in inputs]
    gradients = [plan.backward_weight(y, x) for x, y in zip(inputs, expected, strict=True)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda x: plan(x, w), inputs * 4))
        back = list(pool.map(plan.backward_weight, expected * 4, inputs * 4))
    for a, b in zip(got, expected * 4, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(back, gradients * 4, strict=True):
        np.testing.assert_array_equal(a, b)
