"""Stored vectors themselves: the certified codes of whole vectors, and the map of queries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import ExportRequest
from criticalmass.shrinking.export.whole_vectors import open_parts
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.files import write_array

_CHUNK = 4096


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write the codes of vectors as ``NAME.npy`` and ``NAME.parquet``, and the map of queries.

    ``NAME`` is a split of a feature store, or ``vectors``. Codes are float32, float16, or uint8
    levels or packed bits, (n, width), as `SlimModel.encode` returns them. The columns of the
    Parquet file are ``row`` and ``code``, a list of fixed length. Queries are shortened with
    ``indices.npy`` or ``matrix.npy``; a level c stands for ``offset + step * c``, and a bit says
    whether a value is above ``offset``.

    Raises
    ------
    CriticalMassError: if there are no vectors, or they have another width.
    """
    slim, parts = request.slim, {}
    if request.vectors is None:
        raise CriticalMassError(
            "format 'vectors' needs the whole vectors; pass vectors=PATH (--vectors PATH), a "
            "feature store or a .npy file"
        )
    for name, rows in open_parts(request.vectors, slim).items():
        parts[name] = _write_codes(slim, rows, folder, name)
    write_query_map(slim, folder)
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "rows": parts,
        "normalised": slim.short_map is not None,
    }


def write_query_map(slim: SlimModel, folder: Path) -> None:
    """Write what shortens queries: ``indices.npy`` or ``matrix.npy``, and the codec's arrays."""
    arrays: dict[str, NDArray[Any]] = {"indices": slim.indices.astype(np.int64)}
    if slim.matrix is not None:
        arrays = {"matrix": slim.matrix}
    if slim.precision in ("int8", "binary"):
        arrays |= {"offset": slim.codec.offset, "step": slim.codec.step}
    for name, array in arrays.items():
        write_array(folder / f"{name}.npy", array)


def _write_codes(slim: SlimModel, rows: Rows, folder: Path, name: str) -> int:
    """Write the codes of rows, chunk by chunk; return the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = int(rows.shape[0])
    codes: Any = None
    writer: Any = None
    for start, block in _encode(slim, rows):
        if codes is None:
            width = block.shape[1]
            codes = np.lib.format.open_memmap(
                folder / f"{name}.npy", mode="w+", dtype=block.dtype, shape=(n, width)
            )
            kind = pa.list_(pa.from_numpy_dtype(block.dtype), width)
            schema = pa.schema([("row", pa.int64()), ("code", kind)])
            writer = pq.ParquetWriter(folder / f"{name}.parquet", schema)
        codes[start : start + len(block)] = block
        numbers = pa.array(np.arange(start, start + len(block)))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block.shape[1])
        writer.write_table(pa.Table.from_arrays([numbers, lists], schema=schema))
    if codes is None:
        raise CriticalMassError(f"{name} has no vectors; give at least one")
    codes.flush()
    writer.close()
    return n


def _encode(slim: SlimModel, rows: Rows) -> Iterator[tuple[int, NDArray[Any]]]:
    for start in range(0, int(rows.shape[0]), _CHUNK):
        block = np.asarray(rows[start : start + _CHUNK], dtype=np.float32)
        if not np.isfinite(block).all():
            row = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise CriticalMassError(f"row {row} of the vectors is not finite; leave it out")
        yield start, slim.encode(block)
