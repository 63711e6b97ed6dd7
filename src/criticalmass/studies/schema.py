"""The nouns of a study: what is measured, and what is written about it."""

from __future__ import annotations

from dataclasses import dataclass

from criticalmass.studies.protocol import PROTOCOLS, Protocol


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
