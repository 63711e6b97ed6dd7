"""``open_vectors``: open a file of vectors by its suffix, or the files of a folder."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.csv_files import plain_suffix
from criticalmass.extraction.specs import missing_path
from criticalmass.extraction.vectors.arrow_files import ArrowFileTable, ParquetTable, PartsTable
from criticalmass.extraction.vectors.faiss_files import open_faiss
from criticalmass.extraction.vectors.hdf5_files import open_hdf5
from criticalmass.extraction.vectors.numpy_files import open_npy, open_npz
from criticalmass.extraction.vectors.safetensors_files import open_safetensors
from criticalmass.extraction.vectors.source import VectorRequest, Vectors
from criticalmass.extraction.vectors.tables import SPLIT_COLUMN, VectorTable, open_table
from criticalmass.extraction.vectors.text_files import CsvTable, JsonTable
from criticalmass.extraction.vectors.torch_files import open_torch
from criticalmass.extraction.vectors.vecs_files import open_vecs

#: Suffix -> reader of a table; files of one of these suffixes can be read together. The plain
#: texts may be packed: ``.csv.gz``.
TABLES: Mapping[str, Callable[[Path], VectorTable]] = {
    ".parquet": ParquetTable,
    ".csv": CsvTable,
    ".tsv": CsvTable,
    ".json": JsonTable,
    ".jsonl": JsonTable,
    ".ndjson": JsonTable,
    ".feather": ArrowFileTable,
    ".arrow": ArrowFileTable,
}
PACKED = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
#: Suffix -> reader of arrays.
ARRAYS: Mapping[str, Callable[[Path, VectorRequest], Vectors]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".pt": open_torch,
    ".pth": open_torch,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
    ".fvecs": open_vecs,
    ".bvecs": open_vecs,
    ".ivecs": open_vecs,
    ".faiss": open_faiss,
    ".index": open_faiss,
}


def open_vectors(path: Path, request: VectorRequest | None = None) -> Vectors:
    """Open a file of vectors; large arrays are read later.

    Parameters
    ----------
    path: a file with one of the suffixes of ``ARRAYS`` and ``TABLES``; a folder of tables of one
        format, or a pattern such as ``part-*.parquet``, which are read in the order of their
        names (with numbers compared as numbers).
    request: the columns that the user named.

    Raises
    ------
    CriticalMassError: no such file, an unknown suffix, or content that is not vectors.
    """
    request = request or VectorRequest()
    if path.is_dir():
        try:
            files = [file for file in path.rglob("*") if file.is_file() and _is_visible(file, path)]
        except OSError as error:
            raise CriticalMassError(
                f"{str(path)!r} cannot be listed ({error.strerror}: {error.filename!r}); name its "
                "files by a pattern, e.g. 'folder/*.parquet'"
            ) from error
        return open_table(_open_parts(path, files), request)
    if not path.exists() and glob.has_magic(str(path)):
        files = [Path(name) for name in glob.glob(str(path), recursive=True)]
        return open_table(_open_parts(path, [file for file in files if file.is_file()]), request)
    if not path.is_file():
        raise missing_path(path)
    suffix = _suffix(path)
    if suffix not in ARRAYS and suffix not in TABLES:
        suffixes = ", ".join([".npy", ".npz", ".parquet", *sorted({*ARRAYS, *TABLES} - _FIRST)])
        raise CriticalMassError(f"{str(path)!r} must end in {suffixes} to be read as vectors")
    if suffix in TABLES:
        return open_table(TABLES[suffix](path), request)
    return ARRAYS[suffix](path, request)


_FIRST = {".npy", ".npz", ".parquet"}
_SPLIT_OF_FILE = re.compile(r"(train|test|validation|valid|val)(?![a-z])")


def _suffix(file: Path) -> str:
    """Return the suffix in lower case; that of a packed text is the one before ``.gz``."""
    plain = plain_suffix(file)
    return plain if plain in PACKED else file.suffix.lower()


def _is_visible(file: Path, folder: Path) -> bool:
    """Return whether no part of a path below the folder begins with a dot or underscore."""
    return not any(part[0] in "._" for part in file.relative_to(folder).parts)


def _open_parts(folder: Path, files: list[Path]) -> VectorTable:
    """Open the tables of a folder, or of a pattern, as one."""
    tables = sorted((file for file in files if _suffix(file) in TABLES), key=_natural_key)
    suffixes = {_suffix(file) for file in tables}
    if not tables or len(suffixes) > 1:
        kinds = f"files of {len(suffixes)} formats ({', '.join(sorted(suffixes))})"
        raise CriticalMassError(
            f"{str(folder)!r} holds {kinds if tables else 'no tables'}; name a folder or pattern "
            f"of files of one format: {', '.join(TABLES)}"
        )
    readers = [TABLES[_suffix(file)](file) for file in tables]
    schema = readers[0].schema
    splits = [_split_of_file(file) for file in tables]
    constants = []
    for file, split in zip(tables, splits, strict=True):
        values = {key: value for key, value in _hive_values(file, folder) if key not in schema}
        if None not in splits and len(set(splits)) > 1 and SPLIT_COLUMN not in schema:
            values[SPLIT_COLUMN] = str(split)
        constants.append(values)
        if values.keys() != constants[0].keys():
            raise CriticalMassError(
                f"{str(file)!r} and {str(tables[0])!r} are in folders of different key=value names"
            )
    return PartsTable(folder, readers, constants)


def _split_of_file(file: Path) -> str | None:
    """Return the split that the name of a file begins with: ``test-00000-of-00001.parquet``."""
    match = _SPLIT_OF_FILE.match(file.name.lower())
    return match[1] if match else None


def _hive_values(file: Path, folder: Path) -> list[tuple[str, str]]:
    """Return the ``key=value`` folders of a path, which stand for columns."""
    parent = file.parent.relative_to(folder) if folder.is_dir() else file.parent
    pairs = (part.partition("=") for part in parent.parts if "=" in part)
    return [(key, value) for key, _, value in pairs]


def _natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Return a key by which ``part-2`` comes before ``part-10``."""
    pieces = re.split(r"(\d+)", str(path))
    return [(int(p), 0, p) if p.isdecimal() else (-1, 0, p) for p in pieces]
