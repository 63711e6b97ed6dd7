"""Import of optional packages."""

from __future__ import annotations

import importlib
from types import ModuleType

from criticalmass.errors import missing_extra


def import_package(package: str, extra: str) -> ModuleType:
    """Import a package that an extra of this distribution installs.

    Parameters
    ----------
    package: its import name.
    extra: the name of the extra.

    Raises
    ------
    MissingExtraError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package.partition(".")[0]:
            raise
        raise missing_extra(package, extra) from error
