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
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.shrinking.stored_vectors import ShortMap

FILE = "index.faiss"
_ID_MAPS = ("IndexIDMap", "IndexIDMap2")
_FLAT = ("IndexFlat", "IndexFlatL2", "IndexFlatIP")
_LENGTH_TOLERANCE = 1e-3
_SUPPORTED = "IndexFlatL2, IndexFlatIP, IndexHNSWFlat, IndexIVFFlat, and IndexIDMap around one"


@dataclass(frozen=True, eq=False)
class _IndexVectors:
    """Vectors of an index, (n, d), and their (n,) ids; None if they are numbered from 0."""

    vectors: NDArray[np.float32]
    ids: NDArray[np.int64] | None


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write ``index.faiss``: the same vectors and ids in short, in an index of the same kind.

    A slim model of stored vectors gives an index that takes whole vectors and queries: it holds
    the map as transforms, the certified codes, and with re-ranking the whole vectors. It ranks by
    the inner product of vectors of length 1. Other slim models keep the metric, and queries must
    be shortened, ``query[:, indices]``, and scaled to length 1 if ``normalise`` was given. An
    inverted file keeps its lists; their centres are shortened too.

    Raises
    ------
    MissingExtraError: if FAISS is not installed.
    CriticalMassError: if there is no index, or it has another kind or width.
    """
    faiss = import_package("faiss", "export")
    index = _read_index(faiss, request)
    inner = faiss.downcast_index(index.index) if type(index).__name__ in _ID_MAPS else index
    full = _read_vectors(faiss, index, inner)
    short_map = request.slim.short_map
    if short_map is not None:
        rebuilt = _build_stored(faiss, request.slim, short_map, inner, full)
    else:
        rebuilt = _build_index(faiss, request, inner, _shorten_index(request, full))
        np.save(folder / "indices.npy", request.slim.indices.astype(np.int64), allow_pickle=False)
    faiss.write_index(rebuilt, str(folder / FILE))
    return {
        "files": [FILE] if short_map is not None else [FILE, "indices.npy"],
        "kind": type(index).__name__,
        "n_vectors": int(rebuilt.ntotal),
        "queries": "short" if short_map is None else "whole",
        "normalised": request.normalise or short_map is not None,
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
    is_supported = inner in (*_FLAT, "IndexHNSWFlat") or (
        inner == "IndexIVFFlat" and kind not in _ID_MAPS
    )
    if not is_supported:
        raise CriticalMassError(
            f"{str(path)!r} is an {inner}, from which whole vectors are not read; supported: "
            f"{_SUPPORTED}. Export from an IndexFlat of the whole vectors: the short index has the "
            "kind and precision that the slim model and that index say"
        )
    if index.metric_type not in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
        raise CriticalMassError(
            f"{str(path)!r} has the metric {index.metric_type}; supported are L2 and inner product"
        )
    if index.d != request.slim.n_neurons:
        raise CriticalMassError(
            f"{str(path)!r} holds vectors of {index.d} dimensions but the slim model was made from "
            f"{request.slim.n_neurons} neurons; give the index of the same vectors"
        )
    return index


def _read_vectors(faiss: Any, index: Any, inner: Any) -> _IndexVectors:
    """Read all vectors of an index and their ids."""
    if type(inner).__name__ != "IndexIVFFlat":
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


def _build_stored(
    faiss: Any, slim: SlimModel, short_map: ShortMap, inner: Any, full: _IndexVectors
) -> Any:
    """Build the index of a slim model of stored vectors, which takes whole vectors."""
    codes = _codes_index(faiss, slim, short_map, inner)
    outer = [faiss.IndexPreTransform(codes)]
    # The first transform is prepended last.
    outer[0].prepend_transform(faiss.NormalizationTransform(slim.n_kept, 2.0))
    if (step := _first_transform(faiss, short_map)) is not None:
        outer[0].prepend_transform(step)
    whole, rerank = faiss.IndexFlatIP(slim.n_neurons), int(slim.record["stored"]["rerank"])
    if rerank:
        outer.append(faiss.IndexRefine(outer[-1], whole))
        outer[-1].k_factor = rerank
    if full.ids is not None:
        outer.append(faiss.IndexIDMap2(outer[-1]))
    # FAISS encodes a decoded code as that code again, so the codes are the certified ones.
    codes.add(slim.transform(full.vectors))
    if rerank:
        whole.add(_to_length_1(full.vectors))
    for index in outer:
        index.ntotal = codes.ntotal
    if full.ids is not None:
        faiss.copy_array_to_vector(full.ids, outer[-1].id_map)
        outer[-1].construct_rev_map()
    return outer[-1]


def _codes_index(faiss: Any, slim: SlimModel, short_map: ShortMap, inner: Any) -> Any:
    """Return the empty, trained index of short vectors, of the kind of ``inner``."""
    kind, d, metric = type(inner).__name__, slim.n_kept, faiss.METRIC_INNER_PRODUCT
    codec = slim.codec
    if codec.precision == "binary":
        if kind not in _FLAT:
            raise CriticalMassError(
                f"FAISS has no {kind} that takes whole vectors and stores bits; export from an "
                "IndexFlat, or shrink with --precision int8"
            )
        bits = faiss.IndexLSH(d, d, False, True)
        faiss.copy_array_to_vector(codec.offset, bits.thresholds)
        # It counts different bits, whatever the metric, which must be that of the re-ranking.
        bits.is_trained, bits.metric_type = True, metric
        return bits
    quantiser = faiss.ScalarQuantizer
    types = {"float16": quantiser.QT_fp16, "int8": quantiser.QT_8bit}
    is_plain, stored = codec.precision == "float32", types.get(codec.precision)
    if kind in _FLAT:
        made = faiss.IndexFlatIP(d) if is_plain else faiss.IndexScalarQuantizer(d, stored, metric)
    elif kind == "IndexHNSWFlat":
        links = inner.hnsw.nb_neighbors(1)
        made = (
            faiss.IndexHNSWFlat(d, links, metric)
            if is_plain
            else faiss.IndexHNSWSQ(d, stored, links, metric)
        )
        made.hnsw.efConstruction = inner.hnsw.efConstruction
        made.hnsw.efSearch = inner.hnsw.efSearch
    else:
        coarse = faiss.IndexFlatIP(d)
        centres = faiss.downcast_index(inner.quantizer).reconstruct_n(0, inner.nlist)
        coarse.add(short_map(centres))
        made = (
            faiss.IndexIVFFlat(coarse, d, inner.nlist, metric)
            if is_plain
            else faiss.IndexIVFScalarQuantizer(coarse, d, inner.nlist, stored, metric, False)
        )
        made.nprobe = inner.nprobe
    if codec.precision == "int8":
        storage = faiss.downcast_index(made.storage) if kind == "IndexHNSWFlat" else made
        # FAISS reads a code c as low + width (c + 1/2) / 255; ours is offset + step c.
        trained = np.concatenate([codec.offset - codec.step / 2, 255 * codec.step])
        faiss.copy_array_to_vector(trained.astype(np.float32), storage.sq.trained)
        storage.is_trained = True
    made.is_trained = True
    return made


def _first_transform(faiss: Any, short_map: ShortMap) -> Any:
    """Return the transform of whole vectors to the kept dimensions; None for all of them."""
    d, k = short_map.n_neurons, short_map.n_kept
    if short_map.matrix is not None:
        step = faiss.PCAMatrix(d, k)
        faiss.copy_array_to_vector(np.ascontiguousarray(short_map.matrix.T).ravel(), step.A)
        faiss.copy_array_to_vector(np.zeros(k, np.float32), step.b)
        faiss.copy_array_to_vector(np.zeros(d, np.float32), step.mean)
        step.is_trained = True
        return step
    if short_map.indices is None or k == d:
        return None
    step = faiss.RemapDimensionsTransform(d, k, False)
    faiss.copy_array_to_vector(short_map.indices.astype(np.int32), step.map)
    return step


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
    return _to_length_1(short) if request.normalise else short


def _to_length_1(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0.0, lengths, np.float32(1.0)))


def _build_index(faiss: Any, request: ExportRequest, inner: Any, short: _IndexVectors) -> Any:
    width, metric = short.vectors.shape[1], inner.metric_type
    if type(inner).__name__ != "IndexIVFFlat":
        rebuilt = faiss.IndexFlat(width, metric)
        if type(inner).__name__ == "IndexHNSWFlat":
            rebuilt = faiss.IndexHNSWFlat(width, inner.hnsw.nb_neighbors(1), metric)
            rebuilt.hnsw.efConstruction = inner.hnsw.efConstruction
            rebuilt.hnsw.efSearch = inner.hnsw.efSearch
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
