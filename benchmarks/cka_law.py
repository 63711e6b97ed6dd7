"""The CKA law compared with measured subsets: ``python -m benchmarks.cka_law --store DIR``.

Draws ``--subsets`` random orders, measures CKA at every prefix of each, and compares the mean and
the standard deviation over orders with the law at every size.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.figures_theory import (
    critical_mass_against_width,
    law_over_measured,
    redundancy_against_decorrelation,
)
from benchmarks.timing import log, time_call
from criticalmass.core.moments import moments
from criticalmass.measures.similarity.cka import prefix_cka
from criticalmass.reporting.figures.draw import new_axes
from criticalmass.storage.features import FeatureStore
from criticalmass.theory.cka import ExpectedSimilarity, expected_cka
from criticalmass.theory.spectrum import correlation, diagonal_share, participation_ratio
from criticalmass.theory.what_if import (
    decorrelation_what_if,
    first_order_cka,
    first_order_critical_mass,
    width_what_if,
)

Vector = NDArray[np.float64]
#: ResNet50, 2,048 neurons: values of the published figure (Nanda et al. 2023), and the diagonal
#: share at which the first-order law agrees with them.
PUBLISHED = pd.DataFrame({"n_kept": [205, 410, 1024], "value": [0.80, 0.90, 0.97]})
PUBLISHED_SHARE, PUBLISHED_WIDTH = 0.0625, 2048
SMALLEST_SIZE = 10


def measure(c: Vector, n_subsets: int, seed: int) -> tuple[Vector, Vector]:
    """Return mean and standard deviation of CKA over random subsets, at every size."""
    rng = np.random.default_rng(seed)
    total, squares = np.zeros(c.shape[0]), np.zeros(c.shape[0])
    for _ in range(n_subsets):
        values = prefix_cka(c, rng.permutation(c.shape[0]))
        total += values
        squares += values**2
    mean = total / n_subsets
    variance = np.maximum(squares / n_subsets - mean**2, 0.0)
    return mean, np.sqrt(variance * n_subsets / (n_subsets - 1))


def compare(c: Vector, n_subsets: int, seed: int) -> tuple[ExpectedSimilarity, Vector]:
    """Print the law, the measured mean and its spread; return law and mean at every size."""
    d = c.shape[0]
    sizes = np.arange(1, d + 1)
    expected_cka(np.eye(4) + 1.0, [2])
    law, seconds = time_call(partial(expected_cka, c, sizes))
    second = expected_cka(c, sizes, remainder=False)
    first = first_order_cka(diagonal_share(c), d, sizes)
    log(f"measuring {n_subsets} orders of {d} neurons")
    mean, std = measure(c, n_subsets, seed)
    print("| k | measured mean | first order | second order | law | measured sd | law sd |")
    print("| -: | -: | -: | -: | -: | -: | -: |")
    for k in [k for k in (10, 13, 26, 64, 128, 256, 640, 1024) if k < d]:
        i = k - 1
        print(
            f"| {k} | {mean[i]:.4f} | {first[i]:.4f} | {second.mean[i]:.4f} | {law.mean[i]:.4f} "
            f"| {std[i]:.4f} | {law.std[i]:.4f} |"
        )
    sizes_from = slice(SMALLEST_SIZE - 1, None)
    noise = std / np.sqrt(n_subsets)
    for name, curve in (("first", first), ("second", second.mean), ("law", law.mean)):
        error = np.abs(curve - mean)[sizes_from]
        largest = SMALLEST_SIZE + int(error.argmax())
        print(
            f"{name}: largest deviation at k >= {SMALLEST_SIZE} {error.max():.5f} at k={largest} "
            f"(standard error of the measured mean there {noise[largest - 1]:.5f})"
        )
    for name, curve in (("second", second.std), ("law", law.std)):
        print(f"{name}: largest deviation of the sd {np.abs(curve - std)[sizes_from].max():.5f}")
    for delta in (0.8, 0.9, 0.95):
        masses = [1 + int(np.argmax(curve >= delta)) for curve in (mean, law.mean)]
        first_order_mass = first_order_critical_mass(diagonal_share(c), d, delta)
        print(f"k*({delta}): measured {masses[0]}, law {masses[1]}, first order {first_order_mass}")
    print(f"law at all {d} sizes: {seconds.wall:.2f} s wall, {seconds.cpu:.2f} s CPU")
    return law, mean


def draw_figures(c: Vector, law: ExpectedSimilarity, mean: Vector, folder: Path, name: str) -> None:
    """Write the four figures of docs/theory.md."""
    d = c.shape[0]
    shown = [int(k) for k in np.unique(np.geomspace(2, d, 14).astype(int))]
    measured = pd.DataFrame({"n_kept": shown, "value": mean[np.array(shown) - 1]})
    figure, ax = new_axes()
    law_over_measured(measured, law, ax, n_neurons=d)
    _save(figure, folder / f"theory-cka-{name}.png")
    figure, ax = new_axes()
    dimensions = int(np.ceil(diagonal_share(c) * d))
    widths = np.unique(np.geomspace(dimensions, 16 * d, 12).astype(int))
    critical_mass_against_width(width_what_if(c, [int(w) for w in widths]), ax)
    _save(figure, folder / f"theory-width-{name}.png")
    figure, ax = new_axes()
    redundancy_against_decorrelation(
        decorrelation_what_if(c, [round(0.1 * step, 1) for step in range(11)]), ax
    )
    _save(figure, folder / f"theory-decorrelation-{name}.png")
    sizes = np.unique(np.geomspace(2, PUBLISHED_WIDTH, 60).astype(int))
    curve = first_order_cka(PUBLISHED_SHARE, PUBLISHED_WIDTH, sizes)
    zeros = np.zeros(sizes.size)
    published = ExpectedSimilarity(sizes, curve, zeros, zeros > -1.0)
    figure, ax = new_axes()
    law_over_measured(PUBLISHED, published, ax, n_neurons=PUBLISHED_WIDTH)
    _save(figure, folder / "theory-cka-published.png")


def _save(figure: object, path: Path) -> None:
    """Write a figure atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    figure.savefig(scratch, format="png", dpi=110)  # type: ignore[attr-defined]
    os.replace(scratch, path)
    log(f"wrote {path.name}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the law with measured subsets of one store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--standardise", action="store_true")
    parser.add_argument("--subsets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--figures", type=Path, help="folder for figures")
    options = parser.parse_args(arguments)
    layer_moments = moments(FeatureStore.open(options.store).features(options.split))
    c = correlation(layer_moments.scatter) if options.standardise else layer_moments.scatter
    name = Path(options.store).name + ("-standardised" if options.standardise else "")
    print(
        f"{name}, {options.split} split: "
        f"n = {layer_moments.n}, d = {c.shape[0]}, diagonal share {diagonal_share(c):.4f}, "
        f"participation ratio {participation_ratio(c):.1f}"
    )
    law, mean = compare(c, options.subsets, options.seed)
    if options.figures:
        draw_figures(c, law, mean, options.figures, name)


if __name__ == "__main__":
    main()
