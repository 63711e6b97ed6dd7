"""Reference implementations: the loops that a careful user would write."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from benchmarks.problems import Labels, Matrix

_MAX_ITERATIONS = 3000
_ROWS = 2048


@dataclass(frozen=True, eq=False)
class Head:
    """A fitted softmax head: weights (C, k), intercepts (C,)."""

    weights: NDArray[np.floating]
    intercepts: NDArray[np.floating]

    def predict(self, x: Matrix) -> NDArray[np.intp]:
        """Classify standardised rows, (n, k) -> (n,)."""
        scores = x @ self.weights.T.astype(np.float32) + self.intercepts.astype(np.float32)
        return np.asarray(scores.argmax(axis=1))


FitOne = Callable[[Matrix, Labels, float, float], Head]


@dataclass(frozen=True)
class Peer:
    """A reference implementation that fits one probe.

    Attributes
    ----------
    name: name in the table.
    fit: (rows, labels, l2, tolerance on the largest entry of the gradient) -> head.
    """

    name: str
    fit: FitOne


def fit_sklearn(x: Matrix, y: Labels, l2: float, tol: float) -> Head:
    """Fit scikit-learn's multinomial logistic regression with L-BFGS on float32 rows."""
    model = LogisticRegression(C=1.0 / (len(y) * l2), tol=tol, max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings():
        # Convergence is checked by the objective.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    if model.coef_.shape[0] == 1:
        raise ValueError(
            "scikit-learn minimises another objective for two classes; use at least three"
        )
    return Head(model.coef_, model.intercept_)


def fit_torch(x: Matrix, y: Labels, l2: float, tol: float) -> Head:
    """Fit with torch's L-BFGS (ten pairs, strong Wolfe), gradients by automatic differentiation."""
    import torch

    return fit_tensors(torch.from_numpy(x), torch.from_numpy(y), l2, tol)


def fit_tensors(rows: Any, labels: Any, l2: float, tol: float) -> Head:
    """Fit as `fit_torch` does, on the device of the tensors."""
    import torch

    n_classes = int(labels.max()) + 1
    weights = torch.zeros((n_classes, rows.shape[1]), device=rows.device, requires_grad=True)
    intercepts = torch.zeros(n_classes, device=rows.device, requires_grad=True)
    # No limit on the change: float32 losses repeat long before the gradient is small.
    optimizer: Any = torch.optim.LBFGS(
        [weights, intercepts],
        max_iter=_MAX_ITERATIONS,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=tol,
        tolerance_change=0.0,
    )

    def closure() -> Any:
        optimizer.zero_grad()
        scores = torch.nn.functional.linear(rows, weights, intercepts)
        loss: Any = (
            torch.nn.functional.cross_entropy(scores, labels) + 0.5 * l2 * weights.square().sum()
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    return Head(weights.detach().cpu().numpy(), intercepts.detach().cpu().numpy())


SKLEARN = Peer("scikit-learn lbfgs float32", fit_sklearn)
TORCH = Peer("a loop of torch LBFGS", fit_torch)


def objective(x: Matrix, y: Labels, head: Head, l2: float) -> float:
    """Return the mean cross-entropy + l2/2 ||W||^2 in float64."""
    weights, intercepts = head.weights.astype(np.float64), head.intercepts.astype(np.float64)
    total = 0.0
    for start in range(0, len(y), _ROWS):
        block, labels = x[start : start + _ROWS], y[start : start + _ROWS]
        scores = block.astype(np.float64) @ weights.T + intercepts
        top = scores.max(axis=1)
        label_scores = scores[np.arange(len(labels)), labels]
        total += float(
            (np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top - label_scores).sum()
        )
    return total / len(y) + 0.5 * l2 * float((weights**2).sum())


def centred_gram(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return H X X' H, (n, n), for float64 rows."""
    gram = x @ x.T
    means = gram.mean(axis=0)
    gram -= means[:, None]
    gram -= means[None, :]
    gram += means.mean()
    return gram


def gram_cka(x: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return linear CKA by the textbook formula, with one n x n matrix per representation.

    Parameters
    ----------
    x: (n, k) rows.
    other: `centred_gram` of the other representation.
    """
    gram = centred_gram(x)
    return float(
        np.vdot(gram, other) / np.sqrt(float(np.vdot(gram, gram)) * float(np.vdot(other, other)))
    )
