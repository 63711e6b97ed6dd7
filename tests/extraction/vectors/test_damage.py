"""Damaged and malicious files of every format are refused in one line."""

from __future__ import annotations

import builtins
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from scipy import sparse

import criticalmass as cm
from criticalmass.errors import CriticalMassError, MissingExtraError

X = np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32)
LABELS = [("ant", "bee")[row % 2] for row in range(30)]


def write_files(folder):
    """Write a file of every format that is read without an optional package; return the paths."""
    frame = pd.DataFrame({"embedding": list(X), "label": LABELS})
    texts = frame.assign(embedding=[str(row) for row in X.tolist()])
    frame.to_parquet(folder / "lists.parquet")
    texts.to_parquet(folder / "texts.parquet")
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(X)
    pq.write_table(pa.table({"e": tensors, "label": LABELS}), folder / "tensors.parquet")
    frame.to_feather(folder / "v.feather")
    table = pa.table({"embedding": list(X), "label": LABELS})
    with pa.ipc.new_stream(folder / "v.arrow", table.schema) as writer:
        writer.write_table(table)
    texts.to_csv(folder / "v.csv")
    frame.to_json(folder / "v.jsonl", orient="records", lines=True)
    np.savez_compressed(folder / "v.npz", embeddings=X, labels=LABELS)
    save_file({"embeddings": X, "labels": np.arange(30) % 2}, folder / "v.safetensors")
    sparse.save_npz(folder / "sparse.npz", sparse.csr_matrix(X))
    rows = [struct.pack("<i", 4) + row.tobytes() for row in X]
    (folder / "v.fvecs").write_bytes(b"".join(rows))
    return sorted(folder.iterdir())


def damage(content, rng):
    """Cut, change or remove some bytes."""
    content = bytearray(content)
    place = rng.randrange(len(content))
    kind = rng.randrange(4)
    if kind == 0:
        del content[place:]
    elif kind == 1:
        del content[place : place + rng.randrange(1, 40)]
    elif kind == 2:
        content[place : place + 8] = rng.choice([b"\xff", b"\0", b"\x7f"]) * 8
    else:
        for _ in range(rng.choice([1, 5])):
            content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_is_refused_in_one_line_or_does_no_harm(tmp_path):
    (tmp_path / "whole").mkdir()
    paths, rng = write_files(tmp_path / "whole"), random.Random(0)
    messages = []
    for number in range(20 * len(paths)):
        source = paths[number % len(paths)]
        path = tmp_path / source.name
        path.write_bytes(damage(source.read_bytes(), rng))
        try:
            store = cm.import_features(path, out=tmp_path / f"s{number}")
        except CriticalMassError as error:
            messages.append(str(error))
            assert not (tmp_path / f"s{number}").exists()
        else:
            assert all(np.isfinite(store.features(split).array()).all() for split in store.splits)
    assert len(messages) > 5 * len(paths)
    assert not any("\n" in message for message in messages)


def test_hdf5_that_is_damaged_or_reads_other_files_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "v.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(CriticalMassError, match="cannot be read as HDF5"):
        cm.import_features(tmp_path / "v.h5", out=tmp_path / "s")
    secret = tmp_path / "secret.bin"
    secret.write_bytes(X.tobytes())
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("x", X.shape, "f4", external=[(str(secret), 0, X.nbytes)])
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["x"] = h5py.ExternalLink(str(tmp_path / "external.h5"), "x")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(X.shape, "f4")
        layout[:] = h5py.VirtualSource(tmp_path / "external.h5", "x", X.shape)
        file.create_virtual_dataset("x", layout)
    for name in ("external.h5", "link.h5", "virtual.h5"):
        with pytest.raises(
            CriticalMassError, match=r"'x' .* its values in another file, which is re"
        ):
            cm.import_features(tmp_path / name, out=tmp_path / "s")


def test_hdf5_that_claims_a_huge_size_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("x", (10**9, 1000), "f4", chunks=(1024, 1000))
    with pytest.raises(CriticalMassError, match="would unpack to 4,000,000,000,000"):
        cm.import_features(tmp_path / "v.h5", out=tmp_path / "s")


def test_hdf5_groups_that_hold_themselves_are_listed_once(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        for key in range(30):
            file[f"loop{key}"] = file["/"]
        file["x"] = X
    store = cm.import_features(tmp_path / "v.h5", out=tmp_path / "s")
    assert store.features("train").shape[1] == 4


def test_h5py_may_be_missing(tmp_path, monkeypatch):
    (tmp_path / "v.h5").write_bytes(b"anything")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"v.h5' needs h5py, .*: pip install h5py$"):
        cm.import_features(tmp_path / "v.h5", out=tmp_path / "s")


class Code:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return builtins.__import__("os").mkdir, (str(self.path),)


def test_code_in_a_file_of_torch_is_never_run(tmp_path):
    torch = pytest.importorskip("torch")
    for number, content in enumerate([Code(tmp_path / "ran"), torch.nn.Linear(2, 2)]):
        torch.save({"x": torch.tensor(X), "other": content}, tmp_path / f"{number}.pt")
        with pytest.raises(CriticalMassError, match="is refused because reading it could run code"):
            cm.import_features(tmp_path / f"{number}.pt", out=tmp_path / "s")
    assert not (tmp_path / "ran").exists()
    for content, message in (([], "no tensors"), (5, "holds int and no tensors")):
        torch.save(content, tmp_path / "v.pt")
        with pytest.raises(CriticalMassError, match=message):
            cm.import_features(tmp_path / "v.pt", out=tmp_path / "s")
    (tmp_path / "w.pth").write_bytes(b"rubbish")
    with pytest.raises(CriticalMassError, match=r"is damaged or is not a file of torch.save"):
        cm.import_features(tmp_path / "w.pth", out=tmp_path / "s")


def test_a_tensor_that_repeats_its_values_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.zeros(1, 1).expand(10**6, 10**5), tmp_path / "v.pt")
    torch.save({"x": torch.zeros(1, 1).expand(10**6, 10**5)}, tmp_path / "w.pt")
    for name in ("v.pt", "w.pt"):
        with pytest.raises(CriticalMassError, match="would unpack to 400,000,000,000"):
            cm.import_features(tmp_path / name, out=tmp_path / "s")


def test_a_sparse_file_with_indices_outside_the_matrix_is_refused(tmp_path):
    for name, indices in (("high", [0, 10**6]), ("low", [-5, 1])):
        np.savez(
            tmp_path / f"{name}.npz",
            data=np.ones(2),
            indices=np.array(indices),
            indptr=np.array([0, 1, 2]),
            shape=np.array([2, 3]),
            format=np.array(b"csr"),
        )
        with pytest.raises(CriticalMassError, match="cannot be read as a sparse matrix: it is dam"):
            cm.import_features(tmp_path / f"{name}.npz", out=tmp_path / "s")
    sparse.save_npz(tmp_path / "large.npz", sparse.csr_matrix((10**6, 10**5)))
    with pytest.raises(CriticalMassError, match="would take 400,000,000,000 bytes with its zeros"):
        cm.import_features(tmp_path / "large.npz", out=tmp_path / "s")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "row 0 would have 0 numbers"),
        (struct.pack("<i", -1) * 4, "row 0 would have -1 numbers"),
        (struct.pack("<i", 10**9) * 4, "does not fit 16 bytes"),
        (struct.pack("<ifif", 1, 0.5, 2, 0.5), "2 numbers in row 1 and 1 in row 0"),
        (struct.pack("<ifi", 1, 0.5, 1), "does not fit 12 bytes"),
    ],
)
def test_vecs_files_are_checked(tmp_path, content, message):
    (tmp_path / "v.fvecs").write_bytes(content)
    with pytest.raises(CriticalMassError, match=message):
        cm.import_features(tmp_path / "v.fvecs", out=tmp_path / "s")


def test_an_encrypted_archive_is_refused(tmp_path):
    np.savez(tmp_path / "v.npz", X=X)
    content = bytearray((tmp_path / "v.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "v.npz") as archive:
        start = archive.start_dir
    content[start + 8] |= 1
    content[6] |= 1
    (tmp_path / "v.npz").write_bytes(content)
    with pytest.raises(CriticalMassError, match="not a readable archive"):
        cm.import_features(tmp_path / "v.npz", out=tmp_path / "s")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no tables; name a folder or pattern of files of one format"),
        (["a.npy"], "holds no tables"),
        (["a.csv", "b.parquet"], r"holds files of 2 formats \(.csv, .parquet\)"),
        (["a=1/v.parquet", "v.parquet"], "in folders of different key=value names"),
    ],
)
def test_folders_of_several_kinds_are_refused(tmp_path, names, message):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".parquet":
            pd.DataFrame({"e": [[1.0, 2.0]] * 4}).to_parquet(path)
        else:
            path.write_text("d0,d1\n1,2\n")
    with pytest.raises(CriticalMassError, match=message):
        cm.import_features(folder, out=tmp_path / "s")
    if not names:
        with pytest.raises(CriticalMassError, match=message):
            cm.import_features(str(folder / "*.parquet"), out=tmp_path / "s")


def test_parts_of_different_columns_are_refused(tmp_path):
    folder = Path(tmp_path / "data")
    folder.mkdir()
    pd.DataFrame({"e": [[1.0, 2.0]] * 4}).to_parquet(folder / "0.parquet")
    for columns, message in (
        ({"f": [[1.0, 2.0]] * 4}, "1.parquet' has no column 'e', but .*0.parquet' has"),
        ({"e": [[1, 2]] * 4}, "column 'e' is list<element: int64> in .*1.parquet' and list<"),
        ({"e": [[1.0]] * 4}, "column 'e' of .*data' has 1 numbers in row 4 and 2 in row 0"),
        ({"e": [[1.0, 2.0]] * 4, "g": 1}, "0.parquet' has no column 'g', but .*1.parquet' has"),
    ):
        pd.DataFrame(columns).to_parquet(folder / "1.parquet")
        with pytest.raises(CriticalMassError, match=message):
            cm.import_features(folder, out=tmp_path / "s")
