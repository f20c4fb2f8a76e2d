"""``fastconv tune``: layers in, a file of their fastest algorithms and a table out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from rich.table import Table

from fastconv import tuning
from fastconv.annotations import Layout2d
from fastconv.bench.cases import BenchError, Layer, named_layers
from fastconv.bench.report import WIDTH, Output
from fastconv.config import cpu
from fastconv.engine.algorithm import Pass
from fastconv.geometry import layout_size
from fastconv.outputs import check_file
from fastconv.plan import ConvPlan, plan_conv2d
from fastconv.progress import Progress
from fastconv.threads import get_num_threads, num_threads

Row = tuple[Layer, Mapping[Pass, tuning.Contest]]


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    what: Sequence[str]
    output: Path
    seconds: float
    dtype: str
    layout: Layout2d
    threads: int | None


def run(options: Options) -> None:
    """Tune the layers that ``options`` say, add them to the file, and print what was found.

    The file is written after each layer, so that an interrupt leaves what was found until then.

    Raises
    ------
    BenchError, OutputError
        For whatever the user can put right; nothing has been timed yet where that could be known.
    """
    check_file(options.output)
    with ExitStack() as stack:
        if options.threads is not None:
            try:
                stack.enter_context(num_threads(options.threads))
            except ValueError as error:
                raise BenchError(f"argument --threads: {error}") from None
        try:
            rows = _tuned(options)
        except ValueError as error:
            raise BenchError(str(error)) from None
        console = Output() if Output().is_terminal else Output(width=WIDTH)
        console.print(_table(rows, options))
    console.print(_summary(rows), highlight=False)
    console.print(f"written: {options.output}", highlight=False, soft_wrap=True)


def _tuned(options: Options) -> list[Row]:
    """Time all layers and write the file."""
    layers = [layer for what in options.what for layer in named_layers(what)]
    plans = [_plan(layer, options) for layer in layers]
    answers = tuning.read("--output", options.output) if options.output.is_file() else {}
    rows: list[Row] = []
    with Progress("tuned", len(layers)) as progress:
        for layer, plan in zip(layers, plans, strict=True):
            progress.under_way(layer.name)
            try:
                contests = tuning.tune(plan, options.seconds)
            except MemoryError:
                raise BenchError(f"layer {layer.name!r} needs more memory than there is") from None
            rows.append((layer, contests))
            answers[plan._geometry] = tuning.answer(contests)
            tuning.write("--output", options.output, answers)
            progress.advance()
            progress.tell(f"{layer.name}: {', '.join(map(_change, contests.values()))}")
    return rows


def _plan(layer: Layer, options: Options) -> ConvPlan:
    last = options.layout == "NHWC"
    return plan_conv2d(
        layout_size((layer.n, layer.c, layer.h, layer.w), last),
        layout_size((layer.k, layer.c // layer.groups, layer.r, layer.s), last),
        layer.stride,
        layer.pad,
        layer.dilation,
        layer.groups,
        dtype=options.dtype,
        layout=options.layout,
    )


def _change(contest: tuning.Contest) -> str:
    """What is chosen now, and before."""
    own, best = contest.own.label, contest.best.label
    return best if own == best else f"{best} for {own} ({_gain(contest):.2f})"


def _gain(contest: tuning.Contest) -> float:
    """How many times as fast the tuned choice is."""
    return contest.seconds(contest.own) / contest.seconds(contest.best)


def _table(rows: Sequence[Row], options: Options) -> Table:
    title = f"{options.dtype}, {options.layout}, {get_num_threads()} thread(s), {cpu()}"
    table = Table(title=title, title_justify="left")
    for name in ("layer", "pass", "auto", "ms", "tuned", "ms", "times as fast"):
        right = name in ("ms", "times as fast")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "times as fast")
    for layer, contests in rows:
        name = layer.name
        for which, contest in contests.items():
            kinds = (contest.own, contest.best)
            cells = [cell for k in kinds for cell in (k.label, f"{1e3 * contest.seconds(k):.3f}")]
            table.add_row(name, which, *cells, "" if kinds[0] is kinds[1] else f"{_gain(contest):.2f}")
            name = ""
    return table


def _summary(rows: Sequence[Row]) -> str:
    """How many passes have another algorithm now, and what they gain."""
    gains = [_gain(c) for _, contests in rows for c in contests.values() if c.best is not c.own]
    passes = sum(len(contests) for _, contests in rows)
    if not gains:
        return f"auto's own choice stays in all {passes} passes"
    mean = geometric_mean(gains)
    return f"another algorithm in {len(gains)} of {passes} passes, {mean:.2f} times as fast (geometric mean)"
