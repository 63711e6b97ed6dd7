"""Balls around images, for adversarial training and noise: each norm is three functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ball(ABC):
    """The changes of an image that are not larger than a radius.

    Attributes
    ----------
    radius: largest norm of a change, of pixels in 0..1.
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


class L2Ball(Ball):
    """Changes by their Euclidean norm over all pixels and channels."""

    def draw(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw uniformly from the sphere."""
        noise = torch.randn(like.shape, generator=generator).to(like)
        return self.radius * self.steepest(noise)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the gradient over its norm; zero where the gradient is zero."""
        norm = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
        shape = (-1, *[1] * (gradient.ndim - 1))
        unit: Tensor = gradient / norm.view(shape)
        return unit

    def project(self, change: Tensor) -> Tensor:
        """Shorten what is longer than the radius."""
        norm = change.flatten(1).norm(dim=1).clamp_min(torch.finfo(change.dtype).tiny)
        factor = (self.radius / norm).clamp_max(1.0)
        shape = (-1, *[1] * (change.ndim - 1))
        inside: Tensor = change * factor.view(shape)
        return inside


class LinfBall(Ball):
    """Changes by the largest change of a pixel in a channel."""

    def draw(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw uniformly from the corners."""
        signs = torch.randint(0, 2, like.shape, generator=generator).to(like) * 2 - 1
        return self.radius * signs

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the signs of the gradient."""
        return gradient.sign()

    def project(self, change: Tensor) -> Tensor:
        """Clip each value."""
        return change.clamp(-self.radius, self.radius)


BALLS: Mapping[str, type[Ball]] = MappingProxyType({"l2": L2Ball, "linf": LinfBall})
