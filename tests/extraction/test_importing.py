"""Importing existing vectors: every kind of input gives the same store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import criticalmass as cm
from criticalmass.errors import CriticalMassError, StoreError

RNG = np.random.default_rng(7)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = np.arange(40) % 4


def rows(store):
    return np.concatenate([store.features(split).array() for split in ("train", "test")])


def test_an_array_is_split_by_class(tmp_path):
    store = cm.import_features(X, out=tmp_path / "s", labels=Y)
    assert store.layers == ("penultimate",)
    assert [len(store.features(split)) for split in ("train", "test")] == [32, 8]
    for split, each in (("train", 8), ("test", 2)):
        np.testing.assert_array_equal(np.bincount(store.labels(split)), [each] * 4)
        for name, row in zip(store.sample_ids(split), store.features(split).array(), strict=True):
            np.testing.assert_array_equal(row, X[int(name.removeprefix("all-"))])
    assert "seed 0" in store.manifest["dataset"]["notes"]["split"]


@pytest.mark.filterwarnings("ignore:.* are also training ")
@settings(max_examples=20, deadline=None)
@given(st.integers(2, 30), st.integers(1, 5), st.booleans())
def test_given_splits_are_kept(tmp_path_factory, n, d, half):
    x = {
        split: np.random.default_rng(n).normal(size=(n, d)).astype("f2" if half else "f4")
        for split in ("train", "test")
    }
    y = {split: np.arange(n) % 2 for split in x}
    store = cm.import_features(x, out=tmp_path_factory.mktemp("s") / "s", labels=y)
    for split in x:
        assert store.features(split).dtype == x[split].dtype
        np.testing.assert_array_equal(store.features(split).array(), x[split])
        np.testing.assert_array_equal(store.labels(split), y[split])


def test_every_kind_of_input_gives_the_same_features(tmp_path):
    split = np.where(np.arange(40) < 30, "train", "test")
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "all.npz", X=X, y=Y)
    np.savez(tmp_path / "two.npz", x_train=X[:30], y_train=Y[:30], x_test=X[30:], y_test=Y[30:])
    stores = [
        cm.import_features(X, out=tmp_path / "a", labels=Y, split=split),
        cm.import_features(X, out=tmp_path / "b", labels=Y, split=split == "test"),
        cm.import_features(
            tmp_path / "x.npy", out=tmp_path / "c", labels=tmp_path / "y.npy", split=split
        ),
        cm.import_features(tmp_path / "all.npz", out=tmp_path / "d", split=split),
        cm.import_features(str(tmp_path / "two.npz"), out=tmp_path / "e"),
    ]
    assert len({store.digest() for store in stores}) == 1
    np.testing.assert_array_equal(rows(stores[0]), X)


def test_float64_is_stored_as_float32(tmp_path):
    store = cm.import_features(X.astype(np.float64), out=tmp_path / "s", labels=Y)
    assert store.features("train").dtype == np.float32


def test_text_labels_become_classes(tmp_path):
    store = cm.import_features(X, out=tmp_path / "s", labels=np.array(list("dbca"))[Y])
    assert store.class_names == ("a", "b", "c", "d")


def test_the_same_again_is_reused_and_another_refused(tmp_path):
    first = cm.import_features(X, out=tmp_path / "s", labels=Y)
    shard = next((tmp_path / "s").rglob("train-00000.npy"))
    written = shard.stat().st_mtime_ns
    again = cm.import_features(X, out=tmp_path / "s", labels=Y)
    assert shard.stat().st_mtime_ns == written
    assert again.digest() == first.digest()
    with pytest.raises(StoreError, match="dataset digest is"):
        cm.import_features(X + 1, out=tmp_path / "s", labels=Y)


@pytest.mark.parametrize(
    ("given_x", "options", "message"),
    [
        (X[0], {"labels": Y}, r"shape \(3,\)"),
        (X, {"labels": Y[:3]}, r"40 vectors \(.*\) but 3 labels"),
        (X * np.nan, {"labels": Y}, "not finite in 40 rows"),
        (X, {"labels": Y / 2}, "whole numbers or texts"),
        (X, {"labels": Y, "split": np.zeros(40, bool)}, "leaves train or test"),
        (X, {"labels": Y, "split": np.arange(40)}, "must hold 'train' and 'test'"),
        (X, {"labels": Y, "split": np.zeros(3, bool)}, "40 samples"),
        ({"train": X, "other": X}, {"labels": Y}, "a mapping holds the vectors of each split"),
        ({"train": X, "test": X}, {"labels": Y}, "give both the same splits"),
        (
            {"train": X, "test": X[:, :2]},
            {"labels": {"train": Y, "test": Y}},
            "differ in width",
        ),
        ("nowhere.npy", {"labels": Y}, "no file 'nowhere.npy'"),
        ("nowhere.csv", {"labels": Y}, "no file 'nowhere.csv'"),
        ("pyproject.toml", {"labels": Y}, "must end in .npy, .npz, .parquet"),
        ("pyproject.tml", {"labels": Y}, "no file .*; did you mean 'pyproject.toml'"),
    ],
)
def test_bad_input_gets_one_line(tmp_path, given_x, options, message):
    with pytest.raises(CriticalMassError, match=message) as caught:
        cm.import_features(given_x, out=tmp_path / "s", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_test_vectors_that_are_training_vectors_are_counted(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    x[30:] = x[5:15]
    split = np.arange(40) >= 28
    message = r"10 of 12 test vectors of .* \(equal bytes\), first 'all-30' and 'all-5'"
    with pytest.warns(UserWarning, match=message):
        cm.import_features(x, out=tmp_path / "arrays", split=split)
    np.save(tmp_path / "v.npy", x)
    for link in (False, True):
        with pytest.warns(UserWarning, match=message):
            cm.import_features(tmp_path / "v.npy", out=tmp_path / f"{link}", split=split, link=link)
    parts = {"train": x[:28], "test": x[28:]}
    with pytest.warns(UserWarning, match="10 of 12 .* first 'test-2' and 'train-5'"):
        cm.import_features(parts, out=tmp_path / "parts")
    cm.import_features(x[:28], out=tmp_path / "different")


def test_names_of_splits_are_read_in_any_case(tmp_path):
    split = np.repeat(["Training", "TEST", "Valid"], [20, 12, 8])
    store = cm.import_features(X, out=tmp_path / "s", labels=Y, split=split)
    assert {name: len(store.labels(name)) for name in store.splits} == {
        "train": 20,
        "test": 12,
        "val": 8,
    }


def test_a_number_of_test_vectors(tmp_path: Path) -> None:
    """So many at random, at most a quarter; a split that exists takes precedence."""
    x = np.arange(80, dtype=np.float32).reshape(40, 2)
    for asked, n_test in ((6, 6), (1000, 10)):
        store = cm.import_features(x, out=tmp_path / str(asked), split=asked)
        assert len(store.labels("test")) == n_test
        assert len(store.labels("train")) == 40 - n_test
    split_before = cm.import_features(
        {"train": x[:30], "test": x[30:]}, out=tmp_path / "given", split=6
    )
    assert len(split_before.labels("test")) == 10
    with pytest.raises(CriticalMassError, match="split=0 of 40 vectors"):
        cm.import_features(x, out=tmp_path / "none", split=0)
