"""`measure`: extract, sweep and report in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.notebook import Card, Shown
from criticalmass.errors import CriticalMassError
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS

if TYPE_CHECKING:
    from criticalmass.extraction.datasets import Dataset
    from criticalmass.extraction.models import FrozenModel
    from criticalmass.storage.features import FeatureStore
    from criticalmass.storage.run import Run

ZERO_SHOT = "zero-shot"


@dataclass(frozen=True, repr=False)
class Measurement(Shown):
    """The result of `measure`.

    Attributes
    ----------
    store: the features.
    run: the results; with several labels, of the first one.
    report: path of the page.
    runs: with several labels: name of the label -> its results; otherwise empty.
    """

    store: FeatureStore
    run: Run
    report: Path
    runs: Mapping[str, Run] = field(default_factory=dict)

    def _card(self) -> Card:
        runs = ", ".join(str(run.path) for run in (self.runs or {"": self.run}).values())
        facts = {"features": self.store.path, "run": runs, "page": self.report}
        return Card(f"Measurement of {self.store.model} on {self.store.dataset}", facts)


@validate_arguments
def measure(
    model: str | FrozenModel | Any,
    dataset: str | Dataset | Any,
    *,
    out: str | os.PathLike[str],
    layers: Sequence[str] = ("penultimate",),
    selectors: Sequence[str] = ("random",),
    fractions: float | str | Iterable[float] = DEFAULT_FRACTIONS,
    seeds: int | str | Iterable[int] = 5,
    measures: Sequence[str] = ("logistic", "cka"),
    refine: float | str | Sequence[float] | None = "auto",
    refine_level: float = 0.95,
    refine_seeds: int = 20,
    refine_cells: int = 1000,
    training_sets: int = 0,
    deltas: Sequence[float] = (0.8, 0.9, 0.95),
    device: str = "auto",
    backend: str = "local",
    weights: str | Path | None = None,
    pool: str | None = None,
    skip_broken: bool = False,
    precision: str = "float32",
    preprocess: Callable[[Any], Any] | None = None,
    labels: Sequence[str] = (),
    prompts: Sequence[str] | str = (),
    text_model: str | FrozenModel | Any | None = None,
) -> Measurement:
    """Measure how many neurons of a model's layers are needed on a dataset.

    Results that are already in ``out`` are reused, so an interrupted call can be repeated.

    Parameters
    ----------
    model, dataset: as `criticalmass.extract` takes them.
    out: folder to write: ``features/``, ``run/`` and ``report.html``; with several labels
        ``run-LABEL/`` for each.
    layers, device, weights, pool, skip_broken, precision, preprocess, labels: as
        `criticalmass.extract` takes them. With several labels of each sample there is a run for
        each, on the same features, subsets and test samples, and the page compares the first one
        with the others.
    prompts, text_model: as `criticalmass.extract` takes them, for the measure ``zero-shot``.
    selectors, fractions, seeds, measures, refine, refine_level, refine_seeds, refine_cells,
        training_sets: as `criticalmass.sweep` takes them.
        The default "auto" refines to ``deltas`` where that costs less than a tenth of the sweep.
    deltas: shares of the whole layer's value in the report.
    backend: where the work runs.

    Raises
    ------
    CriticalMassError: as `extract`, `sweep` and `report` raise it; prompts without the measure
        ``zero-shot``.
    """
    from criticalmass.extraction.datasets.several_labels import labels_of
    from criticalmass.extraction.extract import extract
    from criticalmass.reporting.page.report import report
    from criticalmass.storage.features_writer import safe_file_name
    from criticalmass.sweeps.refine import AUTO, auto_refinement
    from criticalmass.sweeps.sweep import sweep

    if prompts and ZERO_SHOT not in measures:
        raise CriticalMassError(
            f"prompts={prompts!r} are for the measure {ZERO_SHOT}, which is not asked for; add "
            f"--measure {ZERO_SHOT} (measures=)"
        )
    folder = Path(out)
    store = extract(
        model,
        dataset,
        out=folder / "features",
        layers=layers,
        device=device,
        backend=backend,
        weights=weights,
        pool=pool,
        skip_broken=skip_broken,
        precision=precision,
        preprocess=preprocess,
        labels=labels,
        prompts=prompts,
        text_model=text_model,
    )
    names = labels_of(dataset, labels)
    stores = {f"run-{safe_file_name(name)}": store.task(name) for name in names}
    runs = [
        sweep(
            one,
            out=folder / run,
            selectors=selectors,
            fractions=fractions,
            seeds=seeds,
            measures=measures,
            refine=auto_refinement(deltas) if refine == AUTO else refine,
            refine_level=refine_level,
            refine_seeds=refine_seeds,
            refine_cells=refine_cells,
            training_sets=training_sets,
            backend=backend,
        )
        for run, one in (stores or {"run": store}).items()
    ]
    page = report(runs, folder / "report.html", deltas=deltas)
    return Measurement(store, runs[0], page, dict(zip(names, runs, strict=True)) if names else {})
