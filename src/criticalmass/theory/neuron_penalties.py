"""A penalty for each neuron: the law of subsets where neurons are not exchangeable.

The single penalty of `criticalmass.theory.degrees_of_freedom` treats the choice of neurons as a
random rotation of the layer. Real choices keep or drop single coordinates, and a neuron that
others can replace is worth less than one that none can replace. Dropping a neuron is an infinite
penalty on it, keeping it is a penalty of 0. The average over independent choices is an effective
medium with one penalty m_i per neuron. It is determined by the condition that a single neuron,
kept with probability p = k/d or dropped, causes no scattering on average (the coherent-potential
condition: Soven 1967, Phys. Rev. 156, 809). With ``G = (A + l2 + diag(m))^-1`` the condition is

    m_i G_ii = 1 - p,   that is   [(A + l2) G]_ii = p:

every neuron has the same p of the k degrees of freedom. In a layer of exchangeable neurons all
m_i are mu - l2, and the sum over i is the equation of `criticalmass.theory.degrees_of_freedom`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError

FloatArray = NDArray[np.float64]
#: The iteration ends when no neuron's degrees of freedom are off by more than this share of
#: min(p, 1 - p).
TOLERANCE = 5e-3
# Penalties below this share of the largest eigenvalue are not used in float32: the factorisation
# could lose its positive diagonal.
_FLOAT32_SHARE = 1e-4
_LONGEST_STEP = 1.0


@dataclass(frozen=True, eq=False)
class NeuronPenalties:
    """The penalties that are equivalent to the choice of k neurons, one per neuron.

    Attributes
    ----------
    penalties: (n_neurons,) m, added to l2.
    resolvent: (n_neurons, n_neurons), G = (A + l2 + diag(m))^-1, float32 or float64.
    diagonal: (n_neurons,) G_ii.
    coupling: (n_neurons,) sum over j != i of G_ij^2.
    """

    penalties: FloatArray
    resolvent: NDArray[Any]
    diagonal: FloatArray
    coupling: FloatArray


def neuron_penalties(
    second_moment: FloatArray,
    share: float,
    l2: float,
    start: FloatArray,
    *,
    most_rounds: int = 40,
) -> NeuronPenalties:
    """Solve ``m_i [(A + l2 + diag(m))^-1]_ii = 1 - share`` for all neurons.

    Newton's method in log m, with the squared off-diagonal of G replaced by the rank-one matrix
    with the same row sums. Each round costs one inverse, and two to four rounds are enough.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) A, of the standardised layer.
    share: k/d, in (0, 1).
    l2: the subset's penalty, above 0.
    start: (n_neurons,) first guess of m, e.g. mu - l2 for all.
    most_rounds: rounds after which the solver gives up.

    Raises
    ------
    CriticalMassError: if the iteration does not converge; the message has share and penalty.
    """
    dtype = _precision(second_moment, l2 + float(start.min()))
    logs, target = np.log(start), 1.0 - share
    for _ in range(most_rounds):
        medium = _effective_medium(second_moment, l2, np.exp(logs), dtype)
        left_side = medium.penalties * medium.diagonal
        residual = left_side - target
        if np.abs(residual).max() < TOLERANCE * min(target, share):
            return medium
        logs = logs - np.clip(_step(medium, left_side, residual), -_LONGEST_STEP, _LONGEST_STEP)
    raise CriticalMassError(
        f"the penalties per neuron for share={share:.4g}, l2={l2:g} did not converge within "
        f"{most_rounds} rounds; use law='exchangeable' for this layer"
    )


def _step(medium: NeuronPenalties, left_side: FloatArray, residual: FloatArray) -> FloatArray:
    """Return Newton's step in log m, by the Sherman-Morrison formula."""
    diagonal = left_side - left_side**2
    rank_one = medium.penalties * medium.coupling / np.sqrt(max(medium.coupling.sum(), 1e-300))
    plain = residual / diagonal
    # The true Jacobian is positive definite; its rank-one approximation may not be, near p = 0.
    denominator = max(1.0 - float((rank_one**2 / diagonal).sum()), 0.02)
    return np.asarray(plain + rank_one / diagonal * float(rank_one @ plain) / denominator)


def _effective_medium(
    second_moment: FloatArray, l2: float, penalties: FloatArray, dtype: type[np.floating[Any]]
) -> NeuronPenalties:
    """Return the resolvent at given penalties, and the sums over it that a step needs."""
    resolvent = _inverse(second_moment, l2 + penalties, dtype)
    diagonal = np.diagonal(resolvent).astype(np.float64)
    squares = np.einsum("ij,ij->i", resolvent, resolvent).astype(np.float64)
    coupling = np.maximum(squares - diagonal**2, 0.0)
    return NeuronPenalties(penalties, resolvent, diagonal, coupling)


def _inverse(
    matrix: FloatArray, diagonal: FloatArray, dtype: type[np.floating[Any]]
) -> NDArray[Any]:
    """Return (matrix + diag(diagonal))^-1, where the sum is positive definite."""
    from scipy.linalg.lapack import get_lapack_funcs

    total = np.array(matrix, dtype=dtype, order="F")
    total[np.diag_indices_from(total)] += diagonal.astype(dtype)
    factorise, invert = get_lapack_funcs(("potrf", "potri"), (total,))
    factor, info = factorise(total, lower=False, overwrite_a=True, clean=False)
    if info != 0:
        raise CriticalMassError(
            f"the second moment with penalties from {diagonal.min():.3g} is singular; "
            "give a larger l2"
        )
    inverse, _ = invert(factor, lower=False, overwrite_c=True)
    upper = np.triu(inverse)
    upper += np.triu(upper, 1).T
    return np.asarray(upper)


def _precision(second_moment: FloatArray, least: float) -> type[np.floating[Any]]:
    """Return float32 if the least penalty is well above the rounding of the largest eigenvalue."""
    # The largest row sum bounds the largest eigenvalue from above.
    bound = float(np.abs(second_moment).sum(axis=1).max())
    return np.float32 if least > _FLOAT32_SHARE * bound else np.float64
