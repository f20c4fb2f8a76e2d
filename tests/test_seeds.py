"""The five questions that began this library, answered with it: shapes, formulas and gradients."""

import numpy as np
import pytest
from oracles import ref_im2col

import fastconv
from fastconv import nn
from fastconv.demo.networks import s000, s001, s002, s003, s004

RTOL, ATOL = 1e-6, 1e-8


def rng_of(seed):
    return np.random.default_rng(seed)


def shapes(network, x):
    """The shape after each layer."""
    found = []
    for layer in network:
        x = layer.forward(x)
        found.append(x.shape)
    return found


def difference(value, array, at, step):
    """The central difference of `value()` over one cell of `array`."""
    kept = array[at]
    array[at] = kept + step
    ahead = value()
    array[at] = kept - step
    behind = value()
    array[at] = kept
    return (ahead - behind) / (2 * step)


def check_gradients(network, loss, targets, x, rng, most=100):
    """Every gradient against central differences, at up to `most` random cells of each array."""

    def value():
        return loss.forward(network.forward(x), targets)

    value()
    grad_input = network.backward(loss.backward())
    gradients = [grad_input, *map(np.copy, network.gradients())]
    for array, gradient in zip([x, *network.parameters()], gradients, strict=True):
        for cell in rng.choice(array.size, min(most, array.size), replace=False):
            at = np.unravel_index(cell, array.shape)
            # a ReLU or a maximum that changes over within the step spoils the difference: take a smaller one
            assert any(
                gradient[at] == pytest.approx(difference(value, array, at, step), rel=2e-5, abs=1e-7)
                for step in (1e-6, 1e-8)
            )


def one_hot(labels):
    return np.eye(10)[labels]


NETWORKS = {
    "s000": (s000, nn.CrossEntropyLoss(), np.arange(10)),
    "s002": (s002, nn.MSELoss(), one_hot(np.arange(4))),
    "s003": (s003, nn.CrossEntropyLoss(), np.arange(4)),
    "s004": (s004, nn.CrossEntropyLoss(), np.arange(4)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_gradient_by_central_differences(name):
    build, loss, targets = NETWORKS[name]
    network = build(nn, rng=0, dtype="float64")
    x = rng_of(1).random((len(targets), 1, 28, 28))
    check_gradients(network, loss, targets, x, rng_of(2))


# --- the first: the error of a layer whose filters and deltas differ in their dimensions -----------------


def test_s000_shapes():
    assert shapes(s000(nn, rng=0), np.ones((10, 1, 28, 28), np.float32)) == [
        (10, 3, 24, 24),
        (10, 3, 24, 24),
        (10, 3, 12, 12),
        (10, 6, 8, 8),
        (10, 6, 8, 8),
        (10, 6, 4, 4),
        (10, 96),
        (10, 80),
        (10, 80),
        (10, 10),
    ]


def test_s000_question_rotate_and_swap_the_first_two_axes():
    """Neither reshape nor rotation alone: (6, 3, 5, 5) is rotated, then transposed to (3, 6, 5, 5)."""
    rng = rng_of(0)
    error, weight = rng.standard_normal((10, 6, 8, 8)), rng.standard_normal((6, 3, 5, 5))
    rotated = np.rot90(np.rot90(weight, axes=(2, 3)), axes=(2, 3)).transpose(1, 0, 2, 3)
    assert rotated.shape == (3, 6, 5, 5)
    answer = fastconv.conv2d(error, rotated, padding="full")
    assert answer.shape == (10, 3, 12, 12)
    expected = fastconv.conv2d_backward_input(error, weight, (10, 3, 12, 12))
    np.testing.assert_allclose(answer, expected, RTOL, ATOL)
    # the same by its definition: each error cell spreads its filter over the input cells that it saw
    spread = np.zeros((10, 3, 12, 12))
    for r in range(5):
        for s in range(5):
            spread[:, :, r : r + 8, s : s + 8] += np.einsum("nkhw,kc->nchw", error, weight[:, :, r, s])
    np.testing.assert_allclose(answer, spread, RTOL, ATOL)
    # and a reshape of the rotated filters is not it
    reshaped = np.rot90(weight, 2, axes=(2, 3)).reshape(3, 6, 5, 5)
    assert not np.allclose(fastconv.conv2d(error, reshaped, padding="full"), expected)


def test_s000_network_passes_the_error_that_the_question_asks_for():
    network, loss = s000(nn, rng=0, dtype="float64"), nn.CrossEntropyLoss()
    loss.forward(network.forward(rng_of(0).random((10, 1, 28, 28))), np.arange(10))
    error = loss.backward()
    for layer in network.layers[:3:-1]:
        error = layer.backward(error)
    assert error.shape == (10, 6, 8, 8)
    rotated = network[3].weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    below = network[3].backward(error)
    np.testing.assert_allclose(below, fastconv.conv2d(error, rotated, padding="full"), RTOL, ATOL)


# --- the second: dL/dX of one layer, channels last --------------------------------------------------------


def test_s001_gradients_are_sums_over_filters():
    rng = rng_of(0)
    layer = s001(nn, rng=0, dtype="float64")[0]
    x, error = rng.standard_normal((5, 5, 3)), rng.standard_normal((3, 3, 16))
    output = layer.forward(x[None])[0]
    assert output.shape == (3, 3, 16)
    grad_input = layer.backward(error[None])[0]
    assert grad_input.shape == (5, 5, 3)
    assert layer.grad_weight.shape == (16, 3, 3, 3)
    # as the asker found: dL/dX of each of the 16 filters, and then their sum
    by_filter = np.zeros((16, 5, 5, 3))
    for k, i, j in np.ndindex(16, 3, 3):
        window = x[i : i + 3, j : j + 3]
        assert output[i, j, k] == pytest.approx(np.sum(window * layer.weight[k]) + layer.bias[k], rel=1e-12)
        by_filter[k, i : i + 3, j : j + 3] += error[i, j, k] * layer.weight[k]
    np.testing.assert_allclose(grad_input, by_filter.sum(0), RTOL, ATOL)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))  # (3, 3, C, R, S)
    grad_weight = np.einsum("ijk,ijcrs->krsc", error, windows)
    np.testing.assert_allclose(layer.grad_weight, grad_weight, RTOL, ATOL)
    np.testing.assert_allclose(layer.grad_bias, error.sum((0, 1)), RTOL, ATOL)


def test_s001_unbatched_channels_last_calls_agree():
    layer, x = s001(nn, rng=0)[0], rng_of(0).random((5, 5, 3), np.float32)
    np.testing.assert_array_equal(layer.forward(x), layer.forward(x[None])[0])


def test_s001_convolution_is_a_4x16_matrix_with_9_free_parameters():
    kernel, image, error = (
        np.arange(1.0, 10).reshape(1, 1, 3, 3),
        rng_of(0).random((4, 4)),
        rng_of(1).random(4),
    )
    matrix = fastconv.conv_matrix(kernel, (1, 1, 4, 4))
    assert matrix.shape == (4, 16)
    dense = matrix.toarray()
    assert set(np.unique(dense)) == set(range(10))
    for row, (i, j) in enumerate(np.ndindex(2, 2)):
        placed = np.zeros((4, 4))
        placed[i : i + 3, j : j + 3] = kernel[0, 0]
        np.testing.assert_array_equal(dense[row], placed.ravel())
    output = fastconv.conv2d(image[None, None], kernel)
    np.testing.assert_allclose(matrix @ image.ravel(), output.ravel(), RTOL)
    grad_input = fastconv.conv2d_backward_input(error.reshape(1, 1, 2, 2), kernel, (1, 1, 4, 4))
    np.testing.assert_allclose(matrix.T @ error, grad_input.ravel(), RTOL)


# --- the third: the delta of each layer, written out --------------------------------------------------------


def test_s002_shapes():
    assert shapes(s002(nn, rng=0), np.ones((1, 1, 28, 28), np.float32)) == [
        (1, 3, 24, 24),
        (1, 3, 24, 24),
        (1, 3, 12, 12),
        (1, 432),
        (1, 10),
        (1, 10),
    ]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_s002_deltas_are_the_documents_formulas():
    network = s002(nn, rng=0, dtype="float64")
    conv, linear = network[0], network[4]
    image, y = rng_of(0).random((28, 28)), np.eye(10)[3]

    # forward, on one image
    z_c = np.zeros((3, 24, 24))
    for k, m, n in np.ndindex(3, 5, 5):
        z_c[k] += conv.weight[k, 0, m, n] * image[m : m + 24, n : n + 24]
    z_c += conv.bias[:, None, None]
    a_c = sigmoid(z_c)
    blocks = a_c.reshape(3, 12, 2, 12, 2).transpose(0, 1, 3, 2, 4).reshape(3, 12, 12, 4)
    a_mp = blocks.max(-1)
    a = sigmoid(linear.weight @ a_mp.ravel() + linear.bias)

    # backward, equations (1), (2) and (3) of the document
    delta_l = (a - y) * a * (1 - a)
    delta_fc_weight = np.outer(delta_l, a_mp.ravel())
    delta_mp = (linear.weight.T @ delta_l).reshape(3, 12, 12)
    unpooled = np.zeros((3, 12, 12, 4))
    np.put_along_axis(unpooled, blocks.argmax(-1)[..., None], delta_mp[..., None], -1)
    unpooled = unpooled.reshape(3, 12, 12, 2, 2).transpose(0, 1, 3, 2, 4).reshape(3, 24, 24)
    delta_c = unpooled * a_c * (1 - a_c)
    # the question: the kernel's gradient is the correlation of I with delta, the bias's the sum of delta
    kernel_gradient = np.zeros((3, 5, 5))
    for k, m, n in np.ndindex(3, 5, 5):
        kernel_gradient[k, m, n] = np.sum(image[m : m + 24, n : n + 24] * delta_c[k])
    bias_gradient = delta_c.sum((1, 2))

    # C = |a - y|^2 / 2 gives the document's (a - y); the mean over 10 outputs gives 2/10 of it
    loss = nn.MSELoss()
    loss.forward(network.forward(image[None, None]), y[None])
    error = loss.backward() * (10 / 2)
    deltas = [error := layer.backward(error) for layer in network.layers[::-1]]
    np.testing.assert_allclose(deltas[0][0], delta_l, RTOL, ATOL)
    np.testing.assert_allclose(deltas[2][0], delta_mp, RTOL, ATOL)
    np.testing.assert_allclose(deltas[3][0], unpooled, RTOL, ATOL)
    np.testing.assert_allclose(deltas[4][0], delta_c, RTOL, ATOL)
    np.testing.assert_allclose(linear.grad_weight, delta_fc_weight, RTOL, ATOL)
    np.testing.assert_allclose(linear.grad_bias, delta_l, RTOL, ATOL)
    assert conv.bias.shape == (3,)
    np.testing.assert_allclose(conv.grad_weight[:, 0], kernel_gradient, RTOL, ATOL)
    np.testing.assert_allclose(conv.grad_bias, bias_gradient, RTOL, ATOL)
    # and that correlation is itself a convolution: I with delta as the kernel
    as_convolution = fastconv.conv2d(image[None, None], delta_c[:, None])[0]
    np.testing.assert_allclose(as_convolution, kernel_gradient, RTOL, ATOL)


# --- the fourth: filters that learn, and filters that do not ------------------------------------------------


def test_s003_shapes():
    found = shapes(s003(nn, rng=0), np.ones((1, 1, 28, 28), np.float32))
    assert found[0][2:] == (28, 28)
    assert found[2][2:] == found[3][2:] == (14, 14)
    assert found[5] == (1, 1, 7, 7)
    assert found[6:] == [(1, 49), (1, 49), (1, 49), (1, 10)]


def trained(freeze, seed=0, steps=60):
    """s003 after some steps on images of one bar each: the class is the bar's row."""
    network, loss, rng = s003(nn, rng=seed), nn.CrossEntropyLoss(), rng_of(seed)
    for layer in network:
        layer.frozen = freeze and isinstance(layer, nn.Conv2d)
    start = {name: array.copy() for name, array in network.state().items()}
    optimiser, losses = nn.Adam(network, 0.005), []
    for _ in range(steps):
        labels = rng.integers(0, 10, 20)
        images = 0.2 * rng.random((20, 1, 28, 28), np.float32)
        images[np.arange(20), 0, 2 + 2 * labels, 4:24] += 1
        losses.append(loss.forward(network.forward(images), labels))
        network.backward(loss.backward(), needs_input=False)
        optimiser.step()
    changed = {name for name, array in network.state().items() if not np.array_equal(array, start[name])}
    return changed, losses


def test_s003_frozen_filters_stay_and_trained_filters_learn_more():
    still, frozen_losses = trained(freeze=True)
    moved, trained_losses = trained(freeze=False)
    fully_connected = {f"{i}.{name}" for i in (7, 9) for name in ("weight", "bias")}
    filters = {f"{i}.{name}" for i in (0, 3) for name in ("weight", "bias")}
    assert still == fully_connected
    assert moved == fully_connected | filters
    assert frozen_losses[0] == trained_losses[0]
    assert frozen_losses[-1] < frozen_losses[0]
    assert trained_losses[-1] < frozen_losses[-1]


def test_s003_error_reaches_the_3x3_filters_from_the_49x49_layer():
    network, loss = s003(nn, rng=0, dtype="float64"), nn.CrossEntropyLoss()
    loss.forward(network.forward(rng_of(0).random((4, 1, 28, 28))), np.arange(4))
    network.backward(loss.backward(), needs_input=False)
    assert network[0].grad_weight.shape == (8, 1, 3, 3)
    assert network[3].grad_weight.shape == (1, 8, 3, 3)
    assert all(gradient.any() for gradient in network.gradients())


# --- the fifth: the weight gradient in matrix notation ------------------------------------------------------


def test_s004_shapes():
    assert shapes(s004(nn, rng=0), np.ones((1, 1, 28, 28), np.float32)) == [
        (1, 3, 26, 26),
        (1, 3, 26, 26),
        (1, 3, 13, 13),
        (1, 10, 10, 10),
        (1, 10, 10, 10),
        (1, 10, 5, 5),
        (1, 250),
        (1, 10),
    ]


@pytest.mark.parametrize("which", [0, 3], ids=["3 filters 1x3x3", "10 filters 3x4x4"])
def test_s004_weight_gradient_in_matrix_notation(which):
    """dW = dY @ col(X)^T, dX = col2im(W^T @ dY), with W as (K, C*R*S) and dY as (K, OH*OW)."""
    network, loss = s004(nn, rng=0, dtype="float64"), nn.CrossEntropyLoss()
    inputs = [rng_of(0).random((1, 1, 28, 28))]
    for layer in network:
        inputs.append(layer.forward(inputs[-1]))
    loss.forward(inputs[-1], np.array([3]))
    error = loss.backward()
    for layer in network.layers[:which:-1]:
        error = layer.backward(error)
    conv, x = network[which], inputs[which]
    grad_input = conv.backward(error)

    filters, *size = conv.weight.shape
    columns = fastconv.im2col(x, tuple(size[1:]))  # (1, C*R*S, OH*OW)
    np.testing.assert_array_equal(columns, ref_im2col(x, tuple(size[1:]), (1, 1), ((0, 0), (0, 0)), (1, 1)))
    w, dy = conv.weight.reshape(filters, -1), error.reshape(filters, -1)
    np.testing.assert_allclose(
        w @ columns[0] + conv.bias[:, None], inputs[which + 1].reshape(filters, -1), RTOL, ATOL
    )
    dw = dy @ columns[0].T  # (K, C*R*S) = (K, OH*OW) @ (OH*OW, C*R*S)
    np.testing.assert_allclose(conv.grad_weight.reshape(filters, -1), dw, RTOL, ATOL)
    dx = fastconv.col2im((w.T @ dy)[None], x.shape[2:], tuple(size[1:]))
    np.testing.assert_allclose(grad_input, dx, RTOL, ATOL)


def test_s004_pooling_passes_to_the_maximum_and_relu_to_the_positive():
    network = s004(nn, rng=0, dtype="float64")
    rectified = network[1].forward(network[0].forward(rng_of(0).random((1, 1, 28, 28))))
    network[2].forward(rectified)
    below = network[2].backward(np.ones((1, 3, 13, 13)))
    # one 1 in each 2x2 window, at its first maximum
    windows = below.reshape(1, 3, 13, 2, 13, 2)
    np.testing.assert_array_equal(windows.sum((3, 5)), np.ones((1, 3, 13, 13)))
    highest = rectified.reshape(1, 3, 13, 2, 13, 2).max((3, 5), keepdims=True)
    assert np.all((windows == 0) | (rectified.reshape(windows.shape) == highest))
    np.testing.assert_array_equal(network[1].backward(below), below * (rectified > 0))
