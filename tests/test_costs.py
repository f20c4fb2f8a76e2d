"""The estimates by which ``auto`` leaves what would be far slower."""

import json
import math
import random
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import algorithms
from fastconv.algorithms import ALGORITHMS, PASSES, costs
from fastconv.kernels.vectors import VECTOR_BYTES

SCRIPT = Path(__file__).resolve().parent.parent / "bench" / "costs.py"


def geometry(*sizes, **steps):
    return fastconv.plan_conv2d(*sizes, **steps)._geometry


def test_terms_of_a_forward_pass():
    lanes = VECTOR_BYTES // 4
    found = costs.terms(geometry((2, 3, 8, 8), (5, 3, 3, 3), padding=1), "forward")
    products = 2 * 5 * 8 * 8 * 3 * 9
    assert found["along_lines"] == pytest.approx(costs.STEP * products * math.ceil(8 / lanes) / 8)
    assert found["along_plane"] == pytest.approx(costs.STEP * products * math.ceil(64 / lanes) / 64)
    assert found["along_filters"] == pytest.approx(costs.STEP * products * math.ceil(5 / lanes) / 5)
    assert found["along_channels"] == pytest.approx(costs.STEP * products * math.ceil(3 / lanes) / 3)
    assert found["exact"] == pytest.approx(costs.STEP * products / lanes)
    assert found["thin"] == pytest.approx(costs.STEP * products / 5)
    assert found["once"] == pytest.approx(found["along_lines"] / 5)
    source, result = 4 * 2 * 3 * 64, 4 * 2 * 5 * 64
    assert (found["source"], found["result"], found["weights"]) == (source, result, 4 * 5 * 3 * 9)
    assert (found["first"], found["last"]) == (source + result, 0)
    assert (found["units"], found["lines"], found["taps"]) == (2, 2 * 8, 2 * 64 * 9)
    assert found["call"] == 1
    assert found["strided"] == found["apart"] == 0


def test_terms_of_backward_input_with_a_stride_and_the_channels_last():
    lanes = VECTOR_BYTES // 8
    layer = geometry((1, 8, 6, 3), (5, 2, 2, 3), 2, dtype="float64", layout="NHWC")
    found = costs.terms(layer, "backward_input")
    products = 8 * 6 * 3 * 5 * 4 / 4
    assert found["along_filters"] == pytest.approx(costs.STEP * products * math.ceil(3 / lanes) / 3)
    assert found["along_channels"] == pytest.approx(costs.STEP * products * math.ceil(5 / lanes) / 5)
    assert found["along_lines"] == pytest.approx(costs.STEP * products * math.ceil(3 / lanes) / 3)
    assert (found["source"], found["result"]) == (8 * 4 * 3 * 5, 8 * 8 * 6 * 3)
    assert (found["first"], found["last"]) == (0, found["source"] + found["result"])
    assert (found["units"], found["lines"], found["taps"]) == (4, 4 * 4, 4 * 4 * 3 * 4)
    assert found["apart"] == 8 * 6 * 3
    assert found["strided"] == pytest.approx(costs.STEP * products / lanes)


def test_terms_of_groups_are_those_of_one_times_their_number():
    one = costs.terms(geometry((2, 3, 8, 8), (5, 3, 3, 3), padding=1), "backward_input")
    four = costs.terms(geometry((2, 12, 8, 8), (20, 3, 3, 3), padding=1, groups=4), "backward_input")
    for name in set(one) - {"call", "along_groups"}:
        assert four[name] == pytest.approx(4 * one[name])
    lanes = VECTOR_BYTES // 4
    assert four["along_groups"] == pytest.approx(
        costs.STEP * 2 * 12 * 64 * 5 * 9 * math.ceil(12 / lanes) / 12
    )


def test_every_algorithm_but_lattices_has_estimates():
    names = {algorithm.name for algorithm in ALGORITHMS}
    assert set(costs.COSTS) == (names - {"lattice"}) | {"grouped_last"}
    layer = geometry((2, 3, 8, 8), (5, 3, 3, 3))
    for which in PASSES:
        found = costs.estimates(layer, which)
        assert names - {"lattice", "pointwise"} <= set(found)
        assert all(nanoseconds > 1000 for nanoseconds in found.values())
    last = geometry((2, 8, 8, 3), (5, 3, 3, 3), layout="NHWC")
    assert costs.costs_of(layer, "grouped") == "grouped"
    assert costs.costs_of(last, "grouped") == "grouped_last"
    assert costs.estimates(geometry((2, 4, 8, 8), (4, 1, 3, 3), groups=4), "forward") == {}
    assert costs.estimates(geometry((0, 3, 8, 8), (5, 3, 3, 3)), "forward") == {}
    assert costs.estimates(geometry((2**20, 3, 500, 500), (5, 3, 3, 3)), "forward") == {}


@pytest.mark.parametrize("which", PASSES)
def test_auto_leaves_what_is_estimated_far_slower(which, monkeypatch):
    layer = geometry((2, 3, 8, 8), (5, 3, 3, 3))
    monkeypatch.setattr(costs, "MARGIN", math.inf)
    by_rule = algorithms.choose(layer, which)
    monkeypatch.setattr(costs, "MARGIN", 1.5)
    other = next(a for a in ALGORITHMS if a is not by_rule and a.why_not(layer, which) is None)
    for ratio, expected in ((1.4, by_rule), (1.6, other)):
        table = {name: {which: {"call": 1e9}} for name in costs.COSTS}
        table[by_rule.name] = {which: {"call": 1000.0 * ratio}}
        table[other.name] = {which: {"call": 1000.0}}
        monkeypatch.setattr(costs, "COSTS", table)
        monkeypatch.setattr(costs, "CAUTION", 1)
        assert algorithms.choose(layer, which) is expected


def test_what_takes_groups_one_by_one_does_not_replace_what_was_made_for_them(monkeypatch):
    layer = geometry((2, 64, 8, 8), (64, 16, 3, 3), padding=1, groups=4)
    last = geometry((2, 8, 8, 64), (64, 3, 3, 16), padding=1, groups=4, layout="NHWC")
    serving = [a for a in ALGORITHMS if a.why_not(layer, "forward") is None]
    bundles = next(a for a in serving if a.name == "bundles")
    table = {name: {"forward": {"call": 1000.0}} for name in ("direct", "im2col", "winograd")}
    monkeypatch.setattr(costs, "COSTS", {**table, "bundles": {"forward": {"call": 1e9}}})
    assert costs.cheaper(bundles, serving, layer, "forward").name == "im2col"
    assert costs.cheaper(bundles, serving, last, "forward") is bundles
    monkeypatch.setattr(costs, "GROUP_MARGIN", math.inf)
    assert costs.cheaper(bundles, serving, layer, "forward") is bundles


def test_estimates_grow_with_the_work():
    small, large = geometry((1, 32, 28, 28), (32, 32, 3, 3)), geometry((8, 32, 28, 28), (32, 32, 3, 3))
    for which in PASSES:
        few, many = costs.estimates(small, which), costs.estimates(large, which)
        assert all(few[name] < many[name] < 8 * few[name] for name in few)


def test_the_fit_finds_costs_that_are_there():
    script = runpy.run_path(str(SCRIPT))
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(200):
        counted = {name: float(rng.uniform(1, 100)) for name in ("bytes", "steps", "nothing")}
        rows.append(({"call": 1.0, **counted}, 5 + 2 * counted["bytes"] + 0.5 * counted["steps"]))
    found, error = script["selected"](rows)
    assert found.keys() == {"call", "bytes", "steps"}
    assert found == pytest.approx({"call": 5, "bytes": 2, "steps": 0.5}, rel=1e-3)
    assert error < 1e-3


def test_layers_are_drawn_timed_and_judged(tmp_path):
    rng, script = random.Random(0), runpy.run_path(str(SCRIPT))
    for layer in (script["drawn"](rng, "float32") for _ in range(20)):
        plan = script["planned"](json.loads(json.dumps(layer)))
        assert script["LEAST"] / 4 < plan.flops / 2 < 2 * script["MOST"]
    assert sum(1 for _ in script["of_suites"]("float64")) > 60
    file = tmp_path / "times.jsonl"
    command = [sys.executable, SCRIPT, "draw", file, "--seconds", "1"]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    layers = [json.loads(line) for line in file.read_text().splitlines()]
    assert layers
    assert all(set(layer["times"]) == set(PASSES) for layer in layers)
    told = subprocess.run(
        [sys.executable, SCRIPT, "judge", file], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert f"auto: {3 * len(layers)} passes" in told.stdout
