"""Data classes of a study: its models, grids and protocols."""

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
    spec: model spec of `criticalmass.load_model`.
    weights: name under which the user gives the weight file; None if the spec needs no file.
    published: name of the published curves of this model (`studies.published`), or None.
    """

    spec: str
    weights: str | None = None
    published: str | None = None


@dataclass(frozen=True)
class StudyPart:
    """A grid: every model on every dataset, every selector and measure on every layer.

    Attributes
    ----------
    models, datasets, layers, selectors, measures: the axes of the grid.
    fractions: shares of the neurons; those of the protocol if empty.
    seeds: number of random subsets; that of the protocol if 0.
    protocol: a key of `PROTOCOLS`.
    control: whether each model is also measured untrained.
    optional: whether the study is complete without this part.
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
    def protocol_settings(self) -> StudyProtocol:
        """The protocol with this part's name of it."""
        return PROTOCOLS[self.protocol]


@dataclass(frozen=True)
class Study:
    """A question and the grids that answer it.

    Attributes
    ----------
    name: name of the study: that of its file, without suffix.
    question: the question, in one line.
    source: where the paper asks it.
    parts: the grids.
    include: other studies that are run with this one.
    tables: tables in addition to curves and DR: fairness, agreement, ensembles, selectors (each
        selector compared with random subsets).
    estimators: estimators of DR; that of each part's protocol if empty.
    deltas: shares of the whole layer's value.
    not_here: why there is no local variant; empty if there is one, or if this is it.
    """

    name: str
    question: str
    source: str = ""
    parts: tuple[StudyPart, ...] = ()
    include: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    estimators: tuple[str, ...] = ()
    deltas: tuple[float, ...] = (0.8, 0.9, 0.95)
    not_here: str = ""


PROBE = "probe"
"""Measure name that stands for the probe of the protocol."""
PAPER_FRACTIONS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01),
    *(0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9),
)
"""Fractions of the authors' curves (Nanda et al. 2023, analysis code)."""


@dataclass(frozen=True)
class StudyProtocol:
    """The settings of a study that its file does not give.

    Attributes
    ----------
    name: name of the protocol in study files.
    probe: the measure that `PROBE` stands for.
    fractions: shares of the neurons to keep.
    estimator: estimator of the critical mass.
    seeds: number of random subsets of each size.
    """

    name: str
    probe: str
    fractions: tuple[float, ...]
    estimator: str
    seeds: int


_ALL = (
    # Logistic probes on standardised features, fitted to a certified optimum; their strength is
    # chosen on a part of the training split. DR by the strict estimator.
    StudyProtocol("exact", "logistic", DEFAULT_FRACTIONS, "strict", 5),
    # As the authors: SGD on raw features, learning rate 0.1, 100 epochs, batches of 256, 14
    # fractions, 5 seeds, the whole layer once. DR by the nearest estimator.
    StudyProtocol("paper", "sgd", PAPER_FRACTIONS, "nearest", 5),
)
PROTOCOLS: Mapping[str, StudyProtocol] = MappingProxyType({one.name: one for one in _ALL})
