"""Seals: digests by which a folder's manifest, table and files are known to be what was written.

A manifest carries the digest of its own content. The table of a run carries, in the metadata of
its Parquet file, the digest of its values and those of the files that it names; table and digests
are one file, so no moment exists at which they disagree. What was written before there were seals
has none and is read as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import pyarrow as pa

SEAL = "seal"
_METADATA = b"criticalmass"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Add its seal to the content of a manifest; a seal that is there is made anew.

    Parameters
    ----------
    content: JSON-able.
    """
    plain = {key: value for key, value in content.items() if key != SEAL}
    return {**plain, SEAL: _digest(plain)}


def opened(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Take the seal off a manifest; None if the content is not what was sealed."""
    plain = {key: value for key, value in content.items() if key != SEAL}
    return plain if content.get(SEAL, _digest(plain)) == _digest(plain) else None


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def seal_table(table: pd.DataFrame, files: Mapping[str, str]) -> pa.Table:
    """Make what is written as Parquet of a table.

    Parameters
    ----------
    table: the rows.
    files: path inside the folder -> SHA-256 in hex, of the files that belong to the rows.
    """
    import pyarrow as pa

    made = pa.Table.from_pandas(table, preserve_index=False)
    told = json.dumps({"rows": _rows_digest(table), "files": dict(files)}).encode()
    return made.replace_schema_metadata({**(made.schema.metadata or {}), _METADATA: told})


def is_sealed(table: pd.DataFrame, metadata: Mapping[bytes, bytes] | None) -> bool:
    """Whether the rows read are those that were sealed; yes if there is no seal."""
    told = _told(metadata)
    return "rows" not in told or told["rows"] == _rows_digest(table)


def sealed_files(path: Path) -> Mapping[str, str]:
    """Return the digests that a table file holds: path inside the folder -> SHA-256.

    Empty if there is no table yet, or one from before there were seals.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return {}
    return _files_of(path, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=32)
def _files_of(path: Path, changed: int, inode: int) -> Mapping[str, str]:
    """Read them once for each content of the path: ``changed`` and ``inode`` tell which."""
    import pyarrow.parquet as pq

    files = _told(pq.read_schema(path).metadata).get("files", {})
    return files if isinstance(files, dict) else {}


def is_intact(path: Path, digest: str) -> bool:
    """Whether a file's content has this SHA-256; read once for as long as it does not change."""
    stat = path.stat()
    return _file_digest(path, stat.st_mtime_ns, stat.st_size, stat.st_ino) == digest


@lru_cache(maxsize=4096)
def _file_digest(path: Path, changed: int, size: int, inode: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _told(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    text = (metadata or {}).get(_METADATA)
    try:
        told = {} if text is None else json.loads(text)
    except ValueError:
        return {"rows": "not readable"}
    return told if isinstance(told, dict) else {"rows": "not readable"}


def _rows_digest(table: pd.DataFrame) -> str:
    """Digest the values of a table, column by column, whatever memory they lie in."""
    digest = hashlib.sha256()
    for name in table.columns:
        column = table[name]
        digest.update(f"\n{name}\n".encode())
        gone = column.isna().to_numpy()
        digest.update(np.packbits(gone).tobytes())
        if pd.api.types.is_numeric_dtype(column.dtype):
            kind = np.int64 if pd.api.types.is_integer_dtype(column.dtype) else np.float64
            digest.update(column.fillna(0).to_numpy(dtype=kind).tobytes())
        else:
            digest.update("\0".join(column.fillna("").astype(str)).encode())
    return digest.hexdigest()
