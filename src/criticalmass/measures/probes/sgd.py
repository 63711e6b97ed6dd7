"""The published protocol: linear heads trained by SGD on raw features, all heads at once.

Stochastic gradient descent stops where its schedule ends, not at the minimum of its loss, and on
raw features small heads can end far from their optimum. Compared with ``logistic``, this probe
shows how much of a published diffused redundancy is due to optimisation and how much to the
representation.

Heads of all seeds and sizes learn from the same minibatches, so every row is read once per epoch.
Per seed, the heads of all sizes are stacked as in `criticalmass.measures.prefix_heads`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows, check_finite, chunks, rows_as_float32, rows_per_chunk
from criticalmass.errors import CriticalMassError
from criticalmass.measures.columns import take_columns
from criticalmass.measures.memory import LayerSizes, workspace_bytes
from criticalmass.measures.prefix_heads import (
    prefix_scores,
    smallest_first,
    stack_heads,
    unstack_heads,
)
from criticalmass.measures.probes.sgd_kernels import momentum_step, softmax_residual
from criticalmass.measures.probes.task import ProbeScores, ProbeTask, label_dtype

Float32 = NDArray[np.float32]
#: Training features up to this size (as float32) are held in memory.
MAX_BYTES_IN_MEMORY = 1 << 30
_SCORE_MEBIBYTES = 64
_SHUFFLE, _INITIAL = 0, 1


@dataclass(frozen=True)
class SgdProtocol:
    """How the heads are trained; the defaults are those of the paper.

    Nanda et al. 2023 (arXiv:2306.00183): SGD with learning rate 0.1 and momentum 0.9 for 100
    epochs of batches of 256, features as they are. Their code divides the rate by 10 every 20 of
    the 100 epochs and takes 1e-4 of weight decay (on weights and bias) from its ImageNet settings.

    Parameters
    ----------
    lr: initial learning rate.
    momentum: share of the last step that is added to the next.
    epochs: passes over the training rows.
    batch: rows per step; the last batch of an epoch holds the remaining rows.
    weight_decay: added to the gradient, times the parameter.
    milestones: shares of the epochs after which the rate is multiplied by ``decay``.
    decay: factor of the rate at each milestone.
    seed: fixes initial heads and the order of rows, together with the task's seed.

    Raises
    ------
    CriticalMassError
        If a value is outside its range.
    """

    lr: float = 0.1
    momentum: float = 0.9
    epochs: int = 100
    batch: int = 256
    weight_decay: float = 1e-4
    milestones: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    decay: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in (("epochs", 1), ("batch", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise CriticalMassError(
                    f"{name}={getattr(self, name)} but it must be at least {least}"
                )
        if not self.lr > 0 or not self.decay > 0:
            raise CriticalMassError(f"lr={self.lr}, decay={self.decay}; both must be above 0")
        if not 0 <= self.momentum < 1 or not self.weight_decay >= 0:
            raise CriticalMassError(
                f"momentum={self.momentum}, weight_decay={self.weight_decay}; "
                "give momentum in [0, 1) and weight_decay of at least 0"
            )
        if not all(0 < m < 1 for m in self.milestones):
            raise CriticalMassError(
                f"milestones={self.milestones}; give shares of the epochs between 0 and 1"
            )

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        n_passed = sum(epoch >= round(share * self.epochs) for share in self.milestones)
        return self.lr * self.decay**n_passed


@dataclass(eq=False)
class HeadStack:
    """The heads of all sizes of one seed, with their velocity and gradient; changed by ``step``.

    Attributes
    ----------
    neurons: (k_F,) neurons, in the order of the heads' columns.
    n_classes: number of classes.
    weights, velocity, gradient: flat float32 arrays of the same length: all blocks of the stacked
        heads, then the biases, the largest head first.
    shapes: shape of every block.
    """

    neurons: NDArray[np.intp]
    n_classes: int
    weights: Float32
    velocity: Float32
    gradient: Float32
    shapes: tuple[tuple[int, int], ...]

    def blocks(self, flat: Float32) -> list[Float32]:
        """View a flat array as the blocks of the stacked heads."""
        views, start = [], 0
        for rows, columns in self.shapes:
            views.append(flat[start : start + rows * columns].reshape(rows, columns))
            start += rows * columns
        return views

    def bias(self, flat: Float32) -> Float32:
        """View the end of a flat array as biases (n_sizes, n_classes), the largest head first."""
        return flat[-len(self.shapes) * self.n_classes :].reshape(-1, self.n_classes)

    def heads(self) -> list[tuple[Float32, Float32]]:
        """Return weights (k, n_classes) and bias (n_classes,) per size, ascending."""
        weights = unstack_heads(self.blocks(self.weights))
        return list(zip(weights, self.bias(self.weights)[::-1], strict=True))

    def step(
        self, x: Float32, y: NDArray[np.int64], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        """Move every head by one step of SGD on one minibatch.

        Parameters
        ----------
        x: (n_rows, k_F) features, columns as in ``neurons``.
        y: (n_rows,) class ids.
        lr, momentum, weight_decay: as in `SgdProtocol`.
        """
        residual = prefix_scores(x, self.blocks(self.weights))
        softmax_residual(residual, self.bias(self.weights), y)
        start = 0
        for block in self.blocks(self.gradient):
            stop = start + block.shape[0]
            np.matmul(x[:, start:stop].T, residual[:, : block.shape[1]], out=block)
            start = stop
        self.bias(self.gradient)[:] = residual.sum(axis=0).reshape(-1, self.n_classes)
        momentum_step(
            self.weights,
            self.velocity,
            self.gradient,
            np.float32(lr),
            np.float32(momentum),
            np.float32(weight_decay),
        )


def workspace(sizes: LayerSizes) -> int:
    """Return the bytes of the measure's workspace, with the training rows if they are held."""
    rows = 4 * sizes.n_train * sizes.n_neurons
    return workspace_bytes(sizes) + (rows if rows <= MAX_BYTES_IN_MEMORY else 0)


def sgd(
    task: ProbeTask,
    *,
    protocol: SgdProtocol | None = None,
    max_bytes_in_memory: int = MAX_BYTES_IN_MEMORY,
) -> ProbeScores:
    """Train linear heads by the paper's protocol on all training rows and predict the test rows.

    Features are not standardised and no hyper-parameter is chosen, so validation rows are used
    for training. SGD has no certificate: ``gap`` is nan and ``status`` is ``"ok"``, except that a
    head whose weights overflowed is ``"not_converged"``.

    Parameters
    ----------
    task: the subsets and their data.
    protocol: how to train; by default the paper's.
    max_bytes_in_memory: larger training features are read from disk, batch by batch.

    Raises
    ------
    CriticalMassError
        If a feature is NaN or infinite; the message names the first such row and neuron.
    """
    settings = SgdProtocol() if protocol is None else protocol
    start = time.perf_counter()
    stacks = train_heads(task, settings, max_bytes_in_memory=max_bytes_in_memory)
    predictions = np.empty((*task.grid, task.n_test), dtype=label_dtype(task.n_classes))
    width = task.n_neurons + len(task.sizes) * task.n_classes
    for a, block in chunks(task.x_test, rows_per_chunk(width, _SCORE_MEBIBYTES)):
        check_finite(block, a, "x_test")
        for seed, heads in enumerate(stacks):
            predictions[seed, :, a : a + block.shape[0]] = _predict(block, heads).T
    seconds = time.perf_counter() - start
    return ProbeScores(
        predictions=predictions,
        l2=np.full(task.grid, np.nan),
        gap=np.full(task.grid, np.nan),
        passes=np.full(task.grid, settings.epochs, dtype=np.int32),
        seconds=np.full(task.grid, seconds / np.prod(task.grid)),
        status=_statuses(stacks),
    )


def train_heads(
    task: ProbeTask, protocol: SgdProtocol, *, max_bytes_in_memory: int = MAX_BYTES_IN_MEMORY
) -> list[HeadStack]:
    """Train the heads of every seed and size on shared minibatches.

    Parameters
    ----------
    task, max_bytes_in_memory: as in `sgd`.
    protocol: how to train.

    Returns
    -------
    One stack of heads per seed.
    """
    stacks = [
        initial_heads(
            order[: task.sizes[-1]],
            task.sizes,
            task.n_classes,
            (protocol.seed, task.seed, _INITIAL, number),
        )
        for number, order in enumerate(task.orders)
    ]
    read = _row_reader(task.x_train, protocol.batch, max_bytes_in_memory)
    buffer = np.empty((min(protocol.batch, task.n_train), task.sizes[-1]), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for epoch in range(protocol.epochs):
            lr = protocol.rate(epoch)
            for index in batches(task, protocol, epoch):
                x, y = read(index), task.y_train[index]
                for heads in stacks:
                    heads.step(
                        take_columns(x, heads.neurons, buffer),
                        y,
                        lr=lr,
                        momentum=protocol.momentum,
                        weight_decay=protocol.weight_decay,
                    )
    return stacks


def initial_heads(
    neurons: NDArray[np.intp], sizes: Sequence[int], n_classes: int, entropy: Sequence[int]
) -> HeadStack:
    """Draw heads as ``torch.nn.Linear`` does: weights and bias uniform in +-1/sqrt(k).

    Parameters
    ----------
    neurons: (k_F,) of the largest head.
    sizes: prefix lengths, ascending.
    n_classes: number of classes.
    entropy: seeds of the draws. Every size is drawn separately, so the initial weights of a head
        do not depend on which other sizes are trained.
    """
    draws = [
        np.random.default_rng([*entropy, k]).uniform(-1, 1, size=(k + 1, n_classes)) / np.sqrt(k)
        for k in sizes
    ]
    blocks = stack_heads([draw[:-1] for draw in draws])
    biases = [draw[-1] for draw in reversed(draws)]
    weights = np.concatenate([b.ravel() for b in (*blocks, *biases)]).astype(np.float32)
    shapes = tuple((int(b.shape[0]), int(b.shape[1])) for b in blocks)
    return HeadStack(
        neurons, n_classes, weights, np.zeros_like(weights), np.empty_like(weights), shapes
    )


def batches(task: ProbeTask, protocol: SgdProtocol, epoch: int) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of every minibatch of an epoch: a new permutation, split into batches.

    Rows are ascending within a batch, so that reads from disk are sequential.
    """
    rng = np.random.default_rng([protocol.seed, task.seed, _SHUFFLE, epoch])
    order = rng.permutation(task.n_train)
    for start in range(0, task.n_train, protocol.batch):
        yield np.sort(order[start : start + protocol.batch])


def _row_reader(
    rows: Rows, batch: int, max_bytes_in_memory: int
) -> Callable[[NDArray[np.intp]], Float32]:
    """Return a function that reads up to ``batch`` rows by number, as float32.

    Its result is valid until the next call. The matrix is held in memory if it has at most
    ``max_bytes_in_memory`` bytes as float32; otherwise rows are read from disk.
    """
    n, d = rows.shape
    for start, block in chunks(rows):
        check_finite(block, start)
    if n * d * 4 > max_bytes_in_memory:
        return lambda index: np.ascontiguousarray(rows[index], dtype=np.float32)
    array = rows_as_float32(rows, 0, n)
    buffer = np.empty((batch, d), dtype=np.float32)
    # With mode "raise" NumPy would write to a temporary array first.
    return lambda index: np.take(array, index, axis=0, out=buffer[: index.size], mode="clip")


def _predict(block: Float32, heads: HeadStack) -> NDArray[np.intp]:
    """Return the winning class (rows, n_sizes) of raw features."""
    x, weights = take_columns(block, heads.neurons), heads.weights
    with np.errstate(over="ignore", invalid="ignore"):
        responses = prefix_scores(x, heads.blocks(weights)) + heads.bias(weights).ravel()
    return np.asarray(smallest_first(responses, len(heads.shapes)).argmax(axis=2))


def _statuses(stacks: Sequence[HeadStack]) -> NDArray[Any]:
    """Return "ok", or "not_converged" for a head that overflowed, (n_seeds, n_sizes)."""
    finite = [
        [bool(np.isfinite(w).all() and np.isfinite(b).all()) for w, b in heads.heads()]
        for heads in stacks
    ]
    return np.where(np.asarray(finite), "ok", "not_converged").astype(object)
