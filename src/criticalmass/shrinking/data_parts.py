"""The parts of the data that choosing and promising are kept apart by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import RowSubset
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.measures.protocol import validation_rows
from criticalmass.shrinking.probe_evaluator import Part
from criticalmass.storage.features import FeatureStore

# Enough to tell candidates apart; the certified probes see every training row.
_MOST_FITTED, _MOST_SELECTED = 20_000, 10_000
_SELECTED_SHARE = 0.25
_SEED = 1


@dataclass(frozen=True, eq=False)
class Parts:
    """One layer of a store, in parts.

    Attributes
    ----------
    layer: its name.
    unselected: training rows that are not for the selection.
    fitted: those of them that the probes of the competition are fitted on.
    selected: training rows that they are judged on.
    train: all training rows.
    certified: the test split, on which the promise is made.
    class_names: by class id; empty without labels.
    """

    layer: str
    unselected: Part
    fitted: Part
    selected: Part
    train: Part
    certified: Part
    class_names: tuple[str, ...]

    @property
    def n_neurons(self) -> int:
        """Width of the layer."""
        return int(self.train.rows.shape[1])

    def sizes(self) -> dict[str, int]:
        """Return the number of rows of every part, for the record."""
        named = {
            "fitted": self.fitted,
            "selected": self.selected,
            "train": self.train,
            "certified": self.certified,
        }
        return {name: int(part.rows.shape[0]) for name, part in named.items()}


def parts_of(store: FeatureStore, layer: str | None) -> Parts:
    """Take a layer of a store apart; the choice of rows is recorded by its seed, 1.

    Parameters
    ----------
    store: has the splits "train" and "test".
    layer: its name; None for the only one, or ``penultimate``.

    Raises
    ------
    CriticalMassError: if the layer is not there, or not told.
    StoreError: if a split is missing.
    """
    for split in ("train", "test"):
        if split not in store.splits:
            raise StoreError(
                f"{str(store.path)!r} has no split {split!r}; the promise needs a test split that "
                "took no part in choosing: import or extract with both"
            )
    name = _layer(store, layer)
    rows, labels = store.features("train", name), store.labels("train")
    selected = validation_rows(labels, _SELECTED_SHARE, _SEED)
    rng = np.random.default_rng(_SEED)
    free = np.flatnonzero(~selected)
    fitted_rows = _at_most(free, _MOST_FITTED, rng)
    selected_rows = _at_most(np.flatnonzero(selected), _MOST_SELECTED, rng)
    return Parts(
        layer=name,
        unselected=Part(RowSubset(rows, free), labels[free]),
        fitted=Part(RowSubset(rows, fitted_rows), labels[fitted_rows]),
        selected=Part(RowSubset(rows, selected_rows), labels[selected_rows]),
        train=Part(rows, labels),
        certified=Part(store.features("test", name), store.labels("test")),
        class_names=store.class_names,
    )


def _layer(store: FeatureStore, layer: str | None) -> str:
    if layer is not None:
        # The store itself refuses a name that it does not have, with a did-you-mean.
        store.features("train", layer)
        return layer
    if len(store.layers) == 1:
        return store.layers[0]
    if "penultimate" in store.layers:
        return "penultimate"
    raise CriticalMassError(
        f"{str(store.path)!r} has the layers {', '.join(store.layers)}; name the one to shrink"
    )


def _at_most(index: NDArray[np.intp], most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw at most so many of the rows, in their order."""
    if index.size <= most:
        return index
    return np.sort(rng.choice(index, most, replace=False))
