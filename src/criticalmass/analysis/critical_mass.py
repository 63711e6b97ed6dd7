"""Critical mass of one curve, and its ratio to those of other bases of the same layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.analysis.curves import ValueCurve
from criticalmass.analysis.estimators import MeanCurves, reaches
from criticalmass.analysis.targets import Target
from criticalmass.core.moments import FloatArray
from criticalmass.measures.registry import has_critical_mass, is_similarity
from criticalmass.selectors.registry import is_fixed_projection


@dataclass(frozen=True, eq=False)
class Crossings:
    """Where means over subsets reach values; all arrays are (n_values, n_means).

    Attributes
    ----------
    mass: critical mass in neurons; the whole layer if no tested size passes.
    first: index of the first tested size that passes; the number of sizes if none does.
    largest_failing: the tested size below the first that passes; 0 if there is none.
    smallest_passing: the first tested size that passes; the whole layer if none does.
    lowest: smallest size that was not tested and may pass; ``mass`` where a curve is drawn
        between the tested sizes.
    """

    mass: FloatArray
    first: npt.NDArray[np.intp]
    largest_failing: npt.NDArray[np.int64]
    smallest_passing: npt.NDArray[np.int64]
    lowest: FloatArray

    @classmethod
    def of(cls, means: MeanCurves, bars: FloatArray, estimator: str) -> Crossings:
        """Find where each mean reaches each of its values ``bars``, (n_values, n_means)."""
        d, sizes = int(means.full_size), means.sizes.astype(np.int64)
        first = means.first_passing(bars)
        mass = np.ceil(means.critical_sizes(bars, first, estimator) - 1e-9)
        failing = np.append(np.append(0, sizes)[:-1], sizes[sizes < d].max(initial=0))[first]
        # Sizes that were not tested: between two sizes for "strict", below the smallest, and
        # between the largest and the whole layer. There a draw answers with the whole gap.
        is_open = (failing == 0) | (mass == d) | (estimator == "strict")
        return cls(
            mass=mass,
            first=first,
            largest_failing=failing,
            smallest_passing=means.sizes_at(first).astype(np.int64),
            lowest=np.where(is_open, failing + 1.0, mass),
        )


class CurveReader:
    """Reads critical masses off one curve; what many values to reach share is computed once.

    Parameters
    ----------
    curve: values against size.
    estimator: a key of `ESTIMATORS`.
    """

    def __init__(self, curve: ValueCurve, estimator: str) -> None:
        self.curve, self.estimator = curve, estimator
        sizes, width = curve.sizes.astype(np.float64), float(curve.n_neurons)
        self.measured = MeanCurves(sizes, curve.mean[None], width)
        self.drawn = MeanCurves(sizes, curve.mean_draws, width)

    def masses(self, targets: Sequence[Target]) -> list[CurveMass | None]:
        """Return the critical mass for each target; None without values or with nothing to reach.

        A measure without critical masses (`has_critical_mass`) has nothing to reach.
        """
        curve, full = self.curve, self.curve.full
        has_values = full is not None and full > 0.0 and curve.sizes.size > 0
        if full is None or not (has_values and has_critical_mass(curve.key.measure)):
            return [None] * len(targets)
        defined = [target for target in targets if target.is_defined(full)]
        if not defined:
            return [None] * len(targets)
        bars = [target.bars(full, curve.full_draws) for target in defined]
        reading = _Reading(self, [bar for bar, _ in bars], [draws for _, draws in bars])
        masses = (CurveMass(reading, full, t, i) for i, t in enumerate(defined))
        return [next(masses) if target.is_defined(full) else None for target in targets]


@dataclass(frozen=True, eq=False)
class _Reading:
    """Several values to reach and those of their bootstrap draws, read off one curve at once."""

    reader: CurveReader
    bars: Sequence[float]
    bar_draws: Sequence[FloatArray]

    @cached_property
    def measured(self) -> Crossings:
        bars = np.array(self.bars)[:, None]
        return Crossings.of(self.reader.measured, bars, self.reader.estimator)

    @cached_property
    def drawn(self) -> Crossings:
        return self.drawn_by(self.reader.estimator)

    def drawn_by(self, estimator: str) -> Crossings:
        return Crossings.of(self.reader.drawn, np.stack(self.bar_draws), estimator)

    @cached_property
    def interval(self) -> tuple[FloatArray, FloatArray]:
        curve, drawn = self.reader.curve, self.drawn
        low, _ = curve.outward_interval(drawn.lowest.T)
        return low, curve.outward_interval(drawn.mass.T)[1]


@dataclass(frozen=True, eq=False)
class CurveMass:
    """Critical mass of one curve, which has a value of the whole layer and at least one size.

    Attributes
    ----------
    full: value of the whole layer.
    target: what to reach.
    """

    _reading: _Reading
    full: float
    target: Target
    _index: int

    @classmethod
    def of(cls, curve: ValueCurve, target: Target, estimator: str) -> CurveMass | None:
        """Return the critical mass of a curve for one target, see `CurveReader.masses`."""
        return CurveReader(curve, estimator).masses([target])[0]

    @property
    def curve(self) -> ValueCurve:
        """Values against size."""
        return self._reading.reader.curve

    @property
    def bar(self) -> float:
        """Value to reach."""
        return self._reading.bars[self._index]

    @property
    def size(self) -> float:
        """Critical mass in neurons; the whole layer if no tested size passes."""
        return float(self._reading.measured.mass[self._index, 0])

    @property
    def largest_failing(self) -> int:
        """The tested size below the first that passes; 0 if there is none."""
        return int(self._reading.measured.largest_failing[self._index, 0])

    @property
    def smallest_passing(self) -> int:
        """The first tested size that passes; the whole layer if none does."""
        return int(self._reading.measured.smallest_passing[self._index, 0])

    @property
    def size_draws(self) -> FloatArray:
        """(resamples,) critical mass of the bootstrap draws."""
        return np.asarray(self._reading.drawn.mass[self._index])

    @property
    def lowest_draws(self) -> FloatArray:
        """(resamples,) smallest sizes that were not tested and may pass."""
        return np.asarray(self._reading.drawn.lowest[self._index])

    @property
    def interval(self) -> tuple[int, int]:
        """Ends of the interval, from the lowest sizes that may pass to the critical masses."""
        low, high = self._reading.interval
        return int(low[self._index]), int(high[self._index])

    def interval_by(self, estimator: str) -> tuple[int, int]:
        """Return the ends of the interval of the critical masses alone, by any estimator."""
        reading = self._reading
        drawn = reading.drawn if estimator == reading.reader.estimator else None
        low, high = self.curve.outward_interval(
            (drawn or reading.drawn_by(estimator)).mass[self._index]
        )
        return int(low), int(high)

    @property
    def is_out_of_reach(self) -> bool:
        """Whether neither a tested size nor the whole layer passes."""
        whole_passes = reaches(np.array([self.full]), np.array(self.bar), 1.0)
        return not (self._first < self.curve.sizes.size or whole_passes.any())

    @property
    def is_at_floor(self) -> bool:
        """Whether the smallest tested size passes and has more than one neuron."""
        return self._first == 0 and int(self.curve.sizes[0]) > 1

    @property
    def is_reached(self) -> bool:
        """Whether a size below the whole layer passes."""
        return self._first < self.curve.sizes.size and self.smallest_passing < self.curve.n_neurons

    @property
    def is_known(self) -> bool:
        """Whether the critical mass lies within the tested sizes, so that it is not a bound."""
        return self.is_reached and not self.is_at_floor

    @property
    def _first(self) -> int:
        return int(self._reading.measured.first[self._index, 0])


def basis_ratios(mass: CurveMass, rivals: Sequence[CurveMass | None]) -> dict[str, Any]:
    """Compare the critical mass of random neurons with those of other bases of the layer.

    A ratio is left out if one of its masses is only a bound (`CurveMass.is_known`), and for a
    selector other than "random". One is kept: where the best projection passes at its smallest
    tested size, the compression is a lower bound.

    Parameters
    ----------
    mass: of the selector "random".
    rivals: of the curves of the same layer, dataset and measure, for the same target.

    Returns
    -------
    ``compression`` is the mass of random neurons / that of the linear projection without
    randomness that needs fewest dimensions, ``best_projection``; ``compression_at_floor`` tells
    whether it is only a lower bound. ``diffuseness``, for probes, is
    the mass of the selector "rotation" / that of random neurons. A draw of its interval has both
    curves on the same test samples. Seeds are drawn apart: those of two selectors do not belong
    together. A similarity has no diffuseness, because it compares with the raw layer, where a
    rotation of the standardised layer differs in scale as well.
    """
    if mass.curve.key.selector != "random" or not mass.is_known:
        return {}
    masses = {
        rival.curve.key.selector: rival
        for rival in rivals
        if rival is not None and rival.is_reached
    }
    size = mass.size
    ratios: dict[str, Any] = {}
    linear = [name for name in masses if is_fixed_projection(name)]
    best = min(linear, key=lambda name: masses[name].size, default=None)
    if best is not None:
        ratios |= {"compression": size / masses[best].size, "best_projection": best}
        ratios["compression_at_floor"] = masses[best].is_at_floor
    rotated = None if is_similarity(mass.curve.key.measure) else masses.get("rotation")
    if rotated is not None and rotated.is_known and rotated.curve.interval_note:
        ratios["diffuseness"] = rotated.size / size
    elif rotated is not None and rotated.is_known:
        low, _ = mass.curve.outward_interval(rotated.lowest_draws / mass.size_draws)
        _, high = mass.curve.outward_interval(rotated.size_draws / mass.lowest_draws)
        ratios["diffuseness"] = rotated.size / size
        ratios |= {"diffuseness_low": low, "diffuseness_high": high}
    return ratios
