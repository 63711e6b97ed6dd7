"""An existing FAISS index, rebuilt on the kept dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.core.progress import notice
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.export.folder import Facts
from criticalmass.shrinking.export.request import Request

FILE = "index.faiss"
_UNIT = 1e-3
_UNDERSTOOD = "IndexFlatL2, IndexFlatIP, IndexIVFFlat, and IndexIDMap around a flat one"


@dataclass(frozen=True, eq=False)
class _Short:
    """Vectors (n, n_kept) and their ids (n,); None where they are numbered through."""

    vectors: NDArray[np.float32]
    ids: NDArray[np.int64] | None


def write(request: Request, folder: Path) -> Facts:
    """Write ``index.faiss``: the same vectors, ids and metric, on the kept dimensions.

    Queries are shortened in the same way, ``query[:, indices]``, and scaled to length 1 if the
    index was. Lists of an inverted file keep their centres, shortened too.

    Raises
    ------
    MissingExtraError: FAISS is not installed.
    CriticalMassError: no index, one of another kind, or of another width.
    """
    faiss = import_package("faiss", "export")
    index = _read(faiss, request)
    inner = faiss.downcast_index(index.index) if type(index).__name__ in _MAPS else index
    short = _shorten(request, _vectors(faiss, index, inner))
    made = _build(faiss, request, inner, short)
    faiss.write_index(made, str(folder / FILE))
    np.save(folder / "indices.npy", request.slim.indices.astype(np.int64), allow_pickle=False)
    return {
        "files": [FILE, "indices.npy"],
        "kind": type(index).__name__,
        "n_vectors": int(made.ntotal),
        "normalised": request.normalise,
    }


_MAPS = ("IndexIDMap", "IndexIDMap2")
_FLAT = ("IndexFlat", "IndexFlatL2", "IndexFlatIP")


def _read(faiss: Any, request: Request) -> Any:
    path = request.index
    if path is None:
        raise CriticalMassError("format 'faiss' needs the index on whole vectors: index=FILE")
    if not Path(path).is_file():
        raise CriticalMassError(f"no index file {str(path)!r}")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise CriticalMassError(f"{str(path)!r} holds no FAISS index that can be read") from error
    kind = type(index).__name__
    inner = type(faiss.downcast_index(index.index)).__name__ if kind in _MAPS else kind
    known = inner in _FLAT or (inner == "IndexIVFFlat" and kind not in _MAPS)
    if not known or index.metric_type not in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
        raise CriticalMassError(
            f"{str(path)!r} is an {kind} that does not hold whole vectors for L2 or inner product; "
            f"understood: {_UNDERSTOOD}"
        )
    if index.d != request.slim.n_neurons:
        raise CriticalMassError(
            f"{str(path)!r} holds vectors of {index.d}, the slim model is of "
            f"{request.slim.n_neurons} neurons"
        )
    return index


def _vectors(faiss: Any, index: Any, inner: Any) -> _Short:
    """Read all vectors with their ids."""
    if type(inner).__name__ in _FLAT:
        ids = faiss.vector_to_array(index.id_map) if inner is not index else None
        return _Short(inner.reconstruct_n(0, inner.ntotal), ids)
    lists, width = inner.invlists, inner.d
    vectors, ids = [np.empty((0, width), np.float32)], [np.empty(0, np.int64)]
    for number in range(inner.nlist):
        size = lists.list_size(number)
        if size:
            codes = faiss.rev_swig_ptr(lists.get_codes(number), size * inner.code_size)
            vectors.append(codes.view(np.float32).reshape(size, width).copy())
            ids.append(faiss.rev_swig_ptr(lists.get_ids(number), size).copy())
    return _Short(np.concatenate(vectors), np.concatenate(ids))


def _shorten(request: Request, whole: _Short) -> _Short:
    lengths = np.linalg.norm(whole.vectors, axis=1)
    if not request.normalise and lengths.size and np.allclose(lengths, 1.0, atol=_UNIT):
        notice(
            "the index's vectors have length 1, so it ranks by cosine; the short ones have not: "
            "add normalise=True to keep ranking by cosine"
        )
    return _Short(_kept(request, whole.vectors), whole.ids)


def _kept(request: Request, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep the subset of (n, n_neurons), scaled to length 1 if asked for; 0 stays 0."""
    short = np.ascontiguousarray(vectors[:, request.slim.indices])
    if request.normalise:
        lengths = np.linalg.norm(short, axis=1, keepdims=True)
        short /= np.where(lengths > 0.0, lengths, np.float32(1.0))
    return short


def _build(faiss: Any, request: Request, inner: Any, short: _Short) -> Any:
    width, metric = short.vectors.shape[1], inner.metric_type
    if type(inner).__name__ in _FLAT:
        made = faiss.IndexFlat(width, metric)
        if short.ids is None:
            made.add(short.vectors)
            return made
        made = faiss.IndexIDMap2(made)
    else:
        quantizer = faiss.IndexFlat(width, metric)
        centres = faiss.downcast_index(inner.quantizer).reconstruct_n(0, inner.nlist)
        quantizer.add(_kept(request, centres))
        made = faiss.IndexIVFFlat(quantizer, width, inner.nlist, metric)
        made.nprobe = inner.nprobe
    made.add_with_ids(short.vectors, short.ids)
    return made
