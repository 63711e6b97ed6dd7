"""The result of `explain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from criticalmass.core.notebook import Card, Shown
from criticalmass.reporting.formatting import count_of
from criticalmass.theory.prediction import FEWEST_SAMPLES_PER_NEURON, Prediction

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.theory.exchangeability import Exchangeability

#: Deltas of the paragraph: for CKA, and for the accuracy of a ridge probe.
CKA_DELTA, TASK_DELTA = 0.9, 0.95
#: Shares of the variance between classes for which directions are counted.
CLASS_VARIANCE_SHARES = (0.5, 0.9)


@dataclass(frozen=True)
class TaskRequirement:
    """What a task requires of a layer, by the law of ridge probes.

    Attributes
    ----------
    delta: share of the whole layer's accuracy that is kept.
    critical_mass: number of neurons that keeps it.
    degrees_of_freedom: degrees of freedom of the whole layer that correspond to these neurons.
    critical_mass_twice_as_wide: critical mass of a layer twice as wide with the same spectrum.
    directions: for each of ``CLASS_VARIANCE_SHARES``, the smallest number of directions that
        carries this share of the variance between classes.
    n_classes: number of classes.
    """

    delta: float
    critical_mass: int
    degrees_of_freedom: float
    critical_mass_twice_as_wide: int
    directions: tuple[int, ...]
    n_classes: int


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Shown):
    """What is known of a layer without a sweep.

    Attributes
    ----------
    model, dataset: short names.
    prediction: curves, effective dimensions and, with a run, the diffuseness test.
    masses: one row per measure and delta: critical mass and DR, with intervals.
    curves: one row per measure and size: mean and standard deviation over subsets, interval,
        source. At most about 80 sizes per measure.
    spectrum: one row per eigendirection of the standardised neurons, in the order of variance:
        its share of the variance, its share of the variance between classes, and the share of
        its own variance that lies between classes (NaN without labels).
    n_seeds, level: of the intervals, which hold the mean over ``n_seeds`` random subsets with
        probability ``level``.
    cka_twice_as_wide: factor by which the number of neurons for a CKA of 0.9 grows in a layer
        twice as wide with the same spectrum, to first order.
    task: what the task requires, or None without labels.
    compared: predicted and measured means by size, or None without a run.
    compared_masses: predicted and measured critical masses, or None without a run.
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
    task: TaskRequirement | None
    compared: pd.DataFrame | None
    compared_masses: pd.DataFrame | None
    seconds: float

    def _card(self) -> Card:
        names = ("measure", "delta", "critical_mass", "critical_mass_low", "critical_mass_high")
        masses = self.masses[[name for name in names if name in self.masses]]
        facts = {
            "neurons": f"{self.prediction.n_neurons:,}",
            "effective dimensions": f"{self.prediction.participation_ratio:,.1f}",
        }
        title = f"Explanation of {self.prediction.layer!r} of {self.model} on {self.dataset}"
        return Card(title, facts, self.paragraph, {"critical masses": masses})

    @property
    def paragraph(self) -> str:
        """The explanation in words; every number is one of the tables."""
        sentences = [_dimensions_sentence(self), _cka_sentence(self)]
        if self.task is not None:
            sentences += [_task_sentences(self, self.task), _directions_sentence(self, self.task)]
        sentences.append(_width_sentence(self))
        if self.prediction.diffuseness is not None:
            sentences.append(diffuseness_sentence(self.prediction.diffuseness))
        return " ".join(sentences)

    def mass(self, measure: str, delta: float) -> pd.Series:
        """Return the row of ``masses`` for a measure and delta."""
        rows = self.masses[(self.masses["measure"] == measure) & (self.masses["delta"] == delta)]
        return rows.iloc[0]


def diffuseness_sentence(test: Exchangeability, level: float = 0.05) -> str:
    """State the outcome of the diffuseness test and which of its two parts decided.

    Parameters
    ----------
    test: the outcome.
    level: significance level of both parts together (Holm: the smaller p-value is compared with
        half of it).
    """
    p_values = f"order p = {test.order_p:.2g}, structure p = {test.structure_p:.2g}"
    if test.is_diffuse(level=level):
        return (
            f"The diffuseness test does not reject that the neurons are exchangeable ({p_values})."
        )
    reasons = []
    if test.order_p <= level / 2:
        reasons.append("their order matters")
    if test.structure_p <= level / 2:
        reasons.append("they are more unequal than random mixtures of the layer's components")
    return (
        "The diffuseness test rejects that the neurons are exchangeable: "
        f"{' and '.join(reasons)} ({p_values})."
    )


def _dimensions_sentence(explanation: Explanation) -> str:
    prediction = explanation.prediction
    return (
        f"This layer has {prediction.n_neurons:,} neurons and "
        f"{prediction.participation_ratio:,.0f} effective dimensions (participation ratio of its "
        "standardised neurons)."
    )


def _cka_sentence(explanation: Explanation) -> str:
    prediction = explanation.prediction
    is_debiased = prediction.curve("cka-debiased") is not None
    row = explanation.mass("cka-debiased" if is_debiased else "cka", CKA_DELTA)
    mass = row["critical_mass"]
    text = (
        f"{count_of(mass, 'random neuron')} {'reaches' if mass == 1 else 'reach'} a "
        f"{'debiased ' if is_debiased else ''}CKA of {CKA_DELTA:g} with the whole layer on average "
        f"({_interval_text(explanation, row)})."
    )
    if not is_debiased:
        return text
    plain = explanation.mass("cka", CKA_DELTA)["critical_mass"]
    return (
        f"{text} Plain CKA reaches it with {plain:,}, but is biased on {prediction.n_test:,} test "
        f"samples; {FEWEST_SAMPLES_PER_NEURON * prediction.n_neurons:,} or more are needed."
    )


def _task_sentences(explanation: Explanation, task: TaskRequirement) -> str:
    row = explanation.mass("ridge", task.delta)
    neurons = count_of(row["critical_mass"], "random neuron")
    return (
        f"On the task of {task.n_classes:,} classes, a ridge probe on {neurons} keeps "
        f"{task.delta * 100:g} % of the whole layer's accuracy of {row['value_full']:.3f} on "
        f"average ({_interval_text(explanation, row)}). The task needs "
        f"{task.degrees_of_freedom:,.0f} degrees of freedom."
    )


def _directions_sentence(explanation: Explanation, task: TaskRequirement) -> str:
    half, most = task.directions
    return (
        f"Half of the variance between classes lies along {half:,} of the "
        f"{explanation.prediction.n_neurons:,} directions, 90 % along {most:,}."
    )


def _width_sentence(explanation: Explanation) -> str:
    text = (
        "A layer twice as wide with the same spectrum would need "
        f"{explanation.cka_twice_as_wide:.2f} times as many neurons for this CKA"
    )
    task = explanation.task
    if task is None:
        return f"{text}."
    if task.critical_mass_twice_as_wide == task.critical_mass:
        return f"{text}, and the same number for the task."
    return (
        f"{text}, and {task.critical_mass_twice_as_wide:,} instead of {task.critical_mass:,} for "
        "the task."
    )


def _interval_text(explanation: Explanation, row: pd.Series) -> str:
    low, high = row["critical_mass_low"], row["critical_mass_high"]
    subsets = count_of(explanation.n_seeds, "subset")
    return f"{low:,} to {high:,} for {explanation.level * 100:g} % of means over {subsets}"
