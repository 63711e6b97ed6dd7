"""The Run folder: one long table, what every probe predicted, and one writer at a time."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.core.progress import notice
from criticalmass.errors import RunError
from criticalmass.storage.artifacts import KINDS
from criticalmass.storage.digests import is_intact, opened, seal_table, sealed, sealed_files
from criticalmass.storage.files import file_digest, remove_temporary, write_atomically, write_json
from criticalmass.storage.run_lock import only_writer, order_file
from criticalmass.storage.run_table import (
    LABELS,
    TABLE,
    empty_table,
    join,
    missing_cells,
    read_table,
    to_table,
)

if TYPE_CHECKING:
    from criticalmass.storage.artifacts import Artifact

FORMAT = "criticalmass-run"
VERSION = 1
_REFERENCE = re.compile(r"(?P<file>(?:predictions|scores|replicates)/[0-9a-f]+\.npy):(?P<row>\d+)")


@dataclass(frozen=True)
class Run:
    """A folder of results; an object of it may stand wherever its path may.

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
        manifest: what the run is about, JSON-able.

        Raises
        ------
        RunError: if the folder holds anything.
        """
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "is a run already; open it" if cls.exists(folder) else "is not empty"
            raise RunError(f"{folder} {what}, or choose another folder")
        head = {"format": FORMAT, "version": VERSION}
        write_json(
            folder / "manifest.json", sealed({**head, **manifest, **head}), indent=2, durable=True
        )
        return cls(folder)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | Run) -> Run:
        """Open the run of a folder.

        Raises
        ------
        RunError: if there is none, or it was written by a newer version.
        """
        if isinstance(path, Run):
            return path
        run = cls(Path(path))
        if not cls.exists(run.path):
            raise RunError(f"no run at {run.path}; make one with: criticalmass sweep STORE --out")
        manifest = run.manifest
        if manifest.get("format") != FORMAT or int(manifest.get("version", 0)) > VERSION:
            raise RunError(
                f"{run.path} has format {manifest.get('format')} {manifest.get('version')}; "
                f"this version reads {FORMAT} up to {VERSION}"
            )
        return run

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Whether a folder holds a run."""
        return (Path(path) / "manifest.json").is_file()

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run is about, as it stands on disk now."""
        path = self.path / "manifest.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path} cannot be read; restore it, or delete {self.path} and sweep again"
            ) from error
        if not isinstance(content, dict):
            raise RunError(
                f"{path} is no manifest of a run; restore it, or delete {self.path} and sweep again"
            )
        manifest = opened(content)
        if manifest is None:
            raise RunError(
                f"{path} is damaged (it is not what was written); restore it, or delete "
                f"{self.path} and sweep again"
            )
        return manifest

    def frame(self) -> pd.DataFrame:
        """Return the long table, one row per cell, with the columns `COLUMNS`.

        Raises
        ------
        RunError: if it is damaged, or is gone though results were written.
        """
        path = self.path / TABLE
        if not path.exists() and (self.path / LABELS).exists():
            raise RunError(f"{path} is missing; restore it or sweep again")
        return read_table(path)

    def missing(self, cells: Sequence[str]) -> list[str]:
        """Return the cells that have no result yet; a failed one is asked for again."""
        return missing_cells(self.frame(), cells)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the ids in labels and predictions."""
        return tuple(self.manifest.get("class_names", ()))

    def labels(self) -> npt.NDArray[np.int64]:
        """(n_test,) class of every test sample."""
        return np.asarray(self._load(LABELS), dtype=np.int64)

    def order(self, selector: str, layer: str, seed: int) -> npt.NDArray[np.intp]:
        """(n_neurons,) permutation that a selector gave."""
        return np.asarray(self._load(order_file(selector, layer, seed)), dtype=np.intp)

    def artifact(self, row: str | Mapping[str, Any] | pd.Series) -> npt.NDArray[Any]:
        """Return what is kept of one cell: (n_test,) or (n_blocks,).

        Parameters
        ----------
        row: a row of the table, or what its column ``artifact`` says.
        """
        return np.asarray(self.artifacts([row if isinstance(row, str) else row["artifact"]])[0])

    def artifacts(self, references: Iterable[Any]) -> npt.NDArray[Any]:
        """Return what is kept of several cells of one kind: (n_rows, n_columns).

        Raises
        ------
        RunError: if a cell has none, a file is missing or truncated, or kinds are mixed.
        """
        files: dict[str, npt.NDArray[Any]] = {}
        found = []
        for reference in references:
            match = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
            if match is None:
                raise RunError(f"{reference!r} of {self.path} is no artifact; the cell kept none")
            name, at = match["file"], int(match["row"])
            if name not in files:
                files[name] = self._load(name)
            if files[name].ndim != 2 or at >= len(files[name]):
                raise RunError(f"{self.path / name} has no row {at}; sweep again with rerun='all'")
            found.append(files[name][at])
        if len({name.partition("/")[0] for name in files}) > 1:
            raise RunError(f"artifacts of {self.path} of different kinds were asked for together")
        if len({row.shape for row in found}) > 1:
            raise RunError(f"artifacts of {self.path} have different lengths; sweep again")
        return np.stack(found) if found else np.empty((0, 0))

    def predictions(self, frame: pd.DataFrame) -> npt.NDArray[Any]:
        """(n_rows, n_test) class ids that the probes of these rows predicted."""
        references = frame["artifact"].tolist()
        for reference in references:
            if not (isinstance(reference, str) and reference.startswith("predictions/")):
                raise RunError(f"a row of {self.path} has no predictions, but {reference!r}")
        return self.artifacts(references)

    @contextlib.contextmanager
    def writer(self) -> Iterator[RunWriter]:
        """Hold the only right to write; two processes on one run get a clear message.

        Raises
        ------
        RunError: if a living process holds it, named by its pid.
        """
        with only_writer(self.path):
            yield RunWriter(self)

    def _load(self, name: str) -> npt.NDArray[Any]:
        """Memory-map one array of the folder."""
        path = self.path / name
        try:
            digest = sealed_files(self.path / TABLE).get(name)
            if digest is not None and not is_intact(path, digest):
                raise ValueError("its digest is not the table's")
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise RunError(f"{path} is missing; sweep again with rerun='all'") from error
        except (OSError, ValueError, EOFError) as error:
            raise RunError(
                f"{path} is damaged ({error}); delete it and sweep again with rerun='all'"
            ) from error
        return np.asarray(loaded)


class RunWriter:
    """Adds to a run; only `Run.writer` makes one, and it removes what a killed one left."""

    def __init__(self, run: Run) -> None:
        self._run = run
        path = run.path / TABLE
        self._table = read_table(path)
        self._files = dict(sealed_files(path))
        self._clean()
        self._forget_damaged()
        if not path.exists():
            # From here on a run without a table is one that has lost it.
            self._write_table(self._table)

    def append(self, rows: Sequence[Mapping[str, Any]], artifacts: Artifact | None = None) -> None:
        """Write rows, and first what is kept of them; a cell that is there already is replaced.

        Parameters
        ----------
        rows: mappings with the keys of `COLUMNS`. ``artifact`` is a row number of
            ``artifacts`` (several rows may share one), a reference that another row has,
            or None; left out, row i of the one belongs to row i of the other.
        artifacts: what is kept of these cells.

        Raises
        ------
        RunError: if a row is not complete or does not fit its artifact; nothing is written.
        """
        if not rows:
            return
        values = None if artifacts is None else artifacts.stored()
        name = ""
        if artifacts is not None and values is not None:
            name = f"{artifacts.kind}/{_digest(rows, values)}.npy"
        named = [_with_reference(row, i, len(rows), name, values) for i, row in enumerate(rows)]
        table = join(self._table, to_table(named))
        if values is not None:
            self._save(name, values)
        self._write_table(table)

    def drop(self, cells: Iterable[str]) -> None:
        """Remove the rows of cells; what was kept of them goes when the next writer opens."""
        self._write_table(self._table[~self._table["cell"].isin(list(cells))])

    def order(self, selector: str, layer: str, seed: int, array: npt.ArrayLike) -> str:
        """Keep the permutation of a selector and return its place inside the folder."""
        name = order_file(selector, layer, seed)
        self._save(name, np.asarray(array, dtype=np.int64))
        return name

    def put_labels(self, labels: npt.ArrayLike, class_names: Sequence[str]) -> None:
        """Keep the test labels and the names of the classes.

        Raises
        ------
        RunError: if the run has results on other labels.
        """
        y = np.asarray(labels, dtype=np.int64)
        known = self._run.path / LABELS
        if known.exists():
            same = np.array_equal(self._run.labels(), y)
            if same and self._run.class_names == tuple(class_names):
                self._files[LABELS] = file_digest(known)
                return
            if not same and len(self._table):
                raise RunError(
                    f"{self._run.path} has results on other test labels; sweep into another folder"
                )
        if self._files.pop(LABELS, None) is not None:
            # Never a moment at which the table seals other labels than those that lie there.
            self._write_table(self._table)
        self._save(LABELS, y)
        if (self._run.path / TABLE).exists():
            self._write_table(self._table)
        self.update_manifest(class_names=list(class_names))

    def update_manifest(self, **changes: Any) -> None:
        """Set entries of the manifest."""
        write_json(
            self._run.path / "manifest.json",
            sealed({**self._run.manifest, **changes}),
            indent=2,
            durable=True,
        )

    def _save(self, name: str, values: npt.NDArray[Any]) -> None:
        content = io.BytesIO()
        np.save(content, values, allow_pickle=False)
        write_atomically(self._run.path / name, lambda file: file.write(content.getbuffer()))
        self._files[name] = hashlib.sha256(content.getbuffer()).hexdigest()

    def _write_table(self, table: pd.DataFrame) -> None:
        import pyarrow.parquet as pq

        table = table.reset_index(drop=True) if len(table) else empty_table()
        named = {str(ref).partition(":")[0] for ref in table["artifact"].dropna()}
        files = {
            name: digest
            for name, digest in sorted(self._files.items())
            if name in named or name.partition("/")[0] not in KINDS
        }
        made = seal_table(table, files)
        write_atomically(self._run.path / TABLE, lambda file: pq.write_table(made, file))
        self._table, self._files = table, files

    def _forget_damaged(self) -> None:
        """Drop the rows whose files are gone or changed, so that they are computed again."""
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
            order_file(str(row.selector), str(row.layer), int(row.seed))
            for row in table.itertuples()
        ]
        artifacts = table["artifact"].fillna("").str.partition(":")[0]
        lost = artifacts.isin(list(damaged)) | pd.Series(orders).isin(list(damaged))
        # What was computed together is computed together again: the files come out the same.
        together = artifacts[lost & (table["n_kept"] < table["n_neurons"])]
        lost |= artifacts.isin(list(together)) & (artifacts != "")
        for name in sorted(damaged):
            notice(f"{folder / name} is missing or damaged and is made again")
            (folder / name).unlink(missing_ok=True)
        self._files = {name: d for name, d in self._files.items() if name not in damaged}
        self.drop(table.loc[lost, "cell"])

    def _clean(self) -> None:
        """Remove files that no row names: their writer died before it wrote the table."""
        named = {str(ref).partition(":")[0] for ref in self._table["artifact"].dropna()}
        for folder in (self._run.path, self._run.path / "orders"):
            remove_temporary(folder)
        for kind in KINDS:
            folder = self._run.path / kind
            remove_temporary(folder)
            for path in folder.glob("*.npy"):
                if f"{kind}/{path.name}" not in named:
                    path.unlink(missing_ok=True)


def _digest(rows: Sequence[Mapping[str, Any]], values: npt.NDArray[Any]) -> str:
    """Name an artifact by its cells and its content.

    The content counts too: a cell computed anew with another outcome must not overwrite
    the file that the table still names.
    """
    digest = hashlib.sha256("\n".join(str(row.get("cell")) for row in rows).encode())
    digest.update(f"{values.dtype.str}{values.shape}".encode())
    digest.update(values.tobytes())
    return digest.hexdigest()[:32]


def _with_reference(
    row: Mapping[str, Any], at: int, n_rows: int, name: str, values: npt.NDArray[Any] | None
) -> dict[str, Any]:
    """Return the row with its artifact as a reference instead of a row number."""
    if row.get("status") == "failed" or ("artifact" in row and row["artifact"] is None):
        return {**row, "artifact": None}
    if isinstance(row.get("artifact"), str) or (values is None and "artifact" not in row):
        return dict(row)
    number = int(row.get("artifact", at))
    if values is None or not 0 <= number < len(values):
        have = 0 if values is None else len(values)
        raise RunError(f"cell {row.get('cell')!r} names artifact row {number} of {have}")
    if "artifact" not in row and len(values) != n_rows:
        raise RunError(f"{len(values)} artifact rows for {n_rows} rows; say which belongs to which")
    if not _fits(name.partition("/")[0], values.shape[1], row.get("n_test") or 0):
        raise RunError(
            f"cell {row.get('cell')!r} has n_test={row.get('n_test')} but its artifact "
            f"holds {values.shape[1]} test samples"
        )
    return {**row, "artifact": f"{name}:{number}"}


def _fits(kind: str, length: int, n_test: int) -> bool:
    """Return whether an artifact of this length can be of this many test samples.

    A prediction is of every test sample. Neighbour measures score a sample of them where they
    are many (`retrieval.MOST_QUERIES`), and a replicate is of a block of them.
    """
    if kind == "predictions":
        return length == n_test
    return kind != "scores" or 0 < length <= n_test
