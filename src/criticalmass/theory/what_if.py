"""Critical mass of CKA in hypothetical layers: of another width, or with weaker correlations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from criticalmass.analysis.estimators import check_delta
from criticalmass.errors import CriticalMassError
from criticalmass.theory.cka import expected_cka
from criticalmass.theory.spectrum import as_second_moment, diagonal_share

if TYPE_CHECKING:
    import pandas as pd

DELTAS = (0.8, 0.9, 0.95)


def first_order_cka(share: float, n_neurons: int, sizes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """CKA of random subsets from the diagonal share alone (docs/theory.md, law 1, first order).

    Parameters
    ----------
    share: diagonal share a, from 1 / n_neurons to 1.
    n_neurons: width d of the layer.
    sizes: (n_sizes,) subset sizes.

    Returns
    -------
    (n_sizes,) sqrt((k/d) / (a + (1 - a)(k - 1)/(d - 1))).

    Raises
    ------
    CriticalMassError: if no layer of that width has this share.
    """
    _check_share(share, n_neurons)
    k = np.asarray(sizes, dtype=np.float64)
    inner = share + (1.0 - share) * (k - 1) / max(n_neurons - 1, 1)
    return np.asarray(np.sqrt(k / n_neurons / inner), dtype=np.float64)


def first_order_critical_mass(share: float, n_neurons: int, delta: float) -> int:
    """Fewest neurons at which `first_order_cka` reaches ``delta``.

    Solves k/d = delta^2 (a + (1 - a)(k - 1)/(d - 1)) for k and rounds up. For large d:
    k*/d = a delta^2 / (1 - delta^2 (1 - a)).

    Parameters
    ----------
    share: diagonal share a, from 1 / n_neurons to 1.
    n_neurons: width d of the layer.
    delta: the threshold, in (0, 1].

    Raises
    ------
    CriticalMassError: if no layer of that width has this share, or delta is outside (0, 1].
    """
    _check_share(share, n_neurons)
    check_delta(delta)
    if n_neurons == 1:
        return 1
    slope = (1.0 - share) / (n_neurons - 1)
    per_neuron = 1.0 / n_neurons - delta**2 * slope
    if per_neuron <= 0.0:
        return 1
    # Without the subtraction, rounding could raise an integer solution to the next integer.
    solution = delta**2 * (share - slope) / per_neuron
    return int(np.clip(np.ceil(solution - 1e-9), 1, n_neurons))


def width_what_if(
    second_moment: npt.ArrayLike, widths: Sequence[int], *, deltas: Sequence[float] = DELTAS
) -> pd.DataFrame:
    """Predict the critical mass of CKA in a layer of another width with the same spectrum.

    Such a layer has the same non-zero eigenvalues, spread over more or fewer neurons with equally
    unequal variances, so that a * d does not change (for standardised neurons it is the
    participation ratio). First order.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    widths: numbers of neurons of the hypothetical layers; at least a * d each.
    deltas: thresholds, each in (0, 1].

    Returns
    -------
    One row per width and delta: n_neurons, delta, diagonal_share, critical_mass, dr.

    Raises
    ------
    CriticalMassError: if the matrix is not a second moment, or a width is too small for the
        spectrum.
    """
    import pandas as pd

    c = as_second_moment(second_moment)
    dimensions = diagonal_share(c) * c.shape[0]
    rows = []
    for width in widths:
        # The tolerance lets the layer's own width pass in spite of rounding of a * d.
        if width < dimensions * (1.0 - 1e-12):
            raise CriticalMassError(
                f"{width} neurons are too few for a spectrum of {dimensions:.1f} effective "
                f"dimensions; ask for at least {int(np.ceil(dimensions))}"
            )
        share = min(1.0, dimensions / width)
        for delta in deltas:
            mass = first_order_critical_mass(share, width, delta)
            rows.append((width, delta, share, mass, 1.0 - mass / width))
    columns = ["n_neurons", "delta", "diagonal_share", "critical_mass", "dr"]
    return pd.DataFrame(rows, columns=columns)


def decorrelation_what_if(
    second_moment: npt.ArrayLike,
    strengths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0),
    *,
    deltas: Sequence[float] = DELTAS,
) -> pd.DataFrame:
    """Predict the critical mass of CKA in the layer with weaker correlations.

    Decorrelation of strength t multiplies every covariance between two neurons by 1 - t and does
    not change the variances; the penalty of DeCov (Cogswell et al. 2016, eq. 4) works in that
    direction. The result C + t (diag(C) - C) is a valid second moment, because it is positive
    semi-definite. Second order.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    strengths: each in [0, 1]; 0 is the layer as it is, 1 has uncorrelated neurons.
    deltas: thresholds, each in (0, 1].

    Returns
    -------
    One row per strength and delta: strength, delta, diagonal_share, critical_mass, dr.

    Raises
    ------
    CriticalMassError: if the matrix is not a second moment, or a strength is outside [0, 1].
    """
    import pandas as pd

    c = as_second_moment(second_moment)
    d = c.shape[0]
    rows = []
    for strength in strengths:
        if not 0.0 <= strength <= 1.0:
            raise CriticalMassError(
                f"decorrelation strength {strength} is outside [0, 1]; "
                "0 keeps all correlations, 1 removes all"
            )
        weaker = c * (1.0 - strength)
        np.fill_diagonal(weaker, np.diagonal(c))
        share = diagonal_share(weaker)
        expected = expected_cka(weaker, np.arange(1, d + 1))
        for delta in deltas:
            mass = expected.first_reaching(delta) or d
            rows.append((strength, delta, share, mass, 1.0 - mass / d))
    columns = ["strength", "delta", "diagonal_share", "critical_mass", "dr"]
    return pd.DataFrame(rows, columns=columns)


def _check_share(share: float, n_neurons: int) -> None:
    """Check that a layer of that width can have the diagonal share."""
    if n_neurons < 1 or not (1.0 - 1e-9) / n_neurons <= share <= 1.0 + 1e-9:
        raise CriticalMassError(
            f"diagonal share {share:.4g} is impossible in a layer of {n_neurons} neurons; "
            "give a share from 1 / n_neurons to 1"
        )
