"""Compare the speed of the working tree with that of a commit; exit 1 where a layer has become slower.

    python bench/gate.py HEAD~1 --factor 1.10

Both trees are timed by the working tree's ruler (`fastconv.bench`), in processes of their own, in interleaved
rounds. A layer counts as slower when its ratio is over the factor in each of three separate measurements.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastconv.bench.cases import PASSES, POOLING, POOLING_LAYERS, Case, load_suite
from fastconv.bench.runner import TURN_SECONDS, Timing, Worker, environment

ROOT = Path(__file__).resolve().parent.parent
NAMES = {
    "seeds": ["s000_conv1", "s000_conv2", "cs231n"],
    "resnet50": ["r50_56_64-64_3", "r50_56_256-64_1", "r50_56_256-128_1s2", "r50_7_512-512_3"],
    "mobilenet_v1_depthwise": ["mbv1_28_256-256_3g256"],
    "irregular": ["irr_28_256-256_3g32"],
}
TRIES = 3


def cases() -> list[Case]:
    """The short list: three passes of some layers, and pooling."""
    layers = [layer for suite, names in NAMES.items() for layer in load_suite(suite) if layer.name in names]
    convolution = [Case(operation, layer) for layer in layers for operation in PASSES]
    return convolution + [Case(operation, POOLING_LAYERS[3]) for operation in POOLING]


def package_of(tree: Path, folder: Path) -> Path:
    """A folder to put on the path: the package as it is installed, with the working tree's ruler in it."""
    package = folder / "fastconv"
    shutil.copytree(
        tree / "fastconv", package, ignore=shutil.ignore_patterns("__pycache__", "bench", "kernels")
    )
    shutil.copytree(tree / "kernels", package / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    ruler = ROOT / "fastconv" / "bench"
    shutil.copytree(ruler, package / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def check_out(commit: str, folder: Path) -> Path:
    """The files of a commit."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False)
    if archive.returncode:
        sys.exit(f"gate: error: {archive.stderr.decode().strip().splitlines()[0]}")
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def ratio(workers: list[Worker], case: Case, rounds: int) -> float | None:
    """Time of the working tree over that of the commit; None where the commit can't do it."""
    prepared = [worker.ask("prepare", case=case.to_json()) for worker in workers]
    if "seconds" not in prepared[0]:
        sys.exit(f"gate: error: {case.layer.name}, {case.operation}: {prepared[0]}")
    if "seconds" not in prepared[1]:
        return None
    repeats = max(1, min(500, round(TURN_SECONDS / max(prepared[0]["seconds"], 1e-7))))
    timings = [Timing(), Timing()]
    for turn in range(rounds):
        for i in (0, 1) if turn % 2 else (1, 0):
            timings[i].seconds += workers[i].ask("run", repeats=repeats)["seconds"]
    return timings[0].median / timings[1].median


def confirmed(workers: list[Worker], case: Case, rounds: int, factor: float) -> float | None:
    """The ratio; one over the factor is measured again, and the smallest of three counts."""
    found = ratio(workers, case, rounds)
    for _ in range(TRIES - 1):
        if found is None or found <= factor:
            break
        again = ratio(workers, case, rounds)
        found = min(found, again) if again is not None else found
    return found


def main() -> int:
    """Measure and report; 1 where something has become slower."""
    parser = argparse.ArgumentParser(
        prog="gate", description="Fail where the working tree is slower than a commit."
    )
    parser.add_argument("commit")
    parser.add_argument(
        "--factor", type=float, default=1.10, help="how much slower is too slow (default: 1.10)"
    )
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default: 9)")
    parser.add_argument("--threads", type=int, default=1, help="for both (default: 1)")
    options = parser.parse_args()
    table = Table(title=f"working tree / {options.commit}, over {options.factor:.2f} is too slow")
    for column in ("layer", "operation", "time ratio"):
        table.add_column(column)
    slower = compared = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trees = [ROOT, check_out(options.commit, folder / "commit")]
        workers = []
        for tree, side in zip(trees, ("new", "old"), strict=True):
            path = package_of(tree, folder / side)
            env = environment(options.threads, FASTCONV_CACHE_DIR=str(folder / f"cache-{side}"))
            worker = Worker("fastconv", options.threads, env, path)
            found = worker.ask("where")
            if found != {"folder": str(path.resolve() / "fastconv")}:
                sys.exit(f"gate: error: the {side} tree is not what is timed: {found}")
            workers.append(worker)
        for case in cases():
            found = confirmed(workers, case, options.rounds, options.factor)
            too_slow = found is not None and found > options.factor
            slower += too_slow
            compared += found is not None
            text = "new" if found is None else f"{found:.3f}{'  SLOWER' if too_slow else ''}"
            table.add_row(case.layer.name, case.operation, text)
        for worker in workers:
            worker.close()
    Console(width=120).print(table)
    if not compared:
        sys.exit(f"gate: error: {options.commit} can't be timed by the working tree's ruler")
    print(f"{slower} slower" if slower else "nothing is slower")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
