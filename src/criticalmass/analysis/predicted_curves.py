"""Predicted curves, value against size, and the file in which a run stores them.

A law of `criticalmass.theory`, or drawn subsets, give the curves; docs/theory.md has the laws and
their measured errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.analysis.estimators import check_delta, monotone_cubic
from criticalmass.core.moments import FloatArray
from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError
from criticalmass.storage.digests import verified

if TYPE_CHECKING:
    from criticalmass.storage.run import Run

FILE = "prediction.json"
#: Raised when a law changes; predictions of another version are not read.
VERSION = 1
#: Errors of a file that is JSON but has other contents than ours.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError)
#: The values of `PredictedCurve.source`.
LAW, SAMPLED, SUBSETS, WHOLE = "law", "law with sampled remainder", "drawn subsets", "whole layer"


@dataclass(frozen=True, eq=False)
class PredictedCurve:
    """Predicted values of random subsets, by size.

    Attributes
    ----------
    measure: "cka", "cka-debiased" or "ridge".
    n_neurons: width of the layer.
    value_full: value of the whole layer.
    sizes: (n_sizes,) subset sizes, ascending; the last is the whole layer.
    mean, std: (n_sizes,) over subsets.
    source: (n_sizes,) the source of each value: the law alone, the law with its sampled remainder,
        drawn subsets, or the whole layer.
    l2: (n_sizes,) penalty of the probe; nan for CKA.
    """

    measure: str
    n_neurons: int
    value_full: float
    sizes: NDArray[np.int64]
    mean: FloatArray
    std: FloatArray
    source: tuple[str, ...]
    l2: FloatArray

    def interpolate(self, sizes: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation at any sizes, each (n,).

        They are interpolated by monotone cubics in log k.

        Parameters
        ----------
        sizes: (n,) subset sizes, each from 1 to n_neurons.
        """
        ks = np.asarray(sizes, dtype=np.float64)
        if self.sizes.size == 1:
            return np.full(ks.shape, self.mean[0]), np.full(ks.shape, self.std[0])
        nodes, logs = np.log(self.sizes), np.log(np.maximum(ks, self.sizes[0]))
        mean, std = monotone_cubic(nodes, np.stack([self.mean, self.std]), logs)
        return mean, np.asarray(np.maximum(std, 0.0))

    def band(self, sizes: npt.ArrayLike, n_seeds: int, level: float) -> tuple[FloatArray, ...]:
        """Return mean, low and high, each (n,): the interval of the mean over ``n_seeds`` subsets.

        Normal approximation. The interval includes neither the noise of the test samples nor the
        error of the law.

        Raises
        ------
        CriticalMassError: for fewer than 1 seed, or a level outside (0, 1).
        """
        mean, std = self.interpolate(sizes)
        return mean, *mean_interval(mean, std, n_seeds, level)

    def critical_mass(self, delta: float, n_seeds: int, level: float) -> tuple[int, int, int]:
        """Return the fewest neurons whose mean reaches ``delta`` of the full value, with interval.

        The ends of the interval are where the upper and the lower edge of the band reach it.

        Returns
        -------
        Critical mass, low, high.

        Raises
        ------
        CriticalMassError: for a delta outside (0, 1], or as `band`.
        """
        check_delta(delta)
        sizes = np.arange(1, self.n_neurons + 1)
        threshold = delta * self.value_full - 1e-12
        masses = []
        for values in self.band(sizes, n_seeds, level):
            reaching = np.flatnonzero(values >= threshold)
            masses.append(int(sizes[reaching[0]]) if reaching.size else self.n_neurons)
        of_mean, of_low, of_high = masses
        return of_mean, of_high, of_low


def mean_interval(
    mean: FloatArray, std: FloatArray, n_seeds: int, level: float
) -> tuple[FloatArray, FloatArray]:
    """Return the interval of a mean over subsets, by normal approximation, within [0, 1].

    Parameters
    ----------
    mean, std: over single subsets.
    n_seeds: number of independent subsets in the mean.
    level: coverage of the interval.

    Raises
    ------
    CriticalMassError: for fewer than 1 seed, or a level outside (0, 1).
    """
    if n_seeds < 1 or not 0.0 < level < 1.0:
        raise CriticalMassError(
            f"n_seeds={n_seeds}, level={level}: give at least 1 seed and a level in (0, 1)"
        )
    half = NormalDist().inv_cdf(0.5 + level / 2) * std / np.sqrt(n_seeds)
    return np.maximum(mean - half, 0.0), np.minimum(mean + half, 1.0)


def read_layers(run: Run) -> list[Mapping[str, Any]]:
    """Return the predictions in a run's folder as JSON values, except those for other features.

    Returns nothing if there is no file or one of another version, and with a warning if the file
    is damaged; the next sweep predicts again.
    """
    path = run.path / FILE
    if not path.exists():
        return []
    try:
        content = verified(json.loads(path.read_text(encoding="utf-8")))
        if content is None:
            raise ValueError("the digest does not fit")
        if content.get("version") != VERSION:
            return []
        layers = list(content["layers"].values())
        known = run.manifest.get("layers", {})
        digests = {name: layer.get("digest") for name, layer in known.items()}
        return [layer for layer in layers if layer["digest"] == digests.get(layer["layer"])]
    except (OSError, *MALFORMED):
        warn_of_damage(run)
        return []


def warn_of_damage(run: Run) -> None:
    """Warn that the predictions of a run cannot be read, and say what follows."""
    warn_user(
        f"{run.path / FILE} is damaged and is not used: there are no predicted curves, and the "
        "spread of subsets is that of the measured seeds; the next sweep into this run makes it "
        "again"
    )


def read_curves(run: Run) -> dict[tuple[str, str], PredictedCurve]:
    """Return the predicted curves of a run by layer and measure, as `read_layers`."""
    layers = read_layers(run)
    try:
        return {
            (str(layer["layer"]), str(content["measure"])): curve_from_json(content)
            for layer in layers
            for content in layer["curves"]
        }
    except MALFORMED:
        warn_of_damage(run)
        return {}


def curve_from_json(content: Mapping[str, Any]) -> PredictedCurve:
    """Return a curve from the JSON values that `curve_to_json` makes."""
    sizes = np.asarray(content["sizes"], dtype=np.int64)
    l2 = content["l2"]
    return PredictedCurve(
        measure=str(content["measure"]),
        n_neurons=int(content["n_neurons"]),
        value_full=float(content["value_full"]),
        sizes=sizes,
        mean=np.asarray(content["mean"], dtype=np.float64),
        std=np.asarray(content["std"], dtype=np.float64),
        source=tuple(name for name, count in content["source"] for _ in range(int(count))),
        l2=np.full(sizes.size, np.nan) if l2 is None else np.asarray(l2, dtype=np.float64),
    )


def curve_to_json(content: dict[str, Any]) -> None:
    """Turn the fields of a curve, by name, into JSON values with all digits."""
    content["sizes"] = content["sizes"].tolist()
    content["mean"] = content["mean"].tolist()
    content["std"] = content["std"].tolist()
    content["l2"] = None if np.isnan(content["l2"]).all() else content["l2"].tolist()
    content["source"] = _run_lengths(content["source"])


def _run_lengths(names: Iterable[str]) -> list[list[Any]]:
    """Return a sequence with many repetitions as [name, count] pairs."""
    pairs: list[list[Any]] = []
    for name in names:
        if pairs and pairs[-1][0] == name:
            pairs[-1][1] += 1
        else:
            pairs.append([name, 1])
    return pairs
