"""Balls around images, for attacks, adversarial training and noise: each norm is three functions.

torch is imported where it computes, so that names of norms can be listed without it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from criticalmass.errors import CriticalMassError, unknown_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Ball(ABC):
    """The changes of an image that are not larger than a radius.

    Attributes
    ----------
    radius: largest norm of a change, of pixels in 0..1; infinite for no limit.
    """

    radius: float

    @abstractmethod
    def draw(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw changes of norm ``radius`` in random directions, (n, ...) as ``like``."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """Return, for each image, the change of norm 1 along which the loss rises most."""

    @abstractmethod
    def project(self, change: Tensor) -> Tensor:
        """Return the nearest changes inside the ball."""

    @abstractmethod
    def size(self, change: Tensor) -> Tensor:
        """Return the norm of each change, (n,)."""


class L2Ball(Ball):
    """Changes by their Euclidean norm over all pixels and channels."""

    def draw(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw uniformly from the sphere."""
        import torch

        noise = torch.randn(like.shape, generator=generator).to(like)
        return self.radius * self.steepest(noise)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the gradient over its norm; zero where the gradient is zero."""
        # In float64: the squares of a small gradient are zero in float32.
        exact = gradient.double()
        unit = exact / _norms(exact)
        return unit.to(gradient)

    def project(self, change: Tensor) -> Tensor:
        """Shorten what is longer than the radius."""
        inside: Tensor = change * (self.radius / _norms(change)).clamp_max(1.0)
        return inside

    def size(self, change: Tensor) -> Tensor:
        """Return the Euclidean norms."""
        import torch

        norms: Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1)
        return norms


def _norms(changes: Tensor) -> Tensor:
    """Return the Euclidean norm of each change, (n, 1, ...), never zero."""
    import torch

    tiny = torch.finfo(changes.dtype).tiny
    shape = (-1, *[1] * (changes.ndim - 1))
    norms: Tensor = torch.linalg.vector_norm(changes.flatten(1), dim=1).clamp_min(tiny)
    return norms.view(shape)


class LinfBall(Ball):
    """Changes by the largest change of a pixel in a channel."""

    def draw(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw uniformly from the corners."""
        import torch

        signs = torch.randint(0, 2, like.shape, generator=generator).to(like) * 2 - 1
        return self.radius * signs

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the signs of the gradient."""
        return gradient.sign()

    def project(self, change: Tensor) -> Tensor:
        """Clip each value."""
        return change.clamp(-self.radius, self.radius)

    def size(self, change: Tensor) -> Tensor:
        """Return the largest absolute values."""
        return change.flatten(1).abs().amax(dim=1)


BALLS: Mapping[str, type[Ball]] = MappingProxyType({"l2": L2Ball, "linf": LinfBall})


def make_ball(norm: str, radius: float) -> Ball:
    """Make the ball of a norm's name.

    Raises
    ------
    CriticalMassError: the norm is unknown, or the radius is not positive.
    """
    if norm not in BALLS:
        raise unknown_name("norm", norm, BALLS)
    if math.isnan(radius) or radius <= 0:
        raise CriticalMassError(f"radius={radius:g} of a ball of norm {norm!r} must be above 0")
    return BALLS[norm](float(radius))
