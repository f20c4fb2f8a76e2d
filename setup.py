"""What pyproject.toml can't say: where kernels/ is, in a checkout whose links are plain files.

``fastconv/kernels`` is a link to ``kernels/``, so that a checkout is importable as it stands and an
editable install is one path that type checkers and editors follow too. Git on Windows, by default, writes a
link as a file that holds its target; there the folder is mapped into the package, which only an install
sees.
"""

from pathlib import Path

from setuptools import setup

linked = (Path(__file__).parent / "fastconv" / "kernels").is_dir()
setup(package_dir={"": "."} if linked else {"": ".", "fastconv.kernels": "kernels"})
