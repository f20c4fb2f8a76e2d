"""Arrays that are views: every pass over them is right, changes none, and copies some images at a time."""

import gc
import tracemalloc

import numpy as np
import pytest
from helpers import (
    DISGUISES,
    LAYOUTS,
    assert_equal,
    assert_fresh,
    from_layout,
    integers,
    layout_shape,
    to_layout,
)
from hypothesis import given
from hypothesis import strategies as st
from oracles import ref_conv, ref_conv_backward_input, ref_conv_backward_weight
from strategies import examples

import fastconv
from fastconv import plan as plans
from fastconv.engine import dispatch, indirect_lines, layouts, tensor
from fastconv.engine.algorithm import PASSES
from fastconv.engine.layouts import Copies, reordered
from fastconv.engine.select import ALGORITHMS, candidates, choose
from fastconv.engine.tensor import assign, contiguous_in, dense
from fastconv.kernels.vectors import VECTOR_BYTES

MIB = 2**20
PLANS = {1: fastconv.plan_conv1d, 2: fastconv.plan_conv2d, 3: fastconv.plan_conv3d}


def crop(array):
    """A part of a larger array."""
    large = np.full([n + 3 for n in array.shape], 99, array.dtype)
    view = large[(slice(1, -2),) * array.ndim]
    view[...] = array
    return view


def channels_first_memory(array):
    """An array whose last axis comes second in tensor."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, -1, 1)), 1, -1)


def channels_last_memory(array):
    """An array whose second axis comes last in tensor."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def batch_last_memory(array):
    """An array whose batch comes last in tensor."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0)


def every_second_channel(array):
    """An array between whose channels lie others."""
    wide = np.full((array.shape[0], 2 * array.shape[1], *array.shape[2:]), 99, array.dtype)
    wide[:, ::2] = array
    return wide[:, ::2]


def fields(array):
    """Cells that lie a number of bytes apart which is no multiple of theirs."""
    packed = np.zeros(array.shape, np.dtype([("cell", array.dtype), ("more", np.uint8)]))
    packed["cell"] = array
    return packed["cell"]


VIEWS = {
    **DISGUISES,
    **{
        view.__name__: view
        for view in (
            crop,
            channels_first_memory,
            channels_last_memory,
            batch_last_memory,
            every_second_channel,
            fields,
        )
    },
}

# What makes squares of all that can be copied so.
EAGER = {"SMALL": 0, "LEAST_TRANSPOSED": 0, "LEAST_FILLED": 0, "LEAST_STRIDE": 0, "WAYS": -1}

# Sizes of each number of dimensions: input, weight, groups, and steps.
LAYERS = {
    1: ((5, 4, 19), (6, 2, 3), 2, {"stride": 2, "padding": 1}),
    2: ((5, 6, 9, 10), (4, 6, 3, 2), 1, {"padding": 1}),
    3: ((3, 2, 4, 5, 6), (3, 2, 2, 3, 2), 1, {"dilation": (1, 1, 2), "padding": 1}),
}


def layer(ndim, layout, algorithm="auto", dtype=np.float32):
    """A plan, its arrays in the layout, and what the passes give."""
    x_size, w_size, groups, arguments = LAYERS[ndim]
    sizes = layout_shape(x_size, layout), layout_shape(w_size, layout)
    plan = PLANS[ndim](
        *sizes, groups=groups, **arguments, layout=layout, dtype=np.dtype(dtype).name, algorithm=algorithm
    )
    rng = np.random.default_rng(0)
    g = plan._geometry
    x, w, dy = (from_layout(integers(rng, size, dtype), layout) for size in (*sizes, plan.output_size))
    stride, dilation = g.stride[-ndim:], g.dilation[-ndim:]
    pairs = tuple((pad, pad) for pad in g.padding[-ndim:])
    steps = stride, pairs, dilation, groups
    results = {
        "forward": ref_conv(x, w, *steps),
        "backward_input": ref_conv_backward_input(dy, w, x_size[2:], *steps),
        "backward_weight": ref_conv_backward_weight(dy, x, w_size[2:], *steps),
    }
    return plan, [to_layout(np.ascontiguousarray(a), layout) for a in (x, w, dy)], results


@pytest.fixture
def eager(monkeypatch):
    """Squares, and images copied two at a time, in arrays of any size."""
    for name, value in EAGER.items():
        monkeypatch.setattr(tensor, name, value)
    monkeypatch.setattr(plans, "SMALL_VIEW", 0)
    monkeypatch.setattr(layouts, "_images_at_once", lambda geometry, most_bytes: 2)


def passes_equal(plan, x, w, dy, expected, layout):
    """Every pass that the plan serves, over these arrays."""
    kept = [array.copy() for array in (x, w, dy)]
    calls = {
        "forward": lambda: plan(x, w),
        "backward_input": lambda: plan.backward_input(dy, w),
        "backward_weight": lambda: plan.backward_weight(dy, x),
    }
    for which in plan.algorithms:
        result = calls[which]()
        assert_fresh(result)
        assert_equal(from_layout(result, layout), expected[which])
    for array, before in zip((x, w, dy), kept, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
def test_passes_over_views_equal_the_loops(ndim, layout, view):
    for dtype in (np.float16, np.float32, np.float64):
        plan, arrays, expected = layer(ndim, layout, dtype=dtype)
        passes_equal(plan, *map(VIEWS[view], arrays), expected, layout)
        x, w, dy = arrays
        passes_equal(plan, VIEWS[view](x), w, dy, expected, layout)
        passes_equal(plan, x, w, VIEWS[view](dy), expected, layout)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
@pytest.mark.parametrize("algorithm", [algorithm.label for algorithm in ALGORITHMS])
@pytest.mark.usefixtures("eager")
def test_views_in_parts_and_squares(ndim, layout, view, algorithm):
    plan, arrays, expected = layer(ndim, layout, algorithm)
    passes_equal(plan, *map(VIEWS[view], arrays), expected, layout)


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_computes_in_the_other_layout(ndim, layout, algorithm, parts, request):
    if parts:
        request.getfixturevalue("eager")
    plan, (x, w, dy), expected = layer(ndim, layout)
    kind, g = reordered(algorithm), plan._geometry
    made = kind(g)
    x, w, dy = map(plan._normal, (x, w, dy))
    for which in PASSES:
        if kind.why_not(g, which) is not None:
            continue
        size = {"forward": plan.output_size, "backward_input": plan.input_size}.get(which, plan.weight_size)
        result = np.full(size, np.nan, np.float32)
        arrays = {"forward": (x, w, None), "backward_input": (dy, w), "backward_weight": (dy, x)}[which]
        assert getattr(made, which)(*arrays, plan._normal(result))
        assert_equal(from_layout(result, layout), expected[which])
        assert (kind.name, kind.label) == (algorithm.name, f"{algorithm.label}, reordered")
        assert made.scratch_bytes >= 2 * (x.nbytes // len(x) + dy.nbytes // len(dy))


def test_candidates_are_the_algorithms_of_both_layouts():
    g = fastconv.plan_conv2d((2, 9, 9, 8), (8, 3, 3, 8), layout="NHWC")._geometry
    labels = [algorithm.label for algorithm in candidates(g, "forward")]
    assert {"gemm/filters", "indirect/lines, reordered", "gemm/filters, reordered"} <= set(labels)
    assert "indirect/lines" not in labels
    assert "gemm/pixels, reordered" not in labels
    large = fastconv.plan_conv2d((1, 9, 9, 2**17), (8, 3, 3, 2**17), layout="NHWC")._geometry
    assert not [a for a in candidates(large, "forward") if a not in ALGORITHMS]
    assert "too many to be copied" in reordered(indirect_lines.IndirectLines).why_not(large, "forward")


def test_a_plan_says_which_pass_is_reordered():
    last = fastconv.plan_conv2d((2, 9, 9, 3), (4, 3, 3, 3), layout="NHWC", algorithm="indirect/lines")
    assert set(last.algorithms.values()) == {"indirect"}
    assert "forward: indirect/lines, reordered" in last.describe()
    first = fastconv.plan_conv2d((2, 3, 9, 9), (4, 3, 3, 3), algorithm="indirect/lines")
    assert "reordered" not in first.describe()


def addresses(monkeypatch):
    """Where the memory begins that every pass of `Im2col` reads and writes."""
    found = []

    def recorded(name, arrays):
        original = getattr(fastconv.engine.im2col.Im2col, name)

        def run(self, *operands):
            found.append((self.geometry, [operands[i].__array_interface__["data"][0] for i in arrays]))
            return original(self, *operands)

        monkeypatch.setattr(fastconv.engine.im2col.Im2col, name, run)

    recorded("forward", (0, 3))
    recorded("backward_input", (0, 2))
    recorded("backward_weight", (0, 1))
    return found


def place(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    ("layout", "turned"), [("NCHW", channels_last_memory), ("NHWC", channels_first_memory)]
)
def test_what_lies_in_the_other_layout_is_not_copied_where_that_copies_less(monkeypatch, layout, turned):
    found = addresses(monkeypatch)
    monkeypatch.setattr(plans, "SMALL_VIEW", 0)
    monkeypatch.setattr(dispatch, "better_there", lambda geometry, which, here, there: there < here)
    for channels, filters in ((8, 2), (2, 8), (1, 1)):
        sizes = [layout_shape(size, layout) for size in ((3, channels, 9, 9), (filters, channels, 3, 3))]
        plan = fastconv.plan_conv2d(*sizes, layout=layout, algorithm="im2col")
        x, w, dy = (np.ones(size, np.float32) for size in (*sizes, plan.output_size))
        x, dy = turned(x), turned(dy)
        found.clear()
        plan(x, w)
        plan.backward_input(dy, w)
        plan.backward_weight(dy, x)
        plan.backward_weight(dy, np.ascontiguousarray(x))
        last = [g.channels_last for g, _ in found]
        own = layout == "NHWC"
        reads = [places[0] for _, places in found]
        wide = channels > filters
        if channels == 1:
            assert last == [own] * 4
            assert reads == [place(x), *[place(dy)] * 3]
            continue
        assert last == [own != wide, own == wide, not own, own == wide]
        assert (reads[0] == place(x)) == wide
        assert (reads[1] == place(dy)) != wide
        assert found[2][1] == [place(dy), place(x)]
        assert (reads[3] == place(dy)) != wide


def test_a_view_that_is_both_operands_is_copied_once(monkeypatch):
    found = addresses(monkeypatch)
    monkeypatch.setattr(plans, "SMALL_VIEW", 0)
    x = crop(np.ones((2, 3, 6, 6), np.float32))
    fastconv.conv2d_backward_weight(x, x, (3, 3, 1, 1), algorithm="im2col")
    fastconv.conv2d_backward_weight(x, x + 1, (3, 3, 1, 1), algorithm="im2col")
    (_, (dy, image)), (_, (other, same)) = found
    assert dy == image
    assert other != same


def test_a_view_and_its_copy_give_the_same_bits():
    """Where one copy holds all of it."""
    rng = np.random.default_rng(0)
    x, w = rng.random((4, 16, 20, 21), np.float32), rng.random((8, 16, 3, 3), np.float32)
    plan = fastconv.plan_conv2d(x.shape, w.shape)
    dy = rng.random(plan.output_size, np.float32)
    for view in (crop, every_second_channel, batch_last_memory, VIEWS["negative"]):
        assert plan(view(x), w).tobytes() == plan(x, w).tobytes()
        assert plan.backward_input(view(dy), w).tobytes() == plan.backward_input(dy, w).tobytes()
        assert plan.backward_weight(dy, view(x)).tobytes() == plan.backward_weight(dy, x).tobytes()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.usefixtures("eager")
def test_threads_do_not_change_the_bits_of_views(layout):
    rng = np.random.default_rng(0)
    sizes = layout_shape((6, 24, 20, 21), layout), layout_shape((8, 24, 3, 3), layout)
    plan = fastconv.plan_conv2d(*sizes, layout=layout)
    x, w, dy = (rng.random(size, np.float32) for size in (*sizes, plan.output_size))
    for view in (crop, channels_first_memory, channels_last_memory):
        seen, gradient = view(x), view(dy)
        results = []
        for threads in (1, 2, 5):
            with fastconv.num_threads(threads):
                arrays = (
                    plan(seen, w),
                    plan.backward_input(gradient, w),
                    plan.backward_weight(gradient, seen),
                )
                results.append([array.tobytes() for array in arrays])
        assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("view", ["crop", "channels_last_memory", "channels_first_memory"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("algorithm", ["auto", "indirect/lines", "winograd"])
@pytest.mark.usefixtures("eager")
def test_values_that_are_not_finite_in_views(layout, view, value, algorithm):
    rng = np.random.default_rng(0)
    x, w, dy = rng.random((3, 4, 8, 9)), rng.random((5, 4, 3, 3)), rng.random((3, 5, 6, 7))
    x[2, 1, 4, 8] = w[3, 2, 1, 0] = dy[0, 2, 3, 3] = value
    steps = (1, 1), ((0, 0), (0, 0)), (1, 1), 1
    with np.errstate(invalid="ignore"):  # NumPy's matmul in the oracles warns of infinities
        expected = {
            "forward": ref_conv(x, w, *steps),
            "backward_input": ref_conv_backward_input(dy, w, (8, 9), *steps),
            "backward_weight": ref_conv_backward_weight(dy, x, (3, 3), *steps),
        }
    x, w, dy = (VIEWS[view](to_layout(array, layout)) for array in (x, w, dy))
    plan = fastconv.plan_conv2d(x.shape, w.shape, dtype="float64", layout=layout, algorithm=algorithm)
    results = {
        "forward": plan(x, w),
        "backward_input": plan.backward_input(dy, w),
        "backward_weight": plan.backward_weight(dy, x),
    }
    for which in PASSES:
        assert 0 < np.isfinite(expected[which]).sum() < expected[which].size
        np.testing.assert_allclose(from_layout(results[which], layout), expected[which])


def test_one_value_for_all_channels():
    """A view whose channels are the same tensor."""
    rng = np.random.default_rng(0)
    one, w = integers(rng, (2, 1, 9, 8), np.float32), integers(rng, (4, 6, 3, 3), np.float32)
    x = np.broadcast_to(one, (2, 6, 9, 8))
    expected = ref_conv(x, w, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    assert_equal(fastconv.conv2d(x, w), expected)
    assert_equal(fastconv.conv2d(x.transpose(0, 2, 3, 1), w.transpose(0, 2, 3, 1), layout="NHWC"),
                 expected.transpose(0, 2, 3, 1))  # fmt: skip


def test_views_without_cells():
    for size in ((0, 4, 9, 9), (2, 0, 9, 9)):
        x = np.ones((size[0], 9, 9, size[1]), np.float32).transpose(0, 3, 1, 2)[..., ::-1]
        w = np.ones((3, size[1], 3, 3), np.float32)
        y = fastconv.conv2d(x, w)
        np.testing.assert_array_equal(y, np.zeros((size[0], 3, 7, 7)))
        dw = fastconv.conv2d_backward_weight(y[..., ::-1], x, w.shape)
        np.testing.assert_array_equal(dw, np.zeros(w.shape))


# --- copies -----------------------------------------------------------------------------------------------


@given(
    st.permutations(range(5)),
    st.lists(st.integers(1, 19), min_size=5, max_size=5),
    st.lists(st.sampled_from([1, -1, 2]), min_size=5, max_size=5),
    st.booleans(),
    st.sampled_from([np.float32, np.float64]),
)
@examples(100)
def test_copies_of_any_strides(order, extents, steps, last, dtype):
    """Every order of axes in tensor, with gaps and backwards, by squares wherever there are any."""
    wide = np.arange(np.prod([n * abs(s) for n, s in zip(extents, steps, strict=True)]), dtype=dtype)
    wide = wide.reshape([n * abs(s) for n, s in zip(extents, steps, strict=True)])
    view = wide[tuple(slice(None, None, s) for s in steps)].transpose(order)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in EAGER.items():
            patch.setattr(tensor, name, value)
        for threads in (1, 3):
            with fastconv.num_threads(threads):
                copy = dense(view, last)
                assert contiguous_in(copy, last)
                assert (copy is view) == contiguous_in(view, last)
                np.testing.assert_array_equal(copy, view)


@pytest.mark.parametrize("last", [False, True])
def test_large_copies_in_pieces(last, monkeypatch):
    """Pieces of the longer side, the last one shorter, and lanes that nothing is in."""
    monkeypatch.setattr(tensor, "TRANSPOSED", 2**8)
    lanes = VECTOR_BYTES // 4
    x = np.arange(3 * (2 * lanes + 3) * 71 * 53, dtype=np.float32).reshape(3, 2 * lanes + 3, 1, 71, 53)
    other = np.ascontiguousarray(x if last else x.transpose(0, 2, 3, 4, 1))
    view = other if last else other.transpose(0, 4, 1, 2, 3)
    np.testing.assert_array_equal(dense(view, last), x)
    target = np.empty_like(view)
    assign(target, x)
    np.testing.assert_array_equal(target, x)


def test_a_large_read_only_array_is_not_copied_for_lines():
    x = np.ones((8, 4, 32, 32), np.float32)
    x.flags.writeable = False
    taken = indirect_lines._plain(x)
    assert place(taken) == place(x)
    assert taken.flags.carray
    small = x[:1, :1, :8]
    assert place(indirect_lines._plain(small)) != place(small)
    del x
    gc.collect()
    assert taken.sum() == taken.size


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("view", ["crop", "channels_first_memory", "channels_last_memory", "transposed"])
def test_views_are_copied_some_images_at_a_time(layout, view):
    sizes = [layout_shape(size, layout) for size in ((24, 16, 120, 130), (16, 16, 3, 3))]
    plan = fastconv.plan_conv2d(*sizes, padding=1, layout=layout)
    w = np.ones(sizes[1], np.float32)
    x = VIEWS[view](np.ones(sizes[0], np.float32))
    y, dw = np.empty(plan.output_size, np.float32), np.empty_like(w)
    calls = (
        lambda: plan(x, w, None, y),
        lambda: plan.backward_input(x, w, y),
        lambda: plan.backward_weight(x, x, dw),
    )
    with fastconv.num_threads(2):
        for call in calls:
            call()  # compiles
            tracemalloc.start()
            call()
            held = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert held <= 2 * plan.scratch_bytes + 17 * MIB < x.nbytes + 2 * plan.scratch_bytes


def test_copies_know_their_scratch():
    plan = fastconv.plan_conv2d((64, 64, 28, 28), (64, 64, 3, 3), padding=1)
    g = plan._geometry
    made = Copies(g, choose(g, "forward"), True)
    assert plan.scratch_bytes / 4 < made.scratch_bytes <= 32 * MIB
    assert made.scratch_bytes > 8 * MIB
