"""``LogisticProbe``: the certified solver as a scikit-learn classifier."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from criticalmass.core.arrays import tensor_to_numpy
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.fit_probes import fit_probes


class LogisticProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Linear probe: penalised softmax regression with a bound on its optimality gap.

    Minimises mean cross-entropy + l2/2 ||W||^2 on standardised columns, with a free intercept. On
    standardised data scikit-learn's ``LogisticRegression(C=1/(n_samples*l2))`` minimises the same
    objective.

    Parameters
    ----------
    l2: strength of the penalty, > 0.
    tol: certified gap over objective at which the fit stops.
    max_passes: passes over the data after which the fit stops unfinished.
    device: where to fit: ``"auto"`` (a CUDA device if torch finds one, else the processor),
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"torch-cpu"``. Predictions use the processor.

    Attributes
    ----------
    classes_: (n_classes,) labels, sorted.
    coef_: (n_classes, n_features) weights on raw features, rows summing to zero over classes.
    intercept_: (n_classes,) intercepts on raw features.
    objective_: objective of the fit.
    gap_: rigorous bound on objective_ - optimum.
    converged_: whether gap_ <= tol * objective_.
    n_passes_: passes over the data.
    """

    def __init__(
        self,
        l2: float = 1e-2,
        *,
        tol: float = 1e-6,
        max_passes: int = 2000,
        device: str = "auto",
    ) -> None:
        self.l2 = l2
        self.tol = tol
        self.max_passes = max_passes
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on X, (n_samples, n_features), and labels y, (n_samples,)."""
        X, y = tensor_to_numpy(X, "X"), tensor_to_numpy(y, "y")
        x, labels = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        if self.classes_.size < 2:
            raise CriticalMassError(
                f"y has one class, {self.classes_[0]!r}; LogisticProbe needs samples of at "
                "least 2 classes"
            )
        d = x.shape[1]
        fits = fit_probes(
            x,
            labels,
            np.arange(d)[None],
            (d,),
            (self.l2,),
            tol=self.tol,
            max_passes=self.max_passes,
            device=self.device,
        )
        weights, intercepts = fits.heads[0][0][0]
        self.coef_ = weights.astype(np.float64) / fits.scaling.scale
        self.intercept_ = intercepts - self.coef_ @ fits.scaling.mean
        self.objective_ = float(fits.objective[0, 0, 0])
        self.gap_ = float(fits.gap[0, 0, 0])
        self.converged_ = bool(fits.converged[0, 0, 0])
        self.n_passes_ = int(fits.passes[0, 0, 0])
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return logits, (n_samples, n_classes).

        With two classes, return the second class's logit minus the first's, (n_samples,).
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if self.classes_.size == 2 else logits

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return labels, (n_samples,)."""
        logits = self._logits(X)
        labels: NDArray[Any] = self.classes_[logits.argmax(axis=1)]
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return class probabilities, (n_samples, n_classes)."""
        probabilities: NDArray[np.float64] = softmax(self._logits(X), axis=1)
        return probabilities

    def _logits(self, X: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self)
        x = validate_data(self, tensor_to_numpy(X, "X"), dtype=np.float64, reset=False)
        logits: NDArray[np.float64] = x @ self.coef_.T + self.intercept_
        return logits
