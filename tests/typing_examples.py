"""The examples of README.md and of the docstrings as one module, for type checkers.

python tests/typing_examples.py examples.py
mypy --strict examples.py tests/typing_results.py
pyright examples.py tests/typing_results.py
"""

import doctest
import importlib
import pkgutil
import re
import sys
import textwrap
from pathlib import Path

import fastconv

# What they show needs hosts, which have no types, or other packages.
OTHERS = ("fastconv.adapters.", "fastconv.bench.", "fastconv.demo.", "fastconv.dask")


def readme():
    """README.md's Python blocks, one after the other."""
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def modules():
    """Every module of the package whose examples need nothing else."""
    found = pkgutil.walk_packages(fastconv.__path__, "fastconv.", onerror=lambda name: None)
    names = (module.name for module in found)
    return ["fastconv", *(n for n in names if not n.startswith(OTHERS) and not n.endswith("__main__"))]


def docstrings():
    """The examples of every docstring: a function each, since names mean something else in the next one."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = {}
    for name in modules():
        for test in finder.find(importlib.import_module(name), name):
            if test.examples:
                tests[test.name] = "".join(example.source for example in test.examples)
    for name, source in sorted(tests.items()):
        yield f"def {name.replace('.', '_')}() -> None:\n" + textwrap.indent(source, "    ")


def examples():
    """All of them."""
    return "\n\n".join(["from __future__ import annotations", readme(), *docstrings()])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(examples(), encoding="utf-8")
