"""Operands whose axes come in another order: what the error of a call says of them.

Arrays come from programs that put filters last or channels first; the wrong order mostly shows as channels
that do not fit, which says little. So an error looks for an order that does fit. Only errors do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter

from fastconv import advice
from fastconv.arguments import Array, Size, must_be_said, shaped
from fastconv.geometry import LAYOUTS, Geometry

# What the axes of images and of weights are; those of a transposed convolution's weights.
IMAGE_AXES, WEIGHT_AXES, TRANSPOSE_AXES = (
    ("batch N", "channels C"),
    ("filters K", "channels C/G"),
    ("channels C", "filters K/G"),
)
_EXTENTS, _IMAGE_LETTERS, _KERNEL_LETTERS = ("depth", "height", "width"), "DHW", "TRS"
# Changes that are made at once, of a layout, an input and a weight.
_MOST_CHANGES = 2

# What is passed instead, none for the array itself; and the shape that it has.
Change = tuple[str, Size]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a call as they came, right or wrong, of a batch or of one image.

    ``names`` are what the caller calls input and weight; ``bias`` and ``grad_output`` are arrays, or None
    where a call has none.
    """

    ndim: int
    names: tuple[str, str]
    input: Size
    weight: Size
    channels_last: bool
    groups: int
    bias: Array | None
    grad_output: Array | None
    transposed: bool = False


# The geometry of a batch and a weight in a layout (whether its channels are last), of so many groups.
Made = Callable[[Size, Size, bool, int], Geometry]


def refuse(sizes: Sizes, made: Made) -> None:
    """Raise the error of sizes that do not fit; it says what to pass instead, if anything helps."""
    try:
        _check(sizes, made)
    except ValueError as error:
        raise _with_advice(f"{error}", sizes, _ways(sizes, made)) from None


def _check(sizes: Sizes, made: Made) -> None:
    """Refuse sizes of which no plan is made."""
    ndim, (image, weight) = sizes.ndim, sizes.names
    if len(sizes.input) - ndim not in (1, 2):
        expected = f"{ndim + 2} or {ndim + 1}-dimensional (batched or not)"
        must_be_said(ValueError, image, expected, f"shape {sizes.input}")
    if len(sizes.weight) != ndim + 2:
        axes = "channels, filters" if sizes.transposed else "filters, channels"
        must_be_said(
            ValueError, weight, f"{ndim + 2}-dimensional ({axes} and kernel)", f"shape {sizes.weight}"
        )
    geometry = made(_batch(sizes, sizes.input), sizes.weight, sizes.channels_last, sizes.groups)
    if sizes.bias is not None:
        shaped("bias", sizes.bias, _bias(sizes, geometry))
    if sizes.grad_output is not None:
        shaped("grad_output", sizes.grad_output, _output(sizes, geometry, sizes.input))


def _with_advice(message: str, sizes: Sizes, ways: list[tuple[str, str, Size]]) -> ValueError:
    if not ways or "; pass " in message:
        return ValueError(message)
    text, name, shape = ways[0]
    if name == sizes.names[0]:
        axes, letters = IMAGE_AXES, _IMAGE_LETTERS
    else:
        axes, letters = TRANSPOSE_AXES if sizes.transposed else WEIGHT_AXES, _KERNEL_LETTERS
    order = _in_words(axes, letters, sizes.ndim, sizes.channels_last)
    came = name if f"{shape}" in message else f"{name}, of shape {shape},"
    message = f"{message}; the axes of {came} are {order}: pass {text}"
    if len(message) >= advice.LONGEST_MESSAGE:
        message = f"{name} must be {order}, got shape {shape}; pass {text}"
    for other, _, _ in ways[1:2]:
        if len(message) + len(f", or {other}") < advice.LONGEST_MESSAGE:
            message += f", or {other}"
    return ValueError(message)


def _ways(sizes: Sizes, made: Made) -> list[tuple[str, str, Size]]:
    """What to pass, and which operand that turns, with its shape: the likeliest ways first.

    Those with kernels of equal extents are likelier, then those with fewer changes; others are left out. A
    layout and a weight come before an input and a weight, which leaves the result in another layout.
    """
    # How unlikely, what to pass, the turned operand, and what comes of it.
    found: list[tuple[tuple[bool, int, bool], str, int, object]] = []
    shapes = sizes.input, sizes.weight
    for groups in _batch(sizes, sizes.input)[-1 if sizes.channels_last else 1 :][:1]:
        geometry = _fitting(sizes, made, sizes.input, sizes.weight, sizes.channels_last, max(1, groups))
        if geometry is not None:  # depthwise: the weight has one channel
            found.append(((_unlikely(geometry), 1, False), f"groups={groups}", 1, None))
    for last in (sizes.channels_last, not sizes.channels_last):
        layout = "" if last == sizes.channels_last else f'layout="{LAYOUTS[sizes.ndim][last]}"'
        for image_text, image in _changes(sizes.names[0], sizes.input, sizes.ndim, last, of_images=True):
            for weight_text, weight in _changes(sizes.names[1], sizes.weight, sizes.ndim, last):
                changes = [text for text in (layout, image_text, weight_text) if text]
                if not 1 <= len(changes) <= _MOST_CHANGES:
                    continue
                geometry = _fitting(sizes, made, image, weight, last, sizes.groups)
                if geometry is not None:
                    turned = 0 if layout or image_text else 1
                    rank = _unlikely(geometry), len(changes), bool(image_text and weight_text)
                    found.append((rank, " and ".join(changes), turned, (image, weight, last)))
    if not found:
        return []
    found.sort(key=itemgetter(0))
    # Of changes to the same shapes, the first.
    likely = {way[3]: way for way in reversed(found) if way[0][:2] == found[0][0][:2]}
    return [(text, sizes.names[turned], shapes[turned]) for _, text, turned, _ in reversed(likely.values())]


def _batch(sizes: Sizes, image: Size) -> Size:
    return image if len(image) == sizes.ndim + 2 else (1, *image)


def _bias(sizes: Sizes, geometry: Geometry) -> Size:
    return (geometry.channels if sizes.transposed else geometry.filters,)


def _output(sizes: Sizes, geometry: Geometry, image: Size) -> Size:
    whole = geometry.input_size if sizes.transposed else geometry.output_size
    return whole[sizes.ndim + 2 - len(image) :]


def _fitting(
    sizes: Sizes, made: Made, image: Size, weight: Size, channels_last: bool, groups: int
) -> Geometry | None:
    """The geometry of such operands, if it is one, has a result with cells, and suits the other arrays."""
    batch = _batch(sizes, image)
    if not len(batch) == len(weight) == sizes.ndim + 2:
        return None
    try:
        geometry = made(batch, weight, channels_last, groups)
    except ValueError:
        return None
    bias, dy = sizes.bias, sizes.grad_output
    suits = (bias is None or bias.ndim != 1 or bias.shape == _bias(sizes, geometry)) and (
        dy is None or dy.shape == _output(sizes, geometry, image)
    )
    return geometry if suits and not geometry.is_empty else None


def _unlikely(geometry: Geometry) -> bool:
    return len(set(geometry.kernel[3 - geometry.ndim :])) > 1


def _in_words(axes: tuple[str, str], letters: str, ndim: int, channels_last: bool) -> str:
    """An order of axes, such as (filters K, channels C/G, height R, width S)."""
    extents = [f"{extent} {letter}" for extent, letter in zip(_EXTENTS, letters, strict=True)][3 - ndim :]
    return f"({', '.join([axes[0], *extents, axes[1]] if channels_last else [*axes, *extents])})"


def _changes(
    name: str, shape: Size, ndim: int, channels_last: bool, of_images: bool = False
) -> Iterator[Change]:
    """An array of this shape in all orders of its axes, the given one first, or with axes that it lacks."""
    for text, new in _orders(shape, ndim, channels_last, of_images):
        if not text:
            yield "", new
        elif new != shape:
            yield (f"{name}={new}" if name.endswith("_size") else f"{name}{text}"), new


def _orders(shape: Size, ndim: int, channels_last: bool, of_images: bool) -> Iterator[Change]:
    if len(shape) == ndim + 2:
        yield "", shape
        for axes in advice.orders(ndim, channels_last, of_images):
            yield f".transpose{axes}", tuple(shape[axis] for axis in axes)
    if len(shape) == ndim + 1 and of_images:  # one image, or a batch of one channel
        yield "", shape
        axes = (*range(1, ndim + 1), 0) if channels_last else (ndim, *range(ndim))
        yield f".transpose{axes}", tuple(shape[axis] for axis in axes)
    if len(shape) == ndim + 1:
        yield ("[..., None]", (*shape, 1)) if channels_last else ("[:, None]", (shape[0], 1, *shape[1:]))
        if not of_images:
            yield "[None]", (1, *shape)
    if len(shape) == ndim:
        yield ("[None, ..., None]", (1, *shape, 1)) if channels_last else ("[None, None]", (1, 1, *shape))
