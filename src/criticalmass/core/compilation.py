"""Compilation by numba, with a cache on disk where a folder for one can be written."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import numba

from criticalmass.core.progress import write_line

Function = TypeVar("Function", bound=Callable[..., Any])


def njit(signatures: Any = None, **options: Any) -> Callable[[Function], Function]:
    """Return ``numba.njit`` with its cache, or without it in a read-only installation.

    numba caches beside the source file, or else in the user's cache folder. In a container both
    may be read-only, and numba then raises an error when a module is imported.

    Parameters
    ----------
    signatures, options: of ``numba.njit``.
    """

    def compile_function(function: Function) -> Function:
        if _may_cache(function):
            try:
                return cast("Function", numba.njit(signatures, cache=True, **options)(function))
            except RuntimeError as error:
                if "cannot cache" not in str(error):
                    raise
        _write_note()
        return cast("Function", numba.njit(signatures, **options)(function))

    return compile_function


def _may_cache(function: Function) -> bool:
    """Return whether numba looks for a folder in the right places.

    A user without a home has the cache folder ``~/.cache``, and numba would create a folder of the
    name ``~`` in the working folder.
    """
    has_home = os.path.expanduser("~") != "~"
    beside = os.path.dirname(function.__code__.co_filename)
    return has_home or "NUMBA_CACHE_DIR" in os.environ or os.access(beside, os.W_OK)


@cache
def _write_note() -> None:
    """Write once per process that compiled code is not cached."""
    write_line(
        "compiled code is not cached, because no folder for it can be written: each command "
        "compiles it again; set NUMBA_CACHE_DIR to a folder that can be written"
    )
