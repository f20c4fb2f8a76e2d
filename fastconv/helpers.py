"""Threads that help with a call, and how work reaches them.

A thread that sleeps takes some 45 us until it runs, which is what a core computes 4 million multiply-adds in,
and sleeping helpers would cost that twice a call: at its beginning, and at its end for the thread that waits
for them. So a helper that has done its work stays awake for a while and looks out for the next call, and so
does the thread that waits (56x56, 64 -> 64 channels, 1x1 taps, batch 8, float32, two threads of an AVX-512
Xeon, channels last: 989 us when all slept, 807 since). OpenMP's threads do likewise, and as there
``OMP_WAIT_POLICY=passive`` in the environment lets all of them sleep at once.

Helpers are of use only where they have cores. Idle threads of other libraries may have taken them:
OpenBLAS's are told to sleep (`fastconv.blas`), but those of OpenMP, which PyTorch and others use, look out
for 5 to 200 ms after each of their own calls, and other processes may be at work. So now and then each
thread of a call compares the time that it had a core with the time that went by. Where that is less than
`LEAST_SHARE` in some calls in a row, calls run on their own thread alone for some milliseconds, for longer
each time that the next try ends so. After each product of PyTorch three layers take 0.99 to 1.09 times as
long on two threads as on one, and 1.03 to 1.36 times without this (AVX-512 Zen 5).

Threads look out without the GIL, which the others need meanwhile; but one that finds the GIL taken when it
comes back sleeps. So a flag is seen some microseconds before it is acted upon, in which the thread that
raised it goes from Python into its own first kernel: 50 us between the beginnings of both without that pause,
15 with it.
"""

from __future__ import annotations

import os
import threading
import timeit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, perf_counter, thread_time

import numba
import numpy as np

from fastconv.blas import idle_threads
from fastconv.cores import usable_cores
from fastconv.kernels.waiting import answer_and_look_out, look_out

# Seconds that a thread looks out before it sleeps, and those from seeing a flag to asking for the GIL.
AWAKE = 200e-6
PAUSE = 15e-6
# The share of a core that each thread of a call needs, so that two are faster than one with some room.
LEAST_SHARE = 0.8
# Seconds between measurements of it, and of work that are worth one.
BETWEEN_SHARES, LEAST_WORK = 1e-3, 50e-6
# So many calls in a row, over so many seconds, have too small a share before calls run alone: a system takes
# some milliseconds to part threads that it has put on one core, and only while both want it.
TRIES, TRYING = 4, 10e-3
# Seconds that calls run alone then; twice as many each time that the next try ends so, up to a most.
ALONE, LONGEST_ALONE = 10e-3, 0.1
# Looks whose time is taken to know how long one is: 10 to 50 ns.
_TIMED = 1000

_cores = usable_cores()


class Errand:
    """Work that one helper is asked to do: by a helper, or by nobody once it is taken back."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        self._work: Callable[[], None] | None = work
        self._unclaimed = [None]
        self.done = np.zeros(1, np.int64)
        self._ended = threading.Lock()
        self._ended.acquire()

    def take_back(self) -> bool:
        """Whether nobody has begun it; nobody will then."""
        try:
            self._unclaimed.pop()  # one call of a list's method: no other thread comes between
        except IndexError:
            return False
        self._work = None
        return True

    def run(self) -> None:
        """Do the work, unless it was taken back. The helper raises ``done`` afterwards."""
        work = self._work
        if work is None or not self.take_back():
            return
        try:
            work()
        except BaseException as error:
            self._error = error
        self._ended.release()

    def take_error(self) -> BaseException | None:
        """What the work raised, which is not kept."""
        error, self._error = self._error, None
        return error

    def wait(self, looks: int) -> None:
        """Until a helper has done what it has begun: so many looks awake, and then asleep."""
        if looks == 0 or not look_out(self.done, looks):
            self._ended.acquire()


class _Helper:
    """One that is awake."""

    def __init__(self) -> None:
        self.wanted = np.zeros(1, np.int64)
        self.errand: Errand | None = None


class Crowd:
    """Whether other threads have the cores that helpers need, as the calls of late tell."""

    def __init__(self) -> None:
        self._measured, self._alone_until, self._alone = 0.0, 0.0, ALONE
        # Calls in a row whose threads had too small a share, and when the first of them ended.
        self._failures, self._since = 0, 0.0

    def alone(self) -> bool:
        """Whether a call should do without helpers."""
        return self._alone_until > 0 and monotonic() < self._alone_until

    def is_due(self) -> bool:
        """Whether a call should measure the shares of its threads."""
        return self._failures > 0 or monotonic() - self._measured > BETWEEN_SHARES

    def conclude(self, shares: list[float]) -> None:
        """Draw the conclusion from the shares of a call's threads."""
        self._measured = now = monotonic()
        if min(shares) >= LEAST_SHARE:
            self._failures, self._alone_until, self._alone = 0, 0.0, ALONE
            return
        if self._failures == 0:
            self._since = now
        self._failures += 1
        if self._failures >= TRIES and now - self._since >= TRYING:
            self._failures = 0
            self._alone_until, self._alone = now + self._alone, min(2 * self._alone, LONGEST_ALONE)


class Clock:
    """The share of a core that this thread has from here on."""

    def __init__(self) -> None:
        self._time, self._own = perf_counter(), thread_time()

    def share(self) -> float | None:
        """Up to now; None after too short a time."""
        time, own = perf_counter() - self._time, thread_time() - self._own
        return own / time if time >= LEAST_WORK else None


class Pool:
    """Helper threads shared by all calls, started when first needed."""

    def __init__(self) -> None:
        self.crowd = Crowd()
        self._lock = threading.Lock()
        self._threads = 0
        self._executor: ThreadPoolExecutor | None = None
        self._awake: list[_Helper] = []
        self._looks, self._pause = 0, 0

    def hand_out(self, count: int, work: Callable[[], None]) -> list[Errand]:
        """Ask ``count`` helpers to run ``work``; there may be fewer of them."""
        idle_threads.let_sleep()
        errands: list[Errand] = []
        while len(errands) < count and (helper := self._next_awake()) is not None:
            errands.append(Errand(work))
            helper.errand = errands[-1]
            helper.wanted[0] = 1
        if len(errands) == count:
            return errands
        with self._lock:
            if self._executor is None or self._threads < count:
                # The smaller pool finishes what it has and lets its threads go.
                if self._executor is not None:
                    self._executor.shutdown(wait=False)
                self._time_looks()
                self._executor = ThreadPoolExecutor(count, thread_name_prefix="fastconv")
                self._threads = count
            try:
                while len(errands) < count:
                    # The executor also keeps the work of a thread that it could not start: the caller waits
                    # for whatever begins, so it knows of the errand before.
                    errands.append(Errand(work))
                    self._executor.submit(self._help, errands[-1])
            except RuntimeError:  # no memory for a thread, or the interpreter is shutting down
                pass
        return errands

    def looks(self, helpers: int) -> int:
        """How long to wait awake for so many helpers: not while they have no core."""
        return self._looks if helpers < _cores else 0

    def _time_looks(self) -> None:
        """Count the looks of `AWAKE` and `PAUSE`; also compiles what waits, or reads it from the cache.

        None where the environment says so, nor where kernels run as plain Python, which keeps the GIL.
        """
        passive = os.environ.get("OMP_WAIT_POLICY", "").strip().lower() == "passive"
        if passive or numba.config.DISABLE_JIT:
            return
        down, other = np.zeros(1, np.int64), np.zeros(1, np.int64)
        look_out(down, 1)
        answer_and_look_out(other, down, 1, 1)
        # The shortest of some: another process may come between.
        one = min(timeit.repeat(lambda: look_out(down, _TIMED), number=1, repeat=5)) / _TIMED
        self._looks, self._pause = int(AWAKE / one), int(PAUSE / one)

    def _next_awake(self) -> _Helper | None:
        try:
            return self._awake.pop()
        except IndexError:
            return None

    def _help(self, errand: Errand | None) -> None:
        """What a helper does from when it is woken until it sleeps."""
        helper = _Helper()
        while errand is not None:
            errand.run()
            done, errand, helper.errand = errand.done, None, None
            if self._looks == 0 or len(self._awake) >= _cores - 1:
                done[0] = 1
                return
            helper.wanted[0] = 0
            self._awake.append(helper)
            if not answer_and_look_out(done, helper.wanted, self._looks, self._pause):
                try:
                    self._awake.remove(helper)
                    return
                except ValueError:  # a call has found it just now; it does the work itself if nobody comes
                    if not look_out(helper.wanted, self._looks):
                        return
            errand = helper.errand


_pool = Pool()


def pool() -> Pool:
    """The helpers of this process."""
    return _pool


def _forget_pool() -> None:
    global _pool
    _pool = Pool()


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_forget_pool)
