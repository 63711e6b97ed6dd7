"""An explanation in plain words; every number stands in its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.reporting.explanation import Explanation, Need
    from criticalmass.theory.exchangeability import Exchangeability


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
    from criticalmass.reporting.explanation import CKA_DELTA

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
