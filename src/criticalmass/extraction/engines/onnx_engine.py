"""ONNX Runtime in float32: runs ONNX graphs, and is OpenVINO's reference for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.core.threads import thread_count
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.engines.base import EngineError, Outputs, TappedLayer
from criticalmass.extraction.engines.openvino_engine import OpenVinoSource, compile_onnx
from criticalmass.extraction.models import FrozenModel, Tap
from criticalmass.extraction.models.frozen import error_reason
from criticalmass.extraction.models.onnx_models import CUSTOM_OPERATIONS, ONNX_EXTRA, OnnxGraph
from criticalmass.extraction.models.pooling import TokenLayout, pool_values
from criticalmass.extraction.models.preprocess import Batch

# ONNX Runtime's log level for errors only.
_LOG_ERRORS = 3


class OnnxEngine:
    """ONNX Runtime on the CPU; the tapped inner tensors become outputs of the graph.

    Attributes
    ----------
    layers: names of the layers.
    pooling: layer -> description of its pooling; filled by each pass.
    """

    def __init__(self, model: FrozenModel, taps: Sequence[Tap]) -> None:
        self.layers = [tap.layer for tap in taps]
        self.pooling: dict[str, str] = {}
        self._model = model
        self._graph = graph_of(model)
        self._tensors = [tap.path for tap in taps]
        self._session = _open_session(self._graph, tuple(dict.fromkeys(self._tensors)))

    @property
    def info(self) -> Mapping[str, Any]:
        """Name, precision and device."""
        return {"name": "onnxruntime", "precision": "float32", "device": "cpu"}

    @property
    def versions(self) -> Mapping[str, str]:
        """The version of ONNX Runtime."""
        return {"onnxruntime": version("onnxruntime")}

    def run(self, batches: Iterable[Batch], out: Outputs, on_done: Callable[[int], None]) -> None:
        """Run the batches one after the other."""
        for rows, inputs in batches:
            for layer, vectors in zip(self.layers, self.vectors(inputs), strict=True):
                out[layer][rows] = vectors
            on_done(len(rows))

    def vectors(self, inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Run one input batch; return the vectors of each layer, (n, n_neurons)."""
        values = self.tensors(inputs)
        return [self.vector(layer, value) for layer, value in zip(self.layers, values, strict=True)]

    def vector(self, layer: str, value: NDArray[Any]) -> NDArray[np.float32]:
        """Pool the values of a layer's tensor to vectors, (n, n_neurons).

        Raises
        ------
        CriticalMassError: the tensor has a shape that cannot be pooled.
        """
        try:
            vectors, pooling = pool_values(value, self._model.pool, TokenLayout())
        except CriticalMassError as error:
            raise CriticalMassError(
                f"layer {layer!r} of {self._model.name!r} has {error}"
            ) from error
        self.pooling[layer] = pooling
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def tensors(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Run one input batch; return the values of each layer's tensor, (n, ...).

        Raises
        ------
        CriticalMassError: the first axis of a tensor is not the samples.
        """
        values = self.raw_tensors(inputs)
        for name, value in zip(self.layers, values, strict=True):
            if value.shape[:1] != (len(inputs),):
                raise CriticalMassError(
                    f"layer {name!r} of {self._model.name!r} has the shape {value.shape} for "
                    f"{len(inputs)} samples; choose another layer"
                )
        return values

    def raw_tensors(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Run one input batch; return the values of each layer's tensor in any shape."""
        prepared, batch_size = self._graph.prepare(inputs), self._graph.batch
        if batch_size is None:
            return self._run(prepared)
        parts = [
            prepared[start : start + batch_size] for start in range(0, len(prepared), batch_size)
        ]
        outputs = [
            [np.atleast_1d(value)[: len(part)] for value in self._run(_pad_batch(part, batch_size))]
            for part in parts
        ]
        return [np.concatenate(values) for values in zip(*outputs, strict=True)]

    def _run(self, prepared: NDArray[Any]) -> list[NDArray[Any]]:
        try:
            values = self._session.run(self._tensors, {self._graph.input: prepared})
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime does not run {self._model.name!r} ({error_reason(error)})"
            ) from error
        return [np.asarray(value) for value in values]


def _pad_batch(part: NDArray[Any], batch_size: int) -> NDArray[Any]:
    """Repeat the last sample until the batch has the size that the graph takes."""
    n_missing = batch_size - len(part)
    return np.concatenate([part, np.repeat(part[-1:], n_missing, axis=0)]) if n_missing else part


def graph_of(model: FrozenModel) -> OnnxGraph:
    """Return the graph of a model that is an ONNX graph."""
    graph = model.module
    assert isinstance(graph, OnnxGraph)
    return graph


def _open_session(graph: OnnxGraph, tensors: Sequence[str]) -> Any:
    """Open a session whose outputs include these tensors."""
    onnx = import_package("onnx", ONNX_EXTRA)
    runtime = import_package("onnxruntime", ONNX_EXTRA)
    model = onnx.load(str(graph.path))
    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in tensors if name not in outputs
    )
    options = runtime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS
    options.intra_op_num_threads = thread_count()
    if graph.is_custom:
        extensions = import_package(*CUSTOM_OPERATIONS)
        options.register_custom_ops_library(extensions.get_library_path())
    try:
        return runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise EngineError(
            f"ONNX Runtime cannot open {str(graph.path)!r}: {error_reason(error)}"
        ) from error


def inspect_graph(
    model: FrozenModel, taps: Sequence[Tap], batch: NDArray[Any]
) -> list[TappedLayer]:
    """Run one input batch to learn each layer's width and pooling.

    Raises
    ------
    CriticalMassError: the values of a layer cannot be read.
    """
    engine = OnnxEngine(model, taps)
    widths = [vectors.shape[1] for vectors in engine.vectors(batch)]
    return [
        TappedLayer(tap, width, engine.pooling[tap.layer])
        for tap, width in zip(taps, widths, strict=True)
    ]


def openvino_source(model: FrozenModel, taps: Sequence[Tap]) -> OpenVinoSource:
    """Describe a graph for OpenVINO.

    Raises
    ------
    EngineError: the graph takes batches of one size only.
    """
    graph, reference = graph_of(model), OnnxEngine(model, taps)
    if graph.batch is not None:
        raise EngineError(
            f"{model.spec!r} takes {graph.batch} samples at a time, but OpenVINO needs a graph "
            "with a free batch size"
        )
    # OpenVINO crashes if one tensor is two outputs.
    tensors = list(dict.fromkeys(tap.path for tap in taps))
    return OpenVinoSource(
        name=model.name,
        layers=[tap.layer for tap in taps],
        outputs=[tensors.index(tap.path) for tap in taps],
        compile=functools.partial(compile_onnx, graph.path, tensors, graph.shape),
        prepare=graph.prepare,
        finish=reference.vector,
        reference=reference.vectors,
        library="onnxruntime",
    )
