"""`SelectorInput`: the layer that selectors choose from; quantities are computed on first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from criticalmass.core.compute import DEFAULT_COMPUTE, Compute
from criticalmass.core.moments import FloatArray, IntArray, Moments, moments
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError

#: What a selector needs of the layer: its width alone, second moments, second moments and class
#: means, or a probe on the whole layer.
Needs = Literal["nothing", "moments", "classes", "probe"]
_ONE_CLASS = (
    "this selector separates classes, but all training samples are of one class; choose one "
    "that needs no labels, e.g. 'leverage'"
)


@dataclass(frozen=True, eq=False)
class SelectorInput:
    """One layer on the training split; selectors never see the test split.

    The rows are read once for the moments (including the classes, if there are labels) and again
    only for a probe. They are not read for a selector that needs nothing.

    Attributes
    ----------
    n_neurons: width of the layer.
    rows: (n_train, n_neurons) features, or None.
    labels: (n_train,) class ids, or None.
    n_classes: number of classes; 0 takes it from the labels.
    validation: (n_train,) bool, training rows on which the probe's penalty is chosen.
    known_moments: moments to use instead of computing those of ``rows``.
    compute: threads, device, memory and workers of the moments and the probe.
    """

    n_neurons: int
    rows: Rows | None = None
    labels: IntArray | None = None
    n_classes: int = 0
    validation: npt.NDArray[np.bool_] | None = None
    known_moments: Moments | None = None
    compute: Compute = DEFAULT_COMPUTE

    @cached_property
    def moments(self) -> Moments:
        """Moments of the layer, including class counts and means if there are labels.

        Raises
        ------
        CriticalMassError: if there are neither moments nor rows, or a value is not finite.
        """
        if self.known_moments is not None:
            return self.known_moments
        if self.rows is None:
            raise CriticalMassError(
                "this selector needs the layer's moments; give Moments or SelectorInput(rows=...)"
            )
        return moments(
            self.rows,
            self.labels,
            n_classes=self._n_classes or None,
            executor=self.compute.executor,
        )

    @property
    def class_offsets(self) -> tuple[IntArray, FloatArray]:
        """Class counts (n_classes,) and class means minus the mean, (n_classes, n_neurons).

        Raises
        ------
        CriticalMassError: without labels, or if all samples are of one class.
        """
        m = self.moments
        if m.class_counts is None or m.class_means is None:
            raise CriticalMassError(
                "this selector needs labels; give moments(rows, labels) or "
                "SelectorInput(rows=..., labels=...)"
            )
        if np.count_nonzero(m.class_counts) < 2:
            raise CriticalMassError(_ONE_CLASS)
        return m.class_counts, np.where(m.class_counts[:, None] > 0, m.class_means - m.mean, 0.0)

    @cached_property
    def probe_weights(self) -> FloatArray:
        """(n_classes_present, n_neurons) weights of the whole layer's logistic probe.

        They are those of standardised neurons, fitted on the training rows with the protocol of
        the measure ``logistic``, which chooses its penalty on the validation rows among them.

        Raises
        ------
        CriticalMassError: without rows or labels, or if all samples are of one class.
        """
        from criticalmass.measures.logistic.probe import logistic
        from criticalmass.measures.probes.task import ProbeTask

        if self.rows is None or self.labels is None:
            raise CriticalMassError(
                "this selector fits a probe; give SelectorInput(rows=..., labels=...)"
            )
        if np.unique(self.labels).size < 2:
            raise CriticalMassError(_ONE_CLASS)
        no_validation = np.zeros(int(self.rows.shape[0]), dtype=np.bool_)
        task = ProbeTask(
            x_train=self.rows,
            y_train=self.labels,
            # Only the weights are used; the task needs at least one test row.
            x_test=np.asarray(self.rows[0:1]),
            n_classes=self._n_classes,
            orders=np.arange(self.n_neurons, dtype=np.intp)[None],
            sizes=(self.n_neurons,),
            validation=no_validation if self.validation is None else self.validation,
            compute=self.compute,
        )
        heads = logistic(task).heads
        if heads is None:
            raise CriticalMassError("the logistic probe returned no weights to select by")
        return np.asarray(heads[0][0].coef * self.moments.std, dtype=np.float64)

    @property
    def _n_classes(self) -> int:
        in_labels = 0 if self.labels is None else int(self.labels.max(initial=-1)) + 1
        return max(self.n_classes, in_labels)
