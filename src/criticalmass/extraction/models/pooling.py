"""Pooling of the positions or tokens of a layer to one vector per sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from criticalmass.errors import CriticalMassError, unknown_name

POOLS = ("mean", "max", "flatten", "cls", "last")


def check_pool(pool: str) -> str:
    """Return the name of a pooling if it is known.

    Raises
    ------
    CriticalMassError: the name is unknown.
    """
    if pool not in POOLS:
        raise unknown_name("pooling", pool, POOLS)
    return pool


@dataclass(frozen=True)
class TokenLayout:
    """What the axes of a network's layers are.

    Attributes
    ----------
    channels_last: whether maps are (n, height, width, channels).
    has_class: whether the first token represents the whole sample.
    is_text: whether tokens are those of a text without padding, so that the last one has seen the
        whole text if the network is causal.
    """

    channels_last: bool = False
    has_class: bool = True
    is_text: bool = False


def pool_values(value: Any, pool: str, layout: TokenLayout) -> tuple[Any, str]:
    """Pool the output of a layer to vectors.

    Parameters
    ----------
    value: torch tensor or array: (n, d), (n, tokens, d) or a map, (n, channels, height, width).
    pool: one of ``POOLS``; (n, d) is returned unchanged.
    layout: what the axes are.

    Returns
    -------
    The vectors, (n, n_neurons), and a description of the pooling.

    Raises
    ------
    CriticalMassError: another shape, ``cls`` for a layer without a class token, or ``last`` for a
        layer that has no tokens of a text. The text completes a sentence that ends in "has".
    """
    kinds = {3: ("tokens", (1,)), 4: ("positions", (1, 2) if layout.channels_last else (2, 3))}
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
        if value.ndim != 3 or not layout.has_class:
            others = "'mean', 'max' or 'last'" if layout.is_text else "'mean', 'max' or 'flatten'"
            raise CriticalMassError(
                f"the shape {tuple(value.shape)} without a class token; use pool={others}"
            )
        return value[:, 0], "class token"
    if pool == "last":
        if value.ndim != 3 or not layout.is_text:
            raise CriticalMassError(
                f"the shape {tuple(value.shape)}, not tokens of a text, which pool='last' needs; "
                "use pool='mean', 'max' or 'flatten'"
            )
        return value[:, -1], "last token"
    if pool == "max":
        maximum = value.max(axis=axes) if isinstance(value, np.ndarray) else value.amax(dim=axes)
        return maximum, f"maximum over {kind}"
    mean = value.mean(axis=axes) if isinstance(value, np.ndarray) else value.mean(dim=axes)
    return mean, f"mean over {kind}"
