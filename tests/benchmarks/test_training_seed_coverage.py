"""The simulated networks of `benchmarks.training_seeds` have the assumed critical masses."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.training_seeds import CASES, DELTA, Case, Shared, main, network


def test_a_simulated_critical_mass_is_proportional_to_the_scale() -> None:
    """FULL (1 - exp(-(k/scale)^0.7)) reaches 90 % of FULL at k = scale ln(10)^(1/0.7)."""
    case = Case(0.0, subsets=0.0, n_test=40_000, n_subsets=2)
    rng = np.random.default_rng(0)
    for scale in (3.0, 9.0):
        shared = Shared(rng.standard_normal(case.n_test), np.zeros(2))
        curve = network(case, rng, shared, scale, 0.9)
        mass = curve.mass(*curve.bar(DELTA))
        assert mass.value == pytest.approx(scale * np.log(10) ** (1 / 0.7), rel=0.05)


def test_the_table_has_a_row_per_case_and_number_of_training_seeds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = next(iter(CASES))
    main(["--repeats", "2", "--workers", "1", "--only", name, "--pairs", "3", "4"])
    lines = capsys.readouterr().out.splitlines()
    cells = [line.split(" | ")[:2] for line in lines[-2:]]
    assert cells == [[f"| {name}", "3"], [f"| {name}", "4"]]
