"""Threads: how many, calls from several Python threads, processes that fork."""

import contextlib
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import integers

import fastconv
from fastconv import blas, threads
from fastconv import helpers as helper_threads
from fastconv.helpers import Pool


@pytest.fixture(autouse=True)
def restored():
    before = fastconv.get_num_threads()
    yield
    assert fastconv.get_num_threads() == before
    fastconv.set_num_threads(before)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    x, w = integers(rng, (4, 16, 32, 33), np.float32), integers(rng, (32, 16, 3, 3), np.float32)
    return x, w, fastconv.conv2d(x, w, padding=1)


def test_set_and_get():
    before = fastconv.get_num_threads()
    assert isinstance(before, int)
    assert before >= 1
    fastconv.set_num_threads(1)
    assert fastconv.get_num_threads() == 1
    fastconv.set_num_threads(before)
    assert fastconv.get_num_threads() == before


def test_context_restores_and_nests():
    before = fastconv.get_num_threads()
    with fastconv.num_threads(1):
        assert fastconv.get_num_threads() == 1
        with fastconv.num_threads(2):
            assert fastconv.get_num_threads() == 2
        assert fastconv.get_num_threads() == 1
    assert fastconv.get_num_threads() == before


def test_context_restores_after_an_exception():
    before = fastconv.get_num_threads()

    def fail():
        with fastconv.num_threads(1):
            raise KeyError("inside")

    with pytest.raises(KeyError):
        fail()
    assert fastconv.get_num_threads() == before


def test_an_error_in_the_context_leaves_the_number():
    before = fastconv.get_num_threads()
    with pytest.raises(ValueError, match="must be"), fastconv.num_threads(0):
        pass
    assert fastconv.get_num_threads() == before


def test_a_context_object_used_twice():
    before = fastconv.get_num_threads()
    for _ in range(2):
        with fastconv.num_threads(1):
            assert fastconv.get_num_threads() == 1
        assert fastconv.get_num_threads() == before


def all_passes(x, w, y):
    """One of everything that runs in parallel."""
    out = fastconv.conv2d(x, w, padding=1)
    grads = fastconv.conv2d_backward(y, x, w, padding=1)
    pooled, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    back = fastconv.max_pool2d_backward(pooled, indices, x.shape)
    means = fastconv.avg_pool2d(x, 3, 2)
    return (out, *grads, pooled, indices, back, means)


def same(a, b):
    return all(one.tobytes() == two.tobytes() for one, two in zip(a, b, strict=True))


def test_calls_from_eight_threads_at_once(problem):
    expected = all_passes(*problem)
    barrier = threading.Barrier(8)

    def work(_):
        barrier.wait(30)
        return all(same(all_passes(*problem), expected) for _ in range(5))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_threads_that_set_their_own_number(problem):
    expected = all_passes(*problem)

    def work(n):
        with fastconv.num_threads(1 + n % 3):
            return same(all_passes(*problem), expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(12)))


def test_first_use_in_a_worker_thread(problem):
    x, w, y = problem
    results = []
    thread = threading.Thread(target=lambda: results.append(fastconv.conv2d(x, w, padding=1)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(results[0], y)


def in_child(queue, problem):
    queue.put(
        same(all_passes(*problem), all_passes(*problem)) and (all_passes(*problem)[0] == problem[2]).all()
    )


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
def test_use_fork_use(problem):
    expected = all_passes(*problem)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Python 3.12, and JAX where it is loaded, warn of fork beside threads
        child = context.Process(target=in_child, args=(queue, problem))
        child.start()
    child.join(120)
    alive = child.is_alive()
    if alive:
        child.kill()
    assert not alive, "the child hangs"
    assert child.exitcode == 0
    assert queue.get()
    assert same(all_passes(*problem), expected)


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
def test_a_forked_pool(problem):
    x, w, y = problem
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with multiprocessing.get_context("fork").Pool(2) as pool:
            results = [pool.apply_async(fastconv.conv2d, (x, w), {"padding": 1}) for _ in range(4)]
            for result in results:
                np.testing.assert_array_equal(result.get(120), y)


def test_a_thread_that_can_not_be_started(monkeypatch):
    """The call goes on with those that could, and waits for every job that one of them has begun."""
    started, start = [], threading.Thread.start

    def start_one(thread):
        if thread.name.startswith("fastconv"):
            if started:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        start(thread)

    monkeypatch.setattr(helper_threads, "_pool", Pool())
    monkeypatch.setattr(threading.Thread, "start", start_one)
    caller, done = threading.current_thread(), []

    def job(i):
        if threading.current_thread() is not caller:
            time.sleep(0.2)
        else:
            while not started and len(done) < 3:
                time.sleep(0.001)
            time.sleep(0.01)
        done.append(i)

    with fastconv.num_threads(3):
        threads.run_jobs(4, lambda: job)
    assert sorted(done) == [0, 1, 2, 3]


@pytest.fixture
def new_pool(monkeypatch):
    """Helpers of this test alone, which stay awake for so many seconds where there are two cores."""

    def start(awake):
        monkeypatch.setattr(helper_threads, "_cores", 2)
        monkeypatch.setattr(helper_threads, "AWAKE", awake)
        monkeypatch.setattr(helper_threads, "_pool", pool := Pool())
        return pool

    return start


def shared_jobs(work=lambda i: None):
    """Two jobs, which two threads do: each waits for the other to have begun. Returns who did them."""
    both, names = threading.Barrier(2), {}

    def job(i):
        both.wait(30)
        names[i] = threading.current_thread().name
        work(i)

    with fastconv.num_threads(2):
        threads.run_jobs(2, lambda: job)
    return set(names.values()) - {threading.current_thread().name}


def test_a_helper_that_is_awake_helps_with_the_next_call(new_pool, monkeypatch):
    new_pool(5)
    woken, submit = [], ThreadPoolExecutor.submit

    def counted(executor, *arguments):
        woken.append(arguments)
        return submit(executor, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
    assert len({name for _ in range(3) for name in shared_jobs()}) == 1
    assert len(woken) == 1


def test_a_helper_sleeps_after_a_while(new_pool):
    pool = new_pool(1e-3)
    shared_jobs()
    deadline = time.monotonic() + 30
    while pool._awake and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not pool._awake
    assert shared_jobs()


def test_helpers_sleep_at_once_where_the_environment_says_so(new_pool, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    pool = new_pool(1)
    for _ in range(3):
        assert shared_jobs()
        assert pool.looks(1) == 0
        assert not pool._awake


def test_nobody_looks_out_without_a_core(new_pool):
    pool = new_pool(1)
    shared_jobs()
    assert pool.looks(1) > 0
    assert pool.looks(2) == 0


@pytest.mark.parametrize("awake", [1e-7, 1e-6, 1e-5])
def test_calls_while_helpers_fall_asleep(new_pool, awake):
    """Whenever a call finds a helper that is giving up, its jobs are done once each."""
    new_pool(awake)
    done = []

    def job(i):
        done.append(i)

    with fastconv.num_threads(2):
        for calls in range(1, 3000):
            threads.run_jobs(3, lambda: job)
            assert len(done) == 3 * calls
    assert sorted(done) == sorted([0, 1, 2] * 2999)


def test_callers_that_share_an_awake_helper(new_pool):
    new_pool(1e-4)

    def call(_):
        done = []
        with fastconv.num_threads(2):
            for _ in range(300):
                threads.run_jobs(4, lambda: done.append)
        return sorted(done) == sorted([0, 1, 2, 3] * 300)

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(call, range(8)))


@pytest.mark.parametrize("fails", ["caller", "helper"])
def test_an_error_in_a_job_is_raised_and_the_next_call_works(new_pool, fails):
    new_pool(5)
    caller = threading.current_thread()

    def work(_):
        if (threading.current_thread() is caller) == (fails == "caller"):
            raise ArithmeticError(fails)

    for _ in range(2):
        with pytest.raises(ArithmeticError, match=fails):
            shared_jobs(work)
        assert shared_jobs()


@pytest.mark.parametrize("fails", [False, True])
def test_a_helper_that_is_awake_holds_no_arrays(new_pool, fails):
    new_pool(5)
    caller = threading.current_thread()

    def call():
        array = np.zeros(1)

        def work(_):
            array[0] += 1
            if fails and threading.current_thread() is not caller:
                raise ArithmeticError

        with contextlib.suppress(ArithmeticError):
            shared_jobs(work)
        return weakref.ref(array)

    gc.disable()
    try:
        left = call()
        assert left() is None
    finally:
        gc.enable()


def test_threads_of_kernels_that_run_as_plain_python():
    program = """
import fastconv
from fastconv import threads
done = []
with fastconv.num_threads(2):
    for _ in range(20):
        threads.run_jobs(3, lambda: done.append)
assert sorted(done) == sorted([0, 1, 2] * 20), done
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr


# --- in the company of other threads ------------------------------------------------------------------------


@pytest.fixture
def crowd(monkeypatch):
    """A crowd whose clock stands still, and the means to move it."""
    monkeypatch.setattr(helper_threads, "LEAST_SHARE", 0.8)
    clock = [1000.0]
    monkeypatch.setattr(helper_threads, "monotonic", lambda: clock[0])
    return helper_threads.Crowd(), clock


def fail(crowd, clock):
    """Calls that end with calls running alone, and for how long."""
    for _ in range(helper_threads.TRIES - 1):
        crowd.conclude([1.0, 0.4])
        assert not crowd.alone()
    clock[0] += 1.01 * helper_threads.TRYING
    crowd.conclude([1.0, 0.4])
    assert crowd.alone()
    return crowd._alone_until - clock[0]


def test_calls_run_alone_for_a_while_where_helpers_have_no_core(crowd):
    crowd, clock = crowd
    assert not crowd.alone()
    crowd.conclude([0.9, 1.0])
    assert not crowd.alone()
    pause = fail(crowd, clock)
    clock[0] += 1.01 * pause
    assert not crowd.alone()


def test_a_system_has_time_to_part_threads_that_begin_on_one_core(crowd):
    crowd, clock = crowd
    for _ in range(100):  # in no time
        crowd.conclude([0.5, 0.5])
    assert not crowd.alone()
    crowd.conclude([1.0, 1.0])
    clock[0] += 1
    crowd.conclude([0.5, 0.5])
    assert not crowd.alone()


def test_they_run_alone_for_longer_each_time_and_forget_it(crowd):
    crowd, clock = crowd
    whiles = []
    for _ in range(6):
        whiles.append(fail(crowd, clock))
        clock[0] += 1.01 * whiles[-1]
    assert whiles == pytest.approx([10e-3, 20e-3, 40e-3, 80e-3, 100e-3, 100e-3])
    crowd.conclude([1.0, 1.0])
    assert fail(crowd, clock) == pytest.approx(helper_threads.ALONE)


def test_shares_are_measured_now_and_then_and_while_they_are_small(crowd):
    crowd, clock = crowd
    assert crowd.is_due()
    crowd.conclude([1.0])
    assert not crowd.is_due()
    clock[0] += 2 * helper_threads.BETWEEN_SHARES
    assert crowd.is_due()
    crowd.conclude([0.1])
    assert crowd.is_due()


def test_a_share_is_the_time_on_a_core(monkeypatch):
    shares = []
    for wall, own in ((1.0, 0.25), (1.0, 1.0), (1e-6, 0.0)):
        walls, owns = iter([5.0, 5.0 + wall]), iter([7.0, 7.0 + own])
        monkeypatch.setattr(helper_threads, "perf_counter", lambda walls=walls: next(walls))
        monkeypatch.setattr(helper_threads, "thread_time", lambda owns=owns: next(owns))
        shares.append(helper_threads.Clock().share())
    assert shares == [0.25, 1.0, None]  # the last was too short to say anything


def test_a_call_measures_all_its_threads(monkeypatch):
    pool = Pool()
    monkeypatch.setattr(helper_threads, "_pool", pool)
    concluded = []
    monkeypatch.setattr(pool.crowd, "conclude", concluded.append)
    barrier = threading.Barrier(2)

    def job(i):
        barrier.wait(10)
        time.sleep(0.01)  # without a core

    with fastconv.num_threads(2):
        threads.run_jobs(2, lambda: job)
    ((first, second),) = concluded
    assert max(first, second) < 0.5


def test_a_call_that_no_helper_came_to_tells_nothing(monkeypatch):
    pool = Pool()
    monkeypatch.setattr(helper_threads, "_pool", pool)
    monkeypatch.setattr(pool, "hand_out", lambda count, work: [])
    monkeypatch.setattr(pool.crowd, "conclude", lambda shares: pytest.fail(f"concluded from {shares}"))
    with fastconv.num_threads(2):
        threads.run_jobs(2, lambda: lambda i: time.sleep(0.001))


def threads_of_a_call():
    """Which threads take part in a call of several jobs."""
    seen = set()
    barrier = threading.Barrier(2)

    def job(i):
        seen.add(threading.get_ident())
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(0.5)

    threads.run_jobs(2, lambda: job)
    return len(seen)


def test_a_crowd_s_calls_have_no_helpers(monkeypatch):
    pool = Pool()
    monkeypatch.setattr(helper_threads, "_pool", pool)
    with fastconv.num_threads(2):
        assert threads_of_a_call() == 2
        monkeypatch.setattr(pool.crowd, "alone", lambda: True)
        assert threads_of_a_call() == 1


# --- idle threads of BLAS -----------------------------------------------------------------------------------

IDLE = """
import ctypes, os
import numpy as np
import fastconv
from fastconv import blas, threads

a = np.ones((512, 512))
a @ a
if blas._restart() is None:
    raise SystemExit(3)
running = ctypes.c_int.in_dll(blas._library(), "blas_server_avail")
with fastconv.num_threads(1):
    threads.run_jobs(2, lambda: lambda i: None)
print(blas._library().openblas_thread_timeout(), running.value)
with fastconv.num_threads(2):
    threads.run_jobs(2, lambda: lambda i: None)
print(blas._library().openblas_thread_timeout(), running.value)
assert np.array_equal(a @ a, np.full((512, 512), 512.0))
print(running.value, os.environ.get("OPENBLAS_THREAD_TIMEOUT"))
"""


def test_idle_threads_of_blas_sleep_once_helpers_are_wanted():
    """They are ended with the variable set, and the next product starts them, which reads it."""
    mine = ("OPENBLAS_THREAD", "OPENBLAS_NUM", "OMP_")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", IDLE],
        env={name: value for name, value in os.environ.items() if not name.startswith(mine)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if run.returncode == 3:
        pytest.skip("another BLAS")
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n") == ["0 1", f"{blas.IDLE_TICKS} 0", "1 None", ""]


def test_a_program_s_own_setting_stays(monkeypatch):
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "28")
    monkeypatch.setattr(blas, "_restart", lambda: (pytest.fail, pytest.fail))
    idle = blas._IdleThreads()
    assert "OPENBLAS_THREAD_TIMEOUT=28" in idle.description()
    idle.let_sleep()
    assert idle.told


def test_no_thread_of_blas_is_ended_while_another_may_use_it():
    """Another Python thread is in a product, or may be: it is somewhere else than where threads wait."""
    ends, begins = threading.Event(), threading.Event()

    def multiply():
        begins.set()
        while not ends.is_set():
            pass

    def rest():
        begins.set()
        ends.wait()

    for target, alone in ((multiply, False), (rest, True)):
        ends.clear(), begins.clear()
        other = threading.Thread(target=target)
        other.start()
        begins.wait()
        time.sleep(0.01)
        found = blas._nobody_multiplies()
        ends.set()
        other.join()
        assert found == alone or not blas._nobody_multiplies()  # threads that other tests have left


def test_what_can_not_be_told_is_left_alone(monkeypatch):
    monkeypatch.setattr(blas, "_restart", lambda: None)
    idle = blas._IdleThreads()
    idle.let_sleep()
    assert idle.told
    assert "can't tell" in idle.description()
    monkeypatch.setattr(blas, "_restart", lambda: pytest.fail("asked for"))
    idle.let_sleep()
