"""A FAISS index of short vectors: an existing index built again, or one from vectors.

`faiss_source` reads the existing index, `faiss_build` builds the short one, and `faiss_recall`
measures what dimensions and index lose.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from criticalmass.core.optional import import_package
from criticalmass.core.progress import warn_user
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.shrinking.export.faiss_build import (
    INDEX_TYPES,
    IndexPlan,
    build_index,
    fit_kind,
    named_kind,
)
from criticalmass.shrinking.export.faiss_recall import (
    IndexQueries,
    QuerySample,
    RecallReport,
    report_recall,
    sample_new_queries,
    sample_queries,
    summarise_scores,
)
from criticalmass.shrinking.export.faiss_source import IndexSource, describe_index, open_index
from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import ExportRequest
from criticalmass.shrinking.export.whole_vectors import (
    VectorPath,
    WholeVectors,
    open_joined,
    open_parts,
)
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.files import write_array, write_bytes

FILE, IDS = "index.faiss", "ids.txt"
_LENGTH_TOLERANCE, _N_LENGTHS = 1e-3, 4096


@dataclass(frozen=True, eq=False)
class _Input:
    """The whole vectors of an index, the existing index if there is one, and remarks on both."""

    vectors: WholeVectors
    source: IndexSource | None
    notes: tuple[str, ...] = ()


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write ``index.faiss``: the vectors and ids in short, in an index of the same kind.

    A slim model of stored vectors gives an index that takes whole vectors and queries: it holds
    the map as transforms, the certified codes, and with re-ranking the whole vectors. It ranks by
    the inner product of vectors of length 1. Other slim models keep the metric, and queries must
    be shortened, ``query[:, indices]``, and scaled to length 1 if ``normalise`` was given. Lists
    and codes are trained on the short vectors.

    Raises
    ------
    MissingExtraError: if FAISS is not installed.
    CriticalMassError: if there are neither an index nor vectors and a type, the index has another
        width or cannot be built again, or the vectors are not those of the index.
    """
    faiss = import_package("faiss", "export")
    given = _read_input(faiss, request)
    plan = _plan(faiss, request, given)
    index = build_index(plan, given.vectors.rows, given.vectors.ids)
    faiss.write_index(index, str(folder / FILE))
    is_stored = request.slim.short_map is not None
    if not is_stored:
        write_array(folder / "indices.npy", request.slim.indices.astype(np.int64))
    if given.vectors.names:
        write_bytes(folder / IDS, ("\n".join(given.vectors.names) + "\n").encode())
    notes = list(given.notes)
    if is_stored and not plan.is_certified:
        notes.append(
            f"the index has its own codes instead of the certified {request.slim.precision}"
        )
    report, more_notes = _measure(plan, request, given, index, folder / FILE)
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "kind": type(given.source.index).__name__ if given.source else plan.kind.structure,
        "index": str(plan.kind),
        "n_vectors": int(index.ntotal),
        "queries": "whole" if is_stored else "short",
        "normalised": plan.normalise or is_stored,
        "recall": {**asdict(report), "sentence": report.sentence},
        "notes": notes + more_notes,
    }


def _read_input(faiss: Any, request: ExportRequest) -> _Input:
    if request.index is None and (request.vectors is None or request.index_type is None):
        raise CriticalMassError(
            "format 'faiss' needs the index on whole vectors: index=FILE (--index FILE); or "
            "vectors=PATH (--vectors PATH) with the type to build: index_type='hnsw' "
            f"(--index-type hnsw); types are {', '.join(INDEX_TYPES)}"
        )
    if request.index_type is not None and request.index_type not in INDEX_TYPES:
        raise unknown_name("index type", request.index_type, INDEX_TYPES)
    source, d = None, request.slim.n_neurons
    if request.index is not None:
        source = open_index(faiss, Path(request.index), d)
    if request.vectors is not None:
        return _read_vectors(request.vectors, request.slim, source)
    assert source is not None
    source.check_readable()
    notes: tuple[str, ...] = ()
    if not source.is_exact:
        notes = (
            f"the {source.type_name} holds approximations of the vectors; losses are counted from "
            "these. vectors=PATH (--vectors PATH) counts from the vectors themselves",
        )
    return _Input(WholeVectors(source.rows, source.ids), source, notes)


def _read_vectors(path: VectorPath, slim: SlimModel, source: IndexSource | None) -> _Input:
    """Read whole vectors from a file or a feature store; ids are those of the index, if given."""
    vectors = open_joined(path, slim)
    if source is None:
        return _Input(vectors, None)
    source.check_same_rows(vectors.rows, repr(str(path)))
    return _Input(replace(vectors, ids=source.ids, names=()), source)


def _plan(faiss: Any, request: ExportRequest, given: _Input) -> IndexPlan:
    """Choose how the index of short vectors stores, searches and ranks."""
    slim, source, n = request.slim, given.source, int(given.vectors.rows.shape[0])
    if request.index_type is not None:
        kind = named_kind(request.index_type, n, slim.n_kept)
    else:
        assert source is not None
        kind = describe_index(faiss, source)
    if slim.short_map is not None:
        rerank = int(slim.record["stored"]["rerank"]) or kind.rerank
        kind = replace(kind, rerank=rerank)
        metric = faiss.METRIC_INNER_PRODUCT
    elif source is not None:
        metric = source.index.metric_type
    else:
        metric = faiss.METRIC_INNER_PRODUCT if request.normalise else faiss.METRIC_L2
    is_changed = slim.short_map is None and not request.normalise
    if is_changed and _have_length_1(given.vectors.rows):
        warn_user(
            "the vectors of the index have length 1, so it ranks by cosine; the short vectors have "
            "other lengths: pass normalise=True to rank by cosine"
        )
    return IndexPlan(faiss, slim, fit_kind(kind, n, slim.n_kept), metric, request.normalise)


def _measure(
    plan: IndexPlan, request: ExportRequest, given: _Input, index: Any, file: Path
) -> tuple[RecallReport, list[str]]:
    """Measure the recall before and after; return it with remarks."""
    vectors, source = given.vectors, given.source
    sample, notes = _queries(request, vectors), []
    ranks_by_cosine = plan.slim.short_map is not None or plan.normalise
    metric = None if ranks_by_cosine else plan.metric
    measurement = IndexQueries(plan, vectors.rows, vectors.ids, sample, metric)
    before = None
    if source is not None:
        own = measurement
        if ranks_by_cosine and not _have_length_1(vectors.rows):
            own = replace(measurement, metric=source.index.metric_type)
            notes.append(
                "vectors read from the existing index are not of length 1; its recall is that by "
                "its own L2 or inner products, and the exported index ranks by the cosine"
            )
        kind = source.describe(plan.faiss)
        scores = own.score(own.search(source.index, sample.vectors))
        size = source.path.stat().st_size / int(source.index.ntotal)
        before = summarise_scores(f"existing index: {kind}", scores, size)
    is_exact = source is None or source.is_exact or request.vectors is not None
    reference = "whole vectors" if is_exact else "approximations in the existing index"
    return report_recall(measurement, before, index, file.stat().st_size, reference), notes


def _queries(request: ExportRequest, vectors: WholeVectors) -> QuerySample:
    if request.queries is None:
        return sample_queries(vectors.rows, vectors.test_rows)
    parts = open_parts(request.queries, request.slim)
    name = "test" if "test" in parts else next(iter(parts))
    if not int(parts[name].shape[0]):
        raise CriticalMassError(f"{str(request.queries)!r} holds no queries; give at least one")
    return sample_new_queries(parts[name], f"of {Path(request.queries).name}")


def _have_length_1(rows: Rows) -> bool:
    """Whether the first vectors have length 1."""
    lengths = np.linalg.norm(np.asarray(rows[0:_N_LENGTHS], dtype=np.float32), axis=1)
    return bool(np.allclose(lengths, 1.0, atol=_LENGTH_TOLERANCE))
