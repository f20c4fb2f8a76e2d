"""Compiling ahead: every kernel, in one process or several, and what happens when one of them ends early."""

import json
import os
import signal
import subprocess
import sys

import pytest

from fastconv import cores, warmup
from fastconv.cli import main

# Runs the steps that it is given in so many processes, then asks Numba about the kernels of this one.
PROGRAM = """
import gc, json, sys
from numba.core.dispatcher import Dispatcher
from fastconv import warmup
from fastconv.kernels.cache import KernelCache

labels, processes = json.loads(sys.argv[1])
done = list(warmup.run(labels, processes))
dispatchers = [one for one in gc.get_objects() if isinstance(one, Dispatcher)]
kernels = [one for one in dispatchers if isinstance(one._cache, KernelCache)]
print(json.dumps({
    "done": sorted(done),
    "compiled": sum(sum(one.stats.cache_misses.values()) for one in kernels),
    "read": sum(sum(one.stats.cache_hits.values()) for one in kernels),
    "unknown": sorted(one.py_func.__qualname__ for one in kernels if not one.overloads),
}))
"""


def run(labels, processes, **variables):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps([labels, processes])],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture
def few_steps(monkeypatch):
    """Three steps instead of the real ones; their numbers as they are run."""
    done = []
    steps = {f"step {i}": lambda i=i: done.append(i) for i in range(3)}
    monkeypatch.setattr(warmup, "steps", lambda dtypes=(): steps)
    return done


@pytest.mark.parametrize("rich", [True, False])
def test_every_step_is_run_and_named(rich, few_steps, capsys, monkeypatch):
    if rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["warmup", "--processes", "1"]) == 0
    assert few_steps == [0, 1, 2]
    out, err = capsys.readouterr()
    assert out == "compiled: 3 steps\n"
    assert "step 2" in err


@pytest.mark.parametrize("dtype", warmup.DTYPES)
def test_one_dtype_alone(dtype):
    chosen = warmup.steps((dtype,))
    assert chosen
    assert all(dtype in label for label in chosen)
    assert chosen.keys() < warmup.steps().keys()


def test_no_kernel_is_forgotten():
    """Those of arrays with gaps are left to who has them: layouts of such arrays are types of their own."""
    said = run(list(warmup.steps()), 1)
    assert said["unknown"] == [
        "avg_pool",
        "avg_pool_backward",
        "max_pool_backward",
        "max_pool_backward_ties",
    ]


def test_another_process_finds_what_several_compiled(tmp_path):
    labels = ["columns float32", "training float32", "columns float64"]
    folder = {"FASTCONV_CACHE_DIR": str(tmp_path)}
    first = run(labels, 2, **folder)
    assert first["done"] == sorted(labels)
    assert first["compiled"] == first["read"] == 0  # this process has only waited
    second = run(labels, 1, **folder)
    assert second["compiled"] == 0
    assert second["read"] > 0


def test_a_step_that_fails_is_named(few_steps, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    # The other processes have the real steps, and know none of these.
    assert main(["warmup", "--processes", "2"]) == 1
    assert few_steps == []
    out, err = capsys.readouterr()
    assert out == ""
    assert "fastconv warmup: error: step " in err
    assert ": its process ended with exit code 1\n" in err


def test_as_many_processes_as_cores(few_steps, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(cores, "usable_cores", lambda: 3)
    monkeypatch.setattr(warmup, "run", lambda labels, processes: (asked.append(processes) for _ in labels))
    main(["warmup"])
    assert set(asked) == {3}


def test_without_a_cache_this_process_compiles(few_steps, capsys, monkeypatch):
    monkeypatch.setattr("fastconv.config.cache_path", lambda: None)
    assert main(["warmup", "--processes", "2"]) == 0
    assert few_steps == [0, 1, 2]
    assert "no folder for compiled kernels" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a group of processes")
def test_an_interrupt_ends_all_processes(tmp_path):
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from fastconv.cli import main; sys.exit(main(['warmup', '--processes', '2']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "FASTCONV_CACHE_DIR": str(tmp_path)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.rglob("*.fastconv")):  # they are at work
        assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)  # all that have its stderr have ended
    assert process.returncode == 130
    assert "compiled" not in out
    assert "Traceback" not in err
