"""What `invert` was asked for, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.probing.objectives import OBJECTIVES, InversionObjective
from criticalmass.selectors.registry import selector_info
from criticalmass.selectors.sizes import grid_for

STARTS = ("noise", "image")
"""What a search begins from: pixels drawn uniformly, or an image of another class."""
TARGET = "target"
"""What a search for hidden neurons begins from: the target itself."""
SELECTORS = ("random", "leverage", "greedy-cka-worst", "projection-gaussian")
"""Random neurons; those that determine the layer best and worst; random directions."""


@dataclass(frozen=True)
class InversionRequest:
    """The arguments of `invert` that decide its numbers; see there.

    Attributes
    ----------
    layer, keep, sizes, selectors, seeds, objectives, starts, images, steps, step, restarts, norm,
    radius, epsilon, reference, seed: as of `invert`; names are tuples.
    """

    layer: str
    keep: tuple[float, ...]
    sizes: tuple[int, ...]
    selectors: tuple[str, ...]
    seeds: int
    objectives: tuple[str, ...]
    starts: tuple[str, ...]
    images: int
    steps: int
    step: float | None
    restarts: int
    norm: str
    radius: float | None
    epsilon: float
    reference: int
    seed: int

    @property
    def goals(self) -> tuple[InversionObjective, ...]:
        """The objectives."""
        return tuple(OBJECTIVES[name] for name in self.objectives)

    def starts_of(self, objective: InversionObjective) -> tuple[str, ...]:
        """Return what the searches of an objective begin from."""
        return (TARGET,) if objective.starts_at_target else self.starts

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments, JSON-able."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }


def make_request(**options: Any) -> InversionRequest:
    """Make a request of the arguments of `invert`.

    Raises
    ------
    CriticalMassError: a name is unknown, or a number is out of range.
    """
    kinds: dict[str, Any] = {"keep": float, "sizes": int, "selectors": str, "objectives": str}
    kinds["starts"] = str
    given = {name: tuple(map(kind, as_tuple(options[name]))) for name, kind in kinds.items()}
    arguments: dict[str, Any] = {**options, **given}
    request = InversionRequest(**arguments)
    if request.keep:
        grid_for(request.keep, 1)
    elif not request.sizes:
        raise CriticalMassError("no subset: give keep=0.1 or sizes=64")
    for name in request.selectors:
        selector_info(name)
    for kind, names, known in (
        ("objective", request.objectives, OBJECTIVES),
        ("start", request.starts, STARTS),
    ):
        if not names:
            raise CriticalMassError(f"no {kind} given; known: {', '.join(known)}")
        for name in names:
            if name not in known:
                raise unknown_name(kind, name, known)
    _check_numbers(request)
    return request


def _check_numbers(request: InversionRequest) -> None:
    # Imported here, because it imports torch.
    from criticalmass.extraction.balls import make_ball
    from criticalmass.probing.loop import Budget

    Budget(request.steps, request.restarts, request.step)
    make_ball(request.norm, math.inf if request.radius is None else request.radius)
    if not 0 < request.epsilon < 1:
        raise CriticalMassError(
            f"epsilon={request.epsilon:g} must be between 0 and 1, the distance of an unrelated "
            "image"
        )
    for name in ("images", "seeds", "reference"):
        if getattr(request, name) < 1:
            raise CriticalMassError(f"{name}={getattr(request, name)} must be 1 or more")
    needs_radius = [goal.name for goal in request.goals if goal.starts_at_target]
    if needs_radius and request.radius is None:
        raise CriticalMassError(
            f"objective {needs_radius[0]!r} searches in a ball around the target; give radius=, "
            "e.g. 0.5"
        )


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Return a collection as a tuple; one name or number stands for a collection of one."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)
