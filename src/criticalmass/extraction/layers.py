"""Which layers an extraction reads, and which of them it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.extraction.engines import Layer
from criticalmass.extraction.engines.layer_shapes import blocks
from criticalmass.extraction.models import FrozenModel
from criticalmass.extraction.models.frozen import is_pattern

ALL = "all"


@dataclass(frozen=True)
class Choice:
    """The layers of one extraction.

    Attributes
    ----------
    kept: layers that are stored each by itself.
    parts: layers that are stored side by side under the name ``all``; none if that is not asked.
    """

    kept: tuple[str, ...]
    parts: tuple[str, ...]

    @property
    def read(self) -> tuple[str, ...]:
        """Every layer that the pass reads."""
        return tuple(dict.fromkeys([*self.kept, *self.parts]))

    def request(self, dtype: str) -> dict[str, Any]:
        """Say what is stored, to compare with what a store holds."""
        asked: dict[str, Any] = dict.fromkeys(self.kept, dtype)
        if self.parts:
            asked[ALL] = {"dtype": dtype, "parts": list(self.parts)}
        return asked

    def entries(self, found: Sequence[Layer], dtype: str, splits: Sequence[str]) -> dict[str, Any]:
        """Describe each stored layer for the manifest.

        Parameters
        ----------
        found: what the dry run found out, for every layer of ``read``.
        dtype: stored type.
        splits: of the dataset.
        """
        known = {layer.tap.layer: layer for layer in found}
        entries: dict[str, Any] = {
            name: {**_entry(known[name]), "dtype": dtype, "shape": [known[name].width]}
            for name in self.kept
        }
        if self.parts:
            entries[ALL] = {
                "place": f"{len(self.parts)} layers side by side",
                "pooling": "that of each part",
                "dtype": dtype,
                "shape": [sum(known[name].width for name in self.parts)],
                "parts": {
                    name: {**_entry(known[name]), "neurons": known[name].width}
                    for name in self.parts
                },
                # Stored raw; whoever reads gets each column over its norm.
                "norm_split": "train" if "train" in splits else splits[0],
            }
        return entries

    def stored(self, read: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Turn what the pass gives, layer -> (n, d), into what is stored."""
        stored = {name: read[name] for name in self.kept}
        if self.parts:
            stored[ALL] = np.concatenate([read[name] for name in self.parts], axis=1)
        return stored


def _entry(layer: Layer) -> dict[str, Any]:
    return {"place": layer.tap.place, "pooling": layer.pooling}


def held(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Say what a store holds, in the form of ``Choice.request``."""
    return {
        name: {"dtype": entry["dtype"], "parts": list(entry["parts"])}
        if "parts" in entry
        else entry["dtype"]
        for name, entry in entries.items()
    }


def named(layers: Sequence[str]) -> Choice | None:
    """Make the choice without the model where names alone decide it; None where they do not."""
    if ALL in layers or any(is_pattern(layer) for layer in layers):
        return None
    return Choice(tuple(layers), ())


def choose(model: FrozenModel, layers: Sequence[str], batch: NDArray[Any]) -> Choice:
    """Find the layers that names and patterns stand for.

    Parameters
    ----------
    model: the model.
    layers: names, patterns, and ``all``: the others side by side, or, alone, every building
        block of the network.
    batch: input batch for a first look.

    Raises
    ------
    CriticalMassError: a name or pattern that fits no layer, or ``all`` of an unclear network.
    """
    kept = model.expand([layer for layer in layers if layer != ALL])
    if ALL not in layers:
        return Choice(kept, ())
    return Choice(kept, kept or blocks(model, batch))
