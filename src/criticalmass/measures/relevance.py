"""Relevance of retrieved documents by qrels: nDCG, recall and reciprocal rank at 10.

The definitions are those of trec_eval, which BEIR and MTEB use. The gain of a document is its
grade, divided by log2(1 + rank); the ideal list holds all relevant documents of the query (Jarvelin
and Kekalainen 2002). Recall divides by the number of relevant documents, also where it is above
10. The reciprocal rank is that of the first relevant document among the 10, else 0. Of documents of
equal similarity the earlier row is nearer; trec_eval orders them by their names.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError
from criticalmass.storage.qrels import Qrels

#: Length of the ranked list.
CUTOFF = 10
RelevanceScore = Literal["ndcg", "recall", "mrr"]


def missing_qrels(measure: str, source: str) -> CriticalMassError:
    """Return the error for a measure that needs qrels on data without them."""
    return CriticalMassError(
        f"measure={measure!r} needs queries and qrels, and {source} has none: import them beside "
        "the documents (criticalmass import DOCUMENTS --queries QUERIES --qrels QRELS --out "
        "FOLDER) or extract a BEIR folder (beir:FOLDER); measure='retrieval' needs none"
    )


def score_ranked(ranked: NDArray[np.integer], qrels: Qrels, score: RelevanceScore) -> FloatArray:
    """Score ranked lists of documents.

    Parameters
    ----------
    ranked: (n_queries, k) rows of documents, best first; at most the first 10 count. -1 fills.
    qrels: of these queries.
    score: "ndcg", "recall" or "mrr".

    Returns
    -------
    (n_queries,) in [0, 1]; 0 for a query without a relevant document.
    """
    gains = _gains(ranked[:, :CUTOFF], qrels)
    if score == "mrr":
        is_relevant = gains > 0.0
        return np.where(is_relevant.any(axis=1), 1.0 / (1.0 + is_relevant.argmax(axis=1)), 0.0)
    if score == "recall":
        best = np.bincount(qrels.queries, minlength=qrels.n_queries).astype(np.float64)
        gained = (gains > 0.0).sum(axis=1).astype(np.float64)
    else:
        discounts = 1.0 / np.log2(np.arange(2.0, CUTOFF + 2.0))
        best = _ideal_gains(qrels, discounts)
        # Summed rank by rank as the ideal is, so that a perfect list scores exactly 1.
        gained = np.zeros(len(gains))
        for rank in range(gains.shape[1]):
            gained += gains[:, rank] * discounts[rank]
    return np.asarray(np.divide(gained, best, out=np.zeros(len(gains)), where=best > 0.0))


def _gains(ranked: NDArray[np.integer], qrels: Qrels) -> FloatArray:
    """(n_queries, k) grade of every retrieved document, 0 for one that is not relevant."""
    keys = qrels.queries * qrels.n_documents + qrels.documents
    asked = np.arange(len(ranked), dtype=np.int64)[:, None] * qrels.n_documents + ranked
    places = np.minimum(np.searchsorted(keys, asked), max(0, keys.size - 1))
    if not keys.size:
        return np.zeros(ranked.shape)
    is_relevant = (keys[places] == asked) & (ranked >= 0)
    return np.where(is_relevant, qrels.grades[places], 0.0)


def _ideal_gains(qrels: Qrels, discounts: FloatArray) -> FloatArray:
    """(n_queries,) discounted gain of the best list."""
    order = np.lexsort([-qrels.grades, qrels.queries])
    queries, grades = qrels.queries[order], qrels.grades[order]
    ranks = np.arange(queries.size) - np.searchsorted(queries, queries)
    ideal = np.zeros(qrels.n_queries)
    for rank, discount in enumerate(discounts):
        at_rank = ranks == rank
        ideal[queries[at_rank]] += grades[at_rank] * discount
    return ideal


def drop_own(ranked: NDArray[np.int32], own: NDArray[np.int64]) -> NDArray[np.int32]:
    """Remove the document that is the query itself from lists that are one too long.

    Parameters
    ----------
    ranked: (..., n_queries, k + 1) rows, best first.
    own: (n_queries,) row to remove, -1 for none; if it is not in the list, the last one goes.

    Returns
    -------
    (..., n_queries, k).
    """
    is_other = ranked != own[:, None]
    is_other[..., -1] &= ~is_other.all(axis=-1)
    return np.asarray(ranked[is_other].reshape(*ranked.shape[:-1], ranked.shape[-1] - 1))
