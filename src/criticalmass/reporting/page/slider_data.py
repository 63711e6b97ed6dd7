"""Data of the slider: every text and number that depends on delta, for each of its stops.

The numbers are rows of `criticalmass.redundancy`; the page's script selects one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from criticalmass.analysis.columns import CurveKey
from criticalmass.reporting.figures.curves import rows_by_curve
from criticalmass.reporting.formatting import (
    MISSING,
    decimal,
    integer,
    is_missing,
    percent,
    with_minus_sign,
)
from criticalmass.reporting.page.headline import Headline, headline
from criticalmass.reporting.tables import tested_sizes_text

if TYPE_CHECKING:
    import pandas as pd

#: Stops of the slider: delta in thousandths.
STOPS = tuple(range(500, 1001, 5))
#: Deltas of the stops.
SLIDER_DELTAS = tuple(stop / 1000 for stop in STOPS)
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class ClassLoss:
    """Relative loss of accuracy of a class, with its interval (NaN if unknown)."""

    name: str
    loss: float
    low: float
    high: float


#: Curve -> size -> the class that loses most at this size.
WorstClasses = Mapping[CurveKey, Mapping[int, ClassLoss]]


class StringTable:
    """Distinct texts, each with an index, so that the page holds every text once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._indices: dict[str, int] = {}

    def index(self, text: str) -> int:
        """Return the index of a text, and add the text if it is new."""
        if text not in self._indices:
            self._indices[text] = len(self.texts)
            self.texts.append(text)
        return self._indices[text]


@dataclass(frozen=True)
class SliderCurve:
    """What the page shows of one curve.

    Attributes
    ----------
    key: the curve.
    n_neurons: of its layer.
    rows: one mapping per stop of the slider: indices of texts, and positions of marks in the
        figures.
    """

    key: CurveKey
    n_neurons: int
    rows: list[dict[str, Any]]


def slider_curves(
    redundancy: pd.DataFrame, worst: WorstClasses, strings: StringTable
) -> list[SliderCurve]:
    """Write what the page shows of each curve at every stop of the slider.

    Parameters
    ----------
    redundancy: rows of `criticalmass.redundancy` at all of `SLIDER_DELTAS`.
    worst: the class that loses most, by curve and size, as far as it is known.
    strings: collects the texts.

    Returns
    -------
    One entry per curve, in the order of `curve_keys`.
    """
    entries = []
    for key, curve_rows in rows_by_curve(redundancy).items():
        by_stop = {round(row["delta"] * 1000): row for row in curve_rows}
        losses = worst.get(key)
        rows = [_slider_row(by_stop[stop], losses, strings) for stop in STOPS]
        entries.append(SliderCurve(key, int(curve_rows[0]["n_neurons"]), rows))
    return entries


def curve_keys(table: pd.DataFrame) -> list[CurveKey]:
    """Return the curves of a table, in order of appearance."""
    return list(rows_by_curve(table[list(CurveKey._fields)]))


def saved_bytes_text(n_kept: int, n_neurons: int) -> str:
    """Write the storage that is saved by keeping fewer neurons, as float32."""
    saved, total = _FLOAT32_BYTES * (n_neurons - n_kept), _FLOAT32_BYTES * n_neurons
    if not saved:
        return "nothing"
    million = f"{saved / 1000:.2f} GB" if saved >= 100 else f"{saved:.0f} MB"
    share = f"{100 * saved / total:.0f}\N{NO-BREAK SPACE}%"
    return f"{saved:,} of {total:,} bytes per vector ({share}), {million} per million vectors"


def worst_class_text(worst: ClassLoss | None, n_kept: int, *, is_whole_layer: bool) -> str:
    """Write which class loses most, and how much of its accuracy, at a tested size."""
    if is_whole_layer:
        return "none: all neurons are kept"
    if worst is None:
        return "not computed for this curve"
    if worst.loss <= 0:
        return f"no class loses accuracy with {n_kept:,} neurons"
    interval = ""
    if not is_missing(worst.low) and not is_missing(worst.high):
        interval = f" ({_whole_percent(worst.low)} to {_whole_percent(worst.high)})"
    loss = f"{_whole_percent(worst.loss)}\N{NO-BREAK SPACE}%"
    return f"{worst.name} loses {loss} of its accuracy{interval} with {n_kept:,} neurons"


def _whole_percent(share: float) -> str:
    return with_minus_sign(f"{100 * share:.0f}")


def _slider_row(
    row: dict[str, Any],
    losses: Mapping[int, ClassLoss] | None,
    strings: StringTable,
) -> dict[str, Any]:
    """Return one row of the redundancy table for the script.

    ``strings``: name of a part of the page -> index of its text. ``mass``, ``low``, ``high``: the
    critical mass as a share of the layer; ``target``: the value that it reaches.
    """
    if is_missing(row["critical_mass"]):
        readouts = dict.fromkeys(("mass", "dr", "saved", "worst"), MISSING)
        indices = _string_indices(headline(None), readouts, strings)
        return {"strings": indices, "kept": 0, "mass": None, "field_label": 0}
    mass, n_neurons = int(row["critical_mass"]), int(row["n_neurons"])
    low = _or_default(row["critical_mass_low"], mass)
    high = _or_default(row["critical_mass_high"], mass)
    at_floor = bool(row["at_floor"])
    interval = f"{percent(float(row['level']))} interval {integer(low)} to {integer(high)}"
    has_interval = not is_missing(row["critical_mass_low"])
    if not has_interval:
        interval = f"no interval: {row['interval_note']}"
    interval = f"{interval}; {tested_sizes_text(row)}"
    dr = float(row["dr"])
    dr_low, dr_high = (_or_default(row[name], dr) for name in ("dr_low", "dr_high"))
    tested = int(row["smallest_passing"])
    worst = None if losses is None else losses.get(tested)
    readouts = {
        "mass": f"{'≤ ' if at_floor else ''}{mass:,} ({interval})",
        "dr": f"{'≥ ' if at_floor else ''}{decimal(dr, 2)}"
        + (f" ({decimal(dr_low, 2)} to {decimal(dr_high, 2)})" if has_interval else ""),
        "saved": saved_bytes_text(mass, n_neurons),
        "worst": worst_class_text(worst, tested, is_whole_layer=mass >= n_neurons),
    }
    return {
        "strings": _string_indices(headline(row), readouts, strings),
        "field_label": strings.index(f"{mass:,} of {n_neurons:,} neurons"),
        "kept": mass,
        "mass": round(mass / n_neurons, 5),
        "low": round(low / n_neurons, 5),
        "high": round(high / n_neurons, 5),
        "target": round(float(row["delta"]) * float(row["value_full"]), 5),
    }


def _or_default(value: Any, default: float) -> float:
    return float(default if is_missing(value) else value)


def _string_indices(
    sentence: Headline, readouts: Mapping[str, str], strings: StringTable
) -> dict[str, int]:
    """Return the index of each part of the headline and of each readout."""
    parts = {name: getattr(sentence, name) for name in ("before", "number", "after")}
    parts["detail"] = f" {sentence.detail}" if sentence.detail else ""
    return {name: strings.index(text) for name, text in {**parts, **readouts}.items()}
