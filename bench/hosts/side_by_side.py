"""Times of a host's own code beside the same call on fastconv, for the pages in docs/adapters."""

from __future__ import annotations

import os
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


@dataclass(frozen=True)
class Case:
    """One line of the table: the same work by the host alone and by the host on fastconv."""

    label: str
    before: Callable[[], object]
    after: Callable[[], object]


def restart_with_one_thread() -> None:
    """Begin the program anew with one thread in every pool and no pinned BLAS; call it before all imports.

    Puts the program's folder last on the path: a host has the name of the program that times it.
    """
    wanted = {name: "1" for name in _POOLS}
    if any(os.environ.get(name) != value for name, value in wanted.items()) or any(
        name in os.environ for name in _PINS
    ):
        kept = {name: value for name, value in os.environ.items() if name not in _PINS}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**kept, **wanted})
    sys.path.append(sys.path.pop(0))


def compare(
    title: str,
    cases: Sequence[Case],
    rounds: int = 5,
    installed: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Print the medians of interleaved rounds and their ratio; ``after`` is called with ``installed()``."""
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
