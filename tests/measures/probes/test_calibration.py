"""The expected calibration error has the value of its definition."""

from __future__ import annotations

import numpy as np
import pytest

from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.calibration import calibration_error


def test_two_bins_by_hand() -> None:
    # Bin .6, .7: one of two is right, |.5 - .65| = .15. Bin .8, 1.0: both right, |1 - .9| = .1.
    result = calibration_error([1.0, 0.6, 0.8, 0.7], [True, False, True, True], n_bins=2)
    assert result.ece == pytest.approx((0.15 + 0.1) / 2)
    assert result.scores.mean() == pytest.approx(result.ece)
    v = (0.24 + 0.21) / 4, 0.16 / 4
    assert result.noise == pytest.approx(np.sqrt(2 / np.pi * np.array(v)).mean())


def test_equal_confidences_share_a_bin_whatever_their_order() -> None:
    right = np.arange(100) < 80
    for order in (right, right[::-1]):
        assert calibration_error(np.full(100, 0.9), order).ece == pytest.approx(0.1)


def test_a_calibrated_probe_shows_its_noise_and_an_overconfident_one_its_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1.0, (400, 600))
    hits = rng.random(p.shape) < p
    calibrated = [calibration_error(a, b) for a, b in zip(p, hits, strict=True)]
    ece, noise = (np.mean([getattr(c, name) for c in calibrated]) for name in ("ece", "noise"))
    assert ece == pytest.approx(noise, rel=0.03)
    p = rng.uniform(0.6, 1.0, 100000)
    over = calibration_error(p, rng.random(p.size) < p - 0.1)
    assert over.ece == pytest.approx(0.1, abs=0.005)


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(CriticalMassError, match="outside 0 to 1"):
        calibration_error([0.5, 1.2], [True, False])
    with pytest.raises(CriticalMassError, match=r"\(2,\).*\(3,\)"):
        calibration_error([0.5, 0.6], [True, False, True])
    with pytest.raises(CriticalMassError, match="n_bins=0"):
        calibration_error([0.5], [True], n_bins=0)
