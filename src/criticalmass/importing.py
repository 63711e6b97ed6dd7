"""Features that exist already: NumPy arrays become a feature store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from criticalmass.datasets.arrays import check_vectors, encode_labels, read_npz
from criticalmass.datasets.splits import stratified_test
from criticalmass.errors import CriticalMassError
from criticalmass.store import FeatureStore
from criticalmass.store_writer import SplitInfo, StoreWriter

SPLIT_SEED = 0
TEST_SHARE = 0.25
LAYER = "penultimate"

Arrays = Mapping[str, NDArray[Any]]


def import_features(
    path_or_arrays: str | Path | ArrayLike | Mapping[str, ArrayLike],
    *,
    out: str | Path,
    labels: str | Path | ArrayLike | Mapping[str, ArrayLike] | None = None,
    split: ArrayLike | None = None,
) -> FeatureStore:
    """Make a feature store of vectors that exist already; its layer is ``penultimate``.

    Parameters
    ----------
    path_or_arrays: (n_samples, n_neurons) vectors, or one such array per split
        (``{"train": X, "test": X}``), or a file: ``.npy`` with one array, ``.npz`` with ``X``
        (and ``y``) or ``x_train``, ``x_test`` (and ``y_train``, ``y_test``).
    out: the folder of the store.
    labels: (n_samples,) whole numbers or texts, or one array per split, or an ``.npy`` file; not
        needed where the ``.npz`` has them.
    split: (n_samples,) texts ``"train"`` and ``"test"`` (or a boolean mask of the test samples);
        without it one array is split by class, a quarter for the test, seed 0.

    Raises
    ------
    CriticalMassError: no labels, values that are not finite, shapes that do not fit.
    StoreError: ``out`` holds another request's features.
    """
    x, y, source = _read(path_or_arrays, labels)
    for name, array in x.items():
        check_vectors(array, f"features of {name!r}")
        if y[name].shape != (len(array),):
            raise CriticalMassError(
                f"{len(array)} features of {name!r} but labels of shape {y[name].shape}"
            )
    if len({array.shape[1] for array in x.values()}) != 1:
        raise CriticalMassError(f"the splits differ in width: {_shapes(x)}")
    names, codes = encode_labels(list(y.values()))
    coded = dict(zip(y, codes, strict=True))
    rows, rule = _rows(x, coded, split)
    return _write(Path(out), _Parts(x, coded, rows, rule, names, source))


@dataclass(frozen=True)
class _Parts:
    """What goes into the store; ``rows``: split -> (the array's name, row numbers)."""

    x: Arrays
    labels: Mapping[str, NDArray[np.int64]]
    rows: Mapping[str, tuple[str, NDArray[np.intp]]]
    rule: str
    class_names: tuple[str, ...]
    source: str


def _read(given: Any, labels: Any) -> tuple[Arrays, Arrays, str]:
    """Read features and labels; -> split -> array for both, and where they come from."""
    x: dict[str, Any] = {}
    y: dict[str, Any] = {}
    source = "arrays"
    if isinstance(given, (str, Path)):
        path = Path(given)
        source = path.name
        if path.suffix == ".npz":
            x, y = _from_archive(path)
        else:
            x = {"all": _read_npy(path)}
    elif isinstance(given, Mapping):
        x = {str(name): np.asarray(array) for name, array in given.items()}
    else:
        x = {"all": np.asarray(given)}
    if labels is not None:
        y = _labels(labels)
    if not y:
        raise CriticalMassError(f"no labels for {source!r}; give labels=, one per sample")
    if set(x) != set(y):
        raise CriticalMassError(
            f"features have the splits {sorted(x)}, labels {sorted(y)}; give both alike"
        )
    if set(x) != {"all"} and set(x) != {"train", "test"}:
        raise CriticalMassError(f"splits must be 'train' and 'test', got {sorted(x)}")
    return x, {name: y[name] for name in x}, source


def _labels(labels: Any) -> dict[str, Any]:
    if isinstance(labels, (str, Path)):
        return {"all": _read_npy(Path(labels))}
    if isinstance(labels, Mapping):
        return {str(name): np.asarray(array) for name, array in labels.items()}
    return {"all": np.asarray(labels)}


def _read_npy(path: Path) -> NDArray[Any]:
    if path.suffix != ".npy":
        raise CriticalMassError(f"{str(path)!r} must be a .npy or .npz file")
    if not path.is_file():
        raise CriticalMassError(f"no file {str(path)!r}")
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise CriticalMassError(f"{str(path)!r} cannot be read as an array: {error}") from error


def _from_archive(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    arrays = {name.lower(): array for name, array in read_npz(path).items()}
    if "x" in arrays:
        return {"all": arrays["x"]}, {"all": arrays["y"]} if "y" in arrays else {}
    if {"x_train", "x_test"} <= arrays.keys():
        x = {split: arrays[f"x_{split}"] for split in ("train", "test")}
        return x, {name: arrays[f"y_{name}"] for name in x if f"y_{name}" in arrays}
    raise CriticalMassError(
        f"{str(path)!r} holds {sorted(arrays)}; it must hold X, or x_train, x_test"
    )


def _rows(
    x: Arrays, labels: Mapping[str, NDArray[np.int64]], split: ArrayLike | None
) -> tuple[dict[str, tuple[str, NDArray[np.intp]]], str]:
    """Decide which rows are for what; -> the rows of each split, and the rule in words."""
    if "all" not in x:
        if split is not None:
            raise CriticalMassError("the arrays are split already; leave out split=")
        return {name: (name, np.arange(len(array))) for name, array in x.items()}, "as given"
    if split is None:
        test = stratified_test(labels["all"], TEST_SHARE, SPLIT_SEED)
        rule = f"stratified, test share {TEST_SHARE}, seed {SPLIT_SEED}"
    else:
        test, rule = _test_mask(np.asarray(split), len(x["all"])), "as given"
    return {
        "train": ("all", np.flatnonzero(~test)),
        "test": ("all", np.flatnonzero(test)),
    }, rule


def _test_mask(split: NDArray[Any], n: int) -> NDArray[np.bool_]:
    if split.shape != (n,):
        raise CriticalMassError(f"split has the shape {split.shape}, but there are {n} samples")
    if split.dtype.kind == "U" and set(split.tolist()) <= {"train", "test"}:
        split = split == "test"
    if split.dtype != np.bool_:
        raise CriticalMassError("split must hold 'train' and 'test', or be a mask of test samples")
    if split.all() or not split.any():
        raise CriticalMassError("split leaves train or test without samples")
    return split


def _shapes(x: Arrays) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in x.items())


def _write(out: Path, parts: _Parts) -> FeatureStore:
    half = all(array.dtype == np.float16 for array in parts.x.values())
    digest = hashlib.sha256()
    for name, array in parts.x.items():
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(parts.labels[name].tobytes())
    digest.update(repr(parts.class_names).encode())
    header = {
        "model": {"spec": "imported", "name": "imported", "modality": "vector"},
        "dataset": {
            "spec": parts.source,
            "name": Path(parts.source).stem,
            "modality": "vector",
            "digest": digest.hexdigest(),
            "class_names": list(parts.class_names),
            "notes": {"split": parts.rule},
        },
        "layers": {
            LAYER: {
                "place": "imported",
                "pooling": "none",
                "dtype": "float16" if half else "float32",
                "shape": [int(next(iter(parts.x.values())).shape[1])],
            }
        },
        "engine": {"name": "imported"},
        "versions": {name: version(name) for name in ("criticalmass", "numpy")},
    }
    splits = {
        split: SplitInfo(parts.labels[name][rows], [f"{name}-{row}" for row in rows])
        for split, (name, rows) in parts.rows.items()
    }
    writer = StoreWriter.begin(out, header, splits)
    for plan in writer.missing():
        name, rows = parts.rows[plan.split]
        writer.put(plan, {LAYER: parts.x[name][rows[plan.start : plan.stop]]})
    return writer.finish()
