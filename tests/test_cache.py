"""Compiled kernels on disk: reused where nothing has changed, never wrong, never an error.

Each case runs the same small program in fresh processes over one cache folder; the program prints how many
kernels were compiled and read back, and a digest of its results.
"""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import fastconv
from fastconv.kernels.cache import stamp

PROGRAM = """
import gc, hashlib, json, sys
import numpy as np
import fastconv
from numba.core.dispatcher import Dispatcher

x = np.arange(2 * 3 * 8 * 8, dtype="float32").reshape(2, 3, 8, 8) % 7
w = np.arange(4 * 3 * 3 * 3, dtype="float32").reshape(4, 3, 3, 3) % 5
y = fastconv.conv2d(x, w, algorithm="im2col")
pooled, indices = fastconv.max_pool2d(y, 2, return_indices=True)
bias = fastconv.conv2d_backward(y, x, w, needs=("bias",)).bias
stats = [one.stats for one in gc.get_objects() if isinstance(one, Dispatcher)
         and one.py_func.__module__.startswith("fastconv")]
print(json.dumps({
    "compiled": sum(sum(s.cache_misses.values()) for s in stats),
    "read": sum(sum(s.cache_hits.values()) for s in stats),
    "result": hashlib.sha256(b''.join(a.tobytes() for a in (y, pooled, indices, bias))).hexdigest(),
    "folder": fastconv.kernels.im2col.stats.cache_path,
    "file": fastconv.__file__,
}))
"""
# Under Numba's own names: none of its caches is asked for anything else.
_VARIABLES = ("NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_CACHE_LOCATOR_CLASSES")


def start(program=PROGRAM, before=None, cwd=None, **variables):
    kept = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    with warnings.catch_warnings():  # JAX, where a test has imported it, warns of every fork
        warnings.simplefilter("ignore")
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program],
            env={**kept, **variables},
            cwd=cwd,
            preexec_fn=before,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def answer(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err == ""
    return json.loads(out)


def run(**options):
    return answer(start(**options))


def files(folder):
    return sorted(path for path in Path(folder).rglob("*.fastconv*") if path.is_file())


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder that one process has filled, and what that process said."""
    folder = tmp_path_factory.mktemp("cache")
    said = run(NUMBA_CACHE_DIR=str(folder))
    assert said["compiled"] > 0
    assert said["read"] == 0
    return folder, said


@pytest.fixture
def folder(filled, tmp_path):
    """A copy of it of one's own."""
    return shutil.copytree(filled[0], tmp_path / "cache")


@pytest.fixture(scope="module")
def expected(filled):
    return filled[1]["result"]


def test_a_second_process_compiles_nothing(folder, filled):
    said = run(NUMBA_CACHE_DIR=str(folder))
    assert said["compiled"] == 0
    # Whole kernels only: what they call comes with them.
    assert 0 < said["read"] <= filled[1]["compiled"]
    assert said["result"] == filled[1]["result"]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def exchange(path):
    """Another version of the kernel under this one's name, as after a collision."""
    others = [other for other in files(path.parent) if other != path]
    shutil.copy(others[0], path)


@pytest.mark.parametrize("damage", [truncate, empty, flip, replace_by_folder, exchange])
def test_damaged_files_are_compiled_again(folder, expected, damage):
    for path in files(folder):
        damage(path)
    said = run(NUMBA_CACHE_DIR=str(folder))
    assert said["compiled"] > 0
    assert said["result"] == expected
    if damage is not replace_by_folder:
        assert run(NUMBA_CACHE_DIR=str(folder))["compiled"] == 0


def no_large_files():
    """What a full disk does to a write."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk(tmp_path, expected):
    said = run(before=no_large_files, NUMBA_CACHE_DIR=str(tmp_path))
    assert said["result"] == expected
    assert files(tmp_path) == []


def test_several_processes_at_once(tmp_path, expected):
    processes = [start(NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(4)]
    assert {answer(process)["result"] for process in processes} == {expected}
    said = run(NUMBA_CACHE_DIR=str(tmp_path))
    assert (said["compiled"], said["result"]) == (0, expected)


def test_another_cpu_in_the_same_folder(folder, expected):
    other = {"NUMBA_CACHE_DIR": str(folder), "NUMBA_CPU_NAME": "generic"}
    said = run(**other)
    assert said["compiled"] > 0
    assert said["result"] == expected
    assert run(**other)["compiled"] == 0
    assert run(NUMBA_CACHE_DIR=str(folder))["compiled"] == 0


# --- a package of its own ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled_package(tmp_path_factory):
    """The package as it is installed, with its kernels compiled in place."""
    site = tmp_path_factory.mktemp("site")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(fastconv.__file__).parent, site / "fastconv", ignore=ignore, dirs_exist_ok=True)
    source = Path(fastconv.kernels.__file__).parent
    shutil.copytree(source, site / "fastconv" / "kernels", ignore=ignore, dirs_exist_ok=True)
    said = run(PYTHONPATH=str(site), cwd=site)
    assert said["file"] == str(site / "fastconv" / "__init__.py")
    assert said["compiled"] > 0
    assert run(PYTHONPATH=str(site), cwd=site)["compiled"] == 0
    return site


@pytest.fixture
def site(compiled_package, tmp_path):
    return shutil.copytree(compiled_package, tmp_path / "site")  # times of modification stay


def edit(path, old, new):
    """Change a source and let its time and size stay as they were."""
    before = path.stat()
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    assert len(old) == len(new)
    path.write_text(text.replace(old, new), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_edited_callee_is_compiled_into_its_callers(site, expected):
    """`lane_sum`, in a file of its own, adds up what the bias gradient's kernel has summed."""
    edit(site / "fastconv" / "kernels" / "vectors.py", "lanes + i if i", "lanes * 0 if i")
    for bytecode in site.rglob("*.pyc"):  # these go by time and size
        bytecode.unlink()
    said = run(PYTHONPATH=str(site), cwd=site)
    assert said["result"] != expected


STAMP = "import json; from fastconv.kernels.cache import stamp; print(json.dumps(stamp()))"


def test_every_source_counts(site):
    package = site / "fastconv" / "kernels"
    stamps = [stamp()]
    for source in sorted(package.glob("*.py")):
        with source.open("a", encoding="utf-8") as file:
            file.write("# edited\n")
        stamps.append(run(program=STAMP, PYTHONPATH=str(site), cwd=site))
    assert len(set(stamps)) == len(stamps)
    said = run(PYTHONPATH=str(site), cwd=site)
    assert said["compiled"] > 0
    # Files of other sources do not stay behind.
    assert all(f".{stamps[-1]}." in path.name for path in files(said["folder"]))


def test_kernels_use_nothing_from_elsewhere():
    """What the stamp covers is all that a kernel's code follows from."""
    for source in Path(fastconv.kernels.__file__).parent.glob("*.py"):
        for line in source.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] in (["from"], ["import"]) and words[1].startswith("fastconv"):
                assert words[1].startswith("fastconv.kernels"), f"{source.name}: {line}"


def test_no_folder_to_write_to(site, expected):
    """A read-only install without a home, such that it is one to the superuser too."""
    place = site / "fastconv" / "kernels" / "__pycache__"
    shutil.rmtree(place)
    place.touch()  # no folder can be made here
    said = run(PYTHONPATH=str(site), HOME=os.devnull, XDG_CACHE_HOME=os.devnull, cwd=site)
    assert said["result"] == expected
    assert said["folder"] is None
