"""What type checkers say of the examples and of results, and that names they know are names there are."""

import ast
import inspect
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typing_examples

import fastconv
from fastconv import annotations, conv, pool
from fastconv.engine import select
from fastconv.geometry import LAYOUTS

HERE = Path(__file__).parent
OVERLOADED = {
    "conv_nd_backward": conv,
    "conv_transpose_nd_backward": conv,
    "max_pool_nd": pool,
    "adaptive_max_pool_nd": pool,
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


@pytest.mark.parametrize("name", OVERLOADED)
def test_overloads_have_the_function_s_arguments(name):
    """Names and order, in every overload; where ``return_indices`` is True, it may be by name alone."""
    tree = ast.parse(inspect.getsource(OVERLOADED[name]))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
    *overloads, function = [
        ([arg.arg for arg in node.args.args], [arg.arg for arg in node.args.kwonlyargs]) for node in found
    ]
    assert len(overloads) >= 3
    plain, named = function
    for by_position, by_name in overloads:
        moved = [n for n in by_name if n not in named]
        assert moved in ([], ["return_indices"])
        assert by_position + moved == plain
        assert [n for n in by_name if n in named] == named


@pytest.mark.parametrize("name", [n for n in fastconv.__all__ if inspect.isfunction(getattr(fastconv, n))])
def test_annotations_can_be_read_at_run_time(name):
    assert "return" in get_type_hints(getattr(fastconv, name))


@pytest.mark.parametrize("name", [n for n in fastconv.__all__ if re.search("[123]d", n)])
def test_functions_are_those_of_their_dimension(name):
    function, ndim = getattr(fastconv, name), int(re.search("([123])d", name)[1])
    assert {function.__name__, function.__qualname__, function.__code__.co_name} == {name}
    assert pickle.loads(pickle.dumps(function)) is function
    layout = inspect.signature(function).parameters.get("layout")
    if layout is not None:
        assert layout.default == LAYOUTS[ndim][0]
        assert get_type_hints(function)["layout"] == getattr(annotations, layout.annotation)
        assert get_args(get_type_hints(function)["layout"]) == LAYOUTS[ndim]
