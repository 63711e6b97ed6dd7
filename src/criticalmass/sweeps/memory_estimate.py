"""What memory a sweep needs, said before it starts.

The numbers are those of the arrays that each step holds at once, with a little on top for what
the allocator does not give back. Measured against real sweeps: docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from criticalmass.core.memory import Room, reserve_to_come, rooms
from criticalmass.core.progress import notice
from criticalmass.core.threads import thread_count
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.training_rows import held_bytes
from criticalmass.measures.registry import MEASURES
from criticalmass.selectors.registry import SELECTORS
from criticalmass.selectors.sizes import sizes_for
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.plan import SPLIT, Request

_MIB = 1 << 20
# Compiled code and libraries that are loaded as they are needed, stacks and arenas of threads.
_LATER, _LATER_TOUCHED = 150 * _MIB, 100 * _MIB
_STACKS = 24 * _MIB
_SLACK = 1.15
# Of the L-BFGS solver: ten pairs of vectors, weights, gradients, directions and trials.
_VECTORS = 28
_STRENGTHS = 5
_BLOCK, _RAW, _LOGITS = 48 * _MIB, 64 * _MIB, 256 * _MIB
# Raw rows, those of them that are asked for, and a flag for each value.
_READING = 2.5
_STACKED = 640
# Factors of the second moment that are kept, one for each ridge, and what making one takes.
_FACTORS, _MAKING = 8, 2
_TILES = 320 * _MIB


@dataclass(frozen=True)
class Task:
    """The numbers that decide what one layer of a sweep needs.

    Attributes
    ----------
    n_train, n_test, n_neurons, n_classes: sizes of the data.
    item: bytes of a stored feature.
    sizes: numbers of neurons that are kept, ascending, the whole layer's the last.
    n_orders: orders or projections.
    threads: that compute.
    held: bytes up to which an order's standardised rows are kept in memory.
    """

    n_train: int
    n_test: int
    n_neurons: int
    n_classes: int
    item: int
    sizes: tuple[int, ...]
    n_orders: int
    threads: int
    held: int

    @property
    def mapped(self) -> int:
        """Bytes of the features on disk, which are mapped but need not stay in memory."""
        return (self.n_train + self.n_test) * self.n_neurons * self.item

    @property
    def square(self) -> int:
        """Bytes of a matrix of all neurons in float64."""
        return 8 * self.n_neurons**2


@dataclass(frozen=True)
class Need:
    """What a sweep takes beyond what the process has.

    Attributes
    ----------
    mapped: bytes of features, of address space alone.
    parts: (what, bytes) of what is written to, the largest last.
    loaded: bytes of what is still to be loaded: address space, and what of it is touched.
    """

    mapped: int
    parts: tuple[tuple[str, int], ...]
    loaded: tuple[int, int]

    def of(self, room: Room) -> int:
        """Return the bytes that count against a limit."""
        own = sum(size for _, size in self.parts)
        return own + (self.loaded[0] + self.mapped if room.is_address_space else self.loaded[1])


def fitting(store: FeatureStore, request: Request) -> int | None:
    """Find how many bytes of rows may be kept in memory, before anything is computed.

    Parameters
    ----------
    store, request: what shall be swept.

    Returns
    -------
    None where there is room; else fewer bytes, which takes longer: the rest is read again.

    Raises
    ------
    CriticalMassError: a limit leaves too little even so; it is said how much is needed and left.
    """
    limits, normal = rooms(), held_bytes()
    tight: Room | None = None
    for held in (normal, normal // 2, normal // 4, normal // 8, 0):
        need = need_of(store, request, held)
        short = [room for room in limits if need.of(room) > room.free]
        if short:
            tight = short[0]
        elif tight is None:
            return None
        else:
            what = f"more than {_gb(held)} of rows are" if held else "rows are"
            notice(
                f"{tight.name} leaves {_gb(tight.free)}: {what} not kept in memory, but read "
                "again in every pass; values are the same up to rounding"
            )
            return held
    raise CriticalMassError(_too_little(store, request, need, short[0]))


def need_of(store: FeatureStore, request: Request, held: int) -> Need:
    """Estimate what a sweep needs; layers and measures come one after the other.

    Parameters
    ----------
    held: bytes up to which an order's rows are kept in memory.
    """
    threads = thread_count()
    found = [_layer_need(task, request) for task in _tasks(store, request, threads, held)]
    loaded = (_LATER + threads * _STACKS + reserve_to_come(), _LATER_TOUCHED)
    most = max(found, key=lambda need: need[0] + sum(size for _, size in need[1]))
    return Need(most[0], tuple(sorted(most[1], key=lambda part: part[1])), loaded)


def _tasks(store: FeatureStore, request: Request, threads: int, held: int) -> Iterator[Task]:
    for layer in request.layers:
        train, test = store.features("train", layer), store.features(SPLIT, layer)
        width = int(train.shape[1])
        n_random = sum(SELECTORS[name].is_random for name in request.selectors)
        yield Task(
            n_train=int(train.shape[0]),
            n_test=int(test.shape[0]),
            n_neurons=width,
            n_classes=len(store.class_names),
            item=int(train.shards[0].dtype.itemsize),
            sizes=tuple(sorted({*sizes_for(request.fractions, width), width})),
            n_orders=n_random * len(request.seeds) + len(request.selectors) - n_random,
            threads=threads,
            held=held,
        )


def _layer_need(task: Task, request: Request) -> tuple[int, list[tuple[str, int]]]:
    kept = _selecting(task, request) + _similar_moments(task, request)
    working = {name: _measuring(name, task) for name in request.measures}
    worst = max(working, key=lambda name: working[name])
    parts = [("what selectors and similarities look at", kept), (worst, working[worst])]
    return task.mapped, [(what, int(_SLACK * size)) for what, size in parts]


def _selecting(task: Task, request: Request) -> int:
    """Moments of the training split and projections that stay for all jobs on a layer."""
    infos = [SELECTORS[name] for name in request.selectors]
    looks = any(info.needs != "nothing" for info in infos)
    fixed = sum(info.is_projection for info in infos)
    return task.square * (4 * looks + fixed)


def _similar_moments(task: Task, request: Request) -> int:
    return 3 * task.square if any(not MEASURES[name].is_probe for name in request.measures) else 0


def _measuring(name: str, task: Task) -> int:
    """Bytes that a measure works in."""
    if name == "logistic":
        return _logistic(task)
    squares = {"cka": 4, "cka-debiased": 4, "procrustes": 8, "ridge": 6, "lda": 6}
    own = squares.get(name, 1) * task.square + _TILES
    own += 8 * task.n_orders * len(task.sizes) * min(task.n_test, 4096)
    if name == "sgd":
        rows = 4 * task.n_train * task.n_neurons
        own += rows if rows <= 1 << 30 else 0
    return own + 8 * task.n_classes * sum(task.sizes) * 4


def _logistic(task: Task) -> int:
    c, width = task.n_classes, task.n_neurons
    states = 4 * c * sum(task.sizes) * _VECTORS * _STRENGTHS
    stacked = 4 * max(_STACKED, c) * width * (task.threads + 2)
    squares = 4 * width**2 * (_FACTORS + _MAKING * task.threads + 4)
    head = 4 * task.n_train * c
    logits = max(head, min(_LOGITS, head * len(task.sizes)))
    test = 4 * task.n_test * width
    return states + stacked + squares + logits + _rows(task) + min(test, max(task.held, _BLOCK))


def _rows(task: Task) -> int:
    """Standardised rows of one order: held, or a block at a time with what it is made of.

    Of the widest subset of a job with the whole layer, and of a job without.
    """
    widest = {k: 4 * task.n_train * k for k in task.sizes[-2:]}
    held = max((size for size in widest.values() if size <= task.held), default=0)
    streamed = [
        min(_RAW, _BLOCK * task.item * task.n_neurons // (4 * k))
        for k, size in widest.items()
        if size > task.held
    ]
    return _BLOCK + max(held, int(_READING * max(streamed, default=0)))


def _too_little(store: FeatureStore, request: Request, need: Need, room: Room) -> str:
    """Word what is needed, what there is, and what to change."""
    what, size = need.parts[-1]
    parts = [f"{_gb(size)} for {what!r}"]
    if room.is_address_space:
        parts.append(f"{_gb(need.mapped)} to map the features")
        parts.append(f"{_gb(need.loaded[0])} for libraries and {thread_count()} threads")
    cures = [room.cure]
    if len(request.measures) > 1 and what in request.measures:
        cures.append(f"leave out the measure {what!r}")
    if what == "logistic" and len(request.fractions) > 1:
        cures.append("ask for fewer fractions")
    if thread_count() > 1:
        cures.append("use fewer threads (CRITICALMASS_THREADS=1)")
    cures.append("spread it over machines (--backend ray-rows)")
    return (
        f"sweeping {store.dataset} needs about {_gb(need.of(room))} more ({', '.join(parts)}), "
        f"but {room.name} leaves {_gb(room.free)}; {', or '.join(cures)}"
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
