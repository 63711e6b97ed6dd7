"""The Hilbert-Schmidt independence criterion of linear kernels, and CKA as its ratio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError

#: Fewest samples for which the unbiased estimate is defined.
FEWEST_DEBIASED = 4
# An unbiased HSIC below this share of the biased one is rounding error and set to zero.
_NEGLIGIBLE = 1e-11


@dataclass(frozen=True, eq=False)
class Hsic:
    """Sums of products of the entries of two Gram matrices: of subsets and of the whole layer.

    Attributes
    ----------
    cross: (...) of each subset with the whole layer.
    within: (...) of each subset with itself.
    full: (...) of the whole layer with itself.
    """

    cross: FloatArray
    within: FloatArray
    full: FloatArray | float

    def debiased(
        self,
        norms: Hsic,
        subset_traces: FloatArray,
        layer_trace: FloatArray | float,
        n: FloatArray | int,
    ) -> Hsic:
        """Return the unbiased HSIC (Song et al. 2012, eq. 5) up to the factor 1/(n(n-3)).

        With K = AA' and L = BB' of centred features, K1 = L1 = 0. Without their diagonals p and q
        they have tr(KL) - p'q and row sums -p and -q, which gives the three terms
        tr(KL) - p'q + sum(p) sum(q) / ((n-1)(n-2)) - 2 p'q / (n-2).

        Parameters
        ----------
        norms: p'q for the same pairs: p, q are the squared norms of the centred samples.
        subset_traces: (...) sum of p of each subset.
        layer_trace: sum of q of the whole layer.
        n: number of samples, at least 4.
        """
        a = n / (n - 2.0)
        b = 1.0 / ((n - 1.0) * (n - 2.0))
        return Hsic(
            self.cross - a * norms.cross + b * subset_traces * layer_trace,
            self.within - a * norms.within + b * subset_traces * subset_traces,
            self.full - a * norms.full + b * layer_trace * layer_trace,
        )


def ratio(hsic: Hsic, plain: Hsic) -> FloatArray:
    """Return CKA, cross / sqrt(within * full); 0 where ``within`` is 0.

    Parameters
    ----------
    hsic: the sums to divide.
    plain: the biased sums of the same subsets; sums that are negligible against them count as 0.

    Raises
    ------
    CriticalMassError: if the sums are not finite.
    """
    if not all(np.isfinite(sums).all() for sums in (hsic.cross, hsic.within, hsic.full)):
        raise CriticalMassError("the second moment holds NaN or infinity; drop those samples")
    within = np.where(hsic.within > _NEGLIGIBLE * plain.within, hsic.within, 0.0)
    full = np.where(hsic.full > _NEGLIGIBLE * np.asarray(plain.full), hsic.full, 0.0)
    scale = np.sqrt(within) * np.sqrt(full)
    result = np.zeros(scale.shape)
    np.divide(hsic.cross, scale, out=result, where=scale > 0.0)
    return result
