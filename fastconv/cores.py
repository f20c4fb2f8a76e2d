"""How many cores this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numba

_PROCESS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Those of the affinity mask, or as many as ``NUMBA_NUM_THREADS`` says; no more than a container allows.

    Returns
    -------
    int
        At least 1. A container's share is a share of time: 1.5 cores are rounded up to 2.
    """
    cores = int(numba.config.NUMBA_NUM_THREADS)
    if "NUMBA_NUM_THREADS" in os.environ:
        return cores
    return max(1, min(cores, cgroup_cores() or cores))


def cgroup_cores(process: Path = _PROCESS, mount: Path = _MOUNT) -> int | None:
    """The cores that Linux's control groups leave this process, of either version; None without a limit.

    https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and
    https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us, of version 1).
    """
    shares = [share for folder in _folders(process, mount) if (share := _share(folder)) is not None]
    return min(shares, default=None)


def _folders(process: Path, mount: Path) -> Iterator[Path]:
    """Where limits of this process may stand: its groups, the groups that hold them, and the mounts."""
    try:
        lines = process.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount / controllers if controllers else mount
        group = PurePosixPath(path.lstrip("/"))
        for folder in (group, *group.parents):
            yield root / folder


def _share(folder: Path) -> int | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8").strip()
        # "max" and -1 stand for no limit.
        return -(-int(quota) // int(period)) if quota.isdigit() and int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
