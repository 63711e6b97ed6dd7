"""Modules that run as programs in processes of their own, which share the imports of one server."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
_LIMIT = 600.0


def run_program(module: str, *arguments: str) -> str:
    """Run ``python -m MODULE ARGUMENTS`` in the folder of the repository; return what it prints.

    A sweep in it draws few further subsets, as in these tests.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.preloaded"])
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = context.Process(target=_run, args=(module, arguments, out, err))
        process.start()
        process.join(_LIMIT)
        if process.exitcode is None:
            process.kill()
            process.join()
        printed = out.read_text(encoding="utf-8")
        assert process.exitcode == 0, printed[-3000:] + err.read_text(encoding="utf-8")[-3000:]
        process.close()
    return printed


def _run(module: str, arguments: tuple[str, ...], out: Path, err: Path) -> None:
    for stream, path in ((1, out), (2, err)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream)
    from criticalmass.sweeps import draw_spread

    draw_spread.FEWEST = draw_spread.MOST = 3
    os.chdir(ROOT)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
