"""Import existing vectors, from arrays or files, into a feature store."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.progress import write_line
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.arrays import as_integer_labels, encode_labels
from criticalmass.extraction.datasets.splits import (
    SPLIT_SEED,
    TEST_SHARE,
    default_split_rule,
    stratified_test_mask,
)
from criticalmass.extraction.import_writer import ImportPlan, SplitRows, write_store
from criticalmass.extraction.vectors import Vectors, VectorSource, open_vectors
from criticalmass.extraction.vectors.source import check_vectors
from criticalmass.storage.digests import file_digest
from criticalmass.storage.features import UNLABELLED, FeatureStore

LAYER = "penultimate"


@validate_arguments
def import_features(
    path_or_arrays: str | Path | ArrayLike | Mapping[str, ArrayLike],
    *,
    out: str | Path,
    labels: str | Path | ArrayLike | Mapping[str, ArrayLike] | None = None,
    split: str | Path | ArrayLike | None = None,
    column: str | None = None,
    copy: bool = False,
) -> FeatureStore:
    """Make a feature store from existing vectors; its layer is ``penultimate``.

    Files are read in chunks of rows, never as a whole. A row-major float32 or float16 matrix that
    its file stores uncompressed (``.npy``, an uncompressed ``.npz``, ``.safetensors``, a flat
    FAISS index) is not copied if the file system has hard links: the store then holds a link to
    the file and an index of the rows of each split. The link survives deletion of the original.
    If a program writes into the original, opening the store raises an error.

    Parameters
    ----------
    path_or_arrays: (n_samples, n_neurons) vectors, or one such array per split
        (``{"train": X, "test": X}``), or a file: ``.npy``; ``.npz`` with ``X`` (and ``y``) or
        ``x_train``, ``x_test`` (and ``y_train``, ``y_test``); ``.parquet`` with a column of
        lists, or a column per neuron; ``.safetensors``; ``.faiss`` or ``.index`` (quantised
        indexes return approximate vectors).
    out: the folder of the store.
    labels: (n_samples,) whole numbers or texts, or one array per split; a column of the Parquet
        file; an ``.npy`` file, or a ``.txt`` file with one label per line. Without labels (and
        without ``y`` in the ``.npz``) there is one class, and only measures that need no labels
        apply.
    split: (n_samples,) texts ``"train"`` and ``"test"`` (``"val"``), a boolean mask of the test
        samples, or a column or file of either; by default a single matrix is split by class (at
        random without labels), a quarter for the test, seed 0.
    column: the column, array or tensor of the vectors, if the file has several.
    copy: copy the vectors even if their file can be linked.

    Raises
    ------
    CriticalMassError: no such file, column or tensor; values that are not finite; shapes that do
        not fit.
    StoreError: ``out`` holds another request's features.
    MissingExtraError: the library that reads the file is not installed.
    """
    vectors = _open_input(path_or_arrays, labels, split, column)
    label_values, label_source = _read_labels(vectors, labels)
    class_names, class_numbers = _encode_classes(vectors.sources, label_values)
    if len({source.shape[1] for source in vectors.sources.values()}) != 1:
        shapes = ", ".join(f"{name} {source.shape}" for name, source in vectors.sources.items())
        raise CriticalMassError(f"the splits differ in width: {shapes}")
    splits, rule = _assign_rows(vectors, class_numbers, split)
    notes = {"split": rule, "labels": label_source}
    if vectors.notes:
        notes["vectors"] = "; ".join(vectors.notes)
    header = _manifest_header(vectors, class_numbers, class_names, notes)
    return write_store(Path(out), ImportPlan(LAYER, vectors, class_numbers, splits, header, copy))


def _open_input(path_or_arrays: Any, labels: Any, split: Any, column: str | None) -> Vectors:
    """Open the file, or wrap the arrays."""
    if isinstance(path_or_arrays, (str, Path)):
        other_columns = frozenset(name for name in (labels, split) if isinstance(name, str))
        vectors = open_vectors(Path(path_or_arrays), column, other_columns)
        for note in vectors.notes:
            write_line(note)
    else:
        if column is not None:
            raise CriticalMassError(f"column={column!r} is for files; leave it out for arrays")
        if isinstance(path_or_arrays, Mapping):
            arrays = {str(name): _as_array(x, "features") for name, x in path_or_arrays.items()}
        else:
            arrays = {"all": _as_array(path_or_arrays, "features")}
        for name, array in arrays.items():
            check_vectors(array, f"features of {name!r}")
        sources = {
            name: VectorSource.from_array(x, f"features of {name!r}") for name, x in arrays.items()
        }
        vectors = Vectors("arrays", sources)
    if set(vectors.sources) not in ({"all"}, {"train", "test"}):
        raise CriticalMassError(f"splits must be 'train' and 'test', got {sorted(vectors.sources)}")
    return vectors


def _as_array(values: Any, name: str) -> NDArray[Any]:
    """Convert an argument to an array; ``name`` is that of the argument.

    Raises
    ------
    CriticalMassError: its rows differ in length.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        text = " ".join(repr(values).split())[:80]
        raise CriticalMassError(
            f"{name}={text} cannot be made an array; all rows must have the same length"
        ) from error


def _read_labels(vectors: Vectors, labels: Any) -> tuple[Mapping[str, NDArray[Any]] | None, str]:
    """Read the labels of every part, None without labels; return them and their source."""
    if labels is None and not vectors.labels:
        write_line(f"{vectors.name} without labels: measures such as cka and retrieval need none")
        return None, "none"
    if labels is None:
        values, source = dict(vectors.labels), f"as in {vectors.name}"
    elif isinstance(labels, (str, Path)):
        array, source = read_column_or_file(labels, vectors, "label")
        values = {"all": array}
    elif isinstance(labels, Mapping):
        values = {str(name): _as_array(x, "labels") for name, x in labels.items()}
        source = "as given"
    else:
        values, source = {"all": _as_array(labels, "labels")}, "as given"
    if set(values) != set(vectors.sources):
        raise CriticalMassError(
            f"features have the splits {sorted(vectors.sources)}, labels {sorted(values)}; "
            "give both the same splits"
        )
    return values, source


def _encode_classes(
    sources: Mapping[str, VectorSource], labels: Mapping[str, NDArray[Any]] | None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """Return the class names, and part -> (n,) class numbers."""
    if labels is None:
        return UNLABELLED, {n: np.zeros(s.shape[0], np.int64) for n, s in sources.items()}
    for name, source in sources.items():
        if labels[name].shape != (source.shape[0],):
            raise CriticalMassError(
                f"{source.shape[0]} features of {name!r} but labels of shape "
                f"{labels[name].shape}; give one label per vector"
            )
    class_names, class_numbers = encode_labels([labels[name] for name in sources])
    return class_names, dict(zip(sources, class_numbers, strict=True))


def _assign_rows(
    vectors: Vectors, labels: Mapping[str, NDArray[np.int64]], split: Any
) -> tuple[dict[str, SplitRows], str]:
    """Assign rows to splits; return split -> its rows, and a description of the rule."""
    if "all" not in vectors.sources:
        if split is not None:
            raise CriticalMassError("the vectors are split already; leave out split=")
        splits = {
            name: SplitRows(name, np.arange(source.shape[0]))
            for name, source in vectors.sources.items()
        }
        return splits, "as given"
    if split is None:
        mask = stratified_test_mask(labels["all"], TEST_SHARE, SPLIT_SEED)
        rule = default_split_rule(labels["all"])
        rows = {"train": np.flatnonzero(~mask), "test": np.flatnonzero(mask)}
    else:
        if isinstance(split, (str, Path)):
            values, rule = read_column_or_file(split, vectors, "split")
        else:
            values, rule = _as_array(split, "split"), "as given"
        rows = rows_by_split(values, vectors.sources["all"].shape[0])
    return {name: SplitRows("all", indices) for name, indices in rows.items()}, rule


def _manifest_header(
    vectors: Vectors,
    labels: Mapping[str, NDArray[np.int64]],
    class_names: tuple[str, ...],
    notes: Mapping[str, str],
) -> dict[str, Any]:
    """Describe the import for the manifest; equal headers mean equal content."""
    digest = hashlib.sha256()
    if vectors.path is not None:
        digest.update(file_digest(vectors.path).encode())
    for name, source in vectors.sources.items():
        digest.update(f"{name}{source.dtype.str}{source.shape}".encode())
        if vectors.path is None:
            for chunk in source.chunks():
                digest.update(np.ascontiguousarray(chunk).tobytes())
        digest.update(labels[name].tobytes())
    digest.update(repr(class_names).encode())
    is_half = all(source.dtype == np.float16 for source in vectors.sources.values())
    return {
        "model": {"spec": "imported", "name": "imported", "modality": "vector"},
        "dataset": {
            "spec": vectors.name,
            "name": Path(vectors.name).stem,
            "modality": "vector",
            "digest": digest.hexdigest(),
            "class_names": list(class_names),
            "notes": dict(notes),
        },
        "layers": {
            LAYER: {
                "place": "imported",
                "pooling": "none",
                "dtype": "float16" if is_half else "float32",
                "shape": [next(iter(vectors.sources.values())).shape[1]],
            }
        },
        "engine": {"name": "imported"},
        "versions": {name: version(name) for name in ("criticalmass", "numpy")},
    }


_SPLIT_NAMES = {
    "train": "train",
    "test": "test",
    "val": "val",
    "validation": "val",
    "valid": "val",
}


def read_column_or_file(
    column_or_path: str | Path, vectors: Vectors, what: str
) -> tuple[NDArray[Any], str]:
    """Read one value per vector.

    Parameters
    ----------
    column_or_path: a column of the vectors' table, an ``.npy`` file, or a ``.txt`` file with one
        value per line. A column takes precedence over a file of the same name.
    vectors: the vectors that the values belong to.
    what: "label" or "split", for errors.

    Returns
    -------
    (n,) values, and a description of their source.

    Raises
    ------
    CriticalMassError: neither a column nor a file of that name, or a line without a value.
    """
    name = str(column_or_path)
    if vectors.read_column is not None and isinstance(column_or_path, str):
        values = vectors.read_column(name)
        if values is not None:
            return values, f"column {name!r}"
    path = Path(column_or_path)
    if path.suffix == ".txt" and path.is_file():
        return _read_lines(path, what), f"file {path.name}"
    if path.suffix == ".npy" and path.is_file():
        try:
            return np.asarray(np.load(path, allow_pickle=False)), f"file {path.name}"
        except (ValueError, OSError, EOFError) as error:
            raise CriticalMassError(f"{name!r} cannot be read as an array: {error}") from error
    if path.is_file():
        raise CriticalMassError(
            f"{name!r} must be a .npy file, or a .txt file with one {what} per line"
        )
    files = [p.name for p in path.parent.glob("*") if p.suffix in (".txt", ".npy")]
    candidates = [*vectors.column_names, *files]
    close = difflib.get_close_matches(path.name, candidates, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    column = "column and no " if vectors.column_names else ""
    raise CriticalMassError(f"no {column}file {name!r} to read a {what} per vector from{hint}")


def _read_lines(path: Path, what: str) -> NDArray[Any]:
    """Read one value per line; integers if all are."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise CriticalMassError(f"{str(path)!r} is no UTF-8 text: {error}") from error
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise CriticalMassError(
            f"line {lines.index('') + 1} of {str(path)!r} is empty; write one {what} per line"
        )
    if not lines:
        raise CriticalMassError(f"{str(path)!r} is empty; write one {what} per line")
    return as_integer_labels(np.array(lines))


def rows_by_split(split: NDArray[Any], n: int) -> dict[str, NDArray[np.intp]]:
    """Convert one split name per vector, or a mask of the test samples, to rows of each split.

    Raises
    ------
    CriticalMassError: another length or other names, or no samples for training or testing.
    """
    if split.shape != (n,):
        raise CriticalMassError(f"split has shape {split.shape}, but there are {n} samples")
    if split.dtype == np.bool_:
        split = np.where(split, "test", "train")
    names = {str(name) for name in np.unique(split)} if split.dtype.kind in "US" else set()
    if not names or not names <= _SPLIT_NAMES.keys():
        raise CriticalMassError(
            "split must hold 'train' and 'test' (and 'val'), or be a mask of test samples"
        )
    roles = {name: _SPLIT_NAMES[name] for name in names}
    if "test" not in names:
        roles = {name: "test" if role == "val" else role for name, role in roles.items()}
    rows = {
        role: np.flatnonzero(np.isin(split, [name for name in names if roles[name] == role]))
        for role in ("train", "test", "val")
    }
    if not rows["train"].size or not rows["test"].size:
        raise CriticalMassError("split leaves train or test without samples")
    return {role: indices for role, indices in rows.items() if indices.size}
