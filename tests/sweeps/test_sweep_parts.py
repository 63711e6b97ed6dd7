"""The parts of a sweep: validation rows, projections, registries, progress."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import criticalmass as cm
from criticalmass.core import progress
from criticalmass.core.backends import Local, get_backend
from criticalmass.core.rows import ProjectedRows
from criticalmass.errors import CriticalMassError
from criticalmass.measures.protocol import VALIDATION_SHARE, validation_rows
from criticalmass.measures.registry import MEASURES, PROBES, get_probe
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run

FRACTIONS = (0.25, 0.5, 1.0)
MakeStore = Callable[..., FeatureStore]


def quick(store: FeatureStore, out: Path, **changes: Any) -> Run:
    arguments: dict[str, Any] = {
        "fractions": FRACTIONS,
        "seeds": 2,
        "measures": ("centroid", "cka"),
    }
    return cm.sweep(store, out=out, **(arguments | changes))


# --- the parts -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.integers(0, 3))
def test_validation_rows_are_a_fifth_of_every_class(labels: list[int], seed: int) -> None:
    y = np.asarray(labels, dtype=np.int64)
    marked = validation_rows(y, seed=seed)
    np.testing.assert_array_equal(marked, validation_rows(y, seed=seed))
    for label, count in zip(*np.unique(y, return_counts=True), strict=True):
        n_marked = int(marked[y == label].sum())
        assert n_marked == (0 if count == 1 else max(1, round(0.2 * count)))
        assert n_marked < count


def test_projected_rows_are_read_like_others() -> None:
    rng = np.random.default_rng(0)
    x, p = rng.standard_normal((7, 5)), rng.standard_normal((5, 3)).astype(np.float32)
    projected = ProjectedRows(x.astype(np.float16), p)
    whole = x.astype(np.float16).astype(np.float32) @ p
    assert (projected.shape, projected.dtype) == (whole.shape, whole.dtype)
    np.testing.assert_allclose(projected[2:5], whole[2:5], rtol=1e-6)
    np.testing.assert_allclose(projected[np.array([6, 0])], whole[[6, 0]], rtol=1e-6)


def test_the_registries_agree_and_suggest() -> None:
    assert set(PROBES) == {name for name, info in MEASURES.items() if info.is_probe}
    assert len(PROBES) == len(list(PROBES))
    assert all(callable(get_probe(name)) for name in PROBES)
    with pytest.raises(CriticalMassError, match="no probe 'rigde'; did you mean 'ridge'"):
        get_probe("rigde")
    assert isinstance(get_backend("local"), Local)
    for info in MEASURES.values():
        json.dumps(info.protocol)
        assert info.protocol["version"] >= 1


def test_progress_reports_that_there_is_nothing_to_do(
    store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.display():
        quick(store, tmp_path / "run")
        assert "14 of 14 cells" in capsys.readouterr().err
        quick(store, tmp_path / "run")
        assert "every cell is already computed" in capsys.readouterr().err


def test_validation_share_and_seed_are_part_of_a_protocol_that_uses_them() -> None:
    for name in ("logistic", "ridge", "lda"):
        assert MEASURES[name].protocol["validation_share"] == VALIDATION_SHARE
    for name in ("knn", "centroid", "sgd", "cka"):
        assert "validation_share" not in MEASURES[name].protocol
