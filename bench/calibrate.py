"""Measure a machine for the choice of algorithms: time all of them on many layers, and fit their estimates.

    python bench/calibrate.py                       # all of it, half an hour: this machine's two files
    python bench/calibrate.py record times.txt --minutes 5 --seed 1
    python bench/calibrate.py fit tests/times/znver5.txt.xz
    python bench/calibrate.py score tests/times/znver5.txt.xz --show 20
    python bench/calibrate.py worth tests/times/znver5.txt.xz

The first writes ``tests/times/<cpu>.txt.xz``, the times of every algorithm on the suites' layers and on
others that are drawn at random (`random_layers`), and ``fastconv/engine/machines/<cpu>.json``, the
nanoseconds that estimates multiply their counts with (`fitting`). Nothing else should run meanwhile.
``score`` tells how much longer than the fastest algorithm the chosen ones take, of drawn layers and of the
suites; ``worth`` how much slower the fastest would be without each algorithm.

What a fit is worth shows on layers that it has not seen, those of another seed::

    python bench/calibrate.py record unseen.txt --minutes 8 --seed 1
    python bench/calibrate.py score unseen.txt --show 20
"""

from __future__ import annotations

import argparse
import itertools
import json
import lzma
import math
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import fitting
import numpy as np
from random_layers import Layer, drawn, label, of_suites, read
from rich.progress import track

import fastconv
from fastconv import warmup
from fastconv.config import cpu_name
from fastconv.cores import usable_cores
from fastconv.engine.algorithm import PASSES
from fastconv.engine.estimates import estimate
from fastconv.engine.machine import FOLDER, Machine, costs_of, nearest, this_machine
from fastconv.engine.problem import Problem
from fastconv.engine.select import ALGORITHMS, candidates, serving
from fastconv.plan import ConvPlan

TIMES = Path(__file__).resolve().parent.parent / "tests" / "times"
# Rounds, and seconds of an algorithm in each; those that take so many times as long as the fastest are
# timed once.
ROUNDS, SECONDS, FAR = 5, 0.003, 2.5
# Those that take so many times as long, and so many seconds, when they are called for the first time are not
# called again.
VERY_FAR, LONG = 8, 0.1
# Of algorithms that compute in the other layout so many are timed: those that are estimated the least.
REORDERED = 2
SUITE_MINUTES, MINUTES = 7, 20


def _taken(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def timed(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of each call: the median of interleaved rounds."""
    times: dict[str, float] = {}
    for name, call in calls.items():
        # The first call makes the pass, and may load its kernels.
        found = [_taken(call)]
        if found[0] < LONG or found[0] < VERY_FAR * min(times.values(), default=math.inf):
            found = [_taken(call) for _ in range(2)]
        times[name] = min(found)
    near = [name for name in calls if times[name] < FAR * min(times.values())]
    rounds: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name in near:
            start, count, taken = time.perf_counter(), 0, 0.0
            while taken < SECONDS:
                calls[name]()
                count, taken = count + 1, time.perf_counter() - start
            rounds[name].append(taken / count)
    return times | {name: statistics.median(each) for name, each in rounds.items()}


def recorded(layer: Layer) -> Layer:
    """The layer with the times of every algorithm that serves it."""
    geometry, numbers = layer.geometry, np.random.default_rng(0).standard_normal(2**16).astype(layer.dtype)
    x, w, dy = (
        np.resize(numbers, size) for size in (geometry.input_size, geometry.weight_size, geometry.output_size)
    )
    arrays = {"forward": (x, w), "backward_input": (dy, w), "backward_weight": (dy, x)}
    times = {}
    for which in PASSES:
        calls = {}
        kinds, problem = candidates(geometry, which), Problem(geometry, which)
        turned = sorted(
            (kind for kind in kinds if kind not in ALGORITHMS), key=lambda kind: estimate(kind, problem)
        )
        for kind in [*serving(geometry, which), *turned[:REORDERED]]:
            plan = ConvPlan(geometry, "auto", {which: kind})
            run = plan if which == "forward" else getattr(plan, which)
            calls[label(kind)] = lambda run=run, operands=arrays[which]: run(*operands)
        times[which] = {name: 1e6 * taken for name, taken in timed(calls).items()}
    return replace(layer, times=times)


def record(path: Path, layers: Iterator[Layer], minutes: float) -> None:
    """Add a line a layer to a file, until the time is over; every kernel is compiled before."""
    for _ in warmup.run(list(warmup.steps(warmup.DTYPES)), usable_cores()):
        pass
    end = time.monotonic() + 60 * minutes
    with path.open("a", encoding="utf-8") as file:
        for layer in layers:
            if time.monotonic() > end:
                return
            file.write(f"{recorded(layer)}\n")
            file.flush()


def layers_of(paths: Sequence[Path]) -> list[Layer]:
    """What was recorded, in files that may be compressed."""
    texts = ((lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") for path in paths)
    found = []
    for text in texts:
        with text:
            found += [read(line) for line in text]
    return found


def write_fit(layers: Sequence[Layer], path: Path, machine: Machine) -> None:
    """Fit, and write what a machine's file holds."""
    found = {
        **machine._asdict(),
        "measured_on": f"{cpu_name()}, {date.today()}, {len(layers)} layers, one thread",
        "nanoseconds": fitting.fitted(fitting.rows(layers)),
    }
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def score(layers: Sequence[Layer], name: str, show: int) -> None:
    """Tell how good the choice is by a machine's nanoseconds."""
    suites = [layer for layer in layers if layer.suite != "-"]
    at_random = [layer for layer in layers if layer.suite == "-"]
    costs = costs_of(name)
    for what, of_kind in (("drawn", at_random), ("suites", suites)):
        found = [(*fitting.ratio(row, costs), row) for row in fitting.rows(of_kind)]
        if found:
            print(f"{what}: {fitting.Score.of([times for times, _, _ in found])}")
        for times, kind, row in sorted(found, key=lambda one: -one[0])[:show]:
            fastest = min(row.times, key=row.times.__getitem__)
            words = str(row.layer).split(" |")[0]
            print(f"  {times:.2f} {row.problem.which}: {kind.name}, not {fastest.name}: {words}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command", nargs="?", choices=("all", "record", "fit", "score", "worth"), default="all"
    )
    parser.add_argument("files", type=Path, nargs="*", help="recorded times; this machine's without any")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long layers are drawn")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn layers")
    parser.add_argument("--suites", action="store_true", help="record the suites' layers instead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--machine", help="whose file is fitted, or scored by")
    parser.add_argument("--show", type=int, default=0, help="so many of the passes that are farthest off")
    options = parser.parse_args()
    machine, rng = this_machine(), random.Random(options.seed)
    files = options.files or [TIMES / f"{machine.cpu}.txt.xz"]
    fastconv.set_num_threads(options.threads)
    at_random = (drawn(rng) for _ in itertools.count())
    if options.command == "all":
        plain = TIMES / f"{machine.cpu}.txt"
        plain.unlink(missing_ok=True)
        record(plain, track(list(of_suites()), "suites"), SUITE_MINUTES)
        record(plain, at_random, options.minutes)
        files[0].write_bytes(lzma.compress(plain.read_bytes()))
        plain.unlink()
    if options.command == "record":
        record(files[0], of_suites() if options.suites else at_random, options.minutes)
    layers = layers_of(files)
    if options.command in ("all", "fit"):
        write_fit(layers, FOLDER / f"{options.machine or machine.cpu}.json", machine)
        print(f"wrote {options.machine or machine.cpu}.json; score it in a new process")
    if options.command == "score":
        score(layers, options.machine or nearest(machine), options.show)
    if options.command == "worth":
        for name, found in fitting.worth(fitting.rows(layers)).items():
            print(f"without {name}: {found}")


if __name__ == "__main__":
    sys.exit(main())
