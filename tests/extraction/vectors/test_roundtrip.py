"""Every format that holds the same vectors gives the store of the plain array."""

from __future__ import annotations

import gzip
import json
import struct
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from scipy import sparse

import criticalmass as cm
from criticalmass.extraction.vectors import VectorSource
from criticalmass.storage.features_writer import StoreWriter

# Each maker writes x, (n, d) float32, and the labels y, n texts, and returns what is imported.
# Where a form has no place for labels, they are returned too.


def rows_table(y, **columns):
    n = len(y)
    return pa.table(
        {"id": np.arange(n), **columns, "label": pa.array(y), "note": ["some text"] * n}
    )


def parquet(folder, y, **columns):
    path = folder / "v.parquet"
    pq.write_table(rows_table(y, **columns), path, row_group_size=7)
    return path, None


def lists(folder, x, y):
    return parquet(folder, y, embedding=pa.array(list(x)))


def doubles(folder, x, y):
    return parquet(folder, y, embedding=pa.array(x.astype(float).tolist()))


def large_lists(folder, x, y):
    return parquet(folder, y, e=pa.array(x.tolist(), pa.large_list(pa.float32())))


def tensors(folder, x, y):
    return parquet(folder, y, embedding=pa.FixedShapeTensorArray.from_numpy_ndarray(x))


def tensors_of_one_row(folder, x, y):
    flat = np.ascontiguousarray(x[:, None, :])
    return parquet(folder, y, e=pa.FixedShapeTensorArray.from_numpy_ndarray(flat))


def decimals(folder, x, y):
    cells = [[Decimal(repr(value)) for value in row] for row in x.astype(float).tolist()]
    return parquet(folder, y, e=pa.array(cells, pa.list_(pa.decimal256(70, 50))))


def structs(folder, x, y):
    cells = [{"model": "m", "values": row} for row in x.tolist()]
    return parquet(folder, y, embedding=pa.array(cells))


def lists_of_one_list(folder, x, y):
    return parquet(folder, y, embedding=pa.array([[row] for row in x.tolist()]))


def lists_of_lists_of_one(folder, x, y):
    return parquet(folder, y, e=pa.array([[[v] for v in row] for row in x.tolist()]))


def json_texts(folder, x, y):
    return parquet(folder, y, embedding=[json.dumps(row) for row in x.tolist()])


def pgvector_texts(folder, x, y):
    return parquet(folder, y, e=[json.dumps(row).replace(" ", "") for row in x.tolist()])


def numpy_texts(folder, x, y):
    with np.printoptions(floatmode="unique", linewidth=40, threshold=10**6):
        return parquet(folder, y, embedding=[str(row) for row in x.astype(float)])


def postgres_texts(folder, x, y):
    texts = [json.dumps(row).translate(str.maketrans("[]", "{}")) for row in x.tolist()]
    return parquet(folder, y, embedding=pa.array(texts).dictionary_encode())


def wide(folder, x, y):
    return parquet(folder, y, **{f"d{i}": x[:, i] for i in range(x.shape[1])})


def wide_decimals(folder, x, y):
    columns = {
        f"d{i}": pa.array([Decimal(repr(v)) for v in x[:, i].tolist()], pa.decimal256(70, 50))
        for i in range(x.shape[1])
    }
    return parquet(folder, y, **columns)


def feather(folder, x, y):
    frame = pd.DataFrame({"embedding": list(x), "label": y})
    frame.to_feather(folder / "v.feather")
    return folder / "v.feather", None


def arrow_stream(folder, x, y):
    table = rows_table(y, embedding=pa.array(list(x)))
    with pa.ipc.new_stream(folder / "v.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return folder / "v.arrow", None


def csv_texts(folder, x, y):
    frame = pd.DataFrame({"text": 'a, "b"\nc', "embedding": x.tolist(), "label": y})
    frame.to_csv(folder / "v.csv")
    return folder / "v.csv", None


def csv_wide(folder, x, y):
    frame = pd.DataFrame(x.astype(float)).assign(label=y, text="a;b")
    frame.to_csv(folder / "v.csv", sep=";", encoding="utf-8-sig", lineterminator="\r\n")
    return folder / "v.csv", None


def tsv(folder, x, y):
    pd.DataFrame(x.astype(float)).assign(Label=y).to_csv(folder / "v.tsv", sep="\t", index=False)
    return folder / "v.tsv", None


def savetxt(folder, x, y):
    np.savetxt(folder / "v.csv", x.astype(float), delimiter=",")
    return folder / "v.csv", y


def json_lines(folder, x, y):
    rows = zip(x.tolist(), y, strict=True)
    lines = [json.dumps({"embedding": row, "label": label}) for row, label in rows]
    (folder / "v.jsonl").write_text("\n\n".join(lines) + "\n")
    return folder / "v.jsonl", None


def json_lines_of_structs(folder, x, y):
    rows = zip(x.tolist(), y, strict=True)
    lines = [json.dumps({"data": {"embedding": row}, "y": [label]}) for row, label in rows]
    (folder / "v.ndjson").write_text("\n".join(lines))
    return folder / "v.ndjson", None


def csv_decimal_commas(folder, x, y):
    frame = pd.DataFrame(x.astype(float)).assign(label=y, text="a.b")
    frame.to_csv(folder / "v.csv", sep=";", decimal=",", index=False)
    return folder / "v.csv", None


def packed_csv(folder, x, y):
    path, _ = csv_texts(folder, x, y)
    (folder / "v.CSV.gz").write_bytes(gzip.compress(path.read_bytes()))
    return folder / "v.CSV.gz", None


def packed_json_lines(folder, x, y):
    path, _ = json_lines(folder, x, y)
    (folder / "v.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    return folder / "v.jsonl.gz", None


def json_lists(folder, x, y):
    (folder / "v.json").write_text(json.dumps(x.tolist()))
    return folder / "v.json", y


def json_response(folder, x, y):
    rows = zip(x.tolist(), y.tolist(), strict=True)
    data = [{"object": "embedding", "embedding": row, "label": label} for row, label in rows]
    (folder / "v.json").write_text(json.dumps({"object": "list", "data": data, "usage": {"n": 3}}))
    return folder / "v.json", None


def json_responses(folder, x, y):
    rows = [{"embedding": row, "label": y} for row, y in zip(x.tolist(), y.tolist(), strict=True)]
    lines = [json.dumps({"data": rows[start : start + 3]}) for start in range(0, len(rows), 3)]
    (folder / "v.jsonl").write_text("\n".join(lines))
    return folder / "v.jsonl", None


def json_columns(folder, x, y):
    (folder / "v.json").write_text(json.dumps({"embeddings": x.tolist(), "labels": y.tolist()}))
    return folder / "v.json", None


def json_of_pandas(folder, x, y):
    frame = pd.DataFrame({"embedding": x.astype(float).tolist(), "label": y})
    frame.to_json(folder / "v.json", double_precision=15)
    content = json.loads((folder / "v.json").read_text())
    # pandas rounds numbers to 15 places.
    content["embedding"] = dict(zip(content["embedding"], x.tolist(), strict=True))
    (folder / "v.json").write_text(json.dumps(content))
    return folder / "v.json", None


def parts(folder, x, y):
    (folder / "parts").mkdir()
    (folder / "parts" / "_SUCCESS").touch()
    for number, start in enumerate(range(0, len(x), 3)):
        table = rows_table(y[start : start + 3], e=pa.array(list(x[start : start + 3])))
        pq.write_table(table, folder / "parts" / f"part-{number}.parquet")
    return folder / "parts", None


def pattern(folder, x, y):
    parts(folder, x, y)
    return folder / "parts" / "part-*.parquet", None


def csv_parts(folder, x, y):
    (folder / "parts").mkdir()
    for number, start in enumerate(range(0, len(x), 3)):
        frame = pd.DataFrame(x[start : start + 3].astype(float)).assign(y=y[start : start + 3])
        frame.to_csv(folder / "parts" / f"{number}.csv", index=False)
    return folder / "parts", None


def npz_with_labels(folder, x, y):
    np.savez_compressed(folder / "v.npz", embeddings=x, labels=y, ids=np.arange(len(x)))
    return folder / "v.npz", None


def npz_of_column_order(folder, x, y):
    np.savez(folder / "v.npz", features=np.asfortranarray(x), target=np.array(y)[:, None])
    return folder / "v.npz", None


def safetensors(folder, x, y):
    save_file({"hidden": x, "ids": np.arange(len(x))}, folder / "v.safetensors")
    return folder / "v.safetensors", y


def sparse_file(folder, x, y):
    sparse.save_npz(folder / "v.npz", sparse.csc_matrix(x))
    return folder / "v.npz", y


def sparse_matrix(folder, x, y):
    return sparse.coo_array(x), y


def hdf5(folder, x, y):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_dataset("set/embeddings", data=x, chunks=True, compression="gzip")
        file["set/labels"] = y.tolist()
    return folder / "v.h5", None


def fvecs(folder, x, y):
    rows = [struct.pack("<i", x.shape[1]) + row.astype("<f4").tobytes() for row in x]
    (folder / "v.fvecs").write_bytes(b"".join(rows))
    return folder / "v.fvecs", y


def torch_tensor(folder, x, y):
    torch = pytest.importorskip("torch")
    torch.save(torch.tensor(x).requires_grad_(), folder / "v.pt")
    return folder / "v.pt", y


def torch_dictionary(folder, x, y):
    torch = pytest.importorskip("torch")
    torch.save({"embeddings": torch.tensor(x), "labels": y.tolist(), "epoch": 3}, folder / "v.pth")
    return folder / "v.pth", None


def live_tensor(folder, x, y):
    return pytest.importorskip("torch").tensor(x).requires_grad_(), y


def list_of_tensors(folder, x, y):
    return list(pytest.importorskip("torch").tensor(x)), y


def frame_of_lists(folder, x, y):
    return pd.DataFrame({"id": range(len(x)), "embedding": list(x), "label": y}), None


def frame_with_labels_as_index(folder, x, y):
    return pd.DataFrame({"embedding": list(x)}, index=pd.Index(y, name="label")), None


def frame_of_texts(folder, x, y):
    return pd.DataFrame({"vector": [str(row) for row in x.tolist()], "Target": y}), None


def frame_of_tensors(folder, x, y):
    return pd.DataFrame({"vector": list_of_tensors(folder, x, y)[0], "class": y}), None


def frame_of_numbers(folder, x, y):
    return pd.DataFrame(x).assign(id=range(len(x)), y=y), None


def frame_of_nullable_numbers(folder, x, y):
    return pd.DataFrame(x).astype("Float64"), y


def series(folder, x, y):
    return pd.Series(list(x)), pd.Series(y, dtype="category")


def arrow_table(folder, x, y):
    return rows_table(y, embedding=pa.array(list(x))), None


def arrow_array(folder, x, y):
    return pa.chunked_array([list(x[:1]), list(x[1:])]), pa.array(y)


def polars_frame(folder, x, y):
    polars = pytest.importorskip("polars")
    return polars.DataFrame({"embedding": x.tolist(), "label": list(y), "id": range(len(x))}), None


def polars_numbers(folder, x, y):
    polars = pytest.importorskip("polars")
    return polars.DataFrame(x).with_columns(label=polars.Series(list(y))), None


MAKERS = [lists, doubles, large_lists, tensors, tensors_of_one_row, decimals, structs]
MAKERS += [lists_of_one_list, lists_of_lists_of_one, json_texts, pgvector_texts, numpy_texts]
MAKERS += [postgres_texts, wide, wide_decimals, feather, arrow_stream, csv_texts, csv_wide, tsv]
MAKERS += [savetxt, json_lines, json_lines_of_structs, parts, pattern, csv_parts, npz_with_labels]
MAKERS += [npz_of_column_order, safetensors, sparse_file, sparse_matrix, hdf5, fvecs]
MAKERS += [torch_tensor, torch_dictionary, live_tensor, list_of_tensors, frame_of_lists]
MAKERS += [frame_of_texts, frame_of_tensors, frame_of_numbers, frame_of_nullable_numbers, series]
MAKERS += [arrow_table, arrow_array, polars_frame, polars_numbers, frame_with_labels_as_index]
MAKERS += [csv_decimal_commas, packed_csv, packed_json_lines, json_lists, json_response]
MAKERS += [json_responses, json_columns, json_of_pandas]


@pytest.fixture
def small_blocks(monkeypatch):
    """Read seven rows at a time, so that blocks, shards, row groups and files do not coincide."""
    monkeypatch.setattr(VectorSource, "chunk_rows", 7)
    monkeypatch.setattr(StoreWriter, "shard_rows", 16)


def contents(store):
    splits = {
        split: (store.features(split).array(), store.labels(split), store.sample_ids(split))
        for split in store.splits
    }
    return store.digest(), store.class_names, splits


def assert_same_store(folder, maker, x, y):
    values, labels = maker(folder, x, np.array(y))
    store = cm.import_features(values, out=folder / "store", labels=labels)
    plain = cm.import_features(x, out=folder / "plain", labels=np.array(y))
    digest, names, splits = contents(store)
    want_digest, want_names, want_splits = contents(plain)
    assert (digest, names) == (want_digest, want_names)
    for split, arrays in want_splits.items():
        for array, want in zip(splits[split], arrays, strict=True):
            np.testing.assert_array_equal(array, want)
    # The same input again is the same request.
    again = cm.import_features(values, out=folder / "store", labels=labels)
    assert again.digest() == digest


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_every_form_gives_the_store_of_the_array(tmp_path, small_blocks, maker):
    x = np.random.default_rng(5).normal(size=(40, 6)).astype(np.float32)
    x[0, 0], x[3, 2], x[5] = 0.0, 1e-30, 12.0
    assert_same_store(tmp_path, maker, x, ["ant", "bee", "7", "cat"] * 10)


@pytest.mark.filterwarnings("ignore:.* are also training ")
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape_and_values_survive_any_form(tmp_path_factory, data):
    n, d = data.draw(st.integers(4, 24)), data.draw(st.integers(2, 5))
    values = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)
    # A sparse matrix has no -0.0.
    values = values.map(lambda value: value + 0.0)
    x = np.array(data.draw(st.lists(values, min_size=n * d, max_size=n * d)), np.float32)
    y = [("a", "b")[index % 2] for index in range(n)]
    maker = data.draw(st.sampled_from([m for m in MAKERS if "decimals" not in m.__name__]))
    assert_same_store(tmp_path_factory.mktemp("s"), maker, x.reshape(n, d), y)


@pytest.mark.parametrize(
    "maker", [json_texts, csv_texts, csv_wide, json_lines, fvecs, hdf5, tensors]
)
def test_rows_beyond_every_block(tmp_path, maker):
    x = np.random.default_rng(3).normal(size=(20_000, 4)).astype(np.float32)
    assert_same_store(tmp_path, maker, x, ["a", "b", "c", "d"] * 5000)


def test_half_precision_stays_half(tmp_path):
    x = np.random.default_rng(5).normal(size=(40, 6)).astype(np.float16)
    plain = cm.import_features(x, out=tmp_path / "plain")
    for number, values in enumerate([pd.Series(list(x)), pa.array(list(x))]):
        store = cm.import_features(values, out=tmp_path / f"{number}")
        assert store.features("train").dtype == np.float16
        assert store.digest() == plain.digest()


@pytest.mark.parametrize(
    "kind", ["bfloat16", "float16", "float64", "int8", "uint8", "int64", "float8_e4m3fn"]
)
def test_tensors_of_every_type_keep_their_values(tmp_path, kind):
    torch = pytest.importorskip("torch")
    x = torch.arange(-60, 60).reshape(40, 3)
    x = (x.abs() if kind == "uint8" else x).to(getattr(torch, kind))
    store = cm.import_features(x, out=tmp_path / "s", split=np.arange(40) >= 30)
    rows = np.concatenate([store.features(split).array() for split in ("train", "test")])
    np.testing.assert_array_equal(rows, x.float().numpy())


def test_bfloat16_files_are_widened(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    x = torch.randn(40, 3).bfloat16()
    plain = cm.import_features(x.float().numpy(), out=tmp_path / "plain").digest()
    save_torch({"x": x}, tmp_path / "v.safetensors")
    torch.save({"x": x}, tmp_path / "v.pt")
    for name in ("v.safetensors", "v.pt"):
        assert cm.import_features(tmp_path / name, out=tmp_path / f"{name}-s").digest() == plain


def test_parts_of_ten_files_are_in_the_order_of_their_numbers(tmp_path):
    for number in range(12):
        frame = pd.DataFrame({"embedding": [[float(number), 0.5]] * 2})
        frame.to_parquet(tmp_path / f"part-{number}.parquet")
    split = np.arange(24) >= 18
    store = cm.import_features(tmp_path, out=tmp_path / "s", split=split)
    np.testing.assert_array_equal(
        store.features("train").array()[:, 0], np.repeat(np.arange(9.0), 2)
    )


@pytest.mark.filterwarnings("ignore:.* are also training ")
def test_files_named_after_the_splits_are_the_splits(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, values in (("train-00000", 1.0), ("train-00001", 2.0), ("test-00000", 3.0)):
        frame = pd.DataFrame({"embedding": [[values, 0.0]] * 4, "label": list("abab")})
        frame.to_parquet(folder / f"{name}-of-00002.parquet")
    store = cm.import_features(folder, out=tmp_path / "s")
    assert store.features("train").array()[:, 0].tolist() == [1.0] * 4 + [2.0] * 4
    assert store.features("test").array()[:, 0].tolist() == [3.0] * 4
    assert store.manifest["dataset"]["notes"]["split"] == "by the names of the files"
    other = cm.import_features(folder, out=tmp_path / "t", split=np.arange(12) >= 6)
    assert len(other.labels("test")) == 6


@pytest.mark.filterwarnings("ignore:.* are also training ")
def test_folders_of_key_and_value_are_columns(tmp_path):
    for label in ("a", "b"):
        folder = tmp_path / "data" / f"label={label}"
        folder.mkdir(parents=True)
        pd.DataFrame({"embedding": [[1.0, 2.0]] * 8}).to_parquet(folder / "0.parquet")
    store = cm.import_features(tmp_path / "data", out=tmp_path / "s")
    assert store.class_names == ("a", "b")
    assert np.bincount(store.labels("train")).tolist() == [6, 6]


def test_the_datasets_of_ann_benchmarks_are_the_splits(tmp_path):
    h5py = pytest.importorskip("h5py")
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    with h5py.File(tmp_path / "v.hdf5", "w") as file:
        file["train"], file["test"] = x[:20], x[20:]
        file["neighbors"], file["distances"] = np.zeros((10, 5), int), np.zeros((10, 5))
    store = cm.import_features(tmp_path / "v.hdf5", out=tmp_path / "s")
    np.testing.assert_array_equal(store.features("train").array(), x[:20])
    np.testing.assert_array_equal(store.features("test").array(), x[20:])


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "labels_train", "X_test", "labels_test"),
        ("train_features", "train_labels", "test_features", "test_labels"),
        ("train/embeddings", "train/label", "test/embeddings", "test/label"),
    ],
)
def test_arrays_named_after_the_splits_are_the_splits(tmp_path, names):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    y = np.arange(30) % 2
    arrays = dict(zip(names, (x[:20], y[:20], x[20:], y[20:]), strict=True))
    plain = cm.import_features(
        {"train": x[:20], "test": x[20:]},
        labels={"train": y[:20], "test": y[20:]},
        out=tmp_path / "plain",
    )
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, tmp_path / "v.pt")
    save_file(arrays, tmp_path / "v.safetensors")
    files = ["v.pt", "v.safetensors"]
    if "/" not in names[0]:
        np.savez(tmp_path / "v.npz", **arrays)
        files.append("v.npz")
    for name in files:
        store = cm.import_features(tmp_path / name, out=tmp_path / f"{name}-s")
        assert store.digest() == plain.digest()
        assert store.class_names == ("0", "1")


def test_whole_numbers_of_vecs_files(tmp_path):
    x = np.arange(120).reshape(30, 4)
    for suffix, dtype in ((".bvecs", "u1"), (".ivecs", "<i4")):
        rows = [struct.pack("<i", 4) + row.astype(dtype).tobytes() for row in x]
        (tmp_path / f"v{suffix}").write_bytes(b"".join(rows))
        store = cm.import_features(
            tmp_path / f"v{suffix}", out=tmp_path / suffix, split=x[:, 0] > 60
        )
        np.testing.assert_array_equal(store.features("train").array(), x[:16])
