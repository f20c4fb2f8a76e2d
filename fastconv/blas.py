"""NumPy's BLAS: which one it is, and one thread for it while our own threads share the work.

An OpenBLAS that starts threads inside each of our jobs would have more threads than cores, and does
not split the long sums of the backward-weight pass at all (OpenBLAS issue 5629). So the jobs are split
here and each runs BLAS on one thread. A BLAS without the calls below keeps its own threads; the
results are right either way.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

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
