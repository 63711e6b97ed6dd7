"""The result of `explain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from criticalmass.reporting.explain_text import paragraph
from criticalmass.theory.prediction import Prediction

if TYPE_CHECKING:
    import pandas as pd

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
