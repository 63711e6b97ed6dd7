"""Rules that choose neurons: each gives an order (its prefixes are the subsets) or a projection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.statistics import FloatArray, IndexArray, Moments

DEFAULT_FRACTIONS: tuple[float, ...] = (
    0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Selection:
    """What a selector chose on one layer: exactly one of ``order`` and ``projection`` is set.

    Attributes
    ----------
    selector: name of the rule.
    seed: the seed that fixed it; 0 for a deterministic rule.
    order: (n_neurons,) permutation of neurons; the subset of size k is its first k.
    projection: (n_neurons, n_neurons) float64; the projection to k dimensions is its first
        k columns.
    """

    selector: str
    seed: int
    order: IndexArray | None = None
    projection: FloatArray | None = None


@dataclass(frozen=True)
class SelectorInfo:
    """One entry of the registry.

    Attributes
    ----------
    name: what the user writes.
    is_random: whether the seed matters.
    is_projection: whether it gives a projection instead of an order.
    description: one line for ``criticalmass list``.
    choose: the rule, (moments, generator) -> order or projection.
    """

    name: str
    is_random: bool
    is_projection: bool
    description: str
    choose: Callable[[Moments, np.random.Generator], npt.NDArray[np.generic]]


def grid_for(fractions: Iterable[float], n_neurons: int) -> tuple[tuple[float, int], ...]:
    """Turn requested fractions into pairs (fraction, n_kept), ascending in n_kept.

    ``n_kept = max(1, round(fraction * n_neurons))``. Fractions that keep the same number of
    neurons are one cell: the smallest of them stands.

    Raises
    ------
    CriticalMassError: for no fraction, or one outside (0, 1].
    """
    wanted = sorted(float(f) for f in fractions)
    if not wanted:
        raise CriticalMassError("no fractions given; ask for at least one in (0, 1]")
    if n_neurons < 1:
        raise CriticalMassError(f"n_neurons={n_neurons} but a layer has at least 1 neuron")
    grid: dict[int, float] = {}
    for fraction in wanted:
        if not 0.0 < fraction <= 1.0:
            raise CriticalMassError(f"fraction {fraction} is outside (0, 1]; 1 is the whole layer")
        grid.setdefault(max(1, round(fraction * n_neurons)), fraction)
    return tuple((fraction, n_kept) for n_kept, fraction in grid.items())


def sizes_for(fractions: Iterable[float], n_neurons: int) -> tuple[int, ...]:
    """Return the distinct subset sizes of `grid_for`, ascending."""
    return tuple(n_kept for _, n_kept in grid_for(fractions, n_neurons))


def selector_info(name: str) -> SelectorInfo:
    """Look a selector up.

    Raises
    ------
    CriticalMassError: for an unknown name, with a did-you-mean.
    """
    if name not in SELECTORS:
        raise unknown_name("selector", name, SELECTORS)
    return SELECTORS[name]


def select(name: str, moments: Moments, *, seed: int) -> Selection:
    """Apply a selector to one layer.

    Parameters
    ----------
    name: a key of `SELECTORS`.
    moments: of the layer, on the training split.
    seed: fixes a random rule; a deterministic one ignores it and records 0.

    Raises
    ------
    CriticalMassError: for an unknown name or a negative seed.
    """
    info = selector_info(name)
    if seed < 0:
        raise CriticalMassError(f"seed={seed} but seeds are 0 or more")
    kept_seed = seed if info.is_random else 0
    chosen = info.choose(moments, np.random.default_rng(kept_seed))
    if info.is_projection:
        return Selection(name, kept_seed, projection=chosen.astype(np.float64, copy=False))
    return Selection(name, kept_seed, order=chosen.astype(np.intp, copy=False))


def _random(moments: Moments, rng: np.random.Generator) -> npt.NDArray[np.generic]:
    return rng.permutation(moments.n_neurons)


def _first(moments: Moments, rng: np.random.Generator) -> npt.NDArray[np.generic]:
    return np.arange(moments.n_neurons)


def _norm_low(moments: Moments, rng: np.random.Generator) -> npt.NDArray[np.generic]:
    """Ascending L2 norm of the uncentred column; ties keep the layer's order."""
    squared = np.diagonal(moments.scatter) + moments.n * moments.mean**2
    return np.argsort(squared, kind="stable")


def _norm_high(moments: Moments, rng: np.random.Generator) -> npt.NDArray[np.generic]:
    """Descending L2 norm of the uncentred column; ties keep the layer's order."""
    squared = np.diagonal(moments.scatter) + moments.n * moments.mean**2
    return np.argsort(-squared, kind="stable")


def _pca_top(moments: Moments, rng: np.random.Generator) -> npt.NDArray[np.generic]:
    return _principal_axes(moments)[:, ::-1]


def _pca_bottom(moments: Moments, rng: np.random.Generator) -> npt.NDArray[np.generic]:
    return _principal_axes(moments)


def _principal_axes(moments: Moments) -> FloatArray:
    """Eigenvectors of the covariance as columns, ascending eigenvalue.

    An eigenvector's sign is free: its largest entry by magnitude is made positive.
    """
    from scipy.linalg import eigh

    _, axes = eigh(moments.covariance, overwrite_a=True, check_finite=False)
    columns = np.arange(axes.shape[1])
    largest = axes[np.argmax(np.abs(axes), axis=0), columns]
    return np.asarray(axes * np.where(largest < 0.0, -1.0, 1.0), dtype=np.float64)


def _projection_gaussian(moments: Moments, rng: np.random.Generator) -> npt.NDArray[np.generic]:
    d = moments.n_neurons
    # Drawn a column at a time, so that a column never depends on how many follow it.
    return np.asarray(rng.standard_normal((d, d)).T / np.sqrt(d))


def _projection_uniform(moments: Moments, rng: np.random.Generator) -> npt.NDArray[np.generic]:
    d = moments.n_neurons
    columns = rng.random((d, d)).T
    return np.asarray(columns / np.linalg.norm(columns, axis=0))


_ALL = (
    SelectorInfo("random", True, False, "a random permutation of the neurons", _random),
    SelectorInfo("first", False, False, "the layer's own order", _first),
    SelectorInfo(
        "pca-top", False, True, "projection on the principal axes of most variance", _pca_top
    ),
    SelectorInfo(
        "pca-bottom", False, True, "projection on the principal axes of least variance", _pca_bottom
    ),
    SelectorInfo(
        "projection-gaussian",
        True,
        True,
        "random projection, entries N(0, 1)/sqrt(n_neurons)",
        _projection_gaussian,
    ),
    SelectorInfo(
        "projection-uniform",
        True,
        True,
        "random projection of the paper: uniform [0, 1) columns, L2-normalised",
        _projection_uniform,
    ),
    SelectorInfo("norm-high", False, False, "neurons of largest L2 norm first", _norm_high),
    SelectorInfo("norm-low", False, False, "neurons of smallest L2 norm first", _norm_low),
)
SELECTORS: Mapping[str, SelectorInfo] = MappingProxyType({info.name: info for info in _ALL})
