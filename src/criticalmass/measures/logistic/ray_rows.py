"""Backend ``ray-rows``: rows on the workers of a Ray cluster, for data beyond one machine.

Jobs run in this process, one after the other. Their passes over the rows run on the workers that
hold the rows, and return sums. Measures other than ``logistic`` get their moments from the workers
too, and read all other features from the store in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from criticalmass.core.moments import override_moments
from criticalmass.core.ray_backend import ClusterMonitor, Ray, WorkerEnv, connect, get_result
from criticalmass.core.threads import limit_threads
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.device import override_executor
from criticalmass.measures.logistic.distributed import DistributedExecutor, Operation
from criticalmass.measures.logistic.row_shards import NodeId, ShardCache, assign_shards
from criticalmass.measures.logistic.training_rows import override_held_bytes

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RayRows(Ray):
    """Runs tasks in this process and their passes over the rows on the workers; see `Ray`.

    Results do not depend on the number of workers or of their threads, to the byte.
    """

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task, in order.

        Raises
        ------
        CriticalMassError: no cluster at the address, or no worker with that many CPUs.
        """
        ray = connect(self.address)
        workers = _RayWorkers(ray, _start_actors(ray, self.cpus))
        executor = DistributedExecutor(workers)
        try:
            for task in tasks:
                # With 0 held bytes rows are streamed, so this process reads none of them.
                with (
                    override_executor(executor),
                    override_moments(executor.moments),
                    override_held_bytes(0),
                ):
                    result = function(task)
                yield result
        finally:
            for actor in workers.actors:
                ray.kill(actor)


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


def _start_actors(ray: Any, cpus: int) -> list[Any]:
    """Start one actor per ``cpus`` CPUs on every node.

    Raises
    ------
    CriticalMassError: no node has that many CPUs.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    env = WorkerEnv.current(cpus)
    actor = ray.remote(_ShardActor)
    actors = []
    nodes = ClusterMonitor(ray, cpus).nodes()
    for node in sorted(nodes, key=lambda node: str(node["NodeID"])):
        # Soft affinity and no reserved CPUs: if a node dies, the others can run its actors.
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
        for _ in range(int(node["Resources"].get("CPU", 0.0) // cpus)):
            options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
            actors.append(actor.options(scheduling_strategy=strategy, **options).remote(env))
    if not actors:
        raise CriticalMassError(
            f"no node of the Ray cluster has {cpus} CPUs; ask for fewer (--ray-cpus)"
        )
    return actors
