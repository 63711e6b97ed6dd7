"""The promise: sizes of the winning order, tested on held-out data from the largest downwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from criticalmass.shrinking.candidates import Candidate, Goal, geometric
from criticalmass.shrinking.paired_tests import descend
from criticalmass.shrinking.probe_evaluator import Findings, Hits, IndexArray, Judge

# Multiples of the size that the selection part asks for, fixed before the held-out data are seen.
_STEPS = (3.0, 2.0, 1.5, 1.3, 1.2, 1.12, 1.06, 1.0, 0.94, 0.88, 0.82, 0.76, 0.7)
# From there to the top a promise on small classes may need more: few sizes, as they cost most.
_ABOVE = 4


@dataclass(frozen=True, eq=False)
class Certificate:
    """What the held-out data showed of the winning candidate.

    Attributes
    ----------
    candidate: selector, order and precision.
    findings: on the sizes that were tried, ascending.
    held: for each of them, whether all that was asked holds at the level.
    place: of the smallest size before the first failure, counted from above; None if even the
        largest fails.
    """

    candidate: Candidate
    findings: Findings
    held: tuple[bool, ...]
    place: int | None


def sequence(candidate: Candidate, n_neurons: int) -> tuple[int, ...]:
    """Sizes to test, ascending: around the needed size, up to the largest there is room for."""
    if candidate.needed is None:
        return (candidate.most,)
    # The whole layer in full precision is what others are compared with: nothing to test.
    top = candidate.most - (candidate.most == n_neurons and candidate.precision == "float32")
    near = {round(step * candidate.needed) for step in _STEPS}
    far = geometric(min(top, max(near)), top, _ABOVE) if top else ()
    return tuple(sorted({size for size in near | set(far) if 1 <= size <= top} or {n_neurons}))


def certify(judge: Judge, candidate: Candidate, goal: Goal) -> Certificate:
    """Test a candidate's sizes on the part of the data that took no part in choosing it.

    Parameters
    ----------
    judge: trained on all training rows, scores on held-out ones.
    candidate: the winner of the competition.
    goal: what must be kept, at which confidence.
    """
    order: IndexArray = candidate.order
    sizes = sequence(candidate, order.size)
    findings = judge.judge(order, sizes, candidate.precision)
    held = tuple(holds(findings, place, goal) for place in range(len(sizes)))
    kept = descend(held[::-1])
    return Certificate(candidate, findings, held, len(sizes) - kept if kept else None)


def holds(findings: Findings, place: int, goal: Goal) -> bool:
    """Whether all parts of the promise hold at a size, each at the level."""
    if findings.bound(place, goal.level) < goal.keep:
        return False
    if goal.worst_class_drop is None or not isinstance(findings, Hits):
        return True
    return findings.spares_classes(place, goal.worst_class_drop, goal.level)


def tried(certificate: Certificate, goal: Goal) -> Sequence[dict[str, float | int | bool]]:
    """Make one record per tried size; the largest loss of a class where classes count."""
    findings = certificate.findings
    records: list[dict[str, float | int | bool]] = []
    for i, size in enumerate(findings.sizes):
        record: dict[str, float | int | bool] = {
            "n_kept": size,
            "value": float(findings.values[i]),
            "bound": findings.bound(i, goal.level),
        }
        if goal.worst_class_drop is not None and isinstance(findings, Hits):
            record["worst_class_drop"] = findings.worst_drop(i)
        records.append(record | {"holds": certificate.held[i]})
    return records
