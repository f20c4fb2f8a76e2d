"""Compile every kernel ahead, for the dtypes and layouts that calls use.

Numba compiles one function at a time in a process, so several processes share the work: each takes the next
step when it has done one, and leaves what it compiled in the cache on disk.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from threading import Thread

import numpy as np

from fastconv import ndimage, nn
from fastconv.annotations import AlgorithmName, Layout2d
from fastconv.columns import col2im, im2col
from fastconv.conv import conv2d, conv2d_backward
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.plan import plan_conv2d
from fastconv.pool import (
    adaptive_max_pool2d,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_pool2d_backward_ties,
    max_unpool2d,
)
from fastconv.threads import num_threads, run_jobs

Step = Callable[[], None]
DTYPES = ("float32", "float64")
_LAYOUTS: tuple[Layout2d, ...] = ("NCHW", "NHWC")


def _algorithm(name: AlgorithmName, dtype: str) -> None:
    for layout in _LAYOUTS:
        for groups in (1, 2):
            for kernel in (1, 2, 3):
                _passes(name, dtype, layout, groups, kernel)
    # Images that are not tiny have kernels of their own for gradients of few channels.
    _passes(name, dtype, "NHWC", 1, 2, 9)


def _passes(
    algorithm: AlgorithmName, dtype: str, layout: Layout2d, groups: int, kernel: int, extent: int = 4
) -> None:
    outputs = extent + 1 - kernel
    x, w, dy = (
        np.ones(shape, dtype)
        for shape in ((1, 2, extent, extent), (2, 2 // groups, kernel, kernel), (1, 2, outputs, outputs))
    )
    if layout == "NHWC":
        x, w, dy = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, w, dy))
    plan = plan_conv2d(x.shape, w.shape, groups=groups, dtype=dtype, layout=layout, algorithm=algorithm)
    calls = {
        "forward": partial(plan, x, w),
        "backward_input": partial(plan.backward_input, dy, w),
        "backward_weight": partial(plan.backward_weight, dy, x),
    }
    for which in plan.algorithms:
        calls[which]()


def _depthwise(dtype: str) -> None:
    """Layers with a vector of channels, at both strides."""
    _algorithm("depthwise", dtype)
    channels = VECTOR_BYTES // np.dtype(dtype).itemsize
    w = np.ones((channels, 3, 3, 1), dtype)
    for stride in (1, 2):
        x, dy = np.ones((1, 5, 5, channels), dtype), np.ones((1, 4 - stride, 4 - stride, channels), dtype)
        conv2d(x, w, stride=stride, groups=channels, layout="NHWC", algorithm="depthwise")
        conv2d_backward(dy, x, w, stride=stride, groups=channels, layout="NHWC", algorithm="depthwise")


def _grouped_gemm(dtype: str) -> None:
    """Groups of a vector of channels, in both layouts."""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    sizes = {
        "NCHW": ((1, 2 * lanes, 3, 3), (2 * lanes, lanes, 3, 3)),
        "NHWC": ((1, 3, 3, 2 * lanes), (2 * lanes, 3, 3, lanes)),
    }
    for layout in _LAYOUTS:
        size, weight = sizes[layout]
        x, w = np.ones(size, dtype), np.ones(weight, dtype)
        plan = plan_conv2d(
            size, weight, padding=1, groups=2, dtype=dtype, layout=layout, algorithm="grouped_gemm"
        )
        plan.backward_weight(plan(x, w), x)
        plan.backward_input(x, w)


def _training(dtype: str) -> None:
    network = nn.Sequential(
        nn.Linear(2, 2, dtype=dtype), nn.ReLU(), nn.Linear(2, 2, dtype=dtype), nn.Sigmoid()
    )
    x, loss = np.ones((1, 2), dtype), nn.CrossEntropyLoss()
    loss.forward(network.forward(x), np.zeros(1, np.int64))
    network.backward(loss.backward())
    nn.Adam(network).step()
    nn.SGD(network, momentum=0.5).step()


def _waiting(dtype: str) -> None:
    """What threads wait with: a helper of any call, whatever the dtype."""
    with num_threads(2):
        run_jobs(2, lambda: lambda i: None)


def _filters(dtype: str) -> None:
    """Sums of integers in SciPy's order, which are of float64; other filters are convolutions."""
    if dtype == "float64":
        ndimage.correlate(np.ones((256, 256), np.uint8), np.full((3, 3), 1 / 9))


def _columns(dtype: str) -> None:
    """The explicit algorithm, the functions that share its kernels, the bias's gradient, copies of views."""
    _algorithm("im2col", dtype)
    view = np.ones((64, 64, 64, 1), dtype).T
    conv2d(view, np.ones((1, 64, 1, 1), dtype), algorithm="im2col")
    col2im(im2col(np.ones((1, 1, 3, 3), dtype), 2), (3, 3), 2)
    dy, w = np.ones((1, 2, 2, 2), dtype), np.ones((2, 2, 1, 1), dtype)
    conv2d_backward(dy, dy, w, needs=("bias",))


def _pooling(dtype: str) -> None:
    for layout in _LAYOUTS:
        _pooling_of(dtype, layout)


def _pooling_of(dtype: str, layout: Layout2d) -> None:
    # Lines shorter than a vector, longer ones, and windows of a whole plane have kernels of their own; with
    # vectors of 16 bytes only large windows are a reason for lines.
    for size, kernel, stride in (
        ((4, 4), 2, 2),
        ((4, 80), 2, 2),
        ((8, 80), 6, 2),
        ((4, 80), 3, 1),
        ((4, 4), 4, 4),
        ((64, 64), 31, 1),  # axis by axis
    ):
        x = np.ones((1, 2, *size), dtype)
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if layout == "NHWC" else x
        y, indices = max_pool2d(x, kernel, stride, return_indices=True, layout=layout)
        max_pool2d_backward(y, indices, x.shape, layout=layout)
        max_pool2d_backward_ties(y, x, kernel, stride, layout=layout)
        avg_pool2d(x, kernel, stride, layout=layout)
        avg_pool2d_backward(y, x.shape, kernel, stride, layout=layout)
    if layout == "NCHW":
        max_unpool2d(y, indices, 4)
        adaptive_max_pool2d(x, 3)  # windows that differ in size


# Algorithms of which `_algorithm` compiles all that there is.
_PLAIN: tuple[AlgorithmName, ...] = (
    "winograd",
    "decimated",
    "indirect/planes",
    "indirect/lines",
    "gemm/pixels",
    "gemm/filters",
)

# The long ones first, so that processes end together. No two steps compile the same kernel, but for
# `transpose` (0.1 s), which three algorithms share, and the loops that wait (0.1 s), which have no dtype.
_KINDS: dict[str, Callable[[str], None]] = {
    **{name: partial(_algorithm, name) for name in _PLAIN},
    "grouped_gemm": _grouped_gemm,
    "pooling": _pooling,
    "depthwise": _depthwise,
    "columns": _columns,
    "training": _training,
    "filters": _filters,
    "waiting": _waiting,
}


def steps(dtypes: Sequence[str] = DTYPES) -> dict[str, Step]:
    """What there is to compile: a name and a call that does it, for each step.

    Each step runs the public functions once on a few numbers, so that what is compiled is what calls
    use. float16 is computed in float32.
    """
    return {f"{kind} {dtype}": partial(run, dtype) for kind, run in _KINDS.items() for dtype in dtypes}


class WorkerError(RuntimeError):
    """A process ended before its step was done."""


def run(labels: Sequence[str], processes: int) -> Generator[str, None, None]:
    """Run steps, in this process or in several others; give each one's name when it is done.

    Parameters
    ----------
    labels : sequence of str
        Names of `steps`.
    processes : int
        How many compile at a time. What others compile reaches this process through the disk alone.

    Raises
    ------
    WorkerError
        If a process ends before its step does.
    """
    if processes == 1:
        yield from _run_here(labels)
        return
    workers = [_Worker() for _ in range(min(processes, len(labels)))]
    left, finished = iter(labels), SimpleQueue[str | WorkerError]()

    def serve(worker: _Worker) -> None:
        for label in left:  # of all threads together: each takes the next one
            try:
                worker.run(label)
            except WorkerError as error:
                finished.put(error)
                return
            finished.put(label)

    try:
        for worker in workers:
            Thread(target=serve, args=(worker,), daemon=True).start()
        for _ in labels:
            answer = finished.get()
            if isinstance(answer, WorkerError):
                raise answer
            yield answer
    finally:  # after an error or an interrupt, too
        for worker in workers:
            worker.end()


class _Worker:
    """A process that runs the steps it is told.

    Not one of multiprocessing: that would run the caller's script again.
    """

    def __init__(self) -> None:
        # It finds the packages that this process finds. Ctrl-C reaches it too, but `end` is what ends it.
        code = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
            f"sys.path[:] = {sys.path!r}; from fastconv import warmup; warmup.work()"
        )
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", code], bufsize=0, stdin=pipe, stdout=pipe)

    def run(self, label: str) -> None:
        """Wait until the step is done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{label}\n".encode())
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise WorkerError(f"{label}: its process ended with exit code {self._process.wait()}")

    def end(self) -> None:
        self._process.kill()
        with self._process:  # closes the pipes and waits
            pass


def work() -> None:
    """Run the steps that stdin names, one a line; answer each with a line on stdout."""
    for label in _run_here(line.rstrip("\n") for line in sys.stdin):
        print(label, flush=True)


def _run_here(labels: Iterable[str]) -> Iterator[str]:
    made = steps()
    with _rare_collections():
        for label in labels:
            made[label]()
            yield label


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Compiling makes much that stays; looking through it took 3.2 s for float32, and takes 1.3 s so."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
