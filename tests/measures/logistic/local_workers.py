"""Workers in this process, for tests of distributed passes without a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

from criticalmass.core.compute import Compute
from criticalmass.measures.logistic.distributed import DistributedExecutor, Operation
from criticalmass.measures.logistic.row_shards import NodeId, ShardCache, assign_shards


class LocalWorkers:
    """One worker per cache; operations run on one worker after the other.

    ``lock``: fits in parallel threads call `run` at once, but a cache serves one call at a time.
    """

    def __init__(self, *caches: ShardCache) -> None:
        self.caches = caches
        self.lock = Lock()

    def run(
        self, key: int, source: Any, operation: Operation, live: Sequence[int]
    ) -> list[dict[NodeId, Any]]:
        results = []
        with self.lock:
            assignment = assign_shards(source, len(self.caches))
            for cache, shards in zip(self.caches, assignment, strict=True):
                cache.sources.setdefault(key, source)
                results.append(operation(cache, key, shards))
                cache.keep_only(live)
        return results


class LocalRows:
    """A backend of a sweep: jobs run here, their passes on `LocalWorkers`."""

    def __init__(self, workers: LocalWorkers) -> None:
        self.executor = DistributedExecutor(workers)

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        return map(function, tasks)

    @contextlib.contextmanager
    def hold_rows(self, compute: Compute) -> Iterator[Compute]:
        yield replace(compute, executor=self.executor, held_bytes=0)
