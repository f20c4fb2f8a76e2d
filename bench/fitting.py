"""Nanoseconds of what algorithms count, fitted to recorded times; and how good a choice by them is.

First each algorithm's counts are fitted to its own times, by least squares of not negative coefficients. Then
all of them together, so that what is chosen by them takes as little as can be: what matters is which of two
estimates is less, where both are near.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from random_layers import Layer, label
from scipy import optimize, sparse

from fastconv.engine.algorithm import PASSES, Algorithm
from fastconv.engine.estimates import estimate
from fastconv.engine.layouts import reordered
from fastconv.engine.machine import Costs
from fastconv.engine.problem import Counts, Problem
from fastconv.engine.select import ALGORITHMS

# Layers of the suites, which networks have, count as so many drawn ones. At a weight of 4 to 15 one of them
# takes 2.8 times as long as it need; at 20 the worst takes 1.18, and drawn ones 1.049 in the mean, not 1.045.
SUITE_WEIGHT = 20
# How sharply choices follow from estimates while they are fitted: those that differ by much less than this
# share of each other are both taken, by halves. And the weight of errors of the estimates themselves.
SHARPNESS, ERRORS = 0.05, 0.3
# Nanoseconds below which a term counts as nothing.
LEAST_COST = 1e-6
# Algorithms that take more times as long as the fastest count as if they took so many.
FAR = 4.5

BY_LABEL = {label(kind): kind for kind in (*ALGORITHMS, *map(reordered, ALGORITHMS))}


class Row(NamedTuple):
    """A pass that was recorded: nanoseconds by algorithm."""

    layer: Layer
    problem: Problem
    times: dict[type[Algorithm], float]


def rows(layers: Iterable[Layer]) -> list[Row]:
    """The passes of some layers, without algorithms that no longer serve them."""
    found = []
    for layer in layers:
        geometry = layer.geometry
        for which in PASSES:
            times = {
                BY_LABEL[name]: 1e3 * taken
                for name, taken in layer.times[which].items()
                if name in BY_LABEL and BY_LABEL[name].why_not(geometry, which) is None
            }
            if times:
                found.append(Row(layer, Problem(geometry, which), times))
    return found


class Score(NamedTuple):
    """How many times as long as the fastest algorithm the chosen ones take."""

    passes: int
    mean: float  # geometric
    near: float  # share of passes within 10 %
    hundredth: float  # the worst one of a hundred
    worst: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Score:
        """That of some passes."""
        found = np.array(ratios)
        return cls(
            len(found),
            float(np.exp(np.log(found).mean())),
            float((found <= 1.1).mean()),
            float(np.quantile(found, 0.99)),
            float(found.max()),
        )

    def __str__(self) -> str:
        return (
            f"{self.passes} passes, {self.mean:.3f} times the fastest, {self.near:.0%} within 10 %, "
            f"one in a hundred {self.hundredth:.2f}, the worst {self.worst:.1f}"
        )


def ratio(row: Row, costs: Costs) -> tuple[float, type[Algorithm]]:
    """How many times as long as the fastest the choice takes, and what it is."""
    chosen = min(row.times, key=lambda kind: estimate(kind, row.problem, costs))
    return row.times[chosen] / min(row.times.values()), chosen


def worth(some: Sequence[Row]) -> dict[str, Score]:
    """How much slower the fastest is where an algorithm is left out."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for row in some:
        for name in [kind.label for kind in ALGORITHMS]:
            rest = [taken for other, taken in row.times.items() if other.name != name]
            if rest:
                ratios[name].append(min(rest) / min(row.times.values()))
    return {name: Score.of(found) for name, found in ratios.items()}


def least_squares(matrix: Any, times: Any, within: Any = 0) -> Any:
    """Not negative costs of what is counted beside ``within``; errors, of the logarithm, are about equal."""
    weights = 1 / times
    for _ in range(6):
        scaled = matrix * weights[:, None]
        norms = np.linalg.norm(scaled, axis=0) + 1e-300
        costs = optimize.nnls(scaled / norms, (times - within) * weights)[0] / norms
        weights = 1 / np.sqrt(np.maximum(within + matrix @ costs, 1e-9) * times)
    return costs


Key = tuple[str, str, str]  # row, pass, term


class Fit:
    """All counts of recorded passes, as matrices."""

    def __init__(self, some: Sequence[Row]) -> None:
        self.keys: dict[Key, int] = {}
        self.times, self.row_of, self.rows_of_key = [], [], defaultdict(list)
        entries: list[dict[int, float]] = []
        inner: list[dict[int, float]] = []
        # Of an estimate that has another within: which of the inner ones that may be.
        self.within: dict[int, range] = {}
        for i, row in enumerate(some):
            which = row.problem.which
            for kind, taken in row.times.items():
                counts = kind.counts(row.problem)
                if counts.inner is not None:
                    kinds, geometry = counts.inner
                    problem = Problem(geometry, which)
                    self.within[len(entries)] = range(len(inner), len(inner) + len(kinds))
                    inner += [self._numbered(other.counts(problem), which) for other in kinds]
                else:
                    self.rows_of_key[counts.row, which].append(len(entries))
                entries.append(self._numbered(counts, which))
                self.times.append(taken)
                self.row_of.append(i)
        self.time, self.row = np.array(self.times), np.array(self.row_of)
        self.counts, self.inner = self._matrix(entries), self._matrix(inner)
        fastest = np.full(len(some), np.inf)
        np.minimum.at(fastest, self.row, self.time)
        self.loss = np.minimum(np.log(self.time / fastest[self.row]), np.log(FAR))

    def _numbered(self, counts: Counts, which: str) -> dict[int, float]:
        found = {}
        for term, count in counts.terms.items():
            number = self.keys.setdefault((counts.row, which, term), len(self.keys))
            if count:
                found[number] = count
        return found

    def _matrix(self, entries: list[dict[int, float]]) -> Any:
        places = [(i, j, count) for i, entry in enumerate(entries) for j, count in entry.items()]
        row, column, count = np.array(places).T if places else np.zeros((3, 0))
        shape = len(entries), len(self.keys)
        return sparse.csr_matrix((count, (row.astype(int), column.astype(int))), shape=shape)

    def estimates(self, costs: Any) -> tuple[Any, dict[int, int]]:
        """Of all entries, and which inner one is the least of each that has some."""
        found, inner = self.counts @ costs, self.inner @ costs
        taken = {k: some[int(np.argmin(inner[some.start : some.stop]))] for k, some in self.within.items()}
        for k, least in taken.items():
            found[k] += inner[least]
        return np.maximum(found, 1), taken

    def apart(self) -> Any:
        """Costs of each row and pass by themselves; of those with others within, after these."""
        costs = np.zeros(len(self.keys))
        for (row, which), places in self.rows_of_key.items():
            columns = [number for key, number in self.keys.items() if key[:2] == (row, which)]
            costs[columns] = least_squares(self.counts[places][:, columns].toarray(), self.time[places])
            # No call is free, however small the layer.
            call = self.keys[row, which, "call"]
            costs[call] = max(costs[call], self.time[places].min() / 4)
        for columns in self._composed().values():
            places = [k for k in self.within if self.counts[k, columns[0]]]
            _, taken = self.estimates(costs)
            inner = (self.inner @ costs)[[taken[k] for k in places]]
            costs[columns] = least_squares(
                self.counts[places][:, columns].toarray(), self.time[places], inner
            )
        return costs

    def _composed(self) -> dict[tuple[str, str], list[int]]:
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for (row, which, _), number in self.keys.items():
            if (row, which) not in self.rows_of_key:
                found[row, which].append(number)
        return found

    def together(self, costs: Any) -> Any:
        """Costs whose choices take least: the mean over a pass's algorithms, most of it that of the least."""
        count, free = int(self.row.max()) + 1, costs > 0
        logarithm = np.log(self.time)

        def loss(logarithms: Any) -> tuple[float, Any]:
            some = np.zeros_like(costs)
            some[free] = np.exp(logarithms)
            found, taken = self.estimates(some)
            near = -np.log(found) / SHARPNESS
            most = np.full(count, -np.inf)
            np.maximum.at(most, self.row, near)
            share = np.exp(near - most[self.row])
            share /= np.bincount(self.row, share, count)[self.row]
            taken_on = np.bincount(self.row, share * self.loss, count)
            errors = np.log(found) - logarithm
            bounded = np.clip(errors, -0.5, 0.5)
            value = taken_on.mean() + ERRORS * (bounded * (2 * errors - bounded)).mean()
            slope = -share * (self.loss - taken_on[self.row]) / SHARPNESS / count
            slope = (slope + 2 * ERRORS * bounded / len(errors)) / found
            inner = np.zeros(self.inner.shape[0])
            for k, least in taken.items():
                inner[least] += slope[k]
            gradient = self.counts.T @ slope + self.inner.T @ inner
            return float(value), (gradient * some)[free]

        best = optimize.minimize(
            loss, np.log(costs[free]), jac=True, method="L-BFGS-B", options={"maxiter": 400}
        )
        fitted = np.zeros_like(costs)
        fitted[free] = np.exp(best.x)
        return fitted


def fitted(some: Sequence[Row]) -> Costs:
    """The nanoseconds of all terms that matter."""
    of_suites = [row for row in some if row.layer.suite != "-"]
    fit = Fit([*some, *of_suites * (SUITE_WEIGHT - 1)])
    costs = fit.together(fit.apart())
    table: Costs = defaultdict(lambda: defaultdict(dict))
    for (row, which, term), number in sorted(fit.keys.items()):
        table[row][which]  # an entry, though nothing may count
        if costs[number] > LEAST_COST:
            table[row][which][term] = float(f"{costs[number]:.3g}")
    return {row: dict(passes) for row, passes in table.items()}
