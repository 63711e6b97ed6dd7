"""What a search for images with given neurons wants: a registry of objectives.

Errors are relative: 0 for the target's own activations, 1 for those of an unrelated image (the root
mean square over images of other classes). This module imports torch inside of functions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class InversionObjective:
    """One entry of the registry.

    Attributes
    ----------
    name: as the user writes it.
    description: one line.
    dropped_weight: weight of the capped distance of the dropped neurons in the loss.
    hides: what is changed as much as possible while the kept neurons stay within ``epsilon``:
        "neurons", "picture", or nothing.
    """

    name: str
    description: str
    dropped_weight: float = 0.0
    hides: str = ""

    @property
    def starts_at_target(self) -> bool:
        """Whether the search begins in the ball around the target itself."""
        return self.hides == "neurons"


_ALL = (
    InversionObjective("match", "the error of the kept neurons is made small"),
    InversionObjective(
        "contrast",
        "the error of the kept neurons is made small and that of the dropped ones large: kept "
        "minus half of the dropped, which is capped at that of an unrelated image",
        dropped_weight=0.5,
    ),
    InversionObjective(
        "hidden-neurons",
        "the dropped neurons are changed as far as possible within the ball around the target, "
        "with the kept ones within epsilon",
        hides="neurons",
    ),
    InversionObjective(
        "hidden-picture",
        "the picture is changed as far as possible with the kept neurons within epsilon",
        hides="picture",
    ),
)
OBJECTIVES: Mapping[str, InversionObjective] = MappingProxyType(
    {entry.name: entry for entry in _ALL}
)
