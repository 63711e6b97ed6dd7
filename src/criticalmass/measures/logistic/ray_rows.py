"""Rows spread over the workers of a Ray cluster: for data too large for one machine.

Jobs run here, one after the other; their passes over the rows are made where the rows are, and
what comes back are sums. Measures other than ``logistic`` have their moments from there too, and
read the rest of what they need of the store here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from criticalmass.core.moments import spreading
from criticalmass.core.ray_backend import Ray, Surroundings, Watch, connect, fetch
from criticalmass.core.threads import limit_threads
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.device import lending
from criticalmass.measures.logistic.distributed import SpreadCrew
from criticalmass.measures.logistic.row_shards import Holder, Knot, shares
from criticalmass.measures.logistic.training_rows import holding

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RayRows(Ray):
    """Runs tasks here, and passes over rows on the workers; see `Ray`.

    Bytes do not depend on the number of workers, nor on their threads.
    """

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task, in order.

        Raises
        ------
        CriticalMassError: no cluster at the address, or no worker with that many CPUs.
        """
        ray = connect(self.address)
        places = _Workers(ray, _start(ray, self))
        crew = SpreadCrew(places)
        try:
            for task in tasks:
                # Rows are described here and read there: none are held in this process.
                with lending(crew), spreading(crew.moments), holding(0):
                    result = function(task)
                yield result
        finally:
            for worker in places.workers:
                ray.kill(worker)


@dataclass(frozen=True, eq=False)
class _Workers:
    """The actors, and what of this process's objects they can fetch."""

    ray: Any
    workers: list[Any]
    _sent: dict[int, Any] = field(default_factory=dict)

    def ask(
        self, key: int, whole: Any, question: Callable[..., Any], live: Sequence[int]
    ) -> list[dict[Knot, Any]]:
        """Ask all workers at once."""
        for old in [k for k in list(self._sent) if k not in live]:
            self._sent.pop(old, None)
        if key not in self._sent:
            self._sent[key] = self.ray.put(whole)
        # In a list, a reference stays one: a worker fetches it once, not at every question.
        box, put = [self._sent[key]], self.ray.put(question)
        mine = shares(whole, len(self.workers))
        told = [
            worker.answer.remote(key, box, put, leaves, list(live))
            for worker, leaves in zip(self.workers, mine, strict=True)
            if leaves
        ]
        return [fetch(self.ray, answer) for answer in told]


class _Worker:
    """An actor: a holder of some leaves. Begun again elsewhere, it makes anew what it held."""

    def __init__(self, surroundings: Surroundings) -> None:
        surroundings.enter()
        # Leaves are worked on side by side, each by one thread.
        self._limit = limit_threads(1)
        self._limit.__enter__()
        self._holder = Holder(surroundings.threads)

    def answer(
        self,
        key: int,
        box: list[Any],
        question: Callable[..., Any],
        leaves: list[int],
        live: list[int],
    ) -> dict[Knot, Any]:
        """Answer a question about some leaves."""
        import ray

        if key not in self._holder.whole:
            self._holder.whole[key] = ray.get(box[0])
        self._holder.forget(live)
        found: dict[Knot, Any] = question(self._holder, key, leaves)
        return found


def _start(ray: Any, asked: Ray) -> list[Any]:
    """Start as many actors on every node as it has room for."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    surroundings = Surroundings.here(asked.cpus)
    worker = ray.remote(_Worker)
    started = []
    for node in sorted(Watch(ray, asked.cpus).nodes(), key=lambda node: str(node["NodeID"])):
        # Soft, and of no CPUs by themselves: when a node dies, the others take its actors in.
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
        for _ in range(int(node["Resources"].get("CPU", 0.0) // asked.cpus)):
            options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
            started.append(
                worker.options(scheduling_strategy=place, **options).remote(surroundings)
            )
    if not started:
        raise CriticalMassError(
            f"no node of the Ray cluster has {asked.cpus} CPUs; ask for fewer (--ray-cpus)"
        )
    return started
