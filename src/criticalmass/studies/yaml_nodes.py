"""YAML mappings with line numbers, for error messages that name the line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from criticalmass.errors import CriticalMassError, unknown_name

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 12


@dataclass(frozen=True)
class SourceLine:
    """A line of a file.

    Attributes
    ----------
    file: name of the file, as errors show it.
    line: number of the line, from 1.
    """

    file: str
    line: int

    def error(self, text: object) -> CriticalMassError:
        """Return an error that begins with the file and line."""
        return CriticalMassError(f"{self.file}, line {self.line}: {text}")


@dataclass(frozen=True)
class YamlMapping:
    """A mapping of a file.

    Attributes
    ----------
    line: where the mapping begins.
    values: key -> value.
    key_lines: key -> where the key is.
    """

    line: SourceLine
    values: Mapping[str, Any]
    key_lines: Mapping[str, SourceLine] = field(repr=False)

    def check_keys(self, what: str, keys: Collection[str]) -> None:
        """Raise if a key is unknown.

        Parameters
        ----------
        what: what the mapping describes, for the error.
        keys: the known keys.

        Raises
        ------
        CriticalMassError: a key is not in ``keys``; the message names its line and a similar key.
        """
        for key, line in self.key_lines.items():
            if key not in keys:
                raise line.error(unknown_name(f"key of {what}", key, keys))


def read_mapping(path: Path, name: str | None = None) -> YamlMapping:
    """Read a YAML file whose content is one mapping.

    Nested mappings become `YamlMapping`, scalars what YAML's safe loader makes of them. Aliases
    are rejected: a study does not need them, and with them a small file can expand to a huge one.

    Parameters
    ----------
    path: the file.
    name: name of the file in errors; the path by default.

    Raises
    ------
    CriticalMassError: the file cannot be read, is too large, is not YAML, repeats a key, or is not
        a mapping.
    """
    file = str(path) if name is None else name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CriticalMassError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise CriticalMassError(f"{file} has {len(content):,} bytes; a study has a few thousand")
    try:
        _check_structure(content, file)
        node = yaml.compose(content, Loader=yaml.SafeLoader)
        value = None if node is None else _parse_node(node, file)
    except yaml.YAMLError as error:
        raise _syntax_error(error, file) from error
    except (UnicodeDecodeError, ValueError) as error:
        if isinstance(error, CriticalMassError):
            raise
        raise CriticalMassError(f"{file} is not YAML text ({error})") from error
    if not isinstance(value, YamlMapping):
        raise CriticalMassError(f"{file} is not a study: it must be a mapping of keys to values")
    return value


def _check_structure(content: bytes, file: str) -> None:
    """Reject aliases and deep nesting before the content is parsed into objects."""
    depth = 0
    for event in yaml.parse(content, Loader=yaml.SafeLoader):
        line = SourceLine(file, event.start_mark.line + 1)
        if isinstance(event, yaml.AliasEvent):
            raise line.error("aliases (*name) are not allowed in a study")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise line.error(f"nested more than {_MAX_DEPTH} levels deep; use at most {_MAX_DEPTH}")


def _syntax_error(error: yaml.YAMLError, file: str) -> CriticalMassError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    if mark is None:
        return CriticalMassError(f"{file} is not YAML: {problem}")
    return SourceLine(file, mark.line + 1).error(f"not YAML: {problem}")


def _parse_node(node: yaml.Node, file: str) -> Any:
    line = SourceLine(file, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        return _parse_scalar(node, line)
    if isinstance(node, yaml.SequenceNode):
        return [_parse_node(item, file) for item in node.value]
    values: dict[str, Any] = {}
    key_lines: dict[str, SourceLine] = {}
    for key_node, value_node in node.value:
        key_line = SourceLine(file, key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            raise key_line.error("a key must be a word")
        key = str(key_node.value)
        if key in values:
            raise key_line.error(f"key {key!r} is given twice, first in line {key_lines[key].line}")
        values[key], key_lines[key] = _parse_node(value_node, file), key_line
    return YamlMapping(line, values, key_lines)


def _parse_scalar(node: yaml.ScalarNode, line: SourceLine) -> Any:
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise line.error(f"{node.value!r} cannot be read: {error}") from error
