"""Where the passes over the rows are made: what the solver asks, and who can do it.

The solver keeps its decisions; a crew does the arithmetic that touches rows. There are two: the
compiled passes on the threads of this machine (`compiled`), and matrix products of torch on one
device (`torch_passes`).
"""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError, missing_extra, unknown_name
from criticalmass.measures.logistic.lbfgs import Evaluation
from criticalmass.measures.logistic.preconditioner import FloatArray, Whitening
from criticalmass.measures.logistic.stacked_heads import Stack
from criticalmass.measures.logistic.training_rows import OrderedRows
from criticalmass.measures.scaling import Scaling

DEVICES = ("auto", "cpu", "cuda", "torch-cpu")
# What a driver leaves in the file system: NVIDIA's on Linux, under Windows' Linux, and AMD's.
_DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


class Logits(Protocol):
    """Logits of a stack's heads over all rows, without intercepts, kept where they were made.

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
        """Return the mean of residual times row, (n_heads * C, k), once all are residuals."""
        ...


class Crew(Protocol):
    """Makes passes over rows.

    Attributes
    ----------
    most_columns: stacked columns beyond which a pass gains nothing more.
    single_classes: number of classes from which on one problem already fills a pass.
    """

    most_columns: int
    single_classes: int

    def __enter__(self) -> Self:
        """Get ready."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave everything as it was."""
        ...

    def each(self, work: Callable[[int], None], n: int) -> None:
        """Call ``work(i)`` for every i in ``range(n)``, in any order or at once."""
        ...

    def whitening(self, moment: FloatArray) -> Whitening:
        """Return the preconditioner of a second moment, (k, k)."""
        ...

    def scaling(self, rows: Rows) -> Scaling:
        """Return means and scales of raw columns."""
        ...

    def moment(self, rows: Rows, scaling: Scaling) -> FloatArray:
        """Return the second moment of standardised columns, (d, d), for preconditioning."""
        ...

    def evaluate(
        self, rows: OrderedRows, stack: Stack, wanted: NDArray[np.bool_]
    ) -> list[Evaluation]:
        """Make one pass and return what it found for every head of the stack.

        Parameters
        ----------
        rows: in the order's columns.
        stack: the heads.
        wanted: (n_heads,) whether to return the mean of p p' as well.
        """
        ...

    def classify(self, rows: OrderedRows, stack: Stack) -> NDArray[np.int32]:
        """Return the class of every row under every head, (n_heads, n)."""
        ...

    def logits(self, rows: OrderedRows, stack: Stack) -> Logits:
        """Make one pass that stores the logits of all heads."""
        ...


# The crew of a place that rows are spread over, while its work is done.
_LENT: ContextVar[Crew | None] = ContextVar("lent", default=None)


@contextlib.contextmanager
def lending(crew: Crew) -> Iterator[None]:
    """Have all passes made by a crew, whatever the device, until the end of the block."""
    token = _LENT.set(crew)
    try:
        yield
    finally:
        _LENT.reset(token)


def check_device(device: str) -> None:
    """Refuse a device by its spelling alone.

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
    """Turn ``"auto"`` into a device that is here, and check that any other one is.

    Parameters
    ----------
    device: ``"auto"`` (a CUDA device if torch is installed and finds one, else ``"cpu"``),
        ``"cpu"`` (the compiled passes), ``"cuda"``, ``"cuda:1"``, or ``"torch-cpu"`` (the passes
        of a CUDA device, on the processor).

    Raises
    ------
    CriticalMassError
        If the device is unknown or not here.
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
        there, number = _count_gpus(), int(device.partition(":")[2] or 0)
        if number >= there:
            raise CriticalMassError(
                f"device {device!r} is not here: torch finds {there} CUDA devices; "
                "use device='auto' or 'cpu'"
            )
    return device


def crew_for(device: str, threads: int | None = None) -> Crew:
    """Return the crew that works on a device, to be used in a ``with`` statement.

    Parameters
    ----------
    device: see `find_device`.
    threads: cores to use for what runs on the processor; all by default.
    """
    lent = _LENT.get()
    if lent is not None:
        return lent
    place = find_device(device)
    if place == "cpu":
        from criticalmass.measures.logistic.cpu_passes import Threads

        return Threads(threads) if threads else Threads()
    from criticalmass.measures.logistic.torch_passes import TorchCrew

    return TorchCrew("cpu" if place == "torch-cpu" else place, threads)


def _may_have_gpu() -> bool:
    """Tell cheaply whether it is worth asking torch.

    Importing torch takes seconds and hundreds of megabytes, which a machine without a GPU should
    not pay only to be told so. No GPU works without its driver, and the driver shows: as a device
    file, or on Windows as a library. If torch is loaded already, asking it costs nothing.
    """
    if "torch" in sys.modules:
        return True
    if importlib.util.find_spec("torch") is None:
        return False
    if sys.platform == "win32":
        return ctypes.util.find_library("nvcuda") is not None
    return any(Path(name).exists() for name in _DRIVER_FILES)


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
