"""Compression, diffuseness and usefulness of each layer, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from criticalmass.analysis.columns import LayerKey
from criticalmass.measures.registry import is_similarity
from criticalmass.reporting.formatting import decimal, integer, is_missing, percent, records
from criticalmass.selectors.registry import SELECTORS, is_fixed_projection, selector_info

if TYPE_CHECKING:
    import pandas as pd

_PREFERRED_DELTA = 0.9
_OWN_KINDS = ("whole layer", "above chance")


@dataclass(frozen=True)
class BasisNumber:
    """One of the numbers.

    Attributes
    ----------
    name: "Compression", "Diffuseness" or "Usefulness".
    value: the number with its interval, as text.
    sentence: what it says, in one sentence.
    """

    name: str
    value: str
    sentence: str


@dataclass(frozen=True)
class LayerNumbers:
    """The numbers of one layer by one measure; those that were measured.

    Attributes
    ----------
    name: measure, and layer, model and dataset where the run has several.
    delta: share to keep, as text.
    numbers: at least one.
    """

    name: str
    delta: str
    numbers: tuple[BasisNumber, ...]


def layer_numbers(table: pd.DataFrame) -> list[LayerNumbers]:
    """Return the measured numbers of every layer and measure.

    Parameters
    ----------
    table: rows of `criticalmass.redundancy`, with those of a control or accuracies if there are
        any. Of several deltas the one nearest to 0.9 is taken.
    """
    shares = table["delta"].dropna()
    if shares.empty:
        return []
    delta = float(shares.iloc[(shares - _PREFERRED_DELTA).abs().argmin()])
    rows = table[(table["delta"] == delta) | table["delta"].isna()]
    key = list(LayerKey._fields)
    varying = [name for name in key if name != "measure" and rows[name].nunique() > 1]
    layers = []
    parts: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in records(rows):
        parts.setdefault(tuple(row[column] for column in key), []).append(row)
    for part in parts.values():
        numbers = tuple(_numbers(part))
        if numbers:
            first = part[0]
            name = " · ".join([str(first["measure"]), *(str(first[n]) for n in varying)])
            layers.append(LayerNumbers(name, percent(delta), numbers))
    return layers


def missing_numbers(table: pd.DataFrame, run: str) -> list[str]:
    """Say which numbers were not measured, and what measures them; one line each.

    Parameters
    ----------
    table: rows of `criticalmass.redundancy` of one run.
    run: its path.
    """
    probes = table[~table["measure"].map(is_similarity)]
    if probes.empty or "random" not in set(probes["selector"]):
        return []
    lines = []
    selectors = set(probes["selector"])
    selectors_of = {
        "compression": [] if any(map(is_fixed_projection, selectors)) else ["pca-top", "lda-top"],
        "diffuseness": [] if "rotation" in selectors else ["rotation"],
    }
    names = [name for name, missing in selectors_of.items() if missing]
    if names:
        options = " ".join(f"--selector {name}" for n in names for name in selectors_of[n])
        lines.append(
            f"Not measured: {' and '.join(names)}; criticalmass sweep FEATURES --out {run} "
            f"--measure {probes['measure'].iloc[0]} --selector random {options}"
        )
    bounds = [
        name
        for name, missing in selectors_of.items()
        if not missing and probes.loc[probes["selector"] == "random", name].isna().all()
    ]
    if bounds:
        lines.append(
            f"Not given: {' and '.join(bounds)}, because a critical mass is only a bound; sweep "
            "smaller sizes, e.g. --fraction 0.002"
        )
    if set(probes["bar_kind"]) <= set(_OWN_KINDS):
        lines.append(
            f"Not measured: usefulness; criticalmass redundancy {run} --control RUN, with a run of "
            "the untrained network, raw pixels or bags of words on the same samples"
        )
    return lines


def _numbers(rows: list[dict[Any, Any]]) -> Iterator[BasisNumber]:
    """Yield the measured numbers of one layer, measure and delta."""
    for row in rows:
        if row["selector"] != "random":
            continue
        if row["bar_kind"] not in _OWN_KINDS:
            yield _usefulness(row)
            continue
        if not is_missing(row["compression"]):
            yield _compression(row, rows)
        if not is_missing(row["diffuseness"]):
            yield _diffuseness(row)


def _compression(row: Mapping[Any, Any], rows: list[dict[Any, Any]]) -> BasisNumber:
    best, ratio = str(row["best_projection"]), float(row["compression"])
    (dimensions,) = (
        int(other["critical_mass"])
        for other in rows
        if other["selector"] == best and other["bar_kind"] == row["bar_kind"]
    )
    is_bound = bool(row["compression_at_floor"])
    words = ("at most ", "at least ") if is_bound else ("", "")
    times = f"{words[1]}{decimal(ratio, 1)} times fewer" if ratio > 1.0 else "no fewer"
    return BasisNumber(
        "Compression",
        f"{'≥ ' if is_bound else ''}{decimal(ratio, 1)}",
        f"The best measured linear projection, {best}, needs {words[0]}"
        f"{integer(dimensions)} dimensions: {times} than the {integer(row['critical_mass'])} "
        f"random neurons{_without_labels(row, rows)}.",
    )


def _without_labels(row: Mapping[Any, Any], rows: list[dict[Any, Any]]) -> str:
    """Name the best projection that uses no labels, if the best one does."""
    sizes = {
        str(other["selector"]): int(other["critical_mass"])
        for other in rows
        if other["bar_kind"] == row["bar_kind"]
        and is_fixed_projection(str(other["selector"]))
        and not SELECTORS[str(other["selector"])].needs_labels
        and bool(other["reached"])
    }
    if not selector_info(str(row["best_projection"])).needs_labels or not sizes:
        return ""
    name = min(sizes, key=lambda selector: sizes[selector])
    return f"; without labels, {name} needs {integer(sizes[name])}"


def _diffuseness(row: Mapping[Any, Any]) -> BasisNumber:
    if is_missing(row["diffuseness_low"]) or is_missing(row["diffuseness_high"]):
        ratio = decimal(row["diffuseness"], 2)
        return BasisNumber(
            "Diffuseness",
            ratio,
            f"Random directions need {ratio} times as many dimensions as random neurons; there are "
            "too few seeds for an interval.",
        )
    low, high = float(row["diffuseness_low"]), float(row["diffuseness_high"])
    range_text = f"{decimal(low, 2)} to {decimal(high, 2)}"
    need = f"Random directions need {range_text} times as many dimensions as random neurons"
    if high < 1.0:
        meaning = "a random basis is better, as where neurons repeat each other"
    elif low > 1.0:
        meaning = "neurons are better than a random basis"
    else:
        meaning = "no difference between neurons and a random basis was detected"
    return BasisNumber(
        "Diffuseness",
        f"{decimal(row['diffuseness'], 2)} ({range_text})",
        f"{need}: {meaning}.",
    )


def _usefulness(row: Mapping[Any, Any]) -> BasisNumber:
    bar, n = decimal(row["bar"], 3), integer(row["n_neurons"])
    goal = f"an accuracy of {bar}"
    if not is_missing(row["control"]):
        above = " above chance" if str(row["bar_kind"]).endswith("above chance") else ""
        goal += f", {percent(float(row['delta']))}{above} of the whole layer of {row['control']}"
    if not bool(row["reached"]):
        return BasisNumber("Usefulness", "not reached", f"No tested subset reaches {goal}.")
    mass = ("≤ " if row["at_floor"] else "") + integer(row["critical_mass"])
    ends = [row[f"critical_mass_{end}"] for end in ("low", "high")]
    interval = "" if any(map(is_missing, ends)) else f" ({' to '.join(map(integer, ends))})"
    return BasisNumber(
        "Usefulness",
        f"{mass}{interval}",
        f"On average, {mass} random neurons of {n} reach {goal}.",
    )
