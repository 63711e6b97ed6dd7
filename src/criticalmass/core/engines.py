"""The registry of engines: what can have computed the features of a store.

The names are written into stores and runs. `criticalmass.extraction.engines.registry` makes the
engines; the page shows their labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class EngineEntry:
    """One engine.

    Attributes
    ----------
    label: its name as the page shows it.
    description: one line for the list of engines; "" for what extraction cannot use.
    """

    label: str
    description: str = ""


#: Name of an engine, as stores record it -> its entry.
ENGINE_ENTRIES: Mapping[str, EngineEntry] = MappingProxyType(
    {
        "openvino": EngineEntry(
            "OpenVINO", "OpenVINO on the CPU, compared with torch or ONNX Runtime before it is used"
        ),
        "torch": EngineEntry(
            "PyTorch", "torch on the CPU or a GPU; runs every model but ONNX graphs"
        ),
        "onnxruntime": EngineEntry("ONNX Runtime", "ONNX Runtime on the CPU; runs ONNX graphs"),
        "imported": EngineEntry("imported vectors"),
    }
)


def engine_label(name: str) -> str:
    """Return the name of an engine as the page shows it; an unknown name stays as it is."""
    return ENGINE_ENTRIES[name].label if name in ENGINE_ENTRIES else name
