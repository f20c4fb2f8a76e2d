"""The yardstick: all implementations agree, words on the command line mean what they say, a short run runs.

Nothing here looks at a time.
"""

import importlib
import json
import math
import re
import subprocess
import sys
from io import StringIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fastconv import cli
from fastconv.bench import worker
from fastconv.bench.cases import (
    COMPANY,
    OPERATIONS,
    PASSES,
    POOLING,
    STEPS,
    BenchError,
    Case,
    Layer,
    load_suite,
    parse_layer,
    suite_names,
)
from fastconv.bench.implementations import TABLE, Absent
from fastconv.bench.runner import Bench, Result, Timing

pytest.importorskip("rich")
matplotlib = pytest.importorskip("matplotlib")
command, plot, report = (
    pytest.importorskip(f"fastconv.bench.{name}") for name in ("command", "plot", "report")
)

LAYERS = [
    Layer("plain", 2, 3, 7, 6, 4, 3, 2),
    Layer("padded and strided", 2, 4, 9, 8, 6, 3, 3, stride=2, pad=1),
    Layer("dilated", 1, 2, 9, 9, 3, 3, 3, pad=2, dilation=2),
    Layer("grouped", 2, 6, 8, 8, 4, 3, 3, pad=1, groups=2),
    Layer("depthwise", 2, 4, 8, 8, 4, 3, 3, pad=1, groups=4),
]
POOLS = [Layer("2", 2, 3, 8, 8, 3, 2, 2, stride=2), Layer("3", 2, 3, 9, 9, 3, 3, 3, stride=2, pad=1)]


def agreement(case):
    """Everybody's result for a case: all close to the first one's."""
    results = {}
    for name, make in TABLE[case.operation].items():
        try:
            results[name] = make(case)()
        except Absent:
            continue
    first, *others = [value if isinstance(value, tuple) else (value,) for value in results.values()]
    tolerance = {"float32": 1e-4, "float64": 1e-11}[case.dtype]
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    return results


@pytest.mark.filterwarnings("ignore")  # peers warn of all sorts of things while they are imported
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("operation", PASSES)
def test_all_implementations_of_a_pass_agree(operation, layer, layout, dtype):
    results = agreement(Case(operation, layer, dtype, layout))
    assert {"fastconv", "plan", "kernel", "fastconv:im2col"} <= set(results)
    assert ("numpy" in results) == (layout == "NCHW")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("layer", POOLS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("operation", POOLING)
def test_all_implementations_of_pooling_agree(operation, layer, layout):
    results = agreement(Case(operation, layer, "float32", layout))
    assert "fastconv" in results
    assert ("numpy" in results) == (layout == "NCHW")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("net", ["s000", "s002", "s003", "s004"])
def test_training_steps_agree(net):
    case = Case("step", Layer(net, 4, 1, 28, 28, 10, 1, 1))
    calls = {}
    for name, make in TABLE["step"].items():
        try:
            calls[name] = make(case)
        except Absent:
            continue
    for _ in range(3):
        losses = {name: call() for name, call in calls.items()}
        assert all(math.isclose(loss, losses["fastconv"], rel_tol=1e-3) for loss in losses.values())


def test_every_operation_is_in_the_table():
    assert set(TABLE) == {*PASSES, *POOLING, *STEPS, *COMPANY} <= set(OPERATIONS)


@pytest.mark.filterwarnings("ignore")
def test_company_changes_no_result():
    alone, after = (agreement(Case(operation, LAYERS[0])) for operation in ("forward", *COMPANY))
    assert set(alone) == set(after)
    np.testing.assert_array_equal(alone["fastconv"], after["fastconv"])


def test_the_clock_leaves_the_product_out(monkeypatch):
    said = []

    class Call:
        def before(self):
            said.append("product")

        def __call__(self):
            said.append("pass")

    monkeypatch.setattr(worker, "perf_counter", lambda: said.append("clock") or len(said))
    server = worker._Server("fastconv")
    server.call = Call()
    assert server.run(2) == {"seconds": [2, 2]}
    assert said == ["pass", *(["product", "clock", "pass", "clock"] * 2)]


def test_the_suites_come_with_the_package():
    names = suite_names()
    assert names == ["alexnet", "irregular", "mobilenet_v1_depthwise", "resnet50", "seeds", "vgg16"]
    assert [len(load_suite(name)) for name in names] == [5, 8, 9, 20, 9, 9]


def test_a_layer_written_on_the_command_line():
    expected = Layer("8x64x56x57-32k3x1s2p1d3g4", 8, 64, 56, 57, 32, 3, 1, 2, 1, 3, 4)
    assert parse_layer(expected.name) == expected
    assert parse_layer("1x1x4x4-1k3x3").flops == 2 * 4 * 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8x64x56", "write NxCxHxW"),
        ("1x3x4x4-4k3x3g2", "groups=2 must divide c=3"),
        ("1x1x2x2-1k3x3", "larger than the padded input"),
        ("0x1x4x4-1k3x3", "n must be a whole number, got 0"),
    ],
)
def test_a_layer_written_wrong(text, message):
    with pytest.raises(BenchError, match=message):
        parse_layer(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a list of layers"),
        ('[{"n": 1}]', r"missing \['c'"),
        ('[{"n": 1, "c": 1, "h": 4, "w": 4, "k": 1, "r": 1, "s": 1, "x": 2}]', r"unknown \['x'\]"),
        (
            '[{"n": true, "c": 1, "h": 4, "w": 4, "k": 1, "r": 1, "s": 1}]',
            "n must be a whole number, got True",
        ),
    ],
)
def test_a_suite_file_written_wrong(tmp_path, content, message):
    path = tmp_path / "suite.json"
    path.write_text(content)
    with pytest.raises(BenchError, match=message):
        load_suite(str(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "suite 'nowhere': neither a file nor one of alexnet"),
        (["seeds", "--against", "caffe"], "--against: 'caffe' is none of torch"),
        (["seeds", "--ours", "torch"], "--ours: 'torch' is none of fastconv"),
        (["seeds", "--passes", "sideways"], "--passes: 'sideways' is none of forward, input, weight"),
        (["seeds", "--json", "no/such/folder.json"], "the folder no/such does not exist"),
        (["seeds", "--json", "."], "is a folder"),
        (["seeds", "--plot", "x.xyz"], "x.xyz: must end in one of"),
        (["seeds", "--plot", "no/such/x.png"], "the folder no/such does not exist"),
        (["seeds", "--roofline", "x.xyz"], "x.xyz: must end in one of"),
        (["pooling", "--plot", "x.png"], "nothing to draw: --plot"),
        (["start", "--roofline", "x.png"], "nothing to draw: --roofline"),
        (["seeds", "--rounds", "1"], "must be a whole number of at least 2"),
    ],
)
def test_wrong_options_are_one_line(arguments, message, capsys, monkeypatch):
    refuses(monkeypatch, capsys, arguments, message)


@pytest.mark.parametrize(
    ("peers", "missing", "message"),
    [
        ("torch", ["torch"], "not installed: torch (pip install torch)"),
        ("onnxruntime", ["onnx"], "not installed: onnx (pip install onnx)"),
        ("torch,openvino", ["openvino", "onnx"], "not installed: openvino, onnx (pip install openvino onnx)"),
    ],
)
def test_peers_that_are_missing_are_one_line(peers, missing, message, capsys, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name in missing else True)
    refuses(monkeypatch, capsys, ["seeds", "--against", peers], f"--against: {message}")


def test_a_file_that_may_not_be_written_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    path = tmp_path / "results.json"
    refuses(monkeypatch, capsys, ["seeds", "--json", str(path)], f"{path}: may not be written")


def refuses(monkeypatch, capsys, arguments, message):
    """The command ends with code 2 and one line, before a process is started."""
    monkeypatch.setattr("subprocess.Popen", None)
    assert cli.main(["bench", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("fastconv bench: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_short_run_from_end_to_end(tmp_path):
    found, pictures = tmp_path / "results.json", [tmp_path / "results.png", tmp_path / "roofline.png"]
    run = [sys.executable, "-m", "fastconv.cli", "bench", "2x2x8x8-3k3x3p1", "--against", "numpy"]
    drawn = ["--plot", str(pictures[0]), "--roofline", str(pictures[1])]
    options = ["--rounds", "2", "--json", str(found), *drawn]
    done = subprocess.run([*run, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["timed"] * 3
    for number, (operation, line) in enumerate(zip(PASSES, lines, strict=True), 1):
        assert line.startswith(f"timed: {number}/3, 2x2x8x8-3k3x3p1 {operation}: fastconv ")
    assert "against numpy: geometric mean" in done.stdout
    assert all(picture.stat().st_size > 10_000 for picture in pictures)
    content = json.loads(found.read_text())
    assert [row["case"]["operation"] for row in content["results"]] == list(PASSES)
    assert all(set(row["seconds"]) == {"fastconv", "numpy"} for row in content["results"])


def test_company_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "COMPANY_LAYERS", LAYERS[:1])
    monkeypatch.setattr(command, "usable_cores", lambda: 2)
    found = tmp_path / "results.json"
    options = ["--against", "numpy", "--rounds", "2", "--json", str(found)]
    assert cli.main(["bench", "company", *options]) == 0
    out, err = capsys.readouterr()
    assert "1 and 2 thread(s) each" in out
    rows = [line.split("│")[1:3] for line in out.splitlines() if "3→4 3x2" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["3→4 3x2, 7x6, batch 2", threads] for threads in "12"
    ]
    assert err.startswith("timed: 1/2, plain, threads: 1, after a product: fastconv ")
    content = json.loads(found.read_text())["company"]
    assert [row["threads"] for row in content] == [1, 2]
    for row in content:
        assert row["alone"]["case"]["operation"] == "forward"
        assert row["after"]["case"]["operation"] == "after_product"
        assert set(row["alone"]["seconds"]) == set(row["after"]["seconds"]) == {"fastconv", "numpy"}


def results(times):
    """Results of two layers with these seconds a call, by implementation."""
    return [
        Result(
            Case("forward", Layer(f"layer {i}", 1, 1, 9, 9, 1, 3, 3)),
            {name: Timing([seconds] * 5) for name, seconds in row.items()},
            {},
            100.0,
        )
        for i, row in enumerate(times)
    ]


def test_the_sums_under_a_table():
    rows = results(
        [{"fastconv": 1.0, "torch": 2.0, "numpy": 8.0}, {"fastconv": 2.0, "torch": 1.0, "numpy": 4.0}]
    )
    assert [report.ratio(row).value for row in rows] == [2.0, 0.5]
    assert report.summary(rows) == [
        "against the best peer of each layer: geometric mean 1.00, worst 0.50 (layer 1, torch)",
        "against torch: geometric mean 1.00, worst 0.50 (layer 1)",
        "against numpy: geometric mean 4.00, worst 2.00 (layer 1)",
    ]


def test_a_table_has_milliseconds_and_rates():
    case = Case("forward", Layer("3x3", 1, 64, 58, 58, 64, 3, 3))  # 2 * 64 * 56 * 56 * 64 * 9 operations
    row = Result(case, {"fastconv": Timing([0.002]), "numpy": Timing([0.0125])}, {}, 100.0)
    console = report.Output(width=200, record=True, file=StringIO())
    report.print_tables(console, [row])
    (line,) = (line for line in console.export_text().splitlines() if "│ 3x3" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["3x3", "2.000 ±0%", "115.6", "12.500 ±0%", "18.5", "116", "6.25 (numpy)"]
    assert report.milliseconds(row) == "fastconv 2.000 ms, numpy 12.500 ms"


def test_with_one_peer_there_is_one_sum():
    rows = results([{"fastconv": 1.0, "torch": 2.0}])
    assert report.summary(rows) == ["against torch: geometric mean 2.00, worst 2.00 (layer 0)"]


@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        ("8x64x56x56-64k3x3p1", "64→64 3x3, 56x56, batch 8"),
        ("2x6x28x30-12k5x1s2d3g2", "6→12 5x1 stride 2 dilation 3 2 groups, 28x30, batch 2"),
        ("1x16x7x7-32k3x3g16", "16→32 3x3 depthwise, 7x7, batch 1"),
    ],
)
def test_a_layer_in_words(spelling, words):
    assert parse_layer(spelling).words == words


ABOUT = {"cpu": "a CPU", "threads": 2, "memory_gbytes": 20.0, "versions": {"torch": "2.13.0"}}


def texts(draw, rows, path):
    """The words of a picture, in the order in which they are drawn."""
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw(path, rows, ABOUT)
    return [text.strip() for text in re.findall(r">([^<>]+)</t(?:ext|span)>", path.read_text("utf-8"))]


def test_the_picture_of_ratios(tmp_path):
    rows = results([{"fastconv": 1.0, "torch": 2.0, "numpy": 8.0}, {"fastconv": 2.0, "torch": 1.0}])
    said = texts(plot.draw, rows, tmp_path / "ratios.svg")
    assert said.count("1→1 3x3, 9x9, batch 1") == 2
    assert "How many times as fast as PyTorch" in said
    assert "a CPU, 2 threads, float32, NCHW (channels first), PyTorch 2.13.0" in said
    assert "geometric mean: fastconv 1.00, plain NumPy 0.25" in said
    assert {"fastconv (bars)", "PyTorch (the line at 1)", "plain NumPy", "2.00", "0.50"} <= set(said)


def test_the_picture_of_one_implementation_has_milliseconds(tmp_path):
    said = texts(plot.draw, results([{"fastconv": 0.001}, {"fastconv": 0.004}]), tmp_path / "times.svg")
    assert {"Milliseconds of fastconv", "milliseconds", "1", "4", "geometric mean: fastconv 2"} <= set(said)


@pytest.mark.parametrize(("gflops", "above"), [(99, False), (101, True)])
def test_the_roofline_explains_what_lies_above_it(tmp_path, gflops, above):
    operations = results([{}])[0].case.layer.flops
    rows = results([{"fastconv": operations / gflops / 1e9}])  # the peak is 100
    said = texts(plot.draw_roofline, rows, tmp_path / "roofline.svg")
    assert ("peak of multiply-adds:", "100 GF/s") in pairwise(said)
    assert "peak of the memory: 20 GB/s" in said
    assert any("minimal filtering (Winograd)" in text for text in said) == above


def test_a_picture_that_can_not_be_written(tmp_path):
    with pytest.raises(BenchError, match="No such file"):
        plot.draw(tmp_path / "no" / "x.png", results([{"fastconv": 1.0}]), ABOUT)


def test_the_choice_beside_the_algorithms():
    rows = results(
        [
            {"fastconv": 1.0, "fastconv:lines": 1.0, "fastconv:im2col": 4.0},
            {"fastconv": 4.0, "fastconv:lines": 1.0, "torch": 4.0},
        ]
    )
    assert report.summary(rows)[-1] == (
        "auto against the fastest algorithm: within 5 % on 1 of 2 layers, geometric mean 2.00 times its "
        "time, worst 4.00 (layer 1, fastconv:lines)"
    )


def test_medians_and_spread():
    timing = Timing([1.0, 2.0, 3.0, 4.0, 100.0])
    assert timing.median == 3.0
    assert timing.spread > 0


def test_a_case_that_nobody_has():
    with Bench(["scipy"], threads=1, rounds=2) as bench:
        result = bench.time(Case("max_pool", POOLS[0]))
    assert result.timings == {}
    assert result.absent == {"scipy": "scipy has no max_pool"}


ASV = Path(__file__).parent.parent / "bench" / "benchmarks"


@pytest.mark.skipif(not ASV.is_dir(), reason="the asv suites are in the repository only")
@pytest.mark.parametrize("name", sorted(path.stem for path in ASV.glob("[a-z]*.py")))
def test_every_benchmark_of_asv_says_what_it_is(name, monkeypatch):
    monkeypatch.syspath_prepend(ASV.parent)
    module = importlib.import_module(f"{ASV.name}.{name}")
    classes = [
        value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__
    ]
    for owner in [value for value in classes if isinstance(value, type)]:
        found = [getattr(owner, each) for each in vars(owner) if KINDS.match(each)]
        for benchmark in found:
            assert len(benchmark.__doc__.splitlines()) == 1
            assert getattr(benchmark, "pretty_name", "") or owner.pretty_name
        assert owner.__doc__


KINDS = re.compile("(time|timeraw|track|peakmem|mem)_")
