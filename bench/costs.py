"""Measure what `fastconv.algorithms.costs` estimates, and fit it.

    python bench/costs.py draw times.jsonl --seconds 600 --dtype float32 [--suites]
    python bench/costs.py fit times.jsonl
    python bench/costs.py judge times.jsonl

``draw`` times all algorithms on the suites' layers, or on layers drawn at random, one thread; ``fit``
prints the table of costs that describes seven tenths of them best; ``judge`` tells how far ``auto`` is from
the fastest algorithm.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from pprint import pprint
from typing import Any

import numpy as np
from scipy.optimize import nnls

import fastconv
from fastconv.algorithms import ALGORITHMS, PASSES
from fastconv.algorithms.costs import costs_of, terms
from fastconv.bench.cases import load_suite
from fastconv.plan import ConvPlan

PLANS = {1: fastconv.plan_conv1d, 2: fastconv.plan_conv2d, 3: fastconv.plan_conv3d}
LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}
CHANNELS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256, 512)
GROUPS = (1, 1, 1, 2, 4, 8, 16, 32)
EXTENTS = {
    1: (50, 100, 512, 1000, 4096),
    2: (5, 7, 8, 10, 13, 14, 16, 20, 28, 32, 40, 56, 112),
    3: (4, 7, 8, 14, 16),
}
KERNELS = {
    1: ((1,), (3,), (3,), (5,), (9,)),
    2: ((1, 1), (1, 1), (2, 2), (3, 3), (3, 3), (3, 3), (4, 4), (5, 5), (7, 7), (1, 3), (3, 1)),
    3: ((1, 1, 1), (3, 3, 3), (3, 3, 3), (3, 1, 1), (1, 3, 3), (2, 2, 2)),
}
SUITES = ("resnet50", "vgg16", "alexnet", "seeds", "irregular")
# Multiply-adds of a layer.
LEAST, MOST = 2e5, 6e8
# Rounds, and seconds of an algorithm in each; those that take so many times as long as the fastest are
# timed once.
ROUNDS, SECONDS, FAR = 5, 0.003, 2.5
# Terms of an algorithm, at the most, and by how much each of them must make the error smaller.
TERMS, GAIN = 7, 0.003
# Of the layers, one in so many checks the fit.
CHECKED = 0.3


def drawn(rng: random.Random, dtype: str) -> dict[str, Any]:
    """The arguments of a plan, as JSON has them."""
    while True:
        ndim = rng.choice((1, 2, 2, 2, 2, 3))
        kernel = rng.choice(KERNELS[ndim])
        extent = [rng.choice(EXTENTS[ndim])] * ndim
        dilation = rng.choice((1, 1, 1, 1, 2)) if max(kernel) > 1 else 1
        stride = rng.choice((1, 1, 1, 2))
        padding = [dilation * (n // 2) for n in kernel] if rng.random() < 0.8 else [0] * ndim
        batch, groups = rng.choice((1, 2, 8, 16, 32)), rng.choice(GROUPS)
        channels, filters = (rng.choice([n for n in CHANNELS if n % groups == 0]) for _ in range(2))
        work = batch * channels * filters * np.prod(kernel) * np.prod(extent) / stride**ndim / groups
        if channels == filters == groups > 1:
            continue
        if extent[0] <= dilation * (max(kernel) - 1) or not LEAST < work < MOST:
            continue
        layout = rng.choice(LAYOUTS[ndim])
        last = layout[-1] == "C"
        return {
            "ndim": ndim,
            "sizes": [
                [batch, *extent, channels] if last else [batch, channels, *extent],
                [filters, *kernel, channels // groups] if last else [filters, channels // groups, *kernel],
            ],
            "steps": [stride, padding, dilation, groups],
            "dtype": dtype,
            "layout": layout,
        }


def of_suites(dtype: str) -> Iterator[dict[str, Any]]:
    """The layers of the suites, in both layouts, as `drawn` gives them."""
    for suite in SUITES:
        for layer in load_suite(suite):
            sizes = [
                [layer.n, layer.c, layer.h, layer.w],
                [layer.k, layer.c // layer.groups, layer.r, layer.s],
            ]
            steps = [layer.stride, [layer.pad, layer.pad], layer.dilation, layer.groups]
            for layout in LAYOUTS[2]:
                last = [[size[0], *size[2:], size[1]] for size in sizes]
                yield {
                    "ndim": 2,
                    "sizes": last if layout == "NHWC" else sizes,
                    "steps": steps,
                    "dtype": dtype,
                    "layout": layout,
                }


def planned(layer: dict[str, Any], algorithm: str = "auto") -> ConvPlan:
    """The plan of a layer."""
    stride, padding, dilation, groups = layer["steps"]
    sizes = (tuple(size) for size in layer["sizes"])
    return PLANS[layer["ndim"]](
        *sizes, stride, tuple(padding), dilation, groups,
        dtype=layer["dtype"], layout=layer["layout"], algorithm=algorithm,
    )  # fmt: skip


def timed(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of each call: the median of interleaved rounds."""
    times: dict[str, float] = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        times[name] = time.perf_counter() - start
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


def draw(path: Path, layers: Iterator[dict[str, Any]], seconds: float) -> None:
    """Add to a file, a line a layer, until the seconds are over."""
    numbers = np.random.default_rng(0)
    fastconv.set_num_threads(1)
    end = time.monotonic() + seconds
    with path.open("a") as file:
        for layer in layers:
            if time.monotonic() > end:
                return
            dtype = layer["dtype"]
            plans = {algorithm.name: planned(layer, algorithm.name) for algorithm in ALGORITHMS}
            shapes = (*layer["sizes"], planned(layer).output_size)
            x, w, dy = (numbers.standard_normal(shape).astype(dtype) for shape in shapes)
            times = {}
            for which in PASSES:
                arrays = {"forward": (x, w), "backward_input": (dy, w), "backward_weight": (dy, x)}[which]
                calls = {
                    name: lambda plan=plan, which=which, arrays=arrays: (
                        plan(*arrays) if which == "forward" else getattr(plan, which)(*arrays)
                    )
                    for name, plan in plans.items()
                    if which in plan.algorithms
                }
                times[which] = timed(calls)
            file.write(json.dumps({**layer, "times": times}) + "\n")
            file.flush()


Row = tuple[dict[str, float], float]


def rows(path: Path) -> Iterator[tuple[int, str, dict[str, float], dict[str, float]]]:
    """The number of a layer, the pass, its terms, and the seconds of each algorithm."""
    for number, line in enumerate(path.read_text().splitlines()):
        layer = json.loads(line)
        geometry = planned(layer)._geometry
        for which in PASSES:
            times = {costs_of(geometry, name): time for name, time in layer["times"][which].items()}
            yield number, which, terms(geometry, which), times


def fitted(matrix: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, float]:
    """Costs that are not negative, and the error they leave: the root mean square of its logarithm."""
    weights = 1 / seconds
    for _ in range(6):  # towards equal errors of the logarithm
        scaled = matrix * weights[:, None]
        norms = np.linalg.norm(scaled, axis=0) + 1e-300
        costs = nnls(scaled / norms, seconds * weights)[0] / norms
        estimated = np.maximum(matrix @ costs, 1e-9)
        weights = 1 / np.sqrt(estimated * seconds)
    errors = np.clip(np.log(estimated / seconds), -1.5, 1.5)
    return costs, float(np.sqrt(np.mean(errors**2)))


def selected(examples: list[Row]) -> tuple[dict[str, float], float]:
    """The terms that describe the examples best, one after the other, and their costs."""
    names = list(examples[0][0])
    everything = np.array([list(counted.values()) for counted, _ in examples])
    seconds = np.array([time for _, time in examples])
    taken, best = ["call"], np.inf
    while len(taken) < TERMS:
        tries = []
        for name in names:
            if name not in taken:
                columns = [names.index(n) for n in [*taken, name]]
                tries.append((fitted(everything[:, columns], seconds)[1], name))
        error, name = min(tries)
        if error > best - GAIN:
            break
        best = error
        taken.append(name)
    costs, error = fitted(everything[:, [names.index(n) for n in taken]], seconds)
    return {name: float(cost) for name, cost in zip(taken, costs, strict=True) if cost > 0}, error


def fit(paths: list[Path]) -> None:
    """Print the table, in nanoseconds, and how it chooses."""
    measured = [(path, *row) for path in paths for row in rows(path)]
    rng = random.Random(0)
    checked = {key: rng.random() < CHECKED for key in sorted({(str(path), n) for path, n, *_ in measured})}
    examples: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for path, number, which, counted, times in measured:
        for name, seconds in times.items():
            if name != "lattice" and not checked[str(path), number]:
                examples[name, which].append((counted, seconds))
    table: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    errors = {}
    for (name, which), of_pass in sorted(examples.items()):
        costs, errors[name, which] = selected(of_pass)
        table[name][which] = {term: float(f"{cost * 1e9:.3g}") for term, cost in costs.items()}
    pprint(dict(table), width=110, sort_dicts=False)
    pprint({f"{name} {which}": round(error, 2) for (name, which), error in errors.items()})
    for part in (False, True):
        ratios = []
        for path, number, which, counted, times in measured:
            if checked[str(path), number] == part:
                estimated = {
                    name: sum(cost * counted[term] for term, cost in table[name][which].items())
                    for name in times
                    if which in table[name]
                }
                ratios.append(times[min(estimated, key=estimated.__getitem__)] / min(times.values()))
        tell("checked" if part else "fitted", ratios)


def judge(paths: list[Path]) -> None:
    """How far ``auto`` is from the fastest algorithm, and where it is farthest."""
    ratios, far = [], []
    for path in paths:
        for line in path.read_text().splitlines():
            layer = json.loads(line)
            plan = planned(layer)
            for which, times in layer["times"].items():
                name, fastest = plan.algorithms[which], min(times, key=times.__getitem__)
                ratios.append(times[name] / times[fastest])
                far.append((ratios[-1], which, name, fastest, plan.describe().splitlines()[:2]))
    for ratio, which, name, fastest, words in sorted(far, reverse=True)[:20]:
        print(f"{ratio:.2f} {which}: {name}, not {fastest}; {'; '.join(words)}")
    tell("auto", ratios)


def tell(what: str, ratios: list[float]) -> None:
    """A line about times beside the fastest."""
    found = np.array(ratios)
    mean, within, most = np.exp(np.log(found).mean()), (found <= 1.1).mean(), np.quantile(found, 0.99)
    print(f"{what}: {len(found)} passes, {mean:.3f} times the fastest", end="; ")
    print(f"{within:.0%} within 10 %, 99 % within {most:.2f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("draw", "fit", "judge"))
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=300, help="how long to draw")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--suites", action="store_true", help="the suites' layers, each once")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "draw":
        rng = random.Random(options.seed)
        at_random = (drawn(rng, options.dtype) for _ in itertools.count())
        draw(options.files[0], of_suites(options.dtype) if options.suites else at_random, options.seconds)
    elif options.command == "fit":
        fit(options.files)
    else:
        judge(options.files)


if __name__ == "__main__":
    main()
