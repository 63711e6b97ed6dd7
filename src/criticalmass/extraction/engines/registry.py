"""Which engine runs a model, and a first look at the layers that it is to give."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from criticalmass.core.progress import notice
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.engines.base import PRECISIONS, Engine, Layer, require_bf16
from criticalmass.extraction.engines.onnx_engine import OnnxEngine, inspect_graph, openvino_graph
from criticalmass.extraction.engines.openvino_engine import OpenVinoEngine, Source, compile_torch
from criticalmass.extraction.engines.torch_engine import (
    TorchEngine,
    device_of,
    first_run,
    tapped_model,
    torch_pass,
)
from criticalmass.extraction.models import FrozenModel, Tap
from criticalmass.extraction.models.onnx_models import OnnxGraph

ENGINES = ("auto", "openvino", "torch", "onnxruntime")


def inspect(model: FrozenModel, layers: Sequence[str], batch: NDArray[Any]) -> list[Layer]:
    """Run a few samples to learn each layer's width and how it is pooled.

    Raises
    ------
    CriticalMassError: a layer that is not there, or whose output cannot be read.
    """
    taps = [model.tap(layer) for layer in layers]
    if isinstance(model.module, OnnxGraph):
        return inspect_graph(model, taps, batch)
    tapped = tapped_model(model, taps)
    with first_run(model):
        outputs = torch_pass(tapped, batch, device_of(model))
    return [
        Layer(tap, output.shape[1], tapped.pooling[tap.layer])
        for tap, output in zip(tapped.taps, outputs, strict=True)
    ]


def make_engine(
    name: str,
    model: FrozenModel,
    taps: Sequence[Tap],
    samples: Sequence[NDArray[Any]],
    precision: str = "float32",
) -> Engine:
    """Make the engine that was asked for.

    Parameters
    ----------
    name: ``"auto"`` is torch on a GPU; on the processor OpenVINO, and torch (for an ONNX graph:
        ONNX Runtime), with a line that says why, where OpenVINO is missing or does not do.
    model: on the device where it is to run.
    taps: where to read.
    samples: input batches; the engine is converted with the first and compared with its reference
        (torch, or ONNX Runtime) on all.
    precision: ``"float32"``, or ``"bf16"``: faster, and off by some per cent.

    Raises
    ------
    CriticalMassError: an unknown engine or precision, an engine that does not run such a model, or
        a device without bfloat16, or OpenVINO was asked for by name and does not do.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    is_graph = isinstance(model.module, OnnxGraph)
    plain = "onnxruntime" if is_graph else "torch"
    if name not in ("auto", "openvino", plain):
        raise CriticalMassError(f"engine {name!r} does not run {model.spec!r}; use {plain!r}")
    device = "cpu" if is_graph else device_of(model)
    if name == "openvino" and device != "cpu":
        raise CriticalMassError(f"engine 'openvino' runs on the processor, not on {device!r}")
    if precision == "bf16":
        require_bf16(device)
    if name == plain or device != "cpu":
        return _plain(model, taps, precision)
    try:
        source = openvino_graph(model, taps) if is_graph else _torch_source(model, taps, samples[0])
        return OpenVinoEngine(source, samples, precision)
    except CriticalMassError as error:
        if name == "openvino":
            raise
        notice(f"{error}; features are computed with {plain}, which is slower")
        return _plain(model, taps, precision)


def _plain(model: FrozenModel, taps: Sequence[Tap], precision: str) -> Engine:
    if not isinstance(model.module, OnnxGraph):
        return TorchEngine(model, taps, device_of(model), precision)
    if precision != "float32":
        raise CriticalMassError(
            f"ONNX Runtime runs {model.spec!r} in float32 only, not in {precision!r}"
        )
    return OnnxEngine(model, taps)


def _torch_source(model: FrozenModel, taps: Sequence[Tap], batch: NDArray[Any]) -> Source:
    tapped = tapped_model(model, taps)
    any_length = model.modality == "text"
    return Source(
        name=model.name,
        layers=[tap.layer for tap in taps],
        outputs=range(len(taps)),
        compile=functools.partial(compile_torch, tapped, batch, any_length),
        prepare=lambda inputs: inputs,
        finish=lambda _, raw: raw,
        reference=functools.partial(torch_pass, tapped, device="cpu"),
        library="torch",
    )
