"""What an existing FAISS index holds: vectors, ids, and how it stores and searches them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError

Structure = Literal["flat", "hnsw", "ivf"]
Storage = Literal["values", "scalar", "product"]
_ID_MAPS = ("IndexIDMap", "IndexIDMap2")
_REFINED = ("IndexRefine", "IndexRefineFlat")
_KINDS: dict[str, tuple[Structure, Storage]] = {
    "IndexFlat": ("flat", "values"),
    "IndexFlatL2": ("flat", "values"),
    "IndexFlatIP": ("flat", "values"),
    "IndexScalarQuantizer": ("flat", "scalar"),
    "IndexPQ": ("flat", "product"),
    "IndexPQFastScan": ("flat", "product"),
    "IndexHNSWFlat": ("hnsw", "values"),
    "IndexHNSWSQ": ("hnsw", "scalar"),
    "IndexHNSWPQ": ("hnsw", "product"),
    "IndexIVFFlat": ("ivf", "values"),
    "IndexIVFScalarQuantizer": ("ivf", "scalar"),
    "IndexIVFPQ": ("ivf", "product"),
    "IndexIVFPQFastScan": ("ivf", "product"),
}
_EXACT = frozenset(
    ("IndexFlat", "IndexFlatL2", "IndexFlatIP", "IndexHNSWFlat", "IndexIVFFlat", "IndexNSGFlat")
)
# Rows that are compared with vectors given beside the index, and the share that must agree.
_N_COMPARED, _LEAST_AGREEMENT = 64, 0.9


@dataclass(frozen=True)
class IndexKind:
    """How an index stores and searches vectors.

    Attributes
    ----------
    structure: all vectors are compared, a graph is followed, or lists are searched.
    storage: float32 values, codes of a scalar quantiser, or codes of a product quantiser.
    scalar_type, scalar_bits: type of the scalar quantiser, and its bits per value.
    n_codebooks, code_bits: sub-vectors of the product quantiser, and bits of each code.
    is_fast_scan, is_rotated: 4-bit codes for SIMD; a rotation (OPQ) before the codes.
    links, ef_construction, ef_search: of the graph.
    n_lists, n_probe, by_residual: lists, searched lists, and whether codes are of residuals.
    coarse_links: links of a graph of the lists' centres; 0 if all centres are compared.
    rerank: times as many vectors that are re-ranked by whole vectors; 0 for none.
    """

    structure: Structure
    storage: Storage = "values"
    scalar_type: int = 0
    scalar_bits: int = 32
    n_codebooks: int = 0
    code_bits: int = 8
    is_fast_scan: bool = False
    is_rotated: bool = False
    links: int = 32
    ef_construction: int = 100
    ef_search: int = 64
    n_lists: int = 0
    n_probe: int = 0
    by_residual: bool = True
    coarse_links: int = 0
    rerank: int = 0

    def __str__(self) -> str:
        parts = {
            "flat": "all vectors compared",
            "hnsw": f"HNSW, M={self.links}, efConstruction={self.ef_construction}, "
            f"efSearch={self.ef_search}",
            "ivf": f"IVF, nlist={self.n_lists}, nprobe={self.n_probe}",
        }
        codes = {
            "values": "",
            "scalar": f", {self.scalar_bits}-bit scalar quantiser",
            "product": f", PQ of {self.n_codebooks} x {self.code_bits} bits",
        }
        rotation = ", OPQ" if self.is_rotated else ""
        rest = f", re-ranking of {self.rerank} x 10" if self.rerank else ""
        return parts[self.structure] + codes[self.storage] + rotation + rest


@dataclass(frozen=True, eq=False)
class IndexRows:
    """The vectors of an index, reconstructed when they are read.

    Attributes
    ----------
    faiss: the module.
    index: the whole index, which owns its parts.
    part: the innermost part, which holds the vectors.
    transforms: the `IndexPreTransform` objects around it, outermost first.
    places: (n, 2) list and offset of every row of an inverted file, or None.
    """

    faiss: Any
    index: Any
    part: Any
    transforms: tuple[Any, ...]
    places: NDArray[np.int64] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_vectors, d)."""
        return int(self.index.ntotal), int(self.index.d)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Always float32."""
        return np.dtype(np.float32)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        """Return the rows of a slice or an index array."""
        numbers = np.arange(self.shape[0])[key]
        rows = np.empty((numbers.size, int(self.part.d)), np.float32)
        pointer = self.faiss.swig_ptr
        if self.places is not None:
            for row, (number, offset) in zip(rows, self.places[numbers].tolist(), strict=True):
                self.part.reconstruct_from_offset(number, offset, pointer(row))
        elif numbers.size:
            # An error in the parallel loop of a batch would end the process.
            self.part.reconstruct(int(numbers[0]))
            rows = self.part.reconstruct_batch(numbers)
        for transform in reversed(self.transforms):
            wider = np.empty((numbers.size, int(transform.d)), np.float32)
            transform.reverse_chain(numbers.size, pointer(rows), pointer(wider))
            rows = wider
        return rows


@dataclass(frozen=True, eq=False)
class IndexSource:
    """An existing index.

    Attributes
    ----------
    path: its file.
    index: the FAISS object.
    rows: its vectors; inverted files by ascending ids, other indexes as they were added.
    ids: (n,) ids of the rows; None if they are numbered from 0.
    is_exact: whether its vectors are read as they were added; else they are approximations.
    """

    path: Path
    index: Any
    rows: IndexRows
    ids: NDArray[np.int64] | None
    is_exact: bool

    @property
    def type_name(self) -> str:
        """Name of the FAISS type that holds the vectors."""
        return type(self.rows.part).__name__

    def describe(self, faiss: Any) -> str:
        """Return type and parameters; only the type if this version builds none like it."""
        try:
            return str(describe_index(faiss, self))
        except CriticalMassError:
            return self.type_name

    def check_readable(self) -> None:
        """Raise CriticalMassError if vectors cannot be reconstructed."""
        try:
            self.rows[0:1]
        except RuntimeError as error:
            raise CriticalMassError(
                f"{str(self.path)!r} is an {self.type_name}, from which FAISS reconstructs no "
                "vectors; pass those that it was built from: vectors=PATH (--vectors PATH)"
            ) from error

    def check_same_rows(self, rows: Any, name: str) -> None:
        """Raise CriticalMassError if ``rows`` are not the vectors of this index, in its order.

        Parameters
        ----------
        rows: (n, d) whole vectors.
        name: what the user calls them.
        """
        n = self.rows.shape[0]
        if int(rows.shape[0]) != n:
            raise CriticalMassError(
                f"{name} has {int(rows.shape[0]):,} vectors but {str(self.path)!r} holds {n:,}; "
                "give the vectors that the index was built from, in the same order"
            )
        numbers = np.unique(np.linspace(0, n - 1, _N_COMPARED).astype(np.intp))
        try:
            approximate = _unit(self.rows[numbers])
        except RuntimeError:
            return
        exact = _unit(np.asarray(rows[numbers], dtype=np.float32))
        own = np.einsum("ij,ij->i", approximate, exact)
        # A vector of another row would be among the nearest quarter by chance only.
        n_nearer = (approximate @ exact.T > own[:, None] + 1e-3).sum(axis=1)
        agree = n_nearer <= numbers.size // 4
        if agree.mean() < _LEAST_AGREEMENT:
            raise CriticalMassError(
                f"{name} does not hold the vectors of {str(self.path)!r} in their order "
                f"({int(agree.sum())} of {agree.size} compared rows agree); give them as they were "
                "added, for an inverted file by ascending ids"
            )


def open_index(faiss: Any, path: Path, n_neurons: int) -> IndexSource:
    """Read an index file.

    Parameters
    ----------
    faiss: the module.
    path: file that ``faiss.write_index`` wrote.
    n_neurons: dimensions that its vectors must have.

    Raises
    ------
    CriticalMassError: if there is no such file, or it holds a binary index, no vectors, vectors of
        another width, or another metric than L2 and the inner product.
    """
    if not path.is_file():
        raise CriticalMassError(f"no index file {str(path)!r}; give index=FILE")
    index = _read(faiss, path)
    if index.metric_type not in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
        raise CriticalMassError(
            f"{str(path)!r} has the metric {index.metric_type}; supported are L2 and inner product"
        )
    if index.d != n_neurons:
        raise CriticalMassError(
            f"{str(path)!r} holds vectors of {index.d} dimensions but the slim model was made from "
            f"{n_neurons} neurons; give the index of the same vectors"
        )
    if not index.ntotal:
        raise CriticalMassError(f"{str(path)!r} holds no vectors; give an index with vectors")
    transforms, id_maps, part = [], [], index
    while type(part).__name__ in (*_ID_MAPS, *_REFINED, "IndexPreTransform"):
        if type(part).__name__ == "IndexPreTransform":
            transforms.append(part)
        elif type(part).__name__ in _ID_MAPS:
            id_maps.append(faiss.vector_to_array(part.id_map))
        inner = part.refine_index if type(part).__name__ in _REFINED else part.index
        part = faiss.downcast_index(inner)
    labels, places = np.arange(index.ntotal), None
    if isinstance(part, faiss.IndexIVF):
        labels, places = _inverted_rows(faiss, part)
    for id_map in reversed(id_maps):
        labels = id_map[labels]
    if places is not None:
        order = np.argsort(labels, kind="stable")
        labels, places = labels[order], places[order]
    ids = None if np.array_equal(labels, np.arange(index.ntotal)) else labels
    steps = [pre.chain.at(i) for pre in transforms for i in range(pre.chain.size())]
    is_exact = type(part).__name__ in _EXACT and all(step.d_out >= step.d_in for step in steps)
    rows = IndexRows(faiss, index, part, tuple(transforms), places)
    return IndexSource(path, index, rows, ids, is_exact)


def describe_index(faiss: Any, source: IndexSource) -> IndexKind:
    """Return how an index stores and searches vectors.

    Raises
    ------
    CriticalMassError: if this version cannot build an index of that type.
    """
    part, rerank, is_rotated = source.index, 0, False
    while type(part).__name__ in (*_ID_MAPS, *_REFINED, "IndexPreTransform"):
        name = type(part).__name__
        if name == "IndexPreTransform":
            steps = [
                faiss.downcast_VectorTransform(part.chain.at(i)) for i in range(part.chain.size())
            ]
            is_rotated |= any(isinstance(step, faiss.OPQMatrix) for step in steps)
        rerank = max(1, round(part.k_factor)) if name in _REFINED else rerank
        part = faiss.downcast_index(part.base_index if name in _REFINED else part.index)
    name = type(part).__name__
    if name not in _KINDS:
        raise CriticalMassError(
            f"{str(source.path)!r} is an {name}, which export does not build again; name the type "
            "to build: index_type='hnsw' (--index-type hnsw), 'ivf' or 'flat'"
        )
    structure, storage = _KINDS[name]
    holder = faiss.downcast_index(part.storage) if structure == "hnsw" else part
    values: dict[str, Any] = {"rerank": rerank}
    if storage == "scalar":
        values |= {"scalar_type": holder.sq.qtype, "scalar_bits": holder.sq.bits}
    elif storage == "product":
        values |= {"n_codebooks": holder.pq.M, "code_bits": holder.pq.nbits}
        values |= {"is_fast_scan": name.endswith("FastScan"), "is_rotated": is_rotated}
    if structure == "hnsw":
        graph = part.hnsw
        values |= {"links": graph.nb_neighbors(1), "ef_construction": graph.efConstruction}
        values["ef_search"] = graph.efSearch
    elif structure == "ivf":
        coarse = faiss.downcast_index(part.quantizer)
        values |= {"n_lists": part.nlist, "n_probe": part.nprobe}
        values["by_residual"] = bool(part.by_residual)
        if isinstance(coarse, faiss.IndexHNSW):
            values["coarse_links"] = coarse.hnsw.nb_neighbors(1)
    return IndexKind(structure, storage, **values)


def _read(faiss: Any, path: Path) -> Any:
    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        try:
            faiss.read_index_binary(str(path))
        except RuntimeError:
            raise CriticalMassError(
                f"{str(path)!r} holds no readable FAISS index; write it with faiss.write_index"
            ) from error
        raise CriticalMassError(
            f"{str(path)!r} holds a binary index, whose bits are not vectors that can be "
            "shortened; give an index of the float32 vectors"
        ) from error


def _inverted_rows(faiss: Any, part: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the (n,) ids of the rows of an inverted file and their (n, 2) places."""
    ids, places = [np.empty(0, np.int64)], [np.empty((0, 2), np.int64)]
    for number in range(part.nlist):
        size = part.invlists.list_size(number)
        if size:
            ids.append(faiss.rev_swig_ptr(part.invlists.get_ids(number), size).copy())
            places.append(np.column_stack([np.full(size, number), np.arange(size)]))
    return np.concatenate(ids), np.concatenate(places)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0.0, lengths, np.float32(1.0)))
