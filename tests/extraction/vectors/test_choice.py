"""Which columns and arrays are read: what could hold the vectors is read or refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from scipy import sparse

import criticalmass as cm
from criticalmass.core import progress
from criticalmass.errors import CriticalMassError

N, D = 60, 5
X = np.random.default_rng(11).normal(size=(N, D)).astype(np.float32)
Y = np.arange(N) % 3
KINDS = np.array(["ant", "bee", "cat"])[Y]
WIDE = {f"d{i}": X[:, i] for i in range(D)}


@pytest.fixture
def said(capsys):
    """Return what was written to stderr, with progress on."""
    with progress.display():
        yield lambda: capsys.readouterr().err


def table(folder, **columns):
    columns = {"id": np.arange(N), **columns, "label": KINDS, "price": np.linspace(0, 1, N)}
    pq.write_table(pa.table(columns), folder / "v.parquet")
    return folder / "v.parquet"


def rows(store):
    parts = {split: store.features(split).array() for split in ("train", "test")}
    ids = [int(name.split("-")[1]) for split in parts for name in store.sample_ids(split)]
    return np.concatenate(list(parts.values()))[np.argsort(ids)]


# Columns that could hold vectors, but in no form that can be read

UNREADABLE = {
    "structs with two lists": (
        "e",
        [{"indices": [1], "values": row} for row in X.tolist()],
        "struct<",
    ),
    "several vectors per row": ("e", [[row, row] for row in X.tolist()], "list<"),
    "tensors with two axes": (
        "e",
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((N, 2, 3), np.float32)),
        "tensor",
    ),
    "lists of booleans": ("e", [[True, False]] * N, "list<"),
    "bytes": ("embedding", [row.tobytes() for row in X], "binary"),
    "bytes of a model": ("embedding_v3", [row.tobytes() for row in X], "binary"),
    "nothing": ("vector", pa.nulls(N), "null"),
    "other texts": ("embedding", ["see attachment"] * N, "the text 'see attachment'"),
    "base64": ("features", ["P4AAAEAAAABAQAAAQIAAAECgAAA="] * N, "the text 'P4AA"),
    "numbers without brackets": ("x", ["0.1 0.2 0.3"] * N, "the text '0.1 0.2 0.3'"),
    "arrays of NumPy 2 as texts": ("emb", [str(list(row)) for row in X], r"text '\[np.float32"),
    "lists of texts": ("embeddings", [["a", "b"]] * N, "list<"),
}


@pytest.mark.parametrize("case", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("with_numbers", [False, True], ids=["keys", "wide"])
def test_a_column_that_cannot_be_read_is_named_with_its_type(tmp_path, case, with_numbers):
    name, cells, what = case
    path = table(tmp_path, **{name: cells}, **(WIDE if with_numbers else {}))
    with pytest.raises(CriticalMassError) as caught:
        cm.import_features(path, out=tmp_path / "s")
    message = str(caught.value)
    assert message.startswith(f"column {name!r} of '{path}' could hold the vectors")
    assert re.search(what, message)
    assert "write it as a column of lists of numbers" in message
    assert ("column='d*'" in message) == with_numbers
    assert "\n" not in message
    assert not (tmp_path / "s").exists()


def test_a_pattern_reads_the_columns_beside_an_unreadable_one(tmp_path):
    path = table(tmp_path, embedding=[b"1"] * N, **WIDE)
    store = cm.import_features(path, out=tmp_path / "s", column="d*")
    np.testing.assert_array_equal(rows(store), X)


@pytest.mark.filterwarnings("ignore:.* are also training ")
def test_an_unreadable_name_is_not_replaced_by_another_list(tmp_path):
    path = table(tmp_path, tokens=[[1, 2, 3]] * N, embedding=[row.tobytes() for row in X])
    with pytest.raises(CriticalMassError, match=r"column 'embedding' .* could hold the vectors"):
        cm.import_features(path, out=tmp_path / "s")
    store = cm.import_features(path, out=tmp_path / "s", column="tokens")
    assert store.features("train").shape[1] == 3


def test_the_only_column_named_like_vectors_is_read(tmp_path):
    path = table(tmp_path, tokens=[[1, 2, 3]] * N, embedding=list(X), note=["[1, 2]"] * N)
    store = cm.import_features(path, out=tmp_path / "s")
    np.testing.assert_array_equal(rows(store), X)
    assert store.manifest["dataset"]["notes"]["vectors"] == (
        "read of v.parquet: column 'embedding' (lists of float); "
        "not read of v.parquet: 'id', 'tokens', 'note', 'price'"
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"embedding": list(X), "vector": list(X)}, "'embedding' or 'vector'"),
        ({"a": list(X), "b": list(X)}, "'a' or 'b'"),
        ({"embedding": list(X), "text_vec": ["[1]"] * N}, "'embedding' or 'text_vec'"),
        ({"box": ["[1, 2]"] * N, **WIDE}, "'box' or the 5 columns of numbers 'd0', .*, a pattern"),
        ({"box": [[[1, 2]]] * N, **WIDE}, "'box' or the 5 columns of numbers 'd0', .*, a pattern"),
    ],
)
def test_several_columns_that_could_hold_vectors_are_refused(tmp_path, columns, message):
    with pytest.raises(CriticalMassError, match=f"holds the vectors, {message}"):
        cm.import_features(table(tmp_path, **columns), out=tmp_path / "s")


def test_texts_and_lists_of_texts_are_no_vectors(tmp_path):
    path = table(tmp_path, features=["soft, warm"] * N, tags=[["a", "b"]] * N, **WIDE)
    store = cm.import_features(path, out=tmp_path / "s")
    np.testing.assert_array_equal(rows(store), X)


# One column per neuron


def test_keys_labels_and_prices_are_no_neurons(tmp_path, said):
    others = {
        "Unnamed: 0": np.arange(N),
        "__index_level_0__": np.arange(N),
        "doc_id": np.arange(N),
        "score": X[:, 0],
        "sale price": X[:, 1],
        "timestamp": X[:, 2],
    }
    path = table(tmp_path, **others, **WIDE)
    store = cm.import_features(path, out=tmp_path / "s")
    np.testing.assert_array_equal(rows(store), X)
    line = next(line for line in said().splitlines() if line.startswith("v.parquet: 60 rows"))
    assert line == (
        "v.parquet: 60 rows of 5 numbers from 5 columns of numbers, 'd0', 'd1', 'd2', 'd3', 'd4'; "
        "labels: column 'label'; not read: 'id', 'Unnamed: 0', '__index_level_0__', 'doc_id', "
        "'score', 'sale price', 'timestamp', 'price'"
    )


def test_coordinates_are_no_labels(tmp_path):
    frame = pd.DataFrame({"x": X[:, 0], "y": X[:, 1], "label": KINDS})
    frame.to_parquet(tmp_path / "v.parquet")
    frame.to_csv(tmp_path / "v.csv")
    for name in ("v.parquet", "v.csv"):
        store = cm.import_features(tmp_path / name, out=tmp_path / f"{name}-s")
        np.testing.assert_array_equal(rows(store), X[:, :2])
        assert store.class_names == ("ant", "bee", "cat")
    frame.assign(y=Y).drop(columns="label").to_parquet(tmp_path / "w.parquet")
    store = cm.import_features(tmp_path / "w.parquet", out=tmp_path / "w")
    assert (rows(store).shape[1], store.class_names) == (1, ("0", "1", "2"))


def test_keys_alone_are_refused_unless_they_are_named(tmp_path):
    path = table(tmp_path)
    with pytest.raises(
        CriticalMassError, match=r"holds no vectors: .* if 'id', 'price' are neurons"
    ):
        cm.import_features(path, out=tmp_path / "s")
    store = cm.import_features(path, out=tmp_path / "s", column="*")
    np.testing.assert_array_equal(rows(store)[:, 0], np.arange(N))
    with pytest.raises(CriticalMassError, match=r"column='d\*' matches no column of numbers in"):
        cm.import_features(path, out=tmp_path / "t", column="d*")


def test_a_neuron_of_whole_numbers_is_no_key(tmp_path):
    columns = {**WIDE, "d2": np.arange(N)}
    store = cm.import_features(table(tmp_path, **columns, age=np.arange(N)), out=tmp_path / "s")
    np.testing.assert_array_equal(rows(store)[:, 2], np.arange(N))
    assert rows(store).shape == (N, D)
    assert "'age'" in store.manifest["dataset"]["notes"]["vectors"]


def test_a_table_that_the_first_versions_could_read_has_the_same_notes(tmp_path):
    plain = {"split": "stratified, test share 0.25, seed 0", "labels": "column 'label'"}
    for number, columns in enumerate([{"v": list(X)}, WIDE]):
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table({**columns, "label": KINDS, "n": np.arange(N)}), path)
        store = cm.import_features(path, out=tmp_path / f"{number}", labels="label")
        assert store.manifest["dataset"]["notes"] == {
            **plain,
            "vectors": "not read of t.parquet: 'n'",
        }
    assert "vectors" not in cm.import_features(X, out=tmp_path / "x").manifest["dataset"]["notes"]
    frame = cm.import_features(pd.DataFrame(X), out=tmp_path / "f")
    assert "vectors" not in frame.manifest["dataset"]["notes"]


# Labels that are found by their name


@pytest.mark.parametrize("name", ["label", "labels", "target", "class", "y", "Label", "TARGET"])
def test_labels_are_found_by_their_name(tmp_path, name):
    arrays = {"embeddings": X, name: Y, "ids": np.arange(N)}
    frame = pd.DataFrame({"embedding": list(X), name: KINDS})
    frame.to_parquet(tmp_path / "v.parquet")
    pd.DataFrame(X).assign(**{name: KINDS}).to_csv(tmp_path / "v.csv")
    frame.to_json(tmp_path / "v.jsonl", orient="records", lines=True)
    np.savez(tmp_path / "v.npz", **arrays)
    save_file(arrays, tmp_path / "v.safetensors")
    for suffix, names in (
        ("parquet", ("ant", "bee", "cat")),
        ("csv", ("ant", "bee", "cat")),
        ("jsonl", ("ant", "bee", "cat")),
        ("npz", ("0", "1", "2")),
        ("safetensors", ("0", "1", "2")),
    ):
        store = cm.import_features(tmp_path / f"v.{suffix}", out=tmp_path / suffix)
        assert store.class_names == names
        ids = [int(key.split("-")[1]) for key in store.sample_ids("train")]
        np.testing.assert_array_equal(store.labels("train"), Y[ids])
        named = cm.import_features(tmp_path / f"v.{suffix}", out=tmp_path / "n", labels=name)
        if (suffix, name) != ("npz", "y"):  # whose note is that of the first versions
            assert named.manifest == store.manifest
        for path in sorted((tmp_path / "n").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def test_two_names_of_labels_are_refused(tmp_path):
    path = table(tmp_path, v=list(X), Target=Y)
    with pytest.raises(CriticalMassError, match=r"labels, 'Target' or 'label'\? .*--labels") as e:
        cm.import_features(path, out=tmp_path / "s")
    assert "'none' stands for no labels" in str(e.value)
    assert cm.import_features(path, out=tmp_path / "t", labels="Target").class_names == (
        "0",
        "1",
        "2",
    )
    np.savez(tmp_path / "v.npz", embeddings=X, y=Y, labels=KINDS)
    with pytest.raises(CriticalMassError, match="'y' or 'labels'"):
        cm.import_features(tmp_path / "v.npz", out=tmp_path / "s")


def test_labels_can_be_left_out(tmp_path):
    path = table(tmp_path, v=list(X))
    store = cm.import_features(path, out=tmp_path / "s", labels="none")
    assert store.class_names == ("unlabelled",)
    assert store.manifest["dataset"]["notes"]["labels"] == "none"
    assert (
        "not read of v.parquet: 'id', 'label', 'price'"
        in (store.manifest["dataset"]["notes"]["vectors"])
    )


def test_an_array_of_class_names_is_no_array_of_labels(tmp_path):
    np.savez(tmp_path / "v.npz", X=X, y=Y, labels=np.array(["ant", "bee", "cat"]))
    assert cm.import_features(tmp_path / "v.npz", out=tmp_path / "s").class_names == ("0", "1", "2")
    np.savez(tmp_path / "w.npz", X=X, labels=np.array(["ant", "bee", "cat"]))
    with pytest.raises(
        CriticalMassError, match=r"'labels' .* shape \(3,\), but there are 60 .* none"
    ):
        cm.import_features(tmp_path / "w.npz", out=tmp_path / "t")


def test_a_named_array_and_its_labels_are_a_warning(tmp_path):
    np.savez(tmp_path / "v.npz", a=X, b=X + 1, labels=KINDS)
    with pytest.warns(UserWarning, match="the labels are array 'labels'; labels='none'"):
        store = cm.import_features(tmp_path / "v.npz", out=tmp_path / "s", column="b")
    assert store.class_names == ("ant", "bee", "cat")
    np.testing.assert_array_equal(rows(store), X + 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([None, *KINDS[1:]], "column 'label' .* 1 of 60 labels are missing, first in row 0"),
        (np.arange(N) / 7, "row 1 is 0.14.*regression is not supported"),
        ([["a", "b"]] * N, "row 0 has 2 labels"),
    ],
)
def test_unsuitable_labels_are_refused_with_both_cures(tmp_path, labels, message):
    pq.write_table(pa.table({"v": list(X), "label": labels}), tmp_path / "v.parquet")
    with pytest.raises(CriticalMassError, match=message) as caught:
        cm.import_features(tmp_path / "v.parquet", out=tmp_path / "s")
    assert "or leave the labels out with labels='none' (--labels none)" in str(caught.value)


def test_hidden_labels_of_a_test_part_are_refused(tmp_path):
    np.savez(
        tmp_path / "v.npz", X_train=X[:40], y_train=Y[:40], X_test=X[40:], y_test=np.full(20, -1)
    )
    with pytest.raises(CriticalMassError, match=r"array 'y_test' .* 20 of 20 labels of the test"):
        cm.import_features(tmp_path / "v.npz", out=tmp_path / "s")
    binary = np.where(Y == 0, -1, 1)
    assert cm.import_features(X, out=tmp_path / "t", labels=binary).class_names == ("-1", "1")


def test_one_part_with_labels_is_refused(tmp_path):
    np.savez(tmp_path / "v.npz", x_train=X[:40], y_train=Y[:40], x_test=X[40:])
    with pytest.raises(CriticalMassError, match="labels 'y_train', but none of the test part"):
        cm.import_features(tmp_path / "v.npz", out=tmp_path / "s")
    store = cm.import_features(tmp_path / "v.npz", out=tmp_path / "s", labels="none")
    assert store.class_names == ("unlabelled",)


# Named arrays


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": X, "arr_1": X}, r"It has 'arr_0' \[60, 5\], 'arr_1' \[60, 5\]; it must hold"),
        ({"embeddings": X.reshape(N, 1, D), "neighbours": X}, r"It has 'embeddings' \[60, 1, 5\]"),
        ({"embeddings": X.reshape(N, 1, D)}, r"has shape \(60, 1, 5\); .* flatten the other axes"),
        ({"a": np.arange(3), "b": np.arange(4)}, r"It has 'a' \[3\], 'b' \[4\]"),
        ({"weight": np.ones((3, 4)), "bias": np.ones(3)}, "weights of a network .* --weights FILE"),
        ({"labels": np.arange(3), "y": np.arange(3)}, r"It has 'labels' \[3\], 'y' \[3\]"),
    ],
)
def test_arrays_without_a_clear_choice_are_listed(tmp_path, arrays, message):
    torch = pytest.importorskip("torch")
    np.savez(tmp_path / "v.npz", **arrays)
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, tmp_path / "v.safetensors")
    torch.save({k: torch.tensor(v) for k, v in arrays.items()}, tmp_path / "v.pt")
    for name in ("v.npz", "v.safetensors", "v.pt"):
        with pytest.raises(CriticalMassError, match=message):
            cm.import_features(tmp_path / name, out=tmp_path / "s")


def test_the_one_array_named_like_vectors_is_read(tmp_path, said):
    np.savez(tmp_path / "v.npz", neighbours=np.zeros((N, 9), int), Features=X, labels=KINDS)
    store = cm.import_features(tmp_path / "v.npz", out=tmp_path / "s")
    np.testing.assert_array_equal(rows(store), X)
    assert "from array 'Features'; labels: array 'labels'; not read: 'neighbours'\n" in said()


def test_objects_in_an_archive_are_refused(tmp_path):
    np.savez(tmp_path / "v.npz", embeddings=X, labels=np.array(KINDS, dtype=object))
    with pytest.raises(CriticalMassError, match=r"array 'labels' .* Python objects, .*astype") as e:
        cm.import_features(tmp_path / "v.npz", out=tmp_path / "s")
    assert "allow_pickle" not in str(e.value)
    np.savez(tmp_path / "w.npz", embeddings=np.array([None, X], dtype=object), other=X)
    with pytest.raises(CriticalMassError, match=r"which array .* 'embeddings'"):
        cm.import_features(tmp_path / "w.npz", out=tmp_path / "s")


# What is said


def test_two_lines_say_what_was_read_and_what_is_there_now(tmp_path, said):
    store = cm.import_features(table(tmp_path, embedding=list(X)), out=tmp_path / "s")
    lines = said().splitlines()
    assert lines[0] == (
        "v.parquet: 60 rows of 5 numbers from column 'embedding' (lists of float); "
        "labels: column 'label'; not read: 'id', 'price'"
    )
    counts = "60 rows, 5 neurons, 3 classes, 45 train and 15 test samples"
    assert lines[-1] == f"{store.path}: {counts}; vectors copied"


def test_a_hundred_columns_that_are_not_read_stay_one_line(tmp_path, said):
    others = {f"note{i}": ["text"] * N for i in range(100)}
    pq.write_table(pa.table({**others, "embedding": list(X)}), tmp_path / "v.parquet")
    store = cm.import_features(tmp_path / "v.parquet", out=tmp_path / "s")
    assert "not read: 'note0', 'note1', " in said()
    assert "'note99'" in store.manifest["dataset"]["notes"]["vectors"]


def test_classes_that_lack_samples_are_named(tmp_path, said):
    y = np.r_[np.zeros(50, int), np.ones(9, int), [2]]
    store = cm.import_features(X, out=tmp_path / "s", labels=np.array(["a", "b", "rare"])[y])
    text = said()
    assert store.manifest["dataset"]["notes"]["classes"] in text
    assert "1 class has no test sample, not to be scored: 'rare'" in text
    assert "1 class has a single training sample, hardly to be learnt: 'rare'" in text
    assert "60 rows, 5 neurons, 3 classes, 46 train and 14 test samples" in text


def test_scores_that_would_mislead_are_a_warning(tmp_path):
    parts = {"train": X[:40], "test": X[40:]}
    labels = {"train": np.arange(40) % 4, "test": np.arange(20) % 2 + 4}
    with pytest.warns(UserWarning, match="2 classes of the test part have no training .*'4', '5'"):
        cm.import_features(parts, out=tmp_path / "s", labels=labels)
    x = np.arange(800, dtype=np.float32).reshape(400, 2)
    with pytest.warns(UserWarning, match=r"99.0% of the samples are of class 'False': .* majority"):
        cm.import_features(x, out=tmp_path / "t", labels=np.arange(400) >= 396)


# Errors name the user's file, column and row


def write_csv(folder, text):
    (folder / "v.csv").write_text(text)
    return folder / "v.csv"


def write_jsonl(folder, *lines):
    (folder / "v.jsonl").write_text("\n".join(lines))
    return folder / "v.jsonl"


def good_rows(n, row):
    return [row] * n


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda f: write_csv(f, "a,b\n1,2\n3,4,5\n"),
            "line 3 of .*v.csv' has 3 cells, but .* 2 col",
        ),
        (lambda f: write_csv(f, "a,b\n"), "v.csv' has no rows"),
        (lambda f: write_csv(f, ""), "v.csv' has no first line with the names of its columns"),
        (lambda f: write_csv(f, "a,a\n1,2\n"), "has 2 columns 'a'"),
        (lambda f: write_csv(f, "d0,d1\n" + "1,2\n" * 300 + "1,x\n"), "'d1' .* 'x' in row 300"),
        (
            lambda f: write_csv(f, "d0,d1\n" + "1,2\n" * 300 + "1,\n"),
            "'d1' .* no number in row 300",
        ),
        (
            lambda f: write_csv(f, "d0;d1\n" + "1.5;2,5\n"),
            "'d1' .* is named like the neurons, 'd0'",
        ),
        (lambda f: write_csv(f, "d0,d1\n1,2\n1,NA\n1,2\n"), "'d1' .* the text 'NA' in row 1"),
        (lambda f: write_csv(f, 'd0,d1\n1,2\n1,"1,234"\n1,2\n'), "'1,234' in row 1, but numbers"),
        (
            lambda f: write_csv(f, 't,d\n"a,1\nb,2\nc",3\n'),
            r"starts in line 2 of .* holds line 3, which is a row with the d '2'",
        ),
        (lambda f: write_csv(f, 'e\n"[1, 2]"\n"[1, 2, 3]"\n'), "3 numbers in row 1 and 2 in row 0"),
        (lambda f: write_csv(f, 'e\n"[1, 2]"\n"[1, b]"\n'), r"'e' .* the text '\[1, b\]'"),
        (lambda f: write_csv(f, "e\n" + '"[1, 2]"\n' * 30 + '"[1, b]"\n'), r"\[1, b\]' in row 30;"),
        (
            lambda f: write_csv(f, "e,n\n" + '"[1, 2]",a\n' * 30 + ",a\n"),
            "no vector in row 30; drop",
        ),
        (
            lambda f: write_csv(f, 'e\n"[1, 2]"\n"[1, nan]"\n'),
            "in 1 of the rows 0 to 1, first in row 1; drop",
        ),
        (lambda f: write_csv(f, 'e\n"[1, 2]"\n"[1, 1e60]"\n'), r"1e\+60 in row 1, .* too large"),
        (lambda f: write_jsonl(f, '{"e": [1, 2]}', "{oops}"), "line 2 of .*v.jsonl' is not a JSON"),
        (lambda f: write_jsonl(f, '{"e": [1, 2]}', '"a"'), "line 2 of .*v.jsonl' is not a JSON"),
        (
            lambda f: write_jsonl(f, '{"e": [1, 2]}', '{"e": [1]}'),
            "1 numbers in row 1 and 2 in row 0",
        ),
        (lambda f: write_jsonl(f, '{"e": [1, 2]}', '{"e": null}'), "'e' .* no vector in row 1"),
        (
            lambda f: write_jsonl(f, '{"e": [1, 2]}', '{"e": [1, null]}'),
            "lack a number, first in row 1",
        ),
        (
            lambda f: write_jsonl(f, *good_rows(300, '{"e": [1, 2]}'), '{"e": "?"}'),
            r"column 'e' of .* has '\?' in row 300, but list<item: int64> in the first rows",
        ),
        (lambda f: write_jsonl(f, "[" * 100_000), "line 1 of .* is not a JSON object"),
        (lambda f: write_jsonl(f, ""), "has no rows"),
    ],
)
def test_bad_text_files_get_one_line(tmp_path, make, message):
    with pytest.raises(CriticalMassError, match=message) as caught:
        cm.import_features(make(tmp_path), out=tmp_path / "s")
    text = str(caught.value)
    assert "\n" not in text
    assert "v.csv" in text or "v.jsonl" in text
    assert not re.search("Arrow|CSV parse|cast|pyarrow|Traceback", text)
    assert not (tmp_path / "s").exists()


def test_a_column_named_like_the_neurons_is_never_dropped(tmp_path):
    frame = pd.DataFrame({"d0": [0.5, 1.5], "d1": ["a", "b"], "d2": [2.5, 3.5]})
    for values in (frame, frame.assign(note="text")):
        for options in ({}, {"column": "d*"}):
            with pytest.raises(CriticalMassError, match=r"'d1' of .* named like the neurons, 'd0'"):
                cm.import_features(values, out=tmp_path / "s", **options)


def test_a_first_line_of_values_is_a_row(tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 9))
    lines = [",".join([*map(repr, row.tolist()), "ab"[i % 2]]) for i, row in enumerate(x)]
    path = write_csv(tmp_path, "\n".join(lines))
    store = cm.import_features(path, out=tmp_path / "rows", labels="column_9")
    assert store.class_names == ("a", "b")
    assert rows(store).shape == (12, 9)
    # Wavelengths are names, although they are numbers.
    names = ",".join(str(400.5 + index) for index in range(9))
    path = write_csv(tmp_path, "\n".join([f"{names},label", *lines]))
    store = cm.import_features(path, out=tmp_path / "names")
    assert store.class_names == ("a", "b")
    assert rows(store).shape == (12, 9)


def test_labels_of_several_types_in_a_data_frame_keep_their_values(tmp_path, said):
    frame = pd.DataFrame({"e": list(X[:20]), "label": [1, "x"] * 10})
    store = cm.import_features(frame, out=tmp_path / "s")
    assert store.class_names == ("1", "x")
    assert "texts and numbers are mixed" in said()
    frame.loc[3, "label"] = None
    with pytest.raises(CriticalMassError, match=r"'label' of the table: 1 of 20 .*row 3"):
        cm.import_features(frame, out=tmp_path / "t")
    frame["label"] = pd.cut(np.arange(20.0), 2)
    assert len(cm.import_features(frame, out=tmp_path / "u").class_names) == 2


def test_other_encodings_are_refused(tmp_path):
    for encoding in ("utf-16", "cp1252"):
        frame = pd.DataFrame({"d0": [0.5, 1.5], "d1": [2.5, 3.5], "ä": ["ö", "ü"]})
        frame.to_csv(tmp_path / "v.csv", encoding=encoding, index=False)
        with pytest.raises(CriticalMassError, match=r"cannot be read as CSV.* UTF-8"):
            cm.import_features(tmp_path / "v.csv", out=tmp_path / "s")


def test_a_bad_row_of_a_later_block_is_named(tmp_path):
    values = [[1.0, 2.0]] * 20_000
    values[17_000] = [1.0, float("nan")]
    pq.write_table(pa.table({"e": values}), tmp_path / "v.parquet")
    with pytest.raises(
        CriticalMassError, match=r"column 'e' of .* is not finite in 1 of .*, first in row 17000"
    ):
        cm.import_features(tmp_path / "v.parquet", out=tmp_path / "s")
    pq.write_table(pa.table({"e": [json.dumps(row[:1]) for row in values]}), tmp_path / "w.parquet")
    values[17_000] = "[1, ?]"
    texts = [row if isinstance(row, str) else json.dumps(row) for row in values]
    pq.write_table(pa.table({"e": texts}), tmp_path / "w.parquet")
    with pytest.raises(CriticalMassError, match=r"the text '\[1, \?\]' in row 17000"):
        cm.import_features(tmp_path / "w.parquet", out=tmp_path / "s")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.DataFrame({"a": ["x"] * 4}), "the table holds no vectors: .* 'a' \\("),
        (pd.DataFrame({"id": [1, 2], "label": [0, 1]}), "the table holds no vectors"),
        (
            pd.DataFrame({"embedding": [1 + 2j, {}], "d": [1.0, 2.0]}),
            "column 'embedding' of the table",
        ),
        (pd.Series([[1.0], [1.0, 2.0]]), "has 2 numbers in row 1 and 1 in row 0"),
        (pd.Series([[1.0], None]), "in row 1"),
        (pd.Series(["[1, 2]", "oops"]), "the text 'oops' in row 1"),
        ((np.ones((4, 2)), np.ones(4)), "a tuple of 2 arrays .* give labels as labels="),
        ({"X": np.ones((4, 2)), "y": np.ones(4)}, "and not 'X', 'y'; give labels as labels="),
        (pd.DataFrame({"d0": [1.0, None], "d1": [1.0, 2.0]}), "the table is not finite in 1 row,"),
        (np.ones((4, 3), bool), "the array of vectors is of type bool; it must hold real numbers"),
        (np.ones((4, 3, 2)), r"has shape \(4, 3, 2\); .*x.reshape"),
        (np.full((4, 3), 1e300), r"1e\+300 in row 0, which is too large for float32"),
        (sparse.csr_array((10**6, 10**5)), "would take 400,000,000,000 bytes .*TruncatedSVD"),
        (pa.array([[1.0], [1.0, 2.0]]), "has 2 numbers in row 1 and 1 in row 0"),
        (pa.table({"v": pa.array([], pa.list_(pa.float32()))}), "the table has no rows"),
    ],
)
def test_bad_objects_get_one_line(tmp_path, values, message):
    with pytest.raises(CriticalMassError, match=message) as caught:
        cm.import_features(values, out=tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_lazy_tables_are_refused(tmp_path):
    polars = pytest.importorskip("polars")
    with pytest.raises(CriticalMassError, match=r"frame.collect\(\)"):
        cm.import_features(polars.DataFrame(X).lazy(), out=tmp_path / "s")
