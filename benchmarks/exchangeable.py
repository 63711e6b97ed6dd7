"""Error rates of the diffuseness test: ``python -m benchmarks.exchangeable [--store DIR]``.

Synthetic layers are Gaussian samples of d mixtures of d components whose variances fall as
i^-power. ``exchangeable``: uniformly random orthonormal mixtures. ``matryoshka``: nested blocks of
8, 16, 32, ... neurons, each a mixture of the components of its block. ``duplicated``: a quarter of
the neurons are copies of other neurons. ``sparse``: every neuron mixes a tenth of the components.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import log, time_call
from criticalmass.core.moments import moments
from criticalmass.storage.features import FeatureStore
from criticalmass.theory.exchangeability import exchangeability_test

Matrix = NDArray[np.float64]
POWERS = (0.5, 1.0, 2.0)
KINDS = ("exchangeable", "matryoshka", "duplicated", "sparse")
LEVEL = 0.05


def synthetic_layer(kind: str, power: float, shape: tuple[int, int], seed: int) -> Matrix:
    """Return the second moment of a synthetic layer of ``shape`` (n_samples, n_neurons)."""
    n, d = shape
    rng = np.random.default_rng([seed, KINDS.index(kind), int(10 * power)])
    weights = np.arange(1, d + 1) ** (-power / 2)
    if kind == "matryoshka":
        mix, start = np.zeros((d, d)), 0
        for stop in (8, 16, 32, 64, 128, 256, 512, 1024, d):
            stop = min(stop, d)
            block = slice(start, stop)
            mix[block, block] = weights[block, None] * _rotation(stop - start, rng)
            start = stop
    elif kind == "sparse":
        mix = rng.standard_normal((d, d)) * (rng.random((d, d)) < 0.1) * weights[:, None]
        mix += 1e-3 * rng.standard_normal((d, d))
    else:
        mix = weights[:, None] * _rotation(d, rng)
    if kind == "duplicated":
        shuffled = rng.permutation(d)
        mix[:, shuffled[: d // 4]] = mix[:, shuffled[d // 4 : 2 * (d // 4)]]
    x = rng.standard_normal((n, d)) @ mix
    x -= x.mean(axis=0)
    return x.T @ x


def _rotation(d: int, rng: np.random.Generator) -> Matrix:
    """Return a uniformly random orthogonal matrix."""
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return np.asarray(q * np.where(np.diagonal(r) < 0.0, -1.0, 1.0), dtype=np.float64)


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z, share = 1.959964, hits / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    half /= 1 + z * z / trials
    return float(centre - half), float(centre + half)


def rejections(
    kind: str, power: float, shape: tuple[int, int], repeats: int, *, standardise: bool
) -> str:
    """Return one row of the table: how often each p-value is at most the level."""
    hits = np.zeros(3, dtype=int)
    for seed in range(repeats):
        second_moment = synthetic_layer(kind, power, shape, seed)
        result = exchangeability_test(second_moment, standardise=standardise, n_draws=99, seed=seed)
        hits += np.array([result.order_p, result.structure_p, result.p_value]) <= LEVEL
    shares = []
    for hit in hits:
        low, high = wilson(int(hit), repeats)
        shares.append(f"{hit / repeats:.3f} ({low:.3f} to {high:.3f})")
    neurons = "standardised" if standardise else "raw"
    return f"| {kind} | {neurons} | {power} | {repeats} | " + " | ".join(shares) + " |"


def report_store(path: str) -> None:
    """Print the test result of a store's penultimate layer (test split)."""
    second_moment = moments(FeatureStore.open(path).features("test")).scatter
    for standardise in (True, False):
        result, seconds = time_call(
            partial(exchangeability_test, second_moment, standardise=standardise)
        )
        neurons = "standardised" if standardise else "raw"
        print(
            f"{path}, {neurons}: order p {result.order_p:.3f}, structure p "
            f"{result.structure_p:.3f}, both {result.p_value:.3f}; {seconds.wall:.1f} s"
        )
        for feature in result.features:
            print(
                f"    {feature.name}: {feature.observed:.3g}, exchangeable "
                f"{feature.expected:.3g} ({feature.deviation:+.1f} sd)"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the false-positive rate and the power, or test stores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", action="append", default=[])
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--power-repeats", type=int, default=100)
    parser.add_argument("--neurons", type=int, default=64)
    parser.add_argument("--samples", type=int, default=300)
    options = parser.parse_args(arguments)
    for path in options.store:
        report_store(path)
    if options.store:
        return
    shape = (options.samples, options.neurons)
    print(f"d = {options.neurons}, n = {options.samples}, 99 draws, level {LEVEL}")
    print("| layer | neurons | power | layers | order | structure | both (Holm) |")
    print("| - | - | -: | -: | - | - | - |")
    for kind in KINDS:
        repeats = options.repeats if kind == "exchangeable" else options.power_repeats
        for standardise in (True, False):
            for power in POWERS:
                log(f"{kind}, power {power}")
                print(rejections(kind, power, shape, repeats, standardise=standardise), flush=True)


if __name__ == "__main__":
    main()
