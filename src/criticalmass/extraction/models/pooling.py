"""How the map or the tokens that a layer gives become one vector a sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from criticalmass.errors import CriticalMassError, unknown_name

POOLS = ("mean", "max", "flatten", "cls")


def check_pool(pool: str) -> str:
    """Return a pooling's name if there is one of that name.

    Raises
    ------
    CriticalMassError: there is none.
    """
    if pool not in POOLS:
        raise unknown_name("pooling", pool, POOLS)
    return pool


def pooled(value: Any, pool: str, *, channels_last: bool, has_class: bool) -> tuple[Any, str]:
    """Make vectors of what a layer gives.

    Parameters
    ----------
    value: torch tensor or array: (n, d), (n, tokens, d) or a map, (n, channels, height, width).
    pool: one of ``POOLS``; a layer of vectors is left as it is.
    channels_last: whether maps are (n, height, width, channels).
    has_class: whether the first token stands for the whole sample.

    Returns
    -------
    (n, n_neurons), and what was done in words.

    Raises
    ------
    CriticalMassError: another shape, or ``cls`` where no token stands for the whole.
    """
    kinds = {3: ("tokens", (1,)), 4: ("positions", (1, 2) if channels_last else (2, 3))}
    if value.ndim == 2:
        return value, "none"
    if value.ndim not in kinds:
        raise CriticalMassError(
            f"the shape {tuple(value.shape)}; only (n, d), (n, tokens, d) and "
            "(n, channels, height, width) can be read"
        )
    what, axes = kinds[value.ndim]
    if pool == "flatten":
        return value.reshape(value.shape[0], -1), f"flattened {what}"
    if pool == "cls":
        if value.ndim != 3 or not has_class:
            raise CriticalMassError(
                f"the shape {tuple(value.shape)} without a class token; pool with mean, max or "
                "flatten"
            )
        return value[:, 0], "class token"
    if pool == "max":
        top = value.max(axis=axes) if isinstance(value, np.ndarray) else value.amax(dim=axes)
        return top, f"maximum over {what}"
    middle = value.mean(axis=axes) if isinstance(value, np.ndarray) else value.mean(dim=axes)
    return middle, f"mean over {what}"
