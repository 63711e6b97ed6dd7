"""Law 2: ridge probes on random subsets, predicted for every size without fitting a subset.

One eigendecomposition gives, for every number of neurons k, the mean head of a ridge probe on k
random neurons and the distribution of its deviation (`criticalmass.theory.ridge_heads`).
Accuracy, squared error and their spread over subsets follow from heads drawn from that
distribution. For ensembles of M subsets the covariance is divided by M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.analysis.predicted_curves import LAW, SUBSETS, WHOLE
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.notebook import Card, Shown
from criticalmass.core.progress import write_line
from criticalmass.core.rows import Rows
from criticalmass.core.threads import map_ahead
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.probes.closed_form import L2S
from criticalmass.theory.degrees_of_freedom import (
    check_penalty,
    check_sizes,
    degrees_of_freedom,
)
from criticalmass.theory.eigenbasis import Eigenbasis, eigenbasis
from criticalmass.theory.held_out import HeldOut, Sampling, held_out
from criticalmass.theory.ridge_heads import RidgeHeads, exchangeable_heads, neuron_heads
from criticalmass.theory.sampled_ridge import LARGEST_SAMPLED, MOST_ROWS, ORDERS, sample_ridge

FloatArray = NDArray[np.float64]
Labelled = tuple[Rows, npt.ArrayLike]
Law = Literal["neuron", "exchangeable", "auto"]
LAWS = ("neuron", "exchangeable", "auto")
#: Widest layer for which "auto" uses a penalty per neuron, which takes an inverse per round.
WIDEST = 2048
# Penalties are compared on the same rows and draws, so fewer of both are enough to choose one.
_DRAWS_DIVISOR = 6
_CHOICE_ROWS = 2000
# Most responses (rows x classes) to one head. They bound the time with thousands of classes; with
# fewer than 1,000 classes the numbers of rows are those of `Sampling` and `_CHOICE_ROWS`.
_MOST_RESPONSES, _FEWEST_ROWS = 4_000_000, 100


@dataclass(frozen=True, eq=False, repr=False)
class RidgePrediction(Shown):
    """Predicted scores of ridge probes on random subsets.

    Attributes
    ----------
    sizes: (n_sizes,) numbers of neurons.
    members: (n_members,) ensemble sizes; 1 is a single subset.
    accuracy: (n_sizes, n_members) mean over subsets, share of the test samples.
    source: (n_sizes, n_members) the source of each accuracy and its standard deviation: "drawn
        subsets", "law" or "whole layer". Squared errors are those of the law.
    accuracy_std: (n_sizes, n_members) standard deviation over subsets, on these test samples.
    error: (n_sizes, n_members) mean over subsets of the squared error, summed over classes.
    error_std: (n_sizes, n_members) its standard deviation over subsets.
    l2: (n_sizes,) penalty of the subset's probe.
    penalty: (n_sizes,) mu, the equivalent penalty of the whole layer.
    freedom: (n_sizes,) degrees of freedom of the whole layer at mu.
    accuracy_full: accuracy of the whole layer's probe at its best l2.
    law: "neuron" or "exchangeable".
    n_neurons: number of neurons of the whole layer.
    """

    sizes: NDArray[np.int64]
    members: NDArray[np.int64]
    accuracy: FloatArray
    source: NDArray[np.str_]
    accuracy_std: FloatArray
    error: FloatArray
    error_std: FloatArray
    l2: FloatArray
    penalty: FloatArray
    freedom: FloatArray
    accuracy_full: float
    law: str
    n_neurons: int

    def _card(self) -> Card:
        import pandas as pd

        columns = {f"accuracy of {m}": self.accuracy[:, i] for i, m in enumerate(self.members)}
        frame = pd.DataFrame({"size": self.sizes, **columns})
        facts = {"neurons": f"{self.n_neurons:,}", "whole layer": f"{self.accuracy_full:.4f}"}
        return Card("Predicted ridge probes", facts, tables={"by size": frame})


@validate_arguments
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
    """Predict ridge probes on random subsets of neurons, at any sizes, from second moments.

    The probe is the measure ``ridge``: standardised neurons, centred one-hot labels, and the class
    of the largest response. The prediction is for this training set, including its noise.

    The accuracies of the law are too high for few neurons (by up to .038 at 13). With
    ``law="auto"`` the accuracy of single subsets of up to `LARGEST_SAMPLED` (64) neurons is
    therefore the mean of drawn and fitted subsets, ``sampling.draws`` of each size; its standard
    error is their standard deviation / sqrt(draws). Ensembles and squared errors follow the law.
    The field ``source`` of the result says which it is.

    Parameters
    ----------
    train: the training set as (rows (n_train, n_neurons), labels (n_train,)), or its `eigenbasis`
        if it is known.
    test: (rows (n_test, n_neurons), labels (n_test,)) on which probes are scored.
    sizes: numbers of neurons, each in 1..n_neurons.
    l2: penalty of the subset's probe, above 0. Of several penalties, every size takes the one
        with the best predicted accuracy on ``validation``; ties go to the larger penalty.
    members: numbers of independent subsets in an ensemble, which votes by its mean response; 1 is
        a single subset.
    law: "exchangeable" needs only the eigendecomposition; "neuron" has a penalty for every neuron
        at the cost of one or more inverses per size, and is more accurate at small sizes; "auto"
        uses "neuron" for layers of up to ``WIDEST`` neurons, and draws small subsets. The
        other two use the law at every size.
    validation: labelled rows on which l2 is chosen; by default the test rows, which makes the
        prediction slightly optimistic, by what a choice among a few smooth curves can gain.
    sampling: numbers of draws and rows; by default those of `Sampling`, with fewer rows for more
        than 1,000 classes.

    Raises
    ------
    CriticalMassError: for a size, penalty, ensemble or law that does not exist, or rows and
        labels that do not fit.
    """
    basis = train if isinstance(train, Eigenbasis) else eigenbasis(train[0], np.asarray(train[1]))
    ks, rule = check_sizes(sizes, basis.n_neurons), _resolve_law(law, basis)
    n_members, penalties = _check_members(members), _check_penalties(l2)
    settings = sampling or _bounded_sampling(basis, int(test[0].shape[0]))
    whole_basis = basis
    basis, axes = basis.with_class_axes()
    test_rows = held_out(basis, *test, settings, axes)
    l2s, l2_full = np.full(ks.size, penalties[0]), penalties[0]
    if len(penalties) > 1:
        choice_rows = _bounded_rows(basis, _CHOICE_ROWS, _MOST_RESPONSES // 2)
        coarse = Sampling(
            draws=max(1, settings.draws // _DRAWS_DIVISOR),
            rows=min(settings.rows, choice_rows),
            seed=settings.seed,
        )
        rows = held_out(basis, *(test if validation is None else validation), coarse, axes)
        l2s, l2_full = _best_penalties(rows, ks, penalties, coarse)
    # The next size is solved while the heads of this one are scored.
    solved = _heads(basis, ks, l2s, rule)
    pairs = map_ahead(
        lambda h: (test_rows.scores(h, n_members, settings), h.mean), solved, workers=1, ahead=2
    )
    scores, means = map(list, zip(*pairs, strict=True))
    scores = test_rows.correct_to_all_rows(scores, means)
    accuracy = np.stack([score.accuracy for score in scores])
    accuracy_std = np.stack([score.accuracy_std for score in scores])
    source = np.full(accuracy.shape, LAW, dtype=f"<U{len(SUBSETS)}")
    source[ks == basis.n_neurons] = WHOLE
    is_drawn = (ks <= LARGEST_SAMPLED) & (ks < basis.n_neurons) & (law == "auto")
    if is_drawn.any() and (n_members == 1).any():
        cells = np.ix_(is_drawn, n_members == 1)
        drawn = _draw_subsets(whole_basis, test, ks[is_drawn], l2s[is_drawn], sampling)
        accuracy[cells], accuracy_std[cells], source[cells] = *drawn, SUBSETS
    mu = np.array([basis.full_penalty(k, value) for k, value in zip(ks, l2s, strict=True)])
    full_head = exchangeable_heads(basis, basis.n_neurons, l2_full).mean
    return RidgePrediction(
        sizes=ks,
        members=n_members,
        accuracy=accuracy,
        source=source,
        accuracy_std=accuracy_std,
        error=np.stack([score.error for score in scores]),
        error_std=np.stack([score.error_std for score in scores]),
        l2=l2s,
        penalty=mu,
        freedom=np.asarray(degrees_of_freedom(basis.eigenvalues, mu)),
        accuracy_full=float(test_rows.score_means([full_head], all_rows=True)[0][0]),
        law=rule,
        n_neurons=basis.n_neurons,
    )


def _draw_subsets(
    basis: Eigenbasis,
    test: Labelled,
    sizes: NDArray[np.int64],
    l2s: FloatArray,
    sampling: Sampling | None,
) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of the accuracy of drawn subsets, each (n_sizes, 1).

    ``sampling``: numbers of draws and rows; None: those of `sample_ridge`.
    """
    settings = sampling or Sampling(draws=ORDERS, rows=MOST_ROWS)
    settings = replace(settings, draws=max(settings.draws, 2))
    accuracy = np.empty((settings.draws, sizes.size))
    for l2 in np.unique(l2s):
        ks = sizes[l2s == l2].tolist()
        drawn = sample_ridge(basis, test, ks, l2s=(float(l2),), sampling=settings)
        accuracy[:, l2s == l2] = drawn.accuracy
    return accuracy.mean(axis=0)[:, None], accuracy.std(axis=0, ddof=1)[:, None]


def _bounded_sampling(basis: Eigenbasis, n_test: int) -> Sampling:
    """Return the default sampling; with thousands of classes, on fewer rows, and say so."""
    rows = _bounded_rows(basis, Sampling.rows, _MOST_RESPONSES)
    if rows < min(n_test, Sampling.rows):
        write_line(
            f"ridge law: with {basis.n_classes:,} classes drawn heads are scored on {rows:,} of "
            f"{n_test:,} test samples (predict_ridge takes a sampling of more rows)"
        )
    return Sampling(rows=rows)


def _bounded_rows(basis: Eigenbasis, rows: int, most_responses: int) -> int:
    """Return the number of rows, or fewer if their responses would be too many."""
    return min(rows, max(_FEWEST_ROWS, most_responses // basis.n_classes))


def _heads(
    basis: Eigenbasis, sizes: NDArray[np.int64], l2s: FloatArray, law: str
) -> Iterator[RidgeHeads]:
    """Yield the heads of every size; the solver of each starts from the size before."""
    start: FloatArray | None = None
    for size, l2 in zip(sizes.tolist(), l2s.tolist(), strict=True):
        if law == "exchangeable":
            yield exchangeable_heads(basis, size, l2)
        else:
            heads, start = neuron_heads(basis, size, l2, start)
            yield heads


def _best_penalties(
    rows: HeldOut, sizes: NDArray[np.int64], penalties: tuple[float, ...], sampling: Sampling
) -> tuple[FloatArray, float]:
    """Return the penalty of every size, and of the whole layer, by predicted accuracy."""
    basis, single = rows.basis, np.ones(1, dtype=np.int64)
    # In the eigenbasis a head is a division; rotating the rows once saves rotating every head.
    rotated = replace(rows, sample=rows.sample @ basis.vectors.astype(np.float32))
    ks = [*sizes.tolist(), basis.n_neurons]
    accuracy = np.empty((len(penalties), len(ks)))
    for i, l2 in enumerate(penalties):
        for j, k in enumerate(ks):
            heads = exchangeable_heads(basis, k, l2, in_eigenbasis=True)
            accuracy[i, j] = rotated.scores(heads, single, sampling).accuracy[0]
    # The first maximum from the largest penalty down: ties go to the larger penalty, as in the
    # probe.
    best = np.asarray(penalties)[::-1][np.argmax(accuracy[::-1], axis=0)]
    return best[:-1], float(best[-1])


def _check_penalties(l2: float | Sequence[float]) -> tuple[float, ...]:
    values = (float(l2),) if isinstance(l2, int | float) else tuple(float(v) for v in l2)
    if not values:
        raise CriticalMassError("l2=() but a probe needs at least one penalty; give e.g. 1e-2")
    for value in values:
        check_penalty(value)
    return tuple(sorted(set(values)))


def _check_members(members: Sequence[int]) -> NDArray[np.int64]:
    counts = np.asarray(members)
    if counts.ndim != 1 or counts.size == 0 or counts.dtype.kind not in "iu" or counts.min() < 1:
        raise CriticalMassError(f"members={members}; give ensemble sizes, each 1 or more")
    return counts.astype(np.int64)


def _resolve_law(law: str, basis: Eigenbasis) -> str:
    if law not in LAWS:
        raise unknown_name("law", law, LAWS)
    if law == "auto":
        return "neuron" if basis.n_neurons <= WIDEST else "exchangeable"
    return law
