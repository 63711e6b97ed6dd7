"""The registry of measures: probes and similarities, their protocols, labels and versions."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from criticalmass.errors import unknown_name
from criticalmass.measures import settings
from criticalmass.measures.flops import (
    closed_form_flops,
    iterative_flops,
    masked_flops,
    moment_flops,
    neighbour_flops,
    own_head_flops,
    reconstruction_flops,
    relevance_flops,
    separation_flops,
    singular_value_flops,
    zero_shot_flops,
)
from criticalmass.measures.memory import LayerSizes, relevance_bytes, workspace_bytes

if TYPE_CHECKING:
    from criticalmass.measures.probes.task import ProbeScores, ProbeTask
    from criticalmass.measures.similarity.task import SimilarityScores, SimilarityTask

    Probe = Callable[[ProbeTask], ProbeScores]
    Similarity = Callable[[SimilarityTask], SimilarityScores]

PROBE_LABEL = "accuracy on held-out data"
# What queries search unless the store is a retrieval collection, as labels and quantities name it.
_TEST_SAMPLES = "test samples"
# With fewer, the 10 nearest neighbours of a sample are all others, in every subset.
_MIN_NEIGHBOUR_SAMPLES = 12
_IDENTITY = ("model", "layer", "dataset", "split", "selector", "seed", "n_kept", "measure")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One entry of the registry: all that the package knows of a measure.

    Attributes
    ----------
    name: name of the measure, as the user writes it.
    kind: "probe" (predicts labels and is scored by accuracy), "similarity" (compares the subset
        with its whole layer), "relevance" (scores what queries find by qrels) or "score" (scores
        the subset itself by labels and predicts none).
    function: the function that computes it, or ``"module:function"`` within ``criticalmass``.
    description: one line for ``criticalmass list`` and for the page.
    label: axis label in figures.
    quantity: what is kept, in "keep 90 % of the ..."; empty: accuracy, or the similarity's name.
    value_name: the value in the sentences of a slim model; empty: the measure's name.
    plural: the fitted probes as the subject of a sentence; empty: the measure's name.
    settings: returns the rest of the protocol, JSON-able; loads the measure's module.
    version: raised when the code changes, so that old values are computed again.
    memory: bytes of the workspace as a function of `LayerSizes`, or ``"module:function"``.
    flops: floating-point operations of a sweep as a function of `LayerSizes`.
    min_test_samples: fewest test samples that have a value.
    one_order_per_job: whether a job takes one order at a time: because an order takes long, and
        the cells of a job are written when all of it is done, or because the randomness of the
        probe must depend on that order's seed alone.
    full_value_is_shared: whether the whole layer has the same value whatever the order.
    every_size: whether all prefixes of an order cost no more than one.
    is_slow: whether a fit takes so long that the tables of a study do not fit it again.
    law: the law that predicts its curve, from which `shrink` starts its search; None: no law.
    query_score: the score of the stored vectors that a query finds, by which `shrink` evaluates
        a retrieval measure; None: `shrink` calls ``function``.
    searches: whether queries search samples: the documents of a retrieval collection, else the
        test samples.
    fits_training: whether a measure that is no probe depends on the training samples.
    reads: what a probe that fits nothing takes from the store, beside the layer: "classifier"
        (the network's own) or "prompts" (of the classes); empty for a probe that is fitted.
    """

    name: str
    kind: Literal["probe", "similarity", "relevance", "score"]
    function: str | Callable[..., Any]
    description: str
    label: str = PROBE_LABEL
    quantity: str = ""
    value_name: str = ""
    plural: str = ""
    settings: Callable[[], Mapping[str, Any]] = dict
    version: int = 1
    memory: str | Callable[[LayerSizes], int] = workspace_bytes
    flops: Callable[[LayerSizes], float] = moment_flops
    min_test_samples: int = 1
    one_order_per_job: bool = False
    full_value_is_shared: bool = True
    every_size: bool = False
    is_slow: bool = False
    law: Literal["cka", "ridge"] | None = None
    query_score: Literal["ndcg", "recall", "mrr"] | None = None
    searches: bool = False
    fits_training: bool = False
    reads: Literal["", "classifier", "prompts"] = ""

    @property
    def is_probe(self) -> bool:
        """Whether the measure predicts labels and scores by accuracy."""
        return self.kind == "probe"

    @property
    def needs_labels(self) -> bool:
        """Whether the measure needs labels of at least two classes."""
        return self.kind in ("probe", "score")

    @property
    def needs_qrels(self) -> bool:
        """Whether the measure needs a retrieval collection: documents, queries and qrels."""
        return self.kind == "relevance"

    @property
    def protocol(self) -> dict[str, Any]:
        """All that a value depends on except the data and the subset; JSON-able."""
        return {"version": self.version, **self.settings()}

    def protocol_on(self, stored: Mapping[str, str]) -> dict[str, Any]:
        """Return the protocol on a layer, given the digests of what the store has beside it."""
        return self.protocol | ({self.reads: stored.get(self.reads, "")} if self.reads else {})

    def load_function(self) -> Any:
        """Return the function that computes the measure; its module is imported here."""
        return _load(self.function)

    def workspace_bytes(self, sizes: LayerSizes) -> int:
        """Return the bytes of the measure's workspace on a layer."""
        return int(_load(self.memory)(sizes))


def _load(function: str | Callable[..., Any]) -> Any:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(f"criticalmass.{module}"), name)


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


def _logistic_masked() -> dict[str, Any]:
    return {
        **settings.logistic(),
        "mask": "training mean",
        "probe_version": _BY_NAME["logistic"].version,
    }


def _relevance_measure(
    name: Literal["ndcg", "recall", "mrr"], title: str, description: str
) -> Measure:
    """Return the entry of a measure of relevance by qrels."""
    value = f"relevance ({title} on qrels)"
    return Measure(
        name=name,
        kind="relevance",
        function=f"measures.similarity.task:{name}_on_qrels",
        description=f"{description}; needs a retrieval collection (beir:FOLDER, or import with "
        "--queries and --qrels), all documents are searched by cosine of raw vectors",
        label=value,
        quantity=value,
        value_name=value,
        settings=partial(settings.relevance, name),
        memory=relevance_bytes,
        flops=relevance_flops,
        query_score=name,
        searches=True,
        one_order_per_job=True,
    )


_ALL = (
    Measure(
        name="logistic",
        kind="probe",
        function="measures.logistic.probe:logistic",
        description="logistic regression on standardised neurons, with the strength of "
        "regularisation chosen on a validation part of the training split, scored by accuracy on "
        "the test split",
        plural="Logistic probes",
        settings=settings.logistic,
        version=2,
        memory="measures.logistic.memory:logistic_bytes",
        # A fit takes about 6 ms beside its products (120 rows of 96 neurons, 10 classes), and small
        # products do about 1e9 operations in a second.
        flops=partial(iterative_flops, passes=40, per_fit=6e6),
        one_order_per_job=True,
        law="ridge",
    ),
    Measure(
        name="logistic-masked",
        kind="probe",
        function="measures.logistic.masked:logistic_masked",
        description="the logistic probe of the whole layer with every other neuron set to its "
        "training mean and nothing fitted again, scored by accuracy on the test split: robustness, "
        "not recoverability",
        plural="Masked logistic probes",
        settings=_logistic_masked,
        memory="measures.logistic.memory:logistic_bytes",
        flops=masked_flops,
        every_size=True,
    ),
    Measure(
        name="ridge",
        kind="probe",
        function="measures.probes.closed_form:ridge",
        description="ridge regression onto the classes, scored by accuracy on the test split",
        plural="Ridge probes",
        settings=settings.closed_form,
        memory=partial(workspace_bytes, n_squares=6),
        flops=closed_form_flops,
        law="ridge",
    ),
    Measure(
        name="lda",
        kind="probe",
        function="measures.probes.closed_form:lda",
        description="linear discriminant analysis, scored by accuracy on the test split",
        plural="Linear discriminant probes",
        settings=settings.closed_form,
        memory=partial(workspace_bytes, n_squares=6),
        flops=closed_form_flops,
        law="ridge",
    ),
    Measure(
        name="knn",
        kind="probe",
        function="measures.probes.knn:knn",
        description="nearest neighbours, scored by accuracy on the test split",
        plural="Nearest-neighbour classifiers",
        settings=settings.knn,
        flops=partial(neighbour_flops, in_train=True),
        law="ridge",
        one_order_per_job=True,
    ),
    Measure(
        name="centroid",
        kind="probe",
        function="measures.probes.knn:centroid",
        description="nearest class centroid, scored by accuracy on the test split",
        plural="Nearest-centroid classifiers",
        flops=partial(iterative_flops, passes=1),
        law="ridge",
    ),
    Measure(
        name="sgd",
        kind="probe",
        function="measures.probes.sgd:sgd",
        description="the paper's protocol (a linear probe trained by gradient descent), scored by "
        "accuracy on the test split",
        plural="Linear probes trained by gradient descent",
        settings=settings.sgd,
        memory="measures.probes.sgd:workspace",
        flops=partial(iterative_flops, passes=100),
        one_order_per_job=True,
        full_value_is_shared=False,
        is_slow=True,
        law="ridge",
    ),
    Measure(
        name="own-head",
        kind="probe",
        function="measures.probes.own_head:own_head",
        description="the network's own classifier on the kept neurons, the others set to 0 and its "
        "weights multiplied by n_neurons / n_kept, nothing fitted, scored by accuracy on the test "
        "split; needs the classifier that extract stores beside the layer it reads",
        plural="The network's own classifiers",
        settings=settings.own_head,
        memory=partial(workspace_bytes, n_squares=0),
        flops=own_head_flops,
        every_size=True,
        reads="classifier",
    ),
    Measure(
        name="zero-shot",
        kind="probe",
        function="measures.probes.zero_shot:zero_shot",
        description="class prompts in a joint space: the class whose prompts have the largest "
        "cosine with the sample on the kept neurons, both normalised on them, nothing fitted, "
        "scored by accuracy on the test split; needs prompts (extract --prompt, import --prompts)",
        plural="Class prompts",
        settings=settings.zero_shot,
        memory=partial(workspace_bytes, n_squares=0),
        flops=zero_shot_flops,
        reads="prompts",
    ),
    Measure(
        name="cka",
        kind="similarity",
        function="measures.similarity.task:cka",
        description="linear centred kernel alignment of the subset with its whole layer, on the "
        "test split",
        label="linear CKA with the whole layer",
        quantity="similarity (CKA) to the whole layer",
        settings=settings.jackknife,
        memory=partial(workspace_bytes, n_squares=4),
        min_test_samples=4,
        every_size=True,
        law="cka",
    ),
    Measure(
        name="cka-debiased",
        kind="similarity",
        function="measures.similarity.task:cka_debiased",
        description="debiased linear CKA of the subset with its whole layer, on the test split",
        label="debiased linear CKA with the whole layer",
        quantity="similarity (debiased CKA) to the whole layer",
        settings=settings.jackknife,
        memory=partial(workspace_bytes, n_squares=4),
        min_test_samples=6,
        every_size=True,
        law="cka",
    ),
    Measure(
        name="cka-without-top5",
        kind="similarity",
        function="measures.similarity.task:cka_without_top",
        description="linear CKA of the subset with its whole layer, after the layer's 5 first "
        "principal components are removed from every neuron, on the test split",
        label="linear CKA with the whole layer, without the 5 top axes",
        quantity="similarity (CKA without the 5 top axes) to the whole layer",
        settings=settings.without_top,
        memory=partial(workspace_bytes, n_squares=8),
        flops=singular_value_flops,
        min_test_samples=8,
        every_size=True,
    ),
    Measure(
        name="procrustes",
        kind="similarity",
        function="measures.similarity.task:procrustes",
        description="orthogonal Procrustes similarity of the subset with its whole layer (nuclear "
        "norm of their cross-covariance over the product of their norms), on the test split",
        label="Procrustes similarity with the whole layer",
        quantity="Procrustes similarity to the whole layer",
        settings=settings.jackknife,
        memory=partial(workspace_bytes, n_squares=8),
        flops=singular_value_flops,
        min_test_samples=4,
        one_order_per_job=True,
    ),
    Measure(
        name="reconstruction",
        kind="similarity",
        function="measures.similarity.task:reconstruction",
        description="share of the variance of the dropped neurons that a linear regression on the "
        "kept ones explains (R², least squares with a small ridge on the training split), on the "
        "test split; 1 for the whole layer",
        label="R² of the dropped neurons",
        quantity="variance of the dropped neurons (linear regression on the kept)",
        settings=settings.reconstruction,
        memory=partial(workspace_bytes, n_squares=6),
        flops=reconstruction_flops,
        min_test_samples=4,
        one_order_per_job=True,
        fits_training=True,
    ),
    Measure(
        name="class-separation",
        kind="score",
        function="measures.similarity.task:class_separation",
        description="share of the cosine distance between samples that lies between classes (R² "
        "of Kornblith et al. 2021, every class counts equally), on the test split: a property of "
        "the subset that may exceed that of its whole layer, not a similarity with it",
        label="class separation R²",
        quantity="class separation (R² of cosine distances)",
        settings=settings.jackknife,
        flops=separation_flops,
        min_test_samples=4,
    ),
    Measure(
        name="mutual-knn",
        kind="similarity",
        function="measures.similarity.task:mutual_knn",
        description="neighbour agreement: share of the 10 nearest test samples (Euclidean "
        "distance on raw features) that the subset has in common with its whole layer; queries "
        "are test samples, at most 4,096",
        label="neighbour agreement (shared 10 nearest test samples)",
        quantity="neighbour agreement (10 nearest test samples by distance)",
        searches=True,
        settings=partial(settings.neighbours, "euclidean"),
        flops=partial(neighbour_flops, in_train=False),
        min_test_samples=_MIN_NEIGHBOUR_SAMPLES,
        one_order_per_job=True,
    ),
    Measure(
        name="retrieval",
        kind="similarity",
        function="measures.similarity.task:retrieval",
        description="neighbour agreement as nDCG@10, by cosine of raw vectors: what the subset "
        "retrieves, where the whole layer's own 10 nearest count as relevant (10, 9, ..., 1), not "
        "what people judge relevant; a sweep searches the test samples (at most 4,096 are "
        "queries), shrink the training samples (test samples are queries); in a retrieval "
        "collection queries search the documents in both",
        label="neighbour agreement (nDCG@10 among test samples)",
        quantity="neighbour agreement (nDCG@10 among test samples)",
        value_name="neighbour agreement (nDCG@10 of whole vectors' own neighbours among training "
        "vectors)",
        settings=partial(settings.neighbours, "cosine", gains="linear"),
        flops=partial(neighbour_flops, in_train=False),
        min_test_samples=_MIN_NEIGHBOUR_SAMPLES,
        query_score="ndcg",
        searches=True,
        one_order_per_job=True,
    ),
    Measure(
        name="retrieval-recall",
        kind="similarity",
        function="measures.similarity.task:retrieval_recall",
        description="neighbour agreement as recall@10, by cosine of raw vectors: share of the "
        "whole layer's own 10 nearest that are among the subset's 10 nearest, not of what people "
        "judge relevant; searched as for retrieval",
        label="neighbour agreement (recall@10 among test samples)",
        quantity="neighbour agreement (recall@10 among test samples)",
        value_name="neighbour agreement (recall@10 of whole vectors' own neighbours among "
        "training vectors)",
        settings=partial(settings.neighbours, "cosine"),
        flops=partial(neighbour_flops, in_train=False),
        min_test_samples=_MIN_NEIGHBOUR_SAMPLES,
        query_score="recall",
        searches=True,
        one_order_per_job=True,
    ),
    _relevance_measure(
        "ndcg",
        "nDCG@10",
        "relevance as nDCG@10 on qrels, graded with linear gains as in trec_eval and BEIR: what "
        "people judged relevant, not neighbour agreement",
    ),
    _relevance_measure(
        "recall",
        "recall@10",
        "relevance as recall@10 on qrels: share of a query's relevant documents among the 10 "
        "nearest",
    ),
    _relevance_measure(
        "mrr",
        "MRR@10",
        "relevance as MRR@10 on qrels: one over the rank of the first relevant document, 0 below "
        "rank 10",
    ),
)

_BY_NAME: dict[str, Measure] = {measure.name: measure for measure in _ALL}
MEASURES: Mapping[str, Measure] = MappingProxyType(_BY_NAME)


def is_similarity(measure: str) -> bool:
    """Whether a measure has no accuracy: a similarity to the whole layer, relevance or a score."""
    return measure in MEASURES and not MEASURES[measure].is_probe


def compares_with_layer(measure: str) -> bool:
    """Whether a measure is a similarity to the whole layer, which has the value 1."""
    return measure in MEASURES and MEASURES[measure].kind == "similarity"


def has_critical_mass(measure: str) -> bool:
    """Whether a share of the whole layer's value is something that subsets keep or lose.

    It is not for a score, which may be higher in a small subset than in the whole layer.
    """
    return measure not in MEASURES or MEASURES[measure].kind != "score"


def gallery_name(row: Mapping[Any, Any]) -> str:
    """Return what the queries of a row search, for `measure_label` and `measure_quantity`.

    Parameters
    ----------
    row: of a measure that searches. Its ``n_train`` is the number of documents of a retrieval
        collection, and 0 or missing where the test samples search each other.
    """
    n_train = row.get("n_train")
    # A missing number is None, NaN or pandas.NA.
    n_documents = float(n_train) if isinstance(n_train, Real) else 0.0
    return "documents" if n_documents > 0 else _TEST_SAMPLES


def measure_label(measure: str, gallery: str = "searched samples") -> str:
    """Return the axis label of a measure; ``gallery`` is what queries search."""
    if measure not in MEASURES:
        return PROBE_LABEL
    return MEASURES[measure].label.replace(_TEST_SAMPLES, gallery)


def measure_quantity(measure: str, gallery: str = "searched samples") -> str:
    """Return what is kept of a layer, in "keep 90 % of the ..."; see `measure_label`."""
    if not is_similarity(measure):
        return "accuracy"
    quantity = MEASURES[measure].quantity or f"similarity ({measure}) to the whole layer"
    return quantity.replace(_TEST_SAMPLES, gallery)


def measure_value_name(measure: str, relevance: str | None = None) -> str:
    """Return the value that a slim model keeps, as sentences name it.

    Parameters
    ----------
    measure: name of the measure.
    relevance: what is relevant to a query of a retrieval measure: "labels" names the query's
        class; otherwise the whole vectors' own neighbours, or the qrels.
    """
    entry = MEASURES[measure]
    if relevance == "labels" and entry.query_score is not None:
        score = {"ndcg": "nDCG", "recall": "recall"}[entry.query_score]
        return f"{score}@10 of training vectors of the query's class"
    return entry.value_name or (f"accuracy ({measure})" if entry.is_probe else measure)


class _Functions(Mapping[str, Any]):
    """Name -> function, of the measures of one kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return MEASURES[name].load_function()

    def __contains__(self, name: object) -> bool:
        return name in MEASURES and MEASURES[str(name)].kind == self._kind

    def __iter__(self) -> Iterator[str]:
        return (name for name, entry in MEASURES.items() if entry.kind == self._kind)

    def __len__(self) -> int:
        return sum(1 for _ in self)


PROBES: Mapping[str, Probe] = _Functions("probe")
SIMILARITIES: Mapping[str, Similarity] = _Functions("similarity")


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
    """Return the function of a similarity, of a measure of relevance or of a score.

    Raises
    ------
    CriticalMassError: if the name is unknown; the message suggests a similar one.
    """
    if not is_similarity(name):
        raise unknown_name("similarity", name, SIMILARITIES)
    function: Similarity = MEASURES[name].load_function()
    return function
