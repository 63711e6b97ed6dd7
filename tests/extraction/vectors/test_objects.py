"""Vectors and labels in memory: every library's containers are read, or refused in one line."""

from __future__ import annotations

import datetime
import decimal
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

import criticalmass as cm
from criticalmass.errors import CriticalMassError

torch = importlib.import_module("torch")
X = np.random.default_rng(0).integers(-8, 8, (24, 6)).astype(np.float32)
Y = np.arange(24) % 2
ROWS = [row.tolist() for row in X]
TABLE = pa.table({"id": range(24), "embedding": pa.array(ROWS), "label": Y})
FRAME = pd.DataFrame({"embedding": list(X), "label": pd.Categorical(np.array(["a", "b"])[Y])})


class Stream:
    """A table, or a column, of a library that is not installed here."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.content.__arrow_c_stream__(requested_schema)


class Odd:
    """Neither an array nor a sequence."""

    def __len__(self) -> int:
        return 3

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("two\nlines")

    def __repr__(self) -> str:
        raise ValueError("no representation")


def values_of(path: Path) -> Any:
    """Return all vectors of a store, sorted."""
    store = cm.FeatureStore.open(path)
    rows = np.concatenate([store.features(split).array() for split in store.splits])
    return rows[np.lexsort(rows.T)]


TENSORS = {
    str(dtype): torch.tensor(X).to(dtype)
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
    )
}
READ = {
    **TENSORS,
    "grad": torch.tensor(X, requires_grad=True),
    "graph": torch.tensor(X, requires_grad=True) * 1,
    "transposed": torch.tensor(X.T.copy()).T,
    "strided": torch.tensor(np.repeat(X, 2, 1))[:, ::2],
    "sparse tensor": torch.tensor(X).to_sparse(),
    "list of tensors": [torch.tensor(row, requires_grad=True) for row in X],
    "objects": X.astype(object),
    "decimals": [[decimal.Decimal(value) for value in row] for row in ROWS],
    "texts": [str(row) for row in ROWS],
    "generator": (row for row in X),
    "unmasked": np.ma.masked_array(X),
    **{kind: getattr(sparse, f"{kind}_matrix")(X) for kind in ("csr", "coo", "lil", "dok", "bsr")},
    "frame": FRAME,
    "series": FRAME["embedding"],
    "frame of tensors": pd.DataFrame({"v": [torch.tensor(row).bfloat16() for row in X]}),
    "sparse frame": pd.DataFrame.sparse.from_spmatrix(sparse.csr_matrix(X)),
    "nullable": pd.DataFrame(X).convert_dtypes(),
    "table": TABLE,
    "reader": TABLE.to_reader(),
    "column": TABLE["embedding"],
    "arrow tensor": pa.Tensor.from_numpy(X),
    "stream": Stream(TABLE),
    "stream of a column": Stream(TABLE["embedding"]),
    "one split": {"train": X},
    "splits": {"train": X[:20], "test": X[20:]},
    "validation": {"Train": X[:20], "validation": torch.tensor(X[20:])},
    "three splits": {"train": X[:10], "val": X[10:20], "test": X[20:]},
    "frames": {"train": FRAME[:20], "test": FRAME[20:]},
    "tables": {"train": TABLE[:20], "test": Stream(TABLE[20:])},
}


@pytest.mark.parametrize("name", READ)
def test_containers_are_read_exactly(name: str, tmp_path: Path) -> None:
    cm.import_features(READ[name], out=tmp_path / "f")
    np.testing.assert_array_equal(values_of(tmp_path / "f"), X[np.lexsort(X.T)])


def test_a_dataset_of_the_library_is_a_table(tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    one = library.Dataset.from_dict({"embedding": ROWS, "label": Y.tolist()})
    mixed = one.shuffle(seed=0)
    parts = library.DatasetDict(
        {"train": mixed.select(range(20)), "test": mixed.select(range(20, 24))}
    )
    cm.import_features(one, out=tmp_path / "f")
    np.testing.assert_array_equal(values_of(tmp_path / "f"), X[np.lexsort(X.T)])
    store = cm.import_features(parts, out=tmp_path / "g")
    assert (store.class_names, len(store.features("train"))) == (("0", "1"), 20)


@pytest.mark.parametrize("name", ["frames", "tables"])
def test_labels_of_tables_per_split(name: str, tmp_path: Path) -> None:
    store = cm.import_features(READ[name], out=tmp_path / "f")
    np.testing.assert_array_equal(store.labels("test"), Y[20:])
    mixed = {"train": READ[name]["train"], "test": X}
    with pytest.raises(CriticalMassError, match="has no labels and another one has"):
        cm.import_features(mixed, out=tmp_path / "g")


LABELS = {
    "categorical": pd.Categorical(np.array(["a", "b"])[Y]),
    "series": pd.Series(Y, dtype="Int64"),
    "strings": pd.Series(np.array(["a", "b"])[Y], dtype="string"),
    "tensor": torch.tensor(Y).to(torch.int8),
    "bfloat16": torch.tensor(Y, dtype=torch.bfloat16),
    "grad": torch.tensor(Y, dtype=torch.float32, requires_grad=True),
    "arrow": pa.array(np.array(["a", "b"])[Y]).dictionary_encode(),
    "frame": pd.DataFrame({"y": Y}),
    "sparse": sparse.csr_matrix(Y[:, None]),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_library(name: str, tmp_path: Path) -> None:
    store = cm.import_features(X, labels=LABELS[name], split=np.arange(24) > 11, out=tmp_path / "f")
    np.testing.assert_array_equal(store.labels("train"), Y[:12])
    np.testing.assert_array_equal(store.labels("test"), Y[12:])


REFUSED = [
    *(Odd(), object(), len, int, np, None, 5, True, float("nan"), ..., slice(3), ValueError()),
    *(b"abc", datetime.datetime.now(), {1, 2}, range(5), {}, {"a": X}, {"train": None, "test": X}),
    *([Odd()] * 3, [None] * 3, [{"a": 1}], ["a", "b"], [[1.0], [1.0, 2.0]], [[1.0, None]], [b"a"]),
    *(X > 0, X.astype(complex), X[:, 0], X[None], X[:0], X[:, :0], X.astype("U"), np.float32(1)),
    *(np.ma.masked_array(X, X > 2), np.where(X > 2, np.inf, X), np.zeros((24, 2), "M8[s]")),
    *(torch.empty(3, 3, device="meta"), torch.tensor(1.0), torch.zeros(3, 3, dtype=torch.bool)),
    *(torch.nn.Linear(2, 2), torch.zeros(3, 3, dtype=torch.complex64)),
    *(pd.DataFrame(), FRAME[:0], pd.DataFrame({"v": [Odd()]}), pd.Series(["a"])),
    *(TABLE.schema, TABLE[:0], pa.nulls(5), pa.scalar(1.0), Stream(pa.table({"t": ["a"]}))),
    *(sparse.csr_matrix((0, 4)), sparse.csr_matrix(X > 0), Stream(object())),
]


@pytest.mark.parametrize("values", REFUSED, ids=lambda value: type(value).__name__)
def test_anything_else_is_one_line(values: Any, tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError) as error:
        cm.import_features(values, out=tmp_path / "f")
    assert "\n" not in str(error.value)


ODD = [Odd(), object(), len, np, {"a": 1}, {1, 2}, (y for y in Y), [Odd()] * 24, [None] * 24,
       [(1, 2)] * 24, pd.period_range("2020", periods=24, freq="D"),
       Y * 1j, TABLE, Y[:3]]  # fmt: skip


@pytest.mark.parametrize("parameter", ["labels", "split"])
@pytest.mark.parametrize("values", ODD, ids=lambda value: type(value).__name__)
def test_labels_that_are_none_are_one_line(parameter: str, values: Any, tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError) as error:
        cm.import_features(X, out=tmp_path / "f", **{parameter: values})
    assert "\n" not in str(error.value)
