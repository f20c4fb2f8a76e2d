"""The examples in the docstrings run, and every public name has a docstring."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import fastconv

WITH_EXAMPLES = {"im2col", "col2im", "conv_matrix", "set_num_threads"} | {
    name for name in fastconv.__all__ if name.endswith("2d") and inspect.isfunction(getattr(fastconv, name))
}


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
        if name.startswith(("fastconv.demo", "fastconv.adapters")):
            pytest.skip(str(error))
        raise
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=flags).failed == 0


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


def test_the_examples_of_the_readme_run():
    """All Python blocks of README.md, one after the other; where a comment says a shape, it is that."""
    readme = Path(__file__).parent.parent / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    names = {}
    for line_block in blocks:
        exec(compile(line_block, "README.md", "exec"), names)
        for expression, said in re.findall(r"^(\S.*\S)\s+# (\([\d, ]+\)|True)$", line_block, re.MULTILINE):
            value = eval(expression.split(" = ")[0], names)
            assert (value if said == "True" or isinstance(value, tuple) else value.shape) == eval(said)
