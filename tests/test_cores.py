"""How many cores a process may use: affinity, environment, and the limits of a container."""

import os
import subprocess
import sys
import warnings

import pytest

from fastconv.cores import cgroup_cores

V2 = "0::/a.slice/b.scope\n"
V1 = "5:memory:/job\n4:cpu,cpuacct:/job/step\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (V2, {"a.slice/b.scope/cpu.max": "150000 100000"}, 2),
        (V2, {"a.slice/b.scope/cpu.max": "max 100000", "a.slice/cpu.max": "100000 100000"}, 1),
        (V2, {"a.slice/b.scope/cpu.max": "400000 100000", "a.slice/cpu.max": "300000 100000"}, 3),
        (V2, {"cpu.max": "50000 100000"}, 1),  # in a container of its own, the group is the root
        (V2, {"a.slice/b.scope/cpu.max": "max 100000"}, None),
        (V2, {"a.slice/b.scope/cpu.max": "nonsense"}, None),
        (V2, {"a.slice/b.scope/cpu.max": "100000 0"}, None),
        (V2, {}, None),
        (V1, {"cpu,cpuacct/job/step/cpu.cfs_quota_us": "250000"}, None),  # no period
        (
            V1,
            {
                "cpu,cpuacct/job/step/cpu.cfs_quota_us": "250000",
                "cpu,cpuacct/job/step/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        (
            V1,
            {
                "cpu,cpuacct/job/step/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/job/step/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.cfs_quota_us": "100000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        (V1, {"memory/job/cpu.max": "100000 100000"}, None),
        (None, {"cpu.max": "100000 100000"}, None),
        ("", {}, None),
        ("no colons\n", {}, None),
    ],
)
def test_control_groups(tmp_path, groups, files, expected):
    mount = tmp_path / "mount"
    for name, text in files.items():
        path = mount / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    process = tmp_path / "cgroup"
    if groups is not None:
        process.write_text(groups)
    assert cgroup_cores(process, mount) == expected


def threads_of(before=None, **variables):
    """What `get_num_threads` says in a fresh process."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    with warnings.catch_warnings():  # JAX, where a test has imported it, warns of every fork
        warnings.simplefilter("ignore")
        done = subprocess.run(
            [sys.executable, "-c", "import fastconv; print(fastconv.get_num_threads())"],
            env={**kept, **variables},
            preexec_fn=before,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    return int(done.stdout)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1,4"}, 1),  # OpenMP's form for nested regions
        ({"NUMBA_NUM_THREADS": "1"}, 1),
        ({"NUMBA_NUM_THREADS": "7"}, 7),  # asked for, so taken, whatever the cores
        ({"NUMBA_NUM_THREADS": "7", "OMP_NUM_THREADS": "3"}, 3),
        ({"NUMBA_NUM_THREADS": "7", "OMP_NUM_THREADS": "nonsense"}, 7),
        ({"NUMBA_NUM_THREADS": "7", "OMP_NUM_THREADS": "0"}, 7),
    ],
)
def test_environment(variables, expected):
    assert threads_of(**variables) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity masks")
def test_affinity():
    one = sorted(os.sched_getaffinity(0))[:1]
    assert threads_of(before=lambda: os.sched_setaffinity(0, one)) == 1
