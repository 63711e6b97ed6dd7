"""What every database must do, checked by one function on the real engine."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.core.progress import display
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.extraction.databases import write_back as writing
from criticalmass.extraction.databases.protocol import TableRequest
from criticalmass.extraction.databases.write_back import ShortVectors, WrittenTable
from criticalmass.extraction.vectors.source import VectorSource
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.features_writer import StoreWriter

N, D, WIDTH = 400, 8, 3
#: Rows that are read, written and kept at a time; all far below N.
PAGE, CHUNK, SHARD, BLOCK = 37, 50, 64, 45
RNG = np.random.default_rng(5)
VECTORS = RNG.normal(size=(N, D)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
LABELS = [("red", "green", "blue")[row % 3] for row in range(N)]
#: The order of the ids is another one than that of the rows.
NUMBERS = [int(number) for number in RNG.permutation(N) * 3 + 1]


@dataclass(frozen=True)
class Engine:
    """A database that holds the vectors.

    Attributes
    ----------
    url: its address.
    ids: the ids of the rows, as texts.
    table: name of the table.
    change: changes one vector, that of the row with the number.
    precision: the precision that short vectors are written in.
    tolerance: largest error of a value that comes back.
    skips: whether a resumed import does not read stored rows again.
    """

    url: str
    ids: list[str]
    change: Callable[[int], None]
    table: str = "items"
    precision: str = "float32"
    tolerance: float = 0.0
    skips: bool = False


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every internal limit smaller than the data."""
    monkeypatch.setattr(VectorSource, "chunk_rows", CHUNK)
    monkeypatch.setattr(StoreWriter, "shard_rows", SHARD)
    monkeypatch.setattr(writing, "_BLOCK_ROWS", BLOCK)
    monkeypatch.setattr("criticalmass.extraction.databases.table._BLOCK_ROWS", CHUNK)
    for name in ("qdrant", "chroma", "milvus"):
        module = importlib.import_module(f"criticalmass.extraction.databases.{name}")
        monkeypatch.setattr(module, "_PAGE_ROWS", PAGE)


def by_id(store: FeatureStore) -> dict[str, NDArray[Any]]:
    """Return id -> vector."""
    return {
        name: vector
        for split in store.splits
        for name, vector in zip(store.sample_ids(split), store.features(split).array(), strict=True)
    }


def shorten(x: NDArray[Any]) -> NDArray[np.float32]:
    """Return the first dimensions."""
    return x[:, :WIDTH].astype(np.float32)


def short_vectors(precision: str) -> ShortVectors:
    def encode(x: NDArray[Any]) -> NDArray[Any]:
        short = shorten(x)
        return np.packbits(short > 0, axis=1) if precision == "binary" else short.astype(precision)

    return ShortVectors("a1b2", D, WIDTH, precision, encode, shorten)


def write(engine: Engine, precision: str | None = None) -> WrittenTable:
    """Write the short vectors of the table."""
    short = short_vectors(precision or engine.precision)
    return writing.write_back(engine.url, TableRequest(), None, short)


class InterruptError(RuntimeError):
    """Ends a call in the middle."""


def interrupting(function: Callable[..., Any], after: int) -> Callable[..., Any]:
    """Return a function that ends the program at a call."""
    calls = iter(range(after))

    def call(*args: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise InterruptError
        return function(*args, **options)

    return call


def check_import(engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import, the same again, resumed after an interruption, and after a change."""
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "put", interrupting(StoreWriter.put, 4))
        with pytest.raises(InterruptError):
            cm.import_features(engine.url, out=folder / "f")
    shards = {path: path.stat().st_mtime_ns for path in (folder / "f").rglob("*-0*.npy")}
    assert len(shards) == 4
    first_rows = []

    def check(x: NDArray[Any], name: str, row: int, ids: Any) -> None:
        first_rows.append(row)

    with monkeypatch.context() as patch:
        patch.setattr("criticalmass.extraction.import_writer.check_finite", check)
        store = cm.import_features(engine.url, out=folder / "f")
    assert (first_rows[0] > 0) == engine.skips
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    vectors = by_id(store)
    assert set(vectors) == set(engine.ids)
    for name, vector in zip(engine.ids, VECTORS, strict=True):
        np.testing.assert_allclose(vectors[name], vector, atol=engine.tolerance)
    row = {name: number for number, name in enumerate(engine.ids)}
    for split in store.splits:
        names = [store.class_names[label] for label in store.labels(split)]
        assert names == [LABELS[row[name]] for name in store.sample_ids(split)]
    whole = cm.import_features(engine.url, out=folder / "whole")
    assert whole.digest() == store.digest()
    assert cm.import_features(engine.url, out=folder / "f").digest() == store.digest()
    engine.change(7)
    with pytest.raises(StoreError, match=r"another request|have changed"):
        cm.import_features(engine.url, out=folder / "f")


def check_write_back(engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write short vectors, resumed after an interruption, and twice."""
    before = cm.import_features(engine.url, out=folder / "before").digest()
    with monkeypatch.context() as patch:
        patch.setattr(writing, "check_finite", interrupting(writing.check_finite, 4))
        with pytest.raises(InterruptError):
            write(engine)
    result = write(engine)
    assert 0 < result.n_written < result.n_rows == N
    assert write(engine).n_written == 0
    # The table of whole vectors is found without its name, and is as it was.
    assert cm.import_features(engine.url, out=folder / "after").digest() == before
    short = by_id(cm.import_features(engine.url, table=result.name, out=folder / "short"))
    expected = shorten(VECTORS).astype(result.precision)
    assert set(short) == set(engine.ids)
    for name, vector in zip(engine.ids, expected, strict=True):
        np.testing.assert_allclose(short[name], vector, atol=engine.tolerance)


def errors_of(engine: Engine, folder: Path) -> Iterator[str]:
    """Yield the messages of wrong names, each in one line."""
    for options in (
        {"table": engine.table[:-1] + "z"},
        {"column": "embedine"},
        {"id": "nothing"},
    ):
        with display(), pytest.raises(CriticalMassError) as error:
            cm.import_features(engine.url, out=folder / "bad", **options)
        assert "\n" not in str(error.value)
        yield str(error.value)
    assert not (folder / "bad").exists()


def check_errors(engine: Engine, folder: Path, suggestion: str = "embedding") -> None:
    """Wrong names of tables and columns, and vectors of another width."""
    table, column, key = errors_of(engine, folder)
    assert f"did you mean {engine.table!r}?" in table
    assert suggestion in column
    assert "'nothing'" in key
    short = ShortVectors("a1b2", D + 1, WIDTH, "float32", shorten, shorten)
    with pytest.raises(CriticalMassError, match=f"has {D} dimensions, but .* of {D + 1}$"):
        writing.write_back(engine.url, TableRequest(), None, short)
