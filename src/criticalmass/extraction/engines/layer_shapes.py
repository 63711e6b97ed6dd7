"""A look at every place of a model where a layer can be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.engines.onnx_engine import OnnxEngine
from criticalmass.extraction.engines.torch_engine import device_of, exact, first_run
from criticalmass.extraction.models import FrozenModel, Tap
from criticalmass.extraction.models.onnx_models import OnnxGraph
from criticalmass.extraction.models.pooling import pooled
from criticalmass.extraction.models.preprocess import ImagePreprocess

_SAMPLES = 2
_TEXT = "a text of some words"


@dataclass(frozen=True)
class Place:
    """What one place gives.

    Attributes
    ----------
    layer: path of the module, or name of the tensor.
    kind: type of the module, or of the operation.
    shape: of one sample; empty if it gives no tensor, or not once a pass.
    neurons: of the layer, pooled; None if it cannot be read.
    """

    layer: str
    kind: str
    shape: tuple[int, ...]
    neurons: int | None


def survey(model: FrozenModel, batch: NDArray[Any] | None = None) -> list[Place]:
    """Run a batch and note what each place gives; the first is ``penultimate``.

    Parameters
    ----------
    model: a model.
    batch: input batch; a made-up one of two samples if None.

    Raises
    ------
    CriticalMassError: the width of its vectors is not to be seen from the model.
    """
    if batch is None:
        batch = example_batch(model)
    shapes = _graph_shapes(model, batch) if _is_graph(model) else _module_shapes(model, batch)
    first = shapes.pop(model.penultimate)
    places = [_place(model, model.penultimate.layer, model.penultimate.place, first, len(batch))]
    for tap, found in shapes.items():
        places.append(_place(model, tap.layer, model.places[tap.layer], found, len(batch)))
    return places


def blocks(model: FrozenModel, batch: NDArray[Any]) -> tuple[str, ...]:
    """List the building blocks of a network: what its outermost lists and sequences hold.

    Where some of these consist of others (residual blocks, transformer layers), single operations
    beside them (a stem's) are left out; so are the classifier, dropout and identities.

    Raises
    ------
    CriticalMassError: the network has no such lists.
    """
    if not _is_graph(model):
        readable = {place.layer for place in survey(model, batch) if place.neurons is not None}
        skipped = {model.penultimate.path} if model.penultimate.side == "input" else set()
        found = [name for name in _items(model.root) if name in readable - skipped]
        compound = [name for name in found if any(model.root.get_submodule(name).children())]
        if found:
            return tuple(compound or found)
    raise CriticalMassError(
        f"which layers of {model.name!r} 'all' stands for is unclear; name them beside it"
    )


def example_batch(model: FrozenModel) -> NDArray[Any]:
    """Make an input batch of two samples up.

    Raises
    ------
    CriticalMassError: the width of the vectors is not to be seen from the model.
    """
    items: Any = [_TEXT] * _SAMPLES
    if isinstance(model.preprocess, ImagePreprocess):
        side = model.preprocess.resize
        rng = np.random.default_rng(0)
        items = rng.integers(0, 256, (_SAMPLES, side, side, 3)).astype(np.uint8)
    elif model.modality == "vector":
        items = np.random.default_rng(0).standard_normal((_SAMPLES, _width(model)))
    return next(iter(model.preprocess.batches(items, _SAMPLES)))[1]


def _width(model: FrozenModel) -> int:
    if isinstance(model.module, OnnxGraph):
        width = model.module.shape[0]
    else:
        matrices = (weight for weight in model.module.parameters() if weight.ndim == 2)
        first = next(matrices, None)
        width = -1 if first is None else int(first.shape[1])
    if width < 1:
        raise CriticalMassError(f"how wide vectors {model.spec!r} takes is unclear")
    return width


def _is_graph(model: FrozenModel) -> bool:
    return isinstance(model.module, OnnxGraph)


def _place(
    model: FrozenModel, layer: str, kind: str, found: list[tuple[int, ...]], n: int
) -> Place:
    if len(found) != 1 or found[0][:1] != (n,):
        return Place(layer, kind, (), None)
    try:
        vectors, _ = pooled(
            np.broadcast_to(np.float32(0.0), found[0]),
            model.pool,
            channels_last=getattr(model.root, "output_fmt", None) == "NHWC",
            has_class=getattr(model.root, "num_prefix_tokens", 1) > 0,
        )
    except CriticalMassError:
        return Place(layer, kind, found[0][1:], None)
    return Place(layer, kind, found[0][1:], int(vectors.shape[1]))


def _graph_shapes(model: FrozenModel, batch: NDArray[Any]) -> dict[Tap, list[tuple[int, ...]]]:
    taps = [model.penultimate, *(model.tap(name) for name in model.places)]
    raw = OnnxEngine(model, taps).raw(batch)
    return {tap: [np.shape(value)] for tap, value in zip(taps, raw, strict=True)}


def _module_shapes(model: FrozenModel, batch: NDArray[Any]) -> dict[Tap, list[tuple[int, ...]]]:
    import torch

    from criticalmass.extraction.models.wrappers import first_tensor

    taps = [model.penultimate, *(model.tap(name) for name in model.places)]
    found: dict[Tap, list[tuple[int, ...]]] = {tap: [] for tap in taps}

    def note(tap: Tap, value: Any) -> None:
        try:
            found[tap].append(tuple(first_tensor(value).shape))
        except CriticalMassError:
            found[tap].append(())

    handles = []
    for tap in taps:
        place = model.root.get_submodule(tap.path)
        if tap.side == "input":
            handles.append(
                place.register_forward_pre_hook(lambda _, args, tap=tap: note(tap, args))
            )
        elif tap.path:
            handles.append(
                place.register_forward_hook(lambda _, __, output, tap=tap: note(tap, output))
            )
    try:
        with exact(), first_run(model):
            output = model.module(torch.from_numpy(batch).to(device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    if not model.penultimate.path and model.penultimate.side == "output":
        note(model.penultimate, output)
    return found


def _items(root: Any, prefix: str = "") -> Iterator[str]:
    """Yield the paths of what the outermost lists below a module hold."""
    from torch import nn

    is_list = isinstance(root, (nn.Sequential, nn.ModuleList))
    for name, child in root.named_children():
        path = f"{prefix}{name}"
        if is_list and not isinstance(child, (nn.Sequential, nn.ModuleList)):
            if not isinstance(child, (nn.Dropout, nn.Identity)):
                yield path
        else:
            yield from _items(child, f"{path}.")
