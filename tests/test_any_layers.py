"""The network's layers, losses and optimisers with arguments of any kind, several of them wrong at once.

What `test_any_arguments.py` asks of functions: an error that names an argument, or the right result.
"""

import inspect

import numpy as np
import pytest
from anything import with_some_replaced
from calls import EXPECTED, Reading
from helpers import integers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import SEARCH
from test_any_arguments import LONG

import fastconv
from fastconv import nn

# What a layer calls `x` and `grad` has other names in the function that it calls.
ALSO_NAMED = ("x", "grad", "input", "weight", "grad_output", "indices", "input_size", "backward")


def drawn(draw, shape):
    """Whole numbers of a drawn dtype."""
    dtype = draw(st.sampled_from([np.float32, np.float64, np.float16]))
    return integers(np.random.default_rng(draw(st.integers(0, 99))), shape, dtype)


def of_images(kind, ndim, **more):
    """A strategy for a convolution's arguments and images that fit."""

    @st.composite
    def arguments(draw):
        groups = draw(st.integers(1, 2))
        channels, filters = (groups * draw(st.integers(1, 3)) for _ in range(2))
        extents = tuple(draw(st.integers(3, 6)) for _ in range(ndim))
        return {
            "in_channels": channels,
            "out_channels": filters,
            "kernel_size": draw(st.integers(1, 3)),
            "stride": draw(st.integers(1, 2)),
            "padding": draw(st.integers(0, 1)),
            "groups": groups,
            "bias": draw(st.booleans()),
            "rng": draw(st.integers(0, 9)),
            "x": drawn(draw, (draw(st.integers(0, 2)), channels, *extents)),
            **more,
        }

    return kind, arguments()


def of_windows(kind):
    @st.composite
    def arguments(draw):
        shape = (draw(st.integers(0, 2)), 2, draw(st.integers(2, 5)), draw(st.integers(2, 5)))
        return {
            "kernel_size": draw(st.integers(1, 2)),
            "stride": draw(st.integers(1, 2)),
            "padding": 0,
            "ceil_mode": draw(st.booleans()),
            "x": drawn(draw, shape),
        }

    return kind, arguments()


def of_any_array(kind, more=None):
    @st.composite
    def arguments(draw):
        shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple))
        return {"x": drawn(draw, shape), **(more or {})}

    return kind, arguments()


@st.composite
def linear_arguments(draw):
    inner, outer = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shape = (*draw(st.lists(st.integers(0, 3), max_size=2)), inner)
    return {"in_features": inner, "out_features": outer, "bias": draw(st.booleans()), "x": drawn(draw, shape)}


@st.composite
def norm_arguments(draw):
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), 3, 2)
    return {"num_features": shape[1], "eps": 1e-3, "momentum": 0.5, "x": drawn(draw, shape)}


LAYERS = {
    "Conv1d": of_images(nn.Conv1d, 1, dilation=1),
    "Conv2d": of_images(nn.Conv2d, 2, dilation=1),
    "Conv3d": of_images(nn.Conv3d, 3, dilation=1),
    "ConvTranspose2d": of_images(nn.ConvTranspose2d, 2, output_padding=0, dilation=1),
    "MaxPool2d": of_windows(nn.MaxPool2d),
    "AvgPool2d": of_windows(nn.AvgPool2d),
    "ReLU": of_any_array(nn.ReLU),
    "Sigmoid": of_any_array(nn.Sigmoid),
    "Tanh": of_any_array(nn.Tanh),
    "Flatten": of_any_array(nn.Flatten),
    "Dropout": of_any_array(nn.Dropout, {"p": 0.0, "rng": 1}),
    "Linear": (nn.Linear, linear_arguments()),
    "BatchNorm2d": (nn.BatchNorm2d, norm_arguments()),
}


# --- what each returns, from its own arrays ---------------------------------------------------------------


def convolved(name, ndim):
    def value(layer, x, steps):
        arguments = {
            n: v
            for n, v in steps.items()
            if n in ("stride", "padding", "dilation", "groups", "output_padding")
        }
        arrays = {"input": x, "weight": layer.weight, "bias": layer.bias, "layout": layer.layout}
        return only(EXPECTED[name](Reading(ndim, {**arguments, **arrays})))

    return value


def pooled(name):
    def value(layer, x, steps):
        return only(EXPECTED[name](Reading(2, {"input": x, **steps})))

    return value


def only(expected):
    return expected.values()[0] if expected.work <= LONG else None


def normalised(layer, x, steps):
    axes = (0, 2, 3) if layer.layout == "NCHW" else (0, 1, 2)
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(var + layer.eps)


VALUES = {
    "Conv1d": convolved("conv{}", 1),
    "Conv2d": convolved("conv{}", 2),
    "Conv3d": convolved("conv{}", 3),
    "ConvTranspose2d": convolved("conv_transpose{}", 2),
    "MaxPool2d": pooled("max_pool{}"),
    "AvgPool2d": pooled("avg_pool{}"),
    "ReLU": lambda layer, x, steps: np.where(x > 0, x, 0),
    "Sigmoid": lambda layer, x, steps: 1 / (1 + np.exp(-np.clip(x, -99, 99))),
    "Tanh": lambda layer, x, steps: 1 - 2 / (1 + np.exp(2 * np.clip(x, -99, 99))),
    "Flatten": lambda layer, x, steps: x.reshape(len(x), int(np.prod(x.shape[1:]))),
    "Dropout": lambda layer, x, steps: x if layer.p == 0 else None,
    "Linear": lambda layer, x, steps: x @ layer.weight.T + (0 if layer.bias is None else layer.bias),
    "BatchNorm2d": normalised,
}


def asked_for_much(arguments):
    """Whether some number among the arguments is large."""
    numbers = [n for v in arguments.values() for n in (v if isinstance(v, (tuple, list)) else [v])]
    return any(type(n) is int and n > 2**20 for n in numbers)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, attempts):
    kind, strategy = LAYERS[name]
    named = [*inspect.signature(kind).parameters, *ALSO_NAMED]

    @given(st.data())
    @settings(max_examples=30 * SEARCH, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
    def every(data):
        good = data.draw(strategy)
        others = [n for n in inspect.signature(kind).parameters if n not in good]
        arguments = data.draw(with_some_replaced(good, others))
        x = arguments.pop("x")
        layer = attempts(kind, arguments, named, lambda: asked_for_much(arguments))
        if layer is None:
            return
        y = attempts(layer.forward, {"x": x}, named, lambda: asked_for_much(arguments))
        if y is None:
            return
        expected = VALUES[name](layer, np.asarray(x).astype(np.float64), arguments)
        if expected is not None:
            assert y.shape == expected.shape
            np.testing.assert_allclose(y, expected, rtol=4e-3, atol=4e-3)
        grad = data.draw(with_some_replaced({"grad": np.ones_like(y)}))["grad"]
        dx = attempts(layer.backward, {"grad": grad}, named, lambda: False)
        if dx is not None:
            assert dx.shape == np.shape(x)
            assert np.shape(grad) == y.shape
            for parameter, gradient in zip(layer.parameters(), layer.gradients(), strict=True):
                assert gradient.shape == parameter.shape

    every()


@st.composite
def class_scores(draw):
    n, k = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    targets = np.array(draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)))
    return {"logits": drawn(draw, (n, k)), "targets": targets}


@st.composite
def differences(draw):
    shape = draw(st.lists(st.integers(1, 4), max_size=3).map(tuple))
    return {"output": drawn(draw, shape), "targets": drawn(draw, shape)}


def cross_entropy(logits, targets):
    scores = np.asarray(logits).astype(np.float64)
    return np.mean([np.log(np.exp(row).sum()) - row[t] for row, t in zip(scores, targets, strict=True)])


def mean_square(output, targets):
    with np.errstate(all="ignore"):
        return np.mean((np.asarray(output).astype(np.float64) - np.asarray(targets).astype(np.float64)) ** 2)


LOSSES = {
    "CrossEntropyLoss": (nn.CrossEntropyLoss, class_scores(), cross_entropy),
    "MSELoss": (nn.MSELoss, differences(), mean_square),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, attempts):
    kind, strategy, value = LOSSES[name]

    @given(strategy.flatmap(with_some_replaced))
    @settings(max_examples=60 * SEARCH, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
    def every(arguments):
        loss = kind()
        got = attempts(loss.forward, arguments, list(arguments), lambda: False)
        if got is not None:
            np.testing.assert_allclose(got, value(**arguments), rtol=4e-3, atol=4e-3)
            assert loss.backward().shape == np.shape(next(iter(arguments.values())))

    every()


SETTINGS = {
    "SGD": (nn.SGD, {"learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.0}),
    "Adam": (nn.Adam, {"learning_rate": 0.1, "betas": (0.5, 0.5), "eps": 1e-8, "weight_decay": 0.0}),
    "Sequential": (lambda layer, mode: nn.Sequential(layer).train(mode), {"layer": nn.ReLU(), "mode": True}),
    "load_state": (lambda state: nn.Linear(1, 1).load_state(state), {"state": {}}),
    "frozen": (lambda frozen: setattr(nn.ReLU(), "frozen", frozen), {"frozen": True}),
    "set_num_threads": (fastconv.set_num_threads, {"n": 1}),
    "num_threads": (lambda n: fastconv.num_threads(n).__enter__(), {"n": 1}),
    "ConvPlan": (fastconv.ConvPlan, {"geometry": None, "algorithm": "auto"}),
    "tune": (lambda seconds: fastconv.plan_conv2d((0, 1, 2, 2), (1, 1, 1, 1)).tune(seconds), {"seconds": 0}),
    "load_tuning": (fastconv.load_tuning, {"path": "nowhere.json"}),
    "show_config": (lambda **arguments: fastconv.show_config(**arguments), {"text": 1}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name, attempts):
    """Of optimisers, of networks, of threads."""
    call, good = SETTINGS[name]
    layer = nn.Linear(2, 3, rng=0)
    named = [*good, "network", r"layers[0]", "betas[0]", "betas[1]", "state['weight']", "state['bias']"]
    before = fastconv.get_num_threads()

    @given(with_some_replaced(good))
    @settings(max_examples=40 * SEARCH, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
    def every(arguments):
        network = {"network": layer} if name in ("SGD", "Adam") else {}
        attempts(call, {**network, **arguments}, named, lambda: False)

    try:
        every()
    finally:
        fastconv.set_num_threads(before)
