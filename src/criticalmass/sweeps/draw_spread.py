"""Learn how far single random subsets differ, beyond what the seeds of a sweep show.

Three or five seeds say little about the spread of the subsets, and nothing if the value rests on
a neuron that all of them contain or miss. The law of CKA gives its spread exactly. For a probe,
and for debiased CKA, many more subsets are drawn where they cost little; elsewhere the predicted
ridge probe shows how the spread changes with the size, and the measured seeds give its scale. The
standard deviation at every size is kept in the run's manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.analysis.class_curves import CORRECTED as GINI
from criticalmass.analysis.class_curves import EXCESS, class_statistics
from criticalmass.analysis.predicted_curves import PredictedCurve, read_curves
from criticalmass.analysis.spread_records import (
    ENTRY,
    VALUE,
    ClassSpread,
    SpreadRecord,
    read_spreads,
)
from criticalmass.core.moments import FloatArray, moment_of_squares, moments
from criticalmass.core.threads import limit_libraries
from criticalmass.measures.memory import LayerSizes
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.protocol import EXPECTED
from criticalmass.measures.registry import MEASURES, get_probe
from criticalmass.measures.similarity.cka import prefix_cka, prefix_cka_debiased
from criticalmass.measures.similarity.hsic import FEWEST_DEBIASED
from criticalmass.sweeps.predict import (
    BUDGET_SHARE,
    FREE_FLOPS,
    WIDEST_IN_SWEEP,
    line_if_slow,
    prediction_flops,
    sweep_flops,
)
from criticalmass.theory.eigenbasis import eigenbasis
from criticalmass.theory.prediction import ridge_curve

if TYPE_CHECKING:
    from criticalmass.storage.run import Run, RunWriter
    from criticalmass.sweeps.layer_data import SweepData
    from criticalmass.sweeps.layer_info import LayerInfo
    from criticalmass.sweeps.plan import SweepRequest

SELECTOR = "random"
#: Fewest and most subsets of each size. With 20 the standard deviation is known within a third,
#: with 100 within a seventh (at 95 %).
FEWEST, MOST = 20, 100
#: The measures that stand in for others whose subsets differ in much the same way.
CKA = "cka"
DEBIASED = "cka-debiased"
RIDGE = "ridge"
#: With fewer test samples per neuron the bias of CKA is recorded.
ROWS_PER_NEURON = 5
#: Drawn subsets that together take no more operations than this are drawn for every sweep. In
#: small products a core does about 1e9 of them in a second.
FREE_DRAWS = 5e9
#: With more classes the manifest does not hold the spread of each.
MOST_CLASSES = 100
# Seeds of the drawn subsets; a sweep uses small ones.
_FIRST_SEED = 1_000_000
_ORDERS_AT_ONCE = 5


def draw_spreads(run: Run, writer: RunWriter, data: SweepData, request: SweepRequest) -> None:
    """Write the spread of random subsets of every layer and measure, if it costs little.

    Drawn subsets may cost a tenth of the operations of the sweep, and always `FREE_DRAWS`; a
    probe of which fewer than 20 fit takes the spread of the predicted ridge probe, which may cost
    as much as a prediction (`predict_for_run`). A measure that fails with an expected error, and
    one for which nothing fits, has no spread.
    """
    if SELECTOR not in request.selectors:
        return
    known, laws = read_spreads(run), read_curves(run)
    sizes = {layer.name: _sizes(request, layer, known) for layer in request.layers}
    missing = {
        layer.name: [
            name
            for name in request.measures
            if (layer.name, name) not in known
            or set(sizes[layer.name].sizes) - set(known[layer.name, name].sizes.tolist())
        ]
        for layer in request.layers
    }
    layers = [layer for layer in request.layers if missing[layer.name]]
    if not layers:
        return
    entry = dict(run.manifest.get(ENTRY, {}))
    share = BUDGET_SHARE * sweep_flops(request) / len(layers)
    with (
        line_if_slow(f"estimating the spread of subsets of {data.store.model}"),
        limit_libraries(1),
    ):
        for layer in layers:
            own = {measure: curve for (name, measure), curve in laws.items() if name == layer.name}
            source = _SpreadSource(data, layer, sizes[layer.name], own, share)
            records = source.records(missing[layer.name])
            old = entry.get(layer.name, {})
            kept = old.get("measures", {}) if old.get("digest") == layer.digest else {}
            entry[layer.name] = {"digest": layer.digest, "measures": {**kept, **records}}
    writer.update_manifest(**{ENTRY: entry})


def _sizes(
    request: SweepRequest, layer: LayerInfo, known: Mapping[tuple[str, str], SpreadRecord]
) -> LayerSizes:
    """Return the sizes of a sweep and those of the records that its measures have already."""
    records = [known[key] for key in known if key[0] == layer.name and key[1] in request.measures]
    of_records = {int(size) for record in records for size in record.sizes}
    own = request.sizes_of(layer, n_threads=1, held_bytes=0)
    return replace(own, sizes=tuple(sorted({*own.sizes, *of_records})))


class _SpreadSource:
    """Where the spread of the measures of one layer comes from.

    Parameters
    ----------
    data, info, sizes: the layer and the sizes of the sweep.
    laws: predicted curves of the layer by measure.
    budget: operations that drawn subsets may take beyond `FREE_DRAWS`, and a prediction beyond
        `FREE_FLOPS`.
    """

    def __init__(
        self,
        data: SweepData,
        info: LayerInfo,
        sizes: LayerSizes,
        laws: dict[str, PredictedCurve],
        budget: float,
    ) -> None:
        self.data, self.info, self.sizes = data, info, sizes
        self.ks = np.asarray(sizes.sizes, dtype=np.int64)
        self.laws = laws
        self.draw_budget = max(FREE_DRAWS, budget)
        self.law_budget = max(FREE_FLOPS, budget)

    def records(self, measures: list[str]) -> dict[str, Any]:
        """Return the records by measure, the cheapest measure first."""
        records: dict[str, SpreadRecord] = {}
        for name in sorted(measures, key=lambda measure: _flops(measure, self.sizes, FEWEST)):
            try:
                record = self._record(name)
            except EXPECTED:
                continue
            if record is not None and all(np.isfinite(std).all() for std in record.std.values()):
                records[name] = record
        return {name: record.record() for name, record in records.items()}

    def _record(self, measure: str) -> SpreadRecord | None:
        if not MEASURES[measure].is_probe:
            return self._of_similarity(measure)
        n_subsets = _affordable(measure, self.sizes, self.draw_budget)
        if n_subsets >= FEWEST:
            self.draw_budget -= _flops(measure, self.sizes, n_subsets)
            return self._of_probe(self._class_accuracy(measure, n_subsets))
        law = self._ridge_law()
        # The spread of the law itself is right up to a factor of about 1.5.
        return None if law is None else self._of_law(law, RIDGE, None)

    def _of_similarity(self, measure: str) -> SpreadRecord | None:
        law = self.laws.get(CKA)
        if measure == CKA and law is not None:
            return self._of_law(law, "", self._bias())
        if measure == DEBIASED and self._can_draw_cka:
            return self._of_draws({VALUE: self._drawn_cka[1]})
        if measure == DEBIASED and law is not None:
            return self._of_law(law, CKA, None)
        return None

    def _of_law(
        self, law: PredictedCurve, stand_in: str, bias: FloatArray | None
    ) -> SpreadRecord | None:
        if law.n_neurons != self.info.n_neurons:
            return None
        std = np.where(self.ks < self.info.n_neurons, law.interpolate(self.ks)[1], 0.0)
        return SpreadRecord(self.ks, {VALUE: std}, bias, 0, stand_in)

    def _of_draws(self, scores: Mapping[str, FloatArray]) -> SpreadRecord:
        """Return the spread of drawn subsets; ``scores`` are name -> (n_subsets, n_sizes)."""
        is_subset = self.ks < self.info.n_neurons
        std = {
            name: np.where(is_subset, values.std(axis=0, ddof=1), 0.0)
            for name, values in scores.items()
        }
        return SpreadRecord(self.ks, std, None, len(scores[VALUE]), "")

    def _bias(self) -> FloatArray | None:
        """(n_sizes,) mean of plain less debiased CKA, where there are few test samples."""
        if self.info.n_test >= ROWS_PER_NEURON * self.info.n_neurons or not self._can_draw_cka:
            return None
        plain, debiased = self._drawn_cka
        return np.asarray((plain - debiased).mean(axis=0))

    @property
    def _can_draw_cka(self) -> bool:
        """Whether debiased CKA is defined, and that of drawn subsets costs little."""
        n, d = self.info.n_test, self.info.n_neurons
        return n >= FEWEST_DEBIASED and 4.0 * (n + 2 * MOST) * d**2 <= self.law_budget

    @cached_property
    def _drawn_cka(self) -> FloatArray:
        """(2, n_subsets, n_sizes) plain and debiased CKA of drawn subsets."""
        layer, n = self.data.layer(self.info.name), self.info.n_test
        both = moments(layer.test)
        squares = moment_of_squares(layer.test, both.mean)
        orders = layer.orders([(SELECTOR, _FIRST_SEED + seed) for seed in range(MOST)])
        curves = [
            (prefix_cka(both.scatter, one), prefix_cka_debiased(both.scatter, squares, n, one))
            for one in orders
        ]
        return np.stack(curves, axis=1)[:, :, self.ks - 1]

    def _of_probe(self, accuracy: FloatArray) -> SpreadRecord:
        """Return the spread of drawn subsets; ``accuracy`` is (n_subsets, n_sizes, n_classes)."""
        ids, counts = np.unique(self.data.y_test, return_counts=True)
        # The last size is the whole layer, the same for all orders.
        known = class_statistics(accuracy, accuracy[:, -1], counts.astype(np.float64))
        total = known["accuracy"]
        record = self._of_draws({VALUE: total, GINI: known[GINI], EXCESS: known[EXCESS]})
        if ids.size > MOST_CLASSES:
            return record
        return replace(record, classes=ClassSpread.of(ids, accuracy, total))

    def _class_accuracy(self, measure: str, n_subsets: int) -> FloatArray:
        """(n_subsets, n_sizes, n_classes) accuracies of drawn subsets."""
        data, layer = self.data, self.data.layer(self.info.name)
        classes, members = np.unique(data.y_test, return_inverse=True)
        beside = data.read_beside(measure, self.info.name)
        parts = []
        for start in range(0, n_subsets, _ORDERS_AT_ONCE):
            seeds = range(start, min(start + _ORDERS_AT_ONCE, n_subsets))
            task = ProbeTask(
                x_train=layer.train,
                y_train=data.y_train,
                x_test=layer.test,
                n_classes=len(data.store.class_names),
                orders=layer.orders([(SELECTOR, _FIRST_SEED + seed) for seed in seeds]),
                sizes=self.sizes.sizes,
                validation=data.validation,
                compute=data.compute,
                **beside,
            )
            correct = get_probe(measure)(task).predictions == data.y_test
            by_class = [correct[:, :, members == c].mean(axis=2) for c in range(classes.size)]
            parts.append(np.stack(by_class, axis=-1))
        return np.concatenate(parts)

    def _ridge_law(self) -> PredictedCurve | None:
        """Return the predicted ridge probe, made here if the run has none and it costs little."""
        if RIDGE not in self.laws:
            cost = prediction_flops(self.info, RIDGE)
            if cost > self.law_budget or self.info.n_neurons > WIDEST_IN_SWEEP:
                return None
            self.law_budget -= cost
            layer, data = self.data.layer(self.info.name), self.data
            basis = eigenbasis(layer.train, data.y_train, n_classes=self.info.n_classes)
            self.laws[RIDGE] = ridge_curve(basis, layer.test, data.y_test)
        return self.laws[RIDGE]


def _flops(measure: str, sizes: LayerSizes, n_subsets: int) -> float:
    return MEASURES[measure].flops(replace(sizes, n_orders=n_subsets))


def _affordable(measure: str, sizes: LayerSizes, budget: float) -> int:
    """Return the number of subsets of each size within the budget, at most `MOST`."""
    fixed = _flops(measure, sizes, 0)
    each = _flops(measure, sizes, 1) - fixed
    return int(min(MOST, max(0.0, budget - fixed) / max(each, 1.0)))
