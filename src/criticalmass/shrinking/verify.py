"""``verify``: test the promise of a slim model on new data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.compute import Compute
from criticalmass.core.notebook import Card, Shown
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.measures.registry import MEASURES
from criticalmass.measures.relevance import missing_qrels
from criticalmass.shrinking.evaluators import check_relevance, evaluate_queries
from criticalmass.shrinking.paired_tests import PairedCounts, ratio_bound
from criticalmass.shrinking.probe_evaluator import LabelledRows, ProbeEvaluator, QueryScores
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.shrinking.stored_search import Encoding
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.qrels import Qrels

MAX_QUERIES = 4000


@dataclass(frozen=True, repr=False)
class Verification(Shown):
    """The result of `verify`.

    Attributes
    ----------
    holds: whether the lower bound reaches the promised share.
    keep, level: the promised share, and the confidence of the bound.
    ratio: value of the slim model / value of the whole layer on the new data.
    ratio_bound: its lower confidence bound.
    value, value_full: both values.
    n_samples: number of scored samples.
    sentence: the result in plain words.
    """

    holds: bool
    keep: float
    level: float
    ratio: float
    ratio_bound: float
    value: float
    value_full: float
    n_samples: int
    sentence: str

    def _card(self) -> Card:
        facts = {"holds": self.holds, "share kept": f"{self.ratio:.4f}, at least {self.keep:.4g}"}
        return Card("Verification", facts, self.sentence)


@validate_arguments
def verify(
    slim: SlimModel | str | os.PathLike[str],
    store: FeatureStore | str | Path,
    *,
    level: float | None = None,
) -> Verification:
    """Test the promise of a slim model on new data.

    The map, the precision and the head are those of the slim model; nothing of it is fitted again.
    For retrieval, test rows search the training rows of the new store: in a retrieval collection,
    queries search documents. For a probe, the slim head
    is compared on the test rows with a probe of the whole layer, fitted on the training rows.

    Parameters
    ----------
    slim: a slim model from `shrink`, or the path of its folder.
    store: features of the same layer, with a train and a test split.
    level: confidence of the bound; that of the promise by default.

    Raises
    ------
    CriticalMassError: if the slim model promises nothing, its measure has no samples that can be
        scored one by one, or the store has another width, other classes, or no qrels that the
        measure needs.
    StoreError: if the store lacks a split or is damaged.
    """
    model, features = SlimModel.open(slim), FeatureStore.open(store)
    record = model.record
    promise, measure = record["promise"], str(record["measure"])
    if not record["safe"]:
        raise CriticalMassError(
            "this slim model promises nothing: it keeps the whole layer; shrink with a lower keep"
        )
    level = float(promise["level"]) if level is None else level
    if not 0.5 <= level < 1.0:
        raise CriticalMassError(f"level={level} is outside [0.5, 1); 0.95 is usual")
    train, test = (_read(features, split, model) for split in ("train", "test"))
    if MEASURES[measure].query_score is not None:
        if MEASURES[measure].needs_qrels and features.qrels is None:
            raise missing_qrels(measure, repr(str(features.path)))
        value, full, bound, n = _verify_stored(model, train, test, level, features.qrels)
    elif model.head is not None:
        value, full, bound, n = _verify_head(model, features, train, test, level)
    else:
        raise CriticalMassError(
            f"a promise by measure={measure!r} cannot be tested sample by sample without a head; "
            "shrink by measure='logistic' or 'retrieval'"
        )
    keep = float(promise["keep"])
    holds = bound >= keep
    unit = "queries" if features.is_collection else "samples"
    sentence = (
        f"The promise {'holds' if holds else 'is not confirmed'} on {features.path}: "
        f"{value / full:.4f} of the {record['value_name']} is kept on {n:,} {unit} (lower "
        f"confidence bound {bound:.4f} at {level:.0%}), where {keep:.4g} is promised."
    )
    return Verification(holds, keep, level, value / full, bound, value, full, n, sentence)


def _read(store: FeatureStore, split: str, slim: SlimModel) -> LabelledRows:
    if split not in store.splits:
        raise StoreError(
            f"{str(store.path)!r} has no split {split!r}; verify needs a train split (vectors that "
            "are searched, or samples of the whole layer's probe) and a test split"
        )
    layer = str(slim.record["layer"])
    if layer not in store.layers and len(store.layers) == 1:
        layer = store.layers[0]
    rows = store.features(split, layer)
    if int(rows.shape[1]) != slim.n_neurons:
        raise CriticalMassError(
            f"{str(store.path)!r} has {rows.shape[1]} neurons in {layer!r}; the slim model was "
            f"made from {slim.n_neurons}"
        )
    return LabelledRows(rows, store.labels(split))


def _verify_stored(
    slim: SlimModel,
    train: LabelledRows,
    test: LabelledRows,
    level: float,
    qrels: Qrels | None,
) -> tuple[float, float, float, int]:
    record = slim.record
    if slim.short_map is None:
        raise CriticalMassError(
            "this slim model was written by an older version, which did not scale vectors to "
            "length 1; run shrink again"
        )
    measure = str(record["measure"])
    asked = "labels" if record.get("relevance") == "labels" else "neighbours"
    relevance = check_relevance(asked, measure)
    evaluator = evaluate_queries(measure, train, test, MAX_QUERIES, relevance, qrels)
    reference = evaluator.reference
    if not reference.scores_full.any():
        raise CriticalMassError(
            f"whole vectors have a {record['value_name']} of 0 on the new data, so no share of it "
            "can be tested; check its labels or qrels"
        )
    rerank = int(record["stored"]["rerank"])
    encoding = Encoding(slim.short_map, slim.codec)
    ids = evaluator.neighbours([(encoding, (rerank,))])[0][0]
    scores = QueryScores((slim.n_kept,), reference.score(ids)[None], reference.scores_full)
    n = int(scores.scores_full.size)
    return float(scores.values[0]), scores.value_full, scores.bound(0, level), n


def _verify_head(
    slim: SlimModel, store: FeatureStore, train: LabelledRows, test: LabelledRows, level: float
) -> tuple[float, float, float, int]:
    names = slim.class_names
    if tuple(store.class_names) != names:
        raise CriticalMassError(
            f"{str(store.path)!r} has the classes {', '.join(store.class_names[:5])}; the slim "
            f"model has {', '.join(names[:5])}: give data with the same classes, in this order"
        )
    measure = str(slim.record["measure"])
    full = ProbeEvaluator(measure, train, test, len(names), Compute()).correct_full
    rows = np.asarray(test.rows[0 : int(test.rows.shape[0])], dtype=np.float32)
    pairs = PairedCounts.count(slim.predict(rows) == test.labels, full)
    if not full.any():
        raise CriticalMassError(
            f"the whole layer is never right on the test samples of {str(store.path)!r}; check "
            "that the labels of both splits mean the same"
        )
    value = (pairs.both + pairs.gained) / pairs.n
    return value, float(full.mean()), ratio_bound(pairs, level), pairs.n
