"""The layers that an extraction reads, and the layers that it stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.extraction.engines import TappedLayer
from criticalmass.extraction.engines.layer_shapes import building_blocks
from criticalmass.extraction.models import FrozenModel
from criticalmass.extraction.models.frozen import is_pattern
from criticalmass.storage.classifier import Classifier

ALL = "all"


@dataclass(frozen=True)
class LayerSelection:
    """The layers of one extraction.

    Attributes
    ----------
    single: layers that are stored under their own name.
    parts: layers that are concatenated and stored under the name ``all``; empty if ``all`` is not
        requested.
    """

    single: tuple[str, ...]
    parts: tuple[str, ...]

    @property
    def read(self) -> tuple[str, ...]:
        """Every layer that the model pass reads, each once."""
        return tuple(dict.fromkeys([*self.single, *self.parts]))

    def request(self, dtype: str) -> dict[str, Any]:
        """Describe what will be stored, in the form of `stored_request`."""
        request: dict[str, Any] = dict.fromkeys(self.single, dtype)
        if self.parts:
            request[ALL] = {"dtype": dtype, "parts": list(self.parts)}
        return request

    def manifest_entries(
        self, layers: Sequence[TappedLayer], dtype: str, splits: Sequence[str]
    ) -> dict[str, Any]:
        """Describe each stored layer for the manifest.

        Parameters
        ----------
        layers: the dry run's result for every layer of ``read``.
        dtype: stored type.
        splits: names of the dataset's splits.
        """
        by_name = {layer.tap.layer: layer for layer in layers}
        entries: dict[str, Any] = {
            name: {**_manifest_entry(by_name[name]), "dtype": dtype, "shape": [by_name[name].width]}
            for name in self.single
        }
        if self.parts:
            entries[ALL] = {
                "place": f"{len(self.parts)} layers side by side",
                "pooling": "that of each part",
                "dtype": dtype,
                "shape": [sum(by_name[name].width for name in self.parts)],
                "parts": {
                    name: {**_manifest_entry(by_name[name]), "neurons": by_name[name].width}
                    for name in self.parts
                },
                # The values are stored unscaled; a reader divides each column by its norm in
                # this split.
                "norm_split": "train" if "train" in splits else splits[0],
            }
        return entries

    def assemble(
        self, outputs: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        """Turn the output of the pass, layer -> (n, n_neurons), into the arrays to store."""
        stored = {name: outputs[name] for name in self.single}
        if self.parts:
            stored[ALL] = np.concatenate([outputs[name] for name in self.parts], axis=1)
        return stored


def _manifest_entry(layer: TappedLayer) -> dict[str, Any]:
    return {"place": layer.tap.description, "pooling": layer.pooling}


def stored_request(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Describe what a store holds, in the form of ``LayerSelection.request``.

    Parameters
    ----------
    entries: ``layers`` of the store's manifest.
    """
    return {
        name: {"dtype": entry["dtype"], "parts": list(entry["parts"])}
        if "parts" in entry
        else entry["dtype"]
        for name, entry in entries.items()
    }


def select_by_name(layers: Sequence[str]) -> LayerSelection | None:
    """Select layers without the model; None if a pattern or ``all`` needs the model."""
    if ALL in layers or any(is_pattern(layer) for layer in layers):
        return None
    return LayerSelection(tuple(layers), ())


def select_layers(model: FrozenModel, layers: Sequence[str], batch: NDArray[Any]) -> LayerSelection:
    """Select the layers that match names and patterns.

    Parameters
    ----------
    model: the model.
    layers: names, patterns, and ``all``. ``all`` concatenates the other layers; alone, it
        concatenates every building block of the network.
    batch: input batch for a dry run.

    Raises
    ------
    CriticalMassError: a name or pattern matches no layer, or ``all`` is ambiguous for the network.
    """
    single = model.expand([layer for layer in layers if layer != ALL])
    if ALL not in layers:
        return LayerSelection(single, ())
    return LayerSelection(single, single or building_blocks(model, batch))


def own_classifier(model: FrozenModel, layers: Sequence[TappedLayer]) -> Classifier | None:
    """Return the classifier of a network, if it is one linear module that reads one of the layers.

    Parameters
    ----------
    model: the model.
    layers: the dry run's result for the layers that are stored under their own name.

    Returns
    -------
    The weights of the module, with the model's names of the outputs; None if the network ends
    otherwise, or the layer that it reads is not among the layers or is pooled.
    """
    tap = model.penultimate
    read = next((layer for layer in layers if layer.tap == tap), None)
    if read is None or read.pooling != "none" or tap.side != "input" or tap.more_paths:
        return None
    if not hasattr(model.root, "get_submodule"):
        return None
    import torch

    module = model.root.get_submodule(tap.path)
    if not isinstance(module, torch.nn.Linear):
        return None
    weight = module.weight.detach().float().cpu().numpy().copy()
    bias = np.zeros(len(weight), dtype=np.float32)
    if module.bias is not None:
        bias[:] = module.bias.detach().float().cpu().numpy()
    # A subclass may compute something else, e.g. cosines or an adapter.
    example = np.random.default_rng(0).standard_normal((4, weight.shape[1])).astype(np.float32)
    with torch.no_grad():
        outputs = module(torch.from_numpy(example).to(module.weight)).float().cpu().numpy()
    if not np.allclose(outputs, example @ weight.T + bias, rtol=1e-2, atol=1e-2):
        return None
    return Classifier(tap.layer, weight, bias, model.output_names)
