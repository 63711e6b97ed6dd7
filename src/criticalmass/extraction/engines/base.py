"""The interface of an engine, and what a dry run learns about a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models import Tap
from criticalmass.extraction.models.preprocess import Batch

PRECISIONS = ("float32", "bf16")

# Layer -> (n_samples, n_neurons).
Outputs = Mapping[str, NDArray[np.float32]]
# Runs one input batch; returns the vectors of each tap, (n, n_neurons), as the reference.
Reference = Callable[[NDArray[Any]], list[NDArray[np.float32]]]


class EngineError(CriticalMassError):
    """An engine cannot convert or run a model."""


class Engine(Protocol):
    """Runs batches and writes each layer's features to the rows of the batch."""

    @property
    def info(self) -> Mapping[str, Any]:
        """Name, precision and device, JSON-able."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """Library -> version, for each library that decides the numbers."""
        ...

    def run(self, batches: Iterable[Batch], out: Outputs, on_done: Callable[[int], None]) -> None:
        """Run every batch.

        Parameters
        ----------
        batches: (row indices, input array).
        out: layer -> (n_samples, n_neurons), filled at the rows of the batches.
        on_done: called with the number of rows of each finished batch.
        """
        ...


@dataclass(frozen=True)
class TappedLayer:
    """The result of a dry run for one layer.

    Attributes
    ----------
    tap: where the layer is read.
    width: number of neurons after pooling.
    pooling: description of the pooling.
    """

    tap: Tap
    width: int
    pooling: str


def require_bf16(device: str) -> None:
    """Raise unless a device has native bfloat16 arithmetic.

    Parameters
    ----------
    device: ``"cpu"`` or ``"cuda"``, with or without a number.

    Raises
    ------
    CriticalMassError: the device would emulate bfloat16, which is slower than float32.
    """
    import torch

    if device == "cpu":
        is_native = _cpu_has_bf16()
    else:
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    if not is_native:
        raise CriticalMassError(
            f"precision='bf16' but {device!r} has no bfloat16 arithmetic; use precision='float32'"
        )


def _cpu_has_bf16() -> bool:
    import torch

    if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(enabled for name, enabled in capabilities.items() if "bf16" in name)
