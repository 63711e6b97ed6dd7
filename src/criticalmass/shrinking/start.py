"""Where the search for the smallest subset starts: at the size that the laws predict."""

from __future__ import annotations

import numpy as np

from criticalmass.measures.protocol import EXPECTED
from criticalmass.measures.registry import MEASURES
from criticalmass.shrinking.parts import Parts

# Sizes around the predicted one: chosen subsets need fewer than random ones, rarely more.
_LOWEST, _HIGHEST, _STEP = 0.25, 2.0, 2**0.5
_SIMILAR = ("cka", "cka-debiased")


def expected_size(measure: str, parts: Parts, keep: float) -> int | None:
    """Predict how many random neurons keep a share of the whole layer's value.

    CKA by its own law, probes by that of ridge probes, from the rows of the competition. A start
    of a search, no promise: what it misses costs a look or two.

    Parameters
    ----------
    measure: by which the layer is shrunk.
    parts: of the data; the promise's samples are not looked at.
    keep: share of the whole layer's value, in (0, 1].

    Returns
    -------
    Neurons, or None where no law speaks: another measure, or data that defeat it.
    """
    from criticalmass.core.moments import moments
    from criticalmass.theory.eigenbasis import eigenbasis
    from criticalmass.theory.prediction import cka_curve, ridge_curve

    try:
        if measure in _SIMILAR:
            curve = cka_curve(moments(parts.selected.rows).scatter)
        elif MEASURES[measure].is_probe:
            fitted, judged = parts.fitted, parts.selected
            basis = eigenbasis(fitted.rows, fitted.labels, n_classes=len(parts.class_names))
            curve = ridge_curve(basis, judged.rows, judged.labels, law="exchangeable")
        else:
            return None
        return curve.critical_mass(keep, 1, 0.95)[0]
    except EXPECTED:
        return None


def sizes_around(expected: int, smallest: int, most: int) -> tuple[int, ...]:
    """Sizes of the first look: dense around the predicted one, and both ends of the range.

    Parameters
    ----------
    expected: predicted size.
    smallest, most: the range, at least 1.

    Returns
    -------
    At most nine sizes, ascending.
    """
    steps = round(np.log(_HIGHEST / _LOWEST) / np.log(_STEP))
    near = np.round(expected * _LOWEST * _STEP ** np.arange(steps + 1))
    inside = near[(near > smallest) & (near < most)].astype(int)
    return tuple(int(size) for size in np.unique([min(smallest, most), *inside, most]))
