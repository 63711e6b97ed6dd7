"""The feature store: stored values are read back, and damaged files are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.storage.digests import with_digest
from criticalmass.storage.features import Features, FeatureStore
from criticalmass.storage.features_writer import SplitInfo, StoreWriter, describe_differences

ROWS = {"train": 10, "test": 3}


def header(**changes):
    base = {
        "model": {"spec": "m", "name": "m", "weights_digest": "1"},
        "dataset": {"spec": "d", "name": "d", "class_names": ["a", "b"]},
        "layers": {
            "penultimate": {"dtype": "float32", "shape": [5]},
            "fc/1": {"dtype": "float16", "shape": [2]},
        },
        "engine": {"name": "torch"},
        "versions": {"numpy": "2"},
    }
    return {**base, **changes}


def values(seed=0):
    rng = np.random.default_rng(seed)
    return {
        split: {
            "penultimate": rng.normal(size=(n, 5)).astype(np.float32),
            "fc/1": rng.normal(size=(n, 2)).astype(np.float16),
        }
        for split, n in ROWS.items()
    }


def splits():
    return {
        split: SplitInfo(np.arange(n) % 2, [f"{split}-{i}" for i in range(n)])
        for split, n in ROWS.items()
    }


def write(folder, *, stop_after=None, data=None, **changes):
    data = data or values()
    writer = StoreWriter.begin(folder, header(**changes), splits(), shard_rows=4)
    for count, plan in enumerate(writer.missing()):
        if count == stop_after:
            return None
        rows = slice(plan.start, plan.stop)
        writer.put(plan, {name: x[rows] for name, x in data[plan.split].items()})
    return writer.finish()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@st.composite
def sharded(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    whole = np.arange(sum(sizes) * 3, dtype=np.float32).reshape(-1, 3)
    ends = np.cumsum(sizes)[:-1]
    return whole, Features(tuple(np.split(whole, ends)))


@given(sharded(), st.data())
def test_features_read_like_one_array(pair, data):
    whole, features = pair
    n = len(whole)
    bound = st.none() | st.integers(-n - 2, n + 2)
    step = data.draw(st.none() | st.integers(1, 3))
    cut = slice(data.draw(bound), data.draw(bound), step)
    index = data.draw(st.lists(st.integers(-n, n - 1), max_size=8))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    assert features.shape == whole.shape
    np.testing.assert_array_equal(features[cut], whole[cut])
    np.testing.assert_array_equal(
        features[np.array(index, dtype=int)], whole[np.array(index, dtype=int)]
    )
    np.testing.assert_array_equal(features[mask], whole[mask])
    np.testing.assert_array_equal(features.array(), whole)
    np.testing.assert_array_equal(
        np.concatenate(list(features.chunks(data.draw(st.integers(1, n + 1))))), whole
    )


def test_a_row_outside_is_refused():
    features = Features((np.zeros((3, 2), np.float32),))
    with pytest.raises(StoreError, match="outside the 3 samples"):
        features[np.array([3])]
    with pytest.raises(StoreError, match="mask of 2 rows"):
        features[np.array([True, False])]


def test_round_trip(tmp_path):
    data = values()
    write(tmp_path / "store", data=data)
    store = FeatureStore.open(tmp_path / "store")
    assert store.layers == ("penultimate", "fc/1")
    assert store.splits == ("train", "test")
    assert (store.model, store.dataset, store.class_names) == ("m", "d", ("a", "b"))
    for split, layers in data.items():
        for layer, x in layers.items():
            found = store.features(split, layer)
            assert found.dtype == x.dtype
            np.testing.assert_array_equal(found.array(), x)
        np.testing.assert_array_equal(store.labels(split), np.arange(ROWS[split]) % 2)
        assert store.labels(split).dtype == np.int64
        assert store.sample_ids(split)[-1] == f"{split}-{ROWS[split] - 1}"
    assert isinstance(store.features("test").array(), np.memmap)
    assert FeatureStore.open(store) is store
    assert not [name for name in contents(tmp_path) if name.endswith(".part")]


def test_unknown_names_get_a_hint(tmp_path):
    store = write(tmp_path / "store")
    with pytest.raises(CriticalMassError, match="did you mean 'penultimate'"):
        store.features("train", "penultimat")
    with pytest.raises(CriticalMassError, match="did you mean 'test'"):
        store.labels("tset")


def test_an_interrupted_store_continues_to_the_same_bytes(tmp_path):
    write(tmp_path / "whole")
    write(tmp_path / "broken", stop_after=2)
    with pytest.raises(StoreError, match="unfinished"):
        FeatureStore.open(tmp_path / "broken")
    writer = StoreWriter.begin(tmp_path / "broken", header(), splits(), shard_rows=4)
    assert [(plan.split, plan.index) for plan in writer.missing()] == [("train", 2), ("test", 0)]
    write(tmp_path / "broken")
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_finish_needs_every_shard(tmp_path):
    writer = StoreWriter.begin(tmp_path / "store", header(), splits(), shard_rows=4)
    with pytest.raises(StoreError, match="lacks shards"):
        writer.finish()


SHARD = "features/penultimate/train-00001.npy"


@pytest.mark.parametrize("name", [SHARD, "labels/test.npy", "ids/train.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_damaged_files_are_named_and_written_again(tmp_path, name, damage):
    folder = tmp_path / "store"
    write(folder)
    before = contents(folder)
    raw = before[name]
    if damage == "gone":
        (folder / name).unlink()
    elif damage == "truncated":
        (folder / name).write_bytes(raw[:-1])
    else:
        (folder / name).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(StoreError, match=Path(name).name):
        FeatureStore.open(folder)
    with pytest.warns(UserWarning, match=Path(name).name):
        write(folder)
    assert contents(folder) == before


def edit(folder: Path, change) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(with_digest(manifest)))  # With a valid digest.


@pytest.mark.parametrize("path", ["../secret.npy", "/etc/hostname", "link/secret.npy", 7, ""])
def test_a_manifest_may_not_leave_its_folder(tmp_path, path):
    folder = tmp_path / "store"
    write(folder)
    np.save(tmp_path / "secret.npy", np.zeros((4, 5), np.float32))
    (folder / "link").symlink_to(tmp_path)

    def point(manifest):
        manifest["layers"]["penultimate"]["shards"]["train"][0]["path"] = path

    edit(folder, point)
    with pytest.raises(StoreError, match="outside the folder"):
        FeatureStore.open(folder, verify=False)


def test_other_manifests_are_refused(tmp_path):
    folder = tmp_path / "store"
    with pytest.raises(StoreError, match="no feature store at"):
        FeatureStore.open(folder)
    write(folder)
    edit(folder, lambda manifest: manifest.update(format_version=99))
    with pytest.raises(StoreError, match="update criticalmass"):
        FeatureStore.open(folder)
    edit(folder, lambda manifest: manifest.update(format="something"))
    with pytest.raises(StoreError, match="holds no feature store"):
        FeatureStore.open(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="not readable JSON"):
        FeatureStore.open(folder)


def test_a_manifest_without_an_entry_is_reported(tmp_path):
    write(tmp_path / "store")
    edit(tmp_path / "store", lambda manifest: manifest["splits"]["test"].pop("ids"))
    with pytest.raises(StoreError, match="lacks 'ids'"):
        FeatureStore.open(tmp_path / "store")


def test_another_request_says_what_differs(tmp_path):
    folder = tmp_path / "store"
    write(folder, stop_after=1)
    changed = {"spec": "m", "name": "m", "weights_digest": "2"}
    with pytest.raises(StoreError, match="model weights_digest is '1' in the folder but '2' was"):
        write(folder, model=changed)
    other = {"penultimate": {"dtype": "float16", "shape": [5]}}
    with pytest.raises(StoreError, match="layers penultimate dtype is 'float32' in the folder"):
        write(folder, layers=other)


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(StoreError, match="is not a feature store; name another"):
        write(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "words"


def test_differences_by_hand():
    old = {"a": 1, "b": {"c": 2, "d": 3}, "e": 5}
    assert describe_differences(old, {"a": 1, "b": {"c": 2, "d": 3}, "e": 5}) == []
    assert describe_differences(old, {"a": 1, "b": {"c": 4, "d": 3}}) == [
        "b c is 2 in the folder but 4 was requested",
        "e is 5 in the folder but None was requested",
    ]
    assert describe_differences(old, {"a": 9, "b": {"c": 4, "d": 3}, "e": 5}, ["a", "b.c"]) == []


def test_the_digest_is_of_the_content(tmp_path):
    first = write(tmp_path / "first")
    same = write(tmp_path / "same", engine={"name": "openvino"})
    other = write(tmp_path / "other", data=values(seed=1))
    assert first.digest("penultimate") == same.digest("penultimate")
    assert first.digest("penultimate") != other.digest("penultimate")
    assert first.digest("penultimate") != first.digest("fc/1")


def test_another_width_is_refused(tmp_path):
    data = values()
    data["train"]["fc/1"] = np.zeros((10, 3), np.float16)
    with pytest.raises(StoreError, match=r"gave \(4, 3\) for rows 0 to 4, expected \(4, 2\)"):
        write(tmp_path / "store", data=data)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, bad):
    data = values()
    data["train"]["penultimate"][5, 2] = bad
    with pytest.raises(CriticalMassError, match=r"not finite for 1 samples .* row 5"):
        write(tmp_path / "store", data=data)


def test_float16_overflow_is_refused(tmp_path):
    data = values()
    data["test"]["fc/1"] = np.full((3, 2), 70000.0, np.float32)
    with pytest.raises(CriticalMassError, match="'fc/1' is not finite for 3 samples"):
        write(tmp_path / "store", data=data)


def test_a_finished_store_is_kept_under_newer_libraries(tmp_path):
    write(tmp_path / "store")
    before = (tmp_path / "store" / "manifest.json").read_bytes()
    writer = StoreWriter.begin(
        tmp_path / "store", header(versions={"numpy": "3"}), splits(), shard_rows=4
    )
    assert not list(writer.missing())
    assert (tmp_path / "store" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("is_damaged", [False, True])
def test_versions_are_not_mixed_in_one_store(tmp_path, is_damaged):
    write(tmp_path / "store", stop_after=None if is_damaged else 1)
    if is_damaged:
        next((tmp_path / "store" / "features" / "penultimate").rglob("*.*")).unlink()
    message = "missing" if is_damaged else "versions numpy is '2' in the folder but '3'"
    with pytest.raises(StoreError, match=message):
        StoreWriter.begin(
            tmp_path / "store", header(versions={"numpy": "3"}), splits(), shard_rows=4
        )
