"""The spread of random subsets beyond that of the seeds, as a run's manifest keeps it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.bootstrap import (
    SubsetNoise,
    nested_normals,
    selector_rng,
    student_ratio,
)
from criticalmass.analysis.columns import FEWEST_SEEDS, Draws, LayerKey, SharedSeeds, seed_note
from criticalmass.core.moments import FloatArray
from criticalmass.measures.registry import is_similarity
from criticalmass.selectors.registry import SELECTORS
from criticalmass.storage.run import Run

#: Entry of the manifest: layer -> {"digest": ..., "measures": {measure: record}}.
ENTRY = "subset_spread"
#: Name of the measure's own value among the standard deviations.
VALUE = "value"
_CLASS_STREAM = zlib.crc32(b"classes")
# A stand-in tells how the spread changes with the size; the measured seeds tell its scale, within
# these bounds.
_SMALLEST_SCALE, _LARGEST_SCALE = 0.5, 2.0


@dataclass(frozen=True, eq=False)
class ClassSpread:
    """How the accuracies of the classes differ over random subsets.

    Attributes
    ----------
    ids: (n_classes,) classes with test samples.
    std: (n_sizes, n_classes) standard deviation of the accuracy of each class.
    correlation: (n_sizes, n_classes) its correlation with the accuracy over all classes.
    """

    ids: npt.NDArray[np.int64]
    std: FloatArray
    correlation: FloatArray

    @classmethod
    def of(cls, ids: npt.NDArray[np.int64], accuracy: FloatArray, total: FloatArray) -> ClassSpread:
        """Compute it from drawn subsets.

        Parameters
        ----------
        ids: (n_classes,) of the classes.
        accuracy: (n_subsets, n_sizes, n_classes) class accuracies.
        total: (n_subsets, n_sizes) accuracy over all classes.
        """
        std = accuracy.std(axis=0, ddof=1)
        deviation = (total - total.mean(axis=0))[:, :, None]
        shared = (deviation * (accuracy - accuracy.mean(axis=0))).sum(axis=0) / (len(total) - 1)
        scale = std * total.std(axis=0, ddof=1)[:, None]
        return cls(ids, std, np.clip(shared / np.where(scale > 0.0, scale, 1.0), -1.0, 1.0))

    def record(self) -> dict[str, Any]:
        """Return it as JSON values with five digits."""
        tables = {"std": self.std, "correlation": self.correlation}
        return {
            "ids": self.ids.tolist(),
            **{name: [_five_digits(row) for row in rows] for name, rows in tables.items()},
        }


@dataclass(frozen=True, eq=False)
class SpreadRecord:
    """Standard deviation of a measure over random subsets of the run's test samples.

    Attributes
    ----------
    sizes: (n_sizes,) neurons kept, ascending, with the whole layer last.
    std: name -> (n_sizes,) over single subsets: `VALUE`, and for a probe statistics of its class
        accuracies (`class_curves.CORRECTED`, `class_curves.EXCESS`).
    bias: (n_sizes,) mean of CKA less that of debiased CKA on the same subsets; None for other
        measures and where there are 5 test samples or more per neuron.
    n_subsets: number of drawn subsets of each size; 0 if a law gave the spread.
    stand_in: the measure whose spread this is, if it is not that of the measure itself.
    classes: the spread of the class accuracies, for drawn subsets of a probe.
    """

    sizes: npt.NDArray[np.int64]
    std: Mapping[str, FloatArray]
    bias: FloatArray | None
    n_subsets: int
    stand_in: str
    classes: ClassSpread | None = None

    def std_at(self, sizes: npt.NDArray[np.int64], name: str) -> FloatArray:
        """(n,) standard deviation at any sizes, interpolated in log k."""
        return self._at(sizes, self.std[name])

    def _at(self, sizes: npt.NDArray[np.int64], values: FloatArray) -> FloatArray:
        return np.interp(np.log(sizes), np.log(self.sizes), values)

    def bias_at(self, sizes: npt.NDArray[np.int64]) -> FloatArray:
        """(n,) bias at any sizes, interpolated in log k; 0 where none is recorded."""
        if self.bias is None:
            return np.zeros(sizes.size)
        return self._at(sizes, self.bias)

    def class_noise(
        self, sizes: npt.NDArray[np.int64], shared: SubsetNoise, draws: Draws
    ) -> dict[int, SubsetNoise]:
        """Return the scatter of the accuracy of each class, correlated with that of all classes.

        Parameters
        ----------
        sizes: (n_sizes,) of the curve.
        shared: the scatter of the accuracy over all classes, at these sizes.
        draws: settings of the bootstrap.

        Returns
        -------
        Class id -> scatter; empty if the classes are not recorded.
        """
        if self.classes is None:
            return {}
        ratio = student_ratio(self.n_subsets - 1, draws.level)
        noise = {}
        for i, c in enumerate(self.classes.ids.tolist()):
            rng = np.random.default_rng([draws.seed, _CLASS_STREAM, c])
            own = nested_normals(sizes, int(self.sizes[-1]), draws.resamples, rng)
            share = self._at(sizes, self.classes.correlation[:, i])
            normals = share * shared.normals + np.sqrt(1.0 - share**2) * own
            std = ratio * self._at(sizes, self.classes.std[:, i])
            noise[c] = SubsetNoise(std, normals, shared.is_mean)
        return noise

    def record(self) -> dict[str, Any]:
        """Return the record as JSON values with five digits."""
        return {
            "sizes": self.sizes.tolist(),
            "std": {name: _five_digits(values) for name, values in self.std.items()},
            "bias": None if self.bias is None else _five_digits(self.bias),
            "n_subsets": self.n_subsets,
            "stand_in": self.stand_in,
            "classes": None if self.classes is None else self.classes.record(),
        }


def _five_digits(values: FloatArray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _read_classes(content: Mapping[str, Any] | None) -> ClassSpread | None:
    """Read the record of the classes; runs of earlier versions have none."""
    if content is None:
        return None
    return ClassSpread(
        ids=np.asarray(content["ids"], dtype=np.int64),
        std=np.asarray(content["std"], dtype=np.float64),
        correlation=np.asarray(content["correlation"], dtype=np.float64),
    )


def read_spreads(run: Run) -> dict[tuple[str, str], SpreadRecord]:
    """Return the records of a run by layer and measure, without those of other features."""
    manifest = run.manifest
    layers: Mapping[str, Any] = manifest.get("layers", {})
    return {
        (layer, measure): SpreadRecord(
            sizes=np.asarray(content["sizes"], dtype=np.int64),
            std={name: np.asarray(v, np.float64) for name, v in content["std"].items()},
            bias=None if content["bias"] is None else np.asarray(content["bias"], np.float64),
            n_subsets=int(content["n_subsets"]),
            stand_in=str(content["stand_in"]),
            classes=_read_classes(content.get("classes")),
        )
        for layer, entry in manifest.get(ENTRY, {}).items()
        if entry["digest"] == layers.get(layer, {}).get("digest")
        for measure, content in entry["measures"].items()
    }


def interval_spread(
    used: pd.DataFrame, record: SpreadRecord, level: float
) -> dict[str, FloatArray]:
    """Return the standard deviations of single subsets that an interval is to use.

    They are stretched by the ratio of Student's quantile to the normal one. The spread of a
    stand-in is first scaled to that of the measured seeds, by one factor for all sizes, and its
    variance averaged with the measured one of each size.

    Parameters
    ----------
    used: the rows of the curve.
    record: the spread of its layer and measure.
    level: confidence level of the interval.

    Returns
    -------
    Name -> (n_sizes,) as in `SpreadRecord.std`; empty if there are too few seeds for the factor.
    """
    values = used.groupby("n_kept")["value"]
    sizes = np.array(sorted(values.groups), dtype=np.int64)
    std = {name: record.std_at(sizes, name) for name in record.std}
    if not record.stand_in:
        ratio = student_ratio(record.n_subsets - 1, level) if record.n_subsets else 1.0
        return {name: ratio * known for name, known in std.items()}
    measured = values.var(ddof=1).to_numpy(np.float64)
    freedom = values.size().to_numpy(np.float64) - 1.0
    law = std[VALUE] ** 2
    is_used = (law > 0.0) & np.isfinite(measured)
    if not is_used.any() or freedom[is_used].max() < FEWEST_SEEDS - 1:
        return {}
    factor = float(freedom[is_used] @ (measured[is_used] / law[is_used]) / freedom[is_used].sum())
    scaled = law * np.clip(factor, _SMALLEST_SCALE**2, _LARGEST_SCALE**2)
    variance = np.where(is_used, (scaled + np.nan_to_num(measured)) / 2.0, scaled)
    # The subsets of a seed are nested, so all sizes together count as about two.
    degrees = int(2 * freedom[is_used].max())
    return {VALUE: np.sqrt(variance) * student_ratio(degrees, level)}


def subset_noise(
    used: pd.DataFrame, record: SpreadRecord | None, draws: Draws, key: LayerKey
) -> dict[str, SubsetNoise]:
    """Return the scatter of means over random seeds by name, where the spread is known.

    Its draws depend on the dataset, the measure and the seeds: the deviations of one seed on two
    datasets or measures are taken as independent. Those of several tasks on the same samples are
    correlated as measured (``draws.shared``). All names share the draws.

    Parameters
    ----------
    used: the rows of a curve of the selector "random".
    record: the spread of its layer and measure, or None.
    draws: settings of the bootstrap.
    key: identifies layer and measure.
    """
    if record is None or not len(used):
        return {}
    sizes = np.unique(used["n_kept"].to_numpy(dtype=np.int64))
    seeds = "/".join(map(str, np.unique(used["seed"].to_numpy(dtype=np.int64))))
    rng = selector_rng(draws.seed, key.model, key.layer, f"{key.dataset}/{key.measure}/{seeds}")
    n_neurons = int(used["n_neurons"].max())
    normals = nested_normals(sizes, n_neurons, draws.resamples, rng)
    for shared in draws.shared:
        if (shared.layer, shared.measure) == (key.layer, key.measure):
            normals = _follow(normals, shared, sizes, n_neurons, draws, key)
    is_mean = not is_similarity(key.measure)
    return {
        name: SubsetNoise(std, normals, is_mean)
        for name, std in interval_spread(used, record, draws.level).items()
    }


def _follow(
    own: FloatArray,
    shared: SharedSeeds,
    sizes: npt.NDArray[np.int64],
    n_neurons: int,
    draws: Draws,
    key: LayerKey,
) -> FloatArray:
    """Correlate a run's own draws (resamples, n_sizes) with those that it shares."""
    grid = np.array(shared.sizes, dtype=np.int64)
    seeds = "/".join(map(str, shared.seeds))
    rng = selector_rng(draws.seed, key.model, key.layer, f"{shared.dataset}/{key.measure}/{seeds}")
    common = nested_normals(grid, n_neurons, draws.resamples, rng)[:, np.searchsorted(grid, sizes)]
    return np.asarray(shared.correlation * common + np.sqrt(1.0 - shared.correlation**2) * own)


def unreliable_interval(
    used: pd.DataFrame, selector: str, record: SpreadRecord | None, errors: FloatArray
) -> str:
    """Say why the intervals of a curve are not reliable; empty if they are.

    Parameters
    ----------
    used: the rows of the curve.
    selector: its selector.
    record: the spread that the sweep has drawn, if any.
    errors: (n_sizes,) standard deviations of the draws of the means.
    """
    info = SELECTORS.get(selector)
    below = used[used["n_kept"] < used["n_neurons"]]
    if info is None or not info.is_random or not len(below):
        return ""
    note = seed_note(int(below.groupby("n_kept")["seed"].nunique().min()))
    if note:
        return note
    if record is not None and record.bias is not None:
        sizes = np.unique(used["n_kept"].to_numpy(dtype=np.int64))
        is_biased = np.abs(record.bias_at(sizes)) > errors
        if is_biased[sizes < used["n_neurons"].max()].any():
            rows = int(used["n_test"].max())
            return f"CKA is biased on {rows} test rows, use cka-debiased"
    return ""
