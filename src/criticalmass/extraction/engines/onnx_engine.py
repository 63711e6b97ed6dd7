"""ONNX Runtime in float32: runs ONNX graphs, and is what OpenVINO must agree with on them."""

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
from criticalmass.extraction.engines.base import Layer, Outputs
from criticalmass.extraction.engines.openvino_engine import Source, compile_onnx
from criticalmass.extraction.models import FrozenModel, Tap
from criticalmass.extraction.models.onnx_models import EXTRA, OnnxGraph
from criticalmass.extraction.models.pooling import pooled
from criticalmass.extraction.models.preprocess import Batch

_ERRORS_ONLY = 3


class OnnxEngine:
    """ONNX Runtime on the processor; inner tensors are made outputs of the graph."""

    def __init__(self, model: FrozenModel, taps: Sequence[Tap]) -> None:
        self.layers = [tap.layer for tap in taps]
        self.pooling: dict[str, str] = {}
        self._model = model
        self._graph = graph_of(model)
        self._tensors = [tap.path for tap in taps]
        self._session = _session(self._graph, dict.fromkeys(self._tensors))

    @property
    def info(self) -> Mapping[str, Any]:
        """Name, precision and device."""
        return {"name": "onnxruntime", "precision": "float32", "device": "cpu"}

    @property
    def versions(self) -> Mapping[str, str]:
        """The version of ONNX Runtime."""
        return {"onnxruntime": version("onnxruntime")}

    def run(self, batches: Iterable[Batch], out: Outputs, done: Callable[[int], None]) -> None:
        """Run every batch in turn."""
        for rows, inputs in batches:
            for layer, found in zip(self.layers, self.vectors(inputs), strict=True):
                out[layer][rows] = found
            done(len(rows))

    def vectors(self, inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Run one batch: of each layer (n, n_neurons)."""
        raw = self.tensors(inputs)
        return [self.vector(layer, value) for layer, value in zip(self.layers, raw, strict=True)]

    def vector(self, layer: str, value: NDArray[Any]) -> NDArray[np.float32]:
        """Make vectors of what a tensor holds, (n, n_neurons).

        Raises
        ------
        CriticalMassError: a shape that cannot be read.
        """
        try:
            found, words = pooled(value, self._model.pool, channels_last=False, has_class=True)
        except CriticalMassError as error:
            raise CriticalMassError(
                f"layer {layer!r} of {self._model.name!r} has {error}"
            ) from error
        self.pooling[layer] = words
        return np.ascontiguousarray(found, dtype=np.float32)

    def tensors(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Run one batch: of each layer what the graph gives, (n, ...).

        Raises
        ------
        CriticalMassError: a tensor whose first axis is not the samples.
        """
        found = self.raw(inputs)
        for name, value in zip(self.layers, found, strict=True):
            if value.shape[:1] != (len(inputs),):
                raise CriticalMassError(
                    f"layer {name!r} of {self._model.name!r} has the shape {value.shape} for "
                    f"{len(inputs)} samples; choose another"
                )
        return found

    def raw(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Run one batch: of each layer what the graph gives, whatever its shape."""
        prepared, batch = self._graph.prepare(inputs), self._graph.batch
        if batch is None:
            return self._run(prepared)
        parts = [prepared[at : at + batch] for at in range(0, len(prepared), batch)]
        pieces = [
            [np.atleast_1d(v)[: len(part)] for v in self._run(_filled(part, batch))]
            for part in parts
        ]
        return [np.concatenate(one) for one in zip(*pieces, strict=True)]

    def _run(self, prepared: NDArray[Any]) -> list[NDArray[Any]]:
        found = self._session.run(self._tensors, {self._graph.input: prepared})
        return [np.asarray(value) for value in found]


def _filled(part: NDArray[Any], batch: int) -> NDArray[Any]:
    """Repeat the last sample until the batch has the size that the graph takes."""
    lacking = batch - len(part)
    return np.concatenate([part, np.repeat(part[-1:], lacking, axis=0)]) if lacking else part


def graph_of(model: FrozenModel) -> OnnxGraph:
    """Return the graph of a model that is one."""
    graph = model.module
    assert isinstance(graph, OnnxGraph)
    return graph


def _session(graph: OnnxGraph, tensors: Mapping[str, None]) -> Any:
    onnx = import_package("onnx", EXTRA)
    runtime = import_package("onnxruntime", EXTRA)
    content = onnx.load(str(graph.path))
    there = {one.name for one in content.graph.output}
    content.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in tensors if name not in there
    )
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = thread_count()
    try:
        return runtime.InferenceSession(
            content.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except (runtime.capi.onnxruntime_pybind11_state.Fail, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CriticalMassError(
            f"ONNX Runtime does not open {str(graph.path)!r}: {reason}"
        ) from error


def inspect_graph(model: FrozenModel, taps: Sequence[Tap], batch: NDArray[Any]) -> list[Layer]:
    """Run a few samples to learn each layer's width and how it is pooled.

    Raises
    ------
    CriticalMassError: a layer whose values cannot be read.
    """
    engine = OnnxEngine(model, taps)
    widths = [found.shape[1] for found in engine.vectors(batch)]
    return [
        Layer(tap, width, engine.pooling[tap.layer])
        for tap, width in zip(taps, widths, strict=True)
    ]


def openvino_graph(model: FrozenModel, taps: Sequence[Tap]) -> Source:
    """Describe a graph for OpenVINO.

    Raises
    ------
    CriticalMassError: the graph takes batches of one size only.
    """
    graph, runtime = graph_of(model), OnnxEngine(model, taps)
    if graph.batch is not None:
        raise CriticalMassError(
            f"{model.spec!r} takes {graph.batch} samples at a time, which OpenVINO would have to "
            "wait for"
        )
    # OpenVINO crashes where one tensor is to be two outputs.
    tensors = list(dict.fromkeys(tap.path for tap in taps))
    return Source(
        name=model.name,
        layers=[tap.layer for tap in taps],
        outputs=[tensors.index(tap.path) for tap in taps],
        compile=functools.partial(compile_onnx, graph.path, tensors, graph.shape),
        prepare=graph.prepare,
        finish=runtime.vector,
        reference=runtime.vectors,
        library="onnxruntime",
    )
