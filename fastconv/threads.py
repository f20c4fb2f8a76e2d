"""How many threads work on a call, and how a call's jobs reach them.

Jobs run on Python threads: the kernels and BLAS release the GIL, so Python threads are enough, and they
may be entered from several threads, from workers of other pools and after a fork, which Numba's own
threading layers do not all survive (`workqueue` aborts on concurrent entry, `omp` after a fork).

What is summed, and in which order, depends on the shape alone, never on the number of threads, and no two
jobs write the same cell: results are the same whichever thread takes which job.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fastconv.arguments import whole_number
from fastconv.cores import usable_cores
from fastconv.helpers import Clock, pool

Job = Callable[[int], None]

# Loops over planes or lines are cut into up to this many ranges of at least this many visited cells: a
# job handed to another thread costs some 30 us, in which a core visits tens of thousands.
RANGES = 8
RANGE_CELLS = 2**16

# More threads than this only cost memory; a typing error should not start a million of them.
_MOST_THREADS = 1024


def _default_threads() -> int:
    """The cores this process may use, fewer where the environment asks for fewer threads."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    cores = usable_cores()
    return min(cores, int(asked)) if asked.isdigit() and int(asked) > 0 else cores


_default = _default_threads()
_override: ContextVar[int | None] = ContextVar("fastconv_num_threads", default=None)


def get_num_threads() -> int:
    """Threads that a call made here would use at the most.

    Returns
    -------
    int
        What the innermost `num_threads` block says, else what `set_num_threads` said, else the
        number of usable cores (the affinity mask, a container's limit, ``OMP_NUM_THREADS`` and
        ``NUMBA_NUM_THREADS`` are respected).

    Notes
    -----
    Helper threads stay awake for 0.2 ms after a call, so that the next finds them at work at once; with
    ``OMP_WAIT_POLICY=passive`` in the environment they sleep between calls.

    Examples
    --------
    >>> import fastconv
    >>> with fastconv.num_threads(1):
    ...     fastconv.get_num_threads()
    1
    """
    return _override.get() or _default


def set_num_threads(n: int) -> None:
    """Set how many threads calls use from now on, in the whole process.

    The result of a call does not depend on it, to the last bit.

    Parameters
    ----------
    n : int
        At least 1. More threads than cores are allowed and seldom useful.

    Raises
    ------
    TypeError, ValueError
        If ``n`` is not a whole number from 1 to 1024.

    Examples
    --------
    >>> import fastconv
    >>> before = fastconv.get_num_threads()
    >>> fastconv.set_num_threads(1)
    >>> fastconv.get_num_threads()
    1
    >>> fastconv.set_num_threads(before)
    """
    global _default
    _default = whole_number("n", n, 1, _MOST_THREADS)


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Use ``n`` threads inside a ``with`` block, in this thread (or task) only.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If ``n`` is not a whole number from 1 to 1024.

    Examples
    --------
    >>> import fastconv
    >>> with fastconv.num_threads(2):
    ...     fastconv.get_num_threads()
    2
    """
    token = _override.set(whole_number("n", n, 1, _MOST_THREADS))
    try:
        yield
    finally:
        _override.reset(token)


class _Stopped(BaseException):
    """Raised in a job of a call that has failed elsewhere."""


_running = threading.local()


def checkpoint() -> None:
    """Give up the job that runs here, if another of its call has failed or was interrupted.

    Long jobs pass here about ten times a second; in the main thread Python also sees an interrupt then.
    """
    stopped: threading.Event | None = getattr(_running, "stopped", None)
    if stopped is not None and stopped.is_set():
        raise _Stopped


def run_ranges(units: int, cells: int, run: Callable[[int, int], int | None]) -> int:
    """Run ``run(first, stop)`` over ranges of ``units`` that visit ``cells`` cells in all.

    Returns the sum of what the ranges return.
    """
    if units == 0:
        return 0
    jobs = max(1, min(RANGES, units, cells // RANGE_CELLS))
    if jobs == 1:
        return run(0, units) or 0
    bounds = [units * i // jobs for i in range(jobs + 1)]
    returned = [0] * jobs

    def start_worker() -> Job:
        def job(i: int) -> None:
            returned[i] = run(bounds[i], bounds[i + 1]) or 0

        return job

    run_jobs(jobs, start_worker)
    return sum(returned)


def run_jobs(count: int, start_worker: Callable[[], Job]) -> None:
    """Run jobs 0 to ``count - 1`` on this thread and as many helpers as the settings allow.

    Parameters
    ----------
    count : int
    start_worker : callable
        Called once for every thread that may take part, in the calling thread; returns the function that
        does one job, with whatever scratch a thread needs bound to it. (Memory that helper threads ask for
        goes back to the system after every call, and its pages are faulted in again at the next.)
    """
    helpers = min(get_num_threads(), count) - 1
    if helpers < 1 or pool().crowd.alone():
        if count:
            job = start_worker()
            for i in range(count):
                job(i)
        return
    workers = [start_worker() for _ in range(helpers + 1)]
    remaining = itertools.count()  # next() is atomic under the GIL: each job is taken once
    stopped, crowd = threading.Event(), pool().crowd
    shares: list[float] = []
    is_due = crowd.is_due()

    def work() -> None:
        before, _running.stopped = getattr(_running, "stopped", None), stopped
        try:
            job, clock = workers.pop(), Clock() if is_due else None
            while (i := next(remaining)) < count and not stopped.is_set():
                job(i)
            if clock is not None and (share := clock.share()) is not None:
                shares.append(share)
        except _Stopped:  # the failure itself is raised where it happened
            pass
        except BaseException:
            stopped.set()
            raise
        finally:
            _running.stopped = before

    team = pool()
    errands = team.hand_out(helpers, work)
    try:
        work()
    finally:
        # Helpers that never got a thread (a full pool, a call inside a job) are not waited for:
        # this thread has done their jobs.
        running = [errand for errand in errands if not errand.take_back()]
        try:
            for errand in running:
                errand.wait(team.looks(helpers))
        except BaseException:  # an interrupt: helpers give up their jobs at the next checkpoint
            stopped.set()
            raise
        # Work that was taken back stays in the queue, and would keep its scratch, until a helper is free.
        workers.clear()
    if len(shares) > 1:  # else no helper came in time, which tells nothing
        crowd.conclude(shares)
    errors = [error for error in [errand.take_error() for errand in running] if error is not None]
    if errors:
        try:
            raise errors[0]
        finally:
            del errors  # or the error's traceback would keep itself alive, and the arrays of its frames
