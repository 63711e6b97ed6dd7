"""What selectors choose by: one layer on the training split, computed when first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IntArray, Moments, moments
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError

#: How much of the layer a rule looks at: nothing but its width, second moments, those and the
#: means of the classes, or a probe on the whole layer.
Needs = Literal["nothing", "moments", "classes", "probe"]
_ONE_CLASS = (
    "this selector tells classes apart, but all training samples are of one class; choose one "
    "that needs no labels, e.g. 'leverage'"
)


@dataclass(frozen=True, eq=False)
class Evidence:
    """One layer on the training split, as selectors may see it; never the test split.

    A store is read once for the moments (with those of the classes, if there are labels) and
    again only if a probe is asked for; a rule that needs nothing reads nothing.

    Attributes
    ----------
    n_neurons: width of the layer.
    rows: (n_train, n_neurons) features, or None.
    labels: (n_train,) class ids, or None.
    n_classes: number of classes; 0 counts them from the labels.
    validation: (n_train,) bool, training rows on which the probe's strength is chosen.
    known: moments that are there already, instead of those of ``rows``.
    """

    n_neurons: int
    rows: Rows | None = None
    labels: IntArray | None = None
    n_classes: int = 0
    validation: npt.NDArray[np.bool_] | None = None
    known: Moments | None = None

    @cached_property
    def moments(self) -> Moments:
        """Moments of the layer, with those of its classes if there are labels.

        Raises
        ------
        CriticalMassError: if there are neither moments nor rows, or a value is not finite.
        """
        if self.known is not None:
            return self.known
        if self.rows is None:
            raise CriticalMassError(
                "this selector needs the layer's moments; give it Moments, or Evidence with rows"
            )
        return moments(self.rows, self.labels, n_classes=self._classes or None)

    @property
    def between(self) -> tuple[IntArray, FloatArray]:
        """Class counts (n_classes,) and class means minus the mean, (n_classes, n_neurons).

        Raises
        ------
        CriticalMassError: without labels, or if all samples are of one class.
        """
        m = self.moments
        if m.class_counts is None or m.class_means is None:
            raise CriticalMassError(
                "this selector needs labels; give it moments(rows, labels), or Evidence with labels"
            )
        if np.count_nonzero(m.class_counts) < 2:
            raise CriticalMassError(_ONE_CLASS)
        return m.class_counts, np.where(m.class_counts[:, None] > 0, m.class_means - m.mean, 0.0)

    @cached_property
    def probe_weights(self) -> FloatArray:
        """(n_classes_present, n_neurons) weights of the whole layer's logistic probe.

        On standardised neurons; fitted on the training rows with the protocol of the measure
        ``logistic``, whose strength is chosen on the validation rows among them.

        Raises
        ------
        CriticalMassError: without rows or labels, or if all samples are of one class.
        """
        from criticalmass.measures.logistic.probe import logistic
        from criticalmass.measures.probes.task import ProbeTask

        if self.rows is None or self.labels is None:
            raise CriticalMassError(
                "this selector fits a probe; give it Evidence with rows, labels"
            )
        if np.unique(self.labels).size < 2:
            raise CriticalMassError(_ONE_CLASS)
        none = np.zeros(int(self.rows.shape[0]), dtype=np.bool_)
        task = ProbeTask(
            x_train=self.rows,
            y_train=self.labels,
            # Nothing is scored: the probe is asked for its weights alone.
            x_test=np.asarray(self.rows[0:1]),
            n_classes=self._classes,
            orders=np.arange(self.n_neurons, dtype=np.intp)[None],
            sizes=(self.n_neurons,),
            validation=none if self.validation is None else self.validation,
        )
        heads = logistic(task).heads
        if heads is None:
            raise CriticalMassError("the logistic probe kept no weights to choose by")
        return np.asarray(heads[0][0].coef * self.moments.std, dtype=np.float64)

    @property
    def _classes(self) -> int:
        top = 0 if self.labels is None else int(self.labels.max(initial=-1)) + 1
        return max(self.n_classes, top)
