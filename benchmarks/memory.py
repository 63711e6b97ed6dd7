"""Memory of a sweep over more features than fit: ``python -m benchmarks.memory --dir DIR``.

Makes a float16 store in DIR (about 2 GB at the default size; an existing one is reused), sweeps it
in a child process, and prints the peak resident memory and the time of that process. Mapped pages
of the store count as resident, although the system can drop them at any time. The anonymous part,
which cannot be dropped, is sampled while the sweep runs.
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
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.problems import Labels, LayerRecipe, Matrix, SampleGenerator
from benchmarks.timing import add_load_option, describe_machine, log, measure_row
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.features_writer import SplitInfo, StoreWriter

_LAYER = "penultimate"
_SHARD_ROWS = 8192
_TARGET = 3.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class ResourceUse:
    """Peak memory of a child process in GiB (nan if unknown), and its seconds."""

    resident: float
    anonymous: float
    wall: float
    cpu: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the store, sweep it in a child process, and print the table."""
    options = _parse(arguments)
    if options.sweep is not None:
        _sweep(options)
        return
    rows, width, test = (
        (2_000, 32, 200) if options.quick else (options.rows, options.neurons, options.test)
    )
    recipe = LayerRecipe(rows, test, width, 10)
    store = options.dir / f"store-{rows}x{width}"
    make_store(recipe, store)
    with tempfile.TemporaryDirectory(dir=options.dir) as out:
        command = [sys.executable, "-m", "benchmarks.memory", "--dir", str(options.dir)]
        command += ["--sweep", str(store), str(Path(out) / "run")]
        command += ["--fractions", *map(str, options.fractions), "--measures", *options.measures]
        command += ["--seeds", str(options.seeds)]
        use, load = measure_row(
            partial(measure, command, options.limit),
            even_if_busy=options.even_if_busy or options.quick,
        )
    if use is not None:
        print(render(recipe, options, use), f"{load}.", sep="\n")


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
    add_load_option(parser)
    parser.add_argument("--quick", action="store_true", help="a tiny store, as a test")
    parser.add_argument("--sweep", nargs=2, metavar=("STORE", "RUN"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.dir.is_dir():
        parser.error(f"--dir {options.dir}: no such folder")
    return options


def make_store(recipe: LayerRecipe, path: Path) -> FeatureStore:
    """Write a float16 store shard by shard; a finished one is reused."""
    if (path / "manifest.json").is_file():
        store = FeatureStore.open(path, verify=False)
        log(f"{path}: exists")
        return store
    log(f"{path}: writing")
    generator = SampleGenerator.from_recipe(recipe)
    sizes = {"train": recipe.n_train, "test": recipe.n_test}
    streams = {"train": 1, "test": 2}
    # Labels are drawn with the features: the first pass collects them, the second writes shards.
    splits = {
        split: SplitInfo(
            np.concatenate([y for _, y in generator.blocks(n, streams[split])]),
            [f"{split}-{i}" for i in range(n)],
        )
        for split, n in sizes.items()
    }
    writer = StoreWriter.begin(path, _header(recipe), splits, shard_rows=_SHARD_ROWS)
    shards = {split: _shards(generator.blocks(n, streams[split])) for split, n in sizes.items()}
    for plan in writer.missing():
        writer.put(plan, {_LAYER: next(shards[plan.split])})
    return writer.finish()


def _shards(blocks: Iterator[tuple[Matrix, Labels]]) -> Iterator[NDArray[np.float16]]:
    """Yield float16 shards of (at most 8192, n_neurons), made of whole blocks."""
    shard: list[NDArray[np.float16]] = []
    for x, _ in blocks:
        shard.append(x.astype(np.float16))
        if sum(map(len, shard)) == _SHARD_ROWS:
            yield np.concatenate(shard)
            shard = []
    if shard:
        yield np.concatenate(shard)


def _header(recipe: LayerRecipe) -> dict[str, object]:
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


def _sweep(options: argparse.Namespace) -> None:
    """Sweep random orders in this process."""
    from criticalmass.sweeps.sweep import sweep

    store, out = options.sweep
    run = sweep(
        store, out=out, fractions=options.fractions, seeds=options.seeds, measures=options.measures
    )
    columns = ["selector", "measure", "n_kept", "value", "l2", "gap", "passes", "seconds", "status"]
    print(run.frame()[columns].to_string(index=False), file=sys.stderr)


def measure(command: Sequence[str], limit: float | None = None) -> ResourceUse:
    """Run a command and sample its memory.

    Parameters
    ----------
    command: the words of the command.
    limit: limit of its address space in GB, or None.

    Raises
    ------
    RuntimeError: the command failed.
    """
    started, before = time.perf_counter(), os.times()

    def set_limit() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (int(limit * 1e9), int(limit * 1e9)))

    child = subprocess.Popen(command, preexec_fn=set_limit)
    anonymous = float("nan")
    while child.poll() is None:
        anonymous = float(np.fmax(anonymous, _anonymous(child.pid)))
        time.sleep(_POLL_SECONDS)
    if child.returncode != 0:
        raise RuntimeError(f"the sweep ended with code {child.returncode}; its output is above")
    after = os.times()
    # This is the only child so far; the unit is kibibytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    cpu = after.children_user + after.children_system - before.children_user
    return ResourceUse(
        peak * unit / 2**30,
        anonymous,
        time.perf_counter() - started,
        cpu - before.children_system,
    )


def _anonymous(pid: int) -> float:
    """Return the anonymous resident memory of a process in GiB; nan if it is unknown."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    values = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(values[0]) / 2**20 if values else float("nan")


def render(recipe: LayerRecipe, options: argparse.Namespace, use: ResourceUse) -> str:
    """Return the Markdown."""
    fractions = ", ".join(f"{f:g}" for f in options.fractions)
    return "\n".join(
        [
            f"Machine: {describe_machine()}.",
            "",
            "| memory of a sweep | |",
            "| - | - |",
            f"| features | {recipe.n_train:,} x {recipe.n_neurons:,} float16 shards, "
            f"{recipe.n_train * recipe.n_neurons * 2 / 2**30:.2f} GiB, C={recipe.n_classes} |",
            f"| work | random, {options.seeds} seeds, fractions {fractions} and the whole layer, "
            f"{' and '.join(options.measures)} |",
            f"| peak resident, mapped pages of the store included | **{use.resident:.2f} GiB** |",
            f"| peak resident, anonymous | {use.anonymous:.2f} GiB |",
            f"| limit of address space | {options.limit or 'none'} GB |",
            f"| target | < {_TARGET:g} GB |",
            f"| ratio of peak to target | **{use.resident * 2**30 / (_TARGET * 1e9):.3g} x** |",
            f"| time | {use.wall:.1f} s wall, {use.cpu:.1f} s CPU |",
            "",
        ]
    )


if __name__ == "__main__":
    main()
