"""Training over the workers of a real Dask cluster: the steps of one process, whatever workers do."""

import os
import sys
import threading
import time

import numpy as np
import pytest

from fastconv import nn

distributed = pytest.importorskip("distributed")
cloudpickle = pytest.importorskip("cloudpickle")
# Workers can't import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.filterwarnings("ignore")  # what distributed and tornado say when workers end


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as made,
    ):
        yield made


def network(seed=0):
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, rng=rng), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 36, 10, rng=rng)
    )


def batches(count=3, size=21):
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield rng.random((size, 1, 14, 14), np.float32), rng.integers(0, 10, size)


def trained(step, net):
    optimiser, losses = nn.Adam(net, 0.01), []
    for x, targets in batches():
        losses.append(step(nn.CrossEntropyLoss(), x, targets))
        optimiser.step()
    return losses, net.flat_parameters().copy()


def alone(net):
    def step(loss, x, targets):
        value = loss.forward(net.forward(x), targets)
        net.backward(loss.backward(), needs_input=False)
        return value

    return trained(step, net)


def test_the_steps_of_one_process(client):
    net = network()
    losses, vector = trained(nn.DataParallel(net, client).step, net)
    expected_losses, expected = alone(network())
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(vector, expected, rtol=1e-3, atol=1e-5)
    again = network()
    losses_again, vector_again = trained(nn.DataParallel(again, client).step, again)
    assert losses_again == losses
    np.testing.assert_array_equal(vector_again, vector)


@pytest.mark.parametrize("parts", [1, 3, 9])
def test_any_number_of_parts(client, parts):
    net = network()
    losses, _ = trained(nn.DataParallel(net, client, parts=parts).step, net)
    np.testing.assert_allclose(losses, alone(network())[0], rtol=1e-5)


def test_frozen_layers_stay(client):
    net = network()
    parallel = nn.DataParallel(net, client)
    net.layers[0].frozen = True
    kept = net.layers[0].weight.copy()
    trained(parallel.step, net)
    np.testing.assert_array_equal(net.layers[0].weight, kept)
    twin = network()
    twin.layers[0].frozen = True
    np.testing.assert_allclose(net.flat_parameters(), alone(twin)[1], rtol=1e-3, atol=1e-5)


def test_what_a_batch_left_does_not_travel(client):
    sent = []

    class Counting:
        scheduler_info, gather = client.scheduler_info, client.gather

        @staticmethod
        def submit(function, *arguments, **named):
            sent.append(len(cloudpickle.dumps((function, arguments))))
            return client.submit(function, *arguments, **named)

    def step(net, loss):
        del sent[:]
        (x, targets), *_ = batches(1, 4)
        nn.DataParallel(net, Counting, parts=2).step(loss, x, targets)
        return max(sent)

    net, loss = network(), nn.CrossEntropyLoss()
    fresh = step(network(), nn.CrossEntropyLoss())
    loss.forward(net.forward(np.ones((5000, 1, 14, 14), np.float32)), np.zeros(5000, int))
    assert step(net, loss) < fresh + 1000


class Slow(nn.CrossEntropyLoss):
    """A loss that leaves time to end a worker."""

    def forward(self, logits, targets):
        time.sleep(1)
        return super().forward(logits, targets)


def test_a_worker_that_dies_costs_its_share_and_nothing_else(client):
    net, twin = network(), network()
    parallel = nn.DataParallel(net, client, parts=4)
    (x, targets), *_ = batches()
    before = set(client.scheduler_info()["workers"])
    processes = client.run(os.getpid)
    victim = next(iter(processes.values()))
    killer = threading.Timer(1.5, os.kill, (victim, 9))
    killer.start()
    value = parallel.step(Slow(), x, targets)
    killer.join()
    client.wait_for_workers(2, timeout=60)
    assert set(client.scheduler_info()["workers"]) != before
    expected = nn.DataParallel(twin, client, parts=4).step(nn.CrossEntropyLoss(), x, targets)
    assert value == expected
    np.testing.assert_array_equal(net.flat_gradients(), twin.flat_gradients())


class Scale(nn.Layer):
    """A layer whose gradients are where it likes."""

    def __init__(self):
        super().__init__()
        self.scale = np.ones(1, np.float32)

    def forward(self, x):
        return x * self.scale

    def parameters(self):
        return [self.scale]


def test_wrong_arguments(client):
    with pytest.raises(TypeError, match="one of a Scale"):
        nn.DataParallel(nn.Sequential(nn.Linear(2, 2), Scale()), client)
    with pytest.raises(TypeError, match="client must be"):
        nn.DataParallel(network(), None)
    with pytest.raises(ValueError, match="a BatchNorm2d"):
        nn.DataParallel(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), client)
    parallel = nn.DataParallel(network(), client)
    (x, targets), *_ = batches()
    with pytest.raises(ValueError, match="targets must be"):
        parallel.step(nn.CrossEntropyLoss(), x, targets[:-1])
    with pytest.raises(ValueError, match="at least one image"):
        parallel.step(nn.CrossEntropyLoss(), x[:0], targets[:0])
