"""Inside other people's programs: thread pools of every kind, forks, joblib, a user's parallel kernels."""

import os
import subprocess
import sys
import textwrap

import pytest

COMMON = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor
import numpy as np
import numba
import fastconv

fastconv.set_num_threads(2)
rng = np.random.default_rng(0)
x = rng.integers(-3, 4, (4, 16, 32, 33)).astype("float32")
w = rng.integers(-3, 4, (32, 16, 3, 3)).astype("float32")
plan = fastconv.plan_conv2d(x.shape, w.shape, padding=1)
y = plan(x, w)

def passes(_=None):
    grads = fastconv.conv2d_backward(y, x, w, padding=1)
    pooled, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    back = fastconv.max_pool2d_backward(pooled, indices, x.shape)
    means = fastconv.avg_pool2d(x, 3, 2)
    return [a.tobytes() for a in (plan(x, w), *grads, pooled, indices, back, means)]

@numba.njit(parallel=True)
def users_own(a):
    total = 0.0
    for i in numba.prange(a.size):
        total += a.flat[i]
    return total

@numba.njit(parallel=True)
def columns_in_parallel(images, columns):
    for i in numba.prange(len(images)):
        fastconv.kernels.im2col(
            images[i:i + 1], columns[i], 0, 0, 0, (1, 3, 3), (1, 30, 31), (1, 1, 1), (0, 0, 0), (1, 1, 1))

def check_columns():
    images = x.reshape(4, 16, 1, 32, 33)
    columns = np.empty((4, 144, 1, 930), "float32")
    columns_in_parallel(images, columns)
    expected = fastconv.im2col(x, 3)
    return np.array_equal(columns.reshape(expected.shape), expected)

expected = passes()
"""

EIGHT_THREADS = """
barrier = threading.Barrier(8)

def work(_):
    barrier.wait(60)
    return all(passes() == expected for _ in range(3))

with ThreadPoolExecutor(8) as pool:
    assert all(pool.map(work, range(8)))
"""

USERS_KERNELS_AND_OURS = """
assert users_own(np.ones(1000)) == 1000
assert check_columns()
assert passes() == expected
"""

FORK = """
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork beside threads

def child(queue):
    queue.put(passes() == expected)

context = multiprocessing.get_context("fork")
for _ in range(3):
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert passes() == expected  # in the parent, while the child works
    process.join(120)
    assert process.exitcode == 0, process.exitcode
    assert queue.get()
with context.Pool(2) as pool:
    assert all(result == expected for result in pool.map(passes, range(4)))
assert passes() == expected
"""

FORK_WHILE_OTHERS_WORK = """
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)
done = threading.Event()
right = []

def busy():
    while not done.is_set():
        right.append(passes() == expected)

threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads:
    thread.start()
context = multiprocessing.get_context("fork")
for _ in range(10):
    process = context.Process(target=lambda: sys.exit(0 if passes() == expected else 3))
    process.start()
    process.join(60)
    assert process.exitcode == 0, process.exitcode
done.set()
for thread in threads:
    thread.join()
assert right and all(right)
"""

JOBLIB = """
import joblib
for backend in ("threading", "loky"):
    results = joblib.Parallel(n_jobs=3, backend=backend)(
        joblib.delayed(fastconv.conv2d)(x, w, padding=1) for _ in range(6))
    assert all(result.tobytes() == y.tobytes() for result in results)
"""

SET_FROM_SEVERAL = """
def work(i):
    for n in (1, 2, 3, 5):
        fastconv.set_num_threads(n)
        if passes() != expected:
            return False
        with fastconv.num_threads(1 + i % 4):
            if fastconv.get_num_threads() != 1 + i % 4 or passes() != expected:
                return False
    return True

with ThreadPoolExecutor(6) as pool:
    assert all(pool.map(work, range(6)))
"""

INTERRUPTED = """
import os, signal, time

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background has it ignored

images = rng.integers(-3, 4, (16, 128, 56, 56)).astype("float64")
filters = rng.integers(-3, 4, (512, 128, 11, 11)).astype("float64")
error = np.ones((16, 512, 56, 56))
calls = {
    "forward": lambda n: fastconv.conv2d(images[:n], filters, padding=5, algorithm=ALGORITHM),
    "input": lambda n: fastconv.conv2d_backward_input(
        error[:n], filters, images[:n].shape, padding=5, algorithm=ALGORITHM),
    "weight": lambda n: fastconv.conv2d_backward_weight(
        error[:n], images[:n], filters.shape, padding=5, algorithm=ALGORITHM),
}
for name, call in calls.items():
    call(1)  # compiles
    start = time.perf_counter()
    call(2)
    whole = 8 * (time.perf_counter() - start)
    sent = []

    def interrupt():
        time.sleep(whole / 20)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        call(16)
    except KeyboardInterrupt:
        took = time.perf_counter() - sent[0]
        print(name, "returned after", round(took, 2), "s of", round(whole, 2))
        assert took < whole / 2, (name, took, whole)
    else:
        raise AssertionError(f"{name} was not interrupted")
    thread.join()
assert passes() == expected
"""

NO_MORE_THREADS_THAN_ASKED = """
before = threading.active_count()
with fastconv.num_threads(4), ThreadPoolExecutor(8) as pool:
    # A context variable: the workers use the default, which is set here.
    fastconv.set_num_threads(4)
    list(pool.map(passes, range(32)))
    ours = [t for t in threading.enumerate() if t.name.startswith("fastconv")]
    # Eight callers that each may use four threads share three helpers.
    assert len(ours) <= 3, ours
"""

PROGRAMS = {
    "eight threads": EIGHT_THREADS,
    "a user's kernels": USERS_KERNELS_AND_OURS,
    "fork": USERS_KERNELS_AND_OURS + FORK,
    "fork while others work": FORK_WHILE_OTHERS_WORK,
    "set from several threads": SET_FROM_SEVERAL,
    "no more threads than asked": NO_MORE_THREADS_THAN_ASKED,
}


def python(program, **variables):
    """Run a program in a fresh process: an abort there is a failure here."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    # Where pip puts TBB, and the loader does not look.
    libraries = os.pathsep.join(filter(None, [f"{sys.prefix}/lib", os.environ.get("LD_LIBRARY_PATH")]))
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", COMMON + textwrap.dedent(program)],
        env={**kept, "LD_LIBRARY_PATH": libraries, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


THREADING_LAYER = """
assert users_own(np.ones(10)) == 10
print(numba.threading_layer())
"""


@pytest.fixture(scope="module", params=["workqueue", "omp", "tbb"])
def layer(request):
    done = python(THREADING_LAYER, NUMBA_THREADING_LAYER=request.param)
    if done.stdout.strip() != request.param:
        pytest.skip(f"Numba has no {request.param} here")
    return request.param


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
@pytest.mark.parametrize("name", PROGRAMS)
def test_under_every_threading_layer(layer, name):
    done = python(PROGRAMS[name], NUMBA_THREADING_LAYER=layer)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
@pytest.mark.parametrize("algorithm", ["gemm", "im2col"])
def test_a_long_call_is_interrupted(algorithm):
    """Long before it would have ended by itself; afterwards all is as before."""
    done = python(f"ALGORITHM = {algorithm!r}" + INTERRUPTED)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_joblib():
    pytest.importorskip("joblib")
    done = python(JOBLIB)
    assert done.returncode == 0, done.stderr[-3000:]
