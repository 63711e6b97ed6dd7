"""Estimate of the memory that a sweep needs, made before it starts.

The numbers are the sizes of the arrays that each step holds at once, plus 15 % for memory that
the allocator does not return. docs/performance.md compares them with measured sweeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from criticalmass.core.memory import MemoryLimit, memory_limits, pending_arrow_reserve
from criticalmass.core.progress import warn_user
from criticalmass.core.threads import thread_count
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.training_rows import held_bytes
from criticalmass.measures.registry import MEASURES
from criticalmass.selectors.registry import SELECTORS
from criticalmass.selectors.sizes import sizes_for
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.plan import SPLIT, SweepRequest

_MIB = 1 << 20
# Compiled code and libraries that are loaded later: address space, and the part that is touched.
_LIBRARY_SPACE, _LIBRARY_MEMORY = 150 * _MIB, 100 * _MIB
# Stack and allocator arena of a thread.
_THREAD_SPACE = 24 * _MIB
_SLACK = 1.15
# Vectors of the L-BFGS solver per problem: ten pairs, weights, gradients, directions and trials.
_LBFGS_VECTORS = 28
_N_STRENGTHS = 5
# Buffers of the row reader: a block of standardised rows, a chunk of raw rows, a block of logits.
_ROW_BLOCK, _RAW_CHUNK, _LOGIT_BLOCK = 48 * _MIB, 64 * _MIB, 256 * _MIB
# Raw rows, the requested ones of them, and a flag for each value, in units of the raw rows.
_READ_FACTOR = 2.5
_STACKED_HEADS = 640
# Factors of the second moment that are cached, one per ridge, and those a factorisation needs.
_CACHED_FACTORS, _WORK_FACTORS = 8, 2
_TILES = 320 * _MIB


@dataclass(frozen=True)
class LayerSizes:
    """The sizes that determine the memory of one layer of a sweep.

    Attributes
    ----------
    n_train, n_test, n_neurons, n_classes: sizes of the data.
    item_bytes: bytes of a stored feature.
    sizes: numbers of kept neurons, ascending; the last is the whole layer.
    n_orders: number of orders and projections.
    n_threads: number of compute threads.
    held_bytes: largest size of an order's standardised rows that stay in memory.
    """

    n_train: int
    n_test: int
    n_neurons: int
    n_classes: int
    item_bytes: int
    sizes: tuple[int, ...]
    n_orders: int
    n_threads: int
    held_bytes: int

    @property
    def mapped_bytes(self) -> int:
        """Bytes of the memory-mapped features, which need not stay in memory."""
        return (self.n_train + self.n_test) * self.n_neurons * self.item_bytes

    @property
    def square_bytes(self) -> int:
        """Bytes of a float64 matrix (n_neurons, n_neurons)."""
        return 8 * self.n_neurons**2


@dataclass(frozen=True)
class MemoryPart:
    """Memory that one step of a sweep writes to."""

    name: str
    n_bytes: int


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory that a sweep needs in addition to what the process has.

    Attributes
    ----------
    mapped_bytes: address space of the mapped features.
    parts: memory that is written to, ascending.
    library_space: address space of libraries and threads that are not loaded yet.
    library_memory: the part of it that is touched.
    """

    mapped_bytes: int
    parts: tuple[MemoryPart, ...]
    library_space: int
    library_memory: int

    def counted_bytes(self, limit: MemoryLimit) -> int:
        """Return the bytes that count against a limit."""
        written = sum(part.n_bytes for part in self.parts)
        if limit.is_address_space:
            return written + self.library_space + self.mapped_bytes
        return written + self.library_memory


def row_memory_limit(store: FeatureStore, request: SweepRequest) -> int | None:
    """Return the bytes of standardised rows to keep in memory so that the sweep fits.

    Parameters
    ----------
    store: the features.
    request: the sweep.

    Returns
    -------
    None if the default fits. A smaller number makes the sweep slower, because the other rows are
    read again in every pass; a warning says so.

    Raises
    ------
    CriticalMassError: a limit is too low even if no rows are kept.
    """
    limits, default = memory_limits(), held_bytes()
    tightest: MemoryLimit | None = None
    for held in (default, default // 2, default // 4, default // 8, 0):
        estimate = estimate_memory(store, request, held)
        exceeded = [limit for limit in limits if estimate.counted_bytes(limit) > limit.free]
        if exceeded:
            tightest = exceeded[0]
        elif tightest is None:
            return None
        else:
            kept = f"at most {_gb(held)} of rows are" if held else "no rows are"
            warn_user(
                f"{tightest.name} leaves {_gb(tightest.free)}: {kept} kept in memory, the others "
                "are read again in every pass; values are the same up to rounding"
            )
            return held
    raise CriticalMassError(_too_little_memory(store, request, estimate, exceeded[0]))


def estimate_memory(store: FeatureStore, request: SweepRequest, held: int) -> MemoryEstimate:
    """Estimate the memory of a sweep, whose layers and measures are computed one by one.

    Parameters
    ----------
    store: the features.
    request: the sweep.
    held: largest size in bytes of an order's rows that stay in memory.
    """
    n_threads = thread_count()
    all_sizes = list(_layer_sizes(store, request, n_threads, held))
    parts = [_memory_parts(sizes, request) for sizes in all_sizes]
    totals = [
        sizes.mapped_bytes + sum(part.n_bytes for part in layer_parts)
        for sizes, layer_parts in zip(all_sizes, parts, strict=True)
    ]
    largest = totals.index(max(totals))
    return MemoryEstimate(
        mapped_bytes=all_sizes[largest].mapped_bytes,
        parts=tuple(sorted(parts[largest], key=lambda part: part.n_bytes)),
        library_space=_LIBRARY_SPACE + n_threads * _THREAD_SPACE + pending_arrow_reserve(),
        library_memory=_LIBRARY_MEMORY,
    )


def _layer_sizes(
    store: FeatureStore, request: SweepRequest, n_threads: int, held: int
) -> Iterator[LayerSizes]:
    for layer in request.layers:
        train, test = store.features("train", layer), store.features(SPLIT, layer)
        width = int(train.shape[1])
        n_random = sum(SELECTORS[name].is_random for name in request.selectors)
        yield LayerSizes(
            n_train=int(train.shape[0]),
            n_test=int(test.shape[0]),
            n_neurons=width,
            n_classes=len(store.class_names),
            item_bytes=int(train.shards[0].dtype.itemsize),
            sizes=tuple(sorted({*sizes_for(request.fractions, width), width})),
            n_orders=n_random * len(request.seeds) + len(request.selectors) - n_random,
            n_threads=n_threads,
            held_bytes=held,
        )


def _memory_parts(sizes: LayerSizes, request: SweepRequest) -> list[MemoryPart]:
    shared = _selector_bytes(sizes, request) + _similarity_moment_bytes(sizes, request)
    workspaces = {name: _measure_bytes(name, sizes) for name in request.measures}
    largest = max(workspaces, key=lambda name: workspaces[name])
    return [
        MemoryPart("selectors and similarities", int(_SLACK * shared)),
        MemoryPart(largest, int(_SLACK * workspaces[largest])),
    ]


def _selector_bytes(sizes: LayerSizes, request: SweepRequest) -> int:
    """Return the bytes of training moments and projections, which all jobs on a layer share."""
    infos = [SELECTORS[name] for name in request.selectors]
    need_moments = any(info.needs != "nothing" for info in infos)
    n_projections = sum(info.is_projection for info in infos)
    return sizes.square_bytes * (4 * need_moments + n_projections)


def _similarity_moment_bytes(sizes: LayerSizes, request: SweepRequest) -> int:
    has_similarities = any(not MEASURES[name].is_probe for name in request.measures)
    return 3 * sizes.square_bytes if has_similarities else 0


def _measure_bytes(name: str, sizes: LayerSizes) -> int:
    """Return the bytes of a measure's workspace."""
    if name == "logistic":
        return _logistic_bytes(sizes)
    n_squares = {"cka": 4, "cka-debiased": 4, "procrustes": 8, "ridge": 6, "lda": 6}
    n_bytes = n_squares.get(name, 1) * sizes.square_bytes + _TILES
    n_bytes += 8 * sizes.n_orders * len(sizes.sizes) * min(sizes.n_test, 4096)
    if name == "sgd":
        rows = 4 * sizes.n_train * sizes.n_neurons
        n_bytes += rows if rows <= 1 << 30 else 0
    return n_bytes + 8 * sizes.n_classes * sum(sizes.sizes) * 4


def _logistic_bytes(sizes: LayerSizes) -> int:
    c, width = sizes.n_classes, sizes.n_neurons
    solver = 4 * c * sum(sizes.sizes) * _LBFGS_VECTORS * _N_STRENGTHS
    stacked = 4 * max(_STACKED_HEADS, c) * width * (sizes.n_threads + 2)
    squares = 4 * width**2 * (_CACHED_FACTORS + _WORK_FACTORS * sizes.n_threads + 4)
    head = 4 * sizes.n_train * c
    logits = max(head, min(_LOGIT_BLOCK, head * len(sizes.sizes)))
    test = min(4 * sizes.n_test * width, max(sizes.held_bytes, _ROW_BLOCK))
    return solver + stacked + squares + logits + _row_bytes(sizes) + test


def _row_bytes(sizes: LayerSizes) -> int:
    """Return the bytes of the standardised rows of one order.

    They are held, or read a block at a time together with the raw rows of the block. The widest
    subset of a job with the whole layer and that of a job without it are considered.
    """
    widest = {k: 4 * sizes.n_train * k for k in sizes.sizes[-2:]}
    held = max((size for size in widest.values() if size <= sizes.held_bytes), default=0)
    streamed = [
        min(_RAW_CHUNK, _ROW_BLOCK * sizes.item_bytes * sizes.n_neurons // (4 * k))
        for k, size in widest.items()
        if size > sizes.held_bytes
    ]
    return _ROW_BLOCK + max(held, int(_READ_FACTOR * max(streamed, default=0)))


def _too_little_memory(
    store: FeatureStore, request: SweepRequest, estimate: MemoryEstimate, limit: MemoryLimit
) -> str:
    """Return the error text: what is needed, what is free, and how to change it."""
    largest = estimate.parts[-1]
    parts = [f"{_gb(largest.n_bytes)} for {largest.name!r}"]
    if limit.is_address_space:
        parts.append(f"{_gb(estimate.mapped_bytes)} to map the features")
        parts.append(f"{_gb(estimate.library_space)} for libraries and {thread_count()} threads")
    cures = [limit.cure]
    if len(request.measures) > 1 and largest.name in request.measures:
        cures.append(f"leave out the measure {largest.name!r}")
    if largest.name == "logistic" and len(request.fractions) > 1:
        cures.append("use fewer fractions")
    if thread_count() > 1:
        cures.append("use fewer threads (CRITICALMASS_THREADS=1)")
    cures.append("distribute it over machines (--backend ray-rows)")
    return (
        f"sweeping {store.dataset} needs about {_gb(estimate.counted_bytes(limit))} more "
        f"({', '.join(parts)}), but {limit.name} leaves {_gb(limit.free)}; {', or '.join(cures)}"
    )


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
