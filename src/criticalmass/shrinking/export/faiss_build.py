"""A FAISS index of short vectors, built as another index or as the user asks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows, check_finite, chunks, rows_per_chunk
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.codec import BITS
from criticalmass.shrinking.export.faiss_source import IndexKind
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.shrinking.stored_vectors import ShortMap, unit_rows

#: Types of index that can be asked for, besides that of an existing index.
INDEX_TYPES = ("flat", "hnsw", "ivf", "pq", "ivfpq")
# A code of 8 bits for so many dimensions; the share of lists that are searched.
_DIMENSIONS_PER_CODE, _PROBED_SHARE = 4, 1 / 16
# FAISS clusters at most this many vectors per centre.
_ROWS_PER_CENTRE, _LEAST_SAMPLE, _SEED = 256, 65536, 0
_CHUNK_MEBIBYTES = 64

FloatRows = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class IndexPlan:
    """What the index of short vectors is built from.

    Attributes
    ----------
    faiss: the module.
    slim: shortens the vectors.
    kind: how the index stores and searches.
    metric: FAISS's number of the metric of short vectors.
    normalise: whether short vectors of a layer are scaled to length 1; stored ones always are.
    """

    faiss: Any
    slim: SlimModel
    kind: IndexKind
    metric: int
    normalise: bool

    @property
    def is_certified(self) -> bool:
        """Whether the index holds the codes that were certified.

        A product quantiser and a coarser scalar quantiser of the user's are kept instead.
        """
        kind = self.kind
        is_coarser = kind.storage == "scalar" and kind.scalar_bits < BITS[self.slim.precision]
        return self.slim.short_map is not None and kind.storage != "product" and not is_coarser

    def shorten(self, whole: NDArray[Any]) -> FloatRows:
        """Return short vectors, not encoded."""
        short = self.slim.shorten(whole)
        return unit_rows(short) if self.normalise and self.slim.short_map is None else short

    def stored(self, whole: NDArray[Any]) -> FloatRows:
        """Return short vectors as the form that was certified stores them."""
        return self.shorten(whole) if self.slim.short_map is None else self.slim.transform(whole)

    def queries(self, whole: NDArray[Any]) -> FloatRows:
        """Return queries as they are compared with `stored` ones."""
        return self.shorten(whole) if self.slim.short_map is None else self.slim.queries(whole)


def named_kind(name: str, n_vectors: int, n_kept: int) -> IndexKind:
    """Return the kind of a type of `INDEX_TYPES`, with usual parameters.

    Parameters
    ----------
    name: of the type.
    n_vectors, n_kept: number of vectors, and dimensions of a short one.
    """
    n_lists = max(1, min(round(4 * math.sqrt(n_vectors)), n_vectors // 40))
    lists: dict[str, Any] = {"n_lists": n_lists, "n_probe": max(1, round(n_lists * _PROBED_SHARE))}
    codes: dict[str, Any] = {"n_codebooks": max(1, n_kept // _DIMENSIONS_PER_CODE)}
    return {
        "flat": IndexKind("flat"),
        "hnsw": IndexKind("hnsw"),
        "ivf": IndexKind("ivf", **lists),
        "pq": IndexKind("flat", "product", **codes),
        "ivfpq": IndexKind("ivf", "product", **codes, **lists),
    }[name]


def fit_kind(kind: IndexKind, n_vectors: int, n_kept: int) -> IndexKind:
    """Return a kind that can be trained with the vectors that there are.

    Raises
    ------
    CriticalMassError: if there are fewer vectors than codes of the product quantiser.
    """
    if kind.storage == "product":
        if n_vectors < 1 << kind.code_bits:
            raise CriticalMassError(
                f"a product quantiser of {kind.code_bits} bits needs at least "
                f"{1 << kind.code_bits} vectors and there are {n_vectors}; build another type of "
                "index, e.g. index_type='flat' (--index-type flat)"
            )
        kind = replace(kind, n_codebooks=min(kind.n_codebooks, n_kept))
    if kind.structure == "ivf":
        n_lists = min(kind.n_lists, n_vectors)
        kind = replace(kind, n_lists=n_lists, n_probe=min(kind.n_probe, n_lists))
    return kind


def build_index(plan: IndexPlan, rows: Rows, ids: NDArray[np.int64] | None) -> Any:
    """Build the index of short vectors.

    An index of stored vectors takes whole vectors and queries: the map and the scaling to length 1
    are the transforms of one `IndexPreTransform`. With re-ranking, whole vectors are held too.

    Parameters
    ----------
    plan: how.
    rows: (n, n_neurons) whole vectors.
    ids: (n,) ids, or None if they are numbered from 0.

    Raises
    ------
    CriticalMassError: if the kind of index cannot hold bits, or a vector is not finite.
    """
    kind, is_stored = plan.kind, plan.slim.short_map is not None
    last = _last_steps(plan, rows)
    # FAISS encodes a decoded code as that code again, so the codes are the certified ones.
    read = plan.stored if plan.is_certified else plan.shorten
    core = _empty_index(plan, last[-1].d_out if last else plan.slim.n_kept)
    _train(plan, core, lambda: _apply(last, read(_sample(rows, kind))))
    # Lists hold ids themselves, unless the re-ranking reads vectors by their numbers.
    has_own_ids = ids is not None and kind.structure == "ivf" and not kind.rerank
    outer, whole = _wrap(plan, core, last, with_ids=ids is not None and not has_own_ids)
    for start, block in blocks(rows):
        short = _apply(last, read(block))
        if has_own_ids and ids is not None:
            core.add_with_ids(short, ids[start : start + len(block)])
        else:
            core.add(short)
        if kind.rerank:
            whole.add(unit_rows(block) if is_stored else plan.shorten(block))
    for part in outer:
        part.ntotal = core.ntotal
    if ids is not None and not has_own_ids:
        plan.faiss.copy_array_to_vector(np.ascontiguousarray(ids), outer[-1].id_map)
        outer[-1].construct_rev_map()
    return outer[-1]


def _wrap(plan: IndexPlan, core: Any, last: list[Any], *, with_ids: bool) -> tuple[list[Any], Any]:
    """Return the indexes around an empty one, innermost first, and that of the re-ranking."""
    faiss, short_map = plan.faiss, plan.slim.short_map
    steps, width = list(last), plan.slim.n_kept
    if short_map is not None:
        scaling = faiss.NormalizationTransform(width, 2.0)
        steps, width = [*_first_transform(faiss, short_map), scaling, *last], plan.slim.n_neurons
    outer, whole = [core], faiss.IndexFlat(width, plan.metric)
    if steps:
        outer.append(faiss.IndexPreTransform(core))
        for step in reversed(steps):
            outer[-1].prepend_transform(step)
    if plan.kind.rerank:
        outer.append(faiss.IndexRefine(outer[-1], whole))
        outer[-1].k_factor = plan.kind.rerank
    if with_ids:
        outer.append(faiss.IndexIDMap2(outer[-1]))
    return outer, whole


def _train(plan: IndexPlan, core: Any, sample: Callable[[], FloatRows]) -> None:
    """Train an empty index; the ranges of certified bytes are those of the codec."""
    faiss, codec = plan.faiss, plan.slim.codec
    is_int8 = plan.is_certified and codec.precision == "int8"
    if not core.is_trained and (plan.kind.structure == "ivf" or not is_int8):
        core.train(sample())
    if is_int8:
        is_graph = plan.kind.structure == "hnsw"
        holder = faiss.downcast_index(core.storage) if is_graph else core
        # FAISS reads a code c as low + width (c + 1/2) / 255; ours is offset + step c.
        trained = np.concatenate([codec.offset - codec.step / 2, 255 * codec.step])
        faiss.copy_array_to_vector(trained.astype(np.float32), holder.sq.trained)
        holder.is_trained = core.is_trained = True


def blocks(rows: Rows) -> Iterator[tuple[int, FloatRows]]:
    """Yield (start, float32 block) over all rows; raise CriticalMassError if one is not finite."""
    size = rows_per_chunk(int(rows.shape[1]), _CHUNK_MEBIBYTES)
    for start, block in chunks(rows, size):
        check_finite(block, start, "the vectors")
        yield start, np.ascontiguousarray(block)


def _sample(rows: Rows, kind: IndexKind) -> FloatRows:
    """Return the rows that the lists and codes are trained on."""
    n, most = int(rows.shape[0]), max(_LEAST_SAMPLE, _ROWS_PER_CENTRE * kind.n_lists)
    numbers = np.arange(n)
    if n > most:
        numbers = np.sort(np.random.default_rng(_SEED).choice(n, most, replace=False))
    block = np.ascontiguousarray(rows[numbers], dtype=np.float32)
    check_finite(block, 0, "the vectors")
    return block


def _apply(steps: list[Any], rows: FloatRows) -> FloatRows:
    rows = np.ascontiguousarray(rows)
    for step in steps:
        rows = step.apply(rows)
    return rows


def _first_transform(faiss: Any, short_map: ShortMap) -> list[Any]:
    """Return the transform of whole vectors to the kept dimensions; none for all of them."""
    d, k = short_map.n_neurons, short_map.n_kept
    if short_map.matrix is not None:
        step = faiss.PCAMatrix(d, k)
        faiss.copy_array_to_vector(np.ascontiguousarray(short_map.matrix.T).ravel(), step.A)
        faiss.copy_array_to_vector(np.zeros(k, np.float32), step.b)
        faiss.copy_array_to_vector(np.zeros(d, np.float32), step.mean)
        step.is_trained = True
        return [step]
    if short_map.indices is None or k == d:
        return []
    step = faiss.RemapDimensionsTransform(d, k, False)
    faiss.copy_array_to_vector(short_map.indices.astype(np.int32), step.map)
    return [step]


def _last_steps(plan: IndexPlan, rows: Rows) -> list[Any]:
    """Return transforms of short vectors for a product quantiser: zeros, and its rotation.

    Zeros are added up to a multiple of the number of codes, so that it can stay as it is.
    """
    faiss, kind, k = plan.faiss, plan.kind, plan.slim.n_kept
    if kind.storage != "product":
        return []
    width = -(-k // kind.n_codebooks) * kind.n_codebooks
    steps: list[Any] = []
    if width > k:
        step = faiss.RemapDimensionsTransform(k, width, False)
        numbers = np.where(np.arange(width) < k, np.arange(width), -1)
        faiss.copy_array_to_vector(numbers.astype(np.int32), step.map)
        steps.append(step)
    if kind.is_rotated:
        rotation = faiss.OPQMatrix(width, kind.n_codebooks)
        codes = faiss.ProductQuantizer(width, kind.n_codebooks, kind.code_bits)
        codes.cp.min_points_per_centroid = 1
        rotation.pq = codes
        rotation.train(_apply(steps, plan.shorten(_sample(rows, kind))))
        steps.append(rotation)
    return steps


def _empty_index(plan: IndexPlan, width: int) -> Any:
    """Return the empty index of short vectors."""
    faiss, codec, kind = plan.faiss, plan.slim.codec, plan.kind
    if not plan.is_certified:
        return _construct(plan, kind, width)
    if codec.precision == "binary":
        if kind.structure != "flat":
            raise CriticalMassError(
                f"FAISS has no {kind.structure.upper()} index that takes whole vectors and stores "
                "bits; pass index_type='flat' (--index-type flat), or shrink with --precision int8"
            )
        bits = faiss.IndexLSH(width, width, False, True)
        faiss.copy_array_to_vector(codec.offset, bits.thresholds)
        # It counts different bits, whatever the metric, which must be that of the re-ranking.
        bits.is_trained, bits.metric_type = True, plan.metric
        return bits
    quantiser = faiss.ScalarQuantizer
    types = {"float16": quantiser.QT_fp16, "int8": quantiser.QT_8bit}
    if codec.precision == "float32":
        return _construct(plan, replace(kind, storage="values"), width)
    kind = replace(kind, storage="scalar", scalar_type=types[codec.precision], by_residual=False)
    return _construct(plan, kind, width)


def _construct(plan: IndexPlan, kind: IndexKind, width: int) -> Any:
    """Return an empty index of a kind."""
    faiss, metric = plan.faiss, plan.metric
    codes = (kind.n_codebooks, kind.code_bits)
    # Codes of bytes as they are hold no short vectors, whose values are of another range.
    direct = (faiss.ScalarQuantizer.QT_8bit_direct, faiss.ScalarQuantizer.QT_8bit_direct_signed)
    scalar = faiss.ScalarQuantizer.QT_8bit if kind.scalar_type in direct else kind.scalar_type
    if kind.structure == "flat":
        product = faiss.IndexPQFastScan if kind.is_fast_scan else faiss.IndexPQ
        made = {
            "values": lambda: faiss.IndexFlat(width, metric),
            "scalar": lambda: faiss.IndexScalarQuantizer(width, scalar, metric),
            "product": lambda: product(width, *codes, metric),
        }[kind.storage]()
    elif kind.structure == "hnsw":
        made = {
            "values": lambda: faiss.IndexHNSWFlat(width, kind.links, metric),
            "scalar": lambda: faiss.IndexHNSWSQ(width, scalar, kind.links, metric),
            "product": lambda: faiss.IndexHNSWPQ(width, codes[0], kind.links, codes[1], metric),
        }[kind.storage]()
        made.hnsw.efConstruction, made.hnsw.efSearch = kind.ef_construction, kind.ef_search
    else:
        made = _construct_lists(plan, replace(kind, scalar_type=scalar), width)
    holder = faiss.downcast_index(made.storage) if kind.structure == "hnsw" else made
    if kind.storage == "product":
        # Without it FAISS prints a warning per sub-vector.
        holder.pq.cp.min_points_per_centroid = 1
    return made


def _construct_lists(plan: IndexPlan, kind: IndexKind, width: int) -> Any:
    faiss, metric = plan.faiss, plan.metric
    coarse = faiss.IndexFlat(width, metric)
    if kind.coarse_links:
        coarse = faiss.IndexHNSWFlat(width, kind.coarse_links, metric)
    arguments = (coarse, width, kind.n_lists)
    codes = (kind.n_codebooks, kind.code_bits, metric)
    product = faiss.IndexIVFPQFastScan if kind.is_fast_scan else faiss.IndexIVFPQ
    build: dict[str, Callable[[], Any]] = {
        "values": lambda: faiss.IndexIVFFlat(*arguments, metric),
        "scalar": lambda: faiss.IndexIVFScalarQuantizer(
            *arguments, kind.scalar_type, metric, kind.by_residual
        ),
        "product": lambda: product(*arguments, *codes),
    }
    made = build[kind.storage]()
    made.nprobe = kind.n_probe
    if kind.storage == "product":
        made.by_residual = kind.by_residual
    made.cp.spherical = metric == faiss.METRIC_INNER_PRODUCT
    made.cp.min_points_per_centroid = 1
    return made
