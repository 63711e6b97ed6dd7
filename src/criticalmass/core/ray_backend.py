"""Run tasks on a Ray cluster, or on this machine's cores in separate processes.

Tasks go to whichever worker is free. The function is sent to the cluster once. Ray repeats the
unfinished tasks of a worker or node that died on another one. Results return to the caller, and
only the caller writes files.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
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

_CONNECT_TIMEOUT = 20.0

_AUTH_MODE = "RAY_AUTH_MODE"

_HANDSHAKE = "criticalmass.core.ray_handshake"

_HANDSHAKE_TIMEOUT = 30.0


@dataclass(frozen=True)
class Ray:
    """Runs tasks on the workers of a Ray cluster.

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

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task, each as soon as it completes.

        Raises
        ------
        CriticalMassError: no cluster at the address, no node with ``cpus`` CPUs, a worker that
            cannot run the function, or a task whose workers died more often than ``retries``.
        """
        ray = connect(self.address)
        _check_cpus(ray, self.cpus)
        # With tasks spread over the nodes, few are lost when one node dies.
        worker = ray.remote(_run_task).options(
            num_cpus=self.cpus, max_retries=self.retries, scheduling_strategy="SPREAD"
        )
        env = ray.put(WorkerEnv.current(self.cpus))
        function_ref = ray.put(function)
        return self._results(ray, lambda task: worker.remote(env, function_ref, task), tasks)

    def _results(
        self, ray: Any, start: Callable[[Task], Any], tasks: Iterable[Task]
    ) -> Iterator[Any]:
        """Keep twice as many tasks started as there are workers; yield results as they complete."""
        remaining = iter(tasks)
        monitor = ClusterMonitor(ray, self.cpus)
        pending = [start(task) for task in islice(remaining, 2 * monitor.workers)]
        try:
            while pending:
                done, pending = ray.wait(pending, timeout=_MONITOR_INTERVAL)
                monitor.update()
                n_free = max(0, 2 * monitor.workers - len(pending))
                pending += [start(task) for task in islice(remaining, n_free)]
                for reference in done:
                    yield get_result(ray, reference)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


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
    CriticalMassError: Ray gave up on the task because its workers died.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from error
    except ray.exceptions.RayError as error:
        raise CriticalMassError(
            f"a worker of the Ray cluster died again and again ({_first_line(error)}); finished "
            "results are kept: give workers more memory or fewer tasks at once, and run the same "
            "command again"
        ) from error


def _run_task(env: WorkerEnv, function: Callable[[Task], Result], task: Task) -> Result:
    """Run one task in a worker."""
    env.apply()
    with limit_threads(env.threads):
        return function(task)


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

    def update(self) -> None:
        """Count again, unless the last count is less than ``interval`` seconds old."""
        if time.monotonic() < self._next_count:
            return
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
