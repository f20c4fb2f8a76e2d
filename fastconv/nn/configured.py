"""What layers, losses and optimisers share: their repr, and what of them is copied and pickled."""

from __future__ import annotations

import inspect
from textwrap import indent
from typing import Any, ClassVar

import numpy as np

# A longer call has one argument a line.
WIDTH = 100


class Configured:
    """An object that has an attribute for every argument it was made with.

    Its repr is the call with the attributes' values, without those that are the arguments' defaults and
    without ``rng``. What it has learned, ``frozen`` and ``training`` are not part of it.

    Copies and pickles of it are without what its last forward pass kept for `backward`.
    """

    # Attributes in which a forward pass keeps what `backward` needs; None before the first one.
    _kept_for_backward: ClassVar[tuple[str, ...]] = ()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | dict.fromkeys(self._kept_for_backward)

    def _argument(self, name: str, default: Any) -> Any:
        """What to pass for an argument to make an object like this one; its default where that does."""
        return getattr(self, name, ...)

    def __repr__(self) -> str:
        said: list[str] = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = parameter.default
            if name != "rng":
                value = _plain(self._argument(name, value))
            if parameter.kind is parameter.VAR_POSITIONAL:
                said += map(repr, value)
            elif parameter.default is parameter.empty:
                said.append(repr(value))
            elif value != parameter.default:
                said.append(f"{name}={value!r}")
        line = ", ".join(said)
        if "\n" in line or len(type(self).__name__) + len(line) + 2 > WIDTH:
            line = "\n" + indent("".join(f"{argument},\n" for argument in said), "    ")
        return f"{type(self).__name__}({line})"


def _plain(value: Any) -> Any:
    """Numbers and sequences as Python's own, which can be typed."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
