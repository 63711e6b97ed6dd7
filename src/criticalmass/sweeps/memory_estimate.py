"""Estimate of the memory that a sweep needs, made before it starts.

The numbers are the sizes of the arrays that each step holds at once, plus 15 % for memory that
the allocator does not return. docs/performance.md compares them with measured sweeps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from criticalmass.core.compute import HELD_BYTES
from criticalmass.core.memory import MemoryLimit, memory_limits, pending_arrow_reserve
from criticalmass.core.progress import warn_user
from criticalmass.core.threads import thread_count
from criticalmass.errors import CriticalMassError
from criticalmass.measures.memory import LayerSizes
from criticalmass.measures.registry import MEASURES
from criticalmass.selectors.registry import SELECTORS
from criticalmass.sweeps.plan import SweepRequest

_MIB = 1 << 20
# Compiled code and libraries that are loaded later: address space, and the part that is touched.
_LIBRARY_SPACE, _LIBRARY_MEMORY = 150 * _MIB, 100 * _MIB
# Stack and allocator arena of a thread.
_THREAD_SPACE = 24 * _MIB
_SLACK = 1.15


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


def row_memory_limit(request: SweepRequest) -> int:
    """Return the bytes of standardised rows to keep in memory so that the sweep fits.

    Returns
    -------
    `HELD_BYTES` if that fits. A smaller number makes the sweep slower, because the other rows are
    read again in every pass; a warning says so.

    Raises
    ------
    CriticalMassError: a limit is too low even if no rows are kept.
    """
    limits, default = memory_limits(), HELD_BYTES
    tightest: MemoryLimit | None = None
    for held in (default, default // 2, default // 4, default // 8, 0):
        estimate = estimate_memory(request, held)
        exceeded = [limit for limit in limits if estimate.counted_bytes(limit) > limit.free]
        if exceeded:
            tightest = exceeded[0]
        elif tightest is None:
            return held
        else:
            kept = f"at most {_gb(held)} of rows are" if held else "no rows are"
            warn_user(
                f"{tightest.name} leaves {_gb(tightest.free)}: {kept} kept in memory, the others "
                "are read again in every pass; values are the same up to rounding"
            )
            return held
    raise CriticalMassError(_too_little_memory(request, estimate, exceeded[0]))


def estimate_memory(request: SweepRequest, held: int) -> MemoryEstimate:
    """Estimate the memory of a sweep, whose layers and measures are computed one by one.

    Parameters
    ----------
    request: the sweep.
    held: largest size in bytes of an order's rows that stay in memory.
    """
    n_threads = thread_count()
    all_sizes = [request.sizes_of(layer, n_threads, held) for layer in request.layers]
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


def _memory_parts(sizes: LayerSizes, request: SweepRequest) -> list[MemoryPart]:
    shared = _selector_bytes(sizes, request) + _similarity_moment_bytes(sizes, request)
    workspaces = {name: MEASURES[name].workspace_bytes(sizes) for name in request.measures}
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


def _too_little_memory(request: SweepRequest, estimate: MemoryEstimate, limit: MemoryLimit) -> str:
    """Return the error text: what is needed, what is free, and how to change it."""
    largest = estimate.parts[-1]
    parts = [f"{_gb(largest.n_bytes)} for {largest.name!r}"]
    if limit.is_address_space:
        parts.append(f"{_gb(estimate.mapped_bytes)} to map the features")
        parts.append(f"{_gb(estimate.library_space)} for libraries and {thread_count()} threads")
    cures = [limit.cure]
    if len(request.measures) > 1 and largest.name in request.measures:
        cures.append(f"leave out the measure {largest.name!r}")
    if _fewer_fractions_help(request, largest):
        cures.append("use fewer fractions")
    if thread_count() > 1:
        cures.append("use fewer threads (CRITICALMASS_THREADS=1)")
    cures.append("distribute it over machines (--backend ray-rows)")
    dataset, needed = request.layers[0].dataset, _gb(estimate.counted_bytes(limit))
    return (
        f"sweeping {dataset} needs about {needed} more ({', '.join(parts)}), but {limit.name} "
        f"leaves {_gb(limit.free)}; {', or '.join(cures)}"
    )


def _fewer_fractions_help(request: SweepRequest, largest: MemoryPart) -> bool:
    """Return whether the largest part shrinks by a tenth if only one fraction is measured."""
    single = replace(request, fractions=request.fractions[:1])
    part = estimate_memory(single, 0).parts[-1]
    return part.n_bytes < 0.9 * largest.n_bytes


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
