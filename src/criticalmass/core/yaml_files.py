"""Read YAML files and check them; errors name the file, the line, the key and the cure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from criticalmass.errors import CriticalMassError, unknown_name

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

Keys = tuple[int | str, ...]
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 12
_UNKNOWN_KEY = "extra_forbidden"
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
    """A YAML file whose content is one mapping, or such a mapping from elsewhere.

    Attributes
    ----------
    name: name of the file, as errors show it.
    values: the content: text -> value.
    lines: keys and indices that lead to a value -> line of the key or of the list's item; None
        for a mapping from elsewhere.
    """

    name: str
    values: Mapping[str, Any]
    lines: Mapping[Keys, int] | None = field(default=None, repr=False)

    def locate(self, keys: Keys) -> Keys:
        """Return the keys themselves, or those of the innermost value of the file around them."""
        return keys if self.lines is None or keys in self.lines else self.locate(keys[:-1])

    def line(self, keys: Keys) -> int:
        """Return the line of a value, or of the innermost value of the file around it."""
        return 0 if self.lines is None else self.lines[self.locate(keys)]

    def place(self, keys: Keys) -> str:
        """Return the name of the file and the line of a value."""
        return self.name if self.lines is None else f"{self.name}, line {self.line(keys)}"

    def error(self, keys: Keys, text: object) -> CriticalMassError:
        """Return an error that begins with the file, the line and the keys of a value."""
        keys = self.locate(keys)
        path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
        where = f"{self.place(keys)}: {path.lstrip('.')}"
        return CriticalMassError(f"{where}: {text}" if keys else f"{where}{text}")


@dataclass(frozen=True)
class FileModels:
    """The types that check a file.

    Attributes
    ----------
    root: the type of the whole content.
    inner: key -> the type of its value, or of the items of its list.
    hidden: fields that are no keys of the file.
    """

    root: type[BaseModel]
    inner: Mapping[int | str, type[BaseModel]]
    hidden: tuple[str, ...] = ("name",)

    def explain(self, file: YamlFile, errors: Sequence[ErrorDetails]) -> CriticalMassError:
        """Return the first of pydantic's errors, unknown keys before others, as one line."""
        details = min(
            errors,
            key=lambda one: (one["type"] != _UNKNOWN_KEY, file.line(one["loc"])),
        )
        kind, keys = details["type"], details["loc"]
        model = self._model_at(keys)
        if kind == _UNKNOWN_KEY:
            return self.unknown_key(file, keys)
        if kind == "missing":
            text = f"{model.model_config['title']} needs the key {keys[-1]}; add {keys[-1]}: ..."
            return file.error(keys, text)
        if kind == "value_error":
            return file.error(keys, details["ctx"]["error"])
        expected = _EXPECTED.get(kind, details["msg"].removeprefix("Input should be "))
        return file.error(keys, f"{details['input']!r} must be {expected}")

    def unknown_key(self, file: YamlFile, keys: Keys) -> CriticalMassError:
        """Return the error of a key that does not exist, with a did-you-mean."""
        model = self._model_at(keys)
        known = model.model_fields.keys() - set(self.hidden)
        error = unknown_name(f"key of {model.model_config['title']}", keys[-1], known)
        return CriticalMassError(f"{file.place(keys)}: {error}")

    def _model_at(self, keys: Keys) -> type[BaseModel]:
        inner = (self.inner[key] for key in reversed(keys[:-1]) if key in self.inner)
        return next(inner, self.root)


def library_names(package: str) -> tuple[str, ...]:
    """Return the names of the YAML files in the folder ``library`` of one of our packages."""
    names = (entry.name for entry in files(package).joinpath("library").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def library_texts(package: str) -> dict[str, dict[str, str]]:
    """Return the texts at the top of each file of a library, each in one line, without a check.

    A list of names needs no more, and checking all files takes longer than the rest of it.

    Returns
    -------
    Name of the file -> key -> text.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    texts = {}
    for name in library_names(package):
        content = files(package).joinpath(f"library/{name}.yaml").read_bytes()
        values = yaml.load(content, Loader=loader)  # noqa: S506  # both loaders are safe
        texts[name] = {
            key: " ".join(value.split()) for key, value in values.items() if isinstance(value, str)
        }
    return texts


def read_yaml(path: Path, name: str, kind: str) -> YamlFile:
    """Read a YAML file whose content is one mapping; scalars are those of YAML's safe loader.

    Parameters
    ----------
    path: the file.
    name: name of the file in errors.
    kind: what the file is, e.g. ``"study"``.

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
        raise CriticalMassError(f"{name} has {len(content):,} bytes; a {kind} has a few thousand")
    lines: dict[Keys, int] = {}
    try:
        node = yaml.compose(content, Loader=_Loader)
        values = None if node is None else _read_node(node, (), lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise CriticalMassError(f"{name}, line {line}: cannot be read: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise CriticalMassError(f"{name} is not the YAML of a {kind}: {text}") from error
    if not isinstance(values, dict):
        raise CriticalMassError(f"{name} is not a {kind}: it must be a mapping of keys to values")
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
