"""Short vectors in the database of the whole ones: a table beside theirs, with the same ids."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import warn_user, write_line
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.databases.protocol import TableRequest
from criticalmass.extraction.databases.write_back import ShortVectors, write_back
from criticalmass.shrinking.codec import bytes_per_vector
from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import USUAL_TABLE, ExportRequest
from criticalmass.shrinking.export.vectors import write_query_map
from criticalmass.shrinking.slim_model import SlimModel


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write the short vectors of a table into the database, and the map of queries into a folder.

    Raises
    ------
    CriticalMassError: there is no address; the database cannot be opened or written; no such table
        or column, or vectors of another width.
    MissingExtraError: the client of the database is not installed.
    """
    if request.to is None:
        raise CriticalMassError(
            "format 'database' needs the address of the database; pass to=URL (--to URL), e.g. "
            "postgresql://user@host/db (criticalmass list databases)"
        )
    slim = request.slim
    result = write_back(
        request.to,
        TableRequest(request.table, request.id),
        request.column,
        short_vectors(slim, request.suffix, normalise=request.normalise),
        usual_table=USUAL_TABLE,
    )
    stored = bytes_per_vector(slim.n_kept, result.precision)
    if result.precision != slim.precision:
        warn_user(
            f"{result.database} does not store {slim.precision} vectors: the decoded values are "
            f"stored as {result.precision}, {stored:,} instead of {slim.bytes_per_vector:,} bytes "
            "a vector; neighbours are as certified"
        )
    write_line(
        f"{result.name}: {result.n_written:,} of {result.n_rows:,} short vectors written, "
        f"{result.n_rows - result.n_written:,} were there"
    )
    write_query_map(slim, folder)
    return {
        **asdict(result),
        "files": sorted(path.name for path in folder.iterdir()),
        "normalised": slim.short_map is not None or request.normalise,
        "stored_bytes_per_vector": stored,
    }


def short_vectors(slim: SlimModel, suffix: str | None, *, normalise: bool) -> ShortVectors:
    """Return how a slim model shortens vectors.

    Parameters
    ----------
    slim: the slim model.
    suffix: ends the name of the table; None for a digest of what short vectors are.
    normalise: whether values that are not packed are scaled to length 1.
    """
    is_scaled = normalise and slim.short_map is None and slim.precision in ("float32", "float16")

    def decode(x: NDArray[Any]) -> NDArray[np.float32]:
        values = slim.transform(x)
        if not is_scaled:
            return values
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        return np.asarray(values / np.where(lengths > 0, lengths, 1), dtype=np.float32)

    def encode(x: NDArray[Any]) -> NDArray[Any]:
        return decode(x).astype(slim.precision) if is_scaled else slim.encode(x)

    content = hashlib.sha256(repr((slim.n_neurons, slim.precision, is_scaled)).encode())
    for array in (slim.indices.astype("<i8"), slim.matrix, slim.codec.offset, slim.codec.step):
        if array is not None:
            content.update(np.ascontiguousarray(array).tobytes())
    tag = suffix or content.hexdigest()[:8]
    return ShortVectors(tag, slim.n_neurons, slim.n_kept, slim.precision, encode, decode)
