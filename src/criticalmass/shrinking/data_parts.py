"""The parts of the data: rows to fit probes on, rows to select on, and rows to test on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import RowSubset
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.measures.protocol import validation_rows
from criticalmass.shrinking.probe_evaluator import LabelledRows
from criticalmass.storage.features import FeatureStore

# Enough rows to compare candidates; the certified probes are trained on every training row.
_MAX_FIT_ROWS, _MAX_SELECTION_ROWS = 20_000, 10_000
_SELECTION_SHARE = 0.25
_SEED = 1


@dataclass(frozen=True, eq=False)
class DataParts:
    """One layer of a store, split into parts.

    Attributes
    ----------
    layer: name of the layer.
    fit_pool: training rows that do not belong to the selection part.
    fit: at most 20,000 of them, on which probes are fitted while candidates are compared.
    selection: training rows on which candidates are compared, at most 10,000.
    train: all training rows.
    test: the test split, which takes no part in any choice.
    class_names: by class id; empty without labels.
    """

    layer: str
    fit_pool: LabelledRows
    fit: LabelledRows
    selection: LabelledRows
    train: LabelledRows
    test: LabelledRows
    class_names: tuple[str, ...]

    @property
    def n_neurons(self) -> int:
        """Width of the layer."""
        return int(self.train.rows.shape[1])

    def sizes(self) -> dict[str, int]:
        """Return the number of rows of every part, by its name in the manifest."""
        parts = {
            "fitted": self.fit,
            "selected": self.selection,
            "train": self.train,
            "certified": self.test,
        }
        return {name: int(part.rows.shape[0]) for name, part in parts.items()}


def split_data(store: FeatureStore, layer: str | None) -> DataParts:
    """Split a layer of a store into its parts. Rows are chosen with the fixed seed 1.

    Parameters
    ----------
    store: has the splits "train" and "test".
    layer: name of the layer; None for the only one, or ``penultimate``.

    Raises
    ------
    CriticalMassError: if the store lacks the layer, or has several and none is named.
    StoreError: if a split is missing.
    """
    for split in ("train", "test"):
        if split not in store.splits:
            raise StoreError(
                f"{str(store.path)!r} has no split {split!r}; shrink needs a train split and a "
                "test split: import or extract with both"
            )
    name = _resolve_layer(store, layer)
    rows, labels = store.features("train", name), store.labels("train")
    in_selection = validation_rows(labels, _SELECTION_SHARE, _SEED)
    rng = np.random.default_rng(_SEED)
    pool = np.flatnonzero(~in_selection)
    fit = sample_indices(pool, _MAX_FIT_ROWS, rng)
    selection = sample_indices(np.flatnonzero(in_selection), _MAX_SELECTION_ROWS, rng)
    return DataParts(
        layer=name,
        fit_pool=LabelledRows(RowSubset(rows, pool), labels[pool]),
        fit=LabelledRows(RowSubset(rows, fit), labels[fit]),
        selection=LabelledRows(RowSubset(rows, selection), labels[selection]),
        train=LabelledRows(rows, labels),
        test=LabelledRows(store.features("test", name), store.labels("test")),
        class_names=store.class_names,
    )


def _resolve_layer(store: FeatureStore, layer: str | None) -> str:
    if layer is not None:
        # The store raises an error with a suggestion for a name that it does not have.
        store.features("train", layer)
        return layer
    if len(store.layers) == 1:
        return store.layers[0]
    if "penultimate" in store.layers:
        return "penultimate"
    raise CriticalMassError(
        f"{str(store.path)!r} has the layers {', '.join(store.layers)}; name the one to shrink "
        "with layer=NAME"
    )


def sample_indices(
    indices: NDArray[np.intp], max_rows: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Draw at most ``max_rows`` of the indices, in their order."""
    if indices.size <= max_rows:
        return indices
    return np.sort(rng.choice(indices, max_rows, replace=False))
