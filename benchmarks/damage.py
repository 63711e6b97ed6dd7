"""Damaged folders: ``python -m benchmarks.damage --dir DIR --count 2000``.

Makes a feature store, a run and a slim model of scikit-learn's digits. Then repeatedly damages one
file of a copy (flips a bit, truncates, empties or deletes it, or adds a byte) and reads everything
that the package reads. Either the damage must be found, with an error that names the file or its
folder, or the content that is read must be exactly the written one. Anything else is counted as
wrong data, and the exit status is 1.

Then every file of the store and of the run is damaged once, and the command that made the folder is
run again. It must restore the original bytes or name what to delete.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.kills import fingerprint
from criticalmass.analysis.redundancy import redundancy
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.importing import import_features
from criticalmass.shrinking.shrink import shrink
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage import features_writer
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps.sweep import sweep
from criticalmass.theory.prediction_file import read_predictions

Generator = np.random.Generator
_SHARD_ROWS = 400


def _flip_bit(content: bytes, rng: Generator) -> bytes:
    index = int(rng.integers(len(content)))
    changed = content[index] ^ (1 << int(rng.integers(8)))
    return content[:index] + bytes([changed]) + content[index + 1 :]


# Kind of damage -> new content, or None to delete the file. A flipped bit is listed three times,
# so that it is drawn almost as often as the others together.
DAMAGES: Mapping[str, Callable[[bytes, Generator], bytes | None]] = {
    "one bit flipped": _flip_bit,
    "one bit flipped again": _flip_bit,
    "one bit flipped once more": _flip_bit,
    "cut short": lambda content, rng: content[: int(rng.integers(len(content)))],
    "emptied": lambda _, __: b"",
    "deleted": lambda _, __: None,
    "one byte more": lambda content, _: content + b"\0",
}


def read_store(folder: Path) -> str:
    """Return the content of a feature store as text."""
    store = FeatureStore.open(folder)
    texts = [repr(store.manifest), repr(store.class_names)]
    for split in store.splits:
        texts += [repr(store.labels(split).tolist()), repr(store.sample_ids(split))]
        for layer in store.layers:
            texts.append(hashlib.sha256(store.features(split, layer).array().tobytes()).hexdigest())
    return "\n".join(texts)


def read_run(folder: Path) -> str:
    """Return the content of a run and its table of redundancy as text."""
    run = Run.open(folder)
    frame = run.frame()
    texts = [repr(frame.to_dict("records")), repr(run.manifest), repr(run.labels().tolist())]
    for row in frame.to_dict("records"):
        texts.append(hashlib.sha256(run.artifact(row).tobytes()).hexdigest())
        if row["selector"] in ("random", "leverage"):
            order = run.order(row["selector"], row["layer"], row["seed"])
            texts.append(repr(order.tolist()))
    # A damaged prediction is ignored, and the next sweep writes it again.
    predictions = read_predictions(run)
    table = redundancy(run, resamples=50)
    texts += [repr(table.drop(columns=_OF_PREDICTION).to_dict("records"))]
    predicted = {"layers": predictions, "spread": table[_OF_PREDICTION].to_dict("records")}
    return "\n".join(texts) + (f"\n{predicted}" if predictions else _NO_PREDICTION)


_NO_PREDICTION = "\nno prediction"
# Columns of redundancy that a law makes better where the run has its prediction.
_OF_PREDICTION = ["pass_mass", "spread_source", "pass_share"]


def read_slim(folder: Path) -> str:
    """Return the content of a slim model, and its predictions, as text."""
    slim = SlimModel.open(folder)
    rows = np.random.default_rng(0).standard_normal((50, slim.n_neurons), dtype=np.float32)
    texts = [repr(slim.indices.tolist()), repr(slim.record), repr(slim.predict(rows).tolist())]
    return "\n".join([*texts, repr(slim.candidates.to_dict("records"))])


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder: an undamaged one, and the function that reads it."""

    name: str
    folder: Path
    read: Callable[[Path], str]

    def files(self) -> list[Path]:
        """Return the files that are read."""
        paths = (path.relative_to(self.folder) for path in self.folder.rglob("*"))
        unread = {"run.lock"} if self.name == "run" else set()
        if self.name == "slim model":
            unread = {"README.md", "indices.json"}
        return sorted(p for p in paths if (self.folder / p).is_file() and p.name not in unread)


def make_folders(folder: Path) -> list[FolderKind]:
    """Make one folder of each kind."""
    store, run, slim = folder / "store", folder / "run", folder / "slim"
    for command in make_commands(folder).values():
        command()
    shrink(store, keep=0.8, measure="logistic", selectors=("random",), out=slim)
    return [
        FolderKind("feature store", store, read_store),
        FolderKind("run", run, read_run),
        FolderKind("slim model", slim, read_slim),
    ]


def make_commands(folder: Path) -> dict[str, Callable[[], object]]:
    """Return the functions that make a store and a run."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    store, run = folder / "store", folder / "run"
    return {
        "feature store": lambda: import_features(x.astype(np.float32), out=store, labels=y),
        "run": lambda: sweep(
            store,
            out=run,
            selectors=("random", "leverage"),
            fractions=(0.1, 0.5, 1.0),
            seeds=2,
            measures=("ridge", "cka"),
        ),
    }


def damage_file(path: Path, damage: str, rng: Generator) -> bool:
    """Damage a file; return whether its content changed."""
    before = path.read_bytes()
    if not before:
        return False
    after = DAMAGES[damage](before, rng)
    if after is None:
        path.unlink()
        return True
    path.write_bytes(after)
    return after != before


def read_damaged(kind: FolderKind, name: Path, damage: str, rng: Generator) -> str:
    """Damage a file of a copy and read the copy; return "found", "harmless" or the failure."""
    copy = kind.folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(kind.folder, copy)
    expected = kind.read(copy)
    if not damage_file(copy / name, damage, rng):
        return "harmless"
    try:
        actual = kind.read(copy)
    except CriticalMassError as error:
        is_named = name.name in str(error) or str(copy) in str(error)
        return "found" if is_named else f"an error that does not name it: {error}"
    # The layout of a manifest may change, its content may not.
    if actual == expected:
        return "harmless"
    without_prediction = expected.rpartition("\nPrediction")[0] or expected.rpartition("\n{")[0]
    is_ignored = name.name == "prediction.json" and actual == without_prediction + _NO_PREDICTION
    return "found" if is_ignored else "WRONG DATA"


def repair(kind: FolderKind, command: Callable[[], object], rng: Generator) -> Counter[str]:
    """Damage every file once and run the command again; count the outcomes."""
    undamaged = fingerprint(kind.folder)
    backup = kind.folder.with_name("backup")
    shutil.rmtree(backup, ignore_errors=True)
    shutil.copytree(kind.folder, backup)
    tally: Counter[str] = Counter()
    for name in kind.files():
        damage_file(kind.folder / name, "one bit flipped", rng)
        try:
            command()
            same = fingerprint(kind.folder) == undamaged
            tally["healed" if same else f"{name}: NOT THE SAME"] += 1
        except CriticalMassError as error:
            names_folder = "delete" in str(error) and str(kind.folder) in str(error)
            tally["named what to delete" if names_folder else f"{name}: {error}"] += 1
        shutil.rmtree(kind.folder)
        shutil.copytree(backup, kind.folder)
    return tally


def main(argv: Sequence[str] | None = None) -> int:
    """Damage, read and repair, and print the counts; return 1 if there was a failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="scratch folder")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    features_writer.StoreWriter.shard_rows = _SHARD_ROWS  # small shards, many files
    options.dir.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    kinds = make_folders(options.dir)
    good = {"found", "harmless", "healed", "named what to delete"}
    n_failures = 0
    for kind in kinds:
        tally: Counter[str] = Counter()
        files = kind.files()
        for index in range(-(-options.count // len(kinds))):
            damage = list(DAMAGES)[int(rng.integers(len(DAMAGES)))]
            name = files[index % len(files)]
            result = read_damaged(kind, name, damage, rng)
            tally[result if result in good else f"{name}, {damage}: {result}"] += 1
        _print_tally(f"{kind.name}, damaged and read", tally)
        n_failures += sum(count for result, count in tally.items() if result not in good)
    for kind in kinds[:2]:
        tally = repair(kind, make_commands(options.dir)[kind.name], rng)
        _print_tally(f"{kind.name}, every file damaged once, command run again", tally)
        n_failures += sum(count for result, count in tally.items() if result not in good)
    return 1 if n_failures else 0


def _print_tally(title: str, tally: Counter[str]) -> None:
    print(f"{title}: " + ", ".join(f"{count} {result}" for result, count in tally.most_common()))


if __name__ == "__main__":
    raise SystemExit(main())
