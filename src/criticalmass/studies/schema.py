"""The nouns of a study: what is measured, and what is written about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from criticalmass.selectors.sizes import DEFAULT_FRACTIONS


@dataclass(frozen=True)
class ModelEntry:
    """A model of a study.

    Attributes
    ----------
    spec: as `criticalmass.load_model` takes it.
    weights: the name under which the user hands its weight file over; None: it has its own.
    published: which published curves are of this model (`studies.published`); None: none.
    """

    spec: str
    weights: str | None = None
    published: str | None = None


@dataclass(frozen=True)
class Part:
    """A grid: every model on every dataset, every selector and measure on every layer.

    Attributes
    ----------
    models, datasets, layers, selectors, measures: what is combined.
    fractions: shares of the neurons; those of the protocol if empty.
    seeds: number of random subsets; that of the protocol if 0.
    protocol: a key of `PROTOCOLS`.
    control: whether each model is measured untrained, too.
    optional: whether the rest counts as whole without this.
    """

    models: tuple[ModelEntry, ...]
    datasets: tuple[str, ...]
    layers: tuple[str, ...] = ("penultimate",)
    selectors: tuple[str, ...] = ("random",)
    measures: tuple[str, ...] = ("probe",)
    fractions: tuple[float, ...] = ()
    seeds: int = 0
    protocol: str = "exact"
    control: bool = False
    optional: bool = False

    @property
    def rules(self) -> Protocol:
        """The protocol itself."""
        return PROTOCOLS[self.protocol]


@dataclass(frozen=True)
class Study:
    """A question, and the grids that answer it.

    Attributes
    ----------
    name: the file's, without its suffix.
    question: what it asks, a line.
    source: where the paper asks it.
    parts: the grids.
    include: other studies that this one runs.
    tables: what is tabulated beside curves and DR: fairness, agreement, ensembles, selectors
        (each of them against random subsets).
    estimators: of DR; that of each part's protocol if empty.
    deltas: shares of the whole layer's value.
    not_here: why there is no local variant; empty if there is, or if this is it.
    """

    name: str
    question: str
    source: str = ""
    parts: tuple[Part, ...] = ()
    include: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    estimators: tuple[str, ...] = ()
    deltas: tuple[float, ...] = (0.8, 0.9, 0.95)
    not_here: str = ""


PROBE = "probe"
"""The measure that means the probe of the protocol, whichever that is."""
PAPER_FRACTIONS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01),
    *(0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9),
)
"""The fractions of the authors' curves (Nanda et al. 2023, their analysis code)."""


@dataclass(frozen=True)
class Protocol:
    """What a study takes where its file does not say otherwise.

    Attributes
    ----------
    name: what the file calls it.
    probe: the measure that `PROBE` stands for.
    fractions: shares of the neurons to keep.
    estimator: of the critical mass.
    seeds: number of random subsets of each size.
    words: what it is, in a sentence.
    """

    name: str
    probe: str
    fractions: tuple[float, ...]
    estimator: str
    seeds: int
    words: str


_ALL = (
    Protocol(
        "exact",
        "logistic",
        DEFAULT_FRACTIONS,
        "strict",
        5,
        "logistic probes on standardised features, fitted to a certified optimum, their strength "
        "chosen on a part of the training split; DR by the strict estimator",
    ),
    Protocol(
        "paper",
        "sgd",
        PAPER_FRACTIONS,
        "nearest",
        5,
        "as the authors: SGD on raw features, learning rate 0.1, 100 epochs, batches of 256, 14 "
        "fractions, 5 seeds, the whole layer once; DR by the nearest estimator",
    ),
)
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({one.name: one for one in _ALL})
