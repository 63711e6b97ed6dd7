"""Always answering one class: the accuracy that needs no neurons at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from criticalmass.core.quantiles import sign_test


@dataclass(frozen=True)
class ConstantAnswer:
    """The best constant answer on some labelled samples: always their most frequent class.

    Attributes
    ----------
    class_id: the class; of equally frequent ones the first.
    accuracy: its share of the samples.
    """

    class_id: int
    accuracy: float

    @classmethod
    def best(cls, labels: npt.NDArray[np.int64]) -> ConstantAnswer:
        """Return the best constant answer to (n_samples,) class ids, at least one."""
        counts = np.bincount(labels)
        return cls(int(np.argmax(counts)), float(counts.max() / counts.sum()))

    def p_value(self, correct: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64]) -> float:
        """Return the p-value of "a probe is no more accurate than the constant answer".

        Exact one-sided sign test on the samples of which only one of the two is right (McNemar
        1947).

        Parameters
        ----------
        correct: (n_samples,) whether the probe is right.
        labels: (n_samples,) class ids.

        Returns
        -------
        In (0, 1]; 1 if both are right on the same samples.
        """
        is_constant_right = labels == self.class_id
        n_gained = int((correct & ~is_constant_right).sum())
        n_lost = int((~correct & is_constant_right).sum())
        return sign_test(n_gained, n_lost)
