"""One sentence per row of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from criticalmass.measures.registry import is_similarity

_POINTS, _NEURONS = "percentage points", "neurons"


def sentence(row: Mapping[str, Any]) -> str:
    """Describe one row of a comparison in a sentence without its full stop.

    Parameters
    ----------
    row: columns of `comparison.COMPARISON_COLUMNS`; ``note_a`` and ``note_b`` say why a
        critical mass is only a bound. Without ``p_holm``, the interval alone decides.

    Returns
    -------
    "DR(0.9) is 3 to 9 percentage points higher for lite2 than for lite0 on fashion-mnist (random,
    logistic)", or a sentence that says that the interval contains 0, or that there is no value.
    """
    text = _sentence(row)
    return text[0].upper() + text[1:]


def _sentence(row: Mapping[str, Any]) -> str:
    # It never begins with a name, which must not be capitalised.
    a, b = str(row["a"]), str(row["b"])
    context = _context(row)
    if row.get("low") is None or row.get("high") is None:
        reason = row.get("interval_note") or "one of them has no value"
        return f"no comparison of {a} and {b} in {_subject(row)}{context}: {reason}"
    low, high, unit = _scaled_interval(row)
    if low <= 0.0 <= high:
        return (
            f"no difference in {_subject(row)} between {a} and {b} was detected{context}: "
            f"{_signed_range(low, high, unit)}{_notes(row)}"
        )
    if _is_corrected_away(row):
        return (
            f"the difference in {_subject(row)} between {a} and {b} does not remain after Holm's "
            f"correction for {row['n_compared']:,} pairs{context}: "
            f"{_signed_range(low, high, unit)}{_notes(row)}"
        )
    near, far = sorted((abs(low), abs(high)))
    is_bounded = row.get("bound") in ((">=", "open") if low > 0.0 else ("<=", "open"))
    size = _at_least(near, unit) if is_bounded else _range(near, far, unit)
    return f"{_difference(row, a, b, size, low > 0.0)}{context}{_notes(row)}"


def _is_corrected_away(row: Mapping[str, Any]) -> bool:
    """Whether the difference is not significant after the correction for several pairs."""
    p, n = row.get("p_holm"), row.get("n_compared")
    return p is not None and n is not None and n > 1 and p > 1.0 - row["level"] + 1e-12


def _difference(row: Mapping[str, Any], a: str, b: str, size: str, is_more: bool) -> str:
    """Say that a has more (or less) than b, by ``size``."""
    if row["quantity"] == "critical_mass":
        number, _, unit = size.rpartition(" ")
        word = "more" if is_more else "fewer"
        share = f"{row['delta'] * 100:g} % of the whole layer's value"
        return f"to keep {share}, {a} needs {number} {word} {unit} than {b}"
    word = "higher" if is_more else "lower"
    return f"{_subject(row)} is {size} {word} for {a} than for {b}"


def _subject(row: Mapping[str, Any]) -> str:
    """Name the compared quantity."""
    quantity = row["quantity"]
    if quantity == "dr":
        return f"DR({row['delta']:g})"
    if quantity == "critical_mass":
        share = f"{row['delta'] * 100:g} % of the whole layer's value"
        return f"the number of neurons needed to keep {share}"
    if quantity == "ratio":
        return f"the share of the whole layer's value kept {_with_size(row)}"
    if quantity == "whole layer":
        return f"{_score(row)} with the whole layer"
    return f"{_score(row)} {_with_size(row)}"


def _score(row: Mapping[str, Any]) -> str:
    """Name the measured value: accuracy, or the similarity measure."""
    measure = row.get("measure")
    if measure is None:
        return "the accuracy"
    return f"the {measure}" if is_similarity(measure) else f"the {measure} accuracy"


def _with_size(row: Mapping[str, Any]) -> str:
    """Name the size: in neurons if both have the same number, otherwise as a share."""
    a, b = row["n_kept_a"], row["n_kept_b"]
    if a != b:
        return f"with {row['fraction'] * 100:.3g} % of the neurons"
    return f"with {a:,} neurons" if a != 1 else "with 1 neuron"


def _context(row: Mapping[str, Any]) -> str:
    """Name the dataset, and the model, layer, selector and measure that both share."""
    dataset = f" on {row['dataset']}" if row.get("dataset") else ""
    shared = [row[name] for name in ("model", "layer", "selector", "measure") if row.get(name)]
    return f"{dataset} ({', '.join(map(str, shared))})" if shared else dataset


def _notes(row: Mapping[str, Any]) -> str:
    """Say why a difference is only bounded."""
    notes = [f"{row[name]} {row[f'note_{name}']}" for name in ("a", "b") if row.get(f"note_{name}")]
    return f"; {', and '.join(notes)}" if notes else ""


def _scaled_interval(row: Mapping[str, Any]) -> tuple[float, float, str]:
    """Return the interval in the unit of the sentence, and that unit."""
    low, high = float(row["low"]), float(row["high"])
    if row["quantity"] == "critical_mass":
        return low, high, _NEURONS
    measure = row.get("measure")
    if row["quantity"] == "value" and measure is not None and is_similarity(measure):
        return low, high, ""
    return 100.0 * low, 100.0 * high, _POINTS


def _digits(near: float, far: float, unit: str) -> int:
    """Decimals that show the end nearest to 0 and the width of an interval, at most four."""
    if unit == _NEURONS:
        return 0
    if not unit:
        return 3 if near >= 0.001 or near == 0.0 else 4
    width = far - near
    for digits in range(4):
        shows_near = near == 0.0 or round(near, digits) != 0.0
        if shows_near and width >= 2.0 * 10.0**-digits:
            return digits
    return 3


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _with_unit(text: str, unit: str) -> str:
    """Add the unit, in the singular for 1."""
    if not unit:
        return text
    return f"{text} {unit.removesuffix('s') if text == '1' else unit}"


def _range(near: float, far: float, unit: str) -> str:
    """Write a range of positive numbers, e.g. "3 to 9 neurons"; one number if both are equal."""
    digits = _digits(near, far, unit)
    ends = _number(near, digits), _number(far, digits)
    return _with_unit(ends[0] if ends[0] == ends[1] else " to ".join(ends), unit)


def _at_least(near: float, unit: str) -> str:
    return f"at least {_with_unit(_number(near, _digits(near, 2.0 * near, unit)), unit)}"


def _signed_range(low: float, high: float, unit: str) -> str:
    """Write a range that contains 0, e.g. "-2 to +3 neurons"."""
    digits = _digits(0.0, high - low, unit)
    ends = [round(value, digits) + 0.0 for value in (low, high)]
    texts = [f"{end:+,.{digits}f}" if end else "0" for end in ends]
    return f"{texts[0] if texts[0] == texts[1] else ' to '.join(texts)} {unit}".strip()
