"""Damaged folders: ``python -m benchmarks.damage --dir DIR --count 2000``.

Makes a feature store, a run and a slim model of scikit-learn's digits, then damages one file of a
copy (one bit flipped, cut short, emptied, deleted, one byte more), over and over, and reads
everything that the package reads. Each time either the damage is found, with an error that names
the file or its folder, or what is read is exactly what was written. Anything else is counted as
served wrongly, and the exit status is 1.

Then every file of the store and of the run is damaged once and the command that made the folder is
given again: it must end with the bytes that were there before, or name what to delete.
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
from criticalmass.extraction import import_writer
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


def _flipped(content: bytes, rng: Generator) -> bytes:
    at = int(rng.integers(len(content)))
    changed = content[at] ^ (1 << int(rng.integers(8)))
    return content[:at] + bytes([changed]) + content[at + 1 :]


# What happens to a file; None: it is gone. A flip comes as often as all others together.
DAMAGES: Mapping[str, Callable[[bytes, Generator], bytes | None]] = {
    "one bit flipped": _flipped,
    "one bit flipped again": _flipped,
    "one bit flipped once more": _flipped,
    "cut short": lambda content, rng: content[: int(rng.integers(len(content)))],
    "emptied": lambda _, __: b"",
    "deleted": lambda _, __: None,
    "one byte more": lambda content, _: content + b"\0",
}


def read_store(folder: Path) -> str:
    """Digest all that is read of a feature store."""
    store = FeatureStore.open(folder)
    seen = [repr(store.manifest), repr(store.class_names)]
    for split in store.splits:
        seen += [repr(store.labels(split).tolist()), repr(store.sample_ids(split))]
        for layer in store.layers:
            seen.append(hashlib.sha256(store.features(split, layer).array().tobytes()).hexdigest())
    return "\n".join(seen)


def read_run(folder: Path) -> str:
    """Digest all that is read of a run, and the table that follows from it."""
    run = Run.open(folder)
    frame = run.frame()
    seen = [repr(frame.to_dict("records")), repr(run.manifest), repr(run.labels().tolist())]
    for row in frame.to_dict("records"):
        seen.append(hashlib.sha256(run.artifact(row).tobytes()).hexdigest())
        if row["selector"] in ("random", "leverage"):
            order = run.order(row["selector"], row["layer"], row["seed"])
            seen.append(repr(order.tolist()))
    # A prediction that was damaged is none, and is made again by the next sweep.
    predicted = read_predictions(run)
    seen += [repr(redundancy(run, resamples=50).to_dict("records"))]
    return "\n".join(seen) + (f"\n{predicted}" if predicted else _NO_PREDICTION)


_NO_PREDICTION = "\nno prediction"


def read_slim(folder: Path) -> str:
    """Digest all that is read of a slim model."""
    slim = SlimModel.open(folder)
    rows = np.random.default_rng(0).standard_normal((50, slim.n_neurons), dtype=np.float32)
    kept = [repr(slim.indices.tolist()), repr(slim.record), repr(slim.predict(rows).tolist())]
    return "\n".join([*kept, repr(slim.candidates.to_dict("records"))])


@dataclass(frozen=True)
class Kind:
    """A kind of folder: where a whole one lies, and how all of it is read."""

    name: str
    folder: Path
    read: Callable[[Path], str]

    def files(self) -> list[Path]:
        """Files that matter: the slim model's card and its plain copy of the indices do not."""
        every = (path.relative_to(self.folder) for path in self.folder.rglob("*"))
        texts = {"README.md", "indices.json"} if self.name == "slim model" else set()
        return sorted(p for p in every if (self.folder / p).is_file() and p.name not in texts)


def make(folder: Path) -> list[Kind]:
    """Make one folder of each kind."""
    store, run, slim = folder / "store", folder / "run", folder / "slim"
    for command in remade(folder).values():
        command()
    shrink(store, keep=0.8, measure="logistic", selectors=("random",), out=slim)
    return [
        Kind("feature store", store, read_store),
        Kind("run", run, read_run),
        Kind("slim model", slim, read_slim),
    ]


def remade(folder: Path) -> dict[str, Callable[[], object]]:
    """Return the commands that made a store and a run, to be given again."""
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


def harm(path: Path, damage: str, rng: Generator) -> bool:
    """Damage a file; -> whether that changed it."""
    before = path.read_bytes()
    if not before:
        return False
    after = DAMAGES[damage](before, rng)
    if after is None:
        path.unlink()
        return True
    path.write_bytes(after)
    return after != before


def outcome(kind: Kind, name: Path, damage: str, rng: Generator) -> str:
    """Damage a file of a copy and read the copy: found, harmless, or what went wrong."""
    copy = kind.folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(kind.folder, copy)
    wanted = kind.read(copy)
    if not harm(copy / name, damage, rng):
        return "harmless"
    try:
        got = kind.read(copy)
    except CriticalMassError as error:
        named = name.name in str(error) or str(copy) in str(error)
        return "found" if named else f"an error that does not name it: {error}"
    # A manifest's layout may change, what it says may not.
    if got == wanted:
        return "harmless"
    without_prediction = wanted.rpartition("\nPrediction")[0] or wanted.rpartition("\n{")[0]
    lost = name.name == "prediction.json" and got == without_prediction + _NO_PREDICTION
    return "found" if lost else "SERVED WRONGLY"


def healed(kind: Kind, folder: Path, again: Callable[[], object], rng: Generator) -> Counter[str]:
    """Damage every file once and give the command again; count how it ended."""
    whole = fingerprint(kind.folder)
    kept = kind.folder.with_name("whole")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(kind.folder, kept)
    tally: Counter[str] = Counter()
    for name in kind.files():
        harm(kind.folder / name, "one bit flipped", rng)
        try:
            again()
            same = fingerprint(kind.folder) == whole
            tally["healed" if same else f"{name}: NOT THE SAME"] += 1
        except CriticalMassError as error:
            told = "delete" in str(error) and str(kind.folder) in str(error)
            tally["told what to delete" if told else f"{name}: {error}"] += 1
        shutil.rmtree(kind.folder)
        shutil.copytree(kept, kind.folder)
    return tally


def main(argv: Sequence[str] | None = None) -> int:
    """Damage, read, heal, and print what was counted; 1 if anything was served wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="scratch folder")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    for module in (features_writer, import_writer):
        setattr(module, "SHARD_ROWS", _SHARD_ROWS)  # noqa: B010 -- small shards, many files
    asked.dir.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(asked.seed)
    kinds = make(asked.dir)
    good = {"found", "harmless", "healed", "told what to delete"}
    bad = 0
    for kind in kinds:
        tally: Counter[str] = Counter()
        files = kind.files()
        for turn in range(-(-asked.count // len(kinds))):
            damage = list(DAMAGES)[int(rng.integers(len(DAMAGES)))]
            name = files[turn % len(files)]
            result = outcome(kind, name, damage, rng)
            tally[result if result in good else f"{name}, {damage}: {result}"] += 1
        _tell(f"{kind.name}, damaged and read", tally)
        bad += sum(count for what, count in tally.items() if what not in good)
    for kind in kinds[:2]:
        tally = healed(kind, asked.dir, remade(asked.dir)[kind.name], rng)
        _tell(f"{kind.name}, every file damaged once, made again", tally)
        bad += sum(count for what, count in tally.items() if what not in good)
    return 1 if bad else 0


def _tell(title: str, tally: Counter[str]) -> None:
    print(f"{title}: " + ", ".join(f"{count} {what}" for what, count in tally.most_common()))


if __name__ == "__main__":
    raise SystemExit(main())
