"""Backends of a sweep: those of every stage, and the one that spreads rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from criticalmass.core.backends import BACKENDS, Backend, get_backend


def _ray_rows(*address: Any, **options: Any) -> Backend:
    """Import Ray only when it is asked for."""
    from criticalmass.measures.logistic.ray_rows import RayRows

    return RayRows(*address, **options)


#: Name -> what makes the backend.
SWEEP_BACKENDS: Mapping[str, Callable[..., Backend]] = {**BACKENDS, "ray-rows": _ray_rows}


def get_sweep_backend(backend: str | Backend) -> Backend:
    """Look up a backend of a sweep.

    Parameters
    ----------
    backend: as `get_backend` takes it, or ``"ray-rows"``: rows are spread over the workers of a
        Ray cluster.

    Raises
    ------
    CriticalMassError: for an unknown name, with a did-you-mean, or an address of ``"local"``.
    """
    return get_backend(backend, SWEEP_BACKENDS)
