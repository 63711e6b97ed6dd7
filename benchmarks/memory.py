"""Memory of a sweep over more features than fit: ``python -m benchmarks.memory --dir DIR``.

Makes a float16 store in DIR (about 2 GB at the default size; taken up again if it is there),
sweeps it in a child process and prints that process's peak resident memory and its time. Pages
of the store that the system keeps mapped count as resident though they can be dropped at any
moment; the anonymous part, sampled while the sweep runs, cannot.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.problems import Generator, Labels, Matrix, Recipe
from benchmarks.timing import machine, tell
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.features_writer import SplitInfo, StoreWriter

_LAYER = "penultimate"
_SHARD_ROWS = 8192
_TARGET = 3.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Footprint:
    """What a child process used: peaks in GiB (nan where the system does not tell), seconds."""

    resident: float
    anonymous: float
    wall: float
    cpu: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the store, sweep it in a child, print the table."""
    asked = _parse(arguments)
    if asked.sweep is not None:
        _sweep(asked)
        return
    rows, width, test = (2_000, 32, 200) if asked.quick else (asked.rows, asked.neurons, asked.test)
    recipe = Recipe(rows, test, width, 10)
    store = asked.dir / f"store-{rows}x{width}"
    make_store(recipe, store)
    with tempfile.TemporaryDirectory(dir=asked.dir) as out:
        command = [sys.executable, "-m", "benchmarks.memory", "--dir", str(asked.dir)]
        command += ["--sweep", str(store), str(Path(out) / "run")]
        command += ["--fractions", *map(str, asked.fractions), "--measures", *asked.measures]
        command += ["--seeds", str(asked.seeds)]
        found = measure(command, asked.limit)
    print(render(recipe, asked, found))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder for the store")
    parser.add_argument("--rows", type=int, default=500_000, help="training samples")
    parser.add_argument("--neurons", type=int, default=2_048)
    parser.add_argument("--test", type=int, default=10_000, help="test samples")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.01, 0.1, 0.5])
    parser.add_argument("--measures", nargs="+", default=["logistic", "cka"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--limit", type=float, help="limit of address space in GB (10**9 bytes)")
    parser.add_argument("--quick", action="store_true", help="a tiny store, to see that it runs")
    parser.add_argument("--sweep", nargs=2, metavar=("STORE", "RUN"), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if not asked.dir.is_dir():
        parser.error(f"--dir {asked.dir}: no such folder")
    return asked


def make_store(recipe: Recipe, path: Path) -> FeatureStore:
    """Write a float16 store shard by shard; a finished one is taken as it is."""
    if (path / "manifest.json").is_file():
        store = FeatureStore.open(path, verify=False)
        tell(f"{path}: there already")
        return store
    tell(f"{path}: being made")
    made = Generator.of(recipe)
    sizes = {"train": recipe.n_train, "test": recipe.n_test}
    streams = {"train": 1, "test": 2}
    # Labels are drawn with the features; a first walk collects them, a second writes shards.
    splits = {
        split: SplitInfo(
            np.concatenate([y for _, y in made.blocks(n, streams[split])]),
            [f"{split}-{i}" for i in range(n)],
        )
        for split, n in sizes.items()
    }
    writer = StoreWriter.begin(path, _header(recipe), splits, shard_rows=_SHARD_ROWS)
    shards = {split: _shards(made.blocks(n, streams[split])) for split, n in sizes.items()}
    for plan in writer.missing():
        writer.put(plan, {_LAYER: next(shards[plan.split])})
    return writer.finish()


def _shards(blocks: Iterator[tuple[Matrix, Labels]]) -> Iterator[NDArray[np.float16]]:
    """Yield (at most 8192, n_neurons) float16 shards; blocks divide them."""
    held: list[NDArray[np.float16]] = []
    for x, _ in blocks:
        held.append(x.astype(np.float16))
        if sum(map(len, held)) == _SHARD_ROWS:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _header(recipe: Recipe) -> dict[str, object]:
    return {
        "model": {"spec": "synthetic", "name": "synthetic", "modality": "vector"},
        "dataset": {
            "spec": "synthetic",
            "name": "synthetic",
            "modality": "vector",
            "class_names": [f"class {c}" for c in range(recipe.n_classes)],
        },
        "layers": {
            _LAYER: {
                "place": "generated",
                "pooling": "none",
                "dtype": "float16",
                "shape": [recipe.n_neurons],
            }
        },
        "engine": {"name": "synthetic"},
        "versions": {"numpy": version("numpy")},
    }


def _sweep(asked: argparse.Namespace) -> None:
    """Sweep in this process: random orders."""
    from criticalmass.sweeps.sweep import sweep

    store, out = asked.sweep
    run = sweep(
        store, out=out, fractions=asked.fractions, seeds=asked.seeds, measures=asked.measures
    )
    kept = ["selector", "measure", "n_kept", "value", "l2", "gap", "passes", "seconds", "status"]
    print(run.frame()[kept].to_string(index=False), file=sys.stderr)


def measure(command: Sequence[str], limit: float | None = None) -> Footprint:
    """Run a command and watch its memory; ``limit``: of its address space, in GB.

    Raises
    ------
    RuntimeError: if it fails.
    """
    began, before = time.perf_counter(), os.times()

    def confine() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (int(limit * 1e9), int(limit * 1e9)))

    child = subprocess.Popen(command, preexec_fn=confine)
    anonymous = float("nan")
    while child.poll() is None:
        anonymous = float(np.fmax(anonymous, _anonymous(child.pid)))
        time.sleep(_POLL_SECONDS)
    if child.returncode != 0:
        raise RuntimeError(f"the sweep ended with code {child.returncode}; its words are above")
    after = os.times()
    # The only child so far; kibibytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    cpu = after.children_user + after.children_system - before.children_user
    return Footprint(
        peak * unit / 2**30,
        anonymous,
        time.perf_counter() - began,
        cpu - before.children_system,
    )


def _anonymous(pid: int) -> float:
    """Return a process's anonymous resident memory in GiB; nan where it cannot be told."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    found = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(found[0]) / 2**20 if found else float("nan")


def render(recipe: Recipe, asked: argparse.Namespace, found: Footprint) -> str:
    """Write the Markdown."""
    fractions = ", ".join(f"{f:g}" for f in asked.fractions)
    return "\n".join(
        [
            f"Machine: {machine()}.",
            "",
            "| memory of a sweep | |",
            "| - | - |",
            f"| features | {recipe.n_train:,} x {recipe.n_neurons:,} float16 shards, "
            f"{recipe.n_train * recipe.n_neurons * 2 / 2**30:.2f} GiB, C={recipe.n_classes} |",
            f"| work | random, {asked.seeds} seeds, fractions {fractions} and the whole layer, "
            f"{' and '.join(asked.measures)} |",
            f"| peak resident, mapped pages of the store included | **{found.resident:.2f} GiB** |",
            f"| peak resident, anonymous | {found.anonymous:.2f} GiB |",
            f"| limit of address space | {asked.limit or 'none'} GB |",
            f"| target | < {_TARGET:g} GB |",
            f"| ratio of peak to target | **{found.resident * 2**30 / (_TARGET * 1e9):.3g} x** |",
            f"| time | {found.wall:.1f} s wall, {found.cpu:.1f} s CPU |",
            "",
        ]
    )


if __name__ == "__main__":
    main()
