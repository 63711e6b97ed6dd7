"""The folder of an export: written atomically, with a description in ``export.json``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.export.readme import write_readme
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.files import scratch_path, write_json

EXPORT_FILE = "export.json"
Metadata = dict[str, Any]
_RECORD_KEYS = (
    "model",
    "model_spec",
    "weights_digest",
    "preprocessing",
    "dataset",
    "layer",
    "measure",
    "n_neurons",
    "n_kept",
    "selector",
    "seed",
    "precision",
    "safe",
    "class_names",
    "promise",
)


def write_export_folder(
    out: Path, slim: SlimModel, name: str, write: Callable[[Path], Metadata]
) -> Path:
    """Write an export into a temporary folder, then move it to its path.

    Parameters
    ----------
    out: path of the export; an earlier export there is replaced.
    slim: the exported model.
    name: name of the format.
    write: writes the files into a folder and returns its entries of ``export.json``.

    Raises
    ------
    CriticalMassError: if the path exists and is no export.
    """
    _check_replaceable(out)
    target = out.resolve()
    scratch, replaced = scratch_path(target), scratch_path(target, "old")
    scratch.mkdir(parents=True)
    try:
        metadata = write(scratch)
        write_readme(scratch, slim, name, metadata)
        write_json(scratch / EXPORT_FILE, {**describe_export(slim, name), **metadata})
        if target.exists():
            os.replace(target, replaced)
        os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return out


def describe_export(slim: SlimModel, name: str) -> Metadata:
    """Return what every ``export.json`` says: format, version, and the kept neurons."""
    return {
        "format": f"criticalmass-export-{name}",
        "format_version": 1,
        "criticalmass": version("criticalmass"),
        **{key: slim.record.get(key) for key in _RECORD_KEYS},
    }


def read_description(folder: Path) -> Metadata:
    """Return the ``export.json`` of an export that was written."""
    metadata: Metadata = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))
    return metadata


def _check_replaceable(out: Path) -> None:
    if not out.exists() or (out / EXPORT_FILE).is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise CriticalMassError(
            f"{str(out)!r} exists and holds no earlier export; choose another folder"
        )
