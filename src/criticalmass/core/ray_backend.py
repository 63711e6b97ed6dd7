"""Run tasks on a Ray cluster, or on this machine's cores in separate processes.

A worker is an actor: it loads the function once and keeps what the function has read until the
caller has all results. Tasks go to whichever worker is free. Ray replaces a worker that died, on
another node if its node died, and repeats its unfinished tasks. Results return to the caller, and
only the caller writes files.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from criticalmass.core.progress import warn_user
from criticalmass.core.ray_handshake import REFUSED
from criticalmass.core.threads import limit_threads, thread_count
from criticalmass.errors import CriticalMassError, missing_extra

Task = TypeVar("Task")

Result = TypeVar("Result")

#: Times that a task is repeated after its worker or node died.
MAX_RETRIES = 5

# Results depend on these versions: a worker with others could return other bytes.
_LIBRARIES = ("criticalmass", "numpy", "scipy", "numba", "scikit-learn")

# Size of Ray's object store, which holds results until they are fetched, if we start Ray.
_STORE_BYTES = 256 << 20

# By default Ray sends usage statistics, hides GPUs from workers that request none, and warns that
# it will stop hiding them.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

# Seconds between two counts of a cluster's nodes.
_MONITOR_INTERVAL = 5.0

# A worker has the next task before it returns a result, so it does not wait for the caller.
_TASKS_PER_WORKER = 2

_CONNECT_TIMEOUT = 20.0

_AUTH_MODE = "RAY_AUTH_MODE"

_HANDSHAKE = "criticalmass.core.ray_handshake"

_HANDSHAKE_TIMEOUT = 30.0


@dataclass(frozen=True)
class RayOptions:
    """The cluster and its workers.

    Parameters
    ----------
    address: of a running cluster, ``"HOST:PORT"`` or ``"auto"``. None means the environment
        variable ``RAY_ADDRESS``, or if it is not set, workers on this machine's cores. A process
        that is already connected to Ray keeps its connection.
    cpus: threads of each worker. The same number gives the same bytes on every cluster.
    retries: times that a task is repeated after its worker or node died.
    """

    address: str | None = None
    cpus: int = 1
    retries: int = MAX_RETRIES

    def __post_init__(self) -> None:
        """Check the numbers, and that Ray is installed.

        Raises
        ------
        CriticalMassError: ``cpus`` is below 1 or ``retries`` is below 0.
        MissingExtraError: Ray is not installed.
        """
        if self.cpus < 1:
            raise CriticalMassError(f"cpus={self.cpus}; give a worker at least 1")
        if self.retries < 0:
            raise CriticalMassError(f"retries={self.retries}; give 0 or more")
        if importlib.util.find_spec("ray") is None:
            raise missing_extra("ray", "ray")


@dataclass(frozen=True)
class Ray(RayOptions):
    """Runs tasks on the workers of a Ray cluster; see `RayOptions`."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task, each as soon as it completes.

        Raises
        ------
        CriticalMassError: no cluster at the address, no node with ``cpus`` CPUs, a worker that
            cannot run the function, or a task whose workers died more often than ``retries``.
        """
        with self.workers(function) as run_tasks:
            yield from run_tasks(tasks)

    @contextlib.contextmanager
    def workers(
        self, function: Callable[[Task], Result]
    ) -> Iterator[Callable[[Iterable[Task]], Iterator[Result]]]:
        """Start workers with a function; see `backends.start_workers`, and `map` for errors."""
        ray = connect(self.address)
        _check_cpus(ray, self.cpus)
        # As bytes, so that an error while the function is loaded is an error of the first task.
        function_ref = [ray.put(ray.cloudpickle.dumps(function))]
        actors = Actors(ray, _Worker, WorkerEnv.current(self.cpus))
        try:
            yield lambda tasks: self._results(ray, actors, function_ref, tasks)
        finally:
            actors.kill()

    def _results(
        self, ray: Any, actors: Actors, function_ref: list[Any], tasks: Iterable[Task]
    ) -> Iterator[Any]:
        """Give every worker two tasks at a time; yield results as they complete."""
        monitor = ClusterMonitor(ray, self.cpus)
        remaining = ((task, self.retries) for task in tasks)
        repeated: deque[tuple[Task, int]] = deque()
        running: dict[Any, tuple[Any, tuple[Task, int]]] = {}
        free = deque(_TASKS_PER_WORKER * (actors.handles or actors.start(monitor.nodes())))
        while True:
            while free and (entry := repeated.popleft() if repeated else next(remaining, None)):
                actor = free.popleft()
                running[actor.run.remote(function_ref, entry[0])] = actor, entry
            if not running:
                return
            done, _ = ray.wait(list(running), timeout=_MONITOR_INTERVAL)
            if monitor.update():
                free.extend(_TASKS_PER_WORKER * actors.start(monitor.nodes()))
            for reference in done:
                actor, (task, retries) = running.pop(reference)
                try:
                    result = get_result(ray, reference)
                except WorkerLostError:
                    if not retries:
                        raise
                    repeated.append((task, retries - 1))
                    new = _TASKS_PER_WORKER * actors.replace(actor)
                    free = deque([*(one for one in free if one is not actor), *new])
                    continue
                free.append(actor)
                yield result


class WorkerLostError(CriticalMassError):
    """A worker died before the caller had its result."""


class Actors:
    """Ray actors of one class: one for every ``env.threads`` CPUs of every node.

    Parameters
    ----------
    ray: the connected module.
    kind: the class, whose parameter is ``env``.
    env: of the actors.
    restarts, retries: times that Ray replaces a dead actor, and that it repeats a call of one; -1
        for no limit.
    """

    def __init__(
        self, ray: Any, kind: type, env: WorkerEnv, *, restarts: int = 0, retries: int = 0
    ) -> None:
        self._ray, self._kind, self._env = ray, ray.remote(kind), env
        # No reserved CPUs: if a node dies, the others can run its actors.
        self._options = {"num_cpus": 0, "max_restarts": restarts, "max_task_retries": retries}
        self._node_ids: dict[Any, str] = {}

    @property
    def handles(self) -> list[Any]:
        """Handles of the actors."""
        return list(self._node_ids)

    def start(self, nodes: Iterable[Any]) -> list[Any]:
        """Start actors on the nodes for which none was started yet; return their handles."""
        started = set(self._node_ids.values())
        new = [node for node in nodes if node["NodeID"] not in started]
        return [
            self._start_one(node["NodeID"])
            for node in sorted(new, key=lambda node: str(node["NodeID"]))
            for _ in range(_worker_count(node, self._env.threads))
        ]

    def replace(self, actor: Any) -> list[Any]:
        """End an actor and start another one; return its handle, none if that is done already."""
        node_id = self._node_ids.pop(actor, None)
        if node_id is None:
            return []
        self._ray.kill(actor)
        return [self._start_one(node_id)]

    def kill(self) -> None:
        """End all actors."""
        for actor in self.handles:
            self._ray.kill(actor)

    def _start_one(self, node_id: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Soft: on another node if this one has died.
        strategy = NodeAffinitySchedulingStrategy(node_id, soft=True)
        kind = self._kind.options(scheduling_strategy=strategy, **self._options)
        actor = kind.remote(self._env)
        self._node_ids[actor] = node_id
        return actor


class _Worker:
    """A Ray actor that runs one function on tasks.

    Parameters
    ----------
    env: the environment to take over.
    """

    def __init__(self, env: WorkerEnv) -> None:
        self._env = env
        self._function: Callable[[Any], Any] | None = None

    def run(self, function_ref: list[Any], task: Any) -> Any:
        """Run one task; ``function_ref`` is a list of one reference to the pickled function.

        Ray does not resolve a reference inside a list, so the function is fetched only once.
        """
        if self._function is None:
            import ray

            self._env.apply()
            self._function = ray.cloudpickle.loads(ray.get(function_ref[0]))
        with limit_threads(self._env.threads):
            return self._function(task)


@dataclass(frozen=True)
class WorkerEnv:
    """The environment that a worker takes over from the calling process.

    Attributes
    ----------
    threads: number of threads to use.
    folder: the working folder.
    versions: library -> version.
    """

    threads: int
    folder: str
    versions: dict[str, str]

    @classmethod
    def current(cls, threads: int) -> WorkerEnv:
        """Describe this process, with the number of threads that its workers use."""
        return cls(threads, str(Path.cwd()), _versions())

    def apply(self) -> None:
        """Check this worker's library versions and change to the caller's folder if it exists.

        Raises
        ------
        CriticalMassError: a library has another version than in the calling process.
        """
        installed = _versions()
        different = [
            f"{name} {installed[name]} instead of {required}"
            for name, required in self.versions.items()
            if installed[name] != required
        ]
        if different:
            raise CriticalMassError(
                f"the worker on {os.uname().nodename} has {', '.join(different)}; install the "
                "same versions on every machine of the cluster"
            )
        if Path(self.folder).is_dir():
            os.chdir(self.folder)


def connect(address: str | None) -> Any:
    """Connect Ray to the cluster at the address, or start workers on this machine; return Ray.

    Raises
    ------
    CriticalMassError: no cluster at the address, or one that refuses this machine's token.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return sys.modules["ray"]
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _check_port(address)
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {
            "num_cpus": thread_count(),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        # Without "local", Ray joins the cluster that was last started on this machine.
        ray.init(address or "local", **options)
    except ray.exceptions.AuthenticationError as error:
        raise token_error(address) from error
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise CriticalMassError(
            f"no Ray cluster at {address!r} ({_first_line(error)}); start one with "
            "'ray start --head', or leave the address out to use this machine's cores"
        ) from error
    # Ray prints messages about its processes to stdout, which is for a command's own output. This
    # is the switch that Ray's debugger uses.
    ray._private.worker._worker_logs_enabled = False
    return ray


def _check_port(address: str) -> None:
    """Check that a cluster accepts connections at HOST:PORT; Ray itself would retry for minutes.

    Raises
    ------
    CriticalMassError: the port is closed, or the cluster refuses this machine's token.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise CriticalMassError(
            f"no Ray cluster at {address!r} ({error}); start one with 'ray start --head', or "
            "leave the address out to use this machine's cores"
        ) from error
    configure_token(address)


def get_result(ray: Any, reference: Any) -> Any:
    """Return a task's result; raise the exception that its function raised.

    Raises
    ------
    WorkerLostError: a worker died, or all that Ray started in its place.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from error
    except ray.exceptions.RayError as error:
        raise WorkerLostError(
            f"a worker of the Ray cluster died again and again ({_first_line(error)}); finished "
            "results are kept: give workers more memory or fewer tasks at once, and run the same "
            "command again"
        ) from error


class ClusterMonitor:
    """Counts the workers of a cluster and warns when nodes died.

    Parameters
    ----------
    ray: the connected module.
    cpus: CPUs of one worker.
    interval: minimum number of seconds between two counts.

    Attributes
    ----------
    workers: number of workers, at least 1.
    """

    def __init__(self, ray: Any, cpus: int, interval: float = _MONITOR_INTERVAL) -> None:
        self._ray, self._cpus, self._interval = ray, cpus, interval
        self._next_count = 0.0
        self._known_nodes: set[str] = set()
        self.workers = 1
        self.update()

    def update(self) -> bool:
        """Count again, unless the last count is less than ``interval`` seconds old.

        Returns
        -------
        Whether the nodes were counted.
        """
        if time.monotonic() < self._next_count:
            return False
        self._next_count = time.monotonic() + self._interval
        nodes = self.nodes()
        alive = {node["NodeID"] for node in nodes}
        lost, self._known_nodes = self._known_nodes - alive, alive
        workers = sum(_worker_count(node, self._cpus) for node in nodes)
        if lost:
            warn_user(
                f"{len(lost)} of the Ray cluster's nodes died, {workers} workers are left; their "
                "unfinished tasks are repeated"
            )
        self.workers = max(1, workers)
        return True

    def nodes(self) -> list[Any]:
        """Return the nodes that are alive."""
        return _alive_nodes(self._ray)


def _alive_nodes(ray: Any) -> list[Any]:
    return [node for node in ray.nodes() if node["Alive"]]


def _worker_count(node: Any, cpus: int) -> int:
    return int(node["Resources"].get("CPU", 0.0) // cpus)


def _check_cpus(ray: Any, cpus: int) -> None:
    counts = (int(node["Resources"].get("CPU", 0.0)) for node in _alive_nodes(ray))
    largest = max(counts, default=0)
    if largest < cpus:
        raise CriticalMassError(
            f"workers of {cpus} CPUs are requested, but no node of the Ray cluster has more than "
            f"{largest}; ask for fewer (--ray-cpus)"
        )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def configure_token(address: str) -> None:
    """Make Ray send this machine's token if the cluster at HOST:PORT asks for one.

    Call this before Ray is imported. If the cluster's answer is unclear, nothing is changed.

    Raises
    ------
    CriticalMassError: the cluster asks for a token, and this machine has none or another one.
    """
    if _connection_status(address) != REFUSED:
        return
    if not os.environ.get(_AUTH_MODE) and _connection_status(address, auth_mode="token") == 0:
        os.environ[_AUTH_MODE] = "token"
        return
    raise token_error(address)


def token_error(address: str | None) -> CriticalMassError:
    """Return the error that says where to put a cluster's token."""
    mode = os.environ.get(_AUTH_MODE, "")
    also = f", and leave out {_AUTH_MODE}={mode}" if mode not in ("", "token") else ""
    return CriticalMassError(
        f"the Ray cluster at {address!r} asks for a token, and this machine has none or another; "
        "put the token of its first machine ('ray get-auth-token' prints it there) into "
        f"RAY_AUTH_TOKEN or the file ~/.ray/auth_token{also}"
    )


def _connection_status(
    address: str, auth_mode: str | None = None, module: str = _HANDSHAKE
) -> int | None:
    """Return the exit status of the handshake in a child process: 0 if the cluster accepts it.

    None if the process cannot start or does not end in time. See
    `criticalmass.core.ray_handshake`.
    """
    env = os.environ if auth_mode is None else os.environ | {_AUTH_MODE: auth_mode}
    command = [sys.executable, "-P", "-m", module, address]
    try:
        process = subprocess.run(
            command, env=env, capture_output=True, timeout=_HANDSHAKE_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.returncode
