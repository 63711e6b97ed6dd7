"""The learning rate of each loss of the study `causes`, by accuracy on the validation images.

Each loss is trained with training seed 0 at several learning rates; a loss without a classifier is
judged by a ridge probe of the upstream classes, on the test images.

    python -m benchmarks.tune_recipes --out tuning
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from criticalmass.core.progress import display
from criticalmass.studies.schema import TrainGrid
from criticalmass.studies.trainings import list_trainings, train_all

LOSSES = {
    "cross-entropy": ["cross-entropy"],
    "sigmoid": ["sigmoid"],
    "mse": ["mse"],
    "cosine": ["cosine"],
    "supcon": ["supcon"],
    "simclr": ["simclr"],
    "decov-1": ["cross-entropy", {"decov": {"weight": 1.0}}],
    "matryoshka": ["cross-entropy", "matryoshka"],
    "adversarial": ["cross-entropy", {"adversarial": {"radius": 0.5, "steps": 2}}],
}
RATES = (0.01, 0.03, 0.1)


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--loss", action="append", choices=LOSSES)
    options = parser.parse_args()
    names = options.loss or list(LOSSES)
    recipes = {
        f"{name}-lr{rate:g}": {"objectives": LOSSES[name], "optimizer": {"lr": rate}}
        for name in names
        for rate in RATES
    }
    grid = TrainGrid(base="fashion-five", recipes=recipes, seeds=1)
    rows = []
    with display():
        for training, error in train_all(list_trainings(grid, options.out), "auto"):
            if error is not None:
                rows.append({"recipe": training.name, "error": str(error)})
                continue
            last = pd.read_parquet(training.folder / "log.parquet").iloc[-1]
            keys = ["validation_accuracy", "test_accuracy", "probe_accuracy", "live_share"]
            keys += ["train_error", "participation_ratio", "participation_ratio_standardised"]
            rows.append({"recipe": training.name, **{key: round(last[key], 4) for key in keys}})
            print(rows[-1], flush=True)
    print(pd.DataFrame(rows).sort_values("recipe").to_string(index=False))


if __name__ == "__main__":
    main()
