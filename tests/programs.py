"""Run modules as programs, in processes of their own."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
_LIMIT = 600.0


def run_alone(module: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run ``python -m MODULE ARGUMENTS`` in the folder of the repository; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], env={**os.environ, **(env or {})},
        cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def run_program(module: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run the same in a process that a server with the usual imports has started; it starts fast.

    A sweep in it draws few further subsets, as in these tests. Not for a program that starts
    processes of torch, or that measures the memory of those it starts.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.preloaded"])
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = context.Process(target=_run, args=(module, arguments, env or {}, out, err))
        process.start()
        process.join(_LIMIT)
        if process.exitcode is None:
            process.kill()
            process.join()
        printed, errors = (path.read_text(encoding="utf-8") for path in (out, err))
        assert process.exitcode == 0, printed[-3000:] + errors[-3000:]
        process.close()
    return printed


def _run(
    module: str, arguments: tuple[str, ...], env: Mapping[str, str], out: Path, err: Path
) -> None:
    for stream, path in ((1, out), (2, err)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream)
    # Where a program that is killed for taking too long has stopped is shown by the failure.
    faulthandler.dump_traceback_later(0.9 * _LIMIT, file=sys.stderr)
    from criticalmass.sweeps import draw_spread

    draw_spread.FEWEST = draw_spread.MOST = 3
    os.chdir(ROOT)
    os.environ.update(env)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
