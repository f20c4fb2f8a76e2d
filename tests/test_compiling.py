"""What is said while kernels are compiled, and to whom."""

import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fastconv import compiling

pytestmark = pytest.mark.usefixtures("_level")


@pytest.fixture
def _level():
    """The level as `watch` sets it, whatever other tests have done."""
    logger = logging.getLogger("fastconv")
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


def compilation(module="fastconv.kernels.columns"):
    """What Numba tells its listeners."""
    return SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=SimpleNamespace(__module__=module))})


@pytest.fixture
def watch(monkeypatch):
    """A watch without patience."""
    monkeypatch.setattr(compiling, "PATIENCE", 0.0)
    return compiling._Watch()


def compile_once(watch, **options):
    watch.on_start(compilation(**options))
    if watch._timer is not None:
        watch._timer.join(10)
    watch.on_end(compilation(**options))


def test_it_is_said_once(watch, caplog):
    with caplog.at_level(logging.INFO, "fastconv"):
        compile_once(watch)
        compile_once(watch)
    assert [record.getMessage() for record in caplog.records] == [compiling.MESSAGE]
    assert "\n" not in compiling.MESSAGE


def test_short_compilations_say_nothing_until_they_add_up(monkeypatch, caplog):
    monkeypatch.setattr(compiling, "PATIENCE", 1000.0)
    watch = compiling._Watch()
    watch.on_start(compilation())
    watch.on_end(compilation())
    assert caplog.records == []
    assert watch._spent > 0


def test_other_people_s_functions_are_theirs(watch, caplog):
    compile_once(watch, module="somebody.program")
    assert caplog.records == []
    assert watch.depth == 0


def test_a_callee_s_compilation_is_within_its_caller_s(watch):
    watch.on_start(compilation())
    watch._timer.join(10)  # or it speaks in another test
    watch.on_start(compilation())
    watch.on_end(compilation())
    assert watch.depth == 1
    watch.on_end(compilation())
    assert watch.depth == 0


def test_without_memory_for_a_thread_it_is_compiled_in_silence(watch, caplog, monkeypatch):
    def no_thread(timer):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(compiling.threading.Timer, "start", no_thread)
    watch.on_start(compilation())
    watch.on_end(compilation())
    assert caplog.records == []
    assert watch.depth == 0


def test_it_can_be_silenced(watch, caplog):
    logging.getLogger("fastconv").setLevel("WARNING")
    compile_once(watch)
    assert caplog.records == []


PROGRAM = """
import sys
import fastconv
from fastconv import compiling
import numpy as np
if "log" in sys.argv:
    import logging
    logging.basicConfig(level="INFO", stream=sys.stdout)
if "quiet" in sys.argv:
    import logging
    logging.getLogger("fastconv").setLevel("WARNING")
compiling.PATIENCE = 0.0
fastconv.im2col(np.ones((1, 1, 3, 3)), 2)
"""


def said_in(tmp_path, *words, terminal):
    """stdout and stderr of a process that compiles; stderr is a terminal or a pipe."""
    program = PROGRAM
    if terminal:
        program = "import sys\nsys.stderr.isatty = lambda: True\n" + program
    run = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={**os.environ, "FASTCONV_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return run.stdout, run.stderr


def test_a_terminal_reads_one_line(tmp_path):
    assert said_in(tmp_path / "1", terminal=True) == ("", f"fastconv: {compiling.MESSAGE}\n")
    assert said_in(tmp_path / "1", terminal=True) == ("", "")  # nothing to compile any more
    assert said_in(tmp_path / "2", terminal=False) == ("", "")
    assert said_in(tmp_path / "3", "quiet", terminal=True) == ("", "")
    assert said_in(tmp_path / "4", "log", terminal=True) == (f"INFO:fastconv:{compiling.MESSAGE}\n", "")


def test_functions_without_a_module_compile():
    """Those that exec defines where nothing says a name: their ``__module__`` is None."""
    names = {}
    exec("import numba\n@numba.njit\ndef plus_one(x):\n    return x + 1", names)
    assert names["plus_one"].__module__ is None
    assert names["plus_one"](1) == 2
