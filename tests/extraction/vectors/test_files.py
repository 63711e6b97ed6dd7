"""Importing from files: every format gives the same store; suitable files can be linked."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import criticalmass as cm
from criticalmass.core import progress
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.extraction.vectors import VectorSource
from criticalmass.storage import features_writer
from criticalmass.storage.digests import file_digest, with_digest
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.features_writer import StoreWriter

faiss = pytest.importorskip("faiss")

N, D = 60, 5
X = np.random.default_rng(11).normal(size=(N, D)).astype(np.float32)
Y = np.arange(N) % 3


def npy(path):
    np.save(path.with_suffix(".npy"), X)
    return path.with_suffix(".npy")


def by_column_npy(path):
    np.save(path.with_suffix(".npy"), np.asfortranarray(X))
    return path.with_suffix(".npy")


def big_endian_npy(path):
    np.save(path.with_suffix(".npy"), X.astype(">f4"))
    return path.with_suffix(".npy")


def wide_npy(path):
    np.save(path.with_suffix(".npy"), X.astype(np.float64))
    return path.with_suffix(".npy")


def npz(path):
    np.savez(path.with_suffix(".npz"), X=X)
    return path.with_suffix(".npz")


def packed_npz(path):
    np.savez_compressed(path.with_suffix(".npz"), features=X)
    return path.with_suffix(".npz")


def by_column_npz(path):
    np.savez_compressed(path.with_suffix(".npz"), X=np.asfortranarray(X))
    return path.with_suffix(".npz")


def safetensors(path):
    save_file({"labels": Y, "vectors": X}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def flat(path):
    return index(path, "Flat")


def flat_with_ids(path):
    return index(path, "IDMap,Flat")


def lists(path):
    return table(path, vector=pa.array(list(X)))


def fixed_lists(path):
    return table(path, vector=pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), D))


def doubles(path):
    return table(path, vector=pa.array(list(X.astype(np.float64))))


def columns(path):
    return table(path, **{f"d{i}": X[:, i] for i in range(D)})


def index(path, kind, x=X):
    faiss_index = faiss.index_factory(x.shape[1], kind)
    faiss_index.train(x)
    if kind.startswith("IDMap"):
        faiss_index.add_with_ids(x, np.arange(len(x)) * 7)
    else:
        faiss_index.add(x)
    faiss.write_index(faiss_index, str(path.with_suffix(".faiss")))
    return path.with_suffix(".faiss")


def table(path, groups=25, **cells):
    cells = {**cells, "label": Y, "id": np.arange(N)}
    pq.write_table(pa.table(cells), path.with_suffix(".parquet"), row_group_size=groups)
    return path.with_suffix(".parquet")


LINKED = [npy, npz, safetensors, flat]
COPIED = [by_column_npy, big_endian_npy, wide_npy, packed_npz, by_column_npz, flat_with_ids]
COPIED += [lists, fixed_lists, doubles, columns]


@pytest.fixture
def show_progress():
    with progress.display():
        yield


@pytest.fixture
def small_chunks(monkeypatch):
    """Read seven rows at a time, so that chunks and shards do not end together."""
    monkeypatch.setattr(VectorSource, "chunk_rows", 7)
    monkeypatch.setattr(features_writer.StoreWriter, "shard_rows", 16)


@pytest.mark.parametrize("maker", LINKED + COPIED, ids=lambda maker: maker.__name__)
def test_every_file_gives_the_store_of_the_array(tmp_path, small_chunks, maker):
    path = maker(tmp_path / "vectors")
    store = cm.import_features(path, out=tmp_path / "s", labels=Y)
    assert store.digest() == cm.import_features(X, out=tmp_path / "a", labels=Y).digest()
    check_rows(store)
    again = cm.import_features(path, out=tmp_path / "s", labels=Y)
    assert again.digest() == store.digest()


@pytest.mark.parametrize("maker", LINKED, ids=lambda maker: maker.__name__)
def test_a_link_is_the_store_of_the_copy_without_the_vectors(tmp_path, small_chunks, maker):
    path = maker(tmp_path / "vectors")
    copied = cm.import_features(path, out=tmp_path / "c", labels=Y)
    store = cm.import_features(path, out=tmp_path / "s", labels=Y, link=True)
    assert store.digest() == copied.digest()
    check_rows(store)
    check_rows(FeatureStore.open(tmp_path / "s", verify=False))
    assert not [p for p in (tmp_path / "s").rglob("*") if p.name.startswith("features")]
    assert not [p for p in (tmp_path / "s").rglob("*") if p.stat().st_nlink > 1 and p.is_file()]
    again = cm.import_features(path, out=tmp_path / "s", labels=Y, link=True)
    assert again.digest() == store.digest()
    # A copy serves a request for a link, but not the other way round.
    assert cm.import_features(path, out=tmp_path / "c", labels=Y, link=True).digest()
    with pytest.raises(StoreError, match="the vectors are linked there, but a copy"):
        cm.import_features(path, out=tmp_path / "s", labels=Y)


@pytest.mark.parametrize("maker", COPIED, ids=lambda maker: maker.__name__)
def test_a_file_that_cannot_be_linked_is_refused(tmp_path, maker, show_progress, capsys):
    """Before anything is said of its rows: `advise` copies it then, and says it once."""
    with pytest.raises(CriticalMassError, match=r"cannot be linked: .* leave out --link") as caught:
        cm.import_features(maker(tmp_path / "v"), out=tmp_path / "s", labels=Y, link=True)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "s").exists()


def check_rows(store):
    for split in ("train", "test"):
        rows = np.array([int(name.removeprefix("all-")) for name in store.sample_ids(split)])
        np.testing.assert_array_equal(store.features(split).array(), X[rows])
        np.testing.assert_array_equal(store.labels(split), Y[rows])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_linked_rows_read_like_an_array(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("s")
    n, half = data.draw(st.integers(4, 40)), data.draw(st.booleans())
    x = np.random.default_rng(n).normal(size=(n, 3)).astype("f2" if half else "f4")
    np.save(folder / "x.npy", x)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    mask[:2] = True, False
    store = cm.import_features(folder / "x.npy", out=folder / "s", split=mask, link=True)
    for split, expected in (("train", x[~mask]), ("test", x[mask])):
        features = store.features(split)
        assert (features.shape, features.dtype) == (expected.shape, x.dtype)
        np.testing.assert_array_equal(features.array(), expected)
        a, b = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
        np.testing.assert_array_equal(features[a:b], expected[a:b])
        np.testing.assert_array_equal(features[::-1], expected[::-1])
        rows = data.draw(st.lists(st.integers(-len(expected), len(expected) - 1)))
        picked = features[np.array(rows, dtype=int)]
        np.testing.assert_array_equal(picked, expected[np.array(rows, dtype=int)])
        assert features[a:b].flags.aligned
        np.testing.assert_array_equal(np.concatenate(list(features.chunks(3))), expected)


def test_rows_in_another_order_with_the_same_ends(tmp_path):
    split = np.arange(N) >= 50
    store = cm.import_features(npy(tmp_path / "v"), out=tmp_path / "s", split=split, link=True)
    order = np.array([0, 2, 1, 3])
    np.testing.assert_array_equal(store.features("train")[order], X[order])


def test_writing_to_the_file_does_not_change_a_copy(tmp_path):
    path = npy(tmp_path / "v")
    store = cm.import_features(path, out=tmp_path / "s", labels=Y)
    np.load(path, mmap_mode="r+")[:] = 0.0
    path.unlink()
    check_rows(FeatureStore.open(tmp_path / "s"))
    assert FeatureStore.open(tmp_path / "s").digest() == store.digest()


def test_a_changed_file_of_a_link_is_refused(tmp_path):
    path = npy(tmp_path / "v")
    cm.import_features(path, out=tmp_path / "s", labels=Y, link=True)
    changed = X.copy()
    changed[-1, -1] += 1.0
    for content in (changed, X[:-1], X[::-1]):
        np.save(path, content)
        os.utime(path, (1, 1))
        with pytest.raises(StoreError, match=r"v\.npy' has changed since .*without --link") as why:
            FeatureStore.open(tmp_path / "s")
        assert "\n" not in str(why.value)
    path.unlink()
    with pytest.raises(StoreError, match=r"v\.npy' is missing, .* without --link"):
        FeatureStore.open(tmp_path / "s", verify=False)
    np.save(path, X)
    check_rows(FeatureStore.open(tmp_path / "s"))


def test_a_file_with_another_time_is_read_and_compared(tmp_path, capsys, show_progress):
    """With the recorded time and size it is not read: a large file opens at once."""
    path = npy(tmp_path / "v")
    cm.import_features(path, out=tmp_path / "s", labels=Y, link=True)
    assert f"vectors linked to {path}" in capsys.readouterr().err.replace("\n", "")
    FeatureStore.open(tmp_path / "s")
    assert capsys.readouterr().err == ""
    os.utime(path, (1, 1))
    check_rows(FeatureStore.open(tmp_path / "s"))
    assert "another time than at its import, and the same vectors" in capsys.readouterr().err


def test_other_arrays_of_a_linked_file_may_change(tmp_path):
    save_file({"vectors": X, "z": Y}, tmp_path / "v.safetensors")
    store = cm.import_features(tmp_path / "v.safetensors", out=tmp_path / "s", labels=Y, link=True)
    save_file({"vectors": X, "z": Y + 1}, tmp_path / "v.safetensors")
    os.utime(tmp_path / "v.safetensors", (1, 1))
    check_rows(FeatureStore.open(tmp_path / "s"))
    assert store.digest() == FeatureStore.open(tmp_path / "s").digest()


def test_a_linked_store_is_verified(tmp_path):
    cm.import_features(npy(tmp_path / "v"), out=tmp_path / "s", link=True)
    rows = tmp_path / "s" / "index" / "test.npy"
    np.save(rows, np.load(rows)[::-1])
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore.open(tmp_path / "s")


def test_a_manifest_cannot_link_another_file(tmp_path):
    """A store from elsewhere may name any file; its vectors must have the recorded digests."""
    cm.import_features(npy(tmp_path / "v"), out=tmp_path / "s", link=True)
    np.save(tmp_path / "secret.npy", X + 1)
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    manifest["layers"]["penultimate"]["linked"]["path"] = str(tmp_path / "secret.npy")
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(with_digest(manifest)))
    with pytest.raises(StoreError, match="has changed"):
        FeatureStore.open(tmp_path / "s")
    manifest["layers"]["penultimate"]["linked"]["path"] = "secret.npy"
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(with_digest(manifest)))
    with pytest.raises(StoreError, match="is missing"):
        FeatureStore.open(tmp_path / "s")


def test_an_interrupted_link_or_copy_is_finished_as_the_other(tmp_path, monkeypatch, small_chunks):
    path = npy(tmp_path / "v")

    def stop(*_):
        raise KeyboardInterrupt

    for first, second in ((True, False), (False, True)):
        out = tmp_path / f"s-{first}"
        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "finish", stop)
            with pytest.raises(KeyboardInterrupt):
                cm.import_features(path, out=out, labels=Y, link=first)
        with pytest.raises(StoreError, match="unfinished"):
            FeatureStore.open(out)
        check_rows(cm.import_features(path, out=out, labels=Y, link=second))
        assert (out / "features").exists() == first


def test_a_store_with_a_hard_link_is_read(tmp_path, small_chunks):
    """Version 2 of the format, which imports wrote before they copied."""
    path, out = npy(tmp_path / "v"), tmp_path / "s"
    new = cm.import_features(path, out=out, labels=Y, link=True)
    manifest = json.loads((out / "manifest.json").read_text())
    layer = manifest["layers"]["penultimate"]
    link = layer.pop("linked")
    (out / "linked").mkdir()
    os.link(path, out / "linked" / "v.npy")
    place = {"from": str(path), **{key: link[key] for key in ("offset", "dtype", "rows")}}
    layer["shards"] = {
        split: [
            {
                "path": "linked/v.npy",
                "rows": sum(shard["rows"] for shard in shards),
                "sha256": file_digest(path),
                "linked": place,
                "index": link["index"][split],
                "as_shards": [shard["sha256"] for shard in shards],
            }
        ]
        for split, shards in layer["shards"].items()
    }
    manifest["format_version"] = 2
    (out / "manifest.json").write_text(json.dumps(with_digest(manifest)))
    path.unlink()
    old = FeatureStore.open(out)
    assert old.digest() == new.digest()
    check_rows(old)
    with pytest.raises(StoreError, match="the vectors are linked there, but a copy"):
        cm.import_features(npy(tmp_path / "v"), out=out, labels=Y)
    np.load(out / "linked" / "v.npy", mmap_mode="r+")[0] = 0.0
    with pytest.raises(StoreError, match="has changed"):
        FeatureStore.open(out)


def test_an_interrupted_import_continues(tmp_path, small_chunks, monkeypatch):
    path, put = lists(tmp_path / "v"), StoreWriter.put
    full = cm.import_features(path, out=tmp_path / "full", labels="label")
    written = []

    def stop(self, plan, features):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(plan)
        put(self, plan, features)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            cm.import_features(path, out=tmp_path / "s", labels="label")
    with pytest.raises(StoreError, match="unfinished"):
        FeatureStore.open(tmp_path / "s")
    first = (tmp_path / "s/features/penultimate/train-00000.npy").stat().st_mtime_ns
    store = cm.import_features(path, out=tmp_path / "s", labels="label")
    assert (tmp_path / "s/features/penultimate/train-00000.npy").stat().st_mtime_ns == first
    assert store.digest() == full.digest()
    ours, theirs = (
        {p.relative_to(f): p.read_bytes() for p in sorted(f.rglob("*")) if p.is_file()}
        for f in (tmp_path / "s", tmp_path / "full")
    )
    assert ours == theirs


# Labels and splits


def test_labels_come_from_a_column_or_a_file(tmp_path):
    path = table(tmp_path / "v", vector=pa.array(list(X)), part=["test", *["train"] * (N - 1)])
    (tmp_path / "labels.txt").write_text("".join(f"{label}\n" for label in Y))
    np.save(tmp_path / "labels.npy", Y)
    stores = [
        cm.import_features(path, out=tmp_path / str(number), labels=labels, split="part")
        for number, labels in enumerate(["label", tmp_path / "labels.txt", tmp_path / "labels.npy"])
    ]
    assert len({store.digest() for store in stores}) == 1
    assert stores[0].sample_ids("test") == ("all-0",)
    assert stores[0].class_names == ("0", "1", "2")


def test_lines_are_numbers_only_if_they_read_back_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("10\n2\n" * 30)
    (tmp_path / "b.txt").write_text("007\n7\n" * 30)
    (tmp_path / "c.txt").write_text("\ufeffpear\napple pie\n" * 30 + "\n\n", encoding="utf-8")
    names = []
    for name in "abc":
        store = cm.import_features(X, out=tmp_path / name, labels=str(tmp_path / f"{name}.txt"))
        names.append(store.class_names)
    assert names[:2] == [("2", "10"), ("007", "7")]
    assert set(names[2]) >= {"pear", "apple pie"}


def test_without_labels_one_class_is_split_at_random(tmp_path):
    store = cm.import_features(X, out=tmp_path / "s")
    assert store.class_names == ("unlabelled",)
    assert [len(store.labels(split)) for split in ("train", "test")] == [45, 15]
    assert store.manifest["dataset"]["notes"] == {
        "split": "random, test share 0.25, seed 0",
        "labels": "none",
    }
    run = cm.sweep(store, out=tmp_path / "r", measures=("cka", "retrieval"), fractions=(0.4, 1.0))
    assert (run.frame()["status"] == "ok").all()
    assert len(cm.redundancy(run)) == 2
    with pytest.raises(CriticalMassError, match="measures="):
        cm.sweep(store, out=tmp_path / "q")


def test_a_validation_part_is_kept(tmp_path):
    words = np.array(["train", "test", "validation"])[np.arange(N) % 3]
    store = cm.import_features(X, out=tmp_path / "s", split=words)
    assert set(store.splits) == {"train", "test", "val"}
    np.testing.assert_array_equal(store.features("val").array(), X[2::3])
    two = cm.import_features(
        X, out=tmp_path / "t", split=np.where(words == "validation", "val", "train")
    )
    np.testing.assert_array_equal(two.features("test").array(), X[2::3])
