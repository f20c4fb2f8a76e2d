"""Times of a host's own code beside the same call on fastconv, for the pages in docs/adapters."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.table import Table

# Read by the libraries when they are loaded.
_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Hold NumPy's OpenBLAS to other kernels than the machine's own.
_PINS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")

# Set in the processes that time.
_HELD = "FASTCONV_HOSTS_THREADS"


@dataclass(frozen=True)
class Case:
    """One line of the table: the same work by the host alone and by the host on fastconv."""

    label: str
    before: Callable[[], object]
    after: Callable[[], object]


def hold_threads() -> int:
    """How many threads each pool has; call it before all other imports.

    The program's option ``--threads N`` says it; without one the program runs twice, on one thread and on
    all cores. Each run is a process of its own, in whose environment the pools find their sizes and no pinned
    BLAS. Puts the program's folder last on the path: a host has the name of the program that times it.
    """
    if _HELD not in os.environ:
        parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
        parser.add_argument("--threads", type=int, metavar="N", help="default: one, then all")
        options, others = parser.parse_known_args()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for threads in [options.threads] if options.threads else sorted({1, cores}):
            held = dict.fromkeys((*_POOLS, _HELD), str(threads))
            kept = {name: value for name, value in os.environ.items() if name not in _PINS}
            done = subprocess.run([sys.executable, sys.argv[0], *others], env={**kept, **held}, check=False)
            if done.returncode:
                sys.exit(done.returncode)
        sys.exit()
    sys.path.append(sys.path.pop(0))
    return int(os.environ[_HELD])


def compare(
    title: str,
    cases: Sequence[Case],
    rounds: int = 5,
    installed: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Print the medians of interleaved rounds and their ratio; ``after`` is called with ``installed()``."""
    threads = os.environ[_HELD]
    title = f"{title}; {'one thread' if threads == '1' else f'{threads} threads'}"
    table = Table("", "before, ms", "after, ms", "times as fast", title=title)
    for case in cases:
        case.before()  # pages touched
        with installed():
            case.after()  # compiled
        before, after = [], []
        for _ in range(rounds):
            before.append(_seconds(case.before))
            with installed():
                after.append(_seconds(case.after))
        slow, fast = median(before), median(after)
        table.add_row(case.label, f"{slow * 1e3:.2f}", f"{fast * 1e3:.2f}", f"{slow / fast:.1f}")
    Console(width=110).print(table)


def _seconds(call: Callable[[], object], shortest: float = 0.05) -> float:
    """Seconds of one call: the mean of as many as fill ``shortest`` seconds."""
    start, calls = perf_counter(), 0
    while calls == 0 or perf_counter() - start < shortest:
        call()
        calls += 1
    return (perf_counter() - start) / calls
