"""What every dataset promises to the rooms after it, whatever it is read from."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from criticalmass.datasets import load_dataset


@pytest.fixture(params=["digits", "capped", "folder", "npz", "wordnet"])
def spec(request, tmp_path, monkeypatch):
    if request.param == "digits":
        return "sklearn:digits"
    if request.param == "capped":
        return "sklearn:digits?n=50"
    if request.param == "folder":
        for name in "ab":
            (tmp_path / name).mkdir()
            for number in range(5):
                Image.new("L", (3, 3), number).save(tmp_path / name / f"{number}.png")
        return f"imagefolder:{tmp_path}"
    if request.param == "npz":
        np.savez(tmp_path / "x.npz", X=np.eye(12), y=np.arange(12) % 3)
        return f"npz:{tmp_path / 'x.npz'}"
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path))
    folder = tmp_path / "debian/wordnet-base/usr/share/wordnet"
    folder.mkdir(parents=True)
    lines = [f"{n:08d} {4 + n % 25:02d} n 01 w 0 000 | gloss {n}\n" for n in range(200)]
    (folder / "data.noun").write_text("".join(lines))
    return "demo:wordnet-nouns"


def test_labels_names_and_classes_fit(spec):
    data = load_dataset(spec)
    assert set(data.splits) == {"train", "test"}
    assert len(set(data.class_names)) == len(data.class_names) >= 2
    for split in data.splits.values():
        assert len(split.items) == len(split.labels) == len(split.ids) > 0
        assert split.labels.dtype == np.int64
        assert split.labels.ndim == 1
        assert 0 <= split.labels.min() <= split.labels.max() < len(data.class_names)
        assert all(isinstance(name, str) for name in split.ids)
    train, test = (data.splits[name] for name in ("train", "test"))
    assert not set(train.ids) & set(test.ids)
    assert set(test.labels.tolist()) <= set(train.labels.tolist())


def test_loading_again_gives_the_same(spec):
    one, two = load_dataset(spec), load_dataset(spec)
    assert one.digest == two.digest
    assert len(one.digest) == 64
    for name, split in one.splits.items():
        np.testing.assert_array_equal(split.labels, two.splits[name].labels)
        assert list(split.ids) == list(two.splits[name].ids)


def test_what_goes_into_a_manifest_is_json(spec):
    data = load_dataset(spec)
    assert data.spec == spec
    assert json.loads(json.dumps(dict(data.notes))) == dict(data.notes)
    assert data.name
    assert "/" not in data.name


def test_items_are_what_the_modality_says(spec):
    data = load_dataset(spec)
    item = data.splits["test"].items[0]
    if data.modality == "text":
        assert isinstance(item, str)
        assert item
    elif data.modality == "vector":
        assert np.asarray(item).ndim == 1
    else:
        assert isinstance(item, Image.Image) or item.dtype == np.uint8
