"""Tables of results, and their sums: ratio to the best peer, geometric mean, worst layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

from rich.console import Console
from rich.table import Table

from fastconv.bench.cases import PASSES
from fastconv.bench.implementations import OURS
from fastconv.bench.runner import Result

# Wide enough for every column when the output goes to a file.
WIDTH = 200


class Output(Console):
    """Rich's console, but that a pipe which nobody reads is told to the caller."""

    def on_broken_pipe(self) -> None:
        """Called inside the handler of the error, which goes on."""
        raise


@dataclass(frozen=True)
class Ratio:
    """How many times as fast the first of ours is as the fastest peer."""

    layer: str
    peer: str
    value: float


def ours(result: Result) -> str | None:
    """The implementation of ours that ratios are about: the first that took part."""
    return next((name for name in result.timings if name in OURS), None)


def best_peer(result: Result) -> str | None:
    """The fastest implementation that is not ours."""
    peers = [name for name in result.timings if name not in OURS]
    return min(peers, key=lambda name: result.timings[name].median, default=None)


def ratio(result: Result) -> Ratio | None:
    """Ours against the best peer; None where one of them is missing."""
    name, peer = ours(result), best_peer(result)
    if name is None or peer is None:
        return None
    value = result.timings[peer].median / result.timings[name].median
    return Ratio(result.case.layer.name, peer, value)


def header(about: dict[str, Any]) -> str:
    """What the table was measured on, in a few lines."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    pins = about["unset_for_the_workers"]
    lines = [
        f"{about['cpu']}, {about['vector_bits']}-bit vectors, {about['threads']} thread(s) each; "
        f"memory {about['memory_gbytes']:.1f} GB/s",
        f"Python {about['python']}, {versions}",
        f"NumPy's BLAS: {about['blas']}"
        + (f" ({', '.join(pins)} unset for the measured processes)" if pins else ""),
        f"tuned: {about['tuned']}",
        f"a process each, {about['rounds']} interleaved rounds, medians; ± half the middle half of calls",
    ]
    return "\n".join(lines)


def print_tables(console: Console, results: Sequence[Result]) -> None:
    """A table for each operation, with the sums under it, and who was absent and why."""
    for operation in dict.fromkeys(result.case.operation for result in results):
        rows = [result for result in results if result.case.operation == operation]
        console.print(_table(operation, rows))
        for line in summary(rows):
            console.print(line, highlight=False)
        console.print()
    _print_absent(console, results)


def _print_absent(console: Console, results: Sequence[Result]) -> None:
    reasons = {f"{name}: {reason}" for result in results for name, reason in result.absent.items()}
    for reason in sorted(reasons):
        console.print(f"not timed: {reason}", style="dim", highlight=False)


def _table(operation: str, rows: Sequence[Result]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row.timings))
    convolution = operation in PASSES
    case = rows[0].case
    table = Table(title=f"{operation}, {case.dtype}, {case.layout}", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for name in names:
        table.add_column(f"{name}\nms", justify="right", no_wrap=True)
        if convolution:
            table.add_column("\nGF/s", justify="right", no_wrap=True)
    if convolution:
        table.add_column("ours,\n% of FMA", justify="right")
    table.add_column("ours / best peer", justify="right", no_wrap=True)
    for row in rows:
        cells = [cell for name in names for cell in _cells(row, name, convolution)]
        if convolution:
            first = ours(row)
            cells.append("" if first is None else f"{100 * row.gflops(first) / row.peak_gflops:.0f}")
        against = ratio(row)
        cells.append("" if against is None else f"{against.value:.2f} ({against.peer})")
        table.add_row(row.case.layer.name, *cells)
    return table


def _cells(row: Result, name: str, convolution: bool) -> list[str]:
    """Milliseconds and, for a convolution, the rate."""
    timing = row.timings.get(name)
    if timing is None:
        return ["-", ""] if convolution else ["-"]
    time = f"{1e3 * timing.median:.3f} ±{50 * timing.spread:.0f}%"
    return [time, f"{row.gflops(name):.1f}"] if convolution else [time]


def print_company(console: Console, rows: Sequence[tuple[int, Result, Result]]) -> None:
    """A table of forward passes alone and right after a matrix product, by the number of threads."""
    case = rows[0][1].case
    names = list(dict.fromkeys(name for _, alone, _ in rows for name in alone.timings))
    title = f"forward, {case.dtype}, {case.layout}: alone, and right after a matrix product of NumPy; ms"
    table = Table(title=title, title_justify="left")
    table.add_column("layer", no_wrap=True)
    table.add_column("threads", justify="right")
    for name in names:
        table.add_column(f"{name}\nalone", justify="right", no_wrap=True)
        table.add_column("\nafter", justify="right", no_wrap=True)
    for threads, alone, after in rows:
        cells = [_cells(row, name, False)[0] for name in names for row in (alone, after)]
        table.add_row(alone.case.layer.words, str(threads), *cells)
    console.print(table)
    _print_absent(console, [row for _, *both in rows for row in both])


def milliseconds(row: Result) -> str:
    """Everybody's time of a case in one line."""
    times = ", ".join(f"{name} {1e3 * timing.median:.3f} ms" for name, timing in row.timings.items())
    return times or "timed by nobody"


def summary(rows: Sequence[Result]) -> list[str]:
    """Geometric mean and worst layer, against the best peer and against each."""
    lines = []
    ratios = [found for row in rows if (found := ratio(row)) is not None]
    peers = list(dict.fromkeys(name for row in rows for name in row.timings if name not in OURS))
    if len(peers) > 1 and ratios:
        worst = min(ratios, key=lambda found: found.value)
        mean = geometric_mean(found.value for found in ratios)
        lines.append(
            f"against the best peer of each layer: geometric mean {mean:.2f}, "
            f"worst {worst.value:.2f} ({worst.layer}, {worst.peer})"
        )
    for peer in peers:
        pairs = [
            (row.timings[peer].median / row.timings[name].median, row.case.layer.name)
            for row in rows
            if peer in row.timings and (name := ours(row)) is not None
        ]
        if pairs:
            value, layer = min(pairs)
            mean = geometric_mean(pair[0] for pair in pairs)
            lines.append(f"against {peer}: geometric mean {mean:.2f}, worst {value:.2f} ({layer})")
    return lines + choices(rows)


def choices(rows: Sequence[Result]) -> list[str]:
    """What ``auto`` chose against the fastest of the algorithms that were timed by name."""
    losses = []
    for row in rows:
        named = {name: t.median for name, t in row.timings.items() if name.startswith("fastconv:")}
        if named and "fastconv" in row.timings:
            best = min(named, key=lambda name: named[name])
            losses.append((row.timings["fastconv"].median / named[best], row.case.layer.name, best))
    if not losses:
        return []
    mean, near = geometric_mean(loss for loss, *_ in losses), sum(loss <= 1.05 for loss, *_ in losses)
    loss, layer, best = max(losses)
    return [
        f"auto against the fastest algorithm: within 5 % on {near} of {len(losses)} layers, "
        f"geometric mean {mean:.2f} times its time, worst {loss:.2f} ({layer}, {best})"
    ]
