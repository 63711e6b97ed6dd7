"""`calibration`: expected calibration error of logistic probes on random subsets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.bootstrap import averaged_over_seeds, resampled_means, seed_counts
from criticalmass.analysis.columns import (
    COUNT,
    FLOAT,
    LAYER_KEY_COLUMNS,
    SEED_COLUMNS,
    SIZE_COLUMNS,
    Draws,
    interval_columns,
    percentile_interval,
    typed_table,
)
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.compute import Compute
from criticalmass.core.progress import Progress
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.probe import logistic
from criticalmass.measures.probes.calibration import calibration_error
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS, sizes_for
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.layer_data import SweepData

CALIBRATION_COLUMNS: dict[str, str] = (
    LAYER_KEY_COLUMNS
    | SIZE_COLUMNS
    | interval_columns("accuracy", "overconfidence", "ece")
    | {"ece_noise": FLOAT}
    | SEED_COLUMNS
    | {"n_test": COUNT}
)


@dataclass(frozen=True, eq=False)
class _SizeScores:
    """Per seed and test sample, each (n_seeds, n_test); and the noise of the error per seed."""

    correct: npt.NDArray[np.float64]
    overconfidence: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float64]


@validate_arguments
def calibration(
    store: FeatureStore | str | os.PathLike[str],
    *,
    fractions: float | Sequence[float] = DEFAULT_FRACTIONS,
    seeds: int = 5,
    layer: str = "penultimate",
    level: float = 0.95,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Compare the confidence of logistic probes with their accuracy, on random subsets.

    The probes are those of a sweep (measure ``logistic``, selector ``random``): same subsets, same
    strengths. A run stores predicted classes only, so they are fitted again.

    Parameters
    ----------
    store: a feature store with the splits train and test.
    fractions: shares of the neurons; the whole layer is always added.
    seeds: number of permutations, at least 1.
    layer: layer of the store.
    level: confidence level of the percentile intervals.
    resamples: number of bootstrap draws over seeds and test samples.

    Returns
    -------
    One row per size, `CALIBRATION_COLUMNS`: mean over seeds of the accuracy, of mean confidence
    minus accuracy, and of the expected calibration error over 15 bins of equal mass
    (`criticalmass.measures.probes.calibration.calibration_error`); ``ece_noise`` is the error that
    perfectly calibrated probes would be expected to show on as many test samples.

    Raises
    ------
    CriticalMassError: the layer is unknown, the level is invalid, or there is no seed.
    """
    draws = Draws(level, resamples, seed=0)
    if seeds < 1:
        raise CriticalMassError(f"seeds={seeds}; give at least 1 permutation")
    source = FeatureStore.open(store if isinstance(store, FeatureStore) else os.fspath(store))
    data = SweepData.from_store(source, Compute())
    width = int(data.layer(layer).train.shape[1])
    shares = [fractions] if isinstance(fractions, (int, float)) else list(fractions)
    sizes = tuple(sorted({k for k in sizes_for(shares, width) if k < width}))
    scores: dict[int, list[_SizeScores]] = {k: [] for k in (*sizes, width)}
    with Progress(f"calibration on {source.dataset}", 1 + seeds * len(sizes), "probes") as bar:
        for seed in range(seeds):
            fitted = (*sizes, width) if seed == 0 else sizes
            for k, one in zip(fitted, _score_seed(data, layer, seed, fitted), strict=True):
                scores[k].append(one)
            bar.advance(len(fitted))
    key = {"model": source.model, "layer": layer, "dataset": source.dataset, "measure": "logistic"}
    rows = []
    for k, parts in scores.items():
        row = {**key, "fraction": k / width, "n_kept": k, "n_neurons": width, "level": level}
        row |= {"n_seeds": len(parts), "n_test": int(data.y_test.size)}
        rows.append(row | _summary(parts, draws))
    return typed_table(rows, CALIBRATION_COLUMNS)


def _score_seed(
    data: SweepData, layer: str, seed: int, sizes: tuple[int, ...]
) -> list[_SizeScores]:
    """Fit the probes of one permutation and score every test sample."""
    own = data.layer(layer)
    order = own.selection("random", seed).order
    assert order is not None
    if not sizes:
        return []
    task = ProbeTask(
        x_train=own.train,
        y_train=data.y_train,
        x_test=own.test,
        n_classes=len(data.store.class_names),
        orders=order[None],
        sizes=sizes,
        validation=data.validation,
        compute=data.compute,
    )
    fits = logistic(task)
    assert fits.heads is not None
    result = []
    for k, head in zip(sizes, fits.heads[0], strict=True):
        probabilities = head.probabilities(own.test, order[:k], task.n_classes)
        confidence = probabilities.max(axis=1)
        correct = probabilities.argmax(axis=1) == data.y_test
        error = calibration_error(confidence, correct)
        result.append(
            _SizeScores(
                correct.astype(np.float64)[None],
                (confidence - correct)[None],
                error.scores[None],
                np.array([error.noise]),
            )
        )
    return result


def _summary(parts: Sequence[_SizeScores], draws: Draws) -> dict[str, float]:
    """Return means over seeds with their intervals."""
    n_seeds = len(parts)
    counts = seed_counts(n_seeds, draws.resamples, np.random.default_rng([0, n_seeds]))
    row_index = np.arange(n_seeds, dtype=np.intp)[None]
    row = {"ece_noise": float(np.mean([part.noise for part in parts]))}
    for name, field in (
        ("accuracy", "correct"),
        ("overconfidence", "overconfidence"),
        ("ece", "error"),
    ):
        values = np.concatenate([getattr(part, field) for part in parts])
        means = resampled_means(values, draws.resamples, seed=draws.seed)
        averaged = averaged_over_seeds(means, row_index, counts, draws.level)[:, 0]
        low, high = percentile_interval(averaged, draws.level)
        if name != "overconfidence":
            low = max(low, 0.0)
        row |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
    return row
