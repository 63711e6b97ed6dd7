"""The Run folder: one long table, what every probe predicted, and one writer at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.errors import CriticalMassError, RunError, unknown_name
from criticalmass.run_files import only_writer, remove_temporary, write_atomically, write_json
from criticalmass.run_table import (
    COLUMNS,
    empty_table,
    join,
    missing_cells,
    read_table,
    to_table,
)

__all__ = ["COLUMNS", "KINDS", "Artifact", "Run", "RunWriter"]

FORMAT = "criticalmass-run"
VERSION = 1
KINDS: tuple[str, ...] = ("predictions", "scores", "replicates")
_REFERENCE = re.compile(r"(?P<file>(?:predictions|scores|replicates)/[0-9a-f]+\.npy):(?P<row>\d+)")


@dataclass(frozen=True, eq=False)
class Artifact:
    """What is kept of some cells besides their value.

    Attributes
    ----------
    kind: "predictions": class ids, (n_rows, n_test), stored in the smallest unsigned type;
        "scores": score of every test sample, (n_rows, n_test), stored as float32;
        "replicates": the measure without test block b, (n_rows, n_blocks), float64.
    values: two-dimensional, one row per cell or per group of cells.
    """

    kind: str
    values: npt.NDArray[Any]

    def stored(self) -> npt.NDArray[Any]:
        """Return the values in the type they are stored in.

        Raises
        ------
        RunError: for an unknown kind, a wrong shape, or values that the kind cannot hold.
        """
        if self.kind not in KINDS:
            raise unknown_name("kind of artifact", self.kind, KINDS)
        values = np.asarray(self.values)
        if values.ndim != 2:
            raise RunError(f"{self.kind} have shape (n_rows, n_columns), got {values.shape}")
        if self.kind == "predictions":
            if not np.issubdtype(values.dtype, np.integer) or (values.size and values.min() < 0):
                raise RunError(f"predictions are class ids 0 or more, got {values.dtype}")
            top = int(values.max()) if values.size else 0
            return np.ascontiguousarray(values, dtype=np.min_scalar_type(top))
        if not np.isfinite(values).all():
            raise RunError(f"{self.kind} hold NaN or infinity; record the cell as failed instead")
        dtype = np.float32 if self.kind == "scores" else np.float64
        return np.ascontiguousarray(values, dtype=dtype)


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
        write_json(folder / "manifest.json", {**head, **manifest, **head})
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
            raise RunError(f"{path} cannot be read; restore it or sweep again") from error
        if not isinstance(content, dict):
            raise RunError(f"{path} is no manifest of a run; restore it or sweep again")
        return content

    def frame(self) -> pd.DataFrame:
        """Return the long table, one row per cell, with the columns `COLUMNS`."""
        return read_table(self.path / "results.parquet")

    def missing(self, cells: Sequence[str]) -> list[str]:
        """Return the cells that have no result yet; a failed one is asked for again."""
        return missing_cells(self.frame(), cells)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the ids in labels and predictions."""
        return tuple(self.manifest.get("class_names", ()))

    def labels(self) -> npt.NDArray[np.int64]:
        """(n_test,) class of every test sample."""
        return np.asarray(self._load("labels.npy"), dtype=np.int64)

    def order(self, selector: str, layer: str, seed: int) -> npt.NDArray[np.intp]:
        """(n_neurons,) permutation that a selector gave."""
        return np.asarray(self._load(_order_file(selector, layer, seed)), dtype=np.intp)

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
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise RunError(f"{path} is missing; sweep again with rerun='all'") from error
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"{path} is damaged; sweep again with rerun='all'") from error
        return np.asarray(loaded)


class RunWriter:
    """Adds to a run; only `Run.writer` makes one, and it removes what a killed one left."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._table = run.frame()
        self._clean()

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
        name = _order_file(selector, layer, seed)
        self._save(name, np.asarray(array, dtype=np.int64))
        return name

    def put_labels(self, labels: npt.ArrayLike, class_names: Sequence[str]) -> None:
        """Keep the test labels and the names of the classes.

        Raises
        ------
        RunError: if the run has results on other labels.
        """
        y = np.asarray(labels, dtype=np.int64)
        known = self._run.path / "labels.npy"
        if known.exists():
            same = np.array_equal(self._run.labels(), y)
            if same and self._run.class_names == tuple(class_names):
                return
            if not same and len(self._table):
                raise RunError(
                    f"{self._run.path} has results on other test labels; sweep into another folder"
                )
        self._save("labels.npy", y)
        self.update_manifest(class_names=list(class_names))

    def update_manifest(self, **changes: Any) -> None:
        """Set entries of the manifest."""
        write_json(self._run.path / "manifest.json", {**self._run.manifest, **changes})

    def _save(self, name: str, values: npt.NDArray[Any]) -> None:
        write_atomically(
            self._run.path / name, lambda file: np.save(file, values, allow_pickle=False)
        )

    def _write_table(self, table: pd.DataFrame) -> None:
        table = table.reset_index(drop=True) if len(table) else empty_table()
        path = self._run.path / "results.parquet"
        write_atomically(path, lambda file: table.to_parquet(file, index=False))
        self._table = table

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
    if not name.startswith("replicates/") and values.shape[1] != row.get("n_test"):
        raise RunError(
            f"cell {row.get('cell')!r} has n_test={row.get('n_test')} but its artifact "
            f"holds {values.shape[1]} test samples"
        )
    return {**row, "artifact": f"{name}:{number}"}


def _order_file(selector: str, layer: str, seed: int) -> str:
    """Place of an order inside the folder; layers whose names are no file names get a digest."""
    if not re.fullmatch(r"[a-z0-9-]+", selector):
        raise CriticalMassError(f"selector {selector!r} cannot name a file; use a-z, 0-9 and -")
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", layer)
    if plain != layer:
        plain = f"{plain}-{hashlib.sha256(layer.encode()).hexdigest()[:8]}"
    return f"orders/{plain}--{selector}--{seed}.npy"
