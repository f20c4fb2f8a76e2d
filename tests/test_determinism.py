"""The same bits for any number of threads, from call to call, and in every process."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, wide_problems
from test_algorithms import NAMES, PASSES, SERVED, plan_of, run

import fastconv
from fastconv import nn

THREADS = (2, 3, 8, 24)


def noisy(p, seed):
    """The operands of a problem as random floats, whose sums differ with their order."""
    rng = np.random.default_rng(seed)
    plan = plan_of(p, "auto")
    sizes = (plan.input_size, plan.weight_size, plan.output_size)
    return [rng.standard_normal(size).astype(p.x.dtype) for size in sizes]


@pytest.mark.parametrize("name", [*NAMES, "auto"])
def test_convolution_for_any_number_of_threads(name):
    @given(wide_problems(**SERVED.get(name, {})), st.integers(0, 2**32 - 1))
    @examples(25)
    def every(p, seed):
        plan, (x, w, dy) = plan_of(p, name), noisy(p, seed)
        for which in plan.algorithms:
            with fastconv.num_threads(1):
                expected = run(plan, which, x, w, dy).tobytes()
            for threads in THREADS:
                with fastconv.num_threads(threads):
                    assert run(plan, which, x, w, dy).tobytes() == expected, (which, threads)

    every()


# Layers of some millions of multiply-adds, which are cut into several jobs and partial sums.
LARGE = {
    "3x3": ((4, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}),
    "3x3 of few channels": ((4, 3, 64, 64), (32, 3, 3, 3), {"padding": 1}),
    "gemm/pixels": ((4, 128, 28, 28), (64, 128, 1, 1), {}),
    "strided": ((4, 32, 56, 56), (64, 32, 5, 5), {"stride": 2, "padding": 2}),
    "depthwise": ((4, 64, 56, 56), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    "groups of eight": ((4, 64, 28, 28), (64, 8, 3, 3), {"padding": 1, "groups": 8}),
    "dilated": ((2, 64, 28, 28), (64, 64, 3, 3), {"padding": 2, "dilation": 2}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", LARGE)
@pytest.mark.parametrize("name", [*NAMES, "auto"])
def test_large_layers_for_any_number_of_threads(name, case, layout, dtype):
    x_size, w_size, arguments = LARGE[case]
    if layout == "NHWC":
        x_size, w_size = ((n, h, w, c) for n, c, h, w in (x_size, w_size))
    plan = fastconv.plan_conv2d(x_size, w_size, **arguments, dtype=dtype, layout=layout, algorithm=name)
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(size).astype(dtype) for size in (x_size, w_size, plan.output_size))
    for which in plan.algorithms:
        results = set()
        for threads in (1, *THREADS, 1):
            with fastconv.num_threads(threads):
                results.add(run(plan, which, x, w, dy).tobytes())
        assert len(results) == 1, which


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("windows", [(2, 2), (3, 2), (3, 1), (5, 3)])
def test_pooling_for_any_number_of_threads(windows, layout, dtype):
    x = np.random.default_rng(0).standard_normal((4, 60, 58, 64)).astype(dtype)
    results = set()
    for threads in (1, *THREADS, 1):
        with fastconv.num_threads(threads):
            y, indices = fastconv.max_pool2d(x, *windows, return_indices=True, layout=layout)
            back = fastconv.max_pool2d_backward(y, indices, x.shape, layout=layout)
            ties = fastconv.max_pool2d_backward_ties(y, x, *windows, layout=layout)
            means = fastconv.avg_pool2d(x, *windows, layout=layout)
            spread = fastconv.avg_pool2d_backward(means, x.shape, *windows, layout=layout)
        results.add(b"".join(a.tobytes() for a in (y, indices, back, ties, means, spread)))
    assert len(results) == 1


PROGRAM = """
import sys
sys.path[:0] = {path!r}
import test_determinism
print(test_determinism.digest())
"""


def digest():
    """Of everything that adds numbers up: all layers and passes, pooling, a few steps of training."""
    sha = hashlib.sha256()
    rng = np.random.default_rng(0)
    for x_size, w_size, arguments in LARGE.values():
        plan = fastconv.plan_conv2d(x_size, w_size, **arguments)
        x, w, dy = (
            rng.standard_normal(size).astype(np.float32) for size in (x_size, w_size, plan.output_size)
        )
        for which in PASSES:
            sha.update(run(plan, which, x, w, dy).tobytes())
        y, indices = fastconv.max_pool2d(x, 3, 2, return_indices=True)
        sha.update(fastconv.max_pool2d_backward(y, indices, x.shape).tobytes())
        sha.update(fastconv.avg_pool2d(x, 3, 2).tobytes())
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, rng=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1800, 10, rng=2)
    )
    loss, optimiser = nn.CrossEntropyLoss(), nn.Adam(net)
    images, digits = rng.random((16, 3, 32, 32), dtype=np.float32), rng.integers(0, 10, 16)
    for _ in range(3):
        loss.forward(net.forward(images), digits)
        net.backward(loss.backward())
        optimiser.step()
    for parameter in net.parameters():
        sha.update(parameter.tobytes())
    return sha.hexdigest()


def test_every_process_computes_the_same():
    here = digest()
    for threads, seed in (("1", "1"), ("3", "2")):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(path=[p for p in sys.path if p])],
            env={**os.environ, "NUMBA_NUM_THREADS": threads, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.strip() == here
