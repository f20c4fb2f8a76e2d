"""What ``algorithm="auto"`` takes: the least of estimates, scored by times that were recorded."""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from strategies import examples, wide_problems
from test_algorithms import plan_of

BENCH = Path(__file__).resolve().parent.parent / "bench"
if not BENCH.is_dir():
    pytest.skip("the scripts that calibrate stand in the repository", allow_module_level=True)
sys.path.insert(0, str(BENCH))

import fitting  # noqa: E402
from calibrate import layers_of  # noqa: E402
from random_layers import Layer, drawn, of_suites, read  # noqa: E402

import fastconv  # noqa: E402
from fastconv.engine import machine, select  # noqa: E402
from fastconv.engine.algorithm import PASSES  # noqa: E402
from fastconv.engine.estimates import COSTS, estimate, least  # noqa: E402
from fastconv.engine.machine import Machine  # noqa: E402
from fastconv.engine.problem import Counts, Problem  # noqa: E402
from fastconv.engine.select import ALGORITHMS  # noqa: E402
from fastconv.kernels.vectors import VECTOR_BITS  # noqa: E402

TIMES = Path(__file__).resolve().parent / "times"


# Of times that were recorded on a machine, of some layers, with the choice by a machine's nanoseconds: mean,
# share within 10 %, the worst of a hundred and the worst of all, as they are, and a little more. Layers that
# are "unseen" were drawn at random by another seed than those that the nanoseconds are fitted to.
HELD = {
    ("znver5", "unseen", "znver5"): (1.055, 0.87, 2.3, 25),
    ("znver5", "suites", "znver5"): (1.005, 0.98, 1.15, 1.25),
    # The choice is the same for any number of threads, and so are the bits: this is what it takes on two.
    ("znver5", "two-threads", "znver5"): (1.065, 0.82, 2.2, 7.5),
    # The same processor, held to AVX2.
    ("haswell", "unseen", "haswell"): (1.075, 0.83, 2.9, 16),
    ("haswell", "suites", "haswell"): (1.015, 0.95, 1.3, 1.9),
    # A machine whose file is another's.
    ("znver5", "unseen", "haswell"): (1.1, 0.78, 3.1, 9.0),
    ("haswell", "unseen", "znver5"): (1.11, 0.77, 3.2, 14),
}
# What Numba compiles for, so that vectors are as wide as on the machine that was recorded.
FEATURES = {256: "+avx,+avx2,+fma", 512: "+avx512f"}
PROGRAM = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import test_choice
print(json.dumps(test_choice.scored_here(*sys.argv[3:])))
"""


def scored_here(times, which, costs):
    """How good the choice by a machine's nanoseconds is for layers that were recorded on one."""
    if which == "suites":
        layers = [layer for layer in layers_of([TIMES / f"{times}.txt.xz"]) if layer.suite != "-"]
    else:
        layers = layers_of([TIMES / f"{times}-{which}.txt.xz"])
    held = machine.costs_of(costs)
    return fitting.Score.of([fitting.ratio(row, held)[0] for row in fitting.rows(layers)])


def scored(times, which, costs):
    """The same; in a process of its own where the machine's vectors are of another width."""
    bits = machine.machines()[times][0].vector_bits
    if bits == VECTOR_BITS:
        return scored_here(times, which, costs)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(BENCH), str(TIMES.parent), times, which, costs],
        env={**os.environ, "NUMBA_CPU_NAME": times, "NUMBA_CPU_FEATURES": FEATURES[bits]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return fitting.Score(*json.loads(run.stdout))


@pytest.mark.parametrize(("times", "which", "costs"), HELD)
def test_the_choice_beside_the_fastest(times, which, costs):
    """The score that an estimate may not make worse: ``python bench/calibrate.py score`` says more of it."""
    score = scored(times, which, costs)
    mean, near, hundredth, worst = HELD[times, which, costs]
    assert score.passes > 500
    assert score.mean <= mean, score
    assert score.near >= near, score
    assert score.hundredth <= hundredth, score
    assert score.worst <= worst, score


def test_auto_takes_what_is_scored():
    """The scores are of the least estimate, which `choose` finds without all those of the other layout."""
    rows = fitting.rows(layers_of([TIMES / "znver5.txt.xz"])[::2])
    reordered = 0
    for row in rows:
        geometry, which = row.problem.geometry, row.problem.which
        kind = select.choose(geometry, which)
        least_of_all = min(estimate(k, row.problem) for k in select.candidates(geometry, which))
        assert estimate(kind, row.problem) == pytest.approx(least_of_all), (row.layer, which, kind.label)
        reordered += kind not in ALGORITHMS
    assert reordered > 100


@given(wide_problems())
@examples(200)
def test_whatever_serves_has_an_estimate(p):
    geometry = plan_of(p, "auto")._geometry
    if geometry.is_empty:
        return
    for which in PASSES:
        problem = Problem(geometry, which)
        for kind in select.candidates(geometry, which):
            counts = kind.counts(problem)
            assert all(0 <= count < math.inf for count in counts.terms.values())
            for name in machine.machines():
                assert 100 < estimate(kind, problem, machine.costs_of(name)) < math.inf


def test_the_least_estimate_is_chosen(monkeypatch):
    geometry = fastconv.plan_conv2d((2, 3, 8, 8), (5, 3, 3, 3))._geometry
    for which in PASSES:
        served = select.serving(geometry, which)
        assert len(served) > 3
        for chosen in served:
            costs = {name: {which: {"call": 2.0}} for name in COSTS}
            counts = chosen.counts(Problem(geometry, which))
            costs[counts.row] = {which: {"call": 1.0}}
            assert least(served, Problem(geometry, which), costs) == (1, chosen)
    assert {which: select.choose(geometry, which).name for which in PASSES} == fastconv.plan_conv2d(
        (2, 3, 8, 8), (5, 3, 3, 3)
    ).algorithms


def test_an_algorithm_without_nanoseconds_is_never_chosen():
    geometry = fastconv.plan_conv2d((2, 3, 8, 8), (5, 3, 3, 3))._geometry
    served, problem = select.serving(geometry, "forward"), Problem(geometry, "forward")
    costs = {"im2col": {"forward": {"call": 1e9}}, "im2col/narrow": {"forward": {"call": 1e9}}}
    taken, chosen = least(served, problem, costs)
    assert (taken, chosen.name) == (1e9, "im2col")
    assert {estimate(kind, problem, costs) for kind in served} == {1e9, float("inf")}


def test_an_estimate_with_another_within_takes_the_least_of_these():
    geometry = fastconv.plan_conv2d((2, 3, 9, 9), (5, 3, 3, 3), 2, 2, 2)._geometry
    decimated = next(kind for kind in ALGORITHMS if kind.name == "decimated")
    counts = decimated.counts(Problem(geometry, "forward"))
    kinds, reduced = counts.inner
    assert reduced.input == (1, 5, 5)
    within = min(estimate(kind, Problem(reduced, "forward")) for kind in kinds)
    own = {term: each for term, each in COSTS["decimated"]["forward"].items() if term in counts.terms}
    assert estimate(decimated, Problem(geometry, "forward")) == pytest.approx(
        within + sum(each * counts.terms[term] for term, each in own.items())
    )


def test_views_are_computed_where_copies_and_work_take_less(monkeypatch):
    geometry = fastconv.plan_conv2d((2, 3, 8, 8), (5, 3, 3, 3))._geometry
    names = [kind.label for kind in select.serving(geometry, "forward")]
    assert "indirect/lines" in names  # which is not in the other layout

    def costs(copy, lines, others):
        table = {name: {"forward": {"call": others}} for name in COSTS}
        table["indirect/lines"], table["reordered"] = (
            {"forward": {"call": lines}},
            {"forward": {"turned": copy}},
        )
        monkeypatch.setattr("fastconv.engine.select.COSTS", table)
        monkeypatch.setattr("fastconv.engine.select.least", lambda *given: least(*given, table))

    costs(1, 700, 1000)
    assert not select.better_there(geometry, "forward", 300, 100)
    assert select.better_there(geometry, "forward", 500, 100)
    assert not select.better_there(geometry, "forward", 500, 500)
    costs(1, 1000, 1000)
    assert select.better_there(geometry, "forward", 101, 100)
    assert not select.better_there(geometry, "forward", 100, 101)


def test_the_nearest_machine():
    zen4, zen5 = Machine("znver4", 512, 2**15, 2**20), Machine("znver5", 512, 48 * 2**10, 2**20)
    xeon, old = Machine("sapphirerapids", 512, 48 * 2**10, 2**21), Machine("haswell", 256, 2**15, 2**18)
    arm = Machine("apple-m1", 128, 2**17, 12 * 2**20)

    def nearest(one, *others):
        return min(others, key=lambda other: machine.distance(one, other))

    assert nearest(zen4, zen5, xeon, old) is zen5
    assert nearest(zen5, xeon, zen4, zen5) is zen5
    assert nearest(xeon._replace(cpu="icelake-server"), zen5, xeon, old) is xeon
    assert nearest(Machine("skylake", 256, 2**15, 2**18), zen5, xeon, old) is old
    assert nearest(arm, zen5, xeon, old) is old


def test_cache_sizes_are_those_of_the_system_or_usual_ones(tmp_path, monkeypatch):
    caches = (1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "1024K")
    for index, (level, kind, size) in enumerate(caches):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "CACHES", tmp_path)
    assert [machine.cache_bytes(level, 7) for level in (1, 2, 3)] == [49152, 2**20, 7]
    (tmp_path / "index2" / "size").write_text("much\n")
    assert machine.cache_bytes(2, 7) == 7
    monkeypatch.setattr(machine, "CACHES", tmp_path / "nowhere")
    assert machine.cache_bytes(1, 7) == 7


def test_layers_are_lines():
    rng = random.Random(0)
    for layer in [*(drawn(rng) for _ in range(50)), *list(of_suites())[::20]]:
        timed = Layer(
            **{**vars(layer), "times": {which: {"im2col": 12.5, "indirect/lines": 1e6} for which in PASSES}}
        )
        again = read(str(timed))
        assert (again, again.times) == (timed, timed.times)
        assert again.geometry.multiplications > 0


class Counted:
    """An algorithm that only counts."""

    def __init__(self, name, counted):
        self.name, self.counted = name, counted

    def counts(self, problem):
        return Counts(self.name, self.counted(problem))


def test_the_fit_finds_costs_that_are_there():
    rng = random.Random(1)
    kinds = (
        Counted("one", lambda p: {"call": 1, "work": p.work}),
        Counted("other", lambda p: {"call": 1, "source": p.source_bytes, "nothing": p.batch}),
    )
    costs = {"one": {"call": 900.0, "work": 0.5}, "other": {"call": 7000.0, "source": 2.0}}
    rows = []
    for _ in range(60):
        layer = drawn(rng)
        problem = Problem(layer.geometry, "forward")
        times = {
            kind: sum(costs[kind.name].get(term, 0) * n for term, n in kind.counts(problem).terms.items())
            for kind in kinds
        }
        rows.append(fitting.Row(layer, problem, times))
    found = fitting.fitted(rows)
    assert "nothing" not in found["other"]["forward"]
    for row in rows:
        for kind, taken in row.times.items():
            assert estimate(kind, row.problem, found) == pytest.approx(taken, rel=0.2)
    assert all(fitting.ratio(row, found)[0] == 1 for row in rows)


def test_calibrate_records_fits_and_scores(tmp_path):
    file = tmp_path / "times.txt"
    command = [sys.executable, BENCH / "calibrate.py"]
    subprocess.run([*command, "record", file, "--minutes", "0.02"], check=True, cwd=tmp_path)
    layers = layers_of([file])
    assert layers
    assert all(set(layer.times) == set(PASSES) for layer in layers)
    assert all(taken > 0 for layer in layers for times in layer.times.values() for taken in times.values())
    told = subprocess.run(
        [*command, "score", file], check=True, cwd=tmp_path, capture_output=True, text=True
    ).stdout
    assert "times the fastest" in told
    told = subprocess.run(
        [*command, "worth", file], check=True, cwd=tmp_path, capture_output=True, text=True
    ).stdout
    assert "without im2col" in told
