"""Stores of several labellings of the same samples, which share one store's features.

The store of a labelling is a folder inside the store with the features, ``tasks/NAME``. Its
manifest is that of a whole store (format version 4), and its features are the files of the store
around it, with their digests. Samples without a label are left out of this labelling only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.storage.class_counts import describe_classes
from criticalmass.storage.features import TASKS, FeatureStore
from criticalmass.storage.features_writer import safe_file_name
from criticalmass.storage.files import TASK_VERSION, write_array, write_json, write_manifest

MISSING = -1
"""The class number of a sample without a label."""


@dataclass(frozen=True)
class Labelling:
    """One labelling of the samples of a dataset.

    Attributes
    ----------
    name: its name, e.g. that of the column.
    class_names: the name of each class.
    labels: split -> (n_samples,) class ids, `MISSING` without a label.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Mapping[str, NDArray[np.int64]]

    def labelled(self) -> dict[str, NDArray[np.int64]]:
        """Return split -> the class ids of the samples that have a label."""
        return {split: numbers[numbers != MISSING] for split, numbers in self.labels.items()}

    def n_missing(self) -> dict[str, int]:
        """Return split -> number of samples without a label, for the splits with such samples."""
        counts = {split: int((y == MISSING).sum()) for split, y in self.labels.items()}
        return {split: count for split, count in counts.items() if count}


def write_task_store(store: FeatureStore, labelling: Labelling) -> FeatureStore:
    """Write the store of one labelling into the store with the features, and open it.

    Parameters
    ----------
    store: the store with the features.
    labelling: the labels of its samples.

    Raises
    ------
    CriticalMassError: if no sample of a split has a label.
    """
    folder = store.path / TASKS / safe_file_name(labelling.name)
    splits: dict[str, Any] = {}
    inputs = hashlib.sha256(str(store.manifest["dataset"]["digest"]).encode())
    for split, entry in store.manifest["splits"].items():
        numbers = labelling.labels[split]
        rows = np.flatnonzero(numbers != MISSING)
        if not rows.size:
            raise CriticalMassError(
                f"no sample of the split {split!r} has a label {labelling.name!r}; leave this "
                "label out"
            )
        all_ids = store.sample_ids(split)
        labels, ids = f"labels/{safe_file_name(split)}.npy", f"ids/{safe_file_name(split)}.json"
        y = numbers[rows].astype(np.int64)
        names = [all_ids[row] for row in rows]
        splits[split] = {
            **entry,
            "n_samples": int(rows.size),
            "labels": {"path": labels, "sha256": write_array(folder / labels, y)},
            "ids": {"path": ids, "sha256": write_json(folder / ids, names)},
        }
        if rows.size < numbers.size:
            index = f"rows/{safe_file_name(split)}.npy"
            digest = write_array(folder / index, rows.astype(np.int64))
            splits[split]["rows"] = {"path": index, "sha256": digest}
            if split == "test":
                inputs.update(digest.encode())
    manifest = {
        **store.manifest,
        "format_version": TASK_VERSION,
        "task": labelling.name,
        "dataset": _dataset_entry(store.manifest["dataset"], labelling, inputs.hexdigest(), splits),
        "splits": splits,
    }
    write_manifest(folder, manifest)
    return FeatureStore.open(folder)


def _dataset_entry(
    inputs: Mapping[str, Any], labelling: Labelling, inputs_digest: str, splits: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe the dataset of one labelling for its manifest.

    ``inputs_digest`` is equal for the labellings that have the same test samples.
    """
    digest = hashlib.sha256(inputs_digest.encode())
    for class_name in labelling.class_names:
        digest.update(b"\0class" + class_name.encode())
    for split, entry in splits.items():
        digest.update(f"\0{split}{entry['labels']['sha256']}".encode())
    notes = {**inputs.get("notes", {}), "label": labelling.name}
    if labelling.n_missing():
        notes["samples_without_label"] = labelling.n_missing()
    if {"train", "test"} <= splits.keys():
        problems = describe_classes(labelling.labelled(), labelling.class_names)
        if problems:
            notes["classes"] = [problem.text for problem in problems]
    return {
        **inputs,
        "name": f"{inputs['name']}-{labelling.name}",
        "digest": digest.hexdigest(),
        "inputs_digest": inputs_digest,
        "class_names": list(labelling.class_names),
        "notes": notes,
    }
