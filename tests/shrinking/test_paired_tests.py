"""Score tests against their closed forms, and how often their bounds cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.betting import count_rejected
from criticalmass.shrinking.paired_tests import (
    PairedCounts,
    count_passes,
    drop_bound,
    drop_p_value,
    ratio_bound,
    ratio_p_value,
    score_ratio_bound,
)

COUNTS = st.integers(0, 400)
PAIRS = st.builds(PairedCounts, COUNTS, COUNTS, COUNTS, COUNTS)


def tango(pairs: PairedCounts, drop: float) -> float:
    """p-value by the closed form of Tango 1998, for a loss of at least ``drop``."""
    n, lost, gained = pairs.n, pairs.lost, pairs.gained
    b = -lost - gained + (2 * n - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    share = (math.sqrt(b * b - 8 * n * c) - b) / (4 * n)
    z = (lost - gained - n * drop) / math.sqrt(n * (2 * share + drop * (1 - drop)))
    return float(norm.cdf(z))


@given(PAIRS, st.floats(0.01, 0.5))
def test_a_drop_is_tested_as_by_tango(pairs: PairedCounts, drop: float) -> None:
    if pairs.n == 0 or pairs.lost - pairs.gained >= pairs.n * drop:
        assert drop_p_value(pairs, drop) == 1.0
    else:
        assert drop_p_value(pairs, drop) == pytest.approx(tango(pairs, drop), abs=1e-9)


@given(PAIRS, st.floats(0.5, 1.0))
def test_a_ratio_is_tested_as_by_tang(pairs: PairedCounts, keep: float) -> None:
    """Tang, Tang and Chan 2003: score statistic with the share p01 of their quadratic."""
    a, b, c = float(pairs.both), float(pairs.gained), float(pairs.lost)
    n = float(pairs.n)
    excess = a + b - keep * (a + c)
    if n == 0 or excess <= 1e-9:
        return
    # With x1 = a + b and x2 = a + c the likelihood under p1 = keep * p2 is largest at the root
    # of A p^2 + B p + C, p the share of samples that only the second has.
    big_a = n * (1 + keep)
    big_b = (a + c) * keep**2 - (a + b + 2 * c)
    big_c = c * (1 - keep) * (a + b + c) / n
    only_second = (-big_b + math.sqrt(max(0.0, big_b**2 - 4 * big_a * big_c))) / (2 * big_a)
    variance = n * ((1 + keep) * only_second + (a + b + c) / n * (keep - 1))
    p = norm.sf(excess / math.sqrt(variance)) if variance > 0 else 0.0
    assert ratio_p_value(pairs, keep) == pytest.approx(p, abs=1e-6)


def test_a_ratio_by_hand() -> None:
    """80 both, 6 lost, 2 gained, 12 neither at keep .9: checked against the closed form above."""
    p = ratio_p_value(PairedCounts(80, 6, 2, 12), 0.9)
    assert 0.01 < p < 0.2


def test_few_samples_without_a_disagreement_do_not_pass() -> None:
    """Without a loss among n, a drop of .05 is ruled out at 95 % from about 60 samples on."""
    assert drop_p_value(PairedCounts(20, 0, 0, 0), 0.05) > 0.05
    assert drop_p_value(PairedCounts(70, 0, 0, 0), 0.05) < 0.05
    assert 0.0 < drop_bound(PairedCounts(20, 0, 0, 0)) < 0.2


@given(PAIRS, st.sampled_from([0.9, 0.95, 0.99]))
def test_bounds_invert_the_tests(pairs: PairedCounts, level: float) -> None:
    if pairs.n == 0:
        assert ratio_bound(pairs, level) == 0.0
        return
    bound = ratio_bound(pairs, level)
    if 1e-3 < bound < 1.9:
        assert ratio_p_value(pairs, bound - 1e-5) <= 1 - level + 1e-9
        assert ratio_p_value(pairs, bound + 1e-4) > 1 - level
    worst = drop_bound(pairs, level)
    assert worst >= pairs.drop - 1e-6
    if 1e-3 < worst < 0.99:
        assert drop_p_value(pairs, worst + 1e-5) <= 1 - level + 1e-9


@pytest.mark.parametrize("shares", [(0.7, 0.1, 0.05, 0.15), (0.85, 0.03, 0.02, 0.1)])
def test_bounds_cover(shares: tuple[float, ...]) -> None:
    """Of 400 samples of 300, about 95 % give a bound on the right side; 4 sigma is 4.4 points."""
    rng = np.random.default_rng(0)
    both, lost, gained, _ = shares
    ratio, drop = (both + gained) / (both + lost), lost - gained
    drawn = [PairedCounts(*(int(c) for c in rng.multinomial(300, shares))) for _ in range(400)]
    assert np.mean([ratio_bound(p) <= ratio for p in drawn]) > 0.905
    assert np.mean([drop_bound(p) >= drop for p in drawn]) > 0.905
    assert np.mean([ratio_bound(p) <= ratio for p in drawn]) < 0.99


def test_counting() -> None:
    pairs = PairedCounts.count([1, 1, 0, 0, 1], [1, 0, 1, 0, 1])
    assert pairs == PairedCounts(both=2, lost=1, gained=1, neither=1)
    assert pairs.ratio == 1.0
    assert pairs.drop == 0.0
    with pytest.raises(CriticalMassError, match=r"shape \(2,\)"):
        PairedCounts.count([1, 0], [1, 0, 1])


def test_the_bound_holds_for_skewed_scores() -> None:
    """Student's bound is false in about a fifth of these samples, with or without pairing."""
    rng = np.random.default_rng(1)
    scores, ones = (rng.random((200, 100)) < 0.97).astype(float), np.ones(100)
    is_false = [score_ratio_bound(draw, ones) > 0.97 for draw in scores]
    assert np.mean(is_false) <= 0.1, "three standard errors above .05"
    # The same ratio of paired scores, where the whole layer has scores of one half.
    is_false = [score_ratio_bound(draw / 2, ones / 2) > 0.97 for draw in scores[:60]]
    assert np.mean(is_false) <= 0.1


def test_a_true_ratio_is_rejected_as_often_as_stated() -> None:
    """Near the level, and not only below it: the test does not waste it."""
    rng = np.random.default_rng(2)
    scores = (rng.random((2000, 400)) < 0.9).astype(float)
    n_false = sum(count_rejected(np.array([0.9]), draw, np.ones(400), 0.05) for draw in scores)
    assert 0.02 < n_false / 2000 < 0.065


def test_the_bound_is_near_the_gaussian_one_on_many_samples() -> None:
    rng = np.random.default_rng(1)
    scores = rng.beta(8, 2, (8, 2000))
    margin = 1.645 * scores.std(axis=1) / np.sqrt(2000)
    margins = scores.mean(axis=1) - [score_ratio_bound(draw, np.ones(2000)) for draw in scores]
    assert 1.0 <= np.mean(margins) / np.mean(margin) < 1.25


def test_equal_scores_do_not_prove_that_all_scores_are_equal() -> None:
    ones = np.ones(100)
    assert 0.9 < score_ratio_bound(ones, ones) <= 0.05 ** (1 / 100), "Clopper and Pearson's bound"
    assert score_ratio_bound(ones[:10], ones[:10]) <= 0.05 ** (1 / 10)
    with pytest.raises(CriticalMassError, match=r"\[0, 1\]"):
        score_ratio_bound([0.5, 1.5], [1.0, 1.0])
    with pytest.raises(CriticalMassError, match=r"\[0, 1\]"):
        score_ratio_bound([0.5, 0.5], [1.0, -1.0])


@pytest.mark.parametrize(
    ("passes", "n_passed"), [([], 0), ([True, True], 2), ([True, False, True], 1), ([False], 0)]
)
def test_the_first_failure_ends_the_sequence(passes: list[bool], n_passed: int) -> None:
    assert count_passes(passes) == n_passed


def test_an_invalid_level() -> None:
    with pytest.raises(CriticalMassError, match=r"level=1\.5"):
        ratio_bound(PairedCounts(1, 1, 1, 1), 1.5)


def test_ratio_of_means_of_scores() -> None:
    """Paired scores with a true ratio of .9: the bound is below it in 95 % of samples or more."""
    rng = np.random.default_rng(2)
    below = []
    for _ in range(60):
        full = rng.uniform(0.2, 1.0, 250)
        subset = np.clip(0.9 * full + rng.uniform(-0.1, 0.1, 250), 0.0, 1.0)
        below.append(score_ratio_bound(subset, full) <= 0.9)
    assert np.mean(below) > 0.86
    assert score_ratio_bound(np.ones(500), np.full(500, 0.5)) > 1.5
    assert score_ratio_bound(np.ones(500), np.full(500, 0.25)) <= 2.0
    assert score_ratio_bound(np.zeros(50), np.zeros(50)) == 0.0
    assert score_ratio_bound(np.zeros(50), np.full(50, 0.5)) == 0.0
    with pytest.raises(CriticalMassError, match="same samples for both"):
        score_ratio_bound(np.ones(5), np.ones(6))
