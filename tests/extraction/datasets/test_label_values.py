"""Labels of datasets are judged by their values, in every source."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import UNLABELLED, load_dataset

N = 40
TEXTS = [f"sentence number {row}" for row in range(N)]


def write(folder, kind, labels, **columns):
    """Write a table of texts and labels; return its spec."""
    frame = pd.DataFrame({"text": TEXTS, "label": labels, **columns})
    path = folder / f"t.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return f"{kind}:{path}"


KINDS = pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])


@KINDS
@pytest.mark.parametrize("label", [float, int], ids=["floats", "integers"])
def test_whole_numbers_are_classes(tmp_path, kind, label):
    data = load_dataset(write(tmp_path, kind, [label(row % 3) for row in range(N)]))
    assert data.class_names == ("0", "1", "2")
    for split in data.splits.values():
        rows = [int(name.removeprefix("row-")) for name in split.ids]
        np.testing.assert_array_equal(split.labels, np.array(rows) % 3)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_lists_of_one_label_are_labels(tmp_path, kind):
    data = load_dataset(write(tmp_path, kind, [[("a", "b")[row % 2]] for row in range(N)]))
    assert data.class_names == ("a", "b")
    with pytest.raises(CriticalMassError, match=r"row 0 has 2 labels; .* label=none"):
        load_dataset(write(tmp_path, kind, [["a", "b"]] * N))


@KINDS
def test_missing_labels_are_counted(tmp_path, kind):
    labels = [None if row in (3, 9) else float(row % 2) for row in range(N)]
    with pytest.raises(CriticalMassError) as caught:
        load_dataset(write(tmp_path, kind, labels))
    message = str(caught.value)
    assert "column 'label' of " in message
    assert "2 of 40 labels are missing, first in row 3" in message
    assert message.endswith("label=none")


@KINDS
def test_fractions_are_refused_with_the_cure(tmp_path, kind):
    spec = write(tmp_path, kind, [row / 4 for row in range(N)])
    with pytest.raises(CriticalMassError, match=r"label in row 1 is 0.25; .* label=none$"):
        load_dataset(spec)
    assert load_dataset(f"{spec}?label=none").class_names == UNLABELLED


@KINDS
def test_a_test_part_of_hidden_labels_is_left_out(tmp_path, kind):
    split = ["train"] * 30 + ["test"] * 10
    spec = write(tmp_path, kind, [row % 2 for row in range(30)] + [-1] * 10, split=split)
    data = load_dataset(spec)
    assert data.class_names == ("0", "1")
    assert sum(len(part) for part in data.splits.values()) == 30
    data = load_dataset(write(tmp_path, kind, [2 * (row % 2) - 1 for row in range(N)], split=split))
    assert data.class_names == ("-1", "1")


def test_labels_of_the_datasets_library_that_are_plain_numbers(tmp_path):
    datasets = pytest.importorskip("datasets")

    def part(labels):
        return datasets.Dataset.from_dict({"text": TEXTS[: len(labels)], "label": labels})

    parts = {"train": part([row % 2 for row in range(30)]), "test": part([-1] * 10)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    data = load_dataset(f"hf:{tmp_path / 'd'}")
    assert data.class_names == ("0", "1")
    assert sum(len(part) for part in data.splits.values()) == 30
    floats = {"train": part([float(row % 2) for row in range(30)]), "test": part([0.0, 1.0] * 5)}
    datasets.DatasetDict(floats).save_to_disk(tmp_path / "f")
    assert load_dataset(f"hf:{tmp_path / 'f'}").class_names == ("0", "1")


def test_labels_of_npz_files(tmp_path):
    x = np.ones((N, 3))
    np.savez(tmp_path / "f.npz", X=x, y=(np.arange(N) % 2).astype(float))
    assert load_dataset(f"npz:{tmp_path / 'f.npz'}").class_names == ("0", "1")
    np.savez(
        tmp_path / "h.npz", x_train=x, y_train=np.arange(N) % 2, x_test=x, y_test=np.full(N, -1)
    )
    with pytest.raises(CriticalMassError, match="40 of 40 labels of the test part are -1"):
        load_dataset(f"npz:{tmp_path / 'h.npz'}")


def test_a_column_of_decimals_with_another_name_is_no_label(tmp_path):
    frame = pd.DataFrame({"text": TEXTS, "score": np.linspace(0, 1, N)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert load_dataset(f"csv:{tmp_path / 't.csv'}").class_names == UNLABELLED
