"""Vectors in files: features of single formats, and errors of bad files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

import criticalmass as cm
from criticalmass.errors import CriticalMassError, MissingExtraError
from criticalmass.extraction.vectors import VectorSource, open_vectors

faiss = pytest.importorskip("faiss")

N, D = 60, 5
X = np.random.default_rng(11).normal(size=(N, D)).astype(np.float32)
Y = np.arange(N) % 3


def npy(path):
    np.save(path.with_suffix(".npy"), X)
    return path.with_suffix(".npy")


def npz(path):
    np.savez(path.with_suffix(".npz"), X=X)
    return path.with_suffix(".npz")


def safetensors(path):
    save_file({"labels": Y, "vectors": X}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def flat(path):
    return index(path, "Flat")


def lists(path):
    return table(path, vector=pa.array(list(X)))


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


def test_quantised_indexes_return_approximate_vectors(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    for kind in ("SQ8", "IVF4,Flat", "HNSW8"):
        path = index(tmp_path / kind.replace(",", ""), kind, x)
        store = cm.import_features(path, out=tmp_path / f"s{kind[:3]}", split=np.arange(400) < 100)
        error = np.abs(store.features("test").array() - x[:100]).max()
        assert (error == 0) == (kind != "SQ8")
        assert error < 0.05
        assert "gives them back" in store.manifest["dataset"]["notes"]["vectors"]


@pytest.mark.filterwarnings("ignore:.* are also training vectors")
@pytest.mark.parametrize(
    "kind", ["PQ4x4", "IVF4,PQ4x4", "OPQ4,IVF4,PQ4x4", "IVF4,SQ8", "HNSW8_SQ8", "L2norm,Flat"]
)
def test_every_index_that_can_gives_its_vectors_back(tmp_path, kind):
    """Compared with FAISS itself."""
    x = np.random.default_rng(0).normal(size=(800, 8)).astype(np.float32)
    path = index(tmp_path / "i", kind, x)
    store = cm.import_features(path, out=tmp_path / "s", split=np.arange(800) < 400)
    own = faiss.read_index(str(path))
    lists = faiss.try_extract_index_ivf(own)
    if lists is not None:
        lists.make_direct_map()
    expected = [own.reconstruct(row) for row in range(400)]
    np.testing.assert_array_equal(store.features("test").array(), expected)


@pytest.mark.parametrize("kind", ["IVF4,Flat", "PCA8,IVF4,Flat"])
def test_inverted_lists_with_ids_of_their_own(tmp_path, kind):
    x = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    ids = np.random.default_rng(1).permutation(400) * 7 + 3
    lists = faiss.index_factory(8, kind)
    lists.train(x)
    lists.add_with_ids(x, ids)
    faiss.write_index(lists, str(tmp_path / "i.faiss"))
    store = cm.import_features(tmp_path / "i.faiss", out=tmp_path / "s")
    row = {str(number): place for place, number in enumerate(ids)}
    for split in store.splits:
        rows = [row[name] for name in store.sample_ids(split)]
        np.testing.assert_allclose(store.features(split).array(), x[rows], atol=1e-5)
    lists.add_with_ids(x[:1], ids[:1])
    faiss.write_index(lists, str(tmp_path / "i.faiss"))
    with pytest.raises(CriticalMassError, match="has an id of two vectors"):
        cm.import_features(tmp_path / "i.faiss", out=tmp_path / "t")


def test_bfloat16_is_widened_exactly(tmp_path):
    import torch
    from safetensors.torch import save_file as save_torch

    x = torch.tensor(X).to(torch.bfloat16)
    save_torch({"x": x}, tmp_path / "x.safetensors")
    store = cm.import_features(
        tmp_path / "x.safetensors", out=tmp_path / "s", split=np.arange(N) < 9
    )
    np.testing.assert_array_equal(store.features("test").array(), x[:9].float().numpy())


def test_a_column_is_named_if_there_are_several(tmp_path):
    path = table(tmp_path / "v", a=pa.array(list(X)), b=pa.array(list(X + 1)))
    with pytest.raises(CriticalMassError, match="holds the vectors, 'a' or 'b'"):
        cm.import_features(path, out=tmp_path / "s")
    store = cm.import_features(path, out=tmp_path / "s", column="b", split=np.arange(N) < 9)
    np.testing.assert_array_equal(store.features("test").array(), (X + 1)[:9])
    save_file({"a": X, "b": X + 1}, tmp_path / "v.safetensors")
    with pytest.raises(CriticalMassError, match=r"It has 'a' \[60, 5\], 'b' \[60, 5\]"):
        cm.import_features(tmp_path / "v.safetensors", out=tmp_path / "t")
    store = cm.import_features(
        tmp_path / "v.safetensors", out=tmp_path / "t", column="b", split=np.arange(N) < 9
    )
    np.testing.assert_array_equal(store.features("test").array(), (X + 1)[:9])


def test_whole_numbers_are_vectors_only_without_decimal_columns(tmp_path):
    path = table(tmp_path / "v", **{f"d{i}": X[:, i] for i in range(D)})
    assert open_vectors(path).sources["all"].shape == (N, D)
    pq.write_table(pa.table({"a": [1, 2], "b": [3, 4]}), tmp_path / "w.parquet")
    source = open_vectors(tmp_path / "w.parquet").sources["all"]
    np.testing.assert_array_equal(next(source.chunks()), [[1, 3], [2, 4]])


def broken(path, content):
    path.write_bytes(content)
    return path


def cells(path, values, kind):
    pq.write_table(pa.table({"v": pa.array(values, kind)}), path)
    return path


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda p: broken(p / "x.npy", b"rubbish"), {}, "cannot be read as an array"),
        (lambda p: broken(p / "x.npz", b"rubbish"), {}, "cannot be read as NumPy arrays"),
        (lambda p: broken(p / "x.parquet", b"rubbish"), {}, "cannot be read as Parquet"),
        (lambda p: broken(p / "x.safetensors", b"\xff" * 20), {}, "as safetensors: its header"),
        (lambda p: broken(p / "x.safetensors", b"\x03" + b"\0" * 7 + b"{]}"), {}, "safetensors"),
        (lambda p: broken(p / "x.faiss", b"rubbish" * 20), {}, "cannot be read as a FAISS index"),
        (npy, {"labels": "label.txt"}, "no file 'label.txt' to read a label"),
        (lists, {"labels": "lable"}, "no column and no file 'lable' .* did you mean 'label'"),
        (lists, {"column": "vectr"}, "did you mean 'vector'"),
        (lists, {"column": "label"}, "column 'label' .* is int64; the vectors must be"),
        (safetensors, {"column": "vector"}, "did you mean 'vectors'"),
        (npz, {"column": "Z"}, "no array in .*'Z'"),
        (npy, {"column": "Z"}, "holds one array; leave out column='Z'"),
        (
            lambda p: cells(p / "x.parquet", [[1.0, 2.0], [3.0]], pa.list_(pa.float32())),
            {},
            "1 numbers in row 1 and 2 in row 0",
        ),
        (
            lambda p: cells(p / "x.parquet", [[1.0], None], pa.list_(pa.float32())),
            {},
            "no vector in row 1",
        ),
        (
            lambda p: cells(p / "x.parquet", [[1.0], None], pa.list_(pa.float32(), 1)),
            {},
            "no vector in row 1",
        ),
        (
            lambda p: cells(p / "x.parquet", [[1.0], [None]], pa.list_(pa.float32())),
            {},
            "lack a number",
        ),
        (lambda p: cells(p / "x.parquet", [1.0, None], pa.float32()), {}, "no number in row 1"),
        (lambda p: cells(p / "x.parquet", ["a", "b"], pa.string()), {}, "holds no vectors"),
        (
            lambda p: cells(p / "x.parquet", [[1.0], [np.nan]], pa.list_(pa.float32())),
            {},
            "not finite",
        ),
    ],
)
def test_bad_files_get_one_line_and_leave_nothing(tmp_path, make, options, message):
    path = make(tmp_path / "x") if make in (npy, npz, lists, safetensors) else make(tmp_path)
    with pytest.raises(CriticalMassError, match=message) as caught:
        cm.import_features(path, out=tmp_path / "s", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_a_bad_row_is_counted_from_the_first_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(VectorSource, "chunk_rows", 4)
    values = [[1.0, 2.0]] * 10
    for bad, message in (([3.0], "1 numbers in row 9"), (None, "no vector in row 9")):
        path = cells(tmp_path / "x.parquet", [*values[:9], bad], pa.list_(pa.float32()))
        with pytest.raises(CriticalMassError, match=message):
            cm.import_features(path, out=tmp_path / "s")
    path = cells(tmp_path / "x.parquet", [*([1.0] * 9), None], pa.float32())
    with pytest.raises(CriticalMassError, match="no number in row 9"):
        cm.import_features(path, out=tmp_path / "s")


def test_faiss_may_be_missing(tmp_path, monkeypatch):
    path = flat(tmp_path / "v")
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"the extra \[data\]"):
        cm.import_features(path, out=tmp_path / "s")
