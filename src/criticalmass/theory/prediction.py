"""Predicted curves of CKA and of ridge probes on random subsets of one layer.

CKA is predicted from the raw features of the test split, on which a sweep measures it, so that
prediction and measurement can be compared. Ridge probes are predicted from the eigenbasis of the
training split and scored on the test split. Laws and their measured errors: docs/theory.md.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from criticalmass.analysis.predicted_curves import (
    LAW,
    SAMPLED,
    SUBSETS,
    WHOLE,
    PredictedCurve,
)
from criticalmass.core.moments import FloatArray
from criticalmass.core.notebook import Card, Shown
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError
from criticalmass.selectors.sizes import sizes_for
from criticalmass.theory.cka import ExpectedSimilarity, expected_cka, expected_debiased_cka

if TYPE_CHECKING:
    from criticalmass.theory.eigenbasis import Eigenbasis
    from criticalmass.theory.exchangeability import Exchangeability
    from criticalmass.theory.ridge import Law

#: With fewer test samples per neuron plain CKA is biased by more than its interval over subsets.
FEWEST_SAMPLES_PER_NEURON = 5
_SMALL_SIZES = (1, 2, 4, 8, 16, 32, 64)
# Fractions at which the ridge law is computed. Each costs inverses, and the error of cubics
# between them is smaller than that of the law.
_LAW_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7)


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Shown):
    """The predictions for one layer.

    Attributes
    ----------
    layer: its name.
    digest: of the features and labels from which it was predicted; it is valid for these only.
    n_neurons, n_test: width of the layer, samples of the test split.
    participation_ratio: effective dimensions of the standardised neurons of the test split.
    participation_ratio_raw: effective dimensions of the raw neurons.
    diagonal_share: a, which determines the curve of CKA to first order.
    curves: predicted curves, CKA first, then debiased CKA where plain CKA is biased.
    diffuseness: the test of exchangeable neurons (standardised), or None.
    """

    layer: str
    digest: str
    n_neurons: int
    n_test: int
    participation_ratio: float
    participation_ratio_raw: float
    diagonal_share: float
    curves: tuple[PredictedCurve, ...]
    diffuseness: Exchangeability | None = None

    def _card(self) -> Card:
        facts = {
            "neurons": f"{self.n_neurons:,}",
            "test samples": f"{self.n_test:,}",
            "effective dimensions": f"{self.participation_ratio:,.1f}",
            "curves": ", ".join(curve.measure for curve in self.curves),
        }
        return Card(f"Predictions for {self.layer!r}", facts)

    def curve(self, measure: str) -> PredictedCurve | None:
        """Return the curve of a measure, or None if it is not predicted."""
        return next((curve for curve in self.curves if curve.measure == measure), None)


def cka_curve(second_moment: FloatArray, *, most_sizes: int = 4096) -> PredictedCurve:
    """Predict linear CKA with the whole layer at every size.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X.
    most_sizes: wider layers are predicted at about this many sizes, spaced geometrically.

    Raises
    ------
    CriticalMassError: if the matrix is not a second moment, or every neuron is constant.
    """
    sizes = _sizes(int(second_moment.shape[0]), most_sizes)
    return _similarity_curve("cka", expected_cka(second_moment, sizes))


def debiased_cka_curve(rows: Rows, *, most_sizes: int = 4096) -> PredictedCurve:
    """Predict debiased linear CKA (measure ``cka-debiased``) with the whole layer at every size.

    Parameters
    ----------
    rows: (n_samples, n_neurons) raw features.
    most_sizes: as in `cka_curve`.

    Raises
    ------
    CriticalMassError: if there are too few samples for a positive unbiased HSIC.
    """
    sizes = _sizes(int(rows.shape[1]), most_sizes)
    return _similarity_curve("cka-debiased", expected_debiased_cka(rows, sizes))


def _sizes(n_neurons: int, most_sizes: int) -> NDArray[np.int64]:
    """Return all sizes, or about ``most_sizes`` of a wider layer, spaced geometrically."""
    sizes = np.arange(1, n_neurons + 1, dtype=np.int64)
    if n_neurons > most_sizes:
        sizes = np.unique(np.round(np.geomspace(1, n_neurons, most_sizes)).astype(np.int64))
    return sizes


def _similarity_curve(measure: str, expected: ExpectedSimilarity) -> PredictedCurve:
    """Return the curve of a similarity whose last size is the whole layer."""
    source = [LAW if is_closed else SAMPLED for is_closed in expected.closed_form]
    source[-1] = WHOLE
    return PredictedCurve(
        measure=measure,
        n_neurons=int(expected.sizes[-1]),
        value_full=1.0,
        sizes=expected.sizes.astype(np.int64),
        mean=expected.mean,
        std=expected.std,
        source=tuple(source),
        l2=np.full(expected.sizes.size, np.nan),
    )


def ridge_curve(
    basis: Eigenbasis, rows: Rows, labels: NDArray[np.int64], *, law: Law = "auto"
) -> PredictedCurve:
    """Predict the accuracy of ridge probes: small subsets are sampled, larger ones predicted.

    The penalty of each size is the one of `criticalmass.measures.probes.closed_form.L2S` with the
    best predicted accuracy on the test rows. (A sweep chooses it on validation rows, per subset.)

    Parameters
    ----------
    basis: of the training split.
    rows: (n_test, n_neurons) raw test features.
    labels: (n_test,) their classes.
    law: as in `criticalmass.predict_ridge`; "exchangeable" is faster, and accurate enough for
        planning.

    Raises
    ------
    CriticalMassError: if rows and labels do not fit the training split.
    """
    from criticalmass.theory.ridge import predict_ridge
    from criticalmass.theory.sampled_ridge import LARGEST_SAMPLED, sample_ridge

    d = basis.n_neurons
    grid = sorted({*_SMALL_SIZES, *sizes_for(_LAW_FRACTIONS, d)})
    small = [k for k in grid if k <= LARGEST_SAMPLED and k < d]
    large = [k for k in grid if LARGEST_SAMPLED < k < d]
    with ThreadPoolExecutor(1) as executor:
        sampling = executor.submit(sample_ridge, basis, (rows, labels), small) if small else None
        try:
            predicted = predict_ridge(basis, (rows, labels), [*large, d], law=law)
        except CriticalMassError:
            # A penalty per neuron need not have a solution; a single penalty always has one.
            predicted = predict_ridge(basis, (rows, labels), [*large, d], law="exchangeable")
    mean, std, l2 = predicted.accuracy[:, 0], predicted.accuracy_std[:, 0], predicted.l2
    mean = np.append(mean[:-1], predicted.accuracy_full)
    std = np.append(std[:-1], 0.0)
    if sampling is not None:
        sampled = sampling.result()
        mean = np.concatenate([sampled.accuracy.mean(axis=0), mean])
        std = np.concatenate([sampled.accuracy.std(axis=0, ddof=1), std])
        l2 = np.concatenate([sampled.l2, l2])
    return PredictedCurve(
        measure="ridge",
        n_neurons=d,
        value_full=predicted.accuracy_full,
        sizes=np.array([*small, *large, d], dtype=np.int64),
        mean=mean,
        std=std,
        source=(*[SUBSETS] * len(small), *[LAW] * len(large), WHOLE),
        l2=l2,
    )
