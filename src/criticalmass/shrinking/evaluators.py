"""Which measures a layer can be shrunk by, and who judges each."""

from __future__ import annotations

import numpy as np

from criticalmass.core.rows import RowSubset
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.registry import MEASURES
from criticalmass.shrinking.data_parts import Parts
from criticalmass.shrinking.probe_evaluator import Judge, Part, ProbeJudge
from criticalmass.shrinking.retrieval_evaluator import (
    QUERY_MEASURES,
    RELEVANCES,
    NeighbourJudge,
    Relevance,
    SimilarityJudge,
)

# New queries of the competition and of the promise. Scores lie in [0, 1], so the standard error
# of their mean is at most .022 and .011, and half of that or less where most is kept.
_MOST_SELECTING, _MOST_CERTIFYING = 500, 2000
_SEED = 2


def check_relevance(relevance: str, measure: str) -> Relevance:
    """Refuse an unknown relevance, or labels for a measure that asks nothing of them."""
    for known in RELEVANCES:
        if relevance == known:
            if known == "labels" and measure not in QUERY_MEASURES:
                raise CriticalMassError(
                    f"relevance='labels' speaks of queries, measure={measure!r} has none; ask for "
                    "measure='retrieval'"
                )
            return known
    raise unknown_name("relevance", relevance, RELEVANCES)


def check_measure(measure: str) -> None:
    """Refuse a name that is no measure, with a did-you-mean."""
    if measure not in MEASURES:
        raise unknown_name("measure", measure, MEASURES)


def judge_for(
    measure: str, parts: Parts, *, certifying: bool, relevance: Relevance = "neighbours"
) -> Judge:
    """Return who judges a measure: on the selection part, or on the held-out one.

    Raises
    ------
    CriticalMassError: for a probe on data of fewer than two classes.
    """
    check_measure(measure)
    learned, judged = (
        (parts.train, parts.certified) if certifying else (parts.fitted, parts.selected)
    )
    if MEASURES[measure].is_probe:
        if len(parts.class_names) < 2:
            raise CriticalMassError(
                f"measure={measure!r} needs labels of at least 2 classes, the store has "
                f"{len(parts.class_names)}; ask for measure='retrieval' or 'cka'"
            )
        return ProbeJudge(measure, learned, judged, len(parts.class_names))
    if measure in QUERY_MEASURES:
        most = _MOST_CERTIFYING if certifying else _MOST_SELECTING
        corpus = parts.train if certifying else parts.unselected
        return NeighbourJudge(measure, corpus, _some(judged, most), relevance)
    return SimilarityJudge(measure, judged)


def _some(part: Part, most: int) -> Part:
    """Draw at most so many samples of a part."""
    n = int(part.rows.shape[0])
    if n <= most:
        return part
    index = np.sort(np.random.default_rng(_SEED).choice(n, most, replace=False))
    return Part(RowSubset(part.rows, index), part.labels[index])
