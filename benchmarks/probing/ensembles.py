"""E11: votes of heads on disjoint subsets of the neurons, under attack.

    python -m benchmarks.probing.ensembles TRAINING OUT --network cross-entropy-s0
    python -m benchmarks.probing.ensembles TRAINING OUT --write

TRAINING is the folder of the networks of the study causes (``causes/training``): ResNet-8 with 512
neurons on five classes of Fashion-MNIST. Each network gets a folder of `criticalmass attack` in
OUT: 4 heads of 26 neurons, APGD with 50 steps, l2 balls of .22, .5 and 1, 96 test images. With
--write their tables go to docs/probing/, which `benchmarks.probing` reads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from benchmarks.probing.probing import DOCS
from criticalmass.probing.attack import AttackResult, attack, open_attack
from criticalmass.studies.tables import write_tables

RECIPES, TRAINING_SEEDS = ("cross-entropy", "adversarial-l2-1"), (0, 1, 2)
NETWORKS = tuple(f"{recipe}-s{seed}" for recipe in RECIPES for seed in TRAINING_SEEDS)
RADII = (0.22, 0.5, 1.0)
DATASET = "demo:fashion-mnist?classes=0-4&n=4000"


def measure(training: Path, name: str, out: Path) -> AttackResult:
    """Attack the heads of one network."""
    [folder] = training.glob(f"{name}-*")
    return attack(
        f"trained:{folder}", DATASET, out=out / name, heads=4, keep=0.05, norm="l2",
        radii=RADII, images=96, steps=50, device="cpu",
    )  # fmt: skip


def tables(out: Path) -> dict[str, pd.DataFrame]:
    """Return the tables of all finished networks: "ensembles" and "ensembles_costs"."""
    parts, costs = [], []
    for name in NETWORKS:
        if (out / name / "results.parquet").is_file():
            parts.append(open_attack(out / name).table.assign(network=name))
            seconds = float((out / f"{name}.txt").read_text())
            costs.append({"network": name, "cpu_seconds": seconds})
    return {
        "ensembles": pd.concat(parts, ignore_index=True).round(4),
        "ensembles_costs": pd.DataFrame(costs),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Attack the networks and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/probing.md")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    for name in arguments.network or NETWORKS:
        began = time.process_time()
        result = measure(arguments.training, name, arguments.out)
        seconds = time.process_time() - began
        if not (arguments.out / f"{name}.txt").is_file():
            (arguments.out / f"{name}.txt").write_text(f"{seconds:.0f}")
        print(name, f"{len(result.table)} rows, {seconds:.0f} CPU s", flush=True)
    if arguments.write:
        write_tables(tables(arguments.out), DOCS / "probing")


if __name__ == "__main__":
    main()
