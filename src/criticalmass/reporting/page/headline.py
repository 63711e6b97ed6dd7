"""The answer of a run, in one sentence that a newcomer understands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from criticalmass.measures.registry import is_similarity
from criticalmass.reporting.formatting import percent

if TYPE_CHECKING:
    import pandas as pd

#: The delta that the sentence is about, when it was asked for.
_USUAL_DELTA = 0.9
_KEPT = {
    "cka": "similarity (CKA) to the whole layer",
    "cka-debiased": "similarity (debiased CKA) to the whole layer",
    "procrustes": "Procrustes similarity to the whole layer",
    "mutual-knn": "nearest neighbours in the whole layer",
    "retrieval": "retrieval quality (nDCG@10)",
    "retrieval-recall": "ten nearest vectors that the whole layer retrieves",
}
_KEY = ["model", "layer", "dataset", "selector", "measure"]


@dataclass(frozen=True)
class Answer:
    """One sentence, cut where the page sets the number apart.

    Attributes
    ----------
    before, number, after: the sentence, e.g. "Any", "214 of the 1,280 neurons", "keep ...".
    aside: its interval or its limit, e.g. "(95 % interval 190 to 242)"; may be empty.
    kept, neurons: the critical mass and the size of the layer; 0 of 0 when there is no answer.
    """

    before: str
    number: str
    after: str
    aside: str
    kept: int = 0
    neurons: int = 0

    @property
    def sentence(self) -> str:
        """The whole sentence."""
        parts = (self.before, self.number, self.after, self.aside)
        return " ".join(part for part in parts if part) + "."


def headline_row(table: pd.DataFrame) -> pd.Series | None:
    """Choose the row that answers best: random subsets, a task, the last layer, delta 0.9.

    Parameters
    ----------
    table: rows of `criticalmass.redundancy`.

    Returns
    -------
    One row, or None if no row has a critical mass.
    """
    rows = table[table["critical_mass"].notna()]
    if rows.empty:
        return None
    rank = rows.assign(
        _similarity=rows["measure"].map(is_similarity),
        _chosen=rows["selector"] != "random",
        _inner=rows["layer"] != "penultimate",
        _far=(rows["delta"] - _USUAL_DELTA).abs().round(9),
        _early=-rows["layer"].map({name: n for n, name in enumerate(rows["layer"].unique())}),
    )
    order = ["_similarity", "_chosen", "_inner", "_far", "_early"]
    return rows.loc[rank.sort_values(order, kind="stable").index[0]]


def next_smaller(row: pd.Series | None, curves: pd.DataFrame) -> int | None:
    """Return the largest tested size below a critical mass, None where it is the smallest.

    Parameters
    ----------
    row: one row of `criticalmass.redundancy`, or None.
    curves: rows of `criticalmass.curves` of the same run.
    """
    if row is None:
        return None
    same = (curves[_KEY] == row[_KEY]).all(axis=1)
    below = curves.loc[same & (curves["n_kept"] < row["critical_mass"]), "n_kept"]
    return int(below.max()) if len(below) else None


def answer(row: pd.Series | None, below: int | None = None) -> Answer:
    """Say a row of the redundancy table as a sentence.

    Parameters
    ----------
    row: one row of `criticalmass.redundancy`, or None when a run holds no value.
    below: the next smaller size that was tested, said where the interval is that one size.
    """
    if row is None:
        return Answer("", "No answer yet:", "no cell of this run has a value", "")
    neurons, kept = int(row["n_neurons"]), round(float(row["critical_mass"]))
    goal = _goal(str(row["measure"]), float(row["delta"]))
    if not bool(row["reached"]):
        return Answer("", "No tested subset", f"keeps {goal}", "", neurons, neurons)
    if kept >= neurons:
        aside = "(no smaller subset that was tested does)"
        return Answer(
            "All", f"{neurons:,} neurons", f"are needed to keep {goal}", aside, kept, kept
        )
    before, number = _subject(str(row["selector"]), kept, neurons)
    floor = bool(row["at_floor"])
    after = f"{'already ' if floor else ''}{'keeps' if kept == 1 else 'keep'} {goal}"
    aside = "(the smallest subset tested; fewer may do)" if floor else _interval(row, below)
    return Answer(before, number, after, aside, kept, neurons)


def _goal(measure: str, delta: float) -> str:
    """Name what is kept."""
    return f"{percent(delta)} of the {_KEPT.get(measure, 'accuracy')}"


def _subject(selector: str, kept: int, neurons: int) -> tuple[str, str]:
    """Name the subset: any (random), or as its selector makes it."""
    count = f"{kept:,}"
    if selector == "random":
        return "Any", f"{count} of the {neurons:,} neurons"
    if selector.startswith("projection"):
        return "Random projections to", f"{count} dimensions of the {neurons:,}-neuron layer"
    if selector.startswith("pca"):
        end = "last" if selector.endswith("bottom") else "first"
        return f"The {end}", f"{count} principal components of the {neurons:,} neurons"
    return f"The subset {selector!r} of", f"{count} of the {neurons:,} neurons"


def _interval(row: pd.Series, below: int | None) -> str:
    """Write the interval of the critical mass."""
    import pandas as pd

    low, high, level = row["critical_mass_low"], row["critical_mass_high"], row["level"]
    if pd.isna(low) or pd.isna(high):
        return ""
    if low == high and below is not None:
        return f"({below:,} do not, at {percent(level)} confidence; none between was tested)"
    return f"({percent(level)} interval {round(float(low)):,} to {round(float(high)):,})"
