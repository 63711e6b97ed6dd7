"""`degrading_neurons`: neurons whose removal from a trained probe raises its accuracy."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.columns import COUNT, FLAG, FLOAT, LAYER_KEY_COLUMNS, typed_table
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.compute import Compute
from criticalmass.core.rows import Rows, check_finite, rows_as_float32
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.probe import logistic
from criticalmass.measures.probes.task import LinearHead, ProbeTask
from criticalmass.measures.scaling import column_scaling
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.layer_data import SweepData
from criticalmass.sweeps.training_sets import TrainingSet

DEGRADING_COLUMNS: dict[str, str] = (
    LAYER_KEY_COLUMNS
    | {"neuron": COUNT, "selection_gain": FLOAT, "selected": FLAG, "gain": FLOAT}
    | {"n_better": COUNT, "n_worse": COUNT, "p_value": FLOAT, "q_value": FLOAT}
    | {"degrades": FLAG, "fdr": FLOAT, "value_full": FLOAT}
    | dict.fromkeys(("n_selection", "n_test", "n_train"), COUNT)
)
# Logits of one block of rows, with every neuron removed.
_BLOCK_ENTRIES = 4_000_000


@dataclass(frozen=True, eq=False)
class RemovalEffects:
    """What removing one neuron changes, counted over some rows; each (n_neurons,).

    Attributes
    ----------
    better: rows that are right only without the neuron.
    worse: rows that are right only with it.
    """

    better: npt.NDArray[np.int64]
    worse: npt.NDArray[np.int64]

    @property
    def p_values(self) -> npt.NDArray[np.float64]:
        """P-values of the exact one-sided sign test that removing a neuron does not help.

        Of the rows whose answer changes between right and wrong, at most half become right if
        removing does not help (McNemar's test in its exact form).
        """
        from scipy.special import bdtrc

        return np.asarray(bdtrc(self.better - 1, self.better + self.worse, 0.5))


@validate_arguments
def degrading_neurons(
    store: FeatureStore | str | os.PathLike[str],
    *,
    layer: str = "penultimate",
    fdr: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """Find neurons whose removal raises the accuracy of the whole layer's logistic probe.

    The probe is that of the measure ``logistic``. A neuron is removed by setting it to its mean
    over the training rows; nothing is fitted again. The test samples are divided into two halves,
    stratified by class. Neurons whose removal raises the accuracy on the first are selected, and
    only these are tested on the second, so that the choice of the best does not count as
    evidence. The test is an exact sign test on the samples whose answer changes between right
    and wrong. The false discovery rate over the selected neurons is held by the procedure of
    Benjamini and Hochberg (1995), which is valid for independent and for positively dependent
    tests.

    Parameters
    ----------
    store: a feature store with labels and the splits train and test.
    layer: layer of the store.
    fdr: largest expected share of neurons without such an effect among those reported, in (0, 1).
    seed: of the division of the test samples.

    Returns
    -------
    One row per neuron, `DEGRADING_COLUMNS`, those that degrade first. ``selection_gain`` and
    ``gain``: change of accuracy by removing this neuron alone, on the first and on the second
    half. ``n_better``, ``n_worse``: samples of the second half that become right and wrong.
    ``p_value`` and ``q_value`` (adjusted for all selected neurons) are missing for neurons that
    were not selected. ``degrades``: whether q_value is at most ``fdr``.

    Raises
    ------
    CriticalMassError: the layer is unknown, ``fdr`` is outside (0, 1), there are fewer than 4 test
        samples, or the training samples have one class.
    """
    from scipy.stats import false_discovery_control

    if not 0.0 < fdr < 1.0:
        raise CriticalMassError(f"fdr={fdr} is outside (0, 1); 0.05 is usual")
    source = FeatureStore.open(store if isinstance(store, FeatureStore) else os.fspath(store))
    data = SweepData.from_store(source, Compute())
    n_test = int(data.y_test.size)
    if n_test < 4 or np.unique(data.y_train).size < 2:
        raise CriticalMassError(
            f"{source.path} has {n_test} test samples and {np.unique(data.y_train).size} classes "
            "in training; finding degrading neurons needs 4 test samples and 2 classes"
        )
    head, mean, right = _fit_whole_layer(data, layer)
    rows = data.layer(layer).test
    everything = TrainingSet("all", np.arange(n_test, dtype=np.intp))
    first = everything.half(seed, data.y_test).rows
    second = np.setdiff1d(everything.rows, first)
    chosen, tested = (
        removal_effects(head, mean, rows, index, data.y_test[index]) for index in (first, second)
    )
    selection_gain = (chosen.better - chosen.worse) / first.size
    selected = selection_gain > 0.0
    p_values = np.full(mean.size, np.nan)
    q_values = p_values.copy()
    if selected.any():
        p_values[selected] = tested.p_values[selected]
        q_values[selected] = false_discovery_control(p_values[selected], method="bh")
    columns = {
        "neuron": np.arange(mean.size),
        "selection_gain": selection_gain,
        "selected": selected,
        "gain": (tested.better - tested.worse) / second.size,
        "n_better": tested.better,
        "n_worse": tested.worse,
        "p_value": p_values,
        "q_value": q_values,
        "degrades": q_values <= fdr,
    }
    shared = {
        "model": source.model, "layer": layer, "dataset": source.dataset, "measure": "logistic",
        "fdr": fdr, "value_full": right, "n_selection": first.size, "n_test": second.size,
        "n_train": data.y_train.size,
    }  # fmt: skip
    table = pd.DataFrame(columns).sort_values(
        ["q_value", "p_value", "selection_gain"], ascending=[True, True, False], kind="stable"
    )
    return typed_table([shared | row for row in table.to_dict("records")], DEGRADING_COLUMNS)


def removal_effects(
    head: LinearHead,
    mean: npt.NDArray[np.float64],
    rows: Rows,
    index: npt.NDArray[np.intp],
    labels: npt.NDArray[np.int64],
) -> RemovalEffects:
    """Count what removing each neuron from a linear probe changes.

    Parameters
    ----------
    head: of the whole layer.
    mean: (n_neurons,) values of removed neurons.
    rows: (n_samples, n_neurons) raw features.
    index: (n_rows,) ascending numbers of the rows to count.
    labels: (n_rows,) their class ids.
    """
    coef = head.coef.astype(np.float64)
    n_classes, n_neurons = coef.shape
    better, worse = np.zeros(n_neurons, np.int64), np.zeros(n_neurons, np.int64)
    step = max(1, _BLOCK_ENTRIES // (n_classes * n_neurons))
    for start in range(0, index.size, step):
        part = index[start : start + step]
        low = int(part[0])
        raw = rows_as_float32(rows, low, int(part[-1]) + 1)[part - low]
        check_finite(raw, low, "x_test")
        centred = raw - mean
        logits = centred @ coef.T + (head.intercept + coef @ mean)
        truth = labels[start : start + step]
        with_all = head.classes[logits.argmax(axis=1)] == truth
        # (rows, classes, neurons): without a neuron its term is missing from the sum.
        without = logits[:, :, None] - centred[:, None, :] * coef
        is_right = head.classes[without.argmax(axis=1)] == truth[:, None]
        better += (is_right & ~with_all[:, None]).sum(axis=0)
        worse += (~is_right & with_all[:, None]).sum(axis=0)
    return RemovalEffects(better, worse)


def _fit_whole_layer(
    data: SweepData, name: str
) -> tuple[LinearHead, npt.NDArray[np.float64], float]:
    """Return the head of the whole layer, the training means, and its accuracy."""
    layer = data.layer(name)
    d = int(layer.train.shape[1])
    task = ProbeTask(
        x_train=layer.train,
        y_train=data.y_train,
        x_test=layer.test,
        n_classes=len(data.store.class_names),
        orders=np.arange(d, dtype=np.intp)[None],
        sizes=(d,),
        validation=data.validation,
        compute=data.compute,
    )
    scores = logistic(task)
    if scores.heads is None:
        raise CriticalMassError("the logistic probe returned no weights to remove neurons from")
    accuracy = float(np.mean(scores.predictions[0, 0] == data.y_test))
    return scores.heads[0][0], column_scaling(layer.train).mean, accuracy
