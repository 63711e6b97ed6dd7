"""Backbone, kept neurons and head as one ONNX graph, whose outputs are compared with torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.audio_inputs import AudioPreprocess
from criticalmass.extraction.models.optional_imports import import_torch
from criticalmass.extraction.models.preprocess import TextPreprocess
from criticalmass.shrinking.export.backbone import Backbone
from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import ExportRequest
from criticalmass.shrinking.export.torch_folder import (
    build_modules,
    check_deviation,
    to_input_tensors,
)
from criticalmass.storage.files import write_json

FILE = "model.onnx"
CONFIG = "config.json"
_OPSET = 17


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write ``model.onnx`` and ``config.json``.

    The graph takes any batch size, and texts and frames of sounds of any length.

    Raises
    ------
    MissingExtraError: if torch, onnx or onnxruntime is not installed.
    CriticalMassError: if the backbone cannot be traced, or the outputs of the graph differ.
    """
    torch = import_torch()
    from criticalmass.extraction.engines import quiet_tracing

    import_package("onnx", "export")
    runtime = import_package("onnxruntime", "export")
    module, backbone, config = build_modules(request)
    inputs = _trace_inputs(backbone, request.slim.n_neurons)
    names: list[str] = [*config["inputs"], *config["outputs"]]
    axes = {name: {0: "batch"} for name in names}
    for name in ("input_ids", "attention_mask"):
        if name in axes:
            axes[name][1] = "tokens"
    preprocess = None if backbone is None else backbone.model.preprocess
    any_length = isinstance(preprocess, AudioPreprocess) and preprocess.any_length
    if any_length:
        axes["sounds"][inputs[0].ndim - 1] = "frames"
    file = folder / FILE
    with quiet_tracing(), warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        try:
            # The tracing exporter, because it follows the hook that reads the layer.
            torch.onnx.export(
                module,
                inputs,
                str(file),
                dynamo=False,
                opset_version=_OPSET,
                input_names=config["inputs"],
                output_names=config["outputs"],
                dynamic_axes=axes,
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise CriticalMassError(
                f"this backbone cannot be converted to ONNX ({reason}); use model='none'"
            ) from error
        deviation = max(
            _deviation(runtime, file, module, checked)
            for checked in _check_inputs(inputs, any_length=any_length)
        )
    write_json(folder / CONFIG, config)
    if isinstance(preprocess, TextPreprocess):
        preprocess.tokenizer.save_pretrained(str(folder))
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "opset": _OPSET,
        "deviation": deviation,
    }


def _trace_inputs(backbone: Backbone | None, n_neurons: int) -> tuple[Any, ...]:
    """Return inputs of two items to trace with: a batch size of 1 may become a constant."""
    import torch

    batch = None if backbone is None else backbone.sample_batch()
    if backbone is None or batch is None:
        width = n_neurons if backbone is None else _input_width(backbone)
        rows = np.random.default_rng(0).standard_normal((2, width))
        return (torch.from_numpy(rows.astype(np.float32)),)
    return to_input_tensors(np.concatenate([batch, batch])[:2], has_mask=backbone.has_mask)


def _input_width(backbone: Backbone) -> int:
    """Return the width of a backbone's input vectors: that of its first linear module."""
    from torch import nn

    for module in backbone.model.root.modules():
        if isinstance(module, nn.Linear):
            return module.in_features
    raise CriticalMassError(
        f"the input width of model {backbone.model.spec!r} is unknown: it has no linear module; "
        "use model='none' and run the graph on its outputs"
    )


def _check_inputs(inputs: tuple[Any, ...], *, any_length: bool) -> list[tuple[Any, ...]]:
    """Return the inputs to compare on: the traced ones, and a batch of another size.

    Sounds of any length are also longer in that batch.
    """
    import torch

    larger = tuple(torch.cat([tensor, tensor.flip(0), tensor])[:5] for tensor in inputs)
    if len(inputs) == 2:
        # Longer texts, one of them with padding.
        ids, mask = (torch.cat([tensor, tensor], dim=1) for tensor in larger)
        mask[0, mask.shape[1] // 2 :] = 0
        return [inputs, (ids, mask)]
    if any_length:
        larger = (torch.cat([larger[0], larger[0].flip(-1)], dim=-1),)
    return [inputs, larger]


def _deviation(runtime: Any, file: Path, module: Any, inputs: tuple[Any, ...]) -> float:
    """Return the largest relative difference of the graph's outputs from those of torch."""
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [spec.name for spec in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    outputs: list[NDArray[Any]] = session.run(None, feed)
    expected = [output.numpy() for output in module(*inputs)]
    return check_deviation(outputs, expected, "the ONNX graph")
