"""What an engine is, and what a dry run finds out about a layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from criticalmass.models import Tap
from criticalmass.models.preprocess import Batch

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


def cores() -> int:
    """Count the processor's cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
