"""What a layer's second moments say before a sweep: the curves of CKA and of ridge probes.

CKA is predicted from the raw features of the test split, on which a sweep measures it, so the
two may be held against each other. Ridge probes are predicted from the training split's
eigenbasis and scored on the test split. Laws and their measured errors: docs/theory.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.core.moments import FloatArray
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError
from criticalmass.selectors.sizes import sizes_for

if TYPE_CHECKING:
    from criticalmass.theory.eigenbasis import Eigenbasis
    from criticalmass.theory.exchangeability import Exchangeability
    from criticalmass.theory.ridge import Law

#: Ridge probes up to this size are drawn, not predicted: it is exact, and cheaper.
DRAWN = 64
_SMALL = (1, 2, 4, 8, 16, 32, 64)
# Where the law is asked: each size costs inverses, and cubics between these miss by less than it.
_LAW_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7)
# Above this width the CKA curve is kept at as many sizes, evenly spread in ratio.
_MOST_SIZES = 4096
LAW, SAMPLED, SUBSETS, WHOLE = "law", "law with sampled remainder", "drawn subsets", "whole layer"


@dataclass(frozen=True, eq=False)
class Curve:
    """Value of random subsets of every size, as predicted.

    Attributes
    ----------
    measure: "cka" or "ridge".
    n_neurons: width of the layer.
    value_full: value of the whole layer.
    sizes: (n_sizes,) neurons kept, ascending; the last is the whole layer.
    mean, std: (n_sizes,) over subsets.
    source: (n_sizes,) where each comes from: the law alone, the law with its sampled remainder,
        subsets that were drawn, or the whole layer itself.
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

    def at(self, sizes: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation at any sizes: monotone cubics in log k between known ones.

        Parameters
        ----------
        sizes: (n,) neurons kept, each from 1 to n_neurons.
        """
        from scipy.interpolate import PchipInterpolator

        asked = np.asarray(sizes, dtype=np.float64)
        if self.sizes.size == 1:
            return np.full(asked.shape, self.mean[0]), np.full(asked.shape, self.std[0])
        known, at = np.log(self.sizes), np.log(np.maximum(asked, self.sizes[0]))
        mean = PchipInterpolator(known, self.mean)(at)
        std = PchipInterpolator(known, self.std)(at)
        return np.asarray(mean), np.asarray(np.maximum(std, 0.0))

    def band(self, sizes: npt.ArrayLike, n_seeds: int, level: float) -> tuple[FloatArray, ...]:
        """Return mean, low and high, each (n,): where the mean over ``n_seeds`` subsets falls.

        Normal approximation. Neither the noise of the test samples nor the law's own error is
        part of it.

        Raises
        ------
        CriticalMassError: for fewer than 1 seed, or a level outside (0, 1).
        """
        if n_seeds < 1 or not 0.0 < level < 1.0:
            raise CriticalMassError(
                f"seeds={n_seeds}, level={level}: give at least 1 seed and a level in (0, 1)"
            )
        mean, std = self.at(sizes)
        half = NormalDist().inv_cdf(0.5 + level / 2) * std / np.sqrt(n_seeds)
        return mean, np.maximum(mean - half, 0.0), np.minimum(mean + half, 1.0)

    def critical_mass(self, delta: float, n_seeds: int, level: float) -> tuple[int, int, int]:
        """Fewest neurons whose mean reaches ``delta`` of the whole layer's, and its interval.

        The interval's ends are where the upper and the lower edge of the band do.

        Returns
        -------
        Critical mass, low, high.

        Raises
        ------
        CriticalMassError: for a delta outside (0, 1], or as `band`.
        """
        if not 0.0 < delta <= 1.0:
            raise CriticalMassError(f"delta={delta} is a share of the layer's value, in (0, 1]")
        sizes = np.arange(1, self.n_neurons + 1)
        bar = delta * self.value_full - 1e-12
        found = []
        for line in self.band(sizes, n_seeds, level):
            passed = np.flatnonzero(line >= bar)
            found.append(int(sizes[passed[0]]) if passed.size else self.n_neurons)
        return found[0], found[2], found[1]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is predicted of one layer.

    Attributes
    ----------
    layer: its name.
    digest: of the features and labels it was predicted from; of other ones it says nothing.
    n_neurons, n_test: width of the layer, samples of the test split.
    participation_ratio: effective dimensions of the standardised neurons of the test split.
    participation_ratio_raw: of the raw ones.
    diagonal_share: a, which decides the curve of CKA to first order.
    curves: what is predicted, CKA first.
    diffuseness: the test of exchangeable neurons (standardised), or None.
    """

    layer: str
    digest: str
    n_neurons: int
    n_test: int
    participation_ratio: float
    participation_ratio_raw: float
    diagonal_share: float
    curves: tuple[Curve, ...]
    diffuseness: Exchangeability | None = None

    def curve(self, measure: str) -> Curve | None:
        """Return the curve of a measure, None if it is not predicted."""
        return next((curve for curve in self.curves if curve.measure == measure), None)


def cka_curve(second_moment: FloatArray) -> Curve:
    """Predict linear CKA with the whole layer at every size.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X.

    Raises
    ------
    CriticalMassError: if it is no second moment, or every neuron is constant.
    """
    from criticalmass.theory.cka import expected_cka

    d = int(second_moment.shape[0])
    sizes = np.arange(1, d + 1)
    if d > _MOST_SIZES:
        sizes = np.unique(np.round(np.geomspace(1, d, _MOST_SIZES)).astype(np.int64))
    found = expected_cka(second_moment, sizes)
    source = [LAW if closed else SAMPLED for closed in found.closed_form]
    source[-1] = WHOLE
    none = np.full(sizes.size, np.nan)
    return Curve("cka", d, 1.0, sizes.astype(np.int64), found.mean, found.std, tuple(source), none)


def ridge_curve(
    basis: Eigenbasis, rows: Rows, labels: NDArray[np.int64], *, law: Law = "auto"
) -> Curve:
    """Predict the accuracy of ridge probes: small subsets drawn, larger ones by the law.

    The penalty of each size is the one of ``closed_form.L2S`` with the best predicted accuracy on
    the test rows; the sweep chooses on validation rows, per subset.

    Parameters
    ----------
    basis: of the training split.
    rows: (n_test, n_neurons) raw test features.
    labels: (n_test,) their classes.
    law: of `criticalmass.predict_ridge`; "exchangeable" is quicker, and good enough to plan by.

    Raises
    ------
    CriticalMassError: if rows and labels do not fit the training split.
    """
    from criticalmass.theory.ridge import predict_ridge
    from criticalmass.theory.sampled_ridge import drawn_ridge

    d = basis.n_neurons
    grid = sorted({*_SMALL, *sizes_for(_LAW_FRACTIONS, d)})
    small = [k for k in grid if k <= DRAWN and k < d]
    large = [k for k in grid if DRAWN < k < d]
    asked = [*large, d]
    try:
        found = predict_ridge(basis, (rows, labels), asked, law=law)
    except CriticalMassError:
        # The law of a penalty per neuron need not have a solution; that of one for all has.
        found = predict_ridge(basis, (rows, labels), asked, law="exchangeable")
    mean, std, l2 = found.accuracy[:, 0], found.accuracy_std[:, 0], found.l2
    mean = np.append(mean[:-1], found.accuracy_full)
    std = np.append(std[:-1], 0.0)
    if small:
        drawn = drawn_ridge(basis, (rows, labels), small)
        mean = np.concatenate([drawn.accuracy.mean(axis=0), mean])
        std = np.concatenate([drawn.accuracy.std(axis=0, ddof=1), std])
        l2 = np.concatenate([drawn.l2, l2])
    return Curve(
        measure="ridge",
        n_neurons=d,
        value_full=found.accuracy_full,
        sizes=np.array([*small, *asked], dtype=np.int64),
        mean=mean,
        std=std,
        source=(*[SUBSETS] * len(small), *[LAW] * len(large), WHOLE),
        l2=l2,
    )
