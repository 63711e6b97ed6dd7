"""Killed at any moment: ``python -m benchmarks.kills --count 200 --dir DIR``.

Runs real commands in child processes, kills each with SIGKILL at a random moment, gives the same
command again, and compares what then lies in the folder with what a command left that nobody
killed: every file byte for byte. Half of the moments are random times; the other half are the
n-th time the command opens, renames or removes a file of its folder, because the dangerous
moments lie between two files and are too short to be hit by the clock. Every third time the
command that takes up the work is killed as well.

What is not compared, because it tells the time: the column ``seconds`` of a run's table, the time
stamps of manifests, and ``steps.csv`` of a study.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas as pd

_PRELOADED = (
    "criticalmass.cli.main",
    "criticalmass.sweeps.sweep",
    "criticalmass.shrinking.shrink",
    "torch",
    "openvino",
    "sklearn.linear_model",
)
_STAMPS = ("created", "written", "finished", "seal")
_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")
_SHARD_ROWS = 64
_PATIENCE = 600


@dataclass(frozen=True)
class Work:
    """A command to kill; ``{out}`` stands for the folder it writes, ``{given}`` for its input."""

    name: str
    command: tuple[str, ...]


_SWEPT = (
    *("--selector", "random", "--selector", "leverage", "--selector", "pca-top"),
    *("--measure", "logistic", "--measure", "ridge", "--measure", "cka"),
    *("--fraction", "0.05", "--fraction", "0.2", "--fraction", "0.5", "--fraction", "1"),
    *("--seeds", "3"),
)
WORKS: Mapping[str, Work] = {
    "extract": Work(
        "extract",
        ("extract", "pypi:efficientnet-lite0", "sklearn:digits?n=600", "--out", "{out}"),
    ),
    "sweep": Work("sweep", ("sweep", "{given}", "--out", "{out}", *_SWEPT)),
    "shrink": Work(
        "shrink",
        (
            *("shrink", "{given}", "--keep", "0.8", "--out", "{out}"),
            *("--selector", "random", "--selector", "leverage", "--measure", "ridge"),
        ),
    ),
    "study": Work("study", ("study", "{given}.yaml", "--out", "{out}", "--no-pages")),
}
_STUDY = """\
question: Is anything lost?
models: ["timm:test_resnet?init=random&px=32"]
datasets: ["sklearn:digits?n=300"]
selectors: [random, pca-top]
measures: [ridge, cka]
fractions: [0.1, 0.5, 1.0]
seeds: 2
"""


@dataclass
class Tally:
    """What a work survived.

    Attributes
    ----------
    kills: processes killed, of them ``at_files`` at a file of their folder.
    too_late: moments that came after the command had ended; they do not count as kills.
    trouble: what went wrong, in words; empty if nothing was lost.
    """

    kills: int = 0
    at_files: int = 0
    too_late: int = 0
    trouble: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """What a command leaves that nobody kills, how long it takes and how many files it touches."""

    files: Mapping[str, str]
    seconds: float
    events: int


def fingerprint(folder: Path) -> dict[str, str]:
    """Digest every file of a folder: relative path -> SHA-256, without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "steps.csv":
            content = _without_times(path)
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def _without_times(path: Path) -> bytes:
    if path.name == "results.parquet":
        table = pd.read_parquet(path).drop(columns="seconds")
        return "\n".join(table.map(repr).agg(" ".join, axis=1)).encode()
    if path.name == "manifest.json":
        manifest = json.loads(path.read_text())
        return json.dumps({k: v for k, v in manifest.items() if k not in _STAMPS}).encode()
    return path.read_bytes()


def _child(command: Sequence[str], out: str, log: str, fatal: int, told: str) -> None:
    """Run one command in this process; at file event number ``fatal`` it kills itself."""
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from criticalmass.cli.main import main
    from criticalmass.storage import features_writer

    # Many shards, so that there is much to interrupt.
    features_writer.SHARD_ROWS = _SHARD_ROWS
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in _EVENTS and str(arguments[0]).startswith(out):
            seen += 1
            if seen == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    try:
        main(command)
    finally:
        Path(told).write_text(str(seen))


@dataclass(frozen=True)
class Ring:
    """Where commands run and are killed."""

    work: Work
    given: Path
    folder: Path

    @property
    def out(self) -> Path:
        """The folder that the command writes."""
        return self.folder / "out"

    def start(self, fatal: int = 0) -> BaseProcess:
        """Start the command."""
        command = [part.format(out=self.out, given=self.given) for part in self.work.command]
        log, told = str(self.folder / "log"), str(self.folder / "events")
        context = multiprocessing.get_context("forkserver")
        process = context.Process(
            target=_child, args=(command, str(self.out), log, fatal, told), daemon=True
        )
        process.start()
        return process

    def finish(self) -> str:
        """Run the command to its end; -> what went wrong, or nothing."""
        process = self.start()
        process.join(_PATIENCE)
        if process.exitcode == 0:
            return ""
        process.kill()
        process.join()
        lines = (self.folder / "log").read_text().splitlines()[-3:]
        return f"{self.work.name} ended with {process.exitcode}: {' / '.join(lines)}"

    def clear(self) -> None:
        """Remove what earlier commands left."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def reference(self) -> Reference:
        """Run the command twice, undisturbed; the second time tells how long it takes."""
        found: list[dict[str, str]] = []
        for _ in range(2):
            self.clear()
            start = time.perf_counter()
            trouble = self.finish()
            if trouble:
                raise SystemExit(trouble)
            seconds = time.perf_counter() - start
            found.append(fingerprint(self.out))
        changed = _differences(found[0], found[1])
        if changed:
            raise SystemExit(f"{self.work.name} is not deterministic: {', '.join(changed)}")
        return Reference(found[1], seconds, int((self.folder / "events").read_text()))

    def kill(self, reference: Reference, rng: np.random.Generator, at_file: bool) -> bool:
        """Start the command and kill it at a random moment; -> whether it was still alive."""
        if at_file:
            process = self.start(fatal=int(rng.integers(1, reference.events + 1)))
            process.join(_PATIENCE)
            return process.exitcode == -signal.SIGKILL
        process = self.start()
        process.join(float(rng.uniform(0, reference.seconds)))
        process.kill()
        process.join()
        return process.exitcode == -signal.SIGKILL


def _differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    lost = [f"{name} is lost" for name in wanted if name not in found]
    more = [f"{name} is left over" for name in found if name not in wanted]
    other = [f"{n} differs" for n in wanted if n in found and wanted[n] != found[n]]
    return lost + more + other


def vectors(folder: Path) -> Path:
    """Make what commands read: scikit-learn's digits as 1,797 vectors, and a study beside them."""
    from sklearn.datasets import load_digits

    from criticalmass.extraction.importing import import_features

    x, y = load_digits(return_X_y=True)
    store = import_features(x.astype(np.float32), out=folder / "features", labels=y)
    Path(f"{store.path}.yaml").write_text(_STUDY)
    return store.path


def killed(ring: Ring, count: int, rng: np.random.Generator) -> Iterator[Tally]:
    """Kill a work until ``count`` kills are there; yields the tally after each round."""
    reference = ring.reference()
    tally = Tally()
    turn = 0
    while tally.kills < count:
        ring.clear()
        turn += 1
        at_file = turn % 2 == 0
        for _ in range(2 if turn % 3 == 0 else 1):
            if ring.kill(reference, rng, at_file):
                tally.kills += 1
                tally.at_files += at_file
            else:
                tally.too_late += 1
        trouble = ring.finish()
        said = [trouble] if trouble else _differences(reference.files, fingerprint(ring.out))
        tally.trouble += [f"round {turn}: {text}" for text in said]
        yield tally


def main(argv: Sequence[str] | None = None) -> int:
    """Kill each work, print what it survived; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="scratch folder")
    parser.add_argument("--count", type=int, default=200, help="kills in all")
    parser.add_argument("--only", action="append", choices=sorted(WORKS), help="one of the works")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_PRELOADED))
    given = vectors(asked.dir)
    works = [WORKS[name] for name in asked.only or WORKS]
    lost = 0
    for place, work in enumerate(works):
        share = asked.count // len(works) + (place < asked.count % len(works))
        tally = Tally()
        ring = Ring(work, given, asked.dir / work.name)
        for tally in killed(ring, share, np.random.default_rng([asked.seed, place])):
            print(f"\r{work.name}: {tally.kills} of {share}", end="", file=sys.stderr)
        print(file=sys.stderr)
        print(
            f"{work.name}: {tally.kills} kills survived ({tally.at_files} at a file), "
            f"{tally.too_late} came too late, {len(tally.trouble)} troubles"
        )
        for text in tally.trouble:
            print(f"  {text}")
        lost += len(tally.trouble)
    return 1 if lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
