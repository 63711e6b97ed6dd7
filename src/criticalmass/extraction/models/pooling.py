"""Pooling of the positions or tokens of a layer to one vector per sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from criticalmass.errors import CriticalMassError, unknown_name

POOLS = ("mean", "max", "flatten", "cls")


def check_pool(pool: str) -> str:
    """Return the name of a pooling if it is known.

    Raises
    ------
    CriticalMassError: the name is unknown.
    """
    if pool not in POOLS:
        raise unknown_name("pooling", pool, POOLS)
    return pool


def pool_values(value: Any, pool: str, *, channels_last: bool, has_class: bool) -> tuple[Any, str]:
    """Pool the output of a layer to vectors.

    Parameters
    ----------
    value: torch tensor or array: (n, d), (n, tokens, d) or a map, (n, channels, height, width).
    pool: one of ``POOLS``; (n, d) is returned unchanged.
    channels_last: whether maps are (n, height, width, channels).
    has_class: whether the first token represents the whole sample.

    Returns
    -------
    The vectors, (n, n_neurons), and a description of the pooling.

    Raises
    ------
    CriticalMassError: another shape, or ``cls`` for a layer without a class token. The text
        completes a sentence that ends in "has".
    """
    kinds = {3: ("tokens", (1,)), 4: ("positions", (1, 2) if channels_last else (2, 3))}
    if value.ndim == 2:
        return value, "none"
    if value.ndim not in kinds:
        raise CriticalMassError(
            f"the shape {tuple(value.shape)}; only (n, d), (n, tokens, d) and "
            "(n, channels, height, width) can be read"
        )
    kind, axes = kinds[value.ndim]
    if pool == "flatten":
        return value.reshape(value.shape[0], -1), f"flattened {kind}"
    if pool == "cls":
        if value.ndim != 3 or not has_class:
            raise CriticalMassError(
                f"the shape {tuple(value.shape)} without a class token; use pool='mean', 'max' or "
                "'flatten'"
            )
        return value[:, 0], "class token"
    if pool == "max":
        maximum = value.max(axis=axes) if isinstance(value, np.ndarray) else value.amax(dim=axes)
        return maximum, f"maximum over {kind}"
    mean = value.mean(axis=axes) if isinstance(value, np.ndarray) else value.mean(dim=axes)
    return mean, f"mean over {kind}"
