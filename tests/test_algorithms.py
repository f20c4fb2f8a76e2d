"""Every algorithm by name: all that it serves equals the plain loops, the rest is an error that says why."""

import numpy as np
import pytest
from helpers import assert_equal, from_layout, function, integers, layout_shape, to_layout
from hypothesis import given
from oracles import ref_conv, ref_conv_backward_input, ref_conv_backward_weight
from strategies import conv_problems, examples, wide_problems

import fastconv
from fastconv.engine import gemm, gemm_pixels, gemm_weights, im2col_narrow, partition, tensor
from fastconv.engine.select import ALGORITHMS
from fastconv.geometry import conv_geometry
from fastconv.plan import ConvPlan

NAMES = [algorithm.label for algorithm in ALGORITHMS]
PASSES = ("forward", "backward_input", "backward_weight")


def plan_of(p, name):
    sizes = [layout_shape(a.shape, p.layout) for a in (p.x, p.w)]
    return function("plan_conv{}", p.ndim)(*sizes, **p.arguments, dtype=p.x.dtype, algorithm=name)


def run(plan, which, x, w, dy, bias=None):
    """One pass of a plan."""
    if which == "forward":
        return plan(x, w, bias)
    return plan.backward_input(dy, w) if which == "backward_input" else plan.backward_weight(dy, x)


def check(plan, p, bias=None):
    """All that a plan serves against the loops; an error for what it does not."""
    arrays = [p.dressed(to_layout(a, p.layout)) for a in (p.x, p.w, p.dy)]
    for which in PASSES:
        if which not in plan.algorithms:
            with pytest.raises(ValueError, match=r"^algorithm must be able to compute the .* pass, got "):
                run(plan, which, *arrays)
            continue
        expected = {
            "forward": lambda: ref_conv(p.x, p.w, *p.resolved),
            "backward_input": lambda: ref_conv_backward_input(p.dy, p.w, p.x.shape[2:], *p.resolved),
            "backward_weight": lambda: ref_conv_backward_weight(p.dy, p.x, p.w.shape[2:], *p.resolved),
        }[which]()
        if which == "forward" and bias is not None:
            expected += bias.astype(np.float64).reshape(-1, *[1] * p.ndim)
        assert_equal(from_layout(run(plan, which, *arrays, bias), p.layout), expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_equals_the_loops(name):
    @given(conv_problems())
    @examples(150)
    def every(p):
        check(plan_of(p, name), p, p.bias)

    every()


# What an algorithm serves, so that few examples are spent on the rest.
SERVED = {
    "decimated": {
        "kernels": ((3, 3), (3, 3), (3, 1), (2, 5)),
        "steps": ((2, 2), (2, 2), (3, 3), (2, 6), (4, 1)),
        "dilations": ((2, 2), (2, 2), (3, 3), (4, 3)),
    },
    "winograd": {
        "kernels": ((3, 3), (3, 3), (5, 5), (3, 7), (7, 5), (1, 3), (1, 3), (1, 5)),
        "steps": ((1, 1),),
    },
    "gemm/pixels": {"kernels": ((1, 1),)},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_edge_of_the_tiles(name):
    """Channels, filters and pixels from one to beyond two full tiles, both layouts and both precisions."""

    @given(wide_problems(**SERVED.get(name, {})))
    @examples(150)
    def every(p):
        check(plan_of(p, name), p, p.bias)

    every()


# The same where there is a depth.
SERVED_DEEP = {
    "decimated": {
        "kernels": ((3, 3, 3), (2, 3, 3), (3, 1, 1), (1, 3, 3)),
        "steps": ((2, 2, 2), (1, 2, 2), (4, 1, 2)),
        "dilations": ((2, 2, 2), (1, 2, 2), (2, 2, 2)),
    },
    "winograd": {"kernels": ((3, 3, 3), (1, 3, 3), (2, 3, 3)), "steps": ((1, 1, 1), (2, 1, 1))},
    "gemm/pixels": {"kernels": ((1, 1, 1),), "steps": ((1, 1, 1), (1, 1, 2), (2, 1, 1))},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_edge_of_the_tiles_with_a_depth(name):
    """Planes that are skipped, read twice or lie in the padding; taps and strides along the depth."""
    deep = {
        "kernels": ((3, 3, 3), (3, 1, 1), (1, 3, 3), (2, 2, 5), (1, 1, 1)),
        "steps": ((1, 1, 1), (1, 1, 1), (2, 2, 2), (3, 1, 2)),
        "dilations": ((1, 1, 1), (1, 1, 1), (2, 1, 1), (1, 2, 2)),
    }

    @given(wide_problems(**{**deep, **SERVED_DEEP.get(name, {})}, rooms=(3, 6, 18), widest=40))
    @examples(40)
    def every(p):
        check(plan_of(p, name), p, p.bias)

    every()


@pytest.mark.parametrize("name", NAMES)
def test_several_bands_of_a_depth(name):
    """Chunks of lines, of planes and of images, and jobs that share them."""
    rng = np.random.default_rng(0)
    for size, filters, stride, layout in (
        ((1, 24, 5, 40, 36), 33, 1, "NCDHW"),
        ((1, 24, 5, 40, 36), 33, 1, "NDHWC"),
        ((2, 40, 9, 14, 15), 70, (2, 1, 1), "NCDHW"),
        ((5, 32, 3, 7, 6), 136, 1, "NCDHW"),
        ((5, 32, 3, 7, 6), 136, 1, "NDHWC"),
        ((1, 300, 2, 9, 8), 40, 1, "NCDHW"),
    ):
        kernel = SERVED_DEEP.get(name, {}).get("kernels", ((3, 3, 3),))[0]
        x, w = (
            to_layout(integers(rng, shape, np.float32, -2, 2), layout)
            for shape in (size, (filters, size[1], *kernel))
        )
        arguments = {"stride": stride, "padding": kernel[0] // 2, "layout": layout}
        plan = fastconv.plan_conv3d(x.shape, w.shape, **arguments, algorithm=name)
        reference = fastconv.plan_conv3d(x.shape, w.shape, **arguments, algorithm="im2col")
        dy = integers(rng, plan.output_size, np.float32, -2, 2)
        for which in plan.algorithms:
            expected = run(reference, which, x, w, dy)
            for threads in (1, 2, 3):
                with fastconv.num_threads(threads):
                    np.testing.assert_array_equal(run(plan, which, x, w, dy), expected)


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("layout", ["NCDHW", "NDHWC"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_meets_the_padding_of_a_depth(name, layout, value):
    """Taps passed over leave what explicit columns give, where zero times infinity is not a number."""
    rng = np.random.default_rng(0)
    kernel = SERVED_DEEP.get(name, {}).get("kernels", ((3, 3, 3),))[0]
    padding = (3, 1, 1) if kernel != (1, 1, 1) else 0
    shapes = [layout_shape(shape, layout) for shape in ((2, 3, 2, 5, 6), (4, 3, *kernel))]
    plan, reference = (
        fastconv.plan_conv3d(*shapes, padding=padding, layout=layout, dtype="float64", algorithm=algorithm)
        for algorithm in (name, "im2col")
    )
    x, w, dy = (rng.random(shape) for shape in (*shapes, plan.output_size))
    from_layout(w, layout)[1, 2, 0, 0, 0] = value
    from_layout(dy, layout)[1, 2, 0, 2, 3] = value  # that plane reads nothing but padding
    for which in plan.algorithms:
        expected = run(reference, which, x, w, dy)
        assert not np.isfinite(expected).all()
        np.testing.assert_allclose(run(plan, which, x, w, dy), expected)


@pytest.mark.parametrize("name", NAMES)
def test_several_bands_and_parted_filters(name):
    """An image whose scratch has no room for all lines, many filters of few pixels, and sums in pieces."""
    rng = np.random.default_rng(0)
    for size, filters, stride in (
        ((1, 24, 130, 120), 9, 1),
        ((1, 24, 130, 120), 9, 2),
        ((1, 256, 9, 9), 136, 1),
        ((5, 32, 12, 12), 32, 1),
        ((2, 600, 11, 9), 70, 1),
    ):
        kernel = SERVED.get(name, {}).get("kernels", ((3, 3),))[0]
        x = rng.integers(-2, 3, size).astype(np.float32)
        w = rng.integers(-2, 3, (filters, size[1], *kernel)).astype(np.float32)
        padding = kernel[0] // 2
        plan = fastconv.plan_conv2d(x.shape, w.shape, stride, padding, algorithm=name)
        reference = fastconv.plan_conv2d(x.shape, w.shape, stride, padding, algorithm="im2col")
        dy = rng.integers(-2, 3, plan.output_size).astype(np.float32)
        for which in plan.algorithms:
            expected = run(reference, which, x, w, dy)
            for threads in (1, 2, 3):
                with fastconv.num_threads(threads):
                    np.testing.assert_array_equal(run(plan, which, x, w, dy), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_edge_of_the_tiles_and_several_sums(name, dtype):
    """The last tile has few filters, and adds to what a first sum wrote: nothing behind the output is read.

    (With ``-p guard --guard end`` there is no memory.)
    """
    rng = np.random.default_rng(0)
    for channels, filters, height, width in (
        (60, 19, 5, 9),
        (56, 51, 13, 29),
        (130, 33, 4, 4),
        (33, 97, 3, 70),
    ):
        kernel = SERVED.get(name, {}).get("kernels", ((3, 3),))[0]
        x = rng.integers(-2, 3, (1, channels, height, width)).astype(dtype)
        w = rng.integers(-2, 3, (filters, channels, *kernel)).astype(dtype)
        plan = fastconv.plan_conv2d(x.shape, w.shape, padding=1, dtype=dtype, algorithm=name)
        reference = fastconv.plan_conv2d(x.shape, w.shape, padding=1, dtype=dtype, algorithm="im2col")
        dy = rng.integers(-2, 3, plan.output_size).astype(dtype)
        for which in plan.algorithms:
            np.testing.assert_array_equal(run(plan, which, x, w, dy), run(reference, which, x, w, dy))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_long_lines_in_pieces(name, last):
    """Pieces of equal length but the last, whose taps reach into the next; and lines of several planes."""
    rng = np.random.default_rng(0)
    for size, filters, kernel, stride, padding, dilation in (
        ((2, 24, 2999), 33, (3,), 1, 1, 1),
        ((3, 40, 1203), 70, (5,), 1, 2, 1),
        ((1, 17, 1700), 20, (3,), 1, 40, 40),
        ((2, 4, 2600), 8, (9,), 2, 3, 1),
        ((1, 7, 3001), 6, (1,), 1, 0, 1),
        ((2, 20, 3, 1100), 36, (3, 3), 1, 1, 1),
        ((1, 33, 4, 905), 17, (1, 3), 1, (0, 1), 1),
        ((2, 3, 4, 2301), 16, (3, 5), (1, 3), 2, 1),
        ((1, 18, 6, 1000), 16, (3, 3), 2, 2, 2),
    ):
        ndim = len(kernel)
        layout = ("NCW", "NWC", "NCHW", "NHWC")[2 * ndim - 2 + last]
        x, w = (
            to_layout(rng.integers(-2, 3, shape).astype(np.float32) * 2, layout)
            for shape in (size, (filters, size[1], *kernel))
        )
        make = function("plan_conv{}", ndim)
        arguments = {"stride": stride, "padding": padding, "dilation": dilation, "layout": layout}
        plan, reference = (make(x.shape, w.shape, **arguments, algorithm=a) for a in (name, "im2col"))
        dy = rng.integers(-2, 3, plan.output_size).astype(np.float32)
        for which in plan.algorithms:
            expected = run(reference, which, x, w, dy)
            for threads in (1, 2, 3):
                with fastconv.num_threads(threads):
                    np.testing.assert_array_equal(run(plan, which, x, w, dy), expected)


@pytest.mark.parametrize("name", ["gemm/filters", "im2col"])
@pytest.mark.parametrize("split", [False, True])
def test_few_channels_last(name, split, monkeypatch):
    """The first layers of networks, in one piece and in many."""
    if split:
        for module, constant, value in (
            (gemm, "NARROW_PIXELS", 20), (gemm_weights, "NARROW_PIXELS", 60),
            (gemm_weights, "FEW_SUM_PIXELS", 20), (gemm_weights, "SUM_PIXELS", 20),
            (gemm_weights, "PART_PIXELS", 30),
            (partition, "JOB_MULTIPLICATIONS", 1), (im2col_narrow, "COLUMN_BYTES", 1),
        ):  # fmt: skip
            monkeypatch.setattr(module, constant, value)
    rng = np.random.default_rng(0)
    for size, filters, kernel, stride, padding, dilation in (
        ((2, 3, 12, 11), 64, (3, 3), 1, 1, 1),
        ((2, 3, 33, 16), 20, (7, 7), 2, 3, 1),
        ((1, 1, 9, 9), 5, (3, 3), 1, 0, 1),
        ((3, 2, 7, 8), 70, (2, 3), 1, 1, 2),
        ((2, 7, 6, 6), 33, (5, 5), 3, 2, 1),
        ((1, 3, 4, 4), 130, (1, 1), 1, 0, 1),
        ((2, 4, 5, 5), 16, (3, 3), 2, 0, 1),
    ):
        x, w = integers(rng, size, np.float32), integers(rng, (filters, size[1], *kernel), np.float32)
        steps = (stride, stride), ((padding, padding),) * 2, (dilation, dilation), 1
        y = ref_conv(x, w, *steps)
        dy = integers(rng, y.shape, np.float32)
        last = [to_layout(array, "NHWC") for array in (x, w, dy)]
        geometry = conv_geometry(2, last[0].shape, last[1].shape, *steps, np.dtype(np.float32), True)
        plan = ConvPlan(geometry, name)
        expected = {
            "forward": y,
            "backward_input": ref_conv_backward_input(dy, w, size[2:], *steps),
            "backward_weight": ref_conv_backward_weight(dy, x, kernel, *steps),
        }
        for which in PASSES:
            for threads in (1, 2):
                with fastconv.num_threads(threads):
                    assert_equal(from_layout(run(plan, which, *last), "NHWC"), expected[which])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_tap_over_inputs_from_memory(dtype, monkeypatch):
    """Whole panels of an image packed together, and the rest of an image, of a chunk and of all pixels."""
    monkeypatch.setattr(gemm_pixels, "FAR_BYTES", 0)
    monkeypatch.setattr(gemm_pixels, "FAR_FILTERS", 1)
    rng = np.random.default_rng(0)
    for size, filters, groups in (
        ((2, 5, 40, 41), 7, 1),
        ((3, 300, 9, 15), 2, 1),
        ((5, 4, 3, 7), 6, 2),
        ((1, 8, 32, 32), 130, 1),
        ((2, 1, 1, 129), 1, 1),
    ):
        x = rng.integers(-2, 3, size).astype(dtype)
        w = rng.integers(-2, 3, (filters, size[1] // groups, 1, 1)).astype(dtype)
        dy = rng.integers(-2, 3, (size[0], filters, *size[2:])).astype(dtype)
        plan = fastconv.plan_conv2d(x.shape, w.shape, groups=groups, dtype=dtype, algorithm="gemm/pixels")
        steps = (1, 1), ((0, 0), (0, 0)), (1, 1), groups
        for threads in (1, 3):
            with fastconv.num_threads(threads):
                assert_equal(plan(x, w), ref_conv(x, w, *steps))
                found = plan.backward_input(dy, w)
                assert_equal(found, ref_conv_backward_input(dy, w, size[2:], *steps))


@pytest.mark.parametrize("name", NAMES)
def test_a_stride_along_an_axis_of_one_cell(name):
    """It leaves nothing out, neither lines of a plane nor planes."""
    rng = np.random.default_rng(0)
    for size, stride in (
        ((2, 36, 3, 1, 5), (1, 2, 1)),
        ((2, 36, 1, 4, 5), (3, 1, 1)),
        ((2, 36, 3, 4, 1), (1, 1, 2)),
    ):
        x, w = integers(rng, size, np.float32), integers(rng, (33, 36, 1, 1, 1), np.float32)
        plan = fastconv.plan_conv3d(x.shape, w.shape, stride, algorithm=name)
        reference = fastconv.plan_conv3d(x.shape, w.shape, algorithm="im2col")
        dy = integers(rng, plan.output_size, np.float32)
        for which in plan.algorithms:
            np.testing.assert_array_equal(run(plan, which, x, w, dy), run(reference, which, x, w, dy))


@pytest.mark.parametrize("layout", ["NCDHW", "NDHWC"])
@pytest.mark.parametrize("name", NAMES)
def test_planes_that_no_tap_reads_are_zero(name, layout, monkeypatch):
    """Also where the channels are brought to the end and back, through memory that held something else."""
    monkeypatch.setattr(tensor, "new_result", lambda shape, dtype: np.full(shape, np.nan, dtype))
    rng = np.random.default_rng(0)
    kernel = (1, 1, 1) if name == "gemm/pixels" else (1, 3, 3)
    steps = (2, 2, 2) if name == "decimated" else (2, 1, 1), 0, (2, 2, 2), 1
    sizes = [layout_shape(size, layout) for size in ((2, 3, 5, 8, 9), (4, 3, *kernel))]
    plan, reference = (
        fastconv.plan_conv3d(*sizes, *steps, layout=layout, algorithm=algorithm)
        for algorithm in (name, "im2col")
    )
    w, dy = integers(rng, sizes[1], np.float32), integers(rng, plan.output_size, np.float32)
    if "backward_input" in plan.algorithms:
        expected = run(reference, "backward_input", None, w, dy)
        np.testing.assert_array_equal(run(plan, "backward_input", None, w, dy), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_cells_that_lie_apart_and_taps_of_few_channels(layout, dtype):
    """One tap in strides up to beyond a vector; rows of elements that end anywhere in a vector or a panel.

    Filters and channels of several jobs, and panels of several widths.
    """
    rng = np.random.default_rng(0)
    for size, filters, kernel, stride, padding in (
        ((2, 33, 29, 31), 40, 1, (2, 3), 0),
        ((1, 64, 40, 37), 7, 1, (17, 5), 0),
        ((3, 128, 14, 14), 64, 1, 2, 0),
        ((2, 5, 9, 8), 6, 1, 2, 1),
        ((2, 3, 40, 37), 20, 7, 2, 3),
        ((2, 3, 43, 47), 13, 11, 4, 0),
        ((1, 24, 14, 13), 9, 3, 2, 1),
        ((2, 70, 12, 11), 90, 7, 1, 3),
        ((2, 33, 1, 1), 70, 7, 1, 3),
    ):
        x = to_layout(rng.integers(-2, 3, size).astype(dtype), layout)
        w = to_layout(rng.integers(-2, 3, (filters, size[1], kernel, kernel)).astype(dtype), layout)
        plan, reference = (
            fastconv.plan_conv2d(
                x.shape, w.shape, stride, padding, dtype=dtype, layout=layout, algorithm=name
            )
            for name in ("gemm/filters", "im2col")
        )
        dy = rng.integers(-2, 3, plan.output_size).astype(dtype)
        for which in PASSES:
            expected = run(reference, which, x, w, dy)
            for threads in (1, 3):
                with fastconv.num_threads(threads):
                    np.testing.assert_array_equal(run(plan, which, x, w, dy), expected)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", NAMES)
def test_long_jobs_in_pieces(name, layout, monkeypatch):
    """As a pass of minutes is cut, so that it can be stopped."""
    rng = np.random.default_rng(0)
    kernel = SERVED.get(name, {}).get("kernels", ((3, 3),))[0]
    x, w = integers(rng, (3, 16, 40, 41), np.float32), integers(rng, (40, 16, *kernel), np.float32)
    dy = integers(rng, (3, 40, *(n - k + 1 for n, k in zip(x.shape[2:], kernel, strict=True))), np.float32)
    x, w, dy = (to_layout(array, layout) for array in (x, w, dy))
    geometry = conv_geometry(
        2, x.shape, w.shape, (1, 1), ((0, 0), (0, 0)), (1, 1), 1, np.dtype(np.float32), layout == "NHWC"
    )
    expected = ConvPlan(geometry, "im2col")
    monkeypatch.setattr(partition, "MOST_MULTIPLICATIONS", 2**16)
    plan = ConvPlan(geometry, name)
    for which in plan.algorithms:
        for threads in (1, 3):
            with fastconv.num_threads(threads):
                np.testing.assert_array_equal(run(plan, which, x, w, dy), run(expected, which, x, w, dy))


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_spreads_as_in_the_loops(name, value):
    """A cell at the end of a line, and a weight, that must not leak beyond the sums they belong to."""
    rng = np.random.default_rng(0)
    kernel = SERVED.get(name, {}).get("kernels", ((3, 3),))[0]
    x, w = rng.random((2, 3, 9, 8)), rng.random((4, 3, *kernel))
    broken_x, broken_w = x.copy(), w.copy()
    broken_x[1, 2, 4, 7] = value  # only taps at the right edge meet it
    broken_w[1, 2, 0, 0] = value
    plan = fastconv.plan_conv2d(x.shape, w.shape, dtype="float64", algorithm=name)
    dy = rng.random(plan.output_size)
    steps = ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    with np.errstate(invalid="ignore"):  # NumPy's matmul in the oracles warns of infinities
        expected = {
            "forward": ref_conv(broken_x, w, *steps),
            "backward_input": ref_conv_backward_input(dy, broken_w, (9, 8), *steps),
            "backward_weight": ref_conv_backward_weight(dy, broken_x, kernel, *steps),
        }
    results = {
        "forward": lambda: plan(broken_x, w),
        "backward_input": lambda: plan.backward_input(dy, broken_w),
        "backward_weight": lambda: plan.backward_weight(dy, broken_x),
    }
    for which in plan.algorithms:
        assert 0 < np.isfinite(expected[which]).sum() < expected[which].size
        np.testing.assert_allclose(results[which](), expected[which])


def test_a_name_that_is_no_more_says_what_serves_now():
    with pytest.raises(ValueError, match="'virtual', which is no more: pass 'auto', or 'indirect'"):
        fastconv.plan_conv2d((1, 4, 8, 8), (4, 4, 3, 3), algorithm="virtual")


def test_lines_and_pointwise_say_what_they_do_not_serve():
    x_size, w_size = (1, 512, 512, 4), (4, 1, 1, 4)  # too large to be turned
    last = fastconv.plan_conv2d(x_size, w_size, layout="NHWC", algorithm="gemm/pixels")
    assert last.algorithms == {}
    x, w = np.zeros(x_size, np.float32), np.zeros(w_size, np.float32)
    with pytest.raises(ValueError, match="not contiguous with the channels last"):
        last(x, w)
    long = fastconv.plan_conv1d((1, 64, 10**6), (64, 64, 9), algorithm="indirect/lines")
    assert "forward" not in long.algorithms
    assert fastconv.plan_conv1d((1, 64, 10**6), (64, 64, 9)).algorithms["forward"] == "gemm"
