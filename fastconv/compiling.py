"""What is said while kernels are compiled, which a first call waits for.

A process that has compiled for a second says so once, through the logger ``fastconv`` at the level INFO,
and on stderr where that is a terminal and the program has no logging of its own. To say nothing:
``logging.getLogger("fastconv").setLevel("WARNING")``; to wait ahead, once on a machine: ``fastconv
warmup``.
"""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from numba.core import event

# Seconds of compiling in a process after which a line says so.
PATIENCE = 1.0
MESSAGE = (
    "compiling kernels for this machine; later processes find them in the cache "
    "(`fastconv warmup` compiles all of them ahead)"
)

_logger = logging.getLogger("fastconv")


if TYPE_CHECKING:
    _Handler = logging.StreamHandler[Any]
else:
    _Handler = logging.StreamHandler  # takes no subscript on Python 3.10


class _Terminal(_Handler):
    """stderr where a person looks at it, unless the program has handlers that say it."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr
        if stream is not None and stream.isatty() and not logging.getLogger().handlers:
            self.stream = stream
            super().emit(record)


class _Watch(event.Listener):  # type: ignore[misc]
    """Adds up the time in which kernels are compiled, and says when it becomes long."""

    def __init__(self) -> None:
        self.depth = 0  # compilations that are under way: a kernel's callees are compiled within its own
        self._since, self._spent = 0.0, 0.0
        self._timer: threading.Timer | None = None
        self._said = False

    def on_start(self, event: Any) -> None:
        """A compilation begins."""
        if not _is_ours(event):
            return
        self.depth += 1
        if self.depth == 1 and not self._said:
            self._since = perf_counter()
            self._timer = threading.Timer(max(0.0, PATIENCE - self._spent), self._say)
            self._timer.daemon = True
            with suppress(RuntimeError):  # no memory for a thread: the call goes on without a word
                self._timer.start()

    def on_end(self, event: Any) -> None:
        """It has ended, whatever came of it."""
        if not _is_ours(event):
            return
        self.depth -= 1
        if self.depth == 0 and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._spent += perf_counter() - self._since

    def _say(self) -> None:
        if not self._said:
            self._said = True
            _logger.info(MESSAGE)


def _is_ours(event: Any) -> bool:
    # What exec has defined may have no module.
    return str(event.data["dispatcher"].py_func.__module__).startswith("fastconv.")


_watch = _Watch()


def active() -> bool:
    """Whether a kernel is being compiled now."""
    return _watch.depth > 0


def watch() -> None:
    """Begin to say what is compiled, once for the process."""
    if _logger.level == logging.NOTSET:
        _logger.setLevel(logging.INFO)
    handler = _Terminal()
    handler.setFormatter(logging.Formatter("fastconv: %(message)s"))
    _logger.addHandler(handler)
    event.register("numba:compile", _watch)
