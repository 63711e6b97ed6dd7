"""The features and labels of a store as the jobs of a sweep read them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.compute import Compute
from criticalmass.core.rows import Rows, RowSubset
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import MEASURES
from criticalmass.measures.similarity.task import Gallery, WholeLayer
from criticalmass.selectors.inputs import SelectorInput
from criticalmass.selectors.registry import SELECTORS, Selection, select
from criticalmass.storage.classifier import Classifier
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.prompts import ClassPrompts
from criticalmass.storage.qrels import Qrels


class LayerData:
    """One layer of the store, with the intermediate results that several jobs share.

    Parameters
    ----------
    train, test: (n_samples, n_neurons) features of the splits.
    selector_input: what selectors see: the training split.
    test_labels: (n_test,) class ids.
    qrels: relevant documents, if ``test`` has the queries of a collection and ``train`` its
        documents.
    """

    def __init__(
        self,
        train: Rows,
        test: Rows,
        selector_input: SelectorInput,
        test_labels: NDArray[np.int64],
        qrels: Qrels | None = None,
    ) -> None:
        self.train = train
        self.test = test
        self.selector_input = selector_input
        self.test_labels = test_labels
        self.qrels = qrels
        self._deterministic: dict[str, Selection] = {}

    @cached_property
    def whole_layer(self) -> WholeLayer:
        """The raw features of the test split, with what the similarities compute from them."""
        gallery = None if self.qrels is None else Gallery(self.train, self.qrels)
        return WholeLayer(
            self.test,
            compute=self.selector_input.compute,
            gallery=gallery,
            labels=self.test_labels,
            training_moments=lambda: self.selector_input.moments,
        )

    def selection(self, selector: str, seed: int) -> Selection:
        """Apply a selector; a selection that does not depend on the seed is cached."""
        if selector in self._deterministic:
            return self._deterministic[selector]
        selection = select(selector, self.selector_input, seed=seed)
        if not SELECTORS[selector].is_random:
            self._deterministic[selector] = selection
        return selection

    def orders(self, pairs: Iterable[tuple[str, int]]) -> NDArray[np.intp]:
        """Return the (n_orders, n_neurons) permutations of (selector, seed) pairs."""
        return np.stack([_require_order(self.selection(*pair)) for pair in pairs])


class SweepData:
    """A store, its labels, and the data of one open layer.

    Parameters
    ----------
    store: the features.
    y_train, y_test: (n_samples,) class ids of the splits.
    validation: (n_train,) marks the training rows on which strengths are chosen.
    compute: threads, device, memory and workers of all that is computed from them.
    training_rows: ascending numbers of the training rows to use, (n_train,); None uses all.
    """

    def __init__(
        self,
        store: FeatureStore,
        y_train: NDArray[np.int64],
        y_test: NDArray[np.int64],
        validation: NDArray[np.bool_],
        compute: Compute,
        training_rows: NDArray[np.intp] | None = None,
    ) -> None:
        self.store = store
        self.y_train = y_train
        self.y_test = y_test
        self.validation = validation
        self.compute = compute
        self.training_rows = training_rows
        self._open_layer: tuple[str, LayerData] | None = None

    @classmethod
    def from_store(
        cls,
        store: FeatureStore,
        compute: Compute,
        training_rows: NDArray[np.intp] | None = None,
    ) -> SweepData:
        """Read the labels of a store and choose the validation rows among the training rows."""
        y_train, y_test = store.labels("train"), store.labels("test")
        if training_rows is not None:
            y_train = y_train[training_rows]
        return cls(store, y_train, y_test, validation_rows(y_train), compute, training_rows)

    def with_compute(self, compute: Compute) -> SweepData:
        """Return the same data for another `Compute`, with no layer open."""
        parts = self.store, self.y_train, self.y_test, self.validation
        return SweepData(*parts, compute, self.training_rows)

    def classifier(self, layer: str) -> Classifier:
        """Return the network's own classifier on a layer, with the classes as its outputs.

        Raises
        ------
        CriticalMassError: none is stored for the layer, or it has other classes.
        """
        classifier = self.store.classifier(layer)
        if classifier is None:
            raise CriticalMassError(
                "measure='own-head' needs the network's own classifier, and "
                f"{str(self.store.path)!r} has none that reads layer {layer!r}: extract layer "
                "'penultimate' of a network that ends with torch.nn.Linear into a new folder "
                "(older stores and imported vectors have none), or take measure 'logistic-masked', "
                "which fits a classifier"
            )
        return classifier.for_classes(self.store.class_names)

    def prompts(self, layer: str) -> ClassPrompts:
        """Return the prompts of the classes in the space of a layer.

        Raises
        ------
        CriticalMassError: none are stored for the layer, or a class has none.
        """
        prompts = self.store.prompts(layer)
        if prompts is None:
            raise CriticalMassError(
                f"measure='zero-shot' needs class prompts, and {str(self.store.path)!r} has none "
                f"in the space of layer {layer!r}: extract with --prompt 'a photo of a {{}}' "
                "(prompts=), import with --prompts, or take measure 'centroid', which learns from "
                "labels"
            )
        return prompts.for_classes(self.store.class_names)

    def read_beside(self, measure: str, layer: str) -> dict[str, Any]:
        """Return what a probe takes from the store beside a layer, as fields of a `ProbeTask`.

        Raises
        ------
        CriticalMassError: the store does not have it.
        """
        reads = MEASURES[measure].reads
        return {reads: getattr(self, reads)(layer)} if reads else {}

    def layer(self, name: str) -> LayerData:
        """Open a layer; the previous layer and its moments are released first."""
        if self._open_layer is None or self._open_layer[0] != name:
            self._open_layer = None
            train: Rows = self.store.features("train", name)
            test = self.store.features("test", name)
            if self.training_rows is not None:
                train = RowSubset(train, self.training_rows)
            selector_input = SelectorInput(
                int(train.shape[1]),
                rows=train,
                labels=self.y_train,
                n_classes=len(self.store.class_names),
                validation=self.validation,
                compute=self.compute,
            )
            # Part of the documents is another collection: training sets are for probes.
            qrels = self.store.qrels if self.training_rows is None else None
            self._open_layer = name, LayerData(train, test, selector_input, self.y_test, qrels)
        return self._open_layer[1]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the store's path and manifest; the other process reads the features there."""
        return open_sweep_data, (
            str(self.store.path.resolve()),
            self.store.manifest,
            self.compute,
            self.training_rows,
        )


def open_sweep_data(
    path: str,
    manifest: Mapping[str, Any],
    compute: Compute,
    training_rows: NDArray[np.intp] | None = None,
) -> SweepData:
    """Open a store that another process has opened and verified.

    Parameters
    ----------
    path: absolute path of the store.
    manifest: the manifest that the other process read.
    compute, training_rows: as in the other process.

    Raises
    ------
    StoreError: this machine has no store, or a different one, at the path.
    """
    store = FeatureStore.open(path, verify=False)
    if store.manifest != manifest:
        raise StoreError(
            f"{path!r} on {os.uname().nodename} differs from the feature store that the sweep "
            "opened; put the store on a file system that all machines share"
        )
    return SweepData.from_store(store, compute, training_rows)


def _require_order(selection: Selection) -> NDArray[np.intp]:
    if selection.order is None:
        raise CriticalMassError(f"selector {selection.selector!r} gives no order of neurons")
    return selection.order
