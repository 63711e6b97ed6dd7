"""Imports what the commands of `benchmarks.kills` import, once for all of their processes."""

from __future__ import annotations

import importlib

from criticalmass.extraction.models.optional_imports import import_after_torchvision

for _name in (
    "criticalmass.cli.main",
    "criticalmass.sweeps.sweep",
    "criticalmass.shrinking.shrink",
    "criticalmass.studies.study",
    "openvino",
    "sklearn.linear_model",
):
    importlib.import_module(_name)
import_after_torchvision("timm", "torch")
