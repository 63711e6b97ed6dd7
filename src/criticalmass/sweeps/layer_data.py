"""The features and labels of a store as the jobs of a sweep read them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.similarity.task import WholeLayer
from criticalmass.selectors.inputs import SelectorInput
from criticalmass.selectors.registry import SELECTORS, Selection, select
from criticalmass.storage.digests import DIGEST_KEY, with_digest
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.files import read_manifest
from criticalmass.sweeps.plan import SweepJob


class LayerData:
    """One layer of the store, with the intermediate results that several jobs share.

    Parameters
    ----------
    train, test: (n_samples, n_neurons) features of the splits.
    selector_input: what selectors see: the training split.
    """

    def __init__(self, train: Rows, test: Rows, selector_input: SelectorInput) -> None:
        self.train = train
        self.test = test
        self.selector_input = selector_input
        self._deterministic: dict[str, Selection] = {}

    @cached_property
    def whole_layer(self) -> WholeLayer:
        """The raw features of the test split, with what the similarities compute from them."""
        return WholeLayer(self.test)

    def selection(self, selector: str, seed: int) -> Selection:
        """Apply a selector; a selection that does not depend on the seed is cached."""
        if selector in self._deterministic:
            return self._deterministic[selector]
        selection = select(selector, self.selector_input, seed=seed)
        if not SELECTORS[selector].is_random:
            self._deterministic[selector] = selection
        return selection

    def orders(self, job: SweepJob) -> NDArray[np.intp]:
        """Return the (n_orders, n_neurons) permutations of a job on orders."""
        return np.stack([_require_order(self.selection(*pair)) for pair in job.orders])


class SweepData:
    """A store, its labels, and the data of one open layer.

    Parameters
    ----------
    store: the features.
    y_train, y_test: (n_samples,) class ids of the splits.
    validation: (n_train,) marks the training rows on which strengths are chosen.
    """

    def __init__(
        self,
        store: FeatureStore,
        y_train: NDArray[np.int64],
        y_test: NDArray[np.int64],
        validation: NDArray[np.bool_],
    ) -> None:
        self.store = store
        self.y_train = y_train
        self.y_test = y_test
        self.validation = validation
        self._open_layer: tuple[str, LayerData] | None = None

    @classmethod
    def from_store(cls, store: FeatureStore) -> SweepData:
        """Read the labels of a store and choose the validation rows."""
        y_train = store.labels("train")
        return cls(store, y_train, store.labels("test"), validation_rows(y_train))

    def layer(self, name: str) -> LayerData:
        """Open a layer; the previous layer and its moments are released first."""
        if self._open_layer is None or self._open_layer[0] != name:
            self._open_layer = None
            train, test = (self.store.features(split, name) for split in ("train", "test"))
            selector_input = SelectorInput(
                int(train.shape[1]),
                rows=train,
                labels=self.y_train,
                n_classes=len(self.store.class_names),
                validation=self.validation,
            )
            self._open_layer = name, LayerData(train, test, selector_input)
        return self._open_layer[1]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the store's path and manifest; the other process reads the features there."""
        return open_sweep_data, (str(self.store.path.resolve()), self.store.manifest)


# The store that this process opened last, with its open layer, for the next job on it.
_LAST_OPENED: dict[tuple[str, str], SweepData] = {}


def open_sweep_data(path: str, manifest: Mapping[str, Any]) -> SweepData:
    """Open a store that another process has opened and verified.

    Parameters
    ----------
    path: absolute path of the store.
    manifest: the manifest that the other process read.

    Raises
    ------
    StoreError: this machine has no store, or a different one, at the path.
    """
    key = (path, str(with_digest(manifest)[DIGEST_KEY]))
    if key not in _LAST_OPENED:
        if read_manifest(Path(path)) != manifest:
            raise StoreError(
                f"{path!r} on {os.uname().nodename} differs from the feature store that the sweep "
                "opened; put the store on a file system that all machines share"
            )
        data = SweepData.from_store(FeatureStore(Path(path), dict(manifest)))
        _LAST_OPENED.clear()
        _LAST_OPENED[key] = data
    return _LAST_OPENED[key]


def _require_order(selection: Selection) -> NDArray[np.intp]:
    if selection.order is None:
        raise CriticalMassError(f"selector {selection.selector!r} gives no order of neurons")
    return selection.order
