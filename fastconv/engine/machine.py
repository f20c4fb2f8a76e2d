"""What a machine is to the estimates: its vectors, its caches, and the nanoseconds of all that is counted.

The nanoseconds are data, one file a machine under ``fastconv/engine/machines``, which
``python bench/calibrate.py`` measures and fits. A machine that has no file of its own takes that of the
nearest one: of vectors of the same width, if there is any; of those one whose processor LLVM calls by the
same name, or by the same letters (``znver4`` and ``znver5``); of those the one whose L2 is nearest in size.
"""

from __future__ import annotations

import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numba

from fastconv.kernels.vectors import VECTOR_BITS

FOLDER = Path(__file__).parent / "machines"
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# Where the system doesn't say: what most cores have at the least.
USUAL_L1, USUAL_L2 = 32 * 2**10, 2**19


class Machine(NamedTuple):
    """A processor as it matters here."""

    cpu: str  # LLVM's name of it
    vector_bits: int
    l1_bytes: int
    l2_bytes: int


# Variant of an algorithm, and pass: nanoseconds of each term.
Costs = dict[str, dict[str, dict[str, float]]]


def cache_bytes(level: int, usual: int) -> int:
    """Bytes of a core's data cache."""
    try:
        for index in sorted(CACHES.glob("index*")):
            kind, size = (index / name for name in ("type", "size"))
            if int((index / "level").read_text()) == level and kind.read_text().strip() != "Instruction":
                return int(size.read_text().strip().removesuffix("K")) * 2**10
    except (OSError, ValueError):
        pass
    return usual


@cache
def this_machine() -> Machine:
    """The one that kernels are compiled for."""
    cpu = numba.config.CPU_NAME or llvm.get_host_cpu_name()
    return Machine(cpu, VECTOR_BITS, cache_bytes(1, USUAL_L1), cache_bytes(2, USUAL_L2))


def distance(one: Machine, other: Machine) -> tuple[float, ...]:
    """How unlike two machines are: what counts most first."""
    letters = [re.sub(r"\d+$", "", machine.cpu) for machine in (one, other)]
    return (
        abs(math.log2(one.vector_bits / other.vector_bits)),
        one.cpu != other.cpu,
        letters[0] != letters[1],
        abs(math.log2(one.l2_bytes / other.l2_bytes)),
    )


@cache
def machines() -> dict[str, tuple[Machine, Any]]:
    """The files' names, and what they hold."""
    found = {}
    for path in sorted(FOLDER.glob("*.json")):
        text = json.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = Machine(*(text[name] for name in Machine._fields)), text
    return found


def nearest(machine: Machine) -> str:
    """The name of the file that serves a machine."""
    found = machines()
    return min(found, key=lambda name: distance(machine, found[name][0]))


def costs_of(name: str) -> Costs:
    """The nanoseconds of a file."""
    costs: Costs = machines()[name][1]["nanoseconds"]
    return costs
