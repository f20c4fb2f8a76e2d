"""Putting functions into a host library, and taking them out again without a trace."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

# Stands for "there was none".
_MISSING = object()

# Where something is put (an object with attributes, or a mapping), under which name, and what.
Replacement = tuple[Any, str, object]


class HostError(RuntimeError):
    """The host library is not one that the adapter was written for."""


def host_module(name: str, extra: str) -> ModuleType:
    """Import a module of a host library.

    Parameters
    ----------
    name : str
        Such as ``"dezero.functions_conv"``.
    extra : str
        The extra of fastconv that brings the host, named in the error.

    Raises
    ------
    ImportError
        If there is no such module.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        library = name.split(".")[0]
        if error.name is None or error.name.split(".")[0] != library:
            raise
        raise ImportError(
            f"fastconv.adapters: {error.name} is not there; pip install 'fastconv[{extra}]' brings {library}"
        ) from error


def require_parameters(function: Callable[..., Any], label: str, parameters: Sequence[str]) -> None:
    """Refuse a host whose function does not take ``parameters``, in this order.

    Parameters
    ----------
    function : callable
        The host's own.
    label : str
        How the error names it.
    parameters : sequence of str

    Raises
    ------
    HostError
        If the names or their order differ.
    """
    found = list(inspect.signature(function).parameters)
    if found != list(parameters):
        raise HostError(
            f"{label} takes ({', '.join(found)}), and fastconv's adapter knows ({', '.join(parameters)}): "
            "another version of the library?"
        )


class Installation:
    """Replacements in a host that are made together and undone together.

    ``install`` twice is once, and ``uninstall`` restores what ``install`` found; a place that someone else
    has changed since is left as it is. All of it is safe to call from several threads.

    Parameters
    ----------
    replacements : callable
        Gives the places and what goes there; called by each ``install`` that is not yet made, so that
        importing an adapter changes nothing. If it raises, nothing is replaced.
    """

    def __init__(self, replacements: Callable[[], Sequence[Replacement]]) -> None:
        self._replacements = replacements
        self._lock = threading.RLock()
        # What stands in the host, and what stood there before; None where nothing is installed.
        self._made: list[tuple[Replacement, object]] | None = None

    @property
    def is_installed(self) -> bool:
        """Whether the replacements are in the host now."""
        return self._made is not None

    def install(self) -> None:
        """Make the replacements, if they are not made."""
        with self._lock:
            if self._made is None:
                wanted = self._replacements()
                self._made = [(made, _current(made[0], made[1])) for made in wanted]
                for target, name, value in wanted:
                    _put(target, name, value)

    def uninstall(self) -> None:
        """Undo them, if they are made, last first."""
        with self._lock:
            for (target, name, value), before in reversed(self._made or []):
                if _current(target, name) is value:
                    _put(target, name, before)
            self._made = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have them made inside a ``with`` block, and afterwards as it was before."""
        with self._lock:
            before = self.is_installed
            self.install()
        try:
            yield
        finally:
            if not before:
                self.uninstall()


def _current(target: Any, name: str) -> object:
    """What the target itself holds: a class's own attribute, not its parents' nor what a descriptor makes."""
    holder = target if isinstance(target, MutableMapping) else vars(target)
    return holder.get(name, _MISSING)


def _put(target: Any, name: str, value: object) -> None:
    if isinstance(target, MutableMapping):
        if value is _MISSING:
            del target[name]
        else:
            target[name] = value
    elif value is _MISSING:
        delattr(target, name)
    else:
        setattr(target, name, value)
