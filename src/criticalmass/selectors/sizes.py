"""Subset sizes from requested fractions."""

from __future__ import annotations

from collections.abc import Iterable

from criticalmass.errors import CriticalMassError

DEFAULT_FRACTIONS: tuple[float, ...] = (
    0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0,
)  # fmt: skip


def grid_for(fractions: Iterable[float], n_neurons: int) -> tuple[tuple[float, int], ...]:
    """Return pairs (fraction, n_kept) for requested fractions, ascending in n_kept.

    ``n_kept = max(1, round(fraction * n_neurons))``. If several fractions give the same n_kept,
    only the smallest is returned.

    Raises
    ------
    CriticalMassError: for no fraction, or one outside (0, 1].
    """
    ascending = sorted(float(f) for f in fractions)
    if not ascending:
        raise CriticalMassError("no fractions given; give at least one in (0, 1]")
    if n_neurons < 1:
        raise CriticalMassError(f"n_neurons={n_neurons} but a layer has at least 1 neuron")
    grid: dict[int, float] = {}
    for fraction in ascending:
        if not 0.0 < fraction <= 1.0:
            raise CriticalMassError(f"fraction {fraction} is outside (0, 1]; 1 is the whole layer")
        grid.setdefault(max(1, round(fraction * n_neurons)), fraction)
    return tuple((fraction, n_kept) for n_kept, fraction in grid.items())


def sizes_for(fractions: Iterable[float], n_neurons: int) -> tuple[int, ...]:
    """Return the distinct subset sizes of `grid_for`, ascending."""
    return tuple(n_kept for _, n_kept in grid_for(fractions, n_neurons))
