"""Effect of bf16 on the results: ``python -m benchmarks.precision [--samples 6000]``.

Extracts the features of the same samples in float32 and in bfloat16, and measures the same subsets
on both. Prints Markdown on stdout: the differences of the features and of accuracy, CKA and DR. The
speed is measured by ``benchmarks.extraction``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import criticalmass as cm
from benchmarks.timing import describe_machine, log
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.engines.base import require_bf16
from criticalmass.storage.features import FeatureStore

DELTAS = (0.8, 0.9, 0.95)
_LAYER = "penultimate"


@dataclass(frozen=True)
class PrecisionCase:
    """A model and the samples of its test."""

    name: str
    model: str
    data: str
    fractions: tuple[float, ...] = cm.DEFAULT_FRACTIONS


def cases(samples: int) -> tuple[PrecisionCase, ...]:
    """Return the cases with a number of stratified training samples."""
    return (
        PrecisionCase(
            "Lite0 on Fashion-MNIST",
            "pypi:efficientnet-lite0",
            f"demo:fashion-mnist?n={samples}",
        ),
        PrecisionCase(
            "MiniLM on WordNet glosses", "pypi:minilm-l6", f"demo:wordnet-nouns?n={samples}"
        ),
    )


QUICK = (
    PrecisionCase(
        "quick", "timm:test_resnet?init=random&px=32", "sklearn:digits?n=120", (0.1, 0.5, 1.0)
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--samples", type=int, default=6000, help="training samples (6000)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a test")
    options = parser.parse_args(arguments)
    try:
        require_bf16("cpu")
    except CriticalMassError as error:
        print(error)
        return
    print(f"Machine: {describe_machine()}.\n")
    for case in QUICK if options.quick else cases(options.samples):
        log(case.name)
        with tempfile.TemporaryDirectory() as folder:
            print(_measure(case, Path(folder)), flush=True)


def _measure(case: PrecisionCase, folder: Path) -> str:
    data = cm.load_dataset(case.data)
    stores, runs = {}, {}
    for precision in ("float32", "bf16"):
        stores[precision] = cm.extract(
            case.model, data, out=folder / precision, precision=precision
        )
        log(f"{precision}: extracted")
        runs[precision] = cm.sweep(
            stores[precision],
            out=folder / f"run-{precision}",
            fractions=case.fractions,
            measures=("logistic", "cka"),
        )
        log("swept")
    rounded = stores["bf16"]
    counts = {split: len(rounded.labels(split)) for split in rounded.splits}
    split_sizes = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    engine = rounded.manifest["engine"]["name"]
    text = f"{split_sizes} samples, engine {engine}. {_feature_differences(stores)}"
    return f"### {case.name}\n\n{text}\n\n{_curve_table(runs)}\n\n{_redundancy_table(runs)}\n"


def _feature_differences(stores: dict[str, FeatureStore]) -> str:
    exact, rounded = (
        stores[name].features("test", _LAYER).array().astype(np.float64)
        for name in ("float32", "bf16")
    )
    difference = rounded - exact
    largest = np.abs(difference).max() / np.abs(exact).max()
    centred = exact - exact.mean(axis=0)
    noise = np.sqrt((difference**2).sum() / (centred**2).sum())
    neurons = np.sqrt((difference**2).mean(axis=0)) / np.maximum(exact.std(axis=0), 1e-12)
    varies = exact.std(axis=0) > 0
    return (
        f"Largest difference {largest:.2e} of the largest feature; root mean square {noise:.2e} "
        f"of the features' spread, of one neuron {np.median(neurons[varies]):.2e} (median) to "
        f"{neurons[varies].max():.2e}. CKA of the two layers {cm.linear_cka(exact, rounded):.6f}."
    )


def _curve_table(runs: dict[str, cm.Run]) -> str:
    exact, rounded = (
        cm.curves(runs[name]).set_index(["measure", "n_kept"]) for name in ("float32", "bf16")
    )
    lines = [
        "| measure | neurons kept | float32 (95 % interval) | bf16 | difference |",
        "| - | -: | -: | -: | -: |",
    ]
    for key, row in exact.iterrows():
        other = rounded.loc[key]
        measure, n_kept = key
        lines.append(
            f"| {measure} | {n_kept} of {row['n_neurons']} | {row['mean']:.4f} "
            f"[{row['low']:.4f}, {row['high']:.4f}] | {other['mean']:.4f} | "
            f"{other['mean'] - row['mean']:+.4f} |"
        )
    return "\n".join(lines)


def _redundancy_table(runs: dict[str, cm.Run]) -> str:
    tables = {
        name: cm.redundancy(run, deltas=DELTAS).set_index(["measure", "delta"])
        for name, run in runs.items()
    }
    lines = [
        "| measure | delta | DR, float32 (95 % interval) | DR, bf16 (95 % interval) |",
        "| - | -: | -: | -: |",
    ]
    for key, row in tables["float32"].iterrows():
        measure, delta = key
        intervals = " | ".join(_interval(one) for one in (row, tables["bf16"].loc[key]))
        lines.append(f"| {measure} | {delta:g} | {intervals} |")
    return "\n".join(lines)


def _interval(row: pd.Series) -> str:
    return f"{row['dr']:.3f} [{row['dr_low']:.3f}, {row['dr_high']:.3f}]"


if __name__ == "__main__":
    main()
