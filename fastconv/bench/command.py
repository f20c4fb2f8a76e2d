"""``fastconv bench``: options in, tables, JSON and a picture out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fastconv.annotations import Layout2d
from fastconv.bench.cases import (
    PASSES,
    POOLING,
    POOLING_LAYERS,
    STEP_LAYERS,
    STEPS,
    BenchError,
    Case,
    cases,
    load_suite,
    parse_layer,
    suite_names,
)
from fastconv.bench.implementations import BY_NAME, OURS, PEERS
from fastconv.bench.report import header, print_tables
from fastconv.bench.runner import Bench, Result
from fastconv.bench.start import PROGRAMS, time_start

# Wide enough for every column when the output goes to a file.
_WIDTH = 200
_PASS_NAMES = {"forward": "forward", "input": "backward_input", "weight": "backward_weight"}


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    what: Sequence[str]
    against: Sequence[str] | None
    ours: Sequence[str]
    passes: Sequence[str]
    dtype: str
    layout: Layout2d
    threads: int
    rounds: int
    json: Path | None
    plot: Path | None


def run(options: Options) -> None:
    """Time what ``options`` say and print it.

    Raises
    ------
    BenchError
        For whatever the user can put right.
    """
    _check_folder(options.json)
    _check_folder(options.plot)
    everything = [case for what in options.what if what != "start" for case in _cases(what, options)]
    if options.plot is not None and not any(case.operation in PASSES for case in everything):
        raise BenchError("nothing to draw: --plot shows passes of convolution layers")
    named = dict.fromkeys(name for one in options.ours for name in (BY_NAME if one == "all" else (one,)))
    implementations = [*_known([*named], OURS, "--ours"), *_peers(options.against)]
    console = Console() if Console().is_terminal else Console(width=_WIDTH)
    if "start" in options.what:
        _start(console, options)
    if everything:
        _layers(console, options, implementations, everything)


def _check_folder(path: Path | None) -> None:
    if path is not None and not path.parent.is_dir():
        raise BenchError(f"{path}: the folder {path.parent} does not exist")


def _known(names: Sequence[str], known: Sequence[str], option: str) -> list[str]:
    for name in names:
        if name not in known:
            raise BenchError(f"{option}: {name!r} is none of {', '.join(known)}")
    return list(names)


def _peers(against: Sequence[str] | None) -> list[str]:
    """The peers that were asked for; those installed where none were."""
    if against is None:
        return [peer for peer in PEERS if find_spec(peer) is not None]
    return _known(against, PEERS, "--against")


def _cases(what: str, options: Options) -> list[Case]:
    """The cases behind one word of the command line."""
    if what == "pooling":
        return cases(POOLING, POOLING_LAYERS, options.dtype, options.layout)
    if what == "steps":
        return cases(STEPS, STEP_LAYERS, "float32", "NCHW")
    for name in options.passes:
        if name not in _PASS_NAMES:
            raise BenchError(f"--passes: {name!r} is none of {', '.join(_PASS_NAMES)}")
    passes = [_PASS_NAMES[name] for name in options.passes]
    written = what not in suite_names() and not Path(what).is_file() and what[:1].isdigit()
    layers = [parse_layer(what)] if written else load_suite(what)
    return cases(passes, layers, options.dtype, options.layout)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _layers(
    console: Console, options: Options, implementations: Sequence[str], everything: Sequence[Case]
) -> None:
    results: list[Result] = []
    with Bench(implementations, options.threads, options.rounds) as bench:
        about = bench.about()
        console.print(header(about), highlight=False, soft_wrap=True)
        console.print()
        with _bar(console) as bar:
            task = bar.add_task("", total=len(everything))
            for case in everything:
                bar.update(task, description=f"{case.layer.name} {case.operation}")
                results.append(bench.time(case))
                bar.advance(task)
    print_tables(console, results)
    if options.json is not None:
        _write_json(options.json, about, results)
    if options.plot is not None:
        from fastconv.bench.plot import draw

        draw(options.plot, results, about)
        console.print(f"picture: {options.plot}", highlight=False)


def _write_json(path: Path, about: dict[str, Any], results: Sequence[Result]) -> None:
    content = {"about": about, "results": [result.to_json() for result in results]}
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from None


def _start(console: Console, options: Options) -> None:
    with _bar(console) as bar:
        task = bar.add_task("import and first call", total=options.rounds * len(PROGRAMS))
        times = time_start(options.threads, options.rounds, lambda: bar.advance(task))
    table = Table(title="a fresh process, seconds", title_justify="left")
    table.add_column("what")
    table.add_column("s", justify="right")
    for label, seconds in times.items():
        table.add_row(label, f"{seconds:.2f}")
    console.print(table)
