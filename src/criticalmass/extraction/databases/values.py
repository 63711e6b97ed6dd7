"""Columns of documents whose fields have no declared type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def types_of(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return field -> Arrow type, of the first documents; text where the values differ."""
    names = dict.fromkeys(name for document in documents for name in document)
    return {name: column_of([d.get(name) for d in documents], None).type for name in names}


def column_of(values: Sequence[Any], kind: Any) -> Any:
    """Return the values of a field as an Arrow array; those that do not fit make it texts."""
    import pyarrow as pa

    if kind is not None and pa.types.is_null(kind):
        kind = None
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        texts = [
            value if value is None or isinstance(value, str) else json.dumps(value, default=str)
            for value in values
        ]
        return pa.array(texts, pa.string())
