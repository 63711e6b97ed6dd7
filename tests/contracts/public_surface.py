"""The public surface as text: names, signatures, methods, commands and options.

``make signatures`` writes two files from it: ``signatures.txt`` beside this file, which a test
compares with the code, and ``src/criticalmass/__init__.pyi``, from which type checkers and editors
know the types of the names that ``criticalmass/__init__.py`` loads on first use.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import criticalmass as cm
from criticalmass.cli.main import cli

ROOT = Path(__file__).parents[2]
SIGNATURES = Path(__file__).with_name("signatures.txt")
STUB = ROOT / "src" / "criticalmass" / "__init__.pyi"
#: Where an object prints its place in memory.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def written(annotation: Any) -> str:
    """Write a type as its author did."""
    if isinstance(annotation, str):
        return annotation
    if annotation is None:
        return "None"
    return str(annotation) if typing.get_origin(annotation) else annotation.__name__


def parameters(value: Any) -> list[str]:
    """Write the parameters of a function or class; ``*`` stands before those given by name only."""
    lines = []
    for parameter in inspect.signature(value).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in lines:
            lines.append("*")
        typed = parameter.annotation is not parameter.empty
        line = parameter.name + (f": {written(parameter.annotation)}" if typed else "")
        if parameter.default is not parameter.empty:
            line += f" = {ADDRESS.sub('', repr(parameter.default))}"
        lines.append(line)
    return [line for line in lines if line != "self"]


def returned(value: Any) -> str:
    """Write the type that a function returns."""
    annotation = inspect.signature(value).return_annotation
    return "" if annotation is inspect.Signature.empty else f" -> {written(annotation)}"


def members(value: type) -> Iterator[str]:
    """Write the public methods, properties and fields that a class of this package defines."""
    own = [c for c in value.__mro__ if c.__module__.startswith("criticalmass.")]
    names = {name for c in own for name in (*vars(c), *vars(c).get("__annotations__", {}))}
    for name in sorted(name for name in names if not name.startswith("_")):
        member = inspect.getattr_static(value, name, None)
        if isinstance(member, property):
            yield f"    .{name}{returned(member.fget)}"
        elif isinstance(member, classmethod | staticmethod) or inspect.isfunction(member):
            function = getattr(value, name)
            yield f"    .{name}({', '.join(parameters(function))}){returned(function)}"
        else:
            yield f"    .{name}"


def python_names() -> Iterator[str]:
    """Write every name of ``__all__``."""
    for name in cm.__all__:
        value = getattr(cm, name)
        if inspect.isclass(value):
            yield f"class {name}"
            if not issubclass(value, Exception):
                yield from (f"    {line}" for line in parameters(value))
                yield from members(value)
        elif callable(value):
            yield f"{name}{returned(value)}"
            yield from (f"    {line}" for line in parameters(value))
        else:
            yield name
        yield ""


def commands() -> Iterator[str]:
    """Write every command with the names of its arguments and options."""
    for name, command in sorted(cli.commands.items()):
        yield f"criticalmass {name}"
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                yield f"    {parameter.human_readable_name}"
            else:
                yield f"    {', '.join([*parameter.opts, *parameter.secondary_opts])}"
        yield ""


def signatures_text() -> str:
    """Return the text of ``signatures.txt``."""
    head = "The public surface. Written by `make signatures`; compared with the code by a test.\n"
    return "\n".join([head, *python_names(), *commands()]).rstrip() + "\n"


def stub_text() -> str:
    """Return the text of ``__init__.pyi``."""
    places = {**cm._PUBLIC, **{n: p.rpartition(".")[0] for n, p in cm._PACKAGES.items()}}
    lines = [
        '"""Types of the public names; written by ``make signatures``."""\n',
        *sorted(
            f"from criticalmass.{module} import {name} as {name}" for name, module in places.items()
        ),
        "\n__version__: str\n__all__: list[str]",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    SIGNATURES.write_text(signatures_text(), encoding="utf-8")
    STUB.write_text(stub_text(), encoding="utf-8")
