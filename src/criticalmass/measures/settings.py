"""The protocols of the measures: what their values depend on beside data and subset, JSON-able.

A protocol loads the module of its measure.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from criticalmass.measures.protocol import VALIDATION_SEED, VALIDATION_SHARE


def logistic() -> dict[str, Any]:
    """Return the settings of ``logistic``."""
    from criticalmass.measures.logistic.probe import LogisticProtocol

    return {**asdict(LogisticProtocol()), **validation()}


def closed_form() -> dict[str, Any]:
    """Return the settings of ``ridge`` and ``lda``."""
    from criticalmass.measures.probes.closed_form import L2S

    return {"l2s": L2S, **validation()}


def knn() -> dict[str, Any]:
    """Return the settings of ``knn``."""
    from criticalmass.measures.probes.knn import N_NEIGHBOURS

    return {"n_neighbours": N_NEIGHBOURS}


def sgd() -> dict[str, Any]:
    """Return the settings of ``sgd``."""
    from criticalmass.measures.probes.sgd import SgdProtocol

    return asdict(SgdProtocol())


def validation() -> dict[str, Any]:
    """Return which training rows penalties are chosen on."""
    return {"validation_share": VALIDATION_SHARE, "validation_seed": VALIDATION_SEED}


def jackknife() -> dict[str, Any]:
    """Return the number of blocks that are left out one by one."""
    from criticalmass.measures.similarity.cka_jackknife import N_BLOCKS

    return {"n_blocks": N_BLOCKS}


def reconstruction() -> dict[str, Any]:
    """Return the settings of ``reconstruction``."""
    from criticalmass.measures.similarity.reconstruction import RIDGE

    return {**jackknife(), "ridge_per_neuron": RIDGE}


def without_top() -> dict[str, Any]:
    """Return the settings of ``cka-without-top5``."""
    from criticalmass.measures.similarity.task import N_TOP_AXES

    return {**jackknife(), "n_axes": N_TOP_AXES}


def neighbours(metric: str, **extra: str) -> dict[str, Any]:
    """Return the settings of a measure of neighbours, with further ones."""
    from criticalmass.measures.similarity.retrieval import MOST_QUERIES, N_NEIGHBOURS, QUERY_SEED

    return {
        "metric": metric,
        "n_neighbours": N_NEIGHBOURS,
        "most_queries": MOST_QUERIES,
        "query_seed": QUERY_SEED,
        **extra,
    }


def relevance(score: str) -> dict[str, Any]:
    """Return the settings of a measure of relevance by qrels."""
    from criticalmass.measures.relevance import CUTOFF

    gains = {"gains": "linear"} if score == "ndcg" else {}
    return {"metric": "cosine", "cutoff": CUTOFF, "queries": "all", **gains}


def own_head() -> dict[str, Any]:
    """Return the settings of ``own-head``."""
    return {"weights": "times n_neurons / n_kept"}


def zero_shot() -> dict[str, Any]:
    """Return the settings of ``zero-shot``."""
    return {"metric": "cosine", "prompts_of_a_class": "mean of unit vectors on the subset"}
