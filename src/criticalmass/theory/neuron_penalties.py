"""A penalty for each neuron: the law of subsets where neurons are not exchangeable.

The one penalty of `freedom` treats the choice of neurons as if it were a random rotation of the
layer. Real choices keep or drop single coordinates, and a neuron that others can stand in for is
worth less than one that nothing replaces. Dropping a neuron is an infinite penalty on it, keeping
it none; the average over independent choices is an effective medium with one penalty m_i per
neuron, fixed by asking that a single neuron, kept with probability p = k/d or dropped, scatters
nothing on average (the coherent-potential condition: Soven 1967, Phys. Rev. 156, 809). With
``G = (A + l2 + diag(m))^-1`` it says

    m_i G_ii = 1 - p,   that is   [(A + l2) G]_ii = p:

every neuron carries the same p of the k degrees of freedom. In a layer of exchangeable neurons
all m_i are mu - l2, and the sum over i is the equation of `freedom`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError

FloatArray = NDArray[np.float64]
#: Largest error of a neuron's degrees of freedom, as a share of min(p, 1 - p), to end with.
TOLERANCE = 5e-3
_MOST_ROUNDS = 40
# Below this share of the largest eigenvalue a float32 factor could lose its positive diagonal.
_SINGLE = 1e-4
_LONGEST_STEP = 1.0


@dataclass(frozen=True, eq=False)
class NeuronPenalties:
    """What the choice of k neurons costs each neuron.

    Attributes
    ----------
    penalties: (n_neurons,) m, on top of l2.
    resolvent: (n_neurons, n_neurons), G = (A + l2 + diag(m))^-1, float32 or float64.
    diagonal: (n_neurons,) G_ii.
    coupling: (n_neurons,) sum over j != i of G_ij^2.
    """

    penalties: FloatArray
    resolvent: NDArray[Any]
    diagonal: FloatArray
    coupling: FloatArray


def neuron_penalties(
    second_moment: FloatArray, share: float, l2: float, start: FloatArray
) -> NeuronPenalties:
    """Solve ``m_i [(A + l2 + diag(m))^-1]_ii = 1 - share`` for all neurons.

    Newton's method in log m, with the squared off-diagonal of G replaced by the rank-one matrix
    that has its row sums; each round costs one inverse, and two to four are enough.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) A, of the standardised layer.
    share: k/d, in (0, 1).
    l2: the subset's penalty, above 0.
    start: (n_neurons,) first guess of m, e.g. mu - l2 for all.

    Raises
    ------
    CriticalMassError: if no solution is found; names size and penalty.
    """
    dtype = _precision(second_moment, l2 + float(start.min()))
    logs, target = np.log(start), 1.0 - share
    for _ in range(_MOST_ROUNDS):
        found = _medium(second_moment, l2, np.exp(logs), dtype)
        carried = found.penalties * found.diagonal
        residual = carried - target
        if np.abs(residual).max() < TOLERANCE * min(target, share):
            return found
        logs = logs - np.clip(_step(found, carried, residual), -_LONGEST_STEP, _LONGEST_STEP)
    raise CriticalMassError(
        f"no penalty per neuron was found for share={share:.4g}, l2={l2:g} within {_MOST_ROUNDS} "
        "rounds; use law='exchangeable' for this layer"
    )


def _step(found: NeuronPenalties, carried: FloatArray, residual: FloatArray) -> FloatArray:
    """Newton's step in log m, by Sherman and Morrison's formula."""
    own = carried - carried**2
    others = found.penalties * found.coupling / np.sqrt(max(found.coupling.sum(), 1e-300))
    plain = residual / own
    # True couplings leave the matrix positive; its rank-one stand-in might not, next to p = 0.
    room = max(1.0 - float((others**2 / own).sum()), 0.02)
    return np.asarray(plain + others / own * float(others @ plain) / room)


def _medium(
    second_moment: FloatArray, l2: float, penalties: FloatArray, dtype: type[np.floating[Any]]
) -> NeuronPenalties:
    resolvent = _inverse(second_moment, l2 + penalties, dtype)
    diagonal = np.diagonal(resolvent).astype(np.float64)
    squares = np.einsum("ij,ij->i", resolvent, resolvent).astype(np.float64)
    coupling = np.maximum(squares - diagonal**2, 0.0)
    return NeuronPenalties(penalties, resolvent, diagonal, coupling)


def _inverse(
    matrix: FloatArray, diagonal: FloatArray, dtype: type[np.floating[Any]]
) -> NDArray[Any]:
    """Return (matrix + diag(diagonal))^-1 of a positive definite sum."""
    from scipy.linalg.lapack import get_lapack_funcs

    work = np.array(matrix, dtype=dtype, order="F")
    work[np.diag_indices_from(work)] += diagonal.astype(dtype)
    factorise, invert = get_lapack_funcs(("potrf", "potri"), (work,))
    factor, info = factorise(work, lower=False, overwrite_a=True, clean=False)
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
    """Choose float32 where the smallest penalty is well above its rounding of the largest value."""
    # The largest row sum bounds the largest eigenvalue from above.
    bound = float(np.abs(second_moment).sum(axis=1).max())
    return np.float32 if least > _SINGLE * bound else np.float64
