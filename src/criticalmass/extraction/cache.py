"""The folder for downloaded data."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from criticalmass.errors import DataUnavailableError


def cache_folder() -> Path:
    """Return the folder for downloaded data: ``CRITICALMASS_CACHE``, or the user's cache."""
    setting = os.environ.get("CRITICALMASS_CACHE")
    if setting:
        return Path(setting)
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("criticalmass"))


def make_cache_folder(folder: Path) -> None:
    """Create a folder of the cache.

    Raises
    ------
    DataUnavailableError: it cannot be written; the user's home may be missing or read-only.
    """
    try:
        if not folder.is_absolute() and "~" in folder.parts:
            raise FileNotFoundError(0, "there is no home folder")
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DataUnavailableError(
            f"downloads cannot be stored in {str(folder)!r} ({error.strerror}); set "
            "CRITICALMASS_CACHE to a folder that can be written"
        ) from error
