"""The command line: ``fastconv demo``, ``explain``, ``bench``, ``tune``, ``info`` and ``warmup``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

_DEMO_NEEDS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "rich": "rich"}
_NETS = ("s000", "s002", "s003", "s004")
_WRONG_USE = 2
# 128 + the signal, as shells report it.
_INTERRUPTED = 130  # SIGINT
_CLOSED_PIPE = 141  # SIGPIPE


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(_WRONG_USE, f"{self.prog}: error: {' '.join(message.split())}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process where it is not given.

    Returns
    -------
    int
        The exit code: 0, 1 where a process of the warm-up ends early, 2 for a wrong option or file, 130 after
        Ctrl-C, 141 where nobody reads the output any more (``fastconv info | head -1``).

    Examples
    --------
    >>> from fastconv.cli import main
    >>> main(["warmup", "--help"])  # doctest: +ELLIPSIS
    usage: fastconv warmup [-h]
    ...
    0
    """
    try:
        code = _run(argv)
        print(end="", flush=True)  # so that a closed pipe is met here, not while Python ends
        return code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _leave_closed_pipes()
        return _CLOSED_PIPE


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], None] = options.command
        command(options)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    return 0


def _leave_closed_pipes() -> None:
    """Turn what nobody reads to the null device: Python writes out what is left in its streams as it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def _parser() -> argparse.ArgumentParser:
    from fastconv import __version__

    parser = _Parser(prog="fastconv", description="Convolution for NumPy, on the CPU.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.set_defaults(command=lambda options: parser.print_help())
    commands = parser.add_subparsers(metavar="command")
    _add_demo(commands)
    _add_explain(commands)
    _add_bench(commands)
    _add_tune(commands)
    _add_command(commands, "info", _info, "show the CPU, BLAS, threads and cache that fastconv uses")
    _add_warmup(commands)
    return parser


def _add_command(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    command: Callable[[argparse.Namespace], None],
    about: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.set_defaults(command=command, parser=parser)
    return parser


def _add_demo(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "train a small network on real images, and race it against plain NumPy"
    add = _add_command(commands, "demo", _demo, about).add_argument
    add("--net", choices=_NETS, default="s000", help="which network (default: %(default)s)")
    add("--data", metavar="FOLDER", help="MNIST's four IDX files (default: scikit-learn's digits)")
    add("--epochs", type=_at_least(1), metavar="N", help="how often to see all images (default: by network)")
    add("--batch", type=_at_least(1), metavar="N", default=10, help="images a step (default: %(default)s)")
    add("--seed", type=_at_least(0), metavar="N", default=0, help="of weights and order (default: 0)")
    add("--threads", type=_at_least(1), metavar="N", help="for fastconv and for NumPy (default: all cores)")
    add("--workers", type=_at_least(1), metavar="N", help="train on so many processes, by Dask")
    add("--picture", type=Path, metavar="FILE", help="where to draw (default: fastconv-demo-NET.png)")
    add("--save", type=Path, metavar="FILE.npz", help="write the trained network")
    add(
        "--load",
        type=Path,
        metavar="FILE.npz",
        help="begin with a saved network; it is trained on only if --epochs is given",
    )


def _add_explain(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "draw a layer's three passes as products, with numbers, as a page for the browser"
    add = _add_command(commands, "explain", _explain, about).add_argument
    add(
        "layer",
        metavar="LAYER",
        help="sizes such as 1x1x5x5-1k3x3, 2x4x9x9-4k3x3s2p1d1g2, 1x1x12-1k3 or 1x1x6x6-max2x2s2",
    )
    add("--html", type=Path, metavar="FILE", help="where to write the page (default: fastconv-LAYER.html)")
    add("--svg", type=Path, metavar="FOLDER", help="write each picture into this folder, too")
    layouts = ("NCHW", "NHWC", "NCW", "NWC", "NCDHW", "NDHWC")
    add("--layout", choices=layouts, help="(default: channels first)")


def _add_bench(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "time layers beside whichever peers are installed"
    parser = _add_command(commands, "bench", _bench, about)
    add = parser.add_argument
    add(
        "what",
        nargs="*",
        default=["resnet50"],
        metavar="WHAT",
        help="suites (resnet50, vgg16, alexnet, mobilenet_v1_depthwise, seeds, irregular), a JSON file of "
        "one, a layer such as 8x64x56x56-64k3x3s1p1d1g1, 'pooling', 'steps' (training steps of the seed "
        "networks), 'start' (import and first call) or 'company' (layers right after a matrix product of "
        "NumPy, on one thread and on all) (default: resnet50)",
    )
    add("--against", type=_names, metavar="PEER,...", help="which peers (default: all that are installed)")
    add(
        "--ours",
        type=_names,
        metavar="NAME,...",
        default=("fastconv",),
        help="fastconv, plan, kernel, or all algorithms",
    )
    add(
        "--passes",
        type=_names,
        metavar="PASS,...",
        default=("forward", "input", "weight"),
        help="which passes",
    )
    add("--dtype", choices=("float32", "float64"), default="float32", help="(default: %(default)s)")
    add("--layout", choices=("NCHW", "NHWC"), default="NCHW", help="(default: %(default)s)")
    add("--threads", type=_at_least(1), metavar="N", default=1, help="for everybody (default: %(default)s)")
    add(
        "--rounds", type=_at_least(2), metavar="N", default=7, help="interleaved turns (default: %(default)s)"
    )
    add("--json", type=Path, metavar="FILE", help="write all results")
    add("--plot", type=Path, metavar="FILE", help="draw how many times as fast each is, layer by layer")
    add("--roofline", type=Path, metavar="FILE", help="draw rates beside what the machine could do")


def _add_tune(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "time the algorithms on layers, and write a file of the fastest"
    add = _add_command(commands, "tune", _tune, about).add_argument
    add(
        "what",
        nargs="+",
        metavar="LAYERS",
        help="suites (resnet50, vgg16, alexnet, mobilenet_v1_depthwise, seeds, irregular), a JSON file of "
        "one, or a layer such as 8x64x56x56-64k3x3s1p1d1g1",
    )
    add(
        "--output",
        type=Path,
        metavar="FILE",
        required=True,
        help="where to write, for FASTCONV_TUNING or load_tuning; other layers in it are kept",
    )
    add("--seconds", type=_seconds, metavar="S", default=0.5, help="for each layer (default: %(default)s)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="(default: %(default)s)")
    add("--layout", choices=("NCHW", "NHWC"), default="NCHW", help="(default: %(default)s)")
    add("--threads", type=_at_least(1), metavar="N", help="to measure with (default: all cores)")


def _add_warmup(commands: argparse._SubParsersAction[_Parser]) -> None:
    add = _add_command(commands, "warmup", _warmup, "compile everything ahead, into the cache").add_argument
    add("--dtype", choices=("float32", "float64"), help="(default: both)")
    add("--processes", type=_at_least(1), metavar="N", help="that compile at a time (default: all cores)")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
        return value

    return number


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return value


def _demo(options: argparse.Namespace) -> None:
    if any(find_spec(module) is None for module in _DEMO_NEEDS):
        *most, last = _DEMO_NEEDS.values()
        options.parser.error(
            f"the demo needs {', '.join(most)} and {last}: pip install scikit-learn matplotlib rich"
        )
    from fastconv.demo.data import DemoError
    from fastconv.demo.run import Options, run
    from fastconv.outputs import OutputError

    wanted = {name: getattr(options, name) for name in Options.__dataclass_fields__}
    try:
        run(Options(**wanted))
    except (DemoError, OutputError) as error:
        options.parser.error(str(error))


def _explain(options: argparse.Namespace) -> None:
    from fastconv import explain
    from fastconv.outputs import OutputError, check_file

    page = options.html or Path(f"fastconv-{options.layer}.html")
    try:
        explanation = explain(options.layer, layout=options.layout)
        check_file(page)
        folder = options.svg
        if folder is not None and folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder}: is not a folder")
    except (ValueError, TypeError, OutputError) as error:
        options.parser.error(str(error))
    explanation.save(page)
    print(f"page: {page}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in explanation.panels:
            explanation.save_panel(name, folder / f"{name}.svg")
            print(f"picture: {folder / f'{name}.svg'}")


def _bench(options: argparse.Namespace) -> None:
    needed = ("rich", "matplotlib") if options.plot or options.roofline else ("rich",)
    if any(find_spec(module) is None for module in needed):
        options.parser.error(f"the bench needs {' and '.join(needed)}: pip install rich matplotlib")
    from fastconv.bench.cases import BenchError
    from fastconv.bench.command import Options, run
    from fastconv.outputs import OutputError

    wanted = {name: getattr(options, name) for name in Options.__dataclass_fields__}
    try:
        run(Options(**wanted))
    except (BenchError, OutputError) as error:
        options.parser.error(str(error))


def _tune(options: argparse.Namespace) -> None:
    if find_spec("rich") is None:
        options.parser.error("the table needs rich: pip install rich")
    from fastconv.bench.cases import BenchError
    from fastconv.bench.tune import Options, run
    from fastconv.outputs import OutputError

    wanted = {name: getattr(options, name) for name in Options.__dataclass_fields__}
    try:
        run(Options(**wanted))
    except (BenchError, OutputError) as error:
        options.parser.error(str(error))


def _info(options: argparse.Namespace) -> None:
    import fastconv

    fastconv.show_config()


def _warmup(options: argparse.Namespace) -> None:
    from fastconv import warmup
    from fastconv.config import cache_path
    from fastconv.cores import usable_cores
    from fastconv.progress import Progress

    labels = list(warmup.steps((options.dtype,) if options.dtype else warmup.DTYPES))
    processes = options.processes or usable_cores()
    if cache_path() is None:
        print("no folder for compiled kernels can be written: they serve this process alone", file=sys.stderr)
        processes = 1
    try:
        with (
            closing(warmup.run(labels, processes)) as done,  # an interrupt ends the processes at once
            Progress("compiled", len(labels)) as progress,
        ):
            for label in done:
                progress.advance()
                progress.under_way(label)
                progress.tell(label)
    except warmup.WorkerError as error:
        options.parser.exit(1, f"{options.parser.prog}: error: {error}\n")
    print(f"compiled: {len(labels)} steps")


if __name__ == "__main__":
    sys.exit(main())
