"""One representative of every cluster of correlated neurons."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray, Moments
from criticalmass.selectors.inputs import Evidence
from criticalmass.selectors.pivoting import first_of_best


def cluster(seen: Evidence, rng: np.random.Generator) -> IndexArray:
    """Order neurons such that every prefix represents the clusters of one cut of a tree.

    The tree is that of complete linkage on 1 - |r|: in a cluster, all neurons correlate at
    least as much as its height says. (Average and single linkage split single odd neurons off
    one great cluster, and represent those.) From its root down, a cluster that splits hands
    its representative to the part which holds it; the other part is represented by its medoid,
    the neuron of the largest summed |r|. So the first k neurons are one of each of the k
    clusters. Constant neurons correlate with nothing: last.
    """
    similarity, live = correlations(seen.moments)
    constant = np.flatnonzero(~live)
    if live.sum() < 2:
        return np.concatenate([np.flatnonzero(live), constant])
    kept = np.flatnonzero(live)
    return np.concatenate([kept[_representatives(similarity)], constant])


def correlations(moments: Moments) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """|r| between the neurons that vary, (m, m), and which those are, (n_neurons,)."""
    variance = np.diagonal(moments.scatter)
    live = np.asarray(variance > 0.0)
    kept = np.flatnonzero(live)
    scale = 1.0 / np.sqrt(variance[kept])
    similarity = np.abs(moments.scatter[np.ix_(kept, kept)]) * scale * scale[:, None]
    np.minimum(similarity, 1.0, out=similarity)
    np.fill_diagonal(similarity, 1.0)
    return similarity, live


def _representatives(similarity: FloatArray) -> IndexArray:
    """Return representatives in the order in which the tree splits, from its root."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    m = similarity.shape[0]
    tree = linkage(squareform(1.0 - similarity, checks=False), method="complete")
    leaves, start, size = _intervals(tree, m)
    place = np.argsort(leaves)
    stands = np.empty(2 * m - 1, dtype=np.intp)
    stands[-1] = _medoid(similarity, leaves)
    order = [int(stands[-1])]
    for node in range(2 * m - 2, m - 1, -1):
        one, two = (int(child) for child in tree[node - m, :2])
        at = place[stands[node]]
        holder, other = (one, two) if start[one] <= at < start[one] + size[one] else (two, one)
        stands[holder] = stands[node]
        stands[other] = _medoid(similarity, leaves[start[other] : start[other] + size[other]])
        order.append(int(stands[other]))
    return np.array(order, dtype=np.intp)


def _intervals(tree: FloatArray, m: int) -> tuple[IndexArray, IndexArray, IndexArray]:
    """Leaves in the tree's order, and for every node where its leaves start and how many."""
    size = np.ones(2 * m - 1, dtype=np.intp)
    size[m:] = tree[:, 3].astype(np.intp)
    start = np.zeros(2 * m - 1, dtype=np.intp)
    for node in range(2 * m - 2, m - 1, -1):
        one, two = (int(child) for child in tree[node - m, :2])
        start[one], start[two] = start[node], start[node] + size[one]
    return np.argsort(start[:m], kind="stable"), start, size


def _medoid(similarity: FloatArray, members: IndexArray) -> int:
    inside = np.sort(members)
    total = similarity[np.ix_(inside, inside)].sum(axis=1)
    return int(inside[first_of_best(total, np.ones(inside.size, dtype=np.bool_))])
