"""Coverage of further tables: `python -m benchmarks.coverage_of_tables`.

The designs of `benchmarks.coverage`, with new seeds and test rows in every repetition. Counted are
the false differences of `compare` where there is none, and how often the intervals of
`class_losses`, `agreement` and `ensembles` hold the truth: the same table made of many test rows
and seeds. See docs/coverage.md.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

import criticalmass as cm
from benchmarks.coverage import DELTA, LEVEL, RESAMPLES
from benchmarks.designs import DESIGNS, N_NEURONS, Design
from benchmarks.in_memory import measure
from benchmarks.known import SimulatedProbes, write_simulated
from benchmarks.timing import describe_machine, limit_to_one_thread, log
from criticalmass.analysis.columns import Draws
from criticalmass.analysis.comparison import (
    ComparisonOptions,
    _pair_rows,
    comparison_rows,
    corrected_tables,
)
from criticalmass.analysis.comparison_pairs import CurvePair
from criticalmass.analysis.curves import CachedRun
from criticalmass.analysis.inequality import proportional_odds_accuracy
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS, sizes_for
from criticalmass.storage.features import FeatureStore

Hits = dict[str, list[float]]
# The repetitions of a true table; no repetition uses their seeds and rows.
_TRUE_SEED, _TRUE_ROWS, _TRUE_SEEDS = 10**6, 20_000, 40
_AGREEMENTS = ("agreement", "kappa", "error_consistency", "error_overlap", "same_wrong")
_FRACTIONS = (0.1, 0.2, 0.4)


def make_store(design: Design, n_test: int, rng: np.random.Generator, folder: Path) -> FeatureStore:
    """Write the training rows of a design and new test rows, with the neurons in random order.

    So a selector with the same seed chooses other neurons.
    """
    x, y = design.draw(n_test, rng)
    x_train, y_train = design.train()
    order = rng.permutation(N_NEURONS)
    x, x_train = x[:, order], x_train[:, order]
    store: FeatureStore = cm.import_features(
        {"train": x_train, "test": x}, out=folder / "features",
        labels={"train": y_train, "test": y},
    )  # fmt: skip
    return store


def false_differences(n_runs: int, repeat: int) -> Hits:
    """Compare runs of equal expectation in pairs.

    Returns
    -------
    For each quantity the share of the intervals that hold 0, and whether no pair of a family has a
    corrected p-value of at most 1 - level.
    """
    rng = np.random.default_rng([13, repeat])
    probes = SimulatedProbes(sizes_for(DEFAULT_FRACTIONS, 128))
    ease = rng.standard_normal(probes.n_test)
    draws = Draws(LEVEL, RESAMPLES, repeat)
    options = ComparisonOptions((DELTA,), "monotone", draws, None, True)
    with tempfile.TemporaryDirectory() as folder, limit_to_one_thread():
        runs = [
            CachedRun.of(write_simulated(probes, Path(folder) / name, probes.hits(rng, ease), name))
            for name in "abcdefgh"[:n_runs]
        ]
        pairs = [comparison_rows(a, b, options) for a, b in itertools.combinations(runs, 2)]
        table = pd.concat(corrected_tables(pairs))
    return _false_shares(table)


def false_design_differences(title: str, repeat: int) -> Hits:
    """Compare four measurements of one design, each with its own test rows, as above."""
    design = DESIGNS[title]
    with limit_to_one_thread():
        curves = [
            measure(design, i, Draws(LEVEL, RESAMPLES, i)).curve
            for i in range(4 * repeat, 4 * repeat + 4)
        ]
    pairs = [
        list(_pair_rows(CurvePair(a, b, "run", ("a", "b"), False), (DELTA,), "monotone"))
        for a, b in itertools.combinations(curves, 2)
    ]
    return _false_shares(pd.concat(corrected_tables(pairs)))


def _false_shares(table: pd.DataFrame) -> Hits:
    hits: Hits = {}
    for (quantity, _), family in table.groupby(["quantity", "fraction"], dropna=False):
        covers = (family["low"] <= 0) & (family["high"] >= 0)
        hits.setdefault(f"{quantity}: interval holds 0", []).append(float(covers.mean()))
        is_stated = (family["p_holm"] <= 1.0 - LEVEL).any()
        hits.setdefault(f"{quantity}: no false statement", []).append(float(not is_stated))
    return hits


def class_losses(title: str, repeat: int) -> Hits:
    """Rank the classes of a design by loss once."""
    design, truth = DESIGNS[title], DESIGNS[title].truth()
    with limit_to_one_thread():
        table = measure(design, repeat, Draws(LEVEL, RESAMPLES, repeat)).class_losses(DELTA)
    hits: Hits = {}
    if not table:
        return hits
    size = int(np.searchsorted(design.sizes, table[0]["n_kept"]))
    accuracy, full, shares = truth.classes[size], truth.classes[-1], design.shares()
    relative = 1.0 - accuracy / full
    ranks = 1 + np.argsort(np.argsort(-relative, kind="stable"))
    beyond = proportional_odds_accuracy(full, shares, np.asarray(accuracy @ shares)) - accuracy
    for position, row in enumerate(table):
        c, which = int(row["class_id"]), "first class" if position == 0 else "other classes"
        for column, value in (("relative_loss", relative[c]), ("rank", ranks[c])):
            inside = _is_inside(row, column, float(value))
            hits.setdefault(f"{column}, {which}", []).append(inside)
    band = [_is_inside(row, "loss_beyond", float(beyond[int(row["class_id"])])) for row in table]
    hits["loss_beyond, all classes at once"] = [min(band)]
    return hits


def agreement(title: str, repeat: int) -> Hits:
    """Measure the agreement of the subsets of a design once."""
    draws = Draws(LEVEL, RESAMPLES, repeat)
    with limit_to_one_thread():
        table = measure(DESIGNS[title], repeat, draws).agreement(draws)
    return _held(pd.DataFrame(table), _true_agreement(title), ["against", "n_kept"], _AGREEMENTS)


def ensembles(title: str, repeat: int) -> Hits:
    """Measure ensembles of a design once."""
    design = DESIGNS[title]
    with tempfile.TemporaryDirectory() as folder, limit_to_one_thread():
        rng = np.random.default_rng([7, repeat])
        store = make_store(design, design.n_test, rng, Path(folder))
        table = _ensembles(store, design, design.n_seeds, RESAMPLES)
    names = ("value", "against_whole", "against_one_probe")
    return _held(table, _true_ensembles(title), ["kind", "n_kept"], names)


def _ensembles(store: FeatureStore, design: Design, seeds: int, resamples: int) -> pd.DataFrame:
    return cm.ensembles(
        store,
        fractions=_FRACTIONS,
        members=2,
        seeds=seeds,
        probe=design.measure,
        level=LEVEL,
        resamples=resamples,
    )


@cache
def _true_agreement(title: str) -> pd.DataFrame:
    many = replace(DESIGNS[title], n_test=_TRUE_ROWS, n_seeds=_TRUE_SEEDS)
    draws = Draws(LEVEL, 1, 0)
    return pd.DataFrame(measure(many, _TRUE_SEED, draws).agreement(draws))


@cache
def _true_ensembles(title: str) -> pd.DataFrame:
    design = DESIGNS[title]
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng([3, _TRUE_SEED])
        store = make_store(design, _TRUE_ROWS, rng, Path(folder))
        return _ensembles(store, design, 5 * _TRUE_SEEDS, 1)


def _held(table: pd.DataFrame, truth: pd.DataFrame, keys: list[str], names: Sequence[str]) -> Hits:
    """Return whether intervals hold the values of the same rows of the true table."""
    true_rows = truth.set_index(keys)
    hits: Hits = {}
    for row in table[table["n_kept"] < table["n_neurons"]].to_dict("records"):
        key = tuple(row[name] for name in keys)
        for name in names:
            if not (pd.isna(row[name]) or pd.isna(true_rows.loc[key, name])):
                inside = _is_inside(row, name, float(true_rows.loc[key, name]))
                hits.setdefault(f"{name}, {key[0]}", []).append(inside)
    return hits


def _is_inside(row: Mapping[Any, Any], name: str, truth: float) -> float:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return np.nan if pd.isna(low) or pd.isna(high) else float(low <= truth <= high)


_PROBES = (
    "heavy, ridge, 1000 / 5",
    "duplicated, centroid, 1000 / 5",
    "diffuse, ridge, 100 / 3, 40 training rows",
)
_EQUAL = ("diffuse, cka-debiased, 100 / 3", "single, centroid, 100 / 3")
CASES: Mapping[str, Callable[[int], Hits]] = MappingProxyType(
    {
        "compare, 4 equal runs": partial(false_differences, 4),
        **{f"compare, 4 times {t}": partial(false_design_differences, t) for t in _EQUAL},
        **{f"class_losses: {t}": partial(class_losses, t) for t in _PROBES[:2]},
        **{f"agreement: {t}": partial(agreement, t) for t in _PROBES},
        **{f"ensembles: {t}": partial(ensembles, t) for t in _PROBES[:2]},
    }
)


def counted(repetitions: Sequence[Hits]) -> dict[str, tuple[float, float]]:
    """Return quantity -> (share of intervals that hold, share that was given)."""
    names = dict.fromkeys(name for hits in repetitions for name in hits)
    shares = {}
    for name in names:
        values = np.array([v for hits in repetitions for v in hits.get(name, [])], np.float64)
        given = values[~np.isnan(values)]
        shares[name] = (float(given.mean()) if given.size else np.nan, given.size / values.size)
    return shares


def rows_of(case: str, repetitions: Sequence[Hits]) -> list[str]:
    """Return the rows of the table of one case."""
    return [
        f"| {case} | {name} | {share:.3f} | {given * 100:.0f} % |"
        for name, (share, given) in counted(repetitions).items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--only", choices=CASES, action="append")
    options = parser.parse_args(argv)
    print(describe_machine())
    print(f"{options.repeats} repetitions, {RESAMPLES} resamples, delta = {DELTA}")
    print("\n| case | what | share | given |\n| --- | --- | --- | --- |", flush=True)
    for case in options.only or CASES:
        repetitions = [CASES[case](repeat) for repeat in range(options.repeats)]
        print("\n".join(rows_of(case, repetitions)), flush=True)
        log(f"{case}: done")


if __name__ == "__main__":
    main()
