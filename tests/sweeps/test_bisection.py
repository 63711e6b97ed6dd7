"""The bisection for a critical mass, on stats curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from criticalmass.sweeps.bisection import (
    SearchProblem,
    SearchResult,
    SizeStats,
    next_requests,
    search_result,
    seed_schedule,
)

Curve = NDArray[np.float64]  # (n_seeds, n_neurons): value at size k in column k - 1


def make_problem(
    d: int, threshold: float, grid: tuple[int, ...], **changes: object
) -> SearchProblem:
    problem = SearchProblem(
        grid=grid,
        n_neurons=d,
        threshold=threshold,
        seed_counts=(5, 10, 20),
        n_base_seeds=5,
        level=0.95,
        full_layer_passes=True,
        max_cells=100_000,
        is_random=True,
    )
    return replace(problem, **changes)  # type: ignore[arg-type]


def run_search(
    problem: SearchProblem, curve: Curve
) -> tuple[SearchResult, dict[int, SizeStats], int]:
    """Search to the end; return the result, the measured sizes, and the number of steps."""
    stats = {size: SizeStats(0, curve[: problem.n_base_seeds, size - 1]) for size in problem.grid}
    for steps in range(10_000):
        requests = next_requests(problem, stats)
        if not requests:
            return search_result(problem, stats), stats, steps
        for size, n_seeds in requests:
            assert 1 <= size <= problem.n_neurons
            assert n_seeds > (stats[size].n_seeds if size in stats else 0)
            stats[size] = SizeStats(n_seeds, curve[:n_seeds, size - 1])
    raise AssertionError("the search does not end")


def same_for_all(values: NDArray[np.float64], n_seeds: int = 20) -> Curve:
    return np.tile(values, (n_seeds, 1))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 200), st.data())
def test_a_step_is_located_to_one_neuron(d: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, d))
    grid = tuple(sorted(data.draw(st.sets(st.integers(1, d), min_size=1, max_size=8))))
    is_random = data.draw(st.booleans())
    seed_counts = (5, 10, 20) if is_random else (1,)
    problem = make_problem(
        d, 0.5, grid, seed_counts=seed_counts, is_random=is_random, n_base_seeds=seed_counts[0]
    )
    result, stats, _ = run_search(
        problem, same_for_all(np.where(np.arange(1, d + 1) >= step, 0.9, 0))
    )
    assert (result.critical_mass, result.low, result.high) == (step, step, step)
    assert result.short_of is None
    # Halving: no more sizes than bits of the layer's width, plus the ends of the grid.
    assert len(stats) <= len(grid) + int(np.ceil(np.log2(d))) + 2


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.floats(0.0, 0.05), st.integers(5, 60))
def test_the_two_neighbours_have_the_same_seeds(seed: int, spread: float, d: int) -> None:
    rng = np.random.default_rng(seed)
    noise = spread * rng.standard_normal((20, d)).cumsum(axis=1) / np.sqrt(d)
    curve = 1.0 - np.exp(-np.arange(1, d + 1) / (d / 4)) + noise
    problem = make_problem(d, 0.7, (max(1, d // 8), d // 2, d))
    result, stats, _ = run_search(problem, curve)
    mass = result.critical_mass
    assert mass is not None
    assert result.low is not None
    assert result.high is not None
    assert result.low <= mass <= result.high
    if mass < d:
        assert stats[mass].values.mean() >= 0.7
    if mass > 1:
        assert stats[mass - 1].values.mean() < 0.7
        assert mass == d or stats[mass].n_seeds == stats[mass - 1].n_seeds
    assert (result.short_of is None) == (result.low == result.high)


def noisy(rng: np.random.Generator, d: int, spread: float) -> Curve:
    """Seeds around a rising curve; each deviates from it slowly along the sizes."""
    k = np.arange(1, d + 1)
    walk = rng.standard_normal((20, d)).cumsum(axis=1)
    bridge = (walk - walk[:, -1:] * k / d) / np.sqrt(k * (d - k + 1) / d)
    return np.asarray(0.8 * (1.0 - np.exp(-k / 60.0)) + spread * bridge)


def test_the_interval_covers_the_true_critical_mass() -> None:
    d, threshold = 400, 0.7
    truth = int(np.argmax(noisy(np.random.default_rng(0), d, 0.0)[0] >= threshold)) + 1
    rng = np.random.default_rng(1)
    grid = (4, 20, 40, 80, 160, 280, 400)
    results = [
        run_search(make_problem(d, threshold, grid), noisy(rng, d, 0.01))[0] for _ in range(60)
    ]
    holds = [one.low <= truth <= one.high for one in results]  # type: ignore[operator]
    assert np.mean(holds) >= 0.95
    # Not by being wide: a seed's spread of 0.01 is some eight neurons at this slope.
    assert np.mean([one.high - one.low for one in results]) < 20  # type: ignore[operator]
    assert {one.short_of for one in results} == {"seeds"}


def test_a_size_near_the_bar_gets_more_seeds_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    _, stats, _ = run_search(make_problem(400, 0.7, (40, 80, 160, 280)), noisy(rng, 400, 0.003))
    assert stats[160].n_seeds == 5
    assert stats[280].n_seeds == 0
    assert max(one.n_seeds for one in stats.values()) == 20


def test_a_size_that_passes_by_luck_is_corrected() -> None:
    # At 8 neurons the five seeds of the grid pass by luck; more seeds show that the size fails.
    curve = same_for_all(np.where(np.arange(1, 33) >= 20, 0.9, 0.1))
    curve[:5, 7] = [0.52, 0.53, 0.3, 0.7, 0.51]
    curve[5:, 7] = np.linspace(0.1, 0.3, 15)
    result, stats, _ = run_search(make_problem(32, 0.5, (4, 8, 16, 24)), curve)
    assert (result.critical_mass, result.low, result.high) == (20, 20, 20)
    assert stats[8].n_seeds == 10


def test_below_the_floor_and_down_to_one_neuron() -> None:
    rising = np.arange(1, 101) / 100
    result, _, _ = run_search(make_problem(100, 0.07, (20, 50)), same_for_all(rising))
    assert (result.critical_mass, result.low, result.high) == (7, 7, 7)
    result, _, _ = run_search(make_problem(100, 0.005, (20, 50)), same_for_all(rising))
    assert (result.critical_mass, result.low, result.high) == (1, 1, 1)


def test_not_reached_below_the_whole_layer() -> None:
    flat = same_for_all(np.full(50, 0.1))
    result, stats, _ = run_search(make_problem(50, 0.5, (10, 20)), flat)
    # Its value is that of the whole layer by definition, so it is never requested.
    assert (result.critical_mass, result.low, result.high) == (50, 50, 50)
    assert 50 not in stats
    result, stats, _ = run_search(make_problem(50, 0.5, (10, 20), full_layer_passes=False), flat)
    assert result == SearchResult(None, None, None, 5, 5, None)
    assert 50 in stats


def test_a_curve_that_falls_again_has_its_first_tested_crossing_refined() -> None:
    values = np.zeros(100)
    values[29:45] = 0.9
    values[79:] = 0.9
    result, _, _ = run_search(make_problem(100, 0.5, (10, 40, 60, 90)), same_for_all(values))
    assert (result.critical_mass, result.low, result.high) == (30, 30, 30)
    result, _, _ = run_search(make_problem(100, 0.5, (10, 60, 90)), same_for_all(values))
    assert result.critical_mass == 80


@pytest.mark.parametrize("budget", [0, 4, 5, 12, 40, 77])
def test_the_budget_of_cells_is_kept_and_reported(budget: int) -> None:
    curve = noisy(np.random.default_rng(0), 400, 0.01)
    problem = make_problem(400, 0.7, (40, 80, 160, 280), max_cells=budget)
    result, stats, _ = run_search(problem, curve)
    n_extra = sum(max(0, one.n_seeds - (5 if k in problem.grid else 0)) for k, one in stats.items())
    assert result.n_cells == n_extra <= budget
    assert result.short_of == "cells"
    assert result.low is not None
    assert result.high is not None
    assert result.critical_mass is not None
    assert result.low <= result.critical_mass <= result.high


def test_seeds_without_a_value_decide_nothing() -> None:
    problem = make_problem(16, 0.5, (8,))
    stats = {8: SizeStats(0, np.full(5, 0.9))}
    while requests := next_requests(problem, stats):
        for size, n_seeds in requests:
            values = np.full(n_seeds, 0.9 if size >= 6 else 0.1)
            stats[size] = SizeStats(n_seeds, values[: 0 if size == 4 else n_seeds])
    result = search_result(problem, stats)
    assert result.critical_mass == 6
    assert (result.low, result.high) == (6, 6)


def test_seed_counts_double_from_the_grid_to_the_budget() -> None:
    assert seed_schedule(5, 20) == (5, 10, 20)
    assert seed_schedule(5, 50) == (5, 10, 20, 40, 50)
    assert seed_schedule(2, 20) == (5, 10, 20)
    assert seed_schedule(2, 3) == (3,)
    assert seed_schedule(20, 5) == (20,)
    assert seed_schedule(1, 1) == (1,)


def test_one_seed_of_a_random_selector_decides_nothing() -> None:
    curve = same_for_all(np.where(np.arange(1, 33) >= 20, 0.9, 0.1))
    problem = make_problem(32, 0.5, (8, 24), seed_counts=(1,), n_base_seeds=1)
    result, _, _ = run_search(problem, curve)
    assert (result.critical_mass, result.low, result.high, result.short_of) == (20, 1, 32, "seeds")


def test_two_values_that_agree_by_accident_decide_nothing() -> None:
    problem = make_problem(16, 0.5, (8, 12), full_layer_passes=False)
    stats = {8: SizeStats(20, np.full(20, 0.1)), 9: SizeStats(20, np.full(2, 0.9))}
    result = search_result(problem, stats)
    assert (result.critical_mass, result.low, result.high) == (9, 9, 16)
    enough = search_result(problem, {**stats, 9: SizeStats(20, np.full(5, 0.9))})
    assert (enough.low, enough.high) == (9, 9)
