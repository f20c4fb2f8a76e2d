"""How far a long command is, on stderr: a bar in a terminal, a line for each part where there is none."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from fastconv import compiling


class Progress:
    """A bar that goes when the work is done; lines where stderr is no terminal, or rich is missing.

    Parameters
    ----------
    label : str
        What the bar or the lines are about.
    total : int
        How many steps there are.

    Examples
    --------
    >>> from fastconv.progress import Progress
    >>> with Progress("layers", 2) as progress:
    ...     progress.under_way("the first")  # in a terminal
    ...     progress.advance()
    ...     progress.tell("the first took 3 ms")  # elsewhere: "layers: 1/2, the first took 3 ms"
    """

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._bar = _bar() if sys.stderr.isatty() and find_spec("rich") else None
        if self._bar is not None:
            self._task = self._bar.add_task(label, total=total, note="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def under_way(self, what: str) -> None:
        """Show in the bar what is being done."""
        if self._bar is not None:
            self._bar.update(self._task, note=what)

    def advance(self) -> None:
        """One step more is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)

    def tell(self, line: str) -> None:
        """Print a line, after how many steps are done, where there is no bar."""
        if self._bar is None:
            print(f"{self._label}: {self._done}/{self._total}, {line}", file=sys.stderr, flush=True)


def _bar() -> Any:
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class Label(progress.ProgressColumn):
        """Rendered at every refresh, so that it follows what the compiler does."""

        def render(self, task: progress.Task) -> Text:
            return Text("compiling kernels" if compiling.active() else task.description)

    return progress.Progress(
        Label(),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
