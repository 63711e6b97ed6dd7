"""The subsets and directions whose values are held, and what they determine linearly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.moments import FloatArray, IndexArray, Moments
from criticalmass.errors import CriticalMassError
from criticalmass.measures.similarity.reconstruction import prefix_reconstruction
from criticalmass.selectors.inputs import SelectorInput
from criticalmass.selectors.registry import Selection, select, selector_info
from criticalmass.selectors.sizes import sizes_for

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FULL = "full"


@dataclass(frozen=True, eq=False)
class Subset:
    """Neurons, or orthonormal directions, of a layer.

    Attributes
    ----------
    selector, seed: that chose them; "full" for the whole layer.
    n_kept: how many they are.
    indices: (n_kept,) neurons; None for directions.
    basis: (n_neurons, n_kept) orthonormal directions; None for neurons.
    r2: R^2 of the rest given them, by linear regression; see `measures.similarity.reconstruction`.
    """

    selector: str
    seed: int
    n_kept: int
    indices: IndexArray | None = None
    basis: FloatArray | None = None
    r2: float = 1.0


def subset_sizes(
    keep: Sequence[float], sizes: Sequence[int], n_neurons: int, layer: str
) -> tuple[int, ...]:
    """Return the sizes of subsets, ascending.

    Parameters
    ----------
    keep: shares of the layer.
    sizes: numbers of neurons.
    n_neurons: width of the layer.
    layer: its name, for errors.

    Raises
    ------
    CriticalMassError: a share outside (0, 1], or a number outside of the layer.
    """
    for size in sizes:
        if not 1 <= size <= n_neurons:
            raise CriticalMassError(
                f"n_kept={size} but layer {layer!r} has {n_neurons} neurons; ask for 1 to "
                f"{n_neurons}"
            )
    shares = sizes_for(keep, n_neurons) if keep else ()
    return tuple(sorted({*shares, *map(int, sizes)}))


def make_subsets(
    layer: SelectorInput,
    test_rows: NDArray[np.float32],
    sizes: Sequence[int],
    selectors: Sequence[str],
    seeds: int,
) -> list[Subset]:
    """Choose the subsets of every selector, seed and size below the width, and the whole layer.

    Parameters
    ----------
    layer: training rows of the layer, for selectors and regressions.
    test_rows: (n_test, n_neurons) rows on which R^2 is computed.
    sizes: numbers of kept neurons, ascending.
    selectors: their names; the first directions of a projection are made orthonormal.
    seeds: number of seeds of each random selector.

    Raises
    ------
    CriticalMassError: a selector is unknown, or needs labels that are not there.
    """
    d = layer.n_neurons
    parts = [size for size in sizes if size < d]
    subsets = []
    for name in dict.fromkeys(selectors):
        for seed in range(seeds if selector_info(name).is_random else 1):
            subsets += _prefixes(select(name, layer, seed=seed), layer.moments, test_rows, parts)
    return [*subsets, Subset(FULL, 0, d, indices=np.arange(d))]


def _prefixes(
    selection: Selection, training: Moments, test_rows: NDArray[np.float32], sizes: Sequence[int]
) -> list[Subset]:
    """Return the prefixes of an order or of a projection, with their R^2."""
    if not sizes:
        return []
    name, seed = selection.selector, selection.seed
    if selection.order is not None:
        order = selection.order
        values, _ = prefix_reconstruction(test_rows, training, order, sizes)
        return [
            Subset(name, seed, k, indices=order[:k], r2=float(value))
            for k, value in zip(sizes, values[0], strict=True)
        ]
    assert selection.projection is not None
    basis = np.linalg.qr(selection.projection)[0]
    turned = Moments(training.n, training.mean @ basis, basis.T @ training.scatter @ basis)
    order = np.arange(basis.shape[1])
    values, _ = prefix_reconstruction(test_rows @ basis, turned, order, sizes)
    return [
        Subset(name, seed, k, basis=basis[:, :k], r2=float(value))
        for k, value in zip(sizes, values[0], strict=True)
    ]


class SubsetSplit:
    """Divides squared distances of activations into those of the kept and of the dropped part.

    Parameters
    ----------
    subsets: the subsets.
    n_neurons: width of the layer.
    device: where it computes.
    """

    def __init__(self, subsets: Sequence[Subset], n_neurons: int, device: torch.device) -> None:
        import torch

        self.masks = torch.zeros(len(subsets), n_neurons, device=device)
        self.bases: dict[int, Tensor] = {}
        for number, subset in enumerate(subsets):
            if subset.indices is not None:
                self.masks[number, torch.from_numpy(subset.indices).to(device)] = 1.0
            elif subset.basis is not None:
                self.bases[number] = torch.from_numpy(subset.basis).float().to(device)

    def __call__(self, differences: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squared norms of the kept and the dropped part, each (n,).

        Parameters
        ----------
        differences: (n, n_neurons) of activations.
        numbers: (n,) the subset of each.
        """
        squares = differences.square()
        kept = (squares * self.masks[numbers]).sum(dim=1)
        dropped = (squares * (1 - self.masks[numbers])).sum(dim=1)
        for number, basis in self.bases.items():
            rows = (numbers == number).nonzero()[:, 0]
            if len(rows):
                along = differences[rows] @ basis
                across = differences[rows] - along @ basis.T
                kept = kept.index_put((rows,), along.square().sum(dim=1))
                dropped = dropped.index_put((rows,), across.square().sum(dim=1))
        return kept, dropped
