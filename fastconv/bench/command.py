"""``fastconv bench``: options in, tables, JSON and a picture out."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fastconv.annotations import Layout2d
from fastconv.bench.about import versions
from fastconv.bench.cases import (
    COMPANY,
    COMPANY_LAYERS,
    PASSES,
    POOLING,
    POOLING_LAYERS,
    STEP_LAYERS,
    STEPS,
    BenchError,
    Case,
    cases,
    named_layers,
)
from fastconv.bench.implementations import BY_NAME, OURS, PEERS
from fastconv.bench.report import WIDTH, Output, header, milliseconds, print_company, print_tables
from fastconv.bench.runner import Bench, Result
from fastconv.bench.start import PROGRAMS, time_start
from fastconv.cores import usable_cores
from fastconv.outputs import check_file, check_picture
from fastconv.progress import Progress

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
    roofline: Path | None


def run(options: Options) -> None:
    """Time what ``options`` say and print it.

    Raises
    ------
    BenchError, OutputError
        For whatever the user can put right; nothing has been timed yet where that could be known.
    """
    check_file(options.json)
    check_picture(options.plot)
    check_picture(options.roofline)
    named = dict.fromkeys(name for one in options.ours for name in (BY_NAME if one == "all" else (one,)))
    implementations = [*_known([*named], OURS, "--ours"), *_peers(options.against)]
    everything = [case for what in options.what for case in _cases(what, options)]
    pictures = [option for option in ("plot", "roofline") if getattr(options, option) is not None]
    if pictures and not any(case.operation in PASSES for case in everything):
        raise BenchError(f"nothing to draw: --{pictures[0]} shows passes of convolution layers")
    console = Output() if Output().is_terminal else Output(width=WIDTH)
    started = _start(console, options) if "start" in options.what else {}
    about, results = _layers(console, options, implementations, everything) if everything else ({}, [])
    company: list[dict[str, Any]] = []
    if "company" in options.what:
        there, company = _company(console, options, implementations)
        about = about or there
    if options.json is not None:
        content = {
            "about": about or versions(),
            "results": [result.to_json() for result in results],
            "start": started,
            "company": company,
        }
        _write_json(options.json, content)
    if pictures:
        from fastconv.bench import plot

        for option in pictures:
            draw = {"plot": plot.draw, "roofline": plot.draw_roofline}[option]
            path: Path = getattr(options, option)
            draw(path, results, about)
            console.print(f"picture: {path}", highlight=False)


def _known(names: Sequence[str], known: Collection[str], option: str) -> list[str]:
    for name in names:
        if name not in known:
            raise BenchError(f"{option}: {name!r} is none of {', '.join(known)}")
    return list(names)


def _peers(against: Sequence[str] | None) -> list[str]:
    """The peers that were asked for; those installed where none were."""
    if against is None:
        return [peer for peer in PEERS if not _missing(peer)]
    peers = _known(against, PEERS, "--against")
    if missing := dict.fromkeys(package for peer in peers for package in _missing(peer)):
        raise BenchError(f"--against: not installed: {', '.join(missing)} (pip install {' '.join(missing)})")
    return peers


def _missing(peer: str) -> list[str]:
    """The packages that a peer needs and that are not installed."""
    return [package for package in (peer, *PEERS[peer]) if find_spec(package) is None]


def _cases(what: str, options: Options) -> list[Case]:
    """The cases behind one word of the command line; none for words that have tables of their own."""
    if what in ("start", "company"):
        return []
    if what == "pooling":
        return cases(POOLING, POOLING_LAYERS, options.dtype, options.layout)
    if what == "steps":
        return cases(STEPS, STEP_LAYERS, "float32", "NCHW")
    for name in options.passes:
        if name not in _PASS_NAMES:
            raise BenchError(f"--passes: {name!r} is none of {', '.join(_PASS_NAMES)}")
    passes = [_PASS_NAMES[name] for name in options.passes]
    return cases(passes, named_layers(what), options.dtype, options.layout)


def _layers(
    console: Console, options: Options, implementations: Sequence[str], everything: Sequence[Case]
) -> tuple[dict[str, Any], list[Result]]:
    """Time the cases and print their tables: what they were measured on, and the results."""
    results: list[Result] = []
    with Bench(implementations, options.threads, options.rounds) as bench:
        about = bench.about()
        console.print(header(about), highlight=False, soft_wrap=True)
        console.print()
        with Progress("timed", len(everything)) as progress:
            for case in everything:
                name = f"{case.layer.name} {case.operation}"
                progress.under_way(name)
                results.append(bench.time(case))
                progress.advance()
                progress.tell(f"{name}: {milliseconds(results[-1])}")
    print_tables(console, results)
    return about, results


def _company(
    console: Console, options: Options, implementations: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Time forward passes alone and after products, on one thread and on all, and print their table."""
    rows = []
    counts = sorted({1, usable_cores()})
    with Progress("timed", len(counts) * len(COMPANY_LAYERS)) as progress:
        for threads in counts:
            with Bench(implementations, threads, options.rounds) as bench:
                about = bench.about()
                for layer in COMPANY_LAYERS:
                    label = f"{layer.name}, threads: {threads}"
                    progress.under_way(label)
                    alone, after = (
                        bench.time(Case(operation, layer, options.dtype, options.layout))
                        for operation in ("forward", *COMPANY)
                    )
                    rows.append((threads, alone, after))
                    progress.advance()
                    progress.tell(f"{label}, after a product: {milliseconds(after)}")
    about["threads"] = " and ".join(map(str, counts))
    console.print(header(about), highlight=False, soft_wrap=True)
    console.print()
    print_company(console, rows)
    return about, [
        {"threads": threads, "alone": alone.to_json(), "after": after.to_json()}
        for threads, alone, after in rows
    ]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from None


def _start(console: Console, options: Options) -> dict[str, float]:
    """Time fresh processes and print their table: seconds by what each did."""
    with Progress("import and first call", options.rounds * len(PROGRAMS)) as progress:

        def done(label: str) -> None:
            progress.advance()
            progress.tell(label)

        times = time_start(options.threads, options.rounds, done)
    table = Table(title="a fresh process, seconds", title_justify="left")
    table.add_column("what")
    table.add_column("s", justify="right")
    for label, seconds in times.items():
        table.add_row(label, f"{seconds:.2f}")
    console.print(table)
    return times
