"""What the slider of the page sets: every number that hangs on delta, written beforehand.

The numbers are rows of `criticalmass.redundancy`; the page's script only picks one of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from criticalmass.reporting.formatting import percent
from criticalmass.reporting.page.curve_plots import KEY, curve_key
from criticalmass.reporting.page.headline import answer

if TYPE_CHECKING:
    import pandas as pd

#: Deltas in thousandths that the slider stops at.
STOPS = tuple(range(500, 1001, 5))
GRID = tuple(stop / 1000 for stop in STOPS)
_BYTES = 4
_NONE = "–"

#: (curve key) -> size -> (class, relative loss, low, high) of the class that loses most.
WorstClasses = Mapping[tuple[str, ...], Mapping[int, tuple[str, float, float, float]]]


@dataclass
class Words:
    """Every text once, each known by its place."""

    texts: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str) -> int:
        """Return the place of a text, a new one if it is new."""
        if text not in self.places:
            self.places[text] = len(self.texts)
            self.texts.append(text)
        return self.places[text]


def settings(
    every: pd.DataFrame, lines: pd.DataFrame, worst: WorstClasses, words: Words
) -> list[dict[str, Any]]:
    """Write down what the page says of each curve at every stop of the slider.

    Parameters
    ----------
    every: rows of `criticalmass.redundancy` at all of `GRID`.
    lines: rows of `criticalmass.curves` of the same run.
    worst: the class that loses most, where classes were predicted.
    words: collects the texts.

    Returns
    -------
    One mapping per curve, in order of appearance: name parts, neurons, and one row per stop.
    """
    sizes = {key: sorted(part["n_kept"].astype(int)) for key, part in _by_curve(lines)}
    found = []
    for key, part in _by_curve(every):
        rows = {round(row["delta"] * 1000): row for row in part.to_dict("records")}
        told = [_told(rows[stop], sizes.get(key, []), worst.get(key), words) for stop in STOPS]
        found.append({"key": key, "neurons": int(part["n_neurons"].iloc[0]), "rows": told})
    return found


def keys_of(every: pd.DataFrame) -> list[tuple[str, ...]]:
    """List the curves of a table, in the order in which `settings` tells of them."""
    return [key for key, _ in _by_curve(every)]


def saved(kept: int, neurons: int) -> str:
    """Say how many bytes of a stored vector go, per vector and per million of them."""
    gone, whole = _BYTES * (neurons - kept), _BYTES * neurons
    if not gone:
        return "nothing"
    million = f"{gone / 1000:.2f} GB" if gone >= 100 else f"{gone:.0f} MB"
    share = f"{100 * gone / whole:.0f}\N{NO-BREAK SPACE}%"
    return f"{gone:,} of {whole:,} bytes a vector ({share}), {million} a million"


def worst_words(found: tuple[str, float, float, float] | None, *, whole: bool) -> str:
    """Say which class loses most, and how much of its accuracy."""
    if whole:
        return "none: nothing is left out"
    if found is None:
        return "not worked out for this curve"
    name, loss, low, high = found
    if loss <= 0:
        return "no class loses"
    ends = "" if low != low or high != high else f" ({_per_cent(low)} to {_per_cent(high)})"
    return f"{name} loses {_per_cent(loss)}\N{NO-BREAK SPACE}% of its accuracy{ends}"


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f}".replace("-", "−")


def _by_curve(table: pd.DataFrame) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    groups = table.groupby(list(KEY), sort=False)
    return [(curve_key(part.iloc[0]), part) for _, part in groups]


def _told(
    row: dict[str, Any],
    sizes: Sequence[int],
    worst: Mapping[int, tuple[str, float, float, float]] | None,
    words: Words,
) -> dict[str, Any]:
    """Write one row down: texts by their place, and where the figures put their marks."""
    import pandas as pd

    if pd.isna(row["critical_mass"]):
        said = answer(None)
        parts = {"mass": _NONE, "dr": _NONE, "saved": _NONE, "worst": _NONE}
        return {"says": _placed(said, parts, words), "kept": 0, "mass": None, "dots": 0}
    mass, neurons = int(row["critical_mass"]), int(row["n_neurons"])
    at = bisect_left(sizes, mass)
    said = answer(row, sizes[at - 1] if at else None)
    low, high = _or(row["critical_mass_low"], mass), _or(row["critical_mass_high"], mass)
    floor = bool(row["at_floor"])
    level = percent(float(row["level"]))
    aside = f"{level} interval {int(low):,} to {int(high):,}"
    if low == high and at and not floor:
        aside = f"{sizes[at - 1]:,} do not; none between was tested"
    parts = {
        "mass": f"{'≤ ' if floor else ''}{mass:,} ({aside})",
        "dr": f"{'≥ ' if floor else ''}{float(row['dr']):.2f} ({_ends(row)})",
        "saved": saved(mass, neurons),
        "worst": worst_words(None if worst is None else worst.get(mass), whole=mass >= neurons),
    }
    return {
        "says": _placed(said, parts, words),
        "dots": words.place(f"{mass:,} of {neurons:,} neurons"),
        "kept": mass,
        "mass": round(mass / neurons, 5),
        "low": round(low / neurons, 5),
        "high": round(high / neurons, 5),
        "bar": round(float(row["delta"]) * float(row["value_full"]), 5),
    }


def _ends(row: dict[str, Any]) -> str:
    low, high = _or(row["dr_low"], row["dr"]), _or(row["dr_high"], row["dr"])
    return f"{low:.2f} to {high:.2f}"


def _or(value: Any, otherwise: Any) -> float:
    import pandas as pd

    return float(otherwise if pd.isna(value) else value)


def _placed(said: Any, parts: Mapping[str, str], words: Words) -> dict[str, int]:
    sentence = {name: getattr(said, name) for name in ("before", "number", "after")}
    sentence["aside"] = f" {said.aside}" if said.aside else ""
    return {name: words.place(text) for name, text in {**sentence, **parts}.items()}
