"""Products and softmax on a torch device, in full float32, and whitening there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from criticalmass.measures.logistic.preconditioner import BASE, FloatArray, Whitening
from criticalmass.measures.logistic.stacked_heads import Stack


class TorchWhitening(Whitening):
    """Whitening whose factors and products are on a device.

    Parameters
    ----------
    moment: (k, k) float32, as for `Whitening`.
    device: where to.
    """

    def __init__(self, moment: FloatArray, device: torch.device) -> None:
        super().__init__(moment)
        self._there = torch.from_numpy(moment).to(device)
        self._inverses: dict[int, torch.Tensor] = {}
        self._making = threading.Lock()

    def solve(self, rhs: FloatArray, exponent: int) -> FloatArray:
        """Return ``(G[:k, :k] + 4**exponent I)^-1`` applied to every row of rhs, (r, k)."""
        with self._making:
            if exponent not in self._inverses:
                self._inverses[exponent] = self._inverse(exponent)
        k = rhs.shape[1]
        inverse = self._inverses[exponent][:k, :k]
        solved = torch.from_numpy(rhs).to(inverse.device) @ inverse.mT @ inverse
        out: FloatArray = solved.cpu().numpy()
        return out

    def _inverse(self, exponent: int) -> torch.Tensor:
        unit = torch.eye(self._there.shape[0], dtype=torch.float32, device=self._there.device)
        for extra in range(12):
            ridged = self._there + BASE ** (exponent + extra) * unit
            lower, failed = torch.linalg.cholesky_ex(ridged)
            if not int(failed):
                inverse: torch.Tensor = torch.linalg.solve_triangular(lower, unit, upper=False)
                return inverse
        raise ArithmeticError("the second moment of the features is not positive semidefinite")


@contextmanager
def full_float32() -> Iterator[None]:
    """Hold torch's float32 products to float32, and put its settings back afterwards."""
    backends: Any = torch.backends
    try:
        places = (backends.cuda.matmul, backends.mkldnn.matmul)
        before = [place.fp32_precision for place in places]
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
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def fill_logits(x: torch.Tensor, w: torch.Tensor, stack: Stack, z: torch.Tensor) -> None:
    """Fill z, (P, rows), climbing the staircase; the first step belongs to all heads."""
    for a, b, width in _stairs(stack):
        z[:width].addmm_(w[:width, a:b], x[:, a:b].mT, beta=0.0 if a == 0 else 1.0)


def add_gradient(x: torch.Tensor, z: torch.Tensor, stack: Stack, total: torch.Tensor) -> None:
    """Add residuals, (P, rows), times rows to the stacked gradient."""
    for a, b, width in _stairs(stack):
        total[:width, a:b].addmm_(z[:width], x[:, a:b])


def _stairs(stack: Stack) -> Iterator[tuple[int, int, int]]:
    edges, widths = stack.stairs
    for t, width in enumerate(widths):
        yield int(edges[t]), int(edges[t + 1]), int(width)


def softmax(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Turn logits, (heads, C, rows), into probabilities; return cross-entropies in float64."""
    picked = z.gather(1, y.expand(z.shape[0], 1, -1))
    top = z.amax(1, keepdim=True)
    total = z.sub_(top).exp_().sum(1, keepdim=True)
    z.div_(total)
    return (top.double() - picked.double() + total.double().log()).squeeze(1)


def subtract_labels(p: torch.Tensor, y: torch.Tensor) -> None:
    """Subtract 1 from the probability of each row's class, p (heads, C, rows)."""
    classes = torch.arange(p.shape[1], device=p.device)
    p -= (classes[:, None] == y).to(p.dtype)
