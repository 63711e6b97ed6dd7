"""Plain torch: the engine of GPUs, the fallback, and in float32 what the others must agree with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.engines.base import Outputs
from criticalmass.extraction.models import FrozenModel, Tap
from criticalmass.extraction.models.preprocess import Batch

if TYPE_CHECKING:
    from criticalmass.extraction.models.wrappers import Tapped


class TorchEngine:
    """Plain torch, in float32 or with its products in bfloat16."""

    def __init__(
        self, model: FrozenModel, taps: Sequence[Tap], device: str, precision: str = "float32"
    ) -> None:
        self._tapped = tapped_model(model, taps)
        self._device = device
        self._precision = precision
        if model.modality == "image":
            import torch

            # Convolutions run faster so; the numbers stay as they are.
            model.module.to(memory_format=torch.channels_last)

    @property
    def info(self) -> Mapping[str, Any]:
        """Name, precision and device."""
        kind = self._device.partition(":")[0]
        return {"name": "torch", "precision": self._precision, "device": kind}

    @property
    def versions(self) -> Mapping[str, str]:
        """The version of torch."""
        return {"torch": version("torch")}

    def run(self, batches: Iterable[Batch], out: Outputs, done: Callable[[int], None]) -> None:
        """Run every batch in turn."""
        for rows, inputs in batches:
            outputs = torch_pass(self._tapped, inputs, self._device, self._precision)
            for tap, output in zip(self._tapped.taps, outputs, strict=True):
                out[tap.layer][rows] = output
            done(len(rows))


def run_torch(model: FrozenModel, layer: str, batch: NDArray[Any]) -> NDArray[np.float32]:
    """Run one input batch through torch: (n, n_neurons) of a layer, the reference of engines."""
    return torch_pass(tapped_model(model, [model.tap(layer)]), batch, device_of(model))[0]


def tapped_model(model: FrozenModel, taps: Sequence[Tap]) -> Tapped:
    """Make the module that gives the vectors of some taps."""
    from criticalmass.extraction.models.wrappers import Tapped

    return Tapped(model, taps).eval()


def device_of(model: FrozenModel) -> str:
    """Tell on which device a torch model is."""
    first = next(model.module.parameters(), None)
    return "cpu" if first is None else str(first.device)


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Keep a GPU from rounding float32 products to TensorFloat-32."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(allow_tf32=False), torch.inference_mode():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextlib.contextmanager
def first_run(model: FrozenModel) -> Iterator[None]:
    """Say in one line that a ready-made network does not take its input.

    Code of the user's own keeps its traceback.
    """
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        if model.spec.startswith("module:"):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CriticalMassError(
            f"{model.spec!r} does not run on its input ({reason}); try another px"
        ) from error


def torch_pass(
    tapped: Tapped, batch: NDArray[Any], device: str, precision: str = "float32"
) -> list[NDArray[np.float32]]:
    """Run one batch: of each tap (n, n_neurons).

    In ``"bf16"`` torch decides by operation: products in bfloat16, sums and norms in float32.
    """
    import torch

    kind = device.partition(":")[0]
    rounded = torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")
    with exact(), rounded:
        inputs = torch.from_numpy(np.ascontiguousarray(batch)).to(device)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return [output.float().cpu().numpy() for output in tapped(inputs)]
