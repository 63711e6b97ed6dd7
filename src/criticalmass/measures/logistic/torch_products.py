"""Products, softmax and preconditioner on a torch device, in full float32."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from criticalmass.measures.logistic.preconditioner import (
    FloatArray,
    Preconditioner,
    first_factor,
)
from criticalmass.measures.logistic.stacked_heads import StackedHeads


class TorchPreconditioner(Preconditioner):
    """Preconditioner whose factors and products are on a device.

    Parameters
    ----------
    moment: (k, k) float32, as for `Preconditioner`.
    device: on which the factors are computed and stored.
    """

    def __init__(self, moment: FloatArray, device: torch.device) -> None:
        super().__init__(moment)
        self._device_moment = torch.from_numpy(moment).to(device)
        self._device_factors: dict[int, torch.Tensor] = {}
        self._lock = threading.Lock()

    def solve(self, rhs: FloatArray, exponent: int) -> FloatArray:
        """Return ``(G[:k, :k] + 4**exponent I)^-1`` applied to every row of rhs, (r, k)."""
        with self._lock:
            if exponent not in self._device_factors:
                self._device_factors[exponent] = first_factor(self._invert_on_device, exponent)
        k = rhs.shape[1]
        inverse = self._device_factors[exponent][:k, :k]
        solved = torch.from_numpy(rhs).to(inverse.device) @ inverse.mT @ inverse
        out: FloatArray = solved.cpu().numpy()
        return out

    def _invert_on_device(self, ridge: float) -> torch.Tensor | None:
        """Return the inverse of the lower factor, or None if it does not exist in float32."""
        moment = self._device_moment
        unit = torch.eye(moment.shape[0], dtype=torch.float32, device=moment.device)
        lower, error = torch.linalg.cholesky_ex(moment + ridge * unit)
        if int(error):
            return None
        inverse: torch.Tensor = torch.linalg.solve_triangular(lower, unit, upper=False)
        return inverse


@contextmanager
def full_float32() -> Iterator[None]:
    """Make torch's float32 products use float32 inside this block, then restore its settings."""
    backends: Any = torch.backends
    try:
        settings = (backends.cuda.matmul, backends.mkldnn.matmul)
        before = [setting.fp32_precision for setting in settings]
    except AttributeError:
        # Before torch 2.9 there is one setting for all.
        level = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(level)
        return
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def fill_logits(x: torch.Tensor, w: torch.Tensor, heads: StackedHeads, z: torch.Tensor) -> None:
    """Fill z, (P, rows), with the logits of rows x under stacked weights w, block by block."""
    for a, b, width in _column_blocks(heads):
        # All heads use the first block.
        z[:width].addmm_(w[:width, a:b], x[:, a:b].mT, beta=0.0 if a == 0 else 1.0)


def add_gradient(
    x: torch.Tensor, z: torch.Tensor, heads: StackedHeads, total: torch.Tensor
) -> None:
    """Add residuals, (P, rows), times rows to the stacked gradient."""
    for a, b, width in _column_blocks(heads):
        total[:width, a:b].addmm_(z[:width], x[:, a:b])


def _column_blocks(heads: StackedHeads) -> Iterator[tuple[int, int, int]]:
    """Yield (first column, end, number of stacked rows) of every block."""
    for t, width in enumerate(heads.block_widths):
        yield int(heads.block_edges[t]), int(heads.block_edges[t + 1]), int(width)


def softmax(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Turn logits, (heads, C, rows), into probabilities; return cross-entropies in float64."""
    true_logits = z.gather(1, y.expand(z.shape[0], 1, -1))
    top = z.amax(1, keepdim=True)
    total = z.sub_(top).exp_().sum(1, keepdim=True)
    z.div_(total)
    return (top.double() - true_logits.double() + total.double().log()).squeeze(1)


def subtract_labels(p: torch.Tensor, y: torch.Tensor) -> None:
    """Subtract 1 from the probability of each row's class, p (heads, C, rows)."""
    classes = torch.arange(p.shape[1], device=p.device)
    p -= (classes[:, None] == y).to(p.dtype)
