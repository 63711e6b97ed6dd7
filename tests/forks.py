"""Run code in processes that start fast: copies of one that has imported large libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

_SERVER = "from tests.forks import serve; serve()"
_ROOT = Path(__file__).parent.parent


class ForkServer:
    """A process that imports libraries once and runs code in copies of itself.

    A copy has what a new interpreter has that imported these libraries first: modules, working
    folder and names of its own, and nothing of the process of the tests. This package is not
    imported in it.

    Parameters
    ----------
    imports: code that the server runs before its first copy.
    env: added to the environment.
    """

    def __init__(self, imports: str, env: dict[str, str]) -> None:
        path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            env={**os.environ, **env, "PYTHONPATH": path.rstrip(os.pathsep)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._ask({"imports": imports}) == 0

    def run(self, code: str, folder: Path) -> str:
        """Run code in a folder, as ``python -c`` does; return what it prints."""
        with tempfile.TemporaryDirectory() as scratch:
            out, err = Path(scratch, "out"), Path(scratch, "err")
            status = self._ask(
                {"code": code, "folder": str(folder), "out": str(out), "err": str(err)}
            )
            assert status == 0, f"{status}: {err.read_text(encoding='utf-8')[-2000:]}"
            return out.read_text(encoding="utf-8")

    def close(self) -> None:
        """End the server."""
        self._process.communicate()

    def _ask(self, request: dict[str, str]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def serve() -> None:
    """Answer requests of standard input, one a line, with exit statuses."""
    answers = os.fdopen(os.dup(1), "w")
    # What the libraries print is no answer.
    os.dup2(2, 1)
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        if "imports" in request:
            exec(request["imports"], {"__name__": "__main__"})  # noqa: S102
            status = int("criticalmass" in sys.modules)
        elif child := os.fork():
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            _run(request)
        answers.write(f"{status}\n")
        answers.flush()


def _run(request: dict[str, Any]) -> None:
    """Run the code of a request in this copy of the server, and end it."""
    status = 1
    try:
        for stream, name in ((1, "out"), (2, "err")):
            with open(request[name], "wb") as file:
                os.dup2(file.fileno(), stream)
        os.chdir(request["folder"])
        sys.path.insert(0, "")
        exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
        status = 0
    except BaseException:  # noqa: BLE001 - whatever the code raises, the copy ends here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
