"""The spread of resampled means, for crossed seeds and test samples."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from criticalmass.analysis.bootstrap import (
    SubsetNoise,
    averaged_over_seeds,
    resampled_means,
    seed_counts,
    with_discordant_samples,
)

N_SEEDS, N_TEST, DRAWS = 20, 500, 4000


def spread(scores: NDArray[np.float64]) -> float:
    """Standard deviation of the mean over seeds, as the hierarchical bootstrap draws it."""
    draws = resampled_means(scores, DRAWS, seed=0)
    counts = seed_counts(len(scores), DRAWS, np.random.default_rng(1))
    columns = np.arange(len(scores), dtype=np.intp)[None]
    return float(averaged_over_seeds(draws, columns, counts, 0.95)[:, 0].std())


def balanced(rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    """Noise whose row and column means are 0: the interaction of seed and sample alone."""
    noise = rng.standard_normal(shape)
    noise -= noise.mean(axis=0, keepdims=True)
    return np.asarray(noise - noise.mean(axis=1, keepdims=True))


def test_seeds_alone_spread_as_their_mean_does() -> None:
    seeds = np.random.default_rng(0).standard_normal((N_SEEDS, 1))
    scores = np.repeat(seeds, N_TEST, axis=1)
    want = seeds.std(ddof=1) / np.sqrt(N_SEEDS)
    # Student's t over z, 20 seeds: 2.093 / 1.960.
    assert spread(scores) == pytest.approx(want * 2.0930 / 1.9600, rel=0.03)


def test_samples_that_all_seeds_share_spread_as_one_mean() -> None:
    samples = np.random.default_rng(0).standard_normal((1, N_TEST))
    scores = np.repeat(samples, N_SEEDS, axis=0)
    assert spread(scores) == pytest.approx(samples.std() / np.sqrt(N_TEST), rel=0.04)


def test_noise_of_seeds_on_samples_counts_once() -> None:
    # Seeds that differ only by the luck of the test samples: N_SEEDS x N_TEST draws of one noise.
    scores = np.random.default_rng(3).standard_normal((N_SEEDS, N_TEST))
    once = 1.0 / np.sqrt(N_SEEDS * N_TEST)
    assert spread(scores) < 1.25 * once
    assert spread(scores) > 0.95 * once


def test_seeds_that_differ_no_more_than_their_samples_add_nothing() -> None:
    scores = balanced(np.random.default_rng(5), N_SEEDS, N_TEST)
    assert spread(scores) == pytest.approx(0.0, abs=1e-6)


def test_parts_add_up() -> None:
    rng = np.random.default_rng(4)
    seeds, samples = rng.standard_normal((N_SEEDS, 1)), 10.0 * rng.standard_normal((1, N_TEST))
    scores = seeds + samples + balanced(rng, N_SEEDS, N_TEST)
    seed_variance = (seeds.var(ddof=1) - 1.0 / N_TEST) / N_SEEDS * (2.0930 / 1.9600) ** 2
    assert spread(scores) == pytest.approx(
        np.sqrt(seed_variance + samples.var() / N_TEST), rel=0.04
    )


def test_scores_averaged_at_once_are_rows_drawn_one_by_one() -> None:
    """Averaging first leaves out only the noise of the draws of what test samples explain."""
    from criticalmass.analysis.bootstrap import averaged_scores

    rng = np.random.default_rng(3)
    hard = rng.random(800)
    scores = (rng.random((8, 800)) * 0.6 + hard < 0.9).astype(np.float32)
    columns = np.array([[0, 1, 2, 3], [4, 5, -1, 7]])
    counts = seed_counts(4, 4000, rng)
    draws = resampled_means(scores, 4000, seed=5)
    expected = averaged_over_seeds(draws, columns, counts, 0.95)
    means = np.stack([draws[:, rows[rows >= 0]].mean(axis=1) for rows in columns], axis=1)
    means_first = averaged_scores(scores, list(columns), means, counts, 0.95)
    np.testing.assert_allclose(means_first.std(axis=0), expected.std(axis=0), rtol=0.02)
    np.testing.assert_allclose(means_first, expected, atol=0.15 * float(expected.std()))


def test_the_loss_of_a_few_of_a_hundred_samples_is_covered() -> None:
    """A subset that answers 2 % fewer samples than the whole layer: often only 0 or 1 is seen."""
    rng, n, covered = np.random.default_rng(0), 100, {"measured": 0, "with two more": 0}
    for seed in range(300):
        whole = rng.random(n) < 0.9
        scores = np.stack([whole, whole & (rng.random(n) < 0.98)]).astype(np.float32)
        more = with_discordant_samples(scores, np.array([True, False]))
        for name, samples in (("measured", scores), ("with two more", more)):
            draws = resampled_means(samples, 300, seed=seed)
            low, high = np.quantile(draws[:, 1] / draws[:, 0], [0.025, 0.975])
            covered[name] += low <= 0.98 <= high
    assert covered["measured"] < 0.9 * 300, "without them this case is missed"
    assert covered["with two more"] >= 0.93 * 300


def test_the_spread_of_a_similarity_is_not_reduced_by_its_test_samples() -> None:
    """The spread of a mean over samples has their noise in it, that of CKA has not."""
    normals = np.random.default_rng(0).standard_normal((20_000, 1))
    changes = {
        is_mean: SubsetNoise(np.array([0.5]), normals, is_mean).changes(0, 4, explained=0.16)
        for is_mean in (True, False)
    }
    assert changes[True].std() == pytest.approx(0.3 / 2, rel=0.02)
    assert changes[False].std() == pytest.approx(0.5 / 2, rel=0.02)
