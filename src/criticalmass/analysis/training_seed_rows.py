"""Rows of the table of `criticalmass.analysis.training_seeds.effects`, and their sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from criticalmass.analysis.columns import COUNT, FEWEST_SEEDS, FLOAT, TEXT, interval_columns
from criticalmass.analysis.estimators import DEFAULT_ESTIMATOR
from criticalmass.analysis.multiplicity import holm
from criticalmass.analysis.training_runs import (
    FAIL,
    UNKNOWN,
    MeasuredNetwork,
    Networks,
    TargetKey,
    gates_of,
    mean_of,
)
from criticalmass.analysis.training_seed_intervals import (
    FEWEST_PAIRS,
    Estimate,
    MeanInterval,
    common_subset_seeds,
)
from criticalmass.measures.registry import compares_with_layer
from criticalmass.selectors.registry import SELECTORS

Row = dict[str, Any]
#: The verdicts, beside "gated: ...".
MORE, FEWER = "more neurons", "fewer neurons"
NO_DIFFERENCE, NO_INTERVAL = "no difference shown", "no interval"
#: Rows that agree in these columns are corrected together.
_FAMILY = ("dataset", "measure", "delta")
_FACTS = ("upstream_accuracy", "train_error", "pr_raw", "pr_standardised", "seconds")


def _both(*names: str) -> dict[str, str]:
    """Columns of a recipe and of the baseline."""
    return {f"{name}{suffix}": FLOAT for name in names for suffix in ("", "_baseline")}


EFFECT_COLUMNS: dict[str, str] = (
    dict.fromkeys(("recipe", "baseline", "dataset", "layer", "measure", "selector"), TEXT)
    | {"delta": FLOAT, "estimator": TEXT, "n_pairs": COUNT, "training_seeds": TEXT}
    | dict.fromkeys(("n_neurons", "n_neurons_baseline"), COUNT)
    | _both("k")
    | interval_columns("ratio", "log_ratio")
    | {"bound": TEXT, "std": FLOAT, "shared_std": FLOAT}
    | {"level": FLOAT, "p": FLOAT, "p_holm": FLOAT, "n_compared": COUNT}
    | _both("dr")
    | interval_columns("dr_difference")
    | {"bar": FLOAT, "k_at_bar": FLOAT}
    | interval_columns("log_ratio_at_bar")
    | {"bound_at_bar": TEXT}
    | _both("value_full")
    | {"majority_accuracy": FLOAT}
    | _both(*_FACTS)
    | {"gate_upstream": TEXT, "accuracy_difference": FLOAT}
    | {"gate_live": TEXT, "dead_share": FLOAT, "gate_full": TEXT, "above_majority": FLOAT}
    | {"gate_certified": TEXT, "n_uncertified": COUNT}
    | dict.fromkeys(("gates", "verdict", "note", "sentence"), TEXT)
)
_GATE_NUMBERS = {
    "upstream": "accuracy_difference",
    "live": "dead_share",
    "full": "above_majority",
    "certified": "n_uncertified",
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """The networks of a recipe and of the baseline on one target.

    Attributes
    ----------
    recipe, baseline: names.
    target: dataset, layer and measure.
    selector: of the subsets.
    own, other: training seed -> network, of the recipe and of the baseline; None without a value.
    """

    recipe: str
    baseline: str
    target: TargetKey
    selector: str
    own: Mapping[int, MeasuredNetwork | None]
    other: Mapping[int, MeasuredNetwork | None]

    @classmethod
    def of(
        cls, networks: Networks, recipe: str, baseline: str, target: TargetKey, selector: str
    ) -> Comparison:
        """Take the networks of two recipes on one target; a recipe may have none there."""
        own, other = (networks[name].get(target, {}) for name in (recipe, baseline))
        return cls(recipe, baseline, target, selector, own, other)

    @cached_property
    def pairs(self) -> list[tuple[MeasuredNetwork, MeasuredNetwork]]:
        """The networks of the training seeds of which both have a value, by training seed."""
        pairs = [(self.own[s], self.other[s]) for s in sorted(self.own.keys() & self.other.keys())]
        return [(a, b) for a, b in pairs if a is not None and b is not None]

    @property
    def seeds(self) -> list[int]:
        """The training seeds of the pairs."""
        return [a.trained.training_seed for a, _ in self.pairs]

    def missing(self) -> list[str]:
        """Name the training seeds that have no partner or no value."""
        texts = []
        sides = ((self.recipe, self.own, self.other), (self.baseline, self.other, self.own))
        for name, side, partner in sides:
            absent = [seed for seed in partner if seed not in side]
            empty = [seed for seed in side if side[seed] is None]
            texts += _seeds_text(absent, f"not measured for {name}")
            texts += _seeds_text(empty, f"of {name} without a value")
        return texts


def _seeds_text(seeds: Sequence[int], text: str) -> list[str]:
    """Return ["training seeds 1, 2 ..."], or nothing for no seeds."""
    if not seeds:
        return []
    word = "seed" if len(seeds) == 1 else "seeds"
    return [f"training {word} {', '.join(map(str, sorted(seeds)))} {text}"]


@dataclass(frozen=True, eq=False)
class _Masses:
    """Critical masses of both networks of every pair, for one value to reach.

    Attributes
    ----------
    own, other: those of the recipe and of the baseline, one for each pair.
    """

    own: list[Estimate]
    other: list[Estimate]

    @classmethod
    def of(cls, comparison: Comparison, delta: float, *, at_bar: bool) -> _Masses:
        """Take a share of each network's own whole layer, or of the baseline's for both."""
        own, other = [], []
        for a, b in comparison.pairs:
            bar = b.curve.bar(delta)
            own.append(a.curve.mass(*(bar if at_bar else a.curve.bar(delta))))
            other.append(b.curve.mass(*bar))
        return cls(own, other)

    def log_ratios(self) -> list[Estimate]:
        """Return ln(k* / k* of the baseline) of every pair."""
        return [a.log().minus(b.log()) for a, b in zip(self.own, self.other, strict=True)]


def _geometric_mean(masses: Sequence[Estimate]) -> float:
    return float(np.exp(mean_of([math.log(mass.value) for mass in masses])))


def effect_row(comparison: Comparison, delta: float, level: float) -> Row:
    """Return one row of `EFFECT_COLUMNS` that is not corrected for the number of rows yet."""
    masses = _Masses.of(comparison, delta, at_bar=False)
    ratios = masses.log_ratios()
    interval = MeanInterval.of(ratios, level)
    row: Row = dict.fromkeys(EFFECT_COLUMNS) | _names(comparison)
    row |= {"delta": delta, "estimator": DEFAULT_ESTIMATOR, "level": level}
    row |= {"k": _geometric_mean(masses.own), "k_baseline": _geometric_mean(masses.other)}
    row |= _columns("log_ratio", interval)
    # With a level near 1 an end may be too large to write as a ratio: infinity.
    with np.errstate(over="ignore"):
        for suffix in ("", "_low", "_high"):
            row[f"ratio{suffix}"] = float(np.exp(row[f"log_ratio{suffix}"]))
    row |= {"bound": interval.bound, "p": interval.p}
    row |= {"std": interval.std, "shared_std": interval.shared_std}
    row |= _redundancy(comparison, masses, level)
    notes = comparison.missing()
    if len(ratios) < FEWEST_PAIRS:
        notes.insert(
            0,
            f"{len(ratios)} paired training {'seed' if len(ratios) == 1 else 'seeds'}, at least "
            f"{FEWEST_PAIRS} needed for an interval",
        )
    notes += _bound_notes(comparison, masses, f"{delta * 100:g} %")
    if not compares_with_layer(comparison.target.measure):
        at_bar = _Masses.of(comparison, delta, at_bar=True)
        row |= _at_bar(comparison, at_bar, delta, level)
        notes += _miss_notes(comparison, at_bar, delta)
    notes += _interval_notes(comparison, ratios)
    return row | _facts(comparison) | _gates(comparison, delta) | {"note": "; ".join(notes)}


def _names(comparison: Comparison) -> Row:
    """Columns that say what is compared, and by how many networks."""
    target, seeds, pairs = comparison.target, comparison.seeds, comparison.pairs
    curves = [[pair[i].curve for pair in pairs] for i in (0, 1)]
    widths = [max((curve.n_neurons for curve in side), default=None) for side in curves]
    return {
        "recipe": comparison.recipe,
        "baseline": comparison.baseline,
        "dataset": target.dataset,
        "layer": target.layer,
        "measure": target.measure,
        "selector": comparison.selector,
        "n_pairs": len(seeds),
        "training_seeds": ", ".join(map(str, seeds)),
        "n_neurons": widths[0],
        "n_neurons_baseline": widths[1],
    }


def _columns(name: str, interval: MeanInterval) -> Row:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _redundancy(comparison: Comparison, masses: _Masses, level: float) -> Row:
    """Columns of DR."""
    own, other = (
        [
            mass.redundancy(pair[i].curve.n_neurons)
            for mass, pair in zip(side, comparison.pairs, strict=True)
        ]
        for i, side in enumerate((masses.own, masses.other))
    )
    difference = MeanInterval.of([a.minus(b) for a, b in zip(own, other, strict=True)], level)
    means = [mean_of([one.value for one in side]) for side in (own, other)]
    return _columns("dr_difference", difference) | {"dr": means[0], "dr_baseline": means[1]}


def _at_bar(comparison: Comparison, masses: _Masses, delta: float, level: float) -> Row:
    """Columns of the value that both recipes must reach."""
    interval = MeanInterval.of(masses.log_ratios(), level)
    bars = [b.curve.bar(delta)[0] for _, b in comparison.pairs]
    return _columns("log_ratio_at_bar", interval) | {
        "bar": mean_of(bars),
        "k_at_bar": _geometric_mean(masses.own),
        "bound_at_bar": interval.bound,
    }


def _bound_notes(comparison: Comparison, masses: _Masses, share: str) -> list[str]:
    """Name the training seeds whose critical mass is only bounded."""
    notes = []
    for name, side in ((comparison.recipe, masses.own), (comparison.baseline, masses.other)):
        open_ones = [
            (seed, mass)
            for seed, mass in zip(comparison.seeds, side, strict=True)
            if mass.lowest < mass.value
        ]
        floor = [seed for seed, mass in open_ones if mass.lowest == 1.0]
        never = [seed for seed, mass in open_ones if mass.lowest > 1.0]
        notes += _seeds_text(floor, f"of {name} at {share} with the smallest tested size")
        notes += _seeds_text(never, f"of {name} at {share} with the whole layer alone")
    return notes


def _miss_notes(comparison: Comparison, masses: _Masses, delta: float) -> list[str]:
    """Name the training seeds whose whole layer misses the baseline's bar."""
    misses = [
        seed
        for seed, mass in zip(comparison.seeds, masses.own, strict=True)
        if np.isinf(mass.value)
    ]
    text = f"of {comparison.recipe} below {delta * 100:g} % of {comparison.baseline}'s whole layer"
    return _seeds_text(misses, f"{text} with all neurons")


def _interval_notes(comparison: Comparison, ratios: Sequence[Estimate]) -> list[str]:
    """Say what the interval leaves out."""
    if len(ratios) < FEWEST_PAIRS:
        return []
    notes = []
    info = SELECTORS.get(comparison.selector)
    n_common = len(common_subset_seeds(ratios))
    if info is not None and info.is_random and n_common < FEWEST_SEEDS:
        notes.append(
            f"{n_common} subset seeds that all networks have, at least {FEWEST_SEEDS} needed for "
            "what they share"
        )
    networks = [network for pair in comparison.pairs for network in pair]
    if not all(network.curve.is_resampled for network in networks):
        notes.append("no scores of test samples in some runs: what they share is not included")
    for caveat in sorted({network.caveat for network in networks} - {""}):
        names = sorted({n.trained.recipe for n in networks if n.caveat == caveat})
        notes.append(f"{caveat} ({', '.join(names)})")
    if len({network.labels for network in networks}) > 1:
        notes.append("the networks have different test samples")
    return notes


def _facts(comparison: Comparison) -> Row:
    """Means over the pairs of what training left to know, and of the whole layers."""
    row: Row = {}
    for i, suffix in enumerate(("", "_baseline")):
        side = [pair[i] for pair in comparison.pairs]
        for name in _FACTS:
            row[f"{name}{suffix}"] = mean_of([getattr(n.trained.facts, name) for n in side])
        row[f"value_full{suffix}"] = mean_of([n.curve.full for n in side])
    row["majority_accuracy"] = mean_of([n.majority for pair in comparison.pairs for n in pair])
    return row


def _gates(comparison: Comparison, delta: float) -> Row:
    """Columns of the gates."""
    gates = gates_of(comparison.pairs, comparison.target.measure, delta)
    row: Row = {}
    for key, gate in gates.items():
        row |= {f"gate_{key}": gate.state, _GATE_NUMBERS[key]: gate.number}
    if not math.isnan(gates["certified"].number):
        row["n_uncertified"] = int(gates["certified"].number)
    failed = [f"{gate.name} ({gate.reason})" for gate in gates.values() if gate.state == FAIL]
    unknown = [gate.name for gate in gates.values() if gate.state == UNKNOWN]
    texts = [f"failed: {', '.join(failed)}"] if failed else []
    texts += [f"unknown: {', '.join(unknown)}"] if unknown else []
    row["gates"] = "; ".join(texts)
    row["verdict"] = ", ".join(gate.name for gate in gates.values() if gate.state == FAIL)
    return row


def corrected(rows: Sequence[Row]) -> list[Row]:
    """Return rows of `effect_row` with p-values corrected together, verdicts and sentences."""
    families: dict[tuple[Any, ...], list[int]] = {}
    for i, row in enumerate(rows):
        if not math.isnan(row["p"]):
            families.setdefault(tuple(row[name] for name in _FAMILY), []).append(i)
    finished = [dict(row) for row in rows]
    for family in families.values():
        for i, p in zip(family, holm([rows[i]["p"] for i in family]), strict=True):
            finished[i] |= {"p_holm": float(p), "n_compared": len(family)}
    for row in finished:
        row["verdict"] = _verdict(row)
        row["sentence"] = sentence(row)
    return finished


def _verdict(row: Mapping[str, Any]) -> str:
    if row["verdict"]:
        return f"gated: {row['verdict']}"
    if row["p_holm"] is None:
        return NO_INTERVAL
    if row["p_holm"] > 1.0 - row["level"] + 1e-12:
        return NO_DIFFERENCE
    return MORE if row["log_ratio_low"] > 0.0 else FEWER


def sentence(row: Mapping[str, Any]) -> str:
    """Write one row as a sentence.

    Parameters
    ----------
    row: columns of `EFFECT_COLUMNS`; a missing number is None or NaN.

    Returns
    -------
    "On mnist by ridge at 90 % (penultimate), mse needs 3.0 [2.6, 3.5] times the neurons of ce (3
    training seeds), upstream accuracy 0.98 against 0.99: more neurons."
    """
    recipe, baseline, n = row["recipe"], row["baseline"], row["n_pairs"]
    place = (
        f"On {row['dataset']} by {row['measure']} at {row['delta'] * 100:g} % ({row['layer']}), "
    )
    numbers = [row[name] for name in ("ratio", "ratio_low", "ratio_high")]
    if _is_missing(numbers[0]):
        return f"{place}{recipe} is not compared with {baseline}: {row['note']}."
    bound = {"<=": "at most ", ">=": "at least ", "open": "about "}.get(row["bound"], "")
    texts = ratio_texts([number for number in numbers if not _is_missing(number)])
    interval = f" [{texts[1]}, {texts[2]}]" if len(texts) > 1 else ""
    seeds = f"{n} training {'seed' if n == 1 else 'seeds'}"
    text = f"{place}{recipe} needs {bound}{texts[0]}{interval} times the neurons of "
    text += f"{baseline} ({seeds})"
    accuracies = [row[f"upstream_accuracy{suffix}"] for suffix in ("", "_baseline")]
    if not any(map(_is_missing, accuracies)):
        text += f", upstream accuracy {accuracies[0]:.2f} against {accuracies[1]:.2f}"
    return f"{text}: {row['verdict']}{_holm_text(row)}."


def _holm_text(row: Mapping[str, Any]) -> str:
    """Say that an interval excludes 1 and the corrected p-value does not."""
    if row["verdict"] != NO_DIFFERENCE or row["ratio_low"] <= 1.0 <= row["ratio_high"]:
        return ""
    return f" after Holm's correction for {row['n_compared']:,} rows"


def _is_missing(value: Any) -> bool:
    return bool(pd.isna(value))


def ratio_texts(ratios: Sequence[float]) -> list[str]:
    """Write ratios with two digits, or as many more as tell them from each other and from 1.

    Six at most: those that agree in all of them are equal.
    """

    def write(digits: int) -> list[str]:
        return [_ratio_text(ratio, digits) for ratio in (*ratios, 1.0)]

    n_different = len(set(write(6)))
    digits = next(digits for digits in range(2, 7) if len(set(write(digits))) == n_different)
    return write(digits)[:-1]


def _ratio_text(ratio: float, digits: int) -> str:
    if np.isinf(ratio):
        return "infinity"
    if ratio >= 99.5:
        return f"{ratio:,.{max(digits - 3, 0)}f}"
    return f"{ratio:#.{digits}g}".removesuffix(".")
