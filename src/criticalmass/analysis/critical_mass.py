"""Critical mass of one curve, and its ratio to those of other bases of the same layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.analysis.curves import ValueCurve
from criticalmass.analysis.estimators import critical_size, reaches
from criticalmass.analysis.targets import Target
from criticalmass.core.moments import FloatArray
from criticalmass.measures.registry import has_critical_mass, is_similarity
from criticalmass.selectors.registry import is_fixed_projection


@dataclass(frozen=True, eq=False)
class Crossings:
    """Where several means over subsets reach a target.

    Attributes
    ----------
    mass: (n_means,) critical mass in neurons; the whole layer if no tested size passes.
    passes: (n_means, n_sizes) whether a size passes.
    largest_failing: (n_means,) the tested size below the first that passes; 0 if there is none.
    smallest_passing: (n_means,) the first tested size that passes; the whole layer if none does.
    lowest: (n_means,) smallest size that was not tested and may pass; ``mass`` where a curve is
        drawn between the tested sizes.
    """

    mass: FloatArray
    passes: npt.NDArray[np.bool_]
    largest_failing: npt.NDArray[np.int64]
    smallest_passing: npt.NDArray[np.int64]
    lowest: FloatArray


@dataclass(frozen=True, eq=False)
class CurveMass:
    """Critical mass of one curve, which has a value of the whole layer and at least one size.

    Attributes
    ----------
    curve: values against size.
    full: value of the whole layer.
    target: what to reach.
    estimator: a key of `ESTIMATORS`.
    """

    curve: ValueCurve
    full: float
    target: Target
    estimator: str

    @classmethod
    def of(cls, curve: ValueCurve, target: Target, estimator: str) -> CurveMass | None:
        """Return the critical mass of a curve; None without values or with nothing to reach.

        A measure without critical masses (`has_critical_mass`) has nothing to reach.
        """
        if curve.full is None or curve.full <= 0.0 or not curve.sizes.size:
            return None
        if not (target.is_defined(curve.full) and has_critical_mass(curve.key.measure)):
            return None
        return cls(curve, curve.full, target, estimator)

    @cached_property
    def measured(self) -> Crossings:
        """That of the measured means, (1,)."""
        return self._crossings(self.curve.mean[None], np.array([self.bar]), self.estimator)

    @cached_property
    def drawn(self) -> Crossings:
        """Those of the bootstrap draws, (resamples,)."""
        return self.drawn_by(self.estimator)

    def drawn_by(self, estimator: str) -> Crossings:
        """Those of the bootstrap draws by another estimator, (resamples,)."""
        return self._crossings(self.curve.mean_draws, self._bars[1], estimator)

    @property
    def bar(self) -> float:
        """Value to reach."""
        return self._bars[0]

    @cached_property
    def _bars(self) -> tuple[float, FloatArray]:
        return self.target.bars(self.full, self.curve.full_draws)

    @property
    def is_out_of_reach(self) -> bool:
        """Whether neither a tested size nor the whole layer passes."""
        whole_passes = reaches(np.array([self.full]), np.array(self.bar), 1.0)
        return not (self.measured.passes.any() or whole_passes.any())

    @property
    def is_at_floor(self) -> bool:
        """Whether the smallest tested size passes and has more than one neuron."""
        return bool(self.measured.passes[0, 0]) and int(self.curve.sizes[0]) > 1

    @property
    def is_reached(self) -> bool:
        """Whether a size below the whole layer passes."""
        return bool(self.measured.passes[0, self.curve.sizes < self.curve.n_neurons].any())

    @property
    def is_known(self) -> bool:
        """Whether the critical mass lies within the tested sizes, so that it is not a bound."""
        return self.is_reached and not self.is_at_floor

    def _crossings(self, means: FloatArray, bar: FloatArray, estimator: str) -> Crossings:
        d, sizes = self.curve.n_neurons, self.curve.sizes
        nodes = sizes.astype(np.float64)
        mass = np.ceil(critical_size(nodes, means, bar, 1.0, estimator, float(d)) - 1e-9)
        passes = reaches(means, bar, 1.0)
        first, any_passes = np.argmax(passes, axis=1), passes.any(axis=1)
        below = np.where(first > 0, sizes[first - 1], 0)
        failing = np.where(any_passes, below, sizes[sizes < d].max(initial=0))
        # Sizes that were not tested: between two sizes for "strict", below the smallest, and
        # between the largest and the whole layer. There a draw answers with the whole gap.
        is_open = (failing == 0) | (mass == d) | (estimator == "strict")
        return Crossings(
            mass=mass,
            passes=passes,
            largest_failing=failing,
            smallest_passing=np.where(any_passes, sizes[first], d),
            lowest=np.where(is_open, failing + 1.0, mass),
        )


def basis_ratios(mass: CurveMass, rivals: list[ValueCurve]) -> dict[str, Any]:
    """Compare the critical mass of random neurons with those of other bases of the layer.

    A ratio is left out if one of its masses is only a bound (`CurveMass.is_known`), and for a
    selector other than "random". One is kept: where the best projection passes at its smallest
    tested size, the compression is a lower bound.

    Parameters
    ----------
    mass: of the selector "random".
    rivals: the curves of the same layer, dataset and measure.

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
        rival.key.selector: other
        for rival in rivals
        if (other := CurveMass.of(rival, mass.target, mass.estimator)) is not None
        and other.is_reached
    }
    size = mass.measured.mass[0]
    ratios: dict[str, Any] = {}
    linear = [name for name in masses if is_fixed_projection(name)]
    best = min(linear, key=lambda name: masses[name].measured.mass[0], default=None)
    if best is not None:
        ratios |= {"compression": size / masses[best].measured.mass[0], "best_projection": best}
        ratios["compression_at_floor"] = masses[best].is_at_floor
    rotated = None if is_similarity(mass.curve.key.measure) else masses.get("rotation")
    if rotated is not None and rotated.is_known and rotated.curve.interval_note:
        ratios["diffuseness"] = rotated.measured.mass[0] / size
    elif rotated is not None and rotated.is_known:
        low, _ = mass.curve.outward_interval(rotated.drawn.lowest / mass.drawn.mass)
        _, high = mass.curve.outward_interval(rotated.drawn.mass / mass.drawn.lowest)
        ratios["diffuseness"] = rotated.measured.mass[0] / size
        ratios |= {"diffuseness_low": low, "diffuseness_high": high}
    return ratios
