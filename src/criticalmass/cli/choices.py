"""Types of options and arguments whose values are names from a registry of the library.

The names are imported when a value is parsed or help is shown, so that the command line starts
quickly.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from criticalmass.errors import unknown_name


def load_name(path: str) -> Any:
    """Import "module:name", the module relative to the package."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"criticalmass.{module}"), name)


class NameChoice(click.Choice):  # type: ignore[type-arg]  # generic since click 8.4
    """A choice among names; an unknown name gets a did-you-mean.

    Parameters
    ----------
    kind: what the names stand for, as in the error text, e.g. "selector".
    names: "module:name" of the collection of names, as `load_name` takes it.
    with_suffix: accept a name followed by a colon and more text, e.g. "cuda:1".
    """

    def __init__(self, kind: str, names: str, *, with_suffix: bool = False) -> None:
        self.case_sensitive = True
        self._kind = kind
        self._names = names
        self._with_suffix = with_suffix

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]  # loaded on use
        """Return the names."""
        return tuple(load_name(self._names))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name unchanged.

        Raises
        ------
        CriticalMassError: if the name is unknown.
        """
        text = str(value)
        name = text.partition(":")[0] if self._with_suffix else text
        choices = self.choices
        if name not in choices:
            raise unknown_name(self._kind, text, choices)
        return text


class NumberOrAuto(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A number, or "auto" (also with a parameter, "auto:0.01"), or another word."""

    def __init__(self, number: type[int] | type[float], *words: str) -> None:
        self._number = click.INT if number is int else click.FLOAT
        self._words = ("auto", *words)
        self.name = self._number.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert a number; return a word, "auto" or "auto:...", unchanged."""
        if isinstance(value, str) and value.partition(":")[0] in self._words:
            return value
        return self._number.convert(value, param, ctx)


TABLE_FORMAT = NameChoice("format", "reporting.tables:FORMATS")
EXPORT_FORMAT = NameChoice("export format", "shrinking.export.export:FORMATS")
SQL_METRIC = NameChoice("metric", "shrinking.export.sql_postgres:METRICS")
FIGURE = NameChoice("figure", "reporting.figures.figure:FIGURES")
ESTIMATOR = NameChoice("estimator", "analysis.estimators:ESTIMATORS")
COMPARABLE_COLUMN = NameChoice("column to compare by", "analysis.comparison:COMPARABLE")
SELECTOR = NameChoice("selector", "selectors.registry:SELECTORS")
MEASURE = NameChoice("measure", "measures.registry:MEASURES")
PROBE = NameChoice("probe", "measures.registry:PROBES")
RERUN = NameChoice("rerun", "sweeps.sweep:RERUNS")
BACKEND = NameChoice("backend", "sweeps.backends:SWEEP_BACKENDS", with_suffix=True)
EXTRACTION_BACKEND = NameChoice("backend", "core.backends:BACKENDS", with_suffix=True)
DEVICE = NameChoice("device", "extraction.models.loading:DEVICES", with_suffix=True)
DTYPE = NameChoice("dtype", "extraction.extract:DTYPES")
ENGINE = NameChoice("engine", "extraction.engines.registry:ENGINES")
PRECISION = NameChoice("precision", "extraction.engines.base:PRECISIONS")
POOL = NameChoice("pooling", "extraction.models.pooling:POOLS")
PROTOCOL = NameChoice("protocol", "studies.schema:PROTOCOLS")
INDEX_TYPE = NameChoice("index type", "shrinking.export.faiss_build:INDEX_TYPES")
STORED_PRECISION = NameChoice("precision", "shrinking.codec:BITS")
RELEVANCE = NameChoice("relevance", "shrinking.retrieval_evaluator:RELEVANCES")
NORM = NameChoice("norm", "extraction.balls:BALLS")
OBJECTIVE = NameChoice("objective", "probing.objectives:OBJECTIVES")
START = NameChoice("start", "probing.request:STARTS")
LIST = NameChoice("list", "cli.catalogue:LISTS")
