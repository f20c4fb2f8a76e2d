"""What is timed: layers, suites of layers, and a case (an operation on a layer in a dtype and a layout)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `bench/gate.py` times commits with this module that are older than the names
    from fastconv.annotations import Layout2d

PASSES = ("forward", "backward_input", "backward_weight")
POOLING = ("max_pool", "max_pool_backward", "avg_pool", "avg_pool_backward")
# Whole training steps of the seed networks, and what a process pays before its first result.
STEPS = ("step",)
START = ("import", "first_call")
# A forward pass, timed right after a matrix product of NumPy, whose threads may still be awake.
COMPANY = ("after_product",)
OPERATIONS = (*PASSES, *POOLING, *STEPS, *START, *COMPANY)

DTYPES = ("float32", "float64")
LAYOUTS = ("NCHW", "NHWC")


class BenchError(Exception):
    """Something the user can put right; the command line prints it in one line."""


@dataclass(frozen=True)
class Layer:
    """A convolution layer, or a pooling layer (``c == k``, ``pool`` says which windows), by its sizes."""

    name: str
    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def output(self) -> tuple[int, int]:
        """Output height and width."""
        return tuple(
            (extent + 2 * self.pad - self.dilation * (kernel - 1) - 1) // self.stride + 1
            for extent, kernel in ((self.h, self.r), (self.w, self.s))
        )  # type: ignore[return-value]

    @property
    def words(self) -> str:
        """The sizes as they are read: ``64→128 3x3 stride 2, 56x56, batch 8``."""
        words = [f"{self.c}→{self.k}", f"{self.r}x{self.s}"]
        words += [f"{name} {n}" for name in ("stride", "dilation") if (n := getattr(self, name)) > 1]
        if self.groups > 1:
            words.append("depthwise" if self.groups == self.c else f"{self.groups} groups")
        return f"{' '.join(words)}, {self.h}x{self.w}, batch {self.n}"

    @property
    def flops(self) -> int:
        """Floating-point operations of one pass of a convolution; a multiply-add counts as two."""
        oh, ow = self.output
        return 2 * self.n * self.k * oh * ow * (self.c // self.groups) * self.r * self.s

    @property
    def cells(self) -> int:
        """Numbers that a pass of a convolution reads or writes at least once."""
        oh, ow = self.output
        weights = self.k * (self.c // self.groups) * self.r * self.s
        return self.n * (self.c * self.h * self.w + self.k * oh * ow) + weights


@dataclass(frozen=True)
class Case:
    """One thing to time."""

    operation: str
    layer: Layer
    dtype: str = "float32"
    layout: Layout2d = "NCHW"

    def to_json(self) -> dict[str, Any]:
        """As plain types, for another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Case:
        """The inverse of `to_json`."""
        return cls(**{**value, "layer": Layer(**value["layer"])})


# Pooling as networks use it (channels and planes of ResNet-50, VGG-16 and the seed networks).
POOLING_LAYERS = (
    Layer("pool_112_64_3s2", 8, 64, 112, 112, 64, 3, 3, 2, 1),
    Layer("pool_112_64_2s2", 8, 64, 112, 112, 64, 2, 2, 2),
    Layer("pool_56_256_2s2", 8, 256, 56, 56, 256, 2, 2, 2),
    Layer("pool_28_256_3s2", 8, 256, 28, 28, 256, 3, 3, 2, 1),
    Layer("pool_14_512_2s2", 8, 512, 14, 14, 512, 2, 2, 2),
    Layer("pool_24_3_2s2", 32, 3, 24, 24, 3, 2, 2, 2),
)
# Layers of a millisecond or less, which lose most where other threads have their cores.
COMPANY_LAYERS = (
    Layer("company_28_128-128_3", 8, 128, 28, 28, 128, 3, 3, 1, 1),
    Layer("company_56_64-64_1", 8, 64, 56, 56, 64, 1, 1),
    Layer("company_28_16-32_3", 32, 16, 28, 28, 32, 3, 3, 1, 1),
)
# The batch of a training step; the network's own sizes follow from its name.
STEP_LAYERS = tuple(
    Layer(name, n, 1, 28, 28, 10, 1, 1)
    for name, n in (("s000", 10), ("s002", 32), ("s003", 32), ("s004", 32))
)


def suite_names() -> list[str]:
    """The suites that come with the package."""
    return sorted(
        path.name.removesuffix(".json") for path in _folder().iterdir() if path.name.endswith(".json")
    )


def _folder() -> Any:
    return files("fastconv.bench") / "suites"


_SIZES = ("n", "c", "h", "w", "k", "r", "s", "stride", "pad", "dilation", "groups")
_OPTIONAL = {"stride": 1, "pad": 0, "dilation": 1, "groups": 1}


def load_suite(name: str) -> list[Layer]:
    """The layers of a suite: one of the package's own by name, or a JSON file.

    Raises
    ------
    BenchError
        If there is none of that name, or the file is not a list of layers.
    """
    if name in suite_names():
        return _layers(name, (_folder() / f"{name}.json").read_text(encoding="utf-8"))
    path = Path(name)
    if not path.is_file():
        raise BenchError(f"suite {name!r}: neither a file nor one of {', '.join(suite_names())}")
    try:
        return _layers(name, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{name}: {error}") from None


def _layers(name: str, text: str) -> list[Layer]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise BenchError(f"{name}: not JSON: {error}") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise BenchError(f"{name}: not a list of layers")
    return [_layer(f"{name}, layer {i}", row) for i, row in enumerate(rows)]


def _layer(where: str, row: dict[str, Any]) -> Layer:
    sizes = {**_OPTIONAL, **row}
    unknown = set(sizes) - {"name", *_SIZES}
    missing = [size for size in _SIZES if size not in sizes]
    if unknown or missing:
        raise BenchError(f"{where}: unknown {sorted(unknown)}, missing {missing}")
    for size in _SIZES:
        value = sizes[size]
        if type(value) is not int or value < (0 if size == "pad" else 1):
            raise BenchError(f"{where}: {size} must be a whole number, got {value!r}")
    layer = Layer(**{"name": where, **sizes})
    if layer.c % layer.groups or layer.k % layer.groups:
        raise BenchError(f"{where}: groups={layer.groups} must divide c={layer.c} and k={layer.k}")
    if min(layer.output) < 1:
        raise BenchError(f"{where}: the kernel is larger than the padded input")
    return layer


_SPELLING = re.compile(
    r"(?P<n>\d+)x(?P<c>\d+)x(?P<h>\d+)x(?P<w>\d+)-(?P<k>\d+)k(?P<r>\d+)x(?P<s>\d+)"
    r"(?:s(?P<stride>\d+))?(?:p(?P<pad>\d+))?(?:d(?P<dilation>\d+))?(?:g(?P<groups>\d+))?"
)


def parse_layer(text: str) -> Layer:
    """A layer as it is written on the command line: ``8x64x56x56-64k3x3s1p1d1g1``.

    Raises
    ------
    BenchError
        If it is written otherwise.
    """
    match = _SPELLING.fullmatch(text)
    if match is None:
        raise BenchError(
            f"layer {text!r}: write NxCxHxW-KkRxS, then maybe sSTRIDE pPAD dDILATION gGROUPS, "
            "as in 8x64x56x56-64k3x3p1"
        )
    sizes = {size: int(value) for size, value in match.groupdict().items() if value is not None}
    return replace(_layer(text, sizes), name=text)


def named_layers(what: str) -> list[Layer]:
    """The layers behind one word of the command line: those of a suite or a file, or one that is written.

    Raises
    ------
    BenchError
        If it is none of these.
    """
    written = what not in suite_names() and not Path(what).is_file() and what[:1].isdigit()
    return [parse_layer(what)] if written else load_suite(what)


def cases(operations: Sequence[str], layers: Sequence[Layer], dtype: str, layout: Layout2d) -> list[Case]:
    """Every operation on every layer, layer by layer."""
    return [Case(operation, layer, dtype, layout) for layer in layers for operation in operations]
