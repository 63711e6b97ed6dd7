"""Existing vectors in files or arrays: ``open_vectors(Path("vectors.parquet"))``."""

from __future__ import annotations

from criticalmass.extraction.vectors.opening import open_vectors
from criticalmass.extraction.vectors.source import MappedMatrix, Vectors, VectorSource

__all__ = ["MappedMatrix", "VectorSource", "Vectors", "open_vectors"]
