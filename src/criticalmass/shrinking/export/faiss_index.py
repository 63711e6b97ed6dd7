"""An existing FAISS index, rebuilt on the kept dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import ExportRequest

FILE = "index.faiss"
_ID_MAPS = ("IndexIDMap", "IndexIDMap2")
_FLAT = ("IndexFlat", "IndexFlatL2", "IndexFlatIP")
_LENGTH_TOLERANCE = 1e-3
_SUPPORTED = "IndexFlatL2, IndexFlatIP, IndexIVFFlat, and IndexIDMap around a flat one"


@dataclass(frozen=True, eq=False)
class _IndexVectors:
    """Vectors of an index, (n, d), and their (n,) ids; None if they are numbered from 0."""

    vectors: NDArray[np.float32]
    ids: NDArray[np.int64] | None


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write ``index.faiss``: the same vectors, ids and metric, on the kept dimensions.

    Queries must be shortened in the same way, ``query[:, indices]``, and scaled to length 1 if
    ``normalise`` was given. An inverted file keeps its lists; their centres are shortened too.

    Raises
    ------
    MissingExtraError: if FAISS is not installed.
    CriticalMassError: if there is no index, or it has another kind or width.
    """
    faiss = import_package("faiss", "export")
    index = _read_index(faiss, request)
    inner = faiss.downcast_index(index.index) if type(index).__name__ in _ID_MAPS else index
    short = _shorten_index(request, _read_vectors(faiss, index, inner))
    rebuilt = _build_index(faiss, request, inner, short)
    faiss.write_index(rebuilt, str(folder / FILE))
    np.save(folder / "indices.npy", request.slim.indices.astype(np.int64), allow_pickle=False)
    return {
        "files": [FILE, "indices.npy"],
        "kind": type(index).__name__,
        "n_vectors": int(rebuilt.ntotal),
        "normalised": request.normalise,
    }


def _read_index(faiss: Any, request: ExportRequest) -> Any:
    path = request.index
    if path is None:
        raise CriticalMassError("format 'faiss' needs the index on whole vectors: index=FILE")
    if not Path(path).is_file():
        raise CriticalMassError(f"no index file {str(path)!r}; give index=FILE")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise CriticalMassError(
            f"{str(path)!r} holds no readable FAISS index; write it with faiss.write_index"
        ) from error
    kind = type(index).__name__
    inner = type(faiss.downcast_index(index.index)).__name__ if kind in _ID_MAPS else kind
    is_supported = inner in _FLAT or (inner == "IndexIVFFlat" and kind not in _ID_MAPS)
    if not is_supported or index.metric_type not in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
        raise CriticalMassError(
            f"{str(path)!r} is an {kind}, which does not hold whole vectors for L2 or inner "
            f"product; supported: {_SUPPORTED}"
        )
    if index.d != request.slim.n_neurons:
        raise CriticalMassError(
            f"{str(path)!r} holds vectors of {index.d} dimensions but the slim model was made from "
            f"{request.slim.n_neurons} neurons; give the index of the same vectors"
        )
    return index


def _read_vectors(faiss: Any, index: Any, inner: Any) -> _IndexVectors:
    """Read all vectors of an index and their ids."""
    if type(inner).__name__ in _FLAT:
        ids = faiss.vector_to_array(index.id_map) if inner is not index else None
        return _IndexVectors(inner.reconstruct_n(0, inner.ntotal), ids)
    lists, width = inner.invlists, inner.d
    vectors, ids = [np.empty((0, width), np.float32)], [np.empty(0, np.int64)]
    for i in range(inner.nlist):
        size = lists.list_size(i)
        if size:
            codes = faiss.rev_swig_ptr(lists.get_codes(i), size * inner.code_size)
            vectors.append(codes.view(np.float32).reshape(size, width).copy())
            ids.append(faiss.rev_swig_ptr(lists.get_ids(i), size).copy())
    return _IndexVectors(np.concatenate(vectors), np.concatenate(ids))


def _shorten_index(request: ExportRequest, full: _IndexVectors) -> _IndexVectors:
    lengths = np.linalg.norm(full.vectors, axis=1)
    if not request.normalise and lengths.size and np.allclose(lengths, 1.0, atol=_LENGTH_TOLERANCE):
        warn_user(
            "the vectors of the index have length 1, so it ranks by cosine; the short vectors have "
            "other lengths: pass normalise=True to rank by cosine"
        )
    return _IndexVectors(_shorten(request, full.vectors), full.ids)


def _shorten(request: ExportRequest, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the kept columns of (n, n_neurons), with ``normalise`` scaled to length 1."""
    short = np.ascontiguousarray(vectors[:, request.slim.indices])
    if request.normalise:
        lengths = np.linalg.norm(short, axis=1, keepdims=True)
        short /= np.where(lengths > 0.0, lengths, np.float32(1.0))
    return short


def _build_index(faiss: Any, request: ExportRequest, inner: Any, short: _IndexVectors) -> Any:
    width, metric = short.vectors.shape[1], inner.metric_type
    if type(inner).__name__ in _FLAT:
        rebuilt = faiss.IndexFlat(width, metric)
        if short.ids is None:
            rebuilt.add(short.vectors)
            return rebuilt
        rebuilt = faiss.IndexIDMap2(rebuilt)
    else:
        quantizer = faiss.IndexFlat(width, metric)
        centres = faiss.downcast_index(inner.quantizer).reconstruct_n(0, inner.nlist)
        quantizer.add(_shorten(request, centres))
        rebuilt = faiss.IndexIVFFlat(quantizer, width, inner.nlist, metric)
        rebuilt.nprobe = inner.nprobe
    rebuilt.add_with_ids(short.vectors, short.ids)
    return rebuilt
