"""What an engine is, and what a dry run finds out about a layer."""

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

Outputs = Mapping[str, NDArray[np.float32]]
# Runs one batch and gives each tap's vectors, (n, n_neurons): the numbers to agree with.
Reference = Callable[[NDArray[Any]], list[NDArray[np.float32]]]


class Engine(Protocol):
    """Runs batches and puts each layer's features where its rows belong."""

    @property
    def info(self) -> Mapping[str, Any]:
        """Name, precision and device, JSON-able."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """The version of each library that decides the numbers."""
        ...

    def run(self, batches: Iterable[Batch], out: Outputs, done: Callable[[int], None]) -> None:
        """Run every batch.

        Parameters
        ----------
        batches: (row numbers, input array).
        out: layer -> (n_samples, n_neurons), filled at the batches' rows.
        done: told how many rows each finished batch had.
        """
        ...


@dataclass(frozen=True)
class Layer:
    """What a dry run found out about a layer."""

    tap: Tap
    width: int
    pooling: str


def require_bf16(device: str) -> None:
    """Stop where a device has no bfloat16 arithmetic of its own.

    Parameters
    ----------
    device: ``"cpu"`` or ``"cuda"``, with or without a number.

    Raises
    ------
    CriticalMassError: it would have to imitate it, which is slower than float32.
    """
    import torch

    if device == "cpu":
        able = _processor_has_bf16()
    else:
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    if not able:
        raise CriticalMassError(
            f"precision='bf16' but {device!r} has no bfloat16 arithmetic; leave it at 'float32'"
        )


def _processor_has_bf16() -> bool:
    import torch

    if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)
