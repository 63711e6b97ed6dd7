"""Measurements whose true values are known, for `benchmarks.coverage`.

Simulated probes: seed s is right on test sample i at size k if

    m(k) + seeds a(s, k) + b(i) + own c(s, i, k) > 0,

where a, b and c are standard normal. a and c are scaled by sqrt(1 - k/d), so that the whole layer
has neither, and they are correlated over prefixes as sums over neurons are. Thus the hits of one
sample are correlated, the subsets of a seed are nested, and the expected share of right answers is
exactly Phi(m(k) / sd(k)).
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
# Seed of the orders that give the true values; no repetition uses it.
_TRUTH_SEED = 10**6


@dataclass(frozen=True)
class Truth:
    """Expected value at every tested size and of the whole layer."""

    values: Mapping[int, float]
    full: float


@dataclass(frozen=True)
class Case:
    """A measurement that is repeated.

    Attributes
    ----------
    title: title in the table.
    n_neurons: width of the layer.
    run: (folder, generator, repetition) -> a run on new seeds and test samples.
    truth: returns the values that the intervals should contain.
    """

    title: str
    n_neurons: int
    run: Callable[[Path, np.random.Generator, int], Run]
    truth: Callable[[], Truth]


@dataclass(frozen=True)
class SimulatedProbes:
    """Simulated probes of seeds and test samples.

    Attributes
    ----------
    sizes: tested sizes, ascending; the last is the whole layer.
    n_seeds, n_test: counts.
    seeds, own: standard deviation of the level of a seed, and of the effect of a seed on a
        sample; that of the samples is 1.
    rate: how fast the accuracy rises with the size.
    """

    sizes: tuple[int, ...]
    n_seeds: int = 5
    n_test: int = 500
    seeds: float = 0.1
    own: float = 0.7
    rate: float = 8.0

    @property
    def accuracy(self) -> FloatArray:
        """(n_sizes,) expected share of right answers, which rises from 0.1 to 0.85."""
        share = np.array(self.sizes) / self.sizes[-1]
        rise = (1.0 - np.exp(-self.rate * share)) / (1.0 - np.exp(-self.rate))
        return np.asarray(0.1 + 0.75 * rise)

    def truth(self) -> Truth:
        """Return the true accuracies."""
        values = dict(zip(self.sizes, self.accuracy.tolist(), strict=True))
        return Truth(values, values[self.sizes[-1]])

    def hits(self, rng: np.random.Generator, ease: FloatArray) -> NDArray[np.bool_]:
        """Draw whether probes are right.

        Parameters
        ----------
        ease: (n_test,) how easy each sample is.

        Returns
        -------
        (n_seeds, n_sizes, n_test).
        """
        k = np.array(self.sizes, dtype=np.float64)
        scale = np.sqrt(1.0 - k / k[-1])
        total = np.sqrt(1.0 + (self.seeds**2 + self.own**2) * scale**2)
        level = norm.ppf(self.accuracy) * total
        shape = (self.n_seeds, len(k), self.n_test)
        of_seeds = scale * self.seeds * _prefix_sums(rng, (self.n_seeds, 1), k)
        own = scale * self.own * _prefix_sums(rng, (self.n_seeds, self.n_test), k)
        latent = (level + of_seeds + own).transpose(0, 2, 1) + ease
        return np.asarray(np.broadcast_to(latent, shape) > 0.0)


def _prefix_sums(rng: np.random.Generator, shape: tuple[int, int], sizes: FloatArray) -> FloatArray:
    """Return (*shape, n_sizes) sums of the first k standard normal values, divided by sqrt(k)."""
    steps = np.sqrt(np.diff(sizes, prepend=0.0)) * rng.standard_normal((*shape, sizes.size))
    return np.asarray(np.cumsum(steps, axis=-1) / np.sqrt(sizes))


def run_simulated(
    probes: SimulatedProbes, folder: Path, rng: np.random.Generator, repeat: int
) -> Run:
    """Simulate probes on new test samples and write a run."""
    return write_simulated(probes, folder, probes.hits(rng, rng.standard_normal(probes.n_test)))


def write_simulated(
    probes: SimulatedProbes, folder: Path, hits: NDArray[np.bool_], name: str = "simulated"
) -> Run:
    """Write simulated probes as a sweep does."""
    d = probes.sizes[-1]
    predictions = np.vstack([hits[0, -1:], hits[:, :-1].reshape(-1, probes.n_test)])
    shared = {
        "model": name, "layer": "penultimate", "dataset": "simulated", "split": "test",
        "measure": "logistic", "n_neurons": d, "n_train": 0, "n_test": probes.n_test,
        "value_full": float(hits[0, -1].mean()), "seconds": 0.0, "status": "ok",
    }  # fmt: skip
    rows = [
        shared | {"selector": "full", "seed": 0, "n_kept": d, "fraction": 1.0, "cell": "full"}
        | {"value": shared["value_full"], "artifact": 0}
    ]  # fmt: skip
    artifact = 0
    for seed in range(probes.n_seeds):
        for size, score in zip(probes.sizes, hits[seed].mean(axis=1), strict=True):
            is_full = size == d
            artifact += not is_full
            columns = {"n_kept": size, "fraction": size / d, "cell": f"{seed}-{size}"}
            rows.append(
                shared | columns | {"selector": "random", "seed": seed}
                | {"value": shared["value_full"] if is_full else float(score)}
                | {"artifact": 0 if is_full else artifact}
            )  # fmt: skip
    run = Run.create(folder, {"dataset_digest": "simulated"})
    with run.writer() as writer:
        writer.put_labels(np.ones(probes.n_test, dtype=np.int64), ("wrong", "right"))
        writer.append(rows, Artifact("predictions", predictions.astype(np.uint8)))
    return run


@dataclass(frozen=True)
class SimulatedPair:
    """Two simulated representations, on the same or on different test samples."""

    title: str
    a: SimulatedProbes
    b: SimulatedProbes
    paired: bool

    def runs(self, folder: Path, rng: np.random.Generator) -> tuple[Run, Run]:
        """Simulate both on new seeds and test samples."""
        ease = rng.standard_normal(self.a.n_test)
        other = ease if self.paired else rng.standard_normal(self.b.n_test)
        return (
            write_simulated(self.a, folder / "a", self.a.hits(rng, ease), "a"),
            write_simulated(self.b, folder / "b", self.b.hits(rng, other), "b"),
        )


@dataclass(frozen=True)
class PopulationSweep:
    """A real sweep of a measure on a synthetic population."""

    measure: str
    n_neurons: int = 32
    n_train: int = 1000
    n_test: int = 1000
    n_seeds: int = 5
    fractions: tuple[float, ...] = DEFAULT_FRACTIONS

    @property
    def sizes(self) -> tuple[int, ...]:
        """The tested sizes."""
        return sizes_for(self.fractions, self.n_neurons)

    def truth(self) -> Truth:
        """Return the mean over many orders, on the population or on many samples of it."""
        compute = _similarity_truth if self.measure == "cka" else _probe_truth
        means = compute(self)
        values = dict(zip(self.sizes, means.tolist(), strict=True))
        return Truth(values, values[self.n_neurons])


@cache
def _population(n_neurons: int) -> synthetic.Population:
    return synthetic.diffuse(n_neurons, n_neurons // 4, noise=0.7)


@cache
def _train(sweep_case: PopulationSweep) -> synthetic.Synthetic:
    """Draw the training set of all repetitions."""
    population = _population(sweep_case.n_neurons)
    return synthetic.draw(population, n_train=sweep_case.n_train, n_test=2, seed=0)


def _orders(n_neurons: int, n: int) -> NDArray[np.intp]:
    rng = np.random.default_rng(_TRUTH_SEED)
    return np.stack([rng.permutation(n_neurons) for _ in range(n)]).astype(np.intp)


def _similarity_truth(sweep_case: PopulationSweep) -> FloatArray:
    """Return the (n_sizes,) mean CKA of the population over 5,000 orders."""
    covariance = _population(sweep_case.n_neurons).covariance
    indices = np.array(sweep_case.sizes) - 1
    orders = _orders(sweep_case.n_neurons, 5_000)
    return np.asarray(np.mean([prefix_cka(covariance, order)[indices] for order in orders], axis=0))


def _probe_truth(
    sweep_case: PopulationSweep, n_orders: int = 500, n_test: int = 100_000
) -> FloatArray:
    """Return the (n_sizes,) mean accuracy on 100,000 test samples over 500 orders."""
    train = _train(sweep_case)
    test = synthetic.draw(train.population, n_train=2, n_test=n_test, seed=_TRUTH_SEED)
    batches = np.array_split(_orders(sweep_case.n_neurons, n_orders), n_orders // 25)
    total = np.zeros(len(sweep_case.sizes))
    for orders in batches:
        task = ProbeTask(
            train.x_train, train.y_train, test.x_test, 2, orders, sweep_case.sizes,
            validation_rows(train.y_train),
        )  # fmt: skip
        hits = get_probe(sweep_case.measure)(task).predictions == test.y_test
        total += hits.mean(axis=2).sum(axis=0)
    return np.asarray(total / n_orders)


def sweep_population(
    sweep_case: PopulationSweep, folder: Path, rng: np.random.Generator, repeat: int
) -> Run:
    """Sweep a new test set with new seeds."""
    train = _train(sweep_case)
    test = synthetic.draw(
        train.population, n_train=2, n_test=sweep_case.n_test, seed=int(rng.integers(2**31))
    )
    with TemporaryDirectory() as scratch:
        store = import_features(
            {"train": train.x_train, "test": test.x_test},
            out=Path(scratch) / "features",
            labels={"train": train.y_train, "test": test.y_test},
        )
        seeds = range(repeat * sweep_case.n_seeds, (repeat + 1) * sweep_case.n_seeds)
        return sweep(
            store,
            out=folder,
            seeds=seeds,
            measures=sweep_case.measure,
            fractions=sweep_case.fractions,
        )


_COARSE = sizes_for(DEFAULT_FRACTIONS, 128)
_FINE = tuple(range(4, 129, 2))


def _simulated_case(title: str, probes: SimulatedProbes) -> Case:
    return Case(title, probes.sizes[-1], partial(run_simulated, probes), probes.truth)


def _sweep_case(title: str, sweep_case: PopulationSweep) -> Case:
    return Case(
        title, sweep_case.n_neurons, partial(sweep_population, sweep_case), sweep_case.truth
    )


_SLOWER, _FASTER = SimulatedProbes(_COARSE), SimulatedProbes(_COARSE, rate=12.0)
PAIRS: Mapping[str, SimulatedPair] = MappingProxyType(
    {
        "pair": SimulatedPair("difference of two, the same test samples", _FASTER, _SLOWER, True),
        "pair-apart": SimulatedPair("difference of two, each its own", _FASTER, _SLOWER, False),
    }
)
CASES: Mapping[str, Case] = MappingProxyType(
    {
        "coarse": _simulated_case("simulated, 12 fractions, 5 seeds", SimulatedProbes(_COARSE)),
        "coarse-3": _simulated_case(
            "simulated, 12 fractions, 3 seeds", SimulatedProbes(_COARSE, n_seeds=3)
        ),
        "coarse-20": _simulated_case(
            "simulated, 12 fractions, 20 seeds", SimulatedProbes(_COARSE, n_seeds=20)
        ),
        "luck": _simulated_case(
            "simulated, 12 fractions, 5 seeds that differ by luck alone",
            SimulatedProbes(_COARSE, seeds=0.0),
        ),
        "fine": _simulated_case(
            "simulated, every second size (63), 5 seeds", SimulatedProbes(_FINE)
        ),
        "centroid": _sweep_case(
            "real sweep, centroid probe, 12 fractions, 5 seeds", PopulationSweep("centroid")
        ),
        "ridge": _sweep_case(
            "real sweep, ridge probe, every size, 5 seeds",
            PopulationSweep("ridge", fractions=tuple(k / 32 for k in range(1, 33))),
        ),
        "cka": _sweep_case("real sweep, CKA, 12 fractions, 5 seeds", PopulationSweep("cka")),
    }
)
