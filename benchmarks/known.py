"""Measurements whose truth is known, for `benchmarks.coverage`.

Simulated probes: seed s is right on test sample i at size k if

    m(k) + seeds a(s, k) + b(i) + own c(s, i, k) > 0,

with a, b and c standard normal, a and c scaled by sqrt(1 - k/d) (the whole layer has neither)
and following prefixes as sums over neurons do. So hits of one sample go together, subsets of
a seed are nested, and the share of right answers is Phi(m(k) / sd(k)) exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from criticalmass.extraction.importing import import_features
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import get_probe
from criticalmass.measures.similarity.cka import prefix_cka
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS, sizes_for
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run
from criticalmass.sweeps.sweep import sweep
from criticalmass.theory import synthetic

FloatArray = NDArray[np.float64]
# Orders of the truth have seeds that no repetition uses.
_TRUTH_SEED = 10**6


@dataclass(frozen=True)
class Truth:
    """Expected value at every tested size, and of the whole layer."""

    values: Mapping[int, float]
    full: float


@dataclass(frozen=True)
class Case:
    """Something to measure many times.

    Attributes
    ----------
    title: in the table.
    n_neurons: of the whole layer.
    run: (folder, generator, repetition) -> a run on fresh seeds and test samples.
    truth: what its intervals should hold.
    """

    title: str
    n_neurons: int
    run: Callable[[Path, np.random.Generator, int], Run]
    truth: Callable[[], Truth]


@dataclass(frozen=True)
class Crossed:
    """Simulated probes of some seeds on some test samples.

    Attributes
    ----------
    sizes: tested, ascending; the last is the whole layer.
    n_seeds, n_test: counts.
    seeds, own: standard deviation of a seed's level and of its own luck with a sample,
        where samples have 1.
    rate: how quickly accuracy rises with size.
    """

    sizes: tuple[int, ...]
    n_seeds: int = 5
    n_test: int = 500
    seeds: float = 0.1
    own: float = 0.7
    rate: float = 8.0

    @property
    def accuracy(self) -> FloatArray:
        """(n_sizes,) expected share of right answers: saturating, from a tenth to 0.85."""
        share = np.array(self.sizes) / self.sizes[-1]
        rise = (1.0 - np.exp(-self.rate * share)) / (1.0 - np.exp(-self.rate))
        return np.asarray(0.1 + 0.75 * rise)

    def truth(self) -> Truth:
        """Return the accuracies that were put in."""
        values = dict(zip(self.sizes, self.accuracy.tolist(), strict=True))
        return Truth(values, values[self.sizes[-1]])

    def hits(self, rng: np.random.Generator, ease: FloatArray) -> NDArray[np.bool_]:
        """(n_seeds, n_sizes, n_test) whether a probe is right; ease: (n_test,) of samples."""
        k = np.array(self.sizes, dtype=np.float64)
        left = np.sqrt(1.0 - k / k[-1])
        total = np.sqrt(1.0 + (self.seeds**2 + self.own**2) * left**2)
        level = norm.ppf(self.accuracy) * total
        shape = (self.n_seeds, len(k), self.n_test)
        of_seeds = left * self.seeds * _prefix_sums(rng, (self.n_seeds, 1), k)
        own = left * self.own * _prefix_sums(rng, (self.n_seeds, self.n_test), k)
        latent = (level + of_seeds + own).transpose(0, 2, 1) + ease
        return np.asarray(np.broadcast_to(latent, shape) > 0.0)


def _prefix_sums(rng: np.random.Generator, shape: tuple[int, int], sizes: FloatArray) -> FloatArray:
    """(*shape, n_sizes) sums of the first k standard normals, over sqrt(k)."""
    steps = np.sqrt(np.diff(sizes, prepend=0.0)) * rng.standard_normal((*shape, sizes.size))
    return np.asarray(np.cumsum(steps, axis=-1) / np.sqrt(sizes))


def run_crossed(crossed: Crossed, folder: Path, rng: np.random.Generator, repeat: int) -> Run:
    """Simulate probes on fresh test samples."""
    return write_crossed(crossed, folder, crossed.hits(rng, rng.standard_normal(crossed.n_test)))


def write_crossed(
    crossed: Crossed, folder: Path, hits: NDArray[np.bool_], name: str = "simulated"
) -> Run:
    """Write simulated probes as a sweep would."""
    d = crossed.sizes[-1]
    predictions = np.vstack([hits[0, -1:], hits[:, :-1].reshape(-1, crossed.n_test)])
    about = {
        "model": name, "layer": "penultimate", "dataset": "simulated", "split": "test",
        "measure": "logistic", "n_neurons": d, "n_train": 0, "n_test": crossed.n_test,
        "value_full": float(hits[0, -1].mean()), "seconds": 0.0, "status": "ok",
    }  # fmt: skip
    rows = [
        about | {"selector": "full", "seed": 0, "n_kept": d, "fraction": 1.0, "cell": "full"}
        | {"value": about["value_full"], "artifact": 0}
    ]  # fmt: skip
    at = 0
    for seed in range(crossed.n_seeds):
        for size, score in zip(crossed.sizes, hits[seed].mean(axis=1), strict=True):
            whole = size == d
            at += not whole
            place = {"n_kept": size, "fraction": size / d, "cell": f"{seed}-{size}"}
            rows.append(
                about | place | {"selector": "random", "seed": seed}
                | {"value": about["value_full"] if whole else float(score)}
                | {"artifact": 0 if whole else at}
            )  # fmt: skip
    run = Run.create(folder, {"dataset_digest": "simulated"})
    with run.writer() as writer:
        writer.put_labels(np.ones(crossed.n_test, dtype=np.int64), ("wrong", "right"))
        writer.append(rows, Artifact("predictions", predictions.astype(np.uint8)))
    return run


@dataclass(frozen=True)
class Compared:
    """Two simulated representations, on the same test samples or each on its own."""

    title: str
    a: Crossed
    b: Crossed
    paired: bool

    def runs(self, folder: Path, rng: np.random.Generator) -> tuple[Run, Run]:
        """Simulate both on fresh seeds and test samples."""
        ease = rng.standard_normal(self.a.n_test)
        other = ease if self.paired else rng.standard_normal(self.b.n_test)
        return (
            write_crossed(self.a, folder / "a", self.a.hits(rng, ease), "a"),
            write_crossed(self.b, folder / "b", self.b.hits(rng, other), "b"),
        )


@dataclass(frozen=True)
class Measured:
    """A real sweep of a measure over a synthetic population."""

    measure: str
    n_neurons: int = 32
    n_train: int = 1000
    n_test: int = 1000
    n_seeds: int = 5
    fractions: tuple[float, ...] = DEFAULT_FRACTIONS

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tested sizes."""
        return sizes_for(self.fractions, self.n_neurons)

    def truth(self) -> Truth:
        """Mean over many orders, on the population or on very many samples of it."""
        find = _similarity_truth if self.measure == "cka" else _probe_truth
        means = find(self)
        values = dict(zip(self.sizes, means.tolist(), strict=True))
        return Truth(values, values[self.n_neurons])


@cache
def _population(n_neurons: int) -> synthetic.Population:
    return synthetic.diffuse(n_neurons, n_neurons // 4, noise=0.7)


@cache
def _train(measured: Measured) -> synthetic.Synthetic:
    """Draw the training set that all repetitions share."""
    population = _population(measured.n_neurons)
    return synthetic.draw(population, n_train=measured.n_train, n_test=2, seed=0)


def _orders(n_neurons: int, n: int) -> NDArray[np.intp]:
    rng = np.random.default_rng(_TRUTH_SEED)
    return np.stack([rng.permutation(n_neurons) for _ in range(n)]).astype(np.intp)


def _similarity_truth(measured: Measured) -> FloatArray:
    """(n_sizes,) CKA of the population, over 5,000 orders."""
    covariance = _population(measured.n_neurons).covariance
    at = np.array(measured.sizes) - 1
    orders = _orders(measured.n_neurons, 5_000)
    return np.asarray(np.mean([prefix_cka(covariance, order)[at] for order in orders], axis=0))


def _probe_truth(measured: Measured, n_orders: int = 500, n_test: int = 100_000) -> FloatArray:
    """(n_sizes,) accuracy on 100,000 test samples, over 500 orders."""
    train = _train(measured)
    test = synthetic.draw(train.population, n_train=2, n_test=n_test, seed=_TRUTH_SEED)
    batches = np.array_split(_orders(measured.n_neurons, n_orders), n_orders // 25)
    total = np.zeros(len(measured.sizes))
    for orders in batches:
        task = ProbeTask(
            train.x_train, train.y_train, test.x_test, 2, orders, measured.sizes,
            validation_rows(train.y_train),
        )  # fmt: skip
        hits = get_probe(measured.measure)(task).predictions == test.y_test
        total += hits.mean(axis=2).sum(axis=0)
    return np.asarray(total / n_orders)


def sweep_measured(measured: Measured, folder: Path, rng: np.random.Generator, repeat: int) -> Run:
    """Sweep over a fresh test set with fresh seeds."""
    train = _train(measured)
    test = synthetic.draw(
        train.population, n_train=2, n_test=measured.n_test, seed=int(rng.integers(2**31))
    )
    with TemporaryDirectory() as scratch:
        store = import_features(
            {"train": train.x_train, "test": test.x_test},
            out=Path(scratch) / "features",
            labels={"train": train.y_train, "test": test.y_test},
        )
        seeds = range(repeat * measured.n_seeds, (repeat + 1) * measured.n_seeds)
        return sweep(
            store, out=folder, seeds=seeds, measures=measured.measure, fractions=measured.fractions
        )


_COARSE = sizes_for(DEFAULT_FRACTIONS, 128)
_FINE = tuple(range(4, 129, 2))


def _simulated(title: str, crossed: Crossed) -> Case:
    return Case(title, crossed.sizes[-1], partial(run_crossed, crossed), crossed.truth)


def _swept(title: str, measured: Measured) -> Case:
    return Case(title, measured.n_neurons, partial(sweep_measured, measured), measured.truth)


_SLOWER, _FASTER = Crossed(_COARSE), Crossed(_COARSE, rate=12.0)
PAIRS: Mapping[str, Compared] = MappingProxyType(
    {
        "pair": Compared("difference of two, the same test samples", _FASTER, _SLOWER, True),
        "pair-apart": Compared("difference of two, each its own", _FASTER, _SLOWER, False),
    }
)
CASES: Mapping[str, Case] = MappingProxyType(
    {
        "coarse": _simulated("simulated, 12 fractions, 5 seeds", Crossed(_COARSE)),
        "coarse-3": _simulated("simulated, 12 fractions, 3 seeds", Crossed(_COARSE, n_seeds=3)),
        "coarse-20": _simulated("simulated, 12 fractions, 20 seeds", Crossed(_COARSE, n_seeds=20)),
        "luck": _simulated(
            "simulated, 12 fractions, 5 seeds that differ by luck alone",
            Crossed(_COARSE, seeds=0.0),
        ),
        "fine": _simulated("simulated, every second size (63), 5 seeds", Crossed(_FINE)),
        "centroid": _swept(
            "real sweep, centroid probe, 12 fractions, 5 seeds", Measured("centroid")
        ),
        "ridge": _swept(
            "real sweep, ridge probe, every size, 5 seeds",
            Measured("ridge", fractions=tuple(k / 32 for k in range(1, 33))),
        ),
        "cka": _swept("real sweep, CKA, 12 fractions, 5 seeds", Measured("cka")),
    }
)
