"""The paper's claims, each tested on the local results by a fixed rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticalmass.analysis.estimators import diffused_redundancy
from criticalmass.analysis.multiplicity import holm

AGREES, PARTLY, AGAINST = "agrees", "agrees in part", "does not agree"
MIXED, UNDECIDED, OPEN = "mixed", "undecided", "open"
SMALLEST_DR = 0.5
SMALL_FRACTION = 0.05
DELTA, ALPHA = 0.9, 0.05
#: Begin of the names of the network with nested losses and of its control, and a small fraction.
NESTED, TENTH = "wordllama", 0.1
_ENDS_OF_DIFFERENCE = {"low": "difference_low", "high": "difference_high"}
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class CaseCount:
    """Numbers of cases that support a claim, that contradict it, and of all cases.

    Attributes
    ----------
    support, against: after Holm's correction for all cases.
    cases: number of cases.
    support_alone, against_alone: by each case's interval alone.
    """

    support: int
    against: int
    cases: int
    support_alone: int
    against_alone: int

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
    """Test the paper's claims on trained networks and on their untrained controls.

    A case is a model on a dataset (for tasks: two datasets of one model). It supports a claim if
    its whole 95 % interval does and its p-value remains significant after Holm's correction for
    all cases of the claim and network. p-values are read off the intervals by the normal
    approximation, because the tables hold no draws. The rules:

    - exists: the interval of DR(0.9) of the last layer lies above 0.5;
    - exists above chance: the same for 90 % of the accuracy above that of the largest class. The
      ends of DR are those of the ends of the accuracies, which is wider than an interval;
    - task: the interval of the difference of DR(0.9) between two datasets excludes 0;
    - training: the trained network has the greater DR(0.9) (not a claim of the paper);
    - width: no rule, because no network was trained at several widths; the pairs of layers of one
      network whose wider layer has the greater DR(0.9) are counted;
    - pca: at 5 % of the neurons, principal axes score higher than one random subset does;
    - inequality: at 5 % of the neurons the Gini coefficient of class accuracies is above that of
      the whole layer;
    - upstream, architecture: the two networks of a comparison of that study differ in DR(0.9);
    - wider: of two networks the wider has the greater DR(0.9), and "wider in neurons": it needs
      more neurons for 90 %;
    - matryoshka: the first tenth of the neurons of the Matryoshka-trained network scores higher
      than a random subset does; contrast: the same of the other network.

    pca and the last five use p-values that the tables hold.

    Returns
    -------
    One row per claim and network ("trained", "untrained"): claim, network, support, against
    (the whole interval on the other side), cases, verdict, and the counts of each interval alone,
    support_alone and against_alone.
    """
    rules = {
        "exists": _exists,
        "exists above chance": _exists_above_chance,
        "task": _task,
        "training": _training,
        "width": _width,
        "pca": _pca,
        "inequality": _inequality,
        "inequality beyond accuracy": _inequality_beyond_accuracy,
    }
    if "comparisons" in tables:
        rules |= {
            "upstream": partial(_differ, study="upstream-local"),
            "architecture": partial(_differ, study="architectures-local"),
            "wider": _wider,
            "wider in neurons": _wider_in_neurons,
        }
    if "orders" in tables:
        rules |= {"matryoshka": _first, "contrast": partial(_first, nested=False)}
    rows = []
    for claim, rule in rules.items():
        for network, control in (("trained", False), ("untrained", True)):
            if claim == "training" and control:
                continue
            count = rule(tables, control)
            row = {"claim": claim, "network": network} | asdict(count)
            rows.append(row | {"verdict": OPEN if claim == "width" else count.verdict})
    return pd.DataFrame(rows)


def p_values(
    centre: pd.Series, low: pd.Series, high: pd.Series, threshold: float | pd.Series = 0.0
) -> NDArray[np.float64]:
    """Return two-sided p-values of "equal to the threshold" from 95 % intervals.

    Normal approximation: the standard error is the width of the interval / (2 * 1.96).
    """
    from scipy.stats import norm

    width = np.asarray(high - low, dtype=np.float64)
    error = width / (2.0 * norm.isf(ALPHA / 2.0))
    distance = np.abs(np.asarray(centre - threshold, dtype=np.float64))
    infinite = np.where(distance > 0.0, np.inf, 0.0)
    z = np.divide(distance, error, out=infinite, where=error > 0.0)
    return np.asarray(2.0 * norm.sf(z))


def _count(table: pd.DataFrame, name: str, threshold: float | pd.Series = 0.0) -> CaseCount:
    """Count the cases of a column whose interval is in the columns name_low and name_high."""
    low, high = table[f"{name}_low"], table[f"{name}_high"]
    remains = holm(p_values(table[name], low, high, threshold)) <= ALPHA
    above, below = low > threshold, high < threshold
    return CaseCount(
        support=int((above & remains).sum()),
        against=int((below & remains).sum()),
        cases=len(table),
        support_alone=int(above.sum()),
        against_alone=int(below.sum()),
    )


def _with_p(rows: pd.DataFrame, name: str) -> CaseCount:
    """Count the cases of a difference with its interval and p-value, in either direction."""
    remains = holm(rows["p"].to_numpy(float)) <= ALPHA
    above, below = rows[f"{name}_low"] > 0, rows[f"{name}_high"] < 0
    return CaseCount(
        support=int((above & remains).sum()),
        against=int((below & remains).sum()),
        cases=len(rows),
        support_alone=int(above.sum()),
        against_alone=int(below.sum()),
    )


def _either(count: CaseCount) -> CaseCount:
    """Let a difference in either direction support a claim."""
    support, alone = count.support + count.against, count.support_alone + count.against_alone
    return CaseCount(support, 0, count.cases, alone, 0)


def _compared(tables: Tables, control: bool, study: str) -> pd.DataFrame:
    table = tables["comparisons"]
    return table[(table["control"] == control) & (table["study"] == study)]


def _differ(tables: Tables, control: bool, study: str) -> CaseCount:
    return _either(_with_p(_compared(tables, control, study), "dr"))


def _wider(tables: Tables, control: bool) -> CaseCount:
    return _with_p(_compared(tables, control, "width-local"), "dr")


def _wider_in_neurons(tables: Tables, control: bool) -> CaseCount:
    rows = _compared(tables, control, "width-local")
    return _with_p(rows.assign(p=rows["p_mass"]), "mass")


def _first(tables: Tables, control: bool, nested: bool = True) -> CaseCount:
    table = tables["orders"]
    is_nested = table["model"].str.startswith(NESTED) == nested
    rows = table[is_nested & (table["control"] == control) & (table["quantity"] == "value")]
    return _with_p(
        rows[rows["fraction"] == TENTH].rename(columns=_ENDS_OF_DIFFERENCE), "difference"
    )


def _exists(tables: Tables, control: bool) -> CaseCount:
    return _count(last_layer(tables["transfer"], control), "dr", SMALLEST_DR)


def _exists_above_chance(tables: Tables, control: bool) -> CaseCount:
    rows = dr_above_chance(tables)
    return _count(rows[rows["control"] == control], "dr", SMALLEST_DR)


def dr_above_chance(tables: Tables) -> pd.DataFrame:
    """Return DR(0.9) of the accuracy above that of the largest class, for each network.

    The estimator is that of the table "transfer".

    Returns
    -------
    Columns model, dataset, control, dr, and its ends from those of the accuracies: dr_low, dr_high.
    """
    curves = tables["curves"]
    estimator = str(tables["transfer"]["estimator"].iloc[0])
    chance = tables["datasets"].set_index("dataset")["most_frequent"]
    rows = []
    keys = ["model", "dataset", "control"]
    for key, curve in curves[curves["measure"] == "logistic"].groupby(keys, sort=False):
        full, of_chance = float(curve["value_full"].iloc[0]), float(chance[key[1]])
        share = (of_chance + DELTA * (full - of_chance)) / full
        dr = {
            name: diffused_redundancy(
                curve["fraction"], curve[values], full, share, estimator=estimator
            )
            for name, values in (("dr", "mean"), ("dr_low", "low"), ("dr_high", "high"))
        }
        rows.append(dict(zip(keys, key, strict=True)) | dr)
    return pd.DataFrame(rows)


def last_layer(table: pd.DataFrame, control: bool, measure: str = "logistic") -> pd.DataFrame:
    """Return the rows of one measure on the last layer, of trained networks or of controls."""
    selected = (table["control"] == control) & (table["measure"] == measure)
    return table[selected & (table["layer"] == "penultimate") & (table["selector"] == "random")]


def _task(tables: Tables, control: bool) -> CaseCount:
    rows = tables["tasks"][tables["tasks"]["control"] == control]
    return _either(_difference_count(rows))


def _training(tables: Tables, control: bool) -> CaseCount:
    return _difference_count(tables["controls"])


def _difference_count(table: pd.DataFrame) -> CaseCount:
    return _count(table.rename(columns=_ENDS_OF_DIFFERENCE), "difference")


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
    return CaseCount(support, against, cases, support, against)


def _pca(tables: Tables, control: bool) -> CaseCount:
    table = tables["pca"]
    selected = (table["control"] == control) & (table["selector"] == "pca-top")
    rows = table[selected & (table["fraction"] == SMALL_FRACTION)]
    return _with_p(rows.rename(columns=_ENDS_OF_DIFFERENCE), "difference")


def _at_small_fraction(tables: Tables, control: bool) -> pd.DataFrame:
    table = tables["fairness"]
    return table[(table["control"] == control) & (table["fraction"] == SMALL_FRACTION)]


def _inequality(tables: Tables, control: bool) -> CaseCount:
    rows = _at_small_fraction(tables, control)
    return _count(rows, "gini", rows["gini_full"])


def _inequality_beyond_accuracy(tables: Tables, control: bool) -> CaseCount:
    rows = _at_small_fraction(tables, control)
    return _count(rows, "gini_excess")
