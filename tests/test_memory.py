"""Memory: none grows over many calls, none is used beyond the stated scratch, and none left is an error.

`FASTCONV_SEARCH=20` makes the runs of many calls twenty times as long: 100,000 of ever new shapes.
"""

import ctypes
import gc
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import oracles
import pytest
from helpers import integers, layout_shape
from numba import cfunc, types
from strategies import SEARCH

import fastconv
from fastconv.algorithms import ALGORITHMS

MIB = 2**20
NAMES = ["auto", *(algorithm.name for algorithm in ALGORITHMS)]
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
@pytest.mark.parametrize("counted", ["resident", "traced"])
def test_nothing_grows_over_many_calls(counted):
    """Of shapes never seen before, once the caches are full: what the process holds, and what Python does."""
    calls = 5000 * SEARCH // (1 if counted == "resident" else 4)
    grown = python(f"import sys; sys.argv[1:] = ['{calls}', '{counted}']" + MANY_CALLS)
    assert int(grown[-1]) < (4 * MIB if counted == "resident" else MIB // 2)
