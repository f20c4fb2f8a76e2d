"""Pages of `fastconv.explain`: numbers are those of the functions, and the right cells light."""

import json
import re
import subprocess
import sys
from html import unescape
from math import prod

import numpy as np
import pytest
from browsers import chromium, problems
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import fastconv
from fastconv.explaining.terms import window_of

SIZES = [
    "1x1x5x5-1k3x3",
    "10x3x12x12-6k5x5",
    "2x4x6x6-4k3x3s2p1g2",
    "1x3x7x6-3k3x3p1g3",
    "1x2x9-3k3s2p2d2",
    "1x2x4x5x4-2k2x2x2s1p1",
    "8x64x56x56-64k3x3p1",
    "1x1x1x1-1k1x1",
    "3x2x40x9-2k15x2s3",
    "1x1x9x9-2k2x3s4",
]
POOLS = [
    "1x1x6x6-max2x2s2",
    "1x2x7x6-max3x3s2p1",
    "2x1x12-max3",
    "1x1x4x4x4-max2x2x2s1",
    "1x1x9x9-max2x2s1d3",
]
LABEL = re.compile(r"-?\d+")


def data_of(page):
    """What the page's script knows."""
    text = re.search(r'<script type="application/json" class="data">(.*?)</script>', page.html, re.DOTALL)
    return json.loads(text.group(1))


def places(labels):
    """The indices of cells, and whether they are padding."""
    return [(tuple(map(int, LABEL.findall(text.split(":")[0]))), "padding" in text) for text in labels]


def spatial(place, last):
    """(channel or filter, position) of an index in one of the two layouts."""
    return (place[-1], place[1:-1]) if last else (place[1], place[2:])


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("sizes", SIZES)
def test_numbers_and_terms_of_a_page_by_plain_loops(sizes, layout):
    """The sums of every pass over the page's terms, with its numbers, are the functions' results."""
    last = layout == "last"
    names = {3: ("NCW", "NWC"), 4: ("NCHW", "NHWC"), 5: ("NCDHW", "NDHWC")}
    ndim = sizes.split("-")[0].count("x") + 1
    page = fastconv.explain(sizes, layout=names[ndim][last])
    data = data_of(page)
    g = page._pictures.g
    x, w, dy = (
        np.random.default_rng(seed).integers(low, high + 1, size).astype(float)
        for seed, low, high, size in (
            (0, 0, 4, g.input_size),
            (1, -2, 2, g.weight_size),
            (2, -2, 3, g.output_size),
        )
    )
    n = ndim - 2
    steps = {
        "stride": g.stride[-n:],
        "padding": g.padding[-n:],
        "dilation": g.dilation[-n:],
        "groups": g.groups,
    }
    layout_name = names[ndim][last]
    y = getattr(fastconv, f"conv{n}d")(x, w, **steps, layout=layout_name)
    grads = getattr(fastconv, f"conv{n}d_backward")(dy, x, w, **steps, layout=layout_name)
    arrays = {
        ("forward", "o"): y, ("forward", "i"): x, ("forward", "w"): w,
        ("backward_input", "o"): dy, ("backward_input", "i"): grads.input, ("backward_input", "w"): w,
        ("backward_weight", "o"): dy, ("backward_weight", "i"): x, ("backward_weight", "w"): grads.weight,
    }  # fmt: skip
    where = {letter: places(data["labels"][letter]) for letter in "oiw"}
    for (name, letter), array in arrays.items():
        values = data["sections"][name]["values"][letter]
        assert len(values) == len(where[letter])
        for value, (place, padding) in zip(values, where[letter], strict=True):
            assert value == (0 if padding else array[place])
    # Every term is a multiplication of the convolution, once: its weight meets its input cell for its output.
    terms = data["terms"]["all"]
    assert len({tuple(t) for t in terms}) == len(terms)
    for o, i, k in terms[:: max(1, len(terms) // 2000)]:
        filter_, at = spatial(where["o"][o][0], last)
        channel, cell = spatial(where["i"][i][0], last)
        of_filter, *_ = where["w"][k][0]
        of_channel, tap = spatial(where["w"][k][0], last)
        assert of_filter == filter_
        assert channel == of_channel + filter_ // (g.filters // g.groups) * (g.channels // g.groups)
        for a, c, t, s, p, d in zip(
            at, cell, tap, *(steps[q] for q in ("stride", "padding", "dilation")), strict=True
        ):
            assert a * s + t * d - p == c
    window = window_of(g)
    some = window.groups * window.filters * window.channels * prod(window.taps) * prod(window.outputs)
    assert len(terms) == some
    if data["whole"]:
        assert some == g.multiplications
        for name, factors, target in (
            ("forward", "iw", "o"),
            ("backward_input", "ow", "i"),
            ("backward_weight", "oi", "w"),
        ):
            values = data["sections"][name]["values"]
            sums = [0.0] * len(values[target])
            for term in terms:
                of = dict(zip("oiw", term, strict=True))
                sums[of[target]] += values[factors[0]][of[factors[0]]] * values[factors[1]][of[factors[1]]]
            for total, value, (_, padding) in zip(sums, values[target], where[target], strict=True):
                assert padding or total == value


@pytest.mark.parametrize("sizes", POOLS)
def test_numbers_and_routes_of_a_pooling_page(sizes):
    page = fastconv.explain(sizes)
    data, n = data_of(page), page._pictures.numbers
    where = {letter: places(data["labels"][letter]) for letter in "oi"}
    x = data["sections"]["forward"]["values"]["i"]
    windows, first, ties = {}, {}, {}
    for o, i, kind in data["terms"]["all"]:
        windows.setdefault(o, []).append(i)
        if kind == 2:
            first[o] = i
    for o, i, _ in data["terms"]["ties"]:
        ties.setdefault(o, []).append(i)
    for o, cells in windows.items():
        best = max(x[i] for i in cells)
        assert data["sections"]["forward"]["values"]["o"][o] == best
        equal = [i for i in cells if x[i] == best]
        assert first[o] == min(equal)
        assert sorted(ties[o]) == sorted(equal)
    for name, routes in (("backward", {o: [i] for o, i in first.items()}), ("ties", ties)):
        values = data["sections"][name]["values"]
        sums = [0.0] * len(values["i"])
        for o, cells in routes.items():
            for i in cells:
                sums[i] += values["o"][o]
        assert sums == values["i"]
    spots = n.x.shape[1:]
    assert len(where["i"]) >= prod(spots) or not data["whole"]


def test_three_ways_to_name_a_layer_give_one_page():
    x, w = np.arange(25.0).reshape(1, 1, 5, 5), np.ones((1, 1, 3, 3))
    plan = fastconv.plan_conv2d(x.shape, w.shape, padding=1, dtype="float64")
    by_arrays = fastconv.explain(x, w, padding=1)
    by_plan = fastconv.explain(plan, w, input=x)
    by_sizes = fastconv.explain("1x1x5x5-1k3x3p1", w, input=x)
    assert by_arrays.html == by_plan.html == by_sizes.html


def test_numbers_of_the_user_are_shown():
    x = np.array([[[[0.5, -1.25], [np.nan, np.inf]]]])
    page = fastconv.explain(x, np.full((1, 1, 1, 1), 2.0))
    texts = [unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", page.panels["forward"])]
    assert {"0.5", "\N{MINUS SIGN}1.25", "nan", "∞", "1", "\N{MINUS SIGN}2.5"} <= set(texts)
    assert "NaN" not in page.html.split("<script>")[0]


def test_pooling_channels_last_and_of_integers():
    first, last = (fastconv.explain("1x3x8x6-max2x2", layout=name) for name in ("NCHW", "NHWC"))
    assert first.panels.keys() == last.panels.keys()
    assert last._pictures.numbers.x.shape == (3, 1, 8, 6)
    halves = np.full((1, 1, 2, 2), 0.5)
    page = fastconv.explain(np.arange(16).reshape(1, 1, 4, 4), max_pool=2, grad_output=halves)
    assert page._pictures.numbers.dx.sum() == 2
    with pytest.raises(ValueError, match="layout must be"):
        fastconv.explain("1x3x8x6-max2x2", layout="fooC")


@pytest.mark.parametrize(
    "size", ["1x2x1", "1x2x6", "1x2x1x6", "1x2x1x1", "1x2x1x1x6", "1x2x1x4x6", "1x2x2x2x2"]
)
def test_labels_of_pooling_have_as_many_axes_as_the_input(size):
    ndim = size.count("x") - 1
    page = fastconv.explain(f"{size}-max{'x'.join('1' * ndim)}")
    labels = data_of(page)["labels"]
    assert labels["i"][0] == labels["o"][0] == ", ".join("0" * (ndim + 2))
    assert all(label.count(",") == ndim + 1 for which in "io" for label in labels[which])
    assert f"<code>max_pool{ndim}d_backward_ties</code>" in page.html


def test_pages_of_numbers_that_are_not_finite_and_of_windows_without_cells():
    assert "∞" in fastconv.explain("1x1x5x5-1k3x3", grad_output=np.full((1, 1, 3, 3), np.inf)).html
    assert fastconv.explain("1x1x1-max2p1d2").html
    with pytest.raises(ValueError, match="cell must be"):
        fastconv.explain("1x1x4x4-1k2x2").panel("forward", ("o", 10**6))


def test_a_picture_by_itself_lights_the_cells_of_one():
    page = fastconv.explain("1x1x4x4-1k2x2")
    picture = page.panel("forward", ("o", 4))
    assert set(re.findall(r'class="cell \w+ lit(?: on)?" data-k="(\w+)"', picture)) == {
        "o4", "i5", "i6", "i9", "i10", "w0", "w1", "w2", "w3",
    }  # fmt: skip
    assert picture.startswith("<svg xmlns=")
    assert "<style>" in picture


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("1x1x5x5-1k",), "layer must be written NxCxHxW-KkRxS"),
        (("1x1x5-1k3x3",), "layer must be written"),
        (("1x1x5x5-1k7x7",), "at least as large as the dilated kernel"),
        (("9x9999x9999x9999-9k9x9",), "pass smaller extents"),
        (("1x3x5x5-1k3x3g2",), "channels divisible by the groups"),
        ((np.ones((1, 1, 5, 5)),), "an array alone"),
        ((np.ones((5, 5)), np.ones((3, 3))), "of shape"),
        ((np.ones((1, 1, 5, 5), complex), np.ones((1, 1, 3, 3))), "real numbers"),
        (("1x1x5x5-1k3x3", np.ones((3, 3))), "weight must be of shape"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        fastconv.explain(*arguments)


@given(st.data())
@examples(60)
def test_any_layer_can_be_explained(data):
    n = data.draw(st.integers(1, 3))
    groups = data.draw(st.integers(1, 3))
    channels, filters = (groups * data.draw(st.integers(1, 3)) for _ in range(2))
    kernel = [data.draw(st.integers(1, 4)) for _ in range(n)]
    dilation = data.draw(st.integers(1, 3))
    padding = data.draw(st.integers(0, 3))
    extent = [data.draw(st.integers(max(1, dilation * (k - 1) + 1 - 2 * padding), 30)) for k in kernel]
    stride = data.draw(st.integers(1, 5))
    size = "x".join(map(str, (data.draw(st.integers(1, 2)), channels, *extent)))
    layer = f"{size}-{filters}k{'x'.join(map(str, kernel))}s{stride}p{padding}d{dilation}g{groups}"
    page = fastconv.explain(layer)
    assert page.html.count("<section") == 3
    assert data_of(page)["terms"]["all"]


def test_the_command_writes_a_page_and_pictures(tmp_path):
    command = [sys.executable, "-m", "fastconv", "explain", "1x1x5x5-1k3x3"]
    made = subprocess.run(
        [*command, "--html", "page.html", "--svg", "pictures"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.splitlines()[0] == "page: page.html"
    assert (tmp_path / "page.html").read_text("utf-8") == fastconv.explain("1x1x5x5-1k3x3").html
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == set(
        fastconv.explain("1x1x5x5-1k3x3").panels
    )
    wrong = subprocess.run([*command[:-1], "5x5"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


# --- in a browser ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


KEYS = """
const cells = document.querySelectorAll(`section[data-section="${arguments[0]}"] .cell[data-k]`);
return [...cells].map((cell) => cell.dataset.k);
"""
LIT = """
const [section, key] = arguments;
const element = document.querySelector(`section[data-section="${section}"]`);
const cell = element.querySelector(`.cell[data-k="${key}"]`);
cell.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
return [[...element.querySelectorAll(".cell.lit")].map((each) => each.dataset.k),
        element.querySelector(".sum").textContent];
"""


@pytest.mark.parametrize("sizes", SIZES)
def test_pointing_lights_the_right_cells(browser, sizes, tmp_path):
    page = fastconv.explain(sizes)
    page.save(tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    data = data_of(page)
    terms = data["terms"]["all"]
    rng = np.random.default_rng(0)
    for name, section in data["sections"].items():
        shown = set(browser.execute_script(KEYS, name))
        target = section["target"]
        cells = sorted(key for key in shown if key[0] in "oiw")
        for key in rng.choice(cells, min(12, len(cells)), replace=False):
            lit, text = browser.execute_script(LIT, name, str(key))
            part = [t for t in terms if t["oiw".index(key[0])] == int(key[1:])]
            expected = {f"{letter}{count}" for t in part for letter, count in zip("oiw", t, strict=True)}
            assert {k for k in lit if k[0] != "c"} == expected & shown
            assert {k for k in lit if k[0] == "c"} == {
                f"c{k % data['taps']}_{o % data['pixels']}"
                for o, _, k in part
                if k < data["firstWeights"] and o < data["firstOutputs"]
            } & shown
            if key[0] == target and part:
                value = section["values"][target][int(key[1:])]
                assert text.endswith(f" = {value}".replace("-", "\N{MINUS SIGN}"))
                label = data["labels"][target][int(key[1:])]
                assert text.startswith(f"{section['names'][target]}[{label}] = ")
    assert problems(browser) == []


def test_keys_move_from_cell_to_cell(browser, tmp_path):
    from selenium.webdriver.common.keys import Keys

    page = fastconv.explain("1x1x5x5-1k3x3")
    page.save(tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    section = browser.find_element("css selector", 'section[data-section="forward"]')
    grid = section.find_elements("css selector", ".grid")[2]
    assert section.get_attribute("data-at") == "o4"
    grid.send_keys(Keys.ARROW_RIGHT)
    assert section.get_attribute("data-at") == "o5"
    grid.send_keys(Keys.ARROW_UP)
    assert section.get_attribute("data-at") == "o2"
    grid.send_keys(Keys.ARROW_UP)
    assert section.get_attribute("data-at") == "o2"
