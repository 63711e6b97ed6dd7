"""OpenVINO: the fastest engine on a CPU, in float32 or bfloat16."""

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

from criticalmass.core.progress import write_line
from criticalmass.core.threads import thread_count
from criticalmass.errors import MissingExtraError, missing_extra
from criticalmass.extraction.engines.base import EngineError, Outputs, Reference
from criticalmass.extraction.models.preprocess import Batch

if TYPE_CHECKING:
    from criticalmass.extraction.models.wrappers import TappedModel

# Largest difference from the reference's float32 features that OpenVINO may have on the check
# batches when it computes in float32, relative to the largest feature.
MAX_DIFFERENCE = 1e-4
_PRECISION_HINTS = {"float32": "f32", "bf16": "bf16"}
_HINT_PRECISIONS = {"f32": "float32", "float": "float32", "bf16": "bf16", "bfloat16_t": "bf16"}
_REQUESTS_PER_STREAM = 2


@dataclass(frozen=True)
class OpenVinoSource:
    """A model for OpenVINO to convert, and the reference to compare the conversion with.

    Attributes
    ----------
    name: name of the model.
    layers: names of the requested layers.
    outputs: for each layer, the index of the compiled model's output that holds it.
    compile: (number of streams, precision) -> compiled model.
    prepare: input batch -> input of the compiled model.
    finish: (layer, raw output) -> vectors (n, n_neurons).
    reference: computes the vectors to compare with.
    library: name of the library that computes the reference.
    """

    name: str
    layers: Sequence[str]
    outputs: Sequence[int]
    compile: Callable[[int, str], Any]
    prepare: Callable[[NDArray[Any]], NDArray[Any]]
    finish: Callable[[str, NDArray[Any]], NDArray[np.float32]]
    reference: Reference
    library: str


@dataclass(frozen=True)
class _Difference:
    """The difference of one layer from the reference on one batch.

    Attributes
    ----------
    layer: name of the layer.
    largest: largest absolute difference of a feature.
    scale: largest absolute feature of the reference.
    """

    layer: str
    largest: float
    scale: float


class OpenVinoEngine:
    """OpenVINO on the CPU; several batches run at once, each on its own core.

    For every precision, the conversion is first compared with the reference in float32.

    Parameters
    ----------
    source: the model to convert.
    samples: input batches to compare on.
    precision: one of ``PRECISIONS``.

    Raises
    ------
    EngineError: the conversion fails, differs from the reference, or computes in another
        precision.
    MissingExtraError: OpenVINO is not installed.
    """

    def __init__(
        self, source: OpenVinoSource, samples: Sequence[NDArray[Any]], precision: str = "float32"
    ) -> None:
        self._source = source
        self._precision = precision
        self._requests: list[Any] = []
        self._compile("float32")
        for batch in samples:
            for difference in self._differences(batch):
                if not difference.largest <= MAX_DIFFERENCE * difference.scale:
                    raise EngineError(
                        f"OpenVINO's output for layer {difference.layer!r} of {source.name!r} "
                        f"differs from {source.library}'s by up to {difference.largest:.1e} "
                        f"(largest value {difference.scale:.1e})"
                    )
        if precision != "float32":
            self._compile(precision)
            relative = [
                difference.largest / (difference.scale or 1.0)
                for batch in samples
                for difference in self._differences(batch)
            ]
            write_line(
                f"{precision}: features of the first samples differ from float32 by up to "
                f"{max(relative):.2%} of the largest value"
            )

    def _compile(self, precision: str) -> None:
        source, streams = self._source, thread_count()
        self._requests.clear()
        # Tracing, converting and compiling raise errors of many kinds, of torch and of OpenVINO.
        try:
            self._compiled = source.compile(streams, precision)
        except MissingExtraError:
            raise
        except Exception as error:
            raise EngineError(
                f"OpenVINO does not convert {source.name!r} ({_conversion_reason(error)})"
            ) from error
        # OpenVINO may compute in another precision than requested, and reports it only here.
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if _HINT_PRECISIONS.get(hint) != precision:
            raise EngineError(f"OpenVINO computes {source.name!r} in {hint}, not in {precision}")
        self._requests += [
            self._compiled.create_infer_request() for _ in range(_REQUESTS_PER_STREAM * streams)
        ]

    @property
    def info(self) -> Mapping[str, Any]:
        """Name, precision and device."""
        return {"name": "openvino", "precision": self._precision, "device": "cpu"}

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of OpenVINO and of the reference's library."""
        library = self._source.library
        return {"openvino": version("openvino"), library: version(library)}

    def _differences(self, batch: NDArray[Any]) -> Iterator[_Difference]:
        """Compare each layer with the reference on one batch."""
        layers = self._source.layers
        references = self._source.reference(batch)
        outputs = {
            layer: np.empty(reference.shape, np.float32)
            for layer, reference in zip(layers, references, strict=True)
        }
        self.run([(np.arange(len(batch)), batch)], outputs, lambda _: None)
        for layer, reference in zip(layers, references, strict=True):
            largest = float(np.abs(outputs[layer] - reference).max())
            yield _Difference(layer, largest, float(np.abs(reference).max()))

    def run(self, batches: Iterable[Batch], out: Outputs, on_done: Callable[[int], None]) -> None:
        """Run the batches, several at a time.

        This thread fetches the results, oldest first; with two requests per stream no stream has
        to wait for it. (A queue with callbacks would run Python in OpenVINO's own threads. If one
        of these drops the last reference to the compiled model, the process aborts.)

        Raises
        ------
        EngineError: OpenVINO fails on a batch.
        """
        idle = list(self._requests)
        running: deque[tuple[Any, NDArray[np.intp]]] = deque()

        def fetch_oldest() -> None:
            request, rows = running[0]
            with self._explain_failures():
                request.wait()
            for layer, index in zip(self._source.layers, self._source.outputs, strict=True):
                vectors = self._source.finish(layer, request.get_output_tensor(index).data)
                if len(vectors) != len(rows):
                    raise EngineError(
                        f"OpenVINO's output for layer {layer!r} of {self._source.name!r} has "
                        f"{len(vectors)} rows for {len(rows)} samples"
                    )
                out[layer][rows] = vectors
            idle.append(running.popleft()[0])
            on_done(len(rows))

        try:
            for rows, inputs in batches:
                if not idle:
                    fetch_oldest()
                request, prepared = idle.pop(), self._source.prepare(inputs)
                with self._explain_failures():
                    request.start_async({0: prepared})
                running.append((request, rows))
            while running:
                fetch_oldest()
        finally:
            # After an error the other requests must end before their buffers are freed. The first
            # error is the one to report.
            for request, _ in running:
                with contextlib.suppress(Exception):
                    request.wait()

    @contextlib.contextmanager
    def _explain_failures(self) -> Iterator[None]:
        """Turn any error of OpenVINO into one line.

        Raises
        ------
        EngineError: OpenVINO fails.
        """
        try:
            yield
        except Exception as error:
            raise EngineError(
                f"OpenVINO does not run {self._source.name!r} ({_conversion_reason(error)})"
            ) from error


def import_openvino() -> Any:
    """Import OpenVINO without its usage reports.

    Raises
    ------
    MissingExtraError: it is not installed.
    """
    try:
        with _telemetry_hidden():
            import openvino
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
        raise missing_extra("openvino", "openvino") from error
    return openvino


@contextlib.contextmanager
def _telemetry_hidden() -> Iterator[None]:
    """Hide the package ``openvino_telemetry``, so that importing OpenVINO sends no usage report.

    OpenVINO then uses its own silent stub. It has no switch for one process: its opt-out is a
    file in the user's home folder (``opt_in_out --opt_out``), and otherwise it only checks the
    environment variables of CI systems. If OpenVINO is already imported, nothing is changed.
    """
    package = "openvino_telemetry"
    if "openvino" in sys.modules or package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def compile_torch(
    tapped: TappedModel, batch: NDArray[Any], any_length: bool, streams: int, precision: str
) -> Any:
    """Convert a torch module and compile it for the CPU.

    Parameters
    ----------
    tapped: module that returns the requested layers.
    batch: input batch to trace with; its first two rows are used.
    any_length: whether the axes after the first may have any size.
    streams: number of batches that run at once.
    precision: one of ``PRECISIONS``.

    Raises
    ------
    Exception: any error of torch's tracer or of OpenVINO's converter and compiler.
    """
    openvino = import_openvino()
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with quiet_tracing(), torch.inference_mode():
        # The front end is called directly, because openvino.convert_model sends a usage report.
        # The tracer's own check runs the network three more times; the comparison with torch
        # makes it unnecessary.
        decoder = TorchScriptPythonDecoder(
            tapped,
            example_input=torch.from_numpy(batch[:2]),
            trace_kwargs={"check_trace": False},
        )
        frontend = FrontEndManager().load_by_framework("pytorch")
        converted = frontend.convert(frontend.load(decoder))
    inner_shape = [-1] * (batch.ndim - 1) if any_length else list(batch.shape[1:])
    converted.reshape({converted.input(0): openvino.PartialShape([-1, *inner_shape])})
    return _compile_for_cpu(openvino, converted, streams, precision)


def compile_onnx(
    path: Path, tensors: Sequence[str], shape: Sequence[int], streams: int, precision: str
) -> Any:
    """Compile an ONNX graph for the CPU, with inner tensors as outputs.

    Parameters
    ----------
    path: file of the graph.
    tensors: names of its tensors, each once, in the order of the outputs.
    shape: shape of one sample.
    streams: number of batches that run at once.
    precision: one of ``PRECISIONS``.

    Raises
    ------
    RuntimeError: OpenVINO's own error, or OpenVINO folded one of the tensors away.
    """
    openvino = import_openvino()
    graph = openvino.Core().read_model(path)
    ports = {
        name: port
        for node in graph.get_ordered_ops()
        for port in node.outputs()
        for name in port.get_names()
    }
    missing = [name for name in tensors if name not in ports]
    if missing:
        raise RuntimeError(f"its graph no longer has the tensor {missing[0]!r}")
    tapped = openvino.Model([ports[name] for name in tensors], graph.get_parameters(), "tapped")
    tapped.reshape({tapped.input(0): openvino.PartialShape([-1, *shape])})
    return _compile_for_cpu(openvino, tapped, streams, precision)


def _compile_for_cpu(openvino: Any, graph: Any, streams: int, precision: str) -> Any:
    settings = {
        # Without this hint OpenVINO silently computes in bfloat16 on a CPU that supports it.
        "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[precision],
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": str(streams),
    }
    return openvino.Core().compile_model(graph, "CPU", settings)


@contextlib.contextmanager
def quiet_tracing() -> Iterator[None]:
    """Silence warnings of torch's tracer that do not concern the user.

    The tracer is the one that the conversions to OpenVINO and ONNX use. It warns that it is
    deprecated, and of sizes that it takes for constants; the later comparison with torch detects
    such errors. It also reads every attribute of a module, including deprecated ones, for which
    transformers warns and logs.
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
            # DeBERTa makes tensors of the sizes that are tensors in a trace.
            warnings.filterwarnings("ignore", message="To copy construct from a tensor")
            yield
    finally:
        logger.setLevel(level)


def _conversion_reason(error: Exception) -> str:
    """Extract the line with the cause from an error of torch's tracer or of OpenVINO."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
    if "Exception:" in lines[:-1]:
        return lines[lines.index("Exception:") + 1][:160]
    return (lines or [type(error).__name__])[-1][:160]
