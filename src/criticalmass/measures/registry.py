"""The registry of measures: probes and similarities, their protocols, labels and versions."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from criticalmass.errors import unknown_name
from criticalmass.measures.protocol import VALIDATION_SEED, VALIDATION_SHARE

if TYPE_CHECKING:
    from criticalmass.measures.probes.task import ProbeScores, ProbeTask
    from criticalmass.measures.similarity.task import SimilarityScores, SimilarityTask

    Probe = Callable[[ProbeTask], ProbeScores]
    Similarity = Callable[[SimilarityTask], SimilarityScores]

PROBE_LABEL = "accuracy on held-out data"
_IDENTITY = ("model", "layer", "dataset", "split", "selector", "seed", "n_kept", "measure")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One entry of the registry.

    Attributes
    ----------
    name: name of the measure, as the user writes it.
    function: ``"module:function"`` within ``criticalmass`` that computes it.
    label: axis label in figures.
    is_probe: whether the measure trains on labels and scores by accuracy.
    version: raised when the code changes, so that old values are computed again.
    one_order_per_job: whether a job takes one order at a time: because an order takes long, or
        because the randomness of the probe must depend on that order's seed alone.
    full_value_is_shared: whether the whole layer has the same value whatever the order.
    settings: returns the rest of the protocol, JSON-able; loads the measure's module.
    every_size: whether all prefixes of an order cost no more than one.
    """

    name: str
    function: str
    settings: Callable[[], Mapping[str, Any]]
    label: str = PROBE_LABEL
    is_probe: bool = False
    version: int = 1
    one_order_per_job: bool = False
    full_value_is_shared: bool = True
    every_size: bool = False

    @property
    def protocol(self) -> dict[str, Any]:
        """All that a value depends on except the data and the subset; JSON-able."""
        return {"version": self.version, **self.settings()}


def identity(
    digest: str, row: Mapping[str, Any], protocol: Mapping[str, Any], *, selector_version: int = 1
) -> str:
    """Return the identity of a cell: a digest of its inputs, 24 hex digits.

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
    # The device does not change the value: a run can be continued on another machine.
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


def _jackknife() -> dict[str, Any]:
    from criticalmass.measures.similarity.cka_jackknife import N_BLOCKS

    return {"n_blocks": N_BLOCKS}


def _neighbours(metric: str, **extra: str) -> dict[str, Any]:
    from criticalmass.measures.similarity.retrieval import MOST_QUERIES, N_NEIGHBOURS, QUERY_SEED

    return {
        "metric": metric,
        "n_neighbours": N_NEIGHBOURS,
        "most_queries": MOST_QUERIES,
        "query_seed": QUERY_SEED,
        **extra,
    }


_ALL = (
    Measure(
        name="logistic",
        function="measures.logistic.probe:logistic",
        settings=_logistic,
        is_probe=True,
        one_order_per_job=True,
    ),
    Measure(
        name="ridge",
        function="measures.probes.closed_form:ridge",
        settings=_closed_form,
        is_probe=True,
    ),
    Measure(
        name="lda", function="measures.probes.closed_form:lda", settings=_closed_form, is_probe=True
    ),
    Measure(name="knn", function="measures.probes.knn:knn", settings=_knn, is_probe=True),
    Measure(name="centroid", function="measures.probes.knn:centroid", settings=dict, is_probe=True),
    Measure(
        name="sgd",
        function="measures.probes.sgd:sgd",
        settings=_sgd,
        is_probe=True,
        one_order_per_job=True,
        full_value_is_shared=False,
    ),
    Measure(
        name="cka",
        function="measures.similarity.task:cka",
        settings=_jackknife,
        label="linear CKA with the whole layer",
        every_size=True,
    ),
    Measure(
        name="cka-debiased",
        function="measures.similarity.task:cka_debiased",
        settings=_jackknife,
        label="debiased linear CKA with the whole layer",
        every_size=True,
    ),
    Measure(
        name="procrustes",
        function="measures.similarity.task:procrustes",
        settings=_jackknife,
        label="Procrustes similarity with the whole layer",
    ),
    Measure(
        name="mutual-knn",
        function="measures.similarity.task:mutual_knn",
        settings=partial(_neighbours, "euclidean"),
        label="nearest neighbours shared with the whole layer",
    ),
    Measure(
        name="retrieval",
        function="measures.similarity.task:retrieval",
        settings=partial(_neighbours, "cosine", gains="linear"),
        label="nDCG@10 of the whole layer's neighbours",
    ),
    Measure(
        name="retrieval-recall",
        function="measures.similarity.task:retrieval_recall",
        settings=partial(_neighbours, "cosine"),
        label="recall@10 of the whole layer's neighbours",
    ),
)

MEASURES: Mapping[str, Measure] = MappingProxyType({m.name: m for m in _ALL})


def is_similarity(measure: str) -> bool:
    """Whether a measure compares with the whole layer instead of scoring a task."""
    return measure in MEASURES and not MEASURES[measure].is_probe


def measure_label(measure: str) -> str:
    """Return the axis label of a measure."""
    return MEASURES[measure].label if measure in MEASURES else PROBE_LABEL


class _LazyFunctions(Mapping[str, Any]):
    """Name -> function; the module of a function is imported on first use."""

    def __init__(self, measures: Mapping[str, Measure]) -> None:
        self._paths = {name: measure.function for name, measure in measures.items()}

    def __getitem__(self, name: str) -> Any:
        module, _, function = self._paths[name].partition(":")
        return getattr(importlib.import_module(f"criticalmass.{module}"), function)

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


PROBES: Mapping[str, Probe] = _LazyFunctions({n: m for n, m in MEASURES.items() if m.is_probe})
SIMILARITIES: Mapping[str, Similarity] = _LazyFunctions(
    {n: m for n, m in MEASURES.items() if not m.is_probe}
)


def get_probe(name: str) -> Probe:
    """Return the function of a probe.

    Raises
    ------
    CriticalMassError: if the name is unknown; the message suggests a similar one.
    """
    if name not in PROBES:
        raise unknown_name("probe", name, PROBES)
    return PROBES[name]


def get_similarity(name: str) -> Similarity:
    """Return the function of a similarity.

    Raises
    ------
    CriticalMassError: if the name is unknown; the message suggests a similar one.
    """
    if name not in SIMILARITIES:
        raise unknown_name("similarity", name, SIMILARITIES)
    return SIMILARITIES[name]
