"""``open_vectors``: open a file of vectors by its suffix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.vectors.faiss_files import open_faiss
from criticalmass.extraction.vectors.numpy_files import open_npy, open_npz
from criticalmass.extraction.vectors.parquet_files import open_parquet
from criticalmass.extraction.vectors.safetensors_files import open_safetensors
from criticalmass.extraction.vectors.source import Vectors

# Suffix -> reader of (path, column, other columns); see ``open_vectors``.
READERS: Mapping[str, Callable[[Path, str | None, frozenset[str]], Vectors]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".parquet": open_parquet,
    ".safetensors": open_safetensors,
    ".faiss": open_faiss,
    ".index": open_faiss,
}


def open_vectors(
    path: Path, column: str | None = None, other_columns: frozenset[str] = frozenset()
) -> Vectors:
    """Open a file of vectors; large arrays are read later.

    Parameters
    ----------
    path: ``.npy``, ``.npz``, ``.parquet``, ``.safetensors``, ``.faiss`` or ``.index`` (FAISS).
    column: the column, array or tensor of the vectors, if the file has several.
    other_columns: columns of a table that hold other values (labels, the split).

    Raises
    ------
    CriticalMassError: no such file, an unknown suffix, or content that is not vectors.
    """
    if path.suffix not in READERS:
        raise CriticalMassError(
            f"{str(path)!r} must end in {', '.join(READERS)} to be read as vectors"
        )
    if not path.is_file():
        raise CriticalMassError(f"no file {str(path)!r}")
    return READERS[path.suffix](path, column, other_columns)
