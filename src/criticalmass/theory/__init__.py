"""Laws that predict the curves of random subsets from second moments, without a sweep.

Derivations, limits and measured errors: docs/theory.md.
"""

from __future__ import annotations

from criticalmass.theory.cka import (
    ExpectedSimilarity,
    cka_critical_mass,
    cka_critical_mass_interval,
    expected_cka,
    expected_debiased_cka,
)
from criticalmass.theory.exchangeability import Exchangeability, exchangeability_test
from criticalmass.theory.spectrum import correlation, diagonal_share, participation_ratio
from criticalmass.theory.what_if import decorrelation_what_if, width_what_if

__all__ = [
    "Exchangeability",
    "ExpectedSimilarity",
    "cka_critical_mass",
    "cka_critical_mass_interval",
    "correlation",
    "decorrelation_what_if",
    "diagonal_share",
    "exchangeability_test",
    "expected_cka",
    "expected_debiased_cka",
    "participation_ratio",
    "width_what_if",
]
