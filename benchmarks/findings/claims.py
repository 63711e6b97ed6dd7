"""The paper's claims, each tested on the local results by a fixed rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

AGREES, PARTLY, AGAINST = "agrees", "agrees in part", "does not agree"
MIXED, UNDECIDED, OPEN = "mixed", "undecided", "open"
SMALLEST_DR = 0.5
SMALL_FRACTION = 0.05
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class CaseCount:
    """Numbers of cases that support a claim, that contradict it, and of all cases."""

    support: int
    against: int
    cases: int

    @property
    def verdict(self) -> str:
        """Whether all cases support the claim, or only some, or some contradict it."""
        if not self.cases:
            return OPEN
        if self.support == self.cases:
            return AGREES
        if self.support:
            return MIXED if self.against else PARTLY
        return AGAINST if self.against else UNDECIDED


def claims(tables: Tables) -> pd.DataFrame:
    """Test the five claims on trained networks and on their untrained controls.

    A case is a model on a dataset (for tasks: two datasets of one model). It supports a claim if
    its whole 95 % interval does. The rules:

    - exists: the interval of DR(0.9), strict, of the last layer lies above 0.5;
    - task: the interval of the difference of DR(0.9) between two datasets excludes 0;
    - width: no rule, because no network was trained at several widths; the pairs of layers of one
      network whose wider layer has the greater DR(0.9) are counted;
    - pca: at 5 % of the neurons, principal axes score higher than random neurons;
    - inequality: at 5 % of the neurons the Gini coefficient of class accuracies is above that of
      the whole layer.

    Returns
    -------
    One row per claim and network ("trained", "untrained"): claim, network, support, against
    (the whole interval on the other side), cases, verdict.
    """
    rules = {
        "exists": _exists,
        "task": _task,
        "width": _width,
        "pca": _pca,
        "inequality": _inequality,
        "inequality beyond accuracy": _inequality_beyond_accuracy,
    }
    rows = []
    for claim, rule in rules.items():
        for network, control in (("trained", False), ("untrained", True)):
            count = rule(tables, control)
            verdict = OPEN if claim == "width" else count.verdict
            rows.append([claim, network, count.support, count.against, count.cases, verdict])
    return pd.DataFrame(
        rows, columns=["claim", "network", "support", "against", "cases", "verdict"]
    )


def _count(low: pd.Series, high: pd.Series, threshold: float | pd.Series = 0.0) -> CaseCount:
    return CaseCount(int((low > threshold).sum()), int((high < threshold).sum()), len(low))


def _exists(tables: Tables, control: bool) -> CaseCount:
    rows = last_layer(tables["transfer"], control)
    return _count(rows["dr_low"], rows["dr_high"], SMALLEST_DR)


def last_layer(table: pd.DataFrame, control: bool, measure: str = "logistic") -> pd.DataFrame:
    """Return the rows of one measure on the last layer, of trained networks or of controls."""
    selected = (table["control"] == control) & (table["measure"] == measure)
    return table[selected & (table["layer"] == "penultimate") & (table["selector"] == "random")]


def _task(tables: Tables, control: bool) -> CaseCount:
    rows = tables["tasks"][tables["tasks"]["control"] == control]
    differ = (rows["low"] > 0) | (rows["high"] < 0)
    return CaseCount(int(differ.sum()), 0, len(rows))


def _width(tables: Tables, control: bool) -> CaseCount:
    table = tables["layers"]
    table = table[(table["control"] == control) & (table["layer"] != "all")]
    support = against = cases = 0
    for _, layers in table.groupby(["model", "dataset"]):
        rows = layers[["n_neurons", "dr"]].to_numpy(float).tolist()
        for width, dr in rows:
            wider = [other for size, other in rows if size > width]
            support += sum(other > dr for other in wider)
            against += sum(other < dr for other in wider)
            cases += len(wider)
    return CaseCount(support, against, cases)


def _pca(tables: Tables, control: bool) -> CaseCount:
    table = tables["pca"]
    selected = (table["control"] == control) & (table["selector"] == "pca-top")
    rows = table[selected & (table["fraction"] == SMALL_FRACTION)]
    return _count(rows["low"], rows["high"])


def _at_small_fraction(tables: Tables, control: bool) -> pd.DataFrame:
    table = tables["fairness"]
    return table[(table["control"] == control) & (table["fraction"] == SMALL_FRACTION)]


def _inequality(tables: Tables, control: bool) -> CaseCount:
    rows = _at_small_fraction(tables, control)
    return _count(rows["gini_low"], rows["gini_high"], rows["gini_full"])


def _inequality_beyond_accuracy(tables: Tables, control: bool) -> CaseCount:
    rows = _at_small_fraction(tables, control)
    return _count(rows["gini_excess_low"], rows["gini_excess_high"])
