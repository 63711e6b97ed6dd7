"""Read and check study files; errors name the line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from criticalmass.analysis.estimators import check_delta, check_estimator
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.datasets.loading import check_dataset_spec
from criticalmass.extraction.models.loading import check_model_spec
from criticalmass.measures.registry import MEASURES
from criticalmass.selectors.registry import SELECTORS
from criticalmass.studies.published import check_published
from criticalmass.studies.schema import (
    PAPER_FRACTIONS,
    PROBE,
    PROTOCOLS,
    ModelEntry,
    Study,
    StudyPart,
)
from criticalmass.studies.yaml_nodes import SourceLine, YamlMapping, read_mapping

Parser = Callable[[Any], Any]
TABLES = ("fairness", "agreement", "ensembles", "selectors")


def read_study(path: Path, name: str | None = None) -> Study:
    """Read a study file and check all of it.

    Parameters
    ----------
    path: the file.
    name: name of the study; that of the file, without suffix, by default.

    Raises
    ------
    CriticalMassError: the file is not a study; the message names the file, the line and, for an
        unknown name, a similar one.
    """
    mapping = read_mapping(path, None if name is None else f"study {name!r}")
    mapping.check_keys("a study", {*_STUDY_KEYS, *_PART_KEYS, "parts"})
    if "question" not in mapping.values:
        raise mapping.line.error("a study needs a question; add question: What is asked?")
    study_values = _parse_keys(mapping, _STUDY_KEYS)
    parts = _parse_parts(mapping, _parse_keys(mapping, _PART_KEYS))
    study = Study(name=path.stem if name is None else name, parts=parts, **study_values)
    if not parts and not study.include:
        raise mapping.line.error("a study needs models and datasets, or include")
    return study


def _parse_parts(mapping: YamlMapping, defaults: Mapping[str, Any]) -> tuple[StudyPart, ...]:
    """Return the parts; the keys outside of them are the defaults of each."""
    if "parts" not in mapping.values:
        return tuple(_make_parts(mapping.line, defaults)) if defaults else ()
    items = mapping.values["parts"]
    if not isinstance(items, list) or not all(isinstance(one, YamlMapping) for one in items):
        raise mapping.key_lines["parts"].error("parts must be a list of mappings: - models: ...")
    parts: list[StudyPart] = []
    for item in items:
        item.check_keys("a part of a study", _PART_KEYS)
        parts += _make_parts(item.line, {**defaults, **_parse_keys(item, _PART_KEYS)})
    return tuple(parts)


def _make_parts(line: SourceLine, values: Mapping[str, Any]) -> list[StudyPart]:
    """Return one part for each protocol."""
    for key in ("models", "datasets"):
        if not values.get(key):
            raise line.error(f"no {key}; a part of a study needs at least one of each")
    rest = {key: value for key, value in values.items() if key != "protocol"}
    return [StudyPart(**rest, protocol=name) for name in values.get("protocol", ("exact",))]


def _parse_keys(mapping: YamlMapping, parsers: Mapping[str, Parser]) -> dict[str, Any]:
    """Return the parsed values of the keys that the mapping has."""
    return {
        key: _parse_key(mapping, key, parser)
        for key, parser in parsers.items()
        if key in mapping.values
    }


def _parse_key(mapping: YamlMapping, key: str, parser: Parser) -> Any:
    """Parse the value of one key; an error names the line of the key."""
    try:
        return parser(mapping.values[key])
    except CriticalMassError as error:
        raise mapping.key_lines[key].error(f"{key}: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise CriticalMassError(f"{value!r} must be a text")
    return " ".join(value.split())


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise CriticalMassError(f"{value!r} must be true or false")
    return value


def _list(parser: Parser) -> Parser:
    """Return a parser of one value or a list of distinct values."""

    def parse(value: Any) -> tuple[Any, ...]:
        items = [parser(item) for item in (value if isinstance(value, list) else [value])]
        if not items:
            raise CriticalMassError("the list is empty; give at least one, or leave the key out")
        for index, item in enumerate(items):
            if item in items[:index]:
                raise CriticalMassError(f"{item!r} is listed twice")
        return tuple(items)

    return parse


def _name(kind: str, names: Collection[str]) -> Parser:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise unknown_name(kind, value, names)
        return value

    return parse


def _fractions(value: Any) -> tuple[float, ...]:
    if value == "paper":
        return PAPER_FRACTIONS
    return tuple(_list(_fraction)(value))


def _fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise CriticalMassError(f"{value!r} must be in (0, 1], or the word paper")
    return float(value)


def _seeds(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise CriticalMassError(f"{value!r} must be a whole number of random subsets, 1 to 1,000")
    return value


def _delta(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CriticalMassError(f"{value!r} must be a number in (0, 1]")
    check_delta(float(value))
    return float(value)


def _estimator(value: Any) -> str:
    text = _text(value)
    check_estimator(text)
    return text


def _model(value: Any) -> ModelEntry:
    if isinstance(value, YamlMapping):
        value.check_keys("a model", _MODEL_KEYS)
        if "spec" not in value.values:
            raise value.line.error("a model needs a spec; add spec: timm:resnet50")
        entry = ModelEntry(**_parse_keys(value, _MODEL_KEYS))
    else:
        entry = ModelEntry(_text(value))
    check_model_spec(entry.spec)
    if entry.published is not None:
        check_published(entry.published)
    return entry


def _dataset(value: Any) -> str:
    text = _text(value)
    check_dataset_spec(text)
    return text


_MODEL_KEYS: Mapping[str, Parser] = dict.fromkeys(("spec", "weights", "published"), _text)
_STUDY_KEYS: Mapping[str, Parser] = {
    "question": _text,
    "source": _text,
    "include": _list(_text),
    "tables": _list(_name("table", TABLES)),
    "estimators": _list(_estimator),
    "deltas": _list(_delta),
    "not_here": _text,
}
_PART_KEYS: Mapping[str, Parser] = {
    "models": _list(_model),
    "datasets": _list(_dataset),
    "layers": _list(_text),
    "selectors": _list(_name("selector", SELECTORS)),
    "measures": _list(_name("measure", (PROBE, *MEASURES))),
    "fractions": _fractions,
    "seeds": _seeds,
    "protocol": _list(_name("protocol", PROTOCOLS)),
    "control": _flag,
    "optional": _flag,
}
