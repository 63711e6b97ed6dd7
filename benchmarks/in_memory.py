"""The designs of `benchmarks.designs`, measured without files, which is several times faster.

Values, predictions and drawn subsets are computed as in a sweep, and the intervals come from the
functions that make the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.designs import N_NEURONS, Design
from criticalmass.analysis.agreement import _layer_rows as agreement_rows
from criticalmass.analysis.bootstrap import (
    SubsetNoise,
    averaged_over_seeds,
    averaged_scores,
    nested_normals,
    resampled_means,
    resampled_replicates,
    seed_counts,
    student_ratio,
    with_discordant_samples,
)
from criticalmass.analysis.class_curves import (
    CORRECTED,
    EXCESS,
    ClassCurve,
    _layer_class_curves,
    class_statistics,
)
from criticalmass.analysis.columns import CurveKey, Draws, LayerKey
from criticalmass.analysis.critical_mass import CurveMass
from criticalmass.analysis.curves import ValueCurve
from criticalmass.analysis.fairness import _fairness_rows, _loss_rows
from criticalmass.analysis.predictions import Predictions, SelectorPredictions
from criticalmass.analysis.spread_records import (
    VALUE,
    ClassSpread,
    SpreadRecord,
    unreliable_interval,
)
from criticalmass.analysis.targets import Target
from criticalmass.core.moments import moment_of_squares, moments
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import get_probe
from criticalmass.measures.similarity.cka import prefix_cka, prefix_cka_debiased
from criticalmass.measures.similarity.cka_jackknife import CkaVariant, prefix_cka_replicates

FloatArray = NDArray[np.float64]
#: Drawn subsets of each size, as in `criticalmass.sweeps.draw_spread`; the law of CKA is exact.
N_DRAWN, N_LAW = 100, 400
_KEY = LayerKey("design", "layer", "design", "probe")


@dataclass(frozen=True, eq=False)
class Measured:
    """A measurement of a design.

    Attributes
    ----------
    curve: the curve with its draws; the last size is the whole layer.
    source: the predictions, for a probe.
    classes: the class accuracies, for a probe.
    """

    curve: ValueCurve
    source: Predictions | None = None
    classes: ClassCurve | None = None

    def mass_interval(self, delta: float) -> tuple[int, int]:
        """Return the interval of the critical mass, as `criticalmass.redundancy` does."""
        mass = CurveMass.of(self.curve, Target(delta), "monotone")
        assert mass is not None
        return mass.interval

    def fairness(self) -> list[dict[str, Any]]:
        """Return the rows of `criticalmass.fairness`."""
        return [] if self.classes is None else _fairness_rows(self.classes, self.curve.level)

    def class_losses(self, delta: float) -> list[dict[str, Any]]:
        """Return the rows of `criticalmass.class_losses`."""
        return [] if self.classes is None else _loss_rows(self.classes, delta, self.curve.level)

    def agreement(self, draws: Draws) -> list[dict[str, Any]]:
        """Return the rows of `criticalmass.agreement`."""
        return [] if self.source is None else list(agreement_rows(self.source, draws))


def measure(design: Design, repeat: int, draws: Draws) -> Measured:
    """Measure a design on new test rows and seeds."""
    rng = np.random.default_rng([7, repeat])
    x, y = design.draw(design.n_test, rng)
    if design.measure.startswith("cka"):
        return _similarity(design, x, rng, draws)
    return _probe(design, x, y, rng, draws)


def _orders(n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    return np.stack([rng.permutation(N_NEURONS) for _ in range(n)]).astype(np.intp)


def _similarity(
    design: Design, x: NDArray[np.float32], rng: np.random.Generator, draws: Draws
) -> Measured:
    sizes, is_debiased = np.array(design.sizes), design.measure != "cka"
    values, replicates = prefix_cka_replicates(
        x, _orders(design.n_seeds, rng), design.sizes, variant=CkaVariant(debiased=is_debiased)
    )
    both = moments(x)
    squares = moment_of_squares(x, both.mean)
    orders = _orders(N_LAW, rng)
    plain = np.stack([prefix_cka(both.scatter, order) for order in orders])
    debiased = np.stack(
        [prefix_cka_debiased(both.scatter, squares, len(x), o) for o in orders[:N_DRAWN]]
    )
    drawn = (debiased if is_debiased else plain)[:, sizes - 1]
    std = np.where(sizes < N_NEURONS, drawn.std(axis=0, ddof=1), 0.0)
    bias = None
    if not is_debiased and len(x) < 5 * N_NEURONS:
        bias = (plain[:N_DRAWN] - debiased).mean(axis=0)[sizes - 1]
    record = SpreadRecord(sizes, {VALUE: std}, bias, N_DRAWN if is_debiased else 0, "")
    rows = resampled_replicates(
        values.reshape(-1), replicates.reshape(values.size, -1), draws.resamples,
        seed=draws.seed, level=draws.level,
    )  # fmt: skip
    index = np.arange(values.size).reshape(values.shape).T
    noise = _noise(record, rng, draws, is_mean=False)
    counts = seed_counts(design.n_seeds, draws.resamples, rng)
    means = averaged_over_seeds(rows, index, counts, draws.level, noise)
    means = np.clip(means, 0.0 if values.min() >= 0.0 else -1.0, 1.0)
    used = _used(design, len(x))
    note = unreliable_interval(used, "random", record, means.std(axis=0))
    return Measured(
        _curve(design, used, values.mean(axis=0), means, np.ones(draws.resamples), draws, note)
    )


def _curve(
    design: Design,
    used: pd.DataFrame,
    mean: FloatArray,
    mean_draws: FloatArray,
    full_draws: FloatArray,
    draws: Draws,
    note: str,
) -> ValueCurve:
    return ValueCurve(
        key=CurveKey("design", "layer", "design", "random", design.measure),
        rows=used,
        used=used,
        sizes=np.array(design.sizes),
        mean=mean,
        mean_draws=mean_draws,
        full=float(mean[-1]),
        full_draws=full_draws,
        level=draws.level,
        interval_note=note,
    )


def _noise(
    record: SpreadRecord, rng: np.random.Generator, draws: Draws, *, is_mean: bool
) -> SubsetNoise:
    normals = nested_normals(record.sizes, N_NEURONS, draws.resamples, rng)
    ratio = student_ratio(record.n_subsets - 1, draws.level) if record.n_subsets else 1.0
    return SubsetNoise(ratio * record.std[VALUE], normals, is_mean)


def _used(design: Design, n_test: int) -> pd.DataFrame:
    """Rows of a table, seed by seed."""
    grid = [(size, seed) for seed in range(design.n_seeds) for size in design.sizes]
    table = pd.DataFrame(grid, columns=["n_kept", "seed"])
    return table.assign(
        n_neurons=N_NEURONS, n_test=n_test, value=0.0, status="ok", artifact="memory",
        fraction=table["n_kept"] / N_NEURONS,
    )  # fmt: skip


def _predict(design: Design, x: NDArray[np.float32], orders: NDArray[np.intp]) -> NDArray[Any]:
    """(n_orders, n_sizes, n_test) predicted classes, of five orders at once as in a sweep."""
    x_train, y_train = design.train()
    rows = validation_rows(y_train)
    parts = [
        get_probe(design.measure)(
            ProbeTask(x_train, y_train, x, design.n_classes, part, design.sizes, rows)
        ).predictions
        for part in np.array_split(orders, -(-len(orders) // 5))
    ]
    return np.concatenate(parts)


def _probe(
    design: Design,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    rng: np.random.Generator,
    draws: Draws,
) -> Measured:
    n_sizes, n_seeds = len(design.sizes), design.n_seeds
    classes = _predict(design, x, _orders(n_seeds, rng))
    record = _class_record(design, y, _predict(design, x, _orders(N_DRAWN, rng)))
    below = classes[:, :-1].reshape(-1, y.size)
    # Row 0 is the whole layer.
    distinct = np.concatenate([classes[:1, -1], below])
    index = 1 + np.arange(len(below)).reshape(n_seeds, n_sizes - 1).T
    index = np.vstack([index, np.zeros((1, n_seeds), dtype=index.dtype)])
    scores = (distinct == y).astype(np.float32)
    drawn = with_discordant_samples(scores, np.arange(len(scores)) == 0)
    sums = np.stack([drawn[rows].sum(axis=0) for rows in index])
    means = resampled_means(sums, draws.resamples, seed=draws.seed) / n_seeds
    noise = _noise(record, rng, draws, is_mean=True)
    counts = seed_counts(n_seeds, draws.resamples, rng)
    curve = averaged_scores(scores, list(index), means, counts, draws.level, noise)
    used = _used(design, y.size)
    subsets = SelectorPredictions(
        "random", used, used, np.array(design.sizes), np.arange(n_seeds), index
    )
    names = tuple(f"class {c}" for c in range(design.n_classes))
    source = Predictions(_KEY, distinct, y, names, 0, (subsets,))
    (of_classes,) = _layer_class_curves(source, draws, record)
    mean = np.array([scores[rows].mean() for rows in index], dtype=np.float64)
    values = _curve(design, used, mean, np.clip(curve, 0.0, 1.0), means[:, -1], draws, "")
    return Measured(values, source, of_classes)


def _class_record(design: Design, y: NDArray[np.int64], drawn: NDArray[Any]) -> SpreadRecord:
    """Return the spread of drawn subsets, as `draw_spread` records it."""
    ids, counts = np.unique(y, return_counts=True)
    correct = drawn == y
    accuracy = np.stack([correct[:, :, y == c].mean(axis=2) for c in ids], axis=-1)
    known = class_statistics(accuracy, accuracy[:, -1], counts.astype(np.float64))
    sizes = np.array(design.sizes)
    scores: Mapping[str, FloatArray] = {VALUE: known["accuracy"]} | {
        name: known[name] for name in (CORRECTED, EXCESS)
    }
    std = {
        name: np.where(sizes < N_NEURONS, values.std(axis=0, ddof=1), 0.0)
        for name, values in scores.items()
    }
    spread = ClassSpread.of(ids, accuracy, known["accuracy"])
    return SpreadRecord(sizes, std, None, len(drawn), "", spread)
