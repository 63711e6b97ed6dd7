"""How a vector is stored for search: shortened, scaled to length 1, and encoded in a precision.

A projection is computed exactly. Vectors are scaled by a power of two and rounded to a grid, and so
are the directions. Every product and every sum is then a whole number below 2**53, which float64
holds without rounding. The result is therefore the same for every batch size, number of threads
and BLAS library. The squared length is summed row by row. So what is tested is what is stored, bit
by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.moments import FloatArray, IndexArray, moments
from criticalmass.core.rows import Rows
from criticalmass.shrinking.codec import bytes_per_vector

# Vectors are multiples of 2**-28 of a power of two above their length; directions of length 1 are
# multiples of 2**-24, which float32 holds exactly.
_VECTOR_BITS, _DIRECTION_BITS = 28, 24


#: Names of the rules "principal directions" and "all dimensions".
PCA, ALL = "pca-top", "all"


@dataclass(frozen=True, eq=False)
class ShortMap:
    """A map of whole vectors to short vectors of length 1; a vector of zeros stays one.

    Attributes
    ----------
    n_neurons: width of whole vectors.
    indices: (n_kept,) dimensions to keep, or None for a projection.
    matrix: (n_neurons, n_kept) float32 directions on the grid of `round_directions`, or None.
    """

    n_neurons: int
    indices: IndexArray | None = None
    matrix: NDArray[np.float32] | None = None

    @property
    def n_kept(self) -> int:
        """Width of short vectors."""
        if self.matrix is not None:
            return int(self.matrix.shape[1])
        return self.n_neurons if self.indices is None else int(self.indices.size)

    @property
    def bytes_once(self) -> int:
        """Bytes that the map itself takes, once for all vectors: directions, or int32 indices."""
        if self.matrix is not None:
            return int(self.matrix.nbytes)
        return 0 if self.n_kept == self.n_neurons else 4 * self.n_kept

    @property
    def operations(self) -> int:
        """Multiply-adds that a query takes, without the scaling to length 1."""
        return 0 if self.matrix is None else int(self.matrix.size)

    def __call__(self, vectors: NDArray[Any]) -> NDArray[np.float32]:
        """Shorten (n, n_neurons) vectors: (n, n_kept) float32 of length 1."""
        if self.matrix is not None:
            return unit_rows(self.project(on_grid(vectors)))
        return unit_rows(vectors if self.indices is None else vectors[:, self.indices])

    def project(self, numbers: FloatArray) -> FloatArray:
        """Multiply (n, n_neurons) vectors `on_grid` by the directions of a projection, exactly."""
        if self.matrix is None:
            raise ValueError("a subset has no directions")
        return numbers @ np.ldexp(self.matrix.astype(np.float64), _DIRECTION_BITS)

    def prefix(self, n_kept: int) -> ShortMap:
        """Return the map to the first ``n_kept`` dimensions of this one's."""
        if self.matrix is not None:
            return ShortMap(self.n_neurons, None, np.ascontiguousarray(self.matrix[:, :n_kept]))
        indices = np.arange(self.n_neurons) if self.indices is None else self.indices
        return ShortMap(self.n_neurons, indices[:n_kept])


def unit_rows(x: NDArray[Any]) -> NDArray[np.float32]:
    """Scale (n, d) rows to length 1 in float64, rounded to float32 once; zeros stay zeros."""
    wide = np.ascontiguousarray(x, dtype=np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    scaled = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0.0)
    return np.asarray(scaled, dtype=np.float32)


def round_directions(directions: FloatArray) -> NDArray[np.float32]:
    """Round (d, k) directions of length 1 to the grid on which products with them are exact."""
    grid = np.rint(np.ldexp(directions, _DIRECTION_BITS))
    return np.ascontiguousarray(np.ldexp(grid, -_DIRECTION_BITS), dtype=np.float32)


def on_grid(x: NDArray[Any]) -> FloatArray:
    """Scale rows by powers of two to lengths of 2**27 to 2**28, as whole numbers."""
    wide = np.asarray(x, dtype=np.float64)
    exponents = np.frexp(np.sqrt(np.einsum("ij,ij->i", wide, wide)))[1]
    scaled: FloatArray = wide * np.ldexp(1.0, _VECTOR_BITS - exponents)[:, None]
    np.rint(scaled, out=scaled)
    return scaled


@dataclass(frozen=True, eq=False)
class ShortRows:
    """Rows that are shortened when they are read.

    Attributes
    ----------
    rows: (n_samples, n_neurons) whole vectors.
    short_map: shortens them.
    """

    rows: Rows
    short_map: ShortMap

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_samples, n_kept)."""
        return int(self.rows.shape[0]), self.short_map.n_kept

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Always float32."""
        return np.dtype(np.float32)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        """Return the short vectors of a slice or an index array."""
        return self.short_map(np.asarray(self.rows[key], dtype=np.float32))


@dataclass(frozen=True, eq=False)
class Family:
    """Maps of all sizes by one rule.

    Attributes
    ----------
    selector, seed: the rule, and the seed of a random one.
    order: (n_neurons,) order of the dimensions, or None for principal directions.
    directions: (n_neurons, n_neurons) principal directions as columns, or None.
    is_rotated: whether a random rotation, which mixes the kept directions, follows.
    """

    selector: str
    seed: int
    n_neurons: int
    order: IndexArray | None = None
    directions: FloatArray | None = None
    is_rotated: bool = False

    def short_map(self, n_kept: int) -> ShortMap:
        """Return the map to ``n_kept`` dimensions."""
        if self.directions is None:
            kept = None if self.order is None else np.sort(self.order[:n_kept])
            return ShortMap(self.n_neurons, kept)
        directions = self.directions[:, :n_kept]
        if self.is_rotated:
            gaussian = np.random.default_rng((self.seed, n_kept)).standard_normal((n_kept, n_kept))
            rotation, triangle = np.linalg.qr(gaussian)
            # With the signs of the diagonal the rotation is uniform (Mezzadri 2007).
            directions = directions @ (rotation * np.sign(np.diagonal(triangle)))
        return ShortMap(self.n_neurons, None, round_directions(directions))

    @property
    def kind(self) -> str:
        """Families of one kind are compared with each other first: subsets but the prefix are one.

        The prefix is what Matryoshka training orders.
        """
        return self.name if self.order is None or self.selector == "first" else "subset"

    @property
    def name(self) -> str:
        """Name in tables and sentences."""
        return f"{self.selector}, rotated" if self.is_rotated else self.selector


@dataclass(frozen=True, eq=False)
class Form:
    """One way to store and search vectors.

    Attributes
    ----------
    family: rule of the map.
    n_kept: dimensions of a short vector.
    precision: the type that they are stored in.
    rerank: times 10 stored vectors that are re-ranked by whole vectors; 0 for none.
    """

    family: Family
    n_kept: int
    precision: str
    rerank: int

    @property
    def map_key(self) -> tuple[object, ...]:
        """What names the map among those of one data set."""
        return self.family.name, self.family.seed, self.n_kept

    @property
    def key(self) -> tuple[object, ...]:
        """What names the form."""
        return *self.map_key, self.precision, self.rerank

    @property
    def index_bytes(self) -> int:
        """Bytes of one vector in the index."""
        return bytes_per_vector(self.n_kept, self.precision)

    @property
    def total_bytes(self) -> int:
        """Bytes of one vector with the whole float32 vector, if it is re-ranked by it."""
        whole = bytes_per_vector(self.family.n_neurons, "float32") if self.rerank else 0
        return self.index_bytes + whole

    def bytes_once(self, short_map: ShortMap) -> int:
        """Bytes that are stored once: the map, and offsets and steps of the codec in float32."""
        per_dimension = {"int8": 8, "binary": 4}.get(self.precision, 0)
        return short_map.bytes_once + per_dimension * self.n_kept

    def cost(self, short_map: ShortMap, n_stored: int, n_neighbours: int) -> float:
        """Return the operations of a query, as a share of an exact search with whole vectors.

        Counted are multiply-adds; bits are compared 64 in one operation.
        """
        d = self.family.n_neurons
        compared = -(-self.n_kept // 64) if self.precision == "binary" else self.n_kept
        listed = min(self.rerank * n_neighbours, n_stored) * d
        return (short_map.operations + n_stored * compared + listed) / (n_stored * d)

    def row(self) -> dict[str, Any]:
        """Return the columns that name this form."""
        return {
            "selector": self.family.name,
            "seed": self.family.seed,
            "precision": self.precision,
            "n_kept": self.n_kept,
            "rerank": self.rerank,
            "bytes": self.index_bytes,
            "bytes_total": self.total_bytes,
        }


def make_families(
    rows: Rows, orders: Mapping[tuple[str, int], IndexArray], *, seed: int, with_pca: bool
) -> list[Family]:
    """Return the families: one per order, all dimensions, and principal directions.

    Principal directions are those of the second moment about zero of training vectors of length
    1, computed in float64. They keep the most of the inner products (Eckart and Young 1936),
    which the cosine compares; centred directions keep covariances instead.

    Parameters
    ----------
    rows: (n_samples, n_neurons) training vectors.
    orders: (selector, seed) -> (n_neurons,) order.
    seed: of the random rotation.
    with_pca: whether principal directions compete.
    """
    d = int(rows.shape[1])
    families = [Family(ALL, 0, d)]
    if with_pca:
        moment = moments(ShortRows(rows, ShortMap(d)))
        second = moment.scatter + moment.n * np.outer(moment.mean, moment.mean)
        directions = np.linalg.eigh(second)[1][:, ::-1]
        families += [Family(PCA, 0, d, directions=directions)]
        families += [Family(PCA, seed, d, directions=directions, is_rotated=True)]
    families += [Family(selector, number, d, order) for (selector, number), order in orders.items()]
    return families
