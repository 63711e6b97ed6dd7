"""Engines that run a frozen model: OpenVINO on the CPU, torch on the GPU and as the fallback."""

from __future__ import annotations

from criticalmass.extraction.engines.base import PRECISIONS, Engine, TappedLayer
from criticalmass.extraction.engines.openvino_engine import quiet_tracing
from criticalmass.extraction.engines.registry import ENGINES, inspect_layers, make_engine
from criticalmass.extraction.engines.torch_engine import run_torch

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Engine",
    "TappedLayer",
    "inspect_layers",
    "make_engine",
    "quiet_tracing",
    "run_torch",
]
