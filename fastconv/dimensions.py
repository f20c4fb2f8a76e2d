"""Functions for one, two and three spatial dimensions, the three of them from one description.

A description is a static method ``name_nd`` of a subclass of `Dimensions`. It is written for images, and its
code asks ``__class__`` for the number of dimensions:

    class Convolution(Dimensions[Layout]):
        @staticmethod
        def conv_nd(input: ArrayLike, *, layout: Layout = CHANNELS_FIRST) -> Array:
            ndim = __class__.ndim

    class _1d(Convolution[Layout1d], ndim=1): ...

    conv1d = _1d.conv_nd  # a function, conv1d(input: ArrayLike, *, layout: Layout1d = "NCW") -> Array

What a subclass with ``ndim`` has of a description is a copy of the function: the same code by the name of its
dimension, with that class as its ``__class__``, and with the layout, the annotations and the docstring of its
dimension. A call takes no step more. It is a class because a class can have a type variable put in: by that,
type checkers and editors know each copy's signature.
"""

from __future__ import annotations

import re
import sys
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from fastconv.geometry import LAYOUTS

if TYPE_CHECKING:
    __class__: type[Dimensions[Any]]  # every method knows this name; mypy does not

Layout = TypeVar("Layout", bound=str)
# The default of an argument ``layout``: each copy has its own there.
CHANNELS_FIRST: Any = None

# What docstrings say of images, and in its place of signals and of volumes.
_WORDS = {
    "NCHW": ("NCW", "NCDHW"),
    "NHWC": ("NWC", "NDHWC"),
    "H, W": ("W", "D, H, W"),
    "OH, OW": ("OW", "OD, OH, OW"),
    "oh, ow": ("ow", "od, oh, ow"),
    "ih, iw": ("iw", "id, ih, iw"),
    "h*W + w": ("w", "(d*H + h)*W + w"),
    "R, S": ("S", "T, R, S"),
    "r, s": ("s", "t, r, s"),
    "top, bottom, left, right": ("left, right", "front, back, top, bottom, left, right"),
    "of images": ("of signals", "of volumes"),
    "2d": ("1d", "3d"),
}
_OF_IMAGES = re.compile("|".join(rf"{re.escape(word)}(?![a-z])" for word in _WORDS))
# The end of a size of two equal extents.
_SQUARE = re.compile(r"\b(\d+), \1\)")
# The dimensions that a text names, as in conv2d.
_NAMED = re.compile("([123])d")


class Dimensions(Generic[Layout]):
    """Descriptions of functions; a subclass with ``ndim`` has the functions for so many dimensions."""

    ndim: ClassVar[int]

    def __init_subclass__(cls, ndim: int | None = None) -> None:
        super().__init_subclass__()
        if ndim is not None:
            cls.ndim = ndim
            for name, value in vars(cls.__base__).items():
                if isinstance(value, staticmethod):
                    setattr(cls, name, staticmethod(_copy(value.__func__, cls)))


def _copy(function: Any, owner: type[Dimensions[Any]]) -> FunctionType:
    """A description as the function of a dimension, ``owner``'s."""
    ndim = owner.ndim
    name = function.__name__.replace("_nd", f"{ndim}d")
    names = {"co_name": name} | ({"co_qualname": name} if sys.version_info >= (3, 11) else {})
    code = function.__code__.replace(**names)
    copy = FunctionType(code, function.__globals__, name, function.__defaults__, (CellType(owner),))
    copy.__qualname__ = name
    copy.__doc__ = described(function.__doc__, ndim)
    copy.__annotations__ = dict(function.__annotations__)
    copy.__kwdefaults__ = dict(function.__kwdefaults__ or {})
    if "layout" in copy.__kwdefaults__:
        copy.__annotations__["layout"] = f"Layout{ndim}d"
        copy.__kwdefaults__["layout"] = LAYOUTS[ndim][0]
    return copy


def described(doc: str | None, ndim: int) -> str | None:
    """A docstring for images as the one for arrays of ``ndim`` dimensions.

    A paragraph that names functions of another dimension is of that dimension alone: so are examples that
    are not the images' own in other words.
    """
    if doc is None:  # python -OO
        return None

    paragraphs = [(set(_NAMED.findall(paragraph)), paragraph) for paragraph in doc.split("\n\n")]
    has_own = any(names == {str(ndim)} for names, _ in paragraphs)
    kept = []
    for names, paragraph in paragraphs:
        is_example = ">>>" in paragraph
        if not names <= {"2"}:
            kept += [paragraph] if str(ndim) in names else []
        elif ndim == 2:
            kept.append(paragraph)
        elif not (is_example and names and has_own):
            text = _OF_IMAGES.sub(lambda found: _WORDS[found[0]][ndim > 1], paragraph)
            cube = ", ".join([r"\1"] * ndim) + ")"
            kept.append(_SQUARE.sub(cube, text) if is_example else text)
    return "\n\n".join(kept)
