"""Datasets equal their sources; splits are stratified and reproducible."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from criticalmass.core import progress
from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.cache import cache_folder
from criticalmass.extraction.datasets import Dataset, Split, load_dataset
from criticalmass.extraction.datasets.debian_packages import find_or_fetch
from criticalmass.extraction.datasets.demo_images import FASHION_MNIST_CLASSES, read_idx
from criticalmass.extraction.datasets.demo_texts import NOUN_CLASSES, read_nouns
from criticalmass.extraction.datasets.splits import stratified_sample, stratified_test_mask

labels_of_classes = st.lists(st.integers(1, 30), min_size=2, max_size=6).map(
    lambda counts: np.repeat(np.arange(len(counts)), counts)
)


@given(labels_of_classes, st.floats(0.05, 0.6), st.integers(0, 5))
def test_the_test_split_has_the_same_share_of_every_class(labels, share, seed):
    if np.bincount(labels).max() < 2:
        return
    test = stratified_test_mask(labels, share, seed)
    for label, count in Counter(labels.tolist()).items():
        chosen = int(test[labels == label].sum())
        if count == 1:
            assert chosen == 0
        else:
            assert 1 <= chosen < count
            assert abs(chosen - share * count) <= 1
    np.testing.assert_array_equal(test, stratified_test_mask(labels, share, seed))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=20, max_size=60))
def test_a_group_stays_in_one_split(pairs):
    labels, groups = np.array(pairs).T
    if len(np.unique(groups)) < 8:
        return
    test = stratified_test_mask(labels, 0.3, 0, groups)
    assert not set(groups[test]) & set(groups[~test])


def test_too_few_samples_cannot_be_split():
    with pytest.raises(CriticalMassError, match="at least two samples"):
        stratified_test_mask(np.array([0, 1, 2]), 0.25, 0)


@given(labels_of_classes, st.data())
def test_a_sample_keeps_the_shares(labels, data):
    n = data.draw(st.integers(1, len(labels)))
    rows = stratified_sample(labels, n, 3)
    assert len(rows) == n
    assert len(set(rows.tolist())) == n
    assert (np.diff(rows) > 0).all()
    counts = np.bincount(labels[rows], minlength=labels.max() + 1)
    classes = len(counts)
    if n >= classes:
        assert counts.min() >= 1
    exact = np.bincount(labels) * n / len(labels)
    # Largest remainders differ by at most one from the exact share, plus the minimum of one sample.
    slack = 1 + (np.maximum(1 - exact, 0).sum() if n >= classes else 0)
    assert (np.abs(counts - exact) <= slack + 1e-9).all()
    np.testing.assert_array_equal(rows, stratified_sample(labels, n, 3))


def test_digits():
    data = load_dataset("sklearn:digits")
    assert (len(data.splits["train"]), len(data.splits["test"])) == (1347, 450)
    assert data.splits["train"].items.dtype == np.uint8
    assert data.splits["train"].items.shape[1:] == (8, 8)
    assert data.splits["train"].items.max() == 255
    assert data.modality == "image"
    assert data.notes["split"]["seed"] == 0
    ids = [*data.splits["train"].ids, *data.splits["test"].ids]
    assert len(set(ids)) == 1797
    assert data.digest == load_dataset("sklearn:digits").digest
    assert load_dataset(data) is data


def test_a_sample_is_stratified_in_proportion_and_named():
    full, part = load_dataset("sklearn:digits"), load_dataset("sklearn:digits?n=200")
    assert (len(part.splits["train"]), len(part.splits["test"])) == (200, round(200 * 450 / 1347))
    assert part.name == "digits-n200"
    assert part.notes["sample"] == {"train": 200, "of": 1347, "seed": 0, "stratified": True}
    assert part.digest != full.digest
    assert np.ptp(np.bincount(part.splits["train"].labels)) <= 2
    assert set(part.splits["train"].ids) < set(full.splits["train"].ids)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sklearn:digit", "did you mean 'digits'"),
        ("skleran:digits", "did you mean 'sklearn'"),
        ("digits", "not of the form scheme:name"),
        ("demo:", "not of the form scheme:name"),
        ("sklearn:digits?m=3", "option of dataset sklearn: 'm'"),
        ("sklearn:digits?n=0", "n='0' .* whole number of at least 1"),
        ("sklearn:digits?n=ten", "n='ten'"),
        ("sklearn:digits?n=1347", "must be below the 1347"),
        ("sklearn:digits?n=5", "below the 10 classes"),
        ("imagefolder:/nowhere/at/all", "no folder '/nowhere/at/all'"),
        ("npz:/nowhere.npz", "no file '/nowhere.npz'"),
    ],
)
def test_bad_specs_get_one_line(spec, message):
    with pytest.raises(CriticalMassError, match=message) as caught:
        load_dataset(spec)
    assert "\n" not in str(caught.value)


def test_labels_must_fit():
    with pytest.raises(CriticalMassError, match="equally many"):
        Split(["a"], np.array([0, 1]), ["x", "y"])
    split = Split(["a", "b"], np.array([0, 2]), ["x", "y"])
    with pytest.raises(CriticalMassError, match="labels from 0 to 2, but there are 2 classes"):
        Dataset("d", "d", "text", {"train": split}, ("p", "q"))


def test_the_digest_covers_items_labels_and_classes():
    def digest(items=("a", "b"), labels=(0, 1), names=("p", "q")):
        split = Split(list(items), np.array(labels), ["x", "y"])
        return Dataset("d", "d", "text", {"train": split}, tuple(names)).digest

    assert digest() == digest()
    assert len({digest(), digest(items="ac"), digest(labels=(1, 0)), digest(names="pr")}) == 4


# Images in folders


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    # The comment makes the bytes of each file different: equal files are reported.
    info = PngInfo()
    info.add_text("Comment", str(path))
    Image.new("RGB", (4, 3), colour).save(path, pnginfo=info)


def test_class_folders_are_split(tmp_path):
    for name, colour in (("cat", "red"), ("dog", "blue")):
        for number in range(4):
            picture(tmp_path / name / f"{number}.png", colour)
    data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.class_names == ("cat", "dog")
    assert (len(data.splits["train"]), len(data.splits["test"])) == (6, 2)
    for split in data.splits.values():
        for item, label, name in zip(split.items, split.labels, split.ids, strict=True):
            assert item.getpixel((0, 0)) == ((255, 0, 0) if label == 0 else (0, 0, 255))
            assert name.startswith(("cat", "dog")[label])


def test_published_splits_are_kept(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            for number in range(count):
                picture(tmp_path / split / name / f"{number}.png", "red")
    data = load_dataset(f"imagefolder:{tmp_path}")
    assert [len(data.splits[name]) for name in ("train", "test")] == [6, 4]
    picture(tmp_path / "val" / "cow" / "0.png", "red")
    with pytest.raises(CriticalMassError, match="the class 'cow', the train folder does not"):
        load_dataset(f"imagefolder:{tmp_path}")


def test_broken_images_are_named(tmp_path):
    for name in ("cat", "dog"):
        for number in range(4):
            picture(tmp_path / name / f"{number}.png", "red")
    (tmp_path / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(CriticalMassError, match=r"1 of 8 images .*cat/1\.png' \(no image"):
        load_dataset(f"imagefolder:{tmp_path}")
    intact = tmp_path / "dog" / "1.png"
    Image.effect_noise((64, 64), 50).save(tmp_path / "cat" / "1.jpeg")
    (tmp_path / "cat" / "1.png").unlink()
    raw = (tmp_path / "cat" / "1.jpeg").read_bytes()
    (tmp_path / "cat" / "1.jpeg").write_bytes(raw[: len(raw) // 2])
    data = load_dataset(f"imagefolder:{tmp_path}")
    with pytest.raises(CriticalMassError, match=r"1\.jpeg' is not a readable image"):
        [list(split.items) for split in data.splits.values()]
    assert intact.is_file()


def test_a_folder_needs_classes_and_images(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(CriticalMassError, match="has 1 class folders"):
        load_dataset(f"imagefolder:{tmp_path}")
    (tmp_path / "dog").mkdir()
    with pytest.raises(CriticalMassError, match="holds no images"):
        load_dataset(f"imagefolder:{tmp_path}")


# NumPy files


def test_npz_with_one_array_is_split(tmp_path):
    x, y = np.arange(40.0).reshape(20, 2), np.repeat(["pear", "apple"], 10)
    np.savez(tmp_path / "f.npz", X=x, y=y)
    data = load_dataset(f"npz:{tmp_path / 'f.npz'}")
    assert (data.name, data.modality, data.class_names) == ("f", "vector", ("apple", "pear"))
    rows = np.concatenate([split.items for split in data.splits.values()])
    assert sorted(rows[:, 0]) == sorted(x[:, 0])
    for split in data.splits.values():
        np.testing.assert_array_equal(split.labels, (split.items[:, 0] < 20).astype(int))


def test_npz_with_splits_is_kept(tmp_path):
    np.savez(
        tmp_path / "f.npz",
        x_train=np.ones((3, 2)),
        y_train=[5, 7, 5],
        x_test=np.zeros((2, 2)),
        y_test=[7, 9],
    )
    with pytest.warns(UserWarning, match=r"3 train and 2 test samples: 1 class .*'9'; .*'5'"):
        data = load_dataset(f"npz:{tmp_path / 'f.npz'}")
    assert data.class_names == ("5", "7", "9")
    np.testing.assert_array_equal(data.splits["train"].labels, [0, 1, 0])
    np.testing.assert_array_equal(data.splits["test"].labels, [1, 2])


def test_what_is_off_with_the_samples_is_said_in_one_line_and_noted(tmp_path, capsys):
    y = np.repeat([0, 1, 2], [30, 20, 1])
    x = np.random.default_rng(0).normal(size=(51, 3))
    np.savez(tmp_path / "rare.npz", X=x, y=y)
    with progress.display():
        data = load_dataset(f"npz:{tmp_path / 'rare.npz'}")
    (line,) = capsys.readouterr().err.splitlines()
    assert "has 3 classes, 38 train and 13 test samples: 1 class has no test sample" in line
    assert all(sentence in line for sentence in data.notes["classes"])
    np.savez(tmp_path / "even.npz", X=x[:50], y=y[:50])
    data = load_dataset(f"npz:{tmp_path / 'even.npz'}")
    assert "classes" not in data.notes
    assert "test_vectors_in_train" not in data.notes


def test_test_samples_that_are_training_samples_are_counted(tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 3))
    arrays = {"x_train": x[:8], "x_test": np.r_[x[8:], x[3:5], x[:1]]}
    labels = {"y_train": np.arange(8) % 2, "y_test": np.arange(7) % 2}
    np.savez(tmp_path / "copies.npz", **arrays, **labels)
    message = r"3 of 7 test vectors of .* \(equal bytes\), first 'test-4' and 'train-3'"
    with pytest.warns(UserWarning, match=message):
        data = load_dataset(f"npz:{tmp_path / 'copies.npz'}")
    assert data.notes["test_vectors_in_train"] == 3
    parts = {"train": ["a", "b", "c", "b"], "test": ["d", "b", "a"]}
    rows = [(part, text, i % 2) for part, texts in parts.items() for i, text in enumerate(texts)]
    (tmp_path / "t.csv").write_text(
        "split,text,label\n" + "".join(f"{part},{text},{label}\n" for part, text, label in rows)
    )
    with pytest.warns(UserWarning, match="2 of 3 test texts .* first 'row-5' and 'row-1'"):
        load_dataset(f"csv:{tmp_path / 't.csv'}")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.ones((4, 2))}, "holds 'X', but no labels; add y"),
        ({"X": np.ones(4), "y": np.arange(4)}, r"shape \(4,\)"),
        ({"X": np.ones((4, 2)), "y": np.arange(3)}, r"shape \(3,\), but there are 4 vec"),
        ({"X": np.full((4, 2), np.nan), "y": [0, 0, 1, 1]}, "not finite in 4 rows, first in row 0"),
        ({"X": np.ones((4, 2)), "y": [0.5, 0, 1, 1]}, "whole numbers or texts"),
        ({"X": np.ones((4, 2)).astype(str), "y": [0, 0, 1, 1]}, "real numbers"),
    ],
)
def test_bad_npz_gets_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(CriticalMassError, match=message):
        load_dataset(f"npz:{tmp_path / 'f.npz'}")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("X_test", np.ones(4), "^array 'X_test' in '.*f.npz'"),
        ("X_train", np.full((4, 2), np.inf), "^array 'X_train' in '.*f.npz'"),
        ("y_train", np.arange(3), r"^array 'y_train' of .* the shape \(3,\), but there are 4"),
        ("y_test", [0.0, 1.0, 0.25, 1.0], "^array 'y_test' of '.*f.npz': .* row 2 is 0.25"),
    ],
)
def test_the_arrays_of_an_archive_are_named_as_in_the_file(tmp_path, name, array, message):
    arrays = {f"X_{split}": np.ones((4, 2)) for split in ("train", "test")}
    arrays |= {f"y_{split}": np.arange(4) % 2 for split in ("train", "test")}
    np.savez(tmp_path / "f.npz", **{**arrays, name: array})
    with pytest.raises(CriticalMassError, match=message):
        load_dataset(f"npz:{tmp_path / 'f.npz'}")


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "f.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(CriticalMassError, match="cannot be read"):
        load_dataset(f"npz:{tmp_path / 'f.npz'}")


# Demo data


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def test_idx_by_hand(tmp_path):
    array = np.arange(24).reshape(2, 3, 4)
    path = tmp_path / "f.gz"
    path.write_bytes(idx(array))
    np.testing.assert_array_equal(read_idx(path, 3), array)
    with pytest.raises(CriticalMassError, match="no IDX file of 1-D"):
        read_idx(path, 1)
    path.write_bytes(gzip.compress(gzip.decompress(idx(array))[:-1]))
    with pytest.raises(CriticalMassError, match="does not hold"):
        read_idx(path, 3)
    path.write_bytes(idx(array)[:-9])
    with pytest.raises(CriticalMassError, match="is damaged"):
        read_idx(path, 3)


def fill_fashion(folder):
    folder.mkdir(parents=True)
    for prefix, n in (("train", 20), ("t10k", 10)):
        images = np.full((n, 28, 28), n)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(n) % 10))


SYNSETS = """  1 licence
00000001 03 n 01 entity 0 000 | a unique beginner
00000002 05 n 01 ant 0 000 | social insect; "an ant | a pest"
00000003 28 n 01 noon 0 000 | the middle of the day
"""


def test_wordnet_by_hand(tmp_path):
    path = tmp_path / "data.noun"
    path.write_text(SYNSETS)
    split = read_nouns(path)
    assert split.items == ['social insect; "an ant | a pest"', "the middle of the day"]
    names = list(NOUN_CLASSES.values())
    assert [names[label] for label in split.labels] == ["animal", "time"]
    assert split.ids == ["n00000002", "n00000003"]
    path.write_text(SYNSETS + "rubbish\n")
    with pytest.raises(CriticalMassError, match=r"line 5 .* no noun synset"):
        read_nouns(path)


def test_identical_glosses_stay_in_one_split(tmp_path, monkeypatch):
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path))
    folder = cache_folder() / "debian/wordnet-base/usr/share/wordnet"
    folder.mkdir(parents=True)
    lines = [f"{n:08d} {4 + n % 25:02d} n 01 w 0 000 | gloss {n % 130}" for n in range(520)]
    (folder / "data.noun").write_text("\n".join(lines) + "\n")
    data = load_dataset("demo:wordnet-nouns")
    assert len(data.class_names) == 25
    assert sum(len(split) for split in data.splits.values()) == 520
    assert not set(data.splits["train"].items) & set(data.splits["test"].items)
    assert data.notes["split"]["grouped_by"] == "identical gloss"


def tool(folder, name, script):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_package_is_fetched_and_unpacked(tmp_path, monkeypatch):
    fill_fashion(tmp_path / "source/usr/share/datasets/fashion-mnist")
    tools = tmp_path / "tools"
    tool(tools, "apt-get", 'echo "$@" >> "$LOG"; touch name_1_all.deb')
    tool(tools, "dpkg-deb", f'mkdir "$3" && cp -r {tmp_path}/source/usr "$3"')
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path / "cache"))
    data = load_dataset("demo:fashion-mnist")
    assert (len(data.splits["train"]), len(data.splits["test"])) == (20, 10)
    assert data.splits["train"].items[0, 0, 0] == 20
    assert data.class_names == FASHION_MNIST_CLASSES
    assert load_dataset("demo:fashion-mnist").digest == data.digest
    log = (tmp_path / "log").read_text().splitlines()
    assert len(log) == 1
    assert log[0].endswith("download dataset-fashion-mnist")
    assert [p.name for p in (tmp_path / "cache/debian").iterdir()] == ["dataset-fashion-mnist"]


def test_a_failed_fetch_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tool(tools, "apt-get", 'echo "$@" >> "$LOG"; echo "E: Unable to locate package" >&2; exit 100')
    tool(tools, "dpkg-deb", "exit 1")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(DataUnavailableError, match="E: Unable to locate package") as caught:
        load_dataset("demo:wordnet-nouns")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache/debian").iterdir()) == []
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_only_root_updates_the_lists_once(tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tool(
        tools, "apt-get", 'echo "$@" >> "$LOG"; [ -e "$LOG.ok" ] || { touch "$LOG.ok"; exit 100; }'
    )
    tool(tools, "dpkg-deb", "exit 0")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(DataUnavailableError, match="left no file"):
        find_or_fetch("some-package", "usr/share/some", ("file",))
    commands = [line.split()[4:] for line in (tmp_path / "log").read_text().splitlines()]
    assert commands == [["download", "some-package"], ["update"], ["download", "some-package"]]


def test_torchvision_is_the_second_source(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path / "cache"))
    calls = []

    def run(command, **options):
        calls.append(options["timeout"])
        raw = f"{command[-1]}/FashionMNIST/raw"
        if len(calls) == 1:
            return subprocess.CompletedProcess(command, 1, "", "Trace\nOSError: no network")
        from pathlib import Path

        fill_fashion(Path(raw))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataUnavailableError, match=r"no apt-get here.*OSError: no network"):
        load_dataset("demo:fashion-mnist")
    assert len(load_dataset("demo:fashion-mnist").splits["train"]) == 20
    assert len(load_dataset("demo:fashion-mnist").splits["train"]) == 20
    assert len(calls) == 2
    assert all(calls)
