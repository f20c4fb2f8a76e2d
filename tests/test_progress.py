"""Progress on stderr: lines where it is no terminal, a bar in one."""

import sys
from io import StringIO

import pytest

from fastconv.progress import Progress


class Terminal(StringIO):
    def isatty(self):
        return True


def two_steps():
    with Progress("layers", 2) as progress:
        progress.under_way("the first")
        progress.advance()
        progress.tell("the first took 3 ms")
        progress.advance()


def test_lines_where_there_is_no_terminal(capsys):
    two_steps()
    assert capsys.readouterr() == ("", "layers: 1/2, the first took 3 ms\n")


def test_lines_in_a_terminal_without_rich(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setitem(sys.modules, "rich", None)
    two_steps()
    assert sys.stderr.getvalue() == "layers: 1/2, the first took 3 ms\n"


@pytest.mark.parametrize("compiling", [False, True])
def test_a_bar_in_a_terminal(monkeypatch, compiling):
    pytest.importorskip("rich")
    monkeypatch.setattr("fastconv.compiling.active", lambda: compiling)
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    two_steps()
    shown = sys.stderr.getvalue()
    assert ("compiling kernels" in shown) == compiling
    assert ("layers" in shown) == (not compiling)
    assert "the first" in shown
    assert "3 ms" not in shown
    assert "2/2" in shown
