"""One process that times one implementation: requests come in as lines of JSON, answers go out the same way.

Run as ``python -m fastconv.bench.worker IMPLEMENTATION CORES``. Thread pools of one implementation never meet
those of another, and an implementation's environment is its own.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from time import perf_counter
from typing import IO, Any


def _private_output() -> IO[str]:
    """The real stdout; whatever libraries print goes to stderr instead."""
    private = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return private


def _hold_to_cores(cores: int) -> None:
    """As many cores as threads: some peers size their pools by the cores they may use."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:cores])


class _Server:
    def __init__(self, implementation: str) -> None:
        self.implementation = implementation
        self.call: Any = None

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """Set a case up and run it once or twice: compiled, pages touched."""
        from fastconv.bench.cases import Case
        from fastconv.bench.implementations import TABLE, Absent

        self.call = None
        made = Case.from_json(case)
        make = TABLE[made.operation].get(self.implementation)
        if make is None:
            return {"absent": f"{self.implementation} has no {made.operation}"}
        try:
            self.call = make(made)
            self.call()
        except Absent as reason:
            return {"absent": str(reason)}
        return {"seconds": self._timed()}

    def run(self, repeats: int, warm_up: float = 0.0) -> dict[str, Any]:
        """Seconds of ``repeats`` calls, after one or more that wake caches and threads."""
        self.call()
        while warm_up > 0:
            warm_up -= self._timed()
        return {"seconds": [self._timed() for _ in range(repeats)]}

    def _timed(self) -> float:
        if hasattr(self.call, "before"):
            self.call.before()
        start = perf_counter()
        self.call()
        return perf_counter() - start

    def peak(self, dtype: str, threads: int) -> dict[str, Any]:
        """The ceiling of multiply-adds, now."""
        from fastconv.bench.peak import fma_gflops

        return {"gflops": fma_gflops(dtype, threads, repeats=3)}

    def memory(self, threads: int) -> dict[str, Any]:
        """The ceiling of the memory, now."""
        from fastconv.bench.peak import memory_gbytes

        return {"gbytes": memory_gbytes(threads)}

    def where(self) -> dict[str, Any]:
        """The folder of the package that is timed."""
        import fastconv

        return {"folder": os.path.dirname(os.path.abspath(fastconv.__file__))}

    def about(self) -> dict[str, Any]:
        """What this process runs on."""
        from fastconv.bench.about import versions

        return versions()


def main() -> None:
    """Serve requests until stdin closes."""
    implementation, cores = sys.argv[1], int(sys.argv[2])
    output = _private_output()
    _hold_to_cores(cores)
    server = _Server(implementation)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(server, request.pop("do"))(**request)
        except Exception as error:  # reported by the parent, which goes on with the other implementations
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=output, flush=True)


if __name__ == "__main__":
    main()
