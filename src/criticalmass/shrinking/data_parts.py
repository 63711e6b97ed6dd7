"""The parts of the data: rows to fit probes on, rows to select on, and rows to test on.

In a retrieval collection the documents are searched in every part. Some queries are for the
selection, the others for the test.

Parts that are too small for a measure are refused here, in terms of the user's samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows, RowSubset
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import MEASURES
from criticalmass.shrinking.probe_evaluator import LabelledRows
from criticalmass.storage.class_counts import describe_classes, report_classes
from criticalmass.storage.features import UNLABELLED, FeatureStore
from criticalmass.storage.qrels import DOCUMENTS, QUERIES, Qrels

# Enough rows to compare candidates; the certified probes are trained on every training row.
_MAX_FIT_ROWS, _MAX_SELECTION_ROWS = 20_000, 10_000
_SELECTION_SHARE = 0.25
#: Most queries of a collection that candidates are compared on; the others are for the test.
MAX_SELECTION_QUERIES = 500
_FEWEST_QUERIES = 8
_SEED = 1


@dataclass(frozen=True, eq=False)
class DataParts:
    """One layer of a store, split into parts.

    Attributes
    ----------
    layer: name of the layer.
    fit: at most 20,000 training rows that are not in the selection part. While candidates are
        compared, probes are fitted on them and queries search them.
    selection: training rows on which candidates are compared, at most 10,000.
    train: all training rows.
    test: the test split, which takes no part in any choice.
    class_names: by class id; empty without labels.
    path: the folder of the store, for messages.
    selection_qrels: of a retrieval collection: relevant documents in ``fit``, which has documents,
        of the queries in ``selection``; otherwise None.
    test_qrels: the same of ``train``, all documents, and ``test``, the other queries.
    """

    layer: str
    fit: LabelledRows
    selection: LabelledRows
    train: LabelledRows
    test: LabelledRows
    class_names: tuple[str, ...]
    path: str
    selection_qrels: Qrels | None = None
    test_qrels: Qrels | None = None

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

    The selection part has a quarter of the training rows of each class, or of all training rows
    if no class has two. In a retrieval collection it has a quarter of the queries, at most 500, and
    the part to fit on has documents: all that are relevant to these queries, and drawn others.

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
    if store.qrels is not None:
        return _split_collection(store, name, store.qrels)
    rows, labels = store.features("train", name), store.labels("train")
    in_selection = validation_rows(labels, _SELECTION_SHARE, _SEED)
    if not in_selection.any():
        in_selection = validation_rows(np.zeros_like(labels), _SELECTION_SHARE, _SEED)
    rng = np.random.default_rng(_SEED)
    pool = np.flatnonzero(~in_selection)
    fit = sample_indices(pool, _MAX_FIT_ROWS, rng)
    selection = sample_indices(np.flatnonzero(in_selection), _MAX_SELECTION_ROWS, rng)
    return DataParts(
        layer=name,
        fit=LabelledRows(RowSubset(rows, fit), labels[fit]),
        selection=LabelledRows(RowSubset(rows, selection), labels[selection]),
        train=LabelledRows(rows, labels),
        test=LabelledRows(store.features("test", name), store.labels("test")),
        class_names=store.class_names,
        path=str(store.path),
    )


def _split_collection(store: FeatureStore, layer: str, qrels: Qrels) -> DataParts:
    """Split the queries of a collection, and choose documents to compare candidates on."""
    if qrels.n_queries < _FEWEST_QUERIES:
        raise CriticalMassError(
            f"{str(store.path)!r} has {qrels.n_queries} queries with a relevant document; shrink "
            f"needs at least {_FEWEST_QUERIES}: some to choose by, the others to test on"
        )
    rng = np.random.default_rng(_SEED)
    n_selected = min(MAX_SELECTION_QUERIES, round(_SELECTION_SHARE * qrels.n_queries))
    chosen = np.sort(rng.choice(qrels.n_queries, n_selected, replace=False))
    others = np.setdiff1d(np.arange(qrels.n_queries), chosen)
    of_chosen = qrels.of_queries(chosen)
    relevant = sample_indices(np.unique(of_chosen.documents), _MAX_FIT_ROWS, rng)
    rest = np.setdiff1d(np.arange(qrels.n_documents), relevant)
    fit = np.union1d(relevant, sample_indices(rest, _MAX_FIT_ROWS - relevant.size, rng))
    documents, queries = store.features(DOCUMENTS, layer), store.features(QUERIES, layer)

    def part(rows: Rows, indices: NDArray[np.intp]) -> LabelledRows:
        return LabelledRows(RowSubset(rows, indices), np.zeros(indices.size, dtype=np.int64))

    return DataParts(
        layer=layer,
        fit=part(documents, fit),
        selection=part(queries, chosen),
        train=LabelledRows(documents, store.labels(DOCUMENTS)),
        test=part(queries, others),
        class_names=store.class_names,
        path=str(store.path),
        selection_qrels=of_chosen.of_documents(fit),
        test_qrels=qrels.of_queries(others),
    )


def check_parts(parts: DataParts, measure: str, *, uses_labels: bool) -> None:
    """Check that a measure can be computed on the parts; report classes that lack samples.

    Parameters
    ----------
    parts: the parts of the data.
    measure: name of the measure.
    uses_labels: whether its values depend on the labels.

    Raises
    ------
    CriticalMassError: for too few classes, or too few samples in a part.
    """
    if uses_labels:
        _check_classes(parts, measure)
    entry, sizes = MEASURES[measure], parts.sizes()
    n_train, fewest = sizes["train"], entry.min_test_samples
    if parts.test_qrels is not None and entry.searches:
        if n_train < fewest:
            raise CriticalMassError(
                f"measure={measure!r} compares the nearest of at least {fewest} documents; "
                f"{parts.path!r} has {n_train}"
            )
    elif entry.query_score is not None:
        n_stored = n_train - int(parts.selection.labels.size)
        if n_stored < fewest or not sizes["selected"]:
            raise CriticalMassError(
                f"measure={measure!r} compares the nearest of at least {fewest} training samples, "
                f"for queries from others; training samples in {parts.path!r}: {n_train}; give at "
                f"least {2 * fewest}"
            )
    elif not entry.is_probe and min(sizes["certified"], sizes["selected"]) < fewest:
        if sizes["certified"] < fewest:
            raise CriticalMassError(
                f"measure={measure!r} needs at least {fewest} test samples; the split 'test' of "
                f"{parts.path!r} has {sizes['certified']}"
            )
        # Of two or more samples of a class at least a fifth is in the selection part.
        raise CriticalMassError(
            f"measure={measure!r} compares candidates on about a quarter of the training samples, "
            f"at least {fewest}; of the {n_train} in the split 'train' of {parts.path!r} that is "
            f"{sizes['selected']}; give at least {5 * fewest}, two or more of each class"
        )


def _check_classes(parts: DataParts, measure: str) -> None:
    """Check that a measure of labels has a value above 0; report classes that lack samples."""
    names, train, tested = parts.class_names, parts.train.labels, np.unique(parts.test.labels)
    label_free = "use measure='retrieval' or 'cka', which need no labels"
    if MEASURES[measure].query_score is not None:
        label_free = "use relevance='neighbours', which needs no labels"
    present = np.unique(train)
    if present.size < 2:
        classes = f"only class {names[present[0]]!r}" if len(names) > 1 else "1 class"
        classes = "no labels" if names == UNLABELLED else classes
        raise CriticalMassError(
            f"measure={measure!r} needs training samples of at least 2 classes; the split 'train' "
            f"of {parts.path!r} has {classes}; {label_free}"
        )
    if not np.isin(tested, present).any():
        raise CriticalMassError(
            f"no class of the split 'test' of {parts.path!r} has a training sample (it has "
            f"{tested.size}, e.g. {names[tested[0]]!r}), so measure={measure!r} is 0 on the whole "
            f"layer; give both splits the same classes, or {label_free}"
        )
    if present.size == train.size:
        raise CriticalMassError(
            f"each class in the split 'train' of {parts.path!r} has a single sample, but shrink "
            "compares candidates on other training samples of a class than it fits them on; give "
            f"some classes two or more, or {label_free}"
        )
    labels = {"train": train, "test": parts.test.labels}
    report_classes(parts.path, describe_classes(labels, names))


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
