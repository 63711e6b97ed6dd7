"""OpenVINO: the fastest exact way through a network on a processor, or in bfloat16 a faster one."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import say
from criticalmass.core.threads import thread_count
from criticalmass.errors import CriticalMassError, missing_extra
from criticalmass.extraction.engines.base import Outputs, Reference
from criticalmass.extraction.models.preprocess import Batch

if TYPE_CHECKING:
    from criticalmass.extraction.models.wrappers import Tapped

# Largest difference from the reference's float32 features, relative to the largest of them, that
# OpenVINO may show on the check batches when it computes in float32.
AGREEMENT = 1e-4
_HINTS = {"float32": "f32", "bf16": "bf16"}
_NAMES = {"f32": "float32", "float": "float32", "bf16": "bf16", "bfloat16_t": "bf16"}
_REQUESTS_A_STREAM = 2


@dataclass(frozen=True)
class Source:
    """What OpenVINO is to run, and what it is held against.

    Attributes
    ----------
    name: the model's.
    layers: that are wanted.
    outputs: of each layer the number of the output that holds it.
    compile: (number of streams, precision) -> compiled model.
    prepare: input batch -> what the compiled model takes.
    finish: (layer, raw output) -> vectors (n, n_neurons).
    reference: gives the numbers to agree with.
    library: that computes the reference.
    """

    name: str
    layers: Sequence[str]
    outputs: Sequence[int]
    compile: Callable[[int, str], Any]
    prepare: Callable[[NDArray[Any]], NDArray[Any]]
    finish: Callable[[str, NDArray[Any]], NDArray[np.float32]]
    reference: Reference
    library: str


class OpenVinoEngine:
    """OpenVINO, several batches at once, each on its own core.

    Whatever the precision, the conversion is held against the reference in float32 first.
    """

    def __init__(
        self, source: Source, samples: Sequence[NDArray[Any]], precision: str = "float32"
    ) -> None:
        self._source = source
        self._precision = precision
        self._requests: list[Any] = []
        self._compile("float32")
        for batch in samples:
            for layer, gap, scale in self._gaps(batch):
                if not gap <= AGREEMENT * scale:
                    raise CriticalMassError(
                        f"OpenVINO's {layer!r} of {source.name!r} is off from {source.library}'s "
                        f"by {gap:.1e}, of at most {scale:.1e}"
                    )
        if precision != "float32":
            self._compile(precision)
            found = [
                gap / (scale or 1.0) for batch in samples for _, gap, scale in self._gaps(batch)
            ]
            say(
                f"{precision}: features of the first samples are off by up to {max(found):.2%} "
                "of the largest"
            )

    def _compile(self, precision: str) -> None:
        source, streams = self._source, thread_count()
        self._requests.clear()
        try:
            self._compiled = source.compile(streams, precision)
        except RuntimeError as error:
            raise CriticalMassError(
                f"OpenVINO does not convert {source.name!r} ({_reason(error)})"
            ) from error
        # OpenVINO may compute in another precision than asked, and says so here only.
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if _NAMES.get(hint) != precision:
            raise CriticalMassError(f"OpenVINO computes in {hint}, not in {precision}")
        self._requests += [
            self._compiled.create_infer_request() for _ in range(_REQUESTS_A_STREAM * streams)
        ]

    @property
    def info(self) -> Mapping[str, Any]:
        """Name, precision and device."""
        return {"name": "openvino", "precision": self._precision, "device": "cpu"}

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of OpenVINO, and of what it converts from."""
        library = self._source.library
        return {"openvino": version("openvino"), library: version(library)}

    def _gaps(self, batch: NDArray[Any]) -> Iterator[tuple[str, float, float]]:
        """Compare with the reference: each layer's largest difference, and its largest feature."""
        source = self._source
        outputs = source.reference(batch)
        found = {
            layer: np.empty(output.shape, np.float32)
            for layer, output in zip(source.layers, outputs, strict=True)
        }
        self.run([(np.arange(len(batch)), batch)], found, lambda _: None)
        for layer, output in zip(source.layers, outputs, strict=True):
            yield layer, float(np.abs(found[layer] - output).max()), float(np.abs(output).max())

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
            for layer, number in zip(self._source.layers, self._source.outputs, strict=True):
                found = self._source.finish(layer, request.get_output_tensor(number).data)
                if len(found) != len(rows):
                    raise CriticalMassError(
                        f"OpenVINO's {layer!r} of {self._source.name!r} has {len(found)} rows for "
                        f"{len(rows)} samples"
                    )
                out[layer][rows] = found
            free.append(running.popleft()[0])
            done(len(rows))

        try:
            for rows, inputs in batches:
                if not free:
                    fetch()
                running.append((free.pop(), rows))
                running[-1][0].start_async({0: self._source.prepare(inputs)})
            while running:
                fetch()
        finally:
            for request, _ in running:
                request.wait()


def import_openvino() -> Any:
    """Import OpenVINO without its reports to its maker.

    Raises
    ------
    MissingExtraError: it is not installed.
    """
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


def compile_torch(
    tapped: Tapped, batch: NDArray[Any], any_length: bool, streams: int, precision: str
) -> Any:
    """Convert a torch module and compile it for this processor.

    Parameters
    ----------
    tapped: gives the asked layers.
    batch: to trace with; two of its rows are used.
    any_length: whether the inner axes may have any size.
    streams: batches at once.
    precision: one of ``PRECISIONS``.

    Raises
    ------
    RuntimeError: OpenVINO's own error: it cannot trace, convert or compile the module.
    """
    openvino = import_openvino()
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
    return _for_this_processor(openvino, converted, streams, precision)


def compile_onnx(
    path: Path, tensors: Sequence[str], shape: Sequence[int], streams: int, precision: str
) -> Any:
    """Compile an ONNX graph for this processor, with inner tensors as outputs.

    Parameters
    ----------
    path: of the graph.
    tensors: names of its tensors, each once, in the order of the outputs.
    shape: of one sample.
    streams: batches at once.
    precision: one of ``PRECISIONS``.

    Raises
    ------
    RuntimeError: OpenVINO's own error, or it has folded one of the tensors away.
    """
    openvino = import_openvino()
    graph = openvino.Core().read_model(path)
    found = {
        name: port
        for node in graph.get_ordered_ops()
        for port in node.outputs()
        for name in port.get_names()
    }
    lost = [name for name in tensors if name not in found]
    if lost:
        raise RuntimeError(f"no tensor {lost[0]!r} is left in its graph")
    chosen = openvino.Model([found[name] for name in tensors], graph.get_parameters(), "tapped")
    chosen.reshape({chosen.input(0): openvino.PartialShape([-1, *shape])})
    return _for_this_processor(openvino, chosen, streams, precision)


def _for_this_processor(openvino: Any, graph: Any, streams: int, precision: str) -> Any:
    settings = {
        # Without it OpenVINO silently computes in bfloat16 where the processor can.
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": str(streams),
    }
    return openvino.Core().compile_model(graph, "CPU", settings)


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
