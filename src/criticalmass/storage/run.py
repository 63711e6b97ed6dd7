"""The Run folder: one long table, what every probe predicted, and one writer at a time."""

from __future__ import annotations

import contextlib
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

from criticalmass.errors import RunError
from criticalmass.storage.digests import is_intact, opened, sealed, sealed_files
from criticalmass.storage.files import write_json
from criticalmass.storage.run_lock import only_writer, order_file
from criticalmass.storage.run_table import LABELS, TABLE, missing_cells, read_table

if TYPE_CHECKING:
    from criticalmass.storage.run_writer import RunWriter

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
        from criticalmass.storage.run_writer import RunWriter

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
