"""The estimate of a sweep before it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.measures.memory import LayerSizes
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.cost import estimate_cost, units

SIZES = LayerSizes(
    n_train=10_000,
    n_test=2_000,
    n_neurons=512,
    n_classes=10,
    item_bytes=4,
    sizes=(64, 128, 256, 512),
    n_orders=4,
    n_threads=2,
    held_bytes=1 << 30,
)


@pytest.mark.parametrize("measure", ["logistic", "cka", "knn", "procrustes"])
def test_more_of_anything_costs_more(measure: str) -> None:
    once = units(measure, SIZES)
    assert once is not None
    assert once > 0
    larger = replace(SIZES, n_orders=16), replace(SIZES, n_neurons=2048, sizes=(64, 128, 256, 2048))
    assert all((units(measure, sizes) or 0.0) > once for sizes in larger)


def test_a_measure_that_was_not_fitted_has_no_time() -> None:
    assert units("unknown", SIZES) is None


def test_a_dry_run_writes_nothing_and_counts_what_is_missing(
    make_store: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    store, out = make_store("features"), tmp_path / "run"
    grid = {"fractions": (0.25, 0.5), "seeds": 2, "measures": ("cka",)}
    before = estimate_cost(store, out=out, grid=grid)
    assert not out.exists()
    row, total = before.table.to_dict("records")
    assert (row["measure"], row["cells"], row["missing"]) == ("cka", 5, 5)
    assert total["CPU s"] > row["CPU s"] > 0
    assert total["GB"] > 0
    assert "CPU time" in str(before)
    cm.sweep(store, out=out, **grid)  # type: ignore[arg-type]
    after = estimate_cost(store, out=out, grid=grid)
    assert after.table["missing"].tolist() == [0, 0]
    assert after.cpu_seconds < before.cpu_seconds


def test_auto_is_refused(make_store: Callable[..., FeatureStore], tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError, match="cannot be auto"):
        estimate_cost(make_store("features"), out=tmp_path / "run", grid={"fractions": "auto"})
