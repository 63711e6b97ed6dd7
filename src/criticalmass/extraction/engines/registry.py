"""The choice of the engine for a model, and the dry run of its layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.engines import ENGINE_ENTRIES
from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError, MissingExtraError, unknown_name
from criticalmass.extraction.engines.base import (
    PRECISIONS,
    Engine,
    EngineError,
    TappedLayer,
    require_bf16,
)
from criticalmass.extraction.engines.onnx_engine import OnnxEngine, inspect_graph, openvino_source
from criticalmass.extraction.engines.openvino_engine import (
    OpenVinoEngine,
    OpenVinoSource,
    compile_torch,
)
from criticalmass.extraction.engines.torch_engine import (
    TorchEngine,
    device_of,
    explain_input_errors,
    tapped_model,
    torch_pass,
)
from criticalmass.extraction.models import FrozenModel, Tap
from criticalmass.extraction.models.onnx_models import OnnxGraph

#: Name of an engine -> its description.
ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "auto": "OpenVINO on the CPU if it runs the model, else the model's own library",
        **{name: one.description for name, one in ENGINE_ENTRIES.items() if one.description},
    }
)


def inspect_layers(
    model: FrozenModel, layers: Sequence[str], batch: NDArray[Any]
) -> list[TappedLayer]:
    """Run one input batch to learn each layer's width and pooling.

    Raises
    ------
    CriticalMassError: a layer does not exist, or its output cannot be read.
    """
    taps = [model.tap(layer) for layer in layers]
    if isinstance(model.module, OnnxGraph):
        return inspect_graph(model, taps, batch)
    tapped = tapped_model(model, taps)
    with explain_input_errors(model):
        outputs = torch_pass(tapped, batch, device_of(model))
    return [
        TappedLayer(tap, output.shape[1], tapped.pooling[tap.layer])
        for tap, output in zip(tapped.taps, outputs, strict=True)
    ]


def make_engine(
    name: str,
    model: FrozenModel,
    taps: Sequence[Tap],
    samples: Sequence[NDArray[Any]],
    precision: str = "float32",
) -> Engine:
    """Make an engine by its name.

    Parameters
    ----------
    name: one of ``ENGINES``. ``"auto"`` is torch on a GPU. On the CPU it is OpenVINO; if OpenVINO
        is not installed or cannot run the model, it is torch (for an ONNX graph, ONNX Runtime),
        and a warning gives the reason.
    model: a model on the device where it is to run.
    taps: where to read.
    samples: input batches. The first one is used to convert the model, all of them to compare the
        engine with its reference (torch or ONNX Runtime).
    precision: ``"float32"``, or ``"bf16"``, which is faster and differs by some per cent.

    Raises
    ------
    CriticalMassError: an unknown engine or precision; an engine that does not run the model; a
        device without bfloat16; or OpenVINO is requested by name and cannot run the model.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    reference = _reference(model)
    device = "cpu" if isinstance(model.module, OnnxGraph) else device_of(model)
    suitable = [one for one in _FACTORIES if one.runs(model)]
    if name not in ("auto", *(one.name for one in suitable)):
        raise CriticalMassError(
            f"engine {name!r} does not run {model.spec!r}; use {reference.name!r}"
        )
    named = [one for one in suitable if name in ("auto", one.name)]
    usable = [one for one in named if device == "cpu" or not one.is_cpu_only]
    if not usable:
        raise CriticalMassError(
            f"engine {name!r} runs on the CPU only, not on {device!r}; use {reference.name!r}"
        )
    if precision == "bf16":
        require_bf16(device)
    engine = usable[0]
    try:
        return engine.make(model, taps, samples, precision)
    except (EngineError, MissingExtraError) as error:
        if name != "auto" or engine.is_reference:
            raise
        warn_fallback(model, error)
        return reference.make(model, taps, samples, precision)


def reference_name(model: FrozenModel) -> str:
    """Return the name of the engine that the others are compared with."""
    return _reference(model).name


def warn_fallback(model: FrozenModel, error: CriticalMassError) -> None:
    """Tell the user in one line that the reference takes over from another engine, and why."""
    warn_user(
        f"{error}; features of {model.name!r} are computed with {reference_name(model)}, "
        "which is slower"
    )


def _reference(model: FrozenModel) -> _EngineFactory:
    return next(one for one in _FACTORIES if one.is_reference and one.runs(model))


def _is_graph(model: FrozenModel) -> bool:
    return isinstance(model.module, OnnxGraph)


def _is_module(model: FrozenModel) -> bool:
    return not _is_graph(model)


def _runs_in_openvino(model: FrozenModel) -> bool:
    """Whether a model has one input of numbers."""
    is_of_texts = _is_graph(model) and model.modality == "text"
    return not is_of_texts and not getattr(model.preprocess, "names", ())


def _make_openvino(
    model: FrozenModel, taps: Sequence[Tap], samples: Sequence[NDArray[Any]], precision: str
) -> Engine:
    if _is_graph(model):
        source = openvino_source(model, taps)
    else:
        source = _torch_source(model, taps, samples[0])
    return OpenVinoEngine(source, samples, precision)


def _make_torch(
    model: FrozenModel, taps: Sequence[Tap], samples: Sequence[NDArray[Any]], precision: str
) -> Engine:
    return TorchEngine(model, taps, device_of(model), precision)


def _make_onnxruntime(
    model: FrozenModel, taps: Sequence[Tap], samples: Sequence[NDArray[Any]], precision: str
) -> Engine:
    if precision != "float32":
        raise CriticalMassError(
            f"ONNX Runtime runs {model.spec!r} in float32 only, not in {precision!r}; "
            "use precision='float32'"
        )
    return OnnxEngine(model, taps)


def _torch_source(model: FrozenModel, taps: Sequence[Tap], batch: NDArray[Any]) -> OpenVinoSource:
    tapped = tapped_model(model, taps)
    any_length = model.modality == "text" or getattr(model.preprocess, "any_length", False)

    def reference(inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        with explain_input_errors(model):
            return torch_pass(tapped, inputs, "cpu")

    return OpenVinoSource(
        name=model.name,
        layers=[tap.layer for tap in taps],
        outputs=range(len(taps)),
        compile=functools.partial(compile_torch, tapped, batch, any_length),
        prepare=lambda inputs: inputs,
        finish=lambda _, output: output,
        reference=reference,
        library="torch",
    )


@dataclass(frozen=True)
class _EngineFactory:
    """How an engine of `ENGINE_ENTRIES` is made.

    Attributes
    ----------
    name: its name there.
    runs: whether it can run a model.
    make: makes it for a model, its taps, input batches and a precision.
    is_reference: whether the other engines that run the same model are compared with it.
    is_cpu_only: whether it runs on the CPU only.
    """

    name: str
    runs: Callable[[FrozenModel], bool]
    make: Callable[[FrozenModel, Sequence[Tap], Sequence[NDArray[Any]], str], Engine]
    is_reference: bool = False
    is_cpu_only: bool = False


# In the order in which ``"auto"`` chooses.
_FACTORIES = (
    _EngineFactory("openvino", _runs_in_openvino, _make_openvino, is_cpu_only=True),
    _EngineFactory("torch", _is_module, _make_torch, is_reference=True),
    _EngineFactory("onnxruntime", _is_graph, _make_onnxruntime, is_reference=True),
)
