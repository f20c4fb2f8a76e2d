"""The package: its public names, what importing it imports, and a checkout that is not installed."""

import builtins
import pkgutil
import re
import shutil
import subprocess
import sys
from importlib.metadata import files, metadata, version
from pathlib import Path

import pytest

import fastconv
import fastconv.adapters

NAMES_PER_DIMENSION = (
    "conv{}",
    "conv{}_backward",
    "conv{}_backward_input",
    "conv{}_backward_weight",
    "conv_transpose{}",
    "conv_transpose{}_backward",
    "max_pool{}",
    "max_pool{}_backward",
    "max_pool{}_backward_ties",
    "max_unpool{}",
    "max_unpool{}_backward",
    "avg_pool{}",
    "avg_pool{}_backward",
    "adaptive_avg_pool{}",
    "adaptive_avg_pool{}_backward",
    "adaptive_max_pool{}",
    "adaptive_max_pool{}_backward",
    "plan_conv{}",
)
NAMES = (
    *(name.format(f"{n}d") for name in NAMES_PER_DIMENSION for n in (1, 2, 3)),
    "ConvGrads",
    "conv_matrix",
    "im2col",
    "col2im",
    "set_num_threads",
    "get_num_threads",
    "num_threads",
    "load_tuning",
    "save_tuning",
    "show_config",
)


# Modules that import packages which are extras.
OF_HOSTS = ("fastconv.adapters.", "fastconv.demo.", "fastconv.bench.", "fastconv.dask")


def python(code, **options):
    """Run code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, **options
    )


@pytest.mark.parametrize("name", NAMES)
def test_public_name(name):
    assert name in fastconv.__all__
    assert hasattr(fastconv, name)


def test_all_is_true():
    assert len(set(fastconv.__all__)) == len(fastconv.__all__)
    for name in fastconv.__all__:
        assert hasattr(fastconv, name)


@pytest.mark.parametrize("module", [fastconv, fastconv.nn, fastconv.kernels], ids=lambda m: m.__name__)
def test_dir_and_star_give_the_public_names(module):
    names = {}
    exec(f"from {module.__name__} import *", names)
    names.pop("__builtins__")
    assert sorted(names) == sorted(module.__all__)
    assert not set(names) & set(dir(builtins))
    assert sorted(set(dir(module)) - {"__version__"}) == sorted(names)
    assert ("__version__" in dir(module)) == (module is fastconv)


def test_grads_are_a_named_tuple():
    assert fastconv.ConvGrads._fields == ("input", "weight", "bias")


def test_version_is_the_distribution_s():
    assert fastconv.__version__ == version("fastconv")


def test_import_is_light():
    hosts = [module.name for module in pkgutil.iter_modules(fastconv.adapters.__path__)]
    heavy = ("torch", "sklearn", "matplotlib", "rich", "jax", *hosts)
    run = python(f"import sys, fastconv, fastconv.adapters; print([m for m in {heavy} if m in sys.modules])")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def submodules():
    """Every module of the package but scripts that run on import."""
    found = pkgutil.walk_packages(fastconv.__path__, "fastconv.", onerror=lambda name: None)
    return sorted(module.name for module in found if not module.name.endswith("__main__"))


def test_every_module_is_imported_without_a_warning():
    """In a fresh interpreter; without those whose hosts or extras may not be there."""
    own = [name for name in submodules() if not name.startswith(OF_HOSTS)]
    run = python(f"import warnings; warnings.simplefilter('error')\nimport {', '.join(own)}")
    assert (run.returncode, run.stderr, run.stdout) == (0, "", "")


def test_types_are_part_of_the_package():
    assert (Path(fastconv.__file__).parent / "py.typed").is_file()


def test_licence_and_requirements():
    about = metadata("fastconv")
    assert "BSD-3-Clause" in (about.get("License-Expression"), about.get("License"))
    licences = about.get_all("License-File")
    assert licences == ["LICENSE"]
    text = next(file for file in files("fastconv") if file.name == "LICENSE").read_text()
    assert "Redistribution and use" in text
    needed = [requirement for requirement in about.get_all("Requires-Dist") if "extra ==" not in requirement]
    assert sorted(re.match(r"[\w-]+", requirement)[0] for requirement in needed) == [
        "numba",
        "numpy",
        "scipy",
    ]


def test_kernels_are_importable():
    run = python("import fastconv.kernels")
    assert run.returncode == 0, run.stderr


def test_show_config(capsys):
    text = fastconv.show_config()
    printed = capsys.readouterr().out
    assert "thread" in (printed + str(text)).lower()


def test_a_checkout_that_is_not_installed(tmp_path):
    source = Path(fastconv.__file__).parent
    shutil.copytree(source, tmp_path / "fastconv", ignore=shutil.ignore_patterns("kernels", "__pycache__"))
    # -S leaves out the installed package's import hooks; the dependencies are put back by path
    site = [p for p in sys.path if p.endswith("site-packages")]
    code = (
        f"import sys; sys.path[:] = [{str(tmp_path)!r}] + "
        f"[p for p in sys.path if p] + {site!r}\nimport fastconv"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ") or last.startswith("ModuleNotFoundError: fastconv")
    assert "pip install" in last
