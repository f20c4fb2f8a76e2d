"""The Python blocks of a Markdown page: ``python tests/pages.py PAGE`` runs them, one after the other.

All blocks of a page share one namespace. Where a comment behind a line says a shape, ``# (10, 3, 12, 12)``,
the value of the line, or the array's shape, is that; where it says ``# True``, it is True.
"""

import re
import sys
import textwrap
from pathlib import Path

# What the program exits with where a page is about a library that is not there.
NOT_INSTALLED = 77
# Libraries that some pages are about; cs231n and common are the code of a course and of a book.
OTHERS = (
    "autograd",
    "chainer",
    "common",
    "cs231n",
    "dask",
    "dask_image",
    "dezero",
    "jax",
    "keras",
    "onnx",
    "torch",
)
# Written by a build of the site, not by hand.
BUILT = ("_build", "tutorial", "questions", "gallery", "gen_modules", "generated")


def blocks(page):
    """The page's Python blocks, those in lists too."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^( *)```python\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    # after as many empty lines as stand before them, so that errors name the page's own lines
    return ["\n" * text.count("\n", 0, block.start(2)) + textwrap.dedent(block[2]) for block in found]


def with_examples(root):
    """README.md and the pages of the documentation that have Python blocks."""
    docs = root / "docs"
    written = (page for page in docs.rglob("*.md") if not set(BUILT) & set(page.relative_to(docs).parts))
    return [page for page in (root / "README.md", *sorted(written)) if blocks(page)]


def run(page):
    """Run the blocks, and check what their comments say."""
    names = {"__name__": "__main__"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
        for line, said in re.findall(r"^(\S.*\S)\s+# (\([\d, ]+\)|True)$", block, re.MULTILINE):
            value = eval(line.split(" = ")[0], names)
            found = value if said == "True" or isinstance(value, tuple) else value.shape
            assert found == eval(said), f"{page.name}: {line} is {found}, not {said}"


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]))
    except ImportError as error:
        missing = re.match(r"(?:No module named '|fastconv.adapters: )(\w+)", str(error))
        if missing is None or missing[1] not in OTHERS:
            raise
        print(f"{missing[1]} is not installed", file=sys.stderr)
        sys.exit(NOT_INSTALLED)
