"""The arguments of an export."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from criticalmass.shrinking.slim_model import SlimModel

if TYPE_CHECKING:
    from criticalmass.extraction.models import FrozenModel


@dataclass(frozen=True, eq=False)
class ExportRequest:
    """A slim model and the options of `criticalmass.export`, which documents them."""

    slim: SlimModel
    model: str | FrozenModel | Any | None = None
    weights: str | os.PathLike[str] | None = None
    cut: bool = False
    index: str | os.PathLike[str] | None = None
    table: str | None = None
    column: str | None = None
    id: str | None = None
    suffix: str | None = None
    metric: str = "cosine"
    new_column: bool = False
    normalise: bool = False
    vectors: str | os.PathLike[str] | None = None
    index_type: str | None = None
    queries: str | os.PathLike[str] | None = None
    to: str | None = None


#: The table of whole vectors that is meant if none is named.
USUAL_TABLE = "items"
#: Option -> its default.
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {field.name: field.default for field in fields(ExportRequest) if field.name != "slim"}
)
