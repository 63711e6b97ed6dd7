"""Backend ``ray-rows``: rows on the workers of a Ray cluster, for data beyond one machine.

Jobs run in this process, one after the other. Their passes over the rows run on the workers that
hold the rows, and return sums. Measures other than ``logistic`` get their moments from the workers
too, and read all other features from the store in this process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from criticalmass.core.backends import Local
from criticalmass.core.compute import Compute
from criticalmass.core.ray_backend import (
    Actors,
    ClusterMonitor,
    RayOptions,
    WorkerEnv,
    connect,
    get_result,
)
from criticalmass.core.threads import limit_threads
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.distributed import DistributedExecutor, Operation
from criticalmass.measures.logistic.row_shards import NodeId, ShardCache, assign_shards

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RayRows(RayOptions):
    """Runs tasks in this process and their passes over the rows on the workers; see `RayOptions`.

    Results do not depend on the number of workers or of their threads, to the byte.
    """

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task, in order."""
        return Local().map(function, tasks)

    @contextlib.contextmanager
    def hold_rows(self, compute: Compute) -> Iterator[Compute]:
        """Start workers that hold the rows; see `backends.hold_rows`.

        Raises
        ------
        CriticalMassError: no cluster at the address, or no worker with that many CPUs.
        """
        ray = connect(self.address)
        env = WorkerEnv.current(self.cpus)
        actors = Actors(ray, _ShardActor, env, restarts=-1, retries=-1)
        if not actors.start(ClusterMonitor(ray, self.cpus).nodes()):
            raise CriticalMassError(
                f"no node of the Ray cluster has {self.cpus} CPUs; ask for fewer (--ray-cpus)"
            )
        executor = DistributedExecutor(_RayWorkers(ray, actors.handles))
        try:
            # With 0 held bytes rows are streamed, so this process reads none of them.
            yield replace(compute, executor=executor, held_bytes=0)
        finally:
            actors.kill()


class _RayWorkers:
    """The actors, and the rows that were put into Ray's object store for them.

    Parameters
    ----------
    ray: the connected module.
    actors: handles of `_ShardActor`.
    """

    def __init__(self, ray: Any, actors: list[Any]) -> None:
        self.ray, self.actors = ray, actors
        self._source_refs: dict[int, Any] = {}

    def run(
        self, key: int, source: Any, operation: Operation, live: Sequence[int]
    ) -> list[dict[NodeId, Any]]:
        """Run an operation on all actors at once; see `Workers`."""
        for old in [k for k in list(self._source_refs) if k not in live]:
            self._source_refs.pop(old, None)
        if key not in self._source_refs:
            self._source_refs[key] = self.ray.put(source)
        # Ray does not resolve a reference inside a list, so an actor fetches the rows only once.
        source_ref, operation_ref = [self._source_refs[key]], self.ray.put(operation)
        assignment = assign_shards(source, len(self.actors))
        results = [
            actor.run.remote(key, source_ref, operation_ref, shards, list(live))
            for actor, shards in zip(self.actors, assignment, strict=True)
            if shards
        ]
        return [get_result(self.ray, result) for result in results]


class _ShardActor:
    """A Ray actor with a `ShardCache`. If Ray restarts it, it computes the cache again."""

    def __init__(self, env: WorkerEnv) -> None:
        env.apply()
        # Shards are processed in parallel, each by one thread.
        self._limit = limit_threads(1)
        self._limit.__enter__()
        self._cache = ShardCache(env.threads)

    def run(
        self,
        key: int,
        source_ref: list[Any],
        operation: Operation,
        shards: list[int],
        live: list[int],
    ) -> dict[NodeId, Any]:
        """Run an operation on some shards; ``source_ref`` is a list of one reference."""
        import ray

        if key not in self._cache.sources:
            self._cache.sources[key] = ray.get(source_ref[0])
        self._cache.keep_only(live)
        return operation(self._cache, key, shards)
