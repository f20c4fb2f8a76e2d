"""Tuning: what is chosen from which times, in memory and in files. No real time is looked at."""

import copy
import json
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import LAYOUTS, function, integers, is_last, layout_shape, to_layout
from hypothesis import given
from oracles import ref_conv, ref_conv_backward_input, ref_conv_backward_weight
from strategies import conv_problems, examples, spread, transpose_problems
from test_algorithms import PASSES, run

import fastconv
from fastconv import plan as plans
from fastconv import tuning
from fastconv.cli import main
from fastconv.engine.select import candidates, choose, named
from fastconv.geometry import Geometry

SLOW = 0.5


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    """Each test begins with nothing tuned, and leaves nothing."""
    monkeypatch.setattr(tuning, "_known", {})
    monkeypatch.setattr(tuning, "_files", [])
    monkeypatch.setattr(tuning, "edition", object())


@pytest.fixture
def turns(monkeypatch):
    """Turns that take as long as ``turns.seconds[which, name]`` says, the times one after the other."""
    return Turns(monkeypatch)


class Turns:
    def __init__(self, monkeypatch):
        self.seconds, self.taken = {}, []
        monkeypatch.setattr(tuning, "_turn", self)

    def __call__(self, call, repeats):
        plan = getattr(call.func, "__self__", call.func)
        ((which, kind),) = plan._passes.tuned.items()
        assert labels(plan)[which] == kind.label
        before = self.taken.count((which, kind.label))
        self.taken.append((which, kind.label))
        times = self.seconds.get((which, kind.label), (SLOW,))
        return times[before % len(times)]


def plan_of(ndim=2, layout="NCHW", dtype="float32", **arguments):
    sizes = ((2, 3, *(7, 6, 5)[:ndim]), (4, 3, *(3, 2, 2)[:ndim]))
    return function("plan_conv{}", ndim)(
        *(layout_shape(size, layout) for size in sizes), layout=layout, dtype=dtype, **arguments
    )


def labels(plan):
    """Of the algorithms of a plan."""
    return {which: kind.label for which, kind in plan._passes.kinds().items()}


def names(plan, which):
    """Of the algorithms that can serve a pass."""
    return [kind.label for kind in candidates(plan._geometry, which)]


def own(plan, which):
    """What "auto" chooses by itself."""
    return choose(plan._geometry, which).label


def others(plan, which):
    return [name for name in names(plan, which) if name != own(plan, which)]


# --- the choice ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
def test_the_fastest_is_chosen_and_right(ndim, layout, dtype, turns):
    """Whichever is the fastest, for each pass."""
    plan, rng = plan_of(ndim, layout, dtype), np.random.default_rng(0)
    x, w = integers(rng, (2, 3, *(7, 6, 5)[:ndim])), integers(rng, (4, 3, *(3, 2, 2)[:ndim]))
    rest = (1,) * ndim, ((0, 0),) * ndim, (1,) * ndim, 1
    y = ref_conv(x, w, *rest)
    dy = integers(rng, y.shape, low=-1, high=1)
    expected = {
        "forward": y,
        "backward_input": ref_conv_backward_input(dy, w, x.shape[2:], *rest),
        "backward_weight": ref_conv_backward_weight(dy, x, w.shape[2:], *rest),
    }
    arrays = [to_layout(array, layout).astype(dtype) for array in (x, w, dy)]
    for which in PASSES:
        for fastest in names(plan, which):
            turns.seconds = {(which, fastest): (0.01,)}
            tuned = plan.tune()
            assert labels(tuned) == {**{p: own(plan, p) for p in PASSES}, which: fastest}
            result = run(tuned, which, *arrays)
            np.testing.assert_array_equal(result, to_layout(expected[which], layout).astype(dtype))


def test_the_answer_holds_for_later_plans_and_calls(turns):
    before = plan_of()
    fastest = {which: others(before, which)[0] for which in PASSES}
    turns.seconds = {(which, name): (0.01,) for which, name in fastest.items()}
    tuned = before.tune()
    assert labels(tuned) == fastest
    assert "(tuned)" in tuned.describe()
    assert (tuned.input_size, tuned.weight_size, tuned.dtype) == (
        before.input_size,
        before.weight_size,
        before.dtype,
    )
    assert labels(plan_of()) == labels(plan_of(padding="valid")) == fastest
    other = plan_of(padding=1)
    assert labels(other) == {which: own(other, which) for which in PASSES}
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(size).astype("float32") for size in (before.input_size, before.weight_size))
    by_name = plan_of(algorithm=fastest["forward"])
    assert fastconv.conv2d(x, w).tobytes() == by_name(x, w).tobytes()


def test_plans_that_there_are_keep_their_algorithms(turns):
    before = plan_of()
    kept = labels(before)
    turns.seconds = {(which, others(before, which)[0]): (0.01,) for which in PASSES}
    tuned = before.tune()
    assert labels(before) == kept != labels(tuned)
    assert "tuned" not in before.describe()
    # Copies and pickles are of the plan, not of what is known where they are made.
    for plan in (before, tuned):
        for made in (copy.copy(plan), pickle.loads(pickle.dumps(plan))):
            assert labels(made) == labels(plan)


def test_plans_of_every_algorithm_are_copied():
    geometry = plan_of()._geometry
    for which in PASSES:
        for kind in candidates(geometry, which):
            plan = plans.ConvPlan(geometry, "auto", {which: kind})
            for made in (copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
                assert made.describe() == plan.describe()
                assert f"{which}: {kind.label} (tuned)" in made.describe()


def test_a_pickle_may_reach_a_machine_that_its_algorithm_can_not_serve(turns, monkeypatch):
    plan = plan_of()
    name = others(plan, "forward")[0]
    turns.seconds = {("forward", name): (0.01,)}
    tuned = plan.tune()
    assert labels(tuned)["forward"] == name
    monkeypatch.setattr(named(name)[0], "why_not", staticmethod(lambda geometry, which: "narrow vectors"))
    assert labels(pickle.loads(pickle.dumps(tuned)))["forward"] == own(plan, "forward")


def test_an_algorithm_that_is_asked_for_is_used(turns):
    plan = plan_of()
    fastest = others(plan, "forward")[0]
    turns.seconds = {("forward", fastest): (0.01,)}
    plan.tune()
    assert labels(plan_of(algorithm=own(plan, "forward")))["forward"] == own(plan, "forward")


def test_transposed_convolutions_know_it_too(turns):
    """Their pass is the backward-input pass of a convolution, which has the same geometry."""
    plan = plan_of()
    name = others(plan, "backward_input")[0]
    turns.seconds = {("backward_input", name): (0.01,)}
    rng = np.random.default_rng(0)
    y, w = (rng.standard_normal(size).astype("float32") for size in (plan.output_size, plan.weight_size))
    fastconv.conv_transpose2d(y, w)
    plan.tune()
    expected = plan_of(algorithm=name).backward_input(y, w)
    assert fastconv.conv_transpose2d(y, w).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("times", "changes"),
    [
        ((0.09,) * 5, True),
        ((0.11,) * 5, False),
        ((0.07, 0.13, 0.09, 0.12, 0.08), False),  # they overlap
        ((0.08, 0.08, 9.0, 0.09, 0.08), True),  # one call that was held up
    ],
)
def test_only_a_clear_difference_changes_the_choice(times, changes, turns):
    """Middle halves are compared; the first time only says who takes part."""
    plan = plan_of()
    first, second = own(plan, "forward"), others(plan, "forward")[0]
    # Longer than the budget: five rounds.
    turns.seconds = {("forward", first): (0.1,), ("forward", second): (0.1, *times)}
    assert labels(plan.tune(0))["forward"] == (second if changes else first)


def test_the_budget(turns):
    """Who is far behind is timed once or twice, the others in as many rounds as there is time."""
    plan = plan_of()
    mine, (first, second, third, *_) = own(plan, "forward"), others(plan, "forward")
    times = {mine: SLOW, first: 0.1, second: 0.14, **dict.fromkeys(others(plan, "forward")[2:], SLOW)}
    turns.seconds = {("forward", name): (seconds,) for name, seconds in times.items()}
    plan.tune(30.0)
    counts = {name: turns.taken.count(("forward", name)) for name in times}
    assert counts[mine] == counts[first] > 6
    assert (counts[second], counts[third]) == (2, 1)
    assert 10.0 <= sum(times[name] * count for name, count in counts.items()) <= 10.0 + SLOW + 0.1


def test_short_calls_are_repeated(monkeypatch):
    calls, now = [], iter(np.arange(0, 100, 0.5))
    monkeypatch.setattr(tuning, "perf_counter", lambda: next(now))
    assert tuning._turn(lambda: calls.append(1), 5) == 0.1
    assert len(calls) == 5


def test_the_time_of_a_call_tells_how_often(monkeypatch):
    plan, repeats = plan_of(), []
    monkeypatch.setattr(tuning, "_turn", lambda call, often: repeats.append(often) or 1e-5)
    plan.tune(0)
    assert set(repeats) == {1, 100}


def test_an_empty_layer_is_not_timed(turns):
    plan = fastconv.plan_conv2d((0, 3, 7, 6), (4, 3, 3, 3))
    tuned = plan.tune()
    assert labels(tuned) == labels(plan)
    assert turns.taken == []


def test_nothing_is_measured_unless_asked_for(turns):
    plan = plan_of()
    x, w = np.ones(plan.input_size, "float32"), np.ones(plan.weight_size, "float32")
    fastconv.conv2d_backward(plan(x, w), x, w)
    assert turns.taken == []


def test_what_can_not_be_tuned():
    with pytest.raises(ValueError, match=r"^algorithm must be 'auto' for a plan to be tuned, got 'im2col'$"):
        plan_of(algorithm="im2col").tune()
    for wrong, kind in (("1", TypeError), (None, TypeError), (-1, ValueError), (float("nan"), ValueError)):
        with pytest.raises(kind, match=r"^seconds must be a number of at least 0, got "):
            plan_of().tune(wrong)


def test_memory_that_does_not_suffice():
    with pytest.raises(MemoryError):
        fastconv.plan_conv2d((2**20, 2**10, 2**12, 2**6), (1, 2**10, 1, 1)).tune()


def test_tuning_while_others_call(turns):
    """Each call computes with one algorithm or the other; after the last tuning, with the last."""
    plan, rng = plan_of(), np.random.default_rng(0)
    x, w = (rng.standard_normal(size).astype("float32") for size in (plan.input_size, plan.weight_size))
    alone = {
        kind.label: plans.ConvPlan(plan._geometry, "auto", {"forward": kind})(x, w).tobytes()
        for kind in candidates(plan._geometry, "forward")
    }
    done = threading.Event()

    def call():
        results = set()
        while not done.is_set():
            results.add(fastconv.conv2d(x, w).tobytes())
        return results

    with ThreadPoolExecutor(4) as pool:
        calling = [pool.submit(call) for _ in range(3)]
        try:
            for i in range(30):
                fastest = names(plan, "forward")[i % len(names(plan, "forward"))]
                turns.seconds = {("forward", fastest): (0.01,)}
                plan.tune(0)
                expected = alone[fastest]
                assert fastconv.conv2d(x, w).tobytes() == expected
        finally:
            done.set()
        assert set().union(*(found.result() for found in calling)) <= set(alone.values())
    assert fastconv.conv2d(x, w).tobytes() == expected


def test_a_plan_made_while_another_thread_learns_is_not_kept(monkeypatch):
    """It was begun before, and is finished after: no later call finds it."""
    geometry, look = plan_of(stride=2)._geometry, tuning.tuned
    plans._cached_conv_plan.cache_clear()

    def look_just_before(geometry):
        answer = look(geometry)
        monkeypatch.setattr(tuning, "tuned", look)
        tuning.learn({geometry: tuning.Answer(dict.fromkeys(PASSES, named("im2col")[0]), 1)})
        return answer

    monkeypatch.setattr(tuning, "tuned", look_just_before)
    assert labels(plan_of(stride=2))["forward"] == choose(geometry, "forward").label != "im2col"
    assert labels(plan_of(stride=2))["forward"] == "im2col"


# --- geometry as text ---------------------------------------------------------------------------------


@given(conv_problems())
@examples(100)
def test_a_geometry_survives_a_file(p):
    sizes = [layout_shape(array.shape, p.layout) for array in (p.x, p.w)]
    plan = function("plan_conv{}", p.ndim)(*sizes, **p.arguments, dtype=p.x.dtype)
    text = json.dumps(plan._geometry.to_json())
    assert Geometry.from_json(json.loads(text)) == plan._geometry


@given(transpose_problems())
@examples(100)
def test_a_transposed_geometry_survives_a_file(p):
    """Its output may end where no padding of a convolution ends."""
    sizes = [layout_shape(array.shape, p.layout) for array in (p.x, p.w)]
    steps, extra = (p.stride, p.padding, p.dilation, p.groups), spread(p.output_padding, p.ndim)
    plan = plans.conv_transpose_plan(p.ndim, *sizes, steps, extra, p.x.dtype, is_last(p.layout), "auto")
    assert Geometry.from_json(json.loads(json.dumps(plan._geometry.to_json()))) == plan._geometry


# --- files --------------------------------------------------------------------------------------------


@pytest.fixture
def tuned(turns):
    """A plan with another algorithm than "auto" chooses, in every pass."""
    plan = plan_of()
    turns.seconds = {(which, others(plan, which)[0]): (0.01,) for which in PASSES}
    return plan.tune()


@pytest.fixture
def file(tuned, tmp_path):
    """A file with that plan's layer, which this process has forgotten."""
    path = tmp_path / "tuning.json"
    fastconv.save_tuning(path)
    forget()
    return path


def forget():
    tuning._known.clear()
    tuning.edition = object()


def edited(path, **values):
    """The same file with other values at its top."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")
    return path


def python(code, **variables):
    """Run code in a fresh interpreter that finds what this one finds."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n{code}"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_there_and_back(tuned, file):
    assert labels(plan_of()) != labels(tuned)
    fastconv.load_tuning(str(file))
    assert labels(plan_of()) == labels(tuned)


def test_what_the_file_says(tuned, file):
    content = json.loads(file.read_text("utf-8"))
    assert list(content) == ["fastconv", "cpu", "vector_bits", "layers"]
    assert content["fastconv"] == fastconv.__version__
    assert content["layers"] == [
        {
            "layout": "NCHW",
            "dtype": "float32",
            "input_size": [2, 3, 7, 6],
            "weight_size": [4, 3, 3, 2],
            "output_size": [2, 4, 5, 5],
            "stride": [1, 1],
            "padding_before": [0, 0],
            "dilation": [1, 1],
            "groups": 1,
            "threads": fastconv.get_num_threads(),
            "algorithms": labels(tuned),
        }
    ]


def test_the_threads_that_it_was_measured_with(turns, tmp_path):
    with fastconv.num_threads(3):
        plan_of().tune()
    fastconv.save_tuning(tmp_path / "a.json")
    assert [row["threads"] for row in json.loads((tmp_path / "a.json").read_text("utf-8"))["layers"]] == [3]


def test_layers_come_together_in_one_order(turns, tmp_path):
    """Those loaded and those tuned here; what is loaded later replaces what was known."""
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    plan = plan_of()
    turns.seconds = {("forward", others(plan, "forward")[0]): (0.01,)}
    kept = plan.tune()
    fastconv.save_tuning(first)
    forget()
    plan_of(layout="NHWC").tune()
    plan_of(dtype="float64").tune()
    turns.seconds = {}
    plan.tune()
    fastconv.load_tuning(first)
    assert labels(plan_of()) == labels(kept)
    fastconv.save_tuning(second)
    rows = json.loads(second.read_text("utf-8"))["layers"]
    found = [(row["layout"], row["dtype"]) for row in rows]
    assert found == [("NCHW", "float32"), ("NCHW", "float64"), ("NHWC", "float32")]


def test_a_file_is_replaced_as_a_whole_or_stays(tuned, file, monkeypatch):
    before = file.read_bytes()

    def full(self, *arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full)
        with pytest.raises(ValueError, match=r"^path must be a file that can be written, .*: No space left"):
            fastconv.save_tuning(file)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]
    fastconv.save_tuning(file)
    assert file.read_bytes() != before  # nothing is known now
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.skipif(os.name != "posix", reason="links and devices")
def test_links_and_devices_stay_what_they_are(tuned, file, tmp_path):
    (tmp_path / "link.json").symlink_to(file)
    fastconv.save_tuning(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads(file.read_text("utf-8"))["layers"] == []
    fastconv.save_tuning(os.devnull)
    assert not os.path.isfile(os.devnull)


@pytest.mark.parametrize("wrong", [None, 1, b"name", ["a"]], ids=repr)
@pytest.mark.parametrize("call", [fastconv.save_tuning, fastconv.load_tuning])
def test_what_is_no_path(call, wrong):
    with pytest.raises(TypeError, match=r"^path must be the path of a file, got "):
        call(wrong)


@pytest.mark.parametrize("name", ["", "nowhere/file.json", "nul\0"], ids=repr)
def test_what_can_not_be_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^path must be a file that can be written, got "):
        fastconv.save_tuning(name)
    assert os.listdir(tmp_path) == []


WRITTEN = r"^path must be a file that fastconv\.save_tuning or `fastconv tune` wrote, got '.*'"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ": No such file or directory$"),
        (b"", ": not JSON: "),
        (b"\xff\xfe", ": not JSON: "),
        (b"[" * 100_000, ": not JSON: "),
        (b"[]", ": not with fastconv, cpu, vector_bits and layers$"),
        (b'{"layers": []}', ": not with fastconv, cpu, vector_bits and layers$"),
    ],
)
def test_what_is_no_such_file(content, said, tmp_path):
    path = tmp_path / "tuning.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=WRITTEN + said):
        fastconv.load_tuning(path)
    with pytest.raises(ValueError, match=WRITTEN):
        fastconv.load_tuning(tmp_path)  # a folder


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cpu", "Intel 8086", "'Intel 8086': tune again, with `fastconv tune`$"),
        ("fastconv", "0.0.1", "'0.0.1': tune again"),
        ("vector_bits", 64, "64: tune again"),
    ],
)
def test_a_file_of_other_circumstances(name, value, said, file):
    here = re.escape(repr(tuning._machine()[name]))
    with pytest.raises(ValueError, match=f"^path must be a tuning of {name} {here}, got .* of {name} {said}"):
        fastconv.load_tuning(edited(file, **{name: value}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stride": None}, "stride must be"),
        ({"stride": [0, 1]}, "stride must be"),
        ({"dilation": [1, 1, 1]}, "dilation must be"),
        ({"padding_before": [-1, 0]}, "padding_before must be"),
        ({"groups": 0}, "groups must be"),
        ({"groups": 2}, "input_size must be of channels divisible by groups=2"),
        ({"layout": "HWC"}, "layout must be one of"),
        ({"layout": "NCW"}, "input_size must be"),
        ({"dtype": "int32"}, "dtype must be"),
        ({"input_size": [2, 3, 7, 1e300]}, "input_size must be"),
        ({"input_size": [2, 3, 2**62, 6]}, "input_size must be"),
        ({"weight_size": [4, 3, 0, 2]}, "weight_size must be"),
        ({"output_size": [2, 5, 5, 5]}, "output_size must be of 2 images and 4 filters"),
        ({"output_size": [2, 4, 2**62, 5]}, "the output must be"),
        ({"threads": 0}, "threads must be"),
        ({"algorithms": []}, "a layer must be"),
        ({"algorithms": {"forward": "im2col"}}, "'backward_input' is missing"),
    ],
    ids=str,
)
def test_a_layer_that_is_none(change, said, file):
    (row,) = json.loads(file.read_text("utf-8"))["layers"]
    edited(file, layers=[row, {**row, **change}])
    with pytest.raises(ValueError, match=rf"{WRITTEN}: layers\[1\]: {said}"):
        fastconv.load_tuning(file)
    edited(file, layers=[{name: value for name, value in row.items() if name not in change}])
    (name,) = change
    with pytest.raises(ValueError, match=rf"{WRITTEN}: layers\[0\]: '{name}' is missing"):
        fastconv.load_tuning(file)
    assert not tuning._known


@pytest.mark.parametrize("layers", [None, {}, [None], [[]], ["layer"]], ids=repr)
def test_layers_that_are_none(layers, file):
    with pytest.raises(ValueError, match=WRITTEN + r": layers"):
        fastconv.load_tuning(edited(file, layers=layers))


@pytest.mark.parametrize("name", ["virtual", "grouped_gemm", "decimated", 7, ["gemm/filters"]], ids=repr)
def test_algorithms_that_can_not_serve_are_left_out(name, tuned, file):
    """One warning for the whole file; the other passes are as it says."""
    (row,) = json.loads(file.read_text("utf-8"))["layers"]
    algorithms = {**row["algorithms"], "forward": name, "backward_weight": name}
    edited(file, layers=[{**row, "algorithms": algorithms}])
    said = r"left out: layers\[0\] forward: .* and 1 more$"
    with pytest.warns(UserWarning, match=said) as caught:
        fastconv.load_tuning(file)
    assert [one.filename for one in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = plan_of()
    expected = {which: own(plan, which) for which in PASSES}
    assert labels(plan) == {**expected, "backward_input": labels(tuned)["backward_input"]}


def test_a_layer_with_nothing_to_multiply_is_left_out(file):
    (row,) = json.loads(file.read_text("utf-8"))["layers"]
    edited(file, layers=[{**row, "input_size": [0, 3, 7, 6], "output_size": [0, 4, 5, 5]}])
    with pytest.warns(UserWarning, match="and 2 more"):
        fastconv.load_tuning(file)
    assert fastconv.plan_conv2d((0, 3, 7, 6), (4, 3, 3, 2)).tune().output_size == (0, 4, 5, 5)


# --- other processes ----------------------------------------------------------------------------------

DIGEST = """
import hashlib, numpy as np, fastconv
rng = np.random.default_rng(0)
plan = fastconv.plan_conv2d((2, 3, 7, 6), (4, 3, 3, 2))
sizes = plan.input_size, plan.weight_size, plan.output_size
x, w, dy = (rng.standard_normal(size).astype("float32") for size in sizes)
sha = hashlib.sha256(fastconv.conv2d(x, w).tobytes())
for gradient in fastconv.conv2d_backward(dy, x, w, needs=("input", "weight"))[:2]:
    sha.update(gradient.tobytes())
print(sha.hexdigest(), *(kind.label for kind in plan._passes.kinds().values()))
"""


def test_the_environment_names_a_file(tuned, file, capsys):
    fastconv.load_tuning(file)
    exec(DIGEST, {})
    here = capsys.readouterr().out
    assert here.split()[1:] == list(labels(tuned).values())
    for threads in ("1", "3"):
        done = python(DIGEST, FASTCONV_TUNING=str(file), NUMBA_NUM_THREADS=threads)
        assert (done.stdout, done.stderr) == (here, "")


@pytest.mark.parametrize("wrong", ["missing", "cpu", "algorithm"])
def test_a_wrong_file_in_the_environment_is_one_warning(wrong, tmp_path, file):
    if wrong == "missing":
        file.unlink()
    elif wrong == "cpu":
        edited(file, cpu="Intel 8086")
    else:
        edited(
            file,
            layers=[
                {
                    **json.loads(file.read_text("utf-8"))["layers"][0],
                    "algorithms": dict.fromkeys(PASSES, "virtual"),
                }
            ],
        )
    done = python(DIGEST, FASTCONV_TUNING=str(file))
    said = {
        "missing": "No such file or directory; it is not used",
        "cpu": "'Intel 8086'",
        "algorithm": "virtual",
    }
    assert done.stderr.count("UserWarning: ") == 1
    assert said[wrong] in done.stderr
    assert done.stdout.split()[1:] == list(labels(plan_of()).values())


def test_an_empty_variable_is_none():
    assert python("import fastconv", FASTCONV_TUNING="").stderr == ""


def test_the_configuration_says_what_is_tuned(file, turns, capsys):
    def said():
        return [line for line in fastconv.show_config().splitlines() if line.startswith("tuned")]

    assert said() == ["tuned            no layers"]
    fastconv.load_tuning(file)
    fastconv.load_tuning(file)
    assert said() == [f"tuned            1 layer, from {file}"]
    plan_of(dtype="float64").tune()
    assert said() == [f"tuned            2 layers, from {file}"]


# --- the command --------------------------------------------------------------------------------------

LAYER = "2x3x7x6-4k3x2"


def test_the_command(turns, tmp_path, capsys):
    """Measures each layer, prints what changes, and adds to its file."""
    pytest.importorskip("rich")
    plan, path = plan_of(), tmp_path / "tuning.json"
    faster = others(plan, "forward")[0]
    turns.seconds = {("forward", own(plan, "forward")): (0.02,), ("forward", faster): (0.01,)}
    assert main(["tune", LAYER, "--output", str(path), "--threads", "3", "--seconds", "0"]) == 0
    out, err = capsys.readouterr()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    mine = own(plan, "backward_input")
    assert [LAYER, "forward", own(plan, "forward"), "20.000", faster, "10.000", "2.00"] in cells
    assert ["", "backward_input", mine, "500.000", mine, "500.000", ""] in cells
    assert "another algorithm in 1 of 3 passes, 2.00 times as fast" in out
    assert out.endswith(f"written: {path}\n")
    assert f"tuned: 1/1, {LAYER}: {faster} for {own(plan, 'forward')} (2.00), " in err
    turns.seconds = {}
    more = ["tune", "1x1x5x5-1k3x3", LAYER, "--output", str(path), "--layout", "NHWC", "--dtype", "float64"]
    assert main(more) == 0
    assert "auto's own choice stays in all 6 passes" in capsys.readouterr().out
    rows = json.loads(path.read_text("utf-8"))["layers"]
    assert [(row["layout"], row["dtype"], row["input_size"]) for row in rows] == [
        ("NCHW", "float32", [2, 3, 7, 6]),
        ("NHWC", "float64", [1, 5, 5, 1]),
        ("NHWC", "float64", [2, 7, 6, 3]),
    ]
    assert [row["threads"] for row in rows] == [3, *[fastconv.get_num_threads()] * 2]
    forget()
    fastconv.load_tuning(path)
    assert labels(plan_of())["forward"] == faster


def test_a_suite_as_a_file(turns, tmp_path, capsys):
    pytest.importorskip("rich")
    sizes = dict(zip(("n", "c", "h", "w", "k", "r", "s"), (2, 3, 7, 6, 4, 3, 2), strict=True))
    (tmp_path / "suite.json").write_text(json.dumps([{"name": "mine", **sizes}]), "utf-8")
    path = tmp_path / "tuning.json"
    assert main(["tune", str(tmp_path / "suite.json"), "--output", str(path)]) == 0
    assert "mine" in capsys.readouterr().out
    fastconv.load_tuning(path)
    assert "(tuned)" in plan_of().describe()


def test_an_interrupt_leaves_what_was_found(turns, tmp_path, monkeypatch):
    pytest.importorskip("rich")
    path, tune = tmp_path / "tuning.json", tuning.tune

    def first_only(plan, seconds):
        if plan.input_size[0] == 1:
            raise KeyboardInterrupt
        return tune(plan, seconds)

    monkeypatch.setattr(tuning, "tune", first_only)
    assert main(["tune", LAYER, "1x1x5x5-1k3x3", "--output", str(path)]) == 130
    assert len(json.loads(path.read_text("utf-8"))["layers"]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([LAYER], "the following arguments are required: --output"),
        (["--output", "x.json"], "the following arguments are required: LAYERS"),
        (["nothing", "--output", "x.json"], "suite 'nothing': neither a file nor one of "),
        (["1x1", "--output", "x.json"], "layer '1x1': write NxCxHxW-KkRxS"),
        ([LAYER, "--output", "."], ".: is a folder"),
        ([LAYER, "--output", "no/x.json"], "no/x.json: the folder no does not exist"),
        ([LAYER, "--output", "other.txt"], "--output must be a file that fastconv.save_tuning or "),
        (
            [LAYER, "--output", "x.json", "--seconds", "inf"],
            "argument --seconds: must be a number of at least 0",
        ),
        ([LAYER, "--output", "x.json", "--threads", "0"], "argument --threads: must be a whole number"),
        ([LAYER, "--output", "x.json", "--threads", "100000"], "argument --threads: n must be at most 1024"),
        (["1048576x1024x4096x64-1k1x1", "--output", "x.json"], "needs more memory than there is"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line(arguments, said, turns, tmp_path, monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text("a text", "utf-8")
    assert main(["tune", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("fastconv tune: error: ")
    assert said in err
    assert os.listdir(tmp_path) == ["other.txt"]


def test_the_table_needs_rich(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["tune", LAYER, "--output", "x.json"]) == 2
    assert capsys.readouterr().err == "fastconv tune: error: the table needs rich: pip install rich\n"


def test_a_file_whose_labels_no_longer_serve_can_be_saved_again(file, tuned, tmp_path):
    row = json.loads(file.read_text("utf-8"))["layers"][0]
    edited(file, layers=[{**row, "algorithms": {**row["algorithms"], "forward": "virtual"}}])
    with pytest.warns(UserWarning, match="forward: 'virtual'"):
        fastconv.load_tuning(file)
    again = tmp_path / f"{'long' * 60}"
    fastconv.save_tuning(again)
    assert json.loads(again.read_text("utf-8"))["layers"][0]["algorithms"]["forward"] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastconv.load_tuning(again)


@pytest.mark.skipif(os.name != "posix", reason="devices")
def test_a_device_is_no_file():
    with pytest.raises(ValueError, match="not a file"):
        fastconv.load_tuning("/dev/zero")
