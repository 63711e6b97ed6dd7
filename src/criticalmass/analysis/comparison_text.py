"""A difference in plain words: one sentence per row of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from criticalmass.measures.registry import is_similarity


def sentence(row: Mapping[str, Any]) -> str:
    """Say what a row of a comparison shows.

    Parameters
    ----------
    row: columns of `comparison.COMPARISON_COLUMNS`; ``note_a`` and ``note_b`` say why a
        critical mass is only a bound.

    Returns
    -------
    "lite2 has 3 to 9 points more DR(0.9) than lite0 on fashion-mnist (random, logistic)", a
    sentence that no difference can be told, or one that there is nothing to compare.
    """
    a, b = str(row["a"]), str(row["b"])
    where = _where(row)
    if row.get("low") is None or row.get("high") is None:
        return f"{a} and {b} cannot be compared in {_subject(row)}{where}: one of them has no value"
    low, high, unit = _scaled(row)
    if low <= 0.0 <= high:
        span = _signed(low, high, unit)
        told = f"no difference in {_subject(row)} between {a} and {b} can be told"
        return f"{told}{where}: {span}{_notes(row)}"
    near, far = sorted((abs(low), abs(high)))
    limited = row.get("bound") in ((">=", "open") if low > 0.0 else ("<=", "open"))
    span = _at_least(near, unit) if limited else _span(near, far, unit)
    return f"{_told(row, a, b, span, low > 0.0)}{where}{_notes(row)}"


def _told(row: Mapping[str, Any], a: str, b: str, span: str, more: bool) -> str:
    """Say a difference in the words of its quantity."""
    word = "more" if more else "less"
    if row["quantity"] == "critical_mass":
        number, _, unit = span.rpartition(" ")
        word = "more" if more else "fewer"
        kept = f"to keep {row['delta'] * 100:g} % of the whole layer's value"
        return f"{a} needs {number} {word} {unit} than {b} {kept}"
    if row["quantity"] == "ratio":
        return f"{a} keeps {span} {word} of its whole layer's value than {b} {_size(row)}"
    if row["quantity"] == "whole layer":
        return f"{a} has {span} {word} {_score(row)} than {b} with the whole layer"
    if row["quantity"] == "value":
        return f"{a} has {span} {word} {_score(row)} than {b} {_size(row)}"
    return f"{a} has {span} {word} {_subject(row)} than {b}"


def _subject(row: Mapping[str, Any]) -> str:
    """Name what is compared."""
    quantity = row["quantity"]
    if quantity == "dr":
        return f"DR({row['delta']:g})"
    if quantity == "critical_mass":
        return f"the neurons needed to keep {row['delta'] * 100:g} % of the whole layer's value"
    if quantity == "ratio":
        return f"the share of the whole layer's value kept {_size(row)}"
    place = "with the whole layer" if quantity == "whole layer" else _size(row)
    return f"{_score(row)} {place}"


def _score(row: Mapping[str, Any]) -> str:
    """Name a value in the unit it has."""
    measure = row.get("measure")
    if measure is None:
        return "accuracy"
    return str(measure) if is_similarity(measure) else f"{measure} accuracy"


def _size(row: Mapping[str, Any]) -> str:
    """Say at which size: in neurons where both have the same."""
    a, b = row["n_kept_a"], row["n_kept_b"]
    share = f"with {row['fraction'] * 100:.3g} % of the neurons"
    return share if a != b else f"with {a:,} neurons" if a != 1 else "with 1 neuron"


def _where(row: Mapping[str, Any]) -> str:
    """Say on what: the dataset, and the rest of what both share."""
    dataset = f" on {row['dataset']}" if row.get("dataset") else ""
    shared = [row[name] for name in ("model", "layer", "selector", "measure") if row.get(name)]
    return f"{dataset} ({', '.join(map(str, shared))})" if shared else dataset


def _notes(row: Mapping[str, Any]) -> str:
    """Say why a difference is only bounded."""
    notes = [f"{row[name]} {row[f'note_{name}']}" for name in ("a", "b") if row.get(f"note_{name}")]
    return f"; {', and '.join(notes)}" if notes else ""


def _scaled(row: Mapping[str, Any]) -> tuple[float, float, str]:
    """Return the interval in the unit of the sentence, and that unit."""
    low, high = float(row["low"]), float(row["high"])
    if row["quantity"] == "critical_mass":
        return low, high, "neurons"
    measure = row.get("measure")
    if row["quantity"] == "value" and measure is not None and is_similarity(measure):
        return low, high, ""
    return 100.0 * low, 100.0 * high, "points"


def _digits(near: float, far: float, unit: str) -> int:
    """Decimals that show the smaller end and the width of an interval, at most four."""
    if unit == "neurons":
        return 0
    if not unit:
        return 3 if near >= 0.001 or near == 0.0 else 4
    width = far - near
    for digits in range(4):
        ends_tell = near == 0.0 or round(near, digits) != 0.0
        if ends_tell and width >= 2.0 * 10.0**-digits:
            return digits
    return 3


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _of(text: str, unit: str) -> str:
    """Add the unit, in the singular for one."""
    if not unit:
        return text
    return f"{text} {unit.removesuffix('s') if text == '1' else unit}"


def _span(near: float, far: float, unit: str) -> str:
    """Word a range of positive numbers: "3 to 9 points", or the one number that both are."""
    digits = _digits(near, far, unit)
    ends = _number(near, digits), _number(far, digits)
    return _of(ends[0] if ends[0] == ends[1] else " to ".join(ends), unit)


def _at_least(near: float, unit: str) -> str:
    return f"at least {_of(_number(near, _digits(near, 2.0 * near, unit)), unit)}"


def _signed(low: float, high: float, unit: str) -> str:
    """Word a range about zero: "-2 to +3 points"."""
    digits = _digits(0.0, high - low, unit)
    ends = [round(value, digits) + 0.0 for value in (low, high)]
    texts = [f"{end:+,.{digits}f}" if end else "0" for end in ends]
    return f"{texts[0] if texts[0] == texts[1] else ' to '.join(texts)} {unit}".strip()
