"""Measure `fastconv.dask`: beside the in-memory call, on two workers, beyond memory, beside dask-image.

    python bench/chunks.py speed      # chunks of 4 MB and more, beside the call in memory, on all cores
    python bench/chunks.py workers    # the same on one worker process, and on two
    python bench/chunks.py image      # a filter of an image, beside dask-image (pip install dask-image)
    python bench/chunks.py graph      # how long a graph of 10,000 chunks takes to make
    python bench/chunks.py memory --limit 400 --times 20      # a Zarr array of 20 times the workers' memory

The last one wants that much room on the disk twice, in the folder of temporary files.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil
from distributed import Client, LocalCluster

import fastconv
from fastconv import dask as fd

ROUNDS = 9


def taken(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def medians(**calls: Callable[[], Any]) -> dict[str, float]:
    """Seconds of each, the median of interleaved rounds after a first one."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(ROUNDS + 1):
        for name, call in calls.items():
            found = taken(call)
            if turn:
                times[name].append(found)
    return {name: statistics.median(each) for name, each in times.items()}


def layer() -> tuple[np.ndarray, Any, np.ndarray]:
    """An image of 32 channels, in memory and in chunks of 8 MB, and filters."""
    x = np.random.default_rng(0).standard_normal((1, 32, 2048, 2048), dtype=np.float32)
    w = np.random.default_rng(1).standard_normal((32, 32, 3, 3), dtype=np.float32)
    return x, da.from_array(x, chunks=(1, 32, 256, 256)), w


def speed() -> None:
    """Print seconds in memory and in chunks, of which the result is a NumPy array or stays in chunks."""
    x, lazy, w = layer()
    threads = fastconv.get_num_threads()
    with dask.config.set(scheduler="threads", num_workers=threads):
        found = medians(
            memory=lambda: fastconv.conv2d(x, w, padding=1),
            chunks=lambda: fd.conv2d(lazy, w, padding=1).persist(),
            array=lambda: fd.conv2d(lazy, w, padding=1).compute(),
        )
    said = ", ".join(f"{name} {each:.3f} s" for name, each in found.items())
    ratios = " and ".join(f"{found['memory'] / found[name]:.2f}" for name in ("chunks", "array"))
    print(f"{threads} threads: {said}; the last two at {ratios} of the speed in memory")


def workers() -> None:
    """Print seconds on one worker process and on two; the input is made where it is used."""
    _, _, w = layer()
    times = {}
    for count in (1, 2):
        with (
            LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster),
        ):
            x = da.ones((1, 32, 4096, 4096), chunks=(1, 32, 512, 512), dtype="float32")
            y = fd.conv2d(x, w, padding=1).max()
            y.compute()
            times[count] = statistics.median(taken(y.compute) for _ in range(ROUNDS))
    print(f"1 worker {times[1]:.2f} s, 2 workers {times[2]:.2f} s: {times[1] / times[2]:.2f} times as fast")


def image() -> None:
    """Print seconds of filters of an image, with dask-image as it is and with `fastconv.dask.register`."""
    from dask_image import ndfilters

    rng = np.random.default_rng(0)
    plane = rng.standard_normal((4096, 4096), dtype=np.float32)
    volume = rng.standard_normal((256, 512, 512), dtype=np.float32)
    bytes_ = rng.integers(0, 256, (4096, 4096), dtype=np.uint8)
    filters = [
        (plane, (1024, 1024), rng.standard_normal((7, 7)), "constant"),
        (plane, (1024, 1024), rng.standard_normal((7, 7)), "reflect"),
        (plane, (1024, 1024), rng.standard_normal((3, 3)), "constant"),
        (plane, (1024, 1024), rng.standard_normal((3, 3)), "reflect"),
        (bytes_, (1024, 1024), np.ones((3, 3)) / 9, "reflect"),
        (volume, (128, 256, 256), rng.standard_normal((5, 5, 5)), "reflect"),
    ]
    chunked = [(da.from_array(x, chunks=chunks), w, mode) for x, chunks, w, mode in filters]
    # The function that filters a chunk is looked up now, not when it is computed.
    before = [ndfilters.correlate(x, w, mode=mode) for x, w, mode in chunked]
    fd.register()
    after = [ndfilters.correlate(x, w, mode=mode) for x, w, mode in chunked]
    for (x, w, mode), as_is, registered in zip(chunked, before, after, strict=True):
        calls = {"dask_image": as_is.compute, "registered": registered.compute}
        if mode == "constant":
            kernel = w.astype(np.float32)[None, None]
            direct = fd.conv2d(x[None, None], kernel, padding=[(n // 2, n // 2) for n in w.shape])
            calls["conv2d"] = direct.compute
        with dask.config.set(scheduler="threads"):
            found = medians(**calls)
        sizes = "x".join(map(str, w.shape)) + " of " + "x".join(map(str, x.shape))
        said = ", ".join(f"{name} {1e3 * each:.0f} ms" for name, each in found.items())
        faster = found["dask_image"] / found["registered"]
        print(f"{sizes}, {x.dtype}, {mode}: {said}: {faster:.1f} times as fast", flush=True)


def graph() -> None:
    """Print seconds that a graph takes, and its tasks."""
    x = da.ones((1, 3, 6400, 6400), chunks=(1, 3, 64, 64), dtype="float32")
    w = np.ones((4, 3, 3, 3), "float32")
    start = time.perf_counter()
    y = fd.conv2d(x, w, padding=1)
    print(f"{y.npartitions} chunks in {time.perf_counter() - start:.1f} s, {len(y.__dask_graph__())} tasks")


def memory(limit: int, times: int) -> None:
    """Print the most memory that workers had, while an array of so many times their limit is convolved."""
    w = np.random.default_rng(1).standard_normal((4, 4, 5, 5), dtype=np.float32)
    rows = int(times * 2 * limit * 1e6 / (4 * 4 * 8192)) // 512 * 512
    with tempfile.TemporaryDirectory() as folder:
        source, target = (str(Path(folder) / name) for name in ("in.zarr", "out.zarr"))
        with (
            LocalCluster(
                n_workers=2, threads_per_worker=1, memory_limit=f"{limit}MB", dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):
            x = da.random.random((1, 4, rows, 8192), chunks=(1, 4, 512, 1024)).astype("float32")
            x.to_zarr(source)
            y = fd.conv2d(da.from_zarr(source), w, padding=2)
            processes = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
            most, done = [0.0] * len(processes), threading.Event()

            def watch() -> None:
                while not done.wait(0.05):
                    for k, process in enumerate(processes):
                        most[k] = max(most[k], process.memory_info().rss / 1e6)

            watcher = threading.Thread(target=watch)
            watcher.start()
            spent = taken(lambda: y.to_zarr(target))
            done.set()
            watcher.join()
    said = " and ".join(f"{each:.0f}" for each in most)
    print(f"{x.nbytes / 1e9:.1f} GB in {spent:.0f} s; at the most {said} MB of {limit} MB a worker")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "workers", "image", "graph", "memory"))
    parser.add_argument("--limit", type=int, default=400, help="megabytes of each of two workers")
    parser.add_argument("--times", type=int, default=20, help="the array beside what both workers have")
    options = parser.parse_args()
    if options.what == "memory":
        memory(options.limit, options.times)
    else:
        {"speed": speed, "workers": workers, "image": image, "graph": graph}[options.what]()


if __name__ == "__main__":
    main()
