"""CKA of prefixes, and again with each block of samples left out (delete-a-block jackknife).

The bootstrap over samples takes its spread from the values without a block. Samples are assigned
to blocks by a fixed permutation, so that blocks of sorted data are alike. With Z centred on the
mean of all samples, Z_b a block and s_b its column sums, the centred second moment without the
block is Z'Z - Z_b'Z_b - s_b s_b'/(n - n_b): the change of the mean is one more row of the update.
The second moments of a projection come from the same rows, projected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray, Moments, moments
from criticalmass.errors import CriticalMassError
from criticalmass.measures.prefix_heads import block_ranges
from criticalmass.measures.similarity.checks import (
    check_order,
    check_projection,
    check_second_moment,
    check_sizes,
    ranks_of,
)
from criticalmass.measures.similarity.cka import without_top_axes
from criticalmass.measures.similarity.cka_kernels import prefix_terms
from criticalmass.measures.similarity.hsic import FEWEST_DEBIASED, Hsic, ratio

N_BLOCKS = 32
_BLOCK_SEED = 0
# (samples, neurons) centred rows -> the same rows in the columns of each order or projection.
_ToColumns = Callable[[FloatArray], list[FloatArray]]


@dataclass(frozen=True)
class CkaVariant:
    """Which linear CKA is computed.

    Attributes
    ----------
    debiased: use the unbiased HSIC; see `criticalmass.measures.similarity.cka.linear_cka`.
    without_top: principal components that are removed, without each block those of the samples
        that are left; of the plain CKA only.
    """

    debiased: bool = False
    without_top: int = 0


PLAIN = CkaVariant()


def sample_blocks(n: int, n_blocks: int = N_BLOCKS) -> tuple[IndexArray, ...]:
    """Assign ``n`` samples to blocks, at most one for two samples; -> ascending row numbers."""
    permutation = np.random.default_rng(_BLOCK_SEED).permutation(n)
    blocks = np.array_split(permutation, min(n_blocks, n // 2))
    return tuple(np.sort(block) for block in blocks)


def prefix_cka_replicates(
    rows: Any,
    orders: npt.ArrayLike,
    sizes: Sequence[int],
    *,
    n_blocks: int = N_BLOCKS,
    variant: CkaVariant = PLAIN,
    layer_moments: Moments | None = None,
) -> tuple[FloatArray, FloatArray]:
    """CKA with the whole layer of prefixes of orders, with all samples and without each block.

    Parameters
    ----------
    rows: (n_samples, n_neurons) array or ``Features``, at least 4 samples, 6 if debiased.
    orders: (n_orders, n_neurons) orders of neurons.
    sizes: (n_sizes,) prefix lengths, ascending.
    n_blocks: blocks of samples; at most half as many as there are samples.
    variant: which CKA.
    layer_moments: moments of the rows, if they are known already.

    Returns
    -------
    values: (n_orders, n_sizes) CKA on all samples.
    replicates: (n_orders, n_sizes, n_blocks) CKA without block b.

    Raises
    ------
    CriticalMassError: for too few samples or blocks, or a size that no prefix has.
    """
    d = int(rows.shape[1])
    indices = [check_order(order, d) for order in np.atleast_2d(np.asarray(orders))]
    last = check_sizes(sizes, min(index.size for index in indices))
    jackknife = JackknifeBlocks.split(rows, n_blocks, layer_moments, debiased=variant.debiased)
    ranks = ranks_of(indices, d)
    sums = []
    # One second moment at a time: each is as large as the layer's, and there is one per block.
    reduced = (scatter for scatter, _ in jackknife.leave_one_out())
    for scatter in chain([jackknife.moments.scatter], reduced):
        scatter = without_top_axes(scatter, variant.without_top)
        outer, inner = prefix_terms(scatter, ranks, jackknife.scale)
        cross = np.stack([np.cumsum(outer[index])[last] for index in indices])
        within = np.stack([np.cumsum(row[i])[last] for i, row in zip(indices, inner, strict=True)])
        sums.append(Hsic(cross, within, float(outer.sum())))
    return jackknife.ratios(
        sums, lambda x: [x[:, i] for i in indices], last, debiased=variant.debiased
    )


def projection_cka_replicates(
    rows: Any,
    projection: npt.ArrayLike,
    sizes: Sequence[int],
    *,
    n_blocks: int = N_BLOCKS,
    variant: CkaVariant = PLAIN,
    layer_moments: Moments | None = None,
) -> tuple[FloatArray, FloatArray]:
    """CKA with the whole layer of prefixes of a projection, with and without each block.

    Parameters
    ----------
    projection: (n_neurons, m) matrix; the other parameters as in `prefix_cka_replicates`.

    Returns
    -------
    values: (1, n_sizes) CKA on all samples.
    replicates: (1, n_sizes, n_blocks) CKA without block b.

    Raises
    ------
    CriticalMassError: as `prefix_cka_replicates`, or if the projection does not fit the layer.
    """
    p = check_projection(projection, int(rows.shape[1]))
    last = check_sizes(sizes, p.shape[1])
    jackknife = JackknifeBlocks.split(rows, n_blocks, layer_moments, debiased=variant.debiased)
    order = np.arange(p.shape[1], dtype=np.float64)[None]
    scatter = without_top_axes(jackknife.moments.scatter, variant.without_top)
    cross = p.T @ scatter
    within = cross @ p

    def prefix_sums(cross: FloatArray, within: FloatArray, scatter: FloatArray) -> Hsic:
        outer = np.einsum("ij,ij->i", cross, cross) * jackknife.scale**2
        _, inner = prefix_terms(np.ascontiguousarray(within), order, jackknife.scale)
        full = float(np.vdot(scatter, scatter)) * jackknife.scale**2
        return Hsic(np.cumsum(outer)[None, last], np.cumsum(inner[0])[None, last], full)

    sums = [prefix_sums(cross, within, scatter)]
    for reduced_scatter, block in jackknife.leave_one_out():
        if variant.without_top:
            rest = without_top_axes(reduced_scatter, variant.without_top)
            sums.append(prefix_sums(p.T @ rest, p.T @ rest @ p, rest))
            continue
        projected = block @ p
        reduced_within, is_constant = _remove_block(within, projected)
        reduced_cross = cross - projected.T @ block
        reduced_cross[is_constant] = 0.0
        sums.append(prefix_sums(reduced_cross, reduced_within, reduced_scatter))
    return jackknife.ratios(sums, lambda x: [x @ p], last, debiased=variant.debiased)


@dataclass(frozen=True, eq=False)
class JackknifeBlocks:
    """Samples split into blocks, each of which is left out once.

    Attributes
    ----------
    rows: (n_samples, n_neurons).
    moments: moments of all rows.
    blocks: row numbers of each block, ascending.
    scale: makes the largest variance 1, against overflow of fourth powers.
    chunk_rows: rows read at a time.
    """

    rows: Any
    moments: Moments
    blocks: tuple[IndexArray, ...]
    scale: float
    chunk_rows: ClassVar[int] = 2048

    @classmethod
    def split(
        cls, rows: Any, n_blocks: int, layer_moments: Moments | None, *, debiased: bool = False
    ) -> JackknifeBlocks:
        """Assign rows to blocks; parameters as in `prefix_cka_replicates`.

        Raises
        ------
        CriticalMassError: for too few samples or blocks, or rows that are all equal.
        """
        n = int(rows.shape[0])
        fewest = FEWEST_DEBIASED + 2 if debiased else 4
        if n < fewest or n_blocks < 2:
            raise CriticalMassError(
                f"{n} samples in {n_blocks} blocks; {'debiased ' if debiased else ''}CKA with "
                f"each block left out needs at least {fewest} samples and 2 blocks"
            )
        all_moments = moments(rows) if layer_moments is None else layer_moments
        _, scale = check_second_moment(all_moments.scatter)
        return cls(rows, all_moments, sample_blocks(n, n_blocks), scale)

    @property
    def n_left(self) -> FloatArray:
        """(1 + n_blocks,) number of samples: all, and without each block."""
        n = int(self.rows.shape[0])
        return np.array([n, *(n - block.size for block in self.blocks)], dtype=np.float64)

    def update_rows(self, members: IndexArray) -> FloatArray:
        """Return (n_members + 1, n_neurons) rows whose second moment is the change without a block.

        They are the centred rows of the block and one row for the change of the mean.
        """
        block = np.empty((members.size + 1, self.moments.n_neurons))
        np.subtract(self.rows[members], self.moments.mean, out=block[:-1])
        block[-1] = block[:-1].sum(axis=0) / np.sqrt(self.rows.shape[0] - members.size)
        return block

    def leave_one_out(self) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield the centred second moment without each block, and the block's `update_rows`."""
        for members in self.blocks:
            block = self.update_rows(members)
            yield _remove_block(self.moments.scatter, block)[0], block

    def ratios(
        self, sums: Sequence[Hsic], columns: _ToColumns, last: IndexArray, *, debiased: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Return CKA (n_orders, n_sizes) on all samples, and without each block.

        Parameters
        ----------
        sums: (1 + n_blocks) sums, for all samples and without each block, over the subsets
            (n_orders, n_sizes).
        columns: turns centred rows into the columns of each order.
        last: (n_sizes,) prefix lengths minus 1.
        debiased: use the unbiased HSIC.
        """
        plain = Hsic(
            np.stack([terms.cross for terms in sums], axis=-1),
            np.stack([terms.within for terms in sums], axis=-1),
            np.array([terms.full for terms in sums]),
        )
        hsic = self._debias(plain, columns, last) if debiased else plain
        values = ratio(hsic, plain)
        return values[..., 0], values[..., 1:]

    def _debias(self, plain: Hsic, columns: _ToColumns, last: IndexArray) -> Hsic:
        """Return the unbiased sums.

        They need products of squared norms, summed over samples, of rows centred on the mean of
        the samples that are left. Without a block the mean changes, which costs one inner product
        per sample and block.
        """
        shifts, block_of = self._mean_shifts()
        shape = (len(columns(shifts)), last.size, len(shifts))
        cross, within, subset_traces = (np.zeros(shape) for _ in range(3))
        full, layer_trace = np.zeros(len(shifts)), np.zeros(len(shifts))
        ranges = block_ranges((last + 1).tolist())
        for start in range(0, block_of.size, self.chunk_rows):
            stop = min(start + self.chunk_rows, block_of.size)
            x = (self.rows[start:stop] - self.moments.mean) * np.sqrt(self.scale)
            is_left_out = block_of[start:stop, None] == np.arange(len(shifts))
            (q,) = _squared_norms(x, shifts, is_left_out, [(0, x.shape[1])])
            full += np.einsum("ib,ib->b", q, q)
            layer_trace += q.sum(axis=0)
            for o, (z, means) in enumerate(zip(columns(x), columns(shifts), strict=True)):
                for j, p in enumerate(_squared_norms(z, means, is_left_out, ranges)):
                    cross[o, j] += np.einsum("ib,ib->b", p, q)
                    within[o, j] += np.einsum("ib,ib->b", p, p)
                    subset_traces[o, j] += p.sum(axis=0)
        norms = Hsic(cross, within, full)
        return plain.debiased(norms, subset_traces, layer_trace, self.n_left)

    def _mean_shifts(self) -> tuple[FloatArray, IndexArray]:
        """Return the change of the mean without each block, and the block of every sample.

        The changes are (1 + n_blocks, n_neurons), scaled as the rows are; the first is 0, for all
        samples. The blocks are (n_samples,) and numbered from 1.
        """
        n = int(self.rows.shape[0])
        block_of = np.zeros(n, dtype=np.intp)
        shifts = np.zeros((len(self.blocks) + 1, self.moments.n_neurons))
        for b, members in enumerate(self.blocks, start=1):
            block_of[members] = b
            shifts[b] = self.update_rows(members)[-1] / -np.sqrt(n - members.size)
        return shifts * np.sqrt(self.scale), block_of


def _squared_norms(
    z: FloatArray,
    means: FloatArray,
    is_left_out: npt.NDArray[np.bool_],
    ranges: list[tuple[int, int]],
) -> Iterator[FloatArray]:
    """Yield, for every prefix, the squared distances of rows from the mean without each block.

    They are (n_rows, 1 + n_blocks), 0 where the row itself is left out.
    """
    norms = np.zeros((z.shape[0], means.shape[0]))
    for a, b in ranges:
        rows, block_means = z[:, a:b], means[:, a:b]
        norms += np.einsum("ij,ij->i", rows, rows)[:, None]
        norms -= 2.0 * (rows @ block_means.T)
        norms += np.einsum("ij,ij->i", block_means, block_means)
        norms[is_left_out] = 0.0
        yield norms


def _remove_block(
    scatter: FloatArray, block: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return a second moment without a block, and which neurons are constant without it.

    A neuron that varies only inside the block is constant without it; its variance and
    covariances are set to exactly 0.
    """
    reduced = scatter - block.T @ block
    is_constant = np.diagonal(reduced) <= 1e-13 * np.diagonal(scatter)
    reduced[is_constant] = 0.0
    reduced[:, is_constant] = 0.0
    return reduced, is_constant
