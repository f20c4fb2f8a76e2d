"""Networks as a whole: their repr, their summary, all parameters and gradients as one vector each."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest

from fastconv import nn


def typed(text):
    """What somebody gets who types it after ``from fastconv.nn import *``."""
    names = {}
    exec("from fastconv.nn import *", names)
    return eval(text, names)


OBJECTS = {
    "Conv1d(2, 4, 3)": lambda: nn.Conv1d(2, 4, 3),
    "Conv2d(1, 3, 5)": lambda: nn.Conv2d(1, 3, np.int64(5), rng=0),
    "Conv2d(2, 4, (3, 5), stride=2, padding='same', groups=2, bias=False, dtype='float64')": lambda: (
        nn.Conv2d(2, 4, [3, 5], 2, "same", 1, 2, False, dtype=np.float64)
    ),
    "Conv2d(1, 1, 3, padding=((0, 1), (1, 0)), dilation=(1, 2), layout='NHWC')": lambda: nn.Conv2d(
        1, 1, 3, padding=np.array([[0, 1], [1, 0]]), dilation=np.array([1, 2]), layout="NHWC"
    ),
    "Conv3d(1, 2, 3)": lambda: nn.Conv3d(1, 2, (3, 3, 3), layout="NCDHW"),
    "ConvTranspose2d(3, 1, 2, stride=2, output_padding=1)": lambda: nn.ConvTranspose2d(3, 1, 2, 2, 0, 1),
    "MaxPool2d(2)": lambda: nn.MaxPool2d(2),
    "MaxPool2d(3, stride=2, ceil_mode=True)": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "AvgPool2d((2, 3), count_include_pad=False, layout='NHWC')": lambda: nn.AvgPool2d(
        (2, 3), count_include_pad=False, layout="NHWC"
    ),
    "Linear(432, 10)": lambda: nn.Linear(432, 10),
    "Linear(2, 1, bias=False)": lambda: nn.Linear(2, 1, False, rng=3),
    "BatchNorm2d(3, momentum=0.2)": lambda: nn.BatchNorm2d(3, momentum=0.2),
    "Dropout(p=0.25)": lambda: nn.Dropout(0.25, rng=0),
    "Dropout()": nn.Dropout,
    "ReLU()": nn.ReLU,
    "Sigmoid()": nn.Sigmoid,
    "Tanh()": nn.Tanh,
    "Flatten()": nn.Flatten,
    "CrossEntropyLoss()": nn.CrossEntropyLoss,
    "MSELoss()": nn.MSELoss,
    "Sequential()": nn.Sequential,
    "Sequential(Linear(2, 1), ReLU())": lambda: nn.Sequential(nn.Linear(2, 1), nn.ReLU()),
    "SGD(Linear(2, 1), learning_rate=0.1, momentum=0.9)": lambda: nn.SGD(nn.Linear(2, 1), 0.1, 0.9),
    "Adam(Linear(2, 1), betas=(0.8, 0.9))": lambda: nn.Adam(nn.Linear(2, 1), betas=[0.8, 0.9]),
}


@pytest.mark.parametrize("text", OBJECTS)
def test_repr_is_the_call(text):
    made = OBJECTS[text]()
    assert repr(made) == text
    again = typed(text)
    assert type(again) is type(made)
    assert repr(again) == text


def test_every_public_class_has_a_repr_that_was_tried():
    classes = set(nn.__all__) - {"Layer", "DataParallel"}  # which wraps a network and a client
    assert classes == {text.partition("(")[0] for text in OBJECTS}


def test_repr_says_what_the_object_is_now():
    optimiser = nn.SGD(nn.ReLU(), 0.1)
    optimiser.learning_rate = 0.05
    assert repr(optimiser) == "SGD(ReLU(), learning_rate=0.05)"


def test_long_networks_have_a_line_a_layer():
    net = nn.Sequential(*[nn.Conv2d(10, 10, 3, padding=1) for _ in range(4)], nn.Sequential(nn.ReLU()))
    lines = ["Sequential(", *["    Conv2d(10, 10, 3, padding=1),"] * 4, "    Sequential(ReLU()),", ")"]
    assert repr(net).splitlines() == lines
    assert repr(typed(repr(net))) == repr(net)


def test_a_layer_of_one_s_own_has_a_repr():
    class Scale(nn.Layer):
        def __init__(self, factor, power=1):
            super().__init__()
            self.factor = factor

    assert repr(Scale(3)) == "Scale(3, power=Ellipsis)"


# --- summary ----------------------------------------------------------------------------------------------


def test_summary_by_hand():
    net = nn.Sequential(
        nn.Conv2d(2, 4, (3, 1), stride=2, groups=2, bias=False),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, 2)),
        nn.AvgPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(48, 5),
    )
    net[0].frozen = True
    # Products: 4*4 cells of 4 filters with 3 taps of 1 channel; 4*4 cells of 4 channels with 3*2*2 weights.
    assert [" ".join(line.split()) for line in net.summary((3, 2, 9, 8)).splitlines()] == [
        "layer output parameters multiply-adds",
        "0 Conv2d(2, 4, (3, 1), stride=2, groups=2, bias=False) (3, 4, 4, 4) 12 576",
        "1 BatchNorm2d(4) (3, 4, 4, 4) 8 0",
        "2.0 ReLU() (3, 4, 4, 4) 0 0",
        "2.1 ConvTranspose2d(4, 3, 2, stride=2) (3, 3, 8, 8) 51 2,304",
        "3 AvgPool2d(2) (3, 3, 4, 4) 0 0",
        "4 Dropout() (3, 3, 4, 4) 0 0",
        "5 Flatten() (3, 48) 0 0",
        "6 Linear(48, 5) (3, 5) 245 720",
        "total 316 3,600",
    ]


def test_summary_counts_what_a_plan_counts():
    import fastconv

    layer = nn.Conv2d(3, 8, 3, padding=1, layout="NHWC")
    plan = fastconv.plan_conv2d((2, 6, 7, 3), layer.weight.shape, padding=1, layout="NHWC")
    assert f"{plan.flops // 2:,}" in layer.summary((2, 6, 7, 3)).splitlines()[1]


def test_summary_leaves_the_network_alone():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.Dropout(0.5, rng=0))
    x = np.random.default_rng(0).random((2, 1, 6, 6), np.float32)
    y = net.forward(x)
    before = {name: array.copy() for name, array in net.state().items()}
    net.summary((5, 1, 8, 8))
    assert net.training
    assert all(layer.training for layer in net)
    for name, array in net.state().items():
        np.testing.assert_array_equal(array, before[name])
    assert net.backward(np.ones_like(y)).shape == x.shape


def test_a_size_without_the_batch_is_named():
    net = nn.Sequential(nn.Conv2d(1, 3, 5))
    with pytest.raises(ValueError, match=r"input_size must be .* batch included, got \(1, 28, 28\): "):
        net.summary((1, 28, 28))


def test_summary_of_a_layer_with_layers_inside():
    class Residual(nn.Layer):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return x + self.inner.forward(x)

        def parameters(self):
            return self.inner.parameters()

    layer = Residual(nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()))
    line = nn.Sequential(layer).summary((1, 2, 3, 3)).splitlines()[1]
    assert line.split()[-2:] == ["4", "0"]
    assert layer.inner[0].training


@pytest.mark.parametrize("size", [5, (1, 2.0), (2, 3, 8, 8), "12"])
def test_summary_of_a_size_that_does_not_fit(size):
    with pytest.raises((TypeError, ValueError), match=r"^\w+ must be .+, got .+"):
        nn.Sequential(nn.Conv2d(1, 2, 3)).summary(size)


# --- one vector -------------------------------------------------------------------------------------------


def network(**options):
    layers = nn.Conv2d(1, 2, 3, rng=0, **options), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8, 3, rng=1))


def train(net, optimiser, steps, rng):
    loss = nn.CrossEntropyLoss()
    for _ in range(steps):
        loss.forward(net.forward(rng.random((5, 1, 4, 4), np.float32)), rng.integers(0, 3, 5))
        net.backward(loss.backward(), needs_input=False)
        optimiser.step()


def test_parameters_and_their_vector_are_one():
    net = network()
    before = [array.copy() for array in net.parameters()]
    vector = net.flat_parameters()
    np.testing.assert_array_equal(vector, np.concatenate([array.ravel() for array in before]))
    assert vector.flags.owndata
    assert all(array.base is vector for array in net.parameters())
    assert net.flat_parameters() is vector
    vector[:] = np.arange(vector.size)
    assert net[4].bias[-1] == vector.size - 1
    net[0].weight[...] = 7
    assert (vector[:18] == 7).all()


def test_gradients_and_their_vector_are_one():
    net, rng = network(), np.random.default_rng(0)
    early = net.flat_gradients()
    assert (early == 0).all()
    for _ in range(2):
        net.backward(net.forward(rng.random((5, 1, 4, 4), np.float32)))
        np.testing.assert_array_equal(early, np.concatenate([g.ravel() for g in net.gradients()]))
        assert early.any()
        assert net.flat_gradients() is early
    net.flat_parameters()  # the gradients stay where they are
    assert net.flat_gradients() is early
    late = network()
    late.backward(late.forward(np.ones((5, 1, 4, 4), np.float32)))
    expected = np.concatenate([g.ravel() for g in late.gradients()])
    np.testing.assert_array_equal(late.flat_gradients(), expected)


@pytest.mark.parametrize("optimiser", [nn.SGD, nn.Adam, partial(nn.SGD, momentum=0.9)])
@pytest.mark.parametrize("when", [0, 2])
def test_training_is_the_same_with_vectors(optimiser, when):
    """Whether they are made before or in the middle of it: the running averages go on."""
    plain, flat = network(), network()
    for net in (plain, flat):
        made, rng = optimiser(net), np.random.default_rng(0)
        train(net, made, when, rng)
        if net is flat:
            vector, gradients = net.flat_parameters(), net.flat_gradients()
        train(net, made, 3, rng)
    np.testing.assert_array_equal(vector, np.concatenate([a.ravel() for a in plain.parameters()]))
    np.testing.assert_array_equal(gradients, np.concatenate([a.ravel() for a in plain.gradients()]))
    assert flat.flat_parameters() is vector


def test_state_goes_through_the_vector():
    net, other = network(), network(dtype="float32")
    vector = net.flat_parameters()
    other.load_state({name: array + 1 for name, array in net.state().items()})
    net.load_state(other.state())
    np.testing.assert_array_equal(vector, other.flat_parameters())
    assert net.flat_parameters() is vector


def test_frozen_layers_are_left_out_of_the_vectors():
    net = network()
    whole = net.flat_parameters()
    net[0].frozen = True
    part = net.flat_parameters()
    assert (whole.size, part.size) == (18 + 2 + 4 + 24 + 3, 4 + 24 + 3)
    np.testing.assert_array_equal(part, whole[20:])
    gradients = net.flat_gradients()
    net.backward(net.forward(np.ones((5, 1, 4, 4), np.float32)))
    np.testing.assert_array_equal(gradients, np.concatenate([g.ravel() for g in net.gradients()]))
    net[0].frozen, net[4].frozen = False, True
    net.flat_gradients()
    net.backward(net.forward(np.ones((5, 1, 4, 4), np.float32)))
    np.testing.assert_array_equal(net.flat_gradients(), np.concatenate([g.ravel() for g in net.gradients()]))
    net.frozen = True
    assert net.flat_parameters().size == net.flat_gradients().size == 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_has_vectors_of_its_own(duplicate):
    net = network()
    vector, gradients = net.flat_parameters(), net.flat_gradients()
    twin = duplicate(net)
    twin.flat_parameters()[:] = 0
    assert all((array == 0).all() for array in twin.parameters())
    twin.backward(twin.forward(np.ones((5, 1, 4, 4), np.float32)) + 1)
    np.testing.assert_array_equal(
        twin.flat_gradients(), np.concatenate([g.ravel() for g in twin.gradients()])
    )
    assert vector.any()
    assert not gradients.any()


def everything():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, rng=0), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(0.5, rng=0), nn.ConvTranspose2d(2, 2, 2, 2, rng=0), nn.AvgPool2d(2), nn.Sigmoid(),
        nn.Tanh(), nn.Flatten(), nn.Linear(32, 3, rng=0),
    )  # fmt: skip


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, nn.MSELoss])
def test_copies_are_without_what_the_last_batch_left(duplicate, loss):
    net, loss = everything(), loss()
    targets = np.zeros((500, 3)) if isinstance(loss, nn.MSELoss) else np.zeros(500, int)
    fresh = len(pickle.dumps(net)), len(pickle.dumps(loss))
    y = net.forward(np.ones((500, 1, 8, 8), np.float32))
    loss.forward(y, targets)
    assert len(pickle.dumps(net)) < fresh[0] + 100
    assert len(pickle.dumps(loss)) < fresh[1] + 100
    for layer in map(duplicate, net.layers):
        with pytest.raises(ValueError, match="forward"):
            layer.backward(y)
    with pytest.raises(ValueError, match="forward"):
        duplicate(loss).backward()
    # The original has all that it needs.
    net.backward(loss.backward())
    twin = duplicate(everything().eval())
    x = np.ones((2, 1, 8, 8), np.float32)
    np.testing.assert_array_equal(twin.forward(x), everything().eval().forward(x))
    twin.backward(np.ones((2, 3), np.float32))
    assert all(gradient is not None for gradient in twin.gradients())


def test_another_array_in_a_layer_is_taken_up():
    net = network()
    vector = net.flat_parameters()
    net[4].weight = np.asfortranarray(np.full((3, 8), 2, np.float32))
    again = net.flat_parameters()
    assert again is not vector
    assert (again[-27:-3] == 2).all()
    assert net[4].weight.base is again


class Scale(nn.Layer):
    """A layer of one's own, which makes a new gradient in every pass."""

    def __init__(self, dtype=np.float32):
        super().__init__()
        self.factor, self.gradient = np.ones(1, dtype), None

    def forward(self, x):
        self.x = x
        return x * self.factor

    def backward(self, grad, needs_input=True):
        self.gradient = np.sum(grad * self.x).reshape(1)
        return grad * self.factor

    def parameters(self):
        return [self.factor]

    def gradients(self):
        return [self.gradient]

    def state(self):
        return {"factor": self.factor}


def test_layers_of_one_s_own_take_part():
    net = nn.Sequential(Scale(), nn.Linear(2, 1, rng=0))
    vector = net.flat_parameters()
    vector[0] = 3
    assert net[0].factor == 3
    net.backward(net.forward(np.ones((4, 2), np.float32)))
    gradients = net.flat_gradients()
    assert gradients[0] == net[0].gradient[0] != 0
    net.backward(net.forward(np.full((4, 2), 2, np.float32)))
    assert net.flat_gradients() is gradients
    assert gradients[0] == net[0].gradient[0]


def test_what_can_not_be_one_vector_is_refused():
    mixed = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1, dtype="float64"))
    for vector in (mixed.flat_parameters, mixed.flat_gradients):
        with pytest.raises(TypeError, match=r"^parameters must be of one dtype .+, got float32 and float64"):
            vector()
    shared = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"^parameters must be attributes of layers, each of one, got"):
        nn.Sequential(shared, shared).flat_parameters()
    hidden = Scale()
    hidden.factors, hidden.parameters = [hidden.factor], lambda: hidden.factors
    hidden.factor = None
    with pytest.raises(ValueError, match=r"^parameters must be attributes of layers"):
        hidden.flat_parameters()
