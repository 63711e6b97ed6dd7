"""Vectors that exist already, in files or arrays: ``open_vectors("vectors.parquet")``."""

from __future__ import annotations

from criticalmass.extraction.vectors.opening import open_vectors
from criticalmass.extraction.vectors.source import Block, Source, Vectors

__all__ = ["Block", "Source", "Vectors", "open_vectors"]
