"""What a pass takes in each algorithm, estimated from its sizes.

An estimate is a sum of terms, each a count of what the algorithm does times the nanoseconds that one of these
takes on the machine (`fastconv.algorithms.machine`). The counts stand beside each algorithm, in ``counts``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastconv.algorithms.machine import Costs, costs_of, nearest, this_machine
from fastconv.algorithms.problem import Problem

if TYPE_CHECKING:
    from fastconv.algorithms import Algorithm

COSTS: Costs = costs_of(nearest(this_machine()))


def estimate(kind: type[Algorithm], problem: Problem, costs: Costs = COSTS) -> float:
    """Nanoseconds that a pass takes by an algorithm."""
    row, counted, inner = kind.counts(problem)
    each = costs[row][problem.which]
    taken = sum([each[term] * count for term, count in counted.items() if term in each])
    if inner is not None:
        kinds, geometry = inner
        within = Problem(geometry, problem.which)
        taken += min(estimate(other, within, costs) for other in kinds)
    return taken


def least(kinds: Iterable[type[Algorithm]], problem: Problem, costs: Costs = COSTS) -> type[Algorithm]:
    """The algorithm that is estimated to take least."""
    return min(kinds, key=lambda kind: estimate(kind, problem, costs))
