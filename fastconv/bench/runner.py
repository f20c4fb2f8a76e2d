"""Interleaved timing: one process an implementation, turns taken one after the other, medians of rounds.

Whatever else the machine does, and however its clock drifts, then meets every implementation alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from fastconv.bench.cases import COMPANY, BenchError, Case

# Settings that hold NumPy's OpenBLAS to other kernels than the machine's own: a user's machine has none.
PINS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
# Each turn lasts about this long, or one call where that is longer.
TURN_SECONDS = 0.02
_MOST_REPEATS = 500
# Seconds of a turn on several threads that are not timed: those of BLAS and OpenMP of the turn before are
# awake for up to 0.1 s, and a system that has put this turn's threads on one core takes as long to part them.
WARM_UP = 0.2
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass
class Timing:
    """Seconds of one implementation's calls, all rounds together."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The typical call."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """The middle half of the calls, relative to the median."""
        if len(self.seconds) < 4:
            return 0.0
        first, _, third = quantiles(self.seconds, n=4)
        return (third - first) / self.median


@dataclass
class Result:
    """One case, everybody's timing, and the ceiling that was measured beside it."""

    case: Case
    timings: dict[str, Timing]
    absent: dict[str, str]
    peak_gflops: float

    def gflops(self, implementation: str) -> float:
        """1e9 floating-point operations a second."""
        return self.case.layer.flops / self.timings[implementation].median / 1e9

    def to_json(self) -> dict[str, Any]:
        """As plain types."""
        return {
            "case": self.case.to_json(),
            "peak_gflops": self.peak_gflops,
            "absent": self.absent,
            "seconds": {
                name: {"median": timing.median, "spread": timing.spread, "calls": len(timing.seconds)}
                for name, timing in self.timings.items()
            },
        }


def environment(threads: int, **extra: str) -> dict[str, str]:
    """The environment of a worker: equal thread counts, no pins."""
    kept = {name: value for name, value in os.environ.items() if name not in PINS}
    return {**kept, **dict.fromkeys(_THREAD_SETTINGS, str(threads)), **extra}


class Worker:
    """A process that times one implementation; see `fastconv.bench.worker`."""

    def __init__(
        self,
        implementation: str,
        threads: int,
        env: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.implementation = implementation
        command = [sys.executable, "-m", "fastconv.bench.worker", implementation, str(threads)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("FASTCONV_BENCH_DEBUG") else subprocess.DEVNULL,
            text=True,
            env=env or environment(threads),
            cwd=folder,  # where Python looks first for the package that is timed
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One request and its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"error": f"the process ended with code {self.process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Bench:
    """Workers for some implementations, at one number of threads.

    Parameters
    ----------
    implementations : sequence of str
        Names of the table.
    threads : int
        For each of them.
    rounds : int
        Turns that each takes for every case.
    """

    def __init__(self, implementations: Sequence[str], threads: int, rounds: int = 7) -> None:
        self.threads, self.rounds = threads, rounds
        self.workers = {name: Worker(name, threads) for name in implementations}
        self.ruler = Worker("fastconv", threads)  # measures the ceilings

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in (*self.workers.values(), self.ruler):
            worker.close()

    def about(self) -> dict[str, Any]:
        """What is measured on what."""
        answer = self.ruler.ask("about")
        if "error" in answer:
            raise BenchError(answer["error"])
        pinned = {name: os.environ[name] for name in PINS if name in os.environ}
        return {
            **answer,
            "threads": self.threads,
            "rounds": self.rounds,
            "unset_for_the_workers": pinned,
            "memory_gbytes": self.ruler.ask("memory", threads=self.threads)["gbytes"],
        }

    def time(self, case: Case) -> Result:
        """Everybody's time of one case, in interleaved turns."""
        peak = self.ruler.ask("peak", dtype=case.dtype, threads=self.threads)["gflops"]
        result = Result(case, {}, {}, peak)
        repeats: dict[str, int] = {}
        for name, worker in self.workers.items():
            answer = worker.ask("prepare", case=case.to_json())
            if "seconds" not in answer:
                result.absent[name] = answer.get("absent") or answer["error"]
                continue
            result.timings[name] = Timing()
            repeats[name] = max(1, min(_MOST_REPEATS, round(TURN_SECONDS / max(answer["seconds"], 1e-7))))
        names = list(repeats)
        warm_up = WARM_UP if self.threads > 1 or case.operation in COMPANY else 0.0
        for turn in range(self.rounds if names else 0):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                answer = self.workers[name].ask("run", repeats=repeats[name], warm_up=warm_up)
                if "error" in answer:
                    raise BenchError(f"{name} on {case.layer.name}, {case.operation}: {answer['error']}")
                result.timings[name].seconds += answer["seconds"]
        return result
