"""Class accuracies of a run's subsets and their inequality, with bootstrap draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from criticalmass.analysis.bootstrap import (
    averaged_over_seeds,
    counts_with_replacement,
    seed_counts,
    selector_rng,
)
from criticalmass.analysis.columns import Draws
from criticalmass.analysis.inequality import (
    binomial_noise,
    clip_half_sample,
    excess_inequality,
    gini_of_rows,
    gini_without_noise,
    proportional_odds_accuracy,
    toward_mean,
    variation_of_rows,
)
from criticalmass.analysis.predictions import Predictions, SelectorPredictions, predictions_of
from criticalmass.analysis.spread_records import (
    VALUE,
    SpreadRecord,
    read_spreads,
    subset_noise,
    unreliable_interval,
)
from criticalmass.core.moments import FloatArray
from criticalmass.storage.run import Run

#: Gini coefficient without sampling noise.
CORRECTED = "gini_corrected"
#: Gini coefficient beyond that of the proportional-odds baseline.
EXCESS = "excess"
# Entries of one work array while resampling: a third less time than with 4,000,000.
_BLOCK_ENTRIES = 500_000


@dataclass(frozen=True, eq=False)
class ClassCurve:
    """Class accuracies on the subsets of one selector.

    C counts the classes that have test samples. The statistics are "accuracy" (mean over test
    samples), "gini", "cv" and "gap" of the class accuracies, "gini_corrected"
    (`inequality.gini_without_noise`), and with a whole layer "excess"
    (`inequality.excess_inequality`).

    Attributes
    ----------
    source: the predictions of the layer and measure.
    subsets: the predictions of the selector.
    present: (C,) ids of the classes.
    counts: (C,) number of test samples of each class.
    accuracy: (n_sizes, C) class accuracies, mean over seeds.
    accuracy_draws: (resamples, n_sizes, C) bootstrap draws of ``accuracy``.
    full_accuracy: (C,) class accuracies of the whole layer, or None.
    full_accuracy_draws: (resamples, C) bootstrap draws of ``full_accuracy``, or None.
    statistics: name -> (n_sizes,) mean over seeds; "noise" is the part of "gini" that sampling
        noise adds.
    statistic_draws: name -> (resamples, n_sizes) draws, shifted so that their mean is the
        statistic; those of "gini_corrected" are not shifted.
    full_statistics: name -> value of the whole layer; empty without a whole layer.
    interval_note: why no interval is reliable; empty if they are.
    """

    source: Predictions
    subsets: SelectorPredictions
    present: npt.NDArray[np.intp]
    counts: FloatArray
    accuracy: FloatArray
    accuracy_draws: FloatArray
    full_accuracy: FloatArray | None
    full_accuracy_draws: FloatArray | None
    statistics: Mapping[str, FloatArray]
    statistic_draws: Mapping[str, FloatArray]
    full_statistics: Mapping[str, float]
    interval_note: str

    @property
    def class_shares(self) -> FloatArray:
        """(C,) share of each class among the test samples."""
        return np.asarray(self.counts / self.counts.sum())

    @property
    def class_names(self) -> list[str]:
        """Names of the C classes."""
        return [self.source.class_names[i] for i in self.present]

    def proportional_odds_baseline(self, size: int) -> tuple[FloatArray, FloatArray] | None:
        """Return the baseline class accuracies at a size's accuracy, or None.

        The baseline is the whole layer, brought to the accuracy of the subset by one factor on
        the odds of all classes (`inequality.proportional_odds_accuracy`).

        Returns
        -------
        (C,) class accuracies and their (resamples, C) draws; None without a whole layer.
        """
        if self.full_accuracy is None or self.full_accuracy_draws is None:
            return None
        shares = self.class_shares
        return (
            proportional_odds_accuracy(
                self.clip(self.full_accuracy), shares, self.clip(self.accuracy[size]) @ shares
            ),
            proportional_odds_accuracy(
                self.clip(self.full_accuracy_draws),
                shares,
                self.clip(self.accuracy_draws[:, size]) @ shares,
            ),
        )

    def clip(self, accuracy: FloatArray) -> FloatArray:
        """Move class accuracies (..., C) of 0 and 1 inward by half a test sample."""
        return clip_half_sample(accuracy, self.counts)


def class_curves(run: Run, draws: Draws) -> Iterator[ClassCurve]:
    """Yield the class accuracies of every selector of a run.

    Test samples are resampled within their class: most test sets fix the number of samples of a
    class by design, and a rare class must not be missing from a draw. All sizes, seeds and the
    whole layer use the same samples. Seeds are resampled as in `criticalmass.analysis.bootstrap`.
    """
    spreads = read_spreads(run)
    for source in predictions_of(run):
        record = spreads.get((source.key.layer, source.key.measure))
        yield from _layer_class_curves(source, draws, record)


@dataclass(frozen=True, eq=False)
class _RowStatistics:
    """Class accuracies and statistics of all rows of predictions of a layer and measure.

    Attributes
    ----------
    present, counts: as in `ClassCurve`.
    accuracy: (n_rows, C) class accuracies.
    accuracy_draws: (resamples, n_rows, C) the same on draws of test samples.
    statistics: name -> (n_rows,).
    statistic_draws: name -> (resamples, n_rows).
    """

    present: npt.NDArray[np.intp]
    counts: FloatArray
    accuracy: FloatArray
    accuracy_draws: npt.NDArray[np.float32]
    statistics: dict[str, FloatArray]
    statistic_draws: dict[str, FloatArray]


def _layer_class_curves(
    source: Predictions, draws: Draws, record: SpreadRecord | None
) -> Iterator[ClassCurve]:
    present, sizes = np.unique(source.labels, return_counts=True)
    counts = sizes.astype(np.float64)
    accuracy = np.stack(
        [source.correct[:, source.labels == c].mean(axis=1) for c in present], axis=-1
    )
    statistics = class_statistics(accuracy, _full_accuracy(accuracy, source), counts)
    statistics["noise"] = statistics["gini"] - statistics[CORRECTED]
    accuracy_draws, statistic_draws = _resample(source, present, counts, draws)
    rows = _RowStatistics(
        present=present.astype(np.intp),
        counts=counts,
        accuracy=accuracy,
        accuracy_draws=accuracy_draws,
        statistics=statistics,
        statistic_draws=statistic_draws,
    )
    for subsets in source.selectors:
        is_random = subsets.selector == "random"
        yield _class_curve(source, subsets, rows, draws, record if is_random else None)


def _class_curve(
    source: Predictions,
    subsets: SelectorPredictions,
    rows: _RowStatistics,
    draws: Draws,
    record: SpreadRecord | None,
) -> ClassCurve:
    """Average the rows of one selector over seeds."""
    noise = subset_noise(subsets.used, record, draws, source.key)
    of_class = {}
    if record is not None and VALUE in noise:
        of_class = record.class_noise(subsets.sizes, noise[VALUE], draws)
    noise = {("accuracy" if name == VALUE else name): n for name, n in noise.items()}
    rng = selector_rng(draws.seed, source.key.model, source.key.layer, subsets.selector)
    counts = seed_counts(subsets.seeds.size, draws.resamples, rng)
    shape = (draws.resamples, subsets.sizes.size, rows.counts.size)
    accuracy_draws = np.empty(shape, dtype=np.float32)
    for c in range(rows.counts.size):
        values = rows.accuracy_draws[:, :, c].astype(np.float64)
        accuracy_draws[:, :, c] = averaged_over_seeds(
            values, subsets.row_index, counts, draws.level, of_class.get(int(rows.present[c]))
        )
    means = {name: _seed_mean(values, subsets) for name, values in rows.statistics.items()}
    statistic_draws = {
        name: averaged_over_seeds(values, subsets.row_index, counts, draws.level, noise.get(name))
        for name, values in rows.statistic_draws.items()
    }
    if "accuracy" in noise and not of_class:
        # The classes share most of the effect of a subset; that part has the known spread.
        drawn = averaged_over_seeds(
            rows.statistic_draws["accuracy"], subsets.row_index, counts, draws.level
        )
        accuracy_draws += (statistic_draws["accuracy"] - drawn)[:, :, None].astype(np.float32)
    statistic_draws = {
        name: values if name == CORRECTED else _recentred(values, means[name])
        for name, values in statistic_draws.items()
    }
    has_full = (full_row := source.full_row) is not None
    return ClassCurve(
        source=source,
        subsets=subsets,
        present=rows.present,
        counts=rows.counts,
        accuracy=_seed_mean(rows.accuracy, subsets),
        accuracy_draws=np.clip(accuracy_draws, 0.0, 1.0),
        full_accuracy=rows.accuracy[full_row] if has_full else None,
        full_accuracy_draws=(
            rows.accuracy_draws[:, full_row].astype(np.float64) if has_full else None
        ),
        statistics=means,
        statistic_draws=statistic_draws,
        full_statistics=(
            {name: float(values[full_row]) for name, values in rows.statistics.items()}
            if has_full
            else {}
        ),
        interval_note=unreliable_interval(subsets.used, subsets.selector, None, np.empty(0)),
    )


def _full_accuracy(accuracy: FloatArray, source: Predictions) -> FloatArray | None:
    return None if source.full_row is None else accuracy[..., source.full_row, :]


def class_statistics(
    accuracy: FloatArray, full_accuracy: FloatArray | None, counts: FloatArray
) -> dict[str, FloatArray]:
    """Compute the statistics of `ClassCurve` from class accuracies.

    Parameters
    ----------
    accuracy: (..., n_rows, C) class accuracies.
    full_accuracy: (..., C) class accuracies of the whole layer; without them there is no excess.
    counts: (C,) number of test samples of each class.

    Returns
    -------
    Name -> (..., n_rows).
    """
    shares = counts / counts.sum()
    statistics = {
        "accuracy": accuracy @ shares,
        "gini": gini_of_rows(accuracy),
        "cv": variation_of_rows(accuracy),
        "gap": np.ptp(accuracy, axis=-1),
        CORRECTED: gini_without_noise(
            accuracy, binomial_noise(clip_half_sample(accuracy, counts), counts)
        ),
    }
    if full_accuracy is not None:
        clipped = clip_half_sample(accuracy, counts)
        full = clip_half_sample(full_accuracy, counts)[..., None, :]
        baseline = proportional_odds_accuracy(full, shares, clipped @ shares)
        statistics[EXCESS] = excess_inequality(clipped, baseline, full, counts)
    return statistics


def _resample(
    source: Predictions, present: npt.NDArray[np.int64], counts: FloatArray, draws: Draws
) -> tuple[npt.NDArray[np.float32], dict[str, FloatArray]]:
    """Class accuracies (resamples, n_rows, C) and statistics (resamples, n_rows) on draws."""
    correct = source.correct.astype(np.float32)
    n_rows, n_test = correct.shape
    extra = np.stack([np.ones(n_rows), np.zeros(n_rows)]).astype(np.float32)
    groups = [np.vstack([correct[:, source.labels == c].T, extra]) for c in present]
    centres = [group.mean(axis=0, dtype=np.float64) for group in groups]
    measured = np.stack([group[:-2].mean(axis=0, dtype=np.float64) for group in groups], axis=-1)
    smoothed = toward_mean(measured, binomial_noise(clip_half_sample(measured, counts), counts))
    rngs = [np.random.default_rng([draws.seed, int(c)]) for c in present]
    accuracy = np.empty((draws.resamples, n_rows, present.size), dtype=np.float32)
    step = max(1, min(draws.resamples, _BLOCK_ENTRIES // max(n_test, n_rows * present.size)))
    parts = []
    for start in range(0, draws.resamples, step):
        changes = np.empty((min(step, draws.resamples - start), n_rows, present.size))
        for c, (group, rng) in enumerate(zip(groups, rngs, strict=True)):
            # The share of each sample; a class of n samples has the noise of n, not of n + 2.
            sample_counts = counts_with_replacement(len(group), len(changes), rng)
            changes[:, :, c] = sample_counts @ group / np.float32(len(group)) - centres[c]
            changes[:, :, c] *= np.sqrt(len(group) / counts[c])
        block = np.clip(measured + changes, 0.0, 1.0)
        accuracy[start : start + step] = block
        part = class_statistics(block, _full_accuracy(block, source), counts)
        block = np.clip(smoothed + changes, 0.0, 1.0)
        noise = binomial_noise(clip_half_sample(block, counts), counts)
        parts.append(part | {CORRECTED: gini_without_noise(block, noise)})
    return accuracy, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _seed_mean(values: FloatArray, subsets: SelectorPredictions) -> FloatArray:
    """Mean over the seeds of every size: (n_rows, ...) -> (n_sizes, ...)."""
    return np.stack([values[rows[rows >= 0]].mean(axis=0) for rows in subsets.row_index])


def _recentred(draws: FloatArray, value: FloatArray) -> FloatArray:
    """Shift draws (resamples, n_sizes) so that their mean is the value.

    A draw contains the noise of the sample and the noise of drawing from it. Noise biases some
    statistics (a gap or a Gini coefficient grows), so their draws differ from the value by about
    as much as the value differs from the truth.
    """
    return np.asarray(draws - draws.mean(axis=0) + value)
