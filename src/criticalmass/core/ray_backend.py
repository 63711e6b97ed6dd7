"""Work on a Ray cluster, or on this machine's cores in processes of their own.

Tasks go to whichever worker is free; the function goes to each worker once. What a worker or its
node had not finished when it died is done again elsewhere by Ray. Results come back to the
caller, who is the only one that writes.
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

from criticalmass.core.progress import notice
from criticalmass.core.threads import limit_threads, thread_count
from criticalmass.errors import CriticalMassError, missing_extra

Task = TypeVar("Task")

Result = TypeVar("Result")

#: Times that a task is begun again after its worker or node died.
RETRIES = 5

# The versions that decide the numbers: a worker with others would give other bytes.
_LIBRARIES = ("criticalmass", "numpy", "scipy", "numba", "scikit-learn")

# Room for results that wait to be fetched, when this process starts Ray itself.
_STORE_BYTES = 256 << 20

# Ray reports its use over the network unless told not to; it would also hide GPUs from workers
# that ask for none, and warns that it will stop doing so.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

_LOOK_SECONDS = 5.0

_KNOCK_SECONDS = 20.0


@dataclass(frozen=True)
class Ray:
    """Runs tasks on the workers of a Ray cluster.

    Parameters
    ----------
    address: of a running cluster, ``"HOST:PORT"`` or ``"auto"``; None: what the variable
        ``RAY_ADDRESS`` says, and without it workers on this machine's cores. A process that is
        connected to Ray already stays where it is.
    cpus: threads of each worker. The same number gives the same bytes, whatever the cluster.
    retries: times that a task is begun again after its worker or node died.
    """

    address: str | None = None
    cpus: int = 1
    retries: int = RETRIES

    def __post_init__(self) -> None:
        """Check the numbers, and that Ray is installed.

        Raises
        ------
        CriticalMassError: for a number that is none.
        MissingExtraError: without Ray.
        """
        if self.cpus < 1:
            raise CriticalMassError(f"cpus={self.cpus}; give a worker at least 1")
        if self.retries < 0:
            raise CriticalMassError(f"retries={self.retries}; give 0 or more")
        if importlib.util.find_spec("ray") is None:
            raise missing_extra("ray", "ray")

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task, each as soon as it is there.

        Raises
        ------
        CriticalMassError: no cluster at the address, no node with that many CPUs, a worker that
            cannot run the function, or a task whose workers died more often than ``retries``.
        """
        ray = connect(self.address)
        _check_cpus(ray, self.cpus)
        # Workers are spread, so that a node that dies takes few tasks with it.
        worker = ray.remote(_work).options(
            num_cpus=self.cpus, max_retries=self.retries, scheduling_strategy="SPREAD"
        )
        surroundings = ray.put(Surroundings.here(self.cpus))
        carried = ray.put(function)
        return self._results(ray, lambda task: worker.remote(surroundings, carried, task), tasks)

    def _results(
        self, ray: Any, begin: Callable[[Task], Any], tasks: Iterable[Task]
    ) -> Iterator[Any]:
        """Keep twice as many tasks begun as there are workers, and hand out what is done."""
        rest = iter(tasks)
        watch = Watch(ray, self.cpus)
        begun = [begin(task) for task in islice(rest, 2 * watch.workers)]
        try:
            while begun:
                done, begun = ray.wait(begun, timeout=_LOOK_SECONDS)
                watch.look()
                begun += [begin(task) for task in islice(rest, 2 * watch.workers - len(begun))]
                for reference in done:
                    yield fetch(ray, reference)
        finally:
            for reference in begun:
                ray.cancel(reference, force=True)


@dataclass(frozen=True)
class Surroundings:
    """What a worker shares with the process that asks it.

    Attributes
    ----------
    threads: to use.
    folder: where relative paths start.
    versions: library -> version.
    """

    threads: int
    folder: str
    versions: dict[str, str]

    @classmethod
    def here(cls, threads: int) -> Surroundings:
        """Describe this process."""
        return cls(threads, str(Path.cwd()), _versions())

    def enter(self) -> None:
        """Make a worker like the process that asks it.

        Raises
        ------
        CriticalMassError: its libraries are of other versions.
        """
        mine = _versions()
        other = [
            f"{name} {mine[name]} for {v}" for name, v in self.versions.items() if mine[name] != v
        ]
        if other:
            raise CriticalMassError(
                f"the worker on {os.uname().nodename} has {', '.join(other)}; install the same "
                "versions on every machine of the cluster"
            )
        if Path(self.folder).is_dir():
            os.chdir(self.folder)


def connect(address: str | None) -> Any:
    """Return Ray, connected: to the address, or to workers that are started on this machine.

    Raises
    ------
    CriticalMassError: nothing answers at the address, or asks for a token that is not here.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return sys.modules["ray"]
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _knock(address)
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
        # Without "local", Ray would join whatever cluster was last started on this machine.
        ray.init(address or "local", **options)
    except ray.exceptions.AuthenticationError as error:
        raise without_token(address) from error
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise CriticalMassError(
            f"no Ray cluster at {address!r} ({_first_line(error)}); start one with "
            "'ray start --head', or leave the address out to use this machine's cores"
        ) from error
    # Ray prints what befalls its processes to stdout, where a command's own output goes; this is
    # the switch that its debugger uses.
    ray._private.worker._worker_logs_enabled = False
    return ray


def _knock(address: str) -> None:
    """See whether anybody listens at HOST:PORT, and to us; Ray itself would try for minutes.

    Raises
    ------
    CriticalMassError: nobody does, or not without a token.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise CriticalMassError(
            f"no Ray cluster at {address!r} ({error}); start one with 'ray start --head', or "
            "leave the address out to use this machine's cores"
        ) from error
    settle_token(address)


def fetch(ray: Any, reference: Any) -> Any:
    """Get a result, or raise what its function raised, as if it had been called here.

    Raises
    ------
    CriticalMassError: Ray gave up on the task.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from error
    except ray.exceptions.RayError as error:
        raise CriticalMassError(
            f"a worker of the Ray cluster died again and again ({_first_line(error)}); what is "
            "finished is kept: give workers more memory or fewer tasks at once, and run the same "
            "command again"
        ) from error


def _work(surroundings: Surroundings, function: Callable[[Task], Result], task: Task) -> Result:
    """Do one task, in a worker."""
    surroundings.enter()
    with limit_threads(surroundings.threads):
        return function(task)


class Watch:
    """How many workers there are; tells when nodes died, and when none is left."""

    def __init__(self, ray: Any, cpus: int) -> None:
        self._ray, self._cpus = ray, cpus
        self._next = 0.0
        self._known: set[str] = set()
        self.workers = 1
        self.look()

    def look(self) -> None:
        """Count again, unless that was done a moment ago."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK_SECONDS
        nodes = self.nodes()
        alive = {node["NodeID"] for node in nodes}
        lost, self._known = self._known - alive, alive
        workers = sum(_workers(node, self._cpus) for node in nodes)
        if lost:
            notice(
                f"{len(lost)} of the Ray cluster's nodes died, {workers} workers are left; what "
                "they had not finished is done again"
            )
        self.workers = max(1, workers)

    def nodes(self) -> list[Any]:
        """Return the nodes that are alive."""
        return [node for node in self._ray.nodes() if node["Alive"]]


def _workers(node: Any, cpus: int) -> int:
    return int(node["Resources"].get("CPU", 0.0) // cpus)


def _check_cpus(ray: Any, cpus: int) -> None:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    most = max((int(node["Resources"].get("CPU", 0.0)) for node in nodes), default=0)
    if most < cpus:
        raise CriticalMassError(
            f"workers of {cpus} CPUs are asked for, but no node of the Ray cluster has more than "
            f"{most}; ask for fewer (--ray-cpus)"
        )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


_MODE = "RAY_AUTH_MODE"

_ASK = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    sys.exit(3)
"""

_REFUSED = 3

_SECONDS = 30.0


def settle_token(address: str) -> None:
    """Send this machine's token if the cluster at HOST:PORT asks for one.

    To be called before Ray is imported. What cannot be found out is left to Ray.

    Raises
    ------
    CriticalMassError: the cluster asks for a token, and none is here, or another one.
    """
    if _answer(address) != _REFUSED:
        return
    if not os.environ.get(_MODE) and _answer(address, mode="token") == 0:
        os.environ[_MODE] = "token"
        return
    raise without_token(address)


def without_token(address: str | None) -> CriticalMassError:
    """Return the error that says where a cluster's token belongs."""
    told = os.environ.get(_MODE, "")
    also = f", and leave out {_MODE}={told}" if told not in ("", "token") else ""
    return CriticalMassError(
        f"the Ray cluster at {address!r} asks for a token, and this machine has none, or another; "
        "put that of its first machine ('ray get-auth-token' prints it there) into RAY_AUTH_TOKEN "
        f"or the file ~/.ray/auth_token{also}"
    )


def _answer(address: str, mode: str | None = None) -> int | None:
    """Return how a client with these settings ends: 0 if it is let in; None: it does not."""
    environment = os.environ if mode is None else os.environ | {_MODE: mode}
    command = [sys.executable, "-P", "-c", _ASK, address]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode
