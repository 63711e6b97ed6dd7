"""Types of options and arguments whose values are names from a registry of the library.

The names are imported when a value is parsed or help is shown, so that the command line starts
quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from criticalmass.errors import unknown_name


class NameChoice(click.Choice):  # type: ignore[type-arg]  # generic since click 8.4
    """A choice among names; an unknown name gets a did-you-mean.

    Parameters
    ----------
    kind: what the names stand for, as in the error text, e.g. "selector".
    load: returns the names.
    with_suffix: accept a name followed by a colon and more text, e.g. "cuda:1".
    """

    def __init__(
        self, kind: str, load: Callable[[], Iterable[str]], *, with_suffix: bool = False
    ) -> None:
        self.case_sensitive = True
        self._kind = kind
        self._load = load
        self._with_suffix = with_suffix

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]  # loaded on use
        """Return the names."""
        return tuple(self._load())

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
    """A number, or "auto" (also with a parameter, "auto:0.01")."""

    def __init__(self, number: type[int] | type[float]) -> None:
        self._number = click.INT if number is int else click.FLOAT
        self.name = self._number.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert a number; return "auto" and "auto:..." unchanged."""
        if isinstance(value, str) and value.partition(":")[0] == "auto":
            return value
        return self._number.convert(value, param, ctx)


def _table_formats() -> Iterable[str]:
    from criticalmass.reporting.tables import FORMATS

    return FORMATS


def _export_formats() -> Iterable[str]:
    from criticalmass.shrinking.export.export import FORMATS

    return FORMATS


def _figures() -> Iterable[str]:
    from criticalmass.reporting.figures.figure import FIGURES

    return FIGURES


def _estimators() -> Iterable[str]:
    from criticalmass.analysis.estimators import ESTIMATORS

    return ESTIMATORS


def _comparable_columns() -> Iterable[str]:
    from criticalmass.analysis.comparison import COMPARABLE

    return COMPARABLE


def _selectors() -> Iterable[str]:
    from criticalmass.selectors.registry import SELECTORS

    return SELECTORS


def _measures() -> Iterable[str]:
    from criticalmass.measures.registry import MEASURES

    return MEASURES


def _probes() -> Iterable[str]:
    from criticalmass.measures.registry import PROBES

    return PROBES


def _reruns() -> Iterable[str]:
    from criticalmass.sweeps.sweep import RERUNS

    return RERUNS


def _backends() -> Iterable[str]:
    from criticalmass.sweeps.backends import SWEEP_BACKENDS

    return SWEEP_BACKENDS


def _extraction_backends() -> Iterable[str]:
    from criticalmass.core.backends import BACKENDS

    return BACKENDS


def _devices() -> Iterable[str]:
    from criticalmass.extraction.models.loading import DEVICES

    return DEVICES


def _dtypes() -> Iterable[str]:
    from criticalmass.extraction.extract import DTYPES

    return DTYPES


def _engines() -> Iterable[str]:
    from criticalmass.extraction.engines.registry import ENGINES

    return ENGINES


def _precisions() -> Iterable[str]:
    from criticalmass.extraction.engines.base import PRECISIONS

    return PRECISIONS


def _pools() -> Iterable[str]:
    from criticalmass.extraction.models.pooling import POOLS

    return POOLS


def _protocols() -> Iterable[str]:
    from criticalmass.studies.schema import PROTOCOLS

    return PROTOCOLS


def _stored_precisions() -> Iterable[str]:
    from criticalmass.shrinking.codec import BITS

    return BITS


def _relevances() -> Iterable[str]:
    from criticalmass.shrinking.retrieval_evaluator import RELEVANCES

    return RELEVANCES


def _lists() -> Iterable[str]:
    from criticalmass.cli.catalogue import LISTS

    return LISTS


TABLE_FORMAT = NameChoice("format", _table_formats)
EXPORT_FORMAT = NameChoice("export format", _export_formats)
FIGURE = NameChoice("figure", _figures)
ESTIMATOR = NameChoice("estimator", _estimators)
COMPARABLE_COLUMN = NameChoice("column to compare by", _comparable_columns)
SELECTOR = NameChoice("selector", _selectors)
MEASURE = NameChoice("measure", _measures)
PROBE = NameChoice("probe", _probes)
RERUN = NameChoice("rerun", _reruns)
BACKEND = NameChoice("backend", _backends, with_suffix=True)
EXTRACTION_BACKEND = NameChoice("backend", _extraction_backends, with_suffix=True)
DEVICE = NameChoice("device", _devices, with_suffix=True)
DTYPE = NameChoice("dtype", _dtypes)
ENGINE = NameChoice("engine", _engines)
PRECISION = NameChoice("precision", _precisions)
POOL = NameChoice("pooling", _pools)
PROTOCOL = NameChoice("protocol", _protocols)
STORED_PRECISION = NameChoice("precision", _stored_precisions)
RELEVANCE = NameChoice("relevance", _relevances)
LIST = NameChoice("list", _lists)
