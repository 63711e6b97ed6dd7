"""Labels of tables and hub datasets: decimals, lists, and parts without labels (-1)."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import UNLABELLED, load_dataset

TEXTS = [f"text {number}" for number in range(24)]
LABELS = [number % 3 for number in range(24)]


def write(tmp_path, scheme, labels, **columns):
    table = pd.DataFrame({"text": TEXTS, "label": labels, **columns})
    path = tmp_path / f"t.{scheme}"
    if scheme == "csv":
        table.to_csv(path, index=False)
    elif scheme == "parquet":
        table.to_parquet(path)
    elif scheme == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dict("records")))
    else:
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_pandas(table).save_to_disk(path)
    return f"{scheme}:{path}"


def labels_by_text(data):
    return {
        text: data.class_names[label]
        for split in data.splits.values()
        for text, label in zip(split.items, split.labels, strict=True)
    }


@pytest.mark.parametrize("scheme", ["csv", "parquet", "jsonl", "hf"])
@pytest.mark.parametrize("options", ["", "?label=label"])
def test_whole_numbers_are_labels_whatever_their_type(tmp_path, scheme, options):
    data = load_dataset(write(tmp_path, scheme, [float(label) for label in LABELS]) + options)
    assert data.class_names == ("0", "1", "2")
    assert labels_by_text(data) == dict(zip(TEXTS, map(str, LABELS), strict=True))


@pytest.mark.parametrize("scheme", ["parquet", "jsonl", "hf"])
def test_lists_of_one_label_are_labels(tmp_path, scheme):
    data = load_dataset(write(tmp_path, scheme, [[label] for label in LABELS]))
    assert labels_by_text(data) == dict(zip(TEXTS, map(str, LABELS), strict=True))


@pytest.mark.parametrize("scheme", ["csv", "parquet", "jsonl", "hf"])
@pytest.mark.parametrize("value", [0.5, None])
def test_a_label_that_is_none_is_refused_with_its_row(tmp_path, scheme, value):
    labels = [float(label) for label in LABELS]
    labels[5] = value
    with pytest.raises(CriticalMassError, match=r"column 'label' of .*row 5") as caught:
        load_dataset(write(tmp_path, scheme, labels))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("label=none")
    assert load_dataset(f"{scheme}:{tmp_path}/t.{scheme}?label=none").class_names == UNLABELLED


def test_several_labels_per_row_are_refused(tmp_path):
    with pytest.raises(CriticalMassError, match=r"'label' of .* row 0 has 2 .*label=none"):
        load_dataset(write(tmp_path, "parquet", [[0, 1]] * 24))


@pytest.mark.parametrize("scheme", ["csv", "parquet", "jsonl"])
def test_a_part_without_labels_is_left_out(tmp_path, scheme):
    parts = ["train"] * 12 + ["validation"] * 6 + ["test"] * 6
    data = load_dataset(write(tmp_path, scheme, LABELS[:18] + [-1] * 6, split=parts))
    assert data.class_names == ("0", "1", "2")
    assert data.notes["parts_without_labels"] == ["test"]
    assert list(data.splits["train"].items) == TEXTS[:12]
    assert list(data.splits["test"].items) == TEXTS[12:18]
    assert labels_by_text(data) == dict(zip(TEXTS[:18], map(str, LABELS), strict=False))


@pytest.mark.filterwarnings("ignore:.* are also training ")
def test_a_hub_part_of_plain_numbers_without_labels_is_left_out(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {"train": LABELS[:12], "validation": LABELS[:6], "test": [-1] * 6}
    datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict({"text": TEXTS[: len(rows)], "label": rows})
            for name, rows in parts.items()
        }
    ).save_to_disk(tmp_path / "d")
    data = load_dataset(f"hf:{tmp_path / 'd'}")
    assert data.class_names == ("0", "1", "2")
    assert {name: split.labels.tolist() for name, split in data.splits.items()} == {
        "train": LABELS[:12],
        "test": LABELS[:6],
    }
    assert data.notes["parts_without_labels"] == ["test"]


def test_minus_one_may_be_a_class(tmp_path):
    labels = [(-1, 1)[number % 2] for number in range(24)]
    data = load_dataset(write(tmp_path, "csv", labels))
    assert data.class_names == ("-1", "1")
    parts = ["train"] * 18 + ["test"] * 6
    data = load_dataset(write(tmp_path, "csv", labels[:18] + [-1] * 6, split=parts))
    assert np.unique(data.splits["test"].labels).tolist() == [0]


def test_some_hidden_labels_for_testing_are_refused(tmp_path):
    parts = ["train"] * 12 + ["test"] * 12
    labels = [*LABELS[:20], -1, -1, -1, -1]
    with pytest.raises(CriticalMassError, match=r"column 'label' of .*4 of 12 labels of the test"):
        load_dataset(write(tmp_path, "parquet", labels, split=parts))


def test_only_hidden_labels_are_refused(tmp_path):
    with pytest.raises(CriticalMassError, match=r"'label' of .* is -1 \(no label\) in all rows"):
        load_dataset(write(tmp_path, "parquet", [-1] * 24))


@pytest.mark.filterwarnings("ignore:.* are also training ")
def test_labels_of_npz_files(tmp_path):
    x, y = np.ones((24, 3)), np.arange(24) % 2
    np.savez(tmp_path / "f.npz", embeddings=x, labels=y.astype(float))
    assert load_dataset(f"npz:{tmp_path / 'f.npz'}").class_names == ("0", "1")
    np.savez(tmp_path / "h.npz", x_train=x, y_train=y, x_test=x, y_test=np.full(24, -1))
    with pytest.raises(CriticalMassError, match="24 of 24 labels of the test part are -1"):
        load_dataset(f"npz:{tmp_path / 'h.npz'}")


def test_a_column_of_decimals_with_another_name_is_no_label(tmp_path):
    frame = pd.DataFrame({"text": TEXTS, "score": np.linspace(0, 1, 24)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert load_dataset(f"csv:{tmp_path / 't.csv'}").class_names == UNLABELLED
