"""Which measures a layer can be shrunk by, and who judges each."""

from __future__ import annotations

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures import MEASURES
from criticalmass.shrinking.judging import Judge, ProbeJudge
from criticalmass.shrinking.parts import Parts


def check_measure(measure: str) -> None:
    """Refuse a name that is no measure, with a did-you-mean."""
    if measure not in MEASURES:
        raise unknown_name("measure", measure, MEASURES)


def judge_for(measure: str, parts: Parts, *, certifying: bool) -> Judge:
    """Return who judges a measure: on the selection part, or on the held-out one.

    Raises
    ------
    CriticalMassError: for a probe on data of fewer than two classes.
    """
    check_measure(measure)
    learned, judged = (
        (parts.train, parts.certified) if certifying else (parts.fitted, parts.selected)
    )
    if MEASURES[measure].is_probe:
        if len(parts.class_names) < 2:
            raise CriticalMassError(
                f"measure={measure!r} needs labels of at least 2 classes, the store has "
                f"{len(parts.class_names)}; ask for measure='retrieval' or 'cka'"
            )
        return ProbeJudge(measure, learned, judged, len(parts.class_names))
    raise CriticalMassError(f"no judge for {measure!r}")
