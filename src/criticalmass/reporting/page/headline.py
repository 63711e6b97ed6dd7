"""The headline of a run: its critical mass in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from criticalmass.measures.registry import gallery_name, is_similarity, measure_quantity
from criticalmass.reporting.formatting import integer, is_missing, percent

if TYPE_CHECKING:
    import pandas as pd

#: The headline is about this delta, or the nearest one in the table.
_PREFERRED_DELTA = 0.9


@dataclass(frozen=True)
class Headline:
    """One sentence in parts, because the page emphasises the number.

    Attributes
    ----------
    before, number, after: the sentence, e.g. "On average, random", "214 of the 1,280 neurons",
        "keep ...".
    detail: interval or limit in parentheses, e.g. "(95 % interval 190 to 242)"; may be empty.
    n_kept, n_neurons: the critical mass and the size of the layer; both 0 without a value.
    """

    before: str
    number: str
    after: str
    detail: str
    n_kept: int = 0
    n_neurons: int = 0

    @property
    def sentence(self) -> str:
        """The whole sentence."""
        parts = (self.before, self.number, self.after, self.detail)
        return " ".join(part for part in parts if part) + "."


def headline_row(table: pd.DataFrame) -> pd.Series | None:
    """Choose the row of the headline.

    Preferred, in this order: measures that score a task, the selector "random", the layer
    "penultimate", a delta near 0.9, and later layers.

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
    ranks = rows.assign(
        _similarity=rows["measure"].map(is_similarity),
        _not_random=rows["selector"] != "random",
        _not_penultimate=rows["layer"] != "penultimate",
        _distance=(rows["delta"] - _PREFERRED_DELTA).abs().round(9),
        _depth=-rows["layer"].map({name: n for n, name in enumerate(rows["layer"].unique())}),
    )
    order = ["_similarity", "_not_random", "_not_penultimate", "_distance", "_depth"]
    return rows.loc[ranks.sort_values(order, kind="stable").index[0]]


def headline(row: Mapping[Any, Any] | pd.Series | None) -> Headline:
    """Write a row of the redundancy table as a sentence; None if no row has a critical mass."""
    if row is None:
        return Headline("", "No answer yet:", "no measure of this run has a critical mass", "")
    n_neurons, n_kept = int(row["n_neurons"]), round(float(row["critical_mass"]))
    goal = _goal(str(row["measure"]), float(row["delta"]), gallery_name(dict(row)))
    if not bool(row["reached"]):
        return Headline("", "No tested subset", f"keeps {goal}", "", n_neurons, n_neurons)
    if n_kept >= n_neurons:
        after, detail = f"are needed to keep {goal}", "(no smaller tested subset does)"
        return Headline("All", f"{n_neurons:,} neurons", after, detail, n_kept, n_kept)
    before, number = _subject(str(row["selector"]), n_kept, n_neurons)
    at_floor = bool(row["at_floor"])
    after = f"{'already ' if at_floor else ''}{'keeps' if n_kept == 1 else 'keep'} {goal}"
    detail = "(the smallest tested subset; fewer may do)" if at_floor else _detail(row)
    return Headline(before, number, after, detail, n_kept, n_neurons)


def _goal(measure: str, delta: float, gallery: str) -> str:
    """Name the share and the quantity that is kept."""
    return f"{percent(delta)} of the {measure_quantity(measure, gallery)}"


def _subject(selector: str, n_kept: int, n_neurons: int) -> tuple[str, str]:
    """Name the subset: its selector, and its size."""
    size = f"{n_kept:,} of the {n_neurons:,} neurons"
    if selector == "random":
        return "On average, random", size
    if selector.startswith("projection") or selector == "rotation":
        return "Random projections to", f"{n_kept:,} dimensions of the {n_neurons:,}-neuron layer"
    if selector.startswith("pca"):
        end = "last" if selector.endswith("bottom") else "first"
        return f"The {end}", f"{n_kept:,} principal components of the {n_neurons:,} neurons"
    if selector == "lda-top":
        return (
            "The first",
            f"{n_kept:,} discriminant and principal axes of the {n_neurons:,} neurons",
        )
    return f"With the selector {selector!r},", size


def _detail(row: Mapping[Any, Any] | pd.Series) -> str:
    """Write the interval, the tested sizes on both sides, and the size that most subsets need."""
    parts = []
    low, high = row["critical_mass_low"], row["critical_mass_high"]
    if not is_missing(low) and not is_missing(high):
        parts.append(f"{percent(row['level'])} interval {integer(low)} to {integer(high)}")
    fails, passes = row["largest_failing"], row["smallest_passing"]
    if not is_missing(fails):
        parts.append(f"tested: {integer(fails)} fails, {integer(passes)} passes")
    if not is_missing(row["pass_mass"]):
        share = percent(row["pass_share"])
        parts.append(f"{share} of random subsets pass with {integer(row['pass_mass'])}")
    return f"({'; '.join(parts)})" if parts else ""
