"""What a process pays before its first result: import, and first convolution, in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from statistics import median

from fastconv.bench.runner import environment

_CLOCK = "import json, time; start = time.perf_counter()\n"
_ANSWER = "\nprint(json.dumps(time.perf_counter() - start))"

_FASTCONV = """
import numpy as np, fastconv
x, w = np.ones((1, 3, 8, 8), 'float32'), np.ones((4, 3, 3, 3), 'float32')
y = fastconv.conv2d(x, w)
"""
# Everything that one dtype needs: the three passes and pooling, forward and backward.
_FASTCONV_ALL = (
    _FASTCONV
    + """
fastconv.conv2d_backward(y, x, w)
v, i = fastconv.max_pool2d(y, 2, return_indices=True)
fastconv.max_pool2d_backward(v, i, y.shape)
a = fastconv.avg_pool2d(y, 2)
fastconv.avg_pool2d_backward(a, y.shape, 2)
"""
)
_TORCH = """
import torch
torch.nn.functional.conv2d(torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3))
"""

# Label to program, and whether it begins with an empty compilation cache.
PROGRAMS: dict[str, tuple[str, bool]] = {
    "import numpy": ("import numpy", False),
    "import fastconv": ("import fastconv", False),
    "fastconv, first convolution, warm cache": (_FASTCONV, False),
    "fastconv, all passes and pooling, cold": (_FASTCONV_ALL, True),
    "import torch": ("import torch", False),
    "torch, first convolution": (_TORCH, False),
}


def _seconds(program: str, threads: int, cold: bool) -> float | None:
    with tempfile.TemporaryDirectory() as folder:
        extra = {"FASTCONV_CACHE_DIR": folder} if cold else {}
        done = subprocess.run(
            [sys.executable, "-c", _CLOCK + program + _ANSWER],
            env=environment(threads, **extra),
            capture_output=True,
            text=True,
            check=False,
        )
    return float(json.loads(done.stdout)) if done.returncode == 0 else None


def time_start(threads: int, rounds: int, done: Callable[[str], None]) -> dict[str, float]:
    """Median seconds of every program, in interleaved rounds; one that fails (a missing peer) is left out."""
    times: dict[str, list[float]] = {}
    for turn in range(rounds):
        for label, (program, cold) in PROGRAMS.items():
            # Compilation takes seconds and hardly varies: twice is enough.
            seconds = _seconds(program, threads, cold) if not cold or turn < 2 else None
            if seconds is not None and (turn or cold):  # the first turn reads the files into memory
                times.setdefault(label, []).append(seconds)
            done(label)
    return {label: median(values) for label, values in times.items()}
