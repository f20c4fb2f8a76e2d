"""Memory: none grows over many calls, none is used beyond the stated scratch, and none left is an error.

`FASTCONV_SEARCH=20` makes the runs of many calls twenty times as long: 100,000 of ever new shapes.
"""

import contextlib
import ctypes
import functools
import gc
import subprocess
import sys
import threading
import tracemalloc
from functools import partial

import guard
import numpy as np
import pytest
from helpers import integers, layout_shape
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from strategies import SEARCH

import fastconv
from fastconv.engine.select import ALGORITHMS

MIB = 2**20
NAMES = ["auto", *(algorithm.label for algorithm in ALGORITHMS)]
PASSES = ("forward", "backward_input", "backward_weight")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def python(program):
    """Run a program in a fresh process and hand back what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-c", program],
        capture_output=True,
        text=True,
        timeout=60 + 120 * SEARCH,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


# --- many calls -------------------------------------------------------------------------------------------

MANY_CALLS = """
import gc, resource, sys, tracemalloc
import numpy as np
import fastconv
from fastconv import nn

cells = np.random.default_rng(0).standard_normal(2**16)
fastconv.set_num_threads(2)
SHAPES = 31 * 29 * 3 * 3 * 4  # for each function, in an order without trend

def call(i):
    "One public function, of a shape that no call before it had."
    which, i = i % 8, i // 8 * 7919 % SHAPES
    h, i = 5 + i % 31, i // 31
    w, i = 5 + i % 29, i // 29
    c, i = 1 + i % 3, i // 3
    stride, i = 1 + i % 3, i // 3
    padding, dtype = i % 2, ("float32", "float64")[i // 2 % 2]
    x = cells[:2 * c * h * w].astype(dtype).reshape(2, c, h, w)
    k = cells[:3 * c * 9].astype(dtype).reshape(3, c, 3, 3)
    if which == 0:
        y = fastconv.conv2d(x, k, None, stride, padding)
        fastconv.conv2d_backward(y, x, k, stride, padding)
    elif which == 1:
        fastconv.conv_transpose2d(x, k.transpose(1, 0, 2, 3), None, stride, padding)
    elif which == 2:
        y, indices = fastconv.max_pool2d(x, 3, stride, padding, return_indices=True)
        fastconv.max_pool2d_backward(y, indices, x.shape)
        fastconv.max_unpool2d(x[..., :2, :2], np.zeros_like(indices, shape=(2, c, 2, 2)), 3)
    elif which == 3:
        y = fastconv.avg_pool2d(x, 3, stride, padding)
        fastconv.avg_pool2d_backward(y, x.shape, 3, stride, padding)
    elif which == 4:
        y = fastconv.adaptive_avg_pool2d(x, (h - 3, w - 2))
        fastconv.adaptive_avg_pool2d_backward(y, x.shape)
        fastconv.adaptive_max_pool2d(x, (3, 2))
    elif which == 5:
        columns = fastconv.im2col(x, 3, 1, padding, stride)
        fastconv.col2im(columns, (h, w), 3, 1, padding, stride)
    elif which == 6:
        plan = fastconv.plan_conv2d(x.shape, k.shape, stride, padding, dtype=dtype)
        plan(x, k)
        try:
            plan(x[1:], k)
        except ValueError:
            pass
    else:
        layer = nn.Conv2d(c, 3, 3, dtype=dtype, rng=0)
        layer.backward(layer(x))

def used():
    if traced:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    with open("/proc/self/statm") as counts:
        return int(counts.read().split()[1]) * resource.getpagesize()

calls, traced = int(sys.argv[1]), sys.argv[2] == "traced"
for i in range(300):  # compiles
    call(i)
if traced:
    tracemalloc.start()
# Until all caches are full: of plans, 512 each, and of poolings, 256 each.
warm = 8 * 520
for i in range(300, warm):
    call(i)
before = used()
for i in range(warm, warm + calls):
    call(i)
print(used() - before)
"""


@linux
@pytest.mark.parametrize("counted", ["resident", *(["traced"] if SEARCH > 1 else [])])
def test_nothing_grows_over_many_calls(counted):
    """Of shapes never seen before, once the caches are full: what the process holds, or what Python does.

    What 1000 cached plans hold, some 12 MiB, is a little more or less as their shapes change.
    """
    calls = (5000 if counted == "resident" else 1000) * SEARCH // (2 if SEARCH == 1 else 1)
    grown = python(f"import sys; sys.argv[1:] = ['{calls}', '{counted}']" + MANY_CALLS)
    assert int(grown[-1]) < (4 * MIB if counted == "resident" else 2 * MIB)


# --- scratch ----------------------------------------------------------------------------------------------

LAYERS = {
    "3x3": ((4, 32, 120, 130), (32, 32, 3, 3), {"padding": 1}),
    "3x3 of many channels": ((2, 256, 28, 28), (256, 256, 3, 3), {"padding": 1}),
    "few channels": ((2, 3, 220, 230), (32, 3, 7, 7), {"stride": 2, "padding": 3}),
    "strided": ((4, 32, 120, 130), (32, 32, 5, 5), {"stride": 3, "padding": 2}),
    "dilated": ((2, 64, 80, 90), (64, 64, 3, 3), {"dilation": 2, "padding": 2}),
    "depthwise": ((4, 64, 120, 130), (64, 1, 3, 3), {"groups": 64, "padding": 1}),
    "groups of eight": ((4, 64, 60, 70), (64, 8, 3, 3), {"groups": 8}),
    "gemm/pixels": ((8, 64, 60, 70), (128, 64, 1, 1), {}),
    "pointwise, strided": ((8, 64, 60, 70), (128, 64, 1, 1), {"stride": 2}),
    "long row": ((2, 16, 1, 100_000), (32, 16, 1, 9), {"padding": (0, 4)}),
    "many images": ((2000, 8, 8, 8), (16, 8, 3, 3), {"padding": 1}),
}


def held(call):
    """The most bytes that NumPy held at once during a call beyond those held before it."""
    call()  # compiles
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_no_pass_holds_more_than_its_scratch(name, case, layout):
    """Beside the scratch that the plan states for each thread: the weights, packed, a few times at most."""
    x_size, w_size, arguments = LAYERS[case]
    sizes = layout_shape(x_size, layout), layout_shape(w_size, layout)
    dtype = np.float64 if name == "auto" and case == "3x3" else np.float32
    plan = fastconv.plan_conv2d(*sizes, **arguments, layout=layout, algorithm=name, dtype=dtype)
    x, w, y = (np.ones(size, dtype) for size in (*sizes, plan.output_size))
    dx, dw, dy = np.zeros_like(x), np.zeros_like(w), y.copy()
    calls = {
        "forward": lambda: plan(x, w, None, y),
        "backward_input": lambda: plan.backward_input(dy, w, dx),
        "backward_weight": lambda: plan.backward_weight(dy, x, dw),
    }
    threads = 2
    limit = threads * plan.scratch_bytes + 10 * w.nbytes + MIB // 4
    assert plan.scratch_bytes <= 32 * MIB
    with fastconv.num_threads(threads):
        for which in plan.algorithms:
            assert held(calls[which]) <= limit, which


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scratch_is_bounded_where_filters_or_lattices_are_many(dtype, layout):
    for x_size, w_size, arguments in (
        ((16, 64, 56, 56), (1024, 64, 3, 3), {"padding": 1}),
        ((8, 64, 28, 28), (2048, 64, 3, 3), {"padding": 1}),
        ((8, 512, 56, 56), (64, 512, 5, 5), {"stride": 2, "dilation": 4, "padding": 8}),
        ((4, 128, 112, 112), (512, 128, 3, 3), {"stride": 2, "dilation": 2, "padding": 2}),
    ):
        sizes = layout_shape(x_size, layout), layout_shape(w_size, layout)
        plan = fastconv.plan_conv2d(*sizes, **arguments, layout=layout, dtype=dtype)
        assert plan.scratch_bytes <= 32 * MIB, plan.describe()


def cells(*shape):
    return np.ones(shape, np.float32)


def pooled(x, **arguments):
    return fastconv.max_pool2d(x, 3, 2, return_indices=True, **arguments)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pooling_holds_little_beside_its_result(layout):
    x = cells(4, 64, 112, 114) if layout == "NCHW" else cells(4, 112, 114, 64)
    y, indices = pooled(x, layout=layout)
    means = fastconv.avg_pool2d(x, 3, 2, layout=layout)
    results = {
        "max": (lambda: pooled(x, layout=layout), y.nbytes + indices.nbytes),
        "max, backward": (
            lambda: fastconv.max_pool2d_backward(y, indices, x.shape, layout=layout),
            x.nbytes,
        ),
        "max, backward to ties": (
            lambda: fastconv.max_pool2d_backward_ties(y, x, 3, 2, layout=layout),
            x.nbytes,
        ),
        "avg": (lambda: fastconv.avg_pool2d(x, 3, 2, layout=layout), means.nbytes),
        "avg, backward": (
            lambda: fastconv.avg_pool2d_backward(means, x.shape, 3, 2, layout=layout),
            x.nbytes,
        ),
        "adaptive avg": (lambda: fastconv.adaptive_avg_pool2d(x, 7, layout=layout), means.nbytes),
        "adaptive max": (lambda: fastconv.adaptive_max_pool2d(x, 7, layout=layout), means.nbytes),
    }
    for which, (call, result) in results.items():
        assert held(call) <= result + MIB, which


def test_columns_hold_nothing_beside_their_result():
    x = cells(4, 16, 100, 110)
    columns = fastconv.im2col(x, 3, padding=1)
    assert held(lambda: fastconv.im2col(x, 3, padding=1)) <= columns.nbytes + MIB // 8
    assert held(lambda: fastconv.col2im(columns, (100, 110), 3, padding=1)) <= x.nbytes + MIB // 8


# --- none left --------------------------------------------------------------------------------------------

# Arrays of fewer bytes are never refused: Python's own errors need some.
SMALLEST = 256
# How many allocations there have been, and which of them fails (none for -1).
counts = np.array([0, -1])
libc = ctypes.CDLL(None)
c_malloc, c_calloc, c_realloc, c_free = libc.malloc, libc.calloc, libc.realloc, libc.free
for function, result, arguments in (
    (c_malloc, ctypes.c_ssize_t, 1), (c_calloc, ctypes.c_ssize_t, 2),
    (c_realloc, ctypes.c_ssize_t, 2), (c_free, None, 1),
):  # fmt: skip
    function.restype, function.argtypes = result, [ctypes.c_ssize_t] * arguments


@functools.cache
def failing_allocator():
    """The system's malloc, calloc, realloc and free, counted by `counts` and failing by it."""
    size, at = types.intp, counts.ctypes.data

    @njit
    def refused(wanted):
        if wanted < SMALLEST:
            return False
        state = carray(address_as_void_pointer(at), 2, np.int64)
        state[0] += 1
        return state[0] - 1 == state[1]

    @cfunc(size(size, size))
    def malloc(_, wanted):
        return 0 if refused(wanted) else c_malloc(max(1, wanted))

    @cfunc(size(size, size, size))
    def calloc(_, count, each):
        return 0 if refused(count * each) else c_calloc(max(1, count), max(1, each))

    @cfunc(size(size, size, size))
    def realloc(_, old, wanted):
        return 0 if refused(wanted) else c_realloc(old, max(1, wanted))

    @cfunc(types.void(size, size, size))
    def free(_, block, __):
        c_free(block)

    return malloc, calloc, realloc, free


@intrinsic
def address_as_void_pointer(context, address):
    """An address in compiled code as a pointer."""

    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), code


@contextlib.contextmanager
def counted_allocations():
    """Let NumPy allocate, in this thread, by `failing_allocator`."""
    before = guard.allocate_by(failing_allocator())
    try:
        yield
    finally:
        guard.handled_by(before)


SMALL_LAYERS = {
    "3x3": ((3, 32, 20, 22), (40, 32, 3, 3), {"padding": 1}),
    "strided": ((3, 8, 21, 22), (16, 4, 5, 5), {"stride": 2, "padding": 2, "groups": 2}),
    "depthwise": ((3, 32, 20, 22), (32, 1, 3, 3), {"groups": 32}),
    "gemm/pixels": ((3, 40, 16, 18), (32, 40, 1, 1), {}),
    "dilated": ((3, 32, 20, 22), (40, 32, 3, 3), {"padding": 2, "dilation": 2}),
}


def convolutions(name, layout):
    """Every pass of an algorithm over every layer that it serves, as (call without `out`, its shape)."""
    rng = np.random.default_rng(0)
    for case, (x_size, w_size, arguments) in SMALL_LAYERS.items():
        sizes = layout_shape(x_size, layout), layout_shape(w_size, layout)
        plan = fastconv.plan_conv2d(*sizes, **arguments, layout=layout, algorithm=name)
        x, w, dy = (integers(rng, s, np.float32) for s in (*sizes, plan.output_size))
        passes = {
            "forward": (partial(plan, x, w), plan.output_size),
            "backward_input": (partial(plan.backward_input, dy, w), sizes[0]),
            "backward_weight": (partial(plan.backward_weight, dy, x), sizes[1]),
        }
        for which in plan.algorithms:
            yield f"{case}, {which}", *passes[which]


def fail_at_each(call):
    """Run a call with its first allocation failing, then with its second, ...: MemoryError, and nothing else.

    What comes afterwards is right, here and in a thread that was computing all the while.
    """
    expected = bytes_of(call())
    with counted_allocations():
        counts[:] = 0, -1
        call()
        for n in range(counts[0]):
            counts[:] = 0, n
            raised = False
            try:
                call()
            except MemoryError:
                raised = True
            # Another thread may have done what asks for the last of them.
            assert raised == (counts[0] > n)
            counts[1] = -1
            assert bytes_of(call()) == expected
    assert bytes_of(call()) == expected


def bytes_of(result):
    return [array.tobytes() for array in (result if isinstance(result, tuple) else [result])]


@contextlib.contextmanager
def another_thread():
    """A thread that has memory, and finds all it computes right."""
    x, w = integers(np.random.default_rng(1), (2, 16, 20, 21)), np.ones((24, 16, 3, 3))
    expected, done, wrong = bytes_of(fastconv.conv2d(x, w)), threading.Event(), []

    def work():
        while not done.is_set():
            try:
                assert bytes_of(fastconv.conv2d(x, w)) == expected
            except BaseException as error:
                wrong.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    done.set()
    thread.join()
    assert not wrong


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", NAMES)
def test_no_memory_for_a_convolution(name, layout):
    """With ``out`` and without, on one thread and on two."""
    with another_thread():
        for i, (_, call, shape) in enumerate(convolutions(name, layout)):
            with fastconv.num_threads(1 + i % 2):
                fail_at_each(call)
                fail_at_each(partial(call, out=np.empty(shape, np.float32)))


def other_calls():
    """Calls of all that is no plain convolution, by name."""
    rng = np.random.default_rng(0)
    x, w = integers(rng, (3, 8, 20, 22), np.float32), integers(rng, (8, 6, 3, 3), np.float32)
    half = integers(rng, (3, 8, 20, 22), np.float16)
    dy = fastconv.conv_transpose2d(x, w)
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    last = np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1]
    return {
        "transposed": lambda: fastconv.conv_transpose2d(x, w, np.ones(6, np.float32)),
        "transposed, backward": lambda: fastconv.conv_transpose2d_backward(dy, x, w),
        "backward": lambda: fastconv.conv2d_backward(
            x[..., 1:-1, 1:-1], x, np.ones((8, 8, 3, 3), np.float32)
        ),
        "float16": lambda: fastconv.conv2d(half, half[:, :, :3, :3]),
        "negative strides": lambda: fastconv.conv2d(last, np.ones((8, 8, 3, 3), np.float32)),
        "im2col": lambda: fastconv.im2col(x, 3),
        "col2im": lambda: fastconv.col2im(np.ones((2, 72, 360), np.float32), (20, 22), 3),
        "conv_matrix": lambda: fastconv.conv_matrix(w, (6, 8, 9)).toarray(),
        "max": lambda: fastconv.max_pool2d(x, 3, 2, 1, return_indices=True),
        "max, backward": lambda: fastconv.max_pool2d_backward(y, indices, x.shape),
        "unpool": lambda: fastconv.max_unpool2d(y, indices, 2),
        "unpool, backward": lambda: fastconv.max_unpool2d_backward(x, indices),
        "avg": lambda: fastconv.avg_pool2d(x, 3, 2, 1),
        "avg, backward": lambda: fastconv.avg_pool2d_backward(y, x.shape, 2),
        "adaptive avg": lambda: fastconv.adaptive_avg_pool2d(x, (7, 5)),
        "adaptive avg, backward": lambda: fastconv.adaptive_avg_pool2d_backward(y, x.shape),
        "adaptive max": lambda: fastconv.adaptive_max_pool2d(x, (7, 5), return_indices=True),
    }


@pytest.mark.parametrize("name", other_calls())
def test_no_memory_for_another_call(name):
    fail_at_each(other_calls()[name])


BEYOND_MEMORY = """
import resource
import numpy as np
import fastconv

image, w = np.ones((1, 8, 64, 64), "float32"), np.ones((16, 8, 3, 3), "float32")
expected = fastconv.conv2d(image, w).tobytes()
fastconv.max_pool2d(image, 2), fastconv.avg_pool2d(image, 2), fastconv.im2col(image, 3)
with open("/proc/self/statm") as counts:
    now = int(counts.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, resource.RLIM_INFINITY))
batch = np.broadcast_to(image, (100_000, 8, 64, 64))  # one image, again and again: no memory
for name, call in {
    "conv": lambda: fastconv.conv2d(batch, w),
    "transposed": lambda: fastconv.conv_transpose2d(batch, w[:8]),
    "gradient": lambda: fastconv.conv2d_backward_input(
        np.broadcast_to(w[:1, :1, :1, :1], (100_000, 16, 62, 62)), w, batch.shape),
    "im2col": lambda: fastconv.im2col(batch, 3),
    "max": lambda: fastconv.max_pool2d(batch, 2),
    "avg": lambda: fastconv.avg_pool2d(batch, 2),
}.items():
    for _ in range(3):
        try:
            call()
        except MemoryError:
            assert fastconv.conv2d(image, w).tobytes() == expected
        else:
            raise AssertionError(name)
"""


@linux
def test_a_batch_that_does_not_fit_into_memory():
    """The limit of the process's address space is the system's word that there is no more."""
    python(BEYOND_MEMORY)
