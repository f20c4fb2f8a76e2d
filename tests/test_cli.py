"""The command line: help, one-line errors with exit code 2, and what it imports."""

import os
import subprocess
import sys

import pytest

import fastconv
from fastconv import cli
from fastconv.cli import main

EXTRAS = ("sklearn", "matplotlib", "rich")


def one_line(capsys):
    """What was written to stderr, which must be one line; nothing may be on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("command", [[], ["demo"], ["explain"], ["info"], ["tune"], ["warmup"]], ids=str)
def test_help(command, capsys):
    assert main([*command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: {' '.join(['fastconv', *command])}")
    assert err == ""


def test_without_a_command_the_commands_are_listed(capsys):
    assert main(["--help"]) == 0
    expected = capsys.readouterr().out
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert out == expected
    assert err == ""
    for command in ("demo", "explain", "bench", "tune", "info", "warmup"):
        assert f"\n    {command} " in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastconv {fastconv.__version__}\n"


def test_demo_help_names_every_option(capsys):
    main(["demo", "--help"])
    said = capsys.readouterr().out
    for option in ("net", "data", "epochs", "batch", "seed", "threads", "workers", "picture", "save", "load"):
        assert f"--{option}" in said


@pytest.mark.parametrize(
    ("arguments", "start", "part"),
    [
        (["train"], "fastconv: error: ", "train"),
        (["info", "--colour"], "fastconv: error: ", "--colour"),
        (["demo", "--net", "s001"], "fastconv demo: error: ", "s001"),
        (["explain", "5x5"], "fastconv explain: error: layer must be written", "5x5"),
        (["demo", "--epochs", "0"], "fastconv demo: error: ", "whole number of at least 1, got '0'"),
        (["demo", "--batch", "ten"], "fastconv demo: error: ", "whole number of at least 1, got 'ten'"),
        (["demo", "--seed", "-1"], "fastconv demo: error: ", "--seed"),
        (["demo", "--threads", "1.5"], "fastconv demo: error: ", "--threads"),
        (["demo", "--picture"], "fastconv demo: error: ", "--picture"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_one_line(arguments, start, part, capsys):
    assert main(arguments) == 2
    line = one_line(capsys)
    assert line.startswith(start)
    assert part in line


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--data", "nowhere"], "nowhere: not a folder"),
        (["--picture", "nowhere/p.png"], "the folder nowhere does not exist"),
        (["--picture", "p.xyz"], "must end in one of"),
        (["--picture", "."], "must end in one of"),
        (["--save", "nowhere/net.npz"], "the folder nowhere does not exist"),
        (["--save", "."], "is a folder"),
        (["--batch", "100000"], "argument --batch: must be at most the 1437 images"),
        (["--threads", "100000"], "argument --threads: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_demo_cannot_use_is_one_line(arguments, part, capsys, tmp_path, monkeypatch):
    for module in EXTRAS:
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *arguments]) == 2
    line = one_line(capsys)
    assert line.startswith("fastconv demo: error: ")
    assert part in line


@pytest.mark.parametrize("module", EXTRAS)
def test_missing_extras_are_one_line(module, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo"]) == 2
    expected = "the demo needs scikit-learn, matplotlib and rich: pip install scikit-learn matplotlib rich"
    assert one_line(capsys) == f"fastconv demo: error: {expected}\n"


def test_interrupt_exits_130_without_traceback(capsys, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("fastconv.show_config", interrupt)
    assert main(["info"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_info_shows_the_configuration(capsys):
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    for part in ("fastconv", "CPU", "BLAS", "threads"):
        assert part in said


def test_importing_the_command_line_imports_no_extras():
    code = f"import sys, fastconv.cli; print([m for m in {EXTRAS} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def with_closed_output(*arguments, errors=subprocess.PIPE):
    """The command line as a process whose standard output nobody reads."""
    read, write = os.pipe()
    os.close(read)
    try:
        run = [sys.executable, "-m", "fastconv", *arguments]
        return subprocess.run(run, stdout=write, stderr=errors, text=True, check=False)
    finally:
        os.close(write)


def test_output_that_nobody_reads_is_no_traceback():
    done = with_closed_output("info")
    assert (done.returncode, done.stderr) == (141, "")


def test_errors_that_nobody_reads_either():
    assert with_closed_output("info", errors=subprocess.STDOUT).returncode == 141


def test_as_a_process():
    run = [sys.executable, "-m", "fastconv.cli", "demo", "--net", "x"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert cli.main.__doc__
