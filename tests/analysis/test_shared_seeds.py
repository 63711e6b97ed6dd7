"""What random subsets of two tasks on the same samples share."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from criticalmass.analysis.shared_seeds import cautious_correlation


def cells(rho: float, n_seeds: int, n_sizes: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, n_seeds, n_sizes))
    return pd.DataFrame(
        {
            "n_kept": np.tile(np.arange(n_sizes), n_seeds),
            "value_a": x.ravel() + 10.0 * np.tile(np.arange(n_sizes), n_seeds),
            "value_b": (rho * x + np.sqrt(1 - rho**2) * y).ravel(),
        }
    )


@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.9])
def test_many_seeds_show_the_correlation(rho: float) -> None:
    assert cautious_correlation(cells(rho, 2000)) == pytest.approx(rho, abs=0.05)


def test_few_seeds_claim_less_than_they_show() -> None:
    few = cells(0.9, 5)
    shown = np.corrcoef(few["value_a"] - 10.0 * few["n_kept"], few["value_b"])[0, 1]
    assert 0.0 < cautious_correlation(few) < shown - 0.05
    assert cautious_correlation(cells(0.9, 2)) == 0.0
    assert cautious_correlation(cells(0.9, 1)) == 0.0
    # A negative correlation makes intervals longer, and is taken as it is.
    assert cautious_correlation(cells(-0.9, 5)) < -0.7


def test_equal_values_are_one_task() -> None:
    table = cells(0.5, 2)
    assert cautious_correlation(table.assign(value_b=table["value_a"])) == 1.0
    constant = table.assign(value_a=1.0)
    assert cautious_correlation(constant) == 0.0
