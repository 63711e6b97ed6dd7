"""Passes over the rows as torch matrix products on one device, usually a CUDA device.

The stacked heads are the same as in the compiled passes; a pass is a few large products. Rows are
uploaded once if they fit, otherwise block by block through page-locked memory. Products accumulate
in float32 (TF32 and autocast are off), losses and class sums in float64. Weights come from the
host and gradients go back to it; both are small. The quasi-Newton vectors stay on the host, which
makes the decisions. The factors of the second moment are on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from criticalmass.core.rows import Rows
from criticalmass.core.threads import limit_libraries, thread_count
from criticalmass.measures.logistic.lbfgs import Evaluation
from criticalmass.measures.logistic.preconditioner import FloatArray, Preconditioner
from criticalmass.measures.logistic.stacked_heads import StackedHeads
from criticalmass.measures.logistic.torch_products import (
    TorchPreconditioner,
    add_gradient,
    fill_logits,
    full_float32,
    softmax,
    subtract_labels,
)
from criticalmass.measures.logistic.training_rows import HeldRows, OrderedRows, second_moment
from criticalmass.measures.scaling import Scaling, column_scaling


@dataclass(frozen=True, eq=False)
class _Upload:
    """Class ids on the device, and the rows if they fit."""

    y: torch.Tensor
    x: torch.Tensor | None


class TorchExecutor:
    """Executor of torch passes.

    Parameters
    ----------
    device: torch's name of it: ``"cuda"``, ``"cuda:1"``, ``"cpu"``.
    threads: cores for the quasi-Newton steps on the host; all by default.

    Attributes
    ----------
    block_logits: logits that a pass computes at once; the default is 256 MiB in float32.
    upload_bytes: up to this size, rows too large for the host's memory are stored on the device;
        None for half of the device's free memory.
    """

    # A GPU needs wide products: usually one pass takes all problems of an order.
    max_columns = 8192
    single_classes = 8192
    block_logits = 1 << 26
    upload_bytes: int | None = None

    def __init__(self, device: str, threads: int | None = None) -> None:
        self._device = torch.device(device)
        self._n_threads = threads or thread_count()
        self._uploads: WeakKeyDictionary[OrderedRows, _Upload] = WeakKeyDictionary()
        self._contexts = ExitStack()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        with ExitStack() as contexts:
            # Our threads could not change tensors that were made in the caller's inference mode.
            contexts.enter_context(torch.inference_mode(False))
            contexts.enter_context(torch.no_grad())
            contexts.enter_context(torch.autocast(self._device.type, enabled=False))
            contexts.enter_context(full_float32())
            self._pool = contexts.enter_context(ThreadPoolExecutor(self._n_threads))
            self._contexts = contexts.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._uploads.clear()
        self._contexts.close()

    def each(self, work: Callable[[int], None], n: int) -> None:
        """Call ``work(i)`` for every i in ``range(n)`` in the pool."""
        assert self._pool is not None
        with limit_libraries(1):
            list(self._pool.map(work, range(n)))

    def make_preconditioner(self, moment: FloatArray) -> Preconditioner:
        """Return the preconditioner of a second moment, with its factors on the device."""
        return TorchPreconditioner(moment, self._device)

    def column_scaling(self, rows: Rows) -> Scaling:
        """Return means and scales of raw columns."""
        return column_scaling(rows)

    def second_moment(self, rows: Rows, scaling: Scaling) -> FloatArray:
        """Return the second moment of standardised columns."""
        return second_moment(rows, scaling)

    def evaluate(
        self, rows: OrderedRows, heads: StackedHeads, with_square: NDArray[np.bool_]
    ) -> list[Evaluation]:
        """Make one pass and return loss and gradient of every head."""
        c, n_heads = heads.n_classes, heads.n_heads
        w = self._upload_array(heads.weights)
        bias = self._upload_array(heads.intercepts).view(n_heads, c, 1)
        square_heads = np.flatnonzero(with_square)
        square_index = self._upload_array(square_heads)
        gradient = torch.zeros_like(w)
        losses = self._zeros(n_heads)
        excess = self._zeros(n_heads, c)
        squares = self._zeros(len(square_heads), c, c)
        for _, x, y in self.blocks(rows, w.shape[0]):
            z = torch.empty((w.shape[0], x.shape[0]), dtype=torch.float32, device=self._device)
            fill_logits(x, w, heads, z)
            p = z.view(n_heads, c, -1)
            losses += softmax(p.add_(bias), y).sum(1)
            if len(square_heads):
                part = p[square_index]
                squares += torch.bmm(part, part.mT)
            subtract_labels(p, y)
            excess += p.sum(2, dtype=torch.float64)
            add_gradient(x, z, heads, gradient)
        for total in (losses, excess, squares, gradient):
            total /= rows.n
        return _evaluations(heads, square_heads, losses, excess, squares, gradient)

    def classify(self, rows: OrderedRows, heads: StackedHeads) -> NDArray[np.int32]:
        """Return the class of every row under every head."""
        out = np.empty((heads.n_heads, rows.n), np.int32)
        w = self._upload_array(heads.weights)
        bias = self._upload_array(heads.intercepts).view(heads.n_heads, -1, 1)
        for start, x, _ in self.blocks(rows, w.shape[0]):
            z = torch.empty((w.shape[0], x.shape[0]), dtype=torch.float32, device=self._device)
            fill_logits(x, w, heads, z)
            best = z.view(heads.n_heads, heads.n_classes, -1).add_(bias).argmax(1)
            out[:, start : start + x.shape[0]] = best.cpu().numpy()
        return out

    def logits(self, rows: OrderedRows, heads: StackedHeads) -> TorchLogits:
        """Make one pass that stores the logits of all heads on the device."""
        w = self._upload_array(heads.weights)
        stacked = torch.empty((w.shape[0], rows.n), dtype=torch.float32, device=self._device)
        for start, x, _ in self.blocks(rows, 1):
            fill_logits(x, w, heads, stacked[:, start : start + x.shape[0]])
        return TorchLogits(self, rows, heads, stacked)

    def blocks(
        self, rows: OrderedRows, n_columns: int
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Yield (first row, rows, class ids) on the device.

        Parameters
        ----------
        rows: held or streamed.
        n_columns: numbers that the caller stores per row; it bounds the rows of a block.
        """
        step = max(256, self.block_logits // n_columns)
        upload = self._uploads.get(rows)
        if upload is None:
            upload = self._uploads[rows] = self._upload_rows(rows)
        start = 0
        for x in self._stream(rows) if upload.x is None else (upload.x,):
            for a in range(0, x.shape[0], step):
                part = x[a : a + step]
                first = start + a
                yield first, part, upload.y[first : first + part.shape[0]]
            start += x.shape[0]

    def _upload_rows(self, rows: OrderedRows) -> _Upload:
        y = self._upload_array(rows.y)
        if isinstance(rows, HeldRows):
            return _Upload(y, self._upload_array(rows.x))
        x: torch.Tensor | None = None
        start = 0
        for block in self._stream(rows):
            if x is None:
                k = block.shape[1]
                if 4 * rows.n * k > self._available_bytes():
                    return _Upload(y, None)
                x = torch.empty((rows.n, k), dtype=torch.float32, device=self._device)
            x[start : start + block.shape[0]] = block
            start += block.shape[0]
        return _Upload(y, x)

    def _available_bytes(self) -> int:
        """Return the bytes that rows too large for the host's memory may use on the device."""
        if self.upload_bytes is not None:
            return self.upload_bytes
        if self._device.type != "cuda":
            return 0
        free, _ = torch.cuda.mem_get_info(self._device)
        # CUDA counts the memory that torch holds for reuse as used.
        reusable = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(
            self._device
        )
        return (free + reusable) // 2

    def _stream(self, rows: OrderedRows) -> Iterator[torch.Tensor]:
        """Upload block by block: the next is read and copied while the device works on one."""
        if self._device.type != "cuda":
            for block, _ in rows.blocks():
                yield self._upload_array(block)
            return
        lanes: list[tuple[torch.Tensor, torch.cuda.Event]] = []
        for number, (block, _) in enumerate(rows.blocks()):
            if len(lanes) < 2:
                # The first block is the longest.
                buffer = torch.empty(block.shape, dtype=torch.float32, pin_memory=True)
                lanes.append((buffer, torch.cuda.Event()))  # type: ignore[no-untyped-call]
            buffer, copied = lanes[number % 2]
            copied.synchronize()
            buffer = buffer[: block.shape[0]]
            buffer.copy_(torch.from_numpy(block))
            uploaded = buffer.to(self._device, non_blocking=True)
            copied.record(torch.cuda.current_stream(self._device))
            yield uploaded

    def _upload_array(self, array: NDArray[Any]) -> torch.Tensor:
        # torch warns about read-only arrays, so these are copied.
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self._device)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self._device)


class TorchLogits:
    """Logits of stacked heads over all rows, on the device.

    Parameters
    ----------
    executor: reads the rows.
    rows: in the order's columns.
    heads: the heads.
    stacked: (n_heads * C, n) the logits.

    Attributes
    ----------
    block_doubles: numbers that the float64 softmax computes at once; the default is 128 MiB.
    """

    block_doubles = 1 << 24

    def __init__(
        self,
        executor: TorchExecutor,
        rows: OrderedRows,
        heads: StackedHeads,
        stacked: torch.Tensor,
    ) -> None:
        self.n = rows.n
        self._executor, self._rows, self._heads, self._stacked = executor, rows, heads, stacked
        self._by_head = stacked.view(heads.n_heads, heads.n_classes, rows.n)
        self._y = torch.from_numpy(np.ascontiguousarray(rows.y)).to(stacked.device)

    def moments(self, i: int, b: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Sum head i's cross-entropies and its probabilities."""
        sums = torch.zeros(b.size + 1, dtype=torch.float64, device=self._stacked.device)
        for _, y, p in self._shifted_blocks(i, b):
            sums[0] += softmax(p, y).sum()
            sums[1:] += p[0].sum(1)
        values = sums.cpu().numpy()
        return float(values[0]), values[1:]

    def square(self, i: int, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum p p' of head i over rows."""
        total = torch.zeros((b.size, b.size), dtype=torch.float64, device=self._stacked.device)
        for _, y, p in self._shifted_blocks(i, b):
            softmax(p, y)
            rounded = p[0].float()
            total += rounded @ rounded.mT
        square: NDArray[np.float64] = total.cpu().numpy()
        return square

    def to_residuals(self, i: int, b: NDArray[np.float64]) -> None:
        """Replace head i's logits by p - y."""
        for stored, y, p in self._shifted_blocks(i, b):
            softmax(p, y)
            subtract_labels(p, y)
            stored.copy_(p[0])

    def gradient(self) -> FloatArray:
        """Return the mean of residual times row."""
        shape = self._heads.weights.shape
        total = torch.zeros(shape, dtype=torch.float32, device=self._stacked.device)
        for start, x, _ in self._executor.blocks(self._rows, 1):
            add_gradient(x, self._stacked[:, start : start + x.shape[0]], self._heads, total)
        mean: FloatArray = (total / self.n).cpu().numpy()
        return mean

    def _shifted_blocks(
        self, i: int, b: NDArray[np.float64]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield stored logits (C, rows), class ids, and logits plus intercepts (1, C, rows)."""
        bias = torch.from_numpy(b).to(self._stacked.device)[:, None]
        step = max(256, self.block_doubles // b.size)
        for start in range(0, self.n, step):
            stored = self._by_head[i, :, start : start + step]
            yield stored, self._y[start : start + step], (stored.double() + bias)[None]


def _evaluations(
    heads: StackedHeads,
    square_heads: NDArray[np.intp],
    losses: torch.Tensor,
    excess: torch.Tensor,
    squares: torch.Tensor,
    gradient: torch.Tensor,
) -> list[Evaluation]:
    """Copy a pass's means over rows to the host and split them by head.

    Parameters
    ----------
    heads: the heads.
    square_heads: positions of the heads whose mean of p p' was computed.
    losses: (n_heads,).
    excess: (n_heads, C) mean of p - y.
    squares: (n_square_heads, C, C) mean of p p'.
    gradient: (n_heads * C, k).
    """
    host_losses, host_excess = losses.cpu().numpy(), excess.cpu().numpy()
    host_squares, weights = squares.cpu().numpy(), gradient.cpu().numpy()
    c, position = heads.n_classes, {int(p): i for i, p in enumerate(square_heads)}
    return [
        Evaluation(
            loss=float(host_losses[p]),
            weight_gradient=weights[p * c : (p + 1) * c, :k],
            intercept_gradient=host_excess[p],
            square=host_squares[position[p]] if p in position else None,
        )
        for p, k in enumerate(heads.sizes)
    ]
