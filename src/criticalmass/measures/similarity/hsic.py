"""The Hilbert-Schmidt independence criterion of linear kernels, and CKA as its ratio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError

#: Samples without which the unbiased estimate is not defined.
FEWEST_DEBIASED = 4
# An unbiased HSIC below this share of the biased one is rounding; what it estimates is zero.
_NEGLIGIBLE = 1e-11


@dataclass(frozen=True, eq=False)
class Hsic:
    """Sums of products of two Gram matrices' entries: of subsets, and of the whole layer.

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
        self, norms: Hsic, traces: tuple[FloatArray, FloatArray | float], n: FloatArray | int
    ) -> Hsic:
        """Unbiased HSIC (Song et al. 2012, eq. 5) up to the factor 1/(n(n-3)).

        With K = AA' and L = BB' of centred features, K1 = L1 = 0. Taking the diagonals p and q
        off leaves tr(KL) - p'q, row sums -p and -q, and hence the three terms
        tr(KL) - p'q + sum(p) sum(q) / ((n-1)(n-2)) - 2 p'q / (n-2).

        Parameters
        ----------
        norms: p'q for the same pairs: p, q are the squared norms of the centred samples.
        traces: sum of p of each subset, (...), and of the whole layer.
        n: number of samples, at least 4.
        """
        shared = n / (n - 2.0)
        lift = 1.0 / ((n - 1.0) * (n - 2.0))
        part, whole = traces
        return Hsic(
            self.cross - shared * norms.cross + lift * part * whole,
            self.within - shared * norms.within + lift * part * part,
            self.full - shared * norms.full + lift * whole * whole,
        )


def ratio(hsic: Hsic, plain: Hsic) -> FloatArray:
    """CKA: cross over the root of within times full; 0 where a subset has nothing within.

    Parameters
    ----------
    hsic: the sums to divide.
    plain: the biased sums of the same subsets; what is negligible beside them is zero.

    Raises
    ------
    CriticalMassError: if the sums are not finite.
    """
    if not all(np.isfinite(part).all() for part in (hsic.cross, hsic.within, hsic.full)):
        raise CriticalMassError("the second moment holds NaN or infinity; drop those samples")
    within = np.where(hsic.within > _NEGLIGIBLE * plain.within, hsic.within, 0.0)
    full = np.where(hsic.full > _NEGLIGIBLE * np.asarray(plain.full), hsic.full, 0.0)
    scale = np.sqrt(within) * np.sqrt(full)
    result = np.zeros(scale.shape)
    np.divide(hsic.cross, scale, out=result, where=scale > 0.0)
    return result
