"""Imports what programs usually import, once for all the processes that a server starts."""

from __future__ import annotations

import contextlib
import importlib

from criticalmass.errors import MissingExtraError
from criticalmass.extraction.models.optional_imports import import_after_torchvision

for _name in (
    "criticalmass.cli.main",
    "criticalmass.sweeps.sweep",
    "criticalmass.shrinking.shrink",
    "criticalmass.studies.study",
    "sklearn.linear_model",
):
    importlib.import_module(_name)
with contextlib.suppress(MissingExtraError):
    import_after_torchvision("timm", "torch")
with contextlib.suppress(ImportError):
    importlib.import_module("openvino")
