"""The passes as torch matrix products on one device, usually a CUDA one.

The same staircase as the compiled passes, a few large products per pass. Rows are uploaded once
where they fit, else block by block through page-locked memory. Products accumulate in float32
(TF32 and autocast are off), losses and class sums in float64. Weights come from the host and
gradients go back there, small both: quasi-Newton vectors stay on the host, where the decisions
are made; the factors of the second moment live on the device.
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
from threadpoolctl import ThreadpoolController

from criticalmass.core.rows import Rows
from criticalmass.core.threads import thread_count
from criticalmass.measures.logistic.lbfgs import Evaluation
from criticalmass.measures.logistic.preconditioner import FloatArray, Whitening
from criticalmass.measures.logistic.stacked_heads import Stack
from criticalmass.measures.logistic.torch_products import (
    TorchWhitening,
    add_gradient,
    fill_logits,
    full_float32,
    softmax,
    subtract_labels,
)
from criticalmass.measures.logistic.training_rows import HeldRows, OrderedRows, second_moment
from criticalmass.measures.scaling import Scaling, column_scaling

# Logits that a pass holds at once: 256 MiB in float32.
_MOST_LOGITS = 1 << 26
# Numbers that the float64 softmax of the certificate holds at once: 128 MiB.
_MOST_DOUBLES = 1 << 24


@dataclass(frozen=True, eq=False)
class _Upload:
    """What of some rows is on the device: their class ids, and the rows if they fit."""

    y: torch.Tensor
    x: torch.Tensor | None


class TorchCrew:
    """The crew of torch passes.

    Parameters
    ----------
    device: what torch calls it: ``"cuda"``, ``"cuda:1"``, ``"cpu"``.
    threads: cores for the quasi-Newton steps on the host; all by default.
    """

    # A GPU wants wide products: one pass for all problems of an order, as a rule.
    most_columns = 8192
    single_classes = 8192

    def __init__(self, device: str, threads: int | None = None) -> None:
        self._device = torch.device(device)
        self._n_threads = threads or thread_count()
        self._uploads: WeakKeyDictionary[OrderedRows, _Upload] = WeakKeyDictionary()
        self._guards = ExitStack()
        self._pool: ThreadPoolExecutor | None = None
        self._blas: Any = None

    def __enter__(self) -> Self:
        """Start the threads and see to full precision."""
        with ExitStack() as guards:
            # Tensors made under the caller's inference mode could not be changed by our threads.
            guards.enter_context(torch.inference_mode(False))
            guards.enter_context(torch.no_grad())
            guards.enter_context(torch.autocast(self._device.type, enabled=False))
            guards.enter_context(full_float32())
            self._blas = ThreadpoolController()
            self._pool = guards.enter_context(ThreadPoolExecutor(self._n_threads))
            self._guards = guards.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the threads, let go of the rows, and restore torch's settings."""
        self._uploads.clear()
        self._guards.close()

    def each(self, work: Callable[[int], None], n: int) -> None:
        """Call ``work(i)`` for every i, spread over the threads."""
        assert self._pool is not None
        with self._blas.limit(limits=1, user_api="blas"):
            list(self._pool.map(work, range(n)))

    def whitening(self, moment: FloatArray) -> Whitening:
        """Return the preconditioner of a second moment, (k, k), its factors on the device."""
        return TorchWhitening(moment, self._device)

    def scaling(self, rows: Rows) -> Scaling:
        """Return means and scales of raw columns."""
        return column_scaling(rows)

    def moment(self, rows: Rows, scaling: Scaling) -> FloatArray:
        """Return the second moment of standardised columns, (d, d)."""
        return second_moment(rows, scaling)

    def evaluate(
        self, rows: OrderedRows, stack: Stack, wanted: NDArray[np.bool_]
    ) -> list[Evaluation]:
        """Make one pass over the rows and return what it found for every head of the stack."""
        c, n_problems = stack.n_classes, len(stack.sizes)
        w = self._send(stack.weights)
        bias = self._send(stack.intercepts).view(n_problems, c, 1)
        asked = np.flatnonzero(wanted)
        chosen = self._send(asked)
        gradient = torch.zeros_like(w)
        losses = self._zeros(n_problems)
        excess = self._zeros(n_problems, c)
        squares = self._zeros(len(asked), c, c)
        for _, x, y in self.blocks(rows, w.shape[0]):
            z = torch.empty((w.shape[0], x.shape[0]), dtype=torch.float32, device=self._device)
            fill_logits(x, w, stack, z)
            p = z.view(n_problems, c, -1)
            losses += softmax(p.add_(bias), y).sum(1)
            if len(asked):
                part = p[chosen]
                squares += torch.bmm(part, part.mT)
            subtract_labels(p, y)
            excess += p.sum(2, dtype=torch.float64)
            add_gradient(x, z, stack, gradient)
        for total in (losses, excess, squares, gradient):
            total /= rows.n
        return _evaluations(stack, asked, (losses, excess, squares), gradient)

    def classify(self, rows: OrderedRows, stack: Stack) -> NDArray[np.int32]:
        """Return the class of every row under every head, (n_heads, n)."""
        out = np.empty((len(stack.sizes), rows.n), np.int32)
        w = self._send(stack.weights)
        bias = self._send(stack.intercepts).view(len(stack.sizes), -1, 1)
        for start, x, _ in self.blocks(rows, w.shape[0]):
            z = torch.empty((w.shape[0], x.shape[0]), dtype=torch.float32, device=self._device)
            fill_logits(x, w, stack, z)
            best = z.view(len(stack.sizes), stack.n_classes, -1).add_(bias).argmax(1)
            out[:, start : start + x.shape[0]] = best.cpu().numpy()
        return out

    def logits(self, rows: OrderedRows, stack: Stack) -> TorchLogits:
        """Make one pass that stores the logits of all heads on the device."""
        w = self._send(stack.weights)
        flat = torch.empty((w.shape[0], rows.n), dtype=torch.float32, device=self._device)
        for start, x, _ in self.blocks(rows, 1):
            fill_logits(x, w, stack, flat[:, start : start + x.shape[0]])
        return TorchLogits(self, rows, stack, flat)

    def blocks(
        self, rows: OrderedRows, n_columns: int
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Yield (first row, rows, class ids) on the device.

        Parameters
        ----------
        rows: held or streamed.
        n_columns: numbers that the caller keeps per row; it bounds the rows of a block.
        """
        step = max(256, _MOST_LOGITS // n_columns)
        upload = self._uploads.get(rows)
        if upload is None:
            upload = self._uploads[rows] = self._upload(rows)
        done = 0
        for x in self._stream(rows) if upload.x is None else (upload.x,):
            for a in range(0, x.shape[0], step):
                part = x[a : a + step]
                first = done + a
                yield first, part, upload.y[first : first + part.shape[0]]
            done += x.shape[0]

    def _upload(self, rows: OrderedRows) -> _Upload:
        y = self._send(rows.y)
        if isinstance(rows, HeldRows):
            return _Upload(y, self._send(rows.x))
        x: torch.Tensor | None = None
        done = 0
        for block in self._stream(rows):
            if x is None:
                k = block.shape[1]
                if 4 * rows.n * k > self._room():
                    return _Upload(y, None)
                x = torch.empty((rows.n, k), dtype=torch.float32, device=self._device)
            x[done : done + block.shape[0]] = block
            done += block.shape[0]
        return _Upload(y, x)

    def _room(self) -> int:
        """Return the bytes that rows too large for the host's memory may take on the device."""
        if self._device.type != "cuda":
            return 0
        free, _ = torch.cuda.mem_get_info(self._device)
        # What torch keeps for reuse counts as taken there.
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return (free + kept) // 2

    def _stream(self, rows: OrderedRows) -> Iterator[torch.Tensor]:
        """Upload block by block: the next is read and copied while the device works on one."""
        if self._device.type != "cuda":
            for block, _ in rows.blocks():
                yield self._send(block)
            return
        lanes: list[tuple[torch.Tensor, torch.cuda.Event]] = []
        for number, (block, _) in enumerate(rows.blocks()):
            if len(lanes) < 2:
                # The first block is the longest.
                room = torch.empty(block.shape, dtype=torch.float32, pin_memory=True)
                lanes.append((room, torch.cuda.Event()))  # type: ignore[no-untyped-call]
            room, copied = lanes[number % 2]
            copied.synchronize()
            room = room[: block.shape[0]]
            room.copy_(torch.from_numpy(block))
            there = room.to(self._device, non_blocking=True)
            copied.record(torch.cuda.current_stream(self._device))
            yield there

    def _send(self, array: NDArray[Any]) -> torch.Tensor:
        # torch warns of arrays that may not be written to, so those are copied.
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self._device)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self._device)


class TorchLogits:
    """Logits of a stack's heads over all rows, on the device.

    Parameters
    ----------
    crew: who made them.
    rows: in the order's columns.
    stack: the heads.
    flat: (n_heads * C, n) the logits.
    """

    def __init__(
        self, crew: TorchCrew, rows: OrderedRows, stack: Stack, flat: torch.Tensor
    ) -> None:
        self.n = rows.n
        self._crew, self._rows, self._stack, self._flat = crew, rows, stack, flat
        self._heads = flat.view(len(stack.sizes), stack.n_classes, rows.n)
        self._y = torch.from_numpy(np.ascontiguousarray(rows.y)).to(flat.device)

    def moments(self, i: int, b: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Sum head i's cross-entropies and its probabilities, (C,)."""
        sums = torch.zeros(b.size + 1, dtype=torch.float64, device=self._flat.device)
        for _, y, p in self._probabilities(i, b):
            sums[0] += softmax(p, y).sum()
            sums[1:] += p[0].sum(1)
        found = sums.cpu().numpy()
        return float(found[0]), found[1:]

    def square(self, i: int, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum p p' of head i over rows, (C, C)."""
        total = torch.zeros((b.size, b.size), dtype=torch.float64, device=self._flat.device)
        for _, y, p in self._probabilities(i, b):
            softmax(p, y)
            rounded = p[0].float()
            total += rounded @ rounded.mT
        square: NDArray[np.float64] = total.cpu().numpy()
        return square

    def to_residuals(self, i: int, b: NDArray[np.float64]) -> None:
        """Replace head i's logits by p - y."""
        for part, y, p in self._probabilities(i, b):
            softmax(p, y)
            subtract_labels(p, y)
            part.copy_(p[0])

    def gradient(self) -> FloatArray:
        """Return the mean of residual times row, (n_heads * C, k)."""
        shape = self._stack.weights.shape
        total = torch.zeros(shape, dtype=torch.float32, device=self._flat.device)
        for start, x, _ in self._crew.blocks(self._rows, 1):
            add_gradient(x, self._flat[:, start : start + x.shape[0]], self._stack, total)
        mean: FloatArray = (total / self.n).cpu().numpy()
        return mean

    def _probabilities(
        self, i: int, b: NDArray[np.float64]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield stored logits (C, rows), class ids, and logits with intercepts (1, C, rows)."""
        bias = torch.from_numpy(b).to(self._flat.device)[:, None]
        step = max(256, _MOST_DOUBLES // b.size)
        for start in range(0, self.n, step):
            part = self._heads[i, :, start : start + step]
            yield part, self._y[start : start + step], (part.double() + bias)[None]


def _evaluations(
    stack: Stack,
    asked: NDArray[np.intp],
    means: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    gradient: torch.Tensor,
) -> list[Evaluation]:
    """Bring a pass's means over rows back to the host and split them by head."""
    losses, excess, squares = (part.cpu().numpy() for part in means)
    weights = gradient.cpu().numpy()
    c, place = stack.n_classes, {int(p): i for i, p in enumerate(asked)}
    return [
        Evaluation(
            loss=float(losses[p]),
            weights=weights[p * c : (p + 1) * c, :k],
            intercepts=excess[p],
            square=squares[place[p]] if p in place else None,
        )
        for p, k in enumerate(stack.sizes)
    ]
