"""What a sweep can measure, and the protocol that makes a value what it is."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from criticalmass.errors import unknown_name
from criticalmass.measures.protocol import VALIDATION_SEED, VALIDATION_SHARE

if TYPE_CHECKING:
    from criticalmass.measures.probes.task import ProbeScores, ProbeTask
    from criticalmass.measures.similarity.task import SimilarityScores, SimilarityTask

    Probe = Callable[[ProbeTask], ProbeScores]
    Similarity = Callable[[SimilarityTask], SimilarityScores]

_IDENTITY = ("model", "layer", "dataset", "split", "selector", "seed", "n_kept", "measure")


@dataclass(frozen=True)
class Measure:
    """One entry of the registry.

    Attributes
    ----------
    name: what the user writes.
    is_probe: whether it trains on labels and scores by accuracy.
    version: raised when the code changes so that old values no longer stand beside new ones.
    one_order_per_job: whether a job takes one order at a time: because one takes long, or
        because what is random in the probe must hang on that order's seed alone.
    shares_whole: whether the whole layer has the same value whatever the order.
    settings: returns the rest of the protocol, JSON-able; loads the probe's module.
    every_size: whether all prefixes of an order cost no more than one.
    """

    name: str
    is_probe: bool
    version: int
    one_order_per_job: bool
    shares_whole: bool
    settings: Callable[[], Mapping[str, Any]]
    every_size: bool = False

    @property
    def protocol(self) -> dict[str, Any]:
        """All that a value depends on besides the data and the subset; JSON-able."""
        return {"version": self.version, **self.settings()}


def identity(
    digest: str, row: Mapping[str, Any], protocol: Mapping[str, Any], *, selector_version: int = 1
) -> str:
    """Name a cell by what it would compute on: 24 hex digits.

    Parameters
    ----------
    digest: of the layer's features and labels.
    row: has model, layer, dataset, split, selector, seed, n_kept and measure.
    protocol: of the measure.
    selector_version: of the rule that chose the subset.
    """
    content = {name: row[name] for name in _IDENTITY} | {"data": digest, "protocol": protocol}
    if selector_version != 1:
        content["selector_version"] = selector_version
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _logistic() -> dict[str, Any]:
    from criticalmass.measures.logistic.probe import LogisticProtocol

    protocol = asdict(LogisticProtocol())
    # Where it is computed is no part of what: a run is continued on whatever machine there is.
    del protocol["device"]
    return {**protocol, **_validation()}


def _closed_form() -> dict[str, Any]:
    from criticalmass.measures.probes.closed_form import L2S

    return {"l2s": L2S, **_validation()}


def _knn() -> dict[str, Any]:
    from criticalmass.measures.probes.knn import N_NEIGHBOURS

    return {"n_neighbours": N_NEIGHBOURS}


def _sgd() -> dict[str, Any]:
    from criticalmass.measures.probes.sgd import SgdProtocol

    return asdict(SgdProtocol())


def _validation() -> dict[str, Any]:
    return {"validation_share": VALIDATION_SHARE, "validation_seed": VALIDATION_SEED}


def _blocks() -> dict[str, Any]:
    from criticalmass.measures.similarity.cka_jackknife import N_BLOCKS

    return {"n_blocks": N_BLOCKS}


def _queries(metric: str) -> dict[str, Any]:
    from criticalmass.measures.similarity.retrieval import MOST_QUERIES, N_NEIGHBOURS, QUERY_SEED

    return {
        "metric": metric,
        "n_neighbours": N_NEIGHBOURS,
        "most_queries": MOST_QUERIES,
        "query_seed": QUERY_SEED,
    }


def _mutual_knn() -> dict[str, Any]:
    return _queries("euclidean")


def _retrieval() -> dict[str, Any]:
    return {**_queries("cosine"), "gains": "linear"}


def _retrieval_recall() -> dict[str, Any]:
    return _queries("cosine")


_ALL = (
    Measure("logistic", True, 1, True, True, _logistic),
    Measure("ridge", True, 1, False, True, _closed_form),
    Measure("lda", True, 1, False, True, _closed_form),
    Measure("knn", True, 1, False, True, _knn),
    Measure("centroid", True, 1, False, True, dict),
    Measure("sgd", True, 1, True, False, _sgd),
    Measure("cka", False, 1, False, True, _blocks, every_size=True),
    Measure("cka-debiased", False, 1, False, True, _blocks, every_size=True),
    Measure("procrustes", False, 1, False, True, _blocks),
    Measure("mutual-knn", False, 1, False, True, _mutual_knn),
    Measure("retrieval", False, 1, False, True, _retrieval),
    Measure("retrieval-recall", False, 1, False, True, _retrieval_recall),
)

MEASURES: Mapping[str, Measure] = MappingProxyType({m.name: m for m in _ALL})

PROBE_LABEL = "accuracy on held-out data"

MEASURE_LABELS = {
    "cka": "linear CKA with the whole layer",
    "cka-debiased": "debiased linear CKA with the whole layer",
    "procrustes": "Procrustes similarity with the whole layer",
    "mutual-knn": "nearest neighbours shared with the whole layer",
    "retrieval": "nDCG@10 of the whole layer's neighbours",
    "retrieval-recall": "recall@10 of the whole layer's neighbours",
}


def is_similarity(measure: str) -> bool:
    """Whether a measure compares with the whole layer instead of scoring a task."""
    return measure in MEASURE_LABELS


def measure_label(measure: str) -> str:
    """How a reader knows a measure: the words of its axis."""
    return MEASURE_LABELS.get(measure, PROBE_LABEL)


class _Loaded(Mapping[str, Any]):
    """Name -> function, given as ``"module:function"`` of this package."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> Any:
        module, _, function = self._places[name].partition(":")
        return getattr(importlib.import_module(f"criticalmass.{module}"), function)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


PROBES: Mapping[str, Probe] = _Loaded(
    {
        "logistic": "measures.logistic.probe:logistic",
        "ridge": "measures.probes.closed_form:ridge",
        "lda": "measures.probes.closed_form:lda",
        "knn": "measures.probes.knn:knn",
        "centroid": "measures.probes.knn:centroid",
        "sgd": "measures.probes.sgd:sgd",
    }
)
SIMILARITIES: Mapping[str, Similarity] = _Loaded(
    {
        "cka": "measures.similarity.task:cka",
        "cka-debiased": "measures.similarity.task:cka_debiased",
        "procrustes": "measures.similarity.task:procrustes",
        "mutual-knn": "measures.similarity.task:mutual_knn",
        "retrieval": "measures.similarity.task:retrieval",
        "retrieval-recall": "measures.similarity.task:retrieval_recall",
    }
)


def get_probe(name: str) -> Probe:
    """Look a probe up.

    Raises
    ------
    CriticalMassError: for an unknown name, with a did-you-mean.
    """
    if name not in PROBES:
        raise unknown_name("probe", name, PROBES)
    return PROBES[name]


def get_similarity(name: str) -> Similarity:
    """Look a similarity up.

    Raises
    ------
    CriticalMassError: for an unknown name, with a did-you-mean.
    """
    if name not in SIMILARITIES:
        raise unknown_name("similarity", name, SIMILARITIES)
    return SIMILARITIES[name]
