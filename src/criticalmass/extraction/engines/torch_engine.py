"""Plain torch: runs on GPUs, is the fallback on the CPU, and is the reference in float32."""

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
from criticalmass.extraction.models.frozen import error_reason
from criticalmass.extraction.models.preprocess import Batch

if TYPE_CHECKING:
    from criticalmass.extraction.models.wrappers import TappedModel


# What a user can try if a ready-made network does not run on its input.
_CURES = {
    "image": "try another px",
    "text": "shorten the texts, or use another model",
    "vector": "give vectors of the width that it takes",
    "tensor": "give the inputs that it takes, or the function that makes them, preprocess=",
}


class TorchEngine:
    """Plain torch, in float32 or with its products in bfloat16."""

    def __init__(
        self, model: FrozenModel, taps: Sequence[Tap], device: str, precision: str = "float32"
    ) -> None:
        self._model = model
        self._tapped = tapped_model(model, taps)
        self._device = device
        self._precision = precision
        if model.modality == "image" and model.live is None:
            import torch

            # Convolutions run faster in this layout, with the same results.
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

    def run(self, batches: Iterable[Batch], out: Outputs, on_done: Callable[[int], None]) -> None:
        """Run the batches one after the other."""
        for rows, inputs in batches:
            with explain_input_errors(self._model):
                outputs = torch_pass(self._tapped, inputs, self._device, self._precision)
            for tap, output in zip(self._tapped.taps, outputs, strict=True):
                out[tap.layer][rows] = output
            on_done(len(rows))


def run_torch(model: FrozenModel, layer: str, batch: NDArray[Any]) -> NDArray[np.float32]:
    """Compute one layer of one input batch with torch in float32, (n, n_neurons)."""
    return torch_pass(tapped_model(model, [model.tap(layer)]), batch, device_of(model))[0]


def tapped_model(model: FrozenModel, taps: Sequence[Tap]) -> TappedModel:
    """Make the module that returns the vectors of some taps."""
    from criticalmass.extraction.models.wrappers import TappedModel

    return TappedModel(model, taps).eval()


def device_of(model: FrozenModel) -> str:
    """Return the device that a torch model is on."""
    parameter = next(model.module.parameters(), None)
    return "cpu" if parameter is None else str(parameter.device)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Run in inference mode, with `exact_products`."""
    import torch

    with exact_products(), torch.inference_mode():
        yield


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Compute float32 products that a GPU does not round to TensorFloat-32."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextlib.contextmanager
def explain_input_errors(model: FrozenModel) -> Iterator[None]:
    """Turn the error of a ready-made network that rejects its input into one line.

    The user's own code (``module:``) keeps its traceback.

    Raises
    ------
    CriticalMassError: the network does not run on the input.
    """
    try:
        yield
    except CriticalMassError:
        raise
    except Exception as error:
        if model.spec.startswith("module:"):
            raise
        reason = error_reason(error)
        cure = _CURES[model.modality]
        if isinstance(error, MemoryError) or "out of memory" in reason.lower():
            cure = "use a smaller batch_size"
        raise CriticalMassError(
            f"{model.spec!r} does not run on its input ({reason}); {cure}"
        ) from error


def torch_pass(
    tapped: TappedModel, batch: NDArray[Any], device: str, precision: str = "float32"
) -> list[NDArray[np.float32]]:
    """Run one input batch.

    Parameters
    ----------
    tapped: module that returns the requested layers.
    batch: input batch.
    device: the device of the module.
    precision: one of ``PRECISIONS``. With ``"bf16"`` torch chooses per operation: products in
        bfloat16, sums and norms in float32.

    Returns
    -------
    The vectors of each tap, (n, n_neurons).
    """
    import torch

    from criticalmass.extraction.models.wrappers import as_tensors

    kind = device.partition(":")[0]
    autocast = torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")
    with exact_float32(), autocast:
        inputs = as_tensors(batch, device)
        if isinstance(inputs, torch.Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return [output.float().cpu().numpy() for output in tapped(inputs)]
