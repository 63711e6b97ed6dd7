"""The evaluator of every measure that a layer can be shrunk by."""

from __future__ import annotations

import numpy as np

from criticalmass.core.compute import DEFAULT_COMPUTE, Compute
from criticalmass.core.rows import RowSubset
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.registry import MEASURES
from criticalmass.shrinking.data_parts import DataParts, sample_indices
from criticalmass.shrinking.probe_evaluator import Evaluator, LabelledRows, ProbeEvaluator
from criticalmass.shrinking.retrieval_evaluator import (
    RELEVANCES,
    Relevance,
    RetrievalEvaluator,
    SimilarityEvaluator,
)
from criticalmass.shrinking.stored_search import StoredEvaluator
from criticalmass.storage.qrels import Qrels

# Queries of the selection part and of the test split. Scores lie in [0, 1], so the standard error
# of their mean is at most .022 and .011, and half of that or less where most is kept.
_MAX_SELECTION_QUERIES, _MAX_TEST_QUERIES = 500, 2000
# Scores by qrels vary more, so more queries are worth their time.
_MAX_JUDGED_QUERIES = 4000
_SEED = 2


def check_relevance(relevance: str, measure: str) -> Relevance:
    """Return the relevance as its type.

    Raises
    ------
    CriticalMassError: if it is unknown, or is "labels" for a measure without queries or of qrels.
    """
    if MEASURES[measure].needs_qrels and relevance == "neighbours":
        return "qrels"
    for name in RELEVANCES:
        if relevance == name:
            entry = MEASURES[measure]
            if name == "labels" and (entry.query_score is None or entry.needs_qrels):
                raise CriticalMassError(
                    "relevance='labels' applies to retrieval measures only; got "
                    f"measure={measure!r}, use measure='retrieval'"
                )
            return name
    raise unknown_name("relevance", relevance, RELEVANCES)


def check_measure(measure: str) -> None:
    """Raise CriticalMassError if the measure is unknown, or says nothing of what a subset keeps."""
    if measure not in MEASURES:
        raise unknown_name("measure", measure, MEASURES)
    if MEASURES[measure].reads:
        raise CriticalMassError(
            f"measure={measure!r} fits nothing, and shrink makes a model with a fitted head; "
            "shrink by measure='logistic'"
        )
    if MEASURES[measure].kind == "score":
        raise CriticalMassError(
            f"measure={measure!r} may be higher in a subset than in the whole layer, so no subset "
            "is shown to keep it; shrink by a probe, e.g. measure='logistic', or by 'cka'"
        )


def make_evaluator(
    measure: str,
    parts: DataParts,
    *,
    certifying: bool,
    relevance: Relevance = "neighbours",
    compute: Compute = DEFAULT_COMPUTE,
) -> Evaluator:
    """Return the evaluator of a measure.

    Parameters
    ----------
    measure: name of the measure.
    parts: the parts of the data.
    certifying: whether it scores on the test split (training on all training rows) or on the
        selection part.
    relevance: what is relevant to a query; for retrieval measures.
    compute: threads, device and memory of the fits.
    """
    train, held_out = (parts.train, parts.test) if certifying else (parts.fit, parts.selection)
    if MEASURES[measure].is_probe:
        return ProbeEvaluator(measure, train, held_out, len(parts.class_names), compute)
    if MEASURES[measure].query_score is not None:
        return make_stored_evaluator(measure, parts, certifying, relevance)
    return SimilarityEvaluator(measure, train, held_out)


def make_stored_evaluator(
    measure: str, parts: DataParts, certifying: bool, relevance: Relevance = "neighbours"
) -> StoredEvaluator:
    """Return the evaluator of stored vectors; parameters as in `make_evaluator`."""
    corpus, queries = (parts.train, parts.test) if certifying else (parts.fit, parts.selection)
    qrels = parts.test_qrels if certifying else parts.selection_qrels
    max_queries = _MAX_SELECTION_QUERIES
    if certifying:
        max_queries = _MAX_JUDGED_QUERIES if relevance == "qrels" else _MAX_TEST_QUERIES
    return evaluate_queries(measure, corpus, queries, max_queries, relevance, qrels)


def evaluate_queries(
    measure: str,
    corpus: LabelledRows,
    queries: LabelledRows,
    max_queries: int,
    relevance: Relevance,
    qrels: Qrels | None = None,
) -> StoredEvaluator:
    """Return the evaluator of stored vectors for at most ``max_queries`` of the queries.

    They are drawn with a fixed seed and keep their order. ``qrels`` are those of all queries.
    """
    n = int(queries.rows.shape[0])
    if n > max_queries:
        rows = sample_indices(np.arange(n), max_queries, np.random.default_rng(_SEED))
        queries = LabelledRows(RowSubset(queries.rows, rows), queries.labels[rows])
        qrels = None if qrels is None else qrels.of_queries(rows)
    return StoredEvaluator(RetrievalEvaluator(measure, corpus, queries, relevance, qrels))


def unused_queries(parts: DataParts) -> LabelledRows | None:
    """Return the test rows that `make_stored_evaluator` leaves out; None if it takes all."""
    n = int(parts.test.rows.shape[0])
    if n <= _MAX_TEST_QUERIES:
        return None
    used = sample_indices(np.arange(n), _MAX_TEST_QUERIES, np.random.default_rng(_SEED))
    rest = np.setdiff1d(np.arange(n), used)
    return LabelledRows(RowSubset(parts.test.rows, rest), parts.test.labels[rest])
