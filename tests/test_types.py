"""What type checkers say of the examples and of results, and that names they know are names there are."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typing_examples

import fastconv
from fastconv import annotations
from fastconv.engine import select
from fastconv.geometry import LAYOUTS

HERE = Path(__file__).parent
DECLARED = {
    "conv{}_backward": annotations.ConvBackward,
    "conv_transpose{}_backward": annotations.ConvTransposeBackward,
    "max_pool{}": annotations.MaxPool,
    "adaptive_max_pool{}": annotations.AdaptiveMaxPool,
}


def test_examples_and_results_have_the_types_they_should(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "examples.py").write_text(typing_examples.examples(), encoding="utf-8")
    # A checkout that is not installed is found by its path.
    root = Path(fastconv.__file__).parent.parent
    found = {} if root.name == "site-packages" else {"MYPYPATH": str(root)}
    files = ["examples.py", str(HERE / "typing_results.py")]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *files],
        env={**os.environ, **found},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_algorithms_are_those_there_are():
    assert get_args(annotations.AlgorithmName) == fastconv.ALGORITHMS
    assert fastconv.ALGORITHMS[0] == "auto"
    assert len(fastconv.ALGORITHMS) == len(set(fastconv.ALGORITHMS))
    assert set(fastconv.ALGORITHMS[1:]) == {
        name for kind in select.ALGORITHMS for name in (kind.name, kind.label)
    }


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_layouts_are_those_there_are(ndim):
    assert get_args(getattr(annotations, f"Layout{ndim}d")) == LAYOUTS[ndim]


def overloads(kind):
    """The arguments of each overload that a class of `annotations` has: (by position, by name alone)."""
    tree = ast.parse(inspect.getsource(kind))
    for call in [node.args for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        yield [arg.arg for arg in call.args[1:]], [arg.arg for arg in call.kwonlyargs]


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("name", DECLARED)
def test_declared_arguments_are_the_function_s(name, ndim):
    """Names and order, in every overload; where ``return_indices`` is True, it may be by name alone."""
    parameters = inspect.signature(getattr(fastconv, name.format(f"{ndim}d"))).parameters.values()
    plain = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    found = list(overloads(DECLARED[name]))
    assert len(found) >= 3
    for by_position, by_name in found:
        moved = [n for n in by_name if n not in named]
        assert moved in ([], ["return_indices"])
        assert by_position + moved == plain
        assert [n for n in by_name if n in named] == named


@pytest.mark.parametrize("name", [n for n in fastconv.__all__ if inspect.isfunction(getattr(fastconv, n))])
def test_annotations_can_be_read_at_run_time(name):
    assert "return" in get_type_hints(getattr(fastconv, name))
