"""Tables of a study that trains networks: the networks, and the effects of their recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from criticalmass.analysis.predicted_curves import read_curves
from criticalmass.analysis.training_runs import TrainedRun, TrainingFacts
from criticalmass.analysis.training_seeds import PredictionKey, effects, with_predictions
from criticalmass.core.progress import warn_user
from criticalmass.extraction.models.trained import find_checkpoint, split_trained_name
from criticalmass.measures.registry import MEASURES
from criticalmass.studies.grid import StudyJob
from criticalmass.studies.schema import Study, TrainGrid
from criticalmass.studies.study_run import RANDOM, StudyRun
from criticalmass.training.train import trained_seconds

#: Level and seeds of the band that is not used: a law's critical mass is that of its mean.
_SEEDS, _LEVEL = 5, 0.95


def training_tables(study: Study, runs: Sequence[StudyRun]) -> dict[str, pd.DataFrame]:
    """Return the tables "training" and "effects"; none if the study trains no network.

    Parameters
    ----------
    study: the study.
    runs: its results.

    Returns
    -------
    "training": one row per network, with the last values of its log. "effects": see
    `criticalmass.analysis.training_seeds.effects`, with whether the laws foresaw them; one part of
    the study after the other, each with its own baseline (column ``baseline``), and one protocol
    after the other. Subsets are random ones, or those of the part's first selector without these.
    """
    tables: dict[str, list[pd.DataFrame]] = {"training": [], "effects": []}
    for part in study.parts:
        chosen = [run for run in runs if run.jobs[0].training and run.jobs[0].part == part]
        if part.train is None or not chosen:
            continue
        networks = {_label(run.jobs[0]): network_facts(run.jobs[0]) for run in chosen}
        tables["training"].append(pd.DataFrame(networks.values()))
        selector = RANDOM if RANDOM in part.selectors else part.selectors[0]
        for protocol in part.protocol:
            of_protocol = [run for run in chosen if run.jobs[0].protocol.name == protocol]
            tables["effects"].append(_effects(study, part.train, of_protocol, selector))
    return {
        name: pd.concat(parts, ignore_index=True).drop_duplicates(ignore_index=True)
        for name, parts in tables.items()
        if any(map(len, parts))
    }


def _label(job: StudyJob) -> tuple[str, int]:
    """Return the name of a recipe, with the epoch if it is not the last, and the training seed."""
    assert job.training is not None
    epoch = int(split_trained_name(job.pair.model.partition(":")[2])[1])
    is_last = epoch == job.training.recipe.epochs
    name = job.training.name + ("" if is_last else f" at epoch {epoch}")
    return name, job.training.seed


def network_facts(job: StudyJob) -> dict[str, Any]:
    """Return what is known of the network of a job.

    Raises
    ------
    StoreError: its folder is missing or damaged.
    """
    name, seed = _label(job)
    checkpoint = find_checkpoint(job.pair.model.partition(":")[2])
    manifest, folder = checkpoint.manifest, checkpoint.folder
    log = pd.read_parquet(folder / manifest["log"]["path"])
    row = log[log["epoch"] == checkpoint.epoch].iloc[-1]
    columns = (
        *("loss", "train_error", "test_accuracy", "probe_accuracy", "live_share"),
        *("participation_ratio", "participation_ratio_standardised"),
    )
    return {
        "recipe": name,
        "training_seed": seed,
        "epoch": checkpoint.epoch,
        "n_neurons": int(manifest["n_neurons"]),
        "n_train": int(manifest["n_train"]),
        **{column: float(row.get(column, float("nan"))) for column in columns},
        "seconds": trained_seconds(folder) or float("nan"),
        "folder": folder.name,
    }


def _effects(
    study: Study, grid: TrainGrid, runs: Sequence[StudyRun], selector: str
) -> pd.DataFrame:
    baseline = grid.baseline or next(iter(grid.recipes))
    trained = [_trained_run(run) for run in runs]
    recipes = {one.recipe for one in trained}
    if len(recipes) < 2 or baseline not in recipes:
        warn_user(
            f"{study.name}: no recipes are compared, because only {', '.join(sorted(recipes))} "
            f"could be measured and the baseline is {baseline}"
        )
        return pd.DataFrame()
    table = effects(trained, baseline=baseline, selector=selector, deltas=study.deltas)
    # The laws are those of random subsets.
    predicted = _predictions(trained, study.deltas) if selector == RANDOM else {}
    return with_predictions(table, predicted)


def _trained_run(run: StudyRun) -> TrainedRun:
    facts = network_facts(run.jobs[0])
    return TrainedRun(
        facts["recipe"],
        facts["training_seed"],
        run.view,
        TrainingFacts(
            upstream_accuracy=facts["probe_accuracy"],
            train_error=facts["train_error"],
            live_share=facts["live_share"],
            n_neurons=facts["n_neurons"],
            seconds=facts["seconds"],
            pr_raw=facts["participation_ratio"],
            pr_standardised=facts["participation_ratio_standardised"],
        ),
    )


def _predictions(
    runs: Sequence[TrainedRun], deltas: Sequence[float]
) -> Mapping[PredictionKey, float]:
    """Return the critical mass by the laws: each measure's own, or that of ridge probes."""
    predicted: dict[PredictionKey, float] = {}
    for run in runs:
        table = run.view.frame()
        names = {(str(a), str(b)) for a, b in zip(table["layer"], table["measure"], strict=True)}
        [dataset] = set(table["dataset"])
        curves = read_curves(run.view)
        for layer, measure in names:
            entry = MEASURES[measure]
            curve = curves.get((layer, measure))
            if curve is None and entry.is_probe and entry.law is not None:
                curve = curves.get((layer, entry.law))
            if curve is None:
                continue
            for delta in deltas:
                mass, _, _ = curve.critical_mass(delta, _SEEDS, _LEVEL)
                key = PredictionKey(
                    run.recipe, run.training_seed, str(dataset), layer, measure, delta
                )
                predicted[key] = float(mass)
    return predicted
