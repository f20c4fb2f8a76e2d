"""What a pass takes in each algorithm, estimated from its sizes.

An estimate is a sum of terms, each a count of what the algorithm does times the nanoseconds that one of these
takes on the machine (`fastconv.engine.machine`). The counts stand beside each algorithm, in ``counts``.

Estimates are those of one thread, and so is the choice, whatever the number of threads: results are the same
bits for any. On two threads what is chosen takes 1.06 times as long as the fastest (on one 1.04; 1722 passes
drawn at random, AMD EPYC Zen 5). Estimates that shared the work among an algorithm's jobs, or that knew how
much faster each algorithm had been on two threads than on one, chose no better there: 1.057, 1.055 to 1.060.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING

from fastconv.engine.machine import Costs, costs_of, nearest, this_machine
from fastconv.engine.problem import Problem

if TYPE_CHECKING:
    from fastconv.engine.algorithm import Algorithm, Pass

COSTS: Costs = costs_of(nearest(this_machine()))


def nanoseconds(row: str, counted: Mapping[str, float], which: Pass, costs: Costs) -> float:
    """Of all that was counted; without end where the machine's file has no such row."""
    if row not in costs:
        return math.inf
    taken = 0.0
    for term, each in costs[row][which].items():
        taken += each * counted.get(term, 0)
    return taken


def estimate(kind: type[Algorithm], problem: Problem, costs: Costs = COSTS) -> float:
    """Nanoseconds that a pass takes by an algorithm."""
    row, counted, inner = kind.counts(problem)
    taken = nanoseconds(row, counted, problem.which, costs)
    if inner is not None:
        kinds, geometry = inner
        taken += least(kinds, Problem(geometry, problem.which), costs)[0]
    return taken


def least(
    kinds: Iterable[type[Algorithm]], problem: Problem, costs: Costs = COSTS
) -> tuple[float, type[Algorithm]]:
    """The algorithm that is estimated to take least, and its nanoseconds."""
    return min(((estimate(kind, problem, costs), kind) for kind in kinds), key=itemgetter(0))
