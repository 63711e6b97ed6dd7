"""Backends of a sweep: the general ones, and one that distributes the rows of a probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from criticalmass.core.backends import BACKENDS, Backend, get_backend


def _ray_rows(*address: Any, **options: Any) -> Backend:
    """Create the backend ``"ray-rows"``; Ray is imported here and not with this module."""
    from criticalmass.measures.logistic.ray_rows import RayRows

    return RayRows(*address, **options)


#: Name -> constructor of the backend.
SWEEP_BACKENDS: Mapping[str, Callable[..., Backend]] = {**BACKENDS, "ray-rows": _ray_rows}


def get_sweep_backend(backend: str | Backend) -> Backend:
    """Look up a backend of a sweep.

    Parameters
    ----------
    backend: as `get_backend` takes it, or ``"ray-rows"``, which distributes the rows over the
        workers of a Ray cluster.

    Raises
    ------
    CriticalMassError: the name is unknown (the message suggests one), or an address is
        ``"local"``.
    """
    return get_backend(backend, SWEEP_BACKENDS)
