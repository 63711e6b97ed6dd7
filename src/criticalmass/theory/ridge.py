"""Ridge probes on random subsets, predicted for every size without fitting one of them.

One eigendecomposition gives, for every number of neurons k, the mean head of a ridge probe on k
random neurons and the law of its scatter (`subset_heads`). Accuracy, squared error and their
spread over subsets follow by drawing heads from that law and counting, for single subsets and for
ensembles of M subsets, whose scatter is divided by M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.core.arguments import checked
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.probes.closed_form import L2S
from criticalmass.theory.degrees_of_freedom import (
    check_penalty,
    checked_sizes,
    degrees_of_freedom,
    full_penalty,
)
from criticalmass.theory.eigenbasis import Eigenbasis, eigenbasis
from criticalmass.theory.held_out import HeldOut, Sampling, held_out
from criticalmass.theory.ridge_heads import Heads, exchangeable_heads, neuron_heads

FloatArray = NDArray[np.float64]
Labelled = tuple[Rows, npt.ArrayLike]
Law = Literal["neuron", "exchangeable", "auto"]
LAWS = ("neuron", "exchangeable", "auto")
#: Widest layer for which "auto" gives every neuron its own penalty: an inverse per round.
WIDEST = 2048
# A choice between strengths compares them on the same rows and draws, so few of either do.
_CHOICE = 6
_CHOICE_ROWS = 2000


@dataclass(frozen=True, eq=False)
class RidgePrediction:
    """What ridge probes on random subsets will score.

    Attributes
    ----------
    sizes: (n_sizes,) numbers of neurons.
    members: (n_members,) sizes of ensembles; 1 is a single subset.
    accuracy: (n_sizes, n_members) mean over subsets, share of the test samples.
    accuracy_std: (n_sizes, n_members) standard deviation over subsets, on these test samples.
    error: (n_sizes, n_members) mean over subsets of the squared error, summed over classes.
    error_std: (n_sizes, n_members) its standard deviation over subsets.
    l2: (n_sizes,) penalty of the subset's probe.
    penalty: (n_sizes,) mu, the whole layer's penalty that stands for the subset.
    freedom: (n_sizes,) degrees of freedom of the whole layer at mu.
    accuracy_full: accuracy of the whole layer's probe at its l2 (the best of those given).
    law: "neuron" or "exchangeable".
    n_neurons: number of neurons of the whole layer.
    """

    sizes: NDArray[np.int64]
    members: NDArray[np.int64]
    accuracy: FloatArray
    accuracy_std: FloatArray
    error: FloatArray
    error_std: FloatArray
    l2: FloatArray
    penalty: FloatArray
    freedom: FloatArray
    accuracy_full: float
    law: str
    n_neurons: int


@checked
def predict_ridge(
    train: Eigenbasis | Labelled,
    test: Labelled,
    sizes: Sequence[int],
    *,
    l2: float | Sequence[float] = L2S,
    members: Sequence[int] = (1,),
    law: Law = "auto",
    validation: Labelled | None = None,
    sampling: Sampling | None = None,
) -> RidgePrediction:
    """Predict ridge probes on random subsets of neurons, of every size, from second moments.

    The probe is the measure ``ridge``: standardised neurons, centred one-hot labels, the largest
    response wins. The prediction holds for this training set, whose noise is part of it.

    Parameters
    ----------
    train: the training set as (rows (n_train, n_neurons), labels (n_train,)), or its
        `eigenbasis` where that is known.
    test: (rows (n_test, n_neurons), labels (n_test,)) on which probes are scored.
    sizes: numbers of neurons, each in 1..n_neurons.
    l2: penalty of the subset's probe, above 0; of several, every size takes the one with the
        best predicted accuracy on ``validation``, ties to the stronger.
    members: how many independent subsets vote by their mean response; 1 is a single subset.
    law: "exchangeable" needs the eigendecomposition alone; "neuron" gives every neuron its own
        penalty at one or more inverses per size, and is closer at small sizes; "auto" takes
        "neuron" for layers of up to ``WIDEST`` neurons.
    validation: labelled rows on which l2 is chosen; the test rows themselves by default, which
        flatters by what a choice among a few smooth curves can gain.
    sampling: how finely the law is sampled.

    Raises
    ------
    CriticalMassError: for a size, penalty, ensemble or law that does not exist, or rows and
        labels that do not fit.
    """
    basis = train if isinstance(train, Eigenbasis) else eigenbasis(train[0], np.asarray(train[1]))
    ks, rule, how = checked_sizes(sizes, basis.n_neurons), _law(law, basis), sampling or Sampling()
    votes, strengths = _checked_members(members), _strengths(l2)
    bench = held_out(basis, *test, how)
    chosen, full = np.full(ks.size, strengths[0]), strengths[0]
    if len(strengths) > 1:
        few = Sampling(max(1, how.draws // _CHOICE), min(how.rows, _CHOICE_ROWS), how.seed)
        held = held_out(basis, *(test if validation is None else validation), few)
        chosen, full = _best_strengths(held, ks, strengths, few)
    found, means = [], []
    for heads in _heads(basis, ks, chosen, rule):
        found.append(bench.scores(heads, votes, how))
        means.append(heads.mean)
    found = bench.on_all_rows(found, means)
    mu = np.array([_penalty(basis, k, s) for k, s in zip(ks, chosen, strict=True)])
    whole = exchangeable_heads(basis, basis.n_neurons, full).mean
    return RidgePrediction(
        sizes=ks,
        members=votes,
        accuracy=np.stack([one.accuracy for one in found]),
        accuracy_std=np.stack([one.accuracy_std for one in found]),
        error=np.stack([one.error for one in found]),
        error_std=np.stack([one.error_std for one in found]),
        l2=chosen,
        penalty=mu,
        freedom=np.asarray(degrees_of_freedom(basis.eigenvalues, mu)),
        accuracy_full=float(bench.score_means([whole], whole=True)[0][0]),
        law=rule,
        n_neurons=basis.n_neurons,
    )


def predicted_critical_mass(prediction: RidgePrediction, delta: float, column: int = 0) -> float:
    """Return where the predicted mean accuracy first reaches ``delta`` of the whole layer's.

    Between two sizes the curve is taken as straight in log k.

    Parameters
    ----------
    prediction: sizes ascending.
    delta: share of ``accuracy_full`` to keep, in (0, 1].
    column: which of ``members``.

    Returns
    -------
    Number of neurons: the smallest predicted size if that is enough, nan if none is.

    Raises
    ------
    CriticalMassError: for a delta outside (0, 1] or sizes that do not ascend.
    """
    if not 0 < delta <= 1 or (np.diff(prediction.sizes) <= 0).any():
        raise CriticalMassError(
            f"delta={delta}, sizes {prediction.sizes}; give 0 < delta <= 1 and ascending sizes"
        )
    curve, bar = prediction.accuracy[:, column], delta * prediction.accuracy_full
    passed = np.flatnonzero(curve >= bar)
    if passed.size == 0:
        return float("nan")
    i = int(passed[0])
    if i == 0:
        return float(prediction.sizes[0])
    logs = np.log(prediction.sizes[i - 1 : i + 1].astype(np.float64))
    part = (bar - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(np.exp(logs[0] + part * (logs[1] - logs[0])))


def _heads(
    basis: Eigenbasis, sizes: NDArray[np.int64], l2s: FloatArray, law: str
) -> Iterator[Heads]:
    """Yield the law of heads of every size, each started from the one before."""
    start: FloatArray | None = None
    for size, l2 in zip(sizes.tolist(), l2s.tolist(), strict=True):
        if law == "exchangeable":
            yield exchangeable_heads(basis, size, l2)
        else:
            heads, start = neuron_heads(basis, size, l2, start)
            yield heads


def _penalty(basis: Eigenbasis, size: int, l2: float) -> float:
    return float(full_penalty(basis.eigenvalues, [size], l2)[0])


def _best_strengths(
    held: HeldOut, sizes: NDArray[np.int64], strengths: tuple[float, ...], few: Sampling
) -> tuple[FloatArray, float]:
    """Return the strength of every size, and of the whole layer, by predicted accuracy."""
    basis, one = held.basis, np.ones(1, dtype=np.int64)
    # In the eigenbasis a head is a division; turning the rows once saves turning every head.
    held = replace(held, sample=held.sample @ basis.vectors.astype(np.float32))
    ks = [*sizes.tolist(), basis.n_neurons]
    curve = np.empty((len(strengths), len(ks)))
    for i, l2 in enumerate(strengths):
        for j, k in enumerate(ks):
            curve[i, j] = held.scores(
                exchangeable_heads(basis, k, l2, turned=True), one, few
            ).accuracy[0]
    # The first maximum from the strong end: ties go to the stronger penalty, as in the probe.
    best = np.asarray(strengths)[::-1][np.argmax(curve[::-1], axis=0)]
    return best[:-1], float(best[-1])


def _strengths(l2: float | Sequence[float]) -> tuple[float, ...]:
    values = (float(l2),) if isinstance(l2, int | float) else tuple(float(v) for v in l2)
    if not values:
        raise CriticalMassError("l2=() but a probe needs at least one penalty; give 1e-2")
    for value in values:
        check_penalty(value)
    return tuple(sorted(set(values)))


def _checked_members(members: Sequence[int]) -> NDArray[np.int64]:
    votes = np.asarray(members)
    if votes.ndim != 1 or votes.size == 0 or votes.dtype.kind not in "iu" or votes.min() < 1:
        raise CriticalMassError(f"members={members}; give sizes of ensembles, each 1 or more")
    return votes.astype(np.int64)


def _law(law: str, basis: Eigenbasis) -> str:
    if law not in LAWS:
        raise unknown_name("law", law, LAWS)
    if law == "auto":
        return "neuron" if basis.n_neurons <= WIDEST else "exchangeable"
    return law
