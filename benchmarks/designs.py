"""Populations on which intervals are hard to get right, for `benchmarks.coverage`.

Each is one of the designs of an independent review: heavy tails, duplicated neurons, single
informative neurons, few training rows, and fewer test rows than neurons. All have 40 neurons. A
population is fixed; test rows are drawn anew in every repetition, training rows once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from criticalmass.analysis.inequality import (
    binomial_noise,
    excess_inequality,
    gini_without_noise,
    proportional_odds_accuracy,
)
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import get_probe
from criticalmass.measures.similarity.cka import prefix_cka
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS, sizes_for

FloatArray = NDArray[np.float64]
Rows = tuple[NDArray[np.float32], NDArray[np.int64]]
N_NEURONS = 40
_CKA = "cka"
# Rows and orders behind the true values; no repetition uses their seeds.
_TRUTH_SEED, _TRUTH_ROWS, _TRUTH_ORDERS = 10**6, 40_000, 300


def _heavy(n: int, rng: np.random.Generator, noise: float) -> Rows:
    """Five unequal classes in factors with t(3) tails; neurons of log-normal scale."""
    fixed = np.random.default_rng(21)
    means = 2.0 * fixed.standard_normal((5, 8))
    mixing = fixed.standard_normal((8, N_NEURONS))
    scale = np.exp(fixed.standard_normal(N_NEURONS))
    y = rng.choice(5, size=n, p=(0.5, 0.25, 0.12, 0.08, 0.05))
    factors = means[y] + rng.standard_t(3, (n, 8))
    x = (factors @ mixing + noise * rng.standard_t(3, (n, N_NEURONS))) * scale
    return x.astype(np.float32), y.astype(np.int64)


def _duplicated(n: int, rng: np.random.Generator) -> Rows:
    """Four unequal classes in ten sparse rectified units, each with four exact copies."""
    fixed = np.random.default_rng(12)
    means = fixed.standard_normal((4, 10))
    y = rng.choice(4, size=n, p=(0.4, 0.3, 0.2, 0.1))
    units = np.maximum(means[y] + rng.standard_normal((n, 10)) - 0.5, 0.0)
    return np.tile(units, 4).astype(np.float32), y.astype(np.int64)


def _single(n: int, rng: np.random.Generator) -> Rows:
    """Two classes that one neuron separates, and another one a little; the rest is noise."""
    y = rng.integers(0, 2, n)
    x = rng.standard_normal((n, N_NEURONS))
    x[:, 7] += 3.0 * y
    x[:, 23] += 0.8 * y
    return x.astype(np.float32), y.astype(np.int64)


def _diffuse(n: int, rng: np.random.Generator) -> Rows:
    """Three classes in eight factors that all neurons mix."""
    fixed = np.random.default_rng(14)
    means, mixing = 0.9 * fixed.standard_normal((3, 8)), fixed.standard_normal((8, N_NEURONS))
    y = rng.integers(0, 3, n)
    x = (means[y] + rng.standard_normal((n, 8))) @ mixing + rng.standard_normal((n, N_NEURONS))
    return x.astype(np.float32), y.astype(np.int64)


_Draw = Callable[[int, np.random.Generator], Rows]
POPULATIONS: Mapping[str, tuple[_Draw, int]] = MappingProxyType(
    {
        "heavy": (lambda n, rng: _heavy(n, rng, 1.0), 5),
        "noisy": (lambda n, rng: _heavy(n, rng, 3.0), 5),
        "duplicated": (_duplicated, 4),
        "single": (_single, 2),
        "diffuse": (_diffuse, 3),
    }
)


@dataclass(frozen=True)
class Design:
    """A sweep that is repeated on new seeds and test rows.

    Attributes
    ----------
    population: a key of `POPULATIONS`.
    measure: key of a measure.
    n_test, n_seeds, n_train: counts.
    """

    population: str
    measure: str
    n_test: int
    n_seeds: int
    n_train: int = 1000

    @property
    def title(self) -> str:
        """Title in the table."""
        rows = "" if self.n_train == 1000 else f", {self.n_train} training rows"
        return f"{self.population}, {self.measure}, {self.n_test} / {self.n_seeds}{rows}"

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return POPULATIONS[self.population][1]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The tested sizes."""
        return sizes_for(DEFAULT_FRACTIONS, N_NEURONS)

    def draw(self, n: int, rng: np.random.Generator) -> Rows:
        """Draw rows of the population, with every class among them."""
        draw, n_classes = POPULATIONS[self.population]
        while True:
            x, y = draw(n, rng)
            if np.unique(y).size == n_classes:
                return x, y

    def train(self) -> Rows:
        """Return the training rows, the same in all repetitions."""
        return self.draw(self.n_train, np.random.default_rng([1, self.n_train]))

    def shares(self) -> FloatArray:
        """(n_classes,) share of each class."""
        _, y = self.draw(_TRUTH_ROWS, np.random.default_rng([2, _TRUTH_SEED]))
        return np.asarray(np.bincount(y) / y.size)

    def truth(self) -> DesignTruth:
        """Return the expectations over all random subsets, on many test rows."""
        # They do not depend on the test rows and seeds of a sweep.
        if self.measure.startswith(_CKA):
            return _similarity_truth(Design(self.population, _CKA, 0, 0))
        return _probe_truth(Design(self.population, self.measure, 0, 0, self.n_train))


@dataclass(frozen=True, eq=False)
class DesignTruth:
    """Expected results of a design at every size; the last size is the whole layer.

    Attributes
    ----------
    values: (n_sizes,) expected value.
    gini, excess: (n_sizes,) expected Gini coefficient of the class accuracies, and its excess
        over the proportional-odds baseline; empty for a similarity.
    classes: (n_sizes, n_classes) expected class accuracies; empty for a similarity.
    """

    values: FloatArray
    gini: FloatArray
    excess: FloatArray
    classes: FloatArray


def _orders(n: int) -> NDArray[np.intp]:
    rng = np.random.default_rng(_TRUTH_SEED)
    return np.stack([rng.permutation(N_NEURONS) for _ in range(n)]).astype(np.intp)


@cache
def _similarity_truth(design: Design) -> DesignTruth:
    x, _ = design.draw(20 * _TRUTH_ROWS, np.random.default_rng([2, _TRUTH_SEED]))
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    moments = centred.T @ centred
    at = np.array(design.sizes) - 1
    values = [prefix_cka(moments, order)[at] for order in _orders(5 * _TRUTH_ORDERS)]
    none = np.empty(0)
    return DesignTruth(np.mean(values, axis=0), none, none, none)


@cache
def _probe_truth(design: Design) -> DesignTruth:
    x_train, y_train = design.train()
    x, y = design.draw(_TRUTH_ROWS, np.random.default_rng([2, _TRUTH_SEED]))
    members = np.stack([y == c for c in range(design.n_classes)], axis=1).astype(np.float32)
    counts = members.sum(axis=0, dtype=np.float64)
    accuracies = []
    for orders in np.array_split(_orders(_TRUTH_ORDERS), _TRUTH_ORDERS // 20):
        task = ProbeTask(
            x_train, y_train, x, design.n_classes, orders, design.sizes, validation_rows(y_train)
        )
        hits = get_probe(design.measure)(task).predictions == y
        accuracies.append(hits.astype(np.float32) @ members / counts)
    classes = np.concatenate(accuracies).astype(np.float64)
    shares = counts / counts.sum()
    inside = np.clip(classes, 1e-6, 1 - 1e-6)
    whole = inside[:1, -1:]
    baseline = proportional_odds_accuracy(whole, shares, inside @ shares)
    return DesignTruth(
        values=(classes @ shares).mean(axis=0),
        gini=gini_without_noise(classes, binomial_noise(classes, counts)).mean(axis=0),
        excess=excess_inequality(inside, baseline, whole, counts).mean(axis=0),
        classes=classes.mean(axis=0),
    )


def _designs() -> Mapping[str, Design]:
    designs = [
        *(Design("heavy", "ridge", n, s) for n, s in ((100, 3), (100, 5), (1000, 3), (1000, 5))),
        *(Design("noisy", "centroid", n, s) for n, s in ((100, 5), (1000, 3))),
        *(Design("duplicated", "centroid", n, s) for n, s in ((100, 3), (1000, 5))),
        *(Design("single", "centroid", n, s) for n, s in ((100, 3), (1000, 3), (1000, 5))),
        Design("single", "logistic", 1000, 5, n_train=300),
        Design("diffuse", "ridge", 100, 3, n_train=40),
        Design("diffuse", "ridge", 1000, 5, n_train=40),
        *(Design("diffuse", m, n, 3) for m in ("cka", "cka-debiased") for n in (30, 100, 1000)),
        *(Design("heavy", m, 100, 5) for m in ("cka", "cka-debiased")),
    ]
    return MappingProxyType({design.title: design for design in designs})


DESIGNS = _designs()
