"""Putting functions into a host and taking them out, on a host made for the purpose."""

import contextlib
import sys
import types

import pytest

from fastconv.adapters import HostError
from fastconv.adapters.installation import Installation, counterpart, host_module, require_parameters


def make_host():
    host = types.SimpleNamespace(kept="kept", convolve="slow")

    class Layer:
        @staticmethod
        def forward():
            return "slow"

    host.Layer = Layer
    return host


def make_installation(host, modules):
    return Installation(
        lambda: [
            (host, "convolve", "fast"),
            (host, "added", "new"),
            (host.Layer, "forward", staticmethod(lambda: "fast")),
            (modules, "host.cython", host),
        ]
    )


def state(host, modules):
    return dict(vars(host)), dict(vars(host.Layer)), dict(modules)


def test_install_and_uninstall_leave_no_trace():
    host, modules = make_host(), {"sys": sys}
    installation = make_installation(host, modules)
    before = state(host, modules)
    assert not installation.is_installed
    for _ in range(2):
        installation.install()
        assert (host.convolve, host.added, host.Layer.forward()) == ("fast", "new", "fast")
        assert modules["host.cython"] is host
        assert installation.is_installed
        made = state(host, modules)
        installation.install()
        assert state(host, modules) == made
        installation.uninstall()
        assert state(host, modules) == before
        installation.uninstall()
        assert state(host, modules) == before


def test_what_another_has_changed_stays():
    host, modules = make_host(), {}
    installation = make_installation(host, modules)
    installation.install()
    host.convolve = "someone else's"
    installation.uninstall()
    assert host.convolve == "someone else's"
    assert not hasattr(host, "added")


@pytest.mark.parametrize("outer", [False, True])
def test_context_manager_restores(outer):
    host, modules = make_host(), {}
    installation = make_installation(host, modules)
    if outer:
        installation.install()
    before = state(host, modules)
    with contextlib.suppress(KeyError), installation.installed():
        assert host.convolve == "fast"
        raise KeyError
    assert state(host, modules) == before


def test_nothing_is_replaced_where_the_host_is_refused():
    host = make_host()

    def replacements():
        require_parameters(lambda a, b: None, "host.convolve", ["a", "b", "c"])
        return [(host, "convolve", "fast")]

    installation = Installation(replacements)
    with pytest.raises(HostError, match=r"host.convolve takes \(a, b\), .* knows \(a, b, c\)"):
        installation.install()
    assert host.convolve == "slow"
    assert not installation.is_installed


def test_what_is_put_first_is_there_while_the_rest_is_looked_up():
    modules, host = {}, make_host()

    def replacements():
        yield modules, "host.cython", "stand-in"
        assert modules["host.cython"] == "stand-in"
        yield host, "convolve", "fast"
        raise HostError("the last is refused")

    with pytest.raises(HostError, match="refused"):
        Installation(replacements).install()
    assert modules == {}
    assert host.convolve == "slow"


def slow(x):
    return "slow"


def fast(x):
    return "fast"


def module(monkeypatch, name, **names):
    """A loaded module with these global names."""
    made = types.ModuleType(name)
    vars(made).update(names)
    monkeypatch.setitem(sys.modules, name, made)
    return made


def test_functions_are_swapped_wherever_they_were_imported_to(monkeypatch):
    host = module(monkeypatch, "host_a", convolve=slow)
    user = module(monkeypatch, "user_a", conv=slow, alias=slow, fast=fast)
    installation = Installation(list, lambda: [(counterpart(host, "convolve", fast), fast)])
    for _ in range(2):
        installation.install()
        made = dict(vars(user))
        assert [f(0) for f in (host.convolve, user.conv, user.alias, user.fast)] == ["fast"] * 4
        installation.install()
        assert dict(vars(user)) == made
        late = module(monkeypatch, "late_a", convolve=host.convolve)
        changed = module(monkeypatch, "changed_a", convolve=host.convolve)
        changed.convolve = len
        installation.uninstall()
        assert host.convolve is user.conv is user.alias is late.convolve is slow
        assert user.fast is fast  # the user's own import of our function
        assert changed.convolve is len


def test_a_function_that_is_missing_or_takes_others_is_refused(monkeypatch):
    host = module(monkeypatch, "host_b", convolve=slow, constant=3)
    assert counterpart(host, "convolve", fast) is slow
    assert counterpart(host, "convolve", None) is slow
    for name in ("pool", "constant"):
        with pytest.raises(HostError, match=rf"host_b\.{name} is not there: another version"):
            counterpart(host, name, fast)
    with pytest.raises(HostError, match=r"host_b\.convolve takes \(x\), .* knows \(a, b\)"):
        counterpart(host, "convolve", lambda a, b: None)


def test_code_in_a_folder_is_asked_for():
    with pytest.raises(ImportError, match=r"no_such_code is not there; put the folder that holds"):
        host_module("no_such_code.layers", published=False)


def test_a_missing_host_is_named():
    with pytest.raises(ImportError, match=r"no_such_host is not there; pip install no_such_host"):
        host_module("no_such_host.functions")
    assert host_module("json.decoder") is sys.modules["json.decoder"]
