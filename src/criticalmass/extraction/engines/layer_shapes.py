"""The output shape of every layer of a model that can be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.engines.onnx_engine import OnnxEngine
from criticalmass.extraction.engines.torch_engine import (
    device_of,
    exact_float32,
    explain_input_errors,
    tapped_model,
    torch_pass,
)
from criticalmass.extraction.models import FrozenModel, Tap
from criticalmass.extraction.models.audio_inputs import AudioPreprocess
from criticalmass.extraction.models.onnx_models import OnnxGraph
from criticalmass.extraction.models.penultimate import input_width
from criticalmass.extraction.models.pooling import pool_values
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.extraction.sounds import Sound

_N_SAMPLES = 2
_EXAMPLE_TEXT = "a text of some words"


@dataclass(frozen=True)
class LayerShape:
    """The output of one layer.

    Attributes
    ----------
    layer: path of the module, or name of the tensor.
    kind: type of the module, or of the operation.
    shape: shape of one sample; empty if the layer returns no tensor, or does not run exactly once
        per pass.
    neurons: number of neurons after pooling; None if the layer cannot be read.
    """

    layer: str
    kind: str
    shape: tuple[int, ...]
    neurons: int | None


def list_layer_shapes(model: FrozenModel, batch: NDArray[Any] | None = None) -> list[LayerShape]:
    """Run one batch and record the output of every layer; ``penultimate`` comes first.

    Parameters
    ----------
    model: the model.
    batch: input batch; None for `example_batch`.

    Raises
    ------
    CriticalMassError: ``batch`` is None and the model does not show the width of its input.
    """
    if batch is None:
        batch = example_batch(model)
    shapes = _graph_shapes(model, batch) if _is_graph(model) else _module_shapes(model, batch)
    tap = model.penultimate
    layers = [_layer_shape(model, tap.layer, tap.description, shapes.pop(tap), len(batch))]
    for tap, runs in shapes.items():
        layers.append(_layer_shape(model, tap.layer, model.places[tap.layer], runs, len(batch)))
    return layers


def building_blocks(model: FrozenModel, batch: NDArray[Any]) -> tuple[str, ...]:
    """List the building blocks of a network: the items of its outermost lists and sequences.

    If some items are compound (residual blocks, transformer layers), single operations, such as
    those of a stem, are left out. The classifier, dropout and identities are always left out.

    Raises
    ------
    CriticalMassError: the network has no such lists.
    """
    if not _is_graph(model):
        readable = {
            layer.layer for layer in list_layer_shapes(model, batch) if layer.neurons is not None
        }
        excluded = set(model.penultimate.paths) if model.penultimate.side == "input" else set()
        blocks = [path for path in _block_paths(model.root) if path in readable - excluded]
        compound = [path for path in blocks if any(model.root.get_submodule(path).children())]
        if blocks:
            return tuple(compound or blocks)
    raise CriticalMassError(
        f"layers='all' is ambiguous for model {model.name!r}, which has no lists of blocks; "
        "name the layers in addition to 'all'"
    )


def example_batch(model: FrozenModel) -> NDArray[Any]:
    """Make an input batch of two artificial samples.

    Raises
    ------
    CriticalMassError: the model takes vectors and does not show their width.
    """
    items: Any = [_EXAMPLE_TEXT] * _N_SAMPLES
    if isinstance(model.preprocess, ImagePreprocess):
        side = model.preprocess.resize
        rng = np.random.default_rng(0)
        items = rng.integers(0, 256, (_N_SAMPLES, side, side, 3)).astype(np.uint8)
    elif isinstance(model.preprocess, AudioPreprocess):
        rate = model.preprocess.rate
        samples = np.random.default_rng(0).standard_normal(rate).astype(np.float32)
        items = [Sound(samples, rate)] * _N_SAMPLES
    elif model.modality == "vector":
        items = np.random.default_rng(0).standard_normal((_N_SAMPLES, _input_width(model)))
    return next(iter(model.preprocess.batches(items, _N_SAMPLES)))[1]


def _input_width(model: FrozenModel) -> int:
    is_graph = isinstance(model.module, OnnxGraph)
    width = model.module.shape[0] if is_graph else input_width(model.module)
    if width is None or width < 1:
        raise CriticalMassError(
            f"model {model.spec!r} does not show the width of its input vectors; "
            "extract a layer by its name"
        )
    return int(width)


def _is_graph(model: FrozenModel) -> bool:
    return isinstance(model.module, OnnxGraph)


def _layer_shape(
    model: FrozenModel, layer: str, kind: str, runs: list[tuple[int, ...]], n_samples: int
) -> LayerShape:
    """Describe a layer by the shape of its output in each of its runs in one pass."""
    if len(runs) != 1 or runs[0][:1] != (n_samples,):
        return LayerShape(layer, kind, (), None)
    shape = runs[0]
    try:
        neurons = _n_neurons(model, shape)
    except CriticalMassError:
        return LayerShape(layer, kind, shape[1:], None)
    return LayerShape(layer, kind, shape[1:], neurons)


def _n_neurons(model: FrozenModel, shape: tuple[int, ...]) -> int:
    """Return the number of neurons after pooling.

    Raises
    ------
    CriticalMassError: the shape cannot be pooled.
    """
    values = np.broadcast_to(np.float32(0.0), shape)
    return int(pool_values(values, model.pool, model.token_layout)[0].shape[1])


def _graph_shapes(model: FrozenModel, batch: NDArray[Any]) -> dict[Tap, list[tuple[int, ...]]]:
    taps = [model.penultimate, *(model.tap(name) for name in model.places)]
    values = OnnxEngine(model, taps).raw_tensors(batch)
    return {tap: [np.shape(value)] for tap, value in zip(taps, values, strict=True)}


def _module_shapes(model: FrozenModel, batch: NDArray[Any]) -> dict[Tap, list[tuple[int, ...]]]:
    from criticalmass.extraction.models.wrappers import as_tensors, first_tensor

    taps = [model.penultimate, *(model.tap(name) for name in model.places)]
    shapes: dict[Tap, list[tuple[int, ...]]] = {tap: [] for tap in taps}

    def record(tap: Tap, value: Any) -> None:
        try:
            shapes[tap].append(tuple(first_tensor(value).shape))
        except CriticalMassError:
            shapes[tap].append(())

    handles = []
    single = [tap for tap in taps if not tap.more_paths]
    for tap in single:
        module = model.root.get_submodule(tap.path)
        if tap.side == "input":
            handles.append(
                module.register_forward_pre_hook(lambda _, args, tap=tap: record(tap, args))
            )
        elif tap.path:
            handles.append(
                module.register_forward_hook(lambda _, __, output, tap=tap: record(tap, output))
            )
    try:
        with exact_float32(), explain_input_errors(model):
            output = model.module(as_tensors(batch, device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    if not model.penultimate.path and model.penultimate.side == "output":
        record(model.penultimate, output)
    if model.penultimate not in single:
        # Only a second pass joins the inputs of several classifiers.
        joined = torch_pass(tapped_model(model, [model.penultimate]), batch, device_of(model))
        shapes[model.penultimate].append(joined[0].shape)
    return shapes


def _block_paths(root: Any, prefix: str = "") -> Iterator[str]:
    """Yield the path of each item of the outermost lists and sequences below a module."""
    from torch import nn

    is_list = isinstance(root, (nn.Sequential, nn.ModuleList))
    for name, child in root.named_children():
        path = f"{prefix}{name}"
        if is_list and not isinstance(child, (nn.Sequential, nn.ModuleList)):
            if not isinstance(child, (nn.Dropout, nn.Identity)):
                yield path
        else:
            yield from _block_paths(child, f"{path}.")
