"""Backbone, kept neurons and head as one ONNX graph, checked by running it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.optional_imports import import_torch
from criticalmass.extraction.models.preprocess import TextPreprocess
from criticalmass.shrinking.export.backbone import Backbone
from criticalmass.shrinking.export.folder import Facts
from criticalmass.shrinking.export.request import Request
from criticalmass.shrinking.export.torch_folder import assemble, compare, sample_inputs
from criticalmass.storage.files import write_json

FILE = "model.onnx"
CONFIG = "config.json"
_OPSET = 17


def write(request: Request, folder: Path) -> Facts:
    """Write ``model.onnx`` and ``config.json``; any batch size, of texts any length.

    Raises
    ------
    MissingExtraError: torch, onnx or onnxruntime is not installed.
    CriticalMassError: a backbone that cannot be traced, or whose graph gives other numbers.
    """
    torch = import_torch()
    from criticalmass.extraction.engines import quiet_tracing

    import_package("onnx", "export")
    runtime = import_package("onnxruntime", "export")
    module, backbone, config = assemble(request)
    inputs = _inputs(backbone, request.slim.n_neurons)
    names: list[str] = [*config["inputs"], *config["outputs"]]
    axes = {name: {0: "batch"} for name in names}
    for name in ("input_ids", "attention_mask"):
        if name in axes:
            axes[name][1] = "tokens"
    file = folder / FILE
    with quiet_tracing(), warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        try:
            # The tracing exporter: it sees the layer that a hook reads.
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
            raise CriticalMassError(f"this backbone cannot be made ONNX: {reason}") from error
        gap = max(_gap(runtime, file, module, one) for one in _checks(inputs))
    write_json(folder / CONFIG, config)
    if backbone is not None and isinstance(backbone.model.preprocess, TextPreprocess):
        backbone.model.preprocess.tokenizer.save_pretrained(str(folder))
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "opset": _OPSET,
        "deviation": gap,
    }


def _inputs(backbone: Backbone | None, n_neurons: int) -> tuple[Any, ...]:
    """Return inputs to trace with: two items at least, one alone may be taken for a constant."""
    import torch

    batch = None if backbone is None else backbone.sample()
    if backbone is None or batch is None:
        width = n_neurons if backbone is None else _width_in(backbone)
        rows = np.random.default_rng(0).standard_normal((2, width))
        return (torch.from_numpy(rows.astype(np.float32)),)
    return sample_inputs(backbone, np.concatenate([batch, batch])[:2])


def _width_in(backbone: Backbone) -> int:
    """Return the width of the vectors that a backbone takes: that of its first linear module."""
    from torch import nn

    for module in backbone.model.root.modules():
        if isinstance(module, nn.Linear):
            return module.in_features
    raise CriticalMassError(
        f"how wide vectors model {backbone.model.spec!r} takes is unclear, as it has no linear "
        "module; use model='none' and put the graph behind it"
    )


def _checks(inputs: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return what to compare on: the traced inputs, and others of another batch size."""
    import torch

    more = tuple(torch.cat([one, one.flip(0), one])[:5] for one in inputs)
    if len(inputs) == 2:
        # Longer texts, one of them with padding.
        ids, mask = (torch.cat([one, one], dim=1) for one in more)
        mask[0, mask.shape[1] // 2 :] = 0
        return [inputs, (ids, mask)]
    return [inputs, more]


def _gap(runtime: Any, file: Path, module: Any, inputs: tuple[Any, ...]) -> float:
    """Return the graph's largest relative difference from torch."""
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given = [one.numpy() for one in inputs]
    fed = {spec.name: one for spec, one in zip(session.get_inputs(), given, strict=True)}
    found: list[NDArray[Any]] = session.run(None, fed)
    return compare(found, [output.numpy() for output in module(*inputs)], "the ONNX graph")
