"""A folder that is written unit by unit, so that a killed search goes on where it was.

A unit is what is computed as one batch, e.g. all problems of one image. Its pictures are written
first (``units/0007.safetensors``), then its table (``units/0007.parquet``), both atomically: a unit
whose table exists is done. When all are done the tables become one, ``results.parquet``, and the
manifest names all files with their digests. As a unit is always computed as the same batch, from a
generator that is seeded with its number, an interrupted search ends with the same bytes.

    with UnitFolder.write(out, KIND, request, facts) as folder:
        for number in folder.missing(n_units):
            rows, pictures = compute(number, unit_generator(seed, number))
            folder.add(number, rows, pictures)
        folder.finish(n_units)

This module imports torch inside of functions only.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError
from criticalmass.storage.features_writer import describe_differences
from criticalmass.storage.files import (
    MANIFEST,
    FolderKind,
    checked_path,
    read_manifest,
    remove_temporary,
    write_bytes,
    write_manifest,
)
from criticalmass.storage.run_lock import visible_entries, write_lock

if TYPE_CHECKING:
    import torch

_UNITS = "units"
_RESULTS = "results.parquet"
# What may differ between the processes of one search; bytes depend on them in the last digits.
_CIRCUMSTANCES = ("device", "threads", "versions")


class UnitFolder:
    """A folder of units; see the module.

    Parameters
    ----------
    path: the folder.
    manifest: its content so far.

    Attributes
    ----------
    path: the folder.
    manifest: its content so far.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    @contextlib.contextmanager
    def write(
        cls, path: Path, kind: FolderKind, request: Mapping[str, Any], facts: Mapping[str, Any]
    ) -> Iterator[UnitFolder]:
        """Begin a folder or go on with it, and hold its lock.

        Parameters
        ----------
        path: the folder; it is created if needed.
        kind: its kind.
        request: all that the numbers depend on, JSON-able, with the digests of model and data; a
            folder of another request is refused.
        facts: ``device``, ``threads`` and ``versions``, in which the processes of one search may
            differ with a warning.

        Raises
        ------
        CriticalMassError: the folder holds something else, or is of another request.
        RunError: another process writes it.
        """
        manifest: dict[str, Any] = {
            "format": kind.format,
            "format_version": kind.newest,
            "request": dict(request),
            **facts,
            "files": [],
            "complete": False,
        }
        if not (path / MANIFEST).is_file():
            if path.exists() and (not path.is_dir() or visible_entries(path)):
                raise CriticalMassError(
                    f"{str(path)!r} is no {kind.noun} and not empty; choose another folder"
                )
            path.mkdir(parents=True, exist_ok=True)
        with write_lock(path):
            if (path / MANIFEST).is_file():
                manifest = cls._continue(path, kind, manifest)
            else:
                write_manifest(path, manifest, durable=True)
            for folder in (path, path / _UNITS):
                remove_temporary(folder)
            yield cls(path, manifest)

    @staticmethod
    def _continue(path: Path, kind: FolderKind, manifest: Mapping[str, Any]) -> dict[str, Any]:
        before = read_manifest(path, kind)
        if before["request"] != manifest["request"]:
            changes = describe_differences(before["request"], manifest["request"])
            raise CriticalMassError(
                f"{str(path)!r} was made by another request ({'; '.join(changes[:3])}); "
                "choose another folder"
            )
        for key in _CIRCUMSTANCES:
            if not before["complete"] and before.get(key) != manifest.get(key):
                warn_user(
                    f"{path} was begun with {key}={before.get(key)} and goes on with "
                    f"{manifest.get(key)}: its numbers may differ in the last digits"
                )
        return before

    @property
    def is_complete(self) -> bool:
        """Whether all units are done and joined."""
        return bool(self.manifest["complete"])

    def missing(self, n_units: int) -> list[int]:
        """Return the numbers of the units that are to be computed."""
        if self.is_complete:
            return []
        return [number for number in range(n_units) if not self._table(number).is_file()]

    def add(
        self,
        number: int,
        rows: Sequence[Mapping[str, Any]],
        pictures: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Write a unit: the rows of its table, and tensors by name."""
        if pictures:
            from safetensors.torch import save

            state = {name: value.detach().cpu().contiguous() for name, value in pictures.items()}
            write_bytes(self._pictures(number), save(state), durable=True)
        write_bytes(self._table(number), _to_parquet(pd.DataFrame(rows)), durable=True)

    def finish(self, n_units: int, more: Mapping[str, bytes] | None = None) -> pd.DataFrame:
        """Join the tables of all units, complete the manifest, and return the table.

        Parameters
        ----------
        n_units: number of units.
        more: further files of the folder, name -> content.

        Raises
        ------
        StoreError: a file of the complete folder is missing or damaged.
        """
        if not self.is_complete:
            tables = [pd.read_parquet(self._table(number)) for number in range(n_units)]
            content = {_RESULTS: _to_parquet(pd.concat(tables, ignore_index=True)), **(more or {})}
            entries = [self._entry(name, value) for name, value in content.items()]
            for number in range(n_units):
                path = self._pictures(number)
                if path.is_file():
                    entries.append(self._entry(f"{_UNITS}/{path.name}", path.read_bytes()))
            self.manifest |= {"files": entries, "complete": True}
            write_manifest(self.path, self.manifest, durable=True)
        for path in (self.path / _UNITS).glob("*.parquet"):
            path.unlink()
        return read_results(self.path, self.manifest)

    def _entry(self, name: str, content: bytes) -> dict[str, str]:
        return {"path": name, "sha256": write_bytes(self.path / name, content, durable=True)}

    def _table(self, number: int) -> Path:
        return self.path / _UNITS / f"{number:04d}.parquet"

    def _pictures(self, number: int) -> Path:
        return self.path / _UNITS / f"{number:04d}.safetensors"


def read_results(path: Path, manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Read the table of a complete folder, and check the digests of all files.

    Raises
    ------
    StoreError: a file is missing or damaged.
    """
    for entry in manifest["files"]:
        checked_path(path, entry, verify=True)
    return pd.read_parquet(path / _RESULTS)


def unit_generator(seed: int, number: int) -> torch.Generator:
    """Return the generator of a unit, on the CPU."""
    import torch

    return torch.Generator().manual_seed(seed * 1_000_003 + number)


def _to_parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
