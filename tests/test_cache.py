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
from fastconv.kernels.cache import KEPT_VERSIONS, stamp

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
_VARIABLES = ("FASTCONV_CACHE_DIR", "NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")


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
    said = run(FASTCONV_CACHE_DIR=str(folder))
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
    said = run(FASTCONV_CACHE_DIR=str(folder))
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
    said = run(FASTCONV_CACHE_DIR=str(folder))
    assert said["compiled"] > 0
    assert said["result"] == expected
    if damage is not replace_by_folder:
        assert run(FASTCONV_CACHE_DIR=str(folder))["compiled"] == 0


def no_large_files():
    """What a full disk does to a write."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk(tmp_path, expected):
    said = run(before=no_large_files, FASTCONV_CACHE_DIR=str(tmp_path))
    assert said["result"] == expected
    assert files(tmp_path) == []


def test_several_processes_at_once(tmp_path, expected):
    processes = [start(FASTCONV_CACHE_DIR=str(tmp_path)) for _ in range(4)]
    assert {answer(process)["result"] for process in processes} == {expected}
    said = run(FASTCONV_CACHE_DIR=str(tmp_path))
    assert (said["compiled"], said["result"]) == (0, expected)


def test_another_cpu_in_the_same_folder(folder, expected):
    other = {"FASTCONV_CACHE_DIR": str(folder), "NUMBA_CPU_NAME": "generic"}
    said = run(**other)
    assert said["compiled"] > 0
    assert said["result"] == expected
    assert run(**other)["compiled"] == 0
    assert run(FASTCONV_CACHE_DIR=str(folder))["compiled"] == 0


# --- a package of its own ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled_package(tmp_path_factory):
    """The package as it is installed, and a cache of its own that one process has filled."""
    site = tmp_path_factory.mktemp("site")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(fastconv.__file__).parent, site / "fastconv", ignore=ignore, dirs_exist_ok=True)
    said = run(**in_place(site))
    assert said["file"] == str(site / "fastconv" / "__init__.py")
    assert said["compiled"] > 0
    assert run(**in_place(site))["compiled"] == 0
    return site


def in_place(site):
    """How to run that package."""
    return {"PYTHONPATH": str(site), "cwd": site, "FASTCONV_CACHE_DIR": str(site / "cache")}


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
    said = run(**in_place(site))
    assert said["result"] != expected


STAMP = "import json; from fastconv.kernels.cache import stamp; print(json.dumps(stamp()))"


def test_every_source_counts(site):
    package = site / "fastconv" / "kernels"
    stamps = [stamp()]
    for source in sorted(package.glob("*.py")):
        with source.open("a", encoding="utf-8") as file:
            file.write("# edited\n")
        stamps.append(run(program=STAMP, **in_place(site)))
    assert len(set(stamps)) == len(stamps)
    said = run(**in_place(site))
    assert said["compiled"] > 0
    assert Path(said["folder"]) == site / "cache" / stamps[-1]


def test_nothing_is_written_beside_the_sources(compiled_package):
    """pip removes what it has installed, and would leave everything else behind."""
    package = compiled_package / "fastconv"
    assert {path.suffix for path in package.rglob("*") if path.is_file()} <= {
        ".py",
        ".pyc",
        ".json",
        ".typed",
        ".css",
        ".html",
        ".js",
    }
    assert files(compiled_package / "cache")


def test_versions_that_were_not_used_for_long_are_forgotten(tmp_path, expected):
    for age in range(12):
        old = tmp_path / f"{age:016x}"
        old.mkdir()
        (old / "kernel.fastconv").touch()
        os.utime(old, (10**9 - age, 10**9 - age))
    (tmp_path / "somebody's").mkdir()
    said = run(FASTCONV_CACHE_DIR=str(tmp_path))
    assert said["result"] == expected
    left = {path.name for path in tmp_path.iterdir()}
    kept = {f"{age:016x}" for age in range(KEPT_VERSIONS - 1)}
    assert left == {Path(said["folder"]).name, "somebody's", *kept}


def test_kernels_use_nothing_from_elsewhere():
    """What the stamp covers is all that a kernel's code follows from."""
    for source in Path(fastconv.kernels.__file__).parent.glob("*.py"):
        for line in source.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] in (["from"], ["import"]) and words[1].startswith("fastconv"):
                assert words[1].startswith("fastconv.kernels"), f"{source.name}: {line}"


def test_no_folder_to_write_to(tmp_path, expected):
    """A home that can't hold one, such that it is none to the superuser too."""
    (tmp_path / "file").touch()
    said = run(HOME=os.devnull, XDG_CACHE_HOME=os.devnull)
    assert (said["result"], said["folder"]) == (expected, None)
    said = run(FASTCONV_CACHE_DIR=str(tmp_path / "file"))
    assert (said["result"], said["folder"]) == (expected, None)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the convention is another")
def test_the_platform_s_folder(tmp_path, expected):
    said = run(XDG_CACHE_HOME=str(tmp_path))
    assert Path(said["folder"]) == tmp_path / "fastconv" / stamp()
    assert said["result"] == expected


# --- files that others could have written -------------------------------------------------------------------

unix = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes are Unix's")


@unix
def test_what_is_made_is_the_user_s_alone(folder):
    place = next(iter(folder.iterdir()))
    assert place.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in files(place)} == {0o600}


@unix
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_is_not_used(folder, expected, mode):
    place = next(iter(folder.iterdir()))
    place.chmod(mode)
    said = run(FASTCONV_CACHE_DIR=str(folder))
    assert (said["read"], said["folder"], said["result"]) == (0, None, expected)


@unix
@pytest.mark.parametrize("mode", [0o660, 0o602])
def test_a_file_that_others_can_write_is_not_read(folder, expected, mode):
    for path in files(folder):
        path.chmod(mode)
    said = run(FASTCONV_CACHE_DIR=str(folder))
    assert (said["read"], said["result"]) == (0, expected)
    assert run(FASTCONV_CACHE_DIR=str(folder))["compiled"] == 0  # replaced by our own


@unix
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the superuser gives files away"
)
@pytest.mark.parametrize("whose", ["folder", "files"])
def test_another_user_s_folder_and_files_are_not_read(folder, expected, whose):
    place = next(iter(folder.iterdir()))
    for path in [place] if whose == "folder" else files(place):
        os.chown(path, 12345, 12345)
    said = run(FASTCONV_CACHE_DIR=str(folder))
    assert (said["read"], said["result"]) == (0, expected)
    assert (said["folder"] is None) == (whose == "folder")
