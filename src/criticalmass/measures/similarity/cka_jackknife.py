"""CKA at some prefixes, and again with each block of samples left out.

From the values without a block the bootstrap over samples takes its spread. Samples are dealt
into blocks by a fixed permutation, so that sorted data give blocks of the same make-up. With Z
centred on the mean of all samples, Z_b a block and s_b its column sums, leaving it out leaves the
centred second moment Z'Z - Z_b'Z_b - s_b s_b'/(n - n_b): the change of the mean is one more row
of the update. A projection's second moments come from the same rows, projected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray, Moments, moments
from criticalmass.errors import CriticalMassError
from criticalmass.measures.prefix_heads import steps
from criticalmass.measures.similarity.cka import (
    check_order,
    check_projection,
    check_second_moment,
    check_sizes,
    ranks_of,
)
from criticalmass.measures.similarity.cka_kernels import prefix_terms
from criticalmass.measures.similarity.hsic import FEWEST_DEBIASED, Hsic, ratio

N_BLOCKS = 32
_DEAL_SEED = 0
_CHUNK = 2048
# (samples, neurons) centred rows -> the same rows in the columns of each order or projection.
_Columns = Callable[[FloatArray], list[FloatArray]]


def prefix_cka_replicates(
    rows: Any,
    orders: npt.ArrayLike,
    sizes: Sequence[int],
    *,
    n_blocks: int = N_BLOCKS,
    debiased: bool = False,
    whole: Moments | None = None,
) -> tuple[FloatArray, FloatArray]:
    """CKA with the whole layer of some prefixes of some orders, with and without each block.

    Parameters
    ----------
    rows: (n_samples, n_neurons) array or ``Features``, at least 4 samples, 6 if debiased.
    orders: (n_orders, n_neurons) orders of neurons.
    sizes: (n_sizes,) prefix lengths, ascending.
    n_blocks: blocks of samples; with fewer than twice as many samples, half the samples.
    debiased: the unbiased HSIC; see `criticalmass.measures.similarity.cka.linear_cka`.
    whole: moments of the rows, if they are at hand.

    Returns
    -------
    values: (n_orders, n_sizes) CKA on all samples.
    replicates: (n_orders, n_sizes, n_blocks) CKA with block b left out.

    Raises
    ------
    CriticalMassError: for too few samples or blocks, or sizes that no prefix has.
    """
    d = int(rows.shape[1])
    indices = [check_order(order, d) for order in np.atleast_2d(np.asarray(orders))]
    at = check_sizes(sizes, min(index.size for index in indices))
    deal = Deal.of(rows, n_blocks, whole, debiased=debiased)
    ranks = ranks_of(indices, d)
    found = []
    # One at a time: all of them would be as many matrices as there are blocks.
    for left in chain([deal.whole.scatter], (left for left, _ in deal.left_out())):
        outer, inner = prefix_terms(left, ranks, deal.scale)
        cross = np.stack([np.cumsum(outer[index])[at] for index in indices])
        within = np.stack([np.cumsum(row[i])[at] for i, row in zip(indices, inner, strict=True)])
        found.append(Hsic(cross, within, float(outer.sum())))
    return deal.values(found, lambda x: [x[:, index] for index in indices], at, debiased=debiased)


def projection_cka_replicates(
    rows: Any,
    projection: npt.ArrayLike,
    sizes: Sequence[int],
    *,
    n_blocks: int = N_BLOCKS,
    debiased: bool = False,
    whole: Moments | None = None,
) -> tuple[FloatArray, FloatArray]:
    """CKA with the whole layer of some prefixes of a projection, with and without each block.

    Parameters
    ----------
    projection: (n_neurons, m) matrix; the other parameters as in `prefix_cka_replicates`.

    Returns
    -------
    values: (1, n_sizes) CKA on all samples.
    replicates: (1, n_sizes, n_blocks) CKA with block b left out.

    Raises
    ------
    CriticalMassError: as `prefix_cka_replicates`, or if the projection fits no layer.
    """
    p = check_projection(projection, int(rows.shape[1]))
    at = check_sizes(sizes, p.shape[1])
    deal = Deal.of(rows, n_blocks, whole, debiased=debiased)
    order = np.arange(p.shape[1], dtype=np.float64)[None]
    cross = p.T @ deal.whole.scatter
    within = cross @ p

    def sums(across: FloatArray, inside: FloatArray, layer: FloatArray) -> Hsic:
        outer = np.einsum("ij,ij->i", across, across) * deal.scale**2
        _, inner = prefix_terms(np.ascontiguousarray(inside), order, deal.scale)
        full = float(np.vdot(layer, layer)) * deal.scale**2
        return Hsic(np.cumsum(outer)[None, at], np.cumsum(inner[0])[None, at], full)

    found = [sums(cross, within, deal.whole.scatter)]
    for left, block in deal.left_out():
        z = block @ p
        inside, still = _downdated(within, z)
        across = cross - z.T @ block
        across[still] = 0.0
        found.append(sums(across, inside, left))
    return deal.values(found, lambda x: [x @ p], at, debiased=debiased)


@dataclass(frozen=True, eq=False)
class Deal:
    """Samples dealt into blocks.

    Attributes
    ----------
    rows: (n_samples, n_neurons).
    whole: moments of all rows.
    blocks: the members of each block, ascending.
    scale: makes the largest variance 1, against overflow of fourth powers.
    """

    rows: Any
    whole: Moments
    blocks: tuple[IndexArray, ...]
    scale: float

    @classmethod
    def of(cls, rows: Any, n_blocks: int, whole: Moments | None, *, debiased: bool = False) -> Deal:
        """Deal the rows; see `prefix_cka_replicates`.

        Raises
        ------
        CriticalMassError: for too few samples or blocks, or rows that are all alike.
        """
        n = int(rows.shape[0])
        fewest = FEWEST_DEBIASED + 2 if debiased else 4
        if n < fewest or n_blocks < 2:
            raise CriticalMassError(
                f"{n} samples in {n_blocks} blocks; {'debiased ' if debiased else ''}CKA with "
                f"each block left out needs at least {fewest} samples and 2 blocks"
            )
        known = moments(rows) if whole is None else whole
        _, scale = check_second_moment(known.scatter)
        dealt = np.random.default_rng(_DEAL_SEED).permutation(n)
        blocks = np.array_split(dealt, min(n_blocks, n // 2))
        return cls(rows, known, tuple(np.sort(block) for block in blocks), scale)

    @property
    def left(self) -> FloatArray:
        """(1 + n_blocks,) samples: all, and without each block."""
        n = int(self.rows.shape[0])
        return np.array([n, *(n - block.size for block in self.blocks)], dtype=np.float64)

    def block(self, members: IndexArray) -> FloatArray:
        """(n_members + 1, n_neurons) centred rows, and the row for the change of the mean."""
        block = np.empty((members.size + 1, self.whole.n_neurons))
        np.subtract(self.rows[members], self.whole.mean, out=block[:-1])
        block[-1] = block[:-1].sum(axis=0) / np.sqrt(self.rows.shape[0] - members.size)
        return block

    def left_out(self) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield the centred second moment without each block, and the block that was taken."""
        for members in self.blocks:
            block = self.block(members)
            yield _downdated(self.whole.scatter, block)[0], block

    def values(
        self, found: Sequence[Hsic], columns: _Columns, at: IndexArray, *, debiased: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Divide the sums over all samples, and those without each block.

        Parameters
        ----------
        found: (1 + n_blocks) sums with (n_orders, n_sizes) subsets each.
        columns: brings centred rows into the columns of each order.
        at: (n_sizes,) prefix lengths minus 1.
        debiased: take the unbiased HSIC.
        """
        plain = Hsic(
            np.stack([one.cross for one in found], axis=-1),
            np.stack([one.within for one in found], axis=-1),
            np.array([one.full for one in found]),
        )
        hsic = plain
        if debiased:
            norms, traces = self._norms(columns, at)
            hsic = plain.debiased(norms, traces, self.left)
        every = ratio(hsic, plain)
        return every[..., 0], every[..., 1:]

    def _norms(self, columns: _Columns, at: IndexArray) -> tuple[Hsic, tuple[FloatArray, Any]]:
        """Sum products of squared norms over samples, and the norms alone.

        Norms are of rows centred on the mean of those that are left: without a block the mean
        moves, which costs one inner product per sample and block.
        """
        shifts, block_of = self._shifts()
        shape = (len(columns(shifts)), at.size, len(shifts))
        cross, within, part = (np.zeros(shape) for _ in range(3))
        full, whole = np.zeros(len(shifts)), np.zeros(len(shifts))
        spans = steps((at + 1).tolist())
        for start in range(0, block_of.size, _CHUNK):
            stop = min(start + _CHUNK, block_of.size)
            x = (self.rows[start:stop] - self.whole.mean) * np.sqrt(self.scale)
            gone = block_of[start:stop, None] == np.arange(len(shifts))
            (q,) = _left_norms(x, shifts, gone, [(0, x.shape[1])])
            full += np.einsum("ib,ib->b", q, q)
            whole += q.sum(axis=0)
            for o, (z, moved) in enumerate(zip(columns(x), columns(shifts), strict=True)):
                for j, p in enumerate(_left_norms(z, moved, gone, spans)):
                    cross[o, j] += np.einsum("ib,ib->b", p, q)
                    within[o, j] += np.einsum("ib,ib->b", p, p)
                    part[o, j] += p.sum(axis=0)
        return Hsic(cross, within, full), (part, whole)

    def _shifts(self) -> tuple[FloatArray, IndexArray]:
        """How far each block's absence moves the mean, and the block of every sample.

        (1 + n_blocks, n_neurons), the first for no absence, scaled as the rows are, and
        (n_samples,) from 1.
        """
        n = int(self.rows.shape[0])
        block_of = np.zeros(n, dtype=np.intp)
        shifts = np.zeros((len(self.blocks) + 1, self.whole.n_neurons))
        for b, members in enumerate(self.blocks, start=1):
            block_of[members] = b
            shifts[b] = self.block(members)[-1] / -np.sqrt(n - members.size)
        return shifts * np.sqrt(self.scale), block_of


def _left_norms(
    z: FloatArray, moved: FloatArray, gone: npt.NDArray[np.bool_], spans: list[tuple[int, int]]
) -> Iterator[FloatArray]:
    """Yield, prefix by prefix, the squared distances of rows from the means of those left.

    (n_rows, 1 + n_blocks), 0 where the row is one that is left out.
    """
    norms = np.zeros((z.shape[0], moved.shape[0]))
    for a, b in spans:
        rows, means = z[:, a:b], moved[:, a:b]
        norms += np.einsum("ij,ij->i", rows, rows)[:, None]
        norms -= 2.0 * (rows @ means.T)
        norms += np.einsum("ij,ij->i", means, means)
        norms[gone] = 0.0
        yield norms


def _downdated(scatter: FloatArray, block: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Take a block off a second moment; also say which neurons are constant without it.

    A neuron that varies only inside the block is constant without it: rounding must not leave
    it a variance.
    """
    left = scatter - block.T @ block
    still = np.diagonal(left) <= 1e-13 * np.diagonal(scatter)
    left[still] = 0.0
    left[:, still] = 0.0
    return left, still
