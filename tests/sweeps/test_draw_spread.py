"""A sweep draws further random subsets where they cost little."""

from __future__ import annotations

from pathlib import Path

import pytest

import criticalmass as cm
from criticalmass.analysis.spread_records import read_spreads
from criticalmass.storage.features import FeatureStore


@pytest.mark.usefixtures("all_drawn_subsets")
def test_a_small_layer_has_a_hundred_subsets_of_every_size(
    store: FeatureStore, tmp_path: Path
) -> None:
    run = cm.sweep(store, out=tmp_path / "run", measures=("centroid",), fractions=(0.25, 1.0))
    record = read_spreads(run)["penultimate", "centroid"]
    assert (record.n_subsets, record.stand_in) == (100, "")
    assert record.std["value"][0] > 0.0
    assert record.std["value"][-1] == 0.0, "the whole layer is one subset"
