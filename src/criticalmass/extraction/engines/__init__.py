"""What runs a frozen model: OpenVINO on the processor, torch on the GPU and as the fallback."""

from __future__ import annotations

from criticalmass.extraction.engines.base import PRECISIONS, Engine, Layer
from criticalmass.extraction.engines.openvino_engine import AGREEMENT, quiet_tracing
from criticalmass.extraction.engines.registry import ENGINES, inspect, make_engine
from criticalmass.extraction.engines.torch_engine import run_torch

__all__ = [
    "AGREEMENT",
    "ENGINES",
    "PRECISIONS",
    "Engine",
    "Layer",
    "inspect",
    "make_engine",
    "quiet_tracing",
    "run_torch",
]
