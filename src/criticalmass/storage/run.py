"""The folder of a run: one long table, the predictions of every probe, and one writer."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.core.notebook import Card, Shown
from criticalmass.core.progress import warn_user
from criticalmass.errors import RunError
from criticalmass.storage.artifacts import KINDS
from criticalmass.storage.digests import (
    file_digest,
    file_digests,
    is_intact,
    table_with_digest,
)
from criticalmass.storage.files import (
    MANIFEST,
    FolderKind,
    folder_of,
    read_manifest,
    remove_temporary,
    write_atomically,
    write_manifest,
)
from criticalmass.storage.run_lock import write_lock
from criticalmass.storage.run_table import (
    LABELS,
    TABLE,
    empty_table,
    forget_tables,
    merge_rows,
    missing_cells,
    read_table,
    to_table,
)

if TYPE_CHECKING:
    from criticalmass.storage.artifacts import Artifact

RUN = FolderKind("criticalmass-run", 1, "run", "sweep", RunError)
_SECONDS_PER_WRITE = 0.5
_REFERENCE = re.compile(r"(?P<file>(?:predictions|scores|replicates)/[0-9a-f]+\.npy):(?P<row>\d+)")


@dataclass(frozen=True, repr=False)
class Run(Shown):
    """A folder of results; accepted wherever its path is.

    Attributes
    ----------
    path: the folder.
    """

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike[str], manifest: Mapping[str, Any]) -> Run:
        """Start a run in a folder that is new or empty.

        Parameters
        ----------
        path: the folder.
        manifest: JSON-able description of the run.

        Raises
        ------
        RunError: if the folder is not empty.
        """
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            state = "is a run already; open it" if cls.exists(folder) else "is not empty; empty it"
            raise RunError(f"{folder} {state}, or choose another folder")
        header = {"format": RUN.format, "version": RUN.newest}
        write_manifest(folder, {**header, **manifest, **header}, durable=True)
        return cls(folder)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | Run) -> Run:
        """Open the run of a folder.

        Raises
        ------
        RunError: if there is no run, or a newer version wrote it.
        """
        if isinstance(path, Run):
            return path
        run = cls(folder_of(path, RUN))
        read_manifest(run.path, RUN)
        return run

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Return whether a folder holds a run."""
        return (Path(path) / MANIFEST).is_file()

    def __fspath__(self) -> str:
        return str(self.path)

    def _card(self) -> Card:
        manifest, frame = self.manifest, self.frame()
        states = frame["status"].value_counts().to_dict() if len(frame) else {}
        facts = {
            "model": manifest.get("model_spec") or ", ".join(map(str, frame["model"].unique())),
            "dataset": ", ".join(map(str, frame["dataset"].unique())),
            **{
                f"{name}s": ", ".join(map(str, frame[name].unique()))
                for name in ("layer", "selector", "measure")
            },
            "cells": ", ".join(f"{count:,} {state}" for state, count in states.items()) or "none",
        }
        return Card(f"Run {str(self.path)!r}", facts)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def manifest(self) -> dict[str, Any]:
        """The description of the run, read from disk."""
        return read_manifest(self.path, RUN)

    def frame(self) -> pd.DataFrame:
        """Return the long table, one row per cell, with the columns `COLUMNS`.

        Raises
        ------
        RunError: if it is damaged, or missing although results were written.
        """
        path = self.path / TABLE
        if not path.exists() and (self.path / LABELS).exists():
            raise RunError(f"{path} is missing; restore it or sweep again")
        return read_table(path)

    def missing(self, cells: Sequence[str]) -> list[str]:
        """Return the cells without a result; a failed cell has none."""
        return missing_cells(self.frame(), cells)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by class id."""
        return tuple(self.manifest.get("class_names", ()))

    def labels(self) -> npt.NDArray[np.int64]:
        """Return the (n_test,) class id of every test sample."""
        return np.asarray(self._load(LABELS), dtype=np.int64)

    def order(self, selector: str, layer: str, seed: int) -> npt.NDArray[np.intp]:
        """Return the (n_neurons,) permutation of a selector."""
        return np.asarray(self._load(order_path(selector, layer, seed)), dtype=np.intp)

    def artifact(self, row: str | Mapping[str, Any] | pd.Series) -> npt.NDArray[Any]:
        """Return the artifact of one cell: (n_test,) or (n_blocks,).

        Parameters
        ----------
        row: a row of the table, or the content of its column ``artifact``.
        """
        return np.asarray(self.artifacts([row if isinstance(row, str) else row["artifact"]])[0])

    def artifacts(self, references: Iterable[Any]) -> npt.NDArray[Any]:
        """Return the artifacts of several cells of one kind: (n_rows, n_columns).

        Parameters
        ----------
        references: contents of the column ``artifact``.

        Raises
        ------
        RunError: if a cell has no artifact, a file is missing or truncated, or kinds are mixed.
        """
        files: dict[str, npt.NDArray[Any]] = {}
        rows = []
        for reference in references:
            match = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
            if match is None:
                raise RunError(
                    f"{reference!r} of {self.path} is no artifact; ask for cells that have one"
                )
            name, index = match["file"], int(match["row"])
            if name not in files:
                files[name] = self._load(name)
            if files[name].ndim != 2 or index >= len(files[name]):
                raise RunError(
                    f"{self.path / name} has no row {index}; sweep again with rerun='all'"
                )
            rows.append(files[name][index])
        if len({name.partition("/")[0] for name in files}) > 1:
            raise RunError(
                f"artifacts of {self.path} of different kinds were requested; request one kind"
            )
        if len({row.shape for row in rows}) > 1:
            raise RunError(f"artifacts of {self.path} have different lengths; sweep again")
        return np.stack(rows) if rows else np.empty((0, 0))

    def predictions(self, frame: pd.DataFrame) -> npt.NDArray[Any]:
        """Return the (n_rows, n_test) class ids that the probes of these rows predicted."""
        references = frame["artifact"].tolist()
        for reference in references:
            if not (isinstance(reference, str) and reference.startswith("predictions/")):
                raise RunError(
                    f"a row of {self.path} has no predictions but {reference!r}; give rows of "
                    "probes"
                )
        return self.artifacts(references)

    @contextlib.contextmanager
    def writer(self) -> Iterator[RunWriter]:
        """Lock the run and return its writer; only one process can write at a time.

        Raises
        ------
        RunError: if another process is writing; the error names its process number.
        """
        with write_lock(self.path):
            yield RunWriter(self)

    def _load(self, name: str) -> npt.NDArray[Any]:
        """Memory-map one array of the folder."""
        path = self.path / name
        try:
            digest = file_digests(self.path / TABLE).get(name)
            if digest is not None and not is_intact(path, digest):
                raise ValueError("its digest differs from the table's")
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise RunError(f"{path} is missing; sweep again with rerun='all'") from error
        except (OSError, ValueError, EOFError) as error:
            raise RunError(
                f"{path} is damaged ({error}); delete it and sweep again with rerun='all'"
            ) from error
        return np.asarray(array)


class RunWriter:
    """Writes to a run; created by `Run.writer`. It removes the leftovers of a killed writer."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._new: list[pd.DataFrame] = []
        self._n_holds = 0
        self._written = 0.0
        path = run.path / TABLE
        self._table = read_table(path)
        self._files = dict(file_digests(path))
        self._remove_unnamed()
        self._drop_damaged()
        if not path.exists():
            # From now on a missing table is an error.
            self._write_table(self._table)

    def append(self, rows: Sequence[Mapping[str, Any]], artifacts: Artifact | None = None) -> None:
        """Write artifacts, then rows; rows of the same cell are replaced.

        Parameters
        ----------
        rows: mappings with the keys of `COLUMNS`. ``artifact`` is a row number of ``artifacts``
            (several rows may share one), the reference of another row, or None. Without it, row i
            of ``rows`` belongs to row i of ``artifacts``.
        artifacts: artifacts of these cells.

        Raises
        ------
        RunError: if a row is incomplete or does not fit its artifact; nothing is written.
        """
        if not rows:
            return
        values = None if artifacts is None else artifacts.as_stored()
        name = ""
        if artifacts is not None and values is not None:
            name = f"{artifacts.kind}/{_artifact_digest(rows, values)}.npy"
        complete = [_with_reference(row, i, len(rows), name, values) for i, row in enumerate(rows)]
        table = to_table(complete)
        if values is not None:
            self._save(name, values)
        self._new.append(table)
        if not self._n_holds or time.monotonic() - self._written > _SECONDS_PER_WRITE:
            self.flush()

    @contextlib.contextmanager
    def batched(self) -> Iterator[None]:
        """Let the rows of several appends be written together, at least every half second.

        The table is one file, so each write costs as much as the whole table. Call `flush` before
        the table is read inside the block. At its end, also after an error, all is written.
        """
        self._n_holds += 1
        try:
            yield
        finally:
            self._n_holds -= 1
            if not self._n_holds:
                self.flush()

    def flush(self) -> None:
        """Write the rows that were appended since the last write."""
        if not self._new:
            return
        new = pd.concat(self._new, ignore_index=True)
        self._write_table(merge_rows(self._table, new.drop_duplicates("cell", keep="last")))
        self._new.clear()
        self._written = time.monotonic()

    def drop(self, cells: Iterable[str]) -> None:
        """Remove the rows of cells; the next writer removes their artifacts."""
        self.flush()
        self._write_table(self._table[~self._table["cell"].isin(list(cells))])

    def put_order(self, selector: str, layer: str, seed: int, order: npt.ArrayLike) -> str:
        """Write the permutation of a selector; -> its path inside the folder."""
        name = order_path(selector, layer, seed)
        self._save(name, np.asarray(order, dtype=np.int64))
        return name

    def put_labels(self, labels: npt.ArrayLike, class_names: Sequence[str]) -> None:
        """Write the test labels and the names of the classes.

        Raises
        ------
        RunError: if the run has results on other labels.
        """
        self.flush()
        y = np.asarray(labels, dtype=np.int64)
        path = self._run.path / LABELS
        if path.exists():
            is_same = np.array_equal(self._run.labels(), y)
            if is_same and self._run.class_names == tuple(class_names):
                self._files[LABELS] = file_digest(path)
                return
            if not is_same and len(self._table):
                raise RunError(
                    f"{self._run.path} has results on other test labels; sweep into another folder"
                )
        if self._files.pop(LABELS, None) is not None:
            # First without a digest of the labels: at no moment may it differ from the file.
            self._write_table(self._table)
        self._save(LABELS, y)
        if (self._run.path / TABLE).exists():
            self._write_table(self._table)
        self.update_manifest(class_names=list(class_names))

    def update_manifest(self, **changes: Any) -> None:
        """Set entries of the manifest."""
        write_manifest(self._run.path, {**self._run.manifest, **changes}, durable=True)

    def _save(self, name: str, values: npt.NDArray[Any]) -> None:
        content = io.BytesIO()
        np.save(content, values, allow_pickle=False)
        write_atomically(self._run.path / name, lambda file: file.write(content.getbuffer()))
        self._files[name] = hashlib.sha256(content.getbuffer()).hexdigest()

    def _write_table(self, table: pd.DataFrame) -> None:
        import pyarrow.parquet as pq

        table = table.reset_index(drop=True) if len(table) else empty_table()
        named = _artifact_files(table)
        files = {
            name: digest
            for name, digest in sorted(self._files.items())
            if name in named or name.partition("/")[0] not in KINDS
        }
        arrow = table_with_digest(table, files)
        write_atomically(self._run.path / TABLE, lambda file: pq.write_table(arrow, file))
        forget_tables()
        self._table, self._files = table, files

    def _drop_damaged(self) -> None:
        """Drop the rows whose files are missing or damaged, so that they are computed again."""
        folder = self._run.path
        damaged = {
            name
            for name, digest in self._files.items()
            if not (folder / name).is_file() or not is_intact(folder / name, digest)
        }
        if not damaged:
            return
        table = self._table
        orders = [
            order_path(str(row.selector), str(row.layer), int(row.seed))
            for row in table.itertuples()
        ]
        artifacts = table["artifact"].fillna("").str.partition(":")[0]
        is_lost = artifacts.isin(list(damaged)) | pd.Series(orders).isin(list(damaged))
        # Cells of one file are computed together again, so that the new file equals the old one.
        shared = artifacts[is_lost & (table["n_kept"] < table["n_neurons"])]
        is_lost |= artifacts.isin(list(shared)) & (artifacts != "")
        for name in sorted(damaged):
            warn_user(f"{folder / name} is missing or damaged and is written again")
            (folder / name).unlink(missing_ok=True)
        self._files = {name: d for name, d in self._files.items() if name not in damaged}
        self.drop(table.loc[is_lost, "cell"])

    def _remove_unnamed(self) -> None:
        """Remove artifacts that no row names: their writer died before it wrote the table."""
        named = _artifact_files(self._table)
        for folder in (self._run.path, self._run.path / "orders"):
            remove_temporary(folder)
        for kind in KINDS:
            folder = self._run.path / kind
            remove_temporary(folder)
            for path in folder.glob("*.npy"):
                if f"{kind}/{path.name}" not in named:
                    path.unlink(missing_ok=True)


def order_path(selector: str, layer: str, seed: int) -> str:
    """Return the path of an order inside the folder.

    A layer whose name is not a file name gets a digest in it.
    """
    if not re.fullmatch(r"[a-z0-9-]+", selector):
        raise RunError(f"selector {selector!r} cannot name a file; use a-z, 0-9 and -")
    name = re.sub(r"[^A-Za-z0-9._-]", "_", layer)
    if name != layer:
        name = f"{name}-{hashlib.sha256(layer.encode()).hexdigest()[:8]}"
    return f"orders/{name}--{selector}--{seed}.npy"


def _artifact_digest(rows: Sequence[Mapping[str, Any]], values: npt.NDArray[Any]) -> str:
    """Return the name of an artifact: a digest of its cells and its content.

    The content is included because a cell that is computed again with another result must not
    overwrite the file that the table still names.
    """
    digest = hashlib.sha256("\n".join(str(row.get("cell")) for row in rows).encode())
    digest.update(f"{values.dtype.str}{values.shape}".encode())
    digest.update(values.tobytes())
    return digest.hexdigest()[:32]


def _artifact_files(table: pd.DataFrame) -> set[str]:
    """Return the artifact files that the rows of a table name."""
    return {str(reference).partition(":")[0] for reference in table["artifact"].dropna()}


def _with_reference(
    row: Mapping[str, Any], position: int, n_rows: int, name: str, values: npt.NDArray[Any] | None
) -> dict[str, Any]:
    """Return the row with its artifact as a reference instead of a row number.

    Parameters
    ----------
    row: the row.
    position, n_rows: its position among the appended rows, and their number.
    name, values: file and content of the artifacts, if there are any.
    """
    if row.get("status") == "failed" or ("artifact" in row and row["artifact"] is None):
        return {**row, "artifact": None}
    if isinstance(row.get("artifact"), str) or (values is None and "artifact" not in row):
        return dict(row)
    number = int(row.get("artifact", position))
    if values is None or not 0 <= number < len(values):
        n_artifacts = 0 if values is None else len(values)
        raise RunError(
            f"cell {row.get('cell')!r} names artifact row {number} of {n_artifacts}; number them "
            "from 0"
        )
    if "artifact" not in row and len(values) != n_rows:
        raise RunError(
            f"{len(values)} artifact rows for {n_rows} rows; give each row its artifact number"
        )
    if not _fits(name.partition("/")[0], values.shape[1], row.get("n_test") or 0):
        raise RunError(
            f"cell {row.get('cell')!r} has n_test={row.get('n_test')} but its artifact "
            f"holds {values.shape[1]} test samples"
        )
    return {**row, "artifact": f"{name}:{number}"}


def _fits(kind: str, length: int, n_test: int) -> bool:
    """Return whether an artifact of this length fits this number of test samples.

    Predictions have one entry per test sample. Scores may cover a sample of many test samples
    (see `measures.similarity.retrieval`). Replicates have one entry per block.
    """
    if kind == "predictions":
        return length == n_test
    return kind != "scores" or 0 < length <= n_test
