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

from criticalmass.core.arrays import tensor_to_numpy
from criticalmass.errors import CriticalMassError
from criticalmass.selectors.inputs import SelectorInput
from criticalmass.selectors.registry import select, selector_info


class NeuronSelector(SelectorMixin, BaseEstimator):  # type: ignore[misc]
    """Keep the columns of X that a selector chooses, unchanged and in ascending order.

    Parameters
    ----------
    selector: a selector of ``criticalmass list selectors`` that orders neurons, e.g.
        ``"random"``, ``"leverage"``; supervised selectors, e.g. ``"anova"``, need y.
    n_kept: number of columns to keep (an integer) or share of them (a float in (0, 1]).
    seed: of a random selector; other selectors ignore it.
    indices: columns to keep, instead of choosing them by a selector.

    Attributes
    ----------
    indices_: (n_kept,) kept columns, ascending.
    n_features_in_: number of columns of X in `fit`.
    feature_names_in_: their names, if X has any.
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
        """Return a fitted selector that keeps given columns, e.g. ``SlimModel.indices``.

        Parameters
        ----------
        indices: (n_kept,) columns, each once.
        n_neurons: width of X.

        Raises
        ------
        CriticalMassError: for a column that X does not have, or one that is given twice.
        """
        fitted = cls(indices=np.asarray(indices))
        fitted.n_features_in_ = n_neurons
        fitted.indices_ = fitted._checked_indices(n_neurons)
        return fitted

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Choose columns of X.

        Parameters
        ----------
        X: (n_samples, n_features).
        y: (n_samples,) labels, for selectors that need them.

        Raises
        ------
        CriticalMassError: for an unknown selector, a projection, or more columns than X has.
        """
        X, y = tensor_to_numpy(X, "X"), tensor_to_numpy(y, "y")
        if self.indices is not None:
            x = validate_data(self, X, dtype=np.float64)
            self.indices_ = self._checked_indices(int(x.shape[1]))
            return self
        info = selector_info(self.selector)
        if info.is_projection:
            raise CriticalMassError(
                f"selector {self.selector!r} is a projection and keeps no columns; choose one "
                "that orders neurons, e.g. 'leverage'"
            )
        labels, n_classes = None, 0
        if info.needs_labels:
            x, targets = validate_data(self, X, y, dtype=np.float64)
            check_classification_targets(targets)
            classes, labels = np.unique(targets, return_inverse=True)
            n_classes = int(classes.size)
        else:
            x = validate_data(self, X, dtype=np.float64)
        d = int(x.shape[1])
        layer = SelectorInput(d, rows=x, labels=labels, n_classes=n_classes)
        order = select(self.selector, layer, seed=self.seed).order
        assert order is not None
        self.indices_ = np.sort(order[: self._count(d)])
        return self

    def transform(self, X: ArrayLike) -> Any:
        """Return the kept columns of X, (n_samples, n_kept)."""
        return super().transform(tensor_to_numpy(X, "X"))

    def _count(self, d: int) -> int:
        """Return the number of columns to keep of ``d``."""
        n_kept = self.n_kept
        is_share = isinstance(n_kept, (float, np.floating))
        if is_share and 0.0 < n_kept <= 1.0:
            return max(1, round(float(n_kept) * d))
        is_integer = isinstance(n_kept, (int, np.integer))
        is_count = is_integer and not isinstance(n_kept, (bool, np.bool_))
        if is_count and 1 <= n_kept <= d:
            return int(n_kept)
        raise CriticalMassError(
            f"n_kept={n_kept!r} must be a whole number from 1 to {d}, the number of columns of X, "
            "or a float in (0, 1]"
        )

    def _checked_indices(self, d: int) -> NDArray[np.intp]:
        """Return ``indices`` in ascending order, checked against ``d`` columns."""
        index = np.asarray(self.indices)
        is_valid = index.ndim == 1 and index.size > 0 and np.issubdtype(index.dtype, np.integer)
        if (
            not is_valid
            or index.min() < 0
            or index.max() >= d
            or np.unique(index).size < index.size
        ):
            raise CriticalMassError(
                f"indices={self.indices!r} must be whole numbers from 0 to {d - 1}, each once"
            )
        return np.sort(index).astype(np.intp)

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
            # fit raises for an unknown name; tags are needed before.
            tags.target_tags.required = False
        return tags
