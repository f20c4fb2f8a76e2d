"""Small groups: every tile, mask, run and table of both layouts against the plain loops."""

import contextlib

import numpy as np
import pytest
from helpers import (
    FIRST,
    LAST,
    assert_equal,
    from_layout,
    function,
    integers,
    layout_shape,
    negative,
    to_layout,
)
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    output_extents,
    ref_conv,
    ref_conv_backward_input,
    ref_conv_backward_weight,
)
from strategies import examples

import fastconv
from fastconv import plan
from fastconv.engine import depthwise, depthwise_lines, indirect_planes, partition
from fastconv.kernels.vectors import VECTOR_BYTES

# (channels, filters) of a group that there are tiles for in both layouts, and some of channels first only.
BOTH = ((1, 1), (1, 2), (2, 1), (2, 2), (4, 4), (8, 8))
FIRST_ONLY = ((1, 3), (3, 7), (2, 5))


def serving(layout):
    """The algorithm for small groups in a layout."""
    return "depthwise" if layout.endswith("C") else "indirect/planes"


@contextlib.contextmanager
def small_tables():
    """As many jobs, grids, bands, tables and chunks as there can be; plans made inside are not kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "JOB_MULTIPLICATIONS", 1)
        patch.setattr(indirect_planes, "GRID_BYTES", 1200)
        patch.setattr(indirect_planes, "SUMMED_IMAGES", 2)
        patch.setattr(depthwise, "TABLE_PIXELS", 20)
        patch.setattr(depthwise, "CHUNK", 3)
        patch.setattr(depthwise, "CHUNKS", 2)
        for name, value in (("COLUMN_BYTES", 1), ("LEAST_COLUMNS", 5), ("SUM_COLUMNS", 3), ("SUMS", 2)):
            patch.setattr(depthwise_lines, name, value)
        plan._cached_conv_plan.cache_clear()
        try:
            yield
        finally:
            plan._cached_conv_plan.cache_clear()


@st.composite
def small_groups(draw, ndim=2):
    """(x, w, bias, dy, stride, padding, dilation, groups), channels first."""
    channels, filters = draw(st.sampled_from(BOTH + FIRST_ONLY))
    groups = draw(st.integers(1, 40 if channels == 1 else 40 // channels))
    each = {1: st.integers(1, 13), 2: st.sampled_from([1, 2, 3, 3, 5, 7]), 3: st.integers(1, 3)}[ndim]
    kernel = tuple(draw(each) for _ in range(ndim))
    stride, dilation = (tuple(draw(st.integers(1, most)) for _ in range(ndim)) for most in (3, 2))
    padding = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(ndim))
    extents = []
    for k, d, pair, most in zip(kernel, dilation, padding, (40, 30, 12)[:ndim], strict=True):
        least = max(1, d * (k - 1) + 1 - sum(pair))
        extents.append(draw(st.integers(least, least + (most if ndim < 3 else 6))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, dtype = draw(st.integers(1, 4)), draw(st.sampled_from([np.float32, np.float64]))
    x = integers(rng, (batch, groups * channels, *extents), dtype)
    w = integers(rng, (groups * filters, channels, *kernel), dtype)
    outputs = output_extents(extents, kernel, stride, padding, dilation)
    dy = integers(rng, (batch, groups * filters, *outputs), dtype)
    return x, w, integers(rng, groups * filters, dtype), dy, stride, padding, dilation, groups


def check(problem, layout, view=lambda array: array):
    """All passes that the algorithm serves in a layout equal the loops."""
    x, w, bias, dy, *steps = problem
    ndim = x.ndim - 2
    arrays = [view(to_layout(array, layout)) for array in (x, w, dy)]
    sizes = [layout_shape(array.shape, layout) for array in (x, w)]
    made = function("plan_conv{}", ndim)(
        *sizes, *steps, dtype=x.dtype, layout=layout, algorithm=serving(layout)
    )
    if "forward" in made.algorithms:
        y, dw = made(arrays[0], arrays[1], bias), made.backward_weight(arrays[2], arrays[0])
        expected = ref_conv(x, w, *steps) + bias.reshape(-1, *[1] * ndim)
        assert_equal(from_layout(y, layout), expected)
        assert_equal(from_layout(dw, layout), ref_conv_backward_weight(dy, x, w.shape[2:], *steps))
    if "backward_input" in made.algorithms:
        dx = made.backward_input(arrays[2], arrays[1])
        assert_equal(from_layout(dx, layout), ref_conv_backward_input(dy, w, x.shape[2:], *steps))
    channels, filters = w.shape[1], w.shape[0] // steps[3]
    served = layout in FIRST.values() or (channels, filters) in BOTH or 0 in (x.size, dy.size)
    assert len(made.algorithms) == (3 if served else 0)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("layouts", [FIRST, LAST], ids=["first", "last"])
def test_small_groups_equal_the_loops(ndim, layouts):
    @given(small_groups(ndim))
    @examples(60)
    def every(problem):
        check(problem, layouts[ndim])

    every()


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("layouts", [FIRST, LAST], ids=["first", "last"])
def test_every_split_gives_the_same(ndim, layouts):
    """Jobs of a slice or an image each, and views that run backwards."""

    @given(small_groups(ndim))
    @examples(40)
    def every(problem):
        with small_tables():
            check(problem, layouts[ndim], negative)

    every()


@st.composite
def row_pair_layers(draw):
    """As `small_groups`, depthwise with 3x3 taps and at least a vector of channels."""
    dtype, stride = draw(st.sampled_from([np.float32, np.float64])), draw(st.sampled_from([1, 2]))
    channels = draw(st.integers(64 // np.dtype(dtype).itemsize, 40))
    padding = tuple((draw(st.integers(0, 4)), draw(st.integers(0, 4))) for _ in range(2))
    extents = [draw(st.integers(max(1, 3 - sum(pair)), 14)) for pair in padding]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch = draw(st.integers(1, 3))
    x = integers(rng, (batch, channels, *extents), dtype)
    w = integers(rng, (channels, 1, 3, 3), dtype)
    outputs = output_extents(extents, (3, 3), (stride, stride), padding, (1, 1))
    dy = integers(rng, (batch, channels, *outputs), dtype)
    steps = (stride, stride), padding, (1, 1), channels
    return x, w, integers(rng, channels, dtype), dy, *steps


@pytest.mark.parametrize("split", [False, True])
def test_row_pairs_equal_the_loops(split):
    """Every edge of rows and columns; split, jobs of an image or two rows each, and few columns at once."""

    @given(row_pair_layers())
    @examples(60)
    def every(problem):
        with small_tables() if split else contextlib.nullcontext():
            check(problem, "NHWC", negative if split else lambda array: array)

    every()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_row_pairs_do_not_multiply_padding(stride, value):
    """What is not finite reaches no more pixels than in plain loops over the pixels that exist."""
    rng = np.random.default_rng(0)
    x, w = rng.random((2, 20, 8, 7)), rng.random((20, 1, 3, 3))
    steps = ((stride, stride), ((1, 1), (1, 1)), (1, 1), 20)
    dy = rng.random(ref_conv(x, w, *steps).shape)
    x[1, 3, 7, 6], x[0, 5, 0, 0], dy[1, 4, 0, 0], w[7, 0, 0, 2] = value, value, value, value
    with np.errstate(invalid="ignore"):
        y = ref_conv(x, w, *steps)
        dx = ref_conv_backward_input(dy, w, (8, 7), *steps)
        dw = ref_conv_backward_weight(dy, x, (3, 3), *steps)
    arguments = {"stride": stride, "padding": 1, "groups": 20, "layout": "NHWC", "algorithm": "depthwise"}
    x, w, dy = (to_layout(array, "NHWC") for array in (x, w, dy))
    np.testing.assert_allclose(from_layout(fastconv.conv2d(x, w, **arguments), "NHWC"), y)
    grads = fastconv.conv2d_backward(dy, x, w, **arguments)
    np.testing.assert_allclose(from_layout(grads.input, "NHWC"), dx)
    np.testing.assert_allclose(from_layout(grads.weight, "NHWC"), dw)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("group", "size"), [(1, 7), (1, 14), (1, 29), (4, 14), (8, 9)])
def test_the_layers_of_networks(layout, stride, group, size):
    """Full vectors of filters, several images a grid, and parts of a vector side by side."""
    rng = np.random.default_rng(0)
    channels = 40
    x = integers(rng, (5, channels, size, size), np.float32)
    w = integers(rng, (channels, group, 3, 3), np.float32)
    steps = ((stride, stride), ((1, 1), (1, 1)), (1, 1), channels // group)
    outputs = output_extents(x.shape[2:], (3, 3), *steps[:3])
    dy = integers(rng, (5, channels, *outputs), np.float32)
    check((x, w, integers(rng, channels, np.float32), dy, *steps), layout)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_results_do_not_depend_on_threads(layout):
    rng = np.random.default_rng(0)
    x, w = rng.random((6, 48, 31, 33), "float32"), rng.random((48, 1, 3, 3), "float32")
    steps = {"stride": 2, "padding": 1, "groups": 48, "layout": layout}
    x, w = to_layout(x, layout), to_layout(w, layout)
    with small_tables():
        dy = rng.random(fastconv.conv2d(x, w, **steps).shape, "float32")
        results = []
        for threads in (1, 2, 5):
            with fastconv.num_threads(threads):
                y = fastconv.conv2d(x, w, algorithm=serving(layout), **steps)
                results.append((y, *fastconv.conv2d_backward(dy, x, w, algorithm=serving(layout), **steps)))
    for others in zip(*results, strict=True):
        assert len({other.tobytes() for other in others}) == 1


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_long_sums_keep_their_digits(layout):
    """A running float32 sum of a million equal terms is wrong in the third digit."""
    x = to_layout(np.full((16, 1, 256, 256), 1.1, np.float32), layout)
    made = fastconv.plan_conv2d(
        x.shape, (1, 1, 1, 1), padding=0, dtype="float32", layout=layout, algorithm=serving(layout)
    )
    dw = made.backward_weight(np.full_like(x, 1.3), x)
    np.testing.assert_allclose(dw, np.float64(np.float32(1.1)) * np.float32(1.3) * x.size, rtol=1e-5)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_stays_in_its_channel_and_pixels(layout, value):
    rng = np.random.default_rng(0)
    x, w, dy = rng.random((2, 20, 9, 7)), rng.random((20, 1, 3, 3)), rng.random((2, 20, 7, 5))
    x[1, 3, 4, 6], w[7, 0, 0, 2] = value, value
    steps = ((1, 1), ((0, 0), (0, 0)), (1, 1), 20)
    with np.errstate(invalid="ignore"):
        y = ref_conv(x, w, *steps)
        dx = ref_conv_backward_input(dy, w, (9, 7), *steps)
        dw = ref_conv_backward_weight(dy, x, (3, 3), *steps)
    arguments = {"groups": 20, "layout": layout, "algorithm": serving(layout)}
    x, w, dy = (to_layout(array, layout) for array in (x, w, dy))
    np.testing.assert_allclose(from_layout(fastconv.conv2d(x, w, **arguments), layout), y)
    grads = fastconv.conv2d_backward(dy, x, w, **arguments)
    np.testing.assert_allclose(from_layout(grads.input, layout), dx)
    np.testing.assert_allclose(from_layout(grads.weight, layout), dw)


def test_auto_takes_it_for_small_groups_and_says_why_not_for_others():
    for layout, size in (("NCHW", (8, 64, 28, 28)), ("NHWC", (8, 28, 28, 64))):
        weight = (64, 1, 3, 3) if layout == "NCHW" else (64, 3, 3, 1)
        made = fastconv.plan_conv2d(size, weight, padding=1, groups=64, layout=layout)
        assert set(made.algorithms.values()) == {serving(layout).partition("/")[0]}
    large = fastconv.plan_conv2d((8, 64, 28, 28), (64, 64, 3, 3), padding=1)
    assert not {"indirect", "depthwise"} & set(large.algorithms.values())
    x_size, w_size = (1, 512, 512, 6), (6, 3, 3, 3)  # too large to be transposed
    last = fastconv.plan_conv2d(x_size, w_size, groups=2, layout="NHWC", algorithm="depthwise")
    with pytest.raises(ValueError, match="no tile for groups of 3 channels and 3 filters"):
        last(np.zeros(x_size, np.float32), np.zeros(w_size, np.float32))
    wide = fastconv.plan_conv2d((1, 4, 3, 10**6), (4, 1, 3, 3), groups=4, algorithm="indirect/planes")
    assert "forward" not in wide.algorithms
    long = fastconv.plan_conv1d((1, 4, 10**6), (4, 1, 9), groups=4)
    assert set(long.algorithms.values()) == {"indirect"}


def test_an_input_that_no_tap_reaches_has_no_gradient():
    for layout in ("NCHW", "NHWC"):
        made = fastconv.plan_conv2d(
            (1, 1, 1, 1), (1, 1, 1, 1), 2, 1, dtype="float64", layout=layout, algorithm=serving(layout)
        )
        assert made.backward_input(np.ones(made.output_size), np.ones((1, 1, 1, 1))) == 0


def begun_at(offset, array):
    """A copy that begins so many elements after a cache line, with marks around it; and the marks."""
    room = VECTOR_BYTES // array.itemsize
    memory = np.full(array.size + 3 * room, 77, array.dtype)
    first = -memory.ctypes.data % VECTOR_BYTES // array.itemsize + offset
    view = memory[first : first + array.size].reshape(array.shape)
    view[...] = array
    return view, (memory[:first], memory[first + array.size :])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vectors_of_channels_begin_anywhere(dtype, stride):
    """Row pairs whose second vector begins with a cache line of the output, or with a vector of channels."""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    least = depthwise_lines.LED_VECTORS * lanes

    @given(
        st.one_of(st.just(least), st.integers(least, least + 2 * lanes)),
        st.lists(st.integers(0, lanes - 1), min_size=4, max_size=4),
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
        st.integers(0, 2),
    )
    @examples(15)
    def every(channels, offsets, extents, padding):
        extents = tuple(max(n, 3 - 2 * padding) for n in extents)
        rng = np.random.default_rng(channels)
        steps = ((stride, stride), ((padding, padding),) * 2, (1, 1), channels)
        x = integers(rng, (2, channels, *extents), dtype)
        w, bias = integers(rng, (channels, 1, 3, 3), dtype), integers(rng, channels, dtype)
        outputs = output_extents(extents, (3, 3), *steps[:3])
        dy = integers(rng, (2, channels, *outputs), dtype)
        (source, _), (gradient, _), (y, around_y), (dx, around_dx) = (
            begun_at(offset, to_layout(array, "NHWC"))
            for offset, array in zip(offsets, (x, dy, dy, x), strict=True)
        )
        last_w = to_layout(w, "NHWC")
        made = fastconv.plan_conv2d(
            source.shape, last_w.shape, *steps, dtype=dtype, layout="NHWC", algorithm="depthwise"
        )
        assert "reordered" not in made.describe()
        expected = [
            ref_conv(x, w, *steps) + bias.reshape(-1, 1, 1),
            ref_conv_backward_input(dy, w, extents, *steps),
            ref_conv_backward_weight(dy, x, (3, 3), *steps),
        ]
        made(source, last_w, bias, y)
        made.backward_input(gradient, last_w, dx)
        results = made(source, last_w, bias), made.backward_input(gradient, last_w)
        for got, forward in ((y, True), (dx, False), (results[0], True), (results[1], False)):
            assert_equal(from_layout(got, "NHWC"), expected[0 if forward else 1])
        assert_equal(from_layout(made.backward_weight(gradient, source), "NHWC"), expected[2])
        assert all(np.all(marks == 77) for marks in (*around_y, *around_dx))

    every()
