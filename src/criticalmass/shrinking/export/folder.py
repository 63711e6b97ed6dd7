"""The folder of an export: whole or absent, and it says what it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.files import scratch_beside, write_json

ABOUT = "export.json"
Facts = dict[str, Any]
_FROM_RECORD = (
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


def written(out: Path, slim: SlimModel, name: str, write: Callable[[Path], Facts]) -> Path:
    """Write an export beside its place, then put it there at once.

    Parameters
    ----------
    out: the place; an earlier export there is replaced.
    slim: what is exported.
    name: of the format.
    write: fills a folder and returns what ``export.json`` says besides.

    Raises
    ------
    CriticalMassError: something that is no export is there.
    """
    _check_free(out)
    place = out.resolve()
    part, old = scratch_beside(place), scratch_beside(place, "old")
    part.mkdir(parents=True)
    try:
        facts = write(part)
        write_json(part / ABOUT, {**about(slim, name), **facts})
        if place.exists():
            os.replace(place, old)
        os.replace(part, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return out


def about(slim: SlimModel, name: str) -> Facts:
    """Say what was kept of what; JSON-able."""
    return {
        "format": f"criticalmass-export-{name}",
        "format_version": 1,
        "criticalmass": version("criticalmass"),
        **{key: slim.record.get(key) for key in _FROM_RECORD},
    }


def _check_free(out: Path) -> None:
    if not out.exists() or (out / ABOUT).is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise CriticalMassError(
            f"{str(out)!r} is there and holds no earlier export; choose another folder"
        )
