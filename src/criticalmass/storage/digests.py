"""SHA-256 digests by which damage of a folder's manifest, table and files is noticed.

A manifest contains the digest of its own content. The table of a run contains, in the metadata of
its Parquet file, the digest of its rows and the digests of the files that its rows name. Table and
digests are one file, so they cannot disagree after an interruption. Manifests and tables without
a digest, from before digests were written, are read without a check.
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

#: Key of the digest in a manifest.
DIGEST_KEY = "seal"
_METADATA_KEY = b"criticalmass"


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a manifest with its digest; an earlier digest is replaced.

    Parameters
    ----------
    content: JSON-able.
    """
    plain = {key: value for key, value in content.items() if key != DIGEST_KEY}
    return {**plain, DIGEST_KEY: _json_digest(plain)}


def verified(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a manifest without its digest, or None if the digest is not that of the content."""
    plain = {key: value for key, value in content.items() if key != DIGEST_KEY}
    return plain if content.get(DIGEST_KEY, _json_digest(plain)) == _json_digest(plain) else None


def _json_digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def table_with_digest(table: pd.DataFrame, files: Mapping[str, str]) -> pa.Table:
    """Convert a table to Arrow, with the digests of its rows and files in the metadata.

    Parameters
    ----------
    table: the rows.
    files: path inside the folder -> SHA-256 in hex, for the files that belong to the rows.
    """
    import pyarrow as pa

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    digests = json.dumps({"rows": _rows_digest(table), "files": dict(files)}).encode()
    return arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), _METADATA_KEY: digests})


def is_table_intact(table: pd.DataFrame, metadata: Mapping[bytes, bytes] | None) -> bool:
    """Return whether the rows have the digest in the metadata; True if there is none."""
    digests = _read_metadata(metadata)
    return "rows" not in digests or digests["rows"] == _rows_digest(table)


def file_digests(path: Path) -> Mapping[str, str]:
    """Return the digests in a table file: path inside the folder -> SHA-256.

    The result is empty if the table does not exist or has no digests.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return {}
    return _cached_file_digests(path, stat.st_mtime_ns, stat.st_ino)


def forget_file_digests() -> None:
    """Read the digests in every table again."""
    _cached_file_digests.cache_clear()


@lru_cache(maxsize=32)
def _cached_file_digests(path: Path, changed: int, inode: int) -> Mapping[str, str]:
    """Read the digests once per content of the path, which ``changed`` and ``inode`` identify."""
    import pyarrow.parquet as pq

    files = _read_metadata(pq.read_schema(path).metadata).get("files", {})
    return files if isinstance(files, dict) else {}


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_intact(path: Path, digest: str) -> bool:
    """Return whether a file has this SHA-256; an unchanged file is read only once."""
    stat = path.stat()
    return _cached_digest(path, stat.st_mtime_ns, stat.st_size, stat.st_ino) == digest


@lru_cache(maxsize=4096)
def _cached_digest(path: Path, changed: int, size: int, inode: int) -> str:
    return file_digest(path)


def _read_metadata(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    text = (metadata or {}).get(_METADATA_KEY)
    try:
        digests = {} if text is None else json.loads(text)
    except ValueError:
        return {"rows": "not readable"}
    return digests if isinstance(digests, dict) else {"rows": "not readable"}


def _rows_digest(table: pd.DataFrame) -> str:
    """Return the digest of a table's values, column by column, independent of their memory."""
    digest = hashlib.sha256()
    for name in table.columns:
        column = table[name]
        digest.update(f"\n{name}\n".encode())
        digest.update(np.packbits(column.isna().to_numpy()).tobytes())
        if pd.api.types.is_numeric_dtype(column.dtype):
            kind = np.int64 if pd.api.types.is_integer_dtype(column.dtype) else np.float64
            digest.update(column.fillna(0).to_numpy(dtype=kind).tobytes())
        else:
            texts = column.to_numpy(dtype=object, na_value="")
            digest.update("\0".join(map(str, texts)).encode())
    return digest.hexdigest()
