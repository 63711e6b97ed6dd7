"""How alike a subset is to its whole layer: what every such measure is handed and hands back.

None of these measures trains on anything. They compare the raw features of the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.cka_replicates import prefix_cka_replicates, projection_cka_replicates
from criticalmass.errors import unknown_name
from criticalmass.probes.task import Rows
from criticalmass.statistics import FloatArray, Moments, moments

__all__ = ["SIMILARITIES", "SimilarityScores", "SimilarityTask", "WholeLayer", "get_similarity"]


@dataclass(frozen=True, eq=False)
class WholeLayer:
    """The layer that subsets are compared with, and what every comparison needs of it.

    Attributes
    ----------
    rows: (n_samples, n_neurons) raw features.
    """

    rows: Rows

    @property
    def n_neurons(self) -> int:
        """Width of the layer."""
        return int(self.rows.shape[1])

    @cached_property
    def moments(self) -> Moments:
        """Mean and centred second moment of the rows."""
        return moments(self.rows)


@dataclass(frozen=True, eq=False)
class SimilarityTask:
    """Subsets of one layer.

    Attributes
    ----------
    whole: the layer.
    subsets: (n_orders, n_neurons) permutations of the neurons, whose prefixes are the subsets;
        or one projection, (n_neurons, >= sizes[-1]), whose leading columns are.
    sizes: prefix lengths, ascending.
    is_projection: which of the two.
    """

    whole: WholeLayer
    subsets: NDArray[Any]
    sizes: tuple[int, ...]
    is_projection: bool = False

    @property
    def n_orders(self) -> int:
        """Orders; a projection counts as one."""
        return 1 if self.is_projection else len(self.subsets)


@dataclass(frozen=True, eq=False)
class SimilarityScores:
    """What a similarity found.

    Attributes
    ----------
    values: (n_orders, n_sizes); a projection counts as one order.
    kind: "scores" (of each query; their mean is the value) or "replicates" (the value without
        a block of samples).
    kept: (n_orders, n_sizes, n_queries or n_blocks) what the bootstrap needs.
    """

    values: FloatArray
    kind: str
    kept: NDArray[np.floating]


Similarity = Callable[[SimilarityTask], SimilarityScores]


def get_similarity(name: str) -> Similarity:
    """Look a similarity up.

    Raises
    ------
    CriticalMassError: for an unknown name, with a did-you-mean.
    """
    if name not in SIMILARITIES:
        raise unknown_name("similarity", name, SIMILARITIES)
    return SIMILARITIES[name]


def _cka(task: SimilarityTask, *, debiased: bool) -> SimilarityScores:
    replicated = projection_cka_replicates if task.is_projection else prefix_cka_replicates
    values, replicates = replicated(
        task.whole.rows, task.subsets, task.sizes, debiased=debiased, whole=task.whole.moments
    )
    return SimilarityScores(values, "replicates", replicates)


SIMILARITIES: Mapping[str, Similarity] = MappingProxyType(
    {
        "cka": partial(_cka, debiased=False),
        "cka-debiased": partial(_cka, debiased=True),
    }
)
