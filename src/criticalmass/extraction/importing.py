"""Vectors that exist already, in arrays or files, become a feature store."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from criticalmass.core.arguments import checked
from criticalmass.core.progress import say
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.arrays import as_numbers, check_vectors, encode_labels
from criticalmass.extraction.datasets.splits import SPLIT_SEED, TEST_SHARE, stratified_test
from criticalmass.extraction.import_writer import Import, write_store
from criticalmass.extraction.vectors import Source, Vectors, open_vectors
from criticalmass.storage.features import UNLABELLED, FeatureStore
from criticalmass.storage.files import file_digest

LAYER = "penultimate"


@checked
def import_features(
    path_or_arrays: str | Path | ArrayLike | Mapping[str, ArrayLike],
    *,
    out: str | Path,
    labels: str | Path | ArrayLike | Mapping[str, ArrayLike] | None = None,
    split: str | Path | ArrayLike | None = None,
    column: str | None = None,
    copy: bool = False,
) -> FeatureStore:
    """Make a feature store of vectors that exist already; its layer is ``penultimate``.

    Files are read in blocks of rows, never as a whole. A row-major float32 or float16 matrix that
    lies in its file as it is (``.npy``, an uncompressed ``.npz``, ``.safetensors``, a flat FAISS
    index) is not copied where the file system has hard links: the store then holds a link to the
    file and says in an index which rows are for what. It outlives the original; if something is
    written into the original itself, opening the store says so.

    Parameters
    ----------
    path_or_arrays: (n_samples, n_neurons) vectors, or one such array per split
        (``{"train": X, "test": X}``), or a file: ``.npy``; ``.npz`` with ``X`` (and ``y``) or
        ``x_train``, ``x_test`` (and ``y_train``, ``y_test``); ``.parquet`` with a column of
        lists, or a column per neuron; ``.safetensors``; ``.faiss`` or ``.index``, of which
        quantised ones give back what they kept.
    out: the folder of the store.
    labels: (n_samples,) whole numbers or texts, or one array per split; a column of the Parquet
        file; an ``.npy`` file, or a ``.txt`` file with one label per line. Without labels (and
        none in the ``.npz``) there is one class, and measures that need no labels are left.
    split: (n_samples,) texts ``"train"`` and ``"test"`` (``"val"``), a boolean mask of the test
        samples, or a column or file of such; without it one matrix is split by class (at random
        without labels), a quarter for the test, seed 0.
    column: which column, array or tensor of the file holds the vectors, where it has several.
    copy: copy even where a link would do.

    Raises
    ------
    CriticalMassError: no such file, column or tensor; values that are not finite; shapes that do
        not fit.
    StoreError: ``out`` holds another request's features.
    MissingExtraError: the library that reads the file is not installed.
    """
    given = _given(path_or_arrays, labels, split, column)
    values, label_words = _labels(given, labels)
    names, coded = _classes(given.sources, values)
    if len({source.shape[1] for source in given.sources.values()}) != 1:
        shapes = ", ".join(f"{name} {source.shape}" for name, source in given.sources.items())
        raise CriticalMassError(f"the splits differ in width: {shapes}")
    rows, rule = _rows(given, coded, split)
    notes = {"split": rule, "labels": label_words}
    if given.notes:
        notes["vectors"] = "; ".join(given.notes)
    header = _header(given, coded, names, notes)
    return write_store(Path(out), Import(LAYER, given, coded, rows, header, copy))


def _given(path_or_arrays: Any, labels: Any, split: Any, column: str | None) -> Vectors:
    """Open what was handed in."""
    if isinstance(path_or_arrays, (str, Path)):
        other = frozenset(name for name in (labels, split) if isinstance(name, str))
        found = open_vectors(Path(path_or_arrays), column, other)
        for line in found.notes:
            say(line)
    else:
        if column is not None:
            raise CriticalMassError(f"column={column!r} is for files; leave it out for arrays")
        if isinstance(path_or_arrays, Mapping):
            arrays = {str(name): _array(x, "features") for name, x in path_or_arrays.items()}
        else:
            arrays = {"all": _array(path_or_arrays, "features")}
        for name, array in arrays.items():
            check_vectors(array, f"features of {name!r}")
        sources = {name: Source.of_array(x, f"features of {name!r}") for name, x in arrays.items()}
        found = Vectors("arrays", sources)
    if set(found.sources) not in ({"all"}, {"train", "test"}):
        raise CriticalMassError(f"splits must be 'train' and 'test', got {sorted(found.sources)}")
    return found


def _array(given: Any, what: str) -> NDArray[Any]:
    """Return what was handed in as an array.

    Raises
    ------
    CriticalMassError: its rows differ in length.
    """
    try:
        return np.asarray(given)
    except ValueError as error:
        said = " ".join(repr(given).split())[:80]
        raise CriticalMassError(f"{what}={said} make no array; rows must be alike") from error


def _labels(given: Vectors, labels: Any) -> tuple[Mapping[str, NDArray[Any]] | None, str]:
    """Read the labels of every part, None if there are none; -> also where they are from."""
    if labels is None and not given.labels:
        say(f"{given.name} without labels: measures such as cka and retrieval need none")
        return None, "none"
    if labels is None:
        found, words = dict(given.labels), f"as in {given.name}"
    elif isinstance(labels, (str, Path)):
        array, words = column_or_file(labels, given, "label")
        found = {"all": array}
    elif isinstance(labels, Mapping):
        found = {str(name): _array(several, "labels") for name, several in labels.items()}
        words = "as given"
    else:
        found, words = {"all": _array(labels, "labels")}, "as given"
    if set(found) != set(given.sources):
        raise CriticalMassError(
            f"features have the splits {sorted(given.sources)}, labels {sorted(found)}; "
            "give both alike"
        )
    return found, words


def _classes(
    sources: Mapping[str, Source], labels: Mapping[str, NDArray[Any]] | None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """Give every sample its class number."""
    if labels is None:
        return UNLABELLED, {n: np.zeros(s.shape[0], np.int64) for n, s in sources.items()}
    for name, source in sources.items():
        if labels[name].shape != (source.shape[0],):
            raise CriticalMassError(
                f"{source.shape[0]} features of {name!r} but labels of shape "
                f"{labels[name].shape}; give one label per vector"
            )
    names, codes = encode_labels([labels[name] for name in sources])
    return names, dict(zip(sources, codes, strict=True))


def _rows(
    given: Vectors, labels: Mapping[str, NDArray[np.int64]], split: Any
) -> tuple[dict[str, tuple[str, NDArray[np.intp]]], str]:
    """Decide which rows are for what; -> part and rows of each split, and the rule in words."""
    if "all" not in given.sources:
        if split is not None:
            raise CriticalMassError("the vectors are split already; leave out split=")
        return {n: (n, np.arange(s.shape[0])) for n, s in given.sources.items()}, "as given"
    if split is None:
        test = stratified_test(labels["all"], TEST_SHARE, SPLIT_SEED)
        way = "stratified" if np.unique(labels["all"]).size > 1 else "random"
        rule = f"{way}, test share {TEST_SHARE}, seed {SPLIT_SEED}"
        chosen = {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}
    else:
        words, rule = _array(split, "split"), "as given"
        if isinstance(split, (str, Path)):
            words, rule = column_or_file(split, given, "split")
        chosen = split_rows(words, given.sources["all"].shape[0])
    return {name: ("all", rows) for name, rows in chosen.items()}, rule


def _header(
    given: Vectors,
    labels: Mapping[str, NDArray[np.int64]],
    names: tuple[str, ...],
    notes: Mapping[str, str],
) -> dict[str, Any]:
    """Describe the import; two that are described alike have the same content."""
    digest = hashlib.sha256()
    if given.path is not None:
        digest.update(file_digest(given.path).encode())
    for name, source in given.sources.items():
        digest.update(f"{name}{source.dtype.str}{source.shape}".encode())
        if given.path is None:
            for block in source.chunks():
                digest.update(np.ascontiguousarray(block).tobytes())
        digest.update(labels[name].tobytes())
    digest.update(repr(names).encode())
    half = all(source.dtype == np.float16 for source in given.sources.values())
    return {
        "model": {"spec": "imported", "name": "imported", "modality": "vector"},
        "dataset": {
            "spec": given.name,
            "name": Path(given.name).stem,
            "modality": "vector",
            "digest": digest.hexdigest(),
            "class_names": list(names),
            "notes": dict(notes),
        },
        "layers": {
            LAYER: {
                "place": "imported",
                "pooling": "none",
                "dtype": "float16" if half else "float32",
                "shape": [next(iter(given.sources.values())).shape[1]],
            }
        },
        "engine": {"name": "imported"},
        "versions": {name: version(name) for name in ("criticalmass", "numpy")},
    }


_WORDS = {"train": "train", "test": "test", "val": "val", "validation": "val", "valid": "val"}


def column_or_file(given: str | Path, vectors: Vectors, what: str) -> tuple[NDArray[Any], str]:
    """Read one value per vector.

    Parameters
    ----------
    given: a column of the vectors' table, an ``.npy`` file, or a ``.txt`` file with a value a
        line. A column comes before a file of the same name.
    vectors: what the values are for.
    what: "label" or "split", for errors.

    Returns
    -------
    (n,) values, and in words where they come from.

    Raises
    ------
    CriticalMassError: neither a column nor a file of that name; a line without a value.
    """
    name = str(given)
    if vectors.columns is not None and isinstance(given, str):
        values = vectors.columns(name)
        if values is not None:
            return values, f"column {name!r}"
    path = Path(given)
    if path.suffix == ".txt" and path.is_file():
        return _lines(path, what), f"file {path.name}"
    if path.suffix == ".npy" and path.is_file():
        try:
            return np.asarray(np.load(path, allow_pickle=False)), f"file {path.name}"
        except (ValueError, OSError, EOFError) as error:
            raise CriticalMassError(f"{name!r} cannot be read as an array: {error}") from error
    if path.is_file():
        raise CriticalMassError(f"{name!r} must be a .npy file, or a .txt file, one {what} a line")
    beside = [p.name for p in path.parent.glob("*") if p.suffix in (".txt", ".npy")]
    close = difflib.get_close_matches(path.name, [*vectors.column_names, *beside], n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    column = "column and no " if vectors.column_names else ""
    raise CriticalMassError(f"no {column}file {name!r} to read a {what} per vector from{hint}")


def _lines(path: Path, what: str) -> NDArray[Any]:
    """Read a value per line; whole numbers if all are."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise CriticalMassError(f"{str(path)!r} is no UTF-8 text: {error}") from error
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise CriticalMassError(
            f"line {lines.index('') + 1} of {str(path)!r} is empty; write one {what} a line"
        )
    if not lines:
        raise CriticalMassError(f"{str(path)!r} is empty; write one {what} a line")
    return as_numbers(np.array(lines))


def split_rows(split: NDArray[Any], n: int) -> dict[str, NDArray[np.intp]]:
    """Turn one word per vector, or a mask of the test samples, into rows of each split.

    Raises
    ------
    CriticalMassError: another length or other words, or no samples to train or to test on.
    """
    if split.shape != (n,):
        raise CriticalMassError(f"split has the shape {split.shape}, but there are {n} samples")
    if split.dtype == np.bool_:
        split = np.where(split, "test", "train")
    words = {str(word) for word in np.unique(split)} if split.dtype.kind in "US" else set()
    if not words or not words <= _WORDS.keys():
        raise CriticalMassError(
            "split must hold 'train' and 'test' (and 'val'), or be a mask of test samples"
        )
    roles = {word: _WORDS[word] for word in words}
    if "test" not in words:
        roles = {word: "test" if role == "val" else role for word, role in roles.items()}
    rows = {
        role: np.flatnonzero(np.isin(split, [word for word in words if roles[word] == role]))
        for role in ("train", "test", "val")
    }
    if not rows["train"].size or not rows["test"].size:
        raise CriticalMassError("split leaves train or test without samples")
    return {role: found for role, found in rows.items() if found.size}
