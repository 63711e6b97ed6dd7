"""Memory of a measure as a function of plain sizes: `LayerSizes` and the general formula."""

from __future__ import annotations

from dataclasses import dataclass

_TILES = 320 << 20
_MAX_SCORED_SAMPLES = 4096


@dataclass(frozen=True)
class LayerSizes:
    """The sizes that determine the memory of one layer of a sweep.

    Attributes
    ----------
    n_train, n_test, n_neurons, n_classes: sizes of the data.
    item_bytes: bytes of a stored feature.
    sizes: numbers of kept neurons, ascending; the last is the whole layer.
    n_orders: number of orders and projections.
    n_threads: number of compute threads.
    held_bytes: largest size of an order's standardised rows that stay in memory.
    is_collection: whether test samples are queries that search the training samples.
    """

    n_train: int
    n_test: int
    n_neurons: int
    n_classes: int
    item_bytes: int
    sizes: tuple[int, ...]
    n_orders: int
    n_threads: int
    held_bytes: int
    is_collection: bool = False

    @property
    def mapped_bytes(self) -> int:
        """Bytes of the memory-mapped features, which need not stay in memory."""
        return (self.n_train + self.n_test) * self.n_neurons * self.item_bytes

    @property
    def square_bytes(self) -> int:
        """Bytes of a float64 matrix (n_neurons, n_neurons)."""
        return 8 * self.n_neurons**2


def workspace_bytes(sizes: LayerSizes, *, n_squares: int = 1) -> int:
    """Return the bytes of the workspace of a measure without a formula of its own.

    These are float64 squares of the layer's width, tiles of rows, one value per subset and scored
    sample, and linear heads on every size.

    Parameters
    ----------
    sizes: of the layer and the sweep.
    n_squares: number of (n_neurons, n_neurons) float64 matrices that are held at once.
    """
    scores = 8 * sizes.n_orders * len(sizes.sizes) * min(sizes.n_test, _MAX_SCORED_SAMPLES)
    heads = 8 * sizes.n_classes * sum(sizes.sizes) * 4
    return n_squares * sizes.square_bytes + _TILES + scores + heads


def relevance_bytes(sizes: LayerSizes) -> int:
    """Return the bytes of the workspace of a measure of relevance.

    These are the scores of all queries, one block of queries in float32 and float64, their lists
    for every size, and tiles of documents.

    Parameters
    ----------
    sizes: of the layer and the sweep.
    """
    block = min(sizes.n_test, _MAX_SCORED_SAMPLES)
    scores = 4 * sizes.n_orders * len(sizes.sizes) * sizes.n_test
    queries, lists = 20 * block * sizes.n_neurons, 300 * block * len(sizes.sizes)
    return sizes.square_bytes + _TILES + scores + queries + lists
