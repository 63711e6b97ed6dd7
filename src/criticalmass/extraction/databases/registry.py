"""The databases that vectors are read from and written to; one entry adds one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from criticalmass.errors import unknown_name
from criticalmass.extraction.databases import (
    chroma,
    duckdb_file,
    elastic_files,
    lance,
    milvus,
    postgresql,
    qdrant,
    sqlite_file,
)
from criticalmass.extraction.databases.protocol import Database

_ALL = (
    postgresql.DATABASE,
    qdrant.DATABASE,
    lance.DATABASE,
    chroma.DATABASE,
    milvus.DATABASE,
    duckdb_file.DATABASE,
    sqlite_file.DATABASE,
    elastic_files.DATABASE,
)
DATABASES: Mapping[str, Database] = MappingProxyType({entry.scheme: entry for entry in _ALL})


def find_database(scheme: str) -> Database:
    """Return the entry of a scheme.

    Raises
    ------
    CriticalMassError: no database has it.
    """
    for entry in DATABASES.values():
        if scheme in (entry.scheme, *entry.aliases):
            return entry
    raise unknown_name("database", scheme, DATABASES)
