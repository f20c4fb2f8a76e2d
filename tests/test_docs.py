"""The examples of the docstrings and of the pages run; every public name has a docstring and a page."""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest

import fastconv
from fastconv.geometry import LAYOUTS

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# An installed package's tests have README.md alone.
REFERENCE = ROOT / "docs" / "reference"
PAGES_WITH_EXAMPLES = pages.with_examples(ROOT)

# The functions of one, two and three dimensions.
OF_DIMENSIONS = sorted(
    name
    for name in fastconv.__all__
    if re.search("[123]d", name) and inspect.isfunction(getattr(fastconv, name))
)
WITH_EXAMPLES = {"im2col", "col2im", "conv_matrix", "set_num_threads", *OF_DIMENSIONS}


def modules():
    """Every module of the package but scripts that run on import."""
    found = pkgutil.walk_packages(fastconv.__path__, "fastconv.", onerror=lambda name: None)
    return ["fastconv", *sorted(m.name for m in found if not m.name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_examples_run(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        # the demo and the adapters may want packages that are extras
        if name.startswith(("fastconv.demo", "fastconv.adapters", "fastconv.dask")):
            pytest.skip(str(error))
        raise
    finder = doctest.DocTestFinder()
    found = finder.find(module, name)
    if name.startswith("fastconv.dask"):
        # A function for any number of dimensions is a pattern: those made of it have the examples.
        found = [test for test in found if not test.name.endswith("_nd")]
    if name == "fastconv.dask":
        made = ((each, getattr(module, each)) for each in module.__all__)
        found += [test for each, value in made for test in finder.find(value, each, globs={})]
        assert sum(bool(test.examples) for test in found) > 3
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in found:
        runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize("name", fastconv.__all__)
def test_public_name_has_a_docstring(name):
    value = getattr(fastconv, name)
    if callable(value) or inspect.ismodule(value):
        assert inspect.getdoc(value)


@pytest.mark.parametrize("name", sorted(WITH_EXAMPLES))
def test_function_has_an_example(name):
    doc = inspect.getdoc(getattr(fastconv, name))
    assert "Examples" in doc
    assert ">>>" in doc


@pytest.mark.parametrize("page", PAGES_WITH_EXAMPLES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_examples_of_a_page_run(page, tmp_path):
    """In a process and a folder of their own: they set threads, install adapters and write files."""
    # a checkout that is not installed is found by path, as it is by this process
    places = [str(Path(fastconv.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    run = subprocess.run(
        [sys.executable, str(TESTS / "pages.py"), str(page)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), "MPLBACKEND": "agg"},
    )
    if run.returncode == pages.NOT_INSTALLED:
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", OF_DIMENSIONS)
def test_a_docstring_is_of_its_own_dimensions(name):
    doc, ndim = inspect.getdoc(getattr(fastconv, name)), int(re.search("([123])d", name)[1])
    assert set(re.findall("([123])d", doc)) <= {str(ndim)}
    axes = ("W", "H, W", "D, H, W")[ndim - 1]
    assert set(re.findall(r"\bC, ((?:[DH], )*W)\b", doc)) <= {axes}
    assert set(re.findall(r"\b[CK], ((?:O[DH], )*OW)\b", doc)) <= {re.sub(r"(\w)", r"O\1", axes)}
    assert set(re.findall('"(N[A-Z]{2,})"', doc)) <= set(LAYOUTS[ndim])
    assert all(len(line) <= 110 for line in doc.splitlines())


def test_the_readme_has_examples():
    assert len(pages.blocks(ROOT / "README.md")) >= 3


@pytest.mark.parametrize("module", [fastconv, fastconv.nn, fastconv.kernels], ids=lambda m: m.__name__)
def test_every_public_name_is_in_the_reference(module):
    if not REFERENCE.is_dir():
        pytest.skip("the documentation stands in the repository")
    listed = set()
    for page in REFERENCE.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        listed |= set(re.findall(r"automodule:: (\S+)", text))
        for table in re.split("currentmodule:: ", text)[1:]:
            of, _, rest = table.partition("\n")
            listed |= {f"{of}.{name}" for name in re.findall(r"^   (\w+)$", rest, re.MULTILINE)}
    assert {f"{module.__name__}.{name}" for name in module.__all__} <= listed
