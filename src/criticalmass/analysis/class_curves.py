"""Class accuracies of a Run's subsets, and how unequal they are, also on resamples."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from criticalmass.analysis.bootstrap import averaged_over_seeds, seed_counts
from criticalmass.analysis.inequality import (
    excess_inequality,
    gini_of_rows,
    half_a_sample_inside,
    neutral_accuracy,
    noise_in_gini,
    variation_of_rows,
)
from criticalmass.analysis.predictions import Line, Predictions, predictions_of
from criticalmass.core.moments import FloatArray
from criticalmass.storage.run import Run

# Entries of one work array while resampling.
_ENTRIES = 4_000_000
FIGURES = ("accuracy", "gini", "cv", "gap", "excess")


@dataclass(frozen=True, eq=False)
class ClassCurve:
    """How the classes fare on the subsets of one selector.

    Attributes
    ----------
    source, line: what was predicted, and the selector's part of it.
    present: (C,) ids of the classes that have test samples; C counts only these.
    counts: (C,) their test samples.
    accuracy: (n_sizes, C) class accuracies, mean over seeds.
    drawn: (resamples, n_sizes, C) the same on draws of seeds and test samples.
    whole: (C,) of the whole layer, or None.
    whole_drawn: (resamples, C) the same on draws of test samples, or None.
    value: name -> (n_sizes,) mean over seeds of a figure of `FIGURES`; "noise" is the part of
        "gini" that sampling noise adds.
    value_drawn: name -> (resamples, n_sizes) the same on draws, shifted to their value.
    value_whole: name -> the whole layer's, empty without one.
    """

    source: Predictions
    line: Line
    present: npt.NDArray[np.intp]
    counts: FloatArray
    accuracy: FloatArray
    drawn: FloatArray
    whole: FloatArray | None
    whole_drawn: FloatArray | None
    value: Mapping[str, FloatArray]
    value_drawn: Mapping[str, FloatArray]
    value_whole: Mapping[str, float]

    @property
    def shares(self) -> FloatArray:
        """(C,) share of each class among the test samples."""
        return np.asarray(self.counts / self.counts.sum())

    @property
    def class_names(self) -> list[str]:
        """Names of the C classes."""
        return [self.source.names[i] for i in self.present]

    def neutral(self, size: int) -> tuple[FloatArray, FloatArray] | None:
        """Class accuracies (C,) of a class-neutral loss to a size's accuracy, and on draws."""
        if self.whole is None or self.whole_drawn is None:
            return None
        whole = half_a_sample_inside(self.whole, self.counts)
        drawn = half_a_sample_inside(self.whole_drawn, self.counts)
        here, there = self.inside(self.accuracy[size]), self.inside(self.drawn[:, size])
        return (
            neutral_accuracy(whole, self.shares, here @ self.shares),
            neutral_accuracy(drawn, self.shares, there @ self.shares),
        )

    def inside(self, accuracy: FloatArray) -> FloatArray:
        """Class accuracies (..., C) with 0 and 1 moved half a sample inside."""
        return half_a_sample_inside(accuracy, self.counts)


def class_curves(run: Run, level: float, resamples: int, seed: int) -> Iterator[ClassCurve]:
    """Yield the class accuracies of every selector of a run.

    Test samples are resampled within their class. The number of samples of a class says
    nothing about how well it is told apart, most test sets fix it by design, and a rare class
    must not vanish from a draw; all sizes, seeds and the whole layer see the same samples.
    Seeds are resampled as in `criticalmass.analysis.bootstrap`.
    """
    for source in predictions_of(run):
        present, sizes = np.unique(source.labels, return_counts=True)
        counts = sizes.astype(np.float64)
        hits = source.hits
        accuracy = np.stack([hits[:, source.labels == c].mean(axis=1) for c in present], axis=-1)
        value = _figures(accuracy, _whole_of(accuracy, source), counts)
        value["noise"] = noise_in_gini(accuracy, counts)
        drawn, value_drawn = _resampled(source, present, counts, resamples, seed)
        for line in source.lines:
            yield _curve(
                (source, line, present.astype(np.intp), counts),
                (accuracy, value),
                (drawn, value_drawn),
                (level, seed),
            )


def _curve(
    about: tuple[Predictions, Line, npt.NDArray[np.intp], FloatArray],
    found: tuple[FloatArray, dict[str, FloatArray]],
    drawn: tuple[npt.NDArray[np.float32], dict[str, FloatArray]],
    interval: tuple[float, int],
) -> ClassCurve:
    source, line, present, counts = about
    accuracy, value = found
    level, seed = interval
    subsets = f"{source.key[0]}/{source.key[1]}/{line.selector}"
    rng = np.random.default_rng([seed, zlib.crc32(subsets.encode())])
    picked = seed_counts(line.seeds.size, len(drawn[0]), rng)
    classes = np.empty((len(drawn[0]), line.sizes.size, counts.size), dtype=np.float32)
    for c in range(counts.size):
        values = drawn[0][:, :, c].astype(np.float64)
        classes[:, :, c] = averaged_over_seeds(values, line.columns, picked, level)
    means = {name: _over_seeds(values, line) for name, values in value.items()}
    on_draws = {
        name: _recentred(averaged_over_seeds(values, line.columns, picked, level), means[name])
        for name, values in drawn[1].items()
    }
    at = source.whole
    return ClassCurve(
        source=source,
        line=line,
        present=present,
        counts=counts,
        accuracy=_over_seeds(accuracy, line),
        drawn=np.clip(classes, 0.0, 1.0),
        whole=None if at is None else accuracy[at],
        whole_drawn=None if at is None else drawn[0][:, at].astype(np.float64),
        value=means,
        value_drawn=on_draws,
        value_whole={} if at is None else {name: float(v[at]) for name, v in value.items()},
    )


def _whole_of(accuracy: FloatArray, source: Predictions) -> FloatArray | None:
    return None if source.whole is None else accuracy[..., source.whole, :]


def _figures(
    accuracy: FloatArray, whole: FloatArray | None, counts: FloatArray
) -> dict[str, FloatArray]:
    """Figures of class accuracies (..., n_rows, C), each (..., n_rows)."""
    shares = counts / counts.sum()
    found = {
        "accuracy": accuracy @ shares,
        "gini": gini_of_rows(accuracy),
        "cv": variation_of_rows(accuracy),
        "gap": np.ptp(accuracy, axis=-1),
    }
    if whole is not None:
        inside = half_a_sample_inside(accuracy, counts)
        full = half_a_sample_inside(whole, counts)[..., None, :]
        neutral = neutral_accuracy(full, shares, inside @ shares)
        found["excess"] = excess_inequality(inside, neutral, full, counts)
    return found


def _resampled(
    source: Predictions,
    present: npt.NDArray[np.int64],
    counts: FloatArray,
    resamples: int,
    seed: int,
) -> tuple[npt.NDArray[np.float32], dict[str, FloatArray]]:
    """Class accuracies (resamples, n_rows, C) and figures (resamples, n_rows) on draws."""
    hits = source.hits.astype(np.float32)
    groups = [np.ascontiguousarray(hits[:, source.labels == c].T) for c in present]
    rngs = [np.random.default_rng([seed, int(c)]) for c in present]
    n_rows = len(hits)
    drawn = np.empty((resamples, n_rows, present.size), dtype=np.float32)
    step = max(1, min(resamples, _ENTRIES // max(hits.shape[1], n_rows * present.size)))
    parts = []
    for start in range(0, resamples, step):
        block = drawn[start : start + step]
        for c, (group, rng) in enumerate(zip(groups, rngs, strict=True)):
            block[:, :, c] = _picked(len(group), len(block), rng) @ group / np.float32(counts[c])
        wide = block.astype(np.float64)
        parts.append(_figures(wide, _whole_of(wide, source), counts))
    figures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return drawn, figures


def _picked(n: int, draws: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(draws, n) how often each of n samples is among n drawn with replacement."""
    flat = rng.integers(0, n, size=(draws, n), dtype=np.int32).astype(np.intp)
    flat += np.arange(0, draws * n, n)[:, None]
    counted = np.bincount(flat.ravel(), minlength=draws * n)
    return counted.reshape(draws, n).astype(np.float32)


def _over_seeds(values: FloatArray, line: Line) -> FloatArray:
    """Mean over the seeds of a line, size by size: (n_rows, ...) -> (n_sizes, ...)."""
    return np.stack([values[rows[rows >= 0]].mean(axis=0) for rows in line.columns])


def _recentred(drawn: FloatArray, value: FloatArray) -> FloatArray:
    """Shift draws (resamples, n_sizes) so that their mean is the value.

    A draw holds the noise of the sample and that of drawing from it. For figures that noise
    pushes one way (a gap or a Gini coefficient grows) draws lie off the value on one side by
    about as much as the value lies off the truth.
    """
    return np.asarray(drawn - drawn.mean(axis=0) + value)
