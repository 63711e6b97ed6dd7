"""Tables: the choice of columns, the values of cells, and the splits."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from criticalmass.errors import CriticalMassError, DataUnavailableError, MissingExtraError
from criticalmass.extraction.datasets import UNLABELLED, load_dataset
from criticalmass.extraction.models import hub

datasets = pytest.importorskip("datasets")

words = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=12)


def csv(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_text(text)
    return f"csv:{tmp_path / name}"


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def all_samples(data):
    """Merge the splits: sample id -> (item, class name)."""
    return {
        name: (item, data.class_names[label])
        for split in data.splits.values()
        for name, item, label in zip(split.ids, split.items, split.labels, strict=True)
    }


@pytest.mark.filterwarnings("ignore:.* are also training ")
@pytest.mark.filterwarnings("ignore:.* always answering this majority class ")
@settings(max_examples=25, deadline=None)
@example([("0", "a")] * 9)
@given(st.lists(st.tuples(words, st.sampled_from("ab")), min_size=6, max_size=20))
def test_every_format_gives_back_what_was_written(tmp_path_factory, rows):
    rows = [("first", "a"), ("second", "a"), ("third", "b"), *rows]
    folder = tmp_path_factory.mktemp("t")
    table = pd.DataFrame(rows, columns=["text", "label"])
    table.to_csv(folder / "t.csv", index=False, lineterminator="\n")
    table.to_parquet(folder / "t.parquet")
    table.to_json(folder / "t.jsonl", orient="records", lines=True)
    datasets.Dataset.from_pandas(table).save_to_disk(folder / "hf")
    loaded = [
        load_dataset(f"{scheme}:{folder / name}")
        for scheme, name in (
            ("csv", "t.csv"),
            ("parquet", "t.parquet"),
            ("jsonl", "t.jsonl"),
            ("hf", "hf"),
        )
    ]
    assert len({data.digest for data in loaded}) == 1
    for data in loaded[:3]:
        assert all_samples(data) == {f"row-{number}": row for number, row in enumerate(rows)}


def test_published_parts_are_kept(tmp_path):
    lines = ["text,label,split", "a,0,train", "b,1,train", "c,0,validation", "d,1,test"]
    data = load_dataset(csv(tmp_path, "\n".join(lines)))
    assert {name: list(split.items) for name, split in data.splits.items()} == {
        "train": ["a", "b"],
        "test": ["d"],
        "val": ["c"],
    }
    data = load_dataset(csv(tmp_path, "\n".join(lines[:-1])))
    assert {name: list(split.items) for name, split in data.splits.items()} == {
        "train": ["a", "b"],
        "test": ["c"],
    }


def test_words_that_look_like_missing_values_are_words(tmp_path):
    data = load_dataset(csv(tmp_path, "text,label\nnull,NA\nnan,NA\n7,NULL\n8,NULL\n"))
    assert data.class_names == ("NA", "NULL")
    assert {item for item, _ in all_samples(data).values()} == {"null", "nan", "7", "8"}


def test_options_name_columns_and_separator(tmp_path):
    spec = csv(tmp_path, "id\tmemo\tkind\n1\t11\tx\n2\t12\tx\n3\t13\ty\n4\t14\ty\n", "t.tsv")
    data = load_dataset(f"{spec}?text=memo&label=kind")
    assert sorted(item for item, _ in all_samples(data).values()) == ["11", "12", "13", "14"]
    assert data.notes["columns"] == {"text": "memo", "label": "kind"}
    (tmp_path / "s.csv").write_text("text;label\na;0\nb;0\nc,c;1\n")
    data = load_dataset(f"csv:{tmp_path / 's.csv'}?sep=;")
    assert all_samples(data)["row-2"] == ("c,c", "1")


def test_images_are_paths_next_to_the_table_or_bytes_in_it(tmp_path):
    (tmp_path / "p").mkdir()
    for number in range(4):
        (tmp_path / "p" / f"{number}.png").write_bytes(png(number))
    listed = "".join(f"p/{n}.png,{n % 2}\n" for n in range(4))
    by_path = load_dataset(csv(tmp_path, "image,label\n" + listed))
    table = pa.table(
        {"image": [{"bytes": png(n), "path": None} for n in range(4)], "label": [0, 1, 0, 1]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    in_table = load_dataset(f"parquet:{tmp_path / 't.parquet'}")
    assert by_path.digest == in_table.digest
    for data in (by_path, in_table):
        for name, (item, label) in all_samples(data).items():
            number = int(name.removeprefix("row-"))
            assert item.getpixel((0, 0)) == (number, 0, 0)
            assert label == str(number % 2)


@pytest.mark.filterwarnings("ignore:.* are also training ")
def test_missing_and_broken_images_of_a_table_are_counted(tmp_path):
    (tmp_path / "good.png").write_bytes(png(1))
    (tmp_path / "bad.png").write_bytes(b"rubbish")
    names = ["good.png", "good.png", "gone.png", "good.png", "bad.png", "good.png"]
    spec = csv(tmp_path, "path,label\n" + "".join(f"{n},{i % 2}\n" for i, n in enumerate(names)))
    with pytest.raises(CriticalMassError, match="2 of 6 images") as caught:
        load_dataset(spec)
    assert "gone.png' (No such file or directory)" in str(caught.value)
    with pytest.warns(UserWarning, match="left out 2 images"):
        data = load_dataset(spec, skip_broken=True)
    assert sum(len(split) for split in data.splits.values()) == 4
    skipped = data.notes["skipped"]
    assert skipped["count"] == 2
    assert {(image["id"], image["reason"]) for image in skipped["images"]} == {
        ("row-2", "No such file or directory"),
        ("row-4", "no image of a known format"),
    }


def test_without_labels_there_is_one_class(tmp_path):
    data = load_dataset(csv(tmp_path, "text\na\nb\nc\nd\n"))
    assert data.class_names == UNLABELLED
    assert data.notes["split"].startswith("random, test share 0.25, seed 0")
    data = load_dataset(csv(tmp_path, "text,topic\na,1\nb,2\nc,3\nd,4\n") + "?label=none")
    assert data.class_names == UNLABELLED


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text,label\na,0\nb,1\n", "?text=txt", "column of .*'txt'; did you mean 'text'"),
        ("text,label\na,0\nb,1\n", "?label=lable", "did you mean 'label'"),
        ("text,label\na,0\n,1\nb,1\n", "", "'text' .* no value in 1 of 3 rows, first in row 1"),
        ("text,label\na,0\nb,\n", "", "'label' .* 1 of 2 labels are missing, first in row 1"),
        ("text,label\na,0.5\nb,1\n", "?label=label", "'label' .* row 0 is 0.5; .*whole numbers"),
        ("text,topic\na,0\nb,1\n", "", r"which column .* label\? it has 'topic' \(number\); name"),
        ("left,right\na,b\nb,c\n", "", r"texts or images\? it has 'left' \(text\), 'right'"),
        ("text,label\na,0\nb,1\n", "?text=text&image=text", "texts and images"),
        ("x,y\n1,2\n3,4\n", "", "holds the texts or images"),
        ("text,label,split\na,0,tain\nb,1,test\n", "", "has the parts 'tain', 'test'; it needs"),
        ("text,label\na,0\nb,1\n", "?sep=--", "must be one character"),
        ("text,label\na,0\nb,1,5\n", "", "line 3 of .* has 3 cells, but there are 2 columns"),
        ("", "", "is empty"),
        ("text,label\n", "", "no rows"),
    ],
)
def test_bad_tables_get_one_line(tmp_path, content, options, message):
    with pytest.raises(CriticalMassError, match=message) as caught:
        load_dataset(csv(tmp_path, content) + options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_other_encodings_are_refused_in_the_words_of_the_user(tmp_path, encoding):
    (tmp_path / "t.csv").write_text("text,label\nä,0\nö,1\n", encoding=encoding)
    with pytest.raises(CriticalMassError, match=r"line [12] of .*t\.csv' is no UTF-8 text; save"):
        load_dataset(f"csv:{tmp_path / 't.csv'}")


def test_packed_tables_and_lists_of_objects_are_read(tmp_path):
    rows = [{"text": f"t{number}", "label": number % 2} for number in range(8)]
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "t.csv.gz", index=False)
    (tmp_path / "t.json").write_text(json.dumps(rows))
    table.to_json(tmp_path / "t.jsonl.gz", orient="records", lines=True)
    for spec in ("csv:t.csv.gz", "jsonl:t.json", "jsonl:t.jsonl.gz"):
        scheme, _, name = spec.partition(":")
        data = load_dataset(f"{scheme}:{tmp_path / name}")
        assert set(all_samples(data).values()) == {(f"t{i}", str(i % 2)) for i in range(8)}


def test_vectors_belong_to_import(tmp_path):
    pq.write_table(pa.table({"v": [[1.0, 2.0]] * 4, "label": [0, 1, 0, 1]}), tmp_path / "v.parquet")
    with pytest.raises(CriticalMassError, match="criticalmass import"):
        load_dataset(f"parquet:{tmp_path / 'v.parquet'}")
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "a"}) + "\nrubbish\n")
    with pytest.raises(CriticalMassError, match=r"line 2 of .*t\.jsonl' is not a JSON object"):
        load_dataset(f"jsonl:{tmp_path / 't.jsonl'}")
    with pytest.raises(CriticalMassError, match="no file"):
        load_dataset("jsonl:nowhere.jsonl")


# The datasets library


def saved(tmp_path, parts, kinds):
    dataset_of_part = {
        part: datasets.Dataset.from_dict(rows, features=kinds) for part, rows in parts.items()
    }
    datasets.DatasetDict(dataset_of_part).save_to_disk(tmp_path / "d")
    return f"hf:{tmp_path / 'd'}"


KINDS = datasets.Features(
    {
        "idx": datasets.Value("int32"),
        "sentence": datasets.Value("string"),
        "grade": datasets.ClassLabel(names=["bad", "good"]),
    }
)


def rows(n, grades):
    return {"idx": list(range(n)), "sentence": [f"s{i}" for i in range(n)], "grade": grades}


@pytest.mark.filterwarnings("ignore:.* are also training ")
def test_columns_are_chosen_by_type(tmp_path):
    parts = {"train": rows(4, [0, 1, 1, 0]), "validation": rows(2, [1, 0])}
    data = load_dataset(saved(tmp_path, {**parts, "test": rows(3, [-1, -1, -1])}, KINDS))
    assert data.class_names == ("bad", "good")
    assert {name: split.labels.tolist() for name, split in data.splits.items()} == {
        "train": [0, 1, 1, 0],
        "test": [1, 0],
    }
    assert data.notes["parts_without_labels"] == ["test"]
    assert data.notes["columns"] == {"text": "sentence", "label": "grade"}


def test_single_samples_without_a_label_are_refused(tmp_path):
    spec = saved(tmp_path, {"train": rows(4, [0, 1, -1, 0]), "test": rows(2, [1, 0])}, KINDS)
    with pytest.raises(CriticalMassError, match="1 of 4 samples in the part 'train'"):
        load_dataset(spec)
    data = load_dataset(f"{spec}?label=none")
    assert data.class_names == UNLABELLED
    assert np.unique(data.splits["train"].labels).tolist() == [0]


def test_a_folder_without_a_saved_dataset_is_refused(tmp_path):
    with pytest.raises(CriticalMassError, match="no dataset written by save_to_disk") as caught:
        load_dataset(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_the_hub_that_cannot_be_reached(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "is_hub_reachable", lambda: False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(DataUnavailableError, match="no folder 'someone/nothing'") as caught:
        load_dataset("hf:someone/nothing")
    assert "\n" not in str(caught.value)


def test_the_library_may_be_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"the extra \[data\]"):
        load_dataset("hf:anything")
