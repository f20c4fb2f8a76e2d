"""NumPy's BLAS: which one it is, one thread for it while our own share the work, and idle threads that sleep.

An OpenBLAS that starts threads inside each of our jobs would have more threads than cores, and does
not split the long sums of the backward-weight pass at all (OpenBLAS issue 5629). So the jobs are split
here and each runs BLAS on one thread. A BLAS without the calls below keeps its own threads; the
results are right either way.

After a product OpenBLAS's threads look out for the next one for 2**28 ticks of the processor's clock, some
0.1 s, on cores that our helpers then lack: a convolution on two threads after a matrix product of NumPy
took 5.0 ms instead of 2.5, and 4.4 on one (AVX-512 Zen 5). So they are told to sleep after 2**18 ticks, 0.1
ms, by the variable that OpenBLAS has for it, before our first helper starts. A program that sets
``OPENBLAS_THREAD_TIMEOUT`` itself keeps its choice.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

# The logarithm of the ticks that an idle thread looks out for, and the variable that says it.
IDLE_TICKS = 18
IDLE_VARIABLE = "OPENBLAS_THREAD_TIMEOUT"
# What `openblas_get_parallel` says of a build with threads of its own (1), not with OpenMP's (2).
_OWN_THREADS = 1

# Where a Python thread may be that is in no product of NumPy's: module and function.
_WAITING = {
    ("threading", "wait"),
    ("threading", "join"),
    ("threading", "_wait_for_tstate_lock"),
    ("selectors", "select"),
    ("concurrent.futures.thread", "_worker"),
    ("fastconv.helpers", "_help"),
    ("ipykernel.heartbeat", "run"),
}

# The names OpenBLAS's functions have in NumPy's own wheels, in 64-bit-integer builds and in plain ones.
_SPELLINGS = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")


@cache
def _library() -> ctypes.CDLL | None:
    """The extension module that holds matmul: symbols are looked up in what it is linked with."""
    try:
        from numpy._core import _multiarray_umath as module  # type: ignore[attr-defined]
    except ImportError:  # NumPy 1
        from numpy.core import _multiarray_umath as module  # type: ignore[no-redef]
    try:
        return ctypes.CDLL(module.__file__)
    except OSError:
        return None


@cache
def _function(name: str) -> ctypes._NamedFuncPointer | None:
    for spelling in _SPELLINGS:
        function = getattr(_library(), spelling.format(name), None)
        if function is not None:
            return function  # type: ignore[no-any-return]
    return None


def description() -> str:
    """Name, version and, for OpenBLAS, the core type whose kernels it runs (measured peaks depend on it)."""
    config = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index, call-overload]
    text = f"{config.get('name', 'unknown')} {config.get('version', '')}".strip()
    core = _function("get_corename")
    if core is not None:
        core.restype = ctypes.c_char_p
        text += f", core type {core().decode()}"
    return text


class _IdleThreads:
    """What OpenBLAS's threads do between products."""

    def __init__(self) -> None:
        self.told = False

    def let_sleep(self) -> None:
        """Start OpenBLAS's threads anew, with a short look-out; nothing where it can't be done, or not now.

        Its own function ends the threads, as before each fork, and the next product starts them. It would
        also end those at work on another thread's product, so it waits for a call at which no other Python
        thread can be in one.
        """
        if self.told:
            return
        functions = _restart()
        if functions is None or os.environ.get(IDLE_VARIABLE):
            self.told = True
        elif _nobody_multiplies():
            read_environment, end_threads = functions
            os.environ[IDLE_VARIABLE] = str(IDLE_TICKS)
            try:
                read_environment()
            finally:
                del os.environ[IDLE_VARIABLE]
            end_threads()
            self.told = True

    def description(self) -> str:
        """What idle threads of BLAS do, and who says so."""
        asked = os.environ.get(IDLE_VARIABLE)
        if asked:
            return f"as {IDLE_VARIABLE}={asked} says"
        if _restart() is None:
            return "as this BLAS has it: fastconv can't tell it"
        return f"sleep after 2**{IDLE_TICKS} clock ticks, from fastconv's first call on several threads on"


idle_threads = _IdleThreads()


@cache
def _restart() -> tuple[ctypes._NamedFuncPointer, ctypes._NamedFuncPointer] | None:
    """OpenBLAS's functions that read the environment and that end its threads, called with the GIL held."""
    library, parallel = _library(), _function("get_parallel")
    if library is None or parallel is None or parallel() != _OWN_THREADS:
        return None
    holding = ctypes.PyDLL(library._name)
    functions = getattr(holding, "openblas_read_env", None), getattr(holding, "blas_thread_shutdown_", None)
    return None if None in functions else functions  # type: ignore[return-value]


def _nobody_multiplies() -> bool:
    """Whether every other Python thread is where it waits."""
    own = threading.get_ident()
    places = [
        (frame.f_globals.get("__name__"), frame.f_code.co_name)
        for thread, frame in sys._current_frames().items()
        if thread != own
    ]
    return _WAITING.issuperset(places)


class _OneThread:
    """Counts the calls that want BLAS on one thread: the first sets it, the last restores it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls = 0
        self.before = 1

    def enter(self) -> None:
        get, set_ = _function("get_num_threads"), _function("set_num_threads")
        if get is None or set_ is None:
            return
        with self.lock:
            if self.calls == 0:
                self.before = get()
                set_(1)
            self.calls += 1

    def leave(self) -> None:
        set_ = _function("set_num_threads")
        if set_ is None or _function("get_num_threads") is None:
            return
        with self.lock:
            self.calls -= 1
            if self.calls == 0:
                set_(self.before)


_one_thread = _OneThread()


def _after_fork() -> None:
    """A child forked in the middle of a call never sees that call end: it restores BLAS itself."""
    global _one_thread
    inherited, _one_thread = _one_thread, _OneThread()
    set_ = _function("set_num_threads")
    if inherited.calls and set_ is not None:
        set_(inherited.before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS on one thread inside the block, in the whole process."""
    _one_thread.enter()
    try:
        yield
    finally:
        _one_thread.leave()
