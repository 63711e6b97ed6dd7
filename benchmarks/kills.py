"""Commands killed at random moments: ``python -m benchmarks.kills --count 200 --dir DIR``.

Runs real commands in child processes, kills each with SIGKILL at a random moment, and runs the same
command again. The files are then compared byte for byte with those of a command that was not
killed. Half of the moments are random times. The other half are the n-th time that the command
opens, renames or removes a file of its folder, because the critical moments lie between two files
and are too short for a random time. In every third round the second command is killed as well.

Times are not compared: the column ``seconds`` of a run's table, the time stamps of manifests, and
``steps.csv`` of a study, and ``timing.json`` of a training.
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

_VARYING_KEYS = ("created", "written", "finished", "seal")
_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")
_SHARD_ROWS = 64
_DRAWN_SUBSETS = 3
_TIMEOUT = 600


@dataclass(frozen=True)
class KilledCommand:
    """A command to kill; ``{out}`` is the folder it writes, ``{input}`` its input."""

    name: str
    words: tuple[str, ...]


_SWEEP_OPTIONS = (
    *("--selector", "random", "--selector", "leverage", "--selector", "pca-top"),
    *("--measure", "logistic", "--measure", "ridge", "--measure", "cka"),
    *("--fraction", "0.05", "--fraction", "0.2", "--fraction", "0.5", "--fraction", "1"),
    *("--seeds", "3"),
)
COMMANDS: Mapping[str, KilledCommand] = {
    "extract": KilledCommand(
        "extract",
        ("extract", "pypi:efficientnet-lite0", "sklearn:digits?n=600", "--out", "{out}"),
    ),
    "sweep": KilledCommand("sweep", ("sweep", "{input}", "--out", "{out}", *_SWEEP_OPTIONS)),
    "shrink": KilledCommand(
        "shrink",
        (
            *("shrink", "{input}", "--keep", "0.8", "--out", "{out}"),
            *("--selector", "random", "--selector", "leverage", "--measure", "ridge"),
        ),
    ),
    "study": KilledCommand("study", ("study", "{input}.yaml", "--out", "{out}", "--no-pages")),
    "train": KilledCommand("train", ("train", "{input}.recipe.yaml", "--out", "{out}")),
}
QUICK_EXTRACT = KilledCommand(
    "extract",
    (
        *("extract", "timm:test_resnet?init=random&px=32", "sklearn:digits?n=300"),
        *("--engine", "torch", "--out", "{out}"),
    ),
)
_RECIPE = """\
network: {width: 4, neurons: 16, pixels: 8}
data: {dataset: "sklearn:digits?n=100", augment: crop}
objectives: [cross-entropy, dropout]
optimizer: {batch: 32}
epochs: 4
checkpoints: [2]
"""
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
    """Counts of the kills of a command, and the failures.

    Attributes
    ----------
    kills: processes killed; ``at_files`` of them at a file of their folder.
    too_late: commands that ended before they were killed; they do not count as kills.
    failures: descriptions of lost or different files; empty if nothing was lost.
    """

    kills: int = 0
    at_files: int = 0
    too_late: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """The files of a command that is not killed, its time and its number of file events."""

    files: Mapping[str, str]
    seconds: float
    n_events: int


def fingerprint(folder: Path) -> dict[str, str]:
    """Return relative path -> SHA-256 of every file of a folder, without times."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("steps.csv", "timing.json"):
            content = _without_times(path)
            digests[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return digests


def _without_times(path: Path) -> bytes:
    if path.name == "results.parquet":
        table = pd.read_parquet(path).drop(columns="seconds", errors="ignore")
        return "\n".join(table.map(repr).agg(" ".join, axis=1)).encode()
    if path.name == "manifest.json":
        manifest = json.loads(path.read_text())
        return json.dumps({k: v for k, v in manifest.items() if k not in _VARYING_KEYS}).encode()
    return path.read_bytes()


def _run_child(words: Sequence[str], out: str, log: str, fatal_event: int, count_file: str) -> None:
    """Run one command in this process, which kills itself at file event ``fatal_event``.

    The number of file events is written to ``count_file``.
    """
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from criticalmass.cli.main import main
    from criticalmass.storage import features_writer
    from criticalmass.sweeps import draw_spread

    # Small shards, so that there are many moments to interrupt; the subsets drawn beyond a sweep's
    # own write no file before they end, and would take most of its time.
    features_writer.StoreWriter.shard_rows = _SHARD_ROWS
    draw_spread.FEWEST = draw_spread.MOST = _DRAWN_SUBSETS
    n_events = 0

    def count_event(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal n_events
        if event in _EVENTS and str(arguments[0]).startswith(out):
            n_events += 1
            if n_events == fatal_event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count_event)
    try:
        main(words)
    finally:
        Path(count_file).write_text(str(n_events))


@dataclass(frozen=True)
class CommandRunner:
    """Runs and kills one command in a folder."""

    command: KilledCommand
    input_path: Path
    folder: Path

    @property
    def out(self) -> Path:
        """The folder that the command writes."""
        return self.folder / "out"

    def start(self, fatal_event: int = 0) -> BaseProcess:
        """Start the command; it kills itself at a file event unless ``fatal_event`` is 0."""
        words = [word.format(out=self.out, input=self.input_path) for word in self.command.words]
        log, count_file = str(self.folder / "log"), str(self.folder / "events")
        context = multiprocessing.get_context("forkserver")
        process = context.Process(
            target=_run_child,
            args=(words, str(self.out), log, fatal_event, count_file),
            daemon=True,
        )
        process.start()
        return process

    def finish(self) -> str:
        """Run the command to its end; return the failure as text, or an empty text."""
        process = self.start()
        process.join(_TIMEOUT)
        if process.exitcode == 0:
            return ""
        process.kill()
        process.join()
        lines = (self.folder / "log").read_text().splitlines()[-3:]
        return f"{self.command.name} ended with {process.exitcode}: {' / '.join(lines)}"

    def clear(self) -> None:
        """Remove the files of earlier commands."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def reference(self, repeats: int = 2) -> Reference:
        """Run the command without a kill, usually twice; the time is that of the last run."""
        digests: list[dict[str, str]] = []
        for _ in range(repeats):
            self.clear()
            start = time.perf_counter()
            failure = self.finish()
            if failure:
                raise SystemExit(failure)
            seconds = time.perf_counter() - start
            digests.append(fingerprint(self.out))
        changed = _differences(digests[0], digests[-1])
        if changed:
            raise SystemExit(f"{self.command.name} is not deterministic: {', '.join(changed)}")
        return Reference(digests[-1], seconds, int((self.folder / "events").read_text()))

    def kill(self, reference: Reference, rng: np.random.Generator, at_file: bool) -> bool:
        """Start the command and kill it at a random moment; return whether it was running."""
        if at_file:
            process = self.start(fatal_event=int(rng.integers(1, reference.n_events + 1)))
            process.join(_TIMEOUT)
            return process.exitcode == -signal.SIGKILL
        process = self.start()
        process.join(float(rng.uniform(0, reference.seconds)))
        process.kill()
        process.join()
        return process.exitcode == -signal.SIGKILL


def _differences(expected: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in actual]
    extra = [f"{name} is left over" for name in actual if name not in expected]
    common = [name for name in expected if name in actual]
    changed = [f"{name} differs" for name in common if expected[name] != actual[name]]
    return missing + extra + changed


def make_input(folder: Path) -> Path:
    """Make the input of the commands: a store of 1,797 digits as vectors, and a study file."""
    from sklearn.datasets import load_digits

    from criticalmass.extraction.importing import import_features

    x, y = load_digits(return_X_y=True)
    store = import_features(x.astype(np.float32), out=folder / "features", labels=y)
    Path(f"{store.path}.yaml").write_text(_STUDY)
    Path(f"{store.path}.recipe.yaml").write_text(_RECIPE)
    return store.path


def kill_repeatedly(
    runner: CommandRunner, count: int, rng: np.random.Generator, repeats: int
) -> Iterator[Tally]:
    """Kill a command until there are ``count`` kills; yield the tally after each round."""
    reference = runner.reference(repeats)
    tally = Tally()
    round_number = 0
    while tally.kills < count:
        runner.clear()
        round_number += 1
        at_file = round_number % 2 == 0
        for _ in range(2 if round_number % 3 == 0 else 1):
            if runner.kill(reference, rng, at_file):
                tally.kills += 1
                tally.at_files += at_file
            else:
                tally.too_late += 1
        failure = runner.finish()
        failures = [failure] if failure else _differences(reference.files, fingerprint(runner.out))
        tally.failures += [f"round {round_number}: {text}" for text in failures]
        yield tally


def main(argv: Sequence[str] | None = None) -> int:
    """Kill each command and print the counts; return 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="scratch folder")
    parser.add_argument("--count", type=int, default=200, help="total number of kills")
    parser.add_argument(
        "--only", action="append", choices=sorted(COMMANDS), help="one of the commands"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="a very small network, and commands run once first"
    )
    options = parser.parse_args(argv)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.preloaded"])
    context.Process(target=int).start()  # so that no time of a command contains these imports
    input_path = make_input(options.dir)
    commands = [COMMANDS[name] for name in options.only or COMMANDS]
    if options.quick:
        commands = [QUICK_EXTRACT if one.name == "extract" else one for one in commands]
    n_failures = 0
    for index, command in enumerate(commands):
        share = options.count // len(commands) + (index < options.count % len(commands))
        tally = Tally()
        runner = CommandRunner(command, input_path, options.dir / command.name)
        rng = np.random.default_rng([options.seed, index])
        for tally in kill_repeatedly(runner, share, rng, 1 if options.quick else 2):
            print(f"\r{command.name}: {tally.kills} of {share}", end="", file=sys.stderr)
        print(file=sys.stderr)
        print(
            f"{command.name}: {tally.kills} kills survived ({tally.at_files} at a file), "
            f"{tally.too_late} came too late, {len(tally.failures)} failures"
        )
        for text in tally.failures:
            print(f"  {text}")
        n_failures += len(tally.failures)
    return 1 if n_failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
