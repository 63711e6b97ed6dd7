"""The selector ``cluster``: one representative of every cluster of correlated neurons."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray, Moments
from criticalmass.selectors.inputs import SelectorInput
from criticalmass.selectors.pivoting import first_best


def cluster(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """Order neurons so that the first k are one representative of each of k clusters.

    The k clusters are a cut of the tree of complete linkage on 1 - |r|: within a cluster, every
    pair of neurons correlates at least as strongly as the height of the cluster says. (Average
    and single linkage split single odd neurons off one large cluster and would represent those.)
    From the root of the tree down, a cluster that splits passes its representative to the part
    that contains it. The other part is represented by its medoid, the neuron of the largest
    summed |r|. Constant neurons correlate with no others and come last.
    """
    similarity, is_varying = correlations(layer.moments)
    constant = np.flatnonzero(~is_varying)
    varying = np.flatnonzero(is_varying)
    if varying.size < 2:
        return np.concatenate([varying, constant])
    return np.concatenate([varying[_representatives(similarity)], constant])


def correlations(moments: Moments) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return |r| between the m neurons that vary, (m, m), and which vary, (n_neurons,) bool."""
    variance = np.diagonal(moments.scatter)
    is_varying = np.asarray(variance > 0.0)
    varying = np.flatnonzero(is_varying)
    scale = 1.0 / np.sqrt(variance[varying])
    similarity = np.abs(moments.scatter[np.ix_(varying, varying)]) * scale * scale[:, None]
    np.minimum(similarity, 1.0, out=similarity)
    np.fill_diagonal(similarity, 1.0)
    return similarity, is_varying


def _representatives(similarity: FloatArray) -> IndexArray:
    """Return representatives in the order in which the tree splits, from its root."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    m = similarity.shape[0]
    tree = linkage(squareform(1.0 - similarity, checks=False), method="complete")
    leaves, start, size = _leaf_ranges(tree, m)
    position = np.argsort(leaves)
    representative = np.empty(2 * m - 1, dtype=np.intp)
    representative[-1] = _medoid(similarity, leaves)
    order = [int(representative[-1])]
    for node in range(2 * m - 2, m - 1, -1):
        left, right = (int(child) for child in tree[node - m, :2])
        at = position[representative[node]]
        is_left = start[left] <= at < start[left] + size[left]
        containing, other = (left, right) if is_left else (right, left)
        representative[containing] = representative[node]
        members = leaves[start[other] : start[other] + size[other]]
        representative[other] = _medoid(similarity, members)
        order.append(int(representative[other]))
    return np.array(order, dtype=np.intp)


def _leaf_ranges(tree: FloatArray, m: int) -> tuple[IndexArray, IndexArray, IndexArray]:
    """Return the leaves in the order of the tree, and every node's first leaf and leaf count."""
    size = np.ones(2 * m - 1, dtype=np.intp)
    size[m:] = tree[:, 3].astype(np.intp)
    start = np.zeros(2 * m - 1, dtype=np.intp)
    for node in range(2 * m - 2, m - 1, -1):
        left, right = (int(child) for child in tree[node - m, :2])
        start[left], start[right] = start[node], start[node] + size[left]
    return np.argsort(start[:m], kind="stable"), start, size


def _medoid(similarity: FloatArray, members: IndexArray) -> int:
    ascending = np.sort(members)
    total = similarity[np.ix_(ascending, ascending)].sum(axis=1)
    return int(ascending[first_best(total, np.ones(ascending.size, dtype=np.bool_))])
