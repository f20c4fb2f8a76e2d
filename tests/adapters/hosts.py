"""The host libraries of the adapters' tests: skipped where they are missing, unless all are demanded.

`FASTCONV_HOSTS=onnx,keras` says which hosts must be there: their absence is then a failure, not a skip.
"""

import importlib
import os

import pytest

DEMANDED = tuple(filter(None, os.environ.get("FASTCONV_HOSTS", "").split(",")))


def host(name):
    """Import the module of a host library, or skip the test file that asks."""
    if name.split(".")[0] in DEMANDED:
        return importlib.import_module(name)
    return pytest.importorskip(name)
