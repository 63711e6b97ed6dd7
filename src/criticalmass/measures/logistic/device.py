"""Executors of passes over the rows, and the choice of the device on which they run.

The solver decides what to evaluate. An executor does the arithmetic that reads the rows. There are
three: numba kernels on the threads of this machine (`cpu_passes`), matrix products of torch on one
device (`torch_passes`), and workers that each hold a part of the rows (`distributed`).
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.compute import Compute
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError, missing_extra, unknown_name
from criticalmass.measures.logistic.lbfgs import Evaluation
from criticalmass.measures.logistic.preconditioner import FloatArray, Preconditioner
from criticalmass.measures.logistic.stacked_heads import StackedHeads
from criticalmass.measures.logistic.training_rows import OrderedRows
from criticalmass.measures.scaling import Scaling

DEVICES = ("auto", "cpu", "cuda", "torch-cpu")
# Files that a GPU driver creates: NVIDIA's on Linux, the one of WSL, and AMD's.
_DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


class Logits(Protocol):
    """Logits of stacked heads over all rows, without intercepts, stored where they were computed.

    Attributes
    ----------
    n: number of rows.
    """

    n: int

    def moments(self, i: int, b: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Sum head i's cross-entropies and its probabilities, (C,), in float64.

        Parameters
        ----------
        i: position in the stack.
        b: (C,) intercepts to add.
        """
        ...

    def square(self, i: int, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum p p' of head i over rows, (C, C), from float32 probabilities."""
        ...

    def to_residuals(self, i: int, b: NDArray[np.float64]) -> None:
        """Replace head i's logits by p - y, computed in float64 and rounded once."""
        ...

    def gradient(self) -> FloatArray:
        """Return the mean of residual times row, (n_heads * C, k).

        All heads' logits must be residuals.
        """
        ...


class PassExecutor(Protocol):
    """Makes passes over rows.

    Attributes
    ----------
    max_columns: number of stacked columns beyond which a pass becomes no more efficient.
    single_classes: number of classes from which on a pass takes one problem only.
    """

    max_columns: int
    single_classes: int

    def __enter__(self) -> Self:
        """Start threads and apply settings."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop threads and restore settings."""
        ...

    def each(self, work: Callable[[int], None], n: int) -> None:
        """Call ``work(i)`` for every i in ``range(n)``, in any order and possibly in parallel."""
        ...

    def make_preconditioner(self, moment: FloatArray) -> Preconditioner:
        """Return the preconditioner of a second moment, (k, k)."""
        ...

    def column_scaling(self, rows: Rows) -> Scaling:
        """Return means and scales of raw columns."""
        ...

    def second_moment(self, rows: Rows, scaling: Scaling) -> FloatArray:
        """Return the second moment of standardised columns, (d, d), for preconditioning."""
        ...

    def evaluate(
        self, rows: OrderedRows, heads: StackedHeads, with_square: NDArray[np.bool_]
    ) -> list[Evaluation]:
        """Make one pass and return loss and gradient of every head.

        Parameters
        ----------
        rows: in the order's columns.
        heads: the heads.
        with_square: (n_heads,) whether to return the mean of p p' as well.
        """
        ...

    def classify(self, rows: OrderedRows, heads: StackedHeads) -> NDArray[np.int32]:
        """Return the class of every row under every head, (n_heads, n)."""
        ...

    def logits(self, rows: OrderedRows, heads: StackedHeads) -> Logits:
        """Make one pass that stores the logits of all heads."""
        ...


def check_device(device: str) -> None:
    """Check the spelling of a device, not whether it exists.

    Raises
    ------
    CriticalMassError
        If there is no such kind of device.
    """
    kind, colon, _ = device.partition(":")
    if kind not in DEVICES or (colon and kind != "cuda"):
        raise unknown_name("device", device, DEVICES)
    if colon and not re.fullmatch(r"cuda:[0-9]+", device):
        raise CriticalMassError(f"device {device!r}; give 'cuda', or with a number: 'cuda:0'")


def find_device(device: str) -> str:
    """Resolve ``"auto"`` to an available device; check that any other device is available.

    Parameters
    ----------
    device: ``"auto"`` (a CUDA device if torch is installed and finds one, else ``"cpu"``),
        ``"cpu"`` (the compiled passes), ``"cuda"``, ``"cuda:1"``, or ``"torch-cpu"`` (the passes
        of a CUDA device, on the processor).

    Raises
    ------
    CriticalMassError
        If the device is unknown or not available.
    MissingExtraError
        If it needs torch, which is not installed.
    """
    check_device(device)
    if device == "auto":
        return "cuda" if _may_have_gpu() and _count_gpus() else "cpu"
    if device == "cpu":
        return device
    if importlib.util.find_spec("torch") is None:
        raise missing_extra("torch", "torch")
    if device.startswith("cuda"):
        n_gpus, number = _count_gpus(), int(device.partition(":")[2] or 0)
        if number >= n_gpus:
            raise CriticalMassError(
                f"device {device!r} is not available: torch finds {n_gpus} CUDA devices; "
                "use device='auto' or 'cpu'"
            )
    return device


def executor_for(compute: Compute) -> PassExecutor:
    """Return the executor of the passes, to be used in a ``with`` statement.

    This is ``compute.executor`` if there is one, which must be a `PassExecutor` too, or else the
    executor of ``compute.device``.
    """
    if compute.executor is not None:
        # The type of the core, which knows no passes, is wider than that of every executor.
        return cast(PassExecutor, compute.executor)
    available, threads = find_device(compute.device), compute.threads
    if available == "cpu":
        from criticalmass.measures.logistic.cpu_passes import CpuExecutor

        return CpuExecutor(threads)
    from criticalmass.measures.logistic.torch_passes import TorchExecutor

    return TorchExecutor("cpu" if available == "torch-cpu" else available, threads)


def _may_have_gpu(driver_files: Sequence[str] = _DRIVER_FILES) -> bool:
    """Return False if there is certainly no GPU, without importing torch.

    Importing torch takes seconds and hundreds of megabytes, too much for a machine without a GPU.
    A GPU needs its driver, and the driver is visible: as a device file, or on Windows as a
    library. If torch is imported already, asking it costs nothing.
    """
    if "torch" in sys.modules:
        return True
    if importlib.util.find_spec("torch") is None:
        return False
    if sys.platform == "win32":
        return ctypes.util.find_library("nvcuda") is not None
    return any(Path(name).exists() for name in driver_files)


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
