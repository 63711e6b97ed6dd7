"""The seconds and the memory of a sweep, estimated before it runs (``sweep --dry-run``).

A measure takes a weighted sum of counts of work (`work_of`) times the seconds of a matrix product.
The product is timed on this machine; the weights, none of them negative, were fitted to CPU seconds
of sweeps of synthetic layers by ``python -m benchmarks.scaling`` (docs/performance.md).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.core.compute import HELD_BYTES
from criticalmass.core.threads import limit_libraries, thread_count
from criticalmass.errors import CriticalMassError
from criticalmass.measures.memory import LayerSizes
from criticalmass.measures.registry import MEASURES
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps.auto_grid import is_auto
from criticalmass.sweeps.layer_info import describe_layers
from criticalmass.sweeps.memory_estimate import estimate_memory
from criticalmass.sweeps.plan import SweepRequest, list_cells, make_request
from criticalmass.theory.cka import COMPARISONS, FEWEST_ORDERS
from criticalmass.theory.exchangeability import MOST_NEURONS

if TYPE_CHECKING:
    import pandas as pd

# The timed product is (2000, 2048) by (2048, 500) in float32.
_PRODUCT, _PRODUCTS = (2000, 2048, 500), 5
# Those of `criticalmass.sweep`.
_DEFAULT_GRID: Mapping[str, Any] = {
    "selectors": ("random",),
    "fractions": DEFAULT_FRACTIONS,
    "seeds": 5,
    "measures": ("logistic", "cka"),
}


@dataclass(frozen=True, eq=False)
class SweepCost:
    """What a sweep is estimated to take.

    Attributes
    ----------
    table: one row per layer and measure: cells, those that are missing, and their CPU seconds
        (missing for a measure that was not fitted); then a row of the sums, with the memory.
    cpu_seconds: of all rows, and of the start of the process.
    peak_bytes: resident memory at its peak, pages of the store included.
    n_threads: threads that share the CPU seconds.
    """

    table: pd.DataFrame
    cpu_seconds: float
    peak_bytes: float
    n_threads: int

    def __str__(self) -> str:
        """Say it in one line."""
        unknown = ", ".join(self.table.loc[self.table["CPU s"].isna(), "measure"].unique())
        without = f", without {unknown}, whose time was not fitted" if unknown else ""
        return (
            f"about {self.cpu_seconds:,.0f} s of CPU time, shared by {self.n_threads} threads, and "
            f"{self.peak_bytes / 1e9:.2f} GB of memory{without}; refinement and the choice of "
            "neurons by selectors other than random are not included. In eight tests the time was "
            "0.8 to 1.2 times what the sweep took, in six the memory 1.1 to 1.4 times"
        )


def estimate_cost(
    store: FeatureStore | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    layers: str | Sequence[str] | None = None,
    grid: Mapping[str, Any] | None = None,
) -> SweepCost:
    """Estimate what `criticalmass.sweep` takes with these parameters; nothing is written.

    Parameters
    ----------
    store, out, layers: as `criticalmass.sweep` takes them. Cells that the run in ``out`` has are
        not counted.
    grid: selectors, fractions, seeds and measures of the sweep; its defaults where left out.

    Raises
    ------
    CriticalMassError: as `criticalmass.sweep` raises it, and for "auto" fractions or seeds, which
        are known only after a first sweep of a few cells.
    """
    import pandas as pd
    import psutil

    full_grid = {**_DEFAULT_GRID, **(grid or {})}
    if is_auto(full_grid["fractions"]) or is_auto(full_grid["seeds"]):
        raise CriticalMassError("a dry run needs numbers; fractions and seeds cannot be auto")
    source = FeatureStore.open(
        store if isinstance(store, FeatureStore) else Path(store), verify=False
    )
    request = make_request(describe_layers(source, layers), **full_grid)
    finished = _finished_cells(out)
    unit, n_threads = product_seconds(), thread_count()
    rows = []
    for layer in request.layers:
        sizes = request.sizes_of(layer, n_threads, HELD_BYTES)
        cells = [cell for cell in list_cells(request) if cell.layer == layer.name]
        for measure in request.measures:
            own = [cell.cell for cell in cells if cell.measure == measure]
            missing = sum(cell not in finished for cell in own)
            whole = units(measure, sizes)
            seconds = None if whole is None else unit * whole * missing / len(own)
            rows.append((layer.name, measure, len(own), missing, seconds))
    cpu_seconds = unit * float(_constants()["start"]) + sum(row[-1] or 0.0 for row in rows)
    peak_bytes = psutil.Process().memory_info().rss + _touched_bytes(request)
    counts = (sum(row[2] for row in rows), sum(row[3] for row in rows))
    rows.append(("all", "all", *counts, cpu_seconds))
    table = pd.DataFrame(rows, columns=["layer", "measure", "cells", "missing", "CPU s"])
    table["CPU s"] = table["CPU s"].astype("Float64").round(2)
    table["GB"] = pd.array([None] * (len(rows) - 1) + [round(peak_bytes / 1e9, 3)], "Float64")
    return SweepCost(table, cpu_seconds, peak_bytes, n_threads)


def units(measure: str, sizes: LayerSizes) -> float | None:
    """Return the work of a measure in timed products; None if it was not fitted."""
    fitted: Mapping[str, float] | None = _constants()["measures"].get(measure)
    if fitted is None:
        return None
    work = work_of(sizes)
    return sum(weight * work[name] for name, weight in fitted.items())


def work_of(sizes: LayerSizes) -> dict[str, float]:
    """Return the counts of work that a measure's time is a weighted sum of.

    The names are those of ``cost.json``. With n training samples, m test samples, d neurons, c
    classes, o orders and kept sizes k below d: a constant; subsets; values read; products of the
    second moment; factors of it; passes of linear heads over the rows; products of heads and
    moments; factors of the subsets; cross products of a subset and the layer; distances between
    training and test samples, and lists of neighbours; and what the prediction of a measure takes:
    random orders of the law of CKA, and the test whether neurons are exchangeable.
    """
    n, m, d, c, o = sizes.n_train, sizes.n_test, sizes.n_neurons, sizes.n_classes, sizes.n_orders
    kept = [k for k in sizes.sizes if k < d]
    first, second, third = (o * sum(k**power for k in kept) + d**power for power in (1, 2, 3))
    return {
        "constant": 1.0,
        "subsets": float(o * len(kept) + 1),
        "values": float((n + m) * d),
        "moments": float((n + m) * d**2),
        "layer factors": float(d**3),
        "passes": float(n * c * first),
        "heads": float(c * second),
        "subset factors": float(third),
        "cross products": float(d * second),
        "distances": float(m * n * (o * max(kept, default=0) + d)),
        "lists": float(m * n * (o * len(kept) + 1)),
        "orders of the law": max(COMPARISONS, float(FEWEST_ORDERS * d**2)),
        "exchangeability": float(min(d, MOST_NEURONS) ** 3),
    }


@cache
def product_seconds() -> float:
    """Return the CPU seconds of one matrix product on one thread, the best of a few."""
    n, d, k = _PRODUCT
    rng = np.random.default_rng(0)
    a = rng.standard_normal((n, d), dtype=np.float32)
    b = rng.standard_normal((d, k), dtype=np.float32)
    seconds = []
    with limit_libraries(1):
        for _ in range(1 + _PRODUCTS):
            start = time.thread_time()
            a @ b
            seconds.append(time.thread_time() - start)
    return max(min(seconds[1:]), 1e-4)


def _finished_cells(out: str | os.PathLike[str]) -> set[str]:
    if not Run.exists(out):
        return set()
    frame = Run.open(out).frame()
    return set(frame.loc[frame["status"] != "failed", "cell"])


def _touched_bytes(request: SweepRequest) -> float:
    """Return the memory that a sweep touches beyond that of the process, see `SweepCost`.

    The estimate that refuses a sweep counts whole blocks of rows and tiles, which small layers do
    not fill: what a measure takes on a layer of one neuron. Here they count as far as the layer's
    rows in float64 could fill them: those of both splits for probes, of the test split for others.
    """
    estimate = estimate_memory(request, HELD_BYTES)
    written = sum(part.n_bytes for part in estimate.parts)
    sizes = max(
        (request.sizes_of(layer, thread_count(), HELD_BYTES) for layer in request.layers),
        key=lambda one: one.mapped_bytes,
    )
    least = replace(sizes, n_train=1, n_test=1, n_neurons=1, n_classes=1, sizes=(1,), n_orders=1)
    counted = {part.name for part in estimate.parts} & set(request.measures)
    blocks = max(MEASURES[name].workspace_bytes(least) for name in counted)
    n_rows = sizes.n_test + sizes.n_train * any(MEASURES[name].is_probe for name in counted)
    filled = 8 * n_rows * sizes.n_neurons
    unfilled = max(0, blocks - filled)
    return float(estimate.mapped_bytes + estimate.library_memory + max(0, written - unfilled))


@cache
def _constants() -> dict[str, Any]:
    text = files("criticalmass.sweeps").joinpath("cost.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
