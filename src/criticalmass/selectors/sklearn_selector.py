"""``NeuronSelector``: the selectors as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from criticalmass.errors import CriticalMassError
from criticalmass.selectors.inputs import Evidence
from criticalmass.selectors.registry import select, selector_info


class NeuronSelector(SelectorMixin, BaseEstimator):  # type: ignore[misc]
    """Keep some columns of X, chosen by a selector; in ascending order, as they are.

    Parameters
    ----------
    selector: a rule of ``criticalmass list selectors`` that orders neurons, e.g. ``"random"``,
        ``"leverage"``; those that tell classes apart, e.g. ``"anova"``, need y.
    n_kept: how many (a whole number) or which share of them (a float in (0, 1]).
    seed: of a random rule; others ignore it.
    indices: columns to keep, instead of choosing any.

    Attributes
    ----------
    indices_: (n_kept,) kept columns, ascending.
    n_features_in_: number of columns seen in `fit`.
    feature_names_in_: their names, if they have any.
    """

    def __init__(
        self,
        selector: str = "random",
        n_kept: int | float = 0.2,
        *,
        seed: int = 0,
        indices: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    ) -> None:
        self.selector = selector
        self.n_kept = n_kept
        self.seed = seed
        self.indices = indices

    @classmethod
    def from_indices(cls, indices: ArrayLike, n_neurons: int) -> Self:
        """Make a fitted selector of given columns, e.g. of ``SlimModel.indices``.

        Parameters
        ----------
        indices: (n_kept,) columns, each once.
        n_neurons: width of X.

        Raises
        ------
        CriticalMassError: a column that X does not have, or one that is named twice.
        """
        made = cls(indices=np.asarray(indices))
        made.n_features_in_ = n_neurons
        made.indices_ = made._given(n_neurons)
        return made

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Choose columns of X, (n_samples, n_features); y: (n_samples,) labels, where needed.

        Raises
        ------
        CriticalMassError: an unknown or unfit selector, or more columns than X has.
        """
        if self.indices is not None:
            x = validate_data(self, X, dtype=np.float64)
            self.indices_ = self._given(int(x.shape[1]))
            return self
        info = selector_info(self.selector)
        if info.is_projection:
            raise CriticalMassError(
                f"selector {self.selector!r} is a projection and keeps no columns; choose one "
                "that orders neurons, e.g. 'leverage'"
            )
        labels, n_classes = None, 0
        if info.needs_labels:
            x, given = validate_data(self, X, y, dtype=np.float64)
            check_classification_targets(given)
            classes, labels = np.unique(given, return_inverse=True)
            n_classes = int(classes.size)
        else:
            x = validate_data(self, X, dtype=np.float64)
        d = int(x.shape[1])
        seen = Evidence(d, rows=x, labels=labels, n_classes=n_classes)
        order = select(self.selector, seen, seed=self.seed).order
        assert order is not None
        self.indices_ = np.sort(order[: self._count(d)])
        return self

    def _count(self, d: int) -> int:
        asked = self.n_kept
        is_share = isinstance(asked, (float, np.floating))
        if is_share and 0.0 < asked <= 1.0:
            return max(1, round(float(asked) * d))
        is_count = isinstance(asked, (int, np.integer)) and not isinstance(asked, (bool, np.bool_))
        if is_count and 1 <= asked <= d:
            return int(asked)
        raise CriticalMassError(
            f"n_kept={asked!r} must be a whole number from 1 to {d}, the columns of X, or a "
            "float in (0, 1]"
        )

    def _given(self, d: int) -> NDArray[np.intp]:
        given = np.asarray(self.indices)
        whole = given.ndim == 1 and given.size > 0 and np.issubdtype(given.dtype, np.integer)
        if not whole or given.min() < 0 or given.max() >= d or np.unique(given).size < given.size:
            raise CriticalMassError(
                f"indices={self.indices!r} must be whole numbers from 0 to {d - 1}, each once"
            )
        return np.sort(given).astype(np.intp)

    def _get_support_mask(self) -> NDArray[np.bool_]:
        check_is_fitted(self)
        mask = np.zeros(self.n_features_in_, dtype=np.bool_)
        mask[self.indices_] = True
        return mask

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        try:
            tags.target_tags.required = (
                self.indices is None and selector_info(self.selector).needs_labels
            )
        except CriticalMassError:
            # An unknown name is told by fit; tags must be there before.
            tags.target_tags.required = False
        return tags
