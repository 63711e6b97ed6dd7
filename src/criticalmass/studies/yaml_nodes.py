"""YAML with line numbers: values know where they stand, so that an error can say it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from criticalmass.errors import CriticalMassError, unknown_name

_MOST_BYTES = 1 << 20
_DEEPEST = 12


@dataclass(frozen=True)
class Place:
    """Where in a file something stands."""

    file: str
    line: int

    def error(self, text: object) -> CriticalMassError:
        """Word an error that begins with this place."""
        return CriticalMassError(f"{self.file}, line {self.line}: {text}")


@dataclass(frozen=True)
class Block:
    """A mapping of a file: its values, and where each key stands."""

    place: Place
    values: Mapping[str, Any]
    places: Mapping[str, Place] = field(repr=False)

    def known_only(self, what: str, keys: Collection[str]) -> None:
        """Refuse keys that mean nothing.

        Raises
        ------
        CriticalMassError: one that is not in ``keys``; it names the line and the likely key.
        """
        for key, place in self.places.items():
            if key not in keys:
                raise place.error(unknown_name(f"key of {what}", key, keys))


def read_block(path: Path, name: str | None = None) -> Block:
    """Read a YAML file whose content is one mapping.

    Nested mappings become `Block`, scalars what YAML's safe rules make of them. Aliases are
    refused: a study does not need them, and with them a small file can be a huge one.

    Parameters
    ----------
    path: the file.
    name: what errors call it; the path if None.

    Raises
    ------
    CriticalMassError: no such file, not YAML, a key given twice, or another content.
    """
    called = str(path) if name is None else name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CriticalMassError(f"{called} cannot be read: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise CriticalMassError(f"{called} has {len(content):,} bytes; a study has a few thousand")
    try:
        _refuse_tricks(content, called)
        node = yaml.compose(content, Loader=yaml.SafeLoader)
        value = None if node is None else _value(node, called)
    except yaml.YAMLError as error:
        raise _syntax(error, called) from error
    except (UnicodeDecodeError, ValueError) as error:
        if isinstance(error, CriticalMassError):
            raise
        raise CriticalMassError(f"{called} is no YAML text ({error})") from error
    if not isinstance(value, Block):
        raise CriticalMassError(f"{called} holds no study: it must be a mapping of keys to values")
    return value


def _refuse_tricks(content: bytes, called: str) -> None:
    """Refuse what a study has no use for, before anything is built of it."""
    depth = 0
    for event in yaml.parse(content, Loader=yaml.SafeLoader):
        place = Place(called, event.start_mark.line + 1)
        if isinstance(event, yaml.AliasEvent):
            raise place.error("aliases (*name) are not allowed in a study")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise place.error(f"nested more than {_DEEPEST} deep; a study is flat")


def _syntax(error: yaml.YAMLError, called: str) -> CriticalMassError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    if mark is None:
        return CriticalMassError(f"{called} is no YAML: {problem}")
    return Place(called, mark.line + 1).error(f"not YAML: {problem}")


def _value(node: yaml.Node, called: str) -> Any:
    place = Place(called, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, place)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, called) for item in node.value]
    values: dict[str, Any] = {}
    places: dict[str, Place] = {}
    for key_node, value_node in node.value:
        where = Place(called, key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            raise where.error("a key must be a word")
        key = str(key_node.value)
        if key in values:
            raise where.error(f"key {key!r} is given twice, first in line {places[key].line}")
        values[key], places[key] = _value(value_node, called), where
    return Block(place, values, places)


def _scalar(node: yaml.ScalarNode, place: Place) -> Any:
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise place.error(f"{node.value!r} cannot be read: {error}") from error
