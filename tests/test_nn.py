"""The little network: gradients by central differences, losses and optimisers by their formulas."""

import numpy as np
import pytest
from oracles import central_difference

from fastconv import nn

RTOL, ATOL = 1e-6, 1e-8


def by_differences(scalar, array):
    """The gradient of `scalar()`, which reads `array`, by central differences."""
    kept = array.copy()

    def at(value):
        array[...] = value
        return scalar()

    gradient = central_difference(at, kept)
    array[...] = kept
    return gradient


def check_gradients(layer, x, rng):
    """Input and parameter gradients of `sum(layer(x) * r)` for a random r, against central differences."""
    r = rng.standard_normal(layer.forward(x).shape)

    def scalar():
        return float(np.sum(layer.forward(x) * r))

    grad_input = layer.backward(r)
    gradients = [gradient.copy() for gradient in layer.gradients()]
    assert grad_input.shape == x.shape
    np.testing.assert_allclose(grad_input, by_differences(scalar, x), RTOL, ATOL)
    assert len(gradients) == len(layer.parameters())
    for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
        assert gradient.shape == parameter.shape
        np.testing.assert_allclose(gradient, by_differences(scalar, parameter), RTOL, ATOL)


def float64(kind, *args, **options):
    return kind(*args, dtype="float64", rng=0, **options)


CASES = {
    "conv1d": (float64(nn.Conv1d, 2, 3, 3, stride=2, padding=1), (2, 2, 7)),
    "conv1d_last": (float64(nn.Conv1d, 2, 3, 3, layout="NWC"), (2, 7, 2)),
    "conv2d": (float64(nn.Conv2d, 2, 3, (3, 2), padding="same"), (2, 2, 5, 4)),
    "conv2d_last": (float64(nn.Conv2d, 2, 3, 3, padding=1, layout="NHWC"), (2, 5, 4, 2)),
    "conv2d_groups": (float64(nn.Conv2d, 4, 6, 3, dilation=2, groups=2, bias=False), (2, 4, 6, 6)),
    "conv3d": (float64(nn.Conv3d, 2, 2, 2), (2, 2, 3, 3, 3)),
    "conv3d_last": (float64(nn.Conv3d, 2, 2, 2, layout="NDHWC"), (2, 3, 3, 3, 2)),
    "conv_transpose2d": (
        float64(nn.ConvTranspose2d, 2, 3, 3, stride=2, padding=1, output_padding=1),
        (2, 2, 3, 4),
    ),
    "conv_transpose2d_last": (
        float64(nn.ConvTranspose2d, 2, 4, 2, groups=2, layout="NHWC"),
        (2, 3, 4, 2),
    ),
    "max_pool2d": (nn.MaxPool2d(3, 2, 1), (2, 2, 6, 5)),
    "max_pool2d_last": (nn.MaxPool2d(2, layout="NHWC"), (2, 4, 5, 2)),
    "avg_pool2d": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 2, 6, 5)),
    "avg_pool2d_last": (nn.AvgPool2d(2, layout="NHWC"), (2, 4, 5, 2)),
    "linear": (float64(nn.Linear, 4, 3), (5, 4)),
    "linear_no_bias": (float64(nn.Linear, 4, 3, bias=False), (5, 4)),
    "linear_unbatched": (float64(nn.Linear, 4, 3), (4,)),
    "linear_many_axes": (float64(nn.Linear, 4, 3), (2, 3, 4)),
    "relu": (nn.ReLU(), (3, 7)),
    "sigmoid": (nn.Sigmoid(), (3, 7)),
    "tanh": (nn.Tanh(), (3, 7)),
    "flatten": (nn.Flatten(), (3, 2, 2, 2)),
    "batch_norm2d": (nn.BatchNorm2d(3, dtype="float64"), (2, 3, 3, 2)),
    "batch_norm2d_last": (nn.BatchNorm2d(3, dtype="float64", layout="NHWC"), (2, 3, 2, 3)),
    "batch_norm2d_eval": (nn.BatchNorm2d(3, dtype="float64").eval(), (2, 3, 3, 2)),
    "sequential": (
        nn.Sequential(
            float64(nn.Conv2d, 1, 2, 3), nn.Tanh(), nn.Sequential(nn.Flatten(), float64(nn.Linear, 8, 3))
        ),
        (2, 1, 4, 4),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_central_differences(name):
    layer, shape = CASES[name]
    rng = np.random.default_rng(1)
    check_gradients(layer, rng.standard_normal(shape), rng)


def test_dropout_gradient_has_the_holes_of_forward():
    layer, x = nn.Dropout(0.4, rng=0), np.full((50, 40), 3.0)
    output, grad = layer.forward(x), layer.backward(np.ones(x.shape))
    assert set(np.unique(output)) == {0.0, 3 / 0.6}
    np.testing.assert_array_equal(grad, output / 3)
    assert abs(np.mean(output == 0) - 0.4) < 0.05


def test_dropout_does_nothing_in_use_or_at_zero():
    x = np.ones((3, 4), np.float32)
    for layer in (nn.Dropout(0.4).eval(), nn.Dropout(0)):
        assert layer.forward(x) is x
        assert layer.backward(x) is x


def test_layers_keep_float32():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.ConvTranspose2d(2, 2, 2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(8, 3),
        nn.Tanh(),
    )
    x = np.random.default_rng(0).random((2, 1, 6, 6), np.float32)
    output = net.forward(x)
    assert output.dtype == np.float32
    assert net.backward(np.ones_like(output)).dtype == np.float32
    assert {gradient.dtype for gradient in net.gradients()} == {np.dtype(np.float32)}


def test_empty_batch_passes():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    output = net.forward(np.zeros((0, 1, 6, 6), np.float32))
    assert output.shape == (0, 3)
    assert net.backward(output).shape == (0, 1, 6, 6)
    assert all(not gradient.any() for gradient in net.gradients())


def test_sigmoid_is_exact_and_silent_far_out():
    x = np.array([-1000, -100, -20, 0, 20, 1000], np.float32)
    with np.errstate(all="raise", under="ignore"):
        output = nn.Sigmoid().forward(x)
    np.testing.assert_allclose(output, [0, 0, 2.0611537e-09, 0.5, 1, 1], 1e-6, 1e-37)


def test_initial_weights_have_pytorchs_bound():
    for layer, fan_in in (
        (nn.Conv2d(4, 100, 3, groups=2, rng=0), 2 * 9),
        (nn.Conv2d(4, 100, 3, groups=2, rng=0, layout="NHWC"), 2 * 9),
        (nn.ConvTranspose2d(100, 4, 3, groups=2, rng=0), 2 * 9),
        (nn.Linear(50, 100, rng=0), 50),
    ):
        most = np.abs(layer.weight).max() * np.sqrt(fan_in)
        assert 0.98 < most <= 1.000001
        assert np.abs(layer.bias).max() * np.sqrt(fan_in) <= 1.000001


def test_equal_seeds_give_equal_weights():
    first, second = nn.Conv2d(2, 3, 3, rng=7), nn.Conv2d(2, 3, 3, rng=np.random.default_rng(7))
    np.testing.assert_array_equal(first.weight, second.weight)
    assert not np.array_equal(first.weight, nn.Conv2d(2, 3, 3).weight)


# --- freezing, and what backward computes ---------------------------------------------------------------


class Watched(nn.Layer):
    """A layer that changes nothing and counts its backward passes."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        return x

    def backward(self, grad, needs_input=True):
        self.calls += 1
        return grad


def small_network():
    return nn.Sequential(
        Watched(),
        nn.Conv2d(1, 2, 3, rng=0),
        Watched(),
        nn.Flatten(),
        nn.Linear(8, 3, rng=0),
    )


def test_backward_goes_no_deeper_than_needed():
    net, x = small_network(), np.ones((2, 1, 4, 4), np.float32)
    output = net.forward(x)
    assert net.backward(np.ones_like(output), needs_input=False) is None
    assert (net[0].calls, net[2].calls) == (0, 1)
    net[1].frozen = True
    assert net.backward(np.ones_like(output), needs_input=False) is None
    assert (net[0].calls, net[2].calls) == (0, 1)
    assert net.backward(np.ones_like(output)).shape == x.shape
    assert (net[0].calls, net[2].calls) == (1, 2)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("needs_input", [False, True])
def test_a_convolution_asks_for_what_is_needed(monkeypatch, frozen, needs_input):
    layer, x = nn.Conv2d(1, 2, 3, rng=0), np.ones((2, 1, 4, 4), np.float32)
    asked = []

    def differentiate(*args, needs, **options):
        asked.append(needs)
        return real(*args, needs=needs, **options)

    real = nn.Conv2d._differentiate
    monkeypatch.setattr(nn.Conv2d, "_differentiate", staticmethod(differentiate))
    layer.frozen = frozen
    layer.backward(layer.forward(x), needs_input)
    expected = ("input",) * needs_input + ("weight", "bias") * (not frozen)
    assert asked == ([expected] if expected else [])


def test_only_arrays_of_the_network_itself_are_written_to():
    """Not the input, not the gradient that comes in, and not what a layer of the user's own keeps."""

    class Keeps(nn.Conv2d):
        def forward(self, x):
            self.kept = super().forward(x)
            return self.kept

        def backward(self, grad, needs_input=True):
            self.kept_grad = super().backward(grad, needs_input)
            return self.kept_grad

    rng = np.random.default_rng(0)
    own, first = Keeps(2, 2, 3, padding=1, rng=0), nn.Conv2d(1, 2, 3, rng=0)
    net = nn.Sequential(
        nn.ReLU(), first, nn.ReLU(), own, nn.ReLU(), nn.MaxPool2d(2), nn.Sigmoid(), nn.Tanh(), nn.ReLU()
    )
    x = rng.standard_normal((2, 1, 6, 6)).astype(np.float32)
    kept_x = x.copy()
    output = net.forward(x)
    grad = rng.standard_normal(output.shape).astype(np.float32)
    kept_grad = grad.copy()
    result = net.backward(grad)
    np.testing.assert_array_equal(x, kept_x)
    np.testing.assert_array_equal(grad, kept_grad)
    kept, own_grad = own.kept.copy(), own.kept_grad.copy()
    # The same layers called one by one.
    y, down = x, grad
    for layer in net:
        y = layer.forward(y)
    for layer in net.layers[::-1]:
        down = layer.backward(down)
    np.testing.assert_array_equal(y, output)
    np.testing.assert_array_equal(down, result)
    np.testing.assert_array_equal(own.kept, kept)
    np.testing.assert_array_equal(own.kept_grad, own_grad)
    assert (kept < 0).any()


def test_frozen_layers_are_left_out_and_left_alone():
    net, x = small_network(), np.ones((2, 1, 4, 4), np.float32)
    net[1].frozen = True
    before = {name: array.copy() for name, array in net.state().items()}
    optimiser = nn.SGD(net, 0.1)
    output = net.forward(x)
    net.backward(np.ones_like(output), needs_input=False)
    optimiser.step()
    assert [array.shape for array in net.gradients()] == [(3, 8), (3,)]
    changed = {name for name, array in net.state().items() if not np.array_equal(array, before[name])}
    assert changed == {"4.weight", "4.bias"}
    net[1].frozen = False  # the same optimiser takes the layer up again
    net.backward(np.ones_like(net.forward(x)))
    optimiser.step()
    assert not np.array_equal(net[1].weight, before["1.weight"])


def test_freezing_a_network_freezes_every_layer():
    net = small_network()
    net.frozen = True
    assert net.frozen
    assert net.parameters() == net.gradients() == []
    net.forward(np.ones((2, 1, 4, 4), np.float32))
    nn.Adam(net).step()
    assert net.backward(np.ones((2, 3), np.float32), needs_input=False) is None


# --- state ------------------------------------------------------------------------------------------------


def test_state_round_trip():
    def build(seed):
        return nn.Sequential(
            nn.Conv2d(1, 2, 3, rng=seed), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3, rng=seed)
        )

    first, second, x = build(0), build(1), np.random.default_rng(0).random((2, 1, 4, 4), np.float32)
    first.forward(x)
    assert set(first.state()) == {
        *(f"{i}.{name}" for i in (0, 1, 3) for name in ("weight", "bias")),
        "1.running_mean",
        "1.running_var",
    }
    second.load_state(first.state())
    np.testing.assert_array_equal(first.eval().forward(x), second.eval().forward(x))


def test_a_wrong_state_is_refused_whole():
    layer = nn.Linear(2, 1, rng=0)
    before = layer.weight.copy()
    good = {"weight": np.ones((1, 2), np.float32), "bias": np.ones(1, np.float32)}
    for wrong, kind, name in (
        ({"weight": good["weight"]}, ValueError, "state"),
        (good | {"bias": np.ones(2, np.float32)}, ValueError, "bias"),
        (good | {"bias": np.ones(1, complex)}, TypeError, "bias"),
        (good | {"bias": [1.0]}, TypeError, "bias"),
    ):
        with pytest.raises(kind, match=name):
            layer.load_state(wrong)
    np.testing.assert_array_equal(layer.weight, before)


# --- losses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()], ids=["cross_entropy", "mse"])
def test_loss_gradients_are_central_differences(loss):
    rng = np.random.default_rng(0)
    output = rng.standard_normal((4, 5))
    targets = rng.integers(0, 5, 4) if isinstance(loss, nn.CrossEntropyLoss) else rng.standard_normal((4, 5))
    loss.forward(output, targets)
    gradient = loss.backward()
    expected = central_difference(lambda z: loss.forward(z, targets), output)
    np.testing.assert_allclose(gradient, expected, RTOL, ATOL)


def test_cross_entropy_by_its_definition():
    logits, targets = np.array([[0.0, 1.0, 2.0], [3.0, -1.0, 0.5]]), np.array([2, 1])
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(softmax[[0, 1], targets]).mean()
    assert nn.CrossEntropyLoss().forward(logits, targets) == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_stays_finite_for_huge_logits():
    loss = nn.CrossEntropyLoss()
    assert loss.forward(np.array([[1e4, -1e4]], np.float32), np.array([1])) == 2e4
    np.testing.assert_array_equal(loss.backward(), [[1, -1]])


# --- optimisers -------------------------------------------------------------------------------------------


def trained(make_optimiser, steps=5):
    """The weight of a 1-output layer after some steps with changing inputs, and the gradients it saw."""
    rng = np.random.default_rng(0)
    layer = nn.Linear(3, 2, dtype="float64", rng=0)
    start, gradients, optimiser = layer.weight.copy(), [], make_optimiser(layer)
    for _ in range(steps):
        layer.backward(2 * layer.forward(rng.standard_normal((4, 3))))
        gradients.append(layer.grad_weight.copy())
        optimiser.step()
    return start, gradients, layer.weight


def test_sgd_by_its_formula():
    start, gradients, reached = trained(lambda net: nn.SGD(net, 0.1, momentum=0.9, weight_decay=0.01))
    weight, velocity = start, 0
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient + 0.01 * weight
        weight = weight - 0.1 * velocity
    np.testing.assert_allclose(reached, weight, 1e-12)


def test_plain_sgd_by_its_formula():
    start, gradients, reached = trained(lambda net: nn.SGD(net, 0.1))
    np.testing.assert_allclose(reached, start - 0.1 * sum(gradients), 1e-12)


def test_adam_by_its_formula():
    start, gradients, reached = trained(lambda net: nn.Adam(net, 0.05, (0.8, 0.99), 1e-6, 0.02))
    weight, mean, square = start, 0, 0
    for t, gradient in enumerate(gradients, 1):
        gradient = gradient + 0.02 * weight
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        weight = weight - 0.05 * (mean / (1 - 0.8**t)) / (np.sqrt(square / (1 - 0.99**t)) + 1e-6)
    np.testing.assert_allclose(reached, weight, 1e-10)


def test_optimisers_change_parameters_in_place():
    layer = nn.Linear(2, 1, rng=0)
    weight, bias = layer.parameters()
    optimiser = nn.Adam(layer)
    layer.backward(layer.forward(np.ones((1, 2), np.float32)))
    optimiser.step()
    assert layer.weight is weight
    assert layer.bias is bias


@pytest.mark.parametrize("optimiser", [nn.SGD, nn.Adam])
def test_parameters_of_any_kind_are_changed_in_place(optimiser):
    """Not contiguous, float16, and both beside a plain one."""
    plain, turned = nn.Linear(3, 2, rng=0), nn.Linear(2, 4, rng=0)
    half = nn.Linear(4, 2, rng=0, dtype="float16")
    network = nn.Sequential(plain, turned, half)
    turned.weight = np.asfortranarray(turned.weight)
    kept = [(array, array.copy()) for array in network.parameters()]
    output = network.forward(np.ones((5, 3), np.float32))
    network.backward(np.ones_like(output))
    made = optimiser(network, 0.5)
    for _ in range(2):
        made.step()
    for array, before in kept:
        assert (array != before).any()
    assert turned.weight is kept[2][0]
    twin = nn.Linear(2, 4, rng=0)
    twin.grad_weight, twin.grad_bias = turned.grad_weight, turned.grad_bias
    same = optimiser(twin, 0.5)
    for _ in range(2):
        same.step()
    np.testing.assert_array_equal(twin.weight, turned.weight)


@pytest.mark.parity
@pytest.mark.parametrize("which", ["sgd", "adam"])
def test_training_is_pytorchs(which):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, dtype="float64", rng=rng),
        nn.BatchNorm2d(2, dtype="float64"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3, dtype="float64", rng=rng),
    )
    twin = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3, padding=1),
        torch.nn.BatchNorm2d(2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    ).double()
    twin.load_state_dict({name: torch.tensor(array) for name, array in net.state().items()}, strict=False)
    if which == "sgd":
        optimiser = nn.SGD(net, 0.1, momentum=0.9, weight_decay=0.01)
        theirs = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    else:
        optimiser = nn.Adam(net, 0.01, weight_decay=0.01)
        theirs = torch.optim.Adam(twin.parameters(), 0.01, weight_decay=0.01)
    loss, their_loss = nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss()
    for _ in range(6):
        x, y = rng.standard_normal((5, 1, 4, 4)), rng.integers(0, 3, 5)
        value = loss.forward(net.forward(x), y)
        net.backward(loss.backward(), needs_input=False)
        optimiser.step()
        their_value = their_loss(twin(torch.tensor(x)), torch.tensor(y))
        theirs.zero_grad()
        their_value.backward()
        theirs.step()
        assert value == pytest.approx(their_value.item(), rel=1e-9)
    for name, array in net.state().items():
        np.testing.assert_allclose(array, twin.state_dict()[name].numpy(), 1e-7, 1e-10, err_msg=name)


# --- wrong arguments --------------------------------------------------------------------------------------

WRONG = {
    "in_channels": lambda: nn.Conv2d(0, 1, 3),
    "out_channels": lambda: nn.Conv2d(2, 3, 3, groups=2),
    "kernel_size": lambda: nn.Conv2d(1, 1, (3, 3, 3)),
    "groups": lambda: nn.Conv2d(1, 1, 3, groups=0),
    "layout": lambda: nn.Conv2d(1, 1, 3, layout="HWC"),
    "dtype": lambda: nn.Linear(1, 1, dtype="int32"),
    "rng": lambda: nn.Linear(1, 1, rng="seed"),
    "bias": lambda: nn.Linear(1, 1, bias=1),
    "in_features": lambda: nn.Linear(1.5, 1),
    "x": lambda: nn.Linear(3, 1).forward(np.ones((2, 4))),
    "p": lambda: nn.Dropout(1),
    "num_features": lambda: nn.BatchNorm2d(-1),
    "momentum": lambda: nn.SGD(nn.ReLU(), 0.1, momentum=1),
    "learning_rate": lambda: nn.SGD(nn.ReLU(), float("nan")),
    "betas": lambda: nn.Adam(nn.ReLU(), betas=0.9),
    "network": lambda: nn.Adam([]),
    r"layers\[0\]": lambda: nn.Sequential(np.tanh),
    "frozen": lambda: setattr(nn.ReLU(), "frozen", 1),
    "mode": lambda: nn.Sequential().train("yes"),
    "backward": lambda: nn.Conv2d(1, 1, 3).backward(np.ones((1, 1, 1, 1))),
    "gradients": lambda: nn.Linear(1, 1).gradients(),
    "logits": lambda: nn.CrossEntropyLoss().forward(np.ones(3), np.array([0])),
    "targets": lambda: nn.CrossEntropyLoss().forward(np.ones((1, 3)), np.array([3])),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named(name):
    with pytest.raises((ValueError, TypeError), match=rf"^{name} must be .+, got .+"):
        WRONG[name]()


@pytest.mark.parametrize(
    "kind", [nn.ReLU, nn.Flatten, lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(2), lambda: nn.BatchNorm2d(1)]
)
def test_backward_before_forward_is_refused(kind):
    with pytest.raises(ValueError, match="backward must be called after forward"):
        kind().backward(np.ones((1, 1, 2, 2)))


@pytest.mark.parametrize(
    "targets",
    [np.array([[0]]), np.array([0.0]), [0], np.array([-1])],
    ids=["shape", "dtype", "list", "negative"],
)
def test_wrong_targets_are_refused(targets):
    with pytest.raises((ValueError, TypeError), match="targets must be"):
        nn.CrossEntropyLoss().forward(np.ones((1, 3)), targets)
    with pytest.raises((ValueError, TypeError), match="targets must be"):
        nn.MSELoss().forward(np.ones((1, 3)), np.ones(3))


def test_batch_norm_refuses_what_has_no_variance():
    with pytest.raises(ValueError, match="x must be of more than one number a channel"):
        nn.BatchNorm2d(2).forward(np.ones((1, 2, 1, 1), np.float32))
    with pytest.raises(ValueError, match="x must be a 4-dimensional NCHW array of 2 channels"):
        nn.BatchNorm2d(2).forward(np.ones((1, 3, 4, 4), np.float32))
