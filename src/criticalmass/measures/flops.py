"""Floating-point operations of a measure as formulas in plain sizes, correct to a small factor.

They serve to compare the work of a sweep with other work, not to predict seconds. ``n`` and ``m``
are the training and test samples, ``d`` the neurons, ``C`` the classes, ``k`` the sizes of the
subsets and ``O`` the orders of a `LayerSizes`. A product of matrices counts two operations per
term, a symmetric one half of that.
"""

from __future__ import annotations

from criticalmass.measures.memory import LayerSizes

_N_PENALTIES = 5
# A neighbour search of at most this many queries, as in `similarity.retrieval`.
_MOST_QUERIES = 4096


def moment_flops(sizes: LayerSizes) -> float:
    """Return the operations of a measure of second moments: ``m d^2 + 50 O d^2``.

    These are the moments of the test split, and running sums over each order, with those of the
    replicates without a block of samples. It is the formula of a measure without its own.
    """
    return (sizes.n_test + 50.0 * sizes.n_orders) * sizes.n_neurons**2


def closed_form_flops(sizes: LayerSizes) -> float:
    """Return the operations of a probe in closed form, for 5 penalties and the refit.

    ``n d^2 + 6 O (d^3 / 3 + C d^2 + C sum k^2) + 2 O (n + m) C sum k``: the second moment, the
    factors with their solutions at every size, and the scores.
    """
    d, c = sizes.n_neurons, sizes.n_classes
    solve = d**3 / 3 + c * d**2 + c * sum(k**2 for k in sizes.sizes)
    score = 2.0 * (sizes.n_train + sizes.n_test) * c * sum(sizes.sizes)
    per_order = (_N_PENALTIES + 1) * solve + score
    return float(sizes.n_train * d**2 + sizes.n_orders * per_order)


def iterative_flops(sizes: LayerSizes, *, passes: int, per_fit: float = 0.0) -> float:
    """Return the operations of a probe that is fitted in passes: ``4 O (n passes + m) C sum k``.

    Parameters
    ----------
    sizes: of the layer and the sweep.
    passes: over the training rows per fit, those of the choice of a strength included.
    per_fit: operations that stand for the work of a fit beside its products.
    """
    rows = sizes.n_train * passes + sizes.n_test
    products = 4.0 * rows * sizes.n_classes * sum(sizes.sizes)
    return sizes.n_orders * (products + per_fit * len(sizes.sizes))


def masked_flops(sizes: LayerSizes) -> float:
    """Return the operations of one logistic probe and of its prefixes: ``(160 n + 2 O m) C d``."""
    rows = 160.0 * sizes.n_train + 2.0 * sizes.n_orders * sizes.n_test
    return rows * sizes.n_classes * sizes.n_neurons


def neighbour_flops(sizes: LayerSizes, *, in_train: bool) -> float:
    """Return the operations of a search of neighbours: ``2 O queries rows sum k``.

    Parameters
    ----------
    sizes: of the layer and the sweep.
    in_train: whether all test samples are queries and the training samples are searched;
        otherwise up to 4,096 test samples are queries and the test split is searched, or the
        documents of a retrieval collection.
    """
    queries = sizes.n_test if in_train else min(sizes.n_test, _MOST_QUERIES)
    rows = sizes.n_train if in_train or sizes.is_collection else sizes.n_test
    return 2.0 * sizes.n_orders * queries * rows * sum(sizes.sizes)


def relevance_flops(sizes: LayerSizes) -> float:
    """Return the operations of a search of all documents by all queries: ``2 O m n sum k``."""
    return neighbour_flops(sizes, in_train=True)


def singular_value_flops(sizes: LayerSizes) -> float:
    """Return the operations of singular values of every subset: ``m d^2 + 10 O d sum k^2``.

    Those of the replicates without a block of samples are not counted.
    """
    squares = sum(k**2 for k in sizes.sizes)
    return float(sizes.n_neurons * (sizes.n_test * sizes.n_neurons + 10 * sizes.n_orders * squares))


def reconstruction_flops(sizes: LayerSizes) -> float:
    """Return the operations of regressions on prefixes: ``n d^2 + O (k + 2 m) k d``.

    ``k`` is the largest size below ``d``: one factor and one product per order serve all sizes.
    """
    d, k = sizes.n_neurons, max((k for k in sizes.sizes if k < sizes.n_neurons), default=0)
    return float(sizes.n_train * d**2 + sizes.n_orders * (k + 2.0 * sizes.n_test) * k * d)


def separation_flops(sizes: LayerSizes) -> float:
    """Return the operations of sums of unit vectors, made twice: ``16 O m sum k``."""
    return 16.0 * sizes.n_orders * sizes.n_test * sum(sizes.sizes)


def zero_shot_flops(sizes: LayerSizes) -> float:
    """Return the operations of cosines with one direction per class: ``2 O m C sum k``."""
    return 2.0 * sizes.n_orders * sizes.n_test * sizes.n_classes * sum(sizes.sizes)


def own_head_flops(sizes: LayerSizes) -> float:
    """Return the operations of a classifier that is not fitted: ``2 O m C d``."""
    return 2.0 * sizes.n_orders * sizes.n_test * sizes.n_classes * sizes.n_neurons
