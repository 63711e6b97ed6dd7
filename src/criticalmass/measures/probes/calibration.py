"""Expected calibration error: how far the confidence of a probe is from its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from criticalmass.errors import CriticalMassError

N_BINS = 15


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration of one probe on one set of samples.

    Attributes
    ----------
    ece: expected calibration error.
    noise: what a perfectly calibrated probe with the same confidences would be expected to have.
    scores: (n_samples,) contribution of every sample; their mean is ``ece``.
    """

    ece: float
    noise: float
    scores: npt.NDArray[np.float64]


def calibration_error(
    confidence: npt.ArrayLike, is_correct: npt.ArrayLike, *, n_bins: int = N_BINS
) -> Calibration:
    """Compute the expected calibration error of predicted classes.

    Samples are sorted by confidence and cut into bins of equal size (Naeini, Cooper and Hauskrecht
    2015, section 3, who call the mean over bins ECE). The error is the mean over bins of
    ``|accuracy - mean confidence|``, weighted by the size of the bin (Guo et al. 2017, eq. 3, who
    use bins of equal width). Equal confidences are in one bin, so their order does not matter.

    With s_b the sign of ``accuracy - confidence`` in bin b, the error is the mean of
    ``s_b (correct - confidence)`` over samples. The sign and the bins vary little between samples
    of a population, so the bootstrap treats this as a mean. A sum of absolute values is biased
    upwards by noise: in a bin of n_b samples a calibrated probe has a difference of variance
    ``v = sum p (1 - p) / n_b^2``, and its absolute value is ``sqrt(2 v / pi)`` on average.

    Parameters
    ----------
    confidence: (n_samples,) probability of the predicted class, in [0, 1].
    is_correct: (n_samples,) whether the predicted class is right.
    n_bins: number of bins, at most one per sample.

    Raises
    ------
    CriticalMassError: if the shapes differ, there are no samples or bins, or a confidence is no
        probability.
    """
    p = np.asarray(confidence, dtype=np.float64)
    hits = np.asarray(is_correct, dtype=np.float64)
    if p.ndim != 1 or p.shape != hits.shape or p.size == 0:
        raise CriticalMassError(
            f"confidence has shape {p.shape} and is_correct {hits.shape}; give one of each per "
            "sample"
        )
    if n_bins < 1:
        raise CriticalMassError(f"n_bins={n_bins}; give at least 1")
    if not bool(((p >= 0.0) & (p <= 1.0 + 1e-9)).all()):
        raise CriticalMassError("a confidence is outside 0 to 1; give probabilities")
    order = np.argsort(p, kind="stable")
    edges = np.arange(1, min(n_bins, p.size)) * p.size // min(n_bins, p.size)
    # A bin starts at the first of the samples that have the confidence of its edge.
    starts = np.unique(np.r_[0, np.searchsorted(p[order], p[order][edges])])
    bins = np.empty(p.size, dtype=np.intp)
    bins[order] = np.searchsorted(starts, np.arange(p.size), side="right") - 1
    gaps = np.bincount(bins, hits - p)
    variances = np.bincount(bins, np.maximum(p * (1.0 - p), 0.0))
    scores = np.where(gaps < 0.0, -1.0, 1.0)[bins] * (hits - p)
    noise = float(np.sqrt(2.0 * variances / np.pi).sum() / p.size)
    return Calibration(float(scores.mean()), noise, scores)
