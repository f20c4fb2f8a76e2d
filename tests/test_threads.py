"""Threads: how many, calls from several Python threads, processes that fork."""

import multiprocessing
import os
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import integers

import fastconv
from fastconv import threads


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

    monkeypatch.setattr(threads, "_pool", threads._Pool())
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
