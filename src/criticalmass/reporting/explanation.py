"""The result of `explain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from criticalmass.theory.prediction import Prediction

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.theory.exchangeability import Exchangeability

#: The bar of which the paragraph speaks for CKA, and the one that says what a task needs.
CKA_DELTA, TASK_DELTA = 0.9, 0.95
#: Shares of the variance between classes whose directions are counted.
SHARES = (0.5, 0.9)


@dataclass(frozen=True)
class Need:
    """What a task takes, by the ridge law.

    Attributes
    ----------
    delta: share of the whole layer's accuracy that is kept.
    critical_mass: neurons that keep it.
    freedom: degrees of freedom of the whole layer that they stand for.
    twice_as_wide: neurons that a layer twice as wide with the same spectrum would need.
    directions: directions that carry ``SHARES`` of the variance between classes, fewest first.
    n_classes: of the task.
    """

    delta: float
    critical_mass: int
    freedom: float
    twice_as_wide: int
    directions: tuple[int, ...]
    n_classes: int


@dataclass(frozen=True, eq=False)
class Explanation:
    """What is known of a layer without a sweep.

    Attributes
    ----------
    model, dataset: short names.
    prediction: the curves, the effective dimensions and, if asked for, the diffuseness test.
    masses: one row per measure and delta: critical mass and DR, with intervals.
    curves: one row per measure and size of the display: mean, std over subsets, band, source.
    spectrum: one row per eigendirection of the standardised neurons, by variance: its share of
        the variance, its share of the variance between classes, and how much of its own variance
        lies between classes (nan without labels).
    n_seeds, level: of the intervals: where the mean over as many random subsets falls.
    cka_twice_as_wide: how many times as many neurons a layer twice as wide with the same spectrum
        needs for a CKA of 0.9, to first order.
    need: what the task takes, or None without labels.
    compared, compared_masses: predicted beside measured, if a run was given; else None.
    seconds: wall time.
    """

    model: str
    dataset: str
    prediction: Prediction
    masses: pd.DataFrame
    curves: pd.DataFrame
    spectrum: pd.DataFrame
    n_seeds: int
    level: float
    cka_twice_as_wide: float
    need: Need | None
    compared: pd.DataFrame | None
    compared_masses: pd.DataFrame | None
    seconds: float

    @property
    def paragraph(self) -> str:
        """The explanation in plain words, every number taken from the tables."""
        return paragraph(self)

    def mass(self, measure: str, delta: float) -> pd.Series:
        """Return the row of ``masses`` for a measure and delta."""
        rows = self.masses[(self.masses["measure"] == measure) & (self.masses["delta"] == delta)]
        return rows.iloc[0]


def paragraph(made: Explanation) -> str:
    """Say what a layer's spectrum means for whoever wants fewer neurons.

    Parameters
    ----------
    made: by `criticalmass.explain`.
    """
    sentences = [_dimensions(made), _cka(made)]
    if made.need is not None:
        sentences += [_task(made, made.need), _directions(made, made.need)]
    sentences.append(_wider(made))
    if made.prediction.diffuseness is not None:
        sentences.append(verdict(made.prediction.diffuseness))
    return " ".join(sentences)


def verdict(test: Exchangeability, level: float = 0.05) -> str:
    """Say the outcome of the diffuseness test, and which of its two parts decided.

    Parameters
    ----------
    test: its outcome.
    level: of both parts together (Holm: half of it for the first to fall).
    """
    parts = f"order p = {test.order_p:.2g}, structure p = {test.structure_p:.2g}"
    if test.is_diffuse(level=level):
        return f"Nothing contradicts that its neurons are exchangeable (diffuseness test: {parts})."
    said = []
    if test.order_p <= level / 2:
        said.append("the order in which they stand matters")
    if test.structure_p <= level / 2:
        said.append("they are more unequal than random mixtures of the layer's components would be")
    return f"Its neurons are not exchangeable: {' and '.join(said)} (diffuseness test: {parts})."


def _dimensions(made: Explanation) -> str:
    d, ratio = made.prediction.n_neurons, made.prediction.participation_ratio
    return (
        f"This layer has {d:,} neurons but {ratio:,.0f} effective dimensions (participation ratio "
        "of its standardised neurons)."
    )


def _cka(made: Explanation) -> str:
    row = made.mass("cka", CKA_DELTA)
    return (
        f"Any {row['critical_mass']:,} of them reach a CKA of {CKA_DELTA:g} with the whole layer "
        f"({_interval(made, row)})."
    )


def _task(made: Explanation, need: Need) -> str:
    row = made.mass("ridge", need.delta)
    return (
        f"To tell its {need.n_classes:,} classes apart, a ridge probe on any "
        f"{row['critical_mass']:,} neurons keeps {need.delta * 100:g} % of the whole layer's "
        f"accuracy of {row['value_full']:.3f} ({_interval(made, row)}): the task needs "
        f"{need.freedom:,.0f} degrees of freedom."
    )


def _directions(made: Explanation, need: Need) -> str:
    half, most = need.directions
    return (
        f"Half of the variance between classes lies along {_count(half, 'direction')} of "
        f"{made.prediction.n_neurons:,}, 90 % along {most:,}."
    )


def _wider(made: Explanation) -> str:
    said = (
        "A layer twice as wide with the same spectrum would need "
        f"{made.cka_twice_as_wide:.2f} times as many for that CKA"
    )
    if made.need is None:
        return f"{said}."
    before, after = made.need.critical_mass, made.need.twice_as_wide
    task = "the same number" if after == before else f"{after:,} instead of {before:,}"
    return f"{said}, but {task} for the task."


def _interval(made: Explanation, row: pd.Series) -> str:
    low, high = row["critical_mass_low"], row["critical_mass_high"]
    seeds = _count(made.n_seeds, "subset")
    return f"{low:,} to {high:,} for {made.level * 100:g} % of means over {seeds}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
