"""Existing vectors in files or arrays: ``open_vectors(Path("vectors.parquet"))``."""

from __future__ import annotations

from criticalmass.extraction.vectors.objects import open_objects
from criticalmass.extraction.vectors.opening import open_vectors
from criticalmass.extraction.vectors.source import (
    MappedMatrix,
    VectorRequest,
    Vectors,
    VectorSource,
)

__all__ = [
    "MappedMatrix",
    "VectorRequest",
    "VectorSource",
    "Vectors",
    "open_objects",
    "open_vectors",
]
