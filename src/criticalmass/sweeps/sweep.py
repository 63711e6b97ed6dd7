"""`sweep`: measure subsets of a feature store and write the results into a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.backends import Backend, Local, hold_rows, start_workers
from criticalmass.core.compute import Compute
from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.registry import MEASURES
from criticalmass.measures.relevance import missing_qrels
from criticalmass.selectors.registry import SELECTORS
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps.auto_grid import is_auto, resolve_auto
from criticalmass.sweeps.backends import get_sweep_backend
from criticalmass.sweeps.cell_cache import CellCache
from criticalmass.sweeps.draw_spread import draw_spreads
from criticalmass.sweeps.jobs import run_job
from criticalmass.sweeps.layer_data import SweepData
from criticalmass.sweeps.layer_info import describe_layers
from criticalmass.sweeps.memory_estimate import row_memory_limit
from criticalmass.sweeps.plan import SweepRequest, list_cells, make_request
from criticalmass.sweeps.predict import predict_for_run
from criticalmass.sweeps.recorder import RunRecorder, compute_cells
from criticalmass.sweeps.refine import Refinement, refine_run
from criticalmass.sweeps.run_folder import (
    describe,
    drop_stale,
    missing_cells,
    open_run,
    warn_of_failures,
)
from criticalmass.sweeps.training_sets import TrainingPlan, TrainingSweep

RERUNS = ("missing", "failed", "all")


@validate_arguments
def sweep(
    store: FeatureStore | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    selectors: str | Sequence[str] = ("random",),
    fractions: float | str | Iterable[float] = DEFAULT_FRACTIONS,
    seeds: int | str | Iterable[int] = 5,
    measures: str | Sequence[str] = ("logistic", "cka"),
    refine: float | str | Sequence[float] | None = None,
    refine_level: float = 0.95,
    refine_seeds: int = 20,
    refine_cells: int = 1000,
    rerun: str = "missing",
    backend: str | Backend = "local",
    layers: str | Sequence[str] | None = None,
    training_sets: int = 0,
    train_sizes: int | Iterable[int] = (),
) -> Run:
    """Measure subsets of every size for every seed, and the whole layer.

    Probes train on the split ``train`` and are scored on ``test``; similarities compare the raw
    features of ``test``. Selectors see ``train`` only. A cell is identified by what it computes
    on: features, labels, subset, measure and protocol. A second sweep into the same run computes
    only the missing cells, so fractions, seeds, selectors and measures can be added, and an
    interrupted sweep can be continued. Rows whose features or protocol have changed are dropped
    with a warning.

    Parameters
    ----------
    store: a feature store or its folder.
    out: folder of the run: new, empty, or a run of the same model and dataset.
    selectors: keys of ``selectors.SELECTORS``.
    fractions: shares of the neurons to keep, in (0, 1]. "auto" chooses as many as the default,
        where the predicted curves bend (`criticalmass.sweeps.auto_grid`).
    seeds: number of seeds (0, 1, ...) or the seeds themselves, for the random selectors. "auto"
        chooses the number at which means that are at least 80 % of the whole layer's value are
        known within 2 % of it, from the predicted scatter; "auto:0.01" means within 1 %.
    measures: keys of ``measures.MEASURES``.
    refine: one or several shares of the whole layer's value. The critical mass of each is
        searched to one neuron after the grid, by halving the gap in which the mean over seeds
        first reaches the threshold. A size close to the threshold gets more seeds. If they do
        not decide on which side it is, the result is an interval; see `sweeps.bisection`, also
        for curves that are not monotone. The results are in the manifest, and `redundancy` shows
        them. "auto" refines to 0.8, 0.9 and 0.95 ("auto:0.9" to 0.9), but only measures whose
        search costs less than a tenth of the sweep's work, and says which. None or "none"
        refines nothing.
    refine_level: level at which the mean of a size counts as above or below the threshold.
    refine_seeds: most seeds of a size in the refinement (a deterministic selector has one).
    refine_cells: most cells of the refinement beyond the grid, for each layer, selector, measure
        and delta. If the budget ends first, a warning says so and the manifest records it.
    rerun: which cells to compute. "missing": cells without a row; "failed": those and the failed
        ones; "all".
    backend: where jobs run: a key of `SWEEP_BACKENDS` or a backend object.
    layers: layers of the store; all by default.
    training_sets: number of random halves of the training rows, stratified by class, on which
        every probe of the grid is trained again, 3 or more; `redundancy` and `curves` then
        include the variation between training sets in the intervals of accuracies (see
        `analysis.training_sets`). 8 is usual and costs about four sweeps of the probes. Selectors
        that use the training rows choose again. A run keeps the sets that it has.
    train_sizes: numbers of training rows: every probe of the grid is trained on so many rows too,
        with the same subsets and test samples. The rows are the first ones of one stratified
        permutation. `criticalmass.train_sizes` compares them. With ``training_sets`` each has
        halves of its own.

    Raises
    ------
    CriticalMassError: a name, fraction or seed is invalid, or memory is too small.
    StoreError: the store lacks the split ``train`` or ``test``.
    RunError: ``out`` holds something else, or another process writes to it.
    """
    refinement = Refinement.from_arguments(refine, refine_level, refine_seeds, refine_cells)
    if rerun not in RERUNS:
        raise unknown_name("rerun", rerun, RERUNS)
    job_backend = get_sweep_backend(backend)
    source = FeatureStore.open(store if isinstance(store, FeatureStore) else Path(store))
    request = make_request(
        describe_layers(source, layers),
        selectors=selectors,
        fractions=DEFAULT_FRACTIONS if is_auto(fractions) else fractions,
        seeds=1 if is_auto(seeds) else seeds,
        measures=measures,
    )
    compute = Compute()
    data = SweepData.from_store(source, compute)
    _check_needs(data, request)
    if isinstance(job_backend, Local):  # the workers of other backends have memory of their own
        compute = replace(compute, held_bytes=row_memory_limit(request))
    plan = TrainingPlan.from_arguments(training_sets, train_sizes, request)
    request, auto_grid = resolve_auto(request, data, Path(out), fractions, seeds)
    cells = list_cells(request)
    run = open_run(Path(out), source)
    with run.writer() as writer, hold_rows(job_backend, compute) as compute:
        data = data.with_compute(compute)
        n_rows = len(run.frame())
        digests = {name: source.digest(name) for name in source.layers}
        n_stale = drop_stale(run, writer, source, digests)
        if n_stale:
            warn_user(
                f"{run.path}: dropped {n_stale} of {n_rows} rows, because their features or "
                "protocol have changed"
            )
        describe(run, writer, data, request)
        writer.update_manifest(**({} if auto_grid is None else {"planned": auto_grid.record()}))
        predict_for_run(run, data, request)
        draw_spreads(run, writer, data, request)
        recorder = RunRecorder(run, writer)
        missing = missing_cells(cells, run.frame(), rerun)
        with start_workers(job_backend, partial(run_job, data)) as run_jobs:
            label = f"sweep of {source.model} on {source.dataset}"
            compute_cells(recorder, missing, run_jobs, label)
            if refinement is not None:
                computed = [cell.cell for cell in missing]
                cache = CellCache(recorder, run_jobs, rerun=rerun, computed=computed)
                cells += refine_run(cache, request, refinement)
        TrainingSweep(data, request, job_backend, rerun).sweep(run, writer, plan)
    warn_of_failures(run, {cell.cell for cell in cells})
    return run


def _check_needs(data: SweepData, request: SweepRequest) -> None:
    on_qrels = [name for name in request.measures if MEASURES[name].needs_qrels]
    if on_qrels and not data.store.is_collection:
        raise missing_qrels(on_qrels[0], repr(str(data.store.path)))
    probes = [name for name in request.measures if MEASURES[name].needs_labels]
    n_classes = min(np.unique(data.y_train).size, request.layers[0].n_classes)
    if probes and data.store.tasks:
        folders = ", ".join(str(data.store.task(name).path) for name in data.store.tasks)
        raise CriticalMassError(
            f"{str(data.store.path)!r} has several labels of each sample; sweep the store of one "
            f"of them: {folders}"
        )
    if probes and n_classes < 2:
        raise CriticalMassError(
            f"the training split of {data.store.dataset} has {n_classes} class, but "
            f"{', '.join(probes)} needs at least 2; ask for measures=('cka',)"
        )
    for name in request.measures:
        if MEASURES[name].reads:
            _check_beside(data, request, name)
    # Orders share a job: if one selector fails, the cells of the others fail too.
    supervised = [name for name in request.selectors if SELECTORS[name].needs_labels]
    if supervised and n_classes < 2:
        raise CriticalMassError(
            f"the training split of {data.store.dataset} has one class, but "
            f"{', '.join(supervised)} needs at least two; choose selectors that need no labels, "
            "e.g. leverage"
        )


def _check_beside(data: SweepData, request: SweepRequest, measure: str) -> None:
    """Raise if no layer has what a measure reads; say how unnamed outputs are matched."""
    reads, layers = MEASURES[measure].reads, request.layers
    read = next((layer.name for layer in layers if reads in layer.stored), layers[0].name)
    classifier = data.read_beside(measure, read).get("classifier")
    if classifier is not None and not classifier.output_names:
        warn_user(
            f"own-head: the outputs of {data.store.model} have no names; they are taken as the "
            f"{len(classifier.bias)} classes of {data.store.dataset} in order"
        )
