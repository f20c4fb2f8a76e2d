"""Putting functions into a host library, and taking them out again without a trace."""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

# Stands for "there was none".
_MISSING = object()

# Where something is put (an object with attributes, or a mapping), under which name, and what.
Replacement = tuple[Any, str, object]
# A function of the host, and what is called in its place.
Swap = tuple[Callable[..., Any], Callable[..., Any]]


class HostError(RuntimeError):
    """The host library is not one that the adapter was written for."""


def host_module(name: str, published: bool = True) -> ModuleType:
    """Import a module of a host library.

    Parameters
    ----------
    name : str
        Such as ``"dezero.functions_conv"``.
    published : bool
        Whether a package index has the host; False for code that lies in a folder.

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
        remedy = (
            f"pip install {library} brings it"
            if published
            else f"put the folder that holds {library} on sys.path"
        )
        raise ImportError(f"fastconv.adapters: {error.name} is not there; {remedy}") from error


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


def counterpart(owner: Any, name: str, ours: Callable[..., Any] | None) -> Callable[..., Any]:
    """The host's function (or class) that ``ours`` is to stand for.

    Parameters
    ----------
    owner : module or class
        Where the host defines it.
    name : str
    ours : callable or None
        Has the parameters that the host's must have; with None they are not looked at.

    Raises
    ------
    HostError
        If the host has no such function, or one with other parameters.
    """
    label = f"{owner.__name__}.{name}"
    found = vars(owner).get(name)
    if not callable(found):
        raise HostError(f"{label} is not there: another version of the library?")
    if ours is not None:
        require_parameters(found, label, list(inspect.signature(ours).parameters))
    return found


def rebind(swaps: Iterable[tuple[object, object]]) -> None:
    """Bind new objects to all global names, in all loaded modules, that now hold the old ones.

    Code that says ``from host import function`` has a name of its own for it, which no change in the host
    reaches. Modules of fastconv are left as they are: an adapter may keep the host's own to fall back on.
    """
    new_by_old = {id(old): (old, new) for old, new in swaps}
    if not new_by_old:
        return  # looking through the modules of a host takes milliseconds: 25 with Keras and JAX
    for module_name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and module_name.split(".")[0] != "fastconv":
            for name, value in list(vars(module).items()):
                if id(value) in new_by_old:
                    setattr(module, name, new_by_old[id(value)][1])


class Installation:
    """Replacements in a host that are made together and undone together.

    ``install`` twice is once, and ``uninstall`` restores what ``install`` found; a place that someone else
    has changed since is left as it is. All of it is safe to call from several threads.

    Parameters
    ----------
    replacements : callable
        Gives the places and what goes there; called by each ``install`` that is not yet made, so that
        importing an adapter changes nothing. Each is made before the next is asked for, so that a
        generator may look things up in a host that needs the first to be imported. If it raises, nothing
        stays replaced.
    swaps : callable, optional
        Gives pairs of a host's function and ours; called after all replacements are made. Ours is called
        wherever a module holds the host's by name, and in modules that are loaded later and take it from
        there, until ``uninstall``.
    """

    def __init__(
        self,
        replacements: Callable[[], Iterable[Replacement]],
        swaps: Callable[[], Iterable[Swap]] = tuple,
    ) -> None:
        self._replacements = replacements
        self._swaps = swaps
        self._lock = threading.RLock()
        # What stands in the host, and what stood there before; None where nothing is installed.
        self._made: list[tuple[Replacement, object]] | None = None
        self._swapped: list[Swap] = []

    @property
    def is_installed(self) -> bool:
        """Whether the replacements are in the host now."""
        return self._made is not None

    def install(self) -> None:
        """Make the replacements, if they are not made."""
        with self._lock:
            if self._made is None:
                self._made = []
                try:
                    for target, name, value in self._replacements():
                        self._made.append(((target, name, value), _current(target, name)))
                        _put(target, name, value)
                    self._swapped = [(host, _forwarding(ours)) for host, ours in self._swaps()]
                    rebind(self._swapped)
                except BaseException:
                    self.uninstall()
                    raise

    def uninstall(self) -> None:
        """Undo them, if they are made, last first."""
        with self._lock:
            rebind((ours, host) for host, ours in self._swapped)
            self._swapped = []
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


def _forwarding(ours: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls ``ours`` and is not it.

    So that undoing finds what was installed, and not what a program has itself imported from the adapter.
    """

    @wraps(ours)
    def call(*arguments: Any, **named: Any) -> Any:
        return ours(*arguments, **named)

    return call


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
