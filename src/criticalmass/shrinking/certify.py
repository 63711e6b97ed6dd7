"""Tests of the best candidate's sizes on the test split, from the largest size down."""

from __future__ import annotations

from dataclasses import dataclass

from criticalmass.shrinking.candidates import Candidate, Goal, geometric_sizes
from criticalmass.shrinking.paired_tests import count_passes
from criticalmass.shrinking.probe_evaluator import Evaluator, PairedCorrect, SubsetScores

# Multiples of the size that the selection part found, fixed before the test split is read.
_STEPS = (3.0, 2.0, 1.5, 1.3, 1.2, 1.12, 1.06, 1.0, 0.94, 0.88, 0.82, 0.76, 0.7)
# Small classes may need a larger size. Only a few sizes above those: they cost most.
_N_ABOVE = 4


@dataclass(frozen=True, eq=False)
class SubsetCertificate:
    """Results of the tests on the test split.

    Attributes
    ----------
    candidate: the tested selector, order and precision.
    scores: scores of the tested sizes, ascending.
    passed: (n_sizes,) whether all parts of the promise pass at the level.
    index: of the smallest size before the first failure, counted from the largest size down;
        None if the largest size fails.
    """

    candidate: Candidate
    scores: SubsetScores
    passed: tuple[bool, ...]
    index: int | None


def sizes_to_test(candidate: Candidate, n_neurons: int) -> tuple[int, ...]:
    """Return the sizes to test, ascending: around the needed size, up to the largest allowed."""
    if candidate.n_needed is None:
        return (candidate.n_max,)
    # The whole layer in float32 is the reference itself, so it is not tested.
    top = candidate.n_max - (candidate.n_max == n_neurons and candidate.precision == "float32")
    near = {round(step * candidate.n_needed) for step in _STEPS}
    above = geometric_sizes(min(top, max(near)), top, _N_ABOVE) if top else ()
    return tuple(sorted({size for size in near | set(above) if 1 <= size <= top} or {n_neurons}))


def certify(evaluator: Evaluator, candidate: Candidate, goal: Goal) -> SubsetCertificate:
    """Test a candidate's sizes on the test split.

    Parameters
    ----------
    evaluator: trains on all training rows, scores on the test split.
    candidate: the best candidate on the selection part.
    goal: what must be kept, at which confidence.
    """
    sizes = sizes_to_test(candidate, candidate.order.size)
    scores = evaluator.evaluate(candidate.order, sizes, candidate.precision)
    passed = tuple(passes(scores, index, goal) for index in range(len(sizes)))
    n_passed = count_passes(passed[::-1])
    return SubsetCertificate(candidate, scores, passed, len(sizes) - n_passed if n_passed else None)


def passes(scores: SubsetScores, index: int, goal: Goal) -> bool:
    """Return whether all parts of the promise pass for ``sizes[index]``, each at the level."""
    if scores.bound(index, goal.level) < goal.keep:
        return False
    if goal.worst_class_drop is None or not isinstance(scores, PairedCorrect):
        return True
    return scores.passes_class_tests(index, goal.worst_class_drop, goal.level)


def tabulate_tests(
    certificate: SubsetCertificate, goal: Goal
) -> list[dict[str, float | int | bool]]:
    """Return one record per tested size; with the largest loss of a class if classes count."""
    scores = certificate.scores
    records: list[dict[str, float | int | bool]] = []
    for index, size in enumerate(scores.sizes):
        record: dict[str, float | int | bool] = {
            "n_kept": size,
            "value": float(scores.values[index]),
            "bound": scores.bound(index, goal.level),
        }
        if goal.worst_class_drop is not None and isinstance(scores, PairedCorrect):
            record["worst_class_drop"] = scores.worst_drop(index)
        records.append(record | {"holds": certificate.passed[index]})
    return records
