"""A feature store as the jobs of a sweep read it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.similarity.task import WholeLayer
from criticalmass.selectors.inputs import Evidence
from criticalmass.selectors.registry import SELECTORS, Selection, select
from criticalmass.storage.digests import SEAL, sealed
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.files import read_manifest
from criticalmass.sweeps.plan import Job


@dataclass(frozen=True, eq=False)
class LayerData:
    """One layer of the store, with what several jobs on it share.

    Attributes
    ----------
    train, test: (n_samples, n_neurons) features of the splits.
    seen: what selectors choose by: the training split.
    """

    train: Rows
    test: Rows
    seen: Evidence
    _fixed: dict[str, Selection] = field(default_factory=dict)

    @cached_property
    def whole(self) -> WholeLayer:
        """The test split's raw features, with what every similarity needs of them."""
        return WholeLayer(self.test)

    def selection(self, selector: str, seed: int) -> Selection:
        """Apply a selector; what does not depend on the seed is kept for the next job."""
        if selector in self._fixed:
            return self._fixed[selector]
        chosen = select(selector, self.seen, seed=seed)
        if not SELECTORS[selector].is_random:
            self._fixed[selector] = chosen
        return chosen

    def orders(self, job: Job) -> NDArray[np.intp]:
        """(n_orders, n_neurons) permutations of a job on orders."""
        return np.stack([_order_of(self.selection(*pair)) for pair in job.orders])


@dataclass(frozen=True, eq=False)
class Workbench:
    """The store, its labels, and the data of the layer that is being worked on."""

    store: FeatureStore
    y_train: NDArray[np.int64]
    y_test: NDArray[np.int64]
    validation: NDArray[np.bool_]
    _open: dict[str, LayerData] = field(default_factory=dict)

    @classmethod
    def of(cls, store: FeatureStore) -> Workbench:
        """Read the labels of a store and set the validation rows apart."""
        y_train = store.labels("train")
        return cls(store, y_train, store.labels("test"), validation_rows(y_train))

    def layer(self, name: str) -> LayerData:
        """Open a layer; the one before is let go with its moments."""
        if name not in self._open:
            self._open.clear()
            features = self.store.features
            train, test = features("train", name), features("test", name)
            seen = Evidence(
                int(train.shape[1]),
                rows=train,
                labels=self.y_train,
                n_classes=len(self.store.class_names),
                validation=self.validation,
            )
            self._open[name] = LayerData(train, test, seen)
        return self._open[name]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as the store's path: features stay where they are."""
        return workbench_at, (str(self.store.path.resolve()), self.store.manifest)


# The last bench of this process, with what it has of its layer, for the next task on it.
_BENCHES: dict[tuple[str, str], Workbench] = {}


def workbench_at(path: str, manifest: Mapping[str, Any]) -> Workbench:
    """Open the store that another process has opened and verified.

    Raises
    ------
    StoreError: there is none at the path here, or another one.
    """
    key = (path, str(sealed(manifest)[SEAL]))
    if key not in _BENCHES:
        if read_manifest(Path(path)) != manifest:
            raise StoreError(
                f"{path!r} is another feature store on {os.uname().nodename} than where the work "
                "was started; put it on a file system that all machines share"
            )
        bench = Workbench.of(FeatureStore(Path(path), dict(manifest)))
        _BENCHES.clear()
        _BENCHES[key] = bench
    return _BENCHES[key]


def _order_of(selection: Selection) -> NDArray[np.intp]:
    if selection.order is None:
        raise CriticalMassError(f"selector {selection.selector!r} gives no order of neurons")
    return selection.order
