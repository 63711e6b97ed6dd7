"""Leave out a module of tests whose library is missing, without importing a large library."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def need(name: str, reason: str) -> None:
    """Skip the module that calls this if a library is not installed."""
    if find_spec(name) is None:
        pytest.skip(reason, allow_module_level=True)
