"""The host libraries of the adapters' tests: skipped where they are missing, unless all are demanded.

`FASTCONV_HOSTS=onnx,keras` says which hosts must be there: their absence is then a failure, not a skip.
"""

import importlib
import os

import pytest

DEMANDED = tuple(filter(None, os.environ.get("FASTCONV_HOSTS", "").split(",")))


def host(name, through=None):
    """Import the module of a host library, or skip the test file that asks.

    `through` is the adapter's module, for a host that can't be imported without it: that is imported first.
    """
    if name.split(".")[0] in DEMANDED:
        importlib.import_module(through or name)
    else:
        pytest.importorskip(through or name, exc_type=ImportError)
    return importlib.import_module(name)
