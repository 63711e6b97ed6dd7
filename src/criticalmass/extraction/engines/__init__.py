"""Engines that run a frozen model: OpenVINO on the CPU, torch on the GPU and as the fallback."""

from __future__ import annotations

from criticalmass.extraction.engines.base import PRECISIONS, Engine, EngineError, TappedLayer
from criticalmass.extraction.engines.openvino_engine import quiet_tracing
from criticalmass.extraction.engines.registry import (
    ENGINES,
    inspect_layers,
    make_engine,
    reference_name,
)
from criticalmass.extraction.engines.torch_engine import run_torch

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Engine",
    "EngineError",
    "TappedLayer",
    "inspect_layers",
    "make_engine",
    "quiet_tracing",
    "reference_name",
    "run_torch",
]
