"""What runs a frozen model: OpenVINO on the processor, torch on the GPU and as the fallback."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError, missing_extra, unknown_name
from criticalmass.models import FrozenModel, Tap
from criticalmass.models.preprocess import Batch
from criticalmass.progress import notice

if TYPE_CHECKING:
    from criticalmass.models.wrappers import Tapped

ENGINES = ("auto", "openvino", "torch")
# Largest difference from torch's float32 features, relative to the largest of them, that an
# engine may show on the check batch.
AGREEMENT = 1e-4
_REQUESTS_A_STREAM = 2

Outputs = Mapping[str, NDArray[np.float32]]


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


def inspect(model: FrozenModel, layers: Sequence[str], batch: NDArray[Any]) -> list[Layer]:
    """Run a few samples through torch to learn each layer's width and how it is pooled.

    Raises
    ------
    CriticalMassError: a layer that is not there, or whose output cannot be read.
    """
    tapped = _tapped(model, [model.tap(layer) for layer in layers])
    outputs = _torch_pass(tapped, batch, _device(model))
    return [
        Layer(tap, output.shape[1], tapped.pooling[tap.layer])
        for tap, output in zip(tapped.taps, outputs, strict=True)
    ]


def run_torch(model: FrozenModel, layer: str, batch: NDArray[Any]) -> NDArray[np.float32]:
    """Run one input batch through torch: (n, n_neurons) of a layer, the reference of engines."""
    return _torch_pass(_tapped(model, [model.tap(layer)]), batch, _device(model))[0]


def make_engine(
    name: str, model: FrozenModel, taps: Sequence[Tap], samples: Sequence[NDArray[Any]]
) -> Engine:
    """Make the engine that was asked for.

    Parameters
    ----------
    name: ``"auto"`` is torch on a GPU; on the processor OpenVINO, and torch, with a line that
        says why, where OpenVINO is missing or does not do.
    model: on the device where it is to run.
    taps: where to read.
    samples: input batches; the engine is converted with the first and compared with torch on all.

    Raises
    ------
    CriticalMassError: an unknown engine, or OpenVINO was asked for by name and does not do.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    device = _device(model)
    if name == "openvino" and device != "cpu":
        raise CriticalMassError(f"engine 'openvino' runs on the processor, not on {device!r}")
    if name == "torch" or device != "cpu":
        return TorchEngine(model, taps, device)
    try:
        return OpenVinoEngine(model, taps, samples)
    except CriticalMassError as error:
        if name == "openvino":
            raise
        notice(f"{error}; features are computed with torch, which is slower")
        return TorchEngine(model, taps, device)


class TorchEngine:
    """Plain torch in float32."""

    def __init__(self, model: FrozenModel, taps: Sequence[Tap], device: str) -> None:
        self._tapped = _tapped(model, taps)
        self._device = device
        if model.modality == "image":
            import torch

            # Convolutions run faster so; the numbers stay as they are.
            model.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def info(self) -> Mapping[str, Any]:
        """Name, precision and device."""
        return {"name": "torch", "precision": "float32", "device": self._device.partition(":")[0]}

    @property
    def versions(self) -> Mapping[str, str]:
        """The version of torch."""
        return {"torch": version("torch")}

    def run(self, batches: Iterable[Batch], out: Outputs, done: Callable[[int], None]) -> None:
        """Run every batch in turn."""
        for rows, inputs in batches:
            outputs = _torch_pass(self._tapped, inputs, self._device)
            for tap, output in zip(self._tapped.taps, outputs, strict=True):
                out[tap.layer][rows] = output
            done(len(rows))


class OpenVinoEngine:
    """OpenVINO in float32, several batches at once, each on its own core."""

    def __init__(
        self, model: FrozenModel, taps: Sequence[Tap], samples: Sequence[NDArray[Any]]
    ) -> None:
        tapped = _tapped(model, taps)
        self._layers = [tap.layer for tap in taps]
        streams = _cores()
        try:
            self._compiled = _compile(tapped, samples[0], streams, model.modality == "text")
        except RuntimeError as error:
            raise CriticalMassError(
                f"OpenVINO does not convert {model.name!r} ({_reason(error)})"
            ) from error
        self._requests = [
            self._compiled.create_infer_request() for _ in range(_REQUESTS_A_STREAM * streams)
        ]
        precision = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if precision not in ("f32", "float"):
            raise CriticalMassError(f"OpenVINO computes in {precision}, not in float32")
        for batch in samples:
            self._check(tapped, batch, model.name)

    @property
    def info(self) -> Mapping[str, Any]:
        """Name, precision and device."""
        return {"name": "openvino", "precision": "float32", "device": "cpu"}

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of OpenVINO, and of torch, which it converts from."""
        return {"openvino": version("openvino"), "torch": version("torch")}

    def _check(self, tapped: Tapped, batch: NDArray[Any], name: str) -> None:
        """Compare with torch on a few samples; a wrong conversion must not pass unseen."""
        outputs = _torch_pass(tapped, batch, "cpu")
        found = {
            layer: np.empty(output.shape, np.float32)
            for layer, output in zip(self._layers, outputs, strict=True)
        }
        self.run([(np.arange(len(batch)), batch)], found, lambda _: None)
        for layer, output in zip(self._layers, outputs, strict=True):
            scale = float(np.abs(output).max())
            gap = float(np.abs(found[layer] - output).max())
            if not gap <= AGREEMENT * scale:
                raise CriticalMassError(
                    f"OpenVINO's {layer!r} of {name!r} is off from torch's by {gap:.1e}, "
                    f"of at most {scale:.1e}"
                )

    def run(self, batches: Iterable[Batch], out: Outputs, done: Callable[[int], None]) -> None:
        """Run the batches, several at a time.

        Results are fetched by this thread, oldest first; with two requests for each stream none
        has to wait for that. (A queue with callbacks would run Python in OpenVINO's own threads,
        and if one of these drops the last reference to the compiled model, the process aborts.)
        """
        free = list(self._requests)
        running: deque[tuple[Any, NDArray[np.intp]]] = deque()

        def fetch() -> None:
            request, rows = running[0]
            request.wait()
            for number, layer in enumerate(self._layers):
                out[layer][rows] = request.get_output_tensor(number).data
            free.append(running.popleft()[0])
            done(len(rows))

        try:
            for rows, inputs in batches:
                if not free:
                    fetch()
                running.append((free.pop(), rows))
                running[-1][0].start_async({0: inputs})
            while running:
                fetch()
        finally:
            for request, _ in running:
                request.wait()


def _import_openvino() -> Any:
    try:
        with _no_telemetry():
            import openvino
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
        raise missing_extra("openvino", "openvino") from error
    return openvino


@contextlib.contextmanager
def _no_telemetry() -> Iterator[None]:
    """Hide the package through which OpenVINO reports its use over the network when imported.

    It then uses its own silent stand-in. Whoever imported OpenVINO before has decided already.
    """
    hidden = "openvino_telemetry"
    if "openvino" in sys.modules or hidden in sys.modules:
        yield
        return
    sys.modules[hidden] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[hidden]


def _compile(tapped: Tapped, batch: NDArray[Any], streams: int, any_length: bool) -> Any:
    """Convert a torch module and compile it for this processor.

    Raises
    ------
    RuntimeError: OpenVINO's own error: it cannot trace, convert or compile the module.
    """
    openvino = _import_openvino()
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with quiet_tracing(), torch.inference_mode():
        # The front end is used directly: openvino.convert_model would report its use as well.
        decoder = TorchScriptPythonDecoder(tapped, example_input=torch.from_numpy(batch[:2]))
        frontend = FrontEndManager().load_by_framework("pytorch")
        converted = frontend.convert(frontend.load(decoder))
    inner = [-1] * (batch.ndim - 1) if any_length else list(batch.shape[1:])
    converted.reshape({converted.input(0): openvino.PartialShape([-1, *inner])})
    settings = {
        # Without it OpenVINO silently computes in bfloat16 where the processor can.
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": str(streams),
    }
    return openvino.Core().compile_model(converted, "CPU", settings)


@contextlib.contextmanager
def quiet_tracing() -> Iterator[None]:
    """Keep the tracer that OpenVINO and ONNX convert through from writing what is not the user's.

    It warns of its own age, and of sizes that it takes for constants (the comparison with torch
    that follows decides about these). It also reads every attribute of a module, deprecated ones
    included, at which transformers warns and logs.
    """
    import torch

    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            tracer: type[Warning] = torch.jit.TracerWarning  # type: ignore[attr-defined]
            for category in (tracer, DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logger.setLevel(level)


def _reason(error: RuntimeError) -> str:
    """Find the line that says why in an error of OpenVINO's front end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "Exception:" in lines[:-1]:
        return lines[lines.index("Exception:") + 1][:160]
    return (lines or ["no message"])[-1][:160]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _tapped(model: FrozenModel, taps: Sequence[Tap]) -> Tapped:
    from criticalmass.models.wrappers import Tapped

    return Tapped(model, taps).eval()


def _device(model: FrozenModel) -> str:
    first = next(model.module.parameters(), None)
    return "cpu" if first is None else str(first.device)


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Keep a GPU from rounding float32 products to TensorFloat-32."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(allow_tf32=False), torch.inference_mode():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _torch_pass(tapped: Tapped, batch: NDArray[Any], device: str) -> list[NDArray[np.float32]]:
    import torch

    with _exact():
        inputs = torch.from_numpy(np.ascontiguousarray(batch)).to(device)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return [output.float().cpu().numpy() for output in tapped(inputs)]
