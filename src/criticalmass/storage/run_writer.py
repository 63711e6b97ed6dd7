"""The one writer of a Run: appends cells, and heals what a killed or damaged one left."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.core.progress import notice
from criticalmass.errors import RunError
from criticalmass.storage.artifacts import KINDS
from criticalmass.storage.digests import is_intact, seal_table, sealed, sealed_files
from criticalmass.storage.files import file_digest, remove_temporary, write_atomically, write_json
from criticalmass.storage.run_lock import order_file
from criticalmass.storage.run_table import LABELS, TABLE, empty_table, join, read_table, to_table

if TYPE_CHECKING:
    from criticalmass.storage.artifacts import Artifact
    from criticalmass.storage.run import Run

__all__ = ["RunWriter"]


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
