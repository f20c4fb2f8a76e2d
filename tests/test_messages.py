"""What the messages of wrong arguments say: one short line that names what would serve."""

import numpy as np
import pytest

import fastconv
from fastconv import nn


def raised(call, *arguments, **named):
    """The message that a call ends in, which is one short line."""
    with pytest.raises((ValueError, TypeError), match=r"^\S+ must be .+, got .+") as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    return message


# Of many values and no memory: to read them one by one takes hours.
IMAGES = np.broadcast_to(np.float32(7.25), (1024, 64, 1024, 1024))
WEIGHT = np.broadcast_to(np.float32(7.25), (64, 64, 3, 3))
SMALL, INDICES = np.ones((1, 1, 4, 4)), np.zeros((1, 1, 4, 4), np.int64)
KERNEL = np.ones((1, 1, 3, 3))

ARRAYS_FOR_SHAPES = {
    "conv2d_backward_input": ((SMALL, KERNEL, IMAGES), "pass input.shape"),
    "conv2d_backward_weight": ((SMALL, SMALL, WEIGHT), "pass weight.shape"),
    "plan_conv2d": ((IMAGES, WEIGHT), "pass input.shape"),
    "conv_matrix": ((KERNEL, IMAGES), "pass input.shape"),
    "im2col": ((SMALL, WEIGHT), "pass weight.shape[2:]"),
    "col2im": ((np.ones((1, 9, 4)), IMAGES, 3), "pass output.shape[2:]"),
    "max_pool2d": ((SMALL, WEIGHT), "pass weight.shape[2:]"),
    "max_pool2d_backward": ((SMALL, INDICES, IMAGES), "pass input.shape"),
    "max_unpool2d": ((SMALL, INDICES, 2, None, 0, IMAGES), "pass output.shape"),
    "avg_pool2d_backward": ((SMALL, IMAGES, 2), "pass input.shape"),
    "adaptive_avg_pool2d": ((SMALL, IMAGES), "pass output.shape[2:]"),
    "adaptive_avg_pool2d_backward": ((SMALL, IMAGES), "pass input.shape"),
    "adaptive_max_pool2d_backward": ((SMALL, INDICES, IMAGES), "pass input.shape"),
}


@pytest.mark.parametrize("name", ARRAYS_FOR_SHAPES)
def test_an_array_where_a_shape_is_wanted(name):
    arguments, advice = ARRAYS_FOR_SHAPES[name]
    message = raised(getattr(fastconv, name), *arguments)
    assert message.endswith(f"; {advice}")
    assert "7.25" not in message


def test_an_array_for_a_layer_s_kernel():
    assert raised(nn.Conv2d, 3, 4, WEIGHT).endswith("; pass weight.shape[2:]")


class Tensor:
    """An array of another library, whose repr takes its time."""

    shape = (1024, 64, 1024, 1024)
    dtype = "float32"

    def __repr__(self):
        raise AssertionError("the values were asked for")


def test_another_library_s_array_where_a_shape_is_wanted():
    message = raised(fastconv.conv2d_backward_input, SMALL, KERNEL, Tensor())
    assert "a Tensor of shape (1024, 64, 1024, 1024)" in message
    assert message.endswith("; pass input.shape")


@pytest.mark.parametrize("argument", ["stride", "padding", "dilation", "groups", "layout", "algorithm"])
@pytest.mark.parametrize(
    "value",
    [IMAGES, [IMAGES, IMAGES], Tensor(), [[IMAGES.shape] * 10**5] * 2, [[[[7.25] * 99] * 99] * 99] * 2],
    ids=["array", "list of arrays", "tensor", "list of lists", "nested list"],
)
def test_no_message_reads_an_array(argument, value):
    raised(fastconv.conv2d, SMALL, KERNEL, **{argument: value})


@pytest.mark.parametrize("value", [range(10**9), set(range(99)), b"7" * 10**6, "7" * 10**6, {7: "x" * 999}])
def test_no_message_shows_all_of_anything(value):
    raised(fastconv.conv2d_backward_input, SMALL, KERNEL, value)


def test_short_arrays_of_whole_numbers_are_sizes():
    dy = np.ones((1, 1, 2, 2))
    expected = fastconv.conv2d_backward_input(dy, KERNEL, SMALL.shape)
    for kind in (np.int64, np.uint8, ">i4"):
        size = np.array(SMALL.shape, kind)
        np.testing.assert_array_equal(fastconv.conv2d_backward_input(dy, KERNEL, size), expected)
    pairs = np.array([[1, 0], [0, 1]])
    assert fastconv.conv2d(SMALL, KERNEL, None, np.array([1, 2]), pairs).shape == (1, 1, 3, 2)
