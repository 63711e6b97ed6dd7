"""The registry of selectors. A selector returns an order of neurons or a projection.

The subsets of an order are its prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray, Moments
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.selectors import clusters, greedy, pivoting, supervised, unsupervised
from criticalmass.selectors.inputs import Needs, SelectorInput


@dataclass(frozen=True, eq=False)
class Selection:
    """The result of a selector on one layer; exactly one of ``order`` and ``projection`` is set.

    Attributes
    ----------
    selector: name of the selector.
    seed: the seed that was used; 0 for a deterministic selector.
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
    name: name of the selector, as the user writes it.
    needs: what it needs of the layer: "nothing" (except the width), "moments", "classes" (moments
        with class counts and means) or "probe" (a logistic probe on the whole layer).
    choose: the rule, (layer, generator) -> order or projection.
    description: one line for ``criticalmass list``.
    is_random: whether the result depends on the seed.
    is_projection: whether it returns a projection instead of an order.
    version: raised when the rule changes, so that old cells are computed again.
    """

    name: str
    needs: Needs
    choose: Callable[[SelectorInput, np.random.Generator], npt.NDArray[np.generic]]
    description: str
    is_random: bool = False
    is_projection: bool = False
    version: int = 1

    @property
    def needs_labels(self) -> bool:
        """Whether the selector needs labels."""
        return self.needs in ("classes", "probe")


def selector_version(name: str) -> int:
    """Return the version of a selector; 1 for other names, such as that of the whole layer."""
    return SELECTORS[name].version if name in SELECTORS else 1


def is_fixed_projection(name: str) -> bool:
    """Whether a name is that of a projection without randomness."""
    info = SELECTORS.get(name)
    return info is not None and info.is_projection and not info.is_random


def selector_info(name: str) -> SelectorInfo:
    """Return the registry entry of a selector.

    Raises
    ------
    CriticalMassError: if the name is unknown; the message suggests a similar one.
    """
    if name not in SELECTORS:
        raise unknown_name("selector", name, SELECTORS)
    return SELECTORS[name]


def select(name: str, layer: SelectorInput | Moments, *, seed: int) -> Selection:
    """Apply a selector to one layer.

    Parameters
    ----------
    name: a key of `SELECTORS`.
    layer: the layer on the training split; moments are enough for all selectors except those
        that need a probe.
    seed: of a random selector; a deterministic one ignores it and records 0.

    Raises
    ------
    CriticalMassError: for an unknown name or a negative seed, or if the selector needs labels or
        rows that ``layer`` does not have.
    """
    info = selector_info(name)
    if seed < 0:
        raise CriticalMassError(f"seed={seed} but a seed must be 0 or more")
    used_seed = seed if info.is_random else 0
    if isinstance(layer, Moments):
        layer = SelectorInput(layer.n_neurons, known_moments=layer)
    result = info.choose(layer, np.random.default_rng(used_seed))
    if info.is_projection:
        return Selection(name, used_seed, projection=result.astype(np.float64, copy=False))
    return Selection(name, used_seed, order=result.astype(np.intp, copy=False))


_ALL = (
    SelectorInfo(
        "random",
        "nothing",
        unsupervised.random,
        "a random permutation of the neurons",
        is_random=True,
    ),
    SelectorInfo("first", "nothing", unsupervised.first, "the layer's own order"),
    SelectorInfo(
        "pca-top",
        "moments",
        unsupervised.pca_top,
        "projection on the principal axes of most variance",
        is_projection=True,
    ),
    SelectorInfo(
        "pca-bottom",
        "moments",
        unsupervised.pca_bottom,
        "projection on the principal axes of least variance",
        is_projection=True,
    ),
    SelectorInfo(
        "lda-top",
        "classes",
        supervised.lda_top,
        "projection on the discriminant axes of the classes (LDA), then on principal axes",
        is_projection=True,
    ),
    SelectorInfo(
        "projection-gaussian",
        "nothing",
        unsupervised.projection_gaussian,
        "random projection, entries N(0, 1)/sqrt(n_neurons)",
        is_random=True,
        is_projection=True,
    ),
    SelectorInfo(
        "projection-uniform",
        "nothing",
        unsupervised.projection_uniform,
        "random projection of the paper: uniform [0, 1) columns, L2-normalised",
        is_random=True,
        is_projection=True,
    ),
    SelectorInfo(
        "projection-orthonormal",
        "nothing",
        unsupervised.projection_orthonormal,
        "random orthonormal basis of the raw layer",
        is_random=True,
        is_projection=True,
    ),
    SelectorInfo(
        "rotation",
        "moments",
        unsupervised.rotation,
        "random orthonormal basis of the standardised layer",
        is_random=True,
        is_projection=True,
    ),
    SelectorInfo(
        "norm-high", "moments", unsupervised.norm_high, "neurons of largest L2 norm first"
    ),
    SelectorInfo("norm-low", "moments", unsupervised.norm_low, "neurons of smallest L2 norm first"),
    SelectorInfo(
        "variance-high", "moments", unsupervised.variance_high, "neurons of largest variance first"
    ),
    SelectorInfo(
        "leverage",
        "moments",
        pivoting.leverage,
        "pivoted QR: at each step most variance that the selected ones do not explain",
    ),
    SelectorInfo(
        "cluster",
        "moments",
        clusters.cluster,
        "one representative of each cluster of correlated neurons",
    ),
    SelectorInfo(
        "greedy-cka",
        "moments",
        greedy.greedy_cka,
        "at each step the neuron that raises CKA with the layer most",
    ),
    SelectorInfo(
        "greedy-cka-worst",
        "moments",
        greedy.greedy_cka_worst,
        "at each step the neuron that keeps CKA with the layer lowest",
    ),
    SelectorInfo(
        "anova",
        "classes",
        supervised.anova,
        "neurons that separate the classes best first (F statistic)",
    ),
    SelectorInfo(
        "anova-low",
        "classes",
        supervised.anova_low,
        "neurons that separate the classes least first",
    ),
    SelectorInfo(
        "greedy-lda",
        "classes",
        pivoting.greedy_lda,
        "at each step the neuron that adds most class separation",
    ),
    SelectorInfo(
        "probe-weight",
        "probe",
        supervised.probe_weight,
        "largest weights of the whole layer's logistic probe first",
    ),
)
SELECTORS: Mapping[str, SelectorInfo] = MappingProxyType({info.name: info for info in _ALL})
