"""Read study files; errors name the line, the key, the value and the cure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.studies.schema import ModelEntry, Study, StudyPart

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Keys = tuple[int | str, ...]
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 12
_UNKNOWN_KEY = "extra_forbidden"
_LISTED: Mapping[int | str, type[BaseModel]] = {"parts": StudyPart, "models": ModelEntry}
# Type of an error of pydantic -> what the value must be.
_EXPECTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "tuple_type": "a list",
    "model_type": "a mapping of keys to values",
}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # has no types
    """Rejects aliases: with them a small file can expand to a huge one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose the next node."""
        if self.check_event(yaml.AliasEvent):
            raise _yaml_error("aliases (*name) are not allowed", self.peek_event())
        return super().compose_node(parent, index)


@dataclass(frozen=True)
class YamlFile:
    """A YAML file whose content is one mapping.

    Attributes
    ----------
    name: name of the file, as errors show it.
    values: the content: text -> value.
    lines: keys and indices that lead to a value -> line of the key or of the list's item.
    """

    name: str
    values: Mapping[str, Any]
    lines: Mapping[Keys, int] = field(repr=False)

    def locate(self, keys: Keys) -> Keys:
        """Return the keys themselves, or those of the innermost value of the file around them."""
        return keys if keys in self.lines else self.locate(keys[:-1])

    def error(self, keys: Keys, text: object) -> CriticalMassError:
        """Return an error that begins with the file, the line and the keys of a value."""
        keys = self.locate(keys)
        path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
        where = f"{self.name}, line {self.lines[keys]}: {path.lstrip('.')}"
        return CriticalMassError(f"{where}: {text}" if keys else f"{where}{text}")


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
    file = read_yaml(path, str(path) if name is None else f"study {name!r}")
    if "name" in file.values:
        raise _unknown_key(file, ("name",), Study)
    try:
        study = Study(**{**file.values, "name": path.stem if name is None else name})
    except ValidationError as error:
        raise _explain(file, error.errors()) from error
    return study.model_copy(update={"parts": _complete_parts(file, study)})


def _complete_parts(file: YamlFile, study: Study) -> tuple[StudyPart, ...]:
    """Return the parts with the keys outside of them, which are the defaults of each."""
    keys = StudyPart.model_fields.keys() & study.model_fields_set
    outside = {key: getattr(study, key) for key in keys}
    if not (outside or study.parts or study.include):
        raise file.error((), "a study needs models and datasets, or include")
    parts = []
    for index, part in enumerate(study.parts or [StudyPart()] * bool(outside)):
        update = {key: outside[key] for key in keys - part.model_fields_set}
        parts.append(part.model_copy(update=update))
        for key in ("models", "datasets"):
            if not getattr(parts[-1], key):
                text = f"no {key}; a part of a study needs at least one of each"
                raise file.error(("parts", index), text)
    return tuple(parts)


def _explain(file: YamlFile, errors: Sequence[ErrorDetails]) -> CriticalMassError:
    """Return the first of pydantic's errors, unknown keys before others, as one line."""
    details = min(
        errors, key=lambda one: (one["type"] != _UNKNOWN_KEY, file.lines[file.locate(one["loc"])])
    )
    kind, keys = details["type"], details["loc"]
    model = next((_LISTED[key] for key in reversed(keys[:-1]) if key in _LISTED), Study)
    if kind == _UNKNOWN_KEY:
        return _unknown_key(file, keys, model)
    if kind == "missing":
        text = f"{model.model_config['title']} needs the key {keys[-1]}; add {keys[-1]}: ..."
        return file.error(keys, text)
    if kind == "value_error":
        return file.error(keys, details["ctx"]["error"])
    expected = _EXPECTED.get(kind, details["msg"].removeprefix("Input should be "))
    return file.error(keys, f"{details['input']!r} must be {expected}")


def _unknown_key(file: YamlFile, keys: Keys, model: type[BaseModel]) -> CriticalMassError:
    known = model.model_fields.keys() - {"name"}
    error = unknown_name(f"key of {model.model_config['title']}", keys[-1], known)
    return CriticalMassError(f"{file.name}, line {file.lines[file.locate(keys)]}: {error}")


def read_yaml(path: Path, name: str) -> YamlFile:
    """Read a YAML file whose content is one mapping; scalars are those of YAML's safe loader.

    Parameters
    ----------
    path: the file.
    name: name of the file in errors.

    Raises
    ------
    CriticalMassError: the file cannot be read, is too large or too deep, is not YAML, has an
        alias, repeats a key, or is not a mapping.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CriticalMassError(f"{name} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise CriticalMassError(f"{name} has {len(content):,} bytes; a study has a few thousand")
    lines: dict[Keys, int] = {}
    try:
        node = yaml.compose(content, Loader=_Loader)
        values = None if node is None else _read_node(node, (), lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise CriticalMassError(f"{name}, line {line}: cannot be read: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise CriticalMassError(f"{name} is not the YAML of a study: {text}") from error
    if not isinstance(values, dict):
        raise CriticalMassError(f"{name} is not a study: it must be a mapping of keys to values")
    return YamlFile(name, values, lines)


def _read_node(node: yaml.Node, keys: Keys, lines: dict[Keys, int]) -> Any:
    """Return the value of a node, and add its line and those of the values in it to ``lines``."""
    lines.setdefault(keys, node.start_mark.line + 1)
    if len(keys) > _MAX_DEPTH:
        raise _yaml_error(f"nested more than {_MAX_DEPTH} levels deep", node)
    if isinstance(node, yaml.SequenceNode):
        return [_read_node(item, (*keys, index), lines) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        try:
            return yaml.SafeLoader("").construct_object(node)
        except ValueError as error:
            raise _yaml_error(f"{node.value!r}: {error}", node) from error
    values = {}
    for key_node, value_node in node.value:
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode):
            raise _yaml_error("a key must be a word", key_node)
        if key in values:
            first = lines[(*keys, key)]
            raise _yaml_error(f"key {key!r} is given twice, first in line {first}", key_node)
        lines[(*keys, key)] = key_node.start_mark.line + 1
        values[key] = _read_node(value_node, (*keys, key), lines)
    return values


def _yaml_error(problem: str, place: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)
