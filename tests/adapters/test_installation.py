"""Putting functions into a host and taking them out, on a host made for the purpose."""

import contextlib
import sys
import types

import pytest

from fastconv.adapters import HostError
from fastconv.adapters.installation import Installation, host_module, require_parameters


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


def test_a_missing_host_is_named():
    with pytest.raises(ImportError, match=r"no_such_host is not there; pip install 'fastconv\[nothing\]'"):
        host_module("no_such_host.functions", "nothing")
    assert host_module("json.decoder", "nothing") is sys.modules["json.decoder"]
