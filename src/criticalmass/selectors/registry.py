"""Rules that choose neurons: each gives an order (its prefixes are the subsets) or a projection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray, Moments
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.selectors import clusters, greedy, pivoting, supervised, unsupervised
from criticalmass.selectors.inputs import Evidence, Needs
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS, grid_for, sizes_for

__all__ = [
    "DEFAULT_FRACTIONS",
    "SELECTORS",
    "Evidence",
    "Selection",
    "SelectorInfo",
    "grid_for",
    "select",
    "selector_info",
    "selector_version",
    "sizes_for",
]


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
    needs: what it looks at: "nothing" (but the width), "moments", "classes" (moments with
        those of the classes) or "probe" (a logistic probe on the whole layer).
    choose: the rule, (evidence, generator) -> order or projection.
    description: one line for ``criticalmass list``.
    is_random: whether the seed matters.
    is_projection: whether it gives a projection instead of an order.
    version: raised when the rule changes so that old rows no longer stand beside new ones.
    """

    name: str
    needs: Needs
    choose: Callable[[Evidence, np.random.Generator], npt.NDArray[np.generic]]
    description: str
    is_random: bool = False
    is_projection: bool = False
    version: int = 1

    @property
    def needs_labels(self) -> bool:
        """Whether it cannot choose without classes."""
        return self.needs in ("classes", "probe")


def selector_version(name: str) -> int:
    """Version of a rule; 1 for what is none, such as the whole layer."""
    return SELECTORS[name].version if name in SELECTORS else 1


def selector_info(name: str) -> SelectorInfo:
    """Look a selector up.

    Raises
    ------
    CriticalMassError: for an unknown name, with a did-you-mean.
    """
    if name not in SELECTORS:
        raise unknown_name("selector", name, SELECTORS)
    return SELECTORS[name]


def select(name: str, seen: Evidence | Moments, *, seed: int) -> Selection:
    """Apply a selector to one layer.

    Parameters
    ----------
    name: a key of `SELECTORS`.
    seen: the layer on the training split; its moments are enough for all but the rules that
        need a probe.
    seed: fixes a random rule; a deterministic one ignores it and records 0.

    Raises
    ------
    CriticalMassError: for an unknown name or a negative seed, or if the rule needs more than
        it was given (labels, rows).
    """
    info = selector_info(name)
    if seed < 0:
        raise CriticalMassError(f"seed={seed} but seeds are 0 or more")
    kept_seed = seed if info.is_random else 0
    evidence = Evidence(seen.n_neurons, known=seen) if isinstance(seen, Moments) else seen
    chosen = info.choose(evidence, np.random.default_rng(kept_seed))
    if info.is_projection:
        return Selection(name, kept_seed, projection=chosen.astype(np.float64, copy=False))
    return Selection(name, kept_seed, order=chosen.astype(np.intp, copy=False))


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
        "pivoted QR: most variance that those kept do not explain",
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
