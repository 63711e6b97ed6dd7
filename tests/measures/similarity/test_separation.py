"""Class separation: that of the loop over pairs of samples, without the pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.core.rows import CHUNK_ROWS
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import get_similarity
from criticalmass.measures.similarity.cka_jackknife import sample_blocks
from criticalmass.measures.similarity.separation import prefix_separation
from criticalmass.measures.similarity.task import SimilarityTask, WholeLayer
from criticalmass.storage.features import FeatureStore

Array = NDArray[Any]


def over_pairs(x: Array, y: Array) -> float:
    """Kornblith et al. 2021, eq. 11, pair by pair."""
    norms = np.linalg.norm(x, axis=1)
    distances = np.ones((len(x), len(x)))
    for i in range(len(x)):
        for j in range(len(x)):
            if norms[i] > 0.0 and norms[j] > 0.0:
                distances[i, j] -= x[i] @ x[j] / (norms[i] * norms[j])
    classes = np.unique(y)
    within = sum(distances[np.ix_(y == c, y == c)].mean() for c in classes) / len(classes)
    total = (
        sum(distances[np.ix_(y == c, y == e)].mean() for c in classes for e in classes)
        / len(classes) ** 2
    )
    return float(1.0 - within / total)


def values_of(x: Array, y: Array, order: Array, sizes: Any) -> Array:
    return prefix_separation(x, y, order[None], sizes)[0][0]


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(4, 24),
    d=st.integers(2, 9),
    n_classes=st.integers(2, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_is_the_mean_over_pairs(n: int, d: int, n_classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.r_[0, 1, rng.integers(0, n_classes, n - 2)] * 3 + 1  # Classes may be missing.
    x = rng.standard_normal((n, d)) + rng.standard_normal((20, d))[y]
    x[rng.random(n) < 0.1] = 0.0
    order, sizes = rng.permutation(d), sorted({2, d})
    values, replicates = prefix_separation(x, y, order[None], sizes)
    for j, k in enumerate(sizes):
        if np.linalg.norm(x[:, order[:k]], axis=1).any():
            assert values[0, j] == pytest.approx(over_pairs(x[:, order[:k]], y), abs=1e-12)
    assert replicates.shape == (1, len(sizes), min(32, n // 2))
    assert ((replicates >= 0.0) & (replicates <= 1.0)).all()


def test_replicates_are_the_values_without_a_block() -> None:
    rng = np.random.default_rng(0)
    y, order = rng.integers(0, 3, 30), rng.permutation(5)
    y[:2] = 7  # A class that is in one or two blocks alone.
    x = rng.standard_normal((30, 5)) + rng.standard_normal((8, 5))[y]
    _, replicates = prefix_separation(x, y, order[None], (2, 5))
    for b, members in enumerate(sample_blocks(30)):
        rest, labels = np.delete(x, members, axis=0), np.delete(y, members)
        expected = [over_pairs(rest[:, order[:k]], labels) for k in (2, 5)]
        np.testing.assert_allclose(replicates[0, :, b], expected, atol=1e-12)


def test_more_rows_than_a_chunk_are_the_same_as_their_repetitions() -> None:
    rng = np.random.default_rng(1)
    y = np.arange(40) % 4
    x = rng.standard_normal((40, 6)) + rng.standard_normal((4, 6))[y]
    times = 2 * CHUNK_ROWS // 40 + 3
    many = values_of(np.tile(x, (times, 1)), np.tile(y, times), np.arange(6), (3, 6))
    np.testing.assert_allclose(many, values_of(x, y, np.arange(6), (3, 6)), rtol=1e-12)


def test_collapsed_classes_are_separated_and_shuffled_labels_are_not() -> None:
    rng = np.random.default_rng(2)
    y = np.arange(600) % 3
    x = rng.standard_normal((3, 8))[y] * rng.uniform(0.5, 2.0, 600)[:, None]
    assert values_of(x, y, np.arange(8), (4, 8)) == pytest.approx([1.0, 1.0], abs=1e-12)
    assert (values_of(x, rng.permutation(y), np.arange(8), (4, 8)) < 0.02).all()


def test_every_class_counts_equally() -> None:
    rng = np.random.default_rng(3)
    y = np.r_[np.zeros(50, int), np.ones(50, int)]
    x = rng.standard_normal((100, 4)) + np.array([[2.0, 0, 0, 0], [0, 2.0, 0, 0]])[y]
    more = np.r_[np.arange(100), np.tile(np.arange(50), 5)]
    np.testing.assert_allclose(
        values_of(x[more], y[more], np.arange(4), (4,)), values_of(x, y, np.arange(4), (4,))
    )


@pytest.mark.parametrize("factor", [1e18, 1e-30, 1e-44])
def test_the_length_of_vectors_does_not_matter(factor: float) -> None:
    rng = np.random.default_rng(4)
    y, x = np.arange(20) % 2, rng.standard_normal((20, 5)) + 1.0
    own = rng.uniform(0.1, 10.0, 20)[:, None] * factor
    np.testing.assert_allclose(
        values_of(x * own, y, np.arange(5), (1, 3, 5)), values_of(x, y, np.arange(5), (1, 3, 5))
    )


def test_vectors_far_from_zero_keep_their_digits() -> None:
    rng = np.random.default_rng(5)
    y = np.arange(200) % 2
    x = rng.standard_normal((200, 6)) + np.array([[0.0] * 6, [2.0, -2.0] * 3])[y]
    far = values_of(x + 1e7, y, np.arange(6), (6,))[0]
    # There the cosine distance is half the squared distance across the direction of ones.
    flat = x - x.mean(axis=1, keepdims=True)
    means = np.stack([flat[y == c].mean(axis=0) for c in (0, 1)])
    between = ((means[0] - means[1]) ** 2).sum() / 4
    within = np.mean([((flat[y == c] - means[c]) ** 2).sum(axis=1).mean() for c in (0, 1)])
    assert far == pytest.approx(between / (between + within), rel=1e-4)


def test_vectors_of_one_direction_separate_nothing() -> None:
    y = np.arange(8) % 2
    x = np.outer(np.arange(1.0, 9.0), [1.0, 2.0, 3.0])
    values, replicates = prefix_separation(x, y, np.arange(3)[None], (1, 2, 3))
    assert (values == 0.0).all()
    assert (replicates == 0.0).all()
    assert (values_of(np.zeros((8, 3)), y, np.arange(3), (1, 3)) == 0.0).all()


def test_a_rotation_of_the_layer_is_the_layer() -> None:
    rng = np.random.default_rng(6)
    y, x = np.arange(30) % 3, rng.standard_normal((30, 5)) + 0.5
    rotation, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    values, _ = prefix_separation(x, y, rotation, (2, 5), is_projection=True)
    assert values[0, 1] == pytest.approx(values_of(x, y, np.arange(5), (5,))[0], abs=1e-12)
    assert values[0, 0] == pytest.approx(over_pairs(x @ rotation[:, :2], y), abs=1e-12)


def test_one_class_and_no_labels_are_refused() -> None:
    x, measure = np.eye(4), get_similarity("class-separation")
    with pytest.raises(CriticalMassError, match="at least 2 classes"):
        prefix_separation(x, np.zeros(4, int), np.arange(4)[None], (2,))
    with pytest.raises(CriticalMassError, match="needs labels"):
        measure(SimilarityTask(WholeLayer(x), np.arange(4)[None], (2,)))


class TestInASweep:
    def test_it_has_a_curve_and_no_critical_mass(self, store: FeatureStore, tmp_path: Path) -> None:
        run = cm.sweep(
            store,
            out=tmp_path / "run",
            measures=("class-separation", "cka"),
            fractions=(0.25, 0.5, 1.0),
            seeds=3,
            refine=0.9,
        )
        rows = run.frame().query("measure == 'class-separation'")
        assert (rows["status"] == "ok").all()
        x, y = store.features("test").array().astype(np.float64), store.labels("test")
        assert rows["value_full"].to_numpy() == pytest.approx(over_pairs(x, y), abs=1e-9)
        with pytest.warns(UserWarning, match="class-separation: no critical mass and no DR"):
            table = cm.redundancy(run).set_index("measure")
        assert table["dr"].isna().to_dict() == {"class-separation": True, "cka": False}
        curves = cm.curves(run).query("measure == 'class-separation'")
        assert (curves["high"] > curves["low"]).all()

    def test_it_is_drawn_compared_and_on_the_page(
        self, store: FeatureStore, tmp_path: Path
    ) -> None:
        runs = [
            cm.sweep(
                store,
                out=tmp_path / name,
                measures="class-separation",
                seeds=range(first, first + 3),
                fractions=(0.25, 0.5, 1.0),
            )
            for name, first in (("a", 0), ("b", 3))
        ]
        with pytest.warns(UserWarning, match="no critical mass"):
            page = cm.report(runs[0], out=tmp_path / "report.html").read_text()
        assert "Score (class-separation)" in page
        assert "were fitted" not in page
        compared = cm.compare(*runs)
        assert compared.query("quantity == 'dr'")["value_a"].isna().all()
        assert compared.query("quantity == 'value'")["value_a"].notna().all()

    def test_nothing_is_shrunk_by_it(self, store: FeatureStore, tmp_path: Path) -> None:
        with pytest.raises(CriticalMassError, match="may be higher in a subset than in the whole"):
            cm.shrink(store, measure="class-separation", out=tmp_path / "slim")


def test_a_layer_of_repeated_neurons_is_shrunk_by_reconstruction(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((400, 3)).astype(np.float32)
    split = ["train"] * 300 + ["test"] * 100
    data = {"X": np.tile(x, 4), "y": np.arange(400) % 2}
    store = cm.import_features(data["X"], labels=data["y"], split=split, out=tmp_path / "store")
    plan = cm.shrink(store, measure="reconstruction", keep=0.9, out=tmp_path / "slim")
    assert plan.safe
    assert plan.slim.record["n_kept"] < 12
