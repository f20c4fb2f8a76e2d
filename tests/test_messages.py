"""What the messages of wrong arguments say: one short line that names what would serve."""

import re

import numpy as np
import pytest
from helpers import FIRST, LAST, function, integers, to_layout
from hypothesis import given
from hypothesis import strategies as st
from strategies import conv_problems, examples, transpose_problems

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


# --- arrays in another order -----------------------------------------------------------------------------


def changed(arguments, advice):
    """The arguments with what a message advises, such as ``input[None] and layout="NHWC"``."""
    arguments = dict(arguments)
    for change in advice.split(" and "):
        name = re.match(r"\w+", change)[0]
        said = change.split("=", 1)[1] if "=" in change else change
        arguments[name] = eval(said, dict(arguments))
    return arguments


def advised(message):
    """What a message says to pass: one thing or two."""
    return re.search(r"[:;] pass (.+)$", message)[1].split(", or ")


def shape(*extents):
    return np.zeros(extents, np.float32)


IMAGES_FIRST, IMAGES_LAST = shape(2, 3, 12, 11), shape(2, 12, 11, 3)
RSCK, KCRS, KRSC = shape(5, 5, 3, 7), shape(7, 3, 5, 5), shape(7, 5, 5, 3)
OUTPUTS_FIRST, OUTPUTS_LAST = shape(2, 7, 8, 7), shape(2, 8, 7, 7)
# A function, its arguments, and what the error says to pass.
ORDERS = {
    "TensorFlow's filters": ("conv2d", (IMAGES_FIRST, RSCK), ["weight.transpose(3, 2, 0, 1)"]),
    "with a bias": ("conv2d", (IMAGES_FIRST, RSCK, shape(7)), ["weight.transpose(3, 2, 0, 1)"]),
    "by the bias alone": (
        "conv2d",
        (IMAGES_FIRST, shape(3, 3, 3, 7), shape(7)),
        ["weight.transpose(3, 2, 0, 1)"],
    ),
    "by the gradient alone": (
        "conv2d_backward",
        (shape(2, 7, 10, 9), IMAGES_FIRST, shape(3, 3, 3, 7)),
        ["weight.transpose(3, 2, 0, 1)"],
    ),
    "filters (C, R, S, K)": ("conv2d", (IMAGES_FIRST, shape(3, 5, 5, 7)), ["weight.transpose(3, 0, 1, 2)"]),
    "filters and channels exchanged": (
        "conv2d",
        (shape(10, 6, 8, 8), shape(6, 3, 5, 5), None, 1, "full"),
        ["weight.transpose(1, 0, 2, 3)"],
    ),
    "images last": ("conv2d", (IMAGES_LAST, KCRS), ["input.transpose(0, 3, 1, 2)"]),
    "both last": ("conv2d", (IMAGES_LAST, KRSC), ['layout="NHWC"']),
    "last, and it can't be told": (
        "conv2d",
        (IMAGES_LAST, shape(7, 3, 3, 3)),
        ["input.transpose(0, 3, 1, 2)", 'layout="NHWC"'],
    ),
    "images last, TensorFlow's filters": (
        "conv2d",
        (IMAGES_LAST, shape(3, 3, 3, 7)),
        [
            'layout="NHWC" and weight.transpose(3, 0, 1, 2)',
            "input.transpose(0, 3, 1, 2) and weight.transpose(3, 2, 0, 1)",
        ],
    ),
    "images (H, W, C, N)": ("conv2d", (shape(12, 11, 3, 2), KCRS), ["input.transpose(3, 2, 0, 1)"]),
    "one image (H, W, C)": ("conv2d", (IMAGES_LAST[0], KCRS), ["input.transpose(2, 0, 1)"]),
    "one plane": ("conv2d", (shape(12, 11), shape(7, 1, 3, 3)), ["input[None, None]"]),
    "a plane and a kernel": (
        "conv2d",
        (shape(12, 11), shape(3, 3)),
        ["input[None, None] and weight[None, None]"],
    ),
    "a batch of planes": ("conv2d", (shape(4, 12, 11), shape(7, 1, 3, 3)), ["input[:, None]"]),
    "filters of one channel": ("conv2d", (shape(4, 1, 12, 11), shape(7, 3, 3)), ["weight[:, None]"]),
    "groups": (
        "conv2d",
        (shape(1, 6, 8, 8), shape(6, 1, 3, 3)),
        ["groups=6", "weight.transpose(1, 0, 2, 3)"],
    ),
    "transposed": (
        "conv_transpose2d",
        (OUTPUTS_FIRST, shape(3, 7, 5, 5)),
        ["weight.transpose(1, 0, 2, 3)"],
    ),
    "transposed, Keras's filters": (
        "conv_transpose2d",
        (OUTPUTS_FIRST, shape(5, 5, 3, 7)),
        ["weight.transpose(3, 2, 0, 1)"],
    ),
    "gradient": (
        "conv2d_backward",
        (OUTPUTS_LAST, IMAGES_FIRST, KCRS),
        ["grad_output.transpose(0, 3, 1, 2)"],
    ),
    "input_size": (
        "conv2d_backward_input",
        (OUTPUTS_FIRST, KCRS, IMAGES_LAST.shape),
        ["input_size=(2, 3, 12, 11)"],
    ),
    "weight_size": (
        "conv2d_backward_weight",
        (OUTPUTS_FIRST, IMAGES_FIRST, RSCK.shape),
        ["weight_size=(7, 3, 5, 5)"],
    ),
    "plan": ("plan_conv2d", (IMAGES_FIRST.shape, RSCK.shape), ["weight_size=(7, 3, 5, 5)"]),
    "bias (F, 1)": ("conv2d", (IMAGES_FIRST, KCRS, shape(7, 1)), ["bias.ravel()"]),
    "a plane to pool": ("max_pool2d", (shape(12, 11), 2), ["input[None]"]),
    "a plane of columns": ("im2col", (shape(12, 11), 2), ["input[None]"]),
    "filters (K, S, C) or (S, K, C)": (
        "conv1d",
        (shape(2, 6, 12), shape(5, 7, 6)),
        ["weight.transpose(0, 2, 1)", "weight.transpose(1, 2, 0)"],
    ),
}
PARAMETERS = {
    "conv2d": ("input", "weight", "bias", "stride", "padding"),
    "conv1d": ("input", "weight"),
    "conv2d_backward": ("grad_output", "input", "weight"),
    "conv2d_backward_input": ("grad_output", "weight", "input_size"),
    "conv2d_backward_weight": ("grad_output", "input", "weight_size"),
    "conv_transpose2d": ("input", "weight"),
    "plan_conv2d": ("input_size", "weight_size"),
    "max_pool2d": ("input", "kernel_size"),
    "im2col": ("input", "kernel_size"),
}


@pytest.mark.parametrize("case", ORDERS)
def test_the_order_of_axes_that_fits(case):
    """It is named, with the shape that came and the axes that are wanted, and the call works with it."""
    name, values, expected = ORDERS[case]
    arguments = dict(zip(PARAMETERS[name], values, strict=False))
    message = raised(getattr(fastconv, name), **arguments)
    assert advised(message) == expected
    for advice in expected:
        getattr(fastconv, name)(**changed(arguments, advice))


@pytest.mark.parametrize(
    ("ndim", "layout", "axes"),
    [
        (1, "NWC", "(filters K, width S, channels C/G)"),
        (2, "NCHW", "(filters K, channels C/G, height R, width S)"),
        (2, "NHWC", "(filters K, height R, width S, channels C/G)"),
        (3, "NDHWC", "(filters K, depth T, height R, width S, channels C/G)"),
    ],
)
def test_the_wanted_axes_are_named(ndim, layout, axes):
    weight = shape(*(3, 3, 3)[:ndim], 5, 7)
    images = to_layout(shape(2, 5, *(8, 8, 8)[:ndim]), layout)
    message = raised(function("conv{}", ndim), images, weight, layout=layout)
    assert f"{weight.shape}" in message
    assert f"the axes of weight are {axes}: pass weight.transpose(" in message


def test_the_axes_of_an_image_are_named():
    message = raised(fastconv.conv2d, IMAGES_LAST, KCRS)
    assert "of shape (2, 12, 11, 3), are (batch N, channels C, height H, width W): pass" in message
    message = raised(fastconv.conv_transpose2d, OUTPUTS_FIRST, shape(3, 7, 5, 5))
    assert "the axes of weight are (channels C, filters K/G, height R, width S): pass" in message


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("conv2d", {"input": shape(1, 3, 8, 8), "weight": shape(16, 3, 11, 11)}),  # merely too large
        ("conv2d", {"input": shape(12, 11), "weight": shape(7, 3, 3, 3)}),  # colours that are not there
        ("conv2d", {"input": shape(2, 4, 8, 8), "weight": shape(6, 5, 3, 3)}),
        ("conv2d", {"input": IMAGES_FIRST, "weight": KCRS, "algorithm": "fft"}),
        ("conv2d", {"input": IMAGES_FIRST, "weight": KCRS, "bias": shape(6)}),
        ("conv2d_backward", {"grad_output": shape(2, 7, 8, 6), "input": IMAGES_FIRST, "weight": KCRS}),
    ],
)
def test_no_advice_that_does_not_help(name, arguments):
    assert "pass " not in raised(getattr(fastconv, name), **arguments)


@given(conv_problems() | transpose_problems(), st.data())
@examples(150)
def test_whatever_is_advised_works(p, data):
    """Of a good call with its arrays' axes in any order."""
    name = "conv_transpose{}" if hasattr(p, "output_padding") else "conv{}"
    layout = (FIRST, LAST)[data.draw(st.integers(0, 1))][p.ndim]
    orders = st.permutations(range(p.ndim + 2))
    arguments = {
        **p.arguments,
        "layout": layout,
        "input": p.x.transpose(data.draw(orders)),
        "weight": p.w.transpose(data.draw(orders)),
        "bias": p.bias,
    }
    try:
        function(name, p.ndim)(**arguments)
    except ValueError as error:
        message = str(error)
        assert len(message) < 300
        if re.search("[:;] pass ", message):
            for advice in advised(message):
                function(name, p.ndim)(**changed(arguments, advice))


# --- arrays that are none, and names ---------------------------------------------------------------------


class Gradient:
    """A tensor of PyTorch that NumPy does not read."""

    shape, dtype = (1, 1, 4, 4), "torch.float32"

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __array__(self, *arguments, **named):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def __repr__(self):
        raise AssertionError("the values were asked for")


def test_a_tensor_that_requires_grad():
    message = raised(fastconv.conv2d, Gradient(requires_grad=True), KERNEL)
    assert message.endswith(
        "got a Gradient of shape (1, 1, 4, 4) and dtype torch.float32; pass input.detach()"
    )
    message = raised(fastconv.conv2d, SMALL, Gradient(requires_grad=True, is_cuda=True))
    assert message.endswith("; pass weight.detach().cpu()")
    assert raised(nn.ReLU().forward, Gradient(requires_grad=True)).endswith("; pass x.detach()")
    assert "pass" not in raised(fastconv.conv2d, Gradient(), KERNEL)


@pytest.mark.parametrize(
    ("value", "end"),
    [
        (None, "got None"),
        ("cat.png", "got 'cat.png'; a file is to be read before, for instance by np.load"),
        (np.zeros((1, 1, 4, 4), object), "got dtype object"),
        (np.zeros((1, 1, 4, 4), "M8[s]"), "got dtype datetime64[s]"),
        ([[1, 2], [3]], "got [[1, 2], [3]]"),
        (np.ones((1, 1, 4, 4), int), "got dtype int64; convert it with input.astype('float64')"),
        ([[[[1, 2], [3, 4]]]], "got dtype int64; convert it with np.asarray(input, 'float64')"),
        (SMALL.astype(np.uint8), "got dtype uint8; convert it with input.astype('float32')"),
        (SMALL.astype(np.longdouble), f"{np.dtype('g')}; convert it with input.astype('float64')"),
    ],
)
def test_what_is_no_array_of_floats(value, end):
    """Advice is given where it can be followed."""
    assert raised(fastconv.im2col, value, 2).endswith(end)
    if "convert it with " in end:
        fastconv.im2col(eval(end.split("convert it with ")[1], {"np": np, "input": value}), 2)


@pytest.mark.parametrize("stride", [2, (2, 2), [1, 2], np.int64(2)])
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_a_stride_in_the_place_of_the_bias(name, stride):
    kernel = integers(np.random.default_rng(0), (2, 2, 3, 3))  # a bias of two would fit
    message = raised(getattr(fastconv, name), np.ones((1, 2, 4, 4)), kernel, stride)
    written = tuple(stride) if isinstance(stride, (tuple, list)) else 2
    assert message.endswith(f"; stride is the 4th argument: write stride={written}")


def test_one_hot_targets():
    targets = np.eye(4, dtype=np.float32)
    loss = nn.CrossEntropyLoss()
    for one_hot in (targets, targets.astype(int)):
        message = raised(loss.forward, np.zeros((4, 4), np.float32), one_hot)
        assert message.endswith("; pass targets.argmax(1)")
        assert loss.forward(np.zeros((4, 4), np.float32), one_hot.argmax(1)) > 0


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        ({"padding": "smae"}, "same"),
        ({"padding": "VALD"}, "valid"),
        ({"layout": "nhwc"}, "NHWC"),
        ({"layout": "NCWH"}, "NCHW"),
        ({"algorithm": "winogard"}, "winograd"),
        ({"algorithm": "Im2Col"}, "im2col"),
    ],
)
def test_the_nearest_name(arguments, nearest):
    assert raised(fastconv.conv2d, SMALL, KERNEL, **arguments).endswith(f"; did you mean '{nearest}'?")


def test_the_nearest_of_needs():
    message = raised(fastconv.conv2d_backward, SMALL, SMALL, KERNEL, needs=("input", "wieght"))
    assert message.endswith("; did you mean 'weight'?")
    assert "did you mean" not in raised(
        fastconv.conv2d_backward, SMALL, SMALL, KERNEL, needs=("input", np.zeros((1, 0)))
    )


def test_names_that_are_near_nothing():
    for value in ("zzz", "", "same" * 10**6):
        assert "did you mean" not in raised(fastconv.conv2d, SMALL, KERNEL, padding=value)
