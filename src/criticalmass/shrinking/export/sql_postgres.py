"""Scripts that move a live PostgreSQL table to short vectors (pgvector), and back.

The templates in ``sql_templates`` are the scripts. Reads and writes go on while they run: a lock
that stops readers is held for an instant and waited for briefly; rows are filled in batches that
commit; the index is built concurrently. Each script can be run again after an interruption.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.shrinking.export.sql_names import (
    SqlNames,
    dollar_quote,
    quote_identifier,
    quote_table,
    quote_text,
)

if TYPE_CHECKING:
    import jinja2

#: Most dimensions in an HNSW index of pgvector by type, and in a column of type vector.
INDEX_LIMITS: Mapping[str, int] = MappingProxyType({"vector": 2000, "halfvec": 4000, "bit": 64000})
WHOLE_LIMIT = 16000
#: Metric -> operator and operator class of pgvector.
METRICS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"cosine": ("<=>", "cosine"), "inner-product": ("<#>", "ip"), "l2": ("<->", "l2")}
)
_BITS: Mapping[str, int] = MappingProxyType({"vector": 32, "halfvec": 16, "bit": 1})
# A longer piece of a direction does not fit in a page of 8 kB; out of line it is slow to read.
_MOST_INLINE = 1990
_LEAST_EF, _MOST_EF = 100, 1000


@dataclass(frozen=True, eq=False)
class PostgresPlan:
    """How short vectors are made, stored and searched in PostgreSQL.

    Attributes
    ----------
    names: table, columns, and names of what is created.
    digest: names the slim model in a comment, so that another one is not taken for it.
    n_neurons, n_kept: width of whole and of short vectors.
    kind: type of short vectors: ``vector``, ``halfvec`` or ``bit``.
    indices: kept dimensions, counted from 0; (n_kept,) unless there is a matrix.
    matrix: (n_neurons, n_kept) directions of a projection, or None.
    thresholds: (n_kept,) a bit says whether a value is above it; None for other types.
    is_unit: whether short vectors are scaled to length 1.
    metric: key of `METRICS` by which whole vectors are compared.
    rerank: times 10 rows that are sorted again by whole vectors; 0 for none.
    has_column: whether short vectors have a column, rather than an index alone.
    """

    names: SqlNames
    digest: str
    n_neurons: int
    n_kept: int
    kind: str
    indices: NDArray[np.intp]
    matrix: NDArray[np.float32] | None
    thresholds: NDArray[np.float32] | None
    is_unit: bool
    metric: str
    rerank: int
    has_column: bool

    @property
    def is_prefix(self) -> bool:
        """Whether the first dimensions are kept, or all."""
        return self.matrix is None and bool((self.indices == np.arange(self.n_kept)).all())

    @property
    def has_function(self) -> bool:
        """Whether a function is needed beside pgvector's own."""
        return not self.is_prefix or self.thresholds is not None

    @property
    def type(self) -> str:
        """Type of short vectors with their width, e.g. ``halfvec(64)``."""
        return f"{self.kind}({self.n_kept})"

    @property
    def value_bytes(self) -> int:
        """Bytes of the values of a short vector, without the header."""
        return -(-self.n_kept * _BITS[self.kind] // 8)

    @property
    def whole_operator(self) -> str:
        """Operator that compares whole vectors."""
        return METRICS[self.metric][0]

    @property
    def operator(self) -> str:
        """Operator that compares short vectors; those of length 1 by inner products."""
        return "<~>" if self.kind == "bit" else METRICS[self._short_metric][0]

    @property
    def operator_class(self) -> str:
        """Operator class of the index."""
        ending = "hamming" if self.kind == "bit" else METRICS[self._short_metric][1]
        return f"{self.kind}_{ending}_ops"

    @property
    def _short_metric(self) -> str:
        return "inner-product" if self.is_unit and self.metric == "cosine" else self.metric

    @property
    def n_listed(self) -> int:
        """Rows that the index returns for 10 results."""
        return 10 * max(1, self.rerank)

    @property
    def ef_search(self) -> int:
        """Value of ``hnsw.ef_search``; the index returns no more rows than that."""
        return min(max(_LEAST_EF, 2 * self.n_listed), _MOST_EF)

    @property
    def table(self) -> str:
        """Quoted name of the table."""
        return quote_table(self.names.table)

    @property
    def column(self) -> str:
        """Quoted column of whole vectors."""
        return quote_identifier(self.names.column)

    @property
    def short_column(self) -> str:
        """Quoted column of short vectors."""
        return quote_identifier(self.names.short)

    @property
    def id(self) -> str:
        """Quoted column that names a row."""
        return quote_identifier(self.names.id)

    @property
    def comment(self) -> str:
        """Comment on what holds short vectors."""
        return f"short vectors by criticalmass, slim model {self.digest}"

    def created(self, ending: str = "") -> str:
        """Quoted name of something that is created."""
        return quote_identifier(self.names.created(ending))

    @property
    def pieces(self) -> list[tuple[int, int, NDArray[np.float32]]]:
        """Pieces of the directions, from 1: number of the direction, first dimension, values."""
        if self.matrix is None:
            return []
        width = -(-self.n_neurons // -(-self.n_neurons // _MOST_INLINE))
        return [
            (place, start + 1, direction[start : start + width])
            for place, direction in enumerate(self.matrix.T, 1)
            for start in range(0, self.n_neurons, width)
        ]

    @property
    def function_value(self) -> str:
        """The short vector of ``whole``, in the body of the function."""
        if self.matrix is not None:
            table = self.created("_matrix")
            rows, product = f"FROM {table}", "direction <#> part"
            if self.n_neurons > _MOST_INLINE:
                part = "direction <#> subvector(part, first, vector_dims(direction))"
                # Products are summed, not rows sorted, which would be done on disk.
                rows = f"FROM (SELECT place, {part} AS product {rows} OFFSET 0) AS pieces"
                rows, product = f"{rows} GROUP BY place", "sum(product)"
            value = f"ARRAY(SELECT -({product}) {rows} ORDER BY place)::vector({self.n_kept})"
        elif self.is_prefix:
            value = self._prefix("whole")
        else:
            parts = ", ".join(f"part[{i + 1}]" for i in self.indices)
            value = f"ARRAY[{parts}]::vector({self.n_kept})"
        value = f"l2_normalize({value})" if self.is_unit else value
        if self.thresholds is not None:
            value = f"binary_quantize({value} - {format_vector(self.thresholds)}::vector)"
        return f"{value}::{self.type}"

    def short_of(self, whole: str) -> str:
        """Return the expression of the short vector of an expression of type vector."""
        if self.has_function:
            return f"{self.created()}({whole}::vector({self.n_neurons}))::{self.type}"
        value = self._prefix(whole)
        return f"{f'l2_normalize({value})' if self.is_unit else value}::{self.type}"

    def _prefix(self, whole: str) -> str:
        """Return the expression of the first values, of type vector."""
        checked = f"{whole}::vector({self.n_neurons})"
        return (
            checked if self.n_kept == self.n_neurons else f"subvector({checked}, 1, {self.n_kept})"
        )

    def stored(self, row: str = "") -> str:
        """Return the expression of a row's short vector that the index holds."""
        prefix = f"{row}." if row else ""
        if self.has_column:
            return f"{prefix}{self.short_column}"
        return f"({self.short_of(f'{prefix}{self.column}')})"

    def search(self) -> str:
        """Return the statement that finds the 10 nearest rows of ``$1``, of type vector."""
        nearest = f"{self.stored()} {self.operator} {self.short_of('$1')}"
        template = (
            "SELECT {id} FROM {table}\nORDER BY {nearest} LIMIT 10;"
            if not self.rerank
            else "SELECT {id} FROM (\n  SELECT {id}, {column} FROM {table}\n"
            "  ORDER BY {nearest} LIMIT {listed}\n) AS listed\n"
            "ORDER BY {column} {operator} $1::vector({width}) LIMIT 10;"
        )
        return template.format(
            id=self.id, table=self.table, column=self.column, nearest=nearest,
            listed=self.n_listed, operator=self.whole_operator, width=self.n_neurons,
        )  # fmt: skip


def format_vector(values: NDArray[np.float32]) -> str:
    """Return a constant of pgvector; it is read as the same float32 values."""
    return f"'[{','.join(map(str, values))}]'"


def make_scripts(plan: PostgresPlan) -> dict[str, str]:
    """Return file name -> script; those that begin with a number are run in this order.

    Statements are separated by blank lines. Each must be sent alone, outside a transaction.
    """
    steps = ("prepare", "fill", "index") if plan.has_column else ("prepare", "index")
    names = {f"{number}_{step}.sql": step for number, step in enumerate(steps, 1)}
    names |= {"recall.sql": "recall", "undo.sql": "undo"}
    return {name: _render(f"{step}.sql.j2", plan=plan) for name, step in names.items()}


def make_readme(plan: PostgresPlan, steps: list[str], promise: str, difference: str) -> str:
    """Return the guide of the folder.

    Parameters
    ----------
    steps: the scripts that are run, in order.
    promise: what was certified.
    difference: what is stored otherwise, or an empty text.
    """
    return _render("README.md.j2", plan=plan, steps=steps, promise=promise, difference=difference)


def _render(template: str, **values: Any) -> str:
    text = _templates().get_template(template).render(**values)
    return re.sub(r"\n(?:[ \t]*\n)+", "\n\n", text.strip()) + "\n"


def _templates() -> jinja2.Environment:
    """Return the templates; what is put into them is quoted by filters, as SQL needs it."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("criticalmass.shrinking.export", "sql_templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - no page is made of it
    )
    environment.filters |= {
        "text": quote_text,
        "dollar": lambda body: dollar_quote(body.strip("\n")),
        "vector": format_vector,
    }
    return environment
