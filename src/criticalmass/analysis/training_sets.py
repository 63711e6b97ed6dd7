"""Variation of a curve between training sets, from probes trained on halves of the training rows.

A sweep with ``training_sets=M`` trains every probe again on M random halves of the training rows,
drawn independently of each other and stratified by class. The point estimates stay those of all n
rows. The variance between halves, given the n rows, estimates the variance of a value on n rows
between training sets: for a subsample of h rows without replacement it is multiplied by
h/(n - h), which is 1 for halves. This is the delete-d jackknife (Shao and Wu 1989, A general
theory for jackknife variance estimation), which stays consistent where the delete-one jackknife
does not, as with a penalty that is chosen from a few. Halves contain no row twice, unlike
bootstrap samples, so that no row is its own neighbour or validates itself, and they are closer to
the n rows than M disjoint parts, whose probes are of another quality. Where a probe is nearly the
best possible its value depends on the training set in second order only, and the variance comes
out up to three times too large. docs/trust.md has measurements of all this.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.columns import Draws, LayerKey
from criticalmass.analysis.predictions import is_correct
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import is_similarity
from criticalmass.storage.run import Run

#: Folder inside a run with a run for each training set.
FOLDER = "training_sets"
#: With fewer training sets there is no interval.
FEWEST_SETS = 3
#: How the training sets are drawn, as the manifest says it.
RULE = "random halves of the training rows, stratified by class"
_STREAM = zlib.crc32(b"training sets")
_Scores = npt.NDArray[np.float32]


def is_same_task(run: Run, part: Run, layer: str, measure: str) -> bool:
    """Whether a training set was measured on the features and by the protocol of its run.

    Parameters
    ----------
    run: the run on all training rows.
    part: the run on the training set.
    layer, measure: of the probe.
    """
    own, other = run.manifest, part.manifest
    digest = own.get("layers", {}).get(layer, {}).get("digest")
    source = other.get("training_set", {}).get("layers", {}).get(layer)
    protocols = [manifest.get("measures", {}).get(measure) for manifest in (own, other)]
    return digest is not None and digest == source and protocols[0] == protocols[1]


def check_n_halves(n_halves: int) -> int:
    """Return the number of halves, 0 for none; refuse one that is negative or too small."""
    if n_halves < 0:
        raise CriticalMassError(f"training_sets={n_halves}; give a whole number of 0 or more")
    if 0 < n_halves < FEWEST_SETS:
        raise CriticalMassError(
            f"training_sets={n_halves} is too few for a variance; give {FEWEST_SETS} or more (8 is "
            "usual), or 0 for none"
        )
    return n_halves


def half_name(number: int) -> str:
    """Return the name of a random half."""
    return f"half-{number}"


def size_name(n_rows: int) -> str:
    """Return the name of the training set of the first rows."""
    return f"first-{n_rows}"


@dataclass(frozen=True, eq=False)
class TrainingSets:
    """The runs on random halves of the training rows of a run.

    Attributes
    ----------
    run: the run on all training rows.
    halves: the runs on halves, with their tables.
    """

    run: Run
    halves: tuple[tuple[Run, pd.DataFrame], ...]

    @classmethod
    def of(cls, run: Run) -> TrainingSets:
        """Open the runs on halves; a run without any has none."""
        names = (run.manifest.get("training_sets") or {}).get("names", ())
        paths = [run.path / FOLDER / name for name in names]
        opened = [Run.open(path) for path in paths if Run.exists(path)]
        return cls(run, tuple((half, half.frame()) for half in opened))

    def spread(self, key: LayerKey, selector: str) -> TrainingSpread | None:
        """Return the variation of one curve; None if fewer than `FEWEST_SETS` measured it.

        A half is left out if it was measured on other features or by another protocol than the
        run, or if it lacks the whole layer.
        """
        parts = [
            (half, rows)
            for half, table in self.halves
            if is_same_task(self.run, half, key.layer, key.measure)
            for rows in [_rows_of(table, key, selector)]
            if (rows["selector"] == "full").any() and (rows["selector"] != "full").any()
        ]
        if len(parts) < FEWEST_SETS:
            return None
        n_half = float(parts[0][1]["n_train"].iloc[0])
        scale = n_half / (float(self.run.manifest["n_train"]) - n_half)
        grids = [_grid(rows) for _, rows in parts]
        shared = sorted(set.intersection(*(set(grid) for grid in grids)))
        sizes = sorted({size for size, _ in shared if size})
        if not sizes:
            return None
        columns = []
        for size in (*sizes, 0):
            cells = [cell for cell in shared if cell[0] == size]
            scores = [
                is_correct(half, half.artifacts([grid[cell] for cell in cells]))
                for (half, _), grid in zip(parts, grids, strict=True)
            ]
            columns.append(_training_deviation(np.stack(scores).astype(np.float32)))
        deviation = np.stack(columns, axis=1) * np.sqrt(scale)
        return TrainingSpread(np.array(sizes), deviation)


@dataclass(frozen=True, eq=False)
class TrainingSpread:
    """Variation of a curve between training sets of the size of the run's.

    Attributes
    ----------
    sizes: (n_sizes,) neurons, ascending.
    deviation: (n_sets, n_sizes + 1) deviation of each training set from their mean at every size,
        and of the whole layer in the last column. The sum of squares of a column over n_sets - 1
        is the variance between training sets.
    """

    sizes: npt.NDArray[np.int64]
    deviation: FloatArray

    @property
    def n_sets(self) -> int:
        """Number of training sets."""
        return len(self.deviation)

    def draws(self, sizes: npt.NDArray[np.int64], draws: Draws) -> tuple[FloatArray, FloatArray]:
        """Draw changes of a curve from training set to training set.

        They follow Student's distribution with n_sets - 1 degrees of freedom, because the
        variance is estimated from n_sets values. All curves, layers and measures use the same
        draws, so that they are compared on the same training sets. Between the measured sizes,
        deviations are interpolated in log k.

        Parameters
        ----------
        sizes: (n_sizes,) neurons.
        draws: settings of the bootstrap.

        Returns
        -------
        Changes of the mean over subsets (resamples, n_sizes), and of the whole layer (resamples,).
        """
        rng = np.random.default_rng([draws.seed, _STREAM])
        normal = rng.standard_normal((draws.resamples, self.n_sets))
        weights = normal / np.sqrt(rng.chisquare(self.n_sets - 1, draws.resamples))[:, None]
        nodes, points = np.log(self.sizes), np.log(sizes)
        deviation = [np.interp(points, nodes, row[:-1]) for row in self.deviation]
        return weights @ np.stack(deviation), weights @ self.deviation[:, -1]


def training_set_note(table: pd.DataFrame) -> str:
    """Say what the intervals of probes are over; empty without probes.

    Parameters
    ----------
    table: has the columns measure and training_sets, as that of `criticalmass.redundancy`.
    """
    probes = table[~table["measure"].map(is_similarity).astype(bool)]
    if not len(probes):
        return ""
    counts = probes["training_sets"].fillna(0).astype(int)
    if counts.min() == 0:
        some = " of all probes" if counts.max() else ""
        return (
            f"Not in the intervals{some}: the training set. They are about probes trained on these "
            "samples; --training-sets 8 of sweep, measure and study includes it."
        )
    return f"The intervals of probes include the training set, from {counts.min()} {RULE}."


def _rows_of(table: pd.DataFrame, key: LayerKey, selector: str) -> pd.DataFrame:
    """Return the rows of a curve and of its whole layer that have predictions."""
    rows = table[(table["status"] != "failed") & table["selector"].isin([selector, "full"])]
    for name in LayerKey._fields:
        rows = rows[rows[name] == getattr(key, name)]
    return rows[rows["artifact"].fillna("").str.startswith("predictions/")]


def _grid(rows: pd.DataFrame) -> Mapping[tuple[int, int], str]:
    """Return (size, seed) -> artifact; the whole layer has the size 0."""
    is_full = (rows["selector"] == "full").to_numpy(dtype=bool)
    sizes = np.where(is_full, 0, rows["n_kept"].to_numpy(dtype=np.int64))
    cells: Sequence[Any] = list(zip(sizes.tolist(), rows["seed"].tolist(), strict=True))
    return dict(zip(cells, rows["artifact"].tolist(), strict=True))


def _training_deviation(correct: _Scores) -> FloatArray:
    """(n_sets,) deviations of training sets from their mean, less what seeds and samples explain.

    ``correct`` (n_sets, n_seeds, n_test) says whether a probe is right on a sample. Training
    sets, seeds and samples are crossed. The interaction of a training set with the seeds and
    that with the samples are part of the spread between seeds and over samples already, so the
    deviations are shrunk to the part of their variance that neither explains, a variance
    component (Searle, Casella and McCulloch 1992, ch. 4), as in `bootstrap.averaged_over_seeds`.
    """
    n_sets, n_seeds, n_test = correct.shape
    values = correct.mean(axis=2, dtype=np.float64)
    deviation = np.asarray(values.mean(axis=1) - values.mean())
    between = float(deviation @ deviation) / (n_sets - 1)
    if between == 0.0:
        return deviation
    by_set = correct.mean(axis=1) - correct.mean(axis=(0, 1))
    explained = float(by_set.var(axis=1).sum()) / n_test / (n_sets - 1)
    if n_seeds > 1:
        of_seed, of_set = values.mean(axis=0), values.mean(axis=1, keepdims=True)
        interaction = float(np.sum((values - of_seed - of_set + values.mean()) ** 2))
        rest = correct - correct.mean(axis=0) - by_set[:, None]
        sampling = float(rest.var(axis=2).sum()) / n_test
        freedom = (n_sets - 1) * (n_seeds - 1)
        explained += max(0.0, interaction - sampling) / freedom / n_seeds
    return np.asarray(deviation * np.sqrt(max(0.0, 1.0 - explained / between)))
