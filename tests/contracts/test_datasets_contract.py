"""The contract of every dataset, whatever source it is read from."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from criticalmass.extraction.datasets import UNLABELLED, load_dataset

TEXTS = [f"sentence number {number}" for number in range(20)]
LABELS = [("pear", "apple")[number % 2] for number in range(20)]


def png(number):
    file = io.BytesIO()
    Image.new("L", (3, 3), number).save(file, "PNG")
    return file.getvalue()


def folder(tmp_path):
    for base, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for number in range(5):
            (tmp_path / name / f"{number}.png").write_bytes(png(5 * base + number))
    return f"imagefolder:{tmp_path}"


def pictures(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return f"imagefolder:{tmp_path}"


def npz(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.eye(12), y=np.arange(12) % 3)
    return f"npz:{tmp_path / 'x.npz'}"


def csv(tmp_path):
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(tmp_path / "t.csv", index=False)
    return f"csv:{tmp_path / 't.csv'}"


def csv_with_semicolons(tmp_path):
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(tmp_path / "t.csv", sep=";", index=False)
    return f"csv:{tmp_path / 't.csv'}"


def splits_in_folders(tmp_path):
    for base, part in enumerate(("Training", "Testing")):
        for offset, name in enumerate("ab"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(4):
                content = png(16 * base + 4 * offset + number)
                (tmp_path / part / name / f"{number}.png").write_bytes(content)
    return f"imagefolder:{tmp_path}"


def csv_of_paths(tmp_path):
    names = [f"{number}.png" for number in range(20)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(png(number))
    pd.DataFrame({"file_name": names, "label": LABELS}).to_csv(tmp_path / "t.csv", index=False)
    return f"csv:{tmp_path / 't.csv'}"


def parquet(tmp_path):
    words = ["train"] * 14 + ["test"] * 6
    pd.DataFrame({"text": TEXTS, "label": LABELS, "split": words}).to_parquet(
        tmp_path / "t.parquet"
    )
    return f"parquet:{tmp_path / 't.parquet'}"


def parquet_of_images(tmp_path):
    table = pd.DataFrame({"picture": [png(n) for n in range(20)], "label": np.arange(20) % 3})
    table.to_parquet(tmp_path / "t.parquet")
    return f"parquet:{tmp_path / 't.parquet'}"


def jsonl(tmp_path):
    lines = [json.dumps({"t": t, "topic": y}) for t, y in zip(TEXTS, LABELS, strict=True)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    return f"jsonl:{tmp_path / 't.jsonl'}?text=t&label=topic"


def jsonl_without_labels(tmp_path):
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    return f"jsonl:{tmp_path / 't.jsonl'}"


def hf_texts(tmp_path):
    import datasets

    rows = {"sentence": TEXTS, "label": [number % 2 for number in range(20)]}
    kinds = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(tmp_path / "d")
    return f"hf:{tmp_path / 'd'}"


def hf_images(tmp_path):
    import datasets

    kinds = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    parts = {}
    for part, n in (("train", 6), ("validation", 4)):
        rows = {
            "image": [{"bytes": png(10 * n + number), "path": None} for number in range(n)],
            "label": [number % 2 for number in range(n)],
        }
        parts[part] = datasets.Dataset.from_dict(rows, features=kinds)
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    return f"hf:{tmp_path / 'd'}"


def torchvision(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, n in (("train", 20), ("t10k", 10)):
        for kind, array in (
            ("images-idx3", np.arange(n * 784).reshape(n, 28, 28) % 251),
            ("labels-idx1", np.arange(n) % 10),
        ):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    return f"torchvision:FashionMNIST?root={tmp_path}"


def wordnet(tmp_path):
    folder = tmp_path / "debian/wordnet-base/usr/share/wordnet"
    folder.mkdir(parents=True)
    lines = [f"{n:08d} {4 + n % 25:02d} n 01 w 0 000 | gloss {n}\n" for n in range(200)]
    (folder / "data.noun").write_text("".join(lines))
    return "demo:wordnet-nouns"


MAKERS = [folder, splits_in_folders, pictures, npz, csv, csv_with_semicolons, csv_of_paths]
MAKERS += [parquet, parquet_of_images, jsonl]
MAKERS += [jsonl_without_labels, hf_texts, hf_images, torchvision, wordnet]
MAKERS += [lambda _: "sklearn:digits", lambda _: "sklearn:digits?n=50"]


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def spec(request, tmp_path, monkeypatch):
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path))
    return request.param(tmp_path)


def test_labels_names_and_classes_fit(spec):
    data = load_dataset(spec)
    assert set(data.splits) == {"train", "test"}
    assert len(set(data.class_names)) == len(data.class_names)
    assert len(data.class_names) >= 2 or data.class_names == UNLABELLED
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


def test_spec_and_notes_are_json(spec):
    data = load_dataset(spec)
    assert data.spec == spec
    assert json.loads(json.dumps(dict(data.notes))) == dict(data.notes)
    assert data.name
    assert "/" not in data.name


def test_items_match_the_modality(spec):
    data = load_dataset(spec)
    item = data.splits["test"].items[0]
    if data.modality == "text":
        assert isinstance(item, str)
        assert item
    elif data.modality == "vector":
        assert np.asarray(item).ndim == 1
    else:
        assert isinstance(item, Image.Image) or item.dtype == np.uint8
